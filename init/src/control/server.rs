//! The sockets of the control protocol: the listener and its clients, without a loop of its own.
//!
//! Whoever owns the loop registers the listener and each new client for readable and writable (edge-triggered
//! is enough), calls [`Server::accept`], [`Server::readable`] and [`Server::writable`], and answers the calls
//! it gets by their number. While [`Server::has_work`] is true it calls [`Server::resume`] before it sleeps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::json;
use units::Address;

use super::answer::{
    Answer, Change, Event, EventReply, Explanation, Info, Outcome, Progress, StatusPage, TreeNode, TreePage,
    UnitStatus,
};
use super::connection::{Connection, MAX_PENDING, MAX_PENDING_CHANGE, Peer};
use super::failure::Failure;
use super::request::{Asked, Request};
use super::{INTERFACE, INTERFACE_NAME, socket};

/// Most clients at a time.
pub const MAX_CLIENTS: usize = 64;
/// Mode of the socket: who may connect may read; who may change is decided by uid.
pub const SOCKET_MODE: u32 = 0o666;
/// Items of a listing in one reply.
const PAGE: usize = 32;
/// Replies of a listing made at a time for one client, so that no client keeps the loop.
const PAGES_A_WAKE: usize = 8;
/// A listing goes on when less than this is waiting to be read.
const LOW_WATER: usize = 32 << 10;
/// Bytes read of one client at a time.
const READ: usize = 16 << 10;
/// Notes kept until somebody takes them.
const MAX_NOTES: usize = 64;

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

/// A call that the loop has to answer: apply, rollback, command, wait, re-exec, shutdown.
#[derive(Debug)]
pub struct Incoming {
    /// Its number: never 0, never the same twice. [`Server::progress`], [`Server::answer`] and
    /// [`Server::fail`] take it.
    pub call: u64,
    /// What is asked. Names of units in it are addresses of units that exist.
    pub request: Request,
    /// The descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
    /// Who asks. Calls of those who may not are answered before they get here.
    pub peer: Peer,
}

/// What a client is being served with.
#[derive(Debug)]
enum Serving {
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
struct Client {
    connection: Connection,
    stream: UnixStream,
    serving: Serving,
    /// When it last asked something, in calls and connections.
    active: u64,
    /// There may be bytes that were not read yet.
    unread: bool,
    /// The socket took everything last time.
    writable: bool,
    /// The other end is closed, or the socket is broken.
    dead: bool,
    /// Time of the last event that it was to be told.
    told: u64,
}

impl Client {
    /// Whether [`Server::resume`] could do something for it.
    fn has_work(&self) -> bool {
        let idle = matches!(self.serving, Serving::Nothing);
        let listing = matches!(self.serving, Serving::Status(_) | Serving::StatusOf(_) | Serving::Tree(_));
        let takes = self.writable || self.has_drained();
        (self.unread && takes && (idle || self.connection.room() > 0)) || (listing && self.writable)
    }

    /// Whether the client has read enough for more to be made.
    fn has_drained(&self) -> bool {
        self.connection.outbox.pending().len() <= LOW_WATER
    }
}

/// The listener and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    clients: BTreeMap<u64, Client>,
    /// Which client a call is from.
    calls: BTreeMap<u64, u64>,
    counter: u64,
    abandoned: Vec<u64>,
    notes: Vec<String>,
}

impl Server {
    /// Listens on `path`.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(path: &Path, mode: u32) -> io::Result<Server> {
        Ok(Server::adopt(socket::listen(path, mode)?, path))
    }

    /// Goes on with a listener that was taken over across a re-exec.
    pub fn adopt(listener: UnixListener, path: &Path) -> Server {
        Server {
            listener,
            path: path.to_owned(),
            clients: BTreeMap::new(),
            calls: BTreeMap::new(),
            counter: 0,
            abandoned: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The listener, to be registered for readable.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether this client is still served.
    pub fn has_client(&self, id: u64) -> bool {
        self.clients.contains_key(&id)
    }

    fn count(&mut self) -> u64 {
        self.counter = self.counter.saturating_add(1);
        self.counter
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text);
        }
    }

    /// What should be in the log: clients that were dropped, and why.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Calls whose clients have gone: nobody waits for their answers. What they began goes on.
    pub fn take_abandoned(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.abandoned)
    }

    /// Takes new clients; answers their numbers and descriptors, to be registered for readable and writable.
    /// The descriptors close, and thereby leave the poll, when the server drops the client.
    pub fn accept(&mut self) -> Vec<(u64, RawFd)> {
        let mut new = Vec::new();
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) =>
                {
                    continue;
                }
                Err(e) => {
                    self.note(format!("cannot accept a client of the control socket: {e}"));
                    break;
                }
            };
            let owner = std::fs::metadata(&self.path).map(|m| m.uid()).unwrap_or(0);
            let known = stream.set_nonblocking(true).and_then(|()| socket::credentials(&stream));
            let Ok((pid, uid, gid)) = known else { continue };
            let peer = Peer { pid, uid, gid, privileged: uid == 0 || uid == owner };
            if self.clients.len() >= MAX_CLIENTS && !self.make_room(peer) {
                self.note(format!("refused a control client of uid {uid}: {MAX_CLIENTS} are served"));
                continue;
            }
            let id = self.count();
            let fd = stream.as_raw_fd();
            let client = Client {
                connection: Connection::new(peer),
                stream,
                serving: Serving::Nothing,
                active: id,
                unread: true,
                writable: true,
                dead: false,
                told: 0,
            };
            self.clients.insert(id, client);
            new.push((id, fd));
        }
        new
    }

    /// Drops the client that is missed least: idle before busy, unprivileged before privileged, oldest first.
    /// Nobody is dropped for somebody with fewer rights, nor a busy one for an equal.
    fn make_room(&mut self, newcomer: Peer) -> bool {
        let rank =
            |c: &Client| (c.connection.peer().privileged, !matches!(c.serving, Serving::Nothing), c.active);
        let least = self.clients.iter().min_by_key(|(_, c)| rank(c)).map(|(id, c)| (*id, rank(c)));
        match least {
            Some((id, (privileged, busy, _)))
                if (newcomer.privileged && !privileged) || (newcomer.privileged == privileged && !busy) =>
            {
                self.drop_client(id, Some("there are too many clients"));
                true
            }
            _ => false,
        }
    }

    fn drop_client(&mut self, id: u64, why: Option<&str>) {
        let Some(client) = self.clients.remove(&id) else { return };
        if let Serving::Call(call) = client.serving {
            self.calls.remove(&call);
            self.abandoned.push(call);
        }
        if let Some(why) = why {
            let peer = client.connection.peer();
            self.note(format!("dropped control client {} of uid {}: {why}", peer.pid, peer.uid));
        }
    }

    /// A client's socket has become readable.
    pub fn readable(&mut self, id: u64, source: &dyn Source) -> Vec<Incoming> {
        if let Some(client) = self.clients.get_mut(&id) {
            client.unread = true;
        }
        self.serve(id, source)
    }

    /// A client's socket has become writable.
    pub fn writable(&mut self, id: u64, source: &dyn Source) -> Vec<Incoming> {
        if let Some(client) = self.clients.get_mut(&id) {
            client.writable = true;
        }
        self.serve(id, source)
    }

    /// Whether some client can be served on without an event.
    pub fn has_work(&self) -> bool {
        self.clients.values().any(Client::has_work)
    }

    /// Goes on with clients whose turn ended before their work did.
    pub fn resume(&mut self, source: &dyn Source) -> Vec<Incoming> {
        let ids: Vec<u64> = self.clients.iter().filter(|(_, c)| c.has_work()).map(|(id, _)| *id).collect();
        ids.into_iter().flat_map(|id| self.serve(id, source)).collect()
    }

    /// One turn of one client: read, take calls, list, write.
    fn serve(&mut self, id: u64, source: &dyn Source) -> Vec<Incoming> {
        let mut incoming = Vec::new();
        let Some(mut client) = self.clients.remove(&id) else { return incoming };
        client.read();
        while client.has_drained()
            && let Some(asked) = client.connection.next_call()
        {
            client.active = self.count();
            match client.begin(asked, source) {
                Begun::Served => {}
                Begun::ForTheLoop(request) => {
                    let call = self.count();
                    client.serving = Serving::Call(call);
                    self.calls.insert(call, id);
                    let descriptor = client.connection.take_descriptor();
                    incoming.push(Incoming { call, request, descriptor, peer: client.connection.peer() });
                }
            }
        }
        // There may be calls that were read and not taken.
        client.unread |= !client.has_drained();
        client.list(source);
        client.tell_missed(LOW_WATER);
        client.write();
        self.put_back(id, client);
        incoming
    }

    fn put_back(&mut self, id: u64, client: Client) {
        let done =
            client.dead || (client.connection.is_closing() && client.connection.outbox.pending().is_empty());
        let stuck = client.connection.is_stuck();
        self.clients.insert(id, client);
        if done {
            self.drop_client(id, None);
        } else if stuck {
            self.drop_client(id, Some("it does not read its replies"));
        }
    }

    /// Does something with the client that waits for `call`, then writes.
    fn with_call(&mut self, call: u64, last: bool, act: impl FnOnce(&mut Client)) {
        let Some(id) = self.calls.get(&call).copied() else { return };
        let Some(mut client) = self.clients.remove(&id) else { return };
        if last {
            client.tell_missed(usize::MAX);
        }
        act(&mut client);
        if last {
            self.calls.remove(&call);
            client.serving = Serving::Nothing;
            // Calls that were sent meanwhile are taken by `resume`.
            client.unread = true;
        }
        client.write();
        self.put_back(id, client);
    }

    /// One reply of several. A call that nobody waits for any more is no mistake.
    pub fn progress(&mut self, call: u64, progress: &Progress) {
        let change = Change { progress: Some(progress.clone()), finished: None };
        self.with_call(call, false, |client| {
            // That something was right is counted at the end, and worth nothing to who lags behind.
            if progress.outcome != Some(Outcome::Kept) || client.has_drained() {
                client.tell_missed(LOW_WATER);
                client.connection.stream(&change, MAX_PENDING_CHANGE);
            }
        });
    }

    /// The last reply. Afterwards the number means nothing.
    pub fn answer(&mut self, call: u64, answer: &Answer) {
        self.with_call(call, true, |client| match answer {
            Answer::Finished(f) => {
                client.connection.finish(&Change { progress: None, finished: Some(f.clone()) })
            }
            Answer::Waited(w) => client.connection.finish(w),
            Answer::Begun => client.connection.finish(&json!({})),
        });
    }

    /// The call could not be done. Afterwards the number means nothing.
    pub fn fail(&mut self, call: u64, failure: &Failure) {
        self.with_call(call, true, |client| client.connection.fail(failure));
    }

    /// Whether somebody wants to know what happens; spares making events that nobody reads.
    pub fn has_listeners(&self) -> bool {
        self.clients.values().any(|c| matches!(c.serving, Serving::Events))
    }

    /// Tells everybody who listens.
    pub fn publish(&mut self, event: &Event) {
        let ids: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| matches!(c.serving, Serving::Events))
            .map(|(id, _)| *id)
            .collect();
        let reply = EventReply { event: event.clone() };
        for id in ids {
            let Some(mut client) = self.clients.remove(&id) else { continue };
            client.told = event.time;
            client.tell_missed(LOW_WATER);
            client.connection.stream(&reply, MAX_PENDING);
            client.write();
            self.put_back(id, client);
        }
    }
}

/// What became of a call.
enum Begun {
    Served,
    ForTheLoop(Request),
}

impl Client {
    fn read(&mut self) {
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

    fn write(&mut self) {
        while !self.dead && self.writable && !self.connection.outbox.pending().is_empty() {
            match socket::send(&self.stream, self.connection.outbox.pending()) {
                Ok(count) => self.connection.sent(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.dead = true,
            }
        }
    }

    /// Says how much the client has missed, as soon as it has read what was there before.
    fn tell_missed(&mut self, room: usize) {
        let Some(missed) = self.connection.take_missed(room) else { return };
        let text = format!("{missed} messages are not shown: they came faster than they were read");
        match self.serving {
            Serving::Call(_) => {
                let progress = Progress { unit: String::new(), state: None, outcome: None, text };
                self.connection.stream(&Change { progress: Some(progress), finished: None }, usize::MAX);
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

    fn begin(&mut self, asked: Asked, source: &dyn Source) -> Begun {
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
    fn list(&mut self, source: &dyn Source) {
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

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
