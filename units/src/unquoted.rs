//! Names with dots and slashes that somebody forgot to quote: TOML makes a table of each part.

use toml::de::{DeTable, DeValue};

use crate::address::Kind;
use crate::diagnostic::Diagnostic;
use crate::field;
use crate::reader::span;
use crate::source::Span;
use crate::value::name;

/// A name as it was meant.
struct Meant {
    parts: Vec<String>,
    /// Its last part.
    at: Span,
}

/// What to say of a unit's table that is only a part of names; nothing where it is a unit's.
pub fn mistakes(kind: Kind, said: &str, at: Span, table: &DeTable<'_>) -> Vec<Diagnostic> {
    if !is_part(kind, table) {
        return Vec::new();
    }
    let mut meant = Vec::new();
    names(kind, Meant { parts: vec![said.to_owned()], at }, table, &mut meant);
    meant.iter().map(|m| m.diagnostic(kind)).collect()
}

/// The help for a table below a unit's that no key has.
pub fn help(kind: Kind, said: &str, key: &str, at: Span, table: &DeTable<'_>) -> String {
    let mut meant = Vec::new();
    names(kind, Meant { parts: vec![said.to_owned(), key.to_owned()], at }, table, &mut meant);
    let header = meant.first().map(|m| m.header(kind)).unwrap_or_default();
    format!("if this is a unit's name with dots or slashes, quote it: `{header}`")
}

/// How the table of a unit begins, quoted where it has to be.
pub fn header(kind: Kind, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) {
        format!("[{kind}.{name}]")
    } else {
        format!("[{kind}.{name:?}]")
    }
}

/// Whether none of it is a unit's, and something is below it: a table, or what somebody has set a kernel setting to.
fn is_part(kind: Kind, table: &DeTable<'_>) -> bool {
    let keys = field::table(kind);
    let known = |key: &str| keys.field(key).is_some() || key == "sandbox";
    !table.keys().any(|key| known(key.get_ref()))
        && table.values().any(|v| kind == Kind::Sysctl || v.get_ref().is_table())
}

fn names(kind: Kind, so_far: Meant, table: &DeTable<'_>, out: &mut Vec<Meant>) {
    if !is_part(kind, table) {
        return out.push(so_far);
    }
    for (key, value) in table {
        let mut parts = so_far.parts.clone();
        parts.push(key.get_ref().to_string());
        let below = Meant { parts, at: span(so_far.at.file, key) };
        match value.get_ref() {
            DeValue::Table(table) => names(kind, below, table, out),
            _ => out.push(below),
        }
    }
}

impl Meant {
    /// Parts of a path were held together by slashes, of everything else by dots.
    fn name(&self, kind: Kind) -> String {
        let dotted = self.parts.join(".");
        let path = format!("/{}", self.parts.join("/"));
        if name::unit(kind, &dotted).is_err() && name::unit(kind, &path).is_ok() { path } else { dotted }
    }

    fn header(&self, kind: Kind) -> String {
        header(kind, &self.name(kind))
    }

    fn diagnostic(&self, kind: Kind) -> Diagnostic {
        let said = self.parts.join(".");
        let text = format!("`{kind}.{said}` is one table below the other, not a {kind}");
        Diagnostic::error("unquoted-name", self.at, text).help(format!("write `{}`", self.header(kind)))
    }
}
