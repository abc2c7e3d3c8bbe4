//! What scenarios share: the programs, built once; images, built when something in them changed; and how QEMU makes
//! its processor here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use initramfs::apt::hex;
use initramfs::tool::{self, Tool};

use crate::Result;
use crate::qemu::{Accelerator, Machine};

/// Name of the lock file that an image is built with when its own cannot be had any more.
const CURRENT_LOCK: &str = "current.lock";

/// Under which name an image of the repository is kept.
fn name_of(image: &str) -> String {
    image.trim_end_matches(".toml").replace('/', "-")
}

/// What booting a machine needs.
pub const QEMU: &[Tool] = &[Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" }];

/// A built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Context {
    workspace: PathBuf,
    /// Where cargo puts results, such as `target/x86_64-unknown-linux-gnu`.
    output: PathBuf,
    /// Whether scenarios take their large counts.
    pub full: bool,
    programs: OnceLock<std::result::Result<PathBuf, String>>,
    accelerator: OnceLock<Accelerator>,
    images: Mutex<BTreeMap<PathBuf, Image>>,
}

impl Context {
    /// Finds the workspace from where this was built.
    ///
    /// # Errors
    /// When the running program does not lie in cargo's directory.
    pub fn new(full: bool) -> Result<Context> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?.to_path_buf();
        let exe = std::env::current_exe()?;
        let output = exe
            .ancestors()
            .find(|d| d.join("debug").is_dir() || d.join("image").is_dir() || d.join("release").is_dir())
            .ok_or_else(|| format!("{} is not where cargo builds", exe.display()))?
            .to_path_buf();
        Ok(Context {
            workspace,
            output,
            full,
            programs: OnceLock::new(),
            accelerator: OnceLock::new(),
            images: Mutex::new(BTreeMap::new()),
        })
    }

    /// The root of the repository.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// A directory for results that may be thrown away, below cargo's.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.output.join("holdfast").join(name)
    }

    /// The directory with `init`, `initctl` and `cm-worker`, built for images at the first call.
    ///
    /// # Errors
    /// When they do not build.
    pub fn programs(&self) -> Result<&Path> {
        let built = self.programs.get_or_init(|| {
            // A scenario's process gets them from the runner, which has built them.
            if let Some(built) = std::env::var_os("HOLDFAST_PROGRAMS") {
                return Ok(PathBuf::from(built));
            }
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.current_dir(&self.workspace).args(["build", "--quiet", "--profile", "image"]);
            // Everything for the same place that this program lies in.
            if let Some(target) = self.output.parent() {
                cargo.arg("--target-dir").arg(target);
            }
            for (name, _) in initramfs::holdfast::PROGRAMS {
                cargo.args(["--bin", name]);
            }
            match cargo.status() {
                Ok(status) if status.success() => Ok(self.output.join("image")),
                Ok(status) => Err(format!("cannot build Holdfast's programs: cargo: {status}")),
                Err(e) => Err(format!("cannot run cargo: {e}")),
            }
        });
        match built {
            Ok(path) => Ok(path),
            Err(e) => Err(e.clone().into()),
        }
    }

    /// The image that `image.toml` describes (a path in the repository). It is built again only when the image file,
    /// anything beside it, or a program changed.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn image(&self, image: &str) -> Result<Image> {
        let path = self.workspace.join(image);
        self.image_at(&path, &name_of(image))
    }

    /// The lock file that stands in for the image's own since an archive dropped a version that it names; none while its
    /// own can be had.
    pub fn current_lock(&self, image: &str) -> Option<PathBuf> {
        Some(self.scratch("images").join(name_of(image)).join(CURRENT_LOCK)).filter(|p| p.exists())
    }

    /// As [`Context::image`], for an image file anywhere, kept under `name`.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn image_at(&self, path: &Path, name: &str) -> Result<Image> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get(path) {
            return Ok(image.clone());
        }
        let out = self.scratch("images").join(name);
        std::fs::create_dir_all(&out)?;
        // Scenarios run in processes of their own and share images.
        let alone = std::fs::File::create(out.join("lock"))?;
        alone.lock()?;
        let spec = initramfs::spec::Spec::read(path)?;
        let programs = if spec.programs { self.programs()?.to_path_buf() } else { PathBuf::new() };
        let mut parts = vec![env!("CARGO_PKG_VERSION").to_owned()];
        fingerprint(path.parent().unwrap_or(Path::new(".")), &mut parts)?;
        if spec.programs {
            for (program, _) in initramfs::holdfast::PROGRAMS {
                parts.push(initramfs::apt::digest(&programs.join(program))?);
            }
        }
        // The builder too: this program has it linked in.
        parts.push(initramfs::apt::digest(&std::env::current_exe()?)?);
        let key = hex(parts.join("\n").as_bytes());
        let stamp = out.join("stamp");
        let (kernel, initramfs) = (out.join("vmlinuz"), out.join("initramfs.img"));
        let kernel_wanted = spec.kernel.is_some();
        let fresh = std::fs::read_to_string(&stamp).is_ok_and(|s| s == key)
            && initramfs.exists()
            && (!kernel_wanted || kernel.exists());
        if !fresh {
            self.build(path, &out, programs)?;
            std::fs::write(&stamp, &key)?;
        }
        let image = Image { kernel: kernel_wanted.then_some(kernel), initramfs };
        images.insert(path.to_path_buf(), image.clone());
        Ok(image)
    }

    fn build(&self, path: &Path, out: &Path, programs: PathBuf) -> Result {
        let _ = std::fs::remove_file(out.join(CURRENT_LOCK));
        let mut request = initramfs::Request {
            image: path.to_path_buf(),
            out: out.to_path_buf(),
            lock: None,
            update_lock: false,
            cache: self.cache(),
            programs,
        };
        match initramfs::build(&request) {
            Err(e @ initramfs::Error::Gone { .. }) => {
                // An archive keeps few old versions. The committed lock file stays as it is; what follows tests
                // current versions, and says so.
                eprintln!("{e}\ngoing on with current versions; the lock file is left as it is");
                request.lock = Some(out.join(CURRENT_LOCK));
                request.update_lock = true;
                initramfs::build(&request)?;
                Ok(())
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Where downloads are kept.
    pub fn cache(&self) -> PathBuf {
        match std::env::var_os("XDG_CACHE_HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home).join("holdfast"),
            _ => self.output.parent().unwrap_or(&self.output).join("holdfast-cache"),
        }
    }

    /// A machine with this image, not yet started.
    ///
    /// # Errors
    /// When QEMU is missing and cannot be installed.
    pub fn machine(&self, image: &Image) -> Result<Machine> {
        tool::ensure(QEMU)?;
        Ok(Machine::new(image, self.accelerator(image)))
    }

    /// KVM where a guest really boots with it (it may be there and not work, as in some virtual machines), else
    /// emulation. `HOLDFAST_ACCEL=kvm|tcg` decides without a trial.
    pub fn accelerator(&self, image: &Image) -> Accelerator {
        *self.accelerator.get_or_init(|| match std::env::var("HOLDFAST_ACCEL").as_deref() {
            Ok("kvm") => Accelerator::Kvm,
            Ok("tcg") => Accelerator::Tcg,
            _ if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() => {
                Accelerator::Tcg
            }
            _ => self.remembered_trial(image),
        })
    }

    /// The trial takes seconds, so its outcome is kept for as long as the host runs.
    fn remembered_trial(&self, image: &Image) -> Accelerator {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let note = self.scratch("accelerator");
        match std::fs::read_to_string(&note).ok().as_deref().and_then(|n| n.strip_prefix(boot.as_str())) {
            Some("kvm") => return Accelerator::Kvm,
            Some("tcg") => return Accelerator::Tcg,
            _ => {}
        }
        let trial = Machine::new(image, Accelerator::Kvm).append("loglevel=7 ignore_loglevel").start();
        let works = trial.is_ok_and(|mut m| m.console.expect("Memory:", Duration::from_secs(4)).is_ok());
        let (found, word) = if works { (Accelerator::Kvm, "kvm") } else { (Accelerator::Tcg, "tcg") };
        if let Some(parent) = note.parent() {
            let _ = std::fs::create_dir_all(parent);
        }
        let _ = std::fs::write(&note, format!("{boot}{word}"));
        found
    }
}

/// Names, kinds and contents of all files in a directory, in a fixed order.
fn fingerprint(directory: &Path, parts: &mut Vec<String>) -> Result {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        parts.push(path.to_string_lossy().into_owned());
        let about = std::fs::symlink_metadata(&path)?;
        if about.is_dir() {
            fingerprint(&path, parts)?;
        } else if about.is_file() {
            use std::os::unix::fs::PermissionsExt;
            parts.push(format!("{:o} {}", about.permissions().mode(), initramfs::apt::digest(&path)?));
        } else {
            parts.push(std::fs::read_link(&path)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
