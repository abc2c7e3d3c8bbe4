//! PID 1 beside its peers: which machines run in which order, and what is told of them.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use qemu_tests::context::Context;
use qemu_tests::plot::number;
use qemu_tests::report::{self, Table};
use qemu_tests::{Result, plot};

use crate::Options;
use crate::figures::{CHAIN, FIGURES, Runs};
use crate::machine::{self, COMMAND_LINE, Job, Plan, QEMU};
use crate::peers::{ALL, Load, Peer};
use crate::root::Root;

/// Where ratios are told.
const MAIN: Load = Load::Independent(50);
const LOADS: &[u32] = &[10, 50, 200];
const FULL: u32 = 1000;
const LINKS: Load = Load::Chain(20);

pub(crate) fn run(context: &Context, options: &Options) -> Result {
    let peers: Vec<Peer> = ALL.iter().filter(|p| options.wants(p.name)).copied().collect();
    if peers.is_empty() {
        return Ok(());
    }
    let counts = LOADS.iter().copied().chain(context.full.then_some(FULL));
    let loads: Vec<Load> = counts.map(Load::Independent).collect();

    context.programs()?;
    let root = Root::build(context)?;
    println!("{}\n", report::machine());
    let (runs, failures) = all(context, &root, &peers, &loads, options)?;
    let out = told(context, &root, &peers, &loads, &runs, options)?;
    println!("{out}");
    match failures.first() {
        Some(failure) => Err(failure.clone().into()),
        None if !options.only.is_empty() => Ok(()),
        None => {
            report::write_section(&context.workspace().join("docs/benchmarks.md"), "bench-peers-inits", &out)
        }
    }
}

/// Every init in turn with every load, and all of that again: what changes on this machine meanwhile meets all.
fn all(
    context: &Context,
    root: &Root,
    peers: &[Peer],
    loads: &[Load],
    options: &Options,
) -> Result<(Runs, Vec<String>)> {
    let kept = context.scratch("peers/runs");
    if !options.go_on && kept.exists() {
        std::fs::remove_dir_all(&kept)?;
    }
    std::fs::create_dir_all(&kept)?;
    let mut order = Vec::new();
    for round in 0..options.runs {
        let chains = peers.iter().filter(|p| p.chains);
        order.extend(chains.map(|p| Job { peer: *p, load: LINKS, plan: Plan::START, round }));
        for load in loads {
            order.extend(peers.iter().map(|p| Job { peer: *p, load: *load, plan: Plan::WHOLE, round }));
        }
    }
    let total = order.len();
    let next = Mutex::new(order.into_iter().enumerate());
    let done = Mutex::new((Runs::new(), Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..options.jobs {
            threads.spawn(|| {
                loop {
                    let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((n, job)) = taken else { return };
                    eprintln!("{} of {total}: {}, {}", n + 1, job.peer.name, job.load);
                    let found = machine::run(context, root, &job, &kept);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    match found {
                        Ok(facts) => done.0.entry((job.peer.name, job.load)).or_default().push(facts),
                        Err(e) => {
                            eprintln!("{e}");
                            done.1.push(e.to_string());
                        }
                    }
                }
            });
        }
    });
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn told(
    context: &Context,
    root: &Root,
    peers: &[Peer],
    loads: &[Load],
    runs: &Runs,
    options: &Options,
) -> Result<String> {
    let mut out = format!("{}\n{}\n\n", report::machine(), method(root, options));
    out.push_str(&versions(root, peers, context)?);
    let charts = context.workspace().join("docs/benchmarks");
    let put = |file: &str, chart: &plot::Chart| -> Result {
        if options.only.is_empty() {
            std::fs::create_dir_all(&charts)?;
            std::fs::write(charts.join(format!("inits-{file}.svg")), chart.svg())?;
        }
        Ok(())
    };
    let chain = CHAIN.told(runs, peers, &[LINKS], LINKS);
    let mut told: Vec<_> = FIGURES.iter().map(|f| (f, f.told(runs, peers, loads, MAIN))).collect();
    told.insert(1, (&CHAIN, chain));
    for (figure, (table, chart)) in told {
        put(figure.file, &chart)?;
        writeln!(out, "\n{table}\n![{}](benchmarks/inits-{}.svg)", figure.title, figure.file)?;
    }
    Ok(out)
}

/// How it was done, so that it can be judged and done again.
fn method(root: &Root, options: &Options) -> String {
    let release = qemu_version();
    format!(
        "Written by `cargo bench-peers inits`: medians of {} runs, interleaved. Every run is a machine of its own in\n\
         {release}, started with `{}`: one processor, whose clock goes on by a nanosecond with each instruction and\n\
         jumps to the next timer when there is none. Times are therefore counts of instructions, of the kernel too;\n\
         what else this machine does changes none of them, and neither does how fast it is. They tell less of caches\n\
         and of memory than a real processor would.\n\n\
         All machines boot the same kernel (Debian's {}, `{COMMAND_LINE}`) and the same initramfs, with the packages of\n\
         all inits in it; only the services' declarations differ. A service is a program of one page without a C\n\
         library: it writes down the time and sleeps. Before the init is executed, the kernel has three seconds to\n\
         end what it does in the background. One service more measures: it sleeps for 30 s, so that it disturbs\n\
         nothing, then reads memory from /proc, watches rest for 30 s, kills five services one after the other, lets\n\
         2,000 orphans end at once, and asks for the shutdown, whose two times are those of the kernel's log. Inits\n\
         are set up as their packages and manuals have it, with nothing to do but these services; where a peer could\n\
         be had quicker by a simple choice (no shell in a run script), it was. s6-rc and dinit are not in Debian 12.\n",
        options.runs,
        QEMU.join(" "),
        root.kernel,
    )
}

pub(crate) fn qemu_version() -> String {
    let said =
        initramfs::tool::text("ask QEMU", initramfs::tool::command("qemu-system-x86_64").arg("--version"));
    let said = said.unwrap_or_default();
    let number =
        said.split_whitespace().skip_while(|w| *w != "version").nth(1).unwrap_or("unknown").to_owned();
    format!("QEMU {number}")
}

/// Version, settings, and size on disk of each.
fn versions(root: &Root, peers: &[Peer], context: &Context) -> Result<String> {
    let mut table = Table::new("The inits", &["init", "version", "set up with", "on disk, KiB"]);
    for peer in peers {
        let first = peer.packages.first().and_then(|p| root.versions.get(*p)).cloned();
        let size: u64 = match peer.name {
            "floor" => root.programs.get("floor").map_or(0, |b| b.len() as u64),
            "Holdfast" => {
                let of = |name: &str| -> Result<u64> {
                    Ok(std::fs::metadata(context.programs()?.join(name))?.len())
                };
                let all: Result<Vec<u64>> =
                    initramfs::holdfast::PROGRAMS.iter().map(|(name, _)| of(name)).collect();
                all?.iter().sum()
            }
            _ => peer.packages.iter().filter_map(|p| root.sizes.get(*p)).sum(),
        };
        let version = match (peer.name, first) {
            (_, Some(version)) => version,
            ("Holdfast", None) => env!("CARGO_PKG_VERSION").to_owned(),
            (_, None) => String::new(),
        };
        table.row(&[peer.name, &version, peer.settings, &number((size / 1024) as f64)]);
    }
    Ok(format!(
        "{}\nOn disk: the files of its packages ({}) without documentation and without libraries that are no part of\n\
         it; of Holdfast its three static programs, configuration management among them.\n",
        table.render(),
        peers.iter().flat_map(|p| p.packages).copied().collect::<Vec<_>>().join(", "),
    ))
}
