//! PID 1 in the fast rig: services, and PID 1 itself.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::sleeper::SLEEPER;
use crate::rig::{Rig, Setup, want, word};

const LIMIT: Duration = Duration::from_secs(300);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-boot", boot),
    scenario("rig-restart", restart),
    scenario("rig-stop-and-kill", stop_and_kill),
    scenario("rig-orphans", orphans),
    scenario("rig-reexec", reexec),
    scenario("rig-panic", panic),
    scenario("rig-cannot-start", cannot_start),
    scenario("rig-missing-user", missing_user),
    scenario("rig-fork-bomb", fork_bomb),
    scenario("rig-log-flood", log_flood),
    scenario("rig-log-daemon-killed", log_daemon_killed),
    scenario("rig-log-of-declared-again", declared_again),
    scenario("rig-user-namespace", user_namespace),
    scenario("rig-state-exit-code", state_exit_code),
    scenario("rig-state-sigterm", state_sigterm),
    scenario("rig-state-bad", state_bad),
    scenario("rig-fault", fault),
    scenario("rig-panics-again-and-again", panics),
    scenario("rig-at-rest", at_rest),
];

fn first(context: &Context, state: &str) -> Result<Rig> {
    Rig::start(context, &Setup { first: Some(state), ..Setup::default() })
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

/// Asked to stop, given its time, then killed with everything it has started.
fn stop_and_kill(context: &Context) -> Result {
    let state = r#"
[service.polite]
exec  = ["sh", "-c", "trap 'echo bye > /srv/bye; exit 0' TERM; echo >&3; while :; do sleep 0.1; done"]
ready = "fd=3"

[service.stubborn]
exec         = ["sh", "-c", "trap '' TERM; sleep infinity & sleep infinity & echo >&3; wait; wait"]
ready        = "fd=3"
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

/// Twenty thousand orphans are buried, and init is as small as before.
fn orphans(context: &Context) -> Result {
    let count = if context.full { 50_000 } else { 20_000 };
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
    want(after < before + (64 << 10), &format!("init has grown from {before} to {after} bytes"), &rig)
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
        rig.ok(&["wait", "--ready", "service:notify", "--timeout", "60s"])?;
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
    rig.ok(&["wait", "--ready", "service:notify", "--timeout", "60s"])?;
    want(steady(&rig)? == before, "a service has another process after a panic", &rig)?;
    rig.ok(&["restart", "service:sleeper"])?;
    Ok(())
}

/// What cannot be started says why and is not tried again where that cannot help; the rest goes on.
fn cannot_start(context: &Context) -> Result {
    let state = format!(
        r#"{SLEEPER}
[service.no-program]
exec = ["/nowhere/at/all"]

[service.no-directory]
exec      = ["sleep", "infinity"]
directory = "/nowhere"

[service.no-script]
exec = ["/srv/no-script"]

[service.behind]
exec     = ["sleep", "infinity"]
requires = ["service:no-program"]
"#
    );
    let rig = first(context, &state)?;
    rig.until_state("service:sleeper", "ready")?;
    for (unit, cause) in
        [("no-program", "/nowhere/at/all"), ("no-directory", "/nowhere"), ("no-script", "/srv")]
    {
        let status = rig.until_state(&format!("service:{unit}"), "failed")?;
        want(word(&status, "cause").contains(cause), &format!("no cause in {status}"), &rig)?;
    }
    let status = rig.until_state("service:behind", "waiting")?;
    want(word(&status, "cause").contains("service:no-program"), &format!("no cause in {status}"), &rig)?;
    let waited = rig.initctl(&["wait", "--converged", "--timeout", "20s"])?;
    want(waited.code == 1, &format!("wait ended with {}", waited.code), &rig)
}

/// A service without its user fails once, and starts by itself when an apply declares that user.
fn missing_user(context: &Context) -> Result {
    let service = "[service.web]\nexec = [\"sleep\", \"infinity\"]\nuser = \"rig-web\"\n";
    let state = format!("{SLEEPER}{service}");
    let rig = Rig::start(context, &Setup { first: Some(&state), etc: true, ..Setup::default() })?;
    let status = rig.until_state("service:web", "failed")?;
    want(word(&status, "cause").contains("rig-web"), &format!("no cause in {status}"), &rig)?;
    rig.until_state("service:sleeper", "ready")?;
    let path = rig.state_file("next.toml", &format!("{state}[user.rig-web]\nuid = 4321\n"))?;
    rig.ok(&["apply", &path])?;
    rig.until_state("service:web", "ready")?;
    let pid = rig.main_pid("service:web")?;
    let owner = rig.run(&["stat", "-c", "%u", &format!("/proc/{pid}")])?;
    want(owner.out.trim() == "4321", &format!("it runs as {}", owner.out), &rig)
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
    want(after < before + (64 << 10), "init has grown", &rig)
}

/// The log daemon is killed again and again while a service writes: no line is lost, though the program of init is no more
/// where it was.
fn log_daemon_killed(context: &Context) -> Result {
    let count = command("count")?;
    let state = format!("[service.count]\nexec = {count}\nready = \"notify\"\nlog-size = \"64M\"\n");
    let rig = first(context, &state)?;
    let program = context.programs()?.join("init").to_string_lossy().into_owned();
    let covered = rig.run(&["mount", "--bind", "/dev/null", &program])?;
    want(covered.code == 0, &format!("cannot cover {program}: {covered:?}"), &rig)?;
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

/// What is declared again before its last lines are written has a log like before.
fn declared_again(context: &Context) -> Result {
    let says = |text: &str| {
        format!("[service.says]\nexec = [\"sh\", \"-c\", \"echo {text}; exec sleep infinity\"]\n")
    };
    let rig = first(context, "")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.apply(&says("first"))?;
    let file = rig.directory().join("logs/service:says/current");
    let has = |text: &'static str| {
        move |f: &std::path::Path| std::fs::read_to_string(f).is_ok_and(|t| t.contains(text))
    };
    rig.until_host(&file, "there", has("first"))?;
    rig.run(&["pkill", "-STOP", "-f", "^holdfast-log"])?;
    rig.apply("")?;
    rig.apply(&says("second"))?;
    rig.run(&["pkill", "-CONT", "-f", "^holdfast-log"])?;
    rig.until_host(&file, "written again", has("second"))
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

/// `init --state FILE` leaves with the code of the service `main`.
fn state_exit_code(context: &Context) -> Result {
    for (exec, code) in [("exit 7", 7), ("exit 0", 0), ("kill -KILL $$", 137)] {
        let state = format!(
            "{SLEEPER}\n[service.main]\nexec = [\"sh\", \"-c\", {exec:?}]\nrestart = \"never\"\n\
             requires = [\"service:sleeper\"]\n"
        );
        let mut rig = Rig::start(context, &Setup { state: Some(&state), leaves: true, ..Setup::default() })?;
        let status = rig.left()?;
        want(status.code() == Some(code), &format!("{exec:?}: init left with {status}"), &rig)?;
    }
    Ok(())
}

/// SIGTERM stops a whole state in order: who requires goes before who is required.
fn state_sigterm(context: &Context) -> Result {
    let stopped = |name: &str| {
        format!("trap 'echo {name} >> /srv/order; exit 0' TERM; echo >&3; while :; do sleep 0.05; done")
    };
    let state = format!(
        "[service.database]\nready = \"fd=3\"\nexec = [\"sh\", \"-c\", {:?}]\n\
         [service.main]\nready = \"fd=3\"\nexec = [\"sh\", \"-c\", {:?}]\nrequires = [\"service:database\"]\nlog = \"console\"\n",
        stopped("database"),
        stopped("main").replace("exit 0", "cat /srv/order; exit 3"),
    );
    let mut rig = Rig::start(context, &Setup { state: Some(&state), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.until_state("service:main", "ready")?;
    let order = std::fs::File::create(rig.inside("/srv/order")?)?;
    rig.signal(libc::SIGTERM)?;
    let status = rig.left()?;
    want(status.code() == Some(3), &format!("init left with {status}"), &rig)?;
    // The descriptor keeps the file of the instance's own file system.
    let mut text = String::new();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&order));
    std::fs::File::open(path)?.read_to_string(&mut text)?;
    want(text == "main\ndatabase\n", &format!("the order was {text:?}"), &rig)
}

/// A state file with mistakes: all of them are told, and the code is that of bad usage.
fn state_bad(context: &Context) -> Result {
    let state = "[service.main]\nexce = [\"true\"]\n";
    let mut rig = Rig::start(context, &Setup { state: Some(state), leaves: true, ..Setup::default() })?;
    let status = rig.left()?;
    want(status.code() == Some(2), &format!("init left with {status}"), &rig)?;
    want(rig.init_said().contains("exec"), "the mistake is not named", &rig)
}

/// A fatal signal in init ends in a re-exec: no service notices.
fn fault(context: &Context) -> Result {
    let rig = first(context, &busy_state()?)?;
    let before = steady(&rig)?;
    for n in 1..=3 {
        rig.signal(libc::SIGSEGV)?;
        // It takes over within the same process; the socket stays, so a call simply waits.
        rig.ok(&["wait", "--ready", "service:notify", "--timeout", "60s"])?;
        want(steady(&rig)? == before, &format!("a service has another process after fault {n}"), &rig)?;
    }
    rig.until_said("has taken over")?;
    rig.ok(&["restart", "service:sleeper"])?;
    Ok(())
}

/// An init that panics five times in a minute only reaps and answers, and still goes down when asked.
fn panics(context: &Context) -> Result {
    let state = format!("{SLEEPER}{BUSY}");
    let setup = Setup { first: Some(&state), environment: &[("HOLDFAST_TEST", "1")], ..Setup::default() };
    let mut rig = Rig::start(context, &setup)?;
    let before = rig.main_pid("service:sleeper")?;
    for n in 1..=5 {
        rig.signal(init::sys::signals::RTMIN + 20)?;
        let log = rig.directory().join("init.log");
        rig.until_host(&log, &format!("telling of takeover {n}"), |f| {
            std::fs::read_to_string(f).is_ok_and(|t| t.matches("has taken over").count() >= n)
        })?;
    }
    rig.ok(&["status"])?;
    want(rig.main_pid("service:sleeper")? == before, "a service has another process", &rig)?;
    let orphan = rig.run(&["sh", "-c", "(sleep 0.1 &)"])?;
    want(orphan.code == 0, "no process can be made", &rig)?;
    rig.ok(&["poweroff"])?;
    rig.left()?;
    Ok(())
}

/// Context switches of a process so far, wanted and unwanted.
fn switches(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = status.lines().filter(|l| l.contains("ctxt_switches"));
    lines.filter_map(|l| l.rsplit_once(':')?.1.trim().parse::<u64>().ok()).sum()
}

/// At rest, with many managed files, every process of Holdfast is asleep: not one context switch, and no system call
/// on a managed path.
fn at_rest(context: &Context) -> Result {
    let (count, seconds) = (10_000, 30);
    let rig = first(context, SLEEPER)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let empty = rig.memory()?;
    let file = |n: u64| format!("[file.\"/srv/many/{}/{n}\"]\ncontent = \"file {n}\\n\"\n", n % 100);
    let talk = "exec = [\"sh\", \"-c\", \"echo up; exec sleep infinity\"]";
    let service = |n: u64| format!("[service.sleeper-{n}]\n{talk}\n");
    let state: String = (0..20).map(service).chain((0..count).map(file)).collect();
    rig.apply(&state)?;
    let memory = rig.memory()?;
    println!(
        "memory of init: {memory} bytes, {} for each of {count} files",
        memory.saturating_sub(empty) / count
    );
    let mut events = rig.events()?;
    let init = rig.pid()?;
    // The worker stays for a second after its last work; then only init and the log daemon are left, and give back what that
    // took as the last thing that a timer wakes init for.
    let of_holdfast = || -> Result<Vec<String>> {
        let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
        let ours = |pid: &&str| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["init", "holdfast-log", "cm-worker"].contains(&name.trim())
        };
        let mut all: Vec<String> = children.split_whitespace().filter(ours).map(str::to_owned).collect();
        all.push(init.to_string());
        Ok(all)
    };
    let quiet = |events: &mut crate::rig::Lines, seconds: u64| -> Result {
        let deadline = std::time::Instant::now() + Duration::from_secs(seconds);
        while events.next(deadline)?.is_some() {}
        Ok(())
    };
    let mut all = of_holdfast()?;
    for _ in 0..30 {
        if all.len() == 2 && !crate::measure::has_deadline(init)? {
            break;
        }
        quiet(&mut events, 1)?;
        all = of_holdfast()?;
    }
    let resting = rig.memory()?;
    println!("memory of init at rest: {resting} bytes");
    want(resting < 2 << 20, "init keeps at rest what the apply took", &rig)?;
    want(all.len() == 2, &format!("{} processes of Holdfast are there", all.len()), &rig)?;
    let before: Vec<u64> = all.iter().map(|p| switches(p)).collect();
    quiet(&mut events, seconds)?;
    let after: Vec<u64> = all.iter().map(|p| switches(p)).collect();
    println!("context switches in {seconds} s: before {before:?}, after {after:?}");
    want(before == after, "something of Holdfast was awake", &rig)?;
    initramfs::tool::ensure(&[initramfs::tool::Tool { program: "strace", package: "strace" }])?;
    let trace = rig.directory().join("trace");
    let mut strace = std::process::Command::new("timeout");
    strace.args(["--signal=INT", "5s", "strace", "-f", "-o"]).arg(&trace);
    for pid in &all {
        strace.args(["-p", pid]);
    }
    let said = crate::rig::run(strace)?;
    // An empty trace of who was never attached to has no system call in it either.
    let looked = |pid: &String| said.err.contains(&format!("Process {pid} attached"));
    want(all.iter().all(looked), &format!("strace has not followed all of {all:?}: {}", said.err), &rig)?;
    let calls = std::fs::read_to_string(&trace)?;
    // What a process was waiting in when it was looked at first is shown once.
    let more: Vec<&str> = calls.lines().filter(|l| !l.contains("epoll_wait") && !l.contains("+++")).collect();
    println!("system calls in 5 s:\n{calls}");
    want(more.is_empty(), &format!("system calls at rest: {more:?}"), &rig)
}
