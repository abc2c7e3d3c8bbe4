//! Stories of workers that are lost upon one path: what has nothing to do with that goes on.

use super::*;

/// The paths of the first batch in these effects, with its number.
fn batch(s: &Story, effects: &[Effect]) -> Option<(u64, Vec<String>)> {
    effects.iter().find_map(|e| match e {
        Effect::Batch { batch, steps, .. } => {
            let name = |step: &Step| s.engine.manifest(step.manifest).map(|m| m.name(step.unit).to_owned());
            Some((*batch, steps.iter().filter_map(name).collect()))
        }
        _ => None,
    })
}

fn paths(s: &Story, effects: &[Effect]) -> Vec<String> {
    batch(s, effects).map(|(_, paths)| paths).unwrap_or_default()
}

/// The worker hangs upon this file until its time is over, and is given up.
fn lost_at(s: &mut Story, name: &str, mount: Option<&str>) -> Vec<Effect> {
    let asked = s.tick();
    assert!(asked.iter().any(|e| matches!(e, Effect::KillWorker)), "{asked:?}");
    let (manifest, unit) = s.engine.unit_of(s.node(name));
    s.tell(Event::WorkerLostAt { manifest, unit, mount: mount.map(str::to_owned) })
}

fn files(paths: &[&str], version: u64) -> Units {
    paths.iter().fold(Units::new(), |units, path| units.file(path, version, ""))
}

/// Of a review: three files, of which one lies on a server that does not answer. The others were never kept.
#[test]
fn only_what_a_worker_hangs_upon_is_not_kept() {
    let mut s = Story::new();
    let out = s.boot(files(&["/aaa", "/nfs/f", "/zzz"], 1));
    assert_eq!(paths(&s, &out), ["/aaa", "/nfs/f", "/zzz"]);
    let out = lost_at(&mut s, "/nfs/f", None);
    assert_eq!(paths(&s, &out), ["/aaa", "/zzz"], "the others first");
    let out = result(&mut s, &out, Outcome::Changed);
    assert_eq!((s.state("/aaa"), s.state("/zzz")), ("repaired", "repaired"));
    assert_eq!(paths(&s, &out), ["/nfs/f"], "by itself");

    // Somebody edits another file meanwhile: it waits for seconds and not for a minute.
    let node = s.node("/aaa");
    s.tell(Event::Touched { nodes: vec![node] });
    assert!(s.engine.next_deadline().unwrap() <= Mono(s.now).after_ms(SUSPECT_MS));
    let out = lost_at(&mut s, "/nfs/f", None);
    assert_eq!(s.state("/nfs/f"), "not kept");
    assert_eq!(paths(&s, &out), ["/aaa"]);
    result(&mut s, &out, Outcome::Changed);
    assert_eq!(s.state("/aaa"), "repaired");

    // From here on each try costs one worker, and is made ever more rarely; what it finds right ends that.
    let out = s.tick();
    assert_eq!(paths(&s, &out), ["/nfs/f"]);
    let out = s.tell(Event::Touched { nodes: vec![node] });
    assert_eq!(steps(&out), 0, "it comes next");
    let out = lost_at(&mut s, "/nfs/f", None);
    let out = result(&mut s, &out, Outcome::Changed);
    assert_eq!(steps(&out), 0);
    let out = s.tick();
    result(&mut s, &out, Outcome::Changed);
    assert_eq!(s.state("/nfs/f"), "repaired");
    let both = vec![node, s.node("/nfs/f")];
    let out = s.tell(Event::Touched { nodes: both });
    assert_eq!(paths(&s, &out).len(), 2, "it is suspect no more");
}

/// Each of a thousand files on a dead server would take a minute.
#[test]
fn what_lies_on_the_same_mount_is_suspect_and_not_kept_together() {
    let mut s = Story::new();
    s.boot(files(&["/nfs/a", "/nfs/b", "/nfs/c", "/nfsx"], 1));
    let out = lost_at(&mut s, "/nfs/b", Some("/nfs"));
    assert_eq!(paths(&s, &out), ["/nfsx"]);
    let out = result(&mut s, &out, Outcome::Changed);
    assert_eq!(paths(&s, &out), ["/nfs/a"]);
    let out = result(&mut s, &out, Outcome::Changed);
    assert_eq!((s.state("/nfs/a"), paths(&s, &out)), ("repaired", vec!["/nfs/b".to_owned()]));
    let out = lost_at(&mut s, "/nfs/b", Some("/nfs"));
    assert_eq!((s.state("/nfs/b"), s.state("/nfs/c"), steps(&out)), ("not kept", "not kept", 0));
}

#[test]
fn an_apply_that_hangs_returns_after_two_workers() {
    let mut s = Story::new();
    let out = s.boot(files(&["/aaa", "/nfs/f"], 1));
    s.work(out);
    let manifest = s.engine.install(files(&["/aaa", "/nfs/f"], 2).finish());
    let swapped = Event::Swapped { request: 7, manifest, generation: 2, kind: Swap::Apply, release: false };
    let out = s.tell(swapped);
    let token =
        out.iter().find_map(|e| if let Effect::Store { token, .. } = e { Some(*token) } else { None });
    let out = s.tell(Event::Recorded { token: token.unwrap(), error: None });
    assert_eq!(paths(&s, &out), ["/aaa", "/nfs/f"]);
    let out = lost_at(&mut s, "/nfs/f", None);
    assert_eq!(paths(&s, &out), ["/nfs/f"], "what the others do would have to be undone");
    let out = lost_at(&mut s, "/nfs/f", None);
    let returning = |e: &Effect| matches!(e, Effect::Log { text, .. } if text.starts_with("returning"));
    assert!(out.iter().any(returning), "{out:?}");
    let returns = |e: &Effect| matches!(e, Effect::Batch { intent: Intent::Return, .. });
    assert!(out.iter().any(returns), "{out:?}");
}

/// Workers that are lost one after another, whatever they are at, are not a matter of the units.
#[test]
fn workers_that_are_always_lost_get_fewer_steps_and_are_given_up_in_the_end() {
    let mut s = Story::new();
    let names: Vec<String> = (0..40).map(|n| format!("/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut out = s.boot(files(&names, 1));
    let mut sizes = Vec::new();
    for _ in 0..8 {
        let next = paths(&s, &out);
        sizes.push(next.len());
        out = lost_at(&mut s, &next[0], None);
    }
    assert_eq!(sizes, [40, 39, 38, 37, 36, 19, 4, 1]);
    let kept = names.iter().filter(|name| s.state(name) == "repaired").count();
    assert_eq!(kept, 0);
    assert!(
        out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.contains("is not kept"))),
        "{out:?}"
    );
}

/// Who hangs may be impossible to kill: as long as he is there, every worker more that is sent there is one more of those.
#[test]
fn where_a_worker_hangs_no_other_is_sent() {
    let mut s = Story::new();
    s.boot(files(&["/aaa", "/nfs/a", "/nfs/b", "/nfs/c"], 1));
    let out = lost_at(&mut s, "/nfs/b", Some("/nfs"));
    let out = result(&mut s, &out, Outcome::Changed);
    assert_eq!((s.state("/aaa"), paths(&s, &out)), ("repaired", vec!["/nfs/a".to_owned()]));
    let hangs = |s: &mut Story| {
        let (manifest, unit) = s.engine.unit_of(s.node("/nfs/a"));
        s.tell(Event::WorkerHangs { manifest, unit, mount: Some("/nfs".to_owned()), pid: 77 })
    };
    let out = hangs(&mut s);
    assert_eq!((steps(&out), s.state("/nfs/a"), s.state("/nfs/b"), s.state("/nfs/c")), {
        (0, "not kept", "not kept", "not kept")
    });
    let node = s.node("/nfs/a");
    assert!(s.engine.status(node).cause.contains("process 77 hangs"), "{:?}", s.engine.status(node));

    // What is declared there meanwhile is not kept in no time, and the rest of its batch is done.
    let out = s.swap(files(&["/aaa", "/nfs/a", "/nfs/b", "/nfs/c", "/nfs/new"], 1), Swap::Boot);
    let asked = paths(&s, &out);
    assert!(asked.contains(&"/nfs/new".to_owned()), "{asked:?}");
    let (manifest, unit) = s.engine.unit_of(s.node("/nfs/new"));
    let out = s.tell(Event::WorkerHangs { manifest, unit, mount: Some("/nfs".to_owned()), pid: 77 });
    assert_eq!(s.state("/nfs/new"), "not kept");
    assert!(!paths(&s, &out).iter().any(|p| p == "/nfs/new"), "{out:?}");

    // It has ended: nobody waits for the next retry.
    let nodes = ["/nfs/a", "/nfs/b", "/nfs/c", "/nfs/new"].map(|path| s.node(path)).to_vec();
    let mut out = s.tell(Event::WorkerFreed { nodes });
    while steps(&out) > 0 {
        out = result(&mut s, &out, Outcome::Kept);
    }
    assert_eq!(s.engine.tally().not_kept, 0);
}
