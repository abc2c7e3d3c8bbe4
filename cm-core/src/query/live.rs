//! What PID 1 says about the units: it alone knows which services run and what is held by hand. Where nobody answers,
//! nothing is known; no answer here waits for long.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

/// Longest silence that is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest reply.
const MAX_REPLY: usize = 16 << 20;

/// A unit as PID 1 sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    unit: String,
    /// Its state, in a word.
    pub state: String,
    /// What it waits for, or why it failed.
    #[serde(default)]
    pub cause: String,
    /// Whether it has not loaded the configuration that it should have.
    #[serde(default)]
    pub stale: bool,
    /// Whether it counts as ready.
    #[serde(default)]
    pub ready: bool,
    /// Whether a hand started it.
    #[serde(default)]
    pub started: bool,
    held: Option<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Held {
    by: String,
    verb: String,
}

impl Status {
    /// By whom it is held, if it is.
    pub fn held(&self) -> Option<String> {
        self.held.as_ref().map(|h| format!("by {} ({})", h.by, h.verb))
    }

    /// Whether somebody keeps it down.
    pub fn stopped(&self) -> bool {
        self.held.as_ref().is_some_and(|h| h.verb == "stop")
    }
}

/// Every unit by its address.
pub type Units = HashMap<String, Status>;

#[derive(Deserialize)]
struct Reply {
    parameters: Option<Page>,
    error: Option<String>,
    #[serde(default)]
    continues: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    units: Vec<Status>,
}

/// Asks PID 1; `None` when it does not answer.
pub fn ask(socket: &Path) -> Option<Units> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"{\"method\":\"io.holdfast.Status\",\"parameters\":{},\"more\":true}\0").ok()?;
    let mut units = Units::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        let mut rest = chunk.get(..count)?;
        while let Some(at) = rest.iter().position(|b| *b == 0) {
            buffer.extend_from_slice(rest.get(..at)?);
            rest = rest.get(at.checked_add(1)?..)?;
            let reply: Reply = serde_json::from_slice(&buffer).ok()?;
            buffer.clear();
            if reply.error.is_some() {
                return None;
            }
            units.extend(reply.parameters?.units.into_iter().map(|s| (s.unit.clone(), s)));
            if !reply.continues {
                return Some(units);
            }
        }
        buffer.extend_from_slice(rest);
        if buffer.len() > MAX_REPLY {
            return None;
        }
    }
}
