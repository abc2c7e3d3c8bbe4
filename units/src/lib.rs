//! The language of Holdfast: what a `state.toml` may say, and what it compiles to.
//!
//! **Invariant:** this crate is pure. It opens no file, reads no clock and no environment; sources come in as
//! bytes through [`load::Loader`] and everything that it finds goes out as values. PID 1 links only the
//! half that reads compiled manifests (`default-features = false` leaves the parser out).

pub mod address;
#[cfg(feature = "language")]
pub mod compile;
pub mod diagnostic;
#[cfg(feature = "language")]
mod glob;
pub mod kind;
pub mod load;
pub mod manifest;
#[cfg(feature = "language")]
mod nearest;
pub mod source;

pub use address::{Address, Kind};
pub use manifest::{Edge, EdgeKind, Manifest, ManifestBuilder, UnitId, UnitView};
