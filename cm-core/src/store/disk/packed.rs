//! Packs: the small contents of a generation in one file. A file each would cost an inode, a directory entry and five
//! system calls for what most often is read once.
//!
//! A pack is the contents, one behind the other; a table with a row a content (digest, where it begins, how long it is),
//! sorted by digest; the number of rows, and `MAGIC`. Numbers have eight bytes, little-endian. **Invariant:** what has a
//! name in the directory of packs is durable, whole and never written again.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::store::progress::PIECE;
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
/// Packs of which the file is open at a time, at most.
const OPEN: usize = 4;

/// A pack that is being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    waiting: Vec<u8>,
    /// Bytes written since they were last waited for.
    piece: u64,
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
        Ok(Writer { file, path, waiting: Vec::new(), piece: 0, at: 0, table: Vec::new() })
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
        self.piece += self.waiting.len() as u64;
        self.waiting.clear();
        if self.piece >= PIECE {
            self.piece = 0;
            self.file.sync_data()?;
        }
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

/// Device, inode, length, time of change.
type Identity = (u64, u64, u64, i64, i64);

fn identity(about: &fs::Metadata) -> Identity {
    (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec())
}

/// A pack of the store: what is in it. Its file is open only while something is read, since there may be many.
#[derive(Debug)]
struct Pack {
    number: u64,
    path: PathBuf,
    /// Which file had that name: the number of one that is gone may be given again.
    identity: Identity,
    /// Where the contents end.
    contents: u64,
    table: Vec<u8>,
}

impl Pack {
    /// `None` when it is none of this version's, or gone.
    fn open(number: u64, path: PathBuf) -> io::Result<Option<Pack>> {
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let identity = identity(&file.metadata()?);
        let Some(start) = identity.2.checked_sub(END as u64) else { return Ok(None) };
        let mut end = [0; END];
        file.read_exact_at(&mut end, start)?;
        let (count, magic) = end.split_at(8);
        let length = count.try_into().ok().and_then(|c| u64::from_le_bytes(c).checked_mul(ROW as u64));
        let Some((length, at)) = length.and_then(|l| Some((l, start.checked_sub(l)?))) else {
            return Ok(None);
        };
        if magic != MAGIC {
            return Ok(None);
        }
        let mut table = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut table, at)?;
        Ok(Some(Pack { number, path, identity, contents: at, table }))
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
}

/// A pack that is being read.
#[derive(Debug)]
struct Reading {
    number: u64,
    identity: Identity,
    file: File,
    /// What was read last: from where on, and up to where it was asked for.
    window: (u64, Vec<u8>, u64),
}

impl Reading {
    fn read(&mut self, (at, length): (u64, u64)) -> io::Result<Vec<u8>> {
        let size = usize::try_from(length).map_err(io::Error::other)?;
        let (from, bytes, asked) = &mut self.window;
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
                Err(e) => {
                    // What is in it now is from nowhere.
                    bytes.clear();
                    return Err(e);
                }
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

/// The packs of a store, looked at when something is looked for in them first.
#[derive(Debug, Default)]
pub struct Packs {
    known: RefCell<Vec<Pack>>,
    /// Those that were read last, the last one last.
    reading: RefCell<Vec<Reading>>,
    looked: Cell<bool>,
}

impl Packs {
    /// Looks at what there is, unless that was done.
    ///
    /// # Errors
    /// As [`Packs::refresh`].
    pub fn open_once(&self, directory: &Path) -> io::Result<()> {
        if self.looked.get() { Ok(()) } else { self.refresh(directory) }
    }

    /// Takes in what others have made or removed.
    ///
    /// # Errors
    /// When one of them cannot be read now; the others are known all the same, and that one is tried again next time.
    pub fn refresh(&self, directory: &Path) -> io::Result<()> {
        let numbers = numbers(directory)?;
        let mut known = self.known.borrow_mut();
        known.retain(|pack| match fs::metadata(&pack.path) {
            Ok(about) => identity(&about) == pack.identity,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        });
        self.reading
            .borrow_mut()
            .retain(|r| known.iter().any(|p| p.number == r.number && p.identity == r.identity));
        let mut outcome = Ok(());
        for number in numbers {
            if known.iter().any(|p| p.number == number) {
                continue;
            }
            match Pack::open(number, directory.join(number.to_string())) {
                Ok(pack) => known.extend(pack),
                Err(e) => outcome = Err(e),
            }
        }
        self.looked.set(outcome.is_ok());
        outcome
    }

    /// Whether a content of this length is in one of those that are known.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        self.known.borrow().iter().any(|p| p.find(digest).is_some_and(|(_, length)| length == size))
    }

    /// Whether one of those that are known says that it has a content, whole or not.
    pub fn lists(&self, digest: &Digest) -> bool {
        self.known.borrow().iter().any(|p| p.find(digest).is_some())
    }

    /// A content of those that are known; what its name does not fit is none.
    pub fn content(&self, digest: &Digest) -> Option<Vec<u8>> {
        let known = self.known.borrow();
        known.iter().find_map(|p| self.whole(p, digest))
    }

    /// A content as this one of them has it.
    pub fn content_in(&self, number: u64, digest: &Digest) -> Option<Vec<u8>> {
        let known = self.known.borrow();
        self.whole(known.iter().find(|p| p.number == number)?, digest)
    }

    fn whole(&self, pack: &Pack, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = self.read(pack, pack.find(digest)?).ok()?;
        (Digest::from(Sha256::digest(&bytes)) == *digest).then_some(bytes)
    }

    fn read(&self, pack: &Pack, place: (u64, u64)) -> io::Result<Vec<u8>> {
        let mut reading = self.reading.borrow_mut();
        let mut this = match reading.iter().position(|r| r.number == pack.number) {
            Some(at) => reading.remove(at),
            None => {
                let file = File::open(&pack.path)?;
                if identity(&file.metadata()?) != pack.identity {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let Pack { number, identity, .. } = *pack;
                Reading { number, identity, file, window: Default::default() }
            }
        };
        if reading.len() >= OPEN {
            reading.remove(0);
        }
        let read = this.read(place);
        reading.push(this);
        read
    }

    /// What is in each of them: its number, and digest and length of every content.
    pub fn all(&self) -> Vec<(u64, Vec<(Digest, u64)>)> {
        let known = self.known.borrow();
        known.iter().map(|p| (p.number, p.rows().map(|(d, _, length)| (d, length)).collect())).collect()
    }
}

fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut out = Vec::new();
    match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries? {
                out.extend(entry?.file_name().to_str().and_then(|n| n.parse::<u64>().ok()));
            }
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// A name that no pack has.
///
/// # Errors
/// When it cannot be told which names there are.
pub fn free_name(directory: &Path) -> io::Result<PathBuf> {
    let last = numbers(directory)?.last().copied().unwrap_or_default();
    Ok(directory.join((last + 1).to_string()))
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

    fn name(content: &[u8]) -> Digest {
        Sha256::digest(content).into()
    }

    #[test]
    fn gives_back_what_was_packed_in_any_order() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        let content = |n: u8| vec![n; usize::from(n) * 997];
        for n in (0..200u8).rev() {
            writer.add(&name(&content(n)), &content(n)).unwrap();
        }
        writer.add(&name(&content(7)), &content(7)).unwrap();
        let packs = Packs::default();
        packs.refresh(here.path()).unwrap();
        assert_eq!(packs.content(&name(b"one")), None);
        writer.finish(&free_name(here.path()).unwrap()).unwrap();
        packs.refresh(here.path()).unwrap();
        for n in (0..200u8).chain((0..200).rev()).chain([3, 199, 0, 7]) {
            assert_eq!(packs.content(&name(&content(n))), Some(content(n)));
            let name = name(&content(n));
            assert!(packs.has(&name, u64::from(n) * 997) && !packs.has(&name, 1));
        }
        assert_eq!(packs.content(&name(&content(200))), None);
        assert_eq!(packs.all()[0].1.len(), 200);
        assert_eq!(free_name(here.path()).unwrap(), here.path().join("2"));
    }

    #[test]
    fn what_is_torn_or_not_finished_is_no_pack() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&name(b"one"), b"one").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&name(b"one"), b"one").unwrap();
        writer.finish(&here.path().join("1")).unwrap();
        let whole = fs::read(here.path().join("1")).unwrap();
        for cut in 0..whole.len() {
            fs::write(here.path().join("1"), &whole[..cut]).unwrap();
            let packs = Packs::default();
            packs.refresh(here.path()).unwrap();
            assert_eq!(packs.content(&name(b"one")), None, "cut at {cut}");
        }
        let mut lying = whole.clone();
        lying[3 + 40..3 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(here.path().join("1"), &lying).unwrap();
        let packs = Packs::default();
        packs.refresh(here.path()).unwrap();
        assert_eq!(packs.content(&name(b"one")), None);
    }

    #[test]
    fn many_packs_take_few_descriptors() {
        let here = tempfile::tempdir().unwrap();
        for n in 0..100u8 {
            let mut writer = Writer::create(here.path().join("new")).unwrap();
            writer.add(&name(&[n; 5]), &[n; 5]).unwrap();
            writer.finish(&free_name(here.path()).unwrap()).unwrap();
        }
        let packs = Packs::default();
        packs.refresh(here.path()).unwrap();
        for n in (0..100u8).chain([3, 99, 3]) {
            assert_eq!(packs.content(&name(&[n; 5])), Some(vec![n; 5]));
        }
        let ours = |e: &fs::DirEntry| fs::read_link(e.path()).is_ok_and(|p| p.starts_with(here.path()));
        assert_eq!(fs::read_dir("/proc/self/fd").unwrap().flatten().filter(ours).count(), OPEN);
    }

    #[test]
    fn a_pack_that_cannot_be_read_now_is_tried_again() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&name(b"one"), b"one").unwrap();
        writer.finish(&here.path().join("1")).unwrap();
        fs::rename(here.path().join("1"), here.path().join("away")).unwrap();
        // Nobody can read a directory, not even root.
        fs::create_dir(here.path().join("1")).unwrap();
        fs::write(here.path().join("1/entry"), "").unwrap();
        let packs = Packs::default();
        assert!(packs.open_once(here.path()).is_err());
        fs::remove_dir_all(here.path().join("1")).unwrap();
        fs::rename(here.path().join("away"), here.path().join("1")).unwrap();
        packs.open_once(here.path()).unwrap();
        assert_eq!(packs.content(&name(b"one")), Some(b"one".to_vec()));
        // What is known stays known while the directory cannot be read, and no name is free then.
        let file = here.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(packs.refresh(&file).is_err() && free_name(&file).is_err());
        assert_eq!(packs.content(&name(b"one")), Some(b"one".to_vec()));
    }

    #[test]
    fn a_number_that_is_given_again_is_another_pack() {
        let here = tempfile::tempdir().unwrap();
        let write = |text: &[u8]| {
            let mut writer = Writer::create(here.path().join("new")).unwrap();
            writer.add(&name(text), text).unwrap();
            writer.finish(&here.path().join("1")).unwrap();
        };
        for read_before in [false, true] {
            write(b"one");
            let packs = Packs::default();
            packs.refresh(here.path()).unwrap();
            if read_before {
                assert_eq!(packs.content(&name(b"one")), Some(b"one".to_vec()));
            }
            write(b"two");
            // Whoever has it open reads what he knew.
            assert_eq!(packs.content(&name(b"one")), read_before.then(|| b"one".to_vec()));
            packs.refresh(here.path()).unwrap();
            assert_eq!(
                (packs.content(&name(b"one")), packs.content(&name(b"two"))),
                (None, Some(b"two".to_vec()))
            );
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_taken_for_read() {
        let here = tempfile::tempdir().unwrap();
        // Reading a directory fails.
        let file = File::open(here.path()).unwrap();
        let mut reading =
            Reading { number: 1, identity: Identity::default(), file, window: Default::default() };
        assert!(reading.read((0, 5)).is_err());
        assert!(reading.read((0, 5)).is_err());
    }

    #[test]
    fn what_was_altered_is_not_given_out() {
        let here = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(here.path().join("new")).unwrap();
        writer.add(&name(b"one"), b"one").unwrap();
        writer.add(&name(b"two"), b"two").unwrap();
        writer.finish(&here.path().join("1")).unwrap();
        let mut altered = fs::read(here.path().join("1")).unwrap();
        altered[1] ^= 1;
        fs::write(here.path().join("1"), altered).unwrap();
        let packs = Packs::default();
        packs.refresh(here.path()).unwrap();
        assert_eq!((packs.content(&name(b"one")), packs.content_in(1, &name(b"one"))), (None, None));
        assert!(packs.lists(&name(b"one")), "it is told from what is not there");
        assert_eq!(packs.content(&name(b"two")), Some(b"two".to_vec()));
    }
}
