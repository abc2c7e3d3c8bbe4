//! Where a path leads: the directory that holds its last name, opened so that nobody can lead us astray.
//!
//! A path is first made canonical, component by component, through links that root owns only (on Debian /bin, /lib
//! and /var/run are such links); the canonical path is then opened below the root in one openat2(2) that refuses
//! any link. A link that appears between the two makes the open fail, not follow.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use crate::bytes;

/// Links that are followed before a path counts as a loop, as in the kernel.
const MAX_LINKS: usize = 40;
/// Directories that are kept open at a time.
const MAX_OPEN: usize = 512;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Its canonical path below the root; `/` for the root itself.
    pub path: String,
    identity: OnceCell<(u64, u64)>,
}

impl Dir {
    fn new(fd: OwnedFd, path: String) -> Dir {
        Dir { fd, path, identity: OnceCell::new() }
    }

    /// Device and inode, looked at once.
    ///
    /// # Errors
    /// Whatever fstat(2) reports.
    pub fn identity(&self) -> Result<(u64, u64), Errno> {
        if let Some(identity) = self.identity.get() {
            return Ok(*identity);
        }
        let stat = fstat(&self.fd)?;
        Ok(*self.identity.get_or_init(|| (stat.st_dev, stat.st_ino)))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An entry of a directory, which may or may not exist.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory.
    pub dir: Rc<Dir>,
    /// The entry's name, as [`crate::bytes`] has it.
    pub name: String,
}

impl Place {
    /// What is there, without following a link.
    ///
    /// # Errors
    /// Whatever fstatat(2) reports, except that nothing is there.
    pub fn stat(&self) -> Result<Option<FileStat>, Errno> {
        match fstatat(&*self.dir, &*self.os(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Its name, for a system call.
    pub fn os(&self) -> Cow<'_, OsStr> {
        bytes::name_of(&self.name)
    }

    /// Its canonical path.
    pub fn path(&self) -> String {
        join(&self.dir.path, &self.name)
    }

    /// Whether a file system, or a part of this very one, is mounted there.
    ///
    /// # Errors
    /// Whatever openat2(2) reports, except that nothing is there.
    pub fn is_mount(&self) -> Result<bool, Errno> {
        // openat2(2): a mount point in the last place counts as crossed, and bind mounts of the same device do too.
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_NO_XDEV);
        match openat2(&*self.dir, &*self.os(), how) {
            Ok(_) | Err(Errno::ENOENT) => Ok(false),
            Err(Errno::EXDEV) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// These directories, outermost first and canonical, are missing.
    #[error("directory {} is missing", .0.first().map_or("", String::as_str))]
    Missing(Vec<String>),
    /// Something on the way is no directory.
    #[error("{0} is not a directory")]
    NotDirectory(String),
    /// A link on the way that somebody else could change.
    #[error("{path} is a link of user {uid}; only links that root owns are followed")]
    ForeignLink {
        /// The link.
        path: String,
        /// Its owner.
        uid: u32,
    },
    /// Links in a circle.
    #[error("{0} is a loop of links")]
    Loop(String),
    /// What lies there is none of what was meant.
    #[error("a file system is mounted at {0}")]
    Mounted(String),
    /// Anything else.
    #[error("cannot open {path}: {errno}")]
    Open {
        /// What.
        path: String,
        /// Why not.
        errno: Errno,
    },
}

/// `directory/name`.
pub fn join(directory: &str, name: &str) -> String {
    if directory == "/" { format!("/{name}") } else { format!("{directory}/{name}") }
}

/// A path's directory and last name; the root has none.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (directory, name) = path.rsplit_once('/')?;
    if name.is_empty() {
        return None;
    }
    Some((if directory.is_empty() { "/" } else { directory }, name))
}

/// Whether `path` is `directory` or lies below it.
pub fn is_below(path: &str, directory: &str) -> bool {
    directory == "/" || path == directory || path.strip_prefix(directory).is_some_and(|r| r.starts_with('/'))
}

/// A link that a path leads through: the canonical path of the link itself.
pub type Link = String;

/// A canonical path, the links that led to it, and what of it is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// The part that exists.
    pub path: String,
    /// Names that do not.
    pub missing: Vec<String>,
    /// Links on the way.
    pub links: Vec<Link>,
}

/// Opens directories below a root and remembers them for the length of a batch.
#[derive(Debug)]
pub struct Places {
    root: OwnedFd,
    open: HashMap<String, Rc<Dir>>,
    /// Directories that were missing when they were last looked for, with all that was missing on the way.
    missing: HashMap<String, Vec<String>>,
    last: Option<(String, Rc<Dir>)>,
}

fn relative(path: &str) -> Cow<'_, OsStr> {
    bytes::name_of(match path.trim_start_matches('/') {
        "" => ".",
        rest => rest,
    })
}

impl Places {
    /// Paths are below this directory.
    pub fn new(root: OwnedFd) -> Places {
        Places { root, open: HashMap::new(), missing: HashMap::new(), last: None }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Forgets what is open: between batches a directory may have been moved away.
    pub fn forget(&mut self) {
        self.open.clear();
        self.missing.clear();
        self.last = None;
    }

    /// Looks again for what was missing: before something is made, since somebody else may have made it.
    pub fn forget_missing(&mut self) {
        self.missing.clear();
    }

    fn open_canonical(&self, path: &str) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
        openat2(&self.root, &*relative(path), how)
    }

    /// Makes the path of a directory canonical, as far as it exists; a link in the last place is followed too.
    ///
    /// # Errors
    /// When a link may not be followed, or something on the way is no directory.
    pub fn walk(&self, path: &str) -> Result<Walk, PlaceError> {
        self.follow(path, false)
    }

    /// The same for a path whose last name may be anything: something is to be mounted over it.
    ///
    /// # Errors
    /// As [`Places::walk`].
    fn walk_to_point(&self, path: &str) -> Result<Walk, PlaceError> {
        self.follow(path, true)
    }

    /// The canonical path of a mount point, which need not be there. What `is_mounted` at its place is not asked for
    /// anything: its disk may be dead.
    ///
    /// # Errors
    /// As [`Places::walk`].
    pub fn point(&self, path: &str, is_mounted: impl Fn(&str) -> bool) -> Result<String, PlaceError> {
        // What the kernel lists is canonical.
        if is_mounted(path) {
            return Ok(path.to_owned());
        }
        if let Some((directory, name)) = split(path) {
            let above = self.walk(directory)?;
            let here = join(&above.path, name);
            if above.missing.is_empty() && is_mounted(&here) {
                return Ok(here);
            }
        }
        let walk = self.walk_to_point(path)?;
        Ok(walk.missing.iter().fold(walk.path, |at, name| join(&at, name)))
    }

    fn follow(&self, path: &str, anything: bool) -> Result<Walk, PlaceError> {
        let mut out = Walk { path: "/".to_owned(), ..Walk::default() };
        let mut todo: VecDeque<String> =
            path.split('/').filter(|c| !c.is_empty() && *c != ".").map(str::to_owned).collect();
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                out.path = split(&out.path).map_or("/", |(d, _)| d).to_owned();
                continue;
            }
            let here = join(&out.path, &name);
            let failed = |errno| PlaceError::Open { path: here.clone(), errno };
            let dir = self.open_canonical(&out.path).map_err(failed)?;
            let stat = match fstatat(&dir, &*bytes::name_of(&name), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => {
                    out.missing.push(name);
                    out.missing.extend(todo);
                    if out.missing.iter().any(|n| n == "..") {
                        return Err(failed(Errno::ENOENT));
                    }
                    return Ok(out);
                }
                Err(errno) => return Err(failed(errno)),
            };
            match stat.st_mode & libc::S_IFMT {
                libc::S_IFDIR => out.path = here,
                libc::S_IFLNK => {
                    if stat.st_uid != 0 {
                        return Err(PlaceError::ForeignLink { path: here, uid: stat.st_uid });
                    }
                    if out.links.len() >= MAX_LINKS {
                        return Err(PlaceError::Loop(path.to_owned()));
                    }
                    let target = readlinkat(&dir, &*bytes::name_of(&name)).map_err(failed)?;
                    let target = bytes::text_of(target.as_bytes());
                    out.links.push(here);
                    if target.starts_with('/') {
                        out.path = "/".to_owned();
                    }
                    for part in target.split('/').rev().filter(|c| !c.is_empty() && *c != ".") {
                        todo.push_front(part.to_owned());
                    }
                }
                _ if anything && todo.is_empty() => out.path = here,
                _ => return Err(PlaceError::NotDirectory(here)),
            }
        }
        Ok(out)
    }

    /// Opens a directory; links that root owns are followed, in the last place too.
    ///
    /// # Errors
    /// When it does not exist, is no directory, or lies behind a link that may not be followed.
    pub fn directory(&mut self, path: &str) -> Result<Rc<Dir>, PlaceError> {
        if let Some(missing) = self.missing.get(path) {
            return Err(PlaceError::Missing(missing.clone()));
        }
        if let Some((last, dir)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(dir));
        }
        let dir = match self.open.get(path) {
            Some(dir) => Rc::clone(dir),
            None => {
                if self.open.len() >= MAX_OPEN {
                    self.open.clear();
                }
                let dir = match self.open_directory(path) {
                    Ok(dir) => Rc::new(dir),
                    Err(PlaceError::Missing(missing)) => {
                        self.missing.insert(path.to_owned(), missing.clone());
                        return Err(PlaceError::Missing(missing));
                    }
                    Err(e) => return Err(e),
                };
                self.open.insert(path.to_owned(), Rc::clone(&dir));
                dir
            }
        };
        self.last = Some((path.to_owned(), Rc::clone(&dir)));
        Ok(dir)
    }

    fn open_directory(&self, path: &str) -> Result<Dir, PlaceError> {
        if let Ok(fd) = self.open_canonical(path) {
            return Ok(Dir::new(fd, path.to_owned()));
        }
        let walk = self.walk(path)?;
        if !walk.missing.is_empty() {
            let mut at = walk.path;
            let missing = walk.missing.iter().map(|name| {
                at = join(&at, name);
                at.clone()
            });
            return Err(PlaceError::Missing(missing.collect()));
        }
        match self.open_canonical(&walk.path) {
            Ok(fd) => Ok(Dir::new(fd, walk.path)),
            Err(errno) => Err(PlaceError::Open { path: path.to_owned(), errno }),
        }
    }

    /// The entry that a path names.
    ///
    /// # Errors
    /// As [`Places::directory`], for the directory that holds it.
    pub fn entry(&mut self, path: &str) -> Result<Place, PlaceError> {
        let Some((directory, name)) = split(path) else {
            let dir = self.directory("/")?;
            return Ok(Place { dir, name: ".".to_owned() });
        };
        let dir = self.directory(directory)?;
        Ok(Place { dir, name: name.to_owned() })
    }

    /// The entry that a path below `top` names, if no mount lies between the two.
    ///
    /// # Errors
    /// [`PlaceError::Mounted`] if one does, and at the path itself; else as [`Places::directory`]. Links below `top` are
    /// not followed.
    pub fn entry_on_mount(&mut self, top: &str, path: &str) -> Result<Place, PlaceError> {
        let (directory, name) = split(path).unwrap_or(("/", "."));
        let from = self.directory(top)?;
        let below = directory.strip_prefix(top).unwrap_or_default();
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(
                ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        let failed = |path: &str, errno| match errno {
            Errno::EXDEV => PlaceError::Mounted(path.to_owned()),
            Errno::ENOENT => PlaceError::Missing(vec![path.to_owned()]),
            Errno::ENOTDIR | Errno::ELOOP => PlaceError::NotDirectory(path.to_owned()),
            errno => PlaceError::Open { path: path.to_owned(), errno },
        };
        let fd = openat2(&*from, &*relative(below), how).map_err(|e| failed(directory, e))?;
        let path_of_it = match below.trim_start_matches('/') {
            "" => from.path.clone(),
            below => join(&from.path, below),
        };
        let dir = Rc::new(Dir::new(fd, path_of_it));
        let place = Place { dir, name: name.to_owned() };
        match place.is_mount() {
            Ok(false) => Ok(place),
            Ok(true) => Err(PlaceError::Mounted(path.to_owned())),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// The innermost directory on the way to a path that exists.
    ///
    /// # Errors
    /// As [`Places::directory`].
    pub fn nearest(&mut self, path: &str) -> Result<Rc<Dir>, PlaceError> {
        match self.directory(path) {
            Err(PlaceError::Missing(missing)) => {
                let first = missing.first().and_then(|m| split(m)).map_or("/", |(d, _)| d).to_owned();
                self.directory(&first)
            }
            other => other,
        }
    }
}
