//! `directory`: a directory.

use serde::{Deserialize, Serialize};

use super::Attributes;
use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[directory."PATH"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Canonical absolute path.
    pub path: String,
    /// Owner, group, mode, extended attributes.
    pub attributes: Attributes,
    /// Whether entries that nobody declared are removed (saved in the store first).
    pub purge: bool,
    /// Names of the declared direct entries, sorted; only filled when `purge` is set.
    pub entries: Vec<String>,
}

impl Directory {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Directory) -> Vec<&'static str> {
        let mut keys = crate::diff::differing!(self, new, Directory {
            path => "path", attributes => "", purge => "purge", entries => "entries",
        });
        keys.extend(self.attributes.differing(&new.attributes));
        keys.retain(|k| !k.is_empty());
        keys
    }
}

/// What a `[directory."PATH"]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Directory,
    summary: "A directory, and with `source` everything below it.",
    header: "[directory.\"PATH\"]",
    fields: &[
        field("mode", Type::Mode, Without::Unset("left alone; 0755 when it is created"), "Permission bits."),
        field("owner", Type::Account, Without::Unset("left alone; root when it is created"), "Owner."),
        field("group", Type::Account, Without::Unset("left alone; root when it is created"), "Group."),
        field("xattrs", Type::Table, Without::Unset("left alone"), "Extended attributes by full name."),
        field(
            "purge",
            Type::Flag,
            Without::Is("false"),
            "Whether entries that the state names nowhere are removed; they are saved in the store first. Never across a mount.",
        ),
        field(
            "source",
            Type::Source,
            Without::Unset("an empty directory"),
            "A directory whose files, directories and links are declared below this one.",
        ),
        field(
            "file-mode",
            Type::Mode,
            Without::Unset("0755 for executable sources, else 0644"),
            "Permission bits of the files from `source`.",
        ),
        field(
            "dir-mode",
            Type::Mode,
            Without::Unset("`mode`, else 0755"),
            "Permission bits of the directories from `source`.",
        ),
    ],
    notes: "With `source`, every file, directory and symbolic link below the source directory becomes a unit of its \
own (`file:PATH/x` and so on) when the state is compiled, with the owner, group, `drift`, `settle` and `on-removal` \
of this table. A unit that is declared by its own table wins over the one from the tree. Who requires the directory, \
or reloads or restarts on it, does so on everything that came from its source.\n\n\
The nearest managed directory above a path is required by it without being named.\n\n\
What `purge` leaves is every path that the state names, with all that is in it: of units, but also the homes of declared \
users, what a service writes, its `pid-file`, its working directory and what it is ready by, what an exec creates, and \
programs. A directory in which a service writes cannot be purged: that is a mistake. A user who is no longer declared keeps \
his entry in the user database, but not a home in a directory with `purge`.\n\n\
Pipes, sockets and devices stay too: no rollback could bring them back. So do Holdfast's own directories: its store, its \
logs, its run-time directory and what it boots from; a directory in one of them, but for the run-time directory, is not purged at all.\n\n\
A file system that is mounted below a directory with `purge` is none of its entries: nothing behind the mount is removed, \
and the directory is `not kept: a file system is mounted at …` until it is unmounted or declared as a `mount`. The same \
holds for what somebody mounts over the directory itself.",
    example: r#"[directory."/srv/www"]
source = "www"
owner  = "www-data"
"#,
};

/// Modes of what comes from a directory's source.
#[cfg(feature = "language")]
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub source: String,
    pub file_mode: Option<u32>,
    pub directory_mode: Option<u32>,
}

/// Reads the table; entries come later, when every unit is known.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> (Directory, Option<Tree>) {
    let attributes = r.attributes();
    let (file_mode, directory_mode) = (r.mode("file-mode"), r.mode("dir-mode"));
    let source = r.text("source");
    if source.is_none() {
        for key in ["file-mode", "dir-mode"] {
            if !r.has(key) {
                continue;
            }
            let text = format!("`{key}` means nothing without `source`");
            r.wrong(crate::diagnostic::Diagnostic::error("useless-key", r.at(key), text));
        }
    }
    let directory_mode = directory_mode.or(attributes.mode);
    let tree = source.map(|source| Tree { source, file_mode, directory_mode });
    let directory =
        Directory { path: r.address.name.clone(), attributes, purge: r.flag("purge"), entries: Vec::new() };
    (directory, tree)
}
