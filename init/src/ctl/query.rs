//! Calls and answers of the sockets beside the control socket: `io.holdfast.Store` and `io.holdfast.Logs`. The
//! interface texts are in `docs/varlink`.

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

/// Parameters of `Plan`; the file is a path, or a memfd beside the call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Absolute path of the state file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Absolute path of the directory of relative sources, for a memfd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Units with nothing to do too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What would happen to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanVerb {
    /// It is not there yet.
    Create,
    /// It is there and differs.
    Change,
    /// It is no longer declared.
    Remove,
    /// It is not running.
    Start,
    /// It is running and shall not.
    Stop,
    /// It loads its configuration again.
    Reload,
    /// It is stopped and started.
    Restart,
    /// It is right.
    Nothing,
}

impl PlanVerb {
    /// Every verb, in the order of summaries.
    pub const ALL: [PlanVerb; 8] = [
        PlanVerb::Create,
        PlanVerb::Change,
        PlanVerb::Remove,
        PlanVerb::Start,
        PlanVerb::Stop,
        PlanVerb::Reload,
        PlanVerb::Restart,
        PlanVerb::Nothing,
    ];

    /// As it is shown.
    pub const fn word(self) -> &'static str {
        match self {
            PlanVerb::Create => "create",
            PlanVerb::Change => "change",
            PlanVerb::Remove => "remove",
            PlanVerb::Start => "start",
            PlanVerb::Stop => "stop",
            PlanVerb::Reload => "reload",
            PlanVerb::Restart => "restart",
            PlanVerb::Nothing => "nothing",
        }
    }
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// The unit.
    pub unit: String,
    /// What would happen.
    pub verb: PlanVerb,
    /// Why.
    pub reason: String,
    /// Unified diff, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The diff is longer than what is here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_cut: bool,
    /// A rollback cannot take it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_way: bool,
}

/// The end of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// The current generation.
    pub generation: u64,
    /// Units of the state file.
    pub units: u32,
    /// The state file is exactly that generation.
    pub same: bool,
}

/// One reply to `Plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReply {
    /// A line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<PlannedChange>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<PlanSummary>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// When it was made, since 1970.
    pub time: u64,
    /// `current`, `kept`, `returned`, `unfinished`.
    pub state: String,
    /// How many units it has.
    pub units: u32,
    /// Digest of its manifest, in hexadecimal.
    #[serde(default)]
    pub digest: String,
    /// Who made it, and how.
    #[serde(default)]
    pub note: String,
}

/// One reply to `Generations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationsReply {
    /// Newest first.
    pub generations: Vec<Generation>,
}

/// Parameters of `Diff`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Diff {
    /// The old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// How a unit differs between two generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitDiff {
    /// The unit.
    pub unit: String,
    /// `added`, `removed`, `changed`.
    pub verb: String,
    /// What about it.
    #[serde(default)]
    pub reason: String,
    /// Unified diff, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The diff is longer than what is here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_cut: bool,
}

/// Parameters of `History`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MaybeUnit {
    /// Which; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A version of a unit that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The unit.
    pub unit: String,
    /// The path that it stood at, where that is not the unit's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thing: Option<String>,
    /// When it was saved, in nanoseconds since 1970.
    pub time: u64,
    /// Its id: the digest of what it held; empty where nothing can be shown.
    #[serde(default)]
    pub digest: String,
    /// Length in bytes.
    #[serde(default)]
    pub size: u64,
    /// `apply`, `repair` or `purge`.
    pub why: String,
    /// The generation whose apply replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What it was, in words.
    #[serde(default)]
    pub was: String,
    /// What it held is not told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// One reply to `History`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    /// Newest first.
    pub versions: Vec<Version>,
}

/// Parameters of `Content`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OneContent {
    /// The unit.
    pub unit: String,
    /// The whole id of the version.
    pub digest: String,
}

/// One reply to `Content`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentReply {
    /// The next bytes, in base64.
    pub data: String,
}

/// One reply to `Diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReply {
    /// The old one.
    pub from: u64,
    /// The new one.
    pub to: u64,
    /// What differs.
    pub changes: Vec<UnitDiff>,
}

/// Parameters of `Adopt`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Adopt {
    /// Which.
    pub unit: String,
}

/// Answer to `Adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// A unified diff of the state file.
    pub patch: String,
    /// What cannot be expressed.
    #[serde(default)]
    pub note: String,
}

/// Parameters of `Verify`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verify {
    /// What is right too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// One unit, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Which.
    pub unit: String,
    /// `kept`, `drifted`, `not-kept`.
    pub outcome: String,
    /// What differs.
    #[serde(default)]
    pub detail: String,
}

/// The end of `Verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySummary {
    /// The generation compared with.
    pub generation: u64,
    /// How many units were compared.
    pub units: u32,
    /// How many differ.
    pub wrong: u32,
    /// What is damaged in the store itself.
    #[serde(default)]
    pub store_damaged: Vec<String>,
}

/// One reply to `Verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReply {
    /// A unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Verified>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<VerifySummary>,
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
        for verb in PlanVerb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.word());
            assert!(STORE_INTERFACE.contains(verb.word()));
        }
    }
}
