//! sysvinit without its scripts: a line a service.

use std::fmt::Write;

use initramfs::tree::Tree;
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, plain};

pub(crate) const PEER: Peer = Peer {
    name: "sysvinit",
    packages: &["sysvinit-core"],
    settings: "`respawn` lines, no scripts",
    chains: false,
    init: |_| vec!["/sbin/init".to_owned()],
    down: &["/sbin/telinit", "0"],
    tree,
};

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    let mut out = "id:2:initdefault:\nl0:0:wait:/bench/off\n".to_owned();
    // An id has at most four characters.
    for (n, name) in load.names().enumerate() {
        writeln!(out, "{n:04}:2:respawn:/bench/service {name}")?;
    }
    out.push_str("prob:2:respawn:/bench/probe\n");
    tree.insert("/etc/inittab", plain(&out))?;
    Ok(())
}
