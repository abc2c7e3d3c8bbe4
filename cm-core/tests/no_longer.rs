//! What a declaration said, and says no longer: taken back where it was Holdfast's, and there again after a rollback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;

use cm_core::proto::{Action, Intent, Outcome};
use common::{Bench, Decl, tmpfs_mount, user};
use units::Kind;
use units::kind::Spec;
use units::kind::group::Group;
use units::kind::line::Line;
use units::kind::user::User;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\n";
const GROUP: &str = "root:x:0:\nadm:x:4:bob\nsudo:x:27:ann\nbob:x:1000:\n";

fn member(name: &str, groups: &[&str]) -> Decl {
    let spec = User { groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..user(name) };
    Decl::new().unit(Kind::User, name, Spec::User(spec))
}

fn line(name: &str, path: &str, line: &str, matches: Option<&str>) -> Decl {
    let (path, line) = (path.to_owned(), line.to_owned());
    let spec = Line { path, line, matches: matches.map(str::to_owned), present: true, create: true };
    Decl::new().unit(Kind::Line, name, Spec::Line(spec))
}

fn groups_of(bench: &Bench, name: &str) -> Vec<String> {
    let text = bench.read("/etc/group");
    let is_in = |l: &&str| l.rsplit(':').next().unwrap().split(',').any(|m| m == name);
    text.lines().filter(is_in).map(|l| l.split(':').next().unwrap().to_owned()).collect()
}

/// Goes back to an earlier generation, and commits that.
fn rollback(bench: &mut Bench, from: (u64, &Decl), to: (u64, &Decl)) {
    bench.switching(to.0);
    let results = bench.swap(Some(from), to, Intent::Return);
    let failed = |o| matches!(o, Outcome::NotKept | Outcome::Blocked);
    assert!(!results.iter().any(|r| failed(r.outcome)), "{results:?}");
    bench.commit(to.0);
}

#[test]
fn a_user_leaves_the_groups_that_only_an_earlier_generation_named() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let both = member("bob", &["adm", "sudo"]);
    let (one, _) = bench.apply(None, &both);
    assert_eq!(groups_of(&bench, "bob"), ["adm", "sudo"]);
    let none = member("bob", &[]);
    bench.reopen();
    let (two, results) = bench.apply(Some((one, &both)), &none);
    assert_eq!(results[0].outcome, Outcome::Changed);
    assert_eq!(results[0].detail, "is in group sudo, which is not declared any more");
    assert_eq!(groups_of(&bench, "bob"), ["adm"], "in that one he was before");
    assert_eq!(groups_of(&bench, "ann"), ["sudo"]);
    rollback(&mut bench, (two, &none), (one, &both));
    assert_eq!(groups_of(&bench, "bob"), ["adm", "sudo"]);
    // It is known as ours again.
    bench.reopen();
    let (three, _) = bench.apply(Some((one, &both)), &none);
    assert_eq!(groups_of(&bench, "bob"), ["adm"]);
    // Who is put in by somebody else stays.
    let group = bench.read("/etc/group").replace("ann", "ann,bob");
    bench.write("/etc/group", &group);
    let adm = member("bob", &["adm"]);
    bench.apply(Some((three, &none)), &adm);
    assert_eq!(groups_of(&bench, "bob"), ["adm", "sudo"]);
}

#[test]
fn a_user_who_is_not_declared_any_more_leaves_them_too() {
    for name in ["bob", "new"] {
        let mut bench = Bench::with_accounts(PASSWD, GROUP);
        let decl = member(name, &["sudo"]);
        let (zero, _) = bench.apply(None, &Decl::new());
        let (one, _) = bench.apply(Some((zero, &Decl::new())), &decl);
        assert!(groups_of(&bench, name).contains(&"sudo".to_owned()));
        let (two, results) = bench.apply(Some((one, &decl)), &Decl::new());
        assert!(!groups_of(&bench, name).contains(&"sudo".to_owned()), "{results:?}");
        if name == "bob" {
            assert_eq!(results[0].detail, "it was there before it was declared; it leaves group sudo");
        }
        rollback(&mut bench, (two, &Decl::new()), (one, &decl));
        assert!(groups_of(&bench, name).contains(&"sudo".to_owned()));
        rollback(&mut bench, (one, &decl), (zero, &Decl::new()));
        assert!(!groups_of(&bench, name).contains(&"sudo".to_owned()), "{name}");
    }
}

#[test]
fn a_line_that_says_something_else_takes_the_place_of_what_it_said() {
    let mut bench = Bench::new();
    bench.write("/etc/conf", "first\n");
    let yes = line("root", "/etc/conf", "PermitRootLogin yes", None);
    let (one, _) = bench.apply(None, &yes);
    bench.write("/etc/conf", &(bench.read("/etc/conf") + "last\n"));
    let no = line("root", "/etc/conf", "PermitRootLogin no", None);
    bench.reopen();
    let (two, results) = bench.apply(Some((one, &yes)), &no);
    assert_eq!(results[0].detail, "line differs");
    assert_eq!(bench.read("/etc/conf"), "first\nPermitRootLogin no\nlast\n");
    rollback(&mut bench, (two, &no), (one, &yes));
    assert_eq!(bench.read("/etc/conf"), "first\nPermitRootLogin yes\nlast\n");
    // Where no edit is left that could be undone, the manifest tells.
    let pattern = line("root", "/etc/conf", "Root no", Some("^Root "));
    let (three, _) = bench.apply(Some((one, &yes)), &pattern);
    assert_eq!(bench.read("/etc/conf"), "first\nRoot no\nlast\n");
    // What only was there is nobody's.
    let first = line("root", "/etc/conf", "first", None);
    let (four, _) = bench.apply(Some((three, &pattern)), &first);
    assert_eq!(bench.read("/etc/conf"), "first\nlast\n");
    bench.apply(Some((four, &first)), &line("root", "/etc/conf", "second", None));
    assert_eq!(bench.read("/etc/conf"), "first\nlast\nsecond\n");
}

#[test]
fn a_line_that_moves_to_another_file_leaves_the_first() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "x\n");
    bench.write("/etc/b", "y\n");
    let a = line("l", "/etc/a", "line", None);
    let (one, _) = bench.apply(None, &a);
    let b = line("l", "/etc/b", "line", None);
    let (two, _) = bench.apply(Some((one, &a)), &b);
    assert_eq!((bench.read("/etc/a").as_str(), bench.read("/etc/b").as_str()), ("x\n", "y\nline\n"));
    rollback(&mut bench, (two, &b), (one, &a));
    assert_eq!((bench.read("/etc/a").as_str(), bench.read("/etc/b").as_str()), ("x\nline\n", "y\n"));
}

#[test]
fn a_line_of_which_only_the_unit_has_another_name_stays() {
    let mut bench = Bench::new();
    bench.write("/etc/a", "x\n");
    let old = line("old", "/etc/a", "line", None);
    let (one, _) = bench.apply(None, &old);
    let new = line("new", "/etc/a", "line", None);
    bench.write("/etc/a", &(bench.read("/etc/a") + "z\n"));
    let (two, _) = bench.apply(Some((one, &old)), &new);
    assert_eq!(bench.read("/etc/a"), "x\nline\nz\n");
    rollback(&mut bench, (two, &new), (one, &old));
    assert_eq!(bench.read("/etc/a"), "x\nline\nz\n");
    let (three, _) = bench.apply(Some((one, &old)), &new);
    bench.apply(Some((three, &new)), &Decl::new());
    assert_eq!(bench.read("/etc/a"), "x\nz\n", "it was ours under both names");
}

#[test]
fn a_line_whose_mount_is_absent_is_taken_out_when_that_is_there() {
    let mut bench = Bench::new();
    let on = line("x", "/data/lines", "ours", None);
    let mount = tmpfs_mount("/data");
    bench.write("/data/lines", "theirs\n");
    let (one, _) = bench.apply(None, &on);
    assert_eq!(bench.read("/data/lines"), "theirs\nours\n");
    fs::rename(bench.path("/data/lines"), bench.path("/hidden")).unwrap();
    let none = Decl::new().unit(Kind::Mount, "/data", Spec::Mount(mount));
    let (two, results) = bench.apply(Some((one, &on)), &none);
    assert_eq!(results[0].outcome, Outcome::MountAbsent, "{results:?}");
    bench.reopen();
    let owner = bench.store().index().own.get("line:x").map(|own| own.unit.clone());
    assert_eq!(owner.as_deref(), Some("line:x"), "nobody would ever take it out");
    // A return to before it was put in does no more.
    let results = bench.swap(Some((one, &on)), (0, &none), Intent::Return);
    assert_eq!(results[0].outcome, Outcome::MountAbsent, "{results:?}");

    fs::rename(bench.path("/hidden"), bench.path("/data/lines")).unwrap();
    bench.reopen();
    bench.manifests.clear();
    let old = bench.install(&on, one);
    let steps = bench.steps(old, Action::Remove);
    let results = bench.run(two, Intent::Correct, steps);
    assert_eq!(results[0].outcome, Outcome::Removed, "{results:?}");
    assert_eq!(bench.read("/data/lines"), "theirs\n");
}

/// A group, and a user of whom it is the primary group.
fn pair(purge: bool) -> Decl {
    let spec = User { group: Some("ops".into()), purge, ..user("alice") };
    ops().unit(Kind::User, "alice", Spec::User(spec))
}

fn ops() -> Decl {
    let spec = Group { name: "ops".into(), gid: None, system: false };
    Decl::new().unit(Kind::Group, "ops", Spec::Group(spec))
}

fn owner(bench: &mut Bench, thing: &str) -> Option<String> {
    bench.reopen();
    bench.store().index().own.get(thing).filter(|own| own.created).map(|own| own.unit.clone())
}

const STAYS: &str = "it is the primary group of alice, and stays";

#[test]
fn the_primary_group_of_who_is_locked_stays_with_him() {
    let nothing = Decl::new();
    for purge in [false, true] {
        let mut bench = Bench::with_accounts(PASSWD, GROUP);
        let both = pair(purge);
        let (one, _) = bench.apply(None, &both);
        assert_eq!(owner(&mut bench, "group:ops").as_deref(), Some("group:ops"));
        for _ in 0..2 {
            let (two, results) = bench.apply(Some((one, &both)), &nothing);
            let results = bench.by_name(results);
            assert_eq!(results["user:alice"].0, Outcome::Removed, "{results:?}");
            let group = results["group:ops"].clone();
            assert_eq!(bench.read("/etc/group").contains("\nops:"), !purge, "{results:?}");
            match purge {
                true => assert_eq!(group.0, Outcome::Removed, "{group:?}"),
                false => assert_eq!(group, (Outcome::Left, STAYS.to_owned())),
            }
            let hers = (!purge).then_some("user:alice");
            assert_eq!(
                owner(&mut bench, "group:ops").as_deref(),
                hers,
                "its own would be tried at every boot"
            );
            // With the generation it is ours again, and goes or stays as it did before.
            rollback(&mut bench, (two, &nothing), (one, &both));
            assert_eq!(owner(&mut bench, "group:ops").as_deref(), Some("group:ops"));
        }
    }
}

#[test]
fn nor_does_it_go_after_him() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    bench.write("/etc/shadow", "root:*:19000:0:99999:7:::\n");
    let (both, group, nothing) = (pair(false), ops(), Decl::new());
    let (one, _) = bench.apply(None, &both);
    let (two, results) = bench.apply(Some((one, &both)), &group);
    assert_eq!(bench.by_name(results)["user:alice"].0, Outcome::Removed);
    let (three, results) = bench.apply(Some((two, &group)), &nothing);
    assert_eq!(bench.by_name(results)["group:ops"], (Outcome::Left, STAYS.to_owned()));
    // Whoever declares it later finds it there, as one that was made.
    let (four, results) = bench.apply(Some((three, &nothing)), &group);
    assert_eq!(bench.by_name(results)["group:ops"].0, Outcome::Kept);
    assert_eq!(owner(&mut bench, "group:ops").as_deref(), Some("group:ops"));
    let (five, results) = bench.apply(Some((four, &group)), &nothing);
    assert_eq!(bench.by_name(results)["group:ops"], (Outcome::Left, STAYS.to_owned()));
    // It goes with her.
    let purged = Decl::new().unit(Kind::User, "alice", Spec::User(User { purge: true, ..user("alice") }));
    let (six, _) = bench.apply(Some((five, &nothing)), &purged);
    bench.apply(Some((six, &purged)), &nothing);
    assert_eq!((bench.read("/etc/passwd"), bench.read("/etc/group")), (PASSWD.to_owned(), GROUP.to_owned()));
}

#[test]
fn a_return_to_before_both_leaves_the_group_of_who_is_locked() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let nothing = Decl::new();
    let (zero, _) = bench.apply(None, &nothing);
    let both = pair(true);
    let n = bench.prepare(&both);
    bench.switching(n);
    bench.swap(Some((zero, &nothing)), (n, &both), Intent::Apply);
    bench.switching(zero);
    let results = bench.swap(Some((n, &both)), (zero, &nothing), Intent::Return);
    let results = bench.by_name(results);
    assert_eq!(results["group:ops"], (Outcome::Left, STAYS.to_owned()), "{results:?}");
    assert_eq!(results["user:alice"].0, Outcome::Removed);
    bench.commit(zero);
    assert_eq!(owner(&mut bench, "group:ops").as_deref(), Some("user:alice"));
}

#[test]
fn the_group_of_who_gets_another_one_goes() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let both = pair(false);
    let (one, _) = bench.apply(None, &both);
    let spec = User { group: Some("adm".into()), ..user("alice") };
    let moved = Decl::new().unit(Kind::User, "alice", Spec::User(spec));
    let (_, results) = bench.apply(Some((one, &both)), &moved);
    let results = bench.by_name(results);
    assert_eq!(results["group:ops"].0, Outcome::Removed, "{results:?}");
    assert_eq!(results["user:alice"].0, Outcome::Changed, "{results:?}");
    assert!(!bench.read("/etc/group").contains("\nops:"));
}

/// The journal's simulator: he came back with the bare number of a group that was not there any more.
#[test]
fn the_group_that_came_with_a_user_comes_back_with_him() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let nothing = Decl::new();
    let eve = Decl::new().unit(Kind::User, "eve", Spec::User(User { purge: true, ..user("eve") }));
    let (one, _) = bench.apply(None, &eve);
    let group = bench.read("/etc/group");
    assert!(group.contains("\neve:x:1001:\n"), "{group}");
    let (two, results) = bench.apply(Some((one, &eve)), &nothing);
    assert_eq!(results[0].outcome, Outcome::Removed);
    assert_eq!(bench.read("/etc/group"), GROUP);
    rollback(&mut bench, (two, &nothing), (one, &eve));
    assert_eq!(bench.read("/etc/group"), group);
    // It is known as his again.
    bench.reopen();
    bench.apply(Some((one, &eve)), &nothing);
    assert_eq!(bench.read("/etc/group"), GROUP);
}

/// The journal's simulator: the entry came back beside another one with its number, and stayed.
#[test]
fn no_entry_comes_back_with_the_number_of_another_one() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let decl = |gid| {
        let spec = Group { name: "team".into(), gid, system: false };
        Decl::new().unit(Kind::Group, "team", Spec::Group(spec))
    };
    let (first, nothing) = (decl(Some(2001)), Decl::new());
    let (one, _) = bench.apply(None, &first);
    let (two, _) = bench.apply(Some((one, &first)), &nothing);
    let group = format!("{GROUP}others:x:2001:\n");
    bench.write("/etc/group", &group);
    bench.switching(one);
    let results = bench.swap(Some((two, &nothing)), (one, &first), Intent::Return);
    assert_eq!(results[0].outcome, Outcome::NotKept);
    assert_eq!(results[0].detail, "gid 2001 belongs to others");
    assert_eq!(bench.read("/etc/group"), group);
}

/// The journal's simulator: the group of who came got the number of the group that went in the same batch.
#[test]
fn who_comes_does_not_get_the_number_of_who_goes() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let team = Group { name: "team".into(), gid: Some(2001), system: false };
    let team = Decl::new().unit(Kind::Group, "team", Spec::Group(team));
    let eve = User { uid: Some(2001), ..user("eve") };
    let eve = Decl::new().unit(Kind::User, "eve", Spec::User(eve));
    let (one, _) = bench.apply(None, &team);
    bench.apply(Some((one, &team)), &eve);
    assert!(!bench.read("/etc/group").contains("team"));
    let passwd = bench.read("/etc/passwd");
    assert!(passwd.contains(":2001:1001:"), "{passwd}");
}

/// The journal's simulator: a group was given another number, and who came got the one that it had, so that it could not
/// have it back.
#[test]
fn nor_the_number_of_who_has_another_one_now() {
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let team = |gid| {
        let spec = Group { name: "team".into(), gid, system: false };
        Decl::new().unit(Kind::Group, "team", Spec::Group(spec))
    };
    let (first, moved) = (team(None), team(Some(2001)));
    let both = moved.clone().unit(Kind::User, "eve", Spec::User(user("eve")));
    let (one, _) = bench.apply(None, &first);
    assert!(bench.read("/etc/group").contains("team:x:1001:"));
    let (two, _) = bench.apply(Some((one, &first)), &both);
    let group = bench.read("/etc/group");
    assert!(group.contains("team:x:2001:") && group.contains("eve:x:1002:"), "{group}");
    rollback(&mut bench, (two, &both), (one, &first));
    assert!(bench.read("/etc/group").contains("team:x:1001:"));
}

/// Who reviewed it found: he took the group that a unit of the same batch had made for him along when he went.
#[test]
fn a_declared_group_does_not_go_with_the_user_of_its_name() {
    let spec = Group { name: "eve".into(), gid: Some(2001), system: false };
    let group = || Decl::new().unit(Kind::Group, "eve", Spec::Group(spec.clone()));
    let eve = || Spec::User(User { purge: true, ..user("eve") });
    let both = group().unit(Kind::User, "eve", eve());
    // At once, and a group that came with him first.
    for first in [Decl::new(), Decl::new().unit(Kind::User, "eve", eve())] {
        let mut bench = Bench::with_accounts(PASSWD, GROUP);
        let (one, _) = bench.apply(None, &first);
        let (two, _) = bench.apply(Some((one, &first)), &both);
        assert_eq!(owner(&mut bench, "group:eve").as_deref(), Some("group:eve"));
        let (three, results) = bench.apply(Some((two, &both)), &group());
        let results = bench.by_name(results);
        assert_eq!(results["user:eve"].0, Outcome::Removed, "{results:?}");
        assert!(bench.read("/etc/group").contains("\neve:x:2001:\n"), "{results:?}");
        let (_, results) = bench.apply(Some((three, &group())), &Decl::new());
        assert_eq!(results[0].outcome, Outcome::Removed);
        assert_eq!(bench.read("/etc/group"), GROUP);
    }
}

/// What others may write was theirs before the apply: the return puts that back, and not what is declared.
#[test]
fn a_return_puts_back_what_others_may_write() {
    use units::manifest::flags::{REPORT, SEED};
    for (flags, changed) in [(REPORT, false), (REPORT, true), (SEED, false), (SEED, true)] {
        let mut bench = Bench::new();
        let mut decl = Decl::new();
        let mut spec = decl.file_spec("/etc/f", Some("mine"), Some(0o600));
        if flags == SEED {
            spec.ownership = units::kind::file::Ownership::Seed;
        }
        let decl = decl.with_flags(Kind::File, "/etc/f", Spec::File(spec), flags);
        let (one, _) = bench.apply(None, &decl);
        bench.write("/etc/f", "theirs");
        let next = if changed { Decl::new().file("/etc/f", "other") } else { Decl::new() };
        let two = bench.prepare(&next);
        bench.switching(two);
        bench.swap(Some((one, &decl)), (two, &next), Intent::Apply);
        assert!(changed || !bench.path("/etc/f").exists());
        bench.switching(one);
        let results = bench.swap(Some((two, &next)), (one, &decl), Intent::Return);
        let results = bench.by_name(results);
        assert_eq!(
            results["file:/etc/f"],
            (Outcome::Changed, "as it was before".to_owned()),
            "{flags} {changed}"
        );
        bench.commit(one);
        assert_eq!(
            (bench.read("/etc/f").as_str(), bench.mode("/etc/f")),
            ("theirs", 0o600),
            "{flags} {changed}"
        );
        // It is the unit's as before, and goes with it.
        let (_, results) = bench.apply(Some((one, &decl)), &Decl::new());
        assert_eq!(bench.by_name(results)["file:/etc/f"].0, Outcome::Removed);
    }
}

/// Nor is the number that it had left to him.
#[test]
fn a_group_with_another_number_stays_that_of_the_user_of_its_name() {
    let spec = Group { name: "eve".into(), gid: Some(2001), system: false };
    let eve = || Decl::new().unit(Kind::User, "eve", Spec::User(user("eve")));
    let both = eve().unit(Kind::Group, "eve", Spec::Group(spec));
    let mut bench = Bench::with_accounts(PASSWD, GROUP);
    let (one, _) = bench.apply(None, &eve());
    let (two, _) = bench.apply(Some((one, &eve())), &both);
    let manifest = bench.install(&both, two);
    for outcome in [Outcome::Changed, Outcome::Kept] {
        let steps = bench.steps(manifest, Action::Converge);
        let results = bench.run(two, Intent::Correct, steps);
        assert_eq!(bench.by_name(results)["user:eve"].0, outcome);
        assert!(bench.read("/etc/passwd").contains("\neve:*:1001:2001:"), "{}", bench.read("/etc/passwd"));
    }
}

/// Nobody has been given numbers that would have to be kept.
#[test]
fn who_could_not_be_made_is_not_locked() {
    for (uid, group) in [(Some(1000), None), (None, Some("nobody-has-it"))] {
        let mut bench = Bench::with_accounts(PASSWD, GROUP);
        let nothing = Decl::new();
        let (zero, _) = bench.apply(None, &nothing);
        let spec = User { uid, group: group.map(str::to_owned), ..user("alice") };
        let wrong = Decl::new().unit(Kind::User, "alice", Spec::User(spec));
        let n = bench.prepare(&wrong);
        bench.switching(n);
        let results = bench.swap(Some((zero, &nothing)), (n, &wrong), Intent::Apply);
        assert_eq!(bench.by_name(results)["user:alice"].0, Outcome::NotKept);
        bench.switching(zero);
        let results = bench.swap(Some((n, &wrong)), (zero, &nothing), Intent::Return);
        let results = bench.by_name(results);
        assert!(!results["user:alice"].1.contains("locked"), "{results:?}");
        bench.commit(zero);
        assert_eq!(
            (bench.read("/etc/passwd"), bench.read("/etc/group")),
            (PASSWD.to_owned(), GROUP.to_owned())
        );
    }
}
