//! An apply: change → ready on the new inputs → quiet → committed, or back to where it came from (semantics §6).

use serde::{Deserialize, Serialize};
use units::UnitId;

use super::effect::{Effect, Level, Tally, Verdict};
use super::event::Swap;
use super::timer::Timer;
use super::unit::{NOBODY, Want, bits};
use super::{BATCH_MS, Engine, Node, STABLE_MS};
use crate::proto::{ManifestRef, StoreOp};

/// An apply, a rollback or a boot under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Apply {
    pub request: u64,
    pub kind: Swap,
    pub manifest: ManifestRef,
    pub generation: u64,
    /// Every hold is lifted with the change.
    pub release: bool,
    /// What it returns to.
    pub from: (ManifestRef, u64),
    pub phase: ApplyPhase,
    /// A process was started, stopped or reloaded.
    pub service_step: bool,
    /// Why it has to return.
    pub failed: Option<String>,
    /// The worker died with the record that is awaited, which was then sent once more.
    pub record_lost: bool,
    /// Units of what it returns to that were bad before anything was changed: no return has to do better. Nothing yet
    /// before that. In their order; in the hand-over they stand behind the rest.
    #[serde(skip)]
    pub bad_before: Option<Vec<UnitId>>,
}

/// Where an apply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ApplyPhase {
    /// The record that files of both generations may be on the machine is on its way to the disk.
    Preparing { token: u64 },
    /// Units are being changed.
    Changing,
    /// All is changed; it has to stay quiet for a while.
    Stable,
    /// The commit record is on its way to the disk.
    Committing { token: u64 },
    /// Units are being put back.
    Returning,
    /// The record of the return is on its way to the disk.
    Recording { token: u64, complete: bool },
}

/// A swap that came while a record was on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Next {
    pub request: u64,
    pub manifest: ManifestRef,
    pub generation: u64,
    pub kind: Swap,
    pub release: bool,
}

impl Engine {
    pub(crate) fn swapped(
        &mut self,
        request: u64,
        manifest: ManifestRef,
        generation: u64,
        kind: Swap,
        release: bool,
    ) {
        if self.down.is_some() {
            self.answer(request, Verdict::Failed, "the machine goes down".to_owned());
            return;
        }
        let Some(new) = self.manifest_of(manifest).cloned() else {
            self.answer(request, Verdict::Failed, "unknown manifest".to_owned());
            return;
        };
        match kind {
            Swap::Undo if generation != self.generation => {
                // What it goes back to is still to come: the two are one.
                self.await_undo(manifest, generation);
                return;
            }
            Swap::Undo => {
                self.undo_interrupted(manifest, &new, generation);
                return;
            }
            Swap::Purge => {
                self.purge_left(manifest, &new);
                return;
            }
            Swap::Apply | Swap::Rollback | Swap::Boot | Swap::First => {}
        }
        self.end_again(Verdict::Superseded, "a newer apply came");
        if let Some(apply) = &mut self.apply
            && kind == Swap::Rollback
            && !apply.kind.boots()
            && apply.from.1 == generation
            && matches!(apply.phase, ApplyPhase::Changing | ApplyPhase::Stable)
        {
            // It is given up: its return is what is asked for, and has failed in nothing.
            let given_up = std::mem::replace(&mut apply.request, request);
            apply.failed = None;
            self.answer(given_up, Verdict::Superseded, "a rollback came".to_owned());
            self.begin_return();
            return;
        }
        let waiting = self.apply.as_ref().is_some_and(|a| {
            matches!(
                a.phase,
                ApplyPhase::Preparing { .. } | ApplyPhase::Committing { .. } | ApplyPhase::Recording { .. }
            )
        });
        if waiting {
            self.retain(manifest);
            let next = Next { request, manifest, generation, kind, release };
            if let Some(earlier) = self.next_swap.replace(next) {
                self.release(earlier.manifest);
                self.answer(earlier.request, Verdict::Superseded, "a newer apply came".to_owned());
            }
            self.globals_changed = true;
            return;
        }
        // Who applies wants what is declared, whoever else does not.
        let contested: Vec<Node> = self.fights.keys().copied().filter(|n| self.is_contested(*n)).collect();
        for node in contested.into_iter().filter(|_| matches!(kind, Swap::Apply | Swap::Rollback)) {
            if !self.holds.contains_key(&node) {
                self.retry_now(node);
            }
        }
        // Layers that hide each other may differ in what no unit shows: that is another generation, and a record says so.
        let recorded = generation == self.generation || kind.boots();
        let same = recorded && self.manifest_of(self.desired).is_some_and(|m| *m == new);
        if same && self.apply.is_none() {
            self.generation = generation;
            self.globals_changed = true;
            self.undo_awaited();
            if !kind.boots() {
                self.apply_again(request, release);
                return;
            }
            let (verdict, text) = self.end_of_change();
            // What was changed or repaired before, this one found right.
            let mut tally = self.tally();
            tally.kept += std::mem::take(&mut tally.changed) + std::mem::take(&mut tally.repaired);
            self.answer_with(request, verdict, text, tally);
            return;
        }
        // What the one that it supersedes has started is still to be proven.
        let service_step = self.apply.as_ref().is_some_and(|a| a.service_step && !a.kind.boots());
        let mut bad_before = None;
        let from = match self.apply.take() {
            Some(earlier) => {
                self.timers.clear(NOBODY, Timer::Stable);
                self.answer(earlier.request, Verdict::Superseded, "a newer apply came".to_owned());
                self.release(earlier.manifest);
                if earlier.kind.boots() {
                    // Nor does anybody else answer for what it, or what it has superseded, has brought.
                    self.acquit();
                    // A boot is never taken back, however far it has come: nobody wants the machine before it.
                    self.retain(self.desired);
                    self.release(earlier.from.0);
                    (self.desired, self.generation)
                } else {
                    bad_before = earlier.bad_before;
                    earlier.from
                }
            }
            None => {
                self.retain(self.desired);
                (self.desired, self.generation)
            }
        };
        self.retain(manifest);
        let phase = match kind {
            Swap::Boot | Swap::First | Swap::Undo | Swap::Purge => ApplyPhase::Changing,
            Swap::Apply | Swap::Rollback => {
                ApplyPhase::Preparing { token: self.await_record(StoreOp::Switching { generation }) }
            }
        };
        self.apply = Some(Apply {
            request,
            kind,
            manifest,
            generation,
            release,
            from,
            phase,
            service_step,
            failed: None,
            record_lost: false,
            bad_before,
        });
        self.globals_changed = true;
        if kind.boots() {
            self.begin_change();
        }
    }

    /// The manifest and generation that will be the desired ones once what was accepted has begun.
    pub fn coming(&self) -> (ManifestRef, u64) {
        let preparing = self.apply.as_ref().filter(|a| matches!(a.phase, ApplyPhase::Preparing { .. }));
        let coming = preparing.map(|a| (a.manifest, a.generation));
        self.next_swap.map(|n| (n.manifest, n.generation)).or(coming).unwrap_or_else(|| self.desired())
    }

    fn begin_change(&mut self) {
        self.refresh_outdated();
        // A hold that ends meanwhile brings to light what it has hidden.
        let not_up = |n: Node| self.u(n).want == Want::Up && !self.u(n).has(bits::OK);
        let is_bad = |n: Node| not_up(n) || self.is_flapping(n);
        let ids = self.manifest_of(self.desired).into_iter().flat_map(|m| m.ids());
        let bad = ids.filter(|id| self.node_in(self.desired, *id).is_some_and(is_bad)).collect();
        let Some(apply) = &mut self.apply else { return };
        apply.bad_before.get_or_insert(bad);
        apply.phase = ApplyPhase::Changing;
        let (manifest, generation, kind) = (apply.manifest, apply.generation, apply.kind);
        if std::mem::take(&mut apply.release) {
            // ORDER: before the switch, which leaves alone what is held; nothing is done between the two.
            self.lift_all();
        }
        for node in self.all() {
            if let Some(service) = self.svc_mut(node) {
                service.strikes = 0;
            }
            if self.u(node).has(bits::RESTORE) {
                // What could not be put back until now is as whoever declares it next finds it.
                self.m(node).set(bits::RESTORE, false);
            }
        }
        self.switch_to(manifest, generation, kind != Swap::Boot);
        // ORDER: nothing is done between the two, so that nothing is written twice.
        self.undo_awaited();
    }

    /// Whether what is removed now is put back as it was before us.
    pub(crate) fn is_return(&self) -> bool {
        self.undoing.is_some()
            || self
                .apply
                .as_ref()
                .is_some_and(|a| a.kind == Swap::Rollback || matches!(a.phase, ApplyPhase::Returning))
    }

    pub(crate) fn service_step_taken(&mut self) {
        if let Some(apply) = &mut self.apply {
            self.globals_changed |= !apply.service_step;
            apply.service_step = true;
        }
    }

    /// Whether the apply under way cannot be good, and its return is what comes next.
    pub(crate) fn is_about_to_return(&self) -> bool {
        self.apply.as_ref().is_some_and(|apply| {
            apply.failed.is_some() && matches!(apply.phase, ApplyPhase::Changing | ApplyPhase::Stable)
        })
    }

    /// Begins the return of an apply that cannot be good.
    pub(crate) fn return_if_failed(&mut self) {
        if self.is_about_to_return() {
            self.begin_return();
        }
    }

    /// One step of the apply, if its time has come; answers whether anything was done.
    pub(crate) fn advance_apply(&mut self) -> bool {
        let Some(apply) = &self.apply else { return false };
        let (kind, phase, service_step) = (apply.kind, apply.phase, apply.service_step);
        let quiet = self.queue.is_empty() && self.is_quiet();
        match phase {
            ApplyPhase::Changing | ApplyPhase::Stable if apply.failed.is_some() => {
                self.begin_return();
                true
            }
            ApplyPhase::Changing if quiet => {
                let bad = self.bad_units();
                match (kind, bad.is_empty()) {
                    (Swap::Boot | Swap::First | Swap::Undo | Swap::Purge, true) => {
                        self.finish(Verdict::Done, String::new())
                    }
                    (Swap::Boot | Swap::First | Swap::Undo | Swap::Purge, false) => {
                        self.finish(Verdict::Failed, bad);
                    }
                    (Swap::Apply | Swap::Rollback, false) => {
                        if let Some(apply) = &mut self.apply {
                            apply.failed = Some(bad);
                        }
                        self.begin_return();
                    }
                    (Swap::Apply | Swap::Rollback, true) => self.prove(service_step),
                }
                true
            }
            ApplyPhase::Returning if quiet => {
                if self.hold_again(false) {
                    return true;
                }
                let Some(apply) = &self.apply else { return false };
                let was_bad = |n: Node| {
                    self.u(n)
                        .id()
                        .zip(apply.bad_before.as_ref())
                        .is_some_and(|(id, bad)| bad.binary_search(&id).is_ok())
                };
                let complete = self.guilty().all(was_bad);
                let op = StoreOp::Returned { generation: apply.generation, to: apply.from.1 };
                let token = self.await_record(op);
                if let Some(apply) = &mut self.apply {
                    apply.phase = ApplyPhase::Recording { token, complete };
                }
                true
            }
            ApplyPhase::Preparing { .. }
            | ApplyPhase::Changing
            | ApplyPhase::Stable
            | ApplyPhase::Committing { .. }
            | ApplyPhase::Returning
            | ApplyPhase::Recording { .. } => false,
        }
    }

    /// Whether an apply is on its way back.
    pub fn is_returning(&self) -> bool {
        self.apply.as_ref().is_some_and(|a| matches!(a.phase, ApplyPhase::Returning))
    }

    /// What an apply does that no unit tells of.
    pub fn apply_news(&self) -> Option<String> {
        if self.timers.get(NOBODY, Timer::Stable).is_some() {
            return Some(format!("as declared so far: done if nothing falls within {} s", STABLE_MS / 1000));
        }
        let apply = self.apply.as_ref()?;
        match (apply.phase, &apply.failed) {
            (ApplyPhase::Returning, Some(why)) => {
                Some(format!("returning to generation {}: {why}", apply.from.1))
            }
            (ApplyPhase::Returning, None) => Some(format!("returning to generation {}", apply.from.1)),
            (
                ApplyPhase::Preparing { .. }
                | ApplyPhase::Changing
                | ApplyPhase::Stable
                | ApplyPhase::Committing { .. }
                | ApplyPhase::Recording { .. },
                _,
            ) => None,
        }
    }

    fn prove(&mut self, service_step: bool) {
        let generation = self.apply.as_ref().map_or(0, |a| a.generation);
        if service_step {
            self.end_excuses();
            self.store(StoreOp::Trial { generation });
            self.timers.set(NOBODY, Timer::Stable, self.now.after_ms(STABLE_MS));
            if let Some(apply) = &mut self.apply {
                apply.phase = ApplyPhase::Stable;
            }
        } else {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let generation = self.apply.as_ref().map_or(0, |a| a.generation);
        let token = self.await_record(StoreOp::Commit { generation });
        if let Some(apply) = &mut self.apply {
            apply.phase = ApplyPhase::Committing { token };
        }
    }

    pub(crate) fn stable_timer(&mut self) {
        self.again_is_proven();
        let quiet = self.is_quiet();
        let Some(apply) = &mut self.apply else { return };
        if apply.phase != ApplyPhase::Stable {
            return;
        }
        if quiet {
            apply.phase = ApplyPhase::Changing;
            apply.service_step = false;
        } else {
            // Something moved: it has to come to rest, and then be quiet for the whole time again.
            apply.phase = ApplyPhase::Changing;
            apply.service_step = true;
        }
    }

    /// The record that the apply waits for.
    fn awaited_record(&self) -> Option<(u64, StoreOp)> {
        let apply = self.apply.as_ref()?;
        let generation = apply.generation;
        match apply.phase {
            ApplyPhase::Preparing { token } => Some((token, StoreOp::Switching { generation })),
            ApplyPhase::Committing { token } => Some((token, StoreOp::Commit { generation })),
            ApplyPhase::Recording { token, .. } => {
                Some((token, StoreOp::Returned { generation, to: apply.from.1 }))
            }
            ApplyPhase::Changing | ApplyPhase::Stable | ApplyPhase::Returning => None,
        }
    }

    /// Whether the apply waits for a record.
    pub(crate) fn awaits_record(&self) -> bool {
        self.awaited_record().is_some()
    }

    /// Asks for a record that the apply cannot go on without: a worker that does not answer is killed.
    fn await_record(&mut self, op: StoreOp) -> u64 {
        if let Some(apply) = &mut self.apply {
            apply.record_lost = false;
        }
        self.timers.set(NOBODY, Timer::Batch, self.now.after_ms(BATCH_MS));
        self.store(op)
    }

    /// The worker died, and perhaps had the record: writing it twice says the same as once.
    pub(crate) fn record_lost(&mut self) {
        let Some((token, op)) = self.awaited_record() else { return };
        if self.apply.as_ref().is_some_and(|a| a.record_lost) {
            self.recorded(token, Some("the worker was lost twice over it".to_owned()));
            return;
        }
        let again = self.await_record(op);
        let Some(apply) = &mut self.apply else { return };
        apply.record_lost = true;
        match &mut apply.phase {
            ApplyPhase::Preparing { token }
            | ApplyPhase::Committing { token }
            | ApplyPhase::Recording { token, .. } => *token = again,
            ApplyPhase::Changing | ApplyPhase::Stable | ApplyPhase::Returning => {}
        }
    }

    /// A record is durable, or could not be made so.
    pub(crate) fn recorded(&mut self, token: u64, error: Option<String>) {
        if self.awaited_record().is_none_or(|(t, _)| t != token) {
            return;
        }
        if self.batch.is_none() {
            self.timers.clear(NOBODY, Timer::Batch);
        }
        self.globals_changed = true;
        let Some(apply) = &self.apply else { return };
        match apply.phase {
            ApplyPhase::Preparing { token: t } if t == token => match error {
                // Nothing of it is done yet, and a newer one came: nothing will be.
                None if self.next_swap.is_some() => {
                    if let Some(apply) = &mut self.apply {
                        apply.phase = ApplyPhase::Changing;
                    }
                }
                None => self.begin_change(),
                Some(error) => {
                    let text = format!("cannot write the journal: {error}");
                    // The apply that it superseded may have begun: then there is something to return from.
                    if apply.from.0 == self.desired {
                        self.finish(Verdict::Failed, text);
                    } else {
                        if let Some(apply) = &mut self.apply {
                            apply.failed = Some(text);
                        }
                        self.begin_return();
                    }
                }
            },
            ApplyPhase::Committing { token: t } if t == token => match error {
                None => {
                    let (verdict, text) = self.end_of_change();
                    self.finish(verdict, text);
                }
                Some(error) => {
                    if let Some(apply) = &mut self.apply {
                        apply.failed = Some(format!("cannot write the journal: {error}"));
                    }
                    self.begin_return();
                }
            },
            ApplyPhase::Recording { token: t, complete } if t == token => {
                let asked = apply.failed.is_none();
                let why = apply.failed.clone().unwrap_or_default();
                let verdict = match complete && error.is_none() {
                    true if asked => Verdict::Done,
                    true => Verdict::Returned,
                    false => Verdict::ReturnIncomplete,
                };
                self.finish(verdict, why);
            }
            ApplyPhase::Preparing { .. }
            | ApplyPhase::Changing
            | ApplyPhase::Stable
            | ApplyPhase::Committing { .. }
            | ApplyPhase::Returning
            | ApplyPhase::Recording { .. } => {}
        }
        if !self.awaits_record() {
            // What it goes on with is superseded as if the newer one had come now.
            self.take_next_swap();
        }
    }

    fn take_next_swap(&mut self) {
        if let Some(next) = self.next_swap.take() {
            self.swapped(next.request, next.manifest, next.generation, next.kind, next.release);
            self.release(next.manifest);
        }
    }

    fn begin_return(&mut self) {
        self.timers.clear(NOBODY, Timer::Stable);
        let Some(apply) = &mut self.apply else { return };
        apply.phase = ApplyPhase::Returning;
        let from = apply.from;
        let (level, why) = match &apply.failed {
            Some(why) => (Level::Error, why.clone()),
            None => (Level::Notice, "asked for".to_owned()),
        };
        self.globals_changed = true;
        self.log(level, None, format!("returning to generation {}: {why}", from.1));
        let marked = self.lists.marked.iter().copied();
        let was_bad: Vec<Node> = marked.filter(|n| self.u(*n).has(bits::WAS_BAD)).collect();
        let broken: Vec<Node> = self.all().filter(|n| self.fell_under_apply(*n)).collect();
        // ORDER: what is held again keeps what it had when the switch looks at it.
        self.hold_again(true);
        self.switch_to(from.0, from.1, true);
        for node in broken {
            // Its specification may be the same in both generations, and only what it needs another.
            self.m(node).set(bits::BOUNCE, true);
            self.enqueue(node);
        }
        for node in self.lists.marked.clone() {
            self.mark(node, bits::WAS_BAD, false);
        }
        for node in was_bad {
            self.mark(node, bits::WAS_BAD, true);
        }
    }

    fn finish(&mut self, verdict: Verdict, text: String) {
        self.timers.clear(NOBODY, Timer::Stable);
        let Some(apply) = self.apply.take() else { return };
        self.globals_changed = true;
        self.answer(apply.request, verdict, text);
        self.release(apply.manifest);
        self.release(apply.from.0);
        // What is still to be undone, once its mount is there, is undone as part of the return.
        let over = if self.undoing.is_some() { 0 } else { bits::INTENDED } | bits::WAS_BAD | bits::BLAMED;
        for node in self.lists.marked.clone() {
            self.mark(node, over, false);
        }
        self.forget_lifted();
        if self.next_swap.is_none() {
            // The swap that it waits for was superseded by this one.
            self.undo_awaited();
        }
        self.take_next_swap();
    }

    /// The machine goes down in the middle of it: the journal says so, and the next boot undoes it.
    pub(crate) fn abandon_apply(&mut self, why: &str) {
        self.end_again(Verdict::Failed, why);
        self.timers.clear(NOBODY, Timer::Stable);
        if let Some(next) = self.next_swap.take() {
            self.release(next.manifest);
            self.answer(next.request, Verdict::Failed, why.to_owned());
        }
        self.forget_lifted();
        if let Some(apply) = self.apply.take() {
            if self.batch.is_none() {
                self.timers.clear(NOBODY, Timer::Batch);
            }
            self.release(apply.manifest);
            self.release(apply.from.0);
            self.answer(apply.request, Verdict::Failed, why.to_owned());
        }
    }

    /// How a change ends that is not undone: the verdict and the count of what is not kept say the same, whoever is to
    /// blame for that.
    pub(crate) fn end_of_change(&mut self) -> (Verdict, String) {
        self.refresh_outdated();
        let not_kept = &self.lists.not_kept;
        let mut text: Vec<String> =
            not_kept.iter().take(8).map(|n| format!("{}: {}", self.address(*n), self.why(*n))).collect();
        if text.is_empty() {
            return (Verdict::Done, String::new());
        }
        if not_kept.len() > text.len() {
            text.push("…".to_owned());
        }
        (Verdict::Failed, text.join("; "))
    }

    pub(crate) fn answer(&mut self, request: u64, verdict: Verdict, text: String) {
        self.refresh_outdated();
        let tally = if request == 0 { Tally::default() } else { self.tally() };
        self.answer_with(request, verdict, text, tally);
    }

    pub(crate) fn answer_with(&mut self, request: u64, verdict: Verdict, text: String, tally: Tally) {
        if request == 0 {
            // That a boot's own swap has a successor is nobody's concern.
            if !matches!(verdict, Verdict::Done | Verdict::Superseded) {
                self.log(Level::Warning, None, format!("{verdict:?}: {text}"));
            }
            return;
        }
        self.out.push(Effect::Answer { request, verdict, tally, text });
    }
}
