//! What the test program does inside a container. It is linked statically, so it runs in any root: mounted at
//! [`super::PROBE`] and called with `--probe WHAT`.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use init::sys::foreign;

use crate::Result;
use crate::measure::median;

/// The signal that ends `signals`.
pub const LAST: i32 = 64;

/// Runs the probe, if this process was called to be one.
pub fn called() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("--probe") {
        return None;
    }
    let what = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match what.as_str() {
        "signals" => signals(),
        "inherited" => inherited(),
        "time" => time(&rest),
        other => Err(format!("unknown probe {other:?}").into()),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("probe: {e}");
            ExitCode::FAILURE
        }
    })
}

fn print(text: &str) -> Result {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Says each signal that it gets, until [`LAST`].
fn signals() -> Result {
    foreign::block_all()?;
    print("up\n")?;
    loop {
        let (signal, _) = foreign::wait();
        print(&format!("{signal}\n"))?;
        if signal == LAST {
            return Ok(());
        }
    }
}

/// Says everything that a program inherits: signals, descriptors, environment, directory, umask, priorities, limits.
fn inherited() -> Result {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut text = String::new();
    for line in status.lines() {
        let kept = [
            "SigPnd",
            "ShdPnd",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "Umask",
            "Uid",
            "Gid",
            "Groups",
            "Cap",
            "NoNewPrivs",
        ];
        if kept.iter().any(|k| line.starts_with(k)) {
            text.push_str(&format!("{line}\n"));
        }
    }
    let mut descriptors: Vec<String> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path())?.to_string_lossy().into_owned();
        // Two runs have different pipes; the directory is what is being read here.
        let kind = target.split(":[").next().unwrap_or_default().to_owned();
        if !kind.starts_with("/proc/") {
            descriptors.push(format!("fd {} {kind}", entry.file_name().to_string_lossy()));
        }
    }
    descriptors.sort();
    text.push_str(&format!("{}\n", descriptors.join("\n")));
    let mut variables: Vec<String> = std::env::vars().map(|(n, v)| format!("{n}={v}")).collect();
    variables.sort();
    text.push_str(&format!("{}\n{}\n", variables.join("\n"), std::env::current_dir()?.display()));
    text.push_str(&std::fs::read_to_string("/proc/self/limits")?);
    text.push_str(&std::fs::read_to_string("/proc/self/oom_score_adj")?);
    print(&text)
}

/// `time COUNT WORDS…`: the median time of starting a command and waiting for its end, in nanoseconds.
fn time(words: &[String]) -> Result {
    let (count, command) = words.split_first().ok_or("time needs a count")?;
    let (program, arguments) = command.split_first().ok_or("time needs a command")?;
    let mut times = Vec::new();
    for _ in 0..count.parse::<u32>()? {
        let started = Instant::now();
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
        times.push(started.elapsed());
        if !status.success() {
            return Err(format!("{program}: {status}").into());
        }
    }
    print(&format!("{}\n", median(&mut times).as_nanos()))
}
