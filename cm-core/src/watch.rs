//! The watch index: from inotify events to the units that they are about. Pure; PID 1 feeds it what its descriptors
//! and the worker say ([`crate::worker::watches`] adds the watches).
//!
//! A watched directory is a place: the units that own entries of it, and what it is called in which directory above.
//! Names are kept as hashes, eight bytes an entry with its unit, so that 10,000 files in one directory cost 80 kB;
//! two names of one hash cost a look at a unit too many, never a lost change.
//!
//! **Invariant:** an event makes dirty exactly the units that own the entry, or that lie below it; a lost event
//! makes all of them dirty. One that was lost in a directory into which others than root may write makes dirty what lies
//! below such directories and nothing else: nobody can have the whole machine looked at.
//!
//! **Invariant:** what an event, a watch that is added, and one that is dropped cost is what they are about, and a
//! logarithm of the rest. Only to forget units is a walk over all that is watched.

mod runs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::runs::{Number, Runs};
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
fn hash(name: &str) -> Hash {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let folded = (sum >> 32) ^ (sum & 0xffff_ffff);
    Number(u32::try_from(folded).unwrap_or_default())
}

/// A hash of a name.
type Hash = Number;
/// A watch in four bytes: descriptors are not negative (inotify_add_watch(2)), so their first bit can tell the instance.
type Wd = Number;

const PUBLIC: u32 = 1 << 31;

fn packed((public, wd): Key) -> Wd {
    Number(wd.cast_unsigned() & !PUBLIC | if public { PUBLIC } else { 0 })
}

fn key(wd: Wd) -> Key {
    (is_public(wd), (wd.0 & !PUBLIC).cast_signed())
}

fn is_public(wd: Wd) -> bool {
    wd.0 & PUBLIC != 0
}

/// A watched directory or inode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Place {
    /// Who owns which entry: (hash of its name, unit).
    entries: Runs<(Hash, Node)>,
    /// Who owns every entry, or the inode itself.
    all: Runs<Node>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.all.is_empty()
    }
}

/// Which directory lies in which. What lies in several, or under several names (by a bind mount, or since it was moved),
/// is there as often.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Links {
    /// (directory, hash of a name in it, what that is).
    down: BTreeSet<(Wd, Hash, Wd)>,
    /// The same from below: (what it is, directory, hash of the name in it).
    up: BTreeSet<(Wd, Wd, Hash)>,
}

impl Links {
    fn add(&mut self, above: Wd, name: Hash, inside: Wd) {
        self.down.insert((above, name, inside));
        self.up.insert((inside, above, name));
    }

    fn inside(&self, wd: Wd) -> impl Iterator<Item = Wd> {
        let all = (wd, Number::LEAST, Number::LEAST)..=(wd, Number::MOST, Number::MOST);
        self.down.range(all).map(|(_, _, inside)| *inside)
    }

    /// All that have a name of this hash: which of them is meant, nobody can tell.
    fn named(&self, wd: Wd, name: Hash) -> impl Iterator<Item = Wd> {
        self.down.range((wd, name, Number::LEAST)..=(wd, name, Number::MOST)).map(|(_, _, inside)| *inside)
    }

    /// The directory in which all others lie: it is in itself, under no name. It was watched before them, and stands first.
    fn root(&self) -> Option<Wd> {
        let is_root = |(above, name, inside): &&(Wd, Hash, Wd)| above == inside && *name == hash("");
        self.down.iter().find(is_root).map(|(wd, ..)| *wd)
    }

    /// Cuts off what has gone. Answers what it lay in.
    fn cut(&mut self, wd: Wd) -> Vec<Wd> {
        let of = (wd, Number::LEAST, Number::LEAST)..=(wd, Number::MOST, Number::MOST);
        let down: Vec<_> = self.down.range(of.clone()).copied().collect();
        for (above, name, inside) in down {
            self.down.remove(&(above, name, inside));
            self.up.remove(&(inside, above, name));
        }
        let up: Vec<_> = self.up.range(of).copied().collect();
        for (inside, above, name) in &up {
            self.up.remove(&(*inside, *above, *name));
            self.down.remove(&(*above, *name, *inside));
        }
        up.into_iter().map(|(_, above, _)| above).collect()
    }
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touch {
    /// Units that have to be looked at; a look takes their watches again.
    pub dirty: BTreeSet<Node>,
    /// Events were lost, and not only of directories that are open to others: everything has to be looked at.
    pub rescan: bool,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Index {
    places: BTreeMap<Wd, Place>,
    links: Links,
    early: Early,
}

/// Events that came before their watch was announced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Early {
    events: BTreeMap<Wd, Vec<(String, u32)>>,
    /// How many, of each instance.
    own: usize,
    public: usize,
}

impl Early {
    fn count(&mut self, wd: Wd) -> &mut usize {
        if is_public(wd) { &mut self.public } else { &mut self.own }
    }

    /// Keeps an event; answers whether there was room. Where there is none, nothing of the instance is kept.
    fn keep(&mut self, wd: Wd, name: &str, bits: u32) -> bool {
        if *self.count(wd) >= EARLY {
            self.events.retain(|other, _| is_public(*other) != is_public(wd));
            *self.count(wd) = 0;
            return false;
        }
        *self.count(wd) += 1;
        self.events.entry(wd).or_default().push((name.to_owned(), bits));
        true
    }

    fn take(&mut self, wd: Wd) -> Vec<(String, u32)> {
        let events = self.events.remove(&wd).unwrap_or_default();
        *self.count(wd) -= events.len();
        events
    }
}

impl Index {
    /// An index of nothing.
    pub fn new() -> Index {
        Index::default()
    }

    /// Takes watches in, each with the unit that owns the entry or inode. Answers what earlier events of them mean.
    pub fn add<'a>(&mut self, watches: impl IntoIterator<Item = (&'a Watch, Option<Node>)>) -> Touch {
        let mut added = BTreeSet::new();
        for (watch, owner) in watches {
            added.extend(self.add_one(watch, owner));
        }
        let mut touch = Touch::default();
        // ORDER: a directory is announced before what is owned in it.
        for wd in added {
            for (name, bits) in self.early.take(wd) {
                self.event_into(wd, &name, bits, &mut touch);
            }
        }
        touch
    }

    fn add_one(&mut self, watch: &Watch, owner: Option<Node>) -> Option<Wd> {
        let (Watch::Directory { wd, public, .. }
        | Watch::Entry { wd, public, .. }
        | Watch::Inode { wd, public, .. }) = watch
        else {
            return None;
        };
        let wd = packed((*public, *wd));
        let place = self.places.entry(wd).or_default();
        match (watch, owner) {
            (Watch::Directory { parent: Some(parent), name, .. }, _) => {
                let above = packed(*parent);
                self.places.entry(above).or_default();
                // ORDER: what has this hash already stays. Whether it is another name, or was replaced, only its own end
                // tells.
                self.links.add(above, hash(name), wd);
            }
            (Watch::Directory { parent: None, .. }, _) => self.links.add(wd, hash(""), wd),
            (Watch::Entry { name, .. }, Some(node)) if !name.is_empty() => {
                place.entries.insert((hash(name), node));
            }
            (Watch::Entry { .. } | Watch::Inode { .. }, Some(node)) => place.all.insert(node),
            (_, _) => {}
        }
        Some(wd)
    }

    /// The path of a watched directory, as those who own something there tell it: the index knows no paths.
    pub fn directory(&self, key: Key, path: impl Fn(Node) -> Option<String>) -> Option<String> {
        let place = self.places.get(&packed(key))?;
        let whole = place.all.iter().find_map(|node| path(*node));
        let above = place.entries.iter().find_map(|(entry, node)| {
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

    /// Units that own a real path or something below it, whatever links they are declared through: what is mounted there
    /// covers them, of which the directories that it covers tell nothing.
    pub fn owners_at(&self, path: &str) -> BTreeSet<Node> {
        let mut touch = Touch::default();
        let mut at: BTreeSet<Wd> = self.links.root().into_iter().collect();
        for name in path.split('/').filter(|name| !name.is_empty()).map(hash) {
            let places = at.iter().filter_map(|wd| self.places.get(wd));
            touch.dirty = places
                .flat_map(|place| place.entries.like(move |(h, _)| *h < name, move |(h, _)| *h == name))
                .map(|(_, node)| *node)
                .collect();
            at = at.iter().flat_map(|wd| self.links.named(*wd, name)).collect();
        }
        self.below(at, &mut touch);
        touch.dirty
    }

    /// Who else owns the entry of this name that a unit owns. A walk over all that is watched.
    pub fn sharing(&self, node: Node, name: &str) -> BTreeSet<Node> {
        let name = hash(name);
        let mut all = BTreeSet::new();
        for place in self.places.values() {
            let owners = place.entries.like(|(h, _)| *h < name, |(h, _)| *h == name).map(|(_, owner)| *owner);
            let owners: BTreeSet<Node> = owners.collect();
            if owners.contains(&node) {
                all.extend(owners);
            }
        }
        all.remove(&node);
        all
    }

    /// An event; `name` is empty when it is about the watched thing itself.
    pub fn event(&mut self, key: Key, name: &str, bits: u32) -> Touch {
        let mut touch = Touch::default();
        self.event_into(packed(key), name, bits, &mut touch);
        touch
    }

    fn event_into(&mut self, wd: Wd, name: &str, bits: u32, touch: &mut Touch) {
        if bits & mask::Q_OVERFLOW != 0 {
            self.lost(is_public(wd), touch);
            return;
        }
        let Some(place) = self.places.get(&wd) else {
            // A watch that has gone says so once more; nobody waits for that.
            if bits & mask::IGNORED == 0 && !self.early.keep(wd, name, bits) {
                self.lost(is_public(wd), touch);
            }
            return;
        };
        touch.dirty.extend(place.all.iter());
        let gone = bits & (mask::DELETE_SELF | mask::MOVE_SELF | mask::UNMOUNT | mask::IGNORED) != 0;
        if name.is_empty() && gone {
            self.below([wd], touch);
        } else if !name.is_empty() {
            let name = hash(name);
            let owners = place.entries.like(|(h, _)| *h < name, |(h, _)| *h == name);
            touch.dirty.extend(owners.map(|(_, node)| node));
            if bits & mask::MOVED != 0 {
                // The directory came, went or was moved: everything below may be another.
                self.below(self.links.named(wd, name), touch);
            }
        }
        if bits & mask::IGNORED != 0 {
            self.places.remove(&wd);
            self.links.cut(wd);
        }
    }

    /// Events of an instance were lost.
    fn lost(&self, public: bool, touch: &mut Touch) {
        if public {
            self.below(self.places.range(Number(PUBLIC)..).map(|(wd, _)| *wd), touch);
        } else {
            touch.rescan = true;
        }
    }

    fn below(&self, wds: impl IntoIterator<Item = Wd>, touch: &mut Touch) {
        let mut seen = BTreeSet::new();
        let mut open: Vec<Wd> = wds.into_iter().collect();
        while let Some(wd) = open.pop() {
            let Some(place) = self.places.get(&wd).filter(|_| seen.insert(wd)) else { continue };
            touch.dirty.extend(place.all.iter());
            touch.dirty.extend(place.entries.iter().map(|(_, node)| node));
            open.extend(self.links.inside(wd));
        }
    }

    /// Units are gone. Answers the watches that nobody needs any more, which are to be removed.
    pub fn forget(&mut self, nodes: &BTreeSet<Node>) -> BTreeSet<Key> {
        let mut open = Vec::new();
        for (wd, place) in &mut self.places {
            place.entries.retain(|(_, n)| !nodes.contains(n));
            place.all.retain(|n| !nodes.contains(n));
            if place.is_empty() {
                open.push(*wd);
            }
        }
        let mut gone = BTreeSet::new();
        // A directory is needed for what it holds, or for what lies further inside: those above come after it.
        while let Some(wd) = open.pop() {
            let is_needed = self.places.get(&wd).is_none_or(|p| !p.is_empty());
            if is_needed || self.links.inside(wd).any(|inside| inside != wd) {
                continue;
            }
            self.places.remove(&wd);
            open.extend(self.links.cut(wd));
            gone.insert(key(wd));
        }
        gone
    }

    /// Lays everything out anew, place after place and without room for more: grown one by one, and moved each time, the lists
    /// would lie all over the heap and keep its pages from going.
    pub fn rest(&mut self) {
        let rooms = |p: &Place| p.entries.has_room() || p.all.has_room();
        if !self.places.values().any(rooms) {
            return;
        }
        let mut entries = Vec::new();
        let mut all = Vec::new();
        let mut lengths = Vec::with_capacity(self.places.len());
        for (wd, place) in std::mem::take(&mut self.places) {
            let (of_entries, of_all) = (place.entries.into_list(), place.all.into_list());
            lengths.push((wd, of_entries.len(), of_all.len()));
            entries.extend(of_entries);
            all.extend(of_all);
        }
        let (mut entries, mut all) = (entries.into_iter(), all.into_iter());
        let place = |(wd, of_entries, of_all)| {
            let entries = Runs::of_list(entries.by_ref().take(of_entries).collect());
            (wd, Place { entries, all: Runs::of_list(all.by_ref().take(of_all).collect()) })
        };
        self.places = lengths.into_iter().map(place).collect();
    }

    /// Bytes that the index takes, without what the nodes of its maps hold beside their items.
    pub fn bytes(&self) -> usize {
        let place = |p: &Place| size_of::<(Wd, Place)>() + p.entries.bytes() + p.all.bytes();
        let links = self.links.down.len() + self.links.up.len();
        self.places.values().map(place).sum::<usize>() + links * size_of::<(Wd, Hash, Wd)>()
    }
}
