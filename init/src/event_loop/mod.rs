//! PID 1's event loop: kernel facts become events, effects become system calls. It decides nothing.
//!
//! ```text
//!  epoll ─► ready list ─► a turn a source (bounded) ─► events ─► engine.step ─► effects ─► system calls
//!    ▲                                                                             │
//!    └── one wait, until the engine's next deadline; none when there is none ◄─────┘
//! ```
//! Failures of effects are events again; nothing in here waits for a disk, a network or another process.

mod background;
mod clients;
mod console;
mod contests;
mod effects;
mod emergency;
mod fault;
mod flows;
mod fnv;
mod handover;
mod hanging;
pub mod launch;
mod leave;
pub mod link;
pub mod live;
mod logs;
pub mod manifests;
mod modules;
mod mounts;
mod names;
mod notified;
mod packed;
mod places;
mod processes;
mod queue;
mod quick;
mod rest;
mod said;
mod sockets;
pub mod spawns;
mod start;
mod step;
mod swap;
pub mod token;
mod view;
mod waits;
mod wakeup;
mod watches;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::engine::{Engine, Mono, Node};
use mio::unix::SourceFd;
use mio::{Interest, Poll};
use nix::sys::inotify::Inotify;
use nix::time::{ClockId, clock_gettime};

use crate::control::server::Server;
use crate::log::protocol::Target;
use crate::sys::cgroup::{EmptyWatch, Tree};
use crate::sys::pages;
use crate::sys::signals::Signals;
use spawns::Spawns;
use token::{ReadyList, Token, Turn};

pub use fault::{Fault, VARIABLE as FAULT};
pub use handover::{Found, FoundError, LIVE};
pub use leave::{Left, power_down};
pub use start::{Options, StartError};

/// Events that are stepped through before the kernel is asked again.
const EVENTS_A_ROUND: usize = 4096;

/// PID 1: the engine and everything it is connected to.
pub struct Shell {
    options: Options,
    /// Path of this executable, for helpers and the log daemon.
    executable: String,
    executable_directory: String,
    engine: Engine,
    poll: Poll,
    wakeup: wakeup::Wakeup,
    ready: ReadyList,
    queue: queue::Queue,
    signals: Signals,
    tree: Option<Tree>,
    empty: Option<EmptyWatch>,
    console: console::Console,
    spawns: Spawns,
    /// The event in hand has started something.
    has_spawned: bool,
    /// Cgroups that have become empty while there is something to do, which may be to start their units again.
    left_cgroups: BTreeSet<String>,
    said: said::AllSaid,
    manifests: manifests::Manifests,
    workers: BTreeMap<u64, workers::Worker>,
    /// Where no worker is sent.
    hanging: hanging::Hanging,
    /// What the work of the last worker took and is not needed any more.
    rest: rest::Rest,
    /// What waits for a worker, and until when.
    flows: flows::Flows,
    /// Calls whose swap the engine has, and which it will answer.
    swapped_calls: BTreeSet<u64>,
    inotify: Inotify,
    public_inotify: Inotify,
    watches: watches::Watches,
    contests: contests::Contests,
    mounts: mounts::Mounts,
    places: places::Places,
    names: names::Names,
    modules: modules::Modules,
    server: Option<Server>,
    clients: clients::Clients,
    store_listener: Option<OwnedFd>,
    /// The process that answers queries of the store now.
    query: Option<i32>,
    log_daemon: Option<logs::LogDaemon>,
    /// Last lines of commands, which the log daemon keeps there.
    words: Option<crate::log::words::Words>,
    /// How processes of our own were started, until they end.
    own_stages: BTreeMap<i32, crate::sys::spawn::StatusPipe>,
    log_dead: BTreeSet<i32>,
    log_again: logs::Again,
    /// Drivers for the devices that were there before init are still to be looked for.
    coldplug_due: bool,
    background: background::Background,
    log_target: Target,
    logs_listener: Option<OwnedFd>,
    streams: BTreeMap<u32, logs::Stream>,
    streams_changed: BTreeSet<u32>,
    next_stream: u32,
    /// Helpers of the shell itself.
    helpers: BTreeMap<i32, leave::Helper>,
    live: live::Live,
    shell_changed: bool,
    counter: u64,
    boot: swap::BootStage,
    store_open: bool,
    orphans: u64,
    main_code: Option<i32>,
    leaving: Option<leave::Leaving>,
    end: Option<Left>,
    emergency: emergency::Emergency,
    /// init is to execute itself again: when that was asked for.
    reexec_asked: Option<Mono>,
    /// What a test asks for.
    fault: Option<Fault>,
    obituary: step::Obituary,
    /// The first event that the engine's records in the live table know nothing of.
    saved: u64,
    /// When they were written: events take place at this moment until they are written again.
    moment: Mono,
    /// The event in hand, as soon as effects of it have been carried out.
    effects_done: Option<step::Progress>,
    /// What the live table has.
    progress_written: step::Progress,
    /// What the init before had done of the event that it died of.
    progress: Option<step::Progress>,
    /// What is watched has to be looked at once more.
    rescan_due: bool,
    manifests_written: BTreeSet<u64>,
}

/// Now, on CLOCK_BOOTTIME.
pub fn now() -> Mono {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Mono(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Shell {
    /// Runs until the machine, or the container, goes down.
    pub fn run(&mut self) -> Left {
        let mut events = mio::Events::with_capacity(256);
        loop {
            self.work();
            if let Some(left) = self.end.take() {
                return left;
            }
            let busy = !self.ready.is_empty() || !self.queue.is_empty();
            let deserted = !busy && self.server.as_mut().is_some_and(Server::take_deserted);
            if deserted {
                pages::trim_heap();
            }
            if !busy {
                let unneeded = self.rest_if_due();
                self.set_wakeup();
                if let Some(program) = unneeded {
                    program.leave();
                }
            }
            match self.poll.poll(&mut events, busy.then_some(Duration::ZERO)) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => self.say(Level::Error, None, &format!("cannot wait for events: {e}")),
            }
            for event in &events {
                if let Some(token) = Token::unpack(event.token()) {
                    if let (Token::Client(id), true) = (token, event.is_writable()) {
                        self.clients.writable.insert(id);
                    }
                    self.ready.push(token);
                }
            }
            for _ in 0..self.ready.len() {
                let Some(token) = self.ready.pop() else { break };
                if self.turn(token) == Turn::More {
                    self.ready.push(token);
                }
            }
            self.tick_if_due();
        }
    }

    /// Steps the engine through what has happened, until nothing is left to do.
    fn work(&mut self) {
        // What the turns of the sources have brought: from here on it outlives us.
        self.write_live();
        self.fault_round();
        for _ in 0..EVENTS_A_ROUND {
            if !self.queue.is_written(self.queue.next()) && !self.queue.is_empty() {
                self.write_shell();
            }
            let Some((number, event)) = self.queue.pop_front() else {
                if self.may_begin_background() {
                    self.advance_boot();
                    self.coldplug_if_due();
                    self.open_removals_if_due();
                }
                self.advance_emergency();
                self.advance_logs();
                self.remove_left_cgroups();
                self.rescan_if_due();
                self.forget_watches_if_due();
                self.write_live();
                if self.queue.is_empty() {
                    break;
                }
                continue;
            };
            self.put_background_off();
            self.step(number, event);
        }
        self.look_at_contests();
        self.flush_workers();
        self.settle_clients();
        self.write_live();
        if self.may_reexec() {
            self.reexec();
        }
    }

    /// Sets the timer to the moment until which nothing has to be done.
    fn set_wakeup(&mut self) {
        let own = self.leaving.as_ref().and_then(leave::Leaving::deadline);
        let at = now();
        let reexec = self.reexec_deadline(at);
        let half = self.server.as_ref().and_then(Server::half_deadline);
        let watches = self.watches.deadline();
        let due = [
            self.engine.next_deadline(),
            own,
            reexec,
            half,
            self.flow_deadline(),
            watches,
            self.background_deadline(),
            self.log_again.deadline(),
            self.hanging.deadline(),
            self.clients.again,
            self.emergency.deadline(at),
            self.rest.deadline(),
        ]
        .into_iter()
        .flatten()
        .min();
        if let Err(e) = self.wakeup.set(due) {
            self.say(Level::Error, None, &format!("cannot set a timer: {e}"));
        }
    }

    fn tick_if_due(&mut self) {
        let at = now();
        if self.engine.next_deadline().is_some_and(|due| due <= at) {
            self.queue.push_back(Event::Tick);
        }
        if self.leaving.as_ref().and_then(leave::Leaving::deadline).is_some_and(|due| due <= at) {
            self.leaving_deadline(at);
        }
        if self.flow_deadline().is_some_and(|due| due <= at) {
            self.end_late_flows(at);
        }
        self.resume_watches_if_due(at);
        self.background_if_due(at);
        self.log_again_if_due(at);
        self.hanging_if_due(at);
        if self.clients.again.is_some_and(|due| due <= at) {
            self.clients.again = None;
            self.ready.push(Token::Control);
        }
    }

    /// One turn of a source.
    fn turn(&mut self, token: Token) -> Turn {
        match token {
            Token::Signals => self.hear_signals(),
            Token::Control => self.accept_clients(),
            Token::Client(id) => self.hear_client(id),
            Token::Worker(number) => self.hear_worker(number),
            Token::Inotify => self.hear_watches(false),
            Token::PublicInotify => self.hear_watches(true),
            Token::Mounts => self.hear_mounts(),
            Token::Names => self.hear_names(),
            Token::Modules => self.hear_removals(),
            Token::StoreListener => self.start_query(),
            Token::LogDaemon => self.hear_log_daemon(),
            Token::LogsListener => self.hear_readers(),
            Token::Output(number) => self.hear_output(number),
            Token::Stage(serial) => self.hear_stage(serial),
            Token::Notify(serial) => self.hear_notify(serial),
            Token::ReadyPipe(serial) => self.hear_ready(serial),
            Token::Main(serial) => self.main_ended(serial),
            Token::Contest(number) => self.hear_contest(number),
            Token::Cgroups => self.hear_cgroups(),
            // What was due is seen to behind all turns.
            Token::Wakeup => {
                self.wakeup.passed();
                Turn::Drained
            }
        }
    }

    /// Registers a descriptor for reading and writing, and looks at it in any case: some tell of changes only.
    fn register(&mut self, fd: RawFd, token: Token) {
        self.watch(fd, token);
        self.ready.push(token);
    }

    /// Registers a descriptor for reading and writing. Edge-triggered, so that a socket that can always be written wakes
    /// nobody; what is readable already is told of. Answers whether it could.
    fn watch(&mut self, fd: RawFd, token: Token) -> bool {
        let interest = match token {
            Token::Mounts | Token::Names => Interest::PRIORITY,
            Token::Client(_) | Token::Worker(_) | Token::LogDaemon => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        let watched = self.poll.registry().register(&mut SourceFd(&fd), token.pack(), interest);
        if let Err(e) = &watched {
            self.say(Level::Error, None, &format!("cannot watch {token:?}: {e}"));
        }
        watched.is_ok()
    }

    fn deregister(&mut self, fd: RawFd) {
        // A descriptor that was closed has left the poll by itself.
        drop(self.poll.registry().deregister(&mut SourceFd(&fd)));
    }

    fn is_ready(&self, node: Node) -> bool {
        self.engine.status(node).ready
    }
}
