//! Everything that reads bytes it did not write itself, each as a target that takes any bytes at all.
//!
//! - [`language`]: state files and image files; [`manifest`]: compiled manifests.
//! - [`protocols`]: control frames, notify datagrams, what worker and log daemon say.
//! - [`store`]: the journal and its index; [`live`]: the hand-over table and the engine's records in it.
//! - [`system`]: the files of a machine: user databases, mountinfo, the kernel's command line, edited lines.
//! - [`mutate`]: what is done to a seed; [`replay`]: seeds with mutations, on the stable toolchain.
//!
//! The same targets stand behind cargo-fuzz (`fuzz/`), which needs a nightly toolchain. Crashes that were found are
//! seeds under `fuzz/corpus/TARGET/` from then on.
#![allow(
    clippy::panic,
    clippy::expect_used,
    missing_docs,
    reason = "a test tool: a target that finds a broken property panics"
)]

pub mod language;
pub mod live;
pub mod manifest;
pub mod mutate;
pub mod protocols;
pub mod replay;
pub mod store;
pub mod system;

/// Something that reads bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Inputs that say something, beside those of the corpus: formats that only programs write are made by the code
    /// that writes them, so that they are never of an old version.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format, put in by mutations.
    pub words: &'static [&'static str],
    /// Reads them. Panics when what should hold of any input does not.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    language::STATE,
    language::IMAGE,
    manifest::MANIFEST,
    protocols::CONTROL,
    protocols::FRAMES,
    protocols::QUERY,
    protocols::NOTIFY,
    protocols::WORKER,
    protocols::LOGS,
    protocols::UEVENT,
    store::JOURNAL,
    store::RECORDS,
    store::LAYER,
    live::TABLE,
    live::RECORDS,
    live::EVENTS,
    system::ACCOUNTS,
    system::COMMAND_LINE,
    system::MOUNTINFO,
    system::LINE,
    system::STAT,
];

/// Runs one target by its name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of this name");
    (target.run)(bytes);
}

/// Text of bytes that need not be any.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn cargo_fuzz_has_every_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let bins = manifest["bin"].as_array().unwrap().iter();
        let bins: BTreeSet<String> = bins.map(|b| b["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(bins, names);
        for name in names {
            let program = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(program.contains(&format!("run(\"{name}\", bytes)")), "{name}: {program}");
        }
        for entry in std::fs::read_dir(folder.join("corpus")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(TARGETS.iter().any(|t| t.name == name), "a corpus of no target: {name}");
        }
    }
}
