//! What the engine remembers of one unit.

use serde::{Deserialize, Serialize};
use units::UnitId;
use units::address::Class;

use super::counts::{Counters, left_out};
use super::event::Exit;
use super::{Mono, Node};
use crate::proto::ManifestRef;

/// Bits of [`Unit::bits`].
pub(crate) mod bits {
    /// Ready, and nothing about it is dirty (cached predicate).
    pub const OK: u32 = 1;
    /// Ready (cached predicate).
    pub const READY: u32 = 2;
    /// Settled (cached predicate).
    pub const SETTLED: u32 = 4;
    /// Going (cached predicate).
    pub const GOING: u32 = 8;
    /// In the propagation queue.
    pub const QUEUED: u32 = 16;
    /// Holds uses on what it requires, and a place in the order of stops.
    pub const UP: u32 = 32;
    /// Something about it must end (cached, counted in `Engine::busy`).
    pub const BUSY: u32 = 64;
    /// Wanted up and not ok, and not held (cached, counted in `Engine::bad`).
    pub const BAD: u32 = 128;
    /// Was bad before the apply under way, and the apply does not change it.
    pub const WAS_BAD: u32 = 256;
    /// The next change is intended: it belongs to the apply under way.
    pub const INTENDED: u32 = 512;
    /// A `manual` unit that was started by hand.
    pub const STARTED: u32 = 1024;
    /// Stops before what it requires is changed, and starts after.
    pub const STOP_FIRST: u32 = 2048;
    /// A restart is owed: specification differs, or somebody asked.
    pub const BOUNCE: u32 = 4096;
    /// Needs the store open before it can tell what to do.
    pub const NEEDS_STORE: u32 = 8192;
    /// Is restarted only by hand although its specification differs (`switch = "keep"`); of a mount, that it could not be
    /// unmounted and stands otherwise than it is declared.
    pub const KEEP: u32 = 16384;
    /// Its cached predicates may be out of date.
    pub const OUTDATED: u32 = 32768;
    /// The apply under way changes it, or something that it depends on: only such a unit can fail the apply.
    pub const BLAMED: u32 = 65536;
    /// The hold on it is back as it was before the apply that returns: so is what it had then.
    pub const RESTORE: u32 = 131_072;
    /// Of those who wait in a circle for each other to stop, this one goes first.
    pub const FIRST: u32 = 1 << 21;
    /// Nothing of it is left: it is there for the hold that the apply under way has lifted, which the return puts back.
    pub const SHADE: u32 = 1 << 22;
    /// Its mount helper has said another reason than the one before.
    pub const NEWS: u32 = 1 << 23;
    /// Of a mount: its helper was ended before it could say so, and nobody knows whether it is mounted.
    pub const UNSURE: u32 = 1 << 24;
    /// Whoever has applied what is current waits until it has ended.
    pub const AWAITED: u32 = 1 << 25;
    /// It was not up when that came, or is to load what it had failed to: once it is, it has to stay so.
    pub const RAISED: u32 = 1 << 26;
    /// Its helper or command was killed, and is waited for.
    pub const KILLED: u32 = 1 << 27;
    /// Of a mount: what it stands without is being looked at, since a hold on it has ended.
    pub const COMPARED: u32 = 1 << 28;
    /// What follows from the rest, and is therefore in no record.
    pub const DERIVED: u32 = OK | READY | SETTLED | GOING | QUEUED | BUSY | BAD | OUTDATED | (7 << STANDING);
    /// What an apply marks a unit with, until it is over.
    pub const OF_APPLY: u32 = WAS_BAD | INTENDED | BLAMED;
    /// Where the number of its [`super::super::tally::Standing`] stands (cached, counted in the tally).
    pub const STANDING: u32 = 18;
}

/// What is wanted of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Want {
    Up,
    Down,
    Absent,
}

/// A unit's number in four bytes, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<UnitId>", into = "Option<UnitId>")]
pub(crate) struct Number(u32);

impl Number {
    pub const NONE: Number = Number(u32::MAX);

    fn get(self) -> Option<UnitId> {
        (self != Number::NONE).then_some(UnitId(self.0))
    }
}

impl From<Option<UnitId>> for Number {
    fn from(id: Option<UnitId>) -> Number {
        id.map_or(Number::NONE, |id| Number(id.0))
    }
}

impl From<Number> for Option<UnitId> {
    fn from(number: Number) -> Option<UnitId> {
        number.get()
    }
}

/// A serial or a moment that may lie anywhere: what few units have at a time does not set how all of them are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub(crate) struct Loose([u8; 8]);

impl Loose {
    pub(crate) fn moment(self) -> Mono {
        Mono(self.into())
    }
}

impl From<u64> for Loose {
    fn from(number: u64) -> Loose {
        Loose(number.to_ne_bytes())
    }
}

impl From<Mono> for Loose {
    fn from(at: Mono) -> Loose {
        at.0.into()
    }
}

impl From<Loose> for u64 {
    fn from(loose: Loose) -> u64 {
        u64::from_ne_bytes(loose.0)
    }
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// Its number in the desired manifest.
    pub number: Number,
    /// Where the edges it holds uses on stand.
    pub made: ManifestRef,
    pub made_id: UnitId,
    pub class: u8,
    /// Flags of the manifest's record.
    pub flags: u8,
    pub want: Want,
    pub bits: u32,
    /// Where what is counted of it stands.
    #[serde(with = "left_out")]
    pub counts: u32,
    pub state: State,
}

impl Unit {
    pub(crate) fn blank() -> Unit {
        Unit {
            number: Number::NONE,
            made: ManifestRef(0),
            made_id: UnitId(u32::MAX),
            class: 0,
            flags: 0,
            want: Want::Absent,
            bits: 0,
            counts: 0,
            state: State::Gone,
        }
    }

    /// Its number in the desired manifest; `None` when it is leaving.
    pub(crate) fn id(&self) -> Option<UnitId> {
        self.number.get()
    }

    pub(crate) fn has(&self, bit: u32) -> bool {
        self.bits & bit != 0
    }

    pub(crate) fn set(&mut self, bit: u32, on: bool) {
        if on {
            self.bits |= bit;
        } else {
            self.bits &= !bit;
        }
    }

    /// Without everything that is derived: what a record holds.
    pub(crate) fn underived(&self) -> Unit {
        Unit { bits: self.bits & !bits::DERIVED, counts: 0, ..self.clone() }
    }

    pub(crate) fn class(&self) -> Class {
        match self.class {
            0 => Class::Service,
            1 => Class::Committer,
            2 => Class::Helper,
            3 => Class::Exec,
            4 => Class::Mount,
            _ => Class::Target,
        }
    }

    pub(crate) fn class_number(class: Class) -> u8 {
        match class {
            Class::Service => 0,
            Class::Committer => 1,
            Class::Helper => 2,
            Class::Exec => 3,
            Class::Mount => 4,
            Class::Target => 5,
        }
    }
}

/// The state of a unit, by class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Service(Box<Service>),
    Latch(Latch),
    Mount(Box<Mount>),
    Target,
    /// A free place.
    Gone,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub phase: Phase,
    /// The specification that the running process was started from.
    pub run: Option<(ManifestRef, UnitId)>,
    /// Serial of the current or last spawn.
    pub serial: u64,
    /// The main process has not been reaped.
    pub alive: bool,
    /// The cgroup may hold processes.
    pub occupied: bool,
    /// Hashes of the inputs that the process loaded: those it reloads on, those it restarts on.
    pub loaded: (u64, u64),
    /// Hashes of the inputs as desired.
    pub inputs: (u64, u64),
    /// A reload failed for these inputs: do not try again until they differ or somebody asks.
    pub reload_failed: bool,
    /// A reload is owed by hand.
    pub reload_asked: bool,
    /// The last reload was by signal: nobody confirmed it.
    pub assumed: bool,
    /// Restarts since health was proven.
    pub tries: u32,
    /// All restarts since boot.
    pub restarts: u32,
    /// Backoffs since the apply under way began.
    pub strikes: u8,
    /// Serials of its reload, stop and await-path processes.
    pub side: Vec<u64>,
    /// When it became ready.
    pub ready_at: Mono,
    /// When the phase was entered.
    pub since: Mono,
    pub exit: Option<Exit>,
    /// The watchdog's interval in milliseconds that the process itself asked for.
    pub watchdog: Option<u64>,
}

/// Where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    Down,
    Waiting,
    Starting,
    Ready,
    /// With the serial of the reload command; 0 for a reload that the service announced.
    Reloading {
        job: u64,
        /// What it has loaded when this reload succeeds: the inputs as they were when it began.
        inputs: (u64, u64),
    },
    Stopping {
        next: Next,
        /// The cgroup was killed already.
        killed: bool,
        /// It did not end although it was killed.
        stuck: bool,
    },
    Backoff {
        until: Mono,
    },
    Failed,
    Done,
}

/// What comes after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Next {
    Down,
    Waiting,
    Backoff,
    Failed,
    Done,
}

/// A latched unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Latch {
    /// Has been right since boot for the desired specification.
    pub right: bool,
    /// Something happened to it while it was being worked on.
    pub again: bool,
    /// Whether workers were lost with it since it had its last result.
    pub lost: Lost,
    pub work: Work,
    pub shown: Shown,
    /// For execs: what the next or current piece of work is.
    pub step: ExecStep,
    /// Failures in a row.
    pub fails: u8,
}

/// Whether it may be what a worker hangs or dies upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lost {
    /// No worker was lost with it.
    No,
    /// One was, and nobody knows with which of its steps.
    Among,
    /// One was while it was at this, or at what lies on the same file system: it goes alone.
    Suspect,
}

/// What is being done about a latched unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Nothing: it was looked at, and nothing happened since.
    Idle,
    /// Dirty, and its gate is closed.
    Waiting,
    /// Dirty; an event has just happened, and quiet is awaited.
    Settling { since: Loose },
    /// Dirty, and in line for the next batch.
    Queued,
    /// In the batch.
    Batch,
    /// In a process of its own.
    Job { serial: Loose },
    /// Could not be kept; tried again later.
    Backoff { until: Loose },
    /// Fought over; looked at again later.
    Contested { until: Loose },
    /// It leaves, and what it lies on is not mounted: it is removed when that is back.
    Deferred,
}

/// The outcome that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Shown {
    Unknown,
    Kept,
    Changed,
    Repaired,
    Drifted,
    NotKept,
}

/// The pieces of an exec unit, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ExecStep {
    /// Ask the worker about `creates` and `once`.
    Guard,
    /// Run `unless`.
    Unless,
    /// Run the command.
    Run,
    /// Have the worker remember it.
    Record,
    /// Run `undo`: it is leaving.
    Undo,
}

/// A mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub phase: MountPhase,
    pub fails: u8,
    /// The kernel said that it is gone since the helper was started.
    pub lost: bool,
    /// Somebody had changed its options, and they are right again.
    pub repaired: bool,
    /// When it was mounted last.
    pub up_at: Mono,
    /// How often in a row it was lost soon after that.
    pub losses: u8,
}

impl Mount {
    pub(crate) fn new() -> Mount {
        Mount { phase: MountPhase::Down, fails: 0, lost: false, repaired: false, up_at: Mono(0), losses: 0 }
    }
}

/// Where a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountPhase {
    Down,
    Waiting,
    Mounting {
        serial: u64,
    },
    Up,
    Unmounting {
        serial: u64,
    },
    Backoff {
        until: Mono,
    },
    /// Could not be unmounted; it does not hold up a shutdown.
    Stuck,
    /// Up, and given back the options that it has lost.
    Remounting {
        serial: u64,
    },
}

impl Service {
    pub(crate) fn new() -> Service {
        Service {
            phase: Phase::Down,
            run: None,
            serial: 0,
            alive: false,
            occupied: false,
            loaded: (0, 0),
            inputs: (0, 0),
            reload_failed: false,
            reload_asked: false,
            assumed: false,
            tries: 0,
            restarts: 0,
            strikes: 0,
            side: Vec::new(),
            ready_at: Mono(0),
            since: Mono(0),
            exit: None,
            watchdog: None,
        }
    }

    pub(crate) fn running(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting | Phase::Ready | Phase::Reloading { .. } | Phase::Stopping { .. }
        )
    }
}

impl Latch {
    /// Whether it was right and is so no more, because what it lies on is gone.
    pub(crate) fn loses_ground(&self, unit: &Unit, counters: &Counters) -> bool {
        let with_worker = matches!(self.work, Work::Batch | Work::Job { .. });
        self.right && unit.want == Want::Up && counters.not_ready > 0 && !with_worker
    }

    pub(crate) fn new() -> Latch {
        Latch {
            right: false,
            again: false,
            lost: Lost::No,
            work: Work::Waiting,
            shown: Shown::Unknown,
            step: ExecStep::Guard,
            fails: 0,
        }
    }
}

/// The place that stands for the engine itself where a timer wants a unit.
pub(crate) const NOBODY: Node = Node(u32::MAX);
