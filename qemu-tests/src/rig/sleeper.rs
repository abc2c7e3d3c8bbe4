//! The service that most scenarios have beside what they are about, to see whether the rest of the machine goes on.

use super::{Rig, want};
use crate::Result;

/// A service that does nothing.
pub const SLEEPER: &str = "[service.sleeper]\nexec = [\"sleep\", \"infinity\"]\n";

/// Whatever else is wrong: who runs goes on running, is restarted, and everybody gets answers.
///
/// # Errors
/// When it does not go on.
pub fn goes_on(rig: &Rig) -> Result {
    restarts(rig)?;
    rig.ok(&["status"])?;
    Ok(())
}

/// The same where something is not kept, so that `status` has something to say in its exit code.
///
/// # Errors
/// When it does not go on.
pub fn restarts(rig: &Rig) -> Result {
    rig.until_state("service:sleeper", "ready")?;
    let before = rig.main_pid("service:sleeper")?;
    rig.ok(&["restart", "service:sleeper"])?;
    want(rig.main_pid("service:sleeper")? != before, "nothing can be restarted", rig)
}
