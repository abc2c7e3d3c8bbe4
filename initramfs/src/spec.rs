//! `image.toml`: what an image is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Error;

mod reader;

/// How packages become a file tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Base {
    /// A Debian system: the essential packages and those named, with dependencies, installed and configured.
    #[default]
    Debian,
    /// Only the named packages, unpacked: no dependencies, no maintainer scripts. For images of a few megabytes.
    Unpacked,
}

/// How the initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd(1): small, and quick to unpack on a real processor.
    #[default]
    Zstd,
    /// Not at all: quickest to unpack where the processor is emulated.
    None,
}

/// The kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Pattern of the package's name; `*` stands for any text. The highest version that matches is taken.
    pub package: String,
    /// Suites in the order of preference: the first that has a match is taken.
    pub suites: Vec<String>,
    /// Modules by name; what they depend on is added.
    pub modules: Vec<String>,
}

/// The state that the machine boots to.
#[derive(Debug, Clone)]
pub struct State {
    /// The state file, beside `image.toml`. Its sources must lie in its directory.
    pub file: PathBuf,
    /// Further state files that lie beside it in the machine, ready to be applied.
    pub others: Vec<PathBuf>,
}

/// A file that is in no package.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// A file or directory beside `image.toml`; a directory is copied with all in it.
    pub source: Option<PathBuf>,
    /// Its content.
    pub content: Option<String>,
    /// Permission bits; those of the source without, or 0644.
    pub mode: Option<u32>,
}

/// The whole file.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Debian suite of the packages, such as `bookworm`.
    pub suite: String,
    /// Packages by name.
    pub packages: Vec<String>,
    /// How they become a tree.
    pub base: Base,
    /// Paths to leave out, beside documentation, translations and caches; patterns as in a shell, and `**` for any
    /// path.
    pub remove: Vec<String>,
    /// How the result is compressed.
    pub compression: Compression,
    /// The kernel; an image without one is only an initramfs.
    pub kernel: Option<Kernel>,
    /// The state; without one the machine boots to its emergency shell.
    pub state: Option<State>,
    /// Whether Holdfast's own programs are put in.
    pub programs: bool,
    /// Extra files by absolute path.
    pub files: BTreeMap<String, ExtraFile>,
    /// Extra symbolic links: absolute path, and what it points to.
    pub symlinks: BTreeMap<String, String>,
}

impl Spec {
    /// Reads an image file.
    ///
    /// # Errors
    /// When it cannot be read or has mistakes: all of them.
    pub fn read(path: &Path) -> Result<Spec, Error> {
        let (spec, wrong) = Spec::look(path)?;
        wrong.map_or(Ok(spec), Err)
    }

    /// What an image file says, as far as it can be read, and what is wrong with it.
    ///
    /// # Errors
    /// When the file itself cannot be read.
    pub fn look(path: &Path) -> Result<(Spec, Option<Error>), Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let (spec, wrong) = reader::read(&text, path, &|file| beside.join(file).exists());
        Ok((spec, mistakes(path, wrong)))
    }

    /// The image file of this text, whatever files it names; the path is for what is said of it.
    ///
    /// # Errors
    /// When it has mistakes: all of them.
    pub fn parse(text: &str, path: &Path) -> Result<Spec, Error> {
        let (spec, wrong) = reader::read(text, path, &|_| true);
        mistakes(path, wrong).map_or(Ok(spec), Err)
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

fn mistakes(path: &Path, wrong: String) -> Option<Error> {
    (!wrong.is_empty()).then(|| Error::input(path, format!("\n{wrong}")))
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
    fn every_mistake_is_told_with_its_place() {
        let text = "\
packages = \"nginx\"
base = \"debain\"
remove = [1]
pakages = []
programs = \"yes\"

[kernel
package = 6

[state]
file = \"nowhere.toml\"

[file.\"relative\"]
source = \"a\"
content = \"b\"
mode = 644

[file./x]
mode = \"0999\"

[file.\"/y\"]
content = \"open

[symlinks]
x = 1
";
        let said = read(text).unwrap_err().to_string();
        let said = said.split_once('\n').unwrap().1;
        let mut shown = String::new();
        for line in said.lines() {
            let line = match line.split_once(" --> ") {
                Some((_, place)) => format!(" --> {}", place.rsplit('/').next().unwrap()),
                None => line.to_owned(),
            };
            shown.push_str(&line);
            shown.push('\n');
        }
        expect_test::expect_file!["spec/mistakes.txt"].assert_eq(&shown);
    }

    #[test]
    fn the_request_ignores_order() {
        let a = read("suite = \"bookworm\"\npackages = [\"b\", \"a\"]").unwrap();
        let b = read("suite = \"bookworm\"\npackages = [\"a\", \"b\"]").unwrap();
        assert_eq!(a.request(), b.request());
    }

    #[test]
    fn every_key_is_in_the_manual() {
        let manual = include_str!("../../docs/image.md");
        let all = [reader::TOP, reader::KERNEL, reader::STATE, reader::FILE].concat();
        for key in all {
            let known = [format!("| `{key}` |"), format!("`[{key}]`"), format!("`[{key}.")];
            assert!(known.iter().any(|k| manual.contains(k.as_str())), "{key}");
        }
    }
}
