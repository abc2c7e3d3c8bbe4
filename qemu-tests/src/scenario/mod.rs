//! The scenarios: each is one named function, run by `cargo verify GROUP` or `cargo verify NAME`.
//!
//! To add some: write `scenario/TOPIC.rs` with `pub const ALL: &[Scenario]`, and name it in [`all`].

pub mod container;
pub mod container_state;
pub mod image;
pub mod machine;
pub mod qemu_boot;
pub mod qemu_change;
pub mod qemu_database;
pub mod qemu_down;
pub mod qemu_emergency;
pub mod qemu_faults;
pub mod qemu_fsck;
pub mod qemu_full;
pub mod qemu_load;
pub mod qemu_power;
pub mod rest;
pub mod rig;
pub mod rig_again;
pub mod rig_bad_input;
pub mod rig_change;
pub mod rig_cli;
pub mod rig_crash;
pub mod rig_drift;
pub mod rig_faults;
pub mod rig_fight;
pub mod rig_hung;
pub mod rig_layers;
mod rig_mount;
pub mod rig_ready;
pub mod rig_reexec;
pub mod rig_refused;
pub mod rig_rollback;
pub mod rig_trust;
pub mod rig_watch;
pub mod web;

use std::time::Duration;

use crate::Result;
use crate::context::Context;

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, unique among all, such as `restart-after-kill`.
    pub name: &'static str,
    /// The group that it is run with: `qemu`, `rig`, `container` …
    pub group: &'static str,
    /// After this it has failed.
    pub limit: Duration,
    /// What it does; an error says what did not hold.
    pub run: fn(&Context) -> Result,
}

/// Minutes as a limit.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [
        container::ALL,
        container_state::ALL,
        image::ALL,
        machine::ALL,
        qemu_boot::ALL,
        qemu_change::ALL,
        qemu_database::ALL,
        qemu_down::ALL,
        qemu_emergency::ALL,
        qemu_load::ALL,
        qemu_faults::ALL,
        qemu_fsck::ALL,
        qemu_full::ALL,
        qemu_power::ALL,
        rest::ALL,
        rig::ALL,
        rig_again::ALL,
        rig_bad_input::ALL,
        rig_change::ALL,
        rig_cli::ALL,
        rig_crash::ALL,
        rig_drift::ALL,
        rig_mount::ALL,
        rig_faults::ALL,
        rig_fight::ALL,
        rig_layers::ALL,
        rig_ready::ALL,
        rig_reexec::ALL,
        rig_refused::ALL,
        rig_rollback::ALL,
        rig_trust::ALL,
        rig_hung::ALL,
        rig_watch::ALL,
        web::ALL,
    ]
    .concat()
}
