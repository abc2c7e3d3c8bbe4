//! Mutants against the simulator, in a process of its own: any of them may hang, and may eat all memory.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use units::EdgeKind::{Binds, Requires, Wants};

use crate::Result;
use crate::sim::exhaustive::{Bounds, Sort, search};
use crate::sim::history::Script;
use crate::sim::large;

/// The switch of the copy.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    /// From here on it is this mutant; 0 is none.
    pub set: fn(u32),
    /// From here on it is none, and which are asked for is noted.
    pub note: fn(),
    /// Which were asked for since the last call.
    pub noted: fn() -> Vec<u32>,
}

/// Histories that are noted for a mutant; the first ones that ask for it.
const MOST_NOTED: usize = 4_000;
/// Time of the processor after which a history hangs; the longest sound one takes some tenths of a second.
const HANGS: u64 = 2;
/// The same for a search of small graphs and for a large machine.
const SEARCH_HANGS: u64 = 60;
/// Memory after which it eats all of it.
const MEMORY: u64 = 1 << 30;

/// Small graphs: some, or all pairs.
pub fn bounds(all: bool) -> Bounds {
    let limit = Duration::from_secs(600);
    if all {
        let sorts = vec![Sort::Plain, Sort::Notifies, Sort::Once, Sort::File, Sort::Mount, Sort::Target];
        let edges = vec![None, Some(Requires), Some(Binds), Some(Wants)];
        return Bounds { units: 2, sorts, edges, acts: 1, limit };
    }
    Bounds {
        units: 2,
        sorts: vec![Sort::Plain, Sort::File],
        edges: vec![None, Some(Requires)],
        acts: 1,
        limit,
    }
}

/// `cover FIRST LAST`: says of each mutant which histories ask for it; `serve`: answers what comes from standard input, a
/// line each: `try`, a number, parts (`small`, `pairs`, `large`) and the seeds of histories; or `compare`, a number and
/// seeds. The next mutant comes to the same process, unless the former has ended it.
pub fn main(switch: &Switch) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["cover", first, last] => cover(switch, first, last),
        ["serve"] => serve(switch),
        _ => Err("cover FIRST LAST, or serve".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("look: {e}");
            ExitCode::from(3)
        }
    }
}

/// So much more time of the processor from now on.
fn grant(seconds: u64) -> Result {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = used.user_time().tv_sec() + used.system_time().tv_sec();
    let limit = u64::try_from(used)?.saturating_add(seconds);
    setrlimit(Resource::RLIMIT_CPU, limit, nix::sys::resource::RLIM_INFINITY)?;
    Ok(())
}

fn serve(switch: &Switch) -> Result {
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY)?;
    let place = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&place);
    std::panic::set_hook(Box::new(move |what| {
        let at = what.location().map(ToString::to_string).unwrap_or_default();
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }));
    let mut sound = Sound::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').filter(|w| !w.is_empty()).collect();
        let said = match words.as_slice() {
            ["try", number, rest @ ..] => {
                let (parts, seeds) =
                    rest.split_at(rest.iter().take_while(|w| w.parse::<u64>().is_err()).count());
                (switch.set)(number.parse()?);
                let seeds = numbers(seeds)?;
                match catch_unwind(AssertUnwindSafe(|| attempt(&seeds, parts))) {
                    Ok(said) => said?,
                    Err(_) => {
                        format!("panic\t{}", place.lock().unwrap_or_else(PoisonError::into_inner))
                    }
                }
            }
            ["compare", number, seeds @ ..] => {
                compare(switch, &mut sound, number.parse()?, &numbers(seeds)?)?
            }
            _ => return Err(format!("not understood: {line}").into()),
        };
        writeln!(out, "{said}")?;
        out.flush()?;
    }
    Ok(())
}

fn numbers(words: &[&str]) -> Result<Vec<u64>> {
    Ok(words.iter().map(|w| w.parse()).collect::<std::result::Result<_, _>>()?)
}

/// `sound`, or `broken`, an invariant, and where.
fn attempt(seeds: &[u64], parts: &[&str]) -> Result<String> {
    for seed in seeds {
        grant(HANGS)?;
        if let Some(violation) = Script::random(*seed).play(false, None).violation {
            return Ok(format!("broken\t{}\tseed {seed}", violation.invariant.name()));
        }
    }
    for part in parts {
        grant(SEARCH_HANGS)?;
        let broken = match *part {
            "large" => large::run(1, 300, 150, None).err(),
            part => search(&bounds(part == "pairs")).violation.map(|(violation, _)| violation),
        };
        if let Some(violation) = broken {
            return Ok(format!("broken\t{}\t{part}", violation.invariant.name()));
        }
    }
    Ok("sound".to_owned())
}

/// A line for each mutant that is asked for: its number and the seeds that ask for it. Before them, behind `!`, those of
/// histories that are not sound without any.
fn cover(switch: &Switch, first: &str, last: &str) -> Result {
    let mut asked: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut unsound = Vec::new();
    (switch.note)();
    for seed in first.parse::<u64>()?..=last.parse()? {
        let broken = Script::random(seed).play(false, None).violation.is_some();
        let noted = (switch.noted)();
        if broken {
            unsound.push(seed.to_string());
            continue;
        }
        for number in noted {
            let seeds = asked.entry(number).or_default();
            if seeds.len() < MOST_NOTED {
                seeds.push(seed);
            }
        }
    }
    // Seed 0 is the search.
    search(&bounds(true));
    for number in (switch.noted)() {
        asked.entry(number).or_default().push(0);
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "!\t{}", unsound.join(" "))?;
    for (number, seeds) in asked {
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        writeln!(out, "{number}\t{}", seeds.join(" "))?;
    }
    out.flush()?;
    Ok(())
}

/// The stories of the engine that ships, by their seeds: all of each, and what was done in it.
#[derive(Default)]
struct Sound(BTreeMap<u64, (u64, u64)>);

/// How a mutant differs from what it is made of: not at all, in words that nobody acts upon, or in deeds.
fn compare(switch: &Switch, sound: &mut Sound, number: u32, seeds: &[u64]) -> Result<String> {
    let (mut words, mut deeds) = (Vec::new(), Vec::new());
    for seed in seeds {
        if !sound.0.contains_key(seed) {
            (switch.set)(0);
            grant(HANGS)?;
            sound.0.insert(*seed, story(*seed));
        }
        (switch.set)(number);
        grant(HANGS)?;
        let other = catch_unwind(|| story(*seed)).unwrap_or_default();
        match sound.0.get(seed) {
            Some((all, _)) if *all == other.0 => {}
            Some((_, done)) if *done == other.1 => words.push(*seed),
            _ => deeds.push(*seed),
        }
    }
    Ok(format!("{}\t{}\t{}", seeds.len(), list(&words), list(&deeds)))
}

fn story(seed: u64) -> (u64, u64) {
    let (mut all, mut done) = (DefaultHasher::new(), DefaultHasher::new());
    for line in Script::random(seed).play(true, None).story {
        line.hash(&mut all);
        if !is_said(&line) {
            line.hash(&mut done);
        }
    }
    (all.finish(), done.finish())
}

/// Whether a line of a story is only told to people: it is published or logged.
fn is_said(line: &str) -> bool {
    // A moment, and then six columns for an effect and two more for what is said.
    line.get(12..)
        .is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("         "))
}

/// How many, and the first.
fn list(seeds: &[u64]) -> String {
    match seeds.first() {
        Some(first) => format!("{} (seed {first})", seeds.len()),
        None => "0".to_owned(),
    }
}
