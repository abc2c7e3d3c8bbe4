//! `cargo bench-hot`: how many instructions the hot paths take, counted by callgrind, into docs/benchmarks.md.
//!
//! A count of instructions is the same on a busy machine as on an idle one, so that a path that has become dearer shows
//! at once. Each path is walked with two amounts of work, each time in a process of its own under callgrind; the
//! difference, divided by that of the amounts, is what one more costs, without what a start costs. What must be there
//! before (a compiled state, a booted machine) is counted in the same way, and taken off.

use std::process::{Command, ExitCode};

use initramfs::tool::{self, Tool};
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::report::{Table, machine, write_section};

mod paths;
mod world;

use paths::{PATHS, Path};

const VALGRIND: &[Tool] = &[Tool { program: "valgrind", package: "valgrind" }];

const USAGE: &str = "usage: cargo bench-hot [PATH…]\n\nCounts the instructions of each path, or of those named, and \
                     writes docs/benchmarks.md if it is all of them.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match go(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-hot: {e}");
            ExitCode::from(1)
        }
    }
}

fn go(words: &[&str]) -> Result {
    match words {
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return Ok(());
        }
        // What a process under callgrind does.
        ["--walk", name, amount] => {
            (find(name)?.walk)(amount.parse()?);
            return Ok(());
        }
        ["--before", name, amount] => {
            (find(name)?.before)(amount.parse()?);
            return Ok(());
        }
        _ => {}
    }
    let chosen = match words {
        [] => PATHS.iter().collect(),
        names => names.iter().map(|n| find(n)).collect::<Result<Vec<&Path>>>()?,
    };
    tool::ensure(VALGRIND)?;
    let mut table =
        Table::new("Instructions for one more", &["path", "one more", "instructions", "from", "to"]);
    for path in chosen {
        let each = each(path)?;
        let [from, to] = path.amounts.map(|n| n.to_string());
        table.row(&[path.name, path.what, &thousands(each), &from, &to]);
        println!("{}: {} instructions for {}", path.name, thousands(each), path.what);
    }
    println!("\n{}", table.render());
    if words.is_empty() {
        let text = format!(
            "{}\nUser-mode instructions of the programs as they ship (profile `image`), counted by callgrind; written by \
             `cargo bench-hot`.\n\n{}",
            machine(),
            table.render()
        );
        let context = Context::new(false)?;
        write_section(&context.workspace().join("docs/benchmarks.md"), "bench-hot", &text)?;
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static Path> {
    PATHS.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = PATHS.iter().map(|p| p.name).collect();
        format!("there is no path \"{name}\"; there are: {}\n{USAGE}", names.join(", ")).into()
    })
}

/// Instructions for one more.
fn each(path: &Path) -> Result<u64> {
    let [from, to] = path.amounts;
    let alone =
        |amount| -> Result<i64> { Ok(count(path, "--walk", amount)? - count(path, "--before", amount)?) };
    let (less, more) = (alone(from)?, alone(to)?);
    let dearer = u64::try_from(more - less).ok().filter(|d| *d > 0);
    let dearer = dearer.ok_or_else(|| format!("{}: {to} cost no more than {from}: {more}", path.name))?;
    Ok(dearer / (to - from))
}

/// All instructions of a process that walks the path, or does what comes before.
fn count(path: &Path, what: &str, amount: u64) -> Result<i64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe()?).args([what, path.name, &amount.to_string()]);
    let output = valgrind.output().map_err(|e| format!("cannot run valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} under valgrind: {}\n{said}", path.name, output.status).into());
    }
    collected(&said).ok_or_else(|| format!("valgrind printed no count:\n{said}").into())
}

/// The number in callgrind's "==12== Collected : 345".
fn collected(said: &str) -> Option<i64> {
    said.lines().find_map(|l| l.split_once("Collected :")?.1.trim().parse().ok())
}

/// A number with a comma after each three figures, from the right.
fn thousands(n: u64) -> String {
    let figures = n.to_string();
    let mut out = String::new();
    for (i, c) in figures.chars().enumerate() {
        if i > 0 && (figures.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_count_is_found() {
        let said = "==7== Callgrind, a call-graph\n==7== \n==7== Events    : Ir\n==7== Collected : 1234567\n";
        assert_eq!((collected(said), collected("==7== Collected : ?")), (Some(1_234_567), None));
        assert_eq!([7, 999, 1000, 1_234_567].map(thousands), ["7", "999", "1,000", "1,234,567"]);
    }

    /// Every path does its work: it panics where what comes out is not what the amount asks for.
    #[test]
    fn every_path_can_be_walked() {
        for path in PATHS {
            let [from, to] = path.amounts;
            assert!(from < to, "{}", path.name);
            (path.before)(from.min(20));
            (path.walk)(from.min(20));
            assert!(find(path.name).is_ok());
        }
        assert!(find("nothing").is_err());
    }
}
