//! Random states against the naive algorithm: which of them are cyclic, and which directory and mount is the nearest.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;
use units::load::MemoryLoader;
use units::{Compiled, Kind, compile};

fn compiled(state: &str) -> Compiled {
    compile("state.toml", &mut MemoryLoader::new().file("state.toml", state))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_the_cyclic_states_are_refused(
        count in 1usize..8,
        raw in proptest::collection::vec((0usize..8, 0usize..8, 0usize..5), 0..14),
    ) {
        let words = ["requires", "binds", "wants", "after", "before"];
        // (who waits, for whom); a unit that names itself is another mistake.
        let edges: BTreeSet<(usize, usize, usize)> =
            raw.into_iter().map(|(a, b, w)| (a % count, b % count, w)).filter(|(a, b, _)| a != b).collect();
        let mut state = String::new();
        for unit in 0..count {
            writeln!(state, "[target.t{unit}]").unwrap();
            for (number, word) in words.iter().enumerate() {
                let names: Vec<String> = edges
                    .iter()
                    .filter(|(a, _, w)| *a == unit && *w == number)
                    .map(|(_, b, _)| format!("'target:t{b}'"))
                    .collect();
                writeln!(state, "{word} = [{}]", names.join(", ")).unwrap();
            }
        }
        let waits: Vec<(usize, usize)> =
            edges.iter().map(|(a, b, w)| if *w == 4 { (*b, *a) } else { (*a, *b) }).collect();
        // Naive: take away who waits for nobody, until nobody is left or nothing moves.
        let mut left: BTreeSet<usize> = (0..count).collect();
        loop {
            let free: Vec<usize> =
                left.iter().copied().filter(|u| !waits.iter().any(|(a, b)| a == u && left.contains(b))).collect();
            if free.is_empty() {
                break;
            }
            free.iter().for_each(|u| { left.remove(u); });
        }
        let c = compiled(&state);
        prop_assert_eq!(c.manifest.is_none(), !left.is_empty(), "{}", state);
        prop_assert!(c.diagnostics.iter().all(|d| d.id == "cycle"));
        if let Some(m) = c.manifest {
            let found: usize = m.ids().map(|i| m.deps(i).count()).sum();
            let wanted: BTreeSet<(usize, usize, usize)> = edges
                .iter()
                .map(|(a, b, w)| if *w == 4 { (*b, *a, 3) } else { (*a, *b, *w) })
                .collect();
            prop_assert_eq!(found, wanted.len());
        }
    }

    #[test]
    fn the_nearest_directory_and_mount_are_required(
        paths in proptest::collection::btree_map("(/[ab]){1,4}", 0usize..3, 1..10),
    ) {
        let mut state = String::new();
        for (path, what) in &paths {
            match what {
                0 => writeln!(state, "[directory.'{path}']"),
                1 => writeln!(state, "[mount.'{path}']\nfstype = 'tmpfs'"),
                _ => writeln!(state, "[line.l{}]\npath = '{path}'\nline = 'x'", path.replace('/', "_")),
            }
            .unwrap();
        }
        let c = compiled(&state);
        let m = c.manifest.unwrap();
        for (path, what) in &paths {
            let (kind, name) = match what {
                0 => (Kind::Directory, path.clone()),
                1 => (Kind::Mount, path.clone()),
                _ => (Kind::Line, format!("l{}", path.replace('/', "_"))),
            };
            let below = |above: &str| path.strip_prefix(above).is_some_and(|r| r.starts_with('/'));
            let longest = |what: usize| paths.iter().filter(|(p, w)| **w == what && below(p)).map(|(p, _)| p).max_by_key(|p| p.len());
            let wanted: BTreeSet<String> = longest(0)
                .map(|p| format!("directory:{p} parent directory"))
                .into_iter()
                .chain(longest(1).map(|p| format!("mount:{p} mount that holds it")))
                .collect();
            let found: BTreeSet<String> = m
                .deps(m.find(kind, &name).unwrap())
                .map(|e| format!("{} {}", m.address(e.unit), e.reason))
                .collect();
            prop_assert_eq!(found, wanted, "{} in\n{}", path, state);
        }
    }
}
