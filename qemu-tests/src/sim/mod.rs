//! The simulator: years of faults against the engine that ships, in seconds, and every run the same.
//!
//! - [`dice`]: the generator of chance; [`graph`]: random manifests.
//! - [`world`]: what reacts to effects; [`machine`]: engine, twin, world and observer in lock step.
//! - [`checks`]: the invariants; [`cells`], [`coverage`], [`resources`], [`helpers`]: cells of the tables of semantics §3 and §4,
//!   and of ends of helpers, that were visited.
//! - [`history`]: scripts, made from a seed and played; [`shrink`]: the same failure with less in it.
//! - [`effort`]: how much each step may look at; [`large`]: machines of thousands of units, for that alone.
//! - [`plans`]: what the planner promises and what is then done.
//! - [`exhaustive`]: every small graph, every order of events; [`journal`]: the store, with power loss anywhere.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test tool: an index out of range is a failed test"
)]

pub mod cells;
pub mod checks;
pub mod coverage;
pub mod dice;
pub mod effort;
pub mod exhaustive;
pub mod graph;
pub mod helpers;
pub mod history;
pub mod journal;
pub mod large;
pub mod machine;
pub mod plans;
pub mod resources;
pub mod shrink;

pub mod world;

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
