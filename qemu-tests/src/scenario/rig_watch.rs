//! What watches tell in the fast rig, and who is behind it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup};

const LIMIT: Duration = Duration::from_secs(300);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-culprit", culprit),
    scenario("rig-culprit-ourselves", culprit_ourselves),
    scenario("rig-culprit-in-user-namespace", culprit_unknown),
    scenario("rig-flood", flood),
    scenario("rig-watches-used-up", used_up),
    scenario("rig-unseen", unseen),
];

fn want(holds: bool, what: &str, rig: &Rig) -> Result {
    if holds { Ok(()) } else { Err(format!("{what}\ninit said:\n{}", rig.init_said()).into()) }
}

/// Has a state applied that may never hold still.
fn begin(rig: &Rig, state: &str) -> Result {
    // What is contested is not kept, and says so in the exit code.
    let waited = rig.initctl(&["wait", "--converged", "--timeout", "60s"])?;
    want(matches!(waited.code, 0 | 1), &format!("wait ended with {}: {}", waited.code, waited.err), rig)?;
    let path = rig.state_file("next.toml", state)?;
    let said = rig.initctl(&["apply", &path])?;
    want(matches!(said.code, 0 | 1), &format!("apply ended with {}: {}", said.code, said.err), rig)
}

fn cause(status: &Value) -> &str {
    status.get("cause").and_then(Value::as_str).unwrap_or_default()
}

/// A file, and a service that never stops writing another text into it.
const FOUGHT: &str = r#"
[file."/srv/fought"]
content = "ours\n"
settle  = "10ms"

[service.rewriter]
exec = ["sh", "-c", "while :; do echo theirs > /srv/fought; sleep 0.1; done"]
"#;

/// Open fanotify groups of init.
fn groups(rig: &Rig) -> Result<usize> {
    let mut found = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", rig.pid()?))? {
        let link = std::fs::read_link(entry?.path()).unwrap_or_default();
        found += usize::from(link.to_string_lossy().contains("fanotify"));
    }
    Ok(found)
}

/// Who rewrites a managed file again and again is named: process, program and service; also after a re-exec. Nothing
/// listens for him before, nor once he is known.
fn culprit(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    want(groups(&rig)? == 0, "something listens although nothing is contested", &rig)?;
    begin(&rig, FOUGHT)?;
    let named = |s: &Value| cause(s).starts_with("contested: sh (pid");
    let status = rig.until("file:/srv/fought", "contested by somebody", named)?;
    println!("{}", cause(&status));
    let pid = rig.main_pid("service:rewriter")?;
    let told = cause(&status);
    want(told.contains(&format!("(pid {pid}, /")), &format!("not pid {pid}: {told}"), &rig)?;
    want(told.contains(", of service:rewriter) keeps changing it"), told, &rig)?;
    let text = rig.initctl(&["status", "file:/srv/fought"])?.out;
    want(text.contains(told), &format!("status says: {text}"), &rig)?;
    want(groups(&rig)? == 0, "something listens although the culprit is known", &rig)?;
    rig.ok(&["reexec"])?;
    let again = rig.until("file:/srv/fought", "contested by somebody", named)?;
    want(cause(&again) == told, &format!("after a re-exec: {}", cause(&again)), &rig)
}

/// Fights five times, and then not any more.
const TIRED: &str = r#"
[line.fought]
path    = "/srv/shared"
line    = "a=ours"
matches = "^a="
settle  = "10ms"

[service.rewriter]
requires = ["line:fought"]
exec     = ["sh", "-c", """
for n in 1 2 3 4 5; do
    until grep -q '^a=ours' /srv/shared; do sleep 0.05; done
    echo a=theirs > /srv/shared
done
exec sleep infinity
"""]
"#;

/// Holdfast itself writes into a contested file, for another unit: nobody is named for that. Who really touches the
/// file next is.
fn culprit_ourselves(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    std::fs::write(rig.inside("/srv/shared")?, "other\n")?;
    // It settles for longer than the others take to fight.
    let more = "[line.more]\npath = \"/srv/shared\"\nline = \"b=ours\"\nsettle = \"1s\"\n";
    begin(&rig, &format!("{TIRED}\n{more}"))?;
    rig.until("line:fought", "contested", |s| cause(s).starts_with("contested"))?;
    rig.until("line:more", "repaired", |s| s.get("outcome").and_then(Value::as_str) == Some("repaired"))?;
    let text = std::fs::read_to_string(rig.inside("/srv/shared")?)?;
    want(text.contains("b=ours"), &text, &rig)?;
    let status = rig.status("line:fought")?;
    println!("{}", cause(&status));
    want(cause(&status) == "contested: somebody keeps changing it", cause(&status), &rig)?;
    want(groups(&rig)? == 1, "nothing listens", &rig)?;
    let _ = rig.run(&["sh", "-c", "echo a=mine >> /srv/shared; sleep 1"])?;
    let named = |s: &Value| cause(s).starts_with("contested: sh (pid");
    let status = rig.until("line:fought", "contested by somebody", named)?;
    println!("{}", cause(&status));
    Ok(())
}

/// In a user namespace the kernel does not tell; status says so.
fn culprit_unknown(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { user: true, ..Setup::default() })?;
    begin(&rig, FOUGHT)?;
    let unknown = |s: &Value| cause(s).contains("unknown: telling takes CAP_SYS_ADMIN");
    let status = rig.until("file:/srv/fought", "contested by somebody unknown", unknown)?;
    println!("{}", cause(&status));
    Ok(())
}

/// A file in a directory that is open to everybody, one beside it, and somebody without rights who makes events there as
/// fast as he can.
const FLOODED: &str = r#"
[directory."/srv/open"]
mode = "1777"

[file."/srv/open/motd"]
content = "motd\n"

[file."/srv/quiet"]
content = "quiet\n"

[service.flooder]
requires = ["file:/srv/open/motd"]
user     = "nobody"
exec     = ["sh", "-c", "while :; do for n in 1 2 3 4 5 6 7 8; do : > /srv/open/junk.$n; done; done"]
"#;

/// Processor time that init itself has used.
fn processor_time(rig: &Rig) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", rig.pid()?))?;
    Ok(Duration::from_nanos(stat.split(' ').next().ok_or("no schedstat")?.parse()?))
}

/// Nobody can make work beyond a bounded rate, nor have anything looked at outside of what is open to him; and what he
/// drowns is repaired all the same.
fn flood(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    begin(&rig, FLOODED)?;
    rig.until_said("others than root change too much in \"/srv/open\"")?;
    let (begun, used) = (Instant::now(), processor_time(&rig)?);
    for name in ["open/motd", "quiet", "open/motd"] {
        let path = rig.inside("/srv")?.join(name);
        let right = std::fs::read_to_string(&path)?;
        let damaged = Instant::now();
        std::fs::write(&path, "damage\n")?;
        rig.until_file(&format!("/srv/{name}"), "repaired", |p| {
            std::fs::read_to_string(p).is_ok_and(|t| t == right)
        })?;
        println!("{name}: repaired after {} ms", damaged.elapsed().as_millis());
    }
    let (took, used) = (begun.elapsed(), processor_time(&rig)? - used);
    println!("init used {} ms of {} ms", used.as_millis(), took.as_millis());
    want(used < took / 4 + Duration::from_millis(100), "the flood keeps init busy", &rig)?;
    let all = rig.init_said().contains("everything that is watched");
    want(!all, "somebody without rights had everything looked at", &rig)?;
    let told = rig.init_said().matches("change too much").count();
    want(told == 1, &format!("it is told {told} times"), &rig)
}

/// Where no more watches are to be had, status names the units and the setting. The limit of the user namespace stands
/// in for the machine's, with the same answer of the kernel.
fn used_up(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { user: true, ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let pid = rig.pid()?.to_string();
    let limit = "echo 4 > /proc/sys/user/max_inotify_watches";
    let set = std::process::Command::new("nsenter")
        .args(["--preserve-credentials", "-U", "-m", "-t", &pid, "--", "sh", "-c", limit])
        .status()?;
    want(set.success(), "the limit cannot be set", &rig)?;
    rig.apply("[file.\"/srv/a/b/c/d/deep\"]\ncontent = \"x\"\n")?;
    let status = rig.status("file:/srv/a/b/c/d/deep")?;
    let told = status.get("unenforced").map(Value::to_string).unwrap_or_default();
    println!("{told}");
    want(told.contains("fs.inotify.max_user_watches"), &format!("status says: {status}"), &rig)?;
    want(rig.init_said().contains("cannot watch /srv/a/b/c/d/deep"), "the log says nothing", &rig)
}

const UNSEEN: &str = r#"
[file."/srv/a/b/c/file"]
content = "ours\n"

[sysctl."net.core.somaxconn"]
value = 4242
"#;

/// What inotify does not tell by itself: a write through another name, a moved ancestor, a foreign mount over it and its
/// end, a kernel setting.
fn unseen(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let sh = |line: &str| -> Result {
        let said = rig.run(&["sh", "-c", line])?;
        want(said.code == 0, &format!("{line}: {}", said.err), &rig)
    };
    let right = |p: &std::path::Path| std::fs::read_to_string(p).is_ok_and(|t| t == "ours\n");
    let repaired = |what: &str| rig.until_file("/srv/a/b/c/file", what, right);
    // The other name is there when the file is looked at, so that its inode is watched.
    sh(
        "mkdir -p /srv/a/b/c /srv/elsewhere; echo ours > /srv/a/b/c/file; ln /srv/a/b/c/file /srv/elsewhere/name",
    )?;
    rig.apply(UNSEEN)?;
    sh("echo theirs > /srv/elsewhere/name")?;
    repaired("repaired after a write through another name")?;
    sh("mv /srv/a /srv/moved")?;
    repaired("there again after its grandparent was moved")?;
    sh("mount -t tmpfs none /srv/a/b")?;
    repaired("made in the foreign mount")?;
    sh("umount -l /srv/a/b && echo theirs > /srv/a/b/c/file")?;
    repaired("repaired below the mount that has gone")?;
    let setting = "/proc/sys/net/core/somaxconn";
    sh(&format!("echo 77 > {setting}"))?;
    let read = || rig.run(&["cat", setting]).is_ok_and(|s| s.out.trim() == "4242");
    rig.until_true("the setting is repaired", read)
}
