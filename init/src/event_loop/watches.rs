//! From inotify events to units. The worker adds the watches and says what each is for; PID 1 only listens, and
//! looks no path up.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::proto::Watch;
use nix::sys::inotify::{AddWatchFlags, InotifyEvent};

use super::Shell;
use super::token::Turn;

/// Most buffers (of some hundred events) that one turn reads.
const BUFFERS: usize = 64;
/// Most events of watches that nobody has told us of yet.
const EARLY: usize = 4096;

/// A watch descriptor, with the instance it belongs to.
type Key = (bool, i32);

/// What one watch is for.
#[derive(Debug, Default)]
struct Entry {
    /// Units by the name that they own in the directory.
    names: BTreeMap<String, BTreeSet<Node>>,
    /// Units that own every entry, or the inode itself.
    all: BTreeSet<Node>,
    /// Watched directories inside, by name.
    inside: BTreeMap<String, Key>,
}

/// The index.
#[derive(Debug, Default)]
pub struct Watches {
    entries: BTreeMap<Key, Entry>,
    /// Events that came before their watch was announced.
    early: Vec<(Key, String)>,
    /// Descriptors that keep inodes in memory, whose watches would go with them (settings in procfs).
    held: Vec<OwnedFd>,
}

impl Watches {
    /// Takes one watch in; `node` tells the unit. Answers the units that an earlier event was about.
    pub fn add(&mut self, watch: Watch, node: impl FnOnce(&Watch) -> Option<Node>) -> BTreeSet<Node> {
        let owner = node(&watch);
        let key = match watch {
            Watch::Directory { wd, public, parent, name } => {
                if let Some(parent) = parent {
                    self.entries.entry(parent).or_default().inside.insert(name, (public, wd));
                }
                self.entries.entry((public, wd)).or_default();
                (public, wd)
            }
            Watch::Entry { wd, public, name, .. } => {
                let entry = self.entries.entry((public, wd)).or_default();
                match (owner, name.is_empty()) {
                    (Some(node), true) => drop(entry.all.insert(node)),
                    (Some(node), false) => drop(entry.names.entry(name).or_default().insert(node)),
                    (None, _) => {}
                }
                (public, wd)
            }
            Watch::Inode { wd, public, .. } => {
                self.entries.entry((public, wd)).or_default().all.extend(owner);
                (public, wd)
            }
        };
        let mut touched = BTreeSet::new();
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.early).into_iter().partition(|(k, _)| *k == key);
        self.early = later;
        for (key, name) in now {
            self.touch(key, &name, &mut touched);
        }
        touched
    }

    /// An event of a watch; `name` is empty when it is about the watched thing itself.
    pub fn touch(&mut self, key: Key, name: &str, touched: &mut BTreeSet<Node>) {
        let Some(entry) = self.entries.get(&key) else {
            if self.early.len() < EARLY {
                self.early.push((key, name.to_owned()));
            }
            return;
        };
        touched.extend(&entry.all);
        if name.is_empty() {
            return self.touch_below(key, touched);
        }
        touched.extend(entry.names.get(name).into_iter().flatten());
        if let Some(inside) = entry.inside.get(name).copied() {
            // The directory came, went or was moved: everything below may be another.
            self.touch_below(inside, touched);
        }
    }

    fn touch_below(&self, key: Key, touched: &mut BTreeSet<Node>) {
        let mut seen = BTreeSet::new();
        let mut open = vec![key];
        while let Some(key) = open.pop() {
            let Some(entry) = self.entries.get(&key).filter(|_| seen.insert(key)) else { continue };
            touched.extend(&entry.all);
            touched.extend(entry.names.values().flatten());
            open.extend(entry.inside.values());
        }
    }

    /// The kernel has dropped a watch.
    pub fn remove(&mut self, key: Key) {
        self.entries.remove(&key);
    }
}

impl Shell {
    /// The worker has added watches.
    pub(super) fn watches_added(&mut self, watches: Vec<Watch>, held: Vec<OwnedFd>) {
        self.watches.held.extend(held);
        let mut touched = BTreeSet::new();
        for watch in watches {
            let engine = &self.engine;
            touched.extend(self.watches.add(watch, |w| match w {
                Watch::Entry { manifest, unit, .. } | Watch::Inode { manifest, unit, .. } => {
                    engine.node_in(*manifest, *unit)
                }
                Watch::Directory { .. } => None,
            }));
        }
        if !touched.is_empty() {
            self.queue.push_back(Event::Touched { nodes: touched.into_iter().collect() });
        }
    }

    /// Something happened to what is watched.
    pub(super) fn hear_watches(&mut self, public: bool) -> Turn {
        let mut touched = BTreeSet::new();
        let mut overflowed = false;
        let mut turn = Turn::More;
        for _ in 0..BUFFERS {
            let instance = if public { &self.public_inotify } else { &self.inotify };
            match instance.read_events() {
                Ok(events) => {
                    for event in events {
                        overflowed |= self.watched(public, &event, &mut touched);
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    turn = Turn::Drained;
                    break;
                }
                Err(e) => {
                    self.say(Level::Error, None, &format!("cannot read watches: {e}"));
                    turn = Turn::Drained;
                    break;
                }
            }
        }
        if overflowed {
            self.say(Level::Warning, None, "watches overflowed: looking at everything that is watched");
            self.queue.push_back(Event::Overflowed);
        } else if !touched.is_empty() {
            self.queue.push_back(Event::Touched { nodes: touched.into_iter().collect() });
        }
        turn
    }

    fn watched(&mut self, public: bool, event: &InotifyEvent, touched: &mut BTreeSet<Node>) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let key = (public, event.wd.as_raw());
        let name = event.name.as_ref().and_then(|n| n.to_str()).unwrap_or_default();
        self.watches.touch(key, name, touched);
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watches.remove(key);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cm_core::proto::ManifestRef;
    use units::UnitId;

    fn entry(wd: i32, name: &str) -> Watch {
        Watch::Entry { wd, public: false, name: name.to_owned(), manifest: ManifestRef(1), unit: UnitId(1) }
    }

    #[test]
    fn names_subtrees_and_early_events() {
        let mut index = Watches::default();
        let mut early = BTreeSet::new();
        index.touch((false, 2), "motd", &mut early);
        assert!(early.is_empty());
        let directory =
            Watch::Directory { wd: 2, public: false, parent: Some((false, 1)), name: "etc".to_owned() };
        index.add(directory, |_| None);
        assert!(index.add(entry(2, "issue"), |_| Some(Node(8))).is_empty());
        index.touch((false, 2), "motd", &mut early);
        let mut touched = BTreeSet::new();
        index.add(entry(2, "motd"), |_| Some(Node(7)));
        index.touch((false, 2), "motd", &mut touched);
        assert_eq!(touched, BTreeSet::from([Node(7)]));
        touched.clear();
        index.touch((false, 1), "etc", &mut touched);
        assert_eq!(touched, BTreeSet::from([Node(7), Node(8)]));
        touched.clear();
        index.touch((false, 2), "", &mut touched);
        assert_eq!(touched.len(), 2);
    }

    #[test]
    fn an_event_is_kept_until_its_watch_is_known() {
        let mut index = Watches::default();
        let mut touched = BTreeSet::new();
        index.touch((false, 5), "motd", &mut touched);
        assert_eq!(index.add(entry(5, "motd"), |_| Some(Node(3))), BTreeSet::from([Node(3)]));
    }
}
