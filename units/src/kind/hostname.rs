//! `hostname`: the name of the machine.

use serde::{Deserialize, Serialize};

/// Checked form of the `[hostname.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostname {
    /// At most 64 bytes; sethostname(2).
    pub value: String,
}
