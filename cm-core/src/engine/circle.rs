//! Units that wait in a circle for each other to stop.
//!
//! Where nothing is started anew `follow` sees to it that there is none. But a process that ends by itself comes back by the
//! edges of the desired manifest, and may by these require who requires it by older ones and has not followed yet, since
//! that is held and owes a restart, say. When both go, neither may stop before the other: the newer edge counts, and
//! whoever is held on to by the older one alone goes first.

use std::collections::BTreeSet;

use super::graph::{hard, soft};
use super::unit::{Phase, bits};
use super::{Engine, Node};

impl Engine {
    /// Lets one unit of a circle stop first; answers whether there was one. It looks only when nothing else moves.
    pub(crate) fn break_circle(&mut self) -> bool {
        if self.lists.going.is_empty() || !self.queue.is_empty() || !self.is_quiet() {
            return false;
        }
        let Some(first) = self.first_of_circle() else { return false };
        self.m(first).set(bits::FIRST, true);
        self.enqueue(first);
        true
    }

    /// Who goes first of some circle: somebody whom the one behind it in the circle holds on to by an older edge.
    fn first_of_circle(&self) -> Option<Node> {
        // What leads to no circle.
        let mut clear = BTreeSet::new();
        for start in self.lists.going.iter().copied() {
            // The way so far, each with those whom it waits for and who were not looked at yet.
            let mut way: Vec<(Node, Vec<Node>)> = Vec::new();
            let mut next = Some(start).filter(|node| !clear.contains(node));
            loop {
                if let Some(node) = next.take() {
                    if let Some(from) = way.iter().position(|(on, _)| *on == node) {
                        let circle: Vec<Node> = way.iter().skip(from).map(|(on, _)| *on).collect();
                        return self.held_by_older(&circle);
                    }
                    way.push((node, self.stop_waits_for(node)));
                }
                let Some((node, open)) = way.last_mut() else { break };
                match open.pop() {
                    Some(user) => next = Some(user).filter(|user| !clear.contains(user)),
                    None => {
                        clear.insert(*node);
                        way.pop();
                    }
                }
            }
        }
        None
    }

    /// Each of these waits for the one behind it, and the last for the first.
    fn held_by_older(&self, circle: &[Node]) -> Option<Node> {
        let users = circle.iter().cycle().skip(1);
        let older = circle.iter().zip(users).find(|(node, user)| self.u(**user).made < self.u(**node).made);
        older.map(|(node, _)| *node)
    }

    /// Who has to be down before a unit that goes is asked to stop.
    fn stop_waits_for(&self, node: Node) -> Vec<Node> {
        let stopping = self.svc(node).is_some_and(|s| matches!(s.phase, Phase::Stopping { .. }));
        if stopping || !self.u(node).has(bits::UP) || self.u(node).has(bits::FIRST) {
            return Vec::new();
        }
        let users = self.running_rdeps(node).into_iter();
        let waits =
            |(user, kind): &(Node, _)| hard(*kind) || (soft(*kind) && self.comes_after(self.u(*user), node));
        users.filter(waits).map(|(user, _)| user).collect()
    }
}
