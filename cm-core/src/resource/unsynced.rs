//! What was changed where it stands and is not durable yet.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::fstat;
use nix::unistd::{fsync, syncfs};

use super::place::Dir;
use crate::store::disk::FSYNC_LIMIT;

#[derive(Debug)]
enum Open {
    Directory(Rc<Dir>),
    Other(OwnedFd),
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Open::Directory(dir) => dir.as_fd(),
            Open::Other(fd) => fd.as_fd(),
        }
    }
}

impl Open {
    fn device(&self) -> nix::Result<u64> {
        match self {
            Open::Directory(dir) => Ok(dir.identity()?.0),
            Open::Other(fd) => Ok(fstat(fd)?.st_dev),
        }
    }
}

/// Directories with other entries, files and directories with other attributes. Where they are more than a few, one of
/// each file system stands for all on it: a batch may change more of them than a process may have descriptors.
#[derive(Debug, Default)]
pub struct Unsynced {
    few: Vec<Open>,
    /// By device, when they are no more few: what was changed first there, so that it hears of every error since.
    systems: BTreeMap<u64, Open>,
    failed: Option<nix::Error>,
}

impl Unsynced {
    /// A directory has another entry.
    pub fn directory(&mut self, dir: &Rc<Dir>) {
        let is = |open: &Open| match open {
            Open::Directory(known) => Rc::ptr_eq(known, dir) || known.identity() == dir.identity(),
            Open::Other(_) => false,
        };
        if !self.few.iter().any(is) {
            self.add(Open::Directory(Rc::clone(dir)));
        }
    }

    /// A file or directory was changed itself.
    pub fn file(&mut self, fd: OwnedFd) {
        self.add(Open::Other(fd));
    }

    fn add(&mut self, open: Open) {
        if self.systems.is_empty() {
            self.few.push(open);
            if self.few.len() > FSYNC_LIMIT {
                std::mem::take(&mut self.few).into_iter().for_each(|open| self.of_system(open));
            }
        } else {
            self.of_system(open);
        }
    }

    fn of_system(&mut self, open: Open) {
        match open.device() {
            Ok(device) => drop(self.systems.entry(device).or_insert(open)),
            Err(e) => self.failed = Some(e),
        }
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// When a disk cannot be written.
    pub fn sync(&self) -> nix::Result<()> {
        // Their contents and attributes before the names of them.
        let (directories, others): (Vec<&Open>, Vec<&Open>) =
            self.few.iter().partition(|open| matches!(open, Open::Directory(_)));
        for open in others.into_iter().chain(directories) {
            fsync(open)?;
        }
        for open in self.systems.values() {
            syncfs(open)?;
        }
        self.failed.map_or(Ok(()), Err)
    }
}
