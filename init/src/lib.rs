//! PID 1, `initctl` and the log daemon.
// They panic where nobody takes what is printed: see `sys::stdio`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod boot;
pub mod call;
pub mod container;
pub mod control;
pub mod ctl;
pub mod early;
pub mod event_loop;
pub mod log;
pub mod sys;
