//! What a change took goes back once it is over: the log daemon gives back its memory, then PID 1. A start or a restart alone
//! leaves the pages of the program where they are: to bring them in again would make the next restart longer by half.
//!
//! Last of all before the wait, PID 1 leaves the pages of the program, its stack and the manifests: what it still did after
//! that would bring them back, a window of sixteen pages with each. So a moment of quiet comes first, in which whoever was
//! told something has done what follows from it; and whatever the engine is to do soon is awaited.

use cm_core::engine::Mono;

use super::{Shell, manifests, now};
use crate::log::protocol::Order;
use crate::sys::pages::{self, Program};

/// Quiet after the last worker has left.
const QUIET_MS: u64 = 500;
/// What the log daemon has to go to rest in, which wakes PID 1 once more.
const DAEMON_MS: u64 = 100;
/// A deadline that is nearer than this is awaited.
const SOON_MS: u64 = 10_000;

/// How far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Rest {
    /// Nothing has been changed since.
    #[default]
    Taken,
    /// The log daemon is to be told at this moment.
    Tell(Mono),
    /// It has been told, and this is the moment for PID 1.
    Leave(Mono),
}

impl Rest {
    /// When there is something to do.
    pub(super) fn deadline(self) -> Option<Mono> {
        match self {
            Rest::Taken => None,
            Rest::Tell(at) | Rest::Leave(at) => Some(at),
        }
    }
}

/// The step that is due, and the next one; `engine` is its next deadline.
fn next(rest: Rest, at: Mono, engine: Option<Mono>) -> Rest {
    match rest {
        Rest::Tell(due) | Rest::Leave(due) if at < due => rest,
        Rest::Tell(_) | Rest::Leave(_) if engine.is_some_and(|soon| soon < at.after_ms(SOON_MS)) => {
            Rest::Tell(engine.unwrap_or(at).max(at).after_ms(QUIET_MS))
        }
        Rest::Tell(_) => Rest::Leave(at.after_ms(DAEMON_MS)),
        Rest::Leave(_) | Rest::Taken => Rest::Taken,
    }
}

impl Shell {
    /// The last worker has left.
    pub(super) fn rest_soon(&mut self) {
        self.rest = Rest::Tell(now().after_ms(QUIET_MS));
    }

    /// Gives back what is due now. Answers what else goes, as the last thing before the wait for events.
    pub(super) fn rest_if_due(&mut self) -> Option<Program> {
        let due = self.rest.deadline()?;
        let at = now();
        if at < due {
            return None;
        }
        let after = next(self.rest, at, self.engine.next_deadline());
        match (std::mem::replace(&mut self.rest, after), after) {
            (Rest::Tell(_), Rest::Leave(_)) => {
                self.order(&Order::Rest, None);
                self.queue.rest();
                self.rest_live();
                self.watches.rest();
                pages::trim_heap();
            }
            (Rest::Leave(_), Rest::Taken) => {
                manifests::leave();
                return Some(Program::find());
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_taken_when_nothing_is_due_soon() {
        let tell = Rest::Tell(Mono(1_000_000));
        assert_eq!(next(tell, Mono(999_999), None), tell);
        let leave = next(tell, Mono(1_000_000), None);
        assert_eq!(leave, Rest::Leave(Mono(1_000_000).after_ms(DAEMON_MS)));
        assert_eq!(next(leave, Mono(1_000_000), None), leave);
        let at = leave.deadline().unwrap();
        assert_eq!(next(leave, at, Some(at.after_ms(SOON_MS))), Rest::Taken);
        // What is due soon brings everything back.
        let soon = at.after_ms(SOON_MS - 1);
        assert_eq!(next(leave, at, Some(soon)), Rest::Tell(soon.after_ms(QUIET_MS)));
        assert_eq!(next(tell, at, Some(Mono(5))), Rest::Tell(at.after_ms(QUIET_MS)));
    }
}
