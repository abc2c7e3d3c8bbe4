//! Contents: a file each, named by its digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use units::kind::Content;

use super::{FSYNC_LIMIT, Store, StoreError, at, make_dir, new_file};
use crate::store::hex;
use crate::store::pack::{self, Packs};
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

    /// A content, opened; `None` when the store does not have it.
    pub fn content(&self, digest: &Digest) -> Option<File> {
        File::open(self.blob_path(digest).0).ok()
    }

    /// A name in the staging directory that nobody uses.
    pub fn temporary(&mut self) -> PathBuf {
        self.temporary += 1;
        self.dir.join("staging").join(format!("{}-{}", std::process::id(), self.temporary))
    }

    /// Saves what `source` holds from where it stands; durable after the next [`Store::sync`].
    ///
    /// # Errors
    /// When the source cannot be read or the store not written.
    pub fn save(&mut self, source: &mut dyn Read) -> Result<Saved, StoreError> {
        let mut buffer = vec![0; 64 << 10];
        let mut hash = Sha256::new();
        let mut size = 0u64;
        let mut spool: Option<(PathBuf, File)> = None;
        let mut held: Vec<u8> = Vec::new();
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return at("read", Path::new("content"), Err(e)),
            };
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
            if let Some((path, file)) = &mut spool
                && let Err(e) = file.write_all(chunk)
            {
                let _ = fs::remove_file(&*path);
                return at("write", path, Err(e));
            }
        }
        let digest: Digest = hash.finalize().into();
        let (path, dir) = self.blob_path(&digest);
        let there = fs::metadata(&path).is_ok_and(|m| m.len() == size);
        match spool {
            _ if there => {
                self.found(&digest, &path, &dir);
                if let Some((temporary, _)) = spool {
                    let _ = fs::remove_file(temporary);
                }
            }
            Some((temporary, _)) => self.adopt(&temporary, &path, &dir)?,
            None => self.put(&digest, &held)?,
        }
        Ok(Saved { digest, size })
    }

    /// A content that is there already may have been left by a worker that died before it was durable; one that a
    /// record names is durable, since no record is written before what it names is.
    fn found(&mut self, digest: &Digest, path: &Path, dir: &Path) {
        // Beyond the limit one call makes all of them durable.
        if self.unsynced.len() <= FSYNC_LIMIT && self.index.names(digest) {
            return;
        }
        self.unsynced.insert((dir.to_owned(), self.dir.join("blobs")));
        self.unsynced.insert((path.to_owned(), dir.to_owned()));
    }

    /// Writes a content under its name at once: whoever meets what a crash has left of that compares the length, and
    /// nobody is told of the name before all of it is durable.
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
                if fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
                    self.found(digest, &path, &dir);
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
        self.unsynced.insert((path, dir));
        Ok(())
    }

    fn adopt(&mut self, temporary: &Path, path: &Path, dir: &Path) -> Result<(), StoreError> {
        if !dir.is_dir() {
            make_dir(dir)?;
            self.unsynced.insert((dir.to_owned(), self.dir.join("blobs")));
        }
        at("rename", temporary, fs::rename(temporary, path))?;
        self.unsynced.insert((path.to_owned(), dir.to_owned()));
        Ok(())
    }

    /// Moves what a content's name promises into the store, from a staged file.
    pub(super) fn take_in(
        &mut self,
        content: &Content,
        candidates: &[PathBuf],
        packs: &mut Packs,
        unit: &str,
    ) -> Result<(), StoreError> {
        let (path, dir) = self.blob_path(&content.digest);
        // New ones come in a row: behind one that was not there, making the next tells whether it is.
        let look = !self.row_of_new || !packs.has(&content.digest);
        if look && fs::metadata(&path).is_ok_and(|m| m.len() == content.size) {
            self.row_of_new = false;
            self.found(&content.digest, &path, &dir);
            return Ok(());
        }
        // Read and hashed here, from a pack or a file: whoever staged it is not trusted.
        if let Some(bytes) = packs.content(&content.digest) {
            if Digest::from(Sha256::digest(bytes)) != content.digest {
                return Err(StoreError::Damaged { path: pack::NAME.into() });
            }
            return self.put(&content.digest, bytes);
        }
        for dir in candidates {
            let staged = dir.join(hex(&content.digest));
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&staged);
            let Ok(mut file) = opened else { continue };
            let saved = self.save(&mut file)?;
            if saved.digest != content.digest {
                return Err(StoreError::Damaged { path: staged });
            }
            return Ok(());
        }
        Err(StoreError::NoContent { unit: unit.to_owned() })
    }
}
