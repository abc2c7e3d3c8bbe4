//! System calls that neither std nor nix wrap: pidfds, waitid with a peek.
//!
//! Nothing here decides anything; each function is one system call with its types made safe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just returned this descriptor as new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd of a living process (close-on-exec).
///
/// # Errors
/// What pidfd_open(2) said; ESRCH when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two integers; no memory is touched.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0_u32) })
}

/// Sends a signal to exactly the process behind `pidfd`.
///
/// # Errors
/// What pidfd_send_signal(2) said; ESRCH when it has been reaped.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo asks for the default one; the other arguments are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    check(result).map(drop)
}

/// One waitid(2) of a child that has ended: its siginfo, or `None` when none has.
///
/// # Errors
/// ECHILD when there are no children.
pub fn waitid(id_type: libc::idtype_t, id: u32, flags: i32) -> io::Result<Option<libc::siginfo_t>> {
    // SAFETY: siginfo_t is plain data, for which zero is valid and means "nothing" here.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: info lives across the call.
        if unsafe { libc::waitid(id_type, id, &raw mut info, flags | libc::WEXITED | libc::WNOHANG) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: waitid filled in the fields of SIGCHLD, or left them zero.
    Ok((unsafe { info.si_pid() } != 0).then_some(info))
}

/// Sends a signal to a process (positive) or a process group (negative).
///
/// # Errors
/// What kill(2) said.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// How many bytes wait in a pipe.
///
/// # Errors
/// What ioctl(2) said.
pub fn unread(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: ioctl_pipe(2): FIONREAD stores an int, which lives across the call.
    check(i64::from(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) }))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Removes a watch of an inotify instance.
///
/// # Errors
/// What inotify_rm_watch(2) said: EINVAL when there is none of that number.
pub fn inotify_rm_watch(instance: BorrowedFd<'_>, watch: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::inotify_rm_watch(instance.as_raw_fd(), watch) })).map(drop)
}

/// Stops swapping to a device or file.
///
/// # Errors
/// What swapoff(2) said.
pub fn swapoff(path: &str) -> io::Result<()> {
    let path = std::ffi::CString::new(path)?;
    // SAFETY: a C string that lives across the call.
    check(i64::from(unsafe { libc::swapoff(path.as_ptr()) })).map(drop)
}
