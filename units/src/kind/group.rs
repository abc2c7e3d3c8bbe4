//! `group`: an entry of the group database.

use serde::{Deserialize, Serialize};

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
