//! One client of the server: what it is served with, turn by turn.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use cm_core::engine::Mono;
use serde::{Deserialize, Serialize};
use serde_json::json;
use units::Address;

use super::answer::{
    Change, Event, EventReply, Explanation, Info, Progress, StatusPage, TreeNode, TreePage, UnitStatus,
};
use super::connection::{Connection, ConnectionRecord, MAX_PENDING_CHANGE, Peer};
use super::failure::Failure;
use super::request::{Asked, Request};
use super::{INTERFACE, INTERFACE_NAME, socket};
use crate::sys::inherit::set_close_on_exec;

/// Items of a listing in one reply.
const PAGE: usize = 32;
/// Replies of a listing made at a time for one client, so that no client keeps the loop.
const PAGES_A_WAKE: usize = 8;
/// A listing goes on when less than this is waiting to be read.
pub(super) const LOW_WATER: usize = 32 << 10;
/// Bytes read of one client at a time.
const READ: usize = 16 << 10;
/// What is answered from memory. Every method must be quick: it runs in PID 1's loop.
pub trait Source {
    /// The machine in a few numbers.
    fn info(&self) -> Info;

    /// The unit that a typed name means; see [`super::name::resolve`].
    ///
    /// # Errors
    /// [`Failure::NoSuchUnit`], [`Failure::AmbiguousUnit`].
    fn resolve(&self, text: &str) -> Result<Address, Failure>;

    /// One unit; `None` when it has gone.
    fn status(&self, unit: &Address) -> Option<UnitStatus>;

    /// The first unit at or behind `cursor` (0 is the start), and the cursor behind it. A cursor stays good
    /// while units come and go.
    fn status_from(&self, cursor: u64) -> Option<(UnitStatus, u64)>;

    /// The same, with what the unit needs: at most [`super::answer::MAX_EDGES`] a piece; the next cursor may
    /// stand inside the same unit.
    fn tree_from(&self, cursor: u64) -> Option<(TreeNode, u64)>;

    /// Why a unit is as it is; `None` when it has gone.
    fn explain(&self, unit: &Address) -> Option<Explanation>;
}

/// What a client is being served with.
#[derive(Debug)]
pub(super) enum Serving {
    Nothing,
    /// The loop answers this call.
    Call(u64),
    /// Everything that happens.
    Events,
    /// Units from this cursor on.
    Status(u64),
    /// These units, from the last to the first.
    StatusOf(Vec<Address>),
    /// The tree from this cursor on.
    Tree(u64),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Connection,
    pub(super) stream: UnixStream,
    pub(super) serving: Serving,
    /// When it last asked something, in calls and connections.
    pub(super) active: u64,
    /// There may be bytes that were not read yet.
    pub(super) unread: bool,
    /// The socket took everything last time.
    pub(super) writable: bool,
    /// The other end is closed, or the socket is broken.
    pub(super) dead: bool,
    /// Time of the last event that it was to be told.
    pub(super) told: u64,
    /// Progress of its call that is not made a reply of yet.
    pub(super) news: Vec<Progress>,
    /// Since when the beginning of a call has been there without its end.
    pub(super) half: Option<Mono>,
}

/// What another init has to know of a client to go on with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClientRecord {
    id: u64,
    socket: RawFd,
    descriptor: Option<RawFd>,
    connection: ConnectionRecord,
    /// The call that the loop answers.
    call: Option<u64>,
    /// It is told everything that happens.
    listens: bool,
    active: u64,
    told: u64,
    half: Option<Mono>,
}

impl Client {
    /// A client that has just come.
    pub(super) fn new(stream: UnixStream, peer: Peer, active: u64) -> Client {
        Client {
            connection: Connection::new(peer),
            stream,
            serving: Serving::Nothing,
            active,
            unread: true,
            writable: true,
            dead: false,
            told: 0,
            news: Vec::new(),
            half: None,
        }
    }

    /// Whether the loop is in the middle of a listing for it.
    pub(super) fn is_listing(&self) -> bool {
        matches!(self.serving, Serving::Status(_) | Serving::StatusOf(_) | Serving::Tree(_))
    }

    /// Its descriptors stay open across execve from here on. Nothing for a listing, which only its own init can go on
    /// with, and for who has gone.
    pub(super) fn hand_over(&self, id: u64) -> Option<ClientRecord> {
        let (call, listens) = match self.serving {
            Serving::Nothing => (None, false),
            Serving::Call(call) => (Some(call), false),
            Serving::Events => (None, true),
            Serving::Status(_) | Serving::StatusOf(_) | Serving::Tree(_) => return None,
        };
        let descriptor = self.connection.descriptor();
        if self.dead || set_close_on_exec(self.stream.as_fd(), false).is_err() {
            return None;
        }
        if let Some(fd) = descriptor {
            set_close_on_exec(fd, false).ok()?;
        }
        Some(ClientRecord {
            id,
            socket: self.stream.as_raw_fd(),
            descriptor: descriptor.map(|fd| fd.as_raw_fd()),
            connection: self.connection.record(),
            call,
            listens,
            active: self.active,
            told: self.told,
            half: self.half,
        })
    }

    /// A client of an earlier init, and its number.
    pub(super) fn adopted(
        record: ClientRecord,
        take: &mut dyn FnMut(RawFd) -> Option<OwnedFd>,
    ) -> Option<(u64, Client)> {
        let stream = UnixStream::from(take(record.socket)?);
        let descriptor = record.descriptor.and_then(take);
        let serving = match (record.call, record.listens) {
            (Some(call), _) => Serving::Call(call),
            (None, true) => Serving::Events,
            (None, false) => Serving::Nothing,
        };
        let client = Client {
            connection: Connection::adopted(record.connection, descriptor),
            stream,
            serving,
            active: record.active,
            unread: true,
            writable: true,
            dead: false,
            told: record.told,
            news: Vec::new(),
            half: record.half,
        };
        Some((record.id, client))
    }

    /// Whether [`super::server::Server::resume`] could do something for it.
    pub(super) fn has_work(&self) -> bool {
        let idle = matches!(self.serving, Serving::Nothing);
        let listing = self.is_listing();
        let takes = self.writable || self.has_drained();
        (self.unread && takes && (idle || self.connection.room() > 0)) || (listing && self.writable)
    }

    /// Whether the client has read enough for more to be made.
    pub(super) fn has_drained(&self) -> bool {
        self.connection.outbox.pending().len() <= LOW_WATER
    }
}

/// What became of a call.
pub(super) enum Begun {
    Served,
    ForTheLoop(Request),
}

impl Client {
    /// Takes what the socket has, up to a bound.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; READ];
        let room = self.connection.room().min(READ);
        if self.connection.is_closing() {
            self.unread = false;
        }
        if !self.unread || room == 0 {
            return;
        }
        let Some(part) = buffer.get_mut(..room) else { return };
        match socket::receive(&self.stream, part) {
            Ok((0, _)) => self.dead = true,
            Ok((count, descriptor)) => {
                self.connection.feed(part.get(..count).unwrap_or_default(), descriptor);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.unread = false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.dead = true,
        }
    }

    /// Sends what the socket takes.
    pub(super) fn write(&mut self) {
        while !self.dead && self.writable && !self.connection.outbox.pending().is_empty() {
            match socket::send(&self.stream, self.connection.outbox.pending()) {
                Ok(count) => self.connection.sent(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.dead = true,
            }
        }
    }

    /// Makes one reply of the progress that has come together.
    pub(super) fn tell_news(&mut self) {
        let progress = std::mem::take(&mut self.news);
        if progress.is_empty() {
            return;
        }
        self.tell_missed(LOW_WATER);
        let count = u32::try_from(progress.len()).unwrap_or(u32::MAX);
        self.connection.stream_some(&Change { progress, finished: None }, count, MAX_PENDING_CHANGE);
    }

    /// Says how much the client has missed, as soon as it has read what was there before.
    pub(super) fn tell_missed(&mut self, room: usize) {
        let Some(missed) = self.connection.take_missed(room) else { return };
        let text = format!("{missed} messages are not shown: they came faster than they were read");
        match self.serving {
            Serving::Call(_) => {
                let progress = Progress { unit: String::new(), state: None, outcome: None, text };
                self.connection.stream(&Change { progress: vec![progress], finished: None }, usize::MAX);
            }
            Serving::Events => {
                let (about, time) = ("missed".to_owned(), self.told);
                let event = Event { time, about, unit: None, state: None, outcome: None, text };
                self.connection.stream(&EventReply { event }, usize::MAX);
            }
            Serving::Nothing | Serving::Status(_) | Serving::StatusOf(_) | Serving::Tree(_) => {}
        }
    }

    fn fail(&mut self, failure: &Failure) -> Begun {
        self.connection.fail(failure);
        Begun::Served
    }

    /// Takes up a call: answers it, makes a listing of it, or hands it on.
    pub(super) fn begin(&mut self, asked: Asked, source: &dyn Source) -> Begun {
        let resolve_all = |names: &[String]| -> Result<Vec<Address>, Failure> {
            names.iter().map(|n| source.resolve(n)).collect()
        };
        match asked.request {
            Request::Status(status) => {
                self.serving = match status.units {
                    None => Serving::Status(0),
                    Some(names) => match resolve_all(&names) {
                        Ok(mut units) => {
                            units.reverse();
                            Serving::StatusOf(units)
                        }
                        Err(failure) => return self.fail(&failure),
                    },
                };
                Begun::Served
            }
            Request::Tree(_) => {
                self.serving = Serving::Tree(0);
                Begun::Served
            }
            Request::Events(_) if asked.more => {
                self.serving = Serving::Events;
                // Where things stand, at once: who has read it knows that what happens from now on reaches it.
                let info = source.info();
                let standing = match (info.converged, info.at_rest) {
                    (true, _) => "converged",
                    (false, true) => "not converged",
                    (false, false) => "converging",
                };
                let text = format!("{}, {standing}", info.generation);
                let about = "generation".to_owned();
                let event = Event { time: info.time, about, unit: None, state: None, outcome: None, text };
                self.connection.stream(&EventReply { event }, usize::MAX);
                Begun::Served
            }
            Request::Events(_) => self.fail(&Failure::ExpectedMore),
            Request::Explain(explain) => {
                match source.resolve(&explain.unit).map(|unit| source.explain(&unit)) {
                    Ok(Some(explanation)) => self.connection.finish(&explanation),
                    Ok(None) => {
                        return self.fail(&Failure::NoSuchUnit { unit: explain.unit, nearest: None });
                    }
                    Err(failure) => return self.fail(&failure),
                }
                Begun::Served
            }
            Request::Info(_) => {
                self.connection.finish(&source.info());
                Begun::Served
            }
            Request::GetInfo(_) => {
                self.connection.finish(&json!({
                    "vendor": "Holdfast",
                    "product": "init",
                    "version": env!("CARGO_PKG_VERSION"),
                    "url": "",
                    "interfaces": ["org.varlink.service", INTERFACE_NAME],
                }));
                Begun::Served
            }
            Request::GetInterfaceDescription(asked) => {
                let text = match asked.interface.as_str() {
                    INTERFACE_NAME => INTERFACE,
                    "org.varlink.service" => SERVICE,
                    _ => return self.fail(&Failure::InterfaceNotFound { interface: asked.interface }),
                };
                self.connection.finish(&json!({ "description": text }));
                Begun::Served
            }
            Request::Command(mut command) => match resolve_all(&command.units) {
                Ok(units) => {
                    command.units = units.iter().map(Address::to_string).collect();
                    Begun::ForTheLoop(Request::Command(command))
                }
                Err(failure) => self.fail(&failure),
            },
            Request::Wait(mut wait) => match resolve_all(&wait.ready) {
                Ok(units) => {
                    wait.ready = units.iter().map(Address::to_string).collect();
                    Begun::ForTheLoop(Request::Wait(wait))
                }
                Err(failure) => self.fail(&failure),
            },
            request @ (Request::Apply(_)
            | Request::Rollback(_)
            | Request::Reexec(_)
            | Request::Shutdown(_)) => Begun::ForTheLoop(request),
        }
    }

    /// Makes as many pages of a listing as the client has read.
    pub(super) fn list(&mut self, source: &dyn Source) {
        for _ in 0..PAGES_A_WAKE {
            self.write();
            if self.dead || !self.has_drained() {
                return;
            }
            match &mut self.serving {
                Serving::Status(cursor) => {
                    let (units, next) = page(*cursor, |at| source.status_from(at));
                    let last = next.is_none();
                    *cursor = next.unwrap_or_default();
                    self.page(&StatusPage { units }, last);
                }
                Serving::StatusOf(units) => {
                    let mut page = Vec::new();
                    while page.len() < PAGE
                        && let Some(unit) = units.pop()
                    {
                        page.extend(source.status(&unit));
                    }
                    let last = units.is_empty();
                    self.page(&StatusPage { units: page }, last);
                }
                Serving::Tree(cursor) => {
                    let (nodes, next) = page(*cursor, |at| source.tree_from(at));
                    let last = next.is_none();
                    *cursor = next.unwrap_or_default();
                    self.page(&TreePage { nodes }, last);
                }
                Serving::Nothing | Serving::Call(_) | Serving::Events => return,
            }
        }
    }

    fn page<P: serde::Serialize>(&mut self, page: &P, last: bool) {
        match (last, self.connection.takes_more()) {
            (true, _) => self.connection.finish(page),
            (false, true) => return self.connection.stream(page, usize::MAX),
            (false, false) => self.connection.fail(&Failure::ExpectedMore),
        }
        self.serving = Serving::Nothing;
        self.unread = true;
    }
}

/// Up to [`PAGE`] items from `cursor` on, and where the next page starts, if there is one.
fn page<T>(cursor: u64, next: impl Fn(u64) -> Option<(T, u64)>) -> (Vec<T>, Option<u64>) {
    let mut items = Vec::new();
    let mut at = cursor;
    while let Some((item, behind)) = next(at) {
        if items.len() == PAGE {
            return (items, Some(at));
        }
        items.push(item);
        at = behind;
    }
    (items, None)
}

/// The interface that every Varlink service has (varlink.org/Service).
const SERVICE: &str = "\
# The Varlink Service Interface is provided by every varlink service.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
";
