//! The control socket in the loop: calls in, verbs to the engine, verdicts and progress out.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cm_core::engine::effect::{Job, Level, Tally, Verdict};
use cm_core::engine::event::{Down, Event, Verb};
use cm_core::engine::{Mono, Node};
use cm_core::pack::pack;
use serde::{Deserialize, Serialize};
use units::Address;

use super::swap::BootStage;
use super::token::{Token, Turn};
use super::view::{self, View};
use super::waits::{self, Waits};
use super::{Shell, now, workers::OWN};
use crate::control::answer::{self, Answer, Finished};
use crate::control::request::{self, How, Request};
use crate::control::server::{self, Incoming};
use crate::control::{Failure, Progress};
use crate::sys::reap::ExitStatus;
use crate::sys::spawn::{self, Launch, Output};

/// Most clients of the store that are hung up on at once: as many as the kernel lets wait.
const HANGUPS: usize = 4096;

/// Until somebody is let in again whom the kernel refused.
const AGAIN_MS: u64 = 1000;

/// Calls that wait for something.
#[derive(Debug, Default)]
pub struct Clients {
    /// Clients whose socket has become writable since their last turn.
    pub writable: BTreeSet<u64>,
    /// Commands: the call, and what is left of it.
    commands: BTreeMap<u64, Command>,
    /// The engine's requests that belong to a command.
    parts: BTreeMap<u64, u64>,
    pub waits: Waits,
    /// When those are let in whom the kernel refused.
    pub again: Option<Mono>,
}

/// Clients and what they wait for, for the init that goes on with them.
#[derive(Serialize, Deserialize)]
struct HandedClients {
    server: server::Handed,
    commands: BTreeMap<u64, Command>,
    parts: BTreeMap<u64, u64>,
    waits: Vec<waits::Handed>,
    swapped: BTreeSet<u64>,
}

/// A verb for several units: the engine answers each by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Command {
    left: u32,
    nodes: BTreeSet<Node>,
    verdict: Verdict,
    tally: Tally,
    texts: Vec<String>,
}

fn engine_verb(command: &request::Command) -> Verb {
    match command.verb {
        request::Verb::Start => Verb::Start,
        request::Verb::Stop => Verb::Stop,
        request::Verb::Restart => Verb::Restart,
        request::Verb::Reload => Verb::Reload,
        request::Verb::Pause => Verb::Pause,
        request::Verb::Resume => Verb::Resume,
        request::Verb::Hold => Verb::Hold,
        request::Verb::Release => Verb::Release,
        request::Verb::Kill => Verb::Kill(command.signal.unwrap_or(libc::SIGTERM)),
    }
}

impl Shell {
    fn view(&self) -> View<'_> {
        View { shell: self }
    }

    /// Does something with the server while it may ask the rest of the shell.
    fn with_server<R>(
        &mut self,
        act: impl FnOnce(&mut crate::control::server::Server, &View<'_>) -> R,
    ) -> Option<R> {
        let mut server = self.server.take()?;
        let result = act(&mut server, &self.view());
        self.server = Some(server);
        Some(result)
    }

    pub(super) fn accept_clients(&mut self) -> Turn {
        let Some(server) = &mut self.server else { return Turn::Drained };
        let (new, more) = server.accept();
        if server.take_refused() {
            self.clients.again = Some(now().after_ms(AGAIN_MS));
        }
        for (id, fd) in new {
            if self.watch(fd, Token::Client(id)) {
                self.ready.push(Token::Client(id));
            } else if let Some(server) = &mut self.server {
                server.give_up(id);
            }
        }
        if more { Turn::More } else { Turn::Drained }
    }

    pub(super) fn hear_client(&mut self, id: u64) -> Turn {
        let writable = self.clients.writable.remove(&id);
        let incoming = self.with_server(|server, view| {
            let mut calls = server.readable(id, view);
            if writable {
                calls.extend(server.writable(id, view));
            }
            calls
        });
        for call in incoming.unwrap_or_default() {
            self.call(call);
        }
        Turn::Drained
    }

    /// Connected clients, so that whoever follows an apply or what happens sees nothing of a re-exec.
    pub(super) fn hand_clients_over(&mut self) -> Option<Vec<u8>> {
        let handed = HandedClients {
            server: self.server.as_mut()?.hand_over(),
            commands: self.clients.commands.clone(),
            parts: self.clients.parts.clone(),
            waits: self.clients.waits.hand_over(),
            swapped: self.swapped_calls.clone(),
        };
        pack(&handed).ok()
    }

    /// The clients of the init before.
    pub(super) fn take_clients_over(&mut self, bytes: &[u8], take: &mut dyn FnMut(RawFd) -> Option<OwnedFd>) {
        let Ok(handed) = postcard::from_bytes::<HandedClients>(bytes) else { return };
        let Some(server) = &mut self.server else { return };
        let clients = server.take_over(handed.server, take);
        self.clients.commands = handed.commands;
        self.clients.parts = handed.parts;
        self.clients.waits.take_over(handed.waits);
        self.swapped_calls = handed.swapped;
        for (id, fd) in clients {
            self.register(fd, Token::Client(id));
        }
    }

    /// After each round: clients with more to do, waits that may be over, notes of the server.
    pub(super) fn settle_clients(&mut self) {
        self.check_waits();
        self.finish_container();
        if let Some(server) = &mut self.server {
            server.tell_news();
        }
        let incoming =
            self.with_server(|server, view| if server.has_work() { server.resume(view) } else { Vec::new() });
        for call in incoming.unwrap_or_default() {
            self.call(call);
        }
        let (notes, gone, work) = match &mut self.server {
            Some(server) if server.clients() > 0 => {
                server.time_halves(now());
                (server.take_notes(), server.take_abandoned(), server.has_work())
            }
            Some(server) => (server.take_notes(), server.take_abandoned(), server.has_work()),
            None => return,
        };
        for note in notes {
            self.say(Level::Warning, None, &note);
        }
        for call in gone {
            self.forget_call(call);
        }
        if work {
            // Their turn has ended before their work did: the loop must not wait.
            self.ready.push(Token::Control);
        }
    }

    /// Nobody waits for its answer.
    fn forget_call(&mut self, call: u64) {
        self.clients.waits.forget(call);
        if self.swapped_calls.remove(&call) {
            self.queue.push_back(Event::Unasked { request: call });
        }
        if self.clients.commands.remove(&call).is_some() {
            let queue = &mut self.queue;
            self.clients.parts.retain(|request, of| {
                if *of == call {
                    queue.push_back(Event::Unasked { request: *request });
                }
                *of != call
            });
        }
    }

    fn call(&mut self, incoming: Incoming) {
        let call = incoming.call;
        let going_down = self.engine.going_down().is_some();
        match incoming.request.clone() {
            Request::Apply(_) | Request::Rollback(_) | Request::Command(_) if going_down => {
                self.control_fail(call, &Failure::ShuttingDown);
            }
            Request::Apply(asked) => self.apply(incoming, asked),
            Request::Rollback(asked) => self.rollback(call, asked.generation),
            Request::Command(command) => self.command(call, incoming.peer.uid, &command),
            Request::Wait(wait) => {
                self.clients.waits.add(call, &wait);
                self.ready.push(Token::Control);
            }
            Request::Reexec(_) => {
                self.control_answer(call, &Answer::Begun);
                self.reexec_asked.get_or_insert(now());
                self.ready.push(Token::Control);
            }
            Request::Shutdown(asked) => {
                let down = match asked.how {
                    How::Poweroff => Down::Poweroff,
                    How::Reboot => Down::Reboot,
                    How::Halt => Down::Halt,
                    How::Exit => Down::Exit,
                };
                self.control_answer(call, &Answer::Begun);
                self.ask_shutdown(down, &format!("uid {}", incoming.peer.uid));
            }
            // Answered in the server.
            Request::Status(_)
            | Request::Tree(_)
            | Request::Events(_)
            | Request::Explain(_)
            | Request::Info(_)
            | Request::GetInfo(_)
            | Request::GetInterfaceDescription(_) => {}
        }
    }

    fn command(&mut self, call: u64, uid: u32, command: &request::Command) {
        let until = command.for_seconds.map(|s| now().after_ms(s.saturating_mul(1000)));
        let who = match uid {
            0 => "root".to_owned(),
            other => format!("uid {other}"),
        };
        let note = match &command.note {
            Some(why) => format!("{who}: {why}"),
            None => who,
        };
        let mut nodes = BTreeSet::new();
        for unit in &command.units {
            nodes.extend(Address::parse(unit).and_then(|a| self.engine.node(&a)));
        }
        for node in &nodes {
            self.counter += 1;
            let request = OWN | self.counter;
            self.clients.parts.insert(request, call);
            let verb = engine_verb(command);
            self.queue.push_back(Event::Asked { request, verb, node: *node, note: note.clone(), until });
        }
        let left = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let entry =
            Command { left, nodes, verdict: Verdict::Done, tally: Tally::default(), texts: Vec::new() };
        self.clients.commands.insert(call, entry);
        if left == 0 {
            self.finish_command(call);
        }
    }

    /// [`cm_core::engine::effect::Effect::Answer`].
    pub(super) fn answered(&mut self, request: u64, verdict: Verdict, tally: Tally, text: String) {
        self.clients.waits.stir();
        if let Some(call) = self.clients.parts.remove(&request) {
            if let Some(command) = self.clients.commands.get_mut(&call) {
                command.left = command.left.saturating_sub(1);
                add(&mut command.tally, tally);
                if verdict != Verdict::Done {
                    command.verdict = verdict;
                }
                if !text.is_empty() {
                    command.texts.push(text);
                }
                if command.left == 0 {
                    self.finish_command(call);
                }
            }
            return;
        }
        self.swapped_calls.remove(&request);
        let generation = self.engine.desired().1;
        if let Some(held) = self.manifests.get(self.engine.desired().0)
            && held.generation != generation
        {
            let desired = self.engine.desired().0;
            self.manifests.set_generation(desired, generation);
        }
        let finished = Finished { verdict: verdict.into(), generation, tally: tally.into(), text };
        if request == 0 {
            let level = if verdict == Verdict::Done { Level::Notice } else { Level::Warning };
            let reason =
                if finished.text.is_empty() { String::new() } else { format!(": {}", finished.text) };
            self.say(level, None, &format!("generation {generation}: {}{reason}", view::tally_words(tally)));
            return;
        }
        self.control_answer(request, &Answer::Finished(finished));
    }

    fn finish_command(&mut self, call: u64) {
        let Some(command) = self.clients.commands.remove(&call) else { return };
        let finished = Finished {
            verdict: command.verdict.into(),
            generation: self.engine.desired().1,
            tally: command.tally.into(),
            text: command.texts.join("; "),
        };
        self.control_answer(call, &Answer::Finished(finished));
    }

    pub(super) fn control_answer(&mut self, call: u64, answer: &Answer) {
        if let Some(server) = &mut self.server {
            server.answer(call, answer);
        }
    }

    pub(super) fn control_fail(&mut self, call: u64, failure: &Failure) {
        if let Some(server) = &mut self.server {
            server.fail(call, failure);
        }
    }

    /// [`cm_core::engine::effect::Effect::Publish`].
    pub(super) fn publish(&mut self, node: Node, text: &str) {
        self.clients.waits.changed(node);
        let swaps = self.swapped_calls.iter().copied().filter(|c| *c != 0);
        let commands = self.clients.commands.iter().filter(|(_, c)| c.nodes.contains(&node)).map(|(c, _)| *c);
        let calls: Vec<u64> = commands.chain(swaps).collect();
        let Some(server) = &mut self.server else { return };
        let listeners = server.has_listeners();
        if !listeners && calls.is_empty() {
            return;
        }
        let unit = self.engine.address(node).to_string();
        let (state, outcome) = view::told(&self.engine, node, text);
        if listeners {
            server.publish(&answer::Event {
                time: now().0,
                about: "unit".to_owned(),
                unit: Some(unit.clone()),
                state: Some(state),
                outcome,
                text: text.to_owned(),
            });
        }
        let progress = Progress { unit, state: Some(state), outcome, text: text.to_owned() };
        for call in calls {
            server.progress(call, &progress);
        }
    }

    /// Tells who listens what a service says of itself, which changes nothing else.
    pub(super) fn tell_said(&mut self, node: Node) {
        if !self.server.as_ref().is_some_and(|server| server.has_listeners()) {
            return;
        }
        let status = self.engine.status(node);
        let state = self.state_of(node, status.state, status.wanted).0;
        let Some(server) = &mut self.server else { return };
        server.publish(&answer::Event {
            time: now().0,
            about: "unit".to_owned(),
            unit: Some(status.address.to_string()),
            state: Some(state),
            outcome: None,
            text: self.said.text(node).unwrap_or_default(),
        });
    }

    /// Tells who waits for an apply what no unit tells.
    pub(super) fn tell_of_apply(&mut self, text: &str) {
        let progress = Progress { unit: String::new(), state: None, outcome: None, text: text.to_owned() };
        let Some(server) = &mut self.server else { return };
        for call in self.swapped_calls.iter().filter(|c| **c != 0) {
            server.progress(*call, &progress);
        }
    }

    /// Tells listeners something that is about no unit.
    pub(super) fn announce(&mut self, about: &str, text: &str) {
        if let Some(server) = self.server.as_mut().filter(|s| s.has_listeners()) {
            let event = answer::Event {
                time: now().0,
                about: about.to_owned(),
                unit: None,
                state: None,
                outcome: None,
                text: text.to_owned(),
            };
            server.publish(&event);
        }
    }

    /// [`cm_core::engine::effect::Effect::Converged`].
    pub(super) fn converged(&mut self) {
        self.clients.waits.stir();
        let Tally { not_kept, waiting, .. } = self.engine.tally();
        // As `status` says it: nothing is under way, and yet not all is as declared.
        let (about, text) =
            if not_kept + waiting > 0 { ("at-rest", "not converged") } else { ("converged", "") };
        self.announce(about, text);
    }

    /// The boot is no longer than the way to the generation that the machine should have.
    pub(super) fn is_booted(&self) -> bool {
        matches!(self.boot, BootStage::Done | BootStage::Refused)
    }

    /// Whether all that could still happen is that a device appears.
    fn only_awaits_devices(&self) -> bool {
        let mounting = self.spawns.iter().filter(|s| s.record.job == Job::Mount && !s.record.exited);
        (self.is_booted() || self.boot == BootStage::AwaitsStore)
            && self.flows.is_empty()
            && self.engine.only_awaits_devices(mounting.map(|s| s.record.node))
    }

    /// Whether nothing is under way any more.
    pub(super) fn is_at_rest(&self) -> bool {
        (self.is_booted() && self.engine.is_converged() && self.flows.is_empty())
            || self.only_awaits_devices()
    }

    /// A client wants to know something of the store: a process of its own answers, one at a time.
    pub(super) fn start_query(&mut self) -> Turn {
        if self.query.is_some() {
            // It takes further clients itself; when it has ended, the listener is looked at again.
            return Turn::Drained;
        }
        let Some(listener) = &self.store_listener else { return Turn::Drained };
        // Whether somebody is there at all: spawning for an edge of the past would find nobody.
        let mut polled = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap_or(0) == 0 {
            return Turn::Drained;
        }
        let text = |p: &std::path::Path| p.to_string_lossy().into_owned();
        let boot = self.options.boot_manifest.parent().map(text).unwrap_or_default();
        let mut argv = vec!["cm-worker".to_owned(), "query".to_owned()];
        for (flag, value) in [
            ("--store", text(&self.options.store)),
            ("--run", text(&self.options.run)),
            ("--control", text(&self.options.socket)),
            ("--boot", boot),
        ] {
            argv.extend([flag.to_owned(), value]);
        }
        let environment = self.worker_environment();
        let descriptors = [(3, listener.as_fd())];
        let cgroup = self.tree.as_ref().and_then(|t| t.create("holdfast.query").ok());
        let launch = Launch {
            argv: &argv,
            environment: &environment,
            output: Output::Inherit,
            descriptors: &descriptors,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            ..Launch::default()
        };
        match spawn::spawn(&launch) {
            Ok(spawned) => {
                let fd = listener.as_raw_fd();
                self.query = Some(self.own_started(spawned));
                self.shell_changed = true;
                self.deregister(fd);
            }
            Err(e) => {
                let more = drop_waiting(listener, HANGUPS) == HANGUPS;
                self.say(Level::Error, None, &format!("cannot answer a query of the store: {e}"));
                if more {
                    return Turn::More;
                }
            }
        }
        Turn::Drained
    }

    /// Whether it was the process that answered queries; the listener is watched again then.
    pub(super) fn query_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        if self.query != Some(pid) {
            return false;
        }
        self.query = None;
        self.shell_changed = true;
        if status != ExitStatus::Code(0)
            && let Some(listener) = &self.store_listener
        {
            let dropped = drop_waiting(listener, HANGUPS);
            let text = format!("the query of the store {status}; {dropped} more that waited were dropped");
            self.say(Level::Warning, None, &text);
        }
        if let Some(fd) = self.store_listener.as_ref().map(AsRawFd::as_raw_fd) {
            self.register(fd, Token::StoreListener);
        }
        true
    }
}

/// Hangs up on who waits at a listener, so that they learn it by the end of their connection; answers how many.
/// Left alone they would start the next process, and so on for ever. Who comes faster than that is dropped the next
/// time.
fn drop_waiting(listener: &OwnedFd, most: usize) -> usize {
    let accepted =
        || nix::sys::socket::accept(listener.as_raw_fd()).is_ok_and(|fd| nix::unistd::close(fd).is_ok());
    std::iter::repeat_with(accepted).take(most).take_while(|dropped| *dropped).count()
}

fn add(sum: &mut Tally, more: Tally) {
    let Tally { kept, changed, repaired, not_kept, held, waiting } = more;
    sum.kept = sum.kept.saturating_add(kept);
    sum.changed = sum.changed.saturating_add(changed);
    sum.repaired = sum.repaired.saturating_add(repaired);
    sum.not_kept = sum.not_kept.saturating_add(not_kept);
    sum.held = sum.held.saturating_add(held);
    sum.waiting = sum.waiting.saturating_add(waiting);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_comes_too_fast_is_not_dropped_in_one_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = OwnedFd::from(crate::control::socket::listen(&path, 0o600).unwrap());
        let mut clients: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert_eq!(drop_waiting(&listener, 3), 3);
        assert_eq!(clients[0].read(&mut [0]).unwrap(), 0);
        clients[3].set_nonblocking(true).unwrap();
        assert!(clients[3].read(&mut [0]).is_err(), "it waits for its turn");
        assert_eq!((drop_waiting(&listener, 3), drop_waiting(&listener, 3)), (2, 0));
    }
}
