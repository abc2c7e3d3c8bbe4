//! The language of Holdfast: what a `state.toml` may say, and what it compiles to.
//!
//! **Invariant:** this crate is pure. It opens no file, reads no clock and no environment; sources come in as
//! bytes through [`load::Loader`] and everything that it finds goes out as values. PID 1 links only the
//! half that reads compiled manifests (`default-features = false` leaves the parser out).

pub mod address;
#[cfg(feature = "language")]
mod check;
#[cfg(feature = "language")]
pub mod compile;
#[cfg(feature = "language")]
mod cycle;
#[cfg(feature = "language")]
mod declared;
pub mod diagnostic;
pub mod diff;
pub mod field;
#[cfg(feature = "language")]
mod files;
#[cfg(feature = "language")]
pub mod glob;
#[cfg(feature = "language")]
mod graph;
pub mod kept;
pub mod kind;
pub mod layer;
pub mod load;
pub mod manifest;
pub mod nearest;
#[cfg(feature = "language")]
pub mod pick;
#[cfg(feature = "language")]
mod reader;
pub mod reference;
#[cfg(feature = "language")]
mod report;
pub mod source;
#[cfg(feature = "language")]
pub mod stack;
#[cfg(feature = "language")]
pub mod syntax;
#[cfg(feature = "language")]
mod tree;
#[cfg(feature = "language")]
mod unquoted;
pub mod value;
#[cfg(feature = "language")]
mod vars;

pub use address::{Address, Kind};
#[cfg(feature = "language")]
pub use compile::{Compiled, Layer, Where, compile, compile_layers};
pub use manifest::{Edge, EdgeKind, Manifest, ManifestBuilder, UnitId, UnitView};
#[cfg(feature = "language")]
pub use reader::{found, span};
