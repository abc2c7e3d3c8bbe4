//! Tables of figures: printed, and kept in a section of docs/benchmarks.md.

use std::path::Path;

use crate::Result;

/// A table with a heading.
#[derive(Debug, Clone, Default)]
pub struct Table {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, header: &[&str]) -> Table {
        Table {
            title: title.to_owned(),
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: vec![],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|c| (*c).to_owned()).collect());
    }

    /// As Markdown, which is as readable on a terminal.
    pub fn render(&self) -> String {
        let all: Vec<&Vec<String>> = std::iter::once(&self.header).chain(&self.rows).collect();
        let width = |column: usize| {
            all.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let line = |cells: &[String]| {
            let padded: Vec<String> =
                cells.iter().enumerate().map(|(i, c)| format!("{c:<w$}", w = width(i))).collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rule: Vec<String> = (0..self.header.len()).map(|i| "-".repeat(width(i).max(3))).collect();
        let mut out = format!("### {}\n\n{}{}", self.title, line(&self.header), line(&rule));
        self.rows.iter().for_each(|r| out.push_str(&line(r)));
        out
    }
}

/// The machine in one sentence.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release: String = kernel.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|l| l.strip_prefix("model name")?.split(':').nth(1)).unwrap_or("unknown");
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let virtualised = if cpus.contains(" hypervisor ") { ", virtual" } else { "" };
    format!(
        "Machine: {cores} cores of {}{virtualised}, {} GiB, Linux {}.",
        model.trim(),
        total.unwrap_or(0).div_ceil(1 << 20),
        release.trim_end_matches('.')
    )
}

/// Puts a section's text between its two marks in a file; a file without them gets them at its end.
///
/// # Errors
/// When the file cannot be read or written.
pub fn write_section(file: &Path, name: &str, text: &str) -> Result {
    let old = match std::fs::read_to_string(file) {
        Ok(old) => old,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(format!("cannot read {}: {e}", file.display()).into()),
    };
    std::fs::write(file, with_section(&old, name, text))?;
    Ok(())
}

fn with_section(old: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let section = format!("{begin}\n{}\n{end}", text.trim_end());
    let parts = old
        .split_once(&begin)
        .and_then(|(before, rest)| rest.split_once(&end).map(|(_, after)| (before, after)));
    match parts {
        Some((before, after)) => format!("{before}{section}{after}"),
        None => format!("{old}{section}\n"),
    }
}

/// A time with three figures and a unit.
pub fn time(t: std::time::Duration) -> String {
    let ns = t.as_secs_f64() * 1e9;
    match ns {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e4 => format!("{:.2} µs", n / 1e3),
        n if n < 1e6 => format!("{:.0} µs", n / 1e3),
        n if n < 1e7 => format!("{:.2} ms", n / 1e6),
        n if n < 1e9 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

/// How many times the second the first is.
pub fn ratio(a: f64, b: f64) -> String {
    if b == 0.0 { "–".to_owned() } else { format!("{:.2}×", a / b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_section_is_replaced_and_nothing_else() {
        let once = with_section("# Title\n\n", "a", "one\n");
        assert_eq!(once, "# Title\n\n<!-- a: begin -->\none\n<!-- a: end -->\n");
        let twice = with_section(&format!("{once}\nrest\n"), "a", "two\nthree\n");
        assert_eq!(twice, "# Title\n\n<!-- a: begin -->\ntwo\nthree\n<!-- a: end -->\n\nrest\n");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("T", &["what", "n"]);
        table.row(&["µs", "12345"]);
        assert_eq!(table.render(), "### T\n\n| what | n     |\n| ---- | ----- |\n| µs   | 12345 |\n");
    }

    #[test]
    fn times_have_three_figures() {
        for (ns, text) in [(12, "12 ns"), (1234, "1.23 µs"), (123_456, "123 µs"), (51_000_000, "51 ms")] {
            assert_eq!(time(Duration::from_nanos(ns)), text);
        }
    }
}
