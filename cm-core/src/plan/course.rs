//! What becomes of every declared unit while an apply runs: the conditions of the engine, followed once along the order
//! in which it will look at them. Services are in [`super::service`].

use units::diff;
use units::kind::Spec;
use units::manifest::flags;
use units::{Address, EdgeKind, Kind, Manifest, UnitId};

use super::{Before, Found, Observation, Verb};

/// How the reason of a restart begins of which only the course of the apply decides whether it is needed.
pub const WILL_BIND: &str = "it will be bound to ";

/// How the reason begins of which that is true too: it follows what it will depend on, and may meet that on its way down.
pub const WILL_REQUIRE: &str = "it will require ";

/// How the reason ends of which that is true too.
pub const GOES: &str = ", which goes";

const fn hard(kind: EdgeKind) -> bool {
    matches!(kind, EdgeKind::Requires | EdgeKind::Binds)
}

const fn soft(kind: EdgeKind) -> bool {
    matches!(kind, EdgeKind::Wants | EdgeKind::After)
}

/// What the units behind a unit need to know about it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Course {
    /// It has to go, and whoever holds on to it before it; it may come back.
    pub going: bool,
    /// It keeps to the edges of the running manifest until it is down.
    pub behind: bool,
    /// It was ready, and is all the time.
    pub stays_ready: bool,
    /// In the end it is ready, and owes nothing.
    pub ok: bool,
    /// In the end it is still as it was, claims included.
    pub keeps: bool,
}

/// The units of an apply, each after what it depends on.
pub(super) struct Courses<'a> {
    pub running: &'a Manifest,
    pub desired: &'a Manifest,
    before: &'a [Before],
    seen: Vec<Observation>,
    wanted: Vec<bool>,
    courses: Vec<Course>,
}

/// One of them, with all that is known about it.
pub(super) struct Unit<'a> {
    pub id: UnitId,
    pub change: &'a Before,
    pub seen: &'a Observation,
    pub wanted: bool,
    /// What became different in its declaration, in words; empty for nothing.
    pub declared: String,
    /// Whether its specification differs from that of the running manifest.
    pub differs: bool,
    /// What keeps it from coming up, in words.
    pub blocker: Option<String>,
}

impl<'a> Courses<'a> {
    /// `order` has each unit after what it depends on.
    pub fn new(
        running: &'a Manifest,
        desired: &'a Manifest,
        before: &'a [Before],
        seen: Vec<Observation>,
        order: &[UnitId],
    ) -> Courses<'a> {
        let quiet = Course { stays_ready: true, ok: true, ..Course::default() };
        let (wanted, courses) = (vec![true; desired.len()], vec![quiet; desired.len()]);
        let mut out = Courses { running, desired, before, seen, wanted, courses };
        for id in order.iter().rev() {
            let wanted = out.is_wanted(*id);
            if let Some(slot) = out.wanted.get_mut(id.index()) {
                *slot = wanted;
            }
        }
        out
    }

    /// Whether it shall be up: as the engine's `wanted`, for the desired manifest.
    fn is_wanted(&self, id: UnitId) -> bool {
        let flag = self.desired.flags(id);
        let (stopped, started) = self.seen.get(id.index()).map_or((false, false), |s| (s.stopped, s.started));
        let needed = || {
            let mut users = self.desired.rdeps(id).filter(|e| hard(e.kind));
            users.any(|e| self.wanted.get(e.unit.index()).copied().unwrap_or_default())
        };
        !stopped && (started || !(flag & flags::MANUAL != 0 || (flag & flags::ON_DEMAND != 0 && !needed())))
    }

    /// What is done to a unit, and why. Everything that it depends on was asked about before.
    pub fn of(&mut self, id: UnitId) -> (Verb, String) {
        let (Some(change), Some(seen)) = (self.before.get(id.index()), self.seen.get(id.index()).cloned())
        else {
            return (Verb::Nothing, String::new());
        };
        let differs = match change {
            Before::New => true,
            Before::Changed { old, .. } | Before::Same(old) => {
                !diff::is_same((self.running, *old), (self.desired, id))
            }
        };
        let unit = Unit {
            id,
            change,
            seen: &seen,
            wanted: self.wanted.get(id.index()).copied().unwrap_or(true),
            declared: declaration(change),
            differs,
            blocker: self.blocker(id),
        };
        let (course, verb, reason) = match self.desired.kind(id) {
            Kind::Service => self.service(&unit),
            Kind::Mount => self.mount(&unit),
            Kind::Target => self.target(&unit),
            Kind::Exec
            | Kind::File
            | Kind::Directory
            | Kind::Symlink
            | Kind::Line
            | Kind::Sysctl
            | Kind::Module
            | Kind::Hostname
            | Kind::User
            | Kind::Group => self.latched(&unit),
        };
        if let Some(slot) = self.courses.get_mut(id.index()) {
            *slot = course;
        }
        match seen.held {
            Some(by) if verb == Verb::Nothing => (verb, format!("held {by}: left alone")),
            _ => (verb, reason),
        }
    }

    fn course(&self, id: UnitId) -> Course {
        self.courses.get(id.index()).copied().unwrap_or_default()
    }

    /// What keeps its gate closed in the end.
    fn blocker(&self, id: UnitId) -> Option<String> {
        let mut deps = self.desired.deps(id).filter(|e| hard(e.kind));
        let closed = deps.find(|e| !self.course(e.unit).ok).map(|e| e.unit);
        let blocker = closed.or_else(|| self.keeps_claim(id));
        blocker.map(|id| format!("waits for {}", self.desired.address(id)))
    }

    /// Who does not give up what a unit takes.
    fn keeps_claim(&self, id: UnitId) -> Option<UnitId> {
        let claim = self.desired.claim(id);
        let had = |id| {
            let before = self.running.find(self.desired.kind(id), self.desired.name(id));
            before.is_some_and(|old| self.running.claim(old) == claim)
        };
        if claim == 0 || had(id) {
            return None;
        }
        self.desired
            .ids()
            .find(|o| *o != id && self.course(*o).keeps && self.desired.claim(*o) != claim && had(*o))
    }

    /// The edges that a unit that is up holds on to while it may be asked to stop, as addresses.
    fn held_edges(&self, unit: &Unit<'_>, behind: bool) -> Vec<(Address, EdgeKind)> {
        let of = |m: &Manifest, id| m.deps(id).map(|e| (m.address(e.unit), e.kind)).collect::<Vec<_>>();
        match unit.change {
            Before::Changed { old, .. } | Before::Same(old) if behind => of(self.running, *old),
            _ => of(self.desired, unit.id),
        }
    }

    /// Whether it keeps to its old edges: it is to be bounced, or something that it will depend on is behind.
    pub fn is_behind(&self, unit: &Unit<'_>, up: bool, bounces: bool) -> bool {
        let mut deps = self.desired.deps(unit.id).filter(|e| hard(e.kind) || soft(e.kind));
        up && (bounces || deps.any(|e| self.course(e.unit).behind))
    }

    /// What it requires and goes while it is up itself, in words.
    pub fn taken_along(&self, unit: &Unit<'_>, behind: bool, bounces: bool) -> Option<String> {
        let edges = self.held_edges(unit, behind);
        let held = edges.iter().filter(|(_, kind)| hard(*kind)).find_map(|(address, _)| {
            let id = self.desired.find(address.kind, &address.name);
            match id {
                None => Some(format!("it requires {address}{GOES}")),
                // Unless it follows before: who is faster decides.
                Some(id) if self.course(id).going && !self.needs(unit.id, id) => {
                    Some(format!("it requires {address}{GOES}"))
                }
                Some(id) if self.course(id).going => {
                    let back = if self.course(id).ok { " in between" } else { "" };
                    Some(format!("it requires {address}, which goes down{back}"))
                }
                Some(_) => None,
            }
        });
        held.or_else(|| {
            // It follows once what it waits for is down.
            let mut later = self.desired.deps(unit.id).filter(|e| behind && !bounces && hard(e.kind));
            let goes = later.find(|e| self.course(e.unit).going)?;
            Some(format!("{WILL_REQUIRE}{}, which goes", self.desired.address(goes.unit)))
        })
    }

    fn needs(&self, id: UnitId, other: UnitId) -> bool {
        self.desired.deps(id).any(|e| hard(e.kind) && e.unit == other)
    }

    /// What it is bound to and is not ready all the time, in words.
    pub fn bound_lost(&self, unit: &Unit<'_>, behind: bool, bounces: bool) -> Option<String> {
        let edges = self.held_edges(unit, behind);
        let lost = |(address, kind): &(Address, EdgeKind)| {
            let id = self.desired.find(address.kind, &address.name)?;
            (*kind == EdgeKind::Binds && !self.course(id).stays_ready).then(|| address.clone())
        };
        if let Some(address) = edges.iter().find_map(lost) {
            return Some(format!("it is bound to {address}, which restarts"));
        }
        // It follows once what it waits for is down.
        let later = if behind && !bounces { self.held_edges(unit, false) } else { Vec::new() };
        later
            .iter()
            .find_map(lost)
            .map(|address| format!("{WILL_BIND}{address}, which may not be up by then"))
    }

    fn mount(&self, unit: &Unit<'_>) -> (Course, Verb, String) {
        let found = &unit.seen.found;
        let is_new = matches!(unit.change, Before::New);
        let up = match found {
            Found::Unknown => !is_new,
            Found::NotUp(_) | Found::Missing => false,
            _ => true,
        };
        // What PID 1 has not mounted itself, it does not unmount either.
        let known = unit.seen.ready.unwrap_or(up && !is_new);
        let bounces = known && unit.differs && unit.wanted;
        let behind = self.is_behind(unit, known, bounces);
        let along = if known { self.taken_along(unit, behind, bounces) } else { None };
        let going = !unit.wanted || bounces || along.is_some();
        // One that a hand has stopped and that could not go stands again as it did.
        let failed = matches!(found, Found::Trouble(_)) && !unit.seen.lifted;
        let comes = unit.wanted && unit.blocker.is_none() && unit.seen.held.is_none() && !failed;
        let ok = if known && !going { true } else { comes };
        let course = Course { going, behind, stays_ready: known && !going, ok, keeps: false };
        let declared = &unit.declared;
        let (verb, reason) = match (found, known && going) {
            (_, true) if bounces && comes => {
                (Verb::Restart, format!("{declared}; it is unmounted and mounted again"))
            }
            (_, true) => match (along, comes) {
                (Some(why), true) => (Verb::Restart, why),
                (Some(why), false) => (Verb::Stop, why),
                (None, _) => (Verb::Stop, unit.why_not(declared)),
            },
            (Found::Right, false) if is_new || (!known && comes) => {
                (Verb::Nothing, unit.and("it is mounted already"))
            }
            (Found::Wrong(what), false) if is_new => (Verb::Change, what.join(", ")),
            (Found::Trouble(why), false) => (Verb::Nothing, why.clone()),
            (Found::Wrong(what), false) => (Verb::Nothing, format!("drifted: {}", what.join(", "))),
            _ if up => (Verb::Nothing, declared.clone()),
            _ if !comes => (Verb::Nothing, unit.why_not(declared)),
            _ => (Verb::Create, unit.drifted("it is not mounted")),
        };
        (course, verb, reason)
    }

    fn target(&self, unit: &Unit<'_>) -> (Course, Verb, String) {
        let ready = unit.seen.ready.unwrap_or(!matches!(unit.change, Before::New));
        let behind = self.is_behind(unit, ready, false);
        let along = self.taken_along(unit, behind, false).filter(|_| ready);
        let going = !unit.wanted || along.is_some();
        let mut members = self.desired.deps(unit.id).filter(|e| hard(e.kind));
        // It follows its members at once.
        let stays_ready = unit.wanted && members.all(|e| self.course(e.unit).stays_ready);
        let ok = unit.wanted && unit.blocker.is_none();
        let course = Course { going, behind, stays_ready, ok, keeps: false };
        let reason = along.filter(|why| why.starts_with(WILL_REQUIRE));
        (course, Verb::Nothing, reason.unwrap_or_else(|| unit.declared.clone()))
    }

    /// Whatever is ready once it is kept.
    fn latched(&self, unit: &Unit<'_>) -> (Course, Verb, String) {
        let kind = self.desired.kind(unit.id);
        let is_new = matches!(unit.change, Before::New);
        let as_found = match unit.seen.found {
            Found::Unknown | Found::Due(_) => !unit.differs,
            Found::Right => !is_new,
            _ => false,
        };
        let ready = unit.seen.ready.unwrap_or(as_found);
        // What a hand has stopped has given its place in the order of stops back.
        let up = ready && !unit.seen.stopped;
        let behind = self.is_behind(unit, up, false);
        let mut deps = self.desired.deps(unit.id).filter(|e| hard(e.kind));
        let lost = ready && deps.any(|e| !self.course(e.unit).stays_ready);
        let along = self.taken_along(unit, behind, false).filter(|_| up);
        let bounced = along.is_some();
        let inputs = if kind == Kind::Exec { self.inputs_changed(unit) } else { None };
        let anew = kind == Kind::Exec && unit.seen.lifted;
        let redo = unit.differs || inputs.is_some() || !ready || lost || bounced || anew;
        let held = unit.seen.held.is_some();
        let looked_at = !held || !matches!(kind, Kind::Exec | Kind::Module);
        let stays_ready = ready && !unit.differs && !lost && !bounced;
        let will_be = match (held, redo) {
            (false, true) => unit.blocker.is_none(),
            (false, false) => ready,
            // What is held is only looked at.
            (true, _) => {
                let as_good = unit.seen.found == Found::Right
                    || self.desired.flags(unit.id) & (flags::REPORT | flags::SEED) != 0;
                stays_ready || (looked_at && as_good && unit.blocker.is_none())
            }
        };
        let ok = unit.wanted && will_be;
        let going = !unit.wanted || bounced;
        let course = Course { going, behind, stays_ready, ok, keeps: false };
        if held {
            return (course, Verb::Nothing, String::new());
        }
        if let Some(why) = along.filter(|why| why.starts_with(WILL_REQUIRE)) {
            return (course, Verb::Nothing, why);
        }
        if redo && unit.blocker.is_some() {
            return (course, Verb::Nothing, unit.why_not(&unit.declared));
        }
        let (verb, reason) = match kind {
            Kind::Exec => self.exec(unit, redo, inputs),
            _ => self.thing(unit, redo),
        };
        (course, verb, reason)
    }

    fn exec(&self, unit: &Unit<'_>, redo: bool, inputs: Option<String>) -> (Verb, String) {
        let declared = &unit.declared;
        match &unit.seen.found {
            Found::Due(why) if redo => match inputs {
                _ if unit.differs => (Verb::Start, format!("{declared}; {why}")),
                Some(inputs) => (Verb::Start, inputs),
                None => (Verb::Start, why.clone()),
            },
            Found::Due(why) | Found::Trouble(why) => (Verb::Nothing, why.clone()),
            Found::Unknown if unit.differs => (Verb::Start, declared.clone()),
            _ => (Verb::Nothing, declared.clone()),
        }
    }

    fn thing(&self, unit: &Unit<'_>, redo: bool) -> (Verb, String) {
        let declared = &unit.declared;
        match &unit.seen.found {
            Found::Right | Found::NotUp(_) | Found::Due(_) | Found::Leaves(_) | Found::Left(_) => {
                let so =
                    if declared.is_empty() { String::new() } else { format!("{declared}; it is so already") };
                (Verb::Nothing, so)
            }
            Found::Missing | Found::Wrong(_) if !redo && self.only_reported(unit) => {
                (Verb::Nothing, "drifted, and left so: its drift is only reported".to_owned())
            }
            Found::Missing => (Verb::Create, unit.drifted("it is not there")),
            Found::Wrong(what) => (Verb::Change, unit.drifted(&what.join(", "))),
            Found::Trouble(why) => match unit.change {
                Before::Same(_) => (Verb::Nothing, why.clone()),
                Before::New => (Verb::Create, why.clone()),
                Before::Changed { .. } => (Verb::Change, why.clone()),
            },
            Found::Unknown => match unit.change {
                Before::New => (Verb::Create, declared.clone()),
                Before::Changed { spec: true, .. } => (Verb::Change, declared.clone()),
                Before::Changed { spec: false, .. } | Before::Same(_) => (Verb::Nothing, declared.clone()),
            },
        }
    }

    /// Whether differences of a unit whose declaration did not change are left.
    fn only_reported(&self, unit: &Unit<'_>) -> bool {
        !unit.differs && self.desired.flags(unit.id) & flags::REPORT != 0
    }

    /// Inputs of either kind that differ from those of the running generation, in words.
    pub fn inputs_changed(&self, unit: &Unit<'_>) -> Option<String> {
        self.changed_inputs(unit, EdgeKind::RestartOn)
            .or_else(|| self.changed_inputs(unit, EdgeKind::ReloadOn))
    }

    /// Inputs of this kind that differ from those of the running generation, in words; `None` when none does.
    pub fn changed_inputs(&self, unit: &Unit<'_>, kind: EdgeKind) -> Option<String> {
        let (Before::Changed { old, .. } | Before::Same(old)) = unit.change else { return None };
        let of = |m: &Manifest, id: UnitId| -> Vec<(String, [u8; 16])> {
            let mut all: Vec<_> = m
                .deps(id)
                .filter(|e| e.kind == kind)
                .map(|e| (m.address(e.unit).to_string(), m.unit_digest(e.unit)))
                .collect();
            all.sort_unstable();
            all
        };
        let (before, after) = (of(self.running, *old), of(self.desired, unit.id));
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

    /// Whether a service or file gives up what another unit takes from it.
    pub fn gives_up(&self, unit: &Unit<'_>) -> bool {
        let (Before::Changed { old, .. } | Before::Same(old)) = unit.change else { return false };
        let claim = self.running.claim(*old);
        claim != 0
            && self.desired.claim(unit.id) != claim
            && self.desired.ids().any(|id| id != unit.id && self.desired.claim(id) == claim)
    }

    /// Whether it depends on something that it did not depend on before.
    pub fn needs_more(&self, unit: &Unit<'_>) -> bool {
        let (Before::Changed { old, .. } | Before::Same(old)) = unit.change else { return false };
        let mut deps = self.desired.deps(unit.id).filter(|e| hard(e.kind));
        let known = |address: &Address| {
            self.running.deps(*old).any(|e| hard(e.kind) && self.running.address(e.unit) == *address)
        };
        deps.any(|e| !known(&self.desired.address(e.unit)))
    }

    /// Whether its specification in the running manifest can be read, and which it is.
    pub fn old_service(&self, unit: &Unit<'_>) -> Option<Box<units::kind::service::Service>> {
        match unit.change {
            Before::New => None,
            Before::Changed { old, .. } | Before::Same(old) => match self.running.spec(*old)? {
                Spec::Service(s) => Some(s),
                _ => None,
            },
        }
    }
}

impl Unit<'_> {
    /// What differs although nobody changed the declaration is repaired with or without an apply.
    fn drifted(&self, what: &str) -> String {
        match self.change {
            Before::Same(_) => format!("drifted: {what}"),
            Before::New | Before::Changed { .. } => what.to_owned(),
        }
    }

    /// What became of its declaration, and this.
    fn and(&self, what: &str) -> String {
        if self.declared.is_empty() { what.to_owned() } else { format!("{}; {what}", self.declared) }
    }

    /// Why it does not come up, behind what became of its declaration.
    pub fn why_not(&self, declared: &str) -> String {
        let why = match &self.blocker {
            _ if !self.wanted => "it is not wanted",
            Some(blocker) => blocker,
            None => "",
        };
        match (declared, why) {
            ("", why) => why.to_owned(),
            (declared, "") => declared.to_owned(),
            (declared, why) => format!("{declared}; {why}"),
        }
    }
}

fn declaration(change: &Before) -> String {
    match change {
        Before::New => "newly declared".to_owned(),
        Before::Changed { keys, .. } if keys.is_empty() => "its declaration changed".to_owned(),
        Before::Changed { keys, .. } => format!("its declaration changed: {}", keys.join(", ")),
        Before::Same(_) => String::new(),
    }
}
