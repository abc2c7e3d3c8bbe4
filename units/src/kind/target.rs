//! `target`: a named group of units, ready when all that it requires are.

use serde::{Deserialize, Serialize};

/// Checked form of a `[target.NAME]` table: only edges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {}
