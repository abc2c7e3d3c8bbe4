//! "Did you mean …?": the nearest known word.

/// The candidate with the smallest edit distance to `word`, if it is near enough to be a slip of the fingers; the
/// first one of several.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters: Vec<char> = word.chars().take(LONGEST).collect();
    let limit = (letters.len() / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let bound = best.map_or(limit + 1, |(d, _)| d);
        if candidate.len().abs_diff(word.len()) > 4 * limit {
            continue;
        }
        let d = distance(&letters, candidate, bound);
        if d < bound {
            best = Some((d, candidate));
        }
    }
    best.map(|(_, c)| c)
}

/// Longer words are compared by their beginning: nobody mistypes four hundred letters.
const LONGEST: usize = 200;

/// Edit distance with swaps of neighbours counted once (optimal string alignment); `bound` when it is not below.
fn distance(a: &[char], b: &str, bound: usize) -> usize {
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    if a.len().abs_diff(b.len()) >= bound {
        return bound;
    }
    let width = b.len() + 1;
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..width).collect());
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(bound);
    for (i, ca) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(width);
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
        before = std::mem::replace(&mut above, row);
    }
    at(&above, b.len()).min(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

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
