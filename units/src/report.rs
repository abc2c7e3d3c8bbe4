//! What a compilation gathers while it reads: diagnostics, variables, contents.

use std::collections::{BTreeMap, HashMap};

use crate::compile::Where;
use crate::diagnostic::Diagnostic;
use crate::field;
use crate::kind::Content;
use crate::load::{self, LoadError, Loader};
use crate::source::{Source, Sources, Span};
use crate::syntax::{self, Recovered};
use crate::value;
use crate::vars::Vars;
use crate::{Address, Kind};

/// Diagnostics that are kept; further ones are only counted.
pub const MAX_DIAGNOSTICS: usize = 1000;

/// Longest sentence of a diagnostic, in bytes: names in a state file may have any length.
const LONGEST: usize = 4000;

fn clip(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

/// The gathering place of a compilation.
pub struct Report<'l> {
    /// What was read.
    pub sources: Sources,
    /// The variables.
    pub vars: Vars,
    /// Where bytes come from.
    loader: &'l mut dyn Loader,
    /// Layers of the sources, by their numbers.
    layers: Vec<usize>,
    diagnostics: Vec<Diagnostic>,
    dropped: usize,
    errors: usize,
    /// Candidates that may still be looked at for suggestions.
    suggestions: usize,
    contents: BTreeMap<[u8; 32], (Content, Where)>,
    /// Sources that were digested already, by layer and path.
    digested: BTreeMap<usize, HashMap<String, Content>>,
    /// Statements that do not parse: nobody knows what they said.
    lost: Vec<Span>,
    /// Sections that hold such statements.
    damaged: Vec<Span>,
    /// Whether files, or the rest of one, could not be read at all.
    unread: bool,
}

/// Mistakes that a syntax error in the same section may have caused: what was lost is not missing.
const MAYBE_LOST: [&str; 8] = [
    "missing-key",
    "exec-without-guard",
    "seed-without-content",
    "useless-key",
    "duplicate-unit",
    "claimed-twice",
    "owned-twice",
    "waits-for-a-person",
];

impl<'l> Report<'l> {
    /// An empty one.
    pub fn new(loader: &'l mut dyn Loader) -> Report<'l> {
        Report {
            sources: Sources::new(),
            vars: Vars::default(),
            loader,
            layers: Vec::new(),
            diagnostics: Vec::new(),
            dropped: 0,
            errors: 0,
            suggestions: 4_000_000,
            contents: BTreeMap::new(),
            digested: BTreeMap::new(),
            lost: Vec::new(),
            damaged: Vec::new(),
            unread: false,
        }
    }

    /// Adds a diagnostic.
    pub fn add(&mut self, mut diagnostic: Diagnostic) {
        let labels = diagnostic.labels.iter_mut().map(|l| &mut l.message);
        for text in labels.chain([&mut diagnostic.message]).chain(&mut diagnostic.help) {
            clip(text);
        }
        self.errors += usize::from(diagnostic.is_error());
        if self.diagnostics.len() < MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Adds what does not parse in a file.
    pub fn syntax_errors(&mut self, file: u32, found: Recovered) {
        for broken in &found.broken {
            let d = broken.diagnostic(file, &self.sources);
            let at = d.span.filter(|_| d.id == "syntax");
            let help = match at.and_then(|at| self.quoted(at)) {
                Some(header) => Some(format!("a name with such characters is quoted: `{header}`")),
                None => at.and_then(|at| self.mode_help(at)),
            };
            self.add(match help {
                Some(help) => d.help(help),
                None => d,
            });
        }
        if found.cut {
            let end = self.sources.get(file).map_or(0, |s| s.text().len());
            let text = "there is so much that does not parse that the rest of the file was not looked at";
            self.add(Diagnostic::error("syntax", syntax::span(file, &(end..end)), text));
            self.unread = true;
        }
        self.lost.extend(found.unread.iter().map(|range| syntax::span(file, range)));
        self.damaged.extend(found.damaged.iter().map(|range| syntax::span(file, range)));
    }

    /// A file could not be read: what it may declare is not unknown.
    pub fn unread(&mut self) {
        self.unread = true;
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Whether something of this name may stand where nobody could read it.
    fn may_be_lost(&self, name: &str) -> bool {
        self.unread || self.lost.iter().any(|at| self.sources.text(*at).contains(name))
    }

    /// Whether a unit may be declared where nobody could read it.
    pub fn may_have_lost(&self, unit: &Address) -> bool {
        // A directory's entries, and further files, are declared by one word.
        let by_others = |at: &Span| {
            let text = self.sources.text(*at);
            text.contains("include") || text.contains("source") && unit.name.starts_with('/')
        };
        self.may_be_lost(&unit.name) || self.lost.iter().any(by_others)
    }

    /// The header of a unit's table in which a name should have been quoted.
    fn quoted(&self, at: Span) -> Option<String> {
        let source = self.sources.get(at.file)?;
        let line = source.line(source.position(at.start).line).trim();
        let (kind, name) = line.strip_prefix('[')?.split_once(']')?.0.split_once('.')?;
        let kind = crate::Kind::from_word(kind.trim()).filter(|_| !name.contains(['"', '\'']))?;
        Some(crate::unquoted::header(kind, name.trim()))
    }

    /// How what does not parse is written, where it is the value of a key that takes a mode: a number with a zero before it.
    fn mode_help(&self, at: Span) -> Option<String> {
        let line = self.sources.get(at.file).map(|s| s.line(s.position(at.start).line))?;
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim(), value.trim_start());
        let takes_mode = |kind| field::table(kind).field(key).is_some_and(|f| f.value == field::Type::Mode);
        if !value.starts_with('0') || !Kind::ALL.into_iter().any(takes_mode) {
            return None;
        }
        let word = value.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        Some(match value::mode::parse(word) {
            Ok(_) => value::mode::NEEDS_STRING.replace("0644", word),
            Err(_) => value::mode::NEEDS_STRING.to_owned(),
        })
    }

    /// Whether a diagnostic is only the echo of a syntax error.
    fn is_echo(&self, d: &Diagnostic) -> bool {
        if d.id == "unknown-variable" {
            let name = d.message.split('`').nth(1).map(|n| n.strip_prefix("vars.").unwrap_or(n));
            return name.is_some_and(|n| self.may_be_lost(n));
        }
        let in_damaged =
            |at: Span| self.damaged.iter().any(|r| r.file == at.file && (r.start..r.end).contains(&at.start));
        MAYBE_LOST.contains(&&*d.id)
            && d.span.into_iter().chain(d.labels.iter().map(|l| l.span)).any(in_damaged)
    }

    /// Whether something keeps a manifest from being made.
    pub fn failed(&self) -> bool {
        self.errors > 0
    }

    /// Whether further diagnostics are only counted.
    pub fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    /// Whether a suggestion among that many candidates is still worth its time.
    pub fn may_suggest(&mut self, candidates: usize) -> bool {
        let rest = self.suggestions.checked_sub(candidates);
        self.suggestions = rest.unwrap_or_default();
        rest.is_some() && !self.is_full()
    }

    /// A mark in the diagnostics, for [`Report::conceal`].
    pub fn mark(&self) -> usize {
        self.diagnostics.len()
    }

    /// Takes the values out of every diagnostic since a mark: their unit is secret; with a place, only of those that
    /// would show a line of it.
    pub fn conceal(&mut self, mark: usize, only: Option<Span>) {
        let sources = &self.sources;
        let line = |file: u32, at: u32| sources.get(file).map(|s| s.position(at).line);
        let shows = |d: &Diagnostic, of: Span| {
            let places = d.span.into_iter().chain(d.labels.iter().map(|l| l.span));
            let lines = line(of.file, of.start)..=line(of.file, of.end);
            places.filter(|at| at.file == of.file).any(|at| lines.contains(&line(at.file, at.start)))
        };
        for d in self.diagnostics.iter_mut().skip(mark) {
            if only.is_some_and(|of| !shows(d, of)) {
                continue;
            }
            d.secret = true;
            if d.id == "bad-value" {
                let key = d.message.split(": ").next().unwrap_or_default();
                d.message = format!("{key}: this value cannot stand here (it is secret, and not shown)");
                d.help = None;
            }
        }
    }

    /// A value with its variables replaced.
    pub fn interpolate(&mut self, value: &str, at: Span) -> String {
        let (text, wrong) = self.vars.interpolate(value, at, &self.sources);
        let text = text.into_owned();
        for d in wrong {
            self.add(d);
        }
        text
    }

    /// Adds a source of a layer; gives its number.
    pub fn add_source(&mut self, layer: usize, source: Source) -> u32 {
        let number = self.sources.add(source);
        self.layers.resize(number as usize, layer);
        self.layers.push(layer);
        number
    }

    /// The door to the files of a layer.
    pub fn files_of(&mut self, layer: usize) -> &mut dyn Loader {
        self.loader.layer(layer);
        self.loader
    }

    fn layer_at(&self, at: Span) -> usize {
        self.layers.get(at.file as usize).copied().unwrap_or_default()
    }

    /// The door to the files of the layer that says something at a place.
    pub fn files_at(&mut self, at: Span) -> &mut dyn Loader {
        self.files_of(self.layer_at(at))
    }

    /// A path as said at a place: relative ones are relative to that file.
    pub fn path_at(&self, said: &str, at: Span) -> String {
        let file = self.sources.get(at.file).map_or("", |f| f.path());
        load::relative_to(file, said)
    }

    /// Takes a content that stands in a state file.
    pub fn inline(&mut self, bytes: Vec<u8>, at: Span) -> Content {
        let content = load::content_of(&bytes);
        if !self.contents.contains_key(&content.digest) {
            if let Err(e) = self.loader.contents(content, &bytes) {
                self.add(Diagnostic::error("load", at, format!("cannot stage content: {e}")));
            }
            self.contents.insert(content.digest, (content, Where::Inline(bytes)));
        }
        content
    }

    /// Digests a source named at a place.
    pub fn source(&mut self, said: &str, at: Span) -> Option<Content> {
        let path = self.path_at(said, at);
        self.source_at(path, at)
    }

    /// Digests a source by the loader's path.
    pub fn source_at(&mut self, path: String, at: Span) -> Option<Content> {
        let layer = self.layer_at(at);
        if let Some(known) = self.digested.get(&layer).and_then(|all| all.get(&path)) {
            return Some(*known);
        }
        match self.files_of(layer).source(&path) {
            Ok(content) => {
                self.contents.entry(content.digest).or_insert_with(|| (content, Where::Source(path.clone())));
                self.digested.entry(layer).or_default().insert(path, content);
                Some(content)
            }
            Err(e) => {
                self.unreadable(&path, &e, at);
                None
            }
        }
    }

    /// Reports a source that cannot be read.
    pub fn unreadable(&mut self, path: &str, error: &LoadError, at: Span) {
        let d = Diagnostic::error("load", at, format!("cannot read source `{path}`: {error}"));
        self.add(match error {
            LoadError::NotFound => d.help("relative paths are relative to the file that says them"),
            _ => d,
        });
    }

    /// Everything gathered, in the order of files and lines.
    pub fn finish(mut self) -> (Vec<Diagnostic>, Sources, Vec<(Content, Where)>) {
        let mut kept = std::mem::take(&mut self.diagnostics);
        kept.retain(|d| !self.is_echo(d));
        self.diagnostics = kept;
        self.diagnostics.sort_by(|a, b| (a.span, &a.id, &a.message).cmp(&(b.span, &b.id, &b.message)));
        if self.dropped > 0 {
            let text = format!("{} further mistakes are not shown", self.dropped);
            let mut last = Diagnostic::error("too-many", None, text);
            if self.errors == 0 {
                last.severity = crate::diagnostic::Severity::Warning;
            }
            self.diagnostics.push(last);
        }
        (self.diagnostics, self.sources, self.contents.into_values().collect())
    }
}
