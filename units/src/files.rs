//! Loads the files of a layer: the entry file, and what it includes.

use std::cell::OnceCell;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::compile::MAX_STATE_FILE;
use crate::diagnostic::{ABSENT, Diagnostic};
use crate::glob;
use crate::load::{EntryKind, LoadError, relative_to};
use crate::reader::{found, span};
use crate::report::Report;
use crate::source::{Source, Span};
use crate::syntax;
use crate::value::name;
use crate::vars::Var;

/// Files that one compilation may read.
const MAX_FILES: usize = 4096;

/// Texts that stay where they are, so that parsed tables can borrow from them while more are added.
#[derive(Default)]
pub struct Texts {
    node: OnceCell<(Arc<str>, Box<Texts>)>,
}

impl Texts {
    /// Adds a text.
    fn add(&self, text: Arc<str>) -> &str {
        let mut at = self;
        while let Some((_, next)) = at.node.get() {
            at = next;
        }
        &at.node.get_or_init(|| (text, Box::default())).0
    }
}

/// A parsed file.
pub struct File<'t> {
    /// Its number in the sources.
    pub number: u32,
    /// Its layer's number.
    pub layer: usize,
    /// What it holds.
    pub table: DeTable<'t>,
    /// Sections whose header is broken, or stands a second time.
    pub lost: Vec<LostSection<'t>>,
}

/// A section that is read for its mistakes only: no manifest comes of its file.
pub struct LostSection<'t> {
    /// First word of its header.
    pub word: String,
    /// The rest of its header.
    pub name: String,
    /// Where that stands.
    pub header: Span,
    /// What it holds.
    pub table: DeTable<'t>,
}

/// A file that is still to be read.
struct Pending {
    path: String,
    /// Who includes it, from the entry file on, as (path, place).
    chain: Vec<(String, Span)>,
}

/// Loads a layer's files, the entry file first, then what it includes in the written order. Variables go straight
/// into the report.
pub fn load<'t>(
    report: &mut Report<'_>,
    texts: &'t Texts,
    layer: usize,
    entry: &str,
    files: &mut Vec<File<'t>>,
) {
    let first = files.len();
    let mut pending = vec![Pending { path: entry.to_owned(), chain: Vec::new() }];
    let mut known = std::collections::BTreeSet::new();
    while let Some(next) = pending.pop() {
        let at = next.chain.last().map(|(_, at)| *at);
        if let Some(from) = next.chain.iter().position(|(path, _)| *path == next.path) {
            report.add(include_cycle(&next, from));
            continue;
        }
        if !known.insert(next.path.clone()) {
            continue;
        }
        if files.len() - first >= MAX_FILES {
            report.add(Diagnostic::error("include", at, format!("more than {MAX_FILES} files are included")));
            return;
        }
        let Some(text) = read(report, layer, &next.path, at) else {
            report.unread();
            continue;
        };
        let text: Arc<str> = text.into();
        let number = report.add_source(layer, Source::new(next.path.clone(), Arc::clone(&text)));
        let (table, lost) = parse(report, number, texts, text);
        version(report, number, &table);
        let lost_variables = lost.iter().filter(|l| l.word == "vars" && l.name.is_empty()).map(|l| &l.table);
        for vars in vars_of(report, number, &table).into_iter().chain(lost_variables) {
            variables(report, number, layer, vars);
        }
        let errors = report.errors();
        let mut included = includes(report, number, &next, &table);
        if report.errors() > errors {
            report.unread();
        }
        included.reverse();
        pending.append(&mut included);
        files.push(File { number, layer, table, lost });
    }
}

/// What a text holds, as far as it parses; what does not is reported.
fn parse<'t>(
    report: &mut Report<'_>,
    number: u32,
    texts: &'t Texts,
    text: Arc<str>,
) -> (DeTable<'t>, Vec<LostSection<'t>>) {
    if let Ok(table) = DeTable::parse(texts.add(Arc::clone(&text))) {
        return (table.into_inner(), Vec::new());
    }
    let known = |word: &str| crate::Kind::from_word(word).is_some() || word == "vars";
    let mut found = syntax::recover(&text, &known);
    let rest = std::mem::take(&mut found.text);
    let sections = std::mem::take(&mut found.lost);
    report.syntax_errors(number, found);
    let parsed = |text: String| {
        DeTable::parse(texts.add(text.into())).map(toml::Spanned::into_inner).unwrap_or_default()
    };
    let lost = sections.into_iter().map(|l| LostSection {
        header: syntax::span(number, &l.header),
        word: l.word,
        name: l.name,
        table: parsed(l.text),
    });
    (parsed(rest), lost.collect())
}

fn include_cycle(closing: &Pending, from: usize) -> Diagnostic {
    let cycle = closing.chain.get(from..).unwrap_or_default();
    let names = cycle.iter().map(|(path, _)| path.as_str()).chain([closing.path.as_str()]);
    let text = format!("files include each other: {}", names.collect::<Vec<_>>().join(" → "));
    let mut places = cycle.iter().map(|(_, at)| *at).rev();
    let mut d = Diagnostic::error("include-cycle", places.next(), text);
    for at in places {
        d = d.label(at, "through this one");
    }
    d
}

fn read(report: &mut Report<'_>, layer: usize, path: &str, at: Option<Span>) -> Option<String> {
    let too_large = |size: String| {
        Diagnostic::error("too-large", at, format!("state file `{path}` is too large: {size}"))
            .help(format!("a state file has at most {} MiB; keep contents in files of their own and name them with `source`", MAX_STATE_FILE >> 20))
    };
    let bytes = match report.files_of(layer).read(path) {
        Ok(bytes) if bytes.len() > MAX_STATE_FILE => {
            report.add(too_large(format!("{} bytes", bytes.len())));
            return None;
        }
        Ok(bytes) => bytes,
        Err(LoadError::TooLarge { limit }) => {
            report.add(too_large(format!("more than {limit} bytes")));
            return None;
        }
        Err(e) => {
            let id = if at.is_none() && e == LoadError::NotFound { ABSENT } else { "load" };
            report.add(Diagnostic::error(id, at, format!("cannot read state file `{path}`: {e}")));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(e) => {
            let start = e.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
            let number = report.add_source(layer, Source::new(path, text));
            let start = u32::try_from(start).unwrap_or(u32::MAX);
            // A replacement character has three bytes.
            let place = Span { file: number, start, end: start.saturating_add(3) };
            let d = Diagnostic::error("not-utf-8", place, format!("state file `{path}` is not UTF-8"));
            report.add(d.help(
                "state files are UTF-8; keep other bytes in a file of their own and name it with `source`",
            ));
            None
        }
    }
}

fn version(report: &mut Report<'_>, number: u32, table: &DeTable<'_>) {
    let Some(value) = table.get("holdfast") else { return };
    let one = value.get_ref().as_integer().is_some_and(|n| n.as_str() == "1");
    if !one {
        let d =
            Diagnostic::error("version", span(number, value), "this version of the language is not known");
        report.add(d.help("write `holdfast = 1`, or leave it out"));
    }
}

fn vars_of<'a, 't>(report: &mut Report<'_>, number: u32, table: &'a DeTable<'t>) -> Option<&'a DeTable<'t>> {
    let value = table.get("vars")?;
    let DeValue::Table(vars) = value.get_ref() else {
        let d = Diagnostic::error("wrong-type", span(number, value), "`vars` is a table of variables");
        report.add(d.help("write `[vars]` and one `name = \"value\"` a line below it"));
        return None;
    };
    Some(vars)
}

fn variables(report: &mut Report<'_>, number: u32, layer: usize, vars: &DeTable<'_>) {
    for (key, value) in vars {
        let (at, name) = (span(number, value), key.get_ref().as_ref());
        if name::unit(crate::address::Kind::Target, name).is_err() || name.contains('.') {
            let text = format!("`{name}` is no name of a variable");
            let d = Diagnostic::error("bad-name", span(number, key), text);
            report.add(d.help("use letters, digits, `_` and `-`"));
            continue;
        }
        let value = match value.get_ref() {
            DeValue::String(s) => s.clone().into_owned(),
            DeValue::Boolean(b) => b.to_string(),
            DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => n.to_string(),
                Err(_) => n.to_string(),
            },
            other => {
                let text = format!(
                    "variable `{name}` is a string, an integer or a boolean, but this is {}",
                    found(other)
                );
                report.add(Diagnostic::error("wrong-type", at, text));
                continue;
            }
        };
        if let Some(before) = report.vars.add(name, Var { value, span: at, layer }) {
            let d = Diagnostic::error("duplicate-variable", at, format!("variable `{name}` is set twice"));
            report.add(d.label(before, "first here"));
        }
    }
}

fn includes(report: &mut Report<'_>, number: u32, by: &Pending, table: &DeTable<'_>) -> Vec<Pending> {
    let Some(value) = table.get("include") else { return Vec::new() };
    let Some(list) = value.get_ref().as_array() else {
        let d = Diagnostic::error(
            "wrong-type",
            span(number, value),
            "`include` is an array of files or patterns",
        );
        report.add(d.help("write `include = [\"conf.d/*.toml\"]`"));
        return Vec::new();
    };
    let mut out = Vec::new();
    for element in list.iter() {
        let at = span(number, element);
        let Some(said) = element.get_ref().as_str() else {
            let text = format!("`include` takes strings, but this is {}", found(element.get_ref()));
            report.add(Diagnostic::error("wrong-type", at, text));
            continue;
        };
        if said.contains("${") {
            let d = Diagnostic::error("include", at, "variables cannot stand in `include`");
            report.add(d.help("files are read before variables are known"));
            continue;
        }
        let mut chain = by.chain.clone();
        chain.push((by.path.clone(), at));
        let path = relative_to(&by.path, said);
        let found = if glob::is_pattern(&path) { expand(report, &path, at) } else { vec![path] };
        out.extend(found.into_iter().map(|path| Pending { path, chain: chain.clone() }));
    }
    out
}

/// Files that match a pattern, sorted. None is no mistake: a directory of drop-ins may be empty.
fn expand(report: &mut Report<'_>, pattern: &str, at: Span) -> Vec<String> {
    let (directory, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
    if glob::is_pattern(directory) {
        let text = format!("`{pattern}`: only the last part of an `include` may be a pattern");
        report.add(Diagnostic::error("include", at, text));
        return Vec::new();
    }
    let directory = if directory.is_empty() { "/" } else { directory };
    match report.files_at(at).list(directory) {
        Ok(entries) => {
            let file = |k: &EntryKind| matches!(k, EntryKind::File | EntryKind::Symlink(_));
            let mut names: Vec<String> = entries
                .into_iter()
                .filter(|e| file(&e.kind) && glob::matches(name, &e.name))
                .map(|e| e.name)
                .collect();
            names.sort_unstable();
            names
                .into_iter()
                .map(|n| pattern.rsplit_once('/').map_or(n.clone(), |(d, _)| format!("{d}/{n}")))
                .collect()
        }
        Err(LoadError::NotFound) => Vec::new(),
        Err(e) => {
            report.add(Diagnostic::error("load", at, format!("cannot list `{directory}`: {e}")));
            Vec::new()
        }
    }
}
