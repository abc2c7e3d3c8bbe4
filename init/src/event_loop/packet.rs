//! Packets with descriptors over a `SOCK_SEQPACKET` socket, never blocking.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors that come with one packet.
const MAX_FDS: usize = 8;

/// A packet as it came.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes; none at the end of the connection.
    pub bytes: Vec<u8>,
    /// The descriptors beside it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet.
///
/// # Errors
/// `WouldBlock` when the peer's buffer is full (nothing was sent); else what sendmsg(2) said.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one packet of at most `limit` bytes; an empty one is the end.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` when it is larger than `limit` or its descriptors did not fit;
/// else what recvmsg(2) said.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> io::Result<Packet> {
    let mut buffer = vec![0; limit];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, flags, fds) = loop {
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                if let Ok(list) = message.cmsgs() {
                    for part in list {
                        if let ControlMessageOwned::ScmRights(raw) = part {
                            // SAFETY: the kernel has just put these descriptors into our table for us alone.
                            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                }
                break (message.bytes, message.flags, fds);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    buffer.truncate(length);
    Ok(Packet { bytes: buffer, fds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn boundaries_and_descriptors_survive() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        assert_eq!(receive(b.as_fd(), 16).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(a.as_fd(), b"one", &[]).unwrap();
        send(a.as_fd(), b"two", &[a.as_fd(), b.as_fd()]).unwrap();
        send(a.as_fd(), &[0; 17], &[]).unwrap();
        let first = receive(b.as_fd(), 16).unwrap();
        assert_eq!((first.bytes.as_slice(), first.fds.len()), (&b"one"[..], 0));
        let second = receive(b.as_fd(), 16).unwrap();
        assert_eq!((second.bytes.as_slice(), second.fds.len()), (&b"two"[..], 2));
        assert_eq!(receive(b.as_fd(), 16).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop((a, second));
        assert!(receive(b.as_fd(), 16).unwrap().bytes.is_empty());
    }
}
