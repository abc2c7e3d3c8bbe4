//! Every mutant, what it was tried with, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Mutant;
use super::scratch::Programs;
use crate::Result;

/// What came of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// An invariant or a test broke.
    Killed,
    /// It hung, or ate all memory.
    Hung,
    /// Nothing broke.
    Survived,
    /// Nothing broke, and no history asks for it.
    Unasked,
}

impl Verdict {
    const ALL: [(Verdict, &str); 4] = [
        (Verdict::Killed, "killed"),
        (Verdict::Hung, "hung"),
        (Verdict::Survived, "survived"),
        (Verdict::Unasked, "unasked"),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Verdict::ALL.iter().find(|(v, _)| *v == self).map_or("", |(_, word)| word)
    }

    fn read(word: &str) -> Option<Verdict> {
        Verdict::ALL.iter().find(|(_, w)| *w == word).map(|(v, _)| *v)
    }

    /// Whether somebody has to say why that is so.
    pub fn lives(self) -> bool {
        matches!(self, Verdict::Survived | Verdict::Unasked)
    }
}

/// A verdict, and what gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What came of it.
    pub verdict: Verdict,
    /// The invariant or test that broke, or how it differs from what it is made of.
    pub by: String,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Only mutants of files with this in their names.
    pub only: Option<String>,
    /// Only mutants from this number on.
    pub from: u32,
    /// Those that survived are tried again.
    pub again: bool,
    /// Histories that whoever survives was tried with, of those that ask for it.
    pub histories: usize,
    /// Processes at a time.
    pub jobs: usize,
}

/// What is known of all mutants, by their keys.
#[derive(Debug)]
pub struct Results {
    file: PathBuf,
    known: BTreeMap<String, Outcome>,
}

impl Results {
    /// What earlier runs have found out.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(folder: &Path) -> Result<Results> {
        let file = folder.join("results.tsv");
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(format!("cannot read {}: {e}", file.display()).into()),
        };
        let known = text.lines().filter_map(read_line).collect();
        Ok(Results { file, known })
    }

    fn add(&mut self, mutant: &Mutant, result: Outcome) -> Result {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        let by = result.by.replace(['\t', '\n'], " ");
        writeln!(file, "{}\t{by}\t{}", result.verdict.word(), mutant.key())?;
        self.known.insert(mutant.key(), result);
        Ok(())
    }

    /// What is known of a mutant.
    pub fn of(&self, mutant: &Mutant) -> Option<&Outcome> {
        self.known.get(&mutant.key())
    }
}

fn read_line(line: &str) -> Option<(String, Outcome)> {
    let mut parts = line.splitn(3, '\t');
    let verdict = Verdict::read(parts.next()?)?;
    let by = parts.next()?.to_owned();
    Some((parts.next()?.to_owned(), Outcome { verdict, by }))
}

/// Which histories ask for which mutant.
struct Asked(BTreeMap<u32, Vec<u64>>);

impl Asked {
    /// Plays all of them once; nothing is asked for twice of one program.
    fn of(programs: &Programs, histories: u64) -> Result<Asked> {
        let file = programs.folder.join("asked.tsv");
        let stamp = format!("{:?} {histories}", std::fs::metadata(&programs.look)?.modified()?);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) if text.lines().next() == Some(&stamp) => text,
            _ => {
                eprintln!("playing {histories} histories to see which mutants each of them asks for …");
                let said = Command::new(&programs.look)
                    .args(["cover", "1", &histories.to_string()])
                    .stderr(Stdio::inherit())
                    .output()?;
                if !said.status.success() {
                    return Err(format!("cannot play histories without a mutant: {}", said.status).into());
                }
                let text = format!("{stamp}\n{}", String::from_utf8(said.stdout)?);
                std::fs::write(&file, &text)?;
                text
            }
        };
        let mut asked = BTreeMap::new();
        for line in text.lines().skip(1) {
            let Some((number, seeds)) = line.split_once('\t') else { continue };
            if number == "!" {
                if !seeds.is_empty() {
                    eprintln!("left out, since they are not sound without a mutant: seeds {seeds}");
                }
                continue;
            }
            let seeds = seeds.split(' ').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>()?;
            asked.insert(number.parse()?, seeds);
        }
        Ok(Asked(asked))
    }
}

/// Tries every mutant that is wished for and not known yet.
///
/// # Errors
/// When a program cannot be run, or something breaks without any mutant.
pub fn run(programs: &Programs, wish: &Wish, results: &mut Results) -> Result {
    if let Some(broken) = tests(programs, 0)? {
        return Err(format!("without any mutant: {}", broken.by).into());
    }
    let asked = Asked::of(programs, PLAYED.max(wish.histories as u64))?;
    let wished: Vec<(&u32, &Mutant)> = programs
        .mutants
        .range(wish.from..)
        .filter(|(_, m)| wish.only.as_ref().is_none_or(|only| m.file.contains(only.as_str())))
        .filter(|(_, m)| results.of(m).is_none_or(|r| wish.again && r.verdict.lives()))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let job = || -> Result {
        while let Some((number, mutant)) = wished.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = attempt(programs, &asked, **number, wish.histories)?;
            if result.verdict.lives() {
                println!("{number} {}: {mutant} [{}]", result.verdict.word(), result.by);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).add(mutant, result)?;
            let done = next.load(Ordering::Relaxed);
            if done.is_multiple_of(100) {
                eprintln!("{done} of {}", wished.len());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..wish.jobs).map(|_| scope.spawn(job)).collect();
        let own = job();
        let others = others.into_iter().map(|o| o.join().unwrap_or_else(|_| Err("a defect".into())));
        others.fold(own, std::result::Result::and)
    })
}

/// Histories that are played to see which mutants each asks for.
const PLAYED: u64 = 4_000;
/// From so many histories on for a mutant, it is tried with all pairs of units and with a large machine too.
const THOROUGH: usize = 1_000;

/// More and more, until something breaks.
fn attempt(programs: &Programs, asked: &Asked, number: u32, most: usize) -> Result<Outcome> {
    let all = asked.0.get(&number).map(Vec::as_slice).unwrap_or_default();
    let (search, mut seeds): (Vec<u64>, Vec<u64>) = all.iter().partition(|s| **s == 0);
    seeds.truncate(most);
    let part = |from: usize, to: usize| seeds.get(from..to.min(seeds.len())).unwrap_or_default();
    // Few histories cost less than all tests, and most mutants break the first of them.
    if let Some(broken) = look(programs, number, part(0, 20), &[])? {
        return Ok(broken);
    }
    if let Some(broken) = tests(programs, number)? {
        return Ok(broken);
    }
    if let Some(broken) = look(programs, number, part(20, 60), &[])? {
        return Ok(broken);
    }
    if seeds.is_empty() && search.is_empty() {
        return Ok(Outcome { verdict: Verdict::Unasked, by: "by no history".to_owned() });
    }
    let small: &[&str] = if search.is_empty() { &[] } else { &["small"] };
    if let Some(broken) = look(programs, number, part(60, 400), small)? {
        return Ok(broken);
    }
    if most >= THOROUGH {
        let pairs: &[&str] = if search.is_empty() { &["large"] } else { &["large", "pairs"] };
        if let Some(broken) = look(programs, number, part(400, seeds.len()), pairs)? {
            return Ok(broken);
        }
    }
    let by = differs(programs, number, part(0, 100))?;
    Ok(Outcome { verdict: Verdict::Survived, by: format!("tried with {} histories, {by}", seeds.len()) })
}

fn fed(command: &mut Command, seeds: &[u64]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let text: Vec<String> = seeds.iter().map(u64::to_string).collect();
    if let Some(mut input) = child.stdin.take() {
        // Who has ended before it has read all says why by its status.
        drop(input.write_all(text.join(" ").as_bytes()));
    }
    Ok(child.wait_with_output()?)
}

fn look(programs: &Programs, number: u32, seeds: &[u64], more: &[&str]) -> Result<Option<Outcome>> {
    if seeds.is_empty() && more.is_empty() {
        return Ok(None);
    }
    let mut command = Command::new(&programs.look);
    command.args(["try", &number.to_string()]).args(more);
    let done = fed(&mut command, seeds)?;
    let said = String::from_utf8_lossy(&done.stdout);
    match done.status.code() {
        Some(0) => Ok(None),
        Some(1) => {
            let by = said.trim().replace('\t', ", ");
            Ok(Some(Outcome { verdict: Verdict::Killed, by }))
        }
        Some(3) => Err(String::from_utf8_lossy(&done.stderr).into_owned().into()),
        _ => Ok(Some(died(&done))),
    }
}

/// Of a program that ended otherwise than by itself.
fn died(done: &Output) -> Outcome {
    match (done.status.code(), done.status.signal()) {
        (_, Some(24)) => Outcome { verdict: Verdict::Hung, by: "time".to_owned() },
        (_, Some(6)) => Outcome { verdict: Verdict::Hung, by: "memory".to_owned() },
        _ => {
            let said = String::from_utf8_lossy(&done.stderr);
            let line = said.lines().find(|l| l.contains("panicked at")).unwrap_or_default();
            let place = line.split_once("panicked at ").map_or("", |(_, place)| place);
            Outcome { verdict: Verdict::Killed, by: format!("panic at {}", place.trim_end_matches(':')) }
        }
    }
}

/// The unit tests of engine and planner.
fn tests(programs: &Programs, number: u32) -> Result<Option<Outcome>> {
    let limits = "ulimit -t 5; ulimit -v 4000000; exec \"$@\"";
    let done = Command::new("sh")
        .args(["-c", limits, "tests"])
        .arg(&programs.tests)
        .args(["--quiet", "--test-threads", "1", "engine::", "plan::"])
        .env("HOLDFAST_MUTANT", number.to_string())
        .env("PROPTEST_CASES", "32")
        .stdin(Stdio::null())
        .output()?;
    if done.status.success() {
        return Ok(None);
    }
    if done.status.code() != Some(101) {
        return Ok(Some(died(&done)));
    }
    let said = String::from_utf8_lossy(&done.stdout);
    let failed = said.lines().find_map(|l| l.strip_prefix("---- ")).unwrap_or("a test");
    let by = format!("test {}", failed.trim_end_matches(" stdout ----"));
    Ok(Some(Outcome { verdict: Verdict::Killed, by }))
}

/// How a mutant that breaks nothing differs from what it is made of.
fn differs(programs: &Programs, number: u32, seeds: &[u64]) -> Result<String> {
    let mut command = Command::new(&programs.look);
    command.args(["compare", &number.to_string()]);
    let done = fed(&mut command, seeds)?;
    let said = String::from_utf8_lossy(&done.stdout);
    let mut parts = said.trim().split('\t');
    Ok(match (parts.next(), parts.next(), parts.next()) {
        (Some(of), Some("0"), Some("0")) => format!("the same in {of}"),
        (Some(of), Some(words), Some("0")) => format!("other words in {words} of {of}"),
        (Some(of), Some(_), Some(deeds)) => format!("other deeds in {deeds} of {of}"),
        _ => "not compared".to_owned(),
    })
}

/// A table: a line a file, what killed the others, and who lives.
pub fn table(programs: &Programs, results: &Results) -> String {
    let mut files: BTreeMap<&str, BTreeMap<Verdict, usize>> = BTreeMap::new();
    let mut killers: BTreeMap<String, usize> = BTreeMap::new();
    let mut open = 0;
    for mutant in programs.mutants.values() {
        let Some(result) = results.of(mutant) else {
            open += 1;
            continue;
        };
        *files.entry(&mutant.file).or_default().entry(result.verdict).or_default() += 1;
        if !result.verdict.lives() {
            *killers.entry(killer(result)).or_default() += 1;
        }
    }
    let mut out = format!(
        "{:<36} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "file", "mutants", "killed", "hung", "survived", "unasked"
    );
    let mut sums = BTreeMap::new();
    for (file, counts) in &files {
        out += &row(file, counts);
        for (verdict, count) in counts {
            *sums.entry(*verdict).or_default() += count;
        }
    }
    out += &row("all", &sums);
    out += &format!("{} do not compile, {open} not tried yet\n\nkilled by\n", programs.left_out);
    let mut killers: Vec<(String, usize)> = killers.into_iter().collect();
    killers.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), name.clone()));
    for (name, count) in killers {
        out += &format!("{count:>6}  {name}\n");
    }
    out
}

fn row(file: &str, counts: &BTreeMap<Verdict, usize>) -> String {
    let of = |v| counts.get(&v).copied().unwrap_or(0);
    let numbers = Verdict::ALL.map(|(v, _)| format!("{:>8}", of(v)));
    format!("{file:<36} {:>8} {}\n", counts.values().sum::<usize>(), numbers.join(" "))
}

/// What killed a mutant, without where.
fn killer(result: &Outcome) -> String {
    match result.verdict {
        Verdict::Hung => format!("it hung ({})", result.by),
        _ if result.by.starts_with("test ") => "a unit test".to_owned(),
        _ if result.by.starts_with("panic") => "a panic".to_owned(),
        _ => result.by.split(',').next().unwrap_or_default().to_owned(),
    }
}

/// Everyone who lives, a line each.
pub fn survivors(programs: &Programs, results: &Results) -> Vec<String> {
    let lives = |(number, mutant): (&u32, &Mutant)| {
        let result = results.of(mutant).filter(|r| r.verdict.lives())?;
        Some(format!("{number}\t{mutant}\t{}", if result.by.is_empty() { "unasked" } else { &result.by }))
    };
    let lines: BTreeSet<(u32, String)> =
        programs.mutants.iter().filter_map(|m| Some((*m.0, lives(m)?))).collect();
    lines.into_iter().map(|(_, line)| line).collect()
}
