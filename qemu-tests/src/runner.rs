//! Runs the groups of `cargo verify` and prints what came of them.
//!
//! Every scenario runs in a process of its own: its output is shown only when it fails, and its time limit holds
//! even when it hangs. One that passes only at the second try counts as passed and is named in the summary.

use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::Result;
use crate::check;
use crate::context::Context;
use crate::scenario::{self, Scenario};
use crate::scratch;
use crate::tail;

/// How one check ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Group it belongs to.
    pub group: String,
    /// How many checks passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How long it took.
    pub time: Duration,
    /// The scenario that failed at first and passed at the second try.
    pub at_second_try: Option<&'static str>,
}

/// A group that is not made of scenarios.
struct Group {
    name: &'static str,
    about: &'static str,
    run: fn(&Context) -> Outcome,
}

const GROUPS: &[Group] = &[
    Group {
        name: "fmt",
        about: "rustfmt finds nothing to change",
        run: |c| cargo(c, "fmt", &["fmt", "--all", "--check"]),
    },
    Group {
        name: "clippy",
        about: "no warning in any target",
        run: |c| {
            cargo(c, "clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        },
    },
    Group {
        name: "unit",
        about: "unit, table and property tests of every crate",
        run: |c| cargo(c, "unit", &["test", "--workspace", "--lib", "--bins", "--tests"]),
    },
    Group {
        name: "doc",
        about: "the documentation builds without a warning, its examples run",
        run: |c| {
            let mut all =
                cargo(c, "doc", &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
            let examples = cargo(c, "doc", &["test", "--workspace", "--doc"]);
            all.passed += examples.passed;
            all.failed += examples.failed;
            all.time += examples.time;
            all
        },
    },
    Group {
        name: "licences",
        about: "every dependency's licence is allowed by deny.toml",
        run: |c| checks(c, "licences", &[check::licences]),
    },
    Group {
        name: "tidy",
        about: "direction of imports, file sizes, no TOML and no bulk in PID 1",
        run: |c| {
            checks(c, "tidy", &[check::imports, check::file_sizes, check::engine_matches, check::init_binary])
        },
    },
    Group {
        name: "sim",
        about: "the engine's simulator: random histories, and all small graphs",
        run: simulator,
    },
    Group {
        name: "fuzz",
        about: "all that reads bytes of others: the corpus, and mutations of it",
        run: |c| {
            // A count and not a time, as for the simulator.
            let amount = if c.full { "300000" } else { "4000" };
            let run = ["run", "--quiet", "--package", "qemu-tests", "--bin", "replay", "--"];
            cargo(c, "fuzz", &[&run[..], &["--seconds", "600", "--inputs", amount]].concat())
        },
    },
];

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Groups or scenarios by name; all when empty.
    pub names: Vec<String>,
    /// The large counts.
    pub full: bool,
}

/// Names of all groups, in the order in which they run.
fn groups() -> Vec<&'static str> {
    let mut names: Vec<&str> = GROUPS.iter().map(|g| g.name).collect();
    for s in scenario::all() {
        if !names.contains(&s.group) {
            names.push(s.group);
        }
    }
    names
}

/// Prints groups and scenarios.
pub fn list() {
    for name in groups() {
        let about = GROUPS.iter().find(|g| g.name == name).map_or("", |g| g.about);
        println!("{name:10} {about}");
        for s in scenario::all().iter().filter(|s| s.group == name) {
            println!("    {}", s.name);
        }
    }
}

/// Runs what is wished for; prints a line a check, a table, and as the last line `N passed, N failed`.
///
/// # Errors
/// When a name is unknown, or a tool is missing and cannot be installed.
pub fn run(wish: &Wish) -> Result<ExitCode> {
    let known = groups();
    let scenarios = scenario::all();
    for name in &wish.names {
        if !known.contains(&name.as_str()) && !scenarios.iter().any(|s| s.name == name) {
            return Err(format!("no group or scenario is named {name:?}; see: cargo verify list").into());
        }
    }
    let wished = |name: &str| wish.names.is_empty() || wish.names.iter().any(|n| n == name);
    let context = Context::new(wish.full)?;
    let chosen: Vec<Scenario> = scenarios.into_iter().filter(|s| wished(s.group) || wished(s.name)).collect();
    check::tools(!chosen.is_empty())?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for group in GROUPS.iter().filter(|g| wished(g.name)) {
        println!("== {}", group.name);
        outcomes.push((group.run)(&context));
    }
    if !chosen.is_empty() {
        println!("== scenarios");
        context.programs()?;
        outcomes.extend(run_scenarios(&context, &chosen));
    }
    print!("{}", summary(&known, &outcomes));
    let failed: usize = outcomes.iter().map(|o| o.failed).sum();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table of groups, the scenarios that needed a second try, and the last line.
fn summary(groups: &[&str], outcomes: &[Outcome]) -> String {
    let mut out = format!("\n{:10} {:>8}  result\n", "group", "time");
    let (mut passed, mut failed) = (0, 0);
    for name in groups {
        let of: Vec<&Outcome> = outcomes.iter().filter(|o| o.group == *name).collect();
        if of.is_empty() {
            continue;
        }
        let (p, f): (usize, usize) = of.iter().fold((0, 0), |(p, f), o| (p + o.passed, f + o.failed));
        let time: Duration = of.iter().map(|o| o.time).sum();
        let mut word = format!("{p} passed");
        if f > 0 {
            word += &format!(", {f} failed");
        }
        let again = of.iter().filter(|o| o.at_second_try.is_some()).count();
        if again > 0 {
            word += &format!(", {again} failed at first");
        }
        out += &format!("{name:10} {:>7.1}s  {word}\n", time.as_secs_f32());
        passed += p;
        failed += f;
    }
    let again: Vec<&str> = outcomes.iter().filter_map(|o| o.at_second_try).collect();
    if !again.is_empty() {
        out += &format!("\n{} failed at first, and passed at the second try:\n", again.len());
        again.iter().for_each(|name| out += &format!("    {name}\n"));
    }
    out + &format!("\n{passed} passed, {failed} failed\n")
}

/// Runs one scenario in this process; for the child of [`run`].
///
/// # Errors
/// When it fails.
pub fn run_one(name: &str, full: bool) -> Result {
    let found = scenario::all().into_iter().find(|s| s.name == name);
    let scenario = found.ok_or_else(|| format!("no scenario is named {name:?}"))?;
    (scenario.run)(&Context::new(full)?)
}

fn run_scenarios(context: &Context, chosen: &[Scenario]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(s) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let mut result = in_own_process(context, s);
                    let mut again = "";
                    if let (Err(first), false) = (&result, context.full) {
                        // Emulated machines on a shared host stall now and then. What fails is shown, and has one
                        // more try; with --full there is none, so that nothing rare hides here.
                        let first = tail::of(&first.to_string());
                        println!("{:10} {:40} failed at first:\n{first}\n", s.group, s.name);
                        result = in_own_process(context, s);
                        again = ", at the second try";
                    }
                    let time = started.elapsed();
                    let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!("{:10} {:40} {word} ({:.1}s{again})", s.group, s.name, time.as_secs_f32());
                    if let Err(e) = &result {
                        println!("{e}\n");
                    }
                    let failed = usize::from(result.is_err());
                    let at_second_try = (result.is_ok() && !again.is_empty()).then_some(s.name);
                    let group = s.group.to_owned();
                    all.push(Outcome { group, passed: 1 - failed, failed, time, at_second_try });
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn in_own_process(context: &Context, s: &Scenario) -> Result {
    let mut captured = tempfile::tempfile()?;
    let own = scratch::directory()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env("TMPDIR", own.path());
    command.arg("--scenario").arg(s.name);
    if context.full {
        command.arg("--full");
    }
    command.env("HOLDFAST_PROGRAMS", context.programs()?);
    command.stdin(Stdio::null()).stdout(captured.try_clone()?).stderr(captured.try_clone()?).process_group(0);
    crate::qemu::die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(|_| "a process id is too large")?;
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || tell.send(child.wait()));
    let (status, late) = match told.recv_timeout(s.limit) {
        Ok(status) => (status?, false),
        Err(_) => {
            // The child leads a process group and is not reaped before its waiter has seen the end.
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            (told.recv()??, true)
        }
    };
    let _ = waiter.join();
    drop(own);
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    captured.rewind()?;
    captured.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let why = if late { format!("time ran out after {:?}", s.limit) } else { status.to_string() };
    Err(format!("    {}\n    {why}", text.trim_end().replace('\n', "\n    ")).into())
}

fn checks(context: &Context, group: &str, all: &[fn(&Context) -> Result]) -> Outcome {
    let started = Instant::now();
    let mut failed = 0;
    for run in all {
        if let Err(e) = run(context) {
            println!("{e}");
            failed += 1;
        }
    }
    let time = started.elapsed();
    Outcome { group: group.to_owned(), passed: all.len() - failed, failed, time, at_second_try: None }
}

/// Runs cargo; its tests are counted, anything else is one check.
fn cargo(context: &Context, group: &str, arguments: &[&str]) -> Outcome {
    let started = Instant::now();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(context.workspace()).args(arguments).env("RUSTDOCFLAGS", "-D warnings");
    if context.full {
        command.env("HOLDFAST_FULL", "1");
    }
    let counted = arguments.first() == Some(&"test");
    let (mut passed, mut failed) = (0, 0);
    let ok = if counted {
        match command.stderr(Stdio::inherit()).arg("--no-fail-fast").output() {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out.stdout);
                for line in text.lines().filter_map(|l| l.strip_prefix("test result: ")) {
                    passed += count(line, " passed");
                    failed += count(line, " failed");
                }
                if !out.status.success() {
                    print!("{text}");
                }
                out.status.success()
            }
            Err(e) => {
                println!("cannot run cargo: {e}");
                false
            }
        }
    } else {
        command.status().is_ok_and(|s| s.success())
    };
    let _ = std::io::stdout().flush();
    if !counted {
        passed = usize::from(ok);
    }
    if !ok && failed == 0 {
        failed = 1;
    }
    Outcome { group: group.to_owned(), passed, failed, time: started.elapsed(), at_second_try: None }
}

/// The number before a word, in "ok. 17 passed; 0 failed; …".
fn count(line: &str, word: &str) -> usize {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit([' ', ';']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn simulator(context: &Context) -> Outcome {
    // A count and not a time: the same seeds everywhere, so that a violation is one of this change.
    let amount = if context.full { ["--seconds", "600"] } else { ["--histories", "12000"] };
    let run = ["run", "--quiet", "--profile", "image", "--package", "qemu-tests", "--bin", "sim", "--"];
    let mut all = cargo(context, "sim", &[&run[..], &amount].concat());
    let search = cargo(context, "sim", &[&run[..], &["--exhaustive"]].concat());
    all.passed += search.passed;
    all.failed += search.failed;
    all.time += search.time;
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_tests() {
        let line = "ok. 17 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!((count(line, " passed"), count(line, " failed")), (17, 3));
        assert_eq!(count("no numbers", " passed"), 0);
    }

    #[test]
    fn a_second_try_is_told() {
        let outcome = |group: &str, failed, at_second_try| Outcome {
            group: group.to_owned(),
            passed: 1 - failed,
            failed,
            time: Duration::from_millis(1500),
            at_second_try,
        };
        let all = [
            outcome("rig", 0, Some("rig-late")),
            outcome("rig", 0, None),
            outcome("qemu", 1, None),
            outcome("fmt", 0, None),
        ];
        let text = summary(&["fmt", "rig", "qemu", "sim"], &all);
        let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
        let want = [
            "group          time  result",
            "fmt            1.5s  1 passed",
            "rig            3.0s  2 passed, 1 failed at first",
            "qemu           1.5s  0 passed, 1 failed",
            "1 failed at first, and passed at the second try:",
            "    rig-late",
            "3 passed, 1 failed",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = scenario::all().iter().map(|s| s.name).chain(groups()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
