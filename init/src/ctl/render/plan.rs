//! `plan`, `diff`: a line a unit with its reason, a unified diff under it, a summary.

use super::style::{Paint, Style};
use super::{count, one_line};
use crate::ctl::query::{Diff, PlanSummary, PlannedChange, Verb};

/// One unit of a plan.
pub fn change(change: &PlannedChange, style: Style) -> String {
    let word = change.verb.word();
    let painted = match change.verb {
        Verb::Create | Verb::Start => word.green(style),
        Verb::Change | Verb::Reload | Verb::Restart => word.yellow(style),
        Verb::Remove | Verb::Stop => word.red(style),
        Verb::Nothing => word.dim(style),
    };
    let mut marks = String::new();
    if change.one_way {
        marks.push_str(&format!(" {}", "(one way)".red(style)));
    }
    if let Some(layer) = &change.layer {
        marks.push_str(&format!(" {}", format!("(layer {})", one_line(layer)).dim(style)));
    }
    let head = entry(word, &painted, &change.unit, &change.reason, &marks, style);
    head + &diff(change.diff.as_deref(), change.diff_cut, style)
}

fn entry(word: &str, painted: &str, unit: &str, reason: &str, mark: &str, style: Style) -> String {
    let gap = " ".repeat(9_usize.saturating_sub(word.len()));
    let reason = if reason.is_empty() { String::new() } else { format!("  {}", one_line(reason).dim(style)) };
    format!("{painted}{gap}{unit}{reason}{mark}\n")
}

/// A unified diff, indented.
fn diff(diff: Option<&str>, cut: bool, style: Style) -> String {
    let mut out = String::new();
    for line in diff.unwrap_or_default().lines() {
        let line = one_line(line);
        let painted = match line.as_bytes().first() {
            _ if line.starts_with("+++") || line.starts_with("---") => line.bold(style),
            Some(b'+') => line.green(style),
            Some(b'-') => line.red(style),
            Some(b'@') => line.cyan(style),
            _ => line,
        };
        out.push_str(&format!("    {painted}\n"));
    }
    if cut {
        out.push_str("    … the rest of the difference is not shown\n");
    }
    out
}

/// The last line of a plan.
pub fn summary(changes: &[(Verb, usize)], summary: &PlanSummary) -> String {
    let parts: Vec<_> = changes
        .iter()
        .filter(|(verb, n)| *verb != Verb::Nothing && *n > 0)
        .map(|(verb, n)| format!("{n} to {}", verb.word()))
        .collect();
    let units = count(summary.units, "unit");
    let (todo, current) = (parts.join(", "), summary.generation);
    let mut text = match (parts.is_empty(), summary.same) {
        (true, true) => format!("nothing to do: this is generation {current} ({units})"),
        (true, false) => {
            format!("nothing to do for {units}; an apply makes it the generation after {current}")
        }
        (false, true) => format!("{todo}; {units}, this is generation {current}"),
        (false, false) => format!("{todo}; {units}, the current generation is {current}"),
    };
    if summary.held > 0 {
        text.push_str(&format!("; {} not as declared, and held: left alone", summary.held));
    }
    text + "\n"
}

/// What the difference between two generations is of.
pub fn generations_head(reply: &Diff) -> String {
    let to = reply.to;
    let end = if reply.changes.is_empty() { ": nothing that is declared differs" } else { "" };
    if reply.first {
        format!("from nothing to generation {to}, the first{end}\n")
    } else {
        format!("from generation {} to generation {to}{end}\n", reply.from)
    }
}

/// A page of the difference between two generations.
pub fn generations(reply: &Diff, style: Style) -> String {
    let mut out = String::new();
    for c in &reply.changes {
        let painted = match &*c.verb {
            "added" => c.verb.green(style),
            "removed" => c.verb.red(style),
            _ => c.verb.yellow(style),
        };
        out.push_str(&entry(&c.verb, &painted, &c.unit, &c.reason, "", style));
        out.push_str(&diff(c.diff.as_deref(), c.diff_cut, style));
    }
    out
}
