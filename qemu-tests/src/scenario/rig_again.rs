//! An apply of what is current, in the fast rig: what is wrong is right when it ends, or it says that it is not.

use std::time::{Duration, Instant};

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Said, Setup, holds, want};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] =
    &[scenario("rig-apply-again", again), scenario("rig-apply-awaits-device", awaits_device)];

const FILES: &str = r#"
[file."/srv/held"]
content = "ours\n"

[file."/srv/fought"]
content = "ours\n"
"#;

/// Runs as long as it finds its file when it starts.
const SERVICE: &str = r#"
[service.flaky]
exec    = ["sh", "-c", "test -e /srv/flag && exec sleep infinity; exit 3"]
restart = "never"
"#;

fn ends(rig: &Rig, words: &[&str], code: i32, says: &[&str]) -> Result {
    let Said { code: got, out, err } = rig.initctl(words)?;
    let text = format!("{} ended with {got}:\n{out}{err}", words.join(" "));
    want(got == code && says.iter().all(|s| out.contains(s)), &text, rig)
}

/// Held, contested and failed: each is tried again, and the command ends when it is right or cannot be.
fn again(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(FILES), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let [held, fought, flag] =
        ["/srv/held", "/srv/fought", "/srv/flag"].map(|path| rig.inside(path).unwrap_or_default());
    std::fs::write(&flag, "")?;
    let state = rig.state_file("next.toml", &format!("{FILES}{SERVICE}"))?;
    let apply = ["apply", state.as_str()];
    rig.ok(&apply)?;
    ends(&rig, &apply, 0, &["3 kept, 0 changed, 0 repaired, 0 not kept"])?;
    ends(&rig, &["plan", &state], 0, &["nothing to do: this is generation"])?;

    rig.ok(&["hold", "file:/srv/held"])?;
    std::fs::write(&held, "theirs\n")?;
    rig.until("file:/srv/held", "drifted", |s| format!("{s}").contains("\"drifted\""))?;
    ends(&rig, &apply, 0, &["0 repaired", "1 held"])?;
    want(holds(&held, "theirs\n"), "what is held was changed", &rig)?;
    ends(&rig, &["plan", &state], 0, &["nothing to do", "1 not as declared, and held"])?;
    let dry = ["apply", &state, "--release", "--dry-run"];
    ends(&rig, &dry, 0, &["change   file:/srv/held", "1 to change"])?;
    ends(&rig, &["apply", &state, "--release"], 0, &["2 kept, 0 changed, 1 repaired, 0 not kept"])?;
    want(holds(&held, "ours\n"), "it has ended, and what was held is not right", &rig)?;

    for n in 1..=5 {
        let mut events = rig.events()?;
        std::fs::write(&fought, format!("theirs {n}\n"))?;
        let outcome = if n < 5 { "repaired" } else { "not-kept" };
        rig.until_outcome(&mut events, "file:/srv/fought", outcome)?;
    }
    std::fs::write(&fought, "theirs at last\n")?;
    ends(&rig, &["plan", &state], 0, &["change   file:/srv/fought", "1 to change", "this is generation"])?;
    ends(&rig, &apply, 0, &["2 kept, 0 changed, 1 repaired, 0 not kept"])?;
    want(holds(&fought, "ours\n"), "it has ended, and what was contested is not right", &rig)?;

    std::fs::remove_file(&flag)?;
    rig.ok(&["kill", "--signal", "KILL", "service:flaky"])?;
    rig.until_state("service:flaky", "failed")?;
    ends(&rig, &["plan", &state], 0, &["start    service:flaky", "1 to start", "this is generation"])?;
    ends(&rig, &apply, 1, &["1 not kept", "not kept: service:flaky"])?;
    std::fs::write(&flag, "")?;
    ends(&rig, &apply, 0, &["2 kept, 0 changed, 1 repaired, 0 not kept"])?;
    rig.main_pid("service:flaky")?;
    Ok(())
}

/// Where nobody looks at a screen a line says what an apply waits for, and that it does is no rest.
fn awaits_device(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(FILES), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.apply(FILES)?;
    let mount = "[mount.\"/srv/data\"]\nsource = \"/dev/never\"\nfstype = \"ext4\"\n";
    let state = rig.state_file("mount.toml", &format!("{FILES}{mount}"))?;
    let mut lines = rig.follow(&["apply", &state])?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut told = 0;
    while told == 0 {
        let Some(line) = lines.next(deadline)? else { break };
        told += usize::from(line.contains("mount:/srv/data") && line.contains("/dev/never"));
    }
    want(told == 1, "nobody says what it waits for", &rig)?;
    ends(&rig, &["status"], 0, &[", converging, ", "/dev/never"])?;
    rig.ok(&["rollback"])?;
    // Until it has ended.
    while let Ok(Some(line)) = lines.next(deadline) {
        told += usize::from(line.contains("/dev/never"));
    }
    want(told == 1, &format!("it was told {told} times"), &rig)?;
    want(lines.end(Duration::from_secs(10))?.code() == Some(4), "it was not given up", &rig)
}
