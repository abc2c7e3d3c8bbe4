//! Batches: which steps the worker gets next, and in which order.
//!
//! A batch holds every unit that is in line, and beyond that every unit whose gate opens by what is in the batch
//! already, so that 10,000 files in nested directories are one batch and not one a level.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use units::UnitId;
use units::address::Class;

use super::effect::{Effect, Level};
use super::graph::{hard, soft};
use super::timer::Timer;
use super::unit::{ExecStep, NOBODY, State, Want, Work, bits};
use super::{BATCH_MS, Engine, Node};
use crate::proto::{Action, Intent, ManifestRef, Step, UnitResult};

/// Most steps of one batch: what is beyond goes into the next.
const MOST: usize = 20_000;

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
        if self.batch.is_some() || self.runnable.is_empty() {
            return;
        }
        let intended = self.runnable.iter().any(|n| self.u(*n).has(bits::INTENDED));
        let intent = match (intended, self.is_return()) {
            (true, true) => Intent::Return,
            (true, false) => Intent::Apply,
            (false, _) => Intent::Correct,
        };
        let order = self.batch_order(intended);
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
        let in_line = || self.runnable.iter().copied().filter(|n| self.u(*n).has(bits::INTENDED) == intended);
        let goes = |node: &Node| self.u(*node).want == Want::Absent;
        let mut next: VecDeque<Node> = in_line().filter(goes).chain(in_line().filter(|n| !goes(n))).collect();
        while let Some(node) = next.pop_front() {
            if order.len() >= MOST {
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
                    let open = left.entry(dep).or_insert_with(|| self.u(dep).users);
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
                let open = left.entry(user).or_insert_with(|| self.u(user).not_ok + self.u(user).unsettled);
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
            && unit.blocked == 0
            && unit.has(bits::INTENDED) == intended
            && !self.holds.contains_key(&node)
            && (latch.work == Work::Waiting || idle)
    }

    /// Results have come.
    pub(crate) fn results(&mut self, number: u64, results: Vec<UnitResult>) {
        if self.batch.as_ref().is_none_or(|b| b.number != number) {
            return;
        }
        self.globals_changed = true;
        self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
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

    fn end_batch(&mut self) -> Option<Batch> {
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

    /// The worker died. What it had not answered is sent once more; after that it is not kept.
    pub(crate) fn worker_lost(&mut self) {
        self.record_lost();
        let Some(batch) = self.end_batch() else { return };
        self.log(Level::Warning, None, "the worker was lost: what it had is sent once more".to_owned());
        for (node, _) in batch.open.into_values() {
            let Some(latch) = self.latch(node).filter(|l| l.work == Work::Batch) else { continue };
            if latch.lost {
                self.not_kept(node, "the worker was lost twice while at it".to_owned());
            } else {
                // What is to be done may be another thing by now: it takes its place in line again.
                self.with_latch(node, |l| l.lost = true);
                self.set_work(node, Work::Waiting);
            }
        }
    }

    pub(crate) fn batch_timer(&mut self) {
        if self.batch.is_some() || self.awaits_record() {
            self.log(Level::Error, None, "the worker has not answered in time: it is killed".to_owned());
            self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
            self.out.push(Effect::KillWorker);
        }
    }
}
