//! Mistakes in state files, with the lines they are in.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use units::diagnostic::{Located, Place, Severity};

use super::style::Style;

/// All of them, and a last line that counts.
pub fn all(diagnostics: &[Located], style: Style) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&one(diagnostic, style));
        out.push_str("\n\n");
    }
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len().saturating_sub(errors);
    let mut counts = Vec::new();
    if errors > 0 {
        counts.push(super::count(errors, "error"));
    }
    if warnings > 0 {
        counts.push(super::count(warnings, "warning"));
    }
    if !counts.is_empty() {
        out.push_str(&counts.join(", "));
        out.push('\n');
    }
    out
}

/// One of them, without a newline at its end.
pub fn one(diagnostic: &Located, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.id.as_str());
    let mut group = Group::with_title(title);
    for (i, place) in diagnostic.places.iter().enumerate() {
        // The line of a secret is not told.
        if place.text.is_empty() {
            let line = usize::try_from(place.start.line).unwrap_or(1);
            let column = usize::try_from(place.start.column).unwrap_or(1);
            group = group.element(Origin::path(super::file(&place.file)).line(line).char_column(column));
            continue;
        }
        let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let mut annotation = kind.span(span(place));
        if !place.message.is_empty() {
            annotation = annotation.label(place.message.as_str());
        }
        group = group.element(
            Snippet::source(place.text.as_str())
                .path(super::file(&place.file))
                .line_start(usize::try_from(place.start.line).unwrap_or(1))
                .annotation(annotation),
        );
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    renderer.render(&[group])
}

/// The bytes of the line that are underlined. A column behind the end (the line was cut) is its end.
fn span(place: &Place) -> std::ops::Range<usize> {
    let byte = |character: usize| {
        place.text.char_indices().nth(character).map_or(place.text.len(), |(byte, _)| byte)
    };
    let from = usize::try_from(place.start.column).unwrap_or(1).saturating_sub(1);
    let width = usize::try_from(place.width).unwrap_or(1);
    byte(from)..byte(from.saturating_add(width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use units::source::Position;

    #[test]
    fn points_at_the_mistake() {
        let place = |line, column, width, text: &str, message: &str| Place {
            file: "state.toml".to_owned(),
            start: Position { line, column },
            width,
            text: text.to_owned(),
            message: message.to_owned(),
        };
        let mistakes = [
            Located {
                severity: Severity::Error,
                id: "unknown-key".to_owned(),
                message: "unknown key `exce`".to_owned(),
                places: vec![
                    place(3, 1, 4, "exce = [\"/usr/bin/ä\"]", ""),
                    place(1, 2, 7, "[service.a]", "in this table"),
                ],
                help: Some("did you mean `exec`?".to_owned()),
            },
            Located {
                severity: Severity::Warning,
                id: "cut".to_owned(),
                message: "behind what is shown".to_owned(),
                places: vec![place(9, 500, 3, "ü", "")],
                help: None,
            },
            Located {
                severity: Severity::Error,
                id: "bad-value".to_owned(),
                message: "`exec`: this value cannot stand here".to_owned(),
                places: vec![place(11, 8, 20, "", "")],
                help: Some("it is secret".to_owned()),
            },
        ];
        expect![[r#"
            error[unknown-key]: unknown key `exce`
             --> state.toml:3:1
              |
            3 | exce = ["/usr/bin/ä"]
              | ^^^^
              |
             ::: state.toml:1:2
              |
            1 | [service.a]
              |  ------- in this table
              |
              = help: did you mean `exec`?

            warning[cut]: behind what is shown
             --> state.toml:9:2
              |
            9 | ü
              |  ^

            error[bad-value]: `exec`: this value cannot stand here
            --> state.toml:11:8
             = help: it is secret

            2 errors, 1 warning
        "#]]
        .assert_eq(&all(&mistakes, Style::Plain));
        assert!(all(&mistakes, Style::Coloured).contains("\x1b["));
    }
}
