//! From inotify events to units. The worker adds the watches and says what each is for; PID 1 only listens, and
//! looks no path up. What is where, [`cm_core::watch`] knows.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::proto::Watch;
use cm_core::watch::{Index, Key, Touch};
use nix::sys::inotify::InotifyEvent;

use super::Shell;
use super::token::Turn;
use crate::sys::raw;

/// Most buffers (of some hundred events) that one turn reads.
const BUFFERS: usize = 64;

/// The index, and what keeps its watches alive.
#[derive(Debug, Default)]
pub struct Watches {
    index: Index,
    /// Descriptors that keep inodes in memory, whose watches would go with them (settings in procfs).
    held: BTreeMap<Key, OwnedFd>,
    /// Units that have gone since watches were last removed.
    gone: BTreeSet<Node>,
}

impl Watches {
    /// A unit has gone.
    pub fn unit_gone(&mut self, node: Node) {
        self.gone.insert(node);
    }
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
        let mut touched = Touch::default();
        for watch in &watches {
            let owner = match watch {
                Watch::Entry { manifest, unit, .. } | Watch::Inode { manifest, unit, .. } => {
                    self.engine.node_in(*manifest, *unit)
                }
                Watch::Directory { .. } => None,
            };
            let early = self.watches.index.add(watch, owner);
            touched.dirty.extend(early.dirty);
            touched.rescan |= early.rescan;
        }
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
            self.say(Level::Warning, None, "watches overflowed: looking at everything that is watched");
            self.queue.push_back(Event::Overflowed);
        } else if !touched.dirty.is_empty() {
            self.queue.push_back(Event::Touched { nodes: touched.dirty.into_iter().collect() });
        }
    }

    /// Something happened to what is watched.
    pub(super) fn hear_watches(&mut self, public: bool) -> Turn {
        let mut touched = Touch::default();
        let mut turn = Turn::More;
        for _ in 0..BUFFERS {
            let instance = if public { &self.public_inotify } else { &self.inotify };
            match instance.read_events() {
                Ok(events) => {
                    for event in events {
                        self.watched(public, &event, &mut touched);
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

    fn watched(&mut self, public: bool, event: &InotifyEvent, touched: &mut Touch) {
        let name = event.name.as_ref().map(|n| n.to_string_lossy()).unwrap_or_default();
        let one = self.watches.index.event((public, event.wd.as_raw()), &name, event.mask.bits());
        touched.dirty.extend(one.dirty);
        touched.rescan |= one.rescan;
    }
}
