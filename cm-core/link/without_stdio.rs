//! What keeps C's standard input and output, its locales and its messages in other languages out of the programs.
//!
//! Nothing of Holdfast uses them, but glibc itself does where it complains: `malloc_info` prints, a failed assertion of the
//! C library is translated, `fork` looks after the locks of open `FILE`s. Linked statically, each such place brings all
//! of it, and with it the dynamic loader that character sets are loaded with: half a megabyte, a fifth of PID 1. A static
//! linker takes the first definition that it finds, and these are found before the library's (ld(1)).
//!
//! Only in `init` and `cm-worker`, and where a panic aborts, that is in the profiles `release` and `image`: see `build.rs`
//! beside this. A C library that calls other names than these is linked as it is; then the programs are larger, and
//! nothing else.
#![allow(unsafe_code, non_upper_case_globals)]

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::ptr::null_mut;
use std::sync::atomic::AtomicPtr;

/// stderr(3): for those who hand it to [`fprintf`], which does not look at it.
// SAFETY: a pointer like the library's, which nobody here follows.
#[unsafe(no_mangle)]
pub static stderr: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// fprintf(3), which prints nothing: malloc_stats(3) and malloc_info(3) call it, and nobody calls them.
// SAFETY: further arguments are the caller's to pass and to take away again.
#[unsafe(no_mangle)]
pub extern "C" fn fprintf(_file: *mut c_void, _format: *const c_char) -> c_int {
    0
}

/// snprintf(3) as the library calls it for errors without a text, which then have their number alone.
///
/// # Safety
/// `text` has room for `size` bytes.
// SAFETY: further arguments are the caller's to pass and to take away again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __snprintf(text: *mut c_char, size: usize, _format: *const c_char) -> c_int {
    if size > 0 {
        // SAFETY: the caller has said that there is room for a byte.
        unsafe { text.write(0) };
    }
    0
}

/// What assert(3) comes to: the signal is all that anybody would see of it in PID 1.
// SAFETY: it does not return, as is expected of it.
#[unsafe(no_mangle)]
pub extern "C" fn __assert_fail(
    _assertion: *const c_char,
    _file: *const c_char,
    _line: c_uint,
    _function: *const c_char,
) -> ! {
    std::process::abort()
}

/// dcgettext(3) in a machine without other languages.
// SAFETY: the text of the library itself lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn __dcgettext(
    _domain: *const c_char,
    message: *const c_char,
    _category: c_int,
) -> *const c_char {
    message
}

/// pthread_getattr_np(3), which reads /proc/self/maps by sscanf(3). The standard library asks for the guard page of a stack,
/// to word the message when a stack is used up; without an answer it leaves that to the signal.
// SAFETY: nothing is written, as is said by what is returned.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_getattr_np(_thread: libc::pthread_t, _attributes: *mut c_void) -> c_int {
    libc::ENOSYS
}

/// The decimal number that begins at `text`, the greatest instead of one that is greater, and where it ends.
///
/// # Safety
/// `text` ends with a zero.
unsafe fn number(text: *const c_char) -> (c_ulong, *const c_char) {
    let mut at = text;
    let mut value: c_ulong = 0;
    loop {
        // SAFETY: up to the zero, which is no digit, and not beyond it.
        let digit = unsafe { at.read() }.cast_unsigned().wrapping_sub(b'0');
        if digit > 9 {
            return (value, at);
        }
        value = value.saturating_mul(10).saturating_add(c_ulong::from(digit));
        // SAFETY: what was read is not the zero at the end.
        at = unsafe { at.add(1) };
    }
}

/// strtoul(3) as the C library calls it: for decimal numbers in files of the kernel, of how many processors there are.
///
/// # Safety
/// `text` ends with a zero, `end` is null or has room for a pointer.
// SAFETY: as strtoul(3) is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtoul(text: *const c_char, end: *mut *const c_char, _base: c_int) -> c_ulong {
    // SAFETY: the caller has said so.
    let (value, behind) = unsafe { number(text) };
    if !end.is_null() {
        // SAFETY: the caller has said that there is room.
        unsafe { end.write(behind) };
    }
    value
}

/// strtol(3) as sysconf(3) calls it, see [`strtoul`].
///
/// # Safety
/// As there.
// SAFETY: as strtol(3) is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtol(text: *const c_char, end: *mut *const c_char, base: c_int) -> c_long {
    // SAFETY: the caller has said so.
    c_long::try_from(unsafe { strtoul(text, end, base) }).unwrap_or(c_long::MAX)
}

/// What isalpha(3) and its like look things up in, made ready before `main`. Nothing that is linked does: `__ctype_b_loc` and
/// the tables are in none of the programs. Without this there would be tables, and with them all of the locale.
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn __ctype_init() {}

/// fork(2) takes this lock of the list of open files. There is no list.
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_list_lock() {}

/// See [`_IO_list_lock`].
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_list_unlock() {}

/// See [`_IO_list_lock`].
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_list_resetlock() {}

/// The child of a fork(2) goes through the list from here to [`_IO_iter_end`], and finds it empty.
// SAFETY: equal to the end, so that nobody follows it.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_iter_begin() -> *mut c_void {
    null_mut()
}

/// See [`_IO_iter_begin`].
// SAFETY: nobody follows it.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_iter_end() -> *mut c_void {
    null_mut()
}

/// See [`_IO_iter_begin`].
// SAFETY: called for nothing, as the list is empty.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_iter_next(_at: *mut c_void) -> *mut c_void {
    null_mut()
}

/// See [`_IO_iter_begin`].
// SAFETY: called for nothing, as the list is empty.
#[unsafe(no_mangle)]
pub extern "C" fn _IO_iter_file(_at: *mut c_void) -> *mut c_void {
    null_mut()
}
