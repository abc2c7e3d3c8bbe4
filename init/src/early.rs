//! What a machine's first process finds missing: the kernel's own file systems, /dev and /run.
//!
//! Only the init of a machine does this. In a container these are the runtime's business, and declared mounts are
//! tried like everywhere else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};

/// The file system that must be first: it says what else is there.
const PROC: &str = "/proc";

/// In the order in which they are mounted: where, type, flags, options.
fn table() -> [(&'static str, &'static str, MsFlags, &'static str); 6] {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    [
        ("/sys", "sysfs", quiet, ""),
        ("/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
        // Group 5 is tty wherever there are terminals.
        ("/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"),
        ("/dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777"),
        ("/run", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755"),
        ("/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate,memory_recursiveprot"),
    ]
}

/// Links that programs expect in /dev: path and target.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Mounts /proc if nothing is there, so that this process can learn where it is. Tells whether it did.
pub fn mount_proc() -> bool {
    if Path::new("/proc/self").exists() {
        return false;
    }
    // Fails where it already exists, and where a root that cannot be written lacks it: the mount tells.
    let _ = fs::create_dir(PROC);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), PROC, Some("proc"), flags, None::<&str>).is_ok()
}

/// Takes back what [`mount_proc`] did: this is a container, whose runtime did not want it.
pub fn unmount_proc() {
    let _ = umount(PROC);
}

/// Mounts what is not mounted yet; gives a sentence for each that cannot be.
pub fn mount_all() -> Vec<String> {
    let listed = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let there: BTreeSet<&str> = listed.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    let mut complaints = Vec::new();
    for (at, kind, flags, options) in table() {
        if there.contains(at) {
            continue;
        }
        let _ = fs::create_dir_all(at);
        if let Err(e) = mount(Some(kind), at, Some(kind), flags, Some(options)) {
            complaints.push(format!("cannot mount {kind} at {at}: {e}"));
        }
    }
    for (link, target) in LINKS {
        // What the kernel or an earlier init made stays.
        let _ = symlink(target, link);
    }
    complaints
}

/// The value of a word `KEY=VALUE` on the kernel's command line; the last one counts.
pub fn kernel_word<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = command_line.split_whitespace().filter_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    words.next_back().filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_kernel() {
        let line =
            "console=ttyS0 holdfast.state=/a holdfast.stately=/b quiet holdfast.state=/c holdfast.x=\n";
        assert_eq!(kernel_word(line, "holdfast.state"), Some("/c"));
        assert_eq!(kernel_word(line, "holdfast.x"), None);
        assert_eq!(kernel_word(line, "quiet"), None);
    }
}
