//! What only a machine of its own can show: the keyboard, and a boot that cannot go on.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::demonstration::{IMAGE, PROMPT};

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-ctrl-alt-del", group: "qemu", limit: minutes(5), run: ctrl_alt_del },
    Scenario { name: "qemu-emergency", group: "qemu", limit: minutes(5), run: emergency },
];

/// Ctrl-Alt-Del takes the machine down in order, and its services with it.
fn ctrl_alt_del(context: &Context) -> Result {
    let mut vm = context.machine(&context.image(IMAGE)?)?.append("loglevel=7").start()?;
    vm.wait_for(PROMPT)?;
    vm.run("initctl wait --converged --timeout 120s")?;
    vm.press_ctrl_alt_del()?;
    // QEMU is told to end where a machine would start anew.
    vm.wait_for("reboot: Restarting system")?;
    vm.wait_for_power_off()
}

/// A state that cannot be loaded ends at a shell on the console that says why and what helps.
fn emergency(context: &Context) -> Result {
    let mut vm = context.machine(&context.image(IMAGE)?)?.append("holdfast.state=/nowhere.toml").start()?;
    let why = vm.wait_for("This is an emergency shell")?;
    if !why.contains("/nowhere.toml") {
        return Err(format!("the reason is not told:\n{}", crate::console::tail(&why, 10)).into());
    }
    vm.wait_for("initctl reboot")?;
    vm.wait_for("# ")?;
    vm.run("initctl status")?;
    vm.type_line("initctl poweroff")?;
    vm.wait_for_power_off()
}
