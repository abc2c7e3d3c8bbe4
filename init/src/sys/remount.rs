//! What stands at a place already: whether it is what is declared, and giving it the options that it lacks.
//!
//! Only declared options are compared, and only with what mountinfo shows: what nobody asked for stays as it is (a
//! disk that the kernel made read-only after an error is not made writable), and what the kernel keeps to itself is no
//! difference.

use std::io;
use std::path::Path;

use cm_core::mountinfo::Tree;
use nix::mount::{MsFlags, mount};
use units::kind::mount::WITHOUT_DEVICE;

use super::mount::{Mounted, flag, options, read, table};

/// Flags that every mount has for itself, with the word that mountinfo has for each.
const OF_MOUNT: [(MsFlags, &str); 4] = [
    (MsFlags::MS_NOSUID, "nosuid"),
    (MsFlags::MS_NODEV, "nodev"),
    (MsFlags::MS_NOEXEC, "noexec"),
    (MsFlags::MS_NODIRATIME, "nodiratime"),
];

/// Flags that all mounts of a file system share.
const OF_SUPERBLOCK: [(MsFlags, &str); 4] = [
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
    (MsFlags::MS_LAZYTIME, "lazytime"),
    (MsFlags::MS_MANDLOCK, "mand"),
];

/// When access times are written: one choice of three.
const ATIME: MsFlags = MsFlags::MS_NOATIME.union(MsFlags::MS_RELATIME).union(MsFlags::MS_STRICTATIME);

/// A declared option that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// As it is declared.
    pub option: String,
    /// It is the file system's, not this one mount's.
    superblock: bool,
}

/// What is mounted there, on top and not hidden by a mount further up.
pub fn top(path: &str) -> Option<Mounted> {
    read(Tree::read(&table().unwrap_or_default()).at(path)?)
}

fn is_bind(declared: &str) -> bool {
    options(declared).flags.contains(MsFlags::MS_BIND)
}

/// Why what stands is not what is declared: another type, or another source where that says what it is.
pub fn mistaken(standing: &Mounted, source: &Path, fstype: &str, declared: &str) -> Option<String> {
    let other = || {
        let (kind, from) = (&standing.fstype, &standing.source);
        Some(format!("another file system is mounted there: type \"{kind}\", source \"{from}\""))
    };
    if is_bind(declared) {
        // mountinfo names the disk behind a bind mount, not the directory.
        return if is_same_place(source, Path::new(&standing.path)) { None } else { other() };
    }
    let is_nfs = fstype.starts_with("nfs") && standing.fstype.starts_with("nfs");
    let free = ["auto", "none"].contains(&fstype) || standing.fstype.starts_with("fuse");
    if !free && !is_nfs && standing.fstype != fstype {
        return other();
    }
    let same = WITHOUT_DEVICE.contains(&standing.fstype.as_str())
        || Path::new(&standing.source) == source
        || is_device(source, &standing.device)
        || is_same_place(source, Path::new(&standing.source));
    if same { None } else { other() }
}

fn is_same_place(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
    place(one).is_some_and(|p| Some(p) == place(other))
}

/// Whether the path is the block device of this number: the kernel has names of its own, such as `/dev/root`.
fn is_device(path: &Path, number: &str) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let device = metadata.rdev();
    metadata.file_type().is_block_device()
        && number == format!("{}:{}", libc::major(device), libc::minor(device))
}

/// The declared options that what is mounted there does not have, as far as mountinfo tells.
pub fn differing(standing: &Mounted, declared: &str) -> Vec<Difference> {
    let memory = if standing.fstype == "tmpfs" { pages() } else { None };
    compare(standing, declared, memory)
}

/// How many pages of memory the machine has, as the kernel counts them for the defaults of tmpfs.
fn pages() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes / 4)
}

fn compare(standing: &Mounted, declared: &str, memory: Option<u64>) -> Vec<Difference> {
    let wanted = options(declared);
    let bind = is_bind(declared);
    let of_mount: Vec<&str> = standing.options.split(',').collect();
    let of_superblock: Vec<&str> = standing.superblock.split(',').collect();
    let mut out = Vec::new();
    let mut differs = |option: &str, superblock: bool| {
        out.push(Difference { option: option.to_owned(), superblock });
    };
    // As it is written; of two words for one thing the later one wins.
    let word_of = |about: MsFlags| {
        declared.split(',').rfind(|w| flag(w).is_some_and(|(f, _)| about.contains(f) && !f.is_empty()))
    };
    for (of, table, shown) in [(false, OF_MOUNT, &of_mount), (true, OF_SUPERBLOCK, &of_superblock)] {
        for (about, name) in table {
            if let Some(word) = word_of(about)
                && shown.contains(&name) != wanted.flags.contains(about)
                && !(of && bind)
            {
                differs(word, of);
            }
        }
    }
    if let Some(word) = word_of(MsFlags::MS_RDONLY) {
        let below = !bind && of_superblock.contains(&"ro");
        let ro = wanted.flags.contains(MsFlags::MS_RDONLY);
        if (below || of_mount.contains(&"ro")) != ro {
            differs(word, !bind && (ro || below));
        }
    }
    let choice = |flags: MsFlags| {
        let set = |f| flags.contains(f);
        // do_mount() of the kernel: strictatime beats noatime, which beats relatime, which is what it does unasked.
        match (set(MsFlags::MS_STRICTATIME), set(MsFlags::MS_NOATIME)) {
            (true, _) => "strictatime",
            (false, true) => "noatime",
            (false, false) => "relatime",
        }
    };
    let shown =
        of_mount.iter().copied().find(|w| ["noatime", "relatime"].contains(w)).unwrap_or("strictatime");
    if let Some(word) = word_of(ATIME)
        && !word.starts_with("nor")
        && !word.starts_with("nos")
        && choice(wanted.flags) != shown
    {
        differs(word, false);
    }
    // Network file systems tell what they agreed upon with the other side.
    if !bind && !standing.source.contains(':') && !standing.source.starts_with("//") {
        let words: Vec<&str> = wanted.data.split(',').collect();
        for (n, word) in words.iter().enumerate() {
            let key = word.split('=').next().unwrap_or_default();
            let last = !words.iter().skip(n + 1).any(|w| w.split('=').next() == Some(key));
            if last && !word.is_empty() && !holds(&standing.fstype, word, &of_superblock, memory) {
                differs(word, true);
            }
        }
    }
    out
}

/// Whether the file system shows this option; one that it does not tell of is taken to hold.
fn holds(fstype: &str, word: &str, shown: &[&str], memory: Option<u64>) -> bool {
    let Some((key, value)) = word.split_once('=') else {
        let opposite = word.strip_prefix("no").map_or_else(|| format!("no{word}"), str::to_owned);
        return shown.contains(&word) || !shown.contains(&opposite.as_str());
    };
    let told = shown.iter().find_map(|s| s.split_once('=').filter(|(k, _)| *k == key)).map(|(_, v)| v);
    match (told, fstype, key) {
        (Some(told), "tmpfs", "size") => match (part_of(value, memory), amount(told)) {
            (Some(pages), Some(told)) => told.div_ceil(PAGE).abs_diff(pages) < ROUNDED,
            _ => is_equal(key, value, told),
        },
        (Some(told), _, _) => is_equal(key, value, told),
        // tmpfs(5): it tells all of these, but for the defaults: half of the memory, and as many inodes as pages in it.
        (None, "tmpfs", "size") => match (part_of(value, memory), amount(value), memory) {
            (Some(pages), _, Some(memory)) => pages.abs_diff(memory / 2) < ROUNDED,
            (None, Some(bytes), Some(memory)) => bytes.div_ceil(PAGE).abs_diff(memory / 2) < ROUNDED,
            (_, _, _) => value.ends_with('%'),
        },
        (None, "tmpfs", "nr_inodes") => {
            amount(value).zip(memory).is_some_and(|(inodes, memory)| inodes == memory / 2)
        }
        (None, "tmpfs", "mode") => is_equal(key, value, "1777"),
        (None, "tmpfs", "uid" | "gid") => is_equal(key, value, "0"),
        (None, _, _) => true,
    }
}

/// Bytes of a page, as tmpfs counts its size.
const PAGE: u64 = 4096;
/// Sizes that differ by fewer pages than this are one: they are rounded up to pages, which have 64 KiB at most.
const ROUNDED: u64 = 16;

/// How many pages a part of the memory is; nothing for what is no part of it.
fn part_of(value: &str, memory: Option<u64>) -> Option<u64> {
    let percent: u64 = value.strip_suffix('%')?.parse().ok()?;
    Some(memory?.checked_mul(percent)?.div_ceil(100))
}

fn is_equal(key: &str, value: &str, told: &str) -> bool {
    if key.ends_with("mode") || key.ends_with("mask") {
        let octal = |text| u32::from_str_radix(text, 8).ok();
        return value == told || octal(value).is_some_and(|v| octal(told) == Some(v));
    }
    // A part of what the machine has: the kernel tells the sum.
    value == told
        || value.ends_with('%')
        || amount(value).zip(amount(told)).is_some_and(|(v, t)| {
            // Sizes are rounded up to pages, which have 64 KiB at most.
            v == t || (key == "size" && t > v && t - v < 65_536)
        })
}

/// A number with the kernel's suffixes, see memparse() there.
fn amount(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_u64 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Gives what stands the declared options that it lacks; says which it still lacks, and why if that is known.
pub fn settle(standing: &Mounted, declared: &str) -> Option<String> {
    let missing = differing(standing, declared);
    if missing.is_empty() {
        return None;
    }
    let result = remount(standing, declared, &missing);
    let left = top(&standing.path).map_or(missing, |m| differing(&m, declared));
    let words: Vec<&str> = left.iter().map(|d| d.option.as_str()).collect();
    match result {
        _ if words.is_empty() => None,
        Err(e) => Some(format!("it cannot be given the options \"{}\": {e}", words.join(","))),
        Ok(()) => Some(format!("the kernel did not take the options \"{}\"", words.join(","))),
    }
}

/// Gives what stands the declared options that it lacks, and leaves it the others.
///
/// # Errors
/// What mount(2) said.
pub fn complete(standing: &Mounted, declared: &str) -> io::Result<()> {
    match differing(standing, declared) {
        missing if missing.is_empty() => Ok(()),
        missing => remount(standing, declared, &missing),
    }
}

fn remount(standing: &Mounted, declared: &str, missing: &[Difference]) -> io::Result<()> {
    let wanted = options(declared);
    let concerned = |about: MsFlags| declared.split(',').filter_map(flag).any(|(f, _)| about.intersects(f));
    // mount(2): a remount drops every flag that it does not name, so what is there is named too.
    let merged = |shown: &str, about: &[MsFlags]| {
        let there = options(shown).flags;
        let of = |f: &MsFlags| if concerned(*f) { wanted.flags & *f } else { there & *f };
        about.iter().map(of).fold(MsFlags::empty(), MsFlags::union)
    };
    let mut own = merged(&standing.options, &OF_MOUNT.map(|(f, _)| f)) | merged(&standing.options, &[ATIME]);
    if !own.intersects(ATIME) && !concerned(ATIME) {
        // Neither word is shown.
        own |= MsFlags::MS_STRICTATIME;
    }
    let read_only = merged(&standing.options, &[MsFlags::MS_RDONLY]);
    let target = Path::new(&standing.path);
    let call = |flags: MsFlags, data: Option<&str>| {
        mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT, data).map_err(io::Error::from)
    };
    if missing.iter().any(|d| d.superblock) {
        let shared = merged(&standing.superblock, &OF_SUPERBLOCK.map(|(f, _)| f))
            | merged(&standing.superblock, &[MsFlags::MS_RDONLY]);
        let data = |text: &str| call(shared | own, (!text.is_empty()).then_some(text));
        if let Err(e) = data(&wanted.data) {
            if e.raw_os_error() != Some(libc::EINVAL) {
                return Err(e);
            }
            // Some options are for the first mount only: without those that hold already.
            let words: Vec<&str> = missing.iter().map(|d| d.option.as_str()).collect();
            data(&words.into_iter().filter(|w| flag(w).is_none()).collect::<Vec<_>>().join(","))?;
        }
    }
    call(own | read_only | MsFlags::MS_BIND, None)
}

#[cfg(test)]
mod tests {
    use super::super::mount::mounted;
    use super::*;

    fn words(own: &str, fstype: &str, superblock: &str, declared: &str) -> Vec<String> {
        let line = format!("36 35 0:30 / /m {own} shared:1 - {fstype} none {superblock}\n");
        let standing = mounted(&line).remove(0);
        differing(&standing, declared).into_iter().map(|d| d.option).collect()
    }

    #[test]
    fn declared_options_are_compared_with_what_is_shown() {
        let early = |declared| words("rw,nosuid,nodev,relatime", "tmpfs", "rw", declared);
        assert_eq!(early("noexec,size=64M"), ["noexec", "size=64M"]);
        assert_eq!(early("nosuid,nodev,relatime,mode=1777,uid=0,rw,size=50%,defaults"), [""; 0]);
        assert_eq!(early("ro,noatime,mode=0755,suid"), ["suid", "ro", "noatime", "mode=0755"]);
        assert_eq!(early(""), [""; 0]);
        let full = |declared| {
            words("ro,noexec,noatime", "tmpfs", "rw,sync,size=65536k,nr_inodes=1024,mode=755,gid=5", declared)
        };
        assert_eq!(
            full("size=64M,nr_inodes=1k,mode=0755,gid=5,noexec,ro,noatime,sync,nofail,x-a=b"),
            [""; 0]
        );
        assert_eq!(
            full("size=32m,gid=6,rw,exec,strictatime"),
            ["exec", "rw", "strictatime", "size=32m", "gid=6"]
        );
        assert_eq!(full("noexec,exec,size=1m,size=64m"), ["exec"], "the later one wins");
        assert_eq!(full("size=67108000"), [""; 0], "rounded up to pages");
    }

    /// The kernel shows no size that is the default, in whatever words it was given.
    #[test]
    fn the_default_size_of_a_tmpfs_is_none_that_it_lacks() {
        let with = |superblock: &str, declared| {
            let line = format!("36 35 0:30 / /run rw,nosuid,nodev - tmpfs tmpfs {superblock}\n");
            let differing = compare(&mounted(&line).remove(0), declared, Some(1_000_000));
            differing.into_iter().map(|d| d.option).collect::<Vec<_>>()
        };
        for right in ["size=50%", "size=2000000k", "size=2048000000", "nr_inodes=500000", "size=1999999k"] {
            assert_eq!(with("rw,mode=755", right), [""; 0], "{right}");
        }
        for wrong in ["size=25%", "size=64M", "size=1900000k", "nr_inodes=1k"] {
            assert_eq!(with("rw,mode=755", wrong), [wrong]);
        }
        assert_eq!(with("rw,size=1000000k", "size=25%"), [""; 0]);
        assert_eq!(with("rw,size=1000000k", "size=50%"), ["size=50%"]);
    }

    #[test]
    fn what_is_not_shown_is_no_difference() {
        let disk = |declared| words("rw,relatime", "ext4", "rw,errors=continue,nodiscard", declared);
        assert_eq!(disk("data=journal,commit=30,user_xattr,nodelalloc"), [""; 0]);
        assert_eq!(disk("errors=remount-ro,discard"), ["errors=remount-ro", "discard"]);
        let bind = |declared| words("rw,nodev", "ext4", "ro,sync", declared);
        assert_eq!(bind("bind,rw,async"), [""; 0], "what others share is theirs");
        assert_eq!(bind("bind,ro,noexec"), ["noexec", "ro"]);
    }

    #[test]
    fn what_stands_is_told_from_what_is_declared() {
        let standing = |line: &str| mounted(line).remove(0);
        let shm = standing("1 2 0:3 / /dev/shm rw - tmpfs tmpfs rw\n");
        assert_eq!(mistaken(&shm, Path::new("shm"), "tmpfs", ""), None);
        let text = mistaken(&shm, Path::new("/dev/vdz"), "ext4", "").unwrap();
        assert_eq!(text, "another file system is mounted there: type \"tmpfs\", source \"tmpfs\"");
        let disk = standing("1 2 98:0 / /m rw - ext4 /dev/vdy rw\n");
        assert_eq!(mistaken(&disk, Path::new("/dev/vdy"), "auto", ""), None);
        assert!(mistaken(&disk, Path::new("/dev/vdz"), "ext4", "").is_some());
    }
}
