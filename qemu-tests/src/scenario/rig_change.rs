//! PID 1 and the worker in the fast rig: apply, drift, rollback.

use std::time::Duration;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup};

const LIMIT: Duration = Duration::from_secs(90);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[scenario("rig-apply", apply)];

const ONE: &str = r#"
[file."/srv/motd"]
content = "one\n"

[service.sleeper]
exec = ["sleep", "infinity"]
requires = ["file:/srv/motd"]
"#;

/// A state file is applied; the file is there and the service runs.
fn apply(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let said = rig.apply(ONE)?;
    println!("{said}");
    rig.until_state("service:sleeper", "ready")?;
    let text = std::fs::read_to_string(rig.inside("/srv/motd")?)?;
    if text != "one\n" {
        return Err(format!("/srv/motd holds {text:?}").into());
    }
    Ok(())
}
