//! `Plan` and `Check`: a state file is compiled by the compiler, and compared with the machine.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use units::diagnostic::Severity;
use units::kind::{Content, Spec};
use units::layer::MAIN;
use units::source::STANDARD_INPUT;
use units::{Manifest, UnitId};

use super::answer::{Asked, Replies, Stop, confine};
use super::difference::{Body, Difference, between};
use super::machine::Machine;
use super::missing::missing;
use super::shape::{Check, Plan, PlanSummary, PlannedChange, Source};
use super::wire::{self, Fault};
use super::{Options, describe, live};
use crate::plan::{self, Found, Observation, Planned, Subject, Verb};
use crate::proto::LayerChange;
use crate::resource::{line, tree};
use crate::store::{Progress, Store, layers as stored};
use crate::sys::Mapping;
use crate::worker::compile::{self, Compiled, Job};
use crate::worker::layers::{self, Onto};

/// What a call names, compiled; and whether the layers are those of the current generation.
struct Made {
    compiled: Compiled,
    same_layers: bool,
}

/// What the machine has now, by the store alone: generation 0 where it holds none.
fn onto(options: &Options) -> Onto {
    let current = Store::look(&options.store).ok().and_then(|s| s.index().current());
    Onto {
        store: options.store.clone(),
        boot: Some(options.boot.clone()),
        generation: current.unwrap_or_default(),
    }
}

/// Compiles what a call names, with the caller's rights, among the layers of the current generation.
fn compiled(asked: &mut Asked<'_>, source: &Source) -> Result<Made, Stop> {
    let absolute = |parameter: &str, path: &str| match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err(Fault::invalid(parameter, &"must be an absolute path")),
    };
    let name = source.layer.clone().unwrap_or_else(|| MAIN.to_owned());
    units::layer::check(&name).map_err(|e| Fault::invalid("layer", &e))?;
    let layer = LayerChange { name, remove: source.remove.unwrap_or_default() };
    let (entry, input) = match (&source.path, asked.descriptor.take()) {
        _ if layer.remove => (String::new(), None),
        (Some(path), _) => (absolute("path", path)?, None),
        (None, Some(fd)) => {
            let Some(directory) = &source.directory else {
                return Err(Fault::invalid("directory", &"is missing: relative sources are below it").into());
            };
            let file = File::from(fd);
            if !file.metadata().is_ok_and(|m| m.is_file()) {
                return Err(Fault::invalid("path", &"the descriptor is neither a memfd nor a file").into());
            }
            let entry = Path::new(&absolute("directory", directory)?).join(STANDARD_INPUT);
            (entry.to_string_lossy().into_owned(), Some(file.into()))
        }
        (None, None) => {
            return Err(
                Fault::invalid("path", &"is missing, and there is no descriptor beside the call").into()
            );
        }
    };
    let (uid, gid) = (asked.caller.uid, asked.caller.gid);
    let onto = onto(asked.options);
    let refused = |text: String| Fault::CompileFailed { text, diagnostics: Vec::new() };
    let beside = layers::base(&onto, &layer).map_err(refused)?;
    let others = beside.others.iter().map(|(named, kept)| (named.name.clone(), kept.clone())).collect();
    let job = Job { entry, input, uid, gid, staging: asked.staging.to_owned(), layer, others };
    let compiled = compile::compile(&job, &Progress::default()).map_err(|e| Fault::Failed(e.to_string()))?;
    if let Err(text) = compiled.result {
        return Err(Fault::CompileFailed { text, diagnostics: compiled.diagnostics }.into());
    }
    let listed = beside.with(&job.layer, &compiled.layer, None).map_err(Fault::Failed)?;
    let has = stored::of_generation(&onto.store, onto.generation).ok().flatten().unwrap_or_default();
    let same_layers = listed.is_none_or(|l| stored::alike(&has, &l.list));
    Ok(Made { compiled, same_layers })
}

/// `Check`.
///
/// # Errors
/// [`Fault::CompileFailed`] with everything that is wrong.
pub fn check(mut asked: Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let source: Source = wire::parameters(asked.call)?;
    let Made { compiled, .. } = compiled(&mut asked, &source)?;
    let warnings = compiled.diagnostics.into_iter().filter(|d| d.severity == Severity::Warning).collect();
    replies.send(&Check { units: compiled.result.unwrap_or_default(), warnings })
}

/// `Plan`.
///
/// # Errors
/// As [`check`]; and when the current generation cannot be read.
pub fn plan(mut asked: Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let source: Source = wire::parameters(asked.call)?;
    let live = live::ask(&asked.options.control);
    let Made { compiled, same_layers } = compiled(&mut asked, &source)?;
    confine()?;
    let damaged =
        |e: &dyn std::fmt::Display| Fault::Failed(format!("cannot read the compiled manifest: {e}"));
    let mapping = Mapping::sealed(&File::from(compiled.fd)).map_err(|e| damaged(&e))?;
    let desired = Manifest::parse(Arc::new(mapping)).map_err(|e| damaged(&e))?;
    let mut machine = Machine::new(asked.options, live, Some(asked.staging))?;
    let (generation, running) = machine.current()?;
    machine.begin(&[&running, &desired]);
    let same = running.digest() == desired.digest() && same_layers && generation > 0;
    let as_asked = |mut seen: Observation| {
        if source.release == Some(true) {
            seen.lifted = seen.held.is_some();
            (seen.held, seen.stopped) = (None, false);
        }
        Observation { again: same, ..seen }
    };
    let declared: Vec<Observation> = desired
        .ids()
        .map(|id| {
            let unchanged = running
                .find(desired.kind(id), desired.name(id))
                .is_some_and(|old| units::diff::is_same((&running, old), (&desired, id)));
            as_asked(machine.look(&desired, id, unchanged).seen)
        })
        .collect();
    let gone = running.ids().map(|id| match desired.find(running.kind(id), running.name(id)) {
        Some(_) => Observation::default(),
        None => as_asked(machine.look_at_leaving(&running, &desired, id)),
    });
    let leaving: Vec<Observation> = gone.collect();
    let observe = |subject| match subject {
        Subject::Declared(id) => declared.get(id.index()).cloned().unwrap_or_default(),
        Subject::Leaving(id) => leaving.get(id.index()).cloned().unwrap_or_default(),
    };
    let all = source.all.unwrap_or_default();
    for planned in plan::plan(&running, &desired, &observe) {
        // That something is declared no more is news, whatever is done about it.
        if planned.verb == Verb::Nothing && !all && matches!(planned.subject, Subject::Declared(_)) {
            continue;
        }
        let change = change(&mut machine, &running, &desired, &planned, &observe(planned.subject));
        replies.send(&Plan::from(change))?;
    }
    let left = |seen: &&Observation| {
        seen.held.is_some() && !matches!(seen.found, Found::Unknown | Found::Right | Found::Due(_))
    };
    let held = declared.iter().filter(left).count();
    replies.send(&Plan::from(PlanSummary { generation, units: desired.len(), same, held }))
}

fn change(
    machine: &mut Machine,
    running: &Manifest,
    desired: &Manifest,
    planned: &Planned,
    seen: &Observation,
) -> PlannedChange {
    let (manifest, id) = match planned.subject {
        Subject::Declared(id) => (desired, id),
        Subject::Leaving(id) => (running, id),
    };
    let difference = match planned.verb {
        Verb::Nothing | Verb::Stop => Difference::default(),
        Verb::Remove => removal(machine, manifest, id),
        Verb::Create | Verb::Change | Verb::Start | Verb::Reload | Verb::Restart => {
            let old = running.find(desired.kind(id), desired.name(id)).and_then(|old| running.spec(old));
            match desired.spec(id) {
                Some(spec) => difference(machine, old.as_ref(), &spec, seen),
                None => Difference::default(),
            }
        }
    };
    let stays = seen.held.is_some() || matches!(seen.found, Found::Left(_) | Found::Trouble(_));
    let verb = match (planned.subject, planned.verb) {
        // It goes from the list of units; nothing is to be done for that on the machine.
        (Subject::Leaving(_), Verb::Nothing) if !stays => Verb::Remove,
        (_, verb) => verb,
    };
    let mut reason = planned.reason.clone();
    if let (Subject::Declared(id), Verb::Create | Verb::Change | Verb::Start | Verb::Restart) =
        (planned.subject, planned.verb)
        && let Some(spec) = desired.spec(id)
    {
        for what in missing(machine, desired, &spec) {
            reason.push_str(&format!("; {what}"));
        }
    }
    PlannedChange {
        unit: manifest.address(id).to_string(),
        verb,
        reason,
        diff: difference.text,
        diff_cut: difference.cut,
        one_way: planned.one_way,
        layer: Some(manifest.unit(id).layer).filter(|l| *l != MAIN).map(str::to_owned),
    }
}

/// What a content is, for a diff.
pub fn shown(machine: &Machine, content: Option<&Content>, secret: bool) -> Body {
    match content {
        None => Body::Absent,
        Some(_) if secret => Body::Secret,
        Some(content) => machine.content(content),
    }
}

fn removal(machine: &mut Machine, manifest: &Manifest, id: UnitId) -> Difference {
    match manifest.spec(id) {
        Some(Spec::File(file)) => {
            let theirs = if file.secret { Body::Secret } else { machine.theirs(&file.path) };
            between(&theirs, &Body::Absent, &file.path)
        }
        _ => Difference::default(),
    }
}

/// What is on the machine beside what will be.
fn difference(machine: &mut Machine, old: Option<&Spec>, spec: &Spec, seen: &Observation) -> Difference {
    let lines = |is: &str, will: &str| Difference::of(format!("-{is}\n+{will}\n"));
    match spec {
        Spec::File(file) => {
            let Some(content) = &file.content else { return Difference::default() };
            let differs = match &seen.found {
                Found::Wrong(what) => what.iter().any(|w| w == "content differs" || w.starts_with("is a ")),
                _ => true,
            };
            if !differs {
                return Difference::default();
            }
            // That it is no longer declared secret does not make public what it held.
            let secret = file.secret || old.is_some_and(describe::is_secret);
            let theirs = match machine.theirs(&file.path) {
                Body::Absent => Body::Absent,
                _ if secret => Body::Secret,
                body => body,
            };
            if secret && theirs == Body::Secret {
                return Difference::of("secret: not shown\n".to_owned());
            }
            let ours = shown(machine, Some(content), secret);
            between(&theirs, &ours, &file.path)
        }
        Spec::Line(spec) => {
            let Ok(old) = line::read(&mut machine.world, &spec.path) else { return Difference::default() };
            match line::edit(old.as_deref(), spec) {
                Ok(Some((new, _))) => {
                    let old = old.map_or(Body::Absent, Body::Text);
                    between(&old, &Body::Text(new), &spec.path)
                }
                _ => Difference::default(),
            }
        }
        Spec::Symlink(link) => {
            let place = machine.world.places.entry(&link.path);
            let target = place.ok().and_then(|p| tree::link_target(&p).ok());
            match target {
                Some(old) if old != link.target.as_bytes() => {
                    lines(&String::from_utf8_lossy(&old), &link.target)
                }
                _ => Difference::of(format!("+{}\n", link.target)),
            }
        }
        Spec::Sysctl(_) | Spec::Hostname(_) => {
            let value = match spec {
                Spec::Sysctl(s) => &s.value,
                Spec::Hostname(h) => &h.value,
                _ => return Difference::default(),
            };
            match &seen.found {
                Found::Wrong(what) => {
                    let is = what.first().and_then(|w| w.strip_prefix("is "));
                    let is = is.and_then(|w| w.rsplit_once(", should be ")).map(|(is, _)| is);
                    is.map_or_else(Difference::default, |is| lines(is, value))
                }
                _ => Difference::default(),
            }
        }
        Spec::Service(_) | Spec::Exec(_) | Spec::Mount(_) | Spec::Module(_) => match old {
            Some(old) => Difference::of(describe::differing(Some(old), Some(spec))),
            None => Difference::default(),
        },
        Spec::Directory(_) | Spec::User(_) | Spec::Group(_) | Spec::Target(_) => Difference::default(),
    }
}
