//! The worker of Holdfast. PID 1 starts it with its socket as descriptor 3; nobody else needs to. As `cm-worker query`
//! it answers questions about the store, and descriptor 3 is a listening socket.

#[cfg(panic = "abort")]
#[path = "../../../cm-core/link/without_stdio.rs"]
mod without_stdio;
#[cfg(panic = "abort")]
#[path = "../../../cm-core/link/without_unwinding.rs"]
mod without_unwinding;

use std::process::ExitCode;

use cm_core::proto::{INOTIFY_FD, POSITION_FD, PUBLIC_INOTIFY_FD, WORKER_FD};
use cm_core::query;
use cm_core::sys::inherited;
use cm_core::worker::batch::Confinement;
use cm_core::worker::{failpoint, serve};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == "query") {
        return answer_queries(arguments);
    }
    if let Some(n) = std::env::var("HOLDFAST_WORKER_DIES_AT").ok().and_then(|n| n.parse().ok()) {
        failpoint::arm(n);
    }
    let socket = match inherited(WORKER_FD) {
        Ok(socket) => socket,
        Err(_) => {
            eprintln!(
                "cm-worker: descriptor {WORKER_FD} is not a socket; init starts this program when it needs it"
            );
            return ExitCode::from(2);
        }
    };
    let inotify = inherited(INOTIFY_FD).ok().zip(inherited(PUBLIC_INOTIFY_FD).ok());
    let root = std::env::var_os("HOLDFAST_ROOT").unwrap_or_default().into();
    let position = inherited(POSITION_FD).ok().map(Into::into);
    let confinement = Confinement::Full;
    let start = serve::Start { socket, inotify, position, root, confinement, linger: Some(serve::LINGER) };
    match serve::serve(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cm-worker: {e}");
            ExitCode::FAILURE
        }
    }
}

fn answer_queries(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let socket = inherited(WORKER_FD).map_err(query::QueryError::Socket);
    let served = query::Options::parse(arguments).and_then(|options| query::serve(socket?, options));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cm-worker: {e}");
            ExitCode::FAILURE
        }
    }
}
