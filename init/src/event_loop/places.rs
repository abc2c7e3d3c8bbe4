//! Where mounts stand whose declared path leads there through links: the kernel lists them by another one. Their helpers
//! tell, and the next PID 1 has to know it too.

use std::collections::{BTreeMap, BTreeSet};

use cm_core::engine::Node;
use cm_core::pack::pack;

use super::Shell;
use super::handover::Found;
use super::live::{Class, Key};

/// Of all mounts; those that stand at their declared path are not among them.
#[derive(Debug, Default)]
pub struct Places {
    of: BTreeMap<Node, String>,
    changed: BTreeSet<Node>,
}

impl Places {
    /// Where the kernel lists a mount, if that is not its declared path.
    pub(super) fn of(&self, node: Node) -> Option<&str> {
        self.of.get(&node).map(String::as_str)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Node, &str)> {
        self.of.iter().map(|(node, place)| (*node, place.as_str()))
    }

    /// Its helper has said where a mount is to stand that is declared at this path.
    fn told(&mut self, node: Node, declared: &str, place: &str) {
        if declared == place {
            self.forget(node);
        } else if self.of(node) != Some(place) {
            self.of.insert(node, place.to_owned());
            self.changed.insert(node);
        }
    }

    /// It is gone: its number is another unit's.
    pub(super) fn forget(&mut self, node: Node) {
        if self.of.remove(&node).is_some() {
            self.changed.insert(node);
        }
    }

    fn record(place: &str) -> Option<Vec<u8>> {
        pack(place).ok()
    }

    /// What changed since the last time, for the live table; nothing in place of what is forgotten.
    pub(super) fn take_changed(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|node| (key(node), self.of(node).and_then(Self::record))).collect()
    }

    /// All of it, for a table that is written anew.
    pub(super) fn records(&self) -> impl Iterator<Item = (Key, Vec<u8>)> {
        self.iter().filter_map(|(node, place)| Some((key(node), Self::record(place)?)))
    }
}

fn key(node: Node) -> Key {
    Key::new(Class::Place, u64::from(node.0))
}

impl Shell {
    /// The helper of a mount has said where that is to stand.
    pub(super) fn place_told(&mut self, node: Node, place: &str) {
        let declared = self.engine.address(node).name;
        self.places.told(node, &declared, place);
    }

    /// Takes over what an earlier PID 1 was told. The engine is there already.
    pub(super) fn take_places(&mut self, found: &Found) {
        for (id, place) in found.decoded::<String>(Class::Place) {
            let node = u32::try_from(id).ok().map(Node);
            match node.filter(|node| self.engine.next_node(*node) == Some(*node)) {
                Some(node) => drop(self.places.of.insert(node, place)),
                None => self.live.remove(Key::new(Class::Place, id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_elsewhere_is_remembered() {
        let mut places = Places::default();
        let node = Node(3);
        places.told(node, "/srv/m", "/srv/m");
        assert_eq!(places.take_changed(), []);
        assert_eq!(places.of(node), None);
        places.told(node, "/srv/link/m", "/srv/real/m");
        places.told(node, "/srv/link/m", "/srv/real/m");
        assert_eq!(places.take_changed(), [(key(node), Places::record("/srv/real/m"))]);
        assert_eq!((places.of(node), places.records().count()), (Some("/srv/real/m"), 1));
        places.told(node, "/srv/link/m", "/srv/link/m");
        assert_eq!(places.take_changed(), [(key(node), None)], "the link is a directory by now");
    }
}
