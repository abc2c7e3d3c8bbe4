//! What the query service of the worker answers: plan, generations, diff, adopt, verify.

use serde_json::json;
use units::source::STANDARD_INPUT;

use std::os::fd::OwnedFd;

use super::{Run, handed_over, json_of};
use crate::control::request::Rollback;
use crate::control::{self, STORE_SOCKET};
use crate::ctl::client::ClientError;
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::query::{
    self, Adopted, Between, Check, Checked, Diff, Generation, Generations, MaybeAll, OneUnit, Plan,
    PlanSummary, Source, Verb, Verify, VerifySummary,
};
use crate::ctl::render::{self, history};
use crate::ctl::todo::{File, State};

impl Run<'_, '_> {
    fn protocol(&self, text: &str) -> Stop {
        let socket = control::beside(self.socket, STORE_SOCKET).display().to_string();
        ClientError::Protocol { socket, text: text.to_owned() }.into()
    }

    /// A call about a state, with what goes beside it.
    fn about(
        method: &str,
        state: State,
        all: bool,
        release: bool,
    ) -> Result<(Vec<u8>, Option<OwnedFd>), Stop> {
        let remove = state.file.is_none().then_some(true);
        let (path, directory, descriptor) = handed_over(state.file)?;
        let (all, release) = (all.then_some(true), release.then_some(true));
        let source = Source { path, directory, all, layer: state.layer, remove, release };
        Ok((query::frame(method, &source, true), descriptor))
    }

    pub(super) fn check_layer(&mut self, state: State) -> Result<Exit, Stop> {
        let name = match &state.file {
            Some(File::Path(path)) => path.clone(),
            _ => STANDARD_INPUT.to_owned(),
        };
        let (frame, descriptor) = Self::about("io.holdfast.Store.Check", state, false, false)?;
        let mut checked = None;
        self.query()?.stream(&frame, descriptor.as_ref(), |reply: Check| {
            checked = Some(reply);
            Ok::<_, Stop>(())
        })?;
        let Check { units, warnings } = checked.ok_or_else(|| self.protocol("the check has no end"))?;
        let units = usize::try_from(units).unwrap_or_default();
        if self.screen.json {
            self.screen.object(json_of(&Checked { units, diagnostics: warnings }))?;
        } else {
            let text = render::diagnostic::all(&warnings, self.screen.style);
            self.screen.err.write_all(text.as_bytes()).map_err(Stop::Output)?;
            let text =
                format!("{name}: no mistakes; with the other layers {}\n", render::count(units, "unit"));
            self.screen.put(&text)?;
        }
        Ok(Exit::Done)
    }

    pub(super) fn plan(&mut self, state: State, all: bool, release: bool) -> Result<Exit, Stop> {
        let (frame, descriptor) = Self::about("io.holdfast.Store.Plan", state, all, release)?;
        let mut counts: Vec<(Verb, usize)> = Verb::ALL.map(|v| (v, 0)).to_vec();
        let mut summary: Option<PlanSummary> = None;
        let mut changes = Vec::new();
        self.query()?.stream(&frame, descriptor.as_ref(), |reply: Plan| {
            if let Some(change) = reply.change {
                if let Some((_, n)) = counts.iter_mut().find(|(v, _)| *v == change.verb) {
                    *n = n.saturating_add(1);
                }
                if self.screen.json {
                    changes.push(change);
                } else {
                    let text = render::plan::change(&change, self.screen.style);
                    self.screen.put(&text)?;
                }
            }
            summary = reply.summary.or(summary.take());
            Ok::<_, Stop>(())
        })?;
        let summary = summary.ok_or_else(|| self.protocol("the plan has no end"))?;
        if self.screen.json {
            self.screen.object(json!({ "changes": changes, "summary": json_of(&summary) }))?;
        } else {
            self.screen.put(&render::plan::summary(&counts, &summary))?;
        }
        Ok(Exit::Done)
    }

    fn list(&mut self) -> Result<Vec<Generation>, Stop> {
        let frame = query::frame("io.holdfast.Store.Generations", &json!({}), true);
        let mut list = Vec::new();
        self.query()?.stream(&frame, None, |reply: Generations| {
            list.extend(reply.generations);
            Ok::<_, Stop>(())
        })?;
        Ok(list)
    }

    /// A generation whose apply failed was on the machine once, and was left for that.
    pub(super) fn refuse_returned(&mut self, asked: &Rollback) -> Result<(), Stop> {
        let Some(number) = asked.generation else { return Ok(()) };
        // Who asks may change the machine and not read the store: init decides then.
        let Ok(list) = self.list() else { return Ok(()) };
        match list.iter().find(|g| g.number == number).map(|g| &*g.state) {
            Some("returned") => Err(Stop::Usage(format!(
                "generation {number} was returned from, since its apply failed; `initctl rollback {number} --force` \
                 tries it again, `initctl generations` lists those that were good"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn generations(&mut self) -> Result<Exit, Stop> {
        let list = self.list()?;
        if self.screen.json {
            self.screen.object(json!({ "generations": list }))?;
        } else {
            let text = history::generations(&list, &self.environment.clock, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(Exit::Done)
    }

    pub(super) fn diff(&mut self, from: Option<u64>, to: Option<u64>) -> Result<Exit, Stop> {
        let frame = query::frame("io.holdfast.Store.Diff", &Between { from, to }, true);
        let mut between = None;
        let mut changes = Vec::new();
        self.query()?.stream(&frame, None, |reply: Diff| {
            let head = between.replace((reply.from, reply.to)).is_none();
            if self.screen.json {
                changes.extend(reply.changes);
                return Ok(());
            }
            let head = if head { render::plan::generations_head(&reply) } else { String::new() };
            let text = head + &render::plan::generations(&reply, self.screen.style);
            self.screen.put(&text)
        })?;
        let (from, to) = between.ok_or_else(|| self.protocol("the difference has no end"))?;
        if self.screen.json {
            self.screen.object(json!({ "from": from, "to": to, "changes": changes }))?;
        }
        Ok(Exit::Done)
    }

    pub(super) fn adopt(&mut self, unit: String) -> Result<Exit, Stop> {
        let unit = self.address(unit)?;
        let frame = query::frame("io.holdfast.Store.Adopt", &OneUnit { unit }, false);
        let adopted: Adopted = self.query()?.call(&frame)?;
        if self.screen.json {
            self.screen.object(json!({ "adopted": json_of(&adopted) }))?;
            return Ok(Exit::Done);
        }
        // The patch alone goes to the output, so that it can be piped into patch(1).
        self.screen.put(&adopted.patch)?;
        if !adopted.note.is_empty() {
            let note = format!("initctl: {}\n", adopted.note);
            self.screen.err.write_all(note.as_bytes()).map_err(Stop::Output)?;
        }
        Ok(Exit::Done)
    }

    pub(super) fn verify(&mut self, all: bool) -> Result<Exit, Stop> {
        let frame = query::frame("io.holdfast.Store.Verify", &MaybeAll { all: all.then_some(true) }, true);
        let mut summary: Option<VerifySummary> = None;
        let mut units = Vec::new();
        self.query()?.stream(&frame, None, |reply: Verify| {
            if let Some(unit) = reply.unit {
                if self.screen.json {
                    units.push(unit);
                } else {
                    let text = history::verified(&unit, self.screen.style);
                    self.screen.put(&text)?;
                }
            }
            summary = reply.summary.or(summary.take());
            Ok::<_, Stop>(())
        })?;
        let summary = summary.ok_or_else(|| self.protocol("the verification has no end"))?;
        if self.screen.json {
            self.screen.object(json!({ "units": units, "summary": json_of(&summary) }))?;
        } else {
            let text = history::verify_summary(&summary, self.screen.style);
            self.screen.put(&text)?;
        }
        let right = summary.wrong == 0 && summary.store_damaged.is_empty();
        Ok(if right { Exit::Done } else { Exit::NotKept })
    }
}
