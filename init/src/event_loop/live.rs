//! The live table: what a new PID 1 needs to go on where the old one stopped, in a memfd, always.
//!
//! It is a journal, not an array of slots: a record is a key and bytes with a checksum, the last record of a key
//! counts, and a torn one (the process died in the middle of writing it) ends the reading, so that the record
//! before it stands. Fixed slots would cost every file of a large machine the room of its longest message. When
//! most of the journal is history, everything is written once more behind it, one eight-byte write moves the
//! start, and the room before is given back to the kernel. What is written so is one record of all (`packed.rs`): units at
//! rest differ in few bytes.
//!
//! Events that wait for the engine are records like all others; which one is in hand is a word in the first page,
//! which is set without a system call.
//!
//! **Invariant:** after [`Live::flush`] the memfd alone is enough; nothing has to run for it when PID 1 crashes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::FallocateFlags;
use nix::sys::memfd::MFdFlags;

use super::packed;
use crate::sys::word::Word;

/// First bytes of every live table.
const MAGIC: u64 = u64::from_le_bytes(*b"HF-live\n");
/// Version of the records. Version 1, which had no events in it, was never released. A class that is added makes no other
/// version: who does not know it leaves it out, and who misses it goes on without. A record that changes does.
pub const VERSION: u32 = 3;
/// The version before, which had every record by itself.
const UNPACKED: u32 = 2;
/// The word of the header in which the number of the event in hand stands.
const IN_HAND: usize = 3;
/// Bytes before the first record.
const HEADER: u64 = 4096;
/// Bytes of a record before its content.
const RECORD: usize = 24;
/// Room for what is remembered that is kept.
const ROOM: usize = 16 << 10;
/// A journal below this size is not worth rewriting.
const SMALL: u64 = 256 << 10;
/// As much of it is history at rest.
const WORN: u64 = 16 << 10;

/// In place of a class: all that there was to know at a time, see [`packed`].
const PACKED: u8 = 255;

/// What a record is about. The numbers are written and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// The engine itself: what it knows beside its units.
    Engine = 1,
    /// A unit's state, by the hash of its address.
    Unit = 2,
    /// A spawn: pid, descriptors, cgroup; by its serial.
    Spawn = 3,
    /// A manifest's descriptor, by its number.
    Manifest = 4,
    /// The shell: descriptors and counters.
    Shell = 5,
    /// A log pipe, by its stream number.
    Log = 6,
    /// What is watched, as one record; only when a re-exec was asked for.
    Watch = 7,
    /// An event that is not done, by its number.
    Event = 8,
    /// What a service has said of itself, by the number of its unit.
    Said = 9,
    /// Where a mount stands that is not listed under its declared path, by the number of its unit.
    Place = 10,
}

impl Class {
    pub(super) fn from_number(number: u8) -> Option<Class> {
        Some(match number {
            1 => Class::Engine,
            2 => Class::Unit,
            3 => Class::Spawn,
            4 => Class::Manifest,
            5 => Class::Shell,
            6 => Class::Log,
            7 => Class::Watch,
            8 => Class::Event,
            9 => Class::Said,
            10 => Class::Place,
            _ => return None,
        })
    }
}

/// Names a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is about.
    pub class: Class,
    /// Which of these.
    pub id: u64,
}

impl Key {
    /// A key.
    pub const fn new(class: Class, id: u64) -> Key {
        Key { class, id }
    }
}

/// Why a descriptor is no live table.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The kernel refused.
    #[error("cannot read the live table: {0}")]
    Io(#[from] io::Error),
    /// Something else is in it.
    #[error("cannot read the live table: it is none")]
    Magic,
    /// Written by a program that is too new or too old.
    #[error("cannot read the live table: it has version {0}, this program reads {VERSION}")]
    Version(u32),
}

/// The live table, open for writing.
#[derive(Debug)]
pub struct Live {
    file: File,
    /// Where the records start.
    base: u64,
    /// Where the next one goes.
    end: u64,
    /// Bytes right after the last rewriting.
    settled: u64,
    pending: Vec<u8>,
    in_hand: Word,
}

fn checksum(parts: &[&[u8]]) -> u32 {
    // FNV-1a: it has to find a torn write, not an attacker.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // Two plain loops: optimized for size, an iterator over all parts takes three times as long.
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
}

fn encode(out: &mut Vec<u8>, key: Key, content: Option<&[u8]>) {
    frame(out, key.class as u8, key.id, content);
}

fn frame(out: &mut Vec<u8>, class: u8, id: u64, content: Option<&[u8]>) {
    let bytes = content.unwrap_or_default();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [a, b, c, d, e, f, g, h] = id.to_le_bytes();
    let present = u8::from(content.is_some());
    let head: [u8; RECORD - 8] = [class, present, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h];
    out.reserve(RECORD + bytes.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(&[&length.to_le_bytes(), &head, bytes]).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
}

/// What is in a record.
enum Found {
    One(Key),
    Packed,
    /// Of a class that this program does not know.
    Unknown,
}

/// A record, whether it counts, its content and length.
fn decode(bytes: &[u8]) -> Option<(Found, bool, &[u8], usize)> {
    let length = bytes.get(..4)?;
    let sum = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let head = bytes.get(8..RECORD)?;
    let end = RECORD.checked_add(usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?)?;
    let content = bytes.get(RECORD..end)?;
    if checksum(&[length, head, content]) != sum {
        return None;
    }
    let id = u64::from_le_bytes(head.get(8..16)?.try_into().ok()?);
    let found = match *head.first()? {
        PACKED => Found::Packed,
        number => Class::from_number(number).map_or(Found::Unknown, |class| Found::One(Key { class, id })),
    };
    Some((found, *head.get(1)? == 1, content, end))
}

impl Live {
    /// An empty table. Its descriptor stays open across execve(2).
    ///
    /// # Errors
    /// What memfd_create(2) or write(2) said.
    pub fn create() -> io::Result<Live> {
        let fd = nix::sys::memfd::memfd_create(c"holdfast-live", MFdFlags::empty())?;
        let file = File::from(fd);
        let in_hand = Word::map(&file, IN_HAND)?;
        let live = Live { file, base: HEADER, end: HEADER, settled: 0, pending: Vec::new(), in_hand };
        live.file.write_all_at(&MAGIC.to_le_bytes(), 0)?;
        live.file.write_all_at(&VERSION.to_le_bytes(), 8)?;
        live.file.write_all_at(&HEADER.to_le_bytes(), 16)?;
        Ok(live)
    }

    /// Reads a table that an earlier PID 1 left: the last content of each key.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn adopt(fd: OwnedFd) -> Result<(Live, BTreeMap<Key, Vec<u8>>), LiveError> {
        let file = File::from(fd);
        let mut head = [0; 24];
        file.read_exact_at(&mut head, 0).map_err(|_| LiveError::Magic)?;
        let word = |at: usize| -> u64 {
            head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).unwrap_or_default()
        };
        if word(0) != MAGIC {
            return Err(LiveError::Magic);
        }
        let version = u32::try_from(word(8) & 0xffff_ffff).unwrap_or_default();
        if ![VERSION, UNPACKED].contains(&version) {
            return Err(LiveError::Version(version));
        }
        let base = word(16);
        let size = file.metadata()?.len();
        // Written there, the next record would overwrite the header, or lie behind a hole that ends the reading.
        if base < HEADER || base > size {
            return Err(LiveError::Magic);
        }
        let length = usize::try_from(size - base).map_err(|_| LiveError::Magic)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, base)?;
        let mut records = BTreeMap::new();
        let mut at = 0;
        while let Some((found, present, content, end)) = bytes.get(at..).and_then(decode) {
            match found {
                Found::One(key) if present => drop(records.insert(key, content.to_vec())),
                Found::One(key) => drop(records.remove(&key)),
                Found::Packed => packed::read(content, &mut records),
                Found::Unknown => {}
            }
            at += end;
        }
        let end = base + u64::try_from(at).unwrap_or_default();
        // A whole record behind the one that ended the reading would count again as soon as what is written next
        // happens to reach it.
        file.set_len(end)?;
        // From here on something may be written that the program before would not find.
        file.write_all_at(&VERSION.to_le_bytes(), 8)?;
        let in_hand = Word::map(&file, IN_HAND)?;
        Ok((Live { file, base, end, settled: 0, pending: Vec::new(), in_hand }, records))
    }

    /// Notes which event is in hand, for who has to know what the process died of; 0 is none. No system call.
    pub fn set_in_hand(&self, number: u64) {
        self.in_hand.set(number);
    }

    /// The number that was noted last.
    pub fn in_hand(&self) -> u64 {
        self.in_hand.get()
    }

    /// The descriptor, for the next PID 1.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Remembers a record; [`Live::flush`] writes it.
    pub fn put(&mut self, key: Key, content: &[u8]) {
        encode(&mut self.pending, key, Some(content));
    }

    /// Remembers that a record counts no more.
    pub fn remove(&mut self, key: Key) {
        encode(&mut self.pending, key, None);
    }

    /// Writes what was remembered, in one piece.
    ///
    /// # Errors
    /// What write(2) said (no memory); everything is still remembered then.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_all_at(&self.pending, self.end)?;
            self.end += u64::try_from(self.pending.len()).unwrap_or_default();
            self.pending.clear();
            // What a large apply needed once is not kept for ever.
            self.pending.shrink_to(ROOM);
        }
        Ok(())
    }

    /// Gives back the room of what is written.
    pub fn rest(&mut self) {
        self.pending.shrink_to_fit();
    }

    /// Whether there is history that is worth a rewriting while nothing else is to be done.
    pub fn is_worn(&self) -> bool {
        self.end - self.base > WORN + self.settled + self.settled / 4
    }

    /// Whether most of the journal is history.
    pub fn is_stale(&self) -> bool {
        self.end - self.base > SMALL + 2 * self.settled
    }

    /// Starts the journal anew with these records, which must be all there is to know.
    ///
    /// # Errors
    /// What write(2) said; the journal stands as it was then.
    pub fn rewrite(&mut self, records: impl Iterator<Item = (Key, Vec<u8>)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame(&mut bytes, PACKED, 0, Some(&packed::write(records)));
        let base = self.end;
        let length = u64::try_from(bytes.len()).unwrap_or_default();
        self.file.write_all_at(&bytes, base)?;
        // ORDER: the start moves last: until then the old journal counts.
        self.file.write_all_at(&base.to_le_bytes(), 16)?;
        self.pending = Vec::new();
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (from, to) = (self.base.max(HEADER), base);
        if let (Ok(offset), Ok(len)) = (i64::try_from(from), i64::try_from(to - from))
            && len > 0
        {
            // Only room is lost when the kernel refuses.
            let _ = nix::fcntl::fallocate(&self.file, punch, offset, len);
        }
        (self.base, self.end, self.settled) = (base, base + length, length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(live: &Live) -> BTreeMap<Key, Vec<u8>> {
        let fd = live.file.try_clone().unwrap();
        Live::adopt(fd.into()).unwrap().1
    }

    #[test]
    fn the_last_record_counts_and_a_torn_one_ends_the_reading() {
        let mut live = Live::create().unwrap();
        let key = |id| Key::new(Class::Unit, id);
        live.put(key(1), b"one");
        live.put(key(2), b"two");
        live.put(key(1), b"three");
        live.remove(key(2));
        live.flush().unwrap();
        assert_eq!(again(&live), BTreeMap::from([(key(1), b"three".to_vec())]));
        live.put(key(1), b"torn in the middle");
        let keep = live.pending.len() - 4;
        live.pending.truncate(keep);
        live.flush().unwrap();
        assert_eq!(again(&live), BTreeMap::from([(key(1), b"three".to_vec())]));
    }

    #[test]
    fn what_is_packed_is_followed_by_what_changes() {
        let mut live = Live::create().unwrap();
        let key = |id| Key::new(Class::Unit, id);
        live.put(key(9), b"history");
        live.flush().unwrap();
        live.rewrite((0..5).map(|id| (key(id), format!("unit {id}").into_bytes()))).unwrap();
        live.put(key(1), b"another");
        live.remove(key(2));
        live.flush().unwrap();
        let found: Vec<_> =
            again(&live).into_iter().map(|(k, b)| (k.id, String::from_utf8(b).unwrap())).collect();
        let text = |(id, text): (u64, &str)| (id, text.to_owned());
        assert_eq!(found, [(0, "unit 0"), (1, "another"), (3, "unit 3"), (4, "unit 4")].map(text));
    }

    #[test]
    fn units_at_rest_take_few_bytes() {
        let mut live = Live::create().unwrap();
        let record = |id: u64| {
            let [a, b, ..] = id.to_le_bytes();
            (
                Key::new(Class::Unit, id),
                vec![1, a, b | 0x80, 1, a, b, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
        };
        live.rewrite((0..10_000).map(record)).unwrap();
        assert!(live.settled <= 6 * 10_000, "{}", live.settled);
        assert_eq!(again(&live), (0..10_000).map(record).collect());
        assert!(!live.is_worn());
    }

    #[test]
    fn what_lies_behind_a_damaged_record_never_counts_again() {
        let mut live = Live::create().unwrap();
        let key = |id| Key::new(Class::Unit, id);
        live.put(key(1), b"one");
        live.flush().unwrap();
        let damaged = live.end;
        live.put(key(2), b"two");
        live.flush().unwrap();
        live.put(key(1), b"of no time");
        live.flush().unwrap();
        live.file.write_all_at(&[0xff; 4], damaged).unwrap();
        let (mut live, found) = Live::adopt(live.file.try_clone().unwrap().into()).unwrap();
        assert_eq!(found, BTreeMap::from([(key(1), b"one".to_vec())]));
        live.put(key(3), b"two");
        live.flush().unwrap();
        assert_eq!(again(&live), BTreeMap::from([(key(1), b"one".to_vec()), (key(3), b"two".to_vec())]));
    }

    #[test]
    fn a_table_that_begins_nowhere_is_none() {
        for base in [0, 8, HEADER - 1, HEADER + 1, u64::MAX] {
            let live = Live::create().unwrap();
            live.file.write_all_at(&base.to_le_bytes(), 16).unwrap();
            assert!(Live::adopt(live.file.into()).is_err(), "one that begins at {base}");
        }
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut live = Live::create().unwrap();
        let key = Key::new(Class::Spawn, 7);
        let content = [5; 1000];
        for _ in 0..2000 {
            live.put(key, &content);
            live.flush().unwrap();
            if live.is_stale() {
                live.rewrite([(key, content.to_vec())].into_iter()).unwrap();
            }
        }
        assert_eq!(again(&live), BTreeMap::from([(key, content.to_vec())]));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&live.file.metadata().unwrap());
        assert!(blocks * 512 < 2 * SMALL, "{blocks}");
    }

    #[test]
    fn a_large_record_and_what_is_behind_an_unknown_one_are_there() {
        let mut live = Live::create().unwrap();
        let (large, small) = (Key::new(Class::Event, 1), Key::new(Class::Event, 2));
        live.put(large, &vec![7; 5 << 20]);
        encode(&mut live.pending, small, Some(b"of a later program"));
        let at = live.pending.len() - b"of a later program".len() - 16;
        live.pending[at] = 200;
        let (head, content) = live.pending.split_at(at + 16);
        let sum = checksum(&[&head[head.len() - 24..head.len() - 20], &head[head.len() - 16..], content]);
        live.pending[at - 4..at].copy_from_slice(&sum.to_le_bytes());
        live.put(small, b"small");
        live.set_in_hand(9);
        live.flush().unwrap();
        assert_eq!(again(&live), BTreeMap::from([(large, vec![7; 5 << 20]), (small, b"small".to_vec())]));
        assert_eq!(Live::adopt(live.file.try_clone().unwrap().into()).unwrap().0.in_hand(), 9);
    }

    #[test]
    fn something_else_is_refused() {
        let fd = nix::sys::memfd::memfd_create(c"x", MFdFlags::empty()).unwrap();
        assert!(matches!(Live::adopt(fd), Err(LiveError::Magic)));
    }
}
