//! Waits for a socket that is not there yet, by watching the directory that it will be in.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::client::{Client, ClientError};
use super::exit::Stop;

/// What is left until `deadline`; `None` is for ever.
///
/// # Errors
/// [`Stop::TimedOut`] when nothing is left.
pub fn left(deadline: Option<Instant>, what: &str) -> Result<Option<Duration>, Stop> {
    let Some(deadline) = deadline else { return Ok(None) };
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(Some(left)),
        _ => Err(Stop::TimedOut(what.to_owned())),
    }
}

/// Connects as soon as somebody listens at `path`; `absent` is called once where nobody does yet.
///
/// # Errors
/// [`Stop::TimedOut`] at the deadline; other reasons than that nobody listens, such as no permission.
pub fn connect(
    path: &Path,
    deadline: Option<Instant>,
    absent: impl FnOnce() -> Result<(), Stop>,
) -> Result<Client, Stop> {
    let mut absent = Some(absent);
    loop {
        // The watch stands before the attempt, so that a socket that comes between the two is an event.
        let watched =
            watch(path).map_err(|e| Stop::Local(format!("cannot watch for {}: {e}", path.display())))?;
        match Client::connect(path, deadline) {
            Err(ClientError::Connect { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
            other => return Ok(other?),
        }
        if let Some(absent) = absent.take() {
            absent()?;
        }
        let timeout = match left(deadline, &format!("nobody listens at {}", path.display()))? {
            None => PollTimeout::NONE,
            // Rounded up, so that the deadline has passed when poll(2) says so.
            Some(left) => {
                let ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
                PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Stop::Local(format!("cannot wait for {}: {e}", path.display()))),
        }
    }
}

/// Watches the directory of `path`, or the nearest one above it that exists. IN_ATTRIB: a server sets the
/// socket's mode once it listens, which is later than the socket's creation.
fn watch(path: &Path) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let mut directory: PathBuf = path.parent().unwrap_or(Path::new("/")).to_owned();
    loop {
        match inotify.add_watch(&directory, flags) {
            Ok(_) => return Ok(inotify),
            Err(nix::errno::Errno::ENOENT) if directory.pop() => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connects_to_a_socket_whose_directory_is_not_there_yet() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b/control");
        let (go, come) = std::sync::mpsc::channel();
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || {
                let deadline = Some(Instant::now() + Duration::from_secs(20));
                // Said before anybody comes, or never.
                let absent = || {
                    go.send(()).unwrap();
                    Ok(())
                };
                connect(&path, deadline, absent).map(|_| ())
            })
        };
        come.recv().unwrap();
        std::fs::create_dir(top.path().join("a")).unwrap();
        std::fs::create_dir(top.path().join("a/b")).unwrap();
        let server = crate::control::server::Server::bind(&path, 0o600).unwrap();
        waiting.join().unwrap().unwrap();
        drop(server);
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let top = tempfile::tempdir().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let stop = connect(&top.path().join("control"), Some(deadline), || Ok(())).unwrap_err();
        assert_eq!(stop.exit(), crate::ctl::Exit::TimedOut);
    }
}
