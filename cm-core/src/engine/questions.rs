//! What the shell asks the engine between two steps: who a unit is, where its specification stands, what is under way.

use std::sync::Arc;

use units::kind::service::Service;
use units::{Address, Manifest, UnitId};

use super::effect::Job;
use super::event::Down;
use super::{Engine, Gen, Node, unit};
use crate::proto::ManifestRef;

impl Engine {
    /// The unit's address; until the next step that of one that has left in the last.
    pub fn address(&self, node: Node) -> Address {
        if let Some(departed) = self.departed.get(&node).filter(|_| self.is_gone(node)) {
            return departed.clone();
        }
        let (manifest, unit) = self.unit_of(node);
        match self.manifest_of(manifest) {
            Some(m) => m.address(unit),
            None => Address::new(units::Kind::Target, format!("#{}", node.0)),
        }
    }

    /// Where the unit's specification stands: in the desired manifest, or in the one it was made from when it
    /// is leaving.
    pub fn unit_of(&self, node: Node) -> (ManifestRef, UnitId) {
        let unit = self.u(node);
        match unit.id() {
            Some(id) => (self.desired, id),
            None => (unit.made, unit.made_id),
        }
    }

    /// The specification of a service in a manifest.
    pub fn service(&self, manifest: ManifestRef, unit: UnitId) -> Option<Arc<Service>> {
        self.spec_at((manifest, unit))
    }

    /// Where the specification stands that a service's process runs with.
    pub fn running(&self, node: Node) -> Option<(ManifestRef, UnitId)> {
        self.svc(node)?.run
    }

    /// The manifest whose edges a unit holds while it is up.
    pub fn edges_from(&self, node: Node) -> ManifestRef {
        self.u(node).made
    }

    /// The node with this address: in the desired manifest, or leaving.
    pub fn node(&self, address: &Address) -> Option<Node> {
        let in_manifest = |(number, generation): (&ManifestRef, &Gen)| {
            self.node_in(*number, generation.manifest.find(address.kind, &address.name)?)
        };
        // What leaves has its place in the manifest that it was made from.
        self.gens.iter().find_map(in_manifest)
    }

    /// Who left in the last step; their numbers may be others' by now.
    pub fn departed(&self) -> impl Iterator<Item = Node> + '_ {
        self.departed.keys().copied()
    }

    /// Every unit, leaving ones included.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        self.all()
    }

    /// The first unit at or behind `from`, so that a listing can go on where it stopped.
    pub fn next_node(&self, from: Node) -> Option<Node> {
        let rest = self.nodes.get(from.index()..)?;
        let skipped = rest.iter().position(|u| !matches!(u.state, unit::State::Gone))?;
        Some(Node(from.0.checked_add(u32::try_from(skipped).ok()?)?))
    }

    /// Whether the node is no unit any more.
    pub fn is_gone(&self, node: Node) -> bool {
        matches!(self.u(node).state, unit::State::Gone)
    }

    /// Whether a batch is under way.
    pub fn has_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// A manifest by its number, as long as something refers to it.
    pub fn manifest(&self, manifest: ManifestRef) -> Option<&Manifest> {
        self.manifest_of(manifest)
    }

    /// Every manifest that something refers to.
    pub fn manifests(&self) -> impl Iterator<Item = (ManifestRef, &Manifest)> {
        self.gens.iter().map(|(r, g)| (*r, &g.manifest))
    }

    /// The desired manifest and its generation.
    pub fn desired(&self) -> (ManifestRef, u64) {
        (self.desired, self.generation)
    }

    /// Whether nothing is dirty and nothing is running that must end.
    pub fn is_converged(&self) -> bool {
        self.converged
    }

    /// Whether the machine is going down, and how.
    pub fn going_down(&self) -> Option<Down> {
        self.down
    }

    /// Whether an apply is under way: its request and generation.
    pub fn applying(&self) -> Option<(u64, u64)> {
        self.apply.as_ref().map(|a| (a.request, a.generation))
    }

    /// The process that belongs to a serial, as (unit, job).
    pub fn job(&self, serial: u64) -> Option<(Node, Job)> {
        self.serials.get(&serial).copied()
    }
}
