//! Questions about an engine that only the observer has.

use super::*;

pub(super) fn declared(engine: &Engine, node: Node) -> [u8; 16] {
    let (manifest, unit) = engine.unit_of(node);
    engine.manifest(manifest).map_or([0; 16], |m| m.unit_digest(unit))
}

pub(super) fn running_ready(engine: &Engine, node: Node) -> Option<Ready> {
    let (manifest, unit) = engine.running_from(node)?;
    match engine.manifest(manifest)?.spec(unit)? {
        Spec::Service(s) => Some(s.ready),
        _ => None,
    }
}

/// Whether a unit runs with an earlier specification: by its own declaration, or because it waits to be restarted.
pub fn keeps_old(engine: &Engine, node: Node) -> bool {
    let (manifest, unit) = engine.unit_of(node);
    let digest = |m: ManifestRef, u: UnitId| engine.manifest(m).map(|m| m.unit_digest(u));
    engine.running(node).is_some_and(|(m, u)| digest(m, u) != digest(manifest, unit))
}

pub(super) fn by_word(engine: &Engine, node: Node) -> bool {
    matches!(running_ready(engine, node), Some(Ready::Notify | Ready::Fd(_)))
}

/// Whether a unit depends on a slot, in any manifest there is.
pub(super) fn depends(engine: &Engine, node: Node, slot: u8) -> bool {
    engine.manifests().any(|(_, m)| {
        let address = engine.address(node);
        let Some(start) = m.find(address.kind, &address.name) else { return false };
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            if !seen.insert(at) {
                continue;
            }
            if at != start && slot_of(&m.address(at)) == slot {
                return true;
            }
            open.extend(m.deps(at).map(|e| e.unit));
        }
        false
    })
}

/// Whether a unit that is up has to be down before another may stop, as it holds on to that by its running edges.
pub(super) fn waits_for(engine: &Engine, unit: Node, other: Node) -> bool {
    let up: BTreeSet<Node> = engine.not_down().into_iter().map(|(node, _)| node).collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![unit];
    while let Some(at) = open.pop() {
        if at == other {
            return true;
        }
        if !up.contains(&at) || !seen.insert(at) {
            continue;
        }
        let address = engine.address(at);
        let Some(m) = engine.manifest(engine.edges_from(at)) else { continue };
        let Some(id) = m.find(address.kind, &address.name) else { continue };
        let orders = |kind| !matches!(kind, EdgeKind::ReloadOn | EdgeKind::RestartOn);
        let deps = m.deps(id).filter(|e| orders(e.kind)).map(|e| slot_of(&m.address(e.unit)));
        open.extend(deps.filter_map(|slot| engine.node_of_slot(slot)));
    }
    false
}

/// Questions that only the observer has.
pub(super) trait Observed {
    fn node_of_slot(&self, slot: u8) -> Option<Node>;
    fn main_serial(&self, node: Node) -> Option<u64>;
    fn running_from(&self, node: Node) -> Option<(ManifestRef, UnitId)>;
    fn running_manifest(&self, serial: u64) -> Option<ManifestRef>;
}

impl Observed for Engine {
    fn node_of_slot(&self, slot: u8) -> Option<Node> {
        self.nodes().find(|n| slot_of(&self.address(*n)) == slot)
    }

    fn main_serial(&self, node: Node) -> Option<u64> {
        Some(self.status(node).serial).filter(|s| *s != 0)
    }

    fn running_from(&self, node: Node) -> Option<(ManifestRef, UnitId)> {
        self.running(node)
    }

    fn running_manifest(&self, serial: u64) -> Option<ManifestRef> {
        let (node, _) = self.job(serial)?;
        self.running(node).map(|r| r.0)
    }
}
