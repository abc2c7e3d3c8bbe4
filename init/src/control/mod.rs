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
pub mod request;
pub mod server;
mod serving;
pub mod socket;
pub mod wire;

pub use answer::{Answer, Info, Progress, Tally, UnitStatus, Verdict};
pub use failure::Failure;
pub use request::Request;

/// The interface `io.holdfast`, as `org.varlink.service.GetInterfaceDescription` tells it.
pub const INTERFACE: &str = include_str!("../../../docs/varlink/io.holdfast.varlink");
/// Its name.
pub const INTERFACE_NAME: &str = "io.holdfast";
/// The socket's name in the run-time directory.
pub const SOCKET: &str = "control";
/// Name of the query service's socket (interface `io.holdfast.Store`) in the run-time directory.
pub const STORE_SOCKET: &str = "store";
/// Name of the log daemon's socket (interface `io.holdfast.Logs`) in the run-time directory.
pub const LOGS_SOCKET: &str = "logs";
/// Version of the interface; it changes when a client of the version before would misunderstand.
pub const PROTOCOL: u32 = 1;
