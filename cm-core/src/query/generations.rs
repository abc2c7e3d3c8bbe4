//! `Generations` and `Diff`: what the store keeps, and how two generations differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use units::Manifest;
use units::diff::{self, Change};
use units::kind::Spec;
use units::layer::MAIN;

use super::answer::{Asked, Replies, Stop, confine};
use super::describe;
use super::difference::{Difference, between};
use super::machine::Machine;
use super::planning::shown;
use super::shape::{Between, Diff, Generation, Generations, UnitDiff};
use super::wire::{self, Fault};
use crate::store::{Record, hex, journal, layers};

/// Nanoseconds in the unit of the store's times.
pub const SECOND: u64 = 1_000_000_000;
/// Generations in one reply.
const PAGE: usize = 100;
/// Bytes of differences in one reply.
const CHUNK: usize = 128 << 10;

/// How far each generation got, by what the journal says last about it.
fn ends(records: &[Record]) -> BTreeMap<u64, &'static str> {
    let mut ends = BTreeMap::new();
    for record in records {
        match record {
            Record::Prepared { generation, .. } => {
                ends.entry(*generation).or_insert("superseded");
            }
            Record::Committed { generation } => {
                ends.insert(*generation, "kept");
            }
            Record::Returned { generation, to } => {
                ends.insert(*generation, "returned");
                ends.insert(*to, "kept");
            }
            _ => {}
        }
    }
    ends
}

/// Names of a generation's layers, where there is another one than `main`.
fn layers(store: &Path, number: u64) -> Vec<String> {
    let list = layers::of_generation(store, number).ok().flatten().unwrap_or_default();
    let names: Vec<String> = list.into_iter().map(|l| l.name).collect();
    if names == [MAIN] { Vec::new() } else { names }
}

/// `Generations`.
///
/// # Errors
/// When the store cannot be read.
pub fn list(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let Ok(store) = machine.store() else { return replies.send(&Generations { generations: Vec::new() }) };
    let bytes = fs::read(store.dir().join("journal")).unwrap_or_default();
    let ends = ends(&journal::replay(&bytes).records);
    let index = store.index();
    let open = index.open.map(|(generation, _)| generation);
    let mut page = Vec::new();
    for (number, generation) in index.generations.iter().rev() {
        let state = match ends.get(number) {
            _ if index.current() == Some(*number) => "current",
            _ if open == Some(*number) => "unfinished",
            _ if index.stack.iter().any(|(g, _)| g == number) => "kept",
            // A journal that was compacted says no more than that it is there.
            end => end.copied().unwrap_or("kept"),
        };
        page.push(Generation {
            number: *number,
            time: generation.when.saturating_mul(SECOND),
            state: state.into(),
            units: machine.generation(*number).map(|m| m.len()).unwrap_or_default(),
            digest: hex(&generation.digest),
            note: generation.note.clone(),
            layers: layers(store.dir(), *number),
        });
        if page.len() >= PAGE {
            replies.send(&Generations { generations: std::mem::take(&mut page) })?;
        }
    }
    replies.send(&Generations { generations: page })
}

/// `Diff`.
///
/// # Errors
/// When there is no such generation.
pub fn diff(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let between: Between = wire::parameters(asked.call)?;
    confine()?;
    let machine = Machine::new(asked.options, None, None)?;
    let none = || Fault::NoSuchGeneration("there is no generation in the store yet".to_owned());
    let index = machine.store().map_err(|_| none())?.index();
    let to = match between.to.or_else(|| index.current()) {
        Some(to) => to,
        None => return Err(none().into()),
    };
    // What was current before it; one that was returned from never was.
    let before = || {
        let led: Vec<u64> = index.stack.iter().map(|(g, _)| *g).collect();
        let at = led.iter().position(|g| *g == to);
        let earlier = led.iter().enumerate().rev().find(|(n, g)| at.map_or(**g < to, |at| *n < at));
        earlier.map_or(0, |(_, g)| *g)
    };
    let from = between.from.unwrap_or_else(before);
    let (old, new) = (machine.generation(from)?, machine.generation(to)?);
    let first = from == 0 && old.is_empty();
    let mut page = Diff { from, to, first, changes: Vec::new() };
    let mut size = 0usize;
    for change in diff::manifests(&old, &new) {
        let Some(unit) = unit(&machine, &old, &new, &change) else { continue };
        size = size.saturating_add(unit.diff.as_ref().map_or(0, String::len)).saturating_add(256);
        page.changes.push(unit);
        if size > CHUNK {
            size = 0;
            let changes = std::mem::take(&mut page.changes);
            replies.send(&Diff { from, to, first, changes })?;
        }
    }
    replies.send(&page)
}

fn unit(machine: &Machine, old: &Manifest, new: &Manifest, change: &Change) -> Option<UnitDiff> {
    let (before, after, verb) = match change {
        Change::Same { .. } => return None,
        Change::Added(id) => (None, Some(*id), "added"),
        Change::Removed(id) => (Some(*id), None, "removed"),
        Change::Changed { old, new, .. } => (Some(*old), Some(*new), "changed"),
    };
    let address = match (before, after) {
        (_, Some(id)) => new.address(id),
        (Some(id), None) => old.address(id),
        (None, None) => return None,
    };
    let (text, keys) = describe::units(before.map(|id| (old, id)), after.map(|id| (new, id)));
    let contents = contents(machine, before.and_then(|id| old.spec(id)), after.and_then(|id| new.spec(id)));
    let mut difference = Difference::of(text);
    let mut reason = String::new();
    if let Change::Changed { keys: all, .. } = change {
        // What only the compiler added to a unit is told where somebody wrote it.
        if keys.is_empty() && contents.is_none() && !all.is_empty() {
            return None;
        }
        let content = contents.is_some().then_some("content");
        reason = content.into_iter().chain(keys).collect::<Vec<_>>().join(", ");
    }
    // Once is enough to say that it is secret.
    let said = difference.text.as_deref().is_some_and(|text| text.starts_with(describe::HIDDEN));
    if let Some(contents) = contents.filter(|_| !said) {
        difference = difference.and(contents);
    }
    let (diff, diff_cut) = (difference.text, difference.cut);
    Some(UnitDiff { unit: address.to_string(), verb: verb.into(), reason, diff, diff_cut })
}

/// How the contents of a file differ; nothing for what is no file, and where they are the same.
fn contents(machine: &Machine, old: Option<Spec>, new: Option<Spec>) -> Option<Difference> {
    let file = |spec: Option<Spec>| match spec {
        Some(Spec::File(file)) => Some(file),
        _ => None,
    };
    let (before, after) = (file(old), file(new));
    let path = before.as_ref().or(after.as_ref()).map(|f| f.path.clone())?;
    let content = |f: &Option<units::kind::file::File>| f.as_ref().and_then(|f| f.content);
    if content(&before) == content(&after) {
        return None;
    }
    let secret = before.as_ref().is_some_and(|f| f.secret) || after.as_ref().is_some_and(|f| f.secret);
    if secret {
        return Some(Difference::of("secret: not shown\n".to_owned()));
    }
    let body = |f: &Option<units::kind::file::File>| shown(machine, content(f).as_ref(), false);
    Some(between(&body(&before), &body(&after), &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_what_its_last_record_says() {
        let prepared =
            |generation| Record::Prepared { generation, digest: [0; 32], when: 0, note: String::new() };
        let records = [
            prepared(1),
            Record::Switching { generation: 1, transition: 1 },
            Record::Committed { generation: 1 },
            prepared(2),
            Record::Switching { generation: 2, transition: 2 },
            Record::Trial { generation: 2 },
            Record::Returned { generation: 2, to: 1 },
            prepared(3),
        ];
        let ends: Vec<_> = ends(&records).into_iter().collect();
        assert_eq!(ends, [(1, "kept"), (2, "returned"), (3, "superseded")]);
    }
}
