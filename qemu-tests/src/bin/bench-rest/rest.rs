//! At rest: context switches, system calls, memory.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use initramfs::tool::{self, Tool};
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::instance;
use qemu_tests::measure::{self, Memory};
use qemu_tests::report::Table;
use qemu_tests::rig::{MANAGED, Rig};

use crate::WATCHED;

/// What tracing needs.
pub(crate) const TOOLS: &[Tool] = &[Tool { program: "strace", package: "strace" }];

/// What PID 1 holds.
pub(crate) struct Figures {
    init: Memory,
    log: Memory,
    /// Files in memory by name, in bytes.
    files: Vec<(String, u64)>,
}

impl Figures {
    pub(crate) fn of(rig: &Rig) -> Result<Figures> {
        let processes = instance::rest(rig)?;
        let memory = |at: usize| processes.get(at).map_or(Ok(Memory::default()), |p| Memory::of(p.pid));
        Ok(Figures { init: memory(0)?, log: memory(1)?, files: memfds(rig.pid()?)? })
    }

    fn file(&self, name: &str) -> u64 {
        self.files.iter().filter(|(n, _)| n == name).map(|(_, size)| size).sum()
    }
}

/// Files in memory that a process holds: name and bytes of memory.
fn memfds(pid: i32) -> Result<Vec<(String, u64)>> {
    let mut out = Vec::new();
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = target.strip_prefix("/memfd:") else { continue };
        let about = std::fs::metadata(entry.path())?;
        if !seen.contains(&about.ino()) {
            seen.push(about.ino());
            out.push((name.trim_end_matches(" (deleted)").to_owned(), about.blocks() * 512));
        }
    }
    out.sort();
    Ok(out)
}

pub(crate) fn at_rest(rig: &Rig) -> Result<String> {
    let processes = instance::rest(rig)?;
    let pids: Vec<i32> = processes.iter().map(|p| p.pid).collect();
    eprintln!("watching {} processes for {} s, twice", pids.len(), WATCHED.as_secs());
    let switches = measure::at_rest(&pids, WATCHED)?;
    let seconds = WATCHED.as_secs();
    let mut table = Table::new(
        &format!("At rest, in {seconds} s"),
        &["process", "context switches", "system calls", "of these on managed paths"],
    );
    for (process, switches) in processes.iter().zip(switches) {
        let traced = trace(rig, process.pid, WATCHED)?;
        let managed = traced.iter().filter(|l| l.contains(&format!("{MANAGED}/"))).count();
        let what = if process.pid == rig.pid()? { "PID 1" } else { &process.name };
        table.row(&[what, &switches.to_string(), &traced.len().to_string(), &managed.to_string()]);
    }
    let now = instance::processes(rig)?;
    let others = now.iter().filter(|p| !processes.contains(p)).count();
    table.row(&["any other of Holdfast's", if others == 0 { "none there" } else { "there" }, "", ""]);
    Ok(format!("{}\n", table.render()))
}

/// System calls that begin while a process is watched, a line each.
fn trace(rig: &Rig, pid: i32, long: Duration) -> Result<Vec<String>> {
    let file = rig.directory().join("trace");
    let mut command = tool::command("strace");
    command
        .args(["--follow-forks", "--quiet=all", "--decode-fds=path", "-p", &pid.to_string(), "-o"])
        .arg(&file);
    let mut strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    measure::pause(long)?;
    let mut stop = Command::new("kill");
    tool::run("end the trace", stop.args(["-INT", &strace.id().to_string()]))?;
    strace.wait()?;
    let text = std::fs::read_to_string(&file)?;
    if !text.contains("<detached") {
        return Err(format!("strace did not get hold of process {pid}: {text}").into());
    }
    // The call that the process sleeps in began before; strace shows it when it comes and when it leaves.
    Ok(text
        .lines()
        .filter(|l| !l.contains("<detached") && !l.contains("restart_syscall"))
        .map(str::to_owned)
        .collect())
}

pub(crate) fn memory(without: &Figures, with: &Figures, files: u32) -> String {
    let title = format!("Memory, in KiB: with 0 and with {files} managed files");
    let mut table = Table::new(&title, &["what", "0 files", &format!("{files} files"), "bytes a file"]);
    let mut row = |what: &str, a: u64, b: u64| {
        let each = b.saturating_sub(a) as f64 * 1024.0 / f64::from(files);
        table.row(&[what, &a.to_string(), &b.to_string(), &format!("{each:.0}")]);
    };
    let (a, b) = (&without.init, &with.init);
    row("PID 1: resident (RSS)", a.rss, b.rss);
    row("PID 1: proportional (PSS)", a.pss, b.pss);
    row("PID 1: anonymous", a.anonymous, b.anonymous);
    let mut names: Vec<&String> = without.files.iter().chain(&with.files).map(|(n, _)| n).collect();
    names.sort();
    names.dedup();
    for name in names {
        row(&format!("memfd {name}"), without.file(name) / 1024, with.file(name) / 1024);
    }
    let (a, b) = (&without.log, &with.log);
    row("log daemon: resident (RSS)", a.rss, b.rss);
    row("log daemon: proportional (PSS)", a.pss, b.pss);
    format!("{}\n", table.render())
}

pub(crate) fn programs(context: &Context) -> Result<String> {
    let mut table = Table::new("Programs, linked statically", &["program", "bytes"]);
    for (name, _) in initramfs::holdfast::PROGRAMS {
        let size = std::fs::metadata(context.programs()?.join(name))?.len();
        table.row(&[name, &size.to_string()]);
    }
    Ok(format!("{}\n", table.render()))
}
