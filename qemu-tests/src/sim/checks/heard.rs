//! What hands ask for is done, and what they are told of it is so.

use cm_core::engine::HoldKind;

use super::*;

/// What the observer remembers of that.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// Requests that nobody has answered.
    asked: BTreeMap<u64, Wish>,
    /// Spawns that were frozen; whether they still are.
    frozen: BTreeMap<u64, bool>,
    /// What was desired after the step before.
    desired: Option<ManifestRef>,
}

#[derive(Debug, Clone)]
struct Wish {
    verb: Verb,
    address: units::Address,
    /// The process that it had then.
    serial: Option<u64>,
    /// Asked in this very step.
    fresh: bool,
}

impl Checks {
    /// Before a step.
    pub(super) fn hears(&mut self, engine: &Engine, event: &Event) {
        match event {
            Event::Asked { request, verb, node, .. }
                if engine.going_down().is_none() && !engine.is_gone(*node) =>
            {
                let runs =
                    matches!(engine.glance(*node).state, "starting" | "ready" | "reloading" | "stopping");
                let serial = engine.main_serial(*node).filter(|_| runs);
                let address = engine.address(*node);
                self.heard.asked.insert(*request, Wish { verb: *verb, address, serial, fresh: true });
            }
            Event::Unasked { request } => drop(self.heard.asked.remove(request)),
            _ => {}
        }
    }

    /// After a step.
    pub(super) fn heard(&mut self, engine: &Engine, effects: &[Effect]) -> Found {
        for effect in effects {
            let Effect::Freeze { serial, frozen } = effect else { continue };
            // What a stop has thawed may be thawed once more when its pause ends.
            if self.heard.frozen.insert(*serial, *frozen).is_none() && !*frozen {
                return unheard(format!("spawn {serial} is thawed, and nobody has frozen it"));
            }
        }
        self.heard.frozen.retain(|serial, _| engine.job(*serial).is_some());
        for serial in self.heard.frozen.iter().filter(|(_, frozen)| **frozen).map(|(serial, _)| serial) {
            let hold = engine.job(*serial).and_then(|(node, _)| engine.status(node).hold);
            if engine.going_down().is_none() && hold.is_none_or(|h| h.kind != HoldKind::Paused) {
                return unheard(format!("spawn {serial} stays frozen, and nobody pauses it"));
            }
        }
        for wish in self.heard.asked.values_mut() {
            let fresh = std::mem::take(&mut wish.fresh);
            let Some(running) = wish.serial.filter(|_| fresh) else { continue };
            let done = match wish.verb {
                Verb::Pause => has(effects, &Effect::Freeze { serial: running, frozen: true }),
                Verb::Kill(signal) => has(effects, &Effect::Signal { serial: running, signal }),
                _ => true,
            };
            if !done {
                return unheard(format!("{:?} of {} was asked for, and not done", wish.verb, wish.address));
            }
        }
        // An answer may be the last thing before something else begins.
        let desired = Some(engine.desired().0);
        let other = std::mem::replace(&mut self.heard.desired, desired) != desired;
        for (place, effect) in effects.iter().enumerate() {
            let Effect::Answer { request, verdict, .. } = effect else { continue };
            let Some(wish) = self.heard.asked.remove(request) else { continue };
            let Some(node) = engine.node(&wish.address).filter(|_| engine.going_down().is_none()) else {
                continue;
            };
            let mut later = effects.iter().skip(place);
            if other || later.any(|e| matches!(e, Effect::Publish { node: n, .. } if *n == node)) {
                continue;
            }
            let so = match verdict {
                Verdict::Done => is_done(engine, node, &wish),
                Verdict::Failed => self.is_failed(engine, node, &wish),
                Verdict::Returned | Verdict::ReturnIncomplete | Verdict::Superseded => false,
            };
            if !so {
                let glance = engine.glance(node);
                let text =
                    format!("{:?} of {} is said to be {verdict:?}: {glance:?}", wish.verb, wish.address);
                return unheard(text);
            }
        }
        Ok(())
    }

    /// Whether what a hand asked for cannot be had, or not without somebody else.
    fn is_failed(&self, engine: &Engine, node: Node, wish: &Wish) -> bool {
        let glance = engine.glance(node);
        match wish.verb {
            Verb::Start | Verb::Restart if glance.wanted && !glance.held && !glance.leaving => {
                match glance.state {
                    "starting" | "reloading" | "working" => false,
                    "waiting" => self.blamed(engine, node).is_ok(),
                    _ => true,
                }
            }
            Verb::Kill(_) => wish.serial.is_none(),
            _ => true,
        }
    }
}

fn is_done(engine: &Engine, node: Node, wish: &Wish) -> bool {
    let glance = engine.glance(node);
    let service = wish.address.kind == Kind::Service;
    let serial = engine.main_serial(node);
    match wish.verb {
        Verb::Start | Verb::Restart => {
            let anew = wish.verb == Verb::Start || wish.serial.is_none() || serial != wish.serial;
            let up = matches!(glance.state, "ready" | "done" | "kept" | "changed" | "repaired" | "drifted");
            glance.wanted && up && anew
        }
        // Of what leaves, only the hold may stay.
        Verb::Stop => !service || matches!(glance.state, "down" | "gone"),
        Verb::Reload => glance.state == "ready" && !glance.stale,
        Verb::Kill(_) => wish.serial.is_some(),
        Verb::Pause | Verb::Hold | Verb::Resume | Verb::Release => true,
    }
}

fn has(effects: &[Effect], wanted: &Effect) -> bool {
    effects.contains(wanted)
}

fn unheard(text: String) -> Found {
    broken(Invariant::HandsAreHeard, text)
}
