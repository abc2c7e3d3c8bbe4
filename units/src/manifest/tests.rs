//! Manifests are read back as they were built, and damage is found.

use super::*;
use crate::kind::target::Target;

fn sample() -> Manifest {
    let mut b = ManifestBuilder::new();
    for n in ["b", "a", "c"] {
        b.unit(NewUnit::new(Kind::Target, n, Spec::Target(Target {})));
    }
    let at = |n: &str| Address::new(Kind::Target, n);
    b.edge(&at("b"), &at("a"), EdgeKind::Requires, "");
    b.edge(&at("c"), &at("a"), EdgeKind::After, "because");
    b.edge(&at("c"), &at("nowhere"), EdgeKind::After, "");
    b.finish()
}

#[test]
fn reads_back_what_was_built() {
    let m = sample();
    assert!(m.verify_digest());
    assert_eq!(m.ids().map(|i| m.name(i).to_owned()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let a = m.find(Kind::Target, "a").unwrap();
    assert_eq!(m.find(Kind::Target, "d"), None);
    let users: Vec<_> = m.rdeps(a).map(|e| (m.name(e.unit), e.kind, e.reason)).collect();
    assert_eq!(users, [("b", EdgeKind::Requires, ""), ("c", EdgeKind::After, "because")]);
    assert_eq!(m.deps(UnitId(2)).count(), 1);
    assert_eq!(m.spec(a), Some(Spec::Target(Target {})));
    assert_eq!(m.unit(a).layer, "main");
}

#[test]
fn of_a_unit_that_was_added_twice_the_last_counts() {
    let mut b = ManifestBuilder::new();
    for (name, settle) in [("b", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5)] {
        b.unit(NewUnit { settle, ..NewUnit::new(Kind::Target, name, Spec::Target(Target {})) });
    }
    let m = b.finish();
    let all: Vec<_> = m.ids().map(|id| (m.name(id).to_owned(), m.unit(id).settle)).collect();
    assert_eq!(all, [("a".to_owned(), 2), ("b".to_owned(), 5), ("c".to_owned(), 4)]);
}

#[test]
fn damaged_bytes_never_panic() {
    let good = sample().as_bytes().to_vec();
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            if let Ok(m) = Manifest::from_vec(bad) {
                for id in m.ids() {
                    let _ = (m.unit(id), m.spec(id), m.deps(id).count(), m.rdeps(id).count());
                }
            }
        }
        assert!(Manifest::from_vec(good[..at].to_vec()).is_err());
    }
}
