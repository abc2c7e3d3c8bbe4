//! Every error that the control socket answers, by its Varlink name.

use serde_json::{Value, json};
use units::diagnostic::Located;

/// Why a call could not be done. The messages are what `initctl` prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The caller is neither root nor the socket's owner.
    #[error("cannot {what}: permission denied; {}", who_may(what))]
    PermissionDenied {
        /// What was asked.
        what: String,
    },
    /// No unit of this name in the current generation.
    #[error("no such unit: {unit}{}", nearest_text(nearest))]
    NoSuchUnit {
        /// As it was asked for.
        unit: String,
        /// The unit's address with the most similar name.
        nearest: Option<String>,
    },
    /// A bare name that several kinds have.
    #[error("{unit} is the name of several units: {}", candidates.join(", "))]
    AmbiguousUnit {
        /// As it was asked for.
        unit: String,
        /// All that it can mean.
        candidates: Vec<String>,
    },
    /// Another generation is the current one, or came first.
    #[error("generation {generation} was applied first")]
    Superseded {
        /// That generation.
        generation: u64,
    },
    /// The state file has mistakes.
    #[error("{text}")]
    CompileFailed {
        /// The first of them, as text.
        text: String,
        /// All of them, as many as fit.
        diagnostics: Vec<Located>,
    },
    /// A parameter is missing, unknown, or has a value that it cannot have.
    #[error("parameter {parameter}: {text}")]
    InvalidParameter {
        /// Its name.
        parameter: String,
        /// What is wrong.
        text: String,
    },
    /// The bytes are no Varlink call; the connection is closed after this.
    #[error("not a varlink call: {text}")]
    InvalidFrame {
        /// What is wrong.
        text: String,
    },
    /// There is nothing to go back to, or no such generation.
    #[error("{text}")]
    NoSuchGeneration {
        /// Which, in words.
        text: String,
    },
    /// What has to be asked is not there: the store is not open yet, the worker cannot be started.
    #[error("{text}")]
    Unavailable {
        /// What, and why.
        text: String,
    },
    /// The machine is going down.
    #[error("the machine is going down")]
    ShuttingDown,
    /// It was tried and could not be done.
    #[error("{text}")]
    Failed {
        /// What, and why.
        text: String,
    },
    /// `org.varlink.service`: no such method.
    #[error("no such method: {method}")]
    MethodNotFound {
        /// As it was called.
        method: String,
    },
    /// `org.varlink.service`: no such interface.
    #[error("no such interface: {interface}")]
    InterfaceNotFound {
        /// As it was asked for.
        interface: String,
    },
    /// `org.varlink.service`: the answer does not fit one reply, call again with `more`.
    #[error("the answer does not fit one reply: call with `more`")]
    ExpectedMore,
    /// An error that this program does not know: a newer peer's.
    #[error("{name}: {parameters}")]
    Other {
        /// Its full name.
        name: String,
        /// Its parameters.
        parameters: Value,
    },
}

/// What the log daemon's clients want, who are told only that they may not.
const READ_LOGS: &str = "read logs";

/// Who could have done it.
fn who_may(what: &str) -> &'static str {
    if what == READ_LOGS { "root and who is in the group adm may" } else { "try again as root" }
}

/// "; did you mean …?" or nothing.
fn nearest_text(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default()
}

impl Failure {
    /// Full Varlink name.
    pub fn name(&self) -> &str {
        match self {
            Failure::PermissionDenied { .. } => "io.holdfast.PermissionDenied",
            Failure::NoSuchUnit { .. } => "io.holdfast.NoSuchUnit",
            Failure::AmbiguousUnit { .. } => "io.holdfast.AmbiguousUnit",
            Failure::Superseded { .. } => "io.holdfast.Superseded",
            Failure::CompileFailed { .. } => "io.holdfast.CompileFailed",
            Failure::InvalidParameter { .. } => "io.holdfast.InvalidParameter",
            Failure::InvalidFrame { .. } => "io.holdfast.InvalidFrame",
            Failure::NoSuchGeneration { .. } => "io.holdfast.NoSuchGeneration",
            Failure::Unavailable { .. } => "io.holdfast.Unavailable",
            Failure::ShuttingDown => "io.holdfast.ShuttingDown",
            Failure::Failed { .. } => "io.holdfast.Failed",
            Failure::MethodNotFound { .. } => "org.varlink.service.MethodNotFound",
            Failure::InterfaceNotFound { .. } => "org.varlink.service.InterfaceNotFound",
            Failure::ExpectedMore => "org.varlink.service.ExpectedMore",
            Failure::Other { name, .. } => name,
        }
    }

    /// The error's parameters.
    pub fn parameters(&self) -> Value {
        match self {
            Failure::PermissionDenied { what } => json!({ "what": what }),
            Failure::NoSuchUnit { unit, nearest } => match nearest {
                Some(nearest) => json!({ "unit": unit, "nearest": nearest }),
                None => json!({ "unit": unit }),
            },
            Failure::AmbiguousUnit { unit, candidates } => json!({ "unit": unit, "candidates": candidates }),
            Failure::Superseded { generation } => json!({ "generation": generation }),
            Failure::CompileFailed { text, diagnostics } => {
                json!({ "text": text, "diagnostics": diagnostics })
            }
            Failure::InvalidParameter { parameter, text } => json!({ "parameter": parameter, "text": text }),
            Failure::InvalidFrame { text }
            | Failure::NoSuchGeneration { text }
            | Failure::Unavailable { text }
            | Failure::Failed { text } => json!({ "text": text }),
            Failure::ShuttingDown | Failure::ExpectedMore => json!({}),
            Failure::MethodNotFound { method } => json!({ "method": method }),
            Failure::InterfaceNotFound { interface } => json!({ "interface": interface }),
            Failure::Other { parameters, .. } => parameters.clone(),
        }
    }

    /// What a client makes of an error reply.
    pub fn from_reply(name: &str, parameters: Option<Value>) -> Failure {
        let parameters = parameters.unwrap_or_else(|| json!({}));
        let text = |key: &str| parameters.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let optional = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_owned);
        let list = |key: &str| {
            let items = parameters.get(key).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        // The sockets beside the control socket have the same errors in interfaces of their own.
        let of_logs = name.starts_with("io.holdfast.Logs.");
        let common = ["io.holdfast.Store.", "io.holdfast.Logs."].iter().find_map(|p| name.strip_prefix(p));
        let name = common.map_or_else(|| name.to_owned(), |word| format!("io.holdfast.{word}"));
        match name.as_str() {
            "io.holdfast.PermissionDenied" => {
                let unsaid = if of_logs { READ_LOGS } else { "do this" };
                Failure::PermissionDenied { what: optional("what").unwrap_or_else(|| unsaid.to_owned()) }
            }
            "io.holdfast.CannotRead" => Failure::Failed { text: format!("cannot read: {}", text("cause")) },
            "io.holdfast.NoSuchUnit" => {
                Failure::NoSuchUnit { unit: text("unit"), nearest: optional("nearest") }
            }
            "io.holdfast.AmbiguousUnit" => {
                Failure::AmbiguousUnit { unit: text("unit"), candidates: list("candidates") }
            }
            "io.holdfast.Superseded" => Failure::Superseded {
                generation: parameters.get("generation").and_then(Value::as_u64).unwrap_or_default(),
            },
            "io.holdfast.CompileFailed" => Failure::CompileFailed {
                text: text("text"),
                diagnostics: parameters
                    .get("diagnostics")
                    .and_then(|d| serde_json::from_value(d.clone()).ok())
                    .unwrap_or_default(),
            },
            "io.holdfast.InvalidParameter" => {
                Failure::InvalidParameter { parameter: text("parameter"), text: text("text") }
            }
            "io.holdfast.InvalidFrame" => Failure::InvalidFrame { text: text("text") },
            "io.holdfast.NoSuchGeneration" => Failure::NoSuchGeneration { text: text("text") },
            "io.holdfast.Unavailable" => Failure::Unavailable { text: text("text") },
            "io.holdfast.ShuttingDown" => Failure::ShuttingDown,
            "io.holdfast.Failed" => Failure::Failed { text: text("text") },
            "org.varlink.service.MethodNotFound" => Failure::MethodNotFound { method: text("method") },
            "org.varlink.service.InterfaceNotFound" => {
                Failure::InterfaceNotFound { interface: text("interface") }
            }
            "org.varlink.service.ExpectedMore" => Failure::ExpectedMore,
            _ => Failure::Other { name, parameters },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_survives_the_wire() {
        let text = || "why".to_owned();
        let diagnostic: Located = serde_json::from_value(json!({
            "severity": "error",
            "id": "unknown-key",
            "message": "unknown key",
            "places": [{"file": "a.toml", "line": 1, "column": 2, "width": 3, "text": "x"}],
            "help": "did you mean …?",
        }))
        .unwrap();
        let all = [
            Failure::PermissionDenied { what: text() },
            Failure::NoSuchUnit { unit: text(), nearest: Some(text()) },
            Failure::NoSuchUnit { unit: text(), nearest: None },
            Failure::AmbiguousUnit { unit: text(), candidates: vec![text()] },
            Failure::Superseded { generation: 7 },
            Failure::CompileFailed { text: text(), diagnostics: vec![diagnostic] },
            Failure::InvalidParameter { parameter: text(), text: text() },
            Failure::InvalidFrame { text: text() },
            Failure::NoSuchGeneration { text: text() },
            Failure::Unavailable { text: text() },
            Failure::ShuttingDown,
            Failure::Failed { text: text() },
            Failure::MethodNotFound { method: text() },
            Failure::InterfaceNotFound { interface: text() },
            Failure::ExpectedMore,
            Failure::Other { name: "io.example.New".to_owned(), parameters: json!({"a": 1}) },
        ];
        for failure in all {
            assert_eq!(Failure::from_reply(failure.name(), Some(failure.parameters())), failure);
            let known = failure.name().starts_with("io.holdfast.");
            let word = failure.name().rsplit('.').next().unwrap();
            assert_eq!(crate::control::INTERFACE.contains(&format!("error {word} ")), known, "{word}");
        }
    }
}
