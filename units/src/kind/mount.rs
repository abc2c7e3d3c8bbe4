//! `mount`: a mounted file system.

use serde::{Deserialize, Serialize};

/// Checked form of a `[mount."PATH"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Canonical absolute path of the mount point; created (0755) when missing.
    pub path: String,
    /// Device, `LABEL=…`, `UUID=…`, or the name of a pseudo file system.
    pub source: String,
    /// File system type, as in `/proc/filesystems`.
    pub fstype: String,
    /// Options, as in fstab(5), in the written order.
    pub options: Vec<String>,
    /// Milliseconds to wait for the source device to appear; 0 waits for ever.
    pub device_timeout: u64,
}
