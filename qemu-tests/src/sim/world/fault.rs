//! Kinds of faults that a world may show; shrinking turns them off one by one.

/// Processes that cannot be started.
pub const SPAWN: u32 = 1;
/// Readiness that comes late, never, or twice.
pub const READY: u32 = 2;
/// Processes that end by themselves.
pub const CRASH: u32 = 4;
/// Stops that are ignored, and processes that cannot be killed for a while.
pub const STUBBORN: u32 = 8;
/// Children that outlive the main process.
pub const CHILDREN: u32 = 16;
/// Reloads that fail, hang or are announced.
pub const RELOAD: u32 = 32;
/// Helpers and commands that fail or hang.
pub const HELPER: u32 = 64;
/// Steps that cannot be done.
pub const STEP: u32 = 128;
/// Workers that die or hang.
pub const WORKER: u32 = 256;
/// Records that cannot be written.
pub const RECORD: u32 = 512;
/// Signs of life that stop.
pub const WATCHDOG: u32 = 1024;
/// Things that were there before, and are not as anybody declares them.
pub const FOREIGN: u32 = 2048;
/// Not a fault: the events of what the worker itself has written arrive like those of anybody else.
pub const ECHO: u32 = 4096;
/// Paths upon which a worker hangs, so that it cannot be killed either.
pub const HANG: u32 = 8192;
/// All of them.
pub const ALL: u32 = 16383;
/// With their names, for stories.
pub const NAMES: [(u32, &str); 14] = [
    (SPAWN, "spawn"),
    (READY, "ready"),
    (CRASH, "crash"),
    (STUBBORN, "stubborn"),
    (CHILDREN, "children"),
    (RELOAD, "reload"),
    (HELPER, "helper"),
    (STEP, "step"),
    (WORKER, "worker"),
    (RECORD, "record"),
    (WATCHDOG, "watchdog"),
    (FOREIGN, "foreign"),
    (ECHO, "echo"),
    (HANG, "hang"),
];
