//! When a boot cannot go on: a shell on the console, and the way back offered.
//!
//! The shell has the console for itself: services that have a terminal there are held until the boot is over.

use cm_core::engine::effect::Level;
use cm_core::engine::event::{Down, Event, Verb};
use cm_core::engine::{Mono, Node};

use super::swap::BootStage;
use super::{Shell, now};
use crate::sys::raw;
use crate::sys::spawn::{self, Launch, Output};

/// Exit code of a container whose state cannot be loaded.
const BAD_STATE: i32 = 2;
/// Between the end of a shell and the start of the next one, which may end at once as well.
const AGAIN_MS: u64 = 1_000;
/// So long the mount that carries the store may take; it is waited for beside the shell, too.
const STORE_MS: u64 = 90_000;
/// Stands for no call: nobody waits for the answer.
const NOBODY: u64 = u64::MAX;
/// Why services that have the console are held.
const HELD: &str = "the emergency shell, which has the console";

/// The shell on the console.
#[derive(Debug, Default)]
pub struct Emergency {
    shell: Option<i32>,
    /// What the next shell says; it waits until the console is free.
    text: Option<String>,
    /// The next shell is not started earlier.
    pause: Option<Mono>,
    /// Until when nothing is said of the store's mount.
    patience: Option<Mono>,
    /// There is no shell to be had.
    none: bool,
    /// Services are held.
    holds: bool,
}

impl Emergency {
    /// The shell that runs.
    pub fn shell(&self) -> Option<i32> {
        self.shell
    }

    /// One that an earlier PID 1 started.
    pub fn adopt(&mut self, shell: Option<i32>) {
        self.shell = shell;
        self.holds = shell.is_some();
    }

    /// A child could not execute its program: if it is the shell, there will be none the next time either.
    pub fn not_executed(&mut self, pid: i32) {
        self.none |= self.shell == Some(pid);
    }

    /// Whether a shell is to come.
    pub fn is_due(&self) -> bool {
        self.text.is_some()
    }

    /// Whether there is no shell, and could be one.
    fn is_idle(&self) -> bool {
        self.shell.is_none() && self.text.is_none() && !self.none
    }

    /// When something is due.
    pub fn deadline(&self, at: Mono) -> Option<Mono> {
        let pause = self.pause.filter(|_| self.text.is_some());
        [pause, self.patience.filter(|_| self.is_idle())].into_iter().flatten().filter(|due| *due > at).min()
    }
}

impl Shell {
    /// The boot cannot go on as it should; `mistakes` are those of the state file, or nothing.
    pub(super) fn emergency(&mut self, why: &str, mistakes: &str) {
        self.console.text(Level::Error, mistakes);
        self.say(Level::Error, None, why);
        if self.options.container {
            self.main_code.get_or_insert(BAD_STATE);
            return self.ask_shutdown(Down::Exit, "a state that cannot be loaded");
        }
        if !self.options.first_process || !self.emergency.is_idle() {
            return;
        }
        self.emergency.text = Some(format!(
            "\n{mistakes}*** {why} ***\n\nThis is an emergency shell. What helps:\n  \
             initctl generations        what there is to go back to\n  \
             initctl rollback [N]       the last good generation, or generation N\n  \
             initctl apply FILE         another state\n  \
             initctl reboot\nLeave the shell (exit) to try the boot again.\n\n"
        ));
        for node in self.on_console() {
            if self.engine.status(node).hold.is_none() {
                self.emergency.holds = true;
                // As if somebody had hung up: an interactive shell takes no notice of SIGTERM.
                self.ask_engine(Verb::Kill(libc::SIGHUP), node);
                self.ask_engine(Verb::Stop, node);
            }
        }
    }

    fn ask_engine(&mut self, verb: Verb, node: Node) {
        let note = HELD.to_owned();
        self.queue.push_back(Event::Asked { request: NOBODY, verb, node, note, until: None });
    }

    /// Services whose terminal is the console.
    pub(super) fn on_console(&self) -> Vec<Node> {
        let of = |name: &str| std::fs::read_to_string(format!("/sys/class/tty/{name}/active")).ok();
        let last = |text: String| text.split_whitespace().last().map(str::to_owned);
        // The console is the last one that the kernel lists; tty0 is the virtual terminal that is shown.
        let mut names = vec!["console".to_owned()];
        names.extend(of("console").and_then(last));
        if names.iter().any(|name| name == "tty0") {
            names.extend(of("tty0").and_then(last));
        }
        let has = |node: &Node| {
            let (manifest, unit) = self.engine.unit_of(*node);
            let spec = self.engine.manifest(manifest).and_then(|m| m.service(unit));
            let tty = spec.and_then(|s| s.tty).unwrap_or_default();
            names.iter().any(|name| tty.strip_prefix("/dev/").unwrap_or(&tty) == name)
        };
        self.engine.nodes().filter(has).collect()
    }

    /// Starts the shell that is due, once nobody else has the console; lets the others have it when the boot is over.
    pub(super) fn advance_emergency(&mut self) {
        if self.emergency.shell.is_some() || self.engine.going_down().is_some() {
            return;
        }
        if !self.emergency.is_due() {
            if self.emergency.holds && self.is_booted() {
                self.emergency.holds = false;
                for node in self.on_console() {
                    if self.engine.status(node).hold.is_some_and(|h| h.why == HELD) {
                        self.ask_engine(Verb::Release, node);
                    }
                }
            }
            return;
        }
        let free = || !self.on_console().into_iter().any(|node| self.main_pid(node).is_some());
        if self.emergency.pause.is_some_and(|due| due > now()) || !free() {
            return;
        }
        let Some(text) = self.emergency.text.take() else { return };
        let script = "printf %s \"$1\"; exec /bin/sh -i".to_owned();
        let argv = ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned(), text];
        let launch = Launch {
            argv: &argv,
            program: Some("/bin/sh"),
            tty: Some("console"),
            output: Output::Console,
            ..Launch::default()
        };
        match spawn::spawn(&launch) {
            Ok(spawned) => {
                self.emergency.shell = Some(self.own_started(spawned));
                self.shell_changed = true;
            }
            Err(e) => {
                self.emergency.none = true;
                self.say(Level::Error, None, &format!("cannot start an emergency shell: {e}"));
            }
        }
    }

    /// Whether it was the emergency shell; the boot is tried again then, unless somebody has given the machine another
    /// state. How a shell ends says nothing: its code is that of the last command that was typed.
    pub(super) fn emergency_ended(&mut self, pid: i32) -> bool {
        if self.emergency.shell != Some(pid) {
            return false;
        }
        self.emergency.shell = None;
        self.emergency.pause = Some(now().after_ms(AGAIN_MS));
        self.shell_changed = true;
        if self.engine.going_down().is_none() && self.engine.desired().1 == 0 && !self.emergency.none {
            self.set_boot(BootStage::AwaitsStore);
        }
        true
    }

    /// The machine has the state that it should have, or somebody else wants the console: the shell is hung up.
    pub(super) fn end_emergency(&mut self) {
        self.emergency.text = None;
        if let Some(shell) = self.emergency.shell {
            drop(raw::kill(shell, libc::SIGHUP));
        }
    }

    /// The store cannot be opened yet: somebody has to look when that does not end by itself.
    pub(super) fn store_is_late(&mut self, mount: Node) {
        if !self.options.first_process || self.options.container || !self.emergency.is_idle() {
            return;
        }
        let status = self.engine.status(mount);
        let patience = *self.emergency.patience.get_or_insert(now().after_ms(STORE_MS));
        let failed = status.state == "backoff" || (self.engine.is_converged() && status.state == "waiting");
        if failed || patience <= now() {
            let why = if status.cause.is_empty() { status.state } else { &status.cause };
            self.emergency(&format!("the store waits for {}: {why}", status.address), "");
        }
    }
}
