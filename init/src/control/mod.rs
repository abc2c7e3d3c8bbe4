//! The server's side of the control protocol: Varlink over a unix stream socket.
//!
//! [`wire`] cuts bytes into frames, [`request`], [`answer`] and [`failure`] are the words of the interface
//! `io.holdfast` (its text is [`INTERFACE`]), [`connection`] is the pure state machine of one client, and
//! [`server`] holds the sockets. PID 1's loop feeds it readiness and gets typed requests; what can be answered
//! from memory (status, tree, explain, info, introspection) is answered in here through [`server::Source`].
//!
//! **Invariant:** nothing in here blocks, and nothing grows with what a client sends or does not read: input is
//! at most [`wire::MAX_FRAME`] a client, output at most [`connection::MAX_PENDING`] a client, clients are at most
//! [`server::MAX_CLIENTS`]. Long listings are made piece by piece as the client reads them.

pub mod answer;
pub mod connection;
pub mod failure;
pub mod name;
pub mod output;
pub mod request;
pub mod server;
mod serving;
pub mod socket;
pub mod wire;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub use answer::{Answer, Info, Progress, Tally, UnitStatus, Verdict};
pub use failure::Failure;
pub use request::Request;

/// The interface `io.holdfast`, as `org.varlink.service.GetInterfaceDescription` tells it.
pub const INTERFACE: &str = include_str!("../../../docs/varlink/io.holdfast.varlink");
/// Its name.
pub const INTERFACE_NAME: &str = "io.holdfast";
/// The socket's name in the run-time directory.
pub const SOCKET: &str = "control";
/// What the name of the query service's socket (interface `io.holdfast.Store`) ends in.
pub const STORE_SOCKET: &str = "store";
/// What the name of the log daemon's socket (interface `io.holdfast.Logs`) ends in.
pub const LOGS_SOCKET: &str = "logs";

/// A socket beside the control socket: `control.store` beside `control`. It is named after that, so that whoever
/// knows the one knows the others, and so that a store or logs can lie in the run-time directory.
pub fn beside(control: &Path, word: &str) -> PathBuf {
    let mut name = control.file_name().unwrap_or(OsStr::new(SOCKET)).to_owned();
    name.push(".");
    name.push(word);
    control.with_file_name(name)
}
/// Version of the interface; it changes when a client of the version before would misunderstand. 2: progress comes in lists.
pub const PROTOCOL: u32 = 2;
