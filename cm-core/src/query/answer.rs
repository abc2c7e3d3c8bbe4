//! One call, answered by a process of its own: first what needs privileges, then confinement, then the answer.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::wire::{Call, DESCRIPTION, Fault, INTERFACE};
use super::{Options, adopt, generations, history, planning, verify};
use crate::varlink;
use crate::worker::confine;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Why a call ends early.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The answer is an error.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The client is gone, or takes nothing.
    #[error("the client does not take the answer")]
    Gone,
}

/// The replies to one call. All but the last say that more follow, so each is held until it is known what it is.
#[derive(Debug)]
pub struct Replies {
    stream: UnixStream,
    more: bool,
    held: Option<Value>,
}

impl Replies {
    /// Sends a reply.
    ///
    /// # Errors
    /// [`Fault::ExpectedMore`] for a second one where the client takes one; [`Stop::Gone`].
    pub fn send<P: Serialize>(&mut self, parameters: &P) -> Result<(), Stop> {
        let value =
            serde_json::to_value(parameters).map_err(|e| Fault::Failed(format!("cannot answer: {e}")))?;
        if let Some(before) = self.held.replace(value) {
            if !self.more {
                return Err(Fault::ExpectedMore.into());
            }
            self.reply(&before, true)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Stop> {
        let last = self.held.take().unwrap_or_else(|| json!({}));
        self.reply(&last, false)
    }

    fn reply(&mut self, parameters: &Value, continues: bool) -> Result<(), Stop> {
        let mut bytes = Vec::new();
        varlink::reply(&mut bytes, parameters, continues);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        // The socket's time limit turns a client that does not read into an error.
        self.stream.write_all(bytes).map_err(|_| Stop::Gone)
    }
}

/// Whatever a method needs.
#[derive(Debug)]
pub struct Asked<'a> {
    /// How the service was started.
    pub options: &'a Options,
    /// Who asks.
    pub caller: &'a Caller,
    /// The call.
    pub call: &'a Call,
    /// What came beside it.
    pub descriptor: Option<OwnedFd>,
    /// A directory that only this call uses; it does not exist yet, and is removed afterwards.
    pub staging: &'a Path,
}

/// Answers; true when the connection can go on.
pub fn answer(
    options: &Options,
    caller: &Caller,
    call: &Call,
    descriptor: Option<OwnedFd>,
    staging: &Path,
    stream: UnixStream,
) -> bool {
    if call.oneway {
        // Nothing here has an effect, so there is nothing to do without a reply.
        return true;
    }
    let mut replies = Replies { stream, more: call.more, held: None };
    let asked = Asked { options, caller, call, descriptor, staging };
    match dispatch(asked, &mut replies).and_then(|()| replies.finish()) {
        Ok(()) => true,
        Err(Stop::Fault(fault)) => replies.write(&fault.reply()).is_ok(),
        Err(Stop::Gone) => false,
    }
}

fn dispatch(asked: Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let method = asked.call.method.as_str();
    let (interface, word) = method.rsplit_once('.').unwrap_or(("", method));
    match (interface, word) {
        ("org.varlink.service", "GetInfo") => replies.send(&json!({
            "vendor": "Holdfast",
            "product": "cm-worker query",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": ["org.varlink.service", INTERFACE],
        })),
        ("org.varlink.service", "GetInterfaceDescription") => {
            let asked =
                asked.call.parameters.as_ref().and_then(|p| p.get("interface")).and_then(Value::as_str);
            match asked {
                Some(INTERFACE) => replies.send(&json!({ "description": DESCRIPTION })),
                other => Err(Fault::InterfaceNotFound(other.unwrap_or_default().to_owned()).into()),
            }
        }
        (INTERFACE, "Plan") => planning::plan(asked, replies),
        (INTERFACE, "Check") => planning::check(asked, replies),
        (INTERFACE, "Generations") => generations::list(&asked, replies),
        (INTERFACE, "Diff") => generations::diff(&asked, replies),
        (INTERFACE, "History") => history::list(&asked, replies),
        (INTERFACE, "Content") => history::content(&asked, replies),
        (INTERFACE, "Adopt") => adopt::adopt(&asked, replies),
        (INTERFACE, "Verify") => verify::verify(&asked, replies),
        (INTERFACE | "org.varlink.service", _) => Err(Fault::MethodNotFound(method.to_owned()).into()),
        _ => Err(Fault::InterfaceNotFound(interface.to_owned()).into()),
    }
}

/// From here on this process can change nothing.
///
/// # Errors
/// When the kernel does not let it; the call must not go on then.
pub fn confine() -> Result<(), Fault> {
    confine::reader().map_err(|e| Fault::Failed(e.to_string()))
}
