//! `sysctl`: a kernel setting below `/proc/sys`.

use serde::{Deserialize, Serialize};

/// Checked form of a `[sysctl."KEY"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Path below `/proc/sys`, with slashes.
    pub key: String,
    /// Value as written, without a newline.
    pub value: String,
}
