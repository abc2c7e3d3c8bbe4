//! `user`: an entry of the user database.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Checked form of a `[user.NAME]` table. What is `None` is not owned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number; the next free one (system range with `system`) without.
    pub uid: Option<u32>,
    /// Primary group, name or number; a group of the same name without.
    pub group: Option<String>,
    /// Supplementary groups that the user must be in.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: Option<String>,
    /// Login shell.
    pub shell: Option<String>,
    /// The comment field.
    pub comment: Option<String>,
    /// A crypt(5) hash; reported, not repaired, when it differs.
    pub password_hash: Option<String>,
    /// Whether a free number is taken from the system range.
    pub system: bool,
    /// Whether the home directory is made (0700) when missing.
    pub create_home: bool,
    /// Whether the entry is removed (instead of locked) when it is no longer declared; a return always locks.
    pub purge: bool,
}

impl User {
    /// His home directory: where it is made, watched and waited for. Who has an entry already may have another one.
    pub fn home_directory(&self) -> Cow<'_, str> {
        match &self.home {
            Some(home) => Cow::Borrowed(home),
            None => Cow::Owned(format!("/home/{}", self.name)),
        }
    }

    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &User) -> Vec<&'static str> {
        crate::diff::differing!(self, new, User {
            name => "name", uid => "uid", group => "group", groups => "groups", home => "home", shell => "shell",
            comment => "comment", password_hash => "password-hash", system => "system",
            create_home => "create-home", purge => "purge",
        })
    }
}

/// What a `[user.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::User,
    summary: "An entry of the user database.",
    header: "[user.NAME]",
    fields: &[
        field(
            "uid",
            Type::Integer { min: 0, max: 4_294_967_294, of: "" },
            Without::Unset("the next free one"),
            "Number of the user.",
        ),
        field(
            "group",
            Type::Account,
            Without::Unset("a group of the same name, made if missing"),
            "Primary group. One that is named is not made: declare it.",
        ),
        field("groups", Type::Accounts, Without::Unset("none"), "Further groups that the user must be in."),
        field(
            "home",
            Type::Path,
            Without::Unset("left alone; `/home/NAME` when the user is created"),
            "Home directory.",
        ),
        field("shell", Type::Path, Without::Unset("left alone"), "Login shell."),
        field("comment", Type::Text, Without::Unset("left alone"), "The comment field."),
        field(
            "password-hash",
            Type::Text,
            Without::Unset("left alone; locked when the user is created"),
            "A crypt(5) hash; reported, not repaired, when it differs. Never printed.",
        ),
        field(
            "system",
            Type::Flag,
            Without::Is("false"),
            "Whether a free number is taken from the system range.",
        ),
        field(
            "create-home",
            Type::Flag,
            Without::Is("false"),
            "Whether the home directory is made (0700) when missing.",
        ),
        field(
            "purge",
            Type::Flag,
            Without::Is("false"),
            "Whether the entry is removed, instead of locked, when it is no longer declared. A return locks it in any case.",
        ),
    ],
    notes: "Only what is said is owned. A user leaves a group that is no longer named, if Holdfast has put him in. Managed groups of a user are required by it without being named. The primary group of a user who is locked stays with him.\n\nA home that is made is empty: nothing of /etc/skel is copied, since nobody could say later whose a file in it is. Declare what it shall hold: a `[directory]` with a `source`, or files with `ownership = \"seed\"`, which are made once and then left to the user.",
    example: r#"[user.deploy]
uid         = 1500
groups      = ["adm"]
home        = "/home/deploy"
shell       = "/bin/bash"
create-home = true
"#,
};

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> User {
    let field = |t: &str| match t.contains([':', '\n', '\0']) {
        true => Err(crate::value::ValueError::new(
            "a field of the user database holds neither `:` nor a line break",
        )),
        false => Ok(t.to_owned()),
    };
    let path = |t: &str| crate::value::path::canonical(t).and_then(|p| field(&p));
    User {
        name: r.address.name.clone(),
        uid: r.optional_integer("uid"),
        group: r.account("group"),
        groups: r.accounts("groups"),
        home: r.parsed("home", path),
        shell: r.parsed("shell", path),
        comment: r.parsed("comment", field),
        password_hash: r.parsed("password-hash", field),
        system: r.flag("system"),
        create_home: r.flag("create-home"),
        purge: r.flag("purge"),
    }
}
