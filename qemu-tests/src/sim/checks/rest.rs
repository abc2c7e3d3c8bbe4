//! What must hold at rest: every unit has ended somewhere, with a cause where it is not right.

use super::*;

impl Checks {
    /// At rest, in a world in which everything works.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn at_rest(&self, engine: &Engine, world: &World) -> Found {
        for node in engine.nodes() {
            self.ended(engine, node)?;
        }
        let open = self.answers.open();
        if !open.is_empty() {
            return broken(Invariant::OneAnswer, format!("requests {open:?} have no answer"));
        }
        if !engine.is_converged() {
            return broken(Invariant::ComesToRest, "nothing moves, and it has not converged");
        }
        let (manifest, _) = engine.desired();
        let desired = engine.manifest(manifest).map_or(0, units::Manifest::len);
        let sizes = engine.sizes();
        // What is held stays when nobody declares it any more, with what it requires; so does what lies on a mount that
        // is absent.
        let leaving = || engine.nodes().filter(|n| engine.glance(*n).leaving);
        let stays = |n| engine.glance(n).held || engine.glance(n).state == "deferred";
        let left = if leaving().any(stays) { leaving().count() } else { 0 };
        let desired = desired + left;
        // Who comes after one that was not started anew has not followed either, and may have come by later edges than it.
        let behind = |n| engine.edges_from(n) != manifest;
        let kept = left + engine.nodes().filter(|n| keeps_old(engine, *n) || behind(*n)).count();
        for (what, is, most) in [
            ("units", sizes.units, desired),
            ("places", sizes.places, 2 * self.most_units + 2),
            // One that was started from, and one whose edges it follows.
            ("manifests", sizes.manifests, 1 + 2 * kept),
            ("serials", sizes.serials, world.procs.len()),
            ("deadlines", sizes.timers, 2 * desired),
            ("requests", sizes.asks, 0),
            ("other entries", sizes.other, 4 * desired),
        ] {
            if is > most {
                return broken(Invariant::BoundedMemory, format!("{is} {what}, at most {most} are needed"));
            }
        }
        Ok(())
    }

    pub(super) fn ended(&self, engine: &Engine, node: Node) -> Found {
        let glance = engine.glance(node);
        if glance.leaving {
            return Ok(());
        }
        let status = engine.status(node);
        let address = engine.address(node);
        if glance.stale && !glance.held && status.cause.is_empty() {
            return broken(Invariant::StaleEnds, format!("{address} stays stale"));
        }
        let fine = match glance.state {
            "ready" | "kept" | "changed" | "repaired" | "done" => true,
            "drifted" | "not kept" | "contested" | "failed" | "backoff" => !status.cause.is_empty(),
            "waiting" => status.cause.starts_with("waiting:") || status.cause.starts_with("held"),
            "down" => !glance.wanted || glance.held,
            // Frozen by hand.
            "starting" | "reloading" => glance.held,
            "unknown" => !glance.wanted || glance.held,
            _ => false,
        };
        if !fine {
            let text = format!("{address} is {} at rest ({})", glance.state, status.cause);
            return broken(Invariant::DirtyEnds, text);
        }
        if glance.state == "waiting" && glance.wanted && !glance.held {
            return self.blamed(engine, node);
        }
        Ok(())
    }

    /// Somebody at the end of the chain is to blame.
    pub(super) fn blamed(&self, engine: &Engine, node: Node) -> Found {
        let mut seen = BTreeSet::new();
        let mut open = vec![node];
        while let Some(at) = open.pop() {
            if !seen.insert(at) {
                continue;
            }
            let glance = engine.glance(at);
            let to_blame = glance.held
                || !glance.wanted
                || keeps_old(engine, at)
                || matches!(
                    glance.state,
                    "failed" | "done" | "not kept" | "contested" | "drifted" | "backoff"
                );
            if to_blame && at != node {
                return Ok(());
            }
            open.extend(engine.gates(at).iter().filter(|g| !g.open).map(|g| g.node));
            open.extend(engine.waits_for_claim(at));
        }
        let text = format!("{} waits, and nobody at the end of its chain is to blame", engine.address(node));
        broken(Invariant::DirtyEnds, text)
    }
}
