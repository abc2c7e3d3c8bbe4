//! Stories of what nobody would have noticed: the engine could be written otherwise there, and no other test broke
//! (`cargo mutate`).

use super::*;

#[test]
fn files_that_need_each_other_are_written_and_taken_away_in_one_batch() {
    let mut s = Story::new();
    let chain = Units::new().file("/a", 1, "/a").file("/b", 1, "/b").file("/c", 1, "/c");
    let out = s.boot(chain.edge("/b", EdgeKind::Requires, "/a").edge("/c", EdgeKind::Requires, "/b"));
    assert_eq!(steps(&out), 3);
    s.work(out);
    let out = s.boot(Units::new());
    assert_eq!(steps(&out), 3);
    s.work(out);
    assert_eq!(["/a", "/b", "/c"].map(|file| s.state(file)), ["absent"; 3]);
}

#[test]
fn only_who_waits_for_what_goes_is_told_that_it_is_gone() {
    let on_file = |units: Units, name: &str| units.plain(name).edge(name, EdgeKind::Requires, "/a");
    let mut s = Story::new();
    s.boot(on_file(on_file(Units::new().file("/a", 1, "/a"), "web"), "db"));
    assert_eq!(answered(&s.ask(7, Verb::Start, "web"), 7), None);
    assert_eq!(answered(&s.ask(8, Verb::Start, "db"), 8), None);
    let out = s.boot(on_file(Units::new().file("/a", 1, "/a"), "web"));
    assert_eq!((answered(&out, 7), answered(&out, 8)), (None, Some(Verdict::Failed)));
}

#[test]
fn a_stop_thaws_only_what_is_frozen() {
    let thaws = |out: &[Effect]| out.iter().any(|e| matches!(e, Effect::Freeze { frozen: false, .. }));
    let mut s = Story::new();
    s.boot(Units::new().plain("web").plain("db"));
    s.runs("web");
    s.runs("db");
    s.ask(7, Verb::Pause, "db");
    assert!(!thaws(&s.ask(8, Verb::Stop, "web")));
    assert!(thaws(&s.ask(9, Verb::Stop, "db")));
}

#[test]
fn applies_that_a_shutdown_overtakes_are_answered() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    // The one waits for a record of it, the other for the one.
    s.swap(Units::new().plain("web").plain("db"), Swap::Apply);
    s.swap(Units::new(), Swap::Apply);
    let out = s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    assert_eq!([102, 103].map(|r| answered(&out, r)), [Some(Verdict::Failed); 2]);
    // So is one that comes while something is still stopping.
    let out = s.swap(Units::new(), Swap::Apply);
    assert_eq!((s.state("web"), answered(&out, 104)), ("stopping", Some(Verdict::Failed)));
    assert_eq!(s.engine.desired().1, 1);
}
