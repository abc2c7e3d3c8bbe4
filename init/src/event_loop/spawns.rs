//! Which process is whose: serial ↔ pid ↔ unit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cm_core::engine::Node;
use cm_core::engine::effect::Job;
use cm_core::proto::ManifestRef;
use serde::{Deserialize, Serialize};
use units::UnitId;

use super::notified::Strangers;
use crate::sys::notify::NotifySocket;
use crate::sys::raw;
use crate::sys::reap::{self, ProcessId};
use crate::sys::spawn::{StatusPipe, StatusRecord};

/// A process that was started for a unit, until it and its cgroup are gone.
#[derive(Debug)]
pub struct Spawn {
    /// What stays when PID 1 is replaced.
    pub record: Record,
    /// Its main process, as long as it lives and was not started by PID 1.
    pub pidfd: Option<OwnedFd>,
    /// What its set-up reports; gone once it has.
    pub stage: Option<Box<StatusPipe>>,
    /// Its notify socket.
    pub notify: Option<NotifySocket>,
    /// Its readiness pipe.
    pub ready: Option<OwnedFd>,
    /// Whose notifications are not its own.
    pub strangers: Strangers,
    /// Its cgroup is as good as a new one once it is empty: nothing was set in it, and nobody killed in it.
    pub clean: bool,
}

/// The part of a [`Spawn`] that is written into the live table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Identity.
    pub serial: u64,
    /// The unit.
    pub node: Node,
    /// Where its specification stands.
    pub manifest: ManifestRef,
    /// Under which number.
    pub unit: UnitId,
    /// What for.
    pub job: Job,
    /// The unit's address, for messages.
    pub address: String,
    /// The process that was started: leader of its session.
    pub leader: i32,
    /// The main process, with its start time; 0 when there is none.
    pub main: i32,
    /// See [`ProcessId::starttime`]; 0 for a child of PID 1, whose pid is nobody else's before PID 1 has reaped it, and
    /// that stands here before.
    pub starttime: u64,
    /// A moment right before it was started, in microseconds of `helper::tick`.
    pub started: u64,
    /// Name of its cgroup in the tree.
    pub cgroup: String,
    /// Whether the engine knows that the program runs, or could not be run.
    pub settled: bool,
    /// Its set-up failed: the engine has heard the last of it.
    pub failed: bool,
    /// The main process has ended.
    pub exited: bool,
    /// The service leaves a daemon behind (`ready = "forked"`) whose pid replaces that of its parent.
    pub forks: bool,
    /// Where that daemon writes its pid.
    pub pid_file: Option<String>,
    /// Number of the notify socket's descriptor.
    pub notify: Option<RawFd>,
    /// Number of the readiness pipe's descriptor.
    pub ready: Option<RawFd>,
    /// The status pipe, until its set-up has reported.
    pub stage: Option<Box<StatusRecord>>,
}

impl Record {
    /// Finds the main process again: nothing for a child of PID 1 that is still there, alive or dead; else a pidfd.
    ///
    /// # Errors
    /// When it is gone.
    pub fn find_main(&self) -> io::Result<Option<OwnedFd>> {
        if self.starttime == 0 {
            return reap::peek_at(self.main).map(|_| None);
        }
        ProcessId { pid: self.main, starttime: self.starttime }.open().map(Some)
    }
}

impl Spawn {
    /// Sends a signal to the main process; nothing when there is none.
    ///
    /// # Errors
    /// What the kernel said; ESRCH when the process has been reaped.
    pub fn signal_main(&self, signal: i32) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => raw::pidfd_send_signal(pidfd.as_fd(), signal),
            // A child of PID 1 that was not reaped: its pid is nobody else's.
            None if !self.record.exited => raw::kill(self.record.main, signal),
            None => Ok(()),
        }
    }

    /// Brings the descriptor numbers in the record up to date.
    pub fn note_descriptors(&mut self) {
        self.record.notify = self.notify.as_ref().map(AsRawFd::as_raw_fd);
        self.record.ready = self.ready.as_ref().map(AsRawFd::as_raw_fd);
        self.record.stage = self.stage.as_ref().map(|stage| Box::new(stage.record()));
    }
}

/// All spawns.
#[derive(Debug, Default)]
pub struct Spawns {
    by_serial: BTreeMap<u64, Spawn>,
    by_pid: BTreeMap<i32, u64>,
    changed: BTreeSet<u64>,
    /// The cgroups of all of them, and of how many each is.
    cgroups: BTreeMap<String, usize>,
}

impl Spawns {
    /// Adds one.
    pub fn insert(&mut self, spawn: Spawn) {
        let serial = spawn.record.serial;
        if spawn.record.main > 0 && !spawn.record.exited {
            self.by_pid.insert(spawn.record.main, serial);
        }
        self.changed.insert(serial);
        *self.cgroups.entry(spawn.record.cgroup.clone()).or_default() += 1;
        self.by_serial.insert(serial, spawn);
    }

    /// Removes one that is over.
    pub fn remove(&mut self, serial: u64) -> Option<Spawn> {
        let spawn = self.by_serial.remove(&serial)?;
        if self.by_pid.get(&spawn.record.main) == Some(&serial) {
            self.by_pid.remove(&spawn.record.main);
        }
        self.changed.insert(serial);
        if let Some(count) = self.cgroups.get_mut(&spawn.record.cgroup) {
            *count -= 1;
            if *count == 0 {
                self.cgroups.remove(&spawn.record.cgroup);
            }
        }
        Some(spawn)
    }

    /// One, to look at.
    pub fn get(&self, serial: u64) -> Option<&Spawn> {
        self.by_serial.get(&serial)
    }

    /// One, to change; it is written to the live table afterwards.
    pub fn get_mut(&mut self, serial: u64) -> Option<&mut Spawn> {
        let spawn = self.by_serial.get_mut(&serial)?;
        self.changed.insert(serial);
        Some(spawn)
    }

    /// Whose main process has this pid.
    pub fn of_pid(&self, pid: i32) -> Option<u64> {
        self.by_pid.get(&pid).copied()
    }

    /// The main process of a spawn is another one from now on, or none (`None`).
    pub fn set_main(&mut self, serial: u64, main: Option<(ProcessId, OwnedFd)>) {
        let Some(spawn) = self.by_serial.get_mut(&serial) else { return };
        if self.by_pid.get(&spawn.record.main) == Some(&serial) {
            self.by_pid.remove(&spawn.record.main);
        }
        match main {
            Some((id, pidfd)) => {
                (spawn.record.main, spawn.record.starttime) = (id.pid, id.starttime);
                spawn.pidfd = Some(pidfd);
                spawn.record.exited = false;
                self.by_pid.insert(id.pid, serial);
            }
            None => {
                spawn.pidfd = None;
                spawn.record.exited = true;
            }
        }
        self.changed.insert(serial);
    }

    /// All, by serial.
    pub fn iter(&self) -> impl Iterator<Item = &Spawn> {
        self.by_serial.values()
    }

    /// Serials whose main process has ended, and whose cgroup is this one if it is named.
    pub fn ended(&self, cgroup: Option<&str>) -> Vec<u64> {
        let matching = |s: &&Spawn| s.record.exited && cgroup.is_none_or(|c| c == s.record.cgroup);
        self.iter().filter(matching).map(|s| s.record.serial).collect()
    }

    /// Whether something that was started is, or was last, in this cgroup.
    pub fn in_cgroup(&self, name: &str) -> bool {
        self.cgroups.contains_key(name)
    }

    /// The cgroup of this one has been killed in.
    pub fn killed(&mut self, serial: u64) {
        if let Some(spawn) = self.by_serial.get_mut(&serial) {
            spawn.clean = false;
        }
    }

    /// The latest spawn of a unit for a job.
    pub fn of_node(&self, node: Node, job: Job) -> Option<&Spawn> {
        self.by_serial.values().rev().find(|s| s.record.node == node && s.record.job == job)
    }

    /// Serials that changed since the last time, for the live table.
    pub fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(serial: u64, pid: i32) -> Spawn {
        let record = Record {
            serial,
            node: Node(1),
            manifest: ManifestRef(1),
            unit: UnitId(1),
            job: Job::Main,
            address: "service:x".to_owned(),
            leader: pid,
            main: pid,
            starttime: 1,
            started: 0,
            cgroup: "service:x".to_owned(),
            settled: false,
            failed: false,
            exited: false,
            forks: false,
            pid_file: None,
            notify: None,
            ready: None,
            stage: None,
        };
        Spawn {
            record,
            pidfd: None,
            stage: None,
            notify: None,
            ready: None,
            strangers: Strangers::default(),
            clean: false,
        }
    }

    #[test]
    fn a_reused_pid_belongs_to_the_later_spawn() {
        let mut all = Spawns::default();
        all.insert(spawn(1, 50));
        all.set_main(1, None);
        assert_eq!(all.of_pid(50), None);
        all.insert(spawn(2, 50));
        all.remove(1);
        assert_eq!(all.of_pid(50), Some(2));
        assert_eq!(all.ended(None), Vec::<u64>::new());
        assert_eq!(all.take_changed().len(), 2);
    }

    #[test]
    fn a_cgroup_is_in_use_as_long_as_one_of_its_spawns_is_there() {
        let mut all = Spawns::default();
        assert!(!all.in_cgroup("service:x"));
        all.insert(spawn(1, 50));
        all.insert(spawn(2, 51));
        all.remove(1);
        assert!(all.in_cgroup("service:x") && !all.in_cgroup("service:y"));
        all.remove(2);
        assert!(!all.in_cgroup("service:x"));
    }
}
