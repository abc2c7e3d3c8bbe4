//! The helper process: mounts, unmounts, waiting for paths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use init::sys::{helper, mount, remount};
use support::eventually;

support::tests! {
    Pid1: mounts_and_unmounts,
    Process: a_device_that_does_not_come,
    Pid1: a_bind_mount_keeps_what_its_source_has,
    Pid1: a_mount_stands_where_its_path_leads,
    Pid1: a_holder_is_named,
    Pid1: everything_goes_but_what_is_needed,
    Process: paths_are_waited_for,
    Process: pid_files_are_read,
    Process: bad_usage,
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(helper::NAME).args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(words).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn top(path: &Path) -> Option<String> {
    mount::now().unwrap().into_iter().rev().find(|m| Path::new(&m.path) == path).map(|m| m.fstype)
}

fn mounts_and_unmounts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b c");
    let at = path.to_str().unwrap();
    assert_eq!(
        run(&["mount", "tmpfs", at, "tmpfs", "size=1m,mode=0700,nodev,nofail", "0", "-"]),
        (Some(0), String::new())
    );
    assert_eq!(top(&path).as_deref(), Some("tmpfs"));
    let options = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        options.lines().any(|l| l.contains("b\\040c") && l.contains("nodev") && l.contains("size=1024k")),
        "{options}"
    );
    assert_eq!(
        run(&["mount", "tmpfs", at, "tmpfs", "", "0", "-"]).0,
        Some(0),
        "what is there already is right"
    );
    // What stands is given what it lacks, and keeps what nobody speaks of.
    assert_eq!(run(&["mount", "tmpfs", at, "tmpfs", "noexec,size=2m", "0", "-"]), (Some(0), String::new()));
    let now = remount::top(at).unwrap();
    assert_eq!(
        (now.options.as_str(), now.superblock.contains("size=2048k")),
        ("rw,nodev,noexec,relatime", true)
    );
    for (word, writable) in [("ro", false), ("rw,exec", true)] {
        assert_eq!(run(&["mount", "tmpfs", at, "tmpfs", word, "0", "-"]), (Some(0), String::new()));
        assert_eq!(fs::write(path.join("w"), "w").is_ok(), writable, "{word}");
    }
    let (code, text) = run(&["mount", "tmpfs", at, "tmpfs", "mode=0711,nosuid", "0", "-"]);
    assert_eq!(code, Some(4), "tmpfs takes a mode at the first mount only: {text}");
    assert!(text.contains("the kernel did not take the options \"mode=0711\""), "{text}");
    assert!(remount::top(at).unwrap().options.contains("nosuid"));
    let (code, text) = run(&["mount", "ramfs", at, "ramfs", "", "0", "-"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("another file system is mounted there: type \"tmpfs\""), "{text}");
    let count = mount::now().unwrap().iter().filter(|m| Path::new(&m.path) == path).count();
    assert_eq!(count, 1);
    let bind = dir.path().join("bind");
    let (code, text) = run(&["mount", at, bind.to_str().unwrap(), "none", "bind,ro,noexec", "0", "-"]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    assert!(fs::write(bind.join("x"), "x").is_err(), "read-only");
    assert_eq!(run(&["mount", at, bind.to_str().unwrap(), "none", "bind,ro,exec", "0", "-"]).0, Some(0));
    let own = remount::top(bind.to_str().unwrap()).unwrap().options;
    assert!(own.starts_with("ro,") && !own.contains("noexec"), "{own}");
    let count = mount::now().unwrap().iter().filter(|m| Path::new(&m.path) == bind).count();
    assert_eq!(count, 1, "not bound over itself");
    fs::write(path.join("x"), "x").unwrap();
    assert!(bind.join("x").exists());
    assert_eq!(run(&["umount", bind.to_str().unwrap()]).0, Some(0));
    assert_eq!(run(&["umount", at]).0, Some(0));
    assert_eq!(run(&["umount", at]).0, Some(3), "not mounted");
    assert_eq!(run(&["umount", "/no/where"]).0, Some(3));
    let (code, text) = run(&["mount", "x", at, "nosuchfs", "", "0", "-"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("this kernel has no file system \"nosuchfs\""), "{text}");
    let (_, text) = run(&["mount", "tmpfs", at, "tmpfs", "frobnicate=1", "0", "-"]);
    assert!(text.contains("bad option in \"frobnicate=1\""), "{text}");
}

/// A remount drops what it does not name: what is bound would allow what its source does not. Where the kernel refuses
/// that, as in a user namespace, nothing of it is left.
fn a_bind_mount_keeps_what_its_source_has() {
    let dir = tempfile::tempdir().unwrap();
    let (none, there) = (dir.path().join("none"), dir.path().join("there"));
    let (code, said) =
        run(&["mount", none.to_str().unwrap(), there.to_str().unwrap(), "none", "bind", "0", "-"]);
    assert!(code == Some(1) && said.contains("there\": there is no such source"), "{code:?} {said}");
    let (source, bind) = (dir.path().join("source"), dir.path().join("bind"));
    let (from, at) = (source.to_str().unwrap(), bind.to_str().unwrap());
    assert_eq!(
        run(&["mount", "tmpfs", from, "tmpfs", "nosuid,nodev,noatime", "0", "-"]),
        (Some(0), String::new())
    );
    assert_eq!(run(&["mount", from, at, "none", "bind,ro,dev", "0", "-"]), (Some(0), String::new()));
    let own = remount::top(at).unwrap().options;
    assert_eq!(own, "ro,nosuid,noatime", "what is declared, and the rest as it was");
    assert_eq!(run(&["umount", at]).0, Some(0));

    // What another user namespace has set is locked.
    fs::remove_dir(&bind).unwrap();
    let script = format!("exec -a {} /proc/self/exe \"$@\"", helper::NAME);
    let inside = |options: &str| {
        let look = format!("({script}); code=$?; grep -c ' {at} ' /proc/self/mountinfo; exit $code");
        let script = look.replace("/proc/self/exe", std::env::current_exe().unwrap().to_str().unwrap());
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "bash", "-c", &script, "bash"]);
        let Output { status, stdout, stderr } =
            command.args(["mount", from, at, "none", options, "0", "-"]).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (status.code(), text(&stdout), text(&stderr))
    };
    assert_eq!(inside("bind,ro"), (Some(0), "1\n".to_owned(), String::new()));
    let (code, mounted, why) = inside("bind,ro,suid");
    assert_eq!((code, mounted.as_str()), (Some(1), "0\n"), "{why}");
    assert!(why.contains("EPERM") || why.contains("not permitted"), "{why}");
}

/// Links of root on the way are followed once, and the mount is where the kernel lists it; those of others are not.
fn a_mount_stands_where_its_path_leads() {
    let dir = tempfile::tempdir().unwrap();
    let top_dir = dir.path().canonicalize().unwrap();
    let at = |path: &str| top_dir.join(path).to_str().unwrap().to_owned();
    fs::create_dir(at("real")).unwrap();
    symlink("real", at("link")).unwrap();
    symlink("real/last", at("last")).unwrap();
    let count = || fs::read_to_string("/proc/self/mountinfo").unwrap().matches("/real/").count();
    for (declared, real) in [("link/m", "real/m"), ("last", "real/last")] {
        let words = |path: &str| {
            let told = command(&["--why", "1", "mount", "tmpfs", path, "tmpfs", "size=1m", "0", "-"])
                .output()
                .unwrap();
            (told.status.code(), String::from_utf8_lossy(&told.stdout).into_owned())
        };
        let expected = (Some(0), format!("{}{}\n", helper::AT, at(real)));
        assert_eq!(words(&at(declared)), expected);
        assert_eq!(top(Path::new(&at(real))).as_deref(), Some("tmpfs"));
        assert_eq!((words(&at(declared)), count()), (expected, 1), "it stands already");
        assert_eq!(run(&["umount", &at(real)]).0, Some(0));
        assert_eq!(count(), 0);
    }
    std::os::unix::fs::lchown(at("link"), Some(1234), None).unwrap();
    let (code, text) = run(&["mount", "tmpfs", &at("link/m"), "tmpfs", "", "0", "-"]);
    assert_eq!((code, count()), (Some(1), 0));
    assert!(text.contains("/link is a link of user 1234; only links that root owns are followed"), "{text}");
    // A file is a mount point as well.
    fs::write(at("real/file"), "ours").unwrap();
    fs::write(at("other"), "theirs").unwrap();
    let (from, over) = (at("other"), at("last"));
    fs::remove_file(&over).unwrap();
    symlink("real/file", &over).unwrap();
    assert_eq!(run(&["mount", &from, &over, "none", "bind", "0", "-"]), (Some(0), String::new()));
    assert_eq!(fs::read_to_string(at("real/file")).unwrap(), "theirs");
    assert_eq!(run(&["umount", &at("real/file")]).0, Some(0));
}

fn a_device_that_does_not_come() {
    for source in ["LABEL=no-such-label", "/dev/no-such-disk"] {
        let (code, text) = run(&["mount", source, "/nowhere", "ext4", "", "30", "-"]);
        assert_eq!(code, Some(1));
        assert!(text.contains("did not appear in time"), "{text}");
    }
    assert!(!Path::new("/nowhere").exists());
}

fn a_holder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap().to_owned();
    assert_eq!(run(&["mount", "tmpfs", &at, "tmpfs", "", "0", "-"]).0, Some(0));
    let mut holder = Command::new("sleep").arg("1000").current_dir(&at).spawn().unwrap();
    let (code, text) = run(&["umount", &at]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("held by sleep (pid {})", holder.id())), "{text}");
    let told = command(&["--why", "1", "umount", &at]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(out.ends_with(&format!("held by sleep (pid {})\n", holder.id())) && err.is_empty(), "{out}{err}");
    let (code, text) = run(&["--why", "77", "umount", &at]);
    assert!(
        code == Some(1) && text.contains("held by sleep"),
        "no such descriptor: it is said aloud: {text}"
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(run(&["umount", &at]).0, Some(0));
}

fn everything_goes_but_what_is_needed() {
    // A root of its own, so that nothing of the machine is touched.
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let root_at = root.to_str().unwrap();
    assert_eq!(run(&["mount", "tmpfs", root_at, "tmpfs", "", "0", "-"]).0, Some(0));
    for sub in ["proc", "srv"] {
        fs::create_dir(root.join(sub)).unwrap();
    }
    fs::copy("/proc/self/exe", root.join("helper")).unwrap();
    assert_eq!(run(&["mount", "proc", root.join("proc").to_str().unwrap(), "proc", "", "0", "-"]).0, Some(0));
    nix::unistd::chdir(&root).unwrap();
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    nix::unistd::pivot_root(".", ".").unwrap();
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).unwrap();
    nix::unistd::chdir("/").unwrap();
    let inner = |words: &[&str]| {
        let output =
            Command::new("/helper").arg0(helper::NAME).args(words).stdin(Stdio::inherit()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(inner(&["mount", "one", "/srv/a", "tmpfs", "", "0", "-"]).0, Some(0));
    assert_eq!(inner(&["mount", "two", "/srv/a/b", "tmpfs", "", "0", "-"]).0, Some(0));
    let _held = fs::File::create("/srv/a/open").unwrap();
    let (code, text) = inner(&["umount-all"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("\"/srv/a\"") && text.contains("held by") && text.contains("(pid 1)"), "{text}");
    assert!(!text.contains("/srv/a/b"), "{text}");
    assert_eq!(top(Path::new("/srv/a/b")), None);
    assert!(top(Path::new("/proc")).is_some());
    assert!(fs::write("/x", "x").is_err(), "the root is read-only");
}

fn waiter(path: &Path, since: Option<u64>) -> Child {
    let since = since.map(|s| s.to_string());
    let words: Vec<&str> =
        ["await-path", path.to_str().unwrap()].into_iter().chain(since.as_deref()).collect();
    command(&words).spawn().unwrap()
}

fn asleep(child: &Child) {
    eventually("the helper waits", || {
        let wchan = fs::read_to_string(format!("/proc/{}/stack", child.id())).unwrap_or_default();
        wchan.contains("poll")
    });
}

fn paths_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one/two/file");
    let mut early = waiter(&path, None);
    asleep(&early);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    assert!(early.wait().unwrap().success());
    assert!(waiter(&path, None).wait().unwrap().success(), "it is there");
    // An old one says nothing; the same file written anew does.
    let then = helper::tick() + 50_000;
    let mut young = waiter(&path, Some(then));
    asleep(&young);
    eventually("a later moment", || helper::tick() > then + 20_000);
    assert!(young.try_wait().unwrap().is_none());
    fs::write(&path, "new").unwrap();
    assert!(young.wait().unwrap().success());
    // A directory that is replaced while it is watched.
    let late = dir.path().join("x/y");
    fs::create_dir(dir.path().join("x")).unwrap();
    let mut waits = waiter(&late, None);
    asleep(&waits);
    fs::rename(dir.path().join("x"), dir.path().join("z")).unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    fs::write(&late, "").unwrap();
    assert!(waits.wait().unwrap().success());
    assert_eq!(run(&["await-path", "relative"]).0, Some(1));
}

fn pid_files_are_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), " 4711\nmore\n").unwrap();
    let at = file.path().to_str().unwrap();
    assert_eq!(run(&["read-pid", at]), (Some(0), "4711\n".to_owned()));
    for bad in ["", "x", "1", "-5", "99999999999"] {
        fs::write(file.path(), bad).unwrap();
        assert_eq!(run(&["read-pid", at]).0, Some(1), "{bad}");
    }
    assert_eq!(run(&["read-pid", "/no/where"]).0, Some(1));
}

fn bad_usage() {
    assert_eq!(run(&["frobnicate"]).0, Some(2));
    assert_eq!(run(&["mount", "x"]).0, Some(2));
    let (code, text) = run(&["module", "no-such-module"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no-such-module") || text.contains("modules.dep"), "{text}");
}
