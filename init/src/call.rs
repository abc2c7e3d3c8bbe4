//! How `init` was called: as PID 1 of a machine or of a container, or to run one command.

use std::path::{Path, PathBuf};

use crate::boot;
use crate::early;
use crate::event_loop::{FAULT, Fault, Found, FoundError, LIVE, Left, Options, Shell};
use crate::sys::stdio::{self, complain};
use crate::sys::{crash, pages};

/// Exit code for bad usage.
const USAGE: i32 = 2;
/// The inode of the initial pid namespace (`PROC_PID_INIT_INO` in the kernel): no interface tells it.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

const HELP: &str = "\
Usage: init [OPTIONS]                       be PID 1 of a machine or a container
       init [OPTIONS] -- COMMAND [ARG]...   run one command as a container's init

  --state FILE   the state file to run (default: the store's generation, then /etc/holdfast/state.toml)
  --store DIR    where generations are kept (default: $HOLDFAST_STORE, /var/lib/holdfast)
  --logs DIR     where logs are kept (default: /var/log/holdfast)
  --run DIR      the run-time directory (default: the socket's, /run/holdfast)
  --socket PATH  the control socket (default: $HOLDFAST_SOCKET, /run/holdfast/control)
  --cgroup DIR   the cgroup below which units get theirs (default: the own one)
  --boot DIR     where generation 0 lies: manifest and blobs (default: /usr/lib/holdfast/boot)
  --quiet        say warnings and errors only
  --version, --help (the second form's options: init -h --)
";

/// What a command line asks for.
enum Asked {
    Run(Box<Options>),
    Print(String),
    Wrong(String),
}

/// `machine`: as PID 1 of a machine, to which the kernel hands on what it does not know itself. Relative paths are
/// below `directory`.
fn parse(
    arguments: &[String],
    machine: bool,
    directory: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Asked {
    let mut options = Options { arguments: arguments.to_vec(), ..Options::default() };
    let mut run = None;
    if let Some(store) = environment("HOLDFAST_STORE") {
        options.store = directory.join(store);
    }
    if let Some(socket) = environment("HOLDFAST_SOCKET") {
        options.socket = directory.join(socket);
    }
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned());
        let place: &mut dyn FnMut(PathBuf) = match name {
            "--version" if !machine => {
                return Asked::Print(format!("holdfast {}\n", env!("CARGO_PKG_VERSION")));
            }
            "--help" | "-h" | "help" if !machine => return Asked::Print(HELP.to_owned()),
            "--quiet" => {
                options.loudness = cm_core::engine::effect::Level::Warning;
                continue;
            }
            "--state" => &mut |p| options.state = Some(p),
            "--store" => &mut |p| options.store = p,
            "--logs" => &mut |p| options.logs = p,
            "--run" => &mut |p| run = Some(p),
            "--socket" => &mut |p| options.socket = p,
            "--cgroup" => &mut |p| options.cgroup = Some(p),
            "--boot" => &mut |p| {
                options.boot_contents = p.join("blobs");
                options.boot_manifest = p.join("manifest");
            },
            _ if machine => continue,
            other if other.starts_with('-') => {
                return Asked::Wrong(format!("unknown option \"{other}\"; see init --help"));
            }
            other => {
                let text = format!(
                    "unknown argument \"{other}\": `init -- COMMAND` runs a command, `init --state FILE` a state; \
                     see init --help"
                );
                return Asked::Wrong(text);
            }
        };
        match value() {
            Some(value) => place(directory.join(value)),
            None => return Asked::Wrong(format!("{name} needs a value")),
        }
    }
    if let Some(directory) = options.socket.parent().filter(|d| !d.as_os_str().is_empty()) {
        options.run = directory.to_owned();
    }
    if let Some(run) = run {
        options.run = run;
    }
    Asked::Run(Box::new(options))
}

/// Runs what was asked for; returns the exit code.
pub fn main(arguments: Vec<String>) -> i32 {
    pages::keep_large_apart();
    let first = std::process::id() == 1;
    // Without /proc nothing can be told, not even whether this is a container.
    let mounted = first && early::mount_proc();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let container =
        !first || (!namespace.as_os_str().is_empty() && namespace.as_os_str() != FIRST_PID_NAMESPACE);
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let mut options = match parse(&arguments, !container, &directory, variable) {
        Asked::Run(options) => options,
        Asked::Print(text) => {
            stdio::print(&text);
            return 0;
        }
        Asked::Wrong(text) => {
            complain(&text);
            return USAGE;
        }
    };
    options.first_process = first;
    options.container = container;
    if !options.container {
        // Where the kernel starts it, and where services begin that declare no other place.
        let _cannot_fail = nix::unistd::chdir(c"/");
        for complaint in early::mount_all() {
            complain(&complaint);
        }
        if let Err(e) = crate::sys::signals::take_ctrl_alt_del() {
            complain(&format!("cannot take ctrl-alt-del: {e}"));
        }
        let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        if let (None, Some(state)) = (&options.state, early::kernel_word(&line, "holdfast.state")) {
            options.state = Some(state.into());
        }
    } else if mounted {
        early::unmount_proc();
    }
    options.fault = std::env::var(FAULT).ok().map(|text| Fault::parse(&text));
    if !first && options.state.is_none() {
        complain("not PID 1: name a state file (--state FILE) or a command (-- COMMAND); see init --help");
        return USAGE;
    }
    if !first && let Err(e) = nix::sys::prctl::set_child_subreaper(true) {
        complain(&format!("cannot become a subreaper: {e}"));
        return 1;
    }
    let deaths = crash::deaths();
    if first && crash::recent(&deaths) >= crash::HOPELESS {
        complain(&format!("died {} times in a minute: only reaping from here on", deaths.len()));
        crash::reap_for_ever();
    }
    let found = predecessor();
    if let Err(e) = boot::raise_limits(!options.container) {
        complain(&format!("cannot raise the limit of descriptors: {e}"));
    }
    if !options.container && found.is_none() {
        for complaint in boot::prepare() {
            complain(&complaint);
        }
    }
    let mut shell = match Shell::new(*options, found) {
        Ok(shell) => shell,
        Err(e) => {
            complain(&e.to_string());
            return 1;
        }
    };
    shell.remember_deaths(&deaths);
    if let Err(e) = shell.arm() {
        complain(&format!("cannot prepare for faults: {e}"));
    }
    // The table has what the next one needs, and which event this one died of.
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shell.run()))
        .unwrap_or_else(|_| crash::again());
    match left {
        Left::Code(code) => code,
        Left::Machine(down) => {
            crate::event_loop::power_down(down);
            0
        }
    }
}

/// What the init before this one left, if this one was executed by it.
fn predecessor() -> Option<Result<Found, FoundError>> {
    let number = std::env::var(LIVE).ok()?.parse().ok()?;
    // Not for services: the variable is the business of one exec only. One thread, so nobody reads meanwhile.
    Some(Found::read(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str], first: bool) -> Result<Options, String> {
        let arguments: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        match parse(&arguments, first, Path::new("/here"), |_| None) {
            Asked::Run(options) => Ok(*options),
            Asked::Print(text) | Asked::Wrong(text) => Err(text),
        }
    }

    #[test]
    fn paths_follow_the_socket() {
        let got = options(&["init", "--socket", "/x/y/control", "--state=/s.toml"], false).unwrap();
        assert_eq!((got.run, got.state), ("/x/y".into(), Some("/s.toml".into())));
        assert_eq!(options(&["init"], true).unwrap().run, PathBuf::from("/run/holdfast"));
        let got = options(&["init", "--state", "s.toml", "--store=st", "--socket", "run/c"], false).unwrap();
        assert_eq!((got.state, got.store), (Some("/here/s.toml".into()), "/here/st".into()));
        assert_eq!((got.socket, got.run), ("/here/run/c".into(), "/here/run".into()));
    }

    #[test]
    fn the_kernel_may_say_anything() {
        assert!(options(&["init", "splash", "--nonsense", "auto"], true).is_ok());
        assert!(options(&["init", "--nonsense"], false).unwrap_err().contains("--nonsense"));
        let wrong = options(&["init", "true"], false).unwrap_err();
        assert!(
            wrong.contains("\"true\"") && wrong.contains("init -- COMMAND") && wrong.contains("--state FILE")
        );
        for help in ["help", "-h", "--help"] {
            assert_eq!(options(&["init", help], false).unwrap_err(), HELP);
            assert!(options(&["init", help], true).is_ok());
        }
        assert!(options(&["init", "--version"], false).unwrap_err().starts_with("holdfast "));
        assert!(options(&["init", "--store"], false).unwrap_err().contains("needs a value"));
    }
}
