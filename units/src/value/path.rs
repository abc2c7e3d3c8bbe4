//! Absolute paths, made canonical by their text alone.

use super::ValueError;

/// Longest path that the kernel takes, without the closing zero.
const LONGEST: usize = 4095;

/// Makes an absolute path canonical: `/a//b/../c/` is `/a/c`. Links are not looked at; there is no file system here.
///
/// # Errors
/// For relative paths, control characters, and what is too long for the kernel.
pub fn canonical(text: &str) -> Result<String, ValueError> {
    if !text.starts_with('/') {
        let error = ValueError::new(format!("path `{text}` is not absolute"));
        let home = text.starts_with('~');
        return Err(error.help(if home {
            "`~` is not expanded: write the whole path"
        } else {
            "begin it with `/`"
        }));
    }
    if text.chars().any(char::is_control) {
        return Err(ValueError::new(format!("path {text:?} holds a control character")));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p if p.len() > 255 => return Err(ValueError::new("a part of the path is longer than 255 bytes")),
            p => parts.push(p),
        }
    }
    let path = format!("/{}", parts.join("/"));
    if path.len() > LONGEST {
        return Err(ValueError::new(format!("the path is longer than {LONGEST} bytes")));
    }
    Ok(path)
}

/// The directories above a canonical path, nearest first, ending with `/`. `/` has none.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = (path != "/").then_some(path);
    std::iter::from_fn(move || {
        let (above, _) = rest?.rsplit_once('/')?;
        let here = if above.is_empty() { "/" } else { above };
        rest = (here != "/").then_some(here);
        Some(here)
    })
}

/// Whether a canonical path is `above` or lies below it.
pub fn is_within(path: &str, above: &str) -> bool {
    above == "/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn makes_paths_canonical() {
        for (text, path) in
            [("/a//b/../c/", "/a/c"), ("/", "/"), ("/../x", "/x"), ("/./a/.", "/a"), ("/a/b/../..", "/")]
        {
            assert_eq!(canonical(text).as_deref(), Ok(path), "{text}");
        }
        for text in ["", "a", "~/x", "/a\nb"] {
            assert!(canonical(text).is_err(), "{text}");
        }
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(ancestors("/").count(), 0);
        assert!(
            is_within("/a/b", "/a")
                && is_within("/a", "/a")
                && !is_within("/ab", "/a")
                && is_within("/x", "/")
        );
    }

    proptest! {
        #[test]
        fn canonical_paths_stay(text in "/[a-c./]{0,20}") {
            let once = canonical(&text).unwrap();
            prop_assert_eq!(canonical(&once).unwrap(), once.clone());
            prop_assert!(ancestors(&once).all(|a| is_within(&once, a)));
        }
    }
}
