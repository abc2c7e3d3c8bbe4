//! Calls and answers of the sockets beside the control socket: `io.holdfast.Store`, whose types are those of who answers,
//! and `io.holdfast.Logs`. The interface texts are in `docs/varlink`.

pub use cm_core::plan::Verb;
pub use cm_core::query::shape::{
    Adopted, Between, Check, Content, Diff, Generation, Generations, History, MaybeAll, MaybeUnit,
    OneContent, OneUnit, Plan, PlanSummary, PlannedChange, Source, Verified, Verify, VerifySummary, Version,
};
use serde::{Deserialize, Serialize};
use units::diagnostic::Located;

use crate::control::wire::{self, Call};

/// The store's interface.
pub const STORE_INTERFACE: &str = include_str!("../../../docs/varlink/io.holdfast.Store.varlink");
/// The log daemon's interface.
pub const LOGS_INTERFACE: &str = include_str!("../../../docs/varlink/io.holdfast.Logs.varlink");

/// A call as bytes. `method` is the full name.
pub fn frame<P: Serialize>(method: &str, parameters: &P, more: bool) -> Vec<u8> {
    let method = method.to_owned();
    wire::frame(&Call { method, parameters: Some(parameters), more, oneway: false, upgrade: false })
}

/// Parameters of `Read`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Read {
    /// Of which unit; of all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How many lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// One reply to `Read`: a line of output, or the end, which has no fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// When: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The line, without its newline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// What `check` says in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How many units there are; 0 with errors.
    pub units: usize,
    /// Everything that was found.
    pub diagnostics: Vec<Located>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_called_is_in_its_interface() {
        for method in ["Plan", "Generations", "Diff", "Adopt", "Verify", "Check", "History", "Content"] {
            assert!(STORE_INTERFACE.contains(&format!("method {method}(")), "{method}");
        }
        assert!(LOGS_INTERFACE.contains("method Read("));
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.word());
            assert!(STORE_INTERFACE.contains(verb.word()));
        }
    }
}
