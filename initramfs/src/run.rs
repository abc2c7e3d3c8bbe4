//! `initramfs run`: an image that was built, in QEMU, with this terminal as the machine's console.

use std::path::Path;
use std::process::Command;

use crate::error::Error;
use crate::tool::{self, Tool};

/// What it needs.
const QEMU: &[Tool] = &[Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" }];

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Memory in MiB.
    pub memory: u32,
    /// Ports of this machine's loopback, and those of the guest that they lead to.
    pub forward: Vec<(u16, u16)>,
    /// Files that are its disks.
    pub disks: Vec<std::path::PathBuf>,
}

/// A port of the host and one of the guest, as `8080:80`.
///
/// # Errors
/// When it is something else.
pub fn ports(text: &str) -> Result<(u16, u16), String> {
    let ports =
        text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    ports.ok_or_else(|| "write HOST:GUEST, as in 8080:80".to_owned())
}

/// QEMU's arguments. `kvm`: the host's processor may be used.
pub fn arguments(directory: &Path, machine: &Machine, kvm: bool) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    // Debian's kernels end in a double fault where this instruction is emulated.
    let processor =
        if kvm { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg", "-cpu", "qemu64,-cx16"] };
    let mut out: Vec<String> = processor.map(str::to_owned).into();
    out.extend(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "mon:stdio"].map(str::to_owned));
    out.extend(["-m".to_owned(), machine.memory.to_string()]);
    out.extend(["-kernel".to_owned(), file("vmlinuz"), "-initrd".to_owned(), file("initramfs.img")]);
    out.extend(["-append", "console=ttyS0 quiet panic=-1", "-device", "virtio-rng-pci"].map(str::to_owned));
    for (number, disk) in machine.disks.iter().enumerate() {
        // A comma ends a value; doubled it is one.
        let path = disk.display().to_string().replace(',', ",,");
        out.extend(["-drive".to_owned(), format!("if=none,id=disk{number},format=raw,file={path}")]);
        out.extend(["-device".to_owned(), format!("virtio-blk-pci,drive=disk{number}")]);
    }
    let ports = machine.forward.iter().map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
    out.extend(["-netdev".to_owned(), format!("user,id=net{}", ports.collect::<String>())]);
    out.extend(["-device", "virtio-net-pci,netdev=net,romfile="].map(str::to_owned));
    out
}

/// Boots what [`crate::build`] has written into `directory`, until the machine is off.
///
/// # Errors
/// When there is nothing to boot, or QEMU cannot be run.
pub fn run(directory: &Path, machine: &Machine) -> Result<bool, Error> {
    for name in ["vmlinuz", "initramfs.img"] {
        let path = directory.join(name);
        if !path.is_file() {
            let message = "there is no such file: build an image with a [kernel] there first";
            return Err(Error::input(path, message));
        }
    }
    tool::ensure(QEMU)?;
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    eprintln!("`initctl poweroff` ends the machine, Ctrl-A X pulls its plug");
    let mut command = Command::new("qemu-system-x86_64");
    let status = command.args(arguments(directory, machine, kvm)).status();
    let failed = |cause: std::io::Error| Error::Tool {
        purpose: "boot the image".to_owned(),
        program: "qemu-system-x86_64".to_owned(),
        cause: cause.to_string(),
    };
    Ok(status.map_err(failed)?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_what_was_asked_for() {
        let machine = Machine {
            memory: 512,
            forward: vec![ports("8080:80").unwrap(), ports("2222:22").unwrap()],
            disks: vec!["a,b.img".into()],
        };
        let line = arguments(Path::new("out"), &machine, false).join(" ");
        for part in [
            "-accel tcg -cpu qemu64,-cx16 ",
            " -m 512 -kernel out/vmlinuz -initrd out/initramfs.img -append console=ttyS0 ",
            "file=a,,b.img -device virtio-blk-pci,drive=disk0 ",
            "user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:2222-:22 ",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(arguments(Path::new("out"), &machine, true).join(" ").starts_with("-accel kvm -cpu host "));
        assert!(["80", "a:1", "1:70000"].iter().all(|p| ports(p).is_err()));
    }

    #[test]
    fn what_was_not_built_is_not_booted() {
        let here = tempfile::tempdir().unwrap();
        let machine = Machine { memory: 512, forward: vec![], disks: vec![] };
        let said = run(here.path(), &machine).unwrap_err().to_string();
        assert!(said.contains("vmlinuz") && said.contains("[kernel]"), "{said}");
    }
}
