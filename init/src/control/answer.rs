//! What the control socket answers. Times are nanoseconds of CLOCK_BOOTTIME: the client knows the wall clock.

use cm_core::engine::effect;
use serde::{Deserialize, Serialize};

/// State of a unit (design.md §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not running, not made, and not meant to be.
    Down,
    /// For what `cause` names.
    Waiting,
    /// The process is not ready yet; the resource is being checked or made right.
    Starting,
    /// Ready; of a resource: it is as declared.
    Ready,
    /// Loading its configuration again.
    Reloading,
    /// Has been asked to stop.
    Stopping,
    /// Will be tried again.
    Backoff,
    /// Will not be tried again by itself.
    Failed,
    /// A one-shot that has ended well.
    Done,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Down,
        State::Waiting,
        State::Starting,
        State::Ready,
        State::Reloading,
        State::Stopping,
        State::Backoff,
        State::Failed,
        State::Done,
    ];

    /// As it is sent and shown.
    pub const fn word(self) -> &'static str {
        match self {
            State::Down => "down",
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Reloading => "reloading",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Failed => "failed",
            State::Done => "done",
        }
    }

    /// Whether who requires the unit may start.
    pub const fn is_ready(self) -> bool {
        matches!(self, State::Ready | State::Reloading | State::Done)
    }
}

/// What came of a unit last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was right.
    Kept,
    /// It was made right for a new generation.
    Changed,
    /// It was made right after drift.
    Repaired,
    /// It differs, and was left so on purpose.
    Drifted,
    /// It could not be made right.
    NotKept,
}

impl Outcome {
    /// As it is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Kept => "kept",
            Outcome::Changed => "changed",
            Outcome::Repaired => "repaired",
            Outcome::Drifted => "drifted",
            Outcome::NotKept => "not kept",
        }
    }
}

/// A hold (semantics §5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Who: the caller's user, as the server knows it.
    pub by: String,
    /// Since when.
    pub when: u64,
    /// Why; empty if nothing was said.
    pub why: String,
    /// Until when; until boot without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The verb that made it: `hold`, `stop` or `pause`.
    pub verb: String,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// Its address.
    pub unit: String,
    /// Its kind.
    pub kind: String,
    /// Its state.
    pub state: State,
    /// Whether it counts as ready: what depends on it may go on.
    #[serde(default)]
    pub ready: bool,
    /// Whether somebody started it by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// What it waits for, why it failed, when it is tried again; empty where the state says all.
    #[serde(default)]
    pub cause: String,
    /// What came of it last; nothing before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When the state was entered.
    pub since: u64,
    /// Main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Restarts since it was last proven healthy.
    #[serde(default)]
    pub restarts: u32,
    /// The hold, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Has not loaded the configuration that it should have.
    #[serde(default)]
    pub stale: bool,
    /// The required units that it runs without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// What was wrong last, in words. Never a secret.
    #[serde(default)]
    pub detail: String,
    /// `file:line` of its declaration.
    #[serde(default)]
    pub origin: String,
    /// The layer that declares it; empty for `main`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub layer: String,
    /// How a service says that it is ready (`notify`, `fd=3` …); empty for other kinds.
    #[serde(default)]
    pub readiness: String,
    /// Declared confinement that this kernel or container cannot enforce; watches that could not be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
}

impl UnitStatus {
    /// A status with everything but these three at rest.
    pub fn new(unit: impl Into<String>, state: State, since: u64) -> UnitStatus {
        let unit = unit.into();
        let kind = unit.split_once(':').map(|(k, _)| k.to_owned()).unwrap_or_default();
        UnitStatus {
            unit,
            kind,
            state,
            ready: state == State::Ready,
            started: false,
            cause: String::new(),
            outcome: None,
            since,
            pid: None,
            restarts: 0,
            held: None,
            stale: false,
            degraded: Vec::new(),
            detail: String::new(),
            origin: String::new(),
            layer: String::new(),
            readiness: String::new(),
            unenforced: Vec::new(),
        }
    }
}

/// One page of [`UnitStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusPage {
    /// The units.
    pub units: Vec<UnitStatus>,
}

/// An edge, seen from one of its ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// `requires`, `binds`, `wants`, `after`, `reload-on`, `restart-on`.
    pub edge: String,
    /// The other end.
    pub unit: String,
    /// Its state.
    pub state: State,
    /// Why the edge is there, where nobody wrote it; empty for those that were written.
    #[serde(default)]
    pub reason: String,
}

/// One unit of the tree. A unit with very many edges comes in several pieces with the same address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeNode {
    /// Its address.
    pub unit: String,
    /// Its state.
    pub state: State,
    /// What it needs: edge and address. At most [`MAX_EDGES`] a piece.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
}

/// Most edges in one answer or piece of an answer.
pub const MAX_EDGES: usize = 200;

/// One thing that a unit needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Need {
    /// `requires`, `binds`, `wants` or `after`.
    pub edge: String,
    /// The address of what is needed.
    pub unit: String,
}

/// One page of [`TreeNode`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TreePage {
    /// The units.
    pub nodes: Vec<TreeNode>,
}

/// Why a unit is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The unit.
    pub status: UnitStatus,
    /// Whether it is meant to be `up`, `down` or `absent`.
    pub desired: String,
    /// Generation whose declaration is in force.
    pub generation: u64,
    /// Layer that declares it.
    pub layer: String,
    /// What it needs, at most [`MAX_EDGES`].
    pub needs: Vec<EdgeStatus>,
    /// How many there are.
    pub needs_total: u32,
    /// Who needs it, at most [`MAX_EDGES`].
    pub needed_by: Vec<EdgeStatus>,
    /// How many there are.
    pub needed_by_total: u32,
}

/// One line of the progress of an apply, a rollback or a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The unit; empty when it is about the whole.
    pub unit: String,
    /// Its state now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// What came of it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What happened, in words.
    pub text: String,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Done.
    Done,
    /// A unit is failed or not kept.
    Failed,
    /// Somebody else's generation came first.
    Superseded,
    /// Returned to the old generation.
    Returned,
    /// The return is incomplete.
    ReturnIncomplete,
}

impl From<effect::Verdict> for Verdict {
    fn from(v: effect::Verdict) -> Verdict {
        match v {
            effect::Verdict::Done => Verdict::Done,
            effect::Verdict::Failed => Verdict::Failed,
            effect::Verdict::Superseded => Verdict::Superseded,
            effect::Verdict::Returned => Verdict::Returned,
            effect::Verdict::ReturnIncomplete => Verdict::ReturnIncomplete,
        }
    }
}

/// Counts for the last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Units that were right.
    pub kept: u32,
    /// Units made right for the generation.
    pub changed: u32,
    /// Units made right after drift.
    pub repaired: u32,
    /// Units that could not be made right, failed services included.
    pub not_kept: u32,
    /// Units under a hold.
    pub held: u32,
    /// Units that wait for something.
    pub waiting: u32,
}

impl From<effect::Tally> for Tally {
    fn from(t: effect::Tally) -> Tally {
        let effect::Tally { kept, changed, repaired, not_kept, held, waiting } = t;
        Tally { kept, changed, repaired, not_kept, held, waiting }
    }
}

/// The last answer to an apply, a rollback or a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    /// How it ended.
    pub verdict: Verdict,
    /// The generation that is current now.
    pub generation: u64,
    /// What was done.
    pub tally: Tally,
    /// Why, where it is not done; empty otherwise.
    pub text: String,
}

/// One reply to an apply, a rollback or a command: progress with `continues`, then the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Change {
    /// What happened, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<Progress>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Finished>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: u64,
    /// What about: `unit`, `converged`, `generation`, `log`.
    pub about: String,
    /// The unit, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its state now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// What came of it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// In words.
    pub text: String,
}

/// One reply to `Events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReply {
    /// What happened.
    pub event: Event,
}

/// A unit that is waited for, and why it is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The unit.
    pub unit: String,
    /// Its state.
    pub state: State,
    /// Why.
    pub cause: String,
}

/// The answer to `Wait`. `fulfilled` is false when nothing that runs can make it true any more: the machine is
/// converged but for units that wait for devices, or the unit is failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    /// Whether what was waited for is true.
    pub fulfilled: bool,
    /// What is not ready, at most [`MAX_EDGES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
}

/// The machine in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Version of `init`.
    pub version: String,
    /// Version of this interface.
    pub protocol: u32,
    /// Pid of the answering process, in its own namespace.
    pub pid: i32,
    /// The current generation; 0 is the one beside `init`.
    pub generation: u64,
    /// All is as it should be, or on purpose not: what `Wait` with `converged` waits for, and fulfils.
    pub converged: bool,
    /// Nothing is under way. At rest and not converged is what waits for something outside, or cannot be made right.
    #[serde(default)]
    pub at_rest: bool,
    /// The store is open, so that generations are kept.
    pub store_open: bool,
    /// What has to be ready before the store can be opened: the mount that carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_waits: Option<String>,
    /// Now.
    pub time: u64,
    /// How the machine is going down, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<String>,
    /// Counts of units.
    pub units: Counts,
}

/// Counts of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All.
    pub total: u32,
    /// Ready, reloading or done.
    pub ready: u32,
    /// Waiting for something.
    pub waiting: u32,
    /// Starting, stopping or in backoff.
    pub moving: u32,
    /// Failed, or not kept.
    pub failed: u32,
    /// Down, as they should be.
    pub down: u32,
    /// Held.
    pub held: u32,
    /// Stale.
    pub stale: u32,
    /// Drifted and left so.
    pub drifted: u32,
}

/// The last reply to a call that the loop answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Apply`, `Rollback`, `Command`.
    Finished(Finished),
    /// To `Wait`.
    Waited(Waited),
    /// To `Reexec`, `Shutdown`: it has begun.
    Begun,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_interface() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
            assert!(crate::control::INTERFACE.contains(state.word()), "{state:?}");
        }
    }

    /// Every member that we send is in the interface text.
    #[test]
    fn members_are_those_of_the_interface() {
        let held = Held { until: Some(1), ..Held::default() };
        let mut status = UnitStatus::new("service:a", State::Ready, 1);
        status.outcome = Some(Outcome::NotKept);
        status.pid = Some(1);
        status.held = Some(held);
        status.degraded = vec![String::new()];
        status.unenforced = vec![String::new()];
        status.layer = "local".to_owned();
        let edge = EdgeStatus {
            edge: String::new(),
            unit: String::new(),
            state: State::Down,
            reason: String::new(),
        };
        let explanation = Explanation {
            status,
            desired: String::new(),
            generation: 0,
            layer: String::new(),
            needs: vec![edge],
            needs_total: 0,
            needed_by: vec![],
            needed_by_total: 0,
        };
        let info = Info { shutdown: Some(String::new()), ..Info::default() };
        let finished = Finished {
            verdict: Verdict::ReturnIncomplete,
            generation: 1,
            tally: Tally::default(),
            text: String::new(),
        };
        let values = [
            serde_json::to_value(explanation).unwrap(),
            serde_json::to_value(info).unwrap(),
            serde_json::to_value(finished).unwrap(),
        ];
        fn visit(v: &serde_json::Value) {
            match v {
                serde_json::Value::Object(o) => {
                    for (key, value) in o {
                        assert!(crate::control::INTERFACE.contains(&format!("{key}: ")), "{key}");
                        visit(value);
                    }
                }
                serde_json::Value::Array(a) => a.iter().for_each(visit),
                _ => {}
            }
        }
        values.iter().for_each(visit);
    }
}
