//! Stories of when a file is looked at, and of a command from its guard to its undo (`cargo mutate` found that nobody
//! looked).

use super::*;

/// Milliseconds from now until something is due.
fn due(s: &Story) -> u64 {
    (s.engine.next_deadline().unwrap().0 - s.now) / 1_000_000
}

fn passes(s: &mut Story, ms: u64) {
    s.now += ms * 1_000_000;
}

#[test]
fn a_file_is_looked_at_when_nobody_has_touched_it_for_a_while_or_touches_it_without_pause() {
    let mut units = Units::new();
    let mut unit = NewUnit::new(Kind::File, "/f", Spec::File(file("/f", 1)));
    unit.settle = 1_000;
    units.0.unit(unit);
    let mut s = Story::new();
    let out = s.boot(units);
    s.work(out);
    let nodes = vec![s.node("/f")];
    assert_eq!(steps(&s.tell(Event::Touched { nodes: nodes.clone() })), 0);
    assert_eq!(due(&s), 1_000);
    passes(&mut s, 600);
    s.tell(Event::Touched { nodes: nodes.clone() });
    assert_eq!(due(&s), 1_000, "a while from the last touch");
    for _ in 0..32 {
        passes(&mut s, 600);
        assert_eq!(steps(&s.tell(Event::Touched { nodes: nodes.clone() })), 0);
    }
    assert!(due(&s) < 400, "twenty of them from the first, and not {} more", due(&s));
    assert_eq!(steps(&s.tick()), 1);
}

#[test]
fn what_is_not_kept_is_tried_again_ever_more_rarely() {
    let mut s = Story::new();
    let mut out = s.boot(Units::new().file("/f", 1, ""));
    let mut waits = Vec::new();
    for _ in 0..11 {
        result(&mut s, &out, Outcome::NotKept);
        waits.push((s.engine.next_deadline().unwrap().0 - s.now + 1_000_000) / 1_000_000_000);
        out = s.tick();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // Once it is kept, all that is forgotten.
    result(&mut s, &out, Outcome::Kept);
    let nodes = vec![s.node("/f")];
    let out = s.tell(Event::Touched { nodes });
    result(&mut s, &out, Outcome::NotKept);
    assert_eq!((s.engine.next_deadline().unwrap().0 - s.now + 1_000_000) / 1_000_000_000, 1);
}

#[test]
fn a_contest_is_five_repairs_in_a_minute_and_then_waits_ever_longer() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    result(&mut s, &out, Outcome::Kept);
    let nodes = vec![s.node("/f")];
    let repair = |s: &mut Story| {
        let out = s.tell(Event::Touched { nodes: nodes.clone() });
        result(s, &out, Outcome::Changed);
        s.state("/f")
    };
    // Four in a minute are none, however often.
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(repair(&mut s), "repaired");
        }
        passes(&mut s, 61_000);
    }
    let states: Vec<&str> = (0..5).map(|_| repair(&mut s)).collect();
    assert_eq!(states, ["repaired", "repaired", "repaired", "repaired", "contested"]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push((s.engine.next_deadline().unwrap().0 - s.now + 1_000_000) / 60_000_000_000);
        let out = s.tick();
        result(&mut s, &out, Outcome::Changed);
        assert_eq!(s.state("/f"), "contested");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
}

fn with_command(exec: Exec) -> Units {
    let mut units = Units::new();
    units.0.unit(NewUnit::new(Kind::Exec, "job", Spec::Exec(Box::new(exec))));
    units
}

fn job(s: &Story) -> &'static str {
    let node = s.engine.node(&Address::new(Kind::Exec, "job")).unwrap();
    s.engine.status(node).state
}

/// The process of the command that was started last ends.
fn exits(s: &mut Story, code: i32) -> Vec<Effect> {
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(code) });
    // What it has left behind goes with it.
    assert!(out.iter().any(|e| matches!(e, Effect::Kill { serial: killed } if *killed == serial)));
    out
}

#[test]
fn a_command_runs_when_neither_guard_holds_and_is_recorded() {
    let unless =
        Exec { creates: Some("/made".into()), unless: Some(vec!["test".into()]), ..command(&["job"]) };
    let name = || "job".to_owned();
    let mut s = Story::new();
    let out = s.boot(with_command(unless.clone()));
    let out = result(&mut s, &out, Outcome::Drifted);
    assert_eq!(spawned(&s, &out), [(name(), Job::Unless)]);
    let out = exits(&mut s, 1);
    assert_eq!(spawned(&s, &out), [(name(), Job::Exec)]);
    let out = exits(&mut s, 0);
    assert!(matches!(actions(&out)[..], [Action::Ran(_)]), "{out:?}");
    result(&mut s, &out, Outcome::Kept);
    assert_eq!(job(&s), "changed");
    // Where the second guard holds nothing is run.
    let mut s = Story::new();
    let out = s.boot(with_command(unless));
    result(&mut s, &out, Outcome::Drifted);
    let out = exits(&mut s, 0);
    assert_eq!((spawned(&s, &out), job(&s)), (vec![], "kept"));
}

#[test]
fn a_command_that_fails_begins_with_its_guard_again() {
    let mut s = Story::new();
    let out = s.boot(with_command(Exec { creates: Some("/made".into()), ..command(&["job"]) }));
    let out = result(&mut s, &out, Outcome::Drifted);
    assert_eq!(spawned(&s, &out), [("job".to_owned(), Job::Exec)]);
    exits(&mut s, 3);
    assert_eq!((job(&s), due(&s)), ("not kept", 1_000));
    let out = s.tick();
    assert!(matches!(actions(&out)[..], [Action::Guard(_)]), "{out:?}");
}

#[test]
fn a_return_undoes_a_command_that_has_run_and_says_how() {
    for (undo, done, jobs) in
        [(true, Outcome::Kept, 1), (false, Outcome::Kept, 0), (true, Outcome::NotKept, 0)]
    {
        let undo = undo.then(|| vec!["undo".into()]);
        let mut s = Story::new();
        let out = s.boot(with_command(Exec { creates: Some("/made".into()), undo, ..command(&["job"]) }));
        result(&mut s, &out, done);
        let out = s.swap(Units::new(), Swap::Rollback);
        let out = s.tell(Event::Recorded { token: token(&out), error: None });
        assert_eq!(spawned(&s, &out), vec![("job".to_owned(), Job::Undo); jobs]);
        if jobs > 0 {
            exits(&mut s, 0);
        }
        assert!(s.engine.node(&Address::new(Kind::Exec, "job")).is_none());
    }
    // An apply that leaves it out leaves alone what it has done.
    let mut s = Story::new();
    let undo = Some(vec!["undo".into()]);
    let out = s.boot(with_command(Exec { creates: Some("/made".into()), undo, ..command(&["job"]) }));
    result(&mut s, &out, Outcome::Kept);
    let out = s.swap(Units::new(), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    assert_eq!(spawned(&s, &out), []);
}
