//! "Did you mean …?": the nearest known word.

use crate::address::Address;

/// The candidate with the smallest edit distance to `word`, if it is near enough to be a slip of the fingers; the
/// first one of several.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = Word::new(word);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if let Some(d) = word.distance(candidate, best.map_or(usize::MAX, |(d, _)| d)) {
            best = Some((d, candidate));
        }
    }
    best.map(|(_, c)| c)
}

/// The address that `text` may have been meant to be: one with a name that is near, of the kind that is written
/// before it, or near to that; the same name of another kind; or a path that ends in it.
pub fn nearest_address(text: &str, all: impl IntoIterator<Item = Address>) -> Option<Address> {
    let (kind, name) =
        text.split_once(':').map_or((None, text), |(kind, name)| (Some(Word::new(kind)), name));
    let word = Word::new(name);
    let mut best: Option<(usize, Address)> = None;
    for address in all {
        let bound = best.as_ref().map_or(usize::MAX, |(d, _)| *d);
        // That two paths lie in one directory is no likeness.
        let of_name = match below_common(name, &address.name) {
            Some((name, other)) => Word::new(name).distance(other, bound),
            None => word.distance(&address.name, bound),
        };
        let Some(of_name) = of_name else {
            // Of a path people remember the end.
            let end = address.name.rsplit_once('/').is_some_and(|(_, end)| end == name && !end.is_empty());
            if end && kind.is_none() && bound > 0 {
                best = Some((0, address));
            }
            continue;
        };
        let of_kind = match &kind {
            None => Some(0),
            Some(kind) => {
                kind.distance(address.kind.word(), bound - of_name).or((of_name == 0).then_some(FARTHEST))
            }
        };
        if let Some(d) = of_kind.map(|d| d + of_name).filter(|d| *d < bound) {
            best = Some((d, address));
        }
    }
    best.map(|(_, address)| address)
}

/// What is left of two paths below the last directory that they have in common.
fn below_common<'a>(a: &'a str, b: &'a str) -> Option<(&'a str, &'a str)> {
    let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y);
    let (cut, _) = common.enumerate().filter(|(_, (byte, _))| *byte == b'/').last()?;
    Some((a.get(cut + 1..)?, b.get(cut + 1..)?))
}

/// Slips that a long word may have.
const FARTHEST: usize = 4;
/// Longer words are compared by their beginning: nobody mistypes four hundred letters.
const LONGEST: usize = 200;

/// What was typed.
struct Word {
    letters: Vec<char>,
    bytes: usize,
    /// Slips that it may have; none where so few letters are another word.
    most: usize,
}

impl Word {
    fn new(word: &str) -> Word {
        let letters: Vec<char> = word.chars().take(LONGEST).collect();
        let most = if letters.len() < 2 { 0 } else { (letters.len() / 3).clamp(1, FARTHEST) };
        Word { letters, bytes: word.len(), most }
    }

    /// How far another word is, if that is near, and less than `bound`.
    fn distance(&self, other: &str, bound: usize) -> Option<usize> {
        let bound = bound.min(self.most + 1);
        // A letter has four bytes at most.
        if other.len().abs_diff(self.bytes) > 4 * self.most {
            return None;
        }
        Some(distance(&self.letters, other, bound)).filter(|d| *d < bound)
    }
}

/// Edit distance with swaps of neighbours counted once (optimal string alignment); `bound` when it is not below.
fn distance(a: &[char], b: &str, bound: usize) -> usize {
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    if a.len().abs_diff(b.len()) >= bound {
        return bound;
    }
    let width = b.len() + 1;
    let (mut before, mut above, mut row): (Vec<usize>, Vec<usize>, Vec<usize>) =
        (vec![bound; width], (0..width).collect(), Vec::with_capacity(width));
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(bound);
    for (i, ca) in a.iter().enumerate() {
        row.clear();
        row.push(i + 1);
        for (j, cb) in b.iter().enumerate() {
            let mut d =
                (at(&above, j) + usize::from(ca != cb)).min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                d = d.min(at(&before, j - 1) + 1);
            }
            row.push(d);
        }
        if row.iter().all(|d| *d >= bound) {
            return bound;
        }
        (before, above, row) = (above, row, before);
    }
    at(&above, b.len()).min(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_near_by_its_name_and_its_kind() {
        const UNITS: [&str; 7] = [
            "service:nginx",
            "service:web",
            "group:ops",
            "file:/etc/motd",
            "user:ann",
            "mount:/",
            "service:a:b",
        ];
        for (typed, expected) in [
            ("ngnix", "service:nginx"),
            ("servise:nginx", "service:nginx"),
            ("service:ngnix", "service:nginx"),
            ("user:nginx", "service:nginx"),
            ("/etc/mtd", "file:/etc/motd"),
            ("motd", "file:/etc/motd"),
            ("wbe", "service:web"),
            ("user:an", "user:ann"),
            // A kind in common, or two letters of four, are no likeness.
            ("nope", ""),
            ("service:nope", ""),
            ("service:db", ""),
            ("service:x", ""),
            ("/etc/conf", ""),
            ("/ect/motd", "file:/etc/motd"),
            ("/etc/motd/", "file:/etc/motd"),
            ("file:ann", "user:ann"),
            ("x", ""),
            ("", ""),
            ("/", "mount:/"),
        ] {
            let all = UNITS.iter().filter_map(|u| Address::parse(u));
            let found = nearest_address(typed, all).map(|a| a.to_string()).unwrap_or_default();
            assert_eq!(found, expected, "{typed}");
        }
    }

    #[test]
    fn finds_slips_and_nothing_else() {
        let known = ["requires", "reload", "restart", "reload-on", "exec"];
        assert_eq!(nearest("reqires", known), Some("requires"));
        assert_eq!(nearest("relaod", known), Some("reload"));
        assert_eq!(nearest("exce", known), Some("exec"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("service:nginx", ["service:ngnix", "file:/etc/x"]), Some("service:ngnix"));
    }
}
