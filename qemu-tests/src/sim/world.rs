//! The world: processes, a worker, mounts and files that react to what the engine wants.
//!
//! Nothing here knows what the engine thinks. What happens is drawn from the seed, the unit and how often it was
//! tried, so that a shrunk history meets the same world. Each reaction lies in a queue by time; a driver may also
//! take them in any other order (the exhaustive search does).

pub mod fault;
mod hanging;
mod heal;
mod processes;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use cm_core::engine::Mono;
use cm_core::engine::effect::{Effect, Job};
use cm_core::engine::event::Exit;
use cm_core::proto::{Action, ManifestRef, Outcome, Step, StoreOp, UnitResult};
use units::kind::Spec;
use units::kind::service::Ready;
use units::manifest::flags;
use units::{EdgeKind, Manifest, UnitId};

use super::dice::Dice;
use super::graph::slot_of;

/// Something that is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Happening {
    /// The program of a spawn runs.
    Runs(u64),
    /// It could not be started: errno.
    CannotRun(u64, i32),
    /// It says that it is ready.
    SaysReady(u64),
    /// A helper says that its device is late, or that it is there.
    Waits(u64, bool),
    /// It says that it reloads.
    SaysReloading(u64),
    /// It gives a sign of life.
    Pings(u64),
    /// Its main process ends, by code (or minus the signal).
    Ends(u64, i32),
    /// The rest of its cgroup ends.
    ChildrenEnd(u64),
    /// The kernel's word of the end of the main process arrives.
    EndTold(u64, i32),
    /// The kernel's word of the empty cgroup arrives.
    EmptyTold(u64),
    /// The worker answers so many more steps.
    Answers(u64, usize),
    /// The worker says that a batch is done.
    Done(u64),
    /// The worker dies.
    WorkerDies,
    /// A batch is not handed out, since a process hangs where it leads.
    Withheld(u64),
    /// Who hung upon a slot has ended.
    Freed(u8),
    /// A record is written, or not.
    Writes(u64, bool),
    /// mountinfo lists the mount of a slot, or not.
    Lists(u8, bool),
    /// The kernel's word of what the worker has written itself.
    Echoes(u8),
    /// Somebody undoes what the worker has repaired.
    Undoes(u8),
    /// A mount was compared with its options, and differs or not.
    Compares(u8, bool),
}

/// What a happening is to the engine. Slots become nodes when they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// [`cm_core::engine::event::Event::Spawned`].
    Spawned(u64),
    /// `SpawnFailed`.
    SpawnFailed(u64, i32),
    /// `Ready`.
    Ready(u64),
    /// `Explained`: whether its device is late.
    Waits(u64, bool),
    /// `Reloading`.
    Reloading(u64),
    /// `Watchdog`.
    Watchdog(u64),
    /// `Broken`.
    Broken(u64),
    /// `Extended`.
    Extended(u64, u64),
    /// `WatchdogSet`.
    WatchdogSet(u64, u64),
    /// `Exited`.
    Exited(u64, Exit),
    /// `CgroupEmpty`.
    Empty(u64),
    /// `Results`.
    Results(u64, Vec<UnitResult>),
    /// `BatchDone`.
    BatchDone(u64),
    /// `WorkerLost`, or `WorkerLostAt` this step.
    WorkerLost(Option<Step>),
    /// `WorkerHangs` at this step.
    WorkerHangs(Step),
    /// `WorkerFreed`.
    Freed(u8),
    /// `Recorded`.
    Recorded(u64, bool),
    /// `Mounted`.
    Mounted(u8),
    /// `Unmounted`.
    Unmounted(u8),
    /// `Touched`.
    Touched(u8),
    /// `MountDiffers`, with options or without.
    Compared(u8, bool),
}

/// One spawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proc {
    /// Of which unit.
    pub slot: u8,
    /// What for.
    pub job: Job,
    /// In which manifest its specification stands.
    pub manifest: ManifestRef,
    /// And where.
    pub unit: UnitId,
    /// The main process exists.
    pub main: bool,
    /// Others exist in its cgroup.
    pub children: bool,
    /// It has said (or its state says) that it is ready.
    pub ready: bool,
    /// It is frozen; signals wait.
    pub frozen: bool,
    /// It has said that its device is late.
    pub waits: bool,
    /// How it ends as soon as it thaws.
    pub ends_later: Option<i32>,
    signal: Option<i32>,
    /// It will say that it is ready when it is thawed.
    says_later: bool,
    stubborn: bool,
    unkillable: bool,
    silent: bool,
    exit_told: bool,
    empty_told: bool,
    watchdog: u64,
    by: Option<Ready>,
}

impl Proc {
    /// Whether anything of it exists.
    pub const fn exists(&self) -> bool {
        self.main || self.children
    }
}

/// A file, a guard or what else the worker looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Thing {
    /// Which specification it is like.
    pub like: Option<[u8; 16]>,
    /// Somebody changed it.
    pub drifted: bool,
    /// It was there before it was declared: it stays when it is not declared any more.
    pub adopted: bool,
    /// The declaration and the inputs that an exec ran with.
    pub ran: Option<([u8; 16], u64)>,
}

/// What was really done to a slot since somebody began to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deed {
    /// Main processes that were started.
    pub started: u32,
    /// Times that a process was told to load its configuration again.
    pub reloaded: u32,
    /// Commands of an exec unit that were run.
    pub ran: u32,
    /// Times that `unless` found that it need not run.
    pub spared: u32,
    /// Times that a run was written down.
    pub noted: u32,
    /// Times that a thing was written.
    pub written: u32,
    /// Times that it was taken away: a thing removed, a mount unmounted.
    pub removed: u32,
}

/// A batch that the worker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Its number.
    pub number: u64,
    steps: Vec<Step>,
    next: usize,
    failed: BTreeSet<u8>,
    corrects: bool,
}

impl Work {
    /// The steps without an answer.
    pub fn open(&self) -> &[Step] {
        &self.steps[self.next..]
    }
}

/// The world.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    /// Which faults it shows.
    pub faults: u32,
    /// From now on everything works.
    pub kind: bool,
    /// Reactions to come, by time.
    pub pending: BTreeMap<(Mono, u64), Happening>,
    sequence: u64,
    /// Every spawn of which something exists or is to be told.
    pub procs: BTreeMap<u64, Proc>,
    /// Slots that are mounted.
    pub mounts: BTreeSet<u8>,
    /// Slots whose kernel module is loaded.
    pub modules: BTreeSet<u8>,
    /// What was done.
    pub deeds: BTreeMap<u8, Deed>,
    /// Whether a process was ended since somebody set this back, as it gave no sign of life in time.
    pub late: bool,
    /// What the worker looks at, by slot.
    pub things: BTreeMap<u8, Thing>,
    /// Slots that somebody fights over, and how often they will still undo a repair.
    pub vandals: BTreeMap<u8, u32>,
    /// What the worker is at.
    pub work: Option<Work>,
    /// Slots upon which a worker hangs, and cannot even be killed.
    pub hangs: BTreeSet<u8>,
    /// Slots upon which one does that was given up.
    pub stuck: BTreeSet<u8>,
    /// At which step the worker is, as far as its memory says.
    position: Option<Step>,
    records: Vec<u64>,
    /// The manifests that the worker holds.
    pub manifests: BTreeMap<ManifestRef, Manifest>,
    tries: BTreeMap<(u8, u8), u32>,
}

/// What somebody had put there before.
fn foreign(seed: u64, faults: u32) -> BTreeMap<u8, Thing> {
    let mut dice = Dice::of(&[seed, 28]);
    let there = (0..13).filter(|_| dice.chance(250)).filter(|_| faults & fault::FOREIGN != 0);
    there.map(|slot| (slot, Thing { like: Some([0xff; 16]), adopted: true, ..Thing::default() })).collect()
}

const STOP: i32 = 15;
const HANGUP: i32 = 1;
/// What a missed watchdog sends.
const ABORT: i32 = 6;

impl World {
    /// An empty world.
    pub fn new(seed: u64, faults: u32) -> World {
        World {
            seed,
            faults,
            kind: false,
            pending: BTreeMap::new(),
            sequence: 0,
            procs: BTreeMap::new(),
            mounts: BTreeSet::new(),
            modules: BTreeSet::new(),
            deeds: BTreeMap::new(),
            late: false,
            things: foreign(seed, faults),
            vandals: BTreeMap::new(),
            work: None,
            hangs: hanging::of(seed, faults),
            stuck: BTreeSet::new(),
            position: None,
            records: Vec::new(),
            manifests: BTreeMap::new(),
            tries: BTreeMap::new(),
        }
    }

    /// Adds a reaction.
    pub fn soon(&mut self, now: Mono, micros: u64, what: Happening) {
        self.sequence += 1;
        let at = Mono(now.0 + 1 + micros * 1000);
        self.pending.insert((at, self.sequence), what);
    }

    /// The next reaction's time.
    pub fn next(&self) -> Option<Mono> {
        self.pending.keys().next().map(|(at, _)| *at)
    }

    /// Whether anything but signs of life is to come.
    pub fn at_rest(&self) -> bool {
        self.pending.values().all(|h| matches!(h, Happening::Pings(_)))
    }

    fn can(&self, fault: u32) -> bool {
        !self.kind && self.faults & fault != 0
    }

    /// The fate of this try of that slot.
    fn fate(&mut self, slot: u8, purpose: u8) -> Dice {
        let count = self.tries.entry((slot, purpose)).or_default();
        *count += 1;
        Dice::of(&[self.seed, u64::from(slot), u64::from(purpose), u64::from(*count)])
    }

    /// What a slot is said to be by a manifest.
    pub fn spec(&self, manifest: ManifestRef, unit: UnitId) -> Option<Spec> {
        self.manifests.get(&manifest)?.spec(unit)
    }

    /// The slot of a unit.
    pub fn slot(&self, manifest: ManifestRef, unit: UnitId) -> u8 {
        self.manifests.get(&manifest).map_or(u8::MAX, |m| slot_of(&m.address(unit)))
    }

    /// The spawn that is the main process of a slot at the moment.
    pub fn main_of(&self, slot: u8) -> Option<u64> {
        self.procs
            .iter()
            .find(|(_, p)| p.slot == slot && p.job == Job::Main && p.exists())
            .map(|(serial, _)| *serial)
    }

    /// A process asks for a watchdog, and gives its signs of life from then on.
    pub fn feed(&mut self, now: Mono, serial: u64, every: u64) {
        let Some(proc) = self.procs.get_mut(&serial) else { return };
        proc.watchdog = every;
        if !self.pending.values().any(|h| *h == Happening::Pings(serial)) {
            self.soon(now, every * 500, Happening::Pings(serial));
        }
    }

    /// Does what the engine wants.
    pub fn react(&mut self, now: Mono, effect: &Effect) {
        match effect {
            Effect::Spawn { serial, manifest, unit, job, .. } => {
                self.spawn(now, *serial, *manifest, *unit, *job);
            }
            Effect::Signal { serial, signal } => {
                if let Some(proc) = self.procs.get(serial) {
                    match *signal {
                        HANGUP => self.deeds.entry(proc.slot).or_default().reloaded += 1,
                        ABORT => self.late = true,
                        _ => {}
                    }
                }
                self.signal(now, *serial, *signal);
            }
            Effect::Kill { serial } => self.kill(now, *serial),
            Effect::Freeze { serial, frozen } => {
                if let Some(proc) = self.procs.get_mut(serial) {
                    proc.frozen = *frozen;
                    if !*frozen && std::mem::take(&mut proc.says_later) {
                        self.soon(now, 1, Happening::SaysReady(*serial));
                    }
                }
                if let Some(proc) = self.procs.get_mut(serial)
                    && let (false, Some(end)) = (*frozen, proc.ends_later.take())
                {
                    self.soon(now, 2, Happening::Ends(*serial, end));
                }
                if let Some(proc) = self.procs.get_mut(serial)
                    && let (false, Some(signal)) = (*frozen, proc.signal.take())
                {
                    self.signal(now, *serial, signal);
                }
            }
            Effect::Batch { batch, steps, intent, .. } => {
                let corrects = *intent == cm_core::proto::Intent::Correct;
                self.begin(now, *batch, steps.clone(), corrects);
            }
            // Nobody waits for its end, which may never come.
            Effect::KillWorker => match self.withheld() {
                Some(number) => self.soon(now, 0, Happening::Withheld(number)),
                None => {
                    self.forget_worker();
                    self.soon(now, 0, Happening::WorkerDies);
                }
            },
            Effect::Store { token, op } => self.store(now, *token, op),
            Effect::Forget { manifest } => {
                self.manifests.remove(manifest);
            }
            Effect::Publish { .. }
            | Effect::Compare { .. }
            | Effect::Log { .. }
            | Effect::Answer { .. }
            | Effect::Converged
            | Effect::Leave { .. } => {}
        }
    }

    fn is_mounted(&self, serial: u64) -> bool {
        self.procs.get(&serial).is_some_and(|p| self.mounts.contains(&p.slot))
    }

    fn is_loaded(&self, serial: u64) -> bool {
        self.procs.get(&serial).is_some_and(|p| self.modules.contains(&p.slot))
    }

    fn signal(&mut self, now: Mono, serial: u64, signal: i32) {
        let Some(proc) = self.procs.get_mut(&serial) else { return };
        if proc.frozen {
            proc.signal = Some(signal);
            return;
        }
        let (slot, stubborn) = (proc.slot, proc.stubborn);
        let mut dice = self.fate(slot, 20);
        let after = dice.delay() / 4;
        match signal {
            HANGUP => {
                if self.can(fault::RELOAD) && dice.chance(60) {
                    self.soon(now, after, Happening::Ends(serial, -HANGUP));
                }
            }
            STOP if stubborn => {}
            STOP => {
                let end = if dice.chance(500) { -STOP } else { 0 };
                self.soon(now, after, Happening::Ends(serial, end));
                if !(self.can(fault::CHILDREN) && dice.chance(100)) {
                    self.soon(now, after, Happening::ChildrenEnd(serial));
                }
            }
            other => {
                self.soon(now, after, Happening::Ends(serial, -other));
                self.soon(now, after, Happening::ChildrenEnd(serial));
            }
        }
    }

    fn kill(&mut self, now: Mono, serial: u64) {
        let Some(proc) = self.procs.get(&serial) else { return };
        let (slot, unkillable) = (proc.slot, proc.unkillable);
        let mut dice = self.fate(slot, 21);
        let after = dice.below(20_000) + if unkillable { 15_000_000 } else { 0 };
        self.soon(now, after, Happening::Ends(serial, -9));
        self.soon(now, after, Happening::ChildrenEnd(serial));
    }

    fn begin(&mut self, now: Mono, number: u64, steps: Vec<Step>, corrects: bool) {
        let mut dice = self.fate(0, 22);
        let count = steps.len();
        self.position = None;
        if self.withholds(now, number, &steps, corrects) {
            return;
        }
        if !self.kind && !self.hangs.is_empty() {
            // All of it is looked at before the first answer.
            let hangs = |step: &&Step| self.hangs.contains(&self.slot(step.manifest, step.unit));
            self.position = steps.iter().find(hangs).copied();
        } else if self.can(fault::WORKER) && self.fate(0, 32).chance(500) {
            self.position = steps.first().copied();
        }
        let hangs =
            !self.kind && self.position.is_some_and(|s| self.hangs.contains(&self.slot(s.manifest, s.unit)));
        self.work = Some(Work { number, steps, next: 0, failed: BTreeSet::new(), corrects });
        if hangs {
            return;
        }
        let mut at = 0;
        let mut left = count;
        while left > 0 {
            if self.can(fault::WORKER) {
                if dice.chance(40) {
                    self.soon(now, at + dice.delay(), Happening::WorkerDies);
                    return;
                }
                if dice.chance(20) {
                    return;
                }
            }
            let part = 1 + usize::try_from(dice.below(left as u64)).unwrap_or(0);
            at += 1 + dice.delay();
            // A step that got no answer although the batch is done: a worker with a bug.
            let forgets = self.can(fault::WORKER) && part == left && dice.chance(10);
            if !forgets {
                self.soon(now, at, Happening::Answers(number, part));
            }
            left -= part;
        }
        self.soon(now, at + 1 + dice.below(2_000), Happening::Done(number));
    }

    fn store(&mut self, now: Mono, token: u64, op: &StoreOp) {
        let mut dice = self.fate(0, 23);
        let _ = op;
        self.records.push(token);
        if self.can(fault::WORKER) && dice.chance(30) {
            // It is lost with the worker, or the worker hangs over it.
            if dice.chance(500) {
                self.soon(now, dice.delay(), Happening::WorkerDies);
            }
            return;
        }
        let good = !(self.can(fault::RECORD) && dice.chance(50));
        self.soon(now, dice.delay(), Happening::Writes(token, good));
    }

    /// Lets something happen; `None` when it cannot happen any more.
    pub fn fire(&mut self, now: Mono, what: &Happening) -> Option<Told> {
        match *what {
            Happening::Runs(serial) => self.runs(now, serial),
            Happening::CannotRun(serial, errno) => {
                self.procs.remove(&serial)?;
                Some(Told::SpawnFailed(serial, errno))
            }
            Happening::SaysReady(serial) => {
                let proc = self.procs.get_mut(&serial).filter(|p| p.exists())?;
                if proc.frozen {
                    proc.says_later = true;
                    return None;
                }
                proc.ready = true;
                Some(Told::Ready(serial))
            }
            Happening::Waits(serial, late) => self.waits(serial, late),
            Happening::SaysReloading(serial) => {
                self.procs.get(&serial).filter(|p| p.main && p.ready && !p.frozen)?;
                Some(Told::Reloading(serial))
            }
            Happening::Pings(serial) => {
                let proc = self.procs.get(&serial).filter(|p| p.exists())?;
                let (every, silent, frozen) = (proc.watchdog, proc.silent, proc.frozen);
                if silent && !self.kind && self.fate(0, 24).chance(200) {
                    return None;
                }
                self.soon(now, every * 500, Happening::Pings(serial));
                (!frozen).then_some(Told::Watchdog(serial))
            }
            Happening::Ends(serial, end) => {
                self.ends(now, serial, end);
                None
            }
            Happening::ChildrenEnd(serial) => {
                let proc = self.procs.get_mut(&serial)?;
                if proc.children {
                    proc.children = false;
                    self.maybe_empty(now, serial);
                }
                None
            }
            Happening::EndTold(serial, end) => {
                let proc = self.procs.get_mut(&serial)?;
                proc.exit_told = true;
                self.bury(serial);
                let exit = if end < 0 { Exit::Signal(-end) } else { Exit::Code(end) };
                Some(Told::Exited(serial, exit))
            }
            Happening::EmptyTold(serial) => {
                let proc = self.procs.get_mut(&serial)?;
                proc.empty_told = true;
                self.bury(serial);
                Some(Told::Empty(serial))
            }
            Happening::Answers(number, part) => {
                let results = self.answers(number, part)?;
                self.written(now, &results);
                Some(Told::Results(number, results))
            }
            Happening::Done(number) => {
                self.work.as_ref().filter(|w| w.number == number)?;
                self.work = None;
                self.position = None;
                Some(Told::BatchDone(number))
            }
            Happening::WorkerDies => {
                self.forget_worker();
                Some(self.worker_dies(now))
            }
            Happening::Withheld(number) => self.refused(number),
            Happening::Freed(slot) => self.freed(now, slot),
            Happening::Writes(token, good) => {
                self.records.retain(|t| *t != token);
                Some(Told::Recorded(token, good))
            }
            Happening::Echoes(slot) => Some(Told::Touched(slot)),
            Happening::Undoes(slot) => {
                let left = self.vandals.get_mut(&slot).filter(|left| **left > 0)?;
                *left -= 1;
                self.things.get_mut(&slot)?.drifted = true;
                Some(Told::Touched(slot))
            }
            Happening::Compares(slot, differs) => Some(Told::Compared(slot, differs)),
            Happening::Lists(slot, there) => {
                // The list is compared when it is read: what has changed back by then is never told.
                (self.mounts.contains(&slot) == there).then_some(if there {
                    Told::Mounted(slot)
                } else {
                    Told::Unmounted(slot)
                })
            }
        }
    }

    /// Whether a reaction may come before all others: causes come before what they cause.
    pub fn may_come(&self, index: usize) -> bool {
        let Some(what) = self.pending.values().nth(index) else { return false };
        let serial = match *what {
            Happening::SaysReady(s)
            | Happening::Waits(s, _)
            | Happening::SaysReloading(s)
            | Happening::Pings(s)
            | Happening::Ends(s, _)
            | Happening::ChildrenEnd(s) => s,
            Happening::Done(number) => {
                return !self.pending.values().any(|h| matches!(h, Happening::Answers(n, _) if *n == number));
            }
            _ => return true,
        };
        !self.pending.values().any(|h| *h == Happening::Runs(serial))
    }

    /// Everything that is so, reactions to come apart.
    pub fn state_hash(&self, hash: &mut impl Hasher) {
        for (serial, p) in &self.procs {
            (serial, p.slot, p.main, p.children, p.ready, p.frozen, p.ends_later, p.signal).hash(hash);
            (p.exit_told, p.empty_told, p.says_later).hash(hash);
        }
        self.mounts.hash(hash);
        self.modules.hash(hash);
        self.things.hash(hash);
        self.records.hash(hash);
        self.stuck.hash(hash);
        if let Some(work) = &self.work {
            (work.number, work.next, work.steps.len()).hash(hash);
            work.failed.hash(hash);
        }
    }
}

fn purpose(job: Job) -> u8 {
    match job {
        Job::Main => 1,
        Job::Reload => 2,
        Job::Stop => 3,
        Job::AwaitPath => 4,
        Job::Mount => 5,
        Job::Unmount => 6,
        Job::Module => 7,
        Job::Unless => 8,
        Job::Exec => 9,
        Job::Undo => 10,
    }
}
