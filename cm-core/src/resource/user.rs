//! `user`: an entry of the user database. Only the declared fields are owned.

use std::collections::BTreeMap;

use units::kind::user::User;

use super::Context;
use super::accounts::{Accounts, members};
use super::group;
use super::op::{Account, Finding, Op, OwnChange, Put, Trouble, Want, What};
use super::tree::{self, Found};
use super::world::World;
use crate::store::record;

/// What is told of a user who goes and is not purged.
pub const LOCKED: &str = "locked; its number is not given again";

/// Shell of a user who declares none.
fn shell(spec: &User) -> &str {
    spec.shell.as_deref().unwrap_or(if spec.system { "/usr/sbin/nologin" } else { "/bin/sh" })
}

/// What is wrong with a user, and what would make it right.
///
/// # Errors
/// When the home directory cannot be looked at.
pub fn check(world: &mut World, spec: &User, context: &Context) -> Result<Finding, Trouble> {
    let mut finding = Finding::default();
    let name = spec.name.as_str();
    let mut password = false;
    world.accounts.sound()?;
    let is_in =
        |group: &&String| world.accounts.group.field(group, 3).is_some_and(|f| members(f).contains(&name));
    let joins: Vec<String> = spec.groups.iter().filter(|group| !is_in(group)).cloned().collect();
    let mut leave = memberships(world, name, &context.unit);
    leave.retain(|group| !spec.groups.contains(group));
    match world.accounts.passwd.fields(name) {
        None => {
            finding.wrong.push("missing".to_owned());
            password = true;
        }
        Some(fields) => {
            let field = |i: usize| fields.get(i).copied().unwrap_or_default();
            let gid = spec
                .group
                .as_deref()
                .map(|g| world.accounts.gid(g).map_or_else(|| g.to_owned(), |n| n.to_string()))
                .or_else(|| renumbered(&world.accounts, spec).map(|gid| gid.to_string()));
            for (word, index, want) in [
                ("uid", 2, spec.uid.map(|u| u.to_string())),
                ("primary group", 3, gid),
                ("comment", 4, spec.comment.clone()),
                ("home", 5, spec.home.clone()),
                ("shell", 6, spec.shell.clone()),
            ] {
                if let Some(want) = want
                    && field(index) != want
                {
                    finding.wrong.push(format!("{word} {}, should be {want}", field(index)));
                }
            }
            let missing = joins.iter().map(|group| format!("is not in group {group}"));
            let not_declared = |group| format!("is in group {group}, which is not declared any more");
            finding.wrong.extend(missing.chain(leave.iter().map(not_declared)));
            let hash = world.accounts.shadow.field(name, 1).or_else(|| fields.get(1).copied());
            if let Some(want) = &spec.password_hash
                && hash.is_some_and(|h| h != want)
            {
                // People change their passwords: that is theirs to do, except when a generation says so.
                if context.correct {
                    finding.reported.push("password hash differs".to_owned());
                } else {
                    finding.wrong.push("password hash differs".to_owned());
                    password = true;
                }
            }
            if is_locked_by_us(world, name) {
                finding.wrong.push("is locked".to_owned());
                password = true;
            }
        }
    }
    if !finding.wrong.is_empty() {
        let changes = [(&joins, OwnChange::Take { digest: None }), (&leave, OwnChange::Drop)];
        let changes: Vec<Op> = (changes.into_iter())
            .flat_map(|(groups, own)| groups.iter().map(move |g| membership(g, name, own.clone())))
            .collect();
        let what = What::Account(Account::User { spec: Box::new(spec.clone()), password, leave });
        let thing = format!("user:{name}");
        finding.ops.push(Op { thing, what, own: OwnChange::Take { digest: None } });
        finding.ops.extend(changes);
        let is_new = world.accounts.passwd.line(name).is_none() && world.accounts.group.line(name).is_none();
        if is_new && spec.group.is_none() {
            finding.ops.push(Op {
                thing: format!("group:{name}"),
                what: What::Account(Account::GroupOfUser(name.to_owned())),
                own: OwnChange::Take { digest: None },
            });
        }
    }
    if spec.create_home {
        let path = world
            .accounts
            .passwd
            .field(name, 5)
            .map_or_else(|| spec.home_directory().into_owned(), str::to_owned);
        world.mount_present(&path)?;
        let there = match world.places.entry(&path) {
            Ok(place) => !matches!(tree::find(&place)?, Found::Nothing),
            Err(_) => false,
        };
        if !there {
            finding.wrong.push(format!("home directory {path} is missing"));
            let want = Want {
                mode: Some(0o700),
                owner: Some(name.to_owned()),
                group: Some(spec.group.clone().unwrap_or_else(|| name.to_owned())),
                ..Want::default()
            };
            let put = Put::Directory { want, over_link: false };
            finding.ops.push(Op::put(&path, put, false, OwnChange::Take { digest: None }));
        }
    }
    Ok(finding)
}

/// Groups that a unit has put its user in, and that he still is in.
pub fn memberships(world: &World, name: &str, unit: &str) -> Vec<String> {
    let Some(store) = &world.store else { return Vec::new() };
    let own = |group: &String| store.index().own.get(&record::membership(group, name));
    let mut groups = world.accounts.named_in(name);
    groups.retain(|group| own(group).is_some_and(|own| own.unit == unit));
    groups
}

/// What becomes of the ownership of a membership.
pub fn membership(group: &str, name: &str, own: OwnChange) -> Op {
    Op { thing: record::membership(group, name), what: What::Nothing, own }
}

/// Takes a user out of groups.
pub fn leave(accounts: &mut Accounts, name: &str, groups: &[String]) {
    for group in groups {
        accounts.set_member(group, name, false);
    }
}

/// Makes the entry as declared. `days` is today, in days since 1970, for the shadow database.
///
/// # Errors
/// When a number is somebody else's, or a group does not exist.
pub fn apply(
    accounts: &mut Accounts,
    spec: &User,
    password: bool,
    retired: &BTreeMap<(bool, u32), String>,
    days: u64,
) -> Result<(), Trouble> {
    let name = spec.name.as_str();
    let old = accounts.passwd.field(name, 2).and_then(|f| f.parse().ok());
    let uid = group::number(accounts, false, name, spec.uid.or(old), spec.system, retired)?;
    let is_new = accounts.passwd.line(name).is_none();
    if is_new {
        let gid = match &spec.group {
            Some(who) => accounts.gid(who).ok_or_else(|| no_group(who))?,
            None => match accounts.gid(name) {
                Some(gid) => gid,
                None => {
                    let free = accounts.group.numbers().all(|(_, n)| n != uid)
                        && !retired.contains_key(&(true, uid));
                    let gid = free.then_some(uid);
                    let own = units::kind::group::Group { name: name.to_owned(), gid, system: spec.system };
                    group::apply(accounts, &own, retired)?;
                    accounts.gid(name).ok_or_else(|| no_group(name))?
                }
            },
        };
        let comment = spec.comment.as_deref().unwrap_or_default();
        let secret = if accounts.shadow.names().next().is_some() { "x" } else { "*" };
        let line = format!("{name}:{secret}:{uid}:{gid}:{comment}:{}:{}", spec.home_directory(), shell(spec));
        accounts.passwd.put(name, line);
        if accounts.shadow.line(name).is_none() && secret == "x" {
            accounts.shadow.put(name, format!("{name}:!:{days}:0:99999:7:::"));
        }
    } else {
        accounts.passwd.set_field(name, 2, &uid.to_string());
        let gid = match &spec.group {
            Some(who) => Some(accounts.gid(who).ok_or_else(|| no_group(who))?),
            None => renumbered(accounts, spec),
        };
        if let Some(gid) = gid {
            accounts.passwd.set_field(name, 3, &gid.to_string());
        }
        for (index, value) in [(4, &spec.comment), (5, &spec.home), (6, &spec.shell)] {
            if let Some(value) = value {
                accounts.passwd.set_field(name, index, value);
            }
        }
        if password && is_locked(accounts, name) {
            accounts.shadow.set_field(name, 7, "");
            if spec.shell.is_none() {
                accounts.passwd.set_field(name, 6, shell(spec));
            }
        }
    }
    if password && let Some(hash) = &spec.password_hash {
        if accounts.shadow.names().next().is_none() {
            accounts.passwd.set_field(name, 1, hash);
        } else {
            if accounts.shadow.line(name).is_none() {
                accounts.shadow.put(name, format!("{name}:!:{days}:0:99999:7:::"));
                accounts.passwd.set_field(name, 1, "x");
            }
            accounts.shadow.set_field(name, 1, hash);
        }
    }
    for group in &spec.groups {
        if accounts.group.line(group).is_none() {
            return Err(no_group(group));
        }
        accounts.set_member(group, name, true);
    }
    Ok(())
}

/// The number of the group of his own where that has another one than when he was made: his primary group is nobody's number
/// then.
fn renumbered(accounts: &Accounts, spec: &User) -> Option<u32> {
    let own = spec.group.is_none().then(|| accounts.gid(&spec.name)).flatten()?;
    let gid = accounts.passwd.field(&spec.name, 3)?.parse::<u32>().ok()?;
    accounts.group.numbers().all(|(_, n)| n != gid).then_some(own)
}

fn no_group(who: &str) -> Trouble {
    Trouble::NotKept(format!("group {who} does not exist"))
}

/// Whether [`lock`] was done to a user: expired on the first day, whatever the password.
fn is_locked(accounts: &Accounts, name: &str) -> bool {
    accounts.shadow.field(name, 7) == Some("1")
}

/// Whether a user is one of ours that was not declared for a while: who declares him again has made him, too.
pub fn is_locked_by_us(world: &World, name: &str) -> bool {
    let retired = |s: &crate::store::Store| s.index().retired.iter().any(|((g, _), n)| !*g && n == name);
    is_locked(&world.accounts, name) && world.store.as_ref().is_some_and(retired)
}

/// Nobody can log in as this user any more: no password, no shell, expired. The entry stays, so that files do not
/// fall to the next who gets the number.
pub fn lock(accounts: &mut Accounts, name: &str) {
    if accounts.passwd.line(name).is_none() {
        // A loss of power may have left what is written before him (`FILES`): his password, for whoever gets the name.
        accounts.shadow.remove(name);
        return;
    }
    if let Some(hash) = accounts.shadow.field(name, 1).filter(|h| !h.starts_with('!')) {
        let locked = format!("!{hash}");
        accounts.shadow.set_field(name, 1, &locked);
    }
    accounts.shadow.set_field(name, 7, "1");
    accounts.passwd.set_field(name, 6, "/usr/sbin/nologin");
}

/// Removes a user with his memberships.
pub fn remove(accounts: &mut Accounts, name: &str) {
    accounts.passwd.remove(name);
    accounts.shadow.remove(name);
    for group in accounts.named_in(name) {
        accounts.set_member(&group, name, false);
    }
}

/// Groups that came with a user or are left for his sake, so that they go with him: the one of his name, and his primary one.
pub fn groups_of_his(world: &World, name: &str, unit: &str) -> Vec<String> {
    let accounts = &world.accounts;
    let gid = accounts.passwd.field(name, 3).and_then(|gid| gid.parse::<u32>().ok());
    let primary = accounts.group.numbers().find(|(_, id)| Some(*id) == gid).map(|(group, _)| group);
    let own = |group: &str| world.store.as_ref()?.index().own.get(&format!("group:{group}"));
    let his = |group: &&str| own(group).is_some_and(|own| own.created && own.unit == unit);
    let other = primary.filter(|group| *group != name);
    [Some(name), other].into_iter().flatten().filter(his).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::accounts::Database;

    fn base() -> Accounts {
        Accounts {
            passwd: Database::parse("root:x:0:0:root:/root:/bin/bash\n# mine\n"),
            group: Database::parse("root:x:0:\nadm:x:4:x\n"),
            shadow: Database::parse("root:*:1:0:99999:7:::\n"),
            gshadow: Database::parse("root:*::\nadm:*::x\n"),
        }
    }

    fn bob() -> User {
        User {
            name: "bob".into(),
            uid: None,
            group: None,
            groups: vec!["adm".into()],
            home: None,
            shell: Some("/bin/bash".into()),
            comment: None,
            password_hash: Some("$6$x".into()),
            system: false,
            create_home: false,
            purge: false,
        }
    }

    #[test]
    fn a_user_comes_and_is_locked_and_goes() {
        let mut a = base();
        let none = BTreeMap::new();
        apply(&mut a, &bob(), true, &none, 20_000).unwrap();
        assert_eq!(a.passwd.line("bob"), Some("bob:x:1000:1000::/home/bob:/bin/bash"));
        assert_eq!(a.shadow.line("bob"), Some("bob:$6$x:20000:0:99999:7:::"));
        assert_eq!(a.group.text(), "root:x:0:\nadm:x:4:x,bob\nbob:x:1000:\n");
        assert_eq!(a.gshadow.line("adm"), Some("adm:*::x,bob"));
        lock(&mut a, "bob");
        assert_eq!(a.shadow.line("bob"), Some("bob:!$6$x:20000:0:99999:7::1:"));
        assert_eq!(a.passwd.field("bob", 6), Some("/usr/sbin/nologin"));
        remove(&mut a, "bob");
        assert_eq!(group::remove(&mut a, "bob"), Ok(()));
        assert_eq!(a, base());
    }

    /// The journal's simulator: the databases are written one after the other, and the power was lost in between.
    #[test]
    fn what_is_half_there_goes_as_a_whole() {
        for files in [&["gshadow"][..], &["gshadow", "group", "shadow"]] {
            let mut half = base();
            half.gshadow = Database::parse("root:*::\n");
            let mut whole = half.clone();
            apply(&mut whole, &bob(), true, &BTreeMap::new(), 20_000).unwrap();
            for file in files {
                let written = whole.database(file).unwrap().clone();
                *half.database_mut(file).unwrap() = written;
            }
            lock(&mut half, "bob");
            assert_eq!(half.shadow.line("bob"), None, "{files:?}");
            assert_eq!(half.passwd, base().passwd);
            group::remove(&mut half, "bob").unwrap();
            assert_eq!((half.group.line("bob"), half.gshadow.line("bob")), (None, None), "{files:?}");
        }
    }

    #[test]
    fn a_number_of_somebody_else_is_refused() {
        let mut a = base();
        let spec = User { uid: Some(0), ..bob() };
        let error = apply(&mut a, &spec, true, &BTreeMap::new(), 1).unwrap_err();
        assert_eq!(error.to_string(), "uid 0 belongs to root");
    }
}
