//! What happens to the engine. Names are past participles; each cause outside becomes exactly one of these.

use std::fmt;

use units::UnitId;
use units::value::signal;

use crate::proto::{ManifestRef, UnitResult};

use super::{Mono, Node};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Only its own parent was told.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "ended with exit code {code}"),
            Exit::Signal(signal) => write!(f, "was killed by SIG{}", signal::format(*signal)),
            Exit::Unknown => f.write_str("ended, and only its own parent was told how"),
        }
    }
}

/// What a person asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Verb {
    /// Start; lifts a hold.
    Start,
    /// Stop, and hold it down.
    Stop,
    /// Stop and start.
    Restart,
    /// Load the configuration again.
    Reload,
    /// Freeze its processes, and hold.
    Pause,
    /// Let them run again.
    Resume,
    /// Leave the unit alone: no restart, no repair.
    Hold,
    /// Lift the hold.
    Release,
    /// Signal the main process.
    Kill(i32),
}

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Down {
    /// Power off.
    Poweroff,
    /// Reboot.
    Reboot,
    /// Halt.
    Halt,
    /// Leave the process (containers).
    Exit,
}

/// What kind of swap to another manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Swap {
    /// A person applies a new generation: journaled, returns on failure.
    Apply,
    /// A person goes back to an earlier generation.
    Rollback,
    /// The first manifest, or the store's current generation over it: nothing to return to.
    Boot,
    /// Not to become the desired one: what a generation declares whose apply a crash interrupted; the event's number is
    /// that of the generation that it came from. What the desired one does not declare is put back as it was; what both
    /// declare converges to the desired one, as part of a return. It may come right before the boot to the generation
    /// that it came from: then it waits for that, and the two are one.
    Undo,
    /// Not to become the desired one: what earlier generations made, nobody declares any more, and could not be removed
    /// then since its mount was absent.
    Purge,
    /// As [`Swap::Boot`], of a generation that this machine has never had: what is made right for it is intended, and no
    /// repair.
    First,
}

impl Swap {
    /// Whether it is a machine's boot: there is nothing to return to.
    pub fn boots(self) -> bool {
        matches!(self, Swap::Boot | Swap::First)
    }
}

/// Everything that can happen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// A manifest is to become the desired one. It was given to [`super::Engine::install`] before.
    Swapped {
        /// Whom to answer; 0 for nobody.
        request: u64,
        /// The manifest.
        manifest: ManifestRef,
        /// Its generation.
        generation: u64,
        /// What kind of swap.
        kind: Swap,
        /// Whether it lifts every hold: with the change and not before it, so that nothing that was held is put back
        /// to what the present manifest says on the way.
        release: bool,
    },
    /// The process of a spawn exists and runs its program.
    Spawned {
        /// Of which spawn.
        serial: u64,
    },
    /// A process could not be made or did not reach its program.
    SpawnFailed {
        /// Of which spawn.
        serial: u64,
        /// What failed, in words.
        stage: String,
        /// errno(3).
        errno: i32,
    },
    /// The process of a spawn has ended.
    Exited {
        /// Of which spawn.
        serial: u64,
        /// How.
        exit: Exit,
    },
    /// The readiness that the spawn's unit declares by `notify` or `fd=` was seen.
    Ready {
        /// Of which spawn.
        serial: u64,
    },
    /// `RELOADING=1` was seen.
    Reloading {
        /// Of which spawn.
        serial: u64,
    },
    /// `WATCHDOG=1` was seen.
    Watchdog {
        /// Of which spawn.
        serial: u64,
    },
    /// `WATCHDOG=trigger` was seen: it says itself that it is broken.
    Broken {
        /// Of which spawn.
        serial: u64,
    },
    /// `EXTEND_TIMEOUT_USEC=` was seen: what it does now takes longer.
    Extended {
        /// Of which spawn.
        serial: u64,
        /// It is given at least this long from now, in milliseconds.
        ms: u64,
    },
    /// `WATCHDOG_USEC=` was seen: another interval, until the process ends.
    WatchdogSet {
        /// Of which spawn.
        serial: u64,
        /// The interval in milliseconds; 0 is no watchdog.
        ms: u64,
    },
    /// The cgroup of a spawn has no process any more.
    CgroupEmpty {
        /// Of which spawn.
        serial: u64,
    },
    /// Results of a batch.
    Results {
        /// Which batch.
        batch: u64,
        /// The results.
        results: Vec<UnitResult>,
    },
    /// A batch has ended.
    BatchDone {
        /// Which batch.
        batch: u64,
    },
    /// The worker is gone or given up, with whatever it was doing; nobody knows what that was.
    WorkerLost,
    /// A store record is durable, or could not be made so.
    Recorded {
        /// The token of the effect.
        token: u64,
        /// Why not.
        error: Option<String>,
    },
    /// The store is open: execs that need its memory may run.
    StoreOpened,
    /// Something happened to what these units own.
    Touched {
        /// The units.
        nodes: Vec<Node>,
    },
    /// Events were lost: every watched unit has to be looked at.
    Overflowed,
    /// Somebody was seen changing what a contested unit owns.
    CulpritSeen {
        /// The unit.
        node: Node,
        /// Who, in words; or why it cannot be told.
        who: String,
    },
    /// A managed mount is there.
    Mounted {
        /// Its unit.
        node: Node,
    },
    /// A managed mount stands without some of its options; or without none, where that was asked for.
    MountDiffers {
        /// Its unit.
        node: Node,
        /// Which, separated by commas.
        options: String,
        /// The helper has tried, and the kernel does not take them.
        tried: bool,
    },
    /// A managed mount is gone.
    Unmounted {
        /// Its unit.
        node: Node,
    },
    /// The earliest deadline has passed.
    Tick,
    /// A person asks something of a unit.
    Asked {
        /// Whom to answer; 0 for nobody.
        request: u64,
        /// What.
        verb: Verb,
        /// The unit.
        node: Node,
        /// Who asks and why, for the status.
        note: String,
        /// Until when, for holds; `None` is until boot.
        until: Option<Mono>,
    },
    /// The machine goes down.
    ShutdownAsked {
        /// How.
        down: Down,
    },
    /// What a helper does for a unit cannot be done, and this is why, or how a command failed, with its last line; its
    /// exit follows.
    Explained {
        /// Of which spawn.
        serial: u64,
        /// In words.
        why: String,
    },
    /// The worker is gone or given up, and this is what it was at.
    WorkerLostAt {
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
        /// The mount on which what it owns lies, unless that is the root: what hangs may be all of it.
        mount: Option<String>,
    },
    /// Whoever has asked something of a unit does not wait for the answer any more.
    Unasked {
        /// Which was to be answered.
        request: u64,
    },
    /// The batch was not handed out: a worker that was given up at this step, or at another on the same mount, hangs
    /// there still, for it cannot be killed.
    WorkerHangs {
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
        /// The mount that does not answer, unless that is the root.
        mount: Option<String>,
        /// The process that hangs.
        pid: i32,
    },
    /// The worker that hung where these lie has ended, or something else is mounted there.
    WorkerFreed {
        /// The units.
        nodes: Vec<Node>,
    },
}
