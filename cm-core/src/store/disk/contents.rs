//! Contents: a file each, named by its digest, or in a pack.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use units::kind::Content;

use super::packed::{self, Stored};
use super::{FSYNC_LIMIT, Store, StoreError, at, contents_of, make_dir, new_file};
use crate::staged;
use crate::store::hex;
use crate::store::pack::{self, Packs};
use crate::store::progress::PIECE;
use crate::store::record::Digest;

/// A content on its way into the store.
#[derive(Debug)]
pub struct Saved {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

impl Store {
    pub(super) fn blob_path(&self, digest: &Digest) -> (PathBuf, PathBuf) {
        let name = hex(digest);
        let dir = self.dir.join("blobs").join(name.get(..2).unwrap_or_default());
        (dir.join(&name), dir)
    }

    /// Why [`Store::content`] gives nothing, if it does not.
    pub fn lack(&self, digest: &Digest) -> Option<&'static str> {
        match self.content(digest) {
            Some(_) => None,
            None if self.packs.lists(digest) => Some("is damaged"),
            None => Some("is missing"),
        }
    }

    /// A content, opened; `None` when the store does not have it, or what lies in a pack in its place is not it. A file is
    /// checked by who reads it.
    pub fn content(&self, digest: &Digest) -> Option<Stored> {
        // First what is durable and whole: a loss of power may have left a file of the same name that is not.
        // Of a pack that cannot be read nothing is found; it is looked for once more below.
        let _ = self.packs.open_once(&self.dir.join(packed::DIRECTORY));
        let packed = || self.packs.content(digest).map(|bytes| Stored::Bytes(io::Cursor::new(bytes)));
        packed().or_else(|| File::open(self.blob_path(digest).0).ok().map(Stored::File)).or_else(|| {
            // Somebody else may have packed it since.
            let _ = self.packs.refresh(&self.dir.join(packed::DIRECTORY));
            packed()
        })
    }

    /// A name in the staging directory that nobody uses.
    pub fn temporary(&mut self) -> PathBuf {
        self.temporary += 1;
        // Others stage there too, in this very process.
        self.dir.join("staging").join(format!("{}.s{}", staged::mark(), self.temporary))
    }

    /// Saves what `source` holds from where it stands; durable after the next [`Store::sync`].
    ///
    /// # Errors
    /// When the source cannot be read or the store not written.
    pub fn save(&mut self, source: &mut dyn Read) -> Result<Saved, StoreError> {
        let mut buffer = vec![0; 64 << 10];
        let mut hash = Sha256::new();
        let (mut size, mut piece) = (0u64, 0u64);
        let mut spool: Option<(PathBuf, File)> = None;
        let mut held: Vec<u8> = Vec::new();
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    if let Some((path, _)) = spool {
                        let _ = fs::remove_file(path);
                    }
                    return at("read", Path::new("content"), Err(e));
                }
            };
            self.progress.goes_on();
            let chunk = buffer.get(..count).unwrap_or_default();
            hash.update(chunk);
            size += count as u64;
            // Small contents are named before they are written, since most of them are there already.
            if spool.is_none() && held.len() + count <= 1 << 20 {
                held.extend_from_slice(chunk);
                continue;
            }
            if spool.is_none() {
                let path = self.temporary();
                let mut file = at("create", &path, new_file(&path))?;
                at("write", &path, file.write_all(&held))?;
                held.clear();
                spool = Some((path, file));
            }
            if let Some((path, file)) = &mut spool {
                piece += count as u64;
                let is_whole = piece >= PIECE;
                piece %= PIECE;
                let written = file.write_all(chunk);
                if let Err(e) = written.and_then(|()| if is_whole { file.sync_data() } else { Ok(()) }) {
                    let _ = fs::remove_file(&*path);
                    return at("write", path, Err(e));
                }
            }
        }
        let digest: Digest = hash.finalize().into();
        let (path, dir) = self.blob_path(&digest);
        // What lies in a pack that cannot be read now is written once more, which costs room and nothing else.
        let _ = self.packs.open_once(&self.dir.join(packed::DIRECTORY));
        let is_packed = self.packs.has(&digest, size);
        if is_packed {
            self.named_pack();
        }
        let there = is_packed || self.is_whole(&digest, size, &path, &dir);
        match spool {
            _ if there => {
                if let Some((temporary, _)) = spool {
                    let _ = fs::remove_file(temporary);
                }
            }
            Some((temporary, _)) => {
                self.adopt(&temporary, &path, &dir)?;
                self.written += piece;
            }
            None => self.put(&digest, &held)?,
        }
        Ok(Saved { digest, size })
    }

    /// Whether a content is there already. One that a record or the current generation names is durable, since neither is
    /// written down before what it names is. Any other one may have been left by a worker that died before it was, or by a
    /// loss of power, which may leave the length without the bytes: such a one is read, and is yet to be made durable.
    fn is_whole(&mut self, digest: &Digest, size: u64, path: &Path, dir: &Path) -> bool {
        if !fs::metadata(path).is_ok_and(|m| m.len() == size) {
            return false;
        }
        // Beyond the limit one call makes all of them durable, and to ask for each would cost more.
        let is_named = self.unsynced.len() <= FSYNC_LIMIT && self.index.names(digest);
        if !is_named && !self.is_sure(digest) && !holds(path, digest) {
            return false;
        }
        if !is_named {
            self.unsynced.insert((dir.to_owned(), self.dir.join("blobs")));
            self.unsynced.insert((path.to_owned(), dir.to_owned()));
        }
        true
    }

    /// Whether a content is known to be whole without reading it. For a few of them it costs less to read them.
    fn is_sure(&mut self, digest: &Digest) -> bool {
        self.asked += 1;
        if self.asked <= FSYNC_LIMIT {
            return false;
        }
        if self.sure.is_none() {
            let mut sure: HashSet<Digest> = self.index.contents().into_iter().collect();
            if let Some(Ok((_, manifest))) = self.index.current().map(|n| self.load(Some(n))) {
                sure.extend(contents_of(&manifest).map(|c| c.digest));
            }
            self.sure = Some(sure);
        }
        self.sure.as_ref().is_some_and(|s| s.contains(digest))
    }

    /// Writes a content under its name at once: whoever meets what a crash has left of that reads it, and nobody is told
    /// of the name before all of it is durable.
    pub(super) fn put(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, dir) = self.blob_path(digest);
        let mut made = new_file(&path);
        if made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            make_dir(&dir)?;
            self.unsynced.insert((dir.clone(), self.dir.join("blobs")));
            made = new_file(&path);
        }
        let mut file = match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.row_of_new = false;
                if self.is_whole(digest, bytes.len() as u64, &path, &dir) {
                    return Ok(());
                }
                let temporary = self.temporary();
                let mut file = at("create", &temporary, new_file(&temporary))?;
                if let Err(e) = file.write_all(bytes) {
                    let _ = fs::remove_file(&temporary);
                    return at("write", &temporary, Err(e));
                }
                return self.adopt(&temporary, &path, &dir);
            }
            made => at("create", &path, made)?,
        };
        if let Err(e) = file.write_all(bytes) {
            let _ = fs::remove_file(&path);
            return at("write", &path, Err(e));
        }
        self.row_of_new = true;
        if self.unsynced.len() < FSYNC_LIMIT {
            crate::sys::begin_writing(&file);
        }
        self.fresh.insert(path.clone());
        self.unsynced.insert((path, dir));
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Waits for what was written since the last barrier, if that is much.
    pub(super) fn end_piece(&mut self) -> Result<(), StoreError> {
        self.progress.goes_on();
        if self.written >= PIECE { self.sync() } else { Ok(()) }
    }

    fn adopt(&mut self, temporary: &Path, path: &Path, dir: &Path) -> Result<(), StoreError> {
        if !dir.is_dir() {
            make_dir(dir)?;
            self.unsynced.insert((dir.to_owned(), self.dir.join("blobs")));
        }
        at("rename", temporary, fs::rename(temporary, path))?;
        self.fresh.insert(path.to_owned());
        self.unsynced.insert((path.to_owned(), dir.to_owned()));
        Ok(())
    }

    /// What a generation's contents are taken in from.
    pub(super) fn taking<'a>(&self, candidates: &'a [PathBuf]) -> Taking<'a> {
        let _ = self.packs.refresh(&self.dir.join(packed::DIRECTORY));
        let staged = Packs::of(candidates);
        // A pack for each small change of many files would be a pack for each apply.
        let is_new = |digest: &Digest, size: u64| {
            let there = || fs::metadata(self.blob_path(digest).0).is_ok_and(|m| m.len() == size);
            !self.packs.has(digest, size) && !there()
        };
        let many =
            staged.all().filter(|(d, size)| is_new(d, *size)).take(packed::FROM).count() == packed::FROM;
        Taking { candidates, staged, many, bare: HashSet::new(), pack: None, packed: HashSet::new() }
    }

    /// Moves what a content's name promises into the store, from a staged file.
    pub(super) fn take_in(
        &mut self,
        content: &Content,
        taking: &mut Taking<'_>,
        unit: &dyn Fn() -> String,
    ) -> Result<(), StoreError> {
        let many = taking.many;
        if taking.packed.contains(&content.digest) {
            return Ok(());
        }
        if self.packs.has(&content.digest, content.size) {
            self.named_pack();
            return Ok(());
        }
        let (path, dir) = self.blob_path(&content.digest);
        // New ones come in a row: behind one that was not there, making the next tells whether it is.
        let look = if many {
            !taking.is_bare(&dir)
        } else {
            !self.row_of_new || !taking.staged.has(&content.digest)
        };
        if look && self.is_whole(&content.digest, content.size, &path, &dir) {
            self.row_of_new = false;
            return Ok(());
        }
        // Read and hashed here, from a pack or a file: whoever staged it is not trusted.
        if let Some(bytes) = taking.staged.content(&content.digest) {
            if Digest::from(Sha256::digest(bytes)) != content.digest {
                return Err(StoreError::Damaged { path: pack::NAME.into() });
            }
            if !many {
                return self.put(&content.digest, bytes);
            }
            let pack = match &mut taking.pack {
                Some(pack) => pack,
                None => {
                    let path = self.temporary();
                    taking.pack.insert(at("create", &path, packed::Writer::create(path.clone()))?)
                }
            };
            taking.packed.insert(content.digest);
            return at("write", Path::new("pack"), pack.add(&content.digest, bytes));
        }
        for dir in taking.candidates {
            let staged = dir.join(hex(&content.digest));
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&staged);
            let Ok(mut file) = opened else { continue };
            let saved = self.save(&mut file)?;
            if saved.digest != content.digest {
                return Err(StoreError::Damaged { path: staged });
            }
            return Ok(());
        }
        Err(StoreError::NoContent { unit: unit() })
    }

    /// All are taken in: those of a pack are durable, but for the name.
    pub(super) fn taken(&mut self, taking: Taking<'_>) -> Result<(), StoreError> {
        if let Some(pack) = taking.pack {
            self.add_pack(pack)?;
        }
        Ok(())
    }

    fn add_pack(&mut self, pack: packed::Writer) -> Result<(), StoreError> {
        let directory = self.dir.join(packed::DIRECTORY);
        let path = at("read", &directory, packed::free_name(&directory))?;
        at("write", &path, pack.finish(&path))?;
        self.fresh.insert(path);
        self.named_pack();
        at("read", &directory, self.packs.refresh(&directory))
    }

    /// The name of a pack may have been given by a worker that died before it was durable.
    fn named_pack(&mut self) {
        self.unsynced.insert((self.dir.join(packed::DIRECTORY), self.dir.clone()));
    }

    /// Removes packs of which nothing is named any more, and writes those anew of which most is not.
    pub(super) fn sweep_packs(&mut self, named: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let directory = self.dir.join(packed::DIRECTORY);
        at("read", &directory, self.packs.refresh(&directory))?;
        let spare = self.temporary();
        let read = |number: u64, digest: &Digest| self.packs.content_in(number, digest);
        let mut kept: Vec<(u64, Digest)> = Vec::new();
        let mut thin = Vec::new();
        for (number, contents) in self.packs.all() {
            let sum = |contents: &mut dyn Iterator<Item = &(Digest, u64)>| {
                contents.map(|(_, l)| l + 1).sum::<u64>()
            };
            let is_named = |(digest, _): &&(Digest, u64)| named.contains(digest);
            if sum(&mut contents.iter().filter(is_named)) * 2 >= sum(&mut contents.iter()) {
                continue;
            }
            // One that holds something that cannot be read, or is damaged, stays: what goes with it is gone for good.
            if contents.iter().filter(is_named).all(|(digest, _)| read(number, digest).is_some()) {
                kept.extend(contents.iter().filter(is_named).map(|(digest, _)| (number, *digest)));
                thin.push(number);
            }
        }
        if !kept.is_empty() {
            let mut pack = at("create", &spare, packed::Writer::create(spare.clone()))?;
            for (number, digest) in &kept {
                let Some(bytes) = read(*number, digest) else {
                    return Err(StoreError::Damaged { path: directory.join(number.to_string()) });
                };
                at("write", &spare, pack.add(digest, &bytes))?;
            }
            self.add_pack(pack)?;
            self.sync()?;
        }
        for number in thin {
            let _ = fs::remove_file(directory.join(number.to_string()));
        }
        at("read", &directory, self.packs.refresh(&directory))
    }

    /// Reads every content of every pack once, and tells which are not what their names say.
    pub fn damaged_in_packs(&self) -> Vec<Digest> {
        // Who looks for what is in one that cannot be read does not find it.
        let _ = self.packs.refresh(&self.dir.join(packed::DIRECTORY));
        let contents = self.packs.all().into_iter().flat_map(|(_, contents)| contents);
        contents.map(|(digest, _)| digest).filter(|digest| self.packs.content(digest).is_none()).collect()
    }
}

/// Contents on their way into the store.
#[derive(Debug)]
pub(super) struct Taking<'a> {
    candidates: &'a [PathBuf],
    staged: Packs,
    /// Whether so many are new that they become a pack.
    many: bool,
    /// Directories of contents that are not there.
    bare: HashSet<PathBuf>,
    pack: Option<packed::Writer>,
    /// What is in it.
    packed: HashSet<Digest>,
}

impl Taking<'_> {
    fn is_bare(&mut self, dir: &Path) -> bool {
        if self.bare.contains(dir) {
            return true;
        }
        let bare = !dir.exists();
        if bare {
            self.bare.insert(dir.to_owned());
        }
        bare
    }
}

/// Whether a file holds what its name says.
fn holds(path: &Path, digest: &Digest) -> bool {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let Ok(mut file) = File::open(path) else { return false };
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Digest::from(hash.finalize()) == *digest,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
