//! Batches, and failures that stay where they belong.

use super::hands::may_purge;
use super::*;

impl Checks {
    pub(super) fn batch(
        &mut self,
        engine: &Engine,
        world: &World,
        number: u64,
        intent: Intent,
        steps: &[Step],
    ) -> Found {
        if !self.numbers.insert((1, number)) {
            return broken(Invariant::NumbersAreUnique, format!("batch {number} twice"));
        }
        if world.work.is_some() {
            return broken(Invariant::OneBatch, format!("batch {number} beside another"));
        }
        let mut earlier = BTreeSet::new();
        for step in steps {
            let Some(m) = engine.manifest(step.manifest) else {
                return broken(Invariant::ManifestsKept, "a step in a forgotten manifest");
            };
            let slot = slot_of(&m.address(step.unit));
            let node = engine.node_in(step.manifest, step.unit);
            match step.action {
                Action::Converge | Action::Guard(_) | Action::Ran(_) => {
                    self.claims(engine, world, step.manifest, step.unit)?;
                    // A batch that is sent again after a loss may hold steps whose gate has closed since.
                    self.starts(engine, world, step.manifest, step.unit, &earlier)?;
                    if let (Some(node), false) = (node, matches!(step.action, Action::Ran(_))) {
                        self.left_alone(engine, node)?;
                    }
                }
                Action::Remove | Action::Restore => {
                    may_purge(engine, node, step.action)?;
                    if let Some(node) = node {
                        self.stops(engine, world, node, &BTreeMap::new())?;
                    }
                }
                Action::Check | Action::Rewatch => {}
            }
            earlier.insert(slot);
        }
        self.batch = Some((number, intent, steps.iter().map(|s| ((s.manifest, s.unit), *s)).collect()));
        Ok(())
    }

    /// A failure stops nothing that does not depend on it.
    pub(super) fn contained(
        &self,
        engine: &Engine,
        world: &World,
        event: &Event,
        effects: &[Effect],
        causes: &BTreeMap<Node, &str>,
    ) -> Found {
        let failed: Vec<u8> = match event {
            Event::Exited { serial, exit } if *exit != Exit::Code(0) => {
                world.procs.get(serial).map(|p| p.slot).into_iter().collect()
            }
            Event::SpawnFailed { .. } => return Ok(()),
            Event::Results { results, .. } => {
                let bad = results.iter().filter(|r| matches!(r.outcome, Outcome::NotKept | Outcome::Blocked));
                bad.map(|r| world.slot(r.manifest, r.unit)).collect()
            }
            Event::Unmounted { node } => vec![slot_of(&engine.address(*node))],
            _ => return Ok(()),
        };
        let returns = effects.iter().any(|e| match e {
            Effect::Log { text, .. } => text.starts_with("returning"),
            Effect::Answer { .. } => true,
            _ => false,
        });
        if failed.is_empty() || returns || engine.going_down().is_some() {
            return Ok(());
        }
        let meant = |n: &Node| {
            matches!(
                causes.get(n),
                Some(&"it is restarted" | &"its inputs changed" | &"what it requires goes")
            )
        };
        let meant: Vec<u8> =
            causes.keys().filter(|n| meant(n)).map(|n| slot_of(&engine.address(*n))).collect();
        for effect in effects {
            let stopped = match effect {
                Effect::Signal { serial, signal } if *signal != 1 => engine.job(*serial).map(|j| j.0),
                Effect::Kill { serial } => match engine.job(*serial) {
                    Some((node, Job::Main)) => Some(node),
                    _ => None,
                },
                Effect::Spawn { node, job: Job::Stop | Job::Unmount, .. } => Some(*node),
                _ => None,
            };
            let Some(node) = stopped else { continue };
            // What was about to go anyway may have waited for just this.
            let was = self.was(node).is_some_and(|g| g.wanted && g.ready && !g.going);
            let slot = slot_of(&engine.address(node));
            // Who is bound to what is restarted on purpose goes with it.
            let follows = || meant.iter().any(|m| *m == slot || depends(engine, node, *m));
            if !was || !engine.glance(node).wanted || follows() {
                continue;
            }
            if failed.contains(&slot) || failed.iter().any(|f| depends(engine, node, *f)) {
                continue;
            }
            let text = format!("{} is stopped, and does not depend on what failed", engine.address(node));
            return broken(Invariant::FailuresContained, text);
        }
        Ok(())
    }
}
