//! Stories of holds: of what waits for them, of when they are lifted, and of what nobody declares any more.

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
    let words = "left in place: it was there before it was declared";
    let told = |e: &Effect| matches!(e, Effect::Publish { text, .. } if text == words);
    assert!(out.iter().any(told), "{out:?}");
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

/// Seed 217254: the hold comes between the ask and the end of the stop.
#[test]
fn a_start_that_a_hold_leaves_down_is_answered() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s.ask(7, Verb::Restart, "web");
    assert_eq!(s.state("web"), "stopping");
    s.ask(8, Verb::Hold, "web");
    let out = s.ends("web");
    assert_eq!(s.state("web"), "down");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

#[test]
fn a_restart_that_waits_for_its_gate_is_answered_when_it_is_held() {
    let mut s = Story::new();
    let units = || Units::new().plain("web").service("db", |s| s.ready = Ready::Notify);
    s.boot(units());
    s.runs("web");
    s.swap(units().edge("web", EdgeKind::Wants, "db"), Swap::Boot);
    let out = s.ask(7, Verb::Restart, "web");
    assert_eq!(answered(&out, 7), None, "it waits for db to settle");
    let out = s.ask(8, Verb::Hold, "web");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

/// Seed 535869: what is held stops when the hold ends, and its inputs need not wait for that.
#[test]
fn who_is_held_keeps_nobody_waiting_for_its_stop() {
    let mut s = Story::new();
    let units = |version| {
        Units::new()
            .service("web", move |s| {
                s.nice = i32::try_from(version).unwrap();
                s.switch = SwitchMethod::StopStart;
            })
            .file("/etc/web", version, "")
            .edge("web", EdgeKind::Requires, "/etc/web")
    };
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    let out = s.boot(units(2));
    s.work(out);
    assert_eq!((s.state("/etc/web"), s.state("web")), ("repaired", "ready"));
}

/// A hold that is lifted before the change would have the file put back to the present version on the way.
#[test]
fn a_hold_is_lifted_with_the_change_and_not_before() {
    let version = |v: u64| Units::new().file("/a", v, "").plain("web");
    let mut s = Story::new();
    let out = s.boot(version(1));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Hold, "/a");
    s.ask(8, Verb::Stop, "web");
    s.ends("web");
    let node = s.node("/a");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    s.work(out);
    let (manifest, generation) = (s.engine.install(version(2).finish()), 2);
    let swap = Event::Swapped { request: 9, manifest, generation, kind: Swap::Apply, release: true };
    let out = s.tell(swap);
    assert_eq!(steps(&out), 0, "nothing is done before the record: {out:?}");
    assert!(s.engine.status(node).hold.is_some(), "still held");
    let token =
        out.iter().find_map(|e| if let Effect::Store { token, .. } = e { Some(*token) } else { None });
    // What was asked for survives a re-exec.
    let manifests = s.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = s.engine.nodes().map(|n| (n, s.engine.record(n).unwrap())).collect();
    s.engine = Engine::restore(manifests, &s.engine.globals(), records).unwrap();
    let out = s.tell(Event::Recorded { token: token.unwrap(), error: None });
    assert_eq!(s.engine.status(node).hold, None);
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)], "what was stopped by hand is started");
    let done: Vec<_> = out
        .iter()
        .filter_map(|e| if let Effect::Batch { steps, .. } = e { Some(steps) } else { None })
        .flatten()
        .map(|s| (s.manifest, s.action))
        .collect();
    assert_eq!(done, [(manifest, Action::Converge)], "the new version, and only that");
    let out = s.work(out);
    assert_eq!(s.state("/a"), "changed", "{out:?}");
}

/// An apply that changes nothing lifts them all the same.
#[test]
fn a_hold_is_lifted_by_an_apply_of_the_same() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, ""));
    s.work(out);
    s.ask(7, Verb::Hold, "/a");
    let manifest = s.engine.install(Units::new().file("/a", 1, "").finish());
    let swap = Event::Swapped { request: 9, manifest, generation: 1, kind: Swap::Apply, release: true };
    let out = s.tell(swap);
    assert_eq!(s.engine.status(s.node("/a")).hold, None);
    assert_eq!(steps(&out), 1, "it is looked at: {out:?}");
}

/// An apply of these, which lifts every hold, and of a service that will fail; the worker has done its part.
fn releases(s: &mut Story, units: Units) {
    let manifest = s.engine.install(units.service("fails", |s| s.restart = Restart::Never).finish());
    s.tell(Event::Swapped { request: 9, manifest, generation: 9, kind: Swap::Apply, release: true });
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    s.work(out);
}

/// It fails, and the apply returns.
fn fails(s: &mut Story) {
    s.runs("fails");
    let out = s.ends("fails");
    assert_eq!(s.until_answered(out, 9), Verdict::Returned);
}

/// Seed 65001406 and others: what nobody declares any more is gone by the time of the return, and was held.
#[test]
fn a_hold_on_what_an_apply_has_dropped_is_back_after_its_return() {
    let old = || Units::new().plain("web").file("/a", 1, "").plain("stays");
    let mut s = Story::new();
    let out = s.boot(old());
    s.work(out);
    s.runs("web");
    s.runs("stays");
    s.ask(7, Verb::Stop, "web");
    s.ends("web");
    s.ask(8, Verb::Hold, "/a");
    releases(&mut s, Units::new().plain("stays"));
    let hold = |s: &Story, name| s.engine.node(&address(name)).and_then(|n| s.engine.status(n).hold);
    assert_eq!((hold(&s, "web"), hold(&s, "/a")), (None, None));
    fails(&mut s);
    assert!(hold(&s, "/a").is_some());
    assert_eq!(hold(&s, "web").map(|h| h.kind), Some(HoldKind::Stopped));
    assert_eq!(s.state("web"), "down", "nobody starts what somebody has stopped");
}

/// The same apply succeeds: nothing of it is left.
#[test]
fn what_was_held_and_is_dropped_by_an_apply_that_releases_it_is_gone_with_that() {
    let mut s = Story::new();
    let out = s.boot(Units::new().plain("web").file("/a", 1, ""));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Stop, "web");
    s.ends("web");
    s.ask(8, Verb::Hold, "/a");
    let manifest = s.engine.install(Units::new().target("all").finish());
    let out =
        s.tell(Event::Swapped { request: 9, manifest, generation: 2, kind: Swap::Apply, release: true });
    assert_eq!(s.until_answered(out, 9), Verdict::Done);
    assert_eq!((s.state("web"), s.state("/a")), ("absent", "absent"));
}

/// Seed 65007329: the version of a generation that came and went is not what somebody holds.
#[test]
fn what_a_return_leaves_held_and_undeclared_is_left_as_it_is() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "").plain("web"));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Hold, "/a");
    s.boot(Units::new().plain("web"));
    let with = |version| Units::new().file("/a", version, "").plain("web");
    releases(&mut s, with(2));
    fails(&mut s);
    let out = s.boot(with(2));
    assert_eq!(actions(&out), [Action::Check], "it is only looked at");
}

/// Seeds 68005402 and 8959: what it lies on was not there, so that it could not be put back before the hold ended, or
/// before it was declared otherwise.
#[test]
fn what_could_not_be_put_back_in_time_is_left_as_it_is() {
    for (released, action) in [(true, Action::Converge), (false, Action::Check)] {
        let old = || {
            let manual = |s: &mut Service| s.start = units::kind::service::Start::Manual;
            let units = Units::new().file("/a", 1, "").service("never", manual);
            units.edge("/a", EdgeKind::Binds, "never")
        };
        let mut s = Story::new();
        s.boot(old());
        s.ask(7, Verb::Hold, "/a");
        releases(&mut s, Units::new().file("/a", 1, ""));
        fails(&mut s);
        if released {
            s.ask(8, Verb::Release, "/a");
        }
        let out = s.boot(Units::new().file("/a", 1, ""));
        assert_eq!(actions(&out), [action]);
    }
}

/// Seed 67026468: the command was being undone when it was declared and stopped, and is declared no more.
#[test]
fn a_hold_on_a_command_that_is_being_undone_outlives_that() {
    let exec = Exec { creates: Some("/made".into()), undo: Some(vec!["undo".into()]), ..command(&["job"]) };
    let with = || {
        let mut units = Units::new();
        units.0.unit(NewUnit::new(Kind::Exec, "job", Spec::Exec(Box::new(exec.clone()))));
        units
    };
    let mut s = Story::new();
    let out = s.boot(with());
    let batch = out.iter().find_map(|e| match e {
        Effect::Batch { batch, steps, .. } => Some((*batch, steps[0])),
        _ => None,
    });
    let (batch, step) = batch.unwrap();
    let (manifest, unit, outcome) = (step.manifest, step.unit, Outcome::Kept);
    let results = vec![UnitResult { manifest, unit, outcome, detail: String::new() }];
    s.tell(Event::Results { batch, results });
    s.tell(Event::BatchDone { batch });
    let out = s.swap(Units::new(), Swap::Rollback);
    assert_eq!(spawned(&s, &out), []);
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    assert_eq!(spawned(&s, &out), [("job".to_owned(), Job::Undo)]);
    let serial = s.engine.next_serial - 1;
    s.boot(with());
    let node = s.engine.node(&Address::new(Kind::Exec, "job")).unwrap();
    s.tell(Event::Asked { request: 7, verb: Verb::Stop, node, note: "me".into(), until: None });
    s.boot(Units::new());
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    assert!(s.engine.status(node).hold.is_some(), "it is listed");
    s.tell(Event::Asked { request: 8, verb: Verb::Release, node, note: "me".into(), until: None });
    assert!(s.engine.is_gone(node));
}

/// Seed 50001759: what somebody holds keeps what it has done, whatever is declared of it meanwhile.
#[test]
fn what_has_run_and_is_held_is_done_until_the_hold_ends() {
    let units = |nice: i32| {
        let once = move |s: &mut Service| (s.ready, s.nice) = (Ready::Exited, nice);
        let units = Units::new().service("setup", once).plain("web");
        units.edge("web", EdgeKind::Binds, "setup")
    };
    let done = |s: &mut Story| {
        let serial = s.serial("setup");
        s.tell(Event::CgroupEmpty { serial });
        s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    };
    for kind in [Verb::Hold, Verb::Pause] {
        let mut s = Story::new();
        s.boot(units(0));
        s.runs("setup");
        done(&mut s);
        s.runs("web");
        s.ask(7, kind, "setup");
        s.boot(units(1));
        assert_eq!((s.state("setup"), s.state("web")), ("done", "ready"), "{kind:?}");
        // It owes a run, and so carries nobody new.
        let out = s.boot(units(1).plain("late").edge("late", EdgeKind::Requires, "setup"));
        assert_eq!((spawned(&s, &out), s.state("late")), (Vec::new(), "waiting"));
        // It has run as it is declared by now.
        s.boot(units(0));
        let out = s.ask(8, Verb::Release, "setup");
        assert_eq!((spawned(&s, &out), s.state("setup")), (Vec::new(), "done"));
        s.ask(9, kind, "setup");
        s.boot(units(2));
        s.ask(10, Verb::Release, "setup");
        s.ends("web");
        assert_eq!(s.state("setup"), "starting");
    }
}

/// Seed 70008289: what a return was putting back was held, and dropped by the next apply before the worker had answered.
#[test]
fn a_hold_outlives_the_removal_of_what_is_held() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "").file("/b", 1, ""));
    s.work(out);
    let out = s.swap(Units::new().file("/b", 1, ""), Swap::Boot);
    assert_eq!(actions(&out), [Action::Remove]);
    s.ask(7, Verb::Hold, "/a");
    result(&mut s, &out, Outcome::Removed);
    let status = s.engine.status(s.node("/a"));
    assert!(status.hold.is_some(), "it is listed: {status:?}");
    let out = s.boot(Units::new().file("/a", 1, "").file("/b", 1, ""));
    assert_eq!(actions(&out), [Action::Check], "declared again, it is still held");
    let out = result(&mut s, &out, Outcome::Drifted);
    assert_eq!(steps(&out), 0);
    let out = s.ask(8, Verb::Release, "/a");
    assert_eq!(actions(&out), [Action::Converge]);
}

/// A repair that is under way when it is held ends before that is answered: an edit after the answer is left alone.
#[test]
fn a_hold_is_answered_when_nobody_is_at_work_on_it() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    s.work(out);
    let begun = s.tell(Event::Touched { nodes: vec![s.node("/f")] });
    let out = s.ask(7, Verb::Hold, "/f");
    assert_eq!(answered(&out, 7), None);
    let out = result(&mut s, &begun, Outcome::Changed);
    assert_eq!(answered(&out, 7), Some(Verdict::Done));
    let out = s.ask(8, Verb::Hold, "/f");
    assert_eq!(answered(&out, 8), Some(Verdict::Done));
}
