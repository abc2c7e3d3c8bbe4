//! What the planner that ships promises, compared with what the engine that ships then does.
//!
//! A plan is made for a machine at rest: its two manifests are those of the engine and of the next apply, and what was
//! found is what the world holds and what the engine says in its status, as `query::machine` looks at a real one. Then
//! the apply runs, and what became of every unit is told by the world alone: which processes were started and told to
//! reload, what was written, removed, mounted and loaded.

use std::any::type_name_of_val;
use std::collections::{BTreeMap, BTreeSet};

use cm_core::engine::effect::Verdict;
use cm_core::engine::event::Swap;
use cm_core::engine::{Engine, HoldKind, Node, UnitStatus, exec_inputs};
use cm_core::plan::{
    Found, GOES, NOT_OURS, Observation, Planned, Subject, Verb, WILL_BIND, WILL_REQUIRE, plan,
};
use units::kind::Spec;
use units::manifest::flags;
use units::{Address, EdgeKind, Kind, Manifest, UnitId};

use super::checks::{Invariant, Violation, keeps_old};
use super::graph::{Graph, slot_of};
use super::machine::Machine;
use super::world::{Deed, World};

/// Name of the planner that is driven here, for a test that it is what ships.
pub const DRIVEN: fn() -> &'static str = || type_name_of_val(&plan);

/// A planner: the one that ships, or in a test one that is wrong.
pub type Planner = fn(&Manifest, &Manifest, &dyn Fn(Subject) -> Observation) -> Vec<Planned>;

/// The one that ships.
pub const SHIPS: Planner = plan;

/// How often a verb was promised for a kind, and kept.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Plans that were compared with what was done.
    pub plans: u64,
    /// Plans whose apply returned, or met a process that hung: a plan promises nothing about failures.
    pub returned: u64,
    /// Plans that say that who is faster decides about something: units then do not all have one course.
    pub open: u64,
    /// Plans that were not made, since something ran with an earlier declaration than that of the generation.
    pub older: u64,
    /// Of those that were compared, plans of an apply of what is current.
    pub again: u64,
    /// By kind and verb.
    pub verbs: BTreeMap<(&'static str, &'static str), u64>,
}

impl Kept {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Kept) {
        self.plans += other.plans;
        self.returned += other.returned;
        self.older += other.older;
        self.open += other.open;
        self.again += other.again;
        for (key, count) in &other.verbs {
            *self.verbs.entry(*key).or_default() += count;
        }
    }

    /// What no plan has promised yet although units of that kind can get it.
    pub fn unseen(&self) -> Vec<String> {
        let all: [(&str, &[Verb]); 5] = [
            ("service", &[Verb::Start, Verb::Stop, Verb::Reload, Verb::Restart, Verb::Nothing]),
            ("file", &[Verb::Create, Verb::Change, Verb::Remove, Verb::Nothing]),
            ("mount", &[Verb::Create, Verb::Restart, Verb::Remove, Verb::Nothing]),
            ("module", &[Verb::Create, Verb::Nothing]),
            ("exec", &[Verb::Start, Verb::Nothing]),
        ];
        let pairs = all.iter().flat_map(|(kind, verbs)| verbs.iter().map(move |v| (*kind, v.word())));
        pairs.filter(|key| !self.verbs.contains_key(key)).map(|(k, v)| format!("{v} of a {k}")).collect()
    }
}

/// What was promised, by address, with what the world held at that time.
pub struct Promise {
    lines: Vec<Line>,
    /// Something depends on what depended on it: which of the edges somebody still holds when it matters, who is
    /// faster decides.
    turned: bool,
    /// Units with what they are bound to, and will not be.
    unbound: Vec<(Address, Address)>,
    before: BTreeMap<u8, State>,
    /// What leaves already, as an earlier plan has promised: it is removed once what it lies on is mounted.
    leaving: BTreeSet<u8>,
}

struct Line {
    address: Address,
    leaves: bool,
    /// Whether its command may find that it need not run.
    guarded: bool,
    verb: Verb,
    reason: String,
}

/// What the world holds of a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    main: Option<u64>,
    there: bool,
    mounted: bool,
}

fn state(world: &World, slot: u8) -> State {
    State {
        main: world.main_of(slot),
        there: world.things.get(&slot).is_some_and(|t| t.like.is_some()),
        mounted: world.mounts.contains(&slot),
    }
}

/// Of which apply a plan is made.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// Of what is current already.
    again: bool,
    /// Of one that lifts every hold.
    release: bool,
}

/// What a look at a unit finds.
fn observe(
    machine: &Machine,
    (running, desired): (&Manifest, &Manifest),
    subject: Subject,
    asked: Asked,
) -> Observation {
    let (engine, world) = (&machine.engine, &machine.world);
    let (manifest, id, leaves) = match subject {
        Subject::Declared(id) => (desired, id, false),
        Subject::Leaving(id) => (running, id, true),
    };
    let address = manifest.address(id);
    let slot = slot_of(&address);
    let status = engine.node(&address).map(|n| engine.status(n));
    let thing = world.things.get(&slot).copied().unwrap_or_default();
    let found = match address.kind {
        Kind::Service => Found::of_service(status.as_ref().map(|s| (s.state, s.cause.as_str()))),
        Kind::Mount
            if leaves && world.mounts.contains(&slot) && status.as_ref().is_some_and(|s| !s.ready) =>
        {
            Found::Left(NOT_OURS.to_owned())
        }
        Kind::Mount if world.mounts.contains(&slot) => match &status {
            Some(s) if s.state == "failed" => Found::Trouble(s.cause.clone()),
            _ => Found::Right,
        },
        Kind::Mount if leaves => Found::Missing,
        Kind::Mount => Found::NotUp("not mounted".to_owned()),
        Kind::Module | Kind::Exec | Kind::Target if leaves => Found::Unknown,
        Kind::Module if world.modules.contains(&slot) => Found::Right,
        Kind::Module => Found::Missing,
        Kind::Target => Found::Right,
        Kind::Exec if world.must_run(manifest, id, exec_inputs(manifest, id)) => {
            Found::Due("no guard keeps it from running".to_owned())
        }
        Kind::Exec => Found::Right,
        _ if thing.like.is_none() => Found::Missing,
        _ if leaves && world.lies_on_nothing(running, id) => Found::Trouble("its mount is absent".to_owned()),
        _ if leaves && thing.adopted => Found::Left("it was there before it was declared".to_owned()),
        _ if leaves => Found::Leaves(String::new()),
        _ => wrong(running, desired, id, thing),
    };
    let held = status.as_ref().and_then(|s| s.hold.as_ref()).map(|h| format!("by {} ({:?})", h.why, h.kind));
    let stopped = |s: &UnitStatus| s.hold.as_ref().is_some_and(|h| h.kind == HoldKind::Stopped);
    Observation {
        found,
        lifted: asked.release && held.is_some(),
        held: held.filter(|_| !asked.release),
        stopped: !asked.release && status.as_ref().is_some_and(stopped),
        started: status.as_ref().is_some_and(|s| s.started),
        stale: status.as_ref().is_some_and(|s| s.stale),
        ready: Some(status.is_some_and(|s| s.ready)),
        again: asked.again,
    }
}

fn wrong(running: &Manifest, desired: &Manifest, id: UnitId, thing: super::world::Thing) -> Found {
    let digest = desired.unit_digest(id);
    let unchanged = running
        .find(desired.kind(id), desired.name(id))
        .is_some_and(|old| units::diff::is_same((running, old), (desired, id)));
    let left = match desired.flags(id) {
        flag if flag & flags::SEED != 0 => true,
        flag if flag & flags::REPORT != 0 => unchanged,
        _ => false,
    };
    if left || (thing.like == Some(digest) && !thing.drifted) {
        return Found::Right;
    }
    Found::Wrong(vec!["content differs".to_owned()])
}

/// The plan of the planner for an apply of this graph.
pub fn promise(machine: &Machine, graph: &Graph, planner: Planner) -> Promise {
    promised(machine, &graph.manifest(), planner, Asked::default())
}

/// What is desired.
fn current(machine: &Machine) -> Manifest {
    machine.engine.manifest(machine.engine.desired().0).cloned().unwrap_or_else(Manifest::empty)
}

fn promised(machine: &Machine, desired: &Manifest, planner: Planner, asked: Asked) -> Promise {
    let running = current(machine);
    let planned =
        planner(&running, desired, &|subject| observe(machine, (&running, desired), subject, asked));
    let line = |p: Planned| {
        let (manifest, id, leaves) = match p.subject {
            Subject::Declared(id) => (desired, id, false),
            Subject::Leaving(id) => (&running, id, true),
        };
        let guarded = matches!(manifest.spec(id), Some(Spec::Exec(e)) if e.unless.is_some());
        Line { address: manifest.address(id), leaves, guarded, verb: p.verb, reason: p.reason }
    };
    let lines: Vec<_> = planned.into_iter().map(line).collect();
    let slots = lines.iter().map(|line| slot_of(&line.address));
    let before = slots.map(|slot| (slot, state(&machine.world, slot))).collect();
    let (turned, unbound) = (turned(&running, desired), unbound(&running, desired));
    let leaving = machine.engine.nodes().filter(|n| machine.engine.glance(*n).leaving);
    let leaving = leaving.map(|n| slot_of(&machine.engine.address(n))).collect();
    Promise { lines, turned, unbound, before, leaving }
}

/// Whether what a unit requires in one manifest depends on it in the other.
fn turned(running: &Manifest, desired: &Manifest) -> bool {
    let hard = |kind| matches!(kind, EdgeKind::Requires | EdgeKind::Binds);
    let there = |id| desired.find(running.kind(id), running.name(id));
    let reaches = |from, to| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at) {
                open.extend(desired.deps(at).map(|e| e.unit));
            }
        }
        false
    };
    let edges = running.ids().flat_map(|id| running.deps(id).map(move |e| (id, e)));
    edges.filter(|(_, e)| hard(e.kind)).any(|(user, e)| match (there(e.unit), there(user)) {
        (Some(dep), Some(user)) => reaches(dep, user),
        _ => false,
    })
}

/// Who is bound to what now and not in the next manifest: it may follow that before it loses what it is bound to.
fn unbound(running: &Manifest, desired: &Manifest) -> Vec<(Address, Address)> {
    let mut out = Vec::new();
    for id in running.ids() {
        let Some(new) = desired.find(running.kind(id), running.name(id)) else { continue };
        for edge in running.deps(id).filter(|e| e.kind == EdgeKind::Binds) {
            let address = running.address(edge.unit);
            let binds = |e: units::Edge<'_>| e.kind == EdgeKind::Binds && desired.address(e.unit) == address;
            if !desired.deps(new).any(binds) {
                out.push((running.address(id), address));
            }
        }
    }
    out
}

/// What was really done to a unit.
fn done(kind: Kind, leaves: bool, before: State, after: State, deed: Deed) -> Verb {
    match kind {
        Kind::Service => match (before.main, after.main) {
            (Some(a), Some(b)) if a == b && deed.reloaded > 0 => Verb::Reload,
            (Some(a), Some(b)) if a == b => Verb::Nothing,
            (Some(_), _) if deed.started > 0 => Verb::Restart,
            (Some(_), _) => Verb::Stop,
            (None, _) if deed.started > 0 => Verb::Start,
            (None, _) => Verb::Nothing,
        },
        Kind::Mount => match (before.mounted, after.mounted) {
            (true, true) if deed.removed > 0 => Verb::Restart,
            (false, true) => Verb::Create,
            (true, false) if leaves => Verb::Remove,
            (true, false) => Verb::Stop,
            (true, true) | (false, false) => Verb::Nothing,
        },
        Kind::Exec if deed.ran > 0 => Verb::Start,
        Kind::Module if deed.written > 0 => Verb::Create,
        Kind::Exec | Kind::Module | Kind::Target => Verb::Nothing,
        _ => match (before.there, after.there) {
            (false, true) => Verb::Create,
            (true, false) => Verb::Remove,
            (true, true) if deed.written > 0 => Verb::Change,
            (true, true) | (false, false) => Verb::Nothing,
        },
    }
}

impl Promise {
    /// Whether it depends on who is faster.
    fn is_open(&self) -> bool {
        let open = |reason: &str| {
            reason.ends_with(GOES) || reason.starts_with(WILL_BIND) || reason.starts_with(WILL_REQUIRE)
        };
        self.lines.iter().any(|l| open(&l.reason))
    }

    /// Compares with what was done since.
    ///
    /// # Errors
    /// [`Invariant::PlanIsKept`] with the first unit to which something else was done than promised.
    pub fn compare(&self, world: &World, kept: &mut Kept) -> Result<(), Violation> {
        let named = |slot: &u8| self.lines.iter().any(|line| slot_of(&line.address) == *slot);
        let silent = |slot: &&u8| !named(slot) && !self.leaving.contains(slot);
        if let Some(slot) = world.deeds.keys().find(silent) {
            let text = format!("something was done to slot {slot}, of which the plan says nothing");
            return Err(Violation { invariant: Invariant::PlanIsKept, text });
        }
        for Line { address, leaves, guarded, verb, reason } in &self.lines {
            let slot = slot_of(address);
            let before = self.before.get(&slot).copied().unwrap_or_default();
            let deed = world.deeds.get(&slot).copied().unwrap_or_default();
            let done = done(address.kind, *leaves, before, state(world, slot), deed);
            // `unless` was satisfied; or the command had run before, and only that was not written down yet.
            let spared = (*guarded && deed.spared > 0) || deed.noted > 0;
            let spared = spared && (*verb, done) == (Verb::Start, Verb::Nothing);
            let follows = |(unit, bound): &(Address, Address)| {
                unit == address && *reason == format!("it is bound to {bound}, which restarts")
            };
            // What a mount that comes back has below it is removed then, or was removed before it went.
            let comes =
                |l: &Line| l.address.kind == Kind::Mount && matches!(l.verb, Verb::Create | Verb::Restart);
            let below = reason.ends_with("its mount is absent") && self.lines.iter().any(comes);
            // Where drift is only reported this world, other than the worker, makes what is not there at all.
            let made = reason.ends_with("its drift is only reported") && done == Verb::Create;
            let open = self.turned || self.unbound.iter().any(follows) || made;
            // Nobody tells a plan by which inputs a service is stale: those may be such as restart it.
            let stale = reason.starts_with("it has not loaded");
            let either = stale && (*verb, done) == (Verb::Reload, Verb::Restart);
            let open = open || either || (below && done == Verb::Remove);
            if done != *verb && open {
                kept.open += 1;
                return Ok(());
            }
            if done != *verb && !spared {
                let text =
                    format!("{} {address} was promised ({reason}), and it was: {}", verb.word(), done.word());
                return Err(Violation { invariant: Invariant::PlanIsKept, text });
            }
            *kept.verbs.entry((address.kind.word(), verb.word())).or_default() += 1;
        }
        kept.plans += 1;
        Ok(())
    }

    /// Whether it says that there is nothing to do; else what there is.
    ///
    /// # Errors
    /// [`Invariant::PlanIsKept`] with the first unit to which something would be done.
    pub fn is_empty(&self) -> Result<(), Violation> {
        match self.lines.iter().find(|line| line.verb != Verb::Nothing) {
            None => Ok(()),
            Some(Line { address, verb, reason, .. }) => {
                let verb = verb.word();
                let text =
                    format!("right after the apply the plan is not empty: {verb} {address} ({reason})");
                Err(Violation { invariant: Invariant::PlanIsKept, text })
            }
        }
    }

    /// For a story.
    pub fn words(&self) -> String {
        let lines = self.lines.iter();
        let lines: Vec<String> =
            lines.map(|l| format!("{} {} ({})", l.verb.word(), l.address, l.reason)).collect();
        format!("plan: {}", if lines.is_empty() { "nothing to do".to_owned() } else { lines.join("; ") })
    }
}

/// Makes a plan, applies it, lets the machine come to rest with `rest`, and compares. `false` when the apply returned.
///
/// # Errors
/// Whatever breaks on the way; [`Invariant::PlanIsKept`] when the plan was not kept.
pub fn trial(
    machine: &mut Machine,
    graph: &Graph,
    generation: u64,
    planner: Planner,
    rest: impl FnMut(&mut Machine) -> Result<(), Violation>,
) -> Result<bool, Violation> {
    attempt(machine, &graph.manifest(), generation, Asked::default(), planner, rest)
}

/// The same for an apply of what is current; `release`: of one that lifts every hold.
///
/// # Errors
/// As [`trial`].
pub fn again(
    machine: &mut Machine,
    release: bool,
    planner: Planner,
    rest: impl FnMut(&mut Machine) -> Result<(), Violation>,
) -> Result<bool, Violation> {
    let (desired, generation) = (current(machine), machine.engine.desired().1);
    let compared = attempt(machine, &desired, generation, Asked { again: true, release }, planner, rest)?;
    machine.kept.again += u64::from(compared);
    Ok(compared)
}

fn attempt(
    machine: &mut Machine,
    desired: &Manifest,
    generation: u64,
    asked: Asked,
    planner: Planner,
    mut rest: impl FnMut(&mut Machine) -> Result<(), Violation>,
) -> Result<bool, Violation> {
    if has_older(machine, asked) {
        machine.kept.older += 1;
        return Ok(false);
    }
    let promise = promised(machine, desired, planner, asked);
    machine.tell_story(|_| promise.words());
    // What is held may keep a claim for ever, or give it up once it is looked at.
    let open = machine.engine.nodes().any(|node| {
        let (manifest, unit) = machine.engine.unit_of(node);
        let claim = machine.engine.manifest(manifest).map_or(0, |m| m.claim(unit));
        machine.engine.glance(node).held && claim != 0
    });
    // Nor does a plan know what somebody froze that is about to end.
    let open = open || machine.world.procs.values().any(|p| p.frozen && p.ends_later.is_some());
    machine.world.deeds.clear();
    machine.world.late = false;
    machine.swap(desired, generation, Swap::Apply, asked.release)?;
    let request = machine.last_request();
    let after = Asked { release: false, ..asked };
    rest(machine)?;
    if machine.checks.verdict(request) != Some(Verdict::Done) || machine.world.late {
        machine.kept.returned += 1;
        return Ok(false);
    }
    if open || promise.is_open() {
        machine.kept.open += 1;
        // Nor can a plan see a claim that something has which is held, and declared nowhere.
        if !open && !has_older(machine, asked) {
            promised(machine, desired, planner, after).is_empty()?;
        }
        return Ok(true);
    }
    let mut kept = std::mem::take(&mut machine.kept);
    let compared = promise.compare(&machine.world, &mut kept);
    machine.kept = kept;
    compared?;
    // What is held has kept the process of before.
    if !has_older(machine, asked) {
        promised(machine, desired, planner, after).is_empty()?;
    }
    Ok(true)
}

/// Whether what something was started from, has loaded, claims or follows stands in neither manifest: a plan cannot compare with
/// that.
fn has_older(machine: &Machine, asked: Asked) -> bool {
    let engine = &machine.engine;
    let behind = |n| !engine.glance(n).leaving && engine.edges_from(n) != engine.desired().0;
    let older = |n| {
        (engine.glance(n).stale && !asked.again)
            || keeps_old(engine, n)
            || engine.waits_for_claim(n).is_some()
            || behind(n)
    };
    // Nor does a plan know what a crash has left of an apply that is still to be undone.
    // And what waits although it was there keeps its place in the order of stops, which nobody is shown.
    let place = |n: &Node| engine.glance(*n).wanted && !engine.glance(*n).ready && latched(engine, *n);
    engine.is_unfinished() || engine.nodes().any(older) || engine.not_down().iter().any(|(n, _)| place(n))
}

fn latched(engine: &Engine, node: Node) -> bool {
    !matches!(engine.address(node).kind, Kind::Service | Kind::Mount | Kind::Target)
}
