//! Other names of a file: found before it is replaced, and given to it again on the way back.
//!
//! A replacement is a new inode, so that the names which the old one had beside the managed path part from it. What is
//! written down is where they are; whether they still are the same file is decided when it is put back, by content
//! and attributes, so that several names of one file come together again whatever their order.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use sha2::{Digest, Sha256};
use units::kind::Content;

use super::attributes;
use super::line;
use super::op::{Put, Trouble, Want};
use super::place::Place;
use super::staging::Areas;
use super::tree;
use super::world::World;
use crate::store::Prior;
use crate::store::record::names_of;
use crate::sys;

/// Entries that are looked at in search of other names: some tens of milliseconds.
const BUDGET: usize = 100_000;

/// Whether what stands at a place may be another file, to which somebody has given this name too: then nothing of it is
/// changed. Only where the kernel protects hard links (proc_sys_fs(5)) does it have to be a file that he could write.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn may_be_anybodys(place: &Place, stat: &FileStat) -> Result<bool, Errno> {
    if stat.st_nlink <= 1 {
        return Ok(false);
    }
    let directory = fstat(&*place.dir)?;
    let shared = directory.st_mode & 0o022 != 0;
    let is_ours = directory.st_uid == nix::unistd::geteuid().as_raw() && !shared;
    // Who owns both could do the same himself.
    let is_his = directory.st_uid == stat.st_uid && !shared;
    Ok(!is_ours && !is_his)
}

/// Paths of other names of a file in `directory`: first those near it, as far as the budget goes.
pub fn others(world: &World, directory: &str, name: &str, stat: &FileStat) -> Vec<String> {
    let mut missing = usize::try_from(stat.st_nlink).unwrap_or(usize::MAX).saturating_sub(1);
    let mut out = Vec::new();
    let mut budget = BUDGET;
    let mut seen = BTreeSet::new();
    let root = world.outside("/");
    let start = world.outside(directory);
    // A bind mount of the same device shows the same names once more, where no link can be made.
    let mount = |dir: &Path| {
        let file = fs::OpenOptions::new().read(true).custom_flags(tree::LOOK.bits()).open(dir).ok()?;
        sys::mount_of(&file).ok().map(|(mount, _)| mount)
    };
    let Some(here) = mount(&start) else { return out };
    for top in start.ancestors().take_while(|d| d.starts_with(&root)) {
        let mut open = vec![top.to_owned()];
        while let Some(dir) = open.pop() {
            if missing == 0 || budget == 0 {
                return out;
            }
            if !seen.insert(dir.clone()) || mount(&dir) != Some(here) {
                continue;
            }
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                budget = budget.saturating_sub(1);
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push(entry.path());
                } else if entry.ino() == stat.st_ino
                    && !(dir == start && entry.file_name() == name)
                    && let Some(path) = inside(&root, &entry.path())
                {
                    out.push(path);
                    missing = missing.saturating_sub(1);
                }
            }
        }
    }
    out
}

/// What a file with several names is, with its content saved; `None` for any other.
///
/// # Errors
/// When it cannot be read or saved.
pub fn of_edited(world: &mut World, path: &str) -> Result<Option<Prior>, Trouble> {
    let Ok(place) = world.places.entry(path) else { return Ok(None) };
    match place.stat() {
        Ok(Some(stat))
            if stat.st_nlink > 1
                && stat.st_mode & libc::S_IFMT == libc::S_IFREG
                && stat.st_size <= line::LARGEST.cast_signed() => {}
        _ => return Ok(None),
    }
    let prior = tree::prior(world, path, &Put::Absent, true)?;
    Ok(matches!(prior, Prior::Linked { .. }).then_some(prior))
}

/// On a return: what the file at a path was when it had several names, if this text is what it held.
pub fn before(world: &World, path: &str, text: &str) -> Option<(Content, Want)> {
    let Prior::Linked { digest, size, metadata, .. } = &world.first_touches.get(&names_of(path))?.prior
    else {
        return None;
    };
    let held: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    (held == *digest).then(|| (Content { digest: *digest, size: *size }, Want::exactly(metadata, true)))
}

/// A path as the units name it.
fn inside(root: &Path, path: &Path) -> Option<String> {
    let below: PathBuf = path.strip_prefix(root).ok()?.to_owned();
    Some(format!("/{}", below.to_str()?))
}

/// A link in a staging area to that one of `others` which holds just this content and has these attributes; `None`
/// when there is none, or the kernel makes no link.
pub fn again(
    world: &mut World,
    areas: &mut Areas,
    area: usize,
    others: &[String],
    content: &Content,
    want: &Want,
) -> Option<String> {
    others.iter().find_map(|other| {
        let place = world.places.entry(other).ok()?;
        let name = areas.name();
        let at = areas.get(area)?;
        linkat(&*place.dir, &*place.os(), &at.fd, name.as_str(), AtFlags::empty()).ok()?;
        // It is looked at where nobody else can exchange it any more.
        if is_the_same(world, &at.fd, &name, content, want) {
            return Some(name);
        }
        let _ = unlinkat(&at.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
        None
    })
}

fn is_the_same(world: &mut World, area: &OwnedFd, name: &str, content: &Content, want: &Want) -> bool {
    let open = || -> Result<(fs::File, FileStat), Errno> {
        let fd = openat(area, name, tree::LOOK, Mode::empty())?;
        let stat = fstat(&fd)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::EINVAL);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok((fs::File::from(openat(area, name, flags, Mode::empty())?), stat))
    };
    let Ok((mut file, stat)) = open() else { return false };
    if u64::try_from(stat.st_size).ok() != Some(content.size)
        || want.mtime.is_some_and(|t| t != (stat.st_mtime, stat.st_mtime_nsec))
        || !world.digest(&mut file).is_ok_and(|(d, _)| d == content.digest)
    {
        return false;
    }
    let mut wrong = Vec::new();
    let handle = || file.try_clone().map(OwnedFd::from).map_err(|e| Trouble::io("open", name, &e));
    attributes::differences(&stat, &handle, want, &world.accounts, &mut wrong).is_ok() && wrong.is_empty()
}
