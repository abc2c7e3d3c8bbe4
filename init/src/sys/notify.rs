//! The readiness protocol of sd_notify(3): one datagram socket a service.
//!
//! A socket of its own tells which service speaks even when the sender has already exited; the sender's pid is
//! handed on all the same. Senders are not trusted: lengths are bounded, what cannot be read is left out, and
//! descriptors that come along are closed when the message is dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt::PassCred,
};

use super::message::{self, Sender};

/// Longest datagram that is read; sd_notify(3) messages are far shorter.
pub const MAX_DATAGRAM: usize = 4096;
/// Longest status text that is kept, in bytes.
pub const MAX_STATUS: usize = 512;

/// The content of a notification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notification {
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`.
    pub reloading: bool,
    /// `MONOTONIC_USEC=`: when it began to reload.
    pub monotonic_usec: Option<u64>,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `WATCHDOG=1`: still alive.
    pub watchdog: bool,
    /// `WATCHDOG=trigger`: it found itself to be broken.
    pub watchdog_trigger: bool,
    /// `WATCHDOG_USEC=`: a new interval in microseconds.
    pub watchdog_usec: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`: the running deadline moves, in microseconds from now.
    pub extend_timeout_usec: Option<u64>,
    /// `MAINPID=`.
    pub main_pid: Option<i32>,
    /// `STATUS=`, control characters replaced, at most [`MAX_STATUS`] bytes.
    pub status: Option<String>,
}

/// Reads the lines of a datagram. Unknown and broken lines are left out, as the protocol asks.
pub fn parse(datagram: &[u8]) -> Notification {
    let mut out = Notification::default();
    for line in datagram.split(|b| *b == b'\n') {
        let Some(at) = line.iter().position(|b| *b == b'=') else { continue };
        let (key, value) = (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default());
        let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
        match key {
            b"READY" => out.ready |= value == b"1",
            b"RELOADING" => out.reloading |= value == b"1",
            b"MONOTONIC_USEC" => out.monotonic_usec = number().or(out.monotonic_usec),
            b"STOPPING" => out.stopping |= value == b"1",
            b"WATCHDOG" => {
                out.watchdog |= value == b"1";
                out.watchdog_trigger |= value == b"trigger";
            }
            b"WATCHDOG_USEC" => out.watchdog_usec = number().or(out.watchdog_usec),
            b"EXTEND_TIMEOUT_USEC" => out.extend_timeout_usec = number().or(out.extend_timeout_usec),
            b"MAINPID" => {
                let pid = number().and_then(|n| i32::try_from(n).ok()).filter(|p| *p > 0);
                out.main_pid = pid.or(out.main_pid);
            }
            b"STATUS" => out.status = Some(printable(value)),
            _ => {}
        }
    }
    out
}

/// Text for people: valid UTF-8, no control characters, bounded.
fn printable(value: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(value).chars() {
        let c = if c.is_control() { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > MAX_STATUS {
            break;
        }
        out.push(c);
    }
    out
}

/// A notification and who sent it.
#[derive(Debug)]
pub struct Message {
    /// The sender, if the kernel named one.
    pub sender: Option<Sender>,
    /// What it said.
    pub notification: Notification,
    /// Descriptors that came along. Dropping them ends a barrier; they are kept for nothing else.
    pub descriptors: Vec<OwnedFd>,
}

/// The notify socket of one service (nonblocking, not close-on-exec: it outlives a re-exec).
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
}

impl NotifySocket {
    /// Binds the socket at `path`, replacing what was there; for `everybody`, since who starts as root may become
    /// somebody else before it says anything, or for the owner only. The sender's pid and user come with every message.
    ///
    /// # Errors
    /// What socket(2), bind(2), chmod(2) or setsockopt(2) said; the path may have some 100 bytes.
    pub fn bind(path: &Path, everybody: bool) -> io::Result<NotifySocket> {
        use std::os::unix::fs::PermissionsExt;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_NONBLOCK, None)?;
        setsockopt(&fd, PassCred, &true)?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(if everybody { 0o666 } else { 0o600 }),
        )?;
        Ok(NotifySocket { fd })
    }

    /// The socket that was bound before a re-exec.
    pub fn from_descriptor(fd: OwnedFd) -> NotifySocket {
        NotifySocket { fd }
    }

    /// Reads up to `budget` messages. `true` when there may be more: the caller comes back for them, as the
    /// event loop is told only once.
    ///
    /// # Errors
    /// What recvmsg(2) said.
    pub fn drain(&self, budget: usize, out: &mut Vec<Message>) -> io::Result<bool> {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..budget {
            let Some(envelope) = message::receive(self.fd.as_fd(), &mut buffer)? else { return Ok(false) };
            // Half a message could say the opposite of the whole: it is dropped, its descriptors with it.
            if envelope.truncated {
                continue;
            }
            out.push(Message {
                sender: envelope.sender,
                notification: parse(buffer.get(..envelope.length).unwrap_or_default()),
                descriptors: envelope.descriptors,
            });
        }
        Ok(true)
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NotifySocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn every_field() {
        let n = parse(
            b"READY=1\nSTATUS=up \x1b[31m\nMAINPID=77\nWATCHDOG=1\nWATCHDOG_USEC=20\nERRNO=5\nRELOADING=1\n\
              STOPPING=1\nBARRIER=1\nMONOTONIC_USEC=9\nEXTEND_TIMEOUT_USEC=8\nFDSTORE=1\nX_OTHER=x\nnothing",
        );
        let want = Notification {
            ready: true,
            reloading: true,
            monotonic_usec: Some(9),
            stopping: true,
            watchdog: true,
            watchdog_trigger: false,
            watchdog_usec: Some(20),
            extend_timeout_usec: Some(8),
            main_pid: Some(77),
            status: Some("up \u{fffd}[31m".to_owned()),
        };
        assert_eq!(n, want);
    }

    #[test]
    fn broken_values_are_left_out() {
        let n =
            parse(b"READY=yes\nMAINPID=0\nMAINPID=-4\nERRNO=x\nWATCHDOG_USEC=99999999999999999999\n=\nREADY");
        assert_eq!(n, Notification::default());
        assert!(parse(b"WATCHDOG=trigger").watchdog_trigger);
        assert_eq!(
            parse(&[b"STATUS=".to_vec(), vec![b'a'; 5000]].concat()).status.unwrap().len(),
            MAX_STATUS
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let n = parse(&bytes);
            assert!(n.status.is_none_or(|s| s.len() <= MAX_STATUS && !s.contains(char::is_control)));
        }

        #[test]
        fn garbage_after_keys_never_panics(key in "[A-Z_]{0,12}", bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            for key in [key.as_str(), "STATUS", "MAINPID", "WATCHDOG", "ERRNO"] {
                let n = parse(&[key.as_bytes(), b"=", &bytes].concat());
                assert!(n.main_pid.is_none_or(|p| p > 0));
            }
        }
    }

    #[test]
    fn a_flood_is_read_in_turns_and_barriers_end_when_handled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let socket = NotifySocket::bind(&path, true).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while client.send(b"WATCHDOG=1").is_ok() {
            sent += 1;
        }
        let mut messages = Vec::new();
        let mut turns = 0;
        while socket.drain(2, &mut messages).unwrap() {
            turns += 1;
        }
        assert_eq!((messages.len(), turns), (sent, sent / 2));
        assert_eq!(messages[0].sender.unwrap().pid, i32::try_from(std::process::id()).unwrap());

        client.send(&[b'x'; MAX_DATAGRAM + 1]).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        message::send(client.as_fd(), b"BARRIER=1", &[writer.as_fd()]).unwrap();
        drop(writer);
        messages.clear();
        assert!(!socket.drain(9, &mut messages).unwrap());
        assert_eq!(messages.len(), 1, "the oversized one is dropped");
        assert_eq!(messages[0].descriptors.len(), 1);
        messages.clear();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn binding_again_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let first = NotifySocket::bind(&path, true).unwrap();
        let second = NotifySocket::bind(&path, true).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", &path).unwrap();
        let mut out = Vec::new();
        first.drain(3, &mut out).unwrap();
        assert!(out.is_empty());
        second.drain(3, &mut out).unwrap();
        assert!(out[0].notification.ready);
    }
}
