//! A new process: a copy of this one, or, for PID 1 of a machine, one that shares its memory until it executes its program.
//!
//! To copy a process costs most of what a start costs: page tables, a fault and a copy for each page that either side
//! writes to afterwards, and to tear all of that down again. A child that shares the memory costs none of it. It is not
//! vfork(2): PID 1 goes on at once, and a child that hangs hangs alone. So the child has a stack of its own, and the plan
//! that it works off belongs to it until its status pipe has come to its end, which is after it has left the memory:
//! execve(2) closes descriptors when the new image is in place, and _exit(2) when nothing runs any more.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::child::{self, Plan};

/// Which side of a [`fork_into`] runs.
#[derive(Debug)]
pub enum Forked {
    /// The caller: the child's pid.
    Parent(i32),
    /// The new process: a copy of the caller with one thread.
    Child,
}

/// What was done for the child already.
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
        match unsafe { clone3(Some(cgroup)) } {
            Ok(forked) => return Ok((forked, Birth { placed: true, no_handlers: true })),
            // Out of processes or memory: trying another way would only hide it.
            Err(e) if is_exhaustion(&e) => return Err(e),
            // Older kernels, v1 descriptors, delegation limits, seccomp filters of containers.
            Err(_) => {}
        }
    }
    let birth = |no_handlers| Birth { placed: cgroup.is_none(), no_handlers };
    // SAFETY: the caller keeps fork's contract.
    match unsafe { clone3(None) } {
        // Container managers answer ENOSYS to clone3, whose flags their filters cannot read, and EPERM in old ones;
        // Linux before 5.5 answers EINVAL to this flag.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {
            // SAFETY: the caller keeps fork's contract.
            unsafe { clone_plain() }.map(|f| (f, birth(false)))
        }
        other => other.map(|f| (f, birth(true))),
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM))
}

fn arguments(cgroup: Option<BorrowedFd<'_>>) -> libc::clone_args {
    // SAFETY: clone_args is a plain structure of integers, for which zero means "unused".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_CLEAR_SIGHAND;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    args
}

unsafe fn clone3(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut args = arguments(cgroup);
    // SAFETY: args lives across the call, and the size is that of args. Without CLONE_VM the child has its own copy
    // of this stack.
    finish(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })
}

unsafe fn clone_plain() -> io::Result<Forked> {
    let flags = i64::from(libc::SIGCHLD);
    // SAFETY: clone(2): a null stack means a copy of the caller's.
    finish(unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, 0_u64, 0_u64, 0_u64) })
}

fn finish(result: i64) -> io::Result<Forked> {
    match result {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            Ok(Forked::Parent(i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of the stack and the room of one child.
const REGION: usize = 64 << 10;
/// Where its stack begins, downwards, and its room, upwards: in the middle of a page, which is all that most children need
/// of both. Its functions need a tenth of the stack, and none calls itself.
const STACK: usize = (32 << 10) + (2 << 10);
/// Bytes of its room: a user database of usual size, and what it adds to the environment.
const ROOM: usize = REGION - STACK;
/// Regions that are mapped together.
const TOGETHER: usize = 16;
/// A page in front of them that nobody may touch.
const GUARD: usize = 4 << 10;
const SLAB: usize = GUARD + TOGETHER * REGION;

/// Stack and room of one child.
#[derive(Debug)]
struct Region(NonNull<u8>);

// SAFETY: memory that is used by whoever owns this.
unsafe impl Send for Region {}

/// All regions.
struct Pool {
    slabs: Vec<Region>,
    free: Vec<Region>,
    /// How many are in use, and were at most since there was none.
    used: usize,
    most: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { slabs: Vec::new(), free: Vec::new(), used: 0, most: 0 });

impl Region {
    fn new() -> io::Result<Region> {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.free.is_empty() {
            pool.map()?;
        }
        let region = pool.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        pool.used += 1;
        pool.most = pool.most.max(pool.used);
        Ok(region)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: offsets are the constants above, within the mapping.
        unsafe { self.0.as_ptr().add(offset) }
    }

    /// Nobody runs on it any more.
    fn give_back(self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.free.push(self);
        pool.used = pool.used.saturating_sub(1);
        if pool.used == 0 {
            // What many children have used at once is not kept for the next one.
            if pool.most > 1 {
                pool.unmap();
            }
            pool.most = 0;
        }
    }
}

impl Pool {
    fn map(&mut self) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping aliases nothing.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), SLAB, access, kind, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slab = Region(NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        // SAFETY: the first page of what was just mapped.
        if unsafe { libc::mprotect(at, GUARD, libc::PROT_NONE) } < 0 {
            let error = io::Error::last_os_error();
            // SAFETY: exactly what mmap returned.
            unsafe { libc::munmap(at, SLAB) };
            return Err(error);
        }
        let regions = (0..TOGETHER).map(|n| slab.at(GUARD + n * REGION));
        self.free.extend(regions.filter_map(NonNull::new).map(Region));
        self.slabs.push(slab);
        Ok(())
    }

    /// Nobody uses any of it.
    fn unmap(&mut self) {
        self.free.clear();
        for slab in self.slabs.drain(..) {
            // SAFETY: exactly what mmap returned, unmapped once; nobody runs on any region of it.
            unsafe { libc::munmap(slab.0.as_ptr().cast(), SLAB) };
        }
    }
}

/// What a child works off in memory that it shares, and the region that it runs on.
struct Work {
    plan: Plan,
    birth: Birth,
    region: Region,
}

/// A child's claim on memory. Dropped before the child is known to have left it, the memory is lost, not freed.
#[derive(Debug)]
pub(super) struct Lent(NonNull<Work>);

impl Lent {
    /// The child has left: its status pipe has come to its end.
    pub(super) fn take_back(self) {
        // SAFETY: made by `Box::into_raw` in `share`, taken back once, as self is used up; the child was the only
        // other one to use it.
        let work = unsafe { Box::from_raw(self.0.as_ptr()) };
        work.region.give_back();
    }
}

/// Whether a child that dies with a core dump dies alone. Before Linux 5.16 such a signal killed every process that
/// shared its memory, PID 1 among them.
static DIES_ALONE: LazyLock<bool> = LazyLock::new(|| {
    nix::sys::utsname::uname().is_ok_and(|names| dies_alone(&names.release().to_string_lossy()))
});

fn dies_alone(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0_u32));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 16)
}

/// Starts a child that shares the memory; the plan comes back where that cannot be done.
pub(super) fn share(plan: Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<(i32, Lent), Box<Plan>> {
    if !cfg!(target_arch = "x86_64") || !plan.may_share() || !*DIES_ALONE {
        return Err(Box::new(plan));
    }
    let Ok(region) = Region::new() else { return Err(Box::new(plan)) };
    let stack = region.at(0);
    let birth = Birth { placed: true, no_handlers: true };
    let work = NonNull::from(Box::leak(Box::new(Work { plan, birth, region })));
    let mut args = arguments(cgroup);
    args.flags |= u64::try_from(libc::CLONE_VM).unwrap_or_default();
    args.stack = stack.expose_provenance() as u64;
    args.stack_size = STACK as u64;
    // SAFETY: the stack and the work are the child's until it has left the memory.
    match unsafe { clone_onto(&mut args, work.as_ptr().cast()) } {
        Ok(pid) => Ok((pid, Lent(work))),
        Err(_) => {
            // SAFETY: there is no child: the work is as it was.
            let work = unsafe { Box::from_raw(work.as_ptr()) };
            work.region.give_back();
            Err(Box::new(work.plan))
        }
    }
}

/// Where such a child begins.
extern "C" fn begin(work: *mut c_void) -> ! {
    // SAFETY: `share` gave it, and leaves it alone until this process has left the memory.
    let work = unsafe { &mut *work.cast::<Work>() };
    // SAFETY: the room is the last part of the region, which belongs to this process.
    let room = unsafe { std::slice::from_raw_parts_mut(work.region.at(STACK), ROOM) };
    child::run(&mut work.plan, work.birth, Some(room))
}

/// clone3(2) with a stack: the child calls [`begin`] on it.
///
/// # Safety
/// The stack of `args` and `work` belong to the child for as long as it runs in this memory.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_onto(args: &mut libc::clone_args, work: *mut c_void) -> io::Result<i32> {
    let start: extern "C" fn(*mut c_void) -> ! = begin;
    let result: i64;
    // SAFETY: syscall(2) for this architecture. The child has all registers of the parent but rax and rsp, which is
    // aligned as a call needs it; it never returns from `begin`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_mut(args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") work,
            in("r13") start,
            out("rcx") _,
            out("r11") _,
        );
    }
    match i32::try_from(result) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(error) => Err(io::Error::from_raw_os_error(-error)),
        Err(_) => Err(io::Error::from_raw_os_error(libc::ERANGE)),
    }
}

/// Nobody asks for it: see [`share`].
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_onto(_args: &mut libc::clone_args, _work: *mut c_void) -> io::Result<i32> {
    let _: extern "C" fn(*mut c_void) -> ! = begin;
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_whether_a_core_dump_is_one_process_only() {
        for release in ["5.16.0", "5.16-rc1", "6.1.0-18-amd64", "10.0", "6"] {
            assert!(dies_alone(release), "{release}");
        }
        for release in ["5.15.167-generic", "5.4.0", "4.19.0-26", "5", "", "unknown"] {
            assert!(!dies_alone(release), "{release}");
        }
    }
}
