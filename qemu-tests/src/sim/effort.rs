//! How much a step of the engine may look at: its share of what really changed and of what depends on that.
//!
//! The engine counts every unit that it reads and every edge that it follows. What has changed is not what the engine
//! says, which could justify a walk over everything by marking everything: a record differs byte for byte from the one
//! before, or what travels along the edges of a unit does.

use cm_core::engine::effect::Effect;
use cm_core::engine::event::Event;
use cm_core::engine::{Engine, Node};
use units::Kind;

use super::checks::{Invariant, Violation};

/// Looks that any step may take.
pub const STEP: u64 = 600;
/// Looks for each changed unit, for each edge of one, and for each unit that the event names.
pub const UNIT: u64 = 150;
/// Looks for each unit and edge, where the event is about all of them: another manifest, lost events, the way down.
pub const ALL: u64 = 25;

/// What a step has looked at so far.
#[derive(Debug)]
pub struct Effort {
    levels: Vec<u32>,
    everything: u64,
    desired: cm_core::proto::ManifestRef,
    since: u64,
    looks: u64,
}

impl Effort {
    /// Before a step.
    pub fn before(engine: &Engine) -> Effort {
        let mut levels = Vec::new();
        for node in engine.nodes() {
            levels.resize(levels.len().max(node.index() + 1), 0);
            levels[node.index()] = engine.levels(node);
        }
        Effort {
            levels,
            everything: everything(engine),
            desired: engine.desired().0,
            since: engine.work(),
            looks: 0,
        }
    }

    /// From here on it counts.
    pub fn go_on(&mut self, engine: &Engine) {
        self.since = engine.work();
    }

    /// Up to here it counted.
    pub fn stop(&mut self, engine: &Engine) {
        self.looks += engine.work() - self.since;
    }

    /// How often the step is about every unit.
    fn times_about_all(&self, engine: &Engine, event: &Event, effects: &[Effect]) -> u64 {
        let returns =
            effects.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.starts_with("returning")));
        let other = engine.desired().0 != self.desired;
        let all = matches!(event, Event::Swapped { .. } | Event::Overflowed | Event::ShutdownAsked { .. });
        match (all || other || returns, returns && !other) {
            // Another manifest was desired and left again: two changes, and what came with it stands neither before nor
            // after.
            (_, true) => 2,
            (about_all, false) => u64::from(about_all),
        }
    }

    /// What it may have looked at, `changed` being the units whose records differ.
    fn allowed(&self, engine: &Engine, event: &Event, effects: &[Effect], changed: &[Node]) -> u64 {
        let named = match event {
            Event::Touched { nodes } => nodes.len(),
            Event::Results { results, .. } => results.len(),
            // Whatever waits for the store.
            Event::StoreOpened => engine.nodes().filter(|n| engine.address(*n).kind == Kind::Exec).count(),
            _ => 1,
        };
        let mut units: Vec<Node> = changed.to_vec();
        for node in engine.nodes() {
            if self.levels.get(node.index()).copied() != Some(engine.levels(node)) {
                units.push(node);
            }
        }
        // Why a change has failed is said of the first few units, each with what keeps it.
        let mut said = effects.iter().filter_map(|e| match e {
            Effect::Answer { text, .. } => Some(text.as_str()),
            Effect::Log { text, .. } if text.starts_with("returning") => Some(text.as_str()),
            _ => None,
        });
        if let Some(text) = said.find(|text| !text.is_empty()) {
            units.extend(engine.nodes().filter(|n| text.contains(&format!("{}: ", engine.address(*n)))));
        }
        units.sort_unstable();
        units.dedup();
        let changed: u64 = units.iter().map(|n| 1 + degree(engine, *n)).sum();
        let asks = engine.sizes().asks as u64;
        let all = self.times_about_all(engine, event, effects) * (self.everything + everything(engine));
        STEP + UNIT * (changed + asks + named as u64) + ALL * all
    }

    /// After a step: it looked at no more than it may. Answers how much that is, in thousandths.
    ///
    /// # Errors
    /// When it looked at more.
    pub fn bounded(
        &self,
        engine: &Engine,
        event: &Event,
        effects: &[Effect],
        changed: &[Node],
    ) -> Result<u64, Violation> {
        let allowed = self.allowed(engine, event, effects, changed);
        if self.looks > allowed {
            let mut text = format!(
                "{} units and edges were looked at for {} changed units, {allowed} are enough: {event:?} gave",
                self.looks,
                changed.len()
            );
            for effect in effects.iter().take(8) {
                text += &format!(" {effect:.200?}");
            }
            return Err(Violation { invariant: Invariant::BoundedWork, text });
        }
        Ok(self.looks * 1000 / allowed)
    }
}

/// Edges of a unit, in every manifest that somebody runs by.
fn degree(engine: &Engine, node: Node) -> u64 {
    let address = engine.address(node);
    let of = |m: &units::Manifest| {
        let id = m.find(address.kind, &address.name)?;
        Some(m.deps(id).count() + m.rdeps(id).count())
    };
    engine.manifests().filter_map(|(_, m)| of(m)).sum::<usize>() as u64
}

fn everything(engine: &Engine) -> u64 {
    let edges = |m: &units::Manifest| m.ids().map(|id| 1 + m.deps(id).count()).sum::<usize>();
    (1 + engine.nodes().count() + engine.manifests().map(|(_, m)| edges(m)).sum::<usize>()) as u64
}
