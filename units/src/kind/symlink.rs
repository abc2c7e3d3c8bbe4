//! `symlink`: a symbolic link.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[symlink."PATH"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symlink {
    /// Canonical absolute path of the link itself.
    pub path: String,
    /// What it points to, as written into the link.
    pub target: String,
    /// User name or number of the owner.
    pub owner: Option<String>,
    /// Group name or number.
    pub group: Option<String>,
}

impl Symlink {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Symlink) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Symlink {
            path => "path", target => "target", owner => "owner", group => "group",
        })
    }
}

/// What a `[symlink."PATH"]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Symlink,
    summary: "A symbolic link.",
    header: "[symlink.\"PATH\"]",
    fields: &[
        field("target", Type::Text, Without::Required, "What it points to, as written into the link."),
        field(
            "owner",
            Type::Account,
            Without::Unset("left alone; root when it is created"),
            "Owner of the link.",
        ),
        field(
            "group",
            Type::Account,
            Without::Unset("left alone; root when it is created"),
            "Group of the link.",
        ),
    ],
    notes: "The target may be relative, and need not exist.",
    example: "[symlink.\"/etc/localtime\"]\ntarget = \"/usr/share/zoneinfo/Etc/UTC\"\n",
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Symlink {
    let check = |t: &str| match !t.is_empty() && t.len() < 4096 && !t.contains(['\0', '\n']) {
        true => Ok(t.to_owned()),
        false => Err(crate::value::ValueError::new("a link needs a target of 1 to 4095 bytes in one line")),
    };
    Symlink {
        path: r.address.name.clone(),
        target: r.parsed("target", check).unwrap_or_default(),
        owner: r.account("owner"),
        group: r.account("group"),
    }
}
