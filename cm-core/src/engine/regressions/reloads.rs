//! Stories of reloads, and of restarts that load what has changed.

use super::*;

/// Seeds 13919 and 205465: the reload waits for what has failed.
#[test]
fn a_reload_by_hand_that_waits_for_what_failed_is_answered() {
    let mut s = Story::new();
    let units = |stays: bool| {
        let units = Units::new().plain("web").service("db", |s| {
            s.restart = units::kind::service::Restart::Never;
        });
        if stays { units.edge("web", EdgeKind::Requires, "db") } else { units }
    };
    s.boot(units(true));
    s.runs("db");
    s.runs("web");
    s.ends("db");
    assert_eq!((s.state("db"), s.state("web")), ("done", "ready"));
    let out = s.ask(7, Verb::Reload, "web");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

/// Who asks in vain is told what there is to do.
#[test]
fn what_has_no_process_is_not_reloaded_and_says_what_would_help() {
    let mut s = Story::new();
    let out = s.boot(Units::new().target("all").file("/f", 1, ""));
    s.work(out);
    for (name, verb, help) in [
        ("all", Verb::Reload, "`initctl explain target:all` lists what it needs"),
        ("/f", Verb::Kill(1), "`initctl restart file:/f` looks at it anew"),
    ] {
        let out = s.ask(7, verb, name);
        let text =
            out.iter().find_map(|e| if let Effect::Answer { text, .. } = e { Some(text) } else { None });
        assert!(
            text.is_some_and(|t| t.ends_with(&format!("only services have processes; {help}"))),
            "{out:?}"
        );
    }
}

#[test]
fn a_reload_by_hand_does_not_end_what_is_held() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |s| s.reload = None));
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    let out = s.ask(8, Verb::Reload, "web");
    assert_eq!(s.state("web"), "ready", "only a restart could load anything, and it is held");
    assert_eq!(answered(&out, 8), Some(Verdict::Failed), "{out:?}");
}

fn by_command(version: u64) -> Units {
    Units::new()
        .service("web", |s| s.reload = Some(Reload::Command(vec!["/bin/reload".into()])))
        .file("/etc/web", version, "")
        .edge("web", EdgeKind::Requires, "/etc/web")
        .edge("web", EdgeKind::ReloadOn, "/etc/web")
}

#[test]
fn a_reload_by_command_runs_once_a_change() {
    let mut s = Story::new();
    let out = s.boot(by_command(1));
    s.work(out);
    s.runs("web");
    let out = s.boot(by_command(2));
    let out = s.work(out);
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Reload)]);
    let out = s.tell(Event::Exited { serial: 2, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), [], "once");
    assert!(!s.engine.status(s.node("web")).stale);
}

#[test]
fn what_changed_during_a_reload_is_loaded_by_one_more() {
    let mut s = Story::new();
    let out = s.boot(by_command(1));
    s.work(out);
    s.runs("web");
    for version in [2, 3] {
        let out = s.boot(by_command(version));
        s.work(out);
    }
    assert_eq!(s.state("web"), "reloading");
    let out = s.tell(Event::Exited { serial: 2, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Reload)], "again, once");
    let out = s.tell(Event::Exited { serial: 3, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), []);
}

#[test]
fn a_reload_that_the_service_announced_has_not_loaded_what_was_not_there_yet() {
    let mut s = Story::new();
    let units = |version| {
        Units::new()
            .service("web", |s| s.ready = Ready::Notify)
            .file("/etc/web", version, "")
            .edge("web", EdgeKind::Requires, "/etc/web")
            .edge("web", EdgeKind::ReloadOn, "/etc/web")
    };
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.tell(Event::Ready { serial: 1 });
    let batch = s.boot(units(2));
    s.tell(Event::Reloading { serial: 1 });
    s.tell(Event::Ready { serial: 1 });
    assert!(s.engine.status(s.node("web")).stale, "the new file is not written yet");
    let out = s.work(batch);
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { serial: 1, signal: 1 })), "{out:?}");
}

/// Seed 612735: it owes a restart as soon as its gate opens, and the same gate lets the other one start.
#[test]
fn nothing_starts_on_what_is_about_to_be_restarted_to_load() {
    let mut s = Story::new();
    let units = Units::new()
        .service("web", |s| s.reload = None)
        .file("/f", 1, "")
        .service("user", |s| s.start = units::kind::service::Start::Manual)
        .edge("web", EdgeKind::Requires, "/f")
        .edge("user", EdgeKind::Requires, "/f")
        .edge("user", EdgeKind::Requires, "web");
    let out = s.boot(units);
    s.work(out);
    s.runs("web");
    let node = s.node("/f");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    s.ask(7, Verb::Reload, "web");
    s.ask(8, Verb::Start, "user");
    assert_eq!((s.state("web"), s.state("user")), ("ready", "waiting"));
    let out = s.work(out);
    assert_eq!(spawned(&s, &out), [], "{out:?}");
    assert_eq!((s.state("web"), s.state("user")), ("stopping", "waiting"));
}

/// Seed 610380: that it has to stay quiet after a reload by signal would be lost with a re-exec.
#[test]
fn a_reload_by_signal_is_part_of_the_record_of_an_apply() {
    let mut s = Story::new();
    let web = || Units::new().service("web", |s| s.ready = Ready::Notify);
    let more = || {
        web()
            .plain("db")
            .service("slow", |s| s.ready = Ready::Notify)
            .edge("web", EdgeKind::Requires, "db")
            .edge("web", EdgeKind::ReloadOn, "db")
    };
    s.boot(web());
    s.runs("web");
    // An apply owes what it supersedes the proof of its steps; a boot does not.
    for kind in [Swap::Boot, Swap::Apply] {
        s.swap(more(), kind);
        let token = s.engine.next_token - 1;
        s.tell(Event::Recorded { token, error: None });
        if s.state("db") == "starting" {
            s.runs("db");
            s.runs("slow");
        }
    }
    s.engine.take_changed();
    let before = s.engine.apply.clone();
    let serial = s.serial("web");
    let out = s.tell(Event::Ready { serial });
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 1, .. })), "{out:?}");
    assert_ne!(s.engine.apply, before);
    assert!(s.engine.take_changed().globals);
}

/// Seeds 4500 and 11057: the restart that it owes since waits for what nobody starts.
#[test]
fn an_apply_does_not_answer_for_a_restart_that_an_earlier_change_left_owed() {
    let mut s = Story::new();
    let web = |nice: i32, version| Units::new().service("web", |s| s.nice = nice).file("/etc/x", version, "");
    let never = |units: Units| {
        units.service("never", |s| s.start = units::kind::service::Start::Manual).edge(
            "web",
            EdgeKind::Requires,
            "never",
        )
    };
    let out = s.boot(web(0, 1));
    s.work(out);
    s.runs("web");
    s.boot(never(web(1, 1)));
    assert_eq!(s.state("web"), "ready", "it cannot be restarted yet, and runs on");
    let out = s.swap(never(web(1, 2)), Swap::Apply);
    assert_eq!(s.until_answered(out, 103), Verdict::Done);
}
