//! `service`: a supervised process.

use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
