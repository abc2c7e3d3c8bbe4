//! Varlink on the wire, the server's side: JSON objects that each end with a NUL byte; and every error that is answered.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use units::diagnostic::Located;

/// The interface that is served.
pub const INTERFACE: &str = "io.holdfast.Store";
/// Its description, as `org.varlink.service.GetInterfaceDescription` tells it.
pub const DESCRIPTION: &str = include_str!("../../../docs/varlink/io.holdfast.Store.varlink");
/// Largest call, without its NUL.
pub const MAX_FRAME: usize = 64 << 10;
/// Largest list of diagnostics in one error, in bytes; what is beyond is left out.
const MAX_DIAGNOSTICS: usize = 256 << 10;

/// A call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Call {
    /// Interface and method.
    pub method: String,
    /// Its parameters; absent is the same as empty.
    #[serde(default)]
    pub parameters: Option<Value>,
    /// The client takes more than one reply.
    #[serde(default)]
    pub more: bool,
    /// The client wants no reply.
    #[serde(default)]
    pub oneway: bool,
}

/// A reply.
#[derive(Debug, Serialize)]
struct Reply<'a, P> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    parameters: P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

/// A reply as bytes, with its NUL. What JSON cannot say (none of our types) becomes an empty object.
pub fn reply<P: Serialize>(parameters: P, continues: bool) -> Vec<u8> {
    framed(&Reply { error: None, parameters, continues })
}

fn framed<P: Serialize>(reply: &Reply<'_, P>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(reply).unwrap_or_else(|_| b"{}".to_vec());
    bytes.push(0);
    bytes
}

impl Call {
    /// The call in a frame.
    ///
    /// # Errors
    /// [`Fault::InvalidParameter`] when it is none.
    pub fn parse(frame: &[u8]) -> Result<Call, Fault> {
        serde_json::from_slice(frame).map_err(|e| Fault::invalid("call", &e))
    }

    /// Its parameters, typed.
    ///
    /// # Errors
    /// [`Fault::InvalidParameter`] when one is of another type.
    pub fn parameters<P: DeserializeOwned>(&self) -> Result<P, Fault> {
        let value = self.parameters.clone().unwrap_or_else(|| json!({}));
        serde_json::from_value(value).map_err(|e| Fault::invalid("parameters", &e))
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
        framed(&Reply { error: Some(self.name()), parameters: self.parameters(), continues: false })
    }
}

/// More than [`MAX_FRAME`] bytes without a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message is longer than {MAX_FRAME} bytes")]
pub struct TooLong;

/// Cuts a stream of bytes into frames; holds at most [`MAX_FRAME`] bytes and what one read brought.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Adds what came from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, without its NUL.
    ///
    /// # Errors
    /// [`TooLong`] when what is held cannot become one.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        match self.buffer.iter().position(|b| *b == 0) {
            Some(at) if at > MAX_FRAME => Err(TooLong),
            Some(at) => {
                let mut frame: Vec<u8> = self.buffer.drain(..=at).collect();
                frame.pop();
                Ok(Some(frame))
            }
            None if self.buffer.len() > MAX_FRAME => Err(TooLong),
            None => Ok(None),
        }
    }

    /// Whether a whole frame may be there already.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_nul_however_the_bytes_arrive() {
        let stream = b"one\0two\0\0three";
        for chunk in 1..stream.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for part in stream.chunks(chunk) {
                frames.feed(part);
                while let Some(f) = frames.next_frame().unwrap() {
                    got.push(f);
                }
            }
            assert_eq!(got, [&b"one"[..], b"two", b""]);
        }
        let mut frames = Frames::default();
        frames.feed(&vec![b'x'; MAX_FRAME + 1]);
        assert_eq!(frames.next_frame(), Err(TooLong));
    }

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
