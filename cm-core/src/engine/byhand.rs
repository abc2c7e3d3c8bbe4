//! What people ask of units, and when that is answered (semantics §5).

use serde::{Deserialize, Serialize};
use units::address::Class;

use super::effect::{Effect, Verdict};
use super::event::Verb;
use super::graph::hard;
use super::status::{Hold, HoldKind};
use super::timer::Timer;
use super::unit::{Latch, MountPhase, Phase, Shown, State, Want, Work, bits};
use super::{Engine, Mono, Node};

/// Somebody waits for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub request: u64,
    pub node: Node,
    pub goal: Goal,
}

/// For what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Goal {
    /// Ready (or done), by a spawn later than this one.
    Up { after: u64 },
    /// No process, no mount.
    Down,
    /// Not reloading, not stale.
    Loaded,
    /// No worker and no helper has it in hand.
    Still,
}

impl Engine {
    pub(crate) fn asked(&mut self, request: u64, verb: Verb, node: Node, note: String, until: Option<Mono>) {
        if matches!(self.u(node).state, State::Gone) {
            self.answer(request, Verdict::Failed, "no such unit".to_owned());
            return;
        }
        if self.down.is_some() {
            self.answer(request, Verdict::Failed, "the machine goes down".to_owned());
            return;
        }
        self.globals_changed = true;
        if !matches!(verb, Verb::Reload | Verb::Kill(_)) {
            // What is asked for now counts, not the hold that an apply under way has lifted.
            self.forget_lifted_of(node);
        }
        let serial = self.svc(node).map_or(0, |s| s.serial);
        let goal = match verb {
            Verb::Start => {
                self.lift(node);
                self.m(node).set(bits::STARTED, true);
                if matches!(
                    self.svc(node).map(|s| s.phase),
                    Some(Phase::Failed | Phase::Done | Phase::Backoff { .. })
                ) {
                    self.m(node).set(bits::BOUNCE, true);
                }
                self.retry_now(node);
                Some(Goal::Up { after: 0 })
            }
            Verb::Stop => {
                self.m(node).set(bits::STARTED, false);
                self.hold(node, HoldKind::Stopped, note, until);
                self.goes_again(node);
                Some(Goal::Down)
            }
            Verb::Restart => {
                self.lift(node);
                if self.u(node).want != Want::Up {
                    self.m(node).set(bits::STARTED, true);
                }
                match self.svc(node).map(|s| s.phase) {
                    Some(Phase::Down | Phase::Waiting | Phase::Stopping { .. }) => {}
                    Some(
                        Phase::Starting
                        | Phase::Ready
                        | Phase::Reloading { .. }
                        | Phase::Backoff { .. }
                        | Phase::Failed
                        | Phase::Done,
                    ) => self.m(node).set(bits::BOUNCE, true),
                    // It would not come back, and would take all who use it along: so would the mere attempt.
                    None if self.stands(node) && self.waits_for_good(node) => {
                        self.rethink_want(node);
                        self.enqueue(node);
                        return self.would_not_come_back(request, node);
                    }
                    None => {
                        self.retry_now(node);
                        self.remount(node);
                    }
                }
                let mount = matches!(self.u(node).state, State::Mount(_));
                // A mount keeps no serial: whatever mounts it from now on is later.
                Some(Goal::Up { after: if mount { self.next_serial.saturating_sub(1) } else { serial } })
            }
            Verb::Reload => {
                if self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Ready | Phase::Reloading { .. })) {
                    if let Some(service) = self.svc_mut(node) {
                        service.reload_asked = true;
                        service.reload_failed = false;
                    }
                    Some(Goal::Loaded)
                } else {
                    return self.has_no_process(request, node);
                }
            }
            Verb::Pause => {
                self.freeze(node);
                self.hold(node, HoldKind::Paused, note, until);
                None
            }
            Verb::Hold => {
                self.hold(node, HoldKind::Held, note, until);
                // What is edited after the answer is left alone: a repair that is under way is over by then.
                let in_hand = |l: Latch| matches!(l.work, Work::Batch);
                self.latch(node).is_some_and(in_hand).then_some(Goal::Still)
            }
            Verb::Resume | Verb::Release => {
                self.lift(node);
                if self.is_contested(node) {
                    self.retry_now(node);
                }
                self.is_mended(node).then_some(Goal::Still)
            }
            Verb::Kill(signal) => match self.svc(node).filter(|s| s.running()).map(|s| s.serial) {
                Some(serial) => {
                    self.out.push(Effect::Signal { serial, signal });
                    None
                }
                None => return self.has_no_process(request, node),
            },
        };
        self.rethink_want(node);
        self.enqueue(node);
        match goal {
            Some(goal) => self.asks.push(Ask { request, node, goal }),
            None => self.answer(request, Verdict::Done, String::new()),
        }
    }

    fn would_not_come_back(&mut self, request: u64, node: Node) {
        let waits = self.blocker(node).or_else(|| self.waits_for_claim(node));
        let waits =
            waits.map(|b| format!(", for it would wait for {} ({})", self.address(b), self.state_word(b)));
        let why = format!("it stays mounted{}", waits.unwrap_or_default());
        self.answer(request, Verdict::Failed, self.about(node, why));
    }

    fn has_no_process(&mut self, request: u64, node: Node) {
        let address = self.address(node);
        let why = match self.svc(node) {
            Some(_) => "it is not running".to_owned(),
            None => {
                let (verb, why) = match address.kind {
                    units::Kind::Target => ("explain", "lists what it needs"),
                    _ => ("restart", "looks at it anew"),
                };
                format!("only services have processes; `initctl {verb} {address}` {why}")
            }
        };
        self.answer(request, Verdict::Failed, format!("{address}: {why}"));
    }

    fn hold(&mut self, node: Node, kind: HoldKind, why: String, until: Option<Mono>) {
        let hold = Hold { kind, why, since: self.now, until };
        let before = self.holds.insert(node, hold);
        if before.is_some_and(|h| h.kind == HoldKind::Paused) && kind != HoldKind::Paused {
            self.thaw(node);
        }
        match until {
            Some(at) => self.timers.set(node, Timer::Hold, at),
            None => self.timers.clear(node, Timer::Hold),
        }
        if kind != HoldKind::Stopped {
            self.stop_whenever(node);
        }
        self.publish(node, "held");
        self.users_look(node);
    }

    /// Whether it is held decides what those who are bound to it may expect.
    fn users_look(&mut self, node: Node) {
        for (user, _) in self.rdeps(node).into_iter().chain(self.running_rdeps(node)) {
            self.mark_outdated(user);
        }
        self.takers_look(node);
    }

    fn thaw(&mut self, node: Node) {
        if let Some(serial) = self.svc(node).filter(|s| s.running()).map(|s| s.serial) {
            self.out.push(Effect::Freeze { serial, frozen: false });
        }
    }

    fn lift(&mut self, node: Node) {
        let Some(hold) = self.holds.remove(&node) else { return };
        // What it had when it was held is nobody's wish any more.
        self.m(node).set(bits::RESTORE, false);
        self.timers.clear(node, Timer::Hold);
        if hold.kind == HoldKind::Paused {
            self.thaw(node);
        }
        // What happened meanwhile was left alone: it is looked at now.
        if let Some(latch) = self.latch(node)
            && matches!(latch.work, Work::Idle | Work::Contested { .. } | Work::Backoff { .. })
        {
            self.set_work(node, Work::Waiting);
        }
        if hold.kind != HoldKind::Stopped {
            self.compare(node);
        }
        // It may be looked at just now, only to be left as it is.
        if self.latch(node).is_some_and(|l| l.work == Work::Batch) {
            self.with_latch(node, |l| l.again = true);
        }
        self.publish(node, "released");
        self.users_look(node);
    }

    /// Tries again what waits to be tried again. Whoever asks for that begins anew: a contest is over.
    pub(crate) fn retry_now(&mut self, node: Node) {
        self.fights.remove(&node);
        if self.is_contested(node) {
            self.clear_detail(node);
            self.with_latch(node, |l| l.shown = Shown::Unknown);
        }
        if let Some(latch) = self.latch(node)
            && !matches!(latch.work, Work::Batch | Work::Job { .. })
        {
            self.with_latch(node, |l| l.fails = 0);
            self.set_work(node, Work::Waiting);
        }
        self.retry_mount(node);
    }

    /// Lifts every hold, for `apply --release`. As long as that may return they are remembered.
    pub(crate) fn lift_all(&mut self) {
        let held: Vec<(Node, Hold)> = self.holds.iter().map(|(n, h)| (*n, h.clone())).collect();
        for (node, hold) in held {
            self.hold_ended(node);
            if self.apply.is_some() {
                self.lifted.insert(node, hold);
                self.changed.insert(node);
            }
        }
    }

    /// The apply that lifted holds returns: they are as they were, unless their time is over. `early`: those that have
    /// to stand before anything is put back; the others come when the old generation stands, so that what is left alone
    /// from then on is what was left alone before. Answers whether there was one.
    pub(crate) fn hold_again(&mut self, early: bool) -> bool {
        let of_now = |n: &Node, h: &Hold| {
            !early || h.kind == HoldKind::Stopped || self.u(*n).class() == Class::Committer
        };
        let again: Vec<Node> = self.lifted.iter().filter(|(n, h)| of_now(n, h)).map(|(n, _)| *n).collect();
        for node in &again {
            let Some(hold) = self.forget_lifted_of(*node) else { continue };
            if hold.until.is_some_and(|until| until <= self.now) {
                continue;
            }
            let since = hold.since;
            self.hold(*node, hold.kind, hold.why, hold.until);
            if let Some(hold) = self.holds.get_mut(node) {
                hold.since = since;
            }
            if hold.kind == HoldKind::Paused {
                self.freeze(*node);
            }
            if self.u(*node).class() == Class::Committer {
                // It may have been somebody else's version that was held.
                self.m(*node).set(bits::RESTORE, true);
                if self.latch(*node).is_some_and(|l| !matches!(l.work, Work::Batch)) {
                    self.set_work(*node, Work::Waiting);
                }
            }
            self.rethink_want(*node);
            self.enqueue(*node);
        }
        !again.is_empty()
    }

    /// A later word on a unit than the hold that an apply has lifted; or nothing can return to that any more.
    fn forget_lifted_of(&mut self, node: Node) -> Option<Hold> {
        self.changed.insert(node);
        self.enqueue(node);
        self.lifted.remove(&node)
    }

    /// The apply that lifted holds is over.
    pub(crate) fn forget_lifted(&mut self) {
        for node in std::mem::take(&mut self.lifted).into_keys() {
            self.changed.insert(node);
            self.enqueue(node);
        }
    }

    /// It has left, and with it would go the hold that the apply under way has lifted. Answers whether it stays for that.
    pub(crate) fn stays_as_shade(&mut self, node: Node) -> bool {
        if self.apply.is_none() || self.down.is_some() || !self.lifted.contains_key(&node) {
            return false;
        }
        self.m(node).set(bits::SHADE, true);
        self.publish(node, "gone");
        self.go_down(node);
        self.forget_claims(node);
        if self.latch(node).is_some() {
            self.set_work(node, Work::Idle);
            self.with_latch(node, |l| *l = Latch { work: Work::Idle, ..Latch::new() });
        }
        true
    }

    /// Whether nothing but a hold is left of a unit, which a return may put back.
    pub(crate) fn is_shade(&self, node: Node) -> bool {
        self.u(node).has(bits::SHADE) && self.apply.is_some() && self.lifted.contains_key(&node)
    }

    fn freeze(&mut self, node: Node) {
        if let Some(serial) = self.svc(node).filter(|s| s.running()).map(|s| s.serial) {
            self.out.push(Effect::Freeze { serial, frozen: true });
        }
    }

    pub(crate) fn hold_ended(&mut self, node: Node) {
        self.lift(node);
        self.rethink_want(node);
        self.enqueue(node);
    }

    /// Answers what has come true, or cannot.
    pub(crate) fn answer_asks(&mut self) {
        let mut open = Vec::new();
        let asks = std::mem::take(&mut self.asks);
        self.looked(asks.len());
        for ask in asks {
            match self.verdict(ask) {
                Some((verdict, text)) => {
                    self.globals_changed = true;
                    // A restart by hand that cannot be had is not owed for ever.
                    if verdict == Verdict::Failed
                        && (self.runs_as_desired(ask.node) || self.is_mounted_as_desired(ask.node))
                    {
                        self.m(ask.node).set(bits::BOUNCE, false);
                        self.enqueue(ask.node);
                    }
                    self.answer(ask.request, verdict, self.about(ask.node, text));
                }
                None => open.push(ask),
            }
        }
        self.asks = open;
    }

    /// Nobody waits for the answer any more. What was asked for stays so; but of equal wishes that nobody waits for one is
    /// enough, or clients that come and go would make the engine grow.
    pub(crate) fn unasked(&mut self, request: u64) {
        self.looked(self.asks.len());
        let Some(at) = self.asks.iter().position(|a| a.request == request) else { return };
        let mut gone = self.asks.remove(at);
        self.globals_changed = true;
        gone.request = 0;
        let covers = |one: &Ask, other: &Ask| {
            one.node == other.node
                && match (one.goal, other.goal) {
                    (Goal::Up { after }, Goal::Up { after: earlier }) => after >= earlier,
                    (one, other) => one == other,
                }
        };
        if !self.asks.iter().any(|a| covers(a, &gone)) {
            self.asks.retain(|a| a.request != 0 || !covers(&gone, a));
            self.asks.push(gone);
        }
    }

    /// A reason with the unit that it is about: a command may have been about several.
    fn about(&self, node: Node, why: String) -> String {
        if why.is_empty() { why } else { format!("{}: {why}", self.address(node)) }
    }

    /// Whether somebody waits for a mount to be mounted anew.
    pub(crate) fn remount_is_asked(&self, node: Node) -> bool {
        self.looked(self.asks.len());
        self.asks.iter().any(|a| a.node == node && matches!(a.goal, Goal::Up { after } if after > 0))
    }

    /// What was asked for cannot be had: whoever waits for the unit is told.
    pub(crate) fn fail_starts(&mut self, node: Node, why: &str) {
        let of = |a: &Ask| a.node == node && matches!(a.goal, Goal::Up { .. });
        let (failed, rest): (Vec<Ask>, Vec<Ask>) = self.asks.iter().partition(|a| of(a));
        self.globals_changed |= !failed.is_empty();
        self.asks = rest;
        for ask in failed {
            self.answer(ask.request, Verdict::Failed, self.about(ask.node, why.to_owned()));
        }
    }

    /// Whether somebody waits for a later process than the present one.
    pub(crate) fn restart_is_asked(&self, node: Node) -> bool {
        self.looked(self.asks.len());
        let serial = self.svc(node).filter(|s| s.running()).map_or(0, |s| s.serial);
        self.asks
            .iter()
            .any(|a| a.node == node && matches!(a.goal, Goal::Up { after } if serial != 0 && after >= serial))
    }

    pub(crate) fn ask_gone(&mut self, node: Node) {
        let (gone, rest): (Vec<Ask>, Vec<Ask>) = self.asks.iter().partition(|a| a.node == node);
        self.asks = rest;
        for ask in gone {
            let verdict = if ask.goal == Goal::Down { Verdict::Done } else { Verdict::Failed };
            self.answer(ask.request, verdict, "it is no longer declared".to_owned());
        }
    }

    fn verdict(&self, ask: Ask) -> Option<(Verdict, String)> {
        let unit = self.u(ask.node);
        let done = Some((Verdict::Done, String::new()));
        let failed = || Some((Verdict::Failed, self.why(ask.node)));
        match ask.goal {
            Goal::Down => match &unit.state {
                State::Service(s) if s.phase == Phase::Down => done,
                State::Service(s) => match s.phase {
                    Phase::Stopping { stuck: true, .. } => failed(),
                    Phase::Down
                    | Phase::Waiting
                    | Phase::Starting
                    | Phase::Ready
                    | Phase::Reloading { .. }
                    | Phase::Stopping { .. }
                    | Phase::Backoff { .. }
                    | Phase::Failed
                    | Phase::Done => {
                        if unit.want == Want::Up {
                            failed()
                        } else {
                            None
                        }
                    }
                },
                State::Mount(mount) if mount.phase == MountPhase::Stuck => failed(),
                State::Latch(_) | State::Mount(_) | State::Target | State::Gone => {
                    if unit.has(bits::UP) && unit.want == Want::Down { None } else { done }
                }
            },
            Goal::Up { after } => {
                if unit.want != Want::Up {
                    return failed();
                }
                let stays = self.waits_for_good(ask.node) || self.left_alone(ask.node);
                if unit.has(bits::BOUNCE) {
                    return if stays { failed() } else { None };
                }
                match &unit.state {
                    State::Service(s) => match s.phase {
                        Phase::Ready if s.serial > after => done,
                        Phase::Done if self.is_oneshot(ask.node) => done,
                        Phase::Failed | Phase::Done | Phase::Backoff { .. } => failed(),
                        Phase::Waiting | Phase::Down if stays => failed(),
                        // Frozen, it may never say that it is ready.
                        Phase::Starting if self.is_paused(ask.node) => failed(),
                        Phase::Waiting
                        | Phase::Down
                        | Phase::Starting
                        | Phase::Ready
                        | Phase::Reloading { .. }
                        | Phase::Stopping { .. } => None,
                    },
                    State::Latch(l) => match l.work {
                        Work::Idle => done,
                        Work::Backoff { .. } | Work::Contested { .. } | Work::Deferred => failed(),
                        Work::Waiting if stays => failed(),
                        Work::Waiting
                        | Work::Settling { .. }
                        | Work::Queued
                        | Work::Batch
                        | Work::Job { .. } => None,
                    },
                    State::Mount(_) | State::Target => {
                        if self.is_mended(ask.node) {
                            None
                        } else if unit.has(bits::OK) {
                            done
                        } else if unit.has(bits::SETTLED) {
                            failed()
                        } else {
                            None
                        }
                    }
                    State::Gone => failed(),
                }
            }
            Goal::Still if self.is_mended(ask.node) => None,
            Goal::Still => match self.latch(ask.node) {
                Some(Latch { work: Work::Batch, .. }) => None,
                Some(_) | None => done,
            },
            Goal::Loaded => match self.svc(ask.node) {
                Some(s) => match s.phase {
                    Phase::Ready if s.reload_failed => failed(),
                    Phase::Waiting if self.waits_for_good(ask.node) || self.left_alone(ask.node) => failed(),
                    Phase::Ready if !s.reload_asked && s.loaded == s.inputs => done,
                    // The reload waits for what may never come; it stays owed.
                    Phase::Ready if self.waits_for_good(ask.node) => failed(),
                    Phase::Ready if self.is_paused(ask.node) => failed(),
                    Phase::Ready if self.left_alone(ask.node) && self.restarts_to_load(ask.node) => failed(),
                    Phase::Failed | Phase::Done | Phase::Backoff { .. } | Phase::Down => failed(),
                    Phase::Starting | Phase::Reloading { .. } if self.is_paused(ask.node) => failed(),
                    Phase::Ready
                    | Phase::Reloading { .. }
                    | Phase::Waiting
                    | Phase::Starting
                    | Phase::Stopping { .. } => None,
                },
                None => failed(),
            },
        }
    }

    /// Which unit keeps this one from going on, if one does.
    pub(crate) fn blocker(&self, node: Node) -> Option<Node> {
        let first = |wanted: &dyn Fn(Node, units::EdgeKind) -> bool| {
            self.deps(node).into_iter().find(|(d, k)| wanted(*d, *k)).map(|(d, _)| d)
        };
        first(&|d, k| hard(k) && !self.u(d).has(bits::OK) && self.u(d).has(bits::SETTLED))
            .or_else(|| first(&|d, k| hard(k) && !self.u(d).has(bits::OK)))
            .or_else(|| first(&|d, k| super::graph::soft(k) && !self.u(d).has(bits::SETTLED)))
    }
}
