//! fanotify(7): who did something to a file. One group a contest; the worker marks what it is about.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Bytes of an event's head, and of the head of each record behind it.
const HEAD: usize = 24;
const RECORD: usize = 4;
/// Bytes of fsid, handle length and handle type before the handle itself.
const HANDLE: usize = 16;

/// Something that somebody did in a marked directory.
#[derive(Debug)]
pub struct Deed {
    /// His pid as this process sees it; 0 for one of another pid namespace.
    pub pid: i32,
    /// Himself, unless he had ended when this was read, or the kernel does not say.
    pub pidfd: Option<OwnedFd>,
    /// The entry; empty or `.` for the directory itself.
    pub name: String,
}

/// A group that tells directory entries and processes. Not handed to children, nor to the next init.
///
/// # Errors
/// EPERM in a user namespace: there the kernel does not say who; what else fanotify_init(2) said.
pub fn group() -> io::Result<OwnedFd> {
    let base = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
    let open = |flags: libc::c_uint| {
        // SAFETY: numbers only.
        let fd = unsafe { libc::fanotify_init(flags, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor as new, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    match open(base | libc::FAN_REPORT_PIDFD) {
        // Linux 5.15 is the first that knows pidfds here. It needs the same privilege that pids do, so that what a
        // user namespace refuses does not come back as a group that tells nothing.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => open(base),
        other => other,
    }
}

/// The next deeds; empty when there are none for now.
///
/// # Errors
/// What read(2) said.
pub fn read(group: BorrowedFd<'_>) -> io::Result<Vec<Deed>> {
    let mut buffer = [0; 8192];
    match nix::unistd::read(group, &mut buffer) {
        Ok(length) => Ok(parse(buffer.get(..length).unwrap_or_default())),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

/// Takes the events of one read apart, and the descriptors in them over.
fn parse(mut bytes: &[u8]) -> Vec<Deed> {
    let mut deeds = Vec::new();
    while let Some(length) = word(bytes, 0).and_then(|l| usize::try_from(l).ok()) {
        let (Some(event), true) = (bytes.get(..length), length >= HEAD) else { break };
        deeds.extend(deed(event));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    deeds
}

fn deed(event: &[u8]) -> Option<Deed> {
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let mut out = Deed { pid: word(event, 20)?, pidfd: None, name: String::new() };
    let mut rest = event.get(half(event, 6)?..)?;
    while let (Some(kind), Some(length)) = (rest.first(), half(rest, 2)) {
        let (Some(record), true) = (rest.get(..length), length >= RECORD) else { break };
        if *kind == libc::FAN_EVENT_INFO_TYPE_PIDFD {
            out.pidfd = word(record, RECORD).filter(|fd| *fd >= 0).map(own);
        } else if *kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME {
            out.name = name(record).unwrap_or_default();
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    // Lost events are nobody's.
    (mask & libc::FAN_Q_OVERFLOW == 0).then_some(out)
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for the reader of the event, and nobody else has seen the number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn name(record: &[u8]) -> Option<String> {
    let handle = usize::try_from(word(record, RECORD + 8)?).ok()?;
    let name = record.get((RECORD + HANDLE).checked_add(handle)?..)?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(name.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, 0];
        let length = u16::try_from((RECORD + content.len()).next_multiple_of(4)).unwrap();
        out.extend(length.to_ne_bytes());
        out.extend(content);
        out.resize(usize::from(length), 0);
        out
    }

    fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut out = u32::try_from(HEAD + records.len()).unwrap().to_ne_bytes().to_vec();
        out.extend([3, 0, 24, 0]);
        out.extend(mask.to_ne_bytes());
        out.extend((-1i32).to_ne_bytes());
        out.extend(pid.to_ne_bytes());
        out.extend(records);
        out
    }

    fn entry(name: &str) -> Vec<u8> {
        let handle = [[7; 8].as_slice(), &8u32.to_ne_bytes(), &1i32.to_ne_bytes(), &[9; 8]].concat();
        record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &[&handle, name.as_bytes(), &[0]].concat())
    }

    #[test]
    fn events_are_taken_apart_with_their_descriptors() {
        let file = tempfile::tempfile().unwrap();
        let number = OwnedFd::from(file).into_raw_fd();
        let pidfd = |n: i32| record(libc::FAN_EVENT_INFO_TYPE_PIDFD, &n.to_ne_bytes());
        let bytes = [
            event(libc::FAN_MODIFY, 7, &[entry("motd"), pidfd(number)]),
            event(libc::FAN_Q_OVERFLOW, 0, &[]),
            event(libc::FAN_DELETE, 0, &[entry("other"), pidfd(libc::FAN_NOPIDFD)]),
        ]
        .concat();
        let deeds = parse(&bytes);
        let told: Vec<_> = deeds.iter().map(|d| (d.pid, d.name.as_str(), d.pidfd.is_some())).collect();
        assert_eq!(told, [(7, "motd", true), (0, "other", false)]);
    }

    #[test]
    fn what_is_torn_is_nothing() {
        let whole = event(libc::FAN_MODIFY, 7, &[entry("motd")]);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_empty(), "{length}");
        }
        let mut odd = whole.clone();
        // The record claims more than there is.
        odd[HEAD + 2] = 0xff;
        assert_eq!(parse(&odd)[0].name, "");
    }
}
