//! `[vars]` and `${vars.name}`: values that are said once.
//!
//! Interpolation happens in values only, never in keys; `$${` is a literal `${`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::nearest::nearest;
use crate::source::{Sources, Span};

/// One variable.
#[derive(Debug, Clone)]
pub struct Var {
    /// Its value; after [`Vars::resolve`] without references.
    pub value: String,
    /// Where the value stands.
    pub span: Span,
    /// Number of the layer that sets it.
    pub layer: usize,
}

/// Every variable of a compilation. A later layer's value wins.
#[derive(Debug, Clone, Default)]
pub struct Vars {
    known: BTreeMap<String, Var>,
}

/// A piece of a value.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// What stands between `${` and `}`.
    Reference(&'a str),
    /// `${` that is never closed.
    Open,
}

/// Splits a value into text and references.
fn pieces(value: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(text) = before.strip_suffix('$') {
            out.push(Piece::Text(text));
            out.push(Piece::Text("${"));
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        out.push(Piece::Text(before));
        match from.split_once('}') {
            Some((reference, after)) => {
                out.push(Piece::Reference(reference.get(2..).unwrap_or_default()));
                rest = after;
            }
            None => {
                out.push(Piece::Open);
                rest = "";
            }
        }
    }
    out.push(Piece::Text(rest));
    out
}

/// The span of a reference inside its value, as precisely as escapes allow.
fn narrow(span: Span, reference: &str, sources: &Sources) -> Span {
    let written = format!("${{{reference}}}");
    let found = sources.text(span).find(&written).and_then(|at| u32::try_from(at).ok());
    match (found, u32::try_from(written.len())) {
        (Some(at), Ok(length)) => Span { start: span.start + at, end: span.start + at + length, ..span },
        _ => span,
    }
}

impl Vars {
    /// Adds a variable; gives back the one of the same layer that was there before.
    pub fn add(&mut self, name: &str, var: Var) -> Option<Span> {
        let before = self.known.get(name).filter(|old| old.layer == var.layer).map(|old| old.span);
        if before.is_none() {
            self.known.insert(name.to_owned(), var);
        }
        before
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(|v| v.value.as_str())
    }

    /// Replaces every reference in a value; what is wrong comes back as diagnostics, and stays as it was written.
    pub fn interpolate<'v>(
        &self,
        value: &'v str,
        span: Span,
        sources: &Sources,
    ) -> (Cow<'v, str>, Vec<Diagnostic>) {
        if !value.contains("${") {
            return (Cow::Borrowed(value), Vec::new());
        }
        let (mut out, mut wrong) = (String::new(), Vec::new());
        for piece in pieces(value) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Open => wrong.push(
                    Diagnostic::error("bad-variable", span, "`${` is never closed")
                        .help("write `${vars.NAME}`, or `$${` for a literal `${`"),
                ),
                Piece::Reference(reference) => match reference.strip_prefix("vars.").map(|n| self.get(n)) {
                    Some(Some(text)) => out.push_str(text),
                    _ => wrong.push(self.unknown(reference, narrow(span, reference, sources))),
                },
            }
        }
        (Cow::Owned(out), wrong)
    }

    fn unknown(&self, reference: &str, span: Span) -> Diagnostic {
        let d = Diagnostic::error("unknown-variable", span, format!("unknown variable `{reference}`"));
        let name = reference.strip_prefix("vars.").unwrap_or(reference);
        let names = self.known.keys().map(String::as_str);
        if reference != name
            && let Some(near) = nearest(name, names)
        {
            return d.help(format!("did you mean `${{vars.{near}}}`?"));
        }
        if self.get(name).is_some() {
            return d.help(format!("write `${{vars.{name}}}`"));
        }
        // A variable of the environment is none of these, and set by another name it would not be found either.
        let write = if reference == name { format!(" and write `${{vars.{name}}}`") } else { String::new() };
        d.help(format!(
            "set `{name}` in `[vars]`{write}, or write `$${{{reference}}}` for a literal `${{{reference}}}`"
        ))
    }

    /// Replaces the references that variables make to each other. Without recursion: a chain may be long.
    pub fn resolve(&mut self, sources: &Sources) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        let mut done: BTreeSet<String> = BTreeSet::new();
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names {
            let mut path: Vec<String> = vec![name];
            while let Some(current) = path.last().cloned() {
                let waits = self.references(&current).into_iter().find(|r| !done.contains(r));
                match waits {
                    Some(next) if path.contains(&next) => {
                        let from = path.iter().position(|p| *p == next).unwrap_or_default();
                        let cycle: Vec<String> = path.split_off(from);
                        wrong.push(self.cycle(&cycle));
                        for member in cycle {
                            // Emptied, so that nothing goes round for ever; the mistake is reported.
                            if let Some(var) = self.known.get_mut(&member) {
                                var.value = String::new();
                            }
                            done.insert(member);
                        }
                    }
                    Some(next) => path.push(next),
                    None => {
                        path.pop();
                        if done.insert(current.clone()) {
                            wrong.extend(self.settle(&current, sources));
                        }
                    }
                }
            }
        }
        wrong
    }

    /// Known variables that a variable refers to.
    fn references(&self, name: &str) -> Vec<String> {
        let Some(var) = self.known.get(name) else { return Vec::new() };
        let known = |p: Piece<'_>| match p {
            Piece::Reference(r) => {
                r.strip_prefix("vars.").filter(|n| self.known.contains_key(*n)).map(str::to_owned)
            }
            _ => None,
        };
        pieces(&var.value).into_iter().filter_map(known).collect()
    }

    fn settle(&mut self, name: &str, sources: &Sources) -> Vec<Diagnostic> {
        let Some(var) = self.known.get(name).cloned() else { return Vec::new() };
        let (value, wrong) = self.interpolate(&var.value, var.span, sources);
        let value = value.into_owned();
        let long = value.len() > LONGEST;
        if let Some(slot) = self.known.get_mut(name) {
            slot.value = if long { String::new() } else { value };
        }
        let too_long = long.then(|| {
            let text = format!("the value of `vars.{name}` is longer than {LONGEST} bytes");
            Diagnostic::error("bad-variable", var.span, text)
        });
        wrong.into_iter().chain(too_long).collect()
    }

    fn cycle(&self, names: &[String]) -> Diagnostic {
        let spans: Vec<Option<Span>> = names.iter().map(|n| self.known.get(n).map(|v| v.span)).collect();
        let first = names.first().map(String::as_str).unwrap_or_default();
        let ring = names.iter().map(String::as_str).chain([first]).map(|n| format!("vars.{n}"));
        let text = format!("variables refer to each other: {}", ring.collect::<Vec<_>>().join(" → "));
        let mut d = Diagnostic::error("variable-cycle", spans.first().copied().flatten(), text);
        for span in spans.into_iter().skip(1).flatten() {
            d = d.label(span, "through this one");
        }
        d
    }
}

/// Longest value: doubling a variable thirty times must not fill the memory.
const LONGEST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(list: &[(&str, &str)]) -> Vars {
        let mut vars = Vars::default();
        for (name, value) in list {
            let span = Span { file: 0, start: 0, end: 0 };
            vars.add(name, Var { value: (*value).to_owned(), span, layer: 0 });
        }
        vars
    }

    fn read(vars: &Vars, value: &str) -> (String, usize) {
        let span = Span { file: 0, start: 0, end: 0 };
        let (text, wrong) = vars.interpolate(value, span, &Sources::new());
        (text.into_owned(), wrong.len())
    }

    #[test]
    fn replaces_and_escapes() {
        let v = vars(&[("a", "1")]);
        for (value, text) in [
            ("x${vars.a}y${vars.a}", "x1y1"),
            ("$${vars.a}", "${vars.a}"),
            ("$$${vars.a}", "$${vars.a}"),
            ("$HOME $$ $", "$HOME $$ $"),
        ] {
            assert_eq!(read(&v, value), (text.to_owned(), 0), "{value}");
        }
        for value in ["${vars.b}", "${a}", "${", "${vars.a"] {
            assert_eq!(read(&v, value).1, 1, "{value}");
        }
    }

    #[test]
    fn resolves_chains_and_reports_cycles() {
        let mut v = vars(&[("a", "${vars.b}/x"), ("b", "${vars.c}"), ("c", "end")]);
        assert_eq!(v.resolve(&Sources::new()), []);
        assert_eq!(v.get("a"), Some("end/x"));
        let mut v = vars(&[("a", "${vars.b}"), ("b", "${vars.a}"), ("c", "${vars.a}"), ("d", "$${x}")]);
        let wrong = v.resolve(&Sources::new());
        assert_eq!(wrong.len(), 1);
        assert_eq!(wrong[0].message, "variables refer to each other: vars.a → vars.b → vars.a");
        assert_eq!(v.get("d"), Some("${x}"));
    }

    #[test]
    fn doubling_does_not_fill_the_memory() {
        let mut v = vars(&[("a0", "xxxxxxxxxx")]);
        for i in 0..40 {
            let (name, before) = (format!("a{}", i + 1), format!("${{vars.a{i}}}${{vars.a{i}}}"));
            v.add(&name, Var { value: before, span: Span { file: 0, start: 0, end: 0 }, layer: 0 });
        }
        assert!(!v.resolve(&Sources::new()).is_empty());
    }
}
