//! strace(1) upon a process that runs: what it asks of the kernel is counted or written down, or refused.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use initramfs::tool::{self, Tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Result;

/// What tracing needs.
pub const TOOLS: &[Tool] = &[Tool { program: "strace", package: "strace" }];

/// A tracer that has hold of a process; dropping it lets go of that.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    file: PathBuf,
}

impl Tracer {
    /// Takes hold of a process, with these options of strace's; what it tells goes to `file`.
    ///
    /// # Errors
    /// When strace is missing, or cannot take hold.
    pub fn of(pid: i32, options: &[&str], file: &Path) -> Result<Tracer> {
        tool::ensure(TOOLS)?;
        let mut command = tool::command("strace");
        command.args(options).args(["-p", &pid.to_string(), "-o"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let said = child.stderr.take().ok_or("strace has no standard error")?;
        let mut tracer = Tracer { child, said: BufReader::new(said), file: file.to_owned() };
        let mut line = String::new();
        // It says so once it has.
        while !line.contains("attached") {
            line.clear();
            if tracer.said.read_line(&mut line)? == 0 {
                return Err(format!("strace did not get hold of process {pid}").into());
            }
        }
        Ok(tracer)
    }

    /// Lets go; what was written down.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn end(mut self) -> Result<String> {
        self.let_go()?;
        Ok(std::fs::read_to_string(&self.file)?)
    }

    fn let_go(&mut self) -> Result {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
            let mut rest = String::new();
            while self.said.read_line(&mut rest)? != 0 {}
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}
