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

/// Of a review: a comment in the state file was another generation.
#[test]
fn where_it_is_declared_is_no_part_of_what_is() {
    let at = |origins: [&str; 2], description: &str| {
        let mut b = ManifestBuilder::new();
        for (name, origin) in ["a", "b"].into_iter().zip(origins) {
            let unit = NewUnit::new(Kind::Target, name, Spec::Target(Target {}));
            b.unit(NewUnit { origin: origin.to_owned(), description: description.to_owned(), ..unit });
        }
        b.finish()
    };
    let (one, two) = (at(["state.toml:1", "state.toml:2"], "x"), at(["", "/etc/state.toml:1000"], "x"));
    assert_eq!(one, two);
    assert_ne!(one.as_bytes(), two.as_bytes());
    assert!(one.verify_digest() && two.verify_digest());
    assert_eq!(
        two.ids().map(|id| two.unit(id).origin.to_owned()).collect::<Vec<_>>(),
        ["", "/etc/state.toml:1000"]
    );
    assert_eq!(two.unit(UnitId(1)).description, "x");
    assert_ne!(one, at(["state.toml:1", "state.toml:2"], "y"), "what a person says of it is declared");
    let mut damaged = one.as_bytes().to_vec();
    let name = damaged.iter().rposition(|b| *b == b'b').unwrap();
    damaged[name] = b'c';
    assert!(!Manifest::from_vec(damaged).unwrap().verify_digest());
    let mut damaged = one.as_bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(!Manifest::from_vec(damaged).unwrap().verify_digest(), "damage to origins is damage too");
}

#[test]
fn a_manifest_of_the_version_before_is_read() {
    let new = sample();
    let mut old = new.as_bytes().to_vec();
    old[8] = 1;
    old[36..40].fill(0);
    let digest = Sha256::digest(&old[HEADER..]);
    old[40..72].copy_from_slice(&digest);
    let old = Manifest::from_vec(old).unwrap();
    assert!(old.verify_digest());
    assert_eq!(
        old.ids().map(|id| old.unit(id)).collect::<Vec<_>>(),
        new.ids().map(|id| new.unit(id)).collect::<Vec<_>>()
    );
    let mut damaged = old.as_bytes().to_vec();
    damaged[HEADER + 2] ^= 1;
    assert!(Manifest::from_vec(damaged).is_ok_and(|m| !m.verify_digest()));
    let mut newer = new.as_bytes().to_vec();
    newer[8] = 3;
    assert_eq!(Manifest::from_vec(newer).unwrap_err(), ManifestError::Version(3));
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
