//! `initramfs run`: an image that was built, in QEMU, with this terminal as the machine's console.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::tool::{self, Tool};

const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// What it needs.
const QEMU: &[Tool] = &[Tool { program: QEMU_PROGRAM, package: "qemu-system-x86" }];

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU itself: slow, and works everywhere.
    Tcg,
}

impl std::str::FromStr for Accelerator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err("write kvm (the host's processor) or tcg (emulation)".to_owned()),
        }
    }
}

const KVM: [&str; 4] = ["-accel", "kvm", "-cpu", "host"];

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What executes it; KVM where it works, if it is not said.
    pub accelerator: Option<Accelerator>,
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

/// QEMU's arguments.
pub fn arguments(directory: &Path, machine: &Machine, accelerator: Accelerator) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    // Debian's kernels end in a double fault where this instruction is emulated.
    let processor = match accelerator {
        Accelerator::Kvm => KVM,
        Accelerator::Tcg => ["-accel", "tcg", "-cpu", "qemu64,-cx16"],
    };
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

/// Whether KVM works: in some virtual machines `/dev/kvm` can be opened, and QEMU dies when it sets up a processor with
/// it. So a machine is set up, and taken down before it has executed anything.
fn kvm_works(qemu: &Path) -> bool {
    let mut command = Command::new(qemu);
    command.args(KVM).args(["-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]);
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = started else { return false };
    if let Some(mut monitor) = child.stdin.take() {
        // Where it has died already, its exit says so.
        let _ = monitor.write_all(b"quit\n");
    }
    child.wait().is_ok_and(|status| status.success())
}

/// What executes the machine, where nobody has said it.
fn chosen(qemu: &Path) -> Accelerator {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Accelerator::Tcg;
    }
    if kvm_works(qemu) {
        return Accelerator::Kvm;
    }
    eprintln!("/dev/kvm is there and does not work: the machine is emulated, which is slower");
    Accelerator::Tcg
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
    let accelerator = machine.accelerator.unwrap_or_else(|| chosen(Path::new(QEMU_PROGRAM)));
    eprintln!("`initctl poweroff` ends the machine, Ctrl-A X pulls its plug");
    let mut command = Command::new(QEMU_PROGRAM);
    let status = command.args(arguments(directory, machine, accelerator)).status();
    let failed = |cause: std::io::Error| Error::Tool {
        purpose: "boot the image".to_owned(),
        program: QEMU_PROGRAM.to_owned(),
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
            accelerator: None,
            memory: 512,
            forward: vec![ports("8080:80").unwrap(), ports("2222:22").unwrap()],
            disks: vec!["a,b.img".into()],
        };
        let line = arguments(Path::new("out"), &machine, Accelerator::Tcg).join(" ");
        for part in [
            "-accel tcg -cpu qemu64,-cx16 ",
            " -m 512 -kernel out/vmlinuz -initrd out/initramfs.img -append console=ttyS0 ",
            "file=a,,b.img -device virtio-blk-pci,drive=disk0 ",
            "user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:2222-:22 ",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let line = arguments(Path::new("out"), &machine, Accelerator::Kvm).join(" ");
        assert!(line.starts_with("-accel kvm -cpu host "), "{line}");
        assert!(["80", "a:1", "1:70000"].iter().all(|p| ports(p).is_err()));
    }

    #[test]
    fn what_was_not_built_is_not_booted() {
        let here = tempfile::tempdir().unwrap();
        let machine = Machine { accelerator: None, memory: 512, forward: vec![], disks: vec![] };
        let said = run(here.path(), &machine).unwrap_err().to_string();
        assert!(said.contains("vmlinuz") && said.contains("[kernel]"), "{said}");
    }

    #[test]
    fn kvm_that_opens_and_does_not_work_is_not_used() {
        // Programs that end as QEMU does, whatever they are given.
        for (qemu, works) in [("true", true), ("false", false), ("/nonexistent/qemu", false)] {
            assert_eq!(kvm_works(Path::new(qemu)), works, "{qemu}");
        }
        assert!("kvm".parse() == Ok(Accelerator::Kvm) && "hvf".parse::<Accelerator>().is_err());
    }
}
