//! Layers as they lie in a store, and how they are read: `generations/N/layers` lists those of a generation, from the
//! bottom to the top, and `layers/<sha-256>` holds each once, however many generations have it.
//!
//! A generation that was stored before there were layers has no list: it is all of one layer, whose state is not kept.

use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use units::kept::{Kept, Stored};
use units::layer;

use super::disk::{StoreError, at};
use super::record::Digest;
use super::{hex, unhex};

/// Where layers lie in a store.
pub const DIRECTORY: &str = "layers";
/// The list of a generation, and that of a staged one.
pub const LIST: &str = "layers";
/// First line of a list.
const HEAD: &str = "holdfast layers 1";
/// How deep parts may lie in parts.
const DEEPEST: usize = 256;

/// A layer of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// SHA-256 of what it holds.
    pub digest: Digest,
}

/// The name of a layer's file among staged contents.
pub fn staged_name(digest: &Digest) -> String {
    format!("layer-{}", hex(digest))
}

/// A list as text.
pub fn encode(list: &[Named]) -> String {
    let lines: String = list.iter().map(|l| format!("{} {}\n", l.name, hex(&l.digest))).collect();
    let text = format!("{HEAD}\n{lines}");
    let sum: Digest = Sha256::digest(&text).into();
    format!("{text}sum {}\n", hex(&sum))
}

/// A list from text; `None` where it is none, or not all of it.
pub fn decode(text: &str) -> Option<Vec<Named>> {
    let (above, sum) = text.trim_end_matches('\n').rsplit_once('\n')?;
    let above = format!("{above}\n");
    let is: Digest = Sha256::digest(&above).into();
    if unhex(sum.strip_prefix("sum ")?)? != is {
        return None;
    }
    let mut lines = above.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let mut list = Vec::new();
    for line in lines {
        let (name, digest) = line.rsplit_once(' ')?;
        layer::check(name).ok()?;
        list.push(Named { name: name.to_owned(), digest: unhex(digest)? });
    }
    let in_order = list.is_sorted_by(|a, b| layer::order(&a.name, &b.name).is_lt());
    in_order.then_some(list)
}

/// Whether two lists mean the same wherever their manifests are the same: equal ones do; and where a layer has no other
/// beside it, the manifest is all of it.
pub fn alike(a: &[Named], b: &[Named]) -> bool {
    let lone = |a: &[Named], b: &[Named]| {
        a.len() <= 1 && b.len() <= 1 && a.first().zip(b.first()).is_none_or(|(a, b)| a.name == b.name)
    };
    a == b || lone(a, b)
}

/// The layers of a generation; `None` for one that was stored before there were any.
///
/// # Errors
/// When the list cannot be read, or is damaged.
pub fn of_generation(store: &Path, generation: u64) -> Result<Option<Vec<Named>>, StoreError> {
    let path = store.join("generations").join(generation.to_string()).join(LIST);
    match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        text => decode(&at("read", &path, text)?).map(Some).ok_or(StoreError::Layers { generation }),
    }
}

/// The bytes of a layer.
///
/// # Errors
/// When they cannot be read, or are not what their name says.
pub fn bytes(store: &Path, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    let path = store.join(DIRECTORY).join(hex(digest));
    let bytes = at("read", &path, fs::read(&path))?;
    if Digest::from(Sha256::digest(&bytes)) == *digest {
        Ok(bytes)
    } else {
        Err(StoreError::Damaged { path })
    }
}

/// A layer with all that it is made of.
///
/// # Errors
/// When a piece of it cannot be read or is damaged.
pub fn kept(store: &Path, digest: &Digest) -> Result<Kept, StoreError> {
    assembled(digest, DEEPEST, &mut |digest| bytes(store, digest))
}

fn assembled(
    digest: &Digest,
    depth: usize,
    bytes: &mut dyn FnMut(&Digest) -> Result<Vec<u8>, StoreError>,
) -> Result<Kept, StoreError> {
    let damaged = || StoreError::Damaged { path: Path::new(DIRECTORY).join(hex(digest)) };
    let depth = depth.checked_sub(1).ok_or_else(damaged)?;
    Ok(match Stored::decode(&bytes(digest)?).ok_or_else(damaged)? {
        Stored::State(archive) => Kept::State(archive),
        Stored::Part { old, new, pick } => Kept::Part {
            old: old.map(|old| assembled(&old, depth, bytes).map(Box::new)).transpose()?,
            new: Box::new(assembled(&new, depth, bytes)?),
            pick,
        },
    })
}

/// What a layer is made of beside itself: other layers' files.
pub fn pieces(stored: &Stored) -> Vec<Digest> {
    match stored {
        Stored::State(_) => Vec::new(),
        Stored::Part { old, new, .. } => old.iter().chain([new]).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, n: u8) -> Named {
        Named { name: name.to_owned(), digest: [n; 32] }
    }

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let list = [named("main", 1), named("dropin:a", 2), named("local", 3)];
        let text = encode(&list);
        assert_eq!(decode(&text).as_deref(), Some(list.as_slice()));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
        for end in 0..text.len() - 1 {
            assert_eq!(decode(&text[..end]), None, "cut at {end}");
        }
        assert_eq!(decode(&text.replace("dropin:a", "dropin:b")), None);
        assert_eq!(decode(&encode(&[named("local", 1), named("main", 2)])), None, "out of order");
        assert_eq!(decode(&encode(&[named("main", 1), named("main", 2)])), None, "twice");
    }

    #[test]
    fn only_a_lone_layer_is_all_in_its_manifest() {
        let (one, other) = (vec![named("main", 1)], vec![named("main", 2)]);
        let both = vec![named("main", 1), named("local", 3)];
        assert!(alike(&one, &other) && alike(&both, &both) && alike(&one, &[]));
        assert!(!alike(&one, &both) && !alike(&one, &[named("local", 1)]));
        assert!(!alike(&both, &[named("main", 2), named("local", 3)]));
    }
}
