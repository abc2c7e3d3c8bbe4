//! What is said of broken states: every directory below `tests/diagnostics` is a state, with what is expected of it
//! beside it. `UPDATE_EXPECT=1` writes that anew. `state.toml` is the layer `main`, `local.toml` the layer `local`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use units::load::{EntryKind, MemoryLoader};
use units::{Layer, compile_layers, diagnostic};

fn load(directory: &Path, prefix: &str, mut loader: MemoryLoader) -> MemoryLoader {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            loader = load(&path, &format!("{name}/"), loader.entry(&name, EntryKind::Directory, 0o755, ""));
        } else if name != "expected.txt" {
            loader = loader.file(&name, std::fs::read(&path).unwrap());
        }
    }
    loader
}

fn said(directory: &Path) -> String {
    let mut loader = load(directory, "", MemoryLoader::new());
    let layers = [("main", "state.toml"), ("local", "local.toml")];
    let present = layers.into_iter().filter(|(_, f)| directory.join(f).exists());
    let layers: Vec<Layer> =
        present.map(|(name, entry)| Layer { name: name.to_owned(), entry: entry.to_owned() }).collect();
    let compiled = compile_layers(&layers, &mut loader);
    let failed = compiled.diagnostics.iter().any(diagnostic::Diagnostic::is_error);
    assert_eq!(failed, compiled.manifest.is_none());
    let said: Vec<String> =
        compiled.diagnostics.iter().map(|d| diagnostic::render(d, &compiled.sources)).collect();
    said.join("\n")
}

#[test]
fn every_broken_state_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let (said, file) = (said(&case), case.join("expected.txt"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&file, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if expected != said {
            wrong.push(format!("--- {}\nexpected:\n{expected}\nsaid:\n{said}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
