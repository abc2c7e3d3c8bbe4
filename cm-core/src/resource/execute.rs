//! Carrying compiled steps out: what was there before, and then the change.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use units::kind::Content;

use super::accounts::{Accounts, Database, FILES};
use super::op::{Account, Op, Put, Trouble, Want, What};
use super::staging::Areas;
use super::tree::{self, Touched};
use super::world::World;
use super::{group, line, links, sysctl, user};
use crate::store::disk::now;
use crate::store::record::{LineEdit, member_of};
use crate::store::{Own, Prior, Record};
use crate::sys;

/// Seconds that lckpwdf(3) waits for the lock of the user databases.
const LOCK_SECONDS: u32 = 15;
/// The same of a repair: while it waits, no other repair is made.
const LOCK_SECONDS_OF_REPAIR: u32 = 2;

/// What a thing is before an operation touches it. Contents that will be overwritten are saved in the store.
///
/// # Errors
/// When it cannot be read or saved.
pub fn prior(world: &mut World, op: &Op) -> Result<Prior, Trouble> {
    match &op.what {
        What::Put { path, put, content_changes, .. } => tree::prior(world, path, put, *content_changes),
        What::Text { key, .. } => {
            Ok(Prior::Text(sysctl::read(world, key)?.trim_end_matches('\n').to_owned()))
        }
        // His entry is not what it is about.
        What::Account(_) if member_of(&op.thing).is_some() => Ok(Prior::Untouched),
        What::Account(account) => Ok(entries(world.accounts.sound()?, account)),
        // Edits of lines are told one after the other, by who carries out all of them.
        What::Line(_) | What::Unline(_) | What::Forget | What::Nothing => Ok(Prior::Untouched),
    }
}

/// Lines of the databases that an account operation may change; memberships are `member` lines of their own, so
/// that putting them back leaves other members alone.
fn entries(accounts: &Accounts, account: &Account) -> Prior {
    let name = account.name();
    let is_group = account.is_group();
    let mut out = Vec::new();
    for file in files(is_group) {
        if let Some(line) = accounts.database(file).and_then(|d| d.line(name)) {
            out.push((file.to_owned(), line.to_owned()));
        }
    }
    if !is_group && !out.is_empty() {
        out.extend(accounts.groups_of(name).into_iter().map(|g| ("member".to_owned(), g)));
    }
    Prior::Entries(out)
}

/// The databases in which a group, or a user, has an entry.
const fn files(is_group: bool) -> [&'static str; 2] {
    if is_group { ["group", "gshadow"] } else { ["passwd", "shadow"] }
}

/// Carries one operation out. Facts that only now are known (numbers that are not given again, directories that are
/// gone) are added to `facts`.
///
/// # Errors
/// When it cannot be done; the message says why.
pub fn run(
    world: &mut World,
    areas: &mut Areas,
    op: &Op,
    touched: &mut Touched,
    facts: &mut Vec<Record>,
) -> Result<(), Trouble> {
    match &op.what {
        What::Put { path, put, staged, .. } => tree::put(world, areas, path, put, staged.as_ref(), touched),
        What::Text { key, value } => sysctl::write(world, key, value),
        What::Line(spec) => {
            let old = line::read(world, &spec.path)?;
            match line::edit(old.as_deref(), spec)? {
                Some((text, _)) => rewrite(world, areas, &spec.path, text.as_bytes(), 0o644, None, touched),
                None => Ok(()),
            }
        }
        What::Unline(edit) => unline(world, areas, edit, touched),
        What::Account(Account::GroupOfUser(_)) | What::Nothing => Ok(()),
        What::Account(account) => change_accounts(world, areas, account, touched, facts),
        What::Forget => {
            facts.push(Record::Forgot { unit: op.thing.clone() });
            Ok(())
        }
    }
}

fn unline(
    world: &mut World,
    areas: &mut Areas,
    edit: &LineEdit,
    touched: &mut Touched,
) -> Result<(), Trouble> {
    let current = match line::read(world, &edit.path)? {
        None if !line::makes_file(edit) => return Ok(()),
        current => current.unwrap_or_default(),
    };
    match line::undo(&current, edit) {
        Some(text) => match links::before(world, &edit.path, &text) {
            Some((content, want)) => {
                link_or_rewrite(world, areas, &edit.path, &text, &content, &want, touched)
            }
            None => rewrite(world, areas, &edit.path, text.as_bytes(), 0o644, None, touched),
        },
        None => tree::put(world, areas, &edit.path, &Put::Absent, None, touched),
    }
}

/// Makes a file one of its other names again; where none of them is that file yet, it is written so that they find it.
fn link_or_rewrite(
    world: &mut World,
    areas: &mut Areas,
    path: &str,
    text: &str,
    content: &Content,
    want: &Want,
    touched: &mut Touched,
) -> Result<(), Trouble> {
    let place = tree::make_parents(world, path, touched)?;
    let at = areas.for_directory(world, &place.dir)?;
    let others = world.other_names(path);
    let Some(link) = links::again(world, areas, at, &others, content, want) else {
        return rewrite(world, areas, path, text.as_bytes(), 0o644, want.mtime, touched);
    };
    let Some(area) = areas.get(at) else { return Err(Trouble::NotKept("no staging directory".to_owned())) };
    let renamed = renameat(&area.fd, link.as_str(), &*place.dir, &*place.os());
    // It stays behind where the place is that file already.
    let _ = unlinkat(&area.fd, link.as_str(), UnlinkatFlags::NoRemoveDir);
    touched.unsynced.directory(&place.dir);
    renamed.map_err(|e| Trouble::cannot("write", path, e))
}

/// Replaces a text file by one with the same attributes.
fn rewrite(
    world: &mut World,
    areas: &mut Areas,
    path: &str,
    text: &[u8],
    mode: u32,
    mtime: Option<(i64, i64)>,
    touched: &mut Touched,
) -> Result<(), Trouble> {
    let place = tree::make_parents(world, path, touched)?;
    let area = areas.for_directory(world, &place.dir)?;
    let name = areas.name();
    let Some(area) = areas.get(area) else { return Err(Trouble::NotKept("no staging directory".to_owned())) };
    let failed = |e| Trouble::cannot("write", path, e);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&area.fd, name.as_str(), flags, Mode::from_bits_truncate(0o600)).map_err(failed)?;
    let mut file = File::from(fd);
    let want = match place.stat() {
        Ok(None) => Want { mode: Some(mode), mtime, ..Want::default() },
        _ => Want { mtime, ..Want::default() },
    };
    let done = (file.write_all(text))
        .and_then(|()| file.flush())
        .map_err(|e| Trouble::io("write", path, &e))
        .and_then(|()| tree::dress(world, &file, path, &want))
        .and_then(|()| file.sync_all().map_err(|e| Trouble::io("sync", path, &e)))
        .and_then(|()| renameat(&area.fd, name.as_str(), &*place.dir, &*place.os()).map_err(failed));
    if done.is_err() {
        let _ = unlinkat(&area.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
        return done;
    }
    touched.unsynced.directory(&place.dir);
    Ok(())
}

/// Changes the user databases under their lock.
fn change_accounts(
    world: &mut World,
    areas: &mut Areas,
    account: &Account,
    touched: &mut Touched,
    facts: &mut Vec<Record>,
) -> Result<(), Trouble> {
    let lock_path = world.outside("/etc/.pwd.lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(|e| Trouble::io("open", &lock_path.to_string_lossy(), &e))?;
    let patience = if world.repairs { LOCK_SECONDS_OF_REPAIR } else { LOCK_SECONDS };
    sys::interrupt_after(patience);
    let locked = sys::lock_record(&lock);
    sys::interrupt_after(0);
    locked.map_err(|_| {
        Trouble::NotKept(format!("somebody has held {} for {patience} s", lock_path.display()))
    })?;
    world.read_accounts();
    let before = world.accounts.sound()?.clone();
    let mut after = before.clone();
    let mut retired = world.store.as_ref().map(|s| s.index().retired.clone()).unwrap_or_default();
    // Nor is a number given to anybody who comes in the same batch.
    retired.extend(facts.iter().filter_map(|fact| match fact {
        Record::Retired { group, id, name } => Some(((*group, *id), name.clone())),
        _ => None,
    }));
    match account {
        Account::User { spec, password, leave } => {
            user::apply(&mut after, spec, *password, &retired, now() / 86_400)?;
            user::leave(&mut after, &spec.name, leave);
        }
        Account::Group(spec) => group::apply(&mut after, spec, &retired)?,
        Account::Leave { name, leave } => user::leave(&mut after, name, leave),
        Account::Lock { name, leave } => {
            user::lock(&mut after, name);
            user::leave(&mut after, name, leave);
        }
        Account::RemoveUser(name) => user::remove(&mut after, name),
        Account::RemoveGroup(name) => {
            if let Err(user) = group::remove(&mut after, name) {
                // It stays with him, and goes with him.
                let own = Own { unit: format!("user:{user}"), created: true, digest: None, fs: 0 };
                facts.push(Record::Own { thing: format!("group:{name}"), own });
                touched.stays = Some(group::stays(&user));
            }
        }
        Account::RemoveGroupOfUser(name) => {
            if after.group.field(name, 3).is_none_or(str::is_empty) {
                let _ = group::remove(&mut after, name);
            }
        }
        Account::GroupOfUser(_) => {}
        Account::Restore { group: is_group, name, entries } => {
            // Meanwhile its number may have been given to somebody else, who may be about to have his own again.
            let numbers = if *is_group { &after.group } else { &after.passwd };
            let line = entries.iter().find(|(file, _)| file == files(*is_group)[0]).map(|(_, line)| line);
            let number = line.and_then(|line| line.split(':').nth(2)?.parse::<u32>().ok());
            let stays = |(other, id): (&str, u32)| Some(id) == number && !world.expected.has(other);
            if numbers.numbers().any(stays) {
                group::number(&after, *is_group, name, number, false, &retired)?;
            }
            put_back(&mut after, *is_group, name, entries);
        }
    }
    // Files may be left that have the number: nobody else gets it, also of who has another one now, or is locked.
    let (is_group, name) = (account.is_group(), account.name());
    let number = |accounts: &Accounts| {
        let database = if is_group { &accounts.group } else { &accounts.passwd };
        database.field(name, 2).and_then(|id| id.parse::<u32>().ok())
    };
    let is_left = matches!(account, Account::Lock { .. }) || number(&before) != number(&after);
    facts.extend(number(&before).filter(|_| is_left).map(|id| Record::Retired {
        group: is_group,
        id,
        name: name.to_owned(),
    }));
    for file in FILES {
        let new = after.database(file).map(Database::bytes).unwrap_or_default();
        if before.database(file) != after.database(file) {
            let mode = if matches!(file, "shadow" | "gshadow") { 0o640 } else { 0o644 };
            rewrite(world, areas, &format!("/etc/{file}"), &new, mode, None, touched)?;
        }
    }
    world.accounts = after.into();
    Ok(())
}

fn put_back(accounts: &mut Accounts, is_group: bool, name: &str, entries: &[(String, String)]) {
    for file in files(is_group) {
        let Some(database) = accounts.database_mut(file) else { continue };
        match entries.iter().find(|(f, _)| f == file) {
            Some((_, line)) => database.put(name, line.clone()),
            None => database.remove(name),
        }
    }
    if !is_group {
        let was: Vec<&str> = entries.iter().filter(|(f, _)| f == "member").map(|(_, g)| g.as_str()).collect();
        for group in accounts.named_in(name) {
            if !was.contains(&group.as_str()) {
                accounts.set_member(&group, name, false);
            }
        }
        for group in was {
            accounts.set_member(group, name, true);
        }
    }
}
