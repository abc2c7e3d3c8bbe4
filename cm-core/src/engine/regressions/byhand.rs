//! Stories of hands: what was asked for happens, and nothing else (`cargo mutate` found that nobody looked).

use units::kind::service::Start;

use super::*;

fn manual(s: &mut Service) {
    s.start = Start::Manual;
}

fn freezes(out: &[Effect]) -> Vec<bool> {
    let of = |e: &Effect| if let Effect::Freeze { frozen, .. } = e { Some(*frozen) } else { None };
    out.iter().filter_map(of).collect()
}

fn signals(out: &[Effect]) -> Vec<(u64, i32)> {
    let of =
        |e: &Effect| if let Effect::Signal { serial, signal } = e { Some((*serial, *signal)) } else { None };
    out.iter().filter_map(of).collect()
}

/// A story with one service that runs.
fn running() -> Story {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s
}

#[test]
fn a_signal_goes_to_whom_it_was_meant_for() {
    let mut s = running();
    let serial = s.serial("web");
    let out = s.ask(7, Verb::Kill(12), "web");
    assert_eq!((signals(&out), answered(&out, 7)), (vec![(serial, 12)], Some(Verdict::Done)));
    s.ask(8, Verb::Stop, "web");
    s.ends("web");
    let out = s.ask(9, Verb::Kill(12), "web");
    assert_eq!((signals(&out), answered(&out, 9)), (vec![], Some(Verdict::Failed)));
}

#[test]
fn only_what_runs_is_reloaded_by_hand() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", manual));
    assert_eq!(answered(&s.ask(7, Verb::Reload, "web"), 7), Some(Verdict::Failed));
    s.ask(8, Verb::Start, "web");
    s.runs("web");
    let serial = s.serial("web");
    // One that is reloading already is made to do so once more.
    s.tell(Event::Reloading { serial });
    let out = s.ask(9, Verb::Reload, "web");
    assert_eq!((s.state("web"), answered(&out, 9)), ("reloading", None));
    let out = s.tell(Event::Ready { serial });
    assert_eq!((signals(&out), answered(&out, 9)), (vec![(serial, 1)], Some(Verdict::Done)));
}

#[test]
fn a_reload_by_hand_is_done_though_the_one_before_has_failed() {
    let mut s = Story::new();
    let command = units::kind::service::Reload::Command(vec!["/bin/true".into()]);
    s.boot(Units::new().service("web", |s| s.reload = Some(command)));
    s.runs("web");
    let helper = |out: &[Effect]| {
        let of = |e: &Effect| if let Effect::Spawn { serial, .. } = e { Some(*serial) } else { None };
        out.iter().find_map(of)
    };
    let out = s.ask(7, Verb::Reload, "web");
    let serial = helper(&out).unwrap();
    s.tell(Event::Spawned { serial });
    s.tell(Event::CgroupEmpty { serial });
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    assert_eq!(answered(&out, 7), Some(Verdict::Failed));
    let out = s.ask(8, Verb::Reload, "web");
    assert_eq!((helper(&out).is_some(), answered(&out, 8)), (true, None));
}

#[test]
fn what_is_only_started_by_hand_is_so_until_a_hand_stops_it() {
    for verb in [Verb::Start, Verb::Restart] {
        let mut s = Story::new();
        s.boot(Units::new().service("web", manual));
        assert_eq!(s.state("web"), "down");
        s.ask(7, verb, "web");
        assert_eq!(s.state("web"), "starting");
        s.runs("web");
        s.ask(8, Verb::Stop, "web");
        s.ends("web");
        s.ask(9, Verb::Release, "web");
        assert_eq!(s.state("web"), "down");
    }
}

#[test]
fn what_has_failed_is_started_by_hand() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |s| s.restart = Restart::Never));
    let serial = s.serial("web");
    s.tell(Event::Spawned { serial });
    s.tell(Event::CgroupEmpty { serial });
    s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    assert_eq!(s.state("web"), "failed");
    let out = s.ask(7, Verb::Start, "web");
    assert_eq!((s.state("web"), answered(&out, 7)), ("starting", None));
    assert_eq!(answered(&s.runs("web"), 7), Some(Verdict::Done));
}

#[test]
fn a_pause_freezes_and_only_its_end_thaws() {
    let mut s = running();
    assert_eq!(freezes(&s.ask(7, Verb::Pause, "web")), [true]);
    assert_eq!(freezes(&s.ask(8, Verb::Resume, "web")), [false]);
    assert!(freezes(&s.ask(9, Verb::Hold, "web")).is_empty());
    assert!(freezes(&s.ask(10, Verb::Release, "web")).is_empty());
    // What has ended while it was paused has nothing that could be thawed.
    s.ask(11, Verb::Pause, "web");
    s.ends("web");
    assert!(freezes(&s.ask(12, Verb::Resume, "web")).is_empty());
}

#[test]
fn what_is_gone_or_goes_down_with_the_machine_cannot_be_asked() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", manual));
    let node = s.node("web");
    s.boot(Units::new());
    let out = s.tell(Event::Asked { request: 7, verb: Verb::Start, node, note: "me".into(), until: None });
    assert_eq!(answered(&out, 7), Some(Verdict::Failed));
    let mut s = running();
    s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    assert_eq!(answered(&s.ask(7, Verb::Hold, "web"), 7), Some(Verdict::Failed));
}

#[test]
fn a_released_file_that_is_in_hand_is_looked_at_again() {
    let mut s = Story::new();
    let first = s.boot(Units::new().file("/a", 1, ""));
    s.ask(7, Verb::Hold, "/a");
    s.ask(8, Verb::Release, "/a");
    let out = s.work(first);
    assert_eq!(steps(&out), 2);
}

#[test]
fn what_is_paused_and_has_to_stop_is_thawed_for_that() {
    let mut s = running();
    s.ask(7, Verb::Pause, "web");
    let out = s.boot(Units::new());
    assert_eq!((s.state("web"), freezes(&out)), ("stopping", vec![false]));
}
