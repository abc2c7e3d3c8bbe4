//! Mounts: live units that a helper process carries out (mount(2) may block on a device).

use units::UnitId;
use units::kind::Spec;
use units::kind::mount::WITHOUT_DEVICE;
use units::manifest::flags;

use super::effect::{Effect, Job, Level};
use super::event::Exit;
use super::late::given_up;
use super::timer::Timer;
use super::unit::{Mount, MountPhase, State, Want, bits};
use super::{Engine, FIGHT_REPAIRS, FIGHT_WINDOW_MS, Node, RETRY_FIRST_MS, RETRY_MAX_MS, SUSPECT_MAX_MS};
use crate::proto::ManifestRef;

/// The exit code with which the unmount helper says that it was not mounted.
const NOT_MOUNTED: i32 = 3;
/// The exit code with which the mount helper says that it is mounted, but the kernel does not take all options.
const NOT_TAKEN: i32 = 4;

/// What a mount's helper says once its device is late begins with this.
pub const DEVICE_LATE: &str = "waiting: for the device";
/// What a mount's helper says while it checks the file system begins with this.
pub const CHECKING: &str = "checking ";
/// What it says when either is over.
pub const GOES_ON: &str = "goes on";
/// A device that takes longer than this to appear is late: 5 s. Before that nobody knows that it is waited for.
pub const DEVICE_PATIENCE_MS: u64 = 5_000;

impl Engine {
    fn mount(&self, node: Node) -> Option<Mount> {
        match &self.u(node).state {
            State::Mount(m) => Some(**m),
            State::Service(_) | State::Latch(_) | State::Target | State::Gone => None,
        }
    }

    /// Starts a helper, which has the time that is declared for it.
    fn start_helper(&mut self, node: Node, job: Job, at: (ManifestRef, UnitId), cause: &str) -> u64 {
        let serial = self.spawn(node, job, at, cause);
        self.limit_helper(node, at, job == Job::Mount);
        serial
    }

    /// `waits`: it may wait for a device first, which is none of its time.
    fn limit_helper(&mut self, node: Node, at: (ManifestRef, UnitId), waits: bool) {
        let timeout = match self.manifest_of(at.0).and_then(|m| m.spec(at.1)) {
            Some(Spec::Mount(m))
                if waits && m.timeout > 0 && !WITHOUT_DEVICE.contains(&m.fstype.as_str()) =>
            {
                m.timeout.saturating_add(DEVICE_PATIENCE_MS)
            }
            Some(Spec::Mount(m)) => m.timeout,
            Some(_) | None => 0,
        };
        self.limit(node, timeout);
    }

    fn set_phase(&mut self, node: Node, phase: MountPhase) {
        match phase {
            MountPhase::Backoff { .. }
            | MountPhase::Mounting { .. }
            | MountPhase::Remounting { .. }
            | MountPhase::Unmounting { .. } => {}
            MountPhase::Down | MountPhase::Waiting | MountPhase::Up | MountPhase::Stuck => {
                self.timers.clear(node, Timer::State);
            }
        }
        if let State::Mount(m) = &mut self.m(node).state {
            m.phase = phase;
        }
        if phase == MountPhase::Up {
            self.m(node).set(bits::FIRST, false);
            self.take_up_deferred(node);
        }
        if phase != MountPhase::Up {
            self.m(node).set(bits::COMPARED, false);
        }
        if !matches!(phase, MountPhase::Stuck | MountPhase::Unmounting { .. }) {
            self.m(node).set(bits::KEEP | bits::UNSURE, false);
        }
        let word = self.state_word(node);
        self.publish(node, word);
        self.enqueue(node);
    }

    pub(crate) fn evaluate_mount(&mut self, node: Node) {
        let Some(mount) = self.mount(node) else { return };
        let unit = self.u(node);
        let (want, up) = (unit.want, unit.has(bits::UP));
        match mount.phase {
            MountPhase::Down => match want {
                Want::Up => {
                    self.m(node).set(bits::BOUNCE, false);
                    self.set_phase(node, MountPhase::Waiting);
                }
                Want::Absent if self.is_left_behind(node) => {}
                Want::Absent => self.remove(node),
                Want::Down => {}
            },
            MountPhase::Waiting | MountPhase::Backoff { .. } if want != Want::Up => {
                self.go_down(node);
                self.set_phase(node, MountPhase::Down);
            }
            // Where a hand has stopped it, it still stands, and says so.
            MountPhase::Stuck if want == Want::Absent => {
                self.go_down(node);
                self.set_phase(node, MountPhase::Down);
            }
            MountPhase::Waiting => {
                if self.gate_open(node) && !self.left_alone(node) && self.may_begin(node) {
                    self.begin_mount(node);
                }
            }
            MountPhase::Up => {
                if self.predicates(node).going && self.may_stop(node) {
                    let at = (unit.made, unit.made_id);
                    let serial = self.start_helper(node, Job::Unmount, at, "going down");
                    self.set_phase(node, MountPhase::Unmounting { serial });
                } else if !up {
                    self.go_up(node);
                }
            }
            // What stands there, if anything does, is for the helper to find out.
            MountPhase::Stuck if unit.has(bits::UNSURE) && !self.left => {
                self.set_phase(node, MountPhase::Waiting);
            }
            // Only what it lies on was to go, and is back.
            MountPhase::Stuck if self.may_stand_again(node) => self.stands_again(node),
            MountPhase::Mounting { .. }
            | MountPhase::Remounting { .. }
            | MountPhase::Unmounting { .. }
            | MountPhase::Backoff { .. }
            | MountPhase::Stuck => {}
        }
    }

    /// Whether one that could not be unmounted is what it should be, on what it should be on.
    pub(crate) fn may_stand_again(&self, node: Node) -> bool {
        let unit = self.u(node);
        let as_desired = !unit.has(bits::KEEP | bits::UNSURE) && self.is_mounted_as_desired(node);
        unit.want == Want::Up && self.gate_open(node) && as_desired && !self.left_alone(node)
    }

    /// It was held, and what was told of it meanwhile was left alone: it is compared again. Nobody would compare what is
    /// not declared.
    pub(crate) fn compare(&mut self, node: Node) {
        if let Some(mount) = self.mount(node) {
            let stands = mount.phase == MountPhase::Up && self.u(node).id().is_some();
            self.m(node).set(bits::COMPARED, stands);
            self.out.push(Effect::Compare { node });
        }
    }

    /// Whether it is being compared with what is declared, for then its options may yet be repaired.
    pub fn is_compared(&self, node: Node) -> bool {
        self.u(node).has(bits::COMPARED)
    }

    /// Whether its options are in somebody's hand.
    pub(crate) fn is_mended(&self, node: Node) -> bool {
        let remounted = matches!(self.mount(node).map(|m| m.phase), Some(MountPhase::Remounting { .. }));
        remounted || self.is_compared(node)
    }

    /// Whether it is mounted.
    pub(crate) fn stands(&self, node: Node) -> bool {
        matches!(self.mount(node).map(|m| m.phase), Some(MountPhase::Up | MountPhase::Remounting { .. }))
    }

    /// Somebody wants it unmounted and mounted again.
    pub(crate) fn remount(&mut self, node: Node) {
        match self.mount(node).map(|m| m.phase) {
            Some(MountPhase::Up | MountPhase::Remounting { .. }) => self.m(node).set(bits::BOUNCE, true),
            Some(MountPhase::Stuck) => {
                let at = self.unit_of(node);
                let serial = self.start_helper(node, Job::Unmount, at, "restarted");
                self.go_up(node);
                self.set_phase(node, MountPhase::Unmounting { serial });
            }
            Some(
                MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Mounting { .. }
                | MountPhase::Unmounting { .. }
                | MountPhase::Backoff { .. },
            )
            | None => {}
        }
    }

    /// One that could not be unmounted is to go once more: as any that stands, after who has come to use it.
    pub(crate) fn goes_again(&mut self, node: Node) {
        if let State::Mount(mount) = &mut self.m(node).state
            && mount.phase == MountPhase::Stuck
        {
            mount.phase = MountPhase::Up;
            self.go_up(node);
        }
    }

    /// One that could not be unmounted is wanted again as it is.
    pub(crate) fn stands_again(&mut self, node: Node) {
        self.clear_detail(node);
        self.go_up(node);
        self.set_phase(node, MountPhase::Up);
    }

    /// Whether what is mounted was mounted as it is declared now.
    pub(crate) fn is_mounted_as_desired(&self, node: Node) -> bool {
        let unit = self.u(node);
        let digest = |m, u| self.manifest_of(m).map(|m| m.unit_digest(u));
        self.mount(node).is_some()
            && unit.id().is_some_and(|id| digest(unit.made, unit.made_id) == digest(self.desired, id))
    }

    fn begin_mount(&mut self, node: Node) {
        let Some(id) = self.u(node).id() else { return };
        self.go_up(node);
        self.m(node).set(bits::NEWS, false);
        if self.details.get(&node).is_some_and(|d| d.starts_with(DEVICE_LATE)) {
            // That was another helper's device.
            self.clear_detail(node);
        }
        if let State::Mount(m) = &mut self.m(node).state {
            m.lost = false;
            m.repaired = false;
        }
        let serial = self.start_helper(node, Job::Mount, (self.desired, id), "wanted up");
        self.set_phase(node, MountPhase::Mounting { serial });
    }

    /// A helper says why it fails, or for what it still waits.
    pub(crate) fn helper_explained(&mut self, node: Node, why: String) {
        if self.u(node).has(bits::KILLED) {
            return;
        }
        if why == GOES_ON {
            self.limit_helper(node, self.unit_of(node), false);
            self.clear_detail(node);
            self.mark_outdated(node);
            let word = self.state_word(node);
            return self.publish(node, word);
        }
        // What it does is no reason; and what it says of that takes the place of the reason before, so that this is not
        // known any more: who waits again has no news.
        let reason = |d: &str| ![DEVICE_LATE, CHECKING].iter().any(|word| d.starts_with(word));
        let last = self.details.get(&node).filter(|last| reason(last) && reason(&why));
        if last.is_some_and(|last| *last != why) {
            self.m(node).set(bits::NEWS, true);
        }
        if !reason(&why) {
            // The device has its own time, and a check takes what it takes.
            self.limit(node, 0);
        }
        self.set_detail(node, why.clone());
        // Whether it waits for its device decides whether anybody waits for it.
        self.mark_outdated(node);
        if self.awaits_device(node) {
            self.publish(node, why);
        }
    }

    /// Whether a mount has waited so long for its device that nobody can tell whether that comes.
    pub(crate) fn awaits_device(&self, node: Node) -> bool {
        matches!(self.mount(node), Some(Mount { phase: MountPhase::Mounting { .. }, .. }))
            && self.details.get(&node).is_some_and(|d| d.starts_with(DEVICE_LATE))
    }

    /// Whether nothing is under way but that these mounts wait for devices.
    pub fn only_awaits_devices(&self, mounting: impl Iterator<Item = Node>) -> bool {
        let waiting = mounting.filter(|n| self.awaits_device(*n)).count();
        let idle = self.runnable.is_empty() && self.batch.is_none() && !self.awaits_record();
        idle && waiting > 0 && self.busy as usize == waiting
    }

    /// The helper ended.
    pub(crate) fn mount_job_ended(&mut self, node: Node, serial: u64, job: Job, exit: Exit) {
        self.end_serial(serial);
        let Some(mount) = self.mount(node) else { return };
        match (mount.phase, job) {
            (MountPhase::Mounting { serial: s }, Job::Mount) if s == serial => {
                let done = [Exit::Code(0), Exit::Code(NOT_TAKEN)].contains(&exit);
                if done {
                    let now = self.now;
                    if let State::Mount(m) = &mut self.m(node).state {
                        m.up_at = now;
                    }
                }
                if done && mount.lost {
                    // Mounted, and unmounted by somebody before the helper could say so.
                    self.lost(node);
                } else if done {
                    if mount.fails > 1 {
                        let text = format!("mounted {} after {} tries", self.address(node), mount.fails);
                        self.log(Level::Notice, Some(node), text);
                    }
                    if let State::Mount(m) = &mut self.m(node).state {
                        m.fails = 0;
                    }
                    self.clear_detail(node);
                    self.set_phase(node, MountPhase::Up);
                } else if self.u(node).want != Want::Up && !self.may_stop(node) {
                    // It was lost, and who ran on it before still does.
                    self.go_down(node);
                    self.set_phase(node, MountPhase::Down);
                } else if self.u(node).want != Want::Up {
                    // It was ended because nobody wants the mount any more, perhaps just after it had mounted.
                    let serial = self.start_helper(node, Job::Unmount, self.unit_of(node), "not wanted");
                    self.set_phase(node, MountPhase::Unmounting { serial });
                    self.m(node).set(bits::UNSURE, true);
                } else {
                    self.mount_failed(node, exit);
                }
            }
            (MountPhase::Remounting { serial: s }, Job::Mount) if s == serial => {
                let wanted = self.u(node).want == Want::Up;
                if exit == Exit::Code(0) {
                    if let State::Mount(m) = &mut self.m(node).state {
                        m.repaired = true;
                    }
                    self.clear_detail(node);
                    let text = format!("repaired {}", self.address(node));
                    self.log(Level::Notice, Some(node), text);
                } else if exit != Exit::Code(NOT_TAKEN) && wanted {
                    let text = format!("cannot repair {}: mount helper {exit}", self.address(node));
                    self.log(Level::Error, Some(node), text);
                }
                self.set_phase(node, MountPhase::Up);
            }
            (MountPhase::Unmounting { serial: s }, Job::Unmount) if s == serial => {
                // Somebody else may have been faster, and the kernel has said so.
                if exit == Exit::Code(0) || exit == Exit::Code(NOT_MOUNTED) || mount.lost {
                    self.go_down(node);
                    self.set_phase(node, MountPhase::Down);
                } else {
                    let why = (self.details.get(&node).cloned())
                        .unwrap_or_else(|| format!("unmount helper {exit}"));
                    let text = format!("cannot unmount {}: {why}", self.address(node));
                    self.log(Level::Error, Some(node), text);
                    self.apply_failure(node, &format!("cannot be unmounted: {why}"));
                    self.set_detail(node, why.clone());
                    self.m(node).set(bits::BOUNCE, false);
                    let as_before = !self.u(node).has(bits::KEEP) && self.is_mounted_as_desired(node);
                    let stays = as_before && !self.predicates(node).going;
                    let stands = self.u(node).want == Want::Up && !self.u(node).has(bits::UNSURE);
                    if stands && (stays || self.is_about_to_return()) {
                        // Only a hand wanted it mounted anew, or an apply that is over: it is as good as before.
                        self.set_phase(node, MountPhase::Up);
                        self.fail_starts(node, &why);
                        return;
                    }
                    let otherwise = !as_before && self.u(node).id().is_some();
                    self.m(node).set(bits::KEEP, otherwise);
                    // It does not hold up a shutdown: the last step unmounts everything by force.
                    self.go_down(node);
                    self.set_phase(node, MountPhase::Stuck);
                }
            }
            (
                MountPhase::Mounting { .. }
                | MountPhase::Remounting { .. }
                | MountPhase::Unmounting { .. }
                | MountPhase::Down
                | MountPhase::Waiting
                | MountPhase::Up
                | MountPhase::Backoff { .. }
                | MountPhase::Stuck,
                _job,
            ) => {}
        }
    }

    fn mount_failed(&mut self, node: Node, exit: Exit) {
        let mut fails = 0;
        if let State::Mount(m) = &mut self.m(node).state {
            m.fails = m.fails.saturating_add(1);
            fails = m.fails;
        }
        let why = (self.details.get(&node).cloned()).unwrap_or_else(|| format!("mount helper {exit}"));
        // Tries go on for ever: the first is told, what has another reason, and then one where there were half as many
        // before.
        if self.u(node).has(bits::NEWS) || fails.is_power_of_two() {
            let tries = match fails {
                1 => String::new(),
                u8::MAX => format!(" (more than {} tries)", u8::MAX - 1),
                n => format!(" (try {n})"),
            };
            let text = format!("cannot mount {}: {why}{tries}", self.address(node));
            self.log(Level::Error, Some(node), text);
        }
        self.set_detail(node, why.clone());
        self.go_down(node);
        let (first, most) =
            if given_up(&why) { (RETRY_MAX_MS, SUSPECT_MAX_MS) } else { (RETRY_FIRST_MS, RETRY_MAX_MS) };
        let until = self.now.after_ms(super::latched::doubled(first, fails, most));
        self.timers.set(node, Timer::State, until);
        self.set_phase(node, MountPhase::Backoff { until });
        self.apply_failure(node, &format!("cannot be mounted: {why}"));
    }

    /// It was mounted and is no more: it is mounted again, at once the first time. What is lost soon after that, again and
    /// again, whatever takes it, gets the pauses of what fails.
    fn lost(&mut self, node: Node) {
        self.go_down(node);
        let now = self.now;
        let mut losses = 1;
        if let State::Mount(m) = &mut self.m(node).state {
            let soon = now < m.up_at.after_ms(FIGHT_WINDOW_MS);
            m.losses = if soon { m.losses.saturating_add(1) } else { 1 };
            losses = m.losses;
        }
        if losses == 1 {
            return self.set_phase(node, MountPhase::Waiting);
        }
        let why = format!("it was lost {losses} times soon after it was mounted");
        self.set_detail(node, why.clone());
        let until = now.after_ms(super::latched::doubled(RETRY_FIRST_MS, losses - 1, RETRY_MAX_MS));
        self.timers.set(node, Timer::State, until);
        self.set_phase(node, MountPhase::Backoff { until });
        if losses > 2 {
            self.apply_failure(node, &why);
        }
    }

    /// A person wants it now.
    pub(crate) fn retry_mount(&mut self, node: Node) {
        if let State::Mount(m) = &mut self.m(node).state {
            m.losses = 0;
        }
        if let Some(Mount { phase: MountPhase::Backoff { .. }, .. }) = self.mount(node) {
            self.timers.clear(node, Timer::State);
            self.set_phase(node, MountPhase::Waiting);
        }
    }

    pub(crate) fn mount_timer(&mut self, node: Node) {
        match self.mount(node).map(|m| m.phase) {
            Some(MountPhase::Backoff { .. }) => self.set_phase(node, MountPhase::Waiting),
            Some(
                MountPhase::Mounting { serial }
                | MountPhase::Remounting { serial }
                | MountPhase::Unmounting { serial },
            ) => self.job_late(node, serial),
            Some(MountPhase::Down | MountPhase::Waiting | MountPhase::Up | MountPhase::Stuck) | None => {}
        }
    }

    /// The kernel lists the mount.
    pub(crate) fn mounted(&mut self, node: Node) {
        let Some(mount) = self.mount(node) else { return };
        if let State::Mount(m) = &mut self.m(node).state {
            m.lost = false;
        }
        match mount.phase {
            // Who mounts and unmounts it all the time is not followed.
            MountPhase::Backoff { .. } if mount.losses > FIGHT_REPAIRS => {}
            // Somebody else mounted it: the helper finds that out, and the rest is the usual way.
            MountPhase::Backoff { .. } => {
                self.timers.clear(node, Timer::State);
                self.set_phase(node, MountPhase::Waiting);
            }
            MountPhase::Down
            | MountPhase::Waiting
            | MountPhase::Mounting { .. }
            | MountPhase::Up
            | MountPhase::Remounting { .. }
            | MountPhase::Unmounting { .. }
            | MountPhase::Stuck => {}
        }
    }

    /// It stands without some of its options: they are repaired in place, so that nobody who uses it is bothered. Or it
    /// was compared, and there is nothing to do.
    pub(crate) fn mount_differs(&mut self, node: Node, options: &str, tried: bool) {
        if self.is_compared(node) {
            self.m(node).set(bits::COMPARED, false);
            self.enqueue(node);
        }
        if options.is_empty() {
            return;
        }
        let Some(Mount { phase: MountPhase::Up, .. }) = self.mount(node) else { return };
        let unit = self.u(node);
        // One that is about to go would be compared with what it becomes.
        if unit.want != Want::Up || self.predicates(node).going || self.left_alone(node) {
            return;
        }
        let at = (unit.made, unit.made_id);
        let text = if tried {
            format!("the options {options} are not kept: the kernel does not take them")
        } else if unit.flags & flags::REPORT != 0 {
            format!("drifted: it stands without the options {options}")
        } else {
            let serial = self.start_helper(node, Job::Mount, at, "somebody changed its options");
            self.set_phase(node, MountPhase::Remounting { serial });
            return;
        };
        if self.details.get(&node) != Some(&text) {
            self.log(Level::Warning, Some(node), format!("{}: {text}", self.address(node)));
            self.set_detail(node, text);
        }
    }

    /// The kernel does not list it any more: readiness is lost, and it is mounted again.
    pub(crate) fn unmounted(&mut self, node: Node) {
        let Some(mount) = self.mount(node) else { return };
        if let State::Mount(m) = &mut self.m(node).state {
            m.lost = true;
        }
        match mount.phase {
            MountPhase::Up => {
                let text = format!(
                    "{} is lost: unmounted by somebody else, or its device is gone",
                    self.address(node)
                );
                self.log(Level::Warning, Some(node), text);
                self.lost(node);
                self.disturbed(node);
            }
            // The helper finds nothing there, and mounts it: its end decides.
            MountPhase::Remounting { serial } => self.set_phase(node, MountPhase::Mounting { serial }),
            MountPhase::Stuck => self.set_phase(node, MountPhase::Down),
            MountPhase::Down
            | MountPhase::Waiting
            | MountPhase::Mounting { .. }
            | MountPhase::Unmounting { .. }
            | MountPhase::Backoff { .. } => {}
        }
    }
}
