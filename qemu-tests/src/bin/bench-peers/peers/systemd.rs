//! systemd: ordinary units below an own target, with what every unit gets by default (the journal among it).

use initramfs::tree::{Kind, Node, Tree};
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, plain};

const UNITS: &str = "/etc/systemd/system";

/// The orphans are in its cgroup.
const PROBE: &str = "[Service]\nExecStart=/bench/probe\nTasksMax=infinity\n";

pub(crate) const PEER: Peer = Peer {
    name: "systemd",
    packages: &["systemd", "libsystemd-shared", "libsystemd0"],
    settings: "units with `Restart=always` below a target after `basic.target`; the journal; no udev, no D-Bus; the \
               chain by `Type=notify`, `Requires=` and `After=`",
    chains: true,
    init: |_| vec!["/lib/systemd/systemd".to_owned()],
    down: &["/bin/systemctl", "poweroff"],
    tree,
};

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    let mut wants = "probe.service".to_owned();
    for (before, name) in load.links() {
        let unit = match (load, before) {
            (Load::Independent(_), _) => {
                format!("[Service]\nExecStart=/bench/service {name}\nRestart=always\n")
            }
            (Load::Chain(_), before) => {
                let after = before
                    .map(|b| format!("[Unit]\nRequires={b}.service\nAfter={b}.service\n"))
                    .unwrap_or_default();
                format!(
                    "{after}[Service]\nType=notify\nExecStart=/bench/service {name},notify\nRestart=always\n"
                )
            }
        };
        tree.insert(&format!("{UNITS}/{name}.service"), plain(&unit))?;
        wants.push_str(&format!(" {name}.service"));
    }
    tree.insert(&format!("{UNITS}/probe.service"), plain(PROBE))?;
    let target =
        format!("[Unit]\nRequires=basic.target\nAfter=basic.target\nWants={wants}\nAllowIsolate=yes\n");
    tree.insert(&format!("{UNITS}/bench.target"), plain(&target))?;
    let link = Node::new(Kind::Symlink("bench.target".to_owned()), 0o777);
    tree.insert(&format!("{UNITS}/default.target"), link)?;
    // A machine that has booted before.
    tree.insert("/etc/machine-id", plain("0123456789abcdef0123456789abcdef\n"))?;
    Ok(())
}
