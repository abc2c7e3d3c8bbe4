//! Batches: which steps the worker gets next, and in which order.
//!
//! A batch holds every unit that is in line, and beyond that every unit whose gate opens by what is in the batch
//! already, so that 10,000 files in nested directories are one batch and not one a level.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use units::address::Class;
use units::kind::Spec;
use units::{Kind, UnitId};

use super::effect::{Effect, Level};
use super::graph::{hard, soft};
use super::timer::Timer;
use super::unit::{ExecStep, Lost, NOBODY, State, Want, Work, bits};
use super::{BATCH_MS, Engine, Node, SUSPECT_MS};
use crate::proto::{Action, Intent, ManifestRef, Step, UnitResult};

/// Most steps of one batch: what is beyond goes into the next.
const MOST: usize = 20_000;

/// So many workers that are lost in a row, each with a quarter of the steps, and no step is to blame.
const LOST_MOST: u8 = 8;

/// The batch that is with the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub number: u64,
    pub intent: Intent,
    /// Steps without a result.
    pub open: BTreeMap<(ManifestRef, UnitId), (Node, Action)>,
    /// Where its steps stand.
    pub manifests: BTreeSet<ManifestRef>,
}

impl Batch {
    /// The manifests that its steps stand in, each once: they are kept as long as the batch is.
    pub(crate) fn manifests(&self) -> Vec<ManifestRef> {
        self.manifests.iter().copied().collect()
    }
}

impl Engine {
    /// Sends what is in line, if the worker is free.
    pub(crate) fn form_batch(&mut self) {
        if self.batch.is_some() {
            return self.hurry();
        }
        if self.runnable.is_empty() {
            return;
        }
        let intended = self.runnable.iter().any(|n| self.u(*n).has(bits::INTENDED));
        let intent = match (intended, self.is_return()) {
            (true, true) => Intent::Return,
            (true, false) => Intent::Apply,
            (false, _) => Intent::Correct,
        };
        let order = match self.suspect_in_turn(intended, intent) {
            Some(suspect) => vec![suspect],
            None => self.batch_order(intended),
        };
        let mut steps = Vec::with_capacity(order.len());
        let mut open = BTreeMap::new();
        for node in order {
            let action = self.action(node);
            let (manifest, unit) = self.unit_of(node);
            self.set_work(node, Work::Batch);
            self.with_latch(node, |l| l.again = false);
            open.insert((manifest, unit), (node, action));
            steps.push(Step { manifest, unit, action });
        }
        if steps.is_empty() {
            return;
        }
        let number = self.next_batch;
        self.next_batch += 1;
        self.globals_changed = true;
        self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
        self.begin_batch(Batch { number, intent, open, manifests: BTreeSet::new() });
        // What is put back is what was there in the generation that is returned to.
        let generation = self.undoing.filter(|_| intent == Intent::Return).unwrap_or(self.generation);
        self.out.push(Effect::Batch { batch: number, generation, intent, steps });
    }

    /// Whether a worker was lost upon it, and it has had no result since.
    pub(crate) fn is_suspect(&self, node: Node) -> bool {
        self.latch(node).is_some_and(|l| l.lost == Lost::Suspect)
    }

    /// The suspect that is the next batch: when nothing else is in line, for it may take a minute and more. But what
    /// goes makes room for what comes, and an apply that cannot succeed shall know soon.
    fn suspect_in_turn(&self, intended: bool, intent: Intent) -> Option<Node> {
        let in_line = || self.runnable.iter().copied().filter(|n| self.u(*n).has(bits::INTENDED) == intended);
        let suspects = || in_line().filter(|n| self.is_suspect(*n));
        let goes = suspects().find(|n| self.u(*n).want == Want::Absent);
        let first =
            || suspects().next().filter(|_| intent == Intent::Apply || in_line().all(|n| self.is_suspect(n)));
        goes.or_else(first)
    }

    /// A suspect step does not keep others waiting for as long as the worker may take for them.
    fn hurry(&mut self) {
        let Some(batch) = &self.batch else { return };
        // One that has given all its results has one thing left, which depends on none of them.
        let suspect = !batch.open.is_empty() && batch.open.values().all(|(node, _)| self.is_suspect(*node));
        if !suspect || !(self.awaits_record() || self.runnable.iter().any(|n| !self.is_suspect(*n))) {
            return;
        }
        let due = self.now.after_ms(SUSPECT_MS);
        if self.timers.get(NOBODY, Timer::Batch).is_none_or(|at| at > due) {
            self.timers.set(NOBODY, Timer::Batch, due);
            self.globals_changed = true;
        }
    }

    fn action(&self, node: Node) -> Action {
        let unit = self.u(node);
        if unit.want == Want::Absent {
            return if self.is_return() { Action::Restore } else { Action::Remove };
        }
        if unit.has(bits::RESTORE) {
            return Action::Restore;
        }
        let step = self.latch(node).map_or(ExecStep::Guard, |l| l.step);
        match (unit.class(), step) {
            (Class::Exec, ExecStep::Record) => Action::Ran(self.input_hash(node)),
            (Class::Exec, _) => Action::Guard(self.input_hash(node)),
            (_, _) if self.holds.contains_key(&node) => Action::Check,
            (Class::Committer | Class::Helper | Class::Mount | Class::Service | Class::Target, _) => {
                Action::Converge
            }
        }
    }

    /// Kahn's algorithm from what is in line outward; removals run the other way, from users to what they use.
    fn batch_order(&self, intended: bool) -> Vec<Node> {
        let mut order = Vec::new();
        let mut left: BTreeMap<Node, u32> = BTreeMap::new();
        // What goes makes room for what comes, also where that lies elsewhere: inside of it, or around it.
        let fits = |n: &Node| self.u(*n).has(bits::INTENDED) == intended && !self.is_suspect(*n);
        let in_line = || self.runnable.iter().copied().filter(fits);
        let goes = |node: &Node| self.u(*node).want == Want::Absent;
        // What a worker can be lost upon without being at any of its steps in particular may be how many they are.
        let most = MOST >> self.lost_workers.saturating_mul(2).min(14);
        let mut next: VecDeque<Node> = in_line().filter(goes).chain(in_line().filter(|n| !goes(n))).collect();
        while let Some(node) = next.pop_front() {
            if order.len() >= most {
                break;
            }
            order.push(node);
            if self.u(node).want == Want::Absent {
                // One that is not up holds no use on anything.
                let up = self.u(node).has(bits::UP);
                for (dep, kind) in self.made_deps(node).into_iter().filter(|_| up) {
                    if !hard(kind) || !self.can_follow(dep, intended, Want::Absent) {
                        continue;
                    }
                    let open = left.entry(dep).or_insert_with(|| self.counters(dep).users);
                    *open = open.saturating_sub(1);
                    if *open == 0 {
                        next.push_back(dep);
                    }
                }
                continue;
            }
            // The guard of an exec decides nothing yet: what depends on it waits for the command. What is held is only
            // looked at, and may be found wrong.
            if self.u(node).class() == Class::Exec || self.holds.contains_key(&node) {
                continue;
            }
            for (user, kind) in self.rdeps(node) {
                let unit = self.u(node);
                let closed = (hard(kind) && !unit.has(bits::OK)) || (soft(kind) && !unit.has(bits::SETTLED));
                if !closed || !self.can_follow(user, intended, Want::Up) {
                    continue;
                }
                let open = left.entry(user).or_insert_with(|| {
                    let counters = self.counters(user);
                    counters.not_ok + counters.unsettled
                });
                *open = open.saturating_sub(1);
                if *open == 0 {
                    next.push_back(user);
                }
            }
        }
        order
    }

    /// Whether a unit that is not in line could come into the batch behind what it waits for.
    fn can_follow(&self, node: Node, intended: bool, want: Want) -> bool {
        let unit = self.u(node);
        let State::Latch(latch) = unit.state else { return false };
        let idle = want == Want::Absent
            && !matches!(latch.work, Work::Batch | Work::Job { .. } | Work::Queued | Work::Deferred);
        unit.class() == Class::Committer
            && unit.want == want
            && self.counters(node).blocked == 0
            && unit.has(bits::INTENDED) == intended
            && !self.holds.contains_key(&node)
            && latch.lost != Lost::Suspect
            && (latch.work == Work::Waiting || idle)
    }

    /// Results have come.
    pub(crate) fn results(&mut self, number: u64, results: Vec<UnitResult>) {
        if self.batch.as_ref().is_none_or(|b| b.number != number) {
            return;
        }
        self.globals_changed = true;
        self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
        if !results.is_empty() {
            self.lost_workers = 0;
        }
        for result in results {
            let Some(batch) = &mut self.batch else { return };
            let intent = batch.intent;
            let key = (result.manifest, result.unit);
            let Some((node, action)) = batch.open.remove(&key) else { continue };
            self.changed.insert(node);
            let current = self.unit_of(node) == key || self.same_spec(node, key);
            if current || matches!(action, Action::Remove | Action::Restore) {
                self.step_result(node, action, intent, result.outcome, result.detail);
            } else if self.latch(node).is_some_and(|l| l.work == Work::Batch) {
                // It was meant for a generation that is not wanted any more.
                self.set_work(node, Work::Waiting);
            }
        }
    }

    fn same_spec(&self, node: Node, key: (ManifestRef, UnitId)) -> bool {
        let (manifest, unit) = self.unit_of(node);
        let digest = |m: ManifestRef, u: UnitId| self.manifest_of(m).map(|m| m.unit_digest(u));
        digest(manifest, unit).is_some() && digest(manifest, unit) == digest(key.0, key.1)
    }

    /// A batch has ended: what has no result was not done.
    pub(crate) fn batch_done(&mut self, number: u64) {
        if self.batch.as_ref().is_none_or(|b| b.number != number) {
            return;
        }
        if let Some(batch) = self.end_batch() {
            for (node, _) in batch.open.into_values() {
                if self.latch(node).is_some_and(|l| l.work == Work::Batch) {
                    self.not_kept(node, "the worker gave no result".to_owned());
                }
            }
        }
    }

    /// The step that the worker has of a unit.
    pub(crate) fn step_of(&self, node: Node) -> Option<(ManifestRef, UnitId, Action)> {
        if self.latch(node)?.work != Work::Batch {
            return None;
        }
        let batch = self.batch.as_ref()?;
        let address = self.address(node);
        batch.manifests.iter().find_map(|manifest| {
            let unit = self.manifest_of(*manifest)?.find(address.kind, &address.name)?;
            let (of, action) = batch.open.get(&(*manifest, unit))?;
            (*of == node).then_some((*manifest, unit, *action))
        })
    }

    fn begin_batch(&mut self, mut batch: Batch) {
        batch.manifests = batch.open.keys().map(|(manifest, _)| *manifest).collect();
        for manifest in batch.manifests() {
            self.retain(manifest);
        }
        self.batch = Some(batch);
    }

    pub(crate) fn end_batch(&mut self) -> Option<Batch> {
        self.globals_changed = true;
        if !self.awaits_record() {
            self.timers.clear(NOBODY, Timer::Batch);
        }
        let batch = self.batch.take()?;
        self.changed.extend(batch.open.values().map(|(node, _)| *node));
        for manifest in batch.manifests() {
            self.release(manifest);
        }
        Some(batch)
    }

    /// The worker died or was given up, perhaps at this step, on this mount.
    pub(crate) fn worker_lost(&mut self, at: Option<((ManifestRef, UnitId), Option<String>)>) {
        self.record_lost();
        let Some(batch) = self.end_batch() else { return };
        self.lost_workers = self.lost_workers.saturating_add(1);
        let known = at.filter(|(key, _)| batch.open.contains_key(key) && self.lost_workers < LOST_MOST);
        let text = "the worker was lost: what it had is sent once more";
        let text = match known.as_ref().and_then(|(key, _)| batch.open.get(key)) {
            Some((node, _)) => format!("{text}, {}, which it was at, by itself", self.address(*node)),
            None => text.to_owned(),
        };
        self.log(Level::Warning, None, text);
        let with_worker = self.take_back(&batch);
        let lost = |engine: &Engine, node| engine.latch(node).is_some_and(|l| l.lost != Lost::No);
        match known {
            None => {
                for (_, node) in with_worker {
                    if lost(self, node) || self.lost_workers >= LOST_MOST {
                        self.not_kept(node, "the worker was lost twice while at it".to_owned());
                    } else {
                        self.with_latch(node, |l| l.lost = Lost::Among);
                    }
                }
            }
            Some((key, mount)) => {
                let beside =
                    |engine: &Engine, node| mount.as_ref().is_some_and(|m| engine.lies_below(node, m));
                for (step, node) in with_worker {
                    if step == key && lost(self, node) {
                        self.with_latch(node, |l| l.lost = Lost::Suspect);
                        self.not_kept(node, "the worker was lost twice while at it".to_owned());
                        // They would take as long, one after the other.
                        self.suspects_not_kept(mount.as_deref());
                    } else if step == key || beside(self, node) {
                        self.with_latch(node, |l| l.lost = Lost::Suspect);
                    }
                }
            }
        }
    }

    /// What of a batch has no result. What is to be done may be another thing by now: it takes its place in line again.
    pub(crate) fn take_back(&mut self, batch: &Batch) -> Vec<((ManifestRef, UnitId), Node)> {
        let open = batch.open.iter().map(|(key, (node, _))| (*key, *node));
        let open: Vec<_> =
            open.filter(|(_, node)| self.latch(*node).is_some_and(|l| l.work == Work::Batch)).collect();
        for (_, node) in &open {
            self.set_work(*node, Work::Waiting);
        }
        open
    }

    /// The path of what a unit owns, if that is at one path.
    pub fn path_of(&self, at: (ManifestRef, UnitId)) -> Option<String> {
        let manifest = self.manifest_of(at.0)?;
        match manifest.kind(at.1) {
            Kind::File | Kind::Directory | Kind::Symlink => Some(manifest.name(at.1).to_owned()),
            Kind::Line | Kind::User => match manifest.spec(at.1)? {
                Spec::Line(line) => Some(line.path),
                Spec::User(user) if user.create_home => Some(user.home_directory().into_owned()),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn lies_below(&self, node: Node, mount: &str) -> bool {
        let path = self.path_of(self.unit_of(node));
        path.is_some_and(|path| units::value::path::is_within(&path, mount))
    }

    pub(crate) fn batch_timer(&mut self) {
        if self.batch.is_some() || self.awaits_record() {
            self.log(Level::Error, None, "the worker has not answered in time: it is given up".to_owned());
            self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
            self.out.push(Effect::KillWorker);
        }
    }
}
