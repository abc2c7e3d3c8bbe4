//! Parses TOML and finds every broken statement, not only the first: a statement that does not parse is reported,
//! blanked out (offsets stay), and the rest is parsed again.
//!
//! The parser's own recovery reports a single unclosed bracket once for every token up to the end of the file, and
//! keeps all those errors in memory; this one reports it once, and says where the bracket is.

use toml::de::{DeTable, Error};

/// Broken statements that are looked for in one file.
const MAX_ERRORS: usize = 25;
/// Bytes that may be parsed to find them: a large file is not parsed a hundred times.
const MAX_WORK: usize = 48 << 20;
/// Bytes that may be parsed to find where one of them begins.
const MAX_SEARCH: usize = 2 << 20;
/// Lines of one section that are searched for the beginning of a broken statement.
const MAX_LINES: usize = 400;

/// A broken statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What the parser says.
    pub message: String,
    /// Where, as a range of bytes.
    pub range: (usize, usize),
}

/// What is left of a text when its broken statements are blanked out, and those statements. The text is empty when too
/// much was broken.
pub fn parseable(text: &str) -> (Option<String>, Vec<Broken>) {
    let mut broken = Vec::new();
    let mut masked: Option<String> = None;
    let mut work = 0;
    loop {
        let current = masked.as_deref().unwrap_or(text);
        let Err(error) = DeTable::parse(current) else { return (masked, broken) };
        work += current.len();
        let (found, blank) = examine(current, &error);
        broken.push(found);
        if broken.len() >= MAX_ERRORS || work > MAX_WORK {
            return (Some(String::new()), broken);
        }
        masked = Some(blanked(current, blank));
    }
}

/// The text with a range of bytes replaced by spaces; line ends stay.
fn blanked(text: &str, (start, end): (usize, usize)) -> String {
    let bytes = text.bytes().enumerate();
    let blank = |(at, b): (usize, u8)| if (start..end).contains(&at) && b != b'\n' { b' ' } else { b };
    // Only whole lines are blanked, so characters are never cut; if they were, everything goes.
    String::from_utf8(bytes.map(blank).collect()).unwrap_or_default()
}

/// First byte of the line that holds a byte.
fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |n| n + 1)
}

/// One past the end of the line that holds a byte.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|t| t.find('\n')).map_or(text.len(), |n| at + n + 1)
}

/// Whether a line looks like the header of a table.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    let inner = line.trim_start_matches('[');
    let letter = |c: char| c.is_alphanumeric() || "._-/@:\"' ".contains(c);
    line.starts_with('[') && line.ends_with(']') && inner.trim_end_matches(']').chars().all(letter)
}

/// Whether a line looks like the beginning of a statement.
fn begins_statement(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else { return line.trim_start().starts_with('[') };
    let key = key.trim();
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "._-/@:\"'".contains(c))
}

/// The broken statement behind an error, and the lines to blank out.
fn examine(text: &str, error: &Error) -> (Broken, (usize, usize)) {
    let (start, end) = span(text, error);
    let found = Broken { message: error.message().to_owned(), range: (start, end) };
    // An error at the very end belongs to the last line that holds something.
    let anchor = if start == text.len() { text.trim_end().len() } else { start };
    let line = line_start(text, anchor);
    let (section, statement) = beginning(text, line);
    if statement == line && is_header(text.get(line..line_end(text, line)).unwrap_or_default()) {
        // Without its header, what follows would go to the table before.
        return (found, (line, section_end(text, line)));
    }
    // To the next line that looks like a statement, even inside what the parser took for one.
    let mut end = line_end(text, statement);
    while end < text.len() && !begins_statement(text.get(end..line_end(text, end)).unwrap_or_default()) {
        end = line_end(text, end);
    }
    // What the parser says of the statement by itself is closer to the mistake: an unclosed bracket is only noticed in
    // the lines after it, and a broken string after the brackets of the whole file.
    let alone = text.get(section..end).and_then(|t| DeTable::parse(t).err().map(|e| (t, e)));
    let found = match alone {
        Some((part, e)) => {
            let (start, stop) = span(part, &e);
            let open = section + start >= section + part.trim_end().len();
            let first = text.get(statement..line_end(text, statement)).unwrap_or_default();
            let indent = first.len() - first.trim_start().len();
            let whole = (statement + indent, statement + first.trim_end().len().max(indent));
            let range =
                if open || section + start < statement { whole } else { (section + start, section + stop) };
            Broken { message: e.message().to_owned(), range }
        }
        None => found,
    };
    (found, (statement, end))
}

/// The range of an error, cut to characters of the text.
fn span(text: &str, error: &Error) -> (usize, usize) {
    let range = error.span().unwrap_or_default();
    let clamp =
        |n: usize| (0..=n.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
    (clamp(range.start), clamp(range.end.max(range.start)))
}

/// One past the last line of the section that begins with a header.
fn section_end(text: &str, header: usize) -> usize {
    let mut at = line_end(text, header);
    while at < text.len() && !is_header(text.get(at..line_end(text, at)).unwrap_or_default()) {
        at = line_end(text, at);
    }
    at
}

/// The beginnings of the section and of the statement that hold a line. The statement's is the last line before which
/// everything from the section's header on parses.
fn beginning(text: &str, line: usize) -> (usize, usize) {
    let mut lines = vec![line];
    let mut at = line;
    while at > 0
        && lines.len() < MAX_LINES
        && !is_header(text.get(at..line_end(text, at)).unwrap_or_default())
    {
        at = line_start(text, at - 1);
        lines.push(at);
    }
    let section = at;
    let mut work = 0;
    let complete = |l: &usize| {
        work += l - section;
        work < MAX_SEARCH && text.get(section..*l).is_some_and(|prefix| DeTable::parse(prefix).is_ok())
    };
    (section, lines.into_iter().find(complete).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<usize> {
        let number = |at: usize| text[..at].matches('\n').count() + 1;
        let mut lines: Vec<usize> = parseable(text).1.into_iter().map(|b| number(b.range.0)).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn every_broken_statement_is_found_once() {
        assert_eq!(lines("a = 1\n"), []);
        assert_eq!(lines("a = [1\nb = 2\n[c]\nd = \"x\ne = 1\nf 3\n"), [1, 4, 6]);
        assert_eq!(lines("[a]\nx = 1\n[a]\nx = 2\n[b]\ny = 1\ny = 2\n"), [3, 7]);
        assert_eq!(lines("[a\nx = 1\n[b]\n= 2\n"), [1, 4]);
    }

    #[test]
    fn garbage_is_given_up() {
        let text = "a = \n".repeat(100_000);
        let (rest, broken) = parseable(&text);
        assert!(rest.is_some_and(|r| r.is_empty()) && broken.len() == MAX_ERRORS);
    }

    proptest! {
        #[test]
        fn what_is_left_parses(text in "[a-c=\\[\\]\"'\n#. {},\u{e4}]{0,60}") {
            let (rest, broken) = parseable(&text);
            let rest = rest.unwrap_or_else(|| text.clone());
            prop_assert!(DeTable::parse(&rest).is_ok());
            prop_assert!(rest.is_empty() || rest.len() == text.len());
            prop_assert!(broken.iter().all(|b| b.range.0 <= b.range.1 && b.range.1 <= text.len()));
        }
    }
}
