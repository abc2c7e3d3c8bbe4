//! Stories of defects that the simulator or a reader found: each fails without its mending.

mod claims;
mod ends;
mod fights;
mod holds;

use units::kind::Spec;
use units::kind::service::{Ready, Reload, Restart, Service, SwitchMethod};
use units::manifest::{NewUnit, flags};
use units::{EdgeKind, Kind, Manifest, ManifestBuilder};

mod modules;
mod mounts;
mod returns;

use super::effect::Verdict;
use super::event::{Exit, Swap, Verb};
use super::tests::{file, service};
use super::*;
use crate::proto::{Action, Intent, Outcome, Step, UnitResult};

mod plans;

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
            device_timeout: 0,
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
}

fn answered(effects: &[Effect], wanted: u64) -> Option<Verdict> {
    effects.iter().find_map(|e| match e {
        Effect::Answer { request, verdict, .. } if *request == wanted => Some(*verdict),
        _ => None,
    })
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

fn steps(effects: &[Effect]) -> usize {
    effects.iter().map(|e| if let Effect::Batch { steps, .. } = e { steps.len() } else { 0 }).sum()
}

/// Seeds 13919 and 205465: the reload waits for what has failed.
#[test]
fn a_reload_by_hand_that_waits_for_what_failed_is_answered() {
    let mut s = Story::new();
    let units = |stays: bool| {
        let units = Units::new().plain("web").service("db", |s| {
            s.restart = units::kind::service::Restart::Never;
        });
        if stays { units.edge("web", EdgeKind::Requires, "db") } else { units }
    };
    s.boot(units(true));
    s.runs("db");
    s.runs("web");
    s.ends("db");
    assert_eq!((s.state("db"), s.state("web")), ("done", "ready"));
    let out = s.ask(7, Verb::Reload, "web");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

/// Seed 217254: the hold comes between the ask and the end of the stop.
#[test]
fn a_start_that_a_hold_leaves_down_is_answered() {
    let mut s = Story::new();
    s.boot(Units::new().plain("web"));
    s.runs("web");
    s.ask(7, Verb::Restart, "web");
    assert_eq!(s.state("web"), "stopping");
    s.ask(8, Verb::Hold, "web");
    let out = s.ends("web");
    assert_eq!(s.state("web"), "down");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

#[test]
fn a_restart_that_waits_for_its_gate_is_answered_when_it_is_held() {
    let mut s = Story::new();
    let units = || Units::new().plain("web").service("db", |s| s.ready = Ready::Notify);
    s.boot(units());
    s.runs("web");
    s.swap(units().edge("web", EdgeKind::Wants, "db"), Swap::Boot);
    let out = s.ask(7, Verb::Restart, "web");
    assert_eq!(answered(&out, 7), None, "it waits for db to settle");
    let out = s.ask(8, Verb::Hold, "web");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
}

#[test]
fn a_mount_that_is_held_before_it_is_mounted_has_settled() {
    let mut s = Story::new();
    let units = Units::new()
        .mount("/m")
        .plain("web")
        .service("db", |s| s.ready = Ready::Notify)
        .edge("/m", EdgeKind::Requires, "db")
        .edge("web", EdgeKind::Wants, "/m");
    s.boot(units);
    s.runs("db");
    assert_eq!((s.state("/m"), s.state("web")), ("waiting", "waiting"));
    s.ask(7, Verb::Start, "/m");
    let out = s.ask(8, Verb::Hold, "/m");
    assert_eq!(answered(&out, 7), Some(Verdict::Failed), "{out:?}");
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)], "who wants it goes on without it");
}

#[test]
fn who_asks_is_told_why_a_mount_cannot_be_let_go_of() {
    let mut s = Story::new();
    let helper = |out: &[Effect]| {
        let serial = |e: &Effect| match e {
            Effect::Spawn { serial, job: Job::Mount | Job::Unmount, .. } => Some(*serial),
            _ => None,
        };
        out.iter().find_map(serial).unwrap()
    };
    let out = s.boot(Units::new().plain("web").mount("/m"));
    s.runs("web");
    let node = s.node("/m");
    s.tell(Event::Exited { serial: helper(&out), exit: Exit::Code(0) });
    let out = s.ask(7, Verb::Stop, "/m");
    let serial = helper(&out);
    let why = "cannot unmount \"/m\": EBUSY; held by sleep (pid 7)".to_owned();
    s.tell(Event::Explained { serial, why: why.clone() });
    let out = s.tell(Event::Exited { serial, exit: Exit::Code(1) });
    let told = out.iter().any(|e| matches!(e, Effect::Log { text, .. } if text.contains(&why)));
    assert!(told, "{out:?}");
    assert_eq!(s.engine.status(node).cause, why, "that it is held is told beside it");
}

#[test]
fn a_reload_by_hand_does_not_end_what_is_held() {
    let mut s = Story::new();
    s.boot(Units::new().service("web", |s| s.reload = None));
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    let out = s.ask(8, Verb::Reload, "web");
    assert_eq!(s.state("web"), "ready", "only a restart could load anything, and it is held");
    assert_eq!(answered(&out, 8), Some(Verdict::Failed), "{out:?}");
}

fn by_command(version: u64) -> Units {
    Units::new()
        .service("web", |s| s.reload = Some(Reload::Command(vec!["/bin/reload".into()])))
        .file("/etc/web", version, "")
        .edge("web", EdgeKind::Requires, "/etc/web")
        .edge("web", EdgeKind::ReloadOn, "/etc/web")
}

#[test]
fn a_reload_by_command_runs_once_a_change() {
    let mut s = Story::new();
    let out = s.boot(by_command(1));
    s.work(out);
    s.runs("web");
    let out = s.boot(by_command(2));
    let out = s.work(out);
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Reload)]);
    let out = s.tell(Event::Exited { serial: 2, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), [], "once");
    assert!(!s.engine.status(s.node("web")).stale);
}

#[test]
fn what_changed_during_a_reload_is_loaded_by_one_more() {
    let mut s = Story::new();
    let out = s.boot(by_command(1));
    s.work(out);
    s.runs("web");
    for version in [2, 3] {
        let out = s.boot(by_command(version));
        s.work(out);
    }
    assert_eq!(s.state("web"), "reloading");
    let out = s.tell(Event::Exited { serial: 2, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Reload)], "again, once");
    let out = s.tell(Event::Exited { serial: 3, exit: Exit::Code(0) });
    assert_eq!(spawned(&s, &out), []);
}

#[test]
fn a_reload_that_the_service_announced_has_not_loaded_what_was_not_there_yet() {
    let mut s = Story::new();
    let units = |version| {
        Units::new()
            .service("web", |s| s.ready = Ready::Notify)
            .file("/etc/web", version, "")
            .edge("web", EdgeKind::Requires, "/etc/web")
            .edge("web", EdgeKind::ReloadOn, "/etc/web")
    };
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.tell(Event::Ready { serial: 1 });
    let batch = s.boot(units(2));
    s.tell(Event::Reloading { serial: 1 });
    s.tell(Event::Ready { serial: 1 });
    assert!(s.engine.status(s.node("web")).stale, "the new file is not written yet");
    let out = s.work(batch);
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { serial: 1, signal: 1 })), "{out:?}");
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

/// Seed 105462: what was leaving with a claim came back without it.
#[test]
fn who_came_back_without_its_claim_keeps_nobody_waiting() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/f", 1, "uid:7"));
    s.work(out);
    let batch = s.boot(Units::new());
    let more = s.boot(Units::new().plain("web").file("/f", 1, "").service("tty", |s| {
        s.tty = Some("uid:7".into());
    }));
    assert!(!spawned(&s, &more).contains(&("tty".to_owned(), Job::Main)), "the file is there yet");
    s.work(batch);
    assert_eq!(s.state("tty"), "starting");
}

#[test]
fn a_unit_that_stays_takes_a_claim_only_when_the_other_one_is_gone() {
    let mut s = Story::new();
    let tty = |s: &mut Service| s.tty = Some("/dev/tty1".into());
    s.boot(Units::new().plain("stays").service("leaves", tty));
    s.runs("stays");
    s.runs("leaves");
    s.boot(Units::new().service("stays", tty));
    assert_eq!((s.state("stays"), s.state("leaves")), ("ready", "stopping"), "it runs on as it was");
    s.ends("leaves");
    assert_eq!((s.state("stays"), s.state("leaves")), ("stopping", "absent"));
    let out = s.ends("stays");
    assert_eq!(spawned(&s, &out), [("stays".to_owned(), Job::Main)]);
}

#[test]
fn a_file_that_stays_takes_a_claim_only_when_the_other_one_is_gone() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/stays", 1, "").file("/leaves", 1, "uid:7"));
    s.work(out);
    let removal = s.boot(Units::new().file("/stays", 1, "uid:7"));
    assert_eq!(steps(&removal), 1, "the removal alone");
    assert_eq!(s.engine.waits_for_claim(s.node("/stays")), Some(s.node("/leaves")));
    s.work(removal);
    assert_eq!(s.state("/stays"), "repaired");
}

#[test]
fn two_services_that_change_terminals_both_stop_first() {
    let mut s = Story::new();
    let on = |tty: &'static str| move |s: &mut Service| s.tty = Some(tty.to_owned());
    s.boot(Units::new().service("a", on("tty1")).service("b", on("tty2")));
    s.runs("a");
    s.runs("b");
    s.boot(Units::new().service("a", on("tty2")).service("b", on("tty1")));
    assert_eq!((s.state("a"), s.state("b")), ("stopping", "stopping"));
    let out = s.ends("a");
    assert_eq!(spawned(&s, &out), [], "b has its terminal yet");
    let out = s.ends("b");
    assert_eq!(spawned(&s, &out).len(), 2);
}

#[test]
fn two_files_that_change_claims_do_not_wait_for_each_other() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, "uid:1").file("/b", 1, "uid:2"));
    s.work(out);
    let out = s.boot(Units::new().file("/a", 1, "uid:2").file("/b", 1, "uid:1"));
    s.work(out);
    assert_eq!((s.state("/a"), s.state("/b")), ("repaired", "repaired"));
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

/// Seed 535869: what is held stops when the hold ends, and its inputs need not wait for that.
#[test]
fn who_is_held_keeps_nobody_waiting_for_its_stop() {
    let mut s = Story::new();
    let units = |version| {
        Units::new()
            .service("web", move |s| {
                s.nice = i32::try_from(version).unwrap();
                s.switch = SwitchMethod::StopStart;
            })
            .file("/etc/web", version, "")
            .edge("web", EdgeKind::Requires, "/etc/web")
    };
    let out = s.boot(units(1));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Hold, "web");
    let out = s.boot(units(2));
    s.work(out);
    assert_eq!((s.state("/etc/web"), s.state("web")), ("repaired", "ready"));
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
    let exec = units::kind::exec::Exec {
        command: vec!["/bin/once".into()],
        creates: Some("/made".into()),
        unless: None,
        once: None,
        user: None,
        group: None,
        environment: vec![],
        directory: None,
        timeout: 1_000,
        undo: None,
    };
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

/// It starts, and ends before it is ready.
fn falls(s: &mut Story) -> Vec<Effect> {
    let mut out = if s.state("flaps") == "backoff" { s.tick() } else { Vec::new() };
    out.extend(s.runs("flaps"));
    out.extend(s.ends("flaps"));
    out
}

#[test]
fn an_apply_does_not_wait_for_what_is_restarted_for_ever() {
    let mut s = flapping();
    let mut open = s.swap(beside_flapping(2), Swap::Apply);
    let mut answer = None;
    for _ in 0..10 {
        let token = |e: &Effect| if let Effect::Store { token, .. } = e { Some(*token) } else { None };
        let tokens: Vec<u64> = open.iter().filter_map(token).collect();
        let mut next = s.work(std::mem::take(&mut open));
        for token in tokens {
            next.extend(s.tell(Event::Recorded { token, error: None }));
        }
        next.extend(falls(&mut s));
        answer = answer.or(answered(&next, 102));
        open = next;
    }
    assert_eq!(answer, Some(Verdict::Failed), "it is told that something is not kept");
    assert_eq!(s.engine.desired().1, 2, "it was bad before, and is none of the apply's");
}

#[test]
fn a_boot_ends_although_something_is_restarted_for_ever() {
    let mut s = Story::new();
    let out = s.boot(beside_flapping(1));
    let mut all = s.work(out);
    for _ in 0..5 {
        all.extend(falls(&mut s));
    }
    assert_eq!(answered(&all, 101), Some(Verdict::Failed));
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

/// A hold that is lifted before the change would have the file put back to the present version on the way.
#[test]
fn a_hold_is_lifted_with_the_change_and_not_before() {
    let version = |v: u64| Units::new().file("/a", v, "").plain("web");
    let mut s = Story::new();
    let out = s.boot(version(1));
    s.work(out);
    s.runs("web");
    s.ask(7, Verb::Hold, "/a");
    s.ask(8, Verb::Stop, "web");
    s.ends("web");
    let node = s.node("/a");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    s.work(out);
    let (manifest, generation) = (s.engine.install(version(2).finish()), 2);
    let swap = Event::Swapped { request: 9, manifest, generation, kind: Swap::Apply, release: true };
    let out = s.tell(swap);
    assert_eq!(steps(&out), 0, "nothing is done before the record: {out:?}");
    assert!(s.engine.status(node).hold.is_some(), "still held");
    let token =
        out.iter().find_map(|e| if let Effect::Store { token, .. } = e { Some(*token) } else { None });
    // What was asked for survives a re-exec.
    let manifests = s.engine.manifests().map(|(r, m)| (r, m.clone())).collect();
    let records: Vec<_> = s.engine.nodes().map(|n| (n, s.engine.record(n).unwrap())).collect();
    s.engine = Engine::restore(manifests, &s.engine.globals(), records).unwrap();
    let out = s.tell(Event::Recorded { token: token.unwrap(), error: None });
    assert_eq!(s.engine.status(node).hold, None);
    assert_eq!(spawned(&s, &out), [("web".to_owned(), Job::Main)], "what was stopped by hand is started");
    let done: Vec<_> = out
        .iter()
        .filter_map(|e| if let Effect::Batch { steps, .. } = e { Some(steps) } else { None })
        .flatten()
        .map(|s| (s.manifest, s.action))
        .collect();
    assert_eq!(done, [(manifest, Action::Converge)], "the new version, and only that");
    let out = s.work(out);
    assert_eq!(s.state("/a"), "changed", "{out:?}");
}

/// An apply that changes nothing lifts them all the same.
#[test]
fn a_hold_is_lifted_by_an_apply_of_the_same() {
    let mut s = Story::new();
    let out = s.boot(Units::new().file("/a", 1, ""));
    s.work(out);
    s.ask(7, Verb::Hold, "/a");
    let manifest = s.engine.install(Units::new().file("/a", 1, "").finish());
    let swap = Event::Swapped { request: 9, manifest, generation: 2, kind: Swap::Apply, release: true };
    let out = s.tell(swap);
    assert_eq!(s.engine.status(s.node("/a")).hold, None);
    assert_eq!(steps(&out), 1, "it is looked at: {out:?}");
}

fn web_beside(version: u64) -> Units {
    Units::new().service("web", |s| s.restart = Restart::Never).file("/etc/x", version, "")
}

/// An apply during which a service fails for good that was ready when it began.
fn fails_meanwhile(before: Units, after: Units) -> (Verdict, &'static str) {
    let mut s = Story::new();
    let out = s.boot(before);
    s.work(out);
    s.runs("web");
    s.swap(after, Swap::Apply);
    let token = s.engine.next_token - 1;
    let mut out = s.tell(Event::Recorded { token, error: None });
    let serial = s.serial("web");
    out.extend(s.tell(Event::CgroupEmpty { serial }));
    out.extend(s.tell(Event::Exited { serial, exit: Exit::Code(1) }));
    assert_ne!(s.state("web"), "ready");
    (s.until_answered(out, 102), s.state("web"))
}

#[test]
fn an_apply_answers_only_for_what_it_changes_and_what_depends_on_that() {
    let web = |version, kind| web_beside(version).edge("web", kind, "/etc/x");
    let none = fails_meanwhile(web_beside(1), web_beside(2));
    assert_eq!(none, (Verdict::Failed, "failed"), "it has nothing to do with what is applied, which stays");
    let order = fails_meanwhile(web(1, EdgeKind::After), web(2, EdgeKind::After));
    assert_eq!(order.0, Verdict::Failed, "order is no dependency");
    for kind in [EdgeKind::Requires, EdgeKind::Wants] {
        let user = fails_meanwhile(web(1, kind), web(2, kind));
        assert!(!matches!(user.0, Verdict::Done | Verdict::Failed), "{kind:?}: it returns");
    }
    let two = |version| web_beside(version).file("/etc/y", 1, "");
    let edges = fails_meanwhile(two(1), two(2).edge("web", EdgeKind::Wants, "/etc/y"));
    assert!(!matches!(edges.0, Verdict::Done | Verdict::Failed), "what it depends on is another thing");
}

/// Seed 612735: it owes a restart as soon as its gate opens, and the same gate lets the other one start.
#[test]
fn nothing_starts_on_what_is_about_to_be_restarted_to_load() {
    let mut s = Story::new();
    let units = Units::new()
        .service("web", |s| s.reload = None)
        .file("/f", 1, "")
        .service("user", |s| s.start = units::kind::service::Start::Manual)
        .edge("web", EdgeKind::Requires, "/f")
        .edge("user", EdgeKind::Requires, "/f")
        .edge("user", EdgeKind::Requires, "web");
    let out = s.boot(units);
    s.work(out);
    s.runs("web");
    let node = s.node("/f");
    let out = s.tell(Event::Touched { nodes: vec![node] });
    s.ask(7, Verb::Reload, "web");
    s.ask(8, Verb::Start, "user");
    assert_eq!((s.state("web"), s.state("user")), ("ready", "waiting"));
    let out = s.work(out);
    assert_eq!(spawned(&s, &out), [], "{out:?}");
    assert_eq!((s.state("web"), s.state("user")), ("stopping", "waiting"));
}

/// Seed 610380: that it has to stay quiet after a reload by signal would be lost with a re-exec.
#[test]
fn a_reload_by_signal_is_part_of_the_record_of_an_apply() {
    let mut s = Story::new();
    let web = || Units::new().service("web", |s| s.ready = Ready::Notify);
    let more = || {
        web()
            .plain("db")
            .service("slow", |s| s.ready = Ready::Notify)
            .edge("web", EdgeKind::Requires, "db")
            .edge("web", EdgeKind::ReloadOn, "db")
    };
    s.boot(web());
    s.runs("web");
    for _ in 0..2 {
        s.swap(more(), Swap::Apply);
        let token = s.engine.next_token - 1;
        s.tell(Event::Recorded { token, error: None });
        if s.state("db") == "starting" {
            s.runs("db");
            s.runs("slow");
        }
    }
    s.engine.take_changed();
    let before = s.engine.apply.clone();
    let serial = s.serial("web");
    let out = s.tell(Event::Ready { serial });
    assert!(out.iter().any(|e| matches!(e, Effect::Signal { signal: 1, .. })), "{out:?}");
    assert_ne!(s.engine.apply, before);
    assert!(s.engine.take_changed().globals);
}

/// Seeds 4500 and 11057: the restart that it owes since waits for what nobody starts.
#[test]
fn an_apply_does_not_answer_for_a_restart_that_an_earlier_change_left_owed() {
    let mut s = Story::new();
    let web = |nice: i32, version| Units::new().service("web", |s| s.nice = nice).file("/etc/x", version, "");
    let never = |units: Units| {
        units.service("never", |s| s.start = units::kind::service::Start::Manual).edge(
            "web",
            EdgeKind::Requires,
            "never",
        )
    };
    let out = s.boot(web(0, 1));
    s.work(out);
    s.runs("web");
    s.boot(never(web(1, 1)));
    assert_eq!(s.state("web"), "ready", "it cannot be restarted yet, and runs on");
    let out = s.swap(never(web(1, 2)), Swap::Apply);
    assert_eq!(s.until_answered(out, 103), Verdict::Done);
}
