//! Seeds that have found something once, where no short story of the engine tells it: mostly what the observer got wrong.

use super::history::Script;

fn is_sound(seed: u64) {
    let violation = Script::random(seed).play(false, None).violation;
    assert!(violation.is_none(), "{violation:?}; see `cargo sim --seed {seed} --histories 1`");
}

#[test]
fn who_will_depend_on_a_change_once_the_next_apply_has_begun_is_not_guilty_of_this_one() {
    [34595, 52665].into_iter().for_each(is_sound);
}

#[test]
fn a_commit_that_is_written_once_more_is_no_other_decision() {
    is_sound(84076);
}

#[test]
fn what_an_apply_has_changed_nobody_answers_for_after_a_boot() {
    is_sound(77309);
}

#[test]
fn who_comes_and_leaves_in_one_step_needs_a_place() {
    is_sound(69803);
}

/// In each of them a mount was taken for mounted whose helper had been killed.
#[test]
fn a_mount_that_nobody_has_found_there_is_not_planned_with() {
    [42130, 45690, 48278].into_iter().for_each(is_sound);
}
