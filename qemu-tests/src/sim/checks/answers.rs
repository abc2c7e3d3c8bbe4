//! Requests and their answers: one each; and that to an apply of what is current comes when what it tries again has ended,
//! and says what came of that.

use super::*;

/// What the observer remembers of that.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    requests: BTreeMap<u64, Asked>,
    /// Applies of what is current, with the slots that have not ended since they came.
    again: BTreeMap<u64, BTreeSet<u8>>,
    /// The request whose apply was under way before this step.
    applying: Option<u64>,
}

#[derive(Debug, Clone)]
struct Asked {
    swap: Option<(u64, [u8; 32], Swap)>,
    answer: Option<Verdict>,
    /// Nobody waits for the answer any more.
    gone: bool,
}

impl Asked {
    fn is_open(&self) -> bool {
        self.answer.is_none() && !self.gone
    }
}

/// Whether what was asked for was refused; else it stands, and something that it does not answer for is not kept.
pub(super) fn is_refused(text: &str) -> bool {
    ["cannot write", "the machine goes down", "unknown manifest"].iter().any(|why| text.starts_with(why))
}

impl Answers {
    /// Before a step.
    pub(super) fn note(&mut self, engine: &Engine) {
        self.applying = engine.applying().map(|(request, _)| request);
    }

    /// Whoever has made a request has gone.
    pub(super) fn unasked(&mut self, request: u64) {
        let again = self.again.remove(&request).is_some();
        let Some(asked) = self.requests.get_mut(&request) else { return };
        if asked.swap.is_some() && !again {
            // An apply under way goes on, and ends with an answer all the same.
            asked.gone = true;
        } else {
            // From here on an answer would be one too many.
            asked.answer.get_or_insert(Verdict::Done);
        }
    }

    /// Whether a request is one for a swap.
    pub(super) fn is_swap(&self, request: u64) -> bool {
        self.requests.get(&request).is_some_and(|asked| asked.swap.is_some())
    }

    /// Whether a request has no answer yet, wanted or not.
    pub(super) fn lasts(&self, request: u64) -> bool {
        self.requests.get(&request).is_some_and(|asked| asked.answer.is_none())
    }

    /// Whom nobody has answered.
    pub(super) fn open(&self) -> Vec<u64> {
        self.requests.iter().filter(|(_, asked)| asked.is_open()).map(|(request, _)| *request).collect()
    }
}

impl Checks {
    /// A request is about to be made.
    pub fn request(&mut self, request: u64, swap: Option<(u64, [u8; 32], Swap)>) {
        self.answers.requests.insert(request, Asked { swap, answer: None, gone: false });
    }

    /// How a request was answered.
    pub fn verdict(&self, request: u64) -> Option<Verdict> {
        self.answers.requests.get(&request)?.answer
    }

    pub(super) fn answered(&mut self, request: u64, verdict: Verdict, refused: bool) -> Found {
        let Some(asked) = self.answers.requests.get_mut(&request) else {
            return broken(
                Invariant::OneAnswer,
                format!("an answer to request {request}, which nobody made"),
            );
        };
        if let Some(earlier) = asked.answer.replace(verdict) {
            let text = format!("request {request} was answered {earlier:?} and then {verdict:?}");
            return broken(Invariant::OneAnswer, text);
        }
        if let Some((generation, digest, kind)) = asked.swap {
            let stands = match verdict {
                Verdict::Failed => kind.boots() || !refused,
                // A boot that has begun is never taken back, however far it has come.
                Verdict::Superseded => kind.boots() && self.answers.applying == Some(request),
                Verdict::Done | Verdict::Returned | Verdict::ReturnIncomplete => false,
            };
            if verdict == Verdict::Done || stands {
                self.accepted = Some((generation, digest));
            }
            self.lifts_end(verdict);
        }
        Ok(())
    }

    /// After a step: who applies what is current waits for what has not ended, and is told what came of it.
    pub(super) fn again(&mut self, engine: &Engine, world: &World, effects: &[Effect]) -> Found {
        let answers: BTreeMap<u64, (Verdict, bool)> = effects
            .iter()
            .filter_map(|e| match e {
                Effect::Answer { request, verdict, text, .. } => {
                    let whole = matches!(verdict, Verdict::Done | Verdict::Failed) && !is_refused(text);
                    Some((*request, (*verdict, whole)))
                }
                _ => None,
            })
            .collect();
        let open: BTreeSet<u8> = engine
            .nodes()
            .filter(|n| !self.has_ended(engine, world, effects, *n))
            .map(|n| slot_of(&engine.address(n)))
            .collect();
        for waits in self.answers.again.values_mut() {
            waits.retain(|slot| open.contains(slot));
        }
        // What is applied, or waits for its turn, is another matter.
        let idle = engine.applying().is_none() && engine.going_down().is_none();
        let applied = self.answers.applying;
        let new: Vec<u64> = self
            .answers
            .requests
            .iter()
            .filter(|(request, asked)| {
                let applies = matches!(asked.swap, Some((_, _, Swap::Apply | Swap::Rollback)));
                let whole = answers.get(request).is_none_or(|(_, whole)| *whole);
                let known = self.answers.again.contains_key(request) || applied == Some(**request);
                idle && applies && whole && asked.is_open() && !known
            })
            .map(|(request, _)| *request)
            .collect();
        for request in new {
            let given_up = |n: &Node| {
                let glance = engine.glance(*n);
                let service = engine.address(*n).kind == Kind::Service;
                service && glance.wanted && !glance.held && matches!(glance.state, "failed" | "backoff")
            };
            if let Some(node) = engine.nodes().find(given_up) {
                let text = format!("request {request} does not have {} tried again", engine.address(node));
                return broken(Invariant::AgainIsTrue, text);
            }
            self.answers.again.insert(request, open.clone());
        }
        for (request, (verdict, whole)) in answers {
            let Some(waits) = self.answers.again.remove(&request).filter(|_| whole) else { continue };
            if !waits.is_empty() {
                let text = format!("request {request} was answered before slots {waits:?} have ended");
                return broken(Invariant::AgainIsTrue, text);
            }
            let bad = |n: &Node| {
                let glance = engine.glance(*n);
                let state = matches!(glance.state, "failed" | "backoff" | "not kept" | "contested");
                state && glance.wanted && !glance.held
            };
            if let Some(node) = engine.nodes().find(bad).filter(|_| verdict == Verdict::Done) {
                let text = format!("request {request} is done, and {} is not", engine.address(node));
                return broken(Invariant::AgainIsTrue, text);
            }
        }
        // What was started has to stay up for a while.
        let quiet = engine.deadlines().any(|(_, node, word)| node.is_none() && word == "stable");
        if let Some(request) = self.answers.again.keys().next()
            && engine.only_awaits_devices(engine.nodes())
            && !quiet
            // Who waits for that is not busy, and is waited for.
            && !engine.nodes().any(|n| engine.status(n).cause.ends_with("the store is not open yet"))
        {
            let text =
                format!("request {request} is not answered, and only devices that are late are waited for");
            return broken(Invariant::AgainIsTrue, text);
        }
        Ok(())
    }

    /// Whether nobody is at it any more, as far as that can be seen.
    fn has_ended(&self, engine: &Engine, world: &World, effects: &[Effect], node: Node) -> bool {
        let glance = engine.glance(node);
        let address = engine.address(node);
        let slot = slot_of(&address);
        let sent = effects.iter().flat_map(|e| match e {
            Effect::Batch { steps, .. } => steps.as_slice(),
            _ => &[],
        });
        let mut steps = world.work.iter().flat_map(super::super::world::Work::open).chain(sent);
        let helps = |job: Job| !matches!(job, Job::Main | Job::AwaitPath | Job::Stop);
        let helper = world
            .procs
            .iter()
            .any(|(serial, p)| p.slot == slot && helps(p.job) && engine.job(*serial).is_some())
            || effects
                .iter()
                .any(|e| matches!(e, Effect::Spawn { node: n, job, .. } if *n == node && helps(*job)));
        if glance.held || only_late(engine, world, node) {
            return true;
        }
        if helper || steps.any(|s| world.slot(s.manifest, s.unit) == slot) {
            return false;
        }
        let due = engine.deadlines().any(|(_, n, word)| n == Some(node) && word == "state");
        let (manifest, unit) = engine.unit_of(node);
        let digest = engine.manifest(manifest).map(|m| m.unit_digest(unit));
        let clean = address.kind != Kind::File || self.clean.get(&slot).copied() == digest;
        let waits = || self.blamed(engine, node).is_ok();
        match glance.state {
            "starting" | "reloading" | "working" => false,
            // One that does not end although it was killed is given no more time.
            "stopping" => !due,
            _ if glance.leaving => true,
            "kept" | "changed" | "repaired" | "drifted" => !due && (clean || waits()),
            "not kept" => due || waits(),
            "waiting" | "unknown" | "down" => !glance.wanted || waits(),
            _ => true,
        }
    }
}

/// Whether all that a unit waits for, through others or itself, is devices that are late.
fn only_late(engine: &Engine, world: &World, node: Node) -> bool {
    let is_late = |node: Node| {
        let slot = slot_of(&engine.address(node));
        world.procs.iter().any(|(serial, p)| p.slot == slot && p.waits && engine.job(*serial).is_some())
    };
    let (mut open, mut seen) = (vec![node], BTreeSet::from([node]));
    while let Some(node) = open.pop() {
        if is_late(node) {
            continue;
        }
        let closed: Vec<Node> = engine.gates(node).iter().filter(|g| !g.open).map(|g| g.node).collect();
        if closed.is_empty() || engine.glance(node).state != "waiting" {
            return false;
        }
        open.extend(closed.into_iter().filter(|n| seen.insert(*n)));
    }
    true
}
