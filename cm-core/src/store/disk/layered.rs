//! The layers of a generation on their way into the store, and what they name there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use units::kept::Stored;

use super::contents::Taking;
use super::{Store, StoreError, at, new_file, sync_dir};
use crate::store::layers::{self, Named};
use crate::store::{Digest, hex};

/// Layers of a generation that is to be made.
#[derive(Debug)]
pub(super) struct Coming {
    /// All of them.
    pub list: Vec<Named>,
    /// Where those lie that the store does not have.
    from: PathBuf,
}

/// What was staged beside the contents.
pub(super) fn coming(candidates: &[PathBuf]) -> Result<Option<Coming>, StoreError> {
    for from in candidates {
        let path = from.join(layers::LIST);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let list = layers::decode(&text).ok_or(StoreError::Damaged { path })?;
        return Ok(Some(Coming { list, from: from.clone() }));
    }
    Ok(None)
}

impl Store {
    fn layer_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(layers::DIRECTORY).join(hex(digest))
    }

    /// Whether a generation with the same manifest has these layers too, as far as that makes a difference.
    pub(super) fn has_layers(&self, generation: u64, coming: Option<&Coming>) -> bool {
        let list = coming.map_or(&[][..], |c| &c.list);
        layers::of_generation(&self.dir, generation)
            .is_ok_and(|have| layers::alike(&have.unwrap_or_default(), list))
    }

    /// Whether exactly these layers are written down for a generation.
    pub(super) fn lists(&self, generation: u64, coming: &Coming) -> bool {
        let have = layers::of_generation(&self.dir, generation);
        have.is_ok_and(|have| have.as_deref() == Some(&coming.list))
    }

    /// Takes layers in that the store does not have, with the contents that they name. Durable after the next
    /// [`Store::sync`].
    pub(super) fn take_layers_in(
        &mut self,
        coming: &Coming,
        taking: &mut Taking<'_>,
    ) -> Result<(), StoreError> {
        let mut todo: Vec<(Digest, String)> =
            coming.list.iter().map(|l| (l.digest, l.name.clone())).collect();
        let mut done = BTreeSet::new();
        while let Some((digest, name)) = todo.pop() {
            if !done.insert(digest) {
                continue;
            }
            let path = self.layer_path(&digest);
            let dir = self.dir.join(layers::DIRECTORY);
            if let Ok(bytes) = layers::bytes(&self.dir, &digest) {
                // A worker may have died before it was durable, or before its contents were.
                self.unsynced.insert((path, dir));
                todo.extend(
                    self.contents_of_layer(&bytes, &name, taking)?.into_iter().map(|d| (d, name.clone())),
                );
                continue;
            }
            let staged = coming.from.join(layers::staged_name(&digest));
            let mut bytes = Vec::new();
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&staged);
            at("read", &staged, opened.and_then(|mut file| file.read_to_end(&mut bytes)))?;
            // Whoever staged it is not trusted.
            if Digest::from(Sha256::digest(&bytes)) != digest {
                return Err(StoreError::Damaged { path: staged });
            }
            todo.extend(
                self.contents_of_layer(&bytes, &name, taking)?.into_iter().map(|d| (d, name.clone())),
            );
            let temporary = self.temporary();
            let mut file = at("create", &temporary, new_file(&temporary))?;
            if let Err(e) = file.write_all(&bytes) {
                let _ = fs::remove_file(&temporary);
                return at("write", &temporary, Err(e));
            }
            at("rename", &temporary, fs::rename(&temporary, &path))?;
            self.unsynced.insert((path, dir));
        }
        Ok(())
    }

    /// Takes in what a layer's sources held, also of units that a later layer overrides; gives what it is made of.
    fn contents_of_layer(
        &mut self,
        bytes: &[u8],
        name: &str,
        taking: &mut Taking<'_>,
    ) -> Result<Vec<Digest>, StoreError> {
        let damaged = || StoreError::Damaged { path: Path::new(layers::DIRECTORY).join(name) };
        let stored = Stored::decode(bytes).ok_or_else(damaged)?;
        if let Stored::State(archive) = &stored {
            for (path, content) in archive.contents() {
                self.take_in(&content, taking, &|| format!("{path} of layer {name}"))?;
            }
        }
        Ok(layers::pieces(&stored))
    }

    /// Writes down which layers a generation has whose manifest is the same with them.
    pub(super) fn refresh_layers(
        &mut self,
        generation: u64,
        coming: &Coming,
        mut taking: Taking<'_>,
    ) -> Result<(), StoreError> {
        self.take_layers_in(coming, &mut taking)?;
        self.taken(taking)?;
        self.sync()?;
        let dir = self.generation_path(generation);
        let (path, fresh) = (dir.join(layers::LIST), dir.join("layers.new"));
        let mut file = at("create", &fresh, File::create(&fresh))?;
        at("write", &fresh, file.write_all(layers::encode(&coming.list).as_bytes()))?;
        at("sync", &fresh, file.sync_all())?;
        at("rename", &fresh, fs::rename(&fresh, &path))?;
        sync_dir(&dir)
    }

    /// What the layers of all generations name: their files, and contents; `None` where one of them cannot be read.
    pub(super) fn named_by_layers(&self) -> Option<(BTreeSet<Digest>, BTreeSet<Digest>)> {
        let (mut files, mut contents) = (BTreeSet::new(), BTreeSet::new());
        for generation in self.index.generations.keys() {
            let list = layers::of_generation(&self.dir, *generation).ok()?.unwrap_or_default();
            let mut todo: Vec<Digest> = list.into_iter().map(|l| l.digest).collect();
            while let Some(digest) = todo.pop() {
                if !files.insert(digest) {
                    continue;
                }
                let stored = Stored::decode(&layers::bytes(&self.dir, &digest).ok()?)?;
                todo.extend(layers::pieces(&stored));
                if let Stored::State(archive) = &stored {
                    contents.extend(archive.contents().map(|(_, c)| c.digest));
                }
            }
        }
        Some((files, contents))
    }

    /// Removes files of layers that no generation has.
    pub(super) fn sweep_layers(&self, named: &BTreeSet<Digest>) {
        let Ok(entries) = fs::read_dir(self.dir.join(layers::DIRECTORY)) else { return };
        for entry in entries.flatten() {
            let digest = entry.file_name().to_str().and_then(crate::store::unhex);
            if digest.is_none_or(|d| !named.contains(&d)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What of the layers of all generations is missing or damaged.
    pub fn damaged_layers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for generation in self.index.generations.keys() {
            match layers::of_generation(&self.dir, *generation) {
                Ok(list) => {
                    for layer in list.unwrap_or_default() {
                        if !seen.insert(layer.digest) {
                            continue;
                        }
                        if let Err(e) = layers::kept(&self.dir, &layer.digest) {
                            found.push(format!("layer {} of generation {generation}: {e}", layer.name));
                        }
                    }
                }
                Err(e) => found.push(format!("generation {generation}: {e}")),
            }
        }
        found
    }
}
