//! Checks of the repository itself, by reading it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use initramfs::tool::{self, Tool};
use serde_json::Value;

use crate::Result;
use crate::context::{Context, QEMU};

/// Largest file of source, in lines without its test module.
const LINES: usize = 700;
/// Largest file of nothing but tests.
const TEST_LINES: usize = 1000;
/// Largest `init` as it is built for images, in bytes; 0.8 MB of it are the C library and 0.25 MB the standard one.
const INIT_SIZE: u64 = 2_000_000;

/// Name of the character set that glibc's own locale says it has.
const LOCALE: &[u8] = b"ANSI_X3.4-1968";

/// Installs what the tests need.
///
/// # Errors
/// When something is missing and cannot be installed; the text has the command that would do it.
pub fn tools(scenarios: bool) -> Result {
    // The process tests of `init` and `cm-core` play services and clients with Python, and look for them with pgrep.
    tool::ensure(&[
        Tool { program: "cpio", package: "cpio" },
        Tool { program: "python3", package: "python3" },
        Tool { program: "pgrep", package: "procps" },
    ])?;
    if scenarios {
        tool::ensure(tool::BUILD)?;
        tool::ensure(QEMU)?;
    }
    Ok(())
}

fn metadata(context: &Context) -> Result<Value> {
    let out = tool::run(
        "read the dependency tree",
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(context.workspace())
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                "x86_64-unknown-linux-gnu",
            ]),
    )?;
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata.get("packages").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Every dependency's licence is one that `deny.toml` allows.
///
/// # Errors
/// Names each package whose licence is not.
pub fn licences(context: &Context) -> Result {
    let deny: toml::Table = std::fs::read_to_string(context.workspace().join("deny.toml"))?.parse()?;
    let allowed: BTreeSet<&str> = deny
        .get("licenses")
        .and_then(|l| l.get("allow"))
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .collect();
    let metadata = metadata(context)?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for package in packages(&metadata) {
        let licence = text(package, "license");
        count += 1;
        if !licence_allowed(licence, &allowed) {
            wrong.push(format!("{} {}: {licence:?}", text(package, "name"), text(package, "version")));
        }
    }
    println!("{count} packages");
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("licences not in deny.toml:\n{}", wrong.join("\n")).into())
    }
}

/// Whether an SPDX expression can be satisfied from the allowed licences. `/` is the old way to write OR.
fn licence_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let result = either(&mut words, allowed);
    result && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut result = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        let right = both(words, allowed);
        result = result || right;
    }
    result
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut result = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        let right = one(words, allowed);
        result = result && right;
    }
    result
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let result = either(words, allowed);
        return words.next_if_eq(&")").is_some() && result;
    }
    let Some(name) = words.next() else { return false };
    let mut name = name.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(name.as_str())
}

/// The crates depend on each other in one direction only.
///
/// # Errors
/// Names each dependency that goes another way.
pub fn imports(context: &Context) -> Result {
    let rules: &[(&str, &[&str])] = &[
        ("units", &[]),
        ("cm-core", &["units"]),
        ("init", &["units", "cm-core"]),
        ("initramfs", &["units"]),
    ];
    let metadata = metadata(context)?;
    let ours = ["units", "cm-core", "init", "initramfs", "qemu-tests"];
    let mut wrong = Vec::new();
    for (name, may) in rules {
        let package = packages(&metadata)
            .find(|p| text(p, "name") == *name && p.get("source").is_some_and(Value::is_null));
        let package = package.ok_or_else(|| format!("there is no crate {name}"))?;
        for dependency in package.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
            let needed = text(dependency, "name");
            if ours.contains(&needed) && needed != *name && !may.contains(&needed) {
                wrong.push(format!("{name} must not depend on {needed}"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn sources(directory: &Path, out: &mut Vec<PathBuf>) -> Result {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
    Ok(())
}

/// No file of source is longer than one can keep in mind.
///
/// # Errors
/// Names each that is.
pub fn file_sizes(context: &Context) -> Result {
    let mut wrong = Vec::new();
    for name in ["units", "cm-core", "init", "initramfs", "qemu-tests"] {
        let mut files = Vec::new();
        sources(&context.workspace().join(name), &mut files)?;
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            let tests = file.components().any(|c| c.as_os_str() == "tests")
                || file.file_stem().is_some_and(|s| {
                    let stem = s.to_string_lossy();
                    stem.ends_with("tests") || stem == "regressions"
                });
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let (lines, limit) =
                if tests { (text.lines().count(), TEST_LINES) } else { (code.lines().count(), LINES) };
            if lines > limit {
                wrong.push(format!("{} has {lines} lines; the limit is {limit}", file.display()));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// In the engine, a match over the phase of a unit and what happens to it names every pair.
///
/// # Errors
/// Names each catch-all arm in such a match; and when there is no such match, for then nothing is checked.
pub fn engine_matches(context: &Context) -> Result {
    let mut files = Vec::new();
    sources(&context.workspace().join("cm-core/src/engine"), &mut files)?;
    let mut wrong = Vec::new();
    let mut tables = 0;
    for file in files {
        let (found, lines) = catch_alls(&std::fs::read_to_string(&file)?);
        tables += found;
        let text = |l| format!("{}:{l}: a catch-all arm in a match over phases", file.display());
        wrong.extend(lines.into_iter().map(text));
    }
    if tables == 0 {
        wrong.push(
            "no match over phases was found in the engine: is it called something else now?".to_owned(),
        );
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// How many matches over a tuple with a phase there are, and the lines with a catch-all arm directly in one. Reads like
/// rustfmt writes: arms are indented one step deeper than their match.
fn catch_alls(source: &str) -> (usize, Vec<usize>) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut inside: Option<usize> = None;
    let (mut tables, mut out) = (0, Vec::new());
    for (number, line) in (1..).zip(source.lines()) {
        if line.contains("match (") && line.contains("phase") {
            inside = Some(indent(line));
            tables += 1;
        } else if let Some(depth) = inside
            && !line.trim().is_empty()
        {
            let arm = line.trim_start();
            if indent(line) <= depth {
                inside = None;
            } else if indent(line) == depth + 4 && (arm.starts_with("_ ") || arm.starts_with("(_, _)")) {
                out.push(number);
            }
        }
    }
    (tables, out)
}

/// PID 1 is small, and no code that reads what people write is in it.
///
/// # Errors
/// When the program is too large, or names of the TOML parser's files are in it.
pub fn init_binary(context: &Context) -> Result {
    let file = context.programs()?.join("init");
    let bytes = std::fs::read(&file)?;
    println!("init has {} bytes", bytes.len());
    if bytes.len() as u64 > INIT_SIZE {
        return Err(format!("init has {} bytes; the limit is {INIT_SIZE}", bytes.len()).into());
    }
    // A part of the C library has a way out of `cm-core/link/without_stdio.rs`: it would find its tables empty.
    for program in ["init", "cm-worker"] {
        let bytes = std::fs::read(context.programs()?.join(program))?;
        if bytes.windows(LOCALE.len()).any(|w| w == LOCALE) {
            return Err(
                format!("{program} links the C library's locale, which is never made ready there").into()
            );
        }
    }
    // Panic messages carry the paths of the files that they come from, so a linked crate leaves its name.
    for name in ["toml-", "toml_parser-", "toml_edit-", "toml_datetime-"] {
        let needle = format!("/{name}");
        if bytes.windows(needle.len()).any(|w| w == needle.as_bytes()) {
            return Err(format!(
                "init links the crate {}: PID 1 parses nothing that people write",
                name.trim_end_matches('-')
            )
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
        for (expression, ok) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Apache-2.0 WITH LLVM-exception", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("", false),
        ] {
            assert_eq!(licence_allowed(expression, &allowed), ok, "{expression}");
        }
    }

    #[test]
    fn catch_all_arms_are_found() {
        let source = "    match (fact, phase) {\n        (A, B) => match x {\n            _ => 1,\n        },\n        \
                      _ => 2,\n        (_, _) if x => 3,\n    }\n    match other {\n        _ => 4,\n    }\n";
        assert_eq!(catch_alls(source), (1, vec![5, 6]));
    }

    #[test]
    fn the_engine_s_tables_are_looked_at() {
        let table = include_str!("../../cm-core/src/engine/service.rs");
        let (found, wrong) = catch_alls(table);
        assert!(found > 0 && wrong.is_empty(), "{found} tables, {wrong:?}");
        let line = "                Phase::Down | Phase::Waiting | Phase::Backoff { .. } | Phase::Failed | Phase::Done,\n            ) =>";
        assert!(table.contains(line), "the last arm is another");
        let lazy = table.replace(line, &format!("{line} {{}}\n            _ =>"));
        assert_eq!(catch_alls(&lazy).1.len(), 1, "an arm for all the rest is found");
    }
}
