//! `line`: one line in a file that is otherwise somebody else's.

use serde::{Deserialize, Serialize};

/// Checked form of a `[line.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Canonical absolute path of the file.
    pub path: String,
    /// The line, without its newline.
    pub line: String,
    /// Lines that match this regular expression are replaced by `line` (the first) or removed (the others).
    pub matches: Option<String>,
    /// `false` removes the line instead.
    pub present: bool,
    /// Whether the file is created where it is missing.
    pub create: bool,
}
