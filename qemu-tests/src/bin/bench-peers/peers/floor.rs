//! A C program that forks and executes the services: what nothing can be quicker or smaller than.

use super::Peer;

pub(crate) const PEER: Peer = Peer {
    name: "floor",
    packages: &[],
    settings: "`guest/floor.c`: fork, exec, wait, and nothing else; static",
    chains: false,
    init: |load| vec!["/bench/floor".to_owned(), load.services().to_string()],
    down: &["signal", "12"],
    tree: |_, _, _| Ok(()),
};
