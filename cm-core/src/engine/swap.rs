//! From one desired manifest to another: who stays, who changes, who comes and who leaves.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use units::address::Class;
use units::kind::Spec;
use units::kind::exec::Once;
use units::{Address, EdgeKind, Manifest, UnitId};

use super::claims::Handover;
use super::counts::Counters;
use super::graph::{hard, soft};
use super::unit::{
    ExecStep, Latch, Mount, MountPhase, Number, Phase, Service, Shown, State, Unit, Want, Work, bits,
};
use super::{Engine, Node};
use crate::proto::ManifestRef;

/// Digests of what a unit of a manifest reloads on and restarts on: 0 for none.
fn input_hashes(manifest: &Manifest, id: UnitId) -> (u64, u64) {
    let of = |wanted: EdgeKind| {
        let mut hash = Sha256::new();
        let mut any = false;
        for edge in manifest.deps(id).filter(|e| e.kind == wanted) {
            any = true;
            hash.update(manifest.unit_digest(edge.unit));
        }
        if !any {
            return 0;
        }
        let digest = hash.finalize();
        let first = digest.as_slice().get(..8).and_then(|b| b.try_into().ok()).unwrap_or([1; 8]);
        u64::from_le_bytes(first) | 1
    };
    (of(EdgeKind::ReloadOn), of(EdgeKind::RestartOn))
}

fn both((reload, restart): (u64, u64)) -> u64 {
    reload.rotate_left(1) ^ restart
}

/// What an exec of a manifest is asked about: its inputs in one number.
pub fn exec_inputs(manifest: &Manifest, id: UnitId) -> u64 {
    both(input_hashes(manifest, id))
}

/// One line of the merge of two manifests.
enum Pair {
    Leaving(UnitId),
    Coming(UnitId),
    Both(UnitId, UnitId),
}

/// Merges two manifests in address order.
fn merge(old: &Manifest, new: &Manifest) -> Vec<Pair> {
    let mut out = Vec::with_capacity(new.len());
    let (mut olds, mut news) = (old.ids().peekable(), new.ids().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(o), Some(n)) => (old.kind(*o) as u8, old.name(*o)).cmp(&(new.kind(*n) as u8, new.name(*n))),
        };
        let pair = match order {
            Ordering::Less => olds.next().map(Pair::Leaving),
            Ordering::Greater => news.next().map(Pair::Coming),
            Ordering::Equal => olds.next().zip(news.next()).map(|(o, n)| Pair::Both(o, n)),
        };
        out.extend(pair);
    }
}

impl Engine {
    /// Makes `manifest` the desired one. `intended`: its differences belong to an apply.
    pub(crate) fn switch_to(&mut self, manifest: ManifestRef, generation: u64, intended: bool) {
        let old = self.desired;
        self.generation = generation;
        self.globals_changed = true;
        let (Some(before), Some(after)) =
            (self.manifest_of(old).cloned(), self.manifest_of(manifest).cloned())
        else {
            return;
        };
        if old == manifest {
            return;
        }
        let still_leaving: BTreeMap<Address, Node> =
            self.all().filter(|n| self.u(*n).id().is_none()).map(|n| (self.address(n), n)).collect();
        self.retain(manifest);
        self.desired = manifest;

        let mut changed = Vec::new();
        let mut stay = Vec::new();
        let mut handover = Handover::default();
        for pair in merge(&before, &after) {
            match pair {
                Pair::Leaving(id) => {
                    let Some(node) = self.node_in(old, id) else { continue };
                    self.leave_manifest(node, old, id);
                    changed.push(node);
                }
                Pair::Coming(id) => {
                    let known = still_leaving.get(&after.address(id)).copied();
                    let held = known.map_or(0, |node| self.held_claim(node));
                    let node = match known {
                        Some(node) => node,
                        None => self.create(manifest, id, &after),
                    };
                    self.place(manifest, id, node, &after);
                    if known.is_some() {
                        self.respecify(node, None);
                    }
                    handover.passes(node, held, after.claim(id));
                    handover.takes(node, after.claim(id));
                    changed.push(node);
                }
                Pair::Both(before_id, id) => {
                    let Some(node) = self.node_in(old, before_id) else { continue };
                    self.place(manifest, id, node, &after);
                    let same = units::diff::is_same((&before, before_id), (&after, id));
                    handover.passes(node, before.claim(before_id), after.claim(id));
                    if self.respecify(node, Some(same))
                        || self.may_work_now(node, (&before, before_id), (&after, id))
                    {
                        changed.push(node);
                    }
                    stay.push((node, before_id, id));
                }
            }
        }
        if intended {
            self.blame(old, &changed, &stay);
        }
        self.release(old);
        self.hand_over(handover);
        self.recount();
        for node in self.all() {
            self.adopt_edges(node, intended);
        }
        for node in self.all() {
            self.follow(node);
        }
        for node in changed {
            self.mark(node, bits::INTENDED, intended);
            self.mark(node, bits::WAS_BAD, false);
        }
        for node in self.all() {
            self.rethink_want(node);
            self.enqueue(node);
        }
    }

    /// The generation that an interrupted apply came from is about to become the desired one.
    pub(crate) fn await_undo(&mut self, manifest: ManifestRef, to: u64) {
        self.globals_changed = true;
        if let Some((earlier, _)) = self.awaited_undo.replace((manifest, to)) {
            self.let_go(earlier);
        }
    }

    /// What an interrupted apply has left is undone now, if that waits for the swap that was just made.
    pub(crate) fn undo_awaited(&mut self) {
        let Some((manifest, to)) = self.awaited_undo.take() else { return };
        if let Some(interrupted) = self.manifest_of(manifest).cloned() {
            self.undo_interrupted(manifest, &interrupted, to);
        }
        self.let_go(manifest);
    }

    /// Takes away what an interrupted apply may have left: its units that the desired manifest does not declare
    /// join as leaving ones, and those that differ, or that it had removed, converge as part of a return.
    pub(crate) fn undo_interrupted(&mut self, manifest: ManifestRef, interrupted: &Manifest, to: u64) {
        self.undoing = Some(to);
        self.converged = false;
        self.globals_changed = true;
        let Some(desired) = self.manifest_of(self.desired).cloned() else { return };
        for id in desired.ids() {
            let touched = match interrupted.find(desired.kind(id), desired.name(id)) {
                Some(same) => interrupted.unit_digest(same) != desired.unit_digest(id),
                // It may be gone, and with it who made it, and what nobody declares of it.
                None => desired.kind(id).class() == Class::Committer,
            };
            if touched && let Some(node) = self.node_in(self.desired, id) {
                self.mark(node, bits::INTENDED, true);
                self.touched(node);
            }
        }
        self.join_leaving(manifest, interrupted, true);
    }

    /// Removes what nobody declares any more, as soon as it can be.
    pub(crate) fn purge_left(&mut self, manifest: ManifestRef, left: &Manifest) {
        self.join_leaving(manifest, left, false);
    }

    /// The units of a manifest that the desired one does not declare join as leaving ones.
    fn join_leaving(&mut self, manifest: ManifestRef, from: &Manifest, intended: bool) {
        let Some(desired) = self.manifest_of(self.desired).cloned() else { return };
        let mut known: BTreeSet<Address> = BTreeSet::new();
        for node in self.all() {
            let address = self.address(node);
            self.place_everywhere(node, &address);
            known.insert(address);
        }
        let mut joined = Vec::new();
        for id in from.ids() {
            if from.kind(id).class() != Class::Committer || known.contains(&from.address(id)) {
                continue;
            }
            let node = self.create(manifest, id, from);
            self.mark(node, bits::INTENDED, intended);
            // It takes its place among the uses, so that what lies in a directory goes before it.
            self.m(node).set(bits::UP, true);
            self.up += 1;
            joined.push(node);
        }
        let mut handover = Handover::default();
        for id in desired.ids() {
            if let Some(node) = self.node_in(self.desired, id) {
                handover.takes(node, desired.claim(id));
            }
        }
        self.hand_over(handover);
        self.recount();
        for node in joined {
            self.rethink_want(node);
            self.enqueue(node);
        }
    }

    /// A unit that is not in the new manifest keeps the old one alive until it is gone.
    fn leave_manifest(&mut self, node: Node, old: ManifestRef, id: UnitId) {
        let up = self.u(node).has(bits::UP);
        self.m(node).number = Number::NONE;
        // Nobody compares what is not declared.
        self.m(node).set(bits::COMPARED, false);
        if !up {
            let made = self.u(node).made;
            self.retain(old);
            self.release(made);
            let unit = self.m(node);
            unit.made = old;
            unit.made_id = id;
            // What it lies on may leave as well: it takes its place among the uses, so that it is removed before that goes.
            let stands = |(dep, kind): &(Node, _)| hard(*kind) && self.stands(*dep);
            if self.u(node).class() == Class::Committer && self.made_deps(node).iter().any(stands) {
                self.m(node).set(bits::UP, true);
                self.up += 1;
            }
        }
    }

    fn create(&mut self, manifest: ManifestRef, id: UnitId, after: &Manifest) -> Node {
        let class = after.kind(id).class();
        let state = match class {
            Class::Service => State::Service(Box::new(Service::new())),
            Class::Committer | Class::Helper | Class::Exec => State::Latch(Latch::new()),
            Class::Mount => State::Mount(Box::new(Mount::new())),
            Class::Target => State::Target,
        };
        let unit = Unit {
            made: manifest,
            made_id: id,
            class: Unit::class_number(class),
            want: Want::Down,
            state,
            ..Unit::blank()
        };
        self.retain(manifest);
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                self.nodes.push(Unit::blank());
                u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let node = Node(number);
        *self.m(node) = unit;
        self.place_everywhere(node, &after.address(id));
        node
    }

    /// Gives a node its number in the new manifest.
    fn place(&mut self, manifest: ManifestRef, id: UnitId, node: Node, after: &Manifest) {
        if let Some(generation) = self.gens.get_mut(&manifest)
            && let Some(place) = generation.node_of.get_mut(id.index())
        {
            *place = node.0;
        }
        let needs_store = match after.kind(id).class() {
            Class::Exec => matches!(
                after.spec(id),
                Some(Spec::Exec(e)) if matches!(e.once, Some(Once::Ever | Once::Generation))
            ),
            Class::Service | Class::Committer | Class::Helper | Class::Mount | Class::Target => false,
        };
        let unit = self.m(node);
        unit.set(bits::SHADE, false);
        unit.number = Some(id).into();
        unit.flags = after.flags(id);
        unit.set(bits::NEEDS_STORE, needs_store);
        if needs_store {
            self.lists.for_store.insert(node);
        } else {
            self.lists.for_store.remove(&node);
        }
    }

    /// The unit has a specification in the new manifest; `same`: as in the manifest before. Answers whether
    /// something has to be done about it.
    fn respecify(&mut self, node: Node, same: Option<bool>) -> bool {
        let same_as_before = same;
        let same = same.unwrap_or(false);
        match &self.u(node).state {
            State::Service(service) => {
                // What has run once has run as it was declared then, if a hold kept it from running again.
                let run = service.run.filter(|_| service.running() || service.phase == Phase::Done);
                let Some(id) = self.u(node).id() else { return false };
                let digest = |m: ManifestRef, u: UnitId| self.manifest_of(m).map(|m| m.unit_digest(u));
                let as_running = run.is_some_and(|(m, u)| digest(m, u) == digest(self.desired, id));
                if as_running {
                    self.settle_service(node);
                    return !same;
                }
                if same {
                    // It may owe a restart to an earlier change, which this one does not answer for.
                    return false;
                }
                let new = self.desired_spec(node);
                let old = run.and_then(|at| self.spec_at(at));
                let switch = match (old, new) {
                    (Some(old), Some(new)) => units::diff::switch(&old, &new).switch,
                    (None, _) | (_, None) => units::diff::Switch::Restart,
                };
                self.settle_service(node);
                self.switch_service(node, switch);
                true
            }
            State::Latch(latch) => {
                let latch = *latch;
                if same {
                    if matches!(latch.work, Work::Backoff { .. }) {
                        self.with_latch(node, |l| l.fails = 0);
                        self.set_work(node, Work::Waiting);
                    }
                    return false;
                }
                self.fights.remove(&node);
                self.details.remove(&node);
                self.with_latch(node, |l| {
                    l.right = false;
                    l.again = true;
                    l.fails = 0;
                    l.shown = Shown::Unknown;
                    if !matches!(l.work, Work::Job { .. }) {
                        l.step = ExecStep::Guard;
                    }
                });
                if !matches!(latch.work, Work::Batch | Work::Job { .. }) {
                    self.with_latch(node, |l| l.again = false);
                    self.set_work(node, Work::Waiting);
                }
                true
            }
            State::Mount(mount) => {
                let holds = matches!(
                    mount.phase,
                    MountPhase::Up | MountPhase::Mounting { .. } | MountPhase::Remounting { .. }
                );
                // What counts is how it was mounted: one that was leaving may come back as it is.
                let as_mounted = self.is_mounted_as_desired(node);
                let stands = as_mounted && !self.u(node).has(bits::UNSURE);
                if mount.phase == MountPhase::Stuck && stands && same_as_before.is_none() {
                    // It was in use when it had to go, and stands as it did before.
                    self.stands_again(node);
                    return true;
                }
                if mount.phase == MountPhase::Stuck && !as_mounted && same_as_before.is_some() {
                    self.m(node).set(bits::KEEP, true);
                }
                let asked = self.u(node).has(bits::BOUNCE) && self.remount_is_asked(node);
                self.m(node).set(bits::BOUNCE, holds && (!as_mounted || asked));
                !same
            }
            State::Target | State::Gone => false,
        }
    }

    /// One that had given up gets a new try when it depends on something that it did not depend on before: the user
    /// that it runs as, or what makes its program.
    fn may_work_now(&mut self, node: Node, old: (&Manifest, UnitId), new: (&Manifest, UnitId)) -> bool {
        if self.svc(node).is_none_or(|s| s.phase != Phase::Failed) {
            return false;
        }
        let needs = |m: &Manifest, id: UnitId| -> BTreeSet<Address> {
            m.deps(id).filter(|e| hard(e.kind)).map(|e| m.address(e.unit)).collect()
        };
        let more = !needs(new.0, new.1).is_subset(&needs(old.0, old.1));
        if more {
            self.m(node).set(bits::BOUNCE, true);
        }
        more
    }

    /// Takes back a bounce that an earlier swap had ordered.
    fn settle_service(&mut self, node: Node) {
        self.stop_whenever(node);
        let asked = self.restart_is_asked(node);
        self.m(node).set(bits::BOUNCE, asked);
        self.m(node).set(bits::KEEP, false);
    }

    /// What it requires need not wait for its stop any more.
    pub(crate) fn stop_whenever(&mut self, node: Node) {
        if self.u(node).has(bits::STOP_FIRST) {
            self.m(node).set(bits::STOP_FIRST, false);
            for (dep, kind) in self.made_deps(node) {
                if hard(kind) {
                    self.unblock(dep);
                }
            }
        }
    }

    /// Moves running edges to the new manifest where the unit stays up, and learns the new inputs.
    fn adopt_edges(&mut self, node: Node, intended: bool) {
        if self.u(node).id().is_none() {
            return;
        }
        let inputs = self.input_hashes(node);
        let bounces = self.u(node).has(bits::BOUNCE);
        let hash = self.input_hash(node);
        let unit = self.u(node);
        match &unit.state {
            State::Service(service) => {
                let differ = service.inputs != inputs;
                let stopping = matches!(service.phase, Phase::Stopping { .. });
                let same_spec = service.run.is_some() && !bounces && !unit.has(bits::KEEP) && !stopping;
                if !unit.has(bits::UP) {
                    self.rebase(node);
                }
                if same_spec {
                    self.run_desired(node);
                }
                if let Some(service) = self.svc_mut(node) {
                    service.inputs = inputs;
                    if differ {
                        service.reload_failed = false;
                    }
                }
            }
            State::Latch(latch) => {
                let class = unit.class();
                let latch = *latch;
                if !unit.has(bits::UP) {
                    self.rebase(node);
                }
                if intended && matches!(latch.shown, Shown::Changed | Shown::Repaired) {
                    self.with_latch(node, |l| l.shown = Shown::Kept);
                }
                if class == Class::Exec && self.exec_inputs_differ(node, hash) {
                    if matches!(latch.work, Work::Batch | Work::Job { .. }) {
                        self.with_latch(node, |l| l.again = true);
                    } else {
                        self.with_latch(node, |l| l.step = ExecStep::Guard);
                        self.set_work(node, Work::Waiting);
                    }
                    self.mark(node, bits::INTENDED, intended);
                }
            }
            State::Mount(_) => {
                if !unit.has(bits::UP) {
                    self.rebase(node);
                }
            }
            State::Target => {
                if !unit.has(bits::UP) {
                    self.rebase(node);
                }
            }
            State::Gone => {}
        }
    }

    /// Whether the inputs of an exec are others than in the manifest before.
    fn exec_inputs_differ(&mut self, node: Node, hash: u64) -> bool {
        let known = self.exec_inputs.insert(node, hash);
        if known != Some(hash) {
            self.changed.insert(node);
        }
        known.is_some_and(|k| k != hash)
    }

    /// Digests of what a unit reloads on and restarts on, as desired: 0 for none.
    pub(crate) fn input_hashes(&self, node: Node) -> (u64, u64) {
        match (self.u(node).id(), self.manifest_of(self.desired)) {
            (Some(id), Some(manifest)) => input_hashes(manifest, id),
            _ => (0, 0),
        }
    }

    /// Both in one: what an exec is asked about.
    pub(crate) fn input_hash(&self, node: Node) -> u64 {
        both(self.input_hashes(node))
    }

    /// Counts every edge from scratch, by the cached predicates and by who is up.
    pub(crate) fn recount(&mut self) {
        self.recount_uses();
        self.lists.behind = self.count_behind();
        for node in self.all() {
            let (mut not_ok, mut not_ready, mut dead, mut unsettled) = (0, 0, 0, 0);
            self.recount_running(node);
            for (dep, kind) in self.deps(node) {
                let unit = self.u(dep);
                if hard(kind) {
                    not_ok += u32::from(!unit.has(bits::OK));
                    not_ready += u32::from(!unit.has(bits::READY));
                    dead += u32::from(unit.has(bits::SETTLED) && !unit.has(bits::OK));
                } else if soft(kind) {
                    unsettled += u32::from(!unit.has(bits::SETTLED));
                }
            }
            let wanted_by = self.rdeps(node);
            let demand = wanted_by.iter().filter(|(u, k)| hard(*k) && self.u(*u).want == Want::Up).count();
            self.count(node, |its| {
                (its.not_ok, its.not_ready, its.dead) = (not_ok, not_ready, dead);
                its.unsettled = unsettled;
                its.demand = u32::try_from(demand).unwrap_or(u32::MAX);
            });
        }
    }

    /// Who is used by whom, and who waits for whom to stop.
    fn recount_uses(&mut self) {
        for node in self.all() {
            self.looked(1);
            self.count(node, |its| (its.users, its.blocked) = (0, 0));
        }
        for node in self.all() {
            let (up, first) = (self.u(node).has(bits::UP), self.u(node).has(bits::STOP_FIRST));
            if !up {
                continue;
            }
            for (dep, kind) in self.made_deps(node) {
                if hard(kind) {
                    self.looked(1);
                    self.count(dep, |its| {
                        its.users += 1;
                        its.blocked += u32::from(first);
                    });
                }
            }
        }
        let waiting: Vec<Node> = self.claims.values().flatten().copied().collect();
        for node in waiting {
            self.count(node, |its| its.blocked += 1);
        }
    }

    /// Gives a unit its place in every manifest that knows its address.
    fn place_everywhere(&mut self, node: Node, address: &Address) {
        for generation in self.gens.values_mut() {
            if let Some(id) = generation.manifest.find(address.kind, &address.name)
                && let Some(place) = generation.node_of.get_mut(id.index())
            {
                *place = node.0;
            }
        }
    }

    /// The unit is gone: from every manifest, list and counter.
    pub(crate) fn remove(&mut self, node: Node) {
        if matches!(self.u(node).state, State::Gone) || self.stays_as_shade(node) {
            return;
        }
        self.publish(node, "gone");
        self.go_down(node);
        let address = self.address(node);
        // Whoever runs with an edge to it has one edge less.
        for (user, _) in self.running_rdeps(node) {
            self.enqueue(user);
        }
        self.forget_running(node);
        for generation in self.gens.values_mut() {
            if let Some(id) = generation.manifest.find(address.kind, &address.name)
                && let Some(place) = generation.node_of.get_mut(id.index())
                && *place == node.0
            {
                *place = u32::MAX;
            }
        }
        let run = self.svc(node).and_then(|s| s.run);
        let made = self.u(node).made;
        self.release(made);
        if let Some((run, _)) = run {
            self.release(run);
        }
        self.forget_claims(node);
        for timer in [super::Timer::State, super::Timer::Watchdog, super::Timer::Hold] {
            self.timers.clear(node, timer);
        }
        self.runnable.remove(&node);
        self.holds.remove(&node);
        self.lifted.remove(&node);
        self.fights.remove(&node);
        self.details.remove(&node);
        self.exec_inputs.remove(&node);
        self.globals_changed = true;
        self.busy -= u32::from(self.u(node).has(bits::BUSY));
        self.unlist(node);
        self.count(node, |its| *its = Counters::default());
        *self.m(node) = Unit::blank();
        self.departed.insert(node, address);
        self.free.insert(node.0);
        self.ask_gone(node);
    }
}
