//! The writer's lock, and what becomes of it when its holder is killed and does not die.
//!
//! Who is in a call upon a disk or a server that does not answer cannot be killed, and keeps its lock for as long as that
//! takes. But it does nothing any more: whoever takes over makes another lock file in the place of that one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::sys;

/// How many seconds a killed holder has to let go: most do in no time.
const GRACE: u32 = 2;
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
                // Somebody else may have got it meanwhile, who works.
                if !is_left_behind(lock)? {
                    continue;
                }
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

/// Waits for the lock, and answers whether it came: the kernel knows all the copies of a holder, and gives it when the last
/// one is gone.
fn wait(lock: &File) -> io::Result<bool> {
    sys::interrupt_after(GRACE);
    let came = sys::await_lock_file(lock);
    sys::interrupt_after(0);
    came
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

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

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

    /// A lock whose taker was killed and lives on in a copy, as a committer that hangs: the copy's pid. The lock is its own
    /// too.
    fn left_behind(path: &Path) -> nix::unistd::Pid {
        let mut stuck = Command::new("flock")
            .arg(path)
            .args(["sh", "-c", "echo $$; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut copy = String::new();
        io::BufReader::new(stuck.stdout.as_mut().unwrap()).read_line(&mut copy).unwrap();
        let lock = open(path).unwrap();
        assert!(!sys::try_lock_file(&lock).unwrap());
        assert!(!is_left_behind(&lock).unwrap(), "its taker lives");
        stuck.kill().unwrap();
        stuck.wait().unwrap();
        nix::unistd::Pid::from_raw(copy.trim().parse().unwrap())
    }

    /// Takes the lock in a process of one thread, as a worker is, which then ends with this code.
    fn taker(path: &Path, code: impl FnOnce(&File) -> i32) -> nix::unistd::Pid {
        match sys::fork().unwrap() {
            sys::Forked::Child => sys::leave(take_new(path).map_or(9, |lock| code(&lock))),
            sys::Forked::Parent(pid) => pid,
        }
    }

    fn code_of(pid: nix::unistd::Pid) -> WaitStatus {
        waitpid(pid, None).unwrap()
    }

    #[test]
    fn a_lock_that_outlives_its_taker_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let copy = left_behind(&path);
        let before = fs::metadata(&path).unwrap().ino();
        let is_for_everybody = |lock: &File| {
            let other = open(&path).unwrap();
            let held = !sys::try_lock_file(&other).unwrap();
            sys::unlock_file(lock);
            i32::from(!held || !sys::try_lock_file(&other).unwrap())
        };
        let taker = taker(&path, is_for_everybody);
        assert_eq!(code_of(taker), WaitStatus::Exited(taker, 0));
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        kill(copy, Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_lock_is_waited_for_in_the_kernel_while_its_holder_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let copy = left_behind(&path);
        let before = fs::metadata(&path).unwrap().ino();
        let taker = taker(&path, |_| 0);
        // Who asks again and again is never listed as one who waits.
        let waits = || {
            let table = fs::read_to_string("/proc/locks").unwrap();
            table.lines().any(|l| l.contains("-> FLOCK") && l.contains(&format!(":{before} ")))
        };
        while !waits() {
            let ended = waitpid(taker, Some(WaitPidFlag::WNOHANG)).unwrap();
            assert_eq!(ended, WaitStatus::StillAlive, "it did not wait");
            std::thread::yield_now();
        }
        kill(copy, Signal::SIGKILL).unwrap();
        assert_eq!(code_of(taker), WaitStatus::Exited(taker, 0));
        assert_eq!(fs::metadata(&path).unwrap().ino(), before, "it was to be had");
    }
}
