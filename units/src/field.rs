//! The tables of keys: one a kind, from which come the check of keys, the defaults and the reference pages.

use crate::address::Kind;
use crate::kind;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A string.
    Text,
    /// A string or an integer, kept as written.
    TextOrInteger,
    /// `true` or `false`.
    Flag,
    /// An integer from `min` to `max`.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
        /// What is counted.
        of: &'static str,
    },
    /// See [`crate::value::duration`].
    Duration,
    /// See [`crate::value::bytes`].
    Bytes,
    /// See [`crate::value::mode`].
    Mode,
    /// See [`crate::value::signal`].
    Signal,
    /// See [`crate::value::command`].
    Command,
    /// A signal or a command.
    Reload,
    /// See [`crate::value::ready`].
    Ready,
    /// An absolute path.
    Path,
    /// An array of absolute paths.
    Paths,
    /// A path that the compiler reads, relative to the state file.
    Source,
    /// A user or group: a name, or a number as string or integer.
    Account,
    /// An array of users or groups.
    Accounts,
    /// An array of strings.
    Texts,
    /// An array of exit codes.
    Codes,
    /// An array of addresses of units.
    Units,
    /// A table of strings.
    Table,
    /// A table of resource limits, see [`crate::value::limit`].
    Limits,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A regular expression.
    Pattern,
}

impl Type {
    /// What is expected, as in "expected a duration".
    pub fn expected(self) -> String {
        match self {
            Type::Choice(words) => format!("one of `{}`", words.join("`, `")),
            Type::Integer { min: i64::MIN, max: i64::MAX, .. } => "an integer".to_owned(),
            Type::Integer { min, max, .. } => format!("an integer from {min} to {max}"),
            other => other.plain().to_owned(),
        }
    }

    const fn plain(self) -> &'static str {
        match self {
            Type::Text => "a string",
            Type::TextOrInteger => "a string or an integer",
            Type::Flag => "`true` or `false`",
            Type::Integer { .. } => "an integer",
            Type::Duration => "a duration such as `\"5s\"`",
            Type::Bytes => "an amount such as `\"64K\"`",
            Type::Mode => "an octal mode such as `\"0644\"`",
            Type::Signal => "a signal such as `\"HUP\"`",
            Type::Command => "a command: an array of strings, or one string",
            Type::Reload => "a signal or a command",
            Type::Ready => "a readiness such as `\"notify\"`",
            Type::Path => "an absolute path",
            Type::Paths => "an array of absolute paths",
            Type::Source => "a path, relative to this file",
            Type::Account => "a name or a number",
            Type::Accounts => "an array of names or numbers",
            Type::Texts => "an array of strings",
            Type::Codes => "an array of exit codes",
            Type::Units => "an array of units such as `[\"file:/etc/motd\"]`",
            Type::Table => "a table of strings",
            Type::Limits => "a table of limits",
            Type::Choice(_) => "one of a few words",
            Type::Pattern => "a regular expression",
        }
    }

    /// The unit of measure; empty for what has none.
    pub const fn measure(self) -> &'static str {
        match self {
            Type::Integer { of, .. } => of,
            Type::Duration => "time",
            Type::Bytes => "bytes",
            Type::Mode => "permission bits",
            _ => "",
        }
    }

    /// Whether an integer may stand where its digits as a string may.
    pub const fn takes_integer(self) -> bool {
        matches!(
            self,
            Type::TextOrInteger
                | Type::Integer { .. }
                | Type::Bytes
                | Type::Signal
                | Type::Account
                | Type::Reload
        )
    }
}

/// What holds when a key is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// It must be there.
    Required,
    /// This value, in the text form of its type.
    Is(&'static str),
    /// No value; the words say what that means.
    Unset(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The key, in kebab case.
    pub key: &'static str,
    /// What it takes.
    pub value: Type,
    /// What holds without it.
    pub default: Without,
    /// One line about it.
    pub doc: &'static str,
}

/// A row of a table.
pub const fn field(key: &'static str, value: Type, default: Without, doc: &'static str) -> Field {
    Field { key, value, default, doc }
}

/// Everything that a kind may say.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Which kind.
    pub kind: Kind,
    /// What it is, in one sentence.
    pub summary: &'static str,
    /// How the table's header is written.
    pub header: &'static str,
    /// Its own keys.
    pub fields: &'static [Field],
    /// What else there is to know, as Markdown paragraphs.
    pub notes: &'static str,
    /// A state file that compiles.
    pub example: &'static str,
}

impl Table {
    /// The key of this name, own or common.
    pub fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().chain(COMMON).find(|f| f.key == key)
    }

    /// Every key, own ones first.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.fields.iter().chain(COMMON).map(|f| f.key)
    }
}

/// The table of a kind.
pub const fn table(kind: Kind) -> &'static Table {
    match kind {
        Kind::Service => &kind::service::TABLE,
        Kind::File => &kind::file::TABLE,
        Kind::Directory => &kind::directory::TABLE,
        Kind::Symlink => &kind::symlink::TABLE,
        Kind::Line => &kind::line::TABLE,
        Kind::Mount => &kind::mount::TABLE,
        Kind::Sysctl => &kind::sysctl::TABLE,
        Kind::Module => &kind::module::TABLE,
        Kind::Hostname => &kind::hostname::TABLE,
        Kind::User => &kind::user::TABLE,
        Kind::Group => &kind::group::TABLE,
        Kind::Exec => &kind::exec::TABLE,
        Kind::Target => &kind::target::TABLE,
    }
}

/// The keys that every kind has.
pub static COMMON: &[Field] = &[
    field("requires", Type::Units, Without::Unset("nothing"), "Starts only when these are ready."),
    field(
        "binds",
        Type::Units,
        Without::Unset("nothing"),
        "As `requires`, and stops when one of them is lost, starts when it returns.",
    ),
    field(
        "wants",
        Type::Units,
        Without::Unset("nothing"),
        "Starts when these have settled: ready, failed or held.",
    ),
    field(
        "after",
        Type::Units,
        Without::Unset("nothing"),
        "As `wants`, but only if they are desired anyway: ordering and nothing else.",
    ),
    field("before", Type::Units, Without::Unset("nothing"), "`after`, said from the other side."),
    field(
        "reload-on",
        Type::Units,
        Without::Unset("nothing"),
        "Reloads when one of these changed; an exec runs again. Implies `requires`. Services and execs only.",
    ),
    field(
        "restart-on",
        Type::Units,
        Without::Unset("nothing"),
        "Restarts when one of these changed; an exec runs again. Implies `requires`. Services and execs only.",
    ),
    field("description", Type::Text, Without::Unset("none"), "One line for people."),
    field(
        "override",
        Type::Flag,
        Without::Is("false"),
        "Replaces the unit of the same address in an earlier layer, which is a mistake without it.",
    ),
    field(
        "drift",
        Type::Choice(&["repair", "report"]),
        Without::Is("repair"),
        "What happens when the machine differs from the declaration. With `report` it is told and left as it is until an apply changes the unit, or the value is `repair` again.",
    ),
    field(
        "settle",
        Type::Duration,
        Without::Is("50ms"),
        "Quiet time after an event before the unit is looked at; up to 60s, and 0 looks at once.",
    ),
    field(
        "on-removal",
        Type::Choice(&["purge", "keep"]),
        Without::Is("purge"),
        "What happens to it when it is no longer declared: what Holdfast created goes, or stays.",
    ),
];
