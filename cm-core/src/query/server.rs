//! Connections: who may ask, cutting what they send into calls, a process for each call.
//!
//! The server itself answers nothing and looks at no file: it can be held up by nobody. A call is answered by a
//! child, which owns the connection until it ends; a child that dies takes its connection along and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, send, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::answer::{self, Caller};
use super::wire::{self, Call, Fault};
use super::{Options, QueryError};
use crate::sys::{self, Forked, fork};
use crate::varlink::{Frames, TooLong};

/// Connections at a time; further ones wait to be accepted.
const MAX_CLIENTS: usize = 32;
/// Calls that are answered at a time; further ones wait.
const MAX_CALLS: usize = 4;
/// Milliseconds without a connection after which the process ends.
const LINGER: u16 = 1000;
/// A connection that has asked nothing for so long is closed: an idle client must not keep the process alive.
const IDLE: Duration = Duration::from_secs(60);
/// A client that takes nothing for so long is dropped.
const STALLED: Duration = Duration::from_secs(10);

/// A child that answers a call.
#[derive(Debug)]
struct Working {
    pid: Pid,
    /// Ends when the child does.
    life: OwnedFd,
    /// Where it may write; removed after it.
    staging: PathBuf,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    uid: u32,
    gid: u32,
    frames: Frames,
    /// What came beside the last bytes.
    descriptor: Option<OwnedFd>,
    /// The call that waits to be answered, and the descriptor that came with it.
    waiting: Option<(Vec<u8>, Option<OwnedFd>)>,
    working: Option<Working>,
    since: Instant,
}

/// What is to be done with a client after its turn.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

/// The listening socket and everybody who came through it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    owner: u32,
    options: Options,
    clients: BTreeMap<u64, Client>,
    counter: u64,
    /// [`IDLE`]; tests do not wait so long.
    idle: Duration,
}

impl Server {
    /// On a listening socket.
    ///
    /// # Errors
    /// When it cannot be set to non-blocking.
    pub fn new(listener: OwnedFd, options: Options) -> Result<Server, QueryError> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true).map_err(QueryError::Socket)?;
        let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(PathBuf::from));
        let owner = path
            .and_then(|p| fs::metadata(p).ok())
            .map_or_else(|| nix::unistd::geteuid().as_raw(), |m| m.uid());
        Ok(Server { listener, owner, options, clients: BTreeMap::new(), counter: 0, idle: IDLE })
    }

    /// Serves until nobody has been there for about a second.
    ///
    /// # Errors
    /// When the kernel lets us wait for nothing.
    pub fn run(&mut self) -> Result<(), QueryError> {
        loop {
            if !self.wait()? {
                return Ok(());
            }
            self.accept();
            let ids: Vec<u64> = self.clients.keys().copied().collect();
            for id in ids {
                self.turn(id);
            }
            self.start_calls();
        }
    }

    /// Waits for something to do; false when it is time to end.
    fn wait(&self) -> Result<bool, QueryError> {
        let mut set = Vec::new();
        if self.clients.len() < MAX_CLIENTS {
            set.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let mut deadline: Option<Instant> = None;
        for client in self.clients.values() {
            match &client.working {
                // That the client went away is told without being asked for.
                Some(working) => {
                    set.push(PollFd::new(working.life.as_fd(), PollFlags::POLLIN));
                    set.push(PollFd::new(client.stream.as_fd(), PollFlags::empty()));
                }
                None => {
                    let flags = if client.waiting.is_some() { PollFlags::empty() } else { PollFlags::POLLIN };
                    set.push(PollFd::new(client.stream.as_fd(), flags));
                    let end = client.since.checked_add(self.idle);
                    deadline = deadline.min(end).or(end);
                }
            }
        }
        let timeout = match deadline {
            _ if self.clients.is_empty() => PollTimeout::from(LINGER),
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::NONE)
            }
            None => PollTimeout::NONE,
        };
        let busy = self.clients.values().filter(|c| c.working.is_some()).count();
        let startable = busy < MAX_CALLS && self.clients.values().any(|c| c.waiting.is_some());
        let timeout = if startable { PollTimeout::ZERO } else { timeout };
        match poll(&mut set, timeout) {
            Ok(0) => Ok(!self.clients.is_empty()),
            Ok(_) | Err(nix::Error::EINTR) => Ok(true),
            Err(e) => Err(QueryError::Socket(e.into())),
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { continue };
            // The child writes with a deadline; the server itself never waits.
            let set = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(STALLED)));
            if set.is_err() {
                continue;
            }
            self.counter = self.counter.wrapping_add(1);
            let client = Client {
                stream,
                uid: peer.uid(),
                gid: peer.gid(),
                frames: Frames::default(),
                descriptor: None,
                waiting: None,
                working: None,
                since: Instant::now(),
            };
            self.clients.insert(self.counter, client);
        }
    }

    fn turn(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let next = match &client.working {
            Some(_) => finished(client),
            None => client.read(self.idle),
        };
        if next == Next::Close
            && let Some(client) = self.clients.remove(&id)
        {
            clean_up(client);
        }
    }

    fn start_calls(&mut self) {
        let ids: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| c.waiting.is_some() && c.working.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let busy = self.clients.values().filter(|c| c.working.is_some()).count();
            if busy >= MAX_CALLS {
                return;
            }
            self.start_call(id);
        }
    }

    fn start_call(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some((frame, descriptor)) = client.waiting.take() else { return };
        let call = match wire::parse(&frame).and_then(|call| self.allowed(id, call)) {
            Ok(call) => call,
            Err(fault) => return self.refuse(id, &fault),
        };
        self.counter = self.counter.wrapping_add(1);
        let staging = self.options.run.join("query").join(format!("{}-{}", std::process::id(), self.counter));
        if let Err(e) = self.spawn(id, call, descriptor, staging) {
            self.refuse(id, &Fault::Failed(format!("cannot start a process for this call: {e}")));
        }
    }

    /// Answers an error, and goes on to the client's next call; one that does not take it is dropped.
    fn refuse(&mut self, id: u64, fault: &Fault) {
        let said = self.say(id, fault);
        let next = self.clients.get_mut(&id).filter(|_| said).map(Client::next_call);
        if next != Some(Next::Keep) {
            self.clients.remove(&id);
        }
    }

    fn allowed(&self, id: u64, call: Call) -> Result<Call, Fault> {
        let uid = self.clients.get(&id).map(|c| c.uid);
        let about_itself = call.method.starts_with("org.varlink.service.");
        if about_itself || uid == Some(0) || uid == Some(self.owner) {
            return Ok(call);
        }
        Err(Fault::PermissionDenied { what: format!("call {}", call.method) })
    }

    /// Answers an error without waiting; false when the client does not take it.
    fn say(&self, id: u64, fault: &Fault) -> bool {
        let Some(client) = self.clients.get(&id) else { return true };
        let bytes = fault.reply();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(client.stream.as_raw_fd(), &bytes, flags) == Ok(bytes.len())
    }

    fn spawn(
        &mut self,
        id: u64,
        call: Call,
        descriptor: Option<OwnedFd>,
        staging: PathBuf,
    ) -> io::Result<()> {
        let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        match fork()? {
            Forked::Parent(pid) => {
                drop(theirs);
                // Both sides do it, since either may come first.
                let _ = nix::unistd::setpgid(pid, pid);
                if let Some(client) = self.clients.get_mut(&id) {
                    client.working = Some(Working { pid, life: ours, staging });
                }
                Ok(())
            }
            Forked::Child => {
                drop(ours);
                // The compiler that it may start ends with it.
                let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
                let Some(client) = self.clients.remove(&id) else { std::process::exit(1) };
                // Nobody else's connection may stay open because of us.
                self.clients.clear();
                let caller = Caller { uid: client.uid, gid: client.gid };
                let done = answer::answer(&self.options, &caller, &call, descriptor, &staging, client.stream);
                drop(theirs);
                std::process::exit(i32::from(!done))
            }
        }
    }
}

impl Client {
    /// Reads what is there. Half a message is nothing asked, however often a bit of it comes.
    fn read(&mut self, idle: Duration) -> Next {
        if self.waiting.is_some() {
            return if hung_up(self.stream.as_fd()) { Next::Close } else { Next::Keep };
        }
        let mut buffer = [0u8; 16 << 10];
        // No more than a frame is held; there is room, since a full one without its end was refused.
        let room = self.frames.room().min(buffer.len());
        match receive(&self.stream, buffer.get_mut(..room).unwrap_or_default()) {
            Ok((0, _)) => return Next::Close,
            Ok((count, descriptor)) => {
                // It fits, so that this cannot fail.
                let _ = self.frames.feed(buffer.get(..count).unwrap_or_default());
                if descriptor.is_some() {
                    self.descriptor = descriptor;
                }
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(_) => return Next::Close,
        }
        if self.next_call() == Next::Close {
            return Next::Close;
        }
        if self.waiting.is_none() && self.since.elapsed() >= idle { Next::Close } else { Next::Keep }
    }

    /// Takes the next whole frame out of what was read.
    fn next_call(&mut self) -> Next {
        match self.frames.next_frame() {
            Some(frame) => {
                self.waiting = Some((frame, self.descriptor.take()));
                Next::Keep
            }
            None if self.frames.room() > 0 => Next::Keep,
            None => {
                let bytes = Fault::invalid("call", &TooLong).reply();
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let _ = send(self.stream.as_raw_fd(), &bytes, flags);
                Next::Close
            }
        }
    }
}

/// Looks after a client whose call is being answered.
fn finished(client: &mut Client) -> Next {
    let Some(working) = &client.working else { return Next::Keep };
    let ended = is_set(working.life.as_fd(), PollFlags::POLLIN);
    if !ended {
        if hung_up(client.stream.as_fd()) {
            let _ = killpg(working.pid, Signal::SIGKILL);
        }
        return Next::Keep;
    }
    let status = waitpid(working.pid, None);
    let _ = fs::remove_dir_all(&working.staging);
    client.working = None;
    client.since = Instant::now();
    match status {
        Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => client.next_call(),
        _ => Next::Close,
    }
}

/// A client that is dropped while its call is being answered takes the answer along.
fn clean_up(client: Client) {
    if let Some(working) = client.working {
        let _ = killpg(working.pid, Signal::SIGKILL);
        let _ = waitpid(working.pid, None);
        let _ = fs::remove_dir_all(&working.staging);
    }
}

fn is_set(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut set = [PollFd::new(fd, flags)];
    poll(&mut set, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    is_set(fd, PollFlags::empty())
}

/// Receives without waiting; of several descriptors (the kernel lets through 253) the last is kept, the others are
/// closed.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let mut slices = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptor = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for fd in fds {
                descriptor = sys::inherited(fd).ok();
            }
        }
    }
    Ok((message.bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn half_a_message_is_cut_off_although_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let listener = UnixListener::bind(&path).unwrap();
        let mut server = Server::new(listener.into(), Options::default()).unwrap();
        server.idle = Duration::from_millis(300);
        let connect = || UnixStream::connect(&path).unwrap();
        let (mut silent, mut half, mut slow) = (connect(), connect(), connect());
        let serving = std::thread::spawn(move || server.run());
        half.write_all(b"{\"method\":\"io.hold").unwrap();
        slow.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let begun = Instant::now();
        loop {
            // It fails once the other end is closed, which the read tells for sure.
            let _ = slow.write(b" ");
            match slow.read(&mut [0]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
                Ok(_) => panic!("half a message was answered"),
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it may go on for ever");
        }
        for client in [&mut silent, &mut half] {
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        }
        assert!(serving.join().unwrap().is_ok(), "and the process ends");
    }
}
