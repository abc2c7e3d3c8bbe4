//! Deadlines as data: the shell waits until the nearest one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mono, Node};

/// What a deadline is for; a unit has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) enum Timer {
    /// The unit's state: start, stop, reload time-out, backoff, settling.
    State,
    /// The service's next sign of life.
    Watchdog,
    /// The end of a hold.
    Hold,
    /// The worker's next result.
    Batch,
    /// The end of an apply's quiet time.
    Stable,
    /// The end of patience with a shutdown.
    Shutdown,
}

/// All deadlines, nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Timers {
    order: BTreeSet<(Mono, Node, Timer)>,
    of: BTreeMap<(Node, Timer), Mono>,
    /// Whose deadlines were set or cleared since it was last asked.
    changed: Vec<Node>,
}

impl Timers {
    pub(crate) fn set(&mut self, node: Node, timer: Timer, at: Mono) {
        if let Some(old) = self.of.insert((node, timer), at) {
            self.order.remove(&(old, node, timer));
        }
        self.order.insert((at, node, timer));
        self.changed.push(node);
    }

    pub(crate) fn clear(&mut self, node: Node, timer: Timer) {
        if let Some(old) = self.of.remove(&(node, timer)) {
            self.order.remove(&(old, node, timer));
            self.changed.push(node);
        }
    }

    /// Whose deadlines differ since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<Node> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn next(&self) -> Option<Mono> {
        self.order.first().map(|(at, _, _)| *at)
    }

    /// Takes one deadline that has passed.
    pub(crate) fn pop(&mut self, now: Mono) -> Option<(Node, Timer)> {
        let first = *self.order.first()?;
        if first.0 > now {
            return None;
        }
        self.order.remove(&first);
        self.of.remove(&(first.1, first.2));
        self.changed.push(first.1);
        Some((first.1, first.2))
    }

    pub(crate) fn get(&self, node: Node, timer: Timer) -> Option<Mono> {
        self.of.get(&(node, timer)).copied()
    }

    /// The deadlines of one unit.
    pub(crate) fn of(&self, node: Node) -> impl Iterator<Item = (Timer, Mono)> {
        self.of.range((node, Timer::State)..=(node, Timer::Shutdown)).map(|((_, timer), at)| (*timer, *at))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Mono, Node, Timer)> {
        self.order.iter().copied()
    }

    /// The units that have a deadline.
    pub(crate) fn of_units(&self) -> impl Iterator<Item = &Node> {
        self.of.keys().map(|(node, _)| node).filter(|n| n.0 != u32::MAX)
    }
}
