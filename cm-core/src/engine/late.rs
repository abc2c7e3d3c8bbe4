//! Helpers and commands that do not end in time: they are killed, and one that even that does not end is given up, so that
//! nobody waits for ever.

use super::effect::{Effect, Job, Level};
use super::event::Exit;
use super::timer::Timer;
use super::unit::bits;
use super::{Engine, Node, SUSPECT_MS};

/// How a process ends that is killed.
pub(crate) const SIGKILL: i32 = 9;
/// Why what was killed at its time limit is not kept.
pub(crate) const TOO_LATE: &str = "did not end in time";
/// The same of what did not even end then: each try may leave one more process that nobody can kill.
const GIVEN_UP: &str = "did not end in time, and cannot be killed";

/// Whether something is not kept for that reason.
pub(crate) fn given_up(why: &str) -> bool {
    why == GIVEN_UP
}

impl Engine {
    /// What a unit has just begun may take so many milliseconds; 0 is no limit.
    pub(crate) fn limit(&mut self, node: Node, timeout: u64) {
        if timeout > 0 {
            self.timers.set(node, Timer::State, self.now.after_ms(timeout));
        } else {
            self.timers.clear(node, Timer::State);
        }
    }

    /// A helper or command of a unit is killed.
    pub(crate) fn kill_job(&mut self, node: Node, serial: u64) {
        self.m(node).set(bits::KILLED, true);
        self.out.push(Effect::Kill { serial });
        self.limit(node, SUSPECT_MS);
    }

    /// The time of a helper or command is over.
    pub(crate) fn job_late(&mut self, node: Node, serial: u64) {
        let Some((_, job)) = self.serials.get(&serial).copied() else { return };
        if self.u(node).has(bits::KILLED) {
            self.set_detail(node, GIVEN_UP.to_owned());
            return self.exited(serial, Exit::Signal(SIGKILL));
        }
        let what = match job {
            Job::Mount => "mounting ",
            Job::Unmount => "unmounting ",
            Job::Module => "loading ",
            Job::Main | Job::Reload | Job::Stop | Job::AwaitPath | Job::Unless | Job::Exec | Job::Undo => "",
        };
        let text = format!("{what}{} did not end in time: killed", self.address(node));
        self.log(Level::Error, Some(node), text);
        self.set_detail(node, TOO_LATE.to_owned());
        self.mark_outdated(node);
        self.kill_job(node, serial);
    }
}
