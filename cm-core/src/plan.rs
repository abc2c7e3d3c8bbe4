//! What an apply would do, unit by unit, and why. Pure: two manifests and what was observed go in, a list comes out.
//!
//! The rules are those that the engine follows: who is wanted and whose gate opens, the switch table for services, inputs
//! for `reload-on` and `restart-on`, who is taken along, and for the rest what a check found. What leaves comes first, in
//! the reverse order of the running generation; then what is declared, in the order of the desired one, steps that cannot
//! be taken back as late as that order allows.
//!
//! A plan assumes that everything works and that the machine is at rest. The simulator compares it with what is then done
//! (`plan-is-kept`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use units::diff::{self, Change};
use units::kind::Spec;
use units::{Kind, Manifest, UnitId};

mod course;
mod service;

use course::Courses;
pub use course::{GOES, WILL_BIND, WILL_REQUIRE};

/// What would happen to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It is not there yet.
    Create,
    /// It is there and differs.
    Change,
    /// It is no longer declared.
    Remove,
    /// It is not running.
    Start,
    /// It is running and shall not.
    Stop,
    /// It loads its configuration again.
    Reload,
    /// It is stopped and started.
    Restart,
    /// Nothing is done.
    Nothing,
}

impl Verb {
    /// Every verb, in the order of summaries.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Change,
        Verb::Remove,
        Verb::Start,
        Verb::Stop,
        Verb::Reload,
        Verb::Restart,
        Verb::Nothing,
    ];

    /// As it is sent and shown.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Change => "change",
            Verb::Remove => "remove",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Reload => "reload",
            Verb::Restart => "restart",
            Verb::Nothing => "nothing",
        }
    }
}

/// Why a mount that is no longer declared stays: PID 1 unmounts only what it has mounted.
pub const NOT_OURS: &str = "init has not mounted it";

/// What somebody who looked at a unit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Found {
    /// Nobody could look: what the manifests say decides alone.
    #[default]
    Unknown,
    /// It is as declared; a service runs; a command need not run.
    Right,
    /// It is not there.
    Missing,
    /// It is there and differs, in these respects.
    Wrong(Vec<String>),
    /// It cannot be looked at, or not be made right.
    Trouble(String),
    /// A service or mount is not up: its state, and why.
    NotUp(String),
    /// A command has to run, for this reason.
    Due(String),
    /// A unit that is no longer declared would be removed; in words, what is special about that.
    Leaves(String),
    /// A unit that is no longer declared would be left, and why.
    Left(String),
}

impl Found {
    /// A service as PID 1 knows it: its state and why; `None` when it does not know it.
    pub fn of_service(known: Option<(&str, &str)>) -> Found {
        match known {
            None => Found::NotUp("down".to_owned()),
            Some(("ready" | "starting" | "reloading", _)) => Found::Right,
            Some((state, "")) => Found::NotUp(state.to_owned()),
            // The cause of one that waits says that it does.
            Some((state, cause)) if cause.split(':').next() == Some(state) => Found::NotUp(cause.to_owned()),
            Some((state, cause)) => Found::NotUp(format!("{state}: {cause}")),
        }
    }
}

/// What is known about a unit as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// What a look at it found.
    pub found: Found,
    /// Who holds it by hand, and how; nothing is done to it then.
    pub held: Option<String>,
    /// Whether that hold keeps it down.
    pub stopped: bool,
    /// Whether it is up because somebody started it by hand.
    pub started: bool,
    /// Whether it has not loaded the configuration that it should have.
    pub stale: bool,
    /// Whether PID 1 counts it as ready; `None` when it did not say.
    pub ready: Option<bool>,
    /// Whether it is tried again although it has failed: what is current is applied once more.
    pub again: bool,
    /// Whether a hold on it is lifted with that: it is looked at anew.
    pub lifted: bool,
}

/// Which unit is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One of the desired manifest.
    Declared(UnitId),
    /// One of the running manifest that the desired one does not have.
    Leaving(UnitId),
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which unit.
    pub subject: Subject,
    /// What would happen.
    pub verb: Verb,
    /// Why.
    pub reason: String,
    /// Whether a return to the running generation does not take it back.
    pub one_way: bool,
}

/// How a declared unit compares with the running manifest.
enum Before {
    /// The running manifest does not have it.
    New,
    /// It does, with these keys different.
    Changed { old: UnitId, keys: Vec<&'static str>, spec: bool },
    /// It does, and nothing differs.
    Same(UnitId),
}

/// The plan from `running` to `desired`: every unit of both exactly once, those that nothing is done to as
/// [`Verb::Nothing`]. `observe` tells what was found.
pub fn plan(
    running: &Manifest,
    desired: &Manifest,
    observe: &dyn Fn(Subject) -> Observation,
) -> Vec<Planned> {
    let mut before: Vec<Before> = Vec::with_capacity(desired.len());
    let mut leaving = Vec::new();
    for change in diff::manifests(running, desired) {
        match change {
            Change::Added(_) => before.push(Before::New),
            Change::Removed(old) => leaving.push(old),
            Change::Changed { old, keys, spec, .. } => before.push(Before::Changed { old, keys, spec }),
            Change::Same { old, .. } => before.push(Before::Same(old)),
        }
    }
    let mut out = Vec::with_capacity(desired.len().saturating_add(leaving.len()));
    let mut leaves = vec![false; running.len()];
    for id in leaving {
        if let Some(slot) = leaves.get_mut(id.index()) {
            *slot = true;
        }
    }
    let mut order = order(running, |id| leaves.get(id.index()).copied().unwrap_or(false), |_| false);
    order.reverse();
    for id in order {
        out.push(leave(running, id, observe(Subject::Leaving(id))));
    }
    let last = |id| is_one_way(desired, id, before.get(id.index()));
    let order = self::order(desired, |_| true, last);
    let seen = desired.ids().map(|id| observe(Subject::Declared(id))).collect();
    let mut courses = Courses::new(running, desired, &before, seen, &order);
    // What a unit depended on before may stand behind it now, and is known only then.
    for id in &order {
        courses.of(*id);
    }
    for id in order {
        let (verb, reason) = courses.of(id);
        let one_way = verb != Verb::Nothing && last(id);
        out.push(Planned { subject: Subject::Declared(id), verb, reason, one_way });
    }
    out
}

/// Units in an order in which each comes after what it depends on; of those that are free, the ones that are `last`
/// come last, and then address order decides.
fn order(m: &Manifest, among: impl Fn(UnitId) -> bool, last: impl Fn(UnitId) -> bool) -> Vec<UnitId> {
    let mut waits: Vec<u32> = vec![0; m.len()];
    for id in m.ids().filter(|id| among(*id)) {
        let count = m.deps(id).filter(|e| among(e.unit)).count();
        if let Some(slot) = waits.get_mut(id.index()) {
            *slot = u32::try_from(count).unwrap_or(u32::MAX);
        }
    }
    let free = |id: UnitId| waits.get(id.index()) == Some(&0);
    let mut ready: BinaryHeap<Reverse<(bool, UnitId)>> =
        m.ids().filter(|id| among(*id) && free(*id)).map(|id| Reverse((last(id), id))).collect();
    let mut out = Vec::new();
    while let Some(Reverse((_, id))) = ready.pop() {
        out.push(id);
        for edge in m.rdeps(id).filter(|e| among(e.unit)) {
            let Some(slot) = waits.get_mut(edge.unit.index()) else { continue };
            *slot = slot.saturating_sub(1);
            if *slot == 0 {
                ready.push(Reverse((last(edge.unit), edge.unit)));
            }
        }
    }
    // A manifest has no cycles; if damaged bytes had one, no unit may be missing from the plan for it.
    let stuck = |id: &UnitId| among(*id) && waits.get(id.index()).is_some_and(|n| *n > 0);
    out.extend(m.ids().filter(stuck));
    out
}

/// Whether a step of this unit cannot be taken back by a return.
fn is_one_way(desired: &Manifest, id: UnitId, before: Option<&Before>) -> bool {
    match desired.kind(id) {
        Kind::Exec => matches!(desired.spec(id), Some(Spec::Exec(e)) if e.undo.is_none()),
        Kind::Module => matches!(before, Some(Before::New)),
        _ => false,
    }
}

fn leave(running: &Manifest, id: UnitId, seen: Observation) -> Planned {
    let gone = "no longer declared";
    let with = |more: &str| if more.is_empty() { gone.to_owned() } else { format!("{gone}; {more}") };
    let (verb, reason) = match (running.kind(id), seen.found) {
        (_, Found::Leaves(_) | Found::Unknown) if seen.held.is_some() => {
            let by = seen.held.unwrap_or_default();
            (Verb::Nothing, format!("{gone}; left: held {by}"))
        }
        (Kind::Service, Found::NotUp(state)) => (Verb::Nothing, with(&format!("it is not running: {state}"))),
        (Kind::Service, _) => (Verb::Stop, with("")),
        (Kind::Mount, Found::NotUp(_) | Found::Missing) => (Verb::Nothing, with("it is not mounted")),
        (Kind::Mount, Found::Left(why)) => (Verb::Nothing, format!("{gone}; left: {why}")),
        (Kind::Mount, _) => (Verb::Remove, with("it is unmounted")),
        (Kind::Exec, _) => (Verb::Nothing, with("nothing is undone, what it did stays")),
        (Kind::Module, _) => (Verb::Nothing, with("a loaded module stays")),
        (Kind::Target, _) => (Verb::Nothing, with("")),
        (_, Found::Missing) => (Verb::Nothing, with("it is gone already")),
        (_, Found::Left(why)) => (Verb::Nothing, format!("{gone}; left: {why}")),
        (_, Found::Leaves(more)) => (Verb::Remove, with(&more)),
        (_, Found::Trouble(why)) => (Verb::Nothing, with(&why)),
        (_, _) => (Verb::Remove, with("")),
    };
    Planned { subject: Subject::Leaving(id), verb, reason, one_way: false }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
