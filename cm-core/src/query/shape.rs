//! What calls say and what is answered: the types of the interface, as JSON has them, for both of its ends.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use units::diagnostic::Located;

use crate::plan::Verb;

/// A word of a short list.
pub type Word = Cow<'static, str>;

/// Parameters of `Plan` and `Check`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Absolute path of the state file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Absolute path of the directory of relative sources, for a memfd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Units with nothing to do too; `Plan` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Which layer it is; `main` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The layer goes, and no file is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<bool>,
    /// As if every hold were lifted; `Plan` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<bool>,
}

/// What an apply would do to one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// Its address.
    pub unit: String,
    /// What.
    pub verb: Verb,
    /// Why.
    pub reason: String,
    /// Unified diff, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Whether the diff is longer than what is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_cut: bool,
    /// Whether a rollback cannot take it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_way: bool,
    /// The layer that declares it, or did; nothing for `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
}

/// The end of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// The current generation; 0 without.
    pub generation: u64,
    /// Units of the state file.
    pub units: usize,
    /// Whether the state file is exactly that generation.
    pub same: bool,
    /// Units that are held, not as declared, and left so.
    #[serde(default)]
    pub held: usize,
}

/// One reply to `Plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// A line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<PlannedChange>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<PlanSummary>,
}

impl From<PlannedChange> for Plan {
    fn from(change: PlannedChange) -> Plan {
        Plan { change: Some(change), summary: None }
    }
}

impl From<PlanSummary> for Plan {
    fn from(summary: PlanSummary) -> Plan {
        Plan { change: None, summary: Some(summary) }
    }
}

/// The reply to `Check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Units of the state file.
    pub units: u32,
    /// What is hardly meant.
    pub warnings: Vec<Located>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// When it was made, in nanoseconds since 1970.
    pub time: u64,
    /// `current`, `kept`, `returned`, `superseded` or `unfinished`.
    pub state: Word,
    /// How many units it has.
    pub units: usize,
    /// Digest of its manifest, in hexadecimal.
    pub digest: String,
    /// Who made it, and how.
    pub note: String,
    /// Its layers, from the bottom to the top; nothing where that is `main` alone, or not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// A reply to `Generations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Newest first.
    pub generations: Vec<Generation>,
}

/// Parameters of `Diff`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
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
    /// Its address.
    pub unit: String,
    /// `added`, `removed` or `changed`.
    pub verb: Word,
    /// What about it.
    pub reason: String,
    /// Unified diff, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Whether the diff is longer than what is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_cut: bool,
}

/// A reply to `Diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The old one.
    pub from: u64,
    /// The new one.
    pub to: u64,
    /// Whether there is nothing before the new one: it is the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// What differs.
    pub changes: Vec<UnitDiff>,
}

/// Parameters of `History`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaybeUnit {
    /// Which; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A saved version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The unit.
    pub unit: String,
    /// What was replaced, where that is not what the unit is named after: an entry of a directory that is purged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thing: Option<String>,
    /// When it was replaced, in nanoseconds since 1970.
    pub time: u64,
    /// Digest of its content, in hexadecimal; empty for what has none.
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
    /// `apply`, `repair`, `purge` or `return`.
    pub why: Word,
    /// The generation that was made, or returned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What it was, in words.
    pub was: String,
    /// Whether the unit is secret: what it held is not told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// A reply to `History`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub versions: Vec<Version>,
}

/// Parameters of `Content`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneContent {
    /// The unit.
    pub unit: String,
    /// Which version.
    pub digest: String,
}

/// A reply to `Content`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The next bytes, in base64.
    pub data: String,
}

/// Parameters of `Adopt`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneUnit {
    /// Which.
    pub unit: String,
}

/// The reply to `Adopt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// A unified diff of the state file.
    pub patch: String,
    /// What cannot be expressed.
    pub note: String,
}

/// Parameters of `Verify`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaybeAll {
    /// What is right too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// One unit, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its address.
    pub unit: String,
    /// `kept`, `drifted` or `not-kept`.
    pub outcome: Word,
    /// What differs.
    pub detail: String,
}

/// The end of `Verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySummary {
    /// The generation compared with.
    pub generation: u64,
    /// How many units were compared.
    pub units: usize,
    /// How many differ.
    pub wrong: usize,
    /// What is damaged in the store itself.
    pub store_damaged: Vec<String>,
}

/// One reply to `Verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// A unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Verified>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<VerifySummary>,
}

impl From<Verified> for Verify {
    fn from(unit: Verified) -> Verify {
        Verify { unit: Some(unit), summary: None }
    }
}

impl From<VerifySummary> for Verify {
    fn from(summary: VerifySummary) -> Verify {
        Verify { unit: None, summary: Some(summary) }
    }
}
