//! Stories of what starts too early: on what is about to go.

use super::*;

/// Seed 68031731: by the edges that it runs with, `d` is bound to nothing, and by those that it takes over in the same step
/// to what is just being stopped.
#[test]
fn nobody_starts_on_what_is_about_to_be_bound_to_what_goes() {
    let fails = |nice| move |s: &mut Service| (s.nice, s.restart) = (nice, Restart::Never);
    let bound = |nice| {
        let tty = |s: &mut Service| s.tty = Some("tty1".into());
        let units = Units::new().service("a", fails(nice)).file("/b", 1, "").service("c", tty).plain("d");
        let units = units.edge("a", EdgeKind::Requires, "d").edge("d", EdgeKind::Binds, "/b");
        units.edge("/b", EdgeKind::Binds, "c")
    };
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/b", 1, ""));
    s.work(out);
    s.boot(bound(0));
    let out = s.runs("c");
    s.work(out);
    s.runs("d");
    s.runs("a");
    let out = s.boot(Units::new().service("a", fails(1)).file("/b", 1, "").plain("c").plain("d"));
    s.work(out);
    s.ends("c");
    s.runs("c");
    s.ends("a");
    let serial = s.serial("a");
    s.tell(Event::SpawnFailed { serial, stage: "execve".into(), errno: 13 });
    assert_eq!((s.state("c"), s.state("d"), s.state("a")), ("ready", "ready", "failed"));
    let out = s.boot(bound(2));
    assert_eq!((s.state("c"), s.state("d")), ("stopping", "stopping"));
    assert_eq!(spawned(&s, &out), [], "nothing starts on what is stopped in the same step");
}

/// The same where a file lies between the two that run: it counts until its own ground is really gone.
#[test]
fn nobody_starts_on_what_is_bound_to_a_file_whose_ground_is_restarted() {
    for first in ["a", "z"] {
        let mut s = Story::new();
        let units = |nice| {
            let units = Units::new().service("m", |s| s.nice = nice).file("/f", 1, "").plain("web");
            units.edge("/f", EdgeKind::Requires, "m").edge("web", EdgeKind::Binds, "/f")
        };
        s.boot(units(0));
        let out = s.runs("m");
        s.work(out);
        s.runs("web");
        let later = units(1).service("key", |s| s.ready = Ready::Notify).plain(first);
        let later = later.edge(first, EdgeKind::Requires, "web").edge(first, EdgeKind::Requires, "key");
        s.boot(later.edge("m", EdgeKind::Requires, "key"));
        s.runs("key");
        assert_eq!((s.state("m"), s.state("web"), s.state(first)), ("ready", "ready", "waiting"));
        let out = s.tell(Event::Ready { serial: s.serial("key") });
        assert_eq!((s.state("m"), s.state("web")), ("stopping", "stopping"));
        assert_eq!(spawned(&s, &out), [], "{first} starts on what is stopped in the same step");
    }
}

/// A command whose client has gone is not kept for each client that has gone, and nobody is answered twice or not at all.
#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    let serial = s.serial("web");
    for request in 1000..1300 {
        s.ask(request, if request % 3 == 0 { Verb::Restart } else { Verb::Start }, "web");
        s.tell(Event::Unasked { request });
        // The later restart is all that there is to wait for.
        assert!(s.engine.sizes().asks <= 1, "{}", s.engine.sizes().asks);
    }
    s.ask(7, Verb::Start, "web");
    let to_nobody = |e: &Effect| matches!(e, Effect::Answer { request: 1000.., .. });
    // What they asked for comes all the same, and who is still there hears of it.
    let mut out = Vec::new();
    if s.state("web") == "stopping" {
        out.extend(s.ends("web"));
    }
    assert!(s.serial("web") > serial, "restarted: {} {serial}", s.state("web"));
    out.extend(s.runs("web"));
    assert_eq!((answered(&out, 7), s.engine.sizes().asks), (Some(Verdict::Done), 0));
    assert!(!out.iter().any(to_nobody), "{out:?}");
}
