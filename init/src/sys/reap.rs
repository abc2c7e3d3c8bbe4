//! Ended children: peek, let the caller look, then reap.
//!
//! Between [`peek`] and [`reap`] the pid cannot be given to another process, so everything that still refers to it
//! (a notify socket, a unit's main pid) can be settled first.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::raw;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it left a core.
        core: bool,
    },
    /// Nobody told: it was another process's child.
    Unknown,
}

impl ExitStatus {
    /// As shells report it: the code, or 128 and the signal; 255 when nobody knows.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { signal, .. } => signal.saturating_add(128),
            ExitStatus::Unknown => 255,
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exited with {code}"),
            ExitStatus::Unknown => f.write_str("ended, nobody knows how"),
            ExitStatus::Signal { signal, core } => {
                let core = if *core { " (core dumped)" } else { "" };
                match super::signals::name(*signal) {
                    Some(name) => write!(f, "killed by SIG{name}{core}"),
                    None => write!(f, "killed by signal {signal}{core}"),
                }
            }
        }
    }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its pid.
    pub pid: i32,
    /// Its real user.
    pub uid: u32,
    /// How it ended.
    pub status: ExitStatus,
}

fn exit(info: &libc::siginfo_t) -> Exit {
    // SAFETY: waitid(2) fills in these fields for every child that ended.
    let (pid, uid, status) = unsafe { (info.si_pid(), info.si_uid(), info.si_status()) };
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        code => ExitStatus::Signal { signal: status, core: code == libc::CLD_DUMPED },
    };
    Exit { pid, uid, status }
}

/// A child that has ended and is left as it is; `None` when there is none (or no child at all). The same one is
/// returned until it is reaped.
///
/// # Errors
/// What waitid(2) said, other than ECHILD.
pub fn peek() -> io::Result<Option<Exit>> {
    match raw::waitid(libc::P_ALL, 0, libc::WNOWAIT) {
        Ok(info) => Ok(info.as_ref().map(exit)),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The same for one process: `None` while it runs.
///
/// # Errors
/// What waitid(2) said; ECHILD when it is no child of ours.
pub fn peek_at(pid: i32) -> io::Result<Option<Exit>> {
    let id = u32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    Ok(raw::waitid(libc::P_PID, id, libc::WNOWAIT)?.as_ref().map(exit))
}

/// Whether the process of a pidfd has ended, whosever child it is.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Reaps one child that has ended; `None` when it has not, or is not ours.
///
/// # Errors
/// What waitid(2) said, other than ECHILD.
pub fn reap(pid: i32) -> io::Result<Option<Exit>> {
    let Ok(id) = u32::try_from(pid) else { return Ok(None) };
    match raw::waitid(libc::P_PID, id, 0) {
        Ok(info) => Ok(info.as_ref().map(exit)),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Ticks after boot at which it started: field 22 of `/proc/PID/stat`.
    pub starttime: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// When `/proc/PID/stat` cannot be read: there is no such process.
    pub fn of(pid: i32) -> io::Result<ProcessId> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        let fields = parse_stat(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(ProcessId { pid, starttime: fields.starttime })
    }

    /// Whether it is still there, be it as a zombie.
    pub fn exists(self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|now| now == self)
    }

    /// A pidfd of exactly this process.
    ///
    /// # Errors
    /// ESRCH when it is gone, even if its pid has been given to another.
    pub fn open(self) -> io::Result<std::os::fd::OwnedFd> {
        let pidfd = raw::pidfd_open(self.pid)?;
        // ORDER: compared after opening: were it compared before, the pid could change hands in between.
        if self.exists() { Ok(pidfd) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter: `R`, `S`, `Z` …
    pub state: u8,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// See [`ProcessId::starttime`].
    pub starttime: u64,
}

/// Parses `/proc/PID/stat`. The command's name may contain blanks and parentheses; it ends at the last one.
pub fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let close = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut field = rest.split_ascii_whitespace();
    let state = *field.next()?.as_bytes().first()?;
    let mut next = || field.next()?.parse().ok();
    let (ppid, pgrp, session) = (next()?, next()?, next()?);
    // proc_pid_stat(5): state is field 3, starttime field 22; fields 3 to 6 are consumed.
    let starttime = field.nth(15)?.parse().ok()?;
    Some(Stat { state, ppid, pgrp, session, starttime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_ugly_name() {
        let line = b"42 (a) b (c)) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 99 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat, Stat { state: b'S', ppid: 7, pgrp: 8, session: 9, starttime: 123_456 });
        assert_eq!(parse_stat(b"42 (x"), None);
        assert_eq!(parse_stat(b"42 (x) S 1"), None);
    }

    #[test]
    fn own_identity_is_stable_and_another_start_time_is_nobody() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.exists());
        me.open().unwrap();
        let other = ProcessId { starttime: me.starttime + 1, ..me };
        assert_eq!(other.open().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn statuses_read_well() {
        let killed = ExitStatus::Signal { signal: libc::SIGKILL, core: false };
        assert_eq!((killed.to_string(), killed.shell_code()), ("killed by SIGKILL".into(), 137));
        assert_eq!(ExitStatus::Code(3).to_string(), "exited with 3");
    }
}
