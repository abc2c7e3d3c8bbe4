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

/// Removes the entry; whoever has it as the primary group keeps it.
///
/// # Errors
/// When somebody has it as the primary group.
pub fn remove(accounts: &mut Accounts, name: &str) -> Result<Option<u32>, Trouble> {
    let Some(gid) = accounts.group.field(name, 2).and_then(|f| f.parse::<u32>().ok()) else {
        // A loss of power may have left what is written first (`FILES`).
        accounts.gshadow.remove(name);
        return Ok(None);
    };
    let member = accounts.passwd.names().find(|u| accounts.passwd.field(u, 3) == Some(&gid.to_string()));
    if let Some(user) = member {
        return Err(Trouble::NotKept(format!("it is the primary group of {user}")));
    }
    accounts.group.remove(name);
    accounts.gshadow.remove(name);
    Ok(Some(gid))
}
