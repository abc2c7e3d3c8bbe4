//! Unmounting, one file system or all of them, and who holds one. For helpers: it waits for disks.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use cm_core::mountinfo::unescape;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mount::{self, Mounted};

/// File systems that stay until the end: the kernel's own interfaces, and what PID 1 itself stands on.
const KEPT: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/"];

/// What a file system could not be let go for.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// It is not a mount point.
    #[error("cannot unmount \"{0}\": it is not mounted")]
    NotMounted(String),
    /// The kernel refused; who holds it, as far as /proc tells.
    #[error("cannot unmount \"{path}\": {cause}{holders}")]
    Refused {
        /// The mount point.
        path: String,
        /// `; held by sh (pid 7), …`, or nothing.
        holders: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// Unmounts what is mounted last at `path`, which is canonical.
///
/// # Errors
/// When nothing is mounted there, or it is in use.
pub fn one(path: &str) -> Result<(), UnmountError> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        // umount(2): EINVAL is "not a mount point" too.
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Err(UnmountError::NotMounted(path.to_owned())),
        Err(e) => {
            let names = if e == nix::Error::EBUSY { holders(path) } else { Vec::new() };
            let holders =
                if names.is_empty() { String::new() } else { format!("; held by {}", names.join(", ")) };
            Err(UnmountError::Refused { path: path.to_owned(), holders, cause: e.into() })
        }
    }
}

/// Takes away what stands at `path` and has lost its device: it gives nothing but errors, and may be in use, so that
/// it goes from the tree at once and from the kernel when its last user does.
///
/// # Errors
/// What umount2(2) said.
pub fn dead(path: &str) -> io::Result<()> {
    while super::remount::top(path).is_some_and(|m| m.is_dead()) {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// The processes with something open below `path`, as `name (pid N)`; at most ten.
pub fn holders(path: &str) -> Vec<String> {
    let below = |target: &Path| target.starts_with(path);
    let link = |p: std::path::PathBuf| std::fs::read_link(p).is_ok_and(|t| below(&t));
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let base = entry.path();
        let maps = || {
            let text = std::fs::read_to_string(base.join("maps")).unwrap_or_default();
            text.lines().filter_map(|l| l.split_once('/')).any(|(_, p)| below(Path::new(&format!("/{p}"))))
        };
        let files = || {
            let fds = std::fs::read_dir(base.join("fd")).into_iter().flatten().flatten();
            fds.map(|f| f.path()).any(link)
        };
        if ["cwd", "root", "exe"].iter().any(|l| link(base.join(l))) || files() || maps() {
            let name = std::fs::read_to_string(base.join("comm")).unwrap_or_default();
            out.push(format!("{} (pid {pid})", name.trim()));
            if out.len() == 10 {
                break;
            }
        }
    }
    out
}

/// What is left to do at the end of a machine: swap off, everything unmounted, the rest made read-only. Returns
/// what could not be done.
pub fn all() -> Vec<String> {
    let mut failed = Vec::new();
    for device in swaps(&std::fs::read_to_string("/proc/swaps").unwrap_or_default()) {
        if let Err(e) = super::raw::swapoff(&device) {
            failed.push(format!("cannot stop swapping to \"{device}\": {e}"));
        }
    }
    // A file system that was held by another one's mount comes free when that is gone: until a round does nothing.
    let mut errors;
    loop {
        let mut progress = false;
        errors = Vec::new();
        for path in leaving(&mount::now().unwrap_or_default()) {
            match one(&path) {
                Ok(()) => progress = true,
                Err(UnmountError::NotMounted(_)) => {}
                Err(e) => errors.push((path, e.to_string())),
            }
        }
        if !progress {
            break;
        }
    }
    errors.push(("/".to_owned(), String::new()));
    for (path, why) in errors {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let result = mount(None::<&str>, path.as_str(), None::<&str>, flags, None::<&str>)
            // Of a bind mount or one of another namespace only the mount itself can be changed.
            .or_else(|_| {
                mount(None::<&str>, path.as_str(), None::<&str>, flags | MsFlags::MS_BIND, None::<&str>)
            });
        match result {
            Ok(()) if why.is_empty() => {}
            Ok(()) => failed.push(format!("{why}; it is read-only now")),
            Err(e) if why.is_empty() => failed.push(format!("cannot make \"{path}\" read-only: {e}")),
            Err(_) => failed.push(why),
        }
    }
    failed
}

/// Mount points to be unmounted, last mounted first.
fn leaving(mounted: &[Mounted]) -> Vec<String> {
    let kept = |path: &str| {
        KEPT.iter()
            .any(|k| path == *k || (*k != "/" && path.strip_prefix(k).is_some_and(|r| r.starts_with('/'))))
    };
    // What is below /dev, /proc, /sys and /run holds nobody up and is in memory, unless somebody put a disk there.
    let is_disk = |m: &Mounted| m.source.starts_with("/dev/");
    let mut seen = BTreeSet::new();
    mounted
        .iter()
        .rev()
        .filter(|m| !kept(&m.path) || (is_disk(m) && m.path != "/" && !KEPT.contains(&m.path.as_str())))
        .filter(|m| seen.insert((m.path.clone(), m.source.clone())))
        .map(|m| m.path.clone())
        .collect()
}

/// The devices and files of `/proc/swaps`.
fn swaps(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|l| l.split_ascii_whitespace().next()).map(unescape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_in_which_order() {
        let text = "1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:5 / /proc rw - proc proc rw\n3 1 0:6 / /dev rw - devtmpfs x rw\n\
                    4 3 0:7 / /dev/shm rw - tmpfs tmpfs rw\n5 1 8:2 / /srv rw - ext4 /dev/vdb rw\n\
                    6 5 8:3 / /srv/deep rw - ext4 /dev/vdc rw\n7 1 0:9 / /run rw - tmpfs tmpfs rw\n\
                    8 7 8:9 / /run/media/x rw - ext4 /dev/sdb rw\n9 1 0:11 / /runner rw - tmpfs t rw\n";
        assert_eq!(leaving(&mount::mounted(text)), ["/runner", "/run/media/x", "/srv/deep", "/srv"]);
        assert_eq!(swaps("Filename Type\n/swap\\040file file 1 0 -2\n"), ["/swap file"]);
    }
}
