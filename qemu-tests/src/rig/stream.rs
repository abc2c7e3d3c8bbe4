//! Waiting: for lines of a program, for a child's end, for a change of a file. Always with a deadline, always woken by
//! the kernel.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LIMIT;
use crate::Result;

/// The lines that a program prints, as they come.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Lines {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn of(mut command: Command) -> Result<Lines> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().ok_or("no output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Lines { child, lines })
    }

    /// The next line; `None` when there is none before the deadline.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err("the program that was listened to has ended".into())
            }
        }
    }
}

impl Lines {
    /// Sends the program a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// How the program ends, within this time.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_child(&mut self.child, limit)?.ok_or_else(|| "a program does not end".into())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.min(Duration::from_secs(3600))).unwrap_or(PollTimeout::MAX);
    let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
    match poll(&mut set, timeout) {
        Ok(n) => Ok(n > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Waits for a child's end; `None` when it does not come in time.
///
/// # Errors
/// When the kernel refuses.
pub fn wait_child(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let pidfd = init::sys::raw::pidfd_open(i32::try_from(child.id())?)?;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        wait_readable(pidfd.as_fd(), deadline)?;
    }
    Ok(child.try_wait()?)
}

/// Waits until a condition on a path holds, looking again at each change in its directory.
///
/// # Errors
/// When it does not hold within [`LIMIT`].
pub fn until_file(path: &Path, what: &str, wanted: impl Fn(&Path) -> bool) -> Result {
    let deadline = Instant::now() + LIMIT;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let mask = AddWatchFlags::IN_ALL_EVENTS
        & !(AddWatchFlags::IN_ACCESS | AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_NOWRITE);
    let parent = path.ancestors().skip(1).find(|p| p.is_dir()).ok_or("no directory")?;
    inotify.add_watch(parent, mask)?;
    while !wanted(path) {
        if Instant::now() >= deadline {
            return Err(format!("{} is not {what}", path.display()).into());
        }
        if wait_readable(inotify.as_fd(), deadline)? {
            // One read: somebody who never stops writing there would keep us reading for ever.
            let _ = inotify.read_events();
        }
    }
    Ok(())
}

/// Waits until nothing is left in a cgroup: processes that were killed leave it a moment after their parent knows.
///
/// # Errors
/// When something is left after [`LIMIT`], or the cgroup cannot be looked at.
pub fn until_unpopulated(cgroup: &Path) -> Result {
    let deadline = Instant::now() + LIMIT;
    let mut events = std::fs::File::open(cgroup.join("cgroup.events"))?;
    let mut text = String::new();
    while Instant::now() < deadline {
        text.clear();
        std::io::Seek::rewind(&mut events)?;
        std::io::Read::read_to_string(&mut events, &mut text)?;
        if text.contains("populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut set = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
    }
    Err(format!("{} is not empty", cgroup.display()).into())
}
