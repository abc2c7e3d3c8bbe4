//! PID 1 in the fast rig: services, and PID 1 itself.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::{Rig, Setup};

const LIMIT: Duration = Duration::from_secs(120);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-boot", boot),
    scenario("rig-restart", restart),
    scenario("rig-readiness", readiness),
    scenario("rig-stop-and-kill", stop_and_kill),
    scenario("rig-orphans", orphans),
    scenario("rig-reexec", reexec),
    scenario("rig-panic", panic),
    scenario("rig-bad-clients", bad_clients),
    scenario("rig-cannot-start", cannot_start),
    scenario("rig-fork-bomb", fork_bomb),
    scenario("rig-log-flood", log_flood),
    scenario("rig-log-daemon-killed", log_daemon_killed),
    scenario("rig-user-namespace", user_namespace),
];

const SLEEPER: &str = "[service.sleeper]\nexec = [\"sleep\", \"infinity\"]\n";

fn first(context: &Context, state: &str) -> Result<Rig> {
    Rig::start(context, &Setup { first: Some(state), ..Setup::default() })
}

fn word<'v>(status: &'v Value, key: &str) -> &'v str {
    status.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn want(holds: bool, what: &str, rig: &Rig) -> Result {
    if holds { Ok(()) } else { Err(format!("{what}\ninit said:\n{}", rig.init_said()).into()) }
}

/// Generation 0 boots, a service is ready, init leaves in order.
fn boot(context: &Context) -> Result {
    let mut rig = first(context, SLEEPER)?;
    rig.until_state("service:sleeper", "ready")?;
    rig.ok(&["poweroff"])?;
    let status = rig.left()?;
    want(status.code() == Some(0), &format!("init left with {status}"), &rig)
}

/// A killed service runs again with another process.
fn restart(context: &Context) -> Result {
    let rig = first(context, SLEEPER)?;
    let before = rig.main_pid("service:sleeper")?;
    rig.ok(&["kill", "service:sleeper", "--signal", "KILL"])?;
    rig.until("service:sleeper", "running again", |s| {
        s.get("pid").and_then(Value::as_i64).is_some_and(|p| p != i64::from(before))
            && word(s, "state") == "ready"
    })?;
    Ok(())
}

/// Every way to say "ready".
fn readiness(context: &Context) -> Result {
    let notify = command("notify")?;
    let state = format!(
        r#"
[service.started]
exec = ["sleep", "infinity"]

[service.notify]
exec  = {notify}
ready = "notify"

[service.fd]
exec  = ["sh", "-c", "echo >&5; exec 5>&-; exec sleep infinity"]
ready = "fd=5"

[service.forked]
exec  = ["sh", "-c", "sleep infinity & exit 0"]
ready = "forked"

[service.forked-file]
exec     = ["sh", "-c", "sleep infinity & sleep infinity & echo $! > /srv/forked.pid; exit 0"]
ready    = "forked"
pid-file = "/srv/forked.pid"

[service.exited]
exec  = ["true"]
ready = "exited"

[service.path]
exec  = ["sh", "-c", "echo > /srv/there; exec sleep infinity"]
ready = "path=/srv/there"

[service.never]
exec          = ["sleep", "infinity"]
ready         = "notify"
start-timeout = "300ms"
restart       = "never"

[service.behind]
exec     = ["sleep", "infinity"]
requires = ["service:exited", "service:fd", "service:notify"]
"#
    );
    let rig = first(context, &state)?;
    for unit in ["started", "notify", "fd", "forked", "forked-file", "path", "behind"] {
        rig.until_state(&format!("service:{unit}"), "ready")?;
    }
    rig.until_state("service:exited", "done")?;
    rig.until_state("service:never", "failed")?;
    let status = rig.status("service:notify")?;
    want(word(&status, "detail") == "serving", &format!("STATUS= is not shown: {status}"), &rig)?;
    // The process that the file names, not the one that was started, nor the other child.
    let written: i32 = std::fs::read_to_string(rig.inside("/srv/forked.pid")?)?.trim().parse()?;
    rig.until("service:forked-file", "following its pid file", |s| {
        s.get("pid").and_then(Value::as_i64) == Some(i64::from(written))
    })?;
    Ok(())
}

/// Asked to stop, given its time, then killed with everything it has started.
fn stop_and_kill(context: &Context) -> Result {
    let state = r#"
[service.polite]
exec = ["sh", "-c", "trap 'echo bye > /srv/bye; exit 0' TERM; while :; do sleep 0.1; done"]

[service.stubborn]
exec         = ["sh", "-c", "trap '' TERM; sleep infinity & sleep infinity & wait; wait"]
stop-timeout = "300ms"

[service.by-command]
exec = ["sh", "-c", "while [ ! -e /srv/stop ]; do sleep 0.1; done"]
stop = ["sh", "-c", "echo $MAINPID > /srv/stop"]
"#;
    let rig = first(context, state)?;
    let pid = rig.main_pid("service:by-command")?;
    for unit in ["polite", "stubborn", "by-command"] {
        rig.ok(&["stop", &format!("service:{unit}")])?;
        rig.until_state(&format!("service:{unit}"), "down")?;
    }
    want(rig.inside("/srv/bye")?.exists(), "service:polite was not asked", &rig)?;
    let asked = std::fs::read_to_string(rig.inside("/srv/stop")?)?;
    want(asked.trim() == pid.to_string(), "the stop command did not get the main pid", &rig)?;
    let left = rig.run(&["pgrep", "-x", "sleep"])?;
    want(left.code == 1, &format!("processes are left: {}", left.out), &rig)
}

/// Ten thousand orphans are buried, and init is as small as before.
fn orphans(context: &Context) -> Result {
    let count = if context.full { 50_000 } else { 10_000 };
    let state = format!(
        r#"
[service.parent]
exec          = ["sh", "-c", "n=0; while [ $n -lt {count} ]; do (: &); n=$((n+1)); done; echo >&3; exec sleep infinity"]
ready         = "fd=3"
start-timeout = "100s"
"#
    );
    let rig = first(context, "")?;
    let before = rig.memory()?;
    drop(rig);
    let rig = first(context, &state)?;
    rig.until_state("service:parent", "ready")?;
    rig.ok(&["status"])?;
    want(rig.zombies()? == 0, &format!("{} processes are not buried", rig.zombies()?), &rig)?;
    let after = rig.memory()?;
    println!("memory of init: {before} bytes before, {after} after {count} orphans");
    want(after < before + (256 << 10), &format!("init has grown from {before} to {after} bytes"), &rig)
}

const BUSY: &str = r#"
[service.writer]
exec     = ["sh", "-c", "n=0; while :; do echo $n; n=$((n+1)); done"]
log-size = "64K"

[service.crasher]
exec          = ["sh", "-c", "sleep 0.02"]
restart-limit = 0
restart-delay = "10ms"
restart-max   = "10ms"
"#;

fn busy_state() -> Result<String> {
    let notify = command("notify")?;
    Ok(format!("{SLEEPER}{BUSY}\n[service.notify]\nexec = {notify}\nready = \"notify\"\n"))
}

fn steady(rig: &Rig) -> Result<Vec<i32>> {
    ["sleeper", "writer", "notify"].iter().map(|u| rig.main_pid(&format!("service:{u}"))).collect()
}

/// init executes itself again, ten times, under load: no service notices.
fn reexec(context: &Context) -> Result {
    let mut rig = first(context, &busy_state()?)?;
    let before = steady(&rig)?;
    for n in 1..=10 {
        rig.ok(&["reexec"])?;
        rig.ok(&["wait", "--ready", "service:notify", "--timeout", "20s"])?;
        want(steady(&rig)? == before, &format!("a service has another process after re-exec {n}"), &rig)?;
    }
    // It is still the parent, and hears of an end.
    rig.ok(&["kill", "service:sleeper", "--signal", "KILL"])?;
    rig.until("service:sleeper", "running again", |s| {
        s.get("pid")
            .and_then(Value::as_i64)
            .is_some_and(|p| Some(&i32::try_from(p).unwrap_or(0)) != before.first())
            && word(s, "state") == "ready"
    })?;
    rig.ok(&["poweroff"])?;
    let status = rig.left()?;
    want(status.code() == Some(0), &format!("init left with {status}"), &rig)
}

/// A step that panics ends in a re-exec: no service notices.
fn panic(context: &Context) -> Result {
    let state = busy_state()?;
    let setup = Setup { first: Some(&state), environment: &[("HOLDFAST_TEST", "1")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    let before = steady(&rig)?;
    rig.signal(init::sys::signals::RTMIN + 20)?;
    rig.until_said("has taken over")?;
    rig.ok(&["wait", "--ready", "service:notify", "--timeout", "20s"])?;
    want(steady(&rig)? == before, "a service has another process after a panic", &rig)?;
    rig.ok(&["restart", "service:sleeper"])?;
    Ok(())
}

/// Garbage, half messages and silence on the control socket harm nobody.
fn bad_clients(context: &Context) -> Result {
    let rig = first(context, SLEEPER)?;
    let before = rig.memory()?;
    let mut stuck = Vec::new();
    for n in 0..200_u32 {
        // More come than are served at a time; those that are dropped learn it by an error.
        let Ok(mut client) = UnixStream::connect(rig.socket()) else { continue };
        let _ = match n % 4 {
            0 => client.write_all(b"\xff\xfe garbage \0\0\0"),
            1 => client.write_all(b"{\"method\":\"io.holdfast.Sta"),
            2 => client.write_all(&vec![b'x'; 200_000]),
            _ => Ok(()),
        };
        stuck.push(client);
    }
    rig.ok(&["status"])?;
    // One that asks for everything and reads nothing.
    let mut deaf = UnixStream::connect(rig.socket())?;
    deaf.write_all(b"{\"method\":\"io.holdfast.Events\",\"more\":true}\0")?;
    for _ in 0..20 {
        rig.ok(&["restart", "service:sleeper"])?;
    }
    let mut answer = [0; 64];
    let mut garbage = UnixStream::connect(rig.socket())?;
    garbage.write_all(b"nonsense\0")?;
    garbage.set_read_timeout(Some(Duration::from_secs(20)))?;
    let said = garbage.read(&mut answer)?;
    want(said > 0, "garbage got no answer", &rig)?;
    let after = rig.memory()?;
    println!("memory of init: {before} bytes before, {after} after");
    want(after < before + (16 << 20), "init has grown", &rig)
}

/// What cannot be started says why, and the rest goes on.
fn cannot_start(context: &Context) -> Result {
    let state = format!(
        r#"{SLEEPER}
[service.no-program]
exec = ["/nowhere/at/all"]

[service.no-user]
exec = ["sleep", "infinity"]
user = "nobody-of-this-name"

[service.no-directory]
exec      = ["sleep", "infinity"]
directory = "/nowhere"

[service.behind]
exec     = ["sleep", "infinity"]
requires = ["service:no-program"]
"#
    );
    let rig = first(context, &state)?;
    rig.until_state("service:sleeper", "ready")?;
    for (unit, cause) in
        [("no-program", "/nowhere/at/all"), ("no-user", "nobody-of-this-name"), ("no-directory", "/nowhere")]
    {
        let status = rig.until(&format!("service:{unit}"), "failed or in backoff", |s| {
            matches!(word(s, "state"), "failed" | "backoff")
        })?;
        want(word(&status, "cause").contains(cause), &format!("no cause in {status}"), &rig)?;
    }
    let status = rig.until_state("service:behind", "waiting")?;
    want(word(&status, "cause").contains("service:no-program"), &format!("no cause in {status}"), &rig)?;
    want(
        rig.initctl(&["wait", "--converged", "--timeout", "2s"])?.code != 0,
        "wait says that all is well",
        &rig,
    )
}

/// A service that forks as fast as it can is stopped with all that it has started.
fn fork_bomb(context: &Context) -> Result {
    let state = format!(
        r#"{SLEEPER}
[service.bomb]
exec         = ["sh", "-c", "trap '' TERM; while :; do sleep 1000 & done 2>/dev/null"]
user         = "nobody"
log          = "null"
stop-timeout = "200ms"

[service.bomb.limits]
nproc = 300
"#
    );
    let rig = first(context, &state)?;
    rig.until_state("service:bomb", "ready")?;
    rig.ok(&["stop", "service:bomb"])?;
    rig.until_state("service:bomb", "down")?;
    let left = rig.run(&["pgrep", "-u", "nobody"])?;
    want(left.code == 1, &format!("processes are left: {}", left.out), &rig)?;
    rig.until_state("service:sleeper", "ready")?;
    Ok(())
}

/// A service that writes without end fills neither the disk nor init.
fn log_flood(context: &Context) -> Result {
    let flood = command("flood")?;
    let state = format!("{SLEEPER}\n[service.flood]\nexec = {flood}\nlog-size = \"64K\"\nlog-keep = 2\n");
    let rig = first(context, &state)?;
    let before = rig.memory()?;
    let logs = rig.directory().join("logs/service:flood");
    rig.until_host(&logs.join("current"), "rotated", |_| {
        std::fs::read_dir(&logs).is_ok_and(|d| d.count() >= 3)
    })?;
    for _ in 0..20 {
        rig.ok(&["status"])?;
    }
    let size: u64 =
        std::fs::read_dir(&logs)?.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum();
    let after = rig.memory()?;
    println!("logs have {size} bytes; memory of init: {before} bytes before, {after} after");
    want(size < 1 << 20, &format!("the logs have {size} bytes"), &rig)?;
    want(after < before + (1 << 20), "init has grown", &rig)
}

/// The log daemon is killed again and again while a service writes: no line is lost.
fn log_daemon_killed(context: &Context) -> Result {
    let count = command("count")?;
    let state = format!("[service.count]\nexec = {count}\nready = \"notify\"\nlog-size = \"64M\"\n");
    let rig = first(context, &state)?;
    for _ in 0..3 {
        rig.run(&["pkill", "-KILL", "-f", "^holdfast-log"])?;
    }
    rig.until_state("service:count", "ready")?;
    let file = rig.directory().join("logs/service:count/current");
    rig.until_host(&file, "complete", |f| {
        std::fs::read_to_string(f).is_ok_and(|t| t.contains("line 19999"))
    })?;
    let text = std::fs::read_to_string(&file)?;
    let mut numbers: Vec<u32> = text.lines().filter_map(|l| l.rsplit_once("line ")?.1.parse().ok()).collect();
    numbers.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    want(numbers.len() == 20_000, &format!("{} of 20000 lines are there", numbers.len()), &rig)
}

/// Where no cgroup is to be had, services still start, stop and are missed.
fn user_namespace(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup { first: Some(SLEEPER), user: true, ..Setup::default() })?;
    rig.until_state("service:sleeper", "ready")?;
    rig.ok(&["kill", "service:sleeper", "--signal", "KILL"])?;
    rig.until_state("service:sleeper", "ready")?;
    rig.ok(&["stop", "service:sleeper"])?;
    rig.until_state("service:sleeper", "down")?;
    rig.ok(&["poweroff"])?;
    rig.left()?;
    Ok(())
}
