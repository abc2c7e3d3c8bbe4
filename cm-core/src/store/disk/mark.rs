//! Up to where the journal was made durable, for whoever opens it next.
//!
//! A worker that is killed between appending and the end of its fdatasync leaves records that can be read and that no disk
//! has: nothing may be built on them as if it had. So every sync leaves its length in the lock file, which nobody has to
//! make durable: after a loss of power everything that can be read was on the disk, whatever stands here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Store, StoreError, at};

/// The journal's inode and length, as they stand in the lock file.
fn encoded(inode: u64, length: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let (first, second) = out.split_at_mut(8);
    first.copy_from_slice(&inode.to_le_bytes());
    second.copy_from_slice(&length.to_le_bytes());
    out
}

pub(super) fn set(lock: &File, inode: u64, length: u64) {
    // Where it cannot be said, the next worker makes it durable once more.
    let _unsaid = lock.write_at(&encoded(inode, length), 0);
}

fn stands_in(lock: &File) -> io::Result<[u8; 16]> {
    let mut found = [0; 16];
    let read = lock.read_at(&mut found, 0)?;
    Ok(if read == found.len() { found } else { [0; 16] })
}

/// Whether whoever wrote the journal up to this length made it durable.
pub(super) fn is_set(lock: &File, inode: u64, length: u64) -> io::Result<bool> {
    Ok(stands_in(lock)? == encoded(inode, length))
}

impl Store {
    /// Everything up to the journal's length is durable.
    pub(super) fn mark_durable(&mut self) {
        self.durable = self.length;
        set(&self.lock, self.journal_ino, self.length);
    }

    /// Makes durable what another worker has left, unless it did: records, and the contents and generations that they name.
    pub(super) fn inherit(&mut self) -> Result<(), StoreError> {
        let path = self.dir.join("lock");
        if !at("read", &path, is_set(&self.lock, self.journal_ino, self.length))? {
            at("sync", &self.dir, nix::unistd::syncfs(&self.lock).map_err(io::Error::from))?;
        }
        self.mark_durable();
        Ok(())
    }
}
