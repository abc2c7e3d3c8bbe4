//! Kernel modules that are unloaded and disks that go: nothing of them is left that could be watched, but the kernel
//! tells.

use std::os::fd::AsRawFd;

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use units::Kind;

use super::Shell;
use super::token::{Token, Turn};
use crate::sys::module::is_loaded;
use crate::sys::uevent::{Heard, Uevents};

/// Datagrams of one turn.
const A_TURN: usize = 64;

/// What tells of them.
#[derive(Debug, Default)]
pub struct Modules {
    events: Option<Uevents>,
    /// It was tried to listen.
    opened: bool,
    /// What happened before this PID 1 listened was looked at.
    looked: bool,
}

impl Shell {
    /// At a boot, once what can start has started: to have the kernel compile a filter takes as long as a service, and what
    /// goes before that is found by the first look.
    pub(super) fn open_removals_if_due(&mut self) {
        if !self.modules.opened {
            self.open_removals();
        }
    }

    /// Starts to listen.
    pub(super) fn open_removals(&mut self) {
        self.modules.opened = true;
        match Uevents::of_removals() {
            Ok(events) => {
                self.register(events.as_raw_fd(), Token::Modules);
                self.modules.events = Some(events);
            }
            // A container's modules are its host's.
            Err(_) if self.options.container => {}
            Err(e) => self.say(Level::Warning, None, &format!("cannot hear of what is removed: {e}")),
        }
    }

    /// Something is gone. A disk is a matter of the mounts that stood on it. If it is a module, whatever is not loaded by
    /// its name is a helper's to look at: it may be declared by an alias, be built in, or be what was unloaded. The look
    /// costs no disk.
    pub(super) fn hear_removals(&mut self) -> Turn {
        let Some(events) = &mut self.modules.events else { return Turn::Drained };
        let mut heard = false;
        let mut turn = Turn::More;
        for _ in 0..A_TURN {
            match events.read() {
                Ok(Some(Heard::Event(event))) if event.subsystem == "block" => self.ready.push(Token::Mounts),
                Ok(Some(Heard::Event(event))) => heard |= event.path.starts_with("/module/"),
                Ok(Some(Heard::Overflow)) => {
                    heard = true;
                    self.ready.push(Token::Mounts);
                }
                Ok(None) | Err(_) => {
                    turn = Turn::Drained;
                    break;
                }
            }
        }
        let first = !std::mem::replace(&mut self.modules.looked, true);
        if first {
            // A device may have come before, of which nobody was told.
            self.ready.push(Token::Mounts);
        }
        if !heard && !first {
            return turn;
        }
        let (desired, _) = self.engine.desired();
        let Some(manifest) = self.engine.manifest(desired) else { return turn };
        let units = manifest.ids().filter(|id| manifest.kind(*id) == Kind::Module);
        let missing = units.filter(|id| !is_loaded(manifest.name(*id)));
        let nodes: Vec<Node> = missing
            .filter_map(|id| self.engine.node_in(desired, id))
            // At a boot nothing was loaded yet; what an earlier PID 1 has had loaded may have gone meanwhile.
            .filter(|node| heard || self.is_ready(*node))
            .collect();
        if !nodes.is_empty() {
            self.queue.push_back(Event::Touched { nodes });
        }
        turn
    }
}
