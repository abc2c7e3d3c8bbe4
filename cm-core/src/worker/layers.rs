//! Of which layers a compilation is made: the one that it is asked for, and those that a generation has beside it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use units::Manifest;
use units::kept::{Kept, Stored};
use units::layer::{self, MAIN};
use units::pick::Pick;

use crate::proto::LayerChange;
use crate::store::layers::{self, Named};
use crate::store::{Digest, StoreError};

/// What a compilation goes on top of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onto {
    /// The store.
    pub store: PathBuf,
    /// Where generation 0 lies: `manifest`, and its state in `layer`.
    pub boot: Option<PathBuf>,
    /// Which generation.
    pub generation: u64,
}

/// The layers that a generation has.
#[derive(Debug, Default)]
pub struct Base {
    /// Those that stay, with what they are compiled from.
    pub others: Vec<(Named, Kept)>,
    /// The one that is replaced.
    own: Option<Named>,
    /// Bytes of layers that the store does not have.
    outside: Vec<(Digest, Vec<u8>)>,
    /// The generation has units of which no state is kept; what takes their place as a whole may go on all the same.
    unknown: bool,
}

/// The file beside the manifest of generation 0 that holds the state which it was compiled from.
pub const BOOT_LAYER: &str = "layer";

/// Looks up what is beside the layer that is to change.
///
/// # Errors
/// Why that cannot be told, with the way out.
pub fn base(onto: &Onto, change: &LayerChange) -> Result<Base, String> {
    let mut base = Base::default();
    let list = if onto.generation == 0 {
        boot_layers(onto.boot.as_deref(), &mut base)?
    } else {
        layers::of_generation(&onto.store, onto.generation).map_err(|e| e.to_string())?
    };
    let Some(list) = list else {
        base.unknown = true;
        if change.name == MAIN && !change.remove {
            return Ok(base);
        }
        return Err(format!(
            "cannot change layer {} alone: of generation {} only the result is kept, not its state; apply its state \
             file once, then this",
            change.name, onto.generation
        ));
    };
    if change.remove && !list.iter().any(|l| l.name == change.name) {
        let names: Vec<&str> = list.iter().map(|l| l.name.as_str()).collect();
        let has = if names.is_empty() { "no layer".to_owned() } else { names.join(", ") };
        return Err(format!(
            "there is no layer {} to be removed: generation {} has {has}",
            change.name, onto.generation
        ));
    }
    for named in list {
        if named.name == change.name {
            base.own = Some(named);
            continue;
        }
        let kept = match base.outside.iter().find(|(digest, _)| *digest == named.digest) {
            Some((_, bytes)) => match Stored::decode(bytes) {
                Some(Stored::State(archive)) => Ok(Kept::State(archive)),
                _ => Err("it is damaged".to_owned()),
            },
            None => layers::kept(&onto.store, &named.digest).map_err(|e| e.to_string()),
        };
        let kept = kept.map_err(|e| {
            format!(
                "cannot read layer {} of generation {}: {e}; replace it by `initctl apply --layer {0} FILE`, or take it \
                 away by `--remove`",
                named.name, onto.generation
            )
        })?;
        base.others.push((named, kept));
    }
    Ok(base)
}

/// The layers of generation 0: what an image was made from.
fn boot_layers(boot: Option<&Path>, base: &mut Base) -> Result<Option<Vec<Named>>, String> {
    let Some(boot) = boot else { return Ok(Some(Vec::new())) };
    let read = |name: &str| match fs::read(boot.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("cannot read {}: {e}", boot.join(name).display())),
    };
    if let Some(bytes) = read(BOOT_LAYER)? {
        let digest: Digest = Sha256::digest(&bytes).into();
        base.outside.push((digest, bytes));
        return Ok(Some(vec![Named { name: MAIN.to_owned(), digest }]));
    }
    let units = read("manifest")?.and_then(|bytes| Manifest::from_vec(bytes).ok()).map_or(0, |m| m.len());
    Ok((units == 0).then(Vec::new))
}

impl Base {
    /// The layers that the new generation has, and the bytes of those that may not be in the store; `None` where its
    /// state is not known. `fresh` is what was compiled for the layer, and nothing where that goes.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn with(
        &self,
        change: &LayerChange,
        fresh: &[u8],
        pick: Option<&Pick>,
    ) -> Result<Option<Listed>, String> {
        if self.unknown && pick.is_some() {
            return Ok(None);
        }
        let mut bytes = self.outside.clone();
        let mut list: Vec<Named> = self.others.iter().map(|(named, _)| named.clone()).collect();
        let mut add = |held: Vec<u8>| {
            let digest: Digest = Sha256::digest(&held).into();
            bytes.push((digest, held));
            digest
        };
        if !change.remove {
            let mut digest = add(fresh.to_vec());
            if let Some(pick) = pick {
                let part = Stored::Part {
                    old: self.own.as_ref().map(|o| o.digest),
                    new: digest,
                    pick: pick.clone(),
                };
                digest = add(part.encode().map_err(|e| e.to_string())?);
            }
            list.push(Named { name: change.name.clone(), digest });
        }
        list.sort_by(|a, b| layer::order(&a.name, &b.name));
        Ok(Some(Listed { list, bytes }))
    }
}

/// The layers of a generation that is to be made.
#[derive(Debug)]
pub struct Listed {
    /// All of them, from the bottom to the top.
    pub list: Vec<Named>,
    /// Those that may not be in the store.
    bytes: Vec<(Digest, Vec<u8>)>,
}

impl Listed {
    /// Puts them beside the staged contents, for who makes the generation.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn stage(&self, store: &Path, staging: &Path) -> Result<(), StoreError> {
        for (digest, bytes) in &self.bytes {
            // Most applies change one of many, and some none.
            if layers::bytes(store, digest).is_err() {
                put(&staging.join(layers::staged_name(digest)), bytes)?;
            }
        }
        put(&staging.join(layers::LIST), layers::encode(&self.list).as_bytes())
    }
}

/// A new file: what lies there under its name was not written by us.
fn put(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let _ = fs::remove_file(path);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| file.write_all(bytes)).map_err(|source| StoreError::File {
        verb: "stage",
        path: path.to_owned(),
        source,
    })
}
