//! End-to-end tests: machines in QEMU, PID 1 in namespaces, and the runner behind `cargo verify`.
//!
//! A test reads like what a person would do: `vm.wait_for("login:")?; vm.run("initctl status")?;`. Every wait has a
//! deadline and waits for an event; nothing sleeps and hopes.

pub mod check;
pub mod console;
pub mod context;
pub mod demonstration;
pub mod fuzz;
pub mod guest;
pub mod instance;
pub mod measure;
pub mod mutate;
pub mod oci;
pub mod plot;
pub mod qemu;
pub mod report;
pub mod rig;
pub mod runner;
pub mod scenario;
mod scratch;
pub mod sim;
pub mod tail;
pub mod tracer;
pub mod write_log;

/// The result of a test step: what failed is told in one sentence.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
