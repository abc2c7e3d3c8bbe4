//! The way out: from the wish to go down to `reboot(2)` or an exit code.
//!
//! The engine stops the units; what comes then is here, each part with a deadline: the log daemon lets go of its
//! files, what is left is killed, helpers unmount and sync.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use cm_core::engine::Mono;
use cm_core::engine::effect::Level;
use cm_core::engine::event::{Down, Event};

use super::token::Turn;
use super::{Shell, now};
use crate::log::protocol::Target;
use crate::sys::raw;
use crate::sys::reap::{self, ExitStatus};
use crate::sys::spawn::{self, Launch, OWN_PROGRAM, Output};

/// How often the console is told what a shutdown waits for.
const REPORT_MS: u64 = 5_000;
/// For the log daemon.
const LOGS_MS: u64 = 3_000;
/// Between SIGTERM and SIGKILL to what belongs to no unit.
const STRAY_MS: u64 = 2_000;
/// For each of unmounting and syncing, as long as nothing is written.
const DISK_MS: u64 = 20_000;
/// Most signals in one turn.
const SIGNALS: usize = 256;
/// Most of a pid file that is read.
const PID_FILE: usize = 32;

/// How PID 1 ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The machine goes down.
    Machine(Down),
    /// The container is left with this code.
    Code(i32),
}

/// A helper of the shell itself.
#[derive(Debug)]
pub enum Helper {
    /// Reads a pid file; the pid comes over the pipe.
    PidFile { serial: u64, pipe: OwnedFd },
    /// One of the last steps.
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Units,
    Logs,
    Strays,
    Unmount,
    Sync,
}

/// A shutdown under way.
#[derive(Debug)]
pub struct Leaving {
    down: Down,
    phase: Phase,
    since: Mono,
    due: Mono,
    helper: Option<i32>,
    /// KiB that were still to be written when it was last asked.
    unwritten: u64,
    container_logs: Option<i32>,
}

impl Leaving {
    /// When something is due.
    pub fn deadline(&self) -> Option<Mono> {
        Some(self.due)
    }

    /// A helper has ended: whether it is the one that is waited for. One that was given up ends late.
    fn awaited(&mut self, pid: i32) -> bool {
        self.helper.take_if(|helper| *helper == pid).is_some()
    }

    /// Whether a slow disk has taken something since it was last asked.
    fn writes_on(&mut self, unwritten: u64) -> bool {
        let before = std::mem::replace(&mut self.unwritten, unwritten);
        matches!(self.phase, Phase::Unmount | Phase::Sync) && unwritten < before
    }
}

impl Shell {
    /// Signals: children that ended, and wishes from outside.
    pub(super) fn hear_signals(&mut self) -> Turn {
        let heard = Turn::take(SIGNALS, || {
            match self.signals.read() {
                Ok(Some(signal)) => {
                    self.signalled(signal.signal, signal.pid);
                    return Turn::More;
                }
                Ok(None) => {}
                Err(e) => self.say(Level::Error, None, &format!("cannot read signals: {e}")),
            }
            Turn::Drained
        });
        let turn = if self.sweep() == Turn::More { Turn::More } else { heard };
        if self.tree.is_none() {
            for serial in self.spawns.ended(None) {
                self.check_empty(serial);
            }
        }
        turn
    }

    fn signalled(&mut self, signal: i32, from: i32) {
        const RTMIN: i32 = crate::sys::signals::RTMIN;
        let down = match signal {
            libc::SIGTERM if self.options.container => Down::Exit,
            libc::SIGINT if self.options.container => Down::Exit,
            libc::SIGINT => Down::Reboot,
            libc::SIGPWR => Down::Poweroff,
            s if s == RTMIN + 3 => Down::Halt,
            s if s == RTMIN + 4 => Down::Poweroff,
            s if s == RTMIN + 5 => Down::Reboot,
            libc::SIGUSR1 => return self.renew_stale_sockets(),
            s if s == RTMIN + 20 && self.arm_fault() => return,
            _ => return,
        };
        self.ask_shutdown(down, &format!("signal {signal} from process {from}"));
    }

    /// The machine, or the container, shall go down.
    pub(super) fn ask_shutdown(&mut self, down: Down, who: &str) {
        let down = if self.options.container { Down::Exit } else { down };
        self.say(Level::Notice, None, &format!("going down ({down:?}): asked by {who}"));
        self.announce("shutdown", &format!("{down:?}").to_lowercase());
        self.await_units(down);
        if self.reaps_only() {
            // There is no engine to stop anything in order: what runs is killed like any stray.
            return self.begin_leaving(down);
        }
        self.queue.push_back(Event::ShutdownAsked { down });
    }

    fn await_units(&mut self, down: Down) {
        let at = now();
        self.leaving.get_or_insert(Leaving {
            down,
            phase: Phase::Units,
            since: at,
            due: at.after_ms(REPORT_MS),
            helper: None,
            unwritten: 0,
            container_logs: None,
        });
    }

    /// In a container the service `main` is what it is for: when that has ended for good, so has the container, whatever
    /// else is under way. Only an apply that somebody asked for has its end first: its return may start `main` again.
    pub(super) fn finish_container(&mut self) {
        let applying = self.engine.applying().is_some_and(|(request, _)| request != 0);
        if !self.options.container || self.leaving.is_some() || applying {
            return;
        }
        let main = units::Address::parse(super::processes::MAIN_SERVICE).and_then(|a| self.engine.node(&a));
        let over = main.is_some_and(|n| matches!(self.engine.glance(n).state, "done" | "failed"));
        if over {
            self.ask_shutdown(Down::Exit, "the end of service:main");
        }
    }

    /// [`cm_core::engine::effect::Effect::Leave`]: the units are down.
    pub(super) fn begin_leaving(&mut self, down: Down) {
        self.give_last_words();
        let at = now();
        self.await_units(down);
        let Some(leaving) = &mut self.leaving else { return };
        leaving.down = down;
        leaving.phase = Phase::Logs;
        leaving.due = at.after_ms(LOGS_MS);
        self.shell_changed = true;
        if self.options.container {
            // The daemon ends when its socket does, after it has written everything.
            match self.log_daemon.take() {
                Some(daemon) => {
                    let pid = daemon.pid;
                    for (number, stream) in &mut self.streams {
                        stream.close_writer();
                        self.streams_changed.insert(*number);
                    }
                    drop(daemon);
                    if let Some(leaving) = &mut self.leaving {
                        leaving.container_logs = Some(pid);
                    }
                }
                None => self.next_phase(),
            }
        } else if self.log_daemon.is_some() && self.log_target == Target::Files {
            self.set_log_target(Target::Kernel);
        } else {
            self.log_target = Target::Kernel;
            self.next_phase();
        }
    }

    /// Whether a log daemon may be started: a machine's as long as there is somebody who writes.
    pub(super) fn may_log(&self) -> bool {
        match self.leaving.as_ref().map(|l| l.phase) {
            None | Some(Phase::Units) => true,
            Some(Phase::Logs | Phase::Strays) => !self.options.container,
            Some(Phase::Unmount | Phase::Sync) => false,
        }
    }

    /// Whether the units are down and the rest of the way is under way: an init that dies on it is followed by one
    /// that takes it from there.
    pub(super) fn left_units(&self) -> Option<Down> {
        self.leaving.as_ref().filter(|l| l.phase != Phase::Units).map(|l| l.down)
    }

    /// The way out of an earlier PID 1.
    pub(super) fn go_on_leaving(&mut self, left_units: Option<Down>) {
        if let Some(down) = left_units {
            self.begin_leaving(down);
        } else if let Some(down) = self.engine.going_down() {
            self.await_units(down);
        }
    }

    /// The log daemon writes somewhere else now.
    pub(super) fn logs_moved(&mut self, target: Target) {
        let waiting = self.leaving.as_ref().is_some_and(|l| l.phase == Phase::Logs);
        if waiting && target == Target::Kernel {
            self.next_phase();
        }
    }

    /// Something that was given time has used it up.
    pub(super) fn leaving_deadline(&mut self, at: Mono) {
        let Some(leaving) = &mut self.leaving else { return };
        let seconds = at.0.saturating_sub(leaving.since.0) / 1_000_000_000;
        let phase = leaving.phase;
        match phase {
            Phase::Units => {
                leaving.due = at.after_ms(REPORT_MS);
                let waits: Vec<String> = self
                    .engine
                    .not_down()
                    .into_iter()
                    .filter(|(_, word)| !matches!(*word, "kept" | "changed" | "repaired"))
                    .take(8)
                    .map(|(n, word)| format!("{} ({word})", self.engine.address(n)))
                    .collect();
                let text = format!("going down for {seconds} s, waiting for {}", waits.join(", "));
                self.say(Level::Notice, None, &text);
            }
            _ if leaving.writes_on(unwritten()) => {
                leaving.due = at.after_ms(DISK_MS);
                let text =
                    format!("going down for {seconds} s, {} KiB are still to be written", leaving.unwritten);
                self.say(Level::Notice, None, &text);
            }
            _ => {
                self.say(
                    Level::Warning,
                    None,
                    &format!("going down: {phase:?} took too long, going on without"),
                );
                if let Some(pid) = self.leaving.as_mut().and_then(|l| l.helper.take()) {
                    drop(raw::kill(pid, libc::SIGKILL));
                }
                self.next_phase();
            }
        }
    }

    fn next_phase(&mut self) {
        let Some(leaving) = &mut self.leaving else { return };
        let at = now();
        let down = leaving.down;
        if self.options.container || down == Down::Exit {
            self.remove_sockets();
            self.end = Some(Left::Code(self.main_code.unwrap_or(0)));
            return;
        }
        match leaving.phase {
            Phase::Units | Phase::Logs => {
                leaving.phase = Phase::Strays;
                leaving.due = at.after_ms(STRAY_MS);
                // kill(2): -1 is every process but this one. Waits for them by the sweep: see `stray_ended`.
                drop(raw::kill(-1, libc::SIGTERM));
                drop(raw::kill(-1, libc::SIGCONT));
                self.stray_ended();
            }
            Phase::Strays => {
                drop(raw::kill(-1, libc::SIGKILL));
                self.log_daemon = None;
                self.last_helper(Phase::Unmount, &["umount-all"]);
            }
            Phase::Unmount => self.last_helper(Phase::Sync, &["sync"]),
            Phase::Sync => self.end = Some(Left::Machine(down)),
        }
    }

    /// Whether only processes are left that are ours.
    pub(super) fn stray_ended(&mut self) {
        if self.leaving.as_ref().is_some_and(|l| l.phase == Phase::Strays) && !has_strays(&self.own_pids()) {
            self.next_phase();
        }
    }

    fn own_pids(&self) -> BTreeSet<i32> {
        let mut own: BTreeSet<i32> = self.workers.values().map(|w| w.link.pid).collect();
        own.extend(self.log_daemon.as_ref().map(|d| d.pid));
        own.insert(1);
        own
    }

    fn last_helper(&mut self, phase: Phase, words: &[&str]) {
        if let Some(leaving) = &mut self.leaving {
            leaving.phase = phase;
            leaving.due = now().after_ms(DISK_MS);
            leaving.unwritten = unwritten();
        }
        let mut argv = vec!["holdfast-helper".to_owned()];
        argv.extend(words.iter().map(|w| (*w).to_owned()));
        let launch =
            Launch { argv: &argv, program: Some(OWN_PROGRAM), output: Output::Inherit, ..Launch::default() };
        match spawn::spawn(&launch) {
            Ok(spawned) => {
                let pid = self.own_started(spawned);
                self.helpers.insert(pid, Helper::Last);
                if let Some(leaving) = &mut self.leaving {
                    leaving.helper = Some(pid);
                }
            }
            Err(e) => {
                self.say(Level::Error, None, &e.to_string());
                self.next_phase();
            }
        }
    }

    /// Has a helper read a daemon's pid file: it may lie on a dead disk.
    pub(super) fn read_pid_file(&mut self, serial: u64, path: &str) {
        let (reader, writer) =
            match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK) {
                Ok(pipe) => pipe,
                Err(e) => return self.say(Level::Error, None, &format!("cannot read {path}: {e}")),
            };
        let argv = ["holdfast-helper".to_owned(), "read-pid".to_owned(), path.to_owned()];
        let launch = Launch {
            argv: &argv,
            program: Some(OWN_PROGRAM),
            output: Output::Descriptor(writer.as_fd()),
            ..Launch::default()
        };
        match spawn::spawn(&launch) {
            Ok(spawned) => {
                let pid = self.own_started(spawned);
                self.helpers.insert(pid, Helper::PidFile { serial, pipe: reader });
            }
            Err(e) => self.say(Level::Error, None, &e.to_string()),
        }
    }

    /// Whether it was a helper of the shell.
    pub(super) fn helper_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        if self.leaving.as_ref().is_some_and(|l| l.container_logs == Some(pid)) {
            self.next_phase();
            return true;
        }
        if self.query_ended(pid, status) || self.emergency_ended(pid) {
            return true;
        }
        match self.helpers.remove(&pid) {
            Some(Helper::PidFile { serial, pipe }) => {
                let mut buffer = [0; PID_FILE];
                let count = nix::unistd::read(&pipe, &mut buffer).unwrap_or(0);
                let text = std::str::from_utf8(buffer.get(..count).unwrap_or_default()).unwrap_or_default();
                match text.trim().parse::<i32>() {
                    Ok(pid) => self.adopt_main(serial, pid),
                    Err(_) => self.guess_main(serial),
                }
                true
            }
            Some(Helper::Last) => {
                if !self.leaving.as_mut().is_some_and(|l| l.awaited(pid)) {
                    return true;
                }
                if status != ExitStatus::Code(0) {
                    self.say(Level::Warning, None, &format!("going down: the helper {status}"));
                }
                self.next_phase();
                true
            }
            None => {
                self.stray_ended();
                false
            }
        }
    }
}

/// KiB that the disks have not got yet. /proc/meminfo is the kernel's memory, and waits for none of them.
fn unwritten() -> u64 {
    std::fs::read_to_string("/proc/meminfo").map_or(0, |text| of_meminfo(&text))
}

fn of_meminfo(text: &str) -> u64 {
    let of = |line: &str| {
        let (name, size) = line.split_once(':')?;
        matches!(name, "Dirty" | "Writeback").then(|| size.split_whitespace().next()?.parse::<u64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

/// Whether any process is there that is neither the kernel's nor among `own`. Of what is in /proc only `stat` never
/// waits for the process that it is about.
fn has_strays(own: &BTreeSet<i32>) -> bool {
    const KTHREADD: i32 = 2;
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).any(|pid| {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|s| reap::parse_stat(&s));
        let kernels = |s: &reap::Stat| pid == KTHREADD || s.ppid == KTHREADD;
        !own.contains(&pid) && stat.is_some_and(|s| s.state != b'Z' && !kernels(&s))
    })
}

/// The last act of a machine's PID 1: reboot(2). Returns only when the kernel refuses.
pub fn power_down(down: Down) {
    use nix::sys::reboot::{RebootMode, reboot};
    let mode = match down {
        Down::Poweroff | Down::Exit => RebootMode::RB_POWER_OFF,
        Down::Reboot => RebootMode::RB_AUTOBOOT,
        Down::Halt => RebootMode::RB_HALT_SYSTEM,
    };
    let Err(e) = reboot(mode);
    crate::sys::stdio::complain(&format!("cannot go down ({down:?}): {e}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(phase: Phase) -> Leaving {
        let at = Mono(0);
        let (helper, down) = (Some(7), Down::Poweroff);
        Leaving { down, phase, since: at, due: at, helper, unwritten: 90, container_logs: None }
    }

    #[test]
    fn the_end_of_a_helper_that_was_given_up_is_no_step() {
        let mut leaving = leaving(Phase::Unmount);
        assert!(!leaving.awaited(6));
        assert!(leaving.awaited(7));
        assert!(!leaving.awaited(7), "it ends once");
    }

    #[test]
    fn a_slow_disk_has_time_as_long_as_it_takes_something() {
        let mut leaving = leaving(Phase::Sync);
        assert!(leaving.writes_on(80) && leaving.writes_on(20));
        assert!(!leaving.writes_on(20), "nothing was written");
        leaving.phase = Phase::Strays;
        assert!(!leaving.writes_on(10), "it is not the disk that is waited for");
    }

    #[test]
    fn what_is_unwritten_is_dirty_or_on_its_way() {
        let text =
            "MemFree: 900 kB\nDirty:   120 kB\nWriteback:  30 kB\nWritebackTmp: 5 kB\nHugePages_Total: 0\n";
        assert_eq!(of_meminfo(text), 150);
    }
}
