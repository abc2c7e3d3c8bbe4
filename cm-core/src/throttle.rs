//! How much may be heard of one inotify instance. Pure; PID 1 asks it after every read.
//!
//! Who may write into a watched directory can make events as fast as he likes. Beyond a budget nothing is read any more
//! for a while: the kernel's queue fills, and overflows, at nobody's cost; then it is emptied unread, and what is
//! watched there is looked at once. While that goes on the pauses become longer.
//!
//! **Invariant:** a pause has an end, and what came in it is looked at then: a change may be seen late, never not at
//! all.

use crate::engine::Mono;

/// The time in which events are counted: one second.
const PERIOD_MS: u64 = 1_000;
/// The first pause: a fifth of a second, so that a burst costs no more delay than some settling does.
const FIRST_MS: u64 = 200;
/// The longest pause: half a minute.
const LONGEST_MS: u64 = 30_000;
/// Who comes back within this time after a pause is still the same story: five minutes.
const STORY_MS: u64 = 300_000;

/// The budget of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// Events a period; more are too many.
    budget: u32,
    /// When the period began, and what was read in it.
    since: Mono,
    read: u32,
    /// The last pause: how long it was, and when it ends or ended.
    pause: u64,
    until: Mono,
    paused: bool,
    /// The pause is the first of its story.
    new: bool,
}

impl Throttle {
    /// So many events a second, and as many at once.
    pub const fn new(budget: u32) -> Throttle {
        Throttle { budget, since: Mono(0), read: 0, pause: 0, until: Mono(0), paused: false, new: false }
    }

    /// So many events were read, or some were lost. Answers whether nothing more is to be read for now.
    pub fn heard(&mut self, now: Mono, events: usize, lost: bool) -> bool {
        if self.paused {
            return true;
        }
        if now > self.since.after_ms(PERIOD_MS) {
            self.since = now;
            self.read = 0;
        }
        self.read = self.read.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        if self.read <= self.budget && !lost {
            return false;
        }
        self.new = self.pause == 0 || now > self.until.after_ms(STORY_MS);
        // Who comes back within the time that the last pause took goes on.
        let goes_on = self.pause > 0 && now <= self.until.after_ms(self.pause.max(PERIOD_MS));
        self.pause = if goes_on { (self.pause * 2).min(LONGEST_MS) } else { FIRST_MS };
        self.until = now.after_ms(self.pause);
        self.paused = true;
        true
    }

    /// Whether the pause under way is the first of its story: worth a word.
    pub const fn is_new(&self) -> bool {
        self.paused && self.new
    }

    /// When the pause ends; nothing when there is none.
    pub fn until(&self) -> Option<Mono> {
        self.paused.then_some(self.until)
    }

    /// Ends the pause if its time has come. The caller then empties the queue, and looks.
    pub fn resume(&mut self, now: Mono) -> bool {
        let over = self.paused && now >= self.until;
        if over {
            self.paused = false;
            self.since = now;
            self.read = 0;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Mono {
        Mono(0).after_ms(n)
    }

    #[test]
    fn what_is_within_the_budget_is_never_delayed() {
        let mut throttle = Throttle::new(100);
        for n in 0..1000 {
            assert!(!throttle.heard(ms(n * 20), 1, false));
        }
        assert_eq!(throttle.until(), None);
    }

    #[test]
    fn a_flood_is_paused_ever_longer_and_forgotten_when_it_ends() {
        let mut throttle = Throttle::new(100);
        let mut now = ms(5_000);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert!(throttle.heard(now, 101, false));
            let until = throttle.until().unwrap();
            pauses.push((until.0 - now.0) / 1_000_000);
            assert!(!throttle.resume(Mono(until.0 - 1)));
            now = until;
            assert_eq!(throttle.is_new(), pauses.len() == 1);
            assert!(throttle.resume(now));
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        // A flood that comes and goes has short pauses, and is told once.
        now = now.after_ms(30_001);
        assert!(throttle.heard(now, 101, false));
        assert_eq!((throttle.until(), throttle.is_new()), (Some(now.after_ms(FIRST_MS)), false));
        assert!(throttle.resume(now.after_ms(FIRST_MS)));
        now = now.after_ms(FIRST_MS + STORY_MS + 1);
        assert!(throttle.heard(now, 101, false));
        assert!(throttle.is_new());
    }

    #[test]
    fn a_loss_is_a_pause_whatever_the_budget() {
        let mut throttle = Throttle::new(u32::MAX);
        assert!(!throttle.heard(ms(1), 1_000_000, false));
        assert!(throttle.heard(ms(1), 1, true));
        assert_eq!(throttle.until(), Some(ms(201)));
    }

    proptest! {
        /// However events come, the looks that they cause are few, and every pause ends.
        #[test]
        fn nobody_causes_more_than_a_bounded_rate(steps in proptest::collection::vec((1u64..50, 0usize..500), 1..2000)) {
            let mut throttle = Throttle::new(100);
            let (mut now, mut events, mut looks) = (0u64, 0u64, 0u64);
            for (later, count) in steps {
                now += later;
                looks += u64::from(throttle.resume(ms(now)));
                if throttle.until().is_none() {
                    events += count as u64;
                    throttle.heard(ms(now), count, false);
                }
                prop_assert!(throttle.until().is_none_or(|u| u <= ms(now).after_ms(LONGEST_MS)));
            }
            // A look ends a pause of a fifth of a second at least; a pause is made by one read beyond the budget.
            prop_assert!(looks <= now / FIRST_MS + 1, "{looks} looks in {now} ms");
            prop_assert!(events <= (now / PERIOD_MS + looks + 2) * 100 + (looks + 1) * 500, "{events} in {now} ms");
        }
    }
}
