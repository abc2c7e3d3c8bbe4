//! An apply beside a neighbour who has gigabytes in memory that are still to be written to the same file system, and
//! writes on: what it costs to wait for the disk.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::guest::{BASE, DISK, Guest};
use qemu_tests::plot::number;
use qemu_tests::qemu::Qemu;
use qemu_tests::report::{self, Table, ratio};

use crate::Options;
use crate::figures::median;
use crate::inits::qemu_version;
use crate::root::{WITH_LIBRARY, compile};

const FILES: u32 = 1000;
/// What the machine has, in MiB; what the neighbour keeps unwritten, in MiB; the disk, in MiB.
const MEMORY: u32 = 6144;
const UNWRITTEN: u32 = 4096;
const DISK_SIZE: u32 = 6144;
/// Bytes that the disk takes in a second.
const PACE: u64 = 200_000_000;
const LIMIT: Duration = Duration::from_secs(400);

/// The neighbour writes one file over and over, whose blocks are there.
const NEIGHBOUR: &str = r#"
[service.neighbour]
exec  = ["sh", "-c", "while :; do dd if=/dev/zero of=/var/neighbour bs=1M count=4096 conv=notrunc 2>/dev/null; done"]
start = "manual"
"#;

/// Nothing is written by itself before the neighbour has more than he keeps.
const LAZY: &str = "cd /proc/sys/vm && echo 4800000000 > dirty_bytes && echo 4600000000 > dirty_background_bytes && \
    echo 360000 > dirty_expire_centisecs";

/// What is measured: a name, and a command that tells milliseconds at last.
const WORK: [(&str, &str); 3] = [
    ("bare loop: write all, syncfs, rename all, syncfs", "/root/durable together /var/site/together 1000"),
    ("bare loop: write, fsync, rename, fsync of the directory", "/root/durable each /var/site/each 1000"),
    (
        "Holdfast: first apply of them all",
        "a=$(cut -d' ' -f1 /proc/uptime); initctl apply /root/many.toml > /dev/null && b=$(cut -d' ' -f1 /proc/uptime) && \
         awk \"BEGIN { print ($b - $a) * 1000 }\"",
    ),
];

/// Milliseconds of each work, alone and beside the neighbour.
type Found = BTreeMap<(usize, bool), Vec<f64>>;

pub(crate) fn run(context: &Context, options: &Options) -> Result {
    if !options.only.is_empty() {
        return Ok(());
    }
    let here = tempfile::tempdir()?;
    compile(here.path(), "durable", include_str!("guest/durable.c"), WITH_LIBRARY)?;
    let durable = fs::read(here.path().join("durable"))?;
    println!("{}\n", report::machine());
    let mut found = Found::new();
    for round in 0..options.runs {
        for beside in [false, true] {
            eprintln!(
                "{} of {}: {}",
                round + 1,
                options.runs,
                if beside { "beside the neighbour" } else { "alone" }
            );
            once(context, &durable, beside, &mut found)?;
        }
    }
    let out = format!("{}\n{}\n{}", report::machine(), method(options), told(&found));
    println!("{out}");
    report::write_section(&context.workspace().join("docs/benchmarks.md"), "bench-peers-neighbour", &out)
}

fn state() -> Result<String> {
    let mut out = format!("{BASE}{DISK}{NEIGHBOUR}");
    for n in 0..FILES {
        let text = format!("# file {n}\n{}", "a setting = some value of it\n".repeat(8));
        write!(out, "[file.\"/var/site/managed/{n}\"]\ncontent = {text:?}\n")?;
    }
    Ok(out)
}

fn once(context: &Context, durable: &[u8], beside: bool, found: &mut Found) -> Result {
    let (many, programs) = (state()?, [("/root/durable", durable.to_vec())]);
    let files = [("/root/many.toml", &*many)];
    let guest = Guest::with_programs(context, &format!("{DISK}{NEIGHBOUR}"), &files, &programs)?;
    let disk = guest.disk("disk", DISK_SIZE)?;
    let machine = guest.machine(context)?.memory(MEMORY).processors(2).slow_disk(&disk, PACE).limit(LIMIT);
    let mut vm = machine.start()?;
    vm.converged()?;
    vm.ok(&format!("mkdir -p /var/site && {LAZY}"))?;
    if beside {
        // Its blocks are given before: what is written later has a place.
        vm.ok("dd if=/dev/zero of=/var/neighbour bs=1M count=4096 2>/dev/null && sync")?;
        vm.ok("initctl start service:neighbour")?;
    }
    for (work, (name, command)) in WORK.iter().enumerate() {
        if beside {
            unwritten(&mut vm)?;
        } else {
            vm.ok("sync")?;
        }
        let said = vm.ok(command)?;
        let last = said.lines().last().unwrap_or_default();
        eprintln!("{name}: {last} ms");
        found.entry((work, beside)).or_default().push(last.trim().parse()?);
    }
    // Nothing of it is needed any more.
    vm.cut_power()
}

/// Waits until the neighbour has as much in memory as he is to have.
fn unwritten(vm: &mut Qemu) -> Result {
    let enough = UNWRITTEN * 1024 / 10 * 9;
    vm.ok(&format!(
        "until [ $(awk '/^Dirty/ {{ print $2 }}' /proc/meminfo) -gt {enough} ]; do sleep 0.2; done"
    ))
    .map(drop)
}

fn told(found: &Found) -> String {
    let mut table = Table::new(
        &format!("{FILES} files, made durable"),
        &["what", "alone, ms", "beside the neighbour, ms", "to alone", "to the first loop there"],
    );
    let of = |work: usize, beside: bool| median(found.get(&(work, beside)).map_or(&[], Vec::as_slice));
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let to = |a: Option<f64>, b: Option<f64>| a.zip(b).map_or_else(|| "–".to_owned(), |(a, b)| ratio(a, b));
    for (work, (name, _)) in WORK.iter().enumerate() {
        let (alone, beside) = (of(work, false), of(work, true));
        table.row(&[name, &text(alone), &text(beside), &to(beside, alone), &to(beside, of(0, true))]);
    }
    table.render()
}

fn method(options: &Options) -> String {
    format!(
        "Written by `cargo bench-peers neighbour`: medians of {} runs, in turns, each of a machine of its own in {}, with\n\
         2 processors, {MEMORY} MiB and one disk (virtio, ext4, {} MB a second at most), on which lies what is\n\
         managed, Holdfast's store, and the neighbour's file of {UNWRITTEN} MiB. He writes that over and over, and the kernel\n\
         is told to keep it in memory (`vm.dirty_bytes`): before each measurement nine tenths of it are still to be\n\
         written. Time by the machine's clock, which is the host's: it tells of a disk, and of what else the host does.\n\
         All contents are durable before the first is put in its place, except in the second loop, where each file is\n\
         by itself; Holdfast also keeps them in its store, and writes down what it does.\n",
        options.runs,
        qemu_version(),
        PACE / 1_000_000,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_compiles() {
        qemu_tests::rig::state::compile_boot(&state().unwrap()).unwrap();
    }

    #[test]
    fn both_situations_are_compared() {
        let mut found = Found::new();
        for (work, alone, beside) in [(0, 10.0, 100.0), (2, 20.0, 300.0)] {
            found.insert((work, false), vec![alone]);
            found.insert((work, true), vec![beside]);
        }
        let table = told(&found);
        let row = table.lines().find(|l| l.contains("Holdfast")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2..6], ["20.0", "300", "15.00×", "3.00×"]);
        assert!(table.lines().any(|l| l.contains("fsync of") && l.contains('–')));
    }
}
