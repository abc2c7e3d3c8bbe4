//! Things at paths: what is there, and putting something else there. Every operation works on a name in an open
//! directory; nothing here resolves a path with a slash in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use sha2::{Digest as _, Sha256};
use units::kind::Content;

use super::attributes;
use super::keep;
use super::links;
use super::op::{Put, Trouble, Want};
use super::place::{Place, PlaceError, split};
use super::staging::Areas;
use super::unsynced::Unsynced;
use super::world::World;
use crate::bytes;
use crate::store::disk::packed::Stored;
use crate::store::{Digest, Metadata, Prior};
use crate::sys;

/// How a regular file is opened for reading: no pipe is waited for, no terminal taken.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);
/// How something is looked at: no link is followed, and nothing is told of it, as a device or a pipe would be.
pub const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What stands at a place.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or directories on the way are missing.
    Nothing,
    /// A regular file, opened.
    File(File, FileStat),
    /// A directory.
    Directory(FileStat),
    /// A symbolic link.
    Link(FileStat),
    /// A device, a pipe or a socket.
    Special(&'static str),
}

/// Looks at a place, and opens it if it is a regular file.
///
/// # Errors
/// When it cannot be looked at.
pub fn find(place: &Place) -> Result<Found, Trouble> {
    let failed = |verb: &'static str| move |e: Errno| Trouble::cannot(verb, &place.path(), e);
    let handle = match openat(&*place.dir, &*place.os(), LOOK, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::ENOENT) => return Ok(Found::Nothing),
        Err(e) => return Err(Trouble::cannot("open", &place.path(), e)),
    };
    let stat = fstat(&handle).map_err(failed("stat"))?;
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {
            // What was looked at, not what the name leads to by now.
            let same = format!("/proc/self/fd/{}", handle.as_raw_fd());
            let fd = nix::fcntl::open(same.as_str(), READ, Mode::empty()).map_err(failed("open"))?;
            Found::File(File::from(fd), stat)
        }
        libc::S_IFDIR => Found::Directory(stat),
        libc::S_IFLNK => Found::Link(stat),
        libc::S_IFIFO => Found::Special("pipe"),
        libc::S_IFSOCK => Found::Special("socket"),
        _ => Found::Special("device"),
    })
}

/// Opens a directory that stands at a place.
///
/// # Errors
/// When it is none.
pub fn open_directory(place: &Place) -> Result<OwnedFd, Trouble> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(&*place.dir, &*place.os(), flags, Mode::empty())
        .map_err(|e| Trouble::cannot("open", &place.path(), e))
}

/// The entry that an operation is about.
fn place_of(world: &mut World, path: &str, put: &Put) -> Result<Place, PlaceError> {
    match put {
        Put::Purged { top } => world.places.entry_on_mount(top, path),
        _ => world.places.entry(path),
    }
}

/// What a thing at a path is before `put` is carried out; `with_content` also saves the content of a file in the store.
///
/// # Errors
/// When it cannot be read or saved.
pub fn prior(world: &mut World, path: &str, put: &Put, with_content: bool) -> Result<Prior, Trouble> {
    let place = match place_of(world, path, put) {
        Ok(place) => place,
        Err(PlaceError::Missing(_) | PlaceError::NotDirectory(_)) => return Ok(Prior::Absent),
        Err(e) => return Err(e.into()),
    };
    Ok(match find(&place)? {
        Found::Nothing => Prior::Absent,
        Found::Special(_) => Prior::Special,
        Found::Directory(stat) => Prior::Directory(attributes::read(&stat, open_directory(&place)?)?),
        Found::Link(stat) => Prior::Symlink {
            target: link_target(&place)?,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
        },
        Found::File(mut file, stat) => {
            let metadata = attributes::read(&stat, &file)?;
            match (&world.store, with_content) {
                (Some(_), true) => {
                    let Some(saved) = keep::keep(world, path, put, &mut file)? else {
                        let size = u64::try_from(stat.st_size).unwrap_or_default();
                        return Ok(Prior::Large { size, metadata });
                    };
                    let (digest, size) = (saved.digest, saved.size);
                    let others = match stat.st_nlink {
                        0 | 1 => Vec::new(),
                        _ => links::others(world, &place.dir.path, &place.name, &stat),
                    };
                    if others.is_empty() {
                        Prior::File { digest, size, metadata }
                    } else {
                        Prior::Linked { digest, size, metadata, others }
                    }
                }
                _ => Prior::Attributes(metadata),
            }
        }
    })
}

/// Whether `put` takes away what is at a path, other than attributes and an empty directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn takes_away(world: &mut World, path: &str, put: &Put, content_changes: bool) -> Result<bool, Trouble> {
    let place = match place_of(world, path, put) {
        Ok(place) => place,
        Err(PlaceError::Missing(_) | PlaceError::NotDirectory(_)) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    Ok(match (find(&place)?, put) {
        (Found::Nothing, _) => false,
        (Found::Directory(_), _) => matches!(put, Put::Purged { .. }),
        (Found::File(..), Put::File { .. }) => content_changes,
        (Found::Link(_), Put::Symlink { target, .. }) => link_target(&place)? != *target,
        (Found::File(..) | Found::Link(_) | Found::Special(_), _) => true,
    })
}

/// What a link points to.
///
/// # Errors
/// When it is no link any more.
pub fn link_target(place: &Place) -> Result<Vec<u8>, Trouble> {
    use std::os::unix::ffi::OsStringExt;
    readlinkat(&*place.dir, &*place.os())
        .map(OsStringExt::into_vec)
        .map_err(|e| Trouble::cannot("read link", &place.path(), e))
}

/// Largest content that is read and written rather than copied by the kernel, which may share blocks of large ones.
const SMALL: u64 = 64 << 10;

/// Writes a new content into a staging area, with at most these permissions: nobody else comes in there. Answers its name
/// there, the file, and whether what was written is known to be just that content: large ones are copied unseen.
///
/// # Errors
/// When the content is not in the store, or the disk is full or read-only.
pub fn stage(
    world: &mut World,
    areas: &mut Areas,
    area: usize,
    content: &Content,
    path: &str,
    mode: u32,
) -> Result<(String, File, bool), Trouble> {
    let Some(mut source) = world.content(&content.digest) else {
        let why = match world.store.as_ref().map(|store| store.lack(&content.digest)) {
            None => "the store cannot be opened".to_owned(),
            Some(lack) => format!("it {} in the store", lack.unwrap_or("is missing")),
        };
        return Err(Trouble::NotKept(format!("no content for {path}: {why}")));
    };
    let name = areas.name();
    let Some(area) = areas.get(area) else {
        return Err(Trouble::NotKept(format!("no staging directory for {path}")));
    };
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&area.fd, name.as_str(), flags, Mode::from_bits_truncate(mode & 0o777))
        .map_err(|e| Trouble::cannot("stage", path, e))?;
    let mut file = File::from(fd);
    match copy(world, &mut source, &mut file, content.size) {
        Ok((size, digest)) if size == content.size && digest.is_none_or(|d| d == content.digest) => {
            Ok((name, file, digest.is_some()))
        }
        Ok(_) => {
            let _ = unlinkat(&area.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Err(Trouble::NotKept(format!("content of {path} in the store is damaged")))
        }
        Err(e) => {
            let _ = unlinkat(&area.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Err(Trouble::io("write", path, &e))
        }
    }
}

/// Copies a content that is meant to have this length; answers the length that it has, and the digest of a small one.
fn copy(
    world: &mut World,
    source: &mut Stored,
    to: &mut File,
    size: u64,
) -> std::io::Result<(u64, Option<Digest>)> {
    let length = match (usize::try_from(size), &mut *source) {
        (Ok(length), _) if size <= SMALL => length,
        (_, Stored::File(file)) => return Ok((in_parts(world, file, to)?, None)),
        (_, bytes) => return Ok((std::io::copy(bytes, to)?, None)),
    };
    // A byte more than there should be: one that is given less has come to the end.
    let mut buffer = vec![0; length + 1];
    let mut filled = 0;
    while filled <= length {
        match source.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        // read(2) of a regular file gives less than asked only at its end.
        if filled == length {
            break;
        }
    }
    let bytes = buffer.get(..filled).unwrap_or_default();
    to.write_all(bytes)?;
    Ok((filled as u64, Some(Sha256::digest(bytes).into())))
}

/// Copies a file in parts, with a sign of life at each.
fn in_parts(world: &mut World, file: &mut File, to: &mut File) -> std::io::Result<u64> {
    const PART: u64 = 64 << 20;
    let mut length = 0;
    loop {
        let count = std::io::copy(&mut file.take(PART), to)?;
        length += count;
        if count < PART {
            return Ok(length);
        }
        world.alive();
    }
}

/// What a new file at a path starts from: the attributes of what it replaces, else the defaults.
///
/// # Errors
/// When what is there cannot be looked at.
pub fn base(world: &mut World, path: &str) -> Result<Metadata, Trouble> {
    let old = match world.places.entry(path) {
        Ok(place) => match find(&place)? {
            Found::File(old, stat) => Some(attributes::read(&stat, &old)?),
            _ => None,
        },
        Err(_) => None,
    };
    Ok(attributes::base(old.as_ref(), 0o644))
}

/// Gives a staged file the attributes it will have: those declared, else those of what it replaces, else the
/// defaults.
///
/// # Errors
/// When a name is unknown or the kernel refuses.
pub fn dress(world: &mut World, file: &File, path: &str, want: &Want) -> Result<(), Trouble> {
    let base = base(world, path)?;
    attributes::apply(file, path, &base, want, &world.accounts).map(drop)
}

/// What an operation changed, so that it can be made durable.
#[derive(Debug, Default)]
pub struct Touched {
    /// Directories with new, renamed or removed entries; files and directories whose attributes were changed in place.
    pub unsynced: Unsynced,
    /// Directories on the way that had to be made: canonical paths.
    pub made: Vec<String>,
    /// What was removed and given up since, so that who makes it again owns it again.
    pub disowned: BTreeSet<String>,
    /// What is worth saying although it worked.
    pub notes: Vec<String>,
    /// Whether something was left in place on purpose.
    pub left: bool,
    /// What was left so, each with the unit that it was to go with.
    pub stayed: Vec<(String, String)>,
    /// Why an entry of a user database was.
    pub stays: Option<String>,
}

/// Makes the missing directories on the way to a path: root, root, 0755.
///
/// # Errors
/// When one cannot be made.
pub fn make_parents(world: &mut World, path: &str, touched: &mut Touched) -> Result<Place, Trouble> {
    if let Ok(place) = world.places.entry(path) {
        return Ok(place);
    }
    // Somebody may have made it since it was looked for.
    world.places.forget_missing();
    match world.places.entry(path) {
        Ok(place) => return Ok(place),
        Err(PlaceError::Missing(dirs)) => {
            world.places.forget_missing();
            for dir in dirs {
                let place = world.places.entry(&dir)?;
                let made = make_directory(&place, &attributes::base(None, 0o755), &Want::default(), world)?;
                touched.unsynced.file(made);
                touched.unsynced.directory(&place.dir);
                touched.made.push(dir);
            }
        }
        Err(e) => return Err(e.into()),
    }
    Ok(world.places.entry(path)?)
}

/// How a directory is opened where no link may lead.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn make_directory(place: &Place, base: &Metadata, want: &Want, world: &World) -> Result<OwnedFd, Trouble> {
    if let Some(begun) = world.begun.get(&place.path())
        && let Ok(fd) = openat(&begun.area, begun.name.as_str(), DIRECTORY, Mode::empty())
    {
        attributes::apply(&fd, &place.path(), base, want, &world.accounts)?;
        // A loss of power must not leave it in its place with the mode that it had in staging.
        nix::unistd::fsync(&fd).map_err(|e| Trouble::cannot("sync", &place.path(), e))?;
        let (name, flags) = (begun.name.as_str(), RenameFlags::RENAME_NOREPLACE);
        let moved = match renameat2(&begun.area, name, &*place.dir, &*place.os(), flags) {
            // rename(2): not every file system knows the flag. Without it too only an empty directory would be replaced.
            Err(Errno::EINVAL) => renameat(&begun.area, name, &*place.dir, &*place.os()),
            other => other,
        };
        return moved.map(|()| fd).map_err(|e| Trouble::cannot("make directory", &place.path(), e));
    }
    // What was begun may have been used, and be gone again.
    mkdirat(&*place.dir, &*place.os(), Mode::from_bits_truncate(0o700))
        .map_err(|e| Trouble::cannot("make directory", &place.path(), e))?;
    let fd = open_directory(place)?;
    if let Err(e) = attributes::apply(&fd, &place.path(), base, want, &world.accounts) {
        let _ = unlinkat(&*place.dir, &*place.os(), UnlinkatFlags::RemoveDir);
        return Err(e);
    }
    Ok(fd)
}

/// Carries one [`Put`] out.
///
/// # Errors
/// When something stands in the way or the kernel refuses; what was there before is there still.
pub fn put(
    world: &mut World,
    areas: &mut Areas,
    path: &str,
    put: &Put,
    staged: Option<&(usize, String)>,
    touched: &mut Touched,
) -> Result<(), Trouble> {
    match put {
        Put::Absent | Put::Purged { .. } => remove(world, path, put, touched),
        Put::Directory { want, over_link } => put_directory(world, path, want, *over_link, touched),
        Put::File { content: None, want, .. } => {
            let place = world.places.entry(path)?;
            match find(&place)? {
                Found::File(file, stat) => {
                    if links::may_be_anybodys(&place, &stat).map_err(|e| Trouble::cannot("stat", path, e))? {
                        let text = "others than root may write its directory, and it has other names";
                        let way_out = "put a file of its own there";
                        return Err(Trouble::NotKept(format!("{path} is not changed: {text}; {way_out}")));
                    }
                    let old = attributes::read(&stat, &file)?;
                    attributes::apply(&file, path, &old, want, &world.accounts)?;
                    touched.unsynced.file(file.into());
                    Ok(())
                }
                Found::Nothing => {
                    Err(Trouble::NotKept(format!("{path} is missing, and no content is declared")))
                }
                other => Err(in_the_way(path, &other)),
            }
        }
        Put::File { content: Some(content), want, others } => {
            let Some((area, name)) = staged else {
                return Err(Trouble::NotKept(format!("content of {path} was not staged")));
            };
            let place = make_parents(world, path, touched)?;
            // Most often there is nothing, and one call both sees that and puts the file there.
            if others.is_empty() && appear(areas, *area, name, &place) {
                touched.unsynced.directory(&place.dir);
                return Ok(());
            }
            match find(&place)? {
                Found::Nothing | Found::File(..) => {}
                // What is open through it leads elsewhere from now on.
                Found::Link(_) => world.places.forget(),
                other => return Err(in_the_way(path, &other)),
            }
            if let Some(link) = links::again(world, areas, *area, others, content, want) {
                rename_in(areas, *area, &link, &place)?;
                // What was staged is not needed. The link stays behind where the place is that file already.
                if let Some(area) = areas.get(*area) {
                    for name in [name, &link] {
                        let _ = unlinkat(&area.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
                    }
                }
                touched.unsynced.directory(&place.dir);
                return Ok(());
            }
            rename_in(areas, *area, name, &place)?;
            touched.unsynced.directory(&place.dir);
            Ok(())
        }
        Put::Symlink { target, owner, group, mtime } => {
            use std::os::unix::ffi::OsStrExt;
            let Some((area, name)) = staged else {
                return Err(Trouble::NotKept(format!("{path} was not staged")));
            };
            let failed = |verb: &'static str| move |e: Errno| Trouble::cannot(verb, path, e);
            let place = make_parents(world, path, touched)?;
            match find(&place)? {
                Found::Nothing | Found::File(..) | Found::Link(_) => {}
                other => return Err(in_the_way(path, &other)),
            }
            let old = place.stat().map_err(failed("stat"))?;
            let old = old.filter(|s| s.st_mode & libc::S_IFMT == libc::S_IFLNK);
            let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let (uid, gid) = old.map_or(own, |s| (s.st_uid, s.st_gid));
            let id = |who: &Option<String>, is_group: bool, old: u32| match who {
                None => Ok(old),
                Some(w) if is_group => world.accounts.gid(w).ok_or_else(|| no_such("group", w)),
                Some(w) => world.accounts.uid(w).ok_or_else(|| no_such("user", w)),
            };
            let (uid, gid) = (id(owner, false, uid)?, id(group, true, gid)?);
            let Some(at) = areas.get(*area) else { return Ok(()) };
            symlinkat(std::ffi::OsStr::from_bytes(target), &at.fd, name.as_str())
                .map_err(failed("make link"))?;
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let link = openat(&at.fd, name.as_str(), flags, Mode::empty()).map_err(failed("open"))?;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(&link, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(failed("change owner of"))?;
            if let Some(mtime) = mtime {
                sys::set_link_mtime(&link, *mtime).map_err(|e| Trouble::io("set time of", path, &e))?;
            }
            rename_in(areas, *area, name, &place)?;
            touched.unsynced.directory(&place.dir);
            world.places.forget();
            Ok(())
        }
    }
}

fn no_such(word: &str, who: &str) -> Trouble {
    Trouble::NotKept(format!("{word} {who} does not exist"))
}

/// Why something else cannot be put there.
pub fn in_the_way(path: &str, found: &Found) -> Trouble {
    let what = match found {
        Found::Nothing => "nothing",
        Found::File(..) => "file",
        Found::Directory(_) => "directory",
        Found::Link(_) => "symbolic link",
        Found::Special(what) => what,
    };
    Trouble::NotKept(format!("a {what} is in the way at {path}; move it away"))
}

fn rename_in(areas: &Areas, area: usize, name: &str, place: &Place) -> Result<(), Trouble> {
    let Some(area) = areas.get(area) else { return Err(Trouble::NotKept("no staging directory".to_owned())) };
    renameat(&area.fd, name, &*place.dir, &*place.os()).map_err(|e| match e {
        Errno::EBUSY if place.is_mount().unwrap_or_default() => PlaceError::Mounted(place.path()).into(),
        e => Trouble::cannot("write", &place.path(), e),
    })
}

/// Moves a staged file to a place where nothing is; false where something is, or the file system cannot say.
fn appear(areas: &Areas, area: usize, name: &str, place: &Place) -> bool {
    areas.get(area).is_some_and(|area| {
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(&area.fd, name, &*place.dir, &*place.os(), flags).is_ok()
    })
}

fn put_directory(
    world: &mut World,
    path: &str,
    want: &Want,
    over_link: bool,
    touched: &mut Touched,
) -> Result<(), Trouble> {
    let place = make_parents(world, path, touched)?;
    match find(&place)? {
        Found::Directory(stat) => {
            let fd = open_directory(&place)?;
            let old = attributes::read(&stat, &fd)?;
            attributes::apply(&fd, path, &old, want, &world.accounts)?;
            touched.unsynced.file(fd);
            return Ok(());
        }
        Found::Nothing => {}
        Found::Link(_) if over_link => {
            unlinkat(&*place.dir, &*place.os(), UnlinkatFlags::NoRemoveDir)
                .map_err(|e| Trouble::cannot("remove", path, e))?;
            world.places.forget();
        }
        other => return Err(in_the_way(path, &other)),
    }
    let base = attributes::base(None, 0o755);
    touched.unsynced.file(make_directory(&place, &base, want, world)?);
    world.places.forget_missing();
    touched.unsynced.directory(&place.dir);
    Ok(())
}

fn remove(world: &mut World, path: &str, put: &Put, touched: &mut Touched) -> Result<(), Trouble> {
    let place = match place_of(world, path, put) {
        Ok(place) => place,
        Err(PlaceError::Missing(_) | PlaceError::NotDirectory(_)) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let failed = |e| Trouble::cannot("remove", path, e);
    let Some(stat) = place.stat().map_err(failed)? else { return Ok(()) };
    let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let how = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    match unlinkat(&*place.dir, &*place.os(), how) {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EBUSY) if place.is_mount().unwrap_or_default() => {
            return Err(PlaceError::Mounted(path.to_owned()).into());
        }
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) if is_dir => {
            touched.left = true;
            touched.notes.push(format!("{path} is not empty and was left"));
            return Ok(());
        }
        Err(e) => return Err(failed(e)),
    }
    if is_dir {
        world.places.forget();
    }
    touched.unsynced.directory(&place.dir);
    Ok(())
}

/// Why a directory that nobody declares any more is left.
pub const NOT_EMPTY: &str = "it is not empty";

/// Names of a directory's entries, sorted.
///
/// # Errors
/// When it cannot be read.
pub fn entries(fd: impl AsFd, path: &str) -> Result<Vec<String>, Trouble> {
    let failed = |e: Errno| Trouble::cannot("read directory", path, e);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = nix::dir::Dir::openat(fd, ".", flags, Mode::empty()).map_err(failed)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(failed)?;
        let name = bytes::text_of(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Directories on the way to a path that are missing, outermost first.
pub fn missing_parents(world: &mut World, path: &str) -> Vec<String> {
    let Some((directory, _)) = split(path) else { return Vec::new() };
    match world.places.directory(directory) {
        Err(PlaceError::Missing(dirs)) => dirs,
        _ => Vec::new(),
    }
}
