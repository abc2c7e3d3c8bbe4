//! The plug is pulled in the middle of an apply, a rollback and a purge, at moments of the disk: what it was not asked
//! to make durable is lost, whole or in part.
//!
//! One machine does the work on a disk that writes everything down ([`crate::write_log`]); each moment is then a disk
//! of its own, from which a machine boots. So a moment costs one boot, and any moment can be taken, not only those
//! that the program names.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::qemu_change::{FURNISH, guest};
use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{Guest, demand, same};
use crate::qemu::Qemu;
use crate::write_log::WriteLog;

/// See the module.
pub const ALL: &[Scenario] =
    &[Scenario { name: "qemu-power-off", group: "qemu", limit: minutes(90), run: power_off }];

/// Something that was done while every write was written down.
struct Phase {
    name: &'static str,
    /// Requests before it began and when it had ended.
    from: usize,
    to: usize,
    /// The current generation and its tree, before and after.
    before: (String, String),
    after: (String, String),
}

/// A cut: of which phase, before which request, and whether some of what was not flushed is there.
struct Cut {
    phase: usize,
    at: usize,
    partly: bool,
    /// The disk has answered flushes since the phase began, and carried none out.
    liar: bool,
}

/// Moments of each phase that are tried without `--full`.
const SAMPLE: usize = 4;

fn power_off(context: &Context) -> Result {
    // More files than are synced one by one, so that the barrier is that of whole file systems.
    let guest = guest(context, 50)?;
    let disk = guest.disk("disk", 32)?;
    let fresh = guest.directory().join("fresh");
    std::fs::copy(&disk, &fresh)?;
    let log = guest.directory().join("log");
    std::fs::File::create(&log)?;
    let phases = play(context, &guest, &disk, &log)?;
    let writes = WriteLog::read(&log)?;
    let mut cuts = Vec::new();
    for (n, phase) in phases.iter().enumerate() {
        if phase.name == "apply after a rollback" && !context.full {
            continue;
        }
        let moments = writes.moments(phase.from, phase.to);
        println!("{}: requests {} to {}, {} moments", phase.name, phase.from, phase.to, moments.len());
        demand(moments.len() > SAMPLE, "too few moments: was anything made durable?")?;
        let step = if context.full { 1 } else { moments.len().div_ceil(SAMPLE) };
        // The last moment of all: what was answered with success is there for good.
        let chosen = moments.iter().skip(n).step_by(step).chain([&phase.to]);
        for (turn, at) in chosen.enumerate() {
            // Right after a flush there is nothing that could be there in part.
            let open = writes.unflushed(*at);
            if open && (context.full || turn % 2 == 0) {
                cuts.push(Cut { phase: n, at: *at, partly: true, liar: false });
            }
            if !open || context.full || turn % 2 == 1 {
                cuts.push(Cut { phase: n, at: *at, partly: false, liar: false });
            }
        }
    }
    println!("{} cuts", cuts.len());
    // Every moment is two hundred boots, so that two machines are at it; a sample leaves the second core to others.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let machines: Vec<_> = (0..if context.full { 2 } else { 1 })
            .map(|machine| {
                let (next, cuts, phases, writes, guest, fresh) =
                    (&next, &cuts, &phases, &writes, &guest, &fresh);
                scope.spawn(move || {
                    let disk = guest.directory().join(format!("cut-{machine}"));
                    while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Some(phase) = phases.get(cut.phase) else { continue };
                        let how = if cut.partly { "partly" } else { "not at all" };
                        let what = format!(
                            "{} cut before request {}, unflushed writes there {how}",
                            phase.name, cut.at
                        );
                        std::fs::copy(fresh, &disk).map_err(|e| format!("{what}: {e}"))?;
                        let found = after_cut(context, guest, &disk, writes, phase, cut)
                            .map_err(|e| format!("{what}: {e}"))?;
                        println!("{what}: {found}");
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        machines.into_iter().try_for_each(|m| m.join().map_err(|_| "a thread panicked")?)
    })?;
    // A disk that lies loses what was promised, and that is found: so the rest has shown something.
    let first = phases.first().ok_or("nothing was done")?;
    let cut = Cut { phase: 0, at: first.to, partly: false, liar: true };
    let disk = guest.directory().join("cut-liar");
    std::fs::copy(&fresh, &disk)?;
    match after_cut(context, &guest, &disk, &writes, first, &cut) {
        Ok(found) => Err(format!("a disk that flushes nothing passes: {found}").into()),
        Err(e) if e.to_string().contains(LOST) => Ok(()),
        Err(e) => Err(e),
    }
}

/// What is said of a change that was answered with success and is gone.
const LOST: &str = "what was answered with success is not there";

fn play(context: &Context, guest: &Guest, disk: &Path, log: &Path) -> Result<Vec<Phase>> {
    let mut vm = guest.machine(context)?.recorded_disk(disk, log).start()?;
    vm.converged()?;
    vm.ok(FURNISH)?;
    vm.ok("sync")?;
    let mut phases = Vec::new();
    let mut before = settled(&mut vm)?;
    for (name, command) in [
        ("apply", "initctl apply /root/second.toml"),
        ("rollback", "initctl rollback"),
        ("apply after a rollback", "initctl apply /root/second.toml"),
        ("purge", "initctl apply /root/third.toml"),
    ] {
        // The machine is at rest before and after: nothing is written behind its back.
        let from = WriteLog::read(log)?.len();
        vm.ok(command)?;
        let to = WriteLog::read(log)?.len();
        let after = settled(&mut vm)?;
        phases.push(Phase { name, from, to, before, after: after.clone() });
        before = after;
    }
    vm.cut_power()?;
    demand(!before.1.contains("many/1"), "nothing was purged")?;
    Ok(phases)
}

/// The generation that the machine has converged to, as `initctl status` says it first, and its tree.
fn settled(vm: &mut Qemu) -> Result<(String, String)> {
    let status = vm.ok("initctl status")?;
    let head = status.split(',').take(2).collect::<Vec<_>>().join(",");
    demand(head.ends_with(", converged"), format!("it is not converged: {status}"))?;
    Ok((head, vm.tree("/var/site")?))
}

/// Boots from what the fresh `disk` held at the cut: one of the two generations must be there, entire.
fn after_cut(
    context: &Context,
    guest: &Guest,
    disk: &Path,
    writes: &WriteLog,
    phase: &Phase,
    cut: &Cut,
) -> Result<String> {
    // Fixed, but without a pattern that a layout on the disk could follow.
    let survives =
        |n: usize| cut.partly && (n.wrapping_mul(0x9E37_79B9) ^ cut.at).count_ones().is_multiple_of(2);
    if cut.liar {
        writes.cut(phase.from, disk, |_| true)?;
    } else {
        writes.cut(cut.at, disk, survives)?;
    }
    let mut vm = guest.machine(context)?.disk(disk).start()?;
    vm.converged()?;
    let (generation, tree) = settled(&mut vm)?;
    let staged = vm.ok(
        "find /var/lib/holdfast/staging -mindepth 1 2>/dev/null | head; find / -xdev -name .holdfast.staging",
    )?;
    let found = [&phase.before, &phase.after].into_iter().find(|(g, _)| *g == generation);
    let (_, wanted) = found.ok_or_else(|| format!("{generation} is neither before nor after"))?;
    same("the tree", wanted, &tree).map_err(|e| vm.with_console(&*e))?;
    demand(cut.at < phase.to || generation == phase.after.0, LOST)?;
    demand(staged.is_empty(), format!("staged files are left: {staged}"))?;
    let recovered = vm.console.text().contains("was interrupted: undoing it");
    Ok(format!("{generation}{}", if recovered { ", undone" } else { "" }))
}
