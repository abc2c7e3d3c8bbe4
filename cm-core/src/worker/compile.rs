//! The compiler: parses what people wrote, as a user that nobody else is, in a process that can open nothing.
//!
//! ```text
//! worker ──┬─ opener    the caller's user and groups; opens what the state files name, and nothing else
//!          │    ▲ path        │ descriptor, or a list of names
//!          │    │             ▼
//!          └─ compiler  a user of its own, no capabilities, Landlock: writes below its staging directory, reads
//!                       nothing; no sockets, no programs; 60 s and 1 GiB
//! ```
//!
//! Contents are staged under their digest. Nobody trusts the names: who moves them into the store reads them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use units::diagnostic;
use units::kept::{Kept, Stored};
use units::kind::Content;
use units::layer::MAIN;
use units::load::{Entry, EntryKind, LoadError, Loader};
use units::manifest::Manifest;
use units::stack::{self, Stacked};

use super::channel::{self, Channel};
use super::confine;
use super::opener::open_sources;
use super::rights::another_user;
use crate::proto::LayerChange;
use crate::store::pack::{self, Packer};
use crate::store::{Digest, Progress, hex};
use crate::sys::{self, Forked, fork};

/// Largest source that is read into memory at once.
const MAX_SOURCE: u64 = 64 << 20;
/// Memory that the compiler may have.
const MEMORY: u64 = 1 << 30;
/// Seconds of processor time that the compiler may have.
const SECONDS: u64 = 60;

/// What to compile, and for whom.
#[derive(Debug)]
pub struct Job {
    /// Path of the entry file.
    pub entry: String,
    /// Its content, where it came as a descriptor.
    pub input: Option<OwnedFd>,
    /// Whose rights count.
    pub uid: u32,
    /// And which group's.
    pub gid: u32,
    /// Where contents are staged; made anew.
    pub staging: PathBuf,
    /// Which layer it is.
    pub layer: LayerChange,
    /// Layers that are compiled with it.
    pub others: Vec<(String, Kept)>,
}

impl Job {
    /// A state that is all there is: the layer `main` alone.
    pub fn alone(entry: String, input: Option<OwnedFd>, (uid, gid): (u32, u32), staging: PathBuf) -> Job {
        let layer = LayerChange { name: MAIN.to_owned(), remove: false };
        Job { entry, input, uid, gid, staging, layer, others: Vec::new() }
    }

    /// What messages call it.
    fn subject(&self) -> String {
        if self.layer.remove {
            format!("the state without layer {}", self.layer.name)
        } else {
            self.entry.clone()
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Compiled {
    /// Number of units, or the first diagnostics as text.
    pub result: Result<u32, String>,
    /// The sealed manifest; or the diagnostics as JSON.
    pub fd: OwnedFd,
    /// Every diagnostic as JSON, warnings too.
    pub diagnostics: Vec<diagnostic::Located>,
    /// The sources that were opened.
    pub sources: Vec<String>,
    /// The layer, as it is kept; empty where it goes, and where there are mistakes.
    pub layer: Vec<u8>,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No staging directory.
    #[error("cannot make staging directory {}: {source}", path.display())]
    Staging {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No process.
    #[error("cannot start the compiler: {0}")]
    Start(io::Error),
    /// There is no place for the contents, or for the manifest.
    #[error("cannot stage contents: {0}")]
    Stage(String),
    /// The compiler died.
    #[error(
        "cannot compile {entry}: the compiler ended with {status}; it may use {SECONDS} s and {} MiB",
        MEMORY >> 20
    )]
    Died {
        /// What it worked on.
        entry: String,
        /// How it ended.
        status: String,
    },
    /// What it left cannot be read.
    #[error("cannot read what the compiler made: {0}")]
    Output(String),
}

impl CompileError {
    /// Whether the state is to blame, which asks for more than the compiler may use, and not the machine.
    pub fn is_of_the_state(&self) -> bool {
        matches!(self, CompileError::Died { .. })
    }
}

impl From<nix::Error> for CompileError {
    fn from(e: nix::Error) -> CompileError {
        CompileError::Start(e.into())
    }
}

/// What the compiler asks the opener.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A state file, or another text of the state, to be read.
    Text(String),
    /// A source, to be staged.
    File(String),
    /// The names in a directory.
    List(String),
}

/// What the opener answers; the descriptor is beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Opened,
    NotFound,
    Other(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    pub name: String,
    pub kind: u8,
    pub target: String,
    pub mode: u32,
}

/// What the compiler leaves behind beside the manifest.
#[derive(Debug, Serialize, Deserialize)]
struct Paper {
    result: Result<u32, String>,
    /// As JSON.
    diagnostics: Vec<u8>,
    /// What kept contents from being staged: no mistake of the state file's.
    unstaged: Option<String>,
}

/// What the two processes leave behind.
struct Left {
    /// What the confined one says.
    paper: File,
    /// What it made.
    output: File,
    /// The layer that it was made of.
    layer: File,
    /// The sources that were opened.
    sources: Vec<String>,
}

/// What the confined process writes.
struct Made<'a> {
    manifest: &'a mut File,
    layer: &'a mut File,
    paper: &'a mut File,
}

/// Has `work` done as the compiler's user, in a process that can open nothing, with a door to what the caller may read.
fn apart(
    job: &Job,
    progress: &Progress,
    work: impl FnOnce(Channel, &File, &mut Made<'_>) -> i32,
) -> Result<Left, CompileError> {
    let staging = staging(&job.staging)
        .map_err(|source| CompileError::Staging { path: job.staging.clone(), source })?;
    let memory =
        |name: &str| memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map(File::from);
    let (mut paper, mut output, mut opened) = (memory("paper")?, memory("manifest")?, memory("sources")?);
    let mut layer = memory("layer")?;
    let (to_opener, to_compiler) = channel::pair().map_err(CompileError::Start)?;
    let opener = match fork()? {
        Forked::Child => {
            let input = job.input.as_ref().map_or(2, AsRawFd::as_raw_fd);
            sys::close_others(&[to_compiler.as_raw_fd(), opened.as_raw_fd(), input]);
            let code = open_sources(job, Channel::new(to_compiler), &mut opened);
            sys::leave(code)
        }
        Forked::Parent(pid) => pid,
    };
    drop(to_compiler);
    let (ends, lives) = channel::pair().map_err(CompileError::Start)?;
    let compiler = match fork()? {
        Forked::Child => {
            sys::close_others(&[
                to_opener.as_raw_fd(),
                staging.as_raw_fd(),
                output.as_raw_fd(),
                paper.as_raw_fd(),
                layer.as_raw_fd(),
                lives.as_raw_fd(),
            ]);
            let code = match confine_compiler(&staging) {
                Ok(()) => {
                    let mut made = Made { manifest: &mut output, layer: &mut layer, paper: &mut paper };
                    work(Channel::new(to_opener), &staging, &mut made)
                }
                Err(e) => {
                    eprintln!("cm-worker: {e}");
                    2
                }
            };
            sys::leave(code)
        }
        Forked::Parent(pid) => pid,
    };
    drop((to_opener, lives));
    attend(compiler, &ends, progress);
    let ended = wait(compiler)?;
    // Its peer is gone, so the opener ends too.
    wait(opener)?;
    let mut sources = String::new();
    opened
        .seek(SeekFrom::Start(0))
        .and_then(|_| opened.read_to_string(&mut sources))
        .and_then(|_| paper.seek(SeekFrom::Start(0)))
        .map_err(output_error)?;
    if !matches!(ended, WaitStatus::Exited(_, 0)) {
        let status = match ended {
            WaitStatus::Exited(_, code) => format!("code {code}"),
            WaitStatus::Signaled(_, signal, _) => signal.to_string(),
            other => format!("{other:?}"),
        };
        return Err(CompileError::Died { entry: job.subject(), status });
    }
    Ok(Left { paper, output, layer, sources: sources.lines().map(str::to_owned).collect() })
}

fn output_error(e: io::Error) -> CompileError {
    CompileError::Output(e.to_string())
}

/// Has people's text read the way that state files are compiled: by a user who can open nothing else than what the
/// caller may. What comes back is not to be trusted either.
///
/// # Errors
/// When no process can be made, or it died.
pub fn read_apart(job: &Job, read: impl FnOnce(&mut dyn Loader) -> Vec<u8>) -> Result<Vec<u8>, CompileError> {
    let mut left = apart(job, &Progress::default(), |channel, staging, made| {
        let bytes = read(&mut Sources::new(channel, staging, &job.staging));
        i32::from(made.paper.write_all(&bytes).is_err())
    })?;
    let mut bytes = Vec::new();
    left.paper.read_to_end(&mut bytes).map_err(output_error)?;
    Ok(bytes)
}

/// Compiles a state file in processes of their own; `progress` is told while that goes on.
///
/// # Errors
/// When no process can be made, or the compiler died. Mistakes in the state file are no error but a result.
pub fn compile(job: &Job, progress: &Progress) -> Result<Compiled, CompileError> {
    let left = apart(job, progress, |channel, staging, made| work(job, channel, staging, made))?;
    let Left { mut paper, output, mut layer, sources } = left;
    let mut bytes = Vec::new();
    paper.read_to_end(&mut bytes).map_err(output_error)?;
    let paper: Paper = postcard::from_bytes(&bytes).map_err(|e| CompileError::Output(e.to_string()))?;
    let diagnostics =
        serde_json::from_slice(&paper.diagnostics).map_err(|e| CompileError::Output(e.to_string()))?;
    if let Some(text) = paper.unstaged {
        return Err(CompileError::Stage(text));
    }
    if let Err(text) = paper.result {
        let file = sealed("diagnostics", &paper.diagnostics).map_err(output_error)?;
        return Ok(Compiled { result: Err(text), fd: file.into(), diagnostics, sources, layer: Vec::new() });
    }
    seal(&output).map_err(output_error)?;
    // It comes from a process that has read what people wrote: every offset and the digest are checked.
    let mapping = sys::Mapping::sealed(&output).map_err(output_error)?;
    let manifest =
        Manifest::parse(std::sync::Arc::new(mapping)).map_err(|e| CompileError::Output(e.to_string()))?;
    if !manifest.verify_digest() {
        return Err(CompileError::Output("its digest is wrong".to_owned()));
    }
    let mut bytes = Vec::new();
    layer.seek(SeekFrom::Start(0)).and_then(|_| layer.read_to_end(&mut bytes)).map_err(output_error)?;
    Ok(Compiled { result: paper.result, fd: output.into(), diagnostics, sources, layer: bytes })
}

/// Stays until a process ends, which has the other end of a socket, and tells that it goes on while it reads or writes: large
/// contents and a slow disk take their time, and a loop that does neither has a limit of its own.
fn attend(pid: Pid, ends: &OwnedFd, progress: &Progress) {
    let count = || fs::read(format!("/proc/{pid}/io")).unwrap_or_default();
    let mut before = count();
    while poll(&mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1_000_u16)) == Ok(0) {
        let now = count();
        if now != before {
            progress.goes_on();
        }
        before = now;
    }
}

fn wait(pid: Pid) -> Result<WaitStatus, CompileError> {
    loop {
        match waitpid(pid, None) {
            Ok(status) => return Ok(status),
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Nobody can change or resize it any more.
///
/// # Errors
/// Whatever fcntl(2) reports.
pub fn seal(file: &File) -> io::Result<()> {
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// A sealed memfd with these bytes.
///
/// # Errors
/// When there is no memory.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    seal(&file)?;
    Ok(file)
}

/// An empty directory that belongs to the compiler.
fn staging(path: &Path) -> io::Result<File> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    if let Some(id) = another_user() {
        std::os::unix::fs::chown(path, Some(id), Some(id))?;
    }
    File::open(path)
}

// ---- the compiler -----------------------------------------------------------------------------------------

fn confine_compiler(staging: &File) -> Result<(), confine::ConfineError> {
    use nix::sys::resource::{Resource, setrlimit};
    let limits = [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CPU, SECONDS),
        (Resource::RLIMIT_NOFILE, 64),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 8 << 30),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, limit, limit).map_err(io::Error::from)?;
    }
    if let Some(id) = another_user() {
        sys::become_user(id, id, &[])?;
    }
    // Where it is a user that others are too, they can look into it no more than into root's.
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    confine::compiler(staging)
}

struct Sources<'a> {
    channel: Channel,
    staging: &'a File,
    /// Where that is, for people.
    place: &'a Path,
    temporary: u32,
    /// Small contents, once there is one, and which of them.
    pack: Option<Packer<File>>,
    packed: HashSet<Digest>,
    /// The first thing that kept contents from being staged.
    unstaged: Option<String>,
}

impl<'a> Sources<'a> {
    fn new(channel: Channel, staging: &'a File, place: &'a Path) -> Sources<'a> {
        let packed = HashSet::new();
        Sources { channel, staging, place, temporary: 0, pack: None, packed, unstaged: None }
    }

    fn ask(&mut self, ask: &Ask) -> Result<File, LoadError> {
        let other = |e: &dyn std::fmt::Display| LoadError::Other(e.to_string());
        self.channel.send(ask, &[]).map_err(|e| other(&e))?;
        match self.channel.receive::<Answer>() {
            Ok(Some((Answer::Opened, fds))) => {
                fds.into_iter().next().map(File::from).ok_or_else(|| other(&"the opener sent nothing"))
            }
            Ok(Some((Answer::NotFound, _))) => Err(LoadError::NotFound),
            Ok(Some((Answer::Other(text), _))) => Err(LoadError::Other(text)),
            Ok(None) => Err(other(&"the opener is gone")),
            Err(e) => Err(other(&e)),
        }
    }

    /// Stages what `source` holds.
    fn stage(&mut self, source: &mut dyn Read) -> Result<Content, LoadError> {
        self.write(source).map_err(|e| self.no_room(&e))
    }

    /// An error of reading has lost its number ([`Sources::write`]): it is the source's, not the staging directory's.
    fn no_room(&mut self, e: &io::Error) -> LoadError {
        let help = match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "; make room on the store's file system and apply again",
            _ => "",
        };
        let text = format!("{e}, in {}{help}", self.place.display());
        if e.raw_os_error().is_some() {
            self.unstaged.get_or_insert_with(|| text.clone());
        }
        LoadError::Other(text)
    }

    fn write(&mut self, source: &mut dyn Read) -> io::Result<Content> {
        let mut start = Vec::new();
        source.take(pack::LIMIT as u64 + 1).read_to_end(&mut start).map_err(io::Error::other)?;
        if start.len() > pack::LIMIT {
            return self.write_file(&mut start.as_slice().chain(source));
        }
        let digest: Digest = Sha256::digest(&start).into();
        if self.packed.insert(digest) {
            let pack = match &mut self.pack {
                Some(pack) => pack,
                None => self.pack.insert(Packer::new(self.create(pack::NAME)?)),
            };
            pack.add(&digest, &start)?;
        }
        Ok(Content { digest, size: start.len() as u64 })
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.staging, name, flags, Mode::from_bits_truncate(0o600))?))
    }

    fn write_file(&mut self, source: &mut dyn Read) -> io::Result<Content> {
        self.temporary += 1;
        let name = format!("new-{}", self.temporary);
        let mut file = self.create(&name)?;
        let mut hash = Sha256::new();
        let mut size = 0u64;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io::Error::other(e)),
            };
            let chunk = buffer.get(..count).unwrap_or_default();
            hash.update(chunk);
            file.write_all(chunk)?;
            size += count as u64;
        }
        let digest: Digest = hash.finalize().into();
        renameat(self.staging, name.as_str(), self.staging, hex(&digest).as_str())?;
        Ok(Content { digest, size })
    }

    /// Writes what still waits to be.
    fn finish(&mut self) -> Result<(), LoadError> {
        self.pack.as_mut().map_or(Ok(()), Packer::flush).map_err(|e| self.no_room(&e))
    }
}

impl Loader for Sources<'_> {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        let file = self.ask(&Ask::Text(path.to_owned()))?;
        let mut bytes = Vec::new();
        let other = |e: io::Error| LoadError::Other(e.to_string());
        if file.metadata().map_err(other)?.len() > MAX_SOURCE {
            return Err(LoadError::TooLarge { limit: MAX_SOURCE });
        }
        file.take(MAX_SOURCE + 1).read_to_end(&mut bytes).map_err(other)?;
        if bytes.len() as u64 > MAX_SOURCE {
            return Err(LoadError::TooLarge { limit: MAX_SOURCE });
        }
        Ok(bytes)
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        let mut file = self.ask(&Ask::List(directory.to_owned()))?;
        let mut bytes = Vec::new();
        let other = |e: &dyn std::fmt::Display| LoadError::Other(e.to_string());
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(|e| other(&e))?;
        let listed: Vec<Listed> = postcard::from_bytes(&bytes).map_err(|e| other(&e))?;
        let entry = |l: Listed| Entry {
            name: l.name,
            kind: match l.kind {
                0 => EntryKind::File,
                1 => EntryKind::Directory,
                2 => EntryKind::Symlink(l.target),
                _ => EntryKind::Other,
            },
            mode: l.mode,
        };
        Ok(listed.into_iter().map(entry).collect())
    }

    fn contents(&mut self, content: Content, mut bytes: &[u8]) -> Result<(), LoadError> {
        let staged = self.stage(&mut bytes)?;
        if staged == content { Ok(()) } else { Err(LoadError::Other("its digest is wrong".to_owned())) }
    }

    fn source(&mut self, path: &str) -> Result<Content, LoadError> {
        let mut file = self.ask(&Ask::File(path.to_owned()))?;
        self.stage(&mut file)
    }
}

fn work(job: &Job, channel: Channel, staging: &File, made: &mut Made<'_>) -> i32 {
    let mut loader = Sources::new(channel, staging, &job.staging);
    let others = job.others.iter().map(|(name, kept)| (name.clone(), stack::From::Kept(kept.clone())));
    let own = (!job.layer.remove).then(|| (job.layer.name.clone(), stack::From::Files(job.entry.clone())));
    let Stacked { compiled, archive } = stack::compile(others.chain(own).collect(), &mut loader);
    let diagnostics: Vec<diagnostic::Located> =
        compiled.diagnostics.iter().map(|d| diagnostic::locate(d, &compiled.sources)).collect();
    let written = |made: &mut Made<'_>, manifest: &Manifest| -> io::Result<()> {
        made.manifest.write_all(manifest.as_bytes())?;
        if job.layer.remove {
            return Ok(());
        }
        made.layer.write_all(&Stored::State(archive).encode().map_err(io::Error::other)?)
    };
    let result = match &compiled.manifest {
        Some(manifest) => match (loader.finish(), written(made, manifest)) {
            (Ok(()), Ok(())) => Ok(u32::try_from(manifest.len()).unwrap_or(u32::MAX)),
            (Err(e), _) => Err(e.to_string()),
            (_, Err(e)) => {
                let text = format!("cannot write the manifest: {e}");
                loader.unstaged = Some(text.clone());
                Err(text)
            }
        },
        None => {
            let text: Vec<String> = (compiled.diagnostics.iter().filter(|d| d.is_error()).take(20))
                .map(|d| diagnostic::render(d, &compiled.sources))
                .collect();
            // It has to fit into one packet.
            let mut text = text.join("\n");
            while text.len() > 16 << 10 {
                text.pop();
            }
            Err(text)
        }
    };
    let diagnostics = serde_json::to_vec(&diagnostics).unwrap_or_default();
    let unstaged = loader.unstaged;
    let bytes = postcard::to_allocvec(&Paper { result, diagnostics, unstaged }).unwrap_or_default();
    i32::from(made.paper.write_all(&bytes).is_err())
}
