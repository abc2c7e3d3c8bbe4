//! What a re-exec, and a client that does not keep to the rules, leave alone in the fast rig.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::{LIMIT, Rig, Setup, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(3), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-reexec-streams", streams),
    scenario("rig-reexec-status", status),
    scenario("rig-reexec-pid-file", pid_file),
    scenario("rig-reexec-set-up", set_up),
    scenario("rig-reexec-unreadable", unreadable),
    scenario("rig-half-call", half_call),
    scenario("rig-sockets-removed", sockets_removed),
];

/// A service that is ready when somebody lets it.
const SLOW: &str = r#"
[service.slow]
exec  = ["sh", "-c", "until [ -e /srv/go ]; do sleep 0.1; done; touch /srv/ready; exec sleep infinity"]
ready = "path=/srv/ready"
"#;

/// Who follows an apply or what happens sees nothing of a re-exec: no error, and nothing is missing.
fn streams(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let mut events = rig.events()?;
    let path = rig.state_file("slow.toml", SLOW)?;
    let mut apply = rig.follow(&["apply", &path])?;
    // Nothing of it is known until init has swapped to it.
    rig.until_true("service:slow is starting", || {
        rig.status("service:slow").is_ok_and(|s| word(&s, "state") == "starting")
    })?;
    let mut wait = rig.follow(&["wait", "--ready", "service:slow", "--timeout", "60s"])?;
    for _ in 0..2 {
        let before = rig.init_said().matches("has taken over").count();
        rig.ok(&["reexec"])?;
        rig.until_true("init has taken over", || rig.init_said().matches("has taken over").count() > before)?;
    }
    std::fs::write(rig.inside("/srv/go")?, "")?;
    let applied = apply.end(LIMIT)?;
    want(applied.code() == Some(0), &format!("apply ended with {applied}"), &rig)?;
    let waited = wait.end(LIMIT)?;
    want(waited.code() == Some(0), &format!("wait ended with {waited}"), &rig)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let Some(line) = events.next(deadline)? else {
            return Err(format!("no event says that it is ready\n{}", rig.init_said()).into());
        };
        let line: Value = serde_json::from_str(&line)?;
        let event = line.get("event").cloned().unwrap_or_default();
        if word(&event, "unit") == "service:slow" && word(&event, "state") == "ready" {
            return Ok(());
        }
    }
}

/// What is known of units is the same before and after: what a service has said of itself, the process that a pid file
/// names, and why something failed, also where that takes many words.
fn status(context: &Context) -> Result {
    let missing = format!("/nowhere/{}", "at/all/".repeat(20));
    let daemon = "sleep infinity & sleep infinity & echo $! > /srv/pid; exit 0";
    let state = format!(
        "[service.good]\nexec = {}\nready = \"notify\"\n\
         [service.daemon]\nexec = [\"sh\", \"-c\", {daemon:?}]\nready = \"forked\"\npid-file = \"/srv/pid\"\n\
         [service.missing]\nexec = [{missing:?}]\n",
        command("notify")?
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until("service:good", "telling its status", |s| word(s, "detail") == "serving")?;
    rig.until("service:daemon", "following its pid file", |s| s.get("pid").is_some_and(Value::is_i64))?;
    rig.until("service:missing", "failed", |s| word(s, "cause").contains(&missing))?;
    let units = ["service:good", "service:daemon", "service:missing"];
    let all = || units.iter().map(|unit| rig.status(unit)).collect::<Result<Vec<Value>>>();
    let before = all()?;
    for signal in [None, Some(libc::SIGSEGV)] {
        let taken = rig.init_said().matches("has taken over").count();
        match signal {
            None => rig.ok(&["reexec"]).map(drop)?,
            Some(signal) => rig.signal(signal)?,
        }
        rig.until_true("init has taken over", || rig.init_said().matches("has taken over").count() > taken)?;
        let after = all()?;
        want(after == before, &format!("after {signal:?}: {after:?}\nbefore: {before:?}"), &rig)?;
    }
    Ok(())
}

/// The pid file of a daemon is read by a helper, which may take its time; when init dies meanwhile, the next one asks
/// again.
fn pid_file(context: &Context) -> Result {
    // Nobody gets to the end of a pipe that nobody writes to.
    let daemon = "mkfifo /srv/pid; sleep infinity & sleep infinity & echo $! > /srv/real; exit 0";
    let state = format!(
        "[service.daemon]\nexec = [\"sh\", \"-c\", {daemon:?}]\nready = \"forked\"\npid-file = \"/srv/pid\"\n"
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    let status = rig.until_state("service:daemon", "ready")?;
    want(status.get("pid").is_none_or(Value::is_null), &format!("its process is known: {status}"), &rig)?;
    let real = rig.inside("/srv/real")?;
    let written: i64 = std::fs::read_to_string(&real)?.trim().parse()?;
    std::fs::rename(&real, rig.inside("/srv/pid")?)?;
    rig.signal(libc::SIGSEGV)?;
    rig.until_said("has taken over")?;
    let found = |s: &Value| s.get("pid").and_then(Value::as_i64) == Some(written);
    rig.until("service:daemon", "following its pid file", found).map(drop)
}

/// What the set-up of a process has to say is heard by the next init, when the one that began it has died.
fn set_up(context: &Context) -> Result {
    let environment = [(init::event_loop::FAULT, "panic after Spawn")];
    let state = "[service.missing]\nexec = [\"/nowhere/at/all\"]\nstart = \"manual\"\n";
    let rig =
        Rig::start(context, &Setup { first: Some(state), environment: &environment, ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.signal(init::sys::signals::RTMIN + 20)?;
    // Its connection ends with the init that it asked.
    rig.initctl(&["start", "service:missing"])?;
    rig.until_said("has taken over")?;
    let status = rig.until_state("service:missing", "failed")?;
    let cause = word(&status, "cause");
    want(cause.contains("cannot execute \"/nowhere/at/all\""), &format!("the cause is {cause:?}"), &rig)
}

/// What init leaves of itself cannot be read by the next one, which is of another version: everything is started anew,
/// and nothing of before runs beside it.
fn unreadable(context: &Context) -> Result {
    let state = "[service.steady]\nexec = [\"sleep\", \"infinity\"]\n";
    let rig = Rig::start(context, &Setup { first: Some(state), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let before = rig.main_pid("service:steady")?;
    let mut damaged = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", rig.pid()?))?.flatten() {
        if std::fs::read_link(entry.path())?.to_string_lossy().contains("memfd:holdfast-live") {
            let live = std::fs::File::options().write(true).open(entry.path())?;
            std::os::unix::fs::FileExt::write_all_at(&live, &u32::MAX.to_le_bytes(), 8)?;
            damaged += 1;
        }
    }
    want(damaged > 0, "init has no live table", &rig)?;
    rig.signal(libc::SIGSEGV)?;
    rig.until_said("starting anew")?;
    rig.until("service:steady", "another process", |s| {
        word(s, "state") == "ready" && s.get("pid").and_then(Value::as_i64) != Some(i64::from(before))
    })?;
    let kill = rig.run(&["kill", "-0", &before.to_string()])?;
    want(kill.code != 0, "the process of before still runs", &rig)
}

/// Who begins a call and does not end it is dropped; who only waits is not.
fn half_call(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let mut quiet = UnixStream::connect(rig.socket())?;
    let mut half = UnixStream::connect(rig.socket())?;
    half.write_all(b"{\"method\":\"io.hold")?;
    let begun = Instant::now();
    half.set_read_timeout(Some(LIMIT))?;
    let read = half.read(&mut [0])?;
    let took = begun.elapsed();
    want(read == 0, "it was answered", &rig)?;
    let fits = (Duration::from_secs(9)..Duration::from_secs(30)).contains(&took);
    want(fits, &format!("it was dropped after {took:?}"), &rig)?;
    rig.until_said("did not end a call within 10 s")?;
    quiet.write_all(b"{\"method\":\"io.holdfast.Info\"}\0")?;
    quiet.set_read_timeout(Some(LIMIT))?;
    want(quiet.read(&mut [0])? == 1, "who was quiet is not answered", &rig)
}

/// Somebody has cleaned the run-time directory: SIGUSR1 binds the sockets again, and so does an init that takes over. Who
/// was connected stays so. An end in order leaves none behind.
fn sockets_removed(context: &Context) -> Result {
    let clock = "[service.clock]\nexec = [\"sh\", \"-c\", \"echo tick; exec sleep 1000\"]\n";
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(clock)?;
    let run = rig.directory().join("run");
    let sockets = ["control", "control.store", "control.logs"].map(|name| run.join(name));
    for (signal, stale) in [(libc::SIGUSR1, false), (libc::SIGUSR1, true), (libc::SIGSEGV, false)] {
        let mut events = rig.events()?;
        for socket in &sockets {
            std::fs::remove_file(socket)?;
            if stale {
                // Of somebody who has taken the place and is gone.
                drop(UnixListener::bind(socket)?);
            }
        }
        rig.signal(signal)?;
        for socket in &sockets {
            rig.until_host(socket, "served", |path| UnixStream::connect(path).is_ok())?;
        }
        rig.ok(&["restart", "service:clock"])?;
        rig.ok(&["generations"])?;
        let line = rig.follow(&["logs", "-f", "clock"])?.next(Instant::now() + LIMIT)?.unwrap_or_default();
        want(line.contains("tick"), &format!("the log daemon answers {line:?}"), &rig)?;
        // What came over a fault is not trusted, clients neither.
        if signal == libc::SIGUSR1 {
            let event = events.next(Instant::now() + LIMIT)?;
            want(event.is_some(), "who listened hears no more", &rig)?;
        }
    }
    rig.signal(libc::SIGTERM)?;
    rig.left()?;
    let left: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
    want(left.is_empty(), &format!("{left:?} were left behind"), &rig)
}
