//! When PID 1 itself is broken: execute it again, with the live table.
//!
//! A fault (SIGSEGV and its like) may find the heap, the stack and every lock in any state, so the handler runs on
//! a stack of its own and only makes system calls; its arguments were put together when all was well. What it adds
//! is the moment of this death: who dies five times in a minute should try less, see [`deaths`] and
//! [`reap_for_ever`].
//!
//! Without a handler the kernel would panic: nobody may kill PID 1.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{fmt, io};

use nix::sys::signal::Signal;

use super::reap;

/// The variable with the moments of deaths: nanoseconds of CLOCK_BOOTTIME, oldest first, separated by commas.
pub const DEATHS: &str = "HOLDFAST_DEATHS";
/// The lowest bit of a moment: somebody sent the signal, and init itself is as sound as before.
const SENT: u64 = 1;
/// Deaths that are remembered.
const REMEMBERED: usize = 12;
/// Digits of a moment: as many as the largest number has.
const DIGITS: usize = 20;
/// Deaths within a minute after which a new PID 1 only reaps: something dies before it can even count.
pub const HOPELESS: usize = 10;
/// The faults that are caught.
const CAUGHT: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGSYS];
/// The level of what is said: that of daemons (3 << 3), emergency.
const LEVEL: &str = "<24>";
/// Bytes of the handler's stack.
const STACK: usize = 64 << 10;

/// Everything that the handler needs, in its final form.
struct Plan {
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// `HOLDFAST_DEATHS=…` with room for all moments, null-terminated.
    deaths: Box<UnsafeCell<[u8; DEATHS.len() + 1 + REMEMBERED * (DIGITS + 1) + 1]>>,
}

static PLAN: AtomicPtr<Plan> = AtomicPtr::new(std::ptr::null_mut());

/// The moments of deaths that led here, oldest first.
pub fn deaths() -> Vec<u64> {
    parse(&std::env::var(DEATHS).unwrap_or_default())
}

fn parse(text: &str) -> Vec<u64> {
    let all: Vec<u64> = text.split(',').filter_map(|n| n.parse().ok()).collect();
    all.get(all.len().saturating_sub(REMEMBERED)..).unwrap_or_default().to_vec()
}

/// Whether a death at this moment was a fault of init: root may send it what signal it likes.
pub const fn is_own(death: u64) -> bool {
    death & SENT == 0
}

/// How many of these deaths were its own and within the last minute.
pub fn recent(deaths: &[u64]) -> usize {
    let now = moment();
    deaths.iter().filter(|d| is_own(**d) && now.saturating_sub(**d) < 60_000_000_000).count()
}

fn moment() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: time lives across the call, which is safe in a signal handler.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    let nanos = seconds.unwrap_or_default().saturating_mul(1_000_000_000) + nanos.unwrap_or_default();
    nanos & !SENT
}

/// Appends a moment to a null-terminated list of them, dropping the oldest when it is full. No allocation.
fn append(text: &mut [u8], moment: u64) {
    let start = DEATHS.len() + 1;
    let mut end = text.iter().position(|b| *b == 0).unwrap_or(start).max(start);
    if end + DIGITS + 2 > text.len() {
        // All moments have the same length: the oldest is as long as the room that is needed.
        text.copy_within(start + DIGITS + 1..end, start);
        end = end.saturating_sub(DIGITS + 1);
    }
    if end > start
        && let Some(place) = text.get_mut(end)
    {
        *place = b',';
        end += 1;
    }
    let mut rest = moment;
    for place in text.iter_mut().skip(end).take(DIGITS).rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    if let Some(place) = text.get_mut(end + DIGITS) {
        *place = 0;
    }
}

/// From here on faults, and [`again`], end in an exec of this executable: with these arguments, the environment as
/// it is now, and `variable` naming the live table's descriptor. Calling it again replaces the arguments.
///
/// # Errors
/// When an argument has a NUL byte, or the kernel refuses the handlers.
pub fn arm(arguments: &[String], variable: &str, live: RawFd) -> io::Result<()> {
    let argv: Vec<CString> =
        arguments.iter().map(|a| CString::new(a.as_bytes())).collect::<Result<_, _>>()?;
    let mut environment = vec![CString::new(format!("{variable}={live}"))?];
    for (name, value) in std::env::vars_os() {
        use std::os::unix::ffi::OsStrExt;
        if name != variable && name != DEATHS {
            environment.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
    }
    let mut text = [0; DEATHS.len() + 1 + REMEMBERED * (DIGITS + 1) + 1];
    for (to, from) in text.iter_mut().zip(DEATHS.bytes().chain([b'='])) {
        *to = from;
    }
    for death in deaths() {
        append(&mut text, death);
    }
    let deaths = Box::new(UnsafeCell::new(text));
    let mut plan = Plan {
        argv: argv.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect(),
        environment: environment
            .iter()
            .map(|e| e.as_ptr())
            .chain([deaths.get().cast_const().cast(), std::ptr::null()])
            .collect(),
        deaths,
        _strings: argv,
    };
    plan._strings.append(&mut environment);
    let first = PLAN.swap(Box::into_raw(Box::new(plan)), Ordering::AcqRel).is_null();
    // An earlier plan is left where it is: a handler could be using it, and there are as many as re-arms, few.
    if first { install() } else { Ok(()) }
}

fn install() -> io::Result<()> {
    // The stack of its own: a fault is often the end of the other one. It lives as long as the process, and takes no memory
    // before there is one, as something of the heap would.
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let stack = unsafe {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), STACK, access, flags, -1, 0)
    };
    if stack == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let place = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
    // SAFETY: the memory is never unmapped, so it outlives every handler.
    if unsafe { libc::sigaltstack(&raw const place, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut faults = nix::sys::signal::SigSet::empty();
    for signal in CAUGHT {
        faults.add(signal);
        // SAFETY: sigaction is plain data, for which zero is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = fault;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
        // SAFETY: action lives across the calls; the handler makes only async-signal-safe calls. Everything is
        // blocked in it: what arrives waits for the next PID 1, which reads it from its signalfd.
        let result = unsafe {
            libc::sigfillset(&raw mut action.sa_mask);
            libc::sigaction(signal as c_int, &raw const action, std::ptr::null_mut())
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    std::panic::set_hook(Box::new(panicked));
    // A fault that led here is still blocked, as exec keeps the mask; blocked, the next one would be final.
    faults.thread_unblock()?;
    Ok(())
}

extern "C" fn fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    tell(signal);
    // sigaction(2): what is not positive was sent by a process, as abort(3) does by init itself.
    // SAFETY: with SA_SIGINFO the kernel gives a whole siginfo; kill(2), tgkill(2) and sigqueue(3) all say who.
    let sent = unsafe { (*info).si_code <= 0 && (*info).si_pid() != libc::getpid() };
    execute(if sent { SENT } else { 0 })
}

/// One line on standard error and in the kernel's log, by system calls alone.
fn tell(signal: c_int) {
    let mut line = *b"<24>holdfast: init was hit by signal 00: executing it again\n";
    let digits = [u8::try_from(signal / 10 % 10), u8::try_from(signal % 10)].map(Result::unwrap_or_default);
    if let Some(at) = line.windows(2).position(|w| w == b"00")
        && let Some(place) = line.get_mut(at..at + 2)
    {
        for (to, digit) in place.iter_mut().zip(digits) {
            *to = b'0' + digit;
        }
    }
    put(&line);
}

/// A line, after its level, for the kernel's log and standard error: by system calls alone, of which none waits. The
/// terminal or pipe is opened once more, since O_NONBLOCK would be the services' too; a socket cannot be.
fn put(line: &[u8]) {
    let text = line.get(LEVEL.len()..).unwrap_or_default();
    // SAFETY: lines and C strings live across the calls.
    unsafe {
        let kernel = libc::open(c"/dev/kmsg".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NONBLOCK);
        libc::write(kernel, line.as_ptr().cast(), line.len());
        libc::close(kernel);
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let error = libc::open(c"/proc/self/fd/2".as_ptr(), flags);
        if error >= 0 {
            libc::write(error, text.as_ptr().cast(), text.len());
            libc::close(error);
        } else {
            libc::send(2, text.as_ptr().cast(), text.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        }
    }
}

/// One line of fixed size, which takes no memory: what does not fit is left out.
struct Line {
    bytes: [u8; 900],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is for the end of the line.
        let room = self.bytes.get_mut(self.length..899).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = if from == b'\n' { b' ' } else { from };
            self.length += 1;
        }
        Ok(())
    }
}

/// What a panic says, in place of std's own way, which waits for whoever reads standard error.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let mut line = Line { bytes: [b'\n'; 900], length: 0 };
    let _fits = fmt::write(&mut line, format_args!("{LEVEL}holdfast: init {info}"));
    put(line.bytes.get(..=line.length).unwrap_or_default());
}

fn execute(sent: u64) -> ! {
    // SAFETY: a plan is never freed, and only changed here, where nothing returns.
    if let Some(plan) = unsafe { PLAN.load(Ordering::Acquire).as_ref() } {
        // SAFETY: nobody else writes, and execve reads only afterwards.
        append(unsafe { &mut *plan.deaths.get() }, moment() | sent);
        super::spawn::restore_descriptor_limit();
        // The running executable first, which is known to understand the table; the file of that name may be new.
        // SAFETY: null-terminated arrays of C strings that are never freed.
        unsafe { libc::execve(c"/proc/self/exe".as_ptr(), plan.argv.as_ptr(), plan.environment.as_ptr()) };
    }
    reap_for_ever()
}

/// What a handler does, for a panic that nobody caught: executes this program again. Does not return.
pub fn again() -> ! {
    // What is delivered between here and the new signalfd waits.
    let _best_effort = nix::sys::signal::SigSet::all().thread_block();
    execute(0)
}

/// The least that keeps a machine standing: reaps children, for ever. For a PID 1 that cannot do better.
pub fn reap_for_ever() -> ! {
    loop {
        // Blocks until a child has ended; without any, until a signal that is not blocked.
        // SAFETY: a null status is allowed.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            // No child now; SIGCHLD is what tells of the first one, and is blocked in PID 1.
            let mut set = nix::sys::signal::SigSet::empty();
            set.add(Signal::SIGCHLD);
            let _wait_again = set.thread_block();
            if reap::peek().is_ok_and(|e| e.is_none()) {
                let _wait_again = set.wait();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_remembered_up_to_a_number() {
        let mut text = [0; DEATHS.len() + 1 + REMEMBERED * (DIGITS + 1) + 1];
        for (to, from) in text.iter_mut().zip(DEATHS.bytes().chain([b'='])) {
            *to = from;
        }
        for n in 0..40_u64 {
            append(&mut text, n);
            let end = text.iter().position(|b| *b == 0).unwrap();
            let value = std::str::from_utf8(&text[DEATHS.len() + 1..end]).unwrap();
            let got = parse(value);
            let first = (n + 1).saturating_sub(REMEMBERED as u64);
            assert_eq!(got, (first..=n).collect::<Vec<_>>());
        }
        assert_eq!(parse("x,,5,99999999999999999999999"), [5]);
        append(&mut text, u64::MAX);
        let end = text.iter().position(|b| *b == 0).unwrap();
        assert!(std::str::from_utf8(&text[..end]).unwrap().ends_with(&u64::MAX.to_string()));
    }

    #[test]
    fn only_the_last_minute_counts() {
        let now = moment();
        let old = now.checked_sub(61_000_000_000);
        let deaths: Vec<u64> = old.into_iter().chain([now, now]).collect();
        assert_eq!(recent(&deaths), 2);
        assert_eq!(recent(&[now | SENT, now]), 1);
    }
}
