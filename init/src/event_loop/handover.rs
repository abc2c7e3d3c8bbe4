//! From one PID 1 to the next: the live table is written whenever effects were carried out, before the
//! next event, and read by whoever comes after.
//!
//! A planned re-exec, a panic and a fatal signal end in the same place: execve of this executable with the table's
//! descriptor. The difference is only how much is still on its way: a planned one waits until nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cm_core::engine::effect::Level;
use cm_core::engine::event::{Down, Event};
use cm_core::engine::{Engine, Mono, Node};
use cm_core::pack::pack;
use cm_core::proto::ManifestRef;
use serde::{Deserialize, Serialize};

use super::link::{Link, Task};
use super::live::{Class, Key, Live};
use super::logs::{LogDaemon, Stream, StreamRecord};
use super::notified::Strangers;
use super::queue::Queue;
use super::spawns::{Record, Spawn};
use super::step::{Obituary, Progress};
use super::swap::BootStage;
use super::token::Token;
use super::watches::Watches;
use super::workers::{OWN, Role, Worker};
use super::{Shell, manifests, now};
use crate::control::server::Server;
use crate::log::link::LogLink;
use crate::sys::inherit;
use crate::sys::notify::NotifySocket;
use crate::sys::reap::ExitStatus;
use crate::sys::spawn::StatusPipe;

/// What the shell itself hands over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Handed {
    pub(super) signals: Option<RawFd>,
    pub(super) control: Option<RawFd>,
    pub(super) store: Option<RawFd>,
    pub(super) logs: Option<RawFd>,
    pub(super) inotify: Option<RawFd>,
    pub(super) public_inotify: Option<RawFd>,
    pub(super) log_daemon: Option<(i32, RawFd)>,
    workers: Vec<WorkerRecord>,
    boot: u8,
    store_open: bool,
    counter: u64,
    next_stream: u32,
    orphans: u64,
    kernel_logs: bool,
    pub(super) query: Option<i32>,
    main_code: Option<i32>,
    emergency: Option<i32>,
    obituary: Obituary,
    /// It is on its way out, and the units are down.
    left_units: Option<Down>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct WorkerRecord {
    number: u64,
    pid: i32,
    role: Role,
    socket: RawFd,
    manifests: BTreeSet<ManifestRef>,
    tasks: BTreeSet<Task>,
    /// It has been sent all of that.
    flushed: bool,
}

/// The table as it was found.
pub struct Found {
    pub(super) live: Live,
    records: BTreeMap<Key, Vec<u8>>,
    /// Every descriptor that came through the exec and was not taken yet; the rest is closed in the end.
    descriptors: BTreeMap<RawFd, OwnedFd>,
    /// The shell's own part.
    pub handed: Handed,
}

/// Listings get so long to end before init executes itself again.
const CLIENTS_MS: u64 = 1_000;
/// What init is in the middle of gets so long.
const REEXEC_MS: u64 = 10_000;

const SHELL: Key = Key::new(Class::Shell, 0);
const PROGRESS: Key = Key::new(Class::Shell, 1);
/// What is watched: there when a re-exec was asked for, and only then. What a fault leaves of it is not to be trusted.
const WATCHED: Key = Key::new(Class::Watch, 1);
/// The same in another form, as earlier programs have left it: without it everything is looked at once.
const WATCHED_BEFORE: Key = Key::new(Class::Watch, 0);
/// Who is connected: there when a re-exec was asked for, as what is watched.
const CLIENTS: Key = Key::new(Class::Shell, 2);
/// Which workers hang.
const HANGING: Key = Key::new(Class::Shell, 3);
const ENGINE: Key = Key::new(Class::Engine, 0);

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The table cannot be read.
    #[error(transparent)]
    Live(#[from] super::live::LiveError),
    /// It lacks the shell's part.
    #[error("the live table is incomplete")]
    Incomplete,
}

impl Found {
    /// Reads the table that an earlier PID 1 left under this number. To be called before anything is opened.
    ///
    /// # Errors
    /// When it is no table, or one of another version.
    pub fn read(number: RawFd) -> Result<Found, FoundError> {
        let mut descriptors = inherit::all();
        let table = descriptors.remove(&number).ok_or(FoundError::Incomplete)?;
        Found::in_table(table, descriptors)
    }

    fn in_table(table: OwnedFd, descriptors: BTreeMap<RawFd, OwnedFd>) -> Result<Found, FoundError> {
        let (live, records) = Live::adopt(table)?;
        let handed = records.get(&SHELL).and_then(|b| postcard::from_bytes(b).ok());
        Ok(Found { live, records, descriptors, handed: handed.ok_or(FoundError::Incomplete)? })
    }

    /// A descriptor by its number, which is taken once.
    pub(super) fn take(&mut self, number: Option<RawFd>) -> Option<OwnedFd> {
        self.descriptors.remove(&number?)
    }

    fn of(&self, class: Class) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        let all = Key::new(class, 0)..=Key::new(class, u64::MAX);
        self.records.range(all).map(|(k, b)| (k.id, b))
    }

    /// What stands in the table of a class and can be read.
    pub(super) fn decoded<T: serde::de::DeserializeOwned>(&self, class: Class) -> Vec<(u64, T)> {
        self.of(class).filter_map(|(id, b)| Some((id, postcard::from_bytes(b).ok()?))).collect()
    }

    /// The engine and its manifests.
    pub(super) fn engine(&mut self) -> Result<(Engine, manifests::Manifests), String> {
        let mut held = manifests::Manifests::default();
        let mut list = Vec::new();
        for (id, (fd, generation)) in self.decoded::<(RawFd, u64)>(Class::Manifest) {
            let number = ManifestRef(u32::try_from(id).map_err(|e| e.to_string())?);
            let fd = self.take(Some(fd)).ok_or("a manifest's descriptor is not open")?;
            list.push((number, manifests::map(fd.as_fd()).map_err(|e| e.to_string())?));
            held.insert(number, fd, generation);
        }
        // The empty manifest that an engine starts with has no descriptor.
        if !list.iter().any(|(n, _)| *n == ManifestRef(0)) {
            list.push((ManifestRef(0), units::Manifest::empty()));
        }
        // One that is left out would be a process that runs on and is nobody's.
        if self.decoded::<Record>(Class::Spawn).len() != self.of(Class::Spawn).count() {
            return Err("the record of a process is damaged".to_owned());
        }
        let globals = self.records.get(&ENGINE).ok_or("the engine's record is missing")?;
        let nodes =
            self.of(Class::Unit).filter_map(|(id, b)| Some((Node(u32::try_from(id).ok()?), b.clone())));
        let engine = Engine::restore(list, globals, nodes).map_err(|e| e.to_string())?;
        // One of which the engine was told to let go, and we died before we could; staged ones have no flow any more.
        let unused: Vec<ManifestRef> =
            held.iter().map(|(m, _, _)| m).filter(|m| engine.manifest(*m).is_none()).collect();
        for manifest in unused {
            held.remove(manifest);
        }
        Ok((engine, held))
    }
}

impl Shell {
    fn handed(&self) -> Handed {
        let worker = |(number, w): (&u64, &Worker)| WorkerRecord {
            number: *number,
            pid: w.link.pid,
            role: w.role,
            socket: w.link.as_raw_fd(),
            manifests: w.link.manifests().clone(),
            tasks: w.link.tasks().clone(),
            flushed: w.link.is_flushed(),
        };
        Handed {
            signals: Some(self.signals.as_raw_fd()),
            control: self.server.as_ref().map(|s| s.listener().as_raw_fd()),
            store: self.store_listener.as_ref().map(AsRawFd::as_raw_fd),
            logs: self.logs_listener.as_ref().map(AsRawFd::as_raw_fd),
            inotify: Some(self.inotify.as_fd().as_raw_fd()),
            public_inotify: Some(self.public_inotify.as_fd().as_raw_fd()),
            log_daemon: self.log_daemon.as_ref().map(|d| (d.pid, d.link.as_raw_fd())),
            workers: self.workers.iter().map(worker).collect(),
            boot: match self.boot {
                BootStage::AwaitsStore | BootStage::Opens | BootStage::Compiles => 0,
                BootStage::Done => 1,
                BootStage::Refused => 2,
            },
            store_open: self.store_open,
            counter: self.counter,
            next_stream: self.next_stream,
            orphans: self.orphans,
            kernel_logs: self.log_target == crate::log::protocol::Target::Kernel,
            query: self.query,
            main_code: self.main_code,
            emergency: self.emergency.shell(),
            obituary: self.obituary.clone(),
            left_units: self.left_units(),
        }
    }

    /// Brings the live table up to date. Not while an event is in hand: the engine is ahead of the queue then.
    pub(super) fn write_live(&mut self) {
        let changed = self.engine.take_changed();
        if changed.globals {
            let globals = self.engine.globals();
            self.live.put(ENGINE, &globals);
        }
        for node in changed.nodes {
            let key = Key::new(Class::Unit, u64::from(node.0));
            self.contests.look_at(node);
            match self.engine.record(node) {
                Some(record) => self.live.put(key, &record),
                None => {
                    self.live.remove(key);
                    self.watches.unit_gone(node);
                }
            }
        }
        if self.manifests.take_changed() {
            let held: BTreeMap<u64, (RawFd, u64)> =
                self.manifests.iter().map(|(m, fd, g)| (u64::from(m.0), (fd, g))).collect();
            for gone in self.manifests_written.iter().filter(|m| !held.contains_key(m)) {
                self.live.remove(Key::new(Class::Manifest, *gone));
            }
            for (number, entry) in &held {
                if let Ok(bytes) = pack(entry) {
                    self.live.put(Key::new(Class::Manifest, *number), &bytes);
                }
            }
            self.manifests_written = held.into_keys().collect();
        }
        (self.saved, self.moment) = (self.queue.next(), now());
        self.write_shell();
        if self.live.is_stale()
            && let Err(e) = self.rewrite_live()
        {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
        // ORDER: only now nothing in the table names their descriptors.
        self.manifests.close_removed();
    }

    /// Brings up to date what stands in the table beside the engine: events that came, effects that were carried out
    /// and what became of them.
    pub(super) fn write_shell(&mut self) {
        for serial in self.spawns.take_changed() {
            let key = Key::new(Class::Spawn, serial);
            match self.spawns.get(serial).and_then(|s| pack(&s.record).ok()) {
                Some(record) => self.live.put(key, &record),
                None => self.live.remove(key),
            }
        }
        for number in std::mem::take(&mut self.streams_changed) {
            let key = Key::new(Class::Log, u64::from(number));
            match self.streams.get(&number).and_then(|s| pack(&s.record).ok()) {
                Some(record) => self.live.put(key, &record),
                None => self.live.remove(key),
            }
        }
        for (key, record) in self.said.take_changed().into_iter().chain(self.places.take_changed()) {
            match record {
                Some(record) => self.live.put(key, &record),
                None => self.live.remove(key),
            }
        }
        for worker in self.workers.values_mut() {
            self.shell_changed |= worker.link.take_changed();
        }
        if std::mem::take(&mut self.shell_changed)
            && let Ok(bytes) = pack(&self.handed())
        {
            self.live.put(SHELL, &bytes);
        }
        if let Some(bytes) = self.hanging.take_changed().and_then(|all| pack(all).ok()) {
            self.live.put(HANGING, &bytes);
        }
        for (number, event) in self.queue.take_unwritten() {
            if let Ok(bytes) = pack(event) {
                self.live.put(Key::new(Class::Event, number), &bytes);
            }
        }
        let progress = self.progress_now();
        if progress != self.progress_written {
            self.progress_written = progress;
            if let Ok(bytes) = pack(&progress) {
                self.live.put(PROGRESS, &bytes);
            }
        }
        if let Err(e) = self.live.flush() {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
    }

    fn progress_now(&self) -> Progress {
        Progress { next: self.saved, ..self.effects_done.unwrap_or_default() }
    }

    fn rewrite_live(&mut self) -> std::io::Result<()> {
        let mut all: Vec<(Key, Vec<u8>)> = vec![(ENGINE, self.engine.globals())];
        all.extend(pack(&self.handed()).ok().map(|b| (SHELL, b)));
        all.extend(pack(&self.progress_now()).ok().map(|b| (PROGRESS, b)));
        all.extend(pack(self.hanging.all()).ok().map(|b| (HANGING, b)));
        for spawn in self.spawns.iter() {
            let record = pack(&spawn.record).ok();
            all.extend(record.map(|r| (Key::new(Class::Spawn, spawn.record.serial), r)));
        }
        for (number, stream) in &self.streams {
            let record = pack(&stream.record).ok();
            all.extend(record.map(|r| (Key::new(Class::Log, u64::from(*number)), r)));
        }
        for (number, fd, generation) in self.manifests.iter() {
            let record = pack(&(fd, generation)).ok();
            all.extend(record.map(|r| (Key::new(Class::Manifest, u64::from(number.0)), r)));
        }
        all.extend(self.said.records().chain(self.places.records()));
        for (number, event) in self.queue.iter() {
            let record = pack(event).ok();
            all.extend(record.map(|r| (Key::new(Class::Event, number), r)));
        }
        // One after the other: all at a time would be as many small pieces of memory as there are units.
        let engine = &self.engine;
        let units = engine
            .nodes()
            .filter_map(|node| Some((Key::new(Class::Unit, u64::from(node.0)), engine.record(node)?)));
        self.live.rewrite(all.into_iter().chain(units))
    }

    /// Nothing is to be written for a while: what is history, and what says of many units the same, takes no room.
    pub(super) fn rest_live(&mut self) {
        if self.live.is_worn()
            && let Err(e) = self.rewrite_live()
        {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
        self.live.rest();
    }

    /// What is on its way that only this process knows of, in words; nothing when it may go. A process that has not come
    /// to its program yet is no reason to wait: its status pipe is handed over.
    pub(super) fn reexec_waits_for(&self) -> Option<String> {
        let flow = self.flows.words().map(str::to_owned);
        let helper = self.helpers.keys().next().map(|pid| format!("helper {pid}"));
        let worker = self.workers.values().find(|w| !w.link.is_flushed());
        let worker = worker.map(|w| format!("worker {}, which does not read", w.link.pid));
        let log = self.log_daemon.as_ref().filter(|d| d.link.has_queue());
        let log = log.map(|d| format!("log daemon {}, which does not read", d.pid));
        let shell = self.emergency.is_due().then(|| "the console".to_owned());
        flow.or(helper).or(shell).or(worker).or(log)
    }

    /// Whether a re-exec that was asked for takes place now.
    pub(super) fn may_reexec(&mut self) -> bool {
        let Some(asked) = self.reexec_asked else { return false };
        // A listing cannot be handed over.
        let listing = self.server.as_ref().is_some_and(Server::is_listing);
        if !self.queue.is_empty() || (listing && asked.after_ms(CLIENTS_MS) > now()) {
            return false;
        }
        match self.reexec_waits_for() {
            None => true,
            Some(_) if asked.after_ms(REEXEC_MS) > now() => false,
            Some(what) => {
                // As sound as after a fault: what was lost is asked for once more by the next one.
                let seconds = REEXEC_MS / 1000;
                let text = format!("executing init again without waiting longer than {seconds} s for {what}");
                self.say(Level::Warning, None, &text);
                true
            }
        }
    }

    /// When a re-exec that waits need not wait any more.
    pub(super) fn reexec_deadline(&self, at: Mono) -> Option<Mono> {
        let asked = self.reexec_asked?;
        [CLIENTS_MS, REEXEC_MS].into_iter().map(|ms| asked.after_ms(ms)).find(|due| *due > at)
    }

    /// From here on a fault of init ends in a new one that takes the live table over.
    ///
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn arm(&self) -> std::io::Result<()> {
        crate::sys::crash::arm(&self.options.arguments, LIVE, self.live.fd().as_raw_fd())
    }

    /// `initctl reexec`.
    pub(super) fn reexec(&mut self) {
        self.reexec_asked = None;
        self.say(Level::Notice, None, "executing init again");
        self.shell_changed = true;
        self.write_live();
        if let Some(watches) = self.watches.hand_over()
            && let Ok(bytes) = pack(&(watches, self.mounts.listed(), self.names.seen()))
        {
            self.live.put(WATCHED, &bytes);
        }
        if let Some(clients) = self.hand_clients_over() {
            self.live.put(CLIENTS, &clients);
        }
        if let Err(e) = self.live.flush() {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
        self.exec_again();
        // Still here: what was true at that moment only is not for whoever comes next.
        self.live.remove(WATCHED);
        self.live.remove(CLIENTS);
    }

    /// Does not return unless execve fails; then this process goes on.
    fn exec_again(&mut self) {
        let error = again(&self.executable, &self.options.arguments, self.live.fd().as_raw_fd());
        // This process goes on, with as many descriptors as before.
        drop(crate::boot::raise_limits(false));
        self.say(Level::Error, None, &format!("cannot execute {} again: {error}", self.executable));
    }

    /// Takes over the events that an earlier PID 1 had not done.
    pub(super) fn take_queue(&mut self, found: &Found) {
        let progress: Progress =
            found.records.get(&PROGRESS).and_then(|b| postcard::from_bytes(b).ok()).unwrap_or_default();
        self.queue = Queue::adopted(progress.next, found.decoded(Class::Event));
        (self.saved, self.progress_written) = (self.queue.next(), progress);
        self.progress = Some(progress).filter(|p| p.event != 0);
    }

    /// Takes over what else an earlier PID 1 left. The engine is there already.
    pub(super) fn take_over(&mut self, found: &mut Found) {
        let handed = found.handed.clone();
        self.counter = handed.counter;
        self.next_stream = handed.next_stream;
        self.orphans = handed.orphans;
        self.store_open = handed.store_open;
        self.main_code = handed.main_code;
        self.query = handed.query;
        self.emergency.adopt(handed.emergency);
        self.obituary = handed.obituary;
        self.boot = match handed.boot {
            1 => BootStage::Done,
            2 => BootStage::Refused,
            _ => BootStage::AwaitsStore,
        };
        if !handed.kernel_logs {
            self.log_target = crate::log::protocol::Target::Files;
        }
        for (number, record) in found.decoded(Class::Log) {
            self.adopt_stream(found, number, record);
        }
        if let Some((pid, fd)) = handed.log_daemon
            && let Some(fd) = found.take(Some(fd))
        {
            self.register(fd.as_raw_fd(), Token::LogDaemon);
            self.log_daemon = Some(LogDaemon { link: LogLink::from_descriptor(fd), pid });
            self.renew_words();
        }
        let mut unasked = false;
        for worker in &handed.workers {
            if !worker.flushed {
                // What had not been sent was lost with its sender.
                drop(crate::sys::raw::kill(worker.pid, libc::SIGKILL));
                unasked |= worker.tasks.iter().any(|t| matches!(t, Task::Store(token) if token & OWN == 0));
            } else if let Some(fd) = found.take(Some(worker.socket)) {
                self.register(fd.as_raw_fd(), Token::Worker(worker.number));
                let (manifests, tasks) = (worker.manifests.clone(), worker.tasks.clone());
                let link = Link::adopted(worker.number, worker.pid, fd, manifests, tasks);
                self.workers
                    .insert(worker.number, Worker { link, role: worker.role, stage: None, position: None });
            }
        }
        for (_, record) in found.decoded(Class::Spawn) {
            self.adopt_spawn(found, record);
        }
        self.take_said(found);
        let hanging = found.records.get(&HANGING).and_then(|b| postcard::from_bytes(b).ok());
        self.adopt_hanging(hanging.unwrap_or_default());
        self.take_places(found);
        let batch = self.engine.has_batch();
        let carried =
            self.workers.values().any(|w| w.link.tasks().iter().any(|t| matches!(t, Task::Batch(_))));
        if unasked || (batch && !carried) {
            self.queue.push_back(Event::WorkerLost);
        }
        self.rescan_due = !self.take_watches(found);
        if let Some(clients) = found.records.get(&CLIENTS).cloned() {
            self.live.remove(CLIENTS);
            self.take_clients_over(&clients, &mut |number| found.take(Some(number)));
        }
        self.shell_changed = true;
        self.go_on_leaving(handed.left_units);
        self.mourn();
        self.say(Level::Notice, None, "init has taken over from its predecessor");
    }

    /// Takes over what is watched; answers whether it was there.
    fn take_watches(&mut self, found: &mut Found) -> bool {
        self.live.remove(WATCHED_BEFORE);
        let bytes = found.records.get(&WATCHED);
        let Some((watches, listed, names)) =
            bytes.and_then(|b| postcard::from_bytes::<(Vec<u8>, _, _)>(b).ok())
        else {
            return false;
        };
        self.live.remove(WATCHED);
        let Some(watches) = Watches::adopted(&watches, |number| found.take(Some(number))) else {
            return false;
        };
        self.watches = watches;
        self.mounts.adopt(listed);
        self.names.adopt(names);
        true
    }

    /// Without the index of watches everything that is watched is looked at once, which makes it anew. A worker
    /// announces a watch only once, so it has to be a fresh one.
    pub(super) fn rescan_if_due(&mut self) {
        if !self.rescan_due || self.workers.values().any(|w| !w.link.tasks().is_empty()) {
            return;
        }
        self.rescan_due = false;
        self.dismiss_workers();
        self.queue.push_back(Event::Overflowed);
    }

    fn adopt_stream(&mut self, found: &mut Found, number: u64, record: StreamRecord) {
        let Some(reader) = found.take(Some(record.reader)) else { return };
        let writer = found.take(record.writer);
        if let Ok(number) = u32::try_from(number) {
            self.streams.insert(number, Stream::adopted(record, reader, writer));
            self.await_output(number);
        }
    }

    fn adopt_spawn(&mut self, found: &mut Found, mut record: Record) {
        let serial = record.serial;
        let notify = found.take(record.notify).map(NotifySocket::from_descriptor);
        let ready = found.take(record.ready);
        let stage = record
            .stage
            .take()
            .and_then(|s| Some(Box::new(StatusPipe::adopted(found.take(Some(s.number))?, *s))));
        let found_main = if record.exited { Ok(None) } else { record.find_main() };
        let unsettled = !record.settled && !record.failed && stage.is_none();
        record.settled |= stage.is_none();
        // A child of ours can be gone only by our own reaping, and then the table says so; another's child can.
        let lost = found_main.is_err();
        let pidfd = found_main.ok().flatten();
        let mut spawn =
            Spawn { record, pidfd, stage, notify, ready, strangers: Strangers::default(), clean: false };
        spawn.note_descriptors();
        self.watch_spawn(&spawn);
        if let Some(pidfd) = &spawn.pidfd {
            self.register(pidfd.as_raw_fd(), Token::Main(serial));
        }
        self.spawns.insert(spawn);
        if unsettled {
            // An earlier init handed no pipe over; a failed one exits, and that is heard.
            self.queue.push_back(Event::Spawned { serial });
        }
        if lost {
            self.buried(serial, ExitStatus::Unknown);
        } else {
            self.check_empty(serial);
            self.find_daemon(serial);
        }
    }
}

/// Replaces this process by a fresh one of the same executable, which finds the live table by its number.
fn again(executable: &str, arguments: &[String], live: RawFd) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    crate::sys::spawn::restore_descriptor_limit();
    let mut command = std::process::Command::new(executable);
    let (name, rest) = arguments.split_first().map(|(n, r)| (n.as_str(), r)).unwrap_or(("init", &[]));
    command.arg0(name).args(rest).env(LIVE, live.to_string()).exec()
}

/// The variable that names the live table's descriptor.
pub const LIVE: &str = "HOLDFAST_LIVE";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use cm_core::engine::effect::Job;
    use units::UnitId;

    use super::*;

    type Numbers = (Option<RawFd>, Option<RawFd>, Option<RawFd>);
    /// Number, pid, role, socket, manifests, tasks, all sent.
    type Worker2 = (u64, i32, u32, RawFd, Vec<u32>, Vec<(u32, u64)>, bool);

    /// What PID 1 wrote before it knew what services say of themselves: version 2, spelled out, so that a record that is
    /// changed without another version is found.
    fn table_of_version_2() -> OwnedFd {
        let mut live = Live::create().unwrap();
        std::fs::File::from(live.fd().try_clone_to_owned().unwrap()).write_all_at(&[2, 0, 0, 0], 8).unwrap();
        let mut put = |class: u8, id: u64, bytes: Result<Vec<u8>, postcard::Error>| {
            let known = [Class::Spawn, Class::Shell, Class::Event, Class::Log];
            let class = known.into_iter().find(|c| *c as u8 == class).unwrap();
            live.put(Key::new(class, id), &bytes.unwrap());
        };
        // Serial, node, manifest, unit, job, address; leader, main, starttime, started, cgroup; settled, failed, exited,
        // forks, pid file; notify, ready, stage.
        let spawn = (
            (7_u64, 3_u32, 1_u32, 2_u32, 0_u32, "service:x"),
            (50_i32, 51_i32, 900_u64, 1000_u64, "service:x"),
            (true, false, true, true, Some("/run/x.pid")),
            (Some(11_i32), None::<i32>, None::<u8>),
        );
        put(3, 7, postcard::to_allocvec(&spawn));
        let descriptors: (Numbers, Numbers, Option<(i32, RawFd)>) =
            ((Some(3), Some(4), Some(5)), (Some(6), Some(7), Some(8)), Some((40, 9)));
        let workers: Vec<Worker2> = vec![(2, 41, 0, 10, vec![1], vec![(0, 5), (1, 6)], true)];
        // Boot, is the store open, counter, next stream, orphans, is the log the kernel's; query, main's code, emergency
        // shell; deaths, suspects, quarantined, parts; how it goes down.
        let rest = (
            (1_u8, true, 77_u64, 4_u32, 2_u64, false),
            (None::<i32>, Some(3_i32), None::<i32>),
            (vec![5_u64], vec![(6_u64, 1_u8)], vec![3_u32], (0_u64, 0_u64)),
            Some(1_u32),
        );
        put(5, 0, postcard::to_allocvec(&(descriptors, workers, rest)));
        put(6, 4, postcard::to_allocvec(&("service:x", 1000_u64, 3_u32, 12_i32, Some(13_i32))));
        // The number of the event stands before what belongs to it.
        put(8, 21, postcard::to_allocvec(&(4_u32, 7_u64)));
        put(8, 22, postcard::to_allocvec(&(26_u32, 1_u32, 2_u32, Some("/m"))));
        live.flush().unwrap();
        live.fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_table_of_the_version_before_is_taken_over() {
        let found = Found::in_table(table_of_version_2(), BTreeMap::new()).unwrap();
        let spawns = found.decoded::<Record>(Class::Spawn);
        let [(7, spawn)] = spawns.as_slice() else { panic!("no process") };
        let named = (spawn.serial, spawn.node, spawn.manifest, spawn.unit, spawn.job, spawn.address.as_str());
        assert_eq!(named, (7, Node(3), ManifestRef(1), UnitId(2), Job::Main, "service:x"));
        assert_eq!((spawn.leader, spawn.main, spawn.starttime, spawn.started), (50, 51, 900, 1000));
        assert_eq!(
            (spawn.settled, spawn.failed, spawn.exited, spawn.forks, spawn.pid_file.as_deref()),
            (true, false, true, true, Some("/run/x.pid"))
        );
        assert_eq!((spawn.notify, spawn.ready, spawn.stage.is_none()), (Some(11), None, true));
        let handed = &found.handed;
        assert_eq!(
            (handed.signals, handed.public_inotify, handed.log_daemon),
            (Some(3), Some(8), Some((40, 9)))
        );
        assert_eq!((handed.counter, handed.next_stream, handed.main_code), (77, 4, Some(3)));
        assert_eq!(handed.left_units, Some(Down::Reboot));
        let [worker] = handed.workers.as_slice() else { panic!("no worker") };
        assert_eq!((worker.role, worker.socket, worker.flushed), (Role::Committer, 10, true));
        assert_eq!(worker.tasks, BTreeSet::from([Task::Batch(5), Task::Store(6)]));
        let streams = found.decoded::<StreamRecord>(Class::Log);
        let [(4, stream)] = streams.as_slice() else { panic!("no stream") };
        assert_eq!((stream.unit.as_str(), stream.reader, stream.writer), ("service:x", 12, Some(13)));
        let events = found.decoded::<Event>(Class::Event);
        let lost =
            Event::WorkerLostAt { manifest: ManifestRef(1), unit: UnitId(2), mount: Some("/m".to_owned()) };
        assert_eq!(events, [(21, Event::Ready { serial: 7 }), (22, lost)]);
    }
}
