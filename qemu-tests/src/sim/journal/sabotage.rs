//! Faults that a program could have, done to the log of one that has not: so that each check is shown to be able to fail.

use cm_core::store::Record;

use super::disk::{Id, Op, Tree};
use super::stages::{self, Of, Places};

/// A deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    None,
    /// New contents are not made durable before they are renamed to their places.
    NoBarrier,
    /// A content is renamed to its place before it is made durable.
    RenameFirst,
    /// What is written down before the first change of the tree is not made durable before that.
    NoJournalSync,
    /// Changes of the tree are not made durable before a generation is committed.
    NoSettle,
    /// A commit is written down before the changes of the tree are made durable.
    CommitFirst,
    /// Contents that are saved are not made durable before a record names them.
    NoContentSync,
    /// A commit is answered for before it is durable.
    AnswerFirst,
}

/// All of them.
pub const ALL: [Sabotage; 7] = [
    Sabotage::NoBarrier,
    Sabotage::RenameFirst,
    Sabotage::NoJournalSync,
    Sabotage::NoSettle,
    Sabotage::CommitFirst,
    Sabotage::NoContentSync,
    Sabotage::AnswerFirst,
];

impl Sabotage {
    /// Changes what a log tells. Nothing is added or taken away but syncs, so that every call keeps its number.
    pub fn tamper(self, ops: &mut [Op], start: &Tree) {
        if self == Sabotage::None {
            return;
        }
        let of = Places::of(ops, start);
        // What stands in for a call that is not made: the topmost directory never changes.
        let nothing = Op::Sync { id: 0, data: true };
        let commits = commits(ops);
        for (at, op) in ops.iter_mut().enumerate() {
            let Op::Sync { id, .. } = &op else { continue };
            let sync = of.what(*id);
            // The first commit is of a generation that changes nothing.
            let later = commits.first().is_some_and(|c| c.1 < at);
            let commits = commits.iter().any(|c| c.1 == at);
            let drops = match self {
                Sabotage::NoBarrier => sync == Of::Staged,
                Sabotage::NoJournalSync => sync == Of::Journal && later && !commits,
                Sabotage::NoSettle => sync == Of::Tree,
                Sabotage::NoContentSync => sync == Of::Store && later,
                Sabotage::AnswerFirst => commits,
                Sabotage::None | Sabotage::RenameFirst | Sabotage::CommitFirst => false,
            };
            if drops {
                *op = nothing.clone();
            }
        }
        match self {
            Sabotage::RenameFirst => {
                for at in 0..ops.len() {
                    if let Op::Rename { id, .. } = ops[at]
                        && let Some(sync) = (0..at).rev().find(|n| ops[*n] == Op::Sync { id, data: false })
                    {
                        ops[sync..=at].rotate_right(1);
                    }
                }
            }
            Sabotage::CommitFirst => {
                for (write, sync) in commits {
                    // What is noted in the store beside the journal changes nothing.
                    let writes =
                        |n: &usize| matches!(&ops[*n], Op::Write { id, .. } if of.what(*id) != Of::Store);
                    let from = (0..write).rev().take_while(|n| !writes(n)).last();
                    let from = from.unwrap_or(write);
                    ops[from..=sync].rotate_right(sync + 1 - write);
                }
            }
            _ => {}
        }
    }
}

/// Writes of commit records, each with the call that makes it durable.
fn commits(ops: &[Op]) -> Vec<(usize, usize)> {
    let writes = stages::records(ops).into_iter().filter(|(_, r)| matches!(r, Record::Committed { .. }));
    let is_sync = |op: &Op, id: &Id| matches!(op, Op::Sync { id: of, .. } if of == id);
    let durable = |at: usize| match &ops[at] {
        Op::Write { id, .. } => (at..ops.len()).find(|n| is_sync(&ops[*n], id)),
        _ => None,
    };
    writes.filter_map(|(at, _)| Some((at, durable(at)?))).collect()
}
