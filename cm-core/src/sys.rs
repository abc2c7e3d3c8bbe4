//! The few system calls of the worker that no crate wraps safely: extended attributes by descriptor, capability
//! sets, fork, the lock of the user databases, random bytes.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Bytes that nobody else has. Early at boot they may be such as somebody could guess; that is not waited for.
///
/// # Errors
/// Whatever getrandom(2) reports.
pub fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    // SAFETY: the pointer and the length are those of one live buffer.
    let filled =
        checked(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_INSECURE) })?;
    if filled == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Names of the extended attributes of an open file, sorted. A file system without any gives none.
///
/// # Errors
/// Whatever flistxattr(2) reports, except that attributes are not supported.
pub fn xattr_names(fd: impl AsFd) -> io::Result<Vec<String>> {
    let fd = fd.as_fd().as_raw_fd();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        // SAFETY: the pointer and the length are those of one live buffer (null and 0 ask for the size).
        let found = checked(unsafe { libc::flistxattr(fd, buffer.as_mut_ptr().cast(), buffer.len()) });
        match found {
            Ok(0) => return Ok(Vec::new()),
            Ok(length) if length <= buffer.len() => {
                buffer.truncate(length);
                break;
            }
            Ok(length) => buffer.resize(length, 0),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => buffer.clear(),
            Err(e) => return Err(e),
        }
    }
    let mut names: Vec<String> = buffer
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .filter_map(|n| std::str::from_utf8(n).ok().map(str::to_owned))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Value of an extended attribute of an open file; `None` when it has no such attribute.
///
/// # Errors
/// Whatever fgetxattr(2) reports beside that.
pub fn xattr(fd: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let fd = fd.as_fd().as_raw_fd();
    let name = c_string(name)?;
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        // SAFETY: `name` is a C string; pointer and length are those of one live buffer.
        let found =
            checked(unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) });
        match found {
            Ok(length) if length <= buffer.len() => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Ok(length) => buffer.resize(length, 0),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => buffer.clear(),
            Err(e) => return Err(e),
        }
    }
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// Whatever fsetxattr(2) reports.
pub fn set_xattr(fd: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: `name` is a C string; pointer and length are those of `value`, which outlives the call.
    let result = unsafe {
        libc::fsetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes an extended attribute of an open file.
///
/// # Errors
/// Whatever fremovexattr(2) reports.
pub fn remove_xattr(fd: impl AsFd, name: &str) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: `name` is a C string.
    let result = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Changes the times of the link (or file) that an O_PATH descriptor stands for.
///
/// # Errors
/// Whatever utimensat(2) reports; kernels before 5.8 refuse.
pub fn set_link_mtime(fd: impl AsFd, mtime: (i64, i64)) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec { tv_sec: mtime.0, tv_nsec: mtime.1 },
    ];
    let empty: &CStr = c"";
    // SAFETY: the path is a C string, the array has the two members that the call reads.
    let result = unsafe {
        libc::utimensat(fd.as_fd().as_raw_fd(), empty.as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which side of a [`fork`] this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one; the process id of the new one.
    Parent(nix::unistd::Pid),
}

/// Makes a copy of this process, which must have one thread only: the worker has.
///
/// # Errors
/// Whatever fork(2) reports.
pub fn fork() -> nix::Result<Forked> {
    // SAFETY: the worker never starts a thread, so no lock can be held by somebody who is not copied.
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// Has the kernel kill this process when `parent` ends, however that happens; a process that is stopped too. Forgotten
/// when the process becomes another user.
///
/// # Errors
/// When the parent has ended already, and whatever prctl(2) reports.
pub fn die_with(parent: nix::unistd::Pid) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs()))?;
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Ends a copy that [`fork`] has made. Nothing of the original is cleaned up in it: exit(3) would wait for locks, and a test
/// makes copies while other threads hold them.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) looks at no memory.
    unsafe { libc::_exit(code) }
}

/// Has a file's data written without waiting for it, so that one commit of the file system makes it durable along with what
/// is waited for next. Nothing depends on it: where it cannot be had, that takes longer.
pub fn begin_writing(file: &File) {
    // SAFETY: sync_file_range(2) looks at no memory.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Takes over a descriptor that this process was started with.
///
/// # Errors
/// When it is not open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks at the number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the contract of proto.rs it was made for this process, which takes it once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Maps a sealed or otherwise unchanging file for reading.
#[derive(Debug)]
pub struct Mapping {
    start: *const u8,
    length: usize,
}

// SAFETY: the mapping is read-only and private to its owner; nothing in it can be changed through it.
unsafe impl Send for Mapping {}
// SAFETY: as above, shared reads are harmless.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole of a memfd that nobody can change any more.
    ///
    /// # Errors
    /// When it is not sealed against writing and shrinking, or mmap(2) fails.
    pub fn sealed(file: &File) -> io::Result<Mapping> {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        let seals = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "memfd is not sealed"));
        }
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Mapping { start: std::ptr::NonNull::dangling().as_ptr(), length: 0 });
        }
        // SAFETY: a fresh private read-only mapping at an address of the kernel's choice; the seals keep the
        // bytes and the size as they are for as long as it stands.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start.cast_const().cast(), length })
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start and length are those of the mapping, which stands until drop.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping was made in `sealed` with this address and length, and nobody borrows it.
            unsafe {
                libc::munmap(self.start.cast_mut().cast(), self.length);
            }
        }
    }
}

/// Gives up every capability that is not in `keep` (a bit a capability number), for good.
///
/// # Errors
/// Whatever capset(2) reports.
pub fn keep_capabilities(keep: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // capget(2): version 3 has two words of each set.
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data have the layout that the kernel expects of version 3, and outlive the call.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, shift) in data.iter_mut().zip([0u32, 32]) {
        let mask = u32::try_from((keep >> shift) & 0xffff_ffff).unwrap_or_default();
        word.permitted &= mask;
        word.effective = word.permitted;
        word.inheritable = 0;
    }
    // SAFETY: as above; the kernel only reads.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sees to it that a blocking call ends with EINTR after so many seconds, or soon after that where it begins later; 0 takes
/// that back. Only in a process of one thread: another one may be who is interrupted.
pub fn interrupt_after(seconds: u32) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, which is safe at any moment; the structure is zeroed but for what is
    // set, and without SA_RESTART the call that waits is interrupted.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let time = |seconds: u32| libc::timeval { tv_sec: i64::from(seconds), tv_usec: 0 };
        let timer = libc::itimerval { it_interval: time(seconds.min(1)), it_value: time(seconds) };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}

/// Locks a whole file as lckpwdf(3) does: a record lock, waited for until [`interrupt_after`] strikes. It is
/// gone when any descriptor of the file is closed in this process.
///
/// # Errors
/// EINTR when time ran out; else whatever fcntl(2) reports.
pub fn lock_record(file: &File) -> io::Result<()> {
    let write = libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default();
    let start = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    let lock = libc::flock { l_type: write, l_whence: start, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &raw const lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An advisory lock of the whole open file, flock(2), waited for.
///
/// # Errors
/// Whatever flock(2) reports.
pub fn lock_file(file: &File, exclusive: bool) -> io::Result<()> {
    let how = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
    loop {
        // SAFETY: only a descriptor number is passed.
        if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The same until [`interrupt_after`] strikes: whether it was to be had by then.
///
/// # Errors
/// Whatever flock(2) reports beside that.
pub fn await_lock_file(file: &File) -> io::Result<bool> {
    // SAFETY: only a descriptor number is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
}

/// The same without waiting: whether it was to be had.
///
/// # Errors
/// Whatever flock(2) reports.
pub fn try_lock_file(file: &File) -> io::Result<bool> {
    // SAFETY: only a descriptor number is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Lets go of [`lock_file`].
pub fn unlock_file(file: &File) {
    // SAFETY: only a descriptor number is passed; it cannot fail for an open file.
    unsafe {
        libc::flock(file.as_raw_fd(), libc::LOCK_UN);
    }
}

/// Number of the mount on which an open file lies, and whether it is the root of that mount.
///
/// # Errors
/// Whatever statx(2) reports.
pub fn mount_of(fd: impl AsFd) -> io::Result<(u64, bool)> {
    // SAFETY: an all-zero statx structure is a valid value of it.
    let mut out: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the structure outlives the call.
    let result = unsafe {
        libc::statx(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_MNT_ID,
            &raw mut out,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let root = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).unwrap_or_default();
    Ok((out.stx_mnt_id, out.stx_attributes & root != 0))
}

/// Becomes this user and group for good, with these supplementary groups and no others.
///
/// # Errors
/// Whatever setgroups(2), setresgid(2) and setresuid(2) report.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: numbers, and a list that outlives the call. The raw calls change this thread, the only one.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, gid, gid, gid),
            libc::syscall(libc::SYS_setresuid, uid, uid, uid),
        ]
    };
    if results.iter().all(|r| *r == 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// prctl(2) with one argument.
///
/// # Errors
/// Whatever the call reports.
pub fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: only called with options that take numbers.
    let result = unsafe { libc::prctl(option, argument, zero, zero, zero) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Version of Landlock that the kernel offers.
///
/// # Errors
/// When it offers none.
pub fn landlock_version() -> io::Result<u32> {
    // SAFETY: with the version flag (1) the call reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, 1u32)
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// An inotify instance that somebody else made.
pub fn inotify(fd: OwnedFd) -> nix::sys::inotify::Inotify {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is owned, and handed over.
    unsafe { nix::sys::inotify::Inotify::from_raw_fd(fd.into_raw_fd()) }
}

/// Marks a directory in a fanotify group: events of its entries, and of what is done through them.
///
/// # Errors
/// Whatever fanotify_mark(2) reports.
pub fn mark_directory(group: impl AsFd, directory: impl AsFd, events: u64) -> io::Result<()> {
    // The descriptor, not the path again: it may lead elsewhere by now. Nor by itself: it may be an O_PATH one.
    let path = c_string(&format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()))?;
    let group = group.as_fd().as_raw_fd();
    // SAFETY: numbers, and a C string that outlives the call.
    let result =
        unsafe { libc::fanotify_mark(group, libc::FAN_MARK_ADD, events, libc::AT_FDCWD, path.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes these descriptors. Only for a process made by [`fork`] which never comes back to whoever owns them.
pub fn close(fds: &[RawFd]) {
    for fd in fds {
        // SAFETY: the owner of the number is in the memory of this process, but never runs again here.
        unsafe {
            libc::close(*fd);
        }
    }
}

/// Closes every descriptor from 3 on but these. For processes made by [`fork`], as [`close`].
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: numbers only; whoever owned them never runs again in this process.
            unsafe {
                libc::syscall(libc::SYS_close_range, from, last, 0);
            }
        }
        from = fd.saturating_add(1);
    }
}
