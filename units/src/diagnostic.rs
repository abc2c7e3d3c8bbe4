//! Diagnostics: what is wrong with a state file, where, and the way out.
//!
//! A diagnostic is data; [`render`] is the one plain-text form of it, for logs and golden tests, and
//! [`locate`] the form that travels as JSON to whoever has no sources.

use std::borrow::Cow;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::source::{Position, Sources, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// There is no manifest.
    Error,
    /// There is one, but it is hardly what was meant.
    Warning,
}

impl Severity {
    /// The word that diagnostics begin with.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// A further place that a diagnostic points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What about it.
    pub message: String,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for the kind of mistake, such as `unknown-key`.
    pub id: Cow<'static, str>,
    /// What is wrong: one sentence without full stop.
    pub message: String,
    /// Where; `None` where no file could be read.
    pub span: Option<Span>,
    /// Further places, in the order in which they should be read.
    pub labels: Vec<Label>,
    /// The way out.
    pub help: Option<String>,
    /// Whether the source lines hold secrets, and are not shown.
    pub secret: bool,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(id: &'static str, span: impl Into<Option<Span>>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            id: Cow::Borrowed(id),
            message: message.into(),
            span: span.into(),
            labels: Vec::new(),
            help: None,
            secret: false,
        }
    }

    /// A warning at a place.
    pub fn warning(
        id: &'static str,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(id, span, message) }
    }

    /// With a further place.
    #[must_use]
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    /// With a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Whether it keeps a manifest from being made.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A place with everything that is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Path of the file.
    pub file: String,
    /// Where it begins.
    #[serde(flatten)]
    pub start: Position,
    /// Number of characters underlined; at least 1.
    pub width: u32,
    /// The source line.
    pub text: String,
    /// What about it; empty at the main place.
    #[serde(default)]
    pub message: String,
}

/// A diagnostic that can be shown without its sources: the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for the kind of mistake.
    pub id: String,
    /// What is wrong.
    pub message: String,
    /// The main place first.
    pub places: Vec<Place>,
    /// The way out.
    pub help: Option<String>,
}

/// The word for the one mistake that is none where a state file is optional: it is not there itself.
pub const ABSENT: &str = "absent";

/// Longest source line that is shown; the rest of a longer one is cut.
const SHOWN: usize = 160;

fn place(span: Span, message: &str, sources: &Sources) -> Option<Place> {
    let source = sources.get(span.file)?;
    let start = source.position(span.start);
    let line = source.line(start.line);
    let rest = line.chars().count().saturating_sub(start.column as usize - 1);
    let covered = sources.text(span).split('\n').next().unwrap_or_default().trim_end().chars().count();
    Some(Place {
        file: source.path().to_owned(),
        start,
        width: u32::try_from(covered.min(rest).max(1)).unwrap_or(1),
        text: line.chars().take(SHOWN).collect(),
        message: message.to_owned(),
    })
}

/// The form of a diagnostic that carries its places.
pub fn locate(diagnostic: &Diagnostic, sources: &Sources) -> Located {
    let place = |span, message: &str| {
        let mut place = place(span, message, sources)?;
        if diagnostic.secret {
            place.text = String::new();
        }
        Some(place)
    };
    // A first label at the main place speaks about that place.
    let about = diagnostic.labels.first().filter(|l| Some(l.span) == diagnostic.span);
    let main = diagnostic.span.and_then(|s| place(s, about.map_or("", |l| &l.message)));
    let others = diagnostic.labels.iter().skip(usize::from(about.is_some()));
    let labels = others.filter_map(|l| place(l.span, &l.message));
    Located {
        severity: diagnostic.severity,
        id: diagnostic.id.clone().into_owned(),
        message: diagnostic.message.clone(),
        places: main.into_iter().chain(labels).collect(),
        help: diagnostic.help.clone(),
    }
}

/// The plain text of a diagnostic, with a newline at its end.
pub fn render(diagnostic: &Diagnostic, sources: &Sources) -> String {
    locate(diagnostic, sources).render()
}

impl Located {
    /// The plain text, with a newline at its end.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}[{}]: {}", self.severity.word(), self.id, tame(&self.message))?;
        let gutter = self.places.iter().map(|p| p.start.line.to_string().len()).max().unwrap_or_default();
        for p in &self.places {
            let Position { line, column } = p.start;
            writeln!(out, "{:gutter$}--> {}:{line}:{column}", "", tame(&p.file))?;
            if column as usize > SHOWN || p.text.is_empty() {
                if !p.message.is_empty() {
                    writeln!(out, "{:gutter$} | {}", "", tame(&p.message))?;
                }
                continue;
            }
            let spaces = |c: char| if c == '\t' { "    ".to_owned() } else { visible(c).to_string() };
            let shown: String = p.text.chars().map(spaces).collect();
            let before = column as usize - 1;
            let indent: usize = p.text.chars().take(before).map(|c| if c == '\t' { 4 } else { 1 }).sum();
            let width = (p.width as usize).min(SHOWN - before);
            writeln!(out, "{line:gutter$} | {}", shown.trim_end())?;
            let carets = "^".repeat(width);
            let space = if p.message.is_empty() { "" } else { " " };
            writeln!(out, "{:gutter$} | {:indent$}{carets}{space}{}", "", "", tame(&p.message))?;
        }
        if let Some(help) = &self.help {
            writeln!(out, "{:gutter$} = help: {}", "", tame(help))?;
        }
        Ok(())
    }
}

/// Control characters would move the cursor of the terminal that a log is read on.
fn visible(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

/// The same for text of more than one line: names in it are what somebody wrote, escapes and all.
fn tame(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { visible(c) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    #[test]
    fn no_terminal_obeys_a_name() {
        let mut sources = Sources::new();
        let file = sources.add(Source::new("a\u{1b}[2J.toml", "x = \u{1b}\n"));
        let d = Diagnostic::error("unknown-key", Span { file, start: 0, end: 1 }, "`\u{1b}[31mred\u{0}`")
            .label(Span { file, start: 0, end: 1 }, "\u{7}")
            .help("\u{9b}");
        let shown = render(&d, &sources);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }

    #[test]
    fn underlines_what_is_wrong() {
        let mut sources = Sources::new();
        let file = sources.add(Source::new("state.toml", "a = 1\n\tbcd = \"x\"\n"));
        let span = Span { file, start: 7, end: 10 };
        let d = Diagnostic::error("unknown-key", span, "unknown key `bcd`")
            .label(Span { file, start: 0, end: 1 }, "known")
            .help("did you mean `a`?");
        expect_test::expect![[r#"
            error[unknown-key]: unknown key `bcd`
             --> state.toml:2:2
            2 |     bcd = "x"
              |     ^^^
             --> state.toml:1:1
            1 | a = 1
              | ^ known
              = help: did you mean `a`?
        "#]]
        .assert_eq(&render(&d, &sources));
    }
}
