//! What the confined roles of the worker can do, seen from inside: each tries what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cm_core::sys::{self, Forked, fork};
use cm_core::worker::calls::{self, Role};
use cm_core::worker::compile::{Job, read_apart};
use cm_core::worker::confine::{self, Domain};
use common::Bench;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};

/// The exit code of a copy of this process that ends with what `work` answers. Tests have threads, and the copy ends without
/// waiting for locks that they hold.
fn in_copy(work: impl FnOnce() -> i32) -> i32 {
    match fork().unwrap() {
        Forked::Child => sys::leave(work()),
        Forked::Parent(pid) => match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        },
    }
}

/// Runs something as the confined committer of a batch that may write below /etc/in; its exit code.
fn confined(bench: &mut Bench, work: impl FnOnce(&Bench) -> bool) -> i32 {
    fs::create_dir_all(bench.path("/etc/in")).unwrap();
    bench.write("/etc/out", "x");
    bench.write("/etc/in/f", "x");
    let mut domain = Domain::confined();
    domain.allow(&bench.world.places.directory("/etc/in").unwrap());
    in_copy(|| match confine::committer(&bench.world, domain) {
        Ok(()) => i32::from(!work(bench)),
        Err(_) => 9,
    })
}

#[test]
fn the_committer_can_write_nowhere_else() {
    let mut bench = Bench::new();
    let code = confined(&mut bench, |b| {
        let inside = b.path("/etc/in/new");
        fs::write(&inside, "y").is_ok()
            && fs::rename(&inside, b.path("/etc/in/other")).is_ok()
            && fs::write(b.path("/etc/out"), "y").is_err()
            && fs::write(b.path("/etc/new"), "y").is_err()
            && fs::remove_file(b.path("/etc/out")).is_err()
            && fs::rename(b.path("/etc/in/other"), b.path("/etc/moved")).is_err()
            && fs::create_dir(b.path("/etc/dir")).is_err()
            && std::os::unix::fs::symlink("x", b.path("/etc/link")).is_err()
    });
    assert_eq!(code, 0);
    assert_eq!(bench.read("/etc/out"), "x");
}

#[test]
fn the_committer_changes_metadata_by_descriptor_only() {
    let mut bench = Bench::new();
    let code = confined(&mut bench, |b| {
        let path = b.path("/etc/in/f");
        let file = fs::File::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).is_err()
            && std::os::unix::fs::chown(&path, Some(1), Some(1)).is_err()
            && std::os::unix::fs::lchown(&path, Some(1), Some(1)).is_err()
            && file.set_permissions(fs::Permissions::from_mode(0o600)).is_ok()
            && std::os::unix::fs::fchown(&file, Some(1), Some(1)).is_ok()
    });
    assert_eq!(code, 0);
}

#[test]
fn the_committer_can_start_nothing_and_talk_to_nobody() {
    let mut bench = Bench::new();
    let code = confined(&mut bench, |_| {
        std::process::Command::new("/bin/true").status().is_err()
            && std::net::UdpSocket::bind("127.0.0.1:0").is_err()
            && std::os::unix::net::UnixStream::pair().is_err()
            && mount(Some("none"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>).is_err()
            && nix::unistd::chroot("/").is_err()
    });
    assert_eq!(code, 0);
}

#[test]
#[allow(unsafe_code)]
fn the_committer_cannot_go_around_what_is_refused() {
    let mut bench = Bench::new();
    let refused = |number: i64, first: i64| {
        // SAFETY: no argument is a pointer that a kernel without the filter would write through.
        let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
        result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    };
    let code = confined(&mut bench, |_| {
        let me = i64::from(std::process::id());
        let parent = i64::from(std::os::unix::process::parent_id());
        // setxattrat, removexattrat, file_setattr.
        let by_path = [463, 466, 469].into_iter().all(|n| refused(n, -1));
        // SAFETY: signal 0 is none.
        let own = unsafe { libc::syscall(libc::SYS_tgkill, me, libc::syscall(libc::SYS_gettid), 0) } == 0;
        by_path
            && own
            && refused(libc::SYS_kill, parent)
            && refused(libc::SYS_tkill, me)
            && refused(libc::SYS_tgkill, parent)
            && refused(libc::SYS_rt_sigqueueinfo, me)
            && refused(libc::SYS_pidfd_send_signal, -1)
            && refused(libc::SYS_io_uring_enter, -1)
            && refused(libc::SYS_fsconfig, -1)
            // getpid(2) as an x32 call.
            && (cfg!(not(target_arch = "x86_64")) || refused(0x4000_0000 | libc::SYS_getpid, 0))
    });
    assert_eq!(code, 0);
}

/// Every call that is not listed, made in a process of that role; those that are not refused.
#[allow(unsafe_code)]
fn unlisted(role: Role, confine: impl FnOnce() -> bool) -> i32 {
    in_copy(|| {
        let listed = calls::allowed(role).unwrap();
        if !confine() {
            return 250;
        }
        let refused = |number: &i64| {
            // SAFETY: were one let through, it had no pointer to follow and no descriptor to use.
            let result = unsafe { libc::syscall(*number, -1, 0, 0, 0, 0, 0) };
            result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
        };
        // Numbers that the kernel does not know are refused alike.
        // Those of uprobes are the kernel's own, and SIGILL for everybody else, filter or not.
        let mine = |n: &i64| ![335, 336].contains(n);
        let let_through =
            (0..600).filter(mine).filter(|n| !listed.contains_key(n)).filter(|n| !refused(n)).count();
        i32::try_from(let_through).unwrap_or(251)
    })
}

#[test]
fn every_call_that_is_not_listed_is_refused() {
    let mut bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let staging = fs::File::open(dir.path()).unwrap();
    assert_eq!(unlisted(Role::Compiler, || confine::compiler(&staging).is_ok()), 0);
    assert_eq!(unlisted(Role::Reader, || confine::reader().is_ok()), 0);
    let mut domain = Domain::confined();
    domain.allow(&bench.world.places.directory("/etc").unwrap());
    assert_eq!(unlisted(Role::Committer, || confine::committer(&bench.world, domain).is_ok()), 0);
    let listed = |role, number| calls::allowed(role).unwrap().contains_key(&number);
    for never in [libc::SYS_execve, libc::SYS_socket, libc::SYS_clone3, libc::SYS_ptrace, libc::SYS_mount] {
        for role in [Role::Compiler, Role::Reader, Role::Committer] {
            assert!(!listed(role, never), "{never} is allowed to the {role:?}");
        }
    }
    assert!(!listed(Role::Reader, libc::SYS_renameat) && !listed(Role::Compiler, libc::SYS_fchmod));
}

#[test]
fn the_compiler_can_open_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let staging = fs::File::open(dir.path()).unwrap();
    let code = in_copy(|| {
        let held = confine::compiler(&staging).is_ok()
            && fs::read("/etc/passwd").is_err()
            && fs::read_dir("/etc").is_err()
            && fs::write(dir.path().join("staged"), "x").is_ok()
            && fs::write("/tmp/elsewhere", "x").is_err()
            && std::process::Command::new("/bin/true").status().is_err()
            && std::os::unix::net::UnixStream::pair().is_err();
        i32::from(!held)
    });
    assert_eq!(code, 0);
}

/// What the compiler has of its own: who it is, in which groups, and whose its files in /proc are: root's, where a process
/// cannot be traced nor dumped.
#[test]
fn the_compiler_is_a_user_that_nobody_else_is() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let job = Job::alone("none".to_owned(), None, (0, 0), dir.path().join("staging"));
    let told = read_apart(&job, |_| {
        use nix::unistd::{getegid, geteuid, getgid, getgroups, getuid};
        let own = fs::metadata("/proc/self/environ").map(|m| (m.uid(), m.gid())).ok();
        let is = [getuid().as_raw(), geteuid().as_raw(), getgid().as_raw(), getegid().as_raw()];
        format!("{is:?} {:?} {own:?}", getgroups().unwrap()).into_bytes()
    });
    let id = 2_101_890_892_u32;
    assert_eq!(String::from_utf8(told.unwrap()).unwrap(), format!("{:?} [] Some((0, 0))", [id; 4]));
}
