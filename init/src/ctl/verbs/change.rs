//! Apply, rollback and commands: progress while it lasts, then how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use serde_json::json;

use super::{Run, json_of, units};
use crate::control::answer::{Change, Finished, Outcome, Progress, State, Verdict};
use crate::control::request::{Command, Request, Verb};
use crate::ctl::client::{Client, ClientError};
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::render;
use crate::ctl::render::change::Names;

impl Run<'_, '_> {
    pub(super) fn change(&mut self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Exit, Stop> {
        let mut client = self.client()?;
        let mut finished: Option<Finished> = None;
        let mut wrong = BTreeSet::new();
        let mut steps: u32 = 0;
        let mut told: BTreeMap<String, Progress> = BTreeMap::new();
        let mut stopped = BTreeSet::new();
        let (mut gone, mut stays) = (BTreeSet::new(), BTreeSet::new());
        client
            .stream(&request.frame(true), descriptor, |change: Change| {
                for progress in &change.progress {
                    steps = steps.saturating_add(1);
                    if progress.state == Some(State::Stopping) {
                        stopped.insert(progress.unit.clone());
                    }
                    if progress.outcome == Some(Outcome::NotKept) {
                        wrong.insert(progress.unit.clone());
                    } else {
                        wrong.remove(&progress.unit);
                    }
                    if progress.unit.is_empty() {
                        // What is told from here on is another stage, as of a return: it is told although it was before.
                        told.retain(|unit, _| unit.is_empty());
                    } else if render::change::remains(progress) {
                        stays.insert(progress.unit.clone());
                    } else if render::change::is_gone(progress) && !stays.contains(&progress.unit) {
                        gone.insert(progress.unit.clone());
                    }
                    let news = told.get(&progress.unit).is_none_or(|t| !render::change::repeats(progress, t));
                    if news || self.screen.json {
                        self.progress(progress, steps, matches!(request, Request::Command(_)))?;
                        told.insert(progress.unit.clone(), progress.clone());
                    }
                }
                if change.finished.is_some() {
                    finished = change.finished;
                }
                Ok::<_, Stop>(())
            })
            .map_err(|stop| match stop {
                Stop::Client(ClientError::TimedOut { .. }) => {
                    let text = "what was begun goes on; `initctl status` shows how it stands";
                    Stop::TimedOut(text.to_owned())
                }
                other => other,
            })?;
        let Some(finished) = finished else {
            let text = "the last reply says nothing".to_owned();
            return Err(ClientError::Protocol { socket: self.socket.display().to_string(), text }.into());
        };
        if self.screen.json {
            self.screen.object(json!({ "finished": json_of(&finished) }))?;
        } else if let Request::Command(command) = request {
            let text = self.commanded(&mut client, command, &finished, &told, &stopped);
            self.screen.put(&text)?;
        } else {
            let names = Names { removed: gone.len(), ..names(&mut client, &finished, wrong) };
            let text = render::change::finished(&finished, &names, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(finished.verdict.into())
    }

    /// What a command has come to, a line a unit.
    fn commanded(
        &self,
        client: &mut Client,
        command: &Command,
        end: &Finished,
        told: &BTreeMap<String, Progress>,
        stopped: &BTreeSet<String>,
    ) -> String {
        let style = self.screen.style;
        if end.verdict != Verdict::Done {
            let news = told.values().filter(|p| render::change::stays(p));
            let mut text: String = news.map(|p| format!("{}\n", render::change::line(p, style))).collect();
            if !end.text.is_empty() {
                text.push_str(&format!("{}\n", render::one_line(&end.text)));
            }
            return text;
        }
        // What is gone with its hold has no status any more.
        let units = units(client, Some(command.units.clone()));
        let names: Vec<String> =
            units.map_or_else(|_| command.units.clone(), |u| u.into_iter().map(|u| u.unit).collect());
        let line = |unit: &String| {
            let news = told.get(unit);
            let text = render::change::commanded(command, unit, news, stopped.contains(unit), style);
            format!("{text}\n")
        };
        let mut text: String = names.iter().map(line).collect();
        if command.verb == Verb::Stop {
            let all = self::units(client, None).unwrap_or_default();
            text.push_str(&render::change::down_with(&names, &all));
        }
        text
    }

    /// One piece of news. Of a command only what it comes to stays on the screen.
    fn progress(&mut self, progress: &Progress, steps: u32, command: bool) -> Result<(), Stop> {
        if self.screen.json {
            return self.screen.object(json!({ "progress": json_of(progress) }));
        }
        let style = self.screen.style;
        if command && !self.screen.live {
            Ok(())
        } else if render::change::stays(progress) && !command {
            self.screen.put(&format!("{}\n", render::change::line(progress, style)))
        } else if self.screen.live {
            let line = render::change::line(progress, render::style::Style::Plain);
            self.screen.draw(&format!("[{steps}] {line}"))
        } else if progress.outcome.is_none() && !render::change::is_bare(progress) {
            self.screen.put(&format!("{}\n", render::change::line(progress, style)))
        } else {
            Ok(())
        }
    }
}

/// Names behind the counts. What cannot be asked any more is left out: the counts say it too.
fn names(client: &mut Client, end: &Finished, wrong: BTreeSet<String>) -> Names {
    let mut wrong = wrong;
    let mut names = Names::default();
    if end.tally.held > 0 || end.tally.not_kept > 0 {
        for unit in units(client, None).unwrap_or_default() {
            if unit.held.is_some() {
                names.held.push(unit.unit);
            } else if render::status::is_wrong(&unit) {
                if render::status::never_ran(&unit.cause) {
                    names.silent.push(unit.unit.clone());
                }
                wrong.insert(unit.unit);
            } else if unit.stale {
                names.stale.push(unit.unit);
            }
        }
    }
    if end.tally.not_kept > 0 {
        names.wrong = wrong.into_iter().collect();
    }
    names
}
