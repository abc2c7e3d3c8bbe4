//! Text of answers. Pure: values in, a string out.

pub mod change;
pub mod diagnostic;
pub mod explain;
pub mod history;
pub mod plan;
pub mod status;
pub mod style;
pub mod tree;

/// `1 unit`, `2 units`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Rows in columns that are as wide as their widest cell, two spaces apart. Cells are (text, as it is painted).
pub fn columns(rows: &[Vec<(String, String)>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (i, (text, _)) in row.iter().enumerate() {
            let width = text.chars().count();
            match widths.get_mut(i) {
                Some(w) => *w = width.max(*w),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let last = row.iter().rposition(|(text, _)| !text.is_empty()).unwrap_or_default();
        for (i, ((text, painted), width)) in row.iter().zip(&widths).enumerate() {
            if i > last {
                break;
            }
            out.push_str(painted);
            if i < last {
                let gap = width.saturating_sub(text.chars().count()).saturating_add(2);
                out.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push('\n');
    }
    out
}

/// A cell without colour.
pub fn cell(text: impl Into<String>) -> (String, String) {
    let text = text.into();
    (text.clone(), text)
}

/// Text of somebody else on one line: control characters would move the cursor.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A file as people know it.
pub fn file(path: &str) -> &str {
    let name = path.rsplit('/').next();
    if name == Some(units::source::STANDARD_INPUT) { "standard input" } else { path }
}

/// `file:line`.
pub fn origin(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((path, line)) => format!("{}:{line}", file(path)),
        None => text.to_owned(),
    }
}
