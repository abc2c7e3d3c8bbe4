//! What a command line means: every default taken, every path absolute, every number a number. Pure.

use std::path::{Path, PathBuf};

use units::Kind;
use units::layer;
use units::value::{duration, signal};

use super::Environment;
use super::args::{self, Args};
use super::exit::Stop;
use super::keys;
use crate::control::request::{Command, How, Rollback, Verb, Wait};

/// Where init listens when nobody says otherwise.
pub const SOCKET: &str = "/run/holdfast/control";

/// A state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// Its absolute path.
    Path(String),
    /// Standard input; relative sources are below this directory.
    Stdin {
        /// Absolute.
        directory: String,
    },
}

/// A state, and which layer of the generation it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Which; nothing where the layer goes.
    pub file: Option<File>,
    /// Which layer; `main` without.
    pub layer: Option<String>,
}

/// What `explain` is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A unit of the machine.
    Unit(String),
    /// A table of the language, or one key in it.
    Key(Kind, Option<String>),
    /// A word at the top of a state file that is no kind.
    Word(&'static str),
}

/// The verb with everything it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Make a state file the new generation.
    Apply {
        /// Which.
        state: State,
        /// Only if this is the current generation.
        if_generation: Option<u64>,
        /// Lift all holds.
        release: bool,
        /// Only these units and what they depend on.
        only: Vec<String>,
        /// All but these units.
        except: Vec<String>,
    },
    /// Show what an apply would do.
    Plan {
        /// Of which state.
        state: State,
        /// Units with nothing to do too.
        all: bool,
        /// As if every hold were lifted.
        release: bool,
    },
    /// Compile here.
    Check(File),
    /// Compile among the layers of the machine.
    CheckLayer(State),
    /// Show units.
    Status {
        /// Which; all if empty.
        units: Vec<String>,
        /// Every one in a line of its own.
        all: bool,
    },
    /// Ask something of units.
    Command(Command),
    /// Return to a generation.
    Rollback {
        /// Which.
        rollback: Rollback,
        /// One too whose apply failed.
        force: bool,
    },
    /// Print the patch that declares a unit as it is.
    Adopt(String),
    /// Show output of services.
    Logs {
        /// Of which; of all without.
        unit: Option<String>,
        /// How many lines.
        lines: Option<u32>,
        /// Go on.
        follow: bool,
    },
    /// Show what happens.
    Events,
    /// Wait.
    Wait(Wait),
    /// List generations.
    Generations,
    /// Compare generations.
    Diff {
        /// The old one.
        from: Option<u64>,
        /// The new one.
        to: Option<u64>,
    },
    /// List saved versions, or print one.
    History {
        /// Of which unit; of all without.
        unit: Option<String>,
        /// Print this one, by the start of its id.
        show: Option<String>,
    },
    /// Explain.
    Explain(Subject),
    /// Draw the tree.
    Tree,
    /// Compare the machine with its generation.
    Verify {
        /// What is right too.
        all: bool,
    },
    /// Re-execute init.
    Reexec,
    /// Take the machine down.
    Shutdown {
        /// How.
        how: How,
        /// Without init, if it does not answer.
        force: bool,
    },
}

/// A command line, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Todo {
    /// The control socket.
    pub socket: PathBuf,
    /// The store to be read without init.
    pub store: Option<PathBuf>,
    /// For how many milliseconds answers are waited for; for ever without.
    pub timeout: Option<u64>,
    /// The verb.
    pub task: Task,
}

/// Resolves a command line.
///
/// # Errors
/// [`Stop::Usage`] for values that mean nothing and for what is not there yet.
pub fn resolve(args: Args, environment: &Environment) -> Result<Todo, Stop> {
    let named = args.socket.or_else(|| environment.socket.clone().map(PathBuf::from));
    let socket = environment.directory.join(named.unwrap_or_else(|| PathBuf::from(SOCKET)));
    let file = |path: PathBuf| file(&path, environment);
    let command = |verb, units: args::Units| {
        Task::Command(Command { verb, units: units.units, signal: None, for_seconds: None, note: None })
    };
    let task = match args.verb {
        args::Verb::Apply(apply) => apply_task(apply, environment)?,
        args::Verb::Plan { state: asked, all } => {
            Task::Plan { state: state(asked, environment)?, all, release: false }
        }
        args::Verb::Check { file: path, layer: None } => Task::Check(file(path)?),
        args::Verb::Check { file: path, layer } => {
            let asked = args::State { file: Some(path), layer, remove: false };
            Task::CheckLayer(state(asked, environment)?)
        }
        args::Verb::Status { units, all } => Task::Status { units, all },
        args::Verb::Start(units) => command(Verb::Start, units),
        args::Verb::Stop(units) => command(Verb::Stop, units),
        args::Verb::Restart(units) => command(Verb::Restart, units),
        args::Verb::Reload(units) => command(Verb::Reload, units),
        args::Verb::Pause(units) => command(Verb::Pause, units),
        args::Verb::Resume(units) => command(Verb::Resume, units),
        args::Verb::Release(units) => command(Verb::Release, units),
        args::Verb::Hold { units, duration, why } => Task::Command(Command {
            verb: Verb::Hold,
            units: units.units,
            signal: None,
            for_seconds: duration.map(|d| milliseconds("--for", &d)).transpose()?.map(|ms| ms.div_ceil(1000)),
            note: why,
        }),
        args::Verb::Kill { units, signal } => Task::Command(Command {
            verb: Verb::Kill,
            units: units.units,
            signal: Some(signal_number(&signal)?),
            for_seconds: None,
            note: None,
        }),
        args::Verb::Adopt { unit } => Task::Adopt(unit),
        args::Verb::Logs { unit, follow, lines } => Task::Logs { unit, lines, follow },
        args::Verb::Events => Task::Events,
        args::Verb::Wait { converged, ready } => {
            Task::Wait(Wait { converged: converged || ready.is_empty(), ready, store: false })
        }
        args::Verb::Generations => Task::Generations,
        args::Verb::Rollback { generation, force } => {
            Task::Rollback { rollback: Rollback { generation }, force }
        }
        args::Verb::Diff { from, to } => Task::Diff { from, to },
        args::Verb::History { unit, show } => Task::History { unit, show },
        args::Verb::Explain { what } => Task::Explain(subject(what)),
        args::Verb::Tree => Task::Tree,
        args::Verb::Verify { all } => Task::Verify { all },
        args::Verb::Reexec => Task::Reexec,
        args::Verb::Poweroff(down) => Task::Shutdown { how: How::Poweroff, force: down.force },
        args::Verb::Reboot(down) => Task::Shutdown { how: How::Reboot, force: down.force },
        args::Verb::Halt(down) => Task::Shutdown { how: How::Halt, force: down.force },
    };
    let reads = matches!(task, Task::Generations | Task::Diff { .. } | Task::History { .. });
    if args.store.is_some() && !reads {
        let text = "--store reads a store without init: generations, diff and history can do with that alone";
        return Err(Stop::Usage(text.to_owned()));
    }
    let store = args.store.or_else(|| environment.store.clone().map(PathBuf::from)).filter(|_| reads);
    let store = store.map(|s| environment.directory.join(s));
    let timeout = args.timeout.map(|t| milliseconds("--timeout", &t)).transpose()?;
    Ok(Todo { socket, store, timeout, task })
}

fn apply_task(apply: args::Apply, environment: &Environment) -> Result<Task, Stop> {
    let later =
        [("--watch", apply.watch), ("--confirm", apply.confirm.is_some()), ("--root", apply.root.is_some())];
    if let Some((flag, _)) = later.iter().find(|(_, given)| *given) {
        return Err(Stop::Usage(format!("apply {flag} is not supported yet")));
    }
    let part = !apply.only.is_empty() || !apply.except.is_empty();
    if part && apply.dry_run {
        let text = "--dry-run shows whole states; leave --only and --except out";
        return Err(Stop::Usage(text.to_owned()));
    }
    let state = state(apply.state, environment)?;
    let task = if apply.dry_run {
        Task::Plan { state, all: false, release: apply.release }
    } else {
        Task::Apply {
            state,
            if_generation: apply.if_generation,
            release: apply.release,
            only: apply.only,
            except: apply.except,
        }
    };
    Ok(task)
}

fn state(asked: args::State, environment: &Environment) -> Result<State, Stop> {
    if let Some(name) = &asked.layer {
        layer::check(name).map_err(|e| Stop::Usage(format!("--layer: {e}")))?;
    }
    if asked.remove && asked.layer.as_deref() == Some(layer::MAIN) {
        let text = "--remove: the layer main stays; apply an empty state in its place";
        return Err(Stop::Usage(text.to_owned()));
    }
    let file = asked.file.map(|path| file(&path, environment)).transpose()?;
    Ok(State { file, layer: asked.layer.filter(|name| name != layer::MAIN) })
}

fn file(path: &Path, environment: &Environment) -> Result<File, Stop> {
    let text = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| Stop::Usage(format!("path is not UTF-8: {}", p.display())))
    };
    if path == Path::new("-") {
        return Ok(File::Stdin { directory: text(&environment.directory)? });
    }
    let tidy: PathBuf = environment.directory.join(path).components().collect();
    Ok(File::Path(text(&tidy)?))
}

fn milliseconds(flag: &str, said: &str) -> Result<u64, Stop> {
    match duration::parse(said) {
        Ok(0) => Err(Stop::Usage(format!("{flag}: must be longer than nothing"))),
        Ok(ms) => Ok(ms),
        Err(e) => Err(Stop::Usage(format!("{flag}: {}", value_error(&e)))),
    }
}

fn signal_number(said: &str) -> Result<i32, Stop> {
    signal::parse(said).map_err(|e| Stop::Usage(format!("--signal: {}", value_error(&e))))
}

fn value_error(e: &units::value::ValueError) -> String {
    match &e.help {
        Some(help) => format!("{}; {help}", e.message),
        None => e.message.clone(),
    }
}

/// `service`, `service.exec`; anything else is a unit.
fn subject(what: String) -> Subject {
    if let Some(word) = keys::WORDS.into_iter().find(|w| *w == what) {
        return Subject::Word(word);
    }
    match what.split_once('.') {
        None => match Kind::from_word(&what) {
            Some(kind) => Subject::Key(kind, None),
            None => Subject::Unit(what),
        },
        Some((word, key)) => match Kind::from_word(word) {
            Some(kind) if !key.is_empty() => Subject::Key(kind, Some(key.to_owned())),
            _ => Subject::Unit(what),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn environment() -> Environment {
        Environment {
            directory: PathBuf::from("/root"),
            socket: None,
            store: None,
            terminal: false,
            colour: false,
            clock: crate::ctl::time::Clock { boot: 0, wall: 0 },
        }
    }

    fn todo(line: &str) -> Result<Todo, String> {
        let args = Args::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        resolve(args, &environment()).map_err(|e| e.to_string())
    }

    fn task(line: &str) -> Result<Task, String> {
        todo(line).map(|t| t.task)
    }

    #[test]
    fn lines_mean_what_they_say() {
        let path = |p: &str| File::Path(p.to_owned());
        let state = |file: Option<File>, layer: Option<&str>| State { file, layer: layer.map(str::to_owned) };
        let apply =
            |state| Task::Apply { state, if_generation: None, release: false, only: vec![], except: vec![] };
        let main = |file| apply(state(Some(file), None));
        assert_eq!(task("initctl apply ./a.toml"), Ok(main(path("/root/a.toml"))));
        assert_eq!(task("initctl apply a.toml --layer main"), Ok(main(path("/root/a.toml"))));
        assert_eq!(task("initctl apply -"), Ok(main(File::Stdin { directory: "/root".to_owned() })));
        assert_eq!(
            task("initctl apply --layer dropin:web /a.toml"),
            Ok(apply(state(Some(path("/a.toml")), Some("dropin:web"))))
        );
        assert_eq!(task("initctl apply --layer local --remove"), Ok(apply(state(None, Some("local")))));
        assert_eq!(
            task("initctl apply --dry-run /a.toml"),
            Ok(Task::Plan { state: state(Some(path("/a.toml")), None), all: false, release: false })
        );
        assert_eq!(
            task("initctl plan --layer local --remove"),
            Ok(Task::Plan { state: state(None, Some("local")), all: false, release: false })
        );
        assert_eq!(
            task("initctl check --layer local /a.toml"),
            Ok(Task::CheckLayer(state(Some(path("/a.toml")), Some("local"))))
        );
        let hold = Command {
            verb: Verb::Hold,
            units: vec!["nginx".to_owned()],
            signal: None,
            for_seconds: Some(3600),
            note: Some("why".to_owned()),
        };
        assert_eq!(task("initctl hold nginx --for 1h --why why"), Ok(Task::Command(hold)));
        let kill = Command {
            verb: Verb::Kill,
            units: vec!["a".to_owned(), "b".to_owned()],
            signal: Some(1),
            for_seconds: None,
            note: None,
        };
        assert_eq!(task("initctl kill -s HUP a b"), Ok(Task::Command(kill)));
        let wait = Wait { converged: true, ready: vec![], store: false };
        assert_eq!(task("initctl wait --timeout 1m30s"), Ok(Task::Wait(wait)));
        assert_eq!(todo("initctl wait --timeout 1m30s").unwrap().timeout, Some(90_000));
        let todo = todo("initctl --store s diff 1 2").unwrap();
        assert_eq!(
            (todo.store, todo.task),
            (Some("/root/s".into()), Task::Diff { from: Some(1), to: Some(2) })
        );
        assert_eq!(
            task("initctl explain service.exec"),
            Ok(Task::Explain(Subject::Key(Kind::Service, Some("exec".to_owned()))))
        );
        assert_eq!(task("initctl explain vars"), Ok(Task::Explain(Subject::Word("vars"))));
        assert_eq!(
            task("initctl explain nginx.service"),
            Ok(Task::Explain(Subject::Unit("nginx.service".to_owned())))
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (line, says) in [
            ("initctl apply a.toml --watch", "not supported yet"),
            ("initctl apply a.toml --only x --except y", "cannot be used with"),
            ("initctl apply a.toml --dry-run --only x", "leave --only"),
            ("initctl apply", "required"),
            ("initctl apply --remove", "required"),
            ("initctl apply a.toml --layer local --remove", "cannot be used with"),
            ("initctl apply --layer local --remove --only x", "cannot be used with"),
            ("initctl apply a.toml --layer web", "did you mean dropin:web?"),
            ("initctl apply --layer main --remove", "apply an empty state"),
            ("initctl hold a --for 5", "say the unit"),
            ("initctl kill a -s NOPE", "NOPE"),
            ("initctl stop", "required"),
            ("initctl --store /s status", "--store reads a store without init"),
            ("initctl history --show ab", "required"),
            ("initctl reloadd a", "reload"),
        ] {
            let said = task(line).unwrap_err();
            assert!(said.contains(says), "{line}: {said}");
        }
    }
}
