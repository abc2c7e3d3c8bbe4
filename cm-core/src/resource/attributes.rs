//! Owner, group, mode and extended attributes: compared, and changed by descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::stat::{FileStat, Mode, fchmod};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, getegid, geteuid};

use super::op::{Trouble, Want};
use super::world::Known;
use crate::store::Metadata;
use crate::sys;

/// Attributes that belong to a content: a new one must not inherit them.
const OF_THE_CONTENT: [&str; 3] = ["security.capability", "security.ima", "security.evm"];

/// User and group of this process, which changes nothing as anybody else.
static OWN: OnceLock<(u32, u32)> = OnceLock::new();

/// What is wrong with a file's or directory's attributes, in words. It is opened only for extended attributes.
///
/// # Errors
/// When its extended attributes cannot be read.
pub fn differences(
    stat: &FileStat,
    open: &dyn Fn() -> Result<OwnedFd, Trouble>,
    want: &Want,
    accounts: &Known,
    wrong: &mut Vec<String>,
) -> Result<(), Trouble> {
    if let Some(mode) = want.mode
        && stat.st_mode & 0o7777 != mode
    {
        wrong.push(format!("mode {:04o}, should be {mode:04o}", stat.st_mode & 0o7777));
    }
    for (word, is, who, id) in [
        ("owner", stat.st_uid, &want.owner, want.owner.as_deref().and_then(|w| accounts.uid(w))),
        ("group", stat.st_gid, &want.group, want.group.as_deref().and_then(|w| accounts.gid(w))),
    ] {
        let Some(who) = who else { continue };
        if id != Some(is) {
            wrong.push(format!("{word} {is}, should be {who}"));
        }
    }
    if !want.xattrs.is_empty() || want.exact {
        let fd = open()?;
        let failed = |e: std::io::Error| Trouble::io("read extended attributes of", "it", &e);
        for (name, value) in &want.xattrs {
            if sys::xattr(&fd, name).map_err(failed)?.as_ref() != Some(value) {
                wrong.push(format!("extended attribute {name} differs"));
            }
        }
        if want.exact {
            for name in sys::xattr_names(&fd).map_err(failed)? {
                if !want.xattrs.iter().any(|(n, _)| *n == name) {
                    wrong.push(format!("extended attribute {name} should not be there"));
                }
            }
        }
    }
    Ok(())
}

/// Attributes exactly as they are.
///
/// # Errors
/// When the extended ones cannot be read.
pub fn read(stat: &FileStat, fd: impl AsFd) -> Result<Metadata, Trouble> {
    let failed = |e: std::io::Error| Trouble::io("read extended attributes of", "it", &e);
    let mut xattrs = Vec::new();
    for name in sys::xattr_names(&fd).map_err(failed)? {
        if let Some(value) = sys::xattr(&fd, &name).map_err(failed)? {
            xattrs.push((name, value));
        }
    }
    Ok(Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
    })
}

/// What a new file or directory starts from: what it replaces, else this process's user (root but in a container
/// of an ordinary user's), its group, and `mode`.
pub fn base(replaced: Option<&Metadata>, mode: u32) -> Metadata {
    match replaced {
        Some(old) => {
            let mut new = old.clone();
            new.xattrs.retain(|(name, _)| !OF_THE_CONTENT.contains(&name.as_str()));
            new
        }
        None => {
            let (uid, gid) = *OWN.get_or_init(|| (geteuid().as_raw(), getegid().as_raw()));
            Metadata { mode, uid, gid, ..Metadata::default() }
        }
    }
}

/// Brings an open file or directory to `base` with `want` over it, and answers what it looked like before.
///
/// # Errors
/// When a name is unknown or the kernel refuses.
pub fn apply(
    fd: impl AsFd,
    path: &str,
    base: &Metadata,
    want: &Want,
    accounts: &Known,
) -> Result<FileStat, Trouble> {
    let failed = |verb: &'static str| move |e: nix::errno::Errno| Trouble::cannot(verb, path, e);
    let fd = fd.as_fd();
    let number = |who: &Option<String>, group: bool, old: u32| match who {
        None => Ok(old),
        Some(who) => {
            let id = if group { accounts.gid(who) } else { accounts.uid(who) };
            let word = if group { "group" } else { "user" };
            id.ok_or_else(|| Trouble::NotKept(format!("{word} {who} does not exist")))
        }
    };
    let uid = number(&want.owner, false, base.uid)?;
    let gid = number(&want.group, true, base.gid)?;
    let mode = want.mode.unwrap_or(base.mode);
    let stat = nix::sys::stat::fstat(fd).map_err(failed("stat"))?;
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed("change owner of"))?;
    }
    // After the owner, since chown(2) clears the set-user-id bit.
    if stat.st_mode & 0o7777 != mode || (stat.st_uid, stat.st_gid) != (uid, gid) {
        fchmod(fd, Mode::from_bits_truncate(mode)).map_err(failed("change mode of"))?;
    }
    let io = |verb: &'static str| move |e: std::io::Error| Trouble::io(verb, path, &e);
    let mut wanted: Vec<&(String, Vec<u8>)> = want.xattrs.iter().collect();
    if !want.exact {
        wanted.extend(base.xattrs.iter().filter(|(n, _)| !want.xattrs.iter().any(|(w, _)| w == n)));
    }
    for (name, value) in &wanted {
        if sys::xattr(fd, name).map_err(io("read extended attributes of"))?.as_ref() != Some(value) {
            sys::set_xattr(fd, name, value).map_err(io("set extended attributes of"))?;
        }
    }
    if want.exact {
        let names = sys::xattr_names(fd).map_err(io("read extended attributes of"))?;
        for name in names.iter().filter(|n| !wanted.iter().any(|(w, _)| w == *n)) {
            sys::remove_xattr(fd, name).map_err(io("remove extended attributes of"))?;
        }
    }
    if let Some((seconds, nanoseconds)) = want.mtime {
        let times = TimeSpec::new(seconds, nanoseconds);
        nix::sys::stat::futimens(fd, &TimeSpec::UTIME_OMIT, &times).map_err(failed("set time of"))?;
    }
    Ok(stat)
}
