//! Everything PID 1 says to the kernel: one system-call family a file, and the only `unsafe` of this crate.
//!
//! No policy is here: what to start, when to restart, whom to kill is decided by the engine.

pub mod cgroup;
mod child;
pub mod foreign;
pub mod inherit;
pub mod message;
pub mod notify;
pub mod raw;
pub mod reap;
pub mod signals;
pub mod spawn;
pub mod stdio;
pub mod userdb;
