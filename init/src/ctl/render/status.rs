//! `status`: the machine in a line, holds, then a line a unit; or one unit in full.

use std::collections::BTreeMap;

use super::style::{self, Paint, Style};
use super::{cell, columns, count, one_line, origin};
use crate::control::Info;
use crate::control::answer::{Held, Outcome, State, UnitStatus};
use crate::ctl::time::Clock;

/// Whether a person has to look at it: failed, not kept, in backoff.
pub fn is_wrong(unit: &UnitStatus) -> bool {
    matches!(unit.state, State::Failed | State::Backoff) || unit.outcome == Some(Outcome::NotKept)
}

/// Whether it is wrong and may have said why itself: what could not even be started has written nothing.
fn has_written(unit: &UnitStatus) -> bool {
    unit.kind == "service" && is_wrong(unit) && !never_ran(&unit.cause)
}

/// Whether this is why something could not even be started.
pub fn never_ran(cause: &str) -> bool {
    cause.strip_prefix("failed: ").unwrap_or(cause).starts_with("cannot ")
}

/// Kinds that are worth a line each even where everything is right.
fn is_always_shown(kind: &str) -> bool {
    matches!(kind, "service" | "mount" | "target" | "exec")
}

/// Whether it is as declared and nobody need see it.
fn is_quiet(unit: &UnitStatus) -> bool {
    !is_always_shown(&unit.kind)
        && unit.state.is_ready()
        && unit.held.is_none()
        && matches!(unit.outcome, None | Some(Outcome::Kept | Outcome::Changed))
}

/// More units than this that are right and were repaired are only counted: after a boot from memory that is all of them.
const REPAIRED_SHOWN: usize = 10;

/// Whether all there is to say is that it was repaired.
fn is_just_repaired(unit: &UnitStatus) -> bool {
    let kept = UnitStatus { outcome: None, ..unit.clone() };
    unit.outcome == Some(Outcome::Repaired) && is_quiet(&kept)
}

/// The whole machine.
pub fn machine(info: &Info, units: &[UnitStatus], all: bool, clock: &Clock, style: Style) -> String {
    let mut out = headline(info, style);
    let held: Vec<_> = units.iter().filter_map(|u| u.held.as_ref().map(|h| (u, h))).collect();
    if !held.is_empty() {
        out.push_str(&format!("\n{}\n", "held by hand".magenta(style)));
        let rows: Vec<_> =
            held.iter().map(|(u, h)| vec![cell(format!("  {}", u.unit)), cell(hold(h, clock))]).collect();
        out.push_str(&columns(&rows));
    }
    let (quiet, shown): (Vec<_>, Vec<_>) = units.iter().partition(|u| !all && is_quiet(u));
    let many = !all && shown.iter().filter(|u| is_just_repaired(u)).count() > REPAIRED_SHOWN;
    let (repaired, mut shown): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|u| many && is_just_repaired(u));
    // What is wrong comes first, what is on its way next; within that, the order of addresses.
    shown.sort_by_key(|u| {
        let rank = if is_wrong(u) {
            0
        } else if !u.state.is_ready() && u.state != State::Down {
            1
        } else {
            2
        };
        (rank, !is_always_shown(&u.kind), u.unit.as_str())
    });
    if !shown.is_empty() {
        out.push('\n');
        let mut rows =
            vec![["UNIT", "STATE", "FOR", "DETAIL"].map(|h| (h.to_owned(), h.dim(style))).to_vec()];
        rows.extend(shown.iter().map(|u| row(u, clock, style)));
        out.push_str(&columns(&rows));
    }
    for (units, how) in [(&repaired, "repaired"), (&quiet, "as declared")] {
        if !units.is_empty() {
            out.push_str(&format!("{}\n", counted(units, how).dim(style)));
        }
    }
    out
}

/// Units that are not listed, by kind.
fn counted(units: &[&UnitStatus], how: &str) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for unit in units {
        let n = kinds.entry(unit.kind.as_str()).or_default();
        *n = n.saturating_add(1);
    }
    let list: Vec<_> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    format!("and {} {how} ({}); --all lists them", count(units.len(), "unit"), list.join(", "))
}

/// The machine in a line.
pub fn headline(info: &Info, style: Style) -> String {
    let mut parts = vec![format!("generation {}", info.generation)];
    parts.push(match (&info.shutdown, info.converged, info.at_rest) {
        (Some(how), _, _) => format!("going down ({how})").yellow(style),
        (None, true, _) => "converged".green(style),
        (None, false, true) => "not converged".red(style),
        (None, false, false) => "converging".yellow(style),
    });
    let n = &info.units;
    parts.push(format!(
        "{} of {} ready",
        n.ready,
        count(usize::try_from(n.total).unwrap_or_default(), "unit")
    ));
    for (number, word) in [(n.waiting, "waiting"), (n.moving, "on the way")] {
        if number > 0 {
            parts.push(format!("{number} {word}").yellow(style));
        }
    }
    if n.failed > 0 {
        parts.push(format!("{} failed or not kept", n.failed).red(style));
    }
    for (number, word) in [(n.held, "held"), (n.stale, "stale"), (n.drifted, "drifted"), (n.down, "down")] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    if !info.store_open {
        parts.push("no store".yellow(style));
    }
    format!("{}\n", parts.join(", "))
}

fn hold(held: &Held, clock: &Clock) -> String {
    let verb = match held.verb.as_str() {
        "stop" => "stopped",
        "pause" => "paused",
        _ => "held",
    };
    let until = match held.until {
        Some(until) => format!("for {} more", clock.left_until(until)),
        None => "until boot".to_owned(),
    };
    let why = if held.why.is_empty() { String::new() } else { format!(": {}", one_line(&held.why)) };
    format!("{verb} by {} {} ago, {until}{why}", held.by, clock.age_of(held.when))
}

fn row(unit: &UnitStatus, clock: &Clock, style: Style) -> Vec<(String, String)> {
    let state = (unit.state.word().to_owned(), style::state(unit.state, style));
    let plain = detail(unit, Style::Plain);
    let painted = detail(unit, style);
    vec![cell(unit.unit.as_str()), state, cell(age(unit, clock)), (plain, painted)]
}

/// The cause, where it says more than the state and the hold do.
fn cause(unit: &UnitStatus) -> Option<String> {
    let cause = one_line(&unit.cause);
    let word = format!("{}: ", unit.state.word());
    let cause = cause.strip_prefix(&word).unwrap_or(&cause);
    let said = cause.is_empty() || (unit.held.is_some() && cause.starts_with("held"));
    (!said).then(|| cause.to_owned())
}

/// How long the unit is in its state; nothing for one that was never anything else.
fn age(unit: &UnitStatus, clock: &Clock) -> String {
    if unit.since == 0 { String::new() } else { clock.age_of(unit.since) }
}

/// Everything worth saying behind the state.
fn detail(unit: &UnitStatus, style: Style) -> String {
    let mut parts = Vec::new();
    if let Some(held) = &unit.held {
        let word = match held.verb.as_str() {
            "stop" => "stopped by hand",
            "pause" => "paused by hand",
            _ => "held by hand",
        };
        parts.push(word.magenta(style));
    }
    if let Some(pid) = unit.pid {
        parts.push(format!("pid {pid}"));
    }
    parts.extend(cause(unit));
    let said = one_line(&unit.detail);
    match unit.outcome {
        Some(outcome @ (Outcome::Repaired | Outcome::Drifted | Outcome::NotKept)) => {
            let word = style::outcome(outcome, style);
            parts.push(if said.is_empty() { word } else { format!("{word}: {said}") });
        }
        _ if said.is_empty() => {}
        _ => parts.push(said),
    }
    if unit.stale && !unit.cause.starts_with("stale") {
        parts.push("stale: has not loaded its new configuration".yellow(style));
    }
    if !unit.degraded.is_empty() {
        parts.push(format!("degraded: without {}", unit.degraded.join(", ")).yellow(style));
    }
    if unit.restarts > 0 {
        parts.push(count(usize::try_from(unit.restarts).unwrap_or_default(), "restart"));
    }
    if has_written(unit) {
        parts.push(format!("see: initctl logs {}", unit.unit));
    }
    if !unit.unenforced.is_empty() {
        parts.push(format!("not enforced: {}", unit.unenforced.join(", ")).yellow(style));
    }
    parts.join("; ")
}

/// One unit in full.
pub fn unit(unit: &UnitStatus, clock: &Clock, style: Style) -> String {
    let mut out = format!("{}: {}", unit.unit.bold(style), style::state(unit.state, style));
    if unit.since != 0 {
        out.push_str(&format!(" for {}, since {}", age(unit, clock), clock.text_of(unit.since)));
    }
    out.push('\n');
    let mut rows: Vec<(&str, String)> = Vec::new();
    if let Some(held) = &unit.held {
        rows.push(("by hand", hold(held, clock)));
    }
    if let Some(cause) = cause(unit) {
        rows.push(("cause", cause));
    }
    if let Some(outcome) = unit.outcome {
        rows.push(("outcome", style::outcome(outcome, style)));
    }
    if !unit.detail.is_empty() {
        rows.push(("detail", one_line(&unit.detail)));
    }
    if let Some(pid) = unit.pid {
        rows.push(("pid", pid.to_string()));
    }
    if !unit.readiness.is_empty() {
        rows.push(("ready by", unit.readiness.clone()));
    }
    if unit.restarts > 0 {
        rows.push(("restarts", unit.restarts.to_string()));
    }
    if unit.stale {
        rows.push(("stale", "has not loaded the configuration that it should have".yellow(style)));
    }
    if !unit.degraded.is_empty() {
        rows.push(("degraded", format!("runs without {}", unit.degraded.join(", ")).yellow(style)));
    }
    if !unit.unenforced.is_empty() {
        rows.push(("unenforced", unit.unenforced.join(", ").yellow(style)));
    }
    if !unit.origin.is_empty() {
        rows.push(("declared", origin(&unit.origin)));
    }
    if !unit.layer.is_empty() {
        rows.push(("layer", one_line(&unit.layer)));
    }
    let rows: Vec<_> =
        rows.into_iter().map(|(name, text)| vec![cell(format!("  {name}")), cell(text)]).collect();
    out.push_str(&columns(&rows));
    let ways = ways(unit);
    if !ways.is_empty() {
        out.push_str(&format!("  {}\n", ways.join("; ")));
    }
    out
}

/// What a person may do about drift, as far as it would do something now.
fn ways(unit: &UnitStatus) -> Vec<String> {
    let name = &unit.unit;
    if has_written(unit) {
        return vec![format!("what it has written: initctl logs {name}")];
    }
    // What runs has no other version, and a command is not made again by a patch.
    if matches!(unit.kind.as_str(), "service" | "target" | "exec" | "mount" | "module") {
        return Vec::new();
    }
    let adopt = || format!("to keep it as it is now: initctl adopt {name}");
    match unit.outcome {
        // It is over: what was there is in the history, and nothing is left to adopt.
        Some(Outcome::Repaired) => vec![
            format!("what was there: initctl history {name}"),
            format!("to be left alone: initctl hold {name} --for 1h"),
        ],
        Some(Outcome::Drifted) if unit.held.is_some() => {
            vec![adopt(), format!("to have it repaired: initctl release {name}")]
        }
        Some(Outcome::Drifted) => vec![adopt()],
        Some(Outcome::NotKept)
            if unit.cause.starts_with("contested") || unit.detail.contains("contested") =>
        {
            vec![
                adopt(),
                format!("to be left alone: initctl hold {name} --for 1h"),
                format!("to try again now: initctl release {name}"),
            ]
        }
        Some(Outcome::NotKept | Outcome::Kept | Outcome::Changed) | None => Vec::new(),
    }
}
