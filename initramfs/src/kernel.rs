//! The kernel and those of its modules that an image names, with what they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::lock::Locked;
use crate::tree::{Kind, Tree};
use crate::{root, tool};

/// A kernel, taken out of its package.
#[derive(Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The bootable file.
    pub image: Vec<u8>,
    /// `usr/lib/modules/RELEASE` with the chosen modules and their index.
    pub modules: Tree,
}

/// Takes the kernel and the named modules out of a package. Modules stay compressed: the kernel unpacks them when
/// they are loaded (MODULE_INIT_COMPRESSED_FILE).
///
/// # Errors
/// When the package holds no kernel, or a module is neither in it nor built into the kernel.
pub fn extract(file: &Path, package: &Locked, wanted: &[String], scratch: &Path) -> Result<Kernel, Error> {
    let tree = root::package_tree(file)?;
    let what = || format!("kernel package {}", package.name);
    let (release, image) = tree
        .iter()
        .find_map(|(path, node)| match (&node.kind, path.strip_prefix("boot/vmlinuz-")) {
            (Kind::File(bytes), Some(release)) => Some((release.to_owned(), bytes.as_ref().clone())),
            _ => None,
        })
        .ok_or_else(|| Error::format(what(), "it holds no boot/vmlinuz-*"))?;
    let base = format!("usr/lib/modules/{release}");
    // depmod reads a directory; the whole package is laid out for it once, then the chosen part.
    let full = Modules::index(&tree, &base, &release, &scratch.join("all"), |_| true)?;
    let chosen = full.closure(wanted).map_err(|missing| {
        Error::format(what(), format!("it has no module {missing}, neither as a file nor built in"))
    })?;
    let part = Modules::index(&tree, &base, &release, &scratch.join("chosen"), |p| chosen.contains(p))?;
    Ok(Kernel { release, image, modules: part.tree })
}

struct Modules {
    /// All below the base, with depmod's index.
    tree: Tree,
    /// Path below the base → paths that it depends on.
    needs: BTreeMap<String, Vec<String>>,
    /// Names of what is built in.
    builtin: BTreeSet<String>,
}

impl Modules {
    fn index(
        package: &Tree,
        base: &str,
        release: &str,
        scratch: &Path,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Modules, Error> {
        let _ = fs::remove_dir_all(scratch);
        let laid = scratch.join("lib/modules").join(release);
        let mut tree = Tree::new();
        let prefix = format!("{base}/");
        for (path, node) in package.iter() {
            let Some(below) = path.strip_prefix(&prefix) else { continue };
            if let Kind::File(bytes) = &node.kind
                && (below.starts_with("modules.") || keep(below))
            {
                let file = laid.join(below);
                if let Some(parent) = file.parent() {
                    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                }
                fs::write(&file, bytes.as_slice()).map_err(Error::io("write", &file))?;
                tree.insert(path, node.clone())?;
            }
        }
        fs::create_dir_all(&laid).map_err(Error::io("create", &laid))?;
        tool::run("index kernel modules", tool::command("depmod").arg("-b").arg(scratch).arg(release))?;
        for entry in fs::read_dir(&laid).map_err(Error::io("read", &laid))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("modules.") {
                let bytes = fs::read(entry.path()).map_err(Error::io("read", entry.path()))?;
                tree.insert(&format!("{base}/{name}"), crate::tree::Node::file(bytes, 0o644))?;
            }
        }
        let text = |name: &str| {
            tree.read(&format!("{base}/{name}"))
                .map(|b| String::from_utf8_lossy(b).into_owned())
                .unwrap_or_default()
        };
        let needs = text("modules.dep")
            .lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(path, needs)| (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
            .collect();
        let builtin = text("modules.builtin").lines().map(name_of).collect();
        let _ = fs::remove_dir_all(scratch);
        Ok(Modules { tree, needs, builtin })
    }

    /// Paths of modules and of what they need; else the names of which there is none, with those that may be meant.
    fn closure(&self, wanted: &[String]) -> Result<BTreeSet<String>, String> {
        let by_name: BTreeMap<String, &String> = self.needs.keys().map(|p| (name_of(p), p)).collect();
        let mut out = BTreeSet::new();
        let mut missing = Vec::new();
        for name in wanted {
            let name = name.replace('-', "_");
            if self.builtin.contains(&name) {
                continue;
            }
            let Some(path) = by_name.get(&name) else {
                missing.push(match units::nearest::nearest(&name, by_name.keys().map(String::as_str)) {
                    Some(near) => format!("{name:?} (did you mean {near:?}?)"),
                    None => format!("{name:?}"),
                });
                continue;
            };
            out.insert((*path).clone());
            // modules.dep lists what is needed indirectly too.
            out.extend(self.needs.get(*path).into_iter().flatten().cloned());
        }
        if missing.is_empty() { Ok(out) } else { Err(missing.join(", ")) }
    }
}

/// A module's name: that of its file without suffixes, with underscores.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let modules = Modules {
            tree: Tree::new(),
            needs: BTreeMap::from([
                ("kernel/net/virtio_net.ko.xz".to_owned(), vec!["kernel/net/failover.ko.xz".to_owned()]),
                ("kernel/net/failover.ko.xz".to_owned(), vec![]),
                ("kernel/fs/x-y.ko".to_owned(), vec![]),
            ]),
            builtin: BTreeSet::from(["ext4".to_owned()]),
        };
        let all =
            |names: &[&str]| modules.closure(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(all(&["virtio_net"]).unwrap().len(), 2);
        assert_eq!(all(&["x_y", "ext4"]).unwrap().len(), 1);
        let wrong = "\"nfs\", \"virtio_nte\" (did you mean \"virtio_net\"?)";
        assert_eq!(all(&["x-y", "nfs", "virtio-nte"]), Err(wrong.to_owned()));
    }
}
