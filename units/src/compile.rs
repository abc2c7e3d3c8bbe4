//! From state files to a manifest: `compile(entry, loader) -> Compiled`.
//!
//! The result is a deterministic function of what the loader gives: same bytes in, same manifest out.

use crate::diagnostic::Diagnostic;
use crate::kind::Content;
use crate::manifest::Manifest;
use crate::source::Sources;

/// Largest state file, before it is parsed: 16 MiB.
pub const MAX_STATE_FILE: usize = 16 << 20;

/// One layer of a generation (semantics §1), later ones on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// `main`, `dropin:FILE`, `dpkg:PACKAGE` or `local`.
    pub name: String,
    /// Path of its entry file, as the loader knows it.
    pub entry: String,
}

/// Where the bytes of a managed file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// They stand in the state file.
    Inline(Vec<u8>),
    /// The loader has them under this path.
    Source(String),
}

/// What a compilation gives.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The manifest; `None` if some diagnostic is an error.
    pub manifest: Option<Manifest>,
    /// Every mistake in every file, in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
    /// What the diagnostics point into.
    pub sources: Sources,
    /// Every content that the manifest names, each once, sorted by digest.
    pub contents: Vec<(Content, Where)>,
}
