//! At rest nothing of Holdfast runs, and only what must be there is there.

use std::fmt::Write;
use std::time::Duration;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{MANAGED, Rig, Setup};
use crate::{instance, measure};

/// See the module.
pub const ALL: &[Scenario] =
    &[Scenario { name: "rest", group: "rig", limit: Duration::from_secs(120), run: rest }];

/// With managed files and services converged, PID 1 and the log daemon are the only processes of Holdfast's, and
/// neither wakes up.
fn rest(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
    let mut state = String::from("[service.sleeper]\nexec = [\"sleep\", \"infinity\"]\n");
    for n in 0..200 {
        write!(state, "[file.\"{MANAGED}/d{}/f{n}\"]\ncontent = \"{n}\\n\"\n", n % 10)?;
    }
    rig.apply(&state)?;
    let left = instance::rest(&rig)?;
    let pids: Vec<i32> = left.iter().map(|p| p.pid).collect();
    let seconds = if context.full { 30 } else { 3 };
    let found = measure::at_rest(&pids, Duration::from_secs(seconds))?;
    println!("context switches in {seconds} s: {left:?}: {found:?}");
    let now = instance::processes(&rig)?;
    if left.len() != 2 || now != left {
        return Err(format!("not only PID 1 and the log daemon are there: {left:?}, then {now:?}").into());
    }
    if found.iter().any(|n| *n != 0) {
        return Err(format!("something woke up: {left:?}: {found:?}").into());
    }
    Ok(())
}
