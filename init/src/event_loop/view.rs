//! What the control socket tells about the machine, made from memory as it is asked for.

use cm_core::engine::effect::{Job, Tally};
use cm_core::engine::{Engine, HoldKind, Node, UnitStatus as Engines};
use units::kind::Spec;
use units::kind::service::Ready;
use units::layer::MAIN;
use units::{Address, Kind};

use super::{Shell, now};
use crate::control::answer::{
    Counts, EdgeStatus, Explanation, Held, Info, MAX_EDGES, Need, Outcome, State, TreeNode, UnitStatus,
};
use crate::control::server::Source;
use crate::control::{Failure, PROTOCOL, name};

/// The shell as the server sees it.
pub struct View<'a> {
    /// All of it.
    pub shell: &'a Shell,
}

/// State and outcome behind the engine's word.
pub(super) fn words(word: &str, wanted: bool) -> (State, Option<Outcome>) {
    match word {
        "waiting" | "deferred" => (State::Waiting, None),
        "starting" | "working" => (State::Starting, None),
        "ready" => (State::Ready, None),
        "reloading" => (State::Reloading, None),
        "stopping" => (State::Stopping, None),
        "backoff" => (State::Backoff, None),
        "failed" => (State::Failed, None),
        "done" => (State::Done, None),
        "kept" => (State::Ready, Some(Outcome::Kept)),
        "changed" => (State::Ready, Some(Outcome::Changed)),
        "repaired" => (State::Ready, Some(Outcome::Repaired)),
        "drifted" => (State::Ready, Some(Outcome::Drifted)),
        "not kept" | "contested" => (State::Failed, Some(Outcome::NotKept)),
        "unknown" if wanted => (State::Waiting, None),
        _ => (State::Down, None),
    }
}

/// State and outcome that a unit's news tell. A step takes a unit through several states before anybody hears of the
/// first, so that what the news say counts, and only without it what the unit is now.
pub fn told(engine: &Engine, node: Node, text: &str) -> (State, Option<Outcome>) {
    const WORDS: [&str; 15] = [
        "waiting",
        "starting",
        "working",
        "ready",
        "reloading",
        "stopping",
        "backoff",
        "failed",
        "done",
        "kept",
        "changed",
        "repaired",
        "drifted",
        "not kept",
        "down",
    ];
    match text {
        "gone" | "removed" | "restored" | "locked" => (State::Down, None),
        word if WORDS.contains(&word) => words(word, true),
        _ => {
            let glance = engine.glance(node);
            words(glance.state, glance.wanted)
        }
    }
}

/// Whether the unit will not come up by itself.
pub fn is_failed(engine: &Engine, node: Node) -> bool {
    matches!(engine.glance(node).state, "failed" | "not kept" | "contested")
}

/// Whether a unit of a converged machine is still not what it should be: it waits for something outside, or it
/// has failed.
pub fn is_stuck(engine: &Engine, node: Node) -> bool {
    is_stuck_as(&engine.status(node))
}

fn is_stuck_as(status: &Engines) -> bool {
    if !status.wanted || status.hold.is_some() {
        return false;
    }
    matches!(words(status.state, true).0, State::Waiting | State::Failed | State::Backoff)
}

/// Counts in words, for the log.
pub fn tally_words(tally: Tally) -> String {
    let Tally { kept, changed, repaired, not_kept, held, waiting } = tally;
    let parts = [
        (kept, "kept"),
        (changed, "changed"),
        (repaired, "repaired"),
        (not_kept, "not kept"),
        (held, "held"),
        (waiting, "waiting"),
    ];
    let said: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if said.is_empty() { "nothing to do".to_owned() } else { said.join(", ") }
}

fn readiness(ready: &Ready) -> String {
    match ready {
        Ready::Started => "started".to_owned(),
        Ready::Notify => "notify".to_owned(),
        Ready::Fd(n) => format!("fd={n}"),
        Ready::Forked => "forked".to_owned(),
        Ready::Exited => "exited".to_owned(),
        Ready::Path(p) => format!("path={p}"),
    }
}

fn held(hold: &cm_core::engine::Hold) -> Held {
    let (by, why) = hold.why.split_once(": ").unwrap_or((&hold.why, ""));
    Held {
        by: by.to_owned(),
        when: hold.since.0,
        why: why.to_owned(),
        until: hold.until.map(|m| m.0),
        verb: match hold.kind {
            HoldKind::Stopped => "stop",
            HoldKind::Paused => "pause",
            HoldKind::Held => "hold",
        }
        .to_owned(),
    }
}

impl Shell {
    /// State and outcome of a unit for people. Who says that it stops is not ready any more, though nobody who depends on it
    /// has to go before it has ended.
    pub(super) fn state_of(&self, node: Node, word: &str, wanted: bool) -> (State, Option<Outcome>) {
        match words(word, wanted) {
            (State::Ready | State::Reloading, None) if self.said.stops(node) => (State::Stopping, None),
            other => other,
        }
    }
}

impl View<'_> {
    /// One unit.
    pub fn unit(&self, node: Node) -> UnitStatus {
        let engine = &self.shell.engine;
        let status: Engines = engine.status(node);
        let (state, outcome) = self.shell.state_of(node, status.state, status.wanted);
        let mut out = UnitStatus::new(status.address.to_string(), state, status.since.0);
        out.outcome = outcome;
        out.ready = status.ready && state != State::Stopping;
        out.started = status.started;
        out.cause = status.cause;
        out.restarts = status.restarts;
        out.held = status.hold.as_ref().map(held);
        out.stale = status.stale;
        out.degraded = status.degraded.iter().map(Address::to_string).collect();
        if let Some(manifest) = engine.manifest(status.manifest) {
            let unit = manifest.unit(status.unit);
            out.origin = unit.origin.to_owned();
            out.layer = if unit.layer == MAIN { String::new() } else { unit.layer.to_owned() };
            if status.address.kind == Kind::Service
                && let Some(Spec::Service(service)) = manifest.spec(status.unit)
            {
                out.readiness = readiness(&service.ready);
            }
        }
        if let Some(spawn) = self.shell.spawns.of_node(node, Job::Main).filter(|s| !s.record.exited) {
            out.pid = Some(spawn.record.main);
        }
        if let Some(why) = self.shell.watches.missing(node) {
            out.unenforced.push(format!("drift is not seen: {why}"));
        }
        if let Some(text) = self.shell.said.text(node) {
            out.detail = text;
        } else if status.assumed {
            out.detail = "reload: assumed".to_owned();
        }
        out
    }

    fn node_from(&self, cursor: u64) -> Option<Node> {
        let from = u32::try_from(cursor).ok()?;
        self.shell.engine.next_node(Node(from))
    }

    fn edges(&self, node: Node, needs: bool) -> (Vec<EdgeStatus>, u32) {
        let engine = &self.shell.engine;
        let (manifest, unit) = engine.unit_of(node);
        let Some(m) = engine.manifest(manifest) else { return (Vec::new(), 0) };
        let mut out = Vec::new();
        let mut total = 0_u32;
        let mut add = |edge: units::Edge<'_>| {
            total = total.saturating_add(1);
            if out.len() < MAX_EDGES
                && let Some(other) = engine.node_in(manifest, edge.unit)
            {
                let status = engine.status(other);
                out.push(EdgeStatus {
                    edge: edge.kind.word().to_owned(),
                    unit: status.address.to_string(),
                    state: self.shell.state_of(other, status.state, status.wanted).0,
                    reason: edge.reason.to_owned(),
                });
            }
        };
        // What was written by hand goes first: a tree has more files than are told.
        for by_hand in [true, false] {
            let of = |e: &units::Edge<'_>| e.reason.is_empty() == by_hand;
            if needs {
                m.deps(unit).filter(of).for_each(&mut add);
            } else {
                m.rdeps(unit).filter(of).for_each(&mut add);
            }
        }
        (out, total)
    }
}

impl Source for View<'_> {
    fn info(&self) -> Info {
        let engine = &self.shell.engine;
        let mut units = Counts::default();
        let mut stuck = false;
        for node in engine.nodes() {
            let status = engine.status(node);
            stuck |= is_stuck_as(&status);
            let (state, outcome) = self.shell.state_of(node, status.state, status.wanted);
            units.total += 1;
            match state {
                State::Ready | State::Reloading | State::Done => units.ready += 1,
                State::Waiting => units.waiting += 1,
                State::Starting | State::Stopping | State::Backoff => units.moving += 1,
                State::Failed => units.failed += 1,
                State::Down => units.down += 1,
            }
            units.held += u32::from(status.hold.is_some());
            units.stale += u32::from(status.stale);
            units.drifted += u32::from(outcome == Some(Outcome::Drifted));
        }
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            generation: engine.desired().1,
            converged: self.shell.is_at_rest() && !stuck,
            // An apply waits for a device like for anything else.
            at_rest: self.shell.is_at_rest() && engine.returns_to().is_none(),
            store_open: self.shell.store_open,
            store_waits: self.shell.store_waits().map(|n| engine.address(n).to_string()),
            time: now().0,
            shutdown: engine.going_down().map(|d| format!("{d:?}").to_lowercase()),
            units,
        }
    }

    fn resolve(&self, text: &str) -> Result<Address, Failure> {
        let engine = &self.shell.engine;
        let exists = |kind: Kind, name: &str| engine.node(&Address::new(kind, name)).is_some();
        name::resolve(text, exists, || engine.nodes().map(|n| engine.address(n)))
    }

    fn status(&self, unit: &Address) -> Option<UnitStatus> {
        self.shell.engine.node(unit).map(|n| self.unit(n))
    }

    fn status_from(&self, cursor: u64) -> Option<(UnitStatus, u64)> {
        let node = self.node_from(cursor)?;
        Some((self.unit(node), u64::from(node.0) + 1))
    }

    fn tree_from(&self, cursor: u64) -> Option<(TreeNode, u64)> {
        // Upper half: the unit; lower half: how many of its edges have been told.
        let (at, skip) = (cursor >> 32, cursor & 0xffff_ffff);
        let node = self.node_from(at)?;
        let skip = if u64::from(node.0) == at { usize::try_from(skip).ok()? } else { 0 };
        let engine = &self.shell.engine;
        let status = engine.status(node);
        let (manifest, unit) = engine.unit_of(node);
        let deps = engine.manifest(manifest).into_iter().flat_map(|m| m.deps(unit).map(move |e| (m, e)));
        let needs: Vec<Need> = deps
            .skip(skip)
            .take(MAX_EDGES)
            .map(|(m, e)| Need { edge: e.kind.word().to_owned(), unit: m.address(e.unit).to_string() })
            .collect();
        let told = skip + needs.len();
        let next = match needs.len() {
            MAX_EDGES => (u64::from(node.0) << 32) | u64::try_from(told).unwrap_or_default(),
            _ => (u64::from(node.0) + 1) << 32,
        };
        let state = self.shell.state_of(node, status.state, status.wanted).0;
        Some((TreeNode { unit: status.address.to_string(), state, needs }, next))
    }

    fn explain(&self, unit: &Address) -> Option<Explanation> {
        let engine = &self.shell.engine;
        let node = engine.node(unit)?;
        let status = engine.status(node);
        let (desired, generation) = engine.desired();
        let layer = engine.manifest(status.manifest).map(|m| m.unit(status.unit).layer.to_owned());
        let (needs, needs_total) = self.edges(node, true);
        let (needed_by, needed_by_total) = self.edges(node, false);
        Some(Explanation {
            status: self.unit(node),
            desired: match (status.manifest == desired, status.wanted) {
                (false, _) => "absent",
                (true, true) => "up",
                (true, false) => "down",
            }
            .to_owned(),
            generation,
            layer: layer.unwrap_or_default(),
            needs,
            needs_total,
            needed_by,
            needed_by_total,
        })
    }
}
