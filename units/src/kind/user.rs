//! `user`: an entry of the user database.

use serde::{Deserialize, Serialize};

/// Checked form of a `[user.NAME]` table. What is `None` is not owned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number; the next free one (system range with `system`) without.
    pub uid: Option<u32>,
    /// Primary group, name or number; a group of the same name without.
    pub group: Option<String>,
    /// Supplementary groups that the user must be in.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: Option<String>,
    /// Login shell.
    pub shell: Option<String>,
    /// The comment field.
    pub comment: Option<String>,
    /// A crypt(5) hash; reported, not repaired, when it differs.
    pub password_hash: Option<String>,
    /// Whether a free number is taken from the system range.
    pub system: bool,
    /// Whether the home directory is made (0700) when missing.
    pub create_home: bool,
    /// Whether the entry is removed (instead of locked) when it is no longer declared.
    pub purge: bool,
}
