//! The same failure with less in it: fewer acts, fewer faults, fewer units and edges, plainer services.

use std::collections::BTreeSet;

use units::kind::Spec;

use super::checks::Invariant;
use super::graph::{Graph, service};
use super::history::{Act, Script};
use super::world::fault;

/// A script that breaks the same invariant and from which nothing can be taken any more, within so many plays.
pub fn shrink(script: &Script, invariant: Invariant, mut plays: u32) -> Script {
    smallest(script, |candidate| {
        plays = plays.saturating_sub(1);
        plays > 0 && candidate.play(false, None).violation.is_some_and(|v| v.invariant == invariant)
    })
}

/// A script that still fails and from which nothing can be taken any more.
pub(super) fn smallest(script: &Script, mut fails: impl FnMut(&Script) -> bool) -> Script {
    let mut best = script.clone();
    loop {
        let before = size(&best);
        entries(&mut best, &mut fails);
        plans(&mut best, &mut fails);
        faults(&mut best, &mut fails);
        units(&mut best, &mut fails);
        edges(&mut best, &mut fails);
        plain(&mut best, &mut fails);
        if size(&best) == before {
            return best;
        }
    }
}

fn graphs(script: &mut Script) -> impl Iterator<Item = &mut Graph> {
    let swapped = script.entries.iter_mut().filter_map(|e| match &mut e.act {
        Act::Swap(graph, _) | Act::Release(graph, _) => Some(graph),
        _ => None,
    });
    swapped.chain(&mut script.plans)
}

/// Everything that can shrink, counted.
fn size(script: &Script) -> usize {
    let mut script = script.clone();
    let (acts, plans) = (script.entries.len(), script.plans.len());
    let faults = script.faults.count_ones() as usize;
    acts + plans
        + faults
        + graphs(&mut script).map(|g| g.units.len() + g.edges.len() + described(g)).sum::<usize>()
}

fn described(graph: &Graph) -> usize {
    graph.describe().len()
}

/// Takes the candidate if it still fails.
fn attempt(
    best: &mut Script,
    fails: &mut impl FnMut(&Script) -> bool,
    change: impl FnOnce(&mut Script),
) -> bool {
    let mut candidate = best.clone();
    change(&mut candidate);
    let better = fails(&candidate);
    if better {
        *best = candidate;
    }
    better
}

/// Delta debugging: halves, quarters … single acts.
fn entries(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    let mut part = best.entries.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.entries.len() {
            let end = (at + part).min(best.entries.len());
            let taken = attempt(best, fails, |s| {
                s.entries.drain(at..end);
            });
            if !taken {
                at = end;
            }
        }
        if part == 1 {
            return;
        }
        part = part.div_ceil(2).min(part - 1);
    }
}

fn plans(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    for at in (0..best.plans.len()).rev() {
        attempt(best, fails, |s| drop(s.plans.remove(at)));
    }
}

fn faults(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    for (bit, _) in fault::NAMES {
        if best.faults & bit != 0 {
            attempt(best, fails, |s| s.faults &= !bit);
        }
    }
}

fn units(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    let slots: BTreeSet<u8> =
        graphs(best).flat_map(|g| g.units.keys().copied().collect::<Vec<_>>()).collect();
    for slot in slots {
        let everywhere = attempt(best, fails, |s| {
            for graph in graphs(s) {
                graph.units.remove(&slot);
                graph.tidy();
            }
        });
        if everywhere {
            continue;
        }
        for number in 0..graphs(best).count() {
            if graphs(best).nth(number).is_some_and(|g| g.units.contains_key(&slot)) {
                attempt(best, fails, |s| {
                    if let Some(graph) = graphs(s).nth(number) {
                        graph.units.remove(&slot);
                        graph.tidy();
                    }
                });
            }
        }
    }
}

fn edges(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    let all: BTreeSet<_> = graphs(best).flat_map(|g| g.edges.iter().copied().collect::<Vec<_>>()).collect();
    for edge in all {
        attempt(best, fails, |s| {
            for graph in graphs(s) {
                graph.edges.remove(&edge);
                graph.tidy();
            }
        });
    }
}

/// Services as plain as they can be.
fn plain(best: &mut Script, fails: &mut impl FnMut(&Script) -> bool) {
    let slots: BTreeSet<u8> =
        graphs(best).flat_map(|g| g.units.keys().copied().collect::<Vec<_>>()).collect();
    let simpler: [fn(&mut units::manifest::NewUnit); 9] = [
        |u| {
            if let Spec::Service(s) = &mut u.spec {
                let claim = s.tty.take();
                **s = service(0);
                s.tty = claim;
                u.flags = 0;
            }
        },
        |u| with(u, |s| s.watchdog = 0),
        |u| with(u, |s| s.reload = None),
        |u| with(u, |s| s.stop = None),
        |u| with(u, |s| s.start_timeout = service(0).start_timeout),
        |u| with(u, |s| s.stop_timeout = service(0).stop_timeout),
        |u| with(u, |s| s.restart_limit = service(0).restart_limit),
        |u| with(u, |s| s.switch = service(0).switch),
        |u| super::graph::claim(u, None),
    ];
    for slot in slots {
        for simpler in simpler {
            let differs = graphs(best).any(|g| {
                g.units.get(&slot).is_some_and(|u| {
                    let mut other = u.clone();
                    simpler(&mut other);
                    other.spec != u.spec || other.claim != u.claim || other.flags != u.flags
                })
            });
            if differs {
                attempt(best, fails, |s| {
                    for graph in graphs(s) {
                        if let Some(unit) = graph.units.get_mut(&slot) {
                            simpler(unit);
                        }
                    }
                });
            }
        }
    }
}

fn with(unit: &mut units::manifest::NewUnit, change: impl FnOnce(&mut units::kind::service::Service)) {
    if let Spec::Service(s) = &mut unit.spec {
        change(s);
    }
}
