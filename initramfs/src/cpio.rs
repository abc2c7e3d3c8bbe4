//! Writes the "newc" archive that the kernel unpacks into its root file system.
//!
//! The format: a header of the magic `070701` and thirteen fields of eight hexadecimal digits, the name with its
//! NUL, and the content, name and content each padded to four bytes; at the end an entry named `TRAILER!!!`. Names
//! of one inode share its number; the content stands with the last of them, as cpio(1) does it. The kernel's own
//! description is Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::tree::{Kind, Node, Tree};

/// Writes the whole tree. Inode numbers follow the order of paths and every time is 0, so equal trees give equal
/// bytes.
///
/// # Errors
/// When `out` fails, or a file has 4 GiB or more (the format's limit).
pub fn write(tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let mut names: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, node) in tree.iter() {
        if let Some(inode) = node.inode {
            *names.entry(inode).or_default() += 1;
        }
    }
    let mut left = names.clone();
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    let mut next = 1;
    let mut number = || {
        next += 1;
        next
    };
    let root = Node::new(Kind::Directory, 0o755);
    entry(out, ".", &root, 1, 2, true)?;
    for (path, node) in tree.iter() {
        let (inode, links, last) = match node.inode {
            None => (number(), if matches!(node.kind, Kind::Directory) { 2 } else { 1 }, true),
            Some(shared) => {
                let remaining = left.entry(shared).or_default();
                *remaining = remaining.saturating_sub(1);
                let last = *remaining == 0;
                let total = names.get(&shared).copied().unwrap_or(1);
                (*numbers.entry(shared).or_insert_with(&mut number), total, last)
            }
        };
        entry(out, path, node, inode, links, last)?;
    }
    let trailer = Node::new(Kind::Fifo, 0);
    header(out, "TRAILER!!!", 0, &trailer, 0, 1, 0)
}

fn entry(
    out: &mut impl Write,
    path: &str,
    node: &Node,
    inode: u32,
    links: u32,
    content: bool,
) -> io::Result<()> {
    let (kind, data): (u32, &[u8]) = match &node.kind {
        Kind::Directory => (0o040_000, &[]),
        Kind::File(bytes) => (0o100_000, if content { bytes } else { &[] }),
        Kind::Symlink(target) => (0o120_000, target.as_bytes()),
        Kind::Character { .. } => (0o020_000, &[]),
        Kind::Block { .. } => (0o060_000, &[]),
        Kind::Fifo => (0o010_000, &[]),
    };
    let size = u32::try_from(data.len())
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, format!("/{path} has 4 GiB or more")))?;
    header(out, path, kind | node.mode, node, inode, links, size)?;
    out.write_all(data)?;
    pad(out, data.len())
}

fn header(
    out: &mut impl Write,
    name: &str,
    mode: u32,
    node: &Node,
    inode: u32,
    links: u32,
    size: u32,
) -> io::Result<()> {
    let (major, minor) = match node.kind {
        Kind::Character { major, minor } | Kind::Block { major, minor } => (major, minor),
        _ => (0, 0),
    };
    let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
    out.write_all(b"070701")?;
    for field in [inode, mode, node.uid, node.gid, links, 0, size, 0, 0, major, minor, name_size, 0] {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, 110 + name.len() + 1)
}

fn pad(out: &mut impl Write, length: usize) -> io::Result<()> {
    out.write_all([0u8; 3].get(..length.wrapping_neg() % 4).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Tree {
        let mut t = Tree::new();
        t.insert("etc/motd", Node::file(b"hello\n".to_vec(), 0o640)).unwrap();
        t.insert("bin/long-name-that-needs-padding", Node::file(vec![7; 4097], 0o4755)).unwrap();
        t.link("bin/z", "bin/long-name-that-needs-padding").unwrap();
        t.link("a", "etc/motd").unwrap();
        t.insert("lnk", Node::new(Kind::Symlink("etc/motd".into()), 0o777)).unwrap();
        t.insert("empty", Node::file(vec![], 0o600)).unwrap();
        t.insert("dev/console", Node::new(Kind::Character { major: 5, minor: 1 }, 0o600)).unwrap();
        t.insert("dev/vda", Node::new(Kind::Block { major: 254, minor: 0 }, 0o660)).unwrap();
        t.insert("run/pipe", Node::new(Kind::Fifo, 0o644)).unwrap();
        let mut owned = Node::file(b"x".to_vec(), 0o644);
        (owned.uid, owned.gid) = (33, 1000);
        t.insert("owned", owned).unwrap();
        t
    }

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        write(tree, &mut out).unwrap();
        out
    }

    fn cpio(arguments: &[&str], input: &[u8], directory: &std::path::Path) -> String {
        let mut child = Command::new("cpio")
            .args(arguments)
            .current_dir(directory)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cpio(1) is installed by `cargo verify`");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || stdin.write_all(&input));
        let out = child.wait_with_output().unwrap();
        feed.join().unwrap().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let here = tempfile::tempdir().unwrap();
        let list = cpio(&["-itvn", "--quiet"], &archive(&sample()), here.path());
        let fields: Vec<String> =
            list.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let has = |start: &str, end: &str| {
            assert!(
                fields.iter().any(|l| l.starts_with(start) && l.ends_with(end)),
                "{start} … {end} in\n{list}"
            );
        };
        has("drwxr-xr-x 2 0 0 0 Jan 1 1970", " .");
        has("-rw-r----- 2 0 0 6", " etc/motd");
        has("-rw-r----- 2 0 0 0", " a");
        has("-rwsr-xr-x 2 0 0 4097", " bin/z");
        has("crw------- 1 0 0 5, 1", " dev/console");
        has("brw-rw---- 1 0 0 254, 0", " dev/vda");
        has("prw-r--r-- 1 0 0 0", " run/pipe");
        has("-rw-r--r-- 1 33 1000 1", " owned");
        has("lrwxrwxrwx 1 0 0 8", " lnk -> etc/motd");
    }

    #[test]
    fn cpio_unpacks_what_was_written() {
        use std::os::unix::fs::MetadataExt;
        let here = tempfile::tempdir().unwrap();
        let mut tree = sample();
        tree.prune("dev"); // device nodes need a privilege
        cpio(&["-id", "--quiet", "--no-preserve-owner"], &archive(&tree), here.path());
        let at = |p: &str| here.path().join(p);
        assert_eq!(std::fs::read(at("a")).unwrap(), b"hello\n");
        assert_eq!(std::fs::read(at("bin/z")).unwrap(), vec![7; 4097]);
        let inode = |p: &str| std::fs::metadata(at(p)).unwrap().ino();
        assert_eq!(inode("a"), inode("etc/motd"));
        assert_eq!(inode("bin/z"), inode("bin/long-name-that-needs-padding"));
        assert_eq!(std::fs::read_link(at("lnk")).unwrap().to_str(), Some("etc/motd"));
    }

    #[test]
    fn equal_trees_give_equal_bytes() {
        assert_eq!(archive(&sample()), archive(&sample()));
        assert_eq!(archive(&sample()).len() % 4, 0);
    }
}
