//! `module`: a kernel module.

use serde::{Deserialize, Serialize};

/// Checked form of a `[module.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name with underscores.
    pub name: String,
    /// Parameters, as on modprobe's command line.
    pub parameters: Vec<String>,
}
