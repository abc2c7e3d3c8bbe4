//! Lines and time stamps: pure.

/// Longest text of one line; longer ones are split. Less than a usual pipe holds, so that a full one always has a line.
pub const MAX_LINE: usize = 16 << 10;
/// Bytes of a time stamp.
pub const STAMP: usize = 27;

/// Microseconds after 1970 as `2026-11-20T12:00:00.123456Z`.
pub fn utc(micros: u64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The Gregorian date of a day after 1970-01-01, counting years from March so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The time now.
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    utc(u64::try_from(since.as_micros()).unwrap_or_default())
}

/// Takes the next line from the front of `input`: its text, and the bytes to consume. `None` while it has no end;
/// with `last`, the end of the input is one, and after `longest` bytes there is one in any case.
pub fn next(input: &[u8], last: bool, longest: usize) -> Option<(&[u8], usize)> {
    let window = input.get(..longest + 1).unwrap_or(input);
    if let Some(at) = window.iter().position(|b| *b == b'\n') {
        return Some((input.get(..at).unwrap_or_default(), at + 1));
    }
    if input.len() > longest {
        // A character is not split: at most three bytes of it can be before the cut.
        let boundary = |at: &usize| input.get(*at).is_none_or(|b| b & 0xc0 != 0x80);
        let cut = (longest - 3..=longest).rev().find(boundary).unwrap_or(longest);
        return Some((input.get(..cut).unwrap_or_default(), cut));
    }
    (last && !input.is_empty()).then_some((input, input.len()))
}

/// Appends stamped lines of `input`, see [`next`], to `out` until `out` has `room` bytes; returns the bytes of input
/// consumed.
pub fn stamp(input: &[u8], time: &str, last: bool, longest: usize, room: usize, out: &mut Vec<u8>) -> usize {
    let mut consumed = 0;
    while out.len() < room {
        let rest = input.get(consumed..).unwrap_or_default();
        let Some((text, length)) = next(rest, last, longest) else { break };
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(text);
        out.push(b'\n');
        consumed += length;
    }
    consumed
}

/// A line of a file (without its line feed) as (time, text); a line that has no stamp has an empty time.
pub fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match (line.get(..STAMP), line.get(STAMP)) {
        (Some(time), Some(b' ')) if time.ends_with(b"Z") && time.get(10) == Some(&b'T') => {
            (time, line.get(STAMP + 1..).unwrap_or_default())
        }
        _ => (b"", line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(utc(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
        assert_eq!(utc(1_795_176_000_999_999), "2026-11-20T12:00:00.999999Z");
        assert_eq!(utc(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
        assert_eq!(now().len(), STAMP);
    }

    #[test]
    fn whole_lines_only() {
        let mut out = Vec::new();
        assert_eq!(stamp(b"a\n\nb", "T", false, MAX_LINE, 1000, &mut out), 3);
        assert_eq!(out, b"T a\nT \n");
        out.clear();
        assert_eq!(stamp(b"a\n\nb", "T", true, MAX_LINE, 1000, &mut out), 4);
        assert_eq!(out, b"T a\nT \nT b\n");
        assert_eq!(stamp(b"", "T", true, MAX_LINE, 1000, &mut out), 0);
        out.clear();
        assert_eq!(stamp(b"a\nb\nc\n", "T", false, MAX_LINE, 5, &mut out), 4);
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let text = "é".repeat(MAX_LINE);
        let (first, length) = next(text.as_bytes(), false, MAX_LINE).unwrap();
        assert_eq!((first.len(), length), (MAX_LINE, MAX_LINE));
        let text = format!("x{text}");
        let (first, length) = next(text.as_bytes(), false, MAX_LINE).unwrap();
        assert_eq!((first.len(), length), (MAX_LINE - 1, MAX_LINE - 1));
        let exact = [vec![b'a'; MAX_LINE], b"\n".to_vec()].concat();
        assert_eq!(next(&exact, false, MAX_LINE).unwrap().1, MAX_LINE + 1);
    }

    #[test]
    fn stamps_come_off() {
        let time = utc(5);
        let line = format!("{time} some text");
        assert_eq!(split(line.as_bytes()), (time.as_bytes(), &b"some text"[..]));
        assert_eq!(split(b"short"), (&b""[..], &b"short"[..]));
        assert_eq!(split(format!("{time} ").as_bytes()), (time.as_bytes(), &b""[..]));
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(input in proptest::collection::vec(proptest::sample::select(vec![b'a', b'\n', 0xc3, 0xa9]), 0..200)) {
            let mut out = Vec::new();
            let used = stamp(&input, "T", true, MAX_LINE, usize::MAX, &mut out);
            assert_eq!(used, input.len());
            let mut back: Vec<u8> = Vec::new();
            for line in out.split_inclusive(|b| *b == b'\n') {
                back.extend_from_slice(&line[2..]);
            }
            let mut want = input.clone();
            if !want.is_empty() && want.last() != Some(&b'\n') { want.push(b'\n'); }
            assert_eq!(back, want);
        }
    }
}
