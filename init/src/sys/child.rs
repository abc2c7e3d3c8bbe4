//! What the new process does between clone3 and execve.
//!
//! Everything it needs was prepared by [`super::spawn`]; here nothing allocates from the heap, so that the copy of
//! a process with threads (a test) is as safe as that of PID 1, which has one. A failing step is reported over
//! the status pipe as (stage, index, errno), and the process exits.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use super::raw::{self, Birth};
use super::signals::KernelSigaction;
use super::spawn::Stage;
use super::userdb;

/// Bytes of a report: stage, index, two of zero, errno (little endian).
pub(super) const REPORT: usize = 8;
/// Stage number of "every step is done, execve comes next".
pub(super) const ABOUT_TO_EXEC: u8 = 0xff;
/// Most supplementary groups, as NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;

/// Where standard output and error go.
#[derive(Debug, Clone, Copy)]
pub(super) enum OutputPlan {
    /// As they are.
    Inherit,
    /// `/dev/null`.
    Null,
    /// `/dev/console`.
    Console,
    /// A descriptor of the parent: index into `sources`.
    Source(usize),
}

/// Everything the child needs, in its final form.
pub(super) struct Plan {
    /// Paths to try, in order.
    pub candidates: Vec<CString>,
    /// Arguments; null-terminated pointers are in `argv_pointers`.
    pub argv: Vec<CString>,
    /// Environment without what the user database adds.
    pub environment: Vec<CString>,
    /// Room for the pointers of `argv` and a null.
    pub argv_pointers: Vec<*const c_char>,
    /// Room for the pointers of the environment, four more and a null.
    pub env_pointers: Vec<*const c_char>,
    /// Which of HOME, USER, LOGNAME, SHELL are to be added.
    pub add_identity: [bool; 4],
    /// User name or number.
    pub user: Option<CString>,
    /// Group name or number.
    pub group: Option<CString>,
    /// Supplementary groups.
    pub groups: Vec<CString>,
    /// Working directory.
    pub directory: CString,
    /// File creation mask.
    pub umask: u32,
    /// (resource, soft, hard).
    pub limits: Vec<(u32, u64, u64)>,
    /// Scheduling priority, if one is to be set.
    pub nice: Option<i32>,
    /// Text for `/proc/self/oom_score_adj`.
    pub oom_score: Option<CString>,
    /// Controlling terminal.
    pub tty: Option<CString>,
    /// Descriptors of the parent that the child needs, the status pipe first.
    pub sources: Vec<RawFd>,
    /// Where they stand once they are out of the way; filled by the child, room reserved.
    pub moved: Vec<RawFd>,
    /// Standard input: index into `sources`, else `/dev/null`.
    pub input: Option<usize>,
    /// Standard output and error.
    pub output: OutputPlan,
    /// (number in the service, index into `sources`).
    pub targets: Vec<(RawFd, usize)>,
    /// Index into `sources` of the cgroup's directory.
    pub cgroup: Option<usize>,
    /// Whether the child starts a session of its own.
    pub session: bool,
    /// The signals that the parent ignores, bit n - 1 for signal n.
    pub ignored: u64,
}

type Step = Result<(), (Stage, u8, i32)>;

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn index(i: usize) -> u8 {
    u8::try_from(i).unwrap_or(u8::MAX)
}

fn check(result: i32, stage: Stage) -> Result<i32, (Stage, u8, i32)> {
    if result < 0 { Err((stage, 0, errno())) } else { Ok(result) }
}

/// Runs the plan. Never returns.
pub(super) fn run(plan: &mut Plan, birth: Birth) -> ! {
    if let Err((stage, index, errno)) = steps(plan, birth) {
        let status = plan.moved.first().or(plan.sources.first()).copied().unwrap_or(-1);
        report(status, stage.number(), index, errno);
    }
    // SAFETY: _exit(2) runs no handlers of the parent; 127 as shells do, though the report says more.
    unsafe { libc::_exit(127) }
}

fn report(status: RawFd, stage: u8, index: u8, errno: i32) {
    let mut bytes = [0; REPORT];
    let parts = [stage, index, 0, 0].into_iter().chain(errno.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(parts) {
        *to = from;
    }
    // A parent that has executed itself again, or does not want to know, closes its end: that must not end the
    // child.
    // SAFETY: bytes lives across the call; signal(2) with these dispositions runs no code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::write(status, bytes.as_ptr().cast(), bytes.len());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

fn steps(plan: &mut Plan, birth: Birth) -> Step {
    // ORDER: first, before anything that can wait: what PID 1 holds (clients, other services' pipes) must not be
    // kept open by a child that hangs in a later step.
    descriptors_away(plan)?;
    // ORDER: the handlers point into PID 1's crash code; they must be gone before a signal can arrive, and
    // signals must arrive before a step can hang.
    signals(if birth.no_handlers { plan.ignored } else { u64::MAX });
    // ORDER: while still root, and before there can be children.
    if !birth.placed {
        cgroup(plan)?;
    }
    // ORDER: before the terminal, which only a session's leader without one can take.
    if plan.session {
        // SAFETY: no arguments. A fresh child is never a group leader, so this cannot fail.
        check(unsafe { libc::setsid() }, Stage::Session)?;
    }
    // ORDER: lowering either needs privileges that are dropped below.
    scores(plan)?;
    // ORDER: terminal and console belong to root; opened before the user changes, and before the limits, which
    // may allow fewer descriptors than are open now.
    stdio(plan)?;
    place(plan)?;
    // SAFETY: umask(2) cannot fail and touches no memory.
    unsafe { libc::umask(plan.umask) };
    // ORDER: the databases are read before the limits (address space, file size, descriptors) are in force.
    let identity = identity(plan)?;
    // ORDER: raising a hard limit needs root; before the ids.
    for (i, (resource, soft, hard)) in plan.limits.iter().enumerate() {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: limit lives across the call.
        let result = unsafe { libc::setrlimit(*resource, &raw const limit) };
        if result < 0 {
            return Err((Stage::Limit, index(i), errno()));
        }
    }
    // ORDER: while root may still give it away. A daemon that opens /dev/stdout opens its log pipe anew, which needs
    // to be its own.
    if let (OutputPlan::Source(_), Some(uid), None) = (plan.output, identity.uid, &plan.tty) {
        give_pipe(uid);
    }
    ids(&identity)?;
    // ORDER: as the user, so that it is the user who must be able to go there.
    // SAFETY: a C string that lives across the call.
    check(unsafe { libc::chdir(plan.directory.as_ptr()) }, Stage::Directory)?;
    exec(plan, &identity)
}

/// Moves the needed descriptors above every target number and closes all others but 0 to 2.
fn descriptors_away(plan: &mut Plan) -> Step {
    let floor = plan.targets.iter().map(|(t, _)| t.saturating_add(1)).fold(10, RawFd::max);
    for (i, source) in plan.sources.iter().enumerate() {
        // SAFETY: integers only.
        let moved = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, floor) };
        if moved < 0 {
            return Err((Stage::Descriptor, index(i), errno()));
        }
        plan.moved.push(moved);
    }
    // F_DUPFD gives the lowest free number, so that they are not always in order; insertion into a fixed array
    // would be as long as looking for the next one each time.
    let mut first = 3_u32;
    loop {
        let next = plan.moved.iter().filter_map(|m| u32::try_from(*m).ok()).filter(|m| *m >= first).min();
        let last = next.map_or(u32::MAX, |n| n.saturating_sub(1));
        // SAFETY: the owners of these descriptors are in the parent's copy of the memory; here nobody drops them.
        unsafe { raw::close_range(first, last) }.map_err(|e| (Stage::Descriptor, 0, code(&e)))?;
        match next {
            Some(n) => first = n.saturating_add(1),
            None => return Ok(()),
        }
    }
}

/// Gives these signals (bit n - 1 for signal n) their default action, and lets all arrive.
fn signals(set: u64) {
    let default: KernelSigaction = [0; 4];
    for signal in (1..=64_i32).filter(|signal| set >> (signal - 1) & 1 != 0) {
        // SAFETY: rt_sigaction(2) reads 32 bytes; signals that cannot be set (KILL, STOP) give EINVAL. The raw
        // call is used because glibc refuses its own two signals, which would stay as they are.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8_usize,
            );
        }
    }
    let none = 0_u64;
    // SAFETY: rt_sigprocmask(2) reads 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            8_usize,
        );
    }
}

fn source(plan: &Plan, index: usize) -> RawFd {
    plan.moved.get(index).copied().unwrap_or(-1)
}

fn cgroup(plan: &Plan) -> Step {
    let Some(directory) = plan.cgroup.map(|i| source(plan, i)) else { return Ok(()) };
    // SAFETY: a C string that lives across the call.
    let fd = unsafe { libc::openat(directory, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd, Stage::Cgroup)?;
    write_all(fd, b"0", Stage::Cgroup)
}

fn write_all(fd: RawFd, text: &[u8], stage: Stage) -> Step {
    // SAFETY: text lives across the call; the kernel's attribute files take short writes whole.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    let result = if written < 0 { Err((stage, 0, errno())) } else { Ok(()) };
    // SAFETY: the descriptor was opened by the caller and is not used again.
    unsafe { libc::close(fd) };
    result
}

fn scores(plan: &Plan) -> Step {
    if let Some(text) = &plan.oom_score {
        // SAFETY: a C string that lives across the call.
        let fd =
            unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        check(fd, Stage::OomScore)?;
        write_all(fd, text.as_bytes(), Stage::OomScore)?;
    }
    if let Some(nice) = plan.nice {
        // SAFETY: integers only; 0 is the calling process.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }, Stage::Nice)?;
    }
    Ok(())
}

fn open(path: &CStr, flags: i32, stage: Stage) -> Result<RawFd, (Stage, u8, i32)> {
    // SAFETY: a C string that lives across the call.
    check(unsafe { libc::open(path.as_ptr(), flags) }, stage)
}

/// Opens a terminal without waiting for its carrier, and makes it blocking again.
fn open_terminal(path: &CStr, flags: i32, stage: Stage) -> Result<RawFd, (Stage, u8, i32)> {
    let fd = open(path, flags | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC, stage)?;
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, stage)?;
    Ok(fd)
}

fn duplicate(from: RawFd, to: RawFd, stage: Stage) -> Step {
    // SAFETY: integers only. dup2 clears close-on-exec; the two are never equal, as sources are above targets
    // and what is opened here is above 2.
    check(unsafe { libc::dup2(from, to) }, stage).map(drop)
}

fn stdio(plan: &Plan) -> Step {
    if let Some(tty) = &plan.tty {
        let fd = open_terminal(tty, libc::O_RDWR, Stage::Tty)?;
        // ioctl_tty(2): 0 asks, 1 takes the terminal from another session, which needs CAP_SYS_ADMIN.
        // SAFETY: integers only.
        let take = |force: i32| unsafe { libc::ioctl(fd, libc::TIOCSCTTY, force) };
        if plan.session && take(0) < 0 && take(1) < 0 {
            return Err((Stage::Tty, 0, errno()));
        }
        for to in 0..3 {
            duplicate(fd, to, Stage::Tty)?;
        }
        return Ok(());
    }
    match plan.input {
        Some(i) => duplicate(source(plan, i), 0, Stage::Input)?,
        None => {
            let null = open(c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC, Stage::Input)?;
            duplicate(null, 0, Stage::Input)?;
        }
    }
    let out = match plan.output {
        OutputPlan::Inherit => return Ok(()),
        OutputPlan::Null => open(c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC, Stage::Output)?,
        OutputPlan::Console => open_terminal(c"/dev/console", libc::O_WRONLY, Stage::Output)?,
        OutputPlan::Source(i) => source(plan, i),
    };
    duplicate(out, 1, Stage::Output)?;
    duplicate(out, 2, Stage::Output)
}

fn give_pipe(uid: u32) {
    // SAFETY: stat is plain data, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat lives across the call.
    let known = unsafe { libc::fstat(1, &raw mut stat) } == 0;
    if known && stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
        // SAFETY: integers only. A pipe that cannot be given away still works as it is.
        unsafe { libc::fchown(1, uid, u32::MAX) };
    }
}

fn place(plan: &Plan) -> Step {
    for (i, (to, from)) in plan.targets.iter().enumerate() {
        duplicate(source(plan, *from), *to, Stage::Descriptor).map_err(|(s, _, e)| (s, index(i), e))?;
    }
    Ok(())
}

/// Who the service runs as.
#[derive(Default)]
struct Identity {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<&'static [u32]>,
    home: Option<&'static [u8]>,
    name: Option<&'static [u8]>,
    shell: Option<&'static [u8]>,
}

fn identity(plan: &Plan) -> Result<Identity, (Stage, u8, i32)> {
    let mut who = Identity::default();
    let wants_names = plan.add_identity.iter().any(|a| *a);
    if plan.user.is_some() || wants_names {
        let passwd = match read(userdb::PASSWD) {
            Ok(bytes) => bytes,
            // A root file system without users is fine for numbers.
            Err(libc::ENOENT) => &[],
            Err(e) => return Err((Stage::User, 0, e)),
        };
        let entry = match &plan.user {
            Some(user) => {
                let entry = userdb::find_user(passwd, user.as_bytes());
                who.uid = entry.map(|e| e.uid).or_else(|| userdb::number(user.as_bytes()));
                if who.uid.is_none() {
                    return Err((Stage::User, 0, libc::ESRCH));
                }
                // Without an entry there is no primary group; one of its own number is the least surprising.
                who.gid = entry.map(|e| e.gid).or(who.uid);
                entry
            }
            None => {
                // SAFETY: no arguments, cannot fail.
                let uid = unsafe { libc::geteuid() };
                userdb::users(passwd).find(|u| u.uid == uid)
            }
        };
        who.name = entry.map(|e| e.name);
        who.home = entry.map(|e| e.home).filter(|h| !h.is_empty());
        who.shell = entry.map(|e| e.shell).filter(|s| !s.is_empty());
    }
    if plan.user.is_none() && plan.group.is_none() && plan.groups.is_empty() {
        return Ok(who);
    }
    let file = match read(userdb::GROUP) {
        Ok(bytes) => bytes,
        Err(libc::ENOENT) => &[],
        Err(e) => return Err((Stage::Group, 0, e)),
    };
    if let Some(group) = &plan.group {
        let gid = userdb::find_gid(file, group.as_bytes()).ok_or((Stage::Group, 0, libc::ESRCH))?;
        who.gid = Some(gid);
    }
    let list = gid_array().map_err(|e| (Stage::Groups, 0, e))?;
    let mut count = 0;
    let mut add = |gid: u32, at: u8| -> Step {
        if list.iter().take(count).any(|g| *g == gid) {
            return Ok(());
        }
        *list.get_mut(count).ok_or((Stage::Groups, at, libc::E2BIG))? = gid;
        count += 1;
        Ok(())
    };
    for (i, group) in plan.groups.iter().enumerate() {
        let gid = userdb::find_gid(file, group.as_bytes());
        add(gid.ok_or((Stage::Groups, index(i), libc::ESRCH))?, index(i))?;
    }
    if plan.user.is_some() {
        if let Some(gid) = who.gid {
            add(gid, 0)?;
        }
        if let Some(name) = who.name {
            for group in userdb::groups(file).filter(|g| g.has_member(name)) {
                add(group.gid, 0)?;
            }
        }
    }
    who.groups = list.get(..count);
    Ok(who)
}

/// The raw system calls: glibc's wrappers tell every thread, and after clone3 it does not know that there is one.
fn ids(who: &Identity) -> Step {
    let set = |stage: Stage, result: i64| if result < 0 { Err((stage, 0, errno())) } else { Ok(()) };
    // ORDER: groups, then group, then user: each needs what the next one takes away.
    if let Some(groups) = who.groups {
        // SAFETY: the array lives for ever and the count is its length.
        set(Stage::SetIds, unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    if let Some(gid) = who.gid {
        // SAFETY: integers only.
        set(Stage::SetIds, unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    }
    if let Some(uid) = who.uid {
        // SAFETY: integers only.
        set(Stage::SetIds, unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    }
    Ok(())
}

fn exec(plan: &mut Plan, who: &Identity) -> Step {
    let mut room = memory(64 << 10).map_err(|e| (Stage::User, 0, e))?;
    plan.env_pointers.extend(plan.environment.iter().map(|v| v.as_ptr()));
    let name = who.name.or(plan.user.as_ref().map(|u| u.as_bytes())).unwrap_or(b"root");
    let values: [(&[u8], &[u8]); 4] = [
        (b"HOME=", who.home.unwrap_or(b"/")),
        (b"USER=", name),
        (b"LOGNAME=", name),
        (b"SHELL=", who.shell.unwrap_or(b"/bin/sh")),
    ];
    for ((key, value), wanted) in values.into_iter().zip(plan.add_identity) {
        if wanted {
            let text = joined(&mut room, key, value);
            plan.env_pointers.push(text.ok_or((Stage::User, 0, libc::ENAMETOOLONG))?.as_ptr());
        }
    }
    plan.env_pointers.push(std::ptr::null());
    plan.argv_pointers.extend(plan.argv.iter().map(|a| a.as_ptr()));
    plan.argv_pointers.push(std::ptr::null());

    report(plan.moved.first().copied().unwrap_or(-1), ABOUT_TO_EXEC, 0, 0);
    // As execvp(3): a candidate that may not be executed is remembered, one that is not there is not.
    let mut worst = libc::ENOENT;
    for candidate in &plan.candidates {
        // SAFETY: three null-terminated arrays of C strings which live until the process image is replaced.
        unsafe {
            libc::execve(candidate.as_ptr(), plan.argv_pointers.as_ptr(), plan.env_pointers.as_ptr());
        }
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return Err((Stage::Exec, 0, other)),
        }
    }
    Err((Stage::Exec, 0, worst))
}

fn joined(room: &mut &'static mut [u8], key: &[u8], value: &[u8]) -> Option<&'static CStr> {
    let length = key.len().checked_add(value.len())?.checked_add(1)?;
    if length > room.len() {
        return None;
    }
    let (here, rest) = std::mem::take(room).split_at_mut(length);
    *room = rest;
    for (to, from) in here.iter_mut().zip(key.iter().chain(value)) {
        *to = *from;
    }
    // The mapping is of zeroes, so that the last byte is one.
    CStr::from_bytes_with_nul(here).ok()
}

/// Zeroed memory outside the heap, for as long as the process lives.
fn memory(length: usize) -> Result<&'static mut [u8], i32> {
    // SAFETY: a new anonymous mapping aliases nothing.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(errno());
    }
    // SAFETY: the mapping has that length, is zeroed, and is never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), length) })
}

fn gid_array() -> Result<&'static mut [u32], i32> {
    let bytes = memory(GROUPS_MAX * size_of::<u32>())?;
    // SAFETY: mappings are page-aligned, all bit patterns are numbers, and the length fits.
    Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), GROUPS_MAX) })
}

/// A whole file, outside the heap.
fn read(path: &CStr) -> Result<&'static [u8], i32> {
    const SPARE: usize = 64 << 10;
    let fd = open(path, libc::O_RDONLY | libc::O_CLOEXEC, Stage::User).map_err(|(_, _, e)| e)?;
    let range = read_open(fd, SPARE);
    // SAFETY: opened above and not used again.
    unsafe { libc::close(fd) };
    range.map(|(bytes, used)| bytes.get(used).unwrap_or_default())
}

fn read_open(fd: RawFd, spare: usize) -> Result<(&'static [u8], Range<usize>), i32> {
    // SAFETY: stat is plain data, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat lives across the call.
    if unsafe { libc::fstat(fd, &raw mut stat) } < 0 {
        return Err(errno());
    }
    let size = usize::try_from(stat.st_size).unwrap_or_default();
    let bytes = memory(size.saturating_add(spare))?;
    let mut used = 0;
    loop {
        let rest = bytes.get_mut(used..).unwrap_or_default();
        if rest.is_empty() {
            return Err(libc::EFBIG);
        }
        // SAFETY: the slice lives across the call and its length is given.
        let n = unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(n) {
            Ok(0) => return Ok((bytes, 0..used)),
            Ok(n) => used += n,
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}
