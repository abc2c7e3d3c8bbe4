//! Standard error that never makes its writer wait: what it does not take at once is lost, and said to be.
//!
//! poll(2) is not enough: a terminal is writable as soon as it has room for one byte, and write(2) then sleeps until
//! it has taken all. To set O_NONBLOCK would be no way either: the services have the same open file description.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::tcgetpgrp;

#[derive(Debug)]
enum Way {
    /// A terminal or a pipe, opened once more: an open file description of our own.
    Again(File),
    /// A terminal that cannot be opened by any name: no way that could not wait.
    None,
    Socket(OwnedFd),
    /// A file, or a pipe that cannot be opened.
    Other(File),
}

/// A descriptor that is written to without waiting.
#[derive(Debug)]
pub struct Quick {
    way: Way,
    /// The end of a line of which the terminal has taken the beginning.
    rest: Vec<u8>,
}

impl Quick {
    /// Standard error.
    pub fn standard_error() -> Quick {
        Quick::of(io::stderr().as_fd().try_clone_to_owned().ok())
    }

    fn of(fd: Option<OwnedFd>) -> Quick {
        let Some(file) = fd.map(File::from) else { return Quick { way: Way::None, rest: Vec::new() } };
        let kind = file.metadata().map(|m| m.file_type());
        let is = |of: fn(&FileType) -> bool| kind.as_ref().is_ok_and(of);
        let again = || {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            OpenOptions::new().write(true).custom_flags(flags).open(name)
        };
        let way = if file.is_terminal() {
            again().or_else(|_| own_terminal(&file)).map_or(Way::None, Way::Again)
        } else if is(FileType::is_socket) {
            Way::Socket(file.into())
        } else if is(FileType::is_fifo)
            && let Ok(again) = again()
        {
            Way::Again(again)
        } else {
            Way::Other(file)
        };
        Quick { way, rest: Vec::new() }
    }

    /// Writes a line, of at most PIPE_BUF bytes.
    ///
    /// # Errors
    /// When it is lost: WouldBlock where nobody reads, and what else write(2) or send(2) said.
    pub fn line(&mut self, line: &[u8]) -> io::Result<()> {
        while !self.rest.is_empty() {
            let taken = self.put(&self.rest)?;
            self.rest.drain(..taken);
        }
        let taken = self.put(line)?;
        self.rest = line.get(taken..).unwrap_or_default().to_vec();
        Ok(())
    }

    fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.way {
            Way::Again(file) => (&*file).write(bytes),
            Way::Socket(socket) => {
                Ok(send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
            }
            Way::Other(file) => {
                let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                // pipe(7): a pipe that is writable takes PIPE_BUF bytes without blocking.
                match poll(&mut polled, PollTimeout::ZERO) {
                    Ok(1) => (&*file).write(bytes),
                    _ => Err(ErrorKind::WouldBlock.into()),
                }
            }
            Way::None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// The terminal once more where its own name is not there (no /proc), or another user's: everybody may open the one that
/// controls him. That may be another one.
fn own_terminal(file: &File) -> io::Result<File> {
    // tcgetpgrp(3): ENOTTY for every other terminal.
    tcgetpgrp(file)?;
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/dev/tty")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("{number:>6} {}\n", "x".repeat(300)).into_bytes()
    }

    /// Lines until one is lost, which ends: a write that waits would not.
    fn fill(quick: &mut Quick) -> usize {
        let taken = (0..100_000).take_while(|n| quick.line(&line(*n)).is_ok()).count();
        assert!((1..100_000).contains(&taken), "{taken}");
        taken
    }

    fn waits(fd: BorrowedFd<'_>) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFL).unwrap();
        !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    }

    /// What arrives is every line that was not lost, whole and in order.
    fn reads_on(quick: &mut Quick, reader: &mut dyn Read, before: usize) {
        let mut seen: Vec<u8> = Vec::new();
        let mut chunk = [0; 8192];
        let mut next = before + 1;
        while !seen.ends_with(&line(before + 20)) {
            let read = reader.read(&mut chunk).unwrap();
            seen.extend(&chunk[..read]);
            while next <= before + 20 && quick.line(&line(next)).is_ok() {
                next += 1;
            }
        }
        let expected: Vec<u8> = (0..before).chain(before + 1..=before + 20).flat_map(line).collect();
        assert!(seen == expected, "{} and {} bytes", seen.len(), expected.len());
    }

    #[test]
    fn a_terminal_that_nobody_reads_is_not_waited_for() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut raw = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        let slave = pty.slave.try_clone().unwrap();
        let mut quick = Quick::of(Some(pty.slave));
        let taken = fill(&mut quick);
        // The services write to the same file.
        assert!(waits(slave.as_fd()), "{}", slave.as_raw_fd());
        reads_on(&mut quick, &mut File::from(pty.master), taken);
    }

    /// With the terminal on standard error as the one that controls it: see below.
    #[test]
    fn in_a_session_of_its_own() {
        if std::env::var_os(SESSION).is_none() {
            return;
        }
        let fd = io::stderr().as_fd().try_clone_to_owned().unwrap();
        let way = Way::Again(own_terminal(&File::from(fd)).unwrap());
        let mut quick = Quick { way, rest: Vec::new() };
        let taken = fill(&mut quick);
        assert!(waits(io::stderr().as_fd()), "{taken}");
        std::process::exit(42);
    }

    const SESSION: &str = "HOLDFAST_TEST_SESSION";

    #[test]
    fn a_terminal_of_somebody_else_is_not_waited_for_either() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = std::process::Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "event_loop::quick::tests::in_a_session_of_its_own", "--nocapture"]);
        command.env(SESSION, "1").stdin(slave()).stdout(std::process::Stdio::null()).stderr(slave());
        assert_eq!(command.status().unwrap().code(), Some(42));
        // One that controls somebody else, or nobody.
        assert!(own_terminal(&File::from(pty.slave)).is_err());
    }

    #[test]
    fn neither_is_a_socket_or_a_pipe() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut quick = Quick::of(Some(there.into()));
        let taken = fill(&mut quick);
        reads_on(&mut quick, &mut here, taken);
        let (mut reader, writer) = io::pipe().unwrap();
        let mut quick = Quick::of(Some(writer.into()));
        let taken = fill(&mut quick);
        reads_on(&mut quick, &mut reader, taken);
    }

    #[test]
    fn who_has_gone_is_no_harm() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut quick = Quick::of(Some(pty.slave));
        drop(pty.master);
        assert!(quick.line(b"x\n").is_err());
        assert!(Quick::of(None).line(b"x\n").is_err());
    }
}
