//! What the running kernel can do: the modules and file systems that it has, or could load.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::modules::{Aliases, dependencies, directory, name_of, release};

/// Names of modules and file systems.
#[derive(Debug)]
pub struct Kernel {
    /// Its release.
    pub release: String,
    modules: BTreeSet<String>,
    built_in: BTreeSet<String>,
    aliases: Aliases,
    file_systems: BTreeSet<String>,
}

impl Kernel {
    /// Reads what there is below a root.
    pub fn read(root: &Path) -> Kernel {
        let release = release();
        let index = directory(root, &release);
        let text = |name: &str| {
            index.as_ref().and_then(|dir| fs::read_to_string(dir.join(name)).ok()).unwrap_or_default()
        };
        let modules = dependencies(&text("modules.dep")).into_keys().collect();
        let built_in = text("modules.builtin").lines().map(name_of).collect();
        let mut aliases = Aliases::parse(&text("modules.alias"));
        aliases.add(&text("modules.builtin.alias"));
        // One type a line, behind `nodev` where it needs no device.
        let types = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let file_systems =
            types.lines().filter_map(|l| l.split_ascii_whitespace().last()).map(str::to_owned).collect();
        Kernel { release, modules, built_in, aliases, file_systems }
    }

    /// Whether a module is part of it.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    /// Whether it has a module, or could load one by this name or alias.
    pub fn has_module(&self, name: &str) -> bool {
        Path::new("/sys/module").join(name).is_dir()
            || [&self.modules, &self.built_in].iter().any(|all| all.contains(&name.replace('-', "_")))
            || !self.aliases.find(name).is_empty()
    }

    /// Whether it has a file system, or could load one.
    pub fn has_file_system(&self, fstype: &str) -> bool {
        self.file_systems.contains(fstype) || self.has_module(&format!("fs-{fstype}"))
    }
}
