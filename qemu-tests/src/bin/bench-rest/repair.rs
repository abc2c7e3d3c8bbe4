//! How long a damaged file stays damaged.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use qemu_tests::report::{Table, time};
use qemu_tests::rig::{LIMIT, Rig};
use qemu_tests::{Result, instance, measure};

use crate::{content, path};

/// How many files are damaged for a median. Each only once: five repairs a minute of one are a fight.
const COUNT: u32 = 50;

pub(crate) fn run(rig: &Rig) -> Result<String> {
    let mut table = Table::new(
        &format!(
            "Repair of one file, from the end of the damaging write to the repaired file, median of {COUNT}"
        ),
        &["what", "time", "quiet time in it"],
    );
    // The first starts the worker.
    damage(rig, 0)?;
    let mut median = |what: &str, first: u32, count: u32, cold: bool, quiet: &str| -> Result {
        let mut times = Vec::new();
        for n in first..first + count {
            if cold {
                instance::rest(rig)?;
            }
            times.push(damage(rig, n)?);
        }
        table.row(&[what, &time(measure::median(&mut times)), quiet]);
        Ok(())
    };
    median("`settle = \"0\"`, a worker is there", 1, COUNT, false, "0")?;
    median("by default, a worker is there", 1000, COUNT, false, "50 ms")?;
    median("`settle = \"0\"`, the worker has to be started (median of 9)", 70, 9, true, "0")?;
    Ok(format!("{}\n", table.render()))
}

/// Damages a file and waits until it is as it was.
fn damage(rig: &Rig, n: u32) -> Result<Duration> {
    let file = rig.inside(&path(n))?;
    let wanted = content(n);
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(file.parent().unwrap_or(Path::new("/")), AddWatchFlags::IN_MOVED_TO)?;
    std::fs::write(&file, "damaged\n")?;
    let started = Instant::now();
    loop {
        let mut set = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let left = LIMIT.saturating_sub(started.elapsed());
        if poll(&mut set, PollTimeout::try_from(left)?)? == 0 {
            return Err(format!("{} is not repaired:\n{}", path(n), rig.init_said()).into());
        }
        let elapsed = started.elapsed();
        while inotify.read_events().is_ok() {}
        if std::fs::read_to_string(&file)? == wanted {
            return Ok(elapsed);
        }
    }
}
