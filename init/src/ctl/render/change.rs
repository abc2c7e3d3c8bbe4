//! The progress of an apply, a rollback or a command, and how it ended.

use super::one_line;
use super::status::never_ran;
use super::style::{self, Paint, Style};
use std::collections::BTreeSet;

use units::value::{duration, signal};

use crate::control::answer::{Finished, Outcome, Progress, State, UnitStatus, Verdict};
use crate::control::request::{Command, Verb};

/// Whether this is worth a line that stays; the rest is for the live line.
pub fn stays(progress: &Progress) -> bool {
    match progress.outcome {
        Some(Outcome::Kept) => false,
        Some(_) => true,
        None => matches!(
            progress.state,
            None | Some(State::Ready | State::Failed | State::Backoff | State::Done | State::Down)
        ),
    }
}

/// The word that a unit's line begins with, as it is and painted.
fn word(progress: &Progress, style: Style) -> Option<(&'static str, String)> {
    match (progress.outcome, progress.state) {
        _ if progress.text == "restored" => Some(("restored", "restored".to_owned())),
        _ if progress.text == "locked" => Some(("locked", "locked".yellow(style))),
        _ if left(progress).is_some() => Some(("left", "left".yellow(style))),
        _ if is_gone(progress) => Some(("removed", "removed".to_owned())),
        (Some(outcome), _) => Some((outcome.word(), style::outcome(outcome, style))),
        (None, Some(state)) => Some((state.word(), style::state(state, style))),
        (None, None) => None,
    }
}

/// Nobody declares it any more; `restored`: what was there before it is there again; `locked`: a user whose entry stays.
pub fn is_gone(progress: &Progress) -> bool {
    matches!(progress.text.as_str(), "gone" | "removed" | "restored" | "locked")
}

/// Why it stays on the machine although nobody declares it any more.
fn left(progress: &Progress) -> Option<&str> {
    progress.text.strip_prefix("left in place: ")
}

/// Whether all of it, or what was there before it, is on the machine although nobody declares it any more.
pub fn remains(progress: &Progress) -> bool {
    matches!(progress.text.as_str(), "restored" | "locked") || left(progress).is_some()
}

/// What the line says beside that word.
fn beside(progress: &Progress) -> String {
    if let Some(why) = left(progress) {
        return one_line(why);
    }
    let text = one_line(&progress.text);
    match word(progress, Style::Plain) {
        Some(_) if progress.text == "locked" => {
            "the entry and its group stay, so that nobody is given its numbers".to_owned()
        }
        Some(_) if is_gone(progress) => String::new(),
        Some((word, _)) => match text.strip_prefix(word) {
            Some("") => String::new(),
            Some(rest) => rest.strip_prefix(": ").map_or(text.clone(), str::to_owned),
            None => text,
        },
        None => text,
    }
}

/// Whether it says no more than this earlier news of the same unit.
pub fn repeats(progress: &Progress, before: &Progress) -> bool {
    let word = |p| word(p, Style::Plain).map(|(word, _)| word);
    let text = beside(progress);
    if remains(before) && is_gone(progress) {
        return true;
    }
    word(progress) == word(before) && (text.is_empty() || text == beside(before))
}

/// Whether it says that a unit waits, and not what for: that, or what comes of it, is still to come.
pub fn is_bare(progress: &Progress) -> bool {
    progress.state == Some(State::Waiting) && beside(progress).is_empty()
}

/// One line of progress, without a newline.
pub fn line(progress: &Progress, style: Style) -> String {
    let text = beside(progress);
    let Some((plain, painted)) = word(progress, style) else {
        return match progress.unit.as_str() {
            "" => text,
            unit => format!("{unit}: {text}"),
        };
    };
    let gap = " ".repeat(10_usize.saturating_sub(plain.chars().count()));
    let mut line = format!("{painted}{gap}{}", progress.unit);
    if !text.is_empty() {
        line.push_str(&format!("  {}", text.dim(style)));
    }
    line
}

/// What a command that is done has come to for one unit, and how to take it back; without a newline.
pub fn commanded(
    command: &Command,
    unit: &str,
    news: Option<&Progress>,
    stopped: bool,
    style: Style,
) -> String {
    let until = |verb: &str| {
        let how_long = match command.for_seconds {
            Some(seconds) => format!("for {}", duration::format(seconds.saturating_mul(1000))),
            None => "until boot".to_owned(),
        };
        format!("{how_long}, or until `initctl {verb} {unit}`")
    };
    let lives = ["service:", "mount:", "target:"].iter().any(|kind| unit.starts_with(kind));
    let already = || if news.is_none() { "nothing was to be done".to_owned() } else { String::new() };
    let (word, text) = match command.verb {
        Verb::Start if lives => ("started", already()),
        Verb::Restart if lives => ("restarted", String::new()),
        Verb::Start | Verb::Restart => match news {
            Some(news) => return line(news, style),
            None => ("kept", String::new()),
        },
        Verb::Stop => ("stopped", until("start")),
        Verb::Reload if stopped => ("restarted", "instead of a reload".to_owned()),
        Verb::Reload => {
            let text = news.map(|n| one_line(&n.text)).unwrap_or_default();
            ("reloaded", text.strip_prefix("reloaded: ").unwrap_or_default().to_owned())
        }
        Verb::Pause => ("paused", until("resume")),
        Verb::Resume => ("resumed", String::new()),
        Verb::Hold => ("held", until("release")),
        Verb::Release => ("released", String::new()),
        Verb::Kill => ("sent", signal::format(command.signal.unwrap_or(libc::SIGTERM))),
    };
    let gap = " ".repeat(10_usize.saturating_sub(word.len()));
    let text = if text.is_empty() { text } else { format!("  {}", text.dim(style)) };
    format!("{word}{gap}{unit}{text}")
}

/// Who waits for what was stopped, itself or through others: a line, or nothing.
pub fn down_with(stopped: &[String], all: &[UnitStatus]) -> String {
    let blocker = |unit: &UnitStatus| -> Option<String> {
        let cause = unit.cause.strip_prefix("waiting: ")?;
        Some(cause.rsplit_once(" (").map_or(cause, |(unit, _)| unit).to_owned())
    };
    let waits = |u: &&UnitStatus| u.state == State::Waiting;
    let waiting: Vec<(&str, String)> =
        all.iter().filter(waits).filter_map(|u| Some((u.unit.as_str(), blocker(u)?))).collect();
    let mut down: BTreeSet<&str> = stopped.iter().map(String::as_str).collect();
    let mut with: BTreeSet<&str> = BTreeSet::new();
    loop {
        let next = |(unit, on): &&(&str, String)| down.contains(on.as_str()) && !down.contains(unit);
        let more: Vec<&str> = waiting.iter().filter(next).map(|(unit, _)| *unit).collect();
        if more.is_empty() {
            break;
        }
        down.extend(&more);
        with.extend(&more);
    }
    let with: Vec<String> = with.into_iter().map(str::to_owned).collect();
    if with.is_empty() { String::new() } else { format!("waiting until then: {}\n", some(&with)) }
}

/// Units that the last lines name, where their counts are not nought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Held by hand.
    pub held: Vec<String>,
    /// Run with what they loaded before, since something is held.
    pub stale: Vec<String>,
    /// Not kept.
    pub wrong: Vec<String>,
    /// Of those, what could not even be started, and so has written nothing.
    pub silent: Vec<String>,
    /// How many are gone, which nobody counts that is there.
    pub removed: usize,
}

/// The last lines: what was done, and why it is not what was asked.
pub fn finished(end: &Finished, names: &Names, style: Style) -> String {
    let t = &end.tally;
    let mut parts = vec![format!("{} kept", t.kept)];
    parts.push(format!("{} changed", t.changed));
    parts.push(format!("{} repaired", t.repaired));
    if names.removed > 0 && end.verdict == Verdict::Done {
        parts.push(format!("{} removed", names.removed));
    }
    let not_kept = format!("{} not kept", t.not_kept);
    parts.push(if t.not_kept > 0 { not_kept.red(style) } else { not_kept });
    if t.held > 0 {
        parts.push(format!("{} held", t.held).magenta(style));
    }
    if t.waiting > 0 {
        parts.push(format!("{} waiting", t.waiting).yellow(style));
    }
    let returned = matches!(end.verdict, Verdict::Returned | Verdict::ReturnIncomplete);
    let of = if returned { "the return to " } else { "" };
    let mut out = format!("{of}generation {}: {}\n", end.generation, parts.join(", "));
    let Names { held, stale, wrong, .. } = names;
    for (what, names) in [
        ("left alone, since held by hand", held),
        ("with what was loaded before, until that is released", stale),
        ("not kept", wrong),
    ] {
        if !names.is_empty() {
            out.push_str(&format!("{what}: {}\n", some(names)));
        }
    }
    let verdict = match end.verdict {
        Verdict::Done => return out,
        Verdict::Failed => "failed".red(style),
        Verdict::Superseded => "superseded by another apply".yellow(style),
        Verdict::Returned => "returned to the old generation".yellow(style),
        Verdict::ReturnIncomplete => "the return to the old generation is incomplete".red(style),
    };
    let text = one_line(&end.text);
    out.push_str(&if text.is_empty() { format!("{verdict}\n") } else { format!("{verdict}: {text}\n") });
    let silent = end.text.split("; ").filter_map(|part| part.split_once(": "));
    let silent = silent.filter(|(_, why)| never_ran(why)).map(|(unit, _)| unit);
    let silent: BTreeSet<&str> = silent.chain(names.silent.iter().map(String::as_str)).collect();
    let named = wrong.iter().map(String::as_str).chain(end.text.split([' ', ';']));
    let services = named.map(|w| w.trim_end_matches(':')).filter(|w| is_service(w) && !silent.contains(w));
    for service in services.collect::<BTreeSet<_>>().into_iter().take(3) {
        out.push_str(&format!("what it has written: initctl logs {service}\n"));
    }
    out
}

fn is_service(word: &str) -> bool {
    word.strip_prefix("service:").is_some_and(|name| !name.is_empty())
}

/// The first twenty, and how many more.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len().saturating_sub(SHOWN)));
    }
    text
}
