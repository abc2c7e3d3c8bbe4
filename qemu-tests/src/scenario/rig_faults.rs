//! Faults from outside in the fast rig: processes that are stopped, descriptors that are used up, floods, and somebody
//! who damages whatever there is. The rest of the machine goes on meanwhile, and everything is right afterwards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::sleeper::{SLEEPER, goes_on};
use crate::rig::{Rig, Setup, holds, tree, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(4), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-stopped-service", stopped_service),
    scenario("rig-stopped-log-daemon", stopped_log_daemon),
    scenario("rig-stopped-worker", stopped_worker),
    scenario("rig-notify-flood", notify_flood),
    scenario("rig-descriptors-used-up", descriptors),
    scenario("rig-vandal", vandal),
];

fn first(context: &Context, state: &str) -> Result<Rig> {
    let rig = Rig::start(context, &Setup { first: Some(state), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    Ok(rig)
}

/// A service that somebody has stopped (SIGSTOP, Ctrl-Z) still hears that it has to end.
fn stopped_service(context: &Context) -> Result {
    let state = format!(
        r#"{SLEEPER}
[service.frozen]
exec         = ["sh", "-c", "trap 'echo bye > /srv/bye; exit 0' TERM; echo >&3; while :; do sleep 0.05; done"]
ready        = "fd=3"
stop-timeout = "50s"
"#
    );
    let rig = first(context, &state)?;
    rig.ok(&["kill", "service:frozen", "--signal", "STOP"])?;
    goes_on(&rig)?;
    rig.ok(&["stop", "service:frozen"])?;
    rig.until_state("service:frozen", "down")?;
    want(rig.inside("/srv/bye")?.exists(), "it was killed instead of asked", &rig)
}

/// While the log daemon is stopped, services start, stop and write until their pipes are full; afterwards every line is
/// there, in its order.
fn stopped_log_daemon(context: &Context) -> Result {
    let count = command("count")?;
    let state = format!(
        "{SLEEPER}[service.says]\nexec = [\"sh\", \"-c\", \"echo something; exec sleep infinity\"]\n\
         [service.count]\nexec = {count}\nready = \"notify\"\nlog-size = \"64M\"\nstart = \"manual\"\n"
    );
    let rig = first(context, &state)?;
    // The daemon comes with the first line of somebody.
    let said = rig.directory().join("logs/service:says/current");
    rig.until_host(&said, "written", |f| std::fs::read_to_string(f).is_ok_and(|t| t.contains("something")))?;
    let stop = rig.run(&["pkill", "-STOP", "-f", "^holdfast-log"])?;
    want(stop.code == 0, "there is no log daemon", &rig)?;
    let said = rig.follow(&["start", "service:count"])?;
    rig.until_state("service:count", "starting")?;
    goes_on(&rig)?;
    let pid = rig.main_pid("service:count")?;
    // Its pipe is full, and it has not said that it has written everything.
    let state = rig.status("service:count")?;
    want(word(&state, "state") == "starting", &format!("it is {state}"), &rig)?;
    rig.run(&["pkill", "-CONT", "-f", "^holdfast-log"])?;
    rig.until_state("service:count", "ready")?;
    drop(said);
    want(rig.main_pid("service:count")? == pid, "it was started again", &rig)?;
    let file = rig.directory().join("logs/service:count/current");
    rig.until_host(&file, "complete", |f| {
        std::fs::read_to_string(f).is_ok_and(|t| t.contains("line 19999"))
    })?;
    let text = std::fs::read_to_string(&file)?;
    let numbers: Vec<u32> = text.lines().filter_map(|l| l.rsplit_once("line ")?.1.parse().ok()).collect();
    want(numbers.iter().copied().eq(0..20_000), &format!("{} lines, or another order", numbers.len()), &rig)
}

/// A worker that is stopped in the middle of an apply is given up, and its work done by another.
fn stopped_worker(context: &Context) -> Result {
    const FILES: u32 = 2000;
    let rig = first(context, SLEEPER)?;
    let mut state = SLEEPER.to_owned();
    for n in 0..FILES {
        writeln!(state, "[file.\"/srv/many/{n}\"]\ncontent = \"{n}\\n\"")?;
    }
    let path = rig.state_file("many.toml", &state)?;
    let mut apply = rig.follow(&["apply", &path])?;
    // It has begun to write the new contents, beside their places, and put none of them there.
    rig.until_file("/srv/.holdfast.staging", "there", Path::exists)?;
    let stop = rig.run(&["pkill", "-STOP", "-x", "cm-worker"])?;
    want(stop.code == 0, "there is no worker", &rig)?;
    goes_on(&rig)?;
    let end = apply.end(Duration::from_secs(150))?;
    want(end.code() == Some(0), &format!("the apply ended with {end}"), &rig)?;
    for n in 0..FILES {
        let file = rig.inside(&format!("/srv/many/{n}"))?;
        want(holds(&file, &format!("{n}\n")), &format!("/srv/many/{n} is not right"), &rig)?;
    }
    want(
        rig.init_said().contains("the worker does not answer: another one takes its place"),
        "it was not given up",
        &rig,
    )?;
    // What had no work when it was stopped leaves when it runs again.
    rig.run(&["pkill", "-CONT", "-x", "cm-worker"])?;
    crate::instance::rest(&rig).map(drop)
}

/// A service that sends notifications as fast as it can hinders nobody, and what init keeps of them does not grow.
fn notify_flood(context: &Context) -> Result {
    let flood = command("notify-flood")?;
    let rig = first(context, &format!("{SLEEPER}[service.flood]\nexec = {flood}\nready = \"notify\"\n"))?;
    rig.until_state("service:flood", "ready")?;
    let pid = rig.main_pid("service:flood")?;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for _ in 0..10 {
            goes_on(&rig)?;
        }
        sizes.push(rig.memory()?);
    }
    println!("memory of init after 10, 20, 30 and 40 restarts under the flood: {sizes:?}");
    let grows = sizes.windows(2).all(|w| matches!(w, [a, b] if b > &(a + (16 << 10))));
    want(!grows, &format!("init grows by every round, in bytes: {sizes:?}"), &rig)?;
    want(rig.main_pid("service:flood")? == pid, "the flooding service was hit", &rig)?;
    rig.ok(&["stop", "service:flood"])?;
    rig.until_state("service:flood", "down")?;
    Ok(())
}

/// Sets how many descriptors init may have; answers what it might before.
fn limit_descriptors(rig: &Rig, most: u64) -> Result<u64> {
    let mut command = std::process::Command::new("prlimit");
    let (pid, text) = (rig.pid()?.to_string(), format!("--nofile={most}:"));
    let before = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let before = before.lines().find_map(|l| l.strip_prefix("Max open files")).ok_or("no limit")?;
    let before = before.split_whitespace().next().ok_or("no limit")?.parse()?;
    command.args(["--pid", &pid, &text]);
    let said = crate::rig::run(command)?;
    want(said.code == 0, &said.err, rig)?;
    Ok(before)
}

/// No descriptor is left: who asks learns that, who runs goes on running, and what could not be done is done when there
/// are some again. A client that has waited meanwhile is answered, and init does not spin.
fn descriptors(context: &Context) -> Result {
    let rig = first(context, &format!("{SLEEPER}[file.\"/srv/motd\"]\ncontent = \"one\\n\"\n"))?;
    let before = rig.main_pid("service:sleeper")?;
    // The numbers below the limit are what counts: three of them are free.
    let mut used = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", rig.pid()?))?.flatten() {
        used.push(entry.file_name().to_string_lossy().parse::<u64>()?);
    }
    let most = (0..).filter(|n| !used.contains(n)).nth(3).unwrap_or_default();
    let limit = limit_descriptors(&rig, most)?;
    // More than there is room for; whoever has no place is told so by the end of the connection.
    let crowd: Vec<UnixStream> = (0..20).filter_map(|_| UnixStream::connect(rig.socket()).ok()).collect();
    let told = rig.initctl(&["status"])?;
    println!("without descriptors, status ends with {}: {}{}", told.code, told.out, told.err);
    rig.run(&["kill", "-KILL", &before.to_string()])?;
    std::fs::write(rig.inside("/srv/motd")?, "theirs\n")?;
    let long = Duration::from_secs(1);
    let used = crate::measure::processor(rig.pid()?)?;
    crate::measure::pause(long)?;
    let used = crate::measure::processor(rig.pid()?)?.saturating_sub(used);
    println!("init used {used:?} of {long:?}");
    want(used < long / 2, &format!("init spins: {used:?} of {long:?}"), &rig)?;
    limit_descriptors(&rig, limit)?;
    drop(crowd);
    rig.ok(&["wait", "--ready", "service:sleeper", "--timeout", "60s"])?;
    want(rig.main_pid("service:sleeper")? != before, "it was not killed", &rig)?;
    rig.until_file("/srv/motd", "repaired", |f| holds(f, "one\n"))?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    goes_on(&rig)?;
    // What it writes is kept: it did not start without a log.
    let out = format!("/proc/{}/fd/1", rig.main_pid("service:sleeper")?);
    let target = rig.run(&["readlink", &out])?.out;
    want(target.starts_with("pipe:"), &format!("its output goes to {target}"), &rig)
}

/// Files in each of the two directories that the vandal takes turns with.
const PER_DIRECTORY: u32 = 12;
/// Rounds of the vandal: fewer than the repairs of one thing in a minute that make a fight.
const ROUNDS: u32 = 4;

fn site(way: &str, n: u32) -> String {
    format!("/srv/{way}/deep/{n}")
}

fn vandals_state() -> Result<String> {
    let mut state = format!(
        r#"{SLEEPER}
[service.worker]
exec     = ["sleep", "infinity"]
requires = ["file:/srv/secret", "directory:/srv/clean"]

[file."/srv/secret"]
content = "not for everybody\n"
mode    = "0600"

[file."/srv/packaged"]
content = "as configured\n"

[file."/srv/fought"]
content = "ours\n"

[symlink."/srv/alias"]
target = "secret"

[directory."/srv/clean"]
mode  = "0750"
purge = true
"#
    );
    for way in ["edited", "removed"] {
        for n in 0..PER_DIRECTORY {
            writeln!(state, "[file.{:?}]\ncontent = \"{way} {n}\\n\"\nmode = \"0644\"\n", site(way, n))?;
        }
    }
    Ok(state)
}

/// What the vandal wrote where, by unit: all of it was on the machine when init replaced it.
type Edits = BTreeMap<String, Vec<String>>;

/// Gives files that are about to be written to through it another name. Only what is looked at with it is watched as a
/// file, so that each is touched too.
fn more_names(rig: &Rig, round: u32) -> Result {
    let srv = rig.inside("/srv")?;
    for n in (0..PER_DIRECTORY).filter(|n| (n + round) % 4 == 1) {
        let path = srv.join(site("edited", n).trim_start_matches("/srv/"));
        std::fs::hard_link(&path, srv.join(format!("other-{n}")))?;
        std::fs::File::options().write(true).open(&path)?.set_modified(std::time::SystemTime::now())?;
    }
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    Ok(())
}

/// One round of damage: all at once, without a pause. What is edited is not removed in the same round, so that nobody
/// but init can have done away with an edit.
fn damage(rig: &Rig, round: u32, edits: &mut Edits) -> Result {
    let srv = rig.inside("/srv")?;
    let under = |path: &str| srv.join(path.trim_start_matches("/srv/"));
    // Where he is slow, the first files are there again before he is through.
    match std::fs::remove_dir_all(srv.join("removed")) {
        Err(e) if e.kind() != std::io::ErrorKind::DirectoryNotEmpty => return Err(e.into()),
        _ => {}
    }
    let mut write = |unit: &str, path: &Path, by: &str| -> Result {
        let text = format!("round {round} by {by}: {}\n", path.display());
        std::fs::write(path, &text)?;
        edits.entry(unit.to_owned()).or_default().push(text);
        Ok(())
    };
    for n in 0..PER_DIRECTORY {
        let name = site("edited", n);
        let (unit, path) = (format!("file:{name}"), under(&name));
        match (n + round) % 4 {
            0 => write(&unit, &path, "an editor")?,
            // Through another name of the same file, elsewhere.
            1 => {
                let other = srv.join(format!("other-{n}"));
                write(&unit, &other, "another name")?;
                std::fs::remove_file(other)?;
            }
            // As editors and package managers do.
            2 => {
                let new = srv.join(format!("new-{round}-{n}"));
                write(&unit, &new, "a rename")?;
                std::fs::rename(new, &path)?;
            }
            _ => std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?,
        }
    }
    write("file:/srv/packaged", &srv.join("packaged.dpkg-new"), "a package")?;
    std::fs::rename(srv.join("packaged.dpkg-new"), srv.join("packaged"))?;
    std::fs::set_permissions(srv.join("secret"), PermissionsExt::from_mode(0o666))?;
    std::fs::remove_file(srv.join("alias"))?;
    symlink("/etc/shadow", srv.join("alias"))?;
    for n in 0..5 {
        std::fs::write(srv.join(format!("clean/junk-{n}")), format!("junk {n} of round {round}\n"))?;
    }
    std::fs::set_permissions(srv.join("clean"), PermissionsExt::from_mode(0o777))?;
    // Everything but PID 1 and the shell that says so: services, worker, log daemon.
    rig.run(&["sh", "-c", "kill -KILL -1"])?;
    Ok(())
}

/// Everything is as declared once more. What could not be repaired on a full disk is tried again after a while, the longer the
/// disk was full; a wait ends where for seconds nothing has happened.
fn right_again(rig: &Rig) -> Result {
    let limit = Instant::now() + Duration::from_secs(100);
    while rig.initctl(&["wait", "--converged", "--timeout", "60s"])?.code != 0 {
        want(Instant::now() < limit, "not everything is right again", rig)?;
    }
    Ok(())
}

/// Somebody damages everything there is, kills everything there is, and fills the disk of the store, round after round.
/// Afterwards everything is as declared; what was overwritten can be had back; what is nobody's is as it was; and the one
/// thing that he does not leave alone is told as contested.
fn vandal(context: &Context) -> Result {
    let state = vandals_state()?;
    let setup = Setup { first: Some(&state), disks: &[("store", "size=4m,mode=0700")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let srv = rig.inside("/srv")?;
    std::fs::write(srv.join("nobodys"), "not declared\n")?;
    let before = tree::timeless(&tree::lines(&srv)?);
    let mut edits = Edits::new();
    let mut pids = Vec::new();
    for round in 0..ROUNDS {
        more_names(&rig, round)?;
        // The disk of the store is full while he is at it: nothing may be replaced that cannot be kept.
        let full = "d=$(sed -n 's/^[^ ]* \\([^ ]*\\/store\\) tmpfs.*/\\1/p' /proc/mounts); cat /dev/zero > $d/full; echo $d";
        let place = if round % 2 == 1 { rig.run(&["sh", "-c", full])?.out } else { String::new() };
        let begun = Instant::now();
        damage(&rig, round, &mut edits)?;
        if let Some(place) = place.lines().next() {
            rig.run(&["rm", &format!("{place}/full")])?;
        }
        right_again(&rig)?;
        rig.until_state("service:worker", "ready")?;
        pids.push(rig.main_pid("service:sleeper")?);
        println!(
            "round {round}: right again {:?} after it began, full disk: {}",
            begun.elapsed(),
            !place.is_empty()
        );
        let after = tree::timeless(&tree::lines(&srv)?);
        want(after == before, &format!("round {round}:\n{}", tree::difference(&before, &after)), &rig)?;
    }
    pids.dedup();
    want(pids.len() == usize::try_from(ROUNDS)?, "not everything was killed in each round", &rig)?;

    let mut count = 0;
    for (unit, texts) in &edits {
        let told: Value = serde_json::from_str(&rig.ok(&["--json", "history", unit])?)?;
        let versions = told.get("versions").and_then(Value::as_array).cloned().unwrap_or_default();
        let saved: Vec<String> = versions
            .iter()
            .filter(|v| !word(v, "digest").is_empty())
            .map(|v| rig.ok(&["history", unit, "--show", word(v, "digest")]))
            .collect::<Result<_>>()?;
        for text in texts {
            want(saved.contains(text), &format!("{unit}: {text:?} is lost; there are {saved:?}"), &rig)?;
            count += 1;
        }
    }
    println!("{count} edits that were overwritten can be had back");

    let fought = srv.join("fought");
    let contested = |rig: &Rig| -> Result<bool> {
        let status = rig.status("file:/srv/fought")?;
        Ok(word(&status, "outcome") == "not-kept" && status.to_string().contains("contested"))
    };
    for n in 0..20 {
        let mut events = rig.events()?;
        std::fs::write(&fought, format!("theirs {n}\n"))?;
        let deadline = Instant::now() + crate::rig::LIMIT;
        while !contested(&rig)? && !holds(&fought, "ours\n") {
            want(events.next(deadline)?.is_some(), "neither repaired nor contested", &rig)?;
        }
        if contested(&rig)? {
            break;
        }
    }
    want(contested(&rig)?, "a fight is not told", &rig)?;
    let status: Value = serde_json::from_str(&rig.initctl(&["--json", "status"])?.out)?;
    let units = status.get("units").and_then(Value::as_array).cloned().unwrap_or_default();
    let wrong: Vec<&str> =
        units.iter().filter(|u| word(u, "outcome") == "not-kept").map(|u| word(u, "unit")).collect();
    want(wrong == ["file:/srv/fought"], &format!("not kept: {wrong:?}"), &rig)
}
