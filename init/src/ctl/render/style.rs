//! Colours, or none.

use crate::control::answer::{Outcome, State};

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// None.
    Plain,
    /// The eight that every terminal has.
    Coloured,
}

/// Paints text. Sequences are those of ECMA-48, SGR.
pub trait Paint: AsRef<str> {
    /// With an SGR code around it.
    fn paint(&self, code: &str, style: Style) -> String {
        match style {
            Style::Plain => self.as_ref().to_owned(),
            Style::Coloured => format!("\x1b[{code}m{}\x1b[0m", self.as_ref()),
        }
    }

    /// Bold.
    fn bold(&self, style: Style) -> String {
        self.paint("1", style)
    }

    /// Dim.
    fn dim(&self, style: Style) -> String {
        self.paint("2", style)
    }

    /// Red: wrong.
    fn red(&self, style: Style) -> String {
        self.paint("31", style)
    }

    /// Green: right.
    fn green(&self, style: Style) -> String {
        self.paint("32", style)
    }

    /// Yellow: on its way.
    fn yellow(&self, style: Style) -> String {
        self.paint("33", style)
    }

    /// Magenta: by hand.
    fn magenta(&self, style: Style) -> String {
        self.paint("35", style)
    }

    /// Cyan: where.
    fn cyan(&self, style: Style) -> String {
        self.paint("36", style)
    }
}

impl<T: AsRef<str> + ?Sized> Paint for T {}

/// A state in its colour.
pub fn state(state: State, style: Style) -> String {
    let word = state.word();
    match state {
        State::Ready | State::Done => word.green(style),
        State::Failed => word.red(style),
        State::Waiting | State::Starting | State::Reloading | State::Stopping | State::Backoff => {
            word.yellow(style)
        }
        State::Down => word.dim(style),
    }
}

/// An outcome in its colour.
pub fn outcome(outcome: Outcome, style: Style) -> String {
    let word = outcome.word();
    match outcome {
        Outcome::Kept => word.green(style),
        Outcome::Changed | Outcome::Repaired => word.cyan(style),
        Outcome::Drifted => word.yellow(style),
        Outcome::NotKept => word.red(style),
    }
}
