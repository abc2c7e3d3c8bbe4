//! The last line of what commands print, for the reason why one has failed: in memory that the log daemon writes and PID 1
//! reads without asking, and so without waiting for anybody.
//!
//! The daemon puts a line there before it takes it out of the pipe: what PID 1 finds neither here nor in the pipe was
//! never written.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Bytes of one stream: the length of its line, and the line.
const PLACE: u64 = 256;
/// Longest line that is told, in bytes; of a longer one its beginning is.
const LONGEST: usize = 240;

/// Whose lines are kept here: those of commands.
pub fn keeps(unit: &str) -> bool {
    unit.starts_with("exec:")
}

/// The memory.
#[derive(Debug)]
pub struct Words(File);

impl Words {
    /// New memory with nothing in it.
    ///
    /// # Errors
    /// What memfd_create(2) said.
    pub fn new() -> io::Result<Words> {
        Ok(Words(File::from(memfd_create(c"holdfast-words", MFdFlags::MFD_CLOEXEC)?)))
    }

    /// Memory that PID 1 made.
    pub fn given(fd: OwnedFd) -> Words {
        Words(File::from(fd))
    }

    /// A stream's last line.
    pub fn put(&self, stream: u32, line: &[u8]) {
        let line = line.get(..LONGEST).unwrap_or(line);
        let mut bytes = vec![u8::try_from(line.len()).unwrap_or_default()];
        bytes.extend_from_slice(line);
        // Without it the reason is shorter, and nothing else.
        let _told_less = self.0.write_all_at(&bytes, u64::from(stream) * PLACE);
    }

    /// The same, as it was put there; empty when there is none.
    pub fn get(&self, stream: u32) -> Vec<u8> {
        let mut bytes = [0; 256];
        let read = self.0.read_at(&mut bytes, u64::from(stream) * PLACE).unwrap_or_default();
        let length = bytes.first().copied().map_or(0, usize::from);
        bytes.get(1..read.min(length + 1)).unwrap_or_default().to_vec()
    }
}

impl AsFd for Words {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The last line with anything in it, which may have no end yet.
pub fn last_line(output: &[u8]) -> Option<&[u8]> {
    output.split(|b| *b == b'\n' || *b == b'\r').map(<[u8]>::trim_ascii).rfind(|line| !line.is_empty())
}

/// A line for people: characters that a terminal would obey are escaped.
pub fn shown(line: &[u8]) -> String {
    let whole = line.len() < LONGEST;
    let text = String::from_utf8_lossy(line.get(..LONGEST).unwrap_or(line));
    // A character that was cut in two says nothing.
    let text = if whole { &*text } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER) };
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() || is_format(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if !whole {
        out.push('…');
    }
    out
}

/// Characters without a shape that change the order in which others are shown.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_with_anything_in_it() {
        let last = |text: &str| last_line(text.as_bytes()).map(|l| String::from_utf8_lossy(l).into_owned());
        assert_eq!(last("one\ntwo\n\n  \n").as_deref(), Some("two"));
        assert_eq!(last("one\ntwo, unfinished ").as_deref(), Some("two, unfinished"));
        assert_eq!(last("10 %\r20 %\r").as_deref(), Some("20 %"));
        assert_eq!((last(""), last("\n \n")), (None, None));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(shown(b"disk \x1b[31mfull\x07"), "disk \\u{1b}[31mfull\\u{7}");
        assert_eq!(shown("a\u{202e}b\u{9b}c".as_bytes()), "a\\u{202e}b\\u{9b}c");
        assert_eq!(shown(b"\xff ok"), "\u{fffd} ok");
        let long = "é".repeat(300);
        let text = shown(long.as_bytes());
        assert!(text.ends_with("é…") && text.len() < LONGEST + 5, "{text}");
    }

    #[test]
    fn every_stream_has_its_own_line() {
        let words = Words::new().unwrap();
        words.put(7, b"seven");
        words.put(8, &[b'x'; 1000]);
        assert_eq!((words.get(7), words.get(8).len(), words.get(9).len()), (b"seven".to_vec(), LONGEST, 0));
        words.put(7, b"");
        assert_eq!((words.get(7).len(), words.get(8).len()), (0, LONGEST));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_shown_in_one_line(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let text = shown(&bytes);
            assert!(!text.chars().any(char::is_control));
            let _ = last_line(&bytes);
        }
    }
}
