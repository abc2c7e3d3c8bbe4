//! Compiles the state file into the manifest that a machine boots from, and puts it and its sources into a tree.
//!
//! Sources are named by the path that they will have in the machine, not by where they lie while the image is
//! built: messages of the machine then point at files that are there, and the manifest's bytes are the same
//! whatever directory the sources were checked out in.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use units::kept::Stored;
use units::kind::Content;
use units::layer::MAIN;
use units::load::{Entry, EntryKind, LoadError, Loader, content_of};
use units::stack::{self, Stacked};

use crate::error::Error;
use crate::holdfast;
use crate::spec::State;
use crate::tree::{Kind, Node, Tree};

/// Where state files and their sources lie in the machine.
pub const SOURCES: &str = "/etc/holdfast";
/// The manifest that `init` boots from.
pub const MANIFEST: &str = "/usr/lib/holdfast/boot/manifest";
/// The contents that it names, each under its SHA-256 in hexadecimal.
pub const BLOBS: &str = "/usr/lib/holdfast/boot/blobs";
/// The state that it was compiled from, so that other layers can be compiled with it.
pub const LAYER: &str = "/usr/lib/holdfast/boot/layer";

/// Reads below one directory, under the names that the machine will have for it, or under its own.
struct Sources {
    directory: PathBuf,
    called: String,
    read: BTreeSet<String>,
    contents: Vec<(Content, Vec<u8>)>,
}

impl Sources {
    fn place(&self, path: &str) -> Result<PathBuf, LoadError> {
        let below =
            path.strip_prefix(self.called.as_str()).and_then(|p| p.strip_prefix('/')).unwrap_or_default();
        if below.is_empty() || below.split('/').any(|part| part == "..") {
            let text = "it lies outside the directory of the state file, and so would not be in the image";
            return Err(LoadError::Other(text.to_owned()));
        }
        Ok(self.directory.join(below))
    }
}

fn cause(e: &std::io::Error) -> LoadError {
    match e.kind() {
        std::io::ErrorKind::NotFound => LoadError::NotFound,
        _ => LoadError::Other(e.to_string()),
    }
}

impl Loader for Sources {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        let bytes = fs::read(self.place(path)?).map_err(|e| cause(&e))?;
        self.read.insert(path.to_owned());
        Ok(bytes)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let mut out = Vec::new();
        for entry in fs::read_dir(self.place(directory)?).map_err(|e| cause(&e))? {
            let entry = entry.map_err(|e| cause(&e))?;
            let about = entry.metadata().map_err(|e| cause(&e))?;
            let kind = if about.is_dir() {
                EntryKind::Directory
            } else if about.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(|e| cause(&e))?;
                EntryKind::Symlink(target.to_string_lossy().into_owned())
            } else if about.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            };
            let name = entry
                .file_name()
                .into_string()
                .map_err(|n| LoadError::Other(format!("name {n:?} is not UTF-8")))?;
            // Of a mode only whether it is executable: the rest depends on who checked the sources out.
            let mode = if about.is_dir() || about.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            self.read.insert(format!("{}/{name}", directory.trim_end_matches('/')));
            out.push(Entry { name, kind, mode });
        }
        Ok(out)
    }

    fn contents(&mut self, content: Content, bytes: &[u8]) -> Result<(), LoadError> {
        self.contents.push((content, bytes.to_vec()));
        Ok(())
    }
}

/// Compiles the state files that an image names, and says what is wrong with any of them by the places where they lie
/// here: before anything is downloaded for them.
///
/// # Errors
/// When one has mistakes: all of all of them.
pub fn check(image: &Path, state: &State) -> Result<(), Error> {
    let beside = image.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut wrong = Vec::new();
    for file in std::iter::once(&state.file).chain(&state.others) {
        let host = beside.join(file);
        let directory = host.parent().unwrap_or(Path::new(".")).to_path_buf();
        let directory = fs::canonicalize(&directory).map_err(Error::io("read", &directory))?;
        let name = host.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let called = directory.display().to_string();
        let entry = format!("{called}/{name}");
        let mut sources = Sources { directory, called, read: BTreeSet::new(), contents: Vec::new() };
        let compiled = units::compile(&entry, &mut sources);
        if compiled.manifest.is_none() {
            let mistakes =
                compiled.diagnostics.iter().map(|d| units::diagnostic::render(d, &compiled.sources));
            wrong.push((host, mistakes.collect::<Vec<_>>().join("\n")));
        }
    }
    match wrong.first() {
        None => Ok(()),
        Some((first, _)) => {
            let said: Vec<&str> = wrong.iter().map(|(_, said)| said.as_str()).collect();
            Err(Error::input(first, format!("\n{}", said.join("\n"))))
        }
    }
}

/// Compiles the state files that an image names. The first becomes what the machine boots from; the others are
/// checked, and lie beside it in the machine.
///
/// # Errors
/// When one has mistakes: all of them, each with its place.
pub fn install(tree: &mut Tree, image: &Path, state: &State) -> Result<(), Error> {
    let beside = image.parent().unwrap_or(Path::new("."));
    for (number, file) in std::iter::once(&state.file).chain(&state.others).enumerate() {
        let host = beside.join(file);
        let directory = host.parent().unwrap_or(Path::new(".")).to_path_buf();
        let name = host.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let called = SOURCES.to_owned();
        let mut sources = Sources { directory, called, read: BTreeSet::new(), contents: Vec::new() };
        let entry = stack::From::Files(format!("{SOURCES}/{name}"));
        let Stacked { compiled, archive } = stack::compile(vec![(MAIN.to_owned(), entry)], &mut sources);
        let said: String =
            compiled.diagnostics.iter().map(|d| units::diagnostic::render(d, &compiled.sources)).collect();
        let Some(manifest) = compiled.manifest else { return Err(Error::input(&host, format!("\n{said}"))) };
        if !said.is_empty() {
            eprintln!("{said}");
        }
        for path in &sources.read {
            if let Ok(host) = sources.place(path) {
                let directory = host.is_dir() && !host.is_symlink();
                if directory {
                    tree.insert(path, Node::new(Kind::Directory, 0o755))?;
                } else {
                    holdfast::copy(tree, &host, path, None)?;
                }
            }
        }
        if number == 0 {
            tree.insert(MANIFEST, Node::file(manifest.as_bytes().to_vec(), 0o644))?;
            let layer = Stored::State(archive).encode().map_err(|e| Error::input(&host, e.to_string()))?;
            tree.insert(LAYER, Node::file(layer, 0o600))?;
            tree.insert(BLOBS, Node::new(Kind::Directory, 0o700))?;
            for (content, bytes) in std::mem::take(&mut sources.contents) {
                debug_assert_eq!(content, content_of(&bytes));
                let name: String = content.digest.iter().map(|b| format!("{b:02x}")).collect();
                tree.insert(&format!("{BLOBS}/{name}"), Node::file(bytes, 0o600))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(state: &str) -> Result<Tree, Error> {
        let here = tempfile::tempdir().unwrap();
        fs::create_dir_all(here.path().join("site/deep")).unwrap();
        fs::write(here.path().join("site/deep/x.html"), "x").unwrap();
        fs::write(here.path().join("state.toml"), state).unwrap();
        let mut tree = Tree::new();
        let wanted = State { file: "state.toml".into(), others: vec![] };
        install(&mut tree, &here.path().join("image.toml"), &wanted)?;
        Ok(tree)
    }

    const STATE: &str =
        "[directory.\"/srv/site\"]\nsource = \"site\"\n[file.\"/etc/motd\"]\ncontent = \"hello\\n\"\n";

    #[test]
    fn the_machine_has_manifest_contents_and_sources() {
        let tree = installed(STATE).unwrap();
        let manifest = units::Manifest::from_vec(tree.read(MANIFEST).unwrap().to_vec()).unwrap();
        assert!(manifest.find(units::Kind::File, "/srv/site/deep/x.html").is_some());
        assert_eq!(
            manifest.unit(manifest.find(units::Kind::File, "/etc/motd").unwrap()).origin,
            "/etc/holdfast/state.toml:3"
        );
        assert_eq!(tree.read("/etc/holdfast/site/deep/x.html"), Some(&b"x"[..]));
        assert_eq!(tree.read("/etc/holdfast/state.toml"), Some(STATE.as_bytes()));
        let blobs = tree.iter().filter(|(p, n)| p.contains("/blobs/") && matches!(n.kind, Kind::File(_)));
        assert_eq!(blobs.count(), 2);
    }

    #[test]
    fn mistakes_and_strays_are_named() {
        let said =
            installed("[file.\"/x\"]\nsource = \"../secret\"\n[fiel.\"/y\"]\n").unwrap_err().to_string();
        assert!(
            said.contains("outside the directory") && said.contains("/etc/holdfast/state.toml:3"),
            "{said}"
        );
    }

    /// Before anything is fetched, and by the names that they have here.
    #[test]
    fn mistakes_of_all_states_are_told_where_they_lie() {
        let here = tempfile::tempdir().unwrap();
        fs::write(here.path().join("site.html"), "x").unwrap();
        fs::write(here.path().join("good.toml"), "[file.\"/x\"]\nsource = \"site.html\"\n").unwrap();
        fs::write(here.path().join("one.toml"), "[fiel.\"/y\"]\n").unwrap();
        fs::write(here.path().join("two.toml"), "[service.a]\nexce = [\"a\"]\n").unwrap();
        let image = here.path().join("image.toml");
        let state = |file: &str, others: &[&str]| State {
            file: file.into(),
            others: others.iter().map(PathBuf::from).collect(),
        };
        check(&image, &state("good.toml", &[])).unwrap();
        let said = check(&image, &state("good.toml", &["one.toml", "two.toml"])).unwrap_err().to_string();
        let directory = fs::canonicalize(here.path()).unwrap();
        for part in ["one.toml:1", "two.toml:2", "did you mean `exec`"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(said.contains(&format!("{}/two.toml:2", directory.display())), "{said}");
    }
}
