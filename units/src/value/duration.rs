//! Durations: `100ms`, `5s`, `1m30s`, `2h`, `1d`; in milliseconds.

use super::ValueError;

/// Units from the longest to the shortest, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// What is said of a number without a unit.
pub const NEEDS_UNIT: &str = "say the unit: `5s`, `100ms`, `1m30s`, `2h`, `1d`";

/// Parses a duration. `0`, `none` and `infinity` are 0, which means "no limit" where a limit is asked for.
///
/// # Errors
/// For a number without unit, an unknown unit, or one that is too long for 64 bits of milliseconds.
pub fn parse(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    if matches!(text, "0" | "none" | "infinity") {
        return Ok(0);
    }
    let wrong = || ValueError::new(format!("`{text}` is no duration")).help(NEEDS_UNIT);
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit = unit.trim();
        let (_, factor) = UNITS.iter().find(|(u, _)| *u == unit).ok_or_else(wrong)?;
        let value: u64 =
            if number.is_empty() { return Err(wrong()) } else { number.parse().map_err(|_| wrong())? };
        let long = || ValueError::new(format!("duration `{text}` is too long"));
        total = value.checked_mul(*factor).and_then(|v| total.checked_add(v)).ok_or_else(long)?;
        rest = next;
    }
    Ok(total)
}

/// The shortest text that [`parse`] reads back.
pub fn format(milliseconds: u64) -> String {
    if milliseconds == 0 {
        return "0".to_owned();
    }
    let mut rest = milliseconds;
    let mut out = String::new();
    for (unit, factor) in UNITS {
        let count = rest / factor;
        rest %= factor;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        let cases = [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
            ("0", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text), Ok(ms), "{text}");
        }
        for text in ["", "5", "s", "5x", "-1s", "1.5s", "5s3", "99999999999999999999s", "999999999999999999d"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(ms in any::<u64>()) {
            prop_assert_eq!(parse(&format(ms)), Ok(ms));
        }

        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
