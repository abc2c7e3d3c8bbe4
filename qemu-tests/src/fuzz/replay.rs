//! The corpus and what the writers of a format write, each with seeded mutations: what `cargo verify fuzz` runs.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{TARGETS, Target, mutate};
use crate::Result;
use crate::sim::dice::Dice;

/// Longest that one input may take: a loop that does not end is a defect too. Far from what any takes, since the
/// machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// What a replay is.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Folder of the corpus.
    pub corpus: PathBuf,
    /// Targets by name; all when empty.
    pub targets: Vec<String>,
    /// How long each target is given, after the seeds themselves.
    pub time: Duration,
    /// How many mutated inputs each target gets at most, so that a run can be the same everywhere.
    pub inputs: u64,
    /// First number of the mutations.
    pub seed: u64,
}

/// What came of a target.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// Seeds of the corpus and of the writers.
    pub seeds: usize,
    /// Mutated inputs.
    pub inputs: u64,
}

/// The seeds of a target: those of the tree, sorted by name, and those that its writers make.
///
/// # Errors
/// When the corpus cannot be read.
pub fn seeds(target: &Target, corpus: &Path) -> Result<Vec<Vec<u8>>> {
    let mut all = (target.seeds)();
    let folder = corpus.join(target.name);
    let mut paths = Vec::new();
    match fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry?.path());
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(format!("{}: {e}", folder.display()).into()),
    }
    paths.sort();
    for path in paths {
        all.push(fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(all)
}

/// One input in this thread; what it died of.
fn one(target: &Target, bytes: &[u8]) -> std::result::Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    })
}

/// Runs a target in a thread of its own, so that an input that never ends is told.
fn play(target: Target, seeds: Vec<Vec<u8>>, wish: &Wish) -> Result<Count> {
    enum Say {
        Begins(Vec<u8>),
        Broke(Vec<u8>, String),
        Done(Count),
    }
    let (say, said) = mpsc::channel();
    let (time, most, first) = (wish.time, wish.inputs, wish.seed);
    // Deep recursion is to be found here with the room that a real thread has.
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    thread.spawn(move || {
        let mut count = Count { seeds: seeds.len(), inputs: 0 };
        let run = |bytes: Vec<u8>| {
            let _ = say.send(Say::Begins(bytes.clone()));
            let result = one(&target, &bytes);
            result.map_err(|why| drop(say.send(Say::Broke(bytes, why)))).is_ok()
        };
        for seed in &seeds {
            if !run(seed.clone()) {
                return;
            }
        }
        let started = Instant::now();
        while count.inputs < most && started.elapsed() < time {
            let mut dice = Dice::of(&[first, count.inputs]);
            let pick = |dice: &mut Dice| {
                let number = usize::try_from(dice.below(seeds.len() as u64)).unwrap_or(0);
                seeds.get(number).cloned().unwrap_or_default()
            };
            let (seed, other) = (pick(&mut dice), pick(&mut dice));
            if !run(mutate::mutate(&mut dice, &seed, &other, target.words)) {
                return;
            }
            count.inputs += 1;
        }
        let _ = say.send(Say::Done(count));
    })?;
    let mut last = Vec::new();
    let keep = |bytes: &[u8], why: &str| -> Result<Count> {
        let path = std::env::temp_dir().join(format!("holdfast-fuzz-{}-{}", target.name, std::process::id()));
        fs::write(&path, bytes)?;
        let path = path.display();
        Err(format!(
            "fuzz target {}: {why}\n    the input is in {path}; see it again with: cargo replay --input {path} {}",
            target.name, target.name
        )
        .into())
    };
    loop {
        match said.recv_timeout(LIMIT) {
            Ok(Say::Begins(bytes)) => last = bytes,
            Ok(Say::Broke(bytes, why)) => return keep(&bytes, &why),
            Ok(Say::Done(count)) => return Ok(count),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return keep(&last, &format!("one input takes longer than {LIMIT:?}"));
            }
            Err(e) => return keep(&last, &format!("its thread is gone: {e}")),
        }
    }
}

/// Runs the wished targets, and prints a line each.
///
/// # Errors
/// With the first input that breaks something, which is kept in a file.
pub fn replay(wish: &Wish) -> Result {
    for name in &wish.targets {
        if !TARGETS.iter().any(|t| t.name == name) {
            let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
            return Err(format!("no target is named {name:?}; there are: {}", names.join(", ")).into());
        }
    }
    let mut failed = Vec::new();
    for target in
        TARGETS.iter().filter(|t| wish.targets.is_empty() || wish.targets.iter().any(|n| n == t.name))
    {
        let started = Instant::now();
        match seeds(target, &wish.corpus).and_then(|seeds| play(*target, seeds, wish)) {
            Ok(count) => println!(
                "{:14} {:4} seeds, {:8} mutated inputs in {:.1} s",
                target.name,
                count.seeds,
                count.inputs,
                started.elapsed().as_secs_f32()
            ),
            Err(e) => {
                println!("{e}");
                failed.push(target.name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("broken: {}", failed.join(", ")).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn target(run: fn(&[u8])) -> Target {
        Target { name: "of-a-test", seeds: || vec![b"abcdef".to_vec()], words: &[], run }
    }

    fn wish() -> Wish {
        let time = Duration::from_secs(20);
        Wish { corpus: PathBuf::from("/nonexistent"), targets: Vec::new(), time, inputs: u64::MAX, seed: 1 }
    }

    #[test]
    fn a_panic_is_told_with_its_input() {
        let broken = target(|bytes| assert!(!bytes.contains(&0xff), "it has a 255"));
        let said = play(broken, (broken.seeds)(), &wish()).unwrap_err().to_string();
        assert!(said.contains("it has a 255"), "{said}");
        let path =
            said.split("the input is in ").nth(1).and_then(|t| t.split(';').next()).unwrap_or_default();
        assert!(fs::read(path).unwrap_or_default().contains(&0xff), "{path} does not hold the input");
        let _ = fs::remove_file(path);
    }

    #[test]
    fn every_target_takes_its_seeds() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seed", target.name);
            for seed in seeds {
                (target.run)(&seed);
            }
        }
    }
}
