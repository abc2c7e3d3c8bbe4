//! Every mutant, and with what it is tried.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Mutant;
use super::asked::Asked;
use super::player::{Player, died};
use super::results::{Outcome, Results, Verdict};
use super::scratch::Programs;
use crate::Result;

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

/// Tries every mutant that is wished for and not known yet.
///
/// # Errors
/// When a program cannot be run, or something breaks without any mutant.
pub fn run(programs: &Programs, wish: &Wish, results: &mut Results) -> Result {
    let played = if wish.histories > FEW { MANY_PLAYED } else { FEW_PLAYED };
    let asked = Asked::of(programs, played.max(wish.histories as u64))?;
    let wished: Vec<(&u32, &Mutant)> = programs
        .mutants
        .all
        .range(wish.from..)
        .filter(|(_, m)| wish.only.as_ref().is_none_or(|only| m.file.contains(only.as_str())))
        .filter(|(_, m)| results.of(m).is_none_or(|r| wish.again && r.verdict.lives()))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let job = || -> Result {
        let mut player = Player::new(&programs.look);
        while let Some((number, mutant)) = wished.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = attempt(programs, &mut player, &asked, **number, wish.histories)?;
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

/// Histories that are played to see which mutants each asks for: where few are tried with each of them, and else.
const FEW_PLAYED: u64 = 1_000;
const MANY_PLAYED: u64 = 4_000;
/// See there.
const FEW: usize = 100;
/// From so many histories on for a mutant, it is tried with all pairs of units and with a large machine too.
const THOROUGH: usize = 1_000;
/// Histories before the tests: most mutants break the first of them.
const FIRST: usize = 5;
/// Histories that are played with and without a survivor, to see whether it does anything else.
const COMPARED: usize = 8;

/// More and more, until something breaks.
fn attempt(
    programs: &Programs,
    player: &mut Player,
    asked: &Asked,
    number: u32,
    most: usize,
) -> Result<Outcome> {
    let (mut seeds, searched) = asked.histories(number);
    seeds.truncate(most);
    let part = |from: usize, to: usize| seeds.get(from..to.min(seeds.len())).unwrap_or_default();
    if let Some(broken) = player.attempt(number, part(0, FIRST), &[])? {
        return Ok(broken);
    }
    let names = asked.tests(number);
    if let Some(broken) = tests(programs, number, names)? {
        return Ok(broken);
    }
    if seeds.is_empty() && !searched {
        let by = if names.is_empty() { "by nothing" } else { "by no history" };
        return Ok(Outcome { verdict: Verdict::Unasked, by: by.to_owned() });
    }
    if let Some(broken) = player.attempt(number, part(FIRST, 400), &[])? {
        return Ok(broken);
    }
    if most > FEW
        && searched
        && let Some(broken) = player.attempt(number, &[], &["small"])?
    {
        return Ok(broken);
    }
    if most >= THOROUGH {
        let pairs: &[&str] = if searched { &["large", "pairs"] } else { &["large"] };
        if let Some(broken) = player.attempt(number, part(400, seeds.len()), pairs)? {
            return Ok(broken);
        }
    }
    match player.differs(number, part(0, COMPARED))? {
        Ok(by) => {
            let by = format!("tried with {} histories, {by}", seeds.len());
            Ok(Outcome { verdict: Verdict::Survived, by })
        }
        Err(broken) => Ok(broken),
    }
}

/// The unit tests that ask for a mutant.
fn tests(programs: &Programs, number: u32, names: &[String]) -> Result<Option<Outcome>> {
    if names.is_empty() {
        return Ok(None);
    }
    let limits = "ulimit -t 5; ulimit -v 2000000; exec \"$@\"";
    let done = Command::new("sh")
        .args(["-c", limits, "tests"])
        .arg(&programs.tests)
        .args(["--quiet", "--test-threads", "1", "--exact"])
        .args(names)
        .env("HOLDFAST_MUTANT", number.to_string())
        .env("PROPTEST_CASES", "32")
        .stdin(Stdio::null())
        .output()?;
    if done.status.success() {
        return Ok(None);
    }
    if done.status.code() != Some(101) {
        return Ok(Some(died(done.status)));
    }
    let said = String::from_utf8_lossy(&done.stdout);
    let failed = said.lines().find_map(|l| l.strip_prefix("---- ")).unwrap_or("a test");
    let by = format!("test {}", failed.trim_end_matches(" stdout ----"));
    Ok(Some(Outcome { verdict: Verdict::Killed, by }))
}
