//! `module`: a kernel module.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[module.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name with underscores.
    pub name: String,
    /// Parameters, as on modprobe's command line.
    pub parameters: Vec<String>,
}

impl Module {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Module) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Module { name => "name", parameters => "parameters" })
    }
}

/// What a `[module.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Module,
    summary: "A kernel module.",
    header: "[module.NAME]",
    fields: &[field(
        "parameters",
        Type::Texts,
        Without::Unset("none"),
        "Parameters, as on modprobe's command line.",
    )],
    notes: "Dashes and underscores are the same in a module's name, as for modprobe(8).",
    example: "[module.loop]\nparameters = [\"max_loop=8\"]\n",
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Module {
    Module { name: r.address.name.clone(), parameters: r.texts("parameters") }
}
