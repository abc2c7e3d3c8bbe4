//! What an apply would do, unit by unit, and why. Pure: two manifests and what was observed go in, a list comes out.
//!
//! The rules are those that the engine follows: the switch table for services, inputs for `reload-on` and
//! `restart-on`, and for the rest what a check found. What leaves comes first, in the reverse order of the running
//! generation; then what is declared, in the order of the desired one, steps that cannot be taken back as late as
//! that order allows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use units::diff::{self, Change, Switch};
use units::kind::Spec;
use units::kind::service::{Ready, Reload, Service, Start};
use units::manifest::flags;
use units::{EdgeKind, Kind, Manifest, UnitId};

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

/// What is known about a unit as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// What a look at it found.
    pub found: Found,
    /// Who holds it by hand, and how; nothing is done to it then.
    pub held: Option<String>,
    /// Whether it has not loaded the configuration that it should have.
    pub stale: bool,
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

/// What the units behind a unit need to know about it.
#[derive(Clone, Copy, Default)]
struct Effect {
    /// It goes down in between, and takes whoever requires it along.
    going: bool,
    /// It loses its readiness in between: who is bound to it follows.
    lost: bool,
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
    let mut effects = vec![Effect::default(); desired.len()];
    for id in self::order(desired, |_| true, last) {
        let Some(change) = before.get(id.index()) else { continue };
        let seen = observe(Subject::Declared(id));
        let up = !matches!(seen.found, Found::NotUp(_) | Found::Missing);
        let step = Step { running, desired, id, change, effects: &effects };
        let planned = step.plan(seen);
        let effect = Effect {
            going: up && (step.bounced(&planned) || step.requires_going()),
            lost: up && matches!(planned.verb, Verb::Restart | Verb::Stop),
        };
        if let Some(slot) = effects.get_mut(id.index()) {
            *slot = effect;
        }
        out.push(planned);
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
        (Kind::Service, Found::NotUp(state)) => (Verb::Nothing, with(&format!("it is not running: {state}"))),
        (Kind::Service, _) => (Verb::Stop, with("")),
        (Kind::Mount, Found::NotUp(_) | Found::Missing) => (Verb::Nothing, with("it is not mounted")),
        (Kind::Mount, _) => (Verb::Remove, with("it is unmounted")),
        (Kind::Exec, _) => (Verb::Nothing, with("what it did stays")),
        (Kind::Module, _) => (Verb::Nothing, with("a loaded module stays")),
        (Kind::Target, _) => (Verb::Nothing, with("")),
        (_, Found::Missing) => (Verb::Nothing, with("it is gone already")),
        (_, Found::Left(why)) => (Verb::Nothing, format!("{gone}; left: {why}")),
        (_, Found::Leaves(more)) => (Verb::Remove, with(&more)),
        (_, Found::Trouble(why)) => (Verb::Remove, with(&why)),
        (_, _) => (Verb::Remove, with("")),
    };
    Planned { subject: Subject::Leaving(id), verb, reason, one_way: false }
}

/// One declared unit on its way into the plan.
struct Step<'a> {
    running: &'a Manifest,
    desired: &'a Manifest,
    id: UnitId,
    change: &'a Before,
    effects: &'a [Effect],
}

impl Step<'_> {
    fn plan(&self, seen: Observation) -> Planned {
        let kind = self.desired.kind(self.id);
        let (verb, reason) = match (seen.held, kind) {
            (Some(by), _) => (Verb::Nothing, format!("held {by}: left alone")),
            (None, Kind::Service) => self.service(&seen.found, seen.stale),
            (None, Kind::Mount) => self.mount(&seen.found),
            (None, Kind::Exec) => self.exec(&seen.found),
            (None, Kind::Target) => (Verb::Nothing, self.declaration()),
            (
                None,
                Kind::File
                | Kind::Directory
                | Kind::Symlink
                | Kind::Line
                | Kind::Sysctl
                | Kind::Module
                | Kind::Hostname
                | Kind::User
                | Kind::Group,
            ) => self.thing(seen.found),
        };
        let one_way = verb != Verb::Nothing && is_one_way(self.desired, self.id, Some(self.change));
        Planned { subject: Subject::Declared(self.id), verb, reason, one_way }
    }

    /// What became different in its declaration; empty for nothing.
    fn declaration(&self) -> String {
        match self.change {
            Before::New => "newly declared".to_owned(),
            Before::Changed { keys, .. } if keys.is_empty() => "its declaration changed".to_owned(),
            Before::Changed { keys, .. } => format!("its declaration changed: {}", keys.join(", ")),
            Before::Same(_) => String::new(),
        }
    }

    fn thing(&self, found: Found) -> (Verb, String) {
        let declared = self.declaration();
        let so_already =
            || if declared.is_empty() { String::new() } else { format!("{declared}; it is so already") };
        match found {
            Found::Right | Found::NotUp(_) | Found::Due(_) | Found::Leaves(_) | Found::Left(_) => {
                (Verb::Nothing, so_already())
            }
            Found::Missing | Found::Wrong(_) if self.only_reported() => {
                (Verb::Nothing, "drifted, and left so: its drift is only reported".to_owned())
            }
            Found::Missing => (Verb::Create, self.drifted("it is not there")),
            Found::Wrong(what) => (Verb::Change, self.drifted(&what.join(", "))),
            Found::Trouble(why) => match self.change {
                Before::Same(_) => (Verb::Nothing, why),
                Before::New => (Verb::Create, why),
                Before::Changed { .. } => (Verb::Change, why),
            },
            Found::Unknown => match self.change {
                Before::New => (Verb::Create, declared),
                Before::Changed { spec: true, .. } => (Verb::Change, declared),
                Before::Changed { spec: false, .. } | Before::Same(_) => (Verb::Nothing, declared),
            },
        }
    }

    /// Whether differences of a unit whose declaration did not change are left.
    fn only_reported(&self) -> bool {
        matches!(self.change, Before::Same(_)) && self.desired.flags(self.id) & flags::REPORT != 0
    }

    /// What differs although nobody changed the declaration is repaired with or without an apply.
    fn drifted(&self, what: &str) -> String {
        match self.change {
            Before::Same(_) => format!("drifted: {what}"),
            Before::New | Before::Changed { .. } => what.to_owned(),
        }
    }

    fn exec(&self, found: &Found) -> (Verb, String) {
        let declared = self.declaration();
        match (found, self.change) {
            (Found::Due(why), Before::New | Before::Changed { .. }) => {
                (Verb::Start, format!("{declared}; {why}"))
            }
            (Found::Due(why), Before::Same(old)) => match self.changed_inputs(*old, EdgeKind::RestartOn) {
                Some(inputs) => (Verb::Start, inputs),
                None => match self.changed_inputs(*old, EdgeKind::ReloadOn) {
                    Some(inputs) => (Verb::Start, inputs),
                    None => (Verb::Nothing, why.clone()),
                },
            },
            (Found::Trouble(why), _) => (Verb::Nothing, why.clone()),
            (Found::Unknown, Before::New | Before::Changed { spec: true, .. }) => (Verb::Start, declared),
            _ => (Verb::Nothing, declared),
        }
    }

    fn mount(&self, found: &Found) -> (Verb, String) {
        let declared = self.declaration();
        let down = matches!(found, Found::NotUp(_) | Found::Missing);
        match (self.change, found) {
            (Before::New, Found::Right) => (Verb::Nothing, format!("{declared}; it is mounted already")),
            (Before::New, Found::Wrong(what)) => (Verb::Change, what.join(", ")),
            (Before::New, _) => (Verb::Create, "it is not mounted".to_owned()),
            (Before::Changed { .. } | Before::Same(_), _) if down => {
                (Verb::Create, self.drifted("it is not mounted"))
            }
            (Before::Changed { spec: true, .. }, _) => {
                (Verb::Restart, format!("{declared}; it is unmounted and mounted again"))
            }
            (Before::Changed { spec: false, .. }, _) => (Verb::Nothing, declared),
            (Before::Same(_), Found::Trouble(why)) => (Verb::Nothing, why.clone()),
            (Before::Same(_), Found::Wrong(what)) => (Verb::Nothing, format!("drifted: {}", what.join(", "))),
            (Before::Same(_), _) => (Verb::Nothing, String::new()),
        }
    }

    fn service(&self, found: &Found, stale: bool) -> (Verb, String) {
        let Some(new) = self.desired.service(self.id) else {
            return (Verb::Nothing, "its declaration cannot be read".to_owned());
        };
        let declared = self.declaration();
        let not_up = match found {
            Found::NotUp(state) => Some(state.as_str()),
            _ => None,
        };
        let (old, keys) = match self.change {
            Before::New => {
                return match (new.start, not_up) {
                    (_, None) if *found == Found::Right => {
                        (Verb::Nothing, format!("{declared}; it runs already"))
                    }
                    (Start::Boot, _) => (Verb::Start, declared),
                    (Start::OnDemand, _) => {
                        (Verb::Nothing, format!("{declared}; it starts when somebody needs it"))
                    }
                    (Start::Manual, _) => (Verb::Nothing, format!("{declared}; it starts by hand only")),
                };
            }
            Before::Changed { old, keys, .. } => (*old, keys.clone()),
            Before::Same(old) => (*old, Vec::new()),
        };
        let decision = self.running.service(old).map(|before| diff::switch(&before, &new));
        let restarts = self.changed_inputs(old, EdgeKind::RestartOn);
        if let Some(state) = not_up {
            return not_running(
                &new,
                state,
                &declared,
                decision.is_some_and(|d| !d.keys.is_empty()),
                restarts,
            );
        }
        if let Some(why) = self.taken_along() {
            return (Verb::Restart, why);
        }
        let changed = |d: &diff::Decision| format!("{} changed", d.keys.join(", "));
        match decision {
            // The old specification cannot be read any more: it differs somehow.
            None => return (Verb::Restart, declared),
            Some(d) => match d.switch {
                Switch::Restart | Switch::StopStart => return (Verb::Restart, changed(&d)),
                Switch::Reload if restarts.is_none() => return (Verb::Reload, changed(&d)),
                Switch::Keep if restarts.is_none() => {
                    let text = format!(
                        "{} changed; the old process stays until it is restarted by hand",
                        d.keys.join(", ")
                    );
                    return (Verb::Nothing, text);
                }
                Switch::Reload | Switch::Keep | Switch::Nothing => {}
            },
        }
        if let Some(why) = restarts {
            return (Verb::Restart, why);
        }
        let reloads = self.changed_inputs(old, EdgeKind::ReloadOn);
        let reloads = reloads.or_else(|| stale.then(|| "it has not loaded its configuration yet".to_owned()));
        match (reloads, &new.reload) {
            (Some(why), Some(Reload::Signal(_) | Reload::Command(_))) => (Verb::Reload, why),
            (Some(why), None) => (Verb::Restart, format!("{why}, and it has no way to reload")),
            (None, _) if keys.is_empty() => (Verb::Nothing, String::new()),
            (None, _) => (Verb::Nothing, format!("{declared}; the running process need not notice")),
        }
    }

    /// Inputs of this kind that differ from those of the running generation, in words; `None` when none does.
    fn changed_inputs(&self, old: UnitId, kind: EdgeKind) -> Option<String> {
        let of = |m: &Manifest, id: UnitId| -> Vec<(String, [u8; 16])> {
            let mut all: Vec<_> = m
                .deps(id)
                .filter(|e| e.kind == kind)
                .map(|e| (m.address(e.unit).to_string(), m.unit_digest(e.unit)))
                .collect();
            all.sort_unstable();
            all
        };
        let (before, after) = (of(self.running, old), of(self.desired, self.id));
        if before == after {
            return None;
        }
        let named = |list: &[(String, [u8; 16])], than: &[(String, [u8; 16])]| -> Vec<String> {
            list.iter().filter(|i| than.binary_search(i).is_err()).map(|(name, _)| name.clone()).collect()
        };
        let mut names = named(&after, &before);
        if names.is_empty() {
            names = named(&before, &after);
        }
        let more = names.len().saturating_sub(3);
        names.truncate(3);
        let mut text = names.join(", ");
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        Some(format!("{text} changed"))
    }

    /// What it requires and goes down in between, or is bound to and loses.
    fn taken_along(&self) -> Option<String> {
        self.desired.deps(self.id).find_map(|edge| {
            let effect = self.effects.get(edge.unit.index())?;
            let hard = matches!(edge.kind, EdgeKind::Requires | EdgeKind::Binds);
            let name = self.desired.address(edge.unit);
            if hard && effect.going {
                return Some(format!("it requires {name}, which goes down in between"));
            }
            (edge.kind == EdgeKind::Binds && effect.lost)
                .then(|| format!("it is bound to {name}, which restarts"))
        })
    }

    fn requires_going(&self) -> bool {
        self.desired.deps(self.id).any(|edge| {
            matches!(edge.kind, EdgeKind::Requires | EdgeKind::Binds)
                && self.effects.get(edge.unit.index()).is_some_and(|e| e.going)
        })
    }

    /// Whether it is a mount that has to be mounted anew.
    fn bounced(&self, planned: &Planned) -> bool {
        self.desired.kind(self.id) == Kind::Mount && planned.verb == Verb::Restart
    }
}

/// A service of both generations that is not running.
fn not_running(
    new: &Service,
    state: &str,
    declared: &str,
    differs: bool,
    restarts: Option<String>,
) -> (Verb, String) {
    let done = state.starts_with("done") || state.starts_with("failed");
    let waits = !state.starts_with("down");
    if let (Ready::Exited, Some(why)) = (&new.ready, restarts)
        && state.starts_with("done")
    {
        return (Verb::Start, why);
    }
    match (differs, new.start) {
        (true, _) if done => (Verb::Start, format!("{declared}; it was {state}")),
        (true, Start::Boot) if waits => (Verb::Start, format!("{declared}; it was {state}")),
        (true, _) => (Verb::Nothing, format!("{declared}; it is {state}")),
        (false, _) => (Verb::Nothing, format!("it is {state}")),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
