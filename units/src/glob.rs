//! File-name patterns: `*` any run, `?` one character, `[a-z]` and `[!a-z]` one of a set.

/// Whether a name matches a pattern. A name with a leading dot is matched only by a pattern that has one too.
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last `*`, so that matching never takes more than |pattern| × |name| steps.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&c) = name.get(n) {
        let step = match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => set(&pattern, p, c),
            Some(&literal) => (literal == c).then_some(p + 1),
            None => None,
        };
        match (step, retry) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((after, from))) => {
                retry = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

/// Whether a text is a pattern and no plain name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The position after the set that begins at `open`, if `c` is in it. A set without its end is a plain bracket.
fn set(pattern: &[char], open: usize, c: char) -> Option<usize> {
    let negated = matches!(pattern.get(open + 1), Some('!' | '^'));
    let first = open + 1 + usize::from(negated);
    let Some(length) = pattern.iter().skip(first + 1).position(|c| *c == ']') else {
        return (c == '[').then_some(open + 1);
    };
    let end = first + 1 + length;
    let members = pattern.get(first..end)?;
    let mut found = false;
    let mut i = 0;
    while let Some(&low) = members.get(i) {
        match (members.get(i + 1), members.get(i + 2)) {
            (Some('-'), Some(&high)) => {
                found |= (low..=high).contains(&c);
                i += 3;
            }
            _ => {
                found |= low == c;
                i += 1;
            }
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn knows_the_shell_patterns() {
        let yes = [
            ("*.toml", "a.toml"),
            ("?-[a-c]*", "1-bxx"),
            ("[!x]", "y"),
            ("a[", "a["),
            ("**", ""),
            ("[]]", "]"),
        ];
        let no = [("*.toml", ".a.toml"), ("*.toml", "a.tom"), ("[!x]", "x"), ("?", ""), ("a", "ab")];
        for (p, n) in yes {
            assert!(matches(p, n), "{p} {n}");
        }
        for (p, n) in no {
            assert!(!matches(p, n), "{p} {n}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            fn naive(p: &[u8], n: &[u8]) -> bool {
                match (p.first(), n.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => naive(&p[1..], n) || (!n.is_empty() && naive(p, &n[1..])),
                    (Some(b'?'), Some(_)) => naive(&p[1..], &n[1..]),
                    (Some(a), Some(b)) if a == b => naive(&p[1..], &n[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
