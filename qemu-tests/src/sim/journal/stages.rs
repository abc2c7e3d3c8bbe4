//! What the calls of a log are for: contents, records, staged files, the managed tree.

use std::collections::BTreeSet;

use cm_core::store::Record;
use cm_core::store::journal::{self, Replay};

use super::disk::{Id, Op, Tree};

/// What an inode is for, by where it first had a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// The journal.
    Journal,
    /// Something that is to be renamed to its place.
    Staged,
    /// The rest of the store.
    Store,
    /// The managed tree.
    Tree,
}

/// What the inodes of a log are for.
#[derive(Debug, Default)]
pub struct Places {
    journal: Option<Id>,
    store: BTreeSet<Id>,
    staged: BTreeSet<Id>,
}

impl Places {
    /// Of a log that begins with this tree.
    pub fn of(ops: &[Op], start: &Tree) -> Places {
        let mut places = Places { store: start.find("store").into_iter().collect(), ..Places::default() };
        let mut staging = None;
        for op in ops {
            let Op::Create { at, id, .. } = op else { continue };
            match at.1.as_str() {
                "staging" => staging = Some(*id),
                "journal" => places.journal = Some(*id),
                _ if Some(at.0) == staging => drop(places.staged.insert(*id)),
                _ => {}
            }
            if places.store.contains(&at.0) {
                places.store.insert(*id);
            }
        }
        places
    }

    /// What one is for.
    pub fn what(&self, id: Id) -> Of {
        if self.journal == Some(id) {
            Of::Journal
        } else if self.staged.contains(&id) {
            Of::Staged
        } else if self.store.contains(&id) {
            Of::Store
        } else {
            Of::Tree
        }
    }
}

/// Records that are written, each with the call that does it. Only of a store that was made in this very log.
pub fn records(ops: &[Op]) -> Vec<(usize, Record)> {
    let mut out = Vec::new();
    let mut journal = None;
    let mut read = Replay::default();
    let mut bytes: Vec<u8> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Create { at, id, .. } if at.1 == "journal" => journal = Some(*id),
            Op::Write { id, bytes: more, .. } if Some(*id) == journal => {
                bytes.extend(more);
                let mut take = |record| out.push((at, record));
                if read.valid_len == 0 {
                    read = journal::replay_into(&bytes, &mut take);
                } else {
                    journal::replay_more(&bytes, &mut read, &mut take);
                }
            }
            _ => {}
        }
    }
    out
}
