//! `init::sys` against the real kernel: spawning, cgroups, reaping, signals.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(clippy::indexing_slicing, missing_docs)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use init::sys::cgroup::{self, EmptyWatch, Tree};
use init::sys::notify::NotifySocket;
use init::sys::reap::{self, ExitStatus, ProcessId};
use init::sys::signals::Signals;
use init::sys::spawn::{Launch, Output, Spawned, Stage, StageFailure, Status, spawn};
use init::sys::{raw, signals};
use support::{changed, eventually, outcome, over, readable};
use units::kind::service::Limit;

support::tests! {
    Process: runs_and_reports_exec,
    Process: environment_and_ids,
    Process: descriptors_are_exact,
    Process: failing_stages_are_named,
    Process: nobody_has_to_listen,
    Process: limits_umask_nice_oom,
    Process: the_limit_of_descriptors_is_inherited,
    Process: signals_are_reset_in_children,
    Process: a_child_shares_memory_and_gives_it_back,
    Process: a_terminal_becomes_controlling,
    Process: notify_from_a_child,
    Process: signals_say_who_sent_them,
    Process: cgroup_is_entered_at_birth,
    Process: killed_cgroup_is_not_entered_again,
    Process: an_empty_cgroup_is_entered_again,
    Process: fork_bomb_dies_with_its_cgroup,
    Process: cgroup_settings_name_what_is_missing,
    Process: sessions_are_found_without_cgroups,
    Pid1: ten_thousand_orphans,
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|t| (*t).to_owned()).collect()
}

fn ended(spawned: &Spawned) -> ExitStatus {
    over(spawned.pid);
    let exit = reap::peek().unwrap().unwrap();
    assert_eq!(exit.pid, spawned.pid);
    assert_eq!(reap::peek().unwrap(), Some(exit), "peeking leaves it");
    assert_eq!(reap::reap(exit.pid).unwrap(), Some(exit));
    exit.status
}

/// Runs a command to its end and returns what it wrote.
fn output(launch: &Launch<'_>) -> (String, ExitStatus) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut spawned =
        spawn(&Launch { output: Output::Descriptor(writer.as_fd()), ..launch.clone() }).unwrap();
    drop(writer);
    assert_eq!(outcome(&mut spawned), Status::Executed);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, ended(&spawned))
}

fn failure(launch: &Launch<'_>) -> StageFailure {
    let mut spawned = spawn(launch).unwrap();
    let Status::Failed(failure) = outcome(&mut spawned) else { panic!("should have failed") };
    assert_eq!(ended(&spawned), ExitStatus::Code(127));
    failure
}

fn runs_and_reports_exec() {
    let (text, status) = output(&Launch {
        argv: &words(&["sh", "-c", "echo out; echo err >&2; exit 3"]),
        ..Launch::default()
    });
    assert_eq!((text.as_str(), status), ("out\nerr\n", ExitStatus::Code(3)));
    let (text, _) = output(&Launch {
        argv: &words(&["other", "-c", "echo $0 $#; pwd; readlink /proc/self/fd/0"]),
        program: Some("/bin/sh"),
        ..Launch::default()
    });
    assert_eq!(text, "other 0\n/\n/dev/null\n");
}

fn environment_and_ids() {
    let own = [("A".to_owned(), "b c".to_owned())];
    let base = Launch { argv: &words(&["env"]), environment: &own, ..Launch::default() };
    let (text, _) = output(&base);
    let path = format!("PATH={}", units::kind::service::DEFAULT_PATH);
    for want in ["A=b c", "HOME=/root", "USER=root", "LOGNAME=root", &path] {
        assert!(text.lines().any(|l| l == want), "{want} in {text}");
    }
    assert!(text.lines().any(|l| l.starts_with("SHELL=/")));
    assert_eq!(text.lines().count(), 6);

    let (text, _) = output(&Launch { user: Some("www-data"), ..base.clone() });
    assert!(text.contains("HOME=/var/www\n") && text.contains("USER=www-data\n"), "{text}");

    let id = words(&["sh", "-c", "id -u; id -g; id -G; grep -E 'Uid|Gid' /proc/self/status"]);
    let (text, _) = output(&Launch {
        argv: &id,
        user: Some("www-data"),
        groups: &words(&["adm", "54321"]),
        ..Launch::default()
    });
    assert!(text.starts_with("33\n33\n33 4 54321\nUid:\t33\t33\t33\t33\nGid:\t33\t33\t33\t33"), "{text}");
    let (text, _) =
        output(&Launch { argv: &id, user: Some("61234"), group: Some("daemon"), ..Launch::default() });
    assert!(text.starts_with("61234\n1\n1\n"), "{text}");
}

fn descriptors_are_exact() {
    // Descriptors without close-on-exec, as PID 1 has: none may be seen by the service.
    let keep: Vec<OwnedFd> = (0..40).map(|_| nix::unistd::dup(std::io::stderr()).unwrap()).collect();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let argv = words(&["sh", "-c", "ls /proc/$$/fd; echo ready >&7; echo other >&3"]);
    let (mut second, second_writer) = std::io::pipe().unwrap();
    let targets = [(7, writer.as_fd()), (3, second_writer.as_fd())];
    let (text, _) = output(&Launch { argv: &argv, descriptors: &targets, ..Launch::default() });
    assert_eq!(text, "0\n1\n2\n3\n7\n");
    drop((writer, second_writer, keep));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    second.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ready\nother\n");
}

fn failing_stages_are_named() {
    let argv = words(&["true"]);
    let base = Launch { argv: &argv, ..Launch::default() };
    let check = |launch: Launch<'_>, stage: Stage, errno: i32, part: &str| {
        let failure = failure(&launch);
        assert_eq!((failure.stage, failure.errno), (stage, errno), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    };
    check(
        Launch { argv: &words(&["no-such-program"]), ..base.clone() },
        Stage::Exec,
        libc::ENOENT,
        "cannot execute \"no-such-program\": No such file",
    );
    check(
        Launch { argv: &words(&["/etc/passwd"]), ..base.clone() },
        Stage::Exec,
        libc::EACCES,
        "Permission denied",
    );
    check(
        Launch { directory: Some("/no/where"), ..base.clone() },
        Stage::Directory,
        libc::ENOENT,
        "directory \"/no/where\"",
    );
    check(
        Launch { directory: Some("/root"), user: Some("nobody"), ..base.clone() },
        Stage::Directory,
        libc::EACCES,
        "\"/root\"",
    );
    check(
        Launch { user: Some("nobody-here"), ..base.clone() },
        Stage::User,
        libc::ESRCH,
        "user \"nobody-here\"",
    );
    check(Launch { group: Some("none"), ..base.clone() }, Stage::Group, libc::ESRCH, "group \"none\"");
    check(
        Launch { groups: &words(&["adm", "none"]), ..base.clone() },
        Stage::Groups,
        libc::ESRCH,
        "group \"none\"",
    );
    check(
        Launch { tty: Some("no-such-tty"), ..base.clone() },
        Stage::Tty,
        libc::ENOENT,
        "\"/dev/no-such-tty\"",
    );
    let limit = [Limit { resource: "nofile".into(), soft: 10, hard: 5 }];
    check(Launch { limits: &limit, ..base.clone() }, Stage::Limit, libc::EINVAL, "limit \"nofile\"");
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), "echo no interpreter line\n").unwrap();
    fs::set_permissions(script.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = script.into_temp_path();
    check(
        Launch { argv: &words(&[path.to_str().unwrap()]), ..base.clone() },
        Stage::Exec,
        libc::ENOEXEC,
        "#!",
    );
}

fn nobody_has_to_listen() {
    for _ in 0..50 {
        let Spawned { status, pid } =
            spawn(&Launch { argv: &words(&["true"]), ..Launch::default() }).unwrap();
        drop(status);
        over(pid);
        assert_eq!(reap::reap(pid).unwrap().unwrap().status, ExitStatus::Code(0));
    }
}

fn limits_umask_nice_oom() {
    init::sys::spawn::raise_descriptor_limit(true).unwrap();
    let argv = words(&["sh", "-c", "umask; ulimit -Sn; ulimit -c; nice; cat /proc/$$/oom_score_adj"]);
    let limits = [Limit { resource: "core".into(), soft: 0, hard: 0 }];
    let (text, _) = output(&Launch {
        argv: &argv,
        limits: &limits,
        umask: 0o027,
        nice: 5,
        oom_score: 100,
        ..Launch::default()
    });
    assert_eq!(text, "0027\n1024\n0\n5\n100\n");
}

/// A container's services have the limit that the container was given, the next init too.
fn the_limit_of_descriptors_is_inherited() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 2000, hard).unwrap();
    init::sys::spawn::raise_descriptor_limit(false).unwrap();
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    let (text, _) = output(&Launch { argv: &words(&["sh", "-c", "ulimit -Sn"]), ..Launch::default() });
    assert_eq!(text, "2000\n");
    init::sys::spawn::restore_descriptor_limit();
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (2000, hard));
}

fn signals_are_reset_in_children() {
    let _signals = Signals::open().unwrap();
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let (text, _) = output(&Launch { argv: &words(&["cat", "/proc/self/status"]), ..Launch::default() });
    for field in ["SigPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert!(text.contains(&format!("{field}:\t0000000000000000\n")), "{text}");
    }
}

/// What a child does in memory that is not its own is as right as in a copy, and leaves nothing behind, also when it is
/// killed on its way or has nothing to execute.
fn a_child_shares_memory_and_gives_it_back() {
    init::sys::spawn::raise_descriptor_limit(true).unwrap();
    let _signals = Signals::open().unwrap();
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let mappings = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let own = [("A".to_owned(), "b c".to_owned())];
    let script =
        words(&["sh", "-c", "env; pwd; ls /proc/$$/fd; grep Sig[BIC] /proc/self/status; ulimit -Sn; umask"]);
    let base = Launch {
        argv: &script,
        environment: &own,
        umask: 0o027,
        directory: Some("/tmp"),
        ..Launch::default()
    };
    let shared = Launch { share: true, ..base.clone() };
    let (copied, _) = output(&base);
    assert!(copied.contains("A=b c\n") && copied.contains("HOME=/root\n"), "{copied}");
    let mut before = 0;
    for round in 0..300 {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut children: Vec<Spawned> = Vec::new();
        for _ in 0..3 {
            // The first goes its way; the others are cut short anywhere.
            let first = children.is_empty();
            let output = if first { Output::Descriptor(writer.as_fd()) } else { Output::Null };
            let child = spawn(&Launch { output, ..shared.clone() }).unwrap();
            assert!(child.status.shares());
            if !first {
                raw::kill(child.pid, libc::SIGKILL).unwrap();
            }
            children.push(child);
        }
        drop(writer);
        let missing = words(&["/nowhere/at/all"]);
        let failed = spawn(&Launch { argv: &missing, share: true, ..Launch::default() }).unwrap();
        children.push(failed);
        for (n, child) in children.iter_mut().enumerate() {
            let status = outcome(child);
            assert!(!child.status.shares());
            match (n, status) {
                (0, Status::Executed) | (1 | 2, Status::Executed | Status::Died) => {}
                (3, Status::Failed(failure)) => assert_eq!(failure.errno, libc::ENOENT),
                other => panic!("{other:?}"),
            }
            over(child.pid);
            reap::reap(child.pid).unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, copied);
        if round == 20 {
            before = mappings();
        }
    }
    // A child that was killed while it had a database mapped has left that: rare, and small.
    assert!(mappings() < before + 100, "{before} mappings, then {}", mappings());
    let asked_for_more = Launch { share: true, user: Some("0"), ..base };
    assert!(
        !spawn(&asked_for_more).unwrap().status.shares(),
        "who becomes another user has memory of its own"
    );
}

fn a_terminal_becomes_controlling() {
    // SAFETY: plain calls of the pty interface on descriptors of our own.
    let (master, name) = unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert_eq!((libc::grantpt(master), libc::unlockpt(master)), (0, 0));
        let name = std::ffi::CStr::from_ptr(libc::ptsname(master)).to_str().unwrap().to_owned();
        (<OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(master), name)
    };
    let argv = words(&[
        "sh",
        "-c",
        "tty; echo to the terminal > /dev/tty; cut -d' ' -f5-8 /proc/$$/stat; read x; echo got $x",
    ]);
    let mut spawned = spawn(&Launch { argv: &argv, tty: Some(&name), ..Launch::default() }).unwrap();
    assert_eq!(outcome(&mut spawned), Status::Executed);
    let mut master = fs::File::from(master);
    master.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1000];
    // A terminal whose last user is gone answers EIO.
    while let Ok(n) = master.read(&mut buffer) {
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert_eq!(ended(&spawned), ExitStatus::Code(0));
    assert!(text.contains(&name) && text.contains("to the terminal") && text.contains("got hello"), "{text}");
    let pid = spawned.pid;
    let foreground =
        text.lines().find(|l| l.starts_with(&format!("{pid} {pid} "))).unwrap_or_else(|| panic!("{text}"));
    assert!(foreground.trim().ends_with(&pid.to_string()), "{foreground}");
}

fn notify_from_a_child() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = NotifySocket::bind(&path, false).unwrap();
    let program = "import os,socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
                   s.sendto(b'READY=1\\nMAINPID=%d' % os.getpid(), os.environ['NOTIFY_SOCKET'])";
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (text, status) = output(&Launch {
        argv: &words(&["python3", "-c", program]),
        notify_socket: path.to_str(),
        user: Some("nobody"),
        ..Launch::default()
    });
    assert_eq!((text.as_str(), status), ("", ExitStatus::Code(0)));
    let mut messages = Vec::new();
    assert!(!socket.drain(10, &mut messages).unwrap());
    let message = messages.pop().unwrap();
    let sender = message.sender.unwrap();
    assert!(message.notification.ready);
    assert_eq!(message.notification.main_pid, Some(sender.pid), "named though it has exited");
    assert_eq!(sender.uid, 65534);
}

fn signals_say_who_sent_them() {
    let mut signals = Signals::open().unwrap();
    assert_eq!(signals.read().unwrap(), None);
    let me = std::process::id();
    let mut spawned = spawn(&Launch {
        argv: &words(&["sh", "-c", &format!("kill -TERM {me}; kill -37 {me}")]),
        ..Launch::default()
    })
    .unwrap();
    outcome(&mut spawned);
    over(spawned.pid);
    let mut seen = Vec::new();
    while let Some(s) = signals.read().unwrap() {
        seen.push((s.signal, s.pid, s.uid));
    }
    seen.sort_unstable();
    let pid = spawned.pid;
    assert_eq!(
        seen,
        [(libc::SIGTERM, pid, 0), (libc::SIGCHLD, pid, 0), (signals::number("RTMIN+3").unwrap(), pid, 0)]
    );
}

fn tree(name: &str) -> Tree {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (mount, _) = cgroup::find_mount(&mounts).expect("a cgroup2 mount");
    let parent = mount.join(format!("holdfast-test-{name}-{}", std::process::id()));
    fs::create_dir(&parent).unwrap();
    Tree::open(Some(&parent)).unwrap()
}

fn drop_tree(tree: Tree) {
    let parent = tree.root().parent().unwrap().to_owned();
    tree.remove_root().unwrap();
    fs::remove_dir(parent).unwrap();
}

fn cgroup_is_entered_at_birth() {
    let tree = tree("birth");
    let directory = tree.create("service:one").unwrap();
    let mut watch = EmptyWatch::open().unwrap();
    watch.add(&tree, "service:one").unwrap();
    assert!(!tree.populated("service:one").unwrap());
    let mut spawned = spawn(&Launch {
        argv: &words(&["sleep", "1000"]),
        cgroup: Some(directory.as_fd()),
        ..Launch::default()
    })
    .unwrap();
    assert_eq!(tree.members("service:one").unwrap(), [spawned.pid]);
    assert_eq!(outcome(&mut spawned), Status::Executed);
    assert!(tree.populated("service:one").unwrap());
    assert!(tree.id("service:one").unwrap() > 0);
    let nested = tree.create_nested("service:one", "stop").unwrap();
    let mut helper = spawn(&Launch {
        argv: &words(&["sleep", "1000"]),
        cgroup: Some(nested.as_fd()),
        ..Launch::default()
    })
    .unwrap();
    outcome(&mut helper);
    assert_eq!(tree.members("service:one").unwrap().len(), 2);
    assert_eq!(tree.units().unwrap(), ["service:one"]);
    watch.changed().unwrap();

    tree.signal_all("service:one", libc::SIGTERM).unwrap();
    readable(watch.as_fd());
    let mut changed = watch.changed().unwrap();
    while tree.populated("service:one").unwrap() {
        readable(watch.as_fd());
        changed = watch.changed().unwrap();
    }
    assert_eq!(changed, ["service:one"]);
    for _ in 0..2 {
        let exit = reap::peek().unwrap().unwrap();
        assert_eq!(exit.status, ExitStatus::Signal { signal: libc::SIGTERM, core: false });
        reap::reap(exit.pid).unwrap();
    }
    assert_eq!(reap::peek().unwrap(), None);
    tree.remove("service:one").unwrap();
    tree.remove("service:one").unwrap();
    assert!(!tree.populated("service:one").unwrap());
    assert_eq!(watch.changed().unwrap(), Vec::<String>::new());
    drop_tree(tree);
}

fn an_empty_cgroup_is_entered_again() {
    let tree = tree("again");
    let (name, mut directory) = tree.create_fresh("service:a", 1, false).unwrap();
    let id = tree.id(&name).unwrap();
    for _ in 0..3 {
        let launch = Launch { argv: &words(&["true"]), cgroup: Some(directory.as_fd()), ..Launch::default() };
        let mut spawned = spawn(&launch).unwrap();
        assert_eq!(outcome(&mut spawned), Status::Executed);
        assert_eq!(ended(&spawned), ExitStatus::Code(0));
        changed(&tree.path(&name), "the cgroup is empty", || !tree.populated(&name).unwrap());
        directory = tree.reopen(&name).unwrap();
        assert_eq!(tree.id(&name).unwrap(), id);
    }
    drop(tree.create_nested(&name, "inside").unwrap());
    assert!(tree.reopen(&name).is_none(), "a cgroup in which something made another one is not as new");
    tree.remove(&name).unwrap();
    assert!(tree.reopen(&name).is_none());
    drop_tree(tree);
}

fn killed_cgroup_is_not_entered_again() {
    let tree = tree("killed");
    let (name, directory) = tree.create_fresh("service:k", 1, false).unwrap();
    assert_eq!(name, "service:k");
    let sleep = |directory: &std::os::fd::OwnedFd| {
        let mut spawned = spawn(&Launch {
            argv: &words(&["sleep", "1000"]),
            cgroup: Some(directory.as_fd()),
            ..Launch::default()
        })
        .unwrap();
        assert_eq!(outcome(&mut spawned), Status::Executed, "killed at birth");
        spawned
    };
    let first = sleep(&directory);
    tree.kill("service:k").unwrap();
    // Its end is not even known yet.
    let (name, directory) = tree.create_fresh("service:k", 2, true).unwrap();
    assert_eq!(name, "service:k.2");
    let second = sleep(&directory);
    assert_eq!(ended(&first), ExitStatus::Signal { signal: libc::SIGKILL, core: false });
    // What only lies there is taken away first.
    let (name, directory) = tree.create_fresh("service:k", 3, false).unwrap();
    assert_eq!(name, "service:k");
    let third = sleep(&directory);
    // One that is not noted, but there: nobody is put beside it.
    assert_eq!(tree.create_fresh("service:k", 4, false).unwrap().0, "service:k.4");
    assert_eq!(tree.members("service:k").unwrap(), [third.pid]);
    assert_eq!(tree.members("service:k.2").unwrap(), [second.pid]);
    for (name, spawned) in [("service:k", &third), ("service:k.2", &second)] {
        tree.kill(name).unwrap();
        assert_eq!(ended(spawned), ExitStatus::Signal { signal: libc::SIGKILL, core: false });
    }
    for name in ["service:k", "service:k.2"] {
        changed(&tree.path(name), "it is empty", || !tree.populated(name).unwrap());
    }
    drop_tree(tree);
}

fn fork_bomb_dies_with_its_cgroup() {
    let tree = tree("bomb");
    let directory = tree.create("service:bomb").unwrap();
    let mut watch = EmptyWatch::open().unwrap();
    watch.add(&tree, "service:bomb").unwrap();
    let limits = [Limit { resource: "nproc".into(), soft: 300, hard: 300 }];
    let bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n  os.setsid() if os.getpid() != os.getsid(0) and os.getpgid(0) != os.getpid() else None";
    let mut spawned = spawn(&Launch {
        argv: &words(&["python3", "-c", bomb]),
        cgroup: Some(directory.as_fd()),
        user: Some("61999"),
        limits: &limits,
        ..Launch::default()
    })
    .unwrap();
    assert_eq!(outcome(&mut spawned), Status::Executed);
    eventually("the bomb explodes", || tree.members("service:bomb").unwrap().len() > 250);
    assert!(matches!(tree.remove("service:bomb"), Err(cgroup::CgroupError::File { .. })));
    tree.kill("service:bomb").unwrap();
    while tree.populated("service:bomb").unwrap() {
        readable(watch.as_fd());
        watch.changed().unwrap();
    }
    assert_eq!(tree.members("service:bomb").unwrap(), Vec::<i32>::new());
    assert_eq!(ended(&spawned), ExitStatus::Signal { signal: libc::SIGKILL, core: false });
    tree.remove("service:bomb").unwrap();
    drop_tree(tree);
}

fn cgroup_settings_name_what_is_missing() {
    let tree = tree("settings");
    tree.create("service:s").unwrap();
    for bad in ["memory", "../../x.y", "cgroup.procs", "cgroup.kill", "a/b.c"] {
        assert!(matches!(tree.set("service:s", bad, "1"), Err(cgroup::CgroupError::NotASetting(_))), "{bad}");
    }
    tree.set("service:s", "cgroup.max.descendants", "3").unwrap();
    let error = tree.set("service:s", "frobnicate.max", "3").unwrap_err().to_string();
    assert_eq!(error, "cannot set \"frobnicate.max\": this cgroup tree has no \"frobnicate\" controller");
    if tree.controllers().iter().any(|c| c == "pids") {
        tree.set("service:s", "pids.max", "7").unwrap();
        assert_eq!(fs::read_to_string(tree.path("service:s").join("pids.max")).unwrap(), "7\n");
        assert!(tree.set("service:s", "pids.max", "many").is_err());
    } else {
        assert!(
            tree.set("service:s", "pids.max", "7").unwrap_err().to_string().contains("\"pids\" controller")
        );
    }
    drop_tree(tree);
}

fn sessions_are_found_without_cgroups() {
    let argv = words(&["sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"]);
    let mut spawned = spawn(&Launch { argv: &argv, ..Launch::default() }).unwrap();
    assert_eq!(outcome(&mut spawned), Status::Executed);
    eventually("three members", || cgroup::session_members(spawned.pid).len() == 3);
    let identity = ProcessId::of(spawned.pid).unwrap();
    for pid in cgroup::session_members(spawned.pid) {
        raw::kill(pid, libc::SIGKILL).unwrap();
    }
    ended(&spawned);
    assert!(!identity.exists());
    eventually("none left", || cgroup::session_members(spawned.pid).is_empty());
}

fn ten_thousand_orphans() {
    assert_eq!(std::process::id(), 1);
    let mut signals = Signals::open().unwrap();
    // Each inner process is orphaned at birth; two thousand at a time keep below the pid limits of small machines.
    let program = "import os,sys\nfor i in range(2000):\n  if os.fork()==0:\n    if os.fork()==0: os._exit(7)\n    os._exit(0)\n  os.wait()";
    let mut orphans = 0;
    for _ in 0..5 {
        let spawned = spawn(&Launch {
            argv: &words(&["python3", "-c", program]),
            output: Output::Inherit,
            ..Launch::default()
        })
        .unwrap();
        let mut main_gone = false;
        while !main_gone || orphans % 2000 != 0 {
            readable(signals.as_fd());
            while signals.read().unwrap().is_some() {}
            while let Some(exit) = reap::peek().unwrap() {
                reap::reap(exit.pid).unwrap();
                if exit.pid == spawned.pid {
                    assert_eq!(exit.status, ExitStatus::Code(0));
                    main_gone = true;
                } else {
                    assert_eq!(exit.status, ExitStatus::Code(7));
                    orphans += 1;
                }
            }
        }
    }
    assert_eq!(orphans, 10_000);
    let left = fs::read_dir("/proc").unwrap().flatten().filter(|e| {
        Path::new(&e.path()).join("stat").exists() && e.file_name().to_string_lossy().parse::<i32>().is_ok()
    });
    assert_eq!(left.count(), 1, "only this process is left");
    let _ = signals.as_raw_fd();
}
