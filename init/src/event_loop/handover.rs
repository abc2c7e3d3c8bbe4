//! From one PID 1 to the next: the live table is written whenever effects were carried out, before the
//! next event, and read by whoever comes after.
//!
//! A planned re-exec, a panic in a step and a fatal signal end in the same place: execve of this executable with
//! the table's descriptor. The difference is only how much is still on its way: a planned one waits until nothing
//! is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cm_core::engine::effect::Level;
use cm_core::engine::event::{Event, Verb};
use cm_core::engine::{Engine, Mono, Node};
use cm_core::proto::ManifestRef;
use serde::{Deserialize, Serialize};

use super::link::{Link, Task};
use super::live::{Class, Key, Live};
use super::logs::{LogDaemon, Stream, StreamRecord};
use super::spawns::{Record, Spawn};
use super::swap::BootStage;
use super::token::Token;
use super::workers::{Role, Worker};
use super::{Shell, manifests, now};
use crate::log::link::LogLink;
use crate::sys::inherit;
use crate::sys::notify::NotifySocket;

/// Deaths within [`WINDOW`] after which nothing but reaping and answering is tried any more.
const DEATHS: usize = 5;
/// One minute, in nanoseconds.
const WINDOW: u64 = 60_000_000_000;

/// What the shell itself hands over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Handed {
    pub(super) signals: Option<RawFd>,
    pub(super) control: Option<RawFd>,
    pub(super) store: Option<RawFd>,
    pub(super) logs: Option<RawFd>,
    pub(super) inotify: Option<RawFd>,
    pub(super) public_inotify: Option<RawFd>,
    log_daemon: Option<(i32, RawFd)>,
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
    /// Moments of deaths in the last minute.
    deaths: Vec<Mono>,
    /// Events that a step died of, by hash, and how often.
    suspects: Vec<(u64, u8)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct WorkerRecord {
    number: u64,
    pid: i32,
    role: Role,
    socket: RawFd,
    manifests: BTreeSet<ManifestRef>,
    tasks: BTreeSet<Task>,
}

/// What one died of, over deaths.
#[derive(Debug, Clone, Default)]
pub struct Obituary {
    pub(super) deaths: Vec<Mono>,
    pub(super) suspects: Vec<(u64, u8)>,
}

/// The table as it was found.
pub struct Found {
    pub(super) live: Live,
    records: BTreeMap<Key, Vec<u8>>,
    /// The shell's own part.
    pub handed: Handed,
}

const SHELL: Key = Key::new(Class::Shell, 0);
const QUEUE: Key = Key::new(Class::Shell, 1);
const ENGINE: Key = Key::new(Class::Engine, 0);

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The table cannot be read.
    #[error(transparent)]
    Live(#[from] super::live::LiveError),
    /// It lacks the shell's part.
    #[error("cannot take over: the live table is incomplete")]
    Incomplete,
}

fn hash(event: &Event) -> u64 {
    format!("{event:?}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Found {
    /// Reads the table that an earlier PID 1 left.
    ///
    /// # Errors
    /// When it is no table, or one of another version.
    pub fn read(fd: OwnedFd) -> Result<Found, FoundError> {
        let (live, records) = Live::adopt(fd)?;
        let handed = records.get(&SHELL).and_then(|b| postcard::from_bytes(b).ok());
        Ok(Found { live, records, handed: handed.ok_or(FoundError::Incomplete)? })
    }

    fn of(&self, class: Class) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        self.records.iter().filter(move |(k, _)| k.class == class).map(|(k, b)| (k.id, b))
    }

    /// The engine and its manifests.
    pub(super) fn engine(&self) -> Result<(Engine, manifests::Manifests), String> {
        let mut held = manifests::Manifests::default();
        let mut list = Vec::new();
        for (id, bytes) in self.of(Class::Manifest) {
            let (fd, generation): (RawFd, u64) = postcard::from_bytes(bytes).map_err(|e| e.to_string())?;
            let number = ManifestRef(u32::try_from(id).map_err(|e| e.to_string())?);
            let fd = inherit::descriptor(fd).map_err(|e| e.to_string())?;
            list.push((number, manifests::map(fd.as_fd()).map_err(|e| e.to_string())?));
            held.insert(number, fd, generation);
        }
        // The empty manifest that an engine starts with has no descriptor.
        if !list.iter().any(|(n, _)| *n == ManifestRef(0)) {
            list.push((ManifestRef(0), units::Manifest::empty()));
        }
        let globals = self.records.get(&ENGINE).ok_or("the engine's record is missing")?;
        let nodes =
            self.of(Class::Unit).filter_map(|(id, b)| Some((Node(u32::try_from(id).ok()?), b.clone())));
        let engine = Engine::restore(list, globals, nodes).map_err(|e| e.to_string())?;
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
            boot: u8::from(self.boot == BootStage::Done),
            store_open: self.store_open,
            counter: self.counter,
            next_stream: self.next_stream,
            orphans: self.orphans,
            kernel_logs: self.log_target == crate::log::protocol::Target::Kernel,
            query: self.query,
            main_code: self.main_code,
            emergency: self.emergency.shell(),
            deaths: self.obituary.deaths.clone(),
            suspects: self.obituary.suspects.clone(),
        }
    }

    /// Brings the live table up to date.
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
        for serial in self.spawns.take_changed() {
            let key = Key::new(Class::Spawn, serial);
            match self.spawns.get(serial).and_then(|s| postcard::to_allocvec(&s.record).ok()) {
                Some(record) => self.live.put(key, &record),
                None => self.live.remove(key),
            }
        }
        for number in std::mem::take(&mut self.streams_changed) {
            let key = Key::new(Class::Log, u64::from(number));
            match self.streams.get(&number).and_then(|s| postcard::to_allocvec(&s.record).ok()) {
                Some(record) => self.live.put(key, &record),
                None => self.live.remove(key),
            }
        }
        if self.manifests.take_changed() {
            let held: BTreeMap<u64, (RawFd, u64)> =
                self.manifests.iter().map(|(m, fd, g)| (u64::from(m.0), (fd, g))).collect();
            for gone in self.manifests_written.iter().filter(|m| !held.contains_key(m)) {
                self.live.remove(Key::new(Class::Manifest, *gone));
            }
            for (number, entry) in &held {
                if let Ok(bytes) = postcard::to_allocvec(entry) {
                    self.live.put(Key::new(Class::Manifest, *number), &bytes);
                }
            }
            self.manifests_written = held.into_keys().collect();
        }
        if std::mem::take(&mut self.shell_changed)
            && let Ok(bytes) = postcard::to_allocvec(&self.handed())
        {
            self.live.put(SHELL, &bytes);
        }
        self.unsaved.clear();
        let written = self.live.flush();
        let compacted = if self.live.is_stale() { self.rewrite_live() } else { Ok(()) };
        if let Err(e) = written.and(compacted) {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
    }

    fn rewrite_live(&mut self) -> std::io::Result<()> {
        let mut all: Vec<(Key, Vec<u8>)> = vec![(ENGINE, self.engine.globals())];
        all.extend(postcard::to_allocvec(&self.handed()).ok().map(|b| (SHELL, b)));
        for node in self.engine.nodes() {
            all.extend(self.engine.record(node).map(|r| (Key::new(Class::Unit, u64::from(node.0)), r)));
        }
        for spawn in self.spawns.iter() {
            let record = postcard::to_allocvec(&spawn.record).ok();
            all.extend(record.map(|r| (Key::new(Class::Spawn, spawn.record.serial), r)));
        }
        for (number, stream) in &self.streams {
            let record = postcard::to_allocvec(&stream.record).ok();
            all.extend(record.map(|r| (Key::new(Class::Log, u64::from(*number)), r)));
        }
        for (number, fd, generation) in self.manifests.iter() {
            let record = postcard::to_allocvec(&(fd, generation)).ok();
            all.extend(record.map(|r| (Key::new(Class::Manifest, u64::from(number.0)), r)));
        }
        self.live.rewrite(all.into_iter().map(|(k, b)| (k, Cow::Owned(b))))
    }

    /// Whether nothing is on its way that only this process knows of.
    pub(super) fn may_reexec(&self) -> bool {
        // A client that has just come would be closed before it was heard.
        let late = self.reexec_asked.is_some_and(|due| due <= now());
        (late || self.server.as_ref().is_none_or(|s| s.idle() == 0))
            && self.flows.is_empty()
            && self.queue.is_empty()
            && self.helpers.is_empty()
            && self.workers.values().all(|w| w.link.is_flushed())
            && self.spawns.iter().all(|s| s.record.settled)
            && self.log_daemon.as_ref().is_none_or(|d| !d.link.has_queue())
    }

    /// A step has died: the next PID 1 gets the state from before it, and the event once more.
    pub(super) fn step_panicked(&mut self, event: &Event) {
        let at = now();
        self.obituary.deaths.retain(|d| at.0.saturating_sub(d.0) < WINDOW);
        if self.obituary.deaths.is_empty() {
            self.obituary.suspects.clear();
        }
        self.obituary.deaths.push(at);
        let hash = hash(event);
        match self.obituary.suspects.iter_mut().find(|(h, _)| *h == hash) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.obituary.suspects.push((hash, 1)),
        }
        self.say(Level::Error, None, &format!("a step died of {event:?}: executing init again"));
        self.queue.push_front(event.clone());
        // Since the table was written nothing but these was stepped through, and nothing was done for them.
        for event in std::mem::take(&mut self.unsaved).into_iter().rev() {
            self.queue.push_front(event);
        }
        self.flush_workers_blindly();
        // The engine is in pieces: its last whole state stands in the table already.
        if let Ok(bytes) = postcard::to_allocvec(&self.handed()) {
            self.live.put(SHELL, &bytes);
        }
        self.exec_again();
    }

    /// Whether an event has killed two steps: it is dropped, and its unit left alone until somebody looks.
    pub(super) fn is_deadly(&mut self, event: &Event) -> bool {
        let recent = self.obituary.deaths.last().is_some_and(|d| now().0.saturating_sub(d.0) < WINDOW);
        // A tick says nothing but that time passes: without it there would be no engine.
        if !recent || self.obituary.suspects.is_empty() || *event == Event::Tick {
            return false;
        }
        let hash = hash(event);
        if !self.obituary.suspects.iter().any(|(h, count)| *h == hash && *count >= 2) {
            return false;
        }
        self.say(Level::Error, None, &format!("dropped an event that init died of twice: {event:?}"));
        let node = match event {
            Event::Spawned { serial }
            | Event::SpawnFailed { serial, .. }
            | Event::Exited { serial, .. }
            | Event::Ready { serial }
            | Event::Reloading { serial }
            | Event::Watchdog { serial }
            | Event::Extended { serial, .. }
            | Event::WatchdogSet { serial, .. }
            | Event::CgroupEmpty { serial } => self.spawns.get(*serial).map(|s| s.record.node),
            Event::Mounted { node } | Event::Unmounted { node } | Event::Asked { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(node) = node {
            let note = "init: quarantined: an event of this unit killed init twice".to_owned();
            self.queue.push_back(Event::Asked { request: 0, verb: Verb::Hold, node, note, until: None });
        }
        true
    }

    /// Whether init has died so often that only reaping and answering is left.
    pub(super) fn reaps_only(&self) -> bool {
        self.obituary.deaths.len() >= DEATHS
    }

    fn flush_workers_blindly(&mut self) {
        for worker in self.workers.values_mut() {
            let sent = worker.link.flush();
            if sent.is_err() || !worker.link.is_flushed() {
                // What was not sent is lost with us; a worker that ends makes that known.
                drop(crate::sys::raw::kill(worker.link.pid, libc::SIGKILL));
            }
        }
    }

    /// From here on a fault of init ends in a new one that takes the live table over.
    ///
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn arm(&self) -> std::io::Result<()> {
        crate::sys::crash::arm(&self.options.arguments, LIVE, self.live.fd().as_raw_fd())
    }

    /// Deaths by faults, which are counted outside of the table: moments on the engine's clock.
    pub fn remember_deaths(&mut self, moments: &[u64]) {
        let at = now();
        let deaths = &mut self.obituary.deaths;
        deaths.extend(moments.iter().copied().map(Mono));
        deaths.retain(|d| at.0.saturating_sub(d.0) < WINDOW);
        deaths.sort_unstable();
        deaths.dedup();
    }

    /// `initctl reexec`.
    pub(super) fn reexec(&mut self) {
        self.reexec_asked = None;
        self.say(Level::Notice, None, "executing init again");
        self.shell_changed = true;
        self.write_live();
        self.exec_again();
    }

    /// Does not return unless execve fails; then this process goes on.
    fn exec_again(&mut self) {
        let queue: Vec<Event> = self.queue.iter().cloned().collect();
        if let Ok(bytes) = postcard::to_allocvec(&queue) {
            self.live.put(QUEUE, &bytes);
        }
        if let Err(e) = self.live.flush() {
            self.say(Level::Error, None, &format!("cannot write the live table: {e}"));
        }
        let error = again(&self.executable, &self.options.arguments, self.live.fd().as_raw_fd());
        self.say(Level::Error, None, &format!("cannot execute {} again: {error}", self.executable));
    }

    /// Takes over what an earlier PID 1 left. The engine is there already.
    pub(super) fn take_over(&mut self, found: &Found) {
        let handed = &found.handed;
        self.counter = handed.counter;
        self.next_stream = handed.next_stream;
        self.orphans = handed.orphans;
        self.store_open = handed.store_open;
        self.main_code = handed.main_code;
        self.query = handed.query;
        self.emergency.adopt(handed.emergency);
        self.obituary = Obituary { deaths: handed.deaths.clone(), suspects: handed.suspects.clone() };
        self.boot = if handed.boot == 1 { BootStage::Done } else { BootStage::AwaitsStore };
        if !handed.kernel_logs {
            self.log_target = crate::log::protocol::Target::Files;
        }
        for (number, bytes) in found.of(Class::Log) {
            self.adopt_stream(number, bytes);
        }
        if let Some((pid, fd)) = handed.log_daemon
            && let Ok(fd) = inherit::descriptor(fd)
        {
            self.register(fd.as_raw_fd(), Token::LogDaemon);
            self.log_daemon = Some(LogDaemon { link: LogLink::from_descriptor(fd), pid });
        }
        for worker in &handed.workers {
            if let Ok(fd) = inherit::descriptor(worker.socket) {
                self.register(fd.as_raw_fd(), Token::Worker(worker.number));
                let (manifests, tasks) = (worker.manifests.clone(), worker.tasks.clone());
                let link = Link::adopted(worker.number, worker.pid, fd, manifests, tasks);
                self.workers.insert(worker.number, Worker { link, role: worker.role, stage: None });
            }
        }
        for (_, bytes) in found.of(Class::Spawn) {
            if let Ok(record) = postcard::from_bytes::<Record>(bytes) {
                self.adopt_spawn(record);
            }
        }
        if let Some(queue) = found.records.get(&QUEUE)
            && let Ok(events) = postcard::from_bytes::<Vec<Event>>(queue)
        {
            self.queue = VecDeque::from(events);
        }
        self.live.remove(QUEUE);
        let batch = self.engine.has_batch();
        let carried =
            self.workers.values().any(|w| w.link.tasks().iter().any(|t| matches!(t, Task::Batch(_))));
        if batch && !carried {
            self.queue.push_back(Event::WorkerLost);
        }
        self.rescan_due = true;
        self.shell_changed = true;
        self.say(Level::Notice, None, "init has taken over from its predecessor");
    }

    /// The index of watches is not handed over: everything that is watched is looked at once, which makes it anew.
    /// A worker announces a watch only once, so it has to be a fresh one.
    pub(super) fn rescan_if_due(&mut self) {
        if !self.rescan_due || self.workers.values().any(|w| !w.link.tasks().is_empty()) {
            return;
        }
        self.rescan_due = false;
        self.dismiss_workers();
        self.queue.push_back(Event::Overflowed);
    }

    fn adopt_stream(&mut self, number: u64, bytes: &[u8]) {
        let Ok(record) = postcard::from_bytes::<StreamRecord>(bytes) else { return };
        let Ok(reader) = inherit::descriptor(record.reader) else { return };
        let writer = record.writer.and_then(|w| inherit::descriptor(w).ok());
        if let Ok(number) = u32::try_from(number) {
            self.streams.insert(number, Stream::adopted(record, reader, writer));
        }
    }

    fn adopt_spawn(&mut self, mut record: Record) {
        let serial = record.serial;
        let notify =
            record.notify.and_then(|n| inherit::descriptor(n).ok()).map(NotifySocket::from_descriptor);
        let ready = record.ready.and_then(|n| inherit::descriptor(n).ok());
        let pidfd = if record.exited { None } else { record.identity().open().ok() };
        // A child of ours can be gone only by our own reaping, and then the table says so; another's child can.
        let foreign = !record.exited && record.main != record.leader;
        let unsettled = !record.settled && !record.failed;
        record.settled = true;
        let lost = foreign && pidfd.is_none();
        let spawn = Spawn { record, pidfd, stage: None, notify, ready };
        self.watch_spawn(&spawn);
        if let (true, Some(pidfd)) = (foreign, &spawn.pidfd) {
            self.register(pidfd.as_raw_fd(), Token::Main(serial));
        }
        self.spawns.insert(spawn);
        if unsettled {
            // What its set-up said went with the pipe; a failed one exits, and that is heard.
            self.queue.push_back(Event::Spawned { serial });
        }
        if lost {
            self.main_ended(serial);
        }
        self.check_empty(serial);
    }
}

/// Replaces this process by a fresh one of the same executable, which finds the live table by its number.
fn again(executable: &str, arguments: &[String], live: RawFd) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(executable);
    let (name, rest) = arguments.split_first().map(|(n, r)| (n.as_str(), r)).unwrap_or(("init", &[]));
    command.arg0(name).args(rest).env(LIVE, live.to_string()).exec()
}

/// The variable that names the live table's descriptor.
pub const LIVE: &str = "HOLDFAST_LIVE";
