//! The way down on the real kernel: order, stuck services, busy and clean file systems, and each way to end.

use std::time::Duration;

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{DISK, Guest, demand, left_clean, same};

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-shutdown", group: "qemu", limit: minutes(5), run: shutdown },
    Scenario { name: "qemu-shutdown-busy", group: "qemu", limit: minutes(4), run: busy },
    Scenario { name: "qemu-shutdown-slow", group: "qemu", limit: minutes(8), run: slow },
];

/// A service that says when it ends, a moment after it was asked to.
fn polite(name: &str, requires: &str) -> String {
    let script = format!(
        "trap 'sleep 0.3; echo {name} ends > /dev/kmsg; exit 0' TERM; echo up >&3; exec 3>&-; while :; do sleep 0.1; done"
    );
    format!(
        "\n[service.{name}]\nexec = [\"sh\", \"-c\", {script:?}]\nready = \"fd=3\"\nrequires = [{requires}]\n"
    )
}

/// Requirers end before what they require, a service that ignores SIGTERM is killed when its time is over and named
/// meanwhile, and the disk is let go of clean.
fn shutdown(context: &Context) -> Result {
    let stuck = "\n[service.stuck]\nexec = [\"sh\", \"-c\", \"trap '' TERM; touch /var/open; exec 4>/var/open; echo up >&3; exec 3>&-; while :; do sleep 0.1; done\"]\n\
        ready = \"fd=3\"\nstop-timeout = \"7s\"\nrequires = [\"mount:/var\"]\n";
    let chain = [
        polite("base", "\"mount:/var\""),
        polite("middle", "\"service:base\""),
        polite("top", "\"service:middle\""),
    ];
    let guest = Guest::new(context, &format!("{DISK}{stuck}{}", chain.concat()), &[])?;
    let disk = guest.disk("disk", 32)?;

    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    vm.type_power("poweroff")?;
    let mut said = String::new();
    for line in [
        "top ends",
        "middle ends",
        "base ends",
        "going down for 5 s, waiting for service:stuck (stopping)",
        "reboot: Power down",
    ] {
        said.push_str(&vm.wait_for(line)?);
        said.push_str(line);
    }
    vm.wait_for_power_off()?;
    println!("{}", crate::console::tail(&said, 15));
    left_clean(&disk)?;
    demand(!vm.console.text().contains("took too long"), "a phase took too long")?;

    // The two other ways to end; nobody is stuck in them.
    let guest = Guest::new(context, &format!("{DISK}{}", chain.concat()), &[])?;
    for (verb, last) in [("reboot", "reboot: Restarting system"), ("halt", "reboot: System halted")] {
        let mut vm = guest.machine(context)?.disk(&disk).start()?;
        vm.converged()?;
        vm.type_power(verb)?;
        vm.wait_for(last)?;
        if verb == "reboot" {
            vm.wait_for_power_off()?;
        } else {
            // A halted machine is still on: only the plug ends it.
            vm.cut_power()?;
        }
        left_clean(&disk)?;
    }
    Ok(())
}

/// Who holds a file system that is to be unmounted is named; and what cannot be unmounted while the machine runs does
/// not keep it from going down clean.
fn busy(context: &Context) -> Result {
    let with = format!(
        "{}{DISK}\n[mount.\"/mnt/data\"]\nsource = \"/dev/vdb\"\nfstype = \"ext4\"\n",
        crate::guest::BASE
    );
    let without = format!("{}{DISK}", crate::guest::BASE);
    let files = [("/etc/holdfast/state.toml", &*with), ("/root/without.toml", &*without)];
    let guest = Guest::new(context, DISK, &files)?;
    let (disk, data) = (guest.disk("disk", 32)?, guest.disk("data", 16)?);
    let mut vm = guest.machine(context)?.disk(&disk).disk(&data).start()?;
    vm.converged()?;
    vm.ok("(cd /mnt/data && exec setsid sleep 1000) & until pidof sleep; do :; done")?;
    let refused = vm.answer("initctl apply /root/without.toml 2>&1")?;
    println!("{refused:?}");
    demand(refused.code != 0, "a busy file system was unmounted")?;
    let held = "held by sleep (pid ";
    demand(vm.console.text().contains(held), "nobody is named on the console")?;
    let told = refused.output.contains("cannot be unmounted") && refused.output.contains(held);
    demand(told, format!("it is not told: {}", refused.output))?;
    vm.power_off()?;
    left_clean(&disk)?;
    left_clean(&data)
}

/// The power is not cut while a slow disk still takes what was written before: here that lasts longer than both the
/// unmounting and the syncing would have if nothing happened. Nobody has declared the mount, so that it is unmounted last.
fn slow(context: &Context) -> Result {
    const MIB: u32 = 48;
    const MOUNT: &str = "mkdir -p /srv/slow && mount -t ext4 /dev/vdb /srv/slow";
    let guest = Guest::new(context, DISK, &[])?;
    let (disk, data) = (guest.disk("disk", 32)?, guest.disk("data", 128)?);
    let machine = guest.machine(context)?.disk(&disk).slow_disk(&data, 600_000);
    let mut vm = machine.limit(Duration::from_secs(150)).start()?;
    vm.converged()?;
    // Nothing of it is written by itself before.
    let lazy = "cd /proc/sys/vm && echo 90 > dirty_ratio && echo 80 > dirty_background_ratio && echo 90000 > dirty_expire_centisecs";
    vm.ok(&format!("{MOUNT} && {lazy}"))?;
    vm.ok(&format!("dd if=/dev/zero of=/srv/slow/big bs=1048576 count={MIB} 2>&1"))?;
    vm.type_power("poweroff")?;
    vm.wait_for("KiB are still to be written")?;
    vm.wait_for("reboot: Power down")?;
    vm.wait_for_power_off()?;
    demand(!vm.console.text().contains("took too long"), "the disk was given up")?;
    left_clean(&data)?;
    let mut vm = guest.machine(context)?.disk(&disk).disk(&data).start()?;
    vm.converged()?;
    vm.ok(MOUNT)?;
    same("the file's size", &(MIB << 20).to_string(), vm.ok("stat -c %s /srv/slow/big")?.trim())?;
    vm.power_off()
}
