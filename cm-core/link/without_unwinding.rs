//! What keeps the unwinder out of the programs, and with it what words a backtrace.
//!
//! Where a panic aborts nobody unwinds, and the tables that say how are not linked (`abort.ld`): a backtrace has no first
//! frame. The standard library brings all of it nevertheless, for the message of a panic asks for a backtrace: a reader of
//! debug information, an inflater for it, a demangler, and of the C compiler's library the unwinder. A static linker takes
//! the first definition that it finds, and these are found before that library's; what they would have called back is
//! then called by nobody, and is left out.
//!
//! Only in `init` and `cm-worker`, and where a panic aborts, as is `without_stdio.rs`. The names and what they take and answer
//! are those of the Itanium C++ ABI, exception handling, level I.
#![allow(unsafe_code, non_snake_case)]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

/// `_URC_END_OF_STACK`: there is no frame to go to.
const END_OF_STACK: c_int = 5;

/// Calls nobody back: no frame is known.
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Backtrace(_each: *const c_void, _with: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Nothing was raised that could go on.
// SAFETY: it does not return, as is expected of it.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume(_exception: *mut c_void) -> ! {
    std::process::abort()
}

/// A personality is asked about a frame, of which none is ever found.
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn __gcc_personality_v0() -> c_int {
    END_OF_STACK
}

/// Where a frame is. What follows is named by the standard library's personality, and called by nobody.
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetIP(_frame: *mut c_void) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetIPInfo(_frame: *mut c_void, _before: *mut c_int) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetCFA(_frame: *mut c_void) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_FindEnclosingFunction(_address: *mut c_void) -> *mut c_void {
    null_mut()
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetLanguageSpecificData(_frame: *mut c_void) -> *mut c_void {
    null_mut()
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetRegionStart(_frame: *mut c_void) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetTextRelBase(_frame: *mut c_void) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: it does not look at what it is given.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_GetDataRelBase(_frame: *mut c_void) -> usize {
    0
}

/// See [`_Unwind_GetIP`].
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_SetGR(_frame: *mut c_void, _register: c_int, _value: usize) {}

/// See [`_Unwind_GetIP`].
// SAFETY: nothing is done.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_SetIP(_frame: *mut c_void, _value: usize) {}
