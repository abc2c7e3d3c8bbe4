//! Stories of how things end: what an apply that stands answers, what counts as a restart, and in which words.

use super::*;

/// The count of what is not kept, and the verdict of the answer in these effects.
fn end(effects: &[Effect]) -> Option<(Verdict, u32, String)> {
    effects.iter().rev().find_map(|e| match e {
        Effect::Answer { verdict, tally, text, .. } => Some((*verdict, tally.not_kept, text.clone())),
        _ => None,
    })
}

#[test]
fn an_apply_that_is_kept_says_by_its_verdict_that_something_else_is_not() {
    let mut s = Story::new();
    let bad = |units: Units| units.service("bad", |b| b.restart = Restart::Never);
    s.boot(bad(Units::new()));
    let fails = |s: &mut Story| {
        let serial = s.serial("bad");
        let mut out = s.tell(Event::Spawned { serial });
        out.extend(s.tell(Event::Exited { serial, exit: Exit::Code(1) }));
        out.extend(s.tell(Event::CgroupEmpty { serial }));
        out
    };
    fails(&mut s);
    assert_eq!(s.state("bad"), "failed");
    for _ in 0..2 {
        let manifest = s.engine.install(bad(Units::new().file("/a", 1, "")).finish());
        let mut open = s.tell(Event::Swapped {
            request: 50,
            manifest,
            generation: 9,
            kind: Swap::Apply,
            release: false,
        });
        while answered(&open, 50).is_none() {
            // What is applied again has it tried again.
            if s.state("bad") == "starting" {
                open.extend(fails(&mut s));
                continue;
            }
            let token = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
            let tokens: Vec<u64> = open.iter().filter_map(token).collect();
            open = s.work(open);
            for token in tokens {
                open.extend(s.tell(Event::Recorded { token, error: None }));
            }
        }
        let (verdict, not_kept, text) = end(&open).unwrap();
        assert_eq!((verdict, not_kept), (Verdict::Failed, 1), "{text}");
        assert!(text.starts_with("service:bad:"), "{text}");
        assert_eq!(s.state("bad"), "failed");
    }
    assert_eq!(s.engine.desired().1, 9, "it did not return because of that");
}

#[test]
fn a_start_that_is_not_made_any_more_counts_as_no_restart() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |w| {
        w.restart_limit = 2;
        w.restart_delay = 0;
    }));
    for _ in 0..3 {
        let serial = s.serial("web");
        s.tell(Event::Spawned { serial });
        s.tell(Event::Exited { serial, exit: Exit::Code(3) });
        s.tell(Event::CgroupEmpty { serial });
    }
    let status = s.engine.status(s.node("web"));
    assert_eq!((status.state, status.restarts), ("failed", 2));
}

#[test]
fn ends_of_processes_are_told_in_words() {
    assert_eq!(Exit::Code(3).to_string(), "ended with exit code 3");
    assert_eq!(Exit::Signal(9).to_string(), "was killed by SIGKILL");
}

/// Seed 7022183: each comes after the other, as the manifests say that they were started from. That orders nothing.
#[test]
fn two_that_leave_and_were_made_by_manifests_that_disagree_both_go() {
    let mut s = Story::new();
    s.boot(Units::new().plain("a").plain("b").edge("b", EdgeKind::Wants, "a"));
    s.runs("a");
    s.runs("b");
    // `b` keeps its process and its edges: what it shall require is started by hand only.
    let manual = |c: &mut Service| c.start = units::kind::service::Start::Manual;
    let next = Units::new().service("a", |a| a.nice = 5).service("b", |b| b.nice = 5).service("c", manual);
    s.swap(next.edge("a", EdgeKind::Wants, "b").edge("b", EdgeKind::Requires, "c"), Swap::Boot);
    s.ends("a");
    s.runs("a");
    assert_eq!((s.state("a"), s.state("b")), ("ready", "ready"));
    s.boot(Units::new());
    assert_eq!((s.state("a"), s.state("b")), ("stopping", "stopping"));
    s.ends("a");
    s.ends("b");
    assert_eq!((s.state("a"), s.state("b")), ("absent", "absent"));
}

#[test]
fn an_apply_that_returns_says_why_its_service_failed() {
    let mut s = Story::new();
    s.boot(Units::new().plain("a"));
    s.runs("a");
    let out = s.swap(Units::new().plain("a").service("b", |b| b.restart = Restart::Never), Swap::Apply);
    for effect in &out {
        if let Effect::Store { token, .. } = effect {
            s.tell(Event::Recorded { token: *token, error: None });
        }
    }
    s.runs("b");
    let serial = s.serial("b");
    let mut out = s.tell(Event::CgroupEmpty { serial });
    out.extend(s.tell(Event::Exited { serial, exit: Exit::Code(3) }));
    let logged: Vec<&str> = out
        .iter()
        .filter_map(|e| if let Effect::Log { text, .. } = e { Some(&text[..]) } else { None })
        .collect();
    assert!(logged.iter().any(|t| t.ends_with("service:b: failed: exited with 3")), "{logged:?}");
}

/// A command's reason is that of its last run, and what was killed at its time limit is told so.
#[test]
fn a_command_fails_for_the_reason_of_its_last_run() {
    let exec = Exec { once: Some(units::kind::exec::Once::Boot), timeout: 1000, ..command(&["job"]) };
    let mut units = Units::new();
    units.0.unit(NewUnit::new(Kind::Exec, "job", Spec::Exec(Box::new(exec))));
    let mut s = Story::new();
    let mut out = s.boot(units);
    let node = s.engine.node(&Address::new(Kind::Exec, "job")).unwrap();
    let runs: [(bool, Exit, &str, &str); 4] = [
        (true, Exit::Signal(9), "was killed by SIGKILL: at it", "did not end in time: at it"),
        (false, Exit::Code(3), "ended with exit code 3: full", "ended with exit code 3: full"),
        (false, Exit::Code(4), "ended with exit code 4", "ended with exit code 4"),
        (true, Exit::Signal(9), "was killed by SIGKILL", "did not end in time"),
    ];
    for (late, exit, told, reason) in runs {
        let batch = out.iter().find_map(|e| match e {
            Effect::Batch { batch, steps, .. } => Some((*batch, steps.clone())),
            _ => None,
        });
        let (batch, steps) = batch.unwrap();
        let run = |s: &Step| UnitResult {
            manifest: s.manifest,
            unit: s.unit,
            outcome: Outcome::Drifted,
            detail: String::new(),
        };
        let results = steps.iter().map(run).collect();
        let mut next = s.tell(Event::Results { batch, results });
        next.extend(s.tell(Event::BatchDone { batch }));
        assert_eq!(spawned(&s, &next), [("job".to_owned(), Job::Exec)]);
        let serial = s.engine.next_serial - 1;
        if late {
            s.tick();
        }
        s.tell(Event::Explained { serial, why: told.to_owned() });
        s.tell(Event::Exited { serial, exit });
        assert_eq!(s.engine.status(node).cause, reason);
        out = s.tick();
    }
}

/// Seed 50000957: by the edges that it has kept it requires what by now only wants it.
#[test]
fn a_paused_service_that_has_not_followed_keeps_no_shutdown_waiting() {
    let mut s = Story::new();
    let out = s.boot(Units::new().plain("old").file("/f", 1, "").edge("old", EdgeKind::Requires, "/f"));
    s.work(out);
    s.runs("old");
    s.ask(7, Verb::Pause, "old");
    let turned = Units::new().service("old", |s| s.nice = 3).plain("new").file("/f", 1, "");
    let out = s.boot(turned.edge("/f", EdgeKind::Wants, "old").edge("/f", EdgeKind::Requires, "new"));
    assert_eq!(spawned(&s, &out), [("new".to_owned(), Job::Main)]);
    let out = s.runs("new");
    s.work(out);
    s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    assert_eq!(s.state("old"), "stopping");
}

#[test]
fn an_apply_does_not_wait_for_what_is_restarted_for_ever() {
    let mut s = flapping();
    let mut open = s.swap(beside_flapping(2), Swap::Apply);
    let mut answer = None;
    for _ in 0..10 {
        let token = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
        let tokens: Vec<u64> = open.iter().filter_map(token).collect();
        let mut next = s.work(std::mem::take(&mut open));
        for token in tokens {
            next.extend(s.tell(Event::Recorded { token, error: None }));
        }
        next.extend(falls(&mut s));
        answer = answer.or(answered(&next, 102));
        open = next;
    }
    assert_eq!(answer, Some(Verdict::Failed), "it is told that something is not kept");
    assert_eq!(s.engine.desired().1, 2, "it was bad before, and is none of the apply's");
}

#[test]
fn a_boot_ends_although_something_is_restarted_for_ever() {
    let mut s = Story::new();
    let out = s.boot(beside_flapping(1));
    let mut all = s.work(out);
    for _ in 0..5 {
        all.extend(falls(&mut s));
    }
    assert_eq!(answered(&all, 101), Some(Verdict::Failed));
}

/// An apply during which a service fails for good that was ready when it began.
fn fails_meanwhile(before: Units, after: Units) -> (Verdict, &'static str) {
    let mut s = Story::new();
    let out = s.boot(before);
    s.work(out);
    s.runs("web");
    s.swap(after, Swap::Apply);
    let token = s.engine.next_token - 1;
    let mut out = s.tell(Event::Recorded { token, error: None });
    let serial = s.serial("web");
    out.extend(s.tell(Event::CgroupEmpty { serial }));
    out.extend(s.tell(Event::Exited { serial, exit: Exit::Code(1) }));
    assert_ne!(s.state("web"), "ready");
    (s.until_answered(out, 102), s.state("web"))
}

#[test]
fn an_apply_answers_only_for_what_it_changes_and_what_depends_on_that() {
    let web = |version, kind| web_beside(version).edge("web", kind, "/etc/x");
    let none = fails_meanwhile(web_beside(1), web_beside(2));
    assert_eq!(none, (Verdict::Failed, "failed"), "it has nothing to do with what is applied, which stays");
    let order = fails_meanwhile(web(1, EdgeKind::After), web(2, EdgeKind::After));
    assert_eq!(order.0, Verdict::Failed, "order is no dependency");
    for kind in [EdgeKind::Requires, EdgeKind::Wants] {
        let user = fails_meanwhile(web(1, kind), web(2, kind));
        assert!(!matches!(user.0, Verdict::Done | Verdict::Failed), "{kind:?}: it returns");
    }
    let two = |version| web_beside(version).file("/etc/y", 1, "");
    let edges = fails_meanwhile(two(1), two(2).edge("web", EdgeKind::Wants, "/etc/y"));
    assert!(!matches!(edges.0, Verdict::Done | Verdict::Failed), "what it depends on is another thing");
}

/// Seed 40003629: what came with an apply that returns was ordered after a unit that has never followed it, and carries
/// what that unit requires.
#[test]
fn what_a_return_takes_away_waits_for_nobody_who_waits_for_it() {
    let old = || Units::new().plain("base").plain("web").edge("web", EdgeKind::Requires, "base");
    let mut s = Story::new();
    s.boot(old());
    s.runs("base");
    s.runs("web");
    let new = Units::new()
        .service("base", |s| s.nice = 1)
        .service("web", |s| s.nice = 1)
        .service("never", |s| s.start = units::kind::service::Start::Manual)
        .file("/f", 1, "")
        .edge("/f", EdgeKind::After, "web")
        .edge("base", EdgeKind::Requires, "/f")
        .edge("web", EdgeKind::Binds, "never");
    s.swap(new, Swap::Apply);
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    s.work(out);
    s.ends("base");
    let mut out = s.runs("base");
    for _ in 0..4 {
        let stopping: Vec<&str> = ["base", "web"].into_iter().filter(|n| s.state(n) == "stopping").collect();
        for name in stopping {
            out.extend(s.ends(name));
        }
        out = s.work(out);
        let starting: Vec<&str> = ["base", "web"].into_iter().filter(|n| s.state(n) == "starting").collect();
        for name in starting {
            out.extend(s.runs(name));
        }
    }
    assert_eq!((s.state("base"), s.state("web"), s.state("/f")), ("ready", "ready", "absent"));
}

/// A process that was started anew follows the new edges, and what it requires by them may require it by the old ones.
#[test]
fn who_wait_in_a_circle_for_each_other_to_stop_all_stop() {
    let leave: [fn(&mut Story); 2] = [
        |s| drop(s.tell(Event::ShutdownAsked { down: Down::Poweroff })),
        |s| drop(s.swap(Units::new().service("c", |s| s.nice = 1), Swap::Boot)),
    ];
    for go in leave {
        let mut s = Story::new();
        let units = Units::new().plain("a").plain("b").plain("c").edge("b", EdgeKind::Requires, "a");
        s.boot(units.edge("b", EdgeKind::Requires, "c"));
        for name in ["a", "c", "b"] {
            s.runs(name);
        }
        // What is held owes a restart: it has not followed, and so neither has who comes after it.
        s.ask(7, Verb::Hold, "c");
        let flipped = Units::new().plain("a").plain("b").service("c", |s| s.nice = 1);
        s.boot(flipped.edge("a", EdgeKind::Requires, "b").edge("b", EdgeKind::After, "c"));
        s.ends("a");
        s.runs("a");
        assert_eq!((s.state("a"), s.state("b"), s.state("c")), ("ready", "ready", "ready"));
        go(&mut s);
        for name in ["a", "b", "c"] {
            if s.state(name) == "stopping" {
                s.ends(name);
            }
        }
        let gone = |name| matches!(s.state(name), "down" | "absent");
        assert!(gone("a") && gone("b"), "{} {}", s.state("a"), s.state("b"));
    }
}
