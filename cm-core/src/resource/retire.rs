//! Units that are no longer declared: purged if Holdfast made them, left if it did not (semantics §6); and units
//! that are not declared in the generation that is returned to: put back as they were.

use units::kind::Spec;
use units::kind::line::Line;
use units::manifest::flags;

use super::op::{Account, Op, OwnChange, Put, Trouble, Want, What};
use super::place::{is_below, split};
use super::tree::{self, Found};
use super::world::World;
use super::{hostname, thing, user};
use crate::proto::Outcome;
use crate::store::index::{PARENT, Undo};
use crate::store::record::{member_of, path_of_names};
use crate::store::{Own, Prior};
use crate::sys;

/// Attributes of a directory that was made to mount something there, or on the way to that: the first that could be given,
/// for only root of the machine gives the one.
pub const MADE: [&str; 2] = ["trusted.holdfast.made", "user.holdfast.made"];

/// How a unit leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// What is done.
    pub ops: Vec<Op>,
    /// What comes of it, if that works.
    pub outcome: Outcome,
    /// Why it is left.
    pub detail: String,
}

impl Leaving {
    fn left(thing: Option<String>, detail: &str) -> Leaving {
        let ops = thing.map(|thing| Op { thing, what: What::Nothing, own: OwnChange::Drop });
        Leaving { ops: ops.into_iter().collect(), outcome: Outcome::Left, detail: detail.to_owned() }
    }

    fn removed(what: What, thing: String) -> Leaving {
        let op = Op { thing, what, own: OwnChange::Drop };
        Leaving { ops: vec![op], outcome: Outcome::Removed, detail: String::new() }
    }
}

fn owner(world: &World, thing: &str) -> Option<Own> {
    world.store.as_ref()?.index().own.get(thing).cloned()
}

/// What becomes of a unit that is no longer declared.
///
/// # Errors
/// When the mount that it lies below is not there, or it cannot be looked at.
pub fn remove(world: &mut World, spec: &Spec, unit: &str, unit_flags: u8) -> Result<Leaving, Trouble> {
    if let Spec::Exec(_) = spec {
        return Ok(Leaving::removed(What::Forget, unit.to_owned()));
    }
    let name = thing(spec).unwrap_or_else(|| unit.to_owned());
    let Some(own) = owner(world, &name) else {
        return Ok(Leaving::left(None, "it was never changed"));
    };
    if own.unit != unit {
        return Ok(Leaving::left(None, &format!("it belongs to {} now", own.unit)));
    }
    let (user_name, groups) = match spec {
        Spec::User(spec) => (spec.name.as_str(), user::memberships(world, &spec.name, unit)),
        _ => ("", Vec::new()),
    };
    let given_up = groups.iter().map(|group| user::membership(group, user_name, OwnChange::Drop));
    let given_up: Vec<Op> = given_up.collect();
    let mut leaving = leave(world, spec, name, &own, unit_flags, groups)?;
    leaving.ops.extend(given_up);
    Ok(leaving)
}

/// The same of what is the unit's. `groups` are those that it has put its user in.
fn leave(
    world: &mut World,
    spec: &Spec,
    name: String,
    own: &Own,
    unit_flags: u8,
    groups: Vec<String>,
) -> Result<Leaving, Trouble> {
    if unit_flags & flags::KEEP_ON_REMOVAL != 0 {
        return Ok(Leaving::left(Some(name), "its declaration said to keep it"));
    }
    if !own.created {
        let mut leaving = Leaving::left(Some(name), "it was there before it was declared");
        if let (Spec::User(user), false) = (spec, groups.is_empty()) {
            leaving.detail += &format!("; it leaves group {}", groups.join(", "));
            let account = Account::Leave { name: user.name.clone(), leave: groups };
            leaving.ops.iter_mut().for_each(|op| op.what = What::Account(account.clone()));
        }
        return Ok(leaving);
    }
    match spec {
        Spec::File(file) => remove_path(world, &name, own, file.content.map(|c| c.size)),
        Spec::Directory(_) | Spec::Symlink(_) => remove_path(world, &name, own, None),
        Spec::Line(line) if line.present => {
            // A file that is not there has no such line either, and nobody would ever take it out.
            world.mount_present(&line.path)?;
            let gone = Line { present: false, matches: None, ..line.clone() };
            Ok(Leaving::removed(What::Line(gone), name))
        }
        Spec::User(user) if user.purge => {
            let mut leaving = Leaving::removed(What::Account(Account::RemoveUser(user.name.clone())), name);
            leaving.ops.extend(user::groups_of_his(world, &user.name, &own.unit).into_iter().map(|group| {
                Op {
                    thing: format!("group:{group}"),
                    what: What::Account(Account::RemoveGroupOfUser(group)),
                    own: OwnChange::Drop,
                }
            }));
            Ok(leaving)
        }
        Spec::User(user) => {
            let account = Account::Lock { name: user.name.clone(), leave: groups };
            let mut leaving = Leaving::removed(What::Account(account), name);
            leaving.detail = user::LOCKED.to_owned();
            Ok(leaving)
        }
        Spec::Group(group) => {
            Ok(Leaving::removed(What::Account(Account::RemoveGroup(group.name.clone())), name))
        }
        _ => Ok(Leaving::left(Some(name), "its value stays")),
    }
}

/// `size` is that of the declared content.
fn remove_path(world: &mut World, path: &str, own: &Own, size: Option<u64>) -> Result<Leaving, Trouble> {
    world.mount_present(path)?;
    let place = match world.places.entry(path) {
        Ok(place) => place,
        Err(_) => return Ok(Leaving::removed(What::Nothing, path.to_owned())),
    };
    if own.fs != 0 && file_system(&place.dir) != own.fs {
        return Ok(Leaving::left(None, "another file system is mounted there"));
    }
    if place.is_mount().map_err(|e| Trouble::cannot("open", path, e))? {
        return Ok(Leaving::left(None, &format!("a file system is mounted at {path}")));
    }
    let mut leaving = Leaving { ops: Vec::new(), outcome: Outcome::Removed, detail: String::new() };
    match tree::find(&place)? {
        Found::File(mut file, stat) => {
            // What has another length is not read: somebody may have made it very large.
            let same = match own.digest {
                Some(_) if size.is_some() && u64::try_from(stat.st_size).ok() != size => false,
                Some(digest) => {
                    world.digest(&mut file).map_err(|e| Trouble::io("read", path, &e))?.0 == digest
                }
                None => true,
            };
            if !same {
                leaving.detail = "it had been changed; that version is in the history".to_owned();
            }
        }
        Found::Special(what) => {
            return Ok(Leaving::left(Some(path.to_owned()), &format!("it is a {what} now")));
        }
        Found::Nothing | Found::Directory(_) | Found::Link(_) => {}
    }
    leaving.ops.push(Op::put(path, Put::Absent, true, OwnChange::Drop));
    // They were made, and are owned, under the names that links on the way lead to.
    leaving.ops.extend(parents(world, &place.path()));
    Ok(leaving)
}

/// Number of the file system of an open directory.
pub fn file_system(dir: &super::place::Dir) -> u64 {
    nix::sys::statfs::fstatfs(dir).map_or(0, |s| {
        // FNV-1a: it is kept in the store, so that it has to be the same in every version of this program.
        let bytes = format!("{:?}", s.filesystem_id());
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
    })
}

/// Directories above a path that were made on the way to something, innermost first; they go when they are empty.
fn parents(world: &World, path: &str) -> Vec<Op> {
    let mut out = Vec::new();
    let mut path = path;
    while let Some((directory, _)) = split(path) {
        let ours = match owner(world, directory) {
            Some(own) => own.unit == PARENT && own.created,
            None => made_for_mount(world, directory),
        };
        if !ours {
            break;
        }
        out.push(Op::put(directory, Put::Absent, false, OwnChange::Drop));
        path = directory;
    }
    out
}

/// Whether a directory was made on the way to a mount point, which may have gone before what else came in there.
fn made_for_mount(world: &World, directory: &str) -> bool {
    let open = std::fs::File::open(world.outside(directory));
    open.is_ok_and(|d| MADE.iter().any(|name| matches!(sys::xattr(&d, name), Ok(Some(_)))))
}

/// Puts a unit back as it was in a generation in which it is not declared.
///
/// # Errors
/// When it cannot be looked at.
pub fn restore(world: &mut World, unit: &str, generation: u64) -> Result<Leaving, Trouble> {
    let undo = world
        .store
        .as_ref()
        .map(|s| s.index().undo_to(unit, generation, &world.first_touches))
        .unwrap_or_default();
    if undo.is_empty() {
        return Ok(Leaving::left(None, "nothing of it was changed since"));
    }
    let outcome = if undo.iter().any(was_there) { Outcome::Changed } else { Outcome::Removed };
    let mut leaving = Leaving { ops: Vec::new(), outcome, detail: String::new() };
    // Directories that were made on the way go last, when what was in them is gone.
    let holds = |dir: &str| undo.iter().any(|u| u.thing != dir && is_below(&u.thing, dir));
    let made = |u: &&Undo| {
        let is_parent = |o: Own| o.unit == PARENT;
        u.prior == Prior::Absent && (owner(world, &u.thing).is_some_and(is_parent) || holds(&u.thing))
    };
    let (mut on_the_way, things): (Vec<&Undo>, Vec<&Undo>) = undo.iter().partition(made);
    on_the_way.sort_by_key(|u| std::cmp::Reverse(u.thing.len()));
    for entry in things.into_iter().chain(on_the_way) {
        leaving.ops.extend(put_back(world, unit, entry)?);
    }
    // Of one who never came to be a part may be there all the same, in another file.
    let stays = |op: &Op| {
        matches!(&op.what, What::Account(Account::Lock { name, .. })
        if world.accounts.passwd.line(name).is_some())
    };
    if leaving.ops.iter().any(stays) {
        leaving.detail = user::LOCKED.to_owned();
    }
    Ok(leaving)
}

/// Whether something was there that is put back.
pub fn was_there(undo: &Undo) -> bool {
    match &undo.prior {
        Prior::File { .. }
        | Prior::Linked { .. }
        | Prior::Attributes(_)
        | Prior::Directory(_)
        | Prior::Symlink { .. }
        | Prior::Text(_) => true,
        Prior::Entries(entries) => !entries.is_empty(),
        Prior::Edit(edit) => !edit.removed.is_empty(),
        Prior::Absent | Prior::Untouched | Prior::Special | Prior::Large { .. } => false,
    }
}

/// Operations of a unit that bring one thing back to what it was.
///
/// # Errors
/// When it cannot be looked at.
pub fn put_back(world: &mut World, unit: &str, undo: &Undo) -> Result<Vec<Op>, Trouble> {
    let path = undo.thing.as_str();
    let own = OwnChange::Back(undo.own.clone());
    let op = |what| Op { thing: undo.thing.clone(), what, own: own.clone() };
    // What it was is used when the edits of that file are turned round.
    if path_of_names(path).is_some() {
        return Ok(Vec::new());
    }
    match &undo.prior {
        Prior::Edit(edit) => world.mount_present(&edit.path)?,
        _ if path.starts_with('/') => world.mount_present(path)?,
        _ => {}
    }
    let mut ops = Vec::new();
    match &undo.prior {
        Prior::Absent if owner(world, path).is_some_and(|o| o.unit != unit && o.unit != PARENT) => {
            // Who has it now stays, or takes it away himself; but a directory that was made on the way may still have the
            // place of a file to which it was to be left when the power went.
            let owner = owner(world, path).filter(|o| !o.unit.starts_with("directory:"));
            let found = world.places.entry(path).ok().and_then(|place| tree::find(&place).ok());
            if let (Some(owner), Some(Found::Directory(_))) = (owner, found) {
                ops.push(Op::put(path, Put::Absent, true, OwnChange::Back(Some(owner))));
            }
        }
        Prior::Absent => {
            ops.push(Op::put(path, Put::Absent, true, own));
            let real = world.places.entry(path).map_or_else(|_| path.to_owned(), |place| place.path());
            ops.extend(parents(world, &real));
        }
        Prior::File { digest, size, metadata } | Prior::Linked { digest, size, metadata, .. } => {
            let others = world.other_names(path);
            let same = match world.places.entry(path).map(|p| tree::find(&p)) {
                Ok(Ok(Found::File(mut file, stat))) if u64::try_from(stat.st_size).ok() == Some(*size) => {
                    world.digest(&mut file).is_ok_and(|(d, _)| d == *digest)
                }
                _ => false,
            };
            let content = (!same).then_some(units::kind::Content { digest: *digest, size: *size });
            let put = Put::File { content, want: Want::exactly(metadata, true), others };
            ops.push(Op::put(path, put, !same, own));
        }
        Prior::Attributes(metadata) => {
            let there = world.places.entry(path).is_ok_and(|p| matches!(tree::find(&p), Ok(Found::File(..))));
            if there {
                let put =
                    Put::File { content: None, want: Want::exactly(metadata, false), others: Vec::new() };
                ops.push(Op::put(path, put, false, own));
            } else {
                ops.push(op(What::Nothing));
            }
        }
        Prior::Directory(metadata) => {
            let put = Put::Directory { want: Want::exactly(metadata, false), over_link: true };
            ops.push(Op::put(path, put, false, own));
        }
        Prior::Symlink { target, uid, gid, mtime } => {
            let put = Put::Symlink {
                target: target.clone(),
                owner: Some(uid.to_string()),
                group: Some(gid.to_string()),
                mtime: Some(*mtime),
            };
            ops.push(Op::put(path, put, true, own));
        }
        Prior::Text(value) => {
            let key = path.strip_prefix("sysctl:").unwrap_or(hostname::KEY).to_owned();
            ops.push(op(What::Text { key, value: value.clone() }));
        }
        Prior::Entries(entries) => {
            let (group, name) = match path.strip_prefix("group:") {
                Some(name) => (true, name),
                None => (false, path.strip_prefix("user:").unwrap_or(path)),
            };
            let of_user = group.then(|| unit.strip_prefix("user:")).flatten();
            // He stays, locked, and so does what came with him.
            let stays = of_user.is_some_and(|user| world.accounts.passwd.line(user).is_some());
            if entries.is_empty() && stays {
                return Ok(ops);
            }
            let name = name.to_owned();
            ops.push(op(What::Account(match (entries.is_empty(), group) {
                (true, true) if of_user.is_some() => Account::RemoveGroupOfUser(name),
                (true, true) => Account::RemoveGroup(name),
                (true, false) => {
                    let leave = user::memberships(world, &name, unit);
                    Account::Lock { name, leave }
                }
                (false, _) => Account::Restore { group, name, entries: entries.clone() },
            })));
        }
        Prior::Edit(edit) => ops.push(op(What::Unline(edit.clone()))),
        Prior::Untouched | Prior::Special | Prior::Large { .. } => ops.push(op(match member_of(path) {
            // Whoever was to take him out has given that up before it was done, and died.
            Some((group, name)) if undo.own.is_none() => {
                What::Account(Account::Leave { name: name.to_owned(), leave: vec![group.to_owned()] })
            }
            _ => What::Nothing,
        })),
    }
    Ok(ops)
}
