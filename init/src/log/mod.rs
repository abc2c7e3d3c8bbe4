//! The log daemon: the executable of `init` under the name `holdfast-log`.
//!
//! Every service writes into a pipe whose two ends PID 1 holds. The daemon is given the read ends, copies what is
//! in them with tee(2), appends whole lines with a time stamp to `<logs>/<unit>/current`, and only then consumes
//! them from the pipe. So killing it loses no line, and may repeat the last ones, the first copy cut short; while the disk is full, the lines wait in
//! the pipes and the services with them.
//!
//! A line in a file is `2026-11-20T12:00:00.123456Z text`: UTC, the moment at which the daemon read it. A line of
//! more than [`lines::MAX_LINE`] bytes is split. Lines are whole in the files, always: what has no line feed yet
//! stays in the pipe until it has one, the service ends ([`protocol::Order::Flush`]), or the limit is reached.
//!
//! It does not decide what is kept (the unit does), and it does not sync: a crash of the kernel may lose the last
//! seconds.

mod cursor;
pub mod daemon;
mod file;
pub mod lines;
pub mod link;
pub mod protocol;
mod serve;
mod stream;
pub mod words;

pub use stream::peek;
