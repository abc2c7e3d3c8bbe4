//! What waits for an answer of a worker, and until when.
//!
//! **Invariant:** nothing waits for ever: whoever asks has an answer after [`FLOW_MS`] without a sign of life, or after the
//! batch that goes before it, for which the engine has a deadline.

use std::collections::BTreeMap;

use cm_core::engine::Mono;

use super::swap::Flow;
use super::workers::Role;

/// How long an answer of a worker may take, in milliseconds, from the question or the last sign of life of that worker on,
/// unless a batch goes before it.
pub const FLOW_MS: u64 = 120_000;

/// Everything that waits, by its token.
#[derive(Debug, Default)]
pub struct Flows(BTreeMap<u64, (Mono, Flow)>);

/// Of which worker it is asked.
fn asked(flow: &Flow) -> Role {
    match flow {
        Flow::Compile(_) => Role::Compiler,
        Flow::Open | Flow::Prepare { .. } | Flow::Load { .. } => Role::Committer,
    }
}

impl Flows {
    /// It waits from now on.
    pub fn begin(&mut self, token: u64, flow: Flow, at: Mono) {
        self.0.insert(token, (at.after_ms(FLOW_MS), flow));
    }

    /// It has its answer.
    pub fn end(&mut self, token: u64) -> Option<Flow> {
        self.0.remove(&token).map(|(_, flow)| flow)
    }

    /// The same for a compile; anything else goes on waiting.
    pub fn end_compile(&mut self, token: u64) -> Option<super::swap::Plan> {
        match self.0.get(&token) {
            Some((_, Flow::Compile(_))) => match self.end(token) {
                Some(Flow::Compile(plan)) => Some(plan),
                _ => None,
            },
            _ => None,
        }
    }

    /// The same for everything but a compile, which goes on waiting.
    pub fn end_stored(&mut self, token: u64) -> Option<Flow> {
        match self.0.get(&token) {
            Some((_, Flow::Compile(_))) => None,
            _ => self.end(token),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What one of them waits for, in words.
    pub fn words(&self) -> Option<&'static str> {
        self.0.values().next().map(|(_, flow)| flow.words())
    }

    /// A worker of this role has said something: it works, and what it was asked has its time from now on.
    pub fn goes_on(&mut self, role: Role, at: Mono) {
        for (due, _) in self.0.values_mut().filter(|(_, flow)| asked(flow) == role) {
            *due = at.after_ms(FLOW_MS);
        }
    }

    /// When the first answer is late.
    pub fn deadline(&self) -> Option<Mono> {
        self.0.values().map(|(due, _)| *due).min()
    }

    /// What has waited too long, with the worker that does not answer and what did not come of it. Behind a batch
    /// (`has_batch` says whether that worker has one) it waits as long again.
    pub fn late(&mut self, at: Mono, has_batch: impl Fn(Role) -> bool) -> Vec<(u64, Role, &'static str)> {
        let mut late = Vec::new();
        for (token, (due, flow)) in self.0.iter_mut().filter(|(_, (due, _))| *due <= at) {
            let role = asked(flow);
            let what = match flow {
                Flow::Open => "the store was not opened",
                Flow::Compile(_) => "the state file was not compiled",
                Flow::Prepare { .. } => "the generation was not stored",
                Flow::Load { .. } => "the generation was not read",
            };
            if has_batch(role) {
                *due = at.after_ms(FLOW_MS);
            } else {
                late.push((*token, role, what));
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is late when the committer has a batch, or has none.
    fn late(flows: &mut Flows, at: Mono, batch: bool) -> Vec<(u64, Role)> {
        let late = flows.late(at, |role| batch && role == Role::Committer);
        late.into_iter().map(|(token, role, _)| (token, role)).collect()
    }

    #[test]
    fn an_answer_has_its_time_and_no_more() {
        let start = Mono(7).after_ms(1000);
        let mut flows = Flows::default();
        flows.begin(1, Flow::Open, start);
        flows.begin(2, Flow::Load { call: 9 }, start.after_ms(10));
        let due = start.after_ms(FLOW_MS);
        assert_eq!(flows.deadline(), Some(due));
        assert_eq!(late(&mut flows, Mono(due.0 - 1), false), []);
        assert_eq!(late(&mut flows, due, false), [(1, Role::Committer)]);
        assert!(matches!(flows.end(1), Some(Flow::Open)));
        assert_eq!(flows.deadline(), Some(due.after_ms(10)));
        assert_eq!(late(&mut flows, due.after_ms(10), false), [(2, Role::Committer)]);
        assert!(matches!(flows.end_stored(2), Some(Flow::Load { call: 9 })));
        assert!(flows.is_empty() && flows.deadline().is_none() && flows.end(2).is_none());
    }

    #[test]
    fn who_goes_on_working_is_waited_for() {
        let mut flows = Flows::default();
        flows.begin(1, Flow::Load { call: 9 }, Mono(0));
        for round in 1..100 {
            let at = Mono(0).after_ms(round * (FLOW_MS - 1));
            flows.goes_on(Role::Compiler, at);
            assert_eq!(late(&mut flows, at, false), []);
            flows.goes_on(Role::Committer, at);
        }
        let due = Mono(0).after_ms(99 * (FLOW_MS - 1)).after_ms(FLOW_MS);
        assert_eq!(flows.deadline(), Some(due), "what another worker says is no sign of its life");
        assert_eq!(late(&mut flows, due, false), [(1, Role::Committer)]);
    }

    #[test]
    fn what_waits_behind_a_batch_waits_as_long_again() {
        let mut flows = Flows::default();
        flows.begin(1, Flow::Open, Mono(0));
        let due = Mono(0).after_ms(FLOW_MS);
        assert_eq!(late(&mut flows, due, true), []);
        assert_eq!(flows.deadline(), Some(due.after_ms(FLOW_MS)));
        assert_eq!(late(&mut flows, due.after_ms(FLOW_MS), false), [(1, Role::Committer)]);
    }

    #[test]
    fn a_compile_is_answered_by_the_compiler_only() {
        let plan = super::super::swap::Plan {
            call: 3,
            kind: cm_core::engine::event::Swap::Apply,
            if_generation: None,
            release: false,
            note: String::new(),
            name: "state.toml".to_owned(),
            optional: false,
            had: None,
            order: None,
        };
        let mut flows = Flows::default();
        flows.begin(1, Flow::Compile(plan), Mono(0));
        flows.begin(2, Flow::Open, Mono(0));
        assert!(flows.end_stored(1).is_none() && flows.end_compile(2).is_none());
        let due = Mono(0).after_ms(FLOW_MS);
        // The other worker's batch is no excuse.
        assert_eq!(late(&mut flows, due, true), [(1, Role::Compiler)]);
        assert_eq!(flows.end_compile(1).map(|p| p.call), Some(3));
        assert!(flows.end_stored(2).is_some() && flows.is_empty());
    }
}
