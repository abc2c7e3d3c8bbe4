//! Whole histories: a few hundred run with the other tests, what hangs or is large costs only itself, failing ones
//! become small, and what is driven is shown to be what ships.

use std::any::type_name_of_val;

use super::*;
use crate::sim::shrink::smallest;
use crate::sim::{history, journal};

#[test]
fn thousands_of_units_cost_what_changes() {
    for (seed, units) in [(11, 300), (12, 2000)] {
        let looks = large::run(seed, units, 60, None).unwrap();
        assert!(looks.steps > 100 && looks.most > 0, "{looks:?}");
    }
}

#[test]
fn work_for_one_change_does_not_grow_with_the_machine() {
    let work = |files: u16| {
        let mut builder = units::ManifestBuilder::new();
        for number in 0..files {
            let mut new = unit(Sort::File, 0);
            new.address.name = format!("/many/{number}");
            builder.unit(new);
        }
        let mut engine = Engine::new();
        let manifest = engine.install(builder.finish());
        let mut out = Vec::new();
        let swap = Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false };
        engine.step(Mono(1), swap, &mut out);
        let node = engine.nodes().next().unwrap();
        let before = engine.work();
        engine.step(Mono(2), Event::Touched { nodes: vec![node] }, &mut out);
        engine.work() - before
    };
    assert_eq!(work(10), work(3000));
}
/// Seeds 123177 and 150344: what is held and declared no more keeps the first manifest, by which nobody else runs.
#[test]
fn an_apply_answers_for_nobody_by_edges_that_only_others_run_by() {
    let sorts = [(Sort::File, false), (Sort::File, false), (Sort::Plain, true)];
    let first = chain(&sorts);
    let mut second = first.clone();
    second.units.remove(&0);
    second.edges.clear();
    let mut third = second.clone();
    third.units.remove(&1);
    third.units.insert(3, unit(Sort::Plain, 3));
    let acts = vec![
        boot(first),
        (1_000, Act::Ask(0, Verb::Hold, None)),
        (2_000, Act::Swap(second, Swap::Apply)),
        (20_000, Act::Swap(third, Swap::Apply)),
        (22_000, Act::Crash(2, 1)),
    ];
    let violation = script(acts).play(false, None).violation;
    assert!(violation.is_none(), "{violation:?}");
}

/// Seed 306021: an apply that lifts holds returns, and one of what it returns to, which lifts them too, comes right behind.
#[test]
fn a_hold_that_is_lifted_behind_a_return_is_over() {
    let violation = Script::random(306_021).play(false, None).violation;
    assert!(violation.is_none(), "{violation:?}");
}

/// The next record that the worker has to write; all before it happens.
fn next_record(machine: &mut Machine) -> u64 {
    loop {
        let (_, what) = machine.world.pending.pop_first().unwrap();
        if let Happening::Writes(token, _) = what {
            return token;
        }
        machine.now = machine.now.after_ms(1);
        let now = machine.now;
        if let Some(told) = machine.world.fire(now, &what) {
            machine.tell(told).unwrap();
        }
    }
}

/// Seed 132530: what is desired is what a boot would bring that waits for its turn, and that has not begun for all that.
#[test]
fn a_boot_that_is_superseded_before_its_turn_does_not_stand() {
    let (first, second) = (chain(&[(Sort::File, false)]), chain(&[(Sort::File, false), (Sort::File, false)]));
    let mut machine = Machine::new(World::new(1, 0), false);
    machine.apply(&first, 1, Swap::Boot).unwrap();
    run(&mut machine);
    machine.apply(&second, 2, Swap::Apply).unwrap();
    let switching = next_record(&mut machine);
    machine.tell(Told::Recorded(switching, true)).unwrap();
    let commit = next_record(&mut machine);
    machine.apply(&second, 2, Swap::Boot).unwrap();
    machine.apply(&second, 3, Swap::Apply).unwrap();
    assert_eq!(machine.checks.verdict(3), Some(Verdict::Superseded));
    // Neither of the other two can be recorded.
    machine.tell(Told::Recorded(commit, false)).unwrap();
    let switching = next_record(&mut machine);
    machine.tell(Told::Recorded(switching, false)).unwrap();
    assert_eq!((machine.engine.desired().1, machine.engine.applying()), (1, None));
}

#[test]
fn a_planner_that_does_not_know_the_engine_is_found_out() {
    let standins: [plans::Planner; 3] = [
        |_, _, _| Vec::new(),
        |running, desired, observe| {
            let mut planned = plans::SHIPS(running, desired, observe);
            planned.iter_mut().for_each(|p| p.verb = cm_core::plan::Verb::Nothing);
            planned
        },
        // As if nothing had been looked at.
        |_, desired, observe| plans::SHIPS(desired, desired, observe),
    ];
    for planner in standins {
        let (first, second) = reloading();
        let mut machine = Machine::new(World::new(1, 0), false);
        machine.apply(&first, 1, Swap::Boot).unwrap();
        history::until(&mut machine, None).unwrap();
        let rest = |m: &mut Machine| history::until(m, None);
        let broken = plans::trial(&mut machine, &second, 2, planner, rest).unwrap_err();
        assert_eq!(broken.invariant, Invariant::PlanIsKept, "{broken}");
    }
}

/// A world whose worker cannot be killed: one file of three lies where nothing answers, from the boot on.
#[test]
fn what_a_worker_hangs_upon_stops_nothing_else() {
    let mut world = World::new(1, 0);
    world.hangs.insert(1);
    let mut machine = Machine::new(world, false);
    let file = (Sort::File, false);
    machine.apply(&chain(&[file, file, file]), 1, Swap::Boot).unwrap();
    let wait = |machine: &mut Machine, ms| {
        let end = machine.now.after_ms(ms);
        history::until(machine, Some(end)).unwrap();
        machine.now = end;
    };
    let state = |machine: &Machine, slot| machine.engine.status(machine.node(slot).unwrap()).state;
    wait(&mut machine, 90_000);
    assert_eq!((state(&machine, 0), state(&machine, 2)), ("repaired", "repaired"));
    // Whatever the worker is at, a repair has to wait for seconds at most.
    for pause in [0, 3_000, 50_000, 300_000, 4_000_000] {
        wait(&mut machine, pause);
        machine.world.things.get_mut(&0).unwrap().drifted = true;
        machine.tell(Told::Touched(0)).unwrap();
        wait(&mut machine, 6_000);
        assert!(!machine.world.things[&0].drifted, "after {pause} ms");
    }
    assert_eq!(machine.world.deeds.get(&1).map_or(0, |d| d.written), 0);
    // The server is back.
    machine.world.hangs.clear();
    machine.tell(Told::Touched(1)).unwrap();
    wait(&mut machine, 3_600_000);
    assert_eq!(state(&machine, 1), "repaired");
}

#[test]
fn three_hundred_histories() {
    for seed in 1..=300 {
        let violation = Script::random(seed).play(false, None).violation;
        assert!(
            violation.is_none(),
            "seed {seed}: {violation:?}; see `cargo sim --seed {seed} --histories 1`"
        );
    }
}

#[test]
fn every_pair() {
    let seen = search(&Bounds {
        units: 2,
        sorts: vec![Sort::Plain, Sort::File],
        edges: vec![None, Some(EdgeKind::Requires)],
        acts: 1,
        limit: std::time::Duration::from_secs(600),
    });
    assert!(seen.violation.is_none(), "{:#?}", seen.violation);
    assert!(seen.complete && seen.states > 500, "{seen:?}");
}

/// Of a whole random history no more stays than what the failure needs.
#[test]
fn a_failing_history_is_shrunk_to_what_it_needs() {
    let wanted = |script: &Script| {
        let requires = |graph: &Graph| graph.edges.iter().any(|(_, _, kind)| *kind == EdgeKind::Requires);
        script.entries.iter().any(|e| matches!(&e.act, Act::Swap(graph, _) if requires(graph)))
    };
    let script = (1..).map(Script::random).find(wanted).unwrap();
    let small = smallest(&script, wanted);
    assert!(wanted(&small) && !wanted(&Script { entries: Vec::new(), ..script.clone() }));
    let [Entry { act: Act::Swap(graph, _), .. }] = &small.entries[..] else { panic!("{small}") };
    assert_eq!((graph.units.len(), graph.edges.len()), (2, 1), "{small}");
    assert_eq!((small.faults, small.plans.len()), (0, 0), "{small}");
    assert!(script.entries.len() > 1 && script.faults != 0, "{script}");
}

/// What the simulator itself holds and calls, not what these tests name: a stand-in would have another name, or
/// another answer to the probe.
#[test]
fn what_is_driven_is_what_ships() {
    let machine = Machine::new(World::new(1, 0), false);
    assert_eq!(type_name_of_val(&machine.engine), "cm_core::engine::Engine");
    assert_eq!(plans::DRIVEN(), "cm_core::plan::plan");
    let manifest = chain(&[(Sort::File, false)]).manifest();
    assert_eq!(type_name_of_val(&manifest), "units::manifest::Manifest");
    assert_eq!(
        journal::host::SHIPS.map(|name| name()),
        ["cm_core::worker::serve::serve", "cm_core::engine::Engine"]
    );

    let mut engine = Engine::new();
    let manifest = engine.install(chain(&[(Sort::File, false), (Sort::Plain, true)]).manifest());
    assert_eq!(manifest, ManifestRef(1));
    let mut out = Vec::new();
    engine.step(
        Mono(1),
        Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false },
        &mut out,
    );
    // The file comes first, in a batch; its dependent waits and says so.
    assert!(has(&out, |e| matches!(e, Effect::Batch { batch: 1, steps, .. } if steps.len() == 1)), "{out:?}");
    assert!(!has(&out, is_main));
    engine.step(Mono(2), Event::ShutdownAsked { down: Down::Halt }, &mut out);
    assert!(has(&out, |e| matches!(e, Effect::Answer { request: 1, verdict: Verdict::Failed, .. })));
}
