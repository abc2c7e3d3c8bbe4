//! Stories that the comparison of plans with what was then done has found.

use super::*;

/// The file's drift is only reported, or repaired.
fn reported(flag: u8) -> Units {
    let mut units = Units::new();
    let mut unit = NewUnit::new(Kind::File, "/f", Spec::File(file("/f", 1)));
    (unit.flags, unit.settle) = (flag, 0);
    units.0.unit(unit);
    units
}

/// Seed 547: what was only reported so far is put right by the apply that says so.
#[test]
fn a_file_whose_drift_is_repaired_from_now_on_is_looked_at() {
    let mut s = Story::new();
    let out = s.boot(reported(flags::REPORT));
    s.work(out);
    let out = s.swap(reported(0), Swap::Apply);
    let token = s.engine.next_token - 1;
    assert_eq!(steps(&out), 0);
    let out = s.tell(Event::Recorded { token, error: None });
    assert_eq!(steps(&out), 1);
}

/// Seed 974: the process was told that it has no watchdog any more.
#[test]
fn a_watchdog_that_a_reload_takes_away_does_not_bite() {
    let web = |every: u64| {
        let with = |s: &mut Service| {
            (s.watchdog, s.reload, s.switch) = (every, Some(Reload::Signal(1)), SwitchMethod::Reload);
        };
        Units::new().service("web", with)
    };
    let mut s = Story::new();
    s.boot(web(2_000));
    s.runs("web");
    assert!(s.engine.next_deadline().is_some());
    let out = s.boot(web(0));
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 1, .. })), "{out:?}");
    assert_eq!(s.engine.next_deadline(), None);
}

/// Seed 921: the apply that should remove it returned, for it was in use; it stands as it is declared again.
#[test]
fn a_mount_that_could_not_go_is_ready_again_after_the_return() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let ends = |s: &mut Story, code| {
        let serial = s.engine.next_serial - 1;
        s.tell(Event::Exited { serial, exit: Exit::Code(code) })
    };
    ends(&mut s, 0);
    s.swap(Units::new(), Swap::Apply);
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    let unmounts = |e: &Effect| matches!(e, Effect::Spawn { job: Job::Unmount, .. });
    assert!(out.iter().any(unmounts), "{out:?}");
    let out = ends(&mut s, 1);
    assert_eq!(s.state("/m"), "ready");
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
}

/// Seed 28444: the hold ended while the look that it had asked for was with the worker.
#[test]
fn a_hold_that_ends_during_its_check_leaves_no_drift() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    s.work(out);
    s.ask(7, Verb::Hold, "/f");
    let nodes = vec![s.node("/f")];
    let out = s.tell(Event::Touched { nodes });
    let Some(Effect::Batch { batch, steps, .. }) = out.iter().find(|e| matches!(e, Effect::Batch { .. }))
    else {
        panic!("{out:?}")
    };
    assert_eq!(steps[0].action, Action::Check);
    s.ask(8, Verb::Release, "/f");
    let result = UnitResult {
        manifest: steps[0].manifest,
        unit: steps[0].unit,
        outcome: Outcome::Drifted,
        detail: "its content differs".to_owned(),
    };
    s.tell(Event::Results { batch: *batch, results: vec![result] });
    let out = s.tell(Event::BatchDone { batch: *batch });
    s.work(out);
    assert_eq!(s.state("/f"), "repaired");
}

/// Seeds 20739 and 21577: an apply that makes a service start which was restarted in vain before waits for it.
#[test]
fn an_apply_waits_for_what_it_starts_although_that_was_in_vain_before() {
    let mut s = flapping();
    if s.state("flaps") == "backoff" {
        s.tick();
    }
    s.runs("flaps");
    let serial = s.serial("flaps");
    s.tell(Event::Ready { serial });
    let bound = beside_flapping(1).plain("base").edge("flaps", EdgeKind::Binds, "base");
    s.swap(bound, Swap::Apply);
    let token = s.engine.next_token - 1;
    s.tell(Event::Recorded { token, error: None });
    s.ends("flaps");
    let out = s.runs("base");
    assert_eq!(spawned(&s, &out), [("flaps".to_owned(), Job::Main)]);
    let returns = |e: &Effect| matches!(e, Effect::Log { text, .. } if text.starts_with("returning"));
    assert!(!out.iter().any(returns), "{out:?}");
    s.runs("flaps");
    let serial = s.serial("flaps");
    let out = s.tell(Event::Ready { serial });
    let trial = |e: &Effect| matches!(e, Effect::Store { op: StoreOp::Trial { .. }, .. });
    assert!(out.iter().any(trial), "{out:?}");
}

/// Seed 50010431: who runs on what lies on something else from now on goes before that, wherever either stands.
#[test]
fn who_runs_on_what_loses_its_ground_stops() {
    for name in ["a", "z"] {
        for kind in [EdgeKind::Requires, EdgeKind::Binds] {
            let units = || {
                let units = Units::new().plain("db").file("/f", 1, "").plain(name);
                units.edge(name, EdgeKind::Requires, "/f")
            };
            let mut s = Story::new();
            let out = s.boot(units());
            s.work(out);
            s.runs("db");
            s.runs(name);
            s.ask(7, Verb::Stop, "db");
            s.ends("db");
            s.boot(units().edge("/f", kind, "db"));
            assert_eq!(s.state(name), "stopping", "{name} {kind:?}");
        }
    }
}
