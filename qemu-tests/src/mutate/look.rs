//! One mutant against the simulator, in a process of its own: it may hang, and it may eat all memory.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::process::ExitCode;
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
const HANGS: u64 = 6;
/// The same for a search of small graphs and for a large machine.
const SEARCH_HANGS: u64 = 90;
/// Memory after which it eats all of it.
const MEMORY: u64 = 2 << 30;

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

/// `cover FIRST LAST`: says of each mutant which histories ask for it, `try NUMBER`, `compare NUMBER`: with the histories
/// whose seeds come from standard input, and after `small`, `pairs`, `large` with those too.
pub fn main(switch: &Switch) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["cover", first, last] => cover(switch, first, last),
        ["try", number, more @ ..] => attempt(switch, number, more),
        ["compare", number] => compare(switch, number),
        _ => Err("cover FIRST LAST, try NUMBER [small|pairs|large], compare NUMBER".into()),
    };
    match done {
        Ok(code) => code,
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

fn seeds() -> Result<Vec<u64>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

fn attempt(switch: &Switch, number: &str, more: &[&str]) -> Result<ExitCode> {
    let seeds = seeds()?;
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY)?;
    (switch.set)(number.parse()?);
    for seed in seeds {
        grant(HANGS)?;
        if let Some(violation) = Script::random(seed).play(false, None).violation {
            println!("{}\tseed {seed}", violation.invariant.name());
            return Ok(ExitCode::FAILURE);
        }
    }
    for part in more {
        grant(SEARCH_HANGS)?;
        let broken = match *part {
            "large" => large::run(1, 300, 150, None).err(),
            part => search(&bounds(part == "pairs")).violation.map(|(violation, _)| violation),
        };
        if let Some(violation) = broken {
            println!("{}\t{part}", violation.invariant.name());
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each mutant that is asked for: its number and the seeds that ask for it. Before them, behind `!`, those of
/// histories that are not sound without any.
fn cover(switch: &Switch, first: &str, last: &str) -> Result<ExitCode> {
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
    Ok(ExitCode::SUCCESS)
}

/// How a mutant differs from what it is made of: not at all, in words that nobody acts upon, or in deeds.
fn compare(switch: &Switch, number: &str) -> Result<ExitCode> {
    let number = number.parse()?;
    let seeds = seeds()?;
    let (mut words, mut deeds) = (Vec::new(), Vec::new());
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY)?;
    for seed in &seeds {
        grant(HANGS)?;
        let script = Script::random(*seed);
        (switch.set)(0);
        let sound = script.play(true, None).story;
        (switch.set)(number);
        let other = script.play(true, None).story;
        if other != sound {
            let acted = |story: &[String]| story.iter().filter(|l| !is_said(l)).cloned().collect::<Vec<_>>();
            if acted(&other) == acted(&sound) { words.push(*seed) } else { deeds.push(*seed) }
        }
    }
    println!("{}\t{}\t{}", seeds.len(), list(&words), list(&deeds));
    Ok(ExitCode::SUCCESS)
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
