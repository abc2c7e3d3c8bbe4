//! From inotify events to units. The worker adds the watches and says what each is for; PID 1 only listens, and
//! looks no path up. What is where, [`cm_core::watch`] knows.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::engine::{Mono, Node};
use cm_core::pack::pack;
use cm_core::proto::Watch;
use cm_core::throttle::Throttle;
use cm_core::watch::{Index, Key, Touch, mask};
use nix::sys::inotify::{AddWatchFlags, Inotify, InotifyEvent};

use super::token::{Token, Turn};
use super::{Shell, now};
use crate::sys::{inherit, raw};

/// Most buffers (of some hundred events) that one turn reads.
const BUFFERS: usize = 64;
/// Events a second that others than root may cause.
const PUBLIC_EVENTS: u32 = 1024;
/// Bytes of a buffer into which a queue is emptied unread.
const EMPTIED: usize = 64 << 10;

/// The index, and what keeps its watches alive.
#[derive(Debug)]
pub struct Watches {
    index: Index,
    own: Throttle,
    public: Throttle,
    /// Descriptors that keep inodes in memory, whose watches would go with them (settings in procfs).
    held: BTreeMap<Key, OwnedFd>,
    /// Units that are not watched, or not wholly, with the reason.
    missing: BTreeMap<Node, String>,
    /// Units that have gone since watches were last removed.
    gone: BTreeSet<Node>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            index: Index::new(),
            // What root does is never too much, until the kernel says that it was.
            own: Throttle::new(u32::MAX),
            public: Throttle::new(PUBLIC_EVENTS),
            held: BTreeMap::new(),
            missing: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }
}

impl Watches {
    fn throttle(&mut self, public: bool) -> &mut Throttle {
        if public { &mut self.public } else { &mut self.own }
    }

    /// Who owns what where.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Nothing is about to be watched.
    pub(super) fn rest(&mut self) {
        self.index.rest();
    }

    /// Why drift of a unit may go unseen.
    pub fn missing(&self, node: Node) -> Option<&str> {
        self.missing.get(&node).map(String::as_str)
    }

    /// Who else owns the entry of this name that a unit owns.
    pub fn sharing(&self, node: Node, name: &str) -> BTreeSet<Node> {
        self.index.sharing(node, name)
    }

    /// When an instance is heard again that was too loud.
    pub fn deadline(&self) -> Option<Mono> {
        [&self.own, &self.public].into_iter().filter_map(Throttle::until).min()
    }

    /// A unit has gone.
    pub fn unit_gone(&mut self, node: Node) {
        self.missing.remove(&node);
        self.gone.insert(node);
    }

    /// All of it for the next PID 1: the watches themselves are the kernel's, and stay with their descriptors. Nothing
    /// while an instance is not heard, after which everything is looked at anyway.
    pub fn hand_over(&self) -> Option<Vec<u8>> {
        if self.deadline().is_some() {
            return None;
        }
        let mut held: Vec<(Key, RawFd)> = Vec::with_capacity(self.held.len());
        for (key, fd) in &self.held {
            inherit::set_close_on_exec(fd.as_fd(), false).ok()?;
            held.push((*key, fd.as_raw_fd()));
        }
        pack(&(&self.index, held, &self.missing, &self.gone)).ok()
    }

    /// What an earlier PID 1 has handed over, if all of it is there.
    pub fn adopted(bytes: &[u8], mut take: impl FnMut(RawFd) -> Option<OwnedFd>) -> Option<Watches> {
        type Handed = (Index, Vec<(Key, RawFd)>, BTreeMap<Node, String>, BTreeSet<Node>);
        let (index, held, missing, gone): Handed = postcard::from_bytes(bytes).ok()?;
        let held = held.into_iter().map(|(key, number)| {
            let fd = take(number)?;
            inherit::set_close_on_exec(fd.as_fd(), true).ok()?;
            Some((key, fd))
        });
        Some(Watches { index, held: held.collect::<Option<_>>()?, missing, gone, ..Watches::default() })
    }
}

/// The watch that most of these events are of.
fn loudest(events: &[InotifyEvent]) -> Option<i32> {
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    for event in events.iter().filter(|e| !e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)) {
        *counts.entry(event.wd.as_raw()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(wd, _)| wd)
}

impl Shell {
    /// The worker has added watches.
    pub(super) fn watches_added(&mut self, watches: Vec<Watch>, held: Vec<OwnedFd>) {
        // Descriptors come one a watch, in their order.
        for (watch, fd) in watches.iter().zip(held) {
            if let Watch::Inode { wd, public, .. } = watch {
                self.watches.held.insert((*public, *wd), fd);
            }
        }
        let mut owned = Vec::with_capacity(watches.len());
        for watch in &watches {
            let owner = match watch {
                Watch::Entry { manifest, unit, .. } | Watch::Inode { manifest, unit, .. } => {
                    self.engine.node_in(*manifest, *unit)
                }
                Watch::Directory { .. } | Watch::Missing { .. } => None,
            };
            if let Some(node) = owner {
                self.watches.missing.remove(&node);
            }
            if let Watch::Missing { manifest, unit, why } = watch
                && let Some(node) = self.engine.node_in(*manifest, *unit)
            {
                self.watches.missing.insert(node, why.clone());
            }
            owned.push((watch, owner));
        }
        let touched = self.watches.index.add(owned);
        self.touched_by_watches(touched);
    }

    /// Removes the watches of units that have gone. A worker counts on what it has announced, so that this waits
    /// until none has anything to do, and makes way for a fresh one.
    pub(super) fn forget_watches_if_due(&mut self) {
        if self.watches.gone.is_empty() || self.workers.values().any(|w| !w.link.tasks().is_empty()) {
            return;
        }
        let mut gone = std::mem::take(&mut self.watches.gone);
        // Another unit may have got the number meanwhile.
        gone.retain(|node| self.engine.is_gone(*node));
        let unneeded = self.watches.index.forget(&gone);
        if unneeded.is_empty() {
            return;
        }
        self.dismiss_workers();
        for key in unneeded {
            let instance = if key.0 { &self.public_inotify } else { &self.inotify };
            // One that has gone by itself is no error.
            drop(raw::inotify_rm_watch(instance.as_fd(), key.1));
            self.watches.held.remove(&key);
        }
    }

    fn touched_by_watches(&mut self, touched: Touch) {
        if touched.rescan {
            self.queue.push_back(Event::Overflowed);
        } else if !touched.dirty.is_empty() {
            self.queue.push_back(Event::Touched { nodes: touched.dirty.into_iter().collect() });
        }
    }

    fn instance(&self, public: bool) -> &Inotify {
        if public { &self.public_inotify } else { &self.inotify }
    }

    /// Something happened to what is watched.
    pub(super) fn hear_watches(&mut self, public: bool) -> Turn {
        let mut touched = Touch::default();
        let mut turn = Turn::More;
        for _ in 0..BUFFERS {
            if self.watches.throttle(public).until().is_some() {
                turn = Turn::Drained;
                break;
            }
            match self.instance(public).read_events() {
                Ok(events) => {
                    // ORDER: a worker announces what it watches before it looks; an event of what came after that look
                    // would be about nobody if the announcement were still in its socket.
                    self.hear_workers();
                    let lost = events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
                    for event in events.iter().filter(|e| !e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)) {
                        self.watched(public, event, &mut touched);
                    }
                    if self.watches.throttle(public).heard(now(), events.len(), lost) {
                        self.pause_watches(public, loudest(&events));
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
        self.touched_by_watches(touched);
        turn
    }

    /// Nothing wakes us for this instance until the pause is over.
    fn pause_watches(&mut self, public: bool, loudest: Option<i32>) {
        if self.watches.throttle(public).is_new() {
            let what = if public {
                let path = |node| {
                    Some(self.engine.address(node)).filter(|a| a.name.starts_with('/')).map(|a| a.name)
                };
                let directory = loudest.and_then(|wd| self.watches.index.directory((true, wd), path));
                let place = directory.map_or_else(|| "a directory".to_owned(), |path| format!("{path:?}"));
                format!(
                    "others than root change too much in {place}, which is theirs to write: what is managed there, and in \
                     other such directories, is looked at now and then until they stop"
                )
            } else {
                "watches overflowed: everything that is watched will be looked at".to_owned()
            };
            self.say(Level::Notice, None, &what);
        }
        let fd = self.instance(public).as_fd().as_raw_fd();
        self.deregister(fd);
    }

    /// Hears instances again whose pause is over: what came in it is thrown away, and everything looked at that it may
    /// have been about.
    pub(super) fn resume_watches_if_due(&mut self, at: Mono) {
        for (public, token) in [(false, Token::Inotify), (true, Token::PublicInotify)] {
            if !self.watches.throttle(public).resume(at) {
                continue;
            }
            let mut buffer = vec![0; EMPTIED];
            for _ in 0..BUFFERS {
                if !matches!(nix::unistd::read(self.instance(public).as_fd(), &mut buffer), Ok(1..)) {
                    break;
                }
            }
            let touched = self.watches.index.event((public, -1), "", mask::Q_OVERFLOW);
            self.touched_by_watches(touched);
            let fd = self.instance(public).as_fd().as_raw_fd();
            self.register(fd, token);
        }
    }

    fn watched(&mut self, public: bool, event: &InotifyEvent, touched: &mut Touch) {
        let name = event.name.as_ref().map(|n| n.to_string_lossy()).unwrap_or_default();
        let one = self.watches.index.event((public, event.wd.as_raw()), &name, event.mask.bits());
        touched.dirty.extend(one.dirty);
        touched.rescan |= one.rescan;
    }
}
