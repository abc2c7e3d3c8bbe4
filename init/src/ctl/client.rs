//! The client's side of a Varlink connection: one call at a time, blocking.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::wire::Reply;
use crate::control::{Failure, socket as control_socket};

/// Largest reply that is accepted.
const MAX_REPLY: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or we may not ask.
    #[error("cannot connect to {socket}: {}", without_number(.source))]
    Connect {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("{socket} closed the connection before it answered")]
    Lost {
        /// The socket.
        socket: String,
    },
    /// What was followed has no end of its own.
    #[error("nothing more comes from {socket}: who answered has ended")]
    Ended {
        /// The socket.
        socket: String,
    },
    /// The connection failed.
    #[error("cannot talk to {socket}: {source}")]
    Io {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The answer is not one.
    #[error("cannot understand {socket}: {text}")]
    Protocol {
        /// The socket.
        socket: String,
        /// What is wrong with it.
        text: String,
    },
    /// The answer is an error.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// No answer within the time that was set.
    #[error("{socket} has not answered in time")]
    TimedOut {
        /// The socket.
        socket: String,
    },
}

/// What the kernel said; its number helps nobody who reads the words.
pub fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    let number =
        text.split_once(" (os error ").and_then(|(words, rest)| Some((words, rest.split_once(')')?.1)));
    number.map_or(text.clone(), |(words, rest)| format!("{words}{rest}"))
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
}

impl Client {
    /// Connects, and waits no longer than until `deadline` for that and, until another one is set, for replies.
    ///
    /// # Errors
    /// [`ClientError::Connect`]; [`ClientError::TimedOut`] where so many wait that nobody is taken in time.
    pub fn connect(path: &Path, deadline: Option<Instant>) -> Result<Client, ClientError> {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match connect_within(path, left) {
            Ok(stream) => Ok(Client { stream, path: path.to_owned(), buffer: Vec::new(), deadline }),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::TimedOut { socket: path.display().to_string() })
            }
            Err(source) => Err(ClientError::Connect { socket: path.display().to_string(), source }),
        }
    }

    fn socket(&self) -> String {
        self.path.display().to_string()
    }

    /// A connection that is there already, and what messages call it.
    pub fn of_stream(stream: UnixStream, name: &Path) -> Client {
        Client { stream, path: name.to_owned(), buffer: Vec::new(), deadline: None }
    }

    /// Until when [`Client::reply`] waits; for ever without.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Lets the next read wait no longer than until the deadline.
    fn limit(&self) -> Result<(), ClientError> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        // Nothing at all would mean for ever.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let socket = self.socket();
        self.stream.set_read_timeout(Some(left)).map_err(|source| ClientError::Io { socket, source })
    }

    /// Sends a call, made by [`crate::control::Request::frame`] or [`super::query`], with a descriptor beside.
    ///
    /// # Errors
    /// [`ClientError::Io`]; a connection that was closed meanwhile shows in the reply.
    pub fn send(&mut self, frame: &[u8], descriptor: Option<&OwnedFd>) -> Result<(), ClientError> {
        match control_socket::send_with(&self.stream, frame, descriptor) {
            // What the server said before it closed is worth more than the broken pipe.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(ClientError::Io { socket: self.socket(), source: e })
            }
            _ => Ok(()),
        }
    }

    /// The next reply, and whether more follow.
    ///
    /// # Errors
    /// Every [`ClientError`] but `Connect`.
    pub fn reply<P: DeserializeOwned>(&mut self) -> Result<(P, bool), ClientError> {
        let frame = self.frame()?;
        let protocol = |text: String| ClientError::Protocol { socket: self.socket(), text };
        let reply: Reply<Value> = serde_json::from_slice(&frame).map_err(|e| protocol(e.to_string()))?;
        if let Some(name) = reply.error {
            return Err(Failure::from_reply(&name, reply.parameters).into());
        }
        let parameters = reply.parameters.unwrap_or_else(|| serde_json::json!({}));
        let parameters = serde_json::from_value(parameters).map_err(|e| protocol(e.to_string()))?;
        Ok((parameters, reply.continues))
    }

    /// Sends a call and hands every reply to `each`.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::reply`], and those of `each`.
    pub fn stream<P: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        frame: &[u8],
        descriptor: Option<&OwnedFd>,
        mut each: impl FnMut(P) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(frame, descriptor)?;
        loop {
            let (parameters, more) = self.reply()?;
            each(parameters)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Sends a call with one reply.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::reply`].
    pub fn call<P: DeserializeOwned>(&mut self, frame: &[u8]) -> Result<P, ClientError> {
        self.send(frame, None)?;
        Ok(self.reply()?.0)
    }

    fn frame(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut scanned = 0;
        loop {
            let new = self.buffer.get(scanned..).unwrap_or_default();
            if let Some(at) = new.iter().position(|b| *b == 0) {
                let end = scanned.saturating_add(at);
                let mut frame: Vec<u8> = self.buffer.drain(..=end).collect();
                frame.pop();
                return Ok(frame);
            }
            scanned = self.buffer.len();
            if scanned > MAX_REPLY {
                let text = format!("a reply is longer than {MAX_REPLY} bytes");
                return Err(ClientError::Protocol { socket: self.socket(), text });
            }
            self.limit()?;
            let mut chunk = [0; 32 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Lost { socket: self.socket() }),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Lost { socket: self.socket() });
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(ClientError::TimedOut { socket: self.socket() });
                }
                Err(source) => return Err(ClientError::Io { socket: self.socket(), source }),
            }
        }
    }
}

/// A connection; without a limit of time it waits for a place in the line for ever.
fn connect_within(path: &Path, limit: Option<Duration>) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = UnixStream::from(socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    // unix(7) knows it for connect(2) too. Nothing at all would mean for ever.
    stream.set_write_timeout(limit.map(|l| l.max(Duration::from_millis(1))))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_move_is_left_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixStream::from(
            socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap(),
        );
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&listener, socket::Backlog::new(1).unwrap()).unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(50));
        let mut line = Vec::new();
        let late = loop {
            match Client::connect(&path, soon()) {
                Ok(client) => line.push(client),
                Err(e) => break e,
            }
            assert!(line.len() < 10, "the line has no end");
        };
        assert!(matches!(late, ClientError::TimedOut { .. }), "{late}");
        assert!(!line.is_empty());
        let nobody = Client::connect(&directory.path().join("none"), soon()).unwrap_err();
        assert!(matches!(nobody, ClientError::Connect { .. }), "{nobody}");
    }
}
