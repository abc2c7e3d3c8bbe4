//! PID 1, `initctl` and the log daemon.

pub mod boot;
pub mod call;
pub mod container;
pub mod control;
pub mod ctl;
pub mod early;
pub mod event_loop;
pub mod log;
pub mod sys;
