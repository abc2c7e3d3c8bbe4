//! One run: a machine in QEMU whose clock counts instructions, with one init and its services.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use initramfs::tree::{Kind, Node, Tree};
use qemu_tests::context::{Context, Image};
use qemu_tests::qemu::die_with_parent;
use qemu_tests::{Result, measure};

use crate::facts::Facts;
use crate::peers::{Load, Peer};
use crate::root::Root;

/// Longest real time of a run, for every hundred services.
const LIMIT: Duration = Duration::from_secs(900);

/// How a machine is made, beside its kernel, its initramfs and its consoles.
pub(crate) const QEMU: &[&str] = &[
    "-accel",
    "tcg",
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    "qemu64,-cx16,+rdrand",
    "-smp",
    "1",
    "-m",
    "1536",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
];

/// The kernel's command line.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/bench/first";

/// What the probe does, in the order in which it does it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Seconds of the machine's time before anything is measured.
    pub(crate) settle: u32,
    /// Seconds for which rest is watched.
    pub(crate) rest: u32,
    /// Services that are killed, one after the other.
    pub(crate) kills: u32,
    /// Orphans that end at once.
    pub(crate) orphans: u32,
}

impl Plan {
    /// Everything.
    pub(crate) const WHOLE: Plan = Plan { settle: 30, rest: 30, kills: 5, orphans: 2000 };
    /// Only when the services started.
    pub(crate) const START: Plan = Plan { settle: 30, rest: 0, kills: 0, orphans: 0 };
}

/// Boots one init with these services, and gives what was found.
pub(crate) fn run(context: &Context, root: &Root, peer: &Peer, load: Load, plan: Plan) -> Result<Facts> {
    let here = tempfile::Builder::new().prefix("holdfast-peers-").tempdir()?;
    let image = archive(context, root, peer, load, plan, here.path())?;
    let (console, port) = (here.path().join("console"), here.path().join("port"));
    let began = Instant::now();
    let limit = LIMIT * load.services().div_ceil(100);
    let ended = boot(&image, &console, &port, limit);
    let said = std::fs::read(&console).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let told = std::fs::read_to_string(&port).unwrap_or_default();
    let facts = ended.and_then(|()| Facts::parse(&told, &said));
    let real = began.elapsed().as_secs();
    match facts {
        Ok(facts) => {
            eprintln!("{}, {load}: {real} s", peer.name);
            Ok(facts)
        }
        Err(e) => {
            let tail = |text: &str| {
                let lines: Vec<&str> = text.lines().collect();
                lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
            };
            let (said, told) = (tail(&said), tail(&told));
            Err(format!("{}, {load}, after {real} s: {e}\nconsole:\n{said}\nprobe:\n{told}", peer.name)
                .into())
        }
    }
}

/// The shared root, and behind it an archive with what is this init's own.
fn archive(
    context: &Context,
    root: &Root,
    peer: &Peer,
    load: Load,
    plan: Plan,
    here: &Path,
) -> Result<Image> {
    let mut tree = Tree::new();
    (peer.tree)(context, load, &mut tree)?;
    let command = (peer.init)(load).join("\n");
    tree.insert("/bench/command", Node::file(command.into_bytes(), 0o644))?;
    let Plan { settle, rest, kills, orphans } = plan;
    let steps = format!("{settle}\n{rest}\n{kills}\n{orphans}\n{}", peer.down.join("\n"));
    tree.insert("/bench/plan", Node::file(steps.into_bytes(), 0o644))?;
    for (name, bytes) in &root.programs {
        tree.insert(&format!("/bench/{name}"), Node::file(bytes.clone(), 0o755))?;
    }
    tree.insert("/init", Node::new(Kind::Symlink("/bench/first".to_owned()), 0o777))?;
    let mut archive = std::fs::read(&root.image.initramfs)?;
    initramfs::cpio::write(&tree, &mut archive)?;
    let initramfs = here.join("initramfs.img");
    std::fs::write(&initramfs, archive)?;
    Ok(Image { kernel: root.image.kernel.clone(), initramfs })
}

fn boot(image: &Image, console: &Path, port: &Path, limit: Duration) -> Result {
    let kernel = image.kernel.as_ref().ok_or("the image has no kernel")?;
    let file = |path: &Path| -> PathBuf { format!("file:{}", path.display()).into() };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(QEMU).arg("-kernel").arg(kernel).arg("-initrd").arg(&image.initramfs);
    command.args(["-append", COMMAND_LINE]).arg("-serial").arg(file(console));
    command.arg("-serial").arg(file(port));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    die_with_parent(&mut command);
    let mut machine = command.spawn().map_err(|e| format!("cannot start qemu-system-x86_64: {e}"))?;
    let until = Instant::now() + limit;
    // Its end is the only event; a tenth of a second more or less of real time is in no figure.
    loop {
        if let Some(status) = machine.try_wait()? {
            return if status.success() { Ok(()) } else { Err(format!("QEMU ended with {status}").into()) };
        }
        if Instant::now() > until {
            machine.kill()?;
            machine.wait()?;
            return Err(format!("not over within {} s", limit.as_secs()).into());
        }
        measure::pause(Duration::from_millis(100))?;
    }
}
