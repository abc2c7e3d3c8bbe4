//! What PID 1 of a machine sets right once its file systems are there, before it reads any state.
//!
//! Nothing here waits: system calls on kernel interfaces, and one helper that goes its own way. Nothing here is
//! done in a container. What fails is a complaint, never the end of a boot.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys::spawn::{self, Launch, Output, Spawned};
use crate::sys::{helper, loopback, stdio};

/// Kernel settings: file, least value. First those that Holdfast itself needs.
///
/// The queue of inotify events holds a burst of 10,000 files that are written by something else; the watches, one
/// for each directory of a large tree. Then what distributions set: links of others in a world-writable directory are not
/// followed, and nobody links to what is not his. A state that declares otherwise has its way: it is read after this.
const LEAST: [(&str, u64); 5] = [
    ("/proc/sys/fs/inotify/max_queued_events", 131_072),
    ("/proc/sys/fs/inotify/max_user_watches", 1_048_576),
    ("/proc/sys/fs/inotify/max_user_instances", 1024),
    ("/proc/sys/fs/protected_hardlinks", 1),
    ("/proc/sys/fs/protected_symlinks", 1),
];

/// The priority of looking for drivers, which is work for a processor that nobody else wants: whoever is to start, or
/// waits for somebody who does, comes first.
const NICE: i32 = 10;

/// Sets the machine right; gives a sentence for each thing that cannot be.
pub fn prepare() -> Vec<String> {
    let mut complaints = Vec::new();
    let mut note = |what: &str, result: std::io::Result<()>| {
        if let Err(e) = result {
            complaints.push(format!("cannot {what}: {e}"));
        }
    };
    note("open the console", take_console());
    // printk(9): by default the kernel drops what one process writes quickly, which is what a boot looks like.
    note("open the kernel's log to every line", std::fs::write("/proc/sys/kernel/printk_devkmsg", "on\n"));
    for (path, least) in LEAST {
        note(&format!("raise {path} to {least}"), raise(Path::new(path), least));
    }
    note("bring up the loopback interface", loopback::up());
    complaints
}

/// Raises this process's limit of descriptors; for a container's PID 1 too.
///
/// # Errors
/// What setrlimit(2) said.
pub fn raise_limits(machine: bool) -> std::io::Result<()> {
    spawn::raise_descriptor_limit(machine)
}

/// The kernel gives PID 1 its console only if `/dev/console` was there before devtmpfs was.
fn take_console() -> std::io::Result<()> {
    if !(0..3).any(stdio::was_closed) {
        return Ok(());
    }
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let console = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/console")?;
    stdio::replace(console.as_fd())
}

fn raise(path: &Path, least: u64) -> std::io::Result<()> {
    let now = std::fs::read_to_string(path)?.trim().parse::<u64>().unwrap_or(u64::MAX);
    if now < least { std::fs::write(path, least.to_string()) } else { Ok(()) }
}

/// Starts the helper that loads drivers; whether the kernel has any modules here it looks itself, for they are on a
/// disk. Nobody waits for it: who needs a device waits for the device.
///
/// # Errors
/// When it cannot be started.
pub fn coldplug() -> std::io::Result<Spawned> {
    let argv = [helper::NAME.to_owned(), "coldplug".to_owned()];
    let launch = Launch {
        argv: &argv,
        program: Some(spawn::OWN_PROGRAM),
        output: Output::Inherit,
        nice: NICE,
        ..Launch::default()
    };
    spawn::spawn(&launch).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_only_rise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (before, after) in [("5\n", "10"), ("10\n", "10\n"), ("500\n", "500\n"), ("max\n", "max\n")] {
            std::fs::write(file.path(), before).unwrap();
            raise(file.path(), 10).unwrap();
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), after);
        }
        assert!(raise(Path::new("/no/where"), 1).is_err());
    }
}
