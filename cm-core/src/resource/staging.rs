//! Staging areas: directories nobody watches, one on each mount that a batch writes to, so that a new content is
//! one event for who watches its place. A rename works inside one mount only.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::op::Trouble;
use super::place::{Dir, split};
use super::world::World;
use crate::staged::{self, sweep};
use crate::sys;

/// Name of a staging area at the root of a mount that holds neither the store nor the run-time directory.
const NAME: &str = ".holdfast.staging";

/// One staging area.
#[derive(Debug)]
pub struct Area {
    mount: u64,
    /// The directory.
    pub fd: OwnedFd,
    /// Its path, for the sandbox.
    pub path: PathBuf,
    /// Where it has to be removed again.
    remove: Option<Rc<Dir>>,
}

/// The staging areas of a batch.
#[derive(Debug, Default)]
pub struct Areas {
    list: Vec<Area>,
    /// Which area is for what lies in a directory.
    of: HashMap<String, usize>,
    names: u64,
    /// Of this process.
    mark: Option<String>,
}

impl Areas {
    /// The area for something below this directory, made if there is none yet.
    ///
    /// # Errors
    /// When it cannot be made: a read-only file system, for one.
    pub fn for_directory(&mut self, world: &mut World, dir: &Rc<Dir>) -> Result<usize, Trouble> {
        if let Some(at) = self.of.get(&dir.path) {
            return Ok(*at);
        }
        let at = self.find(world, dir)?;
        self.of.insert(dir.path.clone(), at);
        Ok(at)
    }

    fn find(&mut self, world: &mut World, dir: &Rc<Dir>) -> Result<usize, Trouble> {
        let (mount, _) = sys::mount_of(&**dir).map_err(|e| Trouble::io("stat", &dir.path, &e))?;
        if let Some(at) = self.list.iter().position(|a| a.mount == mount) {
            return Ok(at);
        }
        let candidates: [Option<PathBuf>; 2] = [
            world.store.as_ref().map(|s| s.dir().join("staging")),
            (!world.setup.run.as_os_str().is_empty()).then(|| world.setup.run.join("staging")),
        ];
        for path in candidates.into_iter().flatten() {
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            let Some(fd) = private(&path) else { continue };
            if sys::mount_of(&fd).is_ok_and(|(m, _)| m == mount) {
                self.list.push(Area { mount, fd, path, remove: None });
                return Ok(self.list.len() - 1);
            }
        }
        let top = mount_root(world, dir, mount)?;
        let failed = |e| Trouble::cannot("make a staging directory in", &top.path, e);
        let found = match mkdirat(&*top, NAME, Mode::from_bits_truncate(0o700)) {
            Ok(()) => false,
            Err(Errno::EEXIST) => true,
            Err(e) => return Err(failed(e)),
        };
        let fd = openat(
            &*top,
            NAME,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed)?;
        let fd = File::from(fd);
        let owner = nix::unistd::geteuid().as_raw();
        if !fd.metadata().is_ok_and(|m| m.uid() == owner && m.mode() & 0o077 == 0) {
            return Err(Trouble::NotKept(format!("{NAME} in {} is not ours", top.path)));
        }
        let path = world.outside(&top.path).join(NAME);
        if found {
            sweep(&fd, &path);
        }
        self.list.push(Area { mount, fd: fd.into(), path, remove: Some(top) });
        Ok(self.list.len() - 1)
    }

    /// One of them.
    pub fn get(&self, at: usize) -> Option<&Area> {
        self.list.get(at)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.list.iter()
    }

    /// A name that nobody uses.
    pub fn name(&mut self) -> String {
        self.names += 1;
        format!("{}.{}", self.mark.get_or_insert_with(staged::mark), self.names)
    }

    /// Removes the areas that were made for this batch.
    pub fn close(self) {
        for area in self.list {
            if let Some(top) = area.remove {
                let _ = unlinkat(&*top, NAME, UnlinkatFlags::RemoveDir);
            }
        }
    }
}

/// Opens a directory if nobody else can write into it.
fn private(path: &Path) -> Option<OwnedFd> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let owner = nix::unistd::geteuid().as_raw();
    (metadata.is_dir() && metadata.uid() == owner && metadata.mode() & 0o077 == 0).then(|| file.into())
}

/// The topmost directory of the mount on which `dir` lies, as far as it is below the world's root.
fn mount_root(world: &mut World, dir: &Rc<Dir>, mount: u64) -> Result<Rc<Dir>, Trouble> {
    let mut top = Rc::clone(dir);
    while let Some((above, _)) = split(&top.path).map(|(d, n)| (d.to_owned(), n.to_owned())) {
        let above = world.places.directory(&above)?;
        if !sys::mount_of(above.as_fd()).is_ok_and(|(m, _)| m == mount) {
            break;
        }
        top = above;
    }
    Ok(top)
}
