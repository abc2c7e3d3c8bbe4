//! Plans of small machines, and what holds for every plan.

use proptest::prelude::*;
use units::kind::exec::Exec;
use units::kind::file::{File, Ownership};
use units::kind::mount::Mount;
use units::kind::sysctl::Sysctl;
use units::kind::target::Target;
use units::kind::{Attributes, Content};
use units::load::MemoryLoader;
use units::manifest::{ManifestBuilder, NewUnit};
use units::{Address, EdgeKind, Kind};

use super::*;

fn compiled(text: &str) -> Manifest {
    let mut loader = MemoryLoader::new().file("state.toml", text);
    let compiled = units::compile::compile("state.toml", &mut loader);
    compiled.manifest.unwrap_or_else(|| {
        panic!(
            "{}",
            compiled
                .diagnostics
                .iter()
                .map(|d| units::diagnostic::render(d, &compiled.sources))
                .collect::<String>()
        )
    })
}

/// The plan as lines `verb unit: reason`, with `found` for the units that are named.
fn lines(running: &str, desired: &str, found: &[(&str, Found)]) -> Vec<String> {
    let (running, desired) = (compiled(running), compiled(desired));
    let observe = |subject| {
        let address = match subject {
            Subject::Declared(id) => desired.address(id),
            Subject::Leaving(id) => running.address(id),
        };
        let found = found.iter().find(|(a, _)| *a == address.to_string());
        Observation { found: found.map_or(Found::Right, |(_, f)| f.clone()), ..Observation::default() }
    };
    plan(&running, &desired, &observe)
        .iter()
        .map(|p| {
            let address = match p.subject {
                Subject::Declared(id) => desired.address(id),
                Subject::Leaving(id) => running.address(id),
            };
            let way = if p.one_way { " (one way)" } else { "" };
            format!("{} {address}{way}: {}", p.verb.word(), p.reason)
        })
        .filter(|l| !l.starts_with("nothing") || !l.ends_with(": "))
        .collect()
}

const WEB: &str = r#"
[file."/etc/web.conf"]
content = "old"
[file."/etc/left"]
content = "old"
[service.web]
exec = ["web"]
reload = "HUP"
requires = ["file:/etc/web.conf"]
reload-on = ["file:/etc/web.conf"]
[service.gone]
exec = ["gone"]
"#;

/// What an apply of what is current would do about a service.
fn again(seen: &Observation) -> (Verb, String) {
    again_of("[service.web]\nexec = [\"web\"]\nreload = [\"reload\"]\n", seen)
}

fn again_of(state: &str, seen: &Observation) -> (Verb, String) {
    let manifest = compiled(state);
    let observe = |_| Observation { again: true, ..seen.clone() };
    let planned = plan(&manifest, &manifest, &observe);
    planned.into_iter().next_back().map(|p| (p.verb, p.reason)).unwrap()
}

#[test]
fn what_is_current_is_applied_to_what_has_failed() {
    let failed =
        Observation { found: Found::NotUp("failed: exited with 1".into()), ..Observation::default() };
    assert_eq!(again(&failed), (Verb::Start, "it is failed: exited with 1".to_owned()));
    let held = Observation { held: Some("by root".into()), ..failed.clone() };
    assert_eq!(again(&held).0, Verb::Nothing);
    let stale = Observation { found: Found::Right, stale: true, ..Observation::default() };
    assert_eq!(again(&stale).0, Verb::Reload);
    assert_eq!(again(&Observation { held: Some("by root".into()), ..stale.clone() }).0, Verb::Nothing);
    let (verb, why) = again_of("[service.web]\nexec = [\"web\"]\n", &stale);
    let text = "it has not loaded its configuration yet, and it has no way to reload";
    assert_eq!((verb, why.as_str()), (Verb::Restart, text));
    let inputs =
        "[service.web]\nexec = [\"web\"]\nreload = [\"reload\"]\nrestart-on = [\"target:x\"]\n[target.x]\n";
    assert_eq!(again_of(inputs, &stale).0, Verb::Restart);
    // A command that was held is asked for its guard once more.
    let due = Observation {
        found: Found::Due("nothing guards it".into()),
        ready: Some(true),
        ..Observation::default()
    };
    let command = "[exec.once]\ncommand = [\"once\"]\nunless = [\"done\"]\n";
    assert_eq!(again_of(command, &due).0, Verb::Nothing);
    assert_eq!(again_of(command, &Observation { lifted: true, ..due }).0, Verb::Start);
    assert_eq!(again(&Observation { found: Found::Right, ..Observation::default() }).0, Verb::Nothing);
    let other = Observation { found: failed.found, ..Observation::default() };
    let manifest = compiled("[service.web]\nexec = [\"web\"]\n");
    assert_eq!(plan(&manifest, &manifest, &|_| other.clone())[0].verb, Verb::Nothing);
}

#[test]
fn a_changed_file_reloads_who_says_so() {
    let desired = WEB
        .replacen("old", "new", 1)
        .replace("[service.gone]\nexec = [\"gone\"]\n", "")
        .replace("[file.\"/etc/left\"]\ncontent = \"old\"\n", "");
    let found = [
        ("file:/etc/web.conf", Found::Wrong(vec!["content differs".to_owned()])),
        ("file:/etc/left", Found::Left("it was there before it was declared".to_owned())),
    ];
    assert_eq!(
        lines(WEB, &desired, &found),
        [
            "nothing file:/etc/left: no longer declared; left: it was there before it was declared",
            "stop service:gone: no longer declared",
            "change file:/etc/web.conf: content differs",
            "reload service:web: file:/etc/web.conf changed",
        ]
    );
}

#[test]
fn a_state_is_not_said_twice_with_its_cause() {
    let said = |state, cause| Found::of_service(Some((state, cause)));
    assert_eq!(
        said("waiting", "waiting: target:net (waiting)"),
        Found::NotUp("waiting: target:net (waiting)".into())
    );
    assert_eq!(said("failed", "exit code 1"), Found::NotUp("failed: exit code 1".into()));
}

#[test]
fn a_changed_command_restarts_and_a_quiet_key_does_not() {
    let restarted = WEB.replace("exec = [\"web\"]", "exec = [\"web\", \"-v\"]");
    assert_eq!(lines(WEB, &restarted, &[]), ["restart service:web: exec changed"]);
    let quiet = WEB.replace("reload = \"HUP\"", "reload = \"HUP\"\nrestart-delay = \"3s\"");
    assert_eq!(
        lines(WEB, &quiet, &[]),
        ["nothing service:web: its declaration changed: restart-delay; the running process need not notice"]
    );
    let failed = [("service:web", Found::NotUp("failed: exit code 1".to_owned()))];
    assert_eq!(
        lines(WEB, &restarted, &failed),
        ["start service:web: its declaration changed: exec; it was failed: exit code 1"]
    );
}

#[test]
fn a_mount_that_is_made_anew_takes_its_users_along() {
    let before = "[mount.\"/srv\"]\nfstype = \"tmpfs\"\n[file.\"/srv/a\"]\ncontent = \"a\"\n\
                  [service.a]\nexec = [\"a\"]\nrequires = [\"file:/srv/a\"]\n[service.b]\nexec = [\"b\"]\n";
    let after = before.replace("fstype", "options = [\"size=1M\"]\nfstype");
    assert_eq!(
        lines(before, &after, &[]),
        [
            "restart mount:/srv: its declaration changed: options; it is unmounted and mounted again",
            "restart service:a: it requires file:/srv/a, which goes down in between",
        ]
    );
}

#[test]
fn what_cannot_be_taken_back_is_marked_and_comes_late() {
    let desired = "[exec.a]\ncommand = [\"true\"]\nonce = \"ever\"\n[sysctl.\"vm.swappiness\"]\nvalue = 1\n\
                   [user.late]\n";
    let found = [
        ("exec:a", Found::Due("it has never run".to_owned())),
        ("user:late", Found::Missing),
        ("sysctl:vm.swappiness", Found::Wrong(vec!["is 60, should be 1".to_owned()])),
    ];
    let planned = lines("", desired, &found);
    assert_eq!(planned.last().unwrap(), "start exec:a (one way): newly declared; it has never run");
    assert_eq!(planned.len(), 3);
}

#[test]
fn drift_of_what_did_not_change_is_named_as_drift() {
    let found = [("file:/etc/web.conf", Found::Wrong(vec!["mode 0600, should be 0644".to_owned()]))];
    assert_eq!(lines(WEB, WEB, &found), ["change file:/etc/web.conf: drifted: mode 0600, should be 0644"]);
}

/// A unit of a random kind; `variant` decides what it says.
/// A plan from the first state to the second on a machine on which everything is as in the first, but for what a hand has
/// stopped.
fn beside_stopped(running: &str, desired: &str, stopped: &str) -> Vec<String> {
    let (running, desired) = (compiled(running), compiled(desired));
    let observe = |subject| {
        let (address, known) = match subject {
            Subject::Declared(id) => {
                let address = desired.address(id);
                let known = running.find(address.kind, &address.name).is_some();
                (address.to_string(), known)
            }
            Subject::Leaving(id) => (running.address(id).to_string(), true),
        };
        let stopped = address == stopped;
        let up = known && !stopped;
        let found = if up { Found::Right } else { Found::NotUp("down".to_owned()) };
        let held = stopped.then(|| "by hand".to_owned());
        Observation { found, held, stopped, ready: Some(up), ..Observation::default() }
    };
    let planned = plan(&running, &desired, &observe);
    planned.iter().map(|p| format!("{:?}: {}", p.verb, p.reason)).collect()
}

/// Seed 61003135: it keeps to its old edges until the other one restarts, and follows only then.
#[test]
fn who_will_require_what_goes_is_taken_along_once_it_follows() {
    let before =
        "[service.db]\nexec = [\"db\"]\n[service.net]\nexec = [\"net\"]\n[service.web]\nexec = [\"web\"]\n";
    let after = before.replace("[\"net\"]", "[\"net\", \"-v\"]");
    let after = after.replace("[\"web\"]\n", "[\"web\"]\nrequires = [\"service:net\", \"service:db\"]\n");
    assert_eq!(
        beside_stopped(before, &after, "service:db"),
        [
            "Nothing: held by hand: left alone",
            "Restart: exec changed",
            "Stop: it will require service:db, which goes; waits for service:db",
        ]
    );
}

fn spec(kind: u8, name: &str, variant: u8) -> (Kind, Spec) {
    match kind % 5 {
        0 => (Kind::Target, Spec::Target(Target {})),
        1 => {
            let content = Some(Content { digest: [variant; 32], size: 1 });
            let (attributes, ownership) = (Attributes::default(), Ownership::Whole);
            (
                Kind::File,
                Spec::File(File { path: format!("/{name}"), content, attributes, ownership, secret: false }),
            )
        }
        2 => (Kind::Sysctl, Spec::Sysctl(Sysctl { key: name.to_owned(), value: variant.to_string() })),
        3 => {
            let (source, fstype) = ("tmpfs".to_owned(), "tmpfs".to_owned());
            let options = vec![format!("size={variant}M")];
            (
                Kind::Mount,
                Spec::Mount(Mount { path: format!("/{name}"), source, fstype, options, ..Mount::default() }),
            )
        }
        _ => {
            let exec = Exec { command: vec![variant.to_string()], ..Exec::default() };
            (Kind::Exec, Spec::Exec(Box::new(exec)))
        }
    }
}

prop_compose! {
    fn manifest()(
        units in prop::collection::vec((any::<u8>(), 0u8..12, 0u8..3), 0..12),
        edges in prop::collection::vec((0usize..12, 0usize..12, 0u8..6), 0..20),
    ) -> Manifest {
        let mut builder = ManifestBuilder::new();
        let mut all: Vec<Address> = Vec::new();
        for (kind, name, variant) in units {
            let name = format!("u{name}");
            let (kind, spec) = spec(kind, &name, variant);
            let name = if matches!(kind, Kind::File | Kind::Mount) { format!("/{name}") } else { name };
            all.push(Address::new(kind, name.clone()));
            builder.unit(NewUnit::new(kind, name, spec));
        }
        all.sort();
        all.dedup();
        for (from, to, kind) in edges {
            // From later to earlier: never a cycle.
            if let (Some(a), Some(b)) = (all.get(from.max(to)), all.get(from.min(to)))
                && a != b
            {
                builder.edge(a, b, EdgeKind::from_number(kind).unwrap(), "");
            }
        }
        builder.finish()
    }
}

fn right(_: Subject) -> Observation {
    Observation { found: Found::Right, ..Observation::default() }
}

fn unknown(_: Subject) -> Observation {
    Observation::default()
}

proptest! {
    #[test]
    fn a_machine_that_is_as_declared_needs_nothing(m in manifest()) {
        for planned in plan(&m, &m, &right) {
            prop_assert_eq!(planned.verb, Verb::Nothing, "{:?}", planned);
        }
    }

    #[test]
    fn every_unit_is_planned_exactly_once_and_after_what_it_needs(a in manifest(), b in manifest()) {
        let planned = plan(&a, &b, &unknown);
        let mut names: Vec<(bool, Address)> = planned
            .iter()
            .map(|p| match p.subject {
                Subject::Declared(id) => (true, b.address(id)),
                Subject::Leaving(id) => (false, a.address(id)),
            })
            .collect();
        let mut expected: Vec<(bool, Address)> = b.ids().map(|id| (true, b.address(id))).collect();
        let gone = |id: &UnitId| b.find(a.kind(*id), a.name(*id)).is_none();
        expected.extend(a.ids().filter(gone).map(|id| (false, a.address(id))));
        expected.sort();
        let order = names.clone();
        names.sort();
        prop_assert_eq!(names, expected);
        let at = |key: &(bool, Address)| order.iter().position(|k| k == key).unwrap();
        for id in b.ids() {
            for edge in b.deps(id) {
                prop_assert!(at(&(true, b.address(edge.unit))) < at(&(true, b.address(id))));
            }
        }
        for id in a.ids().filter(gone) {
            for edge in a.deps(id).filter(|e| gone(&e.unit)) {
                prop_assert!(at(&(false, a.address(edge.unit))) > at(&(false, a.address(id))));
            }
            prop_assert!(order.iter().take_while(|(declared, _)| !declared).count() > at(&(false, a.address(id))));
        }
    }

    #[test]
    fn what_differs_between_two_generations_is_named_with_a_reason(a in manifest(), b in manifest()) {
        let planned = plan(&a, &b, &unknown);
        for change in diff::manifests(&a, &b) {
            let subject = match change {
                Change::Added(new) | Change::Changed { new, .. } => Subject::Declared(new),
                Change::Removed(old) => Subject::Leaving(old),
                Change::Same { .. } => continue,
            };
            let line = planned.iter().find(|p| p.subject == subject).unwrap();
            prop_assert!(!line.reason.is_empty(), "{:?}", line);
        }
    }
}
