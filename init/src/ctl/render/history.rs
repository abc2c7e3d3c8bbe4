//! `generations`, `history`, `verify`, `events`, `logs`: lists in the order of time.

use super::style::{self, Paint, Style};
use super::{cell, columns, count, one_line};
use crate::control::answer::{Event, Outcome, State};
use crate::ctl::query::{Generation, Verified, VerifySummary, Version};
use crate::ctl::time::{Clock, rfc3339};

/// The table of generations.
pub fn generations(list: &[Generation], clock: &Clock, style: Style) -> String {
    let heads = ["GENERATION", "STATE", "UNITS", "MADE", "AGO", "BY"];
    let layered = list.iter().any(|g| !g.layers.is_empty());
    let heads = heads.into_iter().chain(layered.then_some("LAYERS"));
    let mut rows = vec![heads.map(|h| (h.to_owned(), h.dim(style))).collect::<Vec<_>>()];
    for g in list {
        let state = match &*g.state {
            "current" => g.state.green(style),
            "returned" | "superseded" | "unfinished" => g.state.yellow(style),
            _ => g.state.to_string(),
        };
        let mut row = vec![
            cell(g.number.to_string()),
            (g.state.to_string(), state),
            cell(g.units.to_string()),
            cell(rfc3339(g.time)),
            cell(clock.age_of_wall(g.time)),
            cell(one_line(&g.note)),
        ];
        if layered {
            let layers = if g.layers.is_empty() { "main".to_owned() } else { g.layers.join(", ") };
            row.push(cell(one_line(&layers)));
        }
        rows.push(row);
    }
    columns(&rows)
}

/// Letters of an id that are shown.
const ID: usize = 12;

/// The table of what was replaced.
pub fn versions(list: &[Version], clock: &Clock, style: Style) -> String {
    if list.is_empty() {
        return "nothing was replaced\n".to_owned();
    }
    let mut rows = vec![
        ["REPLACED", "AGO", "UNIT", "BY", "IT WAS", "ID"].map(|h| (h.to_owned(), h.dim(style))).to_vec(),
    ];
    for v in list {
        let (plain, painted) = match (&*v.why, v.generation) {
            ("repair", _) => ("repair, corrective".to_owned(), "repair, corrective".yellow(style)),
            ("return", Some(generation)) => {
                let text = format!("return to {generation}, intended");
                (text.clone(), text)
            }
            (why, Some(generation)) => {
                let text = format!("{} of {generation}, intended", one_line(why));
                (text.clone(), text)
            }
            (why, None) => {
                let text = format!("{}, intended", one_line(why));
                (text.clone(), text)
            }
        };
        let (when, ago) = match v.time {
            0 => (String::new(), String::new()),
            time => (rfc3339(time), clock.age_of_wall(time)),
        };
        rows.push(vec![
            cell(when),
            cell(ago),
            cell(one_line(&v.unit)),
            (plain, painted),
            cell(match &v.thing {
                Some(thing) => one_line(&format!("{thing}: {}", v.was)),
                None => one_line(&v.was),
            }),
            cell(v.digest.chars().take(ID).collect::<String>()),
        ]);
    }
    columns(&rows)
}

/// One unit, verified.
pub fn verified(unit: &Verified, style: Style) -> String {
    let word = if unit.outcome == "not-kept" { "not kept" } else { &*unit.outcome };
    let painted = if unit.outcome == "kept" { word.green(style) } else { word.yellow(style) };
    let gap = " ".repeat(10_usize.saturating_sub(word.len()));
    let detail = if unit.detail.is_empty() { String::new() } else { format!("  {}", one_line(&unit.detail)) };
    format!("{painted}{gap}{}{detail}\n", unit.unit)
}

/// The end of a verification.
pub fn verify_summary(s: &VerifySummary, style: Style) -> String {
    let mut out = String::new();
    for what in &s.store_damaged {
        out.push_str(&format!("{} {}\n", "store is damaged:".red(style), one_line(what)));
    }
    let units = count(s.units, "unit");
    out.push_str(&match s.wrong {
        0 => format!("{units} of generation {} are as declared\n", s.generation),
        n => format!("{n} of {units} of generation {} differ\n", s.generation),
    });
    out
}

/// One event.
pub fn event(e: &Event, clock: &Clock, style: Style) -> String {
    let mut out = clock.text_of(e.time).dim(style);
    match &e.unit {
        Some(unit) => out.push_str(&format!(" {unit}")),
        None => out.push_str(&format!(" {}", e.about)),
    }
    if let Some(state) = e.state {
        out.push_str(&format!(" {}", style::state(state, style)));
    }
    if let Some(outcome) = e.outcome {
        out.push_str(&format!(" {}", style::outcome(outcome, style)));
    }
    let words = [Some(e.about.as_str()), e.state.map(State::word), e.outcome.map(Outcome::word)];
    let said = words.into_iter().flatten().find_map(|word| {
        let rest = e.text.strip_prefix(word)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(": ") }
    });
    let text = said.unwrap_or(&e.text);
    if !text.is_empty() {
        out.push_str(&format!(": {}", one_line(text)));
    }
    out.push('\n');
    out
}

/// One line of output of a service; the name of the unit only where there are several.
pub fn log(unit: Option<&str>, time: &str, line: &str, style: Style) -> String {
    let time = one_line(time).dim(style);
    // Tabs are worth keeping; what moves the cursor is not.
    let text: String =
        line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    match unit {
        Some(unit) => format!("{time} {}: {text}\n", one_line(unit).cyan(style)),
        None => format!("{time} {text}\n"),
    }
}
