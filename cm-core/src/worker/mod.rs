//! The worker: the process that looks at disks and changes them, so that PID 1 need not.

pub mod back;
pub mod batch;
pub mod calls;
pub mod channel;
pub mod commit;
pub mod compile;
pub mod confine;
pub mod contest;
mod dress;
pub mod failpoint;
pub mod layers;
mod ledger;
mod leftovers;
pub mod named;
mod opener;
mod reach;
mod rights;
mod same;
pub mod serve;
pub mod watches;
