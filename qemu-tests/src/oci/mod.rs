//! Containers under runc, as a container manager starts them: a root file system from Debian packages, Docker's
//! capabilities and masked paths, and on request its system call filter, a read-only root, another user, a terminal.
//!
//! A container ends with the test process, however that ends: a guard waits for the end of a pipe and removes it.

mod config;
pub mod probe;
mod running;
mod terminal;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use initramfs::tool::{self, Tool};

use crate::Result;
use crate::context::Context;
use crate::rig::{self, Said};
pub use config::Spec;
pub use running::{Running, Stream};
pub use terminal::Terminal;

/// What containers need on the host.
pub const TOOLS: &[Tool] =
    &[Tool { program: "runc", package: "runc" }, Tool { program: "cpio", package: "cpio" }];
/// The image of the example, which is every container's root.
const IMAGE: &str = "examples/container/image.toml";
/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Where the test program itself lies in a container; see [`probe`].
pub const PROBE: &str = "/run/probe";

/// The example's root file system, unpacked. It is shared by all containers: give it to them read-only, or see
/// [`writable_root`].
///
/// # Errors
/// When the image cannot be built or unpacked.
pub fn root(context: &Context) -> Result<PathBuf> {
    tool::ensure(TOOLS)?;
    let image = context.image(IMAGE)?;
    unpacked(&context.scratch("container-root"), &image.initramfs)
}

/// A copy of the root that one container may write to. Regular files are hard links: what replaces a file by rename,
/// as packages and Holdfast do, leaves the other copies alone.
///
/// # Errors
/// When it cannot be copied.
pub fn writable_root(root: &Path) -> Result<tempfile::TempDir> {
    let parent = root.parent().ok_or("the root has no parent")?;
    let copy = tempfile::Builder::new().prefix("container-root-").tempdir_in(parent)?;
    let mut command = Command::new("cp");
    command.args(["-al", "--no-target-directory"]).arg(root).arg(copy.path());
    tool::run("copy the root", &mut command)?;
    Ok(copy)
}

/// Unpacks an archive once for each content that it has.
///
/// # Errors
/// When cpio(1) fails, or the directory cannot be written.
pub fn unpacked(place: &Path, archive: &Path) -> Result<PathBuf> {
    fs::create_dir_all(place)?;
    // Scenarios run in processes of their own and share the root.
    let alone = fs::File::create(place.join("lock"))?;
    alone.lock()?;
    // The archive is replaced by rename when something in it changes.
    let about = fs::metadata(archive)?;
    let root = place.join(format!("{}-{}", about.ino(), about.mtime_nsec()));
    if root.exists() {
        return Ok(root);
    }
    for old in fs::read_dir(place)?.flatten().filter(|e| e.path().is_dir()) {
        fs::remove_dir_all(old.path())?;
    }
    let unfinished = place.join("unfinished");
    fs::create_dir_all(&unfinished)?;
    let mut unpack = tool::command("cpio");
    unpack.args(["--extract", "--make-directories", "--quiet"]).current_dir(&unfinished);
    let status = unpack.stdin(fs::File::open(archive)?).status()?;
    if !status.success() {
        return Err(format!("cannot unpack {}: cpio: {status}", archive.display()).into());
    }
    fs::set_permissions(&unfinished, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// tini and dumb-init, for comparison; a directory that can be mounted into a container.
///
/// # Errors
/// When the packages are not to be had.
pub fn peers(context: &Context) -> Result<PathBuf> {
    let place = context.scratch("container-peers");
    fs::create_dir_all(&place)?;
    let image = place.join("image.toml");
    let text = "suite = \"bookworm\"\nbase = \"unpacked\"\nprograms = false\ncompression = \"none\"\n\
                packages = [\"dumb-init\", \"tini\"]\n";
    if fs::read_to_string(&image).ok().as_deref() != Some(text) {
        let _ = fs::remove_file(place.join("image.lock"));
        fs::write(&image, text)?;
    }
    let image = context.image_at(&image, "container-peers")?;
    Ok(unpacked(&context.scratch("container-peers-root"), &image.initramfs)?.join("usr/bin"))
}

/// A container that has been prepared, and can be run.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: tempfile::TempDir,
    guard: Child,
}

impl Container {
    /// Prepares a container with this root.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(root: &Path, spec: &Spec<'_>) -> Result<Container> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("holdfast-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bundle = tempfile::Builder::new().prefix(&format!("{id}-")).tempdir()?;
        let config = config::render(root, &id, spec)?;
        fs::write(bundle.path().join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        let guard = guard(bundle.path(), &id)?;
        Ok(Container { id, bundle, guard })
    }

    fn runc(&self) -> Command {
        let mut command = tool::command("runc");
        command.arg("--root").arg(self.bundle.path().join("state"));
        command
    }

    fn run_command(&self) -> Command {
        let mut command = self.runc();
        command.args(["run", "--bundle"]).arg(self.bundle.path()).arg(&self.id).stdin(Stdio::null());
        command
    }

    /// Runs the container to its end.
    ///
    /// # Errors
    /// When runc cannot be run, or it takes too long.
    pub fn run(&self) -> Result<Said> {
        rig::run(self.run_command())
    }

    /// Starts the container; its lines can be read as they come.
    ///
    /// # Errors
    /// When runc cannot be run.
    pub fn start(&self) -> Result<Running> {
        Running::of(self.run_command())
    }

    /// Starts the container with a terminal.
    ///
    /// # Errors
    /// When runc fails, or hands no terminal over.
    pub fn start_with_terminal(&self) -> Result<Terminal> {
        let mut command = self.runc();
        command.args(["run", "--detach", "--bundle"]).arg(self.bundle.path());
        let pid_file = self.bundle.path().join("pid");
        command.arg("--pid-file").arg(&pid_file);
        let socket = self.bundle.path().join("console");
        command.arg("--console-socket").arg(&socket).arg(&self.id);
        Terminal::open(&socket, command, &pid_file)
    }

    /// The pid of the container's first process on the host.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<i32> {
        let said = tool::text("ask for the container's state", self.runc().args(["state", &self.id]))?;
        let state: serde_json::Value = serde_json::from_str(&said)?;
        let pid = state.get("pid").and_then(serde_json::Value::as_i64).filter(|p| *p > 0);
        Ok(i32::try_from(pid.ok_or_else(|| format!("the container does not run: {state}"))?)?)
    }

    /// Runs a further command in the running container.
    ///
    /// # Errors
    /// When runc cannot be run, or it takes too long.
    pub fn exec(&self, words: &[&str]) -> Result<Said> {
        let mut command = self.runc();
        command.args(["exec", &self.id]).args(words).stdin(Stdio::null());
        rig::run(command)
    }

    /// Sends the container's first process a signal, the way that `docker stop` does.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self, signal: &str) -> Result {
        tool::run("signal the container", self.runc().args(["kill", &self.id, signal]))?;
        Ok(())
    }

    /// A directory of the container's own, on the host.
    pub fn directory(&self) -> &Path {
        self.bundle.path()
    }
}

/// Removes the container once the pipe to it closes. A process group of its own, so that what kills the test's group
/// does not kill it first.
fn guard(bundle: &Path, id: &str) -> Result<Child> {
    let runc = tool::find("runc").ok_or("runc is missing")?;
    let mut command = Command::new("sh");
    command.args(["-c", "read -r end; \"$1\" --root \"$2\" delete --force \"$3\"; rm -rf \"$4\"", "sh"]);
    command.arg(runc).arg(bundle.join("state")).arg(id).arg(bundle);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    Ok(command.spawn()?)
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
