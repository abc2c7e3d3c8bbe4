//! Puts Holdfast itself into a tree.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::tree::{Kind, Node, Tree};

/// Each program: its file where cargo builds it, and its place in an image.
pub const PROGRAMS: &[(&str, &str)] =
    &[("init", "/sbin/init"), ("initctl", "/usr/bin/initctl"), ("cm-worker", "/usr/lib/holdfast/cm-worker")];

/// Adds the programs, and `/init`, which the kernel runs from an initramfs.
///
/// # Errors
/// When one is not in `directory`; the text says how to build it.
pub fn programs(tree: &mut Tree, directory: &Path) -> Result<(), Error> {
    for (name, place) in PROGRAMS {
        let file = directory.join(name);
        let bytes = fs::read(&file).map_err(|e| {
            Error::input(
                &file,
                format!("cannot read program: {e}; build it with: cargo build --profile image --bins"),
            )
        })?;
        tree.insert(place, Node::file(bytes, 0o755))?;
    }
    for name in ["poweroff", "reboot", "halt"] {
        let place = format!("/sbin/{name}");
        // A package's own stays: it may be one that its other programs expect.
        if tree.get(&tree.resolve(&place)?).is_none() {
            tree.insert(&place, Node::new(Kind::Symlink("/usr/bin/initctl".to_owned()), 0o777))?;
        }
    }
    // A hard link: the program is in memory once, and nothing between power-on and PID 1 follows a link.
    tree.link("/init", "/sbin/init")
}

/// Copies a file, or a directory with all in it, from the build machine. Owners become root; names are sorted.
///
/// # Errors
/// When something cannot be read or has a name that is not UTF-8.
pub fn copy(tree: &mut Tree, from: &Path, to: &str, mode: Option<u32>) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let about = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    if about.is_symlink() {
        let target = fs::read_link(from).map_err(Error::io("read", from))?;
        return tree.insert(to, Node::new(Kind::Symlink(target.to_string_lossy().into_owned()), 0o777));
    }
    if !about.is_dir() {
        // Only whether a file is executable: the rest of a mode depends on who checked the sources out.
        let own = if about.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let bytes = fs::read(from).map_err(Error::io("read", from))?;
        return tree.insert(to, Node::file(bytes, mode.unwrap_or(own)));
    }
    tree.insert(to, Node::new(Kind::Directory, 0o755))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let name = entry.map_err(Error::io("read", from))?.file_name();
        names.push(
            name.into_string().map_err(|n| Error::input(from, format!("the name {n:?} is not UTF-8")))?,
        );
    }
    names.sort();
    names.iter().try_for_each(|n| copy(tree, &from.join(n), &format!("{to}/{n}"), mode))
}
