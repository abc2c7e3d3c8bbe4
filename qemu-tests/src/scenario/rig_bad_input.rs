//! Bad input in the fast rig: clients, state files and disks that are not as they should be. Each time the error says
//! what is wrong and what to do, the rest of the machine goes on, and PID 1 is as small as before.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::sleeper::{SLEEPER, goes_on};
use crate::rig::{Rig, Setup, holds, tree, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-bad-clients", clients),
    scenario("rig-deaf-client", deaf_client),
    scenario("rig-huge-state", huge_state),
    scenario("rig-store-full", store_full),
    scenario("rig-store-read-only", store_read_only),
    scenario("rig-logs-full", logs_full),
    scenario("rig-last-words", last_words),
];

/// What PID 1 may have more than before: what the allocator keeps of one turn.
const SLACK: u64 = 64 << 10;

/// Does `round` until init has not grown by one of them: what leaks grows with each, what the allocator keeps for
/// the next time does not. Answers what it had before and after the last.
fn does_not_grow(
    rig: &Rig,
    memory: impl Fn() -> Result<u64>,
    mut round: impl FnMut() -> Result,
) -> Result<(u64, u64)> {
    let mut sizes = vec![memory()?];
    for _ in 0..4 {
        round()?;
        let (before, after) = (sizes.last().copied().unwrap_or_default(), memory()?);
        sizes.push(after);
        if after <= before + SLACK {
            return Ok((before, after));
        }
    }
    want(false, &format!("init grows by every round, in bytes: {sizes:?}"), rig)?;
    Ok((0, 0))
}

/// Clients that send garbage, half a message, too much, or nothing, and stay; and one that never reads.
fn rude(rig: &Rig) -> Result {
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
    let mut deaf = UnixStream::connect(rig.socket())?;
    deaf.write_all(b"{\"method\":\"io.holdfast.Events\",\"more\":true}\0")?;
    for _ in 0..20 {
        rig.ok(&["restart", "service:sleeper"])?;
    }
    let mut garbage = UnixStream::connect(rig.socket())?;
    garbage.write_all(b"nonsense\0")?;
    garbage.set_read_timeout(Some(Duration::from_secs(20)))?;
    let said = garbage.read(&mut [0; 64])?;
    want(said > 0, "garbage got no answer", rig)?;
    rig.ok(&["status"])?;
    Ok(())
}

/// Rude clients harm nobody, however often they come.
fn clients(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(SLEEPER), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let memory = || -> Result<u64> {
        // When it sleeps it has dealt with everybody who left.
        crate::measure::at_rest(&[rig.pid()?], Duration::ZERO)?;
        rig.memory()
    };
    let start = memory()?;
    rude(&rig)?;
    // So many clients at a time take some stack and some pages of the heap, once.
    rude(&rig)?;
    let (before, after) = does_not_grow(&rig, memory, || (0..5).try_for_each(|_| rude(&rig)))?;
    println!("memory of init: {start} bytes, {before} before the last 1000 clients, {after} after them");
    want(after < start + (1 << 20), &format!("from {start} to {after} bytes at once"), &rig)
}

/// A state file of 50 MB is refused with the limit; one just below the limit is applied. PID 1 sees neither.
fn huge_state(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply("[file.\"/srv/motd\"]\ncontent = \"one\\n\"\n")?;
    let root = rig.inside("/srv")?;
    let tree_before = tree::lines(&root)?;
    let before = rig.memory()?;
    let huge =
        format!("[vars]\na = \"{}\"\n[file.\"/srv/motd\"]\ncontent = \"two\\n\"\n", "x".repeat(50 << 20));
    let path = rig.state_file("huge.toml", &huge)?;
    does_not_grow(
        &rig,
        || rig.memory(),
        || {
            let said = rig.initctl(&["apply", &path])?;
            let all = format!("{}{}", said.out, said.err);
            println!("{}", all.get(..400.min(all.len())).unwrap_or_default());
            want(said.code == 2, &format!("50 MB ended with {}", said.code), &rig)?;
            want(all.contains("16 MiB"), "the limit is not told", &rig)?;
            want(all.contains("huge.toml"), "the file is not named", &rig)?;
            want(all.len() < 4096, &format!("the error has {} bytes", all.len()), &rig)?;
            want(tree::lines(&root)? == tree_before, "the tree has changed", &rig)
        },
    )?;

    let mut legal = String::from("[file.\"/srv/motd\"]\ncontent = \"one\\n\"\n");
    let long = "y".repeat(28_000);
    for n in 0..500 {
        writeln!(legal, "[file.\"/srv/many/{n}\"]\ncontent = \"{n} {long}\"")?;
    }
    let path = rig.state_file("legal.toml", &legal)?;
    rig.ok(&["apply", &path])?;
    want(holds(&root.join("many/499"), &format!("499 {long}")), "the last file is another", &rig)?;
    let large = rig.memory()?;
    println!("{} bytes of state file; memory of init: {before} bytes before, {large} after", legal.len());
    // 500 units more, some hundred bytes each; none of their 14 MB.
    want(large <= before + (1 << 20), &format!("init has grown from {before} to {large} bytes"), &rig)
}

/// An apply that the store does not take: it says where and what, changes nothing, and works when there is room again.
fn refused(rig: &Rig, words: &str, repair: &[&str]) -> Result {
    let store = rig.directory().join("store");
    let root = rig.inside("/srv")?;
    let before = tree::lines(&root)?;
    let state = format!("{SLEEPER}[file.\"/srv/large\"]\ncontent = \"{}\"\n", "x".repeat(400_000));
    let path = rig.state_file("next.toml", &state)?;
    let said = rig.initctl(&["apply", &path])?;
    let all = format!("{}{}", said.out, said.err);
    println!("code {}: {all}", said.code);
    want(said.code != 0, "it was accepted", rig)?;
    want(all.to_lowercase().contains(words), &format!("the cause is not told: {all}"), rig)?;
    want(all.contains(&*store.to_string_lossy()), &format!("the path is not told: {all}"), rig)?;
    want(tree::lines(&root)? == before, "the tree has changed", rig)?;
    goes_on(rig)?;
    let done = rig.run(repair)?;
    want(done.code == 0, &done.err, rig)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.ok(&["apply", &path])?;
    want(root.join("large").exists(), "the apply did nothing", rig)
}

/// A full store.
fn store_full(context: &Context) -> Result {
    let setup =
        Setup { first: Some(SLEEPER), disks: &[("store", "size=256k,mode=0700")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let store = rig.directory().join("store").to_string_lossy().into_owned();
    refused(&rig, "no space left", &["mount", "-o", "remount,size=16m", &store])
}

/// A store that became read-only.
fn store_read_only(context: &Context) -> Result {
    let setup = Setup { first: Some(SLEEPER), disks: &[("store", "size=16m,mode=0700")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let store = rig.directory().join("store").to_string_lossy().into_owned();
    // A worker that has the journal open for writing leaves a moment after its work.
    crate::instance::rest(&rig)?;
    let done = rig.run(&["mount", "-o", "remount,ro", &store])?;
    want(done.code == 0, &done.err, &rig)?;
    refused(&rig, "read-only file system", &["mount", "-o", "remount,rw", &store])
}

/// Who listens to events and reads none of them costs what is kept for it, is told how many it missed, and hears what
/// happens after that.
fn deaf_client(context: &Context) -> Result {
    const FILES: u32 = 600;
    let rig = Rig::start(context, &Setup::default())?;
    let state = |version: u32| -> Result<String> {
        let file = |n| format!("[file.\"/srv/many/{n}\"]\ncontent = \"{version}\"\n");
        let text = format!("{SLEEPER}{}", (0..FILES).map(file).collect::<String>());
        rig.state_file(&format!("{version}.toml"), &text)
    };
    let versions = [state(1)?, state(2)?];
    let mut deaf = UnixStream::connect(rig.socket())?;
    deaf.set_read_timeout(Some(Duration::from_secs(20)))?;
    deaf.write_all(b"{\"method\":\"io.holdfast.Events\",\"more\":true}\0")?;
    // The first rounds fill what may wait for a client; whatever comes then is only counted.
    let round = || -> Result {
        for version in &versions {
            rig.ok(&["apply", version])?;
        }
        Ok(())
    };
    round()?;
    // Each round is a quarter of a megabyte of events and more.
    let (before, after) = does_not_grow(&rig, || rig.memory(), round)?;
    println!("{before} bytes with a client that does not read, {after} when it has missed more");

    let mut events = BufReader::new(deaf).split(0);
    let mut until = |wanted: &dyn Fn(&Value) -> bool| -> Result<Value> {
        for frame in events.by_ref() {
            let reply: Value = serde_json::from_slice(&frame?)?;
            let event = reply.pointer("/parameters/event").cloned().unwrap_or_default();
            if wanted(&event) {
                return Ok(event);
            }
        }
        Err("the connection was closed".into())
    };
    let missed = until(&|e| word(e, "about") == "missed")?;
    println!("{missed}");
    rig.ok(&["restart", "service:sleeper"])?;
    until(&|e| word(e, "unit") == "service:sleeper")?;
    Ok(())
}

/// No room for logs: services write on, init says so once, and lines are kept again when there is room.
fn logs_full(context: &Context) -> Result {
    let flood = command("flood")?;
    let state = format!("{SLEEPER}[service.flood]\nexec = {flood}\nlog-size = \"16M\"\n");
    let setup = Setup { first: Some(&state), disks: &[("logs", "size=256k")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.until_state("service:flood", "ready")?;
    rig.until_said("No space left")?;
    let logs = rig.directory().join("logs");
    want(rig.init_said().contains(&*logs.to_string_lossy()), "the path is not told", &rig)?;
    goes_on(&rig)?;
    let status = rig.status("service:flood")?;
    want(word(&status, "state") == "ready", &format!("it does not write on: {status}"), &rig)?;
    let times = rig.init_said().matches("No space left").count();
    want(times < 10, &format!("it is told {times} times"), &rig)?;
    // The service writes without a pause all the time.
    does_not_grow(&rig, || rig.memory(), || goes_on(&rig))?;
    Ok(())
}

/// Why a command is not kept is told with the last line that it wrote: in the answer of the apply and in its status.
fn last_words(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(SLEEPER), ..Setup::default() })?;
    let exec = |script: &str, more: &str| {
        format!("{SLEEPER}[exec.job]\ncommand = [\"sh\", \"-c\", '{script}']\nonce = \"boot\"\n{more}")
    };
    let cases = [
        ("echo first; echo the disk is full >&2; exit 3", "", "ended with exit code 3: the disk is full"),
        ("echo first; printf unfinished; exit 4", "", "ended with exit code 4: unfinished"),
        (r#"printf "a\033[31mb\n\n"; kill -ABRT $$"#, "", "was killed by SIGABRT: a\\u{1b}[31mb"),
        ("exit 5", "", "ended with exit code 5"),
        ("echo still at it; exec sleep 1000", "timeout = \"1s\"\n", "did not end in time: still at it"),
    ];
    for (script, more, why) in cases {
        let path = rig.state_file("job.toml", &exec(script, more))?;
        let said = rig.initctl(&["apply", &path])?;
        let told = format!("{}{}", said.out, said.err);
        println!("{}", told.lines().last().unwrap_or_default());
        want(said.code == 5, &format!("it is applied: {said:?}"), &rig)?;
        let ends = told.lines().any(|l| l.trim_end().ends_with(why) || l.contains(&format!("{why};")));
        want(ends, &format!("{why:?} is not the reason: {told}"), &rig)?;
    }
    Ok(())
}
