//! What an apply answers for: only because of that it returns, and only that has to be quiet before it is done.

use std::collections::BTreeSet;

use units::{EdgeKind, UnitId};

use super::apply::ApplyPhase;
use super::graph::{hard, soft};
use super::timer::Timer;
use super::unit::{MountPhase, NOBODY, Phase, State, Want, Work, bits};
use super::{Engine, Node};
use crate::proto::ManifestRef;

/// Restarts without proven health after which nobody waits any more for a service whose restarts have no limit.
pub(crate) const FLAPS: u32 = 3;

impl Engine {
    /// Marks what an apply can fail by: what it changes, and whatever depends on that as it was or as it shall be.
    pub(crate) fn blame(&mut self, old: ManifestRef, changed: &[Node], stay: &[(Node, UnitId, UnitId)]) {
        for node in self.all() {
            let unit = self.u(node);
            // What an apply has broken that this one supersedes is no excuse.
            if !unit.has(bits::BLAMED) {
                let was_bad = unit.has(bits::BAD) || self.is_flapping(node);
                self.mark(node, bits::WAS_BAD, was_bad);
            }
        }
        let new = self.desired;
        let edges = |manifest, unit| -> BTreeSet<(Node, EdgeKind)> {
            self.neighbours(manifest, unit, false).into_iter().collect()
        };
        let moved = stay.iter().filter(|(_, before, after)| edges(old, *before) != edges(new, *after));
        let mut open: Vec<Node> = moved.map(|(node, _, _)| *node).chain(changed.iter().copied()).collect();
        while let Some(node) = open.pop() {
            if self.u(node).has(bits::BLAMED) {
                continue;
            }
            self.mark(node, bits::BLAMED, true);
            let mut users = self.rdeps(node);
            users.extend(self.running_rdeps(node));
            // Order alone makes nobody depend on anything.
            open.extend(users.iter().filter(|(_, kind)| *kind != EdgeKind::After).map(|(user, _)| *user));
        }
    }

    /// A unit failed: an apply that is to blame returns.
    pub(crate) fn apply_failure(&mut self, node: Node, why: &str) {
        if !self.is_to_blame(node) || self.holds.contains_key(&node) {
            return;
        }
        // A state alone tells nobody what to mend.
        let cause = self.why(node);
        let more =
            if cause.is_empty() || why.contains(&cause) { String::new() } else { format!(": {cause}") };
        let text = format!("{}: {why}{more}", self.address(node));
        let Some(apply) = &mut self.apply else { return };
        if !apply.kind.boots() && matches!(apply.phase, ApplyPhase::Changing | ApplyPhase::Stable) {
            apply.failed.get_or_insert(text);
            self.globals_changed = true;
        }
    }

    /// Whether the apply under way answers for a unit: it changes that, or what that depends on, and has not found it
    /// bad already.
    pub(crate) fn is_to_blame(&self, node: Node) -> bool {
        let unit = self.u(node);
        unit.has(bits::BLAMED) && !unit.has(bits::WAS_BAD)
    }

    /// Nobody answers for anything any more.
    pub(crate) fn acquit(&mut self) {
        for node in self.lists.marked.clone() {
            self.mark(node, bits::WAS_BAD | bits::BLAMED, false);
        }
    }

    /// All is as declared, and has to stay so: who was bad before and is good now has no excuse any more, unless it may
    /// fall at any moment whatever is declared.
    pub(crate) fn end_excuses(&mut self) {
        for node in self.lists.marked.clone() {
            let unit = self.u(node);
            if unit.has(bits::WAS_BAD) && !unit.has(bits::BAD) && !self.is_flapping(node) {
                self.mark(node, bits::WAS_BAD, false);
            }
        }
    }

    /// Whether a service was up before the apply under way, which answers for it, and has given up or backs off since.
    pub(crate) fn fell_under_apply(&self, node: Node) -> bool {
        let fell = self.svc(node).is_some_and(|s| match s.phase {
            Phase::Failed | Phase::Backoff { .. } => true,
            Phase::Done => !self.is_oneshot(node),
            Phase::Down
            | Phase::Waiting
            | Phase::Starting
            | Phase::Ready
            | Phase::Reloading { .. }
            | Phase::Stopping { .. } => false,
        });
        // One that somebody held was not up because it was left alone.
        let held = self.holds.contains_key(&node) || self.lifted.contains_key(&node);
        fell && self.is_to_blame(node) && !held
    }

    /// The units because of which an apply cannot be good, or because of which a boot is not.
    pub(crate) fn guilty(&self) -> impl Iterator<Item = Node> {
        let all = self.apply.as_ref().is_none_or(|a| a.kind.boots());
        let list = if all { &self.lists.bad } else { &self.lists.guilty };
        list.iter().copied().filter(|node| !self.waits_for_held(*node))
    }

    /// The same as text; empty when there is none.
    pub(crate) fn bad_units(&self) -> String {
        let mut out = Vec::new();
        for node in self.guilty() {
            out.push(format!("{}: {}", self.address(node), self.why(node)));
            if out.len() == 8 {
                out.push("…".to_owned());
                break;
            }
        }
        out.join("; ")
    }

    /// Whether all that keeps a unit from what it should be is what somebody holds: the gate leaves out both.
    fn waits_for_held(&self, node: Node) -> bool {
        !self.holds.is_empty() && self.waits_only_for(node, &|n| self.holds.contains_key(&n))
    }

    /// Whether all that keeps a unit from what it should be is units of this kind, through others or itself.
    pub(crate) fn waits_only_for(&self, node: Node, is_cause: &dyn Fn(Node) -> bool) -> bool {
        let mut seen = BTreeSet::from([node]);
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            if is_cause(node) {
                continue;
            }
            let unit = self.u(node);
            let waits = match &unit.state {
                State::Service(s) => {
                    matches!(s.phase, Phase::Waiting | Phase::Ready | Phase::Reloading { .. })
                }
                State::Latch(l) => matches!(l.work, Work::Waiting),
                State::Mount(m) => matches!(m.phase, MountPhase::Waiting),
                State::Target => true,
                State::Gone => false,
            };
            let missing = |(dep, kind): &(Node, EdgeKind)| {
                let dep = self.u(*dep);
                (hard(*kind) && !dep.has(bits::OK)) || (soft(*kind) && !dep.has(bits::SETTLED))
            };
            let missing: Vec<Node> = self.deps(node).iter().filter(|d| missing(d)).map(|(d, _)| *d).collect();
            if !waits || self.counters(node).blocked > 0 || missing.is_empty() {
                return false;
            }
            open.extend(missing.into_iter().filter(|d| seen.insert(*d)));
        }
        true
    }

    /// Whether nothing is under way that an apply could wait for: what is restarted for ever is bad, not busy.
    pub(crate) fn is_quiet(&self) -> bool {
        let idle = self.runnable.is_empty() && self.batch.is_none();
        let tired = &self.lists.tired;
        idle && self.busy as usize == tired.len() && tired.iter().all(|n| self.is_given_up(*n))
    }

    /// Whether nobody waits for a service any more. One that the apply concerns has its tries anew.
    fn is_given_up(&self, node: Node) -> bool {
        let tried = self.svc(node).is_some_and(|s| u32::from(s.strikes) >= FLAPS);
        self.is_flapping(node) && (tried || !self.u(node).has(bits::BLAMED))
    }

    /// Whether a service has been restarted again and again, and will be for as long as it does not stay up.
    pub(crate) fn is_flapping(&self, node: Node) -> bool {
        let Some(service) = self.svc(node).filter(|s| s.tries >= FLAPS) else { return false };
        let ready = service.ready_at;
        self.u(node).want == Want::Up
            && self.running_spec(node).is_some_and(|spec| {
                let healthy = ready.0 != 0 && self.now >= ready.after_ms(spec.healthy);
                spec.restart_limit == 0 && !healthy
            })
    }

    /// A unit that the apply answers for was lost when all had to be quiet: the time begins anew once it is there again.
    pub(crate) fn disturbed(&mut self, node: Node) {
        if !self.is_to_blame(node) || self.holds.contains_key(&node) {
            return;
        }
        let Some(apply) = self.apply.as_mut().filter(|a| a.phase == ApplyPhase::Stable) else { return };
        apply.phase = ApplyPhase::Changing;
        apply.service_step = true;
        self.timers.clear(NOBODY, Timer::Stable);
        self.globals_changed = true;
    }
}
