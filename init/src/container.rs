//! `init [options] -- COMMAND ARG…`: one command as a container's only service.
//!
//! Reaps orphans, forwards every signal, and exits with the command's code. The command finds mask, dispositions,
//! descriptors and environment exactly as this process did. One wait without a time limit: an idle container never
//! wakes up.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::sys::reap::{self, ExitStatus};
use crate::sys::stdio::{self, complain};
use crate::sys::{foreign, raw, signals};

/// Exit code for bad usage.
const USAGE: i32 = 2;

const HELP: &str = "\
Usage: init [OPTIONS] -- COMMAND [ARG]...

Runs COMMAND, reaps orphans, forwards signals, exits with its code (126: cannot be executed, 127: not found,
128+N: ended by signal N).

  -g       forward signals to the command's process group, not only to the command
  -s       be a subreaper: reap orphans without being PID 1
  -p SIG   get this signal when the parent dies
  -e CODE  exit with 0 when the command exits with CODE (may be repeated)
  -w       warn on standard error when an orphan is reaped
  -v       say what is done (forwarded signals, reaped processes)
  -h       this help
";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    group: bool,
    subreaper: bool,
    parent_death: Option<i32>,
    clean: Vec<i32>,
    warn: bool,
    verbose: bool,
    help: bool,
    command: Vec<OsString>,
}

/// Whether a command line (without the program's name) asks for this mode.
pub fn is_wanted(arguments: &[OsString]) -> bool {
    arguments.iter().any(|a| a == "--")
}

fn parse(arguments: &[OsString]) -> Result<Options, String> {
    let mut out = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or("?");
        if text == "--" {
            out.command = rest.cloned().collect();
            return match out.command.is_empty() && !out.help {
                true => Err("no command after \"--\"".to_owned()),
                false => Ok(out),
            };
        }
        let letters = text.strip_prefix('-').filter(|l| !l.is_empty());
        let letters = letters.ok_or_else(|| format!("unknown argument \"{text}\" before \"--\""))?;
        for (at, letter) in letters.char_indices() {
            // An option's value stands in the same word or in the next one.
            let mut value = || {
                let here = letters.get(at + 1..).filter(|v| !v.is_empty());
                let value = here.or_else(|| rest.next().and_then(|a| a.to_str()));
                value.map(str::to_owned).ok_or_else(|| format!("option -{letter} needs a value"))
            };
            match letter {
                'g' => out.group = true,
                's' => out.subreaper = true,
                'w' => out.warn = true,
                'v' => out.verbose = true,
                'h' => out.help = true,
                'p' => {
                    let name = value()?;
                    let signal = signals::number(&name).ok_or_else(|| format!("\"{name}\" is no signal"))?;
                    out.parent_death = Some(signal);
                    break;
                }
                'e' => {
                    let code = value()?;
                    let number = code.parse().ok().filter(|c| (0..=255).contains(c));
                    out.clean.push(number.ok_or_else(|| format!("\"{code}\" is no exit code (0 to 255)"))?);
                    break;
                }
                _ => return Err(format!("unknown option \"-{letter}\"")),
            }
        }
    }
    Err("no \"--\" before the command".to_owned())
}

/// Runs the mode; returns the exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(text) => {
            complain(&format!("{text}; see init --help, init -h --"));
            return USAGE;
        }
    };
    if options.help {
        stdio::print(HELP);
        return 0;
    }
    match run(&options) {
        Ok(code) => code,
        Err(text) => {
            complain(&text);
            1
        }
    }
}

fn run(options: &Options) -> Result<i32, String> {
    let first = options.command.first().map(OsString::as_os_str).unwrap_or(OsStr::new("")).as_bytes();
    let name = String::from_utf8_lossy(first).into_owned();
    // ORDER: before anything can make a child or send a signal: what comes from here on waits for the loop.
    let inherited = foreign::block_all().map_err(|e| format!("cannot block signals: {e}"))?;
    if let Some(signal) = options.parent_death {
        foreign::signal_at_parent_death(signal).map_err(|e| format!("cannot watch the parent: {e}"))?;
    }
    if options.subreaper {
        foreign::become_subreaper().map_err(|e| format!("cannot become a subreaper: {e}"))?;
    } else if std::process::id() != 1 {
        complain(
            "not PID 1: orphans go to somebody else and stay zombies if nobody reaps them. Make it PID 1 (the \
             container's entry point, without a shell before it), or give -s, or start it by \
             `unshare --pid --fork --kill-child`",
        );
    }
    let main =
        foreign::run(&options.command, inherited).map_err(|e| format!("cannot start \"{name}\": {e}"))?;
    if options.verbose {
        complain(&format!("started \"{name}\" as {main}"));
    }
    loop {
        let (signal, sender) = foreign::wait();
        if signal != libc::SIGCHLD {
            forward(options, main, signal, sender);
        } else if let Some(status) = reap_all(options, main)? {
            return Ok(exit_code(options, status));
        }
    }
}

fn forward(options: &Options, main: i32, signal: i32, sender: i32) {
    let name = signals::name(signal).map_or_else(|| signal.to_string(), |n| format!("SIG{n}"));
    let target = if options.group { -main } else { main };
    match raw::kill(target, signal) {
        Ok(()) if options.verbose => complain(&format!("forwarded {name} of {sender} to {target}")),
        // Between its exit and SIGCHLD it is a zombie or gone: the exit follows.
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
        Err(e) => complain(&format!("cannot forward {name} to {target}: {e}")),
    }
}

/// Reaps everything that has ended; the main command's status if it has.
fn reap_all(options: &Options, main: i32) -> Result<Option<ExitStatus>, String> {
    let mut end = None;
    loop {
        let exit = reap::peek().map_err(|e| format!("cannot wait for children: {e}"))?;
        let Some(exit) = exit else { return Ok(end) };
        reap::reap(exit.pid).map_err(|e| format!("cannot reap {}: {e}", exit.pid))?;
        if exit.pid == main {
            end = Some(exit.status);
        } else if options.warn || options.verbose {
            complain(&format!("reaped orphan {}: {}", exit.pid, exit.status));
        }
    }
}

fn exit_code(options: &Options, status: ExitStatus) -> i32 {
    let code = status.shell_code();
    if options.clean.contains(&code) { 0 } else { code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options() {
        let out = parse(&words("-gs -p TERM -e143 -e 7 -vw -- sh -c x")).unwrap();
        let want = Options {
            group: true,
            subreaper: true,
            parent_death: Some(15),
            clean: vec![143, 7],
            warn: true,
            verbose: true,
            help: false,
            command: words("sh -c x"),
        };
        assert_eq!(out, want);
        assert_eq!(parse(&words("-- -- -g")).unwrap().command, words("-- -g"));
        assert!(is_wanted(&words("-g -- x")) && !is_wanted(&words("--state x")));
    }

    #[test]
    fn bad_usage_is_named() {
        let error = |text: &str| parse(&words(text)).unwrap_err();
        assert_eq!(error("-x -- a"), "unknown option \"-x\"");
        assert_eq!(error("-p NOPE -- a"), "\"NOPE\" is no signal");
        assert_eq!(error("-e 256 -- a"), "\"256\" is no exit code (0 to 255)");
        assert_eq!(error("--"), "no command after \"--\"");
        assert_eq!(error("-p"), "option -p needs a value");
        assert_eq!(error("word -- a"), "unknown argument \"word\" before \"--\"");
        assert_eq!(error("-g"), "no \"--\" before the command");
        assert!(parse(&words("-h --")).unwrap().help);
    }

    #[test]
    fn codes_are_mapped() {
        let options = Options { clean: vec![143], ..Options::default() };
        let killed = |signal| ExitStatus::Signal { signal, core: false };
        assert_eq!(exit_code(&options, killed(15)), 0);
        assert_eq!(exit_code(&options, killed(9)), 137);
        assert_eq!(exit_code(&options, ExitStatus::Code(3)), 3);
    }
}
