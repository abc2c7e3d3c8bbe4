//! s6: s6-svscan is PID 1 itself, as its documentation proposes; there is no s6-rc in Debian 12, and so no chain.

use initramfs::tree::Tree;
use qemu_tests::Result;
use qemu_tests::context::Context;

use super::{Load, Peer, plain, run_script, script, with_probe};

const SCAN: &str = "/bench/s6";
/// As many services as s6-svscan takes by itself, less some.
const USUAL: u32 = 450;

pub(crate) const PEER: Peer = Peer {
    name: "s6",
    packages: &["s6", "libs6-2.11", "libskarnet2.13"],
    settings: "`s6-svscan` as PID 1, ended by `s6-svscanctl -t`; run scripts without a shell; `notification-fd`",
    chains: false,
    init,
    down: &["/usr/bin/s6-svscanctl", "-t", SCAN],
    tree,
};

fn init(load: Load) -> Vec<String> {
    let most = (load.services() > USUAL).then(|| format!("-c{}", load.services() + 50));
    let mut words = vec!["/usr/bin/s6-svscan".to_owned()];
    words.extend(most);
    words.push(SCAN.to_owned());
    words
}

fn tree(_: &Context, load: Load, tree: &mut Tree) -> Result {
    for name in with_probe(load) {
        // Only what was ready is started again without a second's delay, so the services say that they are.
        let ready = if name == "probe" { name.clone() } else { format!("{name},fd=3") };
        tree.insert(&format!("{SCAN}/{name}/run"), run_script(&ready))?;
        if ready != name {
            tree.insert(&format!("{SCAN}/{name}/notification-fd"), plain("3\n"))?;
        }
    }
    tree.insert(&format!("{SCAN}/.s6-svscan/finish"), script("#!/bench/off\n"))?;
    tree.insert(&format!("{SCAN}/.s6-svscan/crash"), script("#!/bench/off\n"))?;
    Ok(())
}
