//! Each fault is found out, and what is driven is shown to be what ships.

use cm_core::store::Record;
use cm_core::worker::batch::Confinement;

use super::disk::{Disk, Op};
use super::host::{self, Host, Run};
use super::sabotage::{self, Sabotage};
use super::stages::{Of, Places, records};
use super::story::{Act, Plot, compiled};
use super::{lose, losses, story};

#[test]
fn the_journal_gives_old_or_new() {
    for seed in 0..8 {
        if let Err(text) = losses(seed, 10, 8, Sabotage::None) {
            panic!("seed {seed}: {text}");
        }
    }
}

/// The kernel has seen every stage of an apply, in the order in which `worker/commit.rs` and `store/disk.rs` ask for them,
/// and a boot after a loss in the middle the undoing of it: a stand-in would ask for less.
#[test]
fn the_calls_of_every_stage_are_those_of_what_ships() {
    let place = crate::scratch::journal().unwrap();
    let live = place.path().join("live");
    let story = story::live(&live, 0, &Plot::Script(vec![], vec![apply(D)]), Confinement::Full).unwrap();
    let ops = &story.log.ops;
    let of = Places::of(ops, &story.start);
    let records = records(ops);
    let second = |want: fn(&Record) -> Option<u64>| {
        let at = records.iter().find(|(_, r)| want(r) == Some(2)).map(|(at, _)| *at);
        at.unwrap_or_else(|| panic!("{records:?}"))
    };
    let prepared =
        second(|r| if let Record::Prepared { generation, .. } = r { Some(*generation) } else { None });
    let switching =
        second(|r| if let Record::Switching { generation, .. } = r { Some(*generation) } else { None });
    let undo = second(|r| if let Record::Undo { transition, .. } = r { Some(*transition) } else { None });
    let committed =
        second(|r| if let Record::Committed { generation } = r { Some(*generation) } else { None });
    let kind = |op: &Op| match op {
        Op::Create { id, .. } => Some(('c', of.what(*id))),
        Op::Rename { id, .. } => Some(('r', of.what(*id))),
        Op::Sync { id, .. } => Some(('s', of.what(*id))),
        _ => None,
    };
    let count = |from: usize, to: usize, what: char, of: Of| {
        ops[from..to].iter().filter(|op| kind(op) == Some((what, of))).count()
    };
    let first = records.iter().position(|(_, r)| matches!(r, Record::Committed { .. })).map(|n| records[n].0);
    let (first, end) = (first.unwrap(), ops.len());
    assert!(count(first, prepared, 'c', Of::Store) > 0, "contents are saved");
    assert!(count(first, prepared, 's', Of::Store) > 0, "and durable before the record that names them");
    assert!(count(prepared, switching, 's', Of::Journal) > 0, "which is durable before the switch");
    assert!(count(switching, undo, 's', Of::Journal) > 0, "and so is the record of that");
    assert!(count(switching, undo, 'c', Of::Staged) > 0, "new contents are staged");
    assert!(count(switching, undo, 's', Of::Staged) > 0, "and durable");
    assert_eq!(count(switching, undo, 'r', Of::Staged), 0, "before anything is changed");
    let renamed = (undo..end).find(|at| kind(&ops[*at]) == Some(('r', Of::Staged))).unwrap();
    assert!(
        count(undo, renamed, 's', Of::Journal) > 0,
        "what was there is written down before the first rename"
    );
    assert!(
        count(renamed, committed, 's', Of::Tree) > 0,
        "the changes are durable before the commit is written down"
    );
    assert!(count(committed, end, 's', Of::Journal) > 0, "and that is durable");
    for call in [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_renameat2] {
        assert!(
            story.log.counts.get(&call).is_some_and(|n| *n > 0),
            "system call {call}: {:?}",
            story.log.counts
        );
    }

    let mut disk = Disk::of(story.start.clone());
    for op in &ops[..=renamed] {
        disk.step(op);
    }
    let dir = place.path().join("lost");
    std::fs::create_dir_all(host::disk(&dir)).unwrap();
    disk.live.lay_out(&host::disk(&dir)).unwrap();
    let mut recovered = Host::boot(&dir, Run::Here).unwrap();
    recovered.off();
    assert_eq!((recovered.opened.current, recovered.opened.interrupted), (Some(1), Some(2)));
    let journal = std::fs::read(host::store(&dir).join("journal")).unwrap();
    let last = cm_core::store::journal::replay(&journal).records.pop();
    assert_eq!(last, Some(Record::Returned { generation: 0, to: 1 }));
    assert_eq!(host::view(&dir).unwrap(), story.rests[1].tree);
}

#[test]
fn a_journal_that_is_used_wrongly_is_found_out() {
    for sabotage in sabotage::ALL {
        let found = (0..20).find_map(|seed| losses(seed, 10, 15, sabotage).err().map(|e| (seed, e)));
        let (seed, text) = found.unwrap_or_else(|| panic!("{sabotage:?} was not found out"));
        let text = text.lines().last().unwrap_or_default().to_owned();
        println!("{sabotage:?}: seed {seed} {text}");
    }
}

fn apply(text: &str) -> Act {
    Act::Apply(compiled(text).unwrap())
}

/// Loses power between any two calls of a history, several times.
fn lose_in(files: &[(&'static str, &'static str)], acts: &[Act]) {
    let place = crate::scratch::journal().unwrap();
    let plot = Plot::Script(files.to_vec(), acts.to_vec());
    let story = story::live(&place.path().join("live"), 1, &plot, Confinement::None).unwrap();
    for seed in 0..2 {
        if let Err(text) = lose(&story, place.path(), seed, 1000) {
            panic!("seed {seed}: {text}");
        }
    }
}

const D: &str = "[file.\"/etc/d\"]\ncontent = \"d\"\n";
const IN_D: &str = "[file.\"/etc/d/e/y\"]\ncontent = \"y\"\n[file.\"/etc/d/x\"]\ncontent = \"x\"\n";

/// The directories that take the place of the file are written down before they are made: the way back finds them.
#[test]
fn a_directory_on_the_way_in_the_place_of_a_file_is_undone() {
    lose_in(&[], &[apply(D), apply(IN_D), apply(D), Act::Rollback(2)]);
}

/// What was given up and not yet removed when the power went is whose it was, and goes when it is not declared any more.
#[test]
fn what_was_to_be_removed_stays_whose_it_was() {
    let (both, one) = (format!("{D}mode = \"0600\"\n[file.\"/etc/f\"]\ncontent = \"f\"\n"), apply(D));
    lose_in(&[("/etc/d", "theirs")], &[apply(&both), one, apply(IN_D), apply(&both)]);
}

/// A line that a return has turned round, though no generation of the two declares it, is turned round once more.
#[test]
fn a_line_that_nobody_declares_any_more_comes_back() {
    let line = |n: u32| {
        let line = format!("line = \"port {n}\"\nmatches = \"^port\"\n");
        apply(&format!("[line.port]\npath = \"/etc/c\"\n{line}"))
    };
    let other = "[file.\"/etc/a\"]\ncontent = \"a\"\n";
    let files = [("/etc/c", "one\nport 22\nport 23\ntwo\n")];
    lose_in(&files, &[line(1), line(2), apply(other), Act::Rollback(1)]);
}

/// What came between, and no generation declares that the journal names, makes room for what comes back.
#[test]
fn what_a_superseded_apply_brought_makes_room() {
    let of = |text: &str| compiled(text).unwrap();
    let directory =
        "[directory.\"/etc/d\"]\n[file.\"/etc/a\"]\ncontent = \"a\"\nrequires = [\"directory:/etc/d\"]\n";
    let other = "[file.\"/etc/b\"]\ncontent = \"b\"\n";
    lose_in(&[], &[apply(D), Act::Supersede(of(directory), of(other)), apply(D)]);
}

/// Who owns a file may come with it: it has the attributes that it will have all the same before it is in its place.
#[test]
fn a_file_is_dressed_before_it_is_there_though_its_owner_comes_with_it() {
    let owner = if nix::unistd::geteuid().is_root() { "owner = \"bob\"\n" } else { "" };
    let file = |text: &str| format!("[file.\"/etc/a\"]\ncontent = \"{text}\"\nmode = \"0755\"\n");
    let one = format!("{}{owner}[user.bob]\n", file("a"));
    lose_in(
        &story::ACCOUNTS,
        &[apply(&one), apply(&format!("{}[user.ada]\ncomment = \"two\"\n", file("b")))],
    );
}

/// The group that came with a user goes with him, and comes back with him, by whatever way that is left in the middle.
#[test]
fn a_user_comes_and_goes_with_his_group() {
    let bob = apply("[group.team]\n[user.bob]\ngroups = [\"team\"]\npurge = true\n");
    lose_in(&story::ACCOUNTS, &[bob, apply("[group.team]\n"), Act::Rollback(2), Act::Rollback(1)]);
}

/// A return that gives up a membership before it takes the user out, and dies, is made up for.
#[test]
fn a_membership_that_was_given_up_goes() {
    let fails = "[file.\"/etc/c/x\"]\ncontent = \"x\"\n";
    let files = [&story::ACCOUNTS[..], &[("/etc/c", "in the way")]].concat();
    let bob = format!("[group.team]\n[user.bob]\ngroups = [\"team\"]\n{fails}");
    lose_in(&files, &[apply("[group.team]\n"), apply(&bob)]);
}

/// A directory that has its turn before what was made in it goes with the last of that.
#[test]
fn a_directory_that_a_failed_apply_made_goes_whatever_the_order() {
    let fails = "[file.\"/etc/c/x\"]\ncontent = \"x\"\n";
    let inside = "[directory.\"/etc/d\"]\n[file.\"/etc/d/x\"]\ncontent = \"x\"\n[directory.\"/etc/d/e/y\"]\n";
    lose_in(&[("/etc/c", "in the way")], &[apply(&format!("{fails}{inside}"))]);
}

/// What a superseded apply took away was made anew by the one after it, with nothing of what nobody declares. A return to
/// the generation before both, and a rollback over them, put that back, though what is left declares it alike.
#[test]
fn what_was_made_anew_is_put_back_though_it_is_declared_alike() {
    let of = |text: &str| compiled(text).unwrap();
    let x = "[file.\"/etc/x\"]\ncontent = \"x\"\n";
    let team = "[group.team]\n";
    let first = format!("{x}mode = \"4755\"\n[group.team]\ngid = 2001\n");
    let both = format!("{x}{team}");
    let fails = "[file.\"/etc/c/x\"]\ncontent = \"x\"\n";
    let link = "[symlink.\"/etc/x\"]\ntarget = \"t\"\n";
    let (without, with) = (of(&format!("{link}{fails}")), of(&format!("{both}{fails}")));
    let files = [&story::ACCOUNTS[..], &[("/etc/c", "in the way")]].concat();
    lose_in(&files, &[apply(&first), apply(&both), Act::Supersede(without, with)]);
    let over = [apply(&first), apply(&both), apply(D), apply(&format!("{both}{D}")), Act::Rollback(3)];
    let place = crate::scratch::journal().unwrap();
    let plot = Plot::Script(files, over.to_vec());
    let story = story::live(place.path(), 1, &plot, Confinement::None).unwrap();
    let (was, is) = (story.rests.iter().find(|r| r.generation == Some(3)), story.rests.last());
    assert_eq!(is.map(|r| r.generation), Some(Some(3)));
    assert_eq!(was.map(|r| &r.tree), is.map(|r| &r.tree));
}
