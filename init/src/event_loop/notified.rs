//! What comes to the notify sockets of services, and from whom it is believed.

use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;

use super::Shell;
use super::spawns::Spawn;
use super::token::Turn;
use crate::sys::message::Sender;
use crate::sys::notify::Message;

/// Most notifications of one service in one turn.
const NOTIFICATIONS: usize = 64;
/// Messages of a user who is none of the service's that are looked at: a child of the service may have such a user too.
const STRANGE: u32 = 64;

fn spawn_heard(spawn: Option<&Spawn>, uid: u32) -> bool {
    spawn.is_none_or(|s| !s.strangers.contains(&(uid, STRANGE)))
}

impl Shell {
    /// Notifications of a service.
    pub(super) fn hear_notify(&mut self, serial: u64) -> Turn {
        let mut messages = Vec::new();
        let Some(spawn) = self.spawns.get(serial) else { return Turn::Drained };
        let Some(socket) = &spawn.notify else { return Turn::Drained };
        let more = socket.drain(NOTIFICATIONS, &mut messages).unwrap_or(false);
        for message in messages {
            // Who floods it costs no more than the reading.
            let heard = |uid| spawn_heard(self.spawns.get(serial), uid);
            if message.sender.is_none_or(|s| heard(s.uid)) {
                self.notified(serial, message);
            }
        }
        if more { Turn::More } else { Turn::Drained }
    }

    fn notified(&mut self, serial: u64, message: Message) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        let said = message.notification;
        let node = spawn.record.node;
        // The socket lies where anybody can reach it: only root and the service itself are believed.
        // A child that only notifies may be gone by now, so that its user is all that is known of it.
        if let Some(sender) = message.sender
            && sender.uid != 0
            && self.service_user(serial) != Some(sender.uid)
            && !self.is_member(serial, sender.pid)
        {
            return self.refuse_stranger(serial, sender);
        }
        if let Some(pid) = said.main_pid {
            self.adopt_main(serial, pid);
        }
        if let Some(status) = said.status {
            self.said.status(node, status);
        }
        let in_time = said.extend_timeout_usec.is_some() || said.watchdog_usec.is_some();
        if said.ready || said.reloading || said.watchdog || said.watchdog_trigger || in_time {
            // Its program runs, or it could not speak.
            self.hear_stage(serial);
        }
        if said.stopping || said.ready {
            self.said.stopping(node, said.stopping);
        }
        if said.reloading && self.said.answers(node, said.monotonic_usec) {
            self.queue.push_back(Event::Reloading { serial });
        }
        // ORDER: before READY=1, which ends the phase whose time is extended.
        if let Some(microseconds) = said.extend_timeout_usec {
            self.queue.push_back(Event::Extended { serial, ms: microseconds.div_ceil(1000) });
        }
        if let Some(microseconds) = said.watchdog_usec {
            self.queue.push_back(Event::WatchdogSet { serial, ms: microseconds.div_ceil(1000) });
        }
        if said.ready {
            self.queue.push_back(Event::Ready { serial });
        }
        if said.watchdog {
            self.queue.push_back(Event::Watchdog { serial });
        }
        if said.watchdog_trigger {
            self.queue.push_back(Event::Broken { serial });
        }
    }

    /// The user that the main process of a spawn runs as; a process that hides from others counts as root's. Of
    /// /proc only the owner is asked for, which never waits for the process.
    fn service_user(&self, serial: u64) -> Option<u32> {
        use std::os::unix::fs::MetadataExt;
        let record = &self.spawns.get(serial).filter(|s| !s.record.exited)?.record;
        Some(std::fs::metadata(format!("/proc/{}", record.main)).ok()?.uid())
    }

    /// Says so when a user begins and when it is not listened to any more: whoever floods the socket fills no log.
    fn refuse_stranger(&mut self, serial: u64, sender: Sender) {
        let Some(spawn) = self.spawns.get_mut(serial) else { return };
        let at = spawn.strangers.iter().position(|(uid, _)| *uid == sender.uid).unwrap_or_else(|| {
            spawn.strangers.push((sender.uid, 0));
            spawn.strangers.len() - 1
        });
        let Some((_, count)) = spawn.strangers.get_mut(at) else { return };
        *count += 1;
        let more = match *count {
            1 => "",
            STRANGE => "; no more is heard of that user",
            _ => return,
        };
        let address = spawn.record.address.clone();
        let text = format!("ignored a notification from process {} of user {}{more}", sender.pid, sender.uid);
        self.say(Level::Warning, Some(&address), &text);
    }
}
