//! Screens and exit codes of whole runs, against servers on real sockets.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use expect_test::expect;
use serde_json::{Value, json};

use units::Address;

use super::render::style::Style;
use super::time::Clock;
use super::{Environment, Exit, render, run};
use crate::control::Failure;
use crate::control::answer::{
    Answer, EdgeStatus, Event, Finished, Need, Outcome, Progress, State, Tally, TreeNode, Verdict, Waited,
    Waiting,
};
use crate::control::request::{How, Request, Verb};
use crate::control::server::Source;

mod apply;
mod host;
mod logs;
mod store;

use host::*;

fn finished(verdict: Verdict, tally: Tally, text: &str) -> Answer {
    Answer::Finished(Finished { verdict, generation: 4, tally, text: text.to_owned() })
}

fn progress(unit: &str, state: Option<State>, outcome: Option<Outcome>, text: &str) -> Progress {
    Progress { unit: unit.to_owned(), state, outcome, text: text.to_owned() }
}

#[test]
fn status_shows_the_machine() {
    Host::quiet().shows(
        "status",
        Exit::NotKept,
        &expect![[r#"
            generation 3, not converged, 6 of 9 units ready, 1 waiting, 1 failed or not kept, 1 held, 1 down

            held by hand
              service:redis  stopped by root 40s ago, until boot: memory test

            UNIT            STATE    FOR    DETAIL
            service:db      failed   5s     exit code 1, restart limit reached; 5 restarts; see: initctl logs service:db
            service:app     waiting  1m     service:db
            service:nginx   ready    2m 3s  pid 812
            service:redis   down     40s    stopped by hand
            file:/etc/motd  ready    3s     repaired: content differed
            and 4 units as declared (2 file, 2 user); --all lists them
        "#]],
    );
}

#[test]
fn a_boot_that_makes_everything_anew_does_not_fill_the_screen() {
    let shown = |count: usize, line: &str| {
        let units = (0..count).map(|n| {
            let mut unit = status(&format!("file:/srv/{n}"), State::Ready, 900);
            unit.outcome = Some(Outcome::Repaired);
            unit
        });
        let machine = Machine { units: units.collect(), store_waits: None };
        Host::with(machine, Box::new(|_, incoming| panic!("{incoming:?}"))).run(line).1
    };
    assert_eq!(shown(10, "status").matches("/srv/").count(), 10);
    let folded = shown(11, "status");
    assert!(folded.ends_with("\nand 11 units repaired (11 file); --all lists them\n"), "{folded}");
    assert!(!folded.contains("/srv/"), "{folded}");
    assert_eq!(shown(11, "status --all").matches("/srv/").count(), 11);
}

#[test]
fn the_old_names_are_verbs() {
    let called = |words: &[&str]| super::by_name(words.iter().map(OsString::from));
    assert_eq!(called(&["/sbin/poweroff", "--force"]), ["initctl", "poweroff", "--force"]);
    assert_eq!(called(&["reboot"]), ["initctl", "reboot"]);
    assert_eq!(called(&["/usr/bin/initctl", "halt"]), ["/usr/bin/initctl", "halt"]);
}

#[test]
fn status_of_a_unit_is_in_full_and_3_if_it_is_not_ready() {
    let host = Host::quiet();
    host.shows(
        "status nginx",
        Exit::Done,
        &expect![[r#"
            service:nginx: ready for 2m 3s, since 2025-11-20T11:57:57Z
              pid       812
              ready by  path=/run/nginx.pid
              declared  state.toml:3
        "#]],
    );
    host.shows("status redis.service /etc/motd", Exit::Unreachable, &expect![[r#"
        service:redis: down for 40s, since 2025-11-20T11:59:20Z
          by hand  stopped by root 40s ago, until boot: memory test

        file:/etc/motd: ready for 3s, since 2025-11-20T11:59:57Z
          outcome  repaired
          detail   content differed
          what was there: initctl history file:/etc/motd; to be left alone: initctl hold file:/etc/motd --for 1h
    "#]]);
}

#[test]
fn status_in_json_has_a_version() {
    let (exit, text) = Host::quiet().run("--json status nginx");
    assert_eq!(exit, Exit::Done);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["version"], 1);
    assert_eq!(value["info"]["generation"], 3);
    assert_eq!(value["units"][0]["unit"], "service:nginx");
    assert_eq!(value["units"][0]["sinceTime"], "2025-11-20T11:57:57Z");
    // A time that nobody noted is not when the machine was booted.
    let machine = Machine { units: vec![status("file:/a", State::Ready, 1000)], store_waits: None };
    let host = Host::with(machine, Box::new(|_, incoming| panic!("{incoming:?}")));
    let value: Value = serde_json::from_str(&host.run("--json status /a").1).unwrap();
    let unit = &value["units"][0];
    assert!(unit["unit"] == "file:/a" && unit["since"].is_null() && unit["sinceTime"].is_null(), "{unit}");
}

/// Where nothing was ever executed, nothing was written, and there is no use in looking.
#[test]
fn what_could_not_be_started_is_not_said_to_have_written() {
    let failed = |unit: &str, cause: &str| {
        let mut failed = status(unit, State::Failed, 5);
        failed.cause = cause.to_owned();
        failed
    };
    let units = vec![
        failed("service:mute", "cannot execute \"nope\": No such file or directory"),
        failed("service:loud", "exited with 3"),
    ];
    let host = Host::with(
        Machine { units, store_waits: None },
        Box::new(|server, incoming| {
            let text = "service:gone: failed: cannot execute \"nope\": No such file or directory";
            let tally = Tally { not_kept: 2, ..Tally::default() };
            server.answer(incoming.call, &finished(Verdict::Returned, tally, text));
        }),
    );
    host.write("state.toml", "");
    for line in ["status", "status mute loud", "apply state.toml"] {
        let (_, text) = host.run(line);
        let hints: Vec<_> = text.split("initctl logs ").skip(1).map(|t| t.lines().next().unwrap()).collect();
        assert_eq!(hints, ["service:loud"], "{line}: {text}");
    }
}

#[test]
fn mistakes_of_typing_are_objects_too() {
    for (words, member) in
        [("--json bogus", "error"), ("status --json --none", "error"), ("--json help", "help")]
    {
        let (exit, text) = Host::quiet().run(words);
        let value: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(exit, if member == "error" { Exit::Usage } else { Exit::Done });
        assert!(value["version"] == 1 && !value[member].is_null(), "{value}");
    }
}

#[test]
fn unknown_and_ambiguous_names_are_usage() {
    let mut machine = Machine::new();
    machine.units.push(status("target:db", State::Ready, 1));
    let host = Host::with(machine, Box::new(|_, incoming| panic!("{incoming:?}")));
    host.shows(
        "status ngnix",
        Exit::Usage,
        &expect![[r#"
        [stderr]
        initctl: no such unit: ngnix; did you mean service:nginx?
    "#]],
    );
    host.shows(
        "restart db",
        Exit::Usage,
        &expect![[r#"
            [stderr]
            initctl: db is the name of several units: service:db, target:db
        "#]],
    );
    let (exit, text) = host.run("--json stop ngnix");
    assert_eq!(exit, Exit::Usage);
    let value: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(value["error"]["name"], "io.holdfast.NoSuchUnit");
    assert_eq!(value["error"]["parameters"]["nearest"], "service:nginx");
}

/// What may stand in a state file is known with and without init.
#[test]
fn a_slip_in_what_is_to_be_explained_is_answered_by_the_nearest() {
    let (exit, text) = Host::absent().run("explain servce.exce");
    assert!(exit == Exit::Unreachable && text.contains("did you mean service.exec?"), "{text}");
    let (exit, text) = Host::absent().run("explain requires");
    assert!(exit == Exit::Unreachable && text.contains("did you mean service.requires?"), "{text}");
    let (exit, text) = Host::absent().run("explain use");
    assert!(exit == Exit::Done && text.contains("reserved for later versions"), "{text}");
    let host = Host::quiet();
    for (word, near) in [("vasr", "vars"), ("service.exce", "service.exec"), ("ngnix", "service:nginx")] {
        let (exit, text) = host.run(&format!("explain {word}"));
        assert!(exit == Exit::Usage && text.contains(&format!("did you mean {near}?")), "{text}");
    }
}

#[test]
fn nobody_there_is_3_and_says_so() {
    let host = Host::absent();
    for line in ["status", "apply state.toml", "generations", "poweroff"] {
        host.write("state.toml", "");
        let (exit, text) = host.run(line);
        assert_eq!(exit, Exit::Unreachable, "{line}: {text}");
    }
    host.shows(
        "status",
        Exit::Unreachable,
        &expect![[r#"
        [stderr]
        initctl: cannot connect to DIR/control: No such file or directory
        help: is init running here? --socket PATH or HOLDFAST_SOCKET name another socket
    "#]],
    );
    host.shows(
        "reboot --force",
        Exit::Unreachable,
        &expect![[r#"
        [stderr]
        initctl: cannot connect to DIR/control: No such file or directory; --force is for the machine's own init, at /run/holdfast/control
        help: is init running here? --socket PATH or HOLDFAST_SOCKET name another socket
    "#]],
    );
}

#[test]
fn a_state_file_with_mistakes_is_shown_as_check_shows_it() {
    let source = "[service.web]\nexce = [\"true\"]\n";
    let diagnostics = {
        let mut loader = units::load::MemoryLoader::new().file("state.toml", source);
        let compiled = units::compile::compile("state.toml", &mut loader);
        let locate = |d| units::diagnostic::locate(d, &compiled.sources);
        compiled.diagnostics.iter().map(locate).collect::<Vec<_>>()
    };
    assert!(!diagnostics.is_empty());
    let host = Host::new(Box::new(move |server, incoming| {
        let text = "mistakes".to_owned();
        server.fail(incoming.call, &Failure::CompileFailed { text, diagnostics: diagnostics.clone() });
    }));
    host.write("state.toml", source);
    let (exit, applied) = host.run("apply state.toml");
    assert_eq!(exit, Exit::Usage);
    let (exit, checked) = host.run("check state.toml");
    assert_eq!(exit, Exit::Usage);
    assert_eq!(applied, checked);
    assert!(checked.contains("exce = "), "{checked}");
    let (exit, text) = host.run("check state.toml --json");
    assert_eq!(exit, Exit::Usage);
    let value: Value = serde_json::from_str(&text).unwrap();
    let found = value["diagnostics"].as_array().unwrap();
    assert!(found.iter().any(|d| d["id"] == "unknown-key" && d["places"][0]["line"] == 2), "{text}");
}

#[test]
fn check_needs_no_init() {
    let host = Host::absent();
    host.write("state.toml", "holdfast = 1\n[file.\"/etc/motd\"]\nsource = \"motd\"\n");
    let (exit, text) = host.run("check state.toml");
    assert_eq!(exit, Exit::Usage, "{text}");
    host.write("motd", "hello\n");
    host.shows(
        "check state.toml",
        Exit::Done,
        &expect![[r#"
            state.toml: 1 unit, no mistakes
        "#]],
    );
    let (exit, _) = host.run("check nowhere.toml");
    assert_eq!(exit, Exit::Usage);
}

#[test]
fn commands_are_sent_as_they_are_meant() {
    let host = Host::new(Box::new(|server, incoming| {
        let Request::Command(command) = &incoming.request else { panic!("{incoming:?}") };
        match command.verb {
            Verb::Hold => {
                assert_eq!(command.units, ["service:nginx", "file:/etc/motd"]);
                assert_eq!(command.for_seconds, Some(90));
                assert_eq!(command.note.as_deref(), Some("test"));
                server.answer(incoming.call, &finished(Verdict::Done, Tally::default(), ""));
            }
            Verb::Kill => {
                assert_eq!(command.signal, Some(10));
                server.answer(incoming.call, &finished(Verdict::Done, Tally::default(), ""));
            }
            _ => {
                let starting = progress("service:db", Some(State::Starting), None, "started by hand");
                server.progress(incoming.call, &starting);
                let failed = progress("service:db", Some(State::Failed), None, "exit code 1");
                server.progress(incoming.call, &failed);
                server
                    .answer(incoming.call, &finished(Verdict::Failed, Tally::default(), "service:db failed"));
            }
        }
    }));
    host.shows(
        "hold nginx /etc/motd --for 1m30s --why test",
        Exit::Done,
        &expect![[r#"
        held      service:nginx  for 1m30s, or until `initctl release service:nginx`
        held      file:/etc/motd  for 1m30s, or until `initctl release file:/etc/motd`
    "#]],
    );
    host.shows(
        "kill -s USR1 nginx",
        Exit::Done,
        &expect![[r#"
        sent      service:nginx  USR1
    "#]],
    );
    host.shows(
        "start db",
        Exit::NotKept,
        &expect![[r#"
            failed    service:db  exit code 1
            service:db failed
        "#]],
    );
}

#[test]
fn wait_ends_when_it_is_true_or_cannot_be() {
    let host = Host::new(Box::new(|server, incoming| {
        let Request::Wait(wait) = &incoming.request else { panic!("{incoming:?}") };
        let waiting = Waiting {
            unit: "mount:/data".to_owned(),
            state: State::Waiting,
            cause: "device /dev/vdb".to_owned(),
        };
        let waited = if wait.converged {
            Waited { fulfilled: false, waiting: vec![waiting] }
        } else {
            assert_eq!(wait.ready, ["service:nginx"]);
            Waited { fulfilled: true, waiting: vec![] }
        };
        server.answer(incoming.call, &Answer::Waited(waited));
    }));
    host.shows("wait --ready nginx", Exit::Done, &expect![""]);
    host.shows(
        "wait --ready nginx --socket none --timeout 20ms",
        Exit::TimedOut,
        &expect![[r#"
        [stderr]
        initctl: nobody listens at DIR/none: waiting for init
        initctl: time ran out: nobody listens at DIR/none
    "#]],
    );
    host.shows(
        "wait",
        Exit::NotKept,
        &expect![[r#"
        mount:/data is waiting (device /dev/vdb)
    "#]],
    );
}

#[test]
fn wait_gives_up_with_124_and_says_what_is_missing() {
    let host = Host::new(Box::new(|_, incoming| assert!(matches!(incoming.request, Request::Wait(_)))));
    host.shows("wait --timeout 50ms", Exit::TimedOut, &expect![[r#"
        [stderr]
        initctl: time ran out: service:db is failed (exit code 1, restart limit reached), service:app is waiting (service:db)
    "#]]);
    Host::absent().shows(
        "wait --timeout 20ms",
        Exit::TimedOut,
        &expect![[r#"
            [stderr]
            initctl: nobody listens at DIR/control: waiting for init
            initctl: time ran out: nobody listens at DIR/control
        "#]],
    );
}

#[test]
fn reexec_and_shutdown_are_asked() {
    let host = Host::new(Box::new(|server, incoming| match &incoming.request {
        Request::Reexec(_) => server.answer(incoming.call, &Answer::Begun),
        Request::Shutdown(s) => {
            assert_eq!(s.how, How::Reboot);
            server.answer(incoming.call, &Answer::Begun);
        }
        other => panic!("{other:?}"),
    }));
    assert_eq!(host.run("reexec").0, Exit::Done);
    assert_eq!(host.run("reboot").0, Exit::Done);
}

#[test]
fn tree_and_explain_are_drawn() {
    let host = Host::quiet();
    host.shows(
        "tree",
        Exit::Done,
        &expect![[r#"
        file:/etc/b ready
        file:/etc/motd ready
        └─ after service:redis down
           └─ user:redis ready
        service:app waiting
        ├─ service:db failed
        └─ wants service:redis down …
        service:nginx ready
        ├─ file:/etc/a ready
        └─ user:nginx ready
    "#]],
    );
    host.shows(
        "explain app",
        Exit::Done,
        &expect![[r#"
        service:app: waiting for 1m, since 2025-11-20T11:59:00Z
          cause  service:db
          meant to be up, by layer main of generation 3
        needs
          requires  service:db  failed
          requires  user:app    ready   user of the service
        needed by
          wants  target:web  ready
          and 6 more
    "#]],
    );
    host.shows(
        "explain service.exec",
        Exit::Done,
        &expect![[r#"
        service.exec: Command and arguments; the program is looked up in `PATH` when it has no slash.
          takes a command: an array of strings, or one string
          required
    "#]],
    );
}

/// A service that needs a tree needs all of its files.
#[test]
fn what_follows_from_one_thing_is_drawn_as_one() {
    let nodes: Vec<TreeNode> = {
        let need = |edge: &str, unit: &str| Need { edge: edge.to_owned(), unit: unit.to_owned() };
        let node = |unit: &str, state, needs| TreeNode { unit: unit.to_owned(), state, needs };
        let files = |n: std::ops::Range<u32>| n.map(|n| format!("file:/www/{n}"));
        let both = |unit: String| [need("requires", &unit), need("reload-on", &unit)];
        let mut web: Vec<Need> = files(0..9).chain(["file:/etc/a".to_owned()]).flat_map(both).collect();
        web.push(need("requires", "user:web"));
        let file = |unit: String| {
            let state = if unit.ends_with('7') { State::Failed } else { State::Ready };
            node(&unit, state, vec![need("requires", "directory:/www")])
        };
        let mut nodes = vec![node("service:web", State::Ready, web)];
        nodes.extend(files(0..9).map(file));
        nodes
            .extend(["directory:/www", "file:/etc/a", "user:web"].map(|u| node(u, State::Ready, Vec::new())));
        nodes
    };
    expect![[r#"
        service:web ready
        ├─ requires, reload-on file:/www/0 and 7 more ready
        │  └─ directory:/www ready
        ├─ requires, reload-on file:/www/7 failed
        │  └─ directory:/www ready
        ├─ requires, reload-on file:/etc/a ready
        └─ user:web ready
    "#]]
    .assert_eq(&render::tree::draw(&nodes, Style::Plain));

    let edge = |edge: &str, unit: String, state, reason: &str| EdgeStatus {
        edge: edge.to_owned(),
        unit,
        state,
        reason: reason.to_owned(),
    };
    let mut needs = vec![edge("requires", "file:/etc/a".to_owned(), State::Ready, "")];
    for n in 0..9 {
        let state = if n == 7 { State::Failed } else { State::Ready };
        for kind in ["requires", "reload-on"] {
            needs.push(edge(kind, format!("file:/www/{n}"), state, "part of directory:/www"));
        }
    }
    needs.extend((0..5).map(|n| edge("wants", format!("service:{n}"), State::Ready, "")));
    let mut page = Machine::new().explain(&Address::parse("service:nginx").unwrap()).unwrap();
    (page.needs_total, page.needs) = (40, needs);
    let text = render::explain::page(&page, &Clock { boot: 1000 * SECOND, wall: 0 }, Style::Plain);
    expect![[r#"
          requires             file:/etc/a             ready
          requires, reload-on  file:/www/7             failed  part of directory:/www
          wants                service:0               ready
          wants                service:1               ready
          wants                service:2               ready
          wants                service:3               ready
          wants                service:4               ready
          requires, reload-on  file:/www/0 and 7 more  ready   part of directory:/www
          and 16 more
        needed by
          wants  target:web  ready
          and 6 more
    "#]]
    .assert_eq(text.split_once("needs\n").unwrap().1);
}

#[test]
fn a_verb_that_is_not_done_in_time_is_124() {
    let host = Host::new(Box::new(|_, _| {}));
    host.shows(
        "restart nginx --timeout 30ms",
        Exit::TimedOut,
        &expect![[r#"
            [stderr]
            initctl: time ran out: what was begun goes on; `initctl status` shows how it stands
        "#]],
    );
}

/// An apply of one unit that is told in every step, as the engine does.
#[test]
fn news_that_say_nothing_new_are_not_shown() {
    let host = Host::new(Box::new(|server, incoming| {
        let news = |state, text: &str| progress("service:web", Some(state), None, text);
        for step in [
            news(State::Stopping, "stopping: it is restarted"),
            news(State::Stopping, "stopping"),
            news(State::Starting, "starting"),
            news(State::Ready, "ready"),
            progress("file:/etc/a", Some(State::Ready), Some(Outcome::Changed), "changed"),
            progress("file:/etc/a", Some(State::Ready), Some(Outcome::Changed), "changed"),
            progress("target:old", Some(State::Down), None, "gone"),
            progress("file:/etc/theirs", Some(State::Down), None, "restored"),
            progress("file:/etc/theirs", Some(State::Down), None, "gone"),
            progress("user:erin", Some(State::Down), None, "locked"),
            progress("user:erin", Some(State::Down), None, "gone"),
            progress("group:erin", Some(State::Down), None, "left in place: it is needed"),
            progress("group:erin", Some(State::Down), None, "gone"),
            // What is told of a return is told, although the same words were said on the way there.
            progress("", None, None, "returning to generation 3: exec:x: exit code 1"),
            progress("file:/etc/a", Some(State::Ready), Some(Outcome::Changed), "changed"),
        ] {
            server.progress(incoming.call, &step);
        }
        server.answer(incoming.call, &finished(Verdict::Done, Tally::default(), ""));
    }));
    host.shows(
        "rollback 2",
        Exit::Done,
        &expect![[r#"
            stopping  service:web  it is restarted
            starting  service:web
            ready     service:web
            changed   file:/etc/a
            removed   target:old
            restored  file:/etc/theirs
            locked    user:erin  the entry and its group stay, so that nobody is given its numbers
            left      group:erin  it is needed
            returning to generation 3: exec:x: exit code 1
            changed   file:/etc/a
            generation 4: 0 kept, 0 changed, 0 repaired, 1 removed, 0 not kept
        "#]],
    );
}

#[test]
fn help_is_there_however_it_is_asked_for() {
    let host = Host::new(Box::new(|_, _| {}));
    let (exit, all) = host.run("help");
    assert!(exit == Exit::Done && all.contains("Usage: initctl") && all.contains("rollback"), "{all}");
    let (exit, one) = host.run("help apply");
    assert!(exit == Exit::Done && one.contains("Usage: initctl apply"), "{one}");
    assert_eq!(host.run("apply --help"), (Exit::Done, one));
}
