//! The lock file: every package of an image by version, architecture and SHA-256.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// One package as it was chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Package name.
    pub name: String,
    /// Full version, with epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the package file, in hexadecimal.
    pub sha256: String,
}

impl Locked {
    /// Name of the package file, as apt writes it.
    pub fn file(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// What was asked for when the versions were chosen; other wishes need another choice.
    pub request: Vec<String>,
    /// The kernel's package.
    #[serde(default)]
    pub kernel: Option<Locked>,
    /// All others, dependencies included, by name.
    #[serde(default, rename = "package")]
    pub packages: Vec<Locked>,
}

impl Lock {
    /// Reads a lock file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not a lock file.
    pub fn read(path: &Path) -> Result<Option<Lock>, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Lock::parse(&text, path).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// The lock file of this text; the path is for what is said of it.
    ///
    /// # Errors
    /// When it is not a lock file.
    pub fn parse(text: &str, path: &Path) -> Result<Lock, Error> {
        toml::from_str(text).map_err(|e| Error::input(path, e.to_string()))
    }

    /// The file's text.
    pub fn render(&self) -> String {
        // Names, versions and digests hold nothing that TOML would have to escape; {:?} quotes them all the same.
        let mut out =
            "# Which packages the image is made of. Written by: initramfs build --update-lock\n".to_owned();
        let request: Vec<String> = self.request.iter().map(|r| format!("{r:?}")).collect();
        out.push_str(&format!("request = [{}]\n", request.join(", ")));
        let mut table = |header: &str, p: &Locked| {
            out.push_str(&format!(
                "\n{header}\nname = {:?}\nversion = {:?}\narchitecture = {:?}\nsha256 = {:?}\n",
                p.name, p.version, p.architecture, p.sha256
            ));
        };
        if let Some(kernel) = &self.kernel {
            table("[kernel]", kernel);
        }
        for package in &self.packages {
            table("[[package]]", package);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_renders() {
        let package = |name: &str| Locked {
            name: name.to_owned(),
            version: "5:7.0~rc1-1+b2".to_owned(),
            architecture: "amd64".to_owned(),
            sha256: "00ff".to_owned(),
        };
        let lock = Lock {
            request: vec!["redis-server".to_owned()],
            kernel: Some(package("linux-image-x")),
            packages: vec![package("libc6"), package("redis-server")],
        };
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("image.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        std::fs::write(&path, lock.render()).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock));
        std::fs::write(&path, "package = 3").unwrap();
        assert!(Lock::read(&path).unwrap_err().to_string().contains("image.lock"));
    }

    #[test]
    fn file_names_have_no_colon() {
        let p = Locked {
            name: "a".into(),
            version: "1:2".into(),
            architecture: "all".into(),
            sha256: String::new(),
        };
        assert_eq!(p.file(), "a_1%3a2_all.deb");
    }
}
