//! PID 1's side of the log daemon: the pipes, and the socket to the daemon.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::protocol::{MAX_PACKET, Order, Report, decode, encode};
use crate::sys::message;

/// A log pipe. PID 1 keeps both ends, so that neither a dead daemon nor a dead service loses what is in it.
#[derive(Debug)]
pub struct LogPipe {
    /// For the daemon (nonblocking, not close-on-exec).
    pub reader: OwnedFd,
    /// For the service (blocking, not close-on-exec).
    pub writer: OwnedFd,
}

impl LogPipe {
    /// A new pipe.
    ///
    /// # Errors
    /// What pipe2(2) said.
    pub fn new() -> io::Result<LogPipe> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::empty())?;
        // Only this end: a service whose standard output answers EAGAIN would lose what it writes.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(LogPipe { reader, writer })
    }

    /// A new write end (like [`LogPipe::writer`]) of the pipe with this read end.
    ///
    /// # Errors
    /// What open(2) said.
    pub fn writer_of(reader: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        Ok(nix::fcntl::open(path.as_str(), OFlag::O_WRONLY, nix::sys::stat::Mode::empty())?)
    }
}

/// The socket to the daemon, with a queue for what it does not take at once.
#[derive(Debug)]
pub struct LogLink {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl LogLink {
    /// A link, and the daemon's end of it, which it expects at descriptor [`super::daemon::SOCKET`]. PID 1's own
    /// end is not close-on-exec.
    ///
    /// # Errors
    /// What socketpair(2) said.
    pub fn pair() -> io::Result<(LogLink, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK)?;
        Ok((LogLink::from_descriptor(ours), theirs))
    }

    /// The link that was there before a re-exec.
    pub fn from_descriptor(socket: OwnedFd) -> LogLink {
        LogLink { socket, queue: VecDeque::new() }
    }

    /// Sends an order, with a copy of `descriptor` where one belongs to it, or queues it.
    ///
    /// # Errors
    /// When the descriptor cannot be copied, or the daemon is gone.
    pub fn send(&mut self, order: &Order, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let packet = encode(order);
        // Said once, these hold until they are heard: a daemon that takes nothing does not make the queue grow.
        let lasts = matches!(order, Order::Flush { .. } | Order::Rest);
        if !(lasts && self.queue.iter().any(|(waiting, _)| *waiting == packet)) {
            let copy = descriptor.map(|d| d.try_clone_to_owned()).transpose()?;
            self.queue.push_back((packet, copy));
        }
        self.flush()
    }

    /// Sends what is queued, as far as it goes; to be called when the socket becomes writable.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some((packet, descriptor)) = self.queue.front() {
            let list: Vec<BorrowedFd<'_>> = descriptor.iter().map(OwnedFd::as_fd).collect();
            if !message::send(self.socket.as_fd(), packet, &list)? {
                return Ok(());
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Whether something waits for the socket to become writable.
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next report; `None` when there is none now. A packet that is no report is left out.
    ///
    /// # Errors
    /// `UnexpectedEof` when the daemon is gone.
    pub fn receive(&mut self) -> io::Result<Option<Report>> {
        let mut buffer = [0; MAX_PACKET];
        loop {
            let Some(envelope) = message::receive(self.socket.as_fd(), &mut buffer)? else { return Ok(None) };
            if envelope.length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(report) = decode(buffer.get(..envelope.length).unwrap_or_default()) {
                return Ok(Some(report));
            }
        }
    }
}

impl AsFd for LogLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LogLink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Target;
    use super::*;

    #[test]
    fn what_nobody_takes_waits_once() {
        let (mut link, daemon) = LogLink::pair().unwrap();
        for _ in 0..10_000 {
            for order in [Order::Flush { stream: 1 }, Order::Rest, Order::Flush { stream: 2 }] {
                link.send(&order, None).unwrap();
            }
        }
        assert!(link.has_queue());
        assert!(link.queue.len() <= 3, "{}", link.queue.len());
        // What goes to and fro does not: the last one counts.
        for target in [Target::Kernel, Target::Files, Target::Kernel, Target::Files] {
            link.send(&Order::Target(target), None).unwrap();
        }
        assert!(link.queue.len() >= 4, "{}", link.queue.len());
        drop(daemon);
    }
}
