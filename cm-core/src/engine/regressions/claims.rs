//! Stories of what no two units may have at once, and of what somebody waits for.

use super::*;

#[test]
fn a_service_that_is_dropped_while_it_is_held_has_its_terminal_no_longer_than_its_process() {
    let mut s = Story::new();
    let tty = |s: &mut Service| s.tty = Some("tty1".to_owned());
    s.boot(Units::new().service("old", tty));
    s.runs("old");
    s.ask(7, Verb::Hold, "old");
    let out = s.boot(Units::new().service("new", tty));
    assert_eq!((s.state("old"), spawned(&s, &out)), ("stopping", Vec::new()));
    let out = s.ends("old");
    assert_eq!(spawned(&s, &out), [("new".to_owned(), Job::Main)]);
    assert!(s.engine.status(s.node("old")).hold.is_some(), "it is listed");
    s.boot(Units::new().service("newer", tty));
    let out = s.ends("new");
    assert_eq!(spawned(&s, &out), [("newer".to_owned(), Job::Main)], "what is down has nothing");
}

/// Seed 30046202: who waits at the end of the chain heard nothing of the hold at its beginning.
#[test]
fn whether_a_claim_is_ever_given_up_is_known_along_the_whole_chain() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "one").file("/b", 1, "two"));
    s.work(out);
    s.boot(Units::new().file("/b", 1, "one").service("web", |s| s.tty = Some("two".to_owned())));
    assert_eq!(s.engine.waits_for_claim(s.node("web")), Some(s.node("/b")));
    s.ask(7, Verb::Stop, "/a");
    assert_eq!(s.engine.audit(), None);
}

/// Seed 30055124: what is frozen while it starts counts as held, so that who only wants it goes on.
#[test]
fn who_only_wants_what_is_frozen_while_it_starts_goes_on() {
    let mut s = Story::new();
    let notify = |s: &mut Service| s.ready = units::kind::service::Ready::Notify;
    let units = || Units::new().service("db", notify).plain("web").edge("web", EdgeKind::Wants, "db");
    s.boot(units());
    s.runs("db");
    assert_eq!((s.state("db"), s.state("web")), ("starting", "waiting"));
    let out = s.ask(7, Verb::Pause, "db");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
}

/// Seeds 20003604 and 20031897: what it was asked to load it loads once it can, and until then says so.
#[test]
fn a_service_that_owes_a_reload_is_stale() {
    let mut s = Story::new();
    let units = |needs: bool| {
        let units = Units::new().service("web", |_| ()).service("db", |s| {
            s.restart = units::kind::service::Restart::Never;
        });
        if needs { units.edge("web", EdgeKind::Requires, "db") } else { units }
    };
    s.boot(units(true));
    s.runs("db");
    s.runs("web");
    s.ends("db");
    let db = s.serial("db");
    assert_eq!((s.state("db"), db), ("done", 0));
    s.ask(7, Verb::Reload, "web");
    let status = s.engine.status(s.node("web"));
    assert!(status.stale && status.cause.starts_with("stale: waiting for service:db"), "{status:?}");
    s.boot(units(false));
    assert!(!s.engine.status(s.node("web")).stale);
}

/// Seed 105462: what was leaving with a claim came back without it.
#[test]
fn who_came_back_without_its_claim_keeps_nobody_waiting() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, "uid:7"));
    s.work(out);
    let batch = s.boot(Units::new());
    let more = s.boot(Units::new().plain("web").file("/f", 1, "").service("tty", |s| {
        s.tty = Some("uid:7".into());
    }));
    assert!(!spawned(&s, &more).contains(&("tty".to_owned(), Job::Main)), "the file is there yet");
    s.work(batch);
    assert_eq!(s.state("tty"), "starting");
}

#[test]
fn a_unit_that_stays_takes_a_claim_only_when_the_other_one_is_gone() {
    let mut s = Story::new();
    let tty = |s: &mut Service| s.tty = Some("/dev/tty1".into());
    s.boot(Units::new().plain("stays").service("leaves", tty));
    s.runs("stays");
    s.runs("leaves");
    s.boot(Units::new().service("stays", tty));
    assert_eq!((s.state("stays"), s.state("leaves")), ("ready", "stopping"), "it runs on as it was");
    s.ends("leaves");
    assert_eq!((s.state("stays"), s.state("leaves")), ("stopping", "absent"));
    let out = s.ends("stays");
    assert_eq!(spawned(&s, &out), [("stays".to_owned(), Job::Main)]);
}

#[test]
fn a_file_that_stays_takes_a_claim_only_when_the_other_one_is_gone() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/stays", 1, "").file("/leaves", 1, "uid:7"));
    s.work(out);
    let removal = s.boot(Units::new().file("/stays", 1, "uid:7"));
    assert_eq!(steps(&removal), 1, "the removal alone");
    assert_eq!(s.engine.waits_for_claim(s.node("/stays")), Some(s.node("/leaves")));
    s.work(removal);
    assert_eq!(s.state("/stays"), "repaired");
}

#[test]
fn two_services_that_change_terminals_both_stop_first() {
    let mut s = Story::new();
    let on = |tty: &'static str| move |s: &mut Service| s.tty = Some(tty.to_owned());
    s.boot(Units::new().service("a", on("tty1")).service("b", on("tty2")));
    s.runs("a");
    s.runs("b");
    s.boot(Units::new().service("a", on("tty2")).service("b", on("tty1")));
    assert_eq!((s.state("a"), s.state("b")), ("stopping", "stopping"));
    let out = s.ends("a");
    assert_eq!(spawned(&s, &out), [], "b has its terminal yet");
    let out = s.ends("b");
    assert_eq!(spawned(&s, &out).len(), 2);
}

#[test]
fn two_files_that_change_claims_do_not_wait_for_each_other() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "uid:1").file("/b", 1, "uid:2"));
    s.work(out);
    let out = s.boot(Units::new().file("/a", 1, "uid:2").file("/b", 1, "uid:1"));
    s.work(out);
    assert_eq!((s.state("/a"), s.state("/b")), ("repaired", "repaired"));
}
