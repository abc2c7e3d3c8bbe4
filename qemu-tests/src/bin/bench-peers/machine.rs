//! One run: a machine in QEMU whose clock counts instructions, with one init and its services.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use initramfs::apt::hex;
use initramfs::tree::{Node, Tree};
use qemu_tests::console::tail;
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
    "1024",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
];

/// The kernel's command line.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/bench/first";

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) peer: Peer,
    pub(crate) load: Load,
    pub(crate) plan: Plan,
    /// Which of the runs that are alike.
    pub(crate) round: u32,
}

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
///
/// What the machine said is kept in `kept` under the digest of all that decides it; it is taken from there when it is
/// there: a benchmark that was interrupted goes on where it was.
pub(crate) fn run(context: &Context, root: &Root, job: &Job, kept: &Path) -> Result<Facts> {
    let Job { peer, load, plan, round } = *job;
    let own = archive(context, root, peer, load, plan)?;
    let decides =
        [&own, root.identity.as_bytes(), QEMU.join(" ").as_bytes(), COMMAND_LINE.as_bytes()].concat();
    let name = format!("{}-{}-{round}", peer.name, hex(&decides));
    let (console, port) = (kept.join(format!("{name}.console")), kept.join(format!("{name}.port")));
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    if let Ok(facts) = Facts::parse(&text(&port), &text(&console)) {
        return Ok(facts);
    }
    // Only what is whole gets its name.
    let here = tempfile::Builder::new().prefix("unfinished-").tempdir_in(kept)?;
    let (said, told) = (here.path().join("console"), here.path().join("port"));
    let began = Instant::now();
    let limit = LIMIT * load.services().div_ceil(100);
    let ended = boot(&root.image, &own, COMMAND_LINE, &said, &told, limit);
    let facts = ended.and_then(|()| Facts::parse(&text(&told), &text(&said)));
    let real = began.elapsed().as_secs();
    if facts.is_ok() {
        std::fs::rename(&said, &console)?;
        std::fs::rename(&told, &port)?;
        eprintln!("{}, {load}: {real} s", peer.name);
    }
    facts.map_err(|e| {
        let (said, told) = (tail(&text(&said), 30), tail(&text(&told), 30));
        format!("{}, {load}, after {real} s: {e}\nconsole:\n{said}\nprobe:\n{told}", peer.name).into()
    })
}

/// The archive that is unpacked over the shared root, with what is this init's own.
fn archive(context: &Context, root: &Root, peer: Peer, load: Load, plan: Plan) -> Result<Vec<u8>> {
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
    let mut archive = Vec::new();
    initramfs::cpio::write(&tree, &mut archive)?;
    Ok(archive)
}

/// Runs a machine to its end: an image with an archive of its own over it, its console and its second serial port in files.
pub(crate) fn boot(
    image: &Image,
    own: &[u8],
    command_line: &str,
    console: &Path,
    port: &Path,
    limit: Duration,
) -> Result {
    let kernel = image.kernel.as_ref().ok_or("the image has no kernel")?;
    let mut initramfs = tempfile::NamedTempFile::new()?;
    std::io::copy(&mut std::fs::File::open(&image.initramfs)?, &mut initramfs)?;
    initramfs.write_all(own)?;
    let file = |path: &Path| -> PathBuf { format!("file:{}", path.display()).into() };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(QEMU).arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs.path());
    command.args(["-append", command_line]).arg("-serial").arg(file(console));
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
