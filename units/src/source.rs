//! Source files and spans: where in a state file something stands.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a state file that came through standard input, below the directory of its relative sources.
pub const STANDARD_INPUT: &str = "<stdin>";

/// A stretch of bytes in one source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Number of the file in its [`Sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A place as people say it: line and column count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One source file.
#[derive(Debug, Clone)]
pub struct Source {
    path: String,
    text: Arc<str>,
    /// First byte of every line.
    lines: Vec<u32>,
}

impl Source {
    /// A file from its path and text.
    pub fn new(path: impl Into<String>, text: impl Into<Arc<str>>) -> Source {
        let text = text.into();
        let mut lines = vec![0];
        // A search for each newline, which is quicker than a look at each byte.
        let ends = text.match_indices('\n').map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX));
        lines.extend(ends.map(|at| at.saturating_add(1)));
        Source { path: path.into(), text, lines }
    }

    /// The path it was loaded from.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it holds.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte; the end of the file for one that lies behind it.
    pub fn position(&self, byte: u32) -> Position {
        let line = self.lines.partition_point(|start| *start <= byte).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or_default() as usize;
        let before =
            self.text.as_bytes().get(start..(byte as usize).min(self.text.len())).unwrap_or_default();
        // A continuation byte belongs to the character before it.
        let column = before.iter().filter(|b| **b & 0xc0 != 0x80).count();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
        Position { line: number(line), column: number(column) }
    }

    /// A line, counted from 1, without its newline.
    pub fn line(&self, line: u32) -> &str {
        let at = (line as usize).saturating_sub(1);
        let Some(start) = self.lines.get(at) else { return "" };
        let end = self.lines.get(at + 1).map_or(self.text.len(), |e| *e as usize);
        let text = self.text.get(*start as usize..end).unwrap_or_default();
        text.trim_end_matches(['\n', '\r'])
    }
}

/// Every file that a compilation read, in the order of reading.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// No file yet.
    pub fn new() -> Sources {
        Sources::default()
    }

    /// Adds a file and gives its number.
    pub fn add(&mut self, source: Source) -> u32 {
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(source);
        number
    }

    /// The file with this number.
    pub fn get(&self, file: u32) -> Option<&Source> {
        self.files.get(file as usize)
    }

    /// Every file.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    /// Where a span begins.
    pub fn position(&self, span: Span) -> Position {
        self.get(span.file).map_or(Position { line: 1, column: 1 }, |f| f.position(span.start))
    }

    /// The text that a span covers.
    pub fn text(&self, span: Span) -> &str {
        let range = span.start as usize..span.end as usize;
        self.get(span.file).and_then(|f| f.text.get(range)).unwrap_or_default()
    }

    /// `file:line` of a span, as it stands in manifests.
    pub fn origin(&self, span: Span) -> String {
        let path = self.get(span.file).map_or("", Source::path);
        format!("{path}:{}", self.position(span).line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_characters_not_bytes() {
        let s = Source::new("a", "x = 1\n\u{e4}\u{f6} = 2\r\nlast");
        assert_eq!(s.position(0), Position { line: 1, column: 1 });
        assert_eq!(s.position(5), Position { line: 1, column: 6 });
        assert_eq!(s.position(6), Position { line: 2, column: 1 });
        assert_eq!(s.position(10), Position { line: 2, column: 3 });
        assert_eq!(s.position(999), Position { line: 3, column: 5 });
        assert_eq!((s.line(2), s.line(3), s.line(4)), ("\u{e4}\u{f6} = 2", "last", ""));
    }
}
