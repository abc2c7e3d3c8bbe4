//! The kernel has no memory for what it is asked for, in the fast rig: calls of PID 1 and of workers are answered with
//! ENOMEM, each kind again and again. What cannot be done now is done once it can be, and nothing leaks meanwhile.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::instance;
use crate::rig::sleeper::{SLEEPER, goes_on};
use crate::rig::{LIMIT, Rig, Setup, holds, want};
use crate::tracer::Tracer;

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(10), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-no-memory-for-init", of_init),
    scenario("rig-no-memory-for-client", of_client),
    scenario("rig-no-memory-for-worker", of_worker),
    scenario("rig-no-heap", no_heap),
    scenario("rig-stopped-client", stopped_client),
];

/// What PID 1 asks the kernel to make: processes, directories of cgroups, descriptors, messages.
const OF_INIT: &str = "?clone,?clone3,?vfork,?mkdir,?mkdirat,?openat,?pipe2,?socketpair,?memfd_create,\
    ?epoll_ctl,?accept4,?sendmsg,?recvmsg";
/// What a worker does to files. Services that it is traced with do none of it.
const OF_WORKER: &str = "?rename,?renameat,?renameat2,?link,?linkat,?mkdirat,?getdents64,?fchmod,?fchmodat,?fchown,\
    ?fchownat,?ftruncate,?unlinkat,?inotify_add_watch";
const FILES: u32 = 20;

fn state(version: u32) -> Result<String> {
    let mut state = SLEEPER.to_owned();
    for n in 0..FILES {
        writeln!(state, "[file.\"/srv/deep/{n}/file\"]\ncontent = \"version {version}\\n\"")?;
    }
    Ok(state)
}

fn first(context: &Context) -> Result<Rig> {
    let state = state(1)?;
    let rig = Rig::start(context, &Setup { first: Some(&state), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    Ok(rig)
}

/// Everything is as it was declared, without anybody's help. What could not be done is tried again after a while, the longer
/// it could not; a wait ends where for seconds nothing has happened.
fn right(rig: &Rig, version: u32) -> Result {
    let limit = Instant::now() + 6 * LIMIT;
    while rig.initctl(&["wait", "--converged", "--timeout", "60s"])?.code != 0 {
        let late = || rig.initctl(&["status"]).map(|said| said.out).unwrap_or_default();
        want(Instant::now() < limit, &format!("not everything is right again: {}", late()), rig)?;
    }
    for n in 0..FILES {
        let file = rig.inside(&format!("/srv/deep/{n}/file"))?;
        want(holds(&file, &format!("version {version}\n")), &format!("file {n} is not right"), rig)?;
    }
    goes_on(rig)
}

fn damage(rig: &Rig, text: &str) -> Result {
    for n in 0..FILES {
        let file = rig.inside(&format!("/srv/deep/{n}/file"))?;
        std::fs::write(file, format!("{text} {n}\n"))?;
    }
    Ok(())
}

/// How many descriptors PID 1 has when it rests.
fn descriptors(rig: &Rig) -> Result<usize> {
    instance::rest(rig)?;
    Ok(std::fs::read_dir(format!("/proc/{}/fd", rig.pid()?))?.count())
}

/// The names of the calls that were refused.
fn refused(trace: &str) -> BTreeSet<String> {
    let lines = trace.lines().filter(|l| l.contains("(INJECTED)"));
    let call = |line: &str| -> Option<String> {
        let before = line.split_once('(')?.0;
        Some(before.rsplit([' ', '.', '<']).next()?.to_owned())
    };
    lines.filter_map(call).collect()
}

fn inject(calls: &str, when: &str) -> String {
    format!("inject={calls}:error=ENOMEM:when={when}")
}

/// Calls of PID 1 are refused while services are killed and restarted, files are damaged and clients come. It lives on,
/// answers afterwards, and has as many descriptors as before.
fn of_init(context: &Context) -> Result {
    let rig = first(context)?;
    let before = descriptors(&rig)?;
    let init = rig.pid()?;
    let mut seen = BTreeSet::new();
    for (turn, when) in ["1+2", "2+3", "3+4"].into_iter().enumerate() {
        let sleeper = rig.main_pid("service:sleeper")?;
        let options = ["-e", "trace=all", "-e", &inject(OF_INIT, when)];
        let tracer = Tracer::of(rig.pid()?, &options, &rig.directory().join("trace"))?;
        damage(&rig, &format!("turn {turn}"))?;
        rig.run(&["kill", "-KILL", &sleeper.to_string()])?;
        for words in
            [&["status"][..], &["restart", "service:sleeper"], &["status"], &["stop", "service:sleeper"]]
        {
            let mut words = words.to_vec();
            words.extend(["--timeout", "500ms"]);
            let said = rig.initctl(&words)?;
            println!("{words:?} ended with {}: {}", said.code, said.err.trim());
        }
        seen.extend(refused(&tracer.end()?));
        rig.ok(&["start", "service:sleeper"])?;
        right(&rig, 1)?;
    }
    println!("refused: {seen:?}");
    let kinds = ["epoll_ctl", "accept4", "mkdir"];
    want(seen.iter().any(|c| c.starts_with("clone")), "no process was refused", &rig)?;
    want(kinds.iter().all(|k| seen.contains(*k)), &format!("refused were only {seen:?}"), &rig)?;
    want(rig.pid()? == init, "it is another init", &rig)?;
    let after = descriptors(&rig)?;
    want(after == before, &format!("{before} descriptors before, {after} after"), &rig)
}

/// The one client that there is cannot be let in at first: he is let in a moment later, without another one coming. One
/// whom nothing can be heard of is turned away, and does not wait for ever.
fn of_client(context: &Context) -> Result {
    let rig = first(context)?;
    let file = rig.directory().join("trace");
    let tracer = Tracer::of(rig.pid()?, &["-e", &inject("accept4", "1")], &file)?;
    let said = rig.initctl(&["status", "--timeout", "30s"])?;
    let trace = tracer.end()?;
    want(said.code == 0, &format!("status ended with {}: {}", said.code, said.err), &rig)?;
    want(!refused(&trace).is_empty(), "he was let in at once", &rig)?;

    let tracer = Tracer::of(rig.pid()?, &["-e", &inject("epoll_ctl", "1")], &file)?;
    let said = rig.initctl(&["wait", "--ready", "target:of-nobody", "--timeout", "30s"])?;
    let trace = tracer.end()?;
    println!("who cannot be watched is told, code {}: {}", said.code, said.err);
    want(said.code != 124, "he waits for ever", &rig)?;
    want(!refused(&trace).is_empty(), "he was watched", &rig)?;
    goes_on(&rig)
}

/// Calls of workers are refused in repairs and in an apply: that is told, and what was not done is done later.
fn of_worker(context: &Context) -> Result {
    let rig = first(context)?;
    let mut seen = BTreeSet::new();
    for (turn, when) in ["1+2", "2+3", "5+7"].into_iter().enumerate() {
        // Only who is started from now on is followed.
        instance::rest(&rig)?;
        let options = ["-f", "-e", &inject(OF_WORKER, when)];
        let tracer = Tracer::of(rig.pid()?, &options, &rig.directory().join("trace"))?;
        damage(&rig, &format!("turn {turn}"))?;
        rig.initctl(&["wait", "--converged", "--timeout", "10s"])?;
        let path = rig.state_file("next.toml", &state(2)?)?;
        let said = rig.initctl(&["apply", &path, "--timeout", "30s"])?;
        println!("{when}: the apply ended with {}: {}{}", said.code, said.out, said.err);
        seen.extend(refused(&tracer.end()?));
        // What was refused says nothing about what is to be.
        rig.initctl(&["wait", "--converged", "--timeout", "60s"])?;
        let path = rig.state_file("last.toml", &state(1)?)?;
        rig.ok(&["apply", &path])?;
        right(&rig, 1)?;
    }
    println!("refused: {seen:?}");
    want(seen.iter().any(|c| c.starts_with("rename")), &format!("refused were only {seen:?}"), &rig)
}

/// The heap of PID 1 cannot grow: it is executed again with all that it knows, and no service notices. That of a worker
/// cannot: another one does its work.
fn no_heap(context: &Context) -> Result {
    let rig = first(context)?;
    let sleeper = rig.main_pid("service:sleeper")?;
    let tracer = Tracer::of(rig.pid()?, &["-e", &inject("brk", "1")], &rig.directory().join("trace"))?;
    let mut large = state(1)?;
    for n in 0..2000 {
        writeln!(large, "[file.\"/srv/more/{n}\"]\ncontent = \"{n}\\n\"")?;
    }
    let path = rig.state_file("large.toml", &large)?;
    // Who is connected when init faults is not taken along.
    let said = rig.initctl(&["apply", &path])?;
    want([0, 3].contains(&said.code), &format!("the apply ended with {}: {}", said.code, said.err), &rig)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    println!("refused: {:?}", refused(&tracer.end()?));
    rig.ok(&["apply", &path])?;
    want(rig.init_said().contains("has taken over"), "the heap grew all the same", &rig)?;
    want(rig.main_pid("service:sleeper")? == sleeper, "a service was hit", &rig)?;
    right(&rig, 1)?;

    damage(&rig, "once")?;
    right(&rig, 1)?;
    let workers = instance::processes(&rig)?.into_iter().filter(|p| p.name == "cm-worker");
    let mut tracers = Vec::new();
    for worker in workers {
        let file = rig.directory().join(format!("trace-{}", worker.pid));
        // Some of them are on their way out.
        tracers.extend(Tracer::of(worker.pid, &["-e", &inject("brk,mmap,mremap", "1+1")], &file));
    }
    want(!tracers.is_empty(), "there is no worker", &rig)?;
    damage(&rig, "twice")?;
    right(&rig, 1)
}

/// Clients that are stopped (Ctrl-Z), one that follows an apply and one that follows everything: nobody waits for them, and
/// when they go on they are told all.
fn stopped_client(context: &Context) -> Result {
    const MANY: u32 = 2000;
    let rig = first(context)?;
    let mut events = rig.events()?;
    events.signal(Signal::SIGSTOP)?;
    let mut large = state(2)?;
    for n in 0..MANY {
        writeln!(large, "[file.\"/srv/many/{n}\"]\ncontent = \"{n}\\n\"")?;
    }
    let path = rig.state_file("large.toml", &large)?;
    let mut apply = rig.follow(&["apply", &path])?;
    // It has begun to write the new contents, beside their places.
    rig.until_file("/srv/.holdfast.staging", "there", Path::exists)?;
    apply.signal(Signal::SIGSTOP)?;
    right(&rig, 2)?;
    for n in 0..MANY {
        let file = rig.inside(&format!("/srv/many/{n}"))?;
        want(holds(&file, &format!("{n}\n")), &format!("/srv/many/{n} is not right"), &rig)?;
    }
    apply.signal(Signal::SIGCONT)?;
    let end = apply.end(LIMIT)?;
    want(end.code() == Some(0), &format!("the apply ended with {end}"), &rig)?;
    events.signal(Signal::SIGCONT)?;
    // More has happened than is kept for one client: he is told how much he missed, and what happens from then on.
    let (mut missed, mut again) = (false, false);
    let deadline = Instant::now() + LIMIT;
    while !missed {
        let line = events.next(deadline)?.ok_or("who listened is not told that he missed something")?;
        missed = line.contains("\"missed\"");
    }
    goes_on(&rig)?;
    while !again {
        let line = events.next(deadline)?.ok_or("who listened is told nothing any more")?;
        again = line.contains("service:sleeper") && line.contains("ready");
    }
    Ok(())
}
