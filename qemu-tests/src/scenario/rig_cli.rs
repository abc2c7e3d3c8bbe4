//! `initctl` against a running init: what people meet when they type.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup, word};

const LIMIT: Duration = Duration::from_secs(300);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-apply-given-up", given_up),
    scenario("rig-cli-store-comes-late", store_comes_late),
    scenario("rig-cli-store-in-run", store_in_run),
    scenario("rig-cli-history", history),
    scenario("rig-cli-part", part),
    scenario("rig-cli-first-steps", first_steps),
    scenario("rig-cli-held-input", held_input),
    scenario("rig-cli-what-is-gone", what_is_gone),
    scenario("rig-cli-by-hand", by_hand),
    scenario("rig-cli-wait-for-what-goes", wait_for_what_goes),
];

fn want(holds: bool, what: &str, rig: &Rig) -> Result {
    if holds { Ok(()) } else { Err(format!("{what}\ninit said:\n{}", rig.init_said()).into()) }
}

/// The store lies on a mount that has to wait for a gate, as it would for a disk that is slow to come.
const LATE: &str = r#"
[mount."/srv/disk"]
source   = "late"
fstype   = "tmpfs"
requires = ["exec:gate"]

[exec.gate]
command = ["sh", "-c", "mkfifo /srv/gate; read line < /srv/gate"]
once    = "boot"
"#;

const MOTD: &str = "[file.\"/srv/motd\"]\ncontent = \"one\\n\"\n";

/// An apply that waits for a device which never comes: `wait` says so instead of waiting as well, and a rollback gives the
/// apply up, to the generation that it came from and not to one before.
fn given_up(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup { first: Some(MOTD), ..Setup::default() })?;
    rig.apply(&MOTD.replace("one", "two"))?;
    let more = "[mount.\"/srv/disk\"]\nsource = \"LABEL=nope\"\nfstype = \"ext4\"\n";
    let path = rig.state_file("late.toml", &format!("{}{more}", MOTD.replace("one", "three")))?;
    let mut applying = rig.follow(&["apply", &path])?;
    let begun = |s: &Value| word(s, "state") == "starting";
    rig.until_true("begun", || rig.status("mount:/srv/disk").is_ok_and(|s| begun(&s)))?;
    let waited = rig.initctl(&["wait", "--timeout", "60s"])?;
    let listed = waited.out.contains("mount:/srv/disk is waiting (for the device LABEL=nope");
    want(waited.code == 1 && listed, &format!("wait: {waited:?}"), &rig)?;
    let status = rig.initctl(&["status"])?.out;
    want(status.contains(", converging"), &status, &rig)?;
    // Who follows an apply may go; the apply stays.
    let gone = rig.interrupted(&["apply", &path])?;
    let told = gone.err.contains("what was begun goes on");
    want(gone.code == 130 && told, &format!("Ctrl-C: {gone:?}"), &rig)?;
    let back = rig.initctl(&["rollback"])?;
    let good = back.code == 0 && back.out.contains("\ngeneration 1: ");
    want(good && back.out.starts_with("returning to generation 1\n"), &format!("rollback: {back:?}"), &rig)?;
    let code = applying.end(LIMIT)?.code();
    want(code == Some(4), &format!("the apply that was given up ended with {code:?}"), &rig)?;
    want(std::fs::read_to_string(rig.inside("/srv/motd")?)? == "two\n", "another content is there", &rig)?;
    let list = rig.ok(&["generations"])?;
    let state = |line: &str| ["current", "returned", "kept"].into_iter().find(|w| line.contains(w));
    let states: Vec<&str> = list.lines().filter_map(state).collect();
    want(states == ["returned", "current"], &list, &rig)
}

/// `apply` right after boot waits until the store can be opened, says for what, and goes on by itself; with a time
/// limit it ends, and has begun nothing.
fn store_comes_late(context: &Context) -> Result {
    let setup = Setup { first: Some(LATE), store: Some("/srv/disk/store"), ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    // The disk stays declared: a generation without it would take it away.
    let path = rig.state_file("next.toml", &format!("{LATE}{MOTD}"))?;
    let late = rig.initctl(&["apply", &path, "--timeout", "100ms"])?;
    want(late.code == 124, &format!("it did not run out of time: {late:?}"), &rig)?;
    want(late.err.contains("waiting for the store: mount:/srv/disk"), &format!("{late:?}"), &rig)?;
    for verb in [&["rollback"][..], &["generations"], &["history"], &["plan", &path]] {
        let said = rig.initctl(&[verb, &["--timeout", "100ms"]].concat())?;
        want(said.code == 124, &format!("{verb:?} did not wait: {said:?}"), &rig)?;
    }
    let mut applying = rig.follow(&["--json", "apply", &path])?;
    let deadline = Instant::now() + LIMIT;
    let first = applying.next(deadline)?.unwrap_or_default();
    want(first.contains("mount:/srv/disk"), &format!("it does not say what it waits for: {first}"), &rig)?;
    rig.until_file("/srv/gate", "there", std::path::Path::exists)?;
    std::fs::write(rig.inside("/srv/gate")?, "open\n")?;
    let mut last = Value::Null;
    while let Some(line) = applying.next(deadline)? {
        last = serde_json::from_str(&line)?;
        if last.get("finished").is_some() {
            break;
        }
    }
    let verdict = last.pointer("/finished/verdict").and_then(Value::as_str);
    want(verdict == Some("done"), &format!("it ended with {last}"), &rig)?;
    want(rig.inside("/srv/disk/store/journal")?.exists(), "the store is elsewhere", &rig)?;
    let motd = std::fs::read_to_string(rig.inside("/srv/motd")?)?;
    want(motd == "one\n", "/srv/motd was not made", &rig)
}

/// Store and logs may lie in the run-time directory, under the names that come to mind first.
fn store_in_run(context: &Context) -> Result {
    let setup = Setup { store: Some("run/store"), logs: Some("run/logs"), ..Setup::default() };
    let rig = Rig::start(context, &setup)?;
    rig.apply(&format!(
        "{MOTD}[service.talk]\nexec = [\"sh\", \"-c\", \"echo hello; exec sleep infinity\"]\n"
    ))?;
    rig.until_state("service:talk", "ready")?;
    want(rig.directory().join("run/store/journal").is_file(), "there is no store in run", &rig)?;
    let list = rig.ok(&["generations"])?;
    want(list.contains("current"), &format!("no generation: {list}"), &rig)?;
    let mut lines = rig.follow(&["--json", "logs", "-f", "talk"])?;
    let line = lines.next(Instant::now() + LIMIT)?.unwrap_or_default();
    want(line.contains("hello"), &format!("no log: {line}"), &rig)
}

/// What somebody wrote over is listed and printed again, with init and, from the store alone, without.
fn history(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(MOTD)?;
    std::fs::write(rig.inside("/srv/motd")?, "theirs\n")?;
    let path = rig.inside("/srv/motd")?;
    rig.until_true("the repair", || std::fs::read_to_string(&path).is_ok_and(|t| t == "one\n"))?;
    let store = rig.directory().join("store").to_string_lossy().into_owned();
    let online = rig.ok(&["history", "/srv/motd"])?;
    want(online.contains("repair, corrective"), &format!("no repair: {online}"), &rig)?;
    let row = online.lines().find(|l| l.contains("corrective")).unwrap_or_default();
    let id = row.split_whitespace().last().unwrap_or_default().to_owned();
    let shown = rig.ok(&["history", "/srv/motd", "--show", &id])?;
    want(shown == "theirs\n", &format!("it printed {shown:?}"), &rig)?;
    rig.ok(&["poweroff"])?;
    rig.left()?;
    let offline = rig.ok(&["--store", &store, "history", "file:/srv/motd", "--show", &id])?;
    want(offline == "theirs\n", &format!("without init it printed {offline:?}"), &rig)?;
    let list = rig.ok(&["--store", &store, "generations"])?;
    want(list.contains("current"), &format!("no generations without init: {list}"), &rig)
}

/// `apply --only` and `--except` make generations of their own, which a rollback returns from.
fn part(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let state = |text: &str| {
        format!(
            "[file.\"/srv/a\"]\ncontent = \"{text}\"\n[file.\"/srv/b\"]\ncontent = \"{text}\"\n\
             [service.talk]\nexec = [\"sleep\", \"infinity\"]\nrequires = [\"file:/srv/a\"]\n\
             environment = {{ TEXT = \"{text}\" }}\n"
        )
    };
    rig.apply(&state("one"))?;
    rig.until_state("service:talk", "ready")?;
    let holds = |a: &str, b: &str| -> Result {
        let read = |name: &str| -> Result<String> { Ok(std::fs::read_to_string(rig.inside(name)?)?) };
        let is = (read("/srv/a")?, read("/srv/b")?);
        want(is == (a.to_owned(), b.to_owned()), &format!("the files are {is:?}, not {a} and {b}"), &rig)
    };
    let pid = rig.main_pid("service:talk")?;
    let path = rig.state_file("next.toml", &state("two"))?;
    let said = rig.ok(&["apply", &path, "--only", "/srv/b"])?;
    want(said.contains("generation 2"), &format!("no generation of its own: {said}"), &rig)?;
    holds("one", "two")?;
    want(rig.main_pid("service:talk")? == pid, "the service was restarted", &rig)?;
    rig.ok(&["apply", &path, "--only", "talk"])?;
    holds("two", "two")?;
    want(rig.main_pid("service:talk")? != pid, "the service runs its old declaration", &rig)?;
    let path = rig.state_file("next.toml", &state("three"))?;
    rig.ok(&["apply", &path, "--except", "/srv/a", "--except", "talk"])?;
    holds("two", "three")?;
    let wrong = rig.initctl(&["apply", &path, "--only", "/srv/nothing"])?;
    want(wrong.code == 2 && wrong.err.contains("no such unit"), &format!("{wrong:?}"), &rig)?;
    rig.ok(&["rollback", "1"])?;
    holds("one", "one")?;
    let list = rig.ok(&["generations"])?;
    want(list.contains("apply --only /srv/b of"), &format!("nobody says how it was made:\n{list}"), &rig)
}

/// A held file keeps what loads it as it is, and no apply from being good.
fn held_input(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let state = |text: &str| {
        format!(
            "[file.\"/srv/a\"]\ncontent = \"{text}\"\n[service.talk]\nexec = [\"sleep\", \"infinity\"]\n\
             restart-on = [\"file:/srv/a\"]\n[file.\"/srv/b\"]\ncontent = \"{text}\"\n"
        )
    };
    rig.apply(&state("one"))?;
    let pid = rig.main_pid("service:talk")?;
    let said = rig.ok(&["hold", "/srv/a"])?;
    let line = "held      file:/srv/a  until boot, or until `initctl release file:/srv/a`\n";
    want(said == line, &format!("hold says {said:?}"), &rig)?;
    let said = rig.apply(&state("two"))?;
    want(said.contains("generation 2: "), &format!("no new generation: {said}"), &rig)?;
    let kept = "with what was loaded before, until that is released: service:talk";
    want(said.contains(kept), &format!("nobody says what waits: {said}"), &rig)?;
    let read = |name: &str| -> Result<String> { Ok(std::fs::read_to_string(rig.inside(name)?)?) };
    want((read("/srv/a")?, read("/srv/b")?) == ("one".into(), "two".into()), "the wrong files", &rig)?;
    want(rig.main_pid("service:talk")? == pid, "the service was restarted", &rig)?;
    rig.ok(&["release", "/srv/a"])?;
    rig.until_true("the restart", || rig.main_pid("service:talk").is_ok_and(|now| now != pid))?;
    want(read("/srv/a")? == "two", "the file was not made", &rig)
}

/// What is no longer declared, was never there, or is over: nothing is offered that does not work.
fn what_is_gone(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let link =
        "[symlink.\"/srv/link\"]\ntarget = \"motd\"\n[exec.once]\ncommand = [\"true\"]\nonce = \"boot\"\n";
    let input = rig.state_file("next.toml", &format!("{MOTD}{link}"))?;
    let status = std::process::Command::new(context.programs()?.join("initctl"))
        .arg("--socket")
        .arg(rig.socket())
        .args(["apply", "-"])
        .stdin(std::fs::File::open(&input)?)
        .status()?;
    want(status.success(), "cannot apply standard input", &rig)?;
    let page = rig.ok(&["explain", "/srv/motd"])?;
    want(page.contains("declared  standard input:1\n"), &format!("it is declared elsewhere: {page}"), &rig)?;

    let path = rig.inside("/srv/motd")?;
    std::fs::write(&path, "theirs\n")?;
    rig.until("file:/srv/motd", "repaired", |s| {
        s.get("outcome").and_then(Value::as_str) == Some("repaired")
    })?;
    let page = rig.ok(&["explain", "/srv/motd"])?;
    let offers = (page.contains("initctl adopt"), page.contains("initctl history file:/srv/motd"));
    want(offers == (false, true), &format!("it offers what does not work: {page}"), &rig)?;
    rig.ok(&["hold", "/srv/motd"])?;
    std::fs::write(&path, "theirs\n")?;
    rig.until("file:/srv/motd", "drifted", |s| s.get("outcome").and_then(Value::as_str) == Some("drifted"))?;
    let page = rig.ok(&["explain", "/srv/motd"])?;
    want(
        page.contains("initctl adopt file:/srv/motd"),
        &format!("it does not offer to adopt: {page}"),
        &rig,
    )?;
    rig.ok(&["release", "/srv/motd"])?;

    let next = rig.state_file("next.toml", MOTD)?;
    let plan = rig.ok(&["plan", &next])?;
    let line = "remove   exec:once  no longer declared; nothing is undone, what it did stays\n";
    want(plan.contains(line), &format!("the plan lacks the exec: {plan}"), &rig)?;
    rig.apply(MOTD)?;
    let list = rig.ok(&["history", "/srv/link"])?;
    want(list.contains("purge of 2, intended"), &format!("the purge is not in the history: {list}"), &rig)?;
    let wrong = rig.initctl(&["history", "/srv/modt"])?;
    let named = wrong.err.contains("did you mean file:/srv/motd?");
    want(wrong.code == 2 && named, &format!("history of an unknown unit: {wrong:?}"), &rig)?;

    let path = rig.state_file("bad.toml", "[service.bad]\nexec = [\"/srv/none\"]\n")?;
    want(rig.initctl(&["apply", &path])?.code == 5, "the bad generation was not returned from", &rig)?;
    let refused = rig.initctl(&["rollback", "3"])?;
    let told = refused.err.contains("generation 3 was returned from") && refused.err.contains("--force");
    want(refused.code == 2 && told, &format!("a bad generation is tried again: {refused:?}"), &rig)?;
    want(rig.initctl(&["rollback", "3", "--force"])?.code == 5, "it is not even tried by force", &rig)?;
    rig.apply(&format!("{MOTD}[target.last]\n"))?;
    let diff = rig.ok(&["diff"])?;
    let line = "from generation 2 to generation 4\nadded    target:last\n";
    want(diff == line, &format!("it is compared with one that never was current: {diff}"), &rig)
}

/// Commands say in one line what they have come to, and a limit on what goes on for ever is no mishap.
fn by_hand(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    let applied = rig.apply(
        "[service.talk]\nexec = [\"sh\", \"-c\", \"echo hello; exec sleep infinity\"]\n\
         [service.user]\nexec = [\"sleep\", \"infinity\"]\nrequires = [\"service:talk\"]\n\
         [target.all]\nrequires = [\"service:user\"]\n",
    )?;
    // Whoever is up has said so before all are said to be.
    let end = "ready     target:all\nas declared so far: done if nothing falls within 5 s\ngeneration 1: ";
    want(applied.contains(end), &format!("apply says {applied}"), &rig)?;
    for (words, line) in [
        (&["start", "talk"][..], "started   service:talk  nothing was to be done\n"),
        (
            &["stop", "talk"],
            "stopped   service:talk  until boot, or until `initctl start service:talk`\n\
             waiting until then: service:user, target:all\n",
        ),
        (&["start", "talk"], "started   service:talk\n"),
        (&["restart", "talk"], "restarted service:talk\n"),
        (&["reload", "talk"], "restarted service:talk  instead of a reload\n"),
        (
            &["hold", "talk", "--for", "90s"],
            "held      service:talk  for 1m30s, or until `initctl release service:talk`\n",
        ),
        (&["release", "talk"], "released  service:talk\n"),
    ] {
        let said = rig.ok(words)?;
        want(said == line, &format!("{words:?} says {said:?}"), &rig)?;
    }
    for words in [&["logs", "-f", "talk"][..], &["events"]] {
        let said = rig.initctl(&[words, &["--timeout", "200ms"]].concat())?;
        let quiet = said.code == 124 && said.err.is_empty() && !said.out.is_empty();
        want(quiet, &format!("{words:?} with a limit: {said:?}"), &rig)?;
    }
    Ok(())
}

/// What init says as PID 1 of a pid namespace to who has not read the manual, and the code that it ends with; in `directory`.
fn typed(context: &Context, directory: &std::path::Path, words: &[&str]) -> Result<(i32, String)> {
    let mut command = std::process::Command::new("timeout");
    command.args([
        "30",
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--mount",
        "--fork",
        "--mount-proc",
    ]);
    command.args(["--kill-child", "--"]).arg(context.programs()?.join("init")).args(words);
    command.args(["--run", "run", "--store", "store", "--logs", "logs"]).current_dir(directory);
    let said = command.output()?;
    let text = [said.stdout, said.stderr].concat();
    Ok((said.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

/// Mistakes that are made first: a state with mistakes, under a relative path; no `--`; a question.
fn first_steps(context: &Context) -> Result {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let bad = "[service.main]\nexce = [\"true\"]\n\n[sysctl.net.core.somaxconn]\nvalue = 1\n";
    std::fs::write(at("bad.toml"), bad)?;
    let expect = |words: &[&str], code: i32, lines: &[&str]| -> Result {
        let (got, text) = typed(context, directory.path(), words)?;
        let missing = lines.iter().find(|l| !text.lines().any(|line| line.contains(*l)));
        match (got == code, missing) {
            (true, None) => Ok(()),
            (_, missing) => Err(format!("{words:?} ended with {got}, without {missing:?}:\n{text}").into()),
        }
    };
    let lines = [
        "error[missing-key]: service:main needs `exec`",
        "2 | exce = [\"true\"]",
        "  | ^^^^",
        "  = help: did you mean `exec`?",
        "error[unquoted-name]",
        "  = help: write `[sysctl.\"net.core.somaxconn\"]`",
        "bad.toml: 3 errors",
    ];
    expect(&["--state", "bad.toml"], 2, &lines)?;
    expect(&["--state", "none.toml"], 2, &["cannot read state file", "none.toml: 1 error"])?;
    expect(&["true"], 2, &["`init -- COMMAND` runs a command, `init --state FILE` a state"])?;
    expect(&["--help"], 0, &["Usage: init"])?;
    expect(&["help"], 0, &["Usage: init"])?;

    // Every path is below the directory that init was called in, in whatever process it is opened.
    let main = "[service.main]\nexec = [\"sh\", \"-c\", \"echo hello; exit 7\"]\nrestart = \"never\"\n";
    std::fs::write(at("good.toml"), main)?;
    expect(&["--state", "good.toml"], 7, &["good.toml"])?;
    if at("store/journal").is_file() && at("logs/service:main").exists() {
        return Ok(());
    }
    let found = crate::rig::tree::lines(directory.path())?;
    Err(format!("store and logs are elsewhere; here is {found:?}").into())
}

/// Who waits for a unit that an apply takes out of the state is told that it will not come.
fn wait_for_what_goes(context: &Context) -> Result {
    let never = "[service.never]\nexec = [\"sleep\", \"1000\"]\nready = \"notify\"\nstart = \"manual\"\n";
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(&format!("{MOTD}{never}"))?;
    let mut client = std::os::unix::net::UnixStream::connect(rig.socket())?;
    client.set_read_timeout(Some(crate::rig::LIMIT))?;
    // ORDER: started by hand, so that nothing is converged while it waits for READY=1; init hears this call first.
    let mut start = rig.follow(&["start", "service:never"])?;
    rig.until_state("service:never", "starting")?;
    let call = "{\"method\":\"io.holdfast.Wait\",\"parameters\":{\"ready\":[\"never\",\"never\"]}}\0";
    client.write_all(call.as_bytes())?;
    let path = rig.state_file("next.toml", MOTD)?;
    rig.ok(&["apply", &path])?;
    let mut answer = Vec::new();
    std::io::BufReader::new(client).read_until(0, &mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let told = text.contains("\"fulfilled\":false") && text.contains("it is not declared any more");
    want(told, &format!("who waits hears {text}"), &rig)?;
    start.end(crate::rig::LIMIT).map(drop)
}
