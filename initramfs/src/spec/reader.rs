//! Reads an image file, and finds everything that is wrong with it: what is said is what state files have said of them.
//!
//! A getter gives nothing where there is a mistake, and reading goes on, so that one run names them all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use units::diagnostic::{self, Diagnostic};
use units::nearest::nearest;
use units::source::{Source, Sources, Span};
use units::value::ValueError;
use units::{found, span, syntax};

use super::{Base, Compression, ExtraFile, Kernel, Spec, State};

/// Keys of the whole file.
pub const TOP: &[&str] = &[
    "suite",
    "packages",
    "base",
    "remove",
    "compression",
    "programs",
    "kernel",
    "state",
    "file",
    "symlinks",
];
/// Keys of `[kernel]`.
pub const KERNEL: &[&str] = &["package", "suites", "modules"];
/// Keys of `[state]`.
pub const STATE: &[&str] = &["file", "others"];
/// Keys of a `[file."/PATH"]`.
pub const FILE: &[&str] = &["source", "content", "mode"];

/// Reads a text, and gives what it says and what is wrong with it; nothing is wrong where that is empty. `exists` says
/// whether there is something at a path beside the image file.
pub fn read(text: &str, path: &Path, exists: &dyn Fn(&Path) -> bool) -> (Spec, String) {
    let mut sources = Sources::new();
    let file = sources.add(Source::new(path.display().to_string(), text));
    let mut reader = Reader { sources, file, wrong: Vec::new(), damaged: Vec::new(), exists };
    let spec = reader.spec(text);
    let Reader { sources, mut wrong, .. } = reader;
    wrong.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
    let said: Vec<String> = wrong.iter().map(|d| diagnostic::render(d, &sources)).collect();
    (spec, said.join("\n"))
}

/// A table, and what it is called.
#[derive(Clone, Copy)]
struct Named<'t> {
    table: &'t DeTable<'t>,
    name: &'t str,
    at: Span,
}

struct Reader<'a> {
    sources: Sources,
    file: u32,
    wrong: Vec<Diagnostic>,
    /// Sections that may have said more than can be read.
    damaged: Vec<Span>,
    exists: &'a dyn Fn(&Path) -> bool,
}

impl Reader<'_> {
    fn spec(&mut self, text: &str) -> Spec {
        let mut rest = syntax::Recovered::default();
        let parsed = DeTable::parse(text);
        if parsed.is_err() {
            rest = syntax::recover(text, &|word| TOP.contains(&word));
            for broken in &rest.broken {
                self.wrong.push(broken.diagnostic(self.file, &self.sources));
            }
            self.damaged = rest.damaged.iter().map(|range| syntax::span(self.file, range)).collect();
        }
        let whole =
            parsed.or_else(|_| DeTable::parse(&rest.text)).map(Spanned::into_inner).unwrap_or_default();
        let top =
            Named { table: &whole, name: "the image file", at: Span { file: self.file, start: 0, end: 0 } };
        self.known(top, TOP);
        let mut spec = Spec {
            suite: self.needed_text(top, "suite"),
            packages: self.texts(top, "packages"),
            base: self.word(top, "base", &[("debian", Base::Debian), ("unpacked", Base::Unpacked)]),
            remove: self.texts(top, "remove"),
            compression: self.word(
                top,
                "compression",
                &[("zstd", Compression::Zstd), ("none", Compression::None)],
            ),
            kernel: self.table(top, "kernel").map(|t| self.kernel(t)),
            state: self.table(top, "state").and_then(|t| self.state(t)),
            programs: self.flag(top, "programs").unwrap_or(true),
            files: BTreeMap::new(),
            symlinks: BTreeMap::new(),
        };
        for named in self.table(top, "file").map(|t| self.tables(t)).unwrap_or_default() {
            self.extra_file(&mut spec, named);
        }
        if let Some(links) = self.table(top, "symlinks") {
            self.symlinks(&mut spec, links);
        }
        // Sections whose header is broken are read for their mistakes.
        for lost in &rest.lost {
            let Ok(table) = DeTable::parse(&lost.text) else { continue };
            let at = syntax::span(self.file, &lost.header);
            let named = Named { table: table.get_ref(), name: &lost.name, at };
            match lost.word.as_str() {
                "kernel" => drop(self.kernel(named)),
                "state" => drop(self.state(named)),
                "file" => self.extra_file(&mut spec, named),
                "symlinks" => self.symlinks(&mut spec, named),
                _ => {}
            }
        }
        spec
    }

    fn kernel(&mut self, table: Named<'_>) -> Kernel {
        let table = Named { name: "[kernel]", ..table };
        self.known(table, KERNEL);
        Kernel {
            package: self.needed_text(table, "package"),
            suites: self.needed_texts(table, "suites"),
            modules: self.texts(table, "modules"),
        }
    }

    fn state(&mut self, table: Named<'_>) -> Option<State> {
        let table = Named { name: "[state]", ..table };
        self.known(table, STATE);
        self.needed(table, "file");
        let file = self.beside(table, "file");
        let others = self.elements(table, "others").into_iter().filter_map(|(text, at)| self.there(text, at));
        let others = others.collect();
        Some(State { file: file?, others })
    }

    fn extra_file(&mut self, spec: &mut Spec, table: Named<'_>) {
        let path = table.name;
        let name = format!("[file.{path:?}]");
        let table = Named { name: &name, ..table };
        self.known(table, FILE);
        self.absolute(path, table.at);
        let (source, content) = (self.has(table, "source"), self.has(table, "content"));
        if source == content && (source || !self.is_damaged(table.at)) {
            let text = format!("{name} needs exactly one of `source` and `content`");
            let d = Diagnostic::error(if source { "two-contents" } else { "missing-key" }, table.at, text);
            self.wrong.push(d);
        }
        let mode = self.text(table, "mode").and_then(|(text, at)| match units::value::mode::parse(&text) {
            Ok(mode) => Some(mode),
            Err(e) => {
                self.bad_value("`mode`", at, e);
                None
            }
        });
        let file = ExtraFile {
            source: self.beside(table, "source"),
            content: self.text(table, "content").map(|(t, _)| t),
            mode,
        };
        spec.files.insert(path.to_owned(), file);
    }

    fn symlinks(&mut self, spec: &mut Spec, table: Named<'_>) {
        for (key, value) in table.table {
            let path: &str = key.get_ref();
            self.absolute(path, span(self.file, key));
            match value.get_ref().as_str() {
                Some(target) => drop(spec.symlinks.insert(path.to_owned(), target.to_owned())),
                None => {
                    self.wrong_type(&format!("`{path}`"), "a string: what the link points to", value, None)
                }
            }
        }
    }

    /// Keys that nobody knows.
    fn known(&mut self, table: Named<'_>, keys: &[&str]) {
        for key in table.table.keys().filter(|k| !keys.contains(&k.get_ref().as_ref())) {
            let text = format!("unknown key `{}` in {}", key.get_ref(), table.name);
            let d = Diagnostic::error("unknown-key", span(self.file, key), text);
            self.wrong.push(match nearest(key.get_ref(), keys.iter().copied()) {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help(format!("the keys of {} are {}", table.name, keys.join(", "))),
            });
        }
    }

    fn absolute(&mut self, path: &str, at: Span) {
        if !path.starts_with('/') {
            let d = Diagnostic::error("bad-name", at, format!("path `{path}` is not absolute"));
            self.wrong.push(d.help("begin it with `/`"));
        }
    }

    fn bad_value(&mut self, what: &str, at: Span, error: ValueError) {
        let mut d = Diagnostic::error("bad-value", at, format!("{what}: {}", error.message));
        d.help = error.help;
        self.wrong.push(d);
    }

    fn wrong_type(&mut self, what: &str, expected: &str, value: &Spanned<DeValue<'_>>, help: Option<String>) {
        let text = format!("{what} takes {expected}, but this is {}", found(value.get_ref()));
        let mut d = Diagnostic::error("wrong-type", span(self.file, value), text);
        d.help = help;
        self.wrong.push(d);
    }

    fn is_damaged(&self, at: Span) -> bool {
        self.damaged.iter().any(|r| (r.start..r.end).contains(&at.start))
    }

    fn has(&self, table: Named<'_>, key: &str) -> bool {
        table.table.contains_key(key)
    }

    fn needed(&mut self, table: Named<'_>, key: &str) {
        if !self.has(table, key) && !self.is_damaged(table.at) {
            let d = Diagnostic::error("missing-key", table.at, format!("{} needs `{key}`", table.name));
            self.wrong.push(d.help("docs/image.md says what each key means"));
        }
    }

    fn text(&mut self, table: Named<'_>, key: &str) -> Option<(String, Span)> {
        let value = table.table.get(key)?;
        let text = value.get_ref().as_str().map(|t| (t.to_owned(), span(self.file, value)));
        if text.is_none() {
            let help = (key == "mode").then(|| units::value::mode::NEEDS_STRING.to_owned());
            self.wrong_type(&format!("`{key}`"), "a string", value, help);
        }
        text
    }

    fn needed_text(&mut self, table: Named<'_>, key: &str) -> String {
        self.needed(table, key);
        self.text(table, key).map(|(text, _)| text).unwrap_or_default()
    }

    /// The elements of an array of strings, each with its place.
    fn elements(&mut self, table: Named<'_>, key: &str) -> Vec<(String, Span)> {
        let Some(value) = table.table.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            let help = value.get_ref().as_str().map(|s| format!("write `{key} = [{s:?}]`"));
            self.wrong_type(&format!("`{key}`"), "an array of strings", value, help);
            return Vec::new();
        };
        let mut out = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_str() {
                Some(text) => out.push((text.to_owned(), span(self.file, element))),
                None => self.wrong_type(&format!("an element of `{key}`"), "a string", element, None),
            }
        }
        out
    }

    fn texts(&mut self, table: Named<'_>, key: &str) -> Vec<String> {
        self.elements(table, key).into_iter().map(|(text, _)| text).collect()
    }

    fn needed_texts(&mut self, table: Named<'_>, key: &str) -> Vec<String> {
        self.needed(table, key);
        self.texts(table, key)
    }

    fn flag(&mut self, table: Named<'_>, key: &str) -> Option<bool> {
        let value = table.table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(&format!("`{key}`"), "`true` or `false`", value, None);
        }
        flag
    }

    /// One of the words of a key, or what it is without.
    fn word<T: Copy + Default>(&mut self, table: Named<'_>, key: &str, of: &[(&str, T)]) -> T {
        let Some((text, at)) = self.text(table, key) else { return T::default() };
        if let Some((_, value)) = of.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<&str> = of.iter().map(|(word, _)| *word).collect();
        let help = match nearest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of `{}`", words.join("`, `")),
        };
        let error = ValueError::new(format!("`{text}` is not a known word")).help(help);
        self.bad_value(&format!("`{key}`"), at, error);
        T::default()
    }

    fn table<'t>(&mut self, table: Named<'t>, key: &'t str) -> Option<Named<'t>> {
        let value = table.table.get(key)?;
        let DeValue::Table(inner) = value.get_ref() else {
            self.wrong_type(
                &format!("`{key}`"),
                "a table",
                value,
                Some(format!("write `[{key}]`, and its keys below")),
            );
            return None;
        };
        Some(Named { table: inner, name: key, at: span(self.file, value) })
    }

    /// The tables in a table.
    fn tables<'t>(&mut self, table: Named<'t>) -> Vec<Named<'t>> {
        let mut out = Vec::new();
        for (key, value) in table.table {
            match value.get_ref() {
                DeValue::Table(inner) => {
                    out.push(Named { table: inner, name: key.get_ref(), at: span(self.file, value) });
                }
                _ => {
                    let help = format!("write `[{}.{:?}]`, and its keys below", table.name, key.get_ref());
                    self.wrong_type(
                        &format!("`{}.{}`", table.name, key.get_ref()),
                        "a table",
                        value,
                        Some(help),
                    );
                }
            }
        }
        out
    }

    /// A path beside the image file, at which there is something.
    fn beside(&mut self, table: Named<'_>, key: &str) -> Option<PathBuf> {
        let (text, at) = self.text(table, key)?;
        self.there(text, at)
    }

    fn there(&mut self, text: String, at: Span) -> Option<PathBuf> {
        let path = PathBuf::from(text);
        if (self.exists)(&path) {
            return Some(path);
        }
        let text = format!("cannot read `{}`: no such file or directory", path.display());
        let d = Diagnostic::error("load", at, text);
        self.wrong.push(d.help("relative paths are relative to the image file"));
        None
    }
}
