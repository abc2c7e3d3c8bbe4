//! `History` and `Content`: versions that were on the machine and were replaced, and what they held.

use std::collections::BTreeSet;
use std::io::Read;

use units::manifest::flags;
use units::{Address, Manifest};

use super::adopt;
use super::answer::{Asked, Replies, Stop, confine};
use super::generations::SECOND;
use super::machine::Machine;
use super::shape::{Content, History, MaybeUnit, OneContent, Version};
use super::wire::{self, Fault};
use crate::store::record::Why;
use crate::store::{Index, Metadata, Prior, Store, hex};
use crate::varlink;

/// Versions in one reply.
const PAGE: usize = 200;
/// Bytes of a content in one reply.
const CHUNK: usize = 96 << 10;

/// What a version was, in words, and the bytes that are its content where these lie in the record itself.
fn described(prior: &Prior) -> (String, Option<Vec<u8>>) {
    let attributes = |m: &Metadata| format!("mode {:04o}, owner {}:{}", m.mode & 0o7777, m.uid, m.gid);
    match prior {
        Prior::Absent => ("nothing".to_owned(), None),
        Prior::File { metadata, .. } | Prior::Linked { metadata, .. } => {
            (format!("file, {}", attributes(metadata)), None)
        }
        Prior::Attributes(metadata) => (attributes(metadata), None),
        Prior::Directory(metadata) => (format!("directory, {}", attributes(metadata)), None),
        Prior::Symlink { target, .. } => {
            (format!("link to {}", String::from_utf8_lossy(target)), Some(target.clone()))
        }
        Prior::Text(text) => (format!("value {text}"), Some(text.clone().into_bytes())),
        // Lines of shadow are among them: never more than the names.
        Prior::Entries(entries) => {
            let mut files: Vec<&str> = entries.iter().map(|(file, _)| file.as_str()).collect();
            files.sort_unstable();
            files.dedup();
            let files = files.join(", ");
            (if files.is_empty() { "no entry".to_owned() } else { format!("entries of {files}") }, None)
        }
        Prior::Edit(edit) => {
            let count = edit.removed.len();
            (format!("{count} other line{}", if count == 1 { "" } else { "s" }), None)
        }
        Prior::Untouched => ("the same".to_owned(), None),
        Prior::Special => ("a device, socket or pipe".to_owned(), None),
        Prior::Large { size, metadata } => {
            (format!("file of {size} bytes, too large to be kept, {}", attributes(metadata)), None)
        }
    }
}

/// A version as it is told; nothing of its content where the unit is secret.
fn version(unit: &str, when: u64, why: &'static str, prior: &Prior, secret: bool) -> Version {
    let (was, bytes) = described(prior);
    let (digest, size) = match (prior, &bytes) {
        (Prior::File { digest, size, .. } | Prior::Linked { digest, size, .. }, _) => (hex(digest), *size),
        (_, Some(bytes)) => (hex(&units::load::content_of(bytes).digest), bytes.len() as u64),
        _ => (String::new(), 0),
    };
    let mut version = Version {
        unit: unit.to_owned(),
        thing: None,
        time: when.saturating_mul(SECOND),
        digest,
        size,
        why: why.into(),
        generation: None,
        was,
        secret,
    };
    if secret {
        // What is short can be guessed from its digest.
        version.digest = String::new();
        version.size = 0;
        version.was = "secret: not shown".to_owned();
    }
    version
}

/// What a version is told to be of, where it is not the path that the unit is named after.
fn other_thing(unit: &str, thing: &str) -> Option<String> {
    let own = unit.split_once(':').is_none_or(|(_, name)| name == thing);
    (!own && thing.starts_with('/')).then(|| thing.to_owned())
}

/// Every saved version of a unit, or of all, newest first.
fn versions(index: &Index, unit: Option<&str>, secrets: &BTreeSet<String>) -> Vec<(Version, Prior)> {
    let wanted = |of: &str| unit.is_none_or(|u| u == of);
    let mut out = Vec::new();
    for (thing, list) in &index.history {
        for saved in list.iter().filter(|v| wanted(&v.unit)) {
            let why = match saved.why {
                Why::Repair => "repair",
                Why::Apply => "apply",
                Why::Purge => "purge",
                Why::Return => "return",
            };
            let told = version(&saved.unit, saved.when, why, &saved.prior, secrets.contains(&saved.unit));
            let generation = (saved.generation != 0).then_some(saved.generation);
            let thing = other_thing(&saved.unit, thing);
            let order = (saved.when, saved.order);
            out.push((order, Version { generation, thing, ..told }, saved.prior.clone()));
        }
    }
    out.sort_by_key(|(order, ..)| std::cmp::Reverse(*order));
    out.into_iter().map(|(_, version, prior)| (version, prior)).collect()
}

/// Units that are secret, now or in a generation that is kept: what they held stays so.
fn secrets(machine: &Machine, store: &Store) -> Result<BTreeSet<String>, Fault> {
    let mut out = BTreeSet::new();
    for generation in store.index().generations.keys() {
        let manifest = machine.generation(*generation)?;
        let secret = manifest.ids().filter(|id| manifest.flags(*id) & flags::SECRET != 0);
        out.extend(secret.map(|id| manifest.address(id).to_string()));
    }
    Ok(out)
}

/// Nothing was ever replaced of a unit: it is declared, or somebody has mistyped it.
fn is_known(machine: &Machine, unit: &str) -> Result<(), Fault> {
    let unknown = |nearest| Err(Fault::NoSuchUnit { unit: unit.to_owned(), nearest });
    let Some(address) = Address::parse(unit) else { return unknown(None) };
    let has = |m: &Manifest| m.find(address.kind, &address.name).is_some();
    let (_, current) = machine.current()?;
    let kept = machine.store().map(|s| s.index().generations.keys().copied().collect()).unwrap_or_default();
    let kept: Vec<u64> = kept;
    let known = has(&current) || kept.into_iter().rev().any(|g| machine.generation(g).is_ok_and(|m| has(&m)));
    if known { Ok(()) } else { unknown(adopt::nearest(&current, &address)) }
}

/// `History`.
///
/// # Errors
/// When the store cannot be read.
pub fn list(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let wanted: MaybeUnit = wire::parameters(asked.call)?;
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let found = match machine.store() {
        Ok(store) => versions(store.index(), wanted.unit.as_deref(), &secrets(&machine, store)?),
        Err(_) => Vec::new(),
    };
    if let (Some(unit), true) = (&wanted.unit, found.is_empty()) {
        is_known(&machine, unit)?;
    }
    let mut found = found.into_iter().map(|(version, _)| version);
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
    let wanted: OneContent = wire::parameters(asked.call)?;
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let store = machine.store()?;
    let all = versions(store.index(), Some(&wanted.unit), &secrets(&machine, store)?);
    if all.iter().any(|(v, _)| v.secret) {
        let text = format!("cannot show what {} held: it is secret", wanted.unit);
        return Err(Fault::Failed(text).into());
    }
    let known = all.into_iter().find(|(v, _)| !v.digest.is_empty() && v.digest == wanted.digest);
    let Some((_, prior)) = known else {
        return Err(Fault::invalid("digest", &format!("{} has no such version", wanted.unit)).into());
    };
    let digest = match prior {
        Prior::File { digest, .. } | Prior::Linked { digest, .. } => digest,
        other => {
            let bytes = described(&other).1.unwrap_or_default();
            return replies.send(&Content { data: varlink::base64(&bytes) });
        }
    };
    let Some(mut file) = store.content(&digest) else {
        let lack = store.lack(&digest).unwrap_or("is missing");
        return Err(Fault::Unavailable(format!("content {} {lack} in the store", wanted.digest)).into());
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
        replies.send(&Content { data: varlink::base64(buffer.get(..filled).unwrap_or_default()) })?;
        if filled < CHUNK {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_content_can_be_joined() {
        assert_eq!(CHUNK % 3, 0);
    }

    #[test]
    fn what_is_told_of_a_version_says_what_it_was_and_no_line_of_a_database() {
        let told = |prior: &Prior| {
            let v = version("user:x", 1, "apply", prior, false);
            format!("{} {} {}", v.was, v.size, v.digest.get(..8).unwrap_or_default())
        };
        let link = Prior::Symlink { target: b"/x".to_vec(), uid: 0, gid: 0, mtime: (0, 0) };
        let digest = hex(&units::load::content_of(b"/x").digest);
        assert_eq!(told(&link), format!("link to /x 2 {}", &digest[..8]));
        assert_eq!(told(&Prior::Absent), "nothing 0 ");
        let entries = Prior::Entries(vec![("shadow".into(), "x:$6$hash".into())]);
        assert_eq!(told(&entries), "entries of shadow 0 ");
        let hidden = version("sysctl:x", 1, "apply", &Prior::Text("7".into()), true);
        assert_eq!((hidden.was.as_str(), hidden.size, hidden.digest.as_str()), ("secret: not shown", 0, ""));
    }
}
