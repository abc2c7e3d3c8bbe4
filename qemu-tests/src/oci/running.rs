//! A running container's output, line by line, and its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use super::LIMIT;
use crate::Result;
use crate::rig::Said;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// A container that `runc run` has in the foreground.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<(Stream, String)>,
    /// Lines of standard error that came while others were waited for, and all that came before.
    said: Vec<(Stream, String)>,
}

fn read(pipe: impl Read + Send + 'static, stream: Stream, to: Sender<(Stream, String)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if to.send((stream, line)).is_err() {
                break;
            }
        }
    });
}

impl Running {
    pub(super) fn of(mut command: Command) -> Result<Running> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take().ok_or("no output")?, Stream::Output, sender.clone());
        read(child.stderr.take().ok_or("no output")?, Stream::Error, sender);
        Ok(Running { child, lines, said: Vec::new() })
    }

    /// Everything that was said so far.
    pub fn text(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.iter().map(|(_, l)| format!("{l}\n")).collect()
    }

    /// The next line of a stream.
    ///
    /// # Errors
    /// When none comes within [`LIMIT`]; with what was said.
    pub fn line(&mut self, wanted: Stream) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (stream, line) = self.lines.recv_timeout(left).map_err(|e| {
                let why = if e == RecvTimeoutError::Timeout { "time ran out" } else { "it has ended" };
                format!("no further line of the container: {why}; it said:\n{}", self.text())
            })?;
            self.said.push((stream, line.clone()));
            if stream == wanted {
                return Ok(line);
            }
        }
    }

    /// Reads lines of a stream until one contains `text`.
    ///
    /// # Errors
    /// As [`Running::line`].
    pub fn until(&mut self, wanted: Stream, text: &str) -> Result<String> {
        loop {
            let line = self.line(wanted)?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// As [`Running::until`], unless such a line came before.
    ///
    /// # Errors
    /// As [`Running::line`].
    pub fn until_said(&mut self, wanted: Stream, text: &str) -> Result {
        if self.said.iter().any(|(s, l)| *s == wanted && l.contains(text)) {
            return Ok(());
        }
        self.until(wanted, text).map(drop)
    }

    /// Waits for the container's end, and gives its code and everything that it said.
    ///
    /// # Errors
    /// When it does not end within [`LIMIT`].
    pub fn ended(mut self) -> Result<Said> {
        let deadline = Instant::now() + LIMIT;
        // Both streams end with the container's last process.
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("the container does not end; it said:\n{}", self.text()).into());
                }
            }
        }
        let status = self.child.wait()?;
        let of = |stream: Stream| -> String {
            self.said.iter().filter(|(s, _)| *s == stream).map(|(_, l)| format!("{l}\n")).collect()
        };
        Ok(Said { code: status.code().unwrap_or(-1), out: of(Stream::Output), err: of(Stream::Error) })
    }
}
