//! Stories of mounts.

use units::kind::service::Start;

use super::*;

fn mounted_web() -> (Story, u64) {
    let mut s = Story::new();
    let units = |nice: i32| {
        let units = Units::new().mount("/m").plain("web").service("other", |s| s.nice = nice);
        units.edge("web", EdgeKind::Binds, "/m")
    };
    let out = s.boot(units(0));
    s.runs("other");
    let helper = |e: &Effect| match e {
        Effect::Spawn { serial, job: Job::Mount, .. } => Some(*serial),
        _ => None,
    };
    let serial = out.iter().find_map(helper).unwrap();
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    s.runs("web");
    assert_eq!((s.state("/m"), s.state("web")), ("ready", "ready"));
    let out = s.ask(7, Verb::Restart, "/m");
    assert_eq!(answered(&out, 7), None);
    assert_eq!((s.state("/m"), s.state("web"), s.state("other")), ("ready", "stopping", "ready"));
    // An unrelated swap meanwhile takes nothing back.
    s.boot(units(1));
    let out = s.ends("web");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let unmount = s.engine.next_serial - 1;
    (s, unmount)
}

#[test]
fn a_restart_of_a_mount_unmounts_and_mounts_it_and_takes_its_users_along() {
    let (mut s, serial) = mounted_web();
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    assert_eq!(answered(&out, 7), None);
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    assert_eq!(answered(&out, 7), Some(Verdict::Done));
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
}

#[test]
fn a_mount_in_use_stays_mounted_when_its_restart_fails() {
    let (mut s, serial) = mounted_web();
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    assert_eq!(answered(&out, 7), Some(Verdict::Failed));
    assert_eq!(s.state("/m"), "ready");
    let cause = s.engine.status(s.node("/m")).cause;
    assert!(cause.starts_with("unmount helper ended"), "{cause}");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)], "its users are back on it");
}

/// Seed 10996: what went wrong before the hold is not what it waits for.
#[test]
fn a_held_mount_that_could_not_be_mounted_says_that_it_is_held() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    s.ask(7, Verb::Hold, "/m");
    s.tick();
    assert_eq!((s.state("/m"), s.engine.status(s.node("/m")).cause), ("waiting", "held: me".to_owned()));
}

/// Options that somebody changed are given back in place: who is bound to the mount keeps running.
#[test]
fn a_mount_that_lost_its_options_is_repaired_in_place_and_once() {
    let mut s = Story::new();
    let state = || Units::new().mount_with("/m", &["noexec"]).plain("web").edge("web", EdgeKind::Binds, "/m");
    s.boot(state());
    let ends = |s: &mut Story, code| {
        let serial = s.engine.next_serial - 1;
        s.tell(Event::Exited { serial, exit: Exit::Code(code) })
    };
    ends(&mut s, 0);
    s.runs("web");
    let node = s.node("/m");
    let differs = |tried| Event::MountDiffers { node, options: "noexec".to_owned(), tried };
    let out = s.tell(differs(false));
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
    let out = s.tell(differs(false));
    assert_eq!(spawned(&s, &out), [], "it is being repaired");
    ends(&mut s, 0);
    assert_eq!((s.state("/m"), s.state("web")), ("repaired", "ready"));
    s.tell(differs(false));
    ends(&mut s, 4);
    let out = s.tell(differs(true));
    assert_eq!(spawned(&s, &out), [], "one try");
    assert_eq!((s.state("web"), s.engine.status(node).ready), ("ready", true));
    let cause = s.engine.status(node).cause;
    assert!(cause.contains("noexec") && cause.contains("not kept"), "{cause}");
    // Unmounted while it is repaired: it is lost like any other.
    s.tell(differs(false));
    s.tell(Event::Unmounted { node });
    assert_eq!(s.state("web"), "stopping");
    let out = ends(&mut s, 0);
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)], "and mounted like one that is lost");
}

/// Nothing is repaired while it is held, and nobody tells twice: it is compared again when the hold ends.
#[test]
fn a_mount_is_compared_again_when_its_hold_ends() {
    let compares = |out: &[Effect]| out.iter().filter(|e| matches!(e, Effect::Compare { .. })).count();
    let mut s = Story::new();
    s.boot(Units::new().mount_with("/m", &["noexec"]));
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    s.ask(7, Verb::Hold, "/m");
    let node = s.node("/m");
    let differs = || Event::MountDiffers { node, options: "noexec".to_owned(), tried: false };
    let out = s.tell(differs());
    assert_eq!(spawned(&s, &out), []);
    let out = s.ask(8, Verb::Release, "/m");
    assert_eq!(compares(&out), 1);
    let out = s.tell(differs());
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
}

#[test]
fn a_mount_that_is_held_before_it_is_mounted_has_settled() {
    let mut s = Story::new();
    let units = Units::new()
        .mount("/m")
        .plain("web")
        .service("db", |s| s.ready = Ready::Notify)
        .edge("/m", EdgeKind::Requires, "db")
        .edge("web", EdgeKind::Wants, "/m");
    s.boot(units);
    s.runs("db");
    assert_eq!((s.state("/m"), s.state("web")), ("waiting", "waiting"));
    s.ask(7, Verb::Start, "/m");
    let out = s.ask(8, Verb::Hold, "/m");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)], "who wants it goes on without it");
}

#[test]
fn who_asks_is_told_why_a_mount_cannot_be_let_go_of() {
    let mut s = Story::new();
    let helper = |out: &[Effect]| {
        let serial = |e: &Effect| match e {
            Effect::Spawn { serial, job: Job::Mount | Job::Unmount, .. } => Some(*serial),
            _ => None,
        };
        out.iter().find_map(serial).unwrap()
    };
    let out = s.boot(Units::new().plain("web").mount("/m"));
    s.runs("web");
    let node = s.node("/m");
    s.tell(Event::Exited { serial: helper(&out), exit: Exit::Code(0) });
    let out = s.ask(7, Verb::Stop, "/m");
    let serial = helper(&out);
    let why = "cannot unmount \"/m\": EBUSY; held by sleep (pid 7)".to_owned();
    s.tell(Event::Explained { serial, why: why.clone() });
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    let told = out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.contains(&why)));
    assert!(told, "{out:?}");
    assert_eq!(s.engine.status(node).cause, why, "that it is held is told beside it");
}

/// A machine whose mount is told of the ends of its helpers.
fn helper_ends(s: &mut Story, code: i32) -> Vec<Effect> {
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(code) })
}

/// Seed 40003629: other options want it unmounted first, and it is in use. It stands as it did, and so does who is bound
/// to it: nobody has to mend anything.
#[test]
fn a_mount_whose_other_options_cannot_be_had_is_as_before_after_the_return() {
    let units = |options: &[&str]| {
        let units = Units::new().mount_with("/m", options).plain("web");
        units.edge("web", EdgeKind::Binds, "/m")
    };
    let mut s = Story::new();
    s.boot(units(&[]));
    helper_ends(&mut s, 0);
    s.runs("web");
    s.swap(units(&["noexec"]), Swap::Apply);
    let token = s.engine.next_token - 1;
    s.tell(Event::Recorded { token, error: None });
    let out = s.ends("web");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let out = helper_ends(&mut s, 32);
    assert_eq!(s.state("/m"), "ready");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
}

/// What it requires was stopped by hand, and it is in use: it is asked to go once, and not as often as it refuses.
#[test]
fn a_mount_in_use_whose_ground_is_stopped_is_tried_once() {
    let mut s = Story::new();
    let units = || Units::new().plain("net").mount("/m").edge("/m", EdgeKind::Requires, "net");
    s.boot(units());
    s.runs("net");
    helper_ends(&mut s, 0);
    assert_eq!(s.state("/m"), "ready");
    let out = s.ask(7, Verb::Stop, "net");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let out = helper_ends(&mut s, 32);
    assert_eq!(spawned(&s, &out), [], "the same again would fail again");
    assert_eq!((s.state("/m"), s.state("net")), ("failed", "stopping"));
    s.ends("net");
    s.ask(8, Verb::Start, "net");
    s.runs("net");
    assert_eq!(s.state("/m"), "ready", "it stands on it again");
}

/// Whatever takes it: what is lost as soon as it is mounted is not mounted again without a pause, and who wants it by hand
/// has it at once.
#[test]
fn a_mount_that_is_lost_again_and_again_is_mounted_ever_more_rarely() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let node = s.node("/m");
    let seconds = |s: &Story| s.now / 1_000_000_000;
    let lost = |s: &mut Story| {
        helper_ends(s, 0);
        s.tell(Event::Unmounted { node })
    };
    let mut waits = Vec::new();
    for losses in 1..=12 {
        let (mut out, before) = (lost(&mut s), seconds(&s));
        let paused = s.state("/m") == "backoff";
        if paused {
            assert_eq!(spawned(&s, &out), []);
            let cause = s.engine.status(node).cause;
            assert_eq!(cause, format!("it was lost {losses} times soon after it was mounted"));
            if losses > 6 {
                s.tell(Event::Mounted { node });
                assert_eq!(s.state("/m"), "backoff", "it comes and goes");
            }
            out = s.tick();
        }
        assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
        waits.push(seconds(&s) - before);
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // Unmounted before its helper could say that it is mounted: the same.
    s.tell(Event::Unmounted { node });
    let out = helper_ends(&mut s, 0);
    assert_eq!((spawned(&s, &out), s.state("/m")), (Vec::new(), "backoff"));
    let out = s.ask(7, Verb::Start, "/m");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
    // What has stood for a while is mounted again at once.
    helper_ends(&mut s, 0);
    s.now += 61_000_000_000;
    let out = s.tell(Event::Unmounted { node });
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
}

/// A helper that does not end is killed when its time is over; one that cannot be killed is not waited for. Neither keeps
/// an apply open. The device has its own time, and a check takes what it takes.
#[test]
fn a_mount_that_hangs_is_given_up() {
    for killable in [true, false] {
        let mut s = Story::new();
        s.boot(Units::new().plain("web"));
        s.runs("web");
        let out = s.swap(Units::new().plain("web").mount("/m"), Swap::Apply);
        let open = s.tell(Event::Recorded { token: token(&out), error: None });
        let (serial, begun) = (s.engine.next_serial - 1, s.now);
        assert_eq!((spawned(&s, &open), s.state("/m")), (vec![("/m".to_owned(), Job::Mount)], "starting"));
        for (why, state) in
            [(format!("{DEVICE_LATE} /dev/x"), "waiting"), (format!("{CHECKING}/dev/x"), "starting")]
        {
            s.tell(Event::Explained { serial, why: why.clone() });
            assert_eq!((s.engine.next_deadline(), s.state("/m")), (None, state));
            assert_eq!(s.engine.status(s.node("/m")).cause, why);
            s.now += 3_600_000_000_000;
            s.tell(Event::Explained { serial, why: GOES_ON.to_owned() });
            assert_eq!((s.state("/m"), s.engine.status(s.node("/m")).cause.as_str()), ("starting", ""));
        }
        let out = s.tick();
        assert_eq!((s.now - begun) / 1_000_000_000, 2 * 3_600 + 90);
        assert!(out.contains(&Effect::Kill { serial }), "{out:?}");
        s.tell(Event::Explained { serial, why: "its last words".to_owned() });
        let (out, cause) = if killable {
            (s.tell(Event::Exited { serial, exit: Exit::Signal(9) }), "did not end in time")
        } else {
            (s.tick(), "did not end in time, and cannot be killed")
        };
        let told = format!("cannot mount mount:/m: {cause}");
        assert!(out.iter().any(|e| matches!(e, Effect::Log { text, .. } if *text == told)), "{out:?}");
        assert_eq!(s.until_answered(out, 102), Verdict::Returned);
        s.tell(Event::Exited { serial, exit: Exit::Signal(9) });
        assert_eq!(s.state("/m"), "absent");
    }
}

/// Whoever reviewed it found: where mounting had less time than a device before it is late, its helper was killed while it
/// waited for that.
#[test]
fn the_time_for_mounting_does_not_pass_while_its_device_comes() {
    for (fstype, seconds) in [("ext4", 6), ("tmpfs", 1)] {
        let mount = units::kind::mount::Mount {
            path: "/m".into(),
            fstype: fstype.into(),
            timeout: 1_000,
            ..units::kind::mount::Mount::default()
        };
        let mut units = Units::new();
        units.0.unit(NewUnit::new(Kind::Mount, "/m", Spec::Mount(mount)));
        let mut s = Story::new();
        s.boot(units);
        let left = |s: &Story| s.engine.next_deadline().map(|at| (at.0 - s.now) / 1_000_000_000);
        assert_eq!(left(&s), Some(seconds), "{fstype}");
        let serial = s.engine.next_serial - 1;
        s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/x") });
        assert_eq!(left(&s), None);
        s.tell(Event::Explained { serial, why: GOES_ON.to_owned() });
        assert_eq!(left(&s), Some(1), "{fstype}");
    }
}

/// Each try may leave one more process that nobody can kill: there are few of them.
#[test]
fn a_mount_that_cannot_be_killed_is_tried_rarely() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let mut waits = Vec::new();
    for _ in 0..6 {
        s.tick();
        s.tick();
        let since = s.now;
        let out = s.tick();
        assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
        waits.push((s.now - since) / 60_000_000_000);
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    let out = helper_ends(&mut s, 0);
    assert_eq!((spawned(&s, &out), s.state("/m"), s.engine.next_deadline()), (vec![], "ready", None));
}

/// An unmount that hangs keeps nobody waiting, and a machine that goes down no longer than its time.
#[test]
fn an_unmount_that_hangs_is_given_up() {
    let booted = || {
        let mut s = Story::new();
        s.boot(Units::new().mount("/m"));
        helper_ends(&mut s, 0);
        s
    };
    let mut s = booted();
    s.ask(7, Verb::Stop, "/m");
    let serial = s.engine.next_serial - 1;
    let out = s.tick();
    assert!(out.contains(&Effect::Kill { serial }), "{out:?}");
    let out = s.tick();
    assert_eq!((answered(&out, 7), s.state("/m")), (Some(Verdict::Failed), "failed"));
    let cause = s.engine.status(s.node("/m")).cause;
    assert_eq!(cause, "did not end in time, and cannot be killed");
    // Who asks once more has it tried once more.
    let out = s.ask(8, Verb::Stop, "/m");
    assert_eq!((spawned(&s, &out), answered(&out, 8)), (vec![("/m".to_owned(), Job::Unmount)], None));
    let out = helper_ends(&mut s, 0);
    assert_eq!((answered(&out, 8), s.state("/m")), (Some(Verdict::Done), "down"));

    let mut s = booted();
    let begun = s.now;
    s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    s.tick_until_left();
    assert_eq!((s.now - begun) / 1_000_000_000, 95);
}

/// A mount that an apply drops while it is being mounted, by a helper that cannot be killed.
#[test]
fn a_mount_that_nobody_wants_any_more_is_not_waited_for() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let out = s.swap(Units::new(), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    assert_eq!((out, s.state("/m")), (vec![Effect::Kill { serial: s.engine.next_serial - 1 }], "starting"));
    let out = s.tick();
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let out = helper_ends(&mut s, 3);
    assert_eq!(s.until_answered(out, 102), Verdict::Done);
}

/// Seed 154809: a file that waits, and leaves with the mount on which it lies, is removed while that is there.
#[test]
fn what_leaves_with_its_mount_is_removed_before_that_goes() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/m/a", 1, ""));
    s.work(out);
    let units = Units::new().file("/m/a", 1, "").mount("/m").service("late", |s| s.start = Start::Manual);
    s.boot(units.edge("/m/a", EdgeKind::Binds, "/m").edge("/m/a", EdgeKind::Requires, "late"));
    helper_ends(&mut s, 0);
    assert!(s.state("/m") == "ready" && !s.engine.status(s.node("/m/a")).ready);
    let out = s.swap(Units::new(), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    assert_eq!((spawned(&s, &out), actions(&out)), (vec![], vec![Action::Remove]));
    let out = result(&mut s, &out, Outcome::Removed);
    assert_eq!((spawned(&s, &out), s.state("/m/a")), (vec![("/m".to_owned(), Job::Unmount)], "absent"));
}

/// What fails for ever fills no log: the first try is told, another reason, and then one where there were half as many.
#[test]
fn tries_of_a_mount_that_fails_are_counted_and_few_are_told() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let mut told = Vec::new();
    let fails = |s: &mut Story, why: &str, told: &mut Vec<String>| {
        let serial = s.engine.next_serial - 1;
        s.tell(Event::Explained { serial, why: why.to_owned() });
        let mut out = helper_ends(s, 1);
        out.extend(s.tick());
        assert_eq!(spawned(s, &out), [("/m".to_owned(), Job::Mount)]);
        told.extend(out.into_iter().filter_map(|e| match e {
            Effect::Log { level: Level::Error, text, .. } => Some(text),
            _ => None,
        }));
    };
    for _ in 0..9 {
        fails(&mut s, "no such device", &mut told);
    }
    fails(&mut s, "damaged", &mut told);
    for _ in 0..6 {
        fails(&mut s, "damaged", &mut told);
    }
    let expected =
        ["", " (try 2)", " (try 4)", " (try 8)"].map(|n| format!("cannot mount mount:/m: no such device{n}"));
    let more = [" (try 10)", " (try 16)"].map(|n| format!("cannot mount mount:/m: damaged{n}"));
    assert_eq!(told, [&expected[..], &more[..]].concat());
    assert_eq!(s.engine.status(s.node("/m")).cause, "damaged");
    let out = helper_ends(&mut s, 0);
    let counted =
        out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.ends_with("after 16 tries")));
    assert!(counted, "{out:?}");
}

/// A mount that is being mounted when an apply drops it: its helper is killed, and nobody knows how far that came.
fn killed_while_mounting() -> (Story, Vec<Effect>) {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m").file("/m/a", 1, "").edge("/m/a", EdgeKind::Binds, "/m"));
    let out = s.swap(Units::new(), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    result(&mut s, &out, Outcome::MountAbsent);
    let out = helper_ends(&mut s, 137);
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let out = helper_ends(&mut s, 1);
    (s, out)
}

/// Seeds 48278, 45690 and 42130: that it could not be unmounted does not say that it is mounted.
#[test]
fn a_mount_whose_helper_was_killed_counts_only_when_a_helper_has_found_it() {
    let (mut s, out) = killed_while_mounting();
    assert_eq!(s.engine.desired().1, 1, "the apply returns: it could not take the mount away");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
    assert_eq!((s.state("/m"), s.state("/m/a"), steps(&out)), ("starting", "waiting", 0));
    let out = helper_ends(&mut s, 0);
    assert_eq!((s.state("/m"), steps(&out)), ("ready", 1));
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
}

/// The same where nothing returns: a boot drops it, and the next declares it again while it is not known to be there.
#[test]
fn a_mount_that_may_not_be_there_does_not_stand_again() {
    let mut s = Story::new();
    let units = |net| {
        let units = Units::new().service("net", |s| s.nice = net).mount("/m").plain("web");
        units.edge("web", EdgeKind::Binds, "/m")
    };
    s.boot(units(0));
    s.boot(Units::new().plain("net"));
    helper_ends(&mut s, 137);
    s.boot(units(1));
    let out = helper_ends(&mut s, 1);
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Mount)]);
    assert_eq!((s.state("/m"), s.state("web")), ("starting", "waiting"));
}

/// Seed 38161: to take everybody down who uses it, only to find that it cannot come back, would help nobody.
#[test]
fn a_mount_that_could_not_come_back_is_not_restarted() {
    let mut s = Story::new();
    let units = Units::new().plain("net").mount("/m").plain("web");
    s.boot(units.edge("/m", EdgeKind::Requires, "net").edge("web", EdgeKind::Binds, "/m"));
    s.runs("net");
    helper_ends(&mut s, 0);
    s.runs("web");
    s.ask(6, Verb::Hold, "net");
    s.ends("net");
    assert_eq!((s.state("net"), s.state("/m"), s.state("web")), ("down", "ready", "ready"));
    let (node, mut out) = (s.node("/m"), Vec::new());
    let asked = Event::Asked { request: 7, verb: Verb::Restart, node, note: "me".into(), until: None };
    let looked = s.engine.work();
    s.engine.step(Mono(s.now), asked, &mut out);
    let looked = s.engine.work() - looked;
    let told =
        out.iter().find_map(|e| if let Effect::Answer { text, .. } = e { Some(text.as_str()) } else { None });
    assert_eq!(answered(&out, 7), Some(Verdict::Failed));
    assert_eq!(told, Some("mount:/m: it stays mounted, for it would wait for service:net (down)"));
    assert_eq!((s.state("/m"), s.state("web")), ("ready", "ready"));
    assert!(looked < 60, "its users are not even looked at, and {looked} are");
}

/// Whoever ends a hold is answered when what the mount has lost meanwhile is there again, and not before.
#[test]
fn a_release_is_answered_when_the_options_are_right() {
    let differs =
        |node, options: &str| Event::MountDiffers { node, options: options.to_owned(), tried: false };
    let mut s = Story::new();
    s.boot(Units::new().mount_with("/m", &["noexec"]));
    helper_ends(&mut s, 0);
    for (verb, options) in
        [(Verb::Release, "noexec"), (Verb::Start, "noexec"), (Verb::Release, ""), (Verb::Resume, "")]
    {
        s.ask(7, Verb::Hold, "/m");
        let node = s.node("/m");
        s.tell(differs(node, "noexec"));
        let out = s.ask(8, verb, "/m");
        assert_eq!((answered(&out, 8), s.engine.is_converged()), (None, false), "{verb:?} {options}");
        // An init that takes over goes on with it.
        let manifests = s.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
        let records: Vec<_> = s.engine.nodes().map(|n| (n, s.engine.record(n).unwrap())).collect();
        s.engine = Engine::restore(manifests, &s.engine.globals(), records).unwrap();
        assert!(s.engine.is_compared(node));
        let mut out = s.tell(differs(node, options));
        if !options.is_empty() {
            assert_eq!(answered(&out, 8), None, "{verb:?}: the helper is at it");
            out = helper_ends(&mut s, 0);
        }
        assert_eq!((answered(&out, 8), s.engine.is_converged()), (Some(Verdict::Done), true), "{verb:?}");
    }
    // Nobody compares what is not declared any more.
    s.ask(7, Verb::Hold, "/m");
    s.ask(8, Verb::Release, "/m");
    s.boot(Units::new());
    let out = helper_ends(&mut s, 0);
    assert_eq!(s.state("/m"), "absent", "{out:?}");
    assert!(s.engine.is_converged());
}

/// Seed 950604: that the device was late for the helper before says nothing of the next one.
#[test]
fn a_helper_is_waited_for_until_its_own_device_is_late() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Explained { serial, why: format!("{DEVICE_LATE} /dev/x") });
    s.ask(7, Verb::Stop, "/m");
    s.tell(Event::Exited { serial, exit: Exit::Signal(9) });
    helper_ends(&mut s, 3);
    assert_eq!(s.state("/m"), "down");
    s.swap_to(Units::new().mount("/m"), 1, Swap::Boot);
    let manifest = s.engine.install(Units::new().mount("/m").finish());
    let again = Event::Swapped { request: 9, manifest, generation: 1, kind: Swap::Apply, release: true };
    let out = s.tell(again);
    assert_eq!((spawned(&s, &out), answered(&out, 9)), (vec![("/m".to_owned(), Job::Mount)], None));
    assert_eq!(s.state("/m"), "starting");
    let out = helper_ends(&mut s, 0);
    assert_eq!(answered(&out, 9), Some(Verdict::Done));
}
