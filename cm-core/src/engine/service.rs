//! Services: the table of fact × phase (semantics §3). Conditions are in `running`, the way out in `stopping`.

use std::sync::Arc;

use units::UnitId;
use units::kind::service::{Ready, Restart, Service as Spec};

use super::effect::{Job, Level};
use super::event::Exit;
use super::timer::Timer;
use super::unit::{Next, Phase, Service, State};
use super::{Engine, Node};
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
    /// It says that it is broken.
    Broken,
    /// It asked for more time: so many milliseconds from now.
    Extended(u64),
    /// It gave its watchdog another interval, in milliseconds.
    WatchdogSet(u64),
    /// Its main process ended.
    Exited(Exit),
    /// Nothing is left in its cgroup.
    Empty,
    /// The deadline of its phase has passed.
    Deadline,
    /// The path of `ready = "path=…"` is there.
    PathSeen,
    /// The helper that waits for that path failed.
    PathFailed,
    /// The reload command ended with 0, or not.
    ReloadEnded { serial: u64, ok: bool },
}

/// ENOENT, EACCES, EPERM, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG, ENOEXEC, E2BIG, EINVAL, ERANGE and EOPNOTSUPP of settings that
/// are refused, and ESRCH for a user or group that does not exist: the same again will fail again.
const HOPELESS: [i32; 13] = [2, 13, 1, 20, 21, 40, 36, 8, 7, 22, 34, 95, 3];
/// What is said of a service that is stuck.
pub(crate) const NOT_KILLED: &str = "does not end although it was killed";
/// The signal that a missed watchdog sends: SIGABRT, as its users know it from systemd.
const SIGABRT: i32 = 6;

/// Most specifications that are remembered: with more services, those that begin at once are as many as that.
const SPECS: usize = 256;

/// A specification, and where it stands.
pub(crate) type SpecAt = ((ManifestRef, UnitId), Arc<Spec>);

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
        // Where the shell has words for it, a number says nothing to anybody.
        let told = stage.ends_with(')') || stage.contains(": ");
        let why = if told { stage.to_owned() } else { format!("{stage} (errno {errno})") };
        let text = format!("cannot start {}: {why}", self.address(node));
        self.log(Level::Error, Some(node), text);
        self.set_detail(node, why);
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

    /// A helper says why it fails; what its exit means uses the words.
    pub(crate) fn explained(&mut self, serial: u64, why: String) {
        let Some((node, job)) = self.serials.get(&serial).copied() else { return };
        match job {
            Job::Mount | Job::Unmount | Job::Module => self.helper_explained(node, why),
            Job::Exec | Job::Undo => self.command_explained(node, why),
            Job::Main | Job::Reload | Job::Stop | Job::AwaitPath | Job::Unless => {}
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
                self.side_ended(node, serial);
                self.fact_of(node, Fact::ReloadEnded { serial, ok });
            }
            Job::Stop => {
                self.side_ended(node, serial);
                if !ok {
                    let text = format!("stop command of {} {exit}", self.address(node));
                    self.log(Level::Warning, Some(node), text);
                    self.signal_stop(node);
                }
                self.stopped_if_empty(node);
            }
            Job::AwaitPath => {
                self.side_ended(node, serial);
                self.fact_of(node, if ok { Fact::PathSeen } else { Fact::PathFailed });
            }
            Job::Mount | Job::Unmount => self.mount_job_ended(node, serial, job, exit),
            Job::Module | Job::Unless | Job::Exec | Job::Undo => {
                self.latch_job_ended(node, serial, job, exit)
            }
        }
        self.globals_changed = true;
        self.enqueue(node);
    }

    fn side_ended(&mut self, node: Node, serial: u64) {
        self.end_serial(serial);
        if let Some(service) = self.svc_mut(node) {
            service.side.retain(|s| *s != serial);
        }
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

    pub(crate) fn spec_at(&self, at: (ManifestRef, UnitId)) -> Option<Arc<Spec>> {
        let mut last = self.last_specs.borrow_mut();
        // The one that is asked for is mostly that of the last time.
        if let Some((_, spec)) = last.iter().rev().find(|(of, _)| *of == at) {
            return Some(Arc::clone(spec));
        }
        let spec: Arc<Spec> = Arc::from(self.manifest_of(at.0)?.service(at.1)?);
        if last.len() == SPECS {
            last.clear();
        }
        last.push((at, Arc::clone(&spec)));
        Some(spec)
    }

    /// The specification that the process runs with; before a start, the desired one.
    pub(crate) fn running_spec(&self, node: Node) -> Option<Arc<Spec>> {
        match self.svc(node)?.run {
            Some(at) => self.spec_at(at),
            None => self.desired_spec(node),
        }
    }

    pub(crate) fn desired_spec(&self, node: Node) -> Option<Arc<Spec>> {
        self.spec_at((self.desired, self.u(node).id()?))
    }

    pub(crate) fn is_oneshot(&self, node: Node) -> bool {
        self.running_spec(node).is_some_and(|s| s.ready == Ready::Exited)
    }

    /// The table: every fact in every phase.
    pub(crate) fn happen(&mut self, node: Node, fact: Fact) {
        let Some(service) = self.svc(node) else { return };
        let phase = service.phase;
        match (fact, phase) {
            (Fact::Spawned, Phase::Starting) => {
                if self.running_spec(node).is_some_and(|s| s.ready == Ready::Started) {
                    self.become_ready(node);
                }
            }
            // The path of `ready = "path=…"` may be seen before the spawn is confirmed.
            (Fact::Spawned, Phase::Stopping { .. } | Phase::Ready | Phase::Reloading { .. }) => {}

            (
                Fact::SpawnFailed { retry },
                Phase::Starting | Phase::Ready | Phase::Reloading { .. } | Phase::Stopping { .. },
            ) => {
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
            (Fact::Ready, Phase::Reloading { job: 0, inputs }) => self.reloaded(node, inputs),
            // A service may say READY=1 as often as it likes; a reload by command ends with the command.
            (Fact::Ready, Phase::Ready | Phase::Reloading { .. } | Phase::Stopping { .. }) => {}

            (Fact::PathSeen, Phase::Starting) => self.become_ready(node),
            (Fact::PathFailed, Phase::Starting) => {
                self.set_detail(node, "its path cannot be waited for".to_owned());
                let next = self.after_failure(node);
                self.stop_with(node, next, None, "its path cannot be waited for");
            }
            (
                Fact::PathSeen | Fact::PathFailed,
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
                // What restarts it is not loaded by a reload, and what is not in place yet is not loaded either.
                let inputs = match self.svc(node) {
                    Some(s) if self.gate_open(node) => (s.inputs.0, s.loaded.1),
                    Some(s) => s.loaded,
                    None => return,
                };
                self.enter(node, Phase::Reloading { job: 0, inputs });
                self.deadline(node, timeout);
            }
            (Fact::Reloading, Phase::Starting | Phase::Reloading { .. } | Phase::Stopping { .. }) => {}

            (Fact::Watchdog, Phase::Ready | Phase::Reloading { .. }) => self.arm_watchdog(node),
            (Fact::Watchdog, Phase::Starting | Phase::Stopping { .. }) => {}
            (Fact::WatchdogMissed, Phase::Ready | Phase::Reloading { .. })
            | (Fact::Broken, Phase::Starting | Phase::Ready | Phase::Reloading { .. }) => {
                let broken = fact == Fact::Broken;
                let what = if broken { "says that it is broken" } else { "gave no sign of life in time" };
                self.log(Level::Error, Some(node), format!("{} {what}", self.address(node)));
                let next = self.after_failure(node);
                let why = if broken { "it says that it is broken" } else { "no sign of life in time" };
                self.stop_with(node, next, Some(SIGABRT), why);
            }
            (Fact::Broken, Phase::Stopping { .. }) => {}
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

            (
                Fact::Extended(ms),
                Phase::Starting | Phase::Reloading { .. } | Phase::Stopping { killed: false, .. },
            ) => self.extend(node, ms),
            // Nothing runs out while it is ready; who was killed has had its time.
            (Fact::Extended(_), Phase::Ready | Phase::Stopping { killed: true, .. }) => {}
            (Fact::WatchdogSet(ms), Phase::Starting | Phase::Ready | Phase::Reloading { .. }) => {
                if let Some(service) = self.svc_mut(node) {
                    service.watchdog = Some(ms);
                }
                self.timers.clear(node, Timer::Watchdog);
                if phase != Phase::Starting {
                    self.arm_watchdog(node);
                }
            }
            (Fact::WatchdogSet(_), Phase::Stopping { .. }) => {}

            (Fact::Exited(exit), Phase::Starting) => {
                let Some(spec) = self.running_spec(node) else { return };
                let clean = is_clean(&spec, exit);
                self.ended(node, exit);
                match spec.ready {
                    // An empty cgroup was told first: it left no daemon behind.
                    Ready::Forked if exit == Exit::Code(0) && self.is_occupied(node) => {
                        self.become_ready(node)
                    }
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
                    // Nobody knows how it ended: it did not end because it was asked to.
                    let next = self.after_failure(node);
                    self.clear_out(node, next);
                }
            }

            (Fact::Deadline, Phase::Starting) => {
                let text = format!("{} was not ready in time", self.address(node));
                self.log(Level::Error, Some(node), text.clone());
                self.set_detail(node, "was not ready in time".to_owned());
                let next = self.after_failure(node);
                self.stop_with(node, next, None, "not ready in time");
            }
            (Fact::Deadline, Phase::Reloading { job, .. }) => {
                if job != 0 {
                    self.end_side_jobs(node);
                }
                self.reload_failed(node, "did not reload in time");
            }
            (Fact::Deadline, Phase::Stopping { next, killed: false, .. }) => self.kill(node, next),
            (Fact::Deadline, Phase::Stopping { next, killed: true, .. }) => {
                let text = format!("{} {NOT_KILLED}", self.address(node));
                self.log(Level::Error, Some(node), text);
                self.enter(node, Phase::Stopping { next, killed: true, stuck: true });
                self.apply_failure(node, NOT_KILLED);
            }
            (Fact::Deadline, Phase::Backoff { .. }) => self.enter(node, Phase::Waiting),
            (Fact::Deadline, Phase::Ready | Phase::Down | Phase::Waiting | Phase::Failed | Phase::Done) => {}

            (Fact::ReloadEnded { serial, ok }, Phase::Reloading { job, inputs }) if serial == job => {
                if ok {
                    self.reloaded(node, inputs);
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
                Fact::Spawned
                | Fact::SpawnFailed { .. }
                | Fact::Ready
                | Fact::Reloading
                | Fact::Watchdog
                | Fact::Broken
                | Fact::Extended(_)
                | Fact::WatchdogSet(_)
                | Fact::Exited(_)
                | Fact::Empty,
                Phase::Down | Phase::Waiting | Phase::Backoff { .. } | Phase::Failed | Phase::Done,
            ) => self.defect(node, &format!("{fact:?} without a process")),
        }
    }
}

/// Whether an exit counts as clean.
fn is_clean(spec: &Spec, exit: Exit) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || spec.success.contains(&code),
        Exit::Signal(signal) => signal == spec.stop_signal && spec.ready != Ready::Exited,
        // A crash that nobody saw must not pass for an orderly end.
        Exit::Unknown => false,
    }
}
