//! PID 1 in the fast rig: services.

use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup};

const LIMIT: Duration = Duration::from_secs(90);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-boot", boot),
    scenario("rig-restart", restart),
    scenario("rig-user-namespace", user_namespace),
];

const SLEEPER: &str = "[service.sleeper]\nexec = [\"sleep\", \"infinity\"]\n";

/// Generation 0 boots, a service is ready, init leaves in order.
fn boot(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup { first: Some(SLEEPER), ..Setup::default() })?;
    rig.until_state("service:sleeper", "ready")?;
    let pid = rig.main_pid("service:sleeper")?;
    println!("sleeper is process {pid}");
    rig.ok(&["poweroff"])?;
    let status = rig.left()?;
    if status.code() != Some(0) {
        return Err(format!("init left with {status}\n{}", rig.init_said()).into());
    }
    Ok(())
}

/// A killed service runs again with another process.
fn restart(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(SLEEPER), ..Setup::default() })?;
    let before = rig.main_pid("service:sleeper")?;
    rig.ok(&["kill", "service:sleeper", "--signal", "KILL"])?;
    rig.until("service:sleeper", "running again", |s| {
        s.get("pid").and_then(Value::as_i64).is_some_and(|p| p != i64::from(before))
            && s.get("state").and_then(Value::as_str) == Some("ready")
    })?;
    Ok(())
}

/// Where no cgroup is to be had, services still start, stop and are missed.
fn user_namespace(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup { first: Some(SLEEPER), user: true, ..Setup::default() })?;
    rig.until_state("service:sleeper", "ready")?;
    rig.ok(&["stop", "service:sleeper"])?;
    rig.until_state("service:sleeper", "down")?;
    rig.ok(&["poweroff"])?;
    rig.left()?;
    Ok(())
}
