//! Running one command with everything as it was inherited, and waiting for signals: what a container's init does.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::birth::{self, Forked};
use super::stdio;

/// How signals were when this process started. The mask is the kernel's: bit n-1 is signal n.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    mask: u64,
    child_was_ignored: bool,
}

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const c_char;
}

/// Whose scripts need no first line that says so.
const SHELL: &CStr = c"/bin/sh";

/// Signals that are faults of this program: never blocked.
const FAULTS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGABRT)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn set_mask(mask: u64) -> io::Result<u64> {
    let mut old = 0_u64;
    // SAFETY: two masks of 8 bytes that live across the call. The raw call, because glibc's hides two signals.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, 8_usize)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(old) }
}

/// Blocks every signal but faults, so that [`wait`] gets them. SIGTTIN and SIGTTOU are among them: writing to the
/// terminal from the background then is allowed, as tcsetpgrp is.
///
/// # Errors
/// What the kernel said.
pub fn block_all() -> io::Result<Inherited> {
    let mask = set_mask(!FAULTS)?;
    // SAFETY: SIG_DFL is no function of ours. Ignored, SIGCHLD would make the kernel reap and lose exit codes.
    let old = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    Ok(Inherited { mask, child_was_ignored: old == libc::SIG_IGN })
}

/// The next signal; waits without a time limit. (signal, sender's pid).
pub fn wait() -> (i32, i32) {
    let mask = !FAULTS;
    loop {
        // SAFETY: siginfo_t is plain data, for which zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: mask and info live across the call; a null timeout means none.
        let signal = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const mask,
                &raw mut info,
                std::ptr::null::<libc::timespec>(),
                8_usize,
            )
        };
        if let Ok(signal) = i32::try_from(signal)
            && signal > 0
        {
            // SAFETY: every signal that a process sent has the sender; others read as zero here.
            let pid = if info.si_code <= 0 { unsafe { info.si_pid() } } else { 0 };
            return (signal, pid);
        }
    }
}

/// Makes this process the one that orphans below it are given to.
///
/// # Errors
/// What prctl(2) said.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for a signal when the parent dies.
///
/// # Errors
/// What prctl(2) said.
pub fn signal_at_parent_death(signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts a command with environment, descriptors, mask and dispositions as this process found them, in a process
/// group of its own that takes the terminal's foreground if this process has it. Returns its pid; when it cannot
/// be executed it says so on standard error and exits with 126, or 127 if it is not there.
///
/// # Errors
/// When there is no process to be had, or a word has a NUL byte in it.
pub fn run(command: &[impl AsRef<OsStr>], inherited: Inherited) -> io::Result<i32> {
    let words: Vec<CString> =
        command.iter().map(|w| CString::new(w.as_ref().as_bytes())).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = words.iter().map(|w| w.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // A file that is neither a program nor names its interpreter is a script of the shell's, as in execvp(3).
    let mut script = vec![SHELL.as_ptr(); 2];
    script.extend(pointers.iter().skip(1));
    let name = command.first().map(|w| w.as_ref().as_bytes()).unwrap_or_default();
    let candidates = candidates(name)?;
    // ORDER: asked before the fork, as either side may be first to move the child out of this group. Only who has
    // the foreground may give it on; a job in the background would steal it from the shell.
    // SAFETY: integers only.
    let was_foreground = unsafe { libc::tcgetpgrp(0) == libc::getpgrp() };
    // SAFETY: this process has one thread, and the child only makes system calls before it executes.
    match unsafe { birth::fork_into(None) }?.0 {
        Forked::Parent(pid) => {
            // By both sides, so that the group is there when the first signal has to go to it. It fails once the
            // child has executed, having done it itself.
            // SAFETY: integers only.
            unsafe { libc::setpgid(pid, pid) };
            Ok(pid)
        }
        Forked::Child => child(name, &candidates, &pointers, &mut script, inherited, was_foreground),
    }
}

fn candidates(name: &[u8]) -> io::Result<Vec<CString>> {
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| units::kind::service::DEFAULT_PATH.into());
    path.as_bytes()
        .split(|b| *b == b':')
        .map(|directory| {
            let directory = if directory.is_empty() { b".".as_slice() } else { directory };
            Ok(CString::new([directory, b"/", name].concat())?)
        })
        .collect()
}

fn child(
    name: &[u8],
    candidates: &[CString],
    argv: &[*const c_char],
    script: &mut [*const c_char],
    inherited: Inherited,
    was_foreground: bool,
) -> ! {
    // SAFETY: system calls on integers, with arrays of C strings that live until the image is replaced.
    unsafe {
        // ORDER: first the group, then its terminal: a group that does not exist cannot be in the foreground.
        libc::setpgid(0, 0);
        if was_foreground {
            libc::tcsetpgrp(0, libc::getpid());
        }
        // ORDER: the message below may need standard error, but what was closed must be closed for the command;
        // a command that is not found has nobody to tell then.
        for number in (0..3).filter(|n| stdio::was_closed(*n)) {
            libc::close(number);
        }
        if !stdio::pipe_was_ignored() {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        if inherited.child_was_ignored {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
        // ORDER: last, so that a signal that waited finds the dispositions in place.
        let _cannot_fail = set_mask(inherited.mask);
        let mut worst = libc::ENOENT;
        for candidate in candidates {
            libc::execve(candidate.as_ptr(), argv.as_ptr(), environ);
            let mut errno = io::Error::last_os_error().raw_os_error().unwrap_or(worst);
            if errno == libc::ENOEXEC {
                if let Some(file) = script.get_mut(1) {
                    *file = candidate.as_ptr();
                }
                libc::execve(SHELL.as_ptr(), script.as_ptr(), environ);
                errno = libc::ENOEXEC;
            }
            match errno {
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                libc::EACCES => worst = errno,
                // It is there: what else is in PATH is not what was meant.
                _ => {
                    worst = errno;
                    break;
                }
            }
        }
        let cause = io::Error::from_raw_os_error(worst);
        let text = format!("init: cannot execute \"{}\": {cause}\n", String::from_utf8_lossy(name));
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(if worst == libc::ENOENT { 127 } else { 126 })
    }
}
