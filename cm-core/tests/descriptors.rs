//! A batch takes few descriptors, however much it is about; alone in its process, since the limit is everybody's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use cm_core::proto::{Intent, Outcome};
use cm_core::worker::batch::Confinement;
use common::{Bench, Decl};
use nix::sys::resource::{Resource, setrlimit};

#[test]
fn a_batch_of_many_directories_takes_few_descriptors() {
    let count = 600;
    // What the kernel gives to the first process.
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024).unwrap();
    let mut bench = Bench::new();
    bench.confinement = Confinement::Full;
    let base = Decl::new().file("/srv/one", "1");
    let (first, _) = bench.apply(None, &base);
    let declared = |mode: u32, text: &str| {
        (0..count).fold(Decl::new().file("/srv/one", text), |decl, n| {
            decl.directory(&format!("/srv/t/d{n}"), Some(mode)).file_mode(
                &format!("/srv/t/d{n}/f"),
                &format!("{n}"),
                mode,
            )
        })
    };
    let all = |results: &[cm_core::proto::UnitResult], outcome: Outcome| {
        let other: Vec<_> = results.iter().filter(|r| r.outcome != outcome).take(3).collect();
        assert!(other.is_empty(), "{other:?}");
    };
    let many = declared(0o750, "2");
    let (second, results) = bench.apply(Some((first, &base)), &many);
    all(&results, Outcome::Changed);
    // Where only attributes change, each file is opened to change it.
    let other = declared(0o700, "2");
    let (third, results) = bench.apply(Some((second, &many)), &other);
    let changed = results.iter().filter(|r| r.outcome == Outcome::Changed).count();
    assert_eq!(changed, 2 * count);
    for n in 0..count {
        std::fs::remove_file(bench.path(&format!("/srv/t/d{n}/f"))).unwrap();
    }
    let repaired = bench.converge(&other, Intent::Correct);
    assert_eq!(repaired.values().filter(|(o, _)| *o == Outcome::Changed).count(), count);
    bench.switching(second);
    all(&bench.swap(Some((third, &other)), (first, &base), Intent::Return)[..1], Outcome::Removed);
    assert!(!bench.path("/srv/t").exists());
    assert_eq!(bench.read("/srv/one"), "1");
}
