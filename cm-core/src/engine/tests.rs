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

pub(super) fn service() -> Service {
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

pub(super) fn file(path: &str, size: u64) -> File {
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
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot, release: false });
    assert_eq!(w.state(Kind::Service, "web"), "ready", "{:?}", w.seen);
    assert_eq!(w.state(Kind::File, "/etc/web"), "repaired");
    assert!(w.engine.is_converged());
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Answer { request: 1, verdict: Verdict::Done, .. })));

    let second = w.engine.install(manifest(2));
    w.send(Event::Swapped { request: 2, manifest: second, generation: 2, kind: Swap::Apply, release: false });
    w.run_timers();
    let done = w.seen.iter().any(|e| matches!(e, Effect::Answer { request: 2, verdict: Verdict::Done, .. }));
    assert!(done, "{:#?}", w.seen);
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Signal { signal: 1, .. })), "reloaded");
    assert_eq!(w.seen.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count(), 1, "not restarted");
    assert_eq!(w.state(Kind::File, "/etc/web"), "changed");

    let third = w.engine.install(units::Manifest::empty());
    w.send(Event::Swapped { request: 3, manifest: third, generation: 3, kind: Swap::Apply, release: false });
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
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot, release: false });
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
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot, release: false });
    let manifests = w.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = w.engine.nodes().map(|n| (n, w.engine.record(n).unwrap())).collect();
    let again = Engine::restore(manifests, &w.engine.globals(), records).unwrap();
    assert_eq!(again.globals(), w.engine.globals());
    for node in w.engine.nodes() {
        assert_eq!(again.record(node), w.engine.record(node));
        assert_eq!(again.status(node), w.engine.status(node));
    }
    assert_eq!((again.busy, &again.lists, again.up), (w.engine.busy, &w.engine.lists, w.engine.up));
}

#[test]
fn a_repair_that_is_undone_again_and_again_is_contested() {
    let mut w = World::new();
    let first = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest: first, generation: 1, kind: Swap::Boot, release: false });
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
    let cause = |w: &World| w.engine.status(node).cause;
    assert_eq!(cause(&w), "contested: somebody keeps changing it");
    let who = format!("sh (pid 7, {})", "/long/path".repeat(20));
    w.send(Event::CulpritSeen { node, who: who.clone() });
    assert_eq!(cause(&w), format!("contested: {who} keeps changing it"));
    let manifests = w.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = w.engine.nodes().map(|n| (n, w.engine.record(n).unwrap())).collect();
    let again = Engine::restore(manifests, &w.engine.globals(), records).unwrap();
    assert_eq!(again.status(node).cause, cause(&w), "it is known after a re-exec");
    w.kept = true;
    w.run_timers();
    assert_eq!(w.state(Kind::File, "/etc/web"), "kept", "left alone, it is right again");
    w.send(Event::CulpritSeen { node, who });
    assert_eq!(cause(&w), "", "nobody is blamed when it is over");
    assert_eq!(w.state(Kind::Service, "web"), "ready");
}

/// A world that is told what to say, one event at a time.
fn tell(w: &mut World, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    w.now += 1;
    w.engine.step(Mono(w.now), event, &mut out);
    assert_eq!(w.engine.audit(), None);
    assert_eq!(w.engine.stands_still(), None);
    out
}

fn one_service(change: impl FnOnce(&mut Service)) -> (World, Vec<Effect>) {
    let mut spec = service();
    change(&mut spec);
    let mut b = ManifestBuilder::new();
    b.unit(NewUnit::new(Kind::Service, "web", Spec::Service(Box::new(spec))));
    let mut w = World::new();
    let manifest = w.engine.install(b.finish());
    let out = tell(
        &mut w,
        Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false },
    );
    (w, out)
}

/// Simulator: bounded memory, seed 262.
#[test]
fn forked_without_a_daemon_is_not_ready() {
    let (mut w, _) = one_service(|s| s.ready = units::kind::service::Ready::Forked);
    tell(&mut w, Event::Spawned { serial: 1 });
    tell(&mut w, Event::CgroupEmpty { serial: 1 });
    tell(&mut w, Event::Exited { serial: 1, exit: Exit::Code(0) });
    assert_ne!(w.state(Kind::Service, "web"), "ready");
}

/// Simulator: no defect, seed 309.
#[test]
fn a_path_may_be_seen_before_the_spawn_is_confirmed() {
    let (mut w, _) = one_service(|s| s.ready = units::kind::service::Ready::Path("/run/web".into()));
    tell(&mut w, Event::Exited { serial: 1, exit: Exit::Code(0) });
    let out = tell(&mut w, Event::Spawned { serial: 2 });
    assert_eq!(w.state(Kind::Service, "web"), "ready");
    assert!(!out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.starts_with("defect"))));
}

/// Simulator: one answer, seed 1178.
#[test]
fn a_path_that_cannot_be_waited_for_ends_the_start() {
    let (mut w, _) = one_service(|s| {
        s.ready = units::kind::service::Ready::Path("/run/web".into());
        s.start_timeout = 0;
    });
    tell(&mut w, Event::Spawned { serial: 2 });
    let out = tell(&mut w, Event::SpawnFailed { serial: 1, stage: "fork".into(), errno: 11 });
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { serial: 2, signal: 15 })), "{out:?}");
}

/// Simulator: one answer, seed 485.
#[test]
fn a_stop_ends_with_its_hanging_stop_command() {
    let (mut w, _) = one_service(|s| s.stop = Some(vec!["/bin/stop".into()]));
    tell(&mut w, Event::Spawned { serial: 1 });
    let node = w.engine.node(&Address::new(Kind::Service, "web")).unwrap();
    let ask = Event::Asked { request: 2, verb: event::Verb::Stop, node, note: "me".into(), until: None };
    tell(&mut w, ask);
    tell(&mut w, Event::Exited { serial: 1, exit: Exit::Code(0) });
    tell(&mut w, Event::CgroupEmpty { serial: 1 });
    assert_eq!(w.state(Kind::Service, "web"), "stopping", "its stop command may be cleaning up");
    w.now = w.engine.next_deadline().unwrap().0;
    let out = tell(&mut w, Event::Tick);
    assert!(
        out.iter().any(|e| matches!(e, Effect::Answer { request: 2, verdict: Verdict::Done, .. })),
        "{out:?}"
    );
}

/// Simulator: one answer; a worker that died with a record is asked once more, and then it is an error.
#[test]
fn a_record_that_dies_with_the_worker_is_written_again() {
    let (mut w, _) = one_service(|_| {});
    tell(&mut w, Event::Spawned { serial: 1 });
    let manifest = w.engine.install(units::Manifest::empty());
    let store =
        |out: &[Effect]| out.iter().any(|e| matches!(e, Effect::Store { op: StoreOp::Switching { .. }, .. }));
    assert!(store(&tell(
        &mut w,
        Event::Swapped { request: 2, manifest, generation: 2, kind: Swap::Apply, release: false }
    )));
    assert!(store(&tell(&mut w, Event::WorkerLost)));
    let out = tell(&mut w, Event::WorkerLost);
    assert!(
        out.iter().any(|e| matches!(e, Effect::Answer { request: 2, verdict: Verdict::Failed, .. })),
        "{out:?}"
    );
}

/// Simulator: last apply wins, seed 126.
#[test]
fn a_superseding_apply_that_cannot_begin_returns_what_it_superseded() {
    let (mut w, _) = one_service(|_| {});
    tell(&mut w, Event::Spawned { serial: 1 });
    let first = w.engine.install(units::Manifest::empty());
    tell(
        &mut w,
        Event::Swapped { request: 2, manifest: first, generation: 2, kind: Swap::Apply, release: false },
    );
    tell(&mut w, Event::Recorded { token: 1, error: None });
    let second = w.engine.install(manifest(3));
    tell(
        &mut w,
        Event::Swapped { request: 3, manifest: second, generation: 3, kind: Swap::Apply, release: false },
    );
    tell(&mut w, Event::Recorded { token: 2, error: Some("no space".into()) });
    assert_eq!(w.engine.desired().1, 1, "back where the first of the two began");
}

#[test]
fn more_time_moves_the_deadline_and_never_brings_it_nearer() {
    let (mut w, _) = one_service(|s| {
        s.ready = units::kind::service::Ready::Notify;
        s.start_timeout = 1_000;
    });
    tell(&mut w, Event::Spawned { serial: 1 });
    let first = w.engine.next_deadline().unwrap();
    tell(&mut w, Event::Extended { serial: 1, ms: 5_000 });
    let later = w.engine.next_deadline().unwrap();
    assert!(later.0 >= first.0 + 3_900_000_000, "{first:?} {later:?}");
    tell(&mut w, Event::Extended { serial: 1, ms: 10 });
    assert_eq!(w.engine.next_deadline(), Some(later));
    w.now = later.0;
    let out = tell(&mut w, Event::Tick);
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 15, .. })), "{out:?}");
    assert_eq!(w.state(Kind::Service, "web"), "stopping");
    let stop = w.engine.next_deadline().unwrap();
    tell(&mut w, Event::Extended { serial: 1, ms: 60_000 });
    assert!(w.engine.next_deadline().unwrap() > stop, "a stop may take longer too");
}

#[test]
fn a_service_sets_its_own_watchdog_until_its_process_ends() {
    let (mut w, _) = one_service(|_| ());
    tell(&mut w, Event::Spawned { serial: 1 });
    assert_eq!((w.state(Kind::Service, "web"), w.engine.next_deadline()), ("ready", None));
    tell(&mut w, Event::WatchdogSet { serial: 1, ms: 2_000 });
    let first = w.engine.next_deadline().unwrap();
    w.now += 1_000_000_000;
    tell(&mut w, Event::Watchdog { serial: 1 });
    let second = w.engine.next_deadline().unwrap();
    assert!(second > first, "a sign of life starts it anew");
    w.now = second.0;
    let out = tell(&mut w, Event::Tick);
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 6, .. })), "{out:?}");
    tell(&mut w, Event::Exited { serial: 1, exit: Exit::Signal(6) });
    tell(&mut w, Event::CgroupEmpty { serial: 1 });
    tell(&mut w, Event::Spawned { serial: 2 });
    assert_eq!(
        (w.state(Kind::Service, "web"), w.engine.next_deadline()),
        ("ready", None),
        "it has asked for none"
    );
    tell(&mut w, Event::WatchdogSet { serial: 2, ms: 2_000 });
    tell(&mut w, Event::WatchdogSet { serial: 2, ms: 0 });
    assert_eq!(w.engine.next_deadline(), None, "0 is no watchdog");
}

#[test]
fn a_service_that_says_it_is_broken_is_stopped_though_it_survives_the_abort() {
    let (mut w, _) = one_service(|_| ());
    tell(&mut w, Event::Spawned { serial: 1 });
    let out = tell(&mut w, Event::Broken { serial: 1 });
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 6, .. })), "{out:?}");
    assert_eq!(w.state(Kind::Service, "web"), "stopping");
    w.now = w.engine.next_deadline().unwrap().0;
    let out = tell(&mut w, Event::Tick);
    assert!(out.iter().any(|e| matches!(e, Effect::Kill { serial: 1 })), "{out:?}");
    tell(&mut w, Event::Exited { serial: 1, exit: Exit::Signal(9) });
    tell(&mut w, Event::CgroupEmpty { serial: 1 });
    assert_eq!(w.state(Kind::Service, "web"), "starting", "it counts as a bad exit");
    tell(&mut w, Event::Broken { serial: 2 });
    assert_eq!(w.state(Kind::Service, "web"), "stopping", "also before it is ready");
}

#[test]
fn a_service_without_its_user_fails_and_starts_when_the_user_is_declared() {
    let with = |user: bool| {
        let mut b = ManifestBuilder::new();
        b.unit(NewUnit::new(Kind::Service, "web", Spec::Service(Box::new(service()))));
        if user {
            // Any unit does: what counts is that it depends on one more.
            b.unit(NewUnit::new(Kind::File, "/etc/web", Spec::File(file("/etc/web", 1))));
            let (web, dep) = (Address::new(Kind::Service, "web"), Address::new(Kind::File, "/etc/web"));
            b.edge(&web, &dep, EdgeKind::Requires, "its user");
        }
        b.finish()
    };
    let mut w = World::new();
    let manifest = w.engine.install(with(false));
    tell(&mut w, Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false });
    tell(&mut w, Event::SpawnFailed { serial: 1, stage: "user web does not exist".into(), errno: 3 });
    assert_eq!((w.state(Kind::Service, "web"), w.engine.next_deadline()), ("failed", None));
    let manifest = w.engine.install(with(false));
    w.send(Event::Swapped { request: 2, manifest, generation: 2, kind: Swap::Apply, release: false });
    assert_eq!(w.state(Kind::Service, "web"), "failed", "nothing that it needs has come");
    w.run_timers();
    let manifest = w.engine.install(with(true));
    w.send(Event::Swapped { request: 3, manifest, generation: 3, kind: Swap::Apply, release: false });
    assert_eq!(w.state(Kind::Service, "web"), "ready", "{:#?}", w.seen);
}

#[test]
fn a_mount_that_waits_for_its_device_says_which() {
    use units::kind::mount::Mount;
    let disk = |path: &str, source: &str, fstype: &str| Mount {
        path: path.into(),
        source: source.into(),
        fstype: fstype.into(),
        ..Mount::default()
    };
    let mut b = ManifestBuilder::new();
    b.unit(NewUnit::new(Kind::Mount, "/var", Spec::Mount(disk("/var", "LABEL=data", "ext4"))));
    b.unit(NewUnit::new(Kind::Mount, "/tmp", Spec::Mount(disk("/tmp", "tmpfs", "tmpfs"))));
    let mut engine = Engine::new();
    let number = engine.install(b.finish());
    let mut out = Vec::new();
    let swapped =
        Event::Swapped { request: 0, manifest: number, generation: 0, kind: Swap::Boot, release: false };
    engine.step(Mono(1), swapped, &mut out);
    let node = |engine: &Engine, path: &str| engine.node(&Address::new(Kind::Mount, path)).unwrap();
    let cause = |engine: &Engine, path: &str| {
        let status = engine.status(node(engine, path));
        (status.state, status.cause)
    };
    assert_eq!(cause(&engine, "/var"), ("starting", "mounting LABEL=data, once that is there".to_owned()));
    assert_eq!(cause(&engine, "/tmp"), ("starting", String::new()));

    // Its helper has waited for a while: once nothing else is under way, nobody can tell when the machine converges.
    let mounting = [node(&engine, "/var"), node(&engine, "/tmp")];
    let serial = |path: &str, out: &[Effect]| {
        let of = node(&engine, path);
        let spawn = |e: &Effect| match e {
            Effect::Spawn { node, serial, .. } if *node == of => Some(*serial),
            _ => None,
        };
        out.iter().find_map(spawn).unwrap()
    };
    let (var, tmp) = (serial("/var", &out), serial("/tmp", &out));
    let why = format!("{DEVICE_LATE} LABEL=data, which is not there");
    engine.step(Mono(2), Event::Explained { serial: var, why: why.clone() }, &mut out);
    assert_eq!(cause(&engine, "/var"), ("waiting", why));
    assert!(!engine.only_awaits_devices(mounting.into_iter()), "the other one is being mounted");
    engine.step(Mono(3), Event::Exited { serial: tmp, exit: Exit::Code(0) }, &mut out);
    assert!(engine.only_awaits_devices(mounting.into_iter()));
    engine.step(Mono(4), Event::Exited { serial: var, exit: Exit::Code(0) }, &mut out);
    assert_eq!(cause(&engine, "/var"), ("ready", String::new()));
    assert!(!engine.only_awaits_devices(mounting.into_iter()));
}

/// The counters are kept by telling the neighbours: an engine that tells nobody is found out by the audit.
#[test]
fn the_audit_finds_what_nobody_was_told() {
    let mut builder = ManifestBuilder::new();
    for name in ["db", "web"] {
        builder.unit(NewUnit::new(Kind::Service, name, Spec::Service(Box::new(service()))));
    }
    let of = |name| Address::new(Kind::Service, name);
    builder.edge(&of("web"), &of("db"), EdgeKind::Requires, "");
    let mut engine = Engine::new();
    let manifest = engine.install(builder.finish());
    let swap = Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false };
    engine.step(Mono(1), swap, &mut Vec::new());
    let mut mutant = engine.clone();
    engine.step(Mono(2), Event::Spawned { serial: 1 }, &mut Vec::new());
    assert_eq!(engine.audit(), None);
    // A step of the mutant is as any other, but that what would travel along the edges is dropped.
    let node = mutant.node(&of("db")).unwrap();
    mutant.handle(Event::Spawned { serial: 1 });
    let cut = mutant.gens.get_mut(&manifest).map(|g| std::mem::replace(&mut g.node_of, vec![u32::MAX; 2]));
    mutant.refresh(node);
    mutant.gens.get_mut(&manifest).unwrap().node_of = cut.unwrap();
    mutant.settle();
    let found = mutant.audit();
    assert!(found.as_ref().is_some_and(|f| f.contains("counter not_ok is 1, counted 0")), "{found:?}");
}

#[test]
fn effects_of_a_step_name_what_left_in_it() {
    let with = |names: &[&str]| {
        let mut b = ManifestBuilder::new();
        for name in names {
            b.unit(NewUnit::new(Kind::Target, *name, Spec::Target(units::kind::target::Target {})));
        }
        b.finish()
    };
    let mut w = World::new();
    for (generation, names) in [(1, &["a", "b"][..]), (2, &["a"])] {
        let manifest = w.engine.install(with(names));
        w.seen.clear();
        let event =
            Event::Swapped { request: generation, manifest, generation, kind: Swap::Boot, release: false };
        let mut out = Vec::new();
        w.engine.step(Mono(generation), event, &mut out);
        let told: Vec<String> = out
            .iter()
            .filter_map(|e| match e {
                Effect::Publish { node, text } => Some(format!("{} {text}", w.engine.address(*node))),
                _ => None,
            })
            .collect();
        let want: &[&str] =
            if generation == 1 { &["target:a ready", "target:b ready"] } else { &["target:b gone"] };
        assert_eq!(told, want);
    }
}

/// Most looks follow upon our own change, and an apply of what is there already changes nothing.
#[test]
fn what_is_as_it_was_is_no_news() {
    let mut w = World::new();
    let manifest = w.engine.install(manifest(1));
    w.send(Event::Swapped { request: 1, manifest, generation: 1, kind: Swap::Boot, release: false });
    w.run_timers();
    assert_eq!(w.state(Kind::File, "/etc/web"), "repaired");
    let node = w.engine.node(&Address::new(Kind::File, "/etc/web")).unwrap();
    (w.kept, w.seen) = (true, Vec::new());
    w.send(Event::Touched { nodes: vec![node] });
    w.run_timers();
    assert!(w.seen.iter().any(|e| matches!(e, Effect::Batch { .. })), "nobody looked: {:?}", w.seen);
    let news = w.seen.iter().find(|e| matches!(e, Effect::Publish { node: n, .. } if *n == node));
    assert_eq!(news, None);
    assert_eq!(w.state(Kind::File, "/etc/web"), "repaired");

    let same = w.engine.install(self::manifest(1));
    w.send(Event::Swapped { request: 2, manifest: same, generation: 2, kind: Swap::Apply, release: false });
    let answer = w.seen.iter().find_map(|e| match e {
        Effect::Answer { request: 2, tally, .. } => Some(*tally),
        _ => None,
    });
    assert_eq!(answer.map(|t| (t.kept, t.repaired)), Some((2, 0)));
}
