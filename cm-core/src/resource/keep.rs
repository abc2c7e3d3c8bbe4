//! What is there is kept in the store before it is replaced: as far as there is room. Whoever may write one managed file
//! must not be able to fill the disk that the store lies on, nor to have a repair wait for him.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};

use super::op::{Put, Trouble};
use super::world::World;
use crate::store::disk::Saved;
use crate::store::disk::packed::Stored;

/// As much is kept without a look at the disk.
const SMALL: u64 = 1 << 20;
/// More than this is not kept of what somebody has put in the place of a declared content.
const LARGE: u64 = 64 << 20;

/// A file that is read to its end, but no further than it may be kept.
struct Bounded<'a> {
    file: &'a mut File,
    world: &'a mut World,
    left: u64,
    ended: bool,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.world.alive();
        let count = self.file.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.ended = true;
                return Err(ErrorKind::FileTooLarge.into());
            }
        }
        Ok(count)
    }
}

/// Saves the content of a file that `put` will replace or remove. `None` where it is too large, and not worth more: a
/// declared content is put in the place of it, or was there before.
///
/// # Errors
/// When it cannot be read or saved; also where it is too large and what somebody has of his own.
pub fn keep(world: &mut World, path: &str, put: &Put, file: &mut File) -> Result<Option<Saved>, Trouble> {
    let size = file.metadata().map_err(|e| Trouble::io("stat", path, &e))?.len();
    let is_ours = is_ours(world, path, put);
    let most = most(world, size, is_ours)?;
    let mut saved = None;
    if size <= most {
        let mut store = world.store.take();
        let mut source = Bounded { file, world, left: most, ended: false };
        let read = store.as_mut().map(|store| store.save(&mut source)).transpose();
        let ended = source.ended;
        world.store = store;
        // Somebody goes on writing it.
        saved = if ended { None } else { read? };
    }
    if saved.is_none() {
        saved = as_written(world, path, file, size)?;
    }
    if saved.is_none() && !is_ours {
        let text =
            format!("the {size} bytes at {path} are more than there is room for to keep; move it away");
        return Err(Trouble::NotKept(text));
    }
    Ok(saved)
}

/// A content that was written by us, and is in the store: that takes no room, however large it is.
fn as_written(world: &mut World, path: &str, file: &mut File, size: u64) -> Result<Option<Saved>, Trouble> {
    let Some(store) = &world.store else { return Ok(None) };
    let Some(digest) = store.index().own.get(path).and_then(|own| own.digest) else { return Ok(None) };
    let stored = match store.content(&digest) {
        Some(Stored::File(stored)) => stored.metadata().is_ok_and(|m| m.len() == size),
        Some(Stored::Bytes(bytes)) => bytes.get_ref().len() as u64 == size,
        None => false,
    };
    if !stored {
        return Ok(None);
    }
    file.rewind().map_err(|e| Trouble::io("read", path, &e))?;
    let (is, _) = world.digest(file).map_err(|e| Trouble::io("read", path, &e))?;
    Ok((is == digest).then_some(Saved { digest, size }))
}

/// Whether the generation that holds, or held, has a content for this path: then what is there now is drift.
fn is_ours(world: &World, path: &str, put: &Put) -> bool {
    let replaced = matches!(put, Put::File { content: Some(_), .. } | Put::Symlink { .. });
    let written = || world.store.as_ref()?.index().own.get(path)?.digest;
    (world.repairs && replaced) || written().is_some()
}

/// How many bytes may be kept of something this large.
fn most(world: &World, size: u64, is_ours: bool) -> Result<u64, Trouble> {
    let Some(store) = world.store.as_ref().filter(|_| size > SMALL) else { return Ok(SMALL) };
    let (room, all) = store.room()?;
    // What nobody asked for leaves room for who has to go on working.
    let spare = if world.repairs { all / 10 } else { SMALL };
    let most = room.saturating_sub(spare);
    Ok(if is_ours || world.repairs { most.min(LARGE) } else { most })
}
