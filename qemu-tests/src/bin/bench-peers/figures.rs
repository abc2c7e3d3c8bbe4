//! What is told of the runs: a table and a chart a figure.

use std::collections::BTreeMap;

use qemu_tests::plot::{Chart, Row, number};
use qemu_tests::report::{Table, ratio};

use crate::facts::Facts;
use crate::peers::{Load, Peer};

/// All runs, by init and load.
pub(crate) type Runs = BTreeMap<(&'static str, Load), Vec<Facts>>;

/// One number of a run.
pub(crate) struct Figure {
    /// Name of the chart's file, without what all have in common.
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) of: fn(&Facts, Load) -> Option<f64>,
    /// Whether the floor's value is taken off every other.
    pub(crate) over_floor: bool,
    /// Whether it differs with the number of services.
    pub(crate) by_load: bool,
}

/// What is measured with services that have nothing to do with each other.
pub(crate) const FIGURES: &[Figure] = &[
    Figure {
        file: "start",
        title: "From the exec of PID 1 to the start of the last service",
        unit: "ms",
        of: |f, load| f.last_of(load.names()),
        over_floor: false,
        by_load: true,
    },
    Figure {
        file: "pss",
        title: "Memory of everything that is no service, shared pages divided (PSS)",
        unit: "KiB",
        of: |f, _| Some(f.pss as f64),
        over_floor: false,
        by_load: true,
    },
    Figure {
        file: "anonymous",
        title: "Anonymous memory of everything that is no service",
        unit: "KiB",
        of: |f, _| Some(f.anonymous as f64),
        over_floor: false,
        by_load: true,
    },
    Figure {
        file: "kernel",
        title: "Memory of the kernel (slabs, stacks, page tables, per processor) beyond the floor's",
        unit: "KiB",
        of: |f, _| Some(f.kernel as f64),
        over_floor: true,
        by_load: true,
    },
    Figure {
        file: "restart",
        title: "From the kill of a service to its next start",
        unit: "ms",
        of: |f, _| median(&f.restarted),
        over_floor: false,
        by_load: false,
    },
    Figure {
        file: "orphans",
        title: "2,000 orphans that end at once, until all are reaped",
        unit: "ms",
        of: |f, _| f.reaped,
        over_floor: false,
        by_load: false,
    },
    Figure {
        file: "shutdown",
        title: "From asking for the end to the kernel's last message",
        unit: "ms",
        of: |f, _| f.down,
        over_floor: false,
        by_load: true,
    },
    Figure {
        file: "rest",
        title: "Context switches at rest, of everything that is no service, in 30 s",
        unit: "switches",
        of: |f, _| Some(f.switches as f64),
        over_floor: false,
        by_load: false,
    },
    Figure {
        file: "executed",
        title: "Files that those processes execute, with their libraries",
        unit: "KiB",
        of: |f, _| Some((f.mapped / 1024) as f64),
        over_floor: false,
        by_load: false,
    },
];

/// The chain.
pub(crate) const CHAIN: Figure = Figure {
    file: "chain",
    title: "A chain of 20, each started when the one before is ready: from the exec of PID 1 to the last",
    unit: "ms",
    of: |f, load| f.last_of(load.names()),
    over_floor: false,
    by_load: true,
};

/// The middle of the values; of an even number the lower one. None of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

impl Figure {
    /// The median of an init's runs; none when one of them has no value.
    fn median(&self, runs: &Runs, peer: &'static str, load: Load) -> Option<f64> {
        let of = |name: &'static str| -> Option<f64> {
            let all: Option<Vec<f64>> = runs.get(&(name, load))?.iter().map(|f| (self.of)(f, load)).collect();
            median(&all?)
        };
        let own = of(peer)?;
        if self.over_floor { Some(own - of("floor")?) } else { Some(own) }
    }

    /// Its table and its chart. Ratios are those of `main`.
    pub(crate) fn told(&self, runs: &Runs, peers: &[Peer], loads: &[Load], main: Load) -> (String, Chart) {
        let loads: Vec<Load> = if self.by_load { loads.to_vec() } else { vec![main] };
        let titles: Vec<String> = loads.iter().map(Load::to_string).collect();
        let (holdfast, floor) = (format!("to Holdfast, with {main}"), format!("to the floor, with {main}"));
        let mut header = vec![self.unit];
        header.extend(titles.iter().map(String::as_str));
        if loads.len() > 1 {
            header.extend([holdfast.as_str(), floor.as_str()]);
        } else {
            header.extend(["to Holdfast", "to the floor"]);
        }
        let mut table = Table::new(self.title, &header);
        let mut rows = Vec::new();
        for peer in peers {
            let values: Vec<Option<f64>> = loads.iter().map(|l| self.median(runs, peer.name, *l)).collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            let to = |other: &'static str| {
                let pair = self.median(runs, peer.name, main).zip(self.median(runs, other, main));
                pair.map_or("–".to_owned(), |(a, b)| ratio(a, b))
            };
            let mut cells = vec![peer.name.to_owned()];
            cells.extend(values.iter().map(|v| v.map_or("–".to_owned(), number)));
            cells.extend([to("Holdfast"), to("floor")]);
            let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            table.row(&cells);
            rows.push(Row { name: peer.name.to_owned(), values });
        }
        let chart = Chart { title: self.title.to_owned(), unit: self.unit.to_owned(), series: titles, rows };
        (table.render(), chart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::ALL;

    fn run(last: f64, kernel: u64) -> Facts {
        Facts { started: [("s0".to_owned(), last)].into(), kernel, ..Facts::default() }
    }

    fn runs() -> Runs {
        let load = Load::Independent(1);
        let mut runs = Runs::new();
        runs.insert(("floor", load), vec![run(2.0, 100), run(9.0, 100), run(1.0, 100)]);
        runs.insert(("Holdfast", load), vec![run(4.0, 150)]);
        runs.insert(("s6", load), vec![run(8.0, 400), Facts { kernel: 400, ..Facts::default() }]);
        runs
    }

    #[test]
    fn the_median_is_the_middle_and_none_of_none() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0]), Some(1.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn figures_have_ratios_to_holdfast_and_to_the_floor() {
        let load = Load::Independent(1);
        let start = FIGURES.iter().find(|f| f.file == "start").unwrap();
        let (table, chart) = start.told(&runs(), ALL, &[load], load);
        assert!(table.contains("| Holdfast | 4.00       | 1.00×       | 2.00×        |"), "{table}");
        // A run in which a service did not start makes no figure, and what has none has no row.
        assert_eq!(chart.rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["floor", "Holdfast"]);
    }

    #[test]
    fn the_kernels_memory_is_told_beyond_the_floors() {
        let load = Load::Independent(1);
        let kernel = FIGURES.iter().find(|f| f.file == "kernel").unwrap();
        let (_, chart) = kernel.told(&runs(), ALL, &[load], load);
        let values: Vec<_> = chart.rows.iter().flat_map(|r| r.values.clone()).collect();
        assert_eq!(values, [Some(0.0), Some(50.0), Some(300.0)]);
    }
}
