//! The writer's lock, and what becomes of it when its holder is killed and does not die.
//!
//! Who is in a call upon a disk or a server that does not answer cannot be killed, and keeps its lock for as long as that
//! takes. But it does nothing any more: whoever takes over makes another lock file in the place of that one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;

/// How long a killed holder has to let go: most do in no time.
const GRACE: Duration = Duration::from_secs(2);
/// There is no event for the end of a process that is not ours and inherited its lock.
const PAUSE: Duration = Duration::from_millis(5);
/// SIGKILL in the masks of /proc/PID/status.
const KILLED: u64 = 1 << (9 - 1);

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Opens the lock file and takes the lock.
pub(super) fn take_new(path: &Path) -> io::Result<File> {
    let mut lock = open(path)?;
    take(&mut lock, path)?;
    Ok(lock)
}

/// Takes the lock: waits for who works, and not for who is dead but for its last call.
pub(super) fn take(lock: &mut File, path: &Path) -> io::Result<()> {
    loop {
        if !sys::try_lock_file(lock)? {
            if !is_left_behind(lock)? {
                sys::lock_file(lock, true)?;
            } else if !wait(lock)? {
                *lock = replace(path)?;
            }
        }
        // Somebody may have put another one in its place meanwhile.
        let there = fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let ours = lock.metadata()?;
        if there == Some((ours.dev(), ours.ino())) {
            return Ok(());
        }
        *lock = open(path)?;
    }
}

fn wait(lock: &File) -> io::Result<bool> {
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if sys::try_lock_file(lock)? {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

fn replace(path: &Path) -> io::Result<File> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let lock = open(&beside)?;
    sys::lock_file(&lock, true)?;
    fs::rename(&beside, path)?;
    Ok(lock)
}

/// Whether all who hold the lock have been killed. Who cannot be seen counts as alive.
fn is_left_behind(lock: &File) -> io::Result<bool> {
    let inode = lock.metadata()?.ino();
    let table = fs::read_to_string("/proc/locks")?;
    let holders: Vec<i32> = holders(&table, inode).collect();
    Ok(!holders.is_empty() && holders.into_iter().all(is_doomed))
}

/// Processes that have taken a flock(2) of this inode, by /proc/locks.
fn holders(table: &str, inode: u64) -> impl Iterator<Item = i32> {
    table.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next() != Some("FLOCK") {
            // Also "->", who waits.
            return None;
        }
        let pid = fields.nth(2)?.parse().ok()?;
        let (_, number) = fields.next()?.rsplit_once(':')?;
        (number.parse() == Ok(inode)).then_some(pid)
    })
}

/// Whether a process does nothing any more: gone (its copy holds the lock, and dies with it), or killed.
fn is_doomed(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => is_killed(&status),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

fn is_killed(status: &str) -> bool {
    status.lines().filter_map(|line| line.split_once(':')).any(|(key, value)| match key {
        "State" => value.trim_start().starts_with(['Z', 'X']),
        "SigPnd" | "ShdPnd" => u64::from_str_radix(value.trim(), 16).is_ok_and(|mask| mask & KILLED != 0),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::io::BufRead;
    use std::process::{Command, Stdio};

    const TABLE: &str = "1: POSIX  ADVISORY  WRITE 11 00:1a:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 13 fe:01:77 0 EOF\n3: FLOCK  ADVISORY  WRITE 14 fe:01:770 0 EOF\n";

    #[test]
    fn holders_are_who_have_it_and_not_who_wait() {
        assert_eq!(holders(TABLE, 77).collect::<Vec<_>>(), [12]);
        assert_eq!(holders(TABLE, 7).count(), 0);
    }

    #[test]
    fn a_process_in_its_last_call_is_known_by_its_pending_signal() {
        let status = |state: &str, pending: &str| format!("Name:\tx\nState:\t{state}\nShdPnd:\t{pending}\n");
        assert!(is_killed(&status("D (disk sleep)", "0000000000000100")));
        assert!(!is_killed(&status("D (disk sleep)", "0000000000000000")));
        assert!(!is_killed(&status("S (sleeping)", "0000000000004000")), "SIGTERM may be caught");
        assert!(is_killed(&status("Z (zombie)", "0000000000000000")));
    }

    /// As a committer that hangs, whose coordinator was killed: the lock is its own too.
    #[test]
    fn a_lock_that_outlives_its_taker_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut stuck = Command::new("flock")
            .arg(&path)
            .args(["sh", "-c", "echo $$; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut copy = String::new();
        io::BufReader::new(stuck.stdout.as_mut().unwrap()).read_line(&mut copy).unwrap();
        let mut lock = open(&path).unwrap();
        assert!(!sys::try_lock_file(&lock).unwrap());
        assert!(!is_left_behind(&lock).unwrap(), "its taker lives");
        stuck.kill().unwrap();
        stuck.wait().unwrap();
        take(&mut lock, &path).unwrap();
        let other = open(&path).unwrap();
        assert!(!sys::try_lock_file(&other).unwrap(), "it is a lock for everybody");
        sys::unlock_file(&lock);
        assert!(sys::try_lock_file(&other).unwrap());
        let copy = nix::unistd::Pid::from_raw(copy.trim().parse().unwrap());
        nix::sys::signal::kill(copy, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
