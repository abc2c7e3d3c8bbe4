//! The committer: carries compiled steps out, in the order: stage · save · journal · barrier · change · barrier ·
//! read back. A crash before the first barrier changed nothing; one after it finds in the journal what to undo.

use std::collections::BTreeSet;
use std::fs::File;

use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

use super::batch::{Batch, Work};
use super::dress;
use super::failpoint;
use super::ledger::Ledger;
use super::same;
use crate::proto::{Action, Intent, Outcome};
use crate::resource::expected::Expected;
use crate::resource::op::{Account, Op, OwnChange, Put, Trouble, What};
use crate::resource::staging::Areas;
use crate::resource::tree::{self, Touched};
use crate::resource::world::{Stamp, World, Written};
use crate::resource::{self, attributes, execute, group};
use crate::store::disk::FSYNC_LIMIT;
use crate::store::index::{PARENT, Version};
use crate::store::quick::Names;
use crate::store::record::Why;
use crate::store::{Own, Prior, Record, StoreError};
use crate::sys;

/// What came of the steps that had something to do, in their order.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Outcome and words, a step.
    pub results: Vec<(Outcome, String)>,
    /// What files looked like when they were read back.
    pub stamps: Names<Stamp>,
    /// Directories on the way that were to go with a unit, and are not empty yet.
    pub left: Vec<(String, String)>,
}

pub(super) struct Running {
    at: usize,
    pub work: Box<Work>,
    pub failure: Option<(Outcome, String)>,
    executed: bool,
    /// Why it was left in place.
    left: Option<String>,
    /// Who owned what each operation touches, before.
    owners: Vec<(String, Option<Own>)>,
    /// Directories on the way that were written down as to be made.
    parents: Vec<String>,
    /// Operations whose thing was written down as to be replaced.
    replaces: Vec<usize>,
    /// Staged files that are not durable yet, with the paths that they are for.
    fresh: Vec<(String, File)>,
    /// Operations of which the staged file has not the attributes yet that it will have.
    pub undressed: Vec<usize>,
}

impl Running {
    /// Whether something that it requires has failed.
    pub fn is_blocked(&self, failed: &[bool]) -> bool {
        self.work.needs.iter().any(|n| failed.get(*n).copied().unwrap_or_default())
    }

    /// The history tells what was replaced: not what these operations, from one on, have left.
    fn not_replaced(&self, from: usize) -> Vec<Record> {
        let left =
            self.replaces.iter().rev().filter(|at| **at >= from).filter_map(|at| self.work.ops.get(*at));
        left.map(|op| Record::NotReplaced { unit: self.work.unit.clone(), thing: op.thing.clone() }).collect()
    }

    /// What an apply that did not become current has purged is back: the history tells nothing of it.
    fn not_purged(&self, world: &World) -> Vec<Record> {
        let Some(index) = world.store.as_ref().map(|s| s.index()) else { return Vec::new() };
        let of_failed = |v: &&Version| {
            v.unit == self.work.unit
                && v.why == Why::Purge
                && v.generation > 0
                && !index.is_back(v.generation)
        };
        let operations = self.work.ops.iter().enumerate().filter(|(at, _)| !self.replaces.contains(at));
        let back = operations.map(|(_, op)| op).filter(|op| {
            index.history.get(&op.thing).and_then(|list| list.last()).filter(of_failed).is_some()
        });
        // Once, though several operations may be about one thing: each record takes back a version, and the one before that
        // is somebody's.
        let things: BTreeSet<String> = back.map(|op| op.thing.clone()).collect();
        let unit = &self.work.unit;
        things.into_iter().map(|thing| Record::NotReplaced { unit: unit.clone(), thing }).collect()
    }
}

/// Carries the steps out. `failed` says of every step of the whole batch whether it has failed already.
pub fn run(
    world: &mut World,
    areas: &mut Areas,
    batch: &Batch,
    mut todo: Vec<(usize, Box<Work>)>,
    mut failed: Vec<bool>,
) -> Report {
    leave_declared_groups(&mut todo);
    let mut steps: Vec<Running> = todo
        .into_iter()
        .map(|(at, work)| Running {
            at,
            work,
            failure: None,
            executed: false,
            left: None,
            owners: Vec::new(),
            parents: Vec::new(),
            replaces: Vec::new(),
            fresh: Vec::new(),
            undressed: Vec::new(),
        })
        .collect();
    // Who owns a file may be a user that this very batch makes: then it is dressed when he is there.
    world.expected = Expected::of(steps.iter().flat_map(|s| &s.work.ops));
    world.repairs = batch.intent == Intent::Correct;
    stage(world, areas, &mut steps);
    let saved = save(world, batch, &mut steps).and_then(|()| {
        world.wait(true);
        let waited = barrier(areas, &steps);
        world.wait(false);
        waited
    });
    if let Err(e) = saved {
        for step in steps.iter_mut().filter(|s| s.failure.is_none()) {
            step.failure = Some((Outcome::NotKept, e.to_string()));
        }
    }
    let transition = transition_of(world, batch);
    let mut touched = Touched::default();
    let mut facts = Vec::new();
    for at in order(world, &steps, batch.intent) {
        let Some(step) = steps.get_mut(at) else { continue };
        if step.failure.is_none() && step.is_blocked(&failed) {
            step.failure = Some((Outcome::Blocked, "something that it requires was not kept".to_owned()));
        }
        if step.failure.is_none() && !step.undressed.is_empty() {
            dress::late(world, areas, &mut steps, at, &failed);
        }
        let Some(step) = steps.get_mut(at) else { continue };
        world.expected.passed(&step.work.ops);
        if step.failure.is_none() {
            change(world, areas, step, &mut touched, &mut facts, transition);
            if batch.intent == Intent::Return && step.failure.is_none() {
                facts.extend(step.not_purged(world));
            }
        }
        if step.failure.is_some()
            && let Some(f) = failed.get_mut(step.at)
        {
            *f = true;
        }
    }
    go_at_last(world, areas, &mut steps, &mut touched, &mut facts);
    world.at(None);
    facts.extend(claims_given_up(world, &steps, &touched, &facts));
    facts.extend(steps.iter().filter(|s| s.failure.is_some() && !s.executed).flat_map(|s| s.not_replaced(0)));
    let facts = latest(facts);
    // A repair leads to what the committed generation declares: one that a loss of power takes back is made again at
    // the next boot, which checks everything. It is worth no wait, unless something is written down that rests on it.
    let repeated = batch.intent == Intent::Correct && facts.is_empty();
    world.wait(!repeated);
    let settled = if repeated { Ok(()) } else { settle(world, &touched, &facts) };
    world.wait(false);
    if let Err(e) = settled {
        for step in steps.iter_mut().filter(|s| s.failure.is_none()) {
            step.failure = Some((Outcome::NotKept, e.to_string()));
        }
    }
    failpoint::point();
    discard(areas, &steps);
    world.places.forget();
    world.stamps.clear();
    let results = steps.iter().map(|s| read_back(world, &steps, s)).collect();
    world.at(None);
    world.written.clear();
    Report { results, stamps: std::mem::take(&mut world.stamps), left: touched.stayed }
}

/// A directory of a unit that was not empty when its turn came goes all the same when later steps have emptied it.
fn go_at_last(
    world: &mut World,
    areas: &mut Areas,
    steps: &mut [Running],
    touched: &mut Touched,
    facts: &mut Vec<Record>,
) {
    for step in steps.iter_mut().rev().filter(|s| s.left.as_deref() == Some(tree::NOT_EMPTY)) {
        world.at(Some(&step.work.step));
        for op in step.work.ops.iter().filter(|op| step.work.unit.ends_with(&op.thing)) {
            if !matches!(op.what, What::Put { put: Put::Absent, .. }) {
                continue;
            }
            touched.left = false;
            if execute::run(world, areas, op, touched, facts).is_ok() && !touched.left {
                step.left = None;
                let thing = op.thing.clone();
                let unit = step.work.unit.clone();
                facts
                    .retain(|fact| *fact != Record::NotReplaced { unit: unit.clone(), thing: thing.clone() });
                facts.push(match &op.own {
                    OwnChange::Back(Some(own)) => Record::Own { thing, own: own.clone() },
                    _ => Record::Disown { thing },
                });
            }
        }
    }
}

/// Facts without owners that others follow: a loss of power may leave the first part of what is written at a time, and
/// nothing may be nobody's in between.
fn latest(mut facts: Vec<Record>) -> Vec<Record> {
    let mut told: BTreeSet<String> = BTreeSet::new();
    facts.reverse();
    facts.retain(|fact| match fact {
        Record::Own { thing, .. } | Record::Disown { thing } => told.insert(thing.clone()),
        _ => true,
    });
    facts.reverse();
    facts
}

/// The order in which steps are carried out: theirs. A repair of the user databases waits for their lock, which somebody
/// may hold for long; what does not depend on it is put right before. And a group goes after those who get another one as
/// their primary group.
fn order(world: &World, steps: &[Running], intent: Intent) -> Vec<usize> {
    let mut late: BTreeSet<usize> = BTreeSet::new();
    if intent == Intent::Correct {
        for step in steps {
            let waits = step.work.ops.iter().any(|o| matches!(o.what, What::Account(_)));
            if waits || step.work.needs.iter().any(|n| late.contains(n)) {
                late.insert(step.at);
            }
        }
    }
    let moves = |user: &str, from: &str| {
        steps.iter().flat_map(|s| &s.work.ops).any(|op| match &op.what {
            What::Account(Account::User { spec, .. }) => {
                spec.name == user && spec.group.as_deref().is_some_and(|to| to != from)
            }
            _ => false,
        })
    };
    for step in steps {
        if let [Op { what: What::Account(Account::RemoveGroup(name)), .. }] = step.work.ops.as_slice()
            && group::primary_of(&world.accounts, name).any(|user| moves(user, name))
        {
            late.insert(step.at);
        }
    }
    let is_late = |at: &usize| steps.get(*at).is_some_and(|s| late.contains(&s.at));
    let (late, soon): (Vec<usize>, Vec<usize>) = (0..steps.len()).partition(is_late);
    [soon, late].concat()
}

/// What [`save`] wrote down in advance and did not come true: of steps that were never carried out, and of directories
/// that nobody made. A claim on what is not ours would let a later purge remove what an admin puts there.
fn claims_given_up(world: &World, steps: &[Running], touched: &Touched, facts: &[Record]) -> Vec<Record> {
    let idle = |s: &&Running| s.failure.is_some() && !s.executed;
    let unmade = |s: &Running| s.parents.iter().any(|p| !touched.made.contains(p));
    let Some(store) = &world.store else { return Vec::new() };
    if !steps.iter().any(|s| idle(&s) || unmade(s)) {
        return Vec::new();
    }
    let mut own = store.index().own.clone();
    for fact in facts {
        match fact {
            Record::Own { thing, own: by } => drop(own.insert(thing.clone(), by.clone())),
            Record::Disown { thing } => drop(own.remove(thing)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    for step in steps.iter().rev().filter(idle) {
        for (thing, before) in step.owners.iter().rev() {
            let now = own.get(thing);
            // Meanwhile it may have become another step's.
            if now == before.as_ref() || now.is_some_and(|n| n.unit != step.work.unit) {
                continue;
            }
            out.push(match before {
                Some(by) => {
                    own.insert(thing.clone(), by.clone());
                    Record::Own { thing: thing.clone(), own: by.clone() }
                }
                None => {
                    own.remove(thing);
                    Record::Disown { thing: thing.clone() }
                }
            });
        }
    }
    for dir in steps.iter().flat_map(|s| &s.parents) {
        if own.get(dir).is_some_and(|o| o.unit == PARENT) && !touched.made.contains(dir) {
            own.remove(dir);
            out.push(Record::Disown { thing: dir.clone() });
        }
    }
    out
}

/// Writes every new content beside its place.
fn stage(world: &mut World, areas: &mut Areas, steps: &mut [Running]) {
    let contents = steps.iter().flat_map(|s| &s.work.ops).filter(|o| stages(o)).count();
    for step in steps.iter_mut() {
        world.at(Some(&step.work.step));
        for (number, op) in step.work.ops.iter_mut().enumerate() {
            let What::Put { path, put, staged: Some(staged), .. } = &mut op.what else { continue };
            let (content, want) = match put {
                Put::File { content: Some(content), want, .. } => (*content, &*want),
                Put::Symlink { .. } => {
                    staged.1 = areas.name();
                    continue;
                }
                _ => continue,
            };
            failpoint::point();
            world.alive();
            let late = world.expected.has_owner_of(want);
            if late {
                step.undressed.push(number);
            }
            let base = (!late).then(|| tree::base(world, path)).transpose();
            let written = base.and_then(|base| {
                // The permissions that it will have, where they are known: one call less than to give them later.
                let mode = base.as_ref().map_or(0o600, |b| want.mode.unwrap_or(b.mode));
                let (name, file, read) = tree::stage(world, areas, staged.0, &content, path, mode)?;
                staged.1 = name;
                if let Some(base) = base {
                    let stat = attributes::apply(&file, path, &base, want, &world.accounts)?;
                    if read && want.mtime.is_none() {
                        world.written.insert(path.clone(), Written::of(&stat, content.digest));
                    }
                }
                if contents <= FSYNC_LIMIT {
                    // Waited for in `save`: together with what is saved, the file system has to write its own journal once.
                    sys::begin_writing(&file);
                    step.fresh.push((path.clone(), file));
                }
                Ok(())
            });
            if let Err(e) = written {
                step.failure = Some((Outcome::NotKept, e.to_string()));
                break;
            }
        }
    }
    world.at(None);
}

fn stages(op: &Op) -> bool {
    matches!(&op.what, What::Put { put: Put::File { content: Some(_), .. }, .. })
}

/// Saves what was there, and writes down who owns what from now on.
fn save(world: &mut World, batch: &Batch, steps: &mut [Running]) -> Result<(), StoreError> {
    if world.store.is_none() {
        keep_what_is_there(world, steps);
        wait_for_staged(steps);
        return Ok(());
    }
    let mut ledger = Ledger::new(transition_of(world, batch), batch);
    for step in steps.iter_mut().filter(|s| s.failure.is_none()) {
        world.at(Some(&step.work.step));
        for (at, op) in step.work.ops.iter().enumerate() {
            failpoint::point();
            world.alive();
            step.owners.push((op.thing.clone(), ledger.owner(world, &op.thing)));
            let entered = ledger.enter(world, &step.work.unit, op, step.work.step.action);
            step.parents.append(&mut ledger.parents);
            if std::mem::take(&mut ledger.replaced) {
                step.replaces.push(at);
            }
            if let Some(size) = ledger.lost.take() {
                let detail = &mut step.work.detail;
                let separator = if detail.is_empty() { "" } else { "; " };
                *detail += &format!("{separator}the {size} bytes that were there were too many to be kept");
            }
            if let Err(e) = entered {
                step.failure = Some((Outcome::NotKept, e.to_string()));
                break;
            }
        }
    }
    failpoint::point();
    world.at(None);
    world.wait(true);
    let kept = world.store.as_mut().map_or(Ok(()), |store| {
        // Contents before the records that name them.
        store.sync()?;
        wait_for_staged(steps);
        failpoint::point();
        store.append(&ledger.records)?;
        failpoint::point();
        store.sync()
    });
    world.wait(false);
    failpoint::point();
    kept
}

/// Without a store nothing can be saved, and nobody knows what is ours or held: what is there stays.
fn keep_what_is_there(world: &mut World, steps: &mut [Running]) {
    for step in steps.iter_mut().filter(|s| s.failure.is_none()) {
        for op in &step.work.ops {
            let What::Put { path, put, content_changes, .. } = &op.what else { continue };
            world.alive();
            let why = match tree::takes_away(world, path, put, *content_changes) {
                Ok(false) => continue,
                Ok(true) => "the store cannot be opened, so that what is there could not be kept".to_owned(),
                Err(e) => e.to_string(),
            };
            step.failure = Some((Outcome::NotKept, why));
            break;
        }
    }
}

/// Makes staged contents durable, where they are few.
fn wait_for_staged(steps: &mut [Running]) {
    for step in steps {
        for (path, file) in std::mem::take(&mut step.fresh) {
            if let Err(e) = file.sync_all() {
                let trouble = Trouble::io("sync", &path, &e);
                step.failure.get_or_insert_with(|| (Outcome::NotKept, trouble.to_string()));
            }
        }
    }
}

/// A group that comes with a user is not his where a unit of this very batch makes it: that was not there yet when he was
/// looked at.
fn leave_declared_groups(todo: &mut [(usize, Box<Work>)]) {
    let ops = todo.iter().flat_map(|(_, work)| &work.ops);
    let declared = ops.filter(|op| matches!(op.what, What::Account(Account::Group(_))));
    let declared: BTreeSet<String> = declared.map(|op| op.thing.clone()).collect();
    let is_of_user = |op: &Op| matches!(op.what, What::Account(Account::GroupOfUser(_)));
    for (_, work) in todo {
        work.ops.retain(|op| !is_of_user(op) || !declared.contains(&op.thing));
    }
}

/// The transition that what was there before is written down for; none when it is drift.
fn transition_of(world: &World, batch: &Batch) -> Option<u64> {
    match batch.intent {
        Intent::Correct => None,
        Intent::Apply | Intent::Return => world.store.as_ref()?.index().open.map(|(_, t)| t),
    }
}

/// Staged contents are durable before the first rename.
fn barrier(areas: &Areas, steps: &[Running]) -> Result<(), StoreError> {
    let contents = steps.iter().flat_map(|s| &s.work.ops).filter(|o| stages(o)).count();
    if contents > FSYNC_LIMIT {
        for area in areas.iter() {
            // The descriptor was opened before the writes, so that it hears of every error since.
            syncfs(&area.fd).map_err(|e| StoreError::File {
                verb: "sync",
                path: area.path.clone(),
                source: e.into(),
            })?;
        }
    }
    failpoint::point();
    Ok(())
}

fn change(
    world: &mut World,
    areas: &mut Areas,
    step: &mut Running,
    touched: &mut Touched,
    facts: &mut Vec<Record>,
    transition: Option<u64>,
) {
    step.executed = true;
    world.at(Some(&step.work.step));
    for (at, op) in step.work.ops.iter().enumerate() {
        failpoint::point();
        world.alive();
        touched.left = false;
        let known = touched.made.len();
        let outcome = execute::run(world, areas, op, touched, facts);
        for dir in touched.made.iter().skip(known).cloned() {
            // Made on the way, though nobody knew beforehand that it would be missing: it was in the way, or an earlier
            // step of this very batch has removed it.
            let disowned = touched.disowned.remove(&dir);
            if disowned || world.store.as_ref().is_some_and(|s| !s.index().own.contains_key(&dir)) {
                let own = Own { unit: PARENT.to_owned(), created: true, digest: None, fs: 0 };
                facts.extend(transition.map(|transition| Record::Undo {
                    transition,
                    unit: step.work.unit.clone(),
                    thing: dir.clone(),
                    prior: Prior::Absent,
                    own: None,
                }));
                facts.push(Record::Own { thing: dir, own });
            }
        }
        if let Err(e) = outcome {
            step.failure = Some((Outcome::NotKept, e.to_string()));
            facts.extend(step.not_replaced(at));
            facts.extend(step.owners.iter().skip(at).map(|(thing, own)| match own {
                Some(own) => Record::Own { thing: thing.clone(), own: own.clone() },
                None => Record::Disown { thing: thing.clone() },
            }));
            return;
        }
        if let What::Put { path, put: Put::Absent | Put::Purged { .. }, .. } = &op.what
            && matches!(op.own, OwnChange::Drop | OwnChange::Back(None))
            && !touched.left
            && let Some(own) = world.store.as_ref().and_then(|s| s.index().own.get(path))
            && (own.unit == step.work.unit || own.unit == PARENT)
        {
            touched.disowned.insert(path.clone());
            facts.push(Record::Disown { thing: path.clone() });
        }
        // An earlier step of this very batch has removed it: it is whose it was written down to be.
        if let What::Put { path, put, .. } = &op.what
            && !matches!(put, Put::Absent)
            && touched.disowned.remove(path)
            && let Some(own) = world.store.as_ref().and_then(|s| s.index().own.get(path))
        {
            facts.push(Record::Own { thing: path.clone(), own: own.clone() });
        }
        // What converges has its way in the end.
        if let Some(why) = touched.stays.take()
            && step.work.step.action != Action::Converge
        {
            step.left = Some(why);
            if step.replaces.contains(&at) {
                facts.push(Record::NotReplaced { unit: step.work.unit.clone(), thing: op.thing.clone() });
            }
        }
        if touched.left {
            touched.stayed.push((step.work.unit.clone(), op.thing.clone()));
        }
        // A directory of the unit itself; those on the way to it may well be in use by others.
        if touched.left && step.work.unit.ends_with(&op.thing) {
            step.left = Some(tree::NOT_EMPTY.to_owned());
            if step.replaces.contains(&at) {
                facts.push(Record::NotReplaced { unit: step.work.unit.clone(), thing: op.thing.clone() });
            }
            // It goes with the last of ours in it.
            if let Some(own) = world.store.as_ref().and_then(|s| s.index().own.get(&op.thing))
                && own.created
                && own.unit == step.work.unit
            {
                let own = Own { unit: PARENT.to_owned(), ..own.clone() };
                facts.push(Record::Own { thing: op.thing.clone(), own });
            }
        }
    }
}

/// Makes durable what was changed, and writes down what only now is known.
fn settle(world: &mut World, touched: &Touched, facts: &[Record]) -> Result<(), StoreError> {
    failpoint::point();
    touched.unsynced.sync().map_err(|e| StoreError::File {
        verb: "sync",
        path: "/".into(),
        source: e.into(),
    })?;
    failpoint::point();
    match &mut world.store {
        Some(store) => store.record(facts),
        None => Ok(()),
    }
}

/// Removes staged files that found no place.
fn discard(areas: &Areas, steps: &[Running]) {
    for step in steps.iter().filter(|s| s.failure.is_some()) {
        for op in &step.work.ops {
            if let What::Put { staged: Some((area, name)), .. } = &op.what
                && let Some(area) = areas.get(*area)
                && !name.is_empty()
            {
                let _ = unlinkat(&area.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
    }
}

fn read_back(world: &mut World, steps: &[Running], step: &Running) -> (Outcome, String) {
    world.alive();
    world.at(Some(&step.work.step));
    if let Some(failure) = &step.failure {
        return failure.clone();
    }
    let work = &step.work;
    if let Some(why) = &step.left {
        return (Outcome::Left, why.clone());
    }
    if work.step.action != Action::Converge {
        return (work.outcome, work.detail.clone());
    }
    let mut context = work.context.clone();
    context.backing = None;
    match resource::check(world, &work.spec, &context) {
        Ok(finding) if finding.wrong.is_empty() => (work.outcome, work.detail.clone()),
        Ok(finding) => {
            let mut text = format!("still wrong after the change: {}", finding.wrong.join(", "));
            if let Some(other) = same::other(world, steps, step) {
                text += &format!("; {other} is the same file by another path: declare only one of the two");
            }
            (Outcome::NotKept, text)
        }
        Err(e) => (Outcome::NotKept, e.to_string()),
    }
}
