//! Stories of what others are told: how many units are how, that all is converged, that a manifest is not needed any more,
//! and what is sent to a service that ends (`cargo mutate` found that nobody looked).

use super::*;

fn has(out: &[Effect], wanted: &Effect) -> bool {
    out.contains(wanted)
}

#[test]
fn units_are_counted_by_how_they_are() {
    let mut s = Story::new();
    let manual = |s: &mut Service| s.start = units::kind::service::Start::Manual;
    let units = Units::new().file("/kept", 1, "").file("/bad", 1, "").file("/held", 1, "").plain("web");
    let out = s.boot(units.service("tool", manual).plain("later").edge("later", EdgeKind::Requires, "/bad"));
    s.ask(7, Verb::Hold, "/held");
    let (number, .., steps) = batch(&out).unwrap();
    let results = steps.iter().map(|step| UnitResult {
        manifest: step.manifest,
        unit: step.unit,
        outcome: if step.unit == s.engine.unit_of(s.node("/bad")).1 {
            Outcome::NotKept
        } else {
            Outcome::Kept
        },
        detail: String::new(),
    });
    let results = results.collect();
    s.tell(Event::Results { batch: number, results });
    s.tell(Event::BatchDone { batch: number });
    s.runs("web");
    let tally = s.engine.tally();
    assert_eq!((tally.held, tally.not_kept, tally.waiting), (1, 1, 1), "{tally:?}");
    assert_eq!((tally.changed, tally.repaired), (0, 0), "{tally:?}");
    assert_eq!(tally.kept, 3, "what is down as it should be is as it should be: {tally:?}");
}

#[test]
fn that_all_is_converged_is_said_when_it_comes_true_and_once() {
    let mut s = Story::new();
    let says = |out: &[Effect]| out.iter().filter(|e| matches!(e, Effect::Converged)).count();
    let out = s.boot(Units::new().file("/f", 1, ""));
    assert_eq!((says(&out), s.engine.is_converged()), (0, false));
    let out = s.work(out);
    assert_eq!((says(&out), s.engine.is_converged()), (1, true));
    assert_eq!(says(&s.tell(Event::Tick)), 0);
    let nodes = vec![s.node("/f")];
    let out = s.tell(Event::Touched { nodes });
    assert_eq!(says(&out), 0);
    assert_eq!(says(&s.work(out)), 1);
    // While an apply is under way nothing has converged.
    let out = s.swap(Units::new().file("/f", 1, "").plain("web"), Swap::Apply);
    assert_eq!(says(&out), 0);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    assert_eq!(says(&out), 0);
    assert_eq!(says(&s.runs("web")), 0, "it is watched for a while");
}

#[test]
fn a_manifest_that_nobody_needs_is_to_be_forgotten() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    s.work(out);
    let first = s.engine.desired().0;
    let out = s.boot(Units::new().file("/f", 2, ""));
    let out = s.work(out);
    assert!(has(&out, &Effect::Forget { manifest: first }), "{out:?}");
}

#[test]
fn what_a_stop_command_did_not_stop_is_asked_to_and_killed_in_time() {
    for code in [0, 1] {
        let mut s = Story::new();
        let stop = Some(vec!["/bin/stop".into()]);
        s.boot(Units::new().service("web", |s| (s.stop, s.stop_signal, s.stop_timeout) = (stop, 3, 7_000)));
        s.runs("web");
        let serial = s.serial("web");
        let out = s.ask(7, Verb::Stop, "web");
        let begun = s.now;
        assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Stop)]);
        let command = s.engine.next_serial - 1;
        s.tell(Event::Spawned { serial: command });
        let out = s.tell(Event::Exited { serial: command, exit: Exit::Code(code) });
        assert_eq!(has(&out, &Effect::Signal { serial, signal: 3 }), code != 0, "{out:?}");
        let out = s.tick();
        assert_eq!((s.now - begun) / 1_000_000, 7_000);
        assert!(has(&out, &Effect::Kill { serial }), "{out:?}");
        assert_eq!(answered(&s.ends("web"), 7), Some(Verdict::Done));
    }
}

#[test]
fn a_service_that_fails_is_restarted_at_once_and_then_ever_more_rarely() {
    let mut s = Story::new();
    s.boot(
        Units::new().service("web", |s| (s.restart_limit, s.restart_delay, s.restart_max) = (0, 100, 1_000)),
    );
    let mut waits = Vec::new();
    for _ in 0..7 {
        s.runs("web");
        s.ends("web");
        if s.state("web") == "backoff" {
            let since = s.now;
            s.tick();
            waits.push((s.now - since) / 1_000_000);
        }
        assert_eq!(s.state("web"), "starting");
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
    // Who was up for long enough has begun anew.
    s.runs("web");
    s.now += 10_000_000_000;
    s.ends("web");
    assert_eq!(s.state("web"), "starting");
}
