//! Starting a process: everything is prepared here, then one clone3, then the child's steps in `super::child`.
//!
//! What the child reports comes over a close-on-exec pipe that the event loop watches: a failed step with its
//! errno, or the end of file that execve leaves. PID 1 opens no path of a service and waits for nothing.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use units::kind::service::{DEFAULT_PATH, Limit};

use super::birth::{self, Forked, Lent};
use super::child::{self, OutputPlan, Plan};
use super::signals;

/// The executable that runs, whatever lies at its path by now: a helper's, and the log daemon's.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A step in the child that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Moving and closing descriptors.
    Descriptor = 0,
    /// Entering the cgroup.
    Cgroup = 1,
    /// Starting a session.
    Session = 2,
    /// Setting the OOM score.
    OomScore = 3,
    /// Setting the priority.
    Nice = 4,
    /// Opening or taking the terminal.
    Tty = 5,
    /// Opening standard input.
    Input = 6,
    /// Opening standard output and error.
    Output = 7,
    /// Looking up the user.
    User = 8,
    /// Looking up the group.
    Group = 9,
    /// Looking up supplementary groups.
    Groups = 10,
    /// Setting a resource limit.
    Limit = 11,
    /// Becoming the user.
    SetIds = 12,
    /// Changing the directory.
    Directory = 13,
    /// Executing the program.
    Exec = 14,
}

impl Stage {
    const ALL: [Stage; 15] = [
        Stage::Descriptor,
        Stage::Cgroup,
        Stage::Session,
        Stage::OomScore,
        Stage::Nice,
        Stage::Tty,
        Stage::Input,
        Stage::Output,
        Stage::User,
        Stage::Group,
        Stage::Groups,
        Stage::Limit,
        Stage::SetIds,
        Stage::Directory,
        Stage::Exec,
    ];

    pub(super) fn number(self) -> u8 {
        self as u8
    }

    fn from_number(number: u8) -> Option<Stage> {
        Stage::ALL.into_iter().find(|s| s.number() == number)
    }
}

/// Standard output and error of the new process.
#[derive(Debug, Clone, Copy, Default)]
pub enum Output<'fd> {
    /// `/dev/null`.
    #[default]
    Null,
    /// `/dev/console`.
    Console,
    /// Both to this descriptor: the write end of a log pipe.
    Descriptor(BorrowedFd<'fd>),
    /// Those of the caller.
    Inherit,
}

/// What to start and how. `..Launch::default()` is a root process without cgroup, in `/`, with no output.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Command and arguments; the first is looked up in `PATH` when it has no slash.
    pub argv: &'a [String],
    /// Path to execute in place of the first argument, which then is only a name.
    pub program: Option<&'a str>,
    /// Environment; a later variable replaces an earlier one of the same name, and the ones added here.
    pub environment: &'a [(String, String)],
    /// User name or number; unchanged without.
    pub user: Option<&'a str>,
    /// Group name or number; the user's primary group without.
    pub group: Option<&'a str>,
    /// Supplementary groups beside the user's own.
    pub groups: &'a [String],
    /// Working directory; `/` without.
    pub directory: Option<&'a str>,
    /// File creation mask.
    pub umask: u32,
    /// Resource limits.
    pub limits: &'a [Limit],
    /// Scheduling priority; `None` or 0 leaves it.
    pub nice: i32,
    /// OOM score adjustment; 0 leaves it.
    pub oom_score: i32,
    /// Controlling terminal (`tty1` or a path), opened as standard input, output and error.
    pub tty: Option<&'a str>,
    /// Standard input; `/dev/null` without.
    pub input: Option<BorrowedFd<'a>>,
    /// Standard output and error, unless there is a terminal.
    pub output: Output<'a>,
    /// Descriptors to be found at these numbers (3 or above).
    pub descriptors: &'a [(RawFd, BorrowedFd<'a>)],
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<&'a str>,
    /// `WATCHDOG_USEC`, in microseconds; 0 is none.
    pub watchdog_usec: u64,
    /// `MAINPID`, for commands that act on a running service.
    pub main_pid: Option<i32>,
    /// The directory of the cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it becomes the leader of a new session.
    pub session: bool,
    /// Whether it may share the caller's memory until it executes its program, see [`birth`]; the status pipe is then
    /// to be read to its end. The caller's working directory is `/` then. For PID 1 of a machine alone: with a process that the kernel kills for want of memory it
    /// ends everything that shares memory with it, except that one.
    pub share: bool,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Launch {
            argv: &[],
            program: None,
            environment: &[],
            user: None,
            group: None,
            groups: &[],
            directory: None,
            umask: 0o022,
            limits: &[],
            nice: 0,
            oom_score: 0,
            tty: None,
            input: None,
            output: Output::Null,
            descriptors: &[],
            notify_socket: None,
            watchdog_usec: 0,
            main_pid: None,
            cgroup: None,
            session: true,
            share: false,
        }
    }
}

/// Why no process came to be. What goes wrong in the child comes as [`StageFailure`].
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Nothing to execute.
    #[error("cannot start a process: no command is given")]
    NoCommand,
    /// A text with a NUL byte in it.
    #[error("cannot start \"{0}\": {1} contains a NUL byte")]
    Nul(String, &'static str),
    /// A resource that this kernel interface does not have.
    #[error("cannot start \"{0}\": \"{1}\" is no resource limit")]
    Limit(String, String),
    /// A descriptor number below 3.
    #[error("cannot start \"{0}\": descriptor {1} is not free for use")]
    Number(String, RawFd),
    /// No status pipe.
    #[error("cannot start \"{0}\": cannot create a pipe: {1}")]
    Pipe(String, #[source] io::Error),
    /// No process.
    #[error("cannot start \"{0}\": cannot create a process: {1}")]
    Clone(String, #[source] io::Error),
}

/// A process that was started; what its set-up came to is on the status pipe. Its pid is nobody else's until it is
/// reaped, so that it needs no pidfd.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, which is also its process group and session.
    pub pid: i32,
    /// Where the child reports.
    pub status: StatusPipe,
}

/// The names that a failed step may have to mention.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Names {
    program: String,
    user: String,
    group: String,
    groups: Vec<String>,
    limits: Vec<String>,
    directory: String,
    tty: String,
}

/// A step in the child that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StageFailure {
    /// Which step.
    pub stage: Stage,
    /// What the kernel said; ESRCH when a user or group is not in its database.
    pub errno: i32,
    text: String,
}

/// What the status pipe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The child is still at it.
    Pending,
    /// execve succeeded (or the process was killed in the middle of it).
    Executed,
    /// A step failed; the process exits.
    Failed(StageFailure),
    /// The process was killed before it came to execve.
    Died,
}

/// The read end of a child's status pipe (nonblocking, close-on-exec). Readable once something has happened.
#[derive(Debug)]
pub struct StatusPipe {
    file: File,
    names: Names,
    about_to_exec: bool,
    failed: Option<StageFailure>,
    /// What the child has of this process's memory, until the pipe has come to its end.
    lent: Option<Lent>,
}

/// What the next PID 1 has to know of a status pipe, beside its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Number of the descriptor.
    pub number: RawFd,
    names: Names,
    about_to_exec: bool,
    failed: Option<(u8, i32, String)>,
}

impl AsFd for StatusPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for StatusPipe {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl StatusPipe {
    /// What goes into the live table.
    pub fn record(&self) -> StatusRecord {
        let failed = self.failed.as_ref().map(|f| (f.stage.number(), f.errno, f.text.clone()));
        let (number, about_to_exec) = (self.file.as_raw_fd(), self.about_to_exec);
        StatusRecord { number, names: self.names.clone(), about_to_exec, failed }
    }

    /// One that an earlier PID 1 had.
    pub fn adopted(fd: OwnedFd, record: StatusRecord) -> StatusPipe {
        let StatusRecord { names, about_to_exec, failed, number: _ } = record;
        let failed = failed.and_then(|(stage, errno, text)| {
            Some(StageFailure { stage: Stage::from_number(stage)?, errno, text })
        });
        StatusPipe { file: File::from(fd), names, about_to_exec, failed, lent: None }
    }

    /// Whether the child may still have this process's memory.
    pub fn shares(&self) -> bool {
        self.lent.is_some()
    }

    /// Reads what there is. After any answer but [`Status::Pending`] the pipe is of no more use.
    pub fn read(&mut self) -> Status {
        loop {
            let mut report = [0; child::REPORT];
            match self.file.read(&mut report) {
                Ok(0) => {
                    // ORDER: at the end of the pipe, and not with what was said on it: the child goes on until then.
                    if let Some(lent) = self.lent.take() {
                        lent.take_back();
                    }
                    return match self.failed.take() {
                        Some(failure) => Status::Failed(failure),
                        None if self.about_to_exec => Status::Executed,
                        None => Status::Died,
                    };
                }
                Ok(_) => self.take(report),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Status::Pending,
                Err(_) => return Status::Died,
            }
        }
    }

    fn take(&mut self, report: [u8; child::REPORT]) {
        let [stage, index, _, _, errno @ ..] = report;
        if stage == child::ABOUT_TO_EXEC {
            self.about_to_exec = true;
        } else if let Some(stage) = Stage::from_number(stage) {
            let errno = i32::from_le_bytes(errno);
            let text = self.names.describe(stage, usize::from(index), errno);
            self.failed = Some(StageFailure { stage, errno, text });
        }
    }
}

impl Names {
    fn describe(&self, stage: Stage, index: usize, errno: i32) -> String {
        let cause = match (stage, errno) {
            (Stage::User | Stage::Group | Stage::Groups, libc::ESRCH) => {
                "no such entry in the database".to_owned()
            }
            (Stage::Exec, libc::ENOEXEC) => {
                "neither a program for this machine nor a script with \"#!\"".to_owned()
            }
            _ => io::Error::from_raw_os_error(errno).to_string(),
        };
        let at = |list: &[String]| list.get(index).cloned().unwrap_or_default();
        match stage {
            Stage::Descriptor => format!("cannot arrange descriptors: {cause}"),
            Stage::Cgroup => format!("cannot enter the cgroup: {cause}"),
            Stage::Session => format!("cannot start a session: {cause}"),
            Stage::OomScore => format!("cannot set the OOM score: {cause}"),
            Stage::Nice => format!("cannot set the priority: {cause}"),
            Stage::Tty => format!("cannot use terminal \"{}\": {cause}", self.tty),
            Stage::Input => format!("cannot open standard input: {cause}"),
            Stage::Output => format!("cannot open standard output: {cause}"),
            Stage::User => format!("cannot look up user \"{}\": {cause}", self.user),
            Stage::Group => format!("cannot look up group \"{}\": {cause}", self.group),
            Stage::Groups => format!("cannot look up group \"{}\": {cause}", at(&self.groups)),
            Stage::Limit => format!("cannot set limit \"{}\": {cause}", at(&self.limits)),
            Stage::SetIds => format!("cannot become user \"{}\": {cause}", self.user),
            Stage::Directory => format!("cannot change to directory \"{}\": {cause}", self.directory),
            Stage::Exec => format!("cannot execute \"{}\": {cause}", self.program),
        }
    }
}

/// The resource with this lower-case name, for setrlimit(2).
pub fn resource(name: &str) -> Option<u32> {
    Some(match name {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => return None,
    })
}

static INHERITED_NOFILE: OnceLock<(u64, u64)> = OnceLock::new();
/// The kernel's own soft limit, and the last that programs which use select(2) get along with.
const KERNELS_NOFILE: u64 = 1024;

/// Raises this process's own limit of descriptors as far as it goes. Children get the limit from before, unless
/// they declare one; with `machine` no more than what the kernel gives its first process.
///
/// # Errors
/// What getrlimit(2) or setrlimit(2) said.
pub fn raise_descriptor_limit(machine: bool) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = if machine { KERNELS_NOFILE } else { hard };
    // Only the first time: then it is the raised one.
    INHERITED_NOFILE.get_or_init(|| (soft.min(most), hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Back to the limit that was found, for a program that is to find it too: the next init. Async-signal-safe.
pub fn restore_descriptor_limit() {
    if let Some((soft, hard)) = INHERITED_NOFILE.get() {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: the limit lives across the call. What is open stays open.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn text(value: &str, program: &str, what: &'static str) -> Result<CString, SpawnError> {
    CString::new(value).map_err(|_| SpawnError::Nul(program.to_owned(), what))
}

fn optional(value: Option<&str>, program: &str, what: &'static str) -> Result<Option<CString>, SpawnError> {
    value.map(|v| text(v, program, what)).transpose()
}

/// The variables in their final form, sorted as given, later ones replacing earlier ones.
fn environment(launch: &Launch<'_>) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: String| match out.iter_mut().find(|(n, _)| n == name) {
        Some(slot) => slot.1 = value,
        None => out.push((name.to_owned(), value)),
    };
    for (name, value) in launch.environment {
        set(name, value.clone());
    }
    if let Some(path) = launch.notify_socket {
        set("NOTIFY_SOCKET", path.to_owned());
    }
    if launch.watchdog_usec > 0 {
        set("WATCHDOG_USEC", launch.watchdog_usec.to_string());
    }
    if let Some(pid) = launch.main_pid {
        set("MAINPID", pid.to_string());
    }
    out
}

fn candidates(program: &str, path: &str) -> Result<Vec<CString>, SpawnError> {
    if program.contains('/') {
        return Ok(vec![text(program, program, "the command")?]);
    }
    path.split(':')
        .map(|d| text(&format!("{}/{program}", if d.is_empty() { "." } else { d }), program, "the command"))
        .collect()
}

fn limits(launch: &Launch<'_>, program: &str) -> Result<Vec<(u32, u64, u64)>, SpawnError> {
    let mut out = Vec::new();
    for limit in launch.limits {
        let number = resource(&limit.resource)
            .ok_or_else(|| SpawnError::Limit(program.to_owned(), limit.resource.clone()))?;
        out.push((number, limit.soft, limit.hard));
    }
    if let Some((soft, hard)) = INHERITED_NOFILE.get()
        && !out.iter().any(|(r, _, _)| *r == libc::RLIMIT_NOFILE)
    {
        out.push((libc::RLIMIT_NOFILE, *soft, *hard));
    }
    Ok(out)
}

fn prepare(launch: &Launch<'_>, status: RawFd) -> Result<(Plan, Names), SpawnError> {
    let program = launch.program.or(launch.argv.first().map(String::as_str)).unwrap_or_default().to_owned();
    if program.is_empty() || launch.argv.is_empty() {
        return Err(SpawnError::NoCommand);
    }
    let variables = environment(launch);
    let value = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let argv: Vec<CString> =
        launch.argv.iter().map(|a| text(a, &program, "an argument")).collect::<Result<_, _>>()?;
    let joined: Vec<CString> = variables
        .iter()
        .map(|(n, v)| text(&format!("{n}={v}"), &program, "the environment"))
        .collect::<Result<_, _>>()?;

    let mut sources = vec![status];
    let mut add = |fd: BorrowedFd<'_>| {
        sources.push(fd.as_raw_fd());
        sources.len() - 1
    };
    let input = launch.input.map(&mut add);
    let output = match launch.output {
        Output::Null => OutputPlan::Null,
        Output::Console => OutputPlan::Console,
        Output::Inherit => OutputPlan::Inherit,
        Output::Descriptor(fd) => OutputPlan::Source(add(fd)),
    };
    let cgroup = launch.cgroup.map(&mut add);
    let mut targets = Vec::new();
    for (number, fd) in launch.descriptors {
        if *number < 3 || *number > 1000 {
            return Err(SpawnError::Number(program, *number));
        }
        targets.push((*number, add(*fd)));
    }
    let tty = launch.tty.map(|t| if t.starts_with('/') { t.to_owned() } else { format!("/dev/{t}") });
    let directory = launch.directory.unwrap_or("/");
    let plan = Plan {
        candidates: candidates(&program, value("PATH").unwrap_or(DEFAULT_PATH))?,
        argv_pointers: Vec::with_capacity(argv.len() + 1),
        env_pointers: Vec::with_capacity(joined.len() + 5),
        add_identity: ["HOME", "USER", "LOGNAME", "SHELL"].map(|n| value(n).is_none()),
        argv,
        environment: joined,
        user: optional(launch.user, &program, "the user")?,
        group: optional(launch.group, &program, "the group")?,
        groups: launch.groups.iter().map(|g| text(g, &program, "a group")).collect::<Result<_, _>>()?,
        directory: optional(
            Some(directory).filter(|d| !(launch.share && *d == "/")),
            &program,
            "the directory",
        )?,
        umask: launch.umask,
        limits: limits(launch, &program)?,
        nice: (launch.nice != 0).then_some(launch.nice),
        oom_score: optional(
            (launch.oom_score != 0).then(|| launch.oom_score.to_string()).as_deref(),
            &program,
            "the OOM score",
        )?,
        tty: optional(tty.as_deref(), &program, "the terminal")?,
        notify: optional(launch.notify_socket, &program, "the notify socket")?,
        moved: Vec::with_capacity(sources.len()),
        sources,
        input,
        output,
        targets,
        cgroup,
        session: launch.session,
        ignored: signals::ignored(),
    };
    let mut limit_names: Vec<String> = launch.limits.iter().map(|l| l.resource.clone()).collect();
    limit_names.push("nofile".to_owned());
    let names = Names {
        program,
        user: launch.user.unwrap_or("0").to_owned(),
        group: launch.group.unwrap_or_default().to_owned(),
        groups: launch.groups.to_vec(),
        limits: limit_names,
        directory: directory.to_owned(),
        tty: tty.unwrap_or_default(),
    };
    Ok((plan, names))
}

/// Starts a process. Returns as soon as it exists; [`Spawned::status`] tells how its set-up went.
///
/// # Errors
/// When the request cannot be carried out at all, or there is no process or pipe to be had.
pub fn spawn(launch: &Launch<'_>) -> Result<Spawned, SpawnError> {
    let name = || launch.argv.first().cloned().unwrap_or_default();
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|e| SpawnError::Pipe(name(), e.into()))?;
    let (plan, names) = prepare(launch, writer.as_raw_fd())?;
    let started = |pid, lent| {
        let file = File::from(reader);
        Spawned { pid, status: StatusPipe { file, names, about_to_exec: false, failed: None, lent } }
    };
    let mut plan = match if launch.share { birth::share(plan, launch.cgroup) } else { Err(Box::new(plan)) } {
        Ok((pid, lent)) => return Ok(started(pid, Some(lent))),
        Err(plan) => plan,
    };
    // SAFETY: the child runs `child::run`, which allocates nothing, takes no lock and never returns.
    let (forked, birth) =
        unsafe { birth::fork_into(launch.cgroup) }.map_err(|e| SpawnError::Clone(name(), e))?;
    match forked {
        Forked::Child => child::run(&mut plan, birth, None),
        Forked::Parent(pid) => Ok(started(pid, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_merged() {
        let own = [
            ("PATH".to_owned(), "/x".to_owned()),
            ("A".to_owned(), "1".to_owned()),
            ("A".into(), "2".into()),
        ];
        let launch = Launch { environment: &own, watchdog_usec: 5, main_pid: Some(7), ..Launch::default() };
        let text: Vec<_> = environment(&launch).into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(text, ["PATH=/x", "A=2", "WATCHDOG_USEC=5", "MAINPID=7"]);
    }

    #[test]
    fn bad_requests_name_what_is_wrong() {
        let argv = ["x".to_owned()];
        let limit = [Limit { resource: "files".into(), soft: 1, hard: 1 }];
        let error = spawn(&Launch { argv: &argv, limits: &limit, ..Launch::default() }).unwrap_err();
        assert_eq!(error.to_string(), "cannot start \"x\": \"files\" is no resource limit");
        let error = spawn(&Launch { argv: &["a\0b".to_owned()], ..Launch::default() }).unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
        assert!(matches!(spawn(&Launch::default()), Err(SpawnError::NoCommand)));
    }

    #[test]
    fn an_end_without_a_word_is_a_death() {
        let (reader, writer) = std::io::pipe().unwrap();
        let file = File::from(OwnedFd::from(reader));
        let mut pipe =
            StatusPipe { file, names: Names::default(), about_to_exec: false, failed: None, lent: None };
        drop(writer);
        assert_eq!(pipe.read(), Status::Died);
    }

    /// Somebody else reads on where this one stopped, and says the same.
    #[test]
    fn what_a_set_up_says_is_heard_by_the_next() {
        let failure = |handed_over: bool| {
            let argv = ["/nowhere/at/all".to_owned()];
            let launch = Launch { argv: &argv, output: Output::Null, ..Launch::default() };
            let mut spawned = spawn(&launch).unwrap();
            if handed_over {
                let record = postcard::to_allocvec(&spawned.status.record()).unwrap();
                let fd = spawned.status.as_fd().try_clone_to_owned().unwrap();
                spawned.status = StatusPipe::adopted(fd, postcard::from_bytes(&record).unwrap());
            }
            loop {
                let mut polled =
                    [nix::poll::PollFd::new(spawned.status.as_fd(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut polled, 10_000u16).unwrap();
                match spawned.status.read() {
                    Status::Pending => {}
                    status => return status,
                }
            }
        };
        let Status::Failed(said) = failure(true) else { panic!("it is started") };
        assert_eq!((said.errno, said.stage), (libc::ENOENT, Stage::Exec));
        assert_eq!(Status::Failed(said), failure(false));
    }

    #[test]
    fn stages_round_trip() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage.number()), Some(stage));
        }
        assert_eq!(Stage::from_number(child::ABOUT_TO_EXEC), None);
    }
}
