//! What is counted and listed along the way, so that no event looks through all units: as what each counts in the last
//! line of a change, and who stands where some event has to look.
//!
//! All of it follows from the units and is in no record.

use std::collections::{BTreeMap, BTreeSet};

use super::blame::FLAPS;
use super::effect::Tally;
use super::unit::{MountPhase, Phase, Shown, State, Want, Work, bits};
use super::{Engine, Node};

/// As what a unit is counted in the last line of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Kept = 1,
    Changed,
    Repaired,
    NotKept,
    Held,
    Waiting,
}

/// Units by what an event may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// Wanted up and not ok, and not held.
    pub bad: BTreeSet<Node>,
    /// Of those, the ones that the apply under way answers for.
    pub guilty: BTreeSet<Node>,
    /// Counted as not kept.
    pub not_kept: BTreeSet<Node>,
    /// Busy, and restarted so often that an apply may have to go on without it.
    pub tired: BTreeSet<Node>,
    /// Marked by an apply.
    pub marked: BTreeSet<Node>,
    /// Whoever has applied what is current waits for them.
    pub awaited: BTreeSet<Node>,
    /// Of those, the ones of which nobody can tell whether they ever end.
    pub late: BTreeSet<Node>,
    /// What it has started.
    pub raised: BTreeSet<Node>,
    /// Those that it waits for and that something has happened to in this step, and what has fallen that it has started;
    /// empty between two.
    pub ending: BTreeSet<Node>,
    /// Going, and up yet.
    pub going: BTreeSet<Node>,
    /// To be removed once what it lies on is mounted.
    pub deferred: BTreeSet<Node>,
    /// Cannot tell what to do before the store is open.
    pub for_store: BTreeSet<Node>,
    /// (who waits for a claim, whose claim): [`Engine::claims`] the other way round.
    pub takers: BTreeSet<(Node, Node)>,
    /// How many of those that a unit will depend on have their running edges in an earlier manifest yet; none is left
    /// out.
    pub behind: BTreeMap<Node, u32>,
    /// How many units have each standing; the first place is of those that have none yet.
    pub counts: [u32; 7],
}

fn enter(list: &mut BTreeSet<Node>, node: Node, on: bool) {
    if on {
        list.insert(node);
    } else {
        list.remove(&node);
    }
}

impl Engine {
    /// Counts of all units, as of their last look.
    pub fn tally(&self) -> Tally {
        let [_, kept, changed, repaired, not_kept, held, waiting] = self.lists.counts;
        Tally { kept, changed, repaired, not_kept, held, waiting }
    }

    /// How many units and edges were looked at so far: a measure of work that does not depend on the machine.
    pub fn work(&self) -> u64 {
        self.work.get()
    }

    /// What travels along the edges of a unit, as bits: for whoever compares what was with what is.
    pub fn levels(&self, node: Node) -> u32 {
        self.u(node).bits & (bits::OK | bits::READY | bits::SETTLED | bits::GOING)
    }

    /// Whether something that an apply has marked is still to be done although that is over.
    pub fn is_unfinished(&self) -> bool {
        self.apply.is_none() && !self.lists.marked.is_empty()
    }

    /// So many units or edges were looked at.
    pub(crate) fn looked(&self, many: usize) {
        self.work.set(self.work.get().wrapping_add(many as u64));
    }

    /// Sets or clears what an apply marks units with.
    pub(crate) fn mark(&mut self, node: Node, marks: u32, on: bool) {
        let before = self.u(node).bits;
        if before & marks == if on { marks } else { 0 } {
            return;
        }
        self.m(node).set(marks, on);
        let marked = self.u(node).has(bits::OF_APPLY);
        enter(&mut self.lists.marked, node, marked);
        // What is intended is counted otherwise, and what the apply answers for may make it return.
        self.mark_outdated(node);
    }

    /// Its predicates were brought up to date: so are the lists and the count.
    pub(crate) fn list(&mut self, node: Node, bad: bool) {
        let unit = self.u(node);
        let (was_bad, before) = (unit.has(bits::BAD), unit.bits >> bits::STANDING & 7);
        let service = matches!(unit.state, State::Service(_));
        let gone = matches!(unit.state, State::Gone);
        let after = if gone { 0 } else { self.standing(node) as u32 };
        if service {
            let tired = self.u(node).has(bits::BUSY) && self.svc(node).is_some_and(|s| s.tries >= FLAPS);
            enter(&mut self.lists.tired, node, tired);
        }
        if self.u(node).has(bits::AWAITED | bits::RAISED) {
            let awaited = self.u(node).has(bits::AWAITED);
            let late = awaited && self.may_never_end(node);
            enter(&mut self.lists.late, node, late);
            enter(&mut self.lists.ending, node, awaited || bad);
        }
        let going = self.u(node).has(bits::GOING) && self.u(node).has(bits::UP);
        enter(&mut self.lists.going, node, going && !gone);
        if was_bad != bad {
            enter(&mut self.lists.bad, node, bad);
        }
        if was_bad || bad {
            let guilty = bad && self.is_to_blame(node);
            enter(&mut self.lists.guilty, node, guilty);
        }
        if before != after {
            enter(&mut self.lists.not_kept, node, after == Standing::NotKept as u32);
            self.count_as(before, after);
        }
        let unit = self.derived(node);
        unit.set(bits::BAD, bad);
        unit.set(7 << bits::STANDING, false);
        unit.set(after << bits::STANDING, true);
    }

    fn count_as(&mut self, before: u32, after: u32) {
        if let Some(count) = self.lists.counts.get_mut(before as usize).filter(|_| before > 0) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.lists.counts.get_mut(after as usize).filter(|_| after > 0) {
            *count += 1;
        }
    }

    /// The unit is about to be gone.
    pub(crate) fn unlist(&mut self, node: Node) {
        self.count_as(self.u(node).bits >> bits::STANDING & 7, 0);
        let lists = &mut self.lists;
        for list in [
            &mut lists.bad,
            &mut lists.guilty,
            &mut lists.not_kept,
            &mut lists.tired,
            &mut lists.marked,
            &mut lists.awaited,
            &mut lists.late,
            &mut lists.raised,
            &mut lists.ending,
            &mut lists.going,
            &mut lists.deferred,
            &mut lists.for_store,
        ] {
            list.remove(&node);
        }
    }

    /// As what a unit is counted.
    pub(crate) fn standing(&self, node: Node) -> Standing {
        let unit = self.u(node);
        if self.holds.contains_key(&node) {
            return Standing::Held;
        }
        match &unit.state {
            State::Latch(l) => match (l.work, l.shown) {
                (_, Shown::NotKept) => Standing::NotKept,
                (Work::Waiting | Work::Deferred, _) => Standing::Waiting,
                (_, Shown::Changed) => Standing::Changed,
                (_, Shown::Repaired) => Standing::Repaired,
                (_, Shown::Unknown | Shown::Kept | Shown::Drifted) => Standing::Kept,
            },
            State::Service(s) => match s.phase {
                Phase::Failed | Phase::Backoff { .. } => Standing::NotKept,
                Phase::Waiting => Standing::Waiting,
                // An apply under way has brought it, or another specification of it.
                Phase::Starting | Phase::Ready | Phase::Reloading { .. } | Phase::Done
                    if unit.has(bits::INTENDED) =>
                {
                    Standing::Changed
                }
                Phase::Down
                | Phase::Starting
                | Phase::Ready
                | Phase::Reloading { .. }
                | Phase::Stopping { .. }
                | Phase::Done => Standing::Kept,
            },
            State::Mount(m) => match m.phase {
                MountPhase::Backoff { .. } | MountPhase::Stuck => Standing::NotKept,
                MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Mounting { .. }
                | MountPhase::Up
                | MountPhase::Remounting { .. }
                | MountPhase::Unmounting { .. }
                    if unit.want == Want::Up && !unit.has(bits::OK) =>
                {
                    Standing::Waiting
                }
                MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Mounting { .. }
                | MountPhase::Up
                | MountPhase::Remounting { .. }
                | MountPhase::Unmounting { .. } => Standing::Kept,
            },
            State::Target if unit.want == Want::Up && !unit.has(bits::OK) => Standing::Waiting,
            State::Target | State::Gone => Standing::Kept,
        }
    }
}
