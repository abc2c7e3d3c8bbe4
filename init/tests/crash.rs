//! Faults of init itself: whatever it dies of, the same process goes on with the live table.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(clippy::indexing_slicing, missing_docs)]

mod support;

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use init::sys::{crash, inherit, raw, reap, signals};

support::cases! {
    Process: every_fault_is_survived,
    Pid1: as_pid_1_too,
    Process: a_signal_in_the_window_is_kept,
    Process: deaths_are_counted,
    Process: a_signal_that_somebody_sends_is_no_fault,
    Process: closed_standard_descriptors_are_opened,
}

const LIVE: &str = "HOLDFAST_TEST_LIVE";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, kind] = arguments.as_slice()
        && flag == "--crash"
    {
        victim(&arguments, kind);
        return;
    }
    if arguments.get(1).is_some_and(|a| a == "--descriptors") {
        return descriptors();
    }
    support::main(CASES);
}

/// What stands for init: the first time it crashes, the second time it tells what it found.
fn victim(arguments: &[String], kind: &str) {
    let found = std::env::var(LIVE).ok().map(|n| inherit::descriptor(n.parse().unwrap()).unwrap());
    let again = found.is_some();
    let live = found.map(std::fs::File::from).unwrap_or_else(|| {
        let fd = nix::sys::memfd::memfd_create(c"live", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = std::fs::File::from(fd);
        write!(file, "state of {}", std::process::id()).unwrap();
        file
    });
    let mut listening = signals::Signals::open().unwrap();
    crash::arm(arguments, LIVE, live.as_raw_fd()).unwrap();
    let deaths = crash::deaths();
    if kind == "often" && crash::recent(&deaths) < 5 {
        die("segv");
    }
    if again {
        let mut text = [0; 40];
        let n = live.read_at(&mut text, 0).unwrap();
        let pending = listening.read().unwrap().map(|s| s.signal);
        println!(
            "{} / {} / {} deaths / {pending:?} / {} own",
            std::str::from_utf8(&text[..n]).unwrap(),
            std::process::id(),
            deaths.len(),
            crash::recent(&deaths)
        );
        return;
    }
    let _keep = live.into_raw_fd();
    if kind == "pending" {
        raw::kill(i32::try_from(std::process::id()).unwrap(), libc::SIGTERM).unwrap();
    }
    die(kind);
}

fn die(kind: &str) {
    match kind {
        "segv" | "pending" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        "overflow" => println!("{}", deep(1)),
        "abort" => std::process::abort(),
        "sent" => {
            let own = std::process::id().to_string();
            Command::new("kill").args(["-SEGV", &own]).status().unwrap();
            unreachable!("it has arrived before that has ended");
        }
        "panic" => {
            let _ = std::panic::catch_unwind(|| panic!("on purpose"));
            crash::again();
        }
        "double" => {
            // A panic while a panic unwinds aborts.
            struct Bad;
            impl Drop for Bad {
                fn drop(&mut self) {
                    panic!("again");
                }
            }
            let _bad = Bad;
            panic!("first");
        }
        signal => {
            let number = signals::number(signal).unwrap();
            raw::kill(i32::try_from(std::process::id()).unwrap(), number).unwrap();
        }
    }
}

#[allow(unconditional_recursion)]
fn deep(n: u64) -> u64 {
    let large = std::hint::black_box([n; 1000]);
    deep(n + 1) + large[7]
}

fn run(kind: &str) -> (Option<i32>, String, u32) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--crash", kind]).env_remove(crash::DEATHS).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr), pid)
}

fn every_fault_is_survived() {
    for kind in ["segv", "overflow", "abort", "panic", "double", "SEGV", "BUS", "ILL", "FPE", "SYS"] {
        let (code, text, pid) = run(kind);
        assert_eq!(code, Some(0), "{kind}: {text}");
        assert!(text.contains(&format!("state of {pid} / {pid} / 1 deaths / None")), "{kind}: {text}");
        if kind != "panic" {
            assert!(text.contains("init was hit by signal"), "{kind}: {text}");
        }
    }
}

fn as_pid_1_too() {
    for kind in ["segv", "overflow", "abort", "ILL"] {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]);
        // By its path: /proc/self/exe would be unshare(1) itself by then.
        command.arg(std::env::current_exe().unwrap()).args(["--crash", kind]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("state of 1 / 1 / 1 deaths / None"), "{kind}: {text} {:?}", output.status);
    }
}

fn a_signal_in_the_window_is_kept() {
    let (code, text, _) = run("pending");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 deaths / Some(15)"), "{text}");
}

fn deaths_are_counted() {
    let (code, text, _) = run("often");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("/ 5 deaths / None"), "{text}");
    assert_eq!(reap::peek().unwrap(), None);
}

fn a_signal_that_somebody_sends_is_no_fault() {
    let (code, text, _) = run("sent");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 deaths / None / 0 own"), "{text}");
    let (_, text, _) = run("abort");
    assert!(text.contains("1 deaths / None / 1 own"), "{text}");
}

fn descriptors() {
    for number in 0..3 {
        let target = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        let closed = init::sys::stdio::was_closed(number);
        std::fs::write(
            format!("/tmp/holdfast-test-{}-{number}", std::process::id()),
            format!("{closed} {}", target.display()),
        )
        .unwrap();
    }
}

fn closed_standard_descriptors_are_opened() {
    let exe = std::env::current_exe().unwrap();
    let script = format!("exec {} --descriptors <&- >&- 2>&-", exe.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    for number in 0..3 {
        let path = format!("/tmp/holdfast-test-{}-{number}", child.id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "true /dev/null");
        std::fs::remove_file(path).unwrap();
    }
    // In a root without anything, where std would give up.
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(&exe, root.path().join("exe")).unwrap();
    let script = format!("exec chroot {} /exe --list <&- >&- 2>&-", root.path().display());
    let status = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
}
