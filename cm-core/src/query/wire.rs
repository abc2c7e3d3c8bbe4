//! Calls of this interface, and every error that is answered. The framing is [`crate::varlink`]'s.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use units::diagnostic::Located;

use crate::varlink::{self, Frames};

/// The interface that is served.
pub const INTERFACE: &str = "io.holdfast.Store";
/// Its description, as `org.varlink.service.GetInterfaceDescription` tells it.
pub const DESCRIPTION: &str = include_str!("../../../docs/varlink/io.holdfast.Store.varlink");
/// Largest list of diagnostics in one error, in bytes; what is beyond is left out.
const MAX_DIAGNOSTICS: usize = 256 << 10;

/// A call.
pub type Call = varlink::Call<Value>;

/// The call in a frame.
///
/// # Errors
/// [`Fault::InvalidParameter`] when it is none.
pub fn parse(frame: &[u8]) -> Result<Call, Fault> {
    serde_json::from_slice(frame).map_err(|e| Fault::invalid("call", &e))
}

/// The parameters of a call, typed.
///
/// # Errors
/// [`Fault::InvalidParameter`] when one is of another type.
pub fn parameters<P: DeserializeOwned>(call: &Call) -> Result<P, Fault> {
    let value = call.parameters.clone().unwrap_or_else(|| json!({}));
    serde_json::from_value(value).map_err(|e| Fault::invalid("parameters", &e))
}

/// The one call that comes over a connection of which both ends are ours.
///
/// # Errors
/// When it ends before the call does, or that is none.
pub fn receive_call(mut stream: &UnixStream) -> io::Result<Call> {
    let mut frames = Frames::default();
    let mut buffer = [0; 4 << 10];
    loop {
        if let Some(frame) = frames.next_frame() {
            return parse(&frame).map_err(io::Error::other);
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => frames.feed(buffer.get(..count).unwrap_or_default()).map_err(io::Error::other)?,
        }
    }
}

/// Why a call could not be answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The caller is neither root nor the socket's owner.
    #[error("cannot {what}: permission denied")]
    PermissionDenied {
        /// What was asked.
        what: String,
    },
    /// No such unit.
    #[error("no such unit: {unit}")]
    NoSuchUnit {
        /// As it was asked for.
        unit: String,
        /// The address with the most similar name.
        nearest: Option<String>,
    },
    /// The state file has mistakes.
    #[error("{text}")]
    CompileFailed {
        /// The first of them, as text.
        text: String,
        /// All of them, as many as fit.
        diagnostics: Vec<Located>,
    },
    /// A parameter cannot be what it is.
    #[error("parameter {parameter}: {text}")]
    InvalidParameter {
        /// Its name.
        parameter: String,
        /// What is wrong.
        text: String,
    },
    /// No such generation.
    #[error("{0}")]
    NoSuchGeneration(String),
    /// What has to be asked is not there.
    #[error("{0}")]
    Unavailable(String),
    /// It was tried and could not be done.
    #[error("{0}")]
    Failed(String),
    /// No such method.
    #[error("no such method: {0}")]
    MethodNotFound(String),
    /// No such interface.
    #[error("no such interface: {0}")]
    InterfaceNotFound(String),
    /// The answer does not fit one reply.
    #[error("the answer does not fit one reply: call with `more`")]
    ExpectedMore,
}

impl Fault {
    /// A parameter that cannot be what it is.
    pub fn invalid(parameter: &str, text: &dyn std::fmt::Display) -> Fault {
        Fault::InvalidParameter { parameter: parameter.to_owned(), text: text.to_string() }
    }

    /// Full Varlink name.
    pub const fn name(&self) -> &'static str {
        match self {
            Fault::PermissionDenied { .. } => "io.holdfast.Store.PermissionDenied",
            Fault::NoSuchUnit { .. } => "io.holdfast.Store.NoSuchUnit",
            Fault::CompileFailed { .. } => "io.holdfast.Store.CompileFailed",
            Fault::InvalidParameter { .. } => "io.holdfast.Store.InvalidParameter",
            Fault::NoSuchGeneration(_) => "io.holdfast.Store.NoSuchGeneration",
            Fault::Unavailable(_) => "io.holdfast.Store.Unavailable",
            Fault::Failed(_) => "io.holdfast.Store.Failed",
            Fault::MethodNotFound(_) => "org.varlink.service.MethodNotFound",
            Fault::InterfaceNotFound(_) => "org.varlink.service.InterfaceNotFound",
            Fault::ExpectedMore => "org.varlink.service.ExpectedMore",
        }
    }

    fn parameters(&self) -> Value {
        match self {
            Fault::PermissionDenied { what } => json!({ "what": what }),
            Fault::NoSuchUnit { unit, nearest: Some(nearest) } => json!({ "unit": unit, "nearest": nearest }),
            Fault::NoSuchUnit { unit, nearest: None } => json!({ "unit": unit }),
            Fault::CompileFailed { text, diagnostics } => {
                let mut size = 0usize;
                let fits = diagnostics.iter().take_while(|d| {
                    let text: usize = d.places.iter().map(|p| p.text.len().saturating_add(64)).sum();
                    size = size.saturating_add(d.message.len()).saturating_add(text).saturating_add(64);
                    size < MAX_DIAGNOSTICS
                });
                json!({ "text": text, "diagnostics": fits.collect::<Vec<_>>() })
            }
            Fault::InvalidParameter { parameter, text } => json!({ "parameter": parameter, "text": text }),
            Fault::NoSuchGeneration(text) | Fault::Unavailable(text) | Fault::Failed(text) => {
                json!({ "text": text })
            }
            Fault::MethodNotFound(method) => json!({ "method": method }),
            Fault::InterfaceNotFound(interface) => json!({ "interface": interface }),
            Fault::ExpectedMore => json!({}),
        }
    }

    /// The error reply as bytes, with its NUL.
    pub fn reply(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        varlink::error(&mut bytes, self.name(), &self.parameters());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_but_those_of_varlink_is_in_the_interface() {
        let faults = [
            Fault::PermissionDenied { what: String::new() },
            Fault::NoSuchUnit { unit: String::new(), nearest: None },
            Fault::CompileFailed { text: String::new(), diagnostics: vec![] },
            Fault::InvalidParameter { parameter: String::new(), text: String::new() },
            Fault::NoSuchGeneration(String::new()),
            Fault::Unavailable(String::new()),
            Fault::Failed(String::new()),
        ];
        for fault in faults {
            let word = fault.name().rsplit('.').next().unwrap();
            assert!(DESCRIPTION.contains(&format!("error {word} ")), "{word}");
            for key in fault.parameters().as_object().unwrap().keys() {
                assert!(DESCRIPTION.contains(&format!("{key}:")), "{word}: {key}");
            }
        }
    }
}
