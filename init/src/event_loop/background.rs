//! What a boot has to do beside its services and nobody waits for yet: to look for drivers, to open the store, and to listen
//! for what is removed.
//!
//! The first two take longer than to start some dozens of services, so that they begin when the services that can start at once
//! have: when nothing has happened for a moment. On one processor they would take it away for a tick at a time.

use cm_core::engine::Mono;
use cm_core::engine::effect::Level;

use super::{Shell, now};

/// Nothing happens for so long before it begins.
const QUIET_MS: u64 = 5;
/// It begins after so long in any case.
const LATEST_MS: u64 = 50;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Background {
    /// The services that can start at once have not been started.
    #[default]
    Unasked,
    /// They may have more to start: not before the first moment, nor after the second.
    Waits(Mono, Mono),
    /// Nothing holds it up.
    Begun,
}

impl Background {
    fn after(at: Mono) -> Background {
        Background::Waits(at.after_ms(QUIET_MS), at.after_ms(LATEST_MS))
    }

    /// Something happens at this moment: more may come of it.
    fn put_off(&mut self, at: Mono) {
        if let Background::Waits(due, latest) = self {
            *due = at.after_ms(QUIET_MS).min(*latest);
        }
    }

    fn deadline(self) -> Option<Mono> {
        match self {
            Background::Waits(due, _) => Some(due),
            Background::Unasked | Background::Begun => None,
        }
    }
}

impl Shell {
    /// Nothing is left to do now. Answers whether what has time may begin.
    pub(super) fn may_begin_background(&mut self) -> bool {
        if self.background == Background::Unasked {
            let starts = self.spawns.iter().next().is_some() && self.leaving.is_none();
            self.background = if starts { Background::after(now()) } else { Background::Begun };
        }
        self.background == Background::Begun
    }

    /// Something has happened: more may come of it.
    pub(super) fn put_background_off(&mut self) {
        if self.background.deadline().is_some() {
            self.background.put_off(now());
        }
    }

    /// When it begins, if nothing happens.
    pub(super) fn background_deadline(&self) -> Option<Mono> {
        self.background.deadline()
    }

    /// Begins it when it is due.
    pub(super) fn background_if_due(&mut self, at: Mono) {
        if self.background_deadline().is_some_and(|due| due <= at) {
            self.background = Background::Begun;
        }
    }

    /// Has drivers looked for, which takes longer than to start everything that needs none of them.
    pub(super) fn coldplug_if_due(&mut self) {
        // What goes down needs no driver, and would wait for who looks for one.
        if !std::mem::take(&mut self.coldplug_due) || self.leaving.is_some() {
            return;
        }
        match crate::boot::coldplug() {
            Ok(spawned) => drop(self.own_started(spawned)),
            Err(e) => self.say(Level::Warning, None, &format!("cannot look for drivers: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_put_off_but_not_for_ever() {
        let at = |ms| Mono(0).after_ms(ms);
        let mut background = Background::after(at(100));
        assert_eq!(background.deadline(), Some(at(105)));
        for ms in 101..200 {
            background.put_off(at(ms));
        }
        assert_eq!(background.deadline(), Some(at(150)));
        let mut begun = Background::Begun;
        begun.put_off(at(300));
        assert_eq!((begun, begun.deadline()), (Background::Begun, None));
    }
}
