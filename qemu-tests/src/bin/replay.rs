//! `cargo replay`: everything that reads bytes it did not write, fed with the corpus and with mutations of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use qemu_tests::Result;
use qemu_tests::fuzz::{self, TARGETS, replay};

const USAGE: &str = "\
usage: cargo replay [--seconds N] [--inputs N] [--seed N] [TARGET…]
           seeds, then mutations for N seconds a target (2), or so many of them
       cargo replay --input FILE TARGET
           one input
       cargo replay --write-seeds
           puts what the writers of binary formats make into the corpus, for cargo-fuzz
       cargo replay list";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("replay: {e}");
            ExitCode::FAILURE
        }
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn run() -> Result {
    let mut wish = replay::Wish {
        corpus: corpus(),
        targets: Vec::new(),
        time: Duration::from_secs(2),
        inputs: u64::MAX,
        seed: 1,
    };
    let (mut input, mut write) = (None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--seconds" => wish.time = Duration::from_secs(value()?.parse()?),
            "--inputs" => wish.inputs = value()?.parse()?,
            "--seed" => wish.seed = value()?.parse()?,
            "--input" => input = Some(value()?),
            "--write-seeds" => write = true,
            "list" => {
                TARGETS.iter().for_each(|t| println!("{}", t.name));
                return Ok(());
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            name if !name.starts_with('-') => wish.targets.push(name.to_owned()),
            other => return Err(format!("unknown option {other}\n{USAGE}").into()),
        }
    }
    if write {
        return write_seeds();
    }
    match (input, wish.targets.as_slice()) {
        (Some(input), [name]) if TARGETS.iter().any(|t| t.name == name) => {
            fuzz::run(name, &std::fs::read(&input).map_err(|e| format!("{input}: {e}"))?);
            Ok(())
        }
        (Some(_), _) => Err(format!("--input goes with one target\n{USAGE}").into()),
        (None, _) => replay::replay(&wish),
    }
}

fn write_seeds() -> Result {
    for target in TARGETS {
        let folder = corpus().join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("made-{number}")), seed)?;
        }
    }
    Ok(())
}
