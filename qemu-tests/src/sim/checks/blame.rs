//! An apply returns only because of what it changes, and of what depends on that; and it is committed only when none of
//! that had to be restarted in the quiet time before.

use cm_core::engine::STABLE_MS;
use cm_core::proto::StoreOp;
use units::Manifest;

use super::*;

/// What the apply under way can fail by.
#[derive(Debug, Clone, Default)]
pub(super) struct Blame {
    /// Addresses as text, as the engine names them in its answer.
    units: BTreeSet<String>,
    /// The manifest that was desired after the step before.
    desired: Option<Manifest>,
    /// Its number.
    number: Option<ManifestRef>,
    /// When each was last restarted.
    restarted: BTreeMap<String, Mono>,
    /// Those of them that an apply or a rollback changes: a boot is never undone.
    guilty: BTreeSet<String>,
    /// What kind of swap brought each manifest.
    kinds: BTreeMap<ManifestRef, Swap>,
    /// Who was bad before the apply, which therefore does not answer for it.
    excused: BTreeSet<String>,
    /// The apply has come to the time in which all has to be quiet.
    trial: bool,
    /// Who was not ready when the apply began to change something: a return has not to do better.
    /// Nothing yet; and within that nothing where nobody could see it, for it returned in its very first step.
    before: Option<Option<BTreeSet<String>>>,
    /// Something was worse than that when the return was written down.
    worse: bool,
}

/// The bit of [`Engine::levels`] that says that nothing about a unit is to be done.
const OK: u32 = 1;

/// Who was restarted in the minute before an apply may be one that is restarted again and again.
const LATELY_MS: u64 = 60_000;

impl Checks {
    /// A manifest is about to become the desired one, or waits for that.
    pub(super) fn swapped(&mut self, engine: &Engine, world: &World, manifest: ManifestRef, kind: Swap) {
        self.blame.kinds.insert(manifest, kind);
        let old = engine.manifest(engine.desired().0);
        if let (Some(old), Some(new)) = (old, world.manifests.get(&manifest)) {
            self.blame.units.extend(blamable(engine, old, new, false));
        }
    }

    /// Who is named as the reason of a return is changed by the apply, or depends on what is.
    pub(super) fn blamed_rightly(
        &mut self,
        engine: &Engine,
        now: Mono,
        event: &Event,
        effects: &[Effect],
    ) -> Found {
        let number = engine.desired().0;
        if self.blame.number.replace(number) != Some(number)
            && self.blame.kinds.get(&number).is_some_and(|kind| kind.boots())
        {
            // Nobody goes back behind a boot: what an apply before it has changed is nobody's to answer for.
            self.blame.guilty.clear();
            self.blame.trial = false;
            self.blame.before = None;
        }
        let desired = engine.manifest(number);
        let mut other = false;
        if let (Some(old), Some(new)) = (&self.blame.desired, desired)
            && old != new
        {
            if self.blame.kinds.get(&number).is_some_and(|kind| !kind.boots()) {
                self.blame.guilty.extend(blamable(engine, old, new, true));
            }
            self.blame.units.extend(blamable(engine, old, new, false));
            other = true;
        }
        self.blame.desired = desired.cloned();
        self.quiet_before(engine, now, effects, other)?;
        if other && self.blame.kinds.get(&number).is_some_and(|kind| !kind.boots()) {
            let bad = self.before.iter().filter(|(_, (_, glance))| glance.wanted && !glance.ready);
            let bad = bad.map(|(node, _)| engine.address(*node).to_string()).collect();
            self.blame.before.get_or_insert(Some(bad));
        } else if engine.is_returning() {
            self.blame.before.get_or_insert(None);
        }
        self.returned_completely(engine, event, effects)?;
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
        // One that has waited for that begins in the same step.
        let ends = |effect: &Effect| match effect {
            Effect::Answer { request, verdict, .. } => {
                *verdict != Verdict::Superseded && self.answers.is_swap(*request)
            }
            _ => false,
        };
        let over = engine.applying().is_none();
        if over {
            self.blame.units.clear();
        }
        if over || effects.iter().any(ends) {
            self.blame.guilty.clear();
            self.blame.excused.clear();
            self.blame.trial = false;
            self.blame.before = None;
        }
        Ok(())
    }

    /// A return is called incomplete only where something is worse than it was before the apply.
    fn returned_completely(&mut self, engine: &Engine, event: &Event, effects: &[Effect]) -> Found {
        for effect in effects {
            match effect {
                Effect::Store { op: StoreOp::Returned { .. }, .. } => {
                    let before = self.blame.before.as_ref().and_then(Option::as_ref);
                    let worse = |node: Node| {
                        let glance = engine.glance(node);
                        let counts = glance.wanted && !glance.held && engine.levels(node) & OK == 0;
                        counts && before.is_none_or(|b| !b.contains(&engine.address(node).to_string()))
                    };
                    // One that was lost with the worker is written once more, and says the same.
                    self.blame.worse |= engine.nodes().any(worse);
                }
                Effect::Answer { verdict: Verdict::Returned | Verdict::ReturnIncomplete, .. } => {
                    let unwritten =
                        matches!(event, Event::Recorded { error: Some(_), .. } | Event::WorkerLost)
                            || matches!(event, Event::WorkerLostAt { .. } | Event::Tick);
                    let worse = std::mem::take(&mut self.blame.worse);
                    let incomplete =
                        matches!(effect, Effect::Answer { verdict: Verdict::ReturnIncomplete, .. });
                    if incomplete && !worse && !unwritten {
                        let text = "a return is called incomplete, and nothing is worse than it was before";
                        return broken(Invariant::BlameIsRight, text);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Nobody whom the apply answers for was restarted for as long as all has to be quiet before it is committed.
    fn quiet_before(&mut self, engine: &Engine, now: Mono, effects: &[Effect], other: bool) -> Found {
        for (node, (_, before)) in &self.before {
            let after = engine.glance(*node);
            let address = || engine.address(*node).to_string();
            if after.restarts > before.restarts {
                self.blame.restarted.insert(address(), now);
            }
            let lately = || {
                let last = self.blame.restarted.get(&address());
                last.is_some_and(|at| now < at.after_ms(LATELY_MS))
            };
            if other && (!before.ready || after.held || lately()) {
                self.blame.excused.insert(address());
            }
        }
        for effect in effects {
            match effect {
                Effect::Store { op: StoreOp::Trial { .. }, .. } => self.blame.trial = true,
                Effect::Store { op: StoreOp::Commit { .. }, .. } if self.blame.trial => {
                    let blame = &self.blame;
                    let counts = |unit: &String| {
                        let held = || {
                            engine
                                .nodes()
                                .any(|n| engine.glance(n).held && engine.address(n).to_string() == *unit)
                        };
                        blame.guilty.contains(unit) && !blame.excused.contains(unit) && !held()
                    };
                    let fallen = blame
                        .restarted
                        .iter()
                        .find(|(unit, at)| now < at.after_ms(STABLE_MS) && counts(unit));
                    if let Some((unit, at)) = fallen {
                        let before = (now.0 - at.0) / 1_000_000;
                        let text = format!("committed {before} ms after {unit} had to be restarted");
                        return broken(Invariant::TrialIsQuiet, text);
                    }
                    // It is decided: a record that was lost with the worker is written again, whatever fell since.
                    self.blame.trial = false;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What differs between two manifests, and what depends on that in either, or in any by which somebody runs. `own`: only
/// in that by which it runs itself.
fn blamable(engine: &Engine, old: &Manifest, new: &Manifest, own: bool) -> BTreeSet<String> {
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
    // One that is installed and waits for its turn makes nobody depend on anything yet.
    let by: BTreeSet<ManifestRef> = engine.nodes().map(|n| engine.edges_from(n)).collect();
    let runs_by = |(number, m)| by.contains(&number).then_some((Some(number), m));
    let all: Vec<(Option<ManifestRef>, &Manifest)> =
        engine.manifests().filter_map(runs_by).chain([(None, old), (None, new)]).collect();
    let counts = |number: Option<ManifestRef>, address: &units::Address| {
        let runs = || engine.node(address).map(|node| engine.edges_from(node));
        !own || number.is_none() || runs() == number
    };
    loop {
        let before = units.len();
        for (number, m) in &all {
            for id in m.ids() {
                let depends = m
                    .deps(id)
                    .any(|e| e.kind != EdgeKind::After && units.contains(&m.address(e.unit).to_string()));
                if depends && counts(*number, &m.address(id)) {
                    units.insert(m.address(id).to_string());
                }
            }
        }
        if units.len() == before {
            return units;
        }
    }
}
