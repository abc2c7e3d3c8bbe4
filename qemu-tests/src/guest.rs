//! The small machine that most scenarios in QEMU boot: BusyBox, a kernel with ext4, and Holdfast.
//!
//! One image serves all. What is a scenario's own (generation 0, state files) is a second archive behind the image's,
//! which the kernel unpacks over it.

use std::path::{Path, PathBuf};
use std::process::Command;

use initramfs::tool::{self, Tool};
use initramfs::tree::{Kind, Node, Tree};
use serde_json::Value;

use crate::Result;
use crate::context::{Context, Image};
use crate::qemu::{Machine, Qemu};
use crate::rig::state::compile_boot;
use crate::scratch::{self, Scratch};

const E2FSPROGS: &[Tool] = &[
    Tool { program: "mke2fs", package: "e2fsprogs" },
    Tool { program: "dumpe2fs", package: "e2fsprogs" },
    Tool { program: "e2fsck", package: "e2fsprogs" },
    Tool { program: "debugfs", package: "e2fsprogs" },
];

/// What the machine's own shell says on `/dev/hvc0` once it may be typed to.
const SHELL_IS_UP: &str = "the shell is up";

/// What every state of the small machine begins with: its drivers, and the shell that commands are run in.
pub const BASE: &str = r#"
[module.virtio-blk]
[module.ext4]

[service.shell]
exec = ["sh", "-c", "cd; stty -echo; echo the shell is up; exec sh"]
tty  = "/dev/hvc0"
# A shell that somebody types to takes no notice of SIGTERM.
stop-signal = "HUP"
"#;

/// A disk of ext4 for everything that is to outlive the machine: the store, the logs, and what states manage below
/// `/var/site`.
pub const DISK: &str = r#"
[mount."/var"]
source   = "/dev/vda"
fstype   = "ext4"
requires = ["module:ext4"]
"#;

const IMAGE: &str = r#"
suite       = "bookworm"
base        = "unpacked"
compression = "none"
packages    = [
    "attr", "busybox-static", "libacl1", "libattr1", "libc6",
    # fsck.ext4 and what it is linked with.
    "e2fsprogs", "libblkid1", "libcom-err2", "libext2fs2", "libuuid1",
]
remove      = ["/usr/lib/x86_64-linux-gnu/gconv", "/usr/share"]

[kernel]
package = "linux-image-6.*-cloud-amd64"
suites  = ["bookworm-backports", "bookworm-security", "bookworm"]
modules = ["ext4", "virtio_blk", "virtio_rng"]

[file."/etc/passwd"]
content = """
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""

[file."/etc/group"]
content = """
root:x:0:
daemon:x:1:
nogroup:x:65534:
"""

# Every entry below a directory: kind, mode, owner, number of names, inode of what has several; contents; links;
# extended attributes. Without its times and its size, a directory says only what is in it.
[file."/usr/bin/treelist"]
mode    = "0755"
content = """
#!/bin/sh
cd "$1" || exit 1
find . ! -type d -exec stat -c '%n|%F|%a|%u:%g|%h|%s' {} + | sort
find . -type d -exec stat -c '%n|%F|%a|%u:%g' {} + | sort
find . -type f -exec sha256sum {} + | sort
find . -type l -exec sh -c 'for l; do echo "$l -> $(readlink "$l")"; done' sh {} + | sort
find . -type f -links +1 -exec stat -c '%i %n' {} + | sort | while read -r inode name; do
    if [ "$inode" != "$last" ]; then first=$name; last=$inode; else echo "$name is $first"; fi
done
getfattr -R -P -h -d -m - -e hex . 2>/dev/null
exit 0
"""
"#;

/// Programs of BusyBox's that states and commands use, beside those that its shell has built in.
const APPLETS: &[&str] = &[
    "awk",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dmesg",
    "du",
    "env",
    "false",
    "find",
    "getty",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "lsmod",
    "mkdir",
    "mkfifo",
    "mount",
    "mv",
    "nc",
    "od",
    "pidof",
    "ps",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "sysctl",
    "tail",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "umount",
    "uname",
    "uniq",
    "wc",
    "xargs",
    "yes",
];

/// The small image with one scenario's own archive, and a directory for its disks.
#[derive(Debug)]
pub struct Guest {
    directory: Scratch,
    image: Image,
}

impl Guest {
    /// The small image with this as generation 0 ([`BASE`] is put before it), and files by absolute path.
    ///
    /// # Errors
    /// When the image cannot be built, or the state has mistakes.
    pub fn new(context: &Context, state: &str, files: &[(&str, &str)]) -> Result<Guest> {
        Guest::with_programs(context, state, files, &[])
    }

    /// The same with programs, too.
    ///
    /// # Errors
    /// As [`Guest::new`].
    pub fn with_programs(
        context: &Context,
        state: &str,
        files: &[(&str, &str)],
        programs: &[(&str, Vec<u8>)],
    ) -> Result<Guest> {
        Guest::on(small_image(context)?, state, files, programs)
    }

    /// The same with another image.
    ///
    /// # Errors
    /// When the state has mistakes.
    pub fn on(
        image: Image,
        state: &str,
        files: &[(&str, &str)],
        programs: &[(&str, Vec<u8>)],
    ) -> Result<Guest> {
        let directory = scratch::guest()?;
        let mut tree = Tree::new();
        let boot = compile_boot(&format!("{BASE}{state}"))?;
        tree.insert(initramfs::state::MANIFEST, Node::file(boot.manifest, 0o644))?;
        tree.insert(initramfs::state::LAYER, Node::file(boot.layer, 0o600))?;
        tree.insert(initramfs::state::BLOBS, Node::new(Kind::Directory, 0o700))?;
        for (name, bytes) in boot.contents {
            tree.insert(&format!("{}/{name}", initramfs::state::BLOBS), Node::file(bytes, 0o600))?;
        }
        for (path, text) in files {
            tree.insert(path, Node::file((*text).as_bytes().to_vec(), 0o644))?;
        }
        for (path, bytes) in programs {
            tree.insert(path, Node::file(bytes.clone(), 0o755))?;
        }
        // A directory that the image has must not get another mode: the kernel takes the last one's.
        let mut archive = std::fs::read(&image.initramfs)?;
        initramfs::cpio::write(&tree, &mut archive)?;
        let initramfs = directory.path().join("initramfs.img");
        std::fs::write(&initramfs, archive)?;
        Ok(Guest { directory, image: Image { kernel: image.kernel, initramfs } })
    }

    /// Where its files lie.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An empty ext4 file system of this many MiB.
    ///
    /// # Errors
    /// When mke2fs(8) fails.
    pub fn disk(&self, name: &str, mib: u32) -> Result<PathBuf> {
        tool::ensure(E2FSPROGS)?;
        let path = self.directory.path().join(name);
        std::fs::File::create(&path)?.set_len(u64::from(mib) << 20)?;
        let mut make = tool::command("mke2fs");
        // Nothing is left for the kernel to initialise later: it would write long after the mount.
        make.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&path);
        tool::run("make a file system", &mut make)?;
        Ok(path)
    }

    /// A machine with this image, not yet started; commands go over its second console.
    ///
    /// # Errors
    /// When QEMU is missing.
    pub fn machine(&self, context: &Context) -> Result<Machine> {
        let machine = context.machine(&self.image)?.memory(384).shell_on_second_console();
        // What init says is to be seen; what the kernel says about its devices is not.
        Ok(machine.append("loglevel=7"))
    }
}

fn small_image(context: &Context) -> Result<Image> {
    let here = context.scratch("small");
    std::fs::create_dir_all(&here)?;
    let mut text = IMAGE.to_owned();
    text.push_str("\n[symlinks]\n");
    for applet in APPLETS {
        text.push_str(&format!("\"/usr/bin/{applet}\" = \"busybox\"\n"));
    }
    let path = here.join("image.toml");
    // Written only when it differs: other scenarios read it now.
    if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        let unfinished = here.join(format!("{}.unfinished", std::process::id()));
        std::fs::write(&unfinished, &text)?;
        let _ = std::fs::remove_file(here.join("image.lock"));
        std::fs::rename(&unfinished, &path)?;
    }
    context.image_at(&path, "small")
}

impl Qemu {
    /// Waits for the shell of the small machine.
    ///
    /// # Errors
    /// When it does not come; with what both consoles say.
    pub fn wait_for_shell(&mut self) -> Result {
        let limit = self.limit();
        self.second.expect(SHELL_IS_UP, limit).map(drop).map_err(|e| self.with_console(&*e).into())
    }

    /// A failure, and what init has said so far.
    pub fn with_console(&self, failure: &dyn std::fmt::Display) -> String {
        let text = self.console.text();
        let said: Vec<&str> = text.lines().filter(|l| !l.contains("] ") || l.contains("holdfast")).collect();
        let said = crate::console::tail(&said.join("\n"), 40);
        format!("{failure}\non the serial console, init said:\n{said}")
    }

    /// Runs a command that must succeed; when it does not, the error has the serial console's end too.
    ///
    /// # Errors
    /// When it exits with other than 0, or does not answer in time.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        self.run(command).map_err(|e| self.with_console(&*e).into())
    }

    /// Waits until the machine has what it should have.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn converged(&mut self) -> Result {
        self.wait_for_shell()?;
        self.ok("initctl wait --converged --timeout 100s").map(drop)
    }

    /// As [`Qemu::converged`], when the shell is there already.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn converged_again(&mut self) -> Result {
        self.ok("initctl wait --converged --timeout 100s").map(drop)
    }

    /// Waits until a command of the machine succeeds; it is tried again and again.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn until(&mut self, command: &str) -> Result {
        self.ok(&format!("timeout 60 sh -c {}", quoted(&format!("until {command}; do sleep 0.2; done"))))
            .map(drop)
    }

    /// Waits until a unit is in this state, also one that is not known yet.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub fn until_state(&mut self, unit: &str, state: &str) -> Result {
        self.until(&format!("initctl --json status {unit} 2>&1 | grep -q '\"state\":\"{state}\"'"))
    }

    /// Asks for `poweroff`, `reboot` or `halt`, and does not wait for it.
    ///
    /// # Errors
    /// When the shell's console is closed.
    pub fn type_power(&mut self, verb: &str) -> Result {
        self.second.send(&format!("initctl {verb}\n"))
    }

    /// Types a command at the shell, and waits for nothing.
    ///
    /// # Errors
    /// When the shell's console is closed.
    pub fn type_command(&mut self, command: &str) -> Result {
        self.second.send(&format!("{command}\n"))
    }

    /// Has the machine switch itself off, and waits for that.
    ///
    /// # Errors
    /// When it does not.
    pub fn power_off(&mut self) -> Result {
        self.type_power("poweroff")?;
        self.wait_for_power_off()
    }

    /// Every unit as `initctl --json status` tells it, or one.
    ///
    /// # Errors
    /// When the answer is no JSON.
    pub fn units(&mut self, unit: &str) -> Result<Vec<Value>> {
        let said = self.answer(&format!("initctl --json status {unit}"))?.output;
        let start = said.find('{').unwrap_or_default();
        let value: Value = serde_json::from_str(said.get(start..).unwrap_or_default())
            .map_err(|e| format!("status {unit} is no JSON ({e}): {said}"))?;
        Ok(value.get("units").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// One unit's status.
    ///
    /// # Errors
    /// When there is no such unit.
    pub fn unit(&mut self, unit: &str) -> Result<Value> {
        let found = self.units(unit)?.into_iter().next();
        found.ok_or_else(|| format!("no status of {unit}").into())
    }

    /// Every resource whose outcome is something else than `kept`: unit and outcome.
    ///
    /// # Errors
    /// As [`Qemu::units`].
    pub fn not_just_kept(&mut self) -> Result<Vec<String>> {
        let word = |unit: &Value, key: &str| unit.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let all = self.units("")?.into_iter().map(|u| (word(&u, "unit"), word(&u, "outcome")));
        let told = all.filter(|(_, outcome)| !outcome.is_empty() && outcome != "kept");
        Ok(told.map(|(unit, outcome)| format!("{unit} {outcome}")).collect())
    }

    /// The tree below a directory of the machine, a line a fact.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tree(&mut self, directory: &str) -> Result<String> {
        self.ok(&format!("treelist {directory}"))
    }
}

/// A word of the shell's.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What a superblock says, as `dumpe2fs -h` prints it.
///
/// # Errors
/// When there is no ext4 on the disk.
pub fn superblock(disk: &Path) -> Result<String> {
    Ok(tool::text("read a superblock", tool::command("dumpe2fs").arg("-h").arg(disk))?)
}

/// Whether a disk was let go of in order: nothing to recover, and nothing that a check would mend.
///
/// # Errors
/// When it was not.
pub fn left_clean(disk: &Path) -> Result {
    let told = superblock(disk)?;
    let clean = told.lines().any(|l| l.starts_with("Filesystem state:") && l.trim_end().ends_with("clean"));
    if told.contains("needs_recovery") || !clean || told.contains("clean with errors") {
        return Err(format!("the disk was not left clean:\n{told}").into());
    }
    let mut check: Command = tool::command("e2fsck");
    check.args(["-f", "-n"]).arg(disk);
    tool::run("check a disk", &mut check)?;
    Ok(())
}

/// The first sector in which the content of a file lies, by its path on the disk.
///
/// # Errors
/// When there is no such file, or it has no content.
pub fn sector(disk: &Path, path: &str) -> Result<u64> {
    let mut ask = tool::command("debugfs");
    let told = tool::text("find a file's blocks", ask.args(["-R", &format!("blocks {path}")]).arg(disk))?;
    let block: u64 =
        told.split_whitespace().next().ok_or_else(|| format!("{path} has no blocks"))?.parse()?;
    let told = superblock(disk)?;
    let size = told.lines().find_map(|l| l.strip_prefix("Block size:")).ok_or("no block size")?;
    Ok(block * (size.trim().parse::<u64>()? / 512))
}

/// Damages the file system of a disk by requests of debugfs(8).
///
/// # Errors
/// When it cannot be written.
pub fn damage(disk: &Path, requests: &[&str]) -> Result {
    for request in requests {
        tool::run("damage a disk", tool::command("debugfs").args(["-w", "-R", request]).arg(disk))?;
    }
    Ok(())
}

/// Fails unless something holds.
///
/// # Errors
/// With `what`, when it does not.
pub fn demand(holds: bool, what: impl Into<String>) -> Result {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// Fails unless two texts are the same; shows the first lines that differ.
///
/// # Errors
/// With `what` and those lines.
pub fn same(what: &str, wanted: &str, found: &str) -> Result {
    if wanted == found {
        return Ok(());
    }
    let only = |a: &str, b: &str, sign: char| -> Vec<String> {
        let other: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|l| !other.contains(l)).take(20).map(|l| format!("{sign} {l}")).collect()
    };
    let mut lines = only(wanted, found, '-');
    lines.extend(only(found, wanted, '+'));
    Err(format!("{what}:\n{}", lines.join("\n")).into())
}
