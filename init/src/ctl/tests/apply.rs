//! What an apply shows while it goes on, how it says that it ended, and the code of each verdict.

use super::*;

/// An apply with every kind of progress.
fn applying() -> Script {
    Box::new(|server, incoming| {
        let Request::Apply(apply) = &incoming.request else { panic!("{incoming:?}") };
        assert!(apply.path.as_ref().unwrap().ends_with("/state.toml"));
        assert_eq!(apply.if_generation, Some(3));
        let steps = [
            progress("file:/etc/nginx/nginx.conf", None, Some(Outcome::Changed), "content differs"),
            progress("file:/etc/a", None, Some(Outcome::Kept), ""),
            progress("service:nginx", Some(State::Reloading), None, "file:/etc/nginx/nginx.conf changed"),
            progress("service:nginx", Some(State::Ready), None, "ready"),
            progress("file:/proc/x", None, Some(Outcome::NotKept), "cannot open /proc/x: read-only"),
        ];
        for step in steps {
            server.progress(incoming.call, &step);
        }
        let tally = Tally { kept: 7, changed: 1, repaired: 0, not_kept: 1, held: 1, waiting: 0 };
        server.answer(incoming.call, &finished(Verdict::Returned, tally, "file:/proc/x could not be kept"));
    })
}

#[test]
fn apply_shows_what_it_does_and_how_it_ended() {
    let host = Host::new(applying());
    host.write("state.toml", "");
    host.shows(
        "apply --if-generation 3 state.toml",
        Exit::Returned,
        &expect![[r#"
            changed   file:/etc/nginx/nginx.conf  content differs
            reloading service:nginx  file:/etc/nginx/nginx.conf changed
            ready     service:nginx
            not kept  file:/proc/x  cannot open /proc/x: read-only
            the return to generation 4: 7 kept, 1 changed, 0 repaired, 1 not kept, 1 held
            left alone, since held by hand: service:redis
            not kept: file:/proc/x, service:db
            returned to the old generation: file:/proc/x could not be kept
            what it has written: initctl logs service:db
        "#]],
    );
}

#[test]
fn apply_on_a_terminal_draws_its_last_line_again() {
    let host = Host::new(applying());
    host.write("state.toml", "");
    let (exit, text) = host.run_on("apply state.toml --if-generation 3", true);
    assert_eq!(exit, Exit::Returned);
    expect![[r#"
        ^[[36mchanged^[[0m   file:/etc/nginx/nginx.conf  ^[[2mcontent differs^[[0m
        ^M^[[K[2] kept      file:/etc/a^M^[[K[3] reloading service:nginx  file:/etc/nginx/nginx.conf changed^M^[[K^[[32mready^[[0m     service:nginx
        ^[[31mnot kept^[[0m  file:/proc/x  ^[[2mcannot open /proc/x: read-only^[[0m
        the return to generation 4: 7 kept, 1 changed, 0 repaired, ^[[31m1 not kept^[[0m, ^[[35m1 held^[[0m
        left alone, since held by hand: service:redis
        not kept: file:/proc/x, service:db
        ^[[33mreturned to the old generation^[[0m: file:/proc/x could not be kept
        what it has written: initctl logs service:db
    "#]].assert_eq(&text.replace('\x1b', "^[").replace('\r', "^M"));
}

/// Whoever reads it in a log has to know why nothing goes on.
#[test]
fn apply_says_once_for_which_device_it_waits() {
    let host = Host::new(Box::new(|server, incoming| {
        let waits = |text: &str| progress("mount:/srv", Some(State::Waiting), None, text);
        for text in ["waiting", "waiting: for the device /dev/vdb", "waiting: for the device /dev/vdb"] {
            server.progress(incoming.call, &waits(text));
        }
        server.answer(incoming.call, &finished(Verdict::Done, Tally { kept: 1, ..Tally::default() }, ""));
    }));
    host.write("state.toml", "");
    host.shows(
        "apply state.toml",
        Exit::Done,
        &expect![[r#"
            waiting   mount:/srv  for the device /dev/vdb
            generation 4: 1 kept, 0 changed, 0 repaired, 0 not kept
        "#]],
    );
}

#[test]
fn apply_in_json_is_a_line_a_change() {
    let host = Host::new(applying());
    host.write("state.toml", "");
    let (exit, text) = host.run("apply state.toml --if-generation 3 --json");
    assert_eq!(exit, Exit::Returned);
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|l| l["version"] == 1));
    assert_eq!(lines[0]["progress"]["outcome"], "changed");
    assert_eq!(lines[5]["finished"]["verdict"], "returned");
    assert_eq!(lines[5]["finished"]["tally"]["notKept"], 1);
}

#[test]
fn every_verdict_has_its_code() {
    for (verdict, exit) in [
        (Verdict::Done, Exit::Done),
        (Verdict::Failed, Exit::NotKept),
        (Verdict::Superseded, Exit::Superseded),
        (Verdict::Returned, Exit::Returned),
        (Verdict::ReturnIncomplete, Exit::ReturnIncomplete),
    ] {
        let host = Host::new(Box::new(move |server, incoming| {
            assert!(matches!(incoming.request, Request::Rollback(_)));
            server.answer(incoming.call, &finished(verdict, Tally::default(), ""));
        }));
        let (got, text) = host.run("rollback 2");
        assert_eq!(got, exit, "{text}");
    }
    for (failure, exit) in [
        (Failure::Superseded { generation: 9 }, Exit::Superseded),
        (Failure::Unavailable { text: "the store is not open".to_owned() }, Exit::Unreachable),
        (Failure::Failed { text: "no".to_owned() }, Exit::NotKept),
        (Failure::NoSuchGeneration { text: "no generation 2".to_owned() }, Exit::Usage),
    ] {
        let told = failure.to_string();
        let host = Host::new(Box::new(move |server, incoming| server.fail(incoming.call, &failure)));
        let (got, text) = host.run("rollback 2");
        assert_eq!(got, exit, "{text}");
        assert!(text.contains(&told), "{text}");
    }
}
