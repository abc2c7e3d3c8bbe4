//! Exit codes (design.md §8, docs/cli.md) and everything that ends a run early.

use super::client::ClientError;
use crate::control::{Failure, Verdict};

/// How `initctl` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A unit is failed or not kept, or what was asked could not be done.
    NotKept = 1,
    /// Bad usage, a bad state file, an unknown unit, no permission.
    Usage = 2,
    /// No connection; or for `status UNIT` a unit that is not ready.
    Unreachable = 3,
    /// Somebody else changed the generation first.
    Superseded = 4,
    /// Returned to the old generation.
    Returned = 5,
    /// The return is incomplete.
    ReturnIncomplete = 6,
    /// Time ran out.
    TimedOut = 124,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit as u8)
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Exit {
        match verdict {
            Verdict::Done => Exit::Done,
            Verdict::Failed => Exit::NotKept,
            Verdict::Superseded => Exit::Superseded,
            Verdict::Returned => Exit::Returned,
            Verdict::ReturnIncomplete => Exit::ReturnIncomplete,
        }
    }
}

/// Why a run ends before its verb is done.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The command line means nothing.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers, or the answer is an error.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
    /// Something of the local machine.
    #[error("{0}")]
    Local(String),
    /// Time ran out; what was not ready then.
    #[error("time ran out: {0}")]
    TimedOut(String),
}

impl Stop {
    /// The code that says so.
    pub fn exit(&self) -> Exit {
        match self {
            Stop::Usage(_) => Exit::Usage,
            Stop::Client(ClientError::Failure(failure)) => of_failure(failure),
            Stop::Client(ClientError::TimedOut { .. }) => Exit::TimedOut,
            Stop::Client(_) => Exit::Unreachable,
            // Who closes the pipe has seen enough: `initctl status | head`.
            Stop::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            Stop::Output(_) | Stop::Local(_) => Exit::NotKept,
            Stop::TimedOut(_) => Exit::TimedOut,
        }
    }
}

/// The code of an error reply.
fn of_failure(failure: &Failure) -> Exit {
    match failure {
        Failure::Superseded { .. } => Exit::Superseded,
        Failure::Unavailable { .. } | Failure::ShuttingDown => Exit::Unreachable,
        Failure::Failed { .. } | Failure::Other { .. } => Exit::NotKept,
        Failure::PermissionDenied { .. }
        | Failure::NoSuchUnit { .. }
        | Failure::AmbiguousUnit { .. }
        | Failure::CompileFailed { .. }
        | Failure::InvalidParameter { .. }
        | Failure::InvalidFrame { .. }
        | Failure::NoSuchGeneration { .. }
        | Failure::MethodNotFound { .. }
        | Failure::InterfaceNotFound { .. }
        | Failure::ExpectedMore => Exit::Usage,
    }
}
