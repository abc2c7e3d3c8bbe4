//! An apply of what is current answers when what it tries again has ended, and with what came of it.

use super::super::effect::Tally;
use super::*;

const REQUEST: u64 = 7;

fn again(s: &mut Story, units: Units, release: bool) -> Vec<Effect> {
    let manifest = s.engine.install(units.finish());
    let (request, generation, kind) = (REQUEST, s.engine.desired().1, Swap::Apply);
    s.tell(Event::Swapped { request, manifest, generation, kind, release })
}

/// Verdict, changed, repaired, not kept.
fn end(effects: &[Effect]) -> Option<(Verdict, u32, u32, u32)> {
    effects.iter().find_map(|e| match e {
        Effect::Answer { request: REQUEST, verdict, tally, .. } => {
            Some((*verdict, tally.changed, tally.repaired, tally.not_kept))
        }
        _ => None,
    })
}

/// It goes on in a new program, from what was written down.
fn reexec(s: &mut Story) {
    let manifests = s.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = s.engine.nodes().map(|n| (n, s.engine.record(n).unwrap())).collect();
    s.engine = Engine::restore(manifests, &s.engine.globals(), records).unwrap();
    assert_eq!(s.engine.audit(), None);
}

fn two_files() -> Units {
    Units::new().file("/etc/f", 1, "").file("/etc/g", 1, "")
}

fn held_and_drifted() -> Story {
    let mut s = Story::new();
    let out = s.boot(two_files());
    s.work(out);
    s.ask(1, Verb::Hold, "/etc/f");
    let out = s.tell(Event::Touched { nodes: vec![s.node("/etc/f")] });
    result(&mut s, &out, Outcome::Drifted);
    assert_eq!(s.state("/etc/f"), "drifted");
    s
}

#[test]
fn nothing_to_do_is_answered_at_once() {
    let mut s = Story::new();
    let out = s.boot(two_files());
    s.work(out);
    let out = again(&mut s, two_files(), false);
    assert_eq!(end(&out), Some((Verdict::Done, 0, 0, 0)), "what was repaired before is not its doing");
    assert_eq!(steps(&out), 0);
}

#[test]
fn what_was_held_is_right_when_its_release_is_answered() {
    let mut s = held_and_drifted();
    let out = again(&mut s, two_files(), true);
    assert_eq!((end(&out), steps(&out)), (None, 1), "{out:?}");
    let (batch, .., steps) = batch(&out).unwrap();
    let right = UnitResult {
        manifest: steps[0].manifest,
        unit: steps[0].unit,
        outcome: Outcome::Changed,
        detail: String::new(),
    };
    let out = s.tell(Event::Results { batch, results: vec![right] });
    assert_eq!(end(&out), Some((Verdict::Done, 0, 1, 0)), "its batch is none of its business");
}

#[test]
fn without_a_release_what_is_held_is_left_alone() {
    let mut s = held_and_drifted();
    let out = again(&mut s, two_files(), false);
    assert_eq!((end(&out), steps(&out)), (Some((Verdict::Done, 0, 0, 0)), 0));
}

#[test]
fn what_was_dirty_already_is_waited_for_and_what_gets_so_later_is_not() {
    let mut s = Story::new();
    let out = s.boot(two_files());
    s.work(out);
    let (f, g) = (s.node("/etc/f"), s.node("/etc/g"));
    let first = s.tell(Event::Touched { nodes: vec![f] });
    assert_eq!(end(&again(&mut s, two_files(), false)), None);
    assert_eq!(steps(&s.tell(Event::Touched { nodes: vec![g] })), 0, "its turn comes after the first batch");
    reexec(&mut s);
    let out = result(&mut s, &first, Outcome::Changed);
    assert_eq!(end(&out), Some((Verdict::Done, 0, 1, 0)));
    assert!(!s.engine.is_converged(), "the other one is still to be looked at");
}

#[test]
fn what_is_not_kept_is_tried_at_once_and_decides() {
    for (outcome, expected) in
        [(Outcome::Changed, (Verdict::Done, 0, 1, 0)), (Outcome::NotKept, (Verdict::Failed, 0, 0, 1))]
    {
        let mut s = Story::new();
        let out = s.boot(two_files());
        s.work(out);
        let out = s.tell(Event::Touched { nodes: vec![s.node("/etc/f")] });
        result(&mut s, &out, Outcome::NotKept);
        let out = again(&mut s, two_files(), false);
        assert_eq!((end(&out), steps(&out)), (None, 1));
        let out = result(&mut s, &out, outcome);
        assert_eq!(end(&out), Some(expected));
    }
}

fn failed() -> Story {
    let mut s = Story::new();
    s.boot(web_once());
    fails(&mut s);
    assert_eq!((s.state("web"), s.state("app")), ("failed", "waiting"));
    s
}

fn fails(s: &mut Story) -> Vec<Effect> {
    let serial = s.serial("web");
    s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    s.tell(Event::CgroupEmpty { serial })
}

fn web_once() -> Units {
    let never = |s: &mut Service| s.restart = Restart::Never;
    Units::new().service("web", never).plain("app").edge("app", EdgeKind::Requires, "web")
}

#[test]
fn a_failed_service_is_started_and_so_is_what_waits_for_it() {
    let mut s = failed();
    let out = again(&mut s, web_once(), false);
    assert_eq!((end(&out), spawned(&s, &out)), (None, vec![("web".to_owned(), Job::Main)]));
    let out = s.runs("web");
    assert_eq!((end(&out), s.state("app")), (None, "starting"));
    reexec(&mut s);
    assert_eq!(end(&s.runs("app")), None, "both have to stay up");
    reexec(&mut s);
    assert_eq!(end(&s.tick()), Some((Verdict::Done, 0, 2, 0)));
    assert_eq!(s.engine.next_deadline(), None);
}

/// Its program runs, which is all that its readiness says, and ends a moment later.
#[test]
fn a_service_that_is_up_only_for_a_moment_fails_it() {
    let mut s = failed();
    again(&mut s, web_once(), false);
    s.runs("web");
    s.runs("app");
    assert!(s.engine.apply_news().is_some());
    assert_eq!(end(&fails(&mut s)), Some((Verdict::Failed, 0, 1, 1)), "the other one runs on");
}

#[test]
fn a_service_that_fails_again_fails_it() {
    let mut s = failed();
    again(&mut s, web_once(), false);
    let out = fails(&mut s);
    assert_eq!(end(&out), Some((Verdict::Failed, 0, 0, 1)));
}

#[test]
fn a_service_that_backs_off_is_started_at_once_and_once() {
    let mut s = flapping();
    assert_eq!(s.state("flaps"), "backoff");
    let out = again(&mut s, beside_flapping(1), false);
    assert_eq!((end(&out), spawned(&s, &out)), (None, vec![("flaps".to_owned(), Job::Main)]));
    s.runs("flaps");
    // The first restart comes at once.
    assert_eq!(end(&s.ends("flaps")), None);
    s.runs("flaps");
    let out = s.ends("flaps");
    assert_eq!((end(&out), s.state("flaps")), (Some((Verdict::Failed, 0, 0, 1)), "backoff"));
}

#[test]
fn a_reload_that_has_failed_is_tried_again_and_decides() {
    let units = |version| {
        let reloads = |s: &mut Service| s.reload = Some(Reload::Command(vec!["/bin/reload".into()]));
        let units = Units::new().service("web", reloads).file("/etc/f", version, "");
        units.edge("web", EdgeKind::ReloadOn, "/etc/f")
    };
    let mut s = Story::new();
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    let out = s.boot(units(2));
    s.work(out);
    let ends = |s: &mut Story, code| {
        let serial = s.engine.next_serial - 1;
        s.tell(Event::Exited { serial, exit: Exit::Code(code) })
    };
    ends(&mut s, 1);
    assert!(s.engine.status(s.node("web")).stale);
    for (code, expected) in [(1, (Verdict::Failed, 0, 0, 0)), (0, (Verdict::Done, 0, 1, 0))] {
        let out = again(&mut s, units(2), false);
        assert_eq!((end(&out), s.state("web")), (None, "reloading"));
        let mut out = ends(&mut s, code);
        if expected.0 == Verdict::Done {
            out.extend(s.tick());
        }
        assert_eq!(end(&out), Some(expected));
    }
}

#[test]
fn nobody_waits_for_a_device_that_is_late() {
    let units = || {
        let units = Units::new().mount("/m").file("/m/f", 1, "").file("/etc/f", 1, "");
        units.edge("/m/f", EdgeKind::Binds, "/m")
    };
    let mut s = Story::new();
    let late = s.boot(units());
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/sdz") });
    // Over what a boot still waits for nothing can be applied again.
    result(&mut s, &late, Outcome::Kept);
    let gives_up = |s: &mut Story, serial| {
        s.tell(Event::Explained { serial, why: "no such device".to_owned() });
        s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    };
    gives_up(&mut s, serial);
    assert_eq!((s.state("/m"), s.engine.applying()), ("backoff", None));
    let out = s.tell(Event::Touched { nodes: vec![s.node("/etc/f")] });
    assert_eq!(end(&again(&mut s, units(), false)), None);
    assert_eq!(s.state("/m"), "starting", "it is tried again at once");
    let serial = s.engine.next_serial - 1;
    assert_eq!(end(&s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/sdz") })), None);
    reexec(&mut s);
    let out = result(&mut s, &out, Outcome::Kept);
    assert_eq!(end(&out), Some((Verdict::Done, 0, 0, 0)), "what lies on it waits as well");
    // The other way round: all but the device is there.
    gives_up(&mut s, serial);
    assert_eq!(end(&again(&mut s, units(), false)), None);
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/sdz") });
    let waiting = |e: &Effect| matches!(e, Effect::Answer { tally: Tally { waiting: 2, .. }, .. });
    assert!(out.iter().any(waiting), "{out:?}");
}

#[test]
fn a_newer_apply_and_the_way_down_end_it_and_who_has_gone_has_no_answer() {
    let mut s = failed();
    again(&mut s, web_once(), false);
    let out = s.swap(Units::new(), Swap::Apply);
    assert_eq!(end(&out).map(|e| e.0), Some(Verdict::Superseded));
    let mut s = failed();
    again(&mut s, web_once(), false);
    let out = s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    assert_eq!(end(&out).map(|e| e.0), Some(Verdict::Failed));
    let mut s = failed();
    again(&mut s, web_once(), false);
    assert_eq!(s.engine.sizes().asks, 1);
    s.tell(Event::Unasked { request: REQUEST });
    assert_eq!(s.engine.sizes().asks, 0);
    s.runs("web");
    s.runs("app");
    assert_eq!((s.state("app"), s.engine.next_deadline()), ("ready", None), "what was begun goes on");
}

/// Neither for one that was late before: the mount was lost, and its device with it.
#[test]
fn nor_for_one_that_was_late_already() {
    let units = || Units::new().mount("/m").file("/m/f", 1, "").edge("/m/f", EdgeKind::Binds, "/m");
    let mut s = Story::new();
    s.boot(units());
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    s.work(out);
    s.tell(Event::Unmounted { node: s.node("/m") });
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/sdz") });
    assert_eq!((s.state("/m"), s.engine.applying()), ("waiting", None));
    assert_eq!(end(&again(&mut s, units(), false)), Some((Verdict::Done, 0, 0, 0)));
}

/// Nobody can tell when a process ends that cannot be killed, and nothing is waited for that only waits for it.
#[test]
fn who_requires_what_cannot_be_killed_is_not_waited_for() {
    let units = || Units::new().plain("web").plain("app").edge("app", EdgeKind::Requires, "web");
    for before in [true, false] {
        let mut s = Story::new();
        s.boot(units());
        s.runs("web");
        s.runs("app");
        s.ask(1, Verb::Restart, "web");
        let serial = s.serial("app");
        s.tell(Event::Exited { serial, exit: Exit::Code(1) });
        s.tell(Event::CgroupEmpty { serial });
        assert_eq!((s.state("web"), s.state("app")), ("stopping", "waiting"));
        let mut out = Vec::new();
        if !before {
            out = again(&mut s, units(), false);
            assert_eq!(end(&out), None, "it may end yet");
        }
        while s.engine.next_deadline().is_some() {
            out = s.tick();
        }
        if before {
            out = again(&mut s, units(), false);
        }
        assert_eq!(end(&out).map(|e| e.0), Some(Verdict::Failed), "{before}");
        let named =
            |e: &Effect| matches!(e, Effect::Answer { text, .. } if text.contains("although it was killed"));
        assert!(out.iter().any(named), "{out:?}");
    }
}
