//! System calls that neither std nor nix wrap: clone3, pidfds, close_range, waitid with a peek.
//!
//! Nothing here decides anything; each function is one system call with its types made safe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a [`fork_into`] runs.
#[derive(Debug)]
pub enum Forked {
    /// The caller: the child's pid.
    Parent(i32),
    /// The new process: a copy of the caller with one thread.
    Child,
}

/// What [`fork_into`] has done for the child already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth {
    /// It was born in the cgroup, or none was asked for; else it has to write itself into `cgroup.procs`.
    pub placed: bool,
    /// It has none of the parent's signal handlers; what the parent ignores it ignores all the same.
    pub no_handlers: bool,
}

/// clone(2); libc's constants are of type `int`, which these do not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just returned this descriptor as new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Forks, with the child born in `cgroup` where the kernel can do that. Plain fork semantics: no shared memory,
/// so that a child which hangs while it opens something never stops the parent.
///
/// # Errors
/// What clone3(2) or clone(2) said.
///
/// # Safety
/// In the child only async-signal-safe work is allowed if the caller has more than one thread, as after fork(2).
pub unsafe fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<(Forked, Birth)> {
    if let Some(cgroup) = cgroup {
        // SAFETY: the caller keeps fork's contract.
        match unsafe { clone3(CLONE_CLEAR_SIGHAND, Some(cgroup)) } {
            Ok(forked) => return Ok((forked, Birth { placed: true, no_handlers: true })),
            // Out of processes or memory: trying another way would only hide it.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) => return Err(e),
            // Older kernels, v1 descriptors, delegation limits, seccomp filters of containers.
            Err(_) => {}
        }
    }
    let birth = |no_handlers| Birth { placed: cgroup.is_none(), no_handlers };
    // SAFETY: the caller keeps fork's contract.
    match unsafe { clone3(CLONE_CLEAR_SIGHAND, None) } {
        // Container managers answer ENOSYS to clone3, whose flags their filters cannot read, and EPERM in old ones;
        // Linux before 5.5 answers EINVAL to this flag.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {
            // SAFETY: the caller keeps fork's contract.
            unsafe { clone_plain() }.map(|f| (f, birth(false)))
        }
        other => other.map(|f| (f, birth(true))),
    }
}

unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    // SAFETY: clone_args is a plain structure of integers, for which zero means "unused".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: args lives across the call, and the size is that of args. Without CLONE_VM the child has its own copy
    // of this stack.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    finish(result)
}

unsafe fn clone_plain() -> io::Result<Forked> {
    let flags = i64::from(libc::SIGCHLD);
    // SAFETY: clone(2): a null stack means a copy of the caller's.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, 0_u64, 0_u64, 0_u64) };
    finish(result)
}

fn finish(result: i64) -> io::Result<Forked> {
    match check(result)? {
        0 => Ok(Forked::Child),
        pid => {
            Ok(Forked::Parent(i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?))
        }
    }
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

/// Closes every descriptor from `first` to `last`, both included.
///
/// # Errors
/// What close_range(2) said.
///
/// # Safety
/// Nobody may use an owned descriptor in that range afterwards: for a child that is about to exec.
pub unsafe fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: integers only; the caller answers for the descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) }).map(drop)
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

/// Gives memory that nothing uses any more back to the kernel: glibc keeps it, unless it is at the heap's very end.
pub fn trim_memory() {
    // SAFETY: malloc_trim(3) touches only what is free.
    unsafe { libc::malloc_trim(0) };
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
