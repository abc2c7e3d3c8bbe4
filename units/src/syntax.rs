//! Finds every broken statement of a TOML text, not only the first, and what is left without them.
//!
//! The parser's own recovery reports a single unclosed bracket once for every token up to the end of the file. Here the
//! text is cut into statements and sections, each is parsed by itself, and what does not parse is reported once and
//! blanked out; offsets stay. A section whose header is broken keeps its keys, in a text of its own: under another header
//! they would go to the table before.

use std::ops::Range;

use toml::de::{DeTable, Error};

use crate::diagnostic::Diagnostic;
use crate::source::{Sources, Span};

/// Broken statements that are looked for in one file.
const MAX_ERRORS: usize = 100;
/// Bytes that may be looked at to find them: a large file is not parsed a hundred times.
const MAX_WORK: usize = 64 << 20;

/// A broken statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What the parser says.
    pub message: String,
    /// Where, in bytes.
    pub range: Range<usize>,
}

impl Broken {
    /// What is said of it.
    pub fn diagnostic(&self, file: u32, sources: &Sources) -> Diagnostic {
        let at = span(file, &self.range);
        if self.message.starts_with("duplicate key") {
            let d = Diagnostic::error(
                "duplicate-key",
                at,
                format!("`{}` is there a second time", sources.text(at)),
            );
            return d.help("a key, and a table, stands once in a file; keep one of them");
        }
        Diagnostic::error("syntax", at, &*self.message)
    }
}

/// A section that has lost its header, or stands a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// First word of the header, as it was meant.
    pub word: String,
    /// The rest of it without quotes; empty where there is none.
    pub name: String,
    /// Where the header stands, in bytes.
    pub header: Range<usize>,
    /// Its keys, each where it stands in the file, after nothing but blanks.
    pub text: String,
}

/// What is left of a text with broken statements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The text without them, and without the lost sections. It parses.
    pub text: String,
    /// What is broken.
    pub broken: Vec<Broken>,
    /// Sections that are read by themselves.
    pub lost: Vec<Lost>,
    /// Statements of which nobody knows what they said, in bytes.
    pub unread: Vec<Range<usize>>,
    /// Sections that may have said more, in bytes.
    pub damaged: Vec<Range<usize>>,
    /// Whether there was so much that the rest was not looked at.
    pub cut: bool,
}

/// A stretch of bytes as a span.
pub fn span(file: u32, range: &Range<usize>) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span { file, start: number(range.start), end: number(range.end) }
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// A key, a comment or nothing.
    Inner,
    /// A header: its parts, as far as they can be told.
    Header(Vec<String>),
}

#[derive(Debug, Clone)]
struct Statement {
    range: Range<usize>,
    what: What,
    broken: bool,
}

/// The words that a header may begin with.
type Known<'a> = &'a dyn Fn(&str) -> bool;

/// What is left of a text that does not parse; `known` are the words that its headers begin with.
pub fn recover(text: &str, known: Known<'_>) -> Recovered {
    let mut out = Recovered::default();
    let mut work = 0;
    let mut statements = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if out.broken.len() >= MAX_ERRORS || work > MAX_WORK {
            out.cut = true;
            break;
        }
        let (statement, broken) = statement(text, at, known, &mut work);
        out.broken.extend(broken);
        at = statement.range.end.max(at + 1);
        statements.push(statement);
    }
    let mut kept = vec![b' '; text.len()];
    for section in sections(&statements) {
        match section.first().map(|s| (&s.what, s.broken)) {
            Some((What::Header(path), true)) => {
                if section.iter().skip(1).any(|s| s.broken) {
                    out.damaged.push(extent(section));
                }
                out.lose(text, section, path, &mut work);
            }
            _ => {
                section.iter().filter(|s| !s.broken).for_each(|s| copy(text, &s.range, &mut kept));
                if section.iter().any(|s| s.broken) {
                    out.damaged.push(extent(section));
                }
            }
        }
        out.unread.extend(section.iter().filter(|s| s.broken).map(|s| s.range.clone()));
    }
    // What is left goes together, but for what stands twice.
    while let Some(error) = parse(&kept).err() {
        work += text.len();
        let place = place(text, &error).start;
        let found = statements.iter().position(|s| s.range.contains(&place) && !s.broken);
        let Some(found) = found.filter(|_| out.broken.len() < MAX_ERRORS && work <= MAX_WORK) else {
            out.cut = true;
            kept.clear();
            break;
        };
        out.broken.push(Broken { message: error.message().to_owned(), range: self::place(text, &error) });
        let section = sections(&statements).find(|s| extent(s).contains(&place)).unwrap_or_default().to_vec();
        if let Some(s) = statements.get_mut(found) {
            s.broken = true;
            match &s.what {
                What::Header(path) => {
                    let range = extent(&section);
                    kept.get_mut(range.clone()).unwrap_or_default().fill(b' ');
                    // What it lacks, the first of its name may have.
                    out.damaged.push(range);
                    out.lose(text, &section, path, &mut work);
                }
                What::Inner => {
                    kept.get_mut(s.range.clone()).unwrap_or_default().fill(b' ');
                    out.unread.push(s.range.clone());
                    out.damaged.push(extent(&section));
                }
            }
        }
    }
    // A table below one that was lost makes it again, without its keys.
    for section in sections(&statements) {
        if let Some(Statement { what: What::Header(path), .. }) = section.first()
            && let [word, name, _, ..] = path.as_slice()
            && out.lost.iter().any(|l| l.word == *word && l.name == *name)
        {
            out.damaged.push(extent(section));
        }
    }
    out.text = String::from_utf8(kept).unwrap_or_default();
    out
}

impl Recovered {
    /// Keeps a section whose header is broken, or stands a second time, by itself.
    fn lose(&mut self, text: &str, section: &[Statement], path: &[String], work: &mut usize) {
        let Some((header, body)) = section.split_first() else { return };
        let mut kept = vec![b' '; extent(section).end];
        body.iter().filter(|s| !s.broken).for_each(|s| copy(text, &s.range, &mut kept));
        while let Some(error) = parse(&kept).err() {
            *work += kept.len();
            let place = place(text, &error);
            let found = body.iter().find(|s| s.range.contains(&place.start));
            let Some(found) = found.filter(|_| self.broken.len() < MAX_ERRORS && *work <= MAX_WORK) else {
                self.cut = true;
                return;
            };
            self.broken.push(Broken { message: error.message().to_owned(), range: place });
            kept.get_mut(found.range.clone()).unwrap_or_default().fill(b' ');
            self.unread.push(found.range.clone());
            self.damaged.push(extent(section));
        }
        *work += kept.len();
        let (word, name) = match path {
            [word] => (word, String::new()),
            [word, name] => (word, name.clone()),
            // A table inside a unit, or nobody knows what.
            _ => return self.unread.push(extent(section)),
        };
        let text = String::from_utf8(kept).unwrap_or_default();
        self.lost.push(Lost { word: word.clone(), name, header: header.range.clone(), text });
    }
}

fn copy(text: &str, range: &Range<usize>, to: &mut [u8]) {
    if let (Some(from), Some(to)) = (text.as_bytes().get(range.clone()), to.get_mut(range.clone())) {
        to.copy_from_slice(from);
    }
}

fn parse(bytes: &[u8]) -> Result<(), Error> {
    // Statements are whole lines: no character is cut.
    DeTable::parse(std::str::from_utf8(bytes).unwrap_or_default()).map(|_| ())
}

/// The sections: what stands before the first header, and each header with what follows.
fn sections(statements: &[Statement]) -> impl Iterator<Item = &[Statement]> {
    statements.chunk_by(|_, next| next.what == What::Inner)
}

fn extent(section: &[Statement]) -> Range<usize> {
    let start = section.first().map_or(0, |s| s.range.start);
    start..section.last().map_or(start, |s| s.range.end)
}

/// The range of an error, cut to characters of the text.
fn place(text: &str, error: &Error) -> Range<usize> {
    let range = error.span().unwrap_or_default();
    let clamp =
        |n: usize| (0..=n.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
    clamp(range.start)..clamp(range.end.max(range.start))
}

/// One past the end of the line that holds a byte.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|t| t.find('\n')).map_or(text.len(), |n| at + n + 1)
}

fn line(text: &str, at: usize) -> &str {
    text.get(at..line_end(text, at)).unwrap_or_default()
}

/// The statement that begins with a line, and what is wrong with it.
fn statement(text: &str, start: usize, known: Known<'_>, work: &mut usize) -> (Statement, Option<Broken>) {
    let first = line(text, start);
    let bare = first.trim_start_matches('\u{feff}').trim();
    let scan = match bare.starts_with('[') {
        true => {
            // Its brackets are no array's.
            let open_text = scan(first, 0).open_text.map(|at| start + at);
            Scan { end: start + first.len(), closed: true, text_from: None, open_text }
        }
        false => scan(text, start),
    };
    *work += scan.end - start;
    let whole = |end: usize| text.get(start..end).unwrap_or_default();
    let good = |end, what| (Statement { range: start..end, what, broken: false }, None);
    if scan.closed
        && let Ok(table) = DeTable::parse(whole(scan.end))
    {
        let what = match bare.starts_with('[') {
            true => What::Header(path(table.get_ref())),
            false => What::Inner,
        };
        return good(scan.end, what);
    }
    // It ends before the next line that begins another one, even inside what it seems to hold.
    let mut end = start + first.len();
    while end < scan.end {
        let next = line(text, end);
        if is_header(next, known) || scan.text_from.is_none_or(|from| end < from) && is_key(next) {
            break;
        }
        end += next.len();
    }
    // What the parser says of it by itself is closer to the mistake than what it says of the file.
    *work += end - start;
    let Err(error) = DeTable::parse(whole(end)) else { return good(end, What::Inner) };
    let told = place(whole(end), &error);
    let indent = first.len() - first.trim_start().len();
    let line = start + indent..start + first.trim_end().len().max(indent);
    let unclosed = told.start >= whole(end).trim_end().len();
    let range = if unclosed { line } else { start + told.start..start + told.end };
    let broken = match scan.open_text.filter(|at| *at < end && *at <= start + told.start) {
        // What the parser misses is the bracket that the string has swallowed.
        Some(at) => {
            let shown = self::line(text, at).trim_end();
            let quote = shown.get(..1).unwrap_or_default();
            Broken { message: format!("unclosed string, expected `{quote}`"), range: at..at + shown.len() }
        }
        None => Broken { message: error.message().to_owned(), range },
    };
    let what = meant(bare, known).map_or(What::Inner, What::Header);
    (Statement { range: start..end, what, broken: true }, Some(broken))
}

/// The parts of a header that parses.
fn path(mut table: &DeTable<'_>) -> Vec<String> {
    let mut out = Vec::new();
    while let Some((key, value)) = table.iter().next() {
        out.push(key.get_ref().to_string());
        table = match value.get_ref() {
            toml::de::DeValue::Table(inner) => inner,
            _ => break,
        };
    }
    out
}

/// The parts of a line that was meant to be a header.
fn meant(line: &str, known: Known<'_>) -> Option<Vec<String>> {
    let bracket = line.starts_with('[');
    let inner = line.trim_start_matches('[');
    let inner = inner.split_once(']').map_or(inner, |(inner, _)| inner).trim();
    let (word, name) = match inner.split_once('.') {
        Some((word, name)) => (word, Some(name)),
        None => (inner, None),
    };
    let quotes = |c: char| matches!(c, '"' | '\'' | ' ');
    let parts: Vec<String> =
        std::iter::once(word).chain(name).map(|p| p.trim_matches(quotes).to_owned()).collect();
    let complete = parts.iter().all(|p| !p.is_empty());
    // Without its first bracket it looks like a key that has no value.
    let header = bracket || known(word) && !line.contains('=');
    header.then_some(if complete { parts } else { Vec::new() })
}

/// Whether a line begins a section of a known kind, whatever comes behind that.
fn is_header(line: &str, known: Known<'_>) -> bool {
    let Some(inner) = line.trim().strip_prefix('[') else { return false };
    let inner = inner.trim_start_matches('[').trim_start();
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(inner.len());
    let (word, rest) = inner.split_at_checked(end).unwrap_or_default();
    known(word) && (rest.is_empty() || rest.starts_with(['.', ']', ' ']))
}

/// Whether a line looks like a key and its value.
fn is_key(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else { return false };
    let key = key.trim();
    let bare = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let quoted = |q: char| key.len() > 2 && key.starts_with(q) && key.ends_with(q);
    !key.is_empty() && (key.chars().all(bare) || quoted('"') || quoted('\''))
}

/// How far a statement goes.
#[derive(Debug, Default)]
struct Scan {
    end: usize,
    /// Whether it ends there, and the text does not end before it.
    closed: bool,
    /// Where lines of text, or an inline table, begin in it: keys behind that begin no statement.
    text_from: Option<usize>,
    /// Where the first string begins that its line does not close.
    open_text: Option<usize>,
}

/// Follows strings and brackets to the line end that ends a statement.
fn scan(text: &str, start: usize) -> Scan {
    /// Where the scan is.
    enum In {
        Plain,
        Comment,
        /// In a string that this byte ends; three of them, if it may have line breaks.
        Text(u8, bool),
    }
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut here) = (start, 0usize, In::Plain);
    let (mut text_from, mut open_text, mut quote) = (None, None, start);
    while let Some(&byte) = bytes.get(at) {
        let three = |q: u8| bytes.get(at..at + 3).is_some_and(|b| b.iter().all(|c| *c == q));
        let mut step = 1;
        if byte == b'\n' && matches!(here, In::Text(_, false)) {
            open_text.get_or_insert(quote);
        }
        match (&here, byte) {
            (In::Text(b'"', _), b'\\') if bytes.get(at + 1).is_some_and(|b| *b != b'\n') => step = 2,
            (In::Text(q, true), b) if b == *q && three(b) => {
                // Up to two quotes may stand before the three that end it.
                let run = bytes.iter().skip(at).take_while(|c| **c == b).take(5).count();
                (step, here) = (run, In::Plain);
            }
            (In::Text(_, true), _) => {}
            (In::Text(q, false), b) if b == *q => here = In::Plain,
            // No such string goes over a line: it is not closed, and what follows is looked at again.
            (_, b'\n') if depth == 0 => return Scan { end: at + 1, closed: true, text_from, open_text },
            (_, b'\n') => here = In::Plain,
            (In::Text(..) | In::Comment, _) => {}
            (In::Plain, b'#') => here = In::Comment,
            (In::Plain, b @ (b'"' | b'\'')) if three(b) => {
                text_from.get_or_insert(at);
                (step, here) = (3, In::Text(b, true));
            }
            (In::Plain, b @ (b'"' | b'\'')) => (here, quote) = (In::Text(b, false), at),
            (In::Plain, b'[') => depth += 1,
            (In::Plain, b'{') => {
                text_from.get_or_insert(at);
                depth += 1;
            }
            (In::Plain, b']' | b'}') => depth = depth.saturating_sub(1),
            (In::Plain, _) => {}
        }
        at += step;
    }
    let closed = depth == 0 && !matches!(here, In::Text(_, true));
    if matches!(here, In::Text(_, false)) {
        open_text.get_or_insert(quote);
    }
    Scan { end: text.len(), closed, text_from, open_text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(word: &str) -> bool {
        ["a", "b", "c", "service", "file"].contains(&word)
    }

    fn lines(text: &str) -> Vec<usize> {
        let number = |at: usize| text[..at].matches('\n').count() + 1;
        let mut lines: Vec<usize> =
            recover(text, &known).broken.into_iter().map(|b| number(b.range.start)).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn every_broken_statement_is_found_once() {
        let cases: [(&str, &[usize]); 10] = [
            ("a = 1\n", &[]),
            ("a = [1\nb = 2\n[c]\nd = \"x\ne = 1\nf 3\n", &[1, 4, 6]),
            ("[a]\nx = 1\n[a]\nx = 2\n[b]\ny = 1\ny = 2\n", &[3, 7]),
            ("[a\nx = 1\n[b]\n= 2\n", &[1, 4]),
            ("[a]\nx = \"\"\"open\n[b]\ny = 1\n[c]\nz = 2\n", &[2]),
            ("[a]\nx = [\"open\n[b]\ny = [\"shut\"]\n[c]\nz = 2\n", &[2]),
            ("[a]\nx = [\n  \"one\"\n  \"two\"\n]\ny = 1\n", &[4]),
            ("[a]\nx = \"\"\"\n[Unit]\nkey = 1\n\"\"\" junk\ny = 1\n", &[5]),
            ("[a]\nx = \"\"\"one\n[b]\nx = \"\"\"two\n\"\"\"\n", &[2]),
            ("a]\nx = {\n b = 1,\n c 2\n}\n", &[1, 4]),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text), expected, "{text}");
        }
    }

    #[test]
    fn a_string_that_is_not_closed_is_what_is_told() {
        for (text, expected) in [
            ("x = [\"a\", \"b 1]\ny = 1\n", "unclosed string, expected `\"`: \"b 1]"),
            ("x = [\n  \"a\",\n  'b\n]\n", "unclosed string, expected `'`: 'b"),
            ("x = \"a", "unclosed string, expected `\"`: \"a"),
            ("[file.\"/z]\ny = 1\n", "unclosed string, expected `\"`: \"/z]"),
            // Others are the parser's, as far as it comes.
            ("x = [file:/a\"]\n", "invalid boolean, expected `false`: file:/a\""),
            ("x = [\"a\"\n", "unclosed array, expected `]`: x = [\"a\""),
        ] {
            let found = recover(text, &known).broken;
            let told: Vec<_> =
                found.iter().map(|b| format!("{}: {}", b.message, &text[b.range.clone()])).collect();
            assert_eq!(told, [expected]);
        }
    }

    #[test]
    fn a_lost_section_keeps_its_keys_by_itself() {
        let text = "[b]\ny = 1\n[file./etc/x]\nmode = 3\nmode = 4\n[a]\nz = 1\n";
        let found = recover(text, &known);
        let [lost] = found.lost.as_slice() else { panic!("{found:?}") };
        assert_eq!((lost.word.as_str(), lost.name.as_str()), ("file", "/etc/x"));
        assert_eq!(lost.text.find("mode"), text.find("mode"));
        assert_eq!(found.broken.len(), 2, "{:?}", found.broken);
        assert!(found.text.contains("y = 1") && found.text.contains("z = 1") && !found.text.contains("mode"));
    }

    #[test]
    fn garbage_is_given_up() {
        let found = recover(&"a = \n".repeat(20_000), &known);
        assert!(found.cut && found.broken.len() == MAX_ERRORS);
        let found = recover(&"a = [\n".repeat(20_000), &known);
        assert!(found.cut && found.broken.len() <= MAX_ERRORS);
        assert!(recover(&"a = 1\n".repeat(20_000), &known).cut);
    }

    proptest! {
        #[test]
        fn what_is_left_parses(text in "[a-c=\\[\\]\"'\n#. {},\u{e4}]{0,60}") {
            let found = recover(&text, &known);
            prop_assert!(DeTable::parse(&found.text).is_ok());
            prop_assert!(found.text.is_empty() || found.text.len() == text.len());
            prop_assert_eq!(found.broken.is_empty(), DeTable::parse(&text).is_ok(), "{:?}", found);
            for lost in &found.lost {
                prop_assert!(DeTable::parse(&lost.text).is_ok());
            }
            prop_assert!(found.broken.iter().all(|b| b.range.start <= b.range.end && b.range.end <= text.len()));
        }
    }
}
