//! What has to be known to go on after a re-exec: one record a unit, and one for what belongs to none.
//!
//! Only what cannot be derived is recorded; counters and cached predicates are counted anew. Whatever grows with the
//! units stands in their own records, so that what a step writes grows with what it changed and with nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use units::{Manifest, UnitId};

use super::again::Again;
use super::apply::{Apply, Next};
use super::batch::Batch;
use super::byhand::Ask;
use super::effect::Job;
use super::event::Down;
use super::fight::Fight;
use super::status::Hold;
use super::timer::Timer;
use super::unit::{NOBODY, State, Unit, Work, bits};
use super::{Engine, Gen, Mono, Node};
use crate::pack::pack;
use crate::proto::{Action, Intent, ManifestRef};

/// Longest detail that a record keeps, in bytes.
const DETAIL: usize = 512;

/// What changed since it was last asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Whether [`Engine::globals`] differs.
    pub globals: bool,
    /// Units whose [`Engine::record`] differs.
    pub nodes: Vec<Node>,
}

#[derive(Serialize, Deserialize)]
struct Globals {
    now: Mono,
    next_ref: u32,
    desired: ManifestRef,
    generation: u64,
    next_serial: u64,
    next_token: u64,
    next_batch: u64,
    /// Number, intent and manifests of the batch; its steps stand with their units.
    batch: Option<(u64, Intent, Vec<ManifestRef>)>,
    lost_workers: u8,
    timers: Vec<(Timer, Mono)>,
    apply: Option<Apply>,
    next_swap: Option<Next>,
    asks: Vec<Ask>,
    down: Option<Down>,
    left: bool,
    store_open: bool,
    converged: bool,
    undoing: Option<u64>,
    awaited_undo: Option<(ManifestRef, u64)>,
    pending: Vec<ManifestRef>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    unit: Unit,
    more: Option<More>,
}

/// What few units have at a time.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct More {
    hold: Option<Hold>,
    fight: Option<Fight>,
    detail: Option<String>,
    timers: Vec<(Timer, Mono)>,
    step: Option<(ManifestRef, UnitId, Action)>,
    serials: Vec<(u64, Job)>,
    claims: Vec<Node>,
    exec_inputs: Option<u64>,
    lifted: Option<Hold>,
}

/// Why records cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The record of everything else is not one.
    #[error("the hand-over's common record is damaged")]
    Globals,
    /// A unit's record is not one.
    #[error("the hand-over's record of unit {0} is damaged")]
    Record(u32),
    /// A manifest that a record names is not there.
    #[error("the hand-over lacks manifest {0}")]
    Manifest(u32),
}

impl Engine {
    /// What changed since the last call.
    pub fn take_changed(&mut self) -> Records {
        let globals = std::mem::take(&mut self.globals_changed);
        Records { globals, nodes: self.changed.take() }
    }

    /// Everything that belongs to no single unit.
    pub fn globals(&self) -> Vec<u8> {
        let globals = Globals {
            now: self.now,
            next_ref: self.next_ref,
            desired: self.desired,
            generation: self.generation,
            next_serial: self.next_serial,
            next_token: self.next_token,
            next_batch: self.next_batch,
            batch: self.batch.as_ref().map(|b| (b.number, b.intent, b.manifests())),
            lost_workers: self.lost_workers,
            timers: self.timers.of(NOBODY).collect(),
            apply: self.apply.clone(),
            next_swap: self.next_swap,
            asks: self.asks.clone(),
            down: self.down,
            left: self.left,
            store_open: self.store_open,
            converged: self.converged,
            undoing: self.undoing,
            awaited_undo: self.awaited_undo,
            pending: self.pending.iter().copied().collect(),
        };
        // Behind the rest, where who does not know it reads nothing, and who misses it knows of none: an apply under way
        // and one of what is current exclude each other.
        let mut bytes = pack(&globals).unwrap_or_default();
        bytes.extend(self.again.iter().filter_map(|again| pack(again).ok()).flatten());
        let bad = self.apply.iter().filter_map(|apply| apply.bad_before.as_ref());
        bytes.extend(bad.filter_map(|bad| pack(bad).ok()).flatten());
        bytes
    }

    /// One unit; `None` when the node is free.
    pub fn record(&self, node: Node) -> Option<Vec<u8>> {
        let unit = self.nodes.get(node.index())?;
        if matches!(unit.state, State::Gone) {
            return None;
        }
        let detail = self.details.get(&node).map(|d| {
            let end = (0..=DETAIL.min(d.len())).rev().find(|i| d.is_char_boundary(*i)).unwrap_or(0);
            d.get(..end).unwrap_or_default().to_owned()
        });
        let more = More {
            hold: self.holds.get(&node).cloned(),
            fight: self.fights.get(&node).cloned(),
            detail,
            timers: self.timers.of(node).collect(),
            step: self.step_of(node),
            serials: self.serials_of(node),
            claims: self.claims.get(&node).cloned().unwrap_or_default(),
            exec_inputs: self.exec_inputs.get(&node).copied(),
            lifted: self.lifted.get(&node).cloned(),
        };
        let record = Record { unit: unit.underived(), more: Some(more).filter(|m| *m != More::default()) };
        pack(&record).ok()
    }

    /// The engine as it was when the records were written. `worker_kept`: the worker that has the batch is still
    /// connected; otherwise the caller sends [`super::event::Event::WorkerLost`] next.
    ///
    /// # Errors
    /// When a record is damaged or a manifest is missing; the caller then adopts what runs by other means.
    pub fn restore(
        manifests: Vec<(ManifestRef, Manifest)>,
        globals: &[u8],
        records: impl IntoIterator<Item = (Node, Vec<u8>)>,
    ) -> Result<Engine, RestoreError> {
        let (globals, more) =
            postcard::take_from_bytes::<Globals>(globals).map_err(|_| RestoreError::Globals)?;
        let applies = globals.apply.is_some();
        let again = (!applies && !more.is_empty()).then(|| postcard::from_bytes::<Again>(more)).transpose();
        let bad_before = (applies && !more.is_empty()).then(|| postcard::from_bytes(more)).transpose();
        let mut engine = Engine::new();
        engine.gens = manifests
            .into_iter()
            .map(|(number, manifest)| {
                let node_of = vec![u32::MAX; manifest.len()];
                (number, Gen { manifest, node_of, refs: 0 })
            })
            .collect();
        engine.now = globals.now;
        engine.next_ref = globals.next_ref;
        engine.desired = globals.desired;
        engine.generation = globals.generation;
        engine.next_serial = globals.next_serial;
        engine.next_token = globals.next_token;
        engine.next_batch = globals.next_batch;
        engine.lost_workers = globals.lost_workers;
        engine.batch = globals.batch.map(|(number, intent, manifests)| Batch {
            number,
            intent,
            open: BTreeMap::new(),
            manifests: manifests.into_iter().collect(),
        });
        for (timer, at) in globals.timers {
            engine.timers.set(NOBODY, timer, at);
        }
        engine.apply = globals.apply;
        if let Some(apply) = &mut engine.apply {
            apply.bad_before = bad_before.map_err(|_| RestoreError::Globals)?;
        }
        engine.next_swap = globals.next_swap;
        engine.again = again.map_err(|_| RestoreError::Globals)?;
        engine.asks = globals.asks;
        engine.down = globals.down;
        engine.left = globals.left;
        engine.store_open = globals.store_open;
        engine.converged = globals.converged;
        engine.undoing = globals.undoing;
        engine.awaited_undo = globals.awaited_undo;
        engine.pending = globals.pending.into_iter().collect();
        for (node, bytes) in records {
            let record: Record = postcard::from_bytes(&bytes).map_err(|_| RestoreError::Record(node.0))?;
            while engine.nodes.len() <= node.index() {
                engine.nodes.push(Unit::blank());
            }
            if let Some(place) = engine.nodes.get_mut(node.index()) {
                *place = record.unit;
            }
            engine.take_more(node, record.more.unwrap_or_default());
        }
        engine.relink()?;
        engine.changed.extend(engine.all());
        engine.globals_changed = true;
        Ok(engine)
    }

    fn take_more(&mut self, node: Node, more: More) {
        self.holds.extend(more.hold.map(|hold| (node, hold)));
        self.lifted.extend(more.lifted.map(|hold| (node, hold)));
        self.fights.extend(more.fight.map(|fight| (node, fight)));
        self.details.extend(more.detail.map(|detail| (node, detail)));
        self.exec_inputs.extend(more.exec_inputs.map(|hash| (node, hash)));
        for (timer, at) in more.timers {
            self.timers.set(node, timer, at);
        }
        if let (Some((manifest, unit, action)), Some(batch)) = (more.step, &mut self.batch) {
            batch.open.insert((manifest, unit), (node, action));
        }
        self.serials.extend(more.serials.into_iter().map(|(serial, job)| (serial, (node, job))));
        if !more.claims.is_empty() {
            self.lists.takers.extend(more.claims.iter().map(|taker| (*taker, node)));
            self.claims.insert(node, more.claims);
        }
    }

    /// Everything that is derived from the records.
    fn relink(&mut self) -> Result<(), RestoreError> {
        self.free = (0u32..)
            .zip(&self.nodes)
            .filter(|(_, u)| matches!(u.state, State::Gone))
            .map(|(i, _)| i)
            .collect();
        let mut named = vec![self.desired];
        if let Some(apply) = &self.apply {
            named.extend([apply.manifest, apply.from.0]);
        }
        named.extend(self.next_swap.map(|n| n.manifest));
        named.extend(self.pending.iter().copied());
        named.extend(self.batch.iter().flat_map(Batch::manifests));
        for node in self.all() {
            named.push(self.u(node).made);
            named.extend(self.svc(node).and_then(|s| s.run).map(|r| r.0));
        }
        for manifest in named {
            if !self.gens.contains_key(&manifest) {
                return Err(RestoreError::Manifest(manifest.0));
            }
            self.retain(manifest);
        }
        self.gens.retain(|_, g| g.refs > 0);
        for node in self.all() {
            // A unit has its place in every manifest that knows its address, as before.
            let address = self.address(node);
            for generation in self.gens.values_mut() {
                if let Some(id) = generation.manifest.find(address.kind, &address.name)
                    && let Some(place) = generation.node_of.get_mut(id.index())
                {
                    *place = node.0;
                }
            }
        }
        for node in self.all() {
            let work = self.latch(node).map(|l| l.work);
            if work == Some(Work::Queued) {
                self.runnable.insert(node);
            }
            if work == Some(Work::Deferred) {
                self.lists.deferred.insert(node);
            }
            if self.u(node).has(bits::NEEDS_STORE) {
                self.lists.for_store.insert(node);
            }
            if self.u(node).has(bits::OF_APPLY) {
                self.lists.marked.insert(node);
            }
            if self.u(node).has(bits::AWAITED) {
                self.lists.awaited.insert(node);
            }
            if self.u(node).has(bits::RAISED) {
                self.lists.raised.insert(node);
            }
            self.up += u32::from(self.u(node).has(bits::UP));
        }
        // Every predicate is false and counted so; what is true travels along the edges from there. Nobody acts.
        self.recount();
        for node in self.all() {
            self.mark_outdated(node);
        }
        self.refresh_outdated();
        // Who waits for a claim looks at who has it, which may wait for one itself.
        let holders: Vec<Node> = self.claims.keys().copied().collect();
        for _ in &holders {
            holders.iter().for_each(|holder| self.takers_look(*holder));
            self.refresh_outdated();
        }
        self.lists.ending.clear();
        for node in std::mem::take(&mut self.queue) {
            if let Some(unit) = self.nodes.get_mut(node.index()) {
                unit.set(bits::QUEUED, false);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use units::kind::Spec;
    use units::kind::file::{File, Ownership};
    use units::manifest::NewUnit;
    use units::{Kind, ManifestBuilder};

    use super::super::effect::Effect;
    use super::super::event::{Event, Swap};
    use super::*;
    use crate::proto::{Outcome, UnitResult};

    /// Bytes that are written after a step.
    fn written(engine: &mut Engine) -> usize {
        let changed = engine.take_changed();
        let globals = if changed.globals { engine.globals().len() } else { 0 };
        globals + changed.nodes.iter().filter_map(|n| engine.record(*n)).map(|r| r.len()).sum::<usize>()
    }

    /// What is written for 64 results of a first apply of so many files, for 64 of them touched, and for a tick.
    fn of_steps(count: u32) -> [usize; 3] {
        let mut builder = ManifestBuilder::new();
        for n in 0..count {
            let path = format!("/srv/{n:06}");
            let content = Some(units::kind::Content { digest: [7; 32], size: 10 });
            let attributes = units::kind::Attributes::default();
            let file =
                File { path: path.clone(), content, attributes, ownership: Ownership::Whole, secret: false };
            builder.unit(NewUnit::new(Kind::File, &path, Spec::File(file)));
        }
        let mut engine = Engine::new();
        let manifest = engine.install(builder.finish());
        let mut out = Vec::new();
        let swap = Event::Swapped { request: 0, manifest, generation: 1, kind: Swap::Boot, release: false };
        engine.step(Mono(1), swap, &mut out);
        let steps = out.iter().find_map(|e| match e {
            Effect::Batch { batch, steps, .. } => Some((*batch, steps.clone())),
            _ => None,
        });
        let (batch, steps) = steps.unwrap();
        assert_eq!(steps.len(), count as usize);
        written(&mut engine);
        let result = |s: &crate::proto::Step| UnitResult {
            manifest: s.manifest,
            unit: s.unit,
            outcome: Outcome::Changed,
            detail: "missing".to_owned(),
        };
        let mut packets = steps.chunks(64).map(|chunk| chunk.iter().map(result).collect::<Vec<_>>());
        let first = Event::Results { batch, results: packets.next().unwrap() };
        engine.step(Mono(2), first, &mut out);
        let results = written(&mut engine);
        for results in packets {
            engine.step(Mono(3), Event::Results { batch, results }, &mut out);
        }
        engine.step(Mono(4), Event::BatchDone { batch }, &mut out);
        assert!(engine.is_converged());
        // All of them are about to settle, and then some more.
        engine.step(Mono(5), Event::Touched { nodes: (64..count).map(Node).collect() }, &mut out);
        written(&mut engine);
        engine.step(Mono(6), Event::Touched { nodes: (0..64).map(Node).collect() }, &mut out);
        let touched = written(&mut engine);
        engine.step(Mono(7), Event::Tick, &mut out);
        [results, touched, written(&mut engine)]
    }

    #[test]
    fn a_step_writes_what_it_changed_and_not_what_there_is() {
        let (few, many) = (of_steps(128), of_steps(6400));
        for (few, many) in few.into_iter().zip(many) {
            // Numbers of more digits take some bytes more.
            assert!(many <= few + few / 4, "{few} bytes, {many} with 50 times as many units");
        }
    }
}
