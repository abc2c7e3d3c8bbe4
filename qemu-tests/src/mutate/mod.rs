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
//! - [`look`]: mutants against histories, in the copy; [`player`]: the process that does it, from outside.
//! - [`asked`]: which histories and tests ask for which mutant.
//! - [`run`]: every mutant, and with what it is tried; [`results`]: what came of it; [`report`]: for people.

use std::path::Path;

use crate::Result;

pub mod asked;
pub mod look;
pub mod player;
pub mod report;
pub mod results;
pub mod run;
pub mod schema;
pub mod scratch;
pub mod sites;

/// Files whose mutants are looked for, below the root of the repository: the engine and the planner. Tests are not
/// among them, nor is `engine/audit.rs`, which is what finds mutants.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(root: &Path) -> Result<Vec<String>> {
    let mut files = vec!["cm-core/src/plan.rs".to_owned()];
    for folder in ["cm-core/src/engine", "cm-core/src/plan"] {
        let entries =
            std::fs::read_dir(root.join(folder)).map_err(|e| format!("cannot read {folder}: {e}"))?;
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".rs") && !["audit.rs", "regressions.rs", "tests.rs"].contains(&name.as_str()) {
                files.push(format!("{folder}/{name}"));
            }
        }
    }
    files.sort();
    Ok(files)
}

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
    /// The whole line, for people.
    pub around: String,
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
