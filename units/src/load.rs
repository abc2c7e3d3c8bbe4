//! The door through which sources come in: this crate does no I/O of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kind::Content;

/// Why a loader gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// There is no such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// It is larger than the loader or the compiler accepts.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// What a directory entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and what it says.
    Symlink(String),
    /// A device, socket or fifo.
    Other,
}

/// One direct entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, without a slash.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
}

/// Reads sources for the compiler. Paths are those of the entry file, or derived from it: relative `include` and
/// `source` values are relative to the file that says them.
pub trait Loader {
    /// Whose paths come from here on: those of the layer with this number. The default has one door for all.
    fn layer(&mut self, number: usize) {
        let _ = number;
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// [`LoadError`] says why there are none; a loader should refuse what is larger than it is willing to hold.
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError>;

    /// The direct entries of a directory, in any order.
    ///
    /// # Errors
    /// As [`Loader::read`].
    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError>;

    /// Takes the content of a managed file, so that it can be staged; called once a file, for inline contents
    /// too. The default drops it.
    ///
    /// # Errors
    /// What kept it from being staged.
    fn contents(&mut self, content: Content, bytes: &[u8]) -> Result<(), LoadError> {
        let _ = (content, bytes);
        Ok(())
    }

    /// Digests a source and hands it to [`Loader::contents`]. The default holds it in memory once; a loader that
    /// can stream overrides it.
    ///
    /// # Errors
    /// Those of reading and of staging.
    fn source(&mut self, path: &str) -> Result<Content, LoadError> {
        let bytes = self.read(path)?;
        let content = content_of(&bytes);
        self.contents(content, &bytes)?;
        Ok(content)
    }
}

/// Digest and length of bytes.
pub fn content_of(bytes: &[u8]) -> Content {
    let mut digest = [0; 32];
    digest.copy_from_slice(Sha256::digest(bytes).as_slice());
    Content { digest, size: bytes.len() as u64 }
}

/// `path`, as said by `file`: relative paths are relative to the directory of the file. `.` and doubled slashes
/// go away; `..` stays, since only the file system knows what a link's parent is.
pub fn relative_to(file: &str, path: &str) -> String {
    let directory = if path.starts_with('/') { "" } else { file.rsplit_once('/').map_or("", |(d, _)| d) };
    let absolute = path.starts_with('/') || file.starts_with('/');
    let parts = directory.split('/').chain(path.split('/')).filter(|p| !p.is_empty() && *p != ".");
    let joined = parts.collect::<Vec<_>>().join("/");
    if absolute { format!("/{joined}") } else { joined }
}

/// Files in memory: for tests, and for states that come from no file system.
#[derive(Debug, Clone, Default)]
pub struct MemoryLoader {
    entries: BTreeMap<String, (EntryKind, u32, Vec<u8>)>,
}

impl MemoryLoader {
    /// No file.
    pub fn new() -> MemoryLoader {
        MemoryLoader::default()
    }

    /// With a file of mode 0644. Its parent directories need no declaration.
    #[must_use]
    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> MemoryLoader {
        self.entry(path, EntryKind::File, 0o644, bytes)
    }

    /// With an entry of any kind.
    #[must_use]
    pub fn entry(
        mut self,
        path: &str,
        kind: EntryKind,
        mode: u32,
        bytes: impl Into<Vec<u8>>,
    ) -> MemoryLoader {
        self.entries.insert(path.to_owned(), (kind, mode, bytes.into()));
        self
    }
}

impl Loader for MemoryLoader {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        match self.entries.get(path) {
            Some((EntryKind::File, _, bytes)) => Ok(bytes.clone()),
            Some(_) => Err(LoadError::Other("not a regular file".to_owned())),
            None => Err(LoadError::NotFound),
        }
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let prefix = match directory {
            "" | "." => String::new(),
            d => format!("{}/", d.trim_end_matches('/')),
        };
        let mut found: BTreeMap<&str, Entry> = BTreeMap::new();
        for (path, (kind, mode, _)) in &self.entries {
            let Some(rest) = path.strip_prefix(&prefix) else { continue };
            let (name, kind, mode) = match rest.split_once('/') {
                Some((name, _)) => (name, EntryKind::Directory, 0o755),
                None => (rest, kind.clone(), *mode),
            };
            if !name.is_empty() {
                found.entry(name).or_insert_with(|| Entry { name: name.to_owned(), kind, mode });
            }
        }
        let exists = !found.is_empty()
            || matches!(self.entries.get(directory), Some((EntryKind::Directory, _, _)))
            || prefix.is_empty();
        if exists { Ok(found.into_values().collect()) } else { Err(LoadError::NotFound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file_that_says_them() {
        let cases = [
            ("/etc/holdfast/state.toml", "files/motd", "/etc/holdfast/files/motd"),
            ("/etc/holdfast/state.toml", "./../motd", "/etc/holdfast/../motd"),
            ("state.toml", "conf.d/*.toml", "conf.d/*.toml"),
            ("a/b.toml", "/srv//x", "/srv/x"),
            ("/state.toml", "x", "/x"),
        ];
        for (file, path, joined) in cases {
            assert_eq!(relative_to(file, path), joined, "{path} in {file}");
        }
    }

    #[test]
    fn lists_what_lies_directly_in_a_directory() {
        let mut l = MemoryLoader::new().file("a/x", "1").file("a/b/y", "2").file("c", "3");
        let names = |e: Vec<Entry>| e.into_iter().map(|e| e.name).collect::<Vec<_>>();
        assert_eq!(names(l.list("a").unwrap()), ["b", "x"]);
        assert_eq!(names(l.list("").unwrap()), ["a", "c"]);
        assert_eq!(l.list("nowhere"), Err(LoadError::NotFound));
    }
}
