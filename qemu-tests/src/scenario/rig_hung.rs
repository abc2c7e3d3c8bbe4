//! A path that hangs, in the fast rig: a file server that has stopped to answer costs what lies on it, and nothing else.

use std::fmt::Write as _;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::instance;
use crate::rig::program::{DEAD, command};
use crate::rig::sleeper::{SLEEPER, goes_on, restarts};
use crate::rig::{Rig, Setup, holds, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(5), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[scenario("rig-hung-path", hung_path)];

/// Files elsewhere.
const NEAR: u32 = 20;
/// Files on the server.
const FAR: u32 = 3;
/// A link that leads there.
const LINK: &str = "/srv/link";
/// What is said when a worker is given up.
const GIVEN_UP: &str = "the worker does not answer: another one takes its place";

/// The path of a file on the server: one of them is declared through a link.
fn far(n: u32) -> String {
    format!("{}/{n}", if n == FAR - 1 { LINK } else { DEAD })
}

/// The state, with contents of this version elsewhere.
fn state(version: u32) -> Result<String> {
    let mut state = SLEEPER.to_owned();
    let server = command("dead-server")?;
    writeln!(state, "[service.server]\nexec = {server}\nready = \"notify\"\nstart = \"manual\"")?;
    for n in 0..NEAR {
        writeln!(state, "[file.\"/srv/near/{n}\"]\ncontent = \"version {version}\\n\"")?;
    }
    for n in 0..FAR {
        writeln!(state, "[file.\"{}\"]\ncontent = \"far\\n\"", far(n))?;
    }
    writeln!(state, "[symlink.\"{LINK}\"]\ntarget = \"{DEAD}\"")?;
    Ok(state)
}

/// Whether all files elsewhere are of this version.
fn near(rig: &Rig, version: u32) -> Result {
    for n in 0..NEAR {
        let file = rig.inside(&format!("/srv/near/{n}"))?;
        want(holds(&file, &format!("version {version}\n")), &format!("/srv/near/{n} is not right"), rig)?;
    }
    Ok(())
}

/// Processes of workers that were killed and are there all the same, as the kernel counts pending signals.
fn unkillable(rig: &Rig) -> Result<Vec<i32>> {
    let killed = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pending = status.lines().filter_map(|l| l.strip_prefix("SigPnd:").or(l.strip_prefix("ShdPnd:")));
        pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & 0x100 != 0)
    };
    let workers = instance::processes(rig)?.into_iter().filter(|p| p.name == "cm-worker").map(|p| p.pid);
    Ok(workers.filter(killed).collect())
}

/// Wants that what is on the server is not kept and says why, and that one process hangs upon it and no more.
fn only_far(rig: &Rig) -> Result {
    for n in 0..FAR {
        let status = rig.status(&format!("file:{}", far(n)))?;
        want(word(&status, "outcome") == "not-kept", &format!("it is {status}"), rig)?;
    }
    let text = rig.initctl(&["status"])?.out;
    want(text.contains(&format!("file:{DEAD}/0")), &format!("status names no path: {text}"), rig)?;
    let stuck = unkillable(rig)?;
    let given_up = rig.init_said().matches(GIVEN_UP).count();
    let found = format!("{given_up} workers were given up, and these cannot be killed: {stuck:?}");
    want((given_up, stuck.len()) == (1, 1), &found, rig)
}

/// While a file server does not answer, all that lies elsewhere is repaired and changed, services are started, and no
/// try leaves one more process that nobody can kill. When the server is gone, all is kept again.
fn hung_path(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(&state(1)?), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    near(&rig, 1)?;
    // Mounted over what was kept until now: that is looked at.
    rig.ok(&["start", "service:server"])?;
    for n in 0..NEAR {
        std::fs::write(rig.inside(&format!("/srv/near/{n}"))?, "theirs\n")?;
    }
    goes_on(&rig)?;
    // A worker that gives no sign of life has a minute, and when it is killed some seconds to end.
    let said = rig.initctl(&["wait", "--converged", "--timeout", "100s"])?;
    want(said.code == 1, &format!("wait ended with {}: {}{}", said.code, said.out, said.err), &rig)?;
    near(&rig, 1)?;
    only_far(&rig)?;
    let why = rig.status(&format!("file:{DEAD}/0"))?;
    println!("{}", word(&why, "cause"));
    restarts(&rig)?;

    // Not one of these sends a worker there: by hand, by an apply, after a re-exec.
    rig.initctl(&["restart", &format!("file:{DEAD}/1")])?;
    rig.initctl(&["wait", "--converged", "--timeout", "60s"])?;
    only_far(&rig)?;
    let path = rig.state_file("next.toml", &state(2)?)?;
    let said = rig.initctl(&["apply", &path])?;
    want(said.code == 1, &format!("apply ended with {}: {}{}", said.code, said.out, said.err), &rig)?;
    near(&rig, 2)?;
    rig.ok(&["reexec"])?;
    rig.initctl(&["restart", &format!("file:{}", far(2))])?;
    rig.initctl(&["wait", "--converged", "--timeout", "60s"])?;
    only_far(&rig)?;

    // With the server end all who wait for it; who looks is told that it is gone, until it is unmounted.
    rig.ok(&["stop", "service:server"])?;
    rig.run(&["umount", "--lazy", DEAD])?;
    for n in 0..FAR {
        rig.until(&format!("file:{}", far(n)), "kept", |s| word(s, "state") == "ready")?;
        let file = rig.inside(&format!("{DEAD}/{n}"))?;
        want(holds(&file, "far\n"), &format!("{DEAD}/{n} is not right"), &rig)?;
    }
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    instance::rest(&rig).map(drop)
}
