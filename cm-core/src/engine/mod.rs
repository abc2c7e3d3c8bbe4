//! # The engine: (state, event, now) → effects
//!
//! A pure function. No clock, no descriptor, no randomness, no hash-ordered iteration: the same events give the
//! same effects, byte for byte. Everything about ordering, restart, refresh, return and shutdown is decided here.
//!
//! ## Units
//! *Live* units (service, mount, target) can lose readiness; *latched* ones (files, users, execs …) are ready once
//! kept, and drift makes them dirty without taking anything down. Each unit has one of three wants: up, down,
//! absent. For latched units "down" is a step that does nothing, but it takes its place in the order.
//!
//! ```text
//!              want up, gate open                     ready seen
//!  down ─► waiting ───────────► starting ───────────────► ready ◄──► reloading
//!   ▲        ▲  ▲                  │ exit, T                │ exit, want, bound dep lost, spec differs
//!   │        │  └── backoff ◄──────┤                        ▼
//!   └────────┴───────────┴──── stopping→next ◄──────────────┘        failed, done
//! ```
//! Every way out of a process goes through `stopping→next`: the next state is entered when the main process is
//! reaped *and* its cgroup is empty, so nothing of an earlier start ever runs beside a later one.
//!
//! ## Two kinds of input
//! *Facts* (exits, readiness, results, deadlines) come with the serial number of the spawn or batch they belong to;
//! one of an earlier spawn is dropped. `service::happen` is the table of fact × state.
//! *Conditions* (wanted or not, gate open or not, bound dependency there or not, specification and inputs as desired
//! or not) are levels, not edges: whenever one may have changed the unit is queued, and `evaluate` looks at it.
//! Propagation drains that queue; nothing recurses over the graph. Within a step all ends that has to, before anything
//! begins: what is lost at one end of the graph may close a gate at the other.
//!
//! ## Predicates that travel along edges
//! | predicate | true when | who counts it |
//! |---|---|---|
//! | ok | ready, and nothing about it is dirty | a start gate: every `requires`, `binds` must be ok |
//! | ready | ready | `binds`: its loss stops, targets: their readiness |
//! | settled | ready, done, failed, backoff, held, not kept, not wanted, or waiting for one of those that is not ok | `wants`, `after` gates |
//! | going | not wanted up, or requires one that is going | stops in reverse order |
//!
//! A unit that goes up takes a *use* on everything it requires (in the manifest it was made from) and gives it
//! back when it is down: a unit that is going is asked to stop when it has no user left.
//!
//! ## Departures from the semantics page
//! - `settled` also holds for a unit that waits for something which is itself settled and not ok; otherwise `wants`
//!   of such a unit would wait for ever.
//! - A shutdown is patient with what uses the time that was declared for it, however long; when nothing does and something
//!   is stuck, what waits for that is asked to stop as well, before the machine is left.
//! - `reload-on` and `restart-on` hold the start back as `requires` does: who is to notice a change has to find the thing.
//! - At shutdown `wants` and `after` order stops too, in reverse, as the users of every peer expect.
//! - A stop because a bound dependency was lost does not wait for the unit's own requirers: what it needs is gone.
//! - What is about to go, owes a restart, or is bound to what does, is not ok: it carries nobody new. What runs on it
//!   stays.
//! - What is still starting is started anew by every specification that a running process would notice: it has
//!   nothing yet to reload with.
//! - A claim passes from whoever gives it up, by leaving or by staying without it, to whoever newly takes it, coming or
//!   staying (`claims`): "old down, then new up". A service that somebody waits for stops first.
//! - A reload has loaded the inputs as they were when it began, and what the service announced by itself only if they
//!   were in place then.
//! - What is held is not restarted to load its inputs, by hand neither, and nothing waits for its stop.
//! - Who only waits for what is held, itself or through others, is left out of an apply's gate as that is; what depends on
//!   a held unit is not written in the same batch, for it may be found wrong.
//! - What is held and no longer declared is left, with what it claims, until the hold ends; then it goes. A process or a
//!   mount of it goes at once, with what the process claims, and the hold stays: declared again, it is still held. So it
//!   does where the worker was just removing it.
//! - Soft edges order the stops of units that were made by the same generation, and of what leaves before what stays and
//!   has followed since: between others they may be the other way round by now.
//! - Where units wait in a circle for each other to stop, since one was started anew by newer edges than the other has, the
//!   newer edge counts (`circle`).
//! - What has run once and is held counts as done whatever is declared of it meanwhile, and carries nobody new if it owes a
//!   run.
//! - What is kept and requires what goes is looked at again when that is back, but keeps its place until its users are down:
//!   they go as well.
//! - A unit that stays up takes over the edges of a new generation only once what it will depend on has them too or
//!   is down (`follow`), so that the running edges of several generations never form a cycle.
//! - What is not kept, and touched, is looked at within ten seconds and not at once, and goes on being tried more rarely:
//!   who keeps it from being kept may touch it all the time.
//! - What a lost worker had takes its place in line again; a record that it had is written once more. What it was at is
//!   suspect, with all that lies on the same mount: such a unit goes into batches of its own, after the others, until it
//!   has had a result. Lost upon it once more, it is not kept, and neither is what is suspect beside it. No worker is sent
//!   where one hangs that cannot be killed: what lies there is not kept until that one has ended (`hanging`). Where nobody
//!   knows what a worker was at, a second loss is the end for all that it had; and so it is where workers are lost one
//!   after another although each got fewer steps.
//! - An apply or a boot does not wait for a service that is restarted without limit and has been three times in vain,
//!   and does not return because of one that was so before.
//! - Who was bad before an apply, and is good when all has to be quiet, has no excuse any more, but where it is restarted as
//!   often as that. For what a boot under way brings no apply answers.
//! - Who is only ordered after what an apply changes does not depend on it, and cannot fail the apply.
//! - A mount that a hand or an apply wants mounted anew and that is in use stays as it is, and its users come back. One that
//!   is in use when what it requires goes is left standing, and counts again when that is back.
//! - A mount whose helper was killed, and that could not be unmounted, may be there or not: it is mounted anew, and the helper
//!   finds out.
//! - A helper or a command that takes longer than it may is killed, and one that does not end then is not waited for (`late`).
//! - A mount that a hand has stopped and that could not be unmounted is *failed* until somebody unmounts it or wants it again.
//! - What could not be mounted again is not unmounted because a hand asks for a restart.
//! - A return starts again what was up before its apply, which answers for it, and gave up under it; and it puts back the
//!   holds that its apply has lifted, with what was held as it was.
//! - An apply for which a service has to stop that cannot be killed returns, and waits for it with the rest in its place.
//! - A return is complete when nothing that its apply answers for is bad that was not so before.
//! - An apply of what is current is no change and has no return: it tries again what is wrong, and is answered when that, and
//!   what was dirty when it came, has ended once; what it has started has to stay up for as long as after a change (`again`).
//!   What waits for a device that is late, or cannot be killed, is not waited for, nor is who waits for nothing else.
//! - What cannot be removed since its mount is absent stays as a leaving unit, *deferred*, until that is back; where no
//!   mount is declared there any more, it is left to the first boot that has one. Who it was the store knows. Until then
//!   it keeps what it claims, and who takes that waits and says so: what was removed after the other is in place would
//!   take that with it. In a state file both lie below the same mount, so that nobody waits longer than for that.
//! - What a crash left of an apply is undone in the very step that brings the generation that it came from, so that
//!   nothing repairs it before.
//! - How a `forked` daemon without a known main process has ended nobody can tell: it counts as a bad exit.

mod again;
mod apply;
mod audit;
mod batch;
mod blame;
mod byhand;
mod changed;
mod circle;
mod claims;
mod counts;
mod down;
pub mod effect;
pub mod event;
mod fight;
mod follow;
mod graph;
mod hanging;
mod latched;
mod late;
mod mount;
mod questions;
mod record;
mod running;
mod service;
mod status;
mod stopping;
mod swap;
mod tally;
mod timer;
mod unit;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use units::{Address, Manifest, UnitId};

use crate::proto::{ManifestRef, StoreOp};
use effect::{Effect, Job, Level};
use event::{Down, Event};
use timer::{Timer, Timers};
use unit::Unit;

pub use audit::Sizes;
pub use mount::{CHECKING, DEVICE_LATE, DEVICE_PATIENCE_MS, GOES_ON};
pub use record::Records;
pub use status::{Gate, Glance, Hold, HoldKind, UnitStatus};
pub use swap::exec_inputs;

/// A moment on CLOCK_BOOTTIME, in nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Mono(pub u64);

impl Mono {
    /// So many milliseconds before this moment.
    pub const fn before_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_sub(ms.saturating_mul(1_000_000)))
    }

    /// This moment and so many milliseconds.
    pub const fn after_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// A unit as the engine names it to the outside. It stays the same as long as the unit exists, across
/// generations and re-execs; a number is reused only after the unit is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Node(pub u32);

impl Node {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Quiet time after which an apply that took a service step counts as good: 5 s (semantics §6).
pub const STABLE_MS: u64 = 5_000;
/// A shutdown leaves after this although something is stuck: 90 s, as the peers do. What is still within its own stop
/// time-out, or was not asked to stop yet, is waited for all the same.
pub const SHUTDOWN_MS: u64 = 90_000;
/// Repairs of one unit within [`FIGHT_WINDOW_MS`] that make it contested.
pub const FIGHT_REPAIRS: u8 = 5;
/// The window in which repairs are counted: one minute.
pub const FIGHT_WINDOW_MS: u64 = 60_000;
/// First wait of a contested unit: one minute; it doubles.
pub const CONTEST_FIRST_MS: u64 = 60_000;
/// Longest wait of a contested unit: one hour.
pub const CONTEST_MAX_MS: u64 = 3_600_000;
/// First retry of what could not be kept: one second; it doubles.
pub const RETRY_FIRST_MS: u64 = 1_000;
/// Longest wait between retries: five minutes.
pub const RETRY_MAX_MS: u64 = 300_000;
/// The longest wait between retries where something happens to it all the time: ten seconds.
pub const RETRY_TOUCHED_MS: u64 = 10_000;
/// A batch without any result for this long means that the worker hangs: 60 s.
pub const BATCH_MS: u64 = 60_000;

/// How long a step on which a worker was lost may keep others waiting: 5 s.
pub const SUSPECT_MS: u64 = 5_000;
/// Longest wait between retries of what workers are lost on: one hour.
pub const SUSPECT_MAX_MS: u64 = 3_600_000;

/// Room that the queues keep when nothing is to be done.
const AT_REST: usize = 64;
/// Effects that there is room for between two steps.
const FEW: usize = 16;

/// A manifest that some unit refers to.
#[derive(Debug, Clone)]
pub(crate) struct Gen {
    pub(crate) manifest: Manifest,
    /// Unit number → node; `u32::MAX` where there is none.
    pub(crate) node_of: Vec<u32>,
    /// Nodes that were made from it, plus one for each of desired, previous and pending.
    pub(crate) refs: u32,
}

/// The engine. See the page above.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) now: Mono,
    pub(crate) gens: BTreeMap<ManifestRef, Gen>,
    pub(crate) next_ref: u32,
    /// Installed, and not swapped to yet.
    pub(crate) pending: BTreeSet<ManifestRef>,
    pub(crate) nodes: Vec<Unit>,
    pub(crate) counts: counts::Counts,
    pub(crate) free: BTreeSet<u32>,
    pub(crate) desired: ManifestRef,
    pub(crate) generation: u64,
    pub(crate) serials: BTreeMap<u64, (Node, Job)>,
    pub(crate) next_serial: u64,
    pub(crate) next_token: u64,
    pub(crate) next_batch: u64,
    pub(crate) queue: VecDeque<Node>,
    pub(crate) outdated: VecDeque<Node>,
    /// Whose gate is open, and who begins once nothing ends any more in this step.
    pub(crate) beginners: BTreeSet<Node>,
    /// Whose turn that is.
    pub(crate) begins: Option<Node>,
    pub(crate) runnable: BTreeSet<Node>,
    pub(crate) batch: Option<batch::Batch>,
    /// Workers that were lost since one has had a result.
    pub(crate) lost_workers: u8,
    pub(crate) timers: Timers,
    pub(crate) apply: Option<apply::Apply>,
    /// A swap that came while a record of the one before was on its way to the disk.
    pub(crate) next_swap: Option<apply::Next>,
    /// An apply of what is current, which waits for what it tries again.
    pub(crate) again: Option<again::Again>,
    pub(crate) asks: Vec<byhand::Ask>,
    pub(crate) holds: BTreeMap<Node, Hold>,
    /// Holds that the apply under way has lifted: its return puts them back.
    pub(crate) lifted: BTreeMap<Node, Hold>,
    pub(crate) fights: BTreeMap<Node, fight::Fight>,
    pub(crate) details: BTreeMap<Node, String>,
    /// Hashes of the inputs of execs, as of the last swap.
    pub(crate) exec_inputs: BTreeMap<Node, u64>,
    /// Unit that gives a claim up → units that take it and wait for that.
    pub(crate) claims: BTreeMap<Node, Vec<Node>>,
    pub(crate) down: Option<Down>,
    pub(crate) left: bool,
    pub(crate) store_open: bool,
    pub(crate) converged: bool,
    /// An interrupted apply is being undone, to this generation, until the machine has converged.
    pub(crate) undoing: Option<u64>,
    /// What an interrupted apply declares, and the generation that it came from: the swap to that is to come.
    pub(crate) awaited_undo: Option<(ManifestRef, u64)>,
    pub(crate) busy: u32,
    /// Units by what some event asks for, so that none has to look through all of them.
    pub(crate) lists: tally::Lists,
    /// Units with a process, a mount or a place in the order of stops.
    pub(crate) up: u32,
    pub(crate) out: Vec<Effect>,
    pub(crate) changed: changed::Changed,
    /// What left in this step: its effects speak of it, and are carried out afterwards.
    pub(crate) departed: BTreeMap<Node, Address>,
    pub(crate) globals_changed: bool,
    pub(crate) blank: Unit,
    /// The specifications of services that were read last, until all is right: a start asks for the same one several
    /// times, and to read one takes thousands of instructions.
    pub(crate) last_specs: RefCell<Vec<service::SpecAt>>,
    /// Units and edges looked at since the beginning; the simulator bounds it.
    pub(crate) work: Cell<u64>,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new()
    }
}

impl Engine {
    /// An engine with an empty manifest as its desired one.
    pub fn new() -> Engine {
        let mut engine = Engine {
            now: Mono(0),
            gens: BTreeMap::new(),
            next_ref: 0,
            pending: BTreeSet::new(),
            nodes: Vec::new(),
            counts: counts::Counts::default(),
            free: BTreeSet::new(),
            desired: ManifestRef(0),
            generation: 0,
            serials: BTreeMap::new(),
            next_serial: 1,
            next_token: 1,
            next_batch: 1,
            queue: VecDeque::new(),
            outdated: VecDeque::new(),
            beginners: BTreeSet::new(),
            begins: None,
            runnable: BTreeSet::new(),
            batch: None,
            lost_workers: 0,
            timers: Timers::default(),
            apply: None,
            next_swap: None,
            again: None,
            exec_inputs: BTreeMap::new(),
            asks: Vec::new(),
            holds: BTreeMap::new(),
            lifted: BTreeMap::new(),
            fights: BTreeMap::new(),
            details: BTreeMap::new(),
            claims: BTreeMap::new(),
            down: None,
            left: false,
            store_open: false,
            converged: true,
            undoing: None,
            awaited_undo: None,
            busy: 0,
            lists: tally::Lists::default(),
            up: 0,
            out: Vec::new(),
            changed: changed::Changed::default(),
            departed: BTreeMap::new(),
            globals_changed: true,
            blank: Unit::blank(),
            last_specs: RefCell::new(Vec::new()),
            work: Cell::new(0),
        };
        // The one reference that `install` takes is that of the desired manifest.
        engine.desired = engine.install(Manifest::empty());
        engine.pending.clear();
        engine
    }

    /// Makes a manifest known under a number, until the one [`Event::Swapped`] that names it; afterwards it is
    /// forgotten ([`Effect::Forget`]) as soon as nothing refers to it.
    pub fn install(&mut self, manifest: Manifest) -> ManifestRef {
        let number = ManifestRef(self.next_ref);
        self.next_ref += 1;
        let node_of = vec![u32::MAX; manifest.len()];
        self.gens.insert(number, Gen { manifest, node_of, refs: 1 });
        self.pending.insert(number);
        self.globals_changed = true;
        number
    }

    /// The swap to a manifest that was installed will not come.
    pub fn uninstall(&mut self, manifest: ManifestRef, out: &mut Vec<Effect>) {
        self.let_go(manifest);
        self.collect();
        out.append(&mut self.out);
    }

    fn let_go(&mut self, manifest: ManifestRef) {
        if self.pending.remove(&manifest) {
            self.globals_changed = true;
            self.release(manifest);
        }
    }

    /// One event. Effects are appended in the order in which they have to be carried out.
    pub fn step(&mut self, now: Mono, event: Event, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.departed.clear();
        self.handle(event);
        self.settle();
        for node in self.timers.take_changed() {
            if node == unit::NOBODY {
                self.globals_changed = true;
            } else {
                self.changed.insert(node);
            }
        }
        out.append(&mut self.out);
        // What an event about all units needed once is not kept for ever.
        self.out.shrink_to(FEW);
    }

    /// The moment at which [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.timers.next()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Swapped { request, manifest, generation, kind, release } => {
                self.swapped(request, manifest, generation, kind, release);
                if self.awaited_undo.is_none_or(|(undo, _)| undo != manifest) {
                    self.let_go(manifest);
                }
            }
            Event::Spawned { serial } => self.fact(serial, service::Fact::Spawned),
            Event::SpawnFailed { serial, stage, errno } => self.spawn_failed(serial, &stage, errno),
            Event::Exited { serial, exit } => self.exited(serial, exit),
            Event::Ready { serial } => self.fact(serial, service::Fact::Ready),
            Event::Reloading { serial } => self.fact(serial, service::Fact::Reloading),
            Event::Watchdog { serial } => self.fact(serial, service::Fact::Watchdog),
            Event::Broken { serial } => self.fact(serial, service::Fact::Broken),
            Event::Extended { serial, ms } => self.fact(serial, service::Fact::Extended(ms)),
            Event::WatchdogSet { serial, ms } => self.fact(serial, service::Fact::WatchdogSet(ms)),
            Event::CgroupEmpty { serial } => self.cgroup_empty(serial),
            Event::Results { batch, results } => self.results(batch, results),
            Event::BatchDone { batch } => self.batch_done(batch),
            Event::WorkerLost => self.worker_lost(None),
            Event::WorkerLostAt { manifest, unit, mount } => {
                self.worker_lost(Some(((manifest, unit), mount)))
            }
            Event::Recorded { token, error } => self.recorded(token, error),
            Event::StoreOpened => self.store_opened(),
            Event::WorkerHangs { manifest, unit, mount, pid } => {
                self.worker_hangs((manifest, unit), mount.as_deref(), pid);
            }
            Event::WorkerFreed { nodes } => nodes.into_iter().for_each(|node| self.freed(node)),
            Event::Touched { nodes } => nodes.into_iter().for_each(|node| self.touched(node)),
            Event::Overflowed => {
                for node in self.all() {
                    // A module leaves nothing behind that could be watched: the kernel tells of it.
                    if self.u(node).class() != units::address::Class::Helper {
                        self.touched(node);
                    }
                }
            }
            Event::CulpritSeen { node, who } => self.culprit_seen(node, who),
            Event::Mounted { node } => self.mounted(node),
            Event::MountDiffers { node, options, tried } => self.mount_differs(node, &options, tried),
            Event::Unmounted { node } => self.unmounted(node),
            Event::Tick => self.tick(),
            Event::Asked { request, verb, node, note, until } => self.asked(request, verb, node, note, until),
            Event::ShutdownAsked { down } => self.shutdown(down),
            Event::Explained { serial, why } => self.explained(serial, why),
            Event::Unasked { request } => {
                self.forget_again(request);
                self.unasked(request);
            }
        }
    }

    /// Propagates until nothing moves, then does what waits for that: answers, apply, batch, convergence.
    fn settle(&mut self) {
        loop {
            // Nothing is started for an apply that has to be taken back.
            self.return_if_failed();
            self.propagate();
            if self.break_circle() {
                continue;
            }
            self.answer_asks();
            if self.advance_apply() {
                continue;
            }
            if self.queue.is_empty() {
                break;
            }
        }
        self.form_batch();
        self.propagate();
        self.advance_again();
        let converged = self.busy == 0 && self.runnable.is_empty() && self.batch.is_none();
        let converged = converged && self.apply.is_none();
        if converged {
            self.last_specs.take();
        }
        if converged != self.converged {
            self.converged = converged;
            self.globals_changed = true;
            if converged && !self.left {
                // Every unit stood in them once; at rest they are empty.
                self.queue.shrink_to(AT_REST);
                self.outdated.shrink_to(AT_REST);
                self.rest_counts();
                if let Some(to) = self.undoing.take() {
                    // Otherwise the next boot would undo it once more. Where nothing came to stand in its place the
                    // generation is still the one that it came from.
                    let to = if self.generation == 0 { to } else { self.generation };
                    self.store(StoreOp::Returned { generation: 0, to });
                }
                self.out.push(Effect::Converged);
            }
        }
        self.leave_if_down();
        self.collect();
    }

    fn tick(&mut self) {
        while let Some((node, timer)) = self.timers.pop(self.now) {
            match timer {
                Timer::State => self.state_timer(node),
                Timer::Watchdog => self.fact_of(node, service::Fact::WatchdogMissed),
                Timer::Hold => self.hold_ended(node),
                Timer::Batch => self.batch_timer(),
                Timer::Stable => self.stable_timer(),
                Timer::Shutdown => self.shutdown_timer(),
            }
        }
    }

    fn state_timer(&mut self, node: Node) {
        match self.u(node).state {
            unit::State::Service(_) => self.fact_of(node, service::Fact::Deadline),
            unit::State::Latch(_) => self.latch_timer(node),
            unit::State::Mount(_) => self.mount_timer(node),
            unit::State::Target | unit::State::Gone => {}
        }
    }

    fn store_opened(&mut self) {
        if std::mem::replace(&mut self.store_open, true) {
            return;
        }
        self.globals_changed = true;
        for node in self.lists.for_store.clone() {
            self.enqueue(node);
        }
    }

    // ---- small tools used by every part -------------------------------------------------------------------

    /// Every node there is, in order. No event is worth it but one that is about every unit.
    pub(crate) fn all(&self) -> impl Iterator<Item = Node> + use<> {
        self.looked(self.nodes.len());
        let gone: Vec<bool> = self.nodes.iter().map(|u| matches!(u.state, unit::State::Gone)).collect();
        (0u32..).zip(gone).filter(|(_, gone)| !gone).map(|(i, _)| Node(i))
    }

    pub(crate) fn u(&self, node: Node) -> &Unit {
        self.looked(1);
        self.nodes.get(node.index()).unwrap_or(&self.blank)
    }

    pub(crate) fn m(&mut self, node: Node) -> &mut Unit {
        self.changed.insert(node);
        self.looked(1);
        match self.nodes.get_mut(node.index()) {
            Some(unit) => unit,
            None => &mut self.blank,
        }
    }

    /// For what is derived: no record changes with it.
    pub(crate) fn derived(&mut self, node: Node) -> &mut Unit {
        self.looked(1);
        match self.nodes.get_mut(node.index()) {
            Some(unit) => unit,
            None => &mut self.blank,
        }
    }

    pub(crate) fn log(&mut self, level: Level, node: Option<Node>, text: String) {
        self.out.push(Effect::Log { level, node, text });
    }

    pub(crate) fn publish(&mut self, node: Node, text: impl Into<String>) {
        self.changed.insert(node);
        self.out.push(Effect::Publish { node, text: text.into() });
    }

    /// Why a unit is not right, for people; it is part of the unit's record.
    pub(crate) fn set_detail(&mut self, node: Node, text: String) {
        self.changed.insert(node);
        self.details.insert(node, text);
    }

    pub(crate) fn clear_detail(&mut self, node: Node) {
        if self.details.remove(&node).is_some() {
            self.changed.insert(node);
        }
    }

    /// A pair that cannot be: it is logged with the state, and the loop goes on.
    pub(crate) fn defect(&mut self, node: Node, text: &str) {
        let state = format!("{:?}", self.u(node).state);
        let line = format!("defect: {text} in {}: {state}", self.address(node));
        self.log(Level::Error, Some(node), line);
    }

    pub(crate) fn store(&mut self, op: StoreOp) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.globals_changed = true;
        self.out.push(Effect::Store { token, op });
        token
    }

    pub(crate) fn retain(&mut self, manifest: ManifestRef) {
        if let Some(generation) = self.gens.get_mut(&manifest) {
            generation.refs += 1;
        }
    }

    pub(crate) fn release(&mut self, manifest: ManifestRef) {
        if let Some(generation) = self.gens.get_mut(&manifest) {
            generation.refs = generation.refs.saturating_sub(1);
        }
    }

    /// Forgets manifests that nothing refers to.
    fn collect(&mut self) {
        self.looked(self.gens.len());
        let unused: Vec<ManifestRef> =
            self.gens.iter().filter(|(_, g)| g.refs == 0).map(|(r, _)| *r).collect();
        for manifest in unused {
            self.gens.remove(&manifest);
            self.globals_changed = true;
            self.out.push(Effect::Forget { manifest });
        }
    }

    pub(crate) fn manifest_of(&self, manifest: ManifestRef) -> Option<&Manifest> {
        self.gens.get(&manifest).map(|g| &g.manifest)
    }

    /// The node of a unit of a manifest.
    pub fn node_in(&self, manifest: ManifestRef, unit: UnitId) -> Option<Node> {
        let number = *self.gens.get(&manifest)?.node_of.get(unit.index())?;
        (number != u32::MAX).then_some(Node(number))
    }
}

#[cfg(test)]
mod regressions;
#[cfg(test)]
mod tests;
