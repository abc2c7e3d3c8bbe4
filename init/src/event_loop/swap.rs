//! From a state file or a generation's number to [`Event::Swapped`]: compile, take the manifest, prepare, install.
//!
//! Boot is the same road without a client: generation 0 beside `init`, then what the store holds, else the
//! state file.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use cm_core::engine::Mono;
use cm_core::engine::effect::Level;
use cm_core::engine::event::{Event, Swap};
use cm_core::proto::{LayerChange, ManifestRef, Source, StoreOp, StoreReply};
use units::Kind;
use units::layer::MAIN;
use units::pick::Pick;

use super::flows::FLOW_MS;
use super::link::Task;
use super::manifests;
use super::workers::{OWN, Role};
use super::{Shell, now};
use crate::control::Failure;
use crate::control::request;
use crate::control::server::Incoming;
use units::diagnostic::{ABSENT, Located, Severity};

/// Largest list of diagnostics that is read, in bytes.
const MAX_DIAGNOSTICS: u64 = 1 << 20;

/// Bytes of a state's mistakes that a boot shows at most: some hundred lines.
const SHOWN_MISTAKES: usize = 16 << 10;

/// Something that waits for an answer of a worker.
#[derive(Debug)]
pub(super) enum Flow {
    /// The store is being opened.
    Open,
    /// A state file is being compiled.
    Compile(Plan),
    /// A generation is being made of a compiled manifest.
    Prepare { plan: Plan, fd: OwnedFd, staging: ManifestRef },
    /// A generation is being fetched.
    Load { call: u64 },
}

impl Flow {
    /// What it waits for.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Flow::Open => "the store to be opened",
            Flow::Compile(_) => "a state file to be compiled",
            Flow::Prepare { .. } => "a generation to be stored",
            Flow::Load { .. } => "a generation to be read",
        }
    }
}

/// What is to come of a state file.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Whom to answer; 0 for nobody.
    pub call: u64,
    /// How it is swapped in.
    pub kind: Swap,
    /// Refused unless this is the current generation.
    pub if_generation: Option<u64>,
    /// Lift all holds.
    pub release: bool,
    /// For the history.
    pub note: String,
    /// The state file, for messages.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
    /// At a boot: the generation that this machine had.
    pub had: Option<u64>,
    /// What it is compiled from; nothing of a generation that is in the store.
    pub order: Option<Order>,
}

/// What is compiled, for whom and on top of what: once more where the layers beside it change meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The state.
    pub source: Source,
    /// Its bytes, for one that came as a descriptor.
    pub fd: Option<Rc<OwnedFd>>,
    /// User and group whose rights count.
    pub ids: (u32, u32),
    /// Only a part of it.
    pub pick: Option<Pick>,
    /// Which layer it becomes.
    pub layer: LayerChange,
    /// The generation whose other layers stay; alone without.
    pub onto: Option<u64>,
}

/// How far the boot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum BootStage {
    /// The mount that carries the store is not there yet.
    AwaitsStore,
    /// The store is being opened.
    Opens,
    /// The state file is being compiled and prepared.
    Compiles,
    /// The machine has the generation that it should have.
    Done,
    /// It cannot have that: init has died of it twice. Another one may be applied by hand.
    Refused,
}

impl Shell {
    fn own_token(&mut self) -> u64 {
        self.counter += 1;
        OWN | self.counter
    }

    /// The manifest and generation that are wanted once the engine has heard of all that waits for it.
    pub(super) fn wanted(&self) -> (ManifestRef, u64) {
        let swaps = self.queue.iter().filter_map(|(_, event)| match event {
            Event::Swapped { kind: Swap::Undo | Swap::Purge, .. } => None,
            Event::Swapped { manifest, generation, .. } => Some((*manifest, *generation)),
            _ => None,
        });
        swaps.last().unwrap_or_else(|| self.engine.coming())
    }

    fn await_flow(&mut self, token: u64, flow: Flow) {
        self.flows.begin(token, flow, now());
    }

    /// When the first answer is late.
    pub(super) fn flow_deadline(&self) -> Option<Mono> {
        self.flows.deadline()
    }

    /// Gives up what has waited too long: a worker that hangs on a dead disk may not even be killed, so that its
    /// connection is closed as well.
    pub(super) fn end_late_flows(&mut self, at: Mono) {
        let workers = &self.workers;
        let late = self.flows.late(at, |role| {
            let mut tasks = workers.values().filter(|w| w.role == role).flat_map(|w| w.link.tasks());
            tasks.any(|t| matches!(t, Task::Batch(_)))
        });
        for (token, role, what) in late {
            let worker = self.workers.iter().find(|(_, w)| w.role == role).map(|(number, _)| *number);
            let text =
                format!("{what} within {} s: does its disk, or a mount, still answer?", FLOW_MS / 1000);
            if let Some(number) = worker {
                self.give_worker_up(number, &text);
            }
            // What the worker knew nothing of has failed all the same.
            match role {
                Role::Compiler => self.compiled(token, Err(text), Vec::new()),
                Role::Committer => self.stored(token, Err(text), Vec::new()),
            }
        }
    }

    fn refuse(&mut self, call: u64, failure: &Failure) {
        if call == 0 {
            self.say(Level::Error, None, &failure.to_string());
        } else {
            self.control_fail(call, failure);
        }
    }

    /// `Apply` of the control socket.
    pub(super) fn apply(&mut self, incoming: Incoming, asked: request::Apply) {
        let Incoming { call, descriptor, peer, .. } = incoming;
        let current = self.wanted().1;
        if asked.if_generation.is_some_and(|g| g != current) {
            return self.refuse(call, &Failure::Superseded { generation: current });
        }
        if !self.store_open {
            let text = self.no_store("apply");
            return self.refuse(call, &Failure::Unavailable { text });
        }
        let layer = LayerChange { name: asked.layer().to_owned(), remove: asked.remove };
        let (source, fd, name) = match (asked.path, asked.directory, descriptor) {
            _ if layer.remove => (Source::Path(String::new()), None, format!("layer {}", layer.name)),
            (Some(path), _, _) => (Source::Path(path.clone()), None, path),
            (None, Some(directory), Some(fd)) => {
                (Source::Memfd { directory }, Some(Rc::new(fd)), "standard input".to_owned())
            }
            _ => {
                let text = "no memfd came with the call".to_owned();
                return self
                    .refuse(call, &Failure::InvalidParameter { parameter: "directory".to_owned(), text });
            }
        };
        let part = |units: Vec<String>, word: &str| (format!("apply --{word} {} of", units.join(" ")), units);
        let (how, pick) = if !asked.only.is_empty() {
            let (how, units) = part(asked.only, "only");
            (how, Some(Pick::Only(units)))
        } else if !asked.except.is_empty() {
            let (how, units) = part(asked.except, "except");
            (how, Some(Pick::Except(units)))
        } else if layer.remove {
            ("remove".to_owned(), None)
        } else {
            ("apply".to_owned(), None)
        };
        let as_layer = match layer.name.as_str() {
            name if name == MAIN || layer.remove => String::new(),
            name => format!(" as layer {name}"),
        };
        let plan = Plan {
            call,
            kind: Swap::Apply,
            // What a part is put on top of must still be there then.
            if_generation: asked.if_generation.or(pick.as_ref().map(|_| current)),
            release: asked.release,
            note: format!("{how} {name}{as_layer} by uid {}", peer.uid),
            name,
            optional: false,
            had: None,
            order: None,
        };
        let ids = (peer.uid, peer.gid);
        self.compile(plan, Order { source, fd, ids, pick, layer, onto: Some(current) });
    }

    /// Why something that needs the store cannot be done. `initctl` waits until it can be, before it asks.
    fn no_store(&self, what: &str) -> String {
        match self.boot {
            BootStage::Done | BootStage::Refused => {
                format!("cannot {what}: there is no store; init has logged why it cannot be opened")
            }
            _ => format!("cannot {what}: the store is not open yet"),
        }
    }

    fn compile(&mut self, mut plan: Plan, order: Order) {
        let token = self.own_token();
        plan.order = Some(order.clone());
        self.await_flow(token, Flow::Compile(plan));
        self.ask_compile(token, order);
    }

    /// Compiles once more what was compiled on top of a generation that is no longer the one that is wanted: the layers
    /// beside it may be others. Gives the plan back where they cannot be.
    fn compile_again(&mut self, token: u64, mut plan: Plan) -> Option<Plan> {
        let current = self.wanted().1;
        let stale = |order: &&mut Order| order.onto.is_some_and(|onto| onto != current);
        // Who named a generation is told that it is another one.
        let order = plan.order.as_mut().filter(stale).filter(|_| plan.if_generation.is_none());
        let Some(order) = order else { return Some(plan) };
        order.onto = Some(current);
        let order = order.clone();
        self.await_flow(token, Flow::Compile(plan));
        self.ask_compile(token, order);
        None
    }

    /// `Rollback` of the control socket.
    pub(super) fn rollback(&mut self, call: u64, generation: Option<u64>) {
        if !self.store_open {
            let text = self.no_store("roll back");
            return self.refuse(call, &Failure::Unavailable { text });
        }
        // The generation of an apply under way is not the current one yet.
        let generation = generation.or_else(|| self.engine.returns_to());
        let token = self.own_token();
        self.await_flow(token, Flow::Load { call });
        self.ask_store(token, StoreOp::Load { generation });
    }

    /// The compiler has answered, or is gone.
    pub(super) fn compiled(&mut self, token: u64, result: Result<u32, String>, fds: Vec<OwnedFd>) {
        self.clients.waits.stir();
        let Some(plan) = self.flows.end_compile(token) else { return };
        let Some(plan) = self.compile_again(token, plan) else { return };
        let fd = fds.into_iter().next();
        let (fd, manifest) = match (result, fd) {
            (Ok(_), Some(fd)) => match manifests::map(fd.as_fd()) {
                Ok(manifest) => (fd, manifest),
                Err(e) => return self.not_swapped(plan, &Failure::Failed { text: e.to_string() }),
            },
            (Ok(_), None) => {
                let text = "cannot take a manifest: none came from the compiler".to_owned();
                return self.not_swapped(plan, &Failure::Failed { text });
            }
            // Nothing beside it: no fault of the state's, but of the machine's.
            (Err(text), None) => return self.not_swapped(plan, &Failure::Failed { text }),
            (Err(text), Some(fd)) => {
                let diagnostics = read_diagnostics(fd);
                return self.not_swapped(plan, &Failure::CompileFailed { text, diagnostics });
            }
        };
        drop(manifest);
        if let Err(e) = manifests::keep_across_exec(fd.as_fd()) {
            return self.not_swapped(plan, &Failure::Failed { text: e.to_string() });
        }
        // The engine's number comes with `install`, which has to stand right before the swap; until then the
        // worker knows the manifest by a number that the engine never gives.
        self.counter += 1;
        let staging = ManifestRef(u32::MAX - u32::try_from(self.counter & 0x3fff_ffff).unwrap_or_default());
        match fd.try_clone() {
            Ok(copy) => self.manifests.insert(staging, copy, 0),
            Err(e) => return self.not_swapped(plan, &Failure::Failed { text: e.to_string() }),
        }
        let own = self.own_token();
        let note = plan.note.clone();
        self.await_flow(own, Flow::Prepare { plan, fd, staging });
        self.ask_store(own, StoreOp::Prepare { manifest: staging, staged: token, note });
    }

    /// The store has answered, or the worker is gone.
    pub(super) fn stored(&mut self, token: u64, result: Result<StoreReply, String>, fds: Vec<OwnedFd>) {
        if token & OWN == 0 {
            return self.queue.push_back(Event::Recorded { token, error: result.err() });
        }
        self.clients.waits.stir();
        let Some(flow) = self.flows.end_stored(token) else { return };
        match flow {
            Flow::Open => self.store_opened(result, fds),
            Flow::Prepare { plan, fd, staging } => {
                self.forget(staging);
                match result {
                    Ok(StoreReply::Generation(generation)) => {
                        let mut plan = plan;
                        if plan.kind == Swap::Boot {
                            if plan.had != Some(generation) {
                                plan.kind = Swap::First;
                            }
                            // There is nothing to return to: it is the current one from here on.
                            let token = self.own_token();
                            self.ask_store(token, StoreOp::Commit { generation });
                        }
                        self.swap(plan, fd, generation);
                    }
                    // A container may have no place for a store; its state is applied all the same.
                    Err(text) if plan.kind == Swap::Boot => {
                        self.say(Level::Warning, None, &format!("nothing will be kept in the store: {text}"));
                        self.swap(Plan { kind: Swap::First, ..plan }, fd, 1);
                    }
                    other => self.not_swapped(plan, &unexpected(other)),
                }
            }
            Flow::Load { call } => match (result, fds.into_iter().next()) {
                (Ok(StoreReply::Loaded { generation }), Some(fd)) => {
                    let plan = Plan {
                        call,
                        kind: Swap::Rollback,
                        if_generation: None,
                        release: false,
                        note: String::new(),
                        name: format!("generation {generation}"),
                        optional: false,
                        had: None,
                        order: None,
                    };
                    self.swap(plan, fd, generation);
                }
                (Err(text), _) => self.refuse(call, &Failure::NoSuchGeneration { text }),
                (other, _) => self.refuse(call, &unexpected(other)),
            },
            // That is answered by the other worker.
            Flow::Compile(_) => {}
        }
    }

    /// Installs a manifest and tells the engine.
    fn swap(&mut self, plan: Plan, fd: OwnedFd, generation: u64) {
        let current = self.wanted().1;
        if plan.if_generation.is_some_and(|g| g != current) {
            return self.not_swapped(plan, &Failure::Superseded { generation: current });
        }
        let token = self.own_token();
        let Some(plan) = self.compile_again(token, plan) else { return };
        let manifest = match manifests::map(fd.as_fd()) {
            Ok(manifest) => manifest,
            Err(e) => return self.not_swapped(plan, &Failure::Failed { text: e.to_string() }),
        };
        if let Err(e) = manifests::keep_across_exec(fd.as_fd()) {
            return self.not_swapped(plan, &Failure::Failed { text: e.to_string() });
        }
        let number = self.engine.install(manifest);
        self.manifests.insert(number, fd, generation);
        self.swapped_calls.insert(plan.call);
        self.queue.push_back(Event::Swapped {
            request: plan.call,
            manifest: number,
            generation,
            kind: plan.kind,
            release: plan.release,
        });
    }

    /// What a swap is to the boot, once the engine has taken it: the boot is done with the generation that the machine
    /// should have. Not before: who died of it twice would take over a machine that believes to have booted.
    pub(super) fn boots(&self, event: &Event) -> bool {
        match event {
            Event::Swapped { request: 0, kind: Swap::Boot | Swap::First, generation, .. } => *generation > 0,
            Event::Swapped { kind: Swap::Apply | Swap::Rollback, .. } => self.boot == BootStage::Refused,
            _ => false,
        }
    }

    /// The event is dropped, since init dies of it: nothing may wait for what it was to bring.
    pub(super) fn swap_dropped(&mut self, event: &Event) {
        let Event::Swapped { request, manifest, generation, kind, .. } = event else { return };
        let mut effects = Vec::new();
        self.engine.uninstall(*manifest, &mut effects);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.swapped_calls.remove(request);
        let text = format!("generation {generation} was not taken: init died of it twice");
        if *request != 0 {
            self.refuse(*request, &Failure::Failed { text });
        } else if kind.boots() {
            if *generation > 0 {
                self.set_boot(BootStage::Refused);
            }
            self.emergency(&text, "");
        } else {
            self.say(Level::Error, None, &text);
        }
    }

    fn not_swapped(&mut self, plan: Plan, failure: &Failure) {
        let absent = plan.optional && is_absent(failure);
        let boots = self.boot == BootStage::Compiles && plan.call == 0;
        if !absent && !boots {
            self.refuse(plan.call, failure);
        }
        if boots {
            self.set_boot(BootStage::Done);
            let (desired, _) = self.engine.desired();
            let empty = self.engine.manifest(desired).is_none_or(units::Manifest::is_empty);
            if !absent {
                let (why, mistakes) = why_not(&plan.name, failure);
                self.emergency(&why, &mistakes);
            } else if !self.store_open && !self.options.container {
                self.emergency(&format!("the store cannot be opened, and there is no {}", plan.name), "");
            } else if empty && !self.options.container {
                self.emergency(&format!("nothing to run: no generation, and no {}", plan.name), "");
            } else if empty {
                let text = format!(
                    "nothing to run: no generation in {}, and no {}; `initctl apply FILE` gives it a state. \
                     `init --state FILE` runs a state at once, `init -- COMMAND` one command",
                    self.options.store.display(),
                    plan.name
                );
                self.say(Level::Warning, None, &text);
            }
        }
    }

    pub(super) fn set_boot(&mut self, stage: BootStage) {
        self.boot = stage;
        self.shell_changed = true;
        self.clients.waits.stir();
    }

    /// Takes the manifest beside `init`, or the empty one.
    pub(super) fn boot_generation_zero(&mut self) {
        let path = self.options.boot_manifest.clone();
        // The initramfs or image that PID 1 itself comes from: the one file that it reads, before all else.
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return self.set_boot(BootStage::AwaitsStore);
            }
            Err(e) => return self.emergency(&format!("cannot read {}: {e}", path.display()), ""),
        };
        let taken = manifests::seal(&bytes)
            .map_err(|e| e.to_string())
            .and_then(|fd| manifests::map(fd.as_fd()).map(|m| (fd, m)).map_err(|e| e.to_string()));
        match taken {
            Ok((fd, manifest)) => {
                let number = self.engine.install(manifest);
                self.manifests.insert(number, fd, 0);
                self.queue.push_back(Event::Swapped {
                    request: 0,
                    manifest: number,
                    generation: 0,
                    kind: Swap::Boot,
                    release: false,
                });
            }
            Err(text) => {
                self.emergency(&format!("cannot load generation 0 from {}: {text}", path.display()), "");
            }
        }
        self.set_boot(BootStage::AwaitsStore);
    }

    /// Opens the store once the mount that carries it is there.
    pub(super) fn advance_boot(&mut self) {
        if self.boot != BootStage::AwaitsStore || !self.queue.is_empty() || self.engine.going_down().is_some()
        {
            return;
        }
        if let Some(mount) = self.store_waits() {
            return self.store_is_late(mount);
        }
        self.set_boot(BootStage::Opens);
        let token = self.own_token();
        self.await_flow(token, Flow::Open);
        self.ask_store(token, StoreOp::Open);
    }

    /// The mount without which the store cannot be opened yet.
    pub(super) fn store_waits(&self) -> Option<cm_core::engine::Node> {
        let awaited = self.boot == BootStage::AwaitsStore;
        self.mount_above(&self.options.store).filter(|node| awaited && !self.is_ready(*node))
    }

    /// The managed mount that a path lies on, if there is one.
    pub(super) fn mount_above(&self, path: &Path) -> Option<cm_core::engine::Node> {
        let (desired, _) = self.engine.desired();
        let manifest = self.engine.manifest(desired)?;
        let above = path.ancestors().find_map(|a| manifest.find(Kind::Mount, a.to_str()?))?;
        self.engine.node_in(desired, above)
    }

    fn store_opened(&mut self, result: Result<StoreReply, String>, fds: Vec<OwnedFd>) {
        let mut left_over = None;
        let current = match result {
            Ok(StoreReply::Opened { current, interrupted, left }) => {
                self.store_open = true;
                self.shell_changed = true;
                self.queue.push_back(Event::StoreOpened);
                let mut fds = fds.into_iter();
                let current = current.and_then(|n| Some((n, fds.next()?)));
                let interrupted = interrupted.and_then(|n| Some((n, fds.next()?)));
                left_over = fds.next().filter(|_| left);
                if let Some((generation, fd)) = interrupted {
                    let text = format!("the apply of generation {generation} was interrupted: undoing it");
                    self.say(Level::Warning, None, &text);
                    // ORDER: before the swap to what it came from, which would otherwise repair what is to be undone.
                    let to = current.as_ref().map_or(0, |(n, _)| *n);
                    self.swap_beside(Swap::Undo, fd, generation, to);
                }
                current
            }
            Err(text) => {
                self.say(Level::Error, None, &format!("cannot open the store: {text}"));
                None
            }
            Ok(_) => None,
        };
        let had = current.as_ref().map(|(generation, _)| *generation);
        let plan = |name: String, optional: bool| Plan {
            call: 0,
            kind: Swap::Boot,
            if_generation: None,
            release: false,
            note: format!("boot from {name}"),
            name,
            optional,
            had,
            order: None,
        };
        let named = self.options.state.clone();
        match (current, named) {
            (Some((generation, fd)), None) => {
                self.set_boot(BootStage::Compiles);
                self.swap(plan(format!("generation {generation}"), false), fd, generation);
                if let Some(fd) = left_over {
                    self.swap_beside(Swap::Purge, fd, 0, generation);
                }
            }
            // What somebody names for this boot wins: it may be how a machine is rescued from what the store holds.
            (current, named) => {
                self.set_boot(BootStage::Compiles);
                let optional = named.is_none();
                let path = named.unwrap_or_else(|| "/etc/holdfast/state.toml".into());
                let name = path.display().to_string();
                if let (Some((generation, _)), false) = (current, self.options.container) {
                    let text = format!(
                        "{name} was named for this boot, in place of generation {generation}; \
                         `initctl rollback {generation}` goes back to that"
                    );
                    self.say(Level::Warning, None, &text);
                }
                let layer = LayerChange { name: MAIN.to_owned(), remove: false };
                let source = Source::Path(name.clone());
                // Alone, so that no other layer keeps a machine from being rescued.
                let order = Order { source, fd: None, ids: (0, 0), pick: None, layer, onto: None };
                self.compile(plan(name, optional), order);
            }
        }
    }

    /// A manifest that is not to become the desired one: of generation `number`, and `about` the other one.
    fn swap_beside(&mut self, kind: Swap, fd: OwnedFd, number: u64, about: u64) {
        let taken = manifests::map(fd.as_fd())
            .map_err(|e| e.to_string())
            .and_then(|m| manifests::keep_across_exec(fd.as_fd()).map(|()| m).map_err(|e| e.to_string()));
        match taken {
            Ok(manifest) => {
                let manifest = self.engine.install(manifest);
                self.manifests.insert(manifest, fd, number);
                let (request, generation, release) = (0, about, false);
                self.queue.push_back(Event::Swapped { request, manifest, generation, kind, release });
            }
            Err(text) => {
                self.say(Level::Error, None, &format!("cannot take a manifest of the store: {text}"))
            }
        }
    }
}

fn unexpected(result: Result<StoreReply, String>) -> Failure {
    let text = match result {
        Ok(reply) => format!("the store gave an unexpected answer: {reply:?}"),
        Err(text) => text,
    };
    Failure::Failed { text }
}

/// Why a boot has no state, on one line; and the mistakes of the state, as `initctl check` shows them.
fn why_not(name: &str, failure: &Failure) -> (String, String) {
    let Failure::CompileFailed { diagnostics, .. } = failure else {
        return (format!("cannot apply {name}: {failure}"), String::new());
    };
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let mut mistakes = String::new();
    let mut shown: usize = 0;
    for text in diagnostics.iter().map(Located::render) {
        if mistakes.len() + text.len() > SHOWN_MISTAKES {
            break;
        }
        mistakes.push_str(&text);
        mistakes.push('\n');
        shown += 1;
    }
    let why = match (errors, diagnostics.len().saturating_sub(shown)) {
        (0, _) => format!("cannot apply {name}: {failure}"),
        (1, _) => format!("cannot apply {name}: 1 error"),
        (n, 0) => format!("cannot apply {name}: {n} errors"),
        (n, more) => {
            format!("cannot apply {name}: {n} errors; {more} more are shown by `initctl check {name}`")
        }
    };
    (why, mistakes)
}

/// Whether the state file itself is not there, and not a file that it names.
fn is_absent(failure: &Failure) -> bool {
    let Failure::CompileFailed { diagnostics, .. } = failure else { return false };
    diagnostics.iter().any(|d| d.id == ABSENT)
}

fn read_diagnostics(fd: OwnedFd) -> Vec<Located> {
    use std::io::{Read, Seek};
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MAX_DIAGNOSTICS).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
