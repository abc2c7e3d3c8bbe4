//! Claims: what no two units may have at once (a path, a uid, a terminal). Who newly takes one waits until whoever
//! gives it up has done so: "old down, then new up" (semantics §1).
//!
//! A unit gives a claim up by leaving, or by staying with another one: a service when its process has ended, a
//! latched unit when it is gone, or right as it is declared now. What cannot be removed yet, since its mount is absent
//! or somebody holds it, still has what it claims.

use std::collections::{BTreeMap, BTreeSet};

use units::address::Class;

use super::graph::{hard, soft};
use super::unit::{NOBODY, State, Work, bits};
use super::{Engine, Node};

/// Which claims change hands in a swap.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Claim → units that have it and shall not keep it.
    given: BTreeMap<u64, BTreeSet<Node>>,
    /// Units that did not have this claim before.
    taken: BTreeSet<(u64, Node)>,
    /// Units whose claim is another one than before.
    moved: BTreeSet<Node>,
}

impl Handover {
    /// A unit that had the one claim and is declared with the other; 0 is none.
    pub(crate) fn passes(&mut self, node: Node, before: u64, after: u64) {
        if before == after {
            return;
        }
        self.moved.insert(node);
        if before != 0 {
            self.given.entry(before).or_default().insert(node);
        }
        self.takes(node, after);
    }

    /// A unit of which it is not sure that it has what it is declared with.
    pub(crate) fn takes(&mut self, node: Node, claim: u64) {
        if claim != 0 {
            self.taken.insert((claim, node));
        }
    }
}

impl Engine {
    /// What a unit claims as it is declared; where it leaves, as it was made.
    fn claim_of(&self, node: Node) -> u64 {
        let (manifest, unit) = self.unit_of(node);
        self.manifest_of(manifest).map_or(0, |m| m.claim(unit))
    }

    /// What a unit claims as it is on the machine.
    pub(crate) fn held_claim(&self, node: Node) -> u64 {
        match self.svc(node).filter(|s| s.running()).and_then(|s| s.run) {
            Some((manifest, unit)) => self.manifest_of(manifest).map_or(0, |m| m.claim(unit)),
            None if self.u(node).has(bits::SHADE) => 0,
            None => self.claim_of(node),
        }
    }

    /// Whether a unit still has what it gives up.
    fn still_gives(&self, node: Node) -> bool {
        let unit = self.u(node);
        match &unit.state {
            State::Service(s) if unit.id().is_none() => s.running(),
            _ if unit.id().is_none() => !matches!(unit.state, State::Gone) && !unit.has(bits::SHADE),
            State::Service(s) => s.running() && self.held_claim(node) != self.claim_of(node),
            State::Latch(l) => unit.class() == Class::Committer && !l.right,
            State::Mount(_) | State::Target | State::Gone => false,
        }
    }

    /// Decides anew who waits for whom, once every unit has its place in the new manifest.
    pub(crate) fn hand_over(&mut self, mut handover: Handover) {
        let before = std::mem::take(&mut self.claims);
        self.lists.takers.clear();
        self.changed.extend(before.keys().copied());
        for node in self.all() {
            let claim = self.held_claim(node);
            if claim != 0 && (self.u(node).id().is_none() || claim != self.claim_of(node)) {
                handover.given.entry(claim).or_default().insert(node);
            }
        }
        for (holder, waiting) in before {
            for node in waiting {
                self.enqueue(node);
                let claim = self.claim_of(node);
                if self.u(node).id().is_none() || claim == 0 || handover.moved.contains(&node) {
                    continue;
                }
                handover.taken.insert((claim, node));
                // A latched unit was changed once already, and what it had then nobody says but this.
                if self.latch(holder).is_some() && self.claim_of(holder) != claim {
                    handover.given.entry(claim).or_default().insert(holder);
                }
            }
        }
        if handover.given.is_empty() {
            return;
        }
        for (claim, node) in handover.taken {
            for holder in handover.given.get(&claim).into_iter().flatten().copied() {
                let waits = holder != node
                    && self.still_gives(holder)
                    // What leaves or stops waits for nobody; a file may wait for the one that waits for it.
                    && !(self.stays_latched(holder) && self.waits_on(holder, node));
                if waits {
                    self.claims.entry(holder).or_default().push(node);
                    self.lists.takers.insert((node, holder));
                    self.changed.insert(holder);
                    self.enqueue(node);
                }
            }
        }
    }

    fn stays_latched(&self, node: Node) -> bool {
        self.u(node).id().is_some() && self.latch(node).is_some()
    }

    /// Whether a unit cannot get where it shall be before another one is there.
    fn waits_on(&self, node: Node, other: Node) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![node];
        while let Some(at) = open.pop() {
            if at == other {
                return true;
            }
            if seen.insert(at) {
                open.extend(self.deps(at).iter().filter(|(_, k)| hard(*k) || soft(*k)).map(|(d, _)| *d));
                open.extend(self.holders_before(at));
            }
        }
        false
    }

    /// A unit has given up what it had: whoever waits for that may go on.
    pub(crate) fn give_up(&mut self, node: Node) {
        let Some(waiting) = self.claims.remove(&node) else { return };
        self.changed.insert(node);
        for waiting in waiting {
            self.lists.takers.remove(&(waiting, node));
            self.unblock(waiting);
        }
    }

    /// The unit is gone, and waits for nothing any more.
    pub(crate) fn forget_claims(&mut self, node: Node) {
        self.give_up(node);
        let holders: Vec<Node> = self.holders_before(node).collect();
        for holder in holders {
            self.lists.takers.remove(&(node, holder));
            self.changed.insert(holder);
            if let Some(waiting) = self.claims.get_mut(&holder) {
                waiting.retain(|n| *n != node);
                if waiting.is_empty() {
                    self.claims.remove(&holder);
                }
            }
        }
    }

    /// Those whose claims a unit waits for.
    fn holders_before(&self, node: Node) -> impl Iterator<Item = Node> {
        self.lists.takers.range((node, Node(0))..=(node, NOBODY)).map(|(_, holder)| *holder)
    }

    /// Whose claim a unit waits for.
    pub fn waits_for_claim(&self, node: Node) -> Option<Node> {
        if self.counters(node).blocked == 0 {
            return None;
        }
        self.holders_before(node).next()
    }

    /// Whether a unit waits for a claim that is not given up by itself: the other one is held, keeps its old process
    /// by its own declaration, or cannot be made right.
    pub(crate) fn claim_is_stuck(&self, node: Node) -> bool {
        let Some(holder) = self.waits_for_claim(node) else { return false };
        let unit = self.u(holder);
        let service = self.svc(holder).is_some();
        let deferred = self.latch(holder).is_some_and(|l| l.work == Work::Deferred);
        // A service that leaves gives it up with its process, held or not.
        deferred
            || (self.is_left_behind(holder) && !service)
            || unit.id().is_some()
                && (self.left_alone(holder)
                    || (service && unit.has(bits::KEEP))
                    || (!service && unit.has(bits::SETTLED) && !unit.has(bits::OK)))
    }

    /// Something about a unit may be another: those who wait for its claim may have to learn that.
    pub(crate) fn takers_look(&mut self, node: Node) {
        for taker in self.claims.get(&node).cloned().unwrap_or_default() {
            self.mark_outdated(taker);
        }
    }
}
