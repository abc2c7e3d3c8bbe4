//! The web example as a whole: what `cargo boot` shows, as a test.

use super::{Scenario, minutes};
use crate::demonstration;

/// See the module.
pub const ALL: &[Scenario] =
    &[Scenario { name: "web-demonstration", group: "qemu", limit: minutes(6), run: demonstration::play }];
