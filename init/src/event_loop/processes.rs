//! Starting processes, hearing from them, and burying them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use cm_core::engine::Node;
use cm_core::engine::effect::{Job, Level};
use cm_core::engine::event::{Event, Exit};
use cm_core::proto::ManifestRef;
use nix::fcntl::OFlag;
use units::kind::service::{Log, Ready};
use units::{Kind, UnitId};

use super::Shell;
use super::launch::{self, Declared};
use super::mounts::declared_above;
use super::notified::{Strangers, notify_place};
use super::spawns::{Record, Spawn};
use super::token::{Token, Turn};
use crate::control::output::MARK;
use crate::sys::cgroup::CgroupError;
use crate::sys::notify::NotifySocket;
use crate::sys::reap::{self, ExitStatus, ProcessId};
use crate::sys::spawn::{self, Launch, OWN_PROGRAM, Output, Status};
use crate::sys::{cgroup, helper, inherit, raw};

/// Most ended children that one turn buries, so that a storm of orphans does not keep services waiting.
const BURIALS: usize = 512;
/// Most turns that a service's notifications get before its end: as many as were queued then, up to a queue longer
/// than kernels have by default. Others of the service may still be sending.
const LAST_WORDS: usize = 64;

fn engine_exit(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal { signal, .. } => Exit::Signal(signal),
        ExitStatus::Unknown => Exit::Unknown,
    }
}

impl Shell {
    /// [`cm_core::engine::effect::Effect::Spawn`].
    pub(super) fn spawn_job(
        &mut self,
        node: Node,
        serial: u64,
        manifest: ManifestRef,
        unit: UnitId,
        job: Job,
        cause: &str,
    ) {
        let address = self.engine.address(node).to_string();
        let stood = self.engine.manifest(manifest);
        let spec = match stood.map(|m| m.kind(unit)) {
            Some(Kind::Service) => self.engine.service(manifest, unit).map(Declared::Service),
            _ => stood.and_then(|m| m.spec(unit)).map(Declared::Other),
        };
        // Only who waits for something younger asks for it.
        let since = if job == Job::AwaitPath { self.since(node) } else { 0 };
        // One that stands is repaired, and unmounted, where it stands, wherever its path leads by now.
        let stands = job == Job::Unmount || self.engine.glance(node).ready;
        let place = self.places.of(node).filter(|_| stands);
        let mut command = match launch::command(spec.as_ref(), job, since, place) {
            Ok(command) => command,
            Err(e) => return self.spawn_failed(serial, e.to_string(), libc::EINVAL),
        };
        if job == Job::Unmount && !self.is_declared(node) {
            command.argv.push("leaves".to_owned());
        }
        if job == Job::Mount
            && let Some(m) = self.engine.manifest(manifest)
        {
            let place = |path: String| {
                let node = m.find(Kind::Mount, &path).and_then(|id| self.engine.node_in(manifest, id));
                node.and_then(|node| self.places.of(node)).map_or(path, str::to_owned)
            };
            command.argv.extend(declared_above(m, m.name(unit)).into_iter().map(place));
        }
        if job == Job::Main {
            self.said.forget(node);
            self.say(Level::Info, Some(&address), &format!("starting: {cause}"));
            if self.emergency.shell().is_some() && self.on_console().contains(&node) {
                self.end_emergency();
            }
        }
        let cgroup = launch::cgroup_name(&address, job);
        let clean = command.service.as_deref().is_some_and(|s| s.cgroup.is_empty());
        let (cgroup, directory) = match self.prepare_cgroup(cgroup, serial, &command, clean) {
            Ok(prepared) => prepared,
            Err(e) => return self.spawn_failed(serial, e.to_string(), e.errno()),
        };

        let mut notify = None;
        let mut notify_path = None;
        if command.notify {
            let path = self.notify_path(&address);
            // Its child gives it to the user that is declared.
            match NotifySocket::bind(&path, command.user.is_none()) {
                Ok(socket) => (notify, notify_path) = (Some(socket), path.to_str().map(str::to_owned)),
                Err(e) => {
                    let text = format!("cannot bind the notify socket \"{}\": {e}", path.display());
                    return self.spawn_failed(serial, text, e.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        let mut pipe = None;
        if let Some(number) = command.ready_fd {
            match nix::unistd::pipe2(OFlag::O_NONBLOCK) {
                Ok((reader, writer)) => pipe = Some((number, reader, writer)),
                Err(e) => return self.spawn_failed(serial, "cannot create a pipe".to_owned(), e as i32),
            }
        }
        let log = match command.log {
            Log::File => self.log_pipe(&address, command.service.as_deref()),
            Log::Console | Log::Null => None,
        };
        let log = log.and_then(|stream| self.streams.get(&stream)?.writer());

        let started = helper::tick();
        let spawned = {
            let mut descriptors = Vec::new();
            if let Some((number, _, writer)) = &pipe {
                descriptors.push((i32::try_from(*number).unwrap_or(-1), writer.as_fd()));
            }
            let mut request = Launch {
                argv: &command.argv,
                program: command.helper.then_some(OWN_PROGRAM),
                environment: &command.environment,
                user: command.user.as_deref(),
                group: command.group.as_deref(),
                directory: command.directory.as_deref(),
                output: match (&command.log, &log) {
                    _ if command.helper => Output::Inherit,
                    (Log::File, Some(pipe)) => Output::Descriptor(*pipe),
                    // A container's console is what its runtime gave to init.
                    (Log::Console, _) if self.options.container => Output::Inherit,
                    (Log::Console, _) => Output::Console,
                    _ => Output::Null,
                },
                descriptors: &descriptors,
                notify_socket: notify_path.as_deref(),
                main_pid: match job {
                    Job::Reload | Job::Stop => self.main_pid(node),
                    _ => None,
                },
                cgroup: directory.as_ref().map(AsFd::as_fd),
                share: self.options.first_process && !self.options.container,
                ..Launch::default()
            };
            if let Some(service) = &command.service {
                request.groups = &service.groups;
                request.umask = service.umask;
                request.limits = &service.limits;
                request.nice = service.nice;
                request.oom_score = service.oom_score;
                request.tty = service.tty.as_deref();
                request.watchdog_usec = service.watchdog.saturating_mul(1000);
            }
            spawn::spawn(&request)
        };
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(e) => {
                let errno = match &e {
                    spawn::SpawnError::Clone(_, e) | spawn::SpawnError::Pipe(_, e) => e.raw_os_error(),
                    _ => None,
                };
                return self.spawn_failed(serial, e.to_string(), errno.unwrap_or(libc::EINVAL));
            }
        };

        let (forks, pid_file) = match command.service.as_deref() {
            Some(s) if s.ready == Ready::Forked => (true, s.pid_file.clone()),
            _ => (false, None),
        };
        let mut entry = Spawn {
            record: Record {
                serial,
                node,
                manifest,
                unit,
                job,
                address: address.clone(),
                leader: spawned.pid,
                main: spawned.pid,
                starttime: 0,
                started,
                cgroup,
                settled: false,
                failed: false,
                exited: false,
                forks,
                pid_file,
                notify: None,
                ready: None,
                stage: None,
            },
            pidfd: None,
            stage: Some(Box::new(spawned.status)),
            notify,
            ready: pipe.map(|(_, reader, _)| reader),
            strangers: Strangers::default(),
            clean,
        };
        if let Some(stage) = &entry.stage
            && let Err(e) = inherit::set_close_on_exec(stage.as_fd(), false)
        {
            self.say(Level::Warning, Some(&address), &format!("cannot keep its status pipe: {e}"));
        }
        entry.note_descriptors();
        self.watch_spawn(&entry);
        self.spawns.insert(entry);
        self.has_spawned = true;
    }

    /// Whether what is wanted by now has this unit.
    fn is_declared(&self, node: Node) -> bool {
        let (address, desired) = (self.engine.address(node), self.engine.desired().0);
        self.engine.manifest(desired).is_some_and(|m| m.find(address.kind, &address.name).is_some())
    }

    /// Registers the descriptors of a spawn.
    pub(super) fn watch_spawn(&mut self, spawn: &Spawn) {
        let number = spawn.record.serial;
        if let Some(stage) = &spawn.stage {
            self.watch(stage.as_raw_fd(), Token::Stage(number));
        }
        if let Some(notify) = &spawn.notify {
            self.watch(notify.as_raw_fd(), Token::Notify(number));
        }
        if let Some(ready) = &spawn.ready {
            self.watch(ready.as_raw_fd(), Token::ReadyPipe(number));
        }
    }

    fn notify_path(&self, address: &str) -> PathBuf {
        notify_place(&self.options.run, address)
    }

    fn prepare_cgroup(
        &mut self,
        name: String,
        serial: u64,
        command: &launch::Command,
        clean: bool,
    ) -> Result<(String, Option<OwnedFd>), CgroupError> {
        let Some(tree) = &self.tree else { return Ok((name, None)) };
        // A restart: what has just become empty need not be removed and made again.
        if self.left_cgroups.remove(&name)
            && clean
            && let Some(directory) = tree.reopen(&name)
        {
            return Ok((name, Some(directory)));
        }
        let in_use = self.spawns.in_cgroup(&name);
        let (name, directory) = tree.create_fresh(&name, serial, in_use)?;
        if let Some(service) = &command.service {
            for (setting, value) in &service.cgroup {
                tree.set(&name, setting, value)?;
            }
        }
        Ok((name, Some(directory)))
    }

    fn spawn_failed(&mut self, serial: u64, stage: String, errno: i32) {
        self.queue.push_back(Event::SpawnFailed { serial, stage, errno });
    }

    /// A moment before the process of a service was there, see [`helper::tick`]: that of its start if it runs, else now.
    /// What an earlier run left is older than that.
    fn since(&self, node: Node) -> u64 {
        let running = self.spawns.of_node(node, Job::Main).filter(|s| !s.record.exited);
        running.map_or_else(helper::tick, |s| s.record.started)
    }

    /// The main process of a unit, if it has one.
    pub(super) fn main_pid(&self, node: Node) -> Option<i32> {
        let spawn = self.spawns.of_node(node, Job::Main)?;
        (!spawn.record.exited).then_some(spawn.record.main)
    }

    /// [`cm_core::engine::effect::Effect::Signal`].
    pub(super) fn signal(&mut self, serial: u64, signal: i32) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        // ORDER: before it is sent: what it says that it began after this may be due to it.
        if spawn.notify.is_some() {
            self.said.signalled(spawn.record.node);
        }
        // What somebody has stopped cannot hear that it has to end: whoever asks for that lets it run again.
        let ends = self.engine.status(spawn.record.node).state == "stopping";
        let signals = [signal].into_iter().chain(ends.then_some(libc::SIGCONT));
        let sent = if spawn.record.exited {
            // Without a main process the whole service hears it: a daemon that forked away and wrote no pid file.
            for signal in signals {
                self.each_member(serial, |pid| drop(raw::kill(pid, signal)));
            }
            Ok(())
        } else {
            signals.map(|signal| spawn.signal_main(signal)).fold(Ok(()), Result::and)
        };
        // A process that has ended meanwhile is no error: its exit is on the way.
        if let Err(e) = sent
            && e.raw_os_error() != Some(libc::ESRCH)
        {
            let address = spawn.record.address.clone();
            self.say(Level::Warning, Some(&address), &format!("cannot send signal {signal}: {e}"));
        }
    }

    fn each_member(&self, serial: u64, mut act: impl FnMut(i32)) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        let members = match &self.tree {
            Some(tree) => tree.members(&spawn.record.cgroup).unwrap_or_default(),
            None => cgroup::session_members(spawn.record.leader),
        };
        members.into_iter().filter(|pid| *pid > 1).for_each(&mut act);
    }

    /// [`cm_core::engine::effect::Effect::Kill`].
    pub(super) fn kill(&mut self, serial: u64) {
        self.spawns.killed(serial);
        let Some(spawn) = self.spawns.get(serial) else { return };
        let killed = match &self.tree {
            Some(tree) => tree.kill(&spawn.record.cgroup).map_err(|e| e.to_string()),
            None => {
                self.each_member(serial, |pid| drop(raw::kill(pid, libc::SIGKILL)));
                Ok(())
            }
        };
        // Also by itself: it may not have entered its cgroup yet.
        drop(spawn.signal_main(libc::SIGKILL));
        if let Err(text) = killed {
            let address = spawn.record.address.clone();
            self.say(Level::Error, Some(&address), &format!("cannot kill its processes: {text}"));
        }
        // What was killed may have been a cgroup that is empty already.
        self.check_empty(serial);
    }

    /// [`cm_core::engine::effect::Effect::Freeze`].
    pub(super) fn freeze(&mut self, serial: u64, frozen: bool) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        match &self.tree {
            Some(tree) => {
                if let Err(e) = tree.freeze(&spawn.record.cgroup, frozen) {
                    let address = spawn.record.address.clone();
                    self.say(Level::Warning, Some(&address), &e.to_string());
                }
            }
            None => {
                let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
                self.each_member(serial, |pid| drop(raw::kill(pid, signal)));
            }
        }
    }

    /// What a child's set-up has to say.
    pub(super) fn hear_stage(&mut self, serial: u64) -> Turn {
        let Some(spawn) = self.spawns.get_mut(serial) else { return Turn::Drained };
        let Some(stage) = &mut spawn.stage else { return Turn::Drained };
        let event = match stage.read() {
            Status::Pending => {
                // It may have said something: the next PID 1 has to know.
                spawn.note_descriptors();
                return Turn::Drained;
            }
            Status::Executed => Some(Event::Spawned { serial }),
            Status::Failed(failure) => {
                spawn.record.failed = true;
                Some(Event::SpawnFailed { serial, errno: failure.errno, stage: failure.to_string() })
            }
            // It was killed before its program ran: its exit says the rest.
            Status::Died => Some(Event::Spawned { serial }),
        };
        spawn.record.settled = true;
        let stage = spawn.stage.take();
        spawn.note_descriptors();
        if let Some(stage) = stage {
            self.deregister(stage.as_raw_fd());
        }
        self.queue.extend(event);
        Turn::Drained
    }

    /// The readiness pipe of the s6 protocol: one newline. A helper's says why it fails, in one line.
    pub(super) fn hear_ready(&mut self, serial: u64) -> Turn {
        let Some(spawn) = self.spawns.get_mut(serial) else { return Turn::Drained };
        let Some(pipe) = &spawn.ready else { return Turn::Drained };
        let mut buffer = [0; 512];
        let (mut seen, mut open, mut more) = (false, true, true);
        let node = spawn.record.node;
        let explains = matches!(spawn.record.job, Job::Mount | Job::Unmount | Job::Module);
        let mut why = Vec::new();
        for _ in 0..16 {
            match nix::unistd::read(pipe, &mut buffer) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    seen |= bytes.contains(&b'\n');
                    if explains {
                        why.extend_from_slice(bytes);
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    more = false;
                    break;
                }
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        // A helper that waits says so, and how it ends later.
        let over = if explains { !open } else { seen || !open };
        if over && let Some(pipe) = spawn.ready.take() {
            spawn.record.ready = None;
            self.deregister(pipe.as_raw_fd());
        }
        if seen {
            self.hear_stage(serial);
            let text = String::from_utf8_lossy(&why);
            let (places, reasons): (Vec<&str>, _) = text.lines().partition(|l| l.starts_with(helper::AT));
            if let Some(place) = places.last().and_then(|line| line.strip_prefix(helper::AT)) {
                self.place_told(node, place);
            }
            match reasons.last() {
                Some(why) => self.queue.push_back(Event::Explained { serial, why: (*why).to_owned() }),
                None if explains => {}
                None => self.queue.push_back(Event::Ready { serial }),
            }
        }
        if more && open && (explains || !seen) { Turn::More } else { Turn::Drained }
    }

    pub(super) fn is_member(&self, serial: u64, pid: i32) -> bool {
        let Some(spawn) = self.spawns.get(serial) else { return false };
        if pid == spawn.record.main {
            return true;
        }
        match &self.tree {
            Some(tree) => tree.members(&spawn.record.cgroup).is_ok_and(|m| m.contains(&pid)),
            None => cgroup::session_members(spawn.record.leader).contains(&pid),
        }
    }

    /// Another process becomes the main one of a spawn, if it belongs to the service.
    pub(super) fn adopt_main(&mut self, serial: u64, pid: i32) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        if pid == spawn.record.main && !spawn.record.exited {
            return;
        }
        let address = spawn.record.address.clone();
        if pid <= 1 || !self.is_member(serial, pid) {
            let text = format!("process {pid} is none of its own, and cannot be its main process");
            return self.say(Level::Warning, Some(&address), &text);
        }
        match ProcessId::of(pid).and_then(|id| id.open().map(|fd| (id, fd))) {
            Ok((id, pidfd)) => {
                self.register(pidfd.as_raw_fd(), Token::Main(serial));
                self.spawns.set_main(serial, Some((id, pidfd)));
                self.say(Level::Info, Some(&address), &format!("its main process is {pid} now"));
            }
            // It has ended already: what is left of the service ends with its cgroup.
            Err(_) => self.check_empty(serial),
        }
    }

    /// The pidfd of a main process that PID 1 did not start itself has become readable: it has ended. When it
    /// is a child by now, its status is there; otherwise only its own parent will ever know.
    pub(super) fn main_ended(&mut self, serial: u64) -> Turn {
        let Some(spawn) = self.spawns.get(serial).filter(|s| !s.record.exited) else { return Turn::Drained };
        if !spawn.pidfd.as_ref().is_some_and(|fd| reap::has_ended(fd.as_fd())) {
            return Turn::Drained;
        }
        match reap::peek_at(spawn.record.main) {
            Ok(Some(exit)) => drop(self.bury(exit)),
            // A tracer has it first; then SIGCHLD comes.
            Ok(None) => {}
            // Not "is it there": what its parent has not waited for yet is as dead, and nothing would wake us again.
            Err(_) => self.buried(serial, ExitStatus::Unknown),
        }
        Turn::Drained
    }

    /// Buries children that have ended.
    pub(super) fn sweep(&mut self) -> Turn {
        for _ in 0..BURIALS {
            match reap::peek() {
                Ok(Some(exit)) if self.bury(exit) => {}
                Ok(_) => return Turn::Drained,
                Err(e) => {
                    self.say(Level::Error, None, &format!("cannot wait for children: {e}"));
                    return Turn::Drained;
                }
            }
        }
        Turn::More
    }

    /// Buries a child that was peeked at: hear what it still had to say, tell the engine, reap. Answers whether it
    /// is gone.
    fn bury(&mut self, exit: reap::Exit) -> bool {
        let serial = self.spawns.of_pid(exit.pid);
        if let Some(serial) = serial {
            self.hear_stage(serial);
            if Turn::take(LAST_WORDS, || self.hear_notify(serial)) == Turn::More {
                self.ready.push(Token::Notify(serial));
            }
            if self.hear_ready(serial) == Turn::More {
                self.ready.push(Token::ReadyPipe(serial));
            }
            // ORDER: dispatched before it is reaped: if the step dies of it, the next PID 1 sees it again.
            self.buried(serial, exit.status);
            self.work();
        }
        if let Err(e) = reap::reap(exit.pid) {
            self.say(Level::Error, None, &format!("cannot reap process {}: {e}", exit.pid));
            return false;
        }
        match serial {
            Some(serial) => self.check_empty(serial),
            None => self.stranger_ended(exit.pid, exit.status),
        }
        true
    }

    /// A main process has ended and this is how.
    pub(super) fn buried(&mut self, serial: u64, status: ExitStatus) {
        let Some(spawn) = self.spawns.get_mut(serial) else { return };
        let record = spawn.record.clone();
        if let Some(pidfd) = spawn.pidfd.as_ref().map(AsRawFd::as_raw_fd) {
            self.deregister(pidfd);
        }
        self.spawns.set_main(serial, None);
        if record.address == MAIN_SERVICE && record.job == Job::Main {
            self.main_code = Some(status.shell_code());
        }
        if record.failed {
            return self.check_empty(serial);
        }
        if matches!(record.job, Job::Exec | Job::Undo) && status != ExitStatus::Code(0) {
            let exit = engine_exit(status);
            let line =
                self.last_words(&record.address).map(|line| format!(": {MARK}{line}")).unwrap_or_default();
            self.queue.push_back(Event::Explained { serial, why: format!("{exit}{line}") });
        }
        self.flush_log(&record.address);
        self.queue.push_back(Event::Exited { serial, exit: engine_exit(status) });
        if record.job == Job::Mount
            && let Some((node, _)) = self.engine.job(serial)
        {
            let repair = self.engine.glance(node).ready;
            self.mounts.answered(node, status == ExitStatus::Code(0), repair);
            self.ready.push(Token::Mounts);
        }
        if status == ExitStatus::Code(0) {
            self.find_daemon(serial);
        }
        self.check_empty(serial);
    }

    /// The parent of a daemon has ended, and which process that is is not known yet: it is asked for, once more where an
    /// earlier init died before it had the answer.
    pub(super) fn find_daemon(&mut self, serial: u64) {
        let Some(record) = self.spawns.get(serial).map(|s| &s.record) else { return };
        let ended = record.exited && record.main == record.leader;
        let runs = ["starting", "ready", "reloading"].contains(&self.engine.glance(record.node).state);
        if !(record.forks && ended && runs) {
            return;
        }
        match record.pid_file.clone() {
            Some(path) => self.read_pid_file(serial, &path),
            None => self.guess_main(serial),
        }
    }

    /// A forked daemon without a pid file: when exactly one process of the service is a child of init, which orphans are
    /// given to, it is the daemon.
    pub(super) fn guess_main(&mut self, serial: u64) {
        let own = i32::try_from(std::process::id()).ok();
        let mut adopted = Vec::new();
        self.each_member(serial, |pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok();
            if stat.and_then(|s| reap::parse_stat(&s)).is_some_and(|s| Some(s.ppid) == own) {
                adopted.push(pid);
            }
        });
        if let [pid] = adopted.as_slice() {
            self.adopt_main(serial, *pid);
        }
    }

    /// Tells the engine when nothing of a spawn is left.
    pub(super) fn check_empty(&mut self, serial: u64) {
        let Some(spawn) = self.spawns.get(serial) else { return };
        if !spawn.record.exited {
            return;
        }
        let (cgroup, failed, leader) =
            (spawn.record.cgroup.clone(), spawn.record.failed, spawn.record.leader);
        let empty = match &self.tree {
            Some(tree) => !tree.populated(&cgroup).unwrap_or(false) || self.watch_cgroup(serial, &cgroup),
            None => cgroup::session_members(leader).is_empty(),
        };
        if !empty {
            return;
        }
        let mut clean = false;
        if let Some(spawn) = self.spawns.remove(serial) {
            clean = spawn.clean;
            for fd in
                [spawn.notify.as_ref().map(AsRawFd::as_raw_fd), spawn.ready.as_ref().map(AsRawFd::as_raw_fd)]
            {
                fd.into_iter().for_each(|fd| self.deregister(fd));
            }
        }
        // A cgroup is left when a later spawn of the unit has entered it; it goes with that one.
        let shared = self.spawns.in_cgroup(&cgroup);
        if let (Some(tree), false) = (&self.tree, shared) {
            if clean {
                self.left_cgroups.insert(cgroup);
            } else {
                drop(tree.remove(&cgroup));
            }
        }
        if !failed {
            self.queue.push_back(Event::CgroupEmpty { serial });
        }
    }

    /// Removes the cgroups that nothing was started in again. A machine that goes down does not miss them.
    pub(super) fn remove_left_cgroups(&mut self) {
        let left = std::mem::take(&mut self.left_cgroups);
        if let Some(tree) = self.tree.as_ref().filter(|_| self.options.container || self.leaving.is_none()) {
            left.iter().for_each(|name| drop(tree.remove(name)));
        }
    }

    /// Waits until a cgroup is empty. Only who has survived the main process needs it, so that most services never have
    /// a watch. Answers whether it has become empty meanwhile.
    fn watch_cgroup(&mut self, serial: u64, cgroup: &str) -> bool {
        let (Some(tree), Some(empty)) = (&self.tree, &mut self.empty) else { return false };
        let Err(e) = empty.add(tree, cgroup) else {
            // ORDER: asked once more after the watch: what became empty before is told by nothing.
            return !tree.populated(cgroup).unwrap_or(false);
        };
        let gone = !tree.populated(cgroup).unwrap_or(false);
        if !gone && let Some(address) = self.spawns.get(serial).map(|s| s.record.address.clone()) {
            self.say(Level::Warning, Some(&address), &format!("cannot watch its cgroup: {e}"));
        }
        gone
    }

    /// Cgroups that may have become empty.
    pub(super) fn hear_cgroups(&mut self) -> Turn {
        let changed = self.empty.as_mut().map(|e| e.changed().unwrap_or_default()).unwrap_or_default();
        for name in changed {
            for serial in self.spawns.ended(Some(&name)) {
                self.check_empty(serial);
            }
        }
        Turn::Drained
    }
}

/// The service whose exit code a container leaves with.
pub const MAIN_SERVICE: &str = "service:main";
