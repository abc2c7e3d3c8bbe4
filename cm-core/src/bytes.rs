//! Text that stands for bytes. Names of files and entries of user databases are UTF-8 by custom only.
//!
//! A byte that is none stands in our texts as a character of the last 128, which nobody has a use for; one of these that is
//! there itself stands there as its bytes do. So everything can be named as it is, also in a record of the journal.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The character that would stand for byte 0.
const BYTES: u32 = 0x10_ff00;
/// The first that stands for one: bytes below are characters themselves.
const FIRST: u32 = BYTES + 0x80;
/// With this byte every one of those begins.
const LEAD: u8 = 0xf4;

/// The text that stands for these bytes.
pub fn text_of(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let escape = |out: &mut String, bytes: &[u8]| {
        out.extend(bytes.iter().filter_map(|b| char::from_u32(BYTES + u32::from(*b))));
    };
    for chunk in bytes.utf8_chunks() {
        if chunk.valid().as_bytes().contains(&LEAD) {
            for c in chunk.valid().chars() {
                if u32::from(c) < FIRST {
                    out.push(c);
                } else {
                    escape(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        } else {
            out.push_str(chunk.valid());
        }
        escape(&mut out, chunk.invalid());
    }
    out
}

fn byte_of(c: char) -> Option<u8> {
    let value = u32::from(c);
    (value >= FIRST).then(|| u8::try_from(value - BYTES).ok()).flatten()
}

/// The bytes that a text stands for.
pub fn bytes_of(text: &str) -> Cow<'_, [u8]> {
    if !text.as_bytes().contains(&LEAD) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

/// The name that a text stands for, for a system call.
pub fn name_of(text: &str) -> Cow<'_, OsStr> {
    match bytes_of(text) {
        Cow::Borrowed(bytes) => Cow::Borrowed(OsStr::from_bytes(bytes)),
        Cow::Owned(bytes) => Cow::Owned(OsString::from_vec(bytes)),
    }
}

/// A text as people see it: `\\xNN` for a byte that is no part of UTF-8.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push_str(&format!("\\x{byte:02x}")),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_text_already_stays() {
        assert!(matches!(bytes_of("/srv/é/x"), Cow::Borrowed(_)));
        assert_eq!(text_of("/srv/é/x".as_bytes()), "/srv/é/x");
        assert_eq!(shown(&text_of(b"x\xe9y")), "x\\xe9y");
        // No text can stand for a name with a slash in it.
        assert_eq!(name_of("\u{10ff2f}").as_bytes(), "\u{10ff2f}".as_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_survive(parts in proptest::collection::vec(
            prop_oneof![
                "[a-z:#+\n]{1,9}|é|\u{10feff}|\u{10ff00}|\u{10ff7f}|\u{10ffe9}|\u{10ffff}"
                    .prop_map(String::into_bytes),
                any::<u8>().prop_map(|byte| vec![byte]),
            ],
            0..30,
        )) {
            let bytes = parts.concat();
            prop_assert_eq!(bytes_of(&text_of(&bytes)).into_owned(), bytes);
        }
    }
}
