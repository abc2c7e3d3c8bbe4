//! The store on a disk: opening, locking, appending, contents, generations, compaction.
//!
//! Order of durability: contents, then the journal record that names them, then the change of the machine that
//! the record lets undo. [`Store::sync`] is the barrier between any two of them.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use units::kind::{Content, Spec};
use units::{Kind, Manifest, UnitId};

use super::index::Index;
use super::journal::{self, Encoder, MAGIC, Recovery};
use super::layers;
use super::progress::Progress;
use super::record::{Digest, Record};
use super::{hex, unhex};
use crate::staged;
use crate::sys;

mod contents;
mod layered;
mod lock;
mod mark;
pub mod packed;
pub use contents::Saved;

/// Above this many files one syncfs is cheaper than an fsync each.
pub const FSYNC_LIMIT: usize = 32;
/// A journal of fewer bytes is never compacted.
const COMPACT_FROM: u64 = 4 << 20;
/// Bytes of contents that the history has forgotten, from which on they are thrown away before the journal is that long.
const SWEEP_FROM: u64 = 64 << 20;

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A content that a manifest names is nowhere.
    #[error("content of {unit} is missing: neither staged nor in the store")]
    NoContent {
        /// The unit.
        unit: String,
    },
    /// A content is not what its name says.
    #[error("content {} is damaged", path.display())]
    Damaged {
        /// Where it lies.
        path: PathBuf,
    },
    /// There is no such generation.
    #[error("there is no generation {0} in the store")]
    NoGeneration(u64),
    /// PID 1 named a manifest that it did not send.
    #[error("cannot make a generation: its manifest is not known to the worker")]
    UnknownManifest,
    /// It is not known which layers a generation has.
    #[error(
        "the list of layers of generation {generation} is damaged; `initctl rollback N` to another generation"
    )]
    Layers {
        /// The generation.
        generation: u64,
    },
    /// There is nothing before the current generation.
    #[error("there is no generation before the current one")]
    NoPrevious,
    /// Its manifest cannot be read.
    #[error("cannot read manifest of generation {generation}: {source}")]
    Manifest {
        /// The generation.
        generation: u64,
        /// Why not.
        source: units::manifest::ManifestError,
    },
    /// The journal holds something that would be lost if it were continued. It is left as it is.
    #[error("cannot use journal {}: {source}", path.display())]
    Unreadable {
        /// The journal.
        path: PathBuf,
        /// Why not.
        source: journal::Unreadable,
    },
    /// A record cannot be written.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
}

pub(super) fn at<T>(verb: &'static str, path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::File { verb, path: path.to_owned(), source })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    lock: File,
    journal: File,
    journal_ino: u64,
    length: u64,
    encoder: Encoder,
    index: Index,
    /// Contents written since the last barrier: file and directory.
    unsynced: BTreeSet<(PathBuf, PathBuf)>,
    journal_dirty: bool,
    /// Contents of these that this very store has written.
    fresh: BTreeSet<PathBuf>,
    /// Length of the journal at the last barrier.
    durable: u64,
    /// Whether something that is not durable may pass for it from now on.
    broken: bool,
    temporary: u64,
    /// From which length on a look at whether compaction pays is worth its while.
    compact_from: u64,
    /// Whether the last content that was put in was not there before.
    row_of_new: bool,
    packs: packed::Packs,
    /// How often a content was found that no record names.
    asked: usize,
    /// Contents that were durable when that had become often.
    sure: Option<HashSet<Digest>>,
    /// Bytes of contents written since the last barrier.
    written: u64,
    /// Whom long work is told to.
    pub progress: Progress,
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    // What lies above is for everybody.
    let above = path
        .parent()
        .filter(|p| !p.exists())
        .map_or(Ok(()), |p| fs::DirBuilder::new().recursive(true).mode(0o755).create(p));
    at("create directory", path, above)?;
    at("create directory", path, fs::DirBuilder::new().recursive(true).mode(0o700).create(path))
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    at("sync", path, File::open(path).and_then(|d| d.sync_all()))
}

impl Store {
    /// Opens the store in `dir`, or makes an empty one there, and cuts off what a crash left at the end of the
    /// journal.
    ///
    /// # Errors
    /// When a file of it cannot be made, read or written.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        for sub in ["", "generations", "blobs", packed::DIRECTORY, layers::DIRECTORY, "staging"] {
            make_dir(&dir.join(sub))?;
        }
        let lock_path = dir.join("lock");
        let lock = at("lock", &lock_path, lock::take_new(&lock_path))?;
        let journal_path = dir.join("journal");
        let (journal, replayed, index) = Store::read_journal(dir, &journal_path)?;
        let ino = at("stat", &journal_path, journal.metadata())?.ino();
        let mut store = Store {
            dir: dir.to_owned(),
            lock,
            journal,
            journal_ino: ino,
            length: replayed.valid_len as u64,
            encoder: replayed.encoder,
            index,
            unsynced: BTreeSet::new(),
            journal_dirty: false,
            fresh: BTreeSet::new(),
            durable: replayed.valid_len as u64,
            broken: false,
            temporary: 0,
            compact_from: COMPACT_FROM,
            row_of_new: false,
            packs: packed::Packs::default(),
            asked: 0,
            sure: None,
            written: 0,
            progress: Progress::default(),
        };
        store.inherit()?;
        store.unlock();
        Ok(store)
    }

    /// Opens the store in `dir` to look at it: nothing is made, locked or cut off. What can be seen is what was
    /// there at one moment; writing to it fails.
    ///
    /// # Errors
    /// When there is none, or a file of it cannot be read.
    pub fn look(dir: &Path) -> Result<Store, StoreError> {
        let (lock_path, path) = (dir.join("lock"), dir.join("journal"));
        let lock = at("open", &lock_path, File::open(&lock_path))?;
        let mut journal = at("open", &path, File::open(&path))?;
        let mut bytes = Vec::new();
        at("read", &path, journal.read_to_end(&mut bytes))?;
        let journal_ino = at("stat", &path, journal.metadata())?.ino();
        let mut index = Index::default();
        let replayed = journal::replay_into(&bytes, &mut |record| index.take(record));
        journal::check(&bytes, &replayed).map_err(|source| StoreError::Unreadable { path, source })?;
        Ok(Store {
            dir: dir.to_owned(),
            lock,
            journal_ino,
            journal,
            length: replayed.valid_len as u64,
            encoder: replayed.encoder,
            index,
            unsynced: BTreeSet::new(),
            journal_dirty: false,
            fresh: BTreeSet::new(),
            durable: replayed.valid_len as u64,
            broken: false,
            temporary: 0,
            compact_from: COMPACT_FROM,
            row_of_new: false,
            packs: packed::Packs::default(),
            asked: 0,
            sure: None,
            written: 0,
            progress: Progress::default(),
        })
    }

    fn read_journal(dir: &Path, path: &Path) -> Result<(File, journal::Replay, Index), StoreError> {
        let mut file =
            at("open", path, OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path))?;
        let mut bytes = Vec::new();
        at("read", path, file.read_to_end(&mut bytes))?;
        let mut index = Index::default();
        let mut replayed = journal::replay_into(&bytes, &mut |record| index.take(record));
        journal::check(&bytes, &replayed)
            .map_err(|source| StoreError::Unreadable { path: path.to_owned(), source })?;
        if replayed.valid_len < bytes.len() || replayed.valid_len == 0 {
            at("cut", path, file.set_len(replayed.valid_len as u64))?;
        }
        if replayed.valid_len == 0 {
            at("write", path, file.write_all(MAGIC))?;
            replayed.valid_len = MAGIC.len();
            at("sync", path, file.sync_all())?;
            sync_dir(dir)?;
        }
        Ok((file, replayed, index))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it knows.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes the writer's lock, and takes in what another worker wrote meanwhile.
    ///
    /// # Errors
    /// When the lock or the journal cannot be read.
    pub fn lock(&mut self) -> Result<(), StoreError> {
        let path = self.dir.join("lock");
        at("lock", &path, lock::take(&mut self.lock, &path))?;
        self.refresh()
    }

    /// Lets others write.
    pub fn unlock(&self) {
        sys::unlock_file(&self.lock);
    }

    /// Takes in what another process wrote into the journal.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn refresh(&mut self) -> Result<(), StoreError> {
        let path = self.dir.join("journal");
        let metadata = at("stat", &path, fs::metadata(&path))?;
        if metadata.ino() == self.journal_ino && metadata.len() == self.length {
            return Ok(());
        }
        if metadata.ino() == self.journal_ino && metadata.len() > self.length {
            let mut bytes = Vec::new();
            at("read", &path, self.journal.seek(SeekFrom::Start(self.length)))?;
            at("read", &path, self.journal.read_to_end(&mut bytes))?;
            let mut more = journal::Replay { encoder: self.encoder, ..journal::Replay::default() };
            let mut records = Vec::new();
            journal::replay_more(&bytes, &mut more, &mut |record| records.push(record));
            if journal::check_rest(&bytes, more.valid_len, more.encoder).is_err() {
                let start = usize::try_from(self.length).unwrap_or(usize::MAX);
                let source = journal::Unreadable::Damaged { at: start.saturating_add(more.valid_len) };
                return Err(StoreError::Unreadable { path, source });
            }
            records.into_iter().for_each(|record| self.index.take(record));
            self.length += more.valid_len as u64;
            self.encoder = more.encoder;
            if more.valid_len < bytes.len() {
                at("cut", &path, self.journal.set_len(self.length))?;
            }
            return self.inherit();
        }
        // Compacted by another worker, or cut: everything anew.
        let (journal, replayed, index) = Store::read_journal(&self.dir, &path)?;
        self.journal_ino = at("stat", &path, journal.metadata())?.ino();
        self.journal = journal;
        self.length = replayed.valid_len as u64;
        self.encoder = replayed.encoder;
        self.index = index;
        // Whoever compacted it has thrown away what nobody names.
        self.packs = packed::Packs::default();
        self.inherit()
    }

    /// Appends records; they are durable after the next [`Store::sync`]. The lock must be held.
    ///
    /// # Errors
    /// When the journal cannot be written; what stands in it then is as it was before.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut encoder = self.encoder;
        if !self.journal_dirty && !records.first().is_some_and(journal::is_behind_durable) {
            encoder.encode(&journal::DURABLE, &mut bytes)?;
        }
        for record in records {
            encoder.encode(record, &mut bytes)?;
        }
        let path = self.dir.join("journal");
        if let Err(e) = self.journal.write_all(&bytes) {
            // A half-written record would hide everything that comes after it.
            self.broken |= self.journal.set_len(self.length).is_err();
            return at("write", &path, Err(e));
        }
        self.encoder = encoder;
        self.length += bytes.len() as u64;
        self.journal_dirty = true;
        for record in records {
            self.index.apply(record);
        }
        Ok(())
    }

    /// Makes everything durable that was saved and appended so far.
    ///
    /// # Errors
    /// When the disk says no; nothing may be built on the records then.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.broken {
            let lost =
                io::Error::other("its disk has lost what was written; the next worker looks what is there");
            return at("use", &self.dir, Err(lost));
        }
        let synced = self.sync_all();
        match synced {
            Ok(()) => {
                self.fresh.clear();
                self.mark_durable();
            }
            Err(_) => self.distrust(),
        }
        synced
    }

    /// After an error that is told once only: fsync(2) would find nothing to write the next time, though what memory has is
    /// on no disk. What nobody was promised yet is taken back, so that it is written anew.
    fn distrust(&mut self) {
        for path in std::mem::take(&mut self.fresh) {
            let _ = fs::remove_file(path);
        }
        self.packs = packed::Packs::default();
        if self.journal_dirty {
            let journal = OpenOptions::new().write(true).open(self.dir.join("journal"));
            let cut = journal.and_then(|journal| journal.set_len(self.durable));
            self.broken = cut.is_err() || self.refresh().is_err();
            self.journal_dirty = false;
        }
    }

    fn sync_all(&mut self) -> Result<(), StoreError> {
        if self.unsynced.len() > FSYNC_LIMIT {
            at("sync", &self.dir, nix::unistd::syncfs(&self.lock).map_err(io::Error::from))?;
            self.unsynced.clear();
        }
        // A directory is another's entry and has entries itself: once is enough for both.
        let paths: BTreeSet<&PathBuf> = self.unsynced.iter().flat_map(|(file, dir)| [file, dir]).collect();
        for path in paths {
            self.progress.goes_on();
            at("sync", path, File::open(path).and_then(|f| f.sync_all()))?;
        }
        self.written = 0;
        // Not sooner: after an error all of it is still to be made durable.
        self.unsynced.clear();
        if self.journal_dirty {
            let path = self.dir.join("journal");
            at("sync", &path, self.journal.sync_data())?;
            self.journal_dirty = false;
        }
        Ok(())
    }

    /// Appends records and makes them durable.
    ///
    /// # Errors
    /// As [`Store::append`] and [`Store::sync`].
    pub fn record(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.append(records)?;
        self.sync()
    }

    /// Makes a generation of a manifest: contents, manifest and record are durable when it returns. The same
    /// manifest, of the same layers, as the current one's gives the current number, and so does that of a generation that
    /// was left or never came to be; one that led to the current one is made anew, since to go to that would be a return.
    /// With `known`, any generation's number is given. Layers lie beside the candidates' contents.
    ///
    /// # Errors
    /// When a content is missing or damaged, or the disk says no.
    pub fn prepare(
        &mut self,
        manifest: &Manifest,
        candidates: &[PathBuf],
        note: &str,
        known: bool,
    ) -> Result<u64, StoreError> {
        let digest = manifest.digest();
        let coming = layered::coming(candidates)?;
        let found = self.index.find(&digest).into_iter().find(|found| {
            (known || self.index.current() == Some(*found) || !self.index.is_back(*found))
                && self.load(Some(*found)).is_ok()
                && self.has_layers(*found, coming.as_ref())
        });
        if let Some(found) = found
            && coming.as_ref().is_none_or(|coming| self.lists(found, coming))
        {
            return Ok(found);
        }
        let mut taking = self.taking(candidates);
        if let (Some(found), Some(coming)) = (found, &coming) {
            return self.refresh_layers(found, coming, taking).map(|()| found);
        }
        for id in manifest.ids() {
            if let Some(content) = content_of(manifest, id) {
                self.take_in(&content, &mut taking, &|| manifest.address(id).to_string())?;
                self.end_piece()?;
            }
        }
        if let Some(coming) = &coming {
            self.take_layers_in(coming, &mut taking)?;
        }
        self.taken(taking)?;
        let generation = self.index.last_generation.max(self.highest_directory()) + 1;
        let path = self.generation_path(generation);
        make_dir(&path)?;
        let list = coming.map(|c| (layers::LIST, layers::encode(&c.list).into_bytes()));
        for (name, bytes) in list.into_iter().chain([
            ("manifest", manifest.as_bytes().to_vec()),
            (
                "meta",
                format!("digest {}\nwhen {}\nunits {}\nnote {note}\n", hex(&digest), now(), manifest.len())
                    .into(),
            ),
        ]) {
            let file_path = path.join(name);
            let mut file =
                at("create", &file_path, new_file(&file_path).or_else(|_| File::create(&file_path)))?;
            at("write", &file_path, file.write_all(&bytes))?;
            self.unsynced.insert((file_path, path.clone()));
        }
        self.unsynced.insert((path.clone(), self.dir.join("generations")));
        self.sync()?;
        self.record(&[Record::Prepared { generation, digest, when: now(), note: note.to_owned() }])?;
        Ok(generation)
    }

    fn generation_path(&self, generation: u64) -> PathBuf {
        self.dir.join("generations").join(generation.to_string())
    }

    /// A directory whose record was lost keeps its number: nobody may find other bytes under it.
    fn highest_directory(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.dir.join("generations")) else { return 0 };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
    }

    /// The manifest of a generation, checked against its digest; `None` asks for the one before the current.
    ///
    /// # Errors
    /// When there is no such generation, or its manifest is damaged.
    pub fn load(&self, generation: Option<u64>) -> Result<(u64, Manifest), StoreError> {
        let generation = match generation {
            Some(g) => g,
            None => self.index.previous().ok_or(StoreError::NoPrevious)?,
        };
        let known = self.index.generations.get(&generation).ok_or(StoreError::NoGeneration(generation))?;
        let path = self.generation_path(generation).join("manifest");
        let bytes = at("read", &path, fs::read(&path))?;
        let manifest =
            Manifest::from_vec(bytes).map_err(|source| StoreError::Manifest { generation, source })?;
        if manifest.digest() != known.digest || !manifest.verify_digest() {
            return Err(StoreError::Damaged { path });
        }
        Ok((generation, manifest))
    }

    /// The current generation and its manifest; where that is damaged, the newest one before it whose manifest holds.
    /// What is wrong with those that were passed over is added to `damaged`.
    ///
    /// # Errors
    /// When there are generations, but no manifest of them holds.
    pub fn load_current(&self, damaged: &mut Vec<String>) -> Result<Option<(u64, Manifest)>, StoreError> {
        let mut first = None;
        for (generation, _) in self.index.stack.iter().rev() {
            match self.load(Some(*generation)) {
                Ok(found) => return Ok(Some(found)),
                Err(e) => {
                    damaged.push(format!("cannot use generation {generation}: {e}"));
                    first.get_or_insert(e);
                }
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// What a start has to know.
    pub fn recovery(&self) -> Recovery {
        self.index.recovery()
    }

    /// Takes over what was recorded before this store could be opened, and empties the other.
    ///
    /// # Errors
    /// When either cannot be read or written.
    pub fn absorb(&mut self, other: &mut Store) -> Result<(), StoreError> {
        let mut records = Vec::new();
        for record in other.index.compact().0 {
            match record {
                // What is known here already is older and truer: a thing that was made by an earlier boot is
                // found in place by this one.
                Record::Own { ref thing, .. } if self.index.own.contains_key(thing) => {}
                Record::Own { .. }
                | Record::Ran { .. }
                | Record::Retired { .. }
                | Record::History { .. }
                | Record::Replaced { .. } => records.push(record),
                _ => {}
            }
        }
        for digest in other.index.contents() {
            if let Some(mut file) = other.content(&digest) {
                self.save(&mut file)?;
            }
        }
        self.record(&records)?;
        let path = other.dir.clone();
        at("remove", &path, fs::remove_dir_all(&path))?;
        Ok(())
    }

    /// Rewrites a journal that has grown far beyond what it says, and throws away contents nobody names.
    ///
    /// # Errors
    /// When the new one cannot be written; the old one stays then.
    pub fn compact(&mut self, force: bool) -> Result<bool, StoreError> {
        let sweep = force || self.index.forgotten >= SWEEP_FROM;
        if !sweep && self.length < self.compact_from {
            return Ok(false);
        }
        let (records, dropped) = self.index.compact();
        if !sweep && (records.len() as u64).saturating_mul(3) > self.index.seen {
            // It takes milliseconds to find out, and every repair would ask again.
            self.compact_from = self.length.saturating_add(self.length / 4);
            return Ok(false);
        }
        let path = self.dir.join("journal");
        let fresh = self.dir.join("journal.new");
        let mut bytes = MAGIC.to_vec();
        let mut encoder = Encoder::new();
        // It is durable before it has its name.
        for record in records.iter().chain([&journal::DURABLE]) {
            encoder.encode(record, &mut bytes)?;
        }
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let mut file = at("create", &fresh, made)?;
        at("write", &fresh, file.write_all(&bytes))?;
        at("sync", &fresh, file.sync_all())?;
        let inode = at("stat", &fresh, file.metadata())?.ino();
        at("rename", &fresh, fs::rename(&fresh, &path))?;
        if let Err(e) = sync_dir(&self.dir) {
            // What goes on is the one that has the name now.
            self.refresh()?;
            return Err(e);
        }
        mark::set(&self.lock, inode, bytes.len() as u64);
        for generation in dropped {
            let _ = fs::remove_dir_all(self.generation_path(generation));
        }
        self.refresh()?;
        self.compact_from = COMPACT_FROM;
        self.sweep();
        Ok(true)
    }

    /// Removes contents that neither a generation nor a record names. Failure costs room, nothing else.
    fn sweep(&mut self) {
        let Some((files, contents)) = self.named_by_layers() else { return };
        self.sweep_layers(&files);
        let mut named = self.index.contents();
        named.extend(contents);
        for generation in self.index.generations.keys() {
            // Without its manifest nothing can be said about what it names.
            let Ok((_, manifest)) = self.load(Some(*generation)) else { return };
            named.extend(contents_of(&manifest).map(|c| c.digest));
        }
        let _ = self.sweep_packs(&named);
        let Ok(dirs) = fs::read_dir(self.dir.join("blobs")) else { return };
        for entry in dirs.flatten().filter_map(|d| fs::read_dir(d.path()).ok()).flat_map(Iterator::flatten) {
            let digest = entry.file_name().to_str().and_then(unhex);
            if digest.is_none_or(|d| !named.contains(&d)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes from the staging directory what workers have left that were killed since boot.
    pub fn sweep_staging(&self) {
        let path = self.dir.join("staging");
        if let Ok(area) = File::open(&path) {
            staged::sweep(&area, &path);
        }
    }

    /// Bytes that can be written on the file system of the store, and its size.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn room(&self) -> Result<(u64, u64), StoreError> {
        let found = nix::sys::statfs::fstatfs(&self.lock).map_err(io::Error::from);
        let found = at("ask the file system of", &self.dir, found)?;
        let block = u64::try_from(found.block_size()).unwrap_or_default();
        Ok((found.blocks_available().saturating_mul(block), found.blocks().saturating_mul(block)))
    }

    /// Empties the staging directory of what dead workers left.
    pub fn clear_staging(&self) {
        let Ok(entries) = fs::read_dir(self.dir.join("staging")) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// What a unit's file holds.
fn content_of(manifest: &Manifest, id: UnitId) -> Option<Content> {
    // Only what is a file is decoded.
    match (manifest.kind(id) == Kind::File).then(|| manifest.spec(id))?? {
        Spec::File(file) => file.content,
        _ => None,
    }
}

/// What the files of a manifest hold.
fn contents_of(manifest: &Manifest) -> impl Iterator<Item = Content> {
    manifest.ids().filter_map(|id| content_of(manifest, id))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
