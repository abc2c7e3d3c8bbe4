//! Everything that the engine keeps although it could be derived, compared with a derivation from scratch.
//!
//! Never called on a machine: the simulator calls it after every step. What it finds is a bug of the engine.

use std::collections::BTreeMap;

use super::apply::ApplyPhase;
use super::blame::FLAPS;
use super::effect::Job;
use super::graph::{Predicates, hard, soft};
use super::tally::{Lists, Standing};
use super::timer::Timer;
use super::unit::{MountPhase, NOBODY, Phase, State, Want, Work, bits};
use super::{Engine, Mono, Node};
use crate::proto::ManifestRef;

/// Sizes of everything that could grow without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Places for units, free ones included.
    pub places: usize,
    /// Units.
    pub units: usize,
    /// Manifests.
    pub manifests: usize,
    /// Serial numbers that are waited for.
    pub serials: usize,
    /// Deadlines.
    pub timers: usize,
    /// Requests that are not answered.
    pub asks: usize,
    /// Entries of the other tables.
    pub other: usize,
}

impl Engine {
    /// How much the engine holds.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            places: self.nodes.len(),
            units: self.all().count(),
            manifests: self.gens.len(),
            serials: self.serials.len(),
            timers: self.timers.all().count(),
            asks: self.asks.len() + usize::from(self.again.is_some()),
            other: self.holds.len()
                + self.lifted.len()
                + self.fights.len()
                + self.details.len()
                + self.exec_inputs.len()
                + self.claims.len()
                + self.pending.len(),
        }
    }

    /// Every deadline: when, of which unit (`None`: of the engine itself), and what for.
    pub fn deadlines(&self) -> impl Iterator<Item = (Mono, Option<Node>, &'static str)> {
        self.timers.all().map(|(at, node, timer)| {
            let word = match timer {
                Timer::State => "state",
                Timer::Watchdog => "watchdog",
                Timer::Hold => "hold",
                Timer::Batch => "batch",
                Timer::Stable => "stable",
                Timer::Shutdown => "shutdown",
            };
            (at, (node != NOBODY).then_some(node), word)
        })
    }

    /// The first thing that is not as it would be derived; `None` when all is well. Only between two steps.
    pub fn audit(&self) -> Option<String> {
        if !self.queue.is_empty() || !self.outdated.is_empty() {
            return Some("the queues are not empty after a step".to_owned());
        }
        for node in self.all() {
            let found = self
                .audit_predicates(node)
                .or_else(|| self.audit_counters(node))
                .or_else(|| self.audit_timers(node))
                .or_else(|| self.audit_process(node));
            if let Some(text) = found {
                return Some(format!("{}: {text}", self.address(node)));
            }
        }
        self.audit_sums()
            .or_else(|| self.audit_serials())
            .or_else(|| self.audit_places())
            .or_else(|| self.audit_references())
    }

    /// The first unit that could go on and does not; `None` when none stands still. Only between two steps.
    pub fn stands_still(&self) -> Option<String> {
        if self.left {
            return None;
        }
        self.all().find_map(|node| {
            let unit = self.u(node);
            let open = unit.want == Want::Up
                && self.gate_open(node)
                && !self.left_alone(node)
                && !unit.has(bits::GOING);
            let still = match &unit.state {
                State::Service(s) => match s.phase {
                    Phase::Down => {
                        (unit.want == Want::Absent && !self.is_left_behind(node))
                            || (unit.want == Want::Up && !self.left_alone(node))
                    }
                    Phase::Waiting => open || unit.want != Want::Up,
                    Phase::Ready => open && (unit.has(bits::BOUNCE) || s.reload_asked),
                    Phase::Done | Phase::Failed | Phase::Backoff { .. } => {
                        unit.want != Want::Up || (open && unit.has(bits::BOUNCE))
                    }
                    Phase::Starting | Phase::Reloading { .. } | Phase::Stopping { .. } => false,
                },
                State::Latch(l) => match l.work {
                    Work::Waiting => {
                        open && !self.holds.contains_key(&node)
                            && (self.store_open || !unit.has(bits::NEEDS_STORE))
                    }
                    Work::Queued => self.batch.is_none(),
                    Work::Idle => {
                        unit.want == Want::Absent && self.may_stop(node) && !self.is_left_behind(node)
                    }
                    Work::Settling { .. }
                    | Work::Batch
                    | Work::Job { .. }
                    | Work::Backoff { .. }
                    | Work::Contested { .. } => false,
                    Work::Deferred => unit.want == Want::Up,
                },
                State::Mount(m) => match m.phase {
                    MountPhase::Down => unit.want != Want::Down && !self.is_left_behind(node),
                    MountPhase::Waiting => open || unit.want != Want::Up,
                    MountPhase::Stuck => unit.has(bits::UNSURE) || self.may_stand_again(node),
                    MountPhase::Mounting { .. }
                    | MountPhase::Up
                    | MountPhase::Remounting { .. }
                    | MountPhase::Unmounting { .. }
                    | MountPhase::Backoff { .. } => false,
                },
                State::Target => open && !unit.has(bits::OK),
                State::Gone => false,
            };
            still.then(|| {
                format!("{} could go on (bits {:#x}): {:?}", self.address(node), unit.bits, unit.state)
            })
        })
    }

    fn audit_predicates(&self, node: Node) -> Option<String> {
        let unit = self.u(node);
        let cached = Predicates {
            ok: unit.has(bits::OK),
            ready: unit.has(bits::READY),
            settled: unit.has(bits::SETTLED),
            going: unit.has(bits::GOING),
        };
        let derived = self.predicates(node);
        if cached != derived {
            return Some(format!("cached {cached:?}, derived {derived:?}"));
        }
        if unit.has(bits::QUEUED | bits::OUTDATED) {
            return Some("marked as queued although the queues are empty".to_owned());
        }
        let wanted = self.wanted(node);
        (unit.want != wanted).then(|| format!("want {:?}, derived {wanted:?}", unit.want))
    }

    fn audit_counters(&self, node: Node) -> Option<String> {
        let (mut not_ok, mut not_ready, mut dead, mut unsettled) = (0, 0, 0, 0);
        let (mut sinking, mut shaky) = (0, 0);
        for (dep, kind) in self.deps(node) {
            let p = self.predicates(dep);
            if hard(kind) {
                not_ok += u32::from(!p.ok);
                not_ready += u32::from(!p.ready);
                dead += u32::from(p.settled && !p.ok);
            } else if soft(kind) {
                unsettled += u32::from(!p.settled);
            }
        }
        for (dep, kind) in self.made_deps(node) {
            let p = self.predicates(dep);
            shaky += u32::from(kind == units::EdgeKind::Binds && !(p.ok && p.ready));
            sinking += u32::from(hard(kind) && p.going);
        }
        let demand = self.rdeps(node).iter().filter(|(u, k)| hard(*k) && self.u(*u).want == Want::Up).count();
        let (mut users, mut blocked) = (0u32, 0u32);
        for user in self.all().filter(|n| self.u(*n).has(bits::UP)) {
            let uses = self.made_deps(user).iter().filter(|(d, k)| *d == node && hard(*k)).count();
            let uses = u32::try_from(uses).unwrap_or(u32::MAX);
            users += uses;
            if self.u(user).has(bits::STOP_FIRST) {
                blocked += uses;
            }
        }
        blocked += u32::try_from(self.claims.values().flatten().filter(|n| **n == node).count()).unwrap_or(0);
        let kept = self.counters(node);
        let demand = u32::try_from(demand).unwrap_or(u32::MAX);
        for (name, kept, counted) in [
            ("not_ok", kept.not_ok, not_ok),
            ("not_ready", kept.not_ready, not_ready),
            ("dead", kept.dead, dead),
            ("unsettled", kept.unsettled, unsettled),
            ("sinking", kept.sinking, sinking),
            ("shaky", kept.shaky, shaky),
            ("demand", kept.demand, demand),
            ("users", kept.users, users),
            ("blocked", kept.blocked, blocked),
        ] {
            if kept != counted {
                return Some(format!("counter {name} is {kept}, counted {counted}"));
            }
        }
        None
    }

    /// A state that ends by a deadline has one, and no other has.
    fn audit_timers(&self, node: Node) -> Option<String> {
        let unit = self.u(node);
        let (must, may) = match &unit.state {
            State::Service(s) => match s.phase {
                Phase::Backoff { .. } => (true, true),
                Phase::Stopping { stuck, .. } => (!stuck, !stuck),
                Phase::Starting | Phase::Reloading { .. } => (false, true),
                Phase::Down | Phase::Waiting | Phase::Ready | Phase::Failed | Phase::Done => (false, false),
            },
            State::Latch(l) => match l.work {
                Work::Settling { .. } | Work::Backoff { .. } | Work::Contested { .. } => (true, true),
                Work::Job { .. } => (false, true),
                Work::Idle | Work::Waiting | Work::Queued | Work::Batch | Work::Deferred => (false, false),
            },
            State::Mount(m) => match m.phase {
                MountPhase::Backoff { .. } => (true, true),
                MountPhase::Mounting { .. }
                | MountPhase::Remounting { .. }
                | MountPhase::Unmounting { .. } => (false, true),
                MountPhase::Down | MountPhase::Waiting | MountPhase::Up | MountPhase::Stuck => (false, false),
            },
            State::Target | State::Gone => (false, false),
        };
        let has = self.timers.get(node, Timer::State).is_some();
        if must && !has {
            return Some(format!("{} without a deadline", self.state_word(node)));
        }
        if has && !may {
            return Some(format!("{} with a deadline", self.state_word(node)));
        }
        let watched =
            self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Ready | Phase::Reloading { .. }));
        if self.timers.get(node, Timer::Watchdog).is_some() && !watched {
            return Some(format!("{} with a watchdog", self.state_word(node)));
        }
        let until = self.holds.get(&node).and_then(|h| h.until);
        (self.timers.get(node, Timer::Hold) != until).then(|| "hold and its deadline differ".to_owned())
    }

    /// Phase, place in the order and process belong together.
    fn audit_process(&self, node: Node) -> Option<String> {
        let unit = self.u(node);
        let up = unit.has(bits::UP);
        match &unit.state {
            State::Service(s) => {
                if s.running() != up {
                    return Some(format!("{:?}, but place in the order of stops: {up}", s.phase));
                }
                if !s.running() && (s.alive || s.occupied) {
                    return Some(format!("{:?} with a process", s.phase));
                }
                if s.side.iter().any(|s| self.serials.get(s).is_none_or(|(n, _)| *n != node)) {
                    return Some("a side process that nobody waits for".to_owned());
                }
                if s.running() && s.run.is_none() {
                    return Some(format!("{:?} without a specification", s.phase));
                }
                let known = self.serials.contains_key(&s.serial);
                (known != s.running()).then(|| format!("{:?}, but serial known: {known}", s.phase))
            }
            State::Mount(m) => {
                let holds = matches!(
                    m.phase,
                    MountPhase::Mounting { .. }
                        | MountPhase::Up
                        | MountPhase::Remounting { .. }
                        | MountPhase::Unmounting { .. }
                );
                (holds != up).then(|| format!("{:?}, but place in the order of stops: {up}", m.phase))
            }
            State::Latch(l) => {
                let queued = self.runnable.contains(&node);
                if queued != matches!(l.work, Work::Queued) {
                    return Some(format!("{:?}, but in line: {queued}", l.work));
                }
                if l.work == Work::Queued && self.batch.is_none() {
                    return Some("in line although the worker is free".to_owned());
                }
                let with_worker =
                    self.batch.as_ref().is_some_and(|b| b.open.values().any(|(n, _)| *n == node));
                (with_worker != (l.work == Work::Batch))
                    .then(|| format!("{:?}, but in the batch: {with_worker}", l.work))
            }
            State::Target | State::Gone => None,
        }
    }

    fn audit_sums(&self) -> Option<String> {
        let count = |bit| self.all().filter(|n| self.u(*n).has(bit)).count();
        for (name, kept, counted) in
            [("busy", self.busy, count(bits::BUSY)), ("up", self.up, count(bits::UP))]
        {
            if kept as usize != counted {
                return Some(format!("counter {name} is {kept}, counted {counted}"));
            }
        }
        if let Some(text) = self.audit_lists() {
            return Some(text);
        }
        let timed = self.timers.get(NOBODY, Timer::Batch).is_some();
        let awaited = self.batch.is_some() || self.awaits_record();
        if timed != awaited {
            return Some(format!("worker awaited: {awaited}, with a deadline: {timed}"));
        }
        let stable = self.apply.as_ref().is_some_and(|a| a.phase == ApplyPhase::Stable);
        let quiet = self.timers.get(NOBODY, Timer::Stable).is_some();
        if quiet != stable && !(quiet && self.again.is_some()) {
            return Some(format!("quiet time awaited: {stable}, but deadline: {}", !stable));
        }
        let leaving = self.down.is_some() && !self.left;
        (self.timers.get(NOBODY, Timer::Shutdown).is_some() != leaving)
            .then(|| format!("leaving: {leaving}, but deadline: {}", !leaving))
    }

    /// What is listed and counted along the way, from scratch.
    fn audit_lists(&self) -> Option<String> {
        let mut lists = Lists::default();
        for node in self.all() {
            let unit = self.u(node);
            let standing = self.standing(node);
            let tired = unit.has(bits::BUSY) && self.svc(node).is_some_and(|s| s.tries >= FLAPS);
            let deferred = self.latch(node).is_some_and(|l| l.work == Work::Deferred);
            for (list, on) in [
                (
                    &mut lists.bad,
                    unit.want == Want::Up && !unit.has(bits::OK) && !self.holds.contains_key(&node),
                ),
                (&mut lists.guilty, unit.has(bits::BAD) && self.is_to_blame(node)),
                (&mut lists.not_kept, standing == Standing::NotKept),
                (&mut lists.tired, tired),
                (&mut lists.marked, unit.has(bits::OF_APPLY)),
                (&mut lists.awaited, unit.has(bits::AWAITED)),
                (&mut lists.raised, unit.has(bits::RAISED)),
                (&mut lists.late, unit.has(bits::AWAITED) && self.may_never_end(node)),
                (&mut lists.going, unit.has(bits::GOING) && unit.has(bits::UP)),
                (&mut lists.deferred, deferred),
                (&mut lists.for_store, unit.has(bits::NEEDS_STORE)),
            ] {
                if on {
                    list.insert(node);
                }
            }
            if let Some(count) = lists.counts.get_mut(standing as usize) {
                *count += 1;
            }
        }
        let pairs = self.claims.iter().flat_map(|(holder, takers)| takers.iter().map(|t| (*t, *holder)));
        lists.takers = pairs.collect();
        lists.behind = self.count_behind();
        (lists != self.lists).then(|| format!("the lists are {:?}, counted {lists:?}", self.lists))
    }

    fn audit_serials(&self) -> Option<String> {
        for (serial, (node, job)) in &self.serials {
            let at_it = match (&self.u(*node).state, job) {
                (State::Service(s), Job::Main) => s.serial == *serial && s.running(),
                (State::Service(s), Job::Reload) => {
                    matches!(s.phase, Phase::Reloading { job, .. } if job == *serial)
                }
                (State::Service(s), Job::Stop) => matches!(s.phase, Phase::Stopping { .. }),
                (State::Service(s), Job::AwaitPath) => s.phase == Phase::Starting,
                (State::Latch(l), Job::Module | Job::Unless | Job::Exec | Job::Undo) => {
                    l.work == Work::Job { serial: (*serial).into() }
                }
                (State::Mount(m), Job::Mount) => {
                    let serial = *serial;
                    [MountPhase::Mounting { serial }, MountPhase::Remounting { serial }].contains(&m.phase)
                }
                (State::Mount(m), Job::Unmount) => m.phase == MountPhase::Unmounting { serial: *serial },
                _ => false,
            };
            if !self.serials_of(*node).contains(&(*serial, *job)) {
                return Some(format!("{} does not name spawn {serial} in its record", self.address(*node)));
            }
            if !at_it {
                let word = self.state_word(*node);
                return Some(format!("{} ({word}) does not wait for spawn {serial}", self.address(*node)));
            }
        }
        None
    }

    fn audit_places(&self) -> Option<String> {
        for (number, generation) in &self.gens {
            for id in generation.manifest.ids() {
                let Some(node) = self.node_in(*number, id) else { continue };
                if matches!(self.u(node).state, State::Gone) {
                    return Some(format!("manifest {} points to a unit that is gone", number.0));
                }
                if self.address(node) != generation.manifest.address(id) {
                    return Some(format!("manifest {} points to another unit", number.0));
                }
            }
        }
        let desired = self.gens.get(&self.desired)?;
        for id in desired.manifest.ids() {
            let node = self.node_in(self.desired, id);
            if node.is_none_or(|n| self.u(n).id() != Some(id)) {
                return Some(format!("{} is desired and has no place", desired.manifest.address(id)));
            }
        }
        for (leaving, waiting) in &self.claims {
            if matches!(self.u(*leaving).state, State::Gone) || waiting.contains(leaving) {
                return Some("a claim is waited for that nobody holds".to_owned());
            }
        }
        let tables =
            self.holds.keys().chain(self.lifted.keys()).chain(self.fights.keys()).chain(self.details.keys());
        for node in tables.chain(self.exec_inputs.keys()).chain(self.timers.of_units()) {
            if matches!(self.u(*node).state, State::Gone) {
                return Some(format!("something is kept of place {}, which is free", node.0));
            }
        }
        None
    }

    fn audit_references(&self) -> Option<String> {
        let mut counted: BTreeMap<ManifestRef, u32> = BTreeMap::new();
        let mut named = vec![self.desired];
        if let Some(apply) = &self.apply {
            named.extend([apply.manifest, apply.from.0]);
        }
        named.extend(self.next_swap.map(|n| n.manifest));
        named.extend(self.pending.iter().copied());
        named.extend(self.batch.iter().flat_map(super::batch::Batch::manifests));
        for node in self.all() {
            named.push(self.u(node).made);
            named.extend(self.svc(node).and_then(|s| s.run).map(|r| r.0));
        }
        for manifest in named {
            *counted.entry(manifest).or_default() += 1;
        }
        for (number, generation) in &self.gens {
            let counted = counted.remove(number).unwrap_or(0);
            if counted != generation.refs {
                let kept = generation.refs;
                return Some(format!("manifest {} has {kept} references, counted {counted}", number.0));
            }
        }
        counted.keys().next().map(|m| format!("manifest {} is referred to and forgotten", m.0))
    }
}
