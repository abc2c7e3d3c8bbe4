//! Small staged contents, many to a file: a file each would cost five system calls and a directory entry for what is, most
//! of the time, in the store already.
//!
//! A pack is a row of entries: the digest, the length (eight bytes, little-endian), the content. Its writer is not
//! trusted: who takes an entry into the store hashes it again, and an entry that runs past the end ends the reading.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Digest;

/// Name of a pack in a staging directory.
pub const NAME: &str = "pack";
/// Largest content that is packed, in bytes; larger ones are files of their own.
pub const LIMIT: usize = 64 << 10;
/// Bytes that wait for one write(2).
const BUFFER: usize = 256 << 10;
const HEAD: usize = 40;

/// Writes a pack.
#[derive(Debug)]
pub struct Packer<W> {
    out: W,
    waiting: Vec<u8>,
}

impl<W: Write> Packer<W> {
    /// Into an empty file.
    pub fn new(out: W) -> Packer<W> {
        Packer { out, waiting: Vec::new() }
    }

    /// Appends a content.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn add(&mut self, digest: &Digest, content: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(digest);
        self.waiting.extend_from_slice(&(content.len() as u64).to_le_bytes());
        self.waiting.extend_from_slice(content);
        if self.waiting.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

/// The packs of some staging directories, by what is in them.
#[derive(Debug, Default)]
pub struct Packs {
    files: Vec<File>,
    entries: HashMap<Digest, (usize, u64, u64)>,
    /// What was read last: of which file, from where on. Contents are asked for much as they were packed.
    window: (usize, u64, Vec<u8>),
}

impl Packs {
    /// Reads which contents are in the packs of these directories; one that has none adds nothing.
    pub fn of<P: AsRef<Path>>(directories: impl IntoIterator<Item = P>) -> Packs {
        let mut packs = Packs::default();
        for directory in directories {
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(directory.as_ref().join(NAME));
            if let Ok(file) = opened
                && file.metadata().is_ok_and(|m| m.is_file())
            {
                packs.read(file);
            }
        }
        packs
    }

    fn read(&mut self, file: File) {
        let number = self.files.len();
        let mut reader = BufReader::with_capacity(BUFFER, &file);
        let mut at = 0u64;
        let mut head = [0; HEAD];
        while reader.read_exact(&mut head).is_ok() {
            let (digest, length) = head.split_at(32);
            let (Ok(digest), Ok(length)) = (Digest::try_from(digest), <[u8; 8]>::try_from(length)) else {
                break;
            };
            let length = u64::from_le_bytes(length);
            at += HEAD as u64;
            if length > LIMIT as u64 || skip(&mut reader, length).is_err() {
                break;
            }
            self.entries.entry(digest).or_insert((number, at, length));
            at += length;
        }
        drop(reader);
        self.files.push(file);
    }

    /// Whether there is a content that its writer called so.
    pub fn has(&self, digest: &Digest) -> bool {
        self.entries.contains_key(digest)
    }

    /// Digests and lengths of all.
    pub fn all(&self) -> impl Iterator<Item = (&Digest, u64)> {
        self.entries.iter().map(|(digest, (_, _, length))| (digest, *length))
    }

    /// A content, as its writer called it.
    pub fn content(&mut self, digest: &Digest) -> Option<&[u8]> {
        let (file, at, length) = *self.entries.get(digest)?;
        let length = usize::try_from(length).ok()?;
        let (of, from, bytes) = &self.window;
        let end = from.saturating_add(bytes.len() as u64);
        if *of != file || at < *from || at.saturating_add(length as u64) > end {
            self.window = (file, at, self.read_window(file, at)?);
        }
        let (_, from, bytes) = &self.window;
        let start = usize::try_from(at.checked_sub(*from)?).ok()?;
        bytes.get(start..start.checked_add(length)?)
    }

    fn read_window(&self, file: usize, at: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; BUFFER];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.files.get(file)?.read_at(rest, at.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(filled);
        Some(bytes)
    }
}

/// Passes over bytes that are known to be there.
fn skip(reader: &mut impl BufRead, mut count: u64) -> io::Result<()> {
    while count > 0 {
        let there = reader.fill_buf()?.len();
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let step = usize::try_from(count).unwrap_or(usize::MAX).min(there);
        reader.consume(step);
        count -= step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_packed_and_stops_where_it_is_torn() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join(NAME);
        let mut packer = Packer::new(File::create(&path).unwrap());
        packer.add(&[1; 32], b"one").unwrap();
        packer.add(&[2; 32], b"").unwrap();
        packer.add(&[3; 32], &[7; LIMIT]).unwrap();
        packer.flush().unwrap();
        let mut packs = Packs::of([here.path(), Path::new("/nonexistent")]);
        for _ in 0..2 {
            assert_eq!(packs.content(&[3; 32]).unwrap(), vec![7; LIMIT]);
            assert_eq!(packs.content(&[1; 32]).unwrap(), b"one");
            assert_eq!(packs.content(&[2; 32]).unwrap(), b"");
            assert_eq!(packs.content(&[4; 32]), None);
        }

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let mut packs = Packs::of([here.path()]);
        assert_eq!((packs.content(&[1; 32]).is_some(), packs.content(&[3; 32]).is_some()), (true, false));
        let mut lying = whole;
        lying[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, lying).unwrap();
        assert_eq!(Packs::of([here.path()]).content(&[1; 32]), None);
    }

    #[test]
    fn follows_no_link() {
        let here = tempfile::tempdir().unwrap();
        let mut packer = Packer::new(File::create(here.path().join("elsewhere")).unwrap());
        packer.add(&[1; 32], b"one").unwrap();
        packer.flush().unwrap();
        std::os::unix::fs::symlink("elsewhere", here.path().join(NAME)).unwrap();
        assert_eq!(Packs::of([here.path()]).content(&[1; 32]), None);
    }
}
