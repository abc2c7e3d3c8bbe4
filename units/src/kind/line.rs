//! `line`: one line in a file that is otherwise somebody else's.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

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

impl Line {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Line) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Line {
            path => "path", line => "line", matches => "matches", present => "present", create => "create",
        })
    }
}

/// What a `[line.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Line,
    summary: "One line in a file that is otherwise somebody else's.",
    header: "[line.NAME]",
    fields: &[
        field("path", Type::Path, Without::Required, "The file."),
        field(
            "line",
            Type::Text,
            Without::Required,
            "The line, without its end: it gets the one that the file has.",
        ),
        field(
            "matches",
            Type::Pattern,
            Without::Unset("only the same line"),
            "Lines that match this regular expression are replaced by `line` (the first) or removed (the others).",
        ),
        field(
            "present",
            Type::Flag,
            Without::Is("true"),
            "`false` removes the line, and what `matches`, instead.",
        ),
        field("create", Type::Flag, Without::Is("false"), "Whether the file is created where it is missing."),
    ],
    notes: "The rest of the file is neither owned nor repaired; one of more than 16 MiB is not read. Where a unit says \
another line or another path than before, what it had put in goes. A line in a file that is itself managed as a whole \
is a mistake.",
    example: r#"[line.root-login]
path    = "/etc/ssh/sshd_config"
line    = "PermitRootLogin no"
matches = "^#?PermitRootLogin "
"#,
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Line {
    let pattern = |t: &str| match regex_lite::Regex::new(t) {
        Ok(_) => Ok(t.to_owned()),
        Err(e) => Err(crate::value::ValueError::new(format!("`{t}` is no regular expression: {e}"))),
    };
    let line = |t: &str| match t {
        t if t.contains(['\0', '\n']) => Err(crate::value::ValueError::new("a line break cannot stand here")),
        t if t.ends_with('\r') => Err(crate::value::ValueError::new(
            "a carriage return cannot stand at the end: the line gets the ending that the file has",
        )),
        t => Ok(t.to_owned()),
    };
    Line {
        path: r.path("path").unwrap_or_default(),
        line: r.parsed("line", line).unwrap_or_default(),
        matches: r.parsed("matches", pattern),
        present: r.flag("present"),
        create: r.flag("create"),
    }
}
