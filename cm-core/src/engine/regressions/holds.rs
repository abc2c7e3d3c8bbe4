//! Stories of what is held when nobody declares it any more.

use super::*;

#[test]
fn a_held_file_that_is_no_longer_declared_is_left_until_the_hold_ends() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/d/a", 1, "/d/a"));
    s.work(out);
    s.ask(7, Verb::Hold, "/d/a");
    let out = s.boot(Units::new());
    let out = s.work(out);
    assert_eq!(steps(&out), 0, "it is left");
    let status = s.engine.status(s.node("/d/a"));
    assert_eq!((status.hold.is_some(), status.cause), (true, "held: me".to_owned()), "it is listed");
    let out = s.ask(8, Verb::Release, "/d/a");
    s.work(out);
    assert_eq!(s.state("/d/a"), "absent");
}

#[test]
fn what_is_held_and_no_longer_declared_keeps_its_claim() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "claim"));
    s.work(out);
    s.ask(7, Verb::Hold, "/a");
    let out = s.swap(Units::new().file("/b", 1, "claim"), Swap::Apply);
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
    assert_eq!(s.state("/b"), "absent");
    let status = s.engine.status(s.node("/a"));
    assert!(status.hold.is_some(), "{status:?}");
}

#[test]
fn a_service_that_was_stopped_by_hand_and_dropped_is_still_stopped_when_it_is_declared_again() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s.ask(7, Verb::Stop, "web");
    s.ends("web");
    s.boot(Units::new().plain("other"));
    assert_eq!(s.state("web"), "down", "it is listed");
    let out = s.boot(Units::new().plain("other").plain("web"));
    assert_eq!((s.state("web"), spawned(&s, &out)), ("down", Vec::new()));
    let out = s.ask(8, Verb::Start, "web");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
}

#[test]
fn a_service_that_is_dropped_while_it_is_held_is_stopped_and_stays_held() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    s.boot(Units::new());
    s.ends("web");
    assert!(s.engine.status(s.node("web")).hold.is_some(), "it is listed");
    let out = s.boot(Units::new().plain("web"));
    assert_eq!((s.state("web"), spawned(&s, &out)), ("down", Vec::new()));
    s.boot(Units::new());
    s.ask(8, Verb::Release, "web");
    assert_eq!(s.state("web"), "absent");
}

#[test]
fn what_is_held_and_not_declared_does_not_keep_the_machine_up() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    s.boot(Units::new());
    s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    assert_eq!(s.state("web"), "stopping");
}

/// Seed 4000228: the hold on a target keeps nothing of it up.
#[test]
fn a_target_that_is_dropped_while_it_is_held_lets_its_members_go() {
    let mut s = Story::new();
    s.boot(Units::new().target("all").plain("web").edge("all", EdgeKind::Requires, "web"));
    s.runs("web");
    s.ask(7, Verb::Hold, "all");
    s.boot(Units::new());
    assert_eq!(s.state("web"), "stopping");
}

/// What was there before it was declared is left when the hold ends, but not in a directory that is purged.
#[test]
fn a_purged_directory_is_looked_at_again_when_what_was_held_in_it_is_left() {
    let directory = || {
        let spec = units::kind::directory::Directory {
            path: "/d".into(),
            attributes: units::kind::Attributes::default(),
            purge: true,
            entries: Vec::new(),
        };
        let mut unit = NewUnit::new(Kind::Directory, "/d", Spec::Directory(spec));
        unit.settle = 0;
        unit
    };
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/d/a", 1, "/d/a"));
    s.work(out);
    s.ask(7, Verb::Hold, "/d/a");
    let mut units = Units::new();
    units.0.unit(directory());
    let out = s.boot(units);
    s.work(out);
    let out = s.ask(8, Verb::Release, "/d/a");
    let batch = out.iter().find_map(|e| match e {
        Effect::Batch { batch, steps, .. } => Some((*batch, steps.clone())),
        _ => None,
    });
    let (batch, steps) = batch.unwrap();
    assert_eq!(steps.iter().map(|s| s.action).collect::<Vec<_>>(), [Action::Remove]);
    let left = |s: &Step| UnitResult {
        manifest: s.manifest,
        unit: s.unit,
        outcome: Outcome::Left,
        detail: "it was there before it was declared".to_owned(),
    };
    let mut out = s.tell(Event::Results { batch, results: steps.iter().map(left).collect() });
    out.extend(s.tell(Event::BatchDone { batch }));
    let looked =
        out.iter().find_map(|e| if let Effect::Batch { steps, .. } = e { Some(steps.len()) } else { None });
    assert_eq!(looked, Some(1), "{out:?}");
}

#[test]
fn a_held_file_does_not_fail_the_apply_of_what_loads_it() {
    let units = |version| {
        let units = Units::new().file("/d/a", version, "/d/a").plain("web").plain("user").target("all");
        let units = units.edge("web", EdgeKind::Requires, "/d/a").edge("web", EdgeKind::RestartOn, "/d/a");
        units.edge("user", EdgeKind::Requires, "web").edge("all", EdgeKind::Requires, "user")
    };
    let mut s = Story::new();
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.runs("user");
    s.ask(7, Verb::Hold, "/d/a");
    let out = s.swap(units(2), Swap::Apply);
    assert_eq!(s.until_answered(out, 102), Verdict::Done);
    assert_eq!((s.state("web"), s.state("user")), ("ready", "ready"), "they stay as they are");
    let out = s.ask(8, Verb::Release, "/d/a");
    s.work(out);
    assert_eq!(s.state("web"), "stopping", "it loads the file once that is in place");
}
