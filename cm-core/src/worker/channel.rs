//! The socket to PID 1: whole packets with descriptors beside them. See `proto`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::MAX_FRAME;

/// Most descriptors beside one packet.
pub const MAX_FDS: usize = 64;

/// Why nothing can be said or heard any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("cannot talk to the other side: {0}")]
    Socket(#[from] nix::Error),
    /// A packet that means nothing.
    #[error("cannot understand the other side: {0}")]
    Packet(#[from] postcard::Error),
    /// A packet that does not fit.
    #[error("cannot send a packet of {0} bytes: the limit is {MAX_FRAME}")]
    TooLong(usize),
}

/// One end of a packet socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Channel {
    /// On this socket.
    pub fn new(socket: OwnedFd) -> Channel {
        Channel { socket, buffer: vec![0; MAX_FRAME + 1] }
    }

    /// Sends a message; waits until there is room.
    ///
    /// # Errors
    /// When it is too long or the other side is gone.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[RawFd]) -> Result<(), ChannelError> {
        let bytes = postcard::to_allocvec(message)?;
        if bytes.len() > MAX_FRAME {
            return Err(ChannelError::TooLong(bytes.len()));
        }
        let rights = [ControlMessage::ScmRights(fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        loop {
            let sent = sendmsg::<()>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
            match sent {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for something to be there; false when time ran out. `None` waits for ever.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn wait(&self, milliseconds: Option<u16>) -> Result<bool, ChannelError> {
        let timeout = milliseconds.map_or(PollTimeout::NONE, PollTimeout::from);
        loop {
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(count) => return Ok(count > 0),
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives a message; `None` when the other side is gone.
    ///
    /// # Errors
    /// When it means nothing, or the socket failed.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        loop {
            let mut control = cmsg_space!([RawFd; MAX_FDS]);
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            let received = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            );
            let (length, fds) = match received {
                Ok(message) => {
                    let mut fds = Vec::new();
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = part {
                            fds.extend(raw.into_iter().map(own));
                        }
                    }
                    (message.bytes, fds)
                }
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::EAGAIN) => {
                    self.wait(None)?;
                    continue;
                }
                Err(nix::Error::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            if length == 0 {
                return Ok(None);
            }
            let bytes = self.buffer.get(..length).unwrap_or_default();
            return Ok(Some((postcard::from_bytes(bytes)?, fds)));
        }
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, in the message that is taken apart.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A pair of connected packet sockets.
///
/// # Errors
/// Whatever socketpair(2) reports.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}
