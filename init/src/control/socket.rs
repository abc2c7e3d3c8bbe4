//! The system calls under the control protocol: listen, who is there, receive with a descriptor, send with one.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, sendmsg,
    socket, sockopt,
};

use crate::sys::message;

/// Listens on `path`, in place of whatever socket was there. Non-blocking.
///
/// # Errors
/// Those of bind(2), listen(2) and chmod(2).
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether somebody listens on a path; nobody is waited for.
pub fn is_served(path: &Path) -> bool {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (Ok(caller), Ok(address)) = (socket(family, kind, flags, None), UnixAddr::new(path)) else {
        return false;
    };
    // unix(7): EAGAIN when more wait to be taken than may.
    matches!(connect(caller.as_raw_fd(), &address), Ok(()) | Err(nix::Error::EAGAIN))
}

/// Pid, uid and gid of the other end when it connected.
///
/// # Errors
/// Those of getsockopt(2).
pub fn credentials(stream: &UnixStream) -> io::Result<(i32, u32, u32)> {
    let c = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok((c.pid(), c.uid(), c.gid()))
}

/// Receives into `buffer` without blocking; 0 bytes is the end. Of several descriptors the last is returned,
/// the others are closed.
///
/// # Errors
/// Those of recvmsg(2), `WouldBlock` among them.
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // With room for as many descriptors as the kernel lets anybody send: what it has no room for is an error to some
    // libraries, which then forget those that have arrived.
    match message::receive(stream.as_fd(), buffer)? {
        Some(envelope) => Ok((envelope.length, envelope.descriptors.into_iter().next_back())),
        None => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Sends without blocking and without SIGPIPE; answers how much was taken.
///
/// # Errors
/// Those of sendmsg(2), `WouldBlock` and `BrokenPipe` among them.
pub fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    send_flags(stream, bytes, None, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Sends all of `bytes`, with a descriptor beside the first of them. For clients: it blocks as the stream does.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut rest = bytes;
    let mut descriptor = descriptor;
    while !rest.is_empty() {
        match send_flags(stream, rest, descriptor, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                descriptor = None;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn send_flags(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: Option<&OwnedFd>,
    flags: MsgFlags,
) -> io::Result<usize> {
    let vectors = [IoSlice::new(bytes)];
    let fds = [descriptor.map_or(-1, AsRawFd::as_raw_fd)];
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if descriptor.is_some() { &rights } else { &[] };
    Ok(sendmsg::<UnixAddr>(stream.as_raw_fd(), &vectors, control, flags, None)?)
}
