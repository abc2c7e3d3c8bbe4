//! Stories of what comes after an apply that failed, was cut off, or could not remove what it should have.

use super::*;

/// The first boot to a generation makes it so, and later ones repair what has drifted since.
#[test]
fn what_the_first_boot_makes_right_is_intended() {
    for (kind, word, intent) in
        [(Swap::First, "changed", Intent::Apply), (Swap::Boot, "repaired", Intent::Correct)]
    {
        let mut s = Story::new();
        let out =
            s.swap(Units::new().file("/f", 1, "").plain("web").edge("web", EdgeKind::Requires, "/f"), kind);
        let intents: Vec<Intent> = out
            .iter()
            .filter_map(|e| if let Effect::Batch { intent, .. } = e { Some(*intent) } else { None })
            .collect();
        assert_eq!(intents, [intent]);
        s.work(out);
        assert_eq!(s.state("/f"), word);
        // A service that fails at a boot takes nothing back.
        s.runs("web");
        s.ends("web");
        assert_eq!((s.state("/f"), s.engine.desired().1), (word, 1));
        // From then on what differs is drift.
        let node = s.node("/f");
        let out = s.tell(Event::Touched { nodes: vec![node] });
        s.work(out);
        assert_eq!(s.state("/f"), "repaired");
    }
}

/// As after a re-exec: everything that the engine knows comes from its records.
fn reexec(s: &mut Story) {
    let manifests = s.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = s.engine.nodes().map(|n| (n, s.engine.record(n).unwrap())).collect();
    s.engine = Engine::restore(manifests, &s.engine.globals(), records).unwrap();
    assert_eq!(s.engine.audit(), None);
}

fn mount_ends(s: &mut Story) -> Vec<Effect> {
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(0) })
}

fn on_mount() -> Units {
    Units::new().mount("/m").file("/m/a", 1, "").edge("/m/a", EdgeKind::Binds, "/m")
}

/// A machine on which a file below a mount is not declared any more, and could not be removed.
fn deferred() -> Story {
    let mut s = Story::new();
    s.boot(on_mount());
    let out = mount_ends(&mut s);
    s.work(out);
    assert_eq!(s.state("/m/a"), "repaired");
    let node = s.node("/m");
    s.ask(7, Verb::Hold, "/m");
    s.tell(Event::Unmounted { node });
    let out = s.swap(Units::new().mount("/m"), Swap::Boot);
    assert_eq!(actions(&out), [Action::Remove]);
    let out = result(&mut s, &out, Outcome::MountAbsent);
    assert_eq!((s.state("/m/a"), batch(&out)), ("deferred", None));
    assert!(s.engine.is_converged(), "it keeps nobody waiting");
    s
}

#[test]
fn a_removal_below_an_absent_mount_is_made_up_for_when_that_is_back() {
    for again in [false, true] {
        let mut s = deferred();
        if again {
            reexec(&mut s);
        }
        s.ask(8, Verb::Release, "/m");
        let out = mount_ends(&mut s);
        assert_eq!(actions(&out), [Action::Remove], "re-exec: {again}");
        result(&mut s, &out, Outcome::Removed);
        assert_eq!(s.state("/m/a"), "absent");
    }
}

#[test]
fn what_is_declared_again_is_not_removed_when_its_mount_is_back() {
    let mut s = deferred();
    s.swap(on_mount(), Swap::Boot);
    s.ask(8, Verb::Release, "/m");
    let out = mount_ends(&mut s);
    assert_eq!(actions(&out), [Action::Converge]);
}

/// Nothing is kept of it when its mount is not declared any more: the store knows.
#[test]
fn a_removal_whose_mount_goes_for_good_is_left_to_a_later_boot() {
    let mut s = deferred();
    s.swap(Units::new(), Swap::Boot);
    mount_ends(&mut s);
    s.ask(8, Verb::Release, "/m");
    assert_eq!((s.state("/m/a"), s.state("/m")), ("absent", "absent"));
    assert_eq!(s.engine.manifests().count(), 1);
}

/// What an earlier boot left for later joins as leaving, and what is declared stays out of it.
#[test]
fn a_reboot_removes_what_could_not_be_removed_before() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    mount_ends(&mut s);
    let out = s.swap(on_mount().file("/m/b", 1, ""), Swap::Purge);
    assert_eq!(actions(&out), [Action::Remove, Action::Remove]);
    let intent = batch(&out).map(|(_, intent, ..)| intent);
    assert_eq!(intent, Some(Intent::Correct), "what somebody made of them goes to the history");
    result(&mut s, &out, Outcome::Removed);
    assert_eq!((s.state("/m/a"), s.state("/m")), ("absent", "ready"));
    assert_eq!(s.engine.manifests().count(), 1, "nothing refers to what is gone");
}

/// The repair of what an interrupted apply has changed is the undoing of it, and there is no other one before that.
#[test]
fn what_an_interrupted_apply_left_is_undone_and_not_repaired() {
    for again in [false, true] {
        let mut s = Story::new();
        let cut = s.engine.install(Units::new().file("/a", 2, "").file("/c", 1, "").finish());
        let undo =
            Event::Swapped { request: 0, manifest: cut, generation: 7, kind: Swap::Undo, release: false };
        assert_eq!(batch(&s.tell(undo)), None, "what it goes back to is still to come");
        if again {
            reexec(&mut s);
        }
        let manifest = s.engine.install(Units::new().file("/a", 1, "").file("/b", 1, "").finish());
        let swap = Event::Swapped { request: 0, manifest, generation: 7, kind: Swap::Boot, release: false };
        let out = s.tell(swap);
        let (_, intent, generation, steps) = batch(&out).unwrap();
        assert_eq!((intent, generation), (Intent::Return, 7));
        let of = |step: &Step| s.engine.manifest(step.manifest).map(|m| m.name(step.unit).to_owned());
        let done: Vec<_> = steps.iter().map(|s| (of(s).unwrap(), s.action)).collect();
        // What goes makes room; and what the interrupted apply did not declare any more it may have removed.
        let expected = [("/c", Action::Restore), ("/a", Action::Converge), ("/b", Action::Converge)];
        assert_eq!(done, expected.map(|(name, action)| (name.to_owned(), action)));
        let out = s.work(out);
        let is_written =
            |e: &Effect| matches!(e, Effect::Store { op: StoreOp::Returned { generation: 0, to: 7 }, .. });
        assert!(out.iter().any(is_written), "the next boot has nothing to undo: {out:?}");
        assert_eq!((s.state("/a"), s.state("/b"), s.state("/c")), ("changed", "changed", "absent"));
    }
}

/// Where there is nothing to go back to, nothing is waited for, and what came before it stays current.
#[test]
fn a_first_apply_that_was_interrupted_is_undone_at_once() {
    let mut s = Story::new();
    let out = s.swap_to(Units::new().file("/a", 1, ""), 0, Swap::Undo);
    assert_eq!(actions(&out), [Action::Restore]);
}

/// Holds that the apply lifted are back, and so is what was held.
#[test]
fn a_return_puts_back_the_holds_that_its_apply_lifted() {
    let units = |v: u64| Units::new().file("/a", v, "").plain("web").plain("db").file("/b", v, "");
    for again in [false, true] {
        let mut s = Story::new();
        let out = s.boot(units(1));
        s.work(out);
        s.runs("web");
        s.runs("db");
        s.ask(7, Verb::Hold, "/a");
        s.ask(8, Verb::Stop, "web");
        s.ask(9, Verb::Pause, "db");
        s.ends("web");
        let manifest = s.engine.install(units(2).finish());
        let swap = Event::Swapped { request: 10, manifest, generation: 2, kind: Swap::Apply, release: true };
        s.tell(swap);
        let token = s.engine.next_token - 1;
        let out = s.tell(Event::Recorded { token, error: None });
        s.runs("web");
        assert_eq!(s.engine.holds.len(), 0);
        if again {
            reexec(&mut s);
        }
        let out = result(&mut s, &out, Outcome::NotKept);
        let held = |s: &Story, name: &str| s.engine.status(s.node(name)).hold.map(|h| h.kind);
        assert_eq!(held(&s, "/a"), Some(HoldKind::Held));
        let a = s.engine.unit_of(s.node("/a"));
        let (_, intent, _, steps) = batch(&out).unwrap();
        let step = steps.iter().find(|s| (s.manifest, s.unit) == a).unwrap();
        assert_eq!(
            (step.action, intent),
            (Action::Restore, Intent::Return),
            "as it was, and not as declared"
        );
        s.ends("web");
        assert_eq!(s.until_answered(out, 10), Verdict::Returned);
        let kinds = ["/a", "web", "db", "/b"].map(|name| held(&s, name));
        assert_eq!(kinds, [Some(HoldKind::Held), Some(HoldKind::Stopped), Some(HoldKind::Paused), None]);
        assert_eq!((s.state("web"), s.state("db")), ("down", "ready"));
    }
}

#[test]
fn a_hold_that_a_hand_has_ended_since_does_not_come_back() {
    let units = |v: u64| Units::new().file("/a", v, "").plain("web");
    let mut s = Story::new();
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Stop, "web");
    s.ends("web");
    let manifest = s.engine.install(units(2).finish());
    let swap = Event::Swapped { request: 10, manifest, generation: 2, kind: Swap::Apply, release: true };
    s.tell(swap);
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    s.runs("web");
    s.ask(8, Verb::Start, "web");
    let out = result(&mut s, &out, Outcome::NotKept);
    assert_eq!(s.until_answered(out, 10), Verdict::Returned);
    assert_eq!((s.state("web"), s.engine.holds.len()), ("ready", 0));
}

/// A service that is not restarted by itself was up before the apply under which it failed, and is so again.
#[test]
fn a_return_starts_what_failed_under_its_apply() {
    let web = |v| web_beside(v).edge("web", EdgeKind::Requires, "/etc/x");
    for code in [0, 1] {
        let mut s = Story::new();
        let out = s.boot(web(1));
        s.work(out);
        s.runs("web");
        s.swap(web(2), Swap::Apply);
        let token = s.engine.next_token - 1;
        let mut out = s.tell(Event::Recorded { token, error: None });
        let serial = s.serial("web");
        out.extend(s.tell(Event::CgroupEmpty { serial }));
        out.extend(s.tell(Event::Exited { serial, exit: Exit::Code(code) }));
        // What was under way is finished, then the old version comes back, and the service on top of it.
        assert_eq!(s.until_answered(out, 102), Verdict::Returned, "exit code {code}");
        assert_eq!(s.state("web"), "ready");
    }
}

#[test]
fn a_return_leaves_down_what_was_down_before_its_apply() {
    let web = |v| web_beside(v).edge("web", EdgeKind::Wants, "/etc/x").file("/bad", v, "");
    let mut s = Story::new();
    let out = s.boot(web(1));
    s.work(out);
    s.runs("web");
    let serial = s.serial("web");
    s.tell(Event::CgroupEmpty { serial });
    s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    s.swap(web(2), Swap::Apply);
    let token = s.engine.next_token - 1;
    let out = s.tell(Event::Recorded { token, error: None });
    let out = result(&mut s, &out, Outcome::NotKept);
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
    assert_eq!(s.state("web"), "failed");
}

/// Seed 9309639: removed after the other had come, it would have taken that with it.
#[test]
fn who_takes_what_a_deferred_removal_still_has_waits_for_it() {
    let mut s = Story::new();
    let claims = Units::new().mount("/m").file("/m/a", 1, "path").edge("/m/a", EdgeKind::Binds, "/m");
    s.boot(claims);
    let out = mount_ends(&mut s);
    s.work(out);
    let node = s.node("/m");
    s.ask(7, Verb::Hold, "/m");
    s.tell(Event::Unmounted { node });
    let out = s.swap(Units::new().mount("/m").file("/b", 1, "path"), Swap::Boot);
    assert_eq!(steps(&out), 1, "the removal alone: {out:?}");
    let out = result(&mut s, &out, Outcome::MountAbsent);
    assert_eq!((s.state("/m/a"), s.state("/b"), steps(&out)), ("deferred", "waiting", 0));
    let cause = s.engine.status(s.node("/b")).cause;
    assert_eq!(cause, "waiting: file:/m/a cannot be removed before what it lies on is mounted");
    assert!(s.engine.is_converged(), "nobody waits for that");
    s.ask(8, Verb::Release, "/m");
    let out = mount_ends(&mut s);
    assert_eq!(steps(&out), 1, "the removal alone: {out:?}");
    s.work(out);
    assert_eq!((s.state("/m/a"), s.state("/b")), ("absent", "repaired"));
}

/// Seeds 20035401 and 30051016: the swap that was to bring the generation it came from never came.
#[test]
fn what_a_crash_left_is_undone_although_the_swap_behind_it_was_superseded() {
    let mut s = Story::new();
    let out = s.swap(Units::new().plain("web"), Swap::Apply);
    let first = token(&out);
    s.swap_to(Units::new().file("/left", 1, ""), 9, Swap::Undo);
    s.swap_to(Units::new(), 9, Swap::Boot);
    s.swap(Units::new().plain("other"), Swap::Apply);
    let out = s.tell(Event::Recorded { token: first, error: Some("no space".into()) });
    let second = token(&out);
    let out = s.tell(Event::Recorded { token: second, error: Some("no space".into()) });
    assert_eq!(actions(&out), [Action::Restore]);
    result(&mut s, &out, Outcome::Removed);
    assert_eq!(s.engine.manifests().count(), 1);
}

/// Layers that hide something may differ where no unit does: the store has to know which of them is the current one.
#[test]
fn another_generation_of_the_same_units_is_recorded() {
    let units = || Units::new().file("/f", 1, "");
    let mut s = Story::new();
    let out = s.boot(units());
    s.work(out);
    for kind in [Swap::Apply, Swap::Rollback] {
        let mut out = s.swap(units(), kind);
        let generation = s.generation;
        assert_eq!((s.engine.coming().1, s.engine.desired().1), (generation, generation - 1), "{kind:?}");
        let mut ops = Vec::new();
        while let Some((token, op)) = out.iter().find_map(|e| match e {
            Effect::Store { token, op } => Some((*token, op.clone())),
            _ => None,
        }) {
            ops.push(op);
            out = s.tell(Event::Recorded { token, error: None });
        }
        assert_eq!(ops, [StoreOp::Switching { generation }, StoreOp::Commit { generation }], "{kind:?}");
        assert_eq!(s.engine.desired().1, generation);
    }
}

/// An apply that comes while the one before it is being noted in the journal supersedes it there and then: it waited for
/// all of it, and so did a rollback that was to stop it.
#[test]
fn an_apply_that_has_not_begun_is_superseded_before_it_does() {
    for (kind, generation) in [(Swap::Apply, 3), (Swap::Rollback, 1)] {
        let mut s = Story::new();
        s.boot(Units::new().plain("web"));
        s.runs("web");
        let out = s.swap(Units::new().plain("web").plain("never"), Swap::Apply);
        let first = token(&out);
        let units = Units::new().plain("web");
        let units = if generation == 1 { units } else { units.plain("other") };
        let manifest = s.engine.install(units.finish());
        let out = s.tell(Event::Swapped { request: 7, manifest, generation, kind, release: false });
        assert!(out.is_empty() && s.engine.coming().1 == generation, "{kind:?}: {out:?}");
        let out = s.tell(Event::Recorded { token: first, error: None });
        assert_eq!(answered(&out, 102), Some(Verdict::Superseded), "{kind:?}");
        assert!(!out.iter().any(|e| matches!(e, Effect::Spawn { .. })), "{kind:?}: {out:?}");
        let noted = out.iter().find_map(|e| match e {
            Effect::Store { op, .. } => Some(op.clone()),
            _ => None,
        });
        let wanted = match kind {
            Swap::Rollback => StoreOp::Returned { generation: 2, to: 1 },
            _ => StoreOp::Switching { generation },
        };
        assert_eq!(noted, Some(wanted), "{kind:?}");
        if kind == Swap::Apply {
            s.tell(Event::Recorded { token: token(&out), error: None });
            s.runs("other");
            assert_eq!(
                (s.engine.desired().1, s.state("web"), s.state("other")),
                (generation, "ready", "ready")
            );
        } else {
            assert_eq!(s.until_answered(out, 7), Verdict::Done);
            assert_eq!(s.engine.desired().1, 1);
        }
    }
}

/// A rollback to the generation that an apply under way came from gives that up: whoever asked hears of a good end, and
/// whoever applied that something else came.
#[test]
fn a_rollback_gives_up_the_apply_under_way() {
    let never = || Units::new().plain("web").service("late", |s| s.ready = Ready::Notify);
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    assert_eq!(s.engine.returns_to(), None);
    let out = s.swap(never(), Swap::Apply);
    let token = token(&out);
    s.tell(Event::Recorded { token, error: None });
    s.runs("late");
    assert_eq!((s.state("late"), s.engine.returns_to()), ("starting", Some(1)));

    let manifest = s.engine.install(Units::new().plain("web").finish());
    let kind = Swap::Rollback;
    let mut out = s.tell(Event::Swapped { request: 7, manifest, generation: 1, kind, release: false });
    assert_eq!(answered(&out, 102), Some(Verdict::Superseded));
    out.extend(s.ends("late"));
    assert_eq!(s.until_answered(out, 7), Verdict::Done);
    assert_eq!((s.state("late"), s.state("web"), s.engine.desired().1), ("absent", "ready", 1));
}

/// What is quiet only when somebody looks is not quiet: a service that comes up and falls again is no good, however long it
/// takes to fall.
#[test]
fn who_falls_while_all_has_to_be_quiet_is_waited_for_anew() {
    const SECOND: u64 = 1_000_000_000;
    // It stays up for so many of the five seconds, and falls so often.
    for (up, falls, verdict) in [(2, 9, Verdict::Returned), (4, 9, Verdict::Returned), (4, 2, Verdict::Done)]
    {
        let mut s = Story::new();
        s.boot(Units::new().plain("other"));
        s.runs("other");
        let flaky =
            Units::new().plain("other").service("flaky", |f| (f.restart_limit, f.restart_delay) = (0, 0));
        let mut open = s.swap(flaky, Swap::Apply);
        let request = 100 + s.generation;
        let (mut fallen, mut ready_at) = (0, None);
        let found = loop {
            assert!(s.now < 100 * SECOND, "it comes to no end");
            if open.iter().any(|e| matches!(e, Effect::Signal { signal: 15, .. })) {
                open.extend(s.ends("flaky"));
            }
            if let Some(verdict) = answered(&open, request) {
                break verdict;
            }
            let tokens: Vec<u64> = open
                .iter()
                .filter_map(|e| if let Effect::Store { token, .. } = e { Some(*token) } else { None })
                .collect();
            let known = open.len();
            let all = s.work(std::mem::take(&mut open));
            let mut next = all[known..].to_vec();
            for serial in started(&all) {
                next.extend(s.tell(Event::Spawned { serial }));
                ready_at = Some(s.now);
            }
            for token in tokens {
                next.extend(s.tell(Event::Recorded { token, error: None }));
            }
            if next.is_empty() {
                let falls_at = ready_at.filter(|_| fallen < falls).map(|at| at + up * SECOND);
                match (falls_at, s.engine.next_deadline()) {
                    (Some(at), Some(due)) if due.0 > at => {
                        s.now = at;
                        (fallen, ready_at) = (fallen + 1, None);
                        next = s.ends("flaky");
                    }
                    _ => next = s.tick(),
                }
            }
            open = next;
        };
        assert_eq!((found, fallen), (verdict, falls.min(3)), "up for {up} s");
        let quiet = ready_at.map(|at| (s.now - at) / SECOND);
        assert_eq!(quiet.is_some_and(|q| q >= 5), verdict == Verdict::Done, "{quiet:?}");
    }
}

#[test]
fn a_mount_that_is_lost_while_all_has_to_be_quiet_is_waited_for_anew() {
    let mut s = Story::new();
    s.boot(Units::new());
    let units = Units::new().mount("/m").plain("web").edge("web", EdgeKind::Requires, "/m");
    let out = s.swap(units, Swap::Apply);
    s.tell(Event::Recorded { token: token(&out), error: None });
    mount_ends(&mut s);
    let out = s.runs("web");
    assert_ne!(token(&out), 0, "the record of the trial");
    let due = s.engine.next_deadline().unwrap();
    s.now += 4_000_000_000;
    let node = s.node("/m");
    s.tell(Event::Unmounted { node });
    mount_ends(&mut s);
    assert!(s.engine.next_deadline().unwrap().0 >= due.0 + 4_000_000_000);
}

/// A boot is never taken back: an apply that came before it was through, and is no good, returns to what was booted.
#[test]
fn what_was_booted_stays_although_the_boot_was_superseded() {
    for kind in [Swap::Boot, Swap::First] {
        let mut s = Story::new();
        let booted = || Units::new().plain("alive").service("slow", |s| s.ready = Ready::Notify);
        s.swap(booted(), kind);
        s.runs("alive");
        s.runs("slow");
        assert!(!s.engine.is_converged());
        let bad = booted().service("bad", |b| b.restart = Restart::Never);
        let mut out = s.swap(bad, Swap::Apply);
        let token = token(&out);
        out = s.tell(Event::Recorded { token, error: None });
        assert_eq!(started(&out).len(), 1);
        s.runs("bad");
        let serial = s.serial("bad");
        s.tell(Event::CgroupEmpty { serial });
        let out = s.tell(Event::Exited { serial, exit: Exit::Code(1) });
        assert!(!out.iter().any(|e| matches!(e, Effect::Signal { .. })), "{out:?}");
        assert_eq!((s.state("alive"), s.state("slow"), s.state("bad")), ("ready", "starting", "absent"));
        assert_eq!(s.engine.desired().1, 1);
    }
}

/// What waits for a device that never comes is ended, and that is no failure of the apply that takes it out.
#[test]
fn a_mount_that_is_not_declared_any_more_is_not_waited_for() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web").mount("/m"));
    s.runs("web");
    let out = s.swap(Units::new().plain("web"), Swap::Apply);
    let token = token(&out);
    let out = s.tell(Event::Recorded { token, error: None });
    let killed = out.iter().find_map(|e| if let Effect::Kill { serial } = e { Some(*serial) } else { None });
    let out = s.tell(Event::Exited { serial: killed.unwrap(), exit: Exit::Signal(9) });
    // It may have been mounted in the last moment.
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(3) });
    assert!(out.iter().any(|e| matches!(e, Effect::Store { op: StoreOp::Commit { .. }, .. })), "{out:?}");
    assert_eq!((s.state("/m"), s.engine.desired().1), ("absent", 2));
}

/// Seed 39263: it ran, and owed a restart that could not be had; the apply that made it possible answers for how it runs.
#[test]
fn who_an_apply_has_made_right_is_not_excused_any_more() {
    let mut s = Story::new();
    let units = |inputs| {
        let units = Units::new().file("/a", inputs, "").file("/b", inputs, "").plain("web");
        let units = units.edge("web", EdgeKind::Requires, "/a").edge("web", EdgeKind::RestartOn, "/a");
        if inputs < 3 { units.edge("web", EdgeKind::Requires, "/b") } else { units }
    };
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    // Its inputs are others, and what it requires as well cannot be kept.
    let out = s.boot(units(2));
    let (batch, _, _, steps) = batch(&out).unwrap();
    let b = s.engine.unit_of(s.node("/b"));
    let not_b = |of: &Step| if (of.manifest, of.unit) == b { Outcome::NotKept } else { Outcome::Changed };
    let word = |of: &Step| UnitResult {
        manifest: of.manifest,
        unit: of.unit,
        outcome: not_b(of),
        detail: String::new(),
    };
    s.tell(Event::Results { batch, results: steps.iter().map(word).collect() });
    s.tell(Event::BatchDone { batch });
    assert_eq!((s.state("web"), s.engine.status(s.node("web")).stale), ("ready", true));

    let out = s.swap(units(3), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    s.work(out);
    s.ends("web");
    let out = s.runs("web");
    assert!(out.iter().any(|e| matches!(e, Effect::Store { op: StoreOp::Trial { .. }, .. })), "{out:?}");
    let due = s.engine.next_deadline().unwrap();
    s.now = due.0 - 1_000_000;
    s.ends("web");
    let out = s.runs("web");
    assert!(out.iter().any(|e| matches!(e, Effect::Store { op: StoreOp::Trial { .. }, .. })), "{out:?}");
    assert!(s.engine.next_deadline().unwrap() > due, "it has to stay up for the whole time");
}

/// Nobody goes back behind a boot: an apply that finds it under way does not answer for what that brings.
#[test]
fn an_apply_does_not_answer_for_the_boot_that_it_supersedes() {
    let units =
        |v| Units::new().service("web", |s| s.restart = Restart::Never).plain("slow").file("/x", v, "");
    let mut s = Story::new();
    let out = s.swap(units(1), Swap::First);
    s.work(out);
    s.runs("web");
    let out = s.swap(units(2), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    let serial = s.serial("web");
    s.tell(Event::CgroupEmpty { serial });
    s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    assert_eq!((s.state("web"), s.engine.desired().1), ("failed", 2), "that is not the file's doing");
    s.runs("slow");
    assert_eq!(s.until_answered(out, 102), Verdict::Failed, "it is told, and stays");
    assert_eq!(s.engine.desired().1, 2);
}

/// All goes on until a request is answered: a `web` of these versions cannot be started, and `/bad` cannot be
/// kept. `again`: with a re-exec after each step.
fn play(s: &mut Story, effects: Vec<Effect>, request: u64, failing: &[i32], again: bool) -> Verdict {
    let mut open = effects;
    for _ in 0..40 {
        if let Some(verdict) = answered(&open, request) {
            return verdict;
        }
        if again {
            reexec(s);
        }
        let mut next = Vec::new();
        for effect in std::mem::take(&mut open) {
            match effect {
                Effect::Spawn { node, serial, job: Job::Main, manifest, unit, .. } => {
                    let spec = s.engine.manifest(manifest).and_then(|m| m.spec(unit));
                    let version = if let Some(Spec::Service(spec)) = spec { spec.nice } else { 0 };
                    let fails = s.engine.address(node).name == "web" && failing.contains(&version);
                    next.extend(s.tell(match fails {
                        true => Event::SpawnFailed { serial, stage: "execute".into(), errno: 2 },
                        false => Event::Spawned { serial },
                    }));
                }
                Effect::Signal { serial, signal: 15 } => {
                    next.extend(s.tell(Event::CgroupEmpty { serial }));
                    next.extend(s.tell(Event::Exited { serial, exit: Exit::Signal(15) }));
                }
                Effect::Batch { batch, steps, .. } => {
                    let word = |of: &Step| UnitResult {
                        manifest: of.manifest,
                        unit: of.unit,
                        outcome: match of.action {
                            Action::Converge => Outcome::NotKept,
                            _ => Outcome::Removed,
                        },
                        detail: String::new(),
                    };
                    let results = steps.iter().map(word).collect();
                    next.extend(s.tell(Event::Results { batch, results }));
                    next.extend(s.tell(Event::BatchDone { batch }));
                }
                Effect::Store { token, .. } => {
                    next.extend(s.tell(Event::Recorded { token, error: None }));
                }
                _ => {}
            }
        }
        open = if next.is_empty() { s.tick() } else { next };
    }
    panic!("request {request} has no answer")
}

fn web_of(version: i32) -> Units {
    let web = Units::new().service("web", |s| (s.restart, s.nice) = (Restart::Never, version));
    web.plain("user").edge("user", EdgeKind::Requires, "web")
}

/// What a return brings back is the machine before its apply, with what was bad then.
#[test]
fn a_return_to_what_was_bad_before_is_complete() {
    let changed = || web_of(1).file("/bad", 1, "");
    let removed = || Units::new().file("/bad", 1, "");
    for again in [false, true] {
        for (to, failing) in [(changed(), &[0, 1][..]), (changed(), &[0]), (removed(), &[0])] {
            let mut s = Story::new();
            let out = s.swap(web_of(0), Swap::First);
            s.swap(web_of(0), Swap::Boot);
            let serial = s.serial("web");
            assert_eq!(started(&out), [serial]);
            s.tell(Event::CgroupEmpty { serial });
            s.tell(Event::Exited { serial, exit: Exit::Code(1) });
            assert_eq!((s.state("web"), s.state("user")), ("failed", "waiting"));
            let out = s.swap(to, Swap::Apply);
            let verdict = play(&mut s, out, 103, failing, again);
            assert_eq!((verdict, s.state("web")), (Verdict::Returned, "failed"), "{failing:?} {again}");
        }
    }
}

#[test]
fn a_return_to_what_was_good_before_is_incomplete_where_that_fails() {
    for superseded in [false, true] {
        let mut s = Story::new();
        s.boot(web_of(0));
        s.runs("web");
        s.runs("user");
        let mut out = s.swap(web_of(1), Swap::Apply);
        if superseded {
            // What the first has broken is no excuse for the second.
            let mut stops = s.tell(Event::Recorded { token: token(&out), error: None });
            stops.extend(s.ends("user"));
            stops.extend(s.ends("web"));
            assert_eq!(s.state("web"), "starting");
            out = s.swap(web_of(2), Swap::Apply);
        }
        let request = if superseded { 103 } else { 102 };
        let verdict = play(&mut s, out, request, &[0, 1, 2], false);
        assert_eq!(verdict, Verdict::ReturnIncomplete, "superseded: {superseded}");
    }
}

/// An apply for which a service has to stop that cannot be killed is not good: the rest is put back, and it says why it
/// still waits.
#[test]
fn an_apply_that_cannot_stop_a_service_returns() {
    let file = |version| Units::new().file("/etc/f", version, "");
    for stays in [true, false] {
        let mut s = Story::new();
        let out = s.boot(file(1).plain("web"));
        s.work(out);
        s.runs("web");
        let other = |s: &mut Service| s.user = Some("other".into());
        let next = if stays { file(2).service("web", other) } else { file(2) };
        let out = s.swap(next, Swap::Apply);
        let out = s.tell(Event::Recorded { token: token(&out), error: None });
        s.work(out);
        let serial = s.serial("web");
        s.tick();
        assert_eq!((s.state("web"), s.engine.is_returning()), ("stopping", false), "it has been killed");
        let out = s.tick();
        let why = "service:web: does not end although it was killed";
        assert_eq!(s.engine.apply_news(), Some(format!("returning to generation 1: {why}")), "{stays}");
        assert_eq!(steps(&out), 1, "the file is put back meanwhile");
        s.work(out);
        assert_eq!(s.engine.next_deadline(), None);
        s.tell(Event::Exited { serial, exit: Exit::Signal(9) });
        s.tell(Event::CgroupEmpty { serial });
        let out = s.runs("web");
        assert_eq!(s.until_answered(out, 102), Verdict::Returned);
    }
}
