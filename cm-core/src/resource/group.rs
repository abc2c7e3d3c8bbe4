//! `group`: an entry of the group database.

use std::collections::BTreeMap;

use units::kind::group::Group;

use super::Context;
use super::accounts::Accounts;
use super::op::{Account, Finding, Op, OwnChange, Trouble, What};
use super::world::World;

/// What is wrong with a group, and what would make it right.
///
/// # Errors
/// When the databases cannot be read.
pub fn check(world: &mut World, spec: &Group, _: &Context) -> Result<Finding, Trouble> {
    let mut finding = Finding::default();
    match world.accounts.sound()?.group.field(&spec.name, 2) {
        None => finding.wrong.push("missing".to_owned()),
        Some(gid) => {
            if let Some(want) = spec.gid
                && gid != want.to_string()
            {
                finding.wrong.push(format!("gid {gid}, should be {want}"));
            }
        }
    }
    if !finding.wrong.is_empty() {
        let what = What::Account(Account::Group(spec.clone()));
        let thing = format!("group:{}", spec.name);
        finding.ops.push(Op { thing, what, own: OwnChange::Take { digest: None } });
    }
    Ok(finding)
}

/// Makes the entry as declared.
///
/// # Errors
/// When its number is somebody else's, or none is free.
pub fn apply(
    accounts: &mut Accounts,
    spec: &Group,
    retired: &BTreeMap<(bool, u32), String>,
) -> Result<(), Trouble> {
    let old = accounts.group.field(&spec.name, 2).and_then(|f| f.parse().ok());
    let gid = number(accounts, true, &spec.name, spec.gid.or(old), spec.system, retired)?;
    if accounts.group.line(&spec.name).is_some() {
        accounts.group.set_field(&spec.name, 2, &gid.to_string());
    } else {
        accounts.group.put(&spec.name, format!("{}:x:{gid}:", spec.name));
    }
    if accounts.gshadow.line(&spec.name).is_none() && accounts.gshadow.names().next().is_some() {
        accounts.gshadow.put(&spec.name, format!("{}:!::", spec.name));
    }
    Ok(())
}

/// The number that an entry gets: the wanted one if nobody else has it, else a free one.
///
/// # Errors
/// When it is somebody else's, or none is free.
pub fn number(
    accounts: &Accounts,
    group: bool,
    name: &str,
    want: Option<u32>,
    system: bool,
    retired: &BTreeMap<(bool, u32), String>,
) -> Result<u32, Trouble> {
    let database = if group { &accounts.group } else { &accounts.passwd };
    let word = if group { "gid" } else { "uid" };
    let Some(want) = want else {
        // Who comes back gets his own number, and with it his files.
        let before = retired.iter().find(|((g, _), n)| *g == group && *n == name).map(|((_, id), _)| *id);
        let unused = |id: &u32| database.numbers().all(|(_, n)| n != *id);
        return before
            .filter(unused)
            .or_else(|| accounts.free(group, system, retired))
            .ok_or_else(|| Trouble::NotKept(format!("no {word} is free for {name}")));
    };
    if let Some((other, _)) = database.numbers().find(|(n, id)| *id == want && *n != name) {
        return Err(Trouble::NotKept(format!("{word} {want} belongs to {other}")));
    }
    Ok(want)
}

/// Users who have this as their primary group.
pub fn primary_of<'a>(accounts: &'a Accounts, name: &str) -> impl Iterator<Item = &'a str> {
    let gid = accounts.group.field(name, 2).filter(|gid| gid.parse::<u32>().is_ok()).map(str::to_owned);
    let has = move |user: &&str| gid.is_some() && accounts.passwd.field(user, 3) == gid.as_deref();
    accounts.passwd.names().filter(has)
}

/// Why a group is not removed.
pub fn stays(user: &str) -> String {
    format!("it is the primary group of {user}, and stays")
}

/// Removes the entry.
///
/// # Errors
/// Who has it as the primary group, so that it stays: without an entry his group would be a bare number, which whoever gets
/// it next would share with him.
pub fn remove(accounts: &mut Accounts, name: &str) -> Result<(), String> {
    if let Some(user) = primary_of(accounts, name).next() {
        return Err(user.to_owned());
    }
    // A loss of power may have left only one of them (`FILES`).
    accounts.group.remove(name);
    accounts.gshadow.remove(name);
    Ok(())
}
