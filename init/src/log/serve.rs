//! Clients that read logs: Varlink, interface `io.holdfast.Logs`, on a socket that PID 1 listens on.
//!
//! A client holds at most one request and some 64 KiB of answers; who does not read is waited for, and costs
//! nobody else anything. Reading needs root, the daemon's own user, or the group adm.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::cursor::Reader;
use super::lines;
use crate::sys::cgroup::{directory_name, unit_name};
use crate::sys::message;

/// Longest request.
const MAX_REQUEST: usize = 4096;
/// Answers are made until so many bytes wait to be sent.
const MAX_ANSWERS: usize = 64 << 10;
/// Lines a turn.
const BUDGET: usize = 512;

/// The interface, as `varlinkctl` prints it.
pub const INTERFACE: &str = include_str!("../../../docs/varlink/io.holdfast.Logs.varlink");

/// What a client's turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pump {
    /// Nothing to do until the socket or a followed unit says so.
    Idle,
    /// Its budget is spent.
    Again,
    /// It is gone, or must go.
    Close,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    allowed: bool,
    input: Vec<u8>,
    output: VecDeque<u8>,
    reader: Option<Reader>,
    follow: bool,
    every_unit: bool,
    closing: bool,
}

impl Client {
    /// A connection that was just accepted.
    ///
    /// # Errors
    /// When it is already gone.
    pub fn new(stream: UnixStream, group: Option<u32>) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        let peer = message::peer(stream.as_fd())?;
        let own = nix::unistd::geteuid().as_raw();
        let allowed = peer.uid == 0
            || peer.uid == own
            || group.is_some_and(|g| peer.gid == g || peer_groups(stream.as_fd()).contains(&g));
        Ok(Client {
            stream,
            allowed,
            input: Vec::new(),
            output: VecDeque::new(),
            reader: None,
            follow: false,
            every_unit: false,
            closing: false,
        })
    }

    /// Whether it may read logs.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Whether it is in the middle of an answer.
    pub fn is_busy(&self) -> bool {
        self.reader.is_some() || !self.output.is_empty()
    }

    /// Another answer to whether it may read than its user's and groups'.
    #[cfg(test)]
    pub fn let_in(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    /// Whether new lines of this unit concern it.
    pub fn follows(&self, unit: &str) -> bool {
        self.follow && (self.every_unit || self.reader.as_ref().is_some_and(|r| r.has(unit)))
    }

    /// A unit has its first line.
    pub fn meet(&mut self, unit: &str, logs: &Path) {
        if self.follow
            && self.every_unit
            && let Some(reader) = &mut self.reader
        {
            reader.add(unit.to_owned(), logs.join(directory_name(unit)));
        }
    }

    /// Reads requests, makes answers, sends them: as far as it goes without waiting.
    pub fn pump(&mut self, logs: &Path) -> Pump {
        if self.receive().is_err() {
            return Pump::Close;
        }
        let mut budget = BUDGET;
        loop {
            if self.send().is_err() || (self.closing && self.output.is_empty()) {
                return Pump::Close;
            }
            if self.output.len() >= MAX_ANSWERS || self.closing {
                return Pump::Idle;
            }
            if budget == 0 {
                return Pump::Again;
            }
            let progress = if self.reader.is_some() { self.lines(&mut budget) } else { self.request(logs) };
            if !progress {
                // What was made before and is not sent yet goes out when the socket becomes writable.
                return if self.send().is_err() { Pump::Close } else { Pump::Idle };
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // The other end sends no more. Who asked to follow and is only half closed is gone for us too.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.input.len() > MAX_REQUEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn answer(&mut self, value: &Value) {
        self.output.extend(value.to_string().into_bytes());
        self.output.push_back(0);
    }

    fn error(&mut self, name: &str, parameters: &Value) {
        self.answer(&json!({ "error": name, "parameters": parameters }));
    }

    /// Makes answers out of lines; `false` when there are none for now.
    fn lines(&mut self, budget: &mut usize) -> bool {
        let mut any = false;
        while *budget > 0 && self.output.len() < MAX_ANSWERS {
            let next = match self.reader.as_mut().map(Reader::line).transpose() {
                Ok(next) => next.flatten(),
                Err(e) => {
                    self.reader = None;
                    self.error("io.holdfast.Logs.CannotRead", &json!({ "cause": e.to_string() }));
                    return true;
                }
            };
            let Some((unit, line)) = next else {
                if !self.follow {
                    self.reader = None;
                    self.answer(&json!({ "parameters": {} }));
                    return true;
                }
                return any;
            };
            let (time, text) = lines::split(&line);
            let reply = json!({
                "parameters": {
                    "unit": unit,
                    "time": String::from_utf8_lossy(time),
                    "line": String::from_utf8_lossy(text),
                },
                "continues": true,
            });
            self.answer(&reply);
            *budget -= 1;
            any = true;
        }
        any
    }

    /// Takes up the next request; `false` when there is none.
    fn request(&mut self, logs: &Path) -> bool {
        let Some(end) = self.input.iter().position(|b| *b == 0) else { return false };
        let bytes: Vec<u8> = self.input.drain(..=end).collect();
        let Ok(call) = serde_json::from_slice::<Value>(bytes.get(..end).unwrap_or_default()) else {
            self.closing = true;
            return true;
        };
        let empty = json!({});
        let parameters = call.get("parameters").filter(|p| !p.is_null()).unwrap_or(&empty);
        let method = call.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
        match method.as_str() {
            "io.holdfast.Logs.Read" if !self.allowed => {
                self.error("io.holdfast.Logs.PermissionDenied", &json!({}));
            }
            "io.holdfast.Logs.Read" if call.get("more") != Some(&Value::Bool(true)) => {
                self.error("org.varlink.service.ExpectedMore", &json!({}));
            }
            "io.holdfast.Logs.Read" => self.start(parameters, logs),
            "org.varlink.service.GetInfo" => self.answer(&json!({ "parameters": {
                "vendor": "Holdfast", "product": "log daemon", "version": env!("CARGO_PKG_VERSION"), "url": "",
                "interfaces": ["org.varlink.service", "io.holdfast.Logs"],
            }})),
            "org.varlink.service.GetInterfaceDescription"
                if parameters.get("interface").and_then(Value::as_str) == Some("io.holdfast.Logs") =>
            {
                self.answer(&json!({ "parameters": { "description": INTERFACE } }));
            }
            _ => self.error("org.varlink.service.MethodNotFound", &json!({ "method": method })),
        }
        true
    }

    fn start(&mut self, parameters: &Value, logs: &Path) {
        let wrong = |name: &str| json!({ "parameter": name });
        let unit = match parameters.get("unit") {
            None | Some(Value::Null) => None,
            Some(Value::String(unit)) => Some(unit.clone()),
            Some(_) => return self.error("org.varlink.service.InvalidParameter", &wrong("unit")),
        };
        let count = match parameters.get("lines") {
            None | Some(Value::Null) => None,
            Some(number) => match number.as_u64() {
                Some(number) => Some(number),
                None => return self.error("org.varlink.service.InvalidParameter", &wrong("lines")),
            },
        };
        self.follow = parameters.get("follow").and_then(Value::as_bool).unwrap_or_default();
        self.every_unit = unit.is_none();
        let units = match unit {
            Some(unit) => {
                let directory = logs.join(directory_name(&unit));
                if !directory.is_dir() && !self.follow {
                    return self.error("io.holdfast.Logs.NoSuchUnit", &json!({ "unit": unit }));
                }
                vec![(unit, directory)]
            }
            None => std::fs::read_dir(logs)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|e| Some((unit_name(e.file_name().to_str()?)?, e.path())))
                .collect(),
        };
        match Reader::new(units, count) {
            Ok(reader) => self.reader = Some(reader),
            Err(e) => self.error("io.holdfast.Logs.CannotRead", &json!({ "cause": e.to_string() })),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// The supplementary groups of the other end when it connected (SO_PEERGROUPS); none when it cannot be told.
fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0_u32; 1024];
    let mut length = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).unwrap_or_default();
    // SAFETY: the buffer has `length` bytes, and both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let count = if result == 0 { usize::try_from(length).unwrap_or_default() / size_of::<u32>() } else { 0 };
    groups.truncate(count);
    groups
}
