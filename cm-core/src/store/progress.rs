//! Signs of life on the way through what takes long, so that nobody takes a slow disk for a dead one.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;

/// Bytes after which what is written is waited for, though nobody needs it to be durable yet: a wait for all of it in the
/// end could be as long as one for a dead disk.
pub(super) const PIECE: u64 = 64 << 20;

/// Most often told.
const EVERY: Duration = Duration::from_secs(1);

/// Whoever is told that the work goes on.
#[derive(Debug, Default)]
pub struct Progress {
    to: Option<(RawFd, Vec<u8>)>,
    told: Cell<Option<Instant>>,
    /// Most often told.
    pub(super) every: Duration,
}

impl Progress {
    /// The other end of this packet socket is told by these bytes.
    pub fn to(socket: RawFd, bytes: Vec<u8>) -> Progress {
        Progress { to: Some((socket, bytes)), told: Cell::new(None), every: EVERY }
    }

    /// The work goes on; told at most once a second, and never waited for.
    pub fn goes_on(&self) {
        let Some((socket, bytes)) = &self.to else { return };
        let now = Instant::now();
        if self.told.get().is_none_or(|told| now.duration_since(told) >= self.every) {
            self.told.set(Some(now));
            let _ = nix::sys::socket::send(*socket, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }
}
