//! File systems that are checked before they are mounted: one that fsck.ext4 repairs by itself, one that it leaves to a
//! person, and one that nobody asked to check.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{Guest, damage, demand, left_clean};

/// See the module.
pub const ALL: &[Scenario] = &[Scenario { name: "qemu-fsck", group: "qemu", limit: minutes(4), run: fsck }];

const MOUNTS: &str = r#"
[mount."/mnt/dirty"]
source   = "/dev/vda"
fstype   = "ext4"
check    = true
requires = ["module:ext4"]

[mount."/mnt/broken"]
source   = "/dev/vdb"
fstype   = "ext4"
check    = true
requires = ["module:ext4"]

[mount."/mnt/unasked"]
source   = "/dev/vdc"
fstype   = "ext4"
requires = ["module:ext4"]

[service.on-it]
exec  = ["sleep", "infinity"]
binds = ["mount:/mnt/broken"]
"#;

fn fsck(context: &Context) -> Result {
    let guest = Guest::new(context, MOUNTS, &[])?;
    let [dirty, broken, unasked] = ["dirty", "broken", "unasked"].map(|name| guest.disk(name, 16));
    let (dirty, broken, unasked) = (dirty?, broken?, unasked?);
    // Errors that a kernel has noted, and counts that do not add up: a check mends that without asking.
    let noted = ["ssv state 2", "ssv free_blocks_count 17"];
    damage(&dirty, &noted)?;
    damage(&unasked, &noted)?;
    // The root directory is gone: nobody but a person can say what should be there.
    damage(&broken, &["clri <2>", "ssv state 2"])?;
    demand(left_clean(&dirty).is_err() && left_clean(&broken).is_err(), "the disks are not damaged")?;

    let machine = guest.machine(context)?.disk(&dirty).disk(&broken).disk(&unasked);
    let mut vm = machine.start()?;
    vm.wait_for_shell()?;
    vm.ok("initctl wait --ready mount:/mnt/dirty --timeout 60s")?;
    vm.ok("touch /mnt/dirty/file")?;
    let said = vm.ok("dmesg | grep holdfast-helper")?;
    println!("{said}");
    demand(said.contains("\"/dev/vda\" was repaired:"), "it is not told that it was repaired")?;

    vm.until("initctl status mount:/mnt/broken | grep -q fsck.ext4")?;
    vm.until("initctl status mount:/mnt/broken | grep -q 'exit code 4'")?;
    let status = vm.answer("initctl status mount:/mnt/broken")?;
    println!("{}", status.output);
    demand(status.code != 0, "one that cannot be mounted counts as ready")?;
    demand(status.output.contains("RUN fsck MANUALLY"), "what fsck says is not told")?;
    demand(!vm.ok("cat /proc/mounts")?.contains("/mnt/broken"), "it is mounted all the same")?;
    demand(
        vm.unit("service:on-it")?.get("state").and_then(|s| s.as_str()) == Some("waiting"),
        "who is bound to it runs",
    )?;

    vm.ok("initctl wait --ready mount:/mnt/unasked --timeout 60s")?;
    demand(!said.contains("/dev/vdc"), "one that nobody asked to check was checked")?;

    // Mended by hand, it is mounted by the next try.
    vm.ok("fsck.ext4 -y /dev/vdb >/dev/null 2>&1; test $? -le 1")?;
    vm.until_state("mount:/mnt/broken", "ready")?;
    vm.until_state("service:on-it", "ready")?;
    vm.power_off()?;
    left_clean(&dirty)?;
    left_clean(&broken)
}
