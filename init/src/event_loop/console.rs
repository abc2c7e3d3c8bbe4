//! What PID 1 itself has to say: to the kernel's log, or to standard error where that is not ours.
//!
//! A console that takes nothing costs lines, which are counted, never time.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use cm_core::engine::effect::Level;

use super::Shell;
use super::quick::Quick;
use crate::control::output;

/// Longest line: a record of the kernel's log has 1024 bytes less its prefix; PIPE_BUF is 4096.
const LINE: usize = 900;

/// Where lines go.
#[derive(Debug)]
pub struct Console {
    kernel: Option<File>,
    other: Quick,
    lost: u64,
}

impl Console {
    /// The kernel's log for the init of a machine, standard error in a container.
    pub fn open(machine: bool) -> Console {
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let kernel = machine.then(open).and_then(Result::ok);
        Console { kernel, other: Quick::standard_error(), lost: 0 }
    }

    /// Lines that a person wants to see below each other. In the kernel's log, which keeps no empty ones, each begins
    /// as all of ours do.
    pub fn text(&mut self, level: Level, text: &str) {
        for line in text.lines() {
            match &self.kernel {
                Some(_) if line.is_empty() => {}
                Some(_) => self.line(level, line),
                None => self.write(level, "", line),
            }
        }
    }

    /// One line.
    pub fn line(&mut self, level: Level, text: &str) {
        self.write(level, "holdfast: ", text);
    }

    /// The same for a line that may end in what a command has printed: anybody may read the kernel's log.
    fn told(&mut self, level: Level, text: &str) {
        match self.kernel {
            Some(_) => self.line(level, output::without(text)),
            None => self.line(level, &output::whole(text)),
        }
    }

    fn write(&mut self, level: Level, name: &str, text: &str) {
        let end = (0..=LINE.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default().replace('\n', " / ");
        let written = match &mut self.kernel {
            // The facility is that of daemons: 3 << 3.
            Some(kernel) => kernel.write_all(format!("<{}>{name}{text}\n", 24 + level as u8).as_bytes()),
            None => self.other.line(format!("{name}{text}\n").as_bytes()),
        };
        match written {
            Err(_) => self.lost += 1,
            Ok(()) if self.lost > 0 => {
                let lost = std::mem::take(&mut self.lost);
                self.line(Level::Warning, &format!("{lost} lines before this one were lost"));
            }
            Ok(()) => {}
        }
    }
}

impl Shell {
    /// Says something about a unit, or about the whole.
    pub(super) fn say(&mut self, level: Level, unit: Option<&str>, text: &str) {
        let line = match unit {
            // The engine's own lines name the unit already.
            Some(unit) if !text.contains(unit) => format!("{unit}: {text}"),
            _ => text.to_owned(),
        };
        if level <= self.options.loudness {
            self.console.told(level, &line);
        }
        self.announce("log", &line);
    }
}
