//! What becomes of a service: the switch table, its inputs, what it needs and what takes it along.

use units::EdgeKind;
use units::diff::{self, Decision, Switch};
use units::kind::service::{Ready, Service, Start};

use super::course::{Course, Courses, Unit};
use super::{Before, Found, Verb};

const NOT_LOADED: &str = "it has not loaded its configuration yet";

impl Courses<'_> {
    pub(super) fn service(&self, unit: &Unit<'_>) -> (Course, Verb, String) {
        let Some(new) = self.desired.service(unit.id) else {
            return (Course::default(), Verb::Nothing, "its declaration cannot be read".to_owned());
        };
        let is_new = matches!(unit.change, Before::New);
        let not_up = match &unit.seen.found {
            Found::NotUp(state) => Some(state.as_str()),
            Found::Unknown | Found::Missing if is_new => Some("down"),
            _ => None,
        };
        match not_up {
            Some(state) => self.not_running(unit, &new, state),
            None => self.running(unit, &new),
        }
    }

    fn running(&self, unit: &Unit<'_>, new: &Service) -> (Course, Verb, String) {
        let is_new = matches!(unit.change, Before::New);
        let held = unit.seen.held.is_some();
        let old = self.old_service(unit);
        let decision = match (&old, unit.differs && !is_new) {
            (Some(old), true) => Some(diff::switch(old, new)),
            // The old specification cannot be read any more: it differs somehow.
            (None, true) => Some(Decision { switch: Switch::Restart, keys: Vec::new() }),
            (_, false) => None,
        };
        let switch = decision.as_ref().map_or(Switch::Nothing, |d| d.switch);
        let bounces = matches!(switch, Switch::Restart | Switch::StopStart);
        let behind = self.is_behind(unit, true, bounces);
        let along = self.taken_along(unit, behind, bounces);
        let lost = self.bound_lost(unit, behind, bounces);
        let open = unit.blocker.is_none();
        let first = switch == Switch::StopStart || self.gives_up(unit);
        let restarts = bounces && !held && (first || open);
        // What it has not loaded is tried again. Which of both kinds that is nobody tells; a reload is the smaller promise.
        let owed = unit.seen.stale && unit.seen.again;
        let has = |kind| self.desired.deps(unit.id).any(|e| e.kind == kind);
        let by_restart = !has(EdgeKind::ReloadOn) && has(EdgeKind::RestartOn);
        let owes = |restart| (owed && by_restart == restart).then(|| NOT_LOADED.to_owned());
        let restart_inputs = self.changed_inputs(unit, EdgeKind::RestartOn).or_else(|| owes(true));
        let reload_inputs = self.changed_inputs(unit, EdgeKind::ReloadOn).or_else(|| owes(false));
        let loads = restart_inputs.is_some() || reload_inputs.is_some() || switch == Switch::Reload;
        let anew = loads && !held && (restart_inputs.is_some() || new.reload.is_none());
        let going = !unit.wanted || along.is_some();
        let stops = going || lost.is_some() || restarts || (anew && open);
        let comes = unit.wanted && open && !held;
        let course = Course {
            going,
            behind,
            stays_ready: unit.seen.ready.unwrap_or(true) && !stops,
            // What owes a restart carries nobody new.
            // Nor does what somebody froze before it was ready.
            ok: if stops { comes } else { !bounces && !anew && (!held || unit.seen.ready != Some(false)) },
            keeps: !stops && unit.differs && (switch == Switch::Keep || held),
        };
        let changed = || match &decision {
            Some(d) if !d.keys.is_empty() => format!("{} changed", d.keys.join(", ")),
            _ => unit.declared.clone(),
        };
        if !stops {
            return self.goes_on(
                unit,
                course,
                switch,
                &changed(),
                loads && !anew && !held && open,
                reload_inputs,
            );
        }
        let why = if let Some(why) = along.or(lost) {
            why
        } else if restarts {
            changed()
        } else if let Some(why) = restart_inputs {
            why
        } else {
            let why = reload_inputs.unwrap_or_else(changed);
            format!("{why}, and it has no way to reload")
        };
        match comes {
            true => (course, Verb::Restart, why),
            false if !unit.wanted => (course, Verb::Stop, unit.why_not(&unit.declared)),
            false => (course, Verb::Stop, unit.why_not(&why)),
        }
    }

    /// Its process stays.
    fn goes_on(
        &self,
        unit: &Unit<'_>,
        course: Course,
        switch: Switch,
        changed: &str,
        loads: bool,
        inputs: Option<String>,
    ) -> (Course, Verb, String) {
        let declared = &unit.declared;
        if loads {
            let why = if switch == Switch::Reload { changed.to_owned() } else { inputs.unwrap_or_default() };
            return (course, Verb::Reload, why);
        }
        let reason = match (unit.change, switch) {
            (Before::New, _) => format!("{declared}; it runs already"),
            _ if unit.blocker.is_some() && !course.ok => unit.why_not(changed),
            (_, Switch::Keep) => format!("{changed}; the old process stays until it is restarted by hand"),
            _ if unit.seen.stale => NOT_LOADED.to_owned(),
            _ if declared.is_empty() => String::new(),
            _ => format!("{declared}; the running process need not notice"),
        };
        (course, Verb::Nothing, reason)
    }

    fn not_running(&self, unit: &Unit<'_>, new: &Service, state: &str) -> (Course, Verb, String) {
        let old = self.old_service(unit);
        let is = |word: &str| state.starts_with(word);
        // What a process ran as decides what its end meant.
        let oneshot = old.as_ref().map_or(&new.ready, |o| &o.ready) == &Ready::Exited;
        let inputs = self.inputs_changed(unit);
        let again = is("done") && oneshot && inputs.is_some();
        let eligible = match () {
            () if is("failed") => unit.differs || unit.seen.again || self.needs_more(unit),
            () if is("done") => unit.differs || again,
            () => true,
        };
        let held = unit.seen.held.is_some();
        let starts = unit.wanted && unit.blocker.is_none() && !held && eligible;
        // What is held is not switched: it stays what it was.
        let stays_done = is("done") && oneshot && (!eligible || held);
        let course = Course {
            going: !unit.wanted,
            behind: false,
            stays_ready: stays_done && unit.wanted,
            // What owes a run carries nobody new.
            ok: starts || (stays_done && unit.wanted && !(held && unit.differs)),
            keeps: false,
        };
        let declared = &unit.declared;
        let is_new = matches!(unit.change, Before::New);
        if starts {
            let why = match inputs {
                _ if is_new && new.start != Start::Boot && !unit.seen.started => {
                    format!("{declared}; somebody needs it")
                }
                _ if is_new => declared.clone(),
                Some(inputs) if again && !unit.differs => inputs,
                _ if declared.is_empty() => format!("it is {state}"),
                _ => format!("{declared}; it was {state}"),
            };
            return (course, Verb::Start, why);
        }
        let why = match new.start {
            Start::OnDemand if is_new && !unit.wanted => {
                format!("{declared}; it starts when somebody needs it")
            }
            Start::Manual if is_new && !unit.wanted => format!("{declared}; it starts by hand only"),
            _ if is_new || (eligible && unit.blocker.is_some()) => unit.why_not(declared),
            _ if declared.is_empty() => format!("it is {state}"),
            _ => format!("{declared}; it is {state}"),
        };
        (course, Verb::Nothing, why)
    }
}
