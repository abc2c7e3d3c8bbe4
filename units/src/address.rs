//! Addresses: `kind:name`, as in `service:nginx` or `file:/etc/motd`.
//!
//! The first colon splits; names of the path kinds are canonical absolute paths.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a unit: the part of its address before the first colon.
///
/// The numbers are written into manifests and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A supervised process.
    Service = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// One line in a file that is otherwise somebody else's.
    Line = 4,
    /// A mounted file system.
    Mount = 5,
    /// A kernel setting below `/proc/sys`.
    Sysctl = 6,
    /// A kernel module.
    Module = 7,
    /// The name of the machine.
    Hostname = 8,
    /// An entry of the user database.
    User = 9,
    /// An entry of the group database.
    Group = 10,
    /// A command that is run once under a guard.
    Exec = 11,
    /// A named group of units.
    Target = 12,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 13] = [
        Kind::Service,
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Line,
        Kind::Mount,
        Kind::Sysctl,
        Kind::Module,
        Kind::Hostname,
        Kind::User,
        Kind::Group,
        Kind::Exec,
        Kind::Target,
    ];

    /// The word that stands in addresses and as the table name in state files.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Line => "line",
            Kind::Mount => "mount",
            Kind::Sysctl => "sysctl",
            Kind::Module => "module",
            Kind::Hostname => "hostname",
            Kind::User => "user",
            Kind::Group => "group",
            Kind::Exec => "exec",
            Kind::Target => "target",
        }
    }

    /// The kind with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.word() == word)
    }

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| *k as u8 == number)
    }

    /// Who carries a unit of this kind out.
    pub const fn class(self) -> Class {
        match self {
            Kind::Service => Class::Service,
            Kind::Mount => Class::Mount,
            Kind::Module => Class::Helper,
            Kind::Exec => Class::Exec,
            Kind::Target => Class::Target,
            Kind::File
            | Kind::Directory
            | Kind::Symlink
            | Kind::Line
            | Kind::Sysctl
            | Kind::Hostname
            | Kind::User
            | Kind::Group => Class::Committer,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who carries a unit out, which is what the engine needs to know about a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A process that PID 1 supervises; live.
    Service,
    /// A step of the committer, in batches; latched.
    Committer,
    /// A helper process of its own, since the kernel interface may block; latched.
    Helper,
    /// A declared command, supervised like a one-shot service; latched.
    Exec,
    /// A helper process of its own; live: the mount can be lost.
    Mount,
    /// Nobody: it is ready when what it requires is; live in the sense that it follows its members.
    Target,
}

/// A parsed address. Ordered by kind number, then by name: the order of units in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The part before the first colon.
    pub kind: Kind,
    /// The part after the first colon.
    pub name: String,
}

impl Address {
    /// An address from its parts.
    pub fn new(kind: Kind, name: impl Into<String>) -> Address {
        Address { kind, name: name.into() }
    }

    /// Parses `kind:name`; `None` without a colon, with an unknown kind or with an empty name.
    pub fn parse(text: &str) -> Option<Address> {
        let (kind, name) = text.split_once(':')?;
        let kind = Kind::from_word(kind)?;
        (!name.is_empty()).then(|| Address::new(kind, name))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}
