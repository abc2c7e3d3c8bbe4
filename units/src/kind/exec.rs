//! `exec`: a command that is run once under a guard.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

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
#[derive(Default, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl Exec {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Exec) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Exec {
            command => "command", creates => "creates", unless => "unless", once => "once", user => "user",
            group => "group", environment => "environment", directory => "directory", timeout => "timeout",
            undo => "undo",
        })
    }
}

/// What an `[exec.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Exec,
    summary: "A command that is run once under a guard.",
    header: "[exec.NAME]",
    fields: &[
        field("command", Type::Command, Without::Required, "Command and arguments; run without a shell."),
        field(
            "creates",
            Type::Path,
            Without::Unset("no such guard"),
            "It does not run while this path exists.",
        ),
        field(
            "unless",
            Type::Command,
            Without::Unset("no such guard"),
            "It does not run while this command exits with 0.",
        ),
        field(
            "once",
            Type::Choice(&["boot", "generation", "ever"]),
            Without::Unset("no such guard"),
            "How often it runs when nothing else asks for it.",
        ),
        field("user", Type::Account, Without::Unset("root"), "Who runs it."),
        field("group", Type::Account, Without::Unset("the user's primary group"), "Its group."),
        field(
            "environment",
            Type::Table,
            Without::Unset("only the basic variables"),
            "Environment variables.",
        ),
        field("directory", Type::Path, Without::Unset("`/`"), "Working directory."),
        field(
            "timeout",
            Type::Duration,
            Without::Is("5m"),
            "Deadline, then its processes are killed; 0 is none.",
        ),
        field(
            "undo",
            Type::Command,
            Without::Unset("it cannot be undone"),
            "Runs when a rollback undoes its generation.",
        ),
    ],
    notes: "One of `creates`, `unless` and `once` must be there: without a guard nobody could say whether the command \
is still to run. It runs again only on its guard, when its declaration changed, or when a unit in `reload-on` or \
`restart-on` changed; for an exec both mean the same, *run again*.\n\n\
A command is an array of strings, or one string that is split by the quoting rules of the shell but never given to \
one: no variables, patterns, pipes or redirections. Write `[\"sh\", \"-c\", \"…\"]` for those.\n\n\
When it fails it is tried again, as everything that is not kept: after a second, then after twice as long each time, \
at most every five minutes; an apply whose exec fails returns. The last line that it wrote is part of the reason that an apply and `initctl status` tell to \
root and the owner of the control socket; others, and the kernel's log, hear only how it ended. Everything that it wrote is in \
its log.",
    example: r#"[exec.host-keys]
command = ["ssh-keygen", "-A"]
creates = "/etc/ssh/ssh_host_ed25519_key"
"#,
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Exec {
    let words = [
        ("", None),
        ("boot", Some(Once::Boot)),
        ("generation", Some(Once::Generation)),
        ("ever", Some(Once::Ever)),
    ];
    if !["creates", "unless", "once"].iter().any(|k| r.has(k)) {
        let text = format!("{} has no guard: it would run again and again", r.address);
        let d = crate::diagnostic::Diagnostic::error("exec-without-guard", r.header, text);
        r.wrong(d.help("say `creates`, `unless`, or `once = \"boot\"`, `\"generation\"` or `\"ever\"`"));
    }
    Exec {
        command: r.command("command").unwrap_or_default(),
        creates: r.path("creates"),
        unless: r.command("unless"),
        once: r.choice("once", words.get(1..).unwrap_or_default()),
        user: r.account("user"),
        group: r.account("group"),
        environment: r.environment(),
        directory: r.path("directory"),
        timeout: r.duration("timeout"),
        undo: r.command("undo"),
    }
}
