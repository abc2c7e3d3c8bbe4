//! `mount`: a mounted file system.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

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

impl Mount {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Mount) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Mount {
            path => "path", source => "source", fstype => "fstype", options => "options",
            device_timeout => "device-timeout",
        })
    }
}

/// What a `[mount."PATH"]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Mount,
    summary: "A mounted file system.",
    header: "[mount.\"PATH\"]",
    fields: &[
        field("fstype", Type::Text, Without::Required, "File system type, as in /proc/filesystems."),
        field(
            "source",
            Type::Text,
            Without::Unset("the type, for file systems without a device"),
            "Device, `LABEL=…`, `UUID=…`, `PARTLABEL=…` or `PARTUUID=…`.",
        ),
        field("options", Type::Texts, Without::Unset("none"), "Options, as in fstab(5)."),
        field(
            "device-timeout",
            Type::Duration,
            Without::Is("0"),
            "Time to wait for the device; 0 waits for ever.",
        ),
    ],
    notes: "What lies below a managed mount requires it, services that work there are bound to it: they stop when it is \
lost. The mount point is created (0755) when it is missing. What stands there already is given the options that it \
lacks, and they are given back in place when somebody changes them; options that are not declared, and what the kernel \
does not show in `/proc/self/mountinfo`, are left as they are. Another type or source at the place is an error. One that an undeclared mount further up hides \
is lost until that is gone, and is not mounted on it.",
    example: r#"[mount."/srv/cache"]
fstype  = "tmpfs"
options = ["size=64M", "mode=0755"]
"#,
};

/// File systems that need no device: their source is but a name.
pub const WITHOUT_DEVICE: [&str; 17] = [
    "tmpfs",
    "ramfs",
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "overlay",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "configfs",
    "securityfs",
    "bpf",
    "efivarfs",
];

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Mount {
    let fstype = r.line("fstype").unwrap_or_default();
    let source = r.line("source");
    if source.is_none() && !r.has("source") && r.has("fstype") && !WITHOUT_DEVICE.contains(&fstype.as_str()) {
        let text = format!("{} needs `source`: `{fstype}` does not work without a device", r.address);
        let help = "say the device: `source = \"/dev/vda1\"` or `\"LABEL=data\"`";
        r.wrong(crate::diagnostic::Diagnostic::error("missing-key", r.header, text).help(help));
    }
    Mount {
        path: r.address.name.clone(),
        source: source.unwrap_or_else(|| fstype.clone()),
        fstype,
        options: r.texts("options"),
        device_timeout: r.duration("device-timeout"),
    }
}
