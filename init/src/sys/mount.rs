//! Mounting: option words to flags and data, what is mounted, and mount(2).

use std::io;
use std::path::Path;

use cm_core::mountinfo::{Tree, unescape};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{SYSFS_MAGIC, statfs};

use super::{point, remount};

/// Options taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2).
    pub flags: MsFlags,
    /// What is left for the file system, separated by commas.
    pub data: String,
    /// A change of propagation, which takes a call of its own.
    pub propagation: MsFlags,
}

/// A flag and whether the word sets or clears it.
pub(super) fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "nolazytime" => (MsFlags::MS_LAZYTIME, false),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "silent" => (MsFlags::MS_SILENT, true),
        "loud" => (MsFlags::MS_SILENT, false),
        "iversion" => (MsFlags::MS_I_VERSION, true),
        "noiversion" => (MsFlags::MS_I_VERSION, false),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        "remount" => (MsFlags::MS_REMOUNT, true),
        "move" => (MsFlags::MS_MOVE, true),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) if ["shared", "slave", "private", "unbindable"].contains(&rest) => (rest, MsFlags::MS_REC),
        _ => (word, MsFlags::empty()),
    };
    let flag = match word {
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "private" => MsFlags::MS_PRIVATE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(flag | recursive)
}

/// Words of fstab(5) that are for programs other than the kernel.
fn is_comment(word: &str) -> bool {
    let plain =
        ["", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail"];
    plain.contains(&word) || word.starts_with("x-") || word.starts_with("X-") || word.starts_with("comment=")
}

/// Takes options apart, as mount(8) does: later words win.
pub fn options(text: &str) -> Options {
    let mut out = Options { flags: MsFlags::empty(), data: String::new(), propagation: MsFlags::empty() };
    for word in text.split(',') {
        if let Some((flag, set)) = flag(word) {
            out.flags.set(flag, set);
        } else if let Some(kind) = propagation(word) {
            out.propagation = kind;
        } else if !is_comment(word) {
            if !out.data.is_empty() {
                out.data.push(',');
            }
            out.data.push_str(word);
        }
    }
    out
}

/// One line of mountinfo, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub path: String,
    /// Type.
    pub fstype: String,
    /// Source, as it was given.
    pub source: String,
    /// Number of its device, `MAJOR:MINOR`.
    pub device: String,
    /// Options of this mount alone, separated by commas.
    pub options: String,
    /// Options of the file system, wherever it is mounted, as far as it tells them.
    pub superblock: String,
}

/// A line of a mountinfo text.
pub fn read(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let (mut left, mut right) = (left.split(' ').skip(2), right.split(' '));
    let device = left.next()?.to_owned();
    Some(Mounted {
        device,
        path: unescape(left.nth(1)?),
        options: left.next()?.to_owned(),
        fstype: unescape(right.next()?),
        source: unescape(right.next()?),
        superblock: unescape(right.next().unwrap_or_default()),
    })
}

/// The lines of a mountinfo text, in its order; which of them a path leads to, the tree of them tells
/// ([`cm_core::mountinfo::Tree`]).
pub fn mounted(mountinfo: &str) -> Vec<Mounted> {
    mountinfo.lines().filter_map(read).collect()
}

/// Where the kernel lists its block devices by number; none without a sysfs, as in a container that has an empty `/sys`:
/// there nothing tells whether a device is gone.
fn devices() -> Option<&'static Path> {
    let path = Path::new("/sys/dev/block");
    let real = statfs(path).is_ok_and(|s| s.filesystem_type() == SYSFS_MAGIC);
    real.then_some(path)
}

impl Mounted {
    /// Its device was pulled out, or has died: every read and write of it is an error.
    pub fn is_dead(&self) -> bool {
        devices().is_some_and(|listed| self.is_missing_in(listed))
    }

    /// Whether it has a device that would be in this list if it were there. File systems without a device have numbers
    /// whose first part is 0; those on flash have one of a block device that is there only if its driver is.
    fn is_missing_in(&self, devices: &Path) -> bool {
        const MTD_BLOCK: &str = "31";
        let major = self.device.split(':').next();
        // What cannot be looked at is not known to be gone.
        major.is_some_and(|major| !["0", MTD_BLOCK].contains(&major))
            && std::fs::symlink_metadata(devices.join(&self.device))
                .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }
}

/// The list of what is mounted now.
///
/// # Errors
/// When `/proc` is not there.
pub fn table() -> io::Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo")
}

/// What is mounted now.
///
/// # Errors
/// When `/proc` is not there.
pub fn now() -> io::Result<Vec<Mounted>> {
    Ok(mounted(&table()?))
}

/// The mount that hides what is mounted at a path, if there is such a thing and the hiding one's point is not among those
/// `above` that are known to lie there.
pub fn hiding(tree: &Tree<'_>, path: &str, above: &[&str]) -> Option<Mounted> {
    if tree.at(path).is_some() || !tree.lists(path) {
        return None;
    }
    let hiding = read(tree.holding(path)?)?;
    (hiding.path != "/" && !above.contains(&hiding.path.as_str())).then_some(hiding)
}

/// Mounts at a canonical path, with everything that one call of mount(2) cannot do. What fails half-way is taken away
/// again: it would stand without what was to protect it.
///
/// # Errors
/// What mount(2) said.
pub fn carry_out(source: &Path, place: &str, fstype: &str, declared: &str) -> io::Result<()> {
    let wanted = options(declared);
    let data = (!wanted.data.is_empty()).then_some(wanted.data.as_str());
    {
        let (_open, target) = point::open(place)?;
        mount(Some(source), &target, Some(fstype), wanted.flags, data)?;
    }
    let done = finish(place, &wanted, declared);
    // What stood before, here or elsewhere, is not ours to take away.
    let made = !wanted.flags.intersects(MsFlags::MS_REMOUNT | MsFlags::MS_MOVE);
    if done.is_err() && made {
        umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    done
}

fn finish(place: &str, wanted: &Options, declared: &str) -> io::Result<()> {
    // mount(2): a bind mount takes no other flag at once, only by a remount of its own.
    let plain = MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_SILENT;
    if wanted.flags.contains(MsFlags::MS_BIND)
        && !wanted.flags.contains(MsFlags::MS_REMOUNT)
        && wanted.flags.difference(plain) != MsFlags::empty()
    {
        // That has the flags of its source by now, and a remount drops what it does not name.
        let standing = remount::top(place).ok_or(io::ErrorKind::NotFound)?;
        remount::complete(&standing, declared)?;
    }
    if wanted.propagation != MsFlags::empty() {
        let (_open, target) = point::open(place)?;
        mount(None::<&str>, &target, None::<&str>, wanted.propagation, None::<&str>)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_and_data() {
        let got =
            options("defaults,ro,noexec,size=10m,x-systemd.automount,exec,rslave,nodev,mode=0755,nofail");
        assert_eq!(got.flags, MsFlags::MS_RDONLY | MsFlags::MS_NODEV);
        assert_eq!(
            (got.data.as_str(), got.propagation),
            ("size=10m,mode=0755", MsFlags::MS_SLAVE | MsFlags::MS_REC)
        );
        assert_eq!(options("").data, "");
        assert_eq!(options("ro,rw").flags, MsFlags::empty());
        assert_eq!(options("rbind").flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(options("relatime").flags, MsFlags::MS_RELATIME);
    }

    #[test]
    fn lines_of_mountinfo() {
        let got = mounted("36 35 98:0 /r /mnt\\040x rw,noatime shared:1 - ext4 /dev/vda1 rw\nnonsense\n");
        assert_eq!(
            got,
            [Mounted {
                path: "/mnt x".into(),
                fstype: "ext4".into(),
                source: "/dev/vda1".into(),
                device: "98:0".into(),
                options: "rw,noatime".into(),
                superblock: "rw".into(),
            }]
        );
        assert!(now().unwrap().iter().any(|m| m.path == "/"));
    }

    #[test]
    fn only_what_nobody_has_declared_hides() {
        let text = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:2 / /a rw - tmpfs a rw\n3 2 0:3 / /a/b/c rw - tmpfs c rw\n\
                    4 2 0:4 / /a/b rw - ramfs theirs rw\n5 1 0:5 / /d rw - tmpfs d rw\n";
        let tree = Tree::read(text);
        let by = |path: &str, above: &[&str]| hiding(&tree, path, above).map(|m| (m.path, m.source));
        assert_eq!(by("/a/b/c", &["/a"]), Some(("/a/b".to_owned(), "theirs".to_owned())));
        assert_eq!(by("/a/b/c", &["/a", "/a/b"]), None, "it is about to be mounted on that");
        assert_eq!((by("/a/b", &[]), by("/a/b/x", &[]), by("/d", &[])), (None, None, None));
    }

    #[test]
    fn only_a_block_device_that_is_not_listed_is_missing() {
        let devices = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../devices/elsewhere", devices.path().join("8:1")).unwrap();
        let missing = |device: &str| {
            let text = format!("36 35 {device} / /srv rw - ext4 /dev/x rw\n");
            mounted(&text).iter().all(|m| m.is_missing_in(devices.path()))
        };
        assert!(missing("8:2"), "its device is gone");
        assert!(!missing("8:1"), "its device is there");
        assert!(!missing("0:45"), "it has none");
        assert!(!missing("31:0"), "flash has one only for its number");
    }
}
