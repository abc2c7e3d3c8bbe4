//! Workers that were given up and cannot be killed, since the call that they are in does not end. No other is sent where
//! they hang before they have ended, or something else is mounted there: each would be one more process to stay.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use cm_core::engine::event::Event;
use cm_core::engine::{Mono, Node, SUSPECT_MS};
use cm_core::mountinfo::Tree;
use cm_core::proto::{Intent, ManifestRef, Position, Step};
use serde::{Deserialize, Serialize};
use units::UnitId;
use units::value::path::is_within;

use super::workers::Worker;
use super::{Shell, mounts, now};
use crate::sys::{mount, raw, reap};

/// A process of a worker that was given up, until it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    pid: i32,
    /// The worker that it is, or belongs to.
    worker: i32,
    node: Node,
    /// What it is at, which may be in another manifest by now.
    unit: String,
    path: Option<String>,
    /// The mark and the point of the mount that the path lies on.
    mount: Option<(u64, String)>,
    /// When it was killed.
    since: Mono,
}

impl Stuck {
    /// The mount, unless it is the root: what does not answer may be all of it.
    fn point(&self) -> Option<&str> {
        self.mount.as_ref().map(|(_, point)| point.as_str()).filter(|point| *point != "/")
    }
}

/// A batch that waits for a process to end: most that are killed do so in no time.
#[derive(Debug)]
struct Parked {
    batch: u64,
    generation: u64,
    intent: Intent,
    steps: Vec<Step>,
    until: Mono,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hanging {
    all: Vec<Stuck>,
    parked: Option<Parked>,
    changed: bool,
}

impl Hanging {
    /// What the next PID 1 is to know, if that is something else than at the last call.
    pub(super) fn take_changed(&mut self) -> Option<&[Stuck]> {
        std::mem::take(&mut self.changed).then_some(self.all.as_slice())
    }

    /// When who was killed has had its time to end.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.parked.as_ref().map(|p| p.until)
    }

    /// What the next PID 1 is to know.
    pub(super) fn all(&self) -> &[Stuck] {
        &self.all
    }
}

/// Where a worker was, and which of its processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    step: (ManifestRef, UnitId),
    pid: i32,
}

impl Lost {
    /// Reads what a worker that is to be given up has left. To be called before it is killed.
    pub(super) fn of(worker: &Worker) -> Option<Lost> {
        let mut bytes = [0; Position::SIZE];
        worker.position.as_ref()?.read_exact_at(&mut bytes, 0).ok()?;
        let Position { step, pid } = Position::from_bytes(bytes);
        // A committer writes it that is confined, and is not believed that it is somebody else.
        let of_worker = |pid: &i32| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok();
            stat.and_then(|s| reap::parse_stat(&s)).is_some_and(|s| s.ppid == worker.link.pid)
        };
        let pid = i32::try_from(pid).ok().filter(of_worker).unwrap_or(worker.link.pid);
        Some(Lost { step: step?, pid })
    }
}

impl Shell {
    /// What the engine is told of a worker that had a batch. One that `hangs` may be impossible to kill.
    pub(super) fn lost_at(&mut self, lost: Option<Lost>, worker: i32, hangs: bool) -> Event {
        let Some(Lost { step: (manifest, unit), pid }) = lost else { return Event::WorkerLost };
        let path = self.engine.path_of((manifest, unit));
        let mountinfo = mount::table().unwrap_or_default();
        let name = self.engine.manifest(manifest).map(|m| m.address(unit).to_string());
        let (Some(node), Some(name)) = (self.engine.node_in(manifest, unit), name) else {
            return Event::WorkerLost;
        };
        let mount = path.as_deref().and_then(|path| self.mount_of(&mountinfo, node, path));
        let stuck = Stuck { pid, worker, node, unit: name, path, mount, since: now() };
        let mount = stuck.point().map(str::to_owned);
        if hangs && is_there(pid) {
            self.hanging.all.push(stuck);
            self.hanging.changed = true;
        }
        Event::WorkerLostAt { manifest, unit, mount }
    }

    /// The mount that what a unit owns lies on: links that its path leads through may lead into one.
    fn mount_of(&self, mountinfo: &str, node: Node, path: &str) -> Option<(u64, String)> {
        let tree = Tree::read(mountinfo);
        let seen = tree.seen().into_keys().filter(|point| point != "/");
        let real = seen.filter(|point| self.watches.index().owners_at(point).contains(&node));
        let real = real.max_by_key(|point| point.len());
        mounts::holding(mountinfo, real.as_deref().unwrap_or(path))
    }

    /// Who lies where somebody hangs, by whatever name.
    fn below_stuck(&self, stuck: &Stuck) -> BTreeSet<Node> {
        stuck.point().map(|point| self.watches.index().owners_at(point)).unwrap_or_default()
    }

    /// The first of these steps that leads to where somebody hangs.
    fn stuck_at<'a>(&self, steps: &'a [Step]) -> Option<(&'a Step, &Stuck)> {
        let all: Vec<_> = self.hanging.all.iter().map(|s| (s, self.below_stuck(s))).collect();
        steps.iter().find_map(|step| {
            let unit = self.engine.manifest(step.manifest)?.address(step.unit).to_string();
            let path = self.engine.path_of((step.manifest, step.unit));
            let node = self.engine.node_in(step.manifest, step.unit);
            let lies = |s: &Stuck| path.as_deref().zip(s.point()).is_some_and(|(p, at)| is_within(p, at));
            let (stuck, _) = all.iter().find(|(s, below)| {
                s.unit == unit || lies(s) || node.is_some_and(|node| below.contains(&node))
            })?;
            Some((step, *stuck))
        })
    }

    /// Whether a batch is not handed out, for somebody hangs where it leads.
    pub(super) fn withholds(&mut self, batch: u64, generation: u64, intent: Intent, steps: &[Step]) -> bool {
        if self.hanging.all.is_empty() {
            return false;
        }
        let Some((step, stuck)) = self.stuck_at(steps) else { return false };
        let until = stuck.since.after_ms(SUSPECT_MS);
        if until > now() {
            self.hanging.parked = Some(Parked { batch, generation, intent, steps: steps.to_vec(), until });
        } else {
            let event = hangs(step, stuck);
            self.queue.push_back(event);
        }
        true
    }

    /// Who was killed long enough ago and is there still does not end soon.
    pub(super) fn hanging_if_due(&mut self, at: Mono) {
        if self.hanging.deadline().is_some_and(|due| due <= at) {
            self.give_parked_up();
        }
    }

    /// Whether what the engine does not wait for any more is a batch that nobody has.
    pub(super) fn give_parked_up(&mut self) -> bool {
        let Some(parked) = self.hanging.parked.take() else { return false };
        let found = self.stuck_at(&parked.steps).map(|(step, stuck)| hangs(step, stuck));
        self.queue.push_back(found.unwrap_or(Event::WorkerLost));
        true
    }

    /// A process has ended that may be one that hung.
    pub(super) fn stuck_ended(&mut self, pid: i32) {
        // What belonged to the worker is a child of ours from now on, unless it was gone already.
        self.free(|s| s.pid == pid || (s.worker == pid && !is_there(s.pid)));
    }

    /// What is mounted has changed: what hangs may do so upon what nobody sees any more.
    pub(super) fn compare_hanging(&mut self, mountinfo: &str) {
        let is_elsewhere = |s: &&Stuck| {
            let of = |path: &str| self.mount_of(mountinfo, s.node, path) != s.mount;
            s.path.as_deref().is_some_and(of)
        };
        let elsewhere: Vec<i32> = self.hanging.all.iter().filter(is_elsewhere).map(|s| s.pid).collect();
        self.free(|s| elsewhere.contains(&s.pid));
    }

    /// What an earlier PID 1 knew of.
    pub(super) fn adopt_hanging(&mut self, all: Vec<Stuck>) {
        self.hanging.all = all;
        self.free(|s| !is_there(s.pid));
    }

    fn free(&mut self, ended: impl Fn(&Stuck) -> bool) {
        if !self.hanging.all.iter().any(&ended) {
            return;
        }
        let (gone, left) = std::mem::take(&mut self.hanging.all).into_iter().partition(ended);
        let gone: Vec<Stuck> = gone;
        self.hanging.all = left;
        self.hanging.changed = true;
        let (desired, _) = self.engine.desired();
        let mut nodes: Vec<Node> = gone.iter().map(|s| s.node).collect();
        if let Some(manifest) = self.engine.manifest(desired) {
            let below = gone.iter().filter_map(Stuck::point).flat_map(|p| mounts::units_below(manifest, p));
            nodes.extend(below.filter_map(|unit| self.engine.node_in(desired, unit)));
        }
        nodes.extend(gone.iter().flat_map(|stuck| self.below_stuck(stuck)));
        nodes.sort_unstable();
        nodes.dedup();
        self.queue.push_back(Event::WorkerFreed { nodes });
        if let Some(Parked { batch, generation, intent, steps, .. }) = self.hanging.parked.take() {
            self.ask_batch(batch, generation, intent, &steps);
        }
    }
}

fn is_there(pid: i32) -> bool {
    raw::kill(pid, 0).is_ok()
}

fn hangs(step: &Step, stuck: &Stuck) -> Event {
    let mount = stuck.point().map(str::to_owned);
    Event::WorkerHangs { manifest: step.manifest, unit: step.unit, mount, pid: stuck.pid }
}
