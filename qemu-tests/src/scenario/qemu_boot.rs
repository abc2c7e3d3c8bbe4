//! A machine's boot on the real kernel: generation 0 from the initramfs, then what the disk's store says; and what
//! becomes of a disk that comes late.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, same};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-boot", group: "qemu", limit: minutes(4), run: boot },
    Scenario { name: "qemu-store-late", group: "qemu", limit: minutes(4), run: store_late },
];

const ZERO: &str = r#"
[hostname.machine]
value = "zero"

[sysctl."net.core.somaxconn"]
value = 1234

# Nobody without CAP_SYS_PTRACE may write it.
[sysctl."kernel.yama.ptrace_scope"]
value = 2

# A machine protects links by itself, unless its state says otherwise.
[sysctl."fs.protected_symlinks"]
value = 0

[module.virtio-rng]

[mount."/srv/cache"]
fstype  = "tmpfs"
options = ["size=1M", "mode=1777"]
"#;

/// A whole state with this host name, and a file that says it too.
fn named(name: &str) -> String {
    let rest = ZERO.replace("zero", name);
    format!("{BASE}{DISK}{rest}\n[file.\"/var/site/which\"]\ncontent = \"{name}\\n\"\n")
}

fn hostname(vm: &mut Qemu, wanted: &str) -> Result {
    same("the host name", wanted, &vm.ok("hostname")?)
}

/// A declared module that somebody unloads is loaded again.
fn unloaded(vm: &mut Qemu) -> Result {
    vm.ok("busybox rmmod virtio_rng")?;
    vm.wait_for("repaired module:virtio_rng: somebody had unloaded it")?;
    demand(vm.ok("cat /proc/modules")?.contains("virtio_rng"), "the module is not loaded again")?;
    let status = vm.ok("initctl status module:virtio_rng")?;
    demand(status.contains("repaired"), format!("that is not told:\n{status}"))
}

/// On an empty store the state that the kernel's command line names is applied over generation 0; at the next boot the
/// store's own generation is, everything is kept, and nothing was written; and where a state is named again, that wins.
fn boot(context: &Context) -> Result {
    let files = [("/etc/holdfast/state.toml", &*named("usual")), ("/root/other.toml", &*named("other"))];
    let guest = Guest::new(context, &format!("{DISK}{ZERO}"), &files)?;
    let disk = guest.disk("disk", 32)?;
    // What the kernel does not know itself, it hands to init as arguments.
    let words = "holdfast.state=/root/other.toml single 3 --unheard-of -x splash";
    let mut vm = guest.machine(context)?.disk(&disk).append(words).start()?;
    vm.converged()?;
    println!("converged {:?} after power-on", vm.age());
    let arguments = vm.ok("tr '\\0' ' ' < /proc/1/cmdline")?;
    for word in ["single", "--unheard-of", "-x"] {
        demand(arguments.contains(word), format!("init was not given {word:?}: {arguments}"))?;
    }
    hostname(&mut vm, "other")?;
    let said = vm.console.text();
    demand(
        said.contains("repaired hostname:machine: is (none), should be zero"),
        "generation 0 did not boot",
    )?;
    demand(!said.contains("state.toml"), "the usual state file was read")?;
    same("the setting", "1234", &vm.ok("cat /proc/sys/net/core/somaxconn")?)?;
    same("a setting that asks for more", "2", &vm.ok("cat /proc/sys/kernel/yama/ptrace_scope")?)?;
    let modules = vm.ok("lsmod")?;
    for module in ["virtio_blk", "virtio_rng"] {
        demand(modules.contains(module), format!("{module} is not loaded:\n{modules}"))?;
    }
    unloaded(&mut vm)?;
    // The next init listens too.
    vm.ok("initctl reexec && initctl wait --converged --timeout 60s")?;
    unloaded(&mut vm)?;
    let links = vm.ok("cat /proc/sys/fs/protected_hardlinks /proc/sys/fs/protected_symlinks")?;
    same("what is protected of links, undeclared and declared", "1\n0", links.trim())?;
    let mounts = vm.ok("cat /proc/mounts")?;
    for mount in [
        "proc /proc proc",
        "sysfs /sys sysfs",
        "devtmpfs /dev devtmpfs",
        "devpts /dev/pts devpts",
        "tmpfs /dev/shm tmpfs",
        "tmpfs /run tmpfs",
        "cgroup2 /sys/fs/cgroup cgroup2",
        "tmpfs /srv/cache tmpfs",
        "/dev/vda /var ext4",
    ] {
        demand(mounts.lines().any(|l| l.starts_with(mount)), format!("no {mount:?}:\n{mounts}"))?;
    }
    vm.ok("test -S /run/holdfast/control && test -e /proc/self/fd/0 && test -c /dev/null")?;
    demand(vm.ok("initctl status")?.starts_with("generation 1, converged"), "generation 1 is not converged")?;
    let before = vm.ok("stat -c '%i %y %z' /var/site/which")?;
    vm.type_power("reboot")?;
    vm.wait_for("reboot: Restarting system")?;
    vm.wait_for_power_off()?;

    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    hostname(&mut vm, "other")?;
    let status = vm.ok("initctl status --all")?;
    demand(status.starts_with("generation 1, converged"), format!("it is another generation:\n{status}"))?;
    // What lives in memory only was made anew; what is on the disk was found right.
    let mut changed = vm.not_just_kept()?;
    changed.sort();
    let wanted = [
        "hostname:machine repaired",
        "sysctl:fs.protected_symlinks repaired",
        "sysctl:kernel.yama.ptrace_scope repaired",
        "sysctl:net.core.somaxconn repaired",
    ];
    demand(changed == wanted, format!("not kept: {changed:?}"))?;
    same("the file's inode and times", &before, &vm.ok("stat -c '%i %y %z' /var/site/which")?)?;
    same("the generations", "1", &vm.ok("initctl generations | tail -n +2 | wc -l")?)?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)?;

    // Whoever names a state at the boot loader wants that one, whatever the store holds.
    let words = "holdfast.state=/etc/holdfast/state.toml";
    let mut vm = guest.machine(context)?.disk(&disk).append(words).start()?;
    vm.converged()?;
    hostname(&mut vm, "usual")?;
    demand(vm.ok("initctl status")?.starts_with("generation 2, converged"), "generation 2 is not converged")?;
    let said = vm.console.text();
    demand(said.contains("was named for this boot, in place of generation 1"), "it is not said")?;
    vm.ok("initctl rollback")?;
    hostname(&mut vm, "other")?;
    same("the managed file", "other", &vm.ok("cat /var/site/which")?)?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)
}

/// Without its disk the machine stays up on generation 0, answers, and says what it waits for. Once the disk comes it
/// goes on to the state.
fn store_late(context: &Context) -> Result {
    let files = [("/etc/holdfast/state.toml", &*named("usual"))];
    let steady = "[service.steady]\nexec = [\"sleep\", \"infinity\"]\n";
    let guest = Guest::new(context, &format!("{DISK}{ZERO}{steady}"), &files)?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.start()?;
    vm.wait_for_shell()?;
    vm.ok("initctl wait --ready hostname:machine --timeout 60s")?;
    hostname(&mut vm, "zero")?;
    let status = vm.ok("initctl status")?;
    println!("{status}");
    demand(status.starts_with("generation 0"), "it is not on generation 0")?;
    let mount = vm.answer("initctl status mount:/var")?;
    println!("{}", mount.output);
    demand(mount.output.contains("/dev/vda"), "it is not told which device is missing")?;
    let waited = vm.answer("initctl wait --converged --timeout 3s")?;
    println!("{waited:?}");
    demand(waited.code != 0, "a machine without its disk is called converged")?;
    let applied = vm.answer("initctl --timeout 3s apply /etc/holdfast/state.toml 2>&1")?;
    println!("{applied:?}");
    demand(
        applied.code == 124
            && applied.output.contains("store is not open")
            && applied.output.contains("mount:/var"),
        "it is not told what an apply waits for",
    )?;
    demand(vm.ok("initctl restart service:steady")?.contains("restarted"), "a service cannot be restarted")?;
    vm.plug_in("late", &disk)?;
    // Until the kernel has told of the disk, who waits is told that it is missing.
    vm.until("initctl wait --ready mount:/var --timeout 60s")?;
    vm.converged_again()?;
    hostname(&mut vm, "usual")?;
    same("the managed file", "usual", &vm.ok("cat /var/site/which")?)?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)
}
