//! From what a mount unit names to a device node: paths, `LABEL=`, `UUID=`, `PARTUUID=`, `PARTLABEL=`.
//!
//! For helpers: everything here may wait for a disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::uevent::{Heard, Uevents};

/// What a file system says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Type, as in `/proc/filesystems`.
    pub fstype: &'static str,
    /// Label; empty when it has none.
    pub label: String,
    /// UUID as it is usually written, or the serial number of a FAT.
    pub uuid: String,
}

/// Bytes from the start of a device that [`identify`] needs.
pub const HEAD: usize = 0x1_0400;

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim_end().to_owned()
}

fn uuid(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// Reads the superblock of ext2/3/4, XFS, Btrfs and FAT. Short or unknown contents are nobody's.
pub fn identify(head: &[u8]) -> Option<Identity> {
    let part = |at: usize, length: usize| head.get(at..at.checked_add(length)?);
    if part(0x438, 2) == Some(&[0x53, 0xef]) {
        // ext: features tell the generations apart; extents or 64 bit are ext4, a journal alone is ext3.
        let incompatible = part(0x460, 4)?.iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        let compatible = part(0x45c, 4)?.first().copied().unwrap_or_default();
        let fstype = match (incompatible & 0x2c0 != 0, compatible & 4 != 0) {
            (true, _) => "ext4",
            (false, true) => "ext3",
            (false, false) => "ext2",
        };
        return Some(Identity { fstype, label: text(part(0x478, 16)?), uuid: uuid(part(0x468, 16)?) });
    }
    if part(0, 4) == Some(b"XFSB") {
        return Some(Identity { fstype: "xfs", label: text(part(108, 12)?), uuid: uuid(part(32, 16)?) });
    }
    if part(0x1_0040, 8) == Some(b"_BHRfS_M") {
        let (label, id) = (part(0x1_012b, 256)?, part(0x1_0020, 16)?);
        return Some(Identity { fstype: "btrfs", label: text(label), uuid: uuid(id) });
    }
    if part(510, 2) == Some(&[0x55, 0xaa]) {
        let (serial, label) = match (part(82, 5), part(54, 3)) {
            (Some(b"FAT32"), _) => (part(67, 4)?, part(71, 11)?),
            (_, Some(b"FAT")) => (part(39, 4)?, part(43, 11)?),
            _ => return None,
        };
        let [a, b, c, d] = <[u8; 4]>::try_from(serial).ok()?;
        let label = text(label);
        let label = if label == "NO NAME" { String::new() } else { label };
        return Some(Identity { fstype: "vfat", label, uuid: format!("{d:02X}{c:02X}-{b:02X}{a:02X}") });
    }
    None
}

/// What is on a device.
pub fn probe(device: &Path) -> Option<Identity> {
    let file = File::open(device).ok()?;
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or_default()) {
            Ok(0) | Err(_) => break,
            Ok(n) => filled += n,
        }
    }
    identify(head.get(..filled)?)
}

/// What a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Path(PathBuf),
    Tag(&'static str, String),
}

fn wanted(source: &str) -> Option<Wanted> {
    for (prefix, tag) in
        [("LABEL=", "label"), ("UUID=", "uuid"), ("PARTUUID=", "partuuid"), ("PARTLABEL=", "partlabel")]
    {
        if let Some(value) = source.strip_prefix(prefix) {
            return Some(Wanted::Tag(tag, value.trim_matches('"').to_owned()));
        }
    }
    source.starts_with("/dev/").then(|| Wanted::Path(PathBuf::from(source)))
}

/// The node that the source names now.
fn look(wanted: &Wanted) -> Option<PathBuf> {
    let is_block = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.file_type().is_block_device());
    match wanted {
        Wanted::Path(path) => is_block(path).then(|| path.clone()),
        Wanted::Tag(tag, value) => {
            // Links of udev, where it runs; names are escaped there, which plain ones do not need.
            let link = Path::new("/dev/disk").join(format!("by-{tag}")).join(value);
            if !value.contains('/') && is_block(&link) {
                return std::fs::canonicalize(link).ok();
            }
            std::fs::read_dir("/sys/class/block").ok()?.flatten().find_map(|entry| {
                let node = Path::new("/dev").join(entry.file_name());
                let matches = match *tag {
                    "label" => probe(&node).is_some_and(|i| i.label == *value),
                    "uuid" => probe(&node).is_some_and(|i| i.uuid.eq_ignore_ascii_case(value)),
                    other => {
                        let key = if other == "partuuid" { "PARTUUID=" } else { "PARTNAME=" };
                        let text = std::fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
                        text.lines()
                            .any(|l| l.strip_prefix(key).is_some_and(|v| v.eq_ignore_ascii_case(value)))
                    }
                };
                matches.then_some(node)
            })
        }
    }
}

/// The device behind a mount's source, waiting until it is there: at most `limit`, or without end. What names no
/// device (`tmpfs`, `server:/path`, a directory to bind) is returned as it is. `late` is called once, when it has not
/// come within `patience`.
///
/// # Errors
/// `TimedOut`, or why events cannot be heard.
pub fn await_source(
    source: &str,
    limit: Option<Duration>,
    patience: Duration,
    late: impl FnOnce(),
) -> io::Result<PathBuf> {
    let Some(wanted) = wanted(source) else { return Ok(PathBuf::from(source)) };
    // ORDER: listening before looking: what appears in between is heard.
    let mut events = Uevents::open()?;
    let begun = Instant::now();
    let deadline = limit.and_then(|l| begun.checked_add(l));
    // None once it was called, or when the deadline comes first.
    let mut late = begun.checked_add(patience).filter(|p| deadline.is_none_or(|d| d > *p)).map(|p| (p, late));
    loop {
        if let Some(found) = look(&wanted) {
            return Ok(found);
        }
        match await_block_event(&mut events, late.as_ref().map(|(p, _)| *p).or(deadline)) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => match late.take() {
                Some((_, late)) => late(),
                None => return Err(e),
            },
            other => other?,
        }
    }
}

fn await_block_event(events: &mut Uevents, deadline: Option<Instant>) -> io::Result<()> {
    loop {
        while let Some(heard) = events.read()? {
            if heard == Heard::Overflow || matches!(&heard, Heard::Event(e) if e.subsystem == "block") {
                return Ok(());
            }
        }
        let timeout = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn superblocks() {
        let id: Vec<u8> = (0..16).collect();
        let ext4 = with(&[(0x438, &[0x53, 0xef]), (0x460, &[0x40]), (0x468, &id), (0x478, b"store")]);
        let found = identify(&ext4).unwrap();
        assert_eq!((found.fstype, found.label.as_str()), ("ext4", "store"));
        assert_eq!(found.uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f");
        let fat = with(&[
            (510, &[0x55, 0xaa]),
            (82, b"FAT32   "),
            (67, &[0x78, 0x56, 0x34, 0x12]),
            (71, b"EFI        "),
        ]);
        let found = identify(&fat).unwrap();
        assert_eq!((found.fstype, found.label.as_str(), found.uuid.as_str()), ("vfat", "EFI", "1234-5678"));
        assert_eq!(identify(&with(&[(0, b"XFSB")])).unwrap().fstype, "xfs");
        assert_eq!(identify(&with(&[(510, &[0x55, 0xaa])])), None, "a partition table is no file system");
        assert_eq!(identify(&[]), None);
        for cut in 0..0x500 {
            let _ = identify(&ext4[..cut]);
        }
    }

    #[test]
    fn sources() {
        assert_eq!(wanted("LABEL=a b"), Some(Wanted::Tag("label", "a b".into())));
        assert_eq!(wanted("UUID=\"x\""), Some(Wanted::Tag("uuid", "x".into())));
        assert_eq!(wanted("tmpfs"), None);
        assert_eq!(wanted("/srv/dir"), None);
        let soon = Duration::from_millis(5);
        let at_once = || panic!("nothing is waited for");
        assert_eq!(await_source("proc", None, soon, at_once).unwrap(), PathBuf::from("proc"));
        let mut told = 0;
        let limit = Some(Duration::from_millis(20));
        let error = await_source("/dev/no-such-disk", limit, soon, || told += 1).unwrap_err();
        assert_eq!((error.kind(), told), (io::ErrorKind::TimedOut, 1));
    }
}
