//! What a process really asks of the kernel: a child is traced, and every call of it that changes a disk, or makes
//! something durable, goes into a log in the order in which it was done.
//!
//! What ships is not touched by that, and cannot go around it: what is not asked of the kernel does not happen. A seccomp
//! filter stops the child at those calls only (seccomp(2), `SECCOMP_RET_TRACE`).
#![allow(unsafe_code)]
#![allow(clippy::cast_sign_loss, reason = "arguments of system calls are registers, whatever they stand for")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use libc::{c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::disk::{Body, Id, Inode, Name, Node, Op, Tree, look};

/// Calls that the child is stopped at. sync_file_range(2) is none of them: it promises nothing.
const CALLS: [c_long; 45] = [
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_sync,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
];

/// What a traced process did to the tree below `top`.
#[derive(Debug)]
pub struct Log {
    /// Every call that succeeded, in order.
    pub ops: Vec<Op>,
    /// Calls that were made, by name of the system call's number.
    pub counts: HashMap<c_long, u64>,
    /// What could not be followed.
    pub trouble: Option<String>,
    ids: HashMap<Inode, Id>,
    next: Id,
    device: u64,
}

/// A log that somebody else may be writing.
pub type Shared = Arc<Mutex<Log>>;

impl Log {
    /// Of a tree as it is now; the tree comes along.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(top: &Path) -> io::Result<(Log, Tree)> {
        let (tree, ids) = Tree::scan(top)?;
        let next = ids.len() as Id;
        let device = fs::metadata(top)?.dev();
        Ok((Log { ops: Vec::new(), counts: HashMap::new(), trouble: None, ids, next, device }, tree))
    }

    /// Takes in what somebody else has changed, whom nobody traces.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn changed(&mut self, top: &Path, live: &Tree) -> io::Result<()> {
        let (_, ids) = Tree::scan(top)?;
        self.ids.retain(|inode, _| ids.contains_key(inode));
        let mut todo: Vec<(PathBuf, Id)> = vec![(top.to_owned(), 0)];
        while let Some((path, dir)) = todo.pop() {
            let mut names: Vec<String> = Vec::new();
            for entry in fs::read_dir(&path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            let known = match live.nodes.get(&dir).map(|n| &n.body) {
                Some(Body::Directory(entries)) => entries.clone(),
                _ => Default::default(),
            };
            for name in known.keys().filter(|n| !names.contains(n)) {
                self.ops.push(Op::Remove { at: (dir, name.clone()) });
            }
            for name in names {
                let path = path.join(&name);
                let found = fs::symlink_metadata(&path)?;
                let inode = (found.dev(), found.ino());
                let id = self.ids.get(&inode).copied();
                let node = look(&path)?;
                let at = (dir, name);
                let id = match id {
                    Some(id) => {
                        if known.get(&at.1) != Some(&id) {
                            self.ops.push(Op::Link { at, id });
                        }
                        if let (Body::File(bytes), Some(was)) = (&node.body, live.nodes.get(&id))
                            && was.body != node.body
                        {
                            self.ops.push(Op::Truncate { id, length: 0 });
                            self.ops.push(Op::Write { id, offset: 0, bytes: bytes.to_vec() });
                        }
                        self.ops.push(Op::Attributes { id, meta: node.meta });
                        id
                    }
                    None => {
                        let id = self.new_id(inode);
                        self.ops.push(Op::Create { at, id, node });
                        id
                    }
                };
                if found.is_dir() {
                    todo.push((path, id));
                }
            }
        }
        self.ops.push(Op::SyncAll);
        Ok(())
    }

    fn new_id(&mut self, inode: Inode) -> Id {
        let id = self.next;
        self.next += 1;
        self.ids.insert(inode, id);
        id
    }
}

/// Runs `child` in a traced process of its own, which keeps no descriptor but `keeps` and those of standard streams.
pub fn spawn(
    log: &Shared,
    keeps: OwnedFd,
    child: impl FnOnce(OwnedFd) -> i32 + Send + 'static,
) -> JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        if let Err(e) = trace(&log, keeps, child)
            && let Ok(mut log) = log.lock()
        {
            log.trouble.get_or_insert(format!("cannot trace the worker: {e}"));
        }
    })
}

fn trace(log: &Shared, keeps: OwnedFd, child: impl FnOnce(OwnedFd) -> i32) -> Result<(), String> {
    let words = |e: nix::Error| e.to_string();
    let filter = filter();
    // SAFETY: the child only goes on with what its own copy of this thread holds; glibc keeps its heap usable across a
    // fork of one thread among several, and no lock of ours is held here.
    match unsafe { nix::unistd::fork() }.map_err(words)? {
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if begin(&filter, keeps.as_raw_fd()).is_err() {
                    return 125;
                }
                child(keeps)
            }));
            // SAFETY: ends this process at once; nothing of the parent's is flushed or run twice.
            unsafe { libc::_exit(code.unwrap_or(124)) }
        }
        ForkResult::Parent { child: pid } => {
            drop((keeps, child));
            follow(log, pid)
        }
    }
}

/// What the child does first.
fn begin(filter: &[libc::sock_filter], keeps: RawFd) -> nix::Result<()> {
    let close = |from: RawFd, to: u32| {
        // SAFETY: closes descriptors that nobody in this process uses: others' threads are not copied by a fork.
        unsafe { libc::syscall(libc::SYS_close_range, from as u32, to, 0) }
    };
    if keeps > 3 {
        close(3, (keeps - 1) as u32);
    }
    close(keeps + 1, u32::MAX);
    ptrace::traceme()?;
    raise(Signal::SIGSTOP)?;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: a flag of this process; the other arguments must be 0.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program lives until the call returns, which copies it.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    if set == 0 && installed == 0 { Ok(()) } else { Err(nix::Error::last()) }
}

/// Stops at [`CALLS`], and where a file is opened that is made or emptied.
fn filter() -> Vec<libc::sock_filter> {
    let line = |code: u32, k: u32, jt: usize, jf: usize| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let load = |at: u32| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let jump = |kind: u32, k: u32, jt, jf| line(libc::BPF_JMP | kind | libc::BPF_K, k, jt, jf);
    let answer = |what: u32| line(libc::BPF_RET | libc::BPF_K, what, 0, 0);
    let (number, second, third) = (0, 24, 32);
    let makes = (libc::O_CREAT | libc::O_TRUNC) as u32;
    let stop = CALLS.len() + 9;
    let mut out = vec![load(number)];
    for call in CALLS {
        let here = out.len();
        out.push(jump(libc::BPF_JEQ, call as u32, stop - here - 1, 0));
    }
    // openat(2) and open(2) have the flags in different places.
    out.push(jump(libc::BPF_JEQ, libc::SYS_openat as u32, 2, 0));
    out.push(jump(libc::BPF_JEQ, libc::SYS_open as u32, 3, 0));
    out.push(answer(libc::SECCOMP_RET_ALLOW));
    for at in [third, second] {
        out.push(load(at));
        let here = out.len();
        out.push(jump(libc::BPF_JSET, makes, stop - here - 1, if at == third { 2 } else { 0 }));
    }
    out.push(answer(libc::SECCOMP_RET_ALLOW));
    out.push(answer(libc::SECCOMP_RET_TRACE));
    out
}

/// A name that a call is about, as it is when the call begins.
struct Place {
    dir: PathBuf,
    name: String,
    there: Option<Inode>,
}

/// A call under way.
enum Call {
    Open { at: Place, empties: bool },
    Make(Place),
    Remove(Place),
    Rename(Place, Place),
    Write { fd: u64, at: Option<u64> },
    Length(PathBuf),
    Attributes(PathBuf),
    Sync { fd: u64, data: bool },
    SyncAll(Option<u64>),
    Unknown,
}

fn follow(log: &Shared, child: Pid) -> Result<(), String> {
    let words = |e: nix::Error| e.to_string();
    let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let mut calls: HashMap<Pid, (c_long, Option<Call>)> = HashMap::new();
    let mut known = false;
    loop {
        let status = match waitpid(None, Some(ours)) {
            Ok(status) => status,
            Err(nix::Error::EINTR) => continue,
            Err(nix::Error::ECHILD) => return Ok(()),
            Err(e) => return Err(words(e)),
        };
        // A process that dies meanwhile says so with the next status.
        let _ = match status {
            WaitStatus::Stopped(pid, Signal::SIGSTOP) if !known && pid == child => {
                known = true;
                let forks =
                    Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
                let stops = Options::PTRACE_O_TRACESECCOMP | Options::PTRACE_O_TRACESYSGOOD;
                ptrace::setoptions(pid, forks | stops | Options::PTRACE_O_EXITKILL).map_err(words)?;
                ptrace::cont(pid, None)
            }
            // A process that was forked off begins with it.
            WaitStatus::Stopped(pid, Signal::SIGSTOP) => ptrace::cont(pid, None),
            WaitStatus::Stopped(pid, signal) => ptrace::cont(pid, signal),
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_SECCOMP) => {
                let regs = ptrace::getregs(pid).map_err(words)?;
                calls.insert(pid, (regs.orig_rax as c_long, begun(pid, &regs)));
                ptrace::syscall(pid, None)
            }
            WaitStatus::PtraceEvent(pid, ..) => ptrace::cont(pid, None),
            WaitStatus::PtraceSyscall(pid) => {
                let result = ptrace::getregs(pid).map_err(words)?.rax as i64;
                if let Some((number, call)) = calls.remove(&pid) {
                    let mut log = log.lock().map_err(|e| e.to_string())?;
                    *log.counts.entry(number).or_default() += 1;
                    let done = match call {
                        _ if result < 0 => Ok(()),
                        Some(call) => log.done(pid, call, result as u64),
                        None => Err("an argument cannot be read".to_owned()),
                    };
                    if let Err(e) = done {
                        log.trouble.get_or_insert(format!("system call {number} cannot be followed: {e}"));
                    }
                }
                ptrace::cont(pid, None)
            }
            WaitStatus::Exited(pid, code) if pid == child && code >= 124 => {
                return Err(format!("the child ended with {code}"));
            }
            _ => Ok(()),
        };
    }
}

/// A path in the memory of a process.
fn text(pid: Pid, at: u64) -> Option<String> {
    let mut out = Vec::new();
    let mut at = usize::try_from(at).ok()?;
    while out.len() < 4096 {
        // Not beyond a page, behind which there may be nothing.
        let mut buffer = [0; 256];
        let length = buffer.len().min(4096 - at % 4096);
        let count = process_vm_readv(
            pid,
            &mut [io::IoSliceMut::new(&mut buffer[..length])],
            &[RemoteIoVec { base: at, len: length }],
        );
        let part = &buffer[..count.ok().filter(|n| *n > 0)?];
        if let Some(end) = part.iter().position(|b| *b == 0) {
            out.extend_from_slice(&part[..end]);
            return String::from_utf8(out).ok();
        }
        out.extend_from_slice(part);
        at += part.len();
    }
    None
}

fn of_fd(pid: Pid, fd: u64) -> PathBuf {
    match fd as i32 {
        libc::AT_FDCWD => format!("/proc/{pid}/cwd").into(),
        fd => format!("/proc/{pid}/fd/{fd}").into(),
    }
}

fn inode(path: &Path, follow: bool) -> Option<Inode> {
    let found = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
    found.ok().map(|m| (m.dev(), m.ino()))
}

fn begun(pid: Pid, r: &user_regs_struct) -> Option<Call> {
    let here = libc::AT_FDCWD as u64;
    let full = |dir: u64, path: u64| -> Option<PathBuf> {
        // utimensat(2): without a path it is the descriptor itself; with AT_EMPTY_PATH an empty one says the same.
        let path = if path == 0 { String::new() } else { text(pid, path)? };
        Some(if path.is_empty() { of_fd(pid, dir) } else { of_fd(pid, dir).join(path) })
    };
    let place = |dir: u64, path: u64| -> Option<Place> {
        let full = full(dir, path)?;
        let name = full.file_name()?.to_str()?.to_owned();
        Some(Place { there: inode(&full, false), dir: full.parent()?.to_owned(), name })
    };
    Some(match r.orig_rax as c_long {
        libc::SYS_open => Call::Open { at: place(here, r.rdi)?, empties: r.rsi & libc::O_TRUNC as u64 != 0 },
        libc::SYS_openat => {
            Call::Open { at: place(r.rdi, r.rsi)?, empties: r.rdx & libc::O_TRUNC as u64 != 0 }
        }
        libc::SYS_creat => Call::Open { at: place(here, r.rdi)?, empties: true },
        libc::SYS_mkdir => Call::Make(place(here, r.rdi)?),
        libc::SYS_mkdirat => Call::Make(place(r.rdi, r.rsi)?),
        libc::SYS_symlink | libc::SYS_link => Call::Make(place(here, r.rsi)?),
        libc::SYS_symlinkat => Call::Make(place(r.rsi, r.rdx)?),
        libc::SYS_linkat => Call::Make(place(r.rdx, r.r10)?),
        libc::SYS_unlink | libc::SYS_rmdir => Call::Remove(place(here, r.rdi)?),
        libc::SYS_unlinkat => Call::Remove(place(r.rdi, r.rsi)?),
        libc::SYS_rename => Call::Rename(place(here, r.rdi)?, place(here, r.rsi)?),
        libc::SYS_renameat | libc::SYS_renameat2 => Call::Rename(place(r.rdi, r.rsi)?, place(r.rdx, r.r10)?),
        libc::SYS_write | libc::SYS_writev | libc::SYS_sendfile => Call::Write { fd: r.rdi, at: None },
        libc::SYS_pwrite64 | libc::SYS_pwritev => Call::Write { fd: r.rdi, at: Some(r.r10) },
        libc::SYS_copy_file_range if r.r10 == 0 => Call::Write { fd: r.rdx, at: None },
        libc::SYS_truncate => Call::Length(full(here, r.rdi)?),
        libc::SYS_ftruncate | libc::SYS_fallocate => Call::Length(of_fd(pid, r.rdi)),
        libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
            Call::Attributes(of_fd(pid, r.rdi))
        }
        libc::SYS_chmod | libc::SYS_chown | libc::SYS_lchown | libc::SYS_setxattr | libc::SYS_removexattr => {
            Call::Attributes(full(here, r.rdi)?)
        }
        libc::SYS_fchmodat | libc::SYS_fchownat | libc::SYS_utimensat => {
            Call::Attributes(full(r.rdi, r.rsi)?)
        }
        libc::SYS_fsync => Call::Sync { fd: r.rdi, data: false },
        libc::SYS_fdatasync => Call::Sync { fd: r.rdi, data: true },
        libc::SYS_syncfs => Call::SyncAll(Some(r.rdi)),
        libc::SYS_sync => Call::SyncAll(None),
        _ => Call::Unknown,
    })
}

impl Log {
    fn name(&self, at: &Place) -> Option<Name> {
        Some((*self.ids.get(&inode(&at.dir, true)?)?, at.name.clone()))
    }

    /// A call has succeeded. Others than those below the tree are none of ours.
    fn done(&mut self, pid: Pid, call: Call, result: u64) -> Result<(), String> {
        let words = |e: io::Error| e.to_string();
        match call {
            Call::Open { at, empties } => match (self.name(&at), at.there) {
                (Some(name), None) => self.made(&at, name)?,
                (Some(_), Some(there)) if empties => {
                    let id = *self.ids.get(&there).ok_or("it is not known")?;
                    self.ops.push(Op::Truncate { id, length: 0 });
                }
                _ => {}
            },
            Call::Make(at) => {
                if let Some(name) = self.name(&at) {
                    self.made(&at, name)?;
                }
            }
            Call::Remove(at) => {
                if let Some(at) = self.name(&at) {
                    self.ops.push(Op::Remove { at });
                }
            }
            Call::Rename(from, to) if from.there != to.there => match (self.name(&from), self.name(&to)) {
                (Some(name), Some(to)) => {
                    let id = from.there.and_then(|i| self.ids.get(&i)).ok_or("it is not known")?;
                    self.ops.push(Op::Rename { from: name, to, id: *id });
                }
                (None, None) => {}
                _ => return Err("something comes from elsewhere, or goes there".to_owned()),
            },
            // rename(2): two names of one file stay as they are.
            Call::Rename(..) => {}
            Call::Write { fd, at } => {
                let path = of_fd(pid, fd);
                let Some(id) = inode(&path, true).and_then(|i| self.ids.get(&i)).copied() else {
                    return Ok(());
                };
                let offset = match at {
                    Some(at) => at,
                    None => position(pid, fd).ok_or("its place is not known")? - result,
                };
                let mut bytes = vec![0; result as usize];
                File::open(&path).and_then(|f| f.read_exact_at(&mut bytes, offset)).map_err(words)?;
                self.ops.push(Op::Write { id, offset, bytes });
            }
            Call::Length(path) => {
                if let Some(id) = inode(&path, true).and_then(|i| self.ids.get(&i)) {
                    let length = fs::metadata(&path).map_err(words)?.len();
                    self.ops.push(Op::Truncate { id: *id, length });
                }
            }
            Call::Attributes(path) => {
                // A link that a descriptor stands for is looked at itself, and any other one is followed.
                if let Some(id) = inode(&path, true).and_then(|i| self.ids.get(&i)).copied() {
                    self.attributes(id, &path).map_err(words)?;
                }
            }
            Call::Sync { fd, data } => {
                if let Some(id) = inode(&of_fd(pid, fd), true).and_then(|i| self.ids.get(&i)) {
                    self.ops.push(Op::Sync { id: *id, data });
                }
            }
            Call::SyncAll(fd) => {
                let of = fd.and_then(|fd| inode(&of_fd(pid, fd), true));
                if of.is_none_or(|(device, _)| device == self.device) {
                    self.ops.push(Op::SyncAll);
                }
            }
            Call::Unknown => return Err("nobody has told how".to_owned()),
        }
        Ok(())
    }

    fn made(&mut self, at: &Place, name: Name) -> Result<(), String> {
        let path = at.dir.join(&at.name);
        let inode = inode(&path, false).ok_or("it is gone")?;
        let links = fs::symlink_metadata(&path).map_err(|e| e.to_string())?;
        // A number may be given again when nobody has it any more.
        if links.nlink() > 1 && !links.is_dir() {
            let id = *self.ids.get(&inode).ok_or("a name of what is not known")?;
            self.ops.push(Op::Link { at: name, id });
            return Ok(());
        }
        let mut node: Node = look(&path).map_err(|e| e.to_string())?;
        node.meta.mtime = None;
        let id = self.new_id(inode);
        self.ops.push(Op::Create { at: name, id, node });
        Ok(())
    }

    fn attributes(&mut self, id: Id, path: &Path) -> io::Result<()> {
        let found = fs::metadata(path)?;
        let mut meta = super::disk::Meta {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime: Some((found.mtime(), found.mtime_nsec())),
            xattrs: Vec::new(),
        };
        if !found.is_symlink() {
            let file = File::open(path)?;
            for name in cm_core::sys::xattr_names(&file)? {
                meta.xattrs.extend(cm_core::sys::xattr(&file, &name)?.map(|value| (name, value)));
            }
        }
        self.ops.push(Op::Attributes { id, meta });
        Ok(())
    }
}

fn position(pid: Pid, fd: u64) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("pos:"))?.trim().parse().ok()
}
