//! From a command line to a running shell.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use cm_core::engine::Engine;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use mio::Poll;
use nix::sys::inotify::{InitFlags, Inotify};

use super::fault::Fault;
use super::handover::{Found, FoundError};
use super::live::Live;
use super::queue::Queue;
use super::step::{Obituary, Progress};
use super::swap::BootStage;
use super::token::{ReadyList, Token};
use super::{
    Shell, background, clients, console, contests, emergency, flows, logs, manifests, modules, mounts, names,
    now, said, spawns, watches,
};
use crate::control::server::{SOCKET_MODE, Server};
use crate::control::{self, SOCKET, STORE_SOCKET, socket};
use crate::log::protocol::Target;
use crate::sys::cgroup::{EmptyWatch, Tree};
use crate::sys::signals::Signals;
use crate::sys::{inherit, raw, reap};

/// How PID 1 was called, and what it found.
#[derive(Debug, Clone)]
pub struct Options {
    /// All arguments, for the next PID 1.
    pub arguments: Vec<String>,
    /// The store.
    pub store: PathBuf,
    /// The logs.
    pub logs: PathBuf,
    /// The run-time directory.
    pub run: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The state file that was named.
    pub state: Option<PathBuf>,
    /// The compiled generation 0.
    pub boot_manifest: PathBuf,
    /// Where its contents lie.
    pub boot_contents: PathBuf,
    /// Where cgroups are made; the own one's directory without.
    pub cgroup: Option<PathBuf>,
    /// It runs a state file as the init of a container, and leaves with an exit code.
    pub container: bool,
    /// It is PID 1 of a machine.
    pub first_process: bool,
    /// Lines louder than or as loud as this are said.
    pub loudness: Level,
    /// What a test may ask for.
    pub fault: Option<Fault>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            arguments: Vec::new(),
            store: "/var/lib/holdfast".into(),
            logs: crate::log::daemon::LOGS.into(),
            run: "/run/holdfast".into(),
            socket: PathBuf::new(),
            state: None,
            boot_manifest: "/usr/lib/holdfast/boot/manifest".into(),
            boot_contents: "/usr/lib/holdfast/boot/blobs".into(),
            cgroup: None,
            container: false,
            first_process: false,
            loudness: Level::Info,
            fault: None,
        }
    }
}

/// Why the loop cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused something without which there is no loop.
    #[error("cannot start: {what}: {cause}")]
    Kernel {
        /// What.
        what: &'static str,
        /// What it said.
        #[source]
        cause: io::Error,
    },
    /// Two of them would start everything twice, and write into one store.
    #[error(
        "cannot start: another init listens on {}: end it first, or give this one a socket and a store of its own \
         (--socket, --store)", .0.display()
    )]
    Served(PathBuf),
}

/// Queries of the store are for root, or who runs init: nobody else shall take up their places.
pub(super) const STORE_MODE: u32 = 0o600;

fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |cause| StartError::Kernel { what, cause }
}

impl Shell {
    /// A shell with everything open, and the first events queued. With `found` it goes on where that ended; where that
    /// cannot be read, what ran is ended, since it would run beside what is started now.
    ///
    /// # Errors
    /// When there is no epoll, signalfd, inotify or memfd to be had, or another init is there.
    pub fn new(mut options: Options, found: Option<Result<Found, FoundError>>) -> Result<Shell, StartError> {
        if options.socket.as_os_str().is_empty() {
            options.socket = options.run.join(SOCKET);
        }
        // The init of a machine has nobody beside it, and may not end.
        let alone = options.first_process && !options.container;
        if found.is_none() && !alone && socket::is_served(&options.socket) {
            return Err(StartError::Served(options.socket));
        }
        let own = std::fs::read_link("/proc/self").unwrap_or_default();
        let mut complaints: Vec<String> = Vec::from_iter(foreign_proc(&own, std::process::id()));
        let mut restored = None;
        let mut lost = false;
        // With what cannot be read goes what was open, so that its worker and log daemon see that nobody is there.
        let read = |found: Result<Found, FoundError>| {
            let mut found = found.map_err(|e| e.to_string())?;
            let engine = found.engine()?;
            Ok::<_, String>((found, engine))
        };
        match found.map(read) {
            Some(Ok(found)) => restored = Some(found),
            Some(Err(e)) => {
                lost = true;
                complaints.push(format!("cannot take over from the init before: {e}; starting anew"));
            }
            None => {}
        }
        if let Some((found, _)) = &mut restored {
            // One that has ended is told of nobody any more, and its listener would wait for that for ever.
            found.handed.query = found.handed.query.filter(|pid| reap::peek_at(*pid).is_ok());
        }
        let handed = restored.as_ref().map(|(f, _)| f.handed.clone()).unwrap_or_default();
        let mut taken = |number| restored.as_mut().and_then(|(found, _)| found.take(number));
        // Signals first: what arrives from here on waits in the descriptor. The mask outlives an exec, and a fresh
        // descriptor shows what is pending, so the old one is only closed.
        drop(taken(handed.signals));
        let signals = Signals::open().map_err(kernel("signals"))?;
        let poll = Poll::new().map_err(kernel("epoll"))?;
        let wakeup = super::wakeup::Wakeup::new().map_err(kernel("timerfd"))?;
        let inotify = match taken(handed.inotify) {
            Some(fd) => inotify_from(fd),
            None => Inotify::init(InitFlags::IN_NONBLOCK).map_err(|e| kernel("inotify")(e.into()))?,
        };
        let public_inotify = match taken(handed.public_inotify) {
            Some(fd) => inotify_from(fd),
            None => Inotify::init(InitFlags::IN_NONBLOCK).map_err(|e| kernel("inotify")(e.into()))?,
        };
        let tree = Tree::open(options.cgroup.as_deref());
        let tree = tree.map_err(|e| complaints.push(format!("there are no cgroups for services: {e}"))).ok();
        if let Some(tree) = &tree
            && let Err(e) = tree.enter_own()
        {
            complaints.push(e.to_string());
        }
        if lost {
            end_strays(tree.as_ref());
        }
        let empty = tree.as_ref().and_then(|_| EmptyWatch::open().ok());
        let executable = std::fs::read_link("/proc/self/exe").map_err(kernel("its own path"))?;
        let text = executable.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
        let directory = text.rsplit_once('/').map(|(d, _)| d.to_owned()).unwrap_or_default();
        complaints.extend(make_directories(&options).err());
        let (live, engine, held, found) = match restored {
            Some((mut found, (engine, held))) => {
                let fresh = Live::create().map_err(kernel("the live table"))?;
                let live = std::mem::replace(&mut found.live, fresh);
                (live, engine, held, Some(found))
            }
            None => (
                Live::create().map_err(kernel("the live table"))?,
                Engine::new(),
                manifests::Manifests::default(),
                None,
            ),
        };
        let fault = options.fault.take();
        let mut shell = Shell {
            console: console::Console::open(options.first_process && !options.container),
            options,
            executable: text,
            executable_directory: directory,
            engine,
            poll,
            wakeup,
            ready: ReadyList::default(),
            queue: Queue::default(),
            signals,
            tree,
            empty,
            spawns: spawns::Spawns::default(),
            has_spawned: false,
            left_cgroups: BTreeSet::new(),
            said: said::AllSaid::default(),
            manifests: held,
            workers: BTreeMap::new(),
            hanging: super::hanging::Hanging::default(),
            rest: super::rest::Rest::default(),
            flows: flows::Flows::default(),
            swapped_calls: BTreeSet::new(),
            inotify,
            public_inotify,
            watches: watches::Watches::default(),
            contests: contests::Contests::default(),
            mounts: mounts::Mounts::default(),
            places: super::places::Places::default(),
            names: names::Names::default(),
            modules: modules::Modules::default(),
            server: None,
            clients: clients::Clients::default(),
            store_listener: None,
            query: None,
            log_daemon: None,
            words: None,
            own_stages: BTreeMap::new(),
            log_dead: BTreeSet::new(),
            log_again: logs::Again::default(),
            coldplug_due: false,
            background: background::Background::default(),
            log_target: Target::Kernel,
            logs_listener: None,
            streams: BTreeMap::new(),
            streams_changed: BTreeSet::new(),
            next_stream: 0,
            helpers: BTreeMap::new(),
            live,
            shell_changed: true,
            counter: 0,
            boot: BootStage::AwaitsStore,
            store_open: false,
            orphans: 0,
            main_code: None,
            leaving: None,
            end: None,
            emergency: emergency::Emergency::default(),
            reexec_asked: None,
            fault,
            obituary: Obituary::default(),
            saved: 1,
            moment: now(),
            effects_done: None,
            progress_written: Progress::default(),
            progress: None,
            rescan_due: false,
            manifests_written: BTreeSet::new(),
        };
        for complaint in complaints {
            shell.say(Level::Warning, None, &complaint);
        }
        // The first round finds what was there before the first edge.
        match found {
            Some(mut found) => {
                shell.take_queue(&found);
                let sockets = [handed.control, handed.store, handed.logs].map(|n| found.take(n));
                shell.open_sources(sockets, handed.query.is_some(), handed.log_daemon.is_some());
                shell.open_removals();
                shell.take_over(&mut found);
                shell.renew_sockets();
            }
            None => {
                shell.open_sources([None, None, None], false, false);
                shell.boot_generation_zero();
                shell.coldplug_due = !shell.options.container;
            }
        }
        shell.queue.push_back(Event::Tick);
        shell.write_live();
        shell.live.set_in_hand(0);
        Ok(shell)
    }

    /// `sockets` were handed over: of control, store and logs. `querying`: somebody answers the store's already;
    /// `logging`: there is a log daemon.
    fn open_sources(&mut self, [control, store, logs]: [Option<OwnedFd>; 3], querying: bool, logging: bool) {
        self.register(self.signals.as_raw_fd(), Token::Signals);
        self.register(self.wakeup.as_raw_fd(), Token::Wakeup);
        self.register(self.inotify.as_fd().as_raw_fd(), Token::Inotify);
        self.register(self.public_inotify.as_fd().as_raw_fd(), Token::PublicInotify);
        if let Some(fd) = self.empty.as_ref().map(AsRawFd::as_raw_fd) {
            self.register(fd, Token::Cgroups);
        }
        self.open_mounts();
        self.open_names();
        let path = self.options.socket.clone();
        let server = match control {
            Some(fd) => Ok(Server::adopt(fd.into(), &path)),
            None => Server::bind(&path, SOCKET_MODE),
        };
        match server {
            Ok(server) => {
                keep(server.listener());
                self.register(server.listener().as_raw_fd(), Token::Control);
                self.server = Some(server);
            }
            Err(e) => self.say(Level::Error, None, &format!("cannot bind {}: {e}", path.display())),
        }
        self.store_listener = store.or_else(|| {
            let listener = socket::listen(&control::beside(&path, STORE_SOCKET), STORE_MODE).ok()?;
            keep(&listener);
            Some(listener.into())
        });
        if let Some(fd) = self.store_listener.as_ref().map(AsRawFd::as_raw_fd)
            && !querying
        {
            self.register(fd, Token::StoreListener);
        }
        self.logs_listener = logs;
        if self.logs_listener.is_none() {
            self.bind_logs_socket();
        }
        if !logging {
            self.await_readers();
        }
    }
}

/// Makes the run-time directory.
pub(super) fn make_directories(options: &Options) -> Result<(), String> {
    std::fs::create_dir_all(options.run.join("notify"))
        .map_err(|e| format!("cannot create {}: {e}", options.run.display()))
}

/// What an earlier init started and nobody can say anything of any more would run beside what is started now.
fn end_strays(tree: Option<&Tree>) {
    let Some(tree) = tree else {
        // kill(2): -1 is every process but this one.
        if std::process::id() == 1 {
            drop(raw::kill(-1, libc::SIGKILL));
        }
        return;
    };
    for unit in tree.units().unwrap_or_default() {
        if !unit.starts_with("holdfast.") {
            drop(tree.kill(&unit));
        }
    }
}

/// What is wrong with a /proc whose `self` leads there.
fn foreign_proc(own: &Path, pid: u32) -> Option<String> {
    let is_ours = own.to_str().is_some_and(|text| text == pid.to_string());
    let text = "/proc is not that of this pid namespace, so nobody can tell when services have ended: mount it anew \
                (unshare --mount-proc)";
    (!is_ours).then(|| text.to_owned())
}

fn keep(fd: &impl AsFd) {
    // The next PID 1 would only have to bind anew; and clients would be refused for a moment.
    drop(inherit::set_close_on_exec(fd.as_fd(), false));
}

fn inotify_from(fd: OwnedFd) -> Inotify {
    // SAFETY: the descriptor is owned here, and given up to nix's type, which closes it.
    unsafe { Inotify::from_raw_fd(fd.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_of_others_is_noticed() {
        assert_eq!(foreign_proc(Path::new("1"), 1), None);
        for other in ["12", ""] {
            assert!(
                foreign_proc(Path::new(other), 1).is_some_and(|text| text.contains("--mount-proc")),
                "{other}"
            );
        }
    }
}
