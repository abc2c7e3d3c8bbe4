//! Which directory is the store, once it has been opened since boot: the one that was opened then. Where the disk that
//! it lay on goes, the directory under the mount point has its name, and is no store: what was kept there would be
//! found by nobody later, and a machine without its store must say so.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk::StoreError;

/// What stays the same of a directory when its disk is mounted again: its inode's number and birth. The number of the
/// device does not.
fn identity(store: &Path) -> io::Result<String> {
    let about = fs::metadata(store)?;
    let born = about.created().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    Ok(format!("{} {}", about.ino(), born.unwrap_or_default().as_nanos()))
}

fn note_of(run: &Path) -> PathBuf {
    run.join("store-open")
}

/// Notes in the run-time directory that this store is open.
///
/// # Errors
/// When the store cannot be looked at, or the note not be written.
pub fn note(run: &Path, store: &Path) -> Result<(), StoreError> {
    let failed = |verb, path: &Path, source| StoreError::File { verb, path: path.to_owned(), source };
    let mut text = identity(store).map_err(|e| failed("look at", store, e))?.into_bytes();
    text.push(b'\n');
    text.extend_from_slice(store.as_os_str().as_bytes());
    let note = note_of(run);
    fs::write(&note, text).map_err(|e| failed("write", &note, e))
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
    // Written before identities were: just the path.
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
    let gone = |source| StoreError::File { verb: "use", path: store.to_owned(), source };
    match identity(store) {
        Ok(found) if found.as_bytes() == noted => Ok(true),
        Ok(_) => Err(gone(io::Error::other(
            "it is not the directory that was opened at boot; is its file system still mounted?",
        ))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(gone(io::Error::other(
            "it was opened at boot and is gone; is its file system still mounted?",
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
        // Kept, so that its inode is not given again.
        fs::rename(&store, here.path().join("away")).unwrap();
        assert!(is_open(&run, &store).is_err(), "nothing is there");
        fs::create_dir(&store).unwrap();
        let error = is_open(&run, &store).unwrap_err().to_string();
        assert!(error.contains("still mounted") && error.contains("store"), "{error}");
        fs::remove_dir(&store).unwrap();
        fs::rename(here.path().join("away"), &store).unwrap();
        assert!(is_open(&run, &store).unwrap(), "it is back");
        fs::write(run.join("store-open"), store.as_os_str().as_bytes()).unwrap();
        assert!(is_open(&run, &store).unwrap(), "noted by an earlier version");
    }
}
