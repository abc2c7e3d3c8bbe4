//! Latched units: what is done about one that is dirty (semantics §4).

use units::address::Class;
use units::kind::Spec;
use units::manifest::flags;

use super::effect::{Effect, Job, Level};
use super::event::Exit;
use super::graph::hard;
use super::late::{SIGKILL, TOO_LATE, given_up};
use super::timer::Timer;
use super::unit::{ExecStep, Latch, Lost, Shown, State, Want, Work, bits};
use super::{Engine, Mono, Node, RETRY_FIRST_MS, RETRY_MAX_MS, RETRY_TOUCHED_MS, SUSPECT_MAX_MS};
use crate::proto::{Action, Intent, Outcome};

/// Longest settling, in settle times: a file that is written without pause is looked at all the same.
const SETTLE_AT_MOST: u64 = 20;

/// What the helper ends with when the module was loaded already.
const ALREADY_LOADED: i32 = 5;

/// A module that takes longer to be loaded is not kept: 90 s, as mounts.
const MODULE_MS: u64 = 90_000;

/// `first · 2^(times - 1)`, at most `most`; 0 times is 0.
pub(crate) fn doubled(first: u64, times: u8, most: u64) -> u64 {
    match times {
        0 => 0,
        n => first.saturating_mul(1u64.checked_shl(u32::from(n) - 1).unwrap_or(u64::MAX)).min(most),
    }
}

impl Engine {
    pub(crate) fn latch(&self, node: Node) -> Option<Latch> {
        match &self.u(node).state {
            State::Latch(l) => Some(*l),
            State::Service(_) | State::Mount(_) | State::Target | State::Gone => None,
        }
    }

    pub(crate) fn with_latch(&mut self, node: Node, change: impl FnOnce(&mut Latch)) {
        if let State::Latch(l) = &mut self.m(node).state {
            change(l);
        }
        self.enqueue(node);
    }

    /// Takes it out of line and out of whatever it waits for.
    pub(crate) fn set_work(&mut self, node: Node, work: Work) {
        if !matches!(work, Work::Queued) {
            self.runnable.remove(&node);
        }
        if work == Work::Deferred {
            self.lists.deferred.insert(node);
        } else {
            self.lists.deferred.remove(&node);
        }
        match work {
            Work::Settling { .. } | Work::Backoff { .. } | Work::Contested { .. } | Work::Job { .. } => {}
            Work::Idle | Work::Waiting | Work::Queued | Work::Batch | Work::Deferred => {
                self.timers.clear(node, Timer::State);
            }
        }
        self.with_latch(node, |l| l.work = work);
    }

    pub(crate) fn evaluate_latch(&mut self, node: Node) {
        let Some(latch) = self.latch(node) else { return };
        let unit = self.u(node);
        let (want, up) = (unit.want, unit.has(bits::UP));
        if matches!(latch.work, Work::Batch | Work::Job { .. }) {
            return;
        }
        match want {
            Want::Absent if latch.work == Work::Deferred => {
                if !self.may_be_mounted(node) {
                    // The store knows whose it was: the first boot that has the mount again removes it.
                    self.remove(node);
                }
            }
            Want::Absent if unit.has(bits::SHADE) && !self.is_left_behind(node) => self.remove(node),
            Want::Absent => self.take_away(node),
            Want::Down => {
                if up && self.may_stop(node) {
                    self.go_down(node);
                }
                if matches!(latch.work, Work::Queued | Work::Settling { .. }) {
                    self.set_work(node, Work::Waiting);
                }
            }
            Want::Up => {
                let lost = latch.loses_ground(unit, &self.counters(node));
                let going = up && self.predicates(node).going;
                let bounced = going && self.may_stop(node);
                if lost || bounced {
                    // What it lies on is gone or going: it is looked at again when that is back. Where that is not
                    // wanted any more whoever is on it goes before it does.
                    if bounced || (up && !going) {
                        self.go_down(node);
                    }
                    self.with_latch(node, |l| l.right = false);
                    self.set_work(node, Work::Waiting);
                    return;
                }
                match latch.work {
                    Work::Waiting => {
                        let store = !unit.has(bits::NEEDS_STORE) || self.store_open;
                        if self.gate_open(node) && store {
                            self.dispatch(node);
                        }
                    }
                    Work::Queued if !self.gate_open(node) || self.stays_put(node) => {
                        self.set_work(node, Work::Waiting);
                    }
                    Work::Idle if latch.right => {
                        self.give_up(node);
                        if !up {
                            self.go_up(node);
                        }
                    }
                    Work::Queued
                    | Work::Idle
                    | Work::Settling { .. }
                    | Work::Batch
                    | Work::Job { .. }
                    | Work::Backoff { .. }
                    | Work::Contested { .. }
                    | Work::Deferred => {}
                }
            }
        }
    }

    /// Held, and of a kind of which there is nothing to look at.
    fn stays_put(&self, node: Node) -> bool {
        self.holds.contains_key(&node) && self.u(node).class() != Class::Committer
    }

    /// Its gate is open: the next piece of work begins.
    fn dispatch(&mut self, node: Node) {
        let Some(latch) = self.latch(node) else { return };
        let Some(id) = self.u(node).id() else { return };
        let at = (self.desired, id);
        // A held file is looked at; a held command or module is not run.
        if self.stays_put(node) {
            return;
        }
        // What goes to the worker begins after all this anyway.
        let begins = match (self.u(node).class(), latch.step) {
            (Class::Helper, _) | (Class::Exec, ExecStep::Unless | ExecStep::Run) => true,
            (Class::Exec, ExecStep::Guard | ExecStep::Record | ExecStep::Undo) => false,
            (Class::Committer | Class::Service | Class::Mount | Class::Target, _) => false,
        };
        if begins && !self.may_begin(node) {
            return;
        }
        match (self.u(node).class(), latch.step) {
            (Class::Helper, _) => {
                let serial = self.spawn(node, Job::Module, at, "wanted");
                self.set_work(node, Work::Job { serial: serial.into() });
                self.limit(node, MODULE_MS);
            }
            (Class::Exec, ExecStep::Unless) => self.run_exec(node, Job::Unless),
            (Class::Exec, ExecStep::Run) => self.run_exec(node, Job::Exec),
            (Class::Exec, ExecStep::Guard | ExecStep::Record | ExecStep::Undo)
            | (Class::Committer | Class::Service | Class::Mount | Class::Target, _) => {
                self.set_work(node, Work::Queued);
                self.runnable.insert(node);
            }
        }
    }

    fn run_exec(&mut self, node: Node, job: Job) {
        let at = self.unit_of(node);
        let timeout = match self.manifest_of(at.0).and_then(|m| m.spec(at.1)) {
            Some(Spec::Exec(e)) => e.timeout,
            Some(_) | None => 0,
        };
        let cause = if job == Job::Undo { "undone" } else { "no guard holds" };
        let serial = self.spawn(node, job, at, cause);
        self.set_work(node, Work::Job { serial: serial.into() });
        self.limit(node, timeout);
    }

    /// It is no longer declared.
    fn take_away(&mut self, node: Node) {
        if self.is_left_behind(node) {
            // It keeps its claim, so that nothing takes its place, but nothing up or mounted; and it is left as it is.
            self.m(node).set(bits::RESTORE, false);
            if self.may_stop(node) {
                self.go_down(node);
            }
            if self.latch(node).is_some_and(|l| l.work != Work::Idle) {
                self.mark(node, bits::INTENDED, false);
                self.set_work(node, Work::Idle);
                self.publish(node, "left: held");
            }
            return;
        }
        if !self.may_stop(node) {
            // What was in line to be looked at is not in line to be removed.
            if matches!(self.latch(node).map(|l| l.work), Some(Work::Queued | Work::Settling { .. })) {
                self.set_work(node, Work::Waiting);
            }
            return;
        }
        let class = self.u(node).class();
        let undo = class == Class::Exec && self.is_return() && self.has_undo(node);
        match class {
            Class::Committer => {
                if !matches!(self.latch(node).map(|l| l.work), Some(Work::Queued)) {
                    self.set_work(node, Work::Queued);
                    self.runnable.insert(node);
                }
            }
            Class::Exec if undo => self.run_exec(node, Job::Undo),
            Class::Exec | Class::Helper | Class::Service | Class::Mount | Class::Target => self.remove(node),
        }
    }

    fn has_undo(&self, node: Node) -> bool {
        let at = self.unit_of(node);
        let right = self.latch(node).is_some_and(|l| l.right);
        let spec = self.manifest_of(at.0).and_then(|m| m.spec(at.1));
        right && matches!(spec, Some(Spec::Exec(e)) if e.undo.is_some())
    }

    /// Something happened to what it owns.
    pub(crate) fn touched(&mut self, node: Node) {
        let Some(latch) = self.latch(node) else { return };
        let unit = self.u(node);
        if unit.want != Want::Up {
            return;
        }
        let settle = match unit.id() {
            Some(id) => self.manifest_of(self.desired).map_or(0, |m| u64::from(m.unit(id).settle)),
            None => 0,
        };
        match latch.work {
            Work::Idle => self.begin_settling(node, settle),
            Work::Backoff { until } => self.look_sooner(node, latch, until.moment(), settle),
            Work::Settling { since } => {
                let latest = since.moment().after_ms(settle * SETTLE_AT_MOST);
                let until = self.now.after_ms(settle).min(latest);
                self.timers.set(node, Timer::State, until);
                self.globals_changed = true;
            }
            Work::Batch | Work::Job { .. } => self.with_latch(node, |l| l.again = true),
            Work::Waiting | Work::Queued | Work::Contested { .. } | Work::Deferred => {}
        }
    }

    /// Something happened to what could not be kept: perhaps it can be now. But who keeps it from being kept may make as
    /// many events as he likes, and a worker that is lost on it may be one more process that nobody can kill.
    fn look_sooner(&mut self, node: Node, latch: Latch, until: Mono, settle: u64) {
        // Once between two looks.
        if latch.again || latch.lost == Lost::Suspect {
            return;
        }
        self.with_latch(node, |l| l.again = true);
        let wait = doubled(RETRY_FIRST_MS, latch.fails, RETRY_MAX_MS);
        let sooner =
            until.before_ms(wait).after_ms(wait.min(RETRY_TOUCHED_MS)).max(self.now.after_ms(settle));
        if sooner < until {
            self.set_work(node, Work::Backoff { until: sooner.into() });
            self.timers.set(node, Timer::State, sooner);
            self.globals_changed = true;
        }
    }

    fn begin_settling(&mut self, node: Node, settle: u64) {
        self.with_latch(node, |l| {
            l.step = ExecStep::Guard;
            l.fails = 0;
        });
        if settle == 0 {
            self.set_work(node, Work::Waiting);
        } else {
            let since = self.now;
            self.set_work(node, Work::Settling { since: since.into() });
            self.timers.set(node, Timer::State, since.after_ms(settle));
            self.globals_changed = true;
        }
    }

    pub(crate) fn latch_timer(&mut self, node: Node) {
        match self.latch(node).map(|l| l.work) {
            Some(Work::Settling { .. } | Work::Backoff { .. } | Work::Contested { .. }) => {
                self.with_latch(node, |l| l.step = ExecStep::Guard);
                self.set_work(node, Work::Waiting);
            }
            Some(Work::Job { serial }) => self.job_late(node, serial.into()),
            Some(Work::Idle | Work::Waiting | Work::Queued | Work::Batch | Work::Deferred) | None => {}
        }
    }

    /// A process of an exec or module unit ended.
    pub(crate) fn latch_job_ended(&mut self, node: Node, serial: u64, job: Job, exit: Exit) {
        self.end_serial(serial);
        self.timers.clear(node, Timer::State);
        if self.latch(node).map(|l| l.work) != Some(Work::Job { serial: serial.into() }) {
            return;
        }
        let ok = exit == Exit::Code(0);
        if matches!(job, Job::Exec | Job::Unless | Job::Undo) {
            self.out.push(Effect::Kill { serial });
        }
        if self.u(node).want == Want::Absent && job != Job::Undo {
            self.set_work(node, Work::Waiting);
            return;
        }
        match job {
            Job::Undo => {
                if !ok {
                    let why = self.details.remove(&node).unwrap_or_else(|| format!("{exit}"));
                    let text = format!("undo of {} {why}", self.address(node));
                    self.log(Level::Error, Some(node), text);
                    self.apply_failure(node, "could not be undone");
                }
                if self.is_left_behind(node) {
                    // Somebody holds it since: nothing of it is left but that.
                    self.with_latch(node, |l| l.right = false);
                    self.set_work(node, Work::Waiting);
                } else if self.u(node).want == Want::Absent {
                    self.set_work(node, Work::Idle);
                    self.remove(node);
                } else {
                    // It is declared again.
                    self.with_latch(node, |l| {
                        l.right = false;
                        l.step = ExecStep::Guard;
                    });
                    self.set_work(node, Work::Waiting);
                }
            }
            Job::Module if ok => self.loaded(node),
            Job::Module if exit == Exit::Code(ALREADY_LOADED) => {
                self.end_contest(node);
                let shown = self.latch(node).map_or(Shown::Unknown, |l| l.shown);
                let before = matches!(shown, Shown::Changed | Shown::Repaired);
                self.right(node, if before { shown } else { Shown::Kept });
            }
            Job::Unless if ok => self.right(node, Shown::Kept),
            Job::Unless => {
                self.with_latch(node, |l| l.step = ExecStep::Run);
                self.set_work(node, Work::Waiting);
            }
            Job::Exec if ok => {
                self.with_latch(node, |l| l.step = ExecStep::Record);
                self.set_work(node, Work::Waiting);
            }
            Job::Exec
            | Job::Module
            | Job::Main
            | Job::Reload
            | Job::Stop
            | Job::AwaitPath
            | Job::Mount
            | Job::Unmount => {
                let why = self.details.remove(&node).unwrap_or_else(|| format!("{exit}"));
                self.not_kept(node, why);
            }
        }
    }

    /// How a command failed, and the last line that it wrote. The end of one that took too long is ours.
    pub(crate) fn command_explained(&mut self, node: Node, why: String) {
        let killed = format!("{}", Exit::Signal(SIGKILL));
        let late = self.details.get(&node).is_some_and(|d| d == TOO_LATE);
        let why = match why.strip_prefix(&killed) {
            Some(line) if late => format!("{TOO_LATE}{line}"),
            _ => why,
        };
        self.set_detail(node, why);
    }

    /// A module was loaded, which is a repair where it was loaded before. At a boot no module is, and that is no drift.
    fn loaded(&mut self, node: Node) {
        let intended = self.u(node).has(bits::INTENDED);
        let drifted = !intended && self.latch(node).is_some_and(|l| l.right);
        if !drifted {
            return self.right(node, if intended { Shown::Changed } else { Shown::Kept });
        }
        let text = format!("repaired {}: somebody had unloaded it", self.address(node));
        self.log(Level::Notice, Some(node), text);
        self.right(node, Shown::Repaired);
        self.set_detail(node, "somebody had unloaded it".to_owned());
        self.repaired(node);
    }

    /// It is right, and what depends on it may go on.
    fn right(&mut self, node: Node, shown: Shown) {
        self.settled(node, shown);
        let word = self.state_word(node);
        self.publish(node, word);
    }

    /// The same where it is no news: most looks at a unit follow upon our own change of it.
    fn settled(&mut self, node: Node, shown: Shown) {
        let again = self.latch(node).is_some_and(|l| l.again);
        self.clear_detail(node);
        self.with_latch(node, |l| {
            l.right = true;
            l.again = false;
            l.fails = 0;
            l.step = ExecStep::Guard;
            l.shown = shown;
        });
        self.mark(node, bits::INTENDED, false);
        self.set_work(node, if again { Work::Waiting } else { Work::Idle });
    }

    /// It could not be made right; it is tried again later, ever more rarely.
    pub(crate) fn not_kept(&mut self, node: Node, why: String) {
        let again = self.latch(node).is_some_and(|l| l.shown == Shown::NotKept);
        if !again || self.details.get(&node) != Some(&why) {
            // A try that fails as the one before says nothing new.
            let text = format!("{} is not kept: {why}", self.address(node));
            self.log(Level::Error, Some(node), text);
        }
        self.set_detail(node, why.clone());
        let fails = self.latch(node).map_or(1, |l| l.fails.saturating_add(1));
        let suspect = self.is_suspect(node);
        let most = if suspect || given_up(&why) { SUSPECT_MAX_MS } else { RETRY_MAX_MS };
        let first = if given_up(&why) { RETRY_MAX_MS } else { RETRY_FIRST_MS };
        let until = self.now.after_ms(doubled(first, fails, most));
        self.with_latch(node, |l| {
            l.fails = fails;
            l.lost = if suspect { Lost::Suspect } else { Lost::No };
            l.again = false;
            l.step = ExecStep::Guard;
            l.shown = Shown::NotKept;
        });
        self.set_work(node, Work::Backoff { until: until.into() });
        self.timers.set(node, Timer::State, until);
        self.publish(node, "not kept");
        self.apply_failure(node, &why);
    }

    /// The worker's word on one step.
    pub(crate) fn step_result(
        &mut self,
        node: Node,
        action: Action,
        intent: Intent,
        outcome: Outcome,
        detail: String,
    ) {
        let Some(latch) = self.latch(node) else { return };
        if latch.work != Work::Batch {
            return;
        }
        self.with_latch(node, |l| l.lost = Lost::No);
        match action {
            Action::Remove | Action::Restore => self.removed(node, outcome, detail),
            Action::Guard(_) => self.guarded(node, outcome, detail),
            Action::Ran(_) | Action::Converge | Action::Check | Action::Rewatch => {
                if self.u(node).want == Want::Absent {
                    self.set_work(node, Work::Waiting);
                    return;
                }
                self.converged_step(node, latch, intent, outcome, detail);
            }
        }
    }

    fn converged_step(&mut self, node: Node, latch: Latch, intent: Intent, outcome: Outcome, detail: String) {
        let ran = latch.step == ExecStep::Record;
        let gate_open = self.gate_open(node);
        let reported = self.u(node).flags & (flags::REPORT | flags::SEED) != 0;
        match outcome {
            Outcome::Kept if ran => self.right(node, Shown::Changed),
            Outcome::Kept => {
                self.end_contest(node);
                let shown = match (intent, latch.shown) {
                    (Intent::Correct, Shown::Changed | Shown::Repaired) => latch.shown,
                    (Intent::Correct | Intent::Apply | Intent::Return, _) => Shown::Kept,
                };
                if latch.right && latch.shown == shown {
                    self.settled(node, shown);
                } else {
                    self.right(node, shown);
                }
            }
            Outcome::Changed => {
                let intended = ran || intent != Intent::Correct;
                let shown = if intended { Shown::Changed } else { Shown::Repaired };
                if !intended {
                    let text = format!("repaired {}: {detail}", self.address(node));
                    self.log(Level::Notice, Some(node), text);
                }
                self.right(node, shown);
                if !detail.is_empty() {
                    self.set_detail(node, detail);
                }
                // A contest goes on although it lost its ground meanwhile.
                let contest = self.fights.get(&node).is_some_and(|f| f.rounds > 0);
                if !intended && (latch.right || contest) {
                    self.repaired(node);
                }
            }
            Outcome::Drifted => {
                let right = latch.right || reported;
                self.right(node, Shown::Drifted);
                self.with_latch(node, |l| l.right = right);
                let text = format!("{} has drifted: {detail}", self.address(node));
                self.log(Level::Notice, Some(node), text);
                self.set_detail(node, detail);
            }
            Outcome::Blocked | Outcome::MountAbsent if !gate_open => {
                self.with_latch(node, |l| l.again = false);
                self.set_work(node, Work::Waiting);
            }
            Outcome::Blocked => self.not_kept(node, with_default(detail, "what it depends on was not kept")),
            Outcome::MountAbsent => self.not_kept(node, with_default(detail, "its mount is absent")),
            Outcome::NotKept => self.not_kept(node, with_default(detail, "no reason given")),
            Outcome::Removed | Outcome::Left => {
                self.not_kept(node, "the worker removed it instead".to_owned());
            }
        }
    }

    fn removed(&mut self, node: Node, outcome: Outcome, detail: String) {
        self.set_work(node, Work::Waiting);
        let back = self.u(node).has(bits::RESTORE);
        self.m(node).set(bits::RESTORE, false);
        match outcome {
            // What it is now is looked at next.
            Outcome::Removed | Outcome::Kept | Outcome::Changed | Outcome::Left | Outcome::MountAbsent
                if back => {}
            // What stays is told: it was not there before.
            Outcome::Removed if detail.starts_with("locked") => self.publish(node, "locked"),
            Outcome::Removed | Outcome::Kept => self.publish(node, "removed"),
            Outcome::Changed => self.publish(node, "restored"),
            Outcome::Left => {
                self.publish(node, format!("left in place: {detail}"));
                self.look_above(node);
            }
            Outcome::MountAbsent if self.u(node).want == Want::Absent => return self.defer(node, &detail),
            Outcome::MountAbsent => {}
            Outcome::NotKept | Outcome::Blocked | Outcome::Drifted => {
                let text = format!("cannot remove {}: {detail}", self.address(node));
                self.log(Level::Error, Some(node), text);
                self.apply_failure(node, &detail);
            }
        }
        // Somebody may hold it since: nothing of it is left but that.
        if self.u(node).want == Want::Absent && !self.is_left_behind(node) {
            self.go_down(node);
            self.remove(node);
        }
    }

    /// What is nobody's any more, and was left, may not be where a directory has only what is declared.
    fn look_above(&mut self, node: Node) {
        let name = self.address(node).name;
        let above = std::path::Path::new(&name).ancestors().skip(1).filter_map(std::path::Path::to_str);
        let purging: Vec<Node> = above
            .filter_map(|path| {
                let manifest = self.manifest_of(self.desired)?;
                let id = manifest.find(units::Kind::Directory, path)?;
                let purges = matches!(manifest.spec(id), Some(Spec::Directory(d)) if d.purge);
                purges.then(|| self.node_in(self.desired, id)).flatten()
            })
            .collect();
        for directory in purging {
            self.touched(directory);
        }
    }

    /// It leaves, and what it lies on is not there: it is removed when that is back. Until then it has what it claims:
    /// removed late, it would take with it what another unit has put in its place.
    fn defer(&mut self, node: Node, why: &str) {
        self.go_down(node);
        self.mark(node, bits::INTENDED, false);
        self.set_work(node, Work::Deferred);
        let text = format!("{}: its removal is deferred: {why}", self.address(node));
        self.log(Level::Notice, Some(node), text);
        self.publish(node, "removal deferred: its mount is absent");
    }

    /// A mount is there: what was to be removed below it can be.
    pub(crate) fn take_up_deferred(&mut self, mount: Node) {
        let deferred: Vec<Node> =
            self.lists.deferred.iter().copied().filter(|n| self.mounts_of(*n).contains(&mount)).collect();
        for node in deferred {
            self.set_work(node, Work::Waiting);
        }
    }

    /// Whether a mount is declared on which a unit lies.
    fn may_be_mounted(&self, node: Node) -> bool {
        self.mounts_of(node).iter().any(|mount| self.u(*mount).id().is_some())
    }

    /// The mounts that a unit was made below, and those that are declared above it now.
    fn mounts_of(&self, node: Node) -> Vec<Node> {
        let name = self.address(node).name;
        let above = |path: &std::path::Path| {
            let manifest = self.manifest_of(self.desired)?;
            self.node_in(self.desired, manifest.find(units::Kind::Mount, path.to_str()?)?)
        };
        let needed = self.made_deps(node).into_iter().filter(|(_, kind)| hard(*kind)).map(|(dep, _)| dep);
        let needed = needed.filter(|dep| matches!(self.u(*dep).state, State::Mount(_)));
        needed.chain(std::path::Path::new(&name).ancestors().filter_map(above)).collect()
    }

    fn guarded(&mut self, node: Node, outcome: Outcome, detail: String) {
        if self.u(node).want != Want::Up {
            self.set_work(node, Work::Waiting);
            return;
        }
        match outcome {
            Outcome::Kept | Outcome::Changed => self.right(node, Shown::Kept),
            Outcome::Drifted => {
                let at = self.unit_of(node);
                let unless = match self.manifest_of(at.0).and_then(|m| m.spec(at.1)) {
                    Some(Spec::Exec(e)) => e.unless.is_some(),
                    Some(_) | None => false,
                };
                let step = if unless { ExecStep::Unless } else { ExecStep::Run };
                self.with_latch(node, |l| l.step = step);
                self.set_work(node, Work::Waiting);
            }
            Outcome::NotKept | Outcome::Blocked | Outcome::MountAbsent | Outcome::Removed | Outcome::Left => {
                self.not_kept(node, with_default(detail, "its guard could not be checked"))
            }
        }
    }
}

fn with_default(detail: String, default: &str) -> String {
    if detail.is_empty() { default.to_owned() } else { detail }
}
