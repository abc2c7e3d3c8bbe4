//! `service`: a supervised process.

use serde::{Deserialize, Serialize};

use crate::address::Kind;
use crate::field::{Table, Type, Without, field};

/// Search path of commands, and `PATH` of services and execs that declare none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a service says that it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// As soon as `execve` succeeded.
    Started,
    /// `READY=1` on `$NOTIFY_SOCKET` (sd_notify(3)).
    Notify,
    /// A newline on this descriptor (the s6 protocol).
    Fd(u32),
    /// When the started process exits with 0 and leaves a daemon in its cgroup (`Type=forking`).
    Forked,
    /// When it exits with 0: a one-shot. Afterwards it is `done`.
    Exited,
    /// When this path exists.
    Path(String),
}

/// What makes a running service load its configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reload {
    /// This signal to the main process.
    Signal(i32),
    /// This command, in the service's own cgroup and environment; `$MAINPID` is set.
    Command(Vec<String>),
}

/// When an ended service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Restart {
    /// After every exit.
    #[default]
    Always,
    /// After an exit other than 0.
    OnFailure,
    /// Not at all.
    Never,
}

/// When a service is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Start {
    /// Always.
    #[default]
    Boot,
    /// While a running unit requires it.
    OnDemand,
    /// Only when started by hand.
    Manual,
}

/// Where standard output and standard error go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Log {
    /// To the log daemon.
    #[default]
    File,
    /// To the console.
    Console,
    /// Nowhere.
    Null,
}

/// How a difference between running and desired specification is carried out, where the switch table leaves
/// the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SwitchMethod {
    /// As the switch table says.
    #[default]
    Auto,
    /// Reload only.
    Reload,
    /// Restart: stop and start in one go, at the moment the new one could start.
    Restart,
    /// Stop with the old files still in place, start after the change.
    StopStart,
    /// Keep the old process until somebody restarts it.
    Keep,
}

/// A resource limit, setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Lower-case name without `RLIMIT_`: `nofile`, `core` …
    pub resource: String,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is infinity.
    pub hard: u64,
}

/// Checked form of a `[service.NAME]` table. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Command and arguments; the first is looked up in `PATH` when it has no slash.
    pub exec: Vec<String>,
    /// How it says that it is ready.
    pub ready: Ready,
    /// Where `forked` services write their pid, if they do.
    pub pid_file: Option<String>,
    /// User name or number; root without.
    pub user: Option<String>,
    /// Group name or number; the user's primary group without.
    pub group: Option<String>,
    /// Supplementary groups beside those that the group database gives the user.
    pub groups: Vec<String>,
    /// Environment beside `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`; sorted by name.
    pub environment: Vec<(String, String)>,
    /// Working directory; `/` without.
    pub directory: Option<String>,
    /// File creation mask.
    pub umask: u32,
    /// Resource limits, sorted by name.
    pub limits: Vec<Limit>,
    /// Settings written into the cgroup, such as `memory.max`; sorted by name.
    pub cgroup: Vec<(String, String)>,
    /// Scheduling priority, -20 to 19.
    pub nice: i32,
    /// -1000 to 1000; see proc_pid_oom_score_adj(5).
    pub oom_score: i32,
    /// The controlling terminal, opened as standard input, output and error.
    pub tty: Option<String>,
    /// Where output goes.
    pub log: Log,
    /// Bytes of one log file before it is rotated.
    pub log_size: u64,
    /// Rotated log files kept.
    pub log_keep: u32,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Command that asks it to stop, in place of the signal.
    pub stop: Option<Vec<String>>,
    /// After this its cgroup is killed.
    pub stop_timeout: u64,
    /// Deadline from start to ready; 0 is none.
    pub start_timeout: u64,
    /// What makes it load its configuration again; without, it is restarted.
    pub reload: Option<Reload>,
    /// Deadline of a reload.
    pub reload_timeout: u64,
    /// When it is started again.
    pub restart: Restart,
    /// Second restart's delay; the first is immediate, later ones double.
    pub restart_delay: u64,
    /// Longest delay.
    pub restart_max: u64,
    /// Restarts without proven health before it is failed; 0 is no limit.
    pub restart_limit: u32,
    /// Up longer than this, the budget is full again.
    pub healthy: u64,
    /// `WATCHDOG=1` must come at least this often; 0 is no watchdog.
    pub watchdog: u64,
    /// When it is up.
    pub start: Start,
    /// How differences are carried out.
    pub switch: SwitchMethod,
    /// Paths that it writes below; managed files there are a mistake (semantics §4).
    pub writes: Vec<String>,
    /// Exit codes beside 0 that count as clean.
    pub success: Vec<i32>,
    /// Whether its values are kept out of plans and diffs.
    pub secret: bool,
}

impl Service {
    /// Keys in which two declarations differ.
    pub fn differing(&self, new: &Service) -> Vec<&'static str> {
        crate::diff::differing!(self, new, Service {
            exec => "exec", ready => "ready", pid_file => "pid-file", user => "user", group => "group",
            groups => "groups", environment => "environment", directory => "directory", umask => "umask",
            limits => "limits", cgroup => "cgroup", nice => "nice", oom_score => "oom-score", tty => "tty",
            log => "log", log_size => "log-size", log_keep => "log-keep", stop_signal => "stop-signal",
            stop => "stop", stop_timeout => "stop-timeout", start_timeout => "start-timeout", reload => "reload",
            reload_timeout => "reload-timeout", restart => "restart", restart_delay => "restart-delay",
            restart_max => "restart-max", restart_limit => "restart-limit", healthy => "healthy",
            watchdog => "watchdog", start => "start", switch => "switch", writes => "writes",
            success => "success", secret => "secret",
        })
    }
}

/// What a `[service.NAME]` table may say.
pub static TABLE: Table = Table {
    kind: Kind::Service,
    summary: "A supervised process.",
    header: "[service.NAME]",
    fields: &[
        field(
            "exec",
            Type::Command,
            Without::Required,
            "Command and arguments; the program is looked up in `PATH` when it has no slash.",
        ),
        field(
            "ready",
            Type::Ready,
            Without::Is("started"),
            "How it says that it is ready: `started`, `notify`, `fd=N`, `forked`, `exited`, `path=/…`.",
        ),
        field(
            "pid-file",
            Type::Path,
            Without::Unset("found in its cgroup"),
            "Where a `forked` service writes its pid.",
        ),
        field("user", Type::Account, Without::Unset("root"), "Who runs it."),
        field("group", Type::Account, Without::Unset("the user's primary group"), "Its group."),
        field("groups", Type::Accounts, Without::Unset("those of the group database"), "Further groups."),
        field(
            "environment",
            Type::Table,
            Without::Unset("only the basic variables"),
            "Environment variables.",
        ),
        field("directory", Type::Path, Without::Unset("`/`"), "Working directory."),
        field("umask", Type::Mode, Without::Is("0022"), "File creation mask."),
        field(
            "limits",
            Type::Limits,
            Without::Unset("inherited; `nofile` on a machine 1024, soft"),
            "Resource limits, setrlimit(2): `nofile = 4096`.",
        ),
        field(
            "cgroup",
            Type::Table,
            Without::Unset("none"),
            "Settings of its cgroup: `\"memory.max\" = \"64M\"`.",
        ),
        field("nice", Type::Integer { min: -20, max: 19, of: "" }, Without::Is("0"), "Scheduling priority."),
        field(
            "oom-score",
            Type::Integer { min: -1000, max: 1000, of: "" },
            Without::Is("0"),
            "How willingly the kernel kills it when memory runs out.",
        ),
        field(
            "tty",
            Type::Path,
            Without::Unset("none"),
            "Terminal that is its standard input, output and error.",
        ),
        field(
            "log",
            Type::Choice(&["file", "console", "null"]),
            Without::Is("file"),
            "Where its output goes.",
        ),
        field("log-size", Type::Bytes, Without::Is("8M"), "Size of one log file before it is rotated."),
        field(
            "log-keep",
            Type::Integer { min: 0, max: 1000, of: "files" },
            Without::Is("4"),
            "Rotated log files kept.",
        ),
        field(
            "stop-signal",
            Type::Signal,
            Without::Is("TERM"),
            "Signal that asks it to stop; SIGCONT follows, for one that is stopped.",
        ),
        field(
            "stop",
            Type::Command,
            Without::Unset("the signal"),
            "Command that asks it to stop, in place of the signal.",
        ),
        field("stop-timeout", Type::Duration, Without::Is("10s"), "After this its processes are killed."),
        field(
            "start-timeout",
            Type::Duration,
            Without::Is("30s"),
            "Deadline from start to ready; 0 is none. None by itself with `ready = \"exited\"`.",
        ),
        field(
            "reload",
            Type::Reload,
            Without::Unset("it is restarted instead"),
            "What makes it load its configuration again: a signal, or a command with `$MAINPID` in its environment.",
        ),
        field("reload-timeout", Type::Duration, Without::Is("30s"), "Deadline of a reload."),
        field(
            "restart",
            Type::Choice(&["always", "on-failure", "never"]),
            Without::Is("always"),
            "When it is started again. `on-failure` by itself with `ready = \"exited\"`. An end of which init cannot learn the status is a failure.",
        ),
        field(
            "restart-delay",
            Type::Duration,
            Without::Is("100ms"),
            "Delay of the second restart; later ones double.",
        ),
        field("restart-max", Type::Duration, Without::Is("30s"), "Longest delay."),
        field(
            "restart-limit",
            Type::Integer { min: 0, max: 1_000_000, of: "restarts" },
            Without::Is("10"),
            "Restarts without proven health before it is failed; 0 is no limit.",
        ),
        field("healthy", Type::Duration, Without::Is("10s"), "Up longer than this, its health is proven."),
        field(
            "watchdog",
            Type::Duration,
            Without::Is("0"),
            "`WATCHDOG=1` must come this often; 0 is no watchdog. The service may change it by `WATCHDOG_USEC=`.",
        ),
        field(
            "start",
            Type::Choice(&["boot", "on-demand", "manual"]),
            Without::Is("boot"),
            "When it is up: always, while something running requires it, or when started by hand.",
        ),
        field(
            "switch",
            Type::Choice(&["auto", "reload", "restart", "stop-start", "keep"]),
            Without::Is("auto"),
            "How a difference between running and declared service is carried out.",
        ),
        field(
            "writes",
            Type::Paths,
            Without::Unset("nothing"),
            "Paths that it writes below: no `whole` file may lie there.",
        ),
        field("success", Type::Codes, Without::Unset("only 0"), "Exit codes beside 0 that count as clean."),
        field(
            "secret",
            Type::Flag,
            Without::Is("false"),
            "Whether its values are kept out of plans, diffs and logs.",
        ),
    ],
    notes: "A command is an array of strings, or one string that is split by the quoting rules of the shell but never \
given to one: no variables, patterns, pipes or redirections. Write `[\"sh\", \"-c\", \"…\"]` for those.\n\n\
The user, the groups, the program, the nearest managed directory and the nearest managed mount of every path that a \
service names are required by it without being named; it is bound to mounts.\n\n\
Of sd_notify(3) are heard `READY`, `RELOADING`, `STOPPING`, `MONOTONIC_USEC`, `STATUS`, `MAINPID`, `WATCHDOG`, `WATCHDOG_USEC`, \
`EXTEND_TIMEOUT_USEC` and `BARRIER`; `ERRNO` changes nothing. A reload by signal that the service confirms (`RELOADING`, then \
`READY`) is not reported as assumed; one that began before the signal (`MONOTONIC_USEC`) confirms nothing. Status shows a \
service that says that it stops as stopping; what requires it or is bound to it stays until it has ended. Descriptors are not kept for it (`FDSTORE`), and who may speak for it is not declared: its own processes and user, \
and root.\n\n\
A service is a process that stays. Where it ends, with 0 too, in the seconds in which an apply looks whether it stays, the \
apply returns; what does its work and ends is declared with `ready = \"exited\"`, and is ready from then on.\n\n\
Instances are written `[service.\"NAME@INSTANCE\"]`.",
    example: r#"[service.nginx]
exec      = ["nginx", "-g", "daemon off;"]
ready     = "path=/run/nginx.pid"
reload    = "HUP"
reload-on = ["file:/etc/nginx/nginx.conf"]

[service.nginx.limits]
nofile = 4096

[service.nginx.cgroup]
"memory.max" = "256M"

[file."/etc/nginx/nginx.conf"]
content = "events {}\n"
"#,
};

/// What the names of a cgroup's files begin with (the kernel's admin-guide/cgroup-v2).
#[cfg(feature = "language")]
const CONTROLLERS: [&str; 11] =
    ["cgroup", "cpu", "cpuset", "dmem", "hugetlb", "io", "irq", "memory", "misc", "pids", "rdma"];

/// Reads the table.
#[cfg(feature = "language")]
pub(crate) fn read(r: &mut crate::reader::Reader<'_, '_>) -> Service {
    use crate::value::{self, ValueError};

    let ready = r.parsed("ready", value::ready::parse).unwrap_or(Ready::Started);
    let one_shot = ready == Ready::Exited;
    let start_timeout = r.duration("start-timeout");
    let restart = r.choice(
        "restart",
        &[("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)],
    );
    let cgroup = |name: &str, text: &str| {
        let known = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b));
        if !known || name.split('.').count() < 2 || name.split('.').any(str::is_empty) {
            return Err(ValueError::new(format!("`{name}` is no setting of a cgroup"))
                .help("write it as the file is called, quoted: `\"memory.max\" = \"64M\"`"));
        }
        let controller = name.split('.').next().unwrap_or_default();
        if !CONTROLLERS.contains(&controller) {
            let error = ValueError::new(format!("`{name}` is no setting of a cgroup"));
            return Err(match crate::nearest::nearest(controller, CONTROLLERS) {
                Some(near) => error.help(format!("did you mean `{near}{}`?", &name[controller.len()..])),
                None => error.help(format!("the controllers are `{}`", CONTROLLERS.join("`, `"))),
            });
        }
        match text.contains('\n') {
            true => Err(ValueError::new("a line break cannot stand here")),
            false => Ok(()),
        }
    };
    let limit = |name: &str, text: &str| {
        if !value::limit::RESOURCES.contains(&name) {
            let error = ValueError::new(format!("`{name}` is no resource limit"));
            return Err(match crate::nearest::nearest(name, value::limit::RESOURCES) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("write one of `{}`", value::limit::RESOURCES.join("`, `"))),
            });
        }
        value::limit::parse(text).map(|_| ())
    };
    let limits = r.pairs("limits", limit).into_iter().filter_map(|(resource, text)| {
        let (soft, hard) = value::limit::parse(&text).ok()?;
        Some(Limit { resource, soft, hard })
    });
    let limits = limits.collect();
    let mask = |t: &str| match value::mode::parse(t)? {
        bits @ 0..=0o777 => Ok(bits),
        _ => Err(ValueError::new(format!("`{t}` is no file creation mask"))),
    };
    Service {
        exec: r.command("exec").unwrap_or_default(),
        pid_file: r.path("pid-file"),
        user: r.account("user"),
        group: r.account("group"),
        groups: r.accounts("groups"),
        environment: r.environment(),
        directory: r.path("directory"),
        umask: r.parsed("umask", mask).unwrap_or(0o022),
        limits,
        cgroup: r.pairs("cgroup", cgroup),
        nice: r.integer("nice"),
        oom_score: r.integer("oom-score"),
        tty: r.path("tty"),
        log: r.choice("log", &[("file", Log::File), ("console", Log::Console), ("null", Log::Null)]),
        log_size: r.bytes("log-size"),
        log_keep: r.integer("log-keep"),
        stop_signal: r.parsed("stop-signal", value::signal::parse).unwrap_or(15),
        stop: r.command("stop"),
        stop_timeout: r.duration("stop-timeout"),
        start_timeout: if one_shot && !r.has("start-timeout") { 0 } else { start_timeout },
        reload: read_reload(r),
        reload_timeout: r.duration("reload-timeout"),
        restart: if one_shot && !r.has("restart") { Restart::OnFailure } else { restart },
        restart_delay: r.duration("restart-delay"),
        restart_max: r.duration("restart-max"),
        restart_limit: r.integer("restart-limit"),
        healthy: r.duration("healthy"),
        watchdog: r.duration("watchdog"),
        start: r.choice(
            "start",
            &[("boot", Start::Boot), ("on-demand", Start::OnDemand), ("manual", Start::Manual)],
        ),
        switch: r.choice(
            "switch",
            &[
                ("auto", SwitchMethod::Auto),
                ("reload", SwitchMethod::Reload),
                ("restart", SwitchMethod::Restart),
                ("stop-start", SwitchMethod::StopStart),
                ("keep", SwitchMethod::Keep),
            ],
        ),
        writes: r.paths("writes"),
        success: r.codes("success"),
        secret: r.flag("secret"),
        ready,
    }
}

/// A signal where the value is one word without a slash, else a command.
#[cfg(feature = "language")]
fn read_reload(r: &mut crate::reader::Reader<'_, '_>) -> Option<Reload> {
    if r.is_one_word("reload") {
        return r.parsed("reload", crate::value::signal::parse).map(Reload::Signal);
    }
    r.command("reload").map(Reload::Command)
}
