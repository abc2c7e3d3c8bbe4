//! Resource limits: `1024`, `"1024:4096"` (soft:hard), `"64M"`, `"infinity"`.

use super::{ValueError, bytes};

/// What setrlimit(2) knows, without `RLIMIT_`.
pub const RESOURCES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// "No limit" in the checked form.
pub const INFINITY: u64 = u64::MAX;

/// Parses a limit into soft and hard.
///
/// # Errors
/// For what is no amount, and for a soft limit above the hard one.
pub fn parse(text: &str) -> Result<(u64, u64), ValueError> {
    let one = |t: &str| match t.trim() {
        "infinity" | "unlimited" => Ok(INFINITY),
        t => bytes::parse(t).map_err(|_| {
            ValueError::new(format!("`{t}` is no limit"))
                .help("write `1024`, `\"1024:4096\"` (soft:hard), `\"64M\"` or `\"infinity\"`")
        }),
    };
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard) = (one(soft)?, one(hard)?);
    if soft > hard {
        return Err(ValueError::new(format!("the soft limit of `{text}` is above the hard one")));
    }
    Ok((soft, hard))
}

/// The text that [`parse`] reads back.
pub fn format(soft: u64, hard: u64) -> String {
    let one = |n| if n == INFINITY { "infinity".to_owned() } else { bytes::format(n) };
    if soft == hard { one(soft) } else { format!("{}:{}", one(soft), one(hard)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("1024"), Ok((1024, 1024)));
        assert_eq!(parse("1K:infinity"), Ok((1024, INFINITY)));
        for text in ["", "2:1", "infinity:1", "x", "1:2:3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(a in any::<u64>(), b in any::<u64>()) {
            let (soft, hard) = (a.min(b), a.max(b));
            prop_assert_eq!(parse(&format(soft, hard)), Ok((soft, hard)));
        }
    }
}
