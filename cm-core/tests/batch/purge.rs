//! What is taken away, and what is left, because nobody declares it any more.

use super::*;

#[test]
fn what_we_made_is_purged_and_what_was_there_is_left() {
    let mut bench = Bench::new();
    bench.write("/etc/theirs", "x");
    let one = Decl::new()
        .file("/etc/theirs", "x")
        .file("/etc/new/ours", "y")
        .symlink("/etc/link", "a")
        .directory("/etc/dir", None);
    let (n1, _) = bench.apply(None, &one);
    let two = Decl::new().file("/etc/other", "z");
    let (_, results) = bench.apply(Some((n1, &one)), &two);
    let results = bench.by_name(results);
    assert_eq!(results["file:/etc/theirs"].0, Outcome::Left);
    assert_eq!(results["file:/etc/new/ours"].0, Outcome::Removed);
    assert_eq!(results["symlink:/etc/link"].0, Outcome::Removed);
    assert_eq!(results["directory:/etc/dir"].0, Outcome::Removed);
    let index = bench.store().index().clone();
    for gone in ["/etc/new/ours", "/etc/link", "/etc/dir"] {
        let [version] = index.history[gone].as_slice() else { panic!("{gone}: {:?}", index.history) };
        assert_eq!((version.why, version.generation), (cm_core::store::record::Why::Purge, 2), "{gone}");
    }
    let names: Vec<String> =
        fingerprint(&bench.path("/etc")).iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["", "other", "theirs"]);
}

#[test]
fn a_purged_file_that_was_changed_is_in_the_history() {
    let mut bench = Bench::new();
    let one = Decl::new().file("/etc/ours", "y");
    let (n1, _) = bench.apply(None, &one);
    bench.write("/etc/ours", "somebody's work");
    bench.apply(Some((n1, &one)), &Decl::new());
    assert!(!bench.path("/etc/ours").exists());
    let index = bench.store().index().clone();
    let [version] = index.history["/etc/ours"].as_slice() else { panic!("{:?}", index.history) };
    assert_eq!((version.why, version.generation), (cm_core::store::record::Why::Purge, 2));
    let cm_core::store::Prior::File { digest, .. } = &version.prior else { panic!() };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut bench.store().content(digest).unwrap(), &mut text).unwrap();
    assert_eq!(text, "somebody's work");
}

/// It was held when the generation came that does not declare it.
#[test]
fn a_purge_that_was_put_off_is_no_repair() {
    let mut bench = Bench::new();
    let one = Decl::new().file("/etc/ours", "y");
    bench.apply(None, &one);
    let name = bench.install(&one, 1);
    let steps = bench.steps(name, Action::Remove);
    assert_eq!(bench.run(2, Intent::Correct, steps)[0].outcome, Outcome::Removed);
    let index = bench.store().index().clone();
    let [version] = index.history["/etc/ours"].as_slice() else { panic!("{:?}", index.history) };
    assert_eq!((version.why, version.generation), (cm_core::store::record::Why::Purge, 2));
}

#[test]
fn a_directory_that_is_not_empty_is_left() {
    let mut bench = Bench::new();
    let one = Decl::new().directory("/etc/dir", None);
    let (n1, _) = bench.apply(None, &one);
    bench.write("/etc/dir/theirs", "x");
    let (_, results) = bench.apply(Some((n1, &one)), &Decl::new());
    assert_eq!(results[0].outcome, Outcome::Left);
    assert_eq!(bench.read("/etc/dir/theirs"), "x");
    assert!(bench.store().index().history.is_empty(), "what was left was not replaced");
}

#[test]
fn a_purged_directory_keeps_only_what_is_declared() {
    let mut bench = Bench::new();
    bench.write("/etc/d/stray/deep", "1");
    bench.write("/etc/d/other", "2");
    let before = fingerprint(&bench.path("/etc"));
    let directory = |purge| Directory {
        path: "/etc/d".into(),
        attributes: Attributes::default(),
        purge,
        entries: if purge { vec!["keep".into()] } else { vec![] },
    };
    let zero = Decl::new().unit(Kind::Directory, "/etc/d", Spec::Directory(directory(false)));
    let (n0, _) = bench.apply(None, &zero);
    let one = Decl::new()
        .unit(Kind::Directory, "/etc/d", Spec::Directory(directory(true)))
        .file("/etc/d/keep", "k");
    let (n1, results) = bench.apply(Some((n0, &zero)), &one);
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert_eq!(fs::read_dir(bench.path("/etc/d")).unwrap().count(), 1);
    bench.switching(n0);
    let results = bench.swap(Some((n1, &one)), (n0, &zero), Intent::Return);
    assert!(results.iter().all(|r| r.outcome != Outcome::NotKept), "{results:?}");
    assert_eq!(fingerprint(&bench.path("/etc")), before);
}

/// Who holds a file that nobody declares any more finds it there, also where everything else is purged; it goes when it
/// is let go.
#[test]
fn a_purge_leaves_what_is_held() {
    let mut bench = Bench::new();
    bench.write("/etc/d/theirs", "t");
    let directory = |purge| {
        let attributes = Attributes::default();
        Spec::Directory(Directory { path: "/etc/d".into(), attributes, purge, entries: vec![] })
    };
    let one = Decl::new()
        .unit(Kind::Directory, "/etc/d", directory(false))
        .file("/etc/d/held", "h")
        .file("/etc/d/deep/held", "h")
        .file("/etc/d/theirs", "t");
    let (n1, _) = bench.apply(None, &one);
    bench.write("/etc/d/deep/stray", "s");
    bench.write("/etc/d/stray", "s");
    // The engine leaves what is held out of its batches.
    let two = Decl::new().unit(Kind::Directory, "/etc/d", directory(true));
    let n2 = bench.prepare(&two);
    bench.switching(n2);
    let (old, new) = (bench.install(&one, n1), bench.install(&two, n2));
    let mut steps = bench.steps(new, cm_core::proto::Action::Converge);
    let results = bench.run(n2, Intent::Apply, steps.clone());
    assert_eq!(results[0].outcome, Outcome::Changed, "{results:?}");
    let left = |bench: &Bench| {
        let all = fingerprint(&bench.path("/etc/d"));
        let names = all.iter().filter_map(|l| l.split(' ').next()).filter(|n| !n.is_empty());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(left(&bench), ["deep", "deep/held", "held", "theirs"]);
    bench.commit(n2);
    let results = bench.run(n2, Intent::Correct, steps.clone());
    assert_eq!((results[0].outcome, results[0].detail.as_str()), (Outcome::Kept, ""));
    // They are let go, and with the directory in one batch what was there before goes too.
    let gone = bench.steps(old, cm_core::proto::Action::Remove);
    steps.splice(0..0, gone.into_iter().filter(|s| bench.manifest(old).name(s.unit) != "/etc/d"));
    bench.run(n2, Intent::Correct, steps);
    assert_eq!(left(&bench), [""; 0]);
}

#[test]
fn what_is_removed_below_a_directory_never_lies_behind_a_mount() {
    common::private_mounts();
    let mut bench = Bench::new();
    bench.write("/disk/data", "theirs");
    bench.write("/etc/d/deep/usb/.keep", "");
    bench.write("/etc/d/stray", "2");
    fs::remove_file(bench.path("/etc/d/deep/usb/.keep")).unwrap();
    let spec =
        Directory { path: "/etc/d".into(), attributes: Attributes::default(), purge: true, entries: vec![] };
    let decl = Decl::new().unit(Kind::Directory, "/etc/d", Spec::Directory(spec));
    let bind = |from: &str, to: &str| {
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&bench.path(from)), &bench.path(to), None::<&str>, flags, None::<&str>)
            .unwrap();
    };
    let mounted = ["/etc/d/stray", "/etc/d/deep/usb", "/etc/d"];
    bind("/disk/data", mounted[0]);
    bind("/disk", mounted[1]);
    bind("/disk", mounted[2]);
    for path in mounted.into_iter().rev() {
        let results = bench.converge(&decl, Intent::Correct);
        let (outcome, detail) = &results["directory:/etc/d"];
        assert_eq!(*outcome, Outcome::NotKept, "{path}");
        assert!(detail.starts_with(&format!("a file system is mounted at {path}")), "{path}: {detail}");
        assert_eq!(bench.read("/disk/data"), "theirs");
        nix::mount::umount(&bench.path(path)).unwrap();
    }
    assert_eq!(bench.converge(&decl, Intent::Correct)["directory:/etc/d"].0, Outcome::Changed);
    assert_eq!(fs::read_dir(bench.path("/etc/d")).unwrap().count(), 0);
    assert_eq!(bench.read("/disk/data"), "theirs");
}

#[test]
fn a_purge_leaves_what_it_could_not_bring_back() {
    let mut bench = Bench::new();
    bench.write("/srv/d/old/file", "x");
    bench.write("/srv/d/gone/file", "x");
    for pipe in ["/srv/d/pipe", "/srv/d/old/pipe"] {
        nix::unistd::mkfifo(&bench.path(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let spec =
        Directory { path: "/srv/d".into(), attributes: Attributes::default(), purge: true, entries: vec![] };
    let decl = Decl::new().unit(Kind::Directory, "/srv/d", Spec::Directory(spec));
    let (_, results) = bench.apply(None, &decl);
    assert_eq!(results[0].outcome, Outcome::Changed, "{results:?}");
    let there = ["/srv/d/pipe", "/srv/d/old/pipe", "/srv/d/old/file", "/srv/d/gone"];
    assert_eq!(there.map(|p| bench.path(p).exists()), [true, true, false, false]);
    assert_eq!(bench.converge(&decl, Intent::Correct)["directory:/srv/d"].0, Outcome::Kept);
}

#[test]
fn a_purge_takes_away_names_that_are_no_text_and_a_return_brings_them_back() {
    use std::os::unix::ffi::OsStrExt;
    let mut bench = Bench::new();
    let at = |bench: &Bench, name: &[u8]| bench.path("/srv/d").join(std::ffi::OsStr::from_bytes(name));
    fs::create_dir_all(at(&bench, b"sub\xff")).unwrap();
    for file in [&b"x\xe9y"[..], b"sub\xff/\xc3", "\u{10ffe9}".as_bytes()] {
        fs::write(at(&bench, file), "theirs").unwrap();
    }
    let before = fingerprint(&bench.path("/srv"));
    let spec =
        Directory { path: "/srv/d".into(), attributes: Attributes::default(), purge: true, entries: vec![] };
    let decl = Decl::new().unit(Kind::Directory, "/srv/d", Spec::Directory(spec));
    let (zero, _) = bench.apply(None, &Decl::new());
    let (one, results) = bench.apply(Some((zero, &Decl::new())), &decl);
    assert_eq!(results[0].outcome, Outcome::Changed, "{results:?}");
    assert!(results[0].detail.contains("x\\xe9y should not be there"), "{results:?}");
    assert_eq!(fs::read_dir(bench.path("/srv/d")).unwrap().count(), 0);
    bench.switching(zero);
    let results = bench.swap(Some((one, &decl)), (zero, &Decl::new()), Intent::Return);
    assert!(results.iter().all(|r| r.outcome != Outcome::NotKept), "{results:?}");
    assert_eq!(fingerprint(&bench.path("/srv")), before);
}
