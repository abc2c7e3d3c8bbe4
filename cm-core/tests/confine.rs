//! What a committer may do, seen from outside: its capabilities and filters whenever it changes something, and what
//! the kernel says when it reaches for more.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use cm_core::proto::{Intent, Outcome};
use cm_core::resource::op::Want;
use cm_core::sys::{self, Forked};
use cm_core::worker::confine::{self, Domain};
use common::{Bench, Decl};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use units::Kind;
use units::kind::directory::Directory;
use units::kind::sysctl::Sysctl;
use units::kind::{Attributes, Spec};

/// CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
const FILES: u64 = 0b1_1111;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SETFCAP: u64 = 1 << 31;

/// The fields of a process's status.
fn status(pid: Pid) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.into(), v.trim().into())).collect()
}

/// Calls that change what is there, by any name that the committer has for them.
fn changes(call: u64, arguments: [u64; 6]) -> bool {
    let call = i64::try_from(call).unwrap();
    match call {
        libc::SYS_openat => arguments[2] & u64::try_from(libc::O_ACCMODE | libc::O_CREAT).unwrap() != 0,
        libc::SYS_mkdirat
        | libc::SYS_unlinkat
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_symlinkat
        | libc::SYS_linkat
        | libc::SYS_fchmod
        | libc::SYS_fchown
        | libc::SYS_fchownat
        | libc::SYS_fsetxattr
        | libc::SYS_ftruncate
        | libc::SYS_utimensat => true,
        _ => false,
    }
}

/// Runs `work` in a process of its own and follows every process that it forks: what each may do at every call that
/// changes something, and at its end.
fn followed(work: impl FnOnce()) -> Vec<(i64, BTreeMap<String, String>)> {
    let worker = match sys::fork().unwrap() {
        Forked::Child => {
            nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
            work();
            // SAFETY: ends this process without what a test's process does at its end.
            unsafe { libc::_exit(0) }
        }
        Forked::Parent(pid) => pid,
    };
    waitpid(worker, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let options = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_TRACESYSGOOD;
    ptrace::seize(worker, options | Options::PTRACE_O_EXITKILL).unwrap();
    nix::sys::signal::kill(worker, Signal::SIGCONT).unwrap();
    let mut seen = Vec::new();
    let mut children: Vec<Pid> = Vec::new();
    loop {
        // Only of ours: other tests have children in this process too.
        let next = children.iter().chain([&worker]).find_map(|pid| {
            match waitpid(*pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::StillAlive => None,
                other => Some(other),
            }
        });
        let Some(next) = next else {
            // SAFETY: with WNOWAIT nothing is taken from anybody; the structure outlives the call.
            unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT);
            }
            continue;
        };
        let pid = next.pid().unwrap();
        let is_child = pid != worker;
        let mut pass = None;
        match next {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                assert!(matches!(next, WaitStatus::Exited(_, 0)), "{next:?}");
                if !is_child {
                    return seen;
                }
                children.retain(|c| *c != pid);
                continue;
            }
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_FORK as i32 => {
                children.push(Pid::from_raw(i32::try_from(ptrace::getevent(pid).unwrap()).unwrap()));
            }
            WaitStatus::PtraceEvent(_, _, event) if is_child && event == Event::PTRACE_EVENT_EXIT as i32 => {
                seen.push((libc::SYS_exit_group, status(pid)));
            }
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(pid).unwrap();
                if is_child && info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: of this kind of stop the union holds this.
                    let entry = unsafe { info.u.entry };
                    if changes(entry.nr, entry.args) {
                        seen.push((i64::try_from(entry.nr).unwrap(), status(pid)));
                    }
                }
            }
            WaitStatus::Stopped(_, signal) => pass = Some(signal),
            _ => {}
        }
        let pass = pass.filter(|s| !matches!(s, Signal::SIGSTOP | Signal::SIGTRAP | Signal::SIGCONT));
        if is_child { ptrace::syscall(pid, pass).unwrap() } else { ptrace::cont(pid, pass).unwrap() }
    }
}

/// Whether a committer of this declaration has these capabilities, and its filters, whenever it changes something.
fn works_with(decl: &Decl, calls: &[i64], expected: u64) {
    let mut bench = Bench::new();
    bench.confinement = cm_core::worker::batch::Confinement::Full;
    fs::create_dir_all(bench.dir.path().join("proc_sys/net/core")).unwrap();
    fs::create_dir_all(bench.dir.path().join("proc_sys/kernel/yama")).unwrap();
    fs::write(bench.dir.path().join("proc_sys/net/core/somaxconn"), "1\n").unwrap();
    fs::write(bench.dir.path().join("proc_sys/kernel/yama/ptrace_scope"), "1\n").unwrap();
    let seen = followed(|| {
        let (_, results) = bench.apply(None, decl);
        assert!(results.iter().all(|r| r.outcome == cm_core::proto::Outcome::Changed), "{results:?}");
    });
    for call in calls {
        assert!(seen.iter().any(|(c, _)| c == call), "call {call} was not seen among {}", seen.len());
    }
    assert_eq!(seen.last().unwrap().0, libc::SYS_exit_group);
    let word = format!("{expected:016x}");
    let none = format!("{:016x}", 0);
    for (call, status) in &seen {
        let of = |field: &str| status[field].as_str();
        assert_eq!(
            (of("CapEff"), of("CapPrm"), of("CapInh"), of("CapAmb")),
            (word.as_str(), word.as_str(), none.as_str(), none.as_str()),
            "at call {call}"
        );
        // A filter, two of them where there are foreign numbers; and no program could give anything back.
        assert_eq!((of("Seccomp"), of("NoNewPrivs")), ("2", "1"), "at call {call}");
    }
}

fn setting(key: &str) -> Spec {
    Spec::Sysctl(Sysctl { key: key.into(), value: "2".into() })
}

#[test]
fn files_are_changed_with_the_capabilities_that_files_take() {
    let decl = Decl::new()
        .directory("/etc/d", Some(0o750))
        .file_mode("/etc/d/f", "x", 0o640)
        .symlink("/etc/link", "f")
        .file("/srv/www/index.html", "hello");
    works_with(&decl, &[libc::SYS_openat, libc::SYS_mkdirat, libc::SYS_renameat, libc::SYS_symlinkat], FILES);
}

#[test]
fn a_setting_takes_what_the_kernel_asks_for_it_and_nothing_for_files() {
    let decl = Decl::new().unit(Kind::Sysctl, "net.core.somaxconn", setting("net/core/somaxconn"));
    works_with(&decl, &[libc::SYS_openat], NET_ADMIN);
    let scope = "kernel/yama/ptrace_scope";
    let decl = Decl::new().unit(Kind::Sysctl, "kernel.yama.ptrace_scope", setting(scope)).file("/etc/f", "x");
    works_with(&decl, &[libc::SYS_openat], FILES | SYS_PTRACE);
}

#[test]
fn extended_attributes_take_what_they_are_worth() {
    let with = |name: &str| {
        let mut decl = Decl::new();
        let mut spec = decl.file_spec("/etc/f", Some("x"), None);
        // capabilities(7), version 2: none permitted, none inheritable.
        let value = if name == "security.capability" {
            [2 << 24, 0, 0, 0, 0u32].iter().flat_map(|w| w.to_le_bytes()).collect()
        } else {
            b"x".to_vec()
        };
        spec.attributes.xattrs = vec![(name.into(), value)];
        decl.unit(Kind::File, "/etc/f", Spec::File(spec))
    };
    works_with(&with("user.x"), &[libc::SYS_fsetxattr], FILES);
    works_with(&with("trusted.x"), &[libc::SYS_fsetxattr], FILES | SYS_ADMIN);
    works_with(&with("security.capability"), &[libc::SYS_fsetxattr], FILES | SETFCAP);
}

/// What the kernel says to a committer whose batch has one directory and one setting.
#[test]
fn nothing_is_reached_outside_the_batch() {
    let mut bench = Bench::new();
    for directory in ["in", "out"] {
        bench.write(&format!("/{directory}/old"), "old");
        symlink("old", bench.path(&format!("/{directory}/link"))).unwrap();
    }
    for key in ["declared", "other"] {
        fs::write(bench.dir.path().join("proc_sys/kernel").join(key), "1\n").unwrap();
    }
    let mut domain = Domain::confined();
    domain.allow(&bench.world.places.directory("/in").unwrap());
    domain.settings.insert("kernel/declared".into());
    domain.attributes(&Want::default());
    let (inside, outside) = (bench.path("/in"), bench.path("/out"));
    let settings = bench.dir.path().join("proc_sys/kernel");
    let tried = in_a_child(|| {
        let ruled = confine::committer(&bench.world, domain).map_err(|e| e.to_string());
        let mut tried = vec![("confining", ruled.map_or(1, |()| 0))];
        let mut note = |what, result: std::io::Result<()>| {
            tried.push((what, result.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0)));
        };
        note("write inside", fs::write(inside.join("old"), "new"));
        note("create inside", fs::write(inside.join("new"), "new"));
        note("rename inside", fs::rename(inside.join("new"), inside.join("newer")));
        note("unlink inside", fs::remove_file(inside.join("newer")));
        note("write a declared setting", fs::write(settings.join("declared"), "2"));
        note("write outside", fs::OpenOptions::new().write(true).open(outside.join("old")).map(drop));
        note(
            "truncate outside",
            fs::OpenOptions::new().write(true).truncate(true).open(outside.join("old")).map(drop),
        );
        note("create outside", fs::write(outside.join("new"), "new"));
        note("rename out", fs::rename(inside.join("old"), outside.join("new")));
        note("link out", fs::hard_link(inside.join("old"), outside.join("new")));
        note("unlink outside", fs::remove_file(outside.join("old")));
        note("make a directory outside", fs::create_dir(outside.join("d")));
        note("make a link outside", symlink("x", outside.join("l")));
        note("write another setting", fs::write(settings.join("other"), "2"));
        for (what, call) in refused(&inside.join("old"), &outside) {
            note(what, call);
        }
        tried
    });
    let is =
        |what: &str| tried.iter().find(|(w, _)| w == what).unwrap_or_else(|| panic!("{what}: {tried:?}")).1;
    for (what, errno) in &tried {
        let expected = match what.as_str() {
            "confining" | "write a declared setting" => 0,
            what if what.ends_with(" inside") => 0,
            "rename out" | "link out" => {
                // landlock(7): a name that would leave for another directory is told so either way.
                assert!([libc::EACCES, libc::EXDEV].contains(errno), "{what}: {errno}");
                continue;
            }
            what if what.starts_with("call ") => libc::EPERM,
            _ => libc::EACCES,
        };
        assert_eq!(*errno, expected, "{what}: {tried:?}");
    }
    assert_eq!(is("write inside"), 0);
    assert_eq!(fs::read_to_string(bench.path("/in/old")).unwrap(), "new");
    assert_eq!(fs::read_to_string(bench.path("/out/old")).unwrap(), "old");
    assert_eq!(fs::metadata(bench.path("/in/old")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(fs::read_dir(bench.path("/out")).unwrap().count(), 2);
}

/// Calls that no committer has, tried on a file that is in its batch.
fn refused(file: &Path, outside: &Path) -> Vec<(&'static str, std::io::Result<()>)> {
    let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).unwrap();
    let away = std::ffi::CString::new(outside.as_os_str().as_encoded_bytes()).unwrap();
    let said = |result: i64| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    let (p, away) = (path.as_ptr(), away.as_ptr());
    let at = libc::AT_FDCWD;
    // SAFETY: numbers and C strings that outlive each call; what would change this process for good is refused, which
    // is what is tried, and it is a child that does nothing else.
    unsafe {
        vec![
            #[cfg(target_arch = "x86_64")]
            ("call chmod", said(libc::syscall(libc::SYS_chmod, p, 0o777))),
            ("call fchmodat", said(libc::syscall(libc::SYS_fchmodat, at, p, 0o777))),
            ("call fchmodat2 by name", said(libc::syscall(452, at, p, 0o777, 0))),
            #[cfg(target_arch = "x86_64")]
            ("call chown", said(libc::syscall(libc::SYS_chown, p, 1, 1))),
            ("call fchownat by name", said(libc::syscall(libc::SYS_fchownat, at, p, 1, 1, 0))),
            ("call setxattr", said(libc::syscall(libc::SYS_setxattr, p, c"user.x".as_ptr(), p, 1, 0))),
            ("call utimensat by name", said(libc::syscall(libc::SYS_utimensat, at, p, 0, 0))),
            ("call truncate", said(libc::syscall(libc::SYS_truncate, p, 0))),
            ("call mknodat", said(libc::syscall(libc::SYS_mknodat, at, away, libc::S_IFIFO, 0))),
            ("call mount", said(libc::syscall(libc::SYS_mount, p, away, p, libc::MS_BIND, 0))),
            ("call umount2", said(libc::syscall(libc::SYS_umount2, away, 0))),
            ("call chroot", said(libc::syscall(libc::SYS_chroot, away))),
            ("call unshare", said(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS))),
            ("call execve", said(libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), 0, 0))),
            ("call fork", said(libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0))),
            ("call socket", said(libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0))),
            ("call kill", said(libc::syscall(libc::SYS_kill, libc::getppid(), 0))),
            ("call ptrace", said(libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, libc::getppid(), 0, 0))),
            ("call setuid", said(libc::syscall(libc::SYS_setuid, 0))),
            ("call reboot", said(libc::syscall(libc::SYS_reboot, 0, 0, 0, 0))),
            ("call sethostname", said(libc::syscall(libc::SYS_sethostname, p, 1))),
            ("call delete_module", said(libc::syscall(libc::SYS_delete_module, p, 0))),
            ("call ioctl", said(libc::syscall(libc::SYS_ioctl, 0, libc::FS_IOC_GETFLAGS, 0))),
        ]
    }
}

/// What a process of its own says of each thing that it tried.
fn in_a_child(work: impl FnOnce() -> Vec<(&'static str, i32)>) -> Vec<(String, i32)> {
    use std::io::{Read, Write};
    let (reads, writes) = nix::unistd::pipe().unwrap();
    match sys::fork().unwrap() {
        Forked::Child => {
            drop(reads);
            let text: String = work().iter().map(|(what, errno)| format!("{what}={errno}\n")).collect();
            fs::File::from(writes).write_all(text.as_bytes()).unwrap();
            // SAFETY: ends this process without what a test's process does at its end.
            unsafe { libc::_exit(0) }
        }
        Forked::Parent(pid) => {
            drop(writes);
            let mut text = String::new();
            fs::File::from(reads).read_to_string(&mut text).unwrap();
            waitpid(pid, None).unwrap();
            let line = |l: &str| l.split_once('=').map(|(w, n)| (w.to_owned(), n.parse().unwrap()));
            text.lines().filter_map(line).collect()
        }
    }
}

/// A committer of an ordinary repair is confined as one of an apply.
#[test]
fn a_repair_is_no_less_confined() {
    let mut bench = Bench::new();
    bench.confinement = cm_core::worker::batch::Confinement::Full;
    let decl = Decl::new().file("/etc/f", "ours");
    bench.apply(None, &decl);
    bench.write("/etc/f", "theirs");
    let seen = followed(|| drop(bench.converge(&decl, Intent::Correct)));
    assert!(seen.iter().any(|(c, _)| *c == libc::SYS_renameat || *c == libc::SYS_renameat2));
    let wrong = seen.iter().find(|(_, s)| s["CapEff"] != format!("{FILES:016x}") || s["Seccomp"] != "2");
    assert!(wrong.is_none(), "{wrong:?}");
    assert_eq!(bench.read("/etc/f"), "ours");
}

/// What a confined committer makes in the root is there with its attributes, or not at all.
#[test]
fn a_directory_comes_to_the_root_dressed_or_not_at_all() {
    let mut bench = Bench::new();
    bench.confinement = cm_core::worker::batch::Confinement::Full;
    let attributes = Attributes { owner: Some("nosuch".into()), ..Attributes::default() };
    let spec = Directory { path: "/theirs".into(), attributes, purge: false, entries: vec![] };
    let decl = Decl::new()
        .directory("/ours", Some(0o1750))
        .file("/new/deep/f", "x")
        .file("/new/g", "y")
        .unit(Kind::Directory, "/theirs", Spec::Directory(spec));
    let (one, results) = bench.apply(None, &decl);
    let results = bench.by_name(results);
    assert_eq!(results["directory:/theirs"].0, Outcome::NotKept, "{results:?}");
    let kept = results.iter().filter(|(name, _)| *name != "directory:/theirs");
    assert!(kept.clone().all(|(_, (o, _))| *o == Outcome::Changed), "{results:?}");
    assert_eq!((bench.mode("/ours"), bench.mode("/new"), bench.mode("/new/deep")), (0o1750, 0o755, 0o755));
    assert_eq!((bench.read("/new/deep/f"), bench.read("/new/g")), ("x".into(), "y".into()));
    assert!(!bench.path("/theirs").exists());
    let staging = bench.dir.path().join("store/staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    // Nor does a return leave any of it.
    bench.apply(Some((one, &decl)), &Decl::new());
    let left: Vec<_> = fs::read_dir(bench.path("/")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["etc"]);
}
