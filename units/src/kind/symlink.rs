//! `symlink`: a symbolic link.

use serde::{Deserialize, Serialize};

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
