//! Loading kernel modules: what the index files of depmod(8) name ([`cm_core::modules`]), and finit_module(2).
//!
//! For helpers: reading modules waits for a disk. The kernel unpacks compressed ones itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cm_core::modules::{Aliases, dependencies, directory, name_of, release};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::poll::{PollFd, PollFlags, poll};

use super::uevent::Uevents;

/// Why a module is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The running kernel has no modules here.
    #[error("cannot read \"{path}\": {cause}")]
    Index {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// No file and no alias has this name.
    #[error("cannot load module \"{0}\": there is none of this name for kernel {1}")]
    Unknown(String, String),
    /// The kernel refused it.
    #[error("cannot load module \"{name}\" from \"{path}\": {cause}")]
    Load {
        /// Its name.
        name: String,
        /// Its file.
        path: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// What `/etc/modprobe.d` says, as far as it is heeded: parameters, and what is not loaded by alias.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    blacklist: BTreeSet<String>,
    options: BTreeMap<String, String>,
}

impl Settings {
    /// Adds a file's text.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("blacklist"), Some(name)) => {
                    self.blacklist.insert(name.replace('-', "_"));
                }
                (Some("options"), Some(name)) => {
                    let all = self.options.entry(name.replace('-', "_")).or_default();
                    for word in words {
                        all.push_str(word);
                        all.push(' ');
                    }
                }
                _ => {}
            }
        }
    }

    fn read() -> Settings {
        let mut out = Settings::default();
        for directory in ["/lib/modprobe.d", "/etc/modprobe.d", "/run/modprobe.d"] {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> =
                entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
            paths.sort();
            for text in paths.iter().filter_map(|p| std::fs::read_to_string(p).ok()) {
                out.add(&text);
            }
        }
        out
    }
}

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    directory: PathBuf,
    release: String,
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
    aliases: Aliases,
    settings: Settings,
}

impl Modules {
    /// Whether the running kernel has any here.
    pub fn are_there() -> bool {
        directory(Path::new("/"), &release()).is_some()
    }

    /// Reads the index of the running kernel.
    ///
    /// # Errors
    /// When there is none.
    pub fn read() -> Result<Modules, ModuleError> {
        let release = release();
        let directory =
            directory(Path::new("/"), &release).unwrap_or_else(|| Path::new("/lib/modules").join(&release));
        let text = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path)
                .map_err(|cause| ModuleError::Index { path: path.display().to_string(), cause })
        };
        let mut aliases = Aliases::parse(&text("modules.alias").unwrap_or_default());
        aliases.add(&text("modules.symbols").unwrap_or_default());
        Ok(Modules {
            files: dependencies(&text("modules.dep")?),
            builtin: text("modules.builtin").unwrap_or_default().lines().map(name_of).collect(),
            aliases,
            settings: Settings::read(),
            directory,
            release,
        })
    }

    /// Loads a module by name or alias, what it needs first; answers whether there was anything to load. One that is
    /// loaded already, or built in, is right.
    ///
    /// # Errors
    /// When there is no such module, or the kernel refuses it.
    pub fn load(&self, wanted: &str, parameters: &str) -> Result<bool, ModuleError> {
        let name = wanted.replace('-', "_");
        if self.files.contains_key(&name) {
            return self.load_named(&name, parameters);
        }
        if self.builtin.contains(&name) {
            return Ok(false);
        }
        let by_alias = self.aliases.find(wanted);
        if by_alias.is_empty() {
            return Err(ModuleError::Unknown(wanted.to_owned(), self.release.clone()));
        }
        let mut loaded = false;
        for name in by_alias {
            if !self.settings.blacklist.contains(name) {
                loaded |= self.load_named(name, parameters)?;
            }
        }
        Ok(loaded)
    }

    fn load_named(&self, name: &str, parameters: &str) -> Result<bool, ModuleError> {
        if is_loaded(name) {
            return Ok(false);
        }
        let Some((file, needs)) = self.files.get(name) else { return Ok(false) };
        // The list is nearest first, and complete: the last one needs nothing that is not loaded by then.
        for needed in needs.iter().rev() {
            self.insert(&name_of(needed), needed, "")?;
        }
        self.insert(name, file, parameters)
    }

    fn insert(&self, name: &str, file: &str, parameters: &str) -> Result<bool, ModuleError> {
        let path = self.directory.join(file);
        let fail =
            |cause| ModuleError::Load { name: name.to_owned(), path: path.display().to_string(), cause };
        let own = self.settings.options.get(name).map(String::as_str).unwrap_or_default();
        let words = CString::new(format!("{own}{parameters}")).map_err(|e| fail(e.into()))?;
        let opened = File::open(&path).map_err(fail)?;
        // init_module(2): MODULE_INIT_COMPRESSED_FILE since Linux 5.17; nix does not name it.
        let compressed = if file.ends_with(".ko") { 0 } else { 4 };
        match finit_module(&opened, &words, ModuleInitFlags::from_bits_retain(compressed)) {
            Ok(()) => Ok(true),
            Err(nix::Error::EEXIST) => Ok(false),
            Err(e) => Err(fail(e.into())),
        }
    }

    /// Loads the drivers of all devices that are there, and of those that appear by it: a bus's driver finds its
    /// devices only when it is loaded. Ends when no device has appeared for a while. A device without a driver is
    /// usual, and one driver that fails keeps no other out: the kernel's log names it.
    ///
    /// # Errors
    /// When events cannot be heard.
    pub fn coldplug(&self) -> io::Result<()> {
        // ORDER: listening before looking: what appears in between is heard.
        let mut events = Uevents::open()?;
        let mut tried = BTreeSet::new();
        loop {
            let found: Vec<String> = device_aliases().difference(&tried).cloned().collect();
            for alias in &found {
                let _others_follow = self.load(alias, "");
            }
            tried.extend(found.iter().cloned());
            // What a driver finds, or the driver itself, is told of.
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], QUIET_MS) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            while events.read()?.is_some() {}
        }
    }
}

/// Whether a module is there that could be unloaded: one that is built in may have a directory too. The file goes
/// before the kernel tells that the module goes.
pub fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).join("initstate").exists()
}

/// Milliseconds without an event after which no device is expected any more: some drivers probe in the background.
const QUIET_MS: u16 = 2000;

/// Every `modalias` of a device: of those on a bus, of those that only have a class (`input`), and of a bus itself
/// (`cpu`). To walk through all of `/sys/devices` finds the same, among thirty times as many directories.
fn device_aliases() -> BTreeSet<String> {
    let entries = |directory: &Path| {
        std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect::<Vec<PathBuf>>()
    };
    let buses = entries(Path::new("/sys/bus")).into_iter().map(|bus| bus.join("devices"));
    let classes = entries(Path::new("/sys/class"));
    let lists = buses.chain(classes).chain([PathBuf::from("/sys/devices/system")]);
    let devices = lists.flat_map(|list| entries(&list));
    let aliases = devices.filter_map(|device| std::fs::read_to_string(device.join("modalias")).ok());
    aliases.map(|alias| alias.trim().to_owned()).filter(|alias| !alias.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_modprobe() {
        let mut settings = Settings::default();
        settings.add("# x\nblacklist pc-spkr\noptions loop max_loop=8\noptions loop a=b\n");
        assert!(settings.blacklist.contains("pc_spkr"));
        assert_eq!(settings.options["loop"], "max_loop=8 a=b ");
    }
}
