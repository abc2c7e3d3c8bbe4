//! Every state file of the examples compiles, and says nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use units::load::{Entry, EntryKind, LoadError, Loader};
use units::{compile, diagnostic};

struct Disk;

fn cause(e: std::io::Error) -> LoadError {
    match e.kind() {
        std::io::ErrorKind::NotFound => LoadError::NotFound,
        _ => LoadError::Other(e.to_string()),
    }
}

impl Loader for Disk {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        std::fs::read(path).map_err(cause)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let entry = |e: std::fs::DirEntry| {
            let about = e.metadata().map_err(cause)?;
            let kind = match about.file_type() {
                t if t.is_dir() => EntryKind::Directory,
                t if t.is_file() => EntryKind::File,
                t if t.is_symlink() => EntryKind::Symlink(
                    std::fs::read_link(e.path()).map_err(cause)?.to_str().unwrap().to_owned(),
                ),
                _ => EntryKind::Other,
            };
            Ok(Entry {
                name: e.file_name().to_str().unwrap().to_owned(),
                kind,
                mode: about.permissions().mode(),
            })
        };
        std::fs::read_dir(directory).map_err(cause)?.map(|e| entry(e.map_err(cause)?)).collect()
    }
}

#[test]
fn examples_compile_without_a_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for directory in std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        for file in std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if !(name.starts_with("state") && name.ends_with(".toml")) {
                continue;
            }
            let c = compile(file.to_str().unwrap(), &mut Disk);
            let said: String = c.diagnostics.iter().map(|d| diagnostic::render(d, &c.sources)).collect();
            assert_eq!(said, "", "{}", file.display());
            assert!(!c.manifest.unwrap().is_empty());
            count += 1;
        }
    }
    assert!(count > 0);
}
