//! `cargo sim`: random histories against the engine, and every small graph exhaustively.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use qemu_tests::sim::coverage::Coverage;
use qemu_tests::sim::exhaustive::{Bounds, Sort, search};
use qemu_tests::sim::helpers::Helpers;
use qemu_tests::sim::history::Script;
use qemu_tests::sim::journal::sabotage::Sabotage;
use qemu_tests::sim::journal::{Losses, losses};
use qemu_tests::sim::large;
use qemu_tests::sim::plans::Kept;
use qemu_tests::sim::resources::Resources;
use qemu_tests::sim::shrink::shrink;
use units::EdgeKind;

/// So many histories reach every cell that can be reached; one that is not visited by then is a gap of the simulator.
const STANDARD: u64 = 12_000;

/// Histories of the store, events in each, and losses of power for each event.
const STORIES: u64 = 40;
const EVENTS: u64 = 10;
const EACH: u64 = 8;

/// What the command line says.
struct Options {
    seconds: Option<u64>,
    seed: Option<u64>,
    histories: Option<u64>,
    exhaustive: bool,
    table: bool,
    survey: bool,
    journal: Option<u64>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seconds: None,
        seed: None,
        histories: None,
        exhaustive: false,
        table: false,
        survey: false,
        journal: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            args.next()
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| format!("cannot read the command line: {arg} wants a number"))
        };
        match arg.as_str() {
            "--seconds" => options.seconds = Some(number()?),
            "--seed" => options.seed = Some(number()?),
            "--histories" => options.histories = Some(number()?),
            "--exhaustive" => options.exhaustive = true,
            "--journal" => options.journal = Some(number()?),
            "--survey" => options.survey = true,
            "--table" => options.table = true,
            other => {
                return Err(format!(
                    "cannot read the command line: unknown argument {other}; there are --seconds N, --seed S, \
                     --histories N, --exhaustive, --journal S, --table"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if options.survey {
        survey(&options);
        return ExitCode::SUCCESS;
    }
    if let Some(first) = options.journal {
        let good = journal(first..first.saturating_add(options.histories.unwrap_or(1)));
        return if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let one = options.seed.is_some() && options.histories.is_some();
    let good = if options.exhaustive {
        exhaustive(options.seconds.unwrap_or(600))
    } else {
        random(&options) && (one || (thousands() && journal(0..STORIES)))
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How much each step looks at where there is much to look at.
fn thousands() -> bool {
    let started = Instant::now();
    let (mut steps, mut most) = (0, 0);
    let machines =
        [(1, 300, 300), (2, 300, 300), (3, 1000, 200), (4, 1000, 200), (5, 3000, 120), (6, 5000, 80)];
    for (seed, units, acts) in machines {
        match large::run(seed, units, acts, None) {
            Ok(looks) => {
                steps += looks.steps;
                most = most.max(looks.most);
            }
            Err(violation) => {
                println!("VIOLATION on a machine of {units} units, seed {seed}: {violation}");
                return false;
            }
        }
    }
    println!(
        "work: {} machines of 300 to 5000 units, {steps} steps, at most {:.1} % of what a step may look at, \
         0 violations, {:.1} s",
        machines.len(),
        most as f64 / 10.0,
        started.elapsed().as_secs_f64()
    );
    true
}

/// Power loss at any moment of the store's and the committer's work, in the histories of these seeds.
fn journal(seeds: Range<u64>) -> bool {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    // Two at a time: each waits for the kernel, and for what it traces.
    let worker = || {
        let mut sum = Losses::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(sum);
            }
            match losses(seed, EVENTS, EACH, Sabotage::None) {
                Ok(count) => sum = sum.and(count),
                Err(text) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    let repeat = format!("repeat with: cargo sim --journal {seed}");
                    return Err(format!("VIOLATION journal, seed {seed}: {text}\n{repeat}"));
                }
            }
        }
    };
    let done = std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        let own = worker();
        match (own, other.join()) {
            (Ok(own), Ok(Ok(other))) => Ok(own.and(other)),
            (Err(text), _) | (_, Ok(Err(text))) => Err(text),
            (_, Err(_)) => Err("VIOLATION journal: a defect of the simulator".to_owned()),
        }
    });
    match done {
        Ok(sum) => {
            println!(
                "journal: {} applies, {} power losses, 0 violations, {:.1} s",
                sum.applies,
                sum.losses,
                started.elapsed().as_secs_f64()
            );
            true
        }
        Err(text) => {
            println!("{text}");
            false
        }
    }
}

/// Every small graph: pairs with everything in them, then threes with less.
fn exhaustive(seconds: u64) -> bool {
    use EdgeKind::{After, Binds, Requires, Wants};
    let all = vec![None, Some(Requires), Some(Binds), Some(Wants), Some(After)];
    let rounds = [
        Bounds {
            units: 2,
            sorts: vec![Sort::Plain, Sort::Notifies, Sort::Once, Sort::File, Sort::Mount, Sort::Target],
            edges: all,
            acts: 1,
            limit: Duration::from_secs(seconds),
        },
        Bounds {
            units: 3,
            sorts: vec![Sort::Plain, Sort::File],
            edges: vec![None, Some(Requires), Some(Wants)],
            acts: 1,
            limit: Duration::from_secs(seconds),
        },
    ];
    for bounds in rounds {
        let started = Instant::now();
        let seen = search(&bounds);
        if let Some((violation, story)) = seen.violation {
            for line in story {
                println!("{line}");
            }
            println!("\nVIOLATION {violation}");
            return false;
        }
        println!(
            "exhaustive: graphs of up to {} units, {} sorts, {} edges, {} acts: {} graphs, {} states ({:.0} a second), \
             {} histories, {}, 0 violations, {:.1} s",
            bounds.units,
            bounds.sorts.len(),
            bounds.edges.len(),
            bounds.acts,
            seen.graphs,
            seen.states,
            seen.states as f64 / started.elapsed().as_secs_f64().max(0.001),
            seen.histories,
            if seen.complete { "complete" } else { "not complete: time ran out" },
            started.elapsed().as_secs_f64()
        );
        if !seen.complete {
            println!("the search is not complete: give it more than --seconds {seconds}");
            return false;
        }
    }
    true
}

/// Every invariant that breaks, with the seeds that break it: for whoever mends the engine.
fn survey(options: &Options) {
    let mut found: std::collections::BTreeMap<String, Vec<(usize, u64)>> = Default::default();
    let first = options.seed.unwrap_or(1);
    let most = options.histories.unwrap_or(1000);
    for seed in first..first + most {
        let script = Script::random(seed);
        if let Some(violation) = script.play(false, None).violation {
            let mut text = violation.to_string();
            text.retain(|c| !c.is_ascii_digit());
            text.truncate(90);
            found.entry(text).or_default().push((script.entries.len(), seed));
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, seeds)| std::cmp::Reverse(seeds.len()));
    for (text, mut seeds) in found {
        seeds.sort_unstable();
        println!("{:5} {text}  {:?}", seeds.len(), seeds.iter().take(3).map(|s| s.1).collect::<Vec<_>>());
    }
}

fn random(options: &Options) -> bool {
    let started = Instant::now();
    let first = options.seed.unwrap_or(1);
    let most = options.histories.unwrap_or(if options.seed.is_some() && options.seconds.is_none() {
        1
    } else {
        u64::MAX
    });
    let limit = match (options.seconds, options.histories, options.seed) {
        (Some(s), _, _) => Some(Duration::from_secs(s)),
        (None, None, None) => Some(Duration::from_secs(10)),
        (None, _, _) => None,
    };
    let (mut histories, mut steps, mut simulated) = (0u64, 0u64, 0u64);
    let mut coverage = Coverage::default();
    let mut resources = Resources::default();
    let mut helpers = Helpers::default();
    let mut kept = Kept::default();
    let mut most_looks = 0;
    while histories < most && limit.is_none_or(|l| started.elapsed() < l) {
        let seed = first.wrapping_add(histories);
        let script = Script::random(seed);
        let outcome = script.play(false, None);
        histories += 1;
        steps += outcome.steps;
        simulated += outcome.time.0 / 1_000_000;
        coverage.add(&outcome.coverage);
        resources.add(&outcome.resources);
        helpers.add(&outcome.helpers);
        kept.add(&outcome.kept);
        most_looks = most_looks.max(outcome.most_looks);
        if let Some(violation) = outcome.violation {
            println!("seed {seed}: {violation}\nshrinking …");
            let small = shrink(&script, violation.invariant, 4_000);
            let outcome = small.play(true, None);
            println!("\n{small}");
            for line in outcome.story {
                println!("{line}");
            }
            if let Some(violation) = outcome.violation {
                println!("\nVIOLATION {violation}");
            }
            println!("repeat with: cargo sim --seed {seed} --histories 1");
            println!("after {histories} histories");
            return false;
        }
    }
    let real = started.elapsed().as_millis().max(1);
    let (visited, possible) = coverage.counts();
    let (seen, all) = resources.counts();
    let (ended, ends) = helpers.counts();
    println!(
        "random: {histories} histories ({} a second), {steps} steps, {:.1} days simulated ({} s in each real \
         second), {visited} of {possible} cells of fact × phase, {seen} of {all} cells of resources, {ended} of {ends} \
         of helpers, at most {:.1} % of what a step may look at, 0 violations, {:.1} s",
        u128::from(histories) * 1000 / real,
        u128::from(simulated) as f64 / 86_400_000.0,
        u128::from(simulated) / real,
        most_looks as f64 / 10.0,
        real as f64 / 1000.0
    );
    let something =
        kept.verbs.iter().filter(|((_, verb), _)| *verb != "nothing").map(|(_, n)| n).sum::<u64>();
    println!(
        "plans: {} compared with what was done ({something} units to which something was done), {} of them of what was \
         current, {} whose apply returned, {} open, {} not made beside an older process, 0 violations",
        kept.plans, kept.again, kept.returned, kept.open, kept.older
    );
    if options.table || visited < possible {
        println!("{coverage}");
    }
    if options.table || seen < all {
        println!("{resources}");
    }
    if options.table || ended < ends {
        println!("{helpers}");
    }
    let unseen = kept.unseen();
    if histories < STANDARD || (visited == possible && seen == all && ended == ends && unseen.is_empty()) {
        return true;
    }
    let missed = possible - visited + all - seen + ends - ended;
    println!("{missed} cells were not visited; never promised: {}", unseen.join(", "));
    false
}
