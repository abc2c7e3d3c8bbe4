//! An apply of what is current already: what is wrong is tried again, and whoever asked waits for just that.
//!
//! Nothing is journaled and nothing returns: no other manifest comes, so that there is nothing to go back to. It waits for
//! what is dirty when it comes and for what it makes dirty, each until that has ended for the first time: what becomes
//! dirty afterwards is another matter, and so is the rest of the machine.

use serde::{Deserialize, Serialize};

use super::effect::Verdict;
use super::service::NOT_KILLED;
use super::tally::Lists;
use super::timer::Timer;
use super::unit::{NOBODY, Phase, Shown, State, Want, bits};
use super::{Engine, Node, STABLE_MS};

/// Somebody has applied what is current, and waits. What for stands with the units ([`bits::AWAITED`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Again {
    pub request: u64,
    /// It has come in this step: whom it waits for is known at its end.
    fresh: bool,
    /// What it has started has stayed up for long enough.
    proven: bool,
    /// Latched units that were made right for the generation.
    changed: u32,
    /// Latched units that were made right after drift.
    repaired: u32,
}

impl Engine {
    /// Tries again what is not as declared, and lifts every hold where that is asked for.
    pub(crate) fn apply_again(&mut self, request: u64, release: bool) {
        self.again = Some(Again { request, fresh: true, proven: false, changed: 0, repaired: 0 });
        self.globals_changed = true;
        if release {
            self.lift_all();
        }
        self.refresh_outdated();
        for node in self.lists.not_kept.clone() {
            if self.u(node).want != Want::Up {
                continue;
            }
            if self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Failed | Phase::Backoff { .. })) {
                self.m(node).set(bits::BOUNCE, true);
            }
            self.retry_now(node);
            self.enqueue(node);
        }
        for node in self.all() {
            if self.svc(node).is_some_and(|s| s.reload_failed) && !self.holds.contains_key(&node) {
                if let Some(service) = self.svc_mut(node) {
                    service.reload_failed = false;
                }
                self.raise(node);
                self.enqueue(node);
            }
        }
    }

    /// Whether nothing is being done about a unit, nor about what it waits for.
    fn has_ended(&self, node: Node) -> bool {
        let unit = self.u(node);
        let given_up = self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Backoff { .. }));
        self.holds.contains_key(&node) || given_up || (unit.has(bits::SETTLED) && !unit.has(bits::BUSY))
    }

    /// Whether nobody can tell if what is being done about a unit ever ends: its device is late, or its process cannot be
    /// killed.
    pub(crate) fn may_never_end(&self, node: Node) -> bool {
        self.awaits_device(node) || self.is_stuck(node)
    }

    fn is_stuck(&self, node: Node) -> bool {
        self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Stopping { stuck: true, .. }))
    }

    /// What has ended is not waited for any more; once nothing is left that could end, the answer. Where a service was
    /// started or reloaded all of those have to stay up before it is said that they are.
    pub(crate) fn advance_again(&mut self) {
        let Some(again) = &mut self.again else { return };
        let mut stirred = std::mem::take(&mut again.fresh);
        if stirred {
            self.globals_changed = true;
            for node in self.all() {
                if !self.has_ended(node) {
                    self.begin_awaiting(node);
                }
            }
            // What may never end was so before, and nothing may come of it any more.
            self.refresh_outdated();
        }
        for node in std::mem::take(&mut self.lists.ending) {
            stirred = true;
            if self.has_ended(node) {
                self.has_come_to(node);
            } else if !self.u(node).has(bits::AWAITED) {
                self.await_until_ended(node);
            }
        }
        let quiet = self.timers.get(NOBODY, Timer::Stable).is_some();
        let proven = self.again.as_ref().is_some_and(|a| a.proven);
        let late = |n: &Node| self.waits_only_for(*n, &|n| self.may_never_end(n));
        let ended = match self.lists.awaited.is_empty() {
            false if stirred => !self.lists.late.is_empty() && self.lists.awaited.iter().all(late),
            none => none || quiet || proven,
        };
        if !ended {
            self.timers.clear(NOBODY, Timer::Stable);
        } else {
            let up = |n: &Node| self.svc(*n).is_some_and(|s| !s.reload_failed) && self.u(*n).has(bits::OK);
            if proven || !self.lists.not_kept.is_empty() || !self.lists.raised.iter().any(up) {
                self.answer_again();
            } else if !quiet {
                self.timers.set(NOBODY, Timer::Stable, self.now.after_ms(STABLE_MS));
            }
        }
        self.refresh_outdated();
        // That nobody waits for them any more is no news of theirs.
        self.lists.ending.clear();
    }

    /// What was started has stayed up.
    pub(crate) fn again_is_proven(&mut self) {
        if let Some(again) = &mut self.again {
            again.proven = true;
            self.globals_changed = true;
        }
    }

    fn raise(&mut self, node: Node) {
        self.m(node).set(bits::RAISED, true);
        self.lists.raised.insert(node);
    }

    fn await_until_ended(&mut self, node: Node) {
        self.m(node).set(bits::AWAITED, true);
        self.lists.awaited.insert(node);
        self.mark_outdated(node);
    }

    fn begin_awaiting(&mut self, node: Node) {
        let lives = matches!(self.u(node).state, State::Service(_) | State::Mount(_));
        if lives && self.u(node).has(bits::BAD) {
            self.raise(node);
        }
        if let State::Latch(latch) = &mut self.m(node).state
            && matches!(latch.shown, Shown::Changed | Shown::Repaired)
        {
            // What was done before is nothing that this one has done.
            latch.shown = Shown::Kept;
        }
        self.await_until_ended(node);
    }

    /// It has ended, and this is what it has come to.
    fn has_come_to(&mut self, node: Node) {
        if !self.u(node).has(bits::AWAITED) {
            return;
        }
        self.m(node).set(bits::AWAITED, false);
        self.lists.awaited.remove(&node);
        self.lists.late.remove(&node);
        let shown = self.latch(node).map(|l| l.shown);
        let Some(again) = &mut self.again else { return };
        again.changed += u32::from(shown == Some(Shown::Changed));
        again.repaired += u32::from(shown == Some(Shown::Repaired));
        self.globals_changed = true;
    }

    fn take_again(&mut self) -> Option<Again> {
        let again = self.again.take()?;
        self.globals_changed = true;
        self.timers.clear(NOBODY, Timer::Stable);
        let Lists { awaited, raised, late, .. } = &mut self.lists;
        late.clear();
        for node in std::mem::take(awaited).into_iter().chain(std::mem::take(raised)) {
            self.m(node).set(bits::AWAITED | bits::RAISED, false);
        }
        Some(again)
    }

    fn answer_again(&mut self) {
        let raised = self.lists.raised.clone();
        let Some(again) = self.take_again() else { return };
        let stale = |n: &Node| self.svc(*n).is_some_and(|s| s.reload_failed);
        let why = |n: Node| match self.is_stuck(n) {
            true => NOT_KILLED.to_owned(),
            false => self.why(n),
        };
        let failed = raised.iter().find(|n| stale(n) || self.is_stuck(**n));
        let failed = failed.map(|n| format!("{}: {}", self.address(*n), why(*n)));
        let up = raised.iter().filter(|n| self.u(**n).has(bits::OK) && !stale(n)).count();
        let (verdict, text) = match (self.end_of_change(), failed) {
            ((Verdict::Done, _), Some(why)) => (Verdict::Failed, why),
            (end, _) => end,
        };
        // What was changed or repaired before, this one found right.
        let mut tally = self.tally();
        let right = tally.kept + tally.changed + tally.repaired;
        tally.changed = again.changed;
        tally.repaired = again.repaired + u32::try_from(up).unwrap_or(u32::MAX);
        tally.kept = right.saturating_sub(tally.changed + tally.repaired);
        self.answer_with(again.request, verdict, text, tally);
    }

    /// Nobody goes on with it.
    pub(crate) fn end_again(&mut self, verdict: Verdict, why: &str) {
        if let Some(again) = self.take_again() {
            self.answer(again.request, verdict, why.to_owned());
        }
    }

    /// Nobody waits for it any more; what it has begun goes on.
    pub(crate) fn forget_again(&mut self, request: u64) {
        if self.again.as_ref().is_some_and(|a| a.request == request) {
            self.take_again();
        }
    }
}
