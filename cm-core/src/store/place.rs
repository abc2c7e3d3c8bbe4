//! Which directory is the store, once it has been opened since boot: the one that was opened then. Where the disk that
//! it lay on goes, the directory under the mount point has its name, and is no store: what was kept there would be
//! found by nobody later, and a machine without its store must say so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::disk::StoreError;
use crate::sys;

/// Bytes of an id, in text.
const LENGTH: usize = 32;

/// The id that a store has been given; `None` where it has none. It stays the same when the disk is mounted again, which
/// neither the number of the device nor, on every file system, the inode's does.
fn id_of(store: &Path) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(store.join("id")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let text = text.trim_end();
    Ok(is_id(text.as_bytes()).then(|| text.to_owned()))
}

fn is_id(text: &[u8]) -> bool {
    text.len() == LENGTH && text.iter().all(u8::is_ascii_hexdigit)
}

/// Gives a store its id, for good.
fn give_id(store: &Path) -> io::Result<String> {
    let id: String = sys::random_bytes()?.iter().map(|b| format!("{b:02x}")).collect();
    let fresh = store.join("id.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, store.join("id"))?;
    File::open(store)?.sync_all()?;
    Ok(id)
}

fn note_of(run: &Path) -> PathBuf {
    run.join("store-open")
}

/// Notes in the run-time directory that this store is open, and gives it an id if it has none yet; whoever calls has the
/// store's lock. Where it can have none, only its name is noted.
///
/// # Errors
/// When the note cannot be written.
pub fn note(run: &Path, store: &Path) -> Result<(), StoreError> {
    let id = id_of(store).and_then(|id| id.map_or_else(|| give_id(store), Ok));
    let mut text = id.map(|id| format!("{id}\n").into_bytes()).unwrap_or_default();
    text.extend_from_slice(store.as_os_str().as_bytes());
    let note = note_of(run);
    fs::write(&note, text).map_err(|source| StoreError::File { verb: "write", path: note, source })
}

/// Whether a store was opened since boot.
pub fn is_noted(run: &Path) -> bool {
    note_of(run).exists()
}

/// Whether this store was opened since boot, and is there.
///
/// # Errors
/// When it was, and something else has its name now.
pub fn is_open(run: &Path, store: &Path) -> Result<bool, StoreError> {
    let Ok(note) = fs::read(note_of(run)) else { return Ok(false) };
    let path = store.as_os_str().as_bytes();
    // It has no id.
    if note == path {
        return Ok(true);
    }
    let Some((noted, named)) = note.iter().position(|b| *b == b'\n').and_then(|at| note.split_at_checked(at))
    else {
        return Ok(false);
    };
    if named.get(1..) != Some(path) {
        return Ok(false);
    }
    // Written by an earlier version, which noted something else.
    if !is_id(noted) {
        return Ok(true);
    }
    let gone = |source| StoreError::File { verb: "use", path: store.to_owned(), source };
    match id_of(store) {
        Ok(Some(id)) if id.as_bytes() == noted => Ok(true),
        Ok(None) if !store.exists() => Err(gone(io::Error::other(
            "it was opened at boot and is gone; is its file system still mounted?",
        ))),
        Ok(_) => Err(gone(io::Error::other(
            "it is not the directory that was opened at boot; is its file system still mounted?",
        ))),
        Err(e) => Err(gone(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_of_its_name_is_not_the_store() {
        let here = tempfile::tempdir().unwrap();
        let (run, store) = (here.path().join("run"), here.path().join("store"));
        fs::create_dir(&run).unwrap();
        fs::create_dir(&store).unwrap();
        assert!(!is_noted(&run));
        assert!(!is_open(&run, &store).unwrap(), "nobody has opened it");
        note(&run, &store).unwrap();
        assert!(is_noted(&run));
        assert!(is_open(&run, &store).unwrap());
        assert!(!is_open(&run, &here.path().join("other")).unwrap());
        fs::rename(&store, here.path().join("away")).unwrap();
        assert!(is_open(&run, &store).is_err(), "nothing is there");
        fs::create_dir(&store).unwrap();
        let error = is_open(&run, &store).unwrap_err().to_string();
        assert!(error.contains("still mounted") && error.contains("store"), "{error}");
        give_id(&store).unwrap();
        assert!(is_open(&run, &store).is_err(), "another store");
        fs::remove_dir_all(&store).unwrap();
        fs::rename(here.path().join("away"), &store).unwrap();
        assert!(is_open(&run, &store).unwrap(), "it is back");
        // A file system may give a directory another inode when it is mounted again.
        let id = fs::read(store.join("id")).unwrap();
        fs::rename(&store, here.path().join("away")).unwrap();
        fs::create_dir(&store).unwrap();
        fs::write(store.join("id"), &id).unwrap();
        assert!(is_open(&run, &store).unwrap(), "mounted again");
        note(&run, &store).unwrap();
        assert_eq!(fs::read(store.join("id")).unwrap(), id, "it is given once");
        fs::write(store.join("id"), "").unwrap();
        assert!(is_open(&run, &store).is_err());
        for text in ["", "12 345\n"] {
            fs::write(run.join("store-open"), [text.as_bytes(), store.as_os_str().as_bytes()].concat())
                .unwrap();
            assert!(is_open(&run, &store).unwrap(), "noted by an earlier version");
        }
    }

    #[test]
    fn a_store_that_can_have_no_id_is_known_by_its_name() {
        let here = tempfile::tempdir().unwrap();
        // In the way, also for root.
        fs::create_dir_all(here.path().join("store/id.new")).unwrap();
        note(here.path(), &here.path().join("store")).unwrap();
        assert!(is_noted(here.path()));
        assert!(is_open(here.path(), &here.path().join("store")).unwrap());
        assert!(!is_open(here.path(), &here.path().join("other")).unwrap());
    }
}
