//! `sysctl`: a kernel setting below `/proc/sys`.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[sysctl."KEY"]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Path below `/proc/sys`, with slashes.
    pub key: String,
    /// Value as written, without a newline.
    pub value: String,
}

impl Sysctl {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Sysctl) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Sysctl { key => "key", value => "value" })
    }
}

/// What a `[sysctl."KEY"]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Sysctl,
    summary: "A kernel setting below /proc/sys.",
    header: "[sysctl.\"KEY\"]",
    fields: &[field(
        "value",
        Type::TextOrInteger,
        Without::Required,
        "Its value, as written into /proc/sys.",
    )],
    notes: "The key is written with dots or slashes, as for sysctl(8); both are the same unit, whose address has dots. \
A name with dots must be quoted.",
    example: "[sysctl.\"net.core.somaxconn\"]\nvalue = 4096\n",
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Sysctl {
    let key = crate::value::sysctl::parse(&r.address.name).map(|(_, key)| key).unwrap_or_default();
    Sysctl { key, value: r.line("value").unwrap_or_default() }
}
