//! One parser a type of value, each with the text form that it reads back.
//!
//! A parser gives the checked value, or one sentence on what is wrong and one on the way out; where that stands in
//! a file is its caller's business.

pub mod bytes;
pub mod command;
pub mod duration;
pub mod limit;
pub mod mode;
pub mod name;
pub mod path;
pub mod ready;
pub mod signal;
pub mod sysctl;

/// Why a text is no value of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// What is wrong: one sentence, lower case, no full stop.
    pub message: String,
    /// The way out, if there is an obvious one.
    pub help: Option<String>,
}

impl ValueError {
    /// An error without a way out.
    pub fn new(message: impl Into<String>) -> ValueError {
        ValueError { message: message.into(), help: None }
    }

    /// With a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> ValueError {
        self.help = Some(help.into());
        self
    }
}
