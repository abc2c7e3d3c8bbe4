//! The simulated worker: what it finds and what it answers.

use super::*;

impl World {
    pub(super) fn answers(&mut self, number: u64, part: usize) -> Option<Vec<UnitResult>> {
        let work = self.work.as_ref().filter(|w| w.number == number)?;
        let steps: Vec<Step> = work.open().iter().take(part).copied().collect();
        let mut out = Vec::new();
        for step in steps {
            let result = self.answer(step);
            if let Some(work) = &mut self.work {
                work.next += 1;
            }
            out.push(result);
        }
        Some(out)
    }

    pub(super) fn answer(&mut self, step: Step) -> UnitResult {
        let slot = self.slot(step.manifest, step.unit);
        let deps = self.hard_deps(step.manifest, step.unit);
        let failed = self.work.as_ref().is_some_and(|w| deps.iter().any(|d| w.failed.contains(&d.0)));
        let unmounted = deps.iter().any(|(d, kind)| *kind == units::Kind::Mount && !self.mounts.contains(d));
        let mut dice = self.fate(slot, 27);
        let broken = self.can(fault::STEP) && dice.chance(100);
        let removes = matches!(step.action, Action::Remove | Action::Restore);
        let outcome = match step.action {
            _ if broken => Outcome::NotKept,
            Action::Remove | Action::Restore => {
                if unmounted {
                    Outcome::MountAbsent
                } else {
                    match self.things.get(&slot) {
                        None => Outcome::Removed,
                        Some(thing) if thing.adopted => Outcome::Left,
                        Some(_) => {
                            self.things.remove(&slot);
                            self.deeds.entry(slot).or_default().removed += 1;
                            Outcome::Removed
                        }
                    }
                }
            }
            _ if failed => Outcome::Blocked,
            _ if unmounted => Outcome::MountAbsent,
            Action::Converge => self.converge(step, slot),
            Action::Check | Action::Rewatch => {
                let thing = self.things.get(&slot).copied().unwrap_or_default();
                let right = thing.like == self.digest(step) && !thing.drifted;
                if right { Outcome::Kept } else { Outcome::Drifted }
            }
            Action::Guard(hash) => {
                let need =
                    self.manifests.get(&step.manifest).is_none_or(|m| self.must_run(m, step.unit, hash));
                if need { Outcome::Drifted } else { Outcome::Kept }
            }
            Action::Ran(hash) => {
                self.deeds.entry(slot).or_default().noted += 1;
                self.things.entry(slot).or_default().ran = self.digest(step).map(|d| (d, hash));
                Outcome::Kept
            }
        };
        if !removes
            && matches!(outcome, Outcome::NotKept | Outcome::Blocked | Outcome::MountAbsent)
            && let Some(work) = &mut self.work
        {
            work.failed.insert(slot);
        }
        let detail = match outcome {
            Outcome::Drifted => "its content differs".to_owned(),
            _ => String::new(),
        };
        UnitResult { manifest: step.manifest, unit: step.unit, outcome, detail }
    }

    /// What follows upon what the worker has written: its own events, and somebody who wants it otherwise.
    pub(super) fn written(&mut self, now: Mono, results: &[UnitResult]) {
        for result in results.iter().filter(|r| r.outcome == Outcome::Changed) {
            let slot = self.slot(result.manifest, result.unit);
            let mut dice = self.fate(slot, 29);
            if self.faults & fault::ECHO != 0 {
                self.soon(now, dice.below(3_000), Happening::Echoes(slot));
            }
            if self.vandals.get(&slot).is_some_and(|left| *left > 0) {
                self.soon(now, 1_000 + dice.below(400_000), Happening::Undoes(slot));
            }
        }
    }

    pub(super) fn converge(&mut self, step: Step, slot: u8) -> Outcome {
        let digest = self.digest(step);
        let flag = self.manifests.get(&step.manifest).map_or(0, |m| m.flags(step.unit));
        let corrects = self.work.as_ref().is_some_and(|w| w.corrects);
        let thing = self.things.entry(slot).or_default();
        let right = thing.like == digest && !thing.drifted;
        if right || (flag & flags::SEED != 0 && thing.like.is_some()) {
            return Outcome::Kept;
        }
        if flag & flags::REPORT != 0 && thing.like.is_some() && corrects {
            return Outcome::Drifted;
        }
        thing.like = digest;
        thing.drifted = false;
        self.deeds.entry(slot).or_default().written += 1;
        Outcome::Changed
    }

    /// Whether a mount that it depends on is not there.
    pub fn lies_on_nothing(&self, manifest: &Manifest, unit: UnitId) -> bool {
        let mut deps = manifest.deps(unit).filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds));
        deps.any(|e| {
            let address = manifest.address(e.unit);
            address.kind == units::Kind::Mount && !self.mounts.contains(&slot_of(&address))
        })
    }

    /// Whether no guard keeps a command from running, `unless` apart: as `resource::exec::guard` has it.
    pub fn must_run(&self, manifest: &Manifest, unit: UnitId, inputs: u64) -> bool {
        use units::kind::exec::Once;
        let slot = slot_of(&manifest.address(unit));
        let Some(Spec::Exec(spec)) = manifest.spec(unit) else { return false };
        match self.things.get(&slot).and_then(|t| t.ran) {
            None => true,
            Some((_, ran)) if ran != inputs => true,
            Some(_) if spec.creates.is_some() => false,
            Some((digest, _)) => match spec.once {
                Some(Once::Boot | Once::Generation) => digest != manifest.unit_digest(unit),
                Some(Once::Ever) => false,
                None => true,
            },
        }
    }

    pub(super) fn digest(&self, step: Step) -> Option<[u8; 16]> {
        self.manifests.get(&step.manifest).map(|m| m.unit_digest(step.unit))
    }

    pub(super) fn hard_deps(&self, manifest: ManifestRef, unit: UnitId) -> Vec<(u8, units::Kind)> {
        let Some(m) = self.manifests.get(&manifest) else { return Vec::new() };
        m.deps(unit)
            .filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds))
            .map(|e| (slot_of(&m.address(e.unit)), m.kind(e.unit)))
            .collect()
    }
}
