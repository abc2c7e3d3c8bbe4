//! What is told of the tools: tables, and a chart of each work.

use std::fmt::Write;
use std::fs;

use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::plot::{Chart, Row, number};
use qemu_tests::report::{Table, ratio};

use super::{NOTHING, REPAIR, Told, WORK};
use crate::Options;
use crate::figures::median;

fn or_none(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

fn to(figure: Option<f64>, other: Option<f64>) -> String {
    figure.zip(other).map_or_else(|| "–".to_owned(), |(a, b)| ratio(a, b))
}

fn found(all: &[Told], name: &str, figure: impl Fn(&Told) -> Option<f64>) -> Option<f64> {
    all.iter().find(|t| t.name == name).and_then(figure)
}

pub(crate) fn all(context: &Context, all: &[Told], loads: &[u32], options: &Options) -> Result<String> {
    let mut out = about(all);
    out.push('\n');
    out.push_str(&start_up(all));
    for (work, title) in WORK.iter().enumerate() {
        let (table, chart) = of_work(all, loads, work, title);
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

fn about(all: &[Told]) -> String {
    let mut table = Table::new(
        "The tools",
        &[
            "tool",
            "version",
            "set up with",
            "most files",
            "memory with nothing to do, KiB",
            "system calls, nothing to do",
        ],
    );
    for t in all {
        let cells = [
            t.name.clone(),
            t.version.clone(),
            t.settings.clone(),
            t.most().to_string(),
            or_none(t.resident),
            t.calls.map_or_else(|| "–".to_owned(), |c| c.to_string()),
        ];
        table.row(&cells.each_ref().map(String::as_str));
    }
    table.render()
}

/// One file, and nothing to do: what is left is the tool's own start.
fn start_up(all: &[Told]) -> String {
    let mut table = Table::new(
        "Start-up: one file, nothing to do",
        &["tool", "processor time, ms", "elapsed, ms", "elapsed to Holdfast"],
    );
    let elapsed = |t: &Told| median(&t.start_up);
    let ours = found(all, "Holdfast", elapsed);
    for t in all {
        let cells =
            [t.name.clone(), or_none(t.median(1, NOTHING)), or_none(elapsed(t)), to(elapsed(t), ours)];
        table.row(&cells.each_ref().map(String::as_str));
    }
    table.render()
}

/// What each of many files costs beyond one, in microseconds.
fn more(t: &Told, work: usize) -> Option<f64> {
    let most = t.most();
    let (few, many) = (t.median(1, work)?, t.median(most, work)?);
    Some((many - few).max(0.0) * 1e3 / f64::from(most.checked_sub(1).filter(|c| *c > 0)?))
}

/// Milliseconds of processor time.
fn of_work(all: &[Told], loads: &[u32], work: usize, title: &str) -> (String, Chart) {
    let heading = format!("Processor time: {title}");
    let repair = work == REPAIR;
    let mut header = vec!["tool".to_owned()];
    let shown: Vec<u32> = loads.iter().copied().filter(|files| !repair || *files > 1).collect();
    for files in &shown {
        header.push(if *files == 1 { "1 file, ms".to_owned() } else { format!("{files} files, ms") });
    }
    if !repair {
        header.push("a file more, µs".to_owned());
    }
    header.extend(["to the floor", "to Holdfast"].map(str::to_owned));
    let mut table = Table::new(&heading, &header.iter().map(String::as_str).collect::<Vec<_>>());
    // A repair is one piece of work, however many files there are.
    let figure = |t: &Told| if repair { t.median(t.most(), work) } else { more(t, work) };
    let mut rows = Vec::new();
    for t in all {
        // Who does not do this at all has no row.
        if t.times.values().all(|times| times.0.get(work).is_none_or(Vec::is_empty)) {
            continue;
        }
        let mut cells = vec![t.name.clone()];
        for files in &shown {
            let most = t.most();
            cells.push(match t.median(*files, work) {
                None if shown.iter().find(|f| **f > most) == Some(files) => {
                    format!("{} ({most} files)", or_none(t.median(most, work)))
                }
                value => or_none(value),
            });
        }
        if !repair {
            cells.push(or_none(more(t, work)));
        }
        cells.push(to(figure(t), found(all, "floor", figure)));
        cells.push(to(figure(t), found(all, "Holdfast", figure)));
        table.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
        rows.push(Row { name: t.name.clone(), values: vec![figure(t)] });
    }
    let unit = if repair { "ms" } else { "µs a file more" };
    let chart = Chart { title: heading, unit: unit.to_owned(), series: vec![String::new()], rows };
    (table.render(), chart)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::FIRST;
    use super::*;

    fn tool(name: &str, few: u64, count: u32, many: u64) -> Told {
        let mut told = Told::new(name, "1", "");
        told.add(1, FIRST, Duration::from_millis(few));
        told.add(count, FIRST, Duration::from_millis(many));
        told
    }

    fn cells(table: &str, name: &str) -> Vec<String> {
        let row = table.lines().find(|l| l.starts_with(&format!("| {name} "))).unwrap();
        row.split('|').map(|c| c.trim().to_owned()).collect()
    }

    #[test]
    fn a_file_more_is_told_without_the_start() {
        let all = [
            tool("floor", 1, 101, 2),
            tool("Holdfast", 5, 101, 9),
            tool("Puppet", 3000, 101, 3100),
            tool("Ansible", 100, 21, 300),
        ];
        let (table, chart) = of_work(&all, &[1, 101], FIRST, WORK[FIRST]);
        assert_eq!(cells(&table, "Puppet")[2..7], ["3000", "3100", "1000", "100.00×", "25.00×"]);
        assert_eq!(cells(&table, "Ansible")[2..5], ["100", "300 (21 files)", "10000"]);
        assert_eq!(chart.rows[0].values, [Some(10.0)]);
    }

    #[test]
    fn what_was_not_run_has_no_row() {
        let (table, chart) = of_work(&[tool("floor", 1, 101, 2)], &[1, 101], REPAIR, WORK[REPAIR]);
        assert!(!table.contains("| floor ") && chart.rows.is_empty());
    }
}
