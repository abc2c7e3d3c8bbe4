//! The query service: `cm-worker query`, which answers what needs a disk and changes nothing.
//!
//! PID 1 starts it when somebody connects to the socket `control.store`, and hands over the listening socket as descriptor
//! 3. It speaks Varlink (`docs/varlink/io.holdfast.Store.varlink`): plans, generations and their differences, saved
//! versions, patches that adopt what is on the machine, and the comparison of the whole machine with its generation.
//!
//! ```text
//! server ── a call ──► child ── Plan, Check, Adopt ──► opener, compiler (see worker::compile)
//!   ▲ reads no file      │ confined: reads everything, writes nothing
//!   └── listens          └── replies to the client, and ends
//! ```
//!
//! [`server`] cuts what clients send into calls, [`answer`] is a call's process, [`machine`] looks at the machine, and
//! each method has a file: [`planning`], [`generations`], [`history`], [`adopt`], [`verify`].
//!
//! **Invariant:** whoever answers a call can write nowhere: it is a process of its own, confined before it looks at
//! anything that the call names; what people wrote is parsed by the compiler, which may do still less.

pub mod adopt;
pub mod answer;
pub mod describe;
pub mod difference;
pub mod edit;
pub mod generations;
pub mod history;
pub mod kernel;
pub mod live;
pub mod machine;
mod missing;
pub mod planning;
pub mod server;
pub mod shape;
pub mod verify;
pub mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How the service is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The store.
    pub store: PathBuf,
    /// The run-time directory.
    pub run: PathBuf,
    /// PID 1's control socket.
    pub control: PathBuf,
    /// Where generation 0 lies: `manifest` and `blobs`.
    pub boot: PathBuf,
    /// Another root than `/`; empty for that.
    pub root: PathBuf,
    /// Another place of sysctls than `/proc/sys`; empty for that.
    pub proc_sys: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            store: "/var/lib/holdfast".into(),
            run: "/run/holdfast".into(),
            control: PathBuf::new(),
            boot: "/usr/lib/holdfast/boot".into(),
            root: PathBuf::new(),
            proc_sys: PathBuf::new(),
        }
    }
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// An argument that means nothing.
    #[error(
        "unknown argument {0}; usage: cm-worker query [--store DIR] [--run DIR] [--control SOCKET] [--boot DIR]"
    )]
    Usage(String),
    /// The listening socket.
    #[error("cannot use the listening socket: {0}")]
    Socket(io::Error),
}

impl Options {
    /// From the words behind `query`. What is not said is where `init` has it.
    ///
    /// # Errors
    /// [`QueryError::Usage`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, QueryError> {
        let mut options = Options::default();
        let mut arguments = arguments.into_iter();
        while let Some(word) = arguments.next() {
            let usage = || QueryError::Usage(word.to_string_lossy().into_owned());
            let slot = match word.to_str() {
                Some("--store") => &mut options.store,
                Some("--run") => &mut options.run,
                Some("--control") => &mut options.control,
                Some("--boot") => &mut options.boot,
                Some("--root") => &mut options.root,
                Some("--proc-sys") => &mut options.proc_sys,
                _ => return Err(usage()),
            };
            *slot = arguments.next().ok_or_else(usage)?.into();
        }
        if options.control.as_os_str().is_empty() {
            options.control = options.run.join("control");
        }
        Ok(options)
    }
}

/// Serves whoever connects, until nobody has for about a second.
///
/// # Errors
/// When there is nothing to listen on.
pub fn serve(listener: OwnedFd, options: Options) -> Result<(), QueryError> {
    server::Server::new(listener, options)?.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_where_init_has_things_unless_said() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(OsString::from));
        let options = parse("--store /s --run /r").unwrap();
        assert_eq!((options.store, options.control), ("/s".into(), PathBuf::from("/r/control")));
        assert_eq!(parse("--control /c").unwrap().control, PathBuf::from("/c"));
        assert!(parse("--store").is_err() && parse("nonsense").is_err());
    }
}
