//! Two hands on one thing, in the fast rig: contests, holds, and taking over what somebody else wrote.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{self, Rig, Setup, holds, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-contest", contest),
    scenario("rig-contest-ends", contest_ends),
    scenario("rig-contest-same-file", same_file),
    scenario("rig-hold", hold),
    scenario("rig-hold-survives", hold_survives),
    scenario("rig-hold-for", hold_for),
    scenario("rig-adopt", adopt),
];

const FOUGHT: &str = r#"
[file."/srv/fought"]
content = "ours\n"

[service.dependent]
exec     = ["sleep", "infinity"]
requires = ["file:/srv/fought"]
"#;
const UNIT: &str = "file:/srv/fought";

/// How often init has said that it repaired the unit.
fn repairs(rig: &Rig) -> usize {
    rig.init_said().matches("repaired file:/srv/fought: content differs").count()
}

/// Has the other side write as often as a fight takes, each time after the repair of the time before.
fn fight(rig: &Rig) -> Result {
    let path = rig.inside("/srv/fought")?;
    for n in 1..=5 {
        let mut events = rig.events()?;
        std::fs::write(&path, format!("theirs {n}\n"))?;
        rig.until_outcome(&mut events, UNIT, if n < 5 { "repaired" } else { "not-kept" })?;
        want(holds(&path, "ours\n"), &format!("repair {n} was none"), rig)?;
    }
    Ok(())
}

fn contested(rig: &Rig) -> Result<Value> {
    rig.until(UNIT, "contested", |s| word(s, "outcome") == "not-kept" && format!("{s}").contains("contested"))
}

/// Two units that are one file, by a link of which no compiler can know: whatever comes of it names both.
fn same_file(context: &Context) -> Result {
    let (one, other) = ("file:/srv/real/dup", "file:/srv/link/dup");
    let link = "[directory.\"/srv/real\"]\n\
                [exec.link]\ncommand = [\"ln\", \"-s\", \"real\", \"/srv/link\"]\ncreates = \"/srv/link\"\n\
                requires = [\"directory:/srv/real\"]\n";
    let file =
        |path: &str| format!("[file.\"{path}\"]\ncontent = \"for {path}\\n\"\nrequires = [\"exec:link\"]\n");
    let files = ["/srv/real/dup", "/srv/link/dup", "/srv/real/third"].map(file).concat();
    // An apply of both at once returns.
    let rig = Rig::start(context, &Setup { first: Some(link), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let path = rig.state_file("state.toml", &format!("{link}{files}"))?;
    let answer = rig.initctl(&["apply", &path])?;
    let said = format!("{answer:?}");
    want(answer.code == 5, &format!("the apply did not return: {said}"), &rig)?;
    let way_out = "is the same file by another path: declare only one of the two";
    let named = |one: &str, other: &str| said.contains(one) && said.contains(&format!("{other} {way_out}"));
    want(named(one, other) || named(other, one), &format!("the apply names not both: {said}"), &rig)?;
    want(!rig.inside("/srv/real/dup")?.exists(), "the file is still there after the return", &rig)?;
    // A boot never does: the two fight.
    let rig = Rig::start(context, &Setup { first: Some(&format!("{link}{files}")), ..Setup::default() })?;
    let names = |status: &Value, other: &str| {
        let culprit = format!("{other}, the same file by another path (declare only one of the two),");
        word(status, "cause") == format!("contested: {culprit} keeps changing it")
    };
    rig.until_true("one of them names the other", || {
        let status = |unit: &str| rig.status(unit).unwrap_or_default();
        names(&status(one), other) || names(&status(other), one)
    })?;
    want(word(&rig.status("file:/srv/real/third")?, "state") == "ready", "a third one is drawn into it", &rig)
}

/// Five repairs in a minute, then no more: the machine does not work itself to death, and says what is going on.
fn contest(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(FOUGHT), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let pid = rig.main_pid("service:dependent")?;
    let path = rig.inside("/srv/fought")?;
    let mut events = rig.events()?;
    fight(&rig)?;
    contested(&rig)?;
    // Four times it was right again, and then no more.
    let mut standing = Vec::new();
    while standing.last().is_none_or(|about| about != "at-rest") {
        let event = events.next(Instant::now() + rig::LIMIT)?.ok_or("init says nothing more")?;
        let event: Value = serde_json::from_str(&event)?;
        let about = event.pointer("/event/about").and_then(Value::as_str).unwrap_or_default();
        standing.extend(["converged", "at-rest"].contains(&about).then(|| about.to_owned()));
    }
    want(standing.len() > 1, &format!("it was never converged: {standing:?}"), &rig)?;
    // The other side goes on; what comes of it must not depend on how much it does.
    let before = repairs(&rig);
    want(before == 5, &format!("{before} repairs before the contest"), &rig)?;
    for n in 0..200 {
        std::fs::write(&path, format!("theirs again {n}\n"))?;
    }
    // Something else that happened after it has been dealt with, so that whatever this makes of it has been too.
    rig.ok(&["restart", "service:dependent"])?;
    let status = contested(&rig)?;
    want(repairs(&rig) == before, &format!("{} repairs although it is contested", repairs(&rig)), &rig)?;
    want(holds(&path, "theirs again 199\n"), "a contested file was changed", &rig)?;
    want(rig.main_pid("service:dependent")? != pid, "the restart by hand was none", &rig)?;
    want(word(&rig.status("service:dependent")?, "state") == "ready", "the dependent is not ready", &rig)?;

    let said = rig.initctl(&["status", UNIT])?;
    want(said.out.contains("contested"), &format!("status does not tell: {}", said.out), &rig)?;
    let said = rig.initctl(&["status"])?;
    want(
        said.out.contains(", not converged, ") && said.out.contains("1 failed or not kept"),
        &format!("status does not tell what wait does: {}", said.out),
        &rig,
    )?;
    let waited = rig.initctl(&["wait", "--converged", "--timeout", "20s"])?;
    want(waited.code == 1, &format!("wait ended with {}: {}{}", waited.code, waited.out, waited.err), &rig)?;
    want(
        format!("{}{}", waited.out, waited.err).contains(UNIT),
        &format!("wait does not name it: {}{}", waited.out, waited.err),
        &rig,
    )?;
    for way in ["initctl adopt file:/srv/fought", "initctl hold file:/srv/fought"] {
        want(rig.init_said().contains(way), &format!("{way:?} is not offered as a way out"), &rig)?;
    }
    println!("{status}");
    Ok(())
}

/// A contest ends when it is right again, and another one begins at one.
fn contest_ends(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(FOUGHT), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let pid = rig.main_pid("service:dependent")?;
    let path = rig.inside("/srv/fought")?;
    fight(&rig)?;
    contested(&rig)?;
    std::fs::write(&path, "theirs\n")?;
    // A person ends it: a hold and its release look at it anew.
    rig.ok(&["hold", UNIT])?;
    std::fs::write(&path, "ours\n")?;
    rig.ok(&["release", UNIT])?;
    rig.until(UNIT, "kept", |s| word(s, "outcome") == "kept" && word(s, "state") == "ready")?;
    rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
    let mut events = rig.events()?;
    std::fs::write(&path, "theirs once more\n")?;
    rig.until_outcome(&mut events, UNIT, "repaired")?;
    want(holds(&path, "ours\n"), "it was not repaired after the contest", &rig)?;
    want(rig.main_pid("service:dependent")? == pid, "the dependent was bounced", &rig)
}

const ONE: &str = "[file.\"/srv/motd\"]\ncontent = \"one\\n\"\n";

/// A held unit is left alone, shown first, and repaired as soon as it is released.
fn hold(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(ONE), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.ok(&["hold", "file:/srv/motd", "--why", "looking into it"])?;
    let motd = rig.inside("/srv/motd")?;
    let mut events = rig.events()?;
    std::fs::write(&motd, "mine\n")?;
    rig.until_outcome(&mut events, "file:/srv/motd", "drifted")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(holds(&motd, "mine\n"), "a held file was repaired", &rig)?;
    let status = rig.ok(&["status"])?;
    let at = |text: &str| status.find(text).unwrap_or(usize::MAX);
    want(at("held by hand") < at("UNIT "), &format!("holds do not come first:\n{status}"), &rig)?;
    want(status.contains("looking into it"), &format!("the reason is not told:\n{status}"), &rig)?;
    rig.ok(&["release", "file:/srv/motd"])?;
    rig.until_outcome(&mut events, "file:/srv/motd", "repaired")?;
    want(holds(&motd, "one\n"), "the file is not right after its release", &rig)
}

/// A hold survives a re-exec, a panic and an apply, which leaves the unit out and says so; `--release` lifts it.
fn hold_survives(context: &Context) -> Result {
    let setup = Setup { environment: &[("HOLDFAST_TEST", "1")], ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.apply(ONE)?;
    let motd = rig.inside("/srv/motd")?;
    let held = |when: &str| -> Result {
        let status = rig.status("file:/srv/motd")?;
        want(status.get("held").is_some_and(|h| !h.is_null()), &format!("not held {when}: {status}"), &rig)?;
        want(holds(&motd, "mine\n"), &format!("a held file was changed {when}"), &rig)
    };
    rig.ok(&["hold", "file:/srv/motd"])?;
    std::fs::write(&motd, "mine\n")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    held("at first")?;
    rig.ok(&["reexec"])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    held("after a re-exec")?;
    rig.signal(init::sys::signals::RTMIN + 20)?;
    rig.until_said("has taken over")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    held("after a panic")?;
    let two = rig.state_file(
        "two.toml",
        &format!("{}\n[file.\"/srv/other\"]\ncontent = \"2\\n\"\n", ONE.replace("one", "two")),
    )?;
    let said = rig.ok(&["apply", &two])?;
    want(said.contains("file:/srv/motd"), &format!("apply does not name what is held:\n{said}"), &rig)?;
    want(holds(&rig.inside("/srv/other")?, "2\n"), "the rest was not applied", &rig)?;
    held("after an apply")?;
    let three = rig.state_file("three.toml", &ONE.replace("one", "three"))?;
    rig.ok(&["apply", "--release", &three])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(holds(&motd, "three\n"), "--release did not lift the hold", &rig)
}

/// A hold for a time ends by itself: not before, and without anybody asking.
fn hold_for(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(ONE), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let motd = rig.inside("/srv/motd")?;
    let mut events = rig.events()?;
    let begun = Instant::now();
    rig.ok(&["hold", "file:/srv/motd", "--for", "1s"])?;
    std::fs::write(&motd, "mine\n")?;
    // It is known to have drifted while it is held, and is right only after.
    rig.until_outcome(&mut events, "file:/srv/motd", "drifted")?;
    want(holds(&motd, "mine\n"), "a held file was repaired", &rig)?;
    rig.until_outcome(&mut events, "file:/srv/motd", "repaired")?;
    want(begun.elapsed() >= Duration::from_secs(1), "the hold ended early", &rig)?;
    want(holds(&motd, "one\n"), "the file is not right after the hold", &rig)?;
    let status = rig.status("file:/srv/motd")?;
    want(status.get("held").is_none_or(Value::is_null), &format!("it is still held: {status}"), &rig)
}

/// What somebody wrote becomes what the state file says: adopt gives a patch, patch(1) takes it, apply keeps it.
fn adopt(context: &Context) -> Result {
    initramfs::tool::ensure(&[initramfs::tool::Tool { program: "patch", package: "patch" }])?;
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let sources = rig.directory().join("files");
    std::fs::create_dir(&sources)?;
    std::fs::write(sources.join("page"), "the page\nas it was\n")?;
    let text = "# What this machine is.\n[file.\"/srv/motd\"]\ncontent = \"one\\n\" # short\nmode    = \"0644\"\n\n\
                [file.\"/srv/page\"]\nsource = \"files/page\"\n";
    let file = rig.state_file("state.toml", text)?;
    rig.ok(&["apply", &file])?;
    for (name, theirs) in [("/srv/motd", "theirs\n"), ("/srv/page", "the page\nas they like it\n")] {
        let unit = format!("file:{name}");
        rig.ok(&["hold", &unit])?;
        let path = rig.inside(name)?;
        std::fs::write(&path, theirs)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let patch = rig.ok(&["adopt", &unit])?;
        take(rig.directory(), &patch)?;
        println!("{patch}");
    }
    let written = std::fs::read_to_string(&file)?;
    want(written.starts_with("# What this machine is.\n"), "the comment is lost", &rig)?;
    let inode = |name: &str| -> Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(rig.inside(name)?)?))
    };
    let before = [inode("/srv/motd")?, inode("/srv/page")?];
    rig.ok(&["apply", "--release", &file])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(before == [inode("/srv/motd")?, inode("/srv/page")?], "what was right was written again", &rig)?;
    for (name, theirs) in [("/srv/motd", "theirs\n"), ("/srv/page", "the page\nas they like it\n")] {
        let status = rig.status(&format!("file:{name}"))?;
        want(word(&status, "outcome") == "kept", &format!("not kept as it was: {status}"), &rig)?;
        want(holds(&rig.inside(name)?, theirs), &format!("{name} has another content"), &rig)?;
    }
    // From now on it is the right one.
    let mut events = rig.events()?;
    std::fs::write(rig.inside("/srv/motd")?, "damage\n")?;
    rig.until_outcome(&mut events, "file:/srv/motd", "repaired")?;
    want(holds(&rig.inside("/srv/motd")?, "theirs\n"), "the adopted version is not kept", &rig)
}

/// Applies a patch as a person would.
fn take(directory: &Path, patch: &str) -> Result {
    let file = directory.join("patch");
    std::fs::write(&file, patch)?;
    let mut command = Command::new("patch");
    command.args(["-d", "/", "-p1", "-i"]).arg(&file);
    let said = rig::run(command)?;
    if said.code == 0 { Ok(()) } else { Err(format!("{patch}\n{}{}", said.out, said.err).into()) }
}
