//! Faults that a test asks for: that init survives them can only be shown by having them.
//!
//! `HOLDFAST_TEST` in init's environment allows them and says which: `panic` or `segv`, then where: `first` (in the
//! first step of a round), `later` (in a later one), `after EFFECT` (carried out, and the state not yet written),
//! `of ADDRESS` (in every step of an event about that unit), `at EVENT` (in every step of an event that is written so), or
//! nothing (in a step of its own). SIGRTMIN+20 asks for one; `of` and `at` need no asking.

use cm_core::engine::effect::Effect;
use cm_core::engine::event::Event;

use super::Shell;
use crate::sys::raw;

/// The variable.
pub const VARIABLE: &str = "HOLDFAST_TEST";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Now,
    First,
    Later,
    After(String),
    Of(String),
    At(String),
}

/// Where init is to die, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    signal: bool,
    place: Place,
    /// Asked for.
    armed: bool,
    /// Steps of this round so far.
    steps: u32,
}

impl Fault {
    /// What the variable asks for.
    pub fn parse(text: &str) -> Fault {
        let mut words = text.splitn(3, ' ');
        let signal = words.next() == Some("segv");
        let place = match (words.next(), words.next()) {
            (Some("first"), _) => Place::First,
            (Some("later"), _) => Place::Later,
            (Some("after"), Some(effect)) => Place::After(effect.to_owned()),
            (Some("at"), Some(event)) => Place::At(event.to_owned()),
            (Some("of"), Some(address)) => Place::Of(address.to_owned()),
            _ => Place::Now,
        };
        Fault { signal, place, armed: false, steps: 0 }
    }
}

impl Shell {
    /// SIGRTMIN+20; answers whether faults are allowed at all.
    pub(super) fn arm_fault(&mut self) -> bool {
        if let Some(fault) = &mut self.fault {
            fault.armed = true;
            if fault.place == Place::Now {
                self.queue.push_back(Event::Tick);
            }
        }
        self.fault.is_some()
    }

    /// A round of steps begins.
    pub(super) fn fault_round(&mut self) {
        if let Some(fault) = &mut self.fault {
            fault.steps = 0;
        }
    }

    /// The place in a step.
    pub(super) fn fault_in_step(&mut self, event: &Event) {
        let Some(fault) = &mut self.fault else { return };
        fault.steps += 1;
        let (armed, steps) = (fault.armed, fault.steps);
        let now = match &fault.place {
            Place::Now => armed && *event == Event::Tick,
            Place::First => armed && steps == 1,
            Place::Later => armed && steps > 1,
            Place::After(_) => false,
            Place::At(name) => format!("{event:?}").starts_with(name.as_str()),
            // What init itself asks for is how it gets rid of the unit.
            Place::Of(_) if matches!(event, Event::Asked { request: 0, .. }) => false,
            Place::Of(address) => {
                let address = address.clone();
                self.units_of(event).iter().any(|n| self.engine.address(*n).to_string() == address)
            }
        };
        self.suffer(now);
    }

    /// Whether the place behind this effect is the one.
    pub(super) fn fault_after(&self, effect: &Effect) -> bool {
        self.fault.as_ref().is_some_and(|f| {
            f.armed
                && matches!(&f.place, Place::After(name) if format!("{effect:?}").starts_with(name.as_str()))
        })
    }

    /// Dies, if so.
    pub(super) fn suffer(&self, now: bool) {
        match &self.fault {
            Some(fault) if now && fault.signal => {
                let own = i32::try_from(std::process::id()).unwrap_or_default();
                drop(raw::kill(own, libc::SIGSEGV));
            }
            Some(_) if now => std::panic::resume_unwind(Box::new("asked for by a test")),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_how_and_where() {
        let of = |text| Fault::parse(text);
        assert_eq!((of("1").signal, of("1").place), (false, Place::Now));
        assert_eq!(of("panic first").place, Place::First);
        assert_eq!((of("segv later").signal, of("segv later").place), (true, Place::Later));
        assert_eq!(of("panic after Spawn").place, Place::After("Spawn".to_owned()));
        assert_eq!(of("panic at Swapped { request: 0").place, Place::At("Swapped { request: 0".to_owned()));
        assert_eq!(of("segv of file:/a b").place, Place::Of("file:/a b".to_owned()));
    }
}
