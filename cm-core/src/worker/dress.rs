//! Staged files that cannot be dressed when they are staged: who owns them is made in the very batch. They have their
//! attributes, and have them for good, before the first of them is moved to its place.

use std::fs::File;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::commit::Running;
use crate::proto::Outcome;
use crate::resource::op::{Put, Trouble, Want, What};
use crate::resource::staging::Areas;
use crate::resource::tree;
use crate::resource::unsynced::Unsynced;
use crate::resource::world::World;

/// Dresses what a step has staged, since its turn has come, and with it all that others have staged and that can be: what
/// is many is waited for once. `failed` says of every step of the batch whether it has failed already.
pub(super) fn late(world: &mut World, areas: &Areas, steps: &mut [Running], turn: usize, failed: &[bool]) {
    let mut unsynced = Unsynced::default();
    let mut dressed = Vec::new();
    for (at, step) in steps.iter_mut().enumerate() {
        if step.undressed.is_empty() || step.failure.is_some() || step.is_blocked(failed) {
            continue;
        }
        world.at(Some(&step.work.step));
        for number in std::mem::take(&mut step.undressed) {
            let Some(What::Put { path, put: Put::File { want, .. }, staged: Some(staged), .. }) =
                step.work.ops.get(number).map(|op| &op.what)
            else {
                continue;
            };
            if at != turn && world.expected.has_owner_of(want) {
                step.undressed.push(number);
                continue;
            }
            world.alive();
            match dress(world, areas, path, want, staged) {
                Ok(file) => unsynced.file(file.into()),
                Err(e) => {
                    step.failure = Some((Outcome::NotKept, e.to_string()));
                    break;
                }
            }
            dressed.push(at);
        }
    }
    world.at(None);
    world.wait(true);
    let synced = unsynced.sync();
    world.wait(false);
    if let Err(e) = synced {
        let trouble = Trouble::cannot("sync", "what is staged", e);
        for at in dressed {
            if let Some(step) = steps.get_mut(at) {
                step.failure.get_or_insert_with(|| (Outcome::NotKept, trouble.to_string()));
            }
        }
    }
}

/// Gives a staged file the attributes that it will have.
fn dress(
    world: &mut World,
    areas: &Areas,
    path: &str,
    want: &Want,
    (area, name): &(usize, String),
) -> Result<File, Trouble> {
    let Some(area) = areas.get(*area) else {
        return Err(Trouble::NotKept(format!("no staging directory for {path}")));
    };
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&area.fd, name.as_str(), flags, Mode::empty())
        .map_err(|e| Trouble::cannot("open", path, e))?;
    let file = File::from(fd);
    tree::dress(world, &file, path, want)?;
    Ok(file)
}
