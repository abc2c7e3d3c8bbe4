//! Batches on real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod purge;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use cm_core::proto::{Action, Intent, Outcome};
use cm_core::sys;
use cm_core::worker::batch::Confinement;
use common::{Bench, Decl, fingerprint};
use units::Kind;
use units::kind::directory::Directory;
use units::kind::file::Ownership;
use units::kind::{Attributes, Spec};

fn outcome(bench: &mut Bench, decl: &Decl, intent: Intent, unit: &str) -> (Outcome, String) {
    bench.converge(decl, intent)[unit].clone()
}

#[test]
fn a_missing_file_is_made_with_its_parents() {
    let mut bench = Bench::new();
    let decl = Decl::new().file("/etc/a/b/c", "hello\n");
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/etc/a/b/c"], (Outcome::Changed, "missing".into()));
    assert_eq!(bench.read("/etc/a/b/c"), "hello\n");
    assert_eq!(
        (bench.mode("/etc/a/b/c"), bench.mode("/etc/a"), bench.mode("/etc/a/b")),
        (0o644, 0o755, 0o755)
    );
    assert_eq!(
        outcome(&mut bench, &decl, Intent::Correct, "file:/etc/a/b/c"),
        (Outcome::Kept, String::new())
    );
}

#[test]
fn undeclared_attributes_are_preserved_and_no_drift() {
    let mut bench = Bench::new();
    bench.write("/etc/f", "old");
    let path = bench.path("/etc/f");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&path, Some(7), Some(8)).unwrap();
    sys::set_xattr(fs::File::open(&path).unwrap(), "user.note", b"mine").unwrap();
    let decl = Decl::new().file("/etc/f", "new");
    assert_eq!(
        outcome(&mut bench, &decl, Intent::Apply, "file:/etc/f"),
        (Outcome::Changed, "content differs".into())
    );
    let m = fs::metadata(&path).unwrap();
    assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o640, 7, 8));
    assert_eq!(
        sys::xattr(fs::File::open(&path).unwrap(), "user.note").unwrap().as_deref(),
        Some(&b"mine"[..])
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(outcome(&mut bench, &decl, Intent::Correct, "file:/etc/f").0, Outcome::Kept);
}

#[test]
fn declared_attributes_are_made_right_in_place() {
    let mut bench = Bench::new();
    bench.write("/etc/f", "x");
    let ino = fs::metadata(bench.path("/etc/f")).unwrap().ino();
    let mut decl = Decl::new();
    let mut spec = decl.file_spec("/etc/f", Some("x"), Some(0o600));
    spec.attributes.owner = Some("12".into());
    spec.attributes.xattrs = vec![("user.k".into(), b"v".to_vec())];
    let decl = decl.unit(Kind::File, "/etc/f", Spec::File(spec));
    let (what, words) = outcome(&mut bench, &decl, Intent::Correct, "file:/etc/f");
    assert_eq!(what, Outcome::Changed);
    assert_eq!(words, "mode 0644, should be 0600, owner 0, should be 12, extended attribute user.k differs");
    let m = fs::metadata(bench.path("/etc/f")).unwrap();
    assert_eq!((m.mode() & 0o7777, m.uid(), m.ino()), (0o600, 12, ino));
}

#[test]
fn a_seed_is_made_once_and_left_alone() {
    let mut bench = Bench::new();
    let mut decl = Decl::new();
    let mut spec = decl.file_spec("/etc/seed", Some("first"), Some(0o600));
    spec.ownership = Ownership::Seed;
    let decl = decl.unit(Kind::File, "/etc/seed", Spec::File(spec));
    assert_eq!(outcome(&mut bench, &decl, Intent::Apply, "file:/etc/seed").0, Outcome::Changed);
    bench.write("/etc/seed", "theirs");
    assert_eq!(outcome(&mut bench, &decl, Intent::Apply, "file:/etc/seed").0, Outcome::Kept);
    assert_eq!(bench.read("/etc/seed"), "theirs");
}

#[test]
fn an_equal_size_edit_with_the_old_time_is_seen() {
    let mut bench = Bench::new();
    let decl = Decl::new().file("/etc/f", "aaaa");
    bench.converge(&decl, Intent::Apply);
    let path = bench.path("/etc/f");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "bbbb").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let (what, words) = outcome(&mut bench, &decl, Intent::Correct, "file:/etc/f");
    assert_eq!((what, words.as_str()), (Outcome::Changed, "content differs"));
    assert_eq!(bench.read("/etc/f"), "aaaa");
    let versions = &bench.store().index().history["/etc/f"];
    assert_eq!(versions.len(), 1);
}

#[test]
fn our_own_event_costs_a_stat() {
    let mut bench = Bench::new();
    let decl = Decl::new().file("/etc/f", "aaaa");
    bench.converge(&decl, Intent::Apply);
    // The event of our own write comes after the unit has settled.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let before = bench.world.reads;
        assert_eq!(outcome(&mut bench, &decl, Intent::Correct, "file:/etc/f").0, Outcome::Kept);
        if bench.world.reads == before {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the stamp never settles");
    }
    fs::write(bench.path("/etc/f"), "bbbb").unwrap();
    assert_eq!(outcome(&mut bench, &decl, Intent::Correct, "file:/etc/f").0, Outcome::Changed);
}

#[test]
fn damage_of_every_kind_is_repaired() {
    let mut bench = Bench::new();
    let decl = Decl::new().directory("/etc/d", Some(0o750)).file_mode("/etc/d/f", "right", 0o640);
    bench.converge(&decl, Intent::Apply);
    let good = fingerprint(&bench.path("/etc"));
    let f = bench.path("/etc/d/f");
    let d = bench.path("/etc/d");
    let damages: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| fs::write(&f, "wrong").unwrap()),
        Box::new(|| fs::remove_file(&f).unwrap()),
        Box::new(|| fs::set_permissions(&f, fs::Permissions::from_mode(0o777)).unwrap()),
        Box::new(|| fs::remove_dir_all(&d).unwrap()),
        Box::new(|| {
            fs::remove_file(&f).unwrap();
            symlink("/etc/passwd", &f).unwrap();
        }),
        Box::new(|| {
            fs::write(d.with_file_name("other"), "moved over").unwrap();
            fs::rename(d.with_file_name("other"), &f).unwrap();
        }),
        Box::new(|| {
            fs::remove_dir_all(&d).unwrap();
            symlink("/tmp", &d).unwrap();
        }),
    ];
    for (at, damage) in damages.iter().enumerate() {
        damage();
        let results = bench.converge(&decl, Intent::Correct);
        assert!(results.values().any(|(o, _)| *o == Outcome::Changed), "{at}: {results:?}");
        let strip = |v: Vec<String>| -> Vec<String> {
            v.into_iter().map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect()
        };
        assert_eq!(strip(fingerprint(&bench.path("/etc"))), strip(good.clone()), "damage {at}");
    }
}

#[test]
fn a_link_of_somebody_else_is_not_followed() {
    let mut bench = Bench::new();
    fs::create_dir_all(bench.path("/home/eve")).unwrap();
    fs::create_dir_all(bench.path("/secret")).unwrap();
    symlink("/secret", bench.path("/home/eve/dir")).unwrap();
    std::os::unix::fs::lchown(bench.path("/home/eve/dir"), Some(1000), Some(1000)).unwrap();
    let decl = Decl::new().file("/home/eve/dir/f", "x");
    let (what, words) = outcome(&mut bench, &decl, Intent::Apply, "file:/home/eve/dir/f");
    assert_eq!(what, Outcome::NotKept);
    assert!(words.contains("is a link of user 1000"), "{words}");
    assert!(fs::read_dir(bench.path("/secret")).unwrap().next().is_none());
}

#[test]
fn links_that_root_owns_are_followed_below_the_root() {
    let mut bench = Bench::new();
    fs::create_dir_all(bench.path("/usr/lib")).unwrap();
    symlink("usr/lib", bench.path("/lib")).unwrap();
    symlink("/usr", bench.path("/abs")).unwrap();
    let decl = Decl::new().file("/lib/a", "1").file("/abs/lib/b", "2").file("/lib/x/y", "3");
    bench.converge(&decl, Intent::Apply);
    assert_eq!(
        (bench.read("/usr/lib/a"), bench.read("/usr/lib/b"), bench.read("/usr/lib/x/y")),
        ("1".into(), "2".into(), "3".into())
    );
}

#[test]
fn two_units_that_are_one_file_are_both_named() {
    for confinement in [Confinement::None, Confinement::Full] {
        let mut bench = Bench::new();
        bench.confinement = confinement;
        fs::create_dir_all(bench.path("/srv/real")).unwrap();
        symlink("real", bench.path("/srv/link")).unwrap();
        let decl = Decl::new()
            .file("/srv/real/dup", "one")
            .file("/srv/other/dup", "other")
            .file("/srv/link/dup", "two")
            .file("/srv/link/more", "more");
        let results = bench.converge(&decl, Intent::Apply);
        let lost = "still wrong after the change: content differs; file:/srv/real/dup is the same file by another path: \
                    declare only one of the two";
        assert_eq!(results["file:/srv/link/dup"], (Outcome::NotKept, lost.to_owned()));
        for right in ["file:/srv/other/dup", "file:/srv/real/dup", "file:/srv/link/more"] {
            assert_eq!(results[right].0, Outcome::Changed, "{right}");
        }
    }
}

#[test]
fn a_directory_where_a_file_should_be_is_not_removed() {
    let mut bench = Bench::new();
    bench.write("/etc/f/inside", "theirs");
    bench.write("/etc/d", "a file");
    let decl = Decl::new().file("/etc/f", "x").directory("/etc/d", None);
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/etc/f"].0, Outcome::NotKept);
    assert!(results["file:/etc/f"].1.contains("a directory is in the way at /etc/f"));
    assert_eq!(results["directory:/etc/d"].0, Outcome::NotKept);
    assert!(
        results["directory:/etc/d"].1.contains("a file is in the way"),
        "{:?}",
        results["directory:/etc/d"]
    );
    assert_eq!(bench.read("/etc/f/inside"), "theirs");
}

#[test]
fn a_unit_whose_kind_changes_gives_way_to_the_new_one() {
    let mut bench = Bench::new();
    let one = Decl::new().file("/etc/x", "file");
    let (n1, _) = bench.apply(None, &one);
    let before = fingerprint(&bench.path("/"));
    let two = Decl::new().directory("/etc/x", Some(0o700)).file("/etc/x/y", "inside");
    let (n2, results) = bench.apply(Some((n1, &one)), &two);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Removed | Outcome::Changed)), "{results:?}");
    assert_eq!(bench.read("/etc/x/y"), "inside");
    bench.switching(n1);
    let results = bench.swap(Some((n2, &two)), (n1, &one), Intent::Return);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Removed | Outcome::Changed)), "{results:?}");
    let strip = |v: &[String]| v.iter().map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!(strip(&fingerprint(&bench.path("/"))), strip(&before));
    bench.commit(n1);
    let three = Decl::new().symlink("/etc/x", "elsewhere");
    let (_, results) = bench.apply(Some((n1, &one)), &three);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Removed | Outcome::Changed)), "{results:?}");
    assert_eq!(fs::read_link(bench.path("/etc/x")).unwrap().to_str(), Some("elsewhere"));
}

/// Without a store nothing that is there can be saved: it stays, and what takes nothing away is done all the same.
#[test]
fn without_a_store_nothing_is_taken_away() {
    for confinement in [Confinement::None, Confinement::Full] {
        let mut bench = Bench::new();
        bench.confinement = confinement;
        bench.world.store = None;
        for name in ["d/stray/deep", "f", "as-link", "mode"] {
            bench.write(&format!("/etc/{name}"), "theirs");
        }
        symlink("theirs", bench.path("/etc/l")).unwrap();
        symlink("theirs", bench.path("/etc/as-file")).unwrap();
        let attributes = Attributes::default();
        let purged = Directory { path: "/etc/d".into(), attributes, purge: true, entries: vec![] };
        let decl = Decl::new()
            .unit(Kind::Directory, "/etc/d", Spec::Directory(purged))
            .file("/etc/f", "ours")
            .file("/etc/as-file", "ours")
            .symlink("/etc/l", "ours")
            .symlink("/etc/as-link", "ours")
            .file_mode("/etc/mode", "theirs", 0o600)
            .file("/etc/new/file", "ours")
            .symlink("/etc/new-link", "ours")
            .directory("/etc/new-directory", None);
        let before = fingerprint(&bench.path("/etc/d"));
        for intent in [Intent::Apply, Intent::Correct] {
            let results = bench.converge(&decl, intent);
            for unit in [
                "directory:/etc/d",
                "file:/etc/f",
                "file:/etc/as-file",
                "symlink:/etc/l",
                "symlink:/etc/as-link",
            ] {
                let why = "the store cannot be opened, so that what is there could not be kept";
                assert_eq!(results[unit], (Outcome::NotKept, why.into()), "{unit}");
            }
            let done = if intent == Intent::Apply { Outcome::Changed } else { Outcome::Kept };
            for unit in [
                "file:/etc/mode",
                "file:/etc/new/file",
                "symlink:/etc/new-link",
                "directory:/etc/new-directory",
            ] {
                assert_eq!(results[unit].0, done, "{unit}: {results:?}");
            }
        }
        assert_eq!(fingerprint(&bench.path("/etc/d")), before);
        assert_eq!((bench.read("/etc/f"), bench.read("/etc/as-link")), ("theirs".into(), "theirs".into()));
        for link in ["/etc/l", "/etc/as-file"] {
            assert_eq!(fs::read_link(bench.path(link)).unwrap().to_str(), Some("theirs"));
        }
        bench.reopen();
        let results = bench.converge(&decl, Intent::Correct);
        assert!(results.values().all(|(outcome, _)| *outcome != Outcome::NotKept), "{results:?}");
        assert!(!bench.path("/etc/d/stray").exists());
    }
}

#[test]
fn a_mount_that_comes_between_the_check_and_the_change_is_not_crossed() {
    common::private_mounts();
    let mut bench = Bench::new();
    bench.write("/etc/d/sub/data", "ours to purge");
    bench.write("/disk/data", "theirs");
    let top = "/etc/d";
    let place = bench.world.places.entry_on_mount(top, "/etc/d/sub/data").unwrap();
    assert_eq!(place.dir.path, "/etc/d/sub");
    let (from, to) = (bench.path("/disk"), bench.path("/etc/d/sub"));
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&from), &to, None::<&str>, flags, None::<&str>).unwrap();
    let put = cm_core::resource::op::Put::Purged { top: top.into() };
    let mut touched = cm_core::resource::tree::Touched::default();
    let mut areas = cm_core::resource::staging::Areas::default();
    let done = cm_core::resource::tree::put(
        &mut bench.world,
        &mut areas,
        "/etc/d/sub/data",
        &put,
        None,
        &mut touched,
    );
    assert_eq!(done.unwrap_err().to_string(), "a file system is mounted at /etc/d/sub");
    assert_eq!(bench.read("/disk/data"), "theirs");
}

#[test]
fn a_failure_blocks_what_requires_it_and_nothing_else() {
    let mut bench = Bench::new();
    bench.write("/etc/d", "in the way");
    let decl = Decl::new()
        .directory("/etc/d", None)
        .file("/etc/d/f", "x")
        .file("/etc/g", "y")
        .edge((Kind::File, "/etc/d/f"), (Kind::Directory, "/etc/d"));
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["directory:/etc/d"].0, Outcome::NotKept);
    assert_eq!(results["file:/etc/d/f"].0, Outcome::Blocked);
    assert_eq!(results["file:/etc/g"].0, Outcome::Changed);
}

#[test]
fn what_was_never_written_is_not_owned() {
    let mut bench = Bench::new();
    bench.write("/etc/d", "in the way");
    let decl = Decl::new()
        .directory("/etc/d", None)
        .file("/etc/new/f", "x")
        .edge((Kind::File, "/etc/new/f"), (Kind::Directory, "/etc/d"));
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/etc/new/f"].0, Outcome::Blocked);
    let own = bench.store().index().own.clone();
    assert!(!own.contains_key("/etc/new/f") && !own.contains_key("/etc/new"), "{own:?}");

    // Once it can be made it is owned, and so is the directory on the way.
    fs::remove_file(bench.path("/etc/d")).unwrap();
    let results = bench.converge(&decl, Intent::Apply);
    assert_eq!(results["file:/etc/new/f"].0, Outcome::Changed);
    let own = bench.store().index().own.clone();
    assert!(own["/etc/new/f"].created && own["/etc/new"].created, "{own:?}");
}

#[test]
fn a_pipe_in_the_way_is_not_opened() {
    let mut bench = Bench::new();
    bench.write("/etc/other", "x");
    let pipe = bench.path("/etc/f");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let events = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_NONBLOCK).unwrap();
    events.add_watch(&pipe, nix::sys::inotify::AddWatchFlags::IN_OPEN).unwrap();
    let (outcome, detail) =
        outcome(&mut bench, &Decl::new().file("/etc/f", "x"), Intent::Apply, "file:/etc/f");
    assert_eq!(outcome, Outcome::NotKept);
    assert!(detail.contains("a pipe is in the way"), "{detail}");
    assert!(events.read_events().is_err());
}

#[test]
fn check_changes_nothing() {
    let mut bench = Bench::new();
    bench.write("/etc/f", "theirs");
    let decl = Decl::new().file("/etc/f", "mine");
    let name = bench.install(&decl, 1);
    let steps = bench.steps(name, Action::Check);
    let results = bench.run(1, Intent::Correct, steps);
    assert_eq!((results[0].outcome, results[0].detail.as_str()), (Outcome::Drifted, "content differs"));
    assert_eq!(bench.read("/etc/f"), "theirs");
}

#[test]
fn hard_links_elsewhere_keep_their_content() {
    let mut bench = Bench::new();
    bench.write("/etc/f", "old");
    fs::hard_link(bench.path("/etc/f"), bench.path("/etc/other")).unwrap();
    bench.converge(&Decl::new().file("/etc/f", "new"), Intent::Apply);
    assert_eq!((bench.read("/etc/f"), bench.read("/etc/other")), ("new".into(), "old".into()));
}

#[test]
fn a_confined_committer_does_the_same() {
    let mut bench = Bench::new();
    bench.confinement = Confinement::Full;
    bench.write("/etc/f", "old");
    let decl = Decl::new()
        .directory("/etc/d", Some(0o750))
        .file_mode("/etc/d/f", "right", 0o640)
        .file("/etc/f", "new")
        .symlink("/etc/link", "f")
        .file("/srv/www/index.html", "hello");
    let (_, results) = bench.apply(None, &decl);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert_eq!(bench.read("/srv/www/index.html"), "hello");
    let results = bench.converge(&decl, Intent::Correct);
    assert!(results.values().all(|(o, _)| *o == Outcome::Kept), "{results:?}");
}

#[test]
fn many_files_are_one_batch() {
    let mut bench = Bench::new();
    bench.confinement = Confinement::Full;
    let mut decl = Decl::new();
    for n in 0..500 {
        decl = decl.file(&format!("/srv/d{}/f{n}", n % 10), &format!("content {n}\n"));
    }
    let (_, results) = bench.apply(None, &decl);
    assert_eq!(results.len(), 500);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed));
    assert_eq!(fs::read_dir(bench.dir.path().join("store/staging")).unwrap().count(), 0);
}

#[test]
fn nothing_stays_of_a_bench_in_which_something_is_mounted() {
    common::private_mounts();
    let bench = Bench::new();
    bench.write("/disk/data", "theirs");
    let tmpfs = Some("tmpfs");
    let flags = nix::mount::MsFlags::empty();
    for _ in 0..2 {
        nix::mount::mount(tmpfs, &bench.path("/disk"), tmpfs, flags, None::<&str>).unwrap();
        bench.write("/disk/more", "ours");
    }
    let path = bench.dir.path().to_owned();
    drop(bench);
    assert!(!path.exists());
}

#[test]
fn attributes_are_not_changed_through_a_name_that_somebody_else_has_made() {
    let mut bench = Bench::new();
    bench.write("/etc/shadow", "secret");
    fs::set_permissions(bench.path("/etc/shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    bench.write("/home/bob/x", "his");
    chown(bench.path("/home/bob"), Some(1000), Some(1000)).unwrap();
    let declared = |owner: Option<&str>| {
        let mut decl = Decl::new();
        let mut spec = decl.file_spec("/home/bob/x", None, Some(0o644));
        spec.attributes.owner = owner.map(str::to_owned);
        decl.unit(Kind::File, "/home/bob/x", Spec::File(spec))
    };
    fs::remove_file(bench.path("/home/bob/x")).unwrap();
    fs::hard_link(bench.path("/etc/shadow"), bench.path("/home/bob/x")).unwrap();
    for owner in [None, Some("1000")] {
        let results = bench.converge(&declared(owner), Intent::Correct);
        let (outcome, detail) = &results["file:/home/bob/x"];
        assert!(*outcome == Outcome::NotKept && detail.contains("has other names"), "{detail}");
        let stat = fs::metadata(bench.path("/etc/shadow")).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o600));
    }
    // In a directory that only root writes, and of what is his own, all names are as good as one.
    chown(bench.path("/home/bob/x"), Some(1000), Some(1000)).unwrap();
    let results = bench.converge(&declared(None), Intent::Correct);
    assert_eq!(results["file:/home/bob/x"].0, Outcome::Changed);
    chown(bench.path("/home/bob"), Some(0), Some(0)).unwrap();
    let results = bench.converge(&declared(Some("0")), Intent::Correct);
    assert_eq!(results["file:/home/bob/x"].0, Outcome::Changed);
}
