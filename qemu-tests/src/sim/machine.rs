//! The engine, its world and its observer in one: one step at a time, in lock step with a twin that was restored
//! from the records.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use cm_core::engine::effect::Effect;
use cm_core::engine::event::{Event, Swap};
use cm_core::engine::{DEVICE_LATE, Engine, GOES_ON, Mono, Node};
use cm_core::proto::Step;
use units::Manifest;

use super::checks::{Checks, Invariant, Violation};
use super::coverage::Coverage;
use super::effort::Effort;
use super::graph::{Graph, slot_of};
use super::helpers::Helpers;
use super::plans::Kept;
use super::resources::Resources;
use super::world::{Told, World};

/// A deliberate fault between engine and world, to show that an invariant can fail.
pub type Tamper = fn(&Engine, &mut Vec<Effect>, &mut World);

/// Everything that one history consists of.
#[derive(Clone)]
pub struct Machine {
    /// Simulated time.
    pub now: Mono,
    /// The engine that ships.
    pub engine: Engine,
    /// What it acts on.
    pub world: World,
    /// The observer.
    pub checks: Checks,
    /// Restored from the records at the last re-exec.
    twin: Option<Engine>,
    /// What the live table of PID 1 would hold: written only where the engine says that it changed.
    table: BTreeMap<Node, Vec<u8>>,
    globals: Vec<u8>,
    requests: u64,
    /// Steps so far.
    pub steps: u64,
    /// Lines of the story, if somebody wants it.
    pub story: Option<Vec<String>>,
    /// The deliberate fault.
    pub tamper: Option<Tamper>,
    /// Where the table of fact × phase was visited.
    pub coverage: Coverage,
    /// Where the table of what is observed × situation was visited.
    pub resources: Resources,
    /// How helpers and commands ended.
    pub helpers: Helpers,
    /// Plans that were kept.
    pub kept: Kept,
    /// The most units and edges that a step looked at, in thousandths of what it may.
    pub most_looks: u64,
}

impl Machine {
    /// A machine that has just been switched on.
    pub fn new(world: World, story: bool) -> Machine {
        let mut machine = Machine {
            now: Mono(1_000_000),
            engine: Engine::new(),
            world,
            checks: Checks::new(),
            twin: None,
            table: BTreeMap::new(),
            globals: Vec::new(),
            requests: 0,
            steps: 0,
            story: story.then(Vec::new),
            tamper: None,
            coverage: Coverage::default(),
            resources: Resources::default(),
            helpers: Helpers::default(),
            kept: Kept::default(),
            most_looks: 0,
        };
        machine.write_table();
        machine
    }

    /// A line of the story.
    pub fn tell_story(&mut self, line: impl FnOnce(&Machine) -> String) {
        if self.story.is_some() {
            let line = format!("{:>12.3} {}", ms(self.now), line(self));
            if let Some(story) = &mut self.story {
                story.push(line);
            }
        }
    }

    /// The next request's number.
    pub fn request(&mut self, swap: Option<(u64, [u8; 32], Swap)>) -> u64 {
        self.requests += 1;
        self.checks.request(self.requests, swap);
        self.requests
    }

    /// The number of the request that was made last.
    pub const fn last_request(&self) -> u64 {
        self.requests
    }

    /// Makes a manifest the desired one.
    ///
    /// # Errors
    /// When an invariant breaks.
    pub fn apply(&mut self, graph: &Graph, generation: u64, kind: Swap) -> Result<(), Violation> {
        self.apply_and(graph, generation, kind, false)
    }

    /// The same; `release` lifts every hold with it.
    ///
    /// # Errors
    /// When an invariant breaks.
    pub fn apply_and(
        &mut self,
        graph: &Graph,
        generation: u64,
        kind: Swap,
        release: bool,
    ) -> Result<(), Violation> {
        self.swap(&graph.manifest(), generation, kind, release)
    }

    /// The same with what a graph has become.
    ///
    /// # Errors
    /// When an invariant breaks.
    pub fn swap(
        &mut self,
        manifest: &Manifest,
        generation: u64,
        kind: Swap,
        release: bool,
    ) -> Result<(), Violation> {
        let digest = manifest.digest();
        let number = self.engine.install(manifest.clone());
        if let Some(twin) = &mut self.twin {
            let other = twin.install(manifest.clone());
            if other != number {
                let text = format!("the twin calls a manifest {} and not {}", other.0, number.0);
                return Err(Violation { invariant: Invariant::ReexecIdentical, text });
            }
        }
        self.world.manifests.insert(number, manifest.clone());
        let request = match kind {
            Swap::Undo | Swap::Purge => 0,
            Swap::Apply | Swap::Rollback | Swap::Boot | Swap::First => {
                self.request(Some((generation, digest, kind)))
            }
        };
        self.step(Event::Swapped { request, manifest: number, generation, kind, release })
    }

    /// One event from the world.
    ///
    /// # Errors
    /// When an invariant breaks.
    pub fn tell(&mut self, told: Told) -> Result<(), Violation> {
        let event = match told {
            Told::Spawned(serial) => Event::Spawned { serial },
            Told::SpawnFailed(serial, errno) => {
                Event::SpawnFailed { serial, stage: "cannot run".to_owned(), errno }
            }
            Told::Ready(serial) => Event::Ready { serial },
            Told::Waits(serial, late) => {
                let why = if late { format!("{DEVICE_LATE} /dev/x") } else { GOES_ON.to_owned() };
                Event::Explained { serial, why }
            }
            Told::Reloading(serial) => Event::Reloading { serial },
            Told::Watchdog(serial) => Event::Watchdog { serial },
            Told::Broken(serial) => Event::Broken { serial },
            Told::Extended(serial, ms) => Event::Extended { serial, ms },
            Told::WatchdogSet(serial, ms) => Event::WatchdogSet { serial, ms },
            Told::Exited(serial, exit) => Event::Exited { serial, exit },
            Told::Empty(serial) => Event::CgroupEmpty { serial },
            Told::Results(batch, results) => Event::Results { batch, results },
            Told::BatchDone(batch) => Event::BatchDone { batch },
            Told::WorkerLost(None) => Event::WorkerLost,
            Told::WorkerLost(Some(Step { manifest, unit, .. })) => {
                Event::WorkerLostAt { manifest, unit, mount: None }
            }
            Told::WorkerHangs(Step { manifest, unit, .. }) => {
                Event::WorkerHangs { manifest, unit, mount: None, pid: 7 }
            }
            Told::Freed(slot) => match self.node(slot) {
                Some(node) => Event::WorkerFreed { nodes: vec![node] },
                None => return Ok(()),
            },
            Told::Recorded(token, good) => {
                Event::Recorded { token, error: (!good).then(|| "no space".to_owned()) }
            }
            Told::Mounted(slot) => match self.node(slot) {
                Some(node) => Event::Mounted { node },
                None => return Ok(()),
            },
            Told::Unmounted(slot) => match self.node(slot) {
                Some(node) => Event::Unmounted { node },
                None => return Ok(()),
            },
            Told::Touched(slot) => match self.node(slot) {
                Some(node) => Event::Touched { nodes: vec![node] },
                None => return Ok(()),
            },
            Told::Compared(slot, differs) => match self.node(slot) {
                Some(node) => {
                    let options = if differs { "noexec" } else { "" }.to_owned();
                    Event::MountDiffers { node, options, tried: false }
                }
                None => return Ok(()),
            },
        };
        self.step(event)
    }

    /// The node of a slot.
    pub fn node(&self, slot: u8) -> Option<Node> {
        self.engine.nodes().find(|n| slot_of(&self.engine.address(*n)) == slot)
    }

    /// One step of the engine, and everything that is checked about it.
    ///
    /// # Errors
    /// When an invariant breaks.
    pub fn step(&mut self, event: Event) -> Result<(), Violation> {
        self.steps += 1;
        if self.checks.has_left() {
            return Ok(());
        }
        self.coverage.fact(&self.engine, &event);
        self.resources.before(&self.engine, &self.checks, &self.world, &event);
        self.helpers.before(&self.engine, &event);
        self.checks.note(&self.engine);
        let mut effort = Effort::before(&self.engine);
        self.checks.told(&self.engine, &self.world, &event);
        self.tell_story(|m| format!("→ {}", m.words(&event)));
        let mut effects = Vec::new();
        effort.go_on(&self.engine);
        self.engine.step(self.now, event.clone(), &mut effects);
        effort.stop(&self.engine);
        self.twin_step(&event, &effects)?;
        let changed = self.write_table();
        if let Some(tamper) = self.tamper {
            effort.go_on(&self.engine);
            tamper(&self.engine, &mut effects, &mut self.world);
            effort.stop(&self.engine);
        }
        if self.story.is_some() {
            for effect in &effects {
                self.tell_story(|m| format!("      {}", m.effect_words(effect)));
            }
        }
        self.coverage.conditions(&self.engine, &self.checks, &effects);
        self.resources.after(&self.engine, &self.checks, &self.world, &effects);
        self.helpers.after(&self.engine, &self.world, &event, &effects);
        self.checks.check(&self.engine, &self.world, self.now, &event, &effects)?;
        self.most_looks = self.most_looks.max(effort.bounded(&self.engine, &event, &effects, &changed)?);
        for effect in &effects {
            match effect {
                Effect::Compare { node } => {
                    self.world.compares(self.now, slot_of(&self.engine.address(*node)));
                }
                effect => self.world.react(self.now, effect),
            }
        }
        Ok(())
    }

    fn twin_step(&mut self, event: &Event, effects: &[Effect]) -> Result<(), Violation> {
        let Some(twin) = &mut self.twin else { return Ok(()) };
        let mut others = Vec::new();
        twin.step(self.now, event.clone(), &mut others);
        if others == effects && twin.next_deadline() == self.engine.next_deadline() {
            return Ok(());
        }
        let differs =
            effects.iter().zip(&others).position(|(a, b)| a != b).unwrap_or(effects.len().min(others.len()));
        let text = format!(
            "after a re-exec, effect {differs} is {:?} and not {:?} (deadlines {:?} and {:?})",
            others.get(differs),
            effects.get(differs),
            twin.next_deadline(),
            self.engine.next_deadline(),
        );
        Err(Violation { invariant: Invariant::ReexecIdentical, text })
    }

    /// Writes what the engine says has changed, as the live table of PID 1 is written. Answers which records really
    /// differ from before.
    fn write_table(&mut self) -> Vec<Node> {
        let records = self.engine.take_changed();
        let mut changed = Vec::new();
        for node in &records.nodes {
            let record = self.engine.record(*node);
            let before = match &record {
                Some(record) => self.table.insert(*node, record.clone()),
                None => self.table.remove(node),
            };
            if before != record {
                changed.push(*node);
            }
        }
        if records.globals {
            self.globals = self.engine.globals();
        }
        changed
    }

    /// A re-exec: from here on a twin that was restored from the live table runs beside the engine.
    ///
    /// # Errors
    /// When the twin is not the same.
    pub fn reexec(&mut self) -> Result<(), Violation> {
        self.tell_story(|_| "re-exec".to_owned());
        let broken = |text: String| Err(Violation { invariant: Invariant::ReexecIdentical, text });
        // What the engine did not mark as changed would be lost.
        let nodes: BTreeSet<Node> = self.engine.nodes().collect();
        for node in &nodes {
            if self.table.get(node) != self.engine.record(*node).as_ref() {
                return broken(format!("the record of {} is out of date", self.engine.address(*node)));
            }
        }
        if let Some(extra) = self.table.keys().find(|n| !nodes.contains(n)) {
            return broken(format!("the table holds place {}, which is free", extra.0));
        }
        if same_but_now(&self.globals, &self.engine).is_none() {
            return broken("the common record is out of date".to_owned());
        }
        let manifests = self.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
        let twin = Engine::restore(manifests, &self.globals, self.table.clone());
        let mut twin = match twin {
            Ok(twin) => twin,
            Err(error) => return broken(error.to_string()),
        };
        if let Some(text) = twin.audit() {
            return broken(format!("restored: {text}"));
        }
        for node in &nodes {
            if twin.status(*node) != self.engine.status(*node) {
                let text = format!("status {:?} and not {:?}", twin.status(*node), self.engine.status(*node));
                return broken(text);
            }
        }
        twin.take_changed();
        self.twin = Some(twin);
        Ok(())
    }

    /// Everything that the engine remembers.
    pub fn state_hash(&self, hash: &mut impl Hasher) {
        self.globals.hash(hash);
        self.table.hash(hash);
    }

    fn words(&self, event: &Event) -> String {
        let of = |serial: &u64| match self.engine.job(*serial) {
            Some((node, job)) => format!("{} {job:?}#{serial}", self.engine.address(node)),
            None => format!("#{serial} (earlier)"),
        };
        match event {
            Event::Spawned { serial } => format!("spawned {}", of(serial)),
            Event::SpawnFailed { serial, errno, .. } => {
                format!("cannot spawn {} (errno {errno})", of(serial))
            }
            Event::Exited { serial, exit } => format!("exited {} {exit:?}", of(serial)),
            Event::Ready { serial } => format!("says ready {}", of(serial)),
            Event::Reloading { serial } => format!("says reloading {}", of(serial)),
            Event::Watchdog { serial } => format!("sign of life {}", of(serial)),
            Event::Broken { serial } => format!("says that it is broken {}", of(serial)),
            Event::CgroupEmpty { serial } => format!("cgroup empty {}", of(serial)),
            Event::Results { batch, results } => {
                let words: Vec<String> = results
                    .iter()
                    .map(|r| {
                        let m = self.world.manifests.get(&r.manifest);
                        let address = m.map_or_else(String::new, |m| m.address(r.unit).to_string());
                        format!("{address} {:?}", r.outcome)
                    })
                    .collect();
                format!("results of batch {batch}: {}", words.join(", "))
            }
            Event::Touched { nodes } => {
                let words: Vec<String> = nodes.iter().map(|n| self.engine.address(*n).to_string()).collect();
                format!("touched {}", words.join(", "))
            }
            Event::Mounted { node } => format!("mounted {}", self.engine.address(*node)),
            Event::MountDiffers { node, options, .. } => {
                format!("mount {} stands without {options}", self.engine.address(*node))
            }
            Event::Unmounted { node } => format!("unmounted {}", self.engine.address(*node)),
            Event::Asked { request, verb, node, until, .. } => {
                format!("asked (request {request}): {verb:?} {} until {until:?}", self.engine.address(*node))
            }
            other => format!("{other:?}"),
        }
    }

    fn effect_words(&self, effect: &Effect) -> String {
        match effect {
            Effect::Spawn { node, serial, job, manifest, .. } => {
                format!("spawn {} {job:?}#{serial} of manifest {}", self.engine.address(*node), manifest.0)
            }
            Effect::Publish { node, text } => format!("  {} {text}", self.engine.address(*node)),
            Effect::Batch { batch, intent, steps, .. } => {
                let words: Vec<String> = steps
                    .iter()
                    .map(|s| {
                        let m = self.world.manifests.get(&s.manifest);
                        let address = m.map_or_else(String::new, |m| m.address(s.unit).to_string());
                        format!("{:?} {address}", s.action)
                    })
                    .collect();
                format!("batch {batch} ({intent:?}): {}", words.join(", "))
            }
            Effect::Log { text, .. } => format!("  log: {text}"),
            other => format!("{other:?}"),
        }
    }
}

/// Time itself moves without being recorded at every step: a record is as good as one of the same moment.
fn same_but_now(globals: &[u8], engine: &Engine) -> Option<()> {
    let now = engine.globals();
    // `now` stands first, as a varint: what follows must agree.
    let tail = |bytes: &[u8]| bytes.iter().position(|b| b & 0x80 == 0).map(|i| bytes[i + 1..].to_vec());
    (tail(globals)? == tail(&now)?).then_some(())
}

/// A moment in milliseconds, for people.
pub fn ms(at: Mono) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let micros = (at.0 / 1000) as f64;
    micros / 1000.0
}
