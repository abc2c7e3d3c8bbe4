//! `check FILE`: compiles a state file here, without init, with the rights of who asks.

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use units::compile::{MAX_STATE_FILE, compile};
use units::diagnostic::{self, Located};
use units::load::{Entry, EntryKind, LoadError, Loader};
use units::source::STANDARD_INPUT;

use super::exit::{Exit, Stop};
use super::query::Checked;
use super::render;
use super::screen::Screen;
use super::todo::File;

/// Largest source that is read.
const MAX_SOURCE: u64 = 1 << 30;

/// Reads the file system.
#[derive(Debug)]
pub struct Files {
    /// Relative paths are below it.
    directory: PathBuf,
    /// What stands for one path in place of the file there.
    instead: Option<(String, Vec<u8>)>,
}

fn error(e: &std::io::Error) -> LoadError {
    match e.kind() {
        std::io::ErrorKind::NotFound => LoadError::NotFound,
        _ => LoadError::Other(e.to_string()),
    }
}

impl Loader for Files {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        if let Some((name, bytes)) = &self.instead
            && name == path
        {
            return Ok(bytes.clone());
        }
        // A fifo that nobody writes would be waited for.
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        let file = options.open(self.directory.join(path)).map_err(|e| error(&e))?;
        let metadata = file.metadata().map_err(|e| error(&e))?;
        if !metadata.is_file() {
            return Err(LoadError::Other("not a regular file".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SOURCE + 1).read_to_end(&mut bytes).map_err(|e| error(&e))?;
        if bytes.len() as u64 > MAX_SOURCE {
            return Err(LoadError::TooLarge { limit: MAX_SOURCE });
        }
        Ok(bytes)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.directory.join(directory)).map_err(|e| error(&e))? {
            let entry = entry.map_err(|e| error(&e))?;
            let metadata = entry.metadata().map_err(|e| error(&e))?;
            let kind = if metadata.is_symlink() {
                let target = std::fs::read_link(entry.path()).map_err(|e| error(&e))?;
                EntryKind::Symlink(target.to_string_lossy().into_owned())
            } else if metadata.is_dir() {
                EntryKind::Directory
            } else if metadata.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            };
            let Ok(name) = entry.file_name().into_string() else {
                return Err(LoadError::Other(format!("name is not UTF-8: {}", entry.path().display())));
            };
            entries.push(Entry { name, kind, mode: metadata.permissions().mode() & 0o7777 });
        }
        Ok(entries)
    }
}

/// Compiles and shows what was found.
///
/// # Errors
/// Those of reading standard input and of the output.
pub fn check(file: &File, directory: &Path, screen: &mut Screen<'_>) -> Result<Exit, Stop> {
    let mut files = Files { directory: directory.to_owned(), instead: None };
    let entry = match file {
        // Shorter in every message, and just as good from here.
        File::Path(path) => {
            Path::new(path).strip_prefix(directory).ok().and_then(Path::to_str).unwrap_or(path).to_owned()
        }
        File::Stdin { .. } => {
            let mut bytes = Vec::new();
            let limit = u64::try_from(MAX_STATE_FILE).unwrap_or(u64::MAX).saturating_add(1);
            std::io::stdin()
                .take(limit)
                .read_to_end(&mut bytes)
                .map_err(|e| Stop::Local(format!("cannot read standard input: {e}")))?;
            files.instead = Some((STANDARD_INPUT.to_owned(), bytes));
            STANDARD_INPUT.to_owned()
        }
    };
    let compiled = compile(&entry, &mut files);
    let found: Vec<Located> =
        compiled.diagnostics.iter().map(|d| diagnostic::locate(d, &compiled.sources)).collect();
    let units = compiled.manifest.as_ref().map(units::Manifest::len);
    if screen.json {
        let checked = Checked { units: units.unwrap_or_default(), diagnostics: found };
        screen.object(serde_json::to_value(checked).unwrap_or_default())?;
    } else {
        let text = render::diagnostic::all(&found, screen.style);
        screen.err.write_all(text.as_bytes()).map_err(Stop::Output)?;
        if let Some(units) = units {
            screen.put(&format!("{entry}: {}, no mistakes\n", render::count(units, "unit")))?;
        }
    }
    Ok(if units.is_some() { Exit::Done } else { Exit::Usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(directory.path().join("file"), "text").unwrap();
        let mut files = Files { directory: directory.path().to_owned(), instead: None };
        assert!(matches!(files.read("fifo"), Err(LoadError::Other(text)) if text.contains("regular")));
        assert_eq!(files.read("file").unwrap(), b"text");
    }
}
