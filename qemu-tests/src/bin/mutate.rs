//! `cargo mutate`: is there a test for everything that the engine does?

use std::path::Path;
use std::process::ExitCode;

use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::mutate::report;
use qemu_tests::mutate::results::Results;
use qemu_tests::mutate::run::{Wish, run};
use qemu_tests::mutate::scratch;

const USAGE: &str = "\
usage: cargo mutate [--only FILE] [--from N] [--again] [--histories N] [--jobs N]
           tries every mutant that no earlier run has tried; --again also those that survived; each that
           nothing else breaks with N histories that ask for it (60), from 1000 on with all pairs of units too
       cargo mutate --list
           every mutant that compiles
       cargo mutate --report
           what is known, without trying any
       cargo mutate --forget
           what is known is forgotten first
--of DIR takes the sources of another checkout, so that this one can be worked on.

Results are kept beside what is built, below target/…/holdfast/mutate, as soon as there are any.";

fn main() -> ExitCode {
    match mutate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mutate: {e}");
            ExitCode::FAILURE
        }
    }
}

fn mutate() -> Result {
    let mut wish = Wish { histories: 60, jobs: 1, ..Wish::default() };
    let mut of = None;
    let (mut list, mut report, mut forget) = (false, false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--only" => wish.only = Some(value()?),
            "--from" => wish.from = value()?.parse()?,
            "--histories" => wish.histories = value()?.parse()?,
            "--jobs" => wish.jobs = value()?.parse()?,
            "--again" => wish.again = true,
            "--of" => of = Some(value()?),
            "--list" => list = true,
            "--report" => report = true,
            "--forget" => forget = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => return Err(format!("unknown option {other}\n{USAGE}").into()),
        }
    }
    let root = match &of {
        Some(other) => Path::new(other),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?,
    };
    let folder = Context::new(false)?.scratch("mutate");
    if forget && let Err(e) = std::fs::remove_file(folder.join("results.tsv")) {
        eprintln!("nothing to forget: {e}");
    }
    let mut results = Results::load(&folder)?;
    let mutants = if list || report {
        scratch::mutants(root, &folder)?
    } else {
        let programs = scratch::build(root, &folder)?;
        run(&programs, &wish, &mut results)?;
        programs.mutants
    };
    if list {
        mutants.all.iter().for_each(|(number, mutant)| println!("{number}\t{mutant}"));
        return Ok(());
    }
    println!("{}", report::write(&mutants, &results)?);
    Ok(())
}
