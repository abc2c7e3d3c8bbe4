//! At rest nothing of Holdfast runs, and only what must be there is there.

use std::fmt::Write;
use std::time::Duration;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{MANAGED, Rig, Setup};
use crate::{instance, measure};

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "rest", group: "rig", limit: Duration::from_secs(120), run: rest },
    Scenario { name: "rest-after-reexec", group: "rig", limit: Duration::from_secs(300), run: reexec },
];

/// Number of the last process that was made in the instance. Asking makes as many each time.
fn last_process(rig: &Rig) -> Result<i64> {
    Ok(rig.run(&["cat", "/proc/sys/kernel/ns_last_pid"])?.out.trim().parse()?)
}

/// A re-exec that was asked for hands over what is watched: nothing is looked at, as no process is made that could;
/// and what is damaged afterwards is repaired. After a fault everything is looked at.
fn reexec(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let count = if context.full { 10_000 } else { 500 };
    let mut state = String::from("[sysctl.\"net.ipv4.ip_forward\"]\nvalue = 1\n");
    for n in 0..count {
        write!(state, "[file.\"{MANAGED}/d{}/f{n}\"]\ncontent = \"{n}\\n\"\n", n % 10)?;
    }
    rig.apply(&state)?;
    instance::rest(&rig)?;
    let first = last_process(&rig)?;
    let asking = last_process(&rig)? - first;
    let after = |what: &str| -> Result<i64> {
        let before = last_process(&rig)?;
        match what {
            "reexec" => drop(rig.ok(&["reexec"])?),
            _ => rig.signal(libc::SIGSEGV)?,
        }
        rig.until_said("has taken over")?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        Ok(last_process(&rig)? - before - asking)
    };
    for _ in 0..2 {
        let made = after("reexec")?;
        if made != 0 {
            return Err(format!("{made} processes were made after a re-exec\n{}", rig.init_said()).into());
        }
    }
    for (n, damage) in [(3, "echo x >"), (17, "rm"), (25, "ln -sf /etc/passwd")] {
        let path = format!("{MANAGED}/d{}/f{n}", n % 10);
        rig.run(&["sh", "-c", &format!("{damage} {path}")])?;
        rig.until_state(&format!("file:{path}"), "ready")?;
        rig.until(&format!("file:{path}"), "repaired", |s| {
            s.get("outcome").and_then(serde_json::Value::as_str) == Some("repaired")
        })?;
    }
    instance::rest(&rig)?;
    if after("fault")? == 0 {
        return Err("nobody looked at anything after a fault".into());
    }
    Ok(())
}

/// With managed files and services converged, PID 1 and the log daemon are the only processes of Holdfast's, and
/// neither wakes up; without a line of a service PID 1 is alone.
fn rest(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
    rig.apply("[service.silent]\nexec = [\"sleep\", \"infinity\"]\n")?;
    let left = instance::rest(&rig)?;
    if left.len() != 1 {
        return Err(format!("nothing was written, and not only PID 1 is there: {left:?}").into());
    }
    let mut state =
        String::from("[service.sleeper]\nexec = [\"sh\", \"-c\", \"echo up; exec sleep infinity\"]\n");
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
