//! Fights: somebody changes again and again what is repaired (semantics §4).

use serde::{Deserialize, Serialize};

use super::effect::Level;
use super::latched::doubled;
use super::timer::Timer;
use super::unit::{Shown, Work};
use super::{CONTEST_FIRST_MS, CONTEST_MAX_MS, Engine, FIGHT_REPAIRS, FIGHT_WINDOW_MS, Mono, Node};

/// Repairs of one unit within the window, and how often it was contested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fight {
    pub since: Mono,
    pub repairs: u8,
    pub rounds: u8,
    /// Who was last seen changing it.
    pub culprit: Option<String>,
}

impl Engine {
    /// A contest ends when it is found right at last. Before that only the window counts: our own repair is an event
    /// too, and the check after it proves nothing about the other side.
    pub(super) fn end_contest(&mut self, node: Node) {
        if self.fights.get(&node).is_some_and(|f| f.rounds > 0) {
            self.fights.remove(&node);
        }
    }

    /// Counts a repair; too many in the window are a fight, and fighting on would help nobody.
    pub(super) fn repaired(&mut self, node: Node) {
        let now = self.now;
        let fight =
            self.fights.entry(node).or_insert(Fight { since: now, repairs: 0, rounds: 0, culprit: None });
        if fight.rounds == 0 && now > fight.since.after_ms(FIGHT_WINDOW_MS) {
            fight.since = now;
            fight.repairs = 0;
        }
        fight.repairs = fight.repairs.saturating_add(1);
        self.globals_changed = true;
        if fight.rounds == 0 && fight.repairs < FIGHT_REPAIRS {
            return;
        }
        fight.rounds = fight.rounds.saturating_add(1);
        let until = now.after_ms(doubled(CONTEST_FIRST_MS, fight.rounds, CONTEST_MAX_MS));
        let text = format!(
            "{} is contested: somebody keeps changing it; `initctl adopt {0}` takes their version, \
             `initctl hold {0} --for 1h` leaves it alone",
            self.address(node)
        );
        self.log(Level::Warning, Some(node), text);
        self.set_detail(node, "contested: somebody keeps changing it".to_owned());
        self.with_latch(node, |l| l.shown = Shown::NotKept);
        self.set_work(node, Work::Contested { until: until.into() });
        self.timers.set(node, Timer::State, until);
        self.publish(node, "not kept: contested");
    }

    /// Somebody was seen changing what is contested.
    pub(crate) fn culprit_seen(&mut self, node: Node, who: String) {
        if !self.is_contested(node) {
            return;
        }
        let Some(fight) = self.fights.get_mut(&node) else { return };
        if fight.culprit.as_ref() == Some(&who) {
            return;
        }
        fight.culprit = Some(who);
        let text = self.why(node);
        self.log(Level::Warning, Some(node), format!("{} is {text}", self.address(node)));
        self.publish(node, format!("not kept: {text}"));
    }
}
