//! `cargo bench-rest`: what Holdfast costs when nothing happens, and when little does: context switches, system calls
//! and memory at rest with 10,000 managed files; applying them; repairing one. Prints tables and writes them into
//! docs/benchmarks.md. Nothing is asserted: it exits with 0 when it ran.

mod bare;
mod repair;
mod rest;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::instance::{Applied, apply};
use qemu_tests::report::{self, Table, ratio, time};
use qemu_tests::rig::{MANAGED, Rig, Setup};

/// Managed files.
const FILES: u32 = 10_000;
/// Managed services.
const SERVICES: u32 = 20;
/// How long rest is watched.
const WATCHED: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let done = Context::new(false).and_then(|c| run(&c));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-rest: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A managed file's path. A hundred to a directory; those of the first directory are repaired without a quiet time.
pub(crate) fn path(n: u32) -> String {
    format!("{MANAGED}/managed/{}/{n}", n / 100)
}

/// A managed file's content: a configuration file's size, different in each.
pub(crate) fn content(n: u32) -> String {
    format!("# file {n}\n{}", "a setting = some value of it\n".repeat(8))
}

fn state(files: u32) -> Result<String> {
    let mut out = String::new();
    for n in 0..SERVICES {
        write!(out, "[service.s{n}]\nexec = [\"sh\", \"-c\", \"echo up; exec sleep infinity\"]\n")?;
    }
    for n in 0..files {
        let settle = if n < 100 { "settle = \"0\"\n" } else { "" };
        write!(out, "[file.\"{}\"]\n{settle}content = {:?}\n", path(n), content(n))?;
    }
    Ok(out)
}

fn started(context: &Context) -> Result<Rig> {
    let rig = Rig::start(context, &Setup { measured: true, ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
    Ok(rig)
}

fn run(context: &Context) -> Result {
    initramfs::tool::ensure(rest::TOOLS)?;
    context.programs()?;
    println!("{}\n", report::machine());

    let empty = started(context)?;
    // The instance lies in memory, below /dev, where no state file may.
    let place = tempfile::tempdir()?;
    let written = |files| -> Result<String> {
        let path = place.path().join(format!("{files}.toml"));
        std::fs::write(&path, state(files)?)?;
        Ok(path.to_string_lossy().into_owned())
    };
    empty.ok(&["apply", &written(0)?])?;
    let without = rest::Figures::of(&empty)?;
    drop(empty);

    let rig = started(context)?;
    let file = written(FILES)?;
    let first = apply(context, &rig, &file)?;
    let mut same = Vec::new();
    for _ in 0..5 {
        same.push(apply(context, &rig, &file)?);
    }
    let bare = bare::Loops::run(&rig.inside(MANAGED)?.join("bare"), FILES)?;
    let mut out = applied(&first, &mut same, &bare);

    let with = rest::Figures::of(&rig)?;
    out.push_str(&rest::at_rest(&rig)?);
    out.push_str(&rest::memory(&without, &with, FILES));
    out.push_str(&rest::programs(context)?);
    out.push_str(&repair::run(&rig)?);

    println!("{out}");
    let text = format!(
        "{}\n{FILES} managed files of {} bytes in a tmpfs and {SERVICES} services, in the namespace rig; written by\n\
         `cargo bench-rest`.\n\n{out}",
        report::machine(),
        content(0).len()
    );
    report::write_section(&context.workspace().join("docs/benchmarks.md"), "bench-rest", &text)
}

fn applied(first: &Applied, same: &mut [Applied], bare: &bare::Loops) -> String {
    let files = f64::from(FILES);
    let mut table =
        Table::new("Applying", &["what", "processor time", "a file", "to the bare loop", "elapsed"]);
    let mut row = |what: &str, processor: Duration, against: Duration, wall: Duration| {
        table.row(&[
            what,
            &time(processor),
            &time(processor.div_f64(files)),
            &ratio(processor.as_secs_f64(), against.as_secs_f64()),
            &time(wall),
        ]);
    };
    row("bare loop: write and rename", bare.write.processor, bare.write.processor, bare.write.wall);
    row("first apply of all files", first.processor, bare.write.processor, first.wall);
    row("bare loop: open, read, compare", bare.read.processor, bare.read.processor, bare.read.wall);
    same.sort_by_key(|a| a.wall);
    if let Some(middle) = same.get(same.len() / 2) {
        row(
            "`initctl apply` of the same state, median of 5",
            middle.processor,
            bare.read.processor,
            middle.wall,
        );
    }
    format!("{}\n", table.render())
}
