//! The worker's life: asked by PID 1, it answers, and ends a second after its last work.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use units::Manifest;
use units::pick::Pick;
use units::source::STANDARD_INPUT;

use super::back;
use super::batch::{self, Batch, BatchError, Confinement, Manifests};
use super::channel::{Channel, ChannelError};
use super::compile::{self, Job};
use super::confine;
use super::contest;
use super::layers;
use super::leftovers;
use super::watches::{Watcher, raise_limits};
use crate::proto::{
    Action, Intent, LayerChange, MAX_FRAME, ManifestRef, Outcome, Reply, Request, Source, Step, StoreOp,
    StoreReply, UnitResult, VERSION, Watch,
};
use crate::resource::world::logs;
use crate::resource::world::{Pulse, Setup, World};
use crate::store::{Progress, Record, Store, StoreError, place};
use crate::sys;

/// Milliseconds that a worker stays after its last work.
pub const LINGER: u16 = 1000;
/// Bytes of results in one packet.
const CHUNK: usize = 48 << 10;
/// Watches in one packet.
const WATCHES: usize = 400;
/// Descriptors beside one packet.
const HELD: usize = 8;

/// Why a worker ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// PID 1 is gone, or speaks another language.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A batch could not go on.
    #[error(transparent)]
    Batch(#[from] batch::BatchError),
    /// The first message was no greeting, or one of another version.
    #[error(
        "cannot work with init: it speaks another protocol than version {VERSION}; install both from one build"
    )]
    Version,
    /// The root directory cannot be opened.
    #[error("cannot open the root directory: {0}")]
    Root(std::io::Error),
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// The socket to PID 1.
    pub socket: OwnedFd,
    /// The two inotify instances, if there are any.
    pub inotify: Option<(OwnedFd, OwnedFd)>,
    /// The memory in which it leaves at which step it is, if somebody looks at that.
    pub position: Option<fs::File>,
    /// Another root than `/`.
    pub root: PathBuf,
    /// How the committer is confined.
    pub confinement: Confinement,
    /// Milliseconds that it stays after its last work; for ever, if none are said.
    pub linger: Option<u16>,
}

struct Worker {
    channel: Channel,
    world: World,
    manifests: Manifests,
    watcher: Option<Watcher>,
    store: PathBuf,
    run: PathBuf,
    confinement: Confinement,
    parts: BTreeMap<u64, Vec<Step>>,
    said: bool,
}

/// Serves PID 1 until it is gone, or there has been nothing to do for a second.
///
/// # Errors
/// When the work cannot go on; PID 1 starts another worker then.
pub fn serve(start: Start) -> Result<(), ServeError> {
    // PID 1 has none; what the store makes on the way is for everybody to read, and for nobody to write.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut channel = Channel::new(start.socket);
    let Some((hello, _)) = channel.receive::<Request>()? else { return Ok(()) };
    let Request::Hello { version: VERSION, store, run, boot_contents } = hello else {
        // Let PID 1 see what we speak before it sees the end.
        channel.send(&Reply::Hello { version: VERSION }, &[])?;
        return Err(ServeError::Version);
    };
    channel.send(&Reply::Hello { version: VERSION }, &[])?;
    let boot_contents = (!boot_contents.is_empty()).then(|| PathBuf::from(boot_contents));
    let own = [PathBuf::from(&store), logs()].into_iter().chain(boot_contents.clone());
    let setup = Setup {
        root: start.root,
        own: own.collect(),
        boot_contents,
        run: PathBuf::from(run).join("worker"),
        ..Setup::default()
    };
    let run = setup.run.clone();
    // Nobody else looks at, or stages anything in, what is in here.
    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(&run);
    let mut private = vec![channel.as_raw_fd()];
    private.extend(start.inotify.iter().flat_map(|(a, b)| [a.as_raw_fd(), b.as_raw_fd()]));
    let mut world = World::new(setup).map_err(ServeError::Root)?;
    world.private = private;
    world.position = start.position;
    let mut worker = Worker {
        channel,
        world,
        manifests: Manifests::new(),
        watcher: start.inotify.map(|(own, public)| Watcher::new(own, public)),
        store: PathBuf::from(store),
        run,
        confinement: start.confinement,
        parts: BTreeMap::new(),
        said: false,
    };
    while worker.channel.wait(start.linger)? {
        let Some((request, fds)) = worker.channel.receive::<Request>()? else { break };
        worker.handle(request, fds)?;
    }
    Ok(())
}

/// Tells PID 1 that an answer is on its way: by nothing that it would have to know, since it is enough that it comes.
fn progress(channel: &Channel) -> Progress {
    let beat = postcard::to_allocvec(&Reply::Watches(Vec::new())).unwrap_or_default();
    Progress::to(channel.as_raw_fd(), beat)
}

impl Worker {
    fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<(), ServeError> {
        match request {
            Request::Hello { .. } => Ok(()),
            Request::Manifest { manifest, generation } => self.manifest(manifest, generation, fds),
            Request::Forget { manifest } => {
                self.manifests.remove(&manifest);
                Ok(())
            }
            Request::Batch { batch, generation, intent, steps, last } => {
                let all = self.parts.entry(batch).or_default();
                all.extend(steps);
                if !last {
                    return Ok(());
                }
                let steps = self.parts.remove(&batch).unwrap_or_default();
                self.batch(batch, generation, intent, steps)
            }
            Request::Store { token, op } => {
                let mut beside = Vec::new();
                let result = self.store_op(op, &mut beside).map_err(|e| e.to_string());
                // As after a batch: something may have been put back.
                self.world.places.forget();
                let raw: Vec<RawFd> = beside.iter().map(AsRawFd::as_raw_fd).collect();
                Ok(self.channel.send(&Reply::Stored { token, result }, &raw)?)
            }
            Request::Compile { token, source, layer, onto, uid, gid, pick } => {
                self.compile(token, source, fds, (uid, gid), pick, (layer, onto))
            }
            Request::Mark { token, manifest, unit } => {
                let spec = self.manifests.get(&manifest).and_then(|(_, m)| m.spec(unit));
                self.world.begin(batch::managed_mounts(&self.manifests));
                let result = match (spec, fds.into_iter().next()) {
                    (Some(spec), Some(group)) => contest::mark(&mut self.world, &group, &spec),
                    (None, _) => Err("its declaration cannot be read".to_owned()),
                    (_, None) => Err("no descriptor came with it".to_owned()),
                };
                self.world.places.forget();
                Ok(self.channel.send(&Reply::Marked { token, result }, &[])?)
            }
        }
    }

    fn log(&self, warning: bool, text: impl Into<String>) -> Result<(), ChannelError> {
        self.channel.send(&Reply::Log { warning, text: text.into() }, &[])
    }

    fn manifest(&mut self, name: ManifestRef, generation: u64, fds: Vec<OwnedFd>) -> Result<(), ServeError> {
        let mapped = match fds.into_iter().next() {
            Some(fd) => sys::Mapping::sealed(&fs::File::from(fd)).map_err(|e| e.to_string()),
            None => Err("no descriptor came with it".to_owned()),
        };
        let parsed = mapped.and_then(|m| Manifest::parse(Arc::new(m)).map_err(|e| e.to_string()));
        match parsed {
            Ok(manifest) => {
                raise_limits(manifest.len());
                self.manifests.insert(name, (generation, manifest));
                Ok(())
            }
            Err(e) => Ok(self.log(true, format!("cannot take manifest {}: {e}", name.0))?),
        }
    }

    /// Opens the store, or, until PID 1 has asked for it since boot, one in the run-time directory.
    fn have_store(&mut self) -> Result<(), StoreError> {
        if self.world.store.is_some() {
            return Ok(());
        }
        let opened = place::is_open(&self.run, &self.store)?;
        let dir = if opened { self.store.clone() } else { self.run.join("early") };
        let store = Store::open(&dir)?;
        store.sweep_staging();
        self.world.store = Some(store);
        Ok(())
    }

    fn batch(
        &mut self,
        number: u64,
        generation: u64,
        intent: Intent,
        steps: Vec<Step>,
    ) -> Result<(), ServeError> {
        if let Err(e) = self.have_store() {
            self.log(true, format!("working without a store: {e}"))?;
        }
        if !self.said && self.confinement == Confinement::Full {
            self.said = true;
            if let Some(text) = confine::shortcoming() {
                self.once("landlock", text)?;
            }
        }
        self.world.begin(batch::managed_mounts(&self.manifests));
        if let Some(watcher) = &mut self.watcher {
            watcher.begin();
        }
        // Before the check: what happens after it is an event then.
        self.watch(steps.iter())?;
        let beat = Reply::Results { batch: number, results: Vec::new() };
        if let Ok(bytes) = postcard::to_allocvec(&beat) {
            self.world.pulse = Pulse::Packet(self.channel.as_raw_fd(), bytes);
        }
        let batch = Batch { generation, intent, steps };
        let mut late: Vec<UnitResult> = Vec::new();
        let mut out = Vec::new();
        let mut size = 0;
        let mut failure = None;
        let channel = &self.channel;
        let ran = batch::run(&mut self.world, &self.manifests, &batch, self.confinement, &mut |result| {
            // What was changed may lie in directories that were not there to be watched. What was taken away lets a mount
            // go, and a directory that is open keeps its file system from being unmounted.
            if matches!(result.outcome, Outcome::Changed | Outcome::Removed | Outcome::Left) {
                late.push(result);
                return;
            }
            size += result.detail.len() + 32;
            out.push(result);
            if size > CHUNK {
                size = 0;
                let results = std::mem::take(&mut out);
                failure = channel.send(&Reply::Results { batch: number, results }, &[]).err();
            }
        });
        self.world.pulse = Pulse::None;
        ran?;
        if let Some(e) = failure {
            return Err(e.into());
        }
        self.results(number, out)?;
        let changed: Vec<Step> = late
            .iter()
            .filter(|r| r.outcome == Outcome::Changed)
            .map(|r| Step { manifest: r.manifest, unit: r.unit, action: Action::Converge })
            .collect();
        if let Some(watcher) = &mut self.watcher {
            watcher.begin();
        }
        self.watch(changed.iter())?;
        self.world.places.forget();
        self.results(number, late)?;
        if let Some(store) = &mut self.world.store {
            let tidied = store.lock().and_then(|()| store.compact(false));
            store.unlock();
            if let Err(e) = tidied {
                self.log(true, format!("cannot compact the journal: {e}"))?;
            }
        }
        Ok(self.channel.send(&Reply::BatchDone { batch: number }, &[])?)
    }

    fn results(&self, batch: u64, results: Vec<UnitResult>) -> Result<(), ChannelError> {
        let mut size = 0;
        let mut out = Vec::new();
        for mut result in results {
            while result.detail.len() > CHUNK / 2 {
                result.detail.pop();
            }
            size += result.detail.len() + 32;
            out.push(result);
            if size > CHUNK {
                size = 0;
                let results = std::mem::take(&mut out);
                self.channel.send(&Reply::Results { batch, results }, &[])?;
            }
        }
        if out.is_empty() {
            return Ok(());
        }
        self.channel.send(&Reply::Results { batch, results: out }, &[])
    }

    fn watch<'a>(&mut self, steps: impl Iterator<Item = &'a Step>) -> Result<(), ServeError> {
        let Some(mut watcher) = self.watcher.take() else { return Ok(()) };
        let mut watches: Vec<Watch> = Vec::new();
        let mut held: Vec<(Watch, OwnedFd)> = Vec::new();
        for step in steps {
            if !matches!(step.action, Action::Converge | Action::Check | Action::Rewatch) {
                continue;
            }
            let spec = self.manifests.get(&step.manifest).and_then(|(_, m)| m.spec(step.unit));
            let Some(spec) = spec else { continue };
            // To open a directory is what waits for a file system that does not answer.
            self.world.at(Some(step));
            let found = watcher.watch(&mut self.world, step.manifest, step.unit, &spec);
            watches.extend(found.watches.into_iter().chain(found.missing));
            held.extend(found.held);
            if let Some(text) = found.warning {
                self.log(true, text)?;
            }
            if watches.len() >= WATCHES {
                self.announce(std::mem::take(&mut watches))?;
            }
            if held.len() >= HELD {
                self.hand_over(std::mem::take(&mut held))?;
            }
        }
        self.world.at(None);
        self.announce(watches)?;
        self.hand_over(held)?;
        self.watcher = Some(watcher);
        Ok(())
    }

    fn announce(&self, watches: Vec<Watch>) -> Result<(), ChannelError> {
        let mut size = 0;
        let mut out = Vec::new();
        for watch in watches {
            size += match &watch {
                Watch::Directory { name, .. } | Watch::Entry { name, .. } => name.len() + 32,
                Watch::Inode { .. } => 32,
                Watch::Missing { why, .. } => why.len() + 32,
            };
            out.push(watch);
            if size > MAX_FRAME / 2 {
                size = 0;
                self.channel.send(&Reply::Watches(std::mem::take(&mut out)), &[])?;
            }
        }
        if out.is_empty() { Ok(()) } else { self.channel.send(&Reply::Watches(out), &[]) }
    }

    /// Watches with as many descriptors beside them, one each.
    fn hand_over(&self, held: Vec<(Watch, OwnedFd)>) -> Result<(), ChannelError> {
        if held.is_empty() {
            return Ok(());
        }
        let (watches, fds): (Vec<Watch>, Vec<OwnedFd>) = held.into_iter().unzip();
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.channel.send(&Reply::Watches(watches), &raw)
    }

    /// Says something once a boot.
    fn once(&self, name: &str, text: &str) -> Result<(), ChannelError> {
        let said = self.run.join(format!("said-{name}"));
        if said.exists() {
            return Ok(());
        }
        let _ = fs::write(said, "");
        self.log(true, text)
    }

    fn store_op(&mut self, op: StoreOp, beside: &mut Vec<OwnedFd>) -> Result<StoreReply, StoreError> {
        if let StoreOp::Open = op {
            return self.open(beside);
        }
        self.have_store()?;
        if let StoreOp::Commit { generation: to } | StoreOp::Returned { to, .. } = &op {
            let known = std::mem::take(&mut self.manifests);
            let returned = matches!(op, StoreOp::Returned { .. });
            let rest = back::put_back_rest(&mut self.world, &known, *to, returned, self.confinement);
            self.say_back(*to, rest);
            let alike = back::put_back_alike(&mut self.world, &known, *to, returned, self.confinement);
            self.say_back(*to, alike);
            let emptied = back::take_emptied(&mut self.world, &known, *to, returned, self.confinement);
            self.say_back(*to, emptied.map(|()| Vec::new()));
            self.manifests = known;
        }
        let candidates = match &op {
            StoreOp::Prepare { staged, .. } => self.candidates(*staged),
            _ => Vec::new(),
        };
        let Some(store) = &mut self.world.store else { return Err(StoreError::NoPrevious) };
        store.lock()?;
        store.progress = progress(&self.channel);
        let done = match op {
            StoreOp::Open => Ok(StoreReply::Recorded),
            StoreOp::Prepare { manifest, staged, note } => match self.manifests.get(&manifest) {
                Some((_, m)) => {
                    let number = store.prepare(m, &candidates, &note, staged == 0);
                    for dir in candidates.iter().filter(|d| d.ends_with(name_of(staged))) {
                        let _ = fs::remove_dir_all(dir);
                    }
                    number.map(StoreReply::Generation)
                }
                None => Err(StoreError::UnknownManifest),
            },
            StoreOp::Switching { generation } => {
                let transition = store.index().transitions + 1;
                store.record(&[Record::Switching { generation, transition }]).map(|()| StoreReply::Recorded)
            }
            StoreOp::Trial { generation } => {
                store.record(&[Record::Trial { generation }]).map(|()| StoreReply::Recorded)
            }
            StoreOp::Commit { generation } => {
                store.record(&[Record::Committed { generation }]).map(|()| StoreReply::Recorded)
            }
            StoreOp::Returned { generation, to } => {
                store.record(&[Record::Returned { generation, to }]).map(|()| StoreReply::Recorded)
            }
            StoreOp::Load { generation } => store.load(generation).and_then(|(generation, manifest)| {
                beside.push(memory(&manifest)?);
                Ok(StoreReply::Loaded { generation })
            }),
        };
        store.progress = Progress::default();
        store.unlock();
        done
    }

    /// Nothing here keeps a return from being recorded; what could not be put back is said.
    fn say_back(&mut self, generation: u64, done: Result<Vec<(String, UnitResult)>, BatchError>) {
        let texts: Vec<String> = match done {
            Ok(done) => (done.into_iter())
                .filter(|(_, r)| {
                    matches!(r.outcome, Outcome::NotKept | Outcome::MountAbsent | Outcome::Blocked)
                })
                .map(|(unit, r)| format!("{unit} is not as it was in generation {generation}: {}", r.detail))
                .collect(),
            Err(e) => vec![format!("cannot put back what later generations left: {e}")],
        };
        for text in texts {
            let _ = self.log(true, text);
        }
    }

    fn open(&mut self, beside: &mut Vec<OwnedFd>) -> Result<StoreReply, StoreError> {
        let mut store = Store::open(&self.store)?;
        store.lock()?;
        let early = self.run.join("early");
        if early.is_dir() {
            self.world.store = None;
            store.absorb(&mut Store::open(&early)?)?;
        }
        if place::is_noted(&self.run) {
            store.sweep_staging();
        } else {
            store.clear_staging();
            let _ = fs::create_dir_all(&self.run);
        }
        place::note(&self.run, &self.store)?;
        store.unlock();
        let recovery = store.recovery();
        let mut damaged = Vec::new();
        let found = store.load_current(&mut damaged);
        let mut interrupted = recovery.interrupted;
        let undone = interrupted.and_then(|generation| match store.load(Some(generation)) {
            Ok((_, manifest)) => Some(manifest),
            Err(e) => {
                damaged.push(format!("cannot undo generation {generation} unit by unit: {e}"));
                interrupted = None;
                None
            }
        });
        let whole = damaged.is_empty();
        if let (Ok(Some((generation, _))), false) = (&found, whole) {
            damaged
                .push(format!("going on with generation {generation}; apply the state again to replace it"));
        }
        for text in damaged {
            let _ = self.log(true, text);
        }
        let (current, manifest) = found?.unzip();
        // Beside a manifest that stands in for a damaged one nothing can be told from what is left over.
        let declared: Vec<&Manifest> = manifest.iter().chain(&undone).collect();
        let left = match (&manifest, whole) {
            (Some(_), true) => leftovers::left_over(store.index(), &declared, |generation| {
                store.load(Some(generation)).ok().map(|(_, manifest)| manifest)
            }),
            (_, _) => None,
        };
        for manifest in manifest.iter().chain(&undone).chain(&left) {
            beside.push(memory(manifest)?);
        }
        self.world.store = Some(store);
        if interrupted.is_some() {
            // What an apply brought that the interrupted one superseded, and neither declares: nobody else names it, and it
            // may be in the way of what comes back. Where its mount is not there yet, that is done with the rest.
            let declared = manifest.into_iter().chain(undone).zip(0..);
            let known = declared.map(|(m, n)| (ManifestRef(u32::MAX - n), (0, m))).collect();
            let to = current.unwrap_or(0);
            let rest = back::put_back_rest(&mut self.world, &known, to, true, self.confinement);
            self.say_back(to, rest);
        }
        Ok(StoreReply::Opened { current, interrupted, left: left.is_some() })
    }

    /// Where contents may lie that a new generation names.
    fn candidates(&self, staged: u64) -> Vec<PathBuf> {
        let mut out = Vec::new();
        if staged != 0 {
            out.push(self.run.join(name_of(staged)));
            out.push(self.store.join("staging").join(name_of(staged)));
        }
        out.extend(self.world.setup.boot_contents.clone());
        out
    }

    fn compile(
        &mut self,
        token: u64,
        source: Source,
        mut fds: Vec<OwnedFd>,
        (uid, gid): (u32, u32),
        pick: Option<Pick>,
        (layer, onto): (LayerChange, Option<u64>),
    ) -> Result<(), ServeError> {
        let beside = match onto.map(|generation| layers::base(&self.onto(generation), &layer)) {
            Some(Err(text)) => return self.refuse(&Reply::Compiled { token, result: Err(text) }),
            Some(Ok(beside)) => beside,
            None => layers::Base::default(),
        };
        let base = pick.as_ref().and_then(|pick| Some((pick, fds.pop()?)));
        // Beside the store, where there is room; in memory until there is one.
        // A store that is not there is told by who prepares the generation.
        let open = place::is_open(&self.run, &self.store).unwrap_or(false);
        let above = if open { self.store.join("staging") } else { self.run.clone() };
        let (entry, input) = match source {
            Source::Path(path) => (path, None),
            Source::Memfd { directory } => {
                let name = Path::new(&directory).join(STANDARD_INPUT);
                (name.to_string_lossy().into_owned(), fds.into_iter().next())
            }
        };
        let others = beside.others.iter().map(|(named, kept)| (named.name.clone(), kept.clone())).collect();
        let job = Job { entry, input, uid, gid, staging: above.join(name_of(token)), layer, others };
        match compile::compile(&job, &progress(&self.channel)) {
            Ok(mut compiled) => {
                if let (Some((pick, base)), Ok(_)) = (base, &compiled.result) {
                    compiled.result = match picked(&base, &compiled.fd, pick) {
                        Ok((count, fd)) => {
                            compiled.fd = fd;
                            Ok(count)
                        }
                        Err(text) => {
                            let _ = fs::remove_dir_all(&job.staging);
                            let reply = Reply::Compiled { token, result: Err(text) };
                            return self.refuse(&reply);
                        }
                    };
                }
                if compiled.result.is_ok() {
                    let staged = beside.with(&job.layer, &compiled.layer, pick.as_ref()).and_then(|listed| {
                        listed
                            .map_or(Ok(()), |l| l.stage(&self.store, &job.staging).map_err(|e| e.to_string()))
                    });
                    if let Err(text) = staged {
                        let _ = fs::remove_dir_all(&job.staging);
                        let reply = Reply::Compiled { token, result: Err(text) };
                        return Ok(self.channel.send(&reply, &[])?);
                    }
                }
                let shown = compiled.sources.len().min(3);
                let names = compiled.sources.get(..shown).unwrap_or_default().join(", ");
                let more = compiled.sources.len() - shown;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                if compiled.result.is_ok() && job.layer.remove {
                    self.log(false, format!("compiled the state without layer {}", job.layer.name))?;
                } else if compiled.result.is_ok() {
                    self.log(false, format!("compiled {} for uid {uid} from {names}{more}", job.entry))?;
                } else {
                    if shown > 0 {
                        self.log(false, format!("read {names}{more} for uid {uid}: it does not compile"))?;
                    }
                    let _ = fs::remove_dir_all(&job.staging);
                }
                let reply = Reply::Compiled { token, result: compiled.result };
                Ok(self.channel.send(&reply, &[compiled.fd.as_raw_fd()])?)
            }
            Err(e) => {
                let _ = fs::remove_dir_all(&job.staging);
                let reply = Reply::Compiled { token, result: Err(e.to_string()) };
                if e.is_of_the_state() { self.refuse(&reply) } else { Ok(self.channel.send(&reply, &[])?) }
            }
        }
    }

    /// What a compilation on top of a generation looks at.
    fn onto(&self, generation: u64) -> layers::Onto {
        let boot = self.world.setup.boot_contents.as_deref().and_then(Path::parent).map(Path::to_owned);
        layers::Onto { store: self.store.clone(), boot, generation }
    }

    /// Says that the state, or what was asked of it, is to blame: with diagnostics, though there are none.
    fn refuse(&mut self, reply: &Reply) -> Result<(), ServeError> {
        let none = compile::sealed("diagnostics", b"[]").ok();
        let beside: Vec<_> = none.iter().map(AsRawFd::as_raw_fd).collect();
        Ok(self.channel.send(reply, &beside)?)
    }
}

/// A part of what was compiled on top of what there was.
fn picked(base: &OwnedFd, compiled: &OwnedFd, pick: &Pick) -> Result<(u32, OwnedFd), String> {
    let manifest = |fd: &OwnedFd| {
        let file = fs::File::from(fd.try_clone().map_err(|e| e.to_string())?);
        let mapped = sys::Mapping::sealed(&file).map_err(|e| e.to_string())?;
        Manifest::parse(Arc::new(mapped)).map_err(|e| e.to_string())
    };
    let made = units::pick::pick(&manifest(base)?, &manifest(compiled)?, pick).map_err(|e| e.to_string())?;
    Ok((u32::try_from(made.len()).unwrap_or(u32::MAX), memory(&made).map_err(|e| e.to_string())?))
}

fn name_of(token: u64) -> String {
    format!("compile-{token:x}")
}

fn memory(manifest: &Manifest) -> Result<OwnedFd, StoreError> {
    compile::sealed("manifest", manifest.as_bytes()).map(OwnedFd::from).map_err(|source| StoreError::File {
        verb: "make",
        path: PathBuf::from("memfd"),
        source,
    })
}
