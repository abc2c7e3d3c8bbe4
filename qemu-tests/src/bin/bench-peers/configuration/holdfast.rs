//! Holdfast in the namespace rig: told a state while it runs, and started with everything there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use initramfs::tool;
use qemu_tests::context::Context;
use qemu_tests::rig::{Rig, Setup};
use qemu_tests::tracer::{self, Tracer};
use qemu_tests::{Result, instance, measure};

use super::root::total;
use super::tools::state;
use super::{DAMAGED, FIRST, NOTHING, REPAIR, START_UPS, Told, checked, damage, sound};

/// Longest wait for a repair, or for the next look at a process that comes or goes.
const LIMIT: Duration = Duration::from_secs(120);
const MEASURED: Setup<'_> = Setup {
    state: None,
    first: None,
    user: false,
    etc: false,
    disks: &[],
    leaves: false,
    store: None,
    logs: None,
    second: false,
    environment: &[],
    measured: true,
    run_by: &[],
};

/// An instance with these files applied.
struct Live {
    rig: Rig,
    /// Where the state file lies: the instance's own directory is below /dev, where none may.
    _place: tempfile::TempDir,
    file: String,
    data: PathBuf,
    files: u32,
}

impl Live {
    fn start(context: &Context, files: u32) -> Result<Live> {
        let rig = Rig::start(context, &MEASURED)?;
        rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
        let place = tempfile::tempdir()?;
        let path = place.path().join("state.toml");
        fs::write(&path, state(files)?)?;
        let data = rig.directory().join("managed");
        Ok(Live { rig, _place: place, file: path.to_string_lossy().into_owned(), data, files })
    }

    fn apply(&self, context: &Context) -> Result<instance::Applied> {
        let applied = instance::apply(context, &self.rig, &self.file)?;
        checked(&self.data, self.files, "Holdfast")?;
        Ok(applied)
    }

    fn initctl(&self, context: &Context, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(context.programs()?.join("initctl"));
        command.arg("--socket").arg(self.rig.socket()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

/// `initctl apply` to a running PID 1, and the repair by itself.
pub(crate) fn told(context: &Context, loads: &[u32], told: &mut Told, first: bool) -> Result {
    for files in loads {
        let live = Live::start(context, *files)?;
        told.add(*files, FIRST, live.apply(context)?.processor);
        let times = if *files == 1 { START_UPS } else { 1 };
        for _ in 0..times {
            let applied = live.apply(context)?;
            told.add(*files, NOTHING, applied.processor);
            if *files == 1 {
                told.start_up.push(applied.wall.as_secs_f64() * 1e3);
            }
        }
        if *files >= DAMAGED {
            told.add(*files, REPAIR, repair(&live)?);
            if first {
                let mut apply = live.initctl(context, &["apply", &live.file])?;
                told.resident = Some(resident(&live.rig, &mut apply)?);
                told.calls = Some(calls(context, &live)?);
            }
        }
    }
    Ok(())
}

/// Started with everything there: every file is looked at.
pub(crate) fn started(context: &Context, loads: &[u32], told: &mut Told, first: bool) -> Result {
    for files in loads {
        let mut live = Live::start(context, *files)?;
        live.apply(context)?;
        let times = if *files == 1 { START_UPS } else { 1 };
        for _ in 0..times {
            let (processor, elapsed) = again(&mut live, &MEASURED)?;
            told.add(*files, NOTHING, processor);
            if *files == 1 {
                told.start_up.push(elapsed.as_secs_f64() * 1e3);
            }
        }
        if first && *files >= DAMAGED {
            live.rig.cut_power()?;
            live.rig.start_again(&Setup { leaves: true, ..MEASURED })?;
            let mut wait = live.initctl(context, &["wait", "--converged", "--timeout", "60s"])?;
            told.resident = Some(resident(&live.rig, &mut wait)?);
            told.calls = Some(calls_of_start(&mut live)?);
        }
    }
    Ok(())
}

/// The power is cut and comes back; until everything is looked at. What waits for that is no part of it.
fn again(live: &mut Live, setup: &Setup<'_>) -> Result<(Duration, Duration)> {
    live.rig.cut_power()?;
    let before = live.rig.processor().ok_or("the kernel does not count what a cgroup uses")?;
    let began = Instant::now();
    live.rig.start_again(setup)?;
    live.rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let elapsed = began.elapsed();
    instance::rest(&live.rig)?;
    checked(&live.data, live.files, "Holdfast")?;
    Ok((instance::processor(&live.rig)?.saturating_sub(before), elapsed))
}

fn repair(live: &Live) -> Result<Duration> {
    instance::rest(&live.rig)?;
    let before = instance::processor(&live.rig)?;
    damage(&live.data, live.files)?;
    let began = Instant::now();
    while !sound(&live.data, live.files) {
        if began.elapsed() > LIMIT {
            return Err("Holdfast did not repair the files".into());
        }
        measure::pause(Duration::from_millis(50))?;
    }
    instance::rest(&live.rig)?;
    Ok(instance::processor(&live.rig)?.saturating_sub(before))
}

/// The largest resident size of one process, of Holdfast's and of the command that is run meanwhile, in KiB. The kernel
/// keeps it; it is asked for each process again and again, for as long as that is there.
fn resident(rig: &Rig, command: &mut Command) -> Result<f64> {
    if let Ok(pid) = rig.pid() {
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    }
    let mut child = command.spawn()?;
    let own = i32::try_from(child.id())?;
    let mut most = 0;
    loop {
        let ours = instance::processes(rig).unwrap_or_default().into_iter().map(|p| p.pid);
        most = ours.chain([own]).map(peak).fold(most, u64::max);
        if let Some(status) = child.try_wait()? {
            return if status.success() {
                Ok(most as f64)
            } else {
                Err(format!("initctl ended with {status}").into())
            };
        }
        measure::pause(Duration::from_micros(500))?;
    }
}

fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// System calls of an apply of the same state: of PID 1 with all that it starts, and of `initctl`.
fn calls(context: &Context, live: &Live) -> Result<u64> {
    tool::ensure(tracer::TOOLS)?;
    instance::rest(&live.rig)?;
    let place = live.rig.directory();
    let (inside, outside) = (place.join("calls-inside"), place.join("calls-outside"));
    let tracer = Tracer::of(live.rig.pid()?, &["-f", "-c"], &inside)?;
    let mut initctl = tool::command("strace");
    initctl.args(["-f", "-c", "-o"]).arg(&outside).arg(context.programs()?.join("initctl"));
    initctl.arg("--socket").arg(live.rig.socket()).args(["apply", &live.file]);
    tool::run("trace initctl", &mut initctl)?;
    instance::rest(&live.rig)?;
    Ok(total(&tracer.end()?)? + total(&fs::read_to_string(outside)?)?)
}

/// System calls of PID 1 and all that it starts, from its exec until it rests.
fn calls_of_start(live: &mut Live) -> Result<u64> {
    tool::ensure(tracer::TOOLS)?;
    let file = live.rig.directory().join("calls");
    drop(File::create(&file)?);
    let name = file.to_string_lossy().into_owned();
    let by: Vec<&str> = vec!["strace", "-D", "-I", "2", "-f", "-c", "-o", &name];
    again(live, &Setup { run_by: &by, ..MEASURED })?;
    let pid = live.rig.pid()?.to_string();
    let tracer = tracer_of(&pid).ok_or("PID 1 is not traced")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(tracer), nix::sys::signal::Signal::SIGINT)?;
    until("the tracer has written its table", || table(&file).is_some())?;
    table(&file).ok_or_else(|| "the tracer wrote no table".into())
}

fn table(file: &Path) -> Option<u64> {
    total(&fs::read_to_string(file).ok()?).ok()
}

fn tracer_of(pid: &str) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|t| *t != 0)
}

/// For what no event tells.
fn until(what: &str, holds: impl Fn() -> bool) -> Result {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > LIMIT {
            return Err(format!("not within {LIMIT:?}: {what}").into());
        }
        measure::pause(Duration::from_millis(5))?;
    }
    Ok(())
}
