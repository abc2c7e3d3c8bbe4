//! Holdfast, with the services in generation 0.

use std::fmt::Write;

use initramfs::tree::{Kind, Node, Tree};
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::rig::state::compile_boot;

use super::{Load, Peer};

pub(crate) const PEER: Peer = Peer {
    name: "Holdfast",
    packages: &[],
    settings: "defaults; the chain by `ready = \"fd=3\"` and `requires`",
    chains: true,
    init: |_| vec!["/sbin/init".to_owned()],
    down: &["/usr/bin/initctl", "poweroff"],
    tree,
};

fn tree(context: &Context, load: Load, tree: &mut Tree) -> Result {
    initramfs::holdfast::programs(tree, context.programs()?)?;
    tree.remove("init");
    let boot = compile_boot(&state(load)?)?;
    tree.insert(initramfs::state::MANIFEST, Node::file(boot.manifest, 0o644))?;
    tree.insert(initramfs::state::BLOBS, Node::new(Kind::Directory, 0o700))?;
    for (name, bytes) in boot.contents {
        tree.insert(&format!("{}/{name}", initramfs::state::BLOBS), Node::file(bytes, 0o600))?;
    }
    Ok(())
}

fn state(load: Load) -> Result<String> {
    let mut out = "[service.probe]\nexec = [\"/bench/probe\"]\n".to_owned();
    for (before, name) in load.links() {
        match (load, before) {
            (Load::Independent(_), _) => {
                write!(out, "[service.{name}]\nexec = [\"/bench/service\", \"{name}\"]\n")?;
            }
            (Load::Chain(_), before) => {
                write!(
                    out,
                    "[service.{name}]\nexec = [\"/bench/service\", \"{name},fd=3\"]\nready = \"fd=3\"\n"
                )?;
                if let Some(before) = before {
                    writeln!(out, "requires = [\"service:{before}\"]")?;
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_compile() {
        for load in [Load::Independent(3), Load::Chain(3)] {
            compile_boot(&state(load).unwrap()).unwrap();
        }
    }
}
