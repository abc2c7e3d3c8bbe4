//! `History` and `Content`: versions that were on the machine and were replaced, and what they held.

use std::io::Read;

use super::answer::{Asked, Replies, Stop, confine};
use super::generations::SECOND;
use super::machine::Machine;
use super::shape::{Content, History, MaybeUnit, OneContent, Version};
use super::wire::Fault;
use crate::store::{Index, Prior, hex, unhex};

/// Versions in one reply.
const PAGE: usize = 200;
/// Bytes of a content in one reply.
const CHUNK: usize = 96 << 10;

/// Digest and size of what can be shown of a version.
fn content_of(prior: &Prior) -> Option<(String, u64)> {
    match prior {
        Prior::File { digest, size, .. } | Prior::Linked { digest, size, .. } => Some((hex(digest), *size)),
        Prior::Symlink { target, .. } => Some((String::new(), target.len() as u64)),
        Prior::Text(text) => Some((String::new(), text.len() as u64)),
        _ => None,
    }
}

/// Every saved version of a unit, or of all, newest first.
fn versions(index: &Index, unit: Option<&str>) -> Vec<Version> {
    let wanted = |of: &str| unit.is_none_or(|u| u == of);
    let mut out = Vec::new();
    for (thing, list) in &index.history {
        // The last version of what nobody owns any more was saved when it was taken away.
        let purged = !index.own.contains_key(thing);
        for (n, version) in list.iter().enumerate().filter(|(_, v)| wanted(&v.unit)) {
            let Some((digest, size)) = content_of(&version.prior) else { continue };
            let why = if purged && n.saturating_add(1) == list.len() { "purge" } else { "repair" };
            let time = version.when.saturating_mul(SECOND);
            out.push(Version { unit: version.unit.clone(), time, digest, size, why });
        }
    }
    for (of, list) in index.undo.iter().filter(|(of, _)| wanted(of)) {
        for undo in list {
            let Some((digest, size)) = content_of(&undo.prior) else { continue };
            // An undo record has no time of its own: it is as old as the generation that it belongs to.
            let made = index.stack.iter().chain(&index.open).find(|(_, t)| *t == undo.transition);
            let when = made.and_then(|(g, _)| index.generations.get(g)).map_or(0, |g| g.when);
            out.push(Version {
                unit: of.clone(),
                time: when.saturating_mul(SECOND),
                digest,
                size,
                why: "apply",
            });
        }
    }
    out.sort_by(|a, b| (b.time, &a.unit, &a.digest).cmp(&(a.time, &b.unit, &b.digest)));
    out
}

/// `History`.
///
/// # Errors
/// When the store cannot be read.
pub fn list(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let wanted: MaybeUnit = asked.call.parameters()?;
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let found = match machine.store() {
        Ok(store) => versions(store.index(), wanted.unit.as_deref()),
        Err(_) => Vec::new(),
    };
    let mut found = found.into_iter();
    loop {
        let versions: Vec<Version> = found.by_ref().take(PAGE).collect();
        let last = versions.len() < PAGE;
        replies.send(&History { versions })?;
        if last {
            return Ok(());
        }
    }
}

/// `Content`.
///
/// # Errors
/// When the unit has no such version, or its declaration says that it is secret.
pub fn content(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let wanted: OneContent = asked.call.parameters()?;
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let store = machine.store()?;
    let known = versions(store.index(), Some(&wanted.unit)).iter().any(|v| v.digest == wanted.digest);
    let Some(digest) = unhex(&wanted.digest).filter(|_| known) else {
        return Err(Fault::invalid("digest", &format!("{} has no such version", wanted.unit)).into());
    };
    let Some(mut file) = store.content(&digest) else {
        return Err(Fault::Unavailable(format!("content {} is missing from the store", wanted.digest)).into());
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut filled = 0usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
            match file.read(rest).map_err(|e| Fault::Failed(format!("cannot read the content: {e}")))? {
                0 => break,
                count => filled = filled.saturating_add(count),
            }
        }
        replies.send(&Content { data: base64(buffer.get(..filled).unwrap_or_default()) })?;
        if filled < CHUNK {
            return Ok(());
        }
    }
}

/// RFC 4648 with padding. [`CHUNK`] is a multiple of three, so pieces can be joined.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or_default());
        let group = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let index = usize::try_from((group >> shift) & 63).unwrap_or_default();
            let letter = LETTERS.get(index).filter(|_| i <= chunk.len()).copied().unwrap_or(b'=');
            out.push(char::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(CHUNK % 3, 0);
    }
}
