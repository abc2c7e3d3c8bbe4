//! What PID 1 and the worker say to each other, over a `SOCK_SEQPACKET` socket pair: one message a packet,
//! encoded with postcard, at most [`MAX_FRAME`] bytes; descriptors travel beside the packet (SCM_RIGHTS).
//!
//! Packets keep their boundaries, so a re-exec of PID 1 between two of them loses nothing.
//!
//! Version history: 1 — the first; 2 — layers.

use serde::{Deserialize, Serialize};
use units::UnitId;
use units::pick::Pick;

/// Version that both sides say first; they refuse each other when it differs.
pub const VERSION: u32 = 2;
/// Largest packet. Longer lists are split over several.
pub const MAX_FRAME: usize = 64 << 10;
/// Most steps in one [`Request::Batch`] packet.
pub const STEPS_A_PACKET: usize = 2048;
/// The descriptor on which a worker finds its socket.
pub const WORKER_FD: i32 = 3;
/// The descriptor of the inotify instance that PID 1 shares with the worker.
pub const INOTIFY_FD: i32 = 4;
/// A second inotify instance, for directories into which others than root may write.
pub const PUBLIC_INOTIFY_FD: i32 = 5;
/// A memfd in which a worker leaves at which step it is, as a [`Position`]: PID 1 reads it when the worker is lost.
pub const POSITION_FD: i32 = 6;

/// A manifest that both sides hold, by the number PID 1 gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ManifestRef(pub u32);

/// What is done with one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Check, and make right what is wrong.
    Converge,
    /// Check only: drift that is reported, units that are held.
    Check,
    /// The unit is no longer declared: remove what Holdfast created, leave the rest (semantics §6, purge).
    Remove,
    /// The unit is not declared in the generation that is returned to: put back what was there before.
    Restore,
    /// Exec units: does it have to run? Answers `Kept` (a guard holds) or `Drifted` (it must run). The number
    /// is the hash of its inputs.
    Guard(u64),
    /// Exec units: it has run with inputs of this hash; remember that.
    Ran(u64),
    /// Take the watches of this unit again and check it.
    Rewatch,
}

/// One vertex of a transition: (unit, action).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// In which manifest the unit stands.
    pub manifest: ManifestRef,
    /// Which unit.
    pub unit: UnitId,
    /// What is done.
    pub action: Action,
}

/// At which step of its batch a worker is, as it stands in the memory that it shares with PID 1: who hangs can say nothing
/// any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The step.
    pub step: Option<(ManifestRef, UnitId)>,
    /// Which process of the worker is at it.
    pub pid: u32,
}

impl Position {
    /// Bytes of one.
    pub const SIZE: usize = 16;

    /// As it is written.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let (manifest, unit) = self.step.map_or((0, 0), |(manifest, unit)| (manifest.0, unit.0));
        let words = [u32::from(self.step.is_some()), manifest, unit, self.pid].map(u32::to_le_bytes);
        std::array::from_fn(|i| words.as_flattened().get(i).copied().unwrap_or_default())
    }

    /// As it is read.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Position {
        let word = |at: usize| {
            let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            u32::from_le_bytes(four.unwrap_or_default())
        };
        let step = (word(0) != 0).then(|| (ManifestRef(word(4)), UnitId(word(8))));
        Position { step, pid: word(12) }
    }
}

/// Why a batch is done; it decides between the outcomes *changed* and *repaired*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// A new generation: differences are intended. Earlier contents go to the undo log of this generation.
    Apply,
    /// Return to an earlier generation: undo logs of later ones are applied, then the units converge.
    Return,
    /// Boot or an event: differences are drift, theirs are saved to the history first.
    Correct,
}

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was right.
    Kept,
    /// It was made right, and read back; of what leaves, what was there before it is there again.
    Changed,
    /// It is wrong and was left so: reported only, or (for `Guard`) the command must run.
    Drifted,
    /// It could not be made right; the detail says why.
    NotKept,
    /// A unit before it in the batch, which it depends on, was not kept.
    Blocked,
    /// The mount it lies below is not there: neither checked nor changed.
    MountAbsent,
    /// It was removed.
    Removed,
    /// It is no longer declared and was left: somebody else made or changed it.
    Left,
}

/// What came of one step, with words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitResult {
    /// In which manifest the unit stands.
    pub manifest: ManifestRef,
    /// Which unit.
    pub unit: UnitId,
    /// What came of it.
    pub outcome: Outcome,
    /// What was wrong or why it failed; empty when it was right. Never a secret value.
    pub detail: String,
}

/// What the store is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreOp {
    /// Open (or make) the store and recover from what a crash left. Answers [`StoreReply::Opened`].
    Open,
    /// Make a generation of this manifest, with its sources and contents durable; answers its number
    /// (the same digest as the current one answers the current number).
    Prepare {
        /// The manifest.
        manifest: ManifestRef,
        /// The compile whose staged contents belong to it; 0 for a generation that is already in the store.
        staged: u64,
        /// Who asked and how, for the history.
        note: String,
    },
    /// From here on files of both generations may be on the machine.
    Switching {
        /// The new generation.
        generation: u64,
    },
    /// Everything is changed; it must prove itself.
    Trial {
        /// The new generation.
        generation: u64,
    },
    /// The new generation is the current one.
    Commit {
        /// The new generation.
        generation: u64,
    },
    /// The old generation is the current one again.
    Returned {
        /// The one that failed.
        generation: u64,
        /// The current one.
        to: u64,
    },
    /// The manifest of a generation, as a descriptor beside the answer; `None` is the one before the current.
    Load {
        /// Its number.
        generation: Option<u64>,
    },
}

/// What the store answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreReply {
    /// The store is open.
    Opened {
        /// The current generation, if the store holds one; its manifest is the descriptor beside the packet.
        current: Option<u64>,
        /// A generation whose apply a crash interrupted and which is undone by converging `current`; its
        /// manifest is the next descriptor.
        interrupted: Option<u64>,
        /// Whether there is what earlier generations made and nobody declares any more, though it could not be removed
        /// then; a manifest with nothing but its addresses is the next descriptor.
        left: bool,
    },
    /// [`StoreOp::Prepare`]: the number.
    Generation(u64),
    /// The record is durable.
    Recorded,
    /// [`StoreOp::Load`]: the manifest is the descriptor beside the packet.
    Loaded {
        /// Its number.
        generation: u64,
    },
}

/// Where a state file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An absolute path.
    Path(String),
    /// The sealed memfd beside the packet; relative sources are below this directory.
    Memfd {
        /// Absolute path of the directory.
        directory: String,
    },
}

/// Which layer of a generation is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerChange {
    /// Its name.
    pub name: String,
    /// Whether it goes.
    pub remove: bool,
}

/// From PID 1 to the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First message.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The store's directory.
        store: String,
        /// The run-time directory.
        run: String,
        /// Where contents of generation 0 lie (`<dir>/<hex sha-256>`); empty for none.
        boot_contents: String,
    },
    /// From now on `manifest` names the manifest in the memfd beside the packet.
    Manifest {
        /// The name.
        manifest: ManifestRef,
        /// The generation that it is (0 is the one beside `init`).
        generation: u64,
    },
    /// `manifest` names nothing any more; its watches are dropped unless another manifest holds the unit.
    Forget {
        /// The name.
        manifest: ManifestRef,
    },
    /// Steps, in an order in which each comes after what it depends on. Answered by [`Reply::Results`] in
    /// any grouping and one [`Reply::BatchDone`].
    Batch {
        /// Number of the batch; packets with the same number continue each other.
        batch: u64,
        /// The generation that is being made, or the current one.
        generation: u64,
        /// Why.
        intent: Intent,
        /// The steps.
        steps: Vec<Step>,
        /// Whether this packet is the last of the batch.
        last: bool,
    },
    /// Something of the store; answered by [`Reply::Stored`].
    Store {
        /// Comes back in the answer.
        token: u64,
        /// What.
        op: StoreOp,
    },
    /// Compile a state file; answered by [`Reply::Compiled`].
    Compile {
        /// Comes back in the answer, and names the staged contents.
        token: u64,
        /// What to compile; of no meaning where a layer goes.
        source: Source,
        /// As which layer.
        layer: LayerChange,
        /// The generation whose other layers are compiled with it; alone without.
        onto: Option<u64>,
        /// Sources are opened with this user's rights.
        uid: u32,
        /// And this group's.
        gid: u32,
        /// Only a part of it, on top of the manifest whose descriptor is the last one beside the packet.
        pick: Option<Pick>,
    },
    /// Mark what a contested unit owns in the fanotify group beside the packet; answered by [`Reply::Marked`].
    Mark {
        /// Comes back in the answer.
        token: u64,
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
    },
}

/// One entry of the watch index (see `watch`): PID 1 maps inotify events to units with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watch {
    /// `wd` watches a directory that lies in the directory watched as `parent` under `name`.
    Directory {
        /// Its watch descriptor.
        wd: i32,
        /// Which instance: false is [`INOTIFY_FD`], true is [`PUBLIC_INOTIFY_FD`].
        public: bool,
        /// The directory above, of the same or the other instance; `None` for the root.
        parent: Option<(bool, i32)>,
        /// Its name there.
        name: String,
    },
    /// The entry `name` of the directory watched as `wd` is this unit's (or an ancestor's that is missing).
    Entry {
        /// The directory's watch descriptor.
        wd: i32,
        /// Which instance.
        public: bool,
        /// The entry; empty: every entry (a purged directory).
        name: String,
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
    },
    /// A watch of an inode itself (hard-linked file, sysctl).
    Inode {
        /// Its watch descriptor.
        wd: i32,
        /// Which instance.
        public: bool,
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
    },
    /// What this unit owns could not be watched, or not all of it; its other watches came before.
    Missing {
        /// In which manifest the unit stands.
        manifest: ManifestRef,
        /// The unit.
        unit: UnitId,
        /// Why, in words.
        why: String,
    },
}

/// From the worker to PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// First message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Results of some steps of a batch.
    Results {
        /// Number of the batch.
        batch: u64,
        /// The results.
        results: Vec<UnitResult>,
    },
    /// All steps of a batch have a result, and what they changed is durable.
    BatchDone {
        /// Number of the batch.
        batch: u64,
    },
    /// Watches that were added; sent before the result of the unit, so that no event has no owner for long.
    Watches(Vec<Watch>),
    /// Answer to [`Request::Store`].
    Stored {
        /// The token of the request.
        token: u64,
        /// The answer, or why it could not be done.
        result: Result<StoreReply, String>,
    },
    /// Answer to [`Request::Compile`]; on success the sealed manifest is the descriptor beside the packet. On
    /// failure that is of the state's making, the descriptor beside it is a sealed memfd with the diagnostics as JSON;
    /// without one, it is the machine's.
    Compiled {
        /// The token of the request.
        token: u64,
        /// Number of units, or the first diagnostics as text.
        result: Result<u32, String>,
    },
    /// Answer to [`Request::Mark`]: the names to look for in the marked directories, of which an empty one stands for
    /// all; or why the kernel cannot tell.
    Marked {
        /// The token of the request.
        token: u64,
        /// The names.
        result: Result<Vec<String>, String>,
    },
    /// A line for the log of PID 1.
    Log {
        /// Whether it is a warning.
        warning: bool,
        /// The text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back() {
        for step in [None, Some((ManifestRef(0), UnitId(0))), Some((ManifestRef(u32::MAX), UnitId(7)))] {
            let position = Position { step, pid: 77 };
            assert_eq!(Position::from_bytes(position.to_bytes()), position);
        }
        let nobody = Position { step: None, pid: 0 };
        assert_eq!(Position::from_bytes([0; Position::SIZE]), nobody, "nobody has written yet");
    }
}
