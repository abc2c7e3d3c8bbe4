//! Apply, rollback and commands: progress while it lasts, then how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use serde_json::json;

use super::{Run, json_of, units};
use crate::control::answer::{Change, Finished, Outcome, Progress};
use crate::control::request::Request;
use crate::ctl::client::{Client, ClientError};
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::render;

impl Run<'_, '_> {
    pub(super) fn change(&mut self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Exit, Stop> {
        let mut client = self.client()?;
        let mut finished: Option<Finished> = None;
        let mut wrong = BTreeSet::new();
        let mut steps: u32 = 0;
        let mut told: BTreeMap<String, Progress> = BTreeMap::new();
        client
            .stream(&request.frame(true), descriptor, |change: Change| {
                for progress in &change.progress {
                    steps = steps.saturating_add(1);
                    if progress.outcome == Some(Outcome::NotKept) {
                        wrong.insert(progress.unit.clone());
                    } else {
                        wrong.remove(&progress.unit);
                    }
                    let news = told.get(&progress.unit).is_none_or(|t| !render::change::repeats(progress, t));
                    if news || self.screen.json {
                        self.progress(progress, steps)?;
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
        } else if matches!(request, Request::Command(_)) {
            self.screen.put("")?;
            if !finished.text.is_empty() {
                self.screen.put(&format!("{}\n", render::one_line(&finished.text)))?;
            }
        } else {
            let (held, not_kept) = names(&mut client, &finished, wrong);
            let text = render::change::finished(&finished, &held, &not_kept, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(finished.verdict.into())
    }

    fn progress(&mut self, progress: &Progress, steps: u32) -> Result<(), Stop> {
        if self.screen.json {
            return self.screen.object(json!({ "progress": json_of(progress) }));
        }
        let style = self.screen.style;
        if render::change::stays(progress) {
            self.screen.put(&format!("{}\n", render::change::line(progress, style)))
        } else if self.screen.live {
            let line = render::change::line(progress, render::style::Style::Plain);
            self.screen.draw(&format!("[{steps}] {line}"))
        } else if progress.outcome.is_none() {
            self.screen.put(&format!("{}\n", render::change::line(progress, style)))
        } else {
            Ok(())
        }
    }
}

/// Names of units that are held, and of those that are not kept. What cannot be asked any more is left out: the
/// counts say it too.
fn names(client: &mut Client, end: &Finished, wrong: BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    let mut wrong = wrong;
    let mut held = Vec::new();
    if end.tally.held > 0 || end.tally.not_kept > 0 {
        for unit in units(client, None).unwrap_or_default() {
            if unit.held.is_some() {
                held.push(unit.unit);
            } else if render::status::is_wrong(&unit) {
                wrong.insert(unit.unit);
            }
        }
    }
    let wrong = if end.tally.not_kept > 0 { wrong.into_iter().collect() } else { Vec::new() };
    (held, wrong)
}
