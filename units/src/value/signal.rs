//! Signals: `HUP`, `SIGHUP`, `1`, `RTMIN+3`.

use super::ValueError;

/// Names by number, as on every architecture but alpha, mips and sparc.
const NAMES: [(i32, &str); 31] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
    (31, "SYS"),
];

/// First and last real-time signal that a C library leaves to programs.
const REAL_TIME: (i32, i32) = (34, 64);

/// Every name, without `SIG`.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(_, n)| *n)
}

/// Parses a name with or without `SIG`, in any case, or a number.
///
/// # Errors
/// For a name that is unknown and a number that is no signal.
pub fn parse(text: &str) -> Result<i32, ValueError> {
    let upper = text.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let in_range = |n: i32| (1..=REAL_TIME.1).contains(&n) && !(32..REAL_TIME.0).contains(&n);
    if let Some((number, _)) = NAMES.iter().find(|(_, n)| *n == short) {
        return Ok(*number);
    }
    let offset =
        |rest: &str| rest.parse::<i32>().ok().filter(|n| (0..=REAL_TIME.1 - REAL_TIME.0).contains(n));
    let number = match short {
        "RTMIN" => Some(REAL_TIME.0),
        "RTMAX" => Some(REAL_TIME.1),
        "POLL" => Some(29),
        _ => match (short.strip_prefix("RTMIN+"), short.strip_prefix("RTMAX-")) {
            (Some(n), _) => offset(n).map(|n| REAL_TIME.0 + n),
            (_, Some(n)) => offset(n).map(|n| REAL_TIME.1 - n),
            _ if short.bytes().all(|b| b.is_ascii_digit()) => short.parse().ok().filter(|n| in_range(*n)),
            _ => None,
        },
    };
    number.ok_or_else(|| {
        let error = ValueError::new(format!("`{text}` is no signal"));
        match crate::nearest::nearest(short, names()) {
            Some(name) => error.help(format!("did you mean `{name}`?")),
            None => error.help("write a name such as `TERM` or `HUP`, or a number from 1 to 64"),
        }
    })
}

/// The name that [`parse`] reads back.
pub fn format(signal: i32) -> String {
    match NAMES.iter().find(|(n, _)| *n == signal) {
        Some((_, name)) => (*name).to_owned(),
        None if signal > REAL_TIME.0 && signal <= REAL_TIME.1 => format!("RTMIN+{}", signal - REAL_TIME.0),
        None if signal == REAL_TIME.0 => "RTMIN".to_owned(),
        None => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, number) in
            [("HUP", 1), ("SIGTERM", 15), ("sigusr1", 10), ("9", 9), ("RTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "32", "-1", "RTMIN+99", "+1"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("TREM").unwrap_err().help.unwrap(), "did you mean `TERM`?");
    }

    #[test]
    fn reads_back_what_it_writes() {
        for n in (1..=31).chain(34..=64) {
            assert_eq!(parse(&format(n)), Ok(n), "{n}");
        }
    }
}
