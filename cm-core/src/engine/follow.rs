//! How running edges follow the desired manifest: a unit that stays up takes over the edges of a new generation only once
//! what it will depend on has them too or is down.

use std::collections::BTreeMap;

use super::graph::{hard, soft};
use super::unit::{Phase, bits};
use super::{Engine, Node};

impl Engine {
    /// Points the running edges of a unit that stays up at the desired manifest, and then those of its users.
    ///
    /// Only once everything that it will depend on has its edges there too or is down: so the running edges of
    /// several generations together can never form a cycle, in which everybody would wait for somebody else to stop.
    pub(crate) fn follow(&mut self, node: Node) {
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            self.looked(1);
            let unit = self.u(node);
            if !unit.has(bits::UP) {
                continue;
            }
            if unit.made != self.desired {
                let stopping = self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Stopping { .. }));
                let waits = self.lists.behind.contains_key(&node);
                if unit.id().is_none() || stopping || unit.has(bits::BOUNCE) || waits {
                    continue;
                }
                self.rebase(node);
                self.enqueue(node);
                open.extend(self.caught_up(node));
            }
        }
    }

    /// Whether a unit that is declared has its running edges in an earlier manifest.
    pub(crate) fn is_behind(&self, node: Node) -> bool {
        let unit = self.u(node);
        unit.id().is_some() && unit.has(bits::UP) && unit.made != self.desired
    }

    /// A unit is not behind any more; answers those of its users that nothing keeps back now.
    pub(crate) fn caught_up(&mut self, node: Node) -> Vec<Node> {
        let mut users = Vec::new();
        for (user, kind) in self.rdeps(node) {
            if !(hard(kind) || soft(kind)) {
                continue;
            }
            let left = self.lists.behind.get(&user).map_or(0, |left| left.saturating_sub(1));
            if left > 0 {
                self.lists.behind.insert(user, left);
            } else {
                self.lists.behind.remove(&user);
                users.push(user);
            }
        }
        users
    }

    /// Who is behind, and who has to wait for that, from scratch.
    pub(crate) fn count_behind(&self) -> BTreeMap<Node, u32> {
        let mut behind = BTreeMap::new();
        for node in self.all().filter(|n| self.is_behind(*n)) {
            for (user, kind) in self.rdeps(node) {
                if hard(kind) || soft(kind) {
                    *behind.entry(user).or_insert(0) += 1;
                }
            }
        }
        behind
    }

    /// What was behind is up to date, or down: its users may follow.
    pub(crate) fn users_follow(&mut self, node: Node) {
        let behind: Vec<Node> = self
            .rdeps(node)
            .iter()
            .filter(|(u, k)| (hard(*k) || soft(*k)) && self.u(*u).has(bits::UP))
            .filter(|(u, _)| self.u(*u).made != self.desired)
            .map(|(u, _)| *u)
            .collect();
        for user in behind {
            self.follow(user);
        }
    }
}
