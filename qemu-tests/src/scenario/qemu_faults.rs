//! Faults of a whole machine: its disk dies, a sector of it does, everything but PID 1 is killed, no process can be made, no memory is left,
//! the clock jumps by years. What does not depend on it goes on, and everything is right afterwards.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, same, sector};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-disk-dies", group: "qemu", limit: minutes(5), run: disk_dies },
    Scenario { name: "qemu-bad-sector", group: "qemu", limit: minutes(5), run: bad_sector },
    Scenario { name: "qemu-hard-times", group: "qemu", limit: minutes(6), run: hard_times },
];

const STATE: &str = r#"
[service.steady]
exec = ["sleep", "infinity"]

[service.shell-less]
exec = ["sleep", "infinity"]

[service.keeper]
exec     = ["sh", "-c", "exec 3>>/var/keeper; exec sleep infinity"]
binds    = ["mount:/var"]

[file."/etc/motd"]
content = "as declared\n"

[file."/var/site/page"]
content = "on the disk\n"
"#;

fn pid(vm: &mut Qemu, unit: &str) -> Result<i64> {
    let told = vm.unit(unit)?;
    Ok(told.get("pid").and_then(serde_json::Value::as_i64).ok_or_else(|| format!("no pid: {told}"))?)
}

/// The disk with the store, the logs and managed files dies (every read and write of it is an error from then on). Who
/// does not need it goes on, is restarted and repaired; an apply is refused with the cause; the machine goes down when
/// it is asked to.
fn disk_dies(context: &Context) -> Result {
    let usual = format!("{BASE}{DISK}{STATE}");
    let guest = Guest::new(context, DISK, &[("/etc/holdfast/state.toml", &usual)])?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    vm.until_state("service:keeper", "ready")?;
    vm.ok("test -s /var/site/page")?;
    let steady = pid(&mut vm, "service:steady")?;
    vm.pull_out("disk0")?;
    vm.until_state("mount:/var", "starting")?;
    let told = vm.answer("initctl status mount:/var")?.output;
    demand(told.contains("/dev/vda"), format!("what is missing is not told: {told}"))?;
    vm.until_state("service:keeper", "waiting")?;
    let before = pid(&mut vm, "service:shell-less")?;
    vm.ok("initctl restart service:shell-less")?;
    demand(pid(&mut vm, "service:shell-less")? != before, "a service cannot be restarted")?;
    vm.ok("echo theirs > /etc/motd")?;
    vm.until("initctl status file:/etc/motd | grep -q 'not kept'")?;
    println!("{}", vm.answer("initctl status")?.output);
    for verb in ["apply", "plan"] {
        let refused = vm.answer(&format!("initctl --timeout 20s {verb} /etc/holdfast/state.toml 2>&1"))?;
        println!("{verb} without the disk: {refused:?}");
        demand(refused.code != 0, format!("{verb} works without the store"))?;
        let told = refused.output.contains("/var/lib/holdfast") && refused.output.contains("still mounted");
        demand(told, format!("what {verb} lacks is not told"))?;
    }
    same("what lies below the mount point", "", vm.ok("ls /var/lib/holdfast 2>/dev/null; true")?.trim())?;

    // The disk is there again, perhaps with another number.
    vm.plug_in("again", &disk)?;
    vm.until_state("mount:/var", "ready")?;
    // What could not be kept is tried again after a while.
    vm.until("grep -q declared /etc/motd")?;
    vm.converged_again()?;
    vm.until_state("service:keeper", "ready")?;
    same("the repaired file", "as declared", vm.ok("cat /etc/motd")?.trim())?;
    same("the file on the disk", "on the disk", vm.ok("cat /var/site/page")?.trim())?;
    vm.ok("initctl apply /etc/holdfast/state.toml")?;
    demand(pid(&mut vm, "service:steady")? == steady, "a service that had nothing to do with it was hit")?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)
}

const DATA: &str = r#"
[mount."/mnt/data"]
source   = "/dev/vdb"
fstype   = "ext4"
requires = ["module:ext4"]

[file."/mnt/data/bad"]
content = "where nobody can read\n"

[file."/mnt/data/good"]
content = "beside it\n"
"#;

/// A sector of a disk can be neither read nor written, and stays so: the file in it is told with the cause, and what lies
/// beside it and elsewhere is kept, repaired and changed as before.
fn bad_sector(context: &Context) -> Result {
    let changed = format!("{BASE}{DISK}{STATE}{DATA}").replace("as declared", "as declared next");
    let guest = Guest::new(context, &format!("{DISK}{STATE}{DATA}"), &[("/root/next.toml", &changed)])?;
    let (disk, data) = (guest.disk("disk", 32)?, guest.disk("data", 16)?);
    let mut vm = guest.machine(context)?.disk(&disk).disk(&data).start()?;
    vm.converged()?;
    vm.power_off()?;
    let bad = sector(&data, "/bad")?;
    let mut vm = guest.machine(context)?.disk(&disk).bad_disk(&data, bad).start()?;
    vm.wait_for_shell()?;
    vm.until("initctl --json status file:/mnt/data/bad | grep -q not-kept")?;
    println!("{}", vm.answer("initctl status file:/mnt/data/bad")?.output);
    let cause = vm.answer("initctl status file:/mnt/data/bad")?.output.to_lowercase();
    demand(
        cause.contains("(eio)") || cause.contains("input/output error"),
        format!("the cause is not told: {cause}"),
    )?;
    let told = vm.answer("cat /mnt/data/bad 2>&1")?;
    demand(told.code != 0, "the sector can be read")?;
    for _ in 0..2 {
        vm.ok("echo theirs > /mnt/data/good; echo theirs > /var/site/page; echo theirs > /etc/motd")?;
        vm.until(
            "grep -q beside /mnt/data/good && grep -q disk /var/site/page && grep -q declared /etc/motd",
        )?;
    }
    let before = pid(&mut vm, "service:steady")?;
    vm.ok("initctl restart service:steady")?;
    demand(pid(&mut vm, "service:steady")? != before, "a service cannot be restarted")?;
    let said = vm.answer("initctl apply /root/next.toml 2>&1")?;
    println!("{said:?}");
    // It changes what can be changed; what was wrong before is told, and is no reason to return.
    demand(said.code == 1, format!("the apply ended with {}", said.code))?;
    same("what was applied", "as declared next", vm.ok("cat /etc/motd")?.trim())?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)?;

    // On a disk that can be read all is as it should be.
    let mut vm = guest.machine(context)?.disk(&disk).disk(&data).start()?;
    vm.converged()?;
    same("the file", "where nobody can read", vm.ok("cat /mnt/data/bad")?.trim())?;
    vm.power_off()
}

const GREEDY: &str = r#"
[service.hog]
exec    = ["tail", "/dev/zero"]
start   = "manual"
restart = "never"
"#;

/// Everything but PID 1 is killed; the clock jumps by years, both ways; no process can be made; no memory is left.
fn hard_times(context: &Context) -> Result {
    let state = format!("{DISK}{STATE}{GREEDY}");
    let guest = Guest::new(context, &state, &[])?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    let right = |vm: &mut Qemu, when: &str| -> Result {
        vm.converged_again()?;
        for unit in ["steady", "keeper"] {
            vm.until_state(&format!("service:{unit}"), "ready")?;
        }
        same(when, "as declared", vm.ok("cat /etc/motd")?.trim())?;
        same(when, "on the disk", vm.ok("cat /var/site/page")?.trim())
    };
    right(&mut vm, "at first")?;

    let before = [pid(&mut vm, "service:steady")?, pid(&mut vm, "service:keeper")?];
    // The shell itself is spared by the kernel, since it is who asks.
    vm.ok("rm -r /var/site /etc/motd; kill -9 -1")?;
    right(&mut vm, "after everything was killed")?;
    let after = [pid(&mut vm, "service:steady")?, pid(&mut vm, "service:keeper")?];
    demand(before.iter().zip(&after).all(|(b, a)| a != b), "something was not killed")?;

    for time in ["2045-01-01 00:00:00", "1995-01-01 00:00:00", "2026-06-01 12:00:00"] {
        vm.ok("initctl hold file:/var/site/page --for 3s")?;
        vm.ok("echo theirs > /var/site/page")?;
        vm.ok(&format!("date -s '{time}'"))?;
        vm.ok("kill -9 $(pidof -s sleep); echo theirs > /etc/motd")?;
        vm.until("grep -q declared /etc/motd")?;
        // The hold ends by the time that has passed, not by the clock on the wall.
        vm.until("grep -q disk /var/site/page")?;
        right(&mut vm, &format!("at {time}"))?;
    }
    let told = vm.ok("initctl history file:/etc/motd")?;
    println!("{told}");
    same("the repairs that are told of", "3", &told.matches("repair, corrective").count().to_string())?;

    // Not one process more: those below 300 are given once only, and the last one is taken. The shell can do just what
    // needs none.
    let steady = pid(&mut vm, "service:steady")?;
    let take = "while :; do sleep 1000 & if [ $! -ge 300 ]; then break; fi; kill $!; done";
    vm.ok(&format!("echo 301 > /proc/sys/kernel/pid_max; {take}"))?;
    vm.ok(&format!("kill -9 {steady}"))?;
    vm.wait_for("Resource temporarily unavailable")?;
    vm.ok("kill $!; echo 32768 > /proc/sys/kernel/pid_max")?;
    right(&mut vm, "after there were no processes to be had")?;
    demand(pid(&mut vm, "service:steady")? != steady, "it was not killed")?;

    // Not one page more: the kernel kills whom it likes, but not PID 1.
    vm.answer("initctl start service:hog")?;
    vm.wait_for("Out of memory: Killed process")?;
    vm.until_state("service:hog", "failed")?;
    vm.ok("initctl stop service:hog")?;
    right(&mut vm, "after there was no memory left")?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)
}
