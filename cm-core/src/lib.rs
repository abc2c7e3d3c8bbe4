//! The middle of Holdfast: the pure engine, the resources, the store of generations and the worker.
//!
//! **Invariant:** `engine` and `plan` are pure: no descriptor, no clock, no environment, no file system.

pub mod bytes;
pub mod engine;
pub mod modules;
pub mod mountinfo;
pub mod pack;
pub mod plan;
pub mod proto;
pub mod query;
pub mod resource;
pub mod staged;
pub mod store;
pub mod sys;
pub mod throttle;
pub mod varlink;
pub mod watch;
pub mod worker;
