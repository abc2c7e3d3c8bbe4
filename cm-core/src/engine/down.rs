//! The way down: everything is wanted down, and what does not go is left when its time is used up.

use super::effect::{Effect, Level, Verdict};
use super::event::Down;
use super::timer::Timer;
use super::unit::{MountPhase, NOBODY, Next, Phase, State, bits};
use super::{Engine, Mono, Node, SHUTDOWN_MS};

impl Engine {
    pub(crate) fn shutdown(&mut self, down: Down) {
        if self.down.is_some() {
            self.down = Some(down);
            return;
        }
        self.down = Some(down);
        self.globals_changed = true;
        self.log(Level::Notice, None, format!("going down: {down:?}"));
        self.abandon_apply("the machine goes down");
        self.timers.set(NOBODY, Timer::Shutdown, self.now.after_ms(SHUTDOWN_MS));
        for node in self.all() {
            self.rethink_want(node);
            self.enqueue(node);
        }
    }

    /// Patience is at its end, but for what uses the time that was declared for it.
    pub(crate) fn shutdown_timer(&mut self) {
        if self.stops_until().is_none() {
            // Something is stuck. What waits for that has done nothing wrong.
            for node in self.never_asked() {
                self.stop_with(node, Next::Down, None, "what should stop before it does not end");
            }
        }
        if let Some(until) = self.stops_until() {
            return self.timers.set(NOBODY, Timer::Shutdown, until);
        }
        let left: Vec<String> = self
            .all()
            .filter(|n| self.u(*n).has(bits::UP))
            .map(|n| self.address(n).to_string())
            .take(20)
            .collect();
        self.log(Level::Error, None, format!("leaving although these are not down: {}", left.join(", ")));
        self.leave();
    }

    /// Until when those that were asked to stop have time for it: the last of their deadlines.
    fn stops_until(&self) -> Option<Mono> {
        let stopping = |n: &Node| match &self.u(*n).state {
            State::Service(s) => matches!(s.phase, Phase::Stopping { .. }),
            State::Mount(m) => matches!(m.phase, MountPhase::Unmounting { .. }),
            State::Latch(_) | State::Target | State::Gone => false,
        };
        self.timers.all().filter(|(_, n, t)| *t == Timer::State && stopping(n)).map(|(at, _, _)| at).last()
    }

    /// Services that run on since something that should stop before them does not: those that no other of them uses.
    fn never_asked(&self) -> Vec<Node> {
        let waits = |n: &Node| {
            self.svc(*n).is_some_and(|s| s.running() && !matches!(s.phase, Phase::Stopping { .. }))
        };
        let all: Vec<Node> = self.all().filter(waits).collect();
        let used = |n: &&Node| self.running_rdeps(**n).iter().any(|(user, _)| waits(user));
        let first: Vec<Node> = all.iter().filter(|n| !used(n)).copied().collect();
        // Edges of several generations may lead in a circle.
        if first.is_empty() { all } else { first }
    }

    pub(crate) fn leave_if_down(&mut self) {
        if self.down.is_some() && !self.left && self.up == 0 && self.batch.is_none() && self.busy == 0 {
            self.leave();
        }
    }

    fn leave(&mut self) {
        if let (Some(down), false) = (self.down, self.left) {
            self.left = true;
            self.globals_changed = true;
            self.timers.clear(NOBODY, Timer::Shutdown);
            // What they wait for did not come in time.
            for ask in std::mem::take(&mut self.asks) {
                self.answer(ask.request, Verdict::Failed, "the machine goes down".to_owned());
            }
            self.out.push(Effect::Leave { down });
        }
    }
}
