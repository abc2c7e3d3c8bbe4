//! All records of a live table as one, in the order in which they come: what is like the one before it says only where it
//! differs. A file that is as declared differs from the one before in two bytes or three.
//!
//! A record is a byte `n`. 0: its class, number and length follow, then its content. Otherwise it is of the class and the
//! length of the one before and has the next number, and `n - 1` places follow in which it is another: how many bytes lie
//! between this one and the place before, and the byte. Numbers are as in LEB128.

use std::collections::BTreeMap;

use super::live::{Class, Key};

/// Most places in which one differs that says only those.
const MOST: usize = 100;

fn put(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*byte)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(take(bytes)?).ok()
}

/// Whether it could be said by where it differs: then that is written.
fn differs(out: &mut Vec<u8>, before: &[u8], content: &[u8]) -> bool {
    let places = || before.iter().zip(content).enumerate().filter(|(_, (was, is))| was != is);
    let count = places().count();
    if before.len() != content.len() || count > MOST {
        return false;
    }
    out.push(u8::try_from(count + 1).unwrap_or_default());
    let mut from = 0;
    for (at, (_, is)) in places() {
        put(out, u64::try_from(at - from).unwrap_or_default());
        out.push(*is);
        from = at + 1;
    }
    true
}

/// Records as one.
pub(super) fn write(records: impl Iterator<Item = (Key, Vec<u8>)>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last: Option<(Key, Vec<u8>)> = None;
    for (key, content) in records {
        let like = last.as_ref().filter(|(k, _)| k.class == key.class && k.id.checked_add(1) == Some(key.id));
        if !like.is_some_and(|(_, before)| differs(&mut out, before, &content)) {
            out.extend([0, key.class as u8]);
            put(&mut out, key.id);
            put(&mut out, u64::try_from(content.len()).unwrap_or_default());
            out.extend_from_slice(&content);
        }
        last = Some((key, content));
    }
    out
}

/// The next one behind `last`. A class that this program does not know has no key, and nobody is like it.
fn next(bytes: &mut &[u8], last: Option<(u8, u64, Vec<u8>)>) -> Option<(u8, u64, Vec<u8>)> {
    let Some(count) = usize::from(take_byte(bytes)?).checked_sub(1) else {
        let (class, id) = (take_byte(bytes)?, take(bytes)?);
        let length = take_length(bytes)?;
        let (content, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        return Some((class, id, content.to_vec()));
    };
    let (class, id, mut content) = last?;
    let mut from = 0_usize;
    for _ in 0..count {
        let at = from.checked_add(take_length(bytes)?)?;
        *content.get_mut(at)? = take_byte(bytes)?;
        from = at + 1;
    }
    Some((class, id.checked_add(1)?, content))
}

/// What was written as one, into what was found before. What cannot be read ends it.
pub(super) fn read(mut bytes: &[u8], records: &mut BTreeMap<Key, Vec<u8>>) {
    let mut last = None;
    while let Some((class, id, content)) = next(&mut bytes, last.take()) {
        if let Some(class) = Class::from_number(class) {
            records.insert(Key::new(class, id), content.clone());
        }
        last = Some((class, id, content));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            items in proptest::collection::btree_map(
                (0u8..3, prop_oneof![0u64..40, any::<u64>()]),
                proptest::collection::vec(0u8..3, 0..6),
                0..60,
            ),
            long in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let class = [Class::Engine, Class::Unit, Class::Said];
            let key = |(c, id): &(u8, u64)| Key::new(class[usize::from(*c)], *id);
            let mut all: BTreeMap<Key, Vec<u8>> = items.iter().map(|(k, b)| (key(k), b.clone())).collect();
            all.insert(Key::new(Class::Unit, 7), long.clone());
            all.insert(Key::new(Class::Unit, 8), long.iter().map(|b| b ^ 1).collect());
            let mut found = BTreeMap::new();
            read(&write(all.clone().into_iter()), &mut found);
            prop_assert_eq!(found, all);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes, &mut BTreeMap::new());
        }
    }
}
