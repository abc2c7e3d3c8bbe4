//! The smallest stories: one service, one file, one apply.

use units::kind::Spec;
use units::kind::file::File;
use units::kind::service::Service;
use units::manifest::NewUnit;
use units::{EdgeKind, Kind, ManifestBuilder};

use super::effect::Verdict;
use super::event::{Exit, Swap};
use super::*;
use crate::proto::{Outcome, UnitResult};

fn service() -> Service {
    Service {
        exec: vec!["/bin/true".into()],
        ready: units::kind::service::Ready::Started,
        pid_file: None,
        user: None,
        group: None,
        groups: vec![],
        environment: vec![],
        directory: None,
        umask: 0o22,
        limits: vec![],
        cgroup: vec![],
        nice: 0,
        oom_score: 0,
        tty: None,
        log: units::kind::service::Log::File,
        log_size: 1 << 20,
        log_keep: 3,
        stop_signal: 15,
        stop: None,
        stop_timeout: 10_000,
        start_timeout: 30_000,
        reload: Some(units::kind::service::Reload::Signal(1)),
        reload_timeout: 30_000,
        restart: units::kind::service::Restart::Always,
        restart_delay: 100,
        restart_max: 30_000,
        restart_limit: 10,
        healthy: 10_000,
        watchdog: 0,
        start: units::kind::service::Start::Boot,
        switch: units::kind::service::SwitchMethod::Auto,
        writes: vec![],
        success: vec![],
        secret: false,
    }
}

fn file(path: &str, size: u64) -> File {
    File {
        path: path.into(),
        content: Some(units::kind::Content { digest: [7; 32], size }),
        attributes: units::kind::Attributes::default(),
        ownership: units::kind::file::Ownership::Whole,
        secret: false,
    }
}

fn manifest(size: u64) -> units::Manifest {
    let mut b = ManifestBuilder::new();
    b.unit(NewUnit::new(Kind::Service, "web", Spec::Service(Box::new(service()))));
    b.unit(NewUnit::new(Kind::File, "/etc/web", Spec::File(file("/etc/web", size))));
    let web = Address::new(Kind::Service, "web");
    let conf = Address::new(Kind::File, "/etc/web");
    b.edge(&web, &conf, EdgeKind::Requires, "its input");
    b.edge(&web, &conf, EdgeKind::ReloadOn, "");
    b.finish()
}

/// An engine with a world that does what it is told, at once.
struct World {
    engine: Engine,
    now: u64,
    seen: Vec<Effect>,
    /// Whether the worker finds everything right.
    kept: bool,
}

impl World {
    fn new() -> World {
        World { engine: Engine::new(), now: 1, seen: vec![], kept: false }
    }

    fn send(&mut self, event: Event) {
        let mut out = Vec::new();
        self.now += 1;
        self.engine.step(Mono(self.now), event, &mut out);
        self.seen.extend(out.iter().cloned());
        for effect in out {
            match effect {
                Effect::Spawn { serial, .. } => self.send(Event::Spawned { serial }),
                Effect::Signal { serial, signal: 15 } => {
                    self.send(Event::Exited { serial, exit: Exit::Signal(15) });
                    self.send(Event::CgroupEmpty { serial });
                }
                Effect::Batch { batch, steps, .. } => {
                    let results = steps
                        .iter()
                        .map(|s| UnitResult {
                            manifest: s.manifest,
                            unit: s.unit,
                            outcome: match s.action {
                                crate::proto::Action::Remove => Outcome::Removed,
                                _ if self.kept => Outcome::Kept,
                                _ => Outcome::Changed,
                            },
                            detail: String::new(),
                        })
                        .collect();
                    self.send(Event::Results { batch, results });
                    self.send(Event::BatchDone { batch });
                }
                Effect::Store { token, .. } => self.send(Event::Recorded { token, error: None }),
                _ => {}
            }
        }
    }

    fn run_timers_until(&mut self, end: u64) {
        while let Some(at) = self.engine.next_deadline().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.send(Event::Tick);
        }
    }

    fn run_timers(&mut self) {
        while let Some(at) = self.engine.next_deadline() {
            self.now = self.now.max(at.0);
            self.send(Event::Tick);
        }
    }

    fn state(&self, kind: Kind, name: &str) -> &'static str {
        match self.engine.node(&Address::new(kind, name)) {
            Some(node) => self.engine.status(node).state,
            None => "absent",
        }
    }
}

#[test]
fn boots_applies_reloads_and_stops() {
    let mut w = World::new();
    let first = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot });
    assert_eq!(w.state(Kind::Service, "web"), "ready", "{:?}", w.seen);
    assert_eq!(w.state(Kind::File, "/etc/web"), "repaired");
    assert!(w.engine.is_converged());
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Answer { request: 1, verdict: Verdict::Done, .. })));

    let second = w.engine.install(manifest(2));
    w.send(Event::Swapped { request: 2, manifest: second, generation: 2, kind: Swap::Apply });
    w.run_timers();
    let done = w.seen.iter().any(|e| matches!(e, Effect::Answer { request: 2, verdict: Verdict::Done, .. }));
    assert!(done, "{:#?}", w.seen);
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Signal { signal: 1, .. })), "reloaded");
    assert_eq!(w.seen.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count(), 1, "not restarted");
    assert_eq!(w.state(Kind::File, "/etc/web"), "changed");

    let third = w.engine.install(units::Manifest::empty());
    w.send(Event::Swapped { request: 3, manifest: third, generation: 3, kind: Swap::Apply });
    w.run_timers();
    assert_eq!(w.state(Kind::Service, "web"), "absent", "{:#?}", w.seen);
    assert_eq!(w.state(Kind::File, "/etc/web"), "absent");
    assert_eq!(w.engine.nodes().count(), 0);
    assert_eq!(w.engine.manifests().count(), 1);

    w.send(Event::ShutdownAsked { down: event::Down::Poweroff });
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Leave { .. })));
}

#[test]
fn restarts_at_once_and_then_backs_off() {
    let mut w = World::new();
    let first = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot });
    let node = w.engine.node(&Address::new(Kind::Service, "web")).unwrap();
    for round in 0..2 {
        let serial = w.engine.status(node).serial;
        w.send(Event::Exited { serial, exit: Exit::Signal(9) });
        w.send(Event::CgroupEmpty { serial });
        assert_eq!(w.state(Kind::Service, "web"), if round == 0 { "ready" } else { "backoff" });
    }
    w.run_timers();
    assert_eq!(w.state(Kind::Service, "web"), "ready");
}

#[test]
fn records_restore_the_same_engine() {
    let mut w = World::new();
    let first = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot });
    let manifests = w.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = w.engine.nodes().map(|n| (n, w.engine.record(n).unwrap())).collect();
    let again = Engine::restore(manifests, &w.engine.globals(), records).unwrap();
    assert_eq!(again.globals(), w.engine.globals());
    for node in w.engine.nodes() {
        assert_eq!(again.record(node), w.engine.record(node));
        assert_eq!(again.status(node), w.engine.status(node));
    }
    assert_eq!((again.busy, again.bad, again.up), (w.engine.busy, w.engine.bad, w.engine.up));
}

#[test]
fn a_repair_that_is_undone_again_and_again_is_contested() {
    let mut w = World::new();
    let first = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot });
    let node = w.engine.node(&Address::new(Kind::File, "/etc/web")).unwrap();
    for _ in 0..FIGHT_REPAIRS {
        assert_ne!(w.state(Kind::File, "/etc/web"), "contested");
        w.send(Event::Touched { nodes: vec![node] });
        w.run_timers_until(w.now + 1_000_000_000);
        // The repair is an event as well; what is found then is right.
        w.kept = true;
        w.send(Event::Touched { nodes: vec![node] });
        w.run_timers_until(w.now + 1_000_000_000);
        w.kept = false;
    }
    assert_eq!(w.state(Kind::File, "/etc/web"), "contested");
    w.kept = true;
    w.run_timers();
    assert_eq!(w.state(Kind::File, "/etc/web"), "kept", "left alone, it is right again");
    assert_eq!(w.state(Kind::Service, "web"), "ready");
}
