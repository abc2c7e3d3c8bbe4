//! What the committer writes down before it changes anything: what was there, who owns it from now on, and what is
//! replaced, for each operation as the earlier ones of the batch will have left things.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::batch::Batch;
use crate::proto::{Action, Intent};
use crate::resource::op::{Account, Op, OwnChange, Trouble, What};
use crate::resource::world::World;
use crate::resource::{execute, line, links, retire, tree, user};
use crate::store::disk::now;
use crate::store::index::PARENT;
use crate::store::record::{Why, member_of, names_of};
use crate::store::{Own, Prior, Record};

/// What is written down before anything is changed.
pub(super) struct Ledger {
    transition: Option<u64>,
    intent: Intent,
    generation: u64,
    /// The records.
    pub records: Vec<Record>,
    own: BTreeMap<String, Option<Own>>,
    gone: BTreeSet<String>,
    noted: BTreeSet<(String, String)>,
    /// Texts of which lines are edited, as the operations so far leave them.
    texts: BTreeMap<String, Option<String>>,
    /// Directories on the way that were claimed since the last step.
    pub parents: Vec<String>,
    /// Whether the last operation replaces something.
    pub replaced: bool,
    /// How large what it replaces is, where it is not kept.
    pub lost: Option<u64>,
}

impl Ledger {
    /// Of a batch, as a part of a transition if it is of one.
    pub fn new(transition: Option<u64>, batch: &Batch) -> Ledger {
        Ledger {
            transition,
            intent: batch.intent,
            generation: batch.generation,
            records: Vec::new(),
            own: BTreeMap::new(),
            gone: BTreeSet::new(),
            noted: BTreeSet::new(),
            texts: BTreeMap::new(),
            parents: Vec::new(),
            replaced: false,
            lost: None,
        }
    }

    /// Who owns a thing, as it was written down so far.
    pub fn owner(&self, world: &World, thing: &str) -> Option<Own> {
        match self.own.get(thing) {
            Some(own) => own.clone(),
            None => world.store.as_ref()?.index().own.get(thing).cloned(),
        }
    }

    fn set_owner(&mut self, world: &World, thing: &str, own: Option<Own>) {
        if self.owner(world, thing) == own {
            return;
        }
        self.records.push(match &own {
            Some(own) => Record::Own { thing: thing.to_owned(), own: own.clone() },
            None => Record::Disown { thing: thing.to_owned() },
        });
        self.own.insert(thing.to_owned(), own);
    }

    fn undo(&mut self, world: &World, unit: &str, thing: &str, prior: &Prior) {
        let of = (unit.to_owned(), thing.to_owned());
        let is_edit = matches!(prior, Prior::Edit(_));
        if self.noted.contains(&of) && !is_edit {
            return;
        }
        // What only passes a thing on says nothing of it, and another step of the unit may.
        if *prior != Prior::Untouched {
            self.noted.insert(of);
        }
        self.note(world, unit, thing, prior);
    }

    fn note(&mut self, world: &World, unit: &str, thing: &str, prior: &Prior) {
        let Some(transition) = self.transition else { return };
        if world.store.as_ref().is_some_and(|s| s.index().has_undo(transition, unit, thing, prior)) {
            return;
        }
        self.records.push(Record::Undo {
            transition,
            unit: unit.to_owned(),
            thing: thing.to_owned(),
            prior: prior.clone(),
            own: self.owner(world, thing),
        });
    }

    /// Directories on the way that will be missing when the turn of this path comes, outermost first: some may be in the
    /// place of what an earlier step takes away.
    fn parents_to_make(&self, world: &mut World, path: &str) -> Vec<String> {
        let missing = tree::missing_parents(world, path);
        if !missing.is_empty() {
            return missing;
        }
        let above = Path::new(path).ancestors().skip(1).filter_map(|p| Some(p.to_str()?.to_owned()));
        let mut above: Vec<String> = above.collect();
        let gone = above.iter().rposition(|p| self.gone.contains(p));
        above.truncate(gone.map_or(0, |at| at + 1));
        above.reverse();
        above
    }

    /// What an operation will do to the lines of a text, as earlier ones will have left it. Where that is more than one edit
    /// can say, all but the last are written down here.
    fn edits(&mut self, world: &mut World, unit: &str, op: &Op) -> Result<Prior, Trouble> {
        let path = match &op.what {
            What::Line(spec) => &spec.path,
            What::Unline(edit) => &edit.path,
            _ => return Ok(Prior::Untouched),
        };
        let old = match self.texts.get(path) {
            Some(text) => text.clone(),
            None => line::read(world, path)?,
        };
        let (new, mut edits) = match &op.what {
            What::Line(spec) => match line::edit(old.as_deref(), spec)? {
                Some((text, done)) => (Some(text), vec![done]),
                None => (old, Vec::new()),
            },
            What::Unline(edit) => line::turned_round(old.as_deref(), edit),
            _ => (old, Vec::new()),
        };
        self.texts.insert(path.clone(), new);
        let last = edits.pop();
        for edit in edits {
            self.note(world, unit, &op.thing, &Prior::Edit(edit));
        }
        Ok(last.map_or(Prior::Untouched, Prior::Edit))
    }

    /// Writes down what an operation will change, and saves what was there.
    ///
    /// # Errors
    /// When that cannot be read or saved.
    pub fn enter(&mut self, world: &mut World, unit: &str, op: &Op, action: Action) -> Result<(), Trouble> {
        if let What::Put { path, put, .. } = &op.what
            && !put.is_absent()
        {
            for dir in self.parents_to_make(world, path) {
                // One of ours that an earlier step takes away stays ours until it is really gone.
                let is_parent = |o: &Own| o.unit == PARENT;
                let is_ours =
                    world.store.as_ref().and_then(|s| s.index().own.get(&dir)).is_some_and(is_parent);
                if self.owner(world, &dir).is_none() && !is_ours {
                    self.undo(world, unit, &dir, &Prior::Absent);
                    let own = Own { unit: PARENT.to_owned(), created: true, digest: None, fs: 0 };
                    self.set_owner(world, &dir, Some(own));
                    self.parents.push(dir);
                }
            }
        }
        if let What::Line(line) = &op.what
            && self.transition.is_some()
            && let Some(prior) = links::of_edited(world, &line.path)?
        {
            self.undo(world, unit, &names_of(&line.path), &prior);
        }
        let prior = match &op.what {
            _ if self.gone.contains(&op.thing) => Prior::Absent,
            What::Line(_) | What::Unline(_) => self.edits(world, unit, op)?,
            _ => execute::prior(world, op)?,
        };
        if let Prior::Large { size, .. } = &prior {
            self.lost = Some(*size);
        }
        self.undo(world, unit, &op.thing, &prior);
        let owner = self.owner(world, &op.thing);
        let absent = matches!(&op.what, What::Put { put, .. } if put.is_absent());
        // A directory holds nothing of its own; that the unit's is gone is worth telling.
        let directory = absent && matches!(prior, Prior::Directory(_)) && action == Action::Remove;
        self.replaced = replaces(self.intent, &prior) || (directory && unit.ends_with(&op.thing));
        if self.replaced {
            let why = match (self.intent, action) {
                // Also where that was put off until a hold ended.
                (Intent::Apply | Intent::Correct, Action::Remove) => Why::Purge,
                (Intent::Correct, _) => Why::Repair,
                (Intent::Return, _) => Why::Return,
                (Intent::Apply, Action::Restore) => Why::Purge,
                (Intent::Apply, _) if absent => Why::Purge,
                (Intent::Apply, _) => Why::Apply,
            };
            self.records.push(Record::Replaced {
                unit: unit.to_owned(),
                thing: op.thing.clone(),
                when: now(),
                why,
                generation: if why == Why::Repair { 0 } else { self.generation },
                prior: prior.clone(),
            });
        }
        if absent && matches!(prior, Prior::Directory(_)) {
            // It stays ours until it is really gone, since it may not be empty; see `change`.
            self.own.insert(op.thing.clone(), None);
            self.gone.insert(op.thing.clone());
            return Ok(());
        }
        let own = match &op.own {
            OwnChange::Drop => None,
            OwnChange::Back(own) => own.clone(),
            OwnChange::Take { digest } => {
                let comes_back = matches!(&op.what, What::Account(Account::User { spec, .. })
                    if user::is_locked_by_us(world, &spec.name));
                let made = match &prior {
                    Prior::Absent => true,
                    Prior::Entries(_) if comes_back => true,
                    Prior::Entries(lines) => lines.is_empty(),
                    Prior::Edit(edit) => edit.inserted.is_some() && edit.removed.is_empty(),
                    Prior::Untouched => member_of(&op.thing).is_some(),
                    _ => false,
                };
                let fs = if op.thing.starts_with('/') && world.below_managed(&op.thing) {
                    world.places.nearest(&op.thing).map_or(0, |d| retire::file_system(&d))
                } else {
                    0
                };
                Some(Own {
                    unit: unit.to_owned(),
                    created: owner.as_ref().map_or(made, |o| o.created),
                    digest: digest.or(owner.as_ref().and_then(|o| o.digest)),
                    fs,
                })
            }
        };
        self.set_owner(world, &op.thing, own);
        if absent {
            self.gone.insert(op.thing.clone());
        } else {
            self.gone.remove(&op.thing);
        }
        Ok(())
    }
}

/// Whether something is replaced that is worth telling. Attributes that a repair puts right are not: they would push out
/// of the history what somebody has written.
fn replaces(intent: Intent, prior: &Prior) -> bool {
    match prior {
        Prior::File { .. }
        | Prior::Linked { .. }
        | Prior::Large { .. }
        | Prior::Symlink { .. }
        | Prior::Text(_) => true,
        Prior::Attributes(_) => intent != Intent::Correct,
        Prior::Entries(lines) => intent != Intent::Correct && !lines.is_empty(),
        Prior::Edit(edit) => intent != Intent::Correct && !edit.removed.is_empty(),
        Prior::Absent | Prior::Directory(_) | Prior::Untouched | Prior::Special => false,
    }
}
