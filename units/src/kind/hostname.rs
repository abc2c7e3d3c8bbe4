//! `hostname`: the name of the machine.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of the `[hostname.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostname {
    /// At most 64 bytes; sethostname(2).
    pub value: String,
}

impl Hostname {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Hostname) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Hostname { value => "value" })
    }
}

/// What a `[hostname.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Hostname,
    summary: "The name of the machine.",
    header: "[hostname.NAME]",
    fields: &[field(
        "value",
        Type::Text,
        Without::Required,
        "The name: letters, digits, `-` and `.`, at most 64.",
    )],
    notes: "There is one at most. The unit's own name is free; `machine` is a good one.",
    example: "[hostname.machine]\nvalue = \"web1\"\n",
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Hostname {
    let label = |l: &str| {
        let edge = l.starts_with('-') || l.ends_with('-');
        !l.is_empty() && !edge && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let check = |t: &str| match t.len() <= 64 && t.split('.').all(label) {
        true => Ok(t.to_owned()),
        false => Err(crate::value::ValueError::new(format!("`{t}` is no host name"))
            .help("use letters, digits and `-`, parts joined by `.`, at most 64 in all")),
    };
    Hostname { value: r.parsed("value", check).unwrap_or_default() }
}
