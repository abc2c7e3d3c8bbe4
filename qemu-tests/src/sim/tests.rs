//! Each invariant is shown to be able to fail.

mod histories;

use cm_core::engine::effect::{Effect, Job, Tally, Verdict};
use cm_core::engine::event::{Down, Event, Swap, Verb};
use cm_core::engine::{Engine, Mono};
use cm_core::proto::{Action, Intent, ManifestRef, Outcome, Step, StoreOp, UnitResult};
use units::EdgeKind;
use units::kind::Spec;
use units::kind::service::{Ready, Restart};

use super::checks::Invariant;
use super::exhaustive::{Bounds, Sort, search, unit};
use super::graph::Graph;
use super::history::{Act, Entry, Script};
use super::large;
use super::machine::{Machine, Tamper};
use super::plans;
use super::world::{Happening, Thing, Told, World};

/// Units of these sorts, each requiring the one before where it says so.
fn chain(sorts: &[(Sort, bool)]) -> Graph {
    let mut graph = Graph::default();
    for (slot, (sort, requires)) in (0u8..).zip(sorts) {
        graph.units.insert(slot, unit(*sort, slot));
        if *requires {
            graph.edges.insert((slot, slot - 1, EdgeKind::Requires));
        }
    }
    graph
}

fn script(acts: Vec<(u64, Act)>) -> Script {
    let entries = acts.into_iter().map(|(ms, act)| Entry { at: ms * 1000, act }).collect();
    Script { seed: 1, faults: 0, entries, plans: Vec::new() }
}

fn boot(graph: Graph) -> (u64, Act) {
    (0, Act::Swap(graph, Swap::Boot))
}

/// The history is fine as it is, and with the fault it breaks exactly this invariant.
fn breaks(invariant: Invariant, script: &Script, tamper: Tamper) {
    let sound = script.play(false, None).violation;
    assert!(sound.is_none(), "without the fault: {sound:?}");
    let broken = script.play(false, Some(tamper)).violation;
    assert_eq!(broken.as_ref().map(|v| v.invariant), Some(invariant), "{broken:?}");
}

fn main_serial(engine: &Engine, slot: u8) -> Option<u64> {
    let node = engine.nodes().find(|n| super::graph::slot_of(&engine.address(*n)) == slot)?;
    Some(engine.status(node).serial).filter(|s| *s != 0)
}

/// A spawn of a slot that nobody asked for.
fn spawn(engine: &Engine, slot: u8, job: Job, serial: u64) -> Option<Effect> {
    let node = engine.nodes().find(|n| super::graph::slot_of(&engine.address(*n)) == slot)?;
    let (manifest, unit) = engine.unit_of(node);
    Some(Effect::Spawn { node, serial, manifest, unit, job, cause: String::new() })
}

fn has(effects: &[Effect], wanted: impl Fn(&Effect) -> bool) -> bool {
    effects.iter().any(wanted)
}

fn is_main(effect: &Effect) -> bool {
    matches!(effect, Effect::Spawn { job: Job::Main, .. })
}

#[test]
fn starts_in_order_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Notifies, false), (Sort::Plain, true)]))]);
    breaks(Invariant::StartsInOrder, &history, |engine, effects, _| {
        if main_serial(engine, 0) == Some(1) && has(effects, is_main) {
            effects.extend(spawn(engine, 1, Job::Main, 999));
        }
    });
}

#[test]
fn stops_in_order_can_fail() {
    let history = script(vec![
        boot(chain(&[(Sort::Plain, false), (Sort::Plain, true)])),
        (100, Act::Swap(Graph::default(), Swap::Boot)),
    ]);
    breaks(Invariant::StopsInOrder, &history, |engine, effects, _| {
        if has(effects, |e| matches!(e, Effect::Signal { signal: 15, .. }))
            && let Some(serial) = main_serial(engine, 0)
        {
            effects.push(Effect::Signal { serial, signal: 15 });
        }
    });
}

#[test]
fn dirty_ends_can_fail() {
    let mut graph = chain(&[(Sort::Plain, false)]);
    if let Some(Spec::Service(s)) = graph.units.get_mut(&0).map(|u| &mut u.spec) {
        s.start_timeout = 0;
    }
    let history = script(vec![boot(graph), (100, Act::Crash(0, 1))]);
    // The second process is never made, and nobody is told.
    breaks(Invariant::DirtyEnds, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Spawn { serial: 2, .. }));
    });
}

#[test]
fn nothing_stands_still_can_fail() {
    // A record of the moment before its gate opened stands in for an engine that forgot to look.
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&chain(&[(Sort::Plain, false), (Sort::Plain, true)]), 1, Swap::Boot).unwrap();
    let second = machine.node(1).unwrap();
    let before = machine.engine.record(second).unwrap();
    machine.now = machine.now.after_ms(10);
    machine.step(Event::Spawned { serial: 1 }).unwrap();
    assert!(machine.engine.stands_still().is_none());
    let manifests = machine.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let pick = |n| if n == second { before.clone() } else { machine.engine.record(n).unwrap() };
    let records: Vec<_> = machine.engine.nodes().map(|n| (n, pick(n))).collect();
    let engine = Engine::restore(manifests, &machine.engine.globals(), records).unwrap();
    machine.engine = engine;
    let broken = machine.step(Event::Overflowed).unwrap_err();
    assert_eq!(broken.invariant, Invariant::NothingStandsStill, "waiting with an open gate: {broken}");
}

#[test]
fn counters_agree_can_fail() {
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&chain(&[(Sort::File, false)]), 1, Swap::Boot).unwrap();
    run(&mut machine);
    let node = machine.node(0).unwrap();
    let early = machine.engine.globals();
    machine.engine.step(machine.now, Event::Touched { nodes: vec![node] }, &mut Vec::new());
    while let Some(at) = machine.engine.next_deadline().filter(|_| !machine.engine.has_batch()) {
        machine.engine.step(at, Event::Tick, &mut Vec::new());
    }
    // The worker has the file, says its record, and the rest knows of no batch.
    let record = machine.engine.record(node).unwrap();
    let manifests = machine.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    machine.engine = Engine::restore(manifests, &early, [(node, record)]).unwrap();
    let broken = machine.step(Event::StoreOpened).unwrap_err();
    assert_eq!(broken.invariant, Invariant::CountersAgree, "{broken}");
}

#[test]
fn stale_ends_can_fail() {
    let mut first = chain(&[(Sort::File, false), (Sort::Plain, true)]);
    first.edges.insert((1, 0, EdgeKind::ReloadOn));
    if let Some(Spec::Service(s)) = first.units.get_mut(&1).map(|u| &mut u.spec) {
        s.reload = Some(units::kind::service::Reload::Command(vec!["/bin/reload".into()]));
        s.reload_timeout = 0;
    }
    let mut second = first.clone();
    if let Some(u) = second.units.get_mut(&0) {
        u.spec = super::graph::file(0, 3);
    }
    let history = script(vec![boot(first), (60_000, Act::Swap(second, Swap::Boot))]);
    // The reload command is never run, and nobody is told.
    breaks(Invariant::StaleEnds, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Spawn { job: Job::Reload, .. }));
    });
}

/// Lets the world answer until it has nothing more to say.
fn run(machine: &mut Machine) {
    while let Some((_, what)) = machine.world.pending.pop_first() {
        machine.now = machine.now.after_ms(1);
        let now = machine.now;
        if let Some(told) = machine.world.fire(now, &what) {
            machine.tell(told).unwrap();
        }
    }
}

#[test]
fn last_apply_wins_can_fail() {
    let mut bad = chain(&[(Sort::Once, false)]);
    if let Some(Spec::Service(s)) = bad.units.get_mut(&0).map(|u| &mut u.spec) {
        s.restart = Restart::Never;
        s.start_timeout = 500;
        s.ready = Ready::Notify;
    }
    let history = script(vec![boot(chain(&[])), (10, Act::Swap(bad, Swap::Apply)), (11, Act::Crash(0, 1))]);
    breaks(Invariant::LastApplyWins, &history, |engine, effects, _| {
        let _ = engine;
        for effect in effects {
            if let Effect::Answer { request: 2, verdict, .. } = effect {
                *verdict = if *verdict == Verdict::Done { Verdict::Returned } else { Verdict::Done };
            }
        }
    });
}

#[test]
fn one_answer_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    breaks(Invariant::OneAnswer, &history, |_, effects, _| {
        let answers: Vec<Effect> =
            effects.iter().filter(|e| matches!(e, Effect::Answer { .. })).cloned().collect();
        effects.extend(answers);
    });
    breaks(Invariant::OneAnswer, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Answer { .. }));
    });
    // Who leaves has answered before.
    let history = script(vec![boot(chain(&[(Sort::Plain, false)])), (50, Act::Shutdown)]);
    breaks(Invariant::OneAnswer, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Answer { .. }));
    });
}

#[test]
fn one_main_process_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)])), (50, Act::Overflow)]);
    breaks(Invariant::OneMainProcess, &history, |engine, effects, world| {
        if world.main_of(0).is_some() {
            effects.extend(spawn(engine, 0, Job::Main, 999));
        }
    });
}

#[test]
fn numbers_are_unique_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    breaks(Invariant::NumbersAreUnique, &history, |_, effects, _| {
        let again: Vec<Effect> = effects.iter().filter(|e| is_main(e)).cloned().collect();
        effects.extend(again);
    });
}

#[test]
fn one_batch_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::File, false)])), (0, Act::Touch(vec![0], false))]);
    breaks(Invariant::OneBatch, &history, |_, effects, world| {
        if world.work.is_some() {
            let (generation, intent, steps) = (1, Intent::Correct, Vec::new());
            effects.push(Effect::Batch { batch: 999, generation, intent, steps });
        }
    });
}

/// One look at every unit, in a step that is about one.
fn walks(engine: &Engine, event: &Event) {
    if matches!(event, Event::Touched { .. }) {
        let _ = engine.nodes().filter(|node| engine.glance(*node).held).count();
    }
}

#[test]
fn bounded_work_can_fail() {
    assert!(large::run(1, 600, 60, None).is_ok());
    let broken = large::run(1, 600, 60, Some(walks)).unwrap_err();
    assert_eq!(broken.invariant, Invariant::BoundedWork, "{broken}");
    // On a small machine such a walk costs little, but not whatever one likes.
    let history = script(vec![boot(chain(&[(Sort::File, false)])), (100, Act::Touch(vec![0], false))]);
    breaks(Invariant::BoundedWork, &history, |engine, _, _| {
        (0..1000).for_each(|_| walks(engine, &Event::Touched { nodes: Vec::new() }));
    });
}

#[test]
fn bounded_memory_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    assert!(history.play(false, None).violation.is_none());
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.world.kind = true;
    machine.apply(&chain(&[(Sort::Plain, false)]), 1, Swap::Boot).unwrap();
    run(&mut machine);
    machine.checks.at_rest(&machine.engine, &machine.world).unwrap();
    // A manifest that nobody swaps to is never forgotten.
    machine.engine.install(chain(&[(Sort::File, false)]).manifest());
    let broken = machine.checks.at_rest(&machine.engine, &machine.world).unwrap_err();
    assert_eq!(broken.invariant, Invariant::BoundedMemory);
}

#[test]
fn no_defect_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    breaks(Invariant::NoDefect, &history, |_, effects, _| {
        let level = cm_core::engine::effect::Level::Error;
        effects.push(Effect::Log { level, node: None, text: "defect: a test".to_owned() });
    });
}

#[test]
fn deadlines_ahead_can_fail() {
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&chain(&[(Sort::Plain, false)]), 1, Swap::Boot).unwrap();
    let late = machine.now.after_ms(3_600_000);
    machine.checks.note(&machine.engine);
    let broken = machine.checks.check(&machine.engine, &machine.world, late, &Event::Tick, &[]).unwrap_err();
    assert_eq!(broken.invariant, Invariant::DeadlinesAhead);
}

#[test]
fn comes_to_rest_can_fail() {
    let mut graph = chain(&[(Sort::Plain, false)]);
    if let Some(Spec::Service(s)) = graph.units.get_mut(&0).map(|u| &mut u.spec) {
        s.restart_limit = 0;
    }
    breaks(Invariant::ComesToRest, &script(vec![boot(graph)]), |engine, effects, world| {
        // It crashes for ever.
        let _ = effects;
        if let Some(serial) = main_serial(engine, 0)
            && world.procs.get(&serial).is_some_and(|p| p.main)
            && !world.pending.values().any(|h| matches!(h, Happening::Ends(..)))
        {
            world.soon(Mono(0), 0, Happening::Ends(serial, 1));
        }
    });
}

#[test]
fn shutdown_leaves_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    breaks(Invariant::ShutdownLeaves, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Leave { .. }));
    });
    breaks(Invariant::ShutdownLeaves, &history, |engine, effects, _| {
        if let (Some(down), false) =
            (engine.going_down(), has(effects, |e| matches!(e, Effect::Leave { .. })))
        {
            effects.insert(0, Effect::Leave { down });
        }
    });
}

#[test]
fn failures_contained_can_fail() {
    let history =
        script(vec![boot(chain(&[(Sort::Plain, false), (Sort::Plain, false)])), (100, Act::Crash(0, -11))]);
    breaks(Invariant::FailuresContained, &history, |engine, effects, world| {
        let down = world.main_of(0).is_none();
        if down
            && has(effects, is_main)
            && let Some(serial) = main_serial(engine, 1)
        {
            effects.push(Effect::Kill { serial });
        }
        let cleans = has(effects, |e| matches!(e, Effect::Publish { text, .. } if text == "stopping"));
        if cleans && let Some(serial) = main_serial(engine, 1) {
            effects.push(Effect::Kill { serial });
        }
    });
}

#[test]
fn reexec_identical_can_fail() {
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&chain(&[(Sort::Plain, false)]), 1, Swap::Boot).unwrap();
    run(&mut machine);
    machine.reexec().unwrap();
    // An event that the restored engine never hears of.
    machine.now = machine.now.after_ms(1);
    machine.engine.step(machine.now, Event::CgroupEmpty { serial: 1 }, &mut Vec::new());
    let crash = Event::Exited { serial: 1, exit: cm_core::engine::event::Exit::Code(1) };
    let broken = machine.step(crash).unwrap_err();
    assert_eq!(broken.invariant, Invariant::ReexecIdentical, "{broken}");
    // And a record that was not written is found at the next re-exec.
    assert_eq!(machine.reexec().unwrap_err().invariant, Invariant::ReexecIdentical);
}

#[test]
fn held_left_alone_can_fail() {
    let history = script(vec![
        boot(chain(&[(Sort::Plain, false)])),
        (100, Act::Ask(0, Verb::Stop, None)),
        (200, Act::Overflow),
    ]);
    breaks(Invariant::HeldLeftAlone, &history, |engine, effects, world| {
        let held = engine.nodes().any(|n| engine.glance(n).held);
        if held && world.main_of(0).is_none() && engine.going_down().is_none() {
            effects.extend(spawn(engine, 0, Job::Main, 999));
        }
    });
}

#[test]
fn converged_is_true_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Notifies, false)]))]);
    breaks(Invariant::ConvergedIsTrue, &history, |_, effects, _| {
        if has(effects, is_main) {
            effects.push(Effect::Converged);
        }
    });
}

#[test]
fn manifests_kept_can_fail() {
    let history = script(vec![boot(chain(&[(Sort::Plain, false)]))]);
    breaks(Invariant::ManifestsKept, &history, |engine, effects, _| {
        effects.push(Effect::Forget { manifest: engine.desired().0 });
    });
}

#[test]
fn claims_in_order_can_fail() {
    let mut first = chain(&[(Sort::Plain, false)]);
    let mut second = chain(&[]);
    second.units.insert(1, unit(Sort::Plain, 1));
    for (graph, slot) in [(&mut first, 0), (&mut second, 1)] {
        super::graph::claim(graph.units.get_mut(&slot).unwrap(), Some(0));
    }
    let history = script(vec![boot(first), (100, Act::Swap(second, Swap::Boot))]);
    breaks(Invariant::ClaimsInOrder, &history, |engine, effects, _| {
        if has(effects, |e| matches!(e, Effect::Signal { signal: 15, .. })) {
            effects.extend(spawn(engine, 1, Job::Main, 999));
        }
    });
}

#[test]
fn loads_once_can_fail() {
    let mut graph = chain(&[(Sort::Plain, false)]);
    if let Some(Spec::Service(s)) = graph.units.get_mut(&0).map(|u| &mut u.spec) {
        s.reload = Some(units::kind::service::Reload::Signal(1));
    }
    let history = script(vec![boot(graph), (100, Act::Ask(0, Verb::Reload, None)), (200, Act::Overflow)]);
    breaks(Invariant::LoadsOnce, &history, |engine, effects, _| {
        let asked = has(effects, |e| matches!(e, Effect::Signal { signal: 1, .. }));
        if !asked
            && effects.is_empty()
            && let Some(serial) = main_serial(engine, 0)
        {
            effects.push(Effect::Signal { serial, signal: 1 });
        }
    });
}

#[test]
fn blame_is_right_can_fail() {
    let mut graph = chain(&[(Sort::Plain, false), (Sort::Plain, false), (Sort::File, false)]);
    if let Some(Spec::Service(s)) = graph.units.get_mut(&0).map(|u| &mut u.spec) {
        s.restart = Restart::Never;
    }
    let mut second = graph.clone();
    second.units.insert(3, unit(Sort::Notifies, 3));
    let acts = vec![boot(graph), (60_000, Act::Swap(second, Swap::Apply)), (60_001, Act::Crash(0, 1))];
    let history = script(acts);
    // As if it had returned because of the one that failed meanwhile.
    breaks(Invariant::BlameIsRight, &history, |_, effects, _| {
        for effect in effects {
            if let Effect::Answer { request: 2, verdict, text, .. } = effect {
                *verdict = Verdict::Returned;
                *text = "service:s0: failed".to_owned();
            }
        }
    });
}

#[test]
fn blame_is_right_can_fail_of_a_return() {
    let mut bad = chain(&[(Sort::Plain, false)]);
    if let Some(Spec::Service(s)) = bad.units.get_mut(&0).map(|u| &mut u.spec) {
        s.restart = Restart::Never;
    }
    let acts = vec![boot(chain(&[])), (10_000, Act::Swap(bad, Swap::Apply)), (12_000, Act::Crash(0, 1))];
    // As if something had been worse after it.
    breaks(Invariant::BlameIsRight, &script(acts), |_, effects, _| {
        for effect in effects {
            if let Effect::Answer { request: 2, verdict: verdict @ Verdict::Returned, .. } = effect {
                *verdict = Verdict::ReturnIncomplete;
            }
        }
    });
}

/// A service that reloads on a file, and the same with another file.
fn reloading() -> (Graph, Graph) {
    let mut first = chain(&[(Sort::File, false), (Sort::Plain, true)]);
    first.edges.insert((1, 0, EdgeKind::ReloadOn));
    if let Some(Spec::Service(s)) = first.units.get_mut(&1).map(|u| &mut u.spec) {
        s.reload = Some(units::kind::service::Reload::Signal(1));
    }
    let mut second = first.clone();
    if let Some(unit) = second.units.get_mut(&0) {
        unit.spec = super::graph::file(0, 3);
    }
    (first, second)
}

#[test]
fn plan_is_kept_can_fail() {
    let (first, second) = reloading();
    let mut history = script(vec![boot(first)]);
    history.plans.push(second);
    let kept = history.play(false, None).kept;
    // The second is that of an apply of what is current by then.
    let reloads = kept.verbs.get(&("service", "reload"));
    assert_eq!((kept.plans, kept.again, reloads), (2, 1, Some(&1)), "{kept:?}");
    // The signal is lost: the engine counts the service as reloaded.
    breaks(Invariant::PlanIsKept, &history, |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Signal { signal: 1, .. }));
    });
}

#[test]
fn trial_is_quiet_can_fail() {
    let first = chain(&[(Sort::Plain, false)]);
    let mut second = first.clone();
    if let Some(Spec::Service(s)) = second.units.get_mut(&0).map(|u| &mut u.spec) {
        s.exec.push("other".to_owned());
    }
    let apply = (100, Act::Swap(second, Swap::Apply));
    let history = script(vec![boot(first), apply, (4_000, Act::Crash(0, 1))]);
    // It is committed in the step in which the quiet time begins anew.
    breaks(Invariant::TrialIsQuiet, &history, |engine, effects, _| {
        let begins = has(effects, |e| matches!(e, Effect::Store { op: StoreOp::Trial { .. }, .. }));
        if begins && engine.nodes().any(|n| engine.glance(n).restarts == 1) {
            effects.push(Effect::Store { token: 999, op: StoreOp::Commit { generation: 2 } });
        }
    });
}

#[test]
fn holds_survive_can_fail() {
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&chain(&[(Sort::Plain, false)]), 1, Swap::Boot).unwrap();
    run(&mut machine);
    let node = machine.node(0).unwrap();
    let asked = |request, verb| Event::Asked { request, verb, node, note: String::new(), until: None };
    let request = machine.request(None);
    machine.step(asked(request, Verb::Hold)).unwrap();
    machine.step(Event::Overflowed).unwrap();
    // Nobody was asked.
    machine.engine.step(machine.now, asked(99, Verb::Release), &mut Vec::new());
    let broken = machine.step(Event::Overflowed).unwrap_err();
    assert_eq!(broken.invariant, Invariant::HoldsSurvive, "{broken}");
}

#[test]
fn fights_bounded_can_fail() {
    let mut file = chain(&[(Sort::File, false)]);
    file.units.get_mut(&0).unwrap().settle = 50;
    let sound = script(vec![boot(file.clone()), (100, Act::Vandal(0, 40))]);
    let outcome = sound.play(false, None);
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    // An engine that repairs as often as somebody undoes it.
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&file, 1, Swap::Boot).unwrap();
    run(&mut machine);
    let node = machine.node(0).unwrap();
    let (manifest, unit) = machine.engine.unit_of(node);
    let broken = (100..120).find_map(|batch| {
        let step = Step { manifest, unit, action: Action::Converge };
        let (generation, intent, steps) = (1, Intent::Correct, vec![step]);
        let sent = Effect::Batch { batch, generation, intent, steps };
        let (outcome, detail) = (Outcome::Changed, String::new());
        let result = UnitResult { manifest, unit, outcome, detail };
        let answer = Event::Results { batch, results: vec![result] };
        let Machine { engine, world, now, checks, .. } = &mut machine;
        checks.check(engine, world, *now, &Event::StoreOpened, &[sent]).err().or_else(|| {
            checks.told(engine, world, &answer);
            checks.check(engine, world, *now, &answer, &[]).err()
        })
    });
    assert_eq!(broken.map(|b| b.invariant), Some(Invariant::FightsBounded));
}

#[test]
fn nothing_foreign_purged_can_fail() {
    let first = chain(&[(Sort::File, false)]);
    // A removal of what is declared.
    let history = script(vec![boot(first.clone()), (100, Act::Touch(vec![0], false))]);
    breaks(Invariant::NothingForeignPurged, &history, |_, effects, _| {
        for effect in effects {
            if let Effect::Batch { intent: Intent::Correct, steps, .. } = effect {
                steps.iter_mut().for_each(|step| step.action = Action::Remove);
            }
        }
    });
    // A worker that does not look whose it is.
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.world.things.insert(0, Thing { like: Some([1; 16]), adopted: true, ..Thing::default() });
    machine.apply(&first, 1, Swap::Boot).unwrap();
    run(&mut machine);
    machine.apply(&chain(&[]), 2, Swap::Boot).unwrap();
    machine.world.things.remove(&0);
    let broken = machine.step(Event::Overflowed).unwrap_err();
    assert_eq!(broken.invariant, Invariant::NothingForeignPurged, "{broken}");
}

#[test]
fn again_is_true_can_fail() {
    // A file that somebody has just changed is still to be looked at.
    let dirty =
        vec![boot(chain(&[(Sort::File, false)])), (100, Act::Touch(vec![0], true)), (101, Act::Again(false))];
    breaks(Invariant::AgainIsTrue, &script(dirty), |engine, effects, _| {
        if engine.sizes().asks > 0 {
            let (verdict, tally, text) = (Verdict::Done, Tally::default(), String::new());
            effects.push(Effect::Answer { request: 2, verdict, tally, text });
        }
    });
    // A service that has failed, and fails again.
    let mut fails = chain(&[(Sort::Notifies, false)]);
    if let Some(Spec::Service(s)) = fails.units.get_mut(&0).map(|u| &mut u.spec) {
        s.restart = Restart::Never;
    }
    let acts =
        vec![boot(fails), (1_000, Act::Crash(0, 1)), (2_000, Act::Again(false)), (4_000, Act::Crash(0, 1))];
    breaks(Invariant::AgainIsTrue, &script(acts), |_, effects, _| {
        for effect in effects {
            if let Effect::Answer { request: 2, verdict, .. } = effect {
                *verdict = Verdict::Done;
            }
        }
    });
    // In this history a mount waits for its device when somebody applies what is current.
    breaks(Invariant::AgainIsTrue, &Script::random(2316), |engine, effects, _| {
        if engine.only_awaits_devices(engine.nodes()) {
            effects.retain(|e| !matches!(e, Effect::Answer { .. }));
        }
    });
}

#[test]
fn hands_are_heard_can_fail() {
    let service = chain(&[(Sort::Notifies, false)]);
    let asks = |verb| script(vec![boot(service.clone()), (50_000, Act::Ask(0, verb, None))]);
    let silent: Tamper = |_, effects, _| {
        effects.retain(|e| !matches!(e, Effect::Signal { signal: 9, .. } | Effect::Freeze { .. }));
    };
    breaks(Invariant::HandsAreHeard, &asks(Verb::Kill(9)), silent);
    breaks(Invariant::HandsAreHeard, &asks(Verb::Pause), silent);
    breaks(Invariant::HandsAreHeard, &asks(Verb::Hold), |engine, effects, _| {
        let held = engine.nodes().find(|n| engine.glance(*n).held);
        if let Some(serial) = held.and_then(|_| main_serial(engine, 0)) {
            effects.push(Effect::Freeze { serial, frozen: false });
        }
    });
    // It is said to be up again before it is, and to have failed although nobody knows that yet.
    for verdict in [Verdict::Done, Verdict::Failed] {
        let early: Tamper = match verdict {
            Verdict::Done => |_, effects, _| answer(effects, Verdict::Done),
            _ => |_, effects, _| answer(effects, Verdict::Failed),
        };
        breaks(Invariant::HandsAreHeard, &asks(Verb::Restart), early);
    }
}

/// An answer to the second request as soon as what it is about starts.
fn answer(effects: &mut Vec<Effect>, verdict: Verdict) {
    let starts = |e: &Effect| matches!(e, Effect::Spawn { job: Job::Main, serial, .. } if *serial > 1);
    if has(effects, starts) {
        effects.push(Effect::Answer { request: 2, verdict, tally: Tally::default(), text: String::new() });
    }
}

#[test]
fn every_invariant_is_shown_to_fail_and_described() {
    let (tests, page) = (include_str!("tests.rs"), include_str!("../../../docs/simulator.md"));
    for invariant in Invariant::ALL {
        let name = invariant.name();
        let test = format!("fn {}_can_fail()", name.replace('-', "_"));
        assert!(tests.contains(&test), "{name} has no test in which it fails");
        assert!(page.contains(&format!("| `{name}` |")), "docs/simulator.md does not describe {name}");
    }
}
