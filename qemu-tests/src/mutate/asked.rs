//! Which histories and which unit tests ask for which mutant: a mutant is tried with no others.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::scratch::Programs;
use crate::Result;

/// Who asks.
#[derive(Debug)]
pub struct Asked {
    histories: BTreeMap<u32, Vec<u64>>,
    tests: BTreeMap<u32, Vec<String>>,
}

/// The switch that notes; see `scratch`.
const NOTES: u32 = u32::MAX - 1;

impl Asked {
    /// Plays so many histories and runs all tests; nothing is asked for twice of one program.
    ///
    /// # Errors
    /// When a program cannot be run, or something breaks without any mutant.
    pub fn of(programs: &Programs, histories: u64) -> Result<Asked> {
        let played = kept(programs, "asked.tsv", &programs.look, &format!("{histories}"), || {
            eprintln!("playing {histories} histories to see which mutants each of them asks for …");
            let said = Command::new(&programs.look)
                .args(["cover", "1", &histories.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            if !said.status.success() {
                return Err(format!("cannot play histories without a mutant: {}", said.status).into());
            }
            Ok(String::from_utf8(said.stdout)?)
        })?;
        let mut histories = BTreeMap::new();
        for (number, seeds) in played.lines().filter_map(|l| l.split_once('\t')) {
            if number == "!" {
                if !seeds.is_empty() {
                    eprintln!("left out, since they are not sound without a mutant: seeds {seeds}");
                }
                continue;
            }
            let seeds = seeds.split(' ').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>()?;
            histories.insert(number.parse()?, seeds);
        }
        let run = kept(programs, "asked-by-tests.tsv", &programs.tests, "", || tests(programs))?;
        let mut tests: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (name, numbers) in run.lines().filter_map(|l| l.split_once('\t')) {
            for number in numbers.split(' ').filter(|n| !n.is_empty()) {
                tests.entry(number.parse()?).or_default().push(name.to_owned());
            }
        }
        Ok(Asked { histories, tests })
    }

    /// The seeds of the histories that ask for a mutant; whether a search of small graphs does, too.
    pub fn histories(&self, number: u32) -> (Vec<u64>, bool) {
        let all = self.histories.get(&number).map(Vec::as_slice).unwrap_or_default();
        (all.iter().copied().filter(|s| *s != 0).collect(), all.contains(&0))
    }

    /// The names of the tests that ask for a mutant.
    pub fn tests(&self, number: u32) -> &[String] {
        self.tests.get(&number).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What a program has said once, as long as the program and the question are the same.
fn kept(
    programs: &Programs,
    name: &str,
    program: &Path,
    question: &str,
    ask: impl Fn() -> Result<String>,
) -> Result<String> {
    let file = programs.folder.join(name);
    let stamp = format!("{:?} {question}", std::fs::metadata(program)?.modified()?);
    if let Ok(text) = std::fs::read_to_string(&file)
        && let Some((first, rest)) = text.split_once('\n')
        && first == stamp
    {
        return Ok(rest.to_owned());
    }
    let said = ask()?;
    std::fs::write(&file, format!("{stamp}\n{said}"))?;
    Ok(said)
}

/// The unit tests of engine and planner, a process each: its name, and the mutants that it asks for.
fn tests(programs: &Programs) -> Result<String> {
    eprintln!("running each unit test to see which mutants it asks for …");
    let said = Command::new(&programs.tests)
        .args(["--list", "--format", "terse", "engine::", "plan::"])
        .stderr(Stdio::inherit())
        .output()?;
    let listed = String::from_utf8(said.stdout)?;
    let mut out = String::new();
    let noted = programs.folder.join("noted.txt");
    for name in listed.lines().filter_map(|l| l.strip_suffix(": test")) {
        std::fs::write(&noted, "")?;
        let done = Command::new(&programs.tests)
            .args(["--exact", name, "--quiet", "--test-threads", "1"])
            .env("HOLDFAST_MUTANT", NOTES.to_string())
            .env("HOLDFAST_NOTED", &noted)
            .output()?;
        if !done.status.success() {
            return Err(format!("without any mutant: test {name} fails").into());
        }
        let numbers = std::fs::read_to_string(&noted)?;
        out += &format!("{name}\t{}\n", numbers.lines().collect::<Vec<_>>().join(" "));
    }
    Ok(out)
}
