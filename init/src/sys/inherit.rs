//! Descriptors that came through execve: from PID 1 to a helper, or from PID 1 to its next self.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Numbers that are tried where there is no list.
const PROBED: RawFd = 65_536;

/// Takes over the descriptor with this number. To be called once a number, at the start of a process.
///
/// # Errors
/// EBADF when it is not open.
pub fn descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_GETFD touches nothing and answers EBADF for what is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was given to this process, and by contract is taken over only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Everything that came through execve, to be called before anything is opened: what a process opens itself may get
/// a number that its predecessor had noted and closed since.
pub fn all() -> BTreeMap<RawFd, OwnedFd> {
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect::<Vec<RawFd>>()
    });
    // Without /proc every number is tried; those of a machine's PID 1 are low.
    let numbers = listed.unwrap_or_else(|_| (0..PROBED).collect());
    // The list's own descriptor is among them, and closed by now.
    let taken = numbers.into_iter().filter(|n| *n > 2).filter_map(|n| Some((n, descriptor(n).ok()?)));
    taken.collect()
}

/// Sets whether a descriptor closes at execve.
///
/// # Errors
/// What fcntl(2) said.
pub fn set_close_on_exec(descriptor: BorrowedFd<'_>, close: bool) -> io::Result<()> {
    let flag = if close { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: integers only.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, flag) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
