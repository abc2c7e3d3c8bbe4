//! Names of kernel settings: `net.core.somaxconn` or `net/core/somaxconn`.
//!
//! As in sysctl(8), the first separator decides: after a dot, dots separate and a slash stands for a dot inside a
//! part (`net.ipv4.conf.eth0/100.forwarding`); after a slash it is the other way round.

use super::ValueError;

fn swap(text: &str) -> String {
    let other = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    text.chars().map(other).collect()
}

/// The canonical (dotted) name and the path below `/proc/sys`.
///
/// # Errors
/// For empty parts, `..`, and characters that no setting has.
pub fn parse(text: &str) -> Result<(String, String), ValueError> {
    let text = text.strip_prefix("/proc/sys/").unwrap_or(text);
    let first = text.find(['.', '/']).and_then(|at| text.get(at..=at));
    let path = if first == Some("/") { text.to_owned() } else { swap(text) };
    let bad = |p: &str| p.is_empty() || p == "." || p == "..";
    if path.split('/').any(bad) || path.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(ValueError::new(format!("`{text}` is no name of a kernel setting"))
            .help("write it as sysctl(8) prints it, such as `net.core.somaxconn`"));
    }
    Ok((swap(&path), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_are_one_setting() {
        let one = ("net.core.somaxconn".to_owned(), "net/core/somaxconn".to_owned());
        assert_eq!(parse("net.core.somaxconn").as_ref(), Ok(&one));
        assert_eq!(parse("net/core/somaxconn").as_ref(), Ok(&one));
        assert_eq!(parse("/proc/sys/net/core/somaxconn").as_ref(), Ok(&one));
        assert_eq!(parse("net.ipv4.conf.eth0/100.x").unwrap().1, "net/ipv4/conf/eth0.100/x");
        for text in ["", "a..b", "/a", "a/../b", "a b", "a."] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(path in "[a-z_]{1,4}(/[a-z_.]{0,3}[a-z]){0,3}") {
            if let Ok((name, key)) = parse(&path) {
                prop_assert_eq!(parse(&name), Ok((name.clone(), key.clone())));
                prop_assert_eq!(parse(&key), Ok((name, key)));
            }
        }
    }
}
