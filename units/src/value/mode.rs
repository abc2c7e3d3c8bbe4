//! Permission bits: `"0644"`, octal, as a string.

use super::ValueError;

/// What is said of an integer: `mode = 644` would be decimal, and `0o644` is easily confused with it.
pub const NEEDS_STRING: &str = "write the mode as an octal string: `\"0644\"`";

/// Parses three to five octal digits.
///
/// # Errors
/// For other characters and bits beyond 07777.
pub fn parse(text: &str) -> Result<u32, ValueError> {
    let wrong = || ValueError::new(format!("`{text}` is no file mode")).help(NEEDS_STRING);
    let octal = text.len() >= 3 && text.len() <= 5 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let bits = if octal { u32::from_str_radix(text, 8).map_err(|_| wrong())? } else { return Err(wrong()) };
    if bits > 0o7777 { Err(wrong()) } else { Ok(bits) }
}

/// Four octal digits.
pub fn format(bits: u32) -> String {
    format!("{bits:04o}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_octal_only() {
        assert_eq!((parse("0644"), parse("755"), parse("01777")), (Ok(0o644), Ok(0o755), Ok(0o1777)));
        for text in ["", "7", "0o644", "0888", "99", "u+x", "77777", "+644"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(bits in 0u32..=0o7777) {
            prop_assert_eq!(parse(&format(bits)), Ok(bits));
        }
    }
}
