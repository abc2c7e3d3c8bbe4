//! Every small graph, and for each of them every order in which the world can react, with a few things from outside
//! at any point. States that were seen are not looked at again.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use cm_core::engine::event::{Down, Event, Swap, Verb};
use units::kind::Spec;
use units::kind::service::Ready;
use units::kind::target::Target;
use units::manifest::NewUnit;
use units::{EdgeKind, Kind};

use super::checks::{Invariant, Violation};
use super::graph::{Graph, address, file, mount, service};
use super::machine::Machine;
use super::world::{Happening, Told, World};

/// Longest history; a longer one never comes to rest.
const MOST_STEPS: usize = 400;

/// What a unit can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A service that is ready when it runs.
    Plain,
    /// A service that says when it is ready.
    Notifies,
    /// A one-shot.
    Once,
    /// A file.
    File,
    /// A mount.
    Mount,
    /// A target.
    Target,
}

/// How far the search goes.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Units of the largest graph.
    pub units: u8,
    /// What they can be.
    pub sorts: Vec<Sort>,
    /// What an edge can be; `None` is no edge.
    pub edges: Vec<Option<EdgeKind>>,
    /// Things from outside in one history.
    pub acts: u8,
    /// Longest time; what was not reached by then is said.
    pub limit: Duration,
}

/// What the search saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Graphs.
    pub graphs: u64,
    /// Different states.
    pub states: u64,
    /// Histories that ended at rest or left.
    pub histories: u64,
    /// Whether everything within the bounds was looked at.
    pub complete: bool,
    /// The first violation with its story.
    pub violation: Option<(Violation, Vec<String>)>,
}

/// One thing that can happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    Fire(usize),
    Tick,
    Crash(u8),
    Touch(u8),
    Ask(u8, bool),
    Without(u8),
    Flipped,
    WorkerDies,
    Shutdown,
}

/// Searches within the bounds.
pub fn search(bounds: &Bounds) -> Seen {
    let started = Instant::now();
    let mut seen = Seen { complete: true, ..Seen::default() };
    for units in 1..=bounds.units {
        let pairs = usize::from(units) * usize::from(units.saturating_sub(1)) / 2;
        let sorts = bounds.sorts.len().pow(u32::from(units));
        let shapes = bounds.edges.len().pow(u32::try_from(pairs).unwrap_or(0));
        for number in 0..sorts * shapes {
            if started.elapsed() > bounds.limit {
                seen.complete = false;
                return seen;
            }
            let graph = nth(bounds, units, number);
            seen.graphs += 1;
            explore(bounds, &graph, &mut seen, started);
            if seen.violation.is_some() {
                return seen;
            }
        }
    }
    seen
}

/// The graph of this number.
fn nth(bounds: &Bounds, units: u8, mut number: usize) -> Graph {
    let mut graph = Graph::default();
    for slot in 0..units {
        let sort = bounds.sorts[number % bounds.sorts.len()];
        number /= bounds.sorts.len();
        graph.units.insert(slot, unit(sort, slot));
    }
    for from in 1..units {
        for to in 0..from {
            if let Some(kind) = bounds.edges[number % bounds.edges.len()] {
                graph.edges.insert((from, to, kind));
            }
            number /= bounds.edges.len();
        }
    }
    graph.tidy();
    graph
}

/// A unit of this sort.
pub fn unit(sort: Sort, slot: u8) -> NewUnit {
    let mut plain = service(0);
    let (kind, spec) = match sort {
        Sort::Plain => (Kind::Service, Spec::Service(Box::new(plain))),
        Sort::Notifies => {
            plain.ready = Ready::Notify;
            (Kind::Service, Spec::Service(Box::new(plain)))
        }
        Sort::Once => {
            plain.ready = Ready::Exited;
            (Kind::Service, Spec::Service(Box::new(plain)))
        }
        Sort::File => (Kind::File, file(slot, 0)),
        Sort::Mount => (Kind::Mount, mount(slot, 0)),
        Sort::Target => (Kind::Target, Spec::Target(Target {})),
    };
    let mut new = NewUnit::new(kind, address(kind, slot).name, spec);
    new.settle = 0;
    new
}

struct State {
    machine: Machine,
    acts: u8,
    generation: u64,
    path: Vec<Choice>,
}

fn beginning(graph: &Graph, story: bool) -> Result<Machine, Violation> {
    let mut world = World::new(1, 0);
    world.kind = true;
    let mut machine = Machine::new(world, story);
    machine.step(Event::StoreOpened)?;
    machine.apply(graph, 1, Swap::Boot)?;
    Ok(machine)
}

fn explore(bounds: &Bounds, graph: &Graph, seen: &mut Seen, started: Instant) {
    let mut known: HashSet<u64> = HashSet::new();
    let first = match beginning(graph, false) {
        Ok(machine) => machine,
        Err(violation) => {
            seen.violation = Some((violation, vec![graph.describe()]));
            return;
        }
    };
    let mut open = vec![State { machine: first, acts: bounds.acts, generation: 1, path: Vec::new() }];
    while let Some(state) = open.pop() {
        if started.elapsed() > bounds.limit {
            seen.complete = false;
            return;
        }
        if state.path.len() > MOST_STEPS {
            let text = format!("still moving after {MOST_STEPS} steps");
            let violation = Violation { invariant: Invariant::ComesToRest, text };
            seen.violation = Some((violation, story(graph, &state.path)));
            return;
        }
        let choices = choices(&state, graph);
        if state.machine.checks.has_left() || rests(&state.machine) {
            seen.histories += 1;
            if let Err(violation) = ended(&state.machine) {
                seen.violation = Some((violation, story(graph, &state.path)));
                return;
            }
        }
        for choice in choices {
            let mut machine = state.machine.clone();
            let mut generation = state.generation;
            let outside = !matches!(choice, Choice::Fire(_) | Choice::Tick);
            let mut path = state.path.clone();
            path.push(choice.clone());
            if let Err(violation) = take(&mut machine, graph, &choice, &mut generation) {
                seen.violation = Some((violation, story(graph, &path)));
                return;
            }
            let acts = state.acts - u8::from(outside);
            if known.insert(digest(&machine, acts)) {
                seen.states += 1;
                open.push(State { machine, acts, generation, path });
            }
        }
    }
}

fn rests(machine: &Machine) -> bool {
    machine.world.pending.is_empty() && machine.engine.next_deadline().is_none()
}

fn ended(machine: &Machine) -> Result<(), Violation> {
    if machine.checks.has_left() {
        return Ok(());
    }
    if machine.engine.going_down().is_some() {
        let text = "it is at rest and has not left".to_owned();
        return Err(Violation { invariant: Invariant::ShutdownLeaves, text });
    }
    machine.checks.at_rest(&machine.engine, &machine.world)
}

fn choices(state: &State, graph: &Graph) -> Vec<Choice> {
    let machine = &state.machine;
    if machine.checks.has_left() {
        return Vec::new();
    }
    let pending = machine.world.pending.len();
    let mut out: Vec<Choice> =
        (0..pending).filter(|i| machine.world.may_come(*i)).map(Choice::Fire).collect();
    // Time passes only when the world has nothing to say: deadlines are long against its answers.
    if out.is_empty() && machine.engine.next_deadline().is_some() {
        out.push(Choice::Tick);
    }
    if state.acts == 0 {
        return out;
    }
    for (slot, unit) in &graph.units {
        match unit.address.kind {
            Kind::Service => {
                if machine.world.main_of(*slot).is_some() {
                    out.push(Choice::Crash(*slot));
                }
                out.extend([Choice::Ask(*slot, true), Choice::Ask(*slot, false)]);
            }
            Kind::File => out.push(Choice::Touch(*slot)),
            _ => {}
        }
        out.push(Choice::Without(*slot));
    }
    out.extend([Choice::Flipped, Choice::Shutdown]);
    if machine.world.work.is_some() {
        out.push(Choice::WorkerDies);
    }
    out
}

fn take(
    machine: &mut Machine,
    graph: &Graph,
    choice: &Choice,
    generation: &mut u64,
) -> Result<(), Violation> {
    let now = machine.now;
    machine.tell_story(|_| format!("* {choice:?}"));
    match choice {
        Choice::Fire(index) => {
            let key = machine.world.pending.keys().nth(*index).copied();
            let what = key.and_then(|k| machine.world.pending.remove(&k));
            match what.and_then(|w| machine.world.fire(now, &w)) {
                Some(told) => machine.tell(told),
                None => Ok(()),
            }
        }
        Choice::Tick => {
            if let Some(at) = machine.engine.next_deadline() {
                machine.now = machine.now.max(at);
            }
            machine.step(Event::Tick)
        }
        Choice::Crash(slot) => {
            if let Some(serial) = machine.world.main_of(*slot) {
                machine.world.soon(now, 0, Happening::Ends(serial, -11));
            }
            Ok(())
        }
        Choice::Touch(slot) => {
            if let Some(thing) = machine.world.things.get_mut(slot) {
                thing.drifted = true;
            }
            let nodes = machine.node(*slot).into_iter().collect();
            machine.step(Event::Touched { nodes })
        }
        Choice::Ask(slot, start) => {
            let Some(node) = machine.node(*slot) else { return Ok(()) };
            let request = machine.request(None);
            let verb = if *start { Verb::Restart } else { Verb::Stop };
            machine.step(Event::Asked { request, verb, node, note: "somebody".to_owned(), until: None })
        }
        Choice::Without(slot) => {
            let mut other = graph.clone();
            other.units.remove(slot);
            other.tidy();
            *generation += 1;
            machine.apply(&other, *generation, Swap::Apply)
        }
        Choice::Flipped => {
            let mut other = graph.clone();
            other.edges = other.edges.iter().map(|(a, b, k)| (*b, *a, *k)).collect();
            for unit in other.units.values_mut() {
                if let Spec::Service(s) = &mut unit.spec {
                    s.nice = 1;
                }
            }
            other.tidy();
            *generation += 1;
            machine.apply(&other, *generation, Swap::Apply)
        }
        Choice::WorkerDies => match machine.world.fire(now, &Happening::WorkerDies) {
            Some(told) => machine.tell(told),
            None => machine.tell(Told::WorkerLost(None)),
        },
        Choice::Shutdown => machine.step(Event::ShutdownAsked { down: Down::Poweroff }),
    }
}

/// What makes two states the same for everything that follows.
fn digest(machine: &Machine, acts: u8) -> u64 {
    let mut hash = DefaultHasher::new();
    acts.hash(&mut hash);
    machine.now.0.hash(&mut hash);
    machine.state_hash(&mut hash);
    let mut pending: Vec<&Happening> = machine.world.pending.values().collect();
    pending.sort_unstable();
    pending.hash(&mut hash);
    machine.world.state_hash(&mut hash);
    hash.finish()
}

fn story(graph: &Graph, path: &[Choice]) -> Vec<String> {
    let mut lines = vec![format!("graph:{}", graph.describe())];
    let Ok(mut machine) = beginning(graph, true) else { return lines };
    let mut generation = 1;
    for choice in path {
        if take(&mut machine, graph, choice, &mut generation).is_err() {
            break;
        }
    }
    lines.extend(machine.story.unwrap_or_default());
    lines
}
