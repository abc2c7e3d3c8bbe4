//! PID 1 and the worker in the fast rig: apply, drift, rollback, and states with mistakes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup, holds, tree, want};

const LIMIT: Duration = Duration::from_secs(300);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-apply", apply),
    scenario("rig-apply-again-after-restart", apply_again),
    scenario("rig-drift-after-reexec", drift_after_reexec),
    scenario("rig-bad-state", bad_state),
    scenario("rig-reload", reload),
    scenario("rig-large", large),
    scenario("rig-reexec-during-apply", reexec_during_apply),
    scenario("rig-power-loss", power_loss),
    scenario("rig-full-and-read-only", full_and_read_only),
    scenario("rig-in-the-way", in_the_way),
    scenario("rig-apply-not-kept-elsewhere", not_kept_elsewhere),
    scenario("rig-held-and-dropped", held_and_dropped),
];

const ONE: &str = r#"
[file."/srv/motd"]
content = "one\n"

[service.sleeper]
exec = ["sleep", "infinity"]
requires = ["file:/srv/motd"]
"#;

/// A state file is applied; the file is there and the service runs. The same state again does nothing.
fn apply(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(ONE)?;
    rig.until_state("service:sleeper", "ready")?;
    want(holds(&rig.inside("/srv/motd")?, "one\n"), "/srv/motd is another", &rig)?;
    let pid = rig.main_pid("service:sleeper")?;
    let said = rig.apply(ONE)?;
    want(said.contains("generation 1"), &format!("the same state is another generation: {said}"), &rig)?;
    want(rig.main_pid("service:sleeper")? == pid, "the service was restarted", &rig)?;
    let path = rig.state_file("next.toml", ONE)?;
    let refused = rig.initctl(&["apply", "--if-generation", "7", &path])?;
    want(refused.code == 4, &format!("--if-generation 7 ended with {}", refused.code), &rig)
}

/// The code of an apply says what its last line says, also of what it does not change; it does not return for that.
fn not_kept_elsewhere(context: &Context) -> Result {
    let impossible = "[sysctl.\"net.ipv4.there_is_none\"]\nvalue = 1\n";
    let rig = Rig::start(context, &Setup { first: Some(impossible), ..Setup::default() })?;
    rig.initctl(&["wait", "--converged", "--timeout", "60s"])?;
    let next =
        rig.state_file("next.toml", &format!("{impossible}[file.\"/srv/a\"]\ncontent = \"a\\n\"\n"))?;
    for time in ["first", "again"] {
        let said = rig.initctl(&["apply", &next])?;
        let agree = said.code == 1 && said.out.contains("1 not kept");
        want(agree, &format!("{time}: {said:?}"), &rig)?;
        want(holds(&rig.inside("/srv/a")?, "a\n"), &format!("{time}: it was returned: {said:?}"), &rig)?;
    }
    Ok(())
}

/// What is held is left when nobody declares it any more, and its hold is remembered.
fn held_and_dropped(context: &Context) -> Result {
    let other = "[file.\"/srv/other\"]\ncontent = \"other\\n\"\n";
    let rig = Rig::start(context, &Setup::default())?;
    let both = format!(
        "{other}[file.\"/srv/held\"]\ncontent = \"ours\\n\"\n[service.web]\nexec = [\"sleep\", \"infinity\"]\n"
    );
    rig.apply(&both)?;
    rig.ok(&["hold", "file:/srv/held"])?;
    rig.ok(&["stop", "service:web"])?;
    let file = rig.inside("/srv/held")?;
    std::fs::write(&file, "theirs\n")?;
    let said = rig.apply(other)?;
    want(said.contains("file:/srv/held"), &format!("the held file is not named: {said}"), &rig)?;
    want(holds(&file, "theirs\n"), "the held file was touched", &rig)?;
    rig.ok(&["reexec"])?;
    let listed = rig.ok(&["status", "--all"])?;
    want(
        listed.contains("file:/srv/held") && listed.contains("service:web"),
        &format!("not listed: {listed}"),
        &rig,
    )?;
    rig.apply(&both)?;
    want(rig.status("service:web")?.get("state").is_some_and(|s| s == "down"), "it was started", &rig)?;
    want(holds(&file, "theirs\n"), "the held file was touched", &rig)?;
    rig.apply(other)?;
    rig.ok(&["resume", "file:/srv/held"])?;
    rig.until_true("it is purged when the hold ends", || !file.exists())
}

/// What was applied comes back after init was started anew: from the store, without a state file.
fn apply_again(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(ONE)?;
    rig.ok(&["poweroff"])?;
    rig.left()?;
    rig.start_again(&Setup::default())?;
    rig.until_state("service:sleeper", "ready")?;
    want(holds(&rig.inside("/srv/motd")?, "one\n"), "/srv/motd did not come back", &rig)
}

const TREE: &str = r#"
[file."/srv/site/page"]
content = "page\n"
mode    = "0640"
owner   = "root"
group   = "root"

[file."/srv/site/deep/er/file"]
content = "deep\n"

[directory."/srv/site/deep/er"]
mode = "0750"

[symlink."/srv/site/link"]
target = "page"
"#;

fn is_whole(at: &Path) -> bool {
    let page = at.join("page");
    let about = std::fs::symlink_metadata(&page).is_ok_and(|m| {
        m.is_file() && m.permissions().mode() & 0o7777 == 0o640 && m.uid() == 0 && m.gid() == 0
    });
    let directory =
        std::fs::symlink_metadata(at.join("deep/er")).is_ok_and(|m| m.permissions().mode() & 0o7777 == 0o750);
    about
        && directory
        && holds(&page, "page\n")
        && holds(&at.join("deep/er/file"), "deep\n")
        && std::fs::read_link(at.join("link")).is_ok_and(|t| t == Path::new("page"))
}

/// A re-exec loses no watch.
fn drift_after_reexec(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(TREE)?;
    rig.ok(&["reexec"])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let site = rig.inside("/srv/site")?;
    std::fs::write(site.join("page"), "other\n")?;
    rig.until_true("the edit is repaired", || is_whole(&site))
}

/// States with mistakes are refused as a whole, with every mistake, and nothing changes.
fn bad_state(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(ONE)?;
    let root = rig.inside("/srv")?;
    let before = tree::lines(&root)?;
    for (text, expected) in [
        ("[file.\"/srv/motd\"\n", "1:"),
        ("[service.a]\nexec = \"x\"\nreqires = []\n[filee.\"/x\"]\ncontent = \"\"\n", "requires"),
        (
            "[service.a]\nexec = \"x\"\nrequires = [\"service:b\"]\n[service.b]\nexec = \"x\"\nrequires = [\"service:a\"]\n",
            "service:b",
        ),
    ] {
        let path = rig.state_file("bad.toml", text)?;
        let said = rig.initctl(&["apply", &path])?;
        want(said.code == 2, &format!("{text:?} ended with {}", said.code), &rig)?;
        let all = format!("{}{}", said.out, said.err);
        want(all.contains(expected), &format!("{text:?}: no word of {expected:?} in: {all}"), &rig)?;
    }
    // A file where a directory should be.
    let state = format!("{ONE}\n[file.\"/srv/motd/inside\"]\ncontent = \"x\"\n");
    let path = rig.state_file("below.toml", &state)?;
    let said = rig.initctl(&["apply", &path])?;
    want(said.code != 0, "a file below a file was accepted", &rig)?;
    want(tree::lines(&root)? == before, "the tree has changed", &rig)?;
    rig.until_state("service:sleeper", "ready")?;
    Ok(())
}

/// A service that can reload is reloaded when its file changes; its process stays.
fn reload(context: &Context) -> Result {
    let state = |text: &str| {
        format!(
            r#"
[file."/srv/conf"]
content = "{text}"

[service.daemon]
exec      = ["sh", "-c", "trap 'cat /srv/conf >> /srv/loaded' HUP; cat /srv/conf > /srv/loaded; while :; do sleep 0.05; done"]
reload    = "HUP"
reload-on = ["file:/srv/conf"]
"#
        )
    };
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(&state("a"))?;
    let loaded = rig.inside("/srv/loaded")?;
    rig.until_true("the first configuration is loaded", || holds(&loaded, "a"))?;
    let pid = rig.main_pid("service:daemon")?;
    rig.apply(&state("b"))?;
    rig.until_true("the second configuration is loaded", || holds(&loaded, "ab"))?;
    want(rig.main_pid("service:daemon")? == pid, "the daemon was restarted", &rig)
}

/// Thousands of files in one apply, and one of them repaired.
fn large(context: &Context) -> Result {
    let count = if context.full { 10_000 } else { 1_000 };
    let rig = Rig::start(context, &Setup::default())?;
    let empty = rig.memory()?;
    let mut state = String::new();
    for n in 0..count {
        state.push_str(&format!("[file.\"/srv/many/{}/{n}\"]\ncontent = \"file {n}\\n\"\n", n % 100));
    }
    let begun = std::time::Instant::now();
    rig.apply(&state)?;
    println!("{count} files applied in {} ms", begun.elapsed().as_millis());
    let memory = rig.memory()?;
    println!("memory of init: {} bytes a file", memory.saturating_sub(empty) / count);
    let one = rig.inside("/srv/many/7/107")?;
    std::fs::write(&one, "damage")?;
    rig.until_true("the file is repaired", || holds(&one, "file 107\n"))
}

fn many(count: usize, text: &str) -> String {
    let file = |n: usize| format!("[file.\"/srv/many/{}/{n}\"]\ncontent = \"{text} {n}\\n\"\n", n % 20);
    (0..count).map(file).collect()
}

/// init executes itself again in the middle of an apply: the apply goes on.
fn reexec_during_apply(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let mut events = rig.events()?;
    let path = rig.state_file("many.toml", &many(1000, "first"))?;
    let _apply = rig.follow(&["apply", &path])?;
    let deadline = Instant::now() + LIMIT;
    while events.next(deadline)?.is_some_and(|line| !line.contains("many.toml")) {}
    for _ in 0..3 {
        rig.ok(&["reexec"])?;
    }
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let status = rig.ok(&["status"])?;
    want(status.contains("generation 1"), &format!("another generation: {status}"), &rig)?;
    for n in [0, 500, 999] {
        let path = rig.inside(&format!("/srv/many/{}/{n}", n % 20))?;
        want(holds(&path, &format!("first {n}\n")), &format!("file {n} is not there"), &rig)?;
    }
    Ok(())
}

/// The power goes at some moment of an apply; afterwards the machine has the old state or the new one, whole.
fn power_loss(context: &Context) -> Result {
    let count = 200;
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(&many(count, "old"))?;
    let root = rig.inside("/srv")?;
    let old = tree::lines(&root)?;
    let path = rig
        .state_file("new.toml", &format!("{}[file.\"/srv/extra\"]\ncontent = \"x\"\n", many(count, "new")))?;
    let mut outcomes = Vec::new();
    // Further and further into the apply: after so many lines of its events.
    for lines in [1, 20, 100, 201] {
        let mut events = rig.events()?;
        let apply = rig.follow(&["apply", &path])?;
        let deadline = Instant::now() + LIMIT;
        let mut seen = 0;
        while seen < lines {
            match events.next(deadline)? {
                Some(line) if line.contains("file:/srv") => seen += 1,
                Some(_) => {}
                None => return Err("the apply does not go on".into()),
            }
        }
        rig.cut_power()?;
        drop(apply);
        rig.start_again(&Setup::default())?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        let root = rig.inside("/srv")?;
        let now = tree::lines(&root)?;
        let extra = root.join("extra").exists();
        let whole = if extra {
            (0..count).all(|n| holds(&root.join(format!("many/{}/{n}", n % 20)), &format!("new {n}\n")))
        } else {
            // What was in its place already is put right by the boot: the file is the old one, and its time is not.
            tree::timeless(&now) == tree::timeless(&old)
        };
        let difference = tree::difference(&old, &now);
        let text = format!("after {lines} lines the tree is neither the old nor the new one:\n{difference}");
        want(whole, &text, &rig)?;
        outcomes.push(format!("{lines}: {}", if extra { "new" } else { "old" }));
        if extra {
            break;
        }
    }
    println!("{}", outcomes.join(", "));
    Ok(())
}

/// A full and a read-only file system: the apply says so and returns; everything else is as it was.
fn full_and_read_only(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(ONE)?;
    for (name, options, words) in [("full", "size=64k", "space"), ("fixed", "ro", "ead-only")] {
        let at = format!("/srv/{name}");
        std::fs::create_dir(rig.inside(&at)?)?;
        let mounted = rig.run(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", &at])?;
        want(mounted.code == 0, &mounted.err, &rig)?;
        let state = format!("{ONE}\n[file.\"{at}/large\"]\ncontent = \"{}\"\n", "x".repeat(200_000));
        let path = rig.state_file("large.toml", &state)?;
        let said = rig.initctl(&["apply", &path])?;
        let all = format!("{}{}", said.out, said.err);
        want(said.code == 5, &format!("{name}: apply ended with {}: {all}", said.code), &rig)?;
        want(all.contains(words), &format!("{name}: the cause is not told: {all}"), &rig)?;
        let left = std::fs::read_dir(rig.inside(&at)?)?.count();
        want(left == 0, &format!("{name}: {left} entries are left"), &rig)?;
        rig.until_state("service:sleeper", "ready")?;
    }
    want(holds(&rig.inside("/srv/motd")?, "one\n"), "/srv/motd has changed", &rig)
}

/// What the machine has where a state wants something else: said, and nothing of anybody's is lost.
fn in_the_way(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    std::fs::write(rig.inside("/srv/data")?, "somebody's\n")?;
    std::fs::create_dir(rig.inside("/srv/place")?)?;
    std::fs::write(rig.inside("/srv/place/keep")?, "somebody's\n")?;
    for state in
        ["[file.\"/srv/data/inside\"]\ncontent = \"x\"\n", "[file.\"/srv/place\"]\ncontent = \"x\"\n"]
    {
        let path = rig.state_file("way.toml", state)?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
        let said = rig.initctl(&["apply", &path])?;
        println!("{}{}", said.out, said.err);
        want(said.code == 5, &format!("apply ended with {}", said.code), &rig)?;
    }
    want(holds(&rig.inside("/srv/data")?, "somebody's\n"), "a file is lost", &rig)?;
    want(holds(&rig.inside("/srv/place/keep")?, "somebody's\n"), "a directory's content is lost", &rig)
}
