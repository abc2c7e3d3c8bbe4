//! Builds images: a kernel and an initramfs from Debian packages by name, a state file and Holdfast's programs.
//!
//! **Invariant:** the same `image.toml`, sources, lock file and programs give the same bytes. So nothing that a
//! build leaves behind by accident (logs, caches, keys of one machine, times, directory order) reaches an image.
//!
//! The way of an image: [`spec`] says what is wanted, [`apt`] finds packages and [`lock`] pins them, [`root`]
//! installs them into a tar archive, [`tar`] reads that into a [`tree`], [`kernel`] adds modules, [`holdfast`] adds
//! the programs, [`state`] the compiled state, and [`cpio`] writes it out. [`image`] is that sequence; [`run`] boots what
//! came of it.

pub mod apt;
pub mod cpio;
pub mod error;
pub mod holdfast;
pub mod image;
pub mod kernel;
pub mod lock;
pub mod root;
pub mod run;
pub mod sources;
pub mod spec;
pub mod state;
pub mod tar;
pub mod tool;
pub mod tree;

pub use error::Error;
pub use image::{Built, Request, build};
