//! The committed reference pages are those that the tables give, and their examples compile.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use units::load::MemoryLoader;
use units::reference::{reference, reference_common};
use units::{Kind, compile, diagnostic, field};

#[test]
fn pages_are_up_to_date() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    let kinds = Kind::ALL.iter().map(|k| (format!("{k}.md"), reference(*k)));
    for (name, page) in kinds.chain([("common.md".to_owned(), reference_common())]) {
        let path = directory.join(&name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, page, "{name} is out of date: run the test with UPDATE_DOCS=1");
    }
}

#[test]
fn examples_compile_without_a_word() {
    for kind in Kind::ALL {
        let mut loader = MemoryLoader::new()
            .file("state.toml", field::table(kind).example)
            .file("www/index.html", "hello");
        let compiled = compile("state.toml", &mut loader);
        let text: String =
            compiled.diagnostics.iter().map(|d| diagnostic::render(d, &compiled.sources)).collect();
        assert_eq!(text, "", "{kind}");
        assert!(compiled.manifest.is_some_and(|m| !m.is_empty()), "{kind}");
    }
}
