//! `mount`: a mounted file system.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// How long mounting may take where nothing else is declared, in milliseconds.
const USUAL_TIMEOUT: u64 = 90_000;

/// Checked form of a `[mount."PATH"]` table. Manifests of programs that did not know the last two keys end before them, and
/// one that says nothing new is the same in bytes: its mount is not done anew.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
    /// Whether the file system is checked before it is mounted.
    #[serde(deserialize_with = "said_or_not")]
    pub check: bool,
    /// Milliseconds that mounting, without the wait for the device and the check, or unmounting may take; 0 is no limit.
    #[serde(deserialize_with = "said_or_usual")]
    pub timeout: u64,
}

/// At the very end of a specification, where it may be missing.
fn said_or_not<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(bool::deserialize(from).unwrap_or_default())
}

fn said_or_usual<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(from).unwrap_or(USUAL_TIMEOUT))
}

impl Serialize for Mount {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let timeout = self.timeout != USUAL_TIMEOUT;
        let mut out =
            to.serialize_struct("Mount", 5 + usize::from(self.check || timeout) + usize::from(timeout))?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("source", &self.source)?;
        out.serialize_field("fstype", &self.fstype)?;
        out.serialize_field("options", &self.options)?;
        out.serialize_field("device_timeout", &self.device_timeout)?;
        if self.check || timeout {
            out.serialize_field("check", &self.check)?;
        }
        if timeout {
            out.serialize_field("timeout", &self.timeout)?;
        }
        out.end()
    }
}

impl Default for Mount {
    fn default() -> Mount {
        Mount {
            path: String::new(),
            source: String::new(),
            fstype: String::new(),
            options: Vec::new(),
            device_timeout: 0,
            check: false,
            timeout: USUAL_TIMEOUT,
        }
    }
}

impl Mount {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Mount) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Mount {
            path => "path", source => "source", fstype => "fstype", options => "options",
            device_timeout => "device-timeout", check => "check", timeout => "timeout",
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
        field(
            "check",
            Type::Flag,
            Without::Is("false"),
            "Whether the file system is checked, and repaired where that is safe, before it is mounted.",
        ),
        field(
            "timeout",
            Type::Duration,
            Without::Is("90s"),
            "Time that mounting, without the wait for the device and the check, and unmounting may take; 0 is no limit.",
        ),
    ],
    notes: "What lies below a managed mount requires it, services that work there are bound to it: they stop when it is \
lost. The mount point is created (0755) when it is missing; what was created goes when the mount is not declared any more, if it \
is empty. What stands there already is given the options that it \
lacks, and they are given back in place when somebody changes them; options that are not declared, and what the kernel \
does not show in `/proc/self/mountinfo`, are left as they are. Another type or source at the place is an error. One that an \
undeclared mount further up hides is lost until that is gone, and is not mounted on it. A path may lead to the mount point \
through links that root owns; what is on the mount is declared by the same path.\n\n\
`check` runs `fsck.TYPE -a` on the device, as fstab(5) has it done for a pass other than 0: what that repairs is told in \
the kernel's log; where it leaves errors the file system is not mounted, and the unit says why. Without such a program, and where \
the device is mounted already, nothing is checked, and that is told. ext4 and xfs replay their journals in the kernel \
without it.\n\n\
Mounting or unmounting that takes longer than `timeout` is killed, the unit is not kept, and it is tried again later; an \
apply returns.\n\n\
A difference in any key unmounts it and mounts it again, after what works there has stopped.",
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
    let options = r.texts("options");
    let check = r.flag("check");
    let bound = options.iter().flat_map(|o| o.split(',')).any(|o| ["bind", "rbind", "move"].contains(&o));
    if check && (bound || WITHOUT_DEVICE.contains(&fstype.as_str())) {
        let text =
            format!("`check` means nothing for {}: there is no device that could be checked", r.address);
        r.wrong(crate::diagnostic::Diagnostic::error("useless-key", r.at("check"), text));
    }
    Mount {
        path: r.address.name.clone(),
        source: source.unwrap_or_else(|| fstype.clone()),
        fstype,
        options,
        device_timeout: r.duration("device-timeout"),
        check,
        timeout: r.duration("timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Spec;

    /// What a program wrote that knew no `check`: the same fields, in the same order.
    #[derive(Serialize)]
    struct Before(&'static str, &'static str, &'static str, Vec<String>, u64);

    #[test]
    fn manifests_without_the_last_keys_read_and_stay_the_same() {
        let mut mount = Mount {
            path: "/m".into(),
            source: "/dev/x".into(),
            fstype: "ext4".into(),
            options: vec!["ro".into()],
            device_timeout: 7,
            ..Mount::default()
        };
        let before = postcard::to_allocvec(&Before("/m", "/dev/x", "ext4", vec!["ro".into()], 7)).unwrap();
        assert_eq!(postcard::to_allocvec(&mount).unwrap(), before);
        assert_eq!(postcard::from_bytes::<Mount>(&before).unwrap(), mount);
        mount.check = true;
        // One that knew no `timeout`.
        let checked = [&before[..], &[1]].concat();
        assert_eq!(postcard::to_allocvec(&mount).unwrap(), checked);
        for (check, timeout) in [(true, USUAL_TIMEOUT), (false, 0), (true, 5)] {
            (mount.check, mount.timeout) = (check, timeout);
            let spec = Spec::Mount(mount.clone());
            let bytes = postcard::to_allocvec(&spec).unwrap();
            assert_eq!(postcard::from_bytes::<Spec>(&bytes).unwrap(), spec);
        }
    }
}
