//! A process that mutants are tried in, one after another, until one of them ends it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use super::results::{Outcome, Verdict};
use crate::Result;

/// See the module.
#[derive(Debug)]
pub struct Player {
    program: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Player {
    /// Nothing runs before something is asked.
    pub fn new(program: &Path) -> Player {
        Player { program: program.to_owned(), running: None }
    }

    /// What breaks with a mutant in these histories, and in these parts behind them.
    ///
    /// # Errors
    /// When the process cannot be run, or does not understand.
    pub fn attempt(&mut self, number: u32, seeds: &[u64], parts: &[&str]) -> Result<Option<Outcome>> {
        if seeds.is_empty() && parts.is_empty() {
            return Ok(None);
        }
        let said = match self.ask(&format!("try {number} {} {}", parts.join(" "), words(seeds)))? {
            Ok(said) => said,
            Err(status) => return Ok(Some(died(status))),
        };
        let killed = |by| Ok(Some(Outcome { verdict: Verdict::Killed, by }));
        match said.split('\t').collect::<Vec<_>>().as_slice() {
            ["sound"] => Ok(None),
            ["broken", invariant, place] => killed(format!("{invariant}, {place}")),
            ["panic", place] => killed(format!("panic at {place}")),
            _ => Err(format!("not understood: {said}").into()),
        }
    }

    /// How a mutant that breaks nothing differs from what it is made of, or how it has ended the process after all.
    ///
    /// # Errors
    /// When the process cannot be run.
    pub fn differs(&mut self, number: u32, seeds: &[u64]) -> Result<std::result::Result<String, Outcome>> {
        let said = match self.ask(&format!("compare {number} {}", words(seeds)))? {
            Ok(said) => said,
            Err(status) => return Ok(Err(died(status))),
        };
        Ok(Ok(match said.split('\t').collect::<Vec<_>>().as_slice() {
            [of, "0", "0"] => format!("the same in {of}"),
            [of, words, "0"] => format!("other words in {words} of {of}"),
            [of, _, deeds] => format!("other deeds in {deeds} of {of}"),
            _ => return Err(format!("not understood: {said}").into()),
        }))
    }

    /// A line for a line, or how the process has ended.
    fn ask(&mut self, line: &str) -> Result<std::result::Result<String, ExitStatus>> {
        let running = match &mut self.running {
            Some(running) => running,
            None => self.running.insert(Running::start(&self.program)?),
        };
        let mut said = String::new();
        let asked = running.input.write_all(format!("{line}\n").as_bytes());
        if asked.is_ok() && running.output.read_line(&mut said)? > 0 {
            return Ok(Ok(said.trim_end().to_owned()));
        }
        let status = running.child.wait()?;
        self.running = None;
        if status.code() == Some(3) { Err("look has failed".into()) } else { Ok(Err(status)) }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if let Some(Running { mut child, input, .. }) = self.running.take() {
            // It ends when nothing more comes.
            drop(input);
            drop(child.wait());
        }
    }
}

impl Running {
    fn start(program: &Path) -> Result<Running> {
        let mut child =
            Command::new(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Running { child, input, output })
    }
}

/// Of a program that ended otherwise than by itself.
pub fn died(status: ExitStatus) -> Outcome {
    match status.signal() {
        Some(24) => Outcome { verdict: Verdict::Hung, by: "time".to_owned() },
        Some(6) => Outcome { verdict: Verdict::Hung, by: "memory".to_owned() },
        // Nothing else than a stack without end is left.
        Some(signal) => Outcome { verdict: Verdict::Killed, by: format!("panic by signal {signal}") },
        None => Outcome { verdict: Verdict::Killed, by: format!("panic, {status}") },
    }
}

fn words(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}
