//! The log daemon: its pipes, its restart, its listening socket.
//!
//! It is started when there is something to write or somebody asks, and gets a pipe with the first byte in it: until then
//! PID 1 watches the pipe. So who writes nothing costs no process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cm_core::engine::Mono;
use cm_core::engine::effect::Level;
use serde::{Deserialize, Serialize};
use units::Address;
use units::kind::service::Service;

use super::token::{Token, Turn};
use super::{Shell, now};
use crate::control::{self, LOGS_SOCKET, socket};
use crate::log::link::{LogLink, LogPipe};
use crate::log::peek;
use crate::log::protocol::{Order, Report, Target};
use crate::log::words::{self, Words};
use crate::sys::raw;
use crate::sys::reap::ExitStatus;
use crate::sys::spawn::{self, Launch, OWN_PROGRAM, Output};

/// Bytes of one log file of an exec unit, and how many rotated ones are kept.
const EXEC_LOG: (u64, u32) = (1 << 20, 2);
/// A daemon that died more often than this since it last said something is not started again at once.
const DEATHS: u32 = 5;
/// Between two tries to start it, and between two lives of one that always dies.
const AGAIN_MS: u64 = 1_000;
const LATER_MS: u64 = 30_000;

/// The output of one unit.
#[derive(Debug)]
pub struct Stream {
    /// Both ends of its pipe; the write end goes when the unit does.
    reader: OwnedFd,
    writer: Option<OwnedFd>,
    /// What the live table holds of it.
    pub record: StreamRecord,
    /// Whether the daemon has the read end, and each one that follows it gets it. Nobody else looks at it then.
    given: bool,
}

/// See [`Stream`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The unit.
    pub unit: String,
    /// Bytes of one file.
    pub size: u64,
    /// Rotated files kept.
    pub keep: u32,
    /// Number of the read end.
    pub reader: RawFd,
    /// Number of the write end.
    pub writer: Option<RawFd>,
}

impl Stream {
    /// A stream that was taken over.
    pub fn adopted(record: StreamRecord, reader: OwnedFd, writer: Option<OwnedFd>) -> Stream {
        // The daemon may have it, and will not mind to get it again.
        Stream { reader, writer, record, given: false }
    }

    /// The unit is there again before the last of its output is written: more is to come through the same pipe, in
    /// the order in which it was written. Answers whether that is news.
    fn reopen_writer(&mut self) -> io::Result<bool> {
        if self.writer.is_some() {
            return Ok(false);
        }
        let writer = LogPipe::writer_of(self.reader.as_fd())?;
        self.record.writer = Some(writer.as_raw_fd());
        self.writer = Some(writer);
        Ok(true)
    }

    /// The write end.
    pub(super) fn writer(&self) -> Option<BorrowedFd<'_>> {
        self.writer.as_ref().map(AsFd::as_fd)
    }

    /// Nothing more is to come.
    pub fn close_writer(&mut self) {
        self.writer = None;
        self.record.writer = None;
    }

    fn order(&self, stream: u32) -> Order {
        Order::Open { stream, unit: self.record.unit.clone(), size: self.record.size, keep: self.record.keep }
    }
}

/// The next try to start the daemon: of the pipes that it is to have nobody else hears, so that there has to be one.
#[derive(Debug, Default)]
pub(super) struct Again {
    due: Option<Mono>,
    /// Deaths since a daemon last said something.
    deaths: u32,
}

impl Again {
    /// It could not be started at this moment. Answers whether that is news.
    fn failed(&mut self, at: Mono) -> bool {
        self.due.replace(at.after_ms(AGAIN_MS)).is_none()
    }

    /// It has died at this moment. Answers whether it is to be started at once; later it is in any case.
    fn died(&mut self, at: Mono) -> bool {
        self.deaths = self.deaths.saturating_add(1);
        let soon = self.deaths <= DEATHS;
        if !soon {
            self.due = Some(at.after_ms(LATER_MS));
        }
        soon
    }

    /// When it is to be tried again.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due
    }
}

/// The daemon that runs.
#[derive(Debug)]
pub struct LogDaemon {
    /// The socket to it.
    pub link: LogLink,
    /// Its pid.
    pub pid: i32,
}

impl Shell {
    /// Starts the log daemon and gives it every pipe there is.
    pub(super) fn start_log_daemon(&mut self) {
        match self.try_log_daemon() {
            Ok(()) => self.log_again.due = None,
            Err(e) => {
                if self.log_again.failed(now()) {
                    self.say(Level::Error, None, &format!("cannot start the log daemon: {e}"));
                }
            }
        }
        self.shell_changed = true;
    }

    /// Tries once more what has failed.
    pub(super) fn log_again_if_due(&mut self, at: Mono) {
        if self.log_again.deadline().is_none_or(|due| due > at) {
            return;
        }
        if self.log_daemon.is_none() && self.may_log() {
            self.start_log_daemon();
        } else {
            self.log_again.due = None;
        }
    }

    /// Watches the pipe of a stream until its first byte.
    pub(super) fn await_output(&mut self, number: u32) {
        if let Some(reader) = self.streams.get(&number).map(|s| s.record.reader) {
            self.watch(reader, Token::Output(number));
        }
    }

    /// Watches for who asks for logs, until there is a daemon to answer.
    pub(super) fn await_readers(&mut self) {
        if let Some(listener) = self.logs_listener.as_ref().map(AsRawFd::as_raw_fd)
            && self.log_daemon.is_none()
        {
            self.watch(listener, Token::LogsListener);
        }
    }

    /// Somebody asks for logs and there is no daemon.
    pub(super) fn hear_readers(&mut self) -> Turn {
        if self.log_daemon.is_none() && self.may_log() {
            self.start_log_daemon();
        }
        Turn::Drained
    }

    /// There is something in the pipe of a stream, or its last writer has gone.
    pub(super) fn hear_output(&mut self, number: u32) -> Turn {
        let Some(stream) = self.streams.get(&number).filter(|s| !s.given) else { return Turn::Drained };
        if raw::unread(stream.reader.as_fd()).unwrap_or(1) > 0 {
            self.give(number);
        } else if stream.writer.is_none() {
            self.deregister(stream.record.reader);
            self.streams.remove(&number);
            self.streams_changed.insert(number);
        }
        Turn::Drained
    }

    /// The daemon gets the pipe of a stream.
    fn give(&mut self, number: u32) {
        if !self.may_log() {
            return;
        }
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.given = true;
        let (order, reader) = (stream.order(number), stream.record.reader);
        self.deregister(reader);
        match self.log_daemon {
            Some(_) => self.order(&order, Some(reader)),
            None => self.start_log_daemon(),
        }
    }

    /// Nothing that was written stays in a pipe of which the daemon does not know: it is told where lines go from here on.
    pub(super) fn give_last_words(&mut self) {
        let unread = |s: &Stream| raw::unread(s.reader.as_fd()).unwrap_or(0) > 0;
        let last: Vec<u32> =
            self.streams.iter().filter(|(_, s)| !s.given && unread(s)).map(|(number, _)| *number).collect();
        last.into_iter().for_each(|number| self.give(number));
        let waits = |s: &Stream| s.given && unread(s);
        if self.log_daemon.is_none() && self.may_log() && self.streams.values().any(waits) {
            self.start_log_daemon();
        }
    }

    fn try_log_daemon(&mut self) -> io::Result<()> {
        let (link, theirs) = LogLink::pair()?;
        let directory = self.options.logs.to_string_lossy().into_owned();
        let mut argv = vec!["holdfast-log".to_owned(), "--logs".to_owned(), directory];
        if self.log_target == Target::Kernel {
            argv.push("--kernel".to_owned());
        }
        let cgroup = self.tree.as_ref().and_then(|t| t.create("holdfast.log").ok());
        let descriptors = [(crate::log::daemon::SOCKET, theirs.as_fd())];
        let launch = Launch {
            argv: &argv,
            program: Some(OWN_PROGRAM),
            output: Output::Inherit,
            descriptors: &descriptors,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            ..Launch::default()
        };
        let spawned = spawn::spawn(&launch).map_err(io::Error::other)?;
        self.register(link.as_raw_fd(), Token::LogDaemon);
        let mut daemon = LogDaemon { link, pid: self.own_started(spawned) };
        daemon.link.send(&Order::Target(self.log_target), None)?;
        if self.words.is_none() {
            self.words = Words::new().ok();
        }
        if let Some(words) = &self.words {
            daemon.link.send(&Order::Words, Some(words.as_fd()))?;
        }
        for (number, stream) in self.streams.iter().filter(|(_, s)| s.given) {
            daemon.link.send(&stream.order(*number), Some(stream.reader.as_fd()))?;
        }
        if let Some(listener) = &self.logs_listener {
            daemon.link.send(&Order::Listen, Some(listener.as_fd()))?;
        }
        if let Some(listener) = self.logs_listener.as_ref().map(AsRawFd::as_raw_fd) {
            self.deregister(listener);
        }
        self.log_daemon = Some(daemon);
        Ok(())
    }

    /// Binds the socket on which the daemon answers about logs.
    pub(super) fn bind_logs_socket(&mut self) {
        match socket::listen(&control::beside(&self.options.socket, LOGS_SOCKET), 0o666) {
            Ok(listener) => {
                let fd = OwnedFd::from(listener);
                drop(super::manifests::keep_across_exec(fd.as_fd()));
                self.logs_listener = Some(fd);
            }
            Err(e) => self.say(Level::Error, None, &format!("cannot bind the logs socket: {e}")),
        }
    }

    /// Whoever is to answer on a new listening socket gets it.
    pub(super) fn listen_for_readers(&mut self) {
        match (&mut self.log_daemon, &self.logs_listener) {
            (Some(daemon), Some(listener)) => {
                if daemon.link.send(&Order::Listen, Some(listener.as_fd())).is_err() {
                    self.log_daemon_lost();
                }
            }
            _ => self.await_readers(),
        }
    }

    /// A daemon that was taken over writes last lines where the init before would have read them.
    pub(super) fn renew_words(&mut self) {
        let Some(daemon) = &mut self.log_daemon else { return };
        self.words = Words::new().ok();
        if let Some(words) = &self.words
            && daemon.link.send(&Order::Words, Some(words.as_fd())).is_err()
        {
            self.log_daemon_lost();
        }
    }

    /// The last line that a unit's command has written, for people.
    pub(super) fn last_words(&self, unit: &str) -> Option<String> {
        let (number, stream) = self.streams.iter().find(|(_, s)| s.record.unit == unit)?;
        // ORDER: the pipe first: what the daemon takes out of it meanwhile is in its memory by then.
        let waiting = peek(stream.reader.as_fd());
        let kept = || self.words.as_ref().map(|w| w.get(*number)).unwrap_or_default();
        let line = words::last_line(&waiting).map_or_else(kept, <[u8]>::to_vec);
        (!line.is_empty()).then(|| words::shown(&line))
    }

    pub(super) fn order(&mut self, order: &Order, fd: Option<RawFd>) {
        let Some(daemon) = &mut self.log_daemon else { return };
        let sent = match fd.and_then(|fd| self.streams.values().find(|s| s.record.reader == fd)) {
            Some(stream) => daemon.link.send(order, Some(stream.reader.as_fd())),
            None => daemon.link.send(order, None),
        };
        // It has died: the next one gets everything anyway.
        if sent.is_err() {
            self.log_daemon_lost();
        }
    }

    /// The number of a unit's log pipe, made at its first start, whose write end is there.
    pub(super) fn log_pipe(&mut self, unit: &str, service: Option<&Service>) -> Option<u32> {
        let (size, keep) = service.map_or(EXEC_LOG, |s| (s.log_size, s.log_keep));
        let known = self.streams.iter().find(|(_, s)| s.record.unit == unit).map(|(n, _)| *n);
        let number = match known {
            Some(number) => number,
            None => {
                let pipe = match LogPipe::new() {
                    Ok(pipe) => pipe,
                    Err(e) => {
                        self.say(Level::Error, Some(unit), &format!("cannot create its log pipe: {e}"));
                        return None;
                    }
                };
                self.next_stream += 1;
                let record = StreamRecord {
                    unit: unit.to_owned(),
                    size,
                    keep,
                    reader: pipe.reader.as_raw_fd(),
                    writer: Some(pipe.writer.as_raw_fd()),
                };
                let stream = Stream { reader: pipe.reader, writer: Some(pipe.writer), record, given: false };
                self.streams.insert(self.next_stream, stream);
                self.streams_changed.insert(self.next_stream);
                self.await_output(self.next_stream);
                self.next_stream
            }
        };
        if words::keeps(unit)
            && let Some(words) = &self.words
        {
            // What an earlier run has written says nothing of this one.
            words.put(number, b"");
        }
        let stream = self.streams.get_mut(&number)?;
        let reopened = match stream.reopen_writer() {
            Ok(reopened) => reopened,
            Err(e) => {
                self.say(Level::Error, Some(unit), &format!("cannot open its log pipe again: {e}"));
                return None;
            }
        };
        if reopened || (stream.record.size, stream.record.keep) != (size, keep) {
            (stream.record.size, stream.record.keep) = (size, keep);
            self.streams_changed.insert(number);
            if stream.given {
                let order = stream.order(number);
                self.order(&order, None);
            }
        }
        Some(number)
    }

    /// A process of a unit has ended: what it left without a line feed is a line.
    pub(super) fn flush_log(&mut self, unit: &str) {
        if let Some(number) = self.streams.iter().find(|(_, s)| s.record.unit == unit).map(|(n, _)| *n) {
            self.hear_output(number);
            if !self.streams.get(&number).is_some_and(|s| s.given) {
                return;
            }
            self.order(&Order::Flush { stream: number }, None);
        }
    }

    /// Lets go of the pipes of units that are no more; the daemon says when it has read the rest.
    pub(super) fn close_unused_streams(&mut self) {
        for (number, stream) in &mut self.streams {
            let unit = Address::parse(&stream.record.unit);
            if stream.writer.is_some() && unit.is_none_or(|a| self.engine.node(&a).is_none()) {
                stream.close_writer();
                self.streams_changed.insert(*number);
            }
        }
    }

    /// Reports of the daemon.
    pub(super) fn hear_log_daemon(&mut self) -> Turn {
        for _ in 0..64 {
            let Some(daemon) = &mut self.log_daemon else { return Turn::Drained };
            match daemon.link.flush().and_then(|()| daemon.link.receive()) {
                Ok(None) => return Turn::Drained,
                Ok(Some(report)) => self.log_report(report),
                Err(_) => {
                    self.log_daemon_lost();
                    return Turn::Drained;
                }
            }
        }
        Turn::More
    }

    fn log_report(&mut self, report: Report) {
        self.log_again.deaths = 0;
        let unit = |stream: &u32, shell: &Shell| shell.streams.get(stream).map(|s| s.record.unit.clone());
        match report {
            Report::Drained { stream } => {
                if self.streams.get(&stream).is_some_and(|s| s.writer.is_none()) {
                    self.streams.remove(&stream);
                    self.streams_changed.insert(stream);
                } else if let Some(known) = self.streams.get(&stream) {
                    // It let go of the pipe before it heard that more is to come.
                    let (order, reader) = (known.order(stream), known.record.reader);
                    self.order(&order, Some(reader));
                }
            }
            Report::Trouble { stream, text } => {
                let name = unit(&stream, self);
                self.say(Level::Error, name.as_deref(), &format!("cannot write its log: {text}"));
            }
            Report::Recovered { stream } => {
                let name = unit(&stream, self);
                self.say(Level::Notice, name.as_deref(), "its log is written again");
            }
            Report::Moved(target) => self.logs_moved(target),
        }
    }

    fn log_daemon_lost(&mut self) {
        if let Some(pid) = self.leave_log_daemon() {
            drop(raw::kill(pid, libc::SIGKILL));
        }
    }

    /// Forgets its link. Its end is still to be told.
    fn leave_log_daemon(&mut self) -> Option<i32> {
        let daemon = self.log_daemon.take()?;
        self.deregister(daemon.link.as_raw_fd());
        self.log_dead.insert(daemon.pid);
        self.shell_changed = true;
        Some(daemon.pid)
    }

    /// Whether it was the log daemon; another one is started then.
    pub(super) fn log_daemon_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        let running = self.log_daemon.as_ref().is_some_and(|d| d.pid == pid);
        if running {
            // It has been reaped: its number may be somebody else's by now.
            self.leave_log_daemon();
        }
        if !self.log_dead.remove(&pid) {
            return false;
        }
        if self.log_daemon.is_none() && self.may_log() {
            if self.log_again.died(now()) {
                self.say(Level::Warning, None, &format!("the log daemon {status}: starting it again"));
                self.start_log_daemon();
            } else if self.log_again.deaths == DEATHS + 1 {
                let text = "the log daemon dies again and again: output waits in its pipes, and it is tried \
                            every 30 s";
                self.say(Level::Error, None, text);
            }
        }
        true
    }

    /// Turns the log to files once the mount that carries them is there.
    pub(super) fn advance_logs(&mut self) {
        if self.log_target == Target::Files || self.leaving.is_some() {
            return;
        }
        let logs = self.options.logs.clone();
        if self.mount_above(&logs).is_none_or(|n| self.is_ready(n)) {
            self.set_log_target(Target::Files);
        }
    }

    /// Where lines go: to files once what carries them is there, to the kernel before and at the end.
    pub(super) fn set_log_target(&mut self, target: Target) {
        if self.log_target != target {
            self.log_target = target;
            self.shell_changed = true;
            self.order(&Order::Target(target), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_cannot_be_started_is_tried_again_and_told_of_once() {
        let at = |ms| Mono(0).after_ms(ms);
        let mut again = Again::default();
        assert_eq!(again.deadline(), None);
        assert!(again.failed(at(5)));
        assert_eq!(again.deadline(), Some(at(1005)));
        assert!(!again.failed(at(1005)));
        assert_eq!(again.deadline(), Some(at(2005)));
    }

    #[test]
    fn a_daemon_that_always_dies_is_tried_later_and_never_given_up() {
        let at = |ms| Mono(0).after_ms(ms);
        let mut again = Again::default();
        assert!((0..DEATHS).all(|n| again.died(at(n.into()))));
        assert_eq!(again.deadline(), None);
        for n in [1, 40_000, 80_000] {
            assert!(!again.died(at(n)));
            assert_eq!(again.deadline(), Some(at(n + LATER_MS)));
        }
        again.deaths = 0;
        assert!(again.died(at(90_000)));
    }
}
