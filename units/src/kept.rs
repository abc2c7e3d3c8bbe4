//! A layer as it is kept: everything that it was compiled from, so that it can be compiled again beside others whatever
//! has become of its files. Pure.
//!
//! Texts and not units are kept, because what a layer means depends on the layers beside it: a later layer's variable
//! wins, a unit of another layer is depended on, and a mistake between two layers is shown in the lines of both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kind::Content;
use crate::load::{Entry, LoadError, Loader};
#[cfg(feature = "language")]
use crate::pick::Pick;

/// First bytes of a kept layer; the last one is the version of what follows.
const MAGIC: &[u8; 8] = b"HFLAYER\x01";

/// What a state was read from: its files, the directories that were listed, and which contents its sources had.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Archive {
    /// Path of the first file.
    pub entry: String,
    /// State files by path.
    texts: BTreeMap<String, String>,
    /// Contents of sources by path; their bytes lie in the store.
    sources: BTreeMap<String, Content>,
    /// Directories by path.
    directories: BTreeMap<String, Vec<Entry>>,
}

impl Archive {
    /// An empty one of a state that begins with this file.
    pub fn new(entry: &str) -> Archive {
        Archive { entry: entry.to_owned(), ..Archive::default() }
    }

    /// The contents that its sources had.
    pub fn contents(&self) -> impl Iterator<Item = (&str, Content)> {
        self.sources.iter().map(|(path, content)| (path.as_str(), *content))
    }
}

/// What was not there then is not there now.
impl Loader for &Archive {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        self.texts.get(path).map(|text| text.clone().into_bytes()).ok_or(LoadError::NotFound)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        self.directories.get(directory).cloned().ok_or(LoadError::NotFound)
    }

    fn source(&mut self, path: &str) -> Result<Content, LoadError> {
        self.sources.get(path).copied().ok_or(LoadError::NotFound)
    }
}

/// Keeps what another loader gives.
#[derive(Debug)]
pub struct Recorder<'l, L: ?Sized> {
    /// Who gives it.
    pub from: &'l mut L,
    /// What it gave.
    pub archive: Archive,
}

impl<L: Loader + ?Sized> Loader for Recorder<'_, L> {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        let bytes = self.from.read(path)?;
        // What is not UTF-8 compiles to nothing, and is not kept.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            self.archive.texts.insert(path.to_owned(), text.to_owned());
        }
        Ok(bytes)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let entries = self.from.list(directory)?;
        let mut sorted = entries.clone();
        // A file system gives them in any order: the same directory is to be the same bytes.
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.archive.directories.insert(directory.to_owned(), sorted);
        Ok(entries)
    }

    fn contents(&mut self, content: Content, bytes: &[u8]) -> Result<(), LoadError> {
        self.from.contents(content, bytes)
    }

    fn source(&mut self, path: &str) -> Result<Content, LoadError> {
        let content = self.from.source(path)?;
        self.archive.sources.insert(path.to_owned(), content);
        Ok(content)
    }
}

/// SHA-256 of a kept layer's bytes, which is also its name in the store.
pub type Digest = [u8; 32];

/// A layer as it lies in the store. Numbers of variants are written to disk.
#[cfg(feature = "language")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// A whole state.
    State(Archive),
    /// What `apply --only` or `--except` made of two states.
    Part {
        /// The layer as it was; `None` where there was none.
        old: Option<Digest>,
        /// The state of which a part was taken.
        new: Digest,
        /// Which part.
        pick: Pick,
    },
}

#[cfg(feature = "language")]
impl Stored {
    /// As bytes.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, MAGIC.to_vec())
    }

    /// From bytes; `None` where they are none of a version that is known.
    pub fn decode(bytes: &[u8]) -> Option<Stored> {
        postcard::from_bytes(bytes.strip_prefix(MAGIC)?).ok()
    }
}

/// A layer with all that it is made of.
#[cfg(feature = "language")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A whole state.
    State(Archive),
    /// See [`Stored::Part`].
    Part {
        /// The layer as it was.
        old: Option<Box<Kept>>,
        /// The state of which a part was taken.
        new: Box<Kept>,
        /// Which part.
        pick: Pick,
    },
}

#[cfg(feature = "language")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{EntryKind, MemoryLoader};

    #[test]
    fn what_was_recorded_answers_as_the_files_did() {
        let mut files = MemoryLoader::new()
            .file("/s/state.toml", "x")
            .file("/s/d/b", "2")
            .file("/s/d/a", "1")
            .file("/s/bad", [0xff]);
        let mut recorder = Recorder { from: &mut files, archive: Archive::new("/s/state.toml") };
        let content = recorder.source("/s/d/a").unwrap();
        assert_eq!(recorder.read("/s/state.toml").unwrap(), b"x");
        assert_eq!(recorder.list("/s/d").unwrap().len(), 2);
        assert!(recorder.read("/s/bad").is_ok() && recorder.read("/s/none").is_err());
        let archive = recorder.archive;
        assert_eq!(archive.contents().collect::<Vec<_>>(), [("/s/d/a", content)]);
        let stored = Stored::State(archive.clone());
        let bytes = stored.encode().unwrap();
        assert_eq!(Stored::decode(&bytes), Some(stored));
        let mut kept = &archive;
        assert_eq!(kept.read("/s/state.toml").unwrap(), b"x");
        assert_eq!(kept.source("/s/d/a"), Ok(content));
        let names: Vec<String> = kept.list("/s/d").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(kept.list("/s/d").unwrap().iter().all(|e| e.kind == EntryKind::File));
        for absent in ["/s/bad", "/s/none", "/s/d/b"] {
            assert_eq!(kept.read(absent), Err(LoadError::NotFound));
        }
    }

    #[test]
    fn bytes_of_another_version_are_no_layer() {
        let mut bytes = Stored::State(Archive::new("/s")).encode().unwrap();
        assert!(Stored::decode(&bytes).is_some());
        assert_eq!(Stored::decode(&bytes[..bytes.len() - 1]), None);
        bytes[7] = 2;
        assert_eq!(Stored::decode(&bytes), None);
        assert_eq!(Stored::decode(b""), None);
    }
}
