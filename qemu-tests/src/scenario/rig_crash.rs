//! Init dies, and nothing that had happened is lost: by a panic and by a fatal signal, wherever in its work it is.

use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{MANAGED, Rig, Setup};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: Duration::from_secs(300), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-crash-first-event", first_event),
    scenario("rig-crash-later-event", later_event),
    scenario("rig-crash-before-flush", before_flush),
    scenario("rig-crash-deadly-event", deadly_event),
    scenario("rig-crash-deadly-result", deadly_result),
    scenario("rig-crash-leaving", leaving),
    scenario("rig-crash-deadly-boot", deadly_boot),
];

const SERVICES: [&str; 3] = ["service:a", "service:b", "service:c"];
const DEATHS: [&str; 2] = ["panic", "segv"];

/// Services that leave a line at each start.
fn state() -> String {
    ["a", "b", "c"]
        .map(|n| {
            format!(
                "[service.{n}]\nexec = [\"sh\", \"-c\", \"echo >> {MANAGED}/{n}; exec sleep infinity\"]\n"
            )
        })
        .concat()
}

fn start(context: &Context, state: &str, fault: &str) -> Result<Rig> {
    let environment = [(init::event_loop::FAULT, fault)];
    Rig::start(context, &Setup { first: Some(state), environment: &environment, ..Setup::default() })
}

fn want(holds: bool, what: &str, rig: &Rig) -> Result {
    if holds { Ok(()) } else { Err(format!("{what}\ninit said:\n{}", rig.init_said()).into()) }
}

fn arm(rig: &Rig) -> Result {
    rig.signal(init::sys::signals::RTMIN + 20)
}

/// Three restarts are asked for at once, which are three events of one round, and init dies in it; each service has
/// been restarted once afterwards, not more and not less.
fn three_events(context: &Context, place: &str) -> Result {
    for death in DEATHS {
        let rig = start(context, &state(), &format!("{death} {place}"))?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        let before = SERVICES.map(|s| rig.main_pid(s).ok());
        want(before.iter().all(Option::is_some), "a service does not run", &rig)?;
        arm(&rig)?;
        // Its connection ends with the init that it asked.
        rig.initctl(&["restart", "service:a", "service:b", "service:c"])?;
        rig.until_said("has taken over")?;
        for (service, old) in SERVICES.iter().zip(before) {
            rig.until(service, "restarted", |s| {
                let pid = s.get("pid").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
                pid.is_some() && pid != old
            })?;
        }
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        for name in ["a", "b", "c"] {
            let starts = std::fs::read_to_string(rig.inside(&format!("{MANAGED}/{name}"))?)?.lines().count();
            want(starts == 2, &format!("{death} {place}: {name} was started {starts} times"), &rig)?;
        }
        want(rig.init_said().matches("has taken over").count() == 1, "it did not die once", &rig)?;
    }
    Ok(())
}

/// In the first step of a round: the event in hand and those behind it are done by the next init.
fn first_event(context: &Context) -> Result {
    three_events(context, "first")
}

/// In a later step.
fn later_event(context: &Context) -> Result {
    three_events(context, "later")
}

/// When effects have been carried out and the state is not written: they are not carried out again.
fn before_flush(context: &Context) -> Result {
    three_events(context, "after Spawn")?;
    three_events(context, "after Signal")
}

/// Init may die once more while it is asked, which closes the connection; more than five times it does not.
fn is_held(rig: &Rig, unit: &str) -> Result<bool> {
    let status = (0..5).find_map(|_| rig.status(unit).ok());
    let held = status.ok_or("init does not answer")?.get("held").cloned().unwrap_or_default();
    Ok(held.to_string().contains("quarantined"))
}

fn wait_ready(rig: &Rig, unit: &str) -> Result {
    let ready = (0..5).any(|_| {
        rig.initctl(&["wait", "--ready", unit, "--timeout", "60s"]).is_ok_and(|said| said.code == 0)
    });
    want(ready, &format!("{unit} is not ready"), rig)
}

/// An event that kills twice is dropped, and its unit held; all others go on.
fn deadly_event(context: &Context) -> Result {
    for death in DEATHS {
        let rig = start(context, &state(), &format!("{death} of service:b"))?;
        rig.until_said("dropped an event")?;
        for other in ["service:a", "service:c"] {
            wait_ready(&rig, other)?;
        }
        want(is_held(&rig, "service:b")?, &format!("{death}: service:b is not quarantined"), &rig)?;
        want(!is_held(&rig, "service:a")?, "service:a is quarantined", &rig)?;
        rig.ok(&["restart", "service:c"])?;
    }
    Ok(())
}

/// An event about many units that kills twice is taken apart: only the unit of which init dies is held.
fn deadly_result(context: &Context) -> Result {
    let file = |n: u32| format!("[file.\"{MANAGED}/f{n}\"]\ncontent = \"{n}\\n\"\n");
    let state: String = (0..20).map(file).collect();
    for death in DEATHS {
        let rig = start(context, &state, &format!("{death} of file:{MANAGED}/f7"))?;
        rig.until_said("took apart")?;
        rig.until_said("dropped an event")?;
        wait_ready(&rig, &format!("file:{MANAGED}/f8"))?;
        for n in 0..20 {
            let held = is_held(&rig, &format!("file:{MANAGED}/f{n}"))?;
            want(held == (n == 7), &format!("{death}: file {n} is quarantined: {held}"), &rig)?;
        }
    }
    Ok(())
}

/// A generation of which init dies twice is not taken, and init does not go on as if it had booted: in a container it ends
/// as with a state that cannot be loaded. The generation is there for the next init.
fn deadly_boot(context: &Context) -> Result {
    for death in DEATHS {
        let mut rig = Rig::start(context, &Setup::default())?;
        rig.apply(&state())?;
        rig.cut_power()?;
        let fault = format!("{death} at Swapped {{ request: 0,");
        let environment = [(init::event_loop::FAULT, fault.as_str())];
        rig.start_again(&Setup { environment: &environment, leaves: true, ..Setup::default() })?;
        let status = rig.left()?;
        want(status.code() == Some(2), &format!("{death}: init left with {status}"), &rig)?;
        want(rig.init_said().contains("was not taken: init died of it twice"), "it does not say why", &rig)?;
        rig.start_again(&Setup::default())?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        wait_ready(&rig, "service:a")?;
    }
    Ok(())
}

/// On the way out, when the units are down already: the next one takes it from there.
fn leaving(context: &Context) -> Result {
    for death in DEATHS {
        let mut rig = start(context, &state(), &format!("{death} after Leave"))?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        arm(&rig)?;
        rig.initctl(&["poweroff"])?;
        let status = rig.left()?;
        want(status.code() == Some(0), &format!("init left with {status}"), &rig)?;
        want(rig.init_said().contains("has taken over"), "it did not die", &rig)?;
    }
    Ok(())
}
