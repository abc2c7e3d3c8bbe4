//! Generations on a real tree: what a rollback puts back, compared as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use cm_core::proto::{Intent, Outcome};
use cm_core::sys;
use cm_core::worker::back::put_back_rest;
use cm_core::worker::batch::Confinement;
use common::{Bench, Decl, fingerprint};
use proptest::prelude::*;
use units::Kind;
use units::kind::directory::Directory;
use units::kind::symlink::Symlink;
use units::kind::{Attributes, Spec};

/// One unit of a random manifest.
#[derive(Debug, Clone)]
enum Piece {
    File { content: Option<u8>, mode: Option<u32>, owner: Option<u32>, note: Option<u8> },
    Directory { mode: Option<u32>, owner: Option<u32> },
    Symlink { target: u8 },
}

/// What stands at a path before anything is declared.
#[derive(Debug, Clone)]
enum There {
    File { content: u8, mode: u32, owner: u32, note: Option<u8> },
    Directory { mode: u32 },
    Symlink,
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o600), Just(0o644), Just(0o755), Just(0o4755), Just(0o1700)]
}

fn piece() -> impl Strategy<Value = Piece> {
    use proptest::option::of;
    prop_oneof![
        4 => (of(0u8..3), of(mode()), of(0u32..3), of(0u8..3))
            .prop_map(|(content, mode, owner, note)| Piece::File { content, mode, owner, note }),
        2 => (proptest::option::of(mode()), proptest::option::of(0u32..3))
            .prop_map(|(mode, owner)| Piece::Directory { mode, owner }),
        1 => (0u8..3).prop_map(|target| Piece::Symlink { target }),
    ]
}

fn there() -> impl Strategy<Value = There> {
    prop_oneof![
        (0u8..3, mode(), 0u32..3, proptest::option::of(0u8..3))
            .prop_map(|(content, mode, owner, note)| There::File { content, mode, owner, note }),
        mode().prop_map(|mode| There::Directory { mode }),
        Just(There::Symlink),
    ]
}

/// Paths that contain each other, so that kinds collide.
fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/etc/a"),
        Just("/etc/b"),
        Just("/etc/d"),
        Just("/etc/d/x"),
        Just("/etc/d/e/y"),
        Just("/srv/deep/er/z")
    ]
    .prop_map(str::to_owned)
}

type Pieces = std::collections::BTreeMap<String, Piece>;

fn declare(pieces: &Pieces) -> Decl {
    let mut decl = Decl::new();
    let leaf = matches!(pieces.get("/etc/d"), Some(Piece::File { .. }));
    for (path, piece) in pieces {
        // No compiler lets that pass.
        if leaf && path.starts_with("/etc/d/") {
            continue;
        }
        match piece {
            // What is declared through a link of the same generation is found through that link only.
            Piece::Symlink { .. } if path == "/etc/d" => {}
            Piece::File { content, mode, owner, note } => {
                let text = content.map(|c| format!("content {c}").repeat(usize::from(c) + 1));
                let mut spec = decl.file_spec(path, text.as_deref(), *mode);
                spec.attributes.owner = owner.map(|o| o.to_string());
                spec.attributes.xattrs =
                    note.map(|n| ("user.note".to_owned(), vec![n])).into_iter().collect();
                decl = decl.unit(Kind::File, path, Spec::File(spec));
            }
            Piece::Directory { mode, owner } => {
                let attributes =
                    Attributes { mode: *mode, owner: owner.map(|o| o.to_string()), ..Attributes::default() };
                let spec = Directory { path: path.clone(), attributes, purge: false, entries: vec![] };
                decl = decl.unit(Kind::Directory, path, Spec::Directory(spec));
            }
            Piece::Symlink { target } => {
                let spec =
                    Symlink { path: path.clone(), target: format!("t{target}"), owner: None, group: None };
                decl = decl.unit(Kind::Symlink, path, Spec::Symlink(spec));
            }
        }
    }
    decl
}

fn furnish(bench: &Bench, there: &std::collections::BTreeMap<String, There>) {
    for (path, what) in there {
        let at = bench.path(path);
        if fs::create_dir_all(at.parent().unwrap()).is_err() || fs::symlink_metadata(&at).is_ok() {
            continue;
        }
        match what {
            There::File { content, mode, owner, note } => {
                fs::write(&at, format!("theirs {content}")).unwrap();
                std::os::unix::fs::chown(&at, Some(*owner), Some(*owner)).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
                let file = fs::File::open(&at).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000))
                    .unwrap();
                if let Some(note) = note {
                    sys::set_xattr(&file, "user.theirs", &[*note]).unwrap();
                }
            }
            There::Directory { mode } => {
                fs::create_dir(&at).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
            }
            There::Symlink => symlink("nowhere", &at).unwrap(),
        }
    }
}

/// Without times of changes: a file that is made again has its own.
fn timeless(lines: Vec<String>) -> Vec<String> {
    lines
        .into_iter()
        .map(|line| match line.rsplit_once(' ') {
            Some((start, end)) if end.parse::<u64>().is_ok() && end.len() > 8 => start.to_owned(),
            _ => line,
        })
        .collect()
}

/// Sixty, unless somebody asks for more: each writes durably some hundred times.
fn cases() -> ProptestConfig {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 60 };
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_generation_can_be_returned_to(
        before in proptest::collection::btree_map(path(), there(), 0..5),
        generations in proptest::collection::vec(proptest::collection::btree_map(path(), piece(), 0..5), 1..4),
        back in 0usize..4,
    ) {
        return_to(&before, &generations, back, true)?;
    }

    #[test]
    fn what_was_applied_is_found_right_and_left_alone(
        before in proptest::collection::btree_map(path(), there(), 0..5),
        pieces in proptest::collection::btree_map(path(), piece(), 0..5),
    ) {
        let mut bench = Bench::new();
        furnish(&bench, &before);
        let decl = declare(&pieces);
        let (_, results) = bench.apply(None, &decl);
        let failed = |r: &cm_core::proto::UnitResult| matches!(r.outcome, Outcome::NotKept | Outcome::Blocked);
        prop_assume!(!results.iter().any(failed));
        bench.reopen();
        let tree = fingerprint(&bench.path("/"));
        for intent in [Intent::Correct, Intent::Apply] {
            let again = bench.converge(&decl, intent);
            prop_assert!(again.values().all(|(o, words)| *o == Outcome::Kept && words.is_empty()), "{:?}", again);
        }
        prop_assert_eq!(fingerprint(&bench.path("/")), tree);
    }

    #[test]
    fn what_came_and_went_in_between_is_put_back_too(
        before in proptest::collection::btree_map(path(), there(), 0..5),
        generations in proptest::collection::vec(proptest::collection::btree_map(path(), piece(), 0..5), 1..4),
        back in 0usize..4,
    ) {
        return_to(&before, &generations, back, false)?;
    }
}

/// Applies one generation after the other and returns to one of them. `together`: what was declared in between, too,
/// leaves in one batch with the last.
fn return_to(
    before: &std::collections::BTreeMap<String, There>,
    generations: &[Pieces],
    back: usize,
    together: bool,
) -> Result<(), TestCaseError> {
    let mut bench = Bench::new();
    furnish(&bench, before);
    // Generation 1 declares nothing, so that a return to it must leave everything exactly as it was found.
    let mut made: Vec<(u64, Decl, Vec<String>)> = Vec::new();
    for pieces in std::iter::once(&Pieces::new()).chain(generations) {
        let decl = declare(pieces);
        let old = made.last().map(|(n, d, _)| (*n, d.clone()));
        let known =
            made.iter().any(|(_, d, _)| d.builder.finish().digest() == decl.builder.finish().digest());
        if known {
            continue;
        }
        let n = bench.prepare(&decl);
        bench.switching(n);
        let results = bench.swap(old.as_ref().map(|(n, d)| (*n, d)), (n, &decl), Intent::Apply);
        bench.reopen();
        if results.iter().any(|r| matches!(r.outcome, Outcome::NotKept | Outcome::Blocked)) {
            // As the engine does: back to where we came from.
            let (was, was_decl, tree) = made.last().cloned().unwrap();
            let back = bench.swap(Some((n, &decl)), (was, &was_decl), Intent::Return);
            bench.commit(was);
            let now = timeless(fingerprint(&bench.path("/")));
            prop_assert_eq!(now, timeless(tree), "failed: {:?} {:?}", results, back);
            continue;
        }
        bench.commit(n);
        made.push((n, decl, fingerprint(&bench.path("/"))));
    }
    let target = back.min(made.len() - 1);
    let (n, decl, tree) = made[target].clone();
    let (last, _, _) = made.last().unwrap().clone();
    bench.switching(n);
    // What came and went in between leaves with the rest, or is put back when the rest is.
    let mut all = Decl::new();
    let from = if together { target } else { made.len() - 1 };
    for (_, d, _) in &made[from..] {
        all.builder = merge(&all, d);
    }
    let results = bench.swap(Some((last, &all)), (n, &decl), Intent::Return);
    let confinement = bench.confinement;
    put_back_rest(&mut bench.world, &bench.manifests, n, false, confinement).unwrap();
    bench.commit(n);
    let now = fingerprint(&bench.path("/"));
    if target == 0 {
        prop_assert_eq!(&now, &tree, "to the start: {:?}", results);
    } else {
        prop_assert_eq!(timeless(now), timeless(tree), "to {}: {:?}", n, results);
    }
    Ok(())
}

fn merge(all: &Decl, more: &Decl) -> units::ManifestBuilder {
    let mut out = all.builder.clone();
    let manifest = more.builder.finish();
    for id in manifest.ids() {
        let unit =
            units::manifest::NewUnit::new(manifest.kind(id), manifest.name(id), manifest.spec(id).unwrap());
        out.unit(unit);
    }
    out
}

#[test]
fn a_failed_apply_leaves_no_trace() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "theirs");
    bench.write("/etc/dir-in-the-way/x", "1");
    let before = fingerprint(&bench.path("/"));
    let decl = Decl::new().file("/etc/a", "mine").file("/etc/new/b", "b").file("/etc/dir-in-the-way", "no");
    let n = bench.prepare(&decl);
    bench.switching(n);
    let results = bench.swap(None, (n, &decl), Intent::Apply);
    assert!(results.iter().any(|r| r.outcome == Outcome::NotKept));
    let results = bench.swap(Some((n, &decl)), (0, &Decl::new()), Intent::Return);
    let restored = |o| matches!(o, Outcome::Removed | Outcome::Changed | Outcome::Left);
    assert!(results.iter().all(|r| restored(r.outcome)), "{results:?}");
    assert_eq!(fingerprint(&bench.path("/")), before);
}

/// What was there before is restored, what was not is removed, and the words say which.
#[test]
fn what_is_put_back_is_not_told_as_removed() {
    let mut bench = Bench::new();
    bench.write("/etc/theirs", "theirs");
    bench.write("/etc/mode", "same");
    std::os::unix::fs::symlink("theirs", bench.path("/etc/link")).unwrap();
    let decl = Decl::new()
        .file("/etc/theirs", "mine")
        .file_mode("/etc/mode", "same", 0o600)
        .symlink("/etc/link", "mine")
        .file("/etc/ours", "ours")
        .directory("/etc/d", None);
    let none = Decl::new();
    let (n1, _) = bench.apply(None, &none);
    let (n2, _) = bench.apply(Some((n1, &none)), &decl);
    bench.switching(n1);
    let results = bench.swap(Some((n2, &decl)), (n1, &none), Intent::Return);
    let results = bench.by_name(results);
    let outcome = |unit: &str| results[unit].0;
    for unit in ["file:/etc/theirs", "file:/etc/mode", "symlink:/etc/link"] {
        assert_eq!(outcome(unit), Outcome::Changed, "{unit}: {results:?}");
    }
    for unit in ["file:/etc/ours", "directory:/etc/d"] {
        assert_eq!(outcome(unit), Outcome::Removed, "{unit}: {results:?}");
    }
    assert_eq!(bench.read("/etc/theirs"), "theirs");
}

#[test]
fn undeclared_attributes_come_back_too() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "theirs");
    fs::set_permissions(bench.path("/etc/a"), fs::Permissions::from_mode(0o600)).unwrap();
    let one = Decl::new().file("/etc/a", "one");
    let (n1, _) = bench.apply(None, &one);
    let before = timeless(fingerprint(&bench.path("/")));
    let two = Decl::new().file_mode("/etc/a", "two", 0o644);
    let (n2, _) = bench.apply(Some((n1, &one)), &two);
    bench.switching(n1);
    bench.swap(Some((n2, &two)), (n1, &one), Intent::Return);
    assert_eq!(timeless(fingerprint(&bench.path("/"))), before);
}

#[test]
fn the_store_survives_compaction() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "theirs");
    let before = fingerprint(&bench.path("/"));
    let one = Decl::new().file("/etc/a", "one");
    let (n1, _) = bench.apply(None, &Decl::new());
    let (n2, _) = bench.apply(Some((n1, &Decl::new())), &one);
    bench.store().lock().unwrap();
    assert!(bench.store().compact(true).unwrap());
    bench.store().unlock();
    bench.reopen();
    bench.switching(n1);
    bench.swap(Some((n2, &one)), (n1, &Decl::new()), Intent::Return);
    let strip = timeless;
    assert_eq!(strip(fingerprint(&bench.path("/"))), strip(before));
}

#[test]
fn what_a_generation_in_between_left_is_put_back() {
    let mut bench = Bench::new();
    bench.write("/etc/motd", "theirs");
    let before = fingerprint(&bench.path("/"));
    let (none, one) = (Decl::new(), Decl::new().file("/etc/motd", "ours"));
    let three = Decl::new().file("/etc/other", "x");
    let (n1, _) = bench.apply(None, &none);
    let (n2, _) = bench.apply(Some((n1, &none)), &one);
    let (n3, results) = bench.apply(Some((n2, &one)), &three);
    assert_eq!(bench.by_name(results)["file:/etc/motd"].0, Outcome::Left);
    assert_eq!(bench.read("/etc/motd"), "ours");
    bench.switching(n1);
    bench.swap(Some((n3, &three)), (n1, &none), Intent::Return);
    let confinement = bench.confinement;
    let done = put_back_rest(&mut bench.world, &bench.manifests, n1, false, confinement).unwrap();
    assert_eq!(done.len(), 1);
    bench.commit(n1);
    assert_eq!(fingerprint(&bench.path("/")), before);
}

#[test]
fn a_store_in_a_new_place_is_private_and_its_parents_are_not() {
    let dir = tempfile::tempdir().unwrap();
    cm_core::store::Store::open(&dir.path().join("var/lib/holdfast")).unwrap();
    let mode = |p: &str| fs::metadata(dir.path().join(p)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("var"), mode("var/lib"), mode("var/lib/holdfast")), (0o755, 0o755, 0o700));
}

/// The file was reached through a link: the directory that was made for it has another name than the file says.
#[test]
fn a_directory_made_behind_a_link_goes_with_what_it_was_made_for() {
    let mut bench = Bench::new();
    symlink("nowhere", bench.path("/etc/d")).unwrap();
    let before = timeless(fingerprint(&bench.path("/")));
    let (one, none) = (Decl::new().file("/etc/d/x", "1"), Decl::new());
    let (n1, _) = bench.apply(None, &one);
    assert_eq!(bench.read("/etc/nowhere/x"), "1");
    bench.apply(Some((n1, &one)), &none);
    assert_eq!(timeless(fingerprint(&bench.path("/"))), before);
}

/// Two units of two kinds had one path, neither made it, and both leave in one batch: the order does not count.
#[test]
fn two_units_that_leave_with_one_thing_put_it_back_as_it_was() {
    let mut bench = Bench::new();
    symlink("nowhere", bench.path("/etc/b")).unwrap();
    let before = fingerprint(&bench.path("/"));
    let none = Decl::new();
    let (one, two) = (Decl::new().symlink("/etc/b", "t0"), Decl::new().file("/etc/b", "ours"));
    let (n1, _) = bench.apply(None, &none);
    let (n2, _) = bench.apply(Some((n1, &none)), &one);
    let (n3, _) = bench.apply(Some((n2, &one)), &two);
    bench.switching(n1);
    let both = Decl { builder: merge(&two, &one), ..two };
    let results = bench.swap(Some((n3, &both)), (n1, &none), Intent::Return);
    assert_eq!(fingerprint(&bench.path("/")), before, "{results:?}");
}

/// An apply brought a unit, the one that superseded it took that away again as far as it was ours, and failed.
#[test]
fn what_a_superseded_apply_left_is_put_back() {
    let mut bench = Bench::new();
    symlink("nowhere", bench.path("/etc/b")).unwrap();
    bench.write("/etc/c", "x\nport 1\n");
    let before = fingerprint(&bench.path("/"));
    let none = Decl::new();
    let line = units::kind::line::Line {
        path: "/etc/c".into(),
        line: "port 2".into(),
        matches: Some("^port".into()),
        present: true,
        create: false,
    };
    let one = Decl::new().symlink("/etc/b", "t0").unit(Kind::Line, "port", Spec::Line(line));
    let two = Decl::new().file("/etc/new", "two");
    let (n1, _) = bench.apply(None, &none);
    let (n2, n3) = (bench.prepare(&one), bench.prepare(&two));
    bench.switching(n2);
    bench.swap(Some((n1, &none)), (n2, &one), Intent::Apply);
    bench.switching(n3);
    bench.swap(Some((n2, &one)), (n3, &two), Intent::Apply);
    bench.swap(Some((n3, &two)), (n1, &none), Intent::Return);
    let confinement = bench.confinement;
    put_back_rest(&mut bench.world, &bench.manifests, n1, true, confinement).unwrap();
    bench.commit(n1);
    assert_eq!(timeless(fingerprint(&bench.path("/"))), timeless(before));
}

/// A directory on the way to something had the place of a file, which is there again when the rest is put back.
#[test]
fn a_file_is_not_taken_for_the_directory_that_was_there_in_between() {
    let mut bench = Bench::new();
    let (one, two) = (Decl::new().file("/etc/d", "1"), Decl::new().file("/etc/d/x", "2"));
    let three = Decl::new().file("/etc/a", "3");
    let (n1, _) = bench.apply(None, &one);
    let (n2, _) = bench.apply(Some((n1, &one)), &two);
    let (n3, _) = bench.apply(Some((n2, &two)), &three);
    bench.switching(n1);
    bench.swap(Some((n3, &three)), (n1, &one), Intent::Return);
    let confinement = bench.confinement;
    put_back_rest(&mut bench.world, &bench.manifests, n1, false, confinement).unwrap();
    assert_eq!(bench.read("/etc/d"), "1");
}

fn inode(bench: &Bench, path: &str) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(bench.path(path)).unwrap())
}

/// Several names of one file, two of them managed: they part, and come together again in any order.
#[test]
fn names_of_one_file_come_together_again() {
    for declared_before in [false, true] {
        let mut bench = Bench::new();
        bench.write("/etc/a", "theirs");
        fs::create_dir_all(bench.path("/srv/far")).unwrap();
        for name in ["/etc/b", "/etc/plain", "/srv/far/c"] {
            fs::hard_link(bench.path("/etc/a"), bench.path(name)).unwrap();
        }
        let before = fingerprint(&bench.path("/"));
        let one = if declared_before { Decl::new().file("/etc/a", "theirs") } else { Decl::new() };
        let two = Decl::new().file("/etc/a", "ours").file("/etc/b", "ours too");
        let (n1, _) = bench.apply(None, &one);
        let (n2, _) = bench.apply(Some((n1, &one)), &two);
        assert_ne!(inode(&bench, "/etc/a"), inode(&bench, "/srv/far/c"));
        assert_eq!(bench.read("/etc/plain"), "theirs");
        bench.switching(n1);
        bench.swap(Some((n2, &two)), (n1, &one), Intent::Return);
        assert_eq!(fingerprint(&bench.path("/")), before, "declared before: {declared_before}");
        for name in ["/etc/b", "/etc/plain", "/srv/far/c"] {
            assert_eq!(inode(&bench, name), inode(&bench, "/etc/a"), "{name}");
        }
    }
}

#[test]
fn a_name_that_changed_meanwhile_is_left_alone() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "theirs");
    fs::hard_link(bench.path("/etc/a"), bench.path("/etc/b")).unwrap();
    let none = Decl::new();
    let one = Decl::new().file("/etc/a", "ours");
    let (n1, _) = bench.apply(None, &none);
    let (n2, _) = bench.apply(Some((n1, &none)), &one);
    bench.write("/etc/b", "new!!!");
    bench.switching(n1);
    bench.swap(Some((n2, &one)), (n1, &none), Intent::Return);
    assert_eq!((bench.read("/etc/a").as_str(), bench.read("/etc/b").as_str()), ("theirs", "new!!!"));
    assert_ne!(inode(&bench, "/etc/a"), inode(&bench, "/etc/b"));
}

/// A directory took the place of a file, and a file that of the directory: what the directory's unit takes away on the
/// way back is what the file's unit still needs.
#[test]
fn what_a_leaving_unit_takes_away_is_made_again() {
    let mut bench = Bench::new();
    let one = Decl::new().file("/etc/b", "one");
    let two = Decl::new().directory("/etc/b", None);
    let three = Decl::new().file_mode("/etc/b", "one", 0o600);
    let (n1, _) = bench.apply(None, &one);
    let before = timeless(fingerprint(&bench.path("/")));
    let (n2, _) = bench.apply(Some((n1, &one)), &two);
    let (n3, _) = bench.apply(Some((n2, &two)), &three);
    bench.switching(n1);
    let both = Decl { builder: merge(&three, &two), ..three };
    let results = bench.swap(Some((n3, &both)), (n1, &one), Intent::Return);
    assert_eq!(timeless(fingerprint(&bench.path("/"))), before, "{results:?}");
}

#[test]
fn names_that_parted_in_different_generations_come_together_again() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "theirs");
    fs::hard_link(bench.path("/etc/a"), bench.path("/etc/b")).unwrap();
    let before = fingerprint(&bench.path("/"));
    let (none, one) = (Decl::new(), Decl::new().file("/etc/a", "ours"));
    let two = Decl::new().file("/etc/a", "ours").file("/etc/b", "ours too");
    let (n1, _) = bench.apply(None, &none);
    let (n2, _) = bench.apply(Some((n1, &none)), &one);
    let (n3, _) = bench.apply(Some((n2, &one)), &two);
    bench.switching(n1);
    bench.swap(Some((n3, &two)), (n1, &none), Intent::Return);
    assert_eq!(fingerprint(&bench.path("/")), before);
    assert_eq!(inode(&bench, "/etc/a"), inode(&bench, "/etc/b"));
}

/// A return takes a directory away with one unit and makes it again for another: it stays one that was made on the way.
#[test]
fn a_directory_that_is_made_again_keeps_its_owner() {
    let mut bench = Bench::new();
    let one = Decl::new().symlink("/etc/d/x", "t0");
    let mut two = Decl::new().file("/etc/d/e/y", "y");
    let spec = two.file_spec("/etc/d/x", None, None);
    let two = two.unit(Kind::File, "/etc/d/x", Spec::File(spec));
    let (n1, _) = bench.apply(None, &one);
    let n2 = bench.prepare(&two);
    bench.switching(n2);
    bench.swap(Some((n1, &one)), (n2, &two), Intent::Apply);
    bench.reopen();
    bench.swap(Some((n2, &two)), (n1, &one), Intent::Return);
    bench.commit(n1);
    assert!(bench.path("/etc/d/x").is_symlink());
    let owner = bench.store().index().own.get("/etc/d").map(|o| (o.unit.clone(), o.created));
    assert_eq!(owner, Some((cm_core::store::index::PARENT.to_owned(), true)));
}

/// One name is managed as a whole, another by one line, or only that: whoever is put back first, they are one file again.
#[test]
fn names_of_which_one_has_a_line_edited_come_together_again() {
    for (whole, confinement) in [
        (true, Confinement::None),
        (false, Confinement::None),
        (true, Confinement::Full),
        (false, Confinement::Full),
    ] {
        for name in ["/etc/b", "/srv/far/c"] {
            let mut bench = Bench::new();
            bench.confinement = confinement;
            bench.write("/etc/a", "theirs\n");
            fs::create_dir_all(bench.path("/srv/far")).unwrap();
            fs::hard_link(bench.path("/etc/a"), bench.path(name)).unwrap();
            let before = fingerprint(&bench.path("/"));
            let line = |text: &str| {
                let (line, path) = (text.to_owned(), name.to_owned());
                Spec::Line(units::kind::line::Line {
                    path,
                    line,
                    matches: None,
                    present: true,
                    create: false,
                })
            };
            let none = Decl::new();
            let mut one = Decl::new().unit(Kind::Line, "one", line("1"));
            if whole {
                one = one.file("/etc/a", "ours");
            }
            // A line that comes later leaves first, or last.
            let two = Decl { builder: one.builder.clone(), contents: one.contents.clone() };
            let two = two.unit(Kind::Line, "later", line("2")).unit(Kind::Line, "zero", line("3"));
            let (n1, _) = bench.apply(None, &none);
            let (n2, _) = bench.apply(Some((n1, &none)), &one);
            let (n3, _) = bench.apply(Some((n2, &one)), &two);
            assert_eq!(bench.read(name), "theirs\n1\n2\n3\n");
            assert_ne!(inode(&bench, "/etc/a"), inode(&bench, name));
            bench.switching(n1);
            let results = bench.swap(Some((n3, &two)), (n1, &none), Intent::Return);
            assert_eq!(fingerprint(&bench.path("/")), before, "{results:?}");
            assert_eq!(inode(&bench, "/etc/a"), inode(&bench, name), "{name}, whole: {whole}");
        }
    }
}

/// One generation after the other has the line say something else, and the first was not the first to say anything.
#[test]
fn a_line_that_was_changed_twice_is_as_before_both() {
    let line = |text: &str| {
        let spec = units::kind::line::Line {
            path: "/etc/c".into(),
            line: text.into(),
            matches: Some("^port".into()),
            present: true,
            create: false,
        };
        Decl::new().unit(Kind::Line, "port", Spec::Line(spec))
    };
    let (none, one, two, three) = (Decl::new(), line("port 1"), line("port 2"), line("port 3"));
    for target in 0..3 {
        let mut bench = Bench::new();
        bench.write("/etc/c", "x\nport 22\ny\n");
        let mut made = vec![(bench.apply(None, &none).0, &none, fingerprint(&bench.path("/")))];
        for decl in [&one, &two, &three] {
            let (n, was, _) = made[made.len() - 1].clone();
            let (n, _) = bench.apply(Some((n, was)), decl);
            made.push((n, decl, fingerprint(&bench.path("/"))));
        }
        assert_eq!(bench.read("/etc/c"), "x\nport 3\ny\n");
        let (n, decl, tree) = made[target].clone();
        bench.switching(n);
        bench.swap(Some((made[3].0, &three)), (n, decl), Intent::Return);
        bench.commit(n);
        assert_eq!(
            timeless(fingerprint(&bench.path("/"))),
            timeless(tree),
            "{target}: {}",
            bench.read("/etc/c")
        );
    }
}
