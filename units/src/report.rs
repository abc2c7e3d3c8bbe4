//! What a compilation gathers while it reads: diagnostics, variables, contents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::compile::Where;
use crate::diagnostic::Diagnostic;
use crate::kind::Content;
use crate::load::{self, LoadError, Loader};
use crate::source::{Source, Sources, Span};
use crate::syntax::Broken;
use crate::vars::Vars;

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
    /// Files with syntax errors.
    broken: BTreeSet<u32>,
}

/// Mistakes that a syntax error elsewhere in the file may have caused: what was lost is not missing.
const MAYBE_LOST: [&str; 3] = ["missing-key", "exec-without-guard", "seed-without-content"];

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
            broken: BTreeSet::new(),
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

    /// Adds a statement that does not parse.
    pub fn syntax_error(&mut self, file: u32, broken: &Broken) {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let at = Span { file, start: number(broken.range.0), end: number(broken.range.1) };
        self.broken.insert(file);
        let twice = broken.message.starts_with("duplicate key");
        let d = if twice {
            let key = self.sources.text(at);
            let d = Diagnostic::error("duplicate-key", at, format!("`{key}` is there a second time"));
            d.help("a key, and a table, stands once in a file; keep one of them")
        } else {
            let d = Diagnostic::error("syntax", at, &*broken.message);
            match self.quoted(at) {
                Some(header) => d.help(format!("a name with such characters is quoted: `{header}`")),
                None => d,
            }
        };
        self.add(d);
    }

    /// The header of a unit's table in which a name should have been quoted.
    fn quoted(&self, at: Span) -> Option<String> {
        let source = self.sources.get(at.file)?;
        let line = source.line(source.position(at.start).line).trim();
        let (kind, name) = line.strip_prefix('[')?.split_once(']')?.0.split_once('.')?;
        let kind = crate::Kind::from_word(kind.trim()).filter(|_| !name.contains(['"', '\'']))?;
        Some(crate::unquoted::header(kind, name.trim()))
    }

    /// Whether a diagnostic is only the echo of a syntax error.
    fn is_echo(&self, d: &Diagnostic) -> bool {
        // What is lost may have been named from any file.
        if d.id == "unknown-unit" && !self.broken.is_empty() {
            return true;
        }
        MAYBE_LOST.contains(&&*d.id) && d.span.is_some_and(|at| self.broken.contains(&at.file))
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
