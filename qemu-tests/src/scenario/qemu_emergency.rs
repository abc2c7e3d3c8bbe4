//! Boots that cannot go on: the emergency shell has the console for itself, and leaving it leads somewhere.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, same};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-emergency-left", group: "qemu", limit: minutes(5), run: left },
    Scenario { name: "qemu-emergency-include", group: "qemu", limit: minutes(5), run: include },
    Scenario { name: "qemu-emergency-store", group: "qemu", limit: minutes(5), run: store },
];

/// One that reads what is typed on the console, and takes as little notice of SIGTERM as the shell of somebody who has
/// logged in.
const GETTY: &str = r#"
[service.getty]
exec = ["sh", "-c", "trap '' TERM; echo the getty is up; while read -r line; do echo the getty has read $line; done"]
tty  = "/dev/ttyS0"
"#;

const SHELL: &str = "This is an emergency shell";

/// Waits for an emergency shell that can be typed to; gives what came before it.
fn shell(vm: &mut Qemu) -> Result<String> {
    let before = vm.wait_for(SHELL)?;
    vm.wait_for("to try the boot again")?;
    vm.wait_for("# ")?;
    Ok(before)
}

/// A state file that is there and includes one that is not: the mistake is shown with its place, and not that there is no
/// state.
fn include(context: &Context) -> Result {
    let state = "include = [\"nowhere.toml\"]\n";
    let guest = Guest::new(context, &format!("{DISK}{GETTY}"), &[("/etc/holdfast/state.toml", state)])?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    let why = shell(&mut vm)?;
    demand(why.contains("state.toml:1:12"), format!("the place of the mistake is not told: {why}"))?;
    demand(why.contains("nowhere.toml"), format!("what is missing is not told: {why}"))?;
    demand(!why.contains("there is no"), format!("the state file is said to be missing: {why}"))?;
    vm.wait_for_shell()?;
    vm.power_off()
}

/// Nobody else reads what is typed to the shell; it comes again after a mistyped command; and once the machine was
/// given a state in it, its end is the end of it.
fn left(context: &Context) -> Result {
    let good = format!("{BASE}{DISK}{GETTY}\n[file.\"/etc/motd\"]\ncontent = \"as declared\\n\"\n");
    let guest = Guest::new(context, &format!("{DISK}{GETTY}"), &[("/root/good.toml", &good)])?;
    let disk = guest.disk("disk", 32)?;
    for (verb, generation) in [("apply /root/good.toml", 1), ("rollback 1", 1)] {
        let machine = guest.machine(context)?.disk(&disk).append("holdfast.state=/nowhere.toml");
        let mut vm = machine.start()?;
        let why = shell(&mut vm)?;
        demand(why.contains("/nowhere.toml"), "the reason is not told")?;
        vm.wait_for_shell()?;
        let told = vm.answer("initctl status service:getty")?.output;
        demand(told.contains("emergency shell"), format!("it is not told why the getty waits: {told}"))?;

        vm.type_line("nosuchcommand")?;
        vm.wait_for("not found")?;
        vm.type_line("exit")?;
        shell(&mut vm)?;
        vm.type_line(&format!("initctl {verb}; echo code $?"))?;
        vm.wait_for("code 0")?;
        same("what it says", "as declared", vm.ok("cat /etc/motd")?.trim())?;
        vm.type_line("exit")?;
        vm.wait_for("the getty is up")?;
        vm.converged_again()?;
        let told = vm.ok("initctl status")?;
        demand(
            told.starts_with(&format!("generation {generation}")),
            format!("it is not that generation: {told}"),
        )?;
        vm.type_line("me")?;
        vm.wait_for("the getty has read me")?;
        let said = vm.console.text();
        same("emergency shells", "2", &said.matches(SHELL).count().to_string())?;
        demand(!said.contains("the getty has read nosuch"), "the getty reads what is typed to the shell")?;
        vm.power_off()?;
    }
    Ok(())
}

/// A store that cannot be reached, for its disk is not there, and one that cannot be opened: somebody has to be able to
/// look. When the disk comes after all, the boot goes on.
fn store(context: &Context) -> Result {
    let late = format!("{DISK}device-timeout = \"3s\"\n{GETTY}");
    let state = format!("{BASE}{late}\n[hostname.machine]\nvalue = \"reached\"\n");
    let guest = Guest::new(context, &late, &[("/etc/holdfast/state.toml", &state)])?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.start()?;
    let why = shell(&mut vm)?;
    demand(why.contains("the store waits for mount:/var"), "it is not told what is missing")?;
    vm.wait_for_shell()?;
    vm.plug_in("late", &disk)?;
    vm.until("hostname | grep -q reached")?;
    vm.wait_for("the getty is up")?;
    vm.converged_again()?;
    vm.power_off()?;

    let guest = Guest::new(context, GETTY, &[("/var/lib/holdfast", "no directory")])?;
    let mut vm = guest.machine(context)?.start()?;
    let why = shell(&mut vm)?;
    demand(why.contains("the store cannot be opened"), "it is not told that there is no store")?;
    vm.wait_for_shell()?;
    vm.power_off()
}
