//! The engine: (state, event, now) → effects.

pub mod effect;
pub mod event;

/// A moment on CLOCK_BOOTTIME, in nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Mono(pub u64);

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
