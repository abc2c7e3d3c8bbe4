//! `exec`: a command that is run once under a guard.

use serde::{Deserialize, Serialize};

/// How often the command runs when nothing else asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Once {
    /// Once after each boot.
    Boot,
    /// Once for each generation in which its declaration differs.
    Generation,
    /// Once in the machine's life.
    Ever,
}

/// Checked form of an `[exec.NAME]` table. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Command and arguments.
    pub command: Vec<String>,
    /// It does not run while this path exists.
    pub creates: Option<String>,
    /// It does not run while this command exits with 0.
    pub unless: Option<Vec<String>>,
    /// How often it runs.
    pub once: Option<Once>,
    /// User name or number; root without.
    pub user: Option<String>,
    /// Group name or number.
    pub group: Option<String>,
    /// Environment, sorted by name.
    pub environment: Vec<(String, String)>,
    /// Working directory; `/` without.
    pub directory: Option<String>,
    /// Deadline; then its cgroup is killed. 0 is none.
    pub timeout: u64,
    /// Runs again when this rollback undoes its generation.
    pub undo: Option<Vec<String>>,
}
