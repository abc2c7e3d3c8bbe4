//! `cargo mutate`: is there a test for everything that the engine does?
//!
//! Each place of the engine and the planner that could as well be written otherwise is a *mutant*. All mutants are
//! compiled into one copy of the workspace, each behind a switch that is read from the environment, so that trying one
//! costs a process and not a build. A mutant that breaks neither an invariant of the simulator nor a test survives: a
//! test is missing, or the code is not needed.
//!
//! - [`sites`]: what can be written otherwise; pure.
//! - [`schema`]: one text with all of it; pure.
//! - [`scratch`]: the copy, without what does not compile.
//! - [`look`]: one mutant against histories, in the copy.
//! - [`run`]: every mutant, and what came of it.

pub mod look;
pub mod run;
pub mod schema;
pub mod scratch;
pub mod sites;

/// Files whose mutants are looked for, below the root of the repository. `engine/audit.rs` is not among them: it is
/// what finds mutants.
pub const FILES: &[&str] = &[
    "cm-core/src/engine/apply.rs",
    "cm-core/src/engine/batch.rs",
    "cm-core/src/engine/byhand.rs",
    "cm-core/src/engine/claims.rs",
    "cm-core/src/engine/effect.rs",
    "cm-core/src/engine/event.rs",
    "cm-core/src/engine/follow.rs",
    "cm-core/src/engine/graph.rs",
    "cm-core/src/engine/latched.rs",
    "cm-core/src/engine/mod.rs",
    "cm-core/src/engine/mount.rs",
    "cm-core/src/engine/record.rs",
    "cm-core/src/engine/running.rs",
    "cm-core/src/engine/service.rs",
    "cm-core/src/engine/status.rs",
    "cm-core/src/engine/stopping.rs",
    "cm-core/src/engine/swap.rs",
    "cm-core/src/engine/tally.rs",
    "cm-core/src/engine/timer.rs",
    "cm-core/src/engine/unit.rs",
    "cm-core/src/plan.rs",
    "cm-core/src/plan/course.rs",
    "cm-core/src/plan/service.rs",
];

/// Something that could be written otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The file, below the root of the repository.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The function, with its type.
    pub function: String,
    /// What is written otherwise, and how.
    pub change: String,
    /// Which one of those in the function that read the same.
    pub again: usize,
}

impl Mutant {
    /// A name that stays when lines move.
    pub fn key(&self) -> String {
        format!("{}\t{}\t{}\t{}", self.file, self.function, self.change, self.again)
    }
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} {}: {}", self.file, self.line, self.function, self.change)
    }
}

#[cfg(test)]
mod tests;
