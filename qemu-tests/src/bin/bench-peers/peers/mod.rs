//! The inits: how each is given the services, started, and asked to shut down. A file each.

mod busybox;
mod finit;
mod floor;
mod holdfast;
mod runit;
mod s6;
mod systemd;
mod sysvinit;

use std::fmt;

use initramfs::tree::{Node, Tree};
use qemu_tests::Result;
use qemu_tests::context::Context;

/// Every init, in the order in which tables have them.
pub(crate) const ALL: &[Peer] = &[
    floor::PEER,
    holdfast::PEER,
    s6::PEER,
    runit::PEER,
    finit::PEER,
    busybox::PEER,
    sysvinit::PEER,
    systemd::PEER,
];

/// What is started beside the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// So many services that have nothing to do with each other.
    Independent(u32),
    /// So many services, each of which waits until the one before is ready.
    Chain(u32),
}

impl Load {
    pub(crate) fn services(self) -> u32 {
        match self {
            Load::Independent(n) | Load::Chain(n) => n,
        }
    }

    /// The services' names.
    pub(crate) fn names(self) -> impl Iterator<Item = String> {
        let letter = match self {
            Load::Independent(_) => 's',
            Load::Chain(_) => 'c',
        };
        (0..self.services()).map(move |n| format!("{letter}{n}"))
    }

    /// Each name with the one before.
    fn links(self) -> impl Iterator<Item = (Option<String>, String)> {
        let before = std::iter::once(None).chain(self.names().map(Some));
        before.zip(self.names())
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Independent(n) => write!(f, "{n} services"),
            Load::Chain(n) => write!(f, "a chain of {n}"),
        }
    }
}

/// One init.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The packages that it consists of, without libraries that others have too; none are Holdfast and the floor.
    pub(crate) packages: &'static [&'static str],
    /// How it is set up, where that is a choice.
    pub(crate) settings: &'static str,
    /// Whether a service can wait until another one is ready.
    pub(crate) chains: bool,
    /// Its command as PID 1.
    pub(crate) init: fn(Load) -> Vec<String>,
    /// The command that shuts the machine down; `signal N` is a signal to PID 1.
    pub(crate) down: &'static [&'static str],
    /// Its own files.
    pub(crate) tree: fn(&Context, Load, &mut Tree) -> Result,
}

/// A file that can be executed.
fn script(text: &str) -> Node {
    Node::file(text.as_bytes().to_vec(), 0o755)
}

/// A file that cannot.
fn plain(text: &str) -> Node {
    Node::file(text.as_bytes().to_vec(), 0o644)
}

/// A run script without a shell: the kernel executes the service as its interpreter. No peer can be quicker.
fn run_script(name: &str) -> Node {
    match name {
        "probe" => script("#!/bench/probe\n"),
        _ => script(&format!("#!/bench/service {name}\n")),
    }
}

/// The names of all services, and the probe.
fn with_probe(load: Load) -> impl Iterator<Item = String> {
    load.names().chain(std::iter::once("probe".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_of_a_chain_but_the_first_has_one_before() {
        let links: Vec<_> = Load::Chain(3).links().collect();
        let name = |n: &str| n.to_owned();
        assert_eq!(
            links,
            [(None, name("c0")), (Some(name("c0")), name("c1")), (Some(name("c1")), name("c2"))]
        );
    }
}
