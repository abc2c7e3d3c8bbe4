//! `initctl`: what people type.
//!
//! Four steps, a file each: [`args`] is the command line as typed, [`mod@todo`] what it means once defaults, paths
//! and environment are resolved, [`verbs`] asks the machine, [`render`] makes text of the answers. The last one
//! is pure, so that tests read screens.
//!
//! **Invariant:** only this module uses clap and annotate-snippets; PID 1 links neither.

pub mod args;
pub mod arrival;
pub mod check;
pub mod client;
pub mod exit;
pub mod keys;
pub mod memfd;
pub mod power;
pub mod query;
pub mod render;
pub mod screen;
pub mod time;
pub mod todo;
pub mod verbs;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

pub use exit::Exit;

use render::style::Style;
use screen::{JSON_VERSION, Screen};
use time::Clock;

/// What a run depends on beside its arguments.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Relative paths are below it.
    pub directory: PathBuf,
    /// `HOLDFAST_SOCKET`.
    pub socket: Option<OsString>,
    /// `HOLDFAST_STORE`.
    pub store: Option<OsString>,
    /// Whether the output is a terminal, so that a last line may be drawn again.
    pub terminal: bool,
    /// Whether colours are wanted.
    pub colour: bool,
    /// The two clocks, read at the start.
    pub clock: Clock,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        let terminal = std::io::stdout().is_terminal();
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = variable("TERM").is_none_or(|t| t == "dumb");
        Environment {
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            socket: variable("HOLDFAST_SOCKET"),
            store: variable("HOLDFAST_STORE"),
            terminal: terminal && !dumb,
            // https://no-color.org: any value that is not empty.
            colour: terminal && !dumb && variable("NO_COLOR").is_none(),
            clock: Clock::now(),
        }
    }
}

/// All of `initctl`.
pub fn main() -> std::process::ExitCode {
    end_with_a_word();
    let environment = Environment::of_process();
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    run(by_name(std::env::args_os()), &environment, &mut out, &mut err).into()
}

/// Who presses Ctrl-C in the middle of an apply is told that this ends the telling and not the apply.
fn end_with_a_word() {
    use nix::sys::signal::{SigSet, Signal};
    let changes = std::env::args().any(|a| a == "apply" || a == "rollback");
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    if changes && interrupt.thread_block().is_ok() {
        std::thread::spawn(move || {
            if interrupt.wait().is_ok() {
                let text = "\ninitctl: what was begun goes on: `initctl wait` waits for it, `initctl rollback` gives it up\n";
                // Not by way of std, whose lock the other thread has; who is left to be told that this fails?
                let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
                std::process::exit(128 + Signal::SIGINT as i32);
            }
        });
    }
}

/// The names by which a machine has been switched off for ever: they stand for the verb of the same name.
const VERBS_BY_NAME: [&str; 3] = ["poweroff", "reboot", "halt"];

/// Called by one of those names, through a link, the verb need not be typed.
fn by_name(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let name = args.first().and_then(|a| PathBuf::from(a).file_name().map(OsString::from));
    if let Some(verb) = name.filter(|n| VERBS_BY_NAME.iter().any(|v| n == v)) {
        // What the help shows is to be typed as it stands.
        args.splice(..1, ["initctl".into(), verb]);
    }
    args
}

/// Carries one command line out.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let words: Vec<OsString> = args.into_iter().collect();
    let wants_json = words.iter().any(|w| w == "--json");
    let args = match args::Args::try_parse_from(words) {
        Ok(args) => args,
        Err(e) => {
            // Nobody is left to be told that this cannot be written.
            let text = e.to_string();
            let wrong = e.use_stderr();
            let _ = match (wants_json, wrong) {
                (true, true) => {
                    let error = json!({ "message": text.trim_end() });
                    writeln!(out, "{}", json!({ "error": error, "version": JSON_VERSION }))
                }
                (true, false) => writeln!(out, "{}", json!({ "help": text, "version": JSON_VERSION })),
                (false, true) => Ok(()),
                (false, false) => write!(out, "{text}"),
            };
            if wrong {
                let _ = write!(err, "{text}");
                return Exit::Usage;
            }
            return Exit::Done;
        }
    };
    let json = args.json;
    let mut screen = Screen {
        out,
        err,
        style: if environment.colour && !json { Style::Coloured } else { Style::Plain },
        json,
        live: environment.terminal && !json,
        drawn: false,
    };
    let done =
        todo::resolve(args, environment).and_then(|todo| verbs::carry_out(todo, environment, &mut screen));
    match done {
        Ok(exit) => exit,
        Err(stop) => screen.stopped(&stop),
    }
}

#[cfg(test)]
mod tests;
