//! Configuration beside other tools: the same files by each, and what that costs.

mod root;
mod tools;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::context::Context;
use qemu_tests::plot::{Chart, Row, number};
use qemu_tests::report::{self, Table, ratio};
use qemu_tests::rig::{Rig, Setup};
use qemu_tests::{Result, instance, measure};

use self::root::Root;
use self::tools::{ALL, MANAGED, Tool, content, path, state};
use crate::Options;
use crate::figures::median;

/// Files that are damaged for a repair.
const DAMAGED: u32 = 10;
const LOADS: [u32; 2] = [1, 1000];
const FULL: [u32; 2] = [1, 10_000];
/// Longest wait for a repair.
const LIMIT: Duration = Duration::from_secs(120);

/// What is done with the files.
const WORK: [&str; 3] = ["all of them for the first time", "nothing to do", "repair of 10"];

/// Processor time in milliseconds by work (see [`WORK`]), a value a run.
#[derive(Debug, Clone, Default)]
struct Times([Vec<f64>; 3]);

impl Times {
    fn add(&mut self, work: usize, milliseconds: f64) {
        if let Some(times) = self.0.get_mut(work) {
            times.push(milliseconds);
        }
    }

    fn median(&self, work: usize) -> Option<f64> {
        median(self.0.get(work)?)
    }
}

/// All of one tool.
#[derive(Debug, Clone, Default)]
struct Told {
    name: String,
    version: String,
    settings: String,
    /// One file, and many.
    few: Times,
    many: Times,
    count: u32,
    resident: Option<f64>,
    calls: Option<u64>,
}

/// Names of all that can be measured here.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ["floor", "Holdfast"].into_iter().chain(ALL.iter().map(|t| t.name))
}

pub(crate) fn run(context: &Context, options: &Options) -> Result {
    if !names().any(|n| options.wants(n)) {
        return Ok(());
    }
    context.programs()?;
    let root = Root::build(context)?;
    println!("{}\n", report::machine());
    let loads = if options.full { FULL } else { LOADS };
    let mut all = vec![described("floor", "", "C: open, read, compare; write and rename"), holdfast_row()];
    for tool in ALL {
        let version = root.versions.get(tool.package).cloned().unwrap_or_default();
        all.push(described(tool.name, &version, tool.settings));
    }
    all.retain(|t| options.wants(&t.name));
    let mut failures = Vec::new();
    for round in 0..options.runs {
        for told in &mut all {
            eprintln!("{} of {}: {}", round + 1, options.runs, told.name);
            let done = match (told.name.as_str(), ALL.iter().find(|t| t.name == told.name)) {
                (_, Some(tool)) => of_tool(&root, tool, loads, told, round == 0),
                ("floor", None) => of_floor(&root, loads, told),
                (_, None) => of_holdfast(context, loads, told),
            };
            // One that fails takes no figure of the others along.
            if let Err(e) = done {
                eprintln!("{}: {e}", told.name);
                failures.push(format!("{}: {e}", told.name));
            }
        }
    }
    let mut out = format!("{}\n{}\n{}", report::machine(), method(options), tables(context, &all, options)?);
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

fn described(name: &str, version: &str, settings: &str) -> Told {
    let owned = |text: &str| text.to_owned();
    Told { name: owned(name), version: owned(version), settings: owned(settings), ..Told::default() }
}

fn holdfast_row() -> Told {
    described(
        "Holdfast",
        env!("CARGO_PKG_VERSION"),
        "`initctl apply` to a running PID 1; the repair by itself",
    )
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

fn of_tool(root: &Root, tool: &Tool, loads: [u32; 2], told: &mut Told, first: bool) -> Result {
    for (files, many) in [(loads[0], false), (loads[1].min(tool.most), true)] {
        root.policy(tool.file, &(tool.policy)(files))?;
        clear(root.data())?;
        for work in 0..WORK.len() {
            if work == 2 {
                if !many {
                    continue;
                }
                damage(root.data(), files)?;
            }
            let used = root.run(tool.command)?;
            checked(root.data(), files, tool.name)?;
            let times = if many { &mut told.many } else { &mut told.few };
            times.add(work, used.processor);
            if many && work == 1 {
                told.resident = Some(used.resident);
            }
        }
        if many {
            told.count = files;
        }
        if many && first {
            told.calls = Some(root.calls(tool.command)?);
        }
    }
    Ok(())
}

fn of_floor(root: &Root, loads: [u32; 2], told: &mut Told) -> Result {
    for (files, many) in [(loads[0], false), (loads[1], true)] {
        clear(root.data())?;
        let count = files.to_string();
        for (work, name) in ["write", "check"].iter().enumerate() {
            let words = ["/mnt/loops", *name, &count];
            let used = root.run(&words)?;
            checked(root.data(), files, "the floor")?;
            let times = if many { &mut told.many } else { &mut told.few };
            times.add(work, used.processor);
            if many && work == 1 {
                (told.resident, told.calls) = (Some(used.resident), Some(root.calls(&words)?));
            }
        }
        told.count = files;
    }
    clear(root.data())?;
    told.many.add(2, root.run(&["/mnt/loops", "write", &DAMAGED.to_string()])?.processor);
    Ok(())
}

fn of_holdfast(context: &Context, loads: [u32; 2], told: &mut Told) -> Result {
    for (files, many) in [(loads[0], false), (loads[1], true)] {
        let rig = Rig::start(context, &Setup::default())?;
        rig.ok(&["wait", "--converged", "--timeout", "20s"])?;
        let file = rig.state_file("state.toml", &state(files)?)?;
        let data = rig.inside("/srv")?;
        let times = if many { &mut told.many } else { &mut told.few };
        for work in 0..2 {
            let applied = instance::apply(context, &rig, &file)?;
            checked(&data, files, "Holdfast")?;
            times.add(work, applied.processor.as_secs_f64() * 1e3);
        }
        if many {
            instance::rest(&rig)?;
            let before = instance::processor(&rig)?;
            damage(&data, files)?;
            let began = Instant::now();
            while !sound(&data, files) {
                if began.elapsed() > LIMIT {
                    return Err("Holdfast did not repair the files".into());
                }
                measure::pause(Duration::from_millis(50))?;
            }
            instance::rest(&rig)?;
            let used = instance::processor(&rig)?.saturating_sub(before);
            times.add(2, used.as_secs_f64() * 1e3);
            told.count = files;
        }
    }
    Ok(())
}

fn tables(context: &Context, all: &[Told], options: &Options) -> Result<String> {
    let mut out = String::new();
    let mut about = Table::new(
        "The tools",
        &[
            "tool",
            "version",
            "set up with",
            "files",
            "memory with nothing to do, KiB",
            "system calls, nothing to do",
        ],
    );
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    for t in all {
        let cells = [
            t.name.clone(),
            t.version.clone(),
            t.settings.clone(),
            t.count.to_string(),
            or_none(t.resident.map(number)),
            or_none(t.calls.map(|c| c.to_string())),
        ];
        about.row(&cells.each_ref().map(String::as_str));
    }
    out.push_str(&about.render());
    for (work, title) in WORK.iter().enumerate() {
        let (table, chart) = of_work(all, work, title);
        write!(out, "\n{table}")?;
        if let Some(file) = ["first", "nothing", "repair"].get(work) {
            if options.only.is_empty() {
                let charts = context.workspace().join("docs/benchmarks");
                fs::create_dir_all(&charts)?;
                fs::write(charts.join(format!("configuration-{file}.svg")), chart.svg())?;
            }
            write!(out, "\n![Processor time, {title}](benchmarks/configuration-{file}.svg)\n")?;
        }
    }
    Ok(out)
}

/// Milliseconds of processor time; a file more is what each of many costs beyond one.
fn of_work(all: &[Told], work: usize, title: &str) -> (String, Chart) {
    let heading = format!("Processor time: {title}");
    let repair = work == 2;
    let mut table = Table::new(
        &heading,
        &["tool", "1 file, ms", "its files, ms", "a file more, µs", "to the floor", "to Holdfast"],
    );
    let more = |t: &Told| -> Option<f64> {
        let (few, many) = (t.few.median(work)?, t.many.median(work)?);
        Some((many - few).max(0.0) * 1e3 / f64::from(t.count.checked_sub(1).filter(|c| *c > 0)?))
    };
    // A repair is one piece of work, however many files there are.
    let figure = |t: &Told| if repair { t.many.median(work) } else { more(t) };
    let of = |name: &str| all.iter().find(|t| t.name == name).and_then(figure);
    let mut rows = Vec::new();
    for t in all {
        let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let to =
            |other: Option<f64>| figure(t).zip(other).map_or_else(|| "–".to_owned(), |(a, b)| ratio(a, b));
        let cells = [
            t.name.clone(),
            text(t.few.median(work)),
            text(t.many.median(work)),
            text(more(t)),
            to(of("floor")),
            to(of("Holdfast")),
        ];
        table.row(&cells.each_ref().map(String::as_str));
        rows.push(Row { name: t.name.clone(), values: vec![figure(t)] });
    }
    let unit = if repair { "ms" } else { "µs a file more" };
    let chart = Chart { title: heading, unit: unit.to_owned(), series: vec![String::new()], rows };
    (table.render(), chart)
}

fn method(options: &Options) -> String {
    format!(
        "Written by `cargo bench-peers configuration`: medians of {} runs, in turns. Processor time, in user mode and in\n\
         the kernel, of the whole tree of processes: on a machine that has other work too, the time on the clock says\n\
         little. Files of {} bytes in memory, a hundred to a directory. The other tools run from Debian's packages in a\n\
         root of their own; Holdfast in the namespace rig, where its figures come from the kernel in steps of 10 ms.\n\
         Ansible has as many files as the table says, for each takes it about a third of a second. \"Nothing to do\"\n\
         is a run that finds everything right; Holdfast needs none, for it is told of changes by the kernel, and\n\
         `initctl apply` of the same state stands here.\n",
        options.runs,
        content(0).len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, few: f64, many: f64) -> Told {
        let mut told = described(name, "1", "");
        told.few.add(0, few);
        told.many.add(0, many);
        told.count = 101;
        told
    }

    #[test]
    fn a_file_more_is_told_without_the_start() {
        let all = [tool("floor", 1.0, 2.0), tool("Holdfast", 5.0, 9.0), tool("Puppet", 3000.0, 3100.0)];
        let (table, chart) = of_work(&all, 0, WORK[0]);
        let row = table.lines().find(|l| l.contains("Puppet")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2..7], ["3000", "3100", "1000", "100.00×", "25.00×"]);
        assert_eq!(chart.rows[0].values, [Some(10.0)]);
    }

    #[test]
    fn what_was_not_run_has_no_figure() {
        let (table, chart) = of_work(&[tool("floor", 1.0, 2.0)], 2, WORK[2]);
        assert!(table.lines().last().unwrap().contains("–"));
        assert_eq!(chart.rows[0].values, [None]);
    }
}
