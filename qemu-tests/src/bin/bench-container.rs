//! `cargo bench-container`: init as one command's container init beside tini and dumb-init, in the same containers, in
//! one run. Prints a table and writes it into docs/benchmarks.md. Nothing is asserted: it exits with 0 when it ran.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::measure::{self, Memory};
use qemu_tests::oci::{self, Container, PROBE, Running, Spec, Stream, probe};
use qemu_tests::report::{self, Table, ratio, time};

/// Starts and signals measured in one turn.
const COUNT: usize = 200;
/// How often each init has its turn.
const ROUNDS: u32 = 5;
/// How long rest is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// An init: its name, where it is in the container, its arguments as PID 1, and those as any other process.
const INITS: &[(&str, &str, &[&str], &[&str])] = &[
    ("Holdfast", "/sbin/init", &["--"], &["-s", "--"]),
    ("tini", "/run/tini", &["--"], &["-s", "--"]),
    ("dumb-init", "/run/dumb-init", &["--"], &["--"]),
];

/// What was measured of one.
struct Figures {
    start: Duration,
    latency: Duration,
    memory: Memory,
    switches: u64,
    size: u64,
}

fn main() -> ExitCode {
    if let Some(code) = probe::called() {
        return code;
    }
    match Context::new(false).and_then(|c| run(&c)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-container: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(context: &Context) -> Result {
    // On one processor: where the scheduler puts two processes that wake each other decides more than they do.
    let mut one = CpuSet::new();
    one.set(0)?;
    let root = oci::root(context)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let peers = oci::peers(context)?;
    let (tini, dumb) = (peers.join("tini"), peers.join("dumb-init"));
    let binds = [(tini.as_path(), "/run/tini"), (dumb.as_path(), "/run/dumb-init")];
    let mut all = Vec::new();
    for (name, program, first, _) in INITS {
        let file = match *program {
            "/run/tini" => tini.clone(),
            "/run/dumb-init" => dumb.clone(),
            inside => root.join(inside.trim_start_matches('/')),
        };
        let (memory, switches) = resident(&root, &binds, &[&[*program], *first].concat())?;
        let size = std::fs::metadata(file)?.len();
        all.push((*name, Figures { start: Duration::ZERO, latency: Duration::ZERO, memory, switches, size }));
    }
    // In turns, so that what else runs on the machine is shared fairly.
    let mut rounds = vec![(Vec::new(), Vec::new()); INITS.len()];
    let mut plain = Vec::new();
    for _ in 0..ROUNDS {
        plain.push(start(&root, &binds, &["true"])?);
        for ((_, program, first, other), (starts, signals)) in INITS.iter().zip(&mut rounds) {
            starts.push(start(&root, &binds, &[&[*program], *other, &["true"]].concat())?);
            signals.extend(latencies(&root, &binds, &[&[*program], *first].concat())?);
        }
    }
    for ((_, figures), (starts, signals)) in all.iter_mut().zip(&mut rounds) {
        (figures.start, figures.latency) = (measure::median(starts), measure::median(signals));
    }
    let plain = measure::median(&mut plain);
    let header = [
        "",
        "start and end of `true`",
        "to tini",
        "one signal there and back",
        "to tini",
        "RSS, KiB",
        "PSS, KiB",
        "own, KiB",
        "context switches in 5 s",
        "program, bytes",
    ];
    let mut table = Table::new("One command as a container's init", &header);
    let tini = all.iter().find(|(name, _)| *name == "tini").map(|(_, f)| (f.start, f.latency));
    let (tini_start, tini_latency) = tini.unwrap_or_default();
    let to = |a: Duration, b: Duration| ratio(a.as_secs_f64(), b.as_secs_f64());
    table.row(&["no init", &time(plain), &to(plain, tini_start), "", "", "", "", "", "", ""]);
    for (name, f) in &all {
        table.row(&[
            name,
            &time(f.start),
            &to(f.start, tini_start),
            &time(f.latency),
            &to(f.latency, tini_latency),
            &f.memory.rss.to_string(),
            &f.memory.pss.to_string(),
            &f.memory.anonymous.to_string(),
            &f.switches.to_string(),
            &f.size.to_string(),
        ]);
    }
    let out = table.render();
    println!("{}\n\n{out}", report::machine());
    let all = COUNT * usize::try_from(ROUNDS)?;
    let text = format!(
        "{}\nUnder runc, on one processor, medians of {all} starts and signals, in {ROUNDS} turns; Debian's\n\
         packages of tini and dumb-init, which are linked dynamically; written by `cargo bench-container`.\n\n{out}",
        report::machine()
    );
    report::write_section(&context.workspace().join("docs/benchmarks.md"), "bench-container", &text)
}

/// The median time from the start of a command to its end, in a container.
fn start(root: &Path, binds: &[(&Path, &str)], words: &[&str]) -> Result<Duration> {
    let count = COUNT.to_string();
    let words = [&[PROBE, "--probe", "time", &count], words].concat();
    let said = Container::new(root, &Spec { arguments: &words, binds, read_only: true, ..Spec::default() })?
        .run()?;
    if said.code != 0 {
        return Err(format!("{words:?} ended with {}: {}", said.code, said.err).into());
    }
    Ok(Duration::from_nanos(said.out.trim().parse()?))
}

/// A container with PID 1 over the probe, up and with its first process's pid.
fn probed(root: &Path, binds: &[(&Path, &str)], words: &[&str]) -> Result<(Container, Running, i32)> {
    let words = [words, &[PROBE, "--probe", "signals"]].concat();
    let spec = Spec { arguments: &words, binds, read_only: true, ..Spec::default() };
    let container = Container::new(root, &spec)?;
    let mut running = container.start()?;
    running.until(Stream::Output, "up")?;
    let pid = container.pid()?;
    Ok((container, running, pid))
}

/// Ends a container: not every init forwards the real-time signal that ends the probe.
fn end(container: &Container, running: Running) -> Result {
    container.kill("KILL")?;
    running.ended().map(drop)
}

/// Memory of PID 1, and whether it sleeps.
fn resident(root: &Path, binds: &[(&Path, &str)], words: &[&str]) -> Result<(Memory, u64)> {
    let (container, running, pid) = probed(root, binds, words)?;
    let switches = measure::at_rest(&[pid], WATCHED)?.first().copied().unwrap_or_default();
    let memory = Memory::of(pid)?;
    end(&container, running)?;
    Ok((memory, switches))
}

/// How long signals take to PID 1, through it to the command, and an answer back.
fn latencies(root: &Path, binds: &[(&Path, &str)], words: &[&str]) -> Result<Vec<Duration>> {
    let (container, mut running, pid) = probed(root, binds, words)?;
    let wanted = libc::SIGUSR1.to_string();
    let mut times = Vec::new();
    for _ in 0..COUNT {
        let started = Instant::now();
        init::sys::raw::kill(pid, libc::SIGUSR1)?;
        // runc hands on the signals of its own runtime too.
        while running.line(Stream::Output)? != wanted {}
        times.push(started.elapsed());
    }
    end(&container, running)?;
    Ok(times)
}
