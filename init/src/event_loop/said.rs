//! What services have said of themselves, which their status shows: handed over to the next PID 1 with the rest.

use std::collections::{BTreeMap, BTreeSet};

use cm_core::engine::Node;
use serde::{Deserialize, Serialize};

use super::Shell;
use super::handover::Found;
use super::live::{Class, Key};

/// Of one service, since it was started last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// `STATUS=`; it has the bounds of [`crate::sys::notify::MAX_STATUS`].
    status: String,
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

    /// It has said nothing yet: another process, or another unit under the same number.
    pub(super) fn forget(&mut self, node: Node) {
        if self.of.remove(&node).is_some() {
            self.changed.insert(node);
        }
    }

    /// For people; nothing where it has said nothing.
    pub(super) fn text(&self, node: Node) -> Option<&str> {
        Some(self.of.get(&node)?.status.as_str()).filter(|text| !text.is_empty())
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
        postcard::to_allocvec(said).ok()
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
        let of = |text: &str| AllSaid::record(&Said { status: text.to_owned() });
        all.status(node, "serving".to_owned());
        all.status(node, "serving".to_owned());
        assert_eq!(all.take_changed(), [(key(node), of("serving"))]);
        all.status(node, "serving".to_owned());
        assert_eq!(all.take_changed(), []);
        assert_eq!((all.text(node), all.text(Node(4))), (Some("serving"), None));
        assert_eq!(all.records().map(|(_, record)| Some(record)).collect::<Vec<_>>(), [of("serving")]);
        all.forget(Node(4));
        all.forget(node);
        assert_eq!(all.take_changed(), [(key(node), None)]);
        assert_eq!((all.text(node), all.records().count()), (None, 0));
    }
}
