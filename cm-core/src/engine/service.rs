//! Services: the table of fact × phase, and what each phase does about its conditions (semantics §3).

use units::UnitId;
use units::diff::Switch;
use units::kind::service::{Ready, Reload, Restart, Service as Spec};

use super::effect::{Effect, Job, Level};
use super::event::Exit;
use super::graph::hard;
use super::timer::Timer;
use super::unit::{Next, Phase, Service, State, Want, bits};
use super::{Engine, HoldKind, Node};
use crate::proto::ManifestRef;

/// What can happen to a service's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// It runs its program.
    Spawned,
    /// It could not be made, or did not reach its program; whether a retry can help.
    SpawnFailed { retry: bool },
    /// It declared itself ready.
    Ready,
    /// It announced a reload.
    Reloading,
    /// It gave a sign of life.
    Watchdog,
    /// It did not give one in time.
    WatchdogMissed,
    /// Its main process ended.
    Exited(Exit),
    /// Nothing is left in its cgroup.
    Empty,
    /// The deadline of its phase has passed.
    Deadline,
    /// The path of `ready = "path=…"` is there.
    PathSeen,
    /// The reload command ended with 0, or not.
    ReloadEnded { serial: u64, ok: bool },
}

/// ENOENT, EACCES, ENOEXEC, EISDIR, ENOTDIR: the same again will fail again.
const HOPELESS: [i32; 5] = [2, 13, 8, 21, 20];
/// The signal that a missed watchdog sends: SIGABRT, as its users know it from systemd.
const SIGABRT: i32 = 6;

impl Engine {
    /// A fact about a spawn; one of an earlier spawn is dropped.
    pub(crate) fn fact(&mut self, serial: u64, fact: Fact) {
        let Some((node, job)) = self.serials.get(&serial).copied() else { return };
        match job {
            Job::Main => self.fact_of(node, fact),
            Job::Reload
            | Job::Stop
            | Job::AwaitPath
            | Job::Mount
            | Job::Unmount
            | Job::Module
            | Job::Unless
            | Job::Exec
            | Job::Undo => {}
        }
    }

    /// A process could not be started.
    pub(crate) fn spawn_failed(&mut self, serial: u64, stage: &str, errno: i32) {
        let Some((node, job)) = self.serials.get(&serial).copied() else { return };
        let text = format!("cannot start {}: {stage} (errno {errno})", self.address(node));
        self.log(Level::Error, Some(node), text);
        self.details.insert(node, format!("{stage} (errno {errno})"));
        match job {
            Job::Main => {
                self.fact_of(node, Fact::SpawnFailed { retry: !HOPELESS.contains(&errno) });
            }
            Job::Reload
            | Job::Stop
            | Job::AwaitPath
            | Job::Mount
            | Job::Unmount
            | Job::Module
            | Job::Unless
            | Job::Exec
            | Job::Undo => self.exited(serial, Exit::Code(126)),
        }
    }

    /// A process ended.
    pub(crate) fn exited(&mut self, serial: u64, exit: Exit) {
        let Some((node, job)) = self.serials.get(&serial).copied() else { return };
        let ok = exit == Exit::Code(0);
        match job {
            Job::Main => {
                self.fact_of(node, Fact::Exited(exit));
                return;
            }
            Job::Reload => {
                self.serials.remove(&serial);
                self.fact_of(node, Fact::ReloadEnded { serial, ok });
            }
            Job::Stop => {
                self.serials.remove(&serial);
                if !ok {
                    let text = format!("stop command of {} ended with {exit:?}", self.address(node));
                    self.log(Level::Warning, Some(node), text);
                }
            }
            Job::AwaitPath => {
                self.serials.remove(&serial);
                if ok {
                    self.fact_of(node, Fact::PathSeen);
                }
            }
            Job::Mount | Job::Unmount => self.mount_job_ended(node, serial, job, exit),
            Job::Module | Job::Unless | Job::Exec | Job::Undo => {
                self.latch_job_ended(node, serial, job, exit)
            }
        }
        self.globals_changed = true;
        self.enqueue(node);
    }

    /// A cgroup is empty.
    pub(crate) fn cgroup_empty(&mut self, serial: u64) {
        if let Some((node, Job::Main)) = self.serials.get(&serial).copied() {
            self.fact_of(node, Fact::Empty);
        }
    }

    pub(crate) fn fact_of(&mut self, node: Node, fact: Fact) {
        if self.svc(node).is_some() {
            self.happen(node, fact);
            self.enqueue(node);
        }
    }

    pub(crate) fn svc(&self, node: Node) -> Option<&Service> {
        match &self.u(node).state {
            State::Service(s) => Some(s),
            State::Latch(_) | State::Mount(_) | State::Target | State::Gone => None,
        }
    }

    pub(crate) fn svc_mut(&mut self, node: Node) -> Option<&mut Service> {
        match &mut self.m(node).state {
            State::Service(s) => Some(s),
            State::Latch(_) | State::Mount(_) | State::Target | State::Gone => None,
        }
    }

    pub(crate) fn spec_at(&self, at: (ManifestRef, UnitId)) -> Option<Box<Spec>> {
        self.manifest_of(at.0)?.service(at.1)
    }

    /// The specification that the process runs with; before a start, the desired one.
    pub(crate) fn running_spec(&self, node: Node) -> Option<Box<Spec>> {
        match self.svc(node)?.run {
            Some(at) => self.spec_at(at),
            None => self.desired_spec(node),
        }
    }

    pub(crate) fn desired_spec(&self, node: Node) -> Option<Box<Spec>> {
        self.spec_at((self.desired, self.u(node).id?))
    }

    pub(crate) fn is_oneshot(&self, node: Node) -> bool {
        self.running_spec(node).is_some_and(|s| s.ready == Ready::Exited)
    }

    /// The table: every fact in every phase.
    fn happen(&mut self, node: Node, fact: Fact) {
        let Some(service) = self.svc(node) else { return };
        let phase = service.phase;
        match (fact, phase) {
            (Fact::Spawned, Phase::Starting) => {
                if self.running_spec(node).is_some_and(|s| s.ready == Ready::Started) {
                    self.become_ready(node);
                }
            }
            (Fact::Spawned, Phase::Stopping { .. }) => {}

            (Fact::SpawnFailed { retry }, Phase::Starting | Phase::Stopping { .. }) => {
                let stopping = if let Phase::Stopping { next, .. } = phase { Some(next) } else { None };
                if let Some(service) = self.svc_mut(node) {
                    service.alive = false;
                    service.occupied = false;
                }
                let next = stopping.unwrap_or(if retry { Next::Backoff } else { Next::Failed });
                self.finish_stop(node, next);
            }

            (Fact::Ready, Phase::Starting) => {
                let by = self.running_spec(node).map(|s| s.ready.clone());
                if matches!(by, Some(Ready::Notify | Ready::Fd(_))) {
                    self.become_ready(node);
                }
            }
            (Fact::Ready, Phase::Reloading { job: 0, again }) => self.reloaded(node, again),
            // A service may say READY=1 as often as it likes; a reload by command ends with the command.
            (Fact::Ready, Phase::Ready | Phase::Reloading { .. } | Phase::Stopping { .. }) => {}

            (Fact::PathSeen, Phase::Starting) => self.become_ready(node),
            (
                Fact::PathSeen,
                Phase::Ready
                | Phase::Reloading { .. }
                | Phase::Stopping { .. }
                | Phase::Down
                | Phase::Waiting
                | Phase::Backoff { .. }
                | Phase::Failed
                | Phase::Done,
            ) => {}

            (Fact::Reloading, Phase::Ready) => {
                let timeout = self.running_spec(node).map_or(0, |s| s.reload_timeout);
                self.enter(node, Phase::Reloading { job: 0, again: false });
                self.deadline(node, timeout);
            }
            (Fact::Reloading, Phase::Starting | Phase::Reloading { .. } | Phase::Stopping { .. }) => {}

            (Fact::Watchdog, Phase::Ready | Phase::Reloading { .. }) => self.arm_watchdog(node),
            (Fact::Watchdog, Phase::Starting | Phase::Stopping { .. }) => {}
            (Fact::WatchdogMissed, Phase::Ready | Phase::Reloading { .. }) => {
                let text = format!("{} gave no sign of life in time", self.address(node));
                self.log(Level::Error, Some(node), text);
                let next = self.after_failure(node);
                self.stop_with(node, next, Some(SIGABRT));
            }
            (
                Fact::WatchdogMissed,
                Phase::Starting
                | Phase::Stopping { .. }
                | Phase::Down
                | Phase::Waiting
                | Phase::Backoff { .. }
                | Phase::Failed
                | Phase::Done,
            ) => {}

            (Fact::Exited(exit), Phase::Starting) => {
                let Some(spec) = self.running_spec(node) else { return };
                let clean = is_clean(&spec, exit);
                self.ended(node, exit);
                match spec.ready {
                    Ready::Forked if exit == Exit::Code(0) => self.become_ready(node),
                    Ready::Exited if clean => self.clear_out(node, Next::Done),
                    Ready::Started
                    | Ready::Notify
                    | Ready::Fd(_)
                    | Ready::Forked
                    | Ready::Exited
                    | Ready::Path(_) => {
                        let next = self.after_failure(node);
                        self.clear_out(node, next);
                    }
                }
            }
            (Fact::Exited(exit), Phase::Ready | Phase::Reloading { .. }) => {
                let Some(spec) = self.running_spec(node) else { return };
                self.ended(node, exit);
                let next = if is_clean(&spec, exit) {
                    if spec.restart == Restart::Always { Next::Backoff } else { Next::Done }
                } else {
                    self.after_failure(node)
                };
                self.clear_out(node, self.if_not_held(node, next));
            }
            (Fact::Exited(exit), Phase::Stopping { .. }) => {
                self.ended(node, exit);
                self.stopped_if_empty(node);
            }

            (Fact::Empty, Phase::Stopping { .. }) => {
                if let Some(service) = self.svc_mut(node) {
                    service.occupied = false;
                }
                self.stopped_if_empty(node);
            }
            (Fact::Empty, Phase::Starting | Phase::Ready | Phase::Reloading { .. }) => {
                if let Some(service) = self.svc_mut(node) {
                    service.occupied = false;
                }
                // The daemon of a `forked` service has gone; of others the exit of the main process follows.
                let gone = self.svc(node).is_some_and(|s| !s.alive);
                if gone && phase != Phase::Starting {
                    let next = self.if_not_held(node, Next::Backoff);
                    self.clear_out(node, next);
                }
            }

            (Fact::Deadline, Phase::Starting) => {
                let text = format!("{} was not ready in time", self.address(node));
                self.log(Level::Error, Some(node), text.clone());
                self.details.insert(node, "was not ready in time".to_owned());
                let next = self.after_failure(node);
                self.stop_with(node, next, None);
            }
            (Fact::Deadline, Phase::Reloading { job, .. }) => {
                if job != 0 {
                    self.out.push(Effect::Kill { serial: job });
                    self.serials.remove(&job);
                }
                self.reload_failed(node, "did not reload in time");
            }
            (Fact::Deadline, Phase::Stopping { next, killed: false, .. }) => self.kill(node, next),
            (Fact::Deadline, Phase::Stopping { next, killed: true, .. }) => {
                let text = format!("{} does not end although it was killed", self.address(node));
                self.log(Level::Error, Some(node), text);
                self.enter(node, Phase::Stopping { next, killed: true, stuck: true });
            }
            (Fact::Deadline, Phase::Backoff { .. }) => self.enter(node, Phase::Waiting),
            (Fact::Deadline, Phase::Ready | Phase::Down | Phase::Waiting | Phase::Failed | Phase::Done) => {}

            (Fact::ReloadEnded { serial, ok }, Phase::Reloading { job, again }) if serial == job => {
                if ok {
                    self.reloaded(node, again);
                } else {
                    self.reload_failed(node, "its reload command failed");
                }
            }
            (
                Fact::ReloadEnded { .. },
                Phase::Starting
                | Phase::Ready
                | Phase::Reloading { .. }
                | Phase::Stopping { .. }
                | Phase::Down
                | Phase::Waiting
                | Phase::Backoff { .. }
                | Phase::Failed
                | Phase::Done,
            ) => {}

            (
                Fact::Spawned | Fact::SpawnFailed { .. },
                Phase::Ready
                | Phase::Reloading { .. }
                | Phase::Down
                | Phase::Waiting
                | Phase::Backoff { .. }
                | Phase::Failed
                | Phase::Done,
            )
            | (
                Fact::Ready | Fact::Reloading | Fact::Watchdog | Fact::Exited(_) | Fact::Empty,
                Phase::Down | Phase::Waiting | Phase::Backoff { .. } | Phase::Failed | Phase::Done,
            ) => self.defect(node, &format!("{fact:?} without a process")),
        }
    }

    /// What each phase does about its conditions.
    pub(crate) fn evaluate_service(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        let phase = service.phase;
        let unit = self.u(node);
        let want = unit.want;
        match phase {
            Phase::Down => match want {
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
                    if unit.gate_open() && !self.bound_lost(node, false) {
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
                } else if unit.has(bits::BOUNCE) || self.must_run_again(node, phase) {
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

    fn evaluate_running(&mut self, node: Node, phase: Phase, want: Want) {
        if self.predicates(node).going {
            if self.may_stop(node) {
                let next = if want == Want::Up { Next::Waiting } else { Next::Down };
                self.stop_with(node, next, None);
            }
            return;
        }
        if self.bound_lost(node, true) {
            let text = "stopping: something it is bound to was lost";
            self.publish(node, text);
            self.stop_with(node, Next::Waiting, None);
            return;
        }
        let unit = self.u(node);
        if unit.has(bits::BOUNCE)
            && (unit.has(bits::STOP_FIRST) || unit.gate_open() || phase == Phase::Starting)
        {
            self.m(node).set(bits::BOUNCE, false);
            if let Some(service) = self.svc_mut(node) {
                service.tries = 0;
            }
            self.stop_with(node, Next::Waiting, None);
            return;
        }
        let Some(service) = self.svc(node) else { return };
        // A hold keeps automation away, not the hand that asks for a reload.
        let asked = service.reload_asked;
        let stale = service.loaded != service.inputs && !service.reload_failed && !self.left_alone(node);
        if !(stale || asked) {
            return;
        }
        match phase {
            Phase::Ready if self.u(node).gate_open() => self.reload(node),
            Phase::Reloading { job, again: false } if stale => {
                if let Some(service) = self.svc_mut(node) {
                    service.phase = Phase::Reloading { job, again: true };
                }
            }
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

    /// A one-shot runs again when the inputs that it restarts on differ.
    fn must_run_again(&self, node: Node, phase: Phase) -> bool {
        self.svc(node).is_some_and(|s| {
            phase == Phase::Done && s.loaded != s.inputs && self.is_oneshot(node) && !self.left_alone(node)
        })
    }

    /// Whether a unit it is bound to is not ready. A running service asks in the manifest it was made from.
    fn bound_lost(&self, node: Node, running: bool) -> bool {
        let deps = if running { self.made_deps(node) } else { self.deps(node) };
        deps.iter().any(|(dep, kind)| *kind == units::EdgeKind::Binds && !self.u(*dep).has(bits::READY))
    }

    /// Held in place: no start, no restart, no reload.
    pub(crate) fn left_alone(&self, node: Node) -> bool {
        self.holds.get(&node).is_some_and(|h| matches!(h.kind, HoldKind::Held | HoldKind::Paused))
    }

    fn if_not_held(&self, node: Node, next: Next) -> Next {
        if self.left_alone(node) { Next::Down } else { next }
    }

    fn start(&mut self, node: Node) {
        let Some(id) = self.u(node).id else { return };
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
        if let Some((old, _)) = old {
            self.release(old);
        }
        self.enter(node, Phase::Starting);
        self.deadline(node, spec.start_timeout);
        self.service_step_taken(node);
    }

    pub(crate) fn spawn(&mut self, node: Node, job: Job, at: (ManifestRef, UnitId), cause: &str) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.serials.insert(serial, (node, job));
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

    fn become_ready(&mut self, node: Node) {
        let now = self.now;
        if let Some(service) = self.svc_mut(node) {
            service.ready_at = now;
        }
        self.details.remove(&node);
        self.timers.clear(node, Timer::State);
        self.enter(node, Phase::Ready);
        self.arm_watchdog(node);
    }

    fn arm_watchdog(&mut self, node: Node) {
        let every = self.running_spec(node).map_or(0, |s| s.watchdog);
        if every > 0 {
            self.timers.set(node, Timer::Watchdog, self.now.after_ms(every));
            self.globals_changed = true;
        }
    }

    fn reload(&mut self, node: Node) {
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
        self.service_step_taken(node);
        match how {
            Some(_) | None if restart_inputs_differ => self.stop_with(node, Next::Waiting, None),
            None => self.stop_with(node, Next::Waiting, None),
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
                let at = self.u(node).id.map_or(run, |id| (self.desired, id));
                let job = self.spawn(node, Job::Reload, at, "its inputs changed");
                self.enter(node, Phase::Reloading { job, again: false });
                self.deadline(node, spec.map_or(0, |s| s.reload_timeout));
            }
        }
    }

    fn reloaded(&mut self, node: Node, again: bool) {
        self.timers.clear(node, Timer::State);
        if let Some(service) = self.svc_mut(node) {
            if !again {
                service.loaded = service.inputs;
            }
            service.assumed = false;
            service.reload_failed = false;
        }
        self.enter(node, Phase::Ready);
    }

    fn reload_failed(&mut self, node: Node, why: &str) {
        self.timers.clear(node, Timer::State);
        if let Some(service) = self.svc_mut(node) {
            service.reload_failed = true;
        }
        self.details.insert(node, why.to_owned());
        let text = format!("{} {why}: it still runs with what it loaded before", self.address(node));
        self.log(Level::Error, Some(node), text);
        self.enter(node, Phase::Ready);
        self.apply_failure(node, why);
    }

    /// Asks a running service to stop.
    pub(crate) fn stop_with(&mut self, node: Node, next: Next, signal: Option<i32>) {
        let Some(service) = self.svc(node) else { return };
        let (serial, run, alive) = (service.serial, service.run, service.alive);
        let spec = run.and_then(|at| self.spec_at(at));
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::Watchdog);
        if self.holds.get(&node).is_some_and(|h| h.kind == HoldKind::Paused) {
            self.out.push(Effect::Freeze { serial, frozen: false });
        }
        self.service_step_taken(node);
        let Some(spec) = spec else {
            self.kill(node, next);
            return;
        };
        match (&spec.stop, signal, run) {
            (Some(_), None, Some(at)) => {
                self.spawn(node, Job::Stop, at, "asked to stop");
            }
            (_, signal, _) => {
                // Without a main process (a forked daemon that nobody named) the whole cgroup is signalled.
                let signal = signal.unwrap_or(spec.stop_signal);
                if alive || matches!(spec.ready, Ready::Forked) {
                    self.out.push(Effect::Signal { serial, signal });
                }
            }
        }
        self.enter(node, Phase::Stopping { next, killed: false, stuck: false });
        // No time-out means the default one: a stop that can hang for ever would hang the shutdown.
        let timeout = if spec.stop_timeout == 0 { 10_000 } else { spec.stop_timeout };
        self.deadline(node, timeout);
    }

    fn kill(&mut self, node: Node, next: Next) {
        let Some(service) = self.svc(node) else { return };
        let serial = service.serial;
        self.out.push(Effect::Kill { serial });
        self.enter(node, Phase::Stopping { next, killed: true, stuck: false });
        self.deadline(node, 10_000);
    }

    /// The main process is gone; what it left in its cgroup goes too.
    fn clear_out(&mut self, node: Node, next: Next) {
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::Watchdog);
        if self.svc(node).is_some_and(|s| s.occupied) {
            self.kill(node, next);
        } else {
            self.enter(node, Phase::Stopping { next, killed: true, stuck: false });
            self.stopped_if_empty(node);
        }
    }

    fn end_side_jobs(&mut self, node: Node) {
        let side: Vec<u64> = self
            .serials
            .iter()
            .filter(|(_, (n, job))| *n == node && matches!(job, Job::AwaitPath | Job::Reload))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in side {
            self.serials.remove(&serial);
            self.out.push(Effect::Kill { serial });
        }
    }

    fn ended(&mut self, node: Node, exit: Exit) {
        if let Some(service) = self.svc_mut(node) {
            service.alive = false;
            service.exit = Some(exit);
        }
        self.timers.clear(node, Timer::Watchdog);
    }

    fn stopped_if_empty(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        if let (Phase::Stopping { next, .. }, false, false) = (service.phase, service.alive, service.occupied)
        {
            self.finish_stop(node, next);
        }
    }

    /// What follows a failure, as the restart policy says.
    fn after_failure(&self, node: Node) -> Next {
        match self.running_spec(node).map(|s| s.restart) {
            Some(Restart::Never) | None => Next::Failed,
            Some(Restart::Always | Restart::OnFailure) => self.if_not_held(node, Next::Backoff),
        }
    }

    fn finish_stop(&mut self, node: Node, next: Next) {
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::State);
        if let Some(service) = self.svc(node) {
            let serial = service.serial;
            self.serials.remove(&serial);
        }
        self.go_down(node);
        match next {
            Next::Down => self.enter(node, Phase::Down),
            Next::Waiting => self.enter(node, Phase::Waiting),
            Next::Failed => {
                self.enter(node, Phase::Failed);
                self.apply_failure(node, "failed");
            }
            Next::Done => self.enter(node, Phase::Done),
            Next::Backoff => self.back_off(node),
        }
        self.enqueue(node);
    }

    fn back_off(&mut self, node: Node) {
        let Some(spec) = self.running_spec(node) else { return };
        let now = self.now;
        let Some(service) = self.svc_mut(node) else { return };
        // Health is judged here, at the exit, so that it needs no timer.
        let healthy = service.ready_at.0 != 0 && now >= service.ready_at.after_ms(spec.healthy);
        if healthy {
            service.tries = 0;
        }
        service.ready_at = super::Mono(0);
        service.tries += 1;
        service.restarts += 1;
        service.strikes = service.strikes.saturating_add(1);
        let (tries, strikes) = (service.tries, service.strikes);
        if spec.restart_limit > 0 && tries > spec.restart_limit {
            let text =
                format!("{} failed: {} restarts were not enough", self.address(node), spec.restart_limit);
            self.log(Level::Error, Some(node), text);
            self.enter(node, Phase::Failed);
            self.apply_failure(node, "failed");
            return;
        }
        let delay = if tries == 1 {
            0
        } else {
            let doubled = spec.restart_delay.saturating_mul(1u64.checked_shl(tries - 2).unwrap_or(u64::MAX));
            doubled.min(spec.restart_max)
        };
        if strikes >= 3 {
            self.apply_failure(node, "had to be restarted three times");
        }
        if delay == 0 {
            self.enter(node, Phase::Waiting);
        } else {
            let until = self.now.after_ms(delay);
            self.enter(node, Phase::Backoff { until });
            self.timers.set(node, Timer::State, until);
        }
    }

    fn deadline(&mut self, node: Node, ms: u64) {
        self.globals_changed = true;
        if ms == 0 {
            self.timers.clear(node, Timer::State);
        } else {
            self.timers.set(node, Timer::State, self.now.after_ms(ms));
        }
    }

    pub(crate) fn enter(&mut self, node: Node, phase: Phase) {
        let now = self.now;
        let Some(service) = self.svc_mut(node) else { return };
        service.phase = phase;
        service.since = now;
        let word = self.state_word(node);
        self.publish(node, word);
        self.enqueue(node);
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
            Switch::Reload => {
                self.run_desired(node);
                if let Some(service) = self.svc_mut(node) {
                    service.reload_asked = true;
                    service.reload_failed = false;
                }
            }
            Switch::Restart => self.m(node).set(bits::BOUNCE, true),
            Switch::StopStart => {
                self.m(node).set(bits::BOUNCE | bits::STOP_FIRST, true);
                for (dep, kind) in self.made_deps(node) {
                    if hard(kind) {
                        self.m(dep).blocked += 1;
                    }
                }
            }
        }
    }

    /// The running process counts as started from the desired specification.
    pub(crate) fn run_desired(&mut self, node: Node) {
        let Some(id) = self.u(node).id else { return };
        let desired = self.desired;
        let Some(old) = self.svc(node).and_then(|s| s.run) else { return };
        self.retain(desired);
        if let Some(service) = self.svc_mut(node) {
            service.run = Some((desired, id));
        }
        self.release(old.0);
    }
}

/// Whether an exit counts as clean.
fn is_clean(spec: &Spec, exit: Exit) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || spec.success.contains(&code),
        Exit::Signal(signal) => signal == spec.stop_signal && spec.ready != Ready::Exited,
    }
}
