//! Services: the one way out of a process, from being asked to stop to what comes next.

use units::kind::service::{Ready, Restart};

use super::effect::{Effect, Job, Level};
use super::event::Exit;
use super::timer::Timer;
use super::unit::{Next, Phase, bits};
use super::{Engine, Node};

impl Engine {
    /// Asks a running service to stop.
    pub(crate) fn stop_with(&mut self, node: Node, next: Next, signal: Option<i32>, cause: &str) {
        self.publish(node, format!("stopping: {cause}"));
        let Some(service) = self.svc(node) else { return };
        let (serial, run, alive) = (service.serial, service.run, service.alive);
        let spec = run.and_then(|at| self.spec_at(at));
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::Watchdog);
        if self.is_paused(node) {
            self.out.push(Effect::Freeze { serial, frozen: false });
        }
        self.service_step_taken();
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

    /// The stop command did not do it: the signal that its users would send.
    pub(crate) fn signal_stop(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        let (serial, occupied) = (service.serial, service.alive || service.occupied);
        if occupied && let Some(spec) = self.running_spec(node) {
            self.out.push(Effect::Signal { serial, signal: spec.stop_signal });
        }
    }

    pub(crate) fn kill(&mut self, node: Node, next: Next) {
        let Some(service) = self.svc(node) else { return };
        let serial = service.serial;
        self.end_side_jobs(node);
        self.enter(node, Phase::Stopping { next, killed: true, stuck: false });
        if self.svc(node).is_some_and(|s| !s.alive && !s.occupied) {
            // Only its stop command was left.
            self.finish_stop(node, next);
            return;
        }
        self.out.push(Effect::Kill { serial });
        self.deadline(node, 10_000);
    }

    /// The main process is gone; what it left in its cgroup goes too.
    pub(crate) fn clear_out(&mut self, node: Node, next: Next) {
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::Watchdog);
        if self.svc(node).is_some_and(|s| s.occupied) {
            self.kill(node, next);
        } else {
            self.enter(node, Phase::Stopping { next, killed: true, stuck: false });
            self.stopped_if_empty(node);
        }
    }

    pub(crate) fn end_side_jobs(&mut self, node: Node) {
        let Some(service) = self.svc_mut(node) else { return };
        for serial in std::mem::take(&mut service.side) {
            self.end_serial(serial);
            self.globals_changed = true;
            self.out.push(Effect::Kill { serial });
        }
    }

    pub(crate) fn ended(&mut self, node: Node, exit: Exit) {
        if let Some(service) = self.svc_mut(node) {
            service.alive = false;
            service.exit = Some(exit);
        }
        self.timers.clear(node, Timer::Watchdog);
    }

    pub(crate) fn is_occupied(&self, node: Node) -> bool {
        self.svc(node).is_some_and(|s| s.occupied)
    }

    pub(crate) fn stopped_if_empty(&mut self, node: Node) {
        let Some(service) = self.svc(node) else { return };
        // A stop command may still be cleaning up; the deadline is the same for both.
        let idle = !service.alive && !service.occupied && service.side.is_empty();
        if let (Phase::Stopping { next, .. }, true) = (service.phase, idle) {
            self.finish_stop(node, next);
        }
    }

    /// What follows a failure, as the restart policy says.
    pub(crate) fn after_failure(&self, node: Node) -> Next {
        match self.running_spec(node).map(|s| s.restart) {
            Some(Restart::Never) | None => Next::Failed,
            Some(Restart::Always | Restart::OnFailure) => self.if_not_held(node, Next::Backoff),
        }
    }

    pub(crate) fn finish_stop(&mut self, node: Node, next: Next) {
        self.end_side_jobs(node);
        self.timers.clear(node, Timer::State);
        self.timers.clear(node, Timer::Watchdog);
        if let Some(service) = self.svc(node) {
            let serial = service.serial;
            self.end_serial(serial);
            self.globals_changed = true;
        }
        self.go_down(node);
        // What starts next starts from the desired specification, and what has ended for good is held to it.
        if self.runs_as_desired(node) {
            self.run_desired(node);
        } else if self.u(node).has(bits::KEEP) {
            self.m(node).set(bits::KEEP, false);
            self.m(node).set(bits::BOUNCE, matches!(next, Next::Failed | Next::Done | Next::Backoff));
        }
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

    pub(crate) fn back_off(&mut self, node: Node) {
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
        if let Some(service) = self.svc_mut(node) {
            service.restarts += 1;
        }
        if let Some(exit) = self.svc(node).and_then(|s| s.exit) {
            let text = format!("{} {exit}, and is restarted", self.address(node));
            self.log(Level::Warning, Some(node), text);
        }
        self.disturbed(node);
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

    pub(crate) fn deadline(&mut self, node: Node, ms: u64) {
        self.globals_changed = true;
        if ms == 0 {
            self.timers.clear(node, Timer::State);
        } else {
            self.timers.set(node, Timer::State, self.now.after_ms(ms));
        }
    }

    /// The phase's deadline is at least so far away; one that is later, or none, stays.
    pub(crate) fn extend(&mut self, node: Node, ms: u64) {
        let later = self.now.after_ms(ms);
        if self.timers.get(node, Timer::State).is_some_and(|at| at < later) {
            self.timers.set(node, Timer::State, later);
            self.globals_changed = true;
        }
    }

    pub(crate) fn enter(&mut self, node: Node, phase: Phase) {
        let now = self.now;
        if matches!(phase, Phase::Down | Phase::Waiting) {
            self.m(node).set(bits::BOUNCE | bits::KEEP, false);
        }
        if matches!(phase, Phase::Down | Phase::Waiting | Phase::Backoff { .. })
            && let Some((manifest, _)) = self.svc_mut(node).and_then(|s| s.run.take())
        {
            self.release(manifest);
        }
        let Some(service) = self.svc_mut(node) else { return };
        service.phase = phase;
        service.since = now;
        let word = self.state_word(node);
        self.publish(node, word);
        self.enqueue(node);
    }
}
