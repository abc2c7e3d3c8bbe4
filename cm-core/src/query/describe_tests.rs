//! parse → print → parse: what is shown of a unit that nobody knew is a table that says the same.

use proptest::prelude::*;
use units::load::MemoryLoader;

use super::*;

/// Text with everything that a string may have to escape.
fn text() -> BoxedStrategy<String> {
    "[ a-zA-Z0-9._=:/'\"\\\\#äß\u{1f600}-]{1,12}".boxed()
}

fn word() -> BoxedStrategy<String> {
    "[a-z][a-z0-9_]{0,7}".boxed()
}

fn shown_name() -> BoxedStrategy<String> {
    "[a-z]{1,5}(-[a-z]{1,3})?".prop_map(|w| quoted(&w)).boxed()
}

fn path() -> BoxedStrategy<String> {
    "(/[a-z0-9][a-z0-9._ -]{0,5}[a-z0-9]){1,3}".boxed()
}

fn list(of: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let written = |list: Vec<String>| array(list.into_iter().map(Value::from).collect::<Vec<_>>().iter());
    prop::collection::vec(of, 1..4).prop_map(written).boxed()
}

/// A name that people may use for something, in a table of the kind.
fn pairs(names: BoxedStrategy<String>, values: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop::collection::btree_map(names, values, 1..3).prop_map(|m| inline_table(m.into_iter())).boxed()
}

/// How a value of this type is written, in all the ways that there are.
fn value(key: &'static str, of: Type) -> BoxedStrategy<String> {
    let shown = |s: BoxedStrategy<String>| s.prop_map(|t| quoted(&t)).boxed();
    let number = (0u64..5000).prop_map(|n| n.to_string()).boxed();
    match (key, of) {
        ("xattrs", _) => pairs("user\\.[a-z]{1,5}".boxed(), text()),
        ("cgroup", _) => prop::sample::select(vec![
            "{ \"memory.max\" = \"64M\" }".to_owned(),
            "{ \"pids.max\" = \"10\", \"cpu.weight\" = \"50\" }".to_owned(),
        ])
        .boxed(),
        ("fstype", _) => shown(prop::sample::select(vec!["tmpfs".to_owned(), "ext4".to_owned()]).boxed()),
        ("matches", _) => shown("\\^?[a-z]{1,4}(\\.\\*|\\[0-9\\]\\+)?\\$?".boxed()),
        (_, Type::Text | Type::Source | Type::Pattern) => shown(text()),
        (_, Type::TextOrInteger) => prop_oneof![number, shown(text())].boxed(),
        (_, Type::Flag) => any::<bool>().prop_map(|b| b.to_string()).boxed(),
        (_, Type::Integer { min, max, .. }) => (min..=max).prop_map(|n| n.to_string()).boxed(),
        (_, Type::Duration) => shown(
            prop_oneof![
                "[1-9][0-9]{0,3}(ns|us|ms|s|m|h|d)".boxed(),
                "[1-9]h[1-9]m[1-9][0-9]?s".boxed(),
                Just("0".to_owned())
            ]
            .boxed(),
        ),
        (_, Type::Bytes) => prop_oneof![number, shown("[1-9][0-9]{0,2}[KMG]".boxed())].boxed(),
        (_, Type::Mode) => shown("0?[0-7]{3}|[0-7]{4}".boxed()),
        (_, Type::Signal) => prop_oneof![
            (1u64..=31).prop_map(|n| n.to_string()),
            shown(prop::sample::select(vec!["HUP".to_owned(), "SIGUSR1".into(), "RTMIN+3".into()]).boxed())
        ]
        .boxed(),
        (_, Type::Command) => prop_oneof![
            list(text()),
            (path(), word()).prop_map(|(a, b)| quoted(&format!("{} {b} 'c d'", a.replace(' ', "")))).boxed()
        ]
        .boxed(),
        (_, Type::Reload) => prop_oneof![value("", Type::Signal), value("", Type::Command)].boxed(),
        (_, Type::Ready) => shown(
            prop_oneof![
                prop::sample::select(vec![
                    "started".to_owned(),
                    "notify".into(),
                    "forked".into(),
                    "exited".into()
                ]),
                (3u32..20).prop_map(|n| format!("fd={n}")),
                path().prop_map(|p| format!("path={p}"))
            ]
            .boxed(),
        ),
        (_, Type::Path) => shown(path()),
        (_, Type::Paths) => list(path()),
        (_, Type::Account) => prop_oneof![number, shown(word())].boxed(),
        (_, Type::Accounts) => list(word()),
        (_, Type::Texts) => list(text()),
        (_, Type::Codes) => prop::collection::btree_set(1u8..=255, 1..4)
            .prop_map(|codes| array(codes.into_iter().map(Value::from).collect::<Vec<_>>().iter()))
            .boxed(),
        (_, Type::Units) => {
            list(prop::sample::select(vec!["target:one".to_owned(), "target:two".into()]).boxed())
        }
        (_, Type::Table) => pairs("[A-Z_][A-Z0-9_]{0,5}".boxed(), text()),
        (_, Type::Limits) => pairs(
            prop::sample::select(vec!["nofile".to_owned(), "core".into(), "nproc".into()]).boxed(),
            prop_oneof!["[1-9][0-9]{0,4}".boxed(), "[1-9]K:[1-9]M".boxed(), Just("unlimited".to_owned())]
                .boxed(),
        ),
        (_, Type::Choice(words)) => shown(prop::sample::select(words).prop_map(str::to_owned).boxed()),
    }
}

/// Keys that are shown in other ways, or not at all.
const ELSEWHERE: [&str; 6] = ["content", "secret", "password-hash", "before", "override", "ownership"];

/// A table of this kind with some of its keys: required ones first.
fn table_of(kind: Kind) -> BoxedStrategy<Vec<(&'static str, String)>> {
    let shown = |f: &&'static Field| {
        let copied = f.key == "source" && kind != Kind::Mount || f.key == "file-mode";
        !copied && !ELSEWHERE.contains(&f.key)
    };
    let (must, may): (Vec<_>, Vec<_>) = table(kind)
        .fields
        .iter()
        .chain(units::field::COMMON)
        .filter(shown)
        .partition(|f| f.default == Without::Required || ["once", "source"].contains(&f.key));
    let line = |f: &'static Field| {
        let value =
            if kind == Kind::Hostname && f.key == "value" { shown_name() } else { value(f.key, f.value) };
        value.prop_map(move |v| (f.key, v)).boxed()
    };
    let must: Vec<_> = must.into_iter().map(line).collect();
    let may: Vec<_> = may.into_iter().map(|f| prop::option::weighted(0.3, line(f)).boxed()).collect();
    (must, may).prop_map(|(must, may)| must.into_iter().chain(may.into_iter().flatten()).collect()).boxed()
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Mount => "/zz/it",
        Kind::Sysctl => "kernel.panic",
        _ => "it",
    }
}

/// The unit in a state file; what its kind needs to say besides, and is not shown, stands there too.
fn compiled(kind: Kind, lines: &[(&str, String)]) -> Option<Manifest> {
    let mut text = format!("[target.one]\n[target.two]\n[{kind}.\"{}\"]\n", name(kind));
    for (key, value) in lines {
        text.push_str(&format!("{key} = {value}\n"));
    }
    units::compile::compile("s", &mut MemoryLoader::new().file("s", text.as_str())).manifest
}

fn shown(kind: Kind, manifest: &Manifest) -> Vec<(&'static str, String)> {
    let id = manifest.find(kind, name(kind)).unwrap();
    let (text, keys) = units(None, Some((manifest, id)));
    let value = |line: &str, key: &str| {
        line.strip_prefix('+').and_then(|l| l.strip_prefix(key)?.strip_prefix(" = ")).map(str::to_owned)
    };
    assert_eq!(text.lines().count(), keys.len(), "{text}");
    text.lines().zip(keys).map(|(line, key)| (key, value(line, key).unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_shown_says_the_same(
        tables in Kind::ALL.map(table_of).to_vec()
    ) {
        for (kind, mut lines) in Kind::ALL.into_iter().zip(tables) {
            // Not every two keys go together.
            let first = loop {
                match compiled(kind, &lines) {
                    Some(manifest) => break manifest,
                    None => prop_assert!(lines.pop().is_some(), "{} refuses what it requires", kind),
                }
            };
            let printed = shown(kind, &first);
            let Some(second) = compiled(kind, &printed) else {
                return Err(TestCaseError::fail(format!("{kind}: {lines:?} is shown as {printed:?}, which is refused")));
            };
            let of = |m: &Manifest| m.find(kind, name(kind)).map(|id| (m.spec(id), around(m, id), m.flags(id)));
            prop_assert_eq!(of(&first), of(&second), "{:?} is shown as {:?}", lines, printed);
        }
    }
}
