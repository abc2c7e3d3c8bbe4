//! Services: what each phase does about its conditions, and how a process starts, reloads and switches.

use units::UnitId;
use units::diff::Switch;
use units::kind::service::{Ready, Reload};

use super::byhand::Goal;
use super::effect::{Effect, Job, Level};
use super::graph::hard;
use super::timer::Timer;
use super::unit::{Next, Phase, Service, Want, bits};
use super::{Engine, HoldKind, Node};
use crate::proto::ManifestRef;

impl Engine {
    /// What each phase does about its conditions.
    pub(crate) fn evaluate_service(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        let phase = service.phase;
        let unit = self.u(node);
        let want = unit.want;
        match phase {
            Phase::Down => match want {
                Want::Absent if self.is_left_behind(node) => {}
                Want::Absent => self.remove(node),
                Want::Up if !self.left_alone(node) => {
                    self.enter(node, Phase::Waiting);
                    self.enqueue(node);
                }
                Want::Up | Want::Down => {}
            },
            Phase::Waiting => match want {
                Want::Absent | Want::Down => {
                    self.enter(node, Phase::Down);
                    self.enqueue(node);
                }
                Want::Up if self.left_alone(node) => self.enter(node, Phase::Down),
                Want::Up => {
                    if self.gate_open(node) && !self.bound_lost(node, false) && self.may_begin(node) {
                        self.start(node);
                    }
                }
            },
            Phase::Starting | Phase::Ready | Phase::Reloading { .. } => {
                self.evaluate_running(node, phase, want)
            }
            Phase::Stopping { next, killed, stuck } => {
                let next = match (want, next) {
                    (Want::Down | Want::Absent, _) => Next::Down,
                    (Want::Up, Next::Down) => Next::Waiting,
                    (Want::Up, Next::Waiting | Next::Backoff | Next::Failed | Next::Done) => next,
                };
                if let Some(service) = self.svc_mut(node) {
                    service.phase = Phase::Stopping { next, killed, stuck };
                }
            }
            Phase::Backoff { .. } | Phase::Failed | Phase::Done => {
                if want != Want::Up {
                    self.timers.clear(node, Timer::State);
                    self.enter(node, Phase::Down);
                    self.enqueue(node);
                } else if self.owes_a_run(node, phase) {
                    self.m(node).set(bits::BOUNCE, false);
                    if let Some(service) = self.svc_mut(node) {
                        service.tries = 0;
                    }
                    self.timers.clear(node, Timer::State);
                    self.enter(node, Phase::Waiting);
                    self.enqueue(node);
                } else if matches!(phase, Phase::Backoff { .. }) && self.bound_lost(node, false) {
                    self.timers.clear(node, Timer::State);
                    self.enter(node, Phase::Waiting);
                    self.enqueue(node);
                }
            }
        }
    }

    pub(crate) fn evaluate_running(&mut self, node: Node, phase: Phase, want: Want) {
        if self.predicates(node).going {
            if self.may_stop(node) {
                let (next, cause) = match want {
                    Want::Up => (Next::Waiting, "what it requires goes"),
                    Want::Down | Want::Absent => (Next::Down, "not wanted"),
                };
                self.stop_with(node, next, None, cause);
            }
            return;
        }
        if self.bound_lost(node, true) {
            self.stop_with(node, Next::Waiting, None, "something it is bound to was lost");
            return;
        }
        let unit = self.u(node);
        // Somebody who waits for what it gives up may be what it waits for itself: it makes room first.
        let first = unit.has(bits::STOP_FIRST) || self.claims.contains_key(&node);
        if unit.has(bits::BOUNCE)
            && !self.left_alone(node)
            && (first || self.gate_open(node) || phase == Phase::Starting)
        {
            self.m(node).set(bits::BOUNCE, false);
            if let Some(service) = self.svc_mut(node) {
                service.tries = 0;
            }
            self.stop_with(node, Next::Waiting, None, "it is restarted");
            return;
        }
        let Some(service) = self.svc(node) else { return };
        // A hold keeps automation away, not the hand that asks for a reload; but who is held is not restarted for it.
        let held = self.left_alone(node);
        self.looked(self.asks.len());
        let by_hand =
            self.asks.iter().any(|a| a.node == node && a.goal == Goal::Loaded) && !self.is_paused(node);
        let asked = service.reload_asked && (!held || (by_hand && !self.restarts_to_load(node)));
        let stale = service.loaded != service.inputs && !service.reload_failed && !held;
        if !(stale || asked) {
            return;
        }
        match phase {
            Phase::Ready if self.gate_open(node) => self.reload(node),
            // What differs since it began to reload is loaded by the next one.
            Phase::Ready
            | Phase::Reloading { .. }
            | Phase::Starting
            | Phase::Down
            | Phase::Waiting
            | Phase::Stopping { .. }
            | Phase::Backoff { .. }
            | Phase::Failed
            | Phase::Done => {}
        }
    }

    /// Whether one that has ended is to start again before its time. What has run stays done while somebody holds it.
    fn owes_a_run(&self, node: Node, phase: Phase) -> bool {
        let done = phase == Phase::Done && self.left_alone(node);
        (self.u(node).has(bits::BOUNCE) && !done) || self.must_run_again(node, phase)
    }

    /// A one-shot runs again when the inputs that it restarts on differ.
    pub(crate) fn must_run_again(&self, node: Node, phase: Phase) -> bool {
        self.svc(node).is_some_and(|s| {
            phase == Phase::Done && s.loaded != s.inputs && self.is_oneshot(node) && !self.left_alone(node)
        })
    }

    /// Whether new inputs will end the process as it is: a one-shot's run, or one that cannot reload them.
    pub(crate) fn runs_again(&self, node: Node) -> bool {
        let Some(s) = self.svc(node) else { return false };
        let differs = s.loaded != s.inputs && !s.reload_failed;
        let restarts = matches!(s.phase, Phase::Ready | Phase::Reloading { .. })
            && (differs || s.reload_asked)
            && !self.left_alone(node)
            && self.restarts_to_load(node);
        restarts || self.must_run_again(node, s.phase)
    }

    /// Whether only a new process loads the inputs: one of them is to restart it, or it has no way to reload.
    pub(crate) fn restarts_to_load(&self, node: Node) -> bool {
        self.svc(node).is_some_and(|s| s.loaded.1 != s.inputs.1)
            || self.desired_spec(node).is_none_or(|d| d.reload.is_none())
    }

    /// Whether a unit it is bound to is not ready. A running service asks in the manifest it was made from.
    pub(crate) fn bound_lost(&self, node: Node, running: bool) -> bool {
        // What does not run has the edges of the desired manifest.
        if self.counters(node).shaky == 0 {
            return false;
        }
        let deps = if running { self.made_deps(node) } else { self.deps(node) };
        deps.iter().any(|(dep, kind)| *kind == units::EdgeKind::Binds && !self.u(*dep).has(bits::READY))
    }

    /// Held in place: no start, no restart, no reload.
    pub(crate) fn left_alone(&self, node: Node) -> bool {
        self.holds.get(&node).is_some_and(|h| matches!(h.kind, HoldKind::Held | HoldKind::Paused))
    }

    /// No longer declared, but held: it is listed, and what is on the disk of it stays, until the hold ends.
    pub(crate) fn is_left_behind(&self, node: Node) -> bool {
        let stays = self.holds.contains_key(&node) || self.is_shade(node);
        self.u(node).want == Want::Absent && self.down.is_none() && stays
    }

    /// Frozen by hand.
    pub(crate) fn is_paused(&self, node: Node) -> bool {
        self.holds.get(&node).is_some_and(|h| h.kind == HoldKind::Paused)
    }

    pub(crate) fn if_not_held(&self, node: Node, next: Next) -> Next {
        if self.left_alone(node) { Next::Down } else { next }
    }

    pub(crate) fn start(&mut self, node: Node) {
        let Some(id) = self.u(node).id() else { return };
        let Some(spec) = self.desired_spec(node) else {
            self.defect(node, "no specification");
            return;
        };
        self.go_up(node);
        let desired = self.desired;
        if let Ready::Path(_) = spec.ready {
            self.spawn(node, Job::AwaitPath, (desired, id), "readiness by path");
        }
        let serial = self.spawn(node, Job::Main, (desired, id), "wanted up");
        self.m(node).set(bits::BOUNCE | bits::KEEP, false);
        self.retain(desired);
        let Some(service) = self.svc_mut(node) else { return };
        let old = service.run.replace((desired, id));
        service.serial = serial;
        service.alive = true;
        service.occupied = true;
        service.loaded = service.inputs;
        service.reload_failed = false;
        service.reload_asked = false;
        service.assumed = false;
        service.exit = None;
        service.watchdog = None;
        if let Some((old, _)) = old {
            self.release(old);
        }
        self.enter(node, Phase::Starting);
        self.deadline(node, spec.start_timeout);
        self.service_step_taken();
    }

    pub(crate) fn spawn(&mut self, node: Node, job: Job, at: (ManifestRef, UnitId), cause: &str) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.serials.insert(serial, (node, job));
        self.m(node).set(bits::KILLED, false);
        if matches!(job, Job::Reload | Job::Stop | Job::AwaitPath)
            && let Some(service) = self.svc_mut(node)
        {
            service.side.push(serial);
        }
        self.globals_changed = true;
        self.out.push(Effect::Spawn {
            node,
            serial,
            manifest: at.0,
            unit: at.1,
            job,
            cause: cause.to_owned(),
        });
        serial
    }

    pub(crate) fn become_ready(&mut self, node: Node) {
        let now = self.now;
        if let Some(service) = self.svc_mut(node) {
            service.ready_at = now;
        }
        self.clear_detail(node);
        self.timers.clear(node, Timer::State);
        self.end_side_jobs(node);
        self.enter(node, Phase::Ready);
        self.arm_watchdog(node);
    }

    pub(crate) fn arm_watchdog(&mut self, node: Node) {
        let own = self.svc(node).and_then(|s| s.watchdog);
        let every = own.unwrap_or_else(|| self.running_spec(node).map_or(0, |s| s.watchdog));
        if every > 0 {
            self.timers.set(node, Timer::Watchdog, self.now.after_ms(every));
            self.globals_changed = true;
        } else {
            self.timers.clear(node, Timer::Watchdog);
        }
    }

    pub(crate) fn reload(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        let (serial, inputs, loaded) = (service.serial, service.inputs, service.loaded);
        let Some(run) = service.run else { return };
        // How to reload is a matter of the desired specification: a reload that it just gained counts.
        let spec = self.desired_spec(node).or_else(|| self.spec_at(run));
        let how = spec.as_ref().and_then(|s| s.reload.clone());
        let restart_inputs_differ = inputs.1 != loaded.1;
        if let Some(service) = self.svc_mut(node) {
            service.reload_asked = false;
        }
        self.service_step_taken();
        match how {
            Some(_) | None if restart_inputs_differ => {
                self.stop_with(node, Next::Waiting, None, "its inputs changed");
            }
            None => self.stop_with(node, Next::Waiting, None, "its inputs changed"),
            Some(Reload::Signal(signal)) => {
                self.out.push(Effect::Signal { serial, signal });
                if let Some(service) = self.svc_mut(node) {
                    service.loaded = inputs;
                    service.assumed = true;
                    service.reload_failed = false;
                }
                self.publish(node, "reloaded: assumed, by signal");
            }
            Some(Reload::Command(_)) => {
                let at = self.u(node).id().map_or(run, |id| (self.desired, id));
                let job = self.spawn(node, Job::Reload, at, "its inputs changed");
                self.enter(node, Phase::Reloading { job, inputs });
                self.deadline(node, spec.map_or(0, |s| s.reload_timeout));
            }
        }
    }

    /// It has loaded what was there when it began to reload.
    pub(crate) fn reloaded(&mut self, node: Node, inputs: (u64, u64)) {
        self.timers.clear(node, Timer::State);
        if let Some(service) = self.svc_mut(node) {
            service.loaded = inputs;
            service.assumed = false;
            service.reload_failed = false;
        }
        self.enter(node, Phase::Ready);
    }

    pub(crate) fn reload_failed(&mut self, node: Node, why: &str) {
        self.timers.clear(node, Timer::State);
        if let Some(service) = self.svc_mut(node) {
            service.reload_failed = true;
        }
        self.set_detail(node, why.to_owned());
        let text = format!("{} {why}: it still runs with what it loaded before", self.address(node));
        self.log(Level::Error, Some(node), text);
        self.enter(node, Phase::Ready);
        self.apply_failure(node, why);
    }

    /// The specification of a unit that runs differs between two generations (semantics §3, note 2).
    pub(crate) fn switch_service(&mut self, node: Node, switch: Switch) {
        let Some(running) = self.svc(node).map(Service::running) else { return };
        if !running {
            // Whatever comes next starts from the new specification; one that had given up gets a new try.
            self.m(node).set(bits::BOUNCE, true);
            if matches!(self.svc(node).map(|s| s.phase), Some(Phase::Down | Phase::Waiting)) {
                self.m(node).set(bits::BOUNCE, false);
            }
            return;
        }
        match switch {
            Switch::Nothing => self.run_desired(node),
            Switch::Keep => self.m(node).set(bits::KEEP, true),
            // What still starts does so as the earlier specification says: it has nothing yet to reload with.
            Switch::Reload if self.svc(node).is_some_and(|s| s.phase == Phase::Starting) => {
                self.m(node).set(bits::BOUNCE, true);
            }
            Switch::Reload => {
                self.run_desired(node);
                if let Some(service) = self.svc_mut(node) {
                    service.reload_asked = true;
                    service.reload_failed = false;
                }
            }
            Switch::Restart => self.m(node).set(bits::BOUNCE, true),
            // What is held stops when the hold ends, and nobody waits for that.
            Switch::StopStart if self.left_alone(node) => self.m(node).set(bits::BOUNCE, true),
            Switch::StopStart => {
                self.m(node).set(bits::BOUNCE | bits::STOP_FIRST, true);
                for (dep, kind) in self.made_deps(node) {
                    if hard(kind) {
                        self.count(dep, |its| its.blocked += 1);
                    }
                }
            }
        }
    }

    /// Whether the process was started from what is desired now.
    pub(crate) fn runs_as_desired(&self, node: Node) -> bool {
        let digest = |m: ManifestRef, u: UnitId| self.manifest_of(m).map(|m| m.unit_digest(u));
        match (self.svc(node).and_then(|s| s.run), self.u(node).id()) {
            (Some((m, u)), Some(id)) => digest(m, u) == digest(self.desired, id),
            (_, _) => false,
        }
    }

    /// The running process counts as started from the desired specification.
    pub(crate) fn run_desired(&mut self, node: Node) {
        let Some(id) = self.u(node).id() else { return };
        let desired = self.desired;
        let Some(old) = self.svc(node).and_then(|s| s.run) else { return };
        self.retain(desired);
        if let Some(service) = self.svc_mut(node) {
            service.run = Some((desired, id));
        }
        self.release(old.0);
        if self.timers.get(node, Timer::Watchdog).is_some() {
            self.arm_watchdog(node);
        }
    }
}
