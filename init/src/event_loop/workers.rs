//! Workers: started when there is something to do, talked to without waiting, missed when they are gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use cm_core::proto::{self, Intent, ManifestRef, Reply, Request, Step, StoreOp};
use cm_core::resource::world::LOGS;
use nix::sys::memfd::{MFdFlags, memfd_create};
use units::UnitId;

use super::hanging::Lost;
use super::link::{self, Heard, Link, REAPED, Task};
use super::swap::Order;
use super::token::{Token, Turn};
use super::{Shell, now};
use crate::sys::reap::ExitStatus;
use crate::sys::spawn::{self, Launch, Output, Status, StatusPipe};

/// Most replies of one worker in one turn.
const REPLIES: usize = 64;
/// Most such turns before events are handled: more than a socket holds.
const TURNS: usize = 64;
/// Tokens with this bit are the shell's own; the engine counts from 1.
pub(super) const OWN: u64 = 1 << 63;

/// What a worker is there for. Two, so that a state file that takes for ever to compile holds up no repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// Batches and the store.
    Committer,
    /// State files.
    Compiler,
}

/// A worker and the pipe on which its start is reported.
#[derive(Debug)]
pub struct Worker {
    /// The connection.
    pub link: Link,
    /// What for.
    pub role: Role,
    /// How its start went, until that is known.
    pub stage: Option<StatusPipe>,
    /// The memory in which it leaves at which step it is; not of one that an earlier PID 1 started.
    pub position: Option<File>,
}

impl Shell {
    /// The worker of a role, started if there is none.
    fn worker(&mut self, role: Role) -> Result<&mut Worker, String> {
        let found = self.workers.iter().find(|(_, w)| w.role == role).map(|(n, _)| *n);
        let number = match found {
            Some(number) => number,
            None => self.start_worker(role)?,
        };
        self.workers.get_mut(&number).ok_or_else(|| "cannot start cm-worker".to_owned())
    }

    /// What `cm-worker` gets, in whichever role.
    pub(super) fn worker_environment(&self) -> [(String, String); 2] {
        [
            // Looked up in the child: PID 1 opens no path on a disk.
            ("PATH".to_owned(), format!("{}:/usr/lib/holdfast", self.executable_directory)),
            (LOGS.to_owned(), self.options.logs.to_string_lossy().into_owned()),
        ]
    }

    fn start_worker(&mut self, role: Role) -> Result<u64, String> {
        let failed = |e: io::Error| format!("cannot start cm-worker: {e}");
        let (ours, theirs) = link::pair().map_err(failed)?;
        let name = match role {
            Role::Committer => "holdfast.worker",
            Role::Compiler => "holdfast.compiler",
        };
        let cgroup = match &self.tree {
            Some(tree) => Some(tree.create(name).map_err(|e| e.to_string())?),
            None => None,
        };
        let position = memfd_create(c"holdfast-position", MFdFlags::empty()).map_err(|e| failed(e.into()))?;
        let argv = ["cm-worker".to_owned()];
        let environment = self.worker_environment();
        let descriptors = [
            (proto::WORKER_FD, theirs.as_fd()),
            (proto::INOTIFY_FD, self.inotify.as_fd()),
            (proto::PUBLIC_INOTIFY_FD, self.public_inotify.as_fd()),
            (proto::POSITION_FD, position.as_fd()),
        ];
        let launch = Launch {
            argv: &argv,
            environment: &environment,
            output: Output::Inherit,
            descriptors: &descriptors,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            ..Launch::default()
        };
        let spawned = spawn::spawn(&launch).map_err(|e| e.to_string())?;
        self.counter += 1;
        let number = self.counter;
        self.register(ours.as_raw_fd(), Token::Worker(number));
        let mut link = Link::new(number, spawned.pid, ours);
        let text = |p: &std::path::Path| p.to_string_lossy().into_owned();
        let hello = Request::Hello {
            version: proto::VERSION,
            store: text(&self.options.store),
            run: text(&self.options.run),
            boot_contents: text(&self.options.boot_contents),
        };
        link.ask(&hello, Vec::new());
        self.workers.insert(
            number,
            Worker { link, role, stage: Some(spawned.status), position: Some(position.into()) },
        );
        self.shell_changed = true;
        Ok(number)
    }

    /// Tells a worker about a manifest unless it knows it.
    fn introduce(&mut self, role: Role, manifest: ManifestRef) -> Result<(), String> {
        if self.worker(role)?.link.knows(manifest) {
            return Ok(());
        }
        let held = self.manifests.get(manifest).cloned().ok_or("cannot find the manifest")?;
        let request = Request::Manifest { manifest, generation: held.generation };
        self.worker(role)?.link.ask(&request, vec![held.fd]);
        Ok(())
    }

    /// [`cm_core::engine::effect::Effect::Batch`].
    pub(super) fn ask_batch(&mut self, batch: u64, generation: u64, intent: Intent, steps: &[Step]) {
        if self.withholds(batch, generation, intent, steps) {
            return;
        }
        let mut known = None;
        let mut ask = || -> Result<(), String> {
            for step in steps {
                if known != Some(step.manifest) {
                    self.introduce(Role::Committer, step.manifest)?;
                    known = Some(step.manifest);
                }
            }
            let worker = self.worker(Role::Committer)?;
            for request in link::batch_packets(batch, generation, intent, steps) {
                worker.link.ask(&request, Vec::new());
            }
            Ok(())
        };
        if let Err(text) = ask() {
            self.say(Level::Error, None, &text);
            self.queue.push_back(Event::WorkerLost);
        }
    }

    /// Has what a unit owns marked in a fanotify group.
    pub(super) fn ask_mark(&mut self, token: u64, at: (ManifestRef, UnitId), group: Rc<OwnedFd>) {
        let (manifest, unit) = at;
        let asked = self.introduce(Role::Committer, manifest).and_then(|()| {
            let request = Request::Mark { token, manifest, unit };
            self.worker(Role::Committer)?.link.ask(&request, vec![group]);
            Ok(())
        });
        if let Err(text) = asked {
            self.marked(token, Err(text));
        }
    }

    /// Asks the store for something; `manifest` is introduced before.
    pub(super) fn ask_store(&mut self, token: u64, op: StoreOp) {
        let manifest = match &op {
            StoreOp::Prepare { manifest, .. } => Some(*manifest),
            _ => None,
        };
        let ask = || -> Result<(), String> {
            if let Some(manifest) = manifest {
                self.introduce(Role::Committer, manifest)?;
            }
            self.worker(Role::Committer)?.link.ask(&Request::Store { token, op }, Vec::new());
            Ok(())
        };
        if let Err(text) = ask() {
            self.stored(token, Err(text), Vec::new());
        }
    }

    /// Has a state compiled.
    pub(super) fn ask_compile(&mut self, token: u64, order: Order) {
        let Order { source, fd, ids: (uid, gid), pick, layer, onto } = order;
        // A part of a state goes on top of what is wanted now.
        let base = pick.as_ref().and_then(|_| self.manifests.get(self.wanted().0));
        let base = base.map(|held| Rc::clone(&held.fd));
        if pick.is_some() && base.is_none() {
            let text = "cannot apply a part: there is no generation yet, apply the whole state first";
            return self.compiled(token, Err(text.to_owned()), Vec::new());
        }
        let request = Request::Compile { token, source, layer, onto, uid, gid, pick };
        match self.worker(Role::Compiler) {
            Ok(worker) => worker.link.ask(&request, fd.into_iter().chain(base).collect()),
            Err(text) => self.compiled(token, Err(text), Vec::new()),
        }
    }

    /// [`cm_core::engine::effect::Effect::Forget`].
    pub(super) fn forget(&mut self, manifest: ManifestRef) {
        self.manifests.remove(manifest);
        for worker in self.workers.values_mut().filter(|w| w.link.knows(manifest)) {
            worker.link.ask(&Request::Forget { manifest }, Vec::new());
        }
    }

    /// [`cm_core::engine::effect::Effect::KillWorker`]: nobody waits for its end, which may never come. Who is in a call
    /// upon a disk or a server that does not answer cannot even be killed.
    pub(super) fn kill_worker(&mut self) {
        if self.give_parked_up() {
            return;
        }
        match self.workers.iter().find(|(_, w)| w.role == Role::Committer).map(|(number, _)| *number) {
            Some(number) => {
                self.lose_worker(number, "the worker does not answer: another one takes its place", true)
            }
            None => self.queue.push_back(Event::WorkerLost),
        }
    }

    /// Hands queued requests to the kernel.
    pub(super) fn flush_workers(&mut self) {
        let mut lost = Vec::new();
        for (number, worker) in &mut self.workers {
            if let Err(e) = worker.link.flush() {
                lost.push((*number, e.to_string()));
            }
        }
        for (number, text) in lost {
            self.lose_worker(number, &text, false);
        }
    }

    /// A worker's socket is readable or writable.
    pub(super) fn hear_worker(&mut self, number: u64) -> Turn {
        for _ in 0..REPLIES {
            let Some(worker) = self.workers.get_mut(&number) else { return Turn::Drained };
            match worker.link.hear() {
                Ok(Heard::Nothing) => return Turn::Drained,
                Ok(Heard::Reply(reply, fds)) => {
                    self.flows.goes_on(worker.role, now());
                    self.reply(*reply, fds);
                }
                Ok(Heard::End) => {
                    self.lose_worker(number, "", false);
                    return Turn::Drained;
                }
                Err(e) => {
                    self.lose_worker(number, &e.to_string(), false);
                    return Turn::Drained;
                }
            }
        }
        Turn::More
    }

    /// What all workers have said by now, as far as that has an end.
    pub(super) fn hear_workers(&mut self) {
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for number in numbers {
            for _ in 0..TURNS {
                if self.hear_worker(number) != Turn::More {
                    break;
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply, fds: Vec<OwnedFd>) {
        match reply {
            Reply::Hello { .. } => {}
            Reply::Results { batch, results } => self.queue.push_back(Event::Results { batch, results }),
            Reply::BatchDone { batch } => {
                self.forgive_committer();
                self.queue.push_back(Event::BatchDone { batch });
            }
            Reply::Watches(watches) => self.watches_added(watches, fds),
            Reply::Stored { token, result } => self.stored(token, result, fds),
            Reply::Compiled { token, result } => self.compiled(token, result, fds),
            Reply::Marked { token, result } => self.marked(token, result),
            Reply::Log { warning, text } => {
                let level = if warning { Level::Warning } else { Level::Info };
                self.say(level, None, &text);
            }
        }
    }

    /// Lets go of workers that have nothing to do: they end, and fresh ones come when there is something.
    pub(super) fn dismiss_workers(&mut self) {
        for worker in std::mem::take(&mut self.workers).into_values() {
            self.deregister(worker.link.as_raw_fd());
        }
        self.shell_changed = true;
    }

    /// A worker that hangs: what it was asked is not tried again.
    pub(super) fn give_worker_up(&mut self, number: u64, why: &str) {
        if let Some(worker) = self.workers.get_mut(&number) {
            drop(worker.link.take_unheard());
        }
        self.lose_worker(number, why, false);
    }

    /// A worker has gone, or is of no use: what it was asked has no answer. A batch that it `hangs` upon is for the
    /// engine to try again or not; what waited behind that is asked of the next worker.
    fn lose_worker(&mut self, number: u64, why: &str, hangs: bool) {
        let Some(mut worker) = self.workers.remove(&number) else { return };
        self.shell_changed = true;
        self.deregister(worker.link.as_raw_fd());
        let lost = Lost::of(&worker);
        if !why.is_empty() {
            drop(crate::sys::raw::kill(worker.link.pid, libc::SIGKILL));
        }
        let mut tasks = worker.link.tasks().clone();
        if tasks.is_empty() && why.is_empty() {
            if self.workers.is_empty() {
                self.rest_soon();
            }
            return;
        }
        let mut unheard = worker.link.take_unheard();
        if hangs {
            unheard.retain(|(request, _)| !matches!(request, Request::Batch { .. }));
        }
        if !tasks.is_empty() && !unheard.is_empty() {
            let held = |m: &ManifestRef| self.manifests.get(*m).map(|h| (*m, h.generation, Rc::clone(&h.fd)));
            let known: Vec<_> = worker.link.manifests().iter().filter_map(held).collect();
            let asked: Vec<Task> = unheard.iter().filter_map(|(request, _)| Task::of(request)).collect();
            if let Ok(fresh) = self.worker(worker.role) {
                fresh.link.succeed(known, unheard);
                tasks.retain(|task| !asked.contains(task));
                if tasks.is_empty() {
                    return;
                }
            }
        }
        let why = match worker.stage.as_mut().map(StatusPipe::read) {
            Some(Status::Failed(failure)) => format!("cannot start cm-worker: {failure}"),
            // Its socket closes a moment before its pipe does: what the pipe says is read when it is buried.
            stage => {
                let there = worker.link.pid != REAPED;
                if let (Some(Status::Pending), Some(pipe), true) = (stage, worker.stage.take(), there) {
                    self.own_stages.insert(worker.link.pid, pipe);
                }
                if why.is_empty() {
                    "the worker ended in the middle of its work".to_owned()
                } else {
                    why.to_owned()
                }
            }
        };
        self.say(Level::Error, None, &why);
        let mut batch = false;
        for task in tasks {
            match task {
                Task::Batch(_) => batch = true,
                Task::Store(token) => self.stored(token, Err(why.clone()), Vec::new()),
                Task::Compile(token) => self.compiled(token, Err(why.clone()), Vec::new()),
                Task::Mark(token) => self.marked(token, Err(why.clone())),
            }
        }
        if batch {
            let lost = self.lost_at(lost, worker.link.pid, hangs);
            self.queue.push_back(lost);
        }
    }

    /// A process of PID 1's own was started: the pipe on which that is reported is kept until it ends.
    pub(super) fn own_started(&mut self, spawned: spawn::Spawned) -> i32 {
        self.own_stages.insert(spawned.pid, spawned.status);
        spawned.pid
    }

    /// A child that is no unit's: a worker, the log daemon, an orphan.
    pub(super) fn stranger_ended(&mut self, pid: i32, status: ExitStatus) {
        if let Some(Status::Failed(failure)) = self.own_stages.remove(&pid).map(|mut s| s.read()) {
            self.say(Level::Error, None, &failure.to_string());
            self.emergency.not_executed(pid);
        }
        self.stuck_ended(pid);
        // Its socket says what becomes of its work, perhaps later.
        if let Some(worker) = self.workers.values_mut().find(|w| w.link.pid == pid) {
            worker.link.reaped();
            self.shell_changed = true;
            if status != ExitStatus::Code(0) {
                self.say(Level::Warning, None, &format!("cm-worker {status}"));
            }
        } else if !self.log_daemon_ended(pid, status) && !self.helper_ended(pid, status) {
            self.orphans += 1;
        }
    }
}
