//! Figures of processes, as the kernel tells them.

use std::fs;
use std::time::{Duration, Instant};

use crate::Result;

/// Longest wait for a process to come to rest.
const LIMIT: Duration = Duration::from_secs(60);

/// The middle value; zero of none.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub rss: u64,
    /// Resident, shared pages divided among those who share them.
    pub pss: u64,
    /// Resident and in no file: the process's own data.
    pub anonymous: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: i32) -> Result<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Memory { rss: field("Rss"), pss: field("Pss"), anonymous: field("Anonymous") })
    }
}

/// How often the scheduler took the processor from a process, by its wish and against it.
///
/// # Errors
/// When the process is gone.
pub fn switches(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.trim().parse::<u64>().ok())
    };
    let both = of("voluntary_ctxt_switches").zip(of("nonvoluntary_ctxt_switches"));
    both.map(|(a, b)| a + b).ok_or_else(|| format!("/proc/{pid}/status has no context switches").into())
}

/// Processor time that a process and its children that were waited for have used, in clock ticks made milliseconds.
///
/// # Errors
/// When the process is gone.
pub fn processor(pid: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces and parentheses; utime, stime, cutime and cstime are fields 14 to 17.
    let after = text.rsplit_once(')').map_or("", |(_, a)| a);
    let ticks: u64 = after.split_whitespace().skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture that Holdfast knows.
    Ok(Duration::from_millis(ticks * 10))
}

/// Processor time that this thread has used.
pub fn own_processor() -> Duration {
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    used.unwrap_or_default()
}

/// Processor time that this process's children which were waited for have used.
pub fn children_processor() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).map(|u| u.user_time() + u.system_time());
    let microseconds = used.map_or(0, |u| u.num_microseconds());
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}

/// Waits until processes sleep, then for `long`, and tells the context switches of each in that time.
///
/// # Errors
/// When one of them is gone, or does not come to rest.
pub fn at_rest(pids: &[i32], long: Duration) -> Result<Vec<u64>> {
    for pid in pids {
        settle(*pid)?;
    }
    let count = || pids.iter().map(|p| switches(*p)).collect::<Result<Vec<u64>>>();
    let before = count()?;
    pause(long)?;
    Ok(before.iter().zip(count()?).map(|(a, b)| b - a).collect())
}

/// Whether a process has a timer that is set: PID 1 has one while anything is to be done without somebody asking.
///
/// # Errors
/// When it is gone.
pub fn has_deadline(pid: i32) -> Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        // One that is closed meanwhile is none.
        let about = fs::read_to_string(entry.path()).unwrap_or_default();
        if about.lines().any(|l| l.strip_prefix("it_value:").is_some_and(|at| at.trim() != "(0, 0)")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until a process is asleep, has been for a moment, and is not about to wake by itself: no event tells when work has
/// ended.
fn settle(pid: i32) -> Result {
    let deadline = Instant::now() + LIMIT;
    let mut last = None;
    loop {
        let now = switches(pid)?;
        if last == Some(now) && !has_deadline(pid)? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("process {pid} does not come to rest").into());
        }
        last = Some(now);
        pause(Duration::from_millis(200))?;
    }
}

/// Lets time pass: what is measured is that nothing happens in it.
///
/// # Errors
/// When the kernel refuses.
pub fn pause(long: Duration) -> Result {
    let until = Instant::now() + long;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let mut times = [9, 1, 5].map(Duration::from_secs);
        assert_eq!(median(&mut times), Duration::from_secs(5));
        assert_eq!(median(&mut []), Duration::ZERO);
    }

    #[test]
    fn this_process_has_figures() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Memory::of(own).unwrap().rss > 0);
        assert!(switches(own).is_ok());
    }
}
