//! What is known, for people: the second half of `docs/mutants.md` is what `cargo mutate --report` prints.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use super::Mutant;
use super::results::{Outcome, Results, Verdict};
use super::scratch::Mutants;
use crate::Result;

/// Why whoever survives may, by groups.
const ARGUMENTS: &str = include_str!("arguments.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    group: Vec<Group>,
}

/// A change that is shorter than this is told with its line, if that is shorter than the other.
const SHORT: usize = 22;
const LONG: usize = 90;

/// Survivors of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    title: String,
    why: String,
    /// `FILE FUNCTION: CHANGE @ LINE`, each with `*` for anything.
    of: Vec<String>,
    /// Only those of which this is said, such as `the same`.
    #[serde(default)]
    said: String,
}

impl Group {
    fn has(&self, mutant: &Mutant, result: &Outcome) -> bool {
        let name = name(mutant);
        result.by.contains(&self.said) && self.of.iter().any(|pattern| is_like(pattern, &name))
    }
}

fn name(mutant: &Mutant) -> String {
    format!("{} {}: {} @ {}", file(&mutant.file), function(mutant), mutant.change, mutant.around)
}

/// A file, below `src`.
fn file(path: &str) -> &str {
    path.split_once("src/").map_or(path, |(_, file)| file)
}

/// A function, without its type.
fn function(mutant: &Mutant) -> &str {
    mutant.function.rsplit("::").next().unwrap_or_default()
}

/// Whether a text is a pattern, in which `*` stands for anything.
pub(super) fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(former) = last.replace(part) {
            let Some((_, behind)) = rest.split_once(former) else { return false };
            rest = behind;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// All of it.
///
/// # Errors
/// When the arguments are not what they should be.
pub fn write(mutants: &Mutants, results: &Results) -> Result<String> {
    let arguments: Arguments = toml::from_str(ARGUMENTS)?;
    let mut out = table(mutants, results)?;
    let mut open: Vec<(&Mutant, &Outcome)> = mutants
        .all
        .values()
        .filter_map(|mutant| Some((mutant, results.of(mutant).filter(|r| r.verdict.lives())?)))
        .collect();
    for group in &arguments.group {
        let (of, others): (Vec<_>, Vec<_>) = open.into_iter().partition(|(m, r)| group.has(m, r));
        open = others;
        if of.is_empty() {
            eprintln!("nobody survives who is argued by: {}", group.title);
            continue;
        }
        // Of whole groups it is said once.
        let said =
            if group.said == "the same" { " Each did the same in every history compared." } else { "" };
        writeln!(out, "\n### {} ({})\n{}{said}\n\n{}", group.title, of.len(), group.why.trim(), list(&of)?)?;
    }
    if !open.is_empty() {
        writeln!(out, "\n### Not argued ({})\n{}", open.len(), list(&open)?)?;
    }
    Ok(out)
}

/// A line a file, and what broke the others.
fn table(mutants: &Mutants, results: &Results) -> Result<String> {
    let mut files: BTreeMap<&str, BTreeMap<Verdict, usize>> = BTreeMap::new();
    let mut killers: BTreeMap<String, usize> = BTreeMap::new();
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    let mut open = 0;
    for mutant in mutants.all.values() {
        let Some(result) = results.of(mutant) else {
            open += 1;
            continue;
        };
        *files.entry(file(&mutant.file)).or_default().entry(result.verdict).or_default() += 1;
        if !result.verdict.lives() {
            *killers.entry(killer(result)).or_default() += 1;
        } else if let Some(mark) = mark(result) {
            *said.entry(mark).or_default() += 1;
        }
    }
    let mut out =
        String::from("| file | mutants | killed | hung | survived | unasked |\n|---|---|---|---|---|---|\n");
    let mut sums = BTreeMap::new();
    for (file, counts) in &files {
        out += &row(&format!("`{file}`"), counts);
        for (verdict, count) in counts {
            *sums.entry(*verdict).or_default() += count;
        }
    }
    out += &row("all", &sums);
    writeln!(out, "\n{} do not compile, {open} are not tried.", mutants.left_out)?;
    let said: Vec<String> = said.into_iter().map(|(mark, count)| format!("{count} {mark}")).collect();
    writeln!(out, "Of those who survive: {}.\n", said.join(", "))?;
    let mut killers: Vec<(String, usize)> = killers.into_iter().collect();
    killers.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), name.clone()));
    let killers: Vec<String> = killers.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    writeln!(out, "Broken by: {}.", killers.join(", "))?;
    Ok(out)
}

fn row(file: &str, counts: &BTreeMap<Verdict, usize>) -> String {
    let of = |v| counts.get(&v).copied().unwrap_or(0);
    let numbers = Verdict::ALL.map(|(v, _)| of(v).to_string());
    format!("| {file} | {} | {} |\n", counts.values().sum::<usize>(), numbers.join(" | "))
}

/// What killed a mutant, without where.
fn killer(result: &Outcome) -> String {
    match result.verdict {
        Verdict::Hung => "too much time or memory".to_owned(),
        _ if result.by.starts_with("test ") => "a unit test".to_owned(),
        _ if result.by.starts_with("panic") => "a panic".to_owned(),
        _ => format!("`{}`", result.by.split(',').next().unwrap_or_default()),
    }
}

/// How a survivor differs, in one word.
fn mark(result: &Outcome) -> Option<&'static str> {
    let said = |words: &str| result.by.contains(words);
    match result.verdict {
        Verdict::Unasked => Some("unasked"),
        _ if said("the same") => Some("same"),
        _ if said("other words") => Some("words"),
        _ => Some("other"),
    }
}

/// Functions, and what is changed in each.
type Changes<'m> = Vec<(&'m str, Vec<String>)>;

/// A line a file, with its functions in their order.
fn list(of: &[(&Mutant, &Outcome)]) -> Result<String> {
    let mut lines: Vec<(&str, Changes)> = Vec::new();
    for (mutant, result) in of {
        let (file, function) = (file(&mutant.file), function(mutant));
        let mut change = format!("`{}`", mutant.change);
        // So little says nothing by itself.
        if mutant.change.len() < SHORT && mutant.around.len() < LONG {
            change = format!("{change} in `{}`", mutant.around);
        }
        if let Some(mark) = mark(result).filter(|m| *m == "words" || *m == "unasked") {
            change += &format!(" ({mark})");
        }
        if lines.last().is_none_or(|(last, _)| *last != file) {
            lines.push((file, Vec::new()));
        }
        let Some((_, functions)) = lines.last_mut() else { continue };
        match functions.last_mut().filter(|(last, _)| *last == function) {
            Some((_, changes)) => changes.push(change),
            None => functions.push((function, vec![change])),
        }
    }
    let mut out = String::new();
    for (file, functions) in lines {
        let functions =
            functions.into_iter().map(|(f, changes)| format!("*{f}* {}", together(changes).join(", ")));
        writeln!(out, "- `{file}`: {}", functions.collect::<Vec<_>>().join("; "))?;
    }
    Ok(out.trim_end().to_owned())
}

/// What reads the same, once.
fn together(changes: Vec<String>) -> Vec<String> {
    let mut out: Vec<(String, usize)> = Vec::new();
    for change in changes {
        match out.iter_mut().find(|(c, _)| *c == change) {
            Some((_, times)) => *times += 1,
            None => out.push((change, 1)),
        }
    }
    out.into_iter().map(|(c, times)| if times > 1 { format!("{c} × {times}") } else { c }).collect()
}
