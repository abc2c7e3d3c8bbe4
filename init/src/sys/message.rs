//! Datagrams that carry descriptors and credentials: sendmsg(2) and recvmsg(2) over unix sockets.
//!
//! A descriptor that arrives is owned at once, so that none can leak whatever the sender did.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors in one message: SCM_MAX_FD of the kernel.
const MAX_FDS: usize = 253;
/// Control bytes that hold them and a ucred, with room for alignment.
const CONTROL: usize = 1280;

/// Who sent a datagram, as the kernel saw it (SO_PASSCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its pid; 0 when it is outside the pid namespace.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What came beside a datagram's bytes.
#[derive(Debug)]
pub struct Envelope {
    /// Bytes received.
    pub length: usize,
    /// Whether the datagram was longer than the buffer.
    pub truncated: bool,
    /// The sender, if the socket asks for credentials.
    pub sender: Option<Sender>,
    /// Descriptors (close-on-exec).
    pub descriptors: Vec<OwnedFd>,
}

/// Control data has to be aligned as `cmsghdr` is.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Receives one datagram into `buffer`; `None` when there is none now.
///
/// # Errors
/// What recvmsg(2) said, other than EAGAIN.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Envelope>> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, for which zero means "none".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let length = loop {
        // SAFETY: header points to the buffer and the control area, which live across the call.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        if let Ok(n) = usize::try_from(n) {
            break n;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    };
    let mut sender = None;
    let mut descriptors = Vec::new();
    // SAFETY: the header is as recvmsg left it; CMSG_NXTHDR stays inside msg_controllen, and every payload read
    // is of the length that its own header states.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            let bytes = message.cmsg_len.saturating_sub(data.offset_from_unsigned(at.cast()));
            if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
                for i in 0..bytes / size_of::<RawFd>() {
                    let fd = data.cast::<RawFd>().add(i).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(fd));
                }
            } else if message.cmsg_level == libc::SOL_SOCKET
                && message.cmsg_type == libc::SCM_CREDENTIALS
                && bytes >= size_of::<libc::ucred>()
            {
                let creds = data.cast::<libc::ucred>().read_unaligned();
                sender = Some(Sender { pid: creds.pid, uid: creds.uid, gid: creds.gid });
            }
            at = libc::CMSG_NXTHDR(&raw const header, at);
        }
    }
    let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Some(Envelope { length, truncated, sender, descriptors }))
}

/// Sends one datagram with descriptors. `Ok(false)` when the socket's buffer is full.
///
/// # Errors
/// What sendmsg(2) said, other than EAGAIN; EINVAL for too many descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
    if descriptors.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data, for which zero means "none".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let payload = u32::try_from(size_of_val(descriptors)).unwrap_or_default();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; CONTROL holds MAX_FDS descriptors, so the first header and
        // its payload are inside the control area.
        unsafe {
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = libc::CMSG_SPACE(payload) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(payload) as usize;
            for (i, fd) in descriptors.iter().enumerate() {
                libc::CMSG_DATA(first).cast::<RawFd>().add(i).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: header points to memory that lives across the call; sendmsg does not write to the parts.
        let sent = unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent >= 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Who is at the other end of a connected unix socket (SO_PEERCRED).
///
/// # Errors
/// What getsockopt(2) said.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Sender> {
    let creds = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Sender { pid: creds.pid(), uid: creds.uid(), gid: creds.gid() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn descriptors_and_credentials_arrive() {
        let (a, b) = UnixDatagram::pair().unwrap();
        nix::sys::socket::setsockopt(&b, nix::sys::socket::sockopt::PassCred, &true).unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        assert!(send(a.as_fd(), b"hello", &[writer.as_fd(), reader.as_fd()]).unwrap());
        let mut buffer = [0; 16];
        let got = receive(b.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..got.length], got.truncated, got.descriptors.len()), (&b"hello"[..], false, 2));
        assert_eq!(got.sender.unwrap().pid, i32::try_from(std::process::id()).unwrap());
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        drop(got);
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x", "the passed copies were closed");
        assert!(receive(b.as_fd(), &mut buffer).unwrap().is_none());
    }

    #[test]
    fn too_long_is_said_and_full_is_no_error() {
        let (a, b) = UnixDatagram::pair().unwrap();
        send(a.as_fd(), &[7; 100], &[]).unwrap();
        let got = receive(b.as_fd(), &mut [0; 10]).unwrap().unwrap();
        assert!(got.truncated);
        let mut sent = 0;
        while send(a.as_fd(), &[7; 1000], &[]).unwrap() {
            sent += 1;
            assert!(sent < 1_000_000);
        }
    }

    #[test]
    fn peers_are_named() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer(a.as_fd()).unwrap().pid, i32::try_from(std::process::id()).unwrap());
    }
}
