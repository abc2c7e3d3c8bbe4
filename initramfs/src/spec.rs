//! `image.toml`: what an image is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// How packages become a file tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// A Debian system: the essential packages and those named, with dependencies, installed and configured.
    #[default]
    Debian,
    /// Only the named packages, unpacked: no dependencies, no maintainer scripts. For images of a few megabytes.
    Unpacked,
}

/// How the initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// zstd(1): small, and quick to unpack on a real processor.
    #[default]
    Zstd,
    /// Not at all: quickest to unpack where the processor is emulated.
    None,
}

/// The kernel and its modules.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kernel {
    /// Pattern of the package's name; `*` stands for any text. The highest version that matches is taken.
    pub package: String,
    /// Suites in the order of preference: the first that has a match is taken.
    pub suites: Vec<String>,
    /// Modules by name; what they depend on is added.
    #[serde(default)]
    pub modules: Vec<String>,
}

/// The state that the machine boots to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct State {
    /// The state file, beside `image.toml`. Its sources must lie in its directory.
    pub file: PathBuf,
    /// Further state files that lie beside it in the machine, ready to be applied.
    #[serde(default)]
    pub others: Vec<PathBuf>,
}

/// A file that is in no package.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExtraFile {
    /// A file or directory beside `image.toml`; a directory is copied with all in it.
    pub source: Option<PathBuf>,
    /// Its content.
    pub content: Option<String>,
    /// Permission bits in octal; those of the source without, or 0644.
    pub mode: Option<String>,
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Spec {
    /// Debian suite of the packages, such as `bookworm`.
    pub suite: String,
    /// Packages by name.
    #[serde(default)]
    pub packages: Vec<String>,
    /// How they become a tree.
    #[serde(default)]
    pub base: Base,
    /// Paths to leave out, beside documentation, translations and caches; patterns as in a shell, and `**` for any
    /// path.
    #[serde(default)]
    pub remove: Vec<String>,
    /// How the result is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// The kernel; an image without one is only an initramfs.
    pub kernel: Option<Kernel>,
    /// The state; without one the machine boots to its emergency shell.
    pub state: Option<State>,
    /// Whether Holdfast's own programs are put in.
    #[serde(default = "yes")]
    pub programs: bool,
    /// Extra files by absolute path.
    #[serde(default, rename = "file")]
    pub files: BTreeMap<String, ExtraFile>,
    /// Extra symbolic links: absolute path, and what it points to.
    #[serde(default)]
    pub symlinks: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

impl Spec {
    /// Reads an image file.
    ///
    /// # Errors
    /// When it cannot be read or says something that is unknown.
    pub fn read(path: &Path) -> Result<Spec, Error> {
        Spec::parse(&std::fs::read_to_string(path).map_err(Error::io("read", path))?, path)
    }

    /// The image file of this text; the path is for what is said of it.
    ///
    /// # Errors
    /// When it says something that is unknown.
    pub fn parse(text: &str, path: &Path) -> Result<Spec, Error> {
        let spec: Spec = toml::from_str(text).map_err(|e| Error::input(path, e.to_string()))?;
        for (target, file) in &spec.files {
            let wrong = |message: &str| Err(Error::input(path, format!("file {target:?}: {message}")));
            if !target.starts_with('/') {
                return wrong("the path must be absolute");
            }
            if file.source.is_some() == file.content.is_some() {
                return wrong("exactly one of source and content is needed");
            }
        }
        Ok(spec)
    }

    /// What decides which packages are chosen; kept in the lock file.
    pub fn request(&self) -> Vec<String> {
        let mut request =
            vec![format!("suite={}", self.suite), format!("base={:?}", self.base).to_lowercase()];
        request
            .extend(self.kernel.iter().map(|k| format!("kernel={} from {}", k.package, k.suites.join(","))));
        let mut packages = self.packages.clone();
        packages.sort();
        request.extend(packages);
        request
    }
}

/// Octal permission bits.
///
/// # Errors
/// When the text is no octal number up to 7777; the error names `path`.
pub fn mode(text: &str, path: &str) -> Result<u32, Error> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(Error::input(path, format!("mode {text:?} is not octal, such as \"0644\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec, Error> {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("image.toml");
        std::fs::write(&path, text).unwrap();
        Spec::read(&path)
    }

    #[test]
    fn mistakes_are_named() {
        assert!(read("suite = \"bookworm\"\npakages = []").unwrap_err().to_string().contains("pakages"));
        let both = "suite = \"bookworm\"\n[file.\"/x\"]\nsource = \"a\"\ncontent = \"b\"";
        assert!(read(both).unwrap_err().to_string().contains("exactly one"));
        assert!(mode("0999", "/x").is_err() && mode("17777", "/x").is_err());
    }

    #[test]
    fn the_request_ignores_order() {
        let a = read("suite = \"bookworm\"\npackages = [\"b\", \"a\"]").unwrap();
        let b = read("suite = \"bookworm\"\npackages = [\"a\", \"b\"]").unwrap();
        assert_eq!(a.request(), b.request());
    }

    /// What may stand where an unknown key was found, as the parser says it.
    fn keys(text: &str) -> Vec<String> {
        let said = read(text).unwrap_err().to_string();
        let expected = said.split_once("expected").map_or("", |(_, names)| names);
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_key_is_in_the_manual() {
        let manual = include_str!("../../docs/image.md");
        let top = "suite = \"bookworm\"\n";
        let mut all = keys("nothing = 1\n");
        for table in ["kernel", "state", "file.\"/x\""] {
            let more = keys(&format!("{top}[{table}]\nnothing = 1\n"));
            assert!(more.len() > 1, "{table}: {more:?}");
            all.extend(more);
        }
        assert!(all.len() >= 18, "{all:?}");
        for key in all {
            let known = [format!("| `{key}` |"), format!("`[{key}]`"), format!("`[{key}.")];
            assert!(known.iter().any(|k| manual.contains(k.as_str())), "{key}");
        }
    }
}
