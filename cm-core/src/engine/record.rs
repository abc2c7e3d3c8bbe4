//! What has to be known to go on after a re-exec: one record a unit, and one for everything else.
//!
//! Only what cannot be derived is recorded; counters and cached predicates are counted anew.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use units::Manifest;

use super::apply::{Apply, Next};
use super::batch::Batch;
use super::byhand::Ask;
use super::effect::Job;
use super::event::Down;
use super::latched::Fight;
use super::status::Hold;
use super::timer::Timers;
use super::unit::{State, Unit, Work, bits};
use super::{Engine, Gen, Mono, Node};
use crate::proto::ManifestRef;

/// Longest detail that a record keeps, in bytes.
const DETAIL: usize = 96;

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
    serials: BTreeMap<u64, (Node, Job)>,
    next_serial: u64,
    next_token: u64,
    next_batch: u64,
    batch: Option<Batch>,
    timers: Timers,
    apply: Option<Apply>,
    next_swap: Option<Next>,
    asks: Vec<Ask>,
    claims: BTreeMap<Node, Vec<Node>>,
    exec_inputs: BTreeMap<Node, u64>,
    down: Option<Down>,
    left: bool,
    store_open: bool,
    converged: bool,
    undoing: bool,
    pending: Vec<ManifestRef>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    unit: Unit,
    hold: Option<Hold>,
    fight: Option<Fight>,
    detail: Option<String>,
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
        Records { globals, nodes: std::mem::take(&mut self.changed).into_iter().collect() }
    }

    /// Everything that belongs to no single unit.
    pub fn globals(&self) -> Vec<u8> {
        let globals = Globals {
            now: self.now,
            next_ref: self.next_ref,
            desired: self.desired,
            generation: self.generation,
            serials: self.serials.clone(),
            next_serial: self.next_serial,
            next_token: self.next_token,
            next_batch: self.next_batch,
            batch: self.batch.clone(),
            timers: self.timers.clone(),
            apply: self.apply.clone(),
            next_swap: self.next_swap,
            asks: self.asks.clone(),
            claims: self.claims.clone(),
            exec_inputs: self.exec_inputs.clone(),
            down: self.down,
            left: self.left,
            store_open: self.store_open,
            converged: self.converged,
            undoing: self.undoing,
            pending: self.pending.iter().copied().collect(),
        };
        postcard::to_allocvec(&globals).unwrap_or_default()
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
        let record = Record {
            unit: unit.underived(),
            hold: self.holds.get(&node).cloned(),
            fight: self.fights.get(&node).cloned(),
            detail,
        };
        postcard::to_allocvec(&record).ok()
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
        let globals: Globals = postcard::from_bytes(globals).map_err(|_| RestoreError::Globals)?;
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
        engine.serials = globals.serials;
        engine.next_serial = globals.next_serial;
        engine.next_token = globals.next_token;
        engine.next_batch = globals.next_batch;
        engine.batch = globals.batch;
        engine.timers = globals.timers;
        engine.apply = globals.apply;
        engine.next_swap = globals.next_swap;
        engine.asks = globals.asks;
        engine.claims = globals.claims;
        engine.exec_inputs = globals.exec_inputs;
        engine.down = globals.down;
        engine.left = globals.left;
        engine.store_open = globals.store_open;
        engine.converged = globals.converged;
        engine.undoing = globals.undoing;
        engine.pending = globals.pending.into_iter().collect();
        for (node, bytes) in records {
            let record: Record = postcard::from_bytes(&bytes).map_err(|_| RestoreError::Record(node.0))?;
            while engine.nodes.len() <= node.index() {
                engine.nodes.push(Unit::blank());
            }
            if let Some(place) = engine.nodes.get_mut(node.index()) {
                *place = record.unit;
            }
            if let Some(hold) = record.hold {
                engine.holds.insert(node, hold);
            }
            if let Some(fight) = record.fight {
                engine.fights.insert(node, fight);
            }
            if let Some(detail) = record.detail {
                engine.details.insert(node, detail);
            }
        }
        engine.relink()?;
        engine.changed = engine.all().collect::<BTreeSet<_>>();
        engine.globals_changed = true;
        Ok(engine)
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
            if let Some(latch) = self.latch(node)
                && latch.work == Work::Queued
            {
                self.runnable.insert(node);
            }
            self.up += u32::from(self.u(node).has(bits::UP));
        }
        // Every predicate is false and counted so; what is true travels along the edges from there. Nobody acts.
        self.recount();
        for node in self.all() {
            self.mark_outdated(node);
        }
        self.refresh_outdated();
        for node in std::mem::take(&mut self.queue) {
            if let Some(unit) = self.nodes.get_mut(node.index()) {
                unit.set(bits::QUEUED, false);
            }
        }
        Ok(())
    }
}
