//! Machines of thousands of units, for one question alone: how much each step looks at.
//!
//! The world is a plain one. Everything answers, in an order by lot; what happens from outside is one thing at a time:
//! a touched file, a crash, a hand, a lost mount, an apply of a few changes. The other invariants are checked on small
//! machines, where a look at everything after every step costs little.

use std::collections::{BTreeMap, VecDeque};

use cm_core::engine::effect::{Effect, Job};
use cm_core::engine::event::{Down, Event, Exit, Swap, Verb};
use cm_core::engine::{Engine, Mono, Node};
use cm_core::proto::{Action, Outcome, Step, UnitResult};
use units::kind::Spec;
use units::kind::service::{Ready, Reload};
use units::manifest::NewUnit;
use units::{EdgeKind, Kind, Manifest, ManifestBuilder};

use super::checks::Violation;
use super::dice::Dice;
use super::effort::Effort;
use super::graph::{file, mount, service};

/// What the steps of one machine looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    /// Steps.
    pub steps: u64,
    /// Units of the machine.
    pub units: usize,
    /// The most that a step looked at, in thousandths of what it may.
    pub most: u64,
}

/// A walk that a test plants beside the engine's own.
pub type Walk = fn(&Engine, &Event);

/// What stands for a state file here: a version of each unit, and which are declared.
struct Plan {
    shape: u64,
    versions: Vec<Option<u64>>,
}

impl Plan {
    fn kind(&self, number: usize) -> Kind {
        // Few mounts and targets, whose names come first; then as in any state file mostly files.
        match (number, Dice::of(&[self.shape, number as u64]).below(10)) {
            (0..=3, _) => Kind::Target,
            (4..=9, _) => Kind::Mount,
            (_, 0..=2) => Kind::Service,
            (_, 3) => Kind::Exec,
            (_, _) => Kind::File,
        }
    }

    fn name(&self, number: usize) -> String {
        match self.kind(number) {
            Kind::File | Kind::Mount => format!("/n{number}"),
            _ => format!("n{number}"),
        }
    }

    fn unit(&self, number: usize, version: u64) -> NewUnit {
        let mut dice = Dice::of(&[self.shape, 1, number as u64]);
        let kind = self.kind(number);
        let spec = match kind {
            Kind::Service => {
                let mut s = service(version);
                s.ready = match dice.below(3) {
                    0 => Ready::Started,
                    1 => Ready::Notify,
                    _ => Ready::Exited,
                };
                s.reload = dice.chance(300).then_some(Reload::Signal(1));
                Spec::Service(Box::new(s))
            }
            Kind::Exec => Spec::Exec(Box::new(units::kind::exec::Exec {
                command: vec!["/bin/once".into()],
                creates: None,
                unless: None,
                once: Some(dice.pick(&[units::kind::exec::Once::Boot, units::kind::exec::Once::Ever])),
                user: None,
                group: None,
                environment: vec![("V".to_owned(), version.to_string())],
                directory: None,
                timeout: 0,
                undo: None,
            })),
            Kind::Mount => mount(0, version),
            Kind::Target => Spec::Target(units::kind::target::Target {}),
            _ => file(0, version),
        };
        let mut unit = NewUnit::new(kind, self.name(number), spec);
        if kind == Kind::File {
            unit.claim = format!("path:/n{number}");
        }
        unit.settle = dice.pick(&[0, 50]);
        unit
    }

    /// Edges of every shape that costs something: a target of everything, one file that hundreds of services need, one
    /// service that needs hundreds of files, a long chain, directories in directories, and chance.
    fn edges(&self, number: usize) -> Vec<(usize, EdgeKind)> {
        let mut dice = Dice::of(&[self.shape, 2, number as u64]);
        let count = self.versions.len();
        let kind = self.kind(number);
        let mut out = Vec::new();
        let some = |dice: &mut Dice| usize::try_from(dice.below(number as u64)).unwrap_or(0);
        match number {
            0 => out
                .extend((10..count).filter(|n| self.kind(*n) == Kind::Service).map(|n| (n, EdgeKind::Wants))),
            1 => out.extend((10..count).step_by(3).map(|n| (n, EdgeKind::Requires))),
            2..=9 => {}
            // One that needs hundreds.
            10 => out
                .extend((11..count).filter(|n| self.kind(*n) == Kind::File).map(|n| (n, EdgeKind::Requires))),
            _ => {}
        }
        if number <= 10 {
            return out;
        }
        if number < 200 && kind == Kind::Service {
            let before = (11..number).rev().find(|n| self.kind(*n) == Kind::Service);
            out.extend(before.map(|n| (n, EdgeKind::Requires)));
        }
        if dice.chance(150) {
            let below = 4 + usize::try_from(dice.below(6)).unwrap_or(0);
            out.push((below, EdgeKind::Binds));
        }
        // The first file is in everybody's way.
        let first = (11..count).find(|n| self.kind(*n) == Kind::File).unwrap_or(11);
        if kind == Kind::Service && number > first && dice.chance(500) {
            out.push((first, dice.pick(&[EdgeKind::Requires, EdgeKind::ReloadOn, EdgeKind::Binds])));
        }
        for _ in 0..dice.below(3) {
            let other = some(&mut dice);
            if other > 10 && (kind != Kind::File || self.kind(other) == Kind::File) {
                out.push((other, dice.pick(&[EdgeKind::Requires, EdgeKind::Wants, EdgeKind::After])));
            }
        }
        out
    }

    fn manifest(&self) -> Manifest {
        let mut builder = ManifestBuilder::new();
        let units: Vec<Option<NewUnit>> =
            self.versions.iter().enumerate().map(|(n, v)| v.map(|v| self.unit(n, v))).collect();
        for unit in units.iter().flatten() {
            builder.unit(unit.clone());
        }
        for (number, unit) in units.iter().enumerate() {
            let Some(unit) = unit else { continue };
            for (other, kind) in self.edges(number) {
                if let Some(Some(other)) = units.get(other) {
                    builder.edge(&unit.address, &other.address, kind, "");
                    if kind == EdgeKind::ReloadOn {
                        builder.edge(&unit.address, &other.address, EdgeKind::Requires, "");
                    }
                }
            }
        }
        builder.finish()
    }
}

struct Machine {
    engine: Engine,
    now: Mono,
    table: BTreeMap<Node, Vec<u8>>,
    /// What the processes will say, in order, and what the worker will.
    said: [VecDeque<Event>; 2],
    looks: Looks,
    dice: Dice,
    walk: Option<Walk>,
    request: u64,
}

impl Machine {
    fn step(&mut self, event: Event) -> Result<(), Violation> {
        let mut effort = Effort::before(&self.engine);
        let mut effects = Vec::new();
        effort.go_on(&self.engine);
        self.engine.step(self.now, event.clone(), &mut effects);
        if let Some(walk) = self.walk {
            walk(&self.engine, &event);
        }
        effort.stop(&self.engine);
        let mut changed = Vec::new();
        for node in self.engine.take_changed().nodes {
            let record = self.engine.record(node);
            let before = match &record {
                Some(record) => self.table.insert(node, record.clone()),
                None => self.table.remove(&node),
            };
            if before != record {
                changed.push(node);
            }
        }
        self.looks.steps += 1;
        self.looks.most = self.looks.most.max(effort.bounded(&self.engine, &event, &effects, &changed)?);
        for effect in effects {
            self.react(effect);
        }
        Ok(())
    }

    fn react(&mut self, effect: Effect) {
        let [processes, worker] = &mut self.said;
        match effect {
            Effect::Spawn { node, serial, manifest, unit, job, .. } => {
                let spec = self.engine.manifest(manifest).and_then(|m| m.service(unit));
                match (job, spec.map(|s| s.ready)) {
                    (Job::Main, Some(ready)) => {
                        processes.push_back(Event::Spawned { serial });
                        match ready {
                            Ready::Notify => processes.push_back(Event::Ready { serial }),
                            Ready::Exited => {
                                processes.push_back(Event::Exited { serial, exit: Exit::Code(0) });
                                processes.push_back(Event::CgroupEmpty { serial });
                            }
                            _ => {}
                        }
                    }
                    (job, _) => {
                        processes.push_back(Event::Exited { serial, exit: Exit::Code(0) });
                        if job == Job::Mount {
                            processes.push_back(Event::Mounted { node });
                        }
                    }
                }
            }
            Effect::Signal { serial, signal } if signal != 1 => self.ends(serial),
            Effect::Kill { serial } => self.ends(serial),
            Effect::Batch { batch, steps, .. } => {
                let mut rest = steps.as_slice();
                while !rest.is_empty() {
                    let most = usize::try_from(1 + self.dice.below(64)).unwrap_or(1).min(rest.len());
                    let (now, later) = rest.split_at(most);
                    let results = now.iter().map(|s| answer(s, &mut self.dice)).collect();
                    worker.push_back(Event::Results { batch, results });
                    rest = later;
                }
                worker.push_back(Event::BatchDone { batch });
            }
            Effect::Compare { node } => {
                processes.push_back(Event::MountDiffers { node, options: String::new(), tried: false });
            }
            Effect::Store { token, .. } => worker.push_back(Event::Recorded { token, error: None }),
            _ => {}
        }
    }

    fn ends(&mut self, serial: u64) {
        if let Some((_, Job::Main)) = self.engine.job(serial) {
            self.said[0].push_back(Event::Exited { serial, exit: Exit::Signal(15) });
            self.said[0].push_back(Event::CgroupEmpty { serial });
        }
    }

    /// Lets everything answer, and time pass as long as something is waited for that comes soon.
    fn rest(&mut self) -> Result<(), Violation> {
        loop {
            let which = usize::from(self.dice.chance(500));
            let next = self.said[which].pop_front().or_else(|| self.said[1 - which].pop_front());
            self.now = self.now.after_ms(1);
            match (next, self.engine.next_deadline()) {
                (Some(event), _) => self.step(event)?,
                (None, Some(at)) if at <= self.now.after_ms(10_000) => {
                    self.now = self.now.max(at);
                    self.step(Event::Tick)?;
                }
                (None, _) => return Ok(()),
            }
        }
    }

    fn apply(&mut self, plan: &Plan, generation: u64, kind: Swap) -> Result<(), Violation> {
        let manifest = self.engine.install(plan.manifest());
        self.request += 1;
        self.step(Event::Swapped { request: self.request, manifest, generation, kind, release: false })
    }

    fn ask(&mut self, node: Node, verb: Verb) -> Result<(), Violation> {
        self.request += 1;
        self.step(Event::Asked {
            request: self.request,
            verb,
            node,
            note: "somebody".to_owned(),
            until: None,
        })
    }
}

fn answer(step: &Step, dice: &mut Dice) -> UnitResult {
    let outcome = match step.action {
        Action::Remove | Action::Restore => Outcome::Removed,
        Action::Guard(_) => dice.pick(&[Outcome::Kept, Outcome::Drifted]),
        Action::Ran(_) => Outcome::Kept,
        Action::Converge | Action::Check | Action::Rewatch => match dice.below(50) {
            0 => Outcome::NotKept,
            1..=9 => Outcome::Changed,
            _ => Outcome::Kept,
        },
    };
    UnitResult { manifest: step.manifest, unit: step.unit, outcome, detail: String::new() }
}

/// A machine of so many units and so many things that happen to it.
///
/// # Errors
/// When a step looks at more than it may.
pub fn run(seed: u64, units: usize, acts: u32, walk: Option<Walk>) -> Result<Looks, Violation> {
    let mut dice = Dice::of(&[seed, 41]);
    let mut plan = Plan { shape: seed, versions: vec![Some(0); units] };
    let mut machine = Machine {
        engine: Engine::new(),
        now: Mono(1_000_000),
        table: BTreeMap::new(),
        said: Default::default(),
        looks: Looks { units, ..Looks::default() },
        dice: Dice::of(&[seed, 42]),
        walk,
        request: 0,
    };
    machine.step(Event::StoreOpened)?;
    machine.apply(&plan, 1, Swap::Boot)?;
    machine.rest()?;
    for act in 0..u64::from(acts) {
        let nodes: Vec<Node> = machine.engine.nodes().collect();
        let node = dice.pick(&nodes);
        match dice.below(100) {
            0..=29 => machine.step(Event::Touched { nodes: vec![node] })?,
            30..=44 => {
                let serial = machine.engine.status(node).serial;
                if serial != 0 {
                    machine.step(Event::Exited { serial, exit: Exit::Signal(11) })?;
                    machine.step(Event::CgroupEmpty { serial })?;
                }
            }
            45..=54 => machine.ask(node, dice.pick(&[Verb::Stop, Verb::Hold, Verb::Pause]))?,
            55..=69 => {
                machine.ask(node, dice.pick(&[Verb::Start, Verb::Restart, Verb::Release, Verb::Reload]))?
            }
            70..=74 => {
                let mounts = nodes.iter().copied();
                let mounts: Vec<Node> =
                    mounts.filter(|n| machine.engine.address(*n).kind == Kind::Mount).collect();
                if !mounts.is_empty() {
                    machine.step(Event::Unmounted { node: dice.pick(&mounts) })?;
                }
            }
            75 => machine.step(Event::Overflowed)?,
            76 => machine.step(Event::WorkerLost)?,
            77 => machine.step(Event::StoreOpened)?,
            _ => {
                for _ in 0..=dice.below(3) {
                    let number = usize::try_from(dice.below(units as u64)).unwrap_or(0);
                    plan.versions[number] = (number < 10 || dice.chance(700)).then(|| dice.below(9));
                }
                machine.apply(&plan, 2 + act, dice.pick(&[Swap::Apply, Swap::Rollback]))?;
            }
        }
        // Not all of it: the next thing happens in the middle of this one.
        if dice.chance(700) {
            machine.rest()?;
        }
    }
    machine.rest()?;
    machine.step(Event::ShutdownAsked { down: Down::Poweroff })?;
    machine.rest()?;
    Ok(machine.looks)
}
