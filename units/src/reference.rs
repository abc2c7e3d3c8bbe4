//! The reference pages, written from the tables of keys.

use std::fmt::Write;

use crate::address::Kind;
use crate::field::{self, Field, Without};

/// What every page begins with.
const NOTICE: &str = "<!-- Written from the tables in units/src/kind; `UPDATE_DOCS=1 cargo test -p units` writes it \
anew. -->\n\n";

/// The page of a kind, as Markdown.
pub fn reference(kind: Kind) -> String {
    let table = field::table(kind);
    let mut out = String::from(NOTICE);
    // Writing to a String cannot fail.
    let _ = write!(out, "# {kind}\n\n{} Declared by `{}`.\n\n", table.summary, table.header);
    let _ = write!(out, "```toml\n{}```\n\n", table.example);
    if !table.fields.is_empty() {
        out.push_str("## Keys\n\n");
        keys(&mut out, table.fields);
    }
    let _ = write!(out, "The [keys of every kind](common.md) come on top.\n\n## Notes\n\n{}\n", table.notes);
    out
}

/// The page of what all kinds have in common, as Markdown.
pub fn reference_common() -> String {
    let mut out = String::from(NOTICE);
    out.push_str(COMMON);
    keys(&mut out, field::COMMON);
    out.push_str(VALUES);
    out.push_str("\n## Kinds\n\n");
    for kind in Kind::ALL {
        let _ = writeln!(out, "- [{kind}]({kind}.md): {}", field::table(kind).summary);
    }
    out
}

fn keys(out: &mut String, fields: &[Field]) {
    out.push_str("| key | takes | without it | |\n|---|---|---|---|\n");
    for f in fields {
        let takes = match f.value.measure() {
            "" => f.value.expected(),
            measure => format!("{} ({measure})", f.value.expected()),
        };
        let without = match f.default {
            Without::Required => "must be there".to_owned(),
            Without::Is(text) => format!("`{text}`"),
            Without::Unset(words) => words.to_owned(),
        };
        let cell = |t: &str| t.replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {} | {} | {} |", f.key, cell(&takes), cell(&without), cell(f.doc));
    }
    out.push('\n');
}

const COMMON: &str = r#"# The state file

A state file is TOML. Every table is a kind, every table in it a unit: `[service.nginx]` is the unit `service:nginx`.
Four words at the top are no kinds:

- `holdfast = 1` may stand first and says the version of the language.
- `include = ["conf.d/*.toml", "site.toml"]` reads further files of the same layer. Paths are relative to the file
  that says them; only the last part may be a pattern, and a pattern may match nothing. A file is read once.
- `[vars]` holds strings, integers and booleans. `${vars.name}` in any value stands for one; `$${` is a literal `${`.
  Variables may use each other. A later layer's value wins.
  Names of units, as in `[file."/etc/motd"]`, and keys take no variables.
- `use` is reserved.

A state file has at most 16 MiB; contents of managed files need not stand in it (`source`).

Layers: a generation is made of named layers, each from a state file of its own, compiled together: `main`, then
`dropin:NAME` by name, then `dpkg:PACKAGE`, then `local`. `initctl apply` writes `main`, `--layer NAME` another one; what a
layer does not say is left to the others. Units of one layer may name those of another. One unit in two layers is a mistake
unless the later one says `override = true`; when that goes, the earlier one is back.

## Keys of every kind

"#;

const VALUES: &str = r#"An address is `kind:name`; the first colon splits. Paths are absolute and made canonical by their text:
`/a//b/../c` is `/a/c`. Naming a directory that has a `source` in one of the keys above names everything that came
from it.

## Values

| value | written |
|---|---|
| duration | `"100ms"`, `"5s"`, `"1m30s"`, `"2h"`, `"1d"`; `0` or `"none"`. A bare number is a mistake. |
| integer, `true` or `false` | `4096` or `"4096"`: as a string it can be a variable, `"${vars.port}"`. |
| amount | `4096`, `"64K"`, `"1M"`, `"2G"`, `"1T"`: powers of 1024. |
| mode | an octal string, `"0644"`. A number is a mistake. |
| signal | `"HUP"`, `"SIGHUP"`, `1`, `"RTMIN+3"`. |
| command | an array of strings; or one string, split by the quoting rules of the shell but run without one. |
| readiness | `started`, `notify`, `fd=3`, `forked`, `exited`, `path=/run/x.pid`. |
| limit | `1024`, `"1024:4096"` (soft:hard), `"64M"`, `"infinity"`. |
"#;
