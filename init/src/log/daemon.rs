//! The daemon's loop: one epoll, no time-out unless a disk is in trouble.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;

use super::file::LogFile;
use super::protocol::{MAX_PACKET, Order, Report, Target, decode, encode};
use super::serve::{Client, Pump};
use super::stream::{Scratch, Sink, Stream, Turn};
use super::words::{self, Words};
use crate::sys::cgroup::directory_name;
use crate::sys::pages::{self, Program};
use crate::sys::{inherit, message, signals, userdb};

/// The name under which the executable is the daemon.
pub const NAME: &str = "holdfast-log";
/// Where PID 1 puts the daemon's end of the socket pair.
pub const SOCKET: RawFd = 3;
/// Default directory.
pub const LOGS: &str = "/var/log/holdfast";
/// Group that may read logs.
const GROUP: &[u8] = b"adm";
/// Most clients at a time.
const MAX_CLIENTS: usize = 64;
/// Streams and clients served before orders and new events are looked at again.
const ROUND: usize = 32;
/// For last lines into files, of the time that PID 1 waits: who writes without end holds nobody up.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Longest text of one record of the kernel's log.
const KERNEL_LINE: usize = 900;

/// How unwillingly the kernel kills it when memory runs out: before nobody else, but not never, should the memory be its own.
/// PID 1 of a machine is never killed; what the daemon is killed for it would have to start again without memory.
const OOM_SCORE: &[u8] = b"-900";

/// Tags of what epoll watches, above the number.
const CONTROL: u64 = 0;
const LISTENER: u64 = 1 << 32;
const STREAM: u64 = 2 << 32;
const CLIENT: u64 = 3 << 32;
const NUMBER: u64 = 0xffff_ffff;

/// What waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Stream(u32),
    Client(u32),
}

struct Daemon {
    epoll: Epoll,
    control: OwnedFd,
    logs: PathBuf,
    group: Option<u32>,
    target: Target,
    kernel: Option<std::fs::File>,
    streams: BTreeMap<u32, Stream>,
    clients: BTreeMap<u32, Client>,
    next_client: u32,
    listener: Option<UnixListener>,
    scratch: Scratch,
    line: VecDeque<Job>,
    queued: BTreeSet<Job>,
    reports: VecDeque<Report>,
    alone: bool,
    /// What the work took that is over goes back before the next wait.
    rests: bool,
}

/// Runs the daemon: `holdfast-log [--logs DIR] [--kernel]`, with PID 1's socket at [`SOCKET`]. Returns the exit
/// code when PID 1 is gone and everything in the pipes is written.
pub fn main(arguments: &[String]) -> i32 {
    let mut logs = PathBuf::from(LOGS);
    let mut target = Target::Files;
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--logs" => logs = rest.next().map(PathBuf::from).unwrap_or(logs),
            "--kernel" => target = Target::Kernel,
            _ => {}
        }
    }
    pages::keep_large_apart();
    match Daemon::new(logs, target).and_then(|mut d| d.run()) {
        Ok(()) => 0,
        Err(e) => {
            let _nobody_else_to_tell = writeln!(io::stderr(), "{NAME}: cannot go on: {e}");
            1
        }
    }
}

impl Daemon {
    fn new(logs: PathBuf, target: Target) -> io::Result<Daemon> {
        // Sent to the whole machine at its end; only PID 1 says when this daemon's work is done.
        signals::ignore(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
        // By itself: PID 1 would have to copy its memory for it. A container may not be allowed to.
        let _as_before = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        Daemon::controlled_by(inherit::descriptor(SOCKET)?, logs, target)
    }

    fn controlled_by(control: OwnedFd, logs: PathBuf, target: Target) -> io::Result<Daemon> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&control, EpollEvent::new(edge(), CONTROL))?;
        let group = std::fs::read("/etc/group").ok().and_then(|g| userdb::find_gid(&g, GROUP));
        Ok(Daemon {
            epoll,
            control,
            logs,
            group,
            target,
            kernel: None,
            streams: BTreeMap::new(),
            clients: BTreeMap::new(),
            next_client: 0,
            listener: None,
            scratch: Scratch::new()?,
            line: VecDeque::new(),
            queued: BTreeSet::new(),
            reports: VecDeque::new(),
            alone: false,
            rests: false,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        self.orders()?;
        let mut events = vec![EpollEvent::empty(); 64];
        loop {
            // Alone, there is only what is in the pipes; who still writes into them writes to nobody.
            if self.alone && self.line.is_empty() {
                return Ok(());
            }
            if self.line.is_empty() {
                self.scratch.rest();
            }
            let timeout = self.timeout();
            if self.line.is_empty() && std::mem::take(&mut self.rests) {
                pages::trim_heap();
                Program::find().leave();
            }
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            for event in events.iter().take(count) {
                self.event(event.data(), event.events())?;
            }
            self.retry();
            for _ in 0..ROUND {
                let Some(job) = self.line.pop_front() else { break };
                self.queued.remove(&job);
                match job {
                    Job::Stream(id) => self.stream_turn(id),
                    Job::Client(id) => self.client_turn(id),
                }
            }
            self.report();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.line.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(first) = self.streams.values().filter_map(|s| s.retry).min() else {
            return EpollTimeout::NONE;
        };
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn push(&mut self, job: Job) {
        if self.queued.insert(job) {
            self.line.push_back(job);
        }
    }

    fn event(&mut self, data: u64, flags: EpollFlags) -> io::Result<()> {
        let number = u32::try_from(data & NUMBER).unwrap_or_default();
        match data & !NUMBER {
            CONTROL => self.orders()?,
            LISTENER => self.accept(),
            STREAM => {
                if flags.contains(EpollFlags::EPOLLHUP)
                    && let Some(stream) = self.streams.get_mut(&number)
                {
                    stream.ended = true;
                }
                self.push(Job::Stream(number));
            }
            CLIENT => self.push(Job::Client(number)),
            _ => {}
        }
        Ok(())
    }

    fn orders(&mut self) -> io::Result<()> {
        let mut buffer = [0; MAX_PACKET];
        while !self.alone {
            let envelope = match message::receive(self.control.as_fd(), &mut buffer) {
                Ok(None) => break,
                Ok(Some(envelope)) if envelope.length > 0 => envelope,
                // PID 1 is gone (a container's, or it starts another daemon): write what there is, then end.
                Ok(Some(_)) | Err(_) => {
                    self.alone = true;
                    let all: Vec<u32> = self.streams.keys().copied().collect();
                    all.into_iter().for_each(|id| self.push(Job::Stream(id)));
                    break;
                }
            };
            let order: Option<Order> = decode(buffer.get(..envelope.length).unwrap_or_default());
            let descriptor = envelope.descriptors.into_iter().next();
            if let Some(order) = order {
                self.order(order, descriptor)?;
            }
        }
        self.report();
        Ok(())
    }

    fn order(&mut self, order: Order, descriptor: Option<OwnedFd>) -> io::Result<()> {
        match (order, descriptor) {
            // An init that took over does not know who has which pipe: one that is here already stays.
            (Order::Open { stream, unit, size, keep }, Some(pipe)) if !self.streams.contains_key(&stream) => {
                let file = LogFile::new(self.logs.join(directory_name(&unit)), self.group, size, keep);
                self.epoll.add(&pipe, EpollEvent::new(edge(), STREAM | u64::from(stream)))?;
                let mut known = Stream::new(unit, file, pipe);
                known.place = words::keeps(&known.unit).then_some(stream);
                self.streams.insert(stream, known);
                self.push(Job::Stream(stream));
            }
            (Order::Open { stream, size, keep, .. }, _) => {
                if let Some(known) = self.streams.get_mut(&stream) {
                    known.file.configure(size, keep);
                    // Nobody would open for the last line of a pipe.
                    known.ended = false;
                }
            }
            (Order::Flush { stream }, _) => {
                if let Some(known) = self.streams.get_mut(&stream) {
                    known.flush = true;
                    self.push(Job::Stream(stream));
                }
            }
            (Order::Target(target), _) => {
                if target == Target::Kernel {
                    // What was written before belongs into the files, though its pipe may have come with this order.
                    self.write_out();
                }
                self.target = target;
                let ids: Vec<u32> = self.streams.keys().copied().collect();
                for stream in self.streams.values_mut() {
                    stream.file.close();
                    stream.retry = None;
                }
                if target == Target::Kernel {
                    // Readers hold files of the same file system open.
                    self.clients.clear();
                }
                ids.into_iter().for_each(|id| self.push(Job::Stream(id)));
                self.reports.push_back(Report::Moved(target));
            }
            (Order::Listen, Some(socket)) => {
                let listener = UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
                self.listener = Some(listener);
            }
            (Order::Words, Some(memory)) => {
                let new = Words::given(memory);
                if let Some(old) = self.scratch.words.take() {
                    let places = self.streams.values().filter_map(|s| s.place);
                    places.for_each(|place| new.put(place, &old.get(place)));
                }
                self.scratch.words = Some(new);
            }
            (Order::Rest, _) => self.rests = true,
            (Order::Listen | Order::Words, None) => {}
        }
        Ok(())
    }

    fn report(&mut self) {
        while let Some(report) = self.reports.front() {
            match message::send(self.control.as_fd(), &encode(report), &[]) {
                Ok(true) => drop(self.reports.pop_front()),
                Ok(false) => return,
                // The end of the socket is noticed where it is read.
                Err(_) => return self.reports.clear(),
            }
        }
    }

    /// Takes some new clients. Whoever may connect can do so faster than this is done, and epoll tells of the rest.
    fn accept(&mut self) {
        for _ in 0..ROUND {
            let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
            let Ok(client) = Client::new(stream, self.group) else { continue };
            self.admit(client);
        }
    }

    fn admit(&mut self, client: Client) {
        if self.clients.len() >= MAX_CLIENTS && !self.make_room(&client) {
            return;
        }
        self.next_client = self.next_client.wrapping_add(1);
        let id = self.next_client;
        let flags = edge() | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        if self.epoll.add(&client, EpollEvent::new(flags, CLIENT | u64::from(id))).is_ok() {
            self.clients.insert(id, client);
            self.push(Job::Client(id));
        }
    }

    /// Drops the client that is missed least: one that may read nothing before one that may, idle before busy, oldest
    /// first. Nobody is dropped for somebody with fewer rights, nor a busy one for an equal.
    fn make_room(&mut self, newcomer: &Client) -> bool {
        let rank = |c: &Client| (c.is_allowed(), c.is_busy());
        let least = self.clients.iter().min_by_key(|(_, c)| rank(c)).map(|(id, c)| (*id, rank(c)));
        match least {
            Some((id, (allowed, busy)))
                if newcomer.is_allowed() && !allowed || newcomer.is_allowed() == allowed && !busy =>
            {
                self.clients.remove(&id).is_some()
            }
            _ => false,
        }
    }

    fn client_turn(&mut self, id: u32) {
        match self.clients.get_mut(&id).map(|c| c.pump(&self.logs)) {
            Some(Pump::Close) => drop(self.clients.remove(&id)),
            Some(Pump::Again) => self.push(Job::Client(id)),
            Some(Pump::Idle) | None => {}
        }
    }

    /// Takes turns of every stream until nothing is in their pipes.
    fn write_out(&mut self) {
        let all: Vec<u32> = self.streams.keys().copied().collect();
        all.into_iter().for_each(|id| self.push(Job::Stream(id)));
        let begun = Instant::now();
        while begun.elapsed() < LAST_LINES {
            let streams: Vec<u32> = self
                .queued
                .iter()
                .filter_map(|job| match job {
                    Job::Stream(id) => Some(*id),
                    Job::Client(_) => None,
                })
                .collect();
            if streams.is_empty() {
                break;
            }
            self.line.retain(|job| matches!(job, Job::Client(_)));
            for id in streams {
                self.queued.remove(&Job::Stream(id));
                self.stream_turn(id);
            }
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, s)| s.retry.is_some_and(|r| r <= now))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().for_each(|id| self.push(Job::Stream(id)));
    }

    fn stream_turn(&mut self, id: u32) {
        let now = Instant::now();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // Data that comes while the disk is full waits for the pause to end like the rest.
        if stream.retry.is_some_and(|r| r > now) && !self.alone {
            return;
        }
        let kernel = &mut self.kernel;
        let mut write = |unit: &str, text: &[u8]| to_kernel(kernel, unit, text);
        let mut sink = match self.target {
            Target::Files => Sink::Files,
            Target::Kernel => Sink::Kernel(&mut write),
        };
        match stream.turn(&mut self.scratch, &mut sink) {
            Ok(turn) => {
                if stream.recovered() {
                    self.reports.push_back(Report::Recovered { stream: id });
                }
                match turn {
                    Turn::Again => {
                        let unit = stream.unit.clone();
                        self.push(Job::Stream(id));
                        self.wake_followers(&unit);
                    }
                    Turn::Idle => {}
                    Turn::End => {
                        self.streams.remove(&id);
                        self.reports.push_back(Report::Drained { stream: id });
                    }
                }
            }
            Err(error) => {
                let place = self.logs.display();
                let text =
                    format!("cannot write the log of {} in {place}: {error}; it waits for room", stream.unit);
                if stream.failed(now) {
                    self.reports.push_back(Report::Trouble { stream: id, text });
                }
                // Nobody would be left to retry for.
                if self.alone {
                    self.streams.remove(&id);
                }
            }
        }
    }

    fn wake_followers(&mut self, unit: &str) {
        let mut woken = Vec::new();
        for (id, client) in &mut self.clients {
            if client.follows(unit) {
                client.meet(unit, &self.logs);
                woken.push(*id);
            }
        }
        woken.into_iter().for_each(|id| self.push(Job::Client(id)));
    }
}

fn edge() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLET
}

/// Facility daemon, level info.
const KERNEL_PRIORITY: u8 = 3 << 3 | 6;

fn to_kernel(kernel: &mut Option<std::fs::File>, unit: &str, text: &[u8]) {
    if kernel.is_none() {
        let open = |path| OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path);
        *kernel = open("/dev/kmsg").or_else(|_| open("/dev/null")).ok();
    }
    let text = String::from_utf8_lossy(text.get(..KERNEL_LINE).unwrap_or(text));
    if let Some(file) = kernel {
        // One write is one record. What the kernel does not take has no other place to go.
        let _last_resort = file.write_all(format!("<{KERNEL_PRIORITY}>{unit}: {text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_may_not_read_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let (_init, control) = UnixStream::pair().unwrap();
        let mut daemon =
            Daemon::controlled_by(control.into(), directory.path().to_owned(), Target::Files).unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        daemon.order(Order::Listen, Some(listener.into())).unwrap();
        let connect = |daemon: &mut Daemon, allowed: bool| {
            let stream = UnixStream::connect(&path).unwrap();
            stream.set_nonblocking(true).unwrap();
            let (theirs, _) = daemon.listener.as_ref().unwrap().accept().unwrap();
            let mut client = Client::new(theirs, None).unwrap();
            client.let_in(allowed);
            daemon.admit(client);
            stream
        };
        let refused = |mut s: &UnixStream| s.read(&mut [0]).is_ok_and(|n| n == 0);

        let strangers: Vec<UnixStream> = (0..MAX_CLIENTS).map(|_| connect(&mut daemon, false)).collect();
        let mut known = connect(&mut daemon, true);
        assert!(!refused(&known) && refused(&strangers[0]), "the oldest stranger makes room");
        let call = "{\"method\":\"org.varlink.service.GetInfo\"}\0";
        known.write_all(call.as_bytes()).unwrap();
        daemon.client_turn(daemon.next_client);
        assert!(known.read(&mut [0; 4096]).unwrap() > 0);

        let all: Vec<UnixStream> = (1..MAX_CLIENTS).map(|_| connect(&mut daemon, true)).collect();
        assert!(strangers.iter().all(refused) && !all.iter().any(refused) && !refused(&known));
        assert!(refused(&connect(&mut daemon, false)), "no stranger drops who may read");
        assert!(
            !refused(&connect(&mut daemon, true)) && refused(&known),
            "an idle one makes room for an equal"
        );
    }

    #[test]
    fn who_comes_too_fast_is_taken_by_and_by() {
        let directory = tempfile::tempdir().unwrap();
        let (_init, control) = UnixStream::pair().unwrap();
        let mut daemon =
            Daemon::controlled_by(control.into(), directory.path().to_owned(), Target::Files).unwrap();
        let path = directory.path().join("s");
        daemon.order(Order::Listen, Some(UnixListener::bind(&path).unwrap().into())).unwrap();
        let _clients: Vec<UnixStream> = (0..ROUND + 1).map(|_| UnixStream::connect(&path).unwrap()).collect();
        daemon.accept();
        assert_eq!(daemon.clients.len(), ROUND);
        daemon.accept();
        assert_eq!(daemon.clients.len(), ROUND + 1);
    }
}
