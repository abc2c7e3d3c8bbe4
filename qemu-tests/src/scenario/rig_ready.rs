//! Readiness in the fast rig: each way to say it, and what comes of a service that never does.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::{Rig, Setup, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-ready-started", started),
    scenario("rig-ready-notify", notify),
    scenario("rig-ready-notify-gone", notify_gone),
    scenario("rig-ready-notify-from-child", notify_from_child),
    scenario("rig-notify-trust", notify_trust),
    scenario("rig-ready-fd", fd),
    scenario("rig-ready-forked", forked),
    scenario("rig-ready-forked-strange-parent", strange_parent),
    scenario("rig-ready-forked-subreaper", subreaper),
    scenario("rig-ready-exited", exited),
    scenario("rig-ready-path", path),
    scenario("rig-ready-path-of-an-earlier-run", old_path),
    scenario("rig-notify-reload", reload),
    scenario("rig-notify-extend-timeout", extend_timeout),
    scenario("rig-notify-watchdog", watchdog),
    scenario("rig-notify-trigger", trigger),
];

/// Starts a state in which `good` becomes ready and `behind` requires it, and `never` stays silent.
fn protocol(context: &Context, ready: &str, good: &str, never: &str) -> Result<Rig> {
    let state = format!(
        r#"
[service.good]
exec  = {good}
ready = "{ready}"

[service.behind]
exec     = ["sleep", "infinity"]
requires = ["service:good"]

[service.never]
exec          = {never}
ready         = "{ready}"
start-timeout = "300ms"
restart-delay = "100s"
restart-max   = "100s"

[service.behind-never]
exec     = ["sleep", "infinity"]
requires = ["service:never"]
"#
    );
    Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })
}

/// Who never says it is given up after its time, tried again, and then left for longer; nobody starts behind it.
fn never_ready(rig: &Rig, why: &str) -> Result {
    let status = rig.until("service:never", "in backoff", |s| word(s, "state") == "backoff")?;
    let text = status.to_string();
    want(text.contains(why), &format!("it does not say {why:?}: {status}"), rig)?;
    let restarts = status.get("restarts").and_then(Value::as_i64);
    want(restarts.is_some_and(|n| n >= 1), &format!("the first restart was not at once: {status}"), rig)?;
    let status = rig.until_state("service:behind-never", "waiting")?;
    want(word(&status, "cause").contains("service:never"), &format!("no cause in {status}"), rig)?;
    want(status.get("pid").is_none_or(Value::is_null), &format!("it was started: {status}"), rig)
}

const SILENT: &str = r#"["sleep", "infinity"]"#;

/// `started`: as soon as its program runs; a program that cannot run is never ready.
fn started(context: &Context) -> Result {
    let rig = protocol(context, "started", SILENT, r#"["/nowhere/at/all"]"#)?;
    rig.until_state("service:behind", "ready")?;
    let status = rig.until_state("service:never", "failed")?;
    want(word(&status, "cause").contains("/nowhere/at/all"), &format!("no cause in {status}"), &rig)?;
    rig.until_state("service:behind-never", "waiting")?;
    Ok(())
}

/// `notify`: READY=1, with its status shown.
fn notify(context: &Context) -> Result {
    let rig = protocol(context, "notify", &command("notify")?, SILENT)?;
    rig.until_state("service:behind", "ready")?;
    rig.until("service:good", "telling its status", |s| word(s, "detail") == "serving")?;
    never_ready(&rig, "not ready in time")
}

/// What a service has said of itself goes with it: whoever gets its number in init next has said nothing.
fn notify_gone(context: &Context) -> Result {
    let state = format!("[service.good]\nexec = {}\nready = \"notify\"\n", command("notify")?);
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until("service:good", "telling its status", |s| word(s, "detail") == "serving")?;
    rig.apply("[target.rest]\n")?;
    rig.apply("[target.rest]\n[target.next]\n[target.last]\n")?;
    for unit in ["target:rest", "target:next", "target:last"] {
        let status = rig.status(unit)?;
        want(word(&status, "detail").is_empty(), &format!("it has not said that: {status}"), &rig)?;
    }
    Ok(())
}

/// A child of the main process may say it, even one that is gone by the time it is heard; a stranger may not.
fn notify_from_child(context: &Context) -> Result {
    let rig = protocol(context, "notify", &command("notify-child")?, SILENT)?;
    rig.until_state("service:behind", "ready")?;
    // Somebody else speaks to the socket of the one that is silent.
    tell(&rig, "never", "nobody")?;
    rig.until_said("ignored a notification from process")?;
    never_ready(&rig, "not ready in time")?;
    want(word(&rig.status("service:never")?, "state") != "ready", "a stranger made it ready", &rig)
}

/// Says READY=1 to a service as somebody who is none of it; whether that could be sent.
fn tell(rig: &Rig, service: &str, user: &str) -> Result<bool> {
    let find = format!("grep -o '/[^ ]*service:{service}$' /proc/net/unix | head -n 1");
    let socket = rig.run(&["sh", "-c", &find])?.out.trim().to_owned();
    want(!socket.is_empty(), &format!("service:{service} has no notify socket"), rig)?;
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let socket = format!("NOTIFY_SOCKET={socket}");
    let stranger = ["setpriv", "--reuid", user, "--clear-groups", "env", &socket];
    let words = [&stranger[..], &[program.as_str(), "--service", "notify-once"]].concat();
    let told = rig.run(&words)?;
    println!("as {user}: {told:?}");
    Ok(told.code == 0)
}

/// Of what comes to a notify socket only root's and the service's own user's, or its processes', is believed; and a
/// process that is none of its own cannot become its main one. Where the user is declared others cannot even reach it;
/// where they can, they fill no log.
fn notify_trust(context: &Context) -> Result {
    let state = format!(
        "[service.own]\nexec = {SILENT}\nready = \"notify\"\nuser = \"daemon\"\n\
         [service.plain]\nexec = {SILENT}\nready = \"notify\"\n\
         [service.other]\nexec = [\"sh\", \"-c\", \"echo $$ > /srv/pid; exec sleep infinity\"]\n\
         ready = \"path=/srv/pid\"\n\
         [service.liar]\nexec = {}\nready = \"notify\"\nrequires = [\"service:other\"]\n",
        command("notify-foreign")?,
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until_state("service:own", "starting")?;
    want(!tell(&rig, "own", "nobody")?, "a stranger reaches it", &rig)?;
    want(word(&rig.status("service:own")?, "state") == "starting", "a stranger made it ready", &rig)?;
    want(tell(&rig, "own", "daemon")?, "its own user does not reach it", &rig)?;

    rig.until_state("service:plain", "starting")?;
    for _ in 0..70 {
        want(tell(&rig, "plain", "nobody")?, "it is not everybody's", &rig)?;
    }
    rig.until_said("no more is heard of that user")?;
    want(word(&rig.status("service:plain")?, "state") == "starting", "a stranger made it ready", &rig)?;
    let lines = rig.init_said().matches("ignored a notification").count();
    want(lines == 2, &format!("it is told {lines} times"), &rig)?;
    want(tell(&rig, "plain", "root")?, "root does not reach it", &rig)?;
    rig.until_state("service:plain", "ready")?;

    rig.until_state("service:own", "ready")?;

    rig.until_state("service:liar", "ready")?;
    let foreign = rig.main_pid("service:other")?;
    rig.until_said(&format!("process {foreign} is none of its own"))?;
    want(rig.main_pid("service:liar")? != foreign, "it took another one's process for its own", &rig)
}

/// `fd=N`: a line on a descriptor; closing it says nothing.
fn fd(context: &Context) -> Result {
    let good = r#"["sh", "-c", "echo >&5; exec 5>&-; exec sleep infinity"]"#;
    let never = r#"["sh", "-c", "exec 5>&-; exec sleep infinity"]"#;
    let rig = protocol(context, "fd=5", good, never)?;
    rig.until_state("service:behind", "ready")?;
    never_ready(&rig, "not ready in time")
}

/// `forked`: the parent ends with 0 and leaves a daemon; with another code, or with nobody left, it is not ready.
fn forked(context: &Context) -> Result {
    let good = r#"["sh", "-c", "sleep infinity & sleep infinity & echo $! > /srv/pid; exit 0"]"#;
    let rig = protocol(context, "forked\"\npid-file = \"/srv/pid", good, r#"["sh", "-c", "exit 0"]"#)?;
    rig.until_state("service:behind", "ready")?;
    // The process that the file names, not the one that was started, nor the other child.
    let written: i64 = std::fs::read_to_string(rig.inside("/srv/pid")?)?.trim().parse()?;
    rig.until("service:good", "following its pid file", |s| {
        s.get("pid").and_then(Value::as_i64) == Some(written)
    })?;
    rig.until("service:never", "in backoff", |s| word(s, "state") == "backoff")?;
    // The daemon is no child of init's own making, and is missed all the same.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(host_pid(&rig, written)?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    rig.until("service:good", "running again", |s| {
        word(s, "state") == "ready" && s.get("pid").and_then(Value::as_i64).is_some_and(|p| p != written)
    })?;
    Ok(())
}

/// A daemon that is the child of another process of the service: how it ends only that one is told, and a crash must
/// not pass for an orderly end.
fn strange_parent(context: &Context) -> Result {
    let state = r#"
[service.daemon]
exec     = ["sh", "-c", "rm -f /srv/pid; sh -c 'sleep infinity & echo $! > /srv/.pid; mv /srv/.pid /srv/pid; wait; exec sleep infinity' & while [ ! -e /srv/pid ]; do sleep 0.05; done; exit 0"]
ready    = "forked"
pid-file = "/srv/pid"
restart  = "on-failure"
"#;
    let rig = Rig::start(context, &Setup { first: Some(state), ..Setup::default() })?;
    let pid = |s: &Value| s.get("pid").and_then(Value::as_i64);
    let written = |s: &Value| {
        let file = rig.inside("/srv/pid").and_then(|p| Ok(std::fs::read_to_string(p)?));
        word(s, "state") == "ready" && file.is_ok_and(|f| pid(s).is_some_and(|p| f.trim() == p.to_string()))
    };
    let first = pid(&rig.until("service:daemon", "following its pid file", written)?).unwrap_or_default();
    let killed = nix::unistd::Pid::from_raw(host_pid(&rig, first)?);
    nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL)?;
    rig.until("service:daemon", "running again", |s| written(s) && pid(s) != Some(first))?;
    Ok(())
}

/// Without a pid file the daemon is the one that init was given, also where init is not the first process.
fn subreaper(context: &Context) -> Result {
    let state =
        "[service.daemon]\nexec = [\"sh\", \"-c\", \"sleep infinity & exit 0\"]\nready = \"forked\"\n";
    for second in [false, true] {
        let rig = Rig::start(context, &Setup { state: Some(state), second, ..Setup::default() })?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        rig.until("service:daemon", "ready with a process", |s| {
            word(s, "state") == "ready" && s.get("pid").and_then(Value::as_i64).is_some_and(|p| p > 1)
        })?;
    }
    Ok(())
}

/// A process of the instance in the host's numbers.
fn host_pid(rig: &Rig, inside: i64) -> Result<i32> {
    let init = std::fs::read_link(format!("/proc/{}/ns/pid", rig.pid()?))?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if std::fs::read_link(entry.path().join("ns/pid")).is_ok_and(|n| n == init) {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
            if numbers.split_whitespace().next_back().and_then(|n| n.parse().ok()) == Some(inside) {
                return Ok(pid);
            }
        }
    }
    Err(format!("there is no process {inside}").into())
}

/// `exited`: done once it has ended with 0; one that fails or hangs is not.
fn exited(context: &Context) -> Result {
    let rig = protocol(context, "exited", r#"["true"]"#, SILENT)?;
    rig.until_state("service:good", "done")?;
    rig.until_state("service:behind", "ready")?;
    never_ready(&rig, "not ready in time")
}

/// `path=`: a path is there; also one whose directory comes later.
fn path(context: &Context) -> Result {
    let good = r#"["sh", "-c", "mkdir -p /srv/later/on; echo > /srv/later/on/there; exec sleep infinity"]"#;
    let state = format!(
        "[service.good]\nexec = {good}\nready = \"path=/srv/later/on/there\"\n\
         [service.behind]\nexec = {SILENT}\nrequires = [\"service:good\"]\n\
         [service.never]\nexec = {SILENT}\nready = \"path=/srv/never\"\nstart-timeout = \"300ms\"\n\
         restart-delay = \"100s\"\nrestart-max = \"100s\"\n\
         [service.behind-never]\nexec = {SILENT}\nrequires = [\"service:never\"]\n"
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until_state("service:behind", "ready")?;
    never_ready(&rig, "not ready in time")
}

/// A file that an earlier run left says nothing: not at the first start, not after a crash, and not where init was
/// replaced since the file was waited for.
fn old_path(context: &Context) -> Result {
    // It is ready when the test says so.
    let exec = r#"["sh", "-c", "until [ -e /srv/go ]; do sleep 0.02; done; rm /srv/go; echo $$ > /srv/pid; exec sleep infinity"]"#;
    let state = format!(
        "[service.slow]\nexec = {exec}\nready = \"path=/srv/pid\"\nstart = \"manual\"\nstart-timeout = \"60s\"\n"
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    let (file, go) = (rig.inside("/srv/pid")?, rig.inside("/srv/go")?);
    std::fs::write(&file, "1\n")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.initctl(&["start", "service:slow", "--timeout", "300ms"])?;
    let waits = |rig: &Rig, when: &str| -> Result {
        let status = rig.until("service:slow", "starting", |s| {
            word(s, "state") == "starting" && s.get("pid").is_some_and(Value::is_number)
        })?;
        want(file.exists(), "there is no old file", rig)?;
        let stays = rig.initctl(&["wait", "--ready", "service:slow", "--timeout", "700ms"])?;
        want(stays.code == 124, &format!("{when}: ready by an old file: {stays:?}; before: {status}"), rig)
    };
    waits(&rig, "first start")?;
    std::fs::write(&go, "")?;
    rig.until_state("service:slow", "ready")?;
    let pid = rig.main_pid("service:slow")?;
    let said = rig.run(&["kill", "-9", &pid.to_string()])?;
    want(said.code == 0, &said.err, &rig)?;
    rig.until("service:slow", "started again", |s| {
        word(s, "state") == "starting" && s.get("pid").and_then(Value::as_i64) != Some(i64::from(pid))
    })?;
    waits(&rig, "after a crash")?;
    rig.ok(&["reexec"])?;
    waits(&rig, "after a re-exec")?;
    std::fs::write(&go, "")?;
    rig.until_state("service:slow", "ready")?;
    rig.ok(&["reexec"])?;
    let pid = rig.main_pid("service:slow")?;
    rig.run(&["kill", "-9", &pid.to_string()])?;
    rig.until("service:slow", "started again", |s| {
        word(s, "state") == "starting" && s.get("pid").and_then(Value::as_i64) != Some(i64::from(pid))
    })?;
    waits(&rig, "after a re-exec and a crash")?;
    std::fs::write(&go, "")?;
    rig.until_state("service:slow", "ready").map(drop)
}

/// A reload by signal counts as confirmed only by one that began after the signal; and who says that it stops is shown as
/// stopping, while who is bound to it runs on.
fn reload(context: &Context) -> Result {
    let bound = "[service.bound]\nexec = [\"sleep\", \"infinity\"]\nbinds = [\"service:own\"]\n";
    let state = format!(
        "[service.own]\nexec = {}\nready = \"notify\"\nreload = \"HUP\"\n{bound}",
        command("reload")?
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until_state("service:own", "ready")?;
    rig.until_state("service:bound", "ready")?;
    let user = rig.main_pid("service:bound")?;
    let pid = rig.main_pid("service:own")?.to_string();
    let tell = |signal: &str| {
        let told = rig.run(&["kill", signal, &pid])?;
        want(told.code == 0, &told.err, &rig)
    };
    for (what, detail) in [("confirmed as of before it", "reload: assumed"), ("confirmed", "")] {
        rig.ok(&["reload", "service:own"])?;
        rig.until("service:own", "heard", |s| word(s, "detail") == "reloaded")?;
        tell("-USR1")?;
        rig.until("service:own", what, |s| word(s, "state") == "ready" && word(s, "detail") == detail)?;
    }
    tell("-USR2")?;
    for _ in 0..2 {
        let words = "says that it stops: saving";
        let status = rig
            .until("service:own", words, |s| word(s, "state") == "stopping" && word(s, "detail") == words)?;
        want(
            status.get("ready") == Some(&Value::Bool(false)),
            &format!("it counts as ready: {status}"),
            &rig,
        )?;
        want(
            rig.initctl(&["status", "service:own"])?.code == 3,
            "status exits as for one that is ready",
            &rig,
        )?;
        rig.ok(&["reexec"])?;
    }
    want(rig.main_pid("service:bound")? == user, "who is bound to it was restarted", &rig)
}

/// EXTEND_TIMEOUT_USEC= gives a slow start more time than was declared, as long as it goes on asking.
fn extend_timeout(context: &Context) -> Result {
    let state = format!(
        "[service.slow]\nexec = {}\nready = \"notify\"\nstart-timeout = \"400ms\"\nrestart = \"never\"\n\
         [service.liar]\nexec = {}\nready = \"notify\"\nstart-timeout = \"400ms\"\nrestart = \"never\"\n",
        command("slow")?,
        command("slow-and-silent")?,
    );
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    let begun = Instant::now();
    rig.until_state("service:slow", "ready")?;
    want(begun.elapsed() > Duration::from_millis(400), "it was not slow", &rig)?;
    let status = rig.until_state("service:liar", "failed")?;
    want(status.to_string().contains("not ready in time"), &format!("no cause in {status}"), &rig)?;
    want(rig.status("service:slow")?.get("restarts").and_then(Value::as_i64) == Some(0), "restarted", &rig)
}

/// WATCHDOG_USEC= sets an interval that was not declared; who misses it is ended and runs again.
fn watchdog(context: &Context) -> Result {
    let state = format!("[service.dog]\nexec = {}\nready = \"notify\"\n", command("watchdog")?);
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until_state("service:dog", "ready")?;
    rig.until_said("service:dog gave no sign of life in time")?;
    rig.until("service:dog", "running again", |s| {
        s.get("restarts").and_then(Value::as_i64).is_some_and(|n| n >= 1)
    })?;
    Ok(())
}

/// WATCHDOG=trigger ends a service that takes no notice of SIGABRT.
fn trigger(context: &Context) -> Result {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let exec = format!("[\"sh\", \"-c\", \"trap '' ABRT; exec {program} --service broken\"]");
    let state = format!("[service.broken]\nexec = {exec}\nready = \"notify\"\nstop-timeout = \"300ms\"\n");
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.until_said("service:broken says that it is broken")?;
    rig.until("service:broken", "started again", |s| {
        s.get("restarts").and_then(Value::as_i64).is_some_and(|n| n >= 1)
    })?;
    Ok(())
}
