//! `cargo bench-peers`: Holdfast beside other inits and other configuration management, each from Debian's packages, in
//! one run on one machine. Prints tables, and writes them and a chart a figure into docs. Nothing is asserted: it exits
//! with 0 when it ran.

mod configuration;
mod facts;
mod figures;
mod inits;
mod machine;
mod neighbour;
mod page;
mod peers;
mod root;

use std::process::ExitCode;

use qemu_tests::Result;
use qemu_tests::context::Context;

const USAGE: &str = "usage: cargo bench-peers [inits] [configuration] [page] [neighbour] [--full] [--runs N] [--jobs N] [--continue] [--only NAME,NAME…]\n\n\
    inits          PID 1 in QEMU, beside systemd, s6, runit, finit, BusyBox and sysvinit\n\
    configuration  applying and repairing files, beside CFEngine, Puppet and Ansible; needs root\n\
    page           power-on to the first page of nginx in QEMU, beside systemd\n\
    neighbour      an apply beside somebody who keeps gigabytes unwritten, in QEMU\n\
    \u{20}              all of them, when none is named\n\
    --full         also with 1,000 services, and with 10,000 files\n\
    --runs N       runs of each, interleaved; figures are their medians (3)\n\
    --jobs N       machines at the same time; their clocks count instructions, so this changes no figure (1)\n\
    --continue     takes what an earlier call that was interrupted has measured of the very same\n\
    --only …       only these, printed and not written into docs/benchmarks.md\n\n\
    The tables go to docs/benchmarks.md, the charts to docs/benchmarks/.";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) inits: bool,
    pub(crate) configuration: bool,
    pub(crate) page: bool,
    pub(crate) neighbour: bool,
    pub(crate) full: bool,
    pub(crate) runs: u32,
    pub(crate) jobs: u32,
    pub(crate) go_on: bool,
    pub(crate) only: Vec<String>,
}

impl Options {
    /// Whether something of this name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|n| n == name)
    }
}

/// `None` when help is asked for.
fn options(arguments: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options {
        inits: false,
        configuration: false,
        page: false,
        neighbour: false,
        full: false,
        runs: 3,
        jobs: 1,
        go_on: false,
        only: Vec::new(),
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "inits" => options.inits = true,
            "configuration" => options.configuration = true,
            "page" => options.page = true,
            "neighbour" => options.neighbour = true,
            "--continue" => options.go_on = true,
            "--full" => options.full = true,
            "--runs" => options.runs = value()?.parse::<u32>()?.max(1),
            "--jobs" => options.jobs = value()?.parse::<u32>()?.max(1),
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}").into()),
        }
    }
    let parts = [&mut options.inits, &mut options.configuration, &mut options.page, &mut options.neighbour];
    if parts.iter().all(|part| !**part) {
        parts.into_iter().for_each(|part| *part = true);
    }
    let mut known: Vec<&str> = peers::ALL.iter().map(|p| p.name).collect();
    for name in configuration::names().chain(page::names()) {
        if !known.contains(&name) {
            known.push(name);
        }
    }
    match options.only.iter().find(|n| !known.contains(&n.as_str())) {
        Some(name) => Err(format!("nothing is named {name:?}; there are {}", known.join(", ")).into()),
        None => Ok(Some(options)),
    }
}

fn run(options: &Options) -> Result {
    let context = Context::new(options.full)?;
    if options.inits {
        inits::run(&context, options)?;
    }
    if options.configuration {
        configuration::run(&context, options)?;
    }
    if options.page {
        page::run(&context, options)?;
    }
    if options.neighbour {
        neighbour::run(&context, options)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("bench-peers: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-peers: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let read = |text: &str| options(text.split_whitespace().map(str::to_owned));
        let read_some = |text: &str| read(text).unwrap().unwrap();
        assert_eq!(read_some("").runs, 3);
        let all = read_some("--full --runs 5 --jobs 2 --only s6,runit");
        assert_eq!((all.full, all.runs, all.jobs, all.only.len()), (true, 5, 2, 2));
        let parts = |o: Options| [o.inits, o.configuration, o.page, o.neighbour];
        assert_eq!(parts(all), [true; 4]);
        assert_eq!(parts(read_some("configuration --runs 1")), [false, true, false, false]);
        assert!(read("--help").unwrap().is_none());
        assert!(read("--only runt").is_err() && read("--runs").is_err() && read("--fast").is_err());
    }
}
