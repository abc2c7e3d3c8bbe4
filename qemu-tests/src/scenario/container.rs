//! `init [options] -- COMMAND` in containers under runc: orphans, signals, what the command inherits, exit codes,
//! the terminal, other users and read-only roots.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::measure;
use crate::oci::{self, Container, PROBE, Running, Spec, Stream, probe};

const LIMIT: Duration = Duration::from_secs(180);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "container", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("container-exit-codes", exit_codes),
    scenario("container-signals", signals),
    scenario("container-signals-to-group", signals_to_group),
    scenario("container-orphans", orphans),
    scenario("container-subreaper", subreaper),
    scenario("container-inherits", inherits),
    scenario("container-terminal", terminal),
    scenario("container-asleep", asleep),
];

/// Containers that a command must find no difference in: (what it is, the container).
fn kinds<'a>() -> [(&'static str, Spec<'a>); 3] {
    [
        ("root", Spec::default()),
        (
            "read-only root, filtered system calls",
            Spec { read_only: true, filter: true, tmpfs: &["/run"], ..Spec::default() },
        ),
        (
            "user 1000, read-only root, filtered system calls",
            Spec { uid: 1000, read_only: true, filter: true, tmpfs: &["/run"], ..Spec::default() },
        ),
    ]
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result {
    if found == wanted { Ok(()) } else { Err(format!("{what}: expected {wanted:?}, found {found:?}").into()) }
}

/// The container's code is the command's, by the conventions of shells.
fn exit_codes(context: &Context) -> Result {
    let root = oci::root(context)?;
    let table: &[(&[&str], i32)] = &[
        (&["--", "true"], 0),
        (&["--", "sh", "-c", "exit 3"], 3),
        (&["--", "sh", "-c", "exit 255"], 255),
        (&["--", "/etc/passwd"], 126),
        (&["--", "/etc"], 126),
        (&["--", "no-such-command"], 127),
        (&["--", "/no/such/command"], 127),
        (&["--", "sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["--", "sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["--", "sh", "-c", "kill -SEGV $$"], 128 + 11),
        (&["-e", "143", "--", "sh", "-c", "kill -TERM $$"], 0),
        (&["-e", "5", "-e7", "--", "sh", "-c", "exit 7"], 0),
        (&["-e", "5", "--", "sh", "-c", "exit 6"], 6),
        // What the command leaves behind ends with it.
        (&["--", "sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 4"], 4),
        (&["-z", "--", "true"], 2),
    ];
    let own = oci::writable_root(&root)?;
    let mut checked = 0;
    for (kind, spec) in kinds() {
        let root = if spec.read_only { root.as_path() } else { own.path() };
        for (arguments, code) in table {
            let words = [&["/sbin/init"], *arguments].concat();
            let said = Container::new(root, &Spec { arguments: &words, ..spec.clone() })?.run()?;
            if said.code != *code {
                let text = format!("{}{}", said.out, said.err);
                return Err(format!("{kind}: {words:?} ended with {}, not {code}:\n{text}", said.code).into());
            }
            checked += 1;
        }
    }
    println!("{checked} exit codes");
    Ok(())
}

/// Every signal that can be forwarded. Not: KILL and STOP, which nobody can catch; CHLD, which says "reap"; and the
/// faults, which would be init's own.
fn forwardable() -> Vec<i32> {
    let not: BTreeSet<i32> = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGTRAP,
        libc::SIGSYS,
    ]
    .into();
    (1..=probe::LAST).filter(|s| !not.contains(s)).collect()
}

/// Each forwardable signal reaches the command, whoever the user is; also the way that `docker stop` sends it.
fn signals(context: &Context) -> Result {
    let root = oci::root(context)?;
    let own = oci::writable_root(&root)?;
    for (kind, spec) in kinds() {
        let root = if spec.read_only { root.as_path() } else { own.path() };
        let words = ["/sbin/init", "--", PROBE, "--probe", "signals"];
        let container = Container::new(root, &Spec { arguments: &words, ..spec })?;
        let mut running = container.start()?;
        running.until(Stream::Output, "up")?;
        let pid = container.pid()?;
        for name in ["HUP", "TERM", "USR1", "WINCH"] {
            container.kill(name)?;
            let number = name.parse::<Signal>().or_else(|_| format!("SIG{name}").parse())? as i32;
            heard(&mut running, kind, number)?;
        }
        for signal in forwardable() {
            init::sys::raw::kill(pid, signal)?;
            heard(&mut running, kind, signal)?;
        }
        // The last one ends the probe.
        let said = running.ended()?;
        equal(kind, &said.code, &0)?;
        equal(kind, &said.err, &String::new())?;
    }
    println!("{} signals", forwardable().len());
    Ok(())
}

/// The next signal that the probe tells of is this one.
fn heard(running: &mut Running, what: &str, signal: i32) -> Result {
    loop {
        let line = running.line(Stream::Output)?;
        // SIGURG is how Go's runtime wakes its threads, and runc hands on what it gets.
        if line != libc::SIGURG.to_string() || signal == libc::SIGURG {
            return equal(what, &line, &signal.to_string());
        }
    }
}

/// With `-g` the command's whole process group gets them.
fn signals_to_group(context: &Context) -> Result {
    let root = oci::root(context)?;
    // The shell ignores what it starts the probe for, and ends when the probe does.
    let script = format!("trap '' USR1; {PROBE} --probe signals; exit 9");
    let words = ["/sbin/init", "-g", "--", "sh", "-c", &script];
    let spec = Spec { arguments: &words, read_only: true, ..Spec::default() };
    let container = Container::new(&root, &spec)?;
    let mut running = container.start()?;
    running.until(Stream::Output, "up")?;
    let pid = container.pid()?;
    init::sys::raw::kill(pid, libc::SIGUSR1)?;
    heard(&mut running, "the group", libc::SIGUSR1)?;
    end_probe(&container)?;
    equal("the shell", &running.ended()?.code, &9)
}

fn end_probe(container: &Container) -> Result {
    let end = container.exec(&["sh", "-c", &format!("kill -{} $(pidof probe)", probe::LAST)])?;
    equal(&end.err, &end.code, &0)
}

/// A shell line that leaves `count` orphans.
fn leave_orphans(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do (sh -c 'exit 3' &); i=$((i+1)); done")
}

/// The processes that a process has started or been given, those that have ended and were not waited for included.
fn children(pid: i32) -> Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

/// A thousand orphans are reaped; none stays a zombie.
fn orphans(context: &Context) -> Result {
    let root = oci::root(context)?;
    let count = if context.full { 10_000 } else { 1000 };
    let script = format!("{}; exec {PROBE} --probe signals", leave_orphans(count));
    let words = ["/sbin/init", "-w", "--", "sh", "-c", &script];
    let spec = Spec { arguments: &words, read_only: true, ..Spec::default() };
    let container = Container::new(&root, &spec)?;
    let mut running = container.start()?;
    for _ in 0..count {
        running.until(Stream::Error, "reaped orphan")?;
    }
    running.until_said(Stream::Output, "up")?;
    let pid = container.pid()?;
    let left = children(pid)?;
    if left.len() != 1 {
        return Err(format!("beside the command, init has children: {left:?}").into());
    }
    init::sys::raw::kill(pid, probe::LAST)?;
    let said = running.ended()?;
    equal("orphans", &said.err.matches("reaped orphan").count(), &usize::try_from(count)?)?;
    equal("the command", &said.code, &0)
}

/// Not as PID 1, `-s` makes it reap; without, it says what will happen.
fn subreaper(context: &Context) -> Result {
    let root = oci::root(context)?;
    let inner = format!("{}; exec {PROBE} --probe signals", leave_orphans(100));
    let words = ["sh", "-c", "/sbin/init -s -w -- sh -c \"$1\"; echo \"ended with $?\"", "sh", &inner];
    let spec = Spec { arguments: &words, read_only: true, ..Spec::default() };
    let container = Container::new(&root, &spec)?;
    let mut running = container.start()?;
    for _ in 0..100 {
        running.until(Stream::Error, "reaped orphan")?;
    }
    running.until_said(Stream::Output, "up")?;
    end_probe(&container)?;
    running.until(Stream::Output, "ended with 0")?;

    let words = ["sh", "-c", "/sbin/init -- true; exit $?"];
    let said =
        Container::new(&root, &Spec { arguments: &words, read_only: true, ..Spec::default() })?.run()?;
    if said.code != 0 || !said.err.contains("not PID 1") {
        return Err(format!("no warning of the missing -s: {}: {}{}", said.code, said.out, said.err).into());
    }
    Ok(())
}

/// Mask, dispositions, descriptors, environment, limits and all else that a program inherits is the same with init
/// before it as without.
fn inherits(context: &Context) -> Result {
    let root = oci::root(context)?;
    let own = oci::writable_root(&root)?;
    let befores: &[&[&str]] = &[
        &[],
        &["env", "--ignore-signal=HUP,CHLD,TTOU,PIPE", "--block-signal=USR2,TERM,INT"],
        &["env", "--block-signal=CHLD,RTMIN,RTMAX", "A=b=c", "EMPTY="],
        &["sh", "-c", "umask 077; exec 0<&-; exec 7</etc/passwd; cd /usr; exec \"$@\"", "sh"],
    ];
    for (kind, spec) in kinds() {
        let root = if spec.read_only { root.as_path() } else { own.path() };
        for before in befores {
            let look = |through: &[&str]| -> Result<String> {
                let words = [before, through, &[PROBE, "--probe", "inherited"]].concat();
                let said = Container::new(root, &Spec { arguments: &words, ..spec.clone() })?.run()?;
                if said.code == 0 && said.out.contains("SigBlk") {
                    Ok(said.out)
                } else {
                    Err(format!("{words:?} ended with {}: {}", said.code, said.err).into())
                }
            };
            equal(&format!("{kind}, {before:?}"), &look(&["/sbin/init", "--"])?, &look(&[])?)?;
        }
    }
    Ok(())
}

/// A shell under init has the terminal: job control, and Ctrl-C for what is in the foreground.
fn terminal(context: &Context) -> Result {
    let root = oci::root(context)?;
    let words = ["/sbin/init", "--", "bash", "--norc", "-i"];
    for uid in [0, 1000] {
        let spec = Spec {
            arguments: &words,
            uid,
            terminal: true,
            read_only: true,
            environment: &[("PS1", "typed> ")],
            ..Spec::default()
        };
        let container = Container::new(&root, &spec)?;
        let mut terminal = container.start_with_terminal()?;
        let console = &mut terminal.console;
        console.expect("typed> ", oci::LIMIT)?;
        for (line, answer) in [
            ("tty\n", "/dev/"),
            ("sleep 1000 &\n", "[1]"),
            ("kill %1; wait; echo e''nd\n", "end"),
            (&format!("{PROBE} --probe signals\n"), "up"),
            // What is typed goes to the job in the foreground, not to init.
            ("\x1a", "20"),
            ("\x1c", "3"),
            ("\x03", "2"),
        ] {
            console.send(line)?;
            console.expect(answer, oci::LIMIT)?;
        }
        end_probe(&container)?;
        console.expect("typed> ", oci::LIMIT)?;
        console.send("exit 7\n")?;
        if console.text().contains("job control") {
            return Err(format!("the shell complains:\n{}", console.text()).into());
        }
        equal(&format!("user {uid}"), &terminal.ended()?, &7)?;
    }
    Ok(())
}

/// Nothing happens, and init does nothing: not one context switch in two seconds.
fn asleep(context: &Context) -> Result {
    let root = oci::root(context)?;
    let words = ["/sbin/init", "--", PROBE, "--probe", "signals"];
    let spec = Spec { arguments: &words, read_only: true, ..Spec::default() };
    let container = Container::new(&root, &spec)?;
    let mut running = container.start()?;
    running.until(Stream::Output, "up")?;
    let pid = container.pid()?;
    let found = measure::at_rest(&[pid], Duration::from_secs(2))?;
    equal("context switches", &found, &vec![0])
}
