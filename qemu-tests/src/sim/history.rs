//! One history: a script of what people and chance do, played against the machine until it rests.

use std::fmt;

use cm_core::engine::Mono;
use cm_core::engine::event::{Down, Event, Swap, Verb};

use super::checks::{Invariant, Violation};
use super::coverage::Coverage;
use super::dice::Dice;
use super::graph::{self, Graph, Universe};
use super::helpers::Helpers;
use super::machine::{Machine, Tamper};
use super::plans::{self, Kept};
use super::resources::Resources;
use super::world::{Told, World, fault};
use units::Kind;

/// Most steps of one history; more means that it never comes to rest.
const MOST_STEPS: u64 = 20_000;

/// Something from outside.
#[derive(Debug, Clone)]
pub enum Act {
    /// A manifest becomes the desired one.
    Swap(Graph, Swap),
    /// The same, and every hold is lifted with it.
    Release(Graph, Swap),
    /// The present manifest is applied once more; whether it lifts every hold.
    Again(bool),
    /// Somebody touches what these slots own, and really changes it.
    Touch(Vec<u8>, bool),
    /// Events were lost.
    Overflow,
    /// A main process ends.
    Crash(u8, i32),
    /// A main process says something out of turn.
    Chatter(u8, u8),
    /// Somebody unmounts.
    Unmount(u8),
    /// A hand.
    Ask(u8, Verb, Option<u64>),
    /// The store opens.
    OpenStore,
    /// The worker dies.
    KillWorker,
    /// PID 1 re-executes itself.
    Reexec,
    /// Words of an earlier spawn arrive.
    Stale(u64),
    /// The machine goes down.
    Shutdown,
    /// Somebody changes what a slot owns, and will undo so many repairs of it.
    Vandal(u8, u32),
}

/// An act and its moment, in microseconds since the beginning.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When.
    pub at: u64,
    /// What.
    pub act: Act,
}

/// A whole history: what is not in it follows from the seed.
#[derive(Debug, Clone)]
pub struct Script {
    /// Of the world's reactions.
    pub seed: u64,
    /// The faults that the world shows.
    pub faults: u32,
    /// What happens from outside, by time.
    pub entries: Vec<Entry>,
    /// What is planned and applied once everything works again and has come to rest.
    pub plans: Vec<Graph>,
}

/// What came of a history.
pub struct Outcome {
    /// The invariant that broke.
    pub violation: Option<Violation>,
    /// Steps of the engine.
    pub steps: u64,
    /// Simulated time.
    pub time: Mono,
    /// Cells of the table.
    pub coverage: Coverage,
    /// Cells of the table of resources.
    pub resources: Resources,
    /// Cells of the table of helpers.
    pub helpers: Helpers,
    /// Plans that were kept.
    pub kept: Kept,
    /// The most that a step looked at, in thousandths of what it may.
    pub most_looks: u64,
    /// The story, if it was asked for.
    pub story: Vec<String>,
}

impl Script {
    /// The history of a seed.
    pub fn random(seed: u64) -> Script {
        let mut dice = Dice::of(&[seed, 1]);
        let universe = Universe::new(&mut dice);
        let mut faults = fault::ALL;
        // These two came later, and leave the histories of the seeds before as they were.
        let later = fault::ECHO | fault::HANG;
        for (bit, _) in fault::NAMES.into_iter().filter(|(bit, _)| *bit & later == 0) {
            if dice.chance(300) {
                faults &= !bit;
            }
        }
        if dice.chance(100) {
            faults = 0;
        }
        faults &= !later;
        if Dice::of(&[seed, 4]).chance(700) {
            faults |= fault::ECHO;
        }
        if Dice::of(&[seed, 5]).chance(200) {
            faults |= fault::HANG;
        }
        let mut entries = Vec::new();
        let mut graph = graph::random(&mut dice, &universe);
        let mut earlier = vec![graph.clone()];
        entries.push(Entry { at: 0, act: Act::Swap(graph.clone(), Swap::Boot) });
        let mut at = 0;
        if dice.chance(800) {
            entries.push(Entry { at: dice.delay(), act: Act::OpenStore });
        }
        let length = 3 + dice.below(28);
        let pace = dice.pick(&[20_000, 300_000, 3_000_000]);
        for _ in 0..length {
            at += match dice.below(4) {
                0 => 0,
                1 => dice.below(pace / 20),
                2 => dice.below(pace),
                _ => dice.below(pace * 8),
            };
            let slot = u8::try_from(dice.below(13)).unwrap_or(0);
            let act = match dice.below(100) {
                0..=17 => {
                    graph = if dice.chance(150) {
                        graph::random(&mut dice, &universe)
                    } else {
                        graph::mutated(&mut dice, &universe, &graph)
                    };
                    earlier.push(graph.clone());
                    let kind = if dice.chance(900) { Swap::Apply } else { Swap::Boot };
                    // Now and then what is booted to was never had before.
                    let first = kind == Swap::Boot && graph.units.len().is_multiple_of(3);
                    Act::Swap(graph.clone(), if first { Swap::First } else { kind })
                }
                18..=21 => {
                    let back = usize::try_from(dice.below(earlier.len() as u64)).unwrap_or(0);
                    graph = earlier[back].clone();
                    Act::Swap(graph.clone(), Swap::Rollback)
                }
                22 => {
                    let other = graph::mutated(&mut dice, &universe, &graph);
                    Act::Swap(other, if dice.chance(700) { Swap::Undo } else { Swap::Purge })
                }
                23 | 24 => Act::Again(false),
                25..=36 => {
                    let slots = (0..1 + dice.below(3)).map(|_| u8::try_from(dice.below(13)).unwrap_or(0));
                    Act::Touch(slots.collect(), dice.chance(800))
                }
                37 => Act::Overflow,
                38..=47 => Act::Crash(slot, dice.pick(&[-11, -9, 1, 0, 0])),
                48..=51 => Act::Chatter(slot, u8::try_from(dice.below(6)).unwrap_or(0)),
                52..=55 => Act::Unmount(slot),
                56..=79 => Act::Ask(
                    slot,
                    dice.pick(&[
                        Verb::Start,
                        Verb::Start,
                        Verb::Stop,
                        Verb::Stop,
                        Verb::Restart,
                        Verb::Reload,
                        Verb::Pause,
                        Verb::Resume,
                        Verb::Hold,
                        Verb::Release,
                        Verb::Kill(9),
                        Verb::Kill(1),
                    ]),
                    match dice.below(4) {
                        0 => None,
                        1 => Some(dice.below(1_000)),
                        2 => Some(dice.below(60_000)),
                        _ => Some(dice.below(3_600_000)),
                    },
                ),
                80 => Act::OpenStore,
                81..=83 => Act::KillWorker,
                84..=93 => Act::Reexec,
                94..=97 => Act::Stale(dice.below(6)),
                _ if dice.chance(400) => Act::Shutdown,
                _ => Act::Overflow,
            };
            let announced = if let Act::Chatter(slot, 1) = act { Some(slot) } else { None };
            let releases = Dice::of(&[seed, 6, at]).chance(250);
            let act = match act {
                Act::Swap(graph, kind @ (Swap::Apply | Swap::Rollback)) if releases => {
                    Act::Release(graph, kind)
                }
                Act::Again(false) if releases => Act::Release(graph.clone(), Swap::Apply),
                act => act,
            };
            entries.push(Entry { at, act });
            // What happens to a service that reloads would otherwise seldom be seen: it does so for a moment only.
            let mut dice = Dice::of(&[seed, 3, at]);
            if let Some(slot) = announced.filter(|_| dice.chance(800)) {
                let act = match dice.below(4) {
                    0 => Act::Chatter(slot, 3),
                    1 => Act::Chatter(slot, 4),
                    2 => Act::Ask(slot, Verb::Start, None),
                    _ => Act::Ask(slot, Verb::Hold, Some(1_000)),
                };
                entries.push(Entry { at: at + 500, act });
            }
        }
        let mut dice = Dice::of(&[seed, 5]);
        let files: Vec<u8> =
            (0..universe.slots()).filter(|s| universe.address(*s).kind == Kind::File).collect();
        if !files.is_empty() && dice.chance(150) {
            // Long enough that the next look at a contested file may find anything.
            let begins = dice.below(1 + at);
            let act = Act::Vandal(dice.pick(&files), u32::try_from(1 + dice.below(30)).unwrap_or(1));
            let place = entries.partition_point(|e| e.at <= begins);
            entries.insert(place, Entry { at: begins, act });
            if dice.chance(500) {
                let later = begins.max(at) + 60_000_000 + dice.below(200_000_000);
                entries.push(Entry { at: later, act: Act::Overflow });
            }
        }
        // This came later, and leaves most histories of the seeds before as they were.
        let mut dice = Dice::of(&[seed, 7]);
        for _ in 0..if dice.chance(300) { 1 + dice.below(3) } else { 0 } {
            let begins = dice.below(1 + at);
            let act = Act::Again(dice.chance(400));
            let place = entries.partition_point(|e| e.at <= begins);
            entries.insert(place, Entry { at: begins, act });
        }
        let mut dice = Dice::of(&[seed, 2]);
        let mut plans = Vec::new();
        for _ in 0..2 {
            graph = if dice.chance(200) {
                graph::random(&mut dice, &universe)
            } else {
                graph::mutated(&mut dice, &universe, &graph)
            };
            plans.push(graph.clone());
        }
        Script { seed, faults, entries, plans }
    }

    /// Plays the history.
    pub fn play(&self, story: bool, tamper: Option<Tamper>) -> Outcome {
        let mut machine = Machine::new(World::new(self.seed, self.faults), story);
        machine.tamper = tamper;
        let violation = Player { machine: &mut machine, generation: 0, graph: Graph::default() }.play(self);
        Outcome {
            violation: violation.err(),
            steps: machine.steps,
            time: machine.now,
            coverage: machine.coverage,
            resources: machine.resources,
            helpers: machine.helpers,
            kept: machine.kept,
            most_looks: machine.most_looks,
            story: machine.story.unwrap_or_default(),
        }
    }
}

struct Player<'m> {
    machine: &'m mut Machine,
    generation: u64,
    graph: Graph,
}

impl Player<'_> {
    fn play(&mut self, script: &Script) -> Result<(), Violation> {
        let start = self.machine.now;
        for entry in &script.entries {
            let at = Mono(start.0 + entry.at * 1_000);
            until(self.machine, Some(at))?;
            if self.machine.checks.has_left() {
                return Ok(());
            }
            self.machine.now = self.machine.now.max(at);
            self.act(&entry.act)?;
        }
        let soon = Mono(self.machine.now.0 + 2_000_000_000);
        until(self.machine, Some(soon))?;
        self.machine.now = self.machine.now.max(soon);
        self.machine.tell_story(|_| "from here on everything works".to_owned());
        self.machine.world.heal(self.machine.now);
        self.machine.tell(Told::Recorded(u64::MAX, true))?;
        self.machine.step(Event::StoreOpened)?;
        until(self.machine, None)?;
        if self.machine.checks.has_left() {
            return Ok(());
        }
        if self.machine.engine.going_down().is_none() {
            self.machine.checks.at_rest(&self.machine.engine, &self.machine.world)?;
            self.machine.reexec()?;
            self.plan_again(script.seed.is_multiple_of(2))?;
            self.plan(&script.plans)?;
            self.act(&Act::Shutdown)?;
            until(self.machine, None)?;
        }
        if !self.machine.checks.has_left() {
            let text = "it is at rest and has not left".to_owned();
            return Err(Violation { invariant: Invariant::ShutdownLeaves, text });
        }
        Ok(())
    }

    /// What an apply of what is current is said to do is done.
    fn plan_again(&mut self, release: bool) -> Result<(), Violation> {
        self.machine.tell_story(|_| format!("* plan and apply what is current, releasing: {release}"));
        plans::again(self.machine, release, plans::SHIPS, |m| until(m, None))?;
        self.machine.checks.at_rest(&self.machine.engine, &self.machine.world)
    }

    /// What is planned is done, and then nothing is left to do.
    fn plan(&mut self, graphs: &[Graph]) -> Result<(), Violation> {
        for graph in graphs {
            self.machine.tell_story(|_| format!("* plan and apply:{}", graph.describe()));
            self.generation += 1;
            plans::trial(self.machine, graph, self.generation, plans::SHIPS, |m| until(m, None))?;
            self.machine.checks.at_rest(&self.machine.engine, &self.machine.world)?;
        }
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), Violation> {
        self.machine.tell_story(|_| format!("* {}", words(act)));
        match act {
            Act::Swap(graph, kind @ (Swap::Undo | Swap::Purge)) => {
                self.generation += 1;
                if self.generation.is_multiple_of(2) || *kind == Swap::Purge {
                    let current = self.machine.engine.desired().1;
                    return self.machine.apply(graph, current, *kind);
                }
                // As at a boot: what it goes back to comes right behind it.
                let present = self.graph.clone();
                self.machine.apply(graph, self.generation, Swap::Undo)?;
                self.machine.apply(&present, self.generation, Swap::Boot)
            }
            Act::Swap(graph, kind) => {
                self.generation += 1;
                self.graph = graph.clone();
                self.machine.apply(graph, self.generation, *kind)
            }
            Act::Release(graph, kind) => {
                self.generation += 1;
                self.graph = graph.clone();
                self.machine.apply_and(graph, self.generation, *kind, true)
            }
            Act::Again(release) => {
                let graph = self.graph.clone();
                self.machine.apply_and(&graph, self.generation, Swap::Apply, *release)?;
                let request = self.machine.last_request();
                if request.is_multiple_of(5) { self.machine.step(Event::Unasked { request }) } else { Ok(()) }
            }
            Act::Touch(slots, real) => {
                let mut nodes = Vec::new();
                for slot in slots {
                    if *real && let Some(thing) = self.machine.world.things.get_mut(slot) {
                        thing.drifted = true;
                    }
                    if *real {
                        self.machine.world.modules.remove(slot);
                    }
                    nodes.extend(self.machine.node(*slot));
                }
                self.machine.step(Event::Touched { nodes })
            }
            Act::Overflow => self.machine.step(Event::Overflowed),
            Act::Vandal(slot, times) => {
                self.machine.world.vandals.insert(*slot, *times);
                let now = self.machine.now;
                self.machine.world.soon(now, 0, super::world::Happening::Undoes(*slot));
                Ok(())
            }
            Act::Crash(slot, end) => {
                self.crash(*slot, *end);
                Ok(())
            }
            Act::Chatter(slot, what) => match self.machine.world.main_of(*slot) {
                Some(serial) if *what == 4 => {
                    let now = self.machine.now;
                    self.machine.world.feed(now, serial, 3_000);
                    self.machine.tell(Told::WatchdogSet(serial, 3_000))
                }
                Some(serial) => self.machine.tell(match what {
                    0 => Told::Ready(serial),
                    1 => Told::Reloading(serial),
                    3 => Told::Extended(serial, 4_000),
                    5 => Told::Broken(serial),
                    _ => Told::Watchdog(serial),
                }),
                None => Ok(()),
            },
            Act::Unmount(slot) => {
                if self.machine.world.mounts.remove(slot) {
                    return self.machine.tell(Told::Unmounted(*slot));
                }
                Ok(())
            }
            Act::Ask(slot, verb, until) => {
                let Some(node) = self.machine.node(*slot) else { return Ok(()) };
                let request = self.machine.request(None);
                let until = until.map(|ms| self.machine.now.after_ms(ms + 1));
                let note = "somebody".to_owned();
                self.machine.step(Event::Asked { request, verb: *verb, node, note, until })?;
                // Every third one does not wait for the answer.
                if request.is_multiple_of(3) { self.machine.step(Event::Unasked { request }) } else { Ok(()) }
            }
            Act::OpenStore => self.machine.step(Event::StoreOpened),
            Act::KillWorker => {
                let now = self.machine.now;
                let told = self.machine.world.fire(now, &super::world::Happening::WorkerDies);
                told.map_or(Ok(()), |t| self.machine.tell(t))
            }
            Act::Reexec => self.machine.reexec(),
            Act::Stale(serial) => {
                if self.machine.engine.job(*serial).is_none() {
                    self.machine.tell(Told::Ready(*serial))?;
                    self.machine.tell(Told::Empty(*serial))?;
                    return self.machine.tell(Told::Exited(*serial, cm_core::engine::event::Exit::Code(1)));
                }
                Ok(())
            }
            Act::Shutdown => self.machine.step(Event::ShutdownAsked { down: Down::Poweroff }),
        }
    }

    fn crash(&mut self, slot: u8, end: i32) {
        let now = self.machine.now;
        if let Some(serial) = self.machine.world.main_of(slot) {
            let both =
                [super::world::Happening::Ends(serial, end), super::world::Happening::ChildrenEnd(serial)];
            for what in both {
                self.machine.world.soon(now, 0, what);
            }
        }
    }
}

/// Lets time pass: until then, or until nothing moves any more.
///
/// # Errors
/// When an invariant breaks, or it never comes to rest.
pub fn until(machine: &mut Machine, end: Option<Mono>) -> Result<(), Violation> {
    loop {
        if machine.checks.has_left() {
            return Ok(());
        }
        if machine.steps > MOST_STEPS {
            let text = format!("still moving after {MOST_STEPS} steps");
            return Err(Violation { invariant: Invariant::ComesToRest, text });
        }
        let timers = machine.engine.next_deadline();
        if end.is_none() && machine.world.at_rest() && only_watchdogs(machine) {
            return Ok(());
        }
        let world = machine.world.next();
        let next = match (timers, world) {
            (None, None) => None,
            (Some(t), None) | (None, Some(t)) => Some(t),
            (Some(a), Some(b)) => Some(a.min(b)),
        };
        let Some(next) = next.filter(|t| end.is_none_or(|e| *t <= e)) else { return Ok(()) };
        machine.now = machine.now.max(next);
        if world == Some(next) {
            let Some((_, what)) = machine.world.pending.pop_first() else { continue };
            let now = machine.now;
            if let Some(told) = machine.world.fire(now, &what) {
                machine.tell(told)?;
            }
        } else {
            machine.step(Event::Tick)?;
        }
    }
}

fn only_watchdogs(machine: &Machine) -> bool {
    machine.engine.deadlines().all(|(_, _, word)| word == "watchdog")
}

fn words(act: &Act) -> String {
    match act {
        Act::Swap(graph, kind) => format!("{kind:?}:{}", graph.describe()),
        Act::Release(graph, kind) => format!("{kind:?}, releasing what is held:{}", graph.describe()),
        other => format!("{other:?}"),
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<&str> =
            fault::NAMES.iter().filter(|(bit, _)| self.faults & bit != 0).map(|(_, name)| *name).collect();
        write!(f, "seed {}, {} acts, faults: {}", self.seed, self.entries.len(), faults.join(" "))
    }
}
