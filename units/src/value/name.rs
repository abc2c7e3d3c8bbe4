//! Names of units, users and variables.

use super::{ValueError, path, sysctl};
use crate::address::Kind;

/// Longest name of a unit that is no path: it names a cgroup, a log file and a socket, with room for a suffix.
const LONGEST: usize = 200;

fn plain(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Checks the name of a unit and makes it canonical: a path for the path kinds, dotted for sysctls, with underscores
/// for modules.
///
/// # Errors
/// For characters that names of this kind do not have.
pub fn unit(kind: Kind, text: &str) -> Result<String, ValueError> {
    let wrong = |help: &str| Err(ValueError::new(format!("`{text}` is no name for a {kind}")).help(help));
    match kind {
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Mount => {
            let path = path::canonical(text)?;
            if path == "/" && matches!(kind, Kind::File | Kind::Symlink) {
                return wrong("`/` is a directory");
            }
            Ok(path)
        }
        Kind::Sysctl => Ok(sysctl::parse(text)?.0),
        Kind::User | Kind::Group => match account(text) {
            true => Ok(text.to_owned()),
            false => wrong("use letters, digits, `_`, `-` and `.`, not beginning with a digit; at most 32"),
        },
        _ if text.len() > LONGEST => Err(ValueError::new(format!("the name is longer than {LONGEST} bytes"))),
        Kind::Module => match plain(text) {
            true => Ok(text.replace('-', "_")),
            false => wrong("write it as lsmod(8) prints it"),
        },
        Kind::Service => {
            let (stem, instance) = text.split_once('@').map_or((text, None), |(s, i)| (s, Some(i)));
            let good = |i: &str| {
                !i.is_empty() && i.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b))
            };
            match plain(stem) && instance.is_none_or(good) {
                true => Ok(text.to_owned()),
                false => wrong("use letters, digits, `_`, `-` and `.`; `NAME@INSTANCE` for an instance"),
            }
        }
        Kind::Line | Kind::Hostname | Kind::Exec | Kind::Target => match plain(text) {
            true => Ok(text.to_owned()),
            false if text.contains('@') => wrong("only services have instances (`@`)"),
            false => wrong("use letters, digits, `_`, `-` and `.`"),
        },
    }
}

/// Whether a text can be the name of a user or group.
pub fn account(text: &str) -> bool {
    let stem = text.strip_suffix('$').unwrap_or(text);
    let first = stem.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.len() <= 32 && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Checks a user or group where either a name or a number may stand.
///
/// # Errors
/// For what is neither.
pub fn account_or_number(text: &str) -> Result<(), ValueError> {
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u32>().is_ok();
    if number || account(text) {
        return Ok(());
    }
    Err(ValueError::new(format!("`{text}` is neither a name nor a number of a user or group")))
}

/// Checks the name of an environment variable.
///
/// # Errors
/// For an empty one, and one with `=` or a control character.
pub fn environment(text: &str) -> Result<(), ValueError> {
    if text.is_empty() || text.contains('=') || text.chars().any(char::is_control) {
        return Err(ValueError::new(format!("{text:?} is no name of an environment variable")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked_by_kind() {
        let good = [
            (Kind::Service, "getty@ttyS0", "getty@ttyS0"),
            (Kind::File, "/etc//motd", "/etc/motd"),
            (Kind::Module, "snd-hda-intel", "snd_hda_intel"),
            (Kind::Sysctl, "kernel/hostname", "kernel.hostname"),
            (Kind::User, "www-data", "www-data"),
            (Kind::Mount, "/", "/"),
        ];
        for (kind, text, name) in good {
            assert_eq!(unit(kind, text).as_deref(), Ok(name), "{kind} {text}");
        }
        let bad = [
            (Kind::Service, ""),
            (Kind::Service, "a/b"),
            (Kind::Service, "a@"),
            (Kind::Service, ".."),
            (Kind::Target, "a@b"),
            (Kind::File, "etc/motd"),
            (Kind::File, "/"),
            (Kind::User, "0day"),
            (Kind::User, "a:b"),
        ];
        for (kind, text) in bad {
            assert!(unit(kind, text).is_err(), "{kind} {text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_names_stay(number in 0u8..13, text in "[a-z/.@-]{0,12}") {
            let kind = Kind::from_number(number).unwrap();
            if let Ok(name) = unit(kind, &text) {
                prop_assert_eq!(unit(kind, &name), Ok(name));
            }
        }
    }
}
