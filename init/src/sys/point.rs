//! Mount points: where a declared path leads, and how to name it to the kernel so that nobody can lead us astray.
//!
//! The kernel lists a mount by its canonical path. A path that leads there through links is made canonical once, through
//! links that root owns only, as the paths of files are ([`cm_core::resource::place`]).
//! For helpers: it waits for disks.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cm_core::mountinfo::Tree;
use cm_core::resource::place::{PlaceError, Places};
use cm_core::resource::retire::MADE;
use cm_core::{bytes, sys};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::mount;

/// The canonical path of a mount point, which need not be there yet.
///
/// # Errors
/// When somebody else than root could change a link on the way, or something there is no directory.
pub fn resolve(path: &str) -> Result<String, PlaceError> {
    let table = mount::table().unwrap_or_default();
    let tree = Tree::read(&table);
    let root = File::open("/").map_err(|e| PlaceError::Open {
        path: "/".to_owned(),
        errno: Errno::from_raw(e.raw_os_error().unwrap_or_default()),
    })?;
    Places::new(OwnedFd::from(root)).point(path, |place| tree.at(place).is_some())
}

/// Opens what a canonical path leads to now; a link that has come there since is not followed. The second is a name of it
/// that leads there whatever happens to the path.
///
/// # Errors
/// What openat2(2) said.
pub fn open(canonical: &str) -> io::Result<(OwnedFd, PathBuf)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(nix::fcntl::AT_FDCWD, &*bytes::name_of(canonical), how)?;
    let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    // Where no /proc is, the path has to do.
    let name = if name.symlink_metadata().is_ok() { name } else { Path::new(canonical).to_owned() };
    Ok((fd, name))
}

/// Makes a mount point, and what is missing on the way, so that [`unmake`] knows them again.
///
/// # Errors
/// What mkdir(2) said.
pub fn make(canonical: &Path) -> io::Result<()> {
    if canonical.exists() {
        return Ok(());
    }
    canonical.parent().map_or(Ok(()), make)?;
    // 0755 whatever the mask: nobody but the file system's own root decides who may enter.
    std::fs::DirBuilder::new().mode(0o755).create(canonical)?;
    // Where it takes no mark it stays for ever, as what somebody else has made.
    if let Ok(made) = File::open(canonical) {
        mark(&made);
    }
    Ok(())
}

fn mark(made: &File) {
    let _none_is_taken = MADE.iter().any(|name| sys::set_xattr(made, name, &[]).is_ok());
}

/// Takes a mount point away that is not needed any more, and what was made on the way to it: all that is empty.
pub fn unmake(canonical: &Path) {
    for path in canonical.ancestors() {
        let Ok(made) = File::open(path) else { return };
        if !MADE.iter().any(|name| sys::remove_xattr(&made, name).is_ok()) {
            return;
        }
        if std::fs::remove_dir(path).is_err() {
            return mark(&made);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_made_canonical_through_links_of_root() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let at = |path: &str| top.join(path).to_str().unwrap().to_owned();
        std::fs::create_dir_all(at("real/m")).unwrap();
        std::fs::write(at("real/file"), "").unwrap();
        symlink("real", at("link")).unwrap();
        symlink(at("link/m"), at("last")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = nix::unistd::geteuid().is_root();
        for (path, found) in [
            ("real/m", "real/m"),
            ("link/m", "real/m"),
            ("last", "real/m"),
            ("link/new/deep", "real/new/deep"),
            ("link/file", "real/file"),
            ("last/../m", "real/m"),
        ] {
            let is = resolve(&at(path));
            // Whoever else runs the tests owns the links.
            assert!(
                is == Ok(at(found)) || (!root && matches!(is, Err(PlaceError::ForeignLink { .. }))),
                "{is:?}"
            );
        }
        assert!(resolve(&at("link/file/x")).is_err(), "a file is no directory");
        assert!(resolve(&at("loop")).is_err());
        assert_eq!(resolve("/proc").unwrap(), "/proc");
        if root {
            std::os::unix::fs::lchown(at("link"), Some(1234), None).unwrap();
            let why = resolve(&at("link/m")).unwrap_err().to_string();
            assert!(
                why.ends_with("/link is a link of user 1234; only links that root owns are followed"),
                "{why}"
            );
        }
    }

    #[test]
    fn what_is_opened_is_what_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let at = |path: &str| top.join(path).to_str().unwrap().to_owned();
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("a/mark"), "").unwrap();
        let (_fd, name) = open(&at("a")).unwrap();
        std::fs::rename(at("a"), at("b")).unwrap();
        symlink("/", at("a")).unwrap();
        assert!(name.join("mark").exists(), "it leads where it did");
        assert_eq!(open(&at("a")).unwrap_err().raw_os_error(), Some(libc::ELOOP), "no link is followed");
    }
    #[test]
    fn what_was_made_goes_with_what_was_mounted_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("theirs/point")).unwrap();
        for path in ["theirs/ours/point", "theirs/ours/other", "theirs/point", "theirs/used/point"] {
            make(&at(path)).unwrap();
        }
        std::fs::write(at("theirs/used/file"), "").unwrap();
        unmake(&at("theirs/ours/point"));
        assert!(!at("theirs/ours/point").exists() && at("theirs/ours/other").exists());
        for path in ["theirs/ours/other", "theirs/point", "theirs/used/point"] {
            unmake(&at(path));
        }
        let mut left: Vec<_> =
            std::fs::read_dir(at("theirs")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["point", "used"]);
        assert_eq!(std::fs::read_dir(at("theirs/used")).unwrap().count(), 1);
    }
}
