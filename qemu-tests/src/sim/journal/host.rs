//! A machine whose files are real: the engine that ships, and over the socket that PID 1 uses the worker that ships, with
//! its store and its committer, in a directory. What is done here is what `init` does between the two
//! (`event_loop/swap.rs`): nothing else decides anything.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use cm_core::engine::effect::{Effect, Verdict};
use cm_core::engine::event::{Event, Swap};
use cm_core::engine::{Engine, Mono};
use cm_core::proto::{
    Intent, ManifestRef, Outcome, Reply, Request, StoreOp, StoreReply, UnitResult, VERSION,
};
use cm_core::store::Store;
use cm_core::store::layers::{self, Named};
use cm_core::store::pack::{self, Packer};
use cm_core::sys::Mapping;
use cm_core::worker::batch::Confinement;
use cm_core::worker::channel::{self, Channel};
use cm_core::worker::compile::sealed;
use cm_core::worker::serve::{Start, serve};
use sha2::{Digest, Sha256};
use units::kept::{Archive, Recorder, Stored};
use units::kind::Content;
use units::load::{Loader, MemoryLoader};
use units::{Address, Manifest};

use super::disk::{Tree, View};
use super::trace::{self, Shared};

/// Most steps of the engine between two requests.
const MOST: u32 = 10_000;

/// The names of what is driven here, for a test that it is what ships.
pub const SHIPS: [fn() -> &'static str; 2] =
    [|| std::any::type_name_of_val(&serve), || std::any::type_name::<Engine>()];

/// What is applied: a manifest and what its files hold.
#[derive(Debug, Clone)]
pub struct State {
    pub manifest: Manifest,
    pub contents: Vec<(Content, Vec<u8>)>,
}

/// Two layers, one of which is of this state alone, as the compiler leaves them.
fn stage_layers(state: &State, dir: &Path) -> Told<()> {
    let name = |name: &str, entry: String, contents: &[(Content, Vec<u8>)]| -> Told<(Named, Vec<u8>)> {
        let mut files = MemoryLoader::new();
        for (number, (_, bytes)) in contents.iter().enumerate() {
            files = files.file(&format!("/{number}"), bytes.as_slice());
        }
        let mut recorder = Recorder { from: &mut files, archive: Archive::new(&entry) };
        for number in 0..contents.len() {
            recorder.source(&format!("/{number}")).map_err(words)?;
        }
        let bytes = Stored::State(recorder.archive).encode().map_err(words)?;
        Ok((Named { name: name.to_owned(), digest: Sha256::digest(&bytes).into() }, bytes))
    };
    let of_this = cm_core::store::hex(&state.manifest.digest());
    let both = [name("main", of_this, &state.contents)?, name("local", "/local".to_owned(), &[])?];
    for (named, bytes) in &both {
        fs::write(dir.join(layers::staged_name(&named.digest)), bytes).map_err(words)?;
    }
    fs::write(dir.join(layers::LIST), layers::encode(&both.map(|(named, _)| named))).map_err(words)
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units: Vec<String> =
            self.manifest.ids().map(|id| self.manifest.address(id).to_string()).collect();
        f.write_str(&units.join(", "))
    }
}

/// Where the worker runs.
#[derive(Debug, Clone)]
pub enum Run {
    /// In a thread: nobody looks.
    Here,
    /// In a process of its own, every call of which is written down.
    Traced(Shared, Confinement),
}

/// What an opening of the store has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    pub current: Option<u64>,
    pub interrupted: Option<u64>,
    pub left: bool,
}

/// A moment at which the store said that a generation is the current one for good.
#[derive(Debug, Clone)]
pub struct Landed {
    /// Calls until then.
    pub at: usize,
    /// Whether it is one that was come back to.
    pub returned: bool,
    /// The tree.
    pub tree: View,
    /// Who made what.
    pub owners: Owners,
    /// The generation.
    pub generation: Option<u64>,
}

/// A machine that is on.
pub struct Host {
    dir: PathBuf,
    calls: Option<Shared>,
    /// Since somebody emptied it; only where calls are written down.
    pub landed: Vec<Landed>,
    pub engine: Engine,
    now: Mono,
    channel: Option<Channel>,
    thread: Option<JoinHandle<()>>,
    run: PathBuf,
    token: u64,
    requests: u64,
    effects: VecDeque<Effect>,
    answers: Vec<(u64, Verdict, String)>,
    /// Results since somebody emptied it.
    pub results: Vec<(ManifestRef, UnitResult)>,
    /// What the store said when it was opened.
    pub opened: Opened,
    /// What the worker had to say.
    pub log: Vec<String>,
    /// What comes in the middle of the next apply.
    pub next: Option<State>,
}

/// The file systems of a machine in a directory: what a loss of power leaves, and what it takes.
pub fn disk(dir: &Path) -> PathBuf {
    dir.join("disk")
}

/// The root of its tree.
pub fn root(dir: &Path) -> PathBuf {
    disk(dir).join("root")
}

/// Its store.
pub fn store(dir: &Path) -> PathBuf {
    disk(dir).join("store")
}

/// Who made what: what was there before is left to whoever made it, whether it is declared or not.
pub type Owners = BTreeMap<String, String>;

/// Who made what, as a store knows. The group of a user's own is his as long as his entry is there, which outlasts the unit.
pub fn owners(store: &Store) -> Owners {
    let own = &store.index().own;
    let outlasts = |unit: &str| unit.starts_with("user:") && !own.contains_key(unit);
    let made = own.iter().filter(|(_, own)| own.created && !outlasts(&own.unit));
    made.map(|(thing, own)| (thing.clone(), own.unit.clone())).collect()
}

/// The tree of a machine.
///
/// # Errors
/// When it cannot be read.
pub fn view(dir: &Path) -> Result<View, String> {
    Tree::scan(&root(dir)).map(|(tree, _)| tree.view("")).map_err(words)
}

type Told<T> = Result<T, String>;

fn words(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn mapped(fd: OwnedFd) -> Told<Manifest> {
    let mapping = Mapping::sealed(&File::from(fd)).map_err(words)?;
    Manifest::parse(Arc::new(mapping)).map_err(words)
}

impl Drop for Host {
    fn drop(&mut self) {
        self.off();
    }
}

impl Host {
    /// Switches it on, and waits until it has converged to what its store holds.
    ///
    /// # Errors
    /// When the worker does not answer, or the store cannot be used.
    pub fn boot(dir: &Path, run: Run) -> Told<Host> {
        let in_memory = dir.join("run");
        if in_memory.exists() {
            fs::remove_dir_all(&in_memory).map_err(words)?;
        }
        fs::create_dir_all(in_memory.join("worker")).map_err(words)?;
        let (ours, theirs) = channel::pair().map_err(words)?;
        let top = root(dir);
        let calls = match &run {
            Run::Here => None,
            Run::Traced(log, _) => Some(Arc::clone(log)),
        };
        let work = move |socket: OwnedFd, confinement: Confinement| {
            // However busy the real machine is: nobody here would start another one.
            let linger = None;
            serve(Start { socket, inotify: None, position: None, root: top, confinement, linger })
        };
        let thread = match run {
            Run::Here => std::thread::spawn(move || drop(work(theirs, Confinement::None))),
            Run::Traced(log, confinement) => {
                trace::spawn(&log, theirs, move |socket| i32::from(work(socket, confinement).is_err()))
            }
        };
        let mut host = Host {
            dir: dir.to_owned(),
            calls,
            landed: Vec::new(),
            engine: Engine::new(),
            now: Mono(1_000_000),
            channel: Some(Channel::new(ours)),
            thread: Some(thread),
            run: in_memory,
            token: 0,
            requests: 0,
            effects: VecDeque::new(),
            answers: Vec::new(),
            results: Vec::new(),
            opened: Opened::default(),
            log: Vec::new(),
            next: None,
        };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        host.ask(
            &Request::Hello {
                version: VERSION,
                store: text(store(dir)),
                run: text(host.run.clone()),
                boot_contents: String::new(),
            },
            None,
        )?;
        match host.hear()? {
            (Reply::Hello { version: VERSION }, _) => {}
            (other, _) => return Err(format!("no greeting: {other:?}")),
        }
        host.start()?;
        Ok(host)
    }

    /// As `init` starts: generation 0, then the store, what it left unfinished, and what it holds.
    fn start(&mut self) -> Told<()> {
        let empty = self.install(Manifest::empty(), 0)?;
        self.swap(0, empty, 0, Swap::Boot);
        self.rest()?;
        let (reply, fds) = self.store(StoreOp::Open)?;
        let StoreReply::Opened { current, interrupted, left } = reply else {
            return Err(format!("no store: {reply:?}"));
        };
        self.opened = Opened { current, interrupted, left };
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| fds.next().filter(|_| wanted);
        let current = current.and_then(|n| Some((n, next(true)?)));
        let interrupted = interrupted.and_then(|n| Some((n, next(true)?)));
        let left = next(left);
        self.step(Event::StoreOpened);
        if let Some((generation, fd)) = interrupted {
            let manifest = self.install(mapped(fd)?, generation)?;
            let to = current.as_ref().map_or(0, |(n, _)| *n);
            self.swap(0, manifest, to, Swap::Undo);
        }
        if let Some((generation, fd)) = current {
            let manifest = self.install(mapped(fd)?, generation)?;
            self.swap(0, manifest, generation, Swap::Boot);
            if let Some(fd) = left {
                let manifest = self.install(mapped(fd)?, 0)?;
                self.swap(0, manifest, generation, Swap::Purge);
            }
        }
        self.rest()
    }

    /// Switches it off in the middle of everything: nobody has time to tidy up.
    pub fn off(&mut self) {
        if let Some(channel) = self.channel.take() {
            let _ = nix::sys::socket::shutdown(channel.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn ask(&self, request: &Request, beside: Option<&OwnedFd>) -> Told<()> {
        let channel = self.channel.as_ref().ok_or("it is off")?;
        let fds: Vec<_> = beside.iter().map(|fd| fd.as_raw_fd()).collect();
        channel.send(request, &fds).map_err(words)
    }

    /// Hears until something else than words comes.
    fn hear(&mut self) -> Told<(Reply, Vec<OwnedFd>)> {
        loop {
            let channel = self.channel.as_mut().ok_or("it is off")?;
            match channel.receive::<Reply>().map_err(words)?.ok_or("the worker has gone")? {
                (Reply::Log { text, .. }, _) => self.log.push(text),
                (Reply::Watches(_), _) => {}
                other => return Ok(other),
            }
        }
    }

    fn store(&mut self, op: StoreOp) -> Told<(StoreReply, Vec<OwnedFd>)> {
        self.token += 1;
        self.ask(&Request::Store { token: self.token, op }, None)?;
        match self.hear()? {
            (Reply::Stored { token, result }, fds) if token == self.token => result.map(|r| (r, fds)),
            (other, _) => Err(format!("no answer of the store's: {other:?}")),
        }
    }

    fn name(&mut self, manifest: &Manifest, name: ManifestRef, generation: u64) -> Told<()> {
        let fd = sealed("manifest", manifest.as_bytes()).map_err(words)?.into();
        self.ask(&Request::Manifest { manifest: name, generation }, Some(&fd))
    }

    fn install(&mut self, manifest: Manifest, generation: u64) -> Told<ManifestRef> {
        let name = self.engine.install(manifest.clone());
        self.name(&manifest, name, generation)?;
        Ok(name)
    }

    fn swap(&mut self, request: u64, manifest: ManifestRef, generation: u64, kind: Swap) {
        self.step(Event::Swapped { request, manifest, generation, kind, release: false });
    }

    fn step(&mut self, event: Event) {
        let mut out = Vec::new();
        self.engine.step(self.now, event, &mut out);
        self.effects.extend(out);
    }

    /// Does what the engine wants until it wants nothing more.
    fn rest(&mut self) -> Told<()> {
        for _ in 0..MOST {
            match self.effects.pop_front() {
                Some(effect) => self.act(effect)?,
                None if self.engine.is_converged() => return Ok(()),
                None => {
                    let due =
                        self.engine.next_deadline().ok_or("it waits for nothing and is not converged")?;
                    self.now = self.now.max(due);
                    self.step(Event::Tick);
                }
            }
        }
        Err("it does not come to rest".to_owned())
    }

    fn act(&mut self, effect: Effect) -> Told<()> {
        match effect {
            Effect::Batch { batch, generation, intent, steps } => {
                self.ask(&Request::Batch { batch, generation, intent, steps, last: true }, None)?;
                self.batch(batch)?;
                // Whoever applies something else meanwhile does so while files of both are there.
                match self.next.take_if(|_| intent == Intent::Apply) {
                    Some(next) => self.begin(&next),
                    None => Ok(()),
                }
            }
            Effect::Store { token, op } => {
                let (lands, returned) = match op {
                    StoreOp::Commit { .. } => (true, false),
                    StoreOp::Returned { .. } => (true, true),
                    _ => (false, false),
                };
                let error = self.store(op).err();
                if lands && error.is_none() && self.calls.is_some() {
                    self.landed.push(self.look(returned)?);
                }
                self.step(Event::Recorded { token, error });
                Ok(())
            }
            Effect::Forget { manifest } => self.ask(&Request::Forget { manifest }, None),
            Effect::Answer { request, verdict, text, .. } => {
                self.answers.push((request, verdict, text));
                Ok(())
            }
            Effect::Publish { .. } | Effect::Log { .. } | Effect::Converged => Ok(()),
            other => Err(format!("nobody here can do that: {other:?}")),
        }
    }

    /// The machine as it is.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&self, returned: bool) -> Told<Landed> {
        let store = Store::look(&store(&self.dir)).map_err(words)?;
        let at = self.calls.as_ref().and_then(|log| log.lock().ok().map(|log| log.ops.len()));
        Ok(Landed {
            at: at.unwrap_or_default(),
            returned,
            tree: view(&self.dir)?,
            owners: owners(&store),
            generation: store.index().current(),
        })
    }

    fn batch(&mut self, number: u64) -> Told<()> {
        loop {
            match self.hear()?.0 {
                Reply::Results { batch, results } => {
                    self.results.extend(results.iter().map(|r| (r.manifest, r.clone())));
                    self.step(Event::Results { batch, results });
                }
                Reply::BatchDone { batch } if batch == number => {
                    self.step(Event::BatchDone { batch });
                    return Ok(());
                }
                other => return Err(format!("no answer to a batch: {other:?}")),
            }
        }
    }

    fn begin(&mut self, state: &State) -> Told<()> {
        self.token += 1;
        let staged = self.token;
        let dir = self.run.join("worker").join(format!("compile-{staged:x}"));
        fs::create_dir(&dir).map_err(words)?;
        let mut packer = Packer::new(File::create(dir.join(pack::NAME)).map_err(words)?);
        for (content, bytes) in &state.contents {
            if bytes.len() > pack::LIMIT {
                let name = cm_core::store::hex(&content.digest);
                fs::write(dir.join(name), bytes).map_err(words)?;
            } else {
                packer.add(&content.digest, bytes).map_err(words)?;
            }
        }
        packer.flush().map_err(words)?;
        stage_layers(state, &dir)?;
        let staging = ManifestRef(u32::MAX - staged as u32);
        self.name(&state.manifest, staging, 0)?;
        let note = "by the simulator".to_owned();
        let (reply, _) = self.store(StoreOp::Prepare { manifest: staging, staged, note })?;
        let StoreReply::Generation(generation) = reply else { return Err(format!("no number: {reply:?}")) };
        self.ask(&Request::Forget { manifest: staging }, None)?;
        let manifest = self.install(state.manifest.clone(), generation)?;
        self.requests += 1;
        self.swap(self.requests, manifest, generation, Swap::Apply);
        Ok(())
    }

    /// Applies a state; how that ended, and why.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub fn apply(&mut self, state: &State) -> Told<(Verdict, String)> {
        self.begin(state)?;
        self.rest()?;
        self.next = None;
        self.verdict(self.requests)
    }

    fn verdict(&mut self, request: u64) -> Told<(Verdict, String)> {
        let found = self.answers.iter().position(|(r, ..)| *r == request);
        let (_, verdict, text) = self.answers.swap_remove(found.ok_or("nobody has answered")?);
        Ok((verdict, text))
    }

    /// Goes back to a generation.
    ///
    /// # Errors
    /// As [`Host::apply`], and when there is no such generation.
    pub fn rollback(&mut self, generation: u64) -> Told<(Verdict, String)> {
        let (reply, fds) = self.store(StoreOp::Load { generation: Some(generation) })?;
        let (StoreReply::Loaded { generation }, Some(fd)) = (reply, fds.into_iter().next()) else {
            return Err("it cannot be loaded".to_owned());
        };
        let manifest = self.install(mapped(fd)?, generation)?;
        self.requests += 1;
        self.swap(self.requests, manifest, generation, Swap::Rollback);
        self.rest()?;
        self.verdict(self.requests)
    }

    /// Somebody has touched what these units own.
    ///
    /// # Errors
    /// As [`Host::apply`].
    pub fn touched(&mut self, units: &[Address]) -> Told<()> {
        // Long after the last time: who does it again and again within a minute is left alone, and that is no repair.
        self.now = self.now.after_ms(3_600_000);
        let nodes = units.iter().filter_map(|a| self.engine.node(a)).collect();
        self.step(Event::Touched { nodes });
        self.rest()
    }

    /// What was done since the results were emptied, in words; empty where all was right.
    pub fn done(&self) -> String {
        let words = self.results.iter().filter(|(_, r)| r.outcome != Outcome::Kept).map(|(manifest, r)| {
            let unit = self.engine.manifest(*manifest).map(|m| m.address(r.unit).to_string());
            format!("{} {:?} {}", unit.unwrap_or_default(), r.outcome, r.detail)
        });
        words.chain(self.log.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}
