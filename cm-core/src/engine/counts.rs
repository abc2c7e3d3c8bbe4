//! What is counted of a unit along its edges. At rest nearly all of it is zero for nearly all units: who has something
//! counted has a place in one list, and the unit says which.

use super::unit::Unit;
use super::{AT_REST, Engine, Node};

/// What is counted of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Hard dependencies (requires, binds) that are not ok.
    pub not_ok: u32,
    /// Hard dependencies that are not ready.
    pub not_ready: u32,
    /// Hard dependencies that are settled and not ok.
    pub dead: u32,
    /// Soft dependencies (wants, after) that have not settled.
    pub unsettled: u32,
    /// What it requires by its running edges and is going.
    pub sinking: u32,
    /// What it is bound to by its running edges and is not ready or not ok.
    pub shaky: u32,
    /// Units that are up and require this one.
    pub users: u32,
    /// Units wanted up that require this one; counted for on-demand units.
    pub demand: u32,
    /// Stops and removals that must come first.
    pub blocked: u32,
}

const NONE: Counters = Counters {
    not_ok: 0,
    not_ready: 0,
    dead: 0,
    unsettled: 0,
    sinking: 0,
    shaky: 0,
    users: 0,
    demand: 0,
    blocked: 0,
};

impl Counters {
    pub(crate) fn gate_open(&self) -> bool {
        self.not_ok == 0 && self.unsettled == 0 && self.blocked == 0
    }
}

/// The place of a unit of which nothing is counted.
const NOWHERE: u32 = 0;

/// All of them that are not zero. A unit's place is one more than the index.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    list: Vec<Counters>,
    free: Vec<u32>,
}

impl Counts {
    fn at(place: u32) -> Option<usize> {
        usize::try_from(place).ok()?.checked_sub(1)
    }

    fn get(&self, place: u32) -> Counters {
        Counts::at(place).and_then(|at| self.list.get(at)).copied().unwrap_or(NONE)
    }

    /// Sets what is counted of whoever has this place, and answers the place that is theirs from here on.
    fn set(&mut self, place: u32, counters: Counters) -> u32 {
        match Counts::at(place).and_then(|at| self.list.get_mut(at)) {
            Some(there) => {
                *there = counters;
                if counters != NONE {
                    return place;
                }
                self.free.push(place);
                NOWHERE
            }
            None if counters == NONE => NOWHERE,
            None => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.list.push(NONE);
                    u32::try_from(self.list.len()).unwrap_or(NOWHERE)
                });
                if let Some(there) = Counts::at(place).and_then(|at| self.list.get_mut(at)) {
                    *there = counters;
                }
                place
            }
        }
    }

    /// Whether most of it is room for what is zero by now.
    fn is_sparse(&self) -> bool {
        self.list.len() > AT_REST && self.free.len() > self.list.len() / 2
    }
}

impl Engine {
    /// What is counted of a unit.
    pub(crate) fn counters(&self, node: Node) -> Counters {
        self.counts.get(self.nodes.get(node.index()).map_or(NOWHERE, |unit| unit.counts))
    }

    /// Counts otherwise.
    pub(crate) fn count(&mut self, node: Node, otherwise: impl FnOnce(&mut Counters)) {
        if let Some(unit) = self.nodes.get_mut(node.index()) {
            let mut counters = self.counts.get(unit.counts);
            otherwise(&mut counters);
            unit.counts = self.counts.set(unit.counts, counters);
        }
    }

    pub(crate) fn gate_open(&self, node: Node) -> bool {
        self.counters(node).gate_open()
    }

    /// Gives back the room of what is zero now. Many had to become so before this is worth a look at all of them.
    pub(crate) fn rest_counts(&mut self) {
        if !self.counts.is_sparse() {
            return;
        }
        let before = std::mem::take(&mut self.counts);
        for unit in &mut self.nodes {
            unit.counts = self.counts.set(NOWHERE, before.get(unit.counts));
        }
        self.counts.list.shrink_to_fit();
    }
}

/// In records, where nothing is counted that can be counted anew, stand as many zeros.
pub(crate) mod left_out {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "so it is called by what serde derives")]
    pub fn serialize<S: Serializer>(_: &u32, to: S) -> Result<S::Ok, S::Error> {
        [0_u32; 9].serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        <[u32; 9]>::deserialize(from).map(|_| super::NOWHERE)
    }
}

/// A latched unit costs this and its place in a manifest's table at rest.
const _: () = assert!(size_of::<Unit>() <= 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_takes_no_room() {
        let mut engine = Engine::new();
        engine.nodes = vec![Unit::blank(); 1000];
        for number in 0..1000 {
            engine.count(Node(number), |c| c.not_ok = number);
        }
        assert_eq!(engine.counters(Node(0)), NONE);
        assert_eq!(engine.counters(Node(999)).not_ok, 999);
        for number in (0..1000).filter(|n| n % 100 != 7) {
            engine.count(Node(number), |c| c.not_ok = 0);
        }
        engine.rest_counts();
        assert_eq!(engine.counts.list.len(), 10);
        assert!(engine.counts.list.capacity() < 20 && engine.counts.free.capacity() < 20);
        for number in 0..1000 {
            let kept = if number % 100 == 7 { number } else { 0 };
            assert_eq!(engine.counters(Node(number)).not_ok, kept);
        }
        engine.count(Node(8), |c| c.users = 3);
        assert_eq!((engine.counters(Node(8)).users, engine.counters(Node(7)).not_ok), (3, 7));
        assert_eq!((engine.counts.list.len(), engine.counts.free.len()), (11, 0));
    }
}
