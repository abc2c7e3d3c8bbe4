//! The last resort: ask the kernel, when init does not answer.

use nix::sys::reboot::{RebootMode, reboot};

use super::exit::Stop;
use crate::control::request::How;

/// Writes what is cached, then takes the machine down. Returns only if it cannot.
///
/// # Errors
/// [`Stop::Local`] with what reboot(2) said.
pub fn force(how: How) -> Result<(), Stop> {
    nix::unistd::sync();
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
