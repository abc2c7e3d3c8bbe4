//! What is kept of what somebody has put in a managed place, and how much of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cm_core::proto::{Intent, Outcome};
use cm_core::store::Prior;
use common::{Bench, Decl};
use units::Kind;
use units::kind::Spec;
use units::kind::directory::Directory;
use units::kind::line::Line;

/// Larger than is kept, and takes no room itself.
const LARGE: u64 = 300 << 20;

fn enlarge(path: &Path, size: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}

/// Bytes of all files below a directory.
fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| if p.is_dir() { bytes(&p) } else { fs::metadata(&p).unwrap().blocks() * 512 }).sum()
}

#[test]
fn a_repair_keeps_no_more_of_a_version_than_there_is_room_for() {
    let mut bench = Bench::new();
    let decl = Decl::new().file("/srv/keys", "declared\n");
    bench.apply(None, &decl);
    enlarge(&bench.path("/srv/keys"), LARGE);
    let results = bench.converge(&decl, Intent::Correct);
    let (outcome, detail) = &results["file:/srv/keys"];
    assert_eq!(*outcome, Outcome::Changed, "{detail}");
    assert!(
        detail.ends_with(&format!("the {LARGE} bytes that were there were too many to be kept")),
        "{detail}"
    );
    assert_eq!(bench.read("/srv/keys"), "declared\n");
    assert!(bytes(&bench.dir.path().join("store")) < 4 << 20);
    let told = &bench.store().index().history["/srv/keys"][0].prior;
    assert!(matches!(told, Prior::Large { size: LARGE, .. }), "{told:?}");
    // What is of the usual size is kept as ever.
    bench.write("/srv/keys", "theirs");
    bench.converge(&decl, Intent::Correct);
    assert!(matches!(bench.store().index().history["/srv/keys"][1].prior, Prior::File { size: 6, .. }));
}

#[test]
fn an_apply_and_its_return_do_not_stumble_over_a_large_version() {
    let mut bench = Bench::new();
    let first = Decl::new().file("/srv/keys", "1").file("/srv/gone", "1");
    let (one, _) = bench.apply(None, &first);
    for path in ["/srv/keys", "/srv/gone"] {
        enlarge(&bench.path(path), LARGE);
    }
    let second = Decl::new().file("/srv/keys", "2");
    let (two, results) = bench.apply(Some((one, &first)), &second);
    let outcomes: Vec<Outcome> = results.iter().map(|r| r.outcome).collect();
    assert_eq!(outcomes, [Outcome::Removed, Outcome::Changed], "{results:?}");
    bench.switching(one);
    bench.swap(Some((two, &second)), (one, &first), Intent::Return);
    assert_eq!((bench.read("/srv/keys").as_str(), bench.read("/srv/gone").as_str()), ("1", "1"));
}

#[test]
fn what_is_somebodys_own_stays_where_there_is_no_room_to_keep_it() {
    let mut bench = Bench::new();
    bench.write("/srv/data", "");
    enlarge(&bench.path("/srv/data"), 1 << 42);
    let (_, results) = bench.apply(None, &Decl::new().file("/srv/data", "declared"));
    assert_eq!(results[0].outcome, Outcome::NotKept);
    assert!(results[0].detail.contains("move it away"), "{}", results[0].detail);
    assert_eq!(fs::metadata(bench.path("/srv/data")).unwrap().len(), 1 << 42);
    // Nor does a purge take away what it cannot keep.
    bench.write("/srv/d/theirs", "");
    let spec =
        Directory { path: "/srv/d".into(), attributes: Default::default(), purge: true, entries: vec![] };
    let decl = Decl::new().unit(Kind::Directory, "/srv/d", Spec::Directory(spec));
    enlarge(&bench.path("/srv/d/theirs"), LARGE);
    let results = bench.converge(&decl, Intent::Correct);
    assert_eq!(results["directory:/srv/d"].0, Outcome::NotKept, "{results:?}");
    assert!(bench.path("/srv/d/theirs").exists());
}

#[test]
fn a_line_is_not_looked_for_in_a_file_of_any_size() {
    let mut bench = Bench::new();
    bench.write("/srv/rc", "x\n");
    enlarge(&bench.path("/srv/rc"), LARGE);
    let line = Line { path: "/srv/rc".into(), line: "a".into(), matches: None, present: true, create: false };
    let results = bench.converge(&Decl::new().unit(Kind::Line, "a", Spec::Line(line)), Intent::Apply);
    let (outcome, detail) = &results["line:a"];
    assert!(*outcome == Outcome::NotKept && detail.contains("bytes: it is not read"), "{detail}");
}
