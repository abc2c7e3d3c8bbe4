//! What the store answers: plans, generations, versions; and verbs that wait for it.

use super::*;

#[test]
fn plan_shows_verbs_reasons_and_diffs() {
    let host = Host::absent();
    host.write("state.toml", "");
    let change = |unit: &str, verb: &str, reason: &str| json!({"continues": true, "parameters": {"change": {"unit": unit, "verb": verb, "reason": reason}}});
    let mut conf = change("file:/etc/a", "change", "content differs");
    conf["parameters"]["change"]["diff"] =
        json!("--- a/etc/a\n+++ b/etc/a\n@@ -1 +1 @@\n-old\n+new\x1b[31m\n");
    let server = host.script(
        "control.store",
        vec![
            change("user:web", "create", "not in the user database"),
            conf,
            change("service:nginx", "reload", "file:/etc/a changed"),
            json!({"parameters": {"summary": {"generation": 3, "units": 9, "same": false}}}),
        ],
    );
    host.shows(
        "plan state.toml",
        Exit::Done,
        &expect![[r#"
        create   user:web  not in the user database
        change   file:/etc/a  content differs
            --- a/etc/a
            +++ b/etc/a
            @@ -1 +1 @@
            -old
            +new [31m
        reload   service:nginx  file:/etc/a changed
        1 to create, 1 to change, 1 to reload; 9 units, the current generation is 3
    "#]],
    );
    let call = server.join().unwrap();
    assert_eq!(call["method"], "io.holdfast.Store.Plan");
    assert_eq!(call["more"], true);
    assert!(call["parameters"]["path"].as_str().unwrap().ends_with("/state.toml"));
}

#[test]
fn plan_of_what_is_current_says_what_is_to_be_done_all_the_same() {
    for (changes, held, says) in [
        (false, 0, "nothing to do: this is generation 3 (9 units)\n"),
        (
            false,
            2,
            "nothing to do: this is generation 3 (9 units); 2 not as declared, and held: left alone\n",
        ),
        (true, 0, "start    service:web  it is failed\n1 to start; 9 units, this is generation 3\n"),
    ] {
        let host = Host::absent();
        host.write("state.toml", "");
        let summary = json!({"generation": 3, "units": 9, "same": true, "held": held});
        let start = json!({"unit": "service:web", "verb": "start", "reason": "it is failed"});
        let mut replies = vec![json!({"parameters": {"summary": summary}})];
        if changes {
            replies.insert(0, json!({"continues": true, "parameters": {"change": start}}));
        }
        let server = host.script("control.store", replies);
        let (exit, out) = host.run("apply state.toml --dry-run --release");
        assert_eq!((exit, out.as_str()), (Exit::Done, says));
        assert_eq!(server.join().unwrap()["parameters"]["release"], true);
    }
}

#[test]
fn generations_are_listed_and_the_store_can_refuse() {
    let host = Host::absent();
    let generation = |number: u64, state: &str, note: &str| {
        json!({"number": number, "time": (1_763_640_000 - 600 * (4 - number)) * SECOND, "state": state,
               "units": 9, "digest": "ab", "note": note})
    };
    let pages = vec![
        json!({"continues": true, "parameters": {"generations": [generation(3, "current", "apply by root")]}}),
        json!({"parameters": {"generations": [generation(2, "kept", ""), generation(1, "returned", "apply by root")]}}),
    ];
    host.script("control.store", pages);
    host.shows(
        "generations",
        Exit::Done,
        &expect![[r#"
        GENERATION  STATE     UNITS  MADE                  AGO  BY
        3           current   9      2025-11-20T11:50:00Z  10m  apply by root
        2           kept      9      2025-11-20T11:40:00Z  20m
        1           returned  9      2025-11-20T11:30:00Z  30m  apply by root
    "#]],
    );
    let host = Host::absent();
    host.script(
        "control.store",
        vec![
            json!({"error": "io.holdfast.Store.PermissionDenied", "parameters": {"what": "read the store"}}),
        ],
    );
    host.shows(
        "verify",
        Exit::Usage,
        &expect![[r#"
            [stderr]
            initctl: cannot read the store: permission denied; try again as root
        "#]],
    );
}

#[test]
fn verify_and_diff_and_adopt_are_shown() {
    let host = Host::quiet();
    let unit = json!({"unit": "file:/etc/motd", "outcome": "drifted", "detail": "content differs"});
    host.script(
        "control.store",
        vec![
            json!({"continues": true, "parameters": {"unit": unit}}),
            json!({"parameters": {"summary": {"generation": 3, "units": 9, "wrong": 1, "storeDamaged": ["blob ab: too short"]}}}),
        ],
    );
    host.shows(
        "verify",
        Exit::NotKept,
        &expect![[r#"
        drifted   file:/etc/motd  content differs
        store is damaged: blob ab: too short
        1 of 9 units of generation 3 differ
    "#]],
    );
    let host = Host::quiet();
    let changes = json!([{"unit": "service:nginx", "verb": "changed", "reason": "reload-on"}]);
    host.script("control.store", vec![json!({"parameters": {"from": 2, "to": 3, "changes": changes}})]);
    host.shows(
        "diff 2 3",
        Exit::Done,
        &expect![[r#"
            from generation 2 to generation 3
            changed  service:nginx  reload-on
        "#]],
    );
    let host = Host::quiet();
    let adopted = json!({"patch": "--- state.toml\n+++ state.toml\n", "note": "xattrs are left out"});
    let server = host.script("control.store", vec![json!({"parameters": adopted})]);
    host.shows(
        "adopt /etc/motd",
        Exit::Done,
        &expect![[r#"
        --- state.toml
        +++ state.toml
        [stderr]
        initctl: xattrs are left out
    "#]],
    );
    assert_eq!(server.join().unwrap()["parameters"]["unit"], "file:/etc/motd");
}

/// A machine whose store lies on a mount that is not there yet.
fn storeless(script: Script) -> Host {
    let mut machine = Machine::new();
    machine.store_waits = Some("mount:/var".to_owned());
    Host::with(machine, script)
}

#[test]
fn apply_and_rollback_wait_for_the_store_and_go_on() {
    let script: fn() -> Script = || {
        Box::new(|server, incoming| match &incoming.request {
            Request::Wait(wait) if wait.store => {
                let waited = Waited { fulfilled: true, waiting: vec![] };
                server.answer(incoming.call, &Answer::Waited(waited));
            }
            Request::Apply(_) | Request::Rollback(_) => {
                server.answer(incoming.call, &finished(Verdict::Done, Tally::default(), ""));
            }
            other => panic!("{other:?}"),
        })
    };
    let host = storeless(script());
    host.write("state.toml", "");
    let screen = expect![[r#"
        generation 4: 0 kept, 0 changed, 0 repaired, 0 not kept
        [stderr]
        initctl: waiting for the store: mount:/var is not ready, which carries it
    "#]];
    host.shows("apply state.toml", Exit::Done, &screen);
    host.shows("rollback", Exit::Done, &screen);
    let (exit, text) = host.run("--json apply state.toml");
    assert_eq!(exit, Exit::Done);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["progress"]["unit"], "mount:/var");
}

#[test]
fn waiting_for_the_store_ends_when_time_runs_out_and_begins_nothing() {
    let host = storeless(Box::new(|_, incoming| {
        assert!(matches!(incoming.request, Request::Wait(_)), "{incoming:?}");
    }));
    host.write("state.toml", "");
    host.shows(
        "apply state.toml --timeout 300ms",
        Exit::TimedOut,
        &expect![[r#"
            [stderr]
            initctl: waiting for the store: mount:/var is not ready, which carries it
            initctl: time ran out: the store is not open, nothing was begun: mount:/var is not ready, which carries it
        "#]],
    );
    let (exit, text) = host.run("generations --timeout 300ms");
    assert_eq!(exit, Exit::TimedOut, "{text}");
}

#[test]
fn history_lists_versions_and_prints_one() {
    let version = |unit: &str, why: &str, generation: Option<u64>, was: &str, digest: &str| {
        json!({"unit": unit, "time": 1_763_639_000 * SECOND, "digest": digest, "size": 4, "why": why,
               "generation": generation, "was": was})
    };
    let versions = vec![json!({"parameters": {"versions": [
        version("file:/etc/motd", "repair", None, "file, mode 0644, owner 0:0", "abcdef0123456789"),
        version("file:/etc/motd", "apply", Some(2), "nothing", ""),
        version("file:/etc/motd", "return", Some(1), "link to /x", ""),
    ]}})];
    let host = Host::quiet();
    host.script("control.store", versions.clone());
    host.shows(
        "history /etc/motd",
        Exit::Done,
        &expect![[r#"
            REPLACED              AGO      UNIT            BY                     IT WAS                      ID
            2025-11-20T11:43:20Z  16m 40s  file:/etc/motd  repair, corrective     file, mode 0644, owner 0:0  abcdef012345
            2025-11-20T11:43:20Z  16m 40s  file:/etc/motd  apply of 2, intended   nothing
            2025-11-20T11:43:20Z  16m 40s  file:/etc/motd  return to 1, intended  link to /x
        "#]],
    );
    for (line, says) in [
        ("history /etc/motd --show abd0", "no version whose id starts with abd0"),
        ("history /etc/motd --show ab", "at least 4 letters"),
    ] {
        let host = Host::quiet();
        host.script("control.store", versions.clone());
        let (exit, text) = host.run(line);
        assert_eq!(exit, Exit::Usage, "{text}");
        assert!(text.contains(says) && text.contains("lists the versions"), "{text}");
    }
}

#[test]
fn a_store_is_read_without_init() {
    let host = Host::absent();
    let mut store = cm_core::store::Store::open(&host.directory.path().join("kept")).unwrap();
    for text in ["[target.a]\n", "[target.a]\n[target.b]\n"] {
        let mut loader = units::load::MemoryLoader::new().file("/state.toml", text);
        let manifest = units::compile("/state.toml", &mut loader).manifest.unwrap();
        let generation = store.prepare(&manifest, &[], "apply by hand", false).unwrap();
        let transition = generation;
        store
            .record(&[
                cm_core::store::Record::Switching { generation, transition },
                cm_core::store::Record::Committed { generation },
            ])
            .unwrap();
    }
    let (exit, text) = host.run("--store kept generations");
    assert_eq!(exit, Exit::Done, "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows[1..], [vec!["2", "current", "2"], vec!["1", "kept", "1"]]);
    host.shows(
        "--store kept diff",
        Exit::Done,
        &expect![[r#"
            from generation 1 to generation 2
            added    target:b
        "#]],
    );
    let first = expect!["from nothing to generation 1, the first\nadded    target:a\n"];
    host.shows("--store kept diff 0 1", Exit::Done, &first);
    let same = expect!["from generation 1 to generation 1: nothing that is declared differs\n"];
    host.shows("--store kept diff 1 1", Exit::Done, &same);
    host.shows("--store kept history", Exit::Done, &expect!["nothing was replaced\n"]);
    host.shows(
        "--store other generations",
        Exit::NotKept,
        &expect![[r#"
            [stderr]
            initctl: cannot read store DIR/other: there is no store in this directory
        "#]],
    );
}
