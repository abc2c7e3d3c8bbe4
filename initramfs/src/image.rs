//! The whole way from `image.toml` to a kernel and an initramfs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt::{Apt, hex};
use crate::error::Error;
use crate::lock::Lock;
use crate::spec::{Base, Compression, Spec};
use crate::tree::{Node, Tree};
use crate::{cpio, holdfast, kernel, root, state, tool};

/// What to build, from what, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image file.
    pub image: PathBuf,
    /// Directory of the results; made when missing.
    pub out: PathBuf,
    /// The lock file; `image.lock` beside the image file without.
    pub lock: Option<PathBuf>,
    /// Whether current versions are chosen and locked anew.
    pub update_lock: bool,
    /// Where downloads and installed roots are kept; see [`cache`].
    pub cache: PathBuf,
    /// Where cargo put Holdfast's programs.
    pub programs: PathBuf,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The kernel, if the image has one.
    pub kernel: Option<PathBuf>,
    /// Its release.
    pub release: Option<String>,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// SHA-256 of the initramfs, in hexadecimal.
    pub digest: String,
    /// Bytes of all files in it, unpacked.
    pub unpacked: u64,
}

/// The usual place for downloads: `$XDG_CACHE_HOME/holdfast`, else `target/holdfast-cache` here.
pub fn cache() -> PathBuf {
    match std::env::var_os("XDG_CACHE_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home).join("holdfast"),
        _ => PathBuf::from("target/holdfast-cache"),
    }
}

/// Builds an image.
///
/// # Errors
/// When an input is wrong, a package is not to be had, or a tool fails.
pub fn build(request: &Request) -> Result<Built, Error> {
    let (spec, wrong) = Spec::look(&request.image)?;
    // What takes no download first.
    let state = spec.state.as_ref().map_or(Ok(()), |wanted| state::check(&request.image, wanted));
    match (wrong, state) {
        (None, state) => state?,
        (Some(wrong), Ok(())) => return Err(wrong),
        (Some(wrong), Err(state)) => return Err(wrong.and(state)),
    }
    fs::create_dir_all(&request.cache).map_err(Error::io("create", &request.cache))?;
    let cache = fs::canonicalize(&request.cache).map_err(Error::io("read", &request.cache))?;
    fs::create_dir_all(&request.out).map_err(Error::io("create", &request.out))?;
    let packages = !spec.packages.is_empty() || spec.base == Base::Debian || spec.kernel.is_some();
    let mut tree = Tree::new();
    let mut kernel = None;
    if packages {
        tool::ensure(tool::BUILD)?;
        let _alone = alone(&cache)?;
        let extra: Vec<String> = spec.kernel.iter().flat_map(|k| k.suites.clone()).collect();
        let apt = Apt::open(&cache, &spec.suite, &extra)?;
        let lock = locked(request, &spec, &apt)?;
        // ORDER: before the root, which takes longer, since modules may be misspelled.
        if let (Some(package), Some(wanted)) = (&lock.kernel, &spec.kernel) {
            let scratch = cache.join(format!("modules-{}", std::process::id()));
            kernel = Some(kernel::extract(&apt.archive(package), package, &wanted.modules, &scratch)?);
            let _ = fs::remove_dir_all(&scratch);
        }
        tree = match spec.base {
            Base::Debian => root::debian(&apt, &spec.suite, &lock.packages, &cache)?,
            Base::Unpacked => root::unpacked(&apt, &lock.packages)?,
        };
    }
    root::clean(&mut tree, &spec.remove)?;
    if let Some(kernel) = &kernel {
        tree.extend(kernel.modules.clone())?;
    }
    let beside = request.image.parent().unwrap_or(Path::new("."));
    for (path, file) in &spec.files {
        match (&file.source, &file.content) {
            (Some(source), _) => holdfast::copy(&mut tree, &beside.join(source), path, file.mode)?,
            (None, Some(text)) => {
                tree.insert(path, Node::file(text.clone().into_bytes(), file.mode.unwrap_or(0o644)))?
            }
            (None, None) => {}
        }
    }
    for (path, target) in &spec.symlinks {
        tree.insert(path, Node::new(crate::tree::Kind::Symlink(target.clone()), 0o777))?;
    }
    if spec.programs {
        holdfast::programs(&mut tree, &request.programs)?;
    }
    if let Some(wanted) = &spec.state {
        state::install(&mut tree, &request.image, wanted)?;
    }
    let initramfs = request.out.join("initramfs.img");
    let digest = pack(&tree, spec.compression, &initramfs)?;
    let mut built = Built { kernel: None, release: None, initramfs, digest, unpacked: tree.size() };
    if let Some(kernel) = kernel {
        let path = request.out.join("vmlinuz");
        fs::write(&path, &kernel.image).map_err(Error::io("write", &path))?;
        built.kernel = Some(path);
        built.release = Some(kernel.release);
    }
    Ok(built)
}

/// Two builds at once would fetch into the same directory.
fn alone(cache: &Path) -> Result<fs::File, Error> {
    let path = cache.join("lock");
    let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
    file.lock().map_err(Error::io("lock", &path))?;
    Ok(file)
}

fn locked(request: &Request, spec: &Spec, apt: &Apt) -> Result<Lock, Error> {
    let path = request.lock.clone().unwrap_or_else(|| request.image.with_extension("lock"));
    let wanted = spec.request();
    let lock = match (Lock::read(&path)?, request.update_lock) {
        (Some(lock), false) if lock.request == wanted => lock,
        (Some(_), false) => {
            let message = format!(
                "it was made for other packages than {} asks for; choose anew with: --update-lock",
                request.image.display()
            );
            return Err(Error::input(&path, message));
        }
        _ => {
            apt.update()?;
            let index = apt.index()?;
            let packages = match spec.base {
                Base::Debian => apt.resolve(&spec.packages, &index)?,
                Base::Unpacked => apt.newest(&spec.packages, &index)?,
            };
            let kernel =
                spec.kernel.as_ref().map(|k| apt.kernel(&k.package, &k.suites, &index)).transpose()?;
            let lock = Lock { request: wanted, kernel, packages };
            fs::write(&path, lock.render()).map_err(Error::io("write", &path))?;
            lock
        }
    };
    let all: Vec<_> = lock.packages.iter().chain(&lock.kernel).cloned().collect();
    apt.fetch(&all, &path)?;
    Ok(lock)
}

fn pack(tree: &Tree, compression: Compression, path: &Path) -> Result<String, Error> {
    let mut archive = Vec::new();
    cpio::write(tree, &mut archive).map_err(Error::io("write", path))?;
    let bytes = match compression {
        Compression::None => archive,
        Compression::Zstd => zstd(archive)?,
    };
    // Written whole and renamed: a QEMU that boots the one before keeps it.
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, &bytes).map_err(Error::io("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::io("rename", path))?;
    Ok(hex(&bytes))
}

/// One thread, no name and no time in the frame: the same bytes everywhere.
fn zstd(archive: Vec<u8>) -> Result<Vec<u8>, Error> {
    tool::ensure(tool::BUILD)?;
    let failed =
        |cause: String| Error::Tool { purpose: "compress".to_owned(), program: "zstd".to_owned(), cause };
    let mut child: std::process::Child = Command::new("zstd")
        .args(["--quiet", "-6", "--single-thread", "--no-check", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut stdin = child.stdin.take().ok_or_else(|| failed("no standard input".to_owned()))?;
    let feed = std::thread::spawn(move || stdin.write_all(&archive));
    let out = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    match (feed.join(), out.status.success()) {
        (Ok(Ok(())), true) => Ok(out.stdout),
        _ => Err(failed(out.status.to_string())),
    }
}
