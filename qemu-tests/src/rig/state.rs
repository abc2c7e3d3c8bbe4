//! Generation 0 for the rig: a state compiled as an image builder would.

use std::path::Path;

use units::compile::Where;
use units::load::MemoryLoader;

use crate::Result;

/// Compiles a state without sources, and writes manifest and contents into `directory`.
///
/// # Errors
/// With every diagnostic, when it has mistakes.
pub fn write_boot(directory: &Path, text: &str) -> Result {
    let mut loader = MemoryLoader::new().file("/state.toml", text);
    let compiled = units::compile("/state.toml", &mut loader);
    let Some(manifest) = compiled.manifest else {
        let all: Vec<String> =
            compiled.diagnostics.iter().map(|d| units::diagnostic::render(d, &compiled.sources)).collect();
        return Err(all.join("\n").into());
    };
    let blobs = directory.join("blobs");
    std::fs::create_dir_all(&blobs)?;
    for (content, place) in &compiled.contents {
        if let Where::Inline(bytes) = place {
            let name: String = content.digest.iter().map(|b| format!("{b:02x}")).collect();
            std::fs::write(blobs.join(name), bytes)?;
        }
    }
    std::fs::write(directory.join("manifest"), manifest.as_bytes())?;
    Ok(())
}
