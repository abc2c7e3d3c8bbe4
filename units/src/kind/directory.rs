//! `directory`: a directory.

use serde::{Deserialize, Serialize};

use super::Attributes;

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
