//! Adds the watches: the worker looks paths up, PID 1 only listens (see [`crate::watch`] for the index there).
//!
//! A unit at a path is watched through the directory that holds it, by name; every directory above is watched too,
//! since a moved or replaced ancestor is another tree. One watch a directory, whatever the number of files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FileStat, Mode, fstat};
use units::UnitId;
use units::kind::Spec;

use crate::proto::{ManifestRef, Watch};
use crate::resource::hostname;
use crate::resource::place::{Dir, Link, PlaceError, join, split};
use crate::resource::tree::LOOK;
use crate::resource::world::World;
use crate::sys;

/// Which names lead where: all that matters of a directory on the way to something. What is written into other files of
/// it, as a log is, wakes nobody.
const NAMES: AddWatchFlags = AddWatchFlags::IN_MOVED_FROM
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);
/// The same with the attributes of what they lead to: of a directory in which a directory or a link is managed.
const ATTRIBUTES: AddWatchFlags = NAMES.union(AddWatchFlags::IN_ATTRIB);
/// The same with contents: of a directory in which a file is managed, and of an inode.
const CONTENTS: AddWatchFlags =
    ATTRIBUTES.union(AddWatchFlags::IN_MODIFY).union(AddWatchFlags::IN_CLOSE_WRITE);

/// Adds watches to the two instances that PID 1 shares.
#[derive(Debug)]
pub struct Watcher {
    own: Inotify,
    public: Inotify,
    /// Watched directories by canonical path, each with what it is watched for.
    directories: HashMap<String, (bool, i32, AddWatchFlags)>,
    /// The links that led to the directory that was looked at last.
    walked: Option<(String, Rc<[Link]>)>,
    full: bool,
}

/// What came of watching a unit.
#[derive(Debug, Default)]
pub struct Watched {
    /// For the index.
    pub watches: Vec<Watch>,
    /// Watches of settings, each with a descriptor that keeps its inode in memory; PID 1 has to hold that.
    pub held: Vec<(Watch, OwnedFd)>,
    /// What could not be watched.
    pub missing: Option<Watch>,
    /// A warning, once.
    pub warning: Option<String>,
}

/// The paths that a unit owns; kernel settings have none here.
pub(super) fn paths(spec: &Spec) -> Vec<Cow<'_, str>> {
    let of = |path| vec![Cow::Borrowed(path)];
    match spec {
        Spec::File(s) => of(s.path.as_str()),
        Spec::Directory(s) => of(s.path.as_str()),
        Spec::Symlink(s) => of(s.path.as_str()),
        Spec::Line(s) => of(s.path.as_str()),
        Spec::User(s) => {
            let mut out: Vec<_> = ["/etc/passwd", "/etc/group", "/etc/shadow"].map(Cow::Borrowed).into();
            if s.create_home {
                out.push(s.home_directory());
            }
            out
        }
        Spec::Group(_) => of("/etc/group"),
        Spec::Sysctl(_)
        | Spec::Hostname(_)
        | Spec::Exec(_)
        | Spec::Service(_)
        | Spec::Mount(_)
        | Spec::Module(_)
        | Spec::Target(_) => Vec::new(),
    }
}

impl Watcher {
    /// On these instances.
    pub fn new(own: OwnedFd, public: OwnedFd) -> Watcher {
        Watcher {
            own: sys::inotify(own),
            public: sys::inotify(public),
            directories: HashMap::new(),
            walked: None,
            full: false,
        }
    }

    /// Forgets which directories are watched: between batches one may have been replaced by another.
    pub fn begin(&mut self) {
        self.directories.clear();
        self.walked = None;
    }

    /// Watches what a unit owns.
    pub fn watch(&mut self, world: &mut World, manifest: ManifestRef, unit: UnitId, spec: &Spec) -> Watched {
        let mut out = Watched::default();
        match spec {
            Spec::Sysctl(s) => return self.setting(world, &s.key.clone(), (manifest, unit)),
            Spec::Hostname(_) => return self.setting(world, hostname::KEY, (manifest, unit)),
            _ => {}
        }
        let mask = match spec {
            Spec::Directory(_) | Spec::Symlink(_) => ATTRIBUTES,
            _ => CONTENTS,
        };
        for path in paths(spec) {
            if let Err(e) = self.path(world, &path, mask, (manifest, unit), &mut out.watches) {
                self.failed(e, &path, (manifest, unit), &mut out);
            }
        }
        if let Spec::Directory(directory) = spec
            && directory.purge
            && let Ok(dir) = world.places.directory(&directory.path)
        {
            match self.directory(world, &dir, NAMES, &mut out.watches) {
                Ok((public, wd)) => {
                    out.watches.push(Watch::Entry { wd, public, name: String::new(), manifest, unit });
                }
                Err(e) => self.failed(e, &directory.path, (manifest, unit), &mut out),
            }
        }
        out
    }

    /// The unit is told of as not watched; the log hears once what helps.
    fn failed(&mut self, errno: Errno, path: &str, owner: (ManifestRef, UnitId), out: &mut Watched) {
        let why = match errno {
            Errno::ENOSPC => "fs.inotify.max_user_watches is used up".to_owned(),
            _ => crate::resource::op::words(errno),
        };
        if errno != Errno::ENOSPC || !self.full {
            out.warning = Some(format!(
                "cannot watch {path}: {why}; drift there is not seen until the next apply, unless that is mended"
            ));
        }
        self.full |= errno == Errno::ENOSPC;
        let (manifest, unit) = owner;
        out.missing = Some(Watch::Missing { manifest, unit, why });
    }

    fn path(
        &mut self,
        world: &mut World,
        path: &str,
        mask: AddWatchFlags,
        owner: (ManifestRef, UnitId),
        out: &mut Vec<Watch>,
    ) -> Result<(), Errno> {
        let Some((directory, name)) = split(path) else { return Ok(()) };
        let entry = |(public, wd): (bool, i32), name: &str| Watch::Entry {
            wd,
            public,
            name: name.to_owned(),
            manifest: owner.0,
            unit: owner.1,
        };
        match world.places.directory(directory) {
            Ok(dir) => {
                if dir.path != directory {
                    self.links(world, directory, owner, out)?;
                }
                let at = self.directory(world, &dir, mask, out)?;
                out.push(entry(at, name));
                // A write through another name of the same inode makes no event in this directory.
                let linked = |s: &FileStat| s.st_mode & libc::S_IFMT == libc::S_IFREG && s.st_nlink > 1;
                if let Ok(place) = world.places.entry(path)
                    && place.stat().ok().flatten().is_some_and(|s| linked(&s))
                    && let Ok(file) = openat(&*place.dir, &*place.os(), LOOK, Mode::empty())
                    && fstat(&file).is_ok_and(|s| linked(&s))
                {
                    let wd = self.add(false, &file, CONTENTS)?;
                    out.push(Watch::Inode { wd, public: false, manifest: owner.0, unit: owner.1 });
                }
            }
            Err(PlaceError::Missing(missing)) => {
                self.links(world, directory, owner, out)?;
                if let Some((above, name)) = missing.first().and_then(|m| split(m))
                    && let Ok(dir) = world.places.directory(above)
                {
                    let at = self.directory(world, &dir, NAMES, out)?;
                    out.push(entry(at, name));
                }
            }
            Err(PlaceError::NotDirectory(what) | PlaceError::ForeignLink { path: what, .. }) => {
                if let Some((above, name)) = split(&what)
                    && let Ok(dir) = world.places.directory(above)
                {
                    // Who owns a link may be what keeps it from being followed.
                    let at = self.directory(world, &dir, ATTRIBUTES, out)?;
                    out.push(entry(at, name));
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Links on the way: replaced by another, they lead elsewhere.
    fn links(
        &mut self,
        world: &mut World,
        directory: &str,
        owner: (ManifestRef, UnitId),
        out: &mut Vec<Watch>,
    ) -> Result<(), Errno> {
        let links = match &self.walked {
            Some((walked, links)) if walked == directory => Rc::clone(links),
            _ => {
                let Ok(walk) = world.places.walk(directory) else { return Ok(()) };
                let links = Rc::from(walk.links);
                self.walked = Some((directory.to_owned(), Rc::clone(&links)));
                links
            }
        };
        for link in &*links {
            let Some((above, name)) = split(link) else { continue };
            if let Ok(dir) = world.places.directory(above) {
                let (public, wd) = self.directory(world, &dir, ATTRIBUTES, out)?;
                let name = name.to_owned();
                out.push(Watch::Entry { wd, public, name, manifest: owner.0, unit: owner.1 });
            }
        }
        Ok(())
    }

    /// Watches a directory for something, and those above it for their names.
    fn directory(
        &mut self,
        world: &mut World,
        dir: &Rc<Dir>,
        mask: AddWatchFlags,
        out: &mut Vec<Watch>,
    ) -> Result<(bool, i32), Errno> {
        if let Some((public, wd, watched)) = self.directories.get(&dir.path).copied() {
            if !watched.contains(mask) {
                self.add(public, &**dir, mask)?;
                self.directories.insert(dir.path.clone(), (public, wd, watched | mask));
            }
            return Ok((public, wd));
        }
        let mut chain = vec![Rc::clone(dir)];
        let mut parent = None;
        while let Some((above, _)) = chain.last().and_then(|d| split(&d.path)).map(|(a, n)| (a.to_owned(), n))
        {
            if let Some((public, wd, _)) = self.directories.get(&above) {
                parent = Some((*public, *wd));
                break;
            }
            let Ok(above) = world.places.directory(&above) else { break };
            chain.push(above);
        }
        while let Some(dir) = chain.pop() {
            let public = is_open_to_others(&fstat(&*dir)?);
            let mask = if chain.is_empty() { mask } else { NAMES };
            let wd = self.add(public, &*dir, mask)?;
            let name = split(&dir.path).map_or("", |(_, n)| n).to_owned();
            out.push(Watch::Directory { wd, public, parent, name });
            self.directories.insert(dir.path.clone(), (public, wd, mask));
            parent = Some((public, wd));
        }
        parent.ok_or(Errno::ENOENT)
    }

    fn add(&self, public: bool, fd: &impl AsFd, mask: AddWatchFlags) -> Result<i32, Errno> {
        let instance = if public { &self.public } else { &self.own };
        // The descriptor, not the path again: it may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        // Somebody else may have more of it watched.
        instance
            .add_watch(path.as_str(), mask | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD))
            .map(|wd| wd.as_raw())
    }

    /// A kernel setting: the inode itself, with a descriptor that keeps it in memory.
    fn setting(&mut self, world: &World, key: &str, owner: (ManifestRef, UnitId)) -> Watched {
        let mut out = Watched::default();
        let path = world.setup.proc_sys.join(key);
        let opened = nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let added = opened.and_then(|fd| self.add(false, &fd, CONTENTS).map(|wd| (fd, wd)));
        match added {
            Ok((fd, wd)) => {
                let watch = Watch::Inode { wd, public: false, manifest: owner.0, unit: owner.1 };
                out.held.push((watch, fd));
            }
            Err(Errno::ENOENT) => {}
            Err(e) => self.failed(e, &join("/proc/sys", key), owner, &mut out),
        }
        out
    }
}

/// Whether others than root may write into a directory: what they do there is heard at a bounded rate.
fn is_open_to_others(stat: &FileStat) -> bool {
    stat.st_mode & 0o002 != 0 || stat.st_uid != 0 || (stat.st_mode & 0o020 != 0 && stat.st_gid != 0)
}

/// Two instances of our own, for tests.
///
/// # Errors
/// Whatever inotify_init1(2) reports.
pub fn instances() -> nix::Result<(OwnedFd, OwnedFd)> {
    let one = || Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map(OwnedFd::from);
    Ok((one()?, one()?))
}

/// Sees to it that so many watches can be added, where the kernel lets us.
pub fn raise_limits(need: usize) {
    let want = [("max_user_watches", need.saturating_mul(2).max(65_536)), ("max_queued_events", 65_536)];
    for (name, want) in want {
        let path = format!("/proc/sys/fs/inotify/{name}");
        let is: usize =
            std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(usize::MAX);
        if is < want {
            // In a container it belongs to somebody else; then ENOSPC says so.
            let _ = std::fs::write(&path, format!("{want}\n"));
        }
    }
}
