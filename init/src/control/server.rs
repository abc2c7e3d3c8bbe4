//! The sockets of the control protocol: the listener and its clients, without a loop of its own.
//!
//! Whoever owns the loop registers the listener and each new client for readable and writable (edge-triggered
//! is enough), calls [`Server::accept`], [`Server::readable`] and [`Server::writable`], and answers the calls
//! it gets by their number. While [`Server::has_work`] is true it calls [`Server::resume`] before it sleeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cm_core::engine::Mono;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::{Answer, Change, Event, EventReply, Outcome, Progress};
use super::connection::{MAX_PENDING, Peer};
use super::failure::Failure;
use super::request::Request;
use super::serving::{Begun, Client, ClientRecord, LOW_WATER, Serving};
use super::socket;

pub use super::serving::Source;

/// Most clients at a time.
pub const MAX_CLIENTS: usize = 64;
/// Mode of the socket: who may connect may read; who may change is decided by uid.
pub const SOCKET_MODE: u32 = 0o666;
/// Most newcomers that one turn takes.
const NEWCOMERS: usize = 32;
/// Progress in one reply at most: some 10 kB.
const NEWS: usize = 64;
/// From the first byte of a call to its last there may be so much time: who takes longer keeps a place from others.
pub const HALF_MS: u64 = 10_000;
/// Notes kept until somebody takes them.
const MAX_NOTES: usize = 64;

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

/// The clients of an init that is about to be another one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handed {
    counter: u64,
    clients: Vec<ClientRecord>,
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
    /// Clients have left since it was asked the last time.
    left: bool,
    /// A descriptor to give up when there is no other, so that somebody who connects then is not left waiting.
    spare: Option<File>,
    /// Somebody waits whom the kernel would not let in.
    refused: bool,
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Server {
    /// Listens on `path`.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(path: &Path, mode: u32) -> io::Result<Server> {
        Ok(Server::adopt(socket::listen(path, mode)?, path))
    }

    /// Listens on a new socket at its path: the name of the one before is gone. Clients stay.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind_again(&mut self, mode: u32) -> io::Result<()> {
        self.listener = socket::listen(&self.path, mode)?;
        Ok(())
    }

    /// Goes on with a listener that was taken over across a re-exec.
    pub fn adopt(listener: UnixListener, path: &Path) -> Server {
        // What an earlier init's calls have begun may still be answered: no call of this one has such a number.
        let counter = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .ok()
            .and_then(|time| u64::try_from(time.as_nanos()).ok())
            .unwrap_or_default();
        Server {
            listener,
            path: path.to_owned(),
            clients: BTreeMap::new(),
            calls: BTreeMap::new(),
            counter,
            abandoned: Vec::new(),
            notes: Vec::new(),
            left: false,
            spare: spare(),
            refused: false,
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

    /// Whether somebody is in the middle of a listing, which another init could not go on with.
    pub fn is_listing(&self) -> bool {
        self.clients.values().any(Client::is_listing)
    }

    /// Every client that another init can go on with. Their descriptors stay open across execve from here on.
    pub fn hand_over(&mut self) -> Handed {
        self.tell_news();
        let clients = self.clients.iter().filter_map(|(id, client)| client.hand_over(*id)).collect();
        Handed { counter: self.counter, clients }
    }

    /// Goes on with the clients of an earlier init; answers their numbers and descriptors, to be registered like those
    /// of new ones.
    pub fn take_over(
        &mut self,
        handed: Handed,
        take: &mut dyn FnMut(RawFd) -> Option<OwnedFd>,
    ) -> Vec<(u64, RawFd)> {
        self.counter = self.counter.max(handed.counter);
        let mut new = Vec::new();
        for (id, client) in handed.clients.into_iter().filter_map(|record| Client::adopted(record, take)) {
            if let Serving::Call(call) = client.serving {
                self.calls.insert(call, id);
            }
            new.push((id, client.stream.as_raw_fd()));
            self.clients.insert(id, client);
        }
        new
    }

    /// When the first client has taken too long over a call that it has begun to send.
    pub fn half_deadline(&self) -> Option<Mono> {
        self.clients.values().filter_map(|c| c.half).min().map(|since| since.after_ms(HALF_MS))
    }

    /// Starts and stops the clocks of calls that are not complete, and drops who has taken too long.
    pub fn time_halves(&mut self, now: Mono) {
        for client in self.clients.values_mut() {
            client.half = match (client.connection.has_half(), client.half) {
                (true, since) => Some(since.unwrap_or(now)),
                (false, _) => None,
            };
        }
        let late = |c: &Client| c.half.is_some_and(|since| since.after_ms(HALF_MS) <= now);
        let late: Vec<u64> = self.clients.iter().filter(|(_, c)| late(c)).map(|(id, _)| *id).collect();
        for id in late {
            let why = format!("it did not end a call within {} s", HALF_MS / 1000);
            self.drop_client(id, Some(&why));
        }
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

    /// Takes some new clients; answers their numbers and descriptors, to be registered for readable and writable,
    /// and whether there may be more, for whom it has to be called again. The descriptors close, and thereby leave
    /// the poll, when the server drops the client.
    pub fn accept(&mut self) -> (Vec<(u64, RawFd)>, bool) {
        let mut new = Vec::new();
        // Whoever may connect can do so faster than this is done.
        let more = (0..NEWCOMERS).all(|_| self.accept_one(&mut new));
        // One that had to make room is gone, and its descriptor may be that of a later one.
        new.retain(|(id, _)| self.has_client(*id));
        (new, more)
    }

    /// Answers whether there may be more.
    fn accept_one(&mut self, new: &mut Vec<(u64, RawFd)>) -> bool {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                return true;
            }
            Err(e) => {
                self.note(format!("cannot accept a client of the control socket: {e}"));
                let used_up = matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                let more = used_up && self.accept_without_descriptors(new);
                self.refused = !more;
                return more;
            }
        };
        self.admit(stream, MAX_CLIENTS, new);
        true
    }

    /// Whether somebody waits whom the kernel would not let in, for want of memory perhaps. Nothing tells when it would.
    pub fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Gives up a client that nothing could be heard of.
    pub fn give_up(&mut self, id: u64) {
        self.drop_client(id, Some("its socket cannot be watched"));
    }

    /// Every descriptor is in use, and nothing tells when one is free: whoever connects would wait for ever. The spare
    /// one takes them; then somebody who is missed less makes room, or they are turned away. Answers whether there may
    /// be more.
    fn accept_without_descriptors(&mut self, new: &mut Vec<(u64, RawFd)>) -> bool {
        if self.spare.take().is_none() {
            return false;
        }
        if let Ok((stream, _)) = self.listener.accept() {
            self.admit(stream, self.clients.len(), new);
        }
        self.spare = spare();
        self.spare.is_some()
    }

    /// Takes a client whose connection was accepted, if so many may be served.
    fn admit(&mut self, stream: UnixStream, most: usize, new: &mut Vec<(u64, RawFd)>) {
        let owner = std::fs::metadata(&self.path).map(|m| m.uid()).unwrap_or(0);
        let known = stream.set_nonblocking(true).and_then(|()| socket::credentials(&stream));
        let Ok((pid, uid, gid)) = known else { return };
        let peer = Peer { pid, uid, gid, privileged: uid == 0 || uid == owner };
        if self.clients.len() >= most && !self.make_room(peer) {
            self.note(format!("refused a control client of uid {uid}: {most} are served"));
            return;
        }
        let id = self.count();
        let fd = stream.as_raw_fd();
        let client = Client::new(stream, peer, id);
        self.clients.insert(id, client);
        new.push((id, fd));
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

    /// Whether the last client has left since the last call: what their frames took can go back.
    pub fn take_deserted(&mut self) -> bool {
        self.clients.is_empty() && std::mem::take(&mut self.left)
    }

    fn drop_client(&mut self, id: u64, why: Option<&str>) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.left = true;
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
            client.half = None;
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

    /// Tells the client that waits for `call` its news, does something with it, then writes.
    fn with_call(&mut self, call: u64, last: bool, act: impl FnOnce(&mut Client)) {
        let Some(id) = self.calls.get(&call).copied() else { return };
        let Some(mut client) = self.clients.remove(&id) else { return };
        client.tell_news();
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

    /// Something for one reply of several; it goes with what else comes before [`Server::tell_news`], or when that is
    /// enough for a reply. A call that nobody waits for any more is no mistake.
    pub fn progress(&mut self, call: u64, progress: &Progress) {
        let client = self.calls.get(&call).and_then(|id| self.clients.get_mut(id));
        // That something was right is counted at the end, and worth nothing to who lags behind.
        let Some(client) = client.filter(|c| progress.outcome != Some(Outcome::Kept) || c.has_drained())
        else {
            return;
        };
        client.news.push(progress.clone());
        if client.news.len() >= NEWS {
            self.with_call(call, false, |_| {});
        }
    }

    /// Sends the progress that has come together. To be called after each round of the loop: a frame, a system call and
    /// a wake-up of the client for each unit would cost more than the units.
    pub fn tell_news(&mut self) {
        let call = |c: &Client| match c.serving {
            Serving::Call(call) if !c.news.is_empty() => Some(call),
            _ => None,
        };
        let calls: Vec<u64> = self.clients.values().filter_map(call).collect();
        for call in calls {
            self.with_call(call, false, |_| {});
        }
    }

    /// The last reply. Afterwards the number means nothing.
    pub fn answer(&mut self, call: u64, answer: &Answer) {
        self.with_call(call, true, |client| match answer {
            Answer::Finished(f) => {
                client.connection.finish(&Change { progress: Vec::new(), finished: Some(f.clone()) })
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

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
