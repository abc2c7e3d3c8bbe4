//! Signals of PID 1: all blocked, read from a signalfd, which tells who sent them.
//!
//! The mask is kept over a re-exec, so that nothing that arrives in between is lost, and is reset in every child
//! (`super::child`). Signals that mean a fault in this program are never blocked: see [`super::crash`].
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A signal as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Who sent it; 0 is the kernel, or a process outside the pid namespace.
    pub pid: i32,
    /// The sender's real user.
    pub uid: u32,
}

/// The signals that are faults of the program itself, and are delivered to handlers.
pub const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// The first real-time signal for programs, and the last.
pub const RTMIN: i32 = 34;
/// See [`RTMIN`].
pub const RTMAX: i32 = 64;

/// A signal's name without `SIG`; `None` for real-time signals and numbers that are none.
pub fn name(signal: i32) -> Option<&'static str> {
    NAMES.iter().find(|(_, n)| *n == signal).map(|(name, _)| *name)
}

/// The signal with this name (`TERM`, `SIGTERM`, `RTMIN+3`) or number.
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<i32>().ok()? };
        return Some(RTMIN.checked_add(offset)?).filter(|n| (RTMIN..=RTMAX).contains(n));
    }
    NAMES.iter().find(|(name, _)| *name == bare).map(|(_, n)| *n)
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask; all zero is the default action.
pub(super) type KernelSigaction = [u64; 4];

/// The signals as a descriptor (nonblocking, not close-on-exec: it is the same after a re-exec).
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks every signal but the faults, for this thread, and opens the descriptor.
    ///
    /// # Errors
    /// What sigprocmask(2) or signalfd(2) said.
    pub fn open() -> io::Result<Signals> {
        let mut set = SigSet::all();
        for fault in FAULTS {
            set.remove(fault);
        }
        set.thread_set_mask()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK)?;
        // Ignored signals never become pending, so a disposition inherited from before exec would hide them.
        // (SIGCHLD ignored would even reap children by itself.) Only SIGPIPE, which Rust ignores, may stay so.
        for signal in 1..=RTMAX {
            let fault = FAULTS.iter().any(|f| *f as i32 == signal);
            if !fault && ![libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE, 32, 33].contains(&signal) {
                // SAFETY: SIG_DFL is no function of ours; signal(2) touches no memory.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
        }
        Ok(Signals { fd })
    }

    /// The next signal, or `None` when none is pending. Equal pending signals count as one, so SIGCHLD means
    /// "reap until nothing is left".
    ///
    /// # Errors
    /// What read(2) said, other than EAGAIN.
    pub fn read(&mut self) -> io::Result<Option<Received>> {
        loop {
            return match self.fd.read_signal() {
                Ok(None) | Err(nix::Error::EAGAIN) => Ok(None),
                Err(nix::Error::EINTR) => continue,
                Err(e) => Err(e.into()),
                Ok(Some(info)) => Ok(Some(Received {
                    signal: i32::try_from(info.ssi_signo).unwrap_or_default(),
                    pid: i32::try_from(info.ssi_pid).unwrap_or_default(),
                    uid: info.ssi_uid,
                })),
            };
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

/// The signals that this process ignores, bit n - 1 for signal n: as it was when first asked, for nothing that starts
/// processes ignores more later. A child has to be rid of them; handlers the kernel takes away by itself.
pub fn ignored() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        let is_ignored = |signal: &i32| {
            let mut action: KernelSigaction = [0; 4];
            // SAFETY: rt_sigaction(2) writes 32 bytes. The raw call is used because glibc tells nothing of its own two
            // signals.
            let result = unsafe {
                let none = std::ptr::null::<u64>();
                libc::syscall(libc::SYS_rt_sigaction, *signal, none, action.as_mut_ptr(), 8_usize)
            };
            result == 0 && action.first() == Some(&(libc::SIG_IGN as u64))
        };
        (1..=RTMAX).filter(is_ignored).fold(0, |set, signal| set | 1 << (signal - 1))
    })
}

/// Ignores these signals: for helpers that only PID 1 ends.
///
/// # Errors
/// What sigaction(2) said.
pub fn ignore(list: &[Signal]) -> io::Result<()> {
    for signal in list {
        // SAFETY: SIG_IGN is no function of ours.
        unsafe { nix::sys::signal::signal(*signal, nix::sys::signal::SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Makes ctrl-alt-del arrive as SIGINT.
///
/// # Errors
/// What reboot(2) said; EINVAL in a container.
pub fn take_ctrl_alt_del() -> io::Result<()> {
    // reboot(2), LINUX_REBOOT_CMD_CAD_OFF: SIGINT goes to init.
    nix::sys::reboot::set_cad_enabled(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (name_, signal) in NAMES {
            assert_eq!(number(name_), Some(signal));
            assert_eq!(number(&format!("sig{name_}")), Some(signal));
            assert_eq!(name(signal), Some(name_));
        }
        assert_eq!(number("RTMIN+3"), Some(37));
        assert_eq!(number("SIGRTMIN"), Some(34));
        assert_eq!(number("RTMIN+31"), None);
        assert_eq!(number("15"), Some(15));
        assert_eq!((number("0"), number("65"), number("NOPE"), number("RTMINx")), (None, None, None, None));
    }
}
