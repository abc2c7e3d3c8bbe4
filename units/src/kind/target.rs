//! `target`: a named group of units, ready when all that it requires are.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::Table;

/// Checked form of a `[target.NAME]` table: only edges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {}

/// What a `[target.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Target,
    summary: "A named group of units, ready when all that it requires are.",
    header: "[target.NAME]",
    fields: &[],
    notes: "It has only the common keys: `requires` names its members.",
    example: r#"[target.online]
requires = ["sysctl:net.core.somaxconn"]

[sysctl."net.core.somaxconn"]
value = 4096
"#,
};
