//! Predicates and counters: what travels along the edges, and the queue that carries it.

use units::address::Class;
use units::manifest::flags;
use units::{EdgeKind, UnitId};

use super::effect::Job;
use super::unit::{Latch, MountPhase, Phase, State, Unit, Want, Work, bits};
use super::{Engine, HoldKind, Node};
use crate::proto::ManifestRef;

/// Whether an edge is a gate that waits for readiness.
pub(crate) const fn hard(kind: EdgeKind) -> bool {
    matches!(kind, EdgeKind::Requires | EdgeKind::Binds)
}

/// Whether an edge is a gate that waits for settling.
pub(crate) const fn soft(kind: EdgeKind) -> bool {
    matches!(kind, EdgeKind::Wants | EdgeKind::After)
}

/// The four predicates of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Predicates {
    pub ok: bool,
    pub ready: bool,
    pub settled: bool,
    pub going: bool,
}

impl Engine {
    /// Drains all queues. Predicates always come first: no unit acts before everything that a change means for its
    /// neighbours has arrived there. And what ends comes before what begins: only who acts tells its neighbours that,
    /// so that something could begin on what is lost by the same change, but further away.
    pub(crate) fn propagate(&mut self) {
        loop {
            self.refresh_outdated();
            let next = self.queue.pop_front();
            self.begins = if next.is_none() { self.beginners.pop_first() } else { None };
            let Some(node) = next.or(self.begins) else { return };
            self.looked(1);
            if let Some(unit) = self.nodes.get_mut(node.index()).filter(|_| next.is_some()) {
                unit.set(bits::QUEUED, false);
            }
            match self.u(node).state {
                State::Service(_) => self.evaluate_service(node),
                State::Latch(_) => self.evaluate_latch(node),
                State::Mount(_) => self.evaluate_mount(node),
                State::Target => self.evaluate_target(node),
                State::Gone => {}
            }
            self.mark_outdated(node);
            self.takers_look(node);
        }
    }

    /// Whether a unit whose gate is open may begin: it has to wait until nothing ends any more, and then is asked again.
    pub(crate) fn may_begin(&mut self, node: Node) -> bool {
        if self.begins != Some(node) {
            self.beginners.insert(node);
        }
        self.begins == Some(node)
    }

    /// Whether a gate of a unit is closed by what has settled and is not ok, or does not give up its claim.
    pub(crate) fn waits_for_good(&self, node: Node) -> bool {
        self.counters(node).dead > 0 || self.claim_is_stuck(node)
    }

    /// Brings every predicate that may be out of date up to date.
    pub(crate) fn refresh_outdated(&mut self) {
        while let Some(node) = self.outdated.pop_front() {
            self.looked(1);
            if let Some(unit) = self.nodes.get_mut(node.index()) {
                unit.set(bits::OUTDATED, false);
            }
            self.refresh(node);
        }
    }

    pub(crate) fn mark_outdated(&mut self, node: Node) {
        if let Some(unit) = self.nodes.get_mut(node.index())
            && !unit.has(bits::OUTDATED)
            && !matches!(unit.state, State::Gone)
        {
            unit.set(bits::OUTDATED, true);
            self.outdated.push_back(node);
        }
    }

    /// Something about a unit, or about what it depends on, may be another.
    pub(crate) fn enqueue(&mut self, node: Node) {
        self.mark_outdated(node);
        if let Some(unit) = self.nodes.get_mut(node.index())
            && !unit.has(bits::QUEUED)
            && !matches!(unit.state, State::Gone)
        {
            unit.set(bits::QUEUED, true);
            self.queue.push_back(node);
        }
    }

    /// The neighbours of a unit in one manifest as (node, kind); `backward` gives those that depend on it.
    pub(crate) fn neighbours(
        &self,
        manifest: ManifestRef,
        unit: UnitId,
        backward: bool,
    ) -> Vec<(Node, EdgeKind)> {
        let Some(generation) = self.gens.get(&manifest) else { return Vec::new() };
        let node = |u: UnitId| generation.node_of.get(u.index()).copied().filter(|n| *n != u32::MAX);
        let out: Vec<(Node, EdgeKind)> = if backward {
            generation.manifest.rdeps(unit).filter_map(|e| Some((Node(node(e.unit)?), e.kind))).collect()
        } else {
            generation.manifest.deps(unit).filter_map(|e| Some((Node(node(e.unit)?), e.kind))).collect()
        };
        self.looked(out.len());
        out
    }

    /// What it depends on in the desired manifest.
    pub(crate) fn deps(&self, node: Node) -> Vec<(Node, EdgeKind)> {
        self.u(node).id().map(|id| self.neighbours(self.desired, id, false)).unwrap_or_default()
    }

    /// Who depends on it in the desired manifest.
    pub(crate) fn rdeps(&self, node: Node) -> Vec<(Node, EdgeKind)> {
        self.u(node).id().map(|id| self.neighbours(self.desired, id, true)).unwrap_or_default()
    }

    /// What it depends on where it was made.
    pub(crate) fn made_deps(&self, node: Node) -> Vec<(Node, EdgeKind)> {
        let unit = self.u(node);
        self.neighbours(unit.made, unit.made_id, false)
    }

    /// Every unit that is up and was made with an edge to this one.
    pub(crate) fn running_rdeps(&self, node: Node) -> Vec<(Node, EdgeKind)> {
        let mut users = self.made_rdeps(node);
        users.retain(|(user, _)| self.u(*user).has(bits::UP));
        users
    }

    /// Every unit that was made with an edge to this one.
    fn made_rdeps(&self, node: Node) -> Vec<(Node, EdgeKind)> {
        let address = self.address(node);
        let mut out = Vec::new();
        self.looked(self.gens.len());
        for (number, generation) in &self.gens {
            let id = match self.u(node).id() {
                Some(id) if *number == self.desired => Some(id),
                _ => generation.manifest.find(address.kind, &address.name),
            };
            let Some(id) = id else { continue };
            if generation.node_of.get(id.index()) != Some(&node.0) {
                continue;
            }
            for (user, kind) in self.neighbours(*number, id, true) {
                if self.u(user).made == *number {
                    out.push((user, kind));
                }
            }
        }
        out
    }

    /// The predicates as they follow from the state and the counters.
    pub(crate) fn predicates(&self, node: Node) -> Predicates {
        let unit = self.u(node);
        let held = self.holds.get(&node);
        let not_wanted = unit.want != Want::Up;
        let blocked_for_good = self.waits_for_good(node);
        let counters = self.counters(node);
        let (ok, ready, settled) = match &unit.state {
            State::Service(s) => match s.phase {
                Phase::Ready | Phase::Reloading { .. } => (true, true, true),
                Phase::Done => {
                    let oneshot = self.is_oneshot(node);
                    (oneshot, oneshot, true)
                }
                Phase::Failed | Phase::Backoff { .. } => (false, false, true),
                Phase::Down => (false, false, not_wanted || held.is_some()),
                Phase::Waiting => (false, false, not_wanted || held.is_some() || blocked_for_good),
                // What somebody froze does not get ready by itself.
                Phase::Starting => (false, false, not_wanted || self.is_paused(node)),
                Phase::Stopping { .. } => (false, false, not_wanted),
            },
            // Whoever is looked at before it must know already that it will wait.
            State::Latch(l) if l.loses_ground(unit, &counters) => {
                (false, false, held.is_some() || blocked_for_good)
            }
            State::Latch(l) => {
                let idle = matches!(l.work, Work::Idle) || held.is_some();
                let stopped = matches!(l.work, Work::Backoff { .. } | Work::Contested { .. });
                let settled = match l.work {
                    Work::Waiting => not_wanted || blocked_for_good || held.is_some(),
                    Work::Idle | Work::Backoff { .. } | Work::Contested { .. } | Work::Deferred => true,
                    Work::Settling { .. } | Work::Queued | Work::Batch | Work::Job { .. } => held.is_some(),
                };
                // A unit that others fight over was right and stays usable: its dependents are left alone.
                let usable = idle || matches!(l.work, Work::Contested { .. });
                (l.right && usable, l.right, settled || stopped)
            }
            State::Mount(m) => match m.phase {
                MountPhase::Up | MountPhase::Remounting { .. } => (true, true, true),
                MountPhase::Down => (false, false, not_wanted || held.is_some()),
                MountPhase::Waiting => (false, false, not_wanted || held.is_some() || blocked_for_good),
                MountPhase::Backoff { .. } | MountPhase::Stuck => (false, false, true),
                MountPhase::Mounting { .. } | MountPhase::Unmounting { .. } => (false, false, not_wanted),
            },
            State::Target => {
                let wanted = unit.want == Want::Up;
                let ok = wanted && counters.not_ok == 0 && counters.unsettled == 0;
                let ready = wanted && counters.not_ready == 0;
                (ok, ready, ok || !wanted || blocked_for_good)
            }
            State::Gone => (false, false, true),
        };
        let going =
            not_wanted || self.must_bounce_users(node) || (unit.has(bits::UP) && counters.sinking > 0);
        // What is about to go, to be restarted or to lose what it is bound to carries nobody new.
        let leaves = going && !not_wanted && unit.has(bits::UP);
        let bounces = unit.has(bits::BOUNCE) || (settled && self.runs_again(node)) || self.loses_bound(node);
        let rests = blocked_for_good || held.is_some() || counters.blocked > 0;
        // What goes does so whether or not it can come back: only then it rests.
        let settled = settled && !leaves && (!bounces || rests);
        Predicates { ok: ok && !going && !bounces, ready, settled, going }
    }

    /// Whether a service runs that is bound to what is gone, or to a service that is about to be restarted.
    fn loses_bound(&self, node: Node) -> bool {
        let unit = self.u(node);
        let lost = |node: Node| {
            let dep = self.u(node);
            // One that is held is not restarted, whatever it owes.
            let restarts = dep.class() == Class::Service && !dep.has(bits::OK) && !self.left_alone(node);
            !dep.has(bits::READY) || restarts
        };
        self.svc(node).is_some_and(|s| s.running() && !matches!(s.phase, Phase::Stopping { .. }))
            && unit.has(bits::UP)
            && self.counters(node).shaky > 0
            && self.made_deps(node).iter().any(|(dep, kind)| *kind == EdgeKind::Binds && lost(*dep))
    }

    /// A mount that has to be unmounted and mounted anew takes its users down in order, as if it were not wanted.
    fn must_bounce_users(&self, node: Node) -> bool {
        let unit = self.u(node);
        matches!(unit.state, State::Mount(_)) && unit.has(bits::BOUNCE) && unit.has(bits::UP)
    }

    /// Whether something about the unit must end before the machine counts as converged.
    fn is_busy(&self, node: Node) -> bool {
        let unit = self.u(node);
        match &unit.state {
            State::Service(s) => match s.phase {
                // What somebody froze cannot get on, and is left out.
                Phase::Starting | Phase::Reloading { .. } => !self.is_paused(node),
                Phase::Backoff { .. } => true,
                Phase::Stopping { stuck, .. } => !stuck || self.down.is_none(),
                Phase::Down | Phase::Waiting | Phase::Ready | Phase::Failed | Phase::Done => false,
            },
            State::Latch(l) => match l.work {
                Work::Settling { .. } | Work::Queued => unit.want != Want::Down,
                Work::Batch | Work::Job { .. } => true,
                Work::Idle
                | Work::Waiting
                | Work::Backoff { .. }
                | Work::Contested { .. }
                | Work::Deferred => false,
            },
            State::Mount(m) => match m.phase {
                MountPhase::Mounting { .. }
                | MountPhase::Remounting { .. }
                | MountPhase::Unmounting { .. } => true,
                MountPhase::Up => unit.has(bits::COMPARED),
                MountPhase::Down | MountPhase::Waiting | MountPhase::Backoff { .. } | MountPhase::Stuck => {
                    false
                }
            },
            State::Target | State::Gone => false,
        }
    }

    /// Brings the cached predicates up to date and tells the neighbours what changed.
    pub(crate) fn refresh(&mut self, node: Node) {
        let Predicates { ok, ready, settled, going } = self.predicates(node);
        let unit = self.u(node);
        let old = Predicates {
            ok: unit.has(bits::OK),
            ready: unit.has(bits::READY),
            settled: unit.has(bits::SETTLED),
            going: unit.has(bits::GOING),
        };
        let busy = self.is_busy(node);
        let bad = unit.want == Want::Up && !ok && !self.holds.contains_key(&node);
        let was_busy = unit.has(bits::BUSY);
        if let Some(unit) = self.nodes.get_mut(node.index()) {
            unit.set(bits::OK, ok);
            unit.set(bits::READY, ready);
            unit.set(bits::SETTLED, settled);
            unit.set(bits::GOING, going);
            unit.set(bits::BUSY, busy);
        }
        self.busy = count(self.busy, was_busy, busy);
        self.list(node, bad);
        let new = Predicates { ok, ready, settled, going };
        if old == new {
            return;
        }
        // Whether its claim is given up at all may be another matter now.
        self.takers_look(node);
        for (user, kind) in self.rdeps(node) {
            self.looked(1);
            self.count(user, |its| {
                if hard(kind) {
                    its.not_ok = count(its.not_ok, !old.ok, !ok);
                    its.not_ready = count(its.not_ready, !old.ready, !ready);
                    its.dead = count(its.dead, old.settled && !old.ok, settled && !ok);
                } else if soft(kind) {
                    its.unsettled = count(its.unsettled, !old.settled, !settled);
                }
            });
            self.enqueue(user);
        }
        if old.going != going || (old.ok && old.ready) != (ok && ready) {
            self.tell_running(node, old, new);
        }
        if old.going != going {
            // It may have come up only to learn that it has to go.
            self.enqueue(node);
        }
        // Where there is one manifest, running edges are those of the desired one.
        let travels = old.going != going || old.ready != ready || old.ok != ok;
        if travels && self.gens.len() > 1 {
            for (user, _) in self.running_rdeps(node) {
                self.enqueue(user);
            }
        }
    }

    /// Tells those whose running edges lead to a unit whether it goes and whether it can be relied on.
    fn tell_running(&mut self, node: Node, old: Predicates, new: Predicates) {
        for (user, kind) in self.made_rdeps(node) {
            self.looked(1);
            self.count(user, |its| {
                if kind == EdgeKind::Binds {
                    its.shaky = count(its.shaky, !(old.ok && old.ready), !(new.ok && new.ready));
                }
                if hard(kind) {
                    its.sinking = count(its.sinking, old.going, new.going);
                }
            });
        }
    }

    /// The unit is about to be gone: nobody's running edges lead to it any more.
    pub(crate) fn forget_running(&mut self, node: Node) {
        let unit = self.u(node);
        let [ok, ready, going] = [bits::OK, bits::READY, bits::GOING].map(|bit| unit.has(bit));
        let old = Predicates { ok, ready, settled: false, going };
        self.tell_running(node, old, Predicates { ok: true, ready: true, settled: false, going: false });
    }

    /// Counts along the running edges of one unit from scratch.
    pub(crate) fn recount_running(&mut self, node: Node) {
        let (mut sinking, mut shaky) = (0, 0);
        for (dep, kind) in self.made_deps(node) {
            let dep = self.u(dep);
            shaky += u32::from(kind == EdgeKind::Binds && !(dep.has(bits::OK) && dep.has(bits::READY)));
            sinking += u32::from(hard(kind) && dep.has(bits::GOING));
        }
        self.count(node, |its| (its.sinking, its.shaky) = (sinking, shaky));
    }

    /// Takes a place in the order of stops: uses on everything it requires in the desired manifest.
    pub(crate) fn go_up(&mut self, node: Node) {
        if self.u(node).has(bits::UP) {
            return;
        }
        self.made_from_desired(node);
        self.m(node).set(bits::UP, true);
        self.up += 1;
        self.use_deps(node, true);
    }

    /// Gives the place back.
    pub(crate) fn go_down(&mut self, node: Node) {
        if !self.u(node).has(bits::UP) {
            return;
        }
        self.use_deps(node, false);
        let (first, behind) = (self.u(node).has(bits::STOP_FIRST), self.is_behind(node));
        let unit = self.m(node);
        unit.set(bits::UP | bits::STOP_FIRST | bits::FIRST, false);
        self.up = self.up.saturating_sub(1);
        for (dep, kind) in self.made_deps(node) {
            if first && hard(kind) {
                self.unblock(dep);
            }
            self.enqueue(dep);
        }
        if self.svc(node).is_some() {
            self.give_up(node);
        }
        // What is down has no edges of an earlier manifest any more.
        self.made_from_desired(node);
        if behind {
            self.caught_up(node);
        }
        self.users_follow(node);
        self.enqueue(node);
    }

    pub(crate) fn unblock(&mut self, node: Node) {
        self.count(node, |its| its.blocked = its.blocked.saturating_sub(1));
        self.enqueue(node);
    }

    fn use_deps(&mut self, node: Node, take: bool) {
        for (dep, kind) in self.made_deps(node) {
            if hard(kind) {
                self.looked(1);
                self.count(dep, |its| {
                    its.users = if take { its.users + 1 } else { its.users.saturating_sub(1) };
                });
                if !take {
                    self.enqueue(dep);
                }
            }
        }
    }

    /// Points the unit's running edges at the desired manifest without taking it down.
    pub(crate) fn rebase(&mut self, node: Node) {
        let up = self.u(node).has(bits::UP);
        if up {
            self.use_deps(node, false);
        }
        self.made_from_desired(node);
        if up {
            self.use_deps(node, true);
        }
    }

    fn made_from_desired(&mut self, node: Node) {
        let desired = self.desired;
        let Some(id) = self.u(node).id() else { return };
        let old = self.u(node).made;
        self.retain(desired);
        self.release(old);
        let unit = self.m(node);
        unit.made = desired;
        unit.made_id = id;
        self.recount_running(node);
    }

    /// Whether a unit that is going may be asked to stop: nobody who is up requires it, and at shutdown nobody
    /// who is going as well comes after it.
    pub(crate) fn may_stop(&self, node: Node) -> bool {
        if self.u(node).has(bits::FIRST) {
            return true;
        }
        self.counters(node).users == 0
            && !self
                .running_rdeps(node)
                .iter()
                .any(|(user, kind)| soft(*kind) && self.comes_after(self.u(*user), node))
    }

    /// Whether a soft edge of somebody who is up orders its stop before that of a unit.
    pub(crate) fn comes_after(&self, user: &Unit, node: Node) -> bool {
        let unit = self.u(node);
        // Those that were made by different manifests may, by way of others, be the other way round: who stays and has not
        // followed, and of two that leave the older one.
        let counts = match (user.id().is_some(), unit.id().is_some()) {
            (true, _) => user.made == self.desired && !self.is_behind(node),
            (false, true) => unit.made >= user.made,
            (false, false) => unit.made == user.made,
        };
        user.want != Want::Up && counts
    }

    /// What is wanted of a unit, from scratch.
    pub(crate) fn wanted(&self, node: Node) -> Want {
        let unit = self.u(node);
        if unit.id().is_none() {
            return if self.down.is_some() && unit.class() != Class::Mount && unit.class() != Class::Service {
                Want::Down
            } else {
                Want::Absent
            };
        }
        if self.down.is_some() {
            return Want::Down;
        }
        if self.holds.get(&node).is_some_and(|h| h.kind == HoldKind::Stopped) {
            return Want::Down;
        }
        let started = unit.has(bits::STARTED);
        if unit.flags & flags::MANUAL != 0 && !started {
            return Want::Down;
        }
        if unit.flags & flags::ON_DEMAND != 0 && !started && self.counters(node).demand == 0 {
            return Want::Down;
        }
        Want::Up
    }

    /// Brings the want up to date; what it requires learns whether there is demand.
    pub(crate) fn rethink_want(&mut self, node: Node) {
        let mut pending = vec![node];
        while let Some(node) = pending.pop() {
            self.looked(1);
            let want = self.wanted(node);
            let old = self.u(node).want;
            if old == want {
                continue;
            }
            self.m(node).want = want;
            self.enqueue(node);
            if want != Want::Up {
                self.end_helpers(node);
            }
            if (old == Want::Up) != (want == Want::Up) {
                for (dep, kind) in self.deps(node) {
                    if hard(kind) {
                        self.count(dep, |its| {
                            its.demand =
                                if want == Want::Up { its.demand + 1 } else { its.demand.saturating_sub(1) };
                        });
                        if self.u(dep).flags & flags::ON_DEMAND != 0 {
                            pending.push(dep);
                        }
                    }
                }
            }
        }
    }

    /// Nothing more is heard of a process.
    pub(crate) fn end_serial(&mut self, serial: u64) {
        if let Some((node, _)) = self.serials.remove(&serial) {
            self.changed.insert(node);
        }
    }

    /// The processes that the engine waits for on behalf of a unit: its state names each.
    pub(crate) fn serials_of(&self, node: Node) -> Vec<(u64, Job)> {
        let mut named = Vec::new();
        match &self.u(node).state {
            State::Service(s) => {
                named.push(s.serial);
                named.extend(&s.side);
                if let Phase::Reloading { job, .. } = s.phase {
                    named.push(job);
                }
            }
            State::Latch(Latch { work: Work::Job { serial }, .. }) => named.push((*serial).into()),
            State::Mount(mount) => match &mount.phase {
                MountPhase::Mounting { serial }
                | MountPhase::Remounting { serial }
                | MountPhase::Unmounting { serial } => named.push(*serial),
                MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Up
                | MountPhase::Backoff { .. }
                | MountPhase::Stuck => {}
            },
            State::Latch(_) | State::Target | State::Gone => {}
        }
        named.sort_unstable();
        named.dedup();
        let known =
            |serial| self.serials.get(&serial).filter(|(of, _)| *of == node).map(|(_, job)| (serial, *job));
        named.into_iter().filter_map(known).collect()
    }

    /// A command or a mount that is under way for a unit that is not wanted any more is not waited for.
    fn end_helpers(&mut self, node: Node) {
        let serial = match &self.u(node).state {
            State::Latch(Latch { work: Work::Job { serial }, .. }) => (*serial).into(),
            State::Mount(mount) => match mount.phase {
                MountPhase::Mounting { serial } => serial,
                MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Up
                | MountPhase::Unmounting { .. }
                | MountPhase::Backoff { .. }
                | MountPhase::Stuck
                | MountPhase::Remounting { .. } => return,
            },
            State::Latch(_) | State::Service(_) | State::Target | State::Gone => return,
        };
        if self.serials.get(&serial).is_some_and(|(_, job)| *job != Job::Undo) {
            self.kill_job(node, serial);
        }
    }

    /// A target has no process: it takes its place in the order once all members are ok, and leaves it when it
    /// is going and nobody uses it.
    fn evaluate_target(&mut self, node: Node) {
        let (unit, counters) = (self.u(node), self.counters(node));
        match (unit.want, unit.has(bits::UP)) {
            (Want::Up, false) if counters.not_ok == 0 && counters.unsettled == 0 => {
                self.go_up(node);
                self.publish(node, "ready");
            }
            (Want::Up, _) => {
                if self.predicates(node).going && self.u(node).has(bits::UP) && self.may_stop(node) {
                    self.go_down(node);
                }
            }
            (Want::Down, true) if self.may_stop(node) => self.go_down(node),
            (Want::Absent, true) if self.may_stop(node) => {
                self.go_down(node);
                if !self.is_left_behind(node) {
                    self.remove(node);
                }
            }
            (Want::Absent, false) if self.is_left_behind(node) => {}
            (Want::Absent, false) => self.remove(node),
            (Want::Down | Want::Absent, _) => {}
        }
    }
}

fn count(counter: u32, before: bool, after: bool) -> u32 {
    match (before, after) {
        (false, true) => counter + 1,
        (true, false) => counter.saturating_sub(1),
        (true, true) | (false, false) => counter,
    }
}
