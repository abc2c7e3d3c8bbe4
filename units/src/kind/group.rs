//! `group`: an entry of the group database.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[group.NAME]` table. What is `None` is not owned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// Number; the next free one (system range with `system`) without.
    pub gid: Option<u32>,
    /// Whether a free number is taken from the system range.
    pub system: bool,
}

impl Group {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Group) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Group { name => "name", gid => "gid", system => "system" })
    }
}

/// What a `[group.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Group,
    summary: "An entry of the group database.",
    header: "[group.NAME]",
    fields: &[
        field(
            "gid",
            Type::Integer { min: 0, max: 4_294_967_294, of: "" },
            Without::Unset("the next free one"),
            "Number of the group.",
        ),
        field(
            "system",
            Type::Flag,
            Without::Is("false"),
            "Whether a free number is taken from the system range.",
        ),
    ],
    notes: "Only the entry is owned; members are added, and taken out again, by the users that name the group.\n\nA group that is no longer declared stays while it is the primary group of somebody: also of a user without `purge` who is no longer declared, since he is locked and keeps his entry. `plan` says so. It goes with him, should he be declared with `purge` and go.",
    example: "[group.deploy]\ngid = 1500\n",
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Group {
    Group { name: r.address.name.clone(), gid: r.optional_integer("gid"), system: r.flag("system") }
}
