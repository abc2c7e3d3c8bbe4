//! Carries a resolved command line out: asks, and shows the answers.

mod change;
mod history;
mod offline;
mod store;
mod wait;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::client::{Client, ClientError, without_number};
use super::exit::{Exit, Stop};
use super::query::{self, Line};
use super::render;
use super::screen::Screen;
use super::todo::{File, SOCKET, State, Subject, Task, Todo};
use super::{Environment, check, keys, memfd, power};
use crate::control::answer::{EventReply, Explanation, StatusPage, TreePage, UnitStatus};
use crate::control::request::{Apply, Empty, Explain, How, Request, Shutdown, Status};
use crate::control::{self, Failure, Info, LOGS_SOCKET, STORE_SOCKET};

/// How long init may take to answer who would go without it.
const FORCED: Duration = Duration::from_secs(10);

/// What a verb has to work with.
struct Run<'a, 'b> {
    socket: &'a Path,
    /// The store that is read without init.
    store: Option<&'a Path>,
    /// Until when answers are waited for.
    deadline: Option<Instant>,
    /// Whether the verb changes the machine, so that its output is progress.
    changes: bool,
    environment: &'a Environment,
    screen: &'a mut Screen<'b>,
}

/// Carries it out.
///
/// # Errors
/// Everything that ends a run early.
pub fn carry_out(todo: Todo, environment: &Environment, screen: &mut Screen<'_>) -> Result<Exit, Stop> {
    let mut run = Run {
        socket: &todo.socket,
        store: todo.store.as_deref(),
        deadline: todo.timeout.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
        changes: matches!(todo.task, Task::Apply { .. } | Task::Rollback { .. }),
        environment,
        screen,
    };
    match todo.task {
        Task::Apply { state, if_generation, release, only, except } => {
            let asked = Apply { if_generation, release, only, except, ..Apply::default() };
            run.apply(state, asked)
        }
        Task::Rollback { rollback, force } => {
            run.await_store()?;
            if !force {
                run.refuse_returned(&rollback)?;
            }
            run.change(&Request::Rollback(rollback), None)
        }
        Task::Command(command) => run.change(&Request::Command(command), None),
        Task::Plan { state, all, release } => run.plan(state, all, release),
        Task::CheckLayer(state) => run.check_layer(state),
        Task::Check(file) => check::check(&file, &environment.directory, run.screen),
        Task::Status { units, all } => run.status(units, all),
        Task::Adopt(unit) => run.adopt(unit),
        Task::Logs { unit, lines, follow } => run.logs(unit, lines, follow),
        Task::Events => run.events(),
        Task::Wait(wait) => run.wait(&wait),
        Task::Generations => run.generations(),
        Task::Diff { from, to } => run.diff(from, to),
        Task::History { unit, show: None } => run.history(unit),
        Task::History { unit, show: Some(id) } => run.version(unit.unwrap_or_default(), &id),
        Task::Explain(Subject::Unit(unit)) => run.explain(unit),
        Task::Explain(Subject::Key(kind, key)) => {
            let page = keys::page(kind, key.as_deref(), run.screen.style)?;
            if run.screen.json {
                run.screen.object(json!({ "kind": kind.word(), "key": key, "text": page }))?;
            } else {
                run.screen.put(&page)?;
            }
            Ok(Exit::Done)
        }
        Task::Explain(Subject::Word(word)) => {
            let page = keys::word(word, run.screen.style);
            if run.screen.json {
                run.screen.object(json!({ "key": word, "text": page }))?;
            } else {
                run.screen.put(&page)?;
            }
            Ok(Exit::Done)
        }
        Task::Tree => run.tree(),
        Task::Verify { all } => run.verify(all),
        Task::Reexec => {
            let _: Value = run.client()?.call(&Request::Reexec(Empty {}).frame(false))?;
            run.begun("re-executing")
        }
        Task::Shutdown { how, force } => run.shutdown(how, force),
    }
}

/// A path; or a directory, and a descriptor.
type HandedOver = (Option<String>, Option<String>, Option<OwnedFd>);

/// How a state file gets to who reads it: by its path, or as a sealed memfd with the directory of its sources.
fn handed_over(file: Option<File>) -> Result<HandedOver, Stop> {
    Ok(match file {
        None => (None, None, None),
        Some(File::Path(path)) => {
            readable(&path)?;
            (Some(path), None, None)
        }
        Some(File::Stdin { directory }) => {
            (None, Some(directory), Some(memfd::seal(&mut std::io::stdin().lock())?))
        }
    })
}

/// A value as JSON; ours can all be said.
fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

impl Run<'_, '_> {
    fn client(&self) -> Result<Client, ClientError> {
        self.connect(self.socket)
    }

    fn connect(&self, path: &Path) -> Result<Client, ClientError> {
        Client::connect(path, self.deadline)
    }

    /// A socket beside the control socket.
    fn beside(&self, name: &str) -> Result<Client, ClientError> {
        self.connect(&control::beside(self.socket, name))
    }

    /// Who answers about the store: the query service, or without init a process of our own.
    fn query(&mut self) -> Result<Client, Stop> {
        if let Some(store) = self.store {
            let mut client = offline::client(store, self.socket)?;
            client.set_deadline(self.deadline);
            return Ok(client);
        }
        self.await_store()?;
        Ok(self.beside(STORE_SOCKET)?)
    }

    fn begun(&mut self, text: &str) -> Result<Exit, Stop> {
        if self.screen.json {
            self.screen.object(json!({ "begun": text }))?;
        }
        Ok(Exit::Done)
    }

    fn apply(&mut self, state: State, asked: Apply) -> Result<Exit, Stop> {
        let remove = state.file.is_none();
        let (path, directory, descriptor) = handed_over(state.file)?;
        self.await_store()?;
        let request = Request::Apply(Apply { path, directory, layer: state.layer, remove, ..asked });
        self.change(&request, descriptor.as_ref())
    }

    fn status(&mut self, names: Vec<String>, all: bool) -> Result<Exit, Stop> {
        let mut client = self.client()?;
        let some = !names.is_empty();
        let info: Info = client.call(&Request::Info(Empty {}).frame(false))?;
        let units = units(&mut client, some.then_some(names))?;
        let clock = &self.environment.clock;
        if self.screen.json {
            let units: Vec<Value> = units.iter().map(|u| self.unit_object(u)).collect();
            self.screen.object(json!({ "info": json_of(&info), "units": units }))?;
        } else if some {
            let pages: Vec<_> =
                units.iter().map(|u| render::status::unit(u, clock, self.screen.style)).collect();
            self.screen.put(&pages.join("\n"))?;
        } else {
            let text = render::status::machine(&info, &units, all, clock, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(if some {
            if units.iter().all(|u| u.state.is_ready()) { Exit::Done } else { Exit::Unreachable }
        } else if info.units.failed > 0 {
            Exit::NotKept
        } else {
            Exit::Done
        })
    }

    /// A unit as JSON: what init says, with wall-clock times beside those since boot.
    fn unit_object(&self, unit: &UnitStatus) -> Value {
        let clock = &self.environment.clock;
        let mut value = json_of(unit);
        if let Value::Object(members) = &mut value {
            // Of what was never anything else, and of files and the like, nobody noted the time.
            if unit.since == 0 {
                members.remove("since");
            } else {
                members.insert("sinceTime".to_owned(), json!(clock.text_of(unit.since)));
            }
            if let (Some(held), Some(Value::Object(shown))) = (&unit.held, members.get_mut("held")) {
                shown.insert("whenTime".to_owned(), json!(clock.text_of(held.when)));
                if let Some(until) = held.until {
                    shown.insert("untilTime".to_owned(), json!(clock.text_of(until)));
                }
            }
        }
        value
    }

    fn explain(&mut self, unit: String) -> Result<Exit, Stop> {
        let near = keys::nearest(&unit);
        let frame = Request::Explain(Explain { unit }).frame(false);
        let e: Explanation = match (self.client().and_then(|mut client| client.call(&frame)), near) {
            // No init has to run for a slip in the name of a kind to be seen.
            (Err(ClientError::Connect { socket, source }), Some(near)) => {
                let text = format!("{source}; if the state file is meant: did you mean {near}?");
                let source = std::io::Error::new(source.kind(), text);
                return Err(ClientError::Connect { socket, source }.into());
            }
            (Err(ClientError::Failure(Failure::NoSuchUnit { unit, nearest: None })), Some(near)) => {
                let text = format!("no such unit: {unit}; if the state file is meant: did you mean {near}?");
                return Err(Stop::Usage(text));
            }
            (answer, _) => answer?,
        };
        if self.screen.json {
            let mut value = json_of(&e);
            if let Value::Object(members) = &mut value {
                members.insert("status".to_owned(), self.unit_object(&e.status));
            }
            self.screen.object(json!({ "explanation": value }))?;
        } else {
            let page = render::explain::page(&e, &self.environment.clock, self.screen.style);
            self.screen.put(&page)?;
        }
        Ok(Exit::Done)
    }

    fn tree(&mut self) -> Result<Exit, Stop> {
        let mut nodes = Vec::new();
        self.client()?.stream(&Request::Tree(Empty {}).frame(true), None, |page: TreePage| {
            nodes.extend(page.nodes);
            Ok::<_, Stop>(())
        })?;
        if self.screen.json {
            self.screen.object(json!({ "nodes": nodes }))?;
        } else {
            let text = render::tree::draw(&nodes, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(Exit::Done)
    }

    fn events(&mut self) -> Result<Exit, Stop> {
        let clock = self.environment.clock;
        let streamed =
            self.client()?.stream(&Request::Events(Empty {}).frame(true), None, |reply: EventReply| {
                if self.screen.json {
                    let mut event = json_of(&reply.event);
                    if let Value::Object(members) = &mut event {
                        members.insert("wallTime".to_owned(), json!(clock.text_of(reply.event.time)));
                    }
                    self.screen.object(json!({ "event": event }))
                } else {
                    let line = render::history::event(&reply.event, &clock, self.screen.style);
                    self.screen.put(&line)
                }
            });
        followed(streamed)
    }

    fn logs(&mut self, unit: Option<String>, lines: Option<u32>, follow: bool) -> Result<Exit, Stop> {
        let typed = unit;
        let unit = match &typed {
            None => None,
            // The output of a unit that is gone can still be read, whatever else is named like it.
            Some(name) => Some(match self.resolved(name) {
                None | Some(Err(Stop::Client(ClientError::Failure(Failure::NoSuchUnit { .. })))) => {
                    as_typed(name)
                }
                Some(resolved) => resolved?,
            }),
        };
        let named = unit.is_none();
        let frame = query::frame("io.holdfast.Logs.Read", &query::Read { unit, lines, follow }, true);
        let streamed = self.beside(LOGS_SOCKET)?.stream(&frame, None, |line: Line| {
            let Some(text) = &line.line else { return Ok::<_, Stop>(()) };
            if self.screen.json {
                return self.screen.object(json!({ "line": json_of(&line) }));
            }
            let unit = line.unit.as_deref().filter(|_| named);
            let text =
                render::history::log(unit, line.time.as_deref().unwrap_or_default(), text, self.screen.style);
            self.screen.put(&text)
        });
        match streamed {
            // The log daemon knows of units only what they have written.
            Err(Stop::Client(ClientError::Failure(Failure::NoSuchUnit { unit, .. }))) => {
                let typed = typed.unwrap_or_else(|| unit.clone());
                let silent = |unit: &str| format!("initctl: {unit} has written nothing that is kept\n");
                match self.resolved(&typed) {
                    Some(Ok(unit)) => {
                        self.screen.err.write_all(silent(&unit).as_bytes()).map_err(Stop::Output)?;
                        Ok(Exit::Done)
                    }
                    Some(Err(stop)) => {
                        // So it is of a service of an apply that was returned, and that said nothing.
                        if units::Address::parse(&typed).is_some() {
                            self.screen.err.write_all(silent(&typed).as_bytes()).map_err(Stop::Output)?;
                        }
                        Err(stop)
                    }
                    None => Err(Stop::Usage(format!(
                        "no output of {unit} is kept: it has written none, or there is no such unit"
                    ))),
                }
            }
            other if follow => followed(other),
            other => other.map(|()| Exit::Done),
        }
    }

    /// What a typed name means, where the server that is asked next does not know the units. Without init it is
    /// taken as it is, a bare one as a service.
    fn address(&self, name: String) -> Result<String, Stop> {
        match self.resolved(&name) {
            // Who does not know it either will say so.
            None
            | Some(Err(Stop::Client(ClientError::Failure(Failure::NoSuchUnit { nearest: None, .. })))) => {
                Ok(as_typed(&name))
            }
            Some(resolved) => resolved,
        }
    }

    /// What init takes a name for; nothing when it does not run.
    fn resolved(&self, name: &str) -> Option<Result<String, Stop>> {
        let mut client = self.client().ok()?;
        let units = self::units(&mut client, Some(vec![name.to_owned()]));
        Some(units.map(|u| u.into_iter().next().map_or_else(|| name.to_owned(), |u| u.unit)))
    }

    fn shutdown(&mut self, how: How, force: bool) -> Result<Exit, Stop> {
        let deadline = match force {
            true => self.deadline.or(Instant::now().checked_add(FORCED)),
            false => self.deadline,
        };
        let asked = Client::connect(self.socket, deadline).and_then(|mut client| {
            client.call::<Value>(&Request::Shutdown(Shutdown { how }).frame(false)).map(|_| ())
        });
        match asked {
            Ok(()) => self.begun("going down"),
            // It was faster than its answer.
            Err(ClientError::Lost { .. }) => self.begun("going down"),
            Err(ClientError::Failure(failure)) => Err(ClientError::Failure(failure).into()),
            // Another socket is another init's, of a container or a try: the kernel knows this machine only.
            Err(_) if force && self.socket == Path::new(SOCKET) => power::force(how).map(|()| Exit::Done),
            Err(ClientError::Connect { socket, source }) if source.kind() != ErrorKind::PermissionDenied => {
                let text = match (force, self.socket == Path::new(SOCKET)) {
                    (false, true) => format!("{source}; --force goes without init"),
                    (true, _) => format!("{source}; --force is for the machine's own init, at {SOCKET}"),
                    (false, false) => source.to_string(),
                };
                let source = std::io::Error::new(source.kind(), text);
                Err(ClientError::Connect { socket, source }.into())
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A name as an address, without anyone who knows the units.
fn as_typed(name: &str) -> String {
    match units::Address::parse(name) {
        Some(address) => address.to_string(),
        None => format!("service:{}", name.strip_suffix(".service").unwrap_or(name)),
    }
}

/// How it ends to follow what comes: only a limit that was asked for ends it, as timeout(1) ends a command. That is no
/// mishap, and so there is no word about it.
fn followed(streamed: Result<(), Stop>) -> Result<Exit, Stop> {
    match streamed {
        Err(Stop::Client(ClientError::TimedOut { .. })) => Ok(Exit::TimedOut),
        Err(Stop::Client(ClientError::Lost { socket })) => Err(ClientError::Ended { socket }.into()),
        other => other.map(|()| Exit::Done),
    }
}

/// All units, or some.
fn units(client: &mut Client, names: Option<Vec<String>>) -> Result<Vec<UnitStatus>, Stop> {
    let mut units = Vec::new();
    let frame = Request::Status(Status { units: names }).frame(true);
    client.stream(&frame, None, |page: StatusPage| {
        units.extend(page.units);
        Ok::<_, Stop>(())
    })?;
    Ok(units)
}

/// A file that is not there is a mistake of the command line: said before anybody is asked.
fn readable(path: &str) -> Result<(), Stop> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(e) => Err(Stop::Usage(format!("cannot read {path}: {}", without_number(&e)))),
    }
}
