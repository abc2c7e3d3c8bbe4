//! The store of generations: what was declared, what was there before, who made what.
//!
//! ```text
//! /var/lib/holdfast/
//!   generations/N/manifest   the compiled manifest
//!   generations/N/meta       who asked for it and when, for people
//!   generations/N/layers     its layers, from the bottom to the top; see `layers`
//!   layers/<sha-256>         what a layer was compiled from, once for all generations that have it
//!   blobs/aa/<sha-256>       contents: of manifests' files, of earlier versions, of somebody else's
//!   packs/N                  the same, small ones, many to a file; see `disk::packed`
//!   journal                  one checksummed record a fact; see `journal` and `record`
//!   staging/                 files on their way; nothing in it survives an open
//!   lock                     held by the worker that writes
//! ```
//!
//! `record`, `journal` and `index` are pure; only `disk` reads and writes.

pub mod disk;
pub mod index;
pub mod journal;
pub mod layers;
pub mod pack;
pub mod place;
pub mod progress;
pub mod quick;
pub mod record;

pub use disk::{Store, StoreError};
pub use index::Index;
pub use progress::Progress;
pub use record::{Digest, Metadata, Own, Prior, Record};

/// A digest as it is written in file names.
pub fn hex(digest: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// The digest that a file name stands for.
pub fn unhex(text: &str) -> Option<Digest> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}
