//! Calls that wait until something is true.
//!
//! Anybody may wait, and for long: what changes a unit looks only at the calls that wait for this one.

use std::collections::BTreeSet;

use cm_core::engine::Node;
use units::Address;

use super::Shell;
use super::swap::BootStage;
use super::view::{self, View};
use crate::control::answer::{self, Answer, State, Waited, Waiting};
use crate::control::request;

/// Call, and the fields of what it waits for: for the init that goes on with it.
pub type Handed = (u64, bool, Vec<String>, bool);

/// Calls that wait.
#[derive(Debug, Default)]
pub struct Waits {
    calls: Vec<Call>,
    /// Units that have changed since the calls were looked at.
    changed: BTreeSet<Node>,
    /// Something else that any of them may be waiting for has changed.
    stirred: bool,
}

#[derive(Debug)]
struct Call {
    number: u64,
    converged: bool,
    store: bool,
    ready: Vec<Address>,
    /// The units behind `ready`, as they were when it was looked at last.
    nodes: BTreeSet<Node>,
}

impl Waits {
    /// A call begins to wait.
    pub fn add(&mut self, number: u64, wait: &request::Wait) {
        let ready: BTreeSet<Address> = wait.ready.iter().filter_map(|u| Address::parse(u)).collect();
        let ready = ready.into_iter().collect();
        let (converged, store) = (wait.converged, wait.store);
        self.calls.push(Call { number, converged, store, ready, nodes: BTreeSet::new() });
        self.stirred = true;
    }

    /// Nobody waits for the answer of this call any more.
    pub fn forget(&mut self, number: u64) {
        self.calls.retain(|c| c.number != number);
    }

    /// Something that a call may be waiting for has changed.
    pub fn stir(&mut self) {
        self.stirred = true;
    }

    /// A unit has changed.
    pub fn changed(&mut self, node: Node) {
        if !self.calls.is_empty() {
            self.changed.insert(node);
        }
    }

    /// Takes the calls that have to be looked at, all of them when `all` may be true now.
    fn take_due(&mut self, all: bool) -> Vec<Call> {
        let changed = std::mem::take(&mut self.changed);
        let all = std::mem::take(&mut self.stirred) || all;
        let due = |c: &mut Call| all || !c.nodes.is_disjoint(&changed);
        self.calls.extract_if(.., due).collect()
    }

    /// For another init.
    pub fn hand_over(&self) -> Vec<Handed> {
        let names = |c: &Call| c.ready.iter().map(Address::to_string).collect();
        self.calls.iter().map(|c| (c.number, c.converged, names(c), c.store)).collect()
    }

    /// Goes on with the calls of another init.
    pub fn take_over(&mut self, handed: Vec<Handed>) {
        for (number, converged, ready, store) in handed {
            self.add(number, &request::Wait { converged, ready, store });
        }
    }
}

impl Shell {
    /// Answers the calls of which what they wait for has become true, or cannot any more.
    pub(super) fn check_waits(&mut self) {
        if self.clients.waits.calls.is_empty() {
            self.clients.waits.changed.clear();
            return;
        }
        let settled = self.is_at_rest();
        for mut call in self.clients.waits.take_due(settled) {
            match self.waited(&mut call, settled) {
                Some(waited) => self.control_answer(call.number, &Answer::Waited(waited)),
                None => self.clients.waits.calls.push(call),
            }
        }
    }

    /// The answer to a call, once there is one.
    fn waited(&self, call: &mut Call, settled: bool) -> Option<Waited> {
        let refused = self.boot == BootStage::Refused;
        let view = View { shell: self };
        let waiting = |node: Node| {
            let status = view.unit(node);
            Waiting { unit: status.unit, state: status.state, cause: status.cause }
        };
        if call.store {
            if !self.is_booted() {
                return None;
            }
            if !self.store_open {
                return Some(Waited { fulfilled: false, waiting: Vec::new() });
            }
        }
        if call.converged {
            if !settled {
                return None;
            }
            if refused {
                return Some(Waited { fulfilled: false, waiting: Vec::new() });
            }
            let stuck: Vec<Waiting> = self
                .engine
                .nodes()
                .filter(|n| view::is_stuck(&self.engine, *n))
                .take(answer::MAX_EDGES)
                .map(waiting)
                .collect();
            if !stuck.is_empty() {
                return Some(Waited { fulfilled: false, waiting: stuck });
            }
        }
        // Units were there when it was asked: an apply may have taken one away since.
        let nodes: Vec<Option<Node>> = call.ready.iter().map(|a| self.engine.node(a)).collect();
        call.nodes = nodes.iter().flatten().copied().collect();
        let missing: Vec<(&Address, Option<Node>)> = call
            .ready
            .iter()
            .zip(nodes)
            .filter(|(_, node)| !node.is_some_and(|n| self.engine.glance(n).ready))
            .collect();
        if missing.is_empty() {
            return Some(Waited { fulfilled: true, waiting: Vec::new() });
        }
        let lost = |node: &Option<Node>| node.is_none_or(|n| view::is_failed(&self.engine, n));
        let hopeless = settled || missing.iter().any(|(_, node)| lost(node));
        let gone = |unit: &Address| Waiting {
            unit: unit.to_string(),
            state: State::Down,
            cause: "it is not declared any more".to_owned(),
        };
        hopeless.then(|| Waited {
            fulfilled: false,
            waiting: missing
                .into_iter()
                .take(answer::MAX_EDGES)
                .map(|(unit, node)| node.map_or_else(|| gone(unit), waiting))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(ready: &[&str]) -> request::Wait {
        request::Wait { ready: ready.iter().map(|u| (*u).to_owned()).collect(), ..request::Wait::default() }
    }

    #[test]
    fn a_change_looks_at_who_waits_for_it() {
        let mut waits = Waits::default();
        waits.add(1, &wait(&["service:a", "service:a", "service:b"]));
        waits.add(2, &wait(&["service:c"]));
        let mut first = waits.take_due(false);
        assert_eq!(first.iter().map(|c| c.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(first[0].ready.len(), 2, "each unit once");
        first[0].nodes = BTreeSet::from([Node(1), Node(2)]);
        first[1].nodes = BTreeSet::from([Node(3)]);
        waits.calls = first;

        assert!(waits.take_due(false).is_empty());
        waits.changed(Node(7));
        assert!(waits.take_due(false).is_empty());
        waits.changed(Node(2));
        let due = waits.take_due(false);
        assert_eq!(due.iter().map(|c| c.number).collect::<Vec<_>>(), [1]);
        waits.calls.extend(due);
        assert_eq!(waits.take_due(true).len(), 2);
    }

    #[test]
    fn who_waits_is_handed_over() {
        let mut waits = Waits::default();
        waits.add(4, &wait(&["service:a"]));
        waits.add(5, &request::Wait { converged: true, ..request::Wait::default() });
        waits.forget(5);
        let mut next = Waits::default();
        next.take_over(waits.hand_over());
        assert_eq!(next.hand_over(), [(4, false, vec!["service:a".to_owned()], false)]);
        assert_eq!(next.take_due(false).len(), 1, "what it waits for may have happened meanwhile");
    }
}
