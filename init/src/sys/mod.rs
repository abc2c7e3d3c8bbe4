//! Everything PID 1 says to the kernel: one system-call family a file, and the only `unsafe` of this crate.
//!
//! No policy is here: what to start, when to restart, whom to kill is decided by the engine.

pub mod birth;
pub mod cgroup;
mod child;
pub mod crash;
pub mod device;
mod direct;
pub mod fanotify;
pub mod foreign;
mod fsck;
pub mod helper;
pub mod inherit;
pub mod loopback;
pub mod message;
pub mod module;
pub mod mount;
pub mod notify;
pub mod pages;
pub mod point;
pub mod raw;
pub mod reap;
pub mod remount;
pub mod signals;
pub mod spawn;
pub mod stdio;
pub mod uevent;
pub mod unmount;
pub mod userdb;
pub mod word;
