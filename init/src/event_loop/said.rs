//! What services have said of themselves, which their status shows: handed over to the next PID 1 with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cm_core::engine::Node;
use cm_core::pack::pack;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Shell;
use super::handover::Found;
use super::live::{Class, Key};

/// What `STOPPING=1` is told as.
const STOPPING: &str = "says that it stops";

/// Of one service, since it was started last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// `STATUS=`; it has the bounds of [`crate::sys::notify::MAX_STATUS`].
    status: String,
    /// `STOPPING=1`, and not `READY=1` since.
    stopping: bool,
    /// When it was signalled last, in microseconds of CLOCK_MONOTONIC: what it began before is no answer to that.
    signalled: u64,
}

/// Of all of them.
#[derive(Debug, Default)]
pub struct AllSaid {
    of: BTreeMap<Node, Said>,
    changed: BTreeSet<Node>,
}

impl AllSaid {
    /// `STATUS=`.
    pub(super) fn status(&mut self, node: Node, text: String) {
        self.change(node, |said| said.status = text);
    }

    /// Whether it stops by itself.
    pub(super) fn stopping(&mut self, node: Node, stopping: bool) {
        if stopping || self.of.contains_key(&node) {
            self.change(node, |said| said.stopping = stopping);
        }
    }

    /// Whether it says so.
    pub(super) fn stops(&self, node: Node) -> bool {
        self.of.get(&node).is_some_and(|said| said.stopping)
    }

    /// It is about to be signalled, perhaps to reload.
    pub(super) fn signalled(&mut self, node: Node) {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let micros = u64::try_from(time.as_micros()).unwrap_or_default();
        self.change(node, |said| said.signalled = micros);
    }

    /// Whether a reload that began at a moment (`MONOTONIC_USEC=`) may be the one that it was last signalled for. Who does
    /// not say when it began is believed.
    pub(super) fn answers(&self, node: Node, begun: Option<u64>) -> bool {
        let signalled = self.of.get(&node).map_or(0, |said| said.signalled);
        begun.is_none_or(|begun| begun >= signalled)
    }

    /// It has said nothing yet: another process, or another unit under the same number.
    pub(super) fn forget(&mut self, node: Node) {
        if self.of.remove(&node).is_some() {
            self.changed.insert(node);
        }
    }

    /// For people; nothing where it has said nothing.
    pub(super) fn text(&self, node: Node) -> Option<String> {
        let said = self.of.get(&node)?;
        match (said.stopping, said.status.as_str()) {
            (false, "") => None,
            (false, text) => Some(text.to_owned()),
            (true, "") => Some(STOPPING.to_owned()),
            (true, text) => Some(format!("{STOPPING}: {text}")),
        }
    }

    /// Who says the same again and again costs the table nothing.
    fn change(&mut self, node: Node, with: impl FnOnce(&mut Said)) {
        let mut said = self.of.get(&node).cloned().unwrap_or_default();
        with(&mut said);
        if self.of.get(&node) != Some(&said) {
            self.of.insert(node, said);
            self.changed.insert(node);
        }
    }

    fn record(said: &Said) -> Option<Vec<u8>> {
        pack(said).ok()
    }

    /// What changed since the last time, for the live table; nothing in place of what is forgotten.
    pub(super) fn take_changed(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|node| (key(node), self.of.get(&node).and_then(Self::record))).collect()
    }

    /// All of it, for a table that is written anew.
    pub(super) fn records(&self) -> impl Iterator<Item = (Key, Vec<u8>)> {
        self.of.iter().filter_map(|(node, said)| Some((key(*node), Self::record(said)?)))
    }
}

fn key(node: Node) -> Key {
    Key::new(Class::Said, u64::from(node.0))
}

impl Shell {
    /// Takes over what was said to an earlier PID 1. The engine is there already.
    pub(super) fn take_said(&mut self, found: &Found) {
        for (id, said) in found.decoded::<Said>(Class::Said) {
            let node = u32::try_from(id).ok().map(Node);
            match node.filter(|node| self.engine.next_node(*node) == Some(*node)) {
                Some(node) => drop(self.said.of.insert(node, said)),
                None => self.live.remove(Key::new(Class::Said, id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_written() {
        let mut all = AllSaid::default();
        let node = Node(3);
        let of = |text: &str| AllSaid::record(&Said { status: text.to_owned(), ..Said::default() });
        all.status(node, "serving".to_owned());
        all.status(node, "serving".to_owned());
        assert_eq!(all.take_changed(), [(key(node), of("serving"))]);
        all.status(node, "serving".to_owned());
        assert_eq!(all.take_changed(), []);
        assert_eq!((all.text(node), all.text(Node(4))), (Some("serving".to_owned()), None));
        assert_eq!(all.records().map(|(_, record)| Some(record)).collect::<Vec<_>>(), [of("serving")]);
        all.forget(Node(4));
        all.forget(node);
        assert_eq!(all.take_changed(), [(key(node), None)]);
        assert_eq!((all.text(node), all.records().count()), (None, 0));
    }

    #[test]
    fn who_stops_says_so_until_it_is_ready_again() {
        let mut all = AllSaid::default();
        let node = Node(3);
        all.stopping(node, false);
        assert_eq!(all.take_changed(), [], "who only says READY=1 takes no room");
        all.stopping(node, true);
        assert_eq!(all.text(node).as_deref(), Some("says that it stops"));
        all.status(node, "saving".to_owned());
        assert_eq!(all.text(node).as_deref(), Some("says that it stops: saving"));
        all.stopping(node, false);
        assert_eq!(all.text(node).as_deref(), Some("saving"));
    }

    #[test]
    fn a_reload_that_began_before_the_signal_is_no_answer_to_it() {
        let mut all = AllSaid::default();
        let node = Node(3);
        assert!(all.answers(node, Some(0)), "nobody has asked for one");
        all.signalled(node);
        let at = all.of[&node].signalled;
        assert!(at > 0 && !all.answers(node, Some(at - 1)));
        assert!(all.answers(node, Some(at)) && all.answers(node, None));
    }
}
