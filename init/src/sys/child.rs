//! What the new process does between clone3 and execve.
//!
//! Everything it needs was prepared by [`super::spawn`]; here nothing allocates from the heap, so that the copy of
//! a process with threads (a test) is as safe as that of PID 1, which has one. A failing step is reported over
//! the status pipe as (stage, index, errno), and the process exits.
//!
//! **Invariant:** the memory may be PID 1's own ([`super::birth`]). So every system call is a [`super::direct`] one, which
//! leaves no errno, nothing is written to but the plan and the own stack, and what is mapped is unmapped again.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ops::Range;
use std::os::fd::RawFd;

use super::birth::Birth;
use super::direct::{self, Outcome};
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
    /// Working directory, if it is another one than the parent's.
    pub directory: Option<CString>,
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
    /// The notify socket, which becomes the user's.
    pub notify: Option<CString>,
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

impl Plan {
    /// Whether it is one for a child that shares PID 1's memory. Not who becomes somebody else: from then on others may
    /// do to that process, and to its memory, what they may do to their own. Not whose OOM score changes either: the
    /// kernel gives it to all who share memory.
    pub(super) fn may_share(&self) -> bool {
        self.user.is_none() && self.group.is_none() && self.groups.is_empty() && self.oom_score.is_none()
    }
}

type Step = Result<(), (Stage, u8, i32)>;

fn index(i: usize) -> u8 {
    u8::try_from(i).unwrap_or(u8::MAX)
}

fn check(outcome: Outcome, stage: Stage) -> Step {
    outcome.map(drop).map_err(|errno| (stage, 0, errno))
}

/// Runs the plan. Never returns.
pub(super) fn run(plan: &mut Plan, birth: Birth, room: Option<&'static mut [u8]>) -> ! {
    let mut maps = Maps { shared: room.is_some(), room: room.unwrap_or_default(), mapped: [(0, 0); 4] };
    if let Err((stage, index, errno)) = steps(plan, birth, &mut maps) {
        maps.clear();
        let status = plan.moved.first().or(plan.sources.first()).copied().unwrap_or(-1);
        report(status, stage.number(), index, errno);
    }
    loop {
        // No handler of the parent runs; 127 as shells do, though the report says more.
        let _never = direct::numbers(libc::SYS_exit_group, [127, 0, 0, 0]);
    }
}

/// Memory outside the heap.
struct Maps {
    /// The memory is PID 1's own, and what is mapped in it stays there when this process executes its program.
    shared: bool,
    /// Room that PID 1 has given.
    room: &'static mut [u8],
    /// What was mapped, at most: two databases, groups, and the environment.
    mapped: [(usize, usize); 4],
}

impl Maps {
    /// Memory until [`Maps::clear`], or the end of the process image. Its content is anything.
    fn memory(&mut self, length: usize) -> Result<&'static mut [u8], i32> {
        // Whatever it is used for, it is aligned.
        let whole = length.next_multiple_of(16);
        if whole <= self.room.len() {
            let (here, rest) = std::mem::take(&mut self.room).split_at_mut(whole);
            self.room = rest;
            return here.get_mut(..length).ok_or(libc::ENOMEM);
        }
        let free = self.mapped.iter_mut().find(|(_, length)| *length == 0).ok_or(libc::ENOMEM)?;
        let access = usize::try_from(libc::PROT_READ | libc::PROT_WRITE).unwrap_or_default();
        let kind = usize::try_from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap_or_default();
        // SAFETY: a new anonymous mapping aliases nothing.
        let at = unsafe { direct::call(libc::SYS_mmap, [0, length, access, kind, usize::MAX, 0]) }?;
        *free = (at, length);
        // SAFETY: the mapping has that length, is zeroed, and stays until nobody uses it any more.
        Ok(unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(at), length) })
    }

    /// Nothing that was mapped is used any more.
    fn clear(&mut self) {
        for (at, length) in std::mem::take(&mut self.mapped) {
            if length > 0 {
                // SAFETY: exactly what was mapped, once; the caller says that nobody uses it.
                let _gone = unsafe { direct::call(libc::SYS_munmap, [at, length, 0, 0, 0, 0]) };
            }
        }
    }
}

fn report(status: RawFd, stage: u8, index: u8, errno: i32) {
    let mut bytes = [0; REPORT];
    let parts = [stage, index, 0, 0].into_iter().chain(errno.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(parts) {
        *to = from;
    }
    // A parent that has executed itself again, or does not want to know, closes its end: that must not end the
    // child.
    const IGNORE: KernelSigaction = [libc::SIG_IGN as u64, 0, 0, 0];
    action(libc::SIGPIPE, IGNORE);
    let _nobody_listens = direct::write(status, &bytes);
    action(libc::SIGPIPE, DEFAULT);
}

fn steps(plan: &mut Plan, birth: Birth, maps: &mut Maps) -> Step {
    // ORDER: first, before anything that can wait: what PID 1 holds (clients, other services' pipes) must not be
    // kept open by a child that hangs in a later step.
    descriptors_away(plan, birth.placed)?;
    // ORDER: the handlers point into PID 1's crash code; they must be gone before a signal can arrive, and
    // signals must arrive before a step can hang.
    signals(if birth.no_handlers { plan.ignored } else { u64::MAX });
    // ORDER: while still root, and before there can be children.
    if !birth.placed {
        cgroup(plan)?;
    }
    // ORDER: before the terminal, which only a session's leader without one can take.
    if plan.session {
        // A fresh child is never a group leader, so this cannot fail.
        check(direct::numbers(libc::SYS_setsid, [0; 4]), Stage::Session)?;
    }
    // ORDER: lowering either needs privileges that are dropped below.
    scores(plan)?;
    // ORDER: terminal and console belong to root; opened before the user changes, and before the limits, which
    // may allow fewer descriptors than are open now.
    stdio(plan)?;
    place(plan)?;
    // umask(2) cannot fail.
    let _before = direct::control(libc::SYS_umask, i32::try_from(plan.umask).unwrap_or(0o022), 0, 0);
    // ORDER: the databases are read before the limits (address space, file size, descriptors) are in force.
    let identity = identity(plan, maps)?;
    // ORDER: raising a hard limit needs root; before the ids.
    for (i, (resource, soft, hard)) in plan.limits.iter().enumerate() {
        let mut limit = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        let number = usize::try_from(*resource).unwrap_or(usize::MAX);
        // SAFETY: prlimit(2) reads a limit there, and writes none where the last argument is null.
        let set = unsafe { direct::with(libc::SYS_prlimit64, [0, number, 0, 0, 0, 0], 2, &mut limit) };
        set.map_err(|errno| (Stage::Limit, index(i), errno))?;
    }
    // ORDER: while root may still give it away. A daemon that opens /dev/stdout opens its log pipe anew, which needs
    // to be its own.
    if let (OutputPlan::Source(_), Some(uid), None) = (plan.output, identity.uid, &plan.tty) {
        give_pipe(uid);
    }
    if let (Some(path), Some(uid)) = (&plan.notify, identity.uid) {
        let uid = usize::try_from(uid).unwrap_or(usize::MAX);
        // SAFETY: chown(2) reads a C string that lives across the call; the group stays.
        let _stays_roots = unsafe {
            direct::call(libc::SYS_chown, [path.as_ptr().expose_provenance(), uid, usize::MAX, 0, 0, 0])
        };
    }
    ids(&identity)?;
    // ORDER: as the user, so that it is the user who must be able to go there.
    if let Some(directory) = &plan.directory {
        check(direct::path(libc::SYS_chdir, directory), Stage::Directory)?;
    }
    exec(plan, &identity, maps)
}

/// Moves the needed descriptors above every target number and closes all others but 0 to 2.
fn descriptors_away(plan: &mut Plan, placed: bool) -> Step {
    let floor = plan.targets.iter().map(|(t, _)| t.saturating_add(1)).fold(10, RawFd::max);
    for (i, source) in plan.sources.iter().enumerate() {
        if placed && plan.cgroup == Some(i) {
            // It was born there.
            plan.moved.push(-1);
            continue;
        }
        let moved = direct::numbers(libc::SYS_fcntl, [*source, libc::F_DUPFD_CLOEXEC, floor, 0]);
        let moved = moved.map_err(|errno| (Stage::Descriptor, index(i), errno))?;
        plan.moved.push(RawFd::try_from(moved).unwrap_or(-1));
    }
    // F_DUPFD gives the lowest free number, so that they are not always in order; insertion into a fixed array
    // would be as long as looking for the next one each time.
    let mut first = 3_u32;
    loop {
        let next = plan.moved.iter().filter_map(|m| u32::try_from(*m).ok()).filter(|m| *m >= first).min();
        let last = next.map_or(u32::MAX, |n| n.saturating_sub(1));
        if first <= last {
            // The owners of these descriptors are in the parent; here nobody drops them.
            let [from, to] = [first, last].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            // SAFETY: numbers only.
            check(unsafe { direct::call(libc::SYS_close_range, [from, to, 0, 0, 0, 0]) }, Stage::Descriptor)?;
        }
        match next {
            Some(n) => first = n.saturating_add(1),
            None => return Ok(()),
        }
    }
}

const DEFAULT: KernelSigaction = [0; 4];

fn action(signal: i32, mut action: KernelSigaction) {
    let number = usize::try_from(signal).unwrap_or_default();
    // SAFETY: rt_sigaction(2) reads 32 bytes; signals that cannot be set (KILL, STOP) give EINVAL.
    let _refused = unsafe { direct::with(libc::SYS_rt_sigaction, [number, 0, 0, 8, 0, 0], 1, &mut action) };
}

/// Gives these signals (bit n - 1 for signal n) their default action, and lets all arrive.
fn signals(set: u64) {
    (1..=64_i32).filter(|signal| set >> (signal - 1) & 1 != 0).for_each(|signal| action(signal, DEFAULT));
    let mut none = 0_u64;
    let how = usize::try_from(libc::SIG_SETMASK).unwrap_or_default();
    // SAFETY: rt_sigprocmask(2) reads 8 bytes.
    let _cannot_fail = unsafe { direct::with(libc::SYS_rt_sigprocmask, [how, 0, 0, 8, 0, 0], 1, &mut none) };
}
fn source(plan: &Plan, index: usize) -> RawFd {
    plan.moved.get(index).copied().unwrap_or(-1)
}

fn cgroup(plan: &Plan) -> Step {
    let Some(directory) = plan.cgroup.map(|i| source(plan, i)) else { return Ok(()) };
    let opened = direct::open_at(directory, c"cgroup.procs", libc::O_WRONLY | libc::O_CLOEXEC);
    write_all(opened.map_err(|errno| (Stage::Cgroup, 0, errno))?, b"0", Stage::Cgroup)
}

fn write_all(fd: RawFd, text: &[u8], stage: Stage) -> Step {
    // The kernel's attribute files take short writes whole.
    let result = check(direct::write(fd, text), stage);
    direct::close(fd);
    result
}

fn scores(plan: &Plan) -> Step {
    if let Some(text) = &plan.oom_score {
        let fd = open(c"/proc/self/oom_score_adj", libc::O_WRONLY | libc::O_CLOEXEC, Stage::OomScore)?;
        write_all(fd, text.as_bytes(), Stage::OomScore)?;
    }
    if let Some(nice) = plan.nice {
        // 0 is both PRIO_PROCESS and the calling process.
        check(direct::numbers(libc::SYS_setpriority, [0, 0, nice, 0]), Stage::Nice)?;
    }
    Ok(())
}

fn open(path: &CStr, flags: i32, stage: Stage) -> Result<RawFd, (Stage, u8, i32)> {
    direct::open(path, flags).map_err(|errno| (stage, 0, errno))
}

/// Opens a terminal without waiting for its carrier, and makes it blocking again.
fn open_terminal(path: &CStr, flags: i32, stage: Stage) -> Result<RawFd, (Stage, u8, i32)> {
    let fd = open(path, flags | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC, stage)?;
    check(direct::numbers(libc::SYS_fcntl, [fd, libc::F_SETFL, flags, 0]), stage)?;
    Ok(fd)
}

fn duplicate(from: RawFd, to: RawFd, stage: Stage) -> Step {
    // As dup2(2), close-on-exec is cleared; the two are never equal, as sources are above targets and what is opened
    // here is above 2.
    check(direct::numbers(libc::SYS_dup3, [from, to, 0, 0]), stage)
}

fn stdio(plan: &Plan) -> Step {
    if let Some(tty) = &plan.tty {
        let fd = open_terminal(tty, libc::O_RDWR, Stage::Tty)?;
        // ioctl_tty(2): 0 asks, 1 takes the terminal from another session, which needs CAP_SYS_ADMIN.
        let command = usize::try_from(libc::TIOCSCTTY).unwrap_or_default();
        let take = |force| direct::control(libc::SYS_ioctl, fd, command, force);
        if plan.session && take(0).is_err() {
            check(take(1), Stage::Tty)?;
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
    // SAFETY: fstat(2) writes a stat there.
    let known = unsafe { direct::with(libc::SYS_fstat, [1, 0, 0, 0, 0, 0], 1, &mut stat) };
    if known.is_ok() && stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
        let uid = usize::try_from(uid).unwrap_or(usize::MAX);
        // A pipe that cannot be given away still works as it is.
        let _as_it_is = direct::control(libc::SYS_fchown, 1, uid, usize::MAX);
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

fn identity(plan: &Plan, maps: &mut Maps) -> Result<Identity, (Stage, u8, i32)> {
    let mut who = Identity::default();
    let wants_names = plan.add_identity.iter().any(|a| *a);
    if plan.user.is_some() || wants_names {
        let passwd = match read(userdb::PASSWD, maps) {
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
                let uid = direct::numbers(libc::SYS_geteuid, [0; 4]).ok().and_then(|n| u32::try_from(n).ok());
                userdb::users(passwd).find(|u| Some(u.uid) == uid)
            }
        };
        who.name = entry.map(|e| e.name);
        who.home = entry.map(|e| e.home).filter(|h| !h.is_empty());
        who.shell = entry.map(|e| e.shell).filter(|s| !s.is_empty());
    }
    if plan.user.is_none() && plan.group.is_none() && plan.groups.is_empty() {
        return Ok(who);
    }
    let file = match read(userdb::GROUP, maps) {
        Ok(bytes) => bytes,
        Err(libc::ENOENT) => &[],
        Err(e) => return Err((Stage::Group, 0, e)),
    };
    if let Some(group) = &plan.group {
        let gid = userdb::find_gid(file, group.as_bytes()).ok_or((Stage::Group, 0, libc::ESRCH))?;
        who.gid = Some(gid);
    }
    let list = gid_array(maps).map_err(|e| (Stage::Groups, 0, e))?;
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
    let all = |number, id: u32| {
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        // SAFETY: numbers only.
        check(unsafe { direct::call(number, [id, id, id, 0, 0, 0]) }, Stage::SetIds)
    };
    // ORDER: groups, then group, then user: each needs what the next one takes away.
    if let Some(groups) = who.groups {
        let list = [groups.len(), groups.as_ptr().expose_provenance(), 0, 0, 0, 0];
        // SAFETY: the array lives as long as the process image and the count is its length.
        check(unsafe { direct::call(libc::SYS_setgroups, list) }, Stage::SetIds)?;
    }
    if let Some(gid) = who.gid {
        all(libc::SYS_setresgid, gid)?;
    }
    who.uid.map_or(Ok(()), |uid| all(libc::SYS_setresuid, uid))
}

fn exec(plan: &mut Plan, who: &Identity, maps: &mut Maps) -> Step {
    plan.env_pointers.extend(plan.environment.iter().map(|v| v.as_ptr()));
    let name = who.name.or(plan.user.as_ref().map(|u| u.as_bytes())).unwrap_or(b"root");
    let values: [(&[u8], &[u8]); 4] = [
        (b"HOME=", who.home.unwrap_or(b"/")),
        (b"USER=", name),
        (b"LOGNAME=", name),
        (b"SHELL=", who.shell.unwrap_or(b"/bin/sh")),
    ];
    let needed = values.iter().map(|(key, value)| key.len() + value.len() + 1).sum();
    let mut room = maps.memory(needed).map_err(|e| (Stage::User, 0, e))?;
    for ((key, value), wanted) in values.into_iter().zip(plan.add_identity) {
        if wanted {
            let text = joined(&mut room, key, value);
            plan.env_pointers.push(text.ok_or((Stage::User, 0, libc::ENAMETOOLONG))?.as_ptr());
        }
    }
    plan.env_pointers.push(std::ptr::null());
    plan.argv_pointers.extend(plan.argv.iter().map(|a| a.as_ptr()));
    plan.argv_pointers.push(std::ptr::null());

    if maps.shared {
        // All of the databases that is needed was copied into the room.
        maps.clear();
    }
    report(plan.moved.first().copied().unwrap_or(-1), ABOUT_TO_EXEC, 0, 0);
    // As execvp(3): a candidate that may not be executed is remembered, one that is not there is not.
    let mut worst = libc::ENOENT;
    for candidate in &plan.candidates {
        let [argv, variables] =
            [&plan.argv_pointers, &plan.env_pointers].map(|v| v.as_ptr().expose_provenance());
        let arguments = [candidate.as_ptr().expose_provenance(), argv, variables, 0, 0, 0];
        // SAFETY: three null-terminated arrays of C strings which live until the process image is replaced.
        match unsafe { direct::call(libc::SYS_execve, arguments) } {
            Ok(_) | Err(libc::ENOENT | libc::ENOTDIR) => {}
            Err(libc::EACCES) => worst = libc::EACCES,
            Err(other) => return Err((Stage::Exec, 0, other)),
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
    for (to, from) in here.iter_mut().zip(key.iter().chain(value).chain(&[0])) {
        *to = *from;
    }
    CStr::from_bytes_with_nul(here).ok()
}

fn gid_array(maps: &mut Maps) -> Result<&'static mut [u32], i32> {
    let bytes = maps.memory(GROUPS_MAX * size_of::<u32>())?;
    // SAFETY: mappings are page-aligned, all bit patterns are numbers, and the length fits.
    Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), GROUPS_MAX) })
}

/// A whole file, outside the heap.
fn read(path: &CStr, maps: &mut Maps) -> Result<&'static [u8], i32> {
    // It may grow meanwhile.
    const SPARE: usize = 512;
    let fd = open(path, libc::O_RDONLY | libc::O_CLOEXEC, Stage::User).map_err(|(_, _, e)| e)?;
    let range = read_open(fd, SPARE, maps);
    direct::close(fd);
    range.map(|(bytes, used)| bytes.get(used).unwrap_or_default())
}

fn read_open(fd: RawFd, spare: usize, maps: &mut Maps) -> Result<(&'static [u8], Range<usize>), i32> {
    // SAFETY: stat is plain data, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let number = usize::try_from(fd).map_err(|_| libc::EBADF)?;
    // SAFETY: fstat(2) writes a stat there.
    unsafe { direct::with(libc::SYS_fstat, [number, 0, 0, 0, 0, 0], 1, &mut stat) }?;
    let size = usize::try_from(stat.st_size).unwrap_or_default();
    // Some file systems do not say how long a file is.
    let spare = if size == 0 { 64 << 10 } else { spare };
    let bytes = maps.memory(size.saturating_add(spare))?;
    let mut used = 0;
    loop {
        let rest = bytes.get_mut(used..).unwrap_or_default();
        if rest.is_empty() {
            return Err(libc::EFBIG);
        }
        match direct::read(fd, rest) {
            Ok(0) => return Ok((bytes, 0..used)),
            Ok(n) => used += n,
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
