//! The journal: append-only, one checksummed record a fact. Pure; the bytes are read and written in [`super::disk`].
//!
//! A file is [`MAGIC`], then frames: length (u32), checksum (u32), payload, all little endian. The checksum is
//! chained: it covers the checksum before it, so that neither a torn tail nor the rest of an older, longer
//! file can pass for a record. What follows the first frame that does not hold was never promised to anybody.
//!
//! Version history of the format: 1 — the first.

use super::index::Index;
use super::record::Record;

/// First bytes of every journal; the last of them is the version.
pub const MAGIC: &[u8; 8] = b"HFJRNL\n\x01";
/// Longest payload that is accepted.
const MAX_PAYLOAD: usize = 16 << 20;
/// Bytes before a payload.
const HEAD: usize = 8;

/// Tables of CRC-32C (Castagnoli): what a byte comes to when as many zeros follow as the table's number.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut i = 0usize;
    while i < 256 {
        #[allow(
            clippy::indexing_slicing,
            clippy::cast_possible_truncation,
            reason = "evaluated at compile time"
        )]
        {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            tables[0][i] = value;
        }
        i += 1;
    }
    let mut table = 1usize;
    while table < 8 {
        let mut i = 0usize;
        while i < 256 {
            #[allow(clippy::indexing_slicing, reason = "evaluated at compile time")]
            {
                let before = tables[table - 1][i];
                tables[table][i] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            }
            i += 1;
        }
        table += 1;
    }
    tables
};

/// CRC-32C (Castagnoli), continued from `seed`. Eight bytes at a time: a worker that starts reads the whole journal.
fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let [zero, one, two, three, four, five, six, seven] = &TABLES;
    let of = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or_default();
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut sum = !seed;
    for [a, b, c, d, e, f, g, h] in eights {
        let [i, j, k, l] = sum.to_le_bytes();
        sum = of(seven, a ^ i)
            ^ of(six, b ^ j)
            ^ of(five, c ^ k)
            ^ of(four, d ^ l)
            ^ of(three, *e)
            ^ of(two, *f)
            ^ of(one, *g)
            ^ of(zero, *h);
    }
    for byte in rest {
        let [low, ..] = sum.to_le_bytes();
        sum = (sum >> 8) ^ of(zero, low ^ byte);
    }
    !sum
}

/// Turns records into bytes that continue a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoder {
    chain: u32,
}

/// Why a record cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It is longer than a reader accepts.
    #[error("journal record is longer than {MAX_PAYLOAD} bytes")]
    TooLong,
}

impl Encoder {
    /// For a journal that has nothing yet but [`MAGIC`].
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// Appends one record to `out`.
    ///
    /// # Errors
    /// When the record is too long; nothing is appended then.
    pub fn encode(&mut self, record: &Record, out: &mut Vec<u8>) -> Result<(), JournalError> {
        let payload = postcard::to_allocvec(record).map_err(|_| JournalError::TooLong)?;
        let length = u32::try_from(payload.len()).map_err(|_| JournalError::TooLong)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(JournalError::TooLong);
        }
        let sum = checksum(checksum(self.chain, &length.to_le_bytes()), &payload);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&payload);
        self.chain = sum;
        Ok(())
    }
}

/// Why a journal can neither be continued nor cut off where it stops holding: something would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another version of the format wrote it.
    #[error(
        "its format is version {0}, this program knows version 1; start it with the program that wrote it"
    )]
    Version(u8),
    /// It does not begin like a journal.
    #[error("it does not begin like a journal; restore it, or move it away to begin without a history")]
    NoJournal,
    /// A record does not hold although it was durable when others were written behind it.
    #[error(
        "it is damaged at byte {at}, with records behind that; restore it, or forget those with \"truncate -s {at}\""
    )]
    Damaged {
        /// Where the damaged record begins.
        at: usize,
    },
}

/// What a journal's bytes hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// The records, in the order in which they were written, unless they were handed to somebody one by one.
    pub records: Vec<Record>,
    /// Length of the part that holds; what follows is to be cut off before anything is appended.
    pub valid_len: usize,
    /// Continues the journal after `valid_len`.
    pub encoder: Encoder,
}

/// Reads a journal up to the first frame that does not hold. Bytes that do not begin with [`MAGIC`] hold nothing.
pub fn replay(bytes: &[u8]) -> Replay {
    let mut records = Vec::new();
    let read = replay_into(bytes, &mut |record| records.push(record));
    Replay { records, ..read }
}

/// As [`replay`]; each record goes to `take`.
pub fn replay_into(bytes: &[u8], take: &mut dyn FnMut(Record)) -> Replay {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Replay::default();
    }
    let mut out = Replay { valid_len: MAGIC.len(), ..Replay::default() };
    replay_more(bytes, &mut out, take);
    out
}

/// Reads what was appended behind `so_far.valid_len`.
pub fn replay_more(bytes: &[u8], so_far: &mut Replay, take: &mut dyn FnMut(Record)) {
    while let Some((record, sum, end)) = frame(bytes, so_far.valid_len, so_far.encoder.chain) {
        take(record);
        so_far.valid_len = end;
        so_far.encoder.chain = sum;
    }
}

/// Tells what a crash leaves, which may be cut off, from what must not be touched. `replayed` is what was read from
/// `bytes`.
///
/// # Errors
/// When `bytes` are no journal of this version, or hold records behind the one that stopped the reading.
pub fn check(bytes: &[u8], replayed: &Replay) -> Result<(), Unreadable> {
    if replayed.valid_len == 0 {
        let (name, version) = (MAGIC.get(..MAGIC.len() - 1), bytes.get(MAGIC.len() - 1));
        return match version {
            // A crash while it was made leaves a beginning of the first bytes, or anything in the place of some of them.
            _ if bytes.len() <= MAGIC.len() => Ok(()),
            Some(version) if bytes.get(..MAGIC.len() - 1) == name => Err(Unreadable::Version(*version)),
            _ => Err(Unreadable::NoJournal),
        };
    }
    check_rest(bytes, replayed.valid_len, replayed.encoder)
}

/// Like [`check`], for bytes that were appended to a journal: `valid_len` of them hold, `encoder` continues there.
///
/// # Errors
/// When there are records behind the one that stopped the reading, which were written when that was durable.
pub fn check_rest(bytes: &[u8], valid_len: usize, encoder: Encoder) -> Result<(), Unreadable> {
    if valid_len >= bytes.len() {
        return Ok(());
    }
    let damaged = Err(Unreadable::Damaged { at: valid_len });
    // Its checksum holds, so it was written like that: a record that only a newer program knows.
    let Some((head, payload, end)) = parts(bytes, valid_len) else {
        return scan(bytes, valid_len).map_or(Ok(()), |()| damaged);
    };
    let sum = checksum(checksum(encoder.chain, &head), payload);
    let holds = word(bytes, valid_len + 4) == Some(sum.to_le_bytes());
    if holds || later(bytes, end, sum) == Later::Durable || scan(bytes, valid_len).is_some() {
        damaged
    } else {
        Ok(())
    }
}

/// Stands at the head of what is appended to a durable journal, unless another record does that says so.
pub const DURABLE: Record = Record::Trial { generation: 0 };

/// Whether all that stands before a record was durable when it was written. What was not is written in any order: behind
/// a part that a loss of power took there may be other parts of the same.
pub const fn is_behind_durable(record: &Record) -> bool {
    matches!(
        record,
        Record::Prepared { .. }
            | Record::Switching { .. }
            | Record::Trial { .. }
            | Record::Committed { .. }
            | Record::Returned { .. }
    )
}

/// What follows upon each other from a place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    /// A record that was written when all before it was durable.
    Durable,
    /// Others at most; they end here.
    Until(usize),
}

fn later(bytes: &[u8], mut at: usize, mut chain: u32) -> Later {
    while let Some((record, sum, end)) = frame(bytes, at, chain) {
        if is_behind_durable(&record) {
            return Later::Durable;
        }
        (at, chain) = (end, sum);
    }
    Later::Until(at)
}

/// Looks behind `at` for a record that was written when all before it was durable: among those that continue the checksum
/// written at `at`, or where two follow upon each other.
fn scan(bytes: &[u8], at: usize) -> Option<()> {
    let chain = u32::from_le_bytes(word(bytes, at.checked_add(4)?)?);
    let mut from = at.checked_add(HEAD)?;
    while from < bytes.len() {
        let mut end = match later(bytes, from, chain) {
            Later::Durable => return Some(()),
            Later::Until(end) => end,
        };
        if end == from
            && let Some((_, payload, next)) = parts(bytes, from)
            && let Ok(record) = postcard::from_bytes::<Record>(payload)
        {
            let own = u32::from_le_bytes(word(bytes, from.checked_add(4)?)?);
            match later(bytes, next, own) {
                Later::Durable => return Some(()),
                Later::Until(last) if last > next && is_behind_durable(&record) => return Some(()),
                Later::Until(last) if last > next => end = last,
                Later::Until(_) => {}
            }
        }
        from = end.max(from + 1);
    }
    None
}

fn word(bytes: &[u8], from: usize) -> Option<[u8; 4]> {
    bytes.get(from..from.checked_add(4)?)?.try_into().ok()
}

/// Length field, payload and end of what stands at `at`.
fn parts(bytes: &[u8], at: usize) -> Option<([u8; 4], &[u8], usize)> {
    let length_bytes = word(bytes, at)?;
    let length = u32::from_le_bytes(length_bytes) as usize;
    let start = at.checked_add(HEAD)?;
    let end = start.checked_add(length)?;
    let payload = bytes.get(start..end)?;
    (length <= MAX_PAYLOAD).then_some((length_bytes, payload, end))
}

fn frame(bytes: &[u8], at: usize, chain: u32) -> Option<(Record, u32, usize)> {
    let (length_bytes, payload, end) = parts(bytes, at)?;
    let sum = u32::from_le_bytes(word(bytes, at.checked_add(4)?)?);
    // Decoding fails sooner than a checksum does, which counts when a whole file is searched.
    let record = postcard::from_bytes(payload).ok()?;
    (checksum(checksum(chain, &length_bytes), payload) == sum).then_some((record, sum, end))
}

/// What a start after a crash has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The generation whose commit (or return) is durable; `None` where there never was one.
    pub current: Option<u64>,
    /// The generation that was being made, or returned to, when the journal ends; it is undone.
    pub interrupted: Option<u64>,
}

/// Decides what a start after a crash has to do: what is not committed is undone.
pub fn recover(records: &[Record]) -> Recovery {
    let mut index = Index::default();
    for record in records {
        index.apply(record);
    }
    index.recovery()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prepared(generation: u64) -> Record {
        Record::Prepared {
            generation,
            digest: [u8::try_from(generation).unwrap(); 32],
            when: 1,
            note: String::new(),
        }
    }

    fn written(records: &[Record]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut encoder = Encoder::new();
        for record in records {
            encoder.encode(record, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(checksum(0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_was_written_is_read() {
        let records = vec![
            prepared(1),
            Record::Switching { generation: 1, transition: 1 },
            Record::Trial { generation: 1 },
            Record::Committed { generation: 1 },
        ];
        let bytes = written(&records);
        let replayed = replay(&bytes);
        assert_eq!(replayed.records, records);
        assert_eq!(replayed.valid_len, bytes.len());
    }

    #[test]
    fn the_rest_of_an_older_journal_is_not_read() {
        let old = written(&[prepared(1), prepared(2), prepared(3)]);
        let new = written(&[prepared(7)]);
        let mut bytes = new.clone();
        bytes.extend_from_slice(&old[new.len()..]);
        assert_eq!(replay(&bytes).records, vec![prepared(7)]);
    }

    #[test]
    fn only_a_durable_commit_counts() {
        let mut records = vec![
            prepared(1),
            Record::Switching { generation: 1, transition: 1 },
            Record::Committed { generation: 1 },
            prepared(2),
            Record::Switching { generation: 2, transition: 2 },
        ];
        assert_eq!(recover(&records), Recovery { current: Some(1), interrupted: Some(2) });
        records.push(Record::Trial { generation: 2 });
        assert_eq!(recover(&records), Recovery { current: Some(1), interrupted: Some(2) });
        records.push(Record::Committed { generation: 2 });
        assert_eq!(recover(&records), Recovery { current: Some(2), interrupted: None });
        records.push(Record::Returned { generation: 2, to: 1 });
        assert_eq!(recover(&records), Recovery { current: Some(1), interrupted: None });
    }

    #[test]
    fn only_a_torn_tail_may_be_cut() {
        let records = [prepared(1), prepared(2), prepared(3)];
        let whole = written(&records);
        let (first, second) = (written(&records[..1]).len(), written(&records[..2]).len());
        let checked = |bytes: &[u8]| check(bytes, &replay(bytes));
        for len in 0..=whole.len() {
            assert_eq!(checked(&whole[..len]), Ok(()), "cut at {len}");
        }
        for at in first..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let expected = if at < second { Err(Unreadable::Damaged { at: first }) } else { Ok(()) };
            assert_eq!(checked(&bytes), expected, "flipped at {at}");
        }
        let mut newer = whole.clone();
        newer[7] = 2;
        assert_eq!(checked(&newer), Err(Unreadable::Version(2)));
        assert_eq!(checked(b"something else"), Err(Unreadable::NoJournal));
        // The journal's simulator: the last of the first bytes was something else when the power went.
        assert_eq!(checked(b"HFJRNL\n\xe4"), Ok(()));
        for unfinished in [&b""[..], b"HFJ", b"HFJ\0\0\0\0\0", &[0; 8], b"garbage!"] {
            assert_eq!(checked(unfinished), Ok(()));
        }
    }

    /// A loss of power may take any page of what was not durable yet, and leave those behind it.
    #[test]
    fn what_was_not_durable_may_be_cut_wherever_it_is_torn() {
        let own = |n: u64| Record::Disown { thing: format!("/srv/{n}") };
        let mut records = vec![prepared(1)];
        records.extend((0..300).map(own));
        let whole = written(&records);
        let first = written(&records[..1]).len();
        let mut later = records.clone();
        later.extend([DURABLE, own(1)]);
        let later = written(&later);
        assert!(later.starts_with(&whole));
        for from in [first, first + 1, first + 700, whole.len() - 700] {
            for fill in [0, 0x55] {
                let torn = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    bytes[from..from + 500].fill(fill);
                    check(&bytes, &replay(&bytes))
                };
                assert_eq!(torn(&whole), Ok(()), "{from}");
                assert!(matches!(torn(&later), Err(Unreadable::Damaged { .. })), "{from}");
            }
        }
    }

    #[test]
    fn a_record_of_a_newer_program_is_no_torn_tail() {
        let mut bytes = written(&[prepared(1)]);
        let at = bytes.len();
        let (length, payload) = (1u32.to_le_bytes(), [0x7f]);
        let sum = checksum(checksum(replay(&bytes).encoder.chain, &length), &payload);
        bytes.extend([length, sum.to_le_bytes()].concat());
        bytes.extend(payload);
        assert_eq!(check(&bytes, &replay(&bytes)), Err(Unreadable::Damaged { at }));
    }

    proptest! {
        #[test]
        fn a_torn_or_flipped_journal_is_a_prefix(cut in 0usize..400, flip in 0usize..400, bit in 0u8..8, count in 1u64..9) {
            let records: Vec<Record> = (1..=count).map(prepared).collect();
            let whole = written(&records);
            let mut bytes = whole.clone();
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            bytes.truncate(cut.max(MAGIC.len()));
            let replayed = replay(&bytes);
            prop_assert!(replayed.records.len() <= records.len());
            prop_assert_eq!(&replayed.records[..], &records[..replayed.records.len()]);
            prop_assert!(replayed.valid_len <= bytes.len());
            let mut continued = bytes.get(..replayed.valid_len).unwrap().to_vec();
            if !continued.is_empty() {
                let mut encoder = replayed.encoder;
                encoder.encode(&prepared(99), &mut continued).unwrap();
                prop_assert_eq!(replay(&continued).records.pop(), Some(prepared(99)));
            }
        }
    }
}
