//! Back to an earlier generation in the fast rig, compared as whole trees.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup, holds, tree, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(3), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-rollback", rollback),
    scenario("rig-rollback-far", far),
    scenario("rig-return", returns),
    scenario("rig-cut-apply", cut),
    scenario("rig-purge-deferred", deferred),
    scenario("rig-words", words),
];

const ONE: &str = r#"
[file."/srv/motd"]
content = "one\n"

[file."/srv/kept/as-it-is"]
content = "the same\n"
mode    = "0640"
xattrs  = { "user.note" = "one" }

[file."/srv/twins/a"]
content = "two names\n"

[directory."/srv/place"]
mode = "0750"

[symlink."/srv/alias"]
target = "motd"

[line.setting]
path  = "/srv/theirs.conf"
line  = "setting = 1"
matches = "^setting"

[sysctl."net.ipv4.ip_default_ttl"]
value = 70

[user.first]
uid = 4321
shell = "/bin/sh"

[service.sleeper]
exec = ["sleep", "infinity"]
requires = ["file:/srv/motd"]
"#;

/// Differs from the first in every way: contents, modes, attributes, kinds of things, what is there at all.
const TWO: &str = r#"
[file."/srv/motd"]
content = "two\n"
mode    = "0600"
owner   = "daemon"
xattrs  = { "user.note" = "two" }

[file."/srv/kept/as-it-is"]
content = "the same\n"
mode    = "0400"
xattrs  = { "user.note" = "two" }

[file."/srv/twins/a"]
content = "on its own\n"

[file."/srv/twins/c"]
content = "one more\n"

[file."/srv/stranger"]
content = "taken over\n"

[file."/srv/place/new/deep/file"]
content = "deep\n"

[directory."/srv/place"]
mode = "0700"
owner = "daemon"

[symlink."/srv/alias"]
target = "elsewhere"

[symlink."/srv/another"]
target = "motd"

[line.setting]
path  = "/srv/theirs.conf"
line  = "setting = 2"
matches = "^setting"

[line.more]
path  = "/srv/theirs.conf"
line  = "more"

[sysctl."net.ipv4.ip_default_ttl"]
value = 80

[sysctl."net.ipv4.tcp_syn_retries"]
value = 3

[user.first]
uid = 4321
shell = "/bin/false"

[user.second]
uid = 4322

[service.sleeper]
exec = ["sleep", "1000000"]
requires = ["file:/srv/motd"]

[service.other]
exec = ["sleep", "infinity"]
"#;

/// What is on the machine before anybody declares anything.
fn furnish(srv: &Path) -> Result {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::create_dir(srv.join("twins"))?;
    for (name, text, mode) in [
        ("stranger", "not ours\n", 0o4711),
        ("theirs.conf", "first\nsetting = 0\nlast\n", 0o664),
        ("twins/a", "two names\n", 0o644),
        ("twins/c", "three names\n", 0o600),
    ] {
        let path = srv.join(name);
        std::fs::write(&path, text)?;
        let file = std::fs::File::open(&path)?;
        cm_core::sys::set_xattr(&file, "user.theirs", name.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        std::fs::File::options().write(true).open(&path)?.set_modified(long_ago)?;
    }
    std::fs::hard_link(srv.join("twins/a"), srv.join("twins/b"))?;
    std::fs::create_dir(srv.join("far"))?;
    std::fs::hard_link(srv.join("twins/c"), srv.join("twins/d"))?;
    std::fs::hard_link(srv.join("twins/c"), srv.join("far/c"))?;
    symlink("nowhere", srv.join("dangling"))?;
    Ok(())
}

/// Everything that can be seen: the tree, the user databases, the settings.
fn machine(rig: &Rig) -> Result<Vec<String>> {
    let mut out = tree::lines(&rig.inside("/srv")?)?;
    for name in ["passwd", "group", "shadow", "gshadow"] {
        let text = std::fs::read_to_string(rig.inside("/etc")?.join(name))?;
        out.extend(text.lines().map(|l| format!("{name}: {l}")));
    }
    let settings =
        rig.run(&["cat", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/net/ipv4/tcp_syn_retries"])?;
    out.push(format!("settings: {}", settings.out.trim().replace('\n', " ")));
    Ok(out)
}

/// A machine with the first state, and what it looks like.
fn first(context: &Context) -> Result<(Rig, Vec<String>)> {
    let rig = Rig::start(context, &Setup { etc: true, ..Setup::default() })?;
    furnish(&rig.inside("/srv")?)?;
    rig.apply(ONE)?;
    let before = machine(&rig)?;
    Ok((rig, before))
}

/// Nothing differs but what cannot come back: a user that the newer generation made is locked, not removed.
fn same(rig: &Rig, before: &[String], after: &[String], locked: &[&str]) -> Result {
    let made = |l: &&String| locked.iter().any(|u| l.contains(&format!(": {u}:")));
    let after: Vec<String> = after.iter().filter(|l| !made(l)).cloned().collect();
    println!("before {}\nafter  {}", tree::hash(before), tree::hash(&after));
    let (was, is) = (comparable(before), comparable(&after));
    want(was == is, &format!("not as it was:\n{}", tree::difference(&was, &is)), rig)
}

/// The times of links and of files that an edit of a line has made again are their own.
fn comparable(lines: &[String]) -> Vec<String> {
    let line = |l: &String| {
        let own = l.starts_with("theirs.conf:") || l.starts_with("alias:");
        if own { tree::timeless(std::slice::from_ref(l)).concat() } else { l.clone() }
    };
    lines.iter().map(line).collect()
}

/// Back to the generation before: contents, kinds, owners, modes, attributes, links of both sorts, times, users, lines
/// and settings are as they were; who was made since is locked.
fn rollback(context: &Context) -> Result {
    let (rig, before) = first(context)?;
    rig.apply(TWO)?;
    rig.until_state("service:other", "ready")?;
    let between = machine(&rig)?;
    want(before != between, "the second state changed nothing", &rig)?;
    rig.ok(&["rollback"])?;
    same(&rig, &before, &machine(&rig)?, &["second"])?;
    let shadow = std::fs::read_to_string(rig.inside("/etc/shadow")?)?;
    let second = shadow.lines().find(|l| l.starts_with("second:")).unwrap_or_default();
    want(second.starts_with("second:!"), &format!("who was made since is not locked: {second:?}"), &rig)?;
    rig.until_state("service:sleeper", "ready")?;
    want(rig.initctl(&["status", "service:other"])?.code != 0, "service:other is still there", &rig)
}

/// Over several generations at once, and forward again.
fn far(context: &Context) -> Result {
    let files = |text: &str| {
        let end = text.find("[service.sleeper]").unwrap_or(text.len());
        text.get(..end).unwrap_or_default().to_owned()
    };
    let rig = Rig::start(context, &Setup { etc: true, ..Setup::default() })?;
    furnish(&rig.inside("/srv")?)?;
    rig.apply(&files(ONE))?;
    let one = machine(&rig)?;
    rig.apply(&files(TWO))?;
    rig.apply("[file.\"/srv/twins/b\"]\ncontent = \"b\\n\"\n[file.\"/srv/far/c\"]\ncontent = \"c\\n\"\n")?;
    rig.apply("")?;
    rig.ok(&["rollback", "1"])?;
    same(&rig, &one, &machine(&rig)?, &["second"])
}

/// An apply whose service cannot start returns to the old generation by itself.
fn returns(context: &Context) -> Result {
    let (rig, before) = first(context)?;
    let broken = TWO.replace("[\"sleep\", \"1000000\"]", "[\"/nowhere/at/all\"]");
    let path = rig.state_file("broken.toml", &broken)?;
    let said = rig.initctl(&["apply", &path])?;
    println!("{}{}", said.out, said.err);
    want(said.code == 5, &format!("apply ended with {}", said.code), &rig)?;
    same(&rig, &before, &machine(&rig)?, &["second"])?;
    rig.until_state("service:sleeper", "ready")?;
    Ok(())
}

/// The power goes in the middle of an apply: the next boot undoes it, and does nothing else to it before, so that times
/// and links are as they were.
fn cut(context: &Context) -> Result {
    let (mut rig, before) = first(context)?;
    let never = format!("{TWO}\n[service.never]\nexec = [\"sleep\", \"infinity\"]\nready = \"notify\"\n");
    let path = rig.state_file("never.toml", &never)?;
    let apply = rig.follow(&["apply", &path])?;
    // Nothing of it is known until init has swapped to it.
    rig.until_true("service:never is starting", || {
        rig.status("service:never").is_ok_and(|s| word(&s, "state") == "starting")
    })?;
    rig.until("file:/srv/twins/c", "changed", |s| word(s, "outcome") == "changed")?;
    let between = machine(&rig)?;
    want(before != between, "the second state changed nothing", &rig)?;
    rig.cut_power()?;
    drop(apply);
    rig.start_again(&Setup { etc: true, ..Setup::default() })?;
    rig.until_said("was interrupted: undoing it")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    same(&rig, &before, &machine(&rig)?, &["second"])?;
    want(!rig.init_said().contains("repaired file:"), "something was repaired first", &rig)?;
    // It is undone once, and not at the next boot again. The record of that follows when all is converged.
    rig.until_host(&rig.directory().join("store/journal"), "the return is written down", |_| {
        rig.initctl(&["generations"]).is_ok_and(|g| g.code == 0 && !g.out.contains("unfinished"))
    })?;
    rig.cut_power()?;
    rig.start_again(&Setup { etc: true, ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let undone = rig.init_said().matches("was interrupted").count();
    want(undone == 1, &format!("it is undone {undone} times"), &rig)?;
    same(&rig, &before, &machine(&rig)?, &["second"])
}

/// A directory that is mounted at another place, so that what lies below outlives the mount, and files below it.
fn below_mount(files: &[&str]) -> String {
    let mut state = String::from(
        "[directory.\"/srv/disk\"]\n[directory.\"/srv/m\"]\n\
         [mount.\"/srv/m\"]\nsource = \"/srv/disk\"\nfstype = \"none\"\noptions = [\"bind\"]\nrequires = [\"directory:/srv/disk\"]\n",
    );
    for file in files {
        state += &format!("[file.\"/srv/m/{file}\"]\ncontent = \"{file}\\n\"\n");
    }
    state
}

/// What cannot be removed since its mount is absent is removed when that is back: across a re-exec, and by the next boot.
/// That goes for files and for what is in them.
fn deferred(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(&below_mount(&["a", "b", "c"]))?;
    let there = |rig: &Rig, file: &str| -> Result<bool> { Ok(rig.inside("/srv/disk")?.join(file).exists()) };
    let lines =
        |rig: &Rig| -> Result<String> { Ok(std::fs::read_to_string(rig.inside("/srv/disk/lines")?)?) };
    std::fs::write(rig.inside("/srv/disk/lines")?, "theirs\n")?;
    let with_lines = |files: &[&str], names: &[&str]| {
        let mut state = below_mount(files);
        for name in names {
            state += &format!("[line.{name}]\npath = \"/srv/m/lines\"\nline = \"{name}\"\n");
        }
        state
    };
    rig.apply(&with_lines(&["a", "b", "c"], &["first", "second"]))?;
    want(lines(&rig)? == "theirs\nfirst\nsecond\n", "the lines are not in", &rig)?;
    rig.ok(&["stop", "mount:/srv/m"])?;
    rig.apply(&with_lines(&["b", "c"], &["second"]))?;
    rig.until_state("file:/srv/m/a", "waiting")?;
    rig.until_state("line:first", "waiting")?;
    want(there(&rig, "a")?, "it is gone although its mount is absent", &rig)?;
    rig.ok(&["reexec"])?;
    rig.until_said("has taken over")?;
    rig.ok(&["start", "mount:/srv/m"])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(!there(&rig, "a")?, "it is still there", &rig)?;
    want(lines(&rig)? == "theirs\nsecond\n", "the line is still in", &rig)?;
    want(there(&rig, "b")?, "what is declared is gone", &rig)?;

    rig.ok(&["stop", "mount:/srv/m"])?;
    rig.apply(&below_mount(&["c"]))?;
    rig.until_state("file:/srv/m/b", "waiting")?;
    rig.until_state("line:second", "waiting")?;
    rig.cut_power()?;
    rig.start_again(&Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(!there(&rig, "b")?, "the next boot has not removed it", &rig)?;
    want(lines(&rig)? == "theirs\n", "the next boot has not taken the line out", &rig)?;
    want(there(&rig, "c")?, "what is declared is gone", &rig)
}

/// What the first boot to a state makes is changed, also what is only reported later; what a later boot finds otherwise is
/// repaired; what a rollback puts back is restored, and what it takes away removed.
fn words(context: &Context) -> Result {
    const FIRST: &str = r#"
[file."/srv/made"]
content = "made\n"

[file."/srv/told"]
content = "told\n"
drift   = "report"
"#;
    let mut rig = Rig::start(context, &Setup { state: Some(FIRST), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    for unit in ["file:/srv/made", "file:/srv/told"] {
        let status = rig.status(unit)?;
        want(word(&status, "outcome") == "changed", &format!("at the first boot: {status}"), &rig)?;
    }
    want(!rig.init_said().contains("repaired file"), "the first boot is told as a repair", &rig)?;
    want(holds(&rig.inside("/srv/told")?, "told\n"), "what is only reported was never made", &rig)?;
    want(rig.ok(&["history"])?.contains("nothing was replaced"), "something was replaced", &rig)?;

    let theirs = rig.inside("/srv/theirs")?;
    std::fs::write(&theirs, "theirs\n")?;
    let second = format!(
        "{FIRST}[file.\"/srv/theirs\"]\ncontent = \"ours\\n\"\n[file.\"/srv/ours\"]\ncontent = \"ours\\n\"\n"
    );
    rig.apply(&second)?;
    let told = rig.ok(&["rollback"])?;
    println!("{told}");
    let line = |word: &str, unit: &str| told.lines().any(|l| l.split_whitespace().take(2).eq([word, unit]));
    want(line("restored", "file:/srv/theirs"), "what was put back is not told as restored", &rig)?;
    want(!line("removed", "file:/srv/theirs"), "what was put back is told as removed", &rig)?;
    want(line("removed", "file:/srv/ours"), "what was taken away is not told as removed", &rig)?;
    want(holds(&theirs, "theirs\n"), "it was not put back", &rig)?;

    // The same state again is no first boot.
    rig.cut_power()?;
    let made = rig.directory().join("managed/made");
    std::fs::write(&made, "drifted\n")?;
    rig.start_again(&Setup { state: Some(FIRST), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let status = rig.status("file:/srv/made")?;
    want(word(&status, "outcome") == "repaired", &format!("at a later boot: {status}"), &rig)
}
