//! Before `main`: descriptors 0 to 2, and what was inherited and Rust's start-up is about to change.
//!
//! std aborts when one of 0 to 2 is closed and `/dev/null` cannot be opened, as in an initramfs without /dev; and
//! it ignores SIGPIPE, which a program that is executed by us must not inherit. So this runs earlier, from
//! `.init_array`: it opens what is closed and notes how things were.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

static WAS_CLOSED: AtomicU8 = AtomicU8::new(0);
static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

#[used]
// SAFETY: .init_array holds pointers to C functions; this one needs nothing that is set up later: it makes system
// calls and stores into atomics.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    for number in 0..3 {
        // SAFETY: integers only.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        WAS_CLOSED.fetch_or(1 << number, Ordering::Relaxed);
        // SAFETY: C strings that live for ever. The lowest free number is `number`, as those below are open.
        unsafe {
            if libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) < 0
                && libc::open(c"/dev/console".as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK) < 0
            {
                // A file in memory takes and gives bytes without any file system.
                libc::memfd_create(c"stdio".as_ptr(), 0);
            }
        }
    }
    // SAFETY: sigaction is plain data, for which zero is valid; a null new action only asks.
    let ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    };
    PIPE_WAS_IGNORED.store(ignored, Ordering::Relaxed);
}

/// Whether this descriptor (0 to 2) was closed when the process started.
pub fn was_closed(number: RawFd) -> bool {
    (0..3).contains(&number) && WAS_CLOSED.load(Ordering::Relaxed) & (1 << number) != 0
}

/// Whether SIGPIPE was ignored when the process started.
pub fn pipe_was_ignored() -> bool {
    PIPE_WAS_IGNORED.load(Ordering::Relaxed)
}

/// Says something on standard error. Where that takes nothing nobody is left to tell: `eprintln!` would panic.
pub fn complain(text: &str) {
    let _nobody = io::stderr().write_all(format!("init: {text}\n").as_bytes());
}

/// Prints on standard output, as far as that takes it.
pub fn print(text: &str) {
    let mut output = io::stdout();
    let _nobody = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Puts a descriptor in the place of 0, 1 and 2.
///
/// # Errors
/// What dup2(2) said.
pub fn replace(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: integers only. Who holds 0 to 2 (std's handles) holds the numbers, not what is behind them.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
