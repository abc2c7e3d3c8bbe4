//! What the probe writes, as values.

use std::collections::BTreeMap;

use qemu_tests::Result;

/// What one run found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    /// Milliseconds from the exec of PID 1 to the start of each service, by its name.
    pub(crate) started: BTreeMap<String, f64>,
    /// Shared pages divided, of everything that is neither service nor probe; KiB.
    pub(crate) pss: u64,
    /// In no file, of the same processes; KiB.
    pub(crate) anonymous: u64,
    /// How many processes these are.
    pub(crate) processes: u64,
    /// What the kernel itself holds: slabs, stacks, page tables, and what is kept per processor; KiB.
    pub(crate) kernel: u64,
    /// Bytes of the files that those processes execute, each counted once.
    pub(crate) mapped: u64,
    /// Context switches while rest was watched, of processes that were there before and after.
    pub(crate) switches: u64,
    /// Milliseconds from kill to start, each.
    pub(crate) restarted: Vec<f64>,
    /// Milliseconds until every orphan was reaped.
    pub(crate) reaped: Option<f64>,
    /// Milliseconds from asking for the end to the kernel's last message.
    pub(crate) down: Option<f64>,
}

/// What the kernel says last: switched off, halted, or restarting, whichever the init knows.
const LAST: &[&str] = &["reboot: Power down", "reboot: System halted", "reboot: Restarting system"];

impl Facts {
    /// From what came over the second serial port, and what stands on the console.
    pub(crate) fn parse(told: &str, console: &str) -> Result<Facts> {
        let mut facts = Facts::default();
        let mut exec = None;
        let mut started: BTreeMap<String, f64> = BTreeMap::new();
        let mut mapped = BTreeMap::new();
        let mut before = BTreeMap::new();
        let mut whole = false;
        for line in told.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["exec", at] => exec = Some(at.parse::<f64>()?),
                ["service", name, _, at] => {
                    // What was started again later is no figure of the start.
                    let at: f64 = at.parse()?;
                    started.entry((*name).to_owned()).or_insert(at);
                }
                ["memory", _, pss, anonymous, ..] => {
                    facts.pss += pss.parse::<u64>()?;
                    facts.anonymous += anonymous.parse::<u64>()?;
                    facts.processes += 1;
                }
                ["mapped", size, file] => drop(mapped.insert((*file).to_owned(), size.parse::<u64>()?)),
                ["kernel", "Slab" | "KernelStack" | "PageTables" | "Percpu", size] => {
                    facts.kernel += size.parse::<u64>()?;
                }
                ["switches", "before", pid, count, ..] => {
                    before.insert((*pid).to_owned(), count.parse::<u64>()?);
                }
                ["switches", "after", pid, count, ..] => {
                    let count: u64 = count.parse()?;
                    facts.switches += count.saturating_sub(before.get(*pid).copied().unwrap_or(0));
                }
                ["restarted", long] => facts.restarted.push(long.parse::<f64>()? / 1e6),
                ["reaped", long] => facts.reaped = Some(long.parse::<f64>()? / 1e6),
                ["end"] => whole = true,
                _ => {}
            }
        }
        if !whole {
            return Err("the probe did not come to its end".into());
        }
        let exec = exec.ok_or("nothing tells when PID 1 was executed")?;
        facts.started = started.into_iter().map(|(name, at)| (name, (at - exec) / 1e6)).collect();
        facts.mapped = mapped.values().sum();
        facts.down = down(console);
        Ok(facts)
    }

    /// Milliseconds from the exec of PID 1 to the start of the last service, if all of them started.
    pub(crate) fn last_of(&self, names: impl Iterator<Item = String>) -> Option<f64> {
        names.map(|n| self.started.get(&n).copied()).try_fold(0.0_f64, |last, at| Some(last.max(at?)))
    }
}

/// The time between two messages of the kernel's log, as the console shows it.
fn down(console: &str) -> Option<f64> {
    let at = |wanted: &str| {
        let line = console.lines().find(|l| l.contains(wanted))?;
        let (_, after) = line.split_once('[')?;
        after.split_once(']')?.0.trim().parse::<f64>().ok()
    };
    let asked = at("bench: down")?;
    LAST.iter().find_map(|text| at(text)).map(|off| (off - asked) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "exec 1000000\nservice s0 20 3000000\nservice s1 21 5000000\nservice s0 30 9000000\n\
        memory 1 100 30 /sbin/init\nmemory 12 50 10 /usr/bin/logger\nmapped 5000 /sbin/init\n\
        mapped 5000 /sbin/init\nmapped 300 /lib/libc.so.6\nkernel Slab 1000\nkernel VmallocUsed 7\nkernel Percpu 24\n\
        switches before 1 10 /sbin/init\nswitches before 9 10 /bin/gone\nswitches after 1 13 /sbin/init\n\
        restarted 320000\nrestarted 340000\nreaped 25000000\nend\n";
    const CONSOLE: &str =
        "loading\n[    0.500000] bench: down\nstopping\n[    0.504100] reboot: Power down\n";

    #[test]
    fn a_run_is_read() {
        let facts = Facts::parse(TOLD, CONSOLE).unwrap();
        assert_eq!(facts.started, [("s0".to_owned(), 2.0), ("s1".to_owned(), 4.0)].into());
        assert_eq!((facts.pss, facts.anonymous, facts.processes), (150, 40, 2));
        assert_eq!((facts.kernel, facts.mapped, facts.switches), (1024, 5300, 3));
        assert_eq!((facts.restarted.len(), facts.reaped), (2, Some(25.0)));
        assert!((facts.down.unwrap() - 4.1).abs() < 1e-6);
    }

    #[test]
    fn the_last_service_counts_only_when_all_started() {
        let facts = Facts::parse(TOLD, "").unwrap();
        let names = |count: u32| (0..count).map(|n| format!("s{n}"));
        assert_eq!(facts.last_of(names(2)), Some(4.0));
        assert_eq!(facts.last_of(names(3)), None);
        assert_eq!(facts.down, None);
    }

    #[test]
    fn a_run_that_was_cut_is_none() {
        assert!(Facts::parse("exec 1\nservice s0 1 2\n", CONSOLE).is_err());
        assert!(Facts::parse("service s0 1 2\nend\n", CONSOLE).is_err());
    }
}
