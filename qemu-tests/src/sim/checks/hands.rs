//! What people hold, what they fight over, and what is theirs.

use std::collections::VecDeque;

use cm_core::engine::{FIGHT_REPAIRS, FIGHT_WINDOW_MS};

use super::*;

/// What the observer remembers of that.
#[derive(Debug, Clone, Default)]
pub(super) struct Hands {
    /// Slot → until when it is held (`None` is without end), and whether it was on its way out by then.
    holds: BTreeMap<u8, (Option<Mono>, bool)>,
    /// Those that an apply under way has lifted: its return puts them back.
    lifted: BTreeMap<u8, (Option<Mono>, bool)>,
    /// Requests that lift them and have no answer yet.
    releasing: BTreeSet<u64>,
    /// What ended an apply in this step: whether it returned.
    ended: Option<bool>,
    /// Slot → when it was repaired in the last minute.
    repairs: BTreeMap<u8, VecDeque<Mono>>,
    /// Repairs of this step.
    repaired: Vec<u8>,
    /// For what is desired now.
    desired: Option<ManifestRef>,
    /// What was there before anybody declared it.
    foreign: BTreeSet<u8>,
}

/// A window of the engine may end just before the next begins: so many repairs can lie within one minute.
const MOST: usize = 2 * FIGHT_REPAIRS as usize;

impl Checks {
    /// Before a step: what a hand asks for, and what the worker has repaired.
    pub(super) fn by_hand(&mut self, engine: &Engine, world: &World, event: &Event) {
        let hands = &mut self.hands;
        hands.repaired.clear();
        // Who applies has it tried anew, whatever comes of that.
        if let Event::Swapped { kind: Swap::Apply | Swap::Rollback, .. } = event {
            hands.repairs.clear();
        }
        match event {
            Event::Asked { verb, node, until, .. } => {
                let slot = slot_of(&engine.address(*node));
                // A hand may have it looked at as often as it likes.
                hands.repairs.remove(&slot);
                if engine.going_down().is_some() || engine.is_gone(*node) {
                    return;
                }
                if !matches!(verb, Verb::Reload | Verb::Kill(_)) {
                    hands.lifted.remove(&slot);
                }
                match verb {
                    Verb::Stop | Verb::Pause | Verb::Hold => {
                        let open = world.work.iter().flat_map(super::super::world::Work::open);
                        let removed = open
                            .filter(|s| matches!(s.action, Action::Remove | Action::Restore))
                            .any(|s| world.slot(s.manifest, s.unit) == slot);
                        let late = removed || engine.glance(*node).leaving;
                        hands.holds.insert(slot, (*until, late));
                    }
                    Verb::Start | Verb::Restart | Verb::Resume | Verb::Release => {
                        hands.holds.remove(&slot);
                    }
                    Verb::Reload | Verb::Kill(_) => {}
                }
            }
            Event::Swapped { request, release: true, .. } => drop(hands.releasing.insert(*request)),
            Event::Results { batch, results } => {
                let Some((_, Intent::Correct, _)) = self.batch.as_ref().filter(|(n, _, _)| n == batch) else {
                    return;
                };
                let changed = results.iter().filter(|r| r.outcome == Outcome::Changed);
                hands.repaired = changed.map(|r| world.slot(r.manifest, r.unit)).collect();
            }
            _ => {}
        }
    }

    /// A swap was answered: whether the holds that it has lifted are to be as before follows from how.
    pub(super) fn lifts_end(&mut self, verdict: Verdict) {
        match verdict {
            // What it had lifted another one answers for.
            Verdict::Superseded => {}
            Verdict::Returned | Verdict::ReturnIncomplete => self.hands.ended = Some(true),
            Verdict::Done | Verdict::Failed => self.hands.ended = Some(false),
        }
        // One that has waited for that begins, and has what is contested tried anew.
        self.hands.repairs.clear();
    }

    /// After a step: what is held is held, what is fought over costs little, and what is not ours is there.
    pub(super) fn hands(&mut self, engine: &Engine, world: &World, now: Mono) -> Found {
        let hands = &mut self.hands;
        let desired = Some(engine.desired().0);
        if std::mem::replace(&mut hands.desired, desired) != desired {
            // Another declaration has its tries anew.
            hands.repairs.clear();
        }
        // What was about to be removed may be gone by the time that somebody holds it.
        let gone = |slot: &u8| engine.node_of_slot(*slot).is_none();
        let lasts = |slot: &u8, (until, late): &(Option<Mono>, bool)| {
            until.is_none_or(|u| u > now) && !(*late && gone(slot))
        };
        hands.holds.retain(|slot, hold| lasts(slot, hold));
        hands.lifted.retain(|slot, hold| lasts(slot, hold));
        if !hands.releasing.is_empty() {
            let held = |slot: &u8| engine.node_of_slot(*slot).is_some_and(|n| engine.glance(n).held);
            let (stand, lifted) =
                std::mem::take(&mut hands.holds).into_iter().partition(|(slot, _)| held(slot));
            hands.holds = stand;
            hands.lifted.extend::<BTreeMap<_, _>>(lifted);
        }
        let at_once = |request: &u64| engine.applying().is_none() && self.answers.lasts(*request);
        if hands.releasing.iter().any(at_once) {
            // What is current was applied again: nothing returns to what was held.
            hands.lifted.clear();
        }
        match hands.ended.take() {
            Some(true) => {
                // What was gone before it began, and is again, has nothing that could be held.
                let there = |slot: &u8, _: &mut (Option<Mono>, bool)| engine.node_of_slot(*slot).is_some();
                hands.lifted.retain(there);
                hands.holds.append(&mut hands.lifted);
            }
            Some(false) => hands.lifted.clear(),
            None => {}
        }
        hands.releasing.retain(|request| self.answers.lasts(*request));
        if engine.going_down().is_none() {
            for slot in hands.holds.keys() {
                let held = engine.node_of_slot(*slot).is_some_and(|n| engine.glance(n).held);
                if !held {
                    let text = format!("nobody has ended the hold on slot {slot}, and it is over");
                    return broken(Invariant::HoldsSurvive, text);
                }
            }
        }
        for slot in hands.repaired.drain(..) {
            let times = hands.repairs.entry(slot).or_default();
            times.push_back(now);
            while times.front().is_some_and(|at| at.after_ms(FIGHT_WINDOW_MS) < now) {
                times.pop_front();
            }
            if times.len() > MOST {
                let text = format!("slot {slot} was repaired {} times within a minute", times.len());
                return broken(Invariant::FightsBounded, text);
            }
        }
        for slot in &hands.foreign {
            if !world.things.get(slot).is_some_and(|t| t.adopted && t.like.is_some()) {
                let text = format!("slot {slot} was there before it was declared, and was taken away");
                return broken(Invariant::NothingForeignPurged, text);
            }
        }
        let adopted = world.things.iter().filter(|(_, t)| t.adopted && t.like.is_some());
        hands.foreign.extend(adopted.map(|(slot, _)| *slot));
        Ok(())
    }
}

/// Only what nobody declares any more is removed, and not while somebody holds it. What is declared may be put back as it
/// was when its hold is.
pub(super) fn may_purge(engine: &Engine, node: Option<Node>, action: Action) -> Found {
    let Some(node) = node else { return Ok(()) };
    let glance = engine.glance(node);
    let declared = !glance.leaving && action == Action::Remove;
    if declared || (glance.leaving && glance.held && engine.going_down().is_none()) {
        let why = if declared { "declared" } else { "held" };
        let text = format!("{} is removed, and is {why}", engine.address(node));
        return broken(Invariant::NothingForeignPurged, text);
    }
    Ok(())
}
