//! A container with a terminal: runc makes it and hands the controlling end over a socket.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::LIMIT;
use crate::Result;
use crate::console::Console;

/// The controlling end of a container's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What it shows, and what can be typed.
    pub console: Console,
    /// The container's first process; it is a child of this process.
    pub pid: i32,
}

impl Terminal {
    pub(super) fn open(socket: &Path, mut runc: Command, pid_file: &Path) -> Result<Terminal> {
        // runc leaves when the container runs, which then becomes a child of the next such process.
        nix::sys::prctl::set_child_subreaper(true)?;
        let listener = UnixListener::bind(socket)?;
        let log = File::create(socket.with_extension("log"))?;
        let mut child = runc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let (connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(LIMIT))?;
        let master = File::from(receive(&connection)?);
        let status = child.wait()?;
        if !status.success() {
            let said = std::fs::read_to_string(socket.with_extension("log"))?;
            return Err(format!("runc: {status}: {said}").into());
        }
        let pid = std::fs::read_to_string(pid_file)?.trim().parse()?;
        Ok(Terminal { console: Console::new(master.try_clone()?, master, |_| {}), pid })
    }

    /// Waits for the container's end.
    ///
    /// # Errors
    /// When its terminal does not close within [`LIMIT`].
    pub fn ended(mut self) -> Result<i32> {
        self.console.closed(LIMIT)?;
        match waitpid(Pid::from_raw(self.pid), None)? {
            WaitStatus::Exited(_, code) => Ok(code),
            other => Err(format!("the container's first process: {other:?}").into()),
        }
    }
}

#[allow(unsafe_code)]
fn receive(connection: &impl AsRawFd) -> Result<OwnedFd> {
    let mut buffer = [0; 4096];
    let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err("runc sent no terminal".into())
}
