//! The plainest world around the engine: everything succeeds at once.

use std::collections::VecDeque;

use cm_core::engine::effect::{Effect, Job, Verdict};
use cm_core::engine::event::{Event, Exit, Swap};
use cm_core::engine::{Engine, Mono, Node};
use cm_core::proto::{Action, Outcome, UnitResult};
use units::{Kind, Manifest};

/// An engine and what answers it.
pub struct World {
    engine: Engine,
    now: Mono,
    events: VecDeque<Event>,
    /// Verdicts that were Done.
    pub done: u64,
    /// Processes that were started as services.
    pub started: u64,
    /// What the worker found wrong and put right.
    pub repaired: u64,
    /// The next look of the worker finds what it looks at changed.
    drifted: bool,
    serial: u64,
}

impl World {
    /// A machine that has booted to this state.
    pub fn booted(manifest: Manifest) -> World {
        let mut world = World {
            engine: Engine::new(),
            now: Mono(1_000_000),
            events: VecDeque::from([Event::StoreOpened]),
            done: 0,
            started: 0,
            repaired: 0,
            drifted: false,
            serial: 0,
        };
        world.swap(manifest, 1, Swap::Boot);
        world
    }

    /// Applies a state and waits for the answer.
    pub fn swap(&mut self, manifest: Manifest, generation: u64, kind: Swap) {
        let manifest = self.engine.install(manifest);
        self.events.push_back(Event::Swapped {
            request: generation,
            manifest,
            generation,
            kind,
            release: false,
        });
        self.rest();
    }

    /// All files.
    pub fn files(&self) -> Vec<Node> {
        self.engine.nodes().filter(|n| self.engine.status(*n).address.kind == Kind::File).collect()
    }

    /// Somebody has edited what a unit owns.
    pub fn edit(&mut self, node: Node) {
        self.drifted = true;
        self.events.push_back(Event::Touched { nodes: vec![node] });
        self.rest();
    }

    /// The process of the service that was started last is killed, an hour after what was before.
    pub fn crash(&mut self) {
        self.now = self.now.after_ms(3_600_000);
        let serial = self.serial;
        self.events.push_back(Event::Exited { serial, exit: Exit::Signal(9) });
        self.events.push_back(Event::CgroupEmpty { serial });
        self.rest();
    }

    /// Until nothing is to be answered and no deadline is near.
    fn rest(&mut self) {
        loop {
            let event = match (self.events.pop_front(), self.engine.next_deadline()) {
                (Some(event), _) => event,
                (None, Some(at)) if at <= self.now.after_ms(60_000) => {
                    self.now = self.now.max(at);
                    Event::Tick
                }
                (None, _) => return,
            };
            let mut effects = Vec::new();
            self.engine.step(self.now, event, &mut effects);
            // As PID 1 does after each step, for its live table.
            for node in self.engine.take_changed().nodes {
                std::hint::black_box(self.engine.record(node));
            }
            effects.into_iter().for_each(|effect| self.answer(effect));
        }
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { serial, job: Job::Main, .. } => {
                self.started += 1;
                self.serial = serial;
                self.events.push_back(Event::Spawned { serial });
            }
            Effect::Batch { batch, steps, .. } => {
                let results = steps.iter().map(|step| {
                    let changed = self.drifted && step.action == Action::Converge;
                    let outcome = if changed { Outcome::Changed } else { Outcome::Kept };
                    UnitResult { manifest: step.manifest, unit: step.unit, outcome, detail: String::new() }
                });
                let results: Vec<UnitResult> = results.collect();
                self.repaired += results.iter().filter(|r| r.outcome == Outcome::Changed).count() as u64;
                self.drifted = false;
                self.events.push_back(Event::Results { batch, results });
                self.events.push_back(Event::BatchDone { batch });
            }
            Effect::Store { token, .. } => self.events.push_back(Event::Recorded { token, error: None }),
            Effect::Answer { verdict: Verdict::Done, .. } => self.done += 1,
            _ => {}
        }
    }
}
