//! Configuration beside other tools: the same files by each, and what that costs.

mod holdfast;
mod root;
mod tables;
mod tools;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::report;

use self::root::{Root, Used};
use self::tools::{ALL, MANAGED, Tool, content, path};
use crate::Options;
use crate::figures::median;

/// Files that are damaged for a repair.
const DAMAGED: u32 = 10;
const LOADS: &[u32] = &[1, 1000];
const FULL: &[u32] = &[1, 1000, 10_000];
/// Runs with one file and nothing to do, for each of the others.
const START_UPS: u32 = 5;

/// What is done with the files, and which of it.
const WORK: [&str; 3] = ["all of them for the first time", "nothing to do", "repair of 10"];
const FIRST: usize = 0;
const NOTHING: usize = 1;
const REPAIR: usize = 2;

/// Processor time in milliseconds by work (see [`WORK`]), a value a run.
#[derive(Debug, Clone, Default)]
struct Times([Vec<f64>; 3]);

/// All of one tool.
#[derive(Debug, Clone, Default)]
struct Told {
    name: String,
    version: String,
    settings: String,
    /// By the number of files.
    times: BTreeMap<u32, Times>,
    /// Milliseconds from start to end, with one file and nothing to do.
    start_up: Vec<f64>,
    resident: Option<f64>,
    calls: Option<u64>,
}

impl Told {
    fn new(name: &str, version: &str, settings: &str) -> Told {
        let owned = |text: &str| text.to_owned();
        Told { name: owned(name), version: owned(version), settings: owned(settings), ..Told::default() }
    }

    fn add(&mut self, files: u32, work: usize, processor: Duration) {
        if let Some(times) = self.times.entry(files).or_default().0.get_mut(work) {
            times.push(processor.as_secs_f64() * 1e3);
        }
    }

    fn median(&self, files: u32, work: usize) -> Option<f64> {
        median(self.times.get(&files)?.0.get(work)?)
    }

    /// The most files that it had.
    fn most(&self) -> u32 {
        self.times.keys().next_back().copied().unwrap_or(0)
    }
}

/// The rows that are no tool of others: name, settings, and what is run.
#[derive(Clone, Copy)]
enum Own {
    /// Words of `guest/loops.c`: for the first time, with nothing to do, for a repair.
    Loop([Option<&'static str>; 3]),
    Told,
    Started,
}

const OWN: &[(&str, &str, Own)] = &[
    (
        "floor",
        "C: write and rename; open, read, compare; inotify, then all of that",
        Own::Loop([Some("write"), Some("check"), Some("repair")]),
    ),
    ("floor: stat", "C: stat alone", Own::Loop([None, Some("stat"), None])),
    ("Holdfast", "`initctl apply` to a running PID 1; the repair by itself", Own::Told),
    ("Holdfast: start", "PID 1 started with all files there: each is looked at", Own::Started),
];

/// Names of all that can be measured here.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    OWN.iter().map(|o| o.0).chain(ALL.iter().map(|t| t.name))
}

pub(crate) fn run(context: &Context, options: &Options) -> Result {
    if !names().any(|n| options.wants(n)) {
        return Ok(());
    }
    context.programs()?;
    let root = Root::build(context)?;
    println!("{}\n", report::machine());
    let loads = if options.full { FULL } else { LOADS };
    let mut all = Vec::new();
    for (name, settings, own) in OWN {
        let version = if matches!(own, Own::Loop(_)) { "" } else { env!("CARGO_PKG_VERSION") };
        all.push(Told::new(name, version, settings));
    }
    for tool in ALL {
        let version = root.versions.get(tool.package).cloned().unwrap_or_default();
        all.push(Told::new(tool.name, &version, tool.settings));
    }
    all.retain(|t| options.wants(&t.name));
    let mut failures = Vec::new();
    for round in 0..options.runs {
        for told in &mut all {
            eprintln!("{} of {}: {}", round + 1, options.runs, told.name);
            let own = OWN.iter().find(|o| o.0 == told.name).map(|o| o.2);
            let done = match (own, ALL.iter().find(|t| t.name == told.name)) {
                (Some(Own::Loop(words)), _) => of_floor(&root, words, loads, told, round == 0),
                (Some(Own::Told), _) => holdfast::told(context, loads, told, round == 0),
                (Some(Own::Started), _) => holdfast::started(context, loads, told, round == 0),
                (None, Some(tool)) => of_tool(&root, tool, loads, told, round == 0),
                (None, None) => Ok(()),
            };
            // One that fails takes no figure of the others along.
            if let Err(e) = done {
                eprintln!("{}: {e}", told.name);
                failures.push(format!("{}: {e}", told.name));
            }
        }
    }
    let mut out = format!(
        "{}\n{}\n{}",
        report::machine(),
        method(options),
        tables::all(context, &all, loads, options)?
    );
    for failure in &failures {
        write!(out, "\nFailed: {}\n", failure.lines().next().unwrap_or_default())?;
    }
    println!("{out}");
    if options.only.is_empty() {
        let file = context.workspace().join("docs/benchmarks.md");
        report::write_section(&file, "bench-peers-configuration", &out)?;
    }
    failures.into_iter().next().map_or(Ok(()), |failure| Err(failure.into()))
}

/// Whether every file is as it should be.
fn sound(data: &Path, files: u32) -> bool {
    (0..files).all(|n| fs::read_to_string(data.join(below(&path(n)))).ok() == Some(content(n)))
}

fn below(path: &str) -> &str {
    path.strip_prefix("/srv/").unwrap_or(path)
}

fn checked(data: &Path, files: u32, who: &str) -> Result {
    if sound(data, files) {
        Ok(())
    } else {
        Err(format!("{who} did not make every file what it should be").into())
    }
}

fn clear(data: &Path) -> Result {
    let managed = data.join(below(MANAGED));
    if managed.exists() {
        fs::remove_dir_all(managed)?;
    }
    Ok(())
}

fn damage(data: &Path, files: u32) -> Result {
    // Spread over all of them.
    for n in (0..files).step_by(usize::try_from(files / DAMAGED)?.max(1)).take(usize::try_from(DAMAGED)?) {
        fs::write(data.join(below(&path(n))), "damaged\n")?;
    }
    Ok(())
}

fn processor(used: &Used) -> Duration {
    Duration::from_secs_f64(used.processor / 1e3)
}

fn of_tool(root: &Root, tool: &Tool, loads: &[u32], told: &mut Told, first: bool) -> Result {
    let mut counts: Vec<u32> = loads.iter().map(|files| (*files).min(tool.most)).collect();
    counts.dedup();
    for files in counts {
        root.policy(tool.file, &(tool.policy)(files))?;
        clear(root.data())?;
        for work in [FIRST, NOTHING, REPAIR] {
            if work == REPAIR {
                if files < DAMAGED {
                    continue;
                }
                damage(root.data(), files)?;
            }
            let times = if files == 1 && work == NOTHING { START_UPS } else { 1 };
            for _ in 0..times {
                let used = root.run(tool.command)?;
                checked(root.data(), files, tool.name)?;
                told.add(files, work, processor(&used));
                if work == NOTHING {
                    told.resident = Some(used.resident);
                }
                if work == NOTHING && files == 1 {
                    told.start_up.push(used.elapsed);
                }
            }
        }
        if files >= DAMAGED && first {
            told.calls = Some(root.calls(tool.command)?);
        }
    }
    Ok(())
}

fn of_floor(root: &Root, words: [Option<&str>; 3], loads: &[u32], told: &mut Told, first: bool) -> Result {
    for files in loads {
        clear(root.data())?;
        let count = files.to_string();
        root.run(&["/mnt/loops", "write", &count])?;
        if words.get(FIRST).is_some_and(Option::is_some) {
            clear(root.data())?;
        }
        for (work, word) in words.iter().enumerate() {
            let Some(word) = word else { continue };
            let count = if work == REPAIR { DAMAGED.to_string() } else { count.clone() };
            if work == REPAIR && *files < DAMAGED {
                continue;
            }
            let command = ["/mnt/loops", *word, &count];
            let times = if *files == 1 && work == NOTHING { START_UPS } else { 1 };
            for _ in 0..times {
                let used = root.run(&command)?;
                checked(root.data(), *files, "the floor")?;
                told.add(*files, work, processor(&used));
                if work == NOTHING && *files == 1 {
                    told.start_up.push(used.elapsed);
                }
                if work == NOTHING {
                    told.resident = Some(used.resident);
                }
            }
            if work == NOTHING && first {
                told.calls = Some(root.calls(&command)?);
            }
        }
    }
    Ok(())
}

/// How it was done, so that it can be judged and done again.
fn method(options: &Options) -> String {
    format!(
        "Written by `cargo bench-peers configuration{}`: medians of {} runs, in turns, and of {START_UPS} times as many\n\
         of those with one file and nothing to do. Processor time, in user mode and in the kernel, of the whole tree of\n\
         processes: on a machine that has other work too, the time on the clock says little. Files of {} bytes, and\n\
         everything that a tool keeps of its own, in memory, a hundred to a directory: nothing here waits for a disk. The\n\
         other tools run from Debian's packages in a root of their own, and are counted by wait4(2); Holdfast runs in\n\
         the namespace rig, PID 1, workers and all in one cgroup whose `cpu.stat` counts them, and `initctl` beside it.\n\
         Ansible has 20 files where others have more, for each takes it about a third of a second. \"Nothing to do\" is\n\
         a run that finds everything right. Holdfast needs none, for it is told of changes by the kernel: what stands\n\
         here is `initctl apply` of the same state, which parses it and looks at no file; and, as a row of its own, the\n\
         start of PID 1 with everything there, which looks at each. Memory is the largest resident size of one process,\n\
         system calls those of all processes together, both with the most files and nothing to do.\n",
        if options.full { " --full" } else { "" },
        options.runs,
        content(0).len(),
    )
}
