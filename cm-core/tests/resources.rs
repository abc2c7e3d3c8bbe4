//! Users, groups, lines, settings, guards, and file systems that say no.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cm_core::proto::{Action, Intent, Outcome, Step};
use cm_core::resource::execute;
use cm_core::resource::op::{Account, Op, OwnChange, What};
use cm_core::resource::staging::Areas;
use cm_core::resource::tree::Touched;
use cm_core::store::Prior;
use cm_core::worker::batch::Confinement;
use common::{Bench, Decl, fingerprint, private_mounts, tmpfs_mount, user};
use nix::mount::{MsFlags, mount};
use units::kind::directory::Directory;
use units::kind::exec::{Exec, Once};
use units::kind::group::Group;
use units::kind::hostname::Hostname;
use units::kind::line::Line;
use units::kind::mount::Mount;
use units::kind::sysctl::Sysctl;
use units::kind::user::User;
use units::kind::{Attributes, Spec};
use units::{Kind, UnitId};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# a note\n+@nis::::::\n";
const GROUP: &str = "root:x:0:\nadm:x:4:syslog\n";
const SHADOW: &str = "root:*:19000:0:99999:7:::\n";
const GSHADOW: &str = "root:*::\nadm:*::syslog\n";

fn with_accounts() -> Bench {
    let bench = Bench::with_accounts(PASSWD, GROUP);
    bench.write("/etc/shadow", SHADOW);
    bench.write("/etc/gshadow", GSHADOW);
    fs::set_permissions(bench.path("/etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
    bench
}

fn users(users: &[User]) -> Decl {
    users.iter().fold(Decl::new(), |d, u| d.unit(Kind::User, &u.name, Spec::User(u.clone())))
}

fn line(path: &str, line: &str, matches: Option<&str>) -> Line {
    Line {
        path: path.into(),
        line: line.into(),
        matches: matches.map(str::to_owned),
        present: true,
        create: false,
    }
}

#[test]
fn a_user_is_made_with_a_home_and_a_file_of_his() {
    let mut bench = with_accounts();
    let bob = User { create_home: true, groups: vec!["adm".into()], ..user("bob") };
    let mut decl = users(&[bob]);
    let mut spec = decl.file_spec("/etc/bobs", Some("x"), Some(0o600));
    spec.attributes.owner = Some("bob".into());
    spec.attributes.group = Some("bob".into());
    let decl = decl.unit(Kind::File, "/etc/bobs", Spec::File(spec));
    let results = bench.converge(&decl, Intent::Apply);
    assert!(results.values().all(|(o, _)| *o == Outcome::Changed), "{results:?}");
    assert_eq!(
        bench.read("/etc/passwd"),
        "root:x:0:0:root:/root:/bin/bash\n# a note\nbob:x:1000:1000::/home/bob:/bin/sh\n+@nis::::::\n"
    );
    assert_eq!(bench.read("/etc/group"), "root:x:0:\nadm:x:4:syslog,bob\nbob:x:1000:\n");
    assert_eq!((bench.mode("/etc/shadow"), bench.mode("/home/bob")), (0o640, 0o700));
    assert_eq!(fs::metadata(bench.path("/etc/bobs")).unwrap().uid(), 1000);
    assert!(bench.converge(&decl, Intent::Correct).values().all(|(o, _)| *o == Outcome::Kept));
}

/// Of a review. Of a user who was there before, only the user database knows where he lives.
#[test]
fn a_purge_leaves_the_home_of_a_declared_user() {
    let mut bench = with_accounts();
    let passwd = bench.read("/etc/passwd");
    bench.write("/etc/passwd", &format!("{passwd}eve:x:1500:1500::/srv/home/far/eve:/bin/sh\n"));
    bench.write("/srv/home/far/eve/thesis", "years of work");
    bench.write("/srv/home/stray", "nobody's");
    let attributes = Attributes::default();
    let purged = Directory { path: "/srv/home".into(), attributes, purge: true, entries: vec![] };
    let decl = users(&[user("eve")]).unit(Kind::Directory, "/srv/home", Spec::Directory(purged));
    let results = bench.converge(&decl, Intent::Apply);
    assert!(results.values().all(|(o, _)| !matches!(o, Outcome::NotKept)), "{results:?}");
    assert_eq!(bench.read("/srv/home/far/eve/thesis"), "years of work");
    assert!(!bench.path("/srv/home/stray").exists());
    assert!(bench.converge(&decl, Intent::Correct).values().all(|(o, _)| *o == Outcome::Kept));
}

/// Of a review. The store, the logs and what runs are needed to bring anything back.
#[test]
fn a_purge_leaves_what_is_holdfasts_own() {
    let mut bench = Bench::new();
    bench.write("/own/logs/service:web/current", "lines");
    bench.write("/own/stray/file", "nobody's");
    let purged = |path: &str| {
        let attributes = Attributes::default();
        let spec = Directory { path: path.into(), attributes, purge: true, entries: vec![] };
        Decl::new().unit(Kind::Directory, path, Spec::Directory(spec))
    };
    for intent in [Intent::Apply, Intent::Correct] {
        let results = bench.converge(&purged("/own"), intent);
        assert!(results.values().all(|(o, _)| !matches!(o, Outcome::NotKept)), "{results:?}");
        assert_eq!(bench.read("/own/logs/service:web/current"), "lines");
        assert!(!bench.path("/own/stray").exists());
    }
    // By another name, itself, and in it.
    symlink("own", bench.path("/link")).unwrap();
    for path in ["/own/logs", "/own/logs/service:web", "/link/logs"] {
        let results = bench.converge(&purged(path), Intent::Apply);
        assert!(
            results.values().all(|(o, why)| *o == Outcome::NotKept && why.contains("itself")),
            "{results:?}"
        );
        assert_eq!(bench.read("/own/logs/service:web/current"), "lines");
    }
    // Where the sockets are; but there may be other directories beside them.
    bench.write("/own/run/control", "");
    bench.write("/own/run/theirs/stray", "nobody's");
    bench.world.setup.run = bench.path("/own/run/worker");
    bench.converge(&purged("/own"), Intent::Apply);
    assert!(bench.path("/own/run/control").exists() && bench.path("/own/run/theirs/stray").exists());
    let results = bench.converge(&purged("/own/run"), Intent::Apply);
    assert!(results.values().all(|(o, _)| *o == Outcome::NotKept), "{results:?}");
    let results = bench.converge(&purged("/own/run/theirs"), Intent::Apply);
    assert!(results.values().all(|(o, _)| *o == Outcome::Changed), "{results:?}");
    assert!(!bench.path("/own/run/theirs/stray").exists());
}

#[test]
fn users_that_go_are_locked_and_their_number_is_not_given_again() {
    let mut bench = with_accounts();
    let one = users(&[user("bob"), User { purge: true, ..user("eve") }]);
    let (n1, _) = bench.apply(None, &one);
    let (n2, results) = bench.apply(Some((n1, &one)), &Decl::new());
    assert!(results.iter().all(|r| r.outcome == Outcome::Removed), "{results:?}");
    let passwd = bench.read("/etc/passwd");
    assert!(passwd.contains("bob:x:1000:1000::/home/bob:/usr/sbin/nologin\n") && !passwd.contains("eve"));
    assert!(bench.read("/etc/shadow").contains("bob:!:") && bench.read("/etc/shadow").contains(":1:\n"));
    let three = users(&[user("mallory")]);
    let (n3, _) = bench.apply(Some((n2, &Decl::new())), &three);
    assert!(bench.read("/etc/passwd").contains("mallory:x:1002:"), "{}", bench.read("/etc/passwd"));
    let four = users(&[user("bob"), user("eve"), user("mallory")]);
    bench.apply(Some((n3, &three)), &four);
    let passwd = bench.read("/etc/passwd");
    assert!(passwd.contains("bob:x:1000:1000::/home/bob:/bin/sh\n"), "{passwd}");
    assert!(passwd.contains("eve:x:1001:"), "{passwd}");
}

/// Who comes back is ours as before: he is locked, or purged, each time that he goes.
#[test]
fn a_user_who_came_back_is_locked_again_and_can_be_purged() {
    let mut bench = with_accounts();
    let (with, without) = (users(&[user("bob")]), Decl::new());
    let (mut last, _) = bench.apply(None, &with);
    for _ in 0..3 {
        let (gone, results) = bench.apply(Some((last, &with)), &without);
        assert_eq!(results.first().map(|r| r.outcome), Some(Outcome::Removed), "{results:?}");
        assert!(bench.read("/etc/passwd").contains("bob:x:1000:1000::/home/bob:/usr/sbin/nologin\n"));
        last = bench.apply(Some((gone, &without)), &with).0;
        assert!(bench.read("/etc/passwd").contains("bob:x:1000:1000::/home/bob:/bin/sh\n"));
    }
    let (gone, _) = bench.apply(Some((last, &with)), &without);
    let purged = users(&[User { purge: true, ..user("bob") }]);
    let (last, _) = bench.apply(Some((gone, &without)), &purged);
    bench.apply(Some((last, &purged)), &without);
    assert!(!bench.read("/etc/passwd").contains("bob") && !bench.read("/etc/group").contains("bob"));
}

#[test]
fn only_the_group_that_came_with_a_user_goes_with_him() {
    let mut bench = with_accounts();
    let group = bench.read("/etc/group") + "ann:x:1500:\n";
    bench.write("/etc/group", &group);
    let leaves = |name: &str| User { purge: true, ..user(name) };
    let own = Group { name: "cid".into(), gid: None, system: false };
    let one = users(&[leaves("ann"), leaves("bob"), leaves("cid")]);
    let (n1, _) = bench.apply(None, &one);
    let two = one.clone().unit(Kind::Group, "cid", Spec::Group(own.clone()));
    let (n2, _) = bench.apply(Some((n1, &one)), &two);
    let three = Decl::new().unit(Kind::Group, "cid", Spec::Group(own));
    bench.apply(Some((n2, &two)), &three);
    let (passwd, group) = (bench.read("/etc/passwd"), bench.read("/etc/group"));
    assert!(!passwd.contains("ann") && !passwd.contains("bob") && !passwd.contains("cid"), "{passwd}");
    assert!(group.contains("ann:x:1500:\n"), "it was there before: {group}");
    assert!(!group.contains("bob:"), "{group}");
    assert!(group.contains("cid:"), "it is declared: {group}");
}

#[test]
fn entries_come_back_as_they_were() {
    let mut bench = with_accounts();
    let before: BTreeMap<&str, String> =
        ["passwd", "group", "shadow", "gshadow"].map(|f| (f, bench.read(&format!("/etc/{f}")))).into();
    let root = User {
        shell: Some("/bin/zsh".into()),
        comment: Some("boss".into()),
        groups: vec!["adm".into()],
        password_hash: Some("$6$new".into()),
        ..user("root")
    };
    let group = Group { name: "adm".into(), gid: Some(44), system: true };
    let new = Group { name: "extra".into(), gid: None, system: true };
    let decl = users(&[root]).unit(Kind::Group, "adm", Spec::Group(group)).unit(
        Kind::Group,
        "extra",
        Spec::Group(new),
    );
    let (n0, _) = bench.apply(None, &Decl::new());
    let (n1, results) = bench.apply(Some((n0, &Decl::new())), &decl);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert!(bench.read("/etc/passwd").starts_with("root:x:0:0:boss:/root:/bin/zsh\n"));
    assert!(bench.read("/etc/group").contains("adm:x:44:syslog,root\n"));
    assert!(bench.read("/etc/group").contains("extra:x:999:\n"));
    bench.switching(n0);
    let results = bench.swap(Some((n1, &decl)), (n0, &Decl::new()), Intent::Return);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Removed | Outcome::Changed)), "{results:?}");
    for (file, text) in before {
        assert_eq!(bench.read(&format!("/etc/{file}")), text);
    }
}

#[test]
fn entries_of_others_keep_their_bytes() {
    let mut bench = with_accounts();
    let passwd = [bench.read("/etc/passwd").as_bytes(), b"jos:x:1200:1200:jos\xe9:/:/bin/sh\n"].concat();
    fs::write(bench.path("/etc/passwd"), &passwd).unwrap();
    let decl = users(&[user("bob")]);
    let (n0, _) = bench.apply(None, &Decl::new());
    let (n1, results) = bench.apply(Some((n0, &Decl::new())), &decl);
    assert_eq!(results[0].outcome, Outcome::Changed, "{results:?}");
    let has = |bench: &Bench, part: &[u8]| {
        let now = fs::read(bench.path("/etc/passwd")).unwrap();
        now.windows(part.len()).any(|w| w == part)
    };
    assert!(has(&bench, b"jos:x:1200:1200:jos\xe9:/:/bin/sh\n"));
    // Nor does one that is managed lose any of its own.
    let jos = users(&[User { shell: Some("/bin/bash".into()), ..user("jos") }]);
    let (n2, results) = bench.apply(Some((n1, &decl)), &jos);
    assert!(results.iter().any(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert!(has(&bench, b"jos:x:1200:1200:jos\xe9:/:/bin/bash\n"));
    bench.switching(n0);
    bench.swap(Some((n2, &jos)), (n0, &Decl::new()), Intent::Return);
    assert!(has(&bench, b"jos:x:1200:1200:jos\xe9:/:/bin/sh\n"));
}

#[test]
fn databases_that_cannot_be_read_are_not_taken_for_empty() {
    let mut bench = with_accounts();
    let shadow = bench.read("/etc/shadow");
    fs::rename(bench.path("/etc/shadow"), bench.path("/etc/away")).unwrap();
    // Nobody can read a directory, not even root.
    fs::create_dir(bench.path("/etc/shadow")).unwrap();
    let before = bench.read("/etc/passwd");
    let group = Group { name: "extra".into(), gid: None, system: true };
    let decl = users(&[user("bob")]).unit(Kind::Group, "extra", Spec::Group(group));
    let results = bench.converge(&decl, Intent::Apply);
    for (outcome, detail) in results.values() {
        assert!(*outcome == Outcome::NotKept && detail.contains("cannot read"), "{detail}");
    }
    assert_eq!(bench.read("/etc/passwd"), before);
    fs::remove_dir(bench.path("/etc/shadow")).unwrap();
    bench.write("/etc/shadow", &shadow);
    // Between the check and the change it may come to that too.
    let spec = Box::new(user("bob"));
    let what = What::Account(Account::User { spec, password: true, leave: Vec::new() });
    let op = Op { thing: "user:bob".into(), what, own: OwnChange::Take { digest: None } };
    fs::remove_file(bench.path("/etc/passwd")).unwrap();
    fs::create_dir(bench.path("/etc/passwd")).unwrap();
    let (mut areas, mut touched) = (Areas::default(), Touched::default());
    let done = execute::run(&mut bench.world, &mut areas, &op, &mut touched, &mut Vec::new());
    assert!(done.unwrap_err().to_string().contains("cannot read"));
    assert_eq!(bench.read("/etc/shadow"), shadow);
}

#[test]
fn a_password_that_was_changed_is_reported() {
    let mut bench = with_accounts();
    let decl = users(&[User { password_hash: Some("$6$a".into()), ..user("bob") }]);
    bench.converge(&decl, Intent::Apply);
    let shadow = bench.read("/etc/shadow").replace("$6$a", "$6$theirs");
    bench.write("/etc/shadow", &shadow);
    let results = bench.converge(&decl, Intent::Correct);
    assert_eq!(results["user:bob"], (Outcome::Drifted, "password hash differs".into()));
    assert_eq!(bench.read("/etc/shadow"), shadow);
}

#[test]
fn a_password_is_set_where_a_user_has_no_line_in_shadow() {
    let mut bench = with_accounts();
    bench.write("/etc/passwd", &format!("{PASSWD}bob:x:1000:1000::/:/bin/sh\n"));
    let decl = users(&[User { password_hash: Some("$6$a".into()), ..user("bob") }]);
    assert_eq!(bench.converge(&decl, Intent::Apply)["user:bob"].0, Outcome::Changed);
    assert!(bench.read("/etc/shadow").contains("bob:$6$a:"));
    assert!(bench.read("/etc/passwd").contains("bob:x:1000"));
    assert_eq!(bench.converge(&decl, Intent::Apply)["user:bob"].0, Outcome::Kept);
    // Without a shadow database at all it has one place.
    for file in ["shadow", "gshadow"] {
        fs::remove_file(bench.path("/etc").join(file)).unwrap();
    }
    assert_eq!(bench.converge(&decl, Intent::Apply)["user:bob"].0, Outcome::Changed);
    assert!(bench.read("/etc/passwd").contains("bob:$6$a:1000"));
    assert_eq!(bench.converge(&decl, Intent::Apply)["user:bob"].0, Outcome::Kept);
}

/// Another process that holds the lock of the user databases until its input is closed.
fn hold_lock(bench: &Bench) -> (std::process::Child, std::process::ChildStdin) {
    let mut holder = std::process::Command::new("python3")
        .arg("-c")
        .arg("import fcntl,sys;f=open(sys.argv[1],'w');fcntl.lockf(f,fcntl.LOCK_EX);print('held',flush=True);sys.stdin.readline()")
        .arg(bench.path("/etc/.pwd.lock"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut text).unwrap();
    let stdin = holder.stdin.take().unwrap();
    (holder, stdin)
}

/// What does not need the databases is repaired before their lock is waited for, and that not for long.
#[test]
fn a_repair_does_not_wait_for_the_lock_of_the_databases() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let mut bench = with_accounts();
    // An alarm interrupts a wait only where no other thread can take it.
    bench.confinement = Confinement::Full;
    let decl = users(&[user("bob")]).file("/etc/motd", "ours");
    bench.converge(&decl, Intent::Apply);
    let drift = |bench: &Bench| {
        bench.write("/etc/motd", "theirs");
        bench.write("/etc/passwd", PASSWD);
    };
    drift(&bench);
    let (mut holder, mut stdin) = hold_lock(&bench);
    let seen = Inotify::init(InitFlags::empty()).unwrap();
    seen.add_watch(&bench.path("/etc"), AddWatchFlags::IN_MOVED_TO).unwrap();
    let release = std::thread::spawn(move || {
        seen.read_events().unwrap();
        // The committer has a copy of this end too: closing it would say nothing.
        std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    });
    let results = bench.converge(&decl, Intent::Correct);
    assert_eq!((results["file:/etc/motd"].0, results["user:bob"].0), (Outcome::Changed, Outcome::Changed));
    release.join().unwrap();
    holder.wait().unwrap();

    drift(&bench);
    let (mut holder, stdin) = hold_lock(&bench);
    let start = std::time::Instant::now();
    let results = bench.converge(&decl, Intent::Correct);
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((results["file:/etc/motd"].0, results["user:bob"].0), (Outcome::Changed, Outcome::NotKept));
    assert!(results["user:bob"].1.contains("somebody has held"), "{results:?}");
    drop(stdin);
    holder.wait().unwrap();
}

#[test]
fn the_lock_of_the_databases_is_respected() {
    let mut bench = with_accounts();
    let lock = fs::File::create(bench.path("/etc/.pwd.lock")).unwrap();
    cm_core::sys::lock_file(&lock, true).unwrap();
    // flock(2) is not the lock that counts; a record lock of another process is.
    let (mut holder, stdin) = hold_lock(&bench);
    let decl = users(&[user("bob")]);
    let (waited, passwd) = (waits_for(&bench.path("/etc/.pwd.lock")), bench.path("/etc/passwd"));
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    let release = std::thread::spawn(move || {
        // There is no event for somebody's wait.
        while !waited() {
            assert!(!over.load(Ordering::Relaxed), "it did not wait");
            std::thread::yield_now();
        }
        let before = fs::read_to_string(passwd).unwrap();
        drop(stdin);
        before
    });
    let results = bench.converge(&decl, Intent::Apply);
    done.store(true, Ordering::Relaxed);
    assert_eq!(results["user:bob"].0, Outcome::Changed);
    assert!(!release.join().unwrap().contains("bob"));
    holder.wait().unwrap();
}

/// Tells whether somebody waits for a record lock of this file, as the kernel lists them.
fn waits_for(path: &Path) -> impl Fn() -> bool + Send + 'static {
    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    move || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|l| l.contains("-> POSIX") && l.contains(&inode))
    }
}

#[test]
fn lines_share_a_file_and_come_back() {
    let mut bench = Bench::new();
    let text = "# head\nPort 22\nPermitRootLogin yes\nlast";
    bench.write("/etc/conf", text);
    fs::set_permissions(bench.path("/etc/conf"), fs::Permissions::from_mode(0o600)).unwrap();
    let decl = Decl::new()
        .unit(Kind::Line, "port", Spec::Line(line("/etc/conf", "Port 2222", Some("^#?Port "))))
        .unit(
            Kind::Line,
            "root",
            Spec::Line(line("/etc/conf", "PermitRootLogin no", Some("^#?PermitRootLogin "))),
        )
        .unit(Kind::Line, "more", Spec::Line(line("/etc/conf", "UseDNS no", None)));
    let (n0, _) = bench.apply(None, &Decl::new());
    let (n1, results) = bench.apply(Some((n0, &Decl::new())), &decl);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert_eq!(bench.read("/etc/conf"), "# head\nPort 2222\nPermitRootLogin no\nlast\nUseDNS no\n");
    assert_eq!(bench.mode("/etc/conf"), 0o600);
    assert!(bench.converge(&decl, Intent::Correct).values().all(|(o, _)| *o == Outcome::Kept));
    bench.switching(n0);
    bench.swap(Some((n1, &decl)), (n0, &Decl::new()), Intent::Return);
    assert_eq!(bench.read("/etc/conf"), text);
}

#[test]
fn a_line_that_goes_is_taken_out_if_we_put_it_in() {
    let mut bench = Bench::new();
    bench.write("/etc/conf", "a\nb\n");
    let one = Decl::new().unit(Kind::Line, "new", Spec::Line(line("/etc/conf", "c", None))).unit(
        Kind::Line,
        "changed",
        Spec::Line(line("/etc/conf", "bb", Some("^b"))),
    );
    let (n1, _) = bench.apply(None, &one);
    assert_eq!(bench.read("/etc/conf"), "a\nbb\nc\n");
    let (_, results) = bench.apply(Some((n1, &one)), &Decl::new());
    let results = bench.by_name(results);
    assert_eq!(results["line:new"].0, Outcome::Removed);
    assert_eq!(results["line:changed"].0, Outcome::Left);
    assert_eq!(bench.read("/etc/conf"), "a\nbb\n");
}

#[test]
fn settings_are_written_and_come_back() {
    let mut bench = Bench::new();
    let sys = bench.dir.path().join("proc_sys");
    fs::create_dir_all(sys.join("net/core")).unwrap();
    fs::write(sys.join("net/core/somaxconn"), "128\n").unwrap();
    fs::write(sys.join("net/core/rmem"), "4096\t8192\t16384\n").unwrap();
    fs::write(sys.join("kernel/hostname"), "old\n").unwrap();
    let sysctl = |key: &str, value: &str| Spec::Sysctl(Sysctl { key: key.into(), value: value.into() });
    let decl = Decl::new()
        .unit(Kind::Sysctl, "net.core.somaxconn", sysctl("net/core/somaxconn", "4096"))
        .unit(Kind::Sysctl, "net.core.rmem", sysctl("net/core/rmem", "4096 8192 16384"))
        .unit(Kind::Sysctl, "no.such", sysctl("no/such", "1"))
        .unit(Kind::Sysctl, "evil", sysctl("../../etc/passwd", "1"))
        .unit(Kind::Hostname, "me", Spec::Hostname(Hostname { value: "new".into() }));
    let (n0, _) = bench.apply(None, &Decl::new());
    let (n1, results) = bench.apply(Some((n0, &Decl::new())), &decl);
    let results = bench.by_name(results);
    assert_eq!(results["sysctl:net.core.somaxconn"], (Outcome::Changed, "is 128, should be 4096".into()));
    assert_eq!(results["sysctl:net.core.rmem"].0, Outcome::Kept);
    assert!(results["sysctl:no.such"].1.contains("no such file or directory (ENOENT)"));
    assert_eq!(results["sysctl:evil"].1, "../../etc/passwd is no kernel setting");
    assert_eq!(results["hostname:me"].0, Outcome::Changed);
    bench.switching(n0);
    bench.swap(Some((n1, &decl)), (n0, &Decl::new()), Intent::Return);
    assert_eq!(fs::read_to_string(sys.join("net/core/somaxconn")).unwrap(), "128\n");
    assert_eq!(fs::read_to_string(sys.join("kernel/hostname")).unwrap(), "old\n");
}

fn exec(once: Option<Once>, creates: Option<&str>) -> Spec {
    Spec::Exec(Box::new(Exec {
        command: vec!["true".into()],
        creates: creates.map(str::to_owned),
        once,
        ..Exec::default()
    }))
}

#[test]
fn guards_of_commands() {
    let mut bench = Bench::new();
    let decl = Decl::new()
        .unit(Kind::Exec, "boot", exec(Some(Once::Boot), None))
        .unit(Kind::Exec, "creates", exec(None, Some("/etc/made")))
        .unit(Kind::Exec, "ever", exec(Some(Once::Ever), None))
        .unit(Kind::Exec, "generation", exec(Some(Once::Generation), None));
    let name = bench.install(&decl, 1);
    let ask = |bench: &mut Bench, action: Action| -> Vec<Outcome> {
        let steps = (0..4).map(|n| Step { manifest: name, unit: UnitId(n), action }).collect();
        bench.run(1, Intent::Correct, steps).into_iter().map(|r| r.outcome).collect()
    };
    let (kept, runs) = (Outcome::Kept, Outcome::Drifted);
    assert_eq!(ask(&mut bench, Action::Guard(7)), [runs; 4]);
    assert_eq!(ask(&mut bench, Action::Ran(7)), [kept; 4]);
    bench.reopen();
    assert_eq!(ask(&mut bench, Action::Guard(7)), [kept, runs, kept, kept]);
    bench.write("/etc/made", "");
    assert_eq!(ask(&mut bench, Action::Guard(7)), [kept; 4]);
    assert_eq!(ask(&mut bench, Action::Guard(8)), [runs; 4], "inputs have changed");
    fs::remove_dir_all(bench.dir.path().join("run/ran")).unwrap();
    assert_eq!(ask(&mut bench, Action::Guard(7)), [runs, kept, kept, kept], "a new boot");
}

#[test]
fn below_a_mount_that_is_not_there_nothing_happens() {
    let mut bench = Bench::new();
    bench.write("/data/f", "shadowed");
    let mount = Mount { path: "/data".into(), source: "x".into(), fstype: "ext4".into(), ..Mount::default() };
    let decl = Decl::new().file("/data/f", "mine").unit(Kind::Mount, "/data", Spec::Mount(mount));
    bench.put_contents(&decl);
    let name = bench.install(&decl, 1);
    let unit = bench.manifest(name).find(Kind::File, "/data/f").unwrap();
    let results = bench.run(1, Intent::Apply, vec![Step { manifest: name, unit, action: Action::Converge }]);
    assert_eq!(
        (results[0].outcome, results[0].detail.as_str()),
        (Outcome::MountAbsent, "/data is not mounted")
    );
    assert_eq!(bench.read("/data/f"), "shadowed");
}

fn tmpfs(path: &std::path::Path, options: &str) {
    fs::create_dir_all(path).unwrap();
    mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

#[test]
fn another_file_system_gets_its_own_staging_directory() {
    private_mounts();
    let mut bench = Bench::new();
    bench.confinement = Confinement::Full;
    tmpfs(&bench.path("/data"), "size=1m");
    let mount = tmpfs_mount("/data");
    let one = Decl::new().file("/data/a/b/f", "mine").file("/etc/g", "x").unit(
        Kind::Mount,
        "/data",
        Spec::Mount(mount),
    );
    bench.put_contents(&one);
    let name = bench.install(&one, 1);
    let steps = |bench: &Bench, action| {
        let m = bench.manifest(name);
        ["/data/a/b/f", "/etc/g"]
            .map(|p| Step { manifest: name, unit: m.find(Kind::File, p).unwrap(), action })
            .to_vec()
    };
    let all = steps(&bench, Action::Converge);
    let results = bench.run(1, Intent::Apply, all);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    let names: Vec<String> = fingerprint(&bench.path("/data"));
    assert_eq!(names.len(), 4, "{names:?}");
    // Another file system at the same place: nothing there is ours.
    tmpfs(&bench.path("/data"), "size=1m");
    bench.write("/data/a/b/f", "of that one");
    let all = steps(&bench, Action::Remove);
    let results = bench.run(1, Intent::Apply, all);
    assert_eq!(bench.by_name(results)["file:/data/a/b/f"].0, Outcome::Left);
    assert_eq!(bench.read("/data/a/b/f"), "of that one");
}

#[test]
fn a_full_file_system_costs_only_what_does_not_fit() {
    private_mounts();
    let mut bench = Bench::new();
    tmpfs(&bench.path("/small"), "size=64k");
    let big = "x".repeat(200_000);
    let decl = Decl::new().file("/etc/a", "fits").file("/small/big", &big).file("/small/little", "fits");
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/small/big"].0, Outcome::NotKept);
    assert!(results["file:/small/big"].1.contains("no space left on device (ENOSPC)"), "{results:?}");
    assert_eq!(results["file:/etc/a"].0, Outcome::Changed);
    assert_eq!(results["file:/small/little"].0, Outcome::Changed);
    assert_eq!(fs::read_dir(bench.path("/small")).unwrap().count(), 1);
}

#[test]
fn a_read_only_file_system_is_named() {
    private_mounts();
    let mut bench = Bench::new();
    let path = bench.path("/ro");
    tmpfs(&path, "size=64k");
    fs::write(path.join("f"), "old").unwrap();
    mount(None::<&str>, &path, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let decl = Decl::new().file("/ro/f", "new").file("/etc/a", "x").directory("/ro/d", None);
    let results = bench.converge(&decl, Intent::Apply);
    assert!(results["file:/ro/f"].1.contains("read-only file system (EROFS)"), "{results:?}");
    assert!(results["directory:/ro/d"].1.contains("read-only file system (EROFS)"), "{results:?}");
    assert_eq!(results["file:/etc/a"].0, Outcome::Changed);
    let same = Decl::new().file("/ro/f", "old");
    assert_eq!(bench.converge(&same, Intent::Correct)["file:/ro/f"].0, Outcome::Kept);
}

#[test]
fn a_full_store_changes_nothing() {
    private_mounts();
    let mut bench = Bench::new();
    bench.world.store = None;
    let store = bench.dir.path().join("store");
    tmpfs(&store, "size=32k,mode=700");
    bench.reopen();
    bench.write("/etc/f", &"theirs".repeat(20_000));
    let decl = Decl::new().file("/etc/f", "mine");
    let results = bench.converge(&decl, Intent::Correct);
    assert_eq!(results["file:/etc/f"].0, Outcome::NotKept);
    assert!(bench.read("/etc/f").starts_with("theirs"));
}

#[test]
fn an_immutable_file_is_not_kept() {
    let mut bench = Bench::new();
    bench.write("/etc/f", "old");
    let path = bench.path("/etc/f");
    let set = |flag: &str| {
        std::process::Command::new("chattr").arg(flag).arg(&path).status().is_ok_and(|s| s.success())
    };
    if !set("+i") {
        eprintln!("this file system has no immutable files");
        return;
    }
    let results = bench.converge(&Decl::new().file("/etc/f", "new"), Intent::Apply);
    set("-i");
    assert_eq!(results["file:/etc/f"].0, Outcome::NotKept);
    assert!(results["file:/etc/f"].1.contains("operation not permitted (EPERM)"), "{results:?}");
    assert_eq!(fs::read_dir(bench.dir.path().join("store/staging")).unwrap().count(), 0);
}

#[test]
fn somebody_elses_link_is_in_the_history() {
    let mut bench = Bench::new();
    let decl = Decl::new().symlink("/etc/l", "right");
    bench.converge(&decl, Intent::Apply);
    fs::remove_file(bench.path("/etc/l")).unwrap();
    std::os::unix::fs::symlink("theirs", bench.path("/etc/l")).unwrap();
    let results = bench.converge(&decl, Intent::Correct);
    assert_eq!(results["symlink:/etc/l"], (Outcome::Changed, "points elsewhere".into()));
    let prior = bench.store().index().history["/etc/l"][0].prior.clone();
    assert!(matches!(prior, Prior::Symlink { target, .. } if target == b"theirs"));
}

#[test]
fn a_unit_that_is_reported_is_not_repaired() {
    let mut bench = Bench::new();
    let mut decl = Decl::new();
    let spec = decl.file_spec("/etc/f", Some("mine"), None);
    let decl = decl.with_flags(Kind::File, "/etc/f", Spec::File(spec), units::manifest::flags::REPORT);
    bench.write("/etc/f", "theirs");
    assert_eq!(bench.converge(&decl, Intent::Correct)["file:/etc/f"].0, Outcome::Drifted);
    assert_eq!(bench.read("/etc/f"), "theirs");
    assert_eq!(bench.converge(&decl, Intent::Apply)["file:/etc/f"].0, Outcome::Changed);
}

#[test]
fn unknown_owners_are_named() {
    let mut bench = Bench::new();
    let mut decl = Decl::new();
    let mut spec = decl.file_spec("/etc/f", Some("mine"), None);
    spec.attributes = Attributes { owner: Some("nobody-knows".into()), ..Attributes::default() };
    let decl = decl.unit(Kind::File, "/etc/f", Spec::File(spec));
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/etc/f"], (Outcome::NotKept, "user nobody-knows does not exist".into()));
    assert!(!bench.path("/etc/f").exists());
}
