//! What the engine wants done. Names are imperative; the shell carries effects out in order and turns a failure
//! into another event, never into an error of its own.

use units::UnitId;

use super::Node;
use super::event::Down;
use crate::proto::{Intent, ManifestRef, Step, StoreOp};

/// What a spawned process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Job {
    /// The service itself, in its cgroup.
    Main,
    /// A service's reload command.
    Reload,
    /// A service's stop command.
    Stop,
    /// A helper that ends with 0 when the path of `ready = "path=…"` exists and is younger than this spawn.
    AwaitPath,
    /// A helper that mounts.
    Mount,
    /// A helper that unmounts.
    Unmount,
    /// A helper that loads a kernel module.
    Module,
    /// An exec unit's `unless` command: 0 means that it need not run.
    Unless,
    /// An exec unit's command.
    Exec,
    /// An exec unit's `undo` command.
    Undo,
}

/// How loud a message is; the numbers are those of syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something is broken and stays so.
    Error = 3,
    /// Something is off.
    Warning = 4,
    /// A change of state worth a line.
    Notice = 5,
    /// Detail.
    Info = 6,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Verdict {
    /// Done: exit code 0.
    Done,
    /// A unit is failed or not kept, or the request was refused: 1. A change that is answered so stands: what it brought
    /// about is right, and something else is not.
    Failed,
    /// Somebody else's generation came first: 4.
    Superseded,
    /// Returned to the old generation: 5.
    Returned,
    /// The return is incomplete: 6.
    ReturnIncomplete,
}

/// Counts of an apply, for its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Units that were right.
    pub kept: u32,
    /// Units made right for the generation.
    pub changed: u32,
    /// Units made right after drift.
    pub repaired: u32,
    /// Units that could not be made right, failed services included.
    pub not_kept: u32,
    /// Units under a hold.
    pub held: u32,
    /// Units that wait for something.
    pub waiting: u32,
}

/// Everything the engine can want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start a process for a unit, in the unit's cgroup (`Main`, `Exec`) or a helper cgroup beside it.
    /// Answered by `Spawned` or `SpawnFailed`, later by `Exited` and `CgroupEmpty`.
    Spawn {
        /// The unit.
        node: Node,
        /// Identity of this process from now on.
        serial: u64,
        /// Where its specification stands.
        manifest: ManifestRef,
        /// And under which number.
        unit: UnitId,
        /// What for.
        job: Job,
        /// Why, for the log.
        cause: String,
    },
    /// Signal the main process of a spawn.
    Signal {
        /// Which spawn.
        serial: u64,
        /// Which signal.
        signal: i32,
    },
    /// Kill everything in the cgroup of a spawn (cgroup.kill).
    Kill {
        /// Which spawn.
        serial: u64,
    },
    /// Freeze or thaw the cgroup of a spawn.
    Freeze {
        /// Which spawn.
        serial: u64,
        /// Whether it stops.
        frozen: bool,
    },
    /// Have the worker carry out steps. At most one batch is under way at a time.
    Batch {
        /// Its number.
        batch: u64,
        /// The generation being made, or the current one.
        generation: u64,
        /// Why.
        intent: Intent,
        /// The steps, each after what it depends on.
        steps: Vec<Step>,
    },
    /// The worker has not answered in time: give it up, whether it can be killed or not. Answered by `WorkerLostAt`, or
    /// by `WorkerLost` where nobody knows what it was at.
    KillWorker,
    /// Write a store record; answered by `Recorded`.
    Store {
        /// Comes back.
        token: u64,
        /// What.
        op: StoreOp,
    },
    /// No unit refers to this manifest any more.
    Forget {
        /// The manifest.
        manifest: ManifestRef,
    },
    /// A unit's visible state is another one: publish it.
    Publish {
        /// The unit.
        node: Node,
        /// What happened, in words.
        text: String,
    },
    /// A message for the log.
    Log {
        /// How loud.
        level: Level,
        /// The unit, if it is about one.
        node: Option<Node>,
        /// The text.
        text: String,
    },
    /// A request has ended.
    Answer {
        /// Which.
        request: u64,
        /// How.
        verdict: Verdict,
        /// What was done.
        tally: Tally,
        /// Why, where it is not `Done`.
        text: String,
    },
    /// Compare the options of mounts with what stands once more: what was told while this one was held was left alone.
    /// Answered by `MountDiffers`, without options where there is no difference.
    Compare {
        /// The mount.
        node: Node,
    },
    /// Nothing is dirty and nothing is running that must end; sent at each entry into that state.
    Converged,
    /// Every unit is down: sync, unmount and leave.
    Leave {
        /// How.
        down: Down,
    },
}
