//! What a change must not do: take what another unit still has, and make somebody load the same twice.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

/// What a process was last made to load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Digests of what it reloads and restarts on.
    inputs: u64,
    /// A person or another declaration asks for one more.
    owed: bool,
}

impl Load {
    /// It may load once more.
    pub(super) fn owe(&mut self) {
        self.owed = true;
    }
}

impl Checks {
    /// Who takes a claim starts after whoever gives it up is gone.
    pub(super) fn claims(
        &self,
        engine: &Engine,
        world: &World,
        manifest: ManifestRef,
        unit: UnitId,
    ) -> Found {
        let Some(m) = engine.manifest(manifest).filter(|m| m.claim(unit) != 0) else { return Ok(()) };
        let (claim, taker) = (m.claim(unit), m.address(unit));
        let claims = |manifest: ManifestRef, unit: UnitId| {
            engine.manifest(manifest).is_some_and(|m| m.claim(unit) == claim)
        };
        let runs = world.procs.iter().filter(|(_, p)| p.job == Job::Main && p.exists());
        let running = runs.filter_map(|(serial, _)| {
            let (node, _) = engine.job(*serial)?;
            engine.running(node).filter(|(m, u)| claims(*m, *u)).map(|_| node)
        });
        // A service has it for as long as it runs; what cannot be removed yet still has it.
        let leaving = engine.nodes().filter(|n| {
            let (manifest, unit) = engine.unit_of(*n);
            let service = engine.address(*n).kind == Kind::Service;
            // Of some nothing but a hold is left, which a return puts back.
            let slot = slot_of(&engine.address(*n));
            let nothing = world.things.get(&slot).is_none_or(|thing| thing.adopted);
            let gone = engine.glance(*n).state == "gone" && nothing;
            engine.glance(*n).leaving && !service && !gone && claims(manifest, unit)
        });
        match running.chain(leaving).find(|n| engine.address(*n) != taker) {
            Some(other) => {
                let text = format!("{taker} takes what {} still has", engine.address(other));
                broken(Invariant::ClaimsInOrder, text)
            }
            None => Ok(()),
        }
    }

    /// Something happened after which a process may load once more what it has loaded.
    pub(super) fn may_load(&mut self, engine: &Engine, event: &Event, effects: &[Effect]) {
        // Within one step another manifest was desired and left again.
        self.returns =
            effects.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.starts_with("returning")));
        if self.returns {
            self.loads.values_mut().for_each(Load::owe);
        }
        // What a hand signals is neither the engine's doing nor known to it as a reload.
        self.signalled = match event {
            Event::Asked { verb: Verb::Kill(_), node, .. } => Some(*node),
            _ => None,
        };
        if let Event::Asked { verb: Verb::Reload, node, .. } = event
            && let Some(load) = self.loads.get_mut(node)
        {
            load.owe();
        }
        if matches!(event, Event::Swapped { kind: Swap::Apply | Swap::Rollback, .. }) {
            // Who applies what is current has that tried again which could not load it.
            let stale = |node: &Node| self.before.get(node).is_some_and(|(_, was)| was.stale);
            self.loads.iter_mut().filter(|(node, _)| stale(node)).for_each(|(_, load)| load.owe());
        }
        let desired = engine.desired().0;
        if self.desired.replace(desired) == Some(desired) {
            return;
        }
        let nodes: Vec<Node> = self.loads.keys().copied().collect();
        for node in nodes {
            let other = self.was_declared_otherwise(engine, node);
            let inputs = inputs(engine, node);
            if let Some(load) = self.loads.get_mut(&node) {
                load.owed |= other || load.inputs != inputs;
            }
        }
    }

    /// A process loads what there is when it starts, and later only what is new.
    pub(super) fn loads(&mut self, engine: &Engine, node: Node, fresh: bool) -> Found {
        let inputs = inputs(engine, node);
        let before = self.loads.insert(node, Load { inputs, owed: self.returns });
        match before {
            Some(load) if !fresh && load.inputs == inputs && !load.owed => {
                let text = format!("{} is made to load what it has loaded", engine.address(node));
                broken(Invariant::LoadsOnce, text)
            }
            _ => Ok(()),
        }
    }
}

fn inputs(engine: &Engine, node: Node) -> u64 {
    let mut hash = DefaultHasher::new();
    let (manifest, unit) = engine.unit_of(node);
    if let Some(m) = engine.manifest(manifest) {
        for edge in m.deps(unit).filter(|e| matches!(e.kind, EdgeKind::ReloadOn | EdgeKind::RestartOn)) {
            m.unit_digest(edge.unit).hash(&mut hash);
        }
    }
    hash.finish()
}
