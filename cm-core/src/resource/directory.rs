//! `directory`: what a directory should be, and what should not be in it.
//!
//! Purging ends at every mount: what is mounted below a directory, or over it by somebody else, is none of its entries.

use std::collections::BTreeSet;

use nix::sys::stat::FileStat;
use units::kind::Spec;
use units::kind::directory::Directory;
use units::value::path::canonical;
use units::{Kind, Manifest, UnitId};

use super::Context;
use super::attributes::differences;
use super::op::{Finding, Op, OwnChange, Put, Trouble, Want};
use super::place::{PlaceError, is_below, join};
use super::tree::{self, Found};
use super::world::World;
use crate::bytes;
use crate::store::Prior;

/// What is wrong with a directory, and what would make it right.
///
/// # Errors
/// When it cannot be looked at.
pub fn check(world: &mut World, spec: &Directory, context: &Context) -> Result<Finding, Trouble> {
    let path = spec.path.as_str();
    world.mount_present(path)?;
    let mut want = Want::declared(&spec.attributes);
    if let Some(Prior::Directory(metadata)) = &context.backing {
        want = want.or(metadata);
    }
    let mut finding = Finding::default();
    let make = |want| {
        let put = Put::Directory { want, over_link: context.owned };
        Op::put(path, put, false, OwnChange::Take { digest: None })
    };
    let found = match world.places.entry(path) {
        Ok(_) if context.cleared => Found::Nothing,
        Ok(place) => tree::find(&place)?,
        Err(PlaceError::Missing(_)) => Found::Nothing,
        Err(PlaceError::NotDirectory(what)) => {
            finding.wrong.push(format!("{what} is not a directory"));
            finding.ops.push(make(want));
            return Ok(finding);
        }
        Err(e) => return Err(e.into()),
    };
    let Found::Directory(stat) = found else {
        finding.wrong.push(match found {
            Found::Nothing => "missing".to_owned(),
            Found::Link(_) => "is a symbolic link".to_owned(),
            Found::Special(what) => format!("is a {what}"),
            _ => "is a file".to_owned(),
        });
        finding.ops.push(make(want));
        return Ok(finding);
    };
    let place = world.places.entry(path)?;
    differences(&stat, &|| tree::open_directory(&place), &want, &world.accounts, &mut finding.wrong)?;
    if !finding.wrong.is_empty() {
        finding.ops.push(make(want));
    }
    if spec.purge {
        if world.is_own_run(&stat) || is_in_own(world, path, &stat) {
            let text =
                format!("{path} belongs to Holdfast itself, which needs what is in it: it is not purged");
            return Err(Trouble::NotKept(text));
        }
        let declared = world.is_managed_mount(path);
        if !declared && place.is_mount().map_err(|e| Trouble::cannot("open", path, e))? {
            let text =
                format!("a file system is mounted at {path}; nothing in it is purged unless it is declared");
            return Err(Trouble::NotKept(text));
        }
        let homes = homes(world, path, &context.users);
        for name in tree::entries(tree::open_directory(&place)?, path)? {
            let named = spec.entries.binary_search(&name).is_ok() || homes.contains(&name);
            if !named && !name.starts_with(".holdfast.") {
                let cleared = clear(world, (path, &context.unit), &join(path, &name))?;
                if !cleared.is_empty() {
                    finding.wrong.push(format!("{} should not be there", bytes::shown(&name)));
                    finding.ops.extend(cleared);
                }
            }
        }
    }
    Ok(finding)
}

/// Whether a directory is one of Holdfast's own, or lies in one.
fn is_in_own(world: &mut World, path: &str, stat: &FileStat) -> bool {
    let above =
        |path: &str| path.rsplit_once('/').map(|(above, _)| above.to_owned()).filter(|p| !p.is_empty());
    let mut own = world.is_own(stat);
    let mut next = above(path);
    while let (false, Some(path)) = (own, next) {
        let found = world.places.entry(&path).ok().and_then(|place| tree::find(&place).ok());
        own = matches!(found, Some(Found::Directory(stat)) if world.is_own(&stat));
        next = above(&path);
    }
    own
}

/// Users of whom a manifest does not say where they live, for a directory that is purged: the state names what is theirs,
/// but only the user database knows where that is.
pub fn users(manifest: &Manifest, spec: &Spec) -> Vec<String> {
    if !matches!(spec, Spec::Directory(directory) if directory.purge) {
        return Vec::new();
    }
    let silent = |id: &UnitId| matches!(manifest.spec(*id), Some(Spec::User(user)) if user.home.is_none());
    let users = manifest.ids().filter(|id| manifest.kind(*id) == Kind::User).filter(silent);
    users.map(|id| manifest.name(id).to_owned()).collect()
}

/// Entries of a directory below which users live.
fn homes(world: &World, path: &str, users: &[String]) -> BTreeSet<String> {
    let entry = |user: &String| {
        let home = canonical(world.accounts.passwd.field(user, 5)?).ok()?;
        let below = home.strip_prefix(path)?;
        let below = if path == "/" { below } else { below.strip_prefix('/')? };
        below.split('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
    };
    users.iter().filter_map(entry).collect()
}

/// Operations that remove a path in the directory `top` of a unit and everything below it, innermost first; but what was
/// declared before and is held stays, and so does what cannot be brought back, with the directories that they lie in.
fn clear(world: &mut World, (top, unit): (&str, &str), path: &str) -> Result<Vec<Op>, Trouble> {
    let mut todo = vec![path.to_owned()];
    let mut found = Vec::new();
    let mut spared: Vec<String> = Vec::new();
    while let Some(path) = todo.pop() {
        if world.is_spared(unit, &path) {
            spared.push(path);
            continue;
        }
        world.mount_present(&path)?;
        let place = match world.places.entry_on_mount(top, &path) {
            // Gone by now.
            Err(PlaceError::Missing(_) | PlaceError::NotDirectory(_)) => continue,
            other => other?,
        };
        match tree::find(&place)? {
            // What is needed to bring anything back, and what tells of it.
            Found::Directory(stat) if world.is_own(&stat) || world.is_own_run(&stat) => {
                spared.push(path);
                continue;
            }
            Found::Directory(_) => {
                for name in tree::entries(tree::open_directory(&place)?, &path)? {
                    todo.push(join(&path, &name));
                }
            }
            // Nobody could bring it back: a program has it, or has made it.
            Found::Special(_) => {
                spared.push(path);
                continue;
            }
            Found::Nothing | Found::File(..) | Found::Link(_) => {}
        }
        found.push(path);
    }
    let remove = |path: &String| Op::put(path, Put::Purged { top: top.to_owned() }, true, OwnChange::Drop);
    let above = |path: &&String| !spared.iter().any(|s| is_below(s, path));
    Ok(found.iter().filter(above).rev().map(remove).collect())
}
