//! The switch table, and the difference between two manifests.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use units::diff::{Change, Switch, manifests, switch};
use units::kind::service::Service;
use units::load::MemoryLoader;
use units::{Kind, Manifest, compile};

fn manifest(state: &str) -> Manifest {
    let mut loader = MemoryLoader::new().file("state.toml", state);
    let c = compile("state.toml", &mut loader);
    c.manifest.unwrap_or_else(|| panic!("{:?}", c.diagnostics))
}

fn service(keys: &str) -> Service {
    let m = manifest(&format!("[service.a]\n{keys}"));
    *m.service(m.find(Kind::Service, "a").unwrap()).unwrap()
}

#[test]
fn the_switch_table() {
    let base = "exec = ['a']\n";
    let cases: [(&str, &str, Switch, &[&str]); 14] = [
        ("", "", Switch::Nothing, &[]),
        (
            "",
            "restart-max = '9s'\nlog-keep = 9\nstop-timeout = '1s'",
            Switch::Nothing,
            &["log-keep", "stop-timeout", "restart-max"],
        ),
        ("", "reload = 'HUP'", Switch::Nothing, &["reload"]),
        ("", "start = 'manual'\nwrites = ['/x']", Switch::Nothing, &["start", "writes"]),
        ("", "user = 'web'\nrestart-max = '9s'", Switch::Restart, &["user"]),
        ("", "environment = { A = 'b' }", Switch::Restart, &["environment"]),
        ("", "watchdog = '5s'", Switch::Restart, &["watchdog"]),
        ("", "nice = 5\nswitch = 'keep'", Switch::Keep, &["nice"]),
        ("", "nice = 5\nswitch = 'stop-start'", Switch::StopStart, &["nice"]),
        ("", "nice = 5\nswitch = 'reload'\nreload = 'HUP'", Switch::Reload, &["nice"]),
        ("", "nice = 5\nswitch = 'reload'", Switch::Restart, &["nice"]),
        ("stop = 'a stop'", "stop = 'a stop'\nnice = 5", Switch::StopStart, &["nice"]),
        ("stop = 'a stop'", "", Switch::Nothing, &["stop"]),
        ("limits = { nofile = 5 }", "ready = 'notify'", Switch::Restart, &["ready", "limits"]),
    ];
    for (old, new, what, keys) in cases {
        let d = switch(&service(&format!("{base}{old}")), &service(&format!("{base}{new}")));
        assert_eq!((d.switch, d.keys.as_slice()), (what, keys), "{old:?} → {new:?}");
    }
}

/// A line a unit: sign, address, keys.
fn lines(old: &Manifest, new: &Manifest) -> Vec<String> {
    let line = |c| match c {
        Change::Added(id) => format!("+ {}", new.address(id)),
        Change::Removed(id) => format!("- {}", old.address(id)),
        Change::Changed { new: id, keys, spec, .. } => {
            format!("{} {} {}", if spec { "~" } else { "e" }, new.address(id), keys.join(" "))
        }
        Change::Same { new: id, .. } => format!("= {}", new.address(id)),
    };
    manifests(old, new).map(line).collect()
}

#[test]
fn manifests_are_compared_unit_by_unit() {
    let old = manifest(
        "[target.a]\n[target.b]\n[file.'/x']\ncontent = '1'\nmode = '0600'\n[file.'/y']\n[service.s]\nexec = ['s']\n",
    );
    let new = manifest(
        "[target.a]\nrequires = ['file:/x']\n[target.c]\n[file.'/x']\ncontent = '2'\n[file.'/y']\nsettle = '1s'\ndrift = 'report'\n[service.s]\nexec = ['s']\ndescription = 'no matter'\n",
    );
    assert_eq!(
        lines(&old, &new),
        [
            "= service:s",
            "~ file:/x content mode",
            "~ file:/y drift settle",
            "e target:a requires",
            "- target:b",
            "+ target:c",
        ]
    );
    assert!(lines(&old, &old).iter().all(|l| l.starts_with('=')));
    let empty = Manifest::empty();
    assert_eq!(lines(&empty, &old).iter().filter(|l| l.starts_with('+')).count(), old.len());
    assert_eq!(lines(&old, &empty).iter().filter(|l| l.starts_with('-')).count(), old.len());
}
