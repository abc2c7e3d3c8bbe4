//! `hostname`: the name of the machine.

use units::kind::hostname::Hostname;

use super::Context;
use super::op::{Finding, Trouble};
use super::sysctl;
use super::world::World;

/// Where the kernel has it.
pub const KEY: &str = "kernel/hostname";

/// What is wrong with the name, and what would make it right.
///
/// # Errors
/// When it cannot be read.
pub fn check(world: &mut World, spec: &Hostname, _: &Context) -> Result<Finding, Trouble> {
    sysctl::differs(world, KEY, &spec.value, "hostname:")
}
