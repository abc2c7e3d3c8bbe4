//! The fast rig: `init` as PID 1 of fresh namespaces on this host, up in milliseconds.
//!
//! Each instance has a directory of its own (run-time files, store, logs, state files), a cgroup of its own, and its
//! own pid, mount, net, uts, ipc and cgroup namespaces; [`MANAGED`] is a directory of its own in there. When the test process
//! dies, however that happens, so does the instance: unshare(1) gets SIGKILL with its parent, init gets it with
//! unshare, and the kernel ends the namespace with init. Waits are for events, with a deadline; nothing sleeps.

mod dead_server;
pub mod program;
pub mod sleeper;
pub mod state;
pub mod store;
mod stream;
pub mod tree;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::context::Context;
use crate::scratch::{self, Scratch};
pub use stream::Lines;

/// Where states of the rig put what they manage: only the instance sees it so. It outlives init, as a disk does.
pub const MANAGED: &str = "/srv";
/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What an instance is started with.
#[derive(Debug, Clone, Default)]
pub struct Setup<'a> {
    /// `--state`: the container mode.
    pub state: Option<&'a str>,
    /// Generation 0, compiled and put beside `init`.
    pub first: Option<&'a str>,
    /// In a user namespace too, where cgroups are not to be had.
    pub user: bool,
    /// With a copy of /etc of its own, for states that change users.
    pub etc: bool,
    /// tmpfs mounted before init starts: below the instance's directory, with options.
    pub disks: &'a [(&'a str, &'a str)],
    /// It leaves by itself, perhaps before anybody could ask it anything.
    pub leaves: bool,
    /// Another place of the store than one outside the run-time directory.
    pub store: Option<&'a str>,
    /// Another place of the logs, relative to the instance's directory.
    pub logs: Option<&'a str>,
    /// It is not the first process of its namespace, and so a subreaper.
    pub second: bool,
    /// Variables for init.
    pub environment: &'a [(&'a str, &'a str)],
    /// For figures: its directory is in memory, and it is in its cgroup before init starts, so that all that it uses is
    /// counted there ([`Rig::processor`]).
    pub measured: bool,
    /// A program that init is run by, and its arguments, such as a tracer that stays in the background.
    pub run_by: &'a [&'a str],
}

/// What a program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A running instance.
#[derive(Debug)]
pub struct Rig {
    directory: Scratch,
    programs: PathBuf,
    cgroup: Option<PathBuf>,
    outside: Child,
    setup: Vec<String>,
}

fn cgroup_parent() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, _) = init::sys::cgroup::find_mount(&mounts)?;
    let parent = root.join(format!("holdfast-rig-{}", std::process::id()));
    (0..100)
        .map(|n| PathBuf::from(format!("{}-{n}", parent.display())))
        .find(|p| std::fs::create_dir(p).is_ok())
}

impl Rig {
    /// Starts an instance and waits until it answers.
    ///
    /// # Errors
    /// When a namespace cannot be made, or init does not answer in time; with what it said.
    pub fn start(context: &Context, setup: &Setup<'_>) -> Result<Rig> {
        let programs = context.programs()?.to_path_buf();
        let directory = if setup.measured { scratch::rig_in_memory()? } else { scratch::rig()? };
        let cgroup = if setup.user { None } else { cgroup_parent() };
        let mut words = Vec::new();
        let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let (store, logs) = (setup.store.unwrap_or("store"), setup.logs.unwrap_or("logs"));
        for (option, name) in [("--run", "run"), ("--store", store), ("--logs", logs), ("--boot", "boot")] {
            // An absolute path stays what it is.
            words.extend([option.to_owned(), at(name)]);
        }
        if let Some(cgroup) = &cgroup {
            words.extend(["--cgroup".to_owned(), cgroup.to_string_lossy().into_owned()]);
        }
        if let Some(first) = setup.first {
            state::write_boot(&directory.path().join("boot"), first)?;
        }
        if let Some(text) = setup.state {
            std::fs::write(directory.path().join("state.toml"), text)?;
            words.extend(["--state".to_owned(), at("state.toml")]);
        }
        let outside = launch(&programs, directory.path(), cgroup.as_deref(), &words, setup)?;
        let mut rig = Rig { directory, programs, cgroup, outside, setup: words };
        if !setup.leaves {
            rig.answer()?;
        }
        Ok(rig)
    }

    /// Starts init again after it has left, with the same store and files.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_again(&mut self, setup: &Setup<'_>) -> Result {
        let cgroup = self.cgroup.as_deref();
        self.outside = launch(&self.programs, self.directory.path(), cgroup, &self.setup, setup)?;
        if setup.leaves { Ok(()) } else { self.answer() }
    }

    fn answer(&mut self) -> Result {
        // `wait` waits for the socket; what it says about the unit does not matter.
        match self.initctl(&["wait", "--timeout", "60s", "--ready", "target:of-nobody"])?.code {
            124 | 3 => Err(format!("init does not come up:\n{}", self.init_said()).into()),
            _ => Ok(()),
        }
    }

    /// The instance's directory on the host.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path of the instance as the host sees it.
    ///
    /// # Errors
    /// When init is gone.
    pub fn inside(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.pid()?)))
    }

    /// The power goes: init and everything that it runs end at once, as the kernel ends a namespace.
    ///
    /// # Errors
    /// When init does not end.
    pub fn cut_power(&mut self) -> Result {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()?), nix::sys::signal::Signal::SIGKILL)?;
        self.left()?;
        Ok(())
    }

    /// Starts `initctl` with these words and gives its lines as they come.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn follow(&self, words: &[&str]) -> Result<Lines> {
        Lines::of(self.initctl_command(words))
    }

    /// Init's pid on the host.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pid(&self) -> Result<i32> {
        let outside = self.outside.id();
        let children = std::fs::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
        Ok(children.split_whitespace().next().ok_or("init is gone")?.parse()?)
    }

    /// What init said on standard error.
    pub fn init_said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("init.log")).unwrap_or_default()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run/control")
    }

    fn initctl_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("initctl"));
        command.arg("--socket").arg(self.socket()).args(words).stdin(Stdio::null());
        command.env_remove("HOLDFAST_STORE");
        command
    }

    /// Runs `initctl` with these words.
    ///
    /// # Errors
    /// When it cannot be run, or takes too long.
    pub fn initctl(&self, words: &[&str]) -> Result<Said> {
        run(self.initctl_command(words))
    }

    /// Runs `initctl` with these words, and presses Ctrl-C after two seconds.
    ///
    /// # Errors
    /// When it cannot be run, or takes too long.
    pub fn interrupted(&self, words: &[&str]) -> Result<Said> {
        let initctl = self.initctl_command(words);
        let mut command = Command::new("timeout");
        command.args(["--signal", "INT", "--preserve-status", "2"]).arg(initctl.get_program());
        command.args(initctl.get_args()).stdin(Stdio::null());
        run(command)
    }

    /// Runs `initctl` and wants exit code 0.
    ///
    /// # Errors
    /// With everything that was said, when it is another.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        let said = self.initctl(words)?;
        if said.code == 0 {
            return Ok(said.out);
        }
        let Said { code, out, err } = said;
        Err(format!(
            "initctl {} ended with {code}:\n{out}{err}\ninit:\n{}",
            words.join(" "),
            self.init_said()
        )
        .into())
    }

    /// Runs a command inside the instance's namespaces.
    ///
    /// # Errors
    /// When it cannot be run, or takes too long.
    pub fn run(&self, words: &[&str]) -> Result<Said> {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-n", "-u", "-i", "-t", &self.pid()?.to_string(), "--"]).args(words);
        command.stdin(Stdio::null());
        run(command)
    }

    /// Writes a state file and answers its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn state_file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Applies a state and wants exit code 0.
    ///
    /// # Errors
    /// With everything that was said.
    pub fn apply(&self, text: &str) -> Result<String> {
        let path = self.state_file("next.toml", text)?;
        self.ok(&["wait", "--converged", "--timeout", "60s"])?;
        self.ok(&["apply", &path])
    }

    /// One unit's status, as `initctl --json status UNIT` tells it.
    ///
    /// # Errors
    /// When there is no such unit.
    pub fn status(&self, unit: &str) -> Result<Value> {
        let said = self.initctl(&["--json", "status", unit])?;
        let value: Value = serde_json::from_str(&said.out)
            .map_err(|e| format!("status {unit} is no JSON ({e}): {}{}", said.out, said.err))?;
        let units = value.get("units").and_then(Value::as_array).cloned().unwrap_or_default();
        units.into_iter().next().ok_or_else(|| format!("no status of {unit}: {value}").into())
    }

    /// Waits until a unit's status is as wanted: looks at it at each event that init tells.
    ///
    /// # Errors
    /// When it is not within [`LIMIT`]; with its last status.
    pub fn until(&self, unit: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut events = self.events()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(unit)?;
            if wanted(&status) {
                return Ok(status);
            }
            if events.next(deadline)?.is_none() {
                return Err(format!("{unit} is not {what}: {status}\ninit:\n{}", self.init_said()).into());
            }
        }
    }

    /// Waits for a state by its word.
    ///
    /// # Errors
    /// As [`Rig::until`].
    pub fn until_state(&self, unit: &str, state: &str) -> Result<Value> {
        self.until(unit, state, |s| s.get("state").and_then(Value::as_str) == Some(state))
    }

    /// Everything that happens from now on, a line an event.
    ///
    /// # Errors
    /// When initctl cannot be run, or init does not answer it.
    pub fn events(&self) -> Result<Lines> {
        let mut events = Lines::of(self.initctl_command(&["--json", "events"]))?;
        // ORDER: the first event says where things stand. Before it is there, what happens may be missed.
        match events.next(Instant::now() + LIMIT)? {
            Some(_) => Ok(events),
            None => Err(format!("no answer to `initctl events`:\n{}", self.init_said()).into()),
        }
    }

    /// Waits for the event that a unit has come to an outcome, on a stream that was opened before.
    ///
    /// # Errors
    /// When it does not come within [`LIMIT`]; with what came.
    pub fn until_outcome(&self, events: &mut Lines, unit: &str, outcome: &str) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        while let Some(line) = events.next(deadline)? {
            let value: Value = serde_json::from_str(&line)?;
            let event = value.get("event").cloned().unwrap_or_default();
            if word(&event, "unit") == unit && word(&event, "outcome") == outcome {
                return Ok(event);
            }
            seen.push(line);
        }
        let seen = seen.join("\n");
        Err(format!("{unit} is not {outcome}; events:\n{seen}\ninit said:\n{}", self.init_said()).into())
    }

    /// The main process of a unit, in the instance's numbers.
    ///
    /// # Errors
    /// When it has none.
    pub fn main_pid(&self, unit: &str) -> Result<i32> {
        let status = self.status(unit)?;
        let pid = status.get("pid").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
        pid.ok_or_else(|| format!("{unit} has no process: {status}").into())
    }

    /// Waits until something holds that changes with what init does: looks again at each event that init tells.
    ///
    /// # Errors
    /// When it does not hold within [`LIMIT`].
    pub fn until_true(&self, what: &str, holds: impl Fn() -> bool) -> Result {
        let mut events = self.events()?;
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            if events.next(deadline)?.is_none() {
                return Err(format!("not within {LIMIT:?}: {what}\ninit said:\n{}", self.init_said()).into());
            }
        }
        Ok(())
    }

    /// Waits until a condition on a file of the instance holds. Where init tells an event it should be used; this
    /// is for what only the file system knows, and looks at each event of inotify's on the directory.
    ///
    /// # Errors
    /// When it does not hold within [`LIMIT`].
    pub fn until_file(&self, path: &str, what: &str, wanted: impl Fn(&Path) -> bool) -> Result {
        stream::until_file(&self.inside(path)?, what, wanted)
    }

    /// The same for a file on the host.
    ///
    /// # Errors
    /// As [`Rig::until_file`].
    pub fn until_host(&self, path: &Path, what: &str, wanted: impl Fn(&Path) -> bool) -> Result {
        stream::until_file(path, what, wanted)
    }

    /// Sends init a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: i32) -> Result {
        Ok(init::sys::raw::kill(self.pid()?, signal)?)
    }

    /// Children of init that have ended and are not buried.
    ///
    /// # Errors
    /// When init is gone.
    pub fn zombies(&self) -> Result<usize> {
        let init = self.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
        let ended = |pid: &&str| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok();
            stat.and_then(|s| init::sys::reap::parse_stat(&s)).is_some_and(|s| s.state == b'Z')
        };
        Ok(children.split_whitespace().filter(ended).count())
    }

    /// Bytes of memory that init itself occupies: anonymous and resident.
    ///
    /// # Errors
    /// When init is gone.
    pub fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// Processor time, in user mode and in the kernel, of everything that has run in the instance's cgroup, however long
    /// ago it ended; none where the kernel does not count that. Not in clock ticks: the scheduler's own figure.
    pub fn processor(&self) -> Option<Duration> {
        let told = std::fs::read_to_string(self.cgroup.as_ref()?.join("cpu.stat")).ok()?;
        let line = told.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
        Some(Duration::from_micros(line.trim().parse().ok()?))
    }

    /// Waits until init has said something.
    ///
    /// # Errors
    /// When it has not within [`LIMIT`].
    pub fn until_said(&self, text: &str) -> Result {
        let log = self.directory.path().join("init.log");
        stream::until_file(&log, &format!("telling {text:?}"), |_| self.init_said().contains(text))
            .map_err(|e| format!("{e}:\n{}", self.init_said()).into())
    }

    /// Waits until init has left, and answers how.
    ///
    /// # Errors
    /// When it does not within [`LIMIT`].
    pub fn left(&mut self) -> Result<ExitStatus> {
        stream::wait_child(&mut self.outside, LIMIT)?
            .ok_or_else(|| format!("init does not leave:\n{}", self.init_said()).into())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // init is the first of its namespace: with it, everything in there ends.
        if let Ok(pid) = self.pid() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        if let Some(cgroup) = &self.cgroup {
            let _ = stream::until_unpopulated(cgroup);
            remove_cgroups(cgroup);
        }
        if std::thread::panicking() {
            eprintln!("init said:\n{}", self.init_said());
        }
    }
}

fn remove_cgroups(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

fn launch(
    programs: &Path,
    directory: &Path,
    cgroup: Option<&Path>,
    words: &[String],
    setup: &Setup<'_>,
) -> Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("init.log"))?;
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--pid",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--cgroup",
    ]);
    if setup.user {
        command.args(["--user", "--map-root-user"]);
    }
    let managed = directory.join("managed");
    std::fs::create_dir_all(&managed)?;
    let mut script = format!("mount --bind '{}' {MANAGED} && ", managed.display());
    if setup.etc {
        let own = directory.join("etc");
        let own = own.display();
        script += &format!("{{ [ -d '{own}' ] || cp -a /etc '{own}'; }} && mount --bind '{own}' /etc && ");
    }
    for (name, options) in setup.disks {
        let at = directory.join(name);
        let at = at.display();
        script += &format!("mkdir -p '{at}' && mount -t tmpfs -o {options} tmpfs '{at}' && ");
    }
    if let (true, Some(cgroup)) = (setup.measured, cgroup) {
        script += &format!("echo 0 > '{}/cgroup.procs' && ", cgroup.display());
    }
    script += if setup.second { "\"$@\" & wait" } else { "exec \"$@\"" };
    command
        .args([
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .args(setup.run_by)
        .arg(programs.join("init"))
        .args(words)
        .env_remove("HOLDFAST_SOCKET")
        .envs(setup.environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command.spawn().map_err(|e| format!("cannot run setpriv(1): {e}"))?)
}

/// Refuses with what init said, when something does not hold.
///
/// # Errors
/// Just then.
pub fn want(holds: bool, what: &str, rig: &Rig) -> Result {
    if holds { Ok(()) } else { Err(format!("{what}\ninit said:\n{}", rig.init_said()).into()) }
}

/// A text of a status or an event; empty where there is none.
pub fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a file holds just this.
pub fn holds(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|t| t == text)
}

/// Runs a command to its end, within [`LIMIT`].
///
/// # Errors
/// When it cannot be run, or takes longer.
pub fn run(mut command: Command) -> Result<Said> {
    let text = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {text}: {e}"))?;
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let err = drain(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let status = stream::wait_child(&mut child, LIMIT * 2)?;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    match status {
        Some(status) => Ok(Said { code: status.code().unwrap_or(-1), out, err }),
        None => Err(format!("{text} takes too long; it said:\n{out}{err}").into()),
    }
}
