//! Stories of defects that the simulator or a reader found: each fails without its mending.

mod again;
mod byhand;
mod claims;
mod downs;
mod ends;
mod fights;
mod holds;
mod latched;
mod lost;
mod modules;
mod mounts;
mod noticed;
mod plans;
mod reloads;
mod returns;
mod starts;
mod told;

use units::kind::Spec;
use units::kind::exec::Exec;
use units::kind::service::{Ready, Reload, Restart, Service, SwitchMethod};
use units::manifest::{NewUnit, flags};
use units::{EdgeKind, Kind, Manifest, ManifestBuilder};

use super::effect::Verdict;
use super::event::{Exit, Swap, Verb};
use super::tests::{file, service};
use super::*;
use crate::proto::{Action, Intent, Outcome, Step, UnitResult};

/// A machine that is told what happens, one event at a time, and looked at after each.
struct Story {
    engine: Engine,
    now: u64,
    generation: u64,
}

/// Units with their edges.
struct Units(ManifestBuilder);

impl Units {
    fn new() -> Units {
        Units(ManifestBuilder::new())
    }

    fn service(mut self, name: &str, change: impl FnOnce(&mut Service)) -> Units {
        let mut spec = service();
        change(&mut spec);
        let claim = spec.tty.clone().unwrap_or_default();
        let flag = match spec.start {
            units::kind::service::Start::Manual => flags::MANUAL,
            units::kind::service::Start::Boot | units::kind::service::Start::OnDemand => 0,
        };
        let mut unit = NewUnit::new(Kind::Service, name, Spec::Service(Box::new(spec)));
        (unit.claim, unit.flags) = (claim, flag);
        self.0.unit(unit);
        self
    }

    fn plain(self, name: &str) -> Units {
        self.service(name, |_| {})
    }

    /// A file; the version is part of what it says, and so is the claim.
    fn file(mut self, path: &str, version: u64, claim: &str) -> Units {
        let mut spec = file(path, version);
        spec.attributes.group = Some(claim.to_owned());
        let mut unit = NewUnit::new(Kind::File, path, Spec::File(spec));
        unit.settle = 0;
        unit.claim = claim.to_owned();
        self.0.unit(unit);
        self
    }

    fn mount(self, path: &str) -> Units {
        self.mount_with(path, &[])
    }

    fn mount_with(mut self, path: &str, options: &[&str]) -> Units {
        let mount = units::kind::mount::Mount {
            path: path.into(),
            source: "tmpfs".into(),
            fstype: "tmpfs".into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..units::kind::mount::Mount::default()
        };
        self.0.unit(NewUnit::new(Kind::Mount, path, Spec::Mount(mount)));
        self
    }

    fn target(mut self, name: &str) -> Units {
        self.0.unit(NewUnit::new(Kind::Target, name, Spec::Target(units::kind::target::Target {})));
        self
    }

    fn edge(mut self, from: &str, kind: EdgeKind, to: &str) -> Units {
        self.0.edge(&address(from), &address(to), kind, "");
        self
    }

    fn finish(self) -> Manifest {
        self.0.finish()
    }
}

fn address(text: &str) -> Address {
    let kind = if text.starts_with("/m") && text.matches('/').count() == 1 {
        Kind::Mount
    } else if text.starts_with('/') {
        Kind::File
    } else if text.starts_with("all") {
        Kind::Target
    } else {
        Kind::Service
    };
    Address::new(kind, text)
}

impl Story {
    fn new() -> Story {
        Story { engine: Engine::new(), now: 1, generation: 0 }
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.now += 1;
        self.engine.step(Mono(self.now), event, &mut out);
        assert_eq!(self.engine.audit(), None);
        assert_eq!(self.engine.stands_still(), None);
        out
    }

    fn swap(&mut self, units: Units, kind: Swap) -> Vec<Effect> {
        let manifest = self.engine.install(units.finish());
        self.generation += 1;
        let (request, generation) = (100 + self.generation, self.generation);
        self.tell(Event::Swapped { request, manifest, generation, kind, release: false })
    }

    fn swap_to(&mut self, units: Units, generation: u64, kind: Swap) -> Vec<Effect> {
        let manifest = self.engine.install(units.finish());
        self.tell(Event::Swapped { request: 0, manifest, generation, kind, release: false })
    }

    fn boot(&mut self, units: Units) -> Vec<Effect> {
        self.swap(units, Swap::Boot)
    }

    fn node(&self, name: &str) -> Node {
        self.engine.node(&address(name)).unwrap()
    }

    fn state(&self, name: &str) -> &'static str {
        self.engine.node(&address(name)).map_or("absent", |n| self.engine.status(n).state)
    }

    fn serial(&self, name: &str) -> u64 {
        self.engine.status(self.node(name)).serial
    }

    fn ask(&mut self, request: u64, verb: Verb, name: &str) -> Vec<Effect> {
        let node = self.node(name);
        self.tell(Event::Asked { request, verb, node, note: "me".into(), until: None })
    }

    /// The service runs.
    fn runs(&mut self, name: &str) -> Vec<Effect> {
        let serial = self.serial(name);
        self.tell(Event::Spawned { serial })
    }

    /// The service has ended, and nothing of it is left.
    fn ends(&mut self, name: &str) -> Vec<Effect> {
        let serial = self.serial(name);
        let mut out = self.tell(Event::CgroupEmpty { serial });
        out.extend(self.tell(Event::Exited { serial, exit: Exit::Signal(15) }));
        out
    }

    /// The worker carries out every batch that is in these effects, and what follows from it.
    fn work(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut open = effects;
        while let Some((batch, steps)) = open.iter().find_map(|e| match e {
            Effect::Batch { batch, steps, .. } => Some((*batch, steps.clone())),
            _ => None,
        }) {
            all.append(&mut open);
            let results = steps
                .iter()
                .map(|s| UnitResult {
                    manifest: s.manifest,
                    unit: s.unit,
                    outcome: match s.action {
                        Action::Remove => Outcome::Removed,
                        Action::Check => Outcome::Drifted,
                        _ => Outcome::Changed,
                    },
                    detail: String::new(),
                })
                .collect();
            open = self.tell(Event::Results { batch, results });
            open.extend(self.tell(Event::BatchDone { batch }));
        }
        all.append(&mut open);
        all
    }

    /// The worker carries out and writes down everything, and time passes, until a request is answered.
    fn until_answered(&mut self, effects: Vec<Effect>, request: u64) -> Verdict {
        let mut open = effects;
        for _ in 0..20 {
            let token = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
            let tokens: Vec<u64> = open.iter().filter_map(token).collect();
            let mut next = self.work(open);
            for serial in started(&next) {
                next.extend(self.tell(Event::Spawned { serial }));
            }
            if let Some(verdict) = answered(&next, request) {
                return verdict;
            }
            for token in &tokens {
                next.extend(self.tell(Event::Recorded { token: *token, error: None }));
            }
            if tokens.is_empty() {
                next.extend(self.tick());
            }
            open = next;
        }
        panic!("request {request} has no answer")
    }

    fn tick(&mut self) -> Vec<Effect> {
        self.now = self.now.max(self.engine.next_deadline().unwrap().0);
        self.tell(Event::Tick)
    }

    /// Time passes until the machine is left.
    fn tick_until_left(&mut self) -> Vec<Effect> {
        loop {
            let out = self.tick();
            if out.iter().any(|e| matches!(e, Effect::Leave { .. })) {
                return out;
            }
        }
    }
}

fn answered(effects: &[Effect], wanted: u64) -> Option<Verdict> {
    effects.iter().find_map(|e| match e {
        Effect::Answer { request, verdict, .. } if *request == wanted => Some(*verdict),
        _ => None,
    })
}

/// A service that notifies, is restarted without limit, and has been in vain so far.
fn flapping() -> Story {
    let mut s = Story::new();
    let out = s.boot(beside_flapping(1));
    s.work(out);
    for _ in 0..4 {
        falls(&mut s);
    }
    s
}

fn beside_flapping(version: u64) -> Units {
    let flaps = |s: &mut Service| (s.restart_limit, s.ready) = (0, Ready::Notify);
    Units::new().service("flaps", flaps).file("/etc/x", version, "")
}

fn web_beside(version: u64) -> Units {
    Units::new().service("web", |s| s.restart = Restart::Never).file("/etc/x", version, "")
}

/// It starts, and ends before it is ready.
fn falls(s: &mut Story) -> Vec<Effect> {
    let mut out = if s.state("flaps") == "backoff" { s.tick() } else { Vec::new() };
    out.extend(s.runs("flaps"));
    out.extend(s.ends("flaps"));
    out
}

/// Which unit is started by these effects, and what for.
fn spawned(story: &Story, effects: &[Effect]) -> Vec<(String, Job)> {
    let of = |e: &Effect| match e {
        Effect::Spawn { node, job, .. } => Some((story.engine.address(*node).name, *job)),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// Services that are started by these effects.
fn started(effects: &[Effect]) -> Vec<u64> {
    let of =
        |e: &Effect| if let Effect::Spawn { serial, job: Job::Main, .. } = e { Some(*serial) } else { None };
    effects.iter().filter_map(of).collect()
}

/// The record that these effects ask for.
fn token(effects: &[Effect]) -> u64 {
    let of = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
    effects.iter().find_map(of).unwrap()
}

fn batch(effects: &[Effect]) -> Option<(u64, Intent, u64, Vec<Step>)> {
    effects.iter().find_map(|e| match e {
        Effect::Batch { batch, generation, intent, steps } => {
            Some((*batch, *intent, *generation, steps.clone()))
        }
        _ => None,
    })
}

/// The worker's word on every step of the batch in these effects.
fn result(s: &mut Story, effects: &[Effect], outcome: Outcome) -> Vec<Effect> {
    let (batch, _, _, steps) = batch(effects).unwrap();
    let results = steps
        .iter()
        .map(|s| UnitResult { manifest: s.manifest, unit: s.unit, outcome, detail: String::new() })
        .collect();
    let mut out = s.tell(Event::Results { batch, results });
    out.extend(s.tell(Event::BatchDone { batch }));
    out
}

fn actions(effects: &[Effect]) -> Vec<Action> {
    batch(effects).map(|(.., steps)| steps.iter().map(|s| s.action).collect()).unwrap_or_default()
}

/// A command that has no guard yet.
fn command(words: &[&str]) -> Exec {
    Exec { command: words.iter().map(|w| (*w).to_owned()).collect(), ..Exec::default() }
}

fn steps(effects: &[Effect]) -> usize {
    effects.iter().map(|e| if let Effect::Batch { steps, .. } = e { steps.len() } else { 0 }).sum()
}

/// Seed 214845: the process that starts knows nothing of the new kind of readiness.
#[test]
fn what_is_starting_is_started_anew_by_another_specification() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |s| s.start_timeout = 0));
    let other = Units::new().service("web", |s| {
        s.ready = Ready::Notify;
        s.switch = SwitchMethod::Reload;
    });
    s.boot(other);
    assert_eq!(s.state("web"), "stopping");
    let out = s.ends("web");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
}

/// Seed 223514: its path was seen before its process could not be made.
#[test]
fn a_watchdog_ends_with_a_spawn_that_failed() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |s| {
        s.ready = Ready::Path("/run/web".into());
        s.watchdog = 2_000;
    }));
    s.tell(Event::Exited { serial: 1, exit: Exit::Code(0) });
    assert_eq!(s.state("web"), "ready");
    s.tell(Event::SpawnFailed { serial: 2, stage: "fork".into(), errno: 13 });
    assert_eq!(s.state("web"), "failed");
    assert_eq!(s.engine.next_deadline(), None);
}

/// Seeds 228137 and 214081.
#[test]
fn nobody_starts_on_what_is_about_to_lose_what_it_is_bound_to() {
    let mut s = Story::new();
    s.boot(Units::new().plain("base"));
    s.runs("base");
    let units = Units::new()
        .plain("base")
        .service("late", |s| s.ready = Ready::Notify)
        .plain("a")
        .edge("base", EdgeKind::Binds, "late")
        .edge("a", EdgeKind::Requires, "base");
    let out = s.boot(units);
    assert_eq!(s.state("base"), "stopping");
    assert!(!spawned(&s, &out).contains(&("a".to_owned(), Job::Main)), "{out:?}");
}

/// Seed 221975: nobody may wait without an answer for what a person has to restart.
#[test]
fn a_start_that_waits_for_what_is_kept_is_answered() {
    let mut s = Story::new();
    let on = |s: &mut Service| s.tty = Some("tty1".into());
    s.boot(Units::new().service("old", on));
    s.runs("old");
    s.boot(Units::new().service("old", |s| s.switch = SwitchMethod::Keep).service("new", on));
    assert_eq!(s.state("new"), "waiting");
    let out = s.ask(7, Verb::Start, "new");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
    s.ask(8, Verb::Restart, "old");
    s.ends("old");
    assert_eq!((s.state("old"), s.state("new")), ("starting", "starting"));
}

/// Seed 552604: soft edges of two generations, the one the other way round.
#[test]
fn a_shutdown_does_not_wait_in_a_circle_of_two_generations() {
    let mut s = Story::new();
    s.boot(Units::new().plain("a").plain("b").edge("b", EdgeKind::After, "a"));
    s.runs("a");
    s.runs("b");
    let never = |s: &mut Service| s.start = units::kind::service::Start::Manual;
    let flipped = Units::new()
        .plain("a")
        .service("b", |s| s.nice = 1)
        .service("never", never)
        .edge("a", EdgeKind::After, "b")
        .edge("b", EdgeKind::Requires, "never");
    s.boot(flipped);
    assert_eq!(s.state("b"), "ready", "it cannot be restarted yet, and runs on");
    s.ends("a");
    s.runs("a");
    s.tell(Event::ShutdownAsked { down: event::Down::Poweroff });
    for _ in 0..2 {
        let stopping: Vec<&str> = ["a", "b"].into_iter().filter(|n| s.state(n) == "stopping").collect();
        for name in stopping {
            s.ends(name);
        }
    }
    assert_eq!((s.state("a"), s.state("b")), ("down", "down"));
}

/// Seed 526960: a cause that is shown is part of the record.
#[test]
fn why_a_command_was_killed_survives_a_reexec() {
    let mut s = Story::new();
    let exec = Exec { creates: Some("/made".into()), timeout: 1_000, ..command(&["/bin/once"]) };
    let mut units = Units::new();
    units.0.unit(NewUnit::new(Kind::Exec, "once", Spec::Exec(Box::new(exec))));
    let out = s.boot(units);
    let Some(Effect::Batch { batch, steps, .. }) = out.iter().find(|e| matches!(e, Effect::Batch { .. }))
    else {
        panic!("{out:?}")
    };
    let (manifest, unit) = (steps[0].manifest, steps[0].unit);
    let outcome = Outcome::Drifted;
    let results = vec![UnitResult { manifest, unit, outcome, detail: String::new() }];
    s.tell(Event::Results { batch: *batch, results });
    s.tell(Event::BatchDone { batch: *batch });
    s.engine.take_changed();
    s.tick();
    let node = s.engine.nodes().next().unwrap();
    assert_eq!(s.engine.status(node).cause, "did not end in time");
    assert!(s.engine.take_changed().nodes.contains(&node));
}

/// A daemon that nobody could name is missed by its empty cgroup; how it ended nobody knows, and its policy holds.
#[test]
fn a_forked_daemon_without_a_main_process_is_restarted_only_as_it_declares() {
    for (restart, then) in [
        (Restart::Never, ("failed", 0)),
        (Restart::OnFailure, ("starting", 1)),
        (Restart::Always, ("starting", 1)),
    ] {
        let mut s = Story::new();
        s.boot(Units::new().service("web", |s| {
            s.ready = Ready::Forked;
            s.restart = restart;
        }));
        s.runs("web");
        let serial = s.serial("web");
        s.tell(Event::Exited { serial, exit: Exit::Code(0) });
        assert_eq!(s.state("web"), "ready");
        let out = s.tell(Event::CgroupEmpty { serial });
        assert_eq!((s.state("web"), spawned(&s, &out).len()), then, "{restart:?}");
    }
}

/// The daemon that a forked service named is another process's child: of its end there is no status, and it is no
/// clean one.
#[test]
fn an_end_that_nobody_saw_counts_as_a_failure() {
    for (restart, then) in
        [(Restart::Never, "failed"), (Restart::OnFailure, "starting"), (Restart::Always, "starting")]
    {
        let mut s = Story::new();
        s.boot(Units::new().service("web", |s| {
            s.ready = Ready::Forked;
            s.restart = restart;
        }));
        s.runs("web");
        let serial = s.serial("web");
        s.tell(Event::Exited { serial, exit: Exit::Code(0) });
        assert_eq!(s.state("web"), "ready");
        s.tell(Event::Exited { serial, exit: Exit::Unknown });
        s.tell(Event::CgroupEmpty { serial });
        assert_eq!(s.state("web"), then, "{restart:?}");
    }
}

/// Seed 505287: the file was right until the mount went in the same step, and the target ready for a moment.
#[test]
fn nothing_starts_on_a_file_whose_new_mount_goes_in_the_same_step() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    let out = s.boot(Units::new().mount("/m").file("/f", 1, ""));
    s.ends("web");
    s.work(out);
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    assert_eq!((s.state("/m"), s.state("/f")), ("ready", "repaired"));
    let moved = Units::new()
        .mount_with("/m", &["size=1m"])
        .file("/f", 1, "")
        .target("all")
        .plain("web")
        .edge("/f", EdgeKind::Binds, "/m")
        .edge("all", EdgeKind::Wants, "/f")
        .edge("web", EdgeKind::Requires, "all");
    let out = s.boot(moved);
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    assert_eq!((s.state("all"), s.state("web")), ("waiting", "waiting"));
}

/// Seed 61063502: what the target wants had not gone yet, and waited for good only once it had.
#[test]
fn nothing_starts_on_a_target_that_wants_what_is_about_to_go() {
    let mut s = Story::new();
    let manual = |s: &mut Service| (s.start, s.nice) = (units::kind::service::Start::Manual, 1);
    let units = Units::new().plain("db").mount("/m").service("web", manual);
    s.boot(units.edge("db", EdgeKind::After, "web"));
    s.runs("db");
    let serial = s.engine.next_serial - 1;
    s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    let units = Units::new()
        .service("db", manual)
        .mount("/m")
        .target("all")
        .plain("web")
        .edge("/m", EdgeKind::Requires, "db")
        .edge("all", EdgeKind::Wants, "/m")
        .edge("all", EdgeKind::Wants, "db")
        .edge("web", EdgeKind::Requires, "all");
    s.boot(units);
    let out = s.ends("db");
    assert_eq!(spawned(&s, &out), [("/m".to_owned(), Job::Unmount)]);
    let serial = s.engine.next_serial - 1;
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(0) });
    assert_eq!(s.state("all"), "ready", "what it wants waits for what is not wanted");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)]);
}
