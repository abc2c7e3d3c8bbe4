//! The processes of an instance of the rig, by what they are.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::context::Context;
use crate::measure;
use crate::rig::Rig;

/// One process of Holdfast's in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid on the host.
    pub pid: i32,
    /// What it is called.
    pub name: String,
}

/// Processes of an instance whose program is one of Holdfast's, PID 1 first. Those on their way out are left away.
///
/// # Errors
/// When init is gone.
pub fn processes(rig: &Rig) -> Result<Vec<Process>> {
    let init = rig.pid()?;
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(init).ok_or("init is gone")?;
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let program = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let ours =
            ["init", "cm-worker"].iter().any(|n| program.file_name() == Some(Path::new(n).as_os_str()));
        if ours && namespace(pid).as_ref() == Some(&wanted) {
            // The log daemon is the same program under another name.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let first =
                String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
            let name = first.rsplit('/').next().unwrap_or_default().to_owned();
            out.push(Process { pid, name });
        }
    }
    out.sort_by_key(|p| (p.pid != init, p.pid));
    Ok(out)
}

/// Waits until the workers have left, what is there sleeps, and PID 1 is to wake by itself no more: it has given back by then
/// what the work took.
///
/// # Errors
/// When they do not.
pub fn rest(rig: &Rig) -> Result<Vec<Process>> {
    let deadline = std::time::Instant::now() + crate::rig::LIMIT;
    let mut before = false;
    loop {
        let all = processes(rig)?;
        // A timer that has just gone off may be set again at once.
        let twice = std::mem::replace(&mut before, !measure::has_deadline(rig.pid()?)?) && before;
        if twice && all.iter().all(|p| p.name != "cm-worker") {
            let pids: Vec<i32> = all.iter().map(|p| p.pid).collect();
            // Whoever leaves meanwhile was no part of the rest.
            if measure::at_rest(&pids, std::time::Duration::ZERO).is_ok() {
                return Ok(all);
            }
        }
        if std::time::Instant::now() > deadline {
            return Err(format!("the instance does not come to rest: {all:?}").into());
        }
        measure::pause(std::time::Duration::from_millis(100))?;
    }
}

/// Processor time that everything in the instance has used so far. Where its cgroup does not tell, that of Holdfast's
/// processes in clock ticks, and workers count once they have left.
///
/// # Errors
/// When init is gone.
pub fn processor(rig: &Rig) -> Result<std::time::Duration> {
    if let Some(used) = rig.processor() {
        return Ok(used);
    }
    processes(rig)?.iter().map(|p| measure::processor(p.pid)).sum()
}

/// One `initctl apply`: its time, and the processor time of all of Holdfast that it took.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    /// From the start of `initctl` to its end.
    pub wall: Duration,
    /// Of `initctl`, PID 1, the log daemon and the workers.
    pub processor: Duration,
}

/// Applies a state file, without a limit: on a busy machine ten thousand files may take longer than a test may.
///
/// # Errors
/// When the apply fails, or the instance does not come to rest after it.
pub fn apply(context: &Context, rig: &Rig, file: &str) -> Result<Applied> {
    rest(rig)?;
    let (inside, outside) = (processor(rig)?, measure::children_processor());
    let started = Instant::now();
    let mut command = Command::new(context.programs()?.join("initctl"));
    command.arg("--socket").arg(rig.socket()).args(["apply", file]);
    initramfs::tool::run("run initctl", &mut command)?;
    let wall = started.elapsed();
    // A worker's time counts once it has left.
    rest(rig)?;
    let used = processor(rig)?.saturating_sub(inside) + measure::children_processor().saturating_sub(outside);
    Ok(Applied { wall, processor: used })
}
