//! apt in a directory of its own: finds and downloads packages without touching the machine's lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::lock::Locked;
use crate::tree::matches;
use crate::{Error, sources, tool};

/// Directory of the machine's own sources.
const SYSTEM: &str = "/etc/apt";

/// A private apt.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
    suite: String,
}

/// One package of an archive's index.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What the lock file keeps of it.
    pub package: Locked,
    /// Suite of the index.
    pub suite: String,
    /// Whether no Debian system can do without it.
    pub essential: bool,
    /// Bytes of the package file.
    pub size: u64,
}

impl Apt {
    /// Prepares the directory for one suite and further ones.
    ///
    /// # Errors
    /// When the machine's sources do not have the suite, or the directory cannot be written.
    pub fn open(cache: &Path, suite: &str, extra: &[String]) -> Result<Apt, Error> {
        let directory = cache.join("apt").join(suite);
        for sub in ["lists/partial", "archives/partial", "empty/partial"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let mut files = Vec::new();
        let listed = fs::read_dir(format!("{SYSTEM}/sources.list.d")).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = listed.map(|e| e.path()).collect();
        paths.push(PathBuf::from(format!("{SYSTEM}/sources.list")));
        paths.sort();
        for path in paths {
            let name = path.to_string_lossy().into_owned();
            if name.ends_with(".list") || name.ends_with(".sources") {
                files.extend(fs::read_to_string(&path).ok().map(|text| (name, text)));
            }
        }
        let derived = sources::derive(&files, suite, extra)?;
        // How the machine reaches its mirrors (proxies, certificates, retries) holds here too.
        let settings = tool::text("read apt's settings", tool::command("apt-config").arg("dump"))?;
        let reach: String = settings
            .lines()
            .filter(|l| l.starts_with("Acquire::http") || l.starts_with("Acquire::Retries"))
            .map(|l| format!("{l}\n"))
            .collect();
        let at = directory.display();
        let config = format!(
            "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{at}/derived.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\nDir::State::status \"{at}/status\";\n\
             Dir::Cache \"{at}\";\nDir::Cache::archives \"{at}/archives\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\nAPT::Install-Recommends \"false\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n{reach}"
        );
        for (name, text) in [("derived.sources", derived), ("apt.conf", config), ("status", String::new())] {
            let path = directory.join(name);
            fs::write(&path, text).map_err(Error::io("write", &path))?;
        }
        Ok(Apt { directory, suite: suite.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut c = tool::command(program);
        c.env("APT_CONFIG", self.directory.join("apt.conf")).env("LC_ALL", "C");
        c
    }

    /// Fetches the archives' indexes.
    ///
    /// # Errors
    /// When an archive does not answer.
    pub fn update(&self) -> Result<(), Error> {
        tool::run("fetch package lists", self.command("apt-get").args(["update", "--error-on=any"])).map(drop)
    }

    /// All packages of all indexes.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn index(&self) -> Result<Vec<Entry>, Error> {
        let targets = tool::text(
            "list package indexes",
            self.command("apt-get").args([
                "indextargets",
                "--format",
                "$(RELEASE) $(FILENAME)",
                "Created-By: Packages",
            ]),
        )?;
        let mut out = Vec::new();
        for line in targets.lines() {
            if let Some((suite, file)) = line.split_once(' ') {
                let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
                out.extend(text.split("\n\n").filter_map(|stanza| entry(stanza, suite)));
            }
        }
        Ok(out)
    }

    /// The packages that installing these on an empty machine needs, all essential ones among them.
    ///
    /// # Errors
    /// When one is not there or they cannot be installed together.
    pub fn resolve(&self, names: &[String], index: &[Entry]) -> Result<Vec<Locked>, Error> {
        let mut wanted: Vec<&str> =
            index.iter().filter(|e| e.essential).map(|e| e.package.name.as_str()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Of two packages that can merge /usr, the one that needs no perl: a new root is merged from the start.
        wanted.push("usr-is-merged");
        wanted.extend(names.iter().map(String::as_str));
        // apt leaves out what it would not have to download; so it sees a cache that is empty.
        let empty = format!("Dir::Cache::archives={}", self.directory.join("empty").display());
        let mut choose = self.command("apt-get");
        choose.args(["install", "--yes", "--print-uris", "--quiet=2", "-o", &empty]).args(&wanted);
        let listed = tool::text("choose packages", &mut choose)?;
        let by_file: BTreeMap<String, &Locked> =
            index.iter().map(|e| (e.package.file(), &e.package)).collect();
        let mut out = Vec::new();
        for line in listed.lines().filter(|l| l.starts_with('\'')) {
            let file = line.split_whitespace().nth(1).unwrap_or_default();
            let package = by_file
                .get(file)
                .ok_or_else(|| Error::format("package list", format!("{file} is in no index")))?;
            out.push((*package).clone());
        }
        out.sort();
        Ok(out)
    }

    /// The newest of the named packages' own versions, without dependencies.
    ///
    /// # Errors
    /// When one is in no index.
    pub fn newest(&self, names: &[String], index: &[Entry]) -> Result<Vec<Locked>, Error> {
        let mut out = Vec::new();
        for name in names {
            let of_suite = |e: &&Entry| e.package.name == *name && e.suite.starts_with(&self.suite);
            let found = highest(index.iter().filter(of_suite).filter(|e| !e.suite.ends_with("-backports")))?;
            let found = found
                .ok_or_else(|| Error::format("package list", format!("no package is named {name:?}")))?;
            out.push(found.package.clone());
        }
        out.sort();
        Ok(out)
    }

    /// The kernel: the highest version that matches the pattern, in the first suite that has a match.
    ///
    /// # Errors
    /// When no suite has one.
    pub fn kernel(&self, pattern: &str, suites: &[String], index: &[Entry]) -> Result<Locked, Error> {
        for suite in suites {
            // A package of a few kilobytes is a mere name for another one.
            let fits =
                |e: &&Entry| e.suite == *suite && e.size > 1 << 20 && matches(pattern, &e.package.name);
            if let Some(found) = highest(index.iter().filter(fits))? {
                return Ok(found.package.clone());
            }
        }
        Err(Error::format(
            "package list",
            format!("no kernel package matches {pattern:?} in {}", suites.join(", ")),
        ))
    }

    /// Where a package's file is, or will be.
    pub fn archive(&self, package: &Locked) -> PathBuf {
        self.directory.join("archives").join(package.file())
    }

    /// Sees to it that the files of all these packages are here and are the locked ones. The archive is asked only
    /// if one is missing.
    ///
    /// # Errors
    /// [`Error::Gone`] for the first that no archive has any more, [`Error::Digest`] for one with other bytes.
    pub fn fetch(&self, packages: &[Locked], lock: &Path) -> Result<(), Error> {
        let mut missing = Vec::new();
        for package in packages {
            let path = self.archive(package);
            if digest(&path).is_ok_and(|d| d == package.sha256) {
                continue;
            }
            if path.exists() {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
            missing.push(package);
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.update()?;
        let index = self.index()?;
        for p in &missing {
            let same = |e: &&Entry| {
                (&e.package.name, &e.package.version, &e.package.architecture)
                    == (&p.name, &p.version, &p.architecture)
            };
            match index.iter().find(same) {
                Some(e) if e.package.sha256 != p.sha256 => return Err(changed(p, &e.package.sha256)),
                Some(_) => {}
                None => {
                    return Err(Error::Gone {
                        name: p.name.clone(),
                        version: p.version.clone(),
                        architecture: p.architecture.clone(),
                        lock: lock.to_path_buf(),
                    });
                }
            }
        }
        eprintln!("downloading {} packages", missing.len());
        let mut download = self.command("apt-get");
        download.args(["download", "--quiet=2"]).current_dir(self.directory.join("archives"));
        download.args(missing.iter().map(|p| format!("{}={}", p.name, p.version)));
        tool::run("download packages", &mut download)?;
        for p in missing {
            let found = digest(&self.archive(p))?;
            if found != p.sha256 {
                return Err(changed(p, &found));
            }
        }
        Ok(())
    }
}

fn changed(p: &Locked, found: &str) -> Error {
    Error::Digest {
        name: p.name.clone(),
        version: p.version.clone(),
        found: found.to_owned(),
        wanted: p.sha256.clone(),
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<String, Error> {
    Ok(hex(&fs::read(path).map_err(Error::io("read", path))?))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn entry(stanza: &str, suite: &str) -> Option<Entry> {
    let field = |name: &str| {
        stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(|v| v.trim().to_owned())
    };
    Some(Entry {
        package: Locked {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            sha256: field("SHA256")?,
        },
        suite: suite.to_owned(),
        essential: field("Essential").is_some_and(|e| e == "yes"),
        size: field("Size")?.parse().ok()?,
    })
}

fn highest<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<Option<&'a Entry>, Error> {
    let mut best: Option<&Entry> = None;
    for e in entries {
        let higher = match best {
            None => true,
            Some(b) => tool::command("dpkg")
                .args(["--compare-versions", &e.package.version, "gt", &b.package.version])
                .status()
                .map_err(Error::io("run", "dpkg"))?
                .success(),
        };
        if higher {
            best = Some(e);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_index_stanza() {
        let text = "Package: a\nEssential: yes\nVersion: 1:2-3\nArchitecture: amd64\nSize: 7\nSHA256: ab\n";
        let e = entry(text, "stable").unwrap();
        assert_eq!((e.package.file().as_str(), e.essential, e.size), ("a_1%3a2-3_amd64.deb", true, 7));
        assert!(entry("Package: a\n", "stable").is_none());
    }

    #[test]
    fn the_kernel_is_the_highest_version_of_the_first_suite_that_has_one() {
        let make = |name: &str, version: &str, suite: &str, size| Entry {
            package: Locked {
                name: name.into(),
                version: version.into(),
                architecture: "amd64".into(),
                sha256: String::new(),
            },
            suite: suite.to_owned(),
            essential: false,
            size,
        };
        let index = [
            make("linux-image-6.12-cloud-amd64", "6.12.117-1", "b-backports", 1500),
            make("linux-image-6.12.94-cloud-amd64", "6.12.94-1", "b-backports", 2 << 20),
            make("linux-image-6.12.117-cloud-amd64", "6.12.117-1", "b-backports", 2 << 20),
            make("linux-image-6.99-cloud-amd64", "6.99-1", "b", 2 << 20),
        ];
        let apt = Apt { directory: PathBuf::new(), suite: "b".to_owned() };
        let suites = ["c".to_owned(), "b-backports".to_owned(), "b".to_owned()];
        let kernel = apt.kernel("linux-image-6.*-cloud-amd64", &suites, &index).unwrap();
        assert_eq!(kernel.name, "linux-image-6.12.117-cloud-amd64");
        assert!(apt.kernel("linux-image-7.*", &suites, &index).is_err());
    }
}
