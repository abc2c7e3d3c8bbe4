//! One module a kind: the checked form of what it may say.

pub mod directory;
pub mod exec;
pub mod file;
pub mod group;
pub mod hostname;
pub mod line;
pub mod module;
pub mod mount;
pub mod service;
pub mod symlink;
pub mod sysctl;
pub mod target;
pub mod user;

use serde::{Deserialize, Serialize};

/// What happens when the machine differs from the generation (semantics §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Drift {
    /// The difference is undone; the other version is saved first.
    #[default]
    Repair,
    /// The difference is reported and left.
    Report,
}

/// A file's content by reference: manifests carry no contents (semantics §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the bytes, which is also their name in the store.
    pub digest: [u8; 32],
    /// Length in bytes.
    pub size: u64,
}

/// Owner, group, mode and extended attributes. What is `None` is preserved, and no drift; on creation it is
/// root, root, and 0644 or 0755 whatever the umask.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// User name or number of the owner.
    pub owner: Option<String>,
    /// Group name or number.
    pub group: Option<String>,
    /// Extended attributes by full name (`user.note`), sorted.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Attributes) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Attributes {
            mode => "mode", owner => "owner", group => "group", xattrs => "xattrs",
        })
    }
}

/// The checked form of a unit of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spec {
    /// See [`service::Service`].
    Service(Box<service::Service>),
    /// See [`file::File`].
    File(file::File),
    /// See [`directory::Directory`].
    Directory(directory::Directory),
    /// See [`symlink::Symlink`].
    Symlink(symlink::Symlink),
    /// See [`line::Line`].
    Line(line::Line),
    /// See [`mount::Mount`].
    Mount(mount::Mount),
    /// See [`sysctl::Sysctl`].
    Sysctl(sysctl::Sysctl),
    /// See [`module::Module`].
    Module(module::Module),
    /// See [`hostname::Hostname`].
    Hostname(hostname::Hostname),
    /// See [`user::User`].
    User(user::User),
    /// See [`group::Group`].
    Group(group::Group),
    /// See [`exec::Exec`].
    Exec(Box<exec::Exec>),
    /// See [`target::Target`].
    Target(target::Target),
}

impl Spec {
    /// Keys in which two declarations of one unit differ; empty for two kinds, which have none in common.
    pub fn differing(&self, new: &Spec) -> Vec<&'static str> {
        match (self, new) {
            (Spec::Service(a), Spec::Service(b)) => a.differing(b),
            (Spec::File(a), Spec::File(b)) => a.differing(b),
            (Spec::Directory(a), Spec::Directory(b)) => a.differing(b),
            (Spec::Symlink(a), Spec::Symlink(b)) => a.differing(b),
            (Spec::Line(a), Spec::Line(b)) => a.differing(b),
            (Spec::Mount(a), Spec::Mount(b)) => a.differing(b),
            (Spec::Sysctl(a), Spec::Sysctl(b)) => a.differing(b),
            (Spec::Module(a), Spec::Module(b)) => a.differing(b),
            (Spec::Hostname(a), Spec::Hostname(b)) => a.differing(b),
            (Spec::User(a), Spec::User(b)) => a.differing(b),
            (Spec::Group(a), Spec::Group(b)) => a.differing(b),
            (Spec::Exec(a), Spec::Exec(b)) => a.differing(b),
            _ => Vec::new(),
        }
    }
}
