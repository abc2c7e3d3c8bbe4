//! The framing of [`cm_core::varlink`], with the errors of this interface.

pub use cm_core::varlink::{Call, Frames, MAX_FRAME, Reply, TooLong, frame, reply};

use super::failure::Failure;

/// Appends an error reply to `out`.
pub fn failure(out: &mut Vec<u8>, failure: &Failure) {
    cm_core::varlink::error(out, failure.name(), &failure.parameters());
}
