//! The way down: everybody is asked to stop and has the time for it that was declared; then the machine is left.

use cm_core::engine::SHUTDOWN_MS;
use units::kind::Spec;

use super::*;

/// What the engine gives a killed process to end, and the tick after it.
const KILLED_MS: u64 = 10_001;

/// What the observer remembers of a shutdown.
#[derive(Debug, Clone, Default)]
pub(super) struct WayDown {
    /// Until when the machine has to be left.
    by: Option<Mono>,
    /// Spawn → until when it has time to end; who is killed has used it up.
    time: BTreeMap<u64, Mono>,
    killed: BTreeSet<u64>,
    now: Mono,
    pub(super) left: bool,
}

impl Checks {
    /// In a step: who is asked to stop, is given more time, or is killed.
    pub(super) fn goes_down(&mut self, engine: &Engine, now: Mono, event: &Event, effects: &[Effect]) {
        let down = &mut self.down;
        down.now = now;
        if matches!(event, Event::ShutdownAsked { .. }) {
            // Who was asked before that and is on its way has its time too.
            let asked = down.time.iter().filter(|(serial, _)| engine.job(**serial).is_some());
            let last = asked.map(|(_, at)| at.after_ms(KILLED_MS)).max();
            let by = now.after_ms(SHUTDOWN_MS + 1);
            down.by.get_or_insert(last.map_or(by, |last| last.max(by)));
        }
        let mut until = |serial: u64, at: Mono| {
            let time = down.time.entry(serial).or_default();
            *time = at.max(*time);
            down.by = down.by.map(|by| by.max(at.after_ms(KILLED_MS)));
        };
        if let Event::Extended { serial, ms } = event {
            until(*serial, now.after_ms(*ms));
        }
        for effect in effects {
            match effect {
                Effect::Publish { node, text } if text.starts_with("stopping: ") => {
                    let running = engine.running(*node).and_then(|(m, u)| engine.manifest(m)?.service(u));
                    if let (Some(spec), Some(serial)) = (running, engine.main_serial(*node)) {
                        until(serial, now.after_ms(spec.stop_timeout));
                    }
                }
                Effect::Spawn { serial, manifest, unit, job: Job::Unmount, .. } => {
                    if let Some(Spec::Mount(m)) = engine.manifest(*manifest).and_then(|m| m.spec(*unit)) {
                        until(*serial, now.after_ms(m.timeout));
                    }
                }
                Effect::Kill { serial } => {
                    down.killed.insert(*serial);
                }
                _ => {}
            }
        }
    }

    /// The machine is left: who still runs was asked, had its time, and was killed in vain.
    pub(super) fn leaves(&mut self, engine: &Engine, world: &World) -> Found {
        // Whatever is asked for from here on goes unheard, and what was asked for before has been answered.
        let open = self.answers.open().len();
        let down = &mut self.down;
        if std::mem::replace(&mut down.left, true) {
            return broken(Invariant::ShutdownLeaves, "left twice");
        }
        for (serial, proc) in world.procs.iter().filter(|(_, p)| p.job == Job::Main && p.exists()) {
            let Some((node, _)) = engine.job(*serial) else { continue };
            let had_time = down.time.get(serial).is_some_and(|until| *until <= down.now);
            if !(had_time && down.killed.contains(serial)) {
                let text =
                    format!("left, and {} (slot {}) had no time to end", engine.address(node), proc.slot);
                return broken(Invariant::ShutdownLeaves, text);
            }
        }
        if open > 0 {
            return broken(Invariant::OneAnswer, format!("it leaves without an answer to {open} requests"));
        }
        Ok(())
    }

    pub(super) fn leaves_in_time(&self, now: Mono) -> Found {
        if self.down.by.is_some_and(|by| now > by) && !self.down.left {
            return broken(Invariant::ShutdownLeaves, "it has not left in time");
        }
        Ok(())
    }
}
