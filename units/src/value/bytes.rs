//! Amounts of bytes: `4096`, `64K`, `1M`, `2G`, `1T`; the letters are powers of 1024.

use super::ValueError;

const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

/// Parses an amount. `KiB`, `k` and the like are accepted for `K`.
///
/// # Errors
/// For anything but digits and one known letter, and for what does not fit into 64 bits.
pub fn parse(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let wrong = || {
        ValueError::new(format!("`{text}` is no amount of bytes"))
            .help("write `4096`, `64K`, `1M`, `2G` or `1T`")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let letter = unit.trim().strip_suffix("iB").unwrap_or(unit.trim()).to_ascii_uppercase();
    let factor = match letter.as_str() {
        "" | "B" => 1,
        known => UNITS.iter().find(|(u, _)| *u == known).ok_or_else(wrong)?.1,
    };
    number.checked_mul(factor).ok_or_else(|| ValueError::new(format!("`{text}` is more than 64 bits hold")))
}

/// The shortest exact text that [`parse`] reads back.
pub fn format(bytes: u64) -> String {
    match UNITS.iter().find(|(_, f)| bytes >= *f && bytes.is_multiple_of(*f)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in
            [("64K", 65536), ("1M", 1 << 20), ("10", 10), ("2GiB", 2 << 30), ("1 k", 1024), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "1X", "-1", "1.5M", "99999999T", "1KK"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(bytes in any::<u64>(), shift in 0u32..64) {
            prop_assert_eq!(parse(&format(bytes >> shift)), Ok(bytes >> shift));
            prop_assert_eq!(parse(&format(bytes << shift)), Ok(bytes << shift));
        }
    }
}
