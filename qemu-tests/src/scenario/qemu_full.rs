//! A full and a read-only ext4, below what is managed and below the store: said clearly, the rest goes on, and once
//! there is room again the machine converges.

use super::{Scenario, minutes};
use crate::Result;
use crate::console::Answer;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, left_clean, same};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-full-disk", group: "qemu", limit: minutes(5), run: full },
    Scenario { name: "qemu-readonly", group: "qemu", limit: minutes(5), run: read_only },
];

const REST: &str = r#"
[mount."/mnt/data"]
source   = "/dev/vdb"
fstype   = "ext4"
requires = ["module:ext4"]

[service.steady]
exec = ["sleep", "infinity"]

[file."/mnt/data/kept"]
content = "kept\n"

[file."/etc/motd"]
content = "in memory\n"
"#;

struct Bench {
    guest: Guest,
    vm: Qemu,
}

/// A machine with a disk for store and logs, another one for what is managed, and a state at hand that adds to both.
fn bench(context: &Context) -> Result<Bench> {
    let usual = format!("{BASE}{DISK}{REST}");
    let large = format!(
        "{usual}\n[file.\"/etc/more\"]\ncontent = \"more\\n\"\n[file.\"/mnt/data/large\"]\ncontent = \"{}\"\n",
        "x".repeat(300_000)
    );
    let files = [("/etc/holdfast/state.toml", &*usual), ("/root/large.toml", &*large)];
    let guest = Guest::new(context, DISK, &files)?;
    let (disk, data) = (guest.disk("disk", 16)?, guest.disk("data", 8)?);
    let mut vm = guest.machine(context)?.disk(&disk).disk(&data).start()?;
    vm.converged()?;
    Ok(Bench { guest, vm })
}

impl Bench {
    /// An apply that cannot be: it says why and leaves everything as it was; whatever needs no disk goes on.
    fn refused(&mut self, code: i32, cause: &str) -> Result {
        let Answer { code: found, output } = self.vm.answer("initctl apply /root/large.toml 2>&1")?;
        println!("{output}");
        demand(output.to_lowercase().contains(cause), format!("the cause is not told: {output}"))?;
        demand(code == found, format!("the apply ended with {found}: {output}"))?;
        self.vm.ok("test ! -e /mnt/data/large && test ! -e /etc/more")?;
        self.goes_on()
    }

    fn goes_on(&mut self) -> Result {
        let vm = &mut self.vm;
        vm.ok("initctl restart service:steady && initctl wait --ready service:steady --timeout 60s")?;
        let status = vm.ok("initctl status | head -n 1")?;
        demand(status.starts_with("generation 1"), format!("it is another generation: {status}"))
    }

    /// The same apply succeeds, and the machine ends as it should.
    fn mended(mut self) -> Result {
        let vm = &mut self.vm;
        vm.ok("initctl wait --converged --timeout 100s")?;
        vm.ok("initctl apply /root/large.toml")?;
        same("the large file", "300000", &vm.ok("stat -c %s /mnt/data/large")?)?;
        same("the other one", "more", &vm.ok("cat /etc/more")?)?;
        same("the one that was there", "kept", &vm.ok("cat /mnt/data/kept")?)?;
        vm.power_off()?;
        left_clean(&self.guest.directory().join("disk"))?;
        left_clean(&self.guest.directory().join("data"))
    }
}

const FILL: &str = "dd if=/dev/zero bs=1k 2>/dev/null";

/// No room below what is managed, then none for the store.
fn full(context: &Context) -> Result {
    let mut bench = bench(context)?;
    bench.vm.answer(&format!("{FILL} of=/mnt/data/filler; {FILL} of=/mnt/data/filler2"))?;
    bench.refused(5, "no space left on device")?;
    // Drift that cannot be repaired is told, and repaired once there is room.
    bench.vm.ok("rm /mnt/data/kept; dd if=/dev/zero of=/mnt/data/filler3 bs=1k 2>/dev/null; true")?;
    let told = "initctl --json status file:/mnt/data/kept";
    bench.vm.until(&format!("{told} | grep -q -e not-kept"))?;
    println!("{}", bench.vm.ok("initctl status file:/mnt/data/kept; true")?);
    bench.vm.ok("rm /mnt/data/filler*")?;
    bench.vm.until("test -e /mnt/data/kept")?;
    // The store.
    bench.vm.answer(&format!("{FILL} of=/var/filler; {FILL} of=/var/filler2"))?;
    bench.refused(1, "no space left on device")?;
    // Repairs of what lies elsewhere go on.
    bench.vm.ok("echo drift > /etc/motd; sleep 1; initctl status file:/etc/motd; cat /etc/motd")?;
    bench.vm.ok("rm /var/filler*")?;
    bench.vm.until("grep -q memory /etc/motd")?;
    bench.mended()
}

/// Every disk is read-only all of a sudden, as the kernel makes it after an error.
fn read_only(context: &Context) -> Result {
    let mut bench = bench(context)?;
    bench.vm.ok("mount -o remount,ro /mnt/data")?;
    bench.refused(5, "read-only file system")?;
    bench.vm.ok("mount -o remount,rw /mnt/data; echo u > /proc/sysrq-trigger")?;
    bench.vm.until("grep -q '/var ext4 ro' /proc/mounts")?;
    bench.refused(1, "read-only file system")?;
    bench.vm.ok(
        "initctl status; mount -o remount,rw /var; mount -o remount,rw /mnt/data; mount -o remount,rw /",
    )?;
    bench.mended()
}
