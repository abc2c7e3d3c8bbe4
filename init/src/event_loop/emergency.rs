//! When a boot cannot go on: a shell on the console, and the way back offered.

use cm_core::engine::effect::Level;
use cm_core::engine::event::Down;

use super::Shell;
use super::swap::BootStage;
use crate::sys::reap::ExitStatus;
use crate::sys::spawn::{self, Launch, Output};

/// Exit code of a container whose state cannot be loaded.
const BAD_STATE: i32 = 2;

/// The shell on the console.
#[derive(Debug, Default)]
pub struct Emergency {
    shell: Option<i32>,
}

impl Emergency {
    /// The shell that runs.
    pub fn shell(&self) -> Option<i32> {
        self.shell
    }

    /// One that an earlier PID 1 started.
    pub fn adopt(&mut self, shell: Option<i32>) {
        self.shell = shell;
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
        if self.emergency.shell.is_some() || !self.options.first_process {
            return;
        }
        let text = format!(
            "\n{mistakes}*** {why} ***\n\nThis is an emergency shell. What helps:\n  \
             initctl generations        what there is to go back to\n  \
             initctl rollback [N]       the last good generation, or generation N\n  \
             initctl apply FILE         another state\n  \
             initctl reboot\nLeave the shell (exit) to try the boot again.\n\n"
        );
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
            Err(e) => self.say(Level::Error, None, &format!("cannot start an emergency shell: {e}")),
        }
    }

    /// Whether it was the emergency shell; the boot is tried again then.
    pub(super) fn emergency_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        if self.emergency.shell != Some(pid) {
            return false;
        }
        self.emergency.shell = None;
        self.shell_changed = true;
        // 126 and 127: there is no shell to be had, and would be none the next time.
        if self.engine.going_down().is_none() && !matches!(status, ExitStatus::Code(126 | 127)) {
            self.boot = BootStage::AwaitsStore;
        }
        true
    }
}
