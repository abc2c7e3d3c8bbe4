//! `file`: a regular file.

use serde::{Deserialize, Serialize};

use super::{Attributes, Content};
use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Who owns the content (semantics §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ownership {
    /// Holdfast: all of it.
    #[default]
    Whole,
    /// Somebody else: created if absent, never repaired.
    Seed,
}

/// Checked form of a `[file."PATH"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Canonical absolute path.
    pub path: String,
    /// What it holds; `None` leaves the content alone and manages the attributes of a file that exists.
    pub content: Option<Content>,
    /// Owner, group, mode, extended attributes.
    pub attributes: Attributes,
    /// Who owns the content.
    pub ownership: Ownership,
    /// Whether its content is kept out of plans and diffs.
    pub secret: bool,
}

impl File {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &File) -> Vec<&'static str> {
        let mut keys = crate::diff::differing!(self, new, File {
            path => "path", content => "content", attributes => "", ownership => "ownership", secret => "secret",
        });
        keys.extend(self.attributes.differing(&new.attributes));
        keys.retain(|k| !k.is_empty());
        keys
    }
}

/// What a `[file."PATH"]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::File,
    summary: "A regular file.",
    header: "[file.\"PATH\"]",
    fields: &[
        field("content", Type::Text, Without::Unset("left alone"), "What it holds, said here."),
        field("source", Type::Source, Without::Unset("left alone"), "What it holds: a copy of this file."),
        field("mode", Type::Mode, Without::Unset("left alone; 0644 when it is created"), "Permission bits."),
        field("owner", Type::Account, Without::Unset("left alone; root when it is created"), "Owner."),
        field("group", Type::Account, Without::Unset("left alone; root when it is created"), "Group."),
        field("xattrs", Type::Table, Without::Unset("left alone"), "Extended attributes by full name."),
        field(
            "ownership",
            Type::Choice(&["whole", "seed"]),
            Without::Is("whole"),
            "`whole`: the content is kept as declared. `seed`: it is created if absent and then somebody else's.",
        ),
        field(
            "secret",
            Type::Flag,
            Without::Is("false"),
            "Whether its content is kept out of plans, diffs and logs. Without `mode` it is created with 0600.",
        ),
    ],
    notes: "At most one of `content` and `source` may be there. Without both the content is left alone, and only the \
attributes of a file that exists are managed. Variables (`${vars.name}`) are replaced in `content`, not in the bytes \
of a `source`.\n\n\
A `whole` file inside a path that a service declares in `writes` is a mistake: two would own it.\n\n\
Directories above that are missing are created (0755, root); declare them where they shall be otherwise.",
    example: r#"[file."/etc/motd"]
content = "managed; ask before you change it\n"
mode    = "0644"
"#,
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> File {
    if r.has("content") && r.has("source") {
        let text = format!("{} has both `content` and `source`", r.address);
        let d = crate::diagnostic::Diagnostic::error("two-contents", r.at("content"), text);
        r.wrong(d.label(r.at("source"), "the other one").help("keep one of them"));
    }
    let at = r.at("content");
    let inline = r.parsed("content", |t| Ok(t.to_owned())).map(|t| r.report.inline(t.into_bytes(), at));
    let source = r.source("source");
    let ownership = r.choice("ownership", &[("whole", Ownership::Whole), ("seed", Ownership::Seed)]);
    if ownership == Ownership::Seed && !r.has("content") && !r.has("source") {
        let text = format!("{} is a seed, but says nothing that it could be created with", r.address);
        r.wrong(crate::diagnostic::Diagnostic::error("seed-without-content", r.at("ownership"), text));
    }
    File {
        path: r.address.name.clone(),
        content: inline.or(source),
        attributes: r.attributes(),
        ownership,
        secret: r.flag("secret"),
    }
}
