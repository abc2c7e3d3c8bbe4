//! The way back: what a return to an earlier generation puts back, beside converging what that one declares.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use units::address::Class;
use units::diff::is_same;
use units::kind::Spec;
use units::{Address, Kind, Manifest, UnitId};

use super::batch::{
    self, Batch, BatchError, Confinement, Manifests, Plan, Slot, Work, carry_out, managed_mounts, trouble,
};
use crate::proto::{Action, Intent, ManifestRef, Outcome, Step, UnitResult};
use crate::resource::op::{Account, Op, OwnChange, Put, Trouble, What};
use crate::resource::retire::Leaving;
use crate::resource::world::World;
use crate::resource::{self, Context, retire, thing};
use crate::store::Prior;
use crate::store::index::{FirstTouches, PARENT, Undo};

/// What was there before whatever a return undoes.
pub(super) fn look_back(world: &mut World, batch: &Batch) {
    world.first_touches = match &world.store {
        Some(store) if batch.intent == Intent::Return => store.index().first_touches(batch.generation),
        _ => FirstTouches::default(),
    };
    world.linked = match &world.store {
        Some(store) if batch.intent == Intent::Return => store.index().linked_in(batch.generation),
        _ => BTreeMap::new(),
    };
}

/// On a return: whoever was to remove the unit's own thing has given it up before that was done, and died; it is owned as
/// it was.
pub(super) fn own_again(world: &World, work: &Work, undo: &[Undo]) -> Option<Op> {
    let thing = thing(&work.spec)?;
    let own = undo.iter().find(|u| u.thing == thing)?.own.clone().filter(|own| own.unit == work.unit)?;
    let given_up = !world.store.as_ref()?.index().own.contains_key(&thing);
    given_up.then_some(Op { thing, what: What::Nothing, own: OwnChange::Back(Some(own)) })
}

/// On a return: what the unit's own thing was before fills what is not declared; everything else that the unit
/// touched is put back first.
pub(super) fn take_back(world: &mut World, work: &mut Work, undo: Vec<Undo>) -> Result<Vec<Op>, Trouble> {
    let own = thing(&work.spec);
    let mut ops = Vec::new();
    for entry in undo {
        if own.as_ref() == Some(&entry.thing) {
            work.context.backing = Some(entry.prior.clone());
            let whole = matches!(work.spec, Spec::File(_) | Spec::Directory(_) | Spec::Symlink(_));
            let was_there = !matches!(&entry.prior, Prior::Entries(e) if e.is_empty());
            if !whole && was_there {
                ops.extend(retire::put_back(world, &work.unit, &entry)?);
            }
        } else if !matches!(entry.prior, Prior::Absent) {
            ops.extend(retire::put_back(world, &work.unit, &entry)?);
        }
    }
    if let Some(touch) = own.as_ref().and_then(|thing| world.first_touches.get(thing))
        && matches!(work.context.backing, None | Some(Prior::Untouched))
    {
        // This unit left it alone; another one that had the same path since has seen what it was.
        work.context.backing = Some(touch.prior.clone());
    }
    // The databases and text files are not yet as they will be when these have run, so what is declared is done
    // again whatever a check says now.
    if !ops.is_empty() {
        let again = match &work.spec {
            Spec::Line(spec) => Some(What::Line(spec.clone())),
            Spec::User(spec) => {
                let spec = Box::new(spec.clone());
                Some(What::Account(Account::User { spec, password: false, leave: Vec::new() }))
            }
            Spec::Group(spec) => Some(What::Account(resource::op::Account::Group(spec.clone()))),
            Spec::Sysctl(spec) => Some(What::Text { key: spec.key.clone(), value: spec.value.clone() }),
            Spec::Hostname(spec) => {
                Some(What::Text { key: resource::hostname::KEY.to_owned(), value: spec.value.clone() })
            }
            _ => None,
        };
        let name = own.unwrap_or_else(|| work.unit.clone());
        ops.extend(again.map(|what| Op { thing: name, what, own: OwnChange::Take { digest: None } }));
    }
    Ok(ops)
}

fn leaves(step: Step, unit: &str, leaving: Leaving) -> Slot {
    Slot::Todo(Box::new(Work {
        step,
        unit: unit.to_owned(),
        spec: Spec::Target(units::kind::target::Target {}),
        context: Context::default(),
        detail: leaving.detail,
        ops: leaving.ops,
        outcome: leaving.outcome,
        needs: Vec::new(),
    }))
}

/// Takes away what was made on the way to a unit, and was not empty when that went: what was mounted in there, and the
/// mount point, may have gone since. Nothing that is not empty goes.
///
/// # Errors
/// As [`super::batch::run`].
pub fn take_emptied(
    world: &mut World,
    manifests: &Manifests,
    generation: u64,
    returned: bool,
    confinement: Confinement,
) -> Result<(), BatchError> {
    let mut left = std::mem::take(&mut world.left);
    // What lies inside goes before what it lies in.
    left.sort_unstable_by(|(_, a), (_, b)| b.cmp(a));
    left.dedup_by(|(_, a), (_, b)| a == b);
    let mut going: BTreeSet<PathBuf> = BTreeSet::new();
    left.retain(|(_, thing)| {
        let own = world.store.as_ref().and_then(|s| s.index().own.get(thing));
        let at = world.outside(thing);
        let is_ours = own.is_some_and(|o| o.unit == PARENT && o.created);
        let goes = is_ours
            && fs::read_dir(&at).is_ok_and(|mut all| all.all(|e| e.is_ok_and(|e| going.contains(&e.path()))));
        goes && going.insert(at)
    });
    if left.is_empty() {
        return Ok(());
    }
    if let Some(store) = &mut world.store {
        store.lock()?;
    }
    world.begin(managed_mounts(manifests));
    let intent = if returned { Intent::Return } else { Intent::Apply };
    let batch = Batch { generation, intent, steps: Vec::new() };
    let mut plan = Plan::default();
    for ((unit, thing), number) in left.iter().zip(0..) {
        let step = Step { manifest: ManifestRef(u32::MAX), unit: UnitId(number), action: Action::Remove };
        let ops = vec![Op::put(thing, Put::Absent, false, OwnChange::Drop)];
        let leaving = Leaving { ops, outcome: Outcome::Removed, detail: String::new() };
        plan.slots.push(leaves(step, unit, leaving));
    }
    let done = carry_out(world, &batch, plan, confinement, &mut |_| ());
    world.left.clear();
    if let Some(store) = &mut world.store {
        store.unlock();
    }
    done
}

/// Puts back what generations in between have left behind, before one that led to the current one is the current one
/// again: units that neither it nor the one that is left declares, so that no step of the engine names them.
///
/// What the open transition has touched has had its step, unless it failed and is `returned` from: an apply that this one
/// superseded may have brought units that were gone again when it failed.
///
/// # Errors
/// As [`super::batch::run`].
pub fn put_back_rest(
    world: &mut World,
    manifests: &Manifests,
    generation: u64,
    returned: bool,
    confinement: Confinement,
) -> Result<Vec<(String, UnitResult)>, BatchError> {
    let Some(store) = &mut world.store else { return Ok(Vec::new()) };
    store.lock()?;
    let index = store.index();
    let names = |generation| {
        let manifest = store.load(Some(generation)).map_or_else(|_| Manifest::empty(), |(_, m)| m);
        move |unit: &str| Address::parse(unit).is_some_and(|a| manifest.find(a.kind, &a.name).is_some())
    };
    let is_declared = names(generation);
    let mut units: Vec<String> = match index.open {
        Some((failed, open)) if index.is_back(generation) => {
            let had_its_step = names(failed);
            (index.undo.iter())
                .filter(|(unit, list)| {
                    let untouched = list.iter().all(|u| u.transition != open);
                    !is_declared(unit) && (untouched || (returned && !had_its_step(unit)))
                })
                .filter(|(unit, _)| !index.undo_to(unit, generation, &FirstTouches::default()).is_empty())
                .map(|(unit, _)| unit.clone())
                .collect()
        }
        _ => Vec::new(),
    };
    // What lies inside goes before what it lies in.
    units.sort_unstable_by(|a, b| b.cmp(a));
    let mut done = Vec::new();
    if !units.is_empty() {
        let batch = Batch { generation, intent: Intent::Return, steps: Vec::new() };
        world.begin(managed_mounts(manifests));
        look_back(world, &batch);
        let mut plan = Plan::default();
        for (unit, number) in units.iter().zip(0..) {
            let step =
                Step { manifest: ManifestRef(u32::MAX), unit: UnitId(number), action: Action::Restore };
            plan.slots.push(match retire::restore(world, unit, generation) {
                Ok(leaving) => leaves(step, unit, leaving),
                Err(e) => Slot::Done(trouble(&step, &e)),
            });
        }
        let mut take = |r: UnitResult| {
            let unit = usize::try_from(r.unit.0).ok().and_then(|at| units.get(at));
            done.push((unit.cloned().unwrap_or_default(), r));
        };
        carry_out(world, &batch, plan, confinement, &mut take)?;
    }
    if let Some(store) = &mut world.store {
        store.unlock();
    }
    Ok(done)
}

/// Puts back what generations in between have changed of units that the one that is left declares as this one does, so
/// that no step of the engine names them: one that was taken away and made anew has nothing of what nobody declares.
///
/// # Errors
/// As [`super::batch::run`].
pub fn put_back_alike(
    world: &mut World,
    manifests: &Manifests,
    generation: u64,
    returned: bool,
    confinement: Confinement,
) -> Result<Vec<(String, UnitResult)>, BatchError> {
    let Some(store) = &world.store else { return Ok(Vec::new()) };
    let index = store.index();
    let Some((failed, open)) = index.open.filter(|_| index.is_back(generation)) else {
        return Ok(Vec::new());
    };
    let Some(left) = (if returned { Some(failed) } else { index.current() }) else { return Ok(Vec::new()) };
    let load = |generation| store.load(Some(generation)).ok().map(|(_, manifest)| manifest);
    let (Some(here), Some(there)) = (load(generation), load(left)) else { return Ok(Vec::new()) };
    let alike = |unit: &String| {
        let address = Address::parse(unit).filter(|a| a.kind.class() == Class::Committer)?;
        let (id, same) = (here.find(address.kind, &address.name)?, there.find(address.kind, &address.name)?);
        is_same((&here, id), (&there, same)).then_some(id)
    };
    let name = ManifestRef(u32::MAX);
    let mut steps: Vec<Step> = (index.undo.iter())
        .filter(|(_, list)| !returned || list.iter().any(|u| u.transition == open))
        .filter_map(|(unit, _)| alike(unit).map(|id| (unit, id)))
        .filter(|(unit, _)| !index.undo_to(unit, generation, &FirstTouches::default()).is_empty())
        .map(|(_, unit)| Step { manifest: name, unit, action: Action::Converge })
        .collect();
    if generation == left || steps.is_empty() {
        return Ok(Vec::new());
    }
    // Owners before what they own, and what lies inside after what it lies in.
    let rank = |kind| match kind {
        Kind::Group => 0,
        Kind::User => 1,
        Kind::Directory => 2,
        _ => 3,
    };
    steps.sort_by_key(|s| (rank(here.kind(s.unit)), s.unit));
    let mut manifests = manifests.clone();
    manifests.insert(name, (generation, here.clone()));
    let batch = Batch { generation, intent: Intent::Return, steps };
    let mut done = Vec::new();
    let mut take = |r: UnitResult| done.push((here.address(r.unit).to_string(), r));
    batch::run(world, &manifests, &batch, confinement, &mut take)?;
    Ok(done)
}
