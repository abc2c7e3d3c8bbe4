//! Stories of kernel modules.

use super::*;

fn one_module() -> Units {
    let spec = units::kind::module::Module { name: "dummy".into(), parameters: vec![] };
    let mut units = Units::new();
    let mut unit = NewUnit::new(Kind::Module, "dummy", Spec::Module(spec));
    unit.settle = 0;
    units.0.unit(unit);
    units
}

fn the_module(s: &Story) -> Node {
    s.engine.node(&Address::new(Kind::Module, "dummy")).unwrap()
}

/// The helper for it was started, and ends like this.
fn helper_ends(s: &mut Story, out: &[Effect], code: i32) -> Vec<Effect> {
    assert_eq!(spawned(s, out), [("dummy".to_owned(), Job::Module)]);
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(code) })
}

#[test]
fn a_module_that_somebody_unloads_is_loaded_again() {
    let mut s = Story::new();
    let out = s.boot(one_module());
    helper_ends(&mut s, &out, 0);
    let node = the_module(&s);
    assert_eq!(s.engine.status(node).state, "kept", "no module is loaded before a boot");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    let out = helper_ends(&mut s, &out, 0);
    let status = s.engine.status(node);
    assert_eq!((status.state, status.cause.as_str()), ("repaired", "somebody had unloaded it"));
    let told =
        |e: &Effect| matches!(e, Effect::Log { text, .. } if text.starts_with("repaired module:dummy"));
    assert!(out.iter().any(told), "{out:?}");
    // What was only looked at was not repaired once more, and not made intended.
    let out = s.tell(Event::Touched { nodes: vec![node] });
    let out = helper_ends(&mut s, &out, 5);
    assert!(!out.iter().any(told), "{out:?}");
    assert_eq!(s.engine.status(node).state, "repaired");
    // The watch's overflow says nothing of modules.
    let out = s.tell(Event::Overflowed);
    assert_eq!(spawned(&s, &out), []);
}

#[test]
fn a_module_that_goes_while_its_helper_works_is_loaded_once_more() {
    let mut s = Story::new();
    let out = s.boot(one_module());
    let node = the_module(&s);
    s.tell(Event::Touched { nodes: vec![node] });
    let out = helper_ends(&mut s, &out, 0);
    helper_ends(&mut s, &out, 0);
    assert!(s.engine.status(node).ready);
}

#[test]
fn a_module_that_a_new_generation_loads_is_changed_and_one_that_was_there_is_kept() {
    for (code, word) in [(0, "changed"), (5, "kept")] {
        let mut s = Story::new();
        s.boot(Units::new());
        let mut out = s.swap(one_module(), Swap::Apply);
        let token = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
        if let Some(token) = out.iter().find_map(token) {
            out = s.tell(Event::Recorded { token, error: None });
        }
        helper_ends(&mut s, &out, code);
        assert_eq!(s.engine.status(the_module(&s)).state, word);
    }
}

#[test]
fn a_module_that_is_unloaded_again_and_again_is_contested() {
    let mut s = Story::new();
    let out = s.boot(one_module());
    helper_ends(&mut s, &out, 0);
    let node = the_module(&s);
    for _ in 0..5 {
        let out = s.tell(Event::Touched { nodes: vec![node] });
        helper_ends(&mut s, &out, 0);
    }
    assert_eq!(s.engine.status(node).state, "contested");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    assert_eq!(spawned(&s, &out), []);
    let out = s.tick();
    helper_ends(&mut s, &out, 5);
    assert_eq!(s.engine.status(node).state, "kept", "nobody has unloaded it again");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    helper_ends(&mut s, &out, 0);
    assert_eq!(s.engine.status(node).state, "repaired", "the contest has ended");
}

/// A module that does not load, and a helper that cannot be killed: neither keeps an apply open.
#[test]
fn a_module_that_hangs_is_given_up() {
    let mut s = Story::new();
    s.boot(Units::new());
    let out = s.swap(one_module(), Swap::Apply);
    let out = s.tell(Event::Recorded { token: token(&out), error: None });
    assert_eq!(spawned(&s, &out), [("dummy".to_owned(), Job::Module)]);
    let (serial, begun) = (s.engine.next_serial - 1, s.now);
    let out = s.tick();
    assert!(out.contains(&Effect::Kill { serial }), "{out:?}");
    assert_eq!((s.now - begun) / 1_000_000_000, 90);
    let out = s.tick();
    let told = "module:dummy is not kept: did not end in time, and cannot be killed";
    assert!(out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text == told)), "{out:?}");
    assert_eq!(s.until_answered(out, 102), Verdict::Returned);
}
