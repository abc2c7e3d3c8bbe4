//! The invariants, checked after every step by an observer that sees events, effects and the world, and that
//! believes the engine only where it says what it says to people.

mod answers;
mod batches;
mod blame;
mod changes;
mod down;
mod hands;
mod heard;
mod questions;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cm_core::engine::effect::{Effect, Job, Verdict};
use cm_core::engine::event::{Event, Exit, Swap, Verb};
use cm_core::engine::{Engine, Glance, Mono, Node};
use cm_core::proto::{Action, Intent, ManifestRef, Outcome, Step};
use units::kind::Spec;
use units::kind::service::Ready;
use units::{EdgeKind, Kind, UnitId};

use super::graph::slot_of;
use super::world::World;
pub use questions::keeps_old;
use questions::{Observed, by_word, declared, depends, running_ready, waits_for};

/// What must always hold. Each has a test in which it is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Nothing starts before what it requires is ready and not dirty.
    StartsInOrder,
    /// Nothing is asked to stop, because it is not wanted, before those who require it are down.
    StopsInOrder,
    /// At rest every unit is kept, changed, repaired, held, waiting with a cause, or not kept with a reason.
    DirtyEnds,
    /// What could run does not stand still.
    NothingStandsStill,
    /// `stale` ends.
    StaleEnds,
    /// The desired manifest is that of the last request that was accepted, or what it returned to.
    LastApplyWins,
    /// Each request has exactly one answer.
    OneAnswer,
    /// An apply of what is current is answered when what it tries again has ended, and not as done where that has failed.
    AgainIsTrue,
    /// One main process a service at a time.
    OneMainProcess,
    /// A number names one spawn, batch or record for ever.
    NumbersAreUnique,
    /// One batch at a time, in an order that fits the edges.
    OneBatch,
    /// Work is proportional to what changed and what depends on it.
    BoundedWork,
    /// What is counted along the way equals a count from scratch.
    CountersAgree,
    /// Nothing grows with the length of a history.
    BoundedMemory,
    /// The engine never meets a pair that cannot be.
    NoDefect,
    /// After a tick no deadline has passed.
    DeadlinesAhead,
    /// The machine comes to rest, and then nothing wakes it.
    ComesToRest,
    /// A shutdown leaves, in order, and in time.
    ShutdownLeaves,
    /// A failure stops nothing that does not depend on it.
    FailuresContained,
    /// A re-exec changes nothing that can be observed.
    ReexecIdentical,
    /// What somebody holds is left alone.
    HeldLeftAlone,
    /// `converged` is said only when nothing is under way.
    ConvergedIsTrue,
    /// A manifest is forgotten only when nothing needs it.
    ManifestsKept,
    /// Who takes a claim waits until whoever gives it up is gone.
    ClaimsInOrder,
    /// Nobody is made to load what it has loaded.
    LoadsOnce,
    /// An apply returns only because of what it changes and what depends on that, and that return is incomplete only where
    /// something is worse than before.
    BlameIsRight,
    /// An apply is committed when nothing that it answers for had to be restarted in the quiet time before.
    TrialIsQuiet,
    /// To each unit is done what the plan promised, and the plan right after the apply is empty.
    PlanIsKept,
    /// A hold lasts until its time is over, somebody lifts it, or the machine goes down.
    HoldsSurvive,
    /// What a hand asks for is done, and what it is told of that is so.
    HandsAreHeard,
    /// A fight costs bounded work.
    FightsBounded,
    /// What is declared, held or not ours is not taken away.
    NothingForeignPurged,
}

impl Invariant {
    /// Every one.
    pub const ALL: [Invariant; 32] = [
        Invariant::StartsInOrder,
        Invariant::StopsInOrder,
        Invariant::DirtyEnds,
        Invariant::NothingStandsStill,
        Invariant::StaleEnds,
        Invariant::LastApplyWins,
        Invariant::OneAnswer,
        Invariant::AgainIsTrue,
        Invariant::OneMainProcess,
        Invariant::NumbersAreUnique,
        Invariant::OneBatch,
        Invariant::BoundedWork,
        Invariant::CountersAgree,
        Invariant::BoundedMemory,
        Invariant::NoDefect,
        Invariant::DeadlinesAhead,
        Invariant::ComesToRest,
        Invariant::ShutdownLeaves,
        Invariant::FailuresContained,
        Invariant::ReexecIdentical,
        Invariant::HeldLeftAlone,
        Invariant::ConvergedIsTrue,
        Invariant::ManifestsKept,
        Invariant::ClaimsInOrder,
        Invariant::LoadsOnce,
        Invariant::BlameIsRight,
        Invariant::TrialIsQuiet,
        Invariant::PlanIsKept,
        Invariant::HoldsSurvive,
        Invariant::HandsAreHeard,
        Invariant::FightsBounded,
        Invariant::NothingForeignPurged,
    ];

    /// Its name.
    pub fn name(self) -> String {
        let mut out = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_uppercase() && !out.is_empty() {
                out.push('-');
            }
            out.extend(c.to_lowercase());
        }
        out
    }
}

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.name(), self.text)
    }
}

type Found = Result<(), Violation>;

fn broken(invariant: Invariant, text: impl Into<String>) -> Found {
    Err(Violation { invariant, text: text.into() })
}

/// The steps of a batch, by the unit that they are for.
type StepsByUnit = BTreeMap<(ManifestRef, UnitId), Step>;

/// What the observer remembers.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    answers: answers::Answers,
    numbers: BTreeSet<(u8, u64)>,
    /// Slot → the spawn whose readiness the engine was told of.
    ready: BTreeMap<u8, u64>,
    mounted: BTreeSet<u8>,
    /// Slot → the specification for which it was found right, and nothing was told of it since.
    clean: BTreeMap<u8, [u8; 16]>,
    accepted: Option<(u64, [u8; 32])>,
    down: down::WayDown,
    before: BTreeMap<Node, ([u8; 16], Glance)>,
    most_units: usize,
    batch: Option<(u64, Intent, StepsByUnit)>,
    loads: BTreeMap<Node, changes::Load>,
    desired: Option<ManifestRef>,
    returns: bool,
    blame: blame::Blame,
    signalled: Option<Node>,
    hands: hands::Hands,
    heard: heard::Heard,
}

impl Checks {
    /// An observer of a machine with nothing on it.
    pub fn new() -> Checks {
        Checks::default()
    }

    /// Whether the engine has said that it leaves.
    pub const fn has_left(&self) -> bool {
        self.down.left
    }

    /// Before a step: what was so.
    pub fn note(&mut self, engine: &Engine) {
        self.answers.note(engine);
        self.before = engine.nodes().map(|n| (n, (declared(engine, n), engine.glance(n)))).collect();
    }

    /// What the worker was asked to do about a unit in the batch that it has.
    pub fn step_of(&self, manifest: ManifestRef, unit: UnitId) -> Option<(Step, Intent)> {
        let (_, intent, steps) = self.batch.as_ref()?;
        steps.get(&(manifest, unit)).map(|step| (*step, *intent))
    }

    /// What a unit was before this step.
    pub fn was(&self, node: Node) -> Option<Glance> {
        self.before.get(&node).map(|(_, g)| *g)
    }

    /// Whether the unit was declared otherwise before this step.
    pub fn was_declared_otherwise(&self, engine: &Engine, node: Node) -> bool {
        self.before.get(&node).is_some_and(|(digest, _)| *digest != declared(engine, node))
    }

    /// What the engine was told; what it may rely on follows from this.
    pub fn told(&mut self, engine: &Engine, world: &World, event: &Event) {
        self.by_hand(engine, world, event);
        self.hears(engine, event);
        match event {
            Event::Spawned { serial } => {
                if let Some((node, Job::Main)) = engine.job(*serial)
                    && running_ready(engine, node) == Some(Ready::Started)
                {
                    self.ready.insert(slot_of(&engine.address(node)), *serial);
                }
            }
            Event::Ready { serial } => {
                if let Some((node, Job::Main)) = engine.job(*serial)
                    && by_word(engine, node)
                {
                    self.ready.insert(slot_of(&engine.address(node)), *serial);
                }
            }
            Event::Exited { serial, exit } => self.exited(engine, *serial, *exit),
            Event::CgroupEmpty { serial } => self.ready.retain(|slot, s| {
                let node = engine.node_of_slot(*slot);
                // Of others the exit of the main process follows.
                s != serial || node.and_then(|n| running_ready(engine, n)) != Some(Ready::Forked)
            }),
            Event::Results { batch, results } => {
                let current = self.batch.as_ref().is_some_and(|(n, _, _)| n == batch);
                for result in results.iter().filter(|_| current) {
                    let slot = world.slot(result.manifest, result.unit);
                    let digest = world.manifests.get(&result.manifest).map(|m| m.unit_digest(result.unit));
                    let step =
                        self.batch.as_ref().and_then(|(_, _, s)| s.get(&(result.manifest, result.unit)));
                    let guard = matches!(step.map(|s| s.action), Some(Action::Guard(_)));
                    let removes = matches!(step.map(|s| s.action), Some(Action::Remove | Action::Restore));
                    match (result.outcome, digest) {
                        (Outcome::Kept | Outcome::Changed, Some(digest)) if !removes => {
                            self.clean.insert(slot, digest);
                        }
                        (Outcome::Drifted, Some(digest)) if !guard => {
                            self.clean.insert(slot, digest);
                        }
                        _ => {
                            self.clean.remove(&slot);
                        }
                    }
                }
            }
            Event::Unasked { request } => self.answers.unasked(*request),
            Event::Touched { nodes } => {
                for node in nodes {
                    self.clean.remove(&slot_of(&engine.address(*node)));
                }
            }
            Event::Overflowed => {
                // Modules and commands leave nothing behind that could be watched.
                let watched = |slot: &u8| {
                    engine
                        .node_of_slot(*slot)
                        .is_some_and(|n| !matches!(engine.address(n).kind, Kind::Module))
                };
                self.clean.retain(|slot, _| !watched(slot));
            }
            Event::Unmounted { node } => {
                self.mounted.remove(&slot_of(&engine.address(*node)));
            }
            Event::Swapped { manifest, kind, .. } => self.swapped(engine, world, *manifest, *kind),
            _ => {}
        }
    }

    fn exited(&mut self, engine: &Engine, serial: u64, exit: Exit) {
        let Some((node, job)) = engine.job(serial) else { return };
        let slot = slot_of(&engine.address(node));
        // 5: the module was loaded already.
        let ok = exit == Exit::Code(0) || (job == Job::Module && exit == Exit::Code(5));
        match job {
            Job::Main => {
                let by = running_ready(engine, node);
                if ok && matches!(by, Some(Ready::Forked | Ready::Exited)) {
                    self.ready.entry(slot).or_insert(serial);
                } else {
                    self.ready.retain(|s, n| *s != slot || *n != serial);
                }
            }
            Job::AwaitPath if ok => {
                if let Some(serial) = engine.main_serial(node) {
                    self.ready.insert(slot, serial);
                }
            }
            Job::Mount if ok => {
                self.mounted.insert(slot);
            }
            // One that is in use stays mounted.
            Job::Unmount if ok || exit == Exit::Code(3) => {
                self.mounted.remove(&slot);
            }
            Job::Module | Job::Unless if ok => {
                let (manifest, unit) = engine.unit_of(node);
                if let Some(m) = engine.manifest(manifest) {
                    self.clean.insert(slot, m.unit_digest(unit));
                }
            }
            _ => {}
        }
    }

    /// After a step: everything that can be seen in it.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(
        &mut self,
        engine: &Engine,
        world: &World,
        now: Mono,
        event: &Event,
        effects: &[Effect],
    ) -> Found {
        let causes: BTreeMap<Node, &str> = effects
            .iter()
            .filter_map(|e| match e {
                Effect::Publish { node, text } => text.strip_prefix("stopping: ").map(|c| (*node, c)),
                _ => None,
            })
            .collect();
        self.may_load(engine, event, effects);
        self.goes_down(engine, now, event, effects);
        self.again(engine, world, effects)?;
        for effect in effects {
            if self.down.left
                && !matches!(effect, Effect::Log { .. } | Effect::Forget { .. } | Effect::Publish { .. })
            {
                return broken(Invariant::ShutdownLeaves, format!("{effect:?} after leaving"));
            }
            self.effect(engine, world, effect, &causes)?;
        }
        self.contained(engine, world, event, effects, &causes)?;
        self.blamed_rightly(engine, now, event, effects)?;
        self.heard(engine, effects)?;
        self.state(engine, world, now, event)
    }

    fn effect(
        &mut self,
        engine: &Engine,
        world: &World,
        effect: &Effect,
        causes: &BTreeMap<Node, &str>,
    ) -> Found {
        match effect {
            Effect::Spawn { node, serial, manifest, unit, job, .. } => {
                if !self.numbers.insert((0, *serial)) {
                    return broken(Invariant::NumbersAreUnique, format!("spawn {serial} twice"));
                }
                let slot = world.slot(*manifest, *unit);
                match job {
                    Job::Main => {
                        if let Some(other) = world.main_of(slot) {
                            let text = format!("{} starts beside spawn {other}", engine.address(*node));
                            return broken(Invariant::OneMainProcess, text);
                        }
                        self.ready.remove(&slot);
                        self.starts(engine, world, *manifest, *unit, &BTreeSet::new())?;
                        self.claims(engine, world, *manifest, *unit)?;
                        self.loads(engine, *node, true)?;
                        self.left_alone(engine, *node)
                    }
                    // Its options are repaired in place: it stands, and stays whatever becomes of what it requires.
                    Job::Mount if self.was(*node).is_some_and(|g| g.ready) && engine.glance(*node).ready => {
                        self.left_alone(engine, *node)
                    }
                    Job::Mount | Job::Module | Job::Unless | Job::Exec => {
                        self.starts(engine, world, *manifest, *unit, &BTreeSet::new())?;
                        self.left_alone(engine, *node)
                    }
                    Job::Stop => self.stops(engine, world, *node, causes),
                    Job::Unmount | Job::Undo => self.stops(engine, world, *node, causes),
                    // A hold keeps automation away, not the hand that asks for a reload.
                    Job::Reload => self.loads(engine, *node, false),
                    Job::AwaitPath => Ok(()),
                }
            }
            Effect::Signal { serial, signal: 15 } => match engine.job(*serial) {
                Some((node, Job::Main)) => self.stops(engine, world, node, causes),
                _ => Ok(()),
            },
            Effect::Signal { serial, signal: 1 } => match engine.job(*serial) {
                Some((node, Job::Main)) if self.signalled != Some(node) => self.loads(engine, node, false),
                _ => Ok(()),
            },
            Effect::Batch { batch, steps, intent, .. } => self.batch(engine, world, *batch, *intent, steps),
            Effect::KillWorker => Ok(()),
            Effect::Store { token, .. } => {
                if !self.numbers.insert((2, *token)) {
                    return broken(Invariant::NumbersAreUnique, format!("record {token} twice"));
                }
                Ok(())
            }
            Effect::Forget { manifest } => {
                let with_worker =
                    world.work.as_ref().is_some_and(|w| w.open().iter().any(|s| s.manifest == *manifest));
                let running = world.procs.iter().any(|(serial, p)| {
                    p.manifest == *manifest && p.job == Job::Main && engine.job(*serial).is_some() && {
                        // What runs may since count as started from an equal specification elsewhere.
                        engine.running_manifest(*serial) == Some(*manifest)
                    }
                });
                if with_worker || running || engine.manifest(*manifest).is_some() {
                    let who = if with_worker { "the worker" } else { "a process" };
                    return broken(Invariant::ManifestsKept, format!("{who} needs manifest {}", manifest.0));
                }
                Ok(())
            }
            Effect::Log { text, .. } if text.starts_with("defect") => {
                broken(Invariant::NoDefect, text.clone())
            }
            Effect::Log { text, .. } if world.kind && text.starts_with("leaving although") => {
                broken(Invariant::ShutdownLeaves, text.clone())
            }
            Effect::Answer { request, verdict, text, .. } => {
                self.answered(*request, *verdict, answers::is_refused(text))
            }
            Effect::Leave { .. } => self.leaves(engine, world),
            Effect::Converged => {
                if !engine.is_converged() {
                    return broken(Invariant::ConvergedIsTrue, "said, and not so");
                }
                Ok(())
            }
            Effect::Signal { .. }
            | Effect::Kill { .. }
            | Effect::Freeze { .. }
            | Effect::Compare { .. }
            | Effect::Publish { .. }
            | Effect::Log { .. } => Ok(()),
        }
    }

    /// Nothing starts before what it requires is ready, and not dirty.
    fn starts(
        &self,
        engine: &Engine,
        world: &World,
        manifest: ManifestRef,
        unit: UnitId,
        earlier: &BTreeSet<u8>,
    ) -> Found {
        let Some(m) = engine.manifest(manifest) else {
            return broken(Invariant::ManifestsKept, "something starts from a forgotten manifest");
        };
        for edge in m.deps(unit).filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds)) {
            let slot = slot_of(&m.address(edge.unit));
            if earlier.contains(&slot) {
                continue;
            }
            let Some(dep) = engine.node_in(manifest, edge.unit) else {
                let text = format!("{} requires {}, which is gone", m.address(unit), m.address(edge.unit));
                return broken(Invariant::StartsInOrder, text);
            };
            if let Some(why) = self.not_ready(engine, world, dep) {
                let text = format!("{} starts, but {} {why}", m.address(unit), m.address(edge.unit));
                return broken(Invariant::StartsInOrder, text);
            }
        }
        Ok(())
    }

    fn not_ready(&self, engine: &Engine, world: &World, node: Node) -> Option<String> {
        let glance = engine.glance(node);
        let address = engine.address(node);
        let slot = slot_of(&address);
        let says = || Some(format!("is {}", glance.state));
        match address.kind {
            Kind::Service => {
                if !matches!(glance.state, "ready" | "reloading" | "done") {
                    return says();
                }
                let Some(serial) = self.ready.get(&slot) else {
                    return Some("never said that it is ready".to_owned());
                };
                let runs = world.procs.get(serial).is_some_and(super::world::Proc::exists);
                let told = world.procs.get(serial).is_some_and(|p| !p.exists());
                (glance.state != "done" && !runs && !told).then(|| "has no process".to_owned())
            }
            Kind::Mount => {
                if !matches!(glance.state, "ready" | "repaired") {
                    return says();
                }
                (!self.mounted.contains(&slot)).then(|| "is not mounted".to_owned())
            }
            Kind::Target => {
                if glance.state != "ready" {
                    return says();
                }
                let (manifest, unit) = engine.unit_of(node);
                let m = engine.manifest(manifest)?;
                m.deps(unit)
                    .filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds))
                    .filter_map(|e| engine.node_in(manifest, e.unit))
                    .find_map(|n| self.not_ready(engine, world, n))
                    .map(|why| format!("is ready, but a member {why}"))
            }
            _ => {
                if matches!(glance.state, "contested") || glance.held {
                    return None;
                }
                if !matches!(glance.state, "kept" | "changed" | "repaired" | "drifted") {
                    return says();
                }
                let (manifest, unit) = engine.unit_of(node);
                let digest = engine.manifest(manifest).map(|m| m.unit_digest(unit));
                (self.clean.get(&slot).copied() != digest).then(|| "is dirty".to_owned())
            }
        }
    }

    fn left_alone(&self, engine: &Engine, node: Node) -> Found {
        let held = self.was(node).is_some_and(|g| g.held) && engine.glance(node).held;
        if held {
            let text = format!("{} is held, and something was started", engine.address(node));
            return broken(Invariant::HeldLeftAlone, text);
        }
        Ok(())
    }

    /// Nothing is asked to stop before those who require it are down.
    fn stops(&self, engine: &Engine, world: &World, node: Node, causes: &BTreeMap<Node, &str>) -> Found {
        // One more signal for what is on its way out changes no order.
        let again = self.was(node).is_some_and(|g| g.state == "stopping");
        if engine.glance(node).wanted || again {
            return Ok(());
        }
        let reverse = causes.get(&node).is_none_or(|c| matches!(*c, "not wanted" | "what it requires goes"));
        if !reverse {
            return Ok(());
        }
        let address = engine.address(node);
        for (serial, proc) in world.procs.iter().filter(|(_, p)| p.job == Job::Main && p.exists()) {
            let Some((user, _)) = engine.job(*serial) else { continue };
            let Some(m) = engine.manifest(engine.edges_from(user)) else { continue };
            let mine = engine.address(user);
            let Some(unit) = m.find(mine.kind, &mine.name) else { continue };
            // Soft edges of different generations may be the other way round in each; who leaves keeps to its own before
            // who stays and has followed since.
            let (mine_from, its_from) = (engine.edges_from(user), engine.edges_from(node));
            let counts = match (engine.glance(user).leaving, engine.glance(node).leaving) {
                (false, _) => mine_from == engine.desired().0 && its_from == mine_from,
                (true, false) => its_from >= mine_from,
                (true, true) => its_from == mine_from,
            };
            let down = engine.going_down().is_some() && counts;
            let uses = m.deps(unit).any(|e| {
                let counts = match e.kind {
                    EdgeKind::Requires | EdgeKind::Binds => true,
                    EdgeKind::Wants | EdgeKind::After => down,
                    EdgeKind::ReloadOn | EdgeKind::RestartOn => false,
                };
                counts && m.address(e.unit) == address
            });
            // Who was started anew may require by its edges who requires it by older ones: then one has to be the first.
            if uses && proc.slot != slot_of(&address) && !waits_for(engine, node, user) {
                let text = format!("{address} is asked to stop, and {mine} (spawn {serial}) still runs");
                return broken(Invariant::StopsInOrder, text);
            }
        }
        Ok(())
    }

    /// What is true between any two steps.
    fn state(&mut self, engine: &Engine, world: &World, now: Mono, event: &Event) -> Found {
        if let Some(text) = engine.audit() {
            return broken(Invariant::CountersAgree, text);
        }
        for node in engine.nodes() {
            let glance = engine.glance(node);
            let owed =
                glance.stale && glance.state == "ready" && glance.wanted && !glance.held && !glance.going;
            if owed && engine.gates(node).iter().all(|g| g.open) && engine.status(node).cause.is_empty() {
                let text = format!("{} has not loaded its inputs, and could", engine.address(node));
                return broken(Invariant::StaleEnds, text);
            }
        }
        if let Some(text) = engine.stands_still() {
            return broken(Invariant::NothingStandsStill, text);
        }
        if *event == Event::Tick && engine.next_deadline().is_some_and(|at| at <= now) {
            return broken(Invariant::DeadlinesAhead, "a deadline is not ahead after a tick");
        }
        self.leaves_in_time(now)?;
        if engine.is_converged() && !self.down.left {
            let job = world.procs.iter().find(|(serial, p)| {
                let frozen = engine.job(**serial).is_none_or(|(node, _)| engine.glance(node).held);
                !matches!(p.job, Job::Main | Job::AwaitPath | Job::Stop)
                    && engine.job(**serial).is_some()
                    && !(p.job == Job::Reload && frozen)
            });
            if world.work.is_some() || job.is_some() {
                return broken(Invariant::ConvergedIsTrue, "converged, and something is under way");
            }
        }
        self.hands(engine, world, now)?;
        let sizes = engine.sizes();
        // Who came and left in one step had a place too.
        self.most_units = self.most_units.max(sizes.units + engine.departed().count());
        self.last_apply(engine)
    }

    fn last_apply(&self, engine: &Engine) -> Found {
        if engine.applying().is_some() || engine.going_down().is_some() {
            return Ok(());
        }
        let (manifest, generation) = engine.desired();
        let digest = engine.manifest(manifest).map(units::Manifest::digest).unwrap_or_default();
        match self.accepted {
            Some(accepted) if accepted != (generation, digest) => {
                let text = format!("generation {} was accepted, and {generation} is desired", accepted.0);
                broken(Invariant::LastApplyWins, text)
            }
            _ => Ok(()),
        }
    }
}
