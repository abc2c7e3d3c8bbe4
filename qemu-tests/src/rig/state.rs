//! Generation 0 for the rig: a state compiled as an image builder would.

use std::path::Path;

use units::compile::Where;
use units::kept::Stored;
use units::layer::MAIN;
use units::load::MemoryLoader;
use units::stack::{self, Stacked};

use crate::Result;

/// What an image builder would put beside `init`.
#[derive(Debug)]
pub struct Boot {
    /// The compiled manifest.
    pub manifest: Vec<u8>,
    /// Its contents, each by its digest in hexadecimal.
    pub contents: Vec<(String, Vec<u8>)>,
    /// What it was compiled from.
    pub layer: Vec<u8>,
}

/// Compiles a state without sources.
///
/// # Errors
/// With every diagnostic, when it has mistakes.
pub fn compile_boot(text: &str) -> Result<Boot> {
    let mut loader = MemoryLoader::new().file("/state.toml", text);
    let entry = stack::From::Files("/state.toml".to_owned());
    let Stacked { compiled, archive } = stack::compile(vec![(MAIN.to_owned(), entry)], &mut loader);
    let Some(manifest) = compiled.manifest else {
        let all: Vec<String> =
            compiled.diagnostics.iter().map(|d| units::diagnostic::render(d, &compiled.sources)).collect();
        return Err(all.join("\n").into());
    };
    let mut contents = Vec::new();
    for (content, place) in &compiled.contents {
        if let Where::Inline(bytes) = place {
            let name: String = content.digest.iter().map(|b| format!("{b:02x}")).collect();
            contents.push((name, bytes.to_vec()));
        }
    }
    Ok(Boot { manifest: manifest.as_bytes().to_vec(), contents, layer: Stored::State(archive).encode()? })
}

/// Compiles a state without sources, and writes manifest and contents into `directory`.
///
/// # Errors
/// As [`compile_boot`], or when it cannot be written.
pub fn write_boot(directory: &Path, text: &str) -> Result {
    let boot = compile_boot(text)?;
    let blobs = directory.join("blobs");
    std::fs::create_dir_all(&blobs)?;
    for (name, bytes) in boot.contents {
        std::fs::write(blobs.join(name), bytes)?;
    }
    std::fs::write(directory.join("manifest"), boot.manifest)?;
    std::fs::write(directory.join("layer"), boot.layer)?;
    Ok(())
}
