//! runit: its own three stages; the third stops services as Debian's does.

use initramfs::tree::Tree;
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, run_script, script, with_probe};

const SERVICES: &str = "/bench/runit";

pub(crate) const PEER: Peer = Peer {
    name: "runit",
    packages: &["runit"],
    settings: "stage 1 empty, stage 3 `sv -w196 force-stop` and `sv exit` as in Debian's; run scripts without a shell",
    chains: false,
    init: |_| vec!["/sbin/runit".to_owned()],
    down: &["/lib/runit/runit-init", "0"],
    tree,
};

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    for name in with_probe(load) {
        tree.insert(&format!("{SERVICES}/{name}/run"), run_script(&name))?;
    }
    tree.insert("/etc/runit/1", script("#!/bin/true\n"))?;
    tree.insert("/etc/runit/2", script(&format!("#!/bin/sh\nexec runsvdir -P {SERVICES}\n")))?;
    let stop = format!("#!/bin/sh\nsv -w196 force-stop {SERVICES}/*\nsv exit {SERVICES}/*\n");
    tree.insert("/etc/runit/3", script(&stop))?;
    Ok(())
}
