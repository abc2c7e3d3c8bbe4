//! Reads tar archives (ustar, with GNU and pax extensions) into a [`Tree`].
//!
//! Owners, modes, links and devices are kept. Times are dropped: images have none. Extended attributes are dropped
//! too, because the archive that the kernel unpacks cannot hold them.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use crate::Error;
use crate::tree::{Kind, Node, Tree};

const BLOCK: usize = 512;

/// Reads an archive to its end.
///
/// # Errors
/// When it ends too soon, a header's checksum is wrong, a name is not UTF-8, or an entry is of a type that has no
/// place in a file system.
pub fn read(input: &mut impl Read) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    let mut pax: BTreeMap<String, String> = BTreeMap::new();
    while let Some(header) = block(input)? {
        if header.iter().all(|b| *b == 0) {
            // Two zero blocks end the archive; what a pipe still holds after them is padding.
            std::io::copy(input, &mut std::io::sink()).map_err(|e| damaged(e.to_string()))?;
            break;
        }
        let sum: u64 = (0u64..)
            .zip(&header)
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum();
        if number(&header, 148, 8)? != sum {
            return Err(damaged("a header has a wrong checksum"));
        }
        let flag = header.get(156).copied().unwrap_or_default();
        let size = match pax.get("size") {
            Some(size) => size.parse().map_err(|_| damaged("a size is no number"))?,
            None => number(&header, 124, 12)?,
        };
        let data = content(input, size)?;
        match flag {
            b'x' => pax.extend(records(&data)?),
            b'g' => {}
            b'L' => drop(pax.insert("path".into(), text(&data)?)),
            b'K' => drop(pax.insert("linkpath".into(), text(&data)?)),
            _ => {
                entry(&mut tree, &header, flag, &pax, data)?;
                pax.clear();
            }
        }
    }
    Ok(tree)
}

fn entry(
    tree: &mut Tree,
    header: &[u8],
    flag: u8,
    pax: &BTreeMap<String, String>,
    data: Vec<u8>,
) -> Result<(), Error> {
    let field = |at: usize, length: usize| text(header.get(at..at + length).unwrap_or_default());
    let path = match pax.get("path") {
        Some(path) => path.clone(),
        None => {
            let prefix =
                if header.get(257..263) == Some(b"ustar\0") { field(345, 155)? } else { String::new() };
            let name = field(0, 100)?;
            if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
        }
    };
    let target = match pax.get("linkpath") {
        Some(target) => target.clone(),
        None => field(157, 100)?,
    };
    let small = |at, length| -> Result<u32, Error> {
        u32::try_from(number(header, at, length)?)
            .map_err(|_| damaged(format!("{path}: a number is too large")))
    };
    let owner = |key: &str, at| match pax.get(key) {
        Some(n) => n.parse().map_err(|_| damaged(format!("{path}: {key} is no number"))),
        None => small(at, 8),
    };
    let kind = match flag {
        0 | b'0' | b'7' => Kind::File(Arc::new(data)),
        b'1' => return tree.link(&path, &target),
        b'2' => Kind::Symlink(target),
        b'3' => Kind::Character { major: small(329, 8)?, minor: small(337, 8)? },
        b'4' => Kind::Block { major: small(329, 8)?, minor: small(337, 8)? },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(damaged(format!("{path}: entry of unknown type {:?}", char::from(other)))),
    };
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { small(100, 8)? & 0o7777 };
    let node = Node { kind, mode, uid: owner("uid", 108)?, gid: owner("gid", 116)?, inode: None };
    tree.insert(&path, node)
}

fn damaged(message: impl Into<String>) -> Error {
    Error::format("tar archive", message)
}

fn block(input: &mut impl Read) -> Result<Option<[u8; BLOCK]>, Error> {
    let mut bytes = Vec::with_capacity(BLOCK);
    input.take(BLOCK as u64).read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| damaged("it ends in the middle of a header"))
}

fn content(input: &mut impl Read, size: u64) -> Result<Vec<u8>, Error> {
    let padded = size.next_multiple_of(BLOCK as u64);
    let mut data = Vec::new();
    let got = input.take(padded).read_to_end(&mut data).map_err(|e| damaged(e.to_string()))?;
    if got as u64 != padded {
        return Err(damaged("it ends in the middle of an entry"));
    }
    data.truncate(usize::try_from(size).map_err(|_| damaged("an entry is too large"))?);
    Ok(data)
}

fn text(field: &[u8]) -> Result<String, Error> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let bytes = field.get(..end).unwrap_or_default().to_vec();
    String::from_utf8(bytes).map_err(|_| damaged("a name is not UTF-8"))
}

/// Octal digits, or big-endian binary when the first bit is set (GNU).
fn number(header: &[u8], at: usize, length: usize) -> Result<u64, Error> {
    let field = header.get(at..at + length).unwrap_or_default();
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return Ok(field.iter().skip(1).fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits = text(field)?;
    let digits = digits.trim();
    if digits.is_empty() {
        Ok(0)
    } else {
        u64::from_str_radix(digits, 8).map_err(|_| damaged("a number is not octal"))
    }
}

/// Pax records: `LENGTH KEY=VALUE\n`, the length counting the whole record.
fn records(data: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let bad = || damaged("a pax record is malformed");
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = text(rest.get(..space).unwrap_or_default())?.parse().map_err(|_| bad())?;
        let record = rest.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        rest = rest.get(length..).unwrap_or_default();
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = record.split_at(equals);
        let key = String::from_utf8_lossy(key).into_owned();
        if ["path", "linkpath", "size", "uid", "gid"].contains(&key.as_str()) {
            let value = value.get(1..).unwrap_or_default().to_vec();
            out.push((key, String::from_utf8(value).map_err(|_| damaged("a name is not UTF-8"))?));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn packed(format: &str) -> Tree {
        let here = tempfile::tempdir().unwrap();
        let long = format!("deep/{}/{}", "d".repeat(120), "f".repeat(130));
        let file = here.path().join(&long);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, vec![9; 1000]).unwrap();
        std::fs::hard_link(&file, here.path().join("second")).unwrap();
        std::os::unix::fs::symlink(&long, here.path().join("link")).unwrap();
        let out = Command::new("tar")
            .args(["-c", "--sort=name", "--owner=7:70000", "--group=8:3", "--format", format, "-C"])
            .arg(here.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let tree = read(&mut out.stdout.as_slice()).unwrap();
        assert_eq!(tree.read("second").map(<[u8]>::len), Some(1000));
        let node = tree.get(&long).unwrap();
        assert_eq!((node.uid, node.gid), (70000, 3));
        assert_eq!(node.inode, tree.get("second").unwrap().inode);
        assert_eq!(tree.get("link").unwrap().kind, Kind::Symlink(long));
        assert!(read(&mut &out.stdout[..700]).is_err());
        tree
    }

    #[test]
    fn reads_what_tar_writes() {
        assert_eq!(packed("gnu"), packed("pax"));
    }
}
