//! What a plan says of what is no longer declared and stays: users and groups, directories.

use super::{Host, lines};

const STAYS: &str = "no longer declared; left: it is the primary group of alice, and stays";

/// The state with the group and the user that is planned for, and what is said of the group.
fn of_group(extra: &str, next: &str) -> String {
    let mut host = Host::new();
    host.bench.write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
    host.bench.write("/etc/group", "root:x:0:\n");
    host.apply(&format!("[group.ops]\n[user.alice]\ngroup = \"ops\"\n{extra}\n"));
    let (changes, _) = host.plan_of(next);
    lines(&changes).into_iter().find(|l| l.contains(" group:ops: ")).unwrap()
}

#[test]
fn a_plan_tells_that_the_group_of_who_is_locked_stays() {
    assert_eq!(of_group("", ""), format!("nothing group:ops: {STAYS}"));
    assert_eq!(of_group("purge = true", ""), "remove group:ops: no longer declared");
    let moved = "[group.web]\n[user.alice]\ngroup = \"web\"\n";
    assert_eq!(of_group("", moved), "remove group:ops: no longer declared");
    assert_eq!(of_group("", "[user.alice]\n"), format!("nothing group:ops: {STAYS}"));
}

#[test]
fn a_plan_tells_that_a_directory_stays_for_what_is_in_it() {
    let mut host = Host::new();
    host.apply("[directory.\"/etc/d\"]\n[file.\"/etc/d/a\"]\ncontent = \"\"\n[file.\"/etc/d/way/b\"]\ncontent = \"\"\n");
    let (changes, _) = host.plan_of("");
    assert!(
        lines(&changes).contains(&"remove directory:/etc/d: no longer declared".to_owned()),
        "{changes:?}"
    );
    // What stays declared keeps it as well as what somebody put there.
    let left = "nothing directory:/etc/d: no longer declared; left: it is not empty".to_owned();
    let (changes, _) = host.plan_of("[file.\"/etc/d/way/b\"]\ncontent = \"\"\n");
    assert!(lines(&changes).contains(&left), "{changes:?}");
    host.bench.write("/etc/d/way/theirs", "");
    let (changes, _) = host.plan_of("");
    assert!(lines(&changes).contains(&left), "{changes:?}");
}
