//! `file`: a regular file.

use serde::{Deserialize, Serialize};

use super::{Attributes, Content};

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
