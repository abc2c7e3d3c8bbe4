//! Kernel uevents: what a device that appears, changes or goes says on its netlink socket.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt::RcvBuf,
};

/// Longest event that the kernel makes: `UEVENT_BUFFER_SIZE` and the header line.
const MAX_EVENT: usize = 8192;
/// Room for a burst, such as thousands of devices at boot.
const QUEUE: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `move`, `bind`, `unbind` …
    pub action: String,
    /// The path below `/sys`.
    pub path: String,
    /// `SUBSYSTEM`.
    pub subsystem: String,
    /// `DEVNAME`: the node below `/dev`, if there is one.
    pub name: Option<String>,
    /// `MODALIAS`: what the driver's module is called by.
    pub alias: Option<String>,
}

/// What the socket had.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// An event.
    Event(Uevent),
    /// Events were lost: everything has to be looked at once.
    Overflow,
}

/// Parses a datagram; `None` for what is not the kernel's (udev's own format among them).
pub fn parse(datagram: &[u8]) -> Option<Uevent> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut fields = text.split('\0');
    let (action, path) = fields.next()?.split_once('@')?;
    let mut out = Uevent { action: action.to_owned(), path: path.to_owned(), ..Uevent::default() };
    for (key, value) in fields.filter_map(|f| f.split_once('=')) {
        match key {
            "SUBSYSTEM" => value.clone_into(&mut out.subsystem),
            "DEVNAME" => out.name = Some(value.to_owned()),
            "MODALIAS" => out.alias = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(out)
}

/// The socket (nonblocking, close-on-exec).
#[derive(Debug)]
pub struct Uevents {
    fd: OwnedFd,
}

impl Uevents {
    /// Listens to the kernel's group.
    ///
    /// # Errors
    /// What socket(2) or bind(2) said.
    pub fn open() -> io::Result<Uevents> {
        Uevents::bound(|_| Ok(()))
    }

    /// Listens to what goes, and to nothing else: whoever sleeps is not woken for what comes or changes.
    ///
    /// # Errors
    /// What socket(2), setsockopt(2) or bind(2) said.
    pub fn of_removals() -> io::Result<Uevents> {
        // ORDER: the filter first: what came before it would be in the queue.
        Uevents::bound(|fd| attach(fd, &mut only_starting_with(b"remove@")))
    }

    fn bound(prepare: impl FnOnce(&OwnedFd) -> io::Result<()>) -> io::Result<Uevents> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        // The plain limit is small, and exceeding it needs a privilege that a container may lack.
        let _best_effort = setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &QUEUE)
            .or_else(|_| setsockopt(&fd, RcvBuf, &QUEUE));
        prepare(&fd)?;
        // Group 1 is the kernel's; only it and root may send there.
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Uevents { fd })
    }

    /// The next event; `None` when there is none now.
    ///
    /// # Errors
    /// What recv(2) said.
    pub fn read(&mut self) -> io::Result<Option<Heard>> {
        let mut buffer = [0; MAX_EVENT];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => match parse(buffer.get(..n).unwrap_or_default()) {
                    Some(event) => return Ok(Some(Heard::Event(event))),
                    None => continue,
                },
                Err(nix::Error::EAGAIN) => return Ok(None),
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::ENOBUFS) => return Ok(Some(Heard::Overflow)),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Uevents {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A filter that lets datagrams pass which begin with this.
fn only_starting_with(start: &[u8]) -> Vec<libc::sock_filter> {
    // Classic BPF, see the kernel's networking/filter.rst: BPF_LD | BPF_ABS | BPF_B, BPF_JMP | BPF_JEQ, BPF_RET.
    const LOAD: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut out = Vec::new();
    for (at, byte) in (0u32..).zip(start) {
        // A datagram that is too short is dropped by the load itself.
        out.push(step(LOAD, 0, at));
        // Over the other bytes of the start and the first return.
        let ahead = (start.len() * 2).saturating_sub(out.len() + 1) + 1;
        out.push(step(JUMP_IF_EQUAL, u8::try_from(ahead).unwrap_or_default(), u32::from(*byte)));
    }
    out.push(step(RETURN, 0, u32::MAX));
    out.push(step(RETURN, 0, 0));
    out
}

/// Attaches a filter to a socket.
fn attach(fd: &OwnedFd, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: filter.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or_default();
    // SAFETY: the program and the steps that it points to outlive the call, which copies them.
    let result = unsafe {
        let option = libc::SO_ATTACH_FILTER;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let event =
            parse(b"add@/devices/x/block/vda\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=block\0DEVNAME=vda\0")
                .unwrap();
        assert_eq!(
            (event.action.as_str(), event.subsystem.as_str(), event.name.as_deref()),
            ("add", "block", Some("vda"))
        );
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"add@/x").unwrap().alias, None);
    }

    #[test]
    fn only_what_begins_so_passes() {
        let (one, other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let other = OwnedFd::from(other);
        attach(&other, &mut only_starting_with(b"remove@/module/")).unwrap();
        for said in
            ["add@/module/x", "remove@/devices/y", "remove", "", "remove@/modulex", "remove@/module/dummy"]
        {
            drop(one.send(said.as_bytes()));
        }
        let other = std::os::unix::net::UnixDatagram::from(other);
        other.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        let length = other.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"remove@/module/dummy");
        assert!(other.recv(&mut buffer).is_err());
        Uevents::of_removals().unwrap();
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
