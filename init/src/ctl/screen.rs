//! Where output goes: lines, a last line that is drawn again on a terminal, JSON.

use std::io::Write;

use serde_json::{Value, json};

use super::client::ClientError;
use super::exit::{Exit, Stop};
use super::render::diagnostic;
use super::render::style::{Paint, Style};
use crate::control::Failure;

/// Version of every JSON shape that `initctl` prints.
pub const JSON_VERSION: u32 = 1;

/// The output of one run.
pub struct Screen<'a> {
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Errors.
    pub err: &'a mut dyn Write,
    /// Whether there are colours.
    pub style: Style,
    /// Whether answers are JSON.
    pub json: bool,
    /// Whether a last line can be drawn again.
    pub live: bool,
    /// Whether one stands there now.
    pub drawn: bool,
}

impl Screen<'_> {
    /// Prints text that ends with a newline, or nothing.
    ///
    /// # Errors
    /// [`Stop::Output`].
    pub fn put(&mut self, text: &str) -> Result<(), Stop> {
        let cleared = if std::mem::take(&mut self.drawn) { "\r\x1b[K" } else { "" };
        self.write(&format!("{cleared}{text}"))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Stop::Output`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(Stop::Output)
    }

    /// Draws the last line again; nothing where that cannot be done.
    ///
    /// # Errors
    /// [`Stop::Output`].
    pub fn draw(&mut self, text: &str) -> Result<(), Stop> {
        if !self.live {
            return Ok(());
        }
        self.drawn = true;
        // A line that wraps could not be cleared.
        let text: String = text.chars().filter(|c| !c.is_control()).take(78).collect();
        self.write(&format!("\r\x1b[K{text}"))
    }

    fn write(&mut self, text: &str) -> Result<(), Stop> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(Stop::Output)
    }

    /// Prints an object with its version, on one line.
    ///
    /// # Errors
    /// [`Stop::Output`].
    pub fn object(&mut self, mut value: Value) -> Result<(), Stop> {
        if let Value::Object(members) = &mut value {
            members.insert("version".to_owned(), json!(JSON_VERSION));
        }
        self.put(&format!("{value}\n"))
    }

    /// Says why a run ends early.
    pub fn stopped(&mut self, stop: &Stop) -> Exit {
        let exit = stop.exit();
        if exit == Exit::Done {
            return exit;
        }
        if self.json {
            // Were the output broken, the exit code would still say it.
            let _ = self.object(json!({ "error": error_object(stop) }));
        }
        let _ = self.put("");
        let text = match stop {
            Stop::Client(ClientError::Failure(Failure::CompileFailed { text, diagnostics })) => {
                if diagnostics.is_empty() {
                    format!("{}: {text}\n", "error".red(self.style))
                } else {
                    diagnostic::all(diagnostics, self.style)
                }
            }
            _ => format!("initctl: {stop}\n{}", help(stop)),
        };
        let _ = self.err.write_all(text.as_bytes());
        exit
    }
}

/// An error as JSON.
fn error_object(stop: &Stop) -> Value {
    match stop {
        Stop::Client(ClientError::Failure(f)) => {
            json!({ "name": f.name(), "parameters": f.parameters(), "message": f.to_string() })
        }
        _ => json!({ "message": stop.to_string() }),
    }
}

/// The way out, where there is one.
fn help(stop: &Stop) -> &'static str {
    match stop {
        Stop::Client(ClientError::Connect { source, .. }) => match source.kind() {
            std::io::ErrorKind::NotFound => {
                "help: is init running here? --socket PATH or HOLDFAST_SOCKET name another socket\n"
            }
            std::io::ErrorKind::PermissionDenied => "help: try again as root\n",
            std::io::ErrorKind::ConnectionRefused => {
                "help: nobody listens there: has init ended, or does it listen elsewhere? --socket PATH or \
                 HOLDFAST_SOCKET name another socket\n"
            }
            _ => "",
        },
        Stop::Client(ClientError::Lost { .. }) => {
            "help: what was begun goes on; `initctl status` shows how it stands\n"
        }
        _ => "",
    }
}
