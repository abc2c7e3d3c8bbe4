//! BusyBox's init: a line a service.

use std::fmt::Write;

use initramfs::tree::Tree;
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, plain};

pub(crate) const PEER: Peer = Peer {
    name: "BusyBox",
    packages: &["busybox-static"],
    settings: "`respawn` lines",
    chains: false,
    init: |_| ["/usr/bin/busybox", "init"].map(str::to_owned).to_vec(),
    down: &["signal", "12"],
    tree,
};

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    let mut out = String::new();
    for name in load.names() {
        writeln!(out, "::respawn:/bench/service {name}")?;
    }
    out.push_str("::respawn:/bench/probe\n");
    tree.insert("/etc/inittab", plain(&out))?;
    Ok(())
}
