//! The watch index: from inotify events to the units that they are about. Pure; PID 1 feeds it what its descriptors
//! and the worker say ([`crate::worker::watches`] adds the watches).
//!
//! A watched directory is a node: what it is called in which directory above, and the units that own entries of it.
//! Names are kept as hashes, eight bytes an entry with its unit, so that 10,000 files in one directory cost 80 kB;
//! two names of one hash cost a look at a unit too many, never a lost change.
//!
//! **Invariant:** an event makes dirty exactly the units that own the entry, or that lie below it; a lost event
//! makes all of them dirty. One that was lost in a directory into which others than root may write makes dirty what lies
//! below such directories and nothing else: nobody can have the whole machine looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::engine::Node;
use crate::proto::Watch;

/// Events of watches that nobody has told of yet; more than this are as good as an overflow.
const EARLY: usize = 4096;

/// A watch descriptor and the instance it belongs to: true is the one for directories into which others than root may
/// write.
pub type Key = (bool, i32);

/// Bits of inotify(7) that the index knows.
pub mod mask {
    /// The watched thing was deleted.
    pub const DELETE_SELF: u32 = 0x400;
    /// It was moved.
    pub const MOVE_SELF: u32 = 0x800;
    /// An entry came, went, or was moved from or to here.
    pub const MOVED: u32 = 0x40 | 0x80 | 0x100 | 0x200;
    /// Its file system was unmounted.
    pub const UNMOUNT: u32 = 0x2000;
    /// Events were lost.
    pub const Q_OVERFLOW: u32 = 0x4000;
    /// The kernel has dropped the watch.
    pub const IGNORED: u32 = 0x8000;
}

/// FNV-1a, folded to 32 bits.
fn hash(name: &str) -> u32 {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let folded = (sum >> 32) ^ (sum & 0xffff_ffff);
    u32::try_from(folded).unwrap_or_default()
}

/// A set as a list, of which a tail may still be in no order: many insertions are one sort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pile<T> {
    list: Vec<T>,
    sorted: usize,
}

impl<T> Default for Pile<T> {
    fn default() -> Pile<T> {
        Pile { list: Vec::new(), sorted: 0 }
    }
}

impl<T: Ord> Pile<T> {
    fn insert(&mut self, item: T) {
        // What is watched is announced before it is checked and after it was changed: twice the same is no news.
        if self.list.get(..self.sorted).is_some_and(|sorted| sorted.binary_search(&item).is_ok()) {
            return;
        }
        self.list.push(item);
        // The tail is never longer than what it is added to.
        if self.list.len() - self.sorted > self.sorted.max(64) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.sorted < self.list.len() {
            self.list.sort_unstable();
            self.list.dedup();
            self.sorted = self.list.len();
            self.list.shrink_to(self.sorted + self.sorted / 4);
        }
    }

    fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.settle();
        self.list.retain(keep);
        self.sorted = self.list.len();
    }
}

/// A watched directory or inode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Place {
    /// Who owns which entry: (hash of its name, unit).
    entries: Pile<(u32, Node)>,
    /// Who owns every entry, or the inode itself.
    all: Pile<Node>,
    /// Watched directories inside: (hash of the name, which).
    inside: Pile<(u32, Key)>,
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touch {
    /// Units that have to be looked at.
    pub dirty: BTreeSet<Node>,
    /// Units whose watches have to be taken again: what was watched is not where it was.
    pub again: BTreeSet<Node>,
    /// Events were lost, and not only of directories that are open to others: everything has to be looked at.
    pub rescan: bool,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Index {
    places: BTreeMap<Key, Place>,
    /// Events that came before their watch was announced.
    early: Vec<(Key, String, u32)>,
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Index {
        Index::default()
    }

    /// Takes a watch in; `owner` is the unit of an entry or inode. Answers what earlier events of it mean.
    pub fn add(&mut self, watch: &Watch, owner: Option<Node>) -> Touch {
        let key = match watch {
            Watch::Directory { wd, public, parent, name } => {
                if let Some(parent) = parent {
                    let inside = &mut self.places.entry(*parent).or_default().inside;
                    // One name is one directory: a new one in its place takes over.
                    inside.retain(|(h, k)| *h != hash(name) || *k == (*public, *wd));
                    inside.insert((hash(name), (*public, *wd)));
                }
                self.places.entry((*public, *wd)).or_default();
                (*public, *wd)
            }
            Watch::Entry { wd, public, name, .. } => {
                let place = self.places.entry((*public, *wd)).or_default();
                match (owner, name.is_empty()) {
                    (Some(node), true) => place.all.insert(node),
                    (Some(node), false) => place.entries.insert((hash(name), node)),
                    (None, _) => {}
                }
                (*public, *wd)
            }
            Watch::Inode { wd, public, .. } => {
                let place = self.places.entry((*public, *wd)).or_default();
                if let Some(node) = owner {
                    place.all.insert(node);
                }
                (*public, *wd)
            }
            Watch::Missing { .. } => return Touch::default(),
        };
        let mut touch = Touch::default();
        if !self.early.is_empty() {
            let (now, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.early).into_iter().partition(|(k, _, _)| *k == key);
            self.early = later;
            for (key, name, bits) in now {
                self.event_into(key, &name, bits, &mut touch);
            }
        }
        touch
    }

    /// The path of a watched directory, as those who own something there tell it: the index knows no paths.
    pub fn directory(&self, key: Key, path: impl Fn(Node) -> Option<String>) -> Option<String> {
        let place = self.places.get(&key)?;
        let whole = place.all.list.iter().find_map(|node| path(*node));
        let above = place.entries.list.iter().find_map(|(entry, node)| {
            let path = path(*node)?;
            let mut rest = path.as_str();
            while let Some((above, name)) = rest.rsplit_once('/') {
                if hash(name) == *entry {
                    return Some(if above.is_empty() { "/".to_owned() } else { above.to_owned() });
                }
                rest = above;
            }
            None
        });
        above.or(whole)
    }

    /// An event; `name` is empty when it is about the watched thing itself.
    pub fn event(&mut self, key: Key, name: &str, bits: u32) -> Touch {
        let mut touch = Touch::default();
        self.event_into(key, name, bits, &mut touch);
        touch
    }

    fn event_into(&mut self, key: Key, name: &str, bits: u32, touch: &mut Touch) {
        if bits & mask::Q_OVERFLOW != 0 {
            self.lost(key.0, touch);
            return;
        }
        let Some(place) = self.places.get_mut(&key) else {
            // A watch that has gone says so once more; nobody waits for that.
            if bits & mask::IGNORED != 0 {
                return;
            }
            if self.early.iter().filter(|(k, _, _)| k.0 == key.0).count() < EARLY {
                self.early.push((key, name.to_owned(), bits));
            } else {
                self.early.retain(|(k, _, _)| k.0 != key.0);
                self.lost(key.0, touch);
            }
            return;
        };
        touch.dirty.extend(&place.all.list);
        let gone = bits & (mask::DELETE_SELF | mask::MOVE_SELF | mask::UNMOUNT | mask::IGNORED) != 0;
        if name.is_empty() && gone {
            self.below([key], touch);
            touch.again.extend(&touch.dirty);
        } else if !name.is_empty() {
            let wanted = hash(name);
            place.entries.settle();
            let entries = &place.entries.list;
            let from = entries.partition_point(|(h, _)| *h < wanted);
            let owners = entries.iter().skip(from).take_while(|(h, _)| *h == wanted);
            touch.dirty.extend(owners.map(|(_, node)| node));
            let inside = place.inside.list.iter().find(|(h, _)| *h == wanted).map(|(_, key)| *key);
            if let Some(inside) = inside
                && bits & mask::MOVED != 0
            {
                // The directory came, went or was moved: everything below may be another.
                let mut below = Touch::default();
                self.below([inside], &mut below);
                touch.again.extend(&below.dirty);
                touch.dirty.extend(&below.dirty);
            }
        }
        if bits & mask::IGNORED != 0 {
            self.drop_place(key);
        }
    }

    /// Events of an instance were lost.
    fn lost(&self, public: bool, touch: &mut Touch) {
        if public {
            self.below(self.places.keys().filter(|k| k.0).copied(), touch);
        } else {
            touch.rescan = true;
        }
    }

    fn below(&self, keys: impl IntoIterator<Item = Key>, touch: &mut Touch) {
        let mut seen = BTreeSet::new();
        let mut open: Vec<Key> = keys.into_iter().collect();
        while let Some(key) = open.pop() {
            let Some(place) = self.places.get(&key).filter(|_| seen.insert(key)) else { continue };
            touch.dirty.extend(&place.all.list);
            touch.dirty.extend(place.entries.list.iter().map(|(_, node)| node));
            open.extend(place.inside.list.iter().map(|(_, key)| *key));
        }
    }

    fn drop_place(&mut self, key: Key) {
        self.places.remove(&key);
        for place in self.places.values_mut() {
            place.inside.retain(|(_, k)| *k != key);
        }
    }

    /// Units are gone. Answers the watches that nobody needs any more, which are to be removed.
    pub fn forget(&mut self, nodes: &BTreeSet<Node>) -> BTreeSet<Key> {
        for place in self.places.values_mut() {
            place.entries.retain(|(_, n)| !nodes.contains(n));
            place.all.retain(|n| !nodes.contains(n));
        }
        let mut gone = BTreeSet::new();
        // A directory is needed for what it holds, or for what lies further inside: one pass a level.
        loop {
            let empty =
                |p: &Place| p.entries.list.is_empty() && p.all.list.is_empty() && p.inside.list.is_empty();
            let level: BTreeSet<Key> =
                self.places.iter().filter(|(_, p)| empty(p)).map(|(k, _)| *k).collect();
            if level.is_empty() {
                break;
            }
            self.places.retain(|key, _| !level.contains(key));
            for place in self.places.values_mut() {
                place.inside.retain(|(_, key)| !level.contains(key));
            }
            gone.extend(level);
        }
        gone
    }

    /// Every unit that is watched.
    pub fn watched(&self) -> BTreeSet<Node> {
        let mut touch = Touch::default();
        self.below(self.places.keys().copied(), &mut touch);
        touch.dirty
    }

    /// Bytes that the index takes.
    pub fn bytes(&self) -> usize {
        self.places
            .values()
            .map(|p| {
                size_of::<(Key, Place)>()
                    + p.entries.list.capacity() * size_of::<(u32, Node)>()
                    + p.all.list.capacity() * size_of::<Node>()
                    + p.inside.list.capacity() * size_of::<(u32, Key)>()
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ManifestRef;
    use proptest::prelude::*;
    use units::UnitId;

    fn entry(wd: i32, name: &str) -> Watch {
        Watch::Entry { wd, public: false, name: name.into(), manifest: ManifestRef(1), unit: UnitId(1) }
    }

    fn directory(wd: i32, parent: Option<i32>, name: &str) -> Watch {
        Watch::Directory { wd, public: false, parent: parent.map(|p| (false, p)), name: name.into() }
    }

    fn nodes(list: &[u32]) -> BTreeSet<Node> {
        list.iter().copied().map(Node).collect()
    }

    /// / (1) · etc (2) · etc/nginx (3), with units 10 (etc/motd), 11 and 12 (in nginx).
    fn example() -> Index {
        let mut index = Index::new();
        for (watch, owner) in [
            (directory(1, None, ""), None),
            (directory(2, Some(1), "etc"), None),
            (directory(3, Some(2), "nginx"), None),
            (entry(2, "motd"), Some(Node(10))),
            (entry(3, "a"), Some(Node(11))),
            (entry(3, "b"), Some(Node(12))),
        ] {
            assert_eq!(index.add(&watch, owner), Touch::default());
        }
        index
    }

    #[test]
    fn a_directory_is_named_by_what_is_managed_in_it() {
        let index = example();
        let path = |node: Node| {
            let paths = [(10, "/etc/motd"), (11, "/etc/nginx/a"), (12, "/etc/nginx/b")];
            paths.iter().find(|(n, _)| Node(*n) == node).map(|(_, path)| (*path).to_owned())
        };
        assert_eq!(index.directory((false, 3), path).as_deref(), Some("/etc/nginx"));
        assert_eq!(index.directory((false, 2), path).as_deref(), Some("/etc"));
        assert_eq!(index.directory((true, 2), path), None);
    }

    #[test]
    fn an_event_is_about_the_owners_of_the_name() {
        let mut index = example();
        assert_eq!(index.event((false, 3), "a", 2).dirty, nodes(&[11]));
        assert_eq!(index.event((false, 3), "other", 2), Touch::default());
        assert_eq!(index.event((false, 2), "motd", 2).dirty, nodes(&[10]));
    }

    #[test]
    fn an_ancestor_is_everything_below_it() {
        let mut index = example();
        let touch = index.event((false, 1), "etc", 0x40);
        assert_eq!((touch.dirty, touch.again), (nodes(&[10, 11, 12]), nodes(&[10, 11, 12])));
        let touch = index.event((false, 2), "", mask::MOVE_SELF);
        assert_eq!((touch.dirty, touch.again), (nodes(&[10, 11, 12]), nodes(&[10, 11, 12])));
    }

    #[test]
    fn attributes_of_a_directory_are_its_own() {
        let mut index = example();
        index.add(&entry(1, "etc"), Some(Node(9)));
        assert_eq!(index.event((false, 1), "etc", 4).dirty, nodes(&[9]));
        assert_eq!(index.event((false, 2), "", 4), Touch::default());
    }

    #[test]
    fn a_dropped_watch_takes_its_units_to_be_watched_again() {
        let mut index = example();
        let touch = index.event((false, 3), "", mask::IGNORED);
        assert_eq!(touch.again, nodes(&[11, 12]));
        assert_eq!(index.watched(), nodes(&[10]));
        assert_eq!(index.event((false, 2), "nginx", 0x100), Touch::default());
    }

    #[test]
    fn overflow_is_a_rescan() {
        assert!(example().event((false, -1), "", mask::Q_OVERFLOW).rescan);
    }

    /// / (own 1) · tmp (public 1) · tmp/mine (own 2), with units 1 (in /), 2 (in tmp) and 3 (in tmp/mine).
    fn open_to_others() -> Index {
        let mut index = Index::new();
        let public = |wd, name: &str| Watch::Entry {
            wd,
            public: true,
            name: name.into(),
            manifest: ManifestRef(1),
            unit: UnitId(1),
        };
        for (watch, owner) in [
            (directory(1, None, ""), None),
            (Watch::Directory { wd: 1, public: true, parent: Some((false, 1)), name: "tmp".into() }, None),
            (Watch::Directory { wd: 2, public: false, parent: Some((true, 1)), name: "mine".into() }, None),
            (entry(1, "motd"), Some(Node(1))),
            (public(1, "a"), Some(Node(2))),
            (entry(2, "b"), Some(Node(3))),
        ] {
            index.add(&watch, owner);
        }
        index
    }

    #[test]
    fn what_others_let_overflow_is_looked_at_and_nothing_else() {
        let mut index = open_to_others();
        let touch = index.event((true, -1), "", mask::Q_OVERFLOW);
        assert_eq!(touch, Touch { dirty: nodes(&[2, 3]), ..Touch::default() });
        assert!(index.event((false, -1), "", mask::Q_OVERFLOW).rescan);
    }

    #[test]
    fn events_of_unknown_watches_are_bounded_for_each_instance() {
        let mut index = open_to_others();
        let mut last = Touch::default();
        for n in 0..=EARLY {
            assert_eq!(last, Touch::default(), "{n}");
            last = index.event((true, 77), "x", 2);
        }
        assert_eq!(last, Touch { dirty: nodes(&[2, 3]), ..Touch::default() });
        // What waits in the other instance has lost nothing by it.
        index.event((false, 9), "x", 2);
        for _ in 0..=EARLY {
            index.event((true, 77), "x", 2);
        }
        assert_eq!(index.add(&entry(9, "x"), Some(Node(4))).dirty, nodes(&[4]));
    }

    #[test]
    fn an_event_waits_for_its_watch() {
        let mut index = Index::new();
        assert_eq!(index.event((false, 7), "x", 2), Touch::default());
        assert_eq!(index.add(&entry(7, "x"), Some(Node(1))).dirty, nodes(&[1]));
        assert_eq!(index.add(&entry(7, "y"), Some(Node(2))), Touch::default());
    }

    #[test]
    fn what_nobody_needs_is_let_go() {
        let mut index = example();
        assert_eq!(index.forget(&nodes(&[11])), BTreeSet::new());
        assert_eq!(index.forget(&nodes(&[12])), BTreeSet::from([(false, 3)]));
        assert_eq!(index.forget(&nodes(&[10])), BTreeSet::from([(false, 2), (false, 1)]));
    }

    #[test]
    fn ten_thousand_files_cost_little() {
        let mut index = Index::new();
        for _ in 0..3 {
            for n in 0..10_000u32 {
                let wd = i32::try_from(n / 100).unwrap() + 1;
                index.add(&entry(wd, &format!("some-file-name-{n}")), Some(Node(n)));
            }
        }
        let each = index.bytes() / 10_000;
        assert!(each <= 12, "{each} bytes a file");
    }

    proptest! {
        #[test]
        fn an_owner_always_hears_of_his_entry(
            owned in proptest::collection::vec((1i32..5, "[a-d]{1,3}", 0u32..20), 0..40),
            event in (1i32..5, "[a-d]{1,3}"),
        ) {
            let mut index = Index::new();
            for (wd, name, node) in &owned {
                index.add(&entry(*wd, name), Some(Node(*node)));
            }
            if !owned.iter().any(|(wd, _, _)| *wd == event.0) {
                return Ok(());
            }
            let want: BTreeSet<Node> = owned
                .iter()
                .filter(|(wd, name, _)| (*wd, name) == (event.0, &event.1))
                .map(|(_, _, node)| Node(*node))
                .collect();
            prop_assert_eq!(index.event((false, event.0), &event.1, 2).dirty, want);
        }
    }
}
