//! Shutdowns: everybody has the time that was declared for it, and nobody is left without having been asked.

use super::*;

/// Seed 14904: what should have come up or down did not until the machine was left.
#[test]
fn who_asked_is_answered_before_the_machine_is_left() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    let out = s.ask(7, Verb::Stop, "/m");
    assert_eq!(answered(&out, 7), None);
    let mut out = s.tell(Event::ShutdownAsked { down: Down::Poweroff });
    while !out.iter().any(|e| matches!(e, Effect::Leave { .. })) {
        out = s.tick();
    }
    assert_eq!(answered(&out, 7), Some(Verdict::Failed));
}

/// Milliseconds that a story has taken.
fn elapsed(s: &Story) -> u64 {
    s.now / 1_000_000
}

fn leaves(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Leave { .. }))
}

/// Two services, the upper one of which is asked to stop first, and may take four minutes.
fn upper_and_base() -> Story {
    let mut s = Story::new();
    let units = Units::new().plain("base").service("upper", |s| s.stop_timeout = 240_000);
    s.boot(units.edge("upper", EdgeKind::Requires, "base"));
    s.runs("base");
    s.runs("upper");
    s.tell(Event::ShutdownAsked { down: event::Down::Poweroff });
    s
}

#[test]
fn a_shutdown_waits_as_long_as_a_service_may_take() {
    let mut s = upper_and_base();
    assert!(!leaves(&s.tick()), "its four minutes are not over");
    assert!(elapsed(&s) >= SHUTDOWN_MS);
    assert_eq!((s.state("upper"), s.state("base")), ("stopping", "ready"));
    s.now += 100_000_000_000;
    s.ends("upper");
    assert_eq!((s.state("upper"), s.state("base")), ("down", "stopping"));
    assert!(leaves(&s.ends("base")));
}

#[test]
fn who_waits_for_what_does_not_end_is_asked_to_stop_before_the_machine_is_left() {
    let mut s = upper_and_base();
    while s.state("base") == "ready" {
        assert!(!leaves(&s.tick()));
    }
    assert_eq!(s.state("base"), "stopping");
    assert!(elapsed(&s) <= 250_001, "upper was killed, and does not end");
    assert!(leaves(&s.tick_until_left()), "base was killed, and does not end either");
    assert!(elapsed(&s) >= 250_000 + 20_000);
}

#[test]
fn who_waits_for_what_does_not_end_is_asked_in_order() {
    let mut s = Story::new();
    let units = Units::new().plain("base").plain("middle").plain("upper");
    let units = units.edge("upper", EdgeKind::Requires, "middle").edge("middle", EdgeKind::Requires, "base");
    s.boot(units);
    for name in ["base", "middle", "upper"] {
        s.runs(name);
    }
    s.tell(Event::ShutdownAsked { down: event::Down::Poweroff });
    while s.state("middle") == "ready" {
        s.tick();
    }
    assert_eq!((s.state("middle"), s.state("base")), ("stopping", "ready"));
    s.ends("middle");
    assert_eq!(s.state("base"), "stopping");
    s.ends("base");
    assert!(leaves(&s.tick_until_left()));
}

/// Seed 994814: an unmount that cannot be killed ends the wait in the step in which nothing is under way any more.
#[test]
fn nothing_is_said_after_the_machine_was_left() {
    let mut s = Story::new();
    s.boot(Units::new().mount("/m"));
    let serial = s.engine.next_serial - 1;
    s.tell(Event::ShutdownAsked { down: event::Down::Poweroff });
    s.tell(Event::Exited { serial, exit: Exit::Signal(9) });
    let out = s.tick_until_left();
    let left = out.iter().position(|e| matches!(e, Effect::Leave { .. })).unwrap();
    assert_eq!((&out[left + 1..], s.state("/m")), (&[][..], "failed"));
}
