//! Which cells of the table fact × phase (semantics §3) were visited.

use std::fmt;

use cm_core::engine::Engine;
use cm_core::engine::effect::{Effect, Job};
use cm_core::engine::event::{Event, Exit, Verb};

use super::cells::Cells;
use super::checks::Checks;

/// Columns.
pub const FACTS: [&str; 23] = [
    "spawned",
    "spawn failed, retry",
    "spawn failed, hopeless",
    "ready seen",
    "reloading seen",
    "sign of life",
    "watchdog missed",
    "more time",
    "watchdog set",
    "clean exit",
    "bad exit",
    "cgroup empty",
    "deadline",
    "path seen",
    "reload ended",
    "gate opens",
    "bound dep lost",
    "want down",
    "spec differs",
    "inputs differ",
    "start by hand",
    "stop by hand",
    "hold by hand",
];

/// Rows.
pub const PHASES: [&str; 9] =
    ["down", "waiting", "starting", "ready", "reloading", "stopping", "backoff", "failed", "done"];

/// Why a fact cannot meet a phase; `None` when it can. What comes all the same is a defect of the engine, and `no-defect`
/// would find it.
fn unreachable(fact: usize, phase: usize) -> Option<&'static str> {
    let (fact, phase) = (FACTS[fact], PHASES[phase]);
    let process = matches!(phase, "starting" | "ready" | "reloading" | "stopping");
    let no_process = "there is no process whose fact it could be";
    let (can, why) = match fact {
        "spawned" | "spawn failed, retry" | "spawn failed, hopeless" => {
            (matches!(phase, "starting" | "stopping"), "only what starts is spawned, or stops before it is")
        }
        "ready seen" | "reloading seen" | "sign of life" | "more time" | "watchdog set" | "clean exit"
        | "bad exit" | "cgroup empty" => (process, no_process),
        "watchdog missed" => {
            (matches!(phase, "ready" | "reloading"), "the watchdog is armed only while it is ready")
        }
        "deadline" => {
            (matches!(phase, "starting" | "reloading" | "stopping" | "backoff"), "the phase has no deadline")
        }
        "path seen" => (phase == "starting", "the helper that waits for the path ends with the start"),
        "reload ended" => (phase == "reloading", "the reload command ends with the reload"),
        "gate opens" => (phase == "waiting", "only who waits has a gate that is looked at"),
        "bound dep lost" => {
            (matches!(phase, "starting" | "ready" | "reloading"), "it is down already, or on its way there")
        }
        "want down" => (phase != "down", "it is down"),
        "inputs differ" => (process, "what does not run has loaded nothing that could be stale"),
        _ => (true, ""),
    };
    (!can).then_some(why)
}

fn possible(fact: usize, phase: usize) -> bool {
    unreachable(fact, phase).is_none()
}

/// Counts of visits.
#[derive(Default, Debug, Clone, Copy)]
pub struct Coverage {
    cells: Cells<{ PHASES.len() }, { FACTS.len() }>,
}

impl Coverage {
    fn visit(&mut self, fact: &str, phase: &str) {
        let fact = FACTS.iter().position(|f| *f == fact);
        let phase = PHASES.iter().position(|p| *p == phase);
        if let (Some(fact), Some(phase)) = (fact, phase) {
            self.cells.visit(fact, phase);
        }
    }

    /// Before a step: the fact that comes.
    pub fn fact(&mut self, engine: &Engine, event: &Event) {
        let (serial, fact) = match event {
            Event::Spawned { serial } => (*serial, "spawned"),
            Event::SpawnFailed { serial, errno: 2 | 13, .. } => (*serial, "spawn failed, hopeless"),
            Event::SpawnFailed { serial, .. } => (*serial, "spawn failed, retry"),
            Event::Ready { serial } => (*serial, "ready seen"),
            Event::Reloading { serial } => (*serial, "reloading seen"),
            Event::Watchdog { serial } => (*serial, "sign of life"),
            Event::Extended { serial, .. } => (*serial, "more time"),
            Event::WatchdogSet { serial, .. } => (*serial, "watchdog set"),
            Event::Exited { serial, exit: Exit::Code(0) } => (*serial, "clean exit"),
            Event::Exited { serial, .. } => (*serial, "bad exit"),
            Event::CgroupEmpty { serial } => (*serial, "cgroup empty"),
            Event::Asked { verb, node, .. } => {
                let fact = match verb {
                    Verb::Start => "start by hand",
                    Verb::Stop => "stop by hand",
                    Verb::Hold => "hold by hand",
                    _ => return,
                };
                self.visit(fact, engine.glance(*node).state);
                return;
            }
            Event::Tick => {
                let at = engine.next_deadline();
                for (_, node, word) in engine.deadlines().filter(|(t, _, _)| Some(*t) == at) {
                    if let Some(node) = node {
                        let fact = if word == "watchdog" { "watchdog missed" } else { "deadline" };
                        self.visit(fact, engine.glance(node).state);
                    }
                }
                return;
            }
            _ => return,
        };
        let Some((node, job)) = engine.job(serial) else { return };
        let phase = engine.glance(node).state;
        match job {
            Job::Main => self.visit(fact, phase),
            Job::AwaitPath if fact == "clean exit" => self.visit("path seen", phase),
            Job::Reload if fact.ends_with("exit") => self.visit("reload ended", phase),
            _ => {}
        }
    }

    /// After a step: the conditions that changed.
    pub fn conditions(&mut self, engine: &Engine, checks: &Checks, effects: &[Effect]) {
        for node in engine.nodes() {
            let Some(was) = checks.was(node) else { continue };
            let is = engine.glance(node);
            if checks.was_declared_otherwise(engine, node) {
                self.visit("spec differs", was.state);
            }
            if was == is {
                continue;
            }
            if was.wanted && !is.wanted {
                self.visit("want down", was.state);
            }
            if !was.stale && is.stale {
                self.visit("inputs differ", was.state);
            }
        }
        for effect in effects {
            match effect {
                Effect::Spawn { node, job: Job::Main, .. } => {
                    let phase = checks.was(*node).map_or("waiting", |g| g.state);
                    self.visit("gate opens", phase);
                }
                Effect::Publish { node, text } => {
                    let phase = checks.was(*node).map_or("", |g| g.state);
                    if text == "stopping: something it is bound to was lost" {
                        self.visit("bound dep lost", phase);
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds the visits of another history.
    pub fn add(&mut self, other: &Coverage) {
        self.cells.add(&other.cells);
    }

    /// (visited, possible).
    pub fn counts(&self) -> (usize, usize) {
        self.cells.counts(possible)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells.draw(f, (&FACTS, &PHASES), 10, possible)?;
        write!(f, "\nCells marked – cannot be visited:")?;
        for (number, fact) in FACTS.iter().enumerate() {
            let cells = |phase: &usize| unreachable(number, *phase).is_some();
            let phases: Vec<&str> = (0..PHASES.len()).filter(cells).map(|p| PHASES[p]).collect();
            if let Some(why) = (0..PHASES.len()).find_map(|phase| unreachable(number, phase)) {
                write!(f, "\n  {fact}: {why} ({})", phases.join(", "))?;
            }
        }
        Ok(())
    }
}
