//! Reads one table of a state file by its table of keys, and reports everything that is wrong with it.
//!
//! A getter always gives a value, a harmless one where there was a mistake: the mistake is in the diagnostics then,
//! no manifest is made, and checking goes on, so that one run names them all.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::address::Address;
use crate::diagnostic::Diagnostic;
use crate::field::{self, Field, Table, Type, Without};
use crate::kind::{Attributes, Content};
use crate::nearest::nearest;
use crate::report::Report;
use crate::source::Span;
use crate::unquoted;
use crate::value::{self, ValueError};

/// One table on its way into a checked form.
pub struct Reader<'r, 'l> {
    /// Where everything goes.
    pub report: &'r mut Report<'l>,
    /// The unit that the table declares.
    pub address: Address,
    /// Where the table begins.
    pub header: Span,
    table: &'r DeTable<'r>,
    keys: &'static Table,
    /// What the table says under known keys: few of the many that it may have.
    said: Vec<(&'static Field, &'r Spanned<DeValue<'r>>)>,
    /// Keys that were asked for; a test compares them with the table of keys.
    #[cfg(test)]
    asked: std::rc::Rc<std::cell::RefCell<std::collections::BTreeSet<&'static str>>>,
}

/// The span of something in a file.
pub fn span<T>(file: u32, of: &Spanned<T>) -> Span {
    let range = of.span();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span { file, start: number(range.start), end: number(range.end) }
}

/// What a value is, with its article.
pub fn found(value: &DeValue<'_>) -> String {
    let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

impl<'r, 'l> Reader<'r, 'l> {
    /// A reader of a unit's table.
    pub fn new(
        report: &'r mut Report<'l>,
        address: Address,
        header: Span,
        table: &'r DeTable<'r>,
    ) -> Reader<'r, 'l> {
        let keys = field::table(address.kind);
        let said = table.iter().filter_map(|(key, value)| Some((keys.field(key.get_ref())?, value)));
        let said = said.collect();
        Reader {
            report,
            address,
            header,
            table,
            keys,
            said,
            #[cfg(test)]
            asked: Default::default(),
        }
    }

    fn span<T>(&self, of: &Spanned<T>) -> Span {
        span(self.header.file, of)
    }

    /// Reports a mistake.
    pub fn wrong(&mut self, diagnostic: Diagnostic) {
        self.report.add(diagnostic);
    }

    /// Unknown and missing keys.
    pub fn check_keys(&mut self) {
        let keys = self.keys;
        let all_known = self.said.len() == self.table.len();
        for (key, value) in self.table.iter().filter(|_| !all_known) {
            let name: &str = key.get_ref();
            if keys.field(name).is_some() {
                continue;
            }
            let at = self.span(key);
            let text = format!("unknown key `{name}` in {}", self.address);
            let d = Diagnostic::error("unknown-key", at, text);
            let kind = self.address.kind;
            if name == "sandbox" {
                self.wrong(Diagnostic::error(
                    "reserved",
                    at,
                    "`sandbox` is reserved for later versions of the language",
                ));
                continue;
            }
            let near = if self.report.may_suggest(50) { nearest(name, keys.keys()) } else { None };
            let d = match near {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None if let DeValue::Table(table) = value.get_ref() => {
                    d.help(unquoted::help(kind, &self.address.name, name, at, table))
                }
                None => d.help(format!("`initctl explain {kind}` shows the keys of a {kind}")),
            };
            self.wrong(d);
        }
        for f in keys.fields.iter().filter(|f| f.default == Without::Required) {
            if !self.has(f.key) {
                let text = format!("{} needs `{}`", self.address, f.key);
                let help = format!("`{}` takes {}: {}", f.key, f.value.expected(), f.doc);
                self.wrong(Diagnostic::error("missing-key", self.header, text).help(help));
            }
        }
    }

    /// The keys that were asked for so far.
    #[cfg(test)]
    pub fn asked(&self) -> &std::rc::Rc<std::cell::RefCell<std::collections::BTreeSet<&'static str>>> {
        &self.asked
    }

    fn field(&self, key: &'static str) -> Field {
        #[cfg(test)]
        self.asked.borrow_mut().insert(key);
        let unknown = field::field(key, Type::Text, Without::Unset(""), "");
        let said = self.said.iter().find(|(f, _)| f.key == key).map(|(f, _)| *f);
        said.or_else(|| self.keys.field(key)).copied().unwrap_or(unknown)
    }

    fn find(&self, key: &str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.said.iter().find(|(f, _)| f.key == key).map(|(_, value)| *value)
    }

    /// What is said under a key.
    fn said(&self, key: &'static str) -> Option<(&'static Field, &'r Spanned<DeValue<'r>>)> {
        #[cfg(test)]
        self.asked.borrow_mut().insert(key);
        self.said.iter().find(|(f, _)| f.key == key).copied()
    }

    /// Whether a key is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Where the value of a key stands; the header without it.
    pub fn at(&self, key: &str) -> Span {
        self.find(key).map_or(self.header, |v| self.span(v))
    }

    /// Where every key stands that is there.
    pub fn spans(&self) -> Vec<(&'static str, Span)> {
        self.said.iter().map(|(f, value)| (f.key, self.span(value))).collect()
    }

    /// `what` is the key, or what of it has the wrong type.
    fn expected(
        &mut self,
        what: fmt::Arguments<'_>,
        expected: &str,
        value: &Spanned<DeValue<'_>>,
        help: Option<&str>,
    ) {
        let text = format!("{what} takes {expected}, but this is {}", found(value.get_ref()));
        let d = Diagnostic::error("wrong-type", self.span(value), text);
        self.wrong(match help {
            Some(h) => d.help(h),
            None => d,
        });
    }

    fn bad_value(&mut self, what: fmt::Arguments<'_>, at: Span, error: ValueError) {
        let mut d = Diagnostic::error("bad-value", at, format!("{what}: {}", error.message));
        d.help = error.help;
        self.wrong(d);
    }

    /// The text of a scalar, with variables replaced.
    fn scalar_text(
        &mut self,
        what: fmt::Arguments<'_>,
        value: Type,
        of: &Spanned<DeValue<'_>>,
    ) -> Option<String> {
        match of.get_ref() {
            DeValue::String(s) => {
                let at = self.span(of);
                Some(self.report.interpolate(s, at))
            }
            DeValue::Integer(n) if value.takes_integer() || n.as_str() == "0" && value == Type::Duration => {
                match i64::from_str_radix(n.as_str(), n.radix()) {
                    Ok(n) => Some(n.to_string()),
                    Err(_) => {
                        let at = self.span(of);
                        self.bad_value(what, at, ValueError::new(format!("`{n}` does not fit into 64 bits")));
                        None
                    }
                }
            }
            DeValue::Boolean(b) if value == Type::Flag => Some(b.to_string()),
            _ => {
                let help = match value {
                    Type::Duration => Some(value::duration::NEEDS_UNIT),
                    Type::Mode => Some(value::mode::NEEDS_STRING),
                    _ => None,
                };
                self.expected(what, &value.expected(), of, help);
                None
            }
        }
    }

    /// A value by its parser: the key's, or the default's, or none.
    fn scalar<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, ValueError>) -> Option<T> {
        let f = self.field(key);
        let Some(value) = self.find(key) else {
            return match f.default {
                Without::Is(text) => parse(text).ok(),
                _ => None,
            };
        };
        let text = self.scalar_text(format_args!("`{key}`"), f.value, value)?;
        match parse(&text) {
            Ok(v) => Some(v),
            Err(e) => {
                let at = self.span(value);
                self.bad_value(format_args!("`{key}`"), at, e);
                None
            }
        }
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key, |t| match t.contains('\0') {
            true => Err(ValueError::new("a zero byte cannot stand here")),
            false => Ok(t.to_owned()),
        })
    }

    /// A string without line breaks.
    pub fn line(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key, |t| match t.contains(['\0', '\n']) {
            true => Err(ValueError::new("a line break cannot stand here")),
            false => Ok(t.to_owned()),
        })
    }

    /// A string by a parser of its own.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        self.scalar(key, parse)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> bool {
        let parse = |t: &str| match t {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ValueError::new(format!("`{t}` is neither `true` nor `false`"))),
        };
        self.scalar(key, parse).unwrap_or_default()
    }

    /// An integer in the range of its key.
    pub fn integer<T: TryFrom<i64> + Default>(&mut self, key: &'static str) -> T {
        self.optional_integer(key).unwrap_or_default()
    }

    /// An integer in the range of its key, if there is one.
    pub fn optional_integer<T: TryFrom<i64>>(&mut self, key: &'static str) -> Option<T> {
        let ty = self.field(key).value;
        let (low, high) = match ty {
            Type::Integer { min, max, .. } => (min, max),
            _ => (i64::MIN, i64::MAX),
        };
        let parse = |t: &str| {
            let wrong = || ValueError::new(format!("`{t}` is not {}", ty.expected()));
            let n = t.parse::<i64>().ok().filter(|n| (low..=high).contains(n));
            n.and_then(|n| T::try_from(n).ok()).ok_or_else(wrong)
        };
        self.scalar(key, parse)
    }

    /// Milliseconds.
    pub fn duration(&mut self, key: &'static str) -> u64 {
        self.scalar(key, value::duration::parse).unwrap_or_default()
    }

    /// Bytes.
    pub fn bytes(&mut self, key: &'static str) -> u64 {
        self.scalar(key, value::bytes::parse).unwrap_or_default()
    }

    /// Permission bits.
    pub fn mode(&mut self, key: &'static str) -> Option<u32> {
        self.scalar(key, value::mode::parse)
    }

    /// A path.
    pub fn path(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key, value::path::canonical)
    }

    /// A user or group.
    pub fn account(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key, |t| value::name::account_or_number(t).map(|()| t.to_owned()))
    }

    /// One of the words of its key, as what stands beside it in `of`.
    pub fn choice<T: Copy + Default>(&mut self, key: &'static str, of: &[(&str, T)]) -> T {
        let words = |t: &str| {
            let error = ValueError::new(format!("`{t}` is not a known word"));
            match nearest(t, of.iter().map(|(w, _)| *w)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => {
                    let known: Vec<&str> = of.iter().map(|(w, _)| *w).collect();
                    error.help(format!("write one of `{}`", known.join("`, `")))
                }
            }
        };
        let parse = |t: &str| of.iter().find(|(w, _)| *w == t).map(|(_, v)| *v).ok_or_else(|| words(t));
        self.scalar(key, parse).unwrap_or_default()
    }

    /// The elements of an array of scalars, each with its place.
    fn elements(&mut self, key: &'static str, of: Type) -> Vec<(String, Span)> {
        let Some((f, value)) = self.said(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let shown = value.get_ref().as_str().map(|s| match f.value {
                // The brackets alone would make it the next mistake.
                Type::Units if Address::parse(s).is_none() => {
                    format!("write the unit with its kind, in brackets, as in `{key} = [\"service:{s}\"]`")
                }
                _ => format!("write `{key} = [{s:?}]`"),
            });
            self.expected(format_args!("`{key}`"), &f.value.expected(), value, shown.as_deref());
            return Vec::new();
        };
        let mut out = Vec::new();
        for element in array.iter() {
            if let Some(text) = self.scalar_text(format_args!("an element of `{key}`"), of, element) {
                out.push((text, self.span(element)));
            }
        }
        out
    }

    fn parsed_elements<T>(
        &mut self,
        key: &'static str,
        of: Type,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Vec<T> {
        let mut out = Vec::new();
        for (text, at) in self.elements(key, of) {
            match parse(&text) {
                Ok(v) => out.push(v),
                Err(e) => self.bad_value(format_args!("`{key}`"), at, e),
            }
        }
        out
    }

    /// An array of strings.
    pub fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.parsed_elements(key, Type::Text, |t| Ok(t.to_owned()))
    }

    /// An array of strings, each with its place: for addresses.
    pub fn placed_texts(&mut self, key: &'static str) -> Vec<(String, Span)> {
        self.elements(key, Type::Text)
    }

    /// An array of paths.
    pub fn paths(&mut self, key: &'static str) -> Vec<String> {
        self.parsed_elements(key, Type::Text, value::path::canonical)
    }

    /// An array of users or groups.
    pub fn accounts(&mut self, key: &'static str) -> Vec<String> {
        let parse = |t: &str| value::name::account_or_number(t).map(|()| t.to_owned());
        self.parsed_elements(key, Type::Account, parse)
    }

    /// An array of exit codes.
    pub fn codes(&mut self, key: &'static str) -> Vec<i32> {
        let parse = |t: &str| {
            let code = t.parse::<i32>().ok().filter(|c| (0..256).contains(c));
            code.ok_or_else(|| ValueError::new(format!("`{t}` is no exit code from 0 to 255")))
        };
        self.parsed_elements(key, Type::Integer { min: 0, max: 255, of: "" }, parse)
    }

    /// A command, if there is one. A string is split before variables are replaced: a value with blanks stays one
    /// word.
    pub fn command(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.find(key);
        if let Some(DeValue::String(line)) = value.map(Spanned::get_ref) {
            self.field(key);
            let at = self.at(key);
            return match value::command::split(line) {
                Ok(words) => Some(words.iter().map(|w| self.report.interpolate(w, at)).collect()),
                Err(e) => {
                    self.bad_value(format_args!("`{key}`"), at, e);
                    None
                }
            };
        }
        let words = self.texts(key);
        let complete = match value.map(Spanned::get_ref) {
            Some(DeValue::Array(a)) => a.len() == words.len(),
            _ => false,
        };
        if complete && let Err(e) = value::command::check(&words) {
            let at = self.at(key);
            self.bad_value(format_args!("`{key}`"), at, e);
            return None;
        }
        complete.then_some(words)
    }

    /// Whether a key holds one word, as names and numbers are.
    pub fn is_one_word(&self, key: &str) -> bool {
        match self.find(key).map(Spanned::get_ref) {
            Some(DeValue::String(s)) => !s.contains(|c: char| c.is_whitespace() || c == '/'),
            Some(DeValue::Integer(_)) => true,
            _ => false,
        }
    }

    /// A table of scalars, each with its place, sorted by key.
    fn entries(&mut self, key: &'static str, of: Type) -> Vec<(String, String, Span)> {
        let Some((f, value)) = self.said(key) else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            // No words of the value: it may be secret.
            let help = (f.value == Type::Table).then(|| {
                format!("write a table: `{key} = {{ NAME = \"value\" }}`, or `{key}.NAME = \"value\"`")
            });
            self.expected(format_args!("`{key}`"), &f.value.expected(), value, help.as_deref());
            return Vec::new();
        };
        let mut out = Vec::new();
        for (name, element) in table {
            if let Some(text) = self.scalar_text(format_args!("`{key}.{}`", name.get_ref()), of, element) {
                out.push((name.get_ref().to_string(), text, self.span(name)));
            }
        }
        out
    }

    /// A table of strings; `check` judges key and value.
    pub fn pairs(
        &mut self,
        key: &'static str,
        check: impl Fn(&str, &str) -> Result<(), ValueError>,
    ) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (name, text, at) in self.entries(key, Type::TextOrInteger) {
            match check(&name, &text) {
                Ok(()) => out.push((name, text)),
                Err(e) => self.bad_value(format_args!("`{key}`"), at, e),
            }
        }
        out
    }

    /// The environment of a process.
    pub fn environment(&mut self) -> Vec<(String, String)> {
        self.pairs("environment", |name, text| {
            value::name::environment(name)?;
            match text.contains('\0') {
                true => Err(ValueError::new("a zero byte cannot stand in the environment")),
                false => Ok(()),
            }
        })
    }

    /// `mode`, `owner`, `group` and `xattrs`.
    pub fn attributes(&mut self) -> Attributes {
        let known = ["user.", "trusted.", "security.", "system."];
        let check =
            |name: &str, _: &str| match known.iter().any(|k| name.len() > k.len() && name.starts_with(k)) {
                true => Ok(()),
                false => Err(ValueError::new(format!("`{name}` is no name of an extended attribute"))
                    .help("begin it with its namespace, as in `\"user.note\"`")),
            };
        Attributes {
            mode: self.mode("mode"),
            owner: self.account("owner"),
            group: self.account("group"),
            xattrs: self.pairs("xattrs", check).into_iter().map(|(n, v)| (n, v.into_bytes())).collect(),
        }
    }

    /// The content of a source file, digested and handed to the loader.
    pub fn source(&mut self, key: &'static str) -> Option<Content> {
        let said = self.text(key)?;
        let at = self.at(key);
        self.report.source(&said, at)
    }
}
