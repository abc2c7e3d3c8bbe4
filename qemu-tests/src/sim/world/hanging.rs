//! Workers that hang, are given up and cannot be killed: what the shell does so that there is never a second one in a place.

use super::*;

/// How long a batch waits at most for a process to end that was just killed, in microseconds.
const PATIENCE: u64 = 5_000_000;
/// How long a process hangs at most.
const LONG: u64 = 900_000_000;

/// What lies where nothing answers.
pub(super) fn of(seed: u64, faults: u32) -> BTreeSet<u8> {
    let mut dice = Dice::of(&[seed, 31]);
    (0..13).filter(|_| dice.chance(150)).filter(|_| faults & fault::HANG != 0).collect()
}

/// Whether this comes of a worker's work.
pub(super) const fn is_work(happening: &Happening) -> bool {
    matches!(
        happening,
        Happening::Answers(..)
            | Happening::Done(_)
            | Happening::Writes(..)
            | Happening::WorkerDies
            | Happening::Withheld(_)
    )
}

impl World {
    /// Nothing of what the worker had comes any more.
    pub(super) fn forget_worker(&mut self) {
        self.work = None;
        self.records.clear();
        self.pending.retain(|_, h| !is_work(h));
    }

    /// The worker that had the batch is lost; whether it ends is another matter.
    pub(super) fn worker_dies(&mut self, now: Mono) -> Told {
        let at = self.position.take();
        if let Some(step) = at {
            let slot = self.slot(step.manifest, step.unit);
            let mut dice = self.fate(slot, 33);
            if !self.kind && self.hangs.contains(&slot) && dice.chance(500) {
                self.stuck.insert(slot);
                self.soon(now, dice.below(LONG), Happening::Freed(slot));
            }
        }
        Told::WorkerLost(at)
    }

    fn hangs_upon(&self, steps: &[Step]) -> Option<Step> {
        steps.iter().find(|s| self.stuck.contains(&self.slot(s.manifest, s.unit))).copied()
    }

    /// Whether a batch is not handed out.
    pub(super) fn withholds(&mut self, now: Mono, number: u64, steps: &[Step], corrects: bool) -> bool {
        if self.hangs_upon(steps).is_none() {
            return false;
        }
        let wait = self.fate(0, 34).below(PATIENCE);
        self.work = Some(Work { number, steps: steps.to_vec(), next: 0, failed: BTreeSet::new(), corrects });
        self.soon(now, wait, Happening::Withheld(number));
        true
    }

    /// The batch that is withheld at the moment.
    pub(super) fn withheld(&self) -> Option<u64> {
        self.pending.values().find_map(|h| if let Happening::Withheld(n) = h { Some(*n) } else { None })
    }

    /// The engine is told why a batch was not handed out.
    pub(super) fn refused(&mut self, number: u64) -> Option<Told> {
        let work = self.work.as_ref().filter(|w| w.number == number)?;
        let step = self.hangs_upon(&work.steps)?;
        self.work = None;
        self.pending.retain(|_, h| !matches!(h, Happening::Withheld(_)));
        Some(Told::WorkerHangs(step))
    }

    /// The process has ended: what waited for that is handed out.
    pub(super) fn freed(&mut self, now: Mono, slot: u8) -> Option<Told> {
        if !self.stuck.remove(&slot) {
            return None;
        }
        if self.withheld().is_some()
            && let Some(work) = self.work.take()
        {
            self.pending.retain(|_, h| !matches!(h, Happening::Withheld(_)));
            self.begin(now, work.number, work.steps, work.corrects);
        }
        Some(Told::Freed(slot))
    }

    /// Whatever hung answers again.
    pub(super) fn free_all(&mut self, now: Mono) {
        for slot in self.stuck.clone() {
            self.soon(now, 100, Happening::Freed(slot));
        }
    }
}
