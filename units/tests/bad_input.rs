//! Input that nobody should send: too large, too deep, too much, broken anywhere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write;
use std::time::Instant;

use proptest::prelude::*;
use units::load::MemoryLoader;
use units::{Kind, compile, diagnostic, field};

#[test]
fn fifty_megabytes_are_refused_before_they_are_parsed() {
    let mut loader = MemoryLoader::new().file("state.toml", vec![b'#'; 50 << 20]);
    let c = compile("state.toml", &mut loader);
    assert!(c.manifest.is_none());
    let said = diagnostic::render(&c.diagnostics[0], &c.sources);
    assert!(said.contains("too large") && said.contains("16 MiB"), "{said}");
}

#[test]
fn deep_nesting_and_long_lines_are_survived() {
    for state in [
        format!("x = {}", "[".repeat(200_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("[{}]", "a.".repeat(100_000)),
        format!("{} = 1", "a".repeat(1_000_000)),
        format!("[service.{}]\nexec = ['x']", "a".repeat(100_000)),
        format!("[file.'/{}']\ncontent = ''", "a/".repeat(100_000)),
        "a = \"".to_owned(),
        "\u{feff}[target.x]".to_owned(),
        "= \n".repeat(50_000),
        "[target.x]\nrequires = ['target:y']\n".to_owned() + &"# \n".repeat(200_000),
    ] {
        let mut loader = MemoryLoader::new().file("state.toml", state.as_bytes());
        let c = compile("state.toml", &mut loader);
        for d in &c.diagnostics {
            let said = diagnostic::render(d, &c.sources);
            assert!(said.len() < 20_000, "{} bytes", said.len());
        }
    }
}

#[test]
fn the_number_of_diagnostics_is_bounded() {
    let mut state = String::new();
    for i in 0..5000 {
        writeln!(state, "[service.s{i}]\nexce = ['x']\nrequires = ['service:t{i}']").unwrap();
    }
    let mut loader = MemoryLoader::new().file("state.toml", state);
    let c = compile("state.toml", &mut loader);
    assert_eq!(c.diagnostics.len(), 1001);
    assert!(
        c.diagnostics[1000].message.contains("14000 further mistakes"),
        "{}",
        c.diagnostics[1000].message
    );
}

#[test]
fn a_hundred_thousand_units_compile() {
    let mut state = String::from("[directory.'/srv']\n[user.web]\n");
    for i in 0..100_000 {
        writeln!(state, "[file.'/srv/{}/{i}']\ncontent = 'x'\nowner = 'web'", i / 1000).unwrap();
    }
    let begin = Instant::now();
    let mut loader = MemoryLoader::new().file("state.toml", state);
    let c = compile("state.toml", &mut loader);
    let m = c.manifest.unwrap();
    println!("{} units, {} bytes, {:?}", m.len(), m.as_bytes().len(), begin.elapsed());
    assert_eq!(m.len(), 100_002);
    assert_eq!(m.rdeps(m.find(Kind::User, "web").unwrap()).count(), 100_000);
}

#[test]
fn a_cycle_of_a_hundred_thousand_units_is_named() {
    let mut state = String::new();
    for i in 0..100_000 {
        writeln!(state, "[target.t{i}]\nrequires = ['target:t{}']", (i + 1) % 100_000).unwrap();
    }
    let mut loader = MemoryLoader::new().file("state.toml", state);
    let c = compile("state.toml", &mut loader);
    assert_eq!(c.diagnostics.len(), 1);
    assert!(c.diagnostics[0].message.contains("99950 more"), "{}", c.diagnostics[0].message);
}

/// All the examples in one text, which mutations begin from.
fn seed() -> String {
    let mut all = String::from("include = ['more.toml']\n[vars]\na = 'x'\n");
    for kind in Kind::ALL {
        all.push_str(field::table(kind).example);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_states_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}\"'=.#$a-z/\n\u{e4} -]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = seed().chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        let mut loader = MemoryLoader::new().file("state.toml", text).file("more.toml", "[target.m]\n").file("www/x", "");
        let c = compile("state.toml", &mut loader);
        for d in &c.diagnostics {
            let _ = diagnostic::render(d, &c.sources);
        }
        prop_assert_eq!(c.manifest.is_none(), c.diagnostics.iter().any(diagnostic::Diagnostic::is_error));
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut loader = MemoryLoader::new().file("state.toml", bytes);
        let c = compile("state.toml", &mut loader);
        for d in &c.diagnostics {
            let _ = diagnostic::render(d, &c.sources);
        }
    }
}
