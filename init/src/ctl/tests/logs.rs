//! What goes on line by line: output of units, and events.

use super::*;

#[test]
fn logs_name_the_unit_where_there_are_several() {
    let line = |unit: &str, text: &str| {
        let parameters = json!({"unit": unit, "time": "2025-11-20T12:00:00.5Z", "line": text});
        json!({"continues": true, "parameters": parameters})
    };
    let replies =
        vec![line("service:a", "one\ttwo\x1b[2J"), line("service:b", "three"), json!({"parameters": {}})];
    let host = Host::quiet();
    let server = host.script("control.logs", replies.clone());
    host.shows(
        "logs -n 2",
        Exit::Done,
        &expect![[r#"
        2025-11-20T12:00:00.5Z service:a: one	two�[2J
        2025-11-20T12:00:00.5Z service:b: three
    "#]],
    );
    assert_eq!(server.join().unwrap()["parameters"], json!({"lines": 2}));
    let host = Host::quiet();
    let server = host.script("control.logs", replies);
    host.shows(
        "logs -f nginx",
        Exit::Done,
        &expect![[r#"
        2025-11-20T12:00:00.5Z one	two�[2J
        2025-11-20T12:00:00.5Z three
    "#]],
    );
    assert_eq!(server.join().unwrap()["parameters"], json!({"unit": "service:nginx", "follow": true}));
    let host = Host::absent();
    host.script(
        "control.logs",
        vec![json!({"error": "io.holdfast.Logs.PermissionDenied", "parameters": {}})],
    );
    host.shows(
        "logs",
        Exit::Usage,
        &expect![[r#"
        [stderr]
        initctl: cannot read logs: permission denied; root and who is in the group adm may
    "#]],
    );
}

#[test]
fn events_are_a_line_each() {
    let reply = |e: &Event, more: bool| json!({"continues": more, "parameters": {"event": e}});
    let event = |about: &str, unit: Option<&str>, state, outcome, text: &str| Event {
        time: 990 * SECOND,
        about: about.to_owned(),
        unit: unit.map(str::to_owned),
        state,
        outcome,
        text: text.to_owned(),
    };
    let host = Host::absent();
    host.script(
        "control",
        vec![
            reply(&event("unit", Some("service:a"), Some(State::Ready), None, ""), true),
            reply(
                &event("unit", Some("file:/a"), Some(State::Ready), Some(Outcome::Repaired), "mode was 0600"),
                true,
            ),
            reply(
                &event(
                    "unit",
                    Some("file:/a"),
                    Some(State::Failed),
                    Some(Outcome::NotKept),
                    "not kept: contested",
                ),
                true,
            ),
            reply(&event("at-rest", None, None, None, "not converged"), true),
            reply(&event("converged", None, None, None, ""), false),
        ],
    );
    host.shows(
        "events",
        Exit::Done,
        &expect![[r#"
        2025-11-20T11:59:50Z service:a ready
        2025-11-20T11:59:50Z file:/a ready repaired: mode was 0600
        2025-11-20T11:59:50Z file:/a failed not kept: contested
        2025-11-20T11:59:50Z at-rest: not converged
        2025-11-20T11:59:50Z converged
    "#]],
    );
}

/// Nothing was begun that could go on.
#[test]
fn the_end_of_who_is_listened_to_is_told_as_that() {
    for (line, socket) in [("events", "control"), ("logs -f", "control.logs")] {
        let host = Host::absent();
        host.script(socket, Vec::new());
        let told =
            format!("[stderr]\ninitctl: nothing more comes from DIR/{socket}: who answered has ended\n");
        assert_eq!(host.run(line), (Exit::Unreachable, told));
    }
}

#[test]
fn a_pipe_that_closes_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let host = Host::quiet();
    let environment = Environment {
        directory: PathBuf::from("/"),
        socket: Some(host.directory.path().join("control").into_os_string()),
        store: None,
        terminal: false,
        colour: false,
        clock: Clock { boot: 0, wall: 0 },
    };
    let mut err = Vec::new();
    let exit = run(["initctl", "status"].map(OsString::from), &environment, &mut Closed, &mut err);
    assert_eq!(exit, Exit::Done);
    assert!(err.is_empty());
}

#[test]
fn what_is_no_number_is_said_to_be_none() {
    for line in ["logs -n x", "rollback x", "diff 1 x", "apply s.toml --if-generation x"] {
        let (exit, text) = Host::absent().run(line);
        assert!(exit == Exit::Usage && text.contains(": a number is needed, such as 20"), "{line}: {text}");
    }
}

#[test]
fn a_unit_without_output_is_not_said_to_be_none() {
    for (unit, exit, said) in [
        ("nginx", Exit::Done, "service:nginx has written nothing that is kept"),
        ("nobody", Exit::Usage, "no such unit: nobody"),
        ("ngnix", Exit::Usage, "no such unit: ngnix; did you mean service:nginx?"),
    ] {
        let host = Host::quiet();
        let parameters = json!({"unit": format!("service:{unit}"), "nearest": null});
        host.script(
            "control.logs",
            vec![json!({"error": "io.holdfast.Logs.NoSuchUnit", "parameters": parameters})],
        );
        let (ended, text) = host.run(&format!("logs {unit}"));
        assert!(ended == exit && text.contains(said), "{ended:?}: {text}");
    }
}

/// The address that a returned apply says: the unit is declared no more, and another one is named like it.
#[test]
fn the_output_of_a_unit_that_is_gone_is_shown() {
    for name in ["service:ngnix", "ngnix"] {
        let host = Host::quiet();
        let line = json!({"unit": "service:ngnix", "time": "2025-11-20T12:00:00Z", "line": "config error"});
        let server = host.script(
            "control.logs",
            vec![json!({"continues": true, "parameters": line}), json!({"parameters": {}})],
        );
        assert_eq!(
            host.run(&format!("logs {name}")),
            (Exit::Done, "2025-11-20T12:00:00Z config error\n".to_owned())
        );
        assert_eq!(server.join().unwrap()["parameters"]["unit"], "service:ngnix");
    }
    let host = Host::quiet();
    let parameters = json!({"unit": "service:ngnix", "nearest": null});
    host.script(
        "control.logs",
        vec![json!({"error": "io.holdfast.Logs.NoSuchUnit", "parameters": parameters})],
    );
    host.shows(
        "logs service:ngnix",
        Exit::Usage,
        &expect![[r#"
        [stderr]
        initctl: service:ngnix has written nothing that is kept
        initctl: no such unit: service:ngnix; did you mean service:nginx?
    "#]],
    );
}
