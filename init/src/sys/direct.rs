//! System calls for a child that may share its memory with PID 1 ([`super::birth`]): nothing of the C library runs in
//! them, so that no `errno` of the parent's thread is written to. Paths are C strings; results are values or errors.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_long};
use std::os::fd::RawFd;

/// A result, or what the kernel said.
pub(super) type Outcome = Result<usize, i32>;

/// One argument as the kernel takes it.
fn word(number: i32) -> usize {
    // Sign extension is what the kernel's `int` parameters ignore and its `long` ones need.
    isize::try_from(number).unwrap_or(-1).cast_unsigned()
}

/// One system call.
///
/// # Safety
/// As the call asks for.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn call(number: c_long, arguments: [usize; 6]) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: the convention of syscall(2) for this architecture; what the call does is the caller's business.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    // syscall(2): what lies in the last page is an error, also where results are addresses.
    match i32::try_from(result) {
        Ok(error @ -4095..0) => Err(-error),
        _ => Ok(usize::try_from(result.cast_unsigned()).unwrap_or(usize::MAX)),
    }
}

/// One system call; here memory is never shared, so that errno is the child's own.
///
/// # Safety
/// As the call asks for.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn call(number: c_long, arguments: [usize; 6]) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller answers for it.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A call whose arguments are all numbers that name no memory.
pub(super) fn numbers(number: c_long, arguments: [i32; 4]) -> Outcome {
    let [a, b, c, d] = arguments.map(word);
    // SAFETY: no memory is named; who calls it knows which descriptors it is about.
    unsafe { call(number, [a, b, c, d, 0, 0]) }
}

/// open(2), relative to a directory for a path that is.
pub(super) fn open_at(directory: RawFd, path: &CStr, flags: i32) -> Result<RawFd, i32> {
    // SAFETY: a C string that lives across the call.
    let opened = unsafe {
        call(libc::SYS_openat, [word(directory), path.as_ptr().expose_provenance(), word(flags), 0, 0, 0])
    };
    opened.and_then(|fd| RawFd::try_from(fd).map_err(|_| libc::EBADF))
}

/// open(2).
pub(super) fn open(path: &CStr, flags: i32) -> Result<RawFd, i32> {
    open_at(libc::AT_FDCWD, path, flags)
}

/// close(2); a descriptor that the caller does not use again.
pub(super) fn close(fd: RawFd) {
    // What is closed here was opened by the same function: nobody has an interest in more.
    let _closed = numbers(libc::SYS_close, [fd, 0, 0, 0]);
}

/// write(2).
pub(super) fn write(fd: RawFd, bytes: &[u8]) -> Outcome {
    // SAFETY: the bytes live across the call.
    unsafe { call(libc::SYS_write, [word(fd), bytes.as_ptr().expose_provenance(), bytes.len(), 0, 0, 0]) }
}

/// read(2).
pub(super) fn read(fd: RawFd, room: &mut [u8]) -> Outcome {
    let at = room.as_mut_ptr().expose_provenance();
    // SAFETY: the room lives across the call, and nobody else looks at it.
    unsafe { call(libc::SYS_read, [word(fd), at, room.len(), 0, 0, 0]) }
}

/// A call that reads or writes one structure at its argument with this index.
///
/// # Safety
/// The call reads or writes nothing but a structure like `T` there, and `T` is plain data.
pub(super) unsafe fn with<T>(
    number: c_long,
    mut arguments: [usize; 6],
    index: usize,
    value: &mut T,
) -> Outcome {
    if let Some(argument) = arguments.get_mut(index) {
        *argument = std::ptr::from_mut(value).expose_provenance();
    }
    // SAFETY: value lives across the call; the rest is the caller's promise.
    unsafe { call(number, arguments) }
}

/// fcntl(2) and its like: descriptor, command, argument.
pub(super) fn control(number: c_long, fd: RawFd, command: usize, argument: usize) -> Outcome {
    // SAFETY: used with commands whose argument is a number.
    unsafe { call(number, [word(fd), command, argument, 0, 0, 0]) }
}

/// What the call takes for a path.
pub(super) fn path(number: c_long, path: &CStr) -> Outcome {
    // SAFETY: a C string that lives across the call.
    unsafe { call(number, [path.as_ptr().expose_provenance(), 0, 0, 0, 0, 0]) }
}
