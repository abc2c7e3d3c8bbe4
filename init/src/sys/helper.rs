//! What waits for disks and devices, outside of PID 1: the executable of `init` under the name `holdfast-helper`.
//!
//! One verb a process: 0 is done; 3 is "there was nothing to do it to" (`umount` of what is not mounted); 4 is "it
//! is mounted, but not with all options"; 5 is "it was loaded already" (`module`); else a line says why not: on the descriptor that `--why` names, for PID 1; else
//! on standard error, and in the kernel's log where standard error goes nowhere.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cm_core::engine::{CHECKING, DEVICE_LATE, DEVICE_PATIENCE_MS, GOES_ON};
use cm_core::mountinfo::Tree;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::time::{ClockId, clock_gettime};
use units::kind::service::DEFAULT_PATH;

use super::fsck::{self, Checked};
use super::module::Modules;
use super::mount::Mounted;
use super::unmount::UnmountError;
use super::{device, mount, point, remount, unmount};

/// The name under which the executable is a helper.
pub const NAME: &str = "holdfast-helper";
/// A device that takes longer to appear is worth a line on the console.
const PATIENCE: Duration = Duration::from_millis(DEVICE_PATIENCE_MS);
/// Exit code: it cannot be done.
const FAILED: i32 = 1;
/// Exit code: bad usage.
const USAGE: i32 = 2;
/// Exit code: it was not mounted.
const NOT_MOUNTED: i32 = 3;
/// Exit code: it is mounted, and the kernel does not take all of its options.
const NOT_TAKEN: i32 = 4;
/// Exit code: the module was loaded already.
const ALREADY_LOADED: i32 = 5;

/// A line for PID 1 that begins so is no reason: it has the canonical path of the mount point.
pub const AT: &str = "at: ";

/// Longest line for PID 1: what a pipe takes in one piece.
const WHY_MAX: usize = 4095;

/// Runs a verb: `holdfast-helper [--why DESCRIPTOR] VERB ARG…`; returns the exit code.
///
/// `mount SOURCE PATH TYPE OPTIONS MILLISECONDS CHECK POINT…` (`check` where the file system is checked first; the points
/// are where mounts are declared on which it lies; it says [`AT`] which path it is that the kernel lists), `umount PATH [leaves]` (and what was made to mount it goes),
/// `umount-all`, `sync`, `module NAME PARAMETER…`, `coldplug`,
/// `await-path PATH [MICROSECONDS]` (younger than that moment, see [`tick`]), `read-pid PATH`.
pub fn main(arguments: &[String]) -> i32 {
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let (why, words) = match words.as_slice() {
        ["--why", number, verb @ ..] => (Some(*number), verb),
        verb => (None, verb),
    };
    let tell = |text: &str| {
        if why.is_none_or(|number| explain(number, text).is_err()) {
            text.lines().for_each(say);
        }
    };
    let early = |text: &str| {
        if let Some(number) = why {
            // Who cannot be told finds it on the console.
            drop(explain(number, text));
        }
    };
    let result = match words {
        ["mount", source, path, fstype, options, limit, check, above @ ..] => {
            let wanted = Wanted { source, path, fstype, options, limit, check: *check == "check", above };
            match do_mount(&wanted, early) {
                Ok(Some(missing)) => {
                    tell(&missing);
                    return NOT_TAKEN;
                }
                other => other.map(|_| ()),
            }
        }
        ["umount", path, leaves @ ..] => {
            let done = unmount::one(path);
            if !leaves.is_empty() && !matches!(done, Err(UnmountError::Refused { .. })) {
                point::unmake(Path::new(path));
            }
            match done {
                Err(UnmountError::NotMounted(_)) => return NOT_MOUNTED,
                other => other.map_err(|e| e.to_string()),
            }
        }
        ["umount-all"] => {
            let failed = unmount::all();
            if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
        }
        ["sync"] => {
            nix::unistd::sync();
            Ok(())
        }
        ["module", name, parameters @ ..] => {
            match Modules::read().and_then(|m| m.load(name, &parameters.join(" "))) {
                Ok(false) => return ALREADY_LOADED,
                other => other.map(|_| ()).map_err(|e| e.to_string()),
            }
        }
        ["coldplug"] if !Modules::are_there() => Ok(()),
        ["coldplug"] => Modules::read()
            .map_err(|e| e.to_string())
            .and_then(|m| m.coldplug().map_err(|e| format!("cannot hear of devices: {e}"))),
        ["await-path", path] => await_path(path, None),
        ["await-path", path, since] => await_path(path, since.parse().ok()),
        ["read-pid", path] => read_pid(path),
        _ => {
            say(&format!("bad usage: {}", words.join(" ")));
            return USAGE;
        }
    };
    match result {
        Ok(()) => 0,
        Err(text) => {
            tell(&text);
            FAILED
        }
    }
}

/// In one line and one piece, so that PID 1 never has half of it.
fn explain(descriptor: &str, text: &str) -> std::io::Result<()> {
    let mut line = text.replace('\n', "; ");
    while line.len() > WHY_MAX {
        line.pop();
    }
    line.push('\n');
    let mut pipe = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{descriptor}"))?;
    pipe.write_all(line.as_bytes())
}

fn say(text: &str) {
    // Nobody is left to tell when even this fails.
    let _nobody = writeln!(std::io::stderr(), "{NAME}: {text}");
    let nowhere = std::fs::read_link("/proc/self/fd/2").is_ok_and(|t| t == Path::new("/dev/null"));
    if nowhere && let Ok(mut kernel) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        let _nobody = kernel.write_all(format!("<27>{NAME}: {text}\n").as_bytes());
    }
}

/// What is to be mounted, as it was said.
struct Wanted<'a> {
    source: &'a str,
    path: &'a str,
    fstype: &'a str,
    options: &'a str,
    limit: &'a str,
    check: bool,
    above: &'a [&'a str],
}

/// Mounts it, or gives what stands there already its options; says which of those it did not take.
fn do_mount(what: &Wanted<'_>, tell: impl Fn(&str)) -> Result<Option<String>, String> {
    let Wanted { source, path, fstype, options, limit, check, above } = *what;
    let cannot = |why: &dyn std::fmt::Display| format!("cannot mount \"{source}\" on \"{path}\": {why}");
    let limit = match limit.parse::<u64>() {
        Ok(0) => None,
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => return Err(cannot(&format!("\"{limit}\" is no number of milliseconds"))),
    };
    if options.split(',').any(|o| o == "loop" || o.starts_with("loop=")) {
        return Err(cannot(&"loop devices are not set up here; name the device"));
    }
    let place = point::resolve(path).map_err(|e| cannot(&e))?;
    unmount::dead(&place).map_err(|e| cannot(&format!("cannot take away what is dead there: {e}")))?;
    let waited = Cell::new(false);
    let late = || {
        waited.set(true);
        say(&format!("still waiting for the device \"{source}\", to mount it on \"{path}\""));
        tell(&format!("{DEVICE_LATE} {source}, which is not there"));
    };
    let device = device::await_source(source, limit, PATIENCE, late).map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => cannot(&"the device did not appear in time"),
        _ => cannot(&format!("cannot wait for the device: {e}")),
    })?;
    if waited.get() {
        tell(GOES_ON);
    }
    // It may have been waited for long.
    let place = &*point::resolve(path).map_err(|e| cannot(&e))?;
    tell(&format!("{AT}{place}"));
    let by_hand = mount::options(options).flags.contains(nix::mount::MsFlags::MS_REMOUNT);
    if !by_hand && let Some(standing) = remount::top(place) {
        if let Some(other) = remount::mistaken(&standing, &device, fstype, options) {
            return Err(cannot(&other));
        }
        return Ok(remount::settle(&standing, options).map(|why| format!("\"{path}\" is mounted, but {why}")));
    }
    // On what somebody has mounted over it it would only be in the way of who takes that away again.
    if !by_hand
        && let Some(other) = mount::hiding(&Tree::read(&mount::table().unwrap_or_default()), place, above)
    {
        let Mounted { path: point, fstype: kind, source: from, .. } = other;
        return Err(cannot(&format!(
            "it is hidden by what is mounted at \"{point}\": type \"{kind}\", source \"{from}\""
        )));
    }
    if check {
        checked(&device, fstype, &tell).map_err(|e| cannot(&e))?;
    }
    let point = Path::new(place);
    let is_new = !point.exists();
    if is_new {
        point::make(point).map_err(|e| cannot(&format!("cannot create the mount point: {e}")))?;
    }
    let done = stand(&device, place, fstype, options);
    if is_new && done.is_err() {
        point::unmake(point);
    }
    done.map(|()| None).map_err(|e| cannot(&e))
}

/// Mounts it on what is there.
fn stand(device: &Path, place: &str, fstype: &str, options: &str) -> Result<(), String> {
    // Network file systems bring a program that does what the kernel does not: resolve names, negotiate.
    for directory in ["/sbin", "/usr/sbin"] {
        let program = Path::new(directory).join(format!("mount.{fstype}"));
        if program.exists() {
            return run(&program, device, place, options);
        }
    }
    let types = if fstype == "auto" { candidates(device) } else { vec![fstype.to_owned()] };
    let mut error = std::io::Error::from_raw_os_error(libc::ENODEV);
    for fstype in &types {
        let mut result = mount::carry_out(device, place, fstype, options);
        // The kernel asks /sbin/modprobe for the type's module, which may not be there.
        if result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ENODEV))
            && Modules::read().is_ok_and(|m| m.load(&format!("fs-{fstype}"), "").is_ok())
        {
            result = mount::carry_out(device, place, fstype, options);
        }
        match result {
            Ok(()) => return Ok(()),
            Err(e) => error = e,
        }
    }
    Err(match error.raw_os_error() {
        Some(libc::ENODEV) => format!("this kernel has no file system \"{fstype}\""),
        // Of a bind mount; the mount point is there.
        Some(libc::ENOENT) => "there is no such source".to_owned(),
        Some(libc::EINVAL) => format!("{error} (wrong type, damaged, or a bad option in \"{options}\")"),
        _ => error.to_string(),
    })
}

/// What nobody waits for and somebody may look for later: in the kernel's log, where what init says is, if there is one
/// that takes it.
fn note(text: &str) {
    // Facility daemon, level notice.
    let line = format!("<29>{NAME}: {text}\n");
    let kernel = std::fs::OpenOptions::new().write(true).open("/dev/kmsg");
    if kernel.and_then(|mut log| log.write_all(line.as_bytes())).is_err() {
        say(text);
    }
}

/// Checks the file system of a device; what is worth knowing goes to the log.
fn checked(device: &Path, fstype: &str, tell: &impl Fn(&str)) -> Result<(), String> {
    let probed =
        if fstype == "auto" { device::probe(device).map(|found| found.fstype.to_owned()) } else { None };
    let fstype = probed.as_deref().unwrap_or(fstype);
    let mounted = mount::now().map_err(|e| format!("cannot tell whether it is mounted: {e}"))?;
    let begins = |program: &Path| tell(&format!("{CHECKING}{} with {}", device.display(), program.display()));
    let result = fsck::check(device, fstype, &mounted, DEFAULT_PATH, begins)?;
    tell(GOES_ON);
    match result {
        Checked::Clean => {}
        Checked::Repaired(said) => note(&format!("\"{}\" was repaired: {said}", device.display())),
        Checked::Not(why) => note(&format!("\"{}\" is mounted unchecked: {why}", device.display())),
    }
    Ok(())
}

fn run(program: &Path, device: &Path, path: &str, options: &str) -> Result<(), String> {
    let mut command = std::process::Command::new(program);
    command.arg(device).arg(path);
    if !options.is_empty() {
        command.arg("-o").arg(options);
    }
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", program.display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", program.display())) }
}

/// For `auto`: what the superblock says, else every file system of the kernel that wants a device.
fn candidates(device: &Path) -> Vec<String> {
    if let Some(found) = device::probe(device) {
        return vec![found.fstype.to_owned()];
    }
    let text = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|l| l.strip_prefix('\t')).map(str::to_owned).collect()
}

/// Waits until the path exists, and is no older than `since` (see [`tick`]) if that is given: a file
/// that an earlier run left says nothing. Its directories are watched, down to the first that is there.
fn await_path(path: &str, since: Option<u64>) -> Result<(), String> {
    let cannot = |e: nix::Error| format!("cannot wait for \"{path}\": {e}");
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(format!("cannot wait for \"{}\": it is not absolute", path.display()));
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(cannot)?;
    loop {
        // ORDER: watch, then look: what appears in between has made an event.
        let mut directory: PathBuf = path.parent().unwrap_or(Path::new("/")).to_owned();
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        while let Err(e) = inotify.add_watch(&directory, flags) {
            match e {
                nix::Error::ENOENT | nix::Error::ENOTDIR if directory.pop() => {}
                other => return Err(cannot(other)),
            }
        }
        if is_young(path, since) {
            return Ok(());
        }
        // The watched directory may have got the next one before it was watched.
        let next = path.ancestors().find(|a| a.parent() == Some(&directory));
        if next.is_some_and(|n| n != path && n.is_dir()) {
            continue;
        }
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(cannot(e)),
        }
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

fn is_young(path: &Path, since: Option<u64>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let micros = metadata.ctime().saturating_mul(1_000_000).saturating_add(metadata.ctime_nsec() / 1000);
    since.is_none_or(|since| is_later(micros, since, clock_offset()))
}

/// Whether a time of a file, by the clock on the wall, is no earlier than this moment that was read by [`tick`]. Told with
/// what lies between the two clocks now: the one on the wall may have been set meanwhile.
fn is_later(file: i64, since: u64, offset: i64) -> bool {
    // Each is rounded down.
    const ROUNDED: i64 = 2;
    file + ROUNDED >= i64::try_from(since).unwrap_or(i64::MAX).saturating_add(offset)
}

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// This moment in microseconds, by a clock that nobody sets. clock_gettime(2) calls it coarse, since the kernel brings it up
/// to date once a tick, together with the one that times of files come from.
pub fn tick() -> u64 {
    micros(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// Microseconds from the clock of [`tick`] to the one that times of files come from.
fn clock_offset() -> i64 {
    loop {
        let (before, wall, after) = (tick(), micros(ClockId::CLOCK_REALTIME_COARSE), tick());
        if before == after {
            return i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub_unsigned(before);
        }
    }
}

/// Prints the first number of a pid file.
fn read_pid(path: &str) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read \"{path}\": {e}"))?;
    let head = bytes.get(..64).unwrap_or(&bytes);
    let text = String::from_utf8_lossy(head);
    let pid: Option<u32> = text.split_ascii_whitespace().next().and_then(|w| w.parse().ok());
    let pid = pid.filter(|p| *p > 1).ok_or_else(|| format!("cannot read \"{path}\": no pid in it"))?;
    super::stdio::print(&format!("{pid}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_no_new_file_old() {
        // Started at 5 s; the clock on the wall said 1000 s more then and says 900 s more now.
        let since = 5_000_000;
        let (then, now) = (1_000_000_000, 900_000_000);
        assert!(is_later(906_000_000, since, now), "written after it was set");
        assert!(is_later(1_005_500_000, since, now), "written before it was set");
        assert!(!is_later(904_000_000, since, now), "left by an earlier run");
        assert!(is_later(1_005_000_000, since, then) && !is_later(1_004_000_000, since, then));
    }
}
