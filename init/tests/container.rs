//! `init [options] -- COMMAND`: codes, signals, what the command inherits, orphans, the terminal.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(clippy::indexing_slicing, missing_docs)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};

use init::sys::spawn::{Launch, spawn};
use init::sys::{raw, reap};
use support::{eventually, over};

support::tests! {
    Process: exits_with_the_code_of_the_command,
    Process: looks_for_the_command_as_the_shell_does,
    Process: complains_where_nobody_listens,
    Process: forwards_every_signal,
    Process: forwards_to_the_group,
    Process: pid_1_forwards_and_ends,
    Process: the_command_finds_everything_as_it_was,
    Process: reaps_orphans,
    Process: the_terminal_is_the_commands,
    Process: warns_when_it_cannot_reap,
    Process: dies_with_its_parent_on_request,
    Process: never_wakes_up,
}

/// The container's init as PID 1 of its own namespaces.
fn pid_1(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(std::env::current_exe().unwrap()).arg("--container").args(arguments);
    command
}

/// The same as an ordinary process.
fn plain(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--container").args(arguments);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Wrong usage is wrong usage where standard error takes nothing.
fn complains_where_nobody_listens() {
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let status = plain(&["-z", "--", "true"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let status = Command::new(env!("CARGO_BIN_EXE_init")).arg("--nonsense").stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let status = plain(&["-h", "--"]).stdout(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// As execvp(3): a script needs no first line, what may not be executed is passed over, and what is there and cannot be
/// executed for another reason is not exchanged for what else is in PATH.
fn looks_for_the_command_as_the_shell_does() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let tool = |name: &str, mode: u32, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    tool("closed/tool", 0o644, "echo closed");
    let script = tool("script/tool", 0o755, "echo \"script $# $2\"; exit 3");
    let busy = fs::OpenOptions::new().append(true).open(tool("busy/tool", 0o755, "#!/bin/sh\n")).unwrap();
    let run = |words: &[&str], path: &[&str]| {
        let at = |d: &&str| directory.path().join(d).to_string_lossy().into_owned();
        let path = path.iter().map(at).collect::<Vec<_>>().join(":");
        let output = plain(&["-s", "--"]).args(words).env("PATH", path).output().unwrap();
        (output.status.code(), text(&output))
    };
    let said = (Some(3), "script 2 b c\n".to_owned());
    assert_eq!(run(&[script.to_str().unwrap(), "a", "b c"], &[]), said);
    assert_eq!(run(&["tool", "a", "b c"], &["none", "closed", "script"]), said);
    let (code, text) = run(&["tool"], &["busy", "script"]);
    assert!(code == Some(126) && text.contains("Text file busy"), "{code:?} {text}");
    drop(busy);
    assert_eq!(run(&["tool"], &["none", "closed"]).0, Some(126));
    assert_eq!(run(&["tool"], &["none"]).0, Some(127));
}

fn exits_with_the_code_of_the_command() {
    let code = |arguments: &[&str]| pid_1(arguments).output().unwrap().status.code();
    assert_eq!(code(&["--", "true"]), Some(0));
    assert_eq!(code(&["--", "sh", "-c", "exit 3"]), Some(3));
    assert_eq!(code(&["--", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["-e", "143", "--", "sh", "-c", "kill -TERM $$"]), Some(0));
    assert_eq!(code(&["--", "/etc/passwd"]), Some(126));
    assert_eq!(code(&["-z", "--", "true"]), Some(2));
    let missing = pid_1(&["--", "no-such-command"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        text(&missing).contains("cannot execute \"no-such-command\": No such file"),
        "{}",
        text(&missing)
    );
    // Whoever is left when the command ends is ended by the kernel, and does not hold up the exit.
    assert_eq!(code(&["--", "sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 4"]), Some(4));
}

const RECORDER: &str = "import os,signal,sys
every=set(range(1,65))-{9,19,32,33}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print('up', flush=True)
while True:
  s=signal.sigwait(every)
  print(int(s), flush=True)
  if s==64: break";

struct Recorder {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Recorder {
    fn start(mut command: Command) -> Recorder {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut recorder = Recorder { child, lines };
        assert_eq!(recorder.line(), "up");
        recorder
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}

fn forwards_every_signal() {
    let mut recorder = Recorder::start(plain(&["-s", "--", "python3", "-c", RECORDER]));
    // Not KILL and STOP, nor the faults, which would be this program's own, nor SIGCHLD, which means "reap".
    let faults =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
    for signal in (1..=64).filter(|s| ![9, 17, 19, 32, 33].contains(s) && !faults.contains(s)) {
        raw::kill(recorder.pid(), signal).unwrap();
        assert_eq!(recorder.line(), signal.to_string());
    }
    assert_eq!(recorder.child.wait().unwrap().code(), Some(0));
}

fn forwards_to_the_group() {
    // The inner process is the one that answers: it only hears what goes to the group.
    let inner = format!(
        "import os\npid=os.fork()\nif pid:\n  import signal\n  signal.pthread_sigmask(signal.SIG_BLOCK, {{12, 64}})\n  os.wait()\n  os._exit(0)\n{RECORDER}"
    );
    let mut recorder = Recorder::start(plain(&["-s", "-g", "--", "python3", "-c", &inner]));
    raw::kill(recorder.pid(), 12).unwrap();
    assert_eq!(recorder.line(), "12");
    // What ends the inner process ends the outer one, which waits for it.
    raw::kill(recorder.pid(), 64).unwrap();
    recorder.child.wait().unwrap();
}

/// The init inside of unshare(1).
fn inside(unshare: i32) -> i32 {
    let path = format!("/proc/{unshare}/task/{unshare}/children");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn pid_1_forwards_and_ends() {
    let mut recorder = Recorder::start(pid_1(&["--", "python3", "-c", RECORDER]));
    let init = inside(recorder.pid());
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGTTOU, libc::SIGTSTP, 64] {
        raw::kill(init, signal).unwrap();
        assert_eq!(recorder.line(), signal.to_string());
    }
    assert_eq!(recorder.child.wait().unwrap().code(), Some(0));
}

fn the_command_finds_everything_as_it_was() {
    let exe = std::env::current_exe().unwrap();
    let exe = exe.to_str().unwrap();
    for before in [
        &["env", "--ignore-signal=HUP,CHLD,TTOU", "--block-signal=USR2,TERM", "--default-signal=PIPE"][..],
        &["env", "--ignore-signal=PIPE"],
        &["sh", "-c", "exec 0<&-; exec \"$@\"", "sh"],
        &["sh", "-c", "exec 2>&-; exec 7<>/dev/null; exec \"$@\"", "sh"],
        &["env", "-i", "PATH=/usr/bin", "EMPTY=", "A=b=c"],
    ] {
        let look = [
            "python3",
            "-c",
            "import os\nprint([l for l in open('/proc/self/status') if l[:3] in ('Sig','Shd') and l[:4]!='SigQ'])\n\
            n=os.open('/', 0)\nprint([(f, os.readlink('/proc/self/fd/%s' % f)) for f in os.listdir('/proc/self/fd') if f!=str(n)])\n\
            print(sorted(os.environ.items()), os.getcwd())",
        ];
        let run = |words: &[&str]| {
            let words = [before, words].concat();
            let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            // The pipes of two runs have different numbers.
            text.split("pipe:[")
                .map(|p| p.trim_start_matches(|c: char| c.is_ascii_digit()))
                .collect::<String>()
        };
        let direct = run(&look);
        let through = run(&[&[exe, "--container", "-s", "--"], &look[..]].concat());
        assert!(direct.contains("SigBlk"), "{direct}");
        assert_eq!(direct, through);
    }
}

fn reaps_orphans() {
    // An orphan ends only when it is one: else the shell that started it may be quicker to reap it. The script itself
    // is a child of PID 1 too.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do \
        (sh -c 'until grep -q \"^PPid:.1$\" /proc/$$/status; do :; done; exit 3' & ) ; done; \
        while [ $(pgrep -c -P 1) -gt 1 ]; do :; done; exit 5";
    let output = pid_1(&["-w", "--", "bash", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).matches("reaped orphan").count() >= 10, "{}", text(&output));
    // As a subreaper, without being PID 1.
    let output = plain(&["-s", "-w", "--", "sh", "-c", "(sleep 0 & ); sleep 0.2; exit 6"]).output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output).matches("reaped orphan").count()),
        (Some(6), 1),
        "{}",
        text(&output)
    );
}

fn the_terminal_is_the_commands() {
    // SAFETY: plain calls of the pty interface on descriptors of our own.
    let (master, name) = unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert_eq!((libc::grantpt(master), libc::unlockpt(master)), (0, 0));
        let name = std::ffi::CStr::from_ptr(libc::ptsname(master)).to_str().unwrap().to_owned();
        (OwnedFd::from_raw_fd(master), name)
    };
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let look = "import os,sys\nprint('foreground', os.tcgetpgrp(0)==os.getpgrp(), os.getpgrp()==os.getpid(), flush=True)\nprint('read', input())";
    let argv = [exe.as_str(), "--container", "-s", "--", "python3", "-c", look].map(str::to_owned);
    let spawned = spawn(&Launch { argv: &argv, tty: Some(&name), ..Launch::default() }).unwrap();
    let mut master = fs::File::from(master);
    let mut text = String::new();
    let mut buffer = [0; 1000];
    while !text.contains("foreground") {
        let n = master.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    master.write_all(b"typed\n").unwrap();
    while let Ok(n) = master.read(&mut buffer) {
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    over(spawned.pid);
    assert_eq!(reap::reap(spawned.pid).unwrap().unwrap().status, reap::ExitStatus::Code(0), "{text}");
    assert!(text.contains("foreground True True") && text.contains("read typed"), "{text}");
}

fn warns_when_it_cannot_reap() {
    let output = plain(&["--", "true"]).output().unwrap();
    assert!(text(&output).starts_with("init: not PID 1: "), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&plain(&["-s", "--", "true"]).output().unwrap()), "");
    assert_eq!(text(&pid_1(&["--", "true"]).output().unwrap()), "");
}

fn dies_with_its_parent_on_request() {
    let exe = std::env::current_exe().unwrap();
    let script =
        format!("{} --container -s -p TERM -- sh -c 'echo up; exec sleep 1000' & read x", exe.display());
    let mut parent = Command::new("bash")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The end of the pipe is the end of the last process that holds it.
    line.clear();
    assert_eq!(lines.read_line(&mut line).unwrap(), 0);
}

fn never_wakes_up() {
    let mut recorder = Recorder::start(pid_1(&["--", "python3", "-c", RECORDER]));
    let init = inside(recorder.pid());
    let stat = || reap::parse_stat(&fs::read(format!("/proc/{init}/stat")).unwrap()).unwrap();
    eventually("asleep", || stat().state == b'S');
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        status.lines().filter(|l| l.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = switches();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut none = [nix::poll::PollFd::new(reader.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut none, 1500_u16), Ok(0));
    assert_eq!(switches(), before);
    raw::kill(init, 64).unwrap();
    recorder.child.wait().unwrap();
}
