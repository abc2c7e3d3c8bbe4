//! What the store says of an instance: versions that were replaced, and what they held.

use serde_json::Value;

use super::{Rig, word};
use crate::Result;

/// A version that was on the machine and was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Why it was: `apply`, `repair` or `purge`.
    pub why: String,
    /// What it held; `None` where nothing but attributes was replaced.
    pub content: Option<String>,
}

impl Rig {
    /// Saved versions of a unit, newest first, with their contents, as a person would get them.
    ///
    /// # Errors
    /// When a content is not to be had.
    pub fn versions(&self, unit: &str) -> Result<Vec<Version>> {
        let list: Value = serde_json::from_str(&self.ok(&["--json", "history", unit])?)?;
        let mut out = Vec::new();
        for version in list.get("versions").and_then(Value::as_array).into_iter().flatten() {
            let content = match word(version, "digest") {
                "" => None,
                id => Some(self.ok(&["history", unit, "--show", id])?),
            };
            out.push(Version { why: word(version, "why").to_owned(), content });
        }
        Ok(out)
    }

    /// Contents that repairs of a unit have replaced or taken away, newest first.
    ///
    /// # Errors
    /// As [`Rig::versions`].
    pub fn repaired_from(&self, unit: &str) -> Result<Vec<String>> {
        let all = self.versions(unit)?;
        Ok(all.into_iter().filter(|v| v.why != "apply").filter_map(|v| v.content).collect())
    }
}
