//! Which cells of the table of resources (semantics §4), what is observed × situation, were visited.
//!
//! What is observed is what the worker answers, or what the world holds where nobody looks.

use std::collections::BTreeSet;
use std::fmt;

use cm_core::engine::effect::Effect;
use cm_core::engine::event::Event;
use cm_core::engine::{Engine, Node};
use cm_core::proto::{Action, Intent, Outcome};
use units::Kind;
use units::manifest::flags;

use super::cells::Cells;
use super::checks::Checks;
use super::graph::slot_of;
use super::world::World;

/// Rows.
pub const OBSERVED: [&str; 4] = ["right", "wrong or missing", "unreadable or failed", "undeclared now"];

/// Columns.
pub const SITUATIONS: [&str; 6] =
    ["apply", "event, repair", "report or seed", "held", "mount absent", "contested"];

/// Why something cannot be observed in a situation.
fn unreachable(observed: usize, situation: usize) -> Option<&'static str> {
    match (OBSERVED[observed], SITUATIONS[situation]) {
        ("undeclared now", "event, repair") => {
            Some("no event concerns what nobody declares: nothing watches it")
        }
        _ => None,
    }
}

/// Counts of visits.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    cells: Cells<{ SITUATIONS.len() }, { OBSERVED.len() }>,
    /// Slots that somebody fights over.
    contested: BTreeSet<u8>,
    /// Slots of which the last look failed.
    failed: BTreeSet<u8>,
}

impl Resources {
    fn visit(&mut self, observed: &str, situation: &str) {
        let observed = OBSERVED.iter().position(|o| *o == observed);
        let situation = SITUATIONS.iter().position(|s| *s == situation);
        if let (Some(observed), Some(situation)) = (observed, situation) {
            self.cells.visit(observed, situation);
        }
    }

    /// Before a step: what the worker has seen.
    pub fn before(&mut self, engine: &Engine, checks: &Checks, world: &World, event: &Event) {
        let Event::Results { results, .. } = event else { return };
        for result in results {
            let Some((step, intent)) = checks.step_of(result.manifest, result.unit) else { continue };
            let Some(manifest) = engine.manifest(step.manifest).filter(|m| m.kind(step.unit) == Kind::File)
            else {
                continue;
            };
            let slot = slot_of(&manifest.address(step.unit));
            let reported = manifest.flags(step.unit) & (flags::REPORT | flags::SEED) != 0;
            let held = engine.node_in(step.manifest, step.unit).is_some_and(|n| engine.glance(n).held);
            if matches!(step.action, Action::Remove | Action::Restore) {
                let situation = match result.outcome {
                    Outcome::MountAbsent => "mount absent",
                    Outcome::NotKept | Outcome::Blocked => "contested",
                    _ if reported => "report or seed",
                    _ => "apply",
                };
                self.visit("undeclared now", situation);
                continue;
            }
            let observed = match result.outcome {
                Outcome::Kept => "right",
                Outcome::Changed | Outcome::Drifted => "wrong or missing",
                Outcome::NotKept => "unreadable or failed",
                Outcome::Blocked | Outcome::MountAbsent | Outcome::Removed | Outcome::Left => {
                    self.truth(world, slot, manifest.unit_digest(step.unit))
                }
            };
            let situation = match (result.outcome, intent) {
                (Outcome::MountAbsent, _) => "mount absent",
                (Outcome::Blocked, _) => "contested",
                _ if held => "held",
                _ if self.contested.contains(&slot) => "contested",
                (_, Intent::Apply | Intent::Return) => "apply",
                (_, Intent::Correct) if reported => "report or seed",
                (_, Intent::Correct) => "event, repair",
            };
            self.visit(observed, situation);
            if result.outcome == Outcome::Kept {
                self.contested.remove(&slot);
            }
            if result.outcome == Outcome::NotKept {
                self.failed.insert(slot);
            } else {
                self.failed.remove(&slot);
            }
        }
    }

    /// What is there although nobody looks.
    fn truth(&self, world: &World, slot: u8, digest: [u8; 16]) -> &'static str {
        match world.things.get(&slot) {
            _ if self.failed.contains(&slot) => "unreadable or failed",
            Some(thing) if thing.like == Some(digest) && !thing.drifted => "right",
            _ => "wrong or missing",
        }
    }

    /// After a step: what nobody looks at.
    pub fn after(&mut self, engine: &Engine, checks: &Checks, world: &World, effects: &[Effect]) {
        for effect in effects {
            let Effect::Publish { node, text } = effect else { continue };
            if engine.address(*node).kind != Kind::File {
                continue;
            }
            if text == "left: held" {
                self.visit("undeclared now", "held");
            }
            if text.starts_with("not kept: contested") {
                self.contested.insert(slot_of(&engine.address(*node)));
                self.visit("wrong or missing", "contested");
            }
        }
        for node in engine.nodes() {
            let is = engine.glance(node);
            if checks.was(node).is_some_and(|was| was == is) || !is.wanted || is.ready || is.leaving {
                continue;
            }
            let address = engine.address(node);
            if address.kind == Kind::File && waits_for_mount(engine, node) {
                let (manifest, unit) = engine.unit_of(node);
                let digest = engine.manifest(manifest).map_or([0; 16], |m| m.unit_digest(unit));
                let observed = self.truth(world, slot_of(&address), digest);
                self.visit(observed, "mount absent");
            }
        }
    }

    /// Adds the visits of another history.
    pub fn add(&mut self, other: &Resources) {
        self.cells.add(&other.cells);
    }

    /// (visited, possible).
    pub fn counts(&self) -> (usize, usize) {
        self.cells.counts(possible)
    }
}

fn possible(observed: usize, situation: usize) -> bool {
    unreachable(observed, situation).is_none()
}

fn waits_for_mount(engine: &Engine, node: Node) -> bool {
    engine.gates(node).iter().any(|g| !g.open && engine.address(g.node).kind == Kind::Mount)
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells.draw(f, (&OBSERVED, &SITUATIONS), 16, possible)?;
        for (observed, row) in OBSERVED.iter().enumerate() {
            for (situation, column) in SITUATIONS.iter().enumerate() {
                if let Some(why) = unreachable(observed, situation) {
                    write!(f, "\n  {row} × {column}: {why}")?;
                }
            }
        }
        Ok(())
    }
}
