//! Stories of what somebody else wants otherwise.

use super::*;

/// The worker does the batch that is in these effects, and somebody undoes it until that is a fight.
fn fight(s: &mut Story, effects: &[Effect]) {
    result(s, effects, Outcome::Changed);
    let node = s.node("/f");
    for _ in 0..FIGHT_REPAIRS {
        let out = s.tell(Event::Touched { nodes: vec![node] });
        result(s, &out, Outcome::Changed);
    }
    assert_eq!(s.state("/f"), "contested");
}

/// Seed 2970: the service that it is bound to was restarted, and the echo of the next repair ended the contest.
#[test]
fn a_contest_goes_on_when_what_it_lies_on_comes_back() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web").file("/f", 1, "").edge("/f", EdgeKind::Binds, "web"));
    let out = s.runs("web");
    fight(&mut s, &out);
    s.ends("web");
    let out = s.runs("web");
    result(&mut s, &out, Outcome::Changed);
    assert_eq!(s.state("/f"), "contested", "it was put right, and is left alone from here on");
}

/// A file that somebody changes again and again is left alone.
fn contested() -> Story {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    fight(&mut s, &out);
    s
}

/// Whoever asks for it by hand, or applies, has it tried anew: one repair is no fight.
#[test]
fn a_contest_ends_when_somebody_asks_for_another_try() {
    for verb in [Verb::Release, Verb::Start, Verb::Restart] {
        let mut s = contested();
        let out = s.ask(1, verb, "/f");
        result(&mut s, &out, Outcome::Changed);
        assert_eq!((s.state("/f"), s.engine.tally().not_kept), ("repaired", 0), "{verb:?}");
    }
    let mut s = contested();
    let out = s.swap(Units::new().file("/f", 1, ""), Swap::Apply);
    result(&mut s, &out, Outcome::Changed);
    assert_eq!((s.state("/f"), s.engine.tally().not_kept), ("repaired", 0));
    let mut s = contested();
    s.ask(1, Verb::Hold, "/f");
    s.swap(Units::new().file("/f", 1, ""), Swap::Apply);
    assert_eq!(s.state("/f"), "contested", "who holds it wants it left alone");
}

/// Of a review: who owns the directory puts a pipe where the file should be, and touches it eight times a second.
#[test]
fn what_cannot_be_kept_is_looked_at_ever_more_rarely_however_often_it_is_touched() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, ""));
    result(&mut s, &out, Outcome::NotKept);
    let node = s.node("/f");
    let mut looks = Vec::new();
    for _ in 0..600 * 8 {
        s.now += 125_000_000;
        let mut out = s.tell(Event::Touched { nodes: vec![node] });
        out.extend(s.tell(Event::Tick));
        if steps(&out) > 0 {
            looks.push(s.now / 1_000_000_000);
            result(&mut s, &out, Outcome::NotKept);
        }
    }
    let soon = looks.iter().filter(|at| **at <= 60).count();
    assert!(
        (5..=10).contains(&soon) && looks.len() <= 66,
        "{soon} in the first minute, {} in ten",
        looks.len()
    );
    // Nobody touches it any more, or it is touched once: ten seconds at most, as it may be right by now.
    let last = s.now;
    let out = s.tick();
    assert!(s.now - last <= RETRY_TOUCHED_MS * 1_000_000);
    result(&mut s, &out, Outcome::Kept);
    assert_eq!(s.state("/f"), "kept");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    assert_eq!(steps(&out), 1, "at once, from here on");
}
