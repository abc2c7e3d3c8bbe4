//! Names of layers, and which lies on top of which (semantics §1). Pure.

use std::cmp::Ordering;

/// The layer that `apply` writes unless it is told otherwise.
pub const MAIN: &str = "main";
/// The layer on top of all others.
pub const LOCAL: &str = "local";
/// What names of drop-ins begin with.
const DROPIN: &str = "dropin:";
/// What names of layers begin with that a package brings.
const PACKAGE: &str = "dpkg:";
/// Longest name, in bytes.
const LONGEST: usize = 128;

/// Which group a layer is in, from the bottom; `None` for what is no name of a layer.
fn rank(name: &str) -> Option<u8> {
    let part = |rest: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@');
        !rest.is_empty() && !rest.starts_with('.') && rest.chars().all(known)
    };
    match name {
        _ if name.len() > LONGEST => None,
        MAIN => Some(0),
        LOCAL => Some(3),
        _ => match (name.strip_prefix(DROPIN), name.strip_prefix(PACKAGE)) {
            (Some(rest), _) if part(rest) => Some(1),
            (_, Some(rest)) if part(rest) => Some(2),
            _ => None,
        },
    }
}

/// Checks a name.
///
/// # Errors
/// Why it is none, and what would be.
pub fn check(name: &str) -> Result<(), String> {
    if rank(name).is_some() {
        return Ok(());
    }
    let near = format!("{DROPIN}{name}");
    let help = if rank(&near).is_some() { format!("; did you mean {near}?") } else { String::new() };
    Err(format!(
        "`{name}` is no layer: it is main, dropin:NAME, dpkg:PACKAGE or local, and a NAME has letters, digits and \
         . _ - + @ only{help}"
    ))
}

/// From the bottom to the top: main, drop-ins by name, packages by name, local.
pub fn order(a: &str, b: &str) -> Ordering {
    // What is no name cannot have been written; wherever it is, it is in one place.
    (rank(a).unwrap_or(u8::MAX), a).cmp(&(rank(b).unwrap_or(u8::MAX), b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_lie_in_one_order() {
        let mut names = ["local", "dpkg:nginx", "dropin:b", "main", "dpkg:apt", "dropin:a.toml", "dropin:B"];
        names.sort_by(|a, b| order(a, b));
        let wanted = ["main", "dropin:B", "dropin:a.toml", "dropin:b", "dpkg:apt", "dpkg:nginx", "local"];
        assert_eq!(names, wanted);
    }

    #[test]
    fn names_are_few_and_plain() {
        for good in ["main", "local", "dropin:10-web.toml", "dpkg:libstdc++6", "dropin:a@b"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("dropin:{}", "a".repeat(LONGEST));
        for bad in ["", "dropin:", "dropin:a/b", "dropin:../x", "dropin:a b", "dpkg:", "Main", "x:y", &long] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("web").unwrap_err().ends_with("did you mean dropin:web?"));
        assert!(!check("a/b").unwrap_err().contains("did you mean"));
    }
}
