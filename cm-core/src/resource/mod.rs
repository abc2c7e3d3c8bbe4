//! What units do to a machine: one file a kind, named as in `units::kind`.
//!
//! A check compares and compiles the difference into a list of [`op::Op`]; the list is carried out later, in the
//! order of the batch, by a process that can do nothing else. Removing, putting back and purging give such lists
//! too, so that there is one executor.

pub mod accounts;
pub mod attributes;
pub mod directory;
pub mod exec;
pub mod execute;
pub(crate) mod expected;
pub mod file;
pub mod group;
pub mod hostname;
mod keep;
pub mod line;
pub mod links;
pub mod op;
pub mod place;
pub mod retire;
pub mod staging;
pub mod symlink;
pub mod sysctl;
pub mod tree;
pub(crate) mod unsynced;
pub mod user;
pub mod world;

use units::kind::Spec;

use crate::store::Prior;
use op::{Finding, Trouble};
use world::World;

/// Under which circumstances a unit is checked.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Its address.
    pub unit: String,
    /// Whether differences are drift (and not those of a new generation).
    pub correct: bool,
    /// Whether the store knows the thing as this unit's.
    pub owned: bool,
    /// Whether an earlier step of the batch takes away what stands there now.
    pub cleared: bool,
    /// On a return: what the thing was before the generations that are undone; it fills what is not declared.
    pub backing: Option<Prior>,
    /// For a directory that is purged: declared users whose homes only the user database knows.
    pub users: Vec<String>,
}

/// Compares a unit with the machine.
///
/// # Errors
/// When it cannot be looked at, or is of a kind that the committer has no part in.
pub fn check(world: &mut World, spec: &Spec, context: &Context) -> Result<Finding, Trouble> {
    match spec {
        Spec::File(s) => file::check(world, s, context),
        Spec::Directory(s) => directory::check(world, s, context),
        Spec::Symlink(s) => symlink::check(world, s, context),
        Spec::Line(s) => line::check(world, s, context),
        Spec::Sysctl(s) => sysctl::check(world, s, context),
        Spec::Hostname(s) => hostname::check(world, s, context),
        Spec::User(s) => user::check(world, s, context),
        Spec::Group(s) => group::check(world, s, context),
        Spec::Exec(_) | Spec::Service(_) | Spec::Mount(_) | Spec::Module(_) | Spec::Target(_) => {
            Err(Trouble::NotKept("the committer has no part in units of this kind".to_owned()))
        }
    }
}

/// The thing that a unit manages, as the store names it.
pub fn thing(spec: &Spec) -> Option<String> {
    Some(match spec {
        Spec::File(s) => s.path.clone(),
        Spec::Directory(s) => s.path.clone(),
        Spec::Symlink(s) => s.path.clone(),
        Spec::Sysctl(s) => format!("sysctl:{}", s.key),
        Spec::Hostname(_) => "hostname:".to_owned(),
        Spec::User(s) => format!("user:{}", s.name),
        Spec::Group(s) => format!("group:{}", s.name),
        Spec::Line(_)
        | Spec::Exec(_)
        | Spec::Service(_)
        | Spec::Mount(_)
        | Spec::Module(_)
        | Spec::Target(_) => {
            return None;
        }
    })
}
