//! Packs: the small contents of a generation in one file. A file each would cost an inode, a directory entry and five
//! system calls for what most often is read once.
//!
//! A pack is the contents, one behind the other; a table with a row a content (digest, where it begins, how long it is),
//! sorted by digest; the number of rows, and `MAGIC`. Numbers have eight bytes, little-endian. **Invariant:** what has a
//! name in the directory of packs is durable, whole and never written again.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::store::record::Digest;

/// Directory of packs in the store.
pub const DIRECTORY: &str = "packs";
/// Contents of fewer than so many new ones at a time are files of their own, which go one by one.
pub const FROM: usize = 32;
/// Last bytes of a pack; the last of them is the version.
const MAGIC: &[u8; 8] = b"HFPACK\n\x01";
/// Bytes of a row.
const ROW: usize = 48;
/// Bytes behind the table.
const END: usize = 16;
/// Bytes that are read, or wait to be written, at a time.
const BUFFER: usize = 256 << 10;
/// A content that begins so near behind the one before is read along with those that follow.
const NEAR: u64 = 4 << 10;

/// A pack that is being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    waiting: Vec<u8>,
    at: u64,
    table: Vec<(Digest, u64, u64)>,
}

impl Writer {
    /// Into a new file, which is removed again unless it is finished.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Writer> {
        let file = super::new_file(&path)?;
        Ok(Writer { file, path, waiting: Vec::new(), at: 0, table: Vec::new() })
    }

    /// Adds a content.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn add(&mut self, digest: &Digest, content: &[u8]) -> io::Result<()> {
        let length = content.len() as u64;
        self.table.push((*digest, self.at, length));
        self.at += length;
        self.waiting.extend_from_slice(content);
        if self.waiting.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }

    /// Makes all of it durable, and gives it its name.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn finish(mut self, name: &Path) -> io::Result<()> {
        self.table.sort_unstable();
        self.table.dedup_by_key(|(digest, _, _)| *digest);
        for (digest, at, length) in &self.table {
            self.waiting.extend_from_slice(digest);
            self.waiting.extend_from_slice(&at.to_le_bytes());
            self.waiting.extend_from_slice(&length.to_le_bytes());
        }
        self.waiting.extend_from_slice(&(self.table.len() as u64).to_le_bytes());
        self.waiting.extend_from_slice(MAGIC);
        self.flush()?;
        self.file.sync_all()?;
        // ORDER: the name stands for a durable content.
        fs::rename(&self.path, name)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `finish` there is nothing of that name any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// A pack of the store.
#[derive(Debug)]
struct Pack {
    number: u64,
    file: File,
    /// Where the contents end.
    contents: u64,
    table: Vec<u8>,
    /// What was read last: from where on, and up to where it was asked for.
    window: RefCell<(u64, Vec<u8>, u64)>,
}

impl Pack {
    /// `None` when it is none of this version's.
    fn open(number: u64, path: &Path) -> Option<Pack> {
        let file = File::open(path).ok()?;
        let start = file.metadata().ok()?.len().checked_sub(END as u64)?;
        let mut end = [0; END];
        file.read_exact_at(&mut end, start).ok()?;
        let (count, magic) = end.split_at(8);
        let count = u64::from_le_bytes(count.try_into().ok()?);
        let length = count.checked_mul(ROW as u64)?;
        let at = start.checked_sub(length)?;
        if magic != MAGIC {
            return None;
        }
        let mut table = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut table, at).ok()?;
        Some(Pack { number, file, contents: at, table, window: RefCell::default() })
    }

    fn rows(&self) -> impl Iterator<Item = (Digest, u64, u64)> {
        self.table.as_chunks::<ROW>().0.iter().filter_map(row)
    }

    /// Where a content lies.
    fn find(&self, digest: &Digest) -> Option<(u64, u64)> {
        let rows = self.table.as_chunks::<ROW>().0;
        let at =
            rows.binary_search_by(|row| row.get(..32).unwrap_or_default().cmp(digest.as_slice())).ok()?;
        let (_, at, length) = row(rows.get(at)?)?;
        (at.checked_add(length)? <= self.contents).then_some((at, length))
    }

    fn read(&self, (at, length): (u64, u64)) -> io::Result<Vec<u8>> {
        let size = usize::try_from(length).map_err(io::Error::other)?;
        let mut window = self.window.borrow_mut();
        let (from, bytes, asked) = &mut *window;
        let there = |from: u64, bytes: &[u8]| -> Option<Vec<u8>> {
            let start = usize::try_from(at.checked_sub(from)?).ok()?;
            Some(bytes.get(start..start.checked_add(size)?)?.to_vec())
        };
        if let Some(found) = there(*from, bytes) {
            *asked = at + length;
            return Ok(found);
        }
        // Who reads one behind the other will go on so.
        let ahead = at >= *asked && at - *asked <= NEAR && size < BUFFER;
        bytes.resize(if ahead { BUFFER } else { size }, 0);
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(filled);
        (*from, *asked) = (at, at + length);
        there(at, bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn row(row: &[u8; ROW]) -> Option<(Digest, u64, u64)> {
    let (digest, numbers) = row.split_at(32);
    let (at, length) = numbers.split_at(8);
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    Some((digest.try_into().ok()?, number(at)?, number(length)?))
}

/// The packs of a store, opened when something is looked for in them first.
#[derive(Debug, Default)]
pub struct Packs {
    open: RefCell<Vec<Pack>>,
    looked: Cell<bool>,
}

impl Packs {
    /// Opens what there is, unless that was done.
    pub fn open_once(&self, directory: &Path) {
        if !self.looked.get() {
            self.refresh(directory);
        }
    }

    /// Takes in what others have made or removed.
    pub fn refresh(&self, directory: &Path) {
        self.looked.set(true);
        let mut open = self.open.borrow_mut();
        let numbers = numbers(directory);
        open.retain(|pack| numbers.contains(&pack.number));
        for number in numbers {
            if !open.iter().any(|p| p.number == number) {
                open.extend(Pack::open(number, &directory.join(number.to_string())));
            }
        }
    }

    /// Whether a content of this length is in one of those that are open.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        self.open.borrow().iter().any(|p| p.find(digest).is_some_and(|(_, length)| length == size))
    }

    /// A content of those that are open.
    pub fn content(&self, digest: &Digest) -> Option<Vec<u8>> {
        let open = self.open.borrow();
        let mut found = open.iter().filter_map(|p| p.read(p.find(digest)?).ok());
        found.next()
    }

    /// What is in each of them: its number, and digest and length of every content.
    pub fn all(&self) -> Vec<(u64, Vec<(Digest, u64)>)> {
        let open = self.open.borrow();
        open.iter().map(|p| (p.number, p.rows().map(|(d, _, length)| (d, length)).collect())).collect()
    }
}

fn numbers(directory: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut out: Vec<u64> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    out.sort_unstable();
    out
}

/// A name that no pack has.
pub fn free_name(directory: &Path) -> PathBuf {
    let last = numbers(directory).last().copied().unwrap_or_default();
    directory.join((last + 1).to_string())
}

/// A content, wherever it lies.
#[derive(Debug)]
pub enum Stored {
    /// In a file of its own.
    File(File),
    /// It came from a pack.
    Bytes(io::Cursor<Vec<u8>>),
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stored::File(file) => file.read(buffer),
            Stored::Bytes(bytes) => bytes.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_packed_in_any_order() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        let content = |n: u8| vec![n; usize::from(n) * 997];
        for n in (0..200u8).rev() {
            writer.add(&[n; 32], &content(n)).unwrap();
        }
        writer.add(&[7; 32], &content(7)).unwrap();
        let packs = Packs::default();
        packs.refresh(here.path());
        assert_eq!(packs.content(&[1; 32]), None);
        writer.finish(&free_name(here.path())).unwrap();
        packs.refresh(here.path());
        for n in (0..200u8).chain((0..200).rev()).chain([3, 199, 0, 7]) {
            assert_eq!(packs.content(&[n; 32]), Some(content(n)));
            assert!(packs.has(&[n; 32], u64::from(n) * 997) && !packs.has(&[n; 32], 1));
        }
        assert_eq!(packs.content(&[200; 32]), None);
        assert_eq!(packs.all()[0].1.len(), 200);
        assert_eq!(free_name(here.path()), here.path().join("2"));
    }

    #[test]
    fn what_is_torn_or_not_finished_is_no_pack() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&[1; 32], b"one").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&[1; 32], b"one").unwrap();
        writer.finish(&here.path().join("1")).unwrap();
        let whole = fs::read(here.path().join("1")).unwrap();
        for cut in 0..whole.len() {
            fs::write(here.path().join("1"), &whole[..cut]).unwrap();
            let packs = Packs::default();
            packs.refresh(here.path());
            assert_eq!(packs.content(&[1; 32]), None, "cut at {cut}");
        }
        let mut lying = whole.clone();
        lying[3 + 40..3 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(here.path().join("1"), &lying).unwrap();
        let packs = Packs::default();
        packs.refresh(here.path());
        assert_eq!(packs.content(&[1; 32]), None);
    }
}
