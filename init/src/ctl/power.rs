//! The last resort: ask the kernel, when init does not answer.

use std::sync::mpsc;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

use super::exit::Stop;
use crate::control::request::How;

/// For writing what is cached: a dead disk takes for ever.
const SYNC: Duration = Duration::from_secs(10);

/// Does something that may never end, and waits for it no longer than this. Answers whether it was done.
fn within(limit: Duration, act: impl FnOnce() + Send + 'static) -> bool {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        act();
        done.send(())
    });
    thread.is_ok() && ended.recv_timeout(limit).is_ok()
}

/// Writes what is cached, as far as that goes in some seconds, then takes the machine down. Returns only if it cannot.
///
/// # Errors
/// [`Stop::Local`] with what reboot(2) said.
pub fn force(how: How) -> Result<(), Stop> {
    within(SYNC, nix::unistd::sync);
    let mode = match how {
        How::Poweroff | How::Exit => RebootMode::RB_POWER_OFF,
        How::Reboot => RebootMode::RB_AUTOBOOT,
        How::Halt => RebootMode::RB_HALT_SYSTEM,
    };
    match reboot(mode) {
        Ok(never) => match never {},
        Err(e) => Err(Stop::Local(format!("cannot take the machine down: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_not_waited_for() {
        let (_keep, never) = mpsc::channel::<()>();
        assert!(!within(Duration::from_millis(20), move || assert!(never.recv().is_err())));
        assert!(within(Duration::from_secs(60), || {}));
    }
}
