//! One event at a time through the engine, each at least once, whatever init dies of meanwhile.
//!
//! An event stands in the live table before it is in hand, and until the state after it stands there. Who takes over
//! from an init that died does it once more, on the state before it, at the moment at which it was done then; so the
//! engine wants the same effects again, and those that were carried out are left out by their count.
//!
//! What has killed init twice within a minute is dropped: an event that is about many units is taken apart first, so
//! that only the part that kills goes, and its unit is left alone until somebody looks.

use cm_core::engine::effect::{Effect, Level};
use cm_core::engine::event::{Event, Verb};
use cm_core::engine::{Mono, Node};
use serde::{Deserialize, Serialize};

use super::fnv::fnv;
use super::swap::BootStage;
use super::{Shell, launch, now};
use crate::sys::{cgroup, crash};

/// One minute, in nanoseconds: what happened longer ago says nothing about now.
pub(super) const WINDOW: u64 = 60_000_000_000;
/// Deaths within [`WINDOW`] after which nothing but reaping and answering is tried any more.
const DEATHS: usize = 5;
/// Deaths of one event after which it is dropped.
const DEADLY: u8 = 2;

/// How far the events are done, as the live table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The first event that the engine's records know nothing of.
    pub next: u64,
    /// The event of which effects have been carried out; 0 when there is none.
    pub event: u64,
    /// How many of them.
    pub effects: u32,
    /// When it, and all from `next` on, was done.
    pub moment: Mono,
}

/// What one died of, over deaths.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Obituary {
    /// Moments.
    deaths: Vec<Mono>,
    /// Events that init died of, by hash, and how often.
    suspects: Vec<(u64, u8)>,
    /// Units of which an event was dropped: the next that init dies of and that is about them needs no second death.
    quarantined: Vec<Node>,
    /// Numbers of events that are parts of one that init died of twice (from, to): one more death is enough.
    parts: (u64, u64),
}

fn hash(event: &Event) -> u64 {
    fnv(format!("{event:?}").bytes())
}

/// Whether carrying it out twice would be something else than once.
fn lasts(effect: &Effect) -> bool {
    !matches!(effect, Effect::Log { .. } | Effect::Publish { .. })
}

impl Shell {
    pub(super) fn step(&mut self, number: u64, event: Event) {
        if self.reaps_only() || self.is_deadly(number, &event) {
            return;
        }
        self.live.set_in_hand(number);
        let again = self.progress.filter(|p| number <= p.event);
        let moment = again.map_or(self.moment, |p| p.moment);
        let skipped = again.filter(|p| number == p.event).map_or(0, |p| p.effects);
        let mut effects = Vec::new();
        let boots = self.boots(&event);
        self.fault_in_step(&event);
        let told = self.engine.apply_news();
        self.engine.step(moment, event, &mut effects);
        let mut news = self.engine.apply_news().filter(|news| told.as_ref() != Some(news));
        // ORDER: a return before what units tell of it; that all is up after the last of them has told so.
        if let Some(news) = news.take_if(|_| self.engine.is_returning()) {
            self.tell_of_apply(&news);
        }
        for node in self.engine.departed() {
            // Its number is the next unit's, which has said nothing yet.
            self.said.forget(node);
            self.places.forget(node);
        }
        let mut done = 0;
        for effect in effects {
            if !lasts(&effect) {
                self.carry_out(effect);
                continue;
            }
            done += 1;
            if done <= skipped {
                continue;
            }
            if again.is_some() && done == skipped + 1 {
                self.clear_away(&effect);
            }
            let fault = self.fault_after(&effect);
            self.carry_out(effect);
            self.flush_workers();
            self.effects_done = Some(Progress { next: 0, event: number, effects: done, moment });
            self.write_shell();
            self.suffer(fault);
        }
        self.effects_done = None;
        if std::mem::take(&mut self.has_spawned) {
            // What was just started comes to its program before it is written down what that means to the units, which
            // takes as long as a start: all that a successor needs to know of it stands in the table already.
            let _never_fails = nix::sched::sched_yield();
        }
        if let Some(news) = news {
            self.tell_of_apply(&news);
        }
        if boots {
            // What was refused is replaced by hand, perhaps that of who sits at the shell.
            if self.boot != BootStage::Refused {
                self.end_emergency();
            }
            self.set_boot(BootStage::Done);
        }
        // A step that asked for nothing can be repeated by the next PID 1.
        if done > 0 || boots {
            self.write_live();
        }
        self.live.set_in_hand(0);
    }

    /// Init died while it carried this out: what it had started and not noted is not left beside what is started now.
    fn clear_away(&mut self, effect: &Effect) {
        if let Effect::Spawn { node, serial, job, .. } = effect
            && let Some(tree) = &self.tree
        {
            let name = launch::cgroup_name(&self.engine.address(*node).to_string(), *job);
            for cgroup in [cgroup::spare_name(&name, *serial), name] {
                // What was noted stays: it is an earlier spawn's.
                if !self.spawns.in_cgroup(&cgroup) && tree.populated(&cgroup).unwrap_or(false) {
                    drop(tree.kill(&cgroup));
                }
            }
        }
    }

    /// Who takes over says what its predecessor died of.
    pub(super) fn mourn(&mut self) {
        let at = now();
        self.obituary.deaths.retain(|d| at.0.saturating_sub(d.0) < WINDOW);
        if self.obituary.deaths.is_empty() {
            self.obituary = Obituary::default();
        }
        let Some(event) = self.queue.get(self.live.in_hand()) else { return };
        let hash = hash(event);
        let text = format!("the init before died of {}: doing it once more", in_short(event));
        match self.obituary.suspects.iter_mut().find(|(h, _)| *h == hash) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.obituary.suspects.push((hash, 1)),
        }
        self.shell_changed = true;
        self.say(Level::Error, None, &text);
    }

    /// Deaths, which are counted outside of the table: moments on the engine's clock.
    pub fn remember_deaths(&mut self, moments: &[u64]) {
        let at = now();
        let deaths = &mut self.obituary.deaths;
        deaths.extend(moments.iter().copied().map(Mono));
        deaths.retain(|d| at.0.saturating_sub(d.0) < WINDOW);
        deaths.sort_unstable();
        deaths.dedup();
        self.shell_changed |= !moments.is_empty();
        // Whether an init that died had come to it nobody knows, and twice is as good as once.
        self.coldplug_due |= !moments.is_empty() && !self.options.container;
    }

    /// Whether init has died so often that only reaping and answering is left.
    pub(super) fn reaps_only(&self) -> bool {
        self.obituary.deaths.iter().filter(|d| crash::is_own(d.0)).count() >= DEATHS
    }

    /// Whether an event has killed init too often. It is dropped then, and its unit left alone until somebody looks;
    /// or its parts take its place.
    fn is_deadly(&mut self, number: u64, event: &Event) -> bool {
        let recent = self.obituary.deaths.last().is_some_and(|d| now().0.saturating_sub(d.0) < WINDOW);
        // A tick says nothing but that time passes: without it there would be no engine.
        if !recent || self.obituary.suspects.is_empty() || *event == Event::Tick {
            return false;
        }
        let hash = hash(event);
        let is_known = |e: &Event| self.units_of(e).iter().any(|n| self.obituary.quarantined.contains(n));
        let part = (self.obituary.parts.0..self.obituary.parts.1).contains(&number);
        let enough = if part || is_known(event) { 1 } else { DEADLY };
        if !self.obituary.suspects.iter().any(|(h, count)| *h == hash && *count >= enough) {
            return false;
        }
        let mut parts = self.parts(event);
        if parts.len() > 1 {
            parts.retain(|part| !is_known(part));
            let text = format!("took apart what init died of: {}", in_short(event));
            self.say(Level::Error, None, &text);
            let count = u64::try_from(parts.len()).unwrap_or_default();
            self.queue.put_first(parts);
            self.obituary.parts = (self.queue.next(), self.queue.next() + count);
            self.shell_changed = true;
            // ORDER: what is decided stands in the table before any of them is tried.
            self.write_live();
            return true;
        }
        self.say(Level::Error, None, &format!("dropped an event that init died of: {}", in_short(event)));
        self.swap_dropped(event);
        for node in self.units_of(event) {
            self.obituary.quarantined.push(node);
            self.shell_changed = true;
            let note = "init: quarantined: an event of this unit killed init twice".to_owned();
            self.queue.push_back(Event::Asked { request: 0, verb: Verb::Hold, node, note, until: None });
        }
        self.write_live();
        true
    }

    /// The same as several events, each about one unit; nothing for what cannot be taken apart.
    fn parts(&self, event: &Event) -> Vec<Event> {
        let touched = |node| Event::Touched { nodes: vec![node] };
        match event {
            Event::Touched { nodes } => nodes.iter().copied().map(touched).collect(),
            Event::Overflowed => self.engine.nodes().map(touched).collect(),
            Event::Results { batch, results } => {
                results.iter().map(|r| Event::Results { batch: *batch, results: vec![r.clone()] }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The units that an event is about by name.
    pub(super) fn units_of(&self, event: &Event) -> Vec<Node> {
        match event {
            Event::Spawned { serial }
            | Event::SpawnFailed { serial, .. }
            | Event::Exited { serial, .. }
            | Event::Ready { serial }
            | Event::Reloading { serial }
            | Event::Watchdog { serial }
            | Event::Broken { serial }
            | Event::Extended { serial, .. }
            | Event::WatchdogSet { serial, .. }
            | Event::Explained { serial, .. }
            | Event::CgroupEmpty { serial } => {
                let node = self.engine.job(*serial).map(|(node, _)| node);
                let spawn = || self.spawns.get(*serial).map(|s| s.record.node);
                node.or_else(spawn).into_iter().collect()
            }
            Event::Mounted { node }
            | Event::Unmounted { node }
            | Event::MountDiffers { node, .. }
            | Event::Asked { node, .. }
            | Event::CulpritSeen { node, .. } => vec![*node],
            Event::Touched { nodes } | Event::WorkerFreed { nodes } => nodes.clone(),
            Event::Results { results, .. } => {
                results.iter().filter_map(|r| self.engine.node_in(r.manifest, r.unit)).collect()
            }
            Event::Swapped { .. }
            | Event::BatchDone { .. }
            | Event::WorkerLost
            | Event::WorkerLostAt { .. }
            | Event::WorkerHangs { .. }
            | Event::Recorded { .. }
            | Event::StoreOpened
            | Event::Overflowed
            | Event::Tick
            | Event::Unasked { .. }
            | Event::ShutdownAsked { .. } => Vec::new(),
        }
    }
}

/// An event for a line of the log: one of 10,000 results would be a megabyte.
fn in_short(event: &Event) -> String {
    let mut text = format!("{event:?}");
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
        text.push('…');
    }
    text
}
