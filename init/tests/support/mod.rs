//! A harness for tests that own their process: each case runs in a process of its own with one thread, under a
//! deadline, and, if it asks for that, as PID 1 of its own pid and mount namespaces.

#![allow(clippy::expect_used, clippy::panic, dead_code, unused_macros, unused_imports, missing_docs)]

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};

use init::sys::spawn::{Spawned, Status};

/// Where a case runs.
#[derive(Clone, Copy, PartialEq)]
pub enum As {
    /// An ordinary process.
    Process,
    /// PID 1 of new pid and mount namespaces with its own /proc.
    Pid1,
}

/// One case: name, where, function.
pub type Case = (&'static str, As, fn());

/// The cases of a file, each with where it runs: `Process: name`. A case is called as its function is.
macro_rules! cases {
    ($($place:ident: $name:ident),* $(,)?) => {
        const CASES: &[crate::support::Case] =
            &[$((stringify!($name), crate::support::As::$place, $name)),*];
    };
}
pub(crate) use cases;

/// The same for a file that is nothing but cases.
macro_rules! tests {
    ($($cases:tt)*) => {
        crate::support::cases! { $($cases)* }

        fn main() {
            crate::support::main(CASES);
        }
    };
}
pub(crate) use tests;

/// Runs the cases named on the command line (parts of names), or all; exits with 101 when one failed.
pub fn main(cases: &[Case]) {
    let mut arguments: Vec<String> = std::env::args().collect();
    // The executable under its other names, as PID 1 starts it.
    if arguments.first().is_some_and(|n| n == init::log::daemon::NAME) {
        exit(init::log::daemon::main(&arguments));
    }
    if arguments.first().is_some_and(|n| n == init::sys::helper::NAME) {
        exit(init::sys::helper::main(&arguments));
    }
    arguments.remove(0);
    if arguments.first().is_some_and(|a| a == "--container") {
        let rest: Vec<std::ffi::OsString> = std::env::args_os().skip(2).collect();
        exit(init::container::main(&rest));
    }
    if let [flag, name] = arguments.as_slice()
        && flag == "--case"
    {
        let (_, _, run) = cases.iter().find(|(n, _, _)| n == name).expect("a known case");
        run();
        exit(0);
    }
    if arguments.iter().any(|a| a == "--list") {
        cases.iter().for_each(|(name, _, _)| println!("{name}: test"));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut waiting: VecDeque<&Case> = cases
        .iter()
        .filter(|(name, _, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
        .collect();
    let mut failed = 0;
    let total = waiting.len();
    while let Some((name, place, _)) = waiting.pop_front() {
        let begun = Instant::now();
        let (good, output) = run_one(name, *place);
        let verdict = if good { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", begun.elapsed().as_millis());
        if !good {
            failed += 1;
            println!("{output}");
        }
    }
    println!("\ntest result: {} passed; {failed} failed", total - failed);
    if failed > 0 {
        exit(101);
    }
}

fn run_one(name: &str, place: As) -> (bool, String) {
    let this = std::env::current_exe().expect("own path");
    // Also of a case that is killed nothing stays.
    let own = tempfile::Builder::new().prefix("holdfast-case-").tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(own.path(), open).expect("a directory of ours");
    // timeout(1) keeps a hanging case from hanging the suite; --kill-child takes a namespace's processes along.
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "120"]);
    if place == As::Pid1 {
        command.args(["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]);
    }
    command.arg(this).args(["--case", name]).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command.env("TMPDIR", own.path());
    // A file, not a pipe: a process that a case left behind must not hold up the suite.
    let mut output = tempfile::tempfile().expect("a file");
    nix::sys::prctl::set_child_subreaper(true).expect("orphans as children");
    let mut child = command
        .stdout(output.try_clone().expect("a descriptor"))
        .stderr(output.try_clone().expect("a descriptor"))
        .spawn()
        .expect("timeout(1) and unshare(1) from coreutils and util-linux");
    let status = child.wait().expect("an exit");
    bury_what_it_left();
    drop(own);
    let mut bytes = Vec::new();
    output.seek(SeekFrom::Start(0)).expect("a file");
    output.read_to_end(&mut bytes).expect("output");
    (status.success(), format!("{status}\n{}", String::from_utf8_lossy(&bytes)))
}

/// Ends the processes that a case has left, which are ours by now.
fn bury_what_it_left() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    loop {
        let ours = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for pid in ours.split_whitespace().filter_map(|p| p.parse().ok()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if nix::sys::wait::wait().is_err() {
            return;
        }
    }
}

/// Waits until `fd` is readable, or fails the case.
pub fn readable(fd: std::os::fd::BorrowedFd<'_>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
    loop {
        match poll(&mut set, PollTimeout::from(20_000_u16)) {
            Err(nix::Error::EINTR) => {}
            other => {
                assert_eq!(other, Ok(1), "nothing became readable in 20 s");
                return;
            }
        }
    }
}

/// Waits until a child has ended, or fails the case.
pub fn over(pid: i32) {
    readable(init::sys::raw::pidfd_open(pid).expect("a child").as_fd());
}

/// How the start of a process went.
pub fn outcome(spawned: &mut Spawned) -> Status {
    loop {
        readable(spawned.status.as_fd());
        match spawned.status.read() {
            Status::Pending => {}
            other => return other,
        }
    }
}

/// Waits until a condition holds on what lies below a directory: looks again at every change of it that the kernel tells.
pub fn changed(directory: &std::path::Path, what: &str, mut condition: impl FnMut() -> bool) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let watch_below = || {
        let mut todo = vec![directory.to_owned()];
        while let Some(dir) = todo.pop() {
            let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            let _gone = inotify.add_watch(&dir, mask);
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
    };
    watch_below();
    while !condition() {
        eprintln!("waiting: {what}");
        readable(inotify.as_fd());
        while inotify.read_events().is_ok() {}
        // ORDER: before the condition is looked at again, for what a new directory has got meanwhile made no event.
        watch_below();
    }
}

/// Asks again until the condition holds, for what comes without an event: that a process sleeps or has made others, what it
/// has written into shared memory, that time has passed.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in 20 s");
        // Whoever is waited for needs the processor: on a busy machine of few cores asking all the time would take it.
        std::thread::sleep(Duration::from_millis(1));
    }
}
