//! finit: a stanza a service; Debian's package has none of its plugins, and so no conditions and no chain.

use std::fmt::Write;

use initramfs::tree::Tree;
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, plain};

pub(crate) const PEER: Peer = Peer {
    name: "finit",
    packages: &["finit", "libite5", "libuev3"],
    settings: "none of the package's own services; without plugins, as in Debian",
    chains: false,
    init: |_| vec!["/sbin/finit".to_owned()],
    down: &["signal", "12"],
    tree,
};

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    let mut out = "runlevel 2\nservice [2] /bench/probe -- probe\n".to_owned();
    for name in load.names() {
        writeln!(out, "service [2] :{name} /bench/service {name} -- {name}")?;
    }
    tree.insert("/etc/finit.conf", plain(&out))?;
    Ok(())
}
