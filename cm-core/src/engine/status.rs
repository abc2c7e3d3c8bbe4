//! What the engine tells about a unit.

use serde::{Deserialize, Serialize};
use units::kind::Spec;
use units::{Address, EdgeKind, UnitId};

use super::event::Exit;
use super::graph::{hard, soft};
use super::unit::{Latch, MountPhase, Phase, Service, Shown, State, Want, Work, bits};
use super::{Engine, Mono, Node};
use crate::proto::ManifestRef;

/// An override by hand (semantics §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What kind.
    pub kind: HoldKind,
    /// Who and why, in words.
    pub why: String,
    /// Since when.
    pub since: Mono,
    /// Until when; `None` is until boot.
    pub until: Option<Mono>,
}

/// The kinds of override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldKind {
    /// Stopped by hand.
    Stopped,
    /// Frozen by hand.
    Paused,
    /// Left alone.
    Held,
}

/// An edge with what it means at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The other unit.
    pub node: Node,
    /// What the edge means.
    pub kind: EdgeKind,
    /// Whether it lets the unit start.
    pub open: bool,
}

/// Everything that `initctl status` shows of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitStatus {
    /// Which unit.
    pub address: Address,
    /// Where its specification stands.
    pub manifest: ManifestRef,
    /// And under which number.
    pub unit: UnitId,
    /// The state's word: `ready`, `waiting`, `kept`, `not kept` …
    pub state: &'static str,
    /// Whether it counts as ready.
    pub ready: bool,
    /// Whether it is wanted up.
    pub wanted: bool,
    /// Whether a hand started it, which is why it is wanted even if nothing else does.
    pub started: bool,
    /// Why it is not ready, or what was wrong; empty when there is nothing to say.
    pub cause: String,
    /// When the state was entered; 0 where that is not kept (latched units).
    pub since: Mono,
    /// Serial of the current spawn, to look its pid up; 0 for none.
    pub serial: u64,
    /// Restarts since boot.
    pub restarts: u32,
    /// How it last ended.
    pub exit: Option<Exit>,
    /// It has not loaded the configuration that it should have.
    pub stale: bool,
    /// The last reload was by signal, which nobody confirmed.
    pub assumed: bool,
    /// What it requires and is not ready, though it is up itself.
    pub degraded: Vec<Address>,
    /// The override by hand, if there is one.
    pub hold: Option<Hold>,
}

/// The part of a unit's status that costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Glance {
    /// The state's word.
    pub state: &'static str,
    /// Whether it counts as ready.
    pub ready: bool,
    /// Whether it is wanted up.
    pub wanted: bool,
    /// It is not in the desired manifest.
    pub leaving: bool,
    /// Somebody holds it.
    pub held: bool,
    /// It has not loaded the inputs that it should have.
    pub stale: bool,
    /// It is about to stop, because it or what it requires is not wanted.
    pub going: bool,
    /// How often it was restarted.
    pub restarts: u64,
}

impl Engine {
    /// The generation that the apply under way returns to; none for a boot.
    pub fn returns_to(&self) -> Option<u64> {
        self.apply.as_ref().filter(|a| !a.kind.boots()).map(|a| a.from.1)
    }

    /// A unit's state without words that have to be made.
    pub fn glance(&self, node: Node) -> Glance {
        let unit = self.u(node);
        Glance {
            state: self.state_word(node),
            ready: unit.has(bits::READY),
            wanted: unit.want == Want::Up,
            leaving: unit.id().is_none(),
            held: self.holds.contains_key(&node),
            stale: self.is_stale(node),
            going: unit.has(bits::GOING),
            restarts: self.svc(node).map_or(0, |s| s.restarts.into()),
        }
    }

    /// Whether a process has not loaded what it should have: its inputs, or another specification.
    fn is_stale(&self, node: Node) -> bool {
        self.svc(node).is_some_and(|s| s.running() && (s.loaded != s.inputs || s.reload_asked))
    }

    /// Whether a unit is fought over, and left alone for a while.
    pub fn is_contested(&self, node: Node) -> bool {
        matches!(&self.u(node).state, State::Latch(Latch { work: Work::Contested { .. }, .. }))
    }

    /// The word for a unit's state.
    pub(crate) fn state_word(&self, node: Node) -> &'static str {
        let unit = self.u(node);
        match &unit.state {
            _ if unit.has(bits::SHADE) => "gone",
            State::Service(s) => match s.phase {
                Phase::Down => "down",
                Phase::Waiting => "waiting",
                Phase::Starting => "starting",
                Phase::Ready => "ready",
                Phase::Reloading { .. } => "reloading",
                Phase::Stopping { .. } => "stopping",
                Phase::Backoff { .. } => "backoff",
                Phase::Failed => "failed",
                Phase::Done => "done",
            },
            State::Latch(l) => match (l.work, l.shown) {
                (Work::Contested { .. }, _) => "contested",
                (Work::Deferred, _) => "deferred",
                (_, Shown::NotKept) => "not kept",
                (Work::Waiting, Shown::Unknown) => "waiting",
                (Work::Batch | Work::Job { .. } | Work::Queued, Shown::Unknown) => "working",
                (_, Shown::Unknown) => "unknown",
                (_, Shown::Kept) => "kept",
                (_, Shown::Changed) => "changed",
                (_, Shown::Repaired) => "repaired",
                (_, Shown::Drifted) => "drifted",
            },
            State::Mount(m) => match m.phase {
                MountPhase::Down => "down",
                MountPhase::Waiting => "waiting",
                MountPhase::Mounting { .. } if self.awaits_device(node) => "waiting",
                MountPhase::Mounting { .. } => "starting",
                MountPhase::Up if m.repaired && unit.want == Want::Up => "repaired",
                MountPhase::Up | MountPhase::Remounting { .. } => "ready",
                MountPhase::Unmounting { .. } => "stopping",
                MountPhase::Backoff { .. } => "backoff",
                MountPhase::Stuck => "failed",
            },
            State::Target => {
                if unit.has(bits::OK) {
                    "ready"
                } else if unit.want == Want::Up {
                    "waiting"
                } else {
                    "down"
                }
            }
            State::Gone => "gone",
        }
    }

    /// Why a unit is not ready, in words.
    pub(crate) fn why(&self, node: Node) -> String {
        let unit = self.u(node);
        if let Some(hold) = self.holds.get(&node) {
            // A mount that was to go and is in use: by whom is what the person who stopped it has to know.
            return match self.details.get(&node) {
                Some(detail) if matches!(unit.state, State::Mount(_)) && hold.kind == HoldKind::Stopped => {
                    detail.clone()
                }
                _ => match self.how_ended(node) {
                    // It is left as it ended.
                    Some(how) if hold.kind == HoldKind::Held && self.state_word(node) != "waiting" => {
                        format!("{how}, and held: {}", hold.why)
                    }
                    _ => format!("held: {}", hold.why),
                },
            };
        }
        let waiting = match &unit.state {
            State::Service(s) => matches!(s.phase, Phase::Waiting),
            State::Latch(l) => matches!(l.work, Work::Waiting),
            State::Mount(m) => matches!(m.phase, MountPhase::Waiting),
            State::Target => !unit.has(bits::OK),
            State::Gone => false,
        };
        if waiting {
            if let Some(blocker) = self.blocker(node) {
                return format!("waiting: {} ({})", self.address(blocker), self.state_word(blocker));
            }
            if let Some(holder) = self.waits_for_claim(node) {
                let address = self.address(holder);
                return match &self.u(holder).state {
                    State::Latch(Latch { work: Work::Deferred, .. }) => {
                        format!("waiting: {address} cannot be removed before what it lies on is mounted")
                    }
                    _ => format!("waiting: {address} has to give up what it claims"),
                };
            }
            if self.counters(node).blocked > 0 {
                return "waiting: something that leaves has to go first".to_owned();
            }
            if unit.has(bits::NEEDS_STORE) && !self.store_open {
                return "waiting: the store is not open yet".to_owned();
            }
        }
        if let State::Latch(Latch { work: Work::Deferred, .. }) = &unit.state {
            return "not declared any more: it is removed when what it lies on is mounted".to_owned();
        }
        // Not a detail: what a record keeps of one is short.
        if self.is_contested(node)
            && let Some(culprit) = self.fights.get(&node).and_then(|f| f.culprit.as_ref())
        {
            return format!("contested: {culprit} keeps changing it");
        }
        if let Some(detail) = self.details.get(&node) {
            return detail.clone();
        }
        if let State::Mount(mount) = &unit.state
            && matches!(mount.phase, MountPhase::Mounting { .. })
            && let Some(device) = self.device(node)
        {
            return format!("mounting {device}, once that is there");
        }
        if self.is_stale(node) && self.counters(node).blocked > 0 {
            return "stale: something has to stop first".to_owned();
        }
        if self.is_stale(node) && self.counters(node).sinking > 0 {
            return "stale: something that it requires is about to go".to_owned();
        }
        if self.is_stale(node)
            && let Some(blocker) = self.blocker(node)
        {
            return format!("stale: waiting for {} ({})", self.address(blocker), self.state_word(blocker));
        }
        if let Some(how) = self.how_ended(node) {
            return how;
        }
        if unit.want == Want::Down && unit.id().is_some() && self.down.is_none() {
            return "not wanted".to_owned();
        }
        String::new()
    }

    /// How the process of a service has ended that does not run.
    fn how_ended(&self, node: Node) -> Option<String> {
        let down =
            |s: &&Service| !matches!(s.phase, Phase::Ready | Phase::Reloading { .. } | Phase::Starting);
        let exit = self.svc(node).filter(down)?.exit?;
        Some(match exit {
            Exit::Code(code) => format!("exited with {code}"),
            Exit::Signal(signal) => format!("killed by signal {signal}"),
            Exit::Unknown => "ended, nobody knows how".to_owned(),
        })
    }

    /// What a mount's helper may have to wait for.
    fn device(&self, node: Node) -> Option<String> {
        let (manifest, id) = self.unit_of(node);
        match self.manifest_of(manifest)?.spec(id)? {
            Spec::Mount(mount) => Some(mount.source).filter(|source| *source != mount.fstype),
            _ => None,
        }
    }

    /// The status of a unit.
    pub fn status(&self, node: Node) -> UnitStatus {
        let unit = self.u(node);
        let (manifest, id) = self.unit_of(node);
        let service = self.svc(node);
        let running = service.is_some_and(super::unit::Service::running);
        let degraded = if running {
            self.made_deps(node)
                .into_iter()
                .filter(|(d, k)| hard(*k) && !self.u(*d).has(bits::READY))
                .map(|(d, _)| self.address(d))
                .collect()
        } else {
            Vec::new()
        };
        UnitStatus {
            address: self.address(node),
            manifest,
            unit: id,
            state: self.state_word(node),
            ready: unit.has(bits::READY),
            wanted: unit.want == Want::Up,
            started: unit.has(bits::STARTED),
            cause: self.why(node),
            since: service.map_or(Mono(0), |s| s.since),
            serial: service.filter(|s| s.alive || s.occupied).map_or(0, |s| s.serial),
            restarts: service.map_or(0, |s| s.restarts),
            exit: service.and_then(|s| s.exit),
            stale: self.is_stale(node) || unit.has(bits::KEEP),
            assumed: service.is_some_and(|s| s.assumed),
            degraded,
            hold: self.holds.get(&node).cloned(),
        }
    }

    /// What a unit depends on, and which of it keeps it waiting.
    pub fn gates(&self, node: Node) -> Vec<Gate> {
        self.deps(node)
            .into_iter()
            .map(|(dep, kind)| {
                let unit = self.u(dep);
                let open = (!hard(kind) || unit.has(bits::OK)) && (!soft(kind) || unit.has(bits::SETTLED));
                Gate { node: dep, kind, open }
            })
            .collect()
    }

    /// Units that a shutdown waits for: in their way down, with what they do.
    pub fn not_down(&self) -> Vec<(Node, &'static str)> {
        self.all().filter(|n| self.u(*n).has(bits::UP)).map(|n| (n, self.state_word(n))).collect()
    }
}
