//! What comes to the notify sockets of services, and from whom it is believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;

use super::Shell;
use super::fnv::fnv;
use super::token::Turn;
use crate::sys::cgroup;
use crate::sys::message::Sender;
use crate::sys::notify::Message;

/// Most notifications of one service in one turn.
const NOTIFICATIONS: usize = 64;
/// Messages of a user who is none of the service's that are looked at: a child of the service may have such a user too.
const STRANGE: u32 = 64;
/// Most such users: whoever has 65,536 of them (subuid(5)) would fill memory and the log with them.
const USERS: usize = 256;

/// The socket of a unit: under its name, or under what is left of it and a number of its own where the path would be
/// longer than an address of unix(7) may be.
pub(super) fn notify_place(run: &Path, address: &str) -> PathBuf {
    const LONGEST: usize = 107;
    let place = |name: &str| run.join("notify").join(name);
    let name = cgroup::directory_name(address);
    let over = place(&name).as_os_str().len().saturating_sub(LONGEST);
    if over == 0 {
        return place(&name);
    }
    let number = format!("~{:016x}", fnv(address.bytes()));
    // What is escaped is cut in the middle at worst: nobody reads it back.
    let kept = name.get(..name.len().saturating_sub(over + number.len())).unwrap_or_default();
    place(&format!("{kept}{number}"))
}

/// Users who are none of a service's, and how many messages of theirs came to its notify socket.
#[derive(Debug, Default)]
pub struct Strangers(BTreeMap<u32, u32>);

impl Strangers {
    /// Whether a message of this user is looked at, who may turn out to be none; nothing where only those are that are
    /// surely none: there have been too many.
    fn hears(&self, uid: u32) -> Option<bool> {
        match self.0.get(&uid) {
            Some(count) => Some(*count < STRANGE),
            None => (self.0.len() < USERS).then_some(true),
        }
    }

    /// One more message was refused; the words for which that is worth a line, behind who it was.
    fn refused(&mut self, uid: u32) -> Option<&'static str> {
        if self.hears(uid) != Some(true) {
            return None;
        }
        let count = *self.0.entry(uid).and_modify(|count| *count += 1).or_insert(1);
        match count {
            1 if self.0.len() == USERS => Some("; no more is heard of other users"),
            1 => Some(""),
            STRANGE => Some("; no more is heard of that user"),
            _ => None,
        }
    }
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
            if message.sender.is_none_or(|s| self.is_heard(serial, s.uid)) {
                self.notified(serial, message);
            }
        }
        if more { Turn::More } else { Turn::Drained }
    }

    fn is_heard(&self, serial: u64, uid: u32) -> bool {
        let Some(spawn) = self.spawns.get(serial) else { return false };
        spawn.strangers.hears(uid).unwrap_or_else(|| uid == 0 || self.service_user(serial) == Some(uid))
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
        let before = self.said.text(node);
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
        if self.said.text(node) != before {
            self.tell_said(node);
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
        let Some(more) = spawn.strangers.refused(sender.uid) else { return };
        let address = spawn.record.address.clone();
        let text = format!("ignored a notification from process {} of user {}{more}", sender.pid, sender.uid);
        self.say(Level::Warning, Some(&address), &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::notify::NotifySocket;

    #[test]
    fn a_user_is_told_of_twice() {
        let mut strangers = Strangers::default();
        let said: Vec<_> = (0..STRANGE + 9).filter_map(|_| strangers.refused(7)).collect();
        assert_eq!(said, ["", "; no more is heard of that user"]);
        assert_eq!((strangers.hears(7), strangers.hears(8)), (Some(false), Some(true)));
    }

    #[test]
    fn many_users_take_no_more_room_than_some() {
        let mut strangers = Strangers::default();
        let said: Vec<_> = (1..=65_536).filter_map(|uid| strangers.refused(uid)).collect();
        assert_eq!((said.len(), said.last()), (USERS, Some(&"; no more is heard of other users")));
        assert_eq!(strangers.0.len(), USERS);
        assert_eq!((strangers.hears(1), strangers.hears(65_536)), (Some(true), None));
        assert_eq!(strangers.refused(1), None, "told of already");
    }

    #[test]
    fn the_longest_name_has_a_socket_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("notify")).unwrap();
        let long = |last: &str| format!("service:{}{last}", "n".repeat(199));
        let places = ["service:short".to_owned(), long("a"), long("b")].map(|a| notify_place(dir.path(), &a));
        let _bound = places.each_ref().map(|p| NotifySocket::bind(p, false).unwrap());
        assert!(places[0].ends_with("notify/service:short"));
        assert_ne!(places[1], places[2]);
        assert_eq!(places[1].parent(), places[0].parent());
    }
}
