//! An apply returns only because of what it changes, and of what depends on that.

use units::Manifest;

use super::*;

/// What the apply under way can fail by.
#[derive(Debug, Clone, Default)]
pub(super) struct Blame {
    /// Addresses as text, as the engine names them in its answer.
    units: BTreeSet<String>,
    /// The manifest that was desired after the step before.
    desired: Option<Manifest>,
}

impl Checks {
    /// A manifest is about to become the desired one, or waits for that.
    pub(super) fn swapped(&mut self, engine: &Engine, world: &World, manifest: ManifestRef) {
        let old = engine.manifest(engine.desired().0);
        if let (Some(old), Some(new)) = (old, world.manifests.get(&manifest)) {
            let units = blamable(engine, old, new);
            self.blame.units.extend(units);
        }
    }

    /// Who is named as the reason of a return is changed by the apply, or depends on what is.
    pub(super) fn blamed_rightly(&mut self, engine: &Engine, effects: &[Effect]) -> Found {
        let desired = engine.manifest(engine.desired().0);
        if let (Some(old), Some(new)) = (&self.blame.desired, desired)
            && old != new
        {
            let units = blamable(engine, old, new);
            self.blame.units.extend(units);
        }
        self.blame.desired = desired.cloned();
        for effect in effects {
            let Effect::Answer { verdict: Verdict::Returned | Verdict::ReturnIncomplete, text, .. } = effect
            else {
                continue;
            };
            let named = |reason: &&str| {
                !reason.starts_with("cannot write the journal") && !matches!(*reason, "…" | "")
            };
            let known =
                |reason: &str| self.blame.units.iter().any(|unit| reason.starts_with(&format!("{unit}: ")));
            if let Some(reason) = text.split("; ").filter(named).find(|reason| !known(reason)) {
                let text = format!("an apply returned because of what it has nothing to do with: {reason}");
                return broken(Invariant::BlameIsRight, text);
            }
        }
        if engine.applying().is_none() {
            self.blame.units.clear();
        }
        Ok(())
    }
}

/// What differs between two manifests, and what depends on that in any manifest by which somebody runs.
fn blamable(engine: &Engine, old: &Manifest, new: &Manifest) -> BTreeSet<String> {
    let mut units: BTreeSet<String> = BTreeSet::new();
    let like = |m: &Manifest, id: UnitId| {
        let edges: BTreeSet<(String, EdgeKind)> =
            m.deps(id).map(|e| (m.address(e.unit).to_string(), e.kind)).collect();
        (m.unit_digest(id), m.flags(id) & units::manifest::flags::REPORT, edges)
    };
    for (one, other) in [(old, new), (new, old)] {
        for id in one.ids() {
            let there = other.find(one.kind(id), one.name(id));
            if there.is_none_or(|there| like(other, there) != like(one, id)) {
                units.insert(one.address(id).to_string());
            }
        }
    }
    let all: Vec<&Manifest> = engine.manifests().map(|(_, m)| m).chain([old, new]).collect();
    loop {
        let before = units.len();
        for m in &all {
            for id in m.ids() {
                let depends = m
                    .deps(id)
                    .any(|e| e.kind != EdgeKind::After && units.contains(&m.address(e.unit).to_string()));
                if depends {
                    units.insert(m.address(id).to_string());
                }
            }
        }
        if units.len() == before {
            return units;
        }
    }
}
