//! A machine's console: everything that it prints is kept, and can be waited for and answered.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// What was printed so far.
#[derive(Debug, Default)]
struct Printed {
    text: String,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    printed: Mutex<Printed>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One console. A thread reads it; waiting for text sleeps until more is printed.
pub struct Console {
    shared: Arc<Shared>,
    input: Box<dyn Write + Send>,
    /// How far text has been waited for.
    seen: usize,
    /// Numbers the commands of [`Console::run`], so that an answer belongs to its question.
    commands: u32,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Console({} bytes)", self.shared.lock().text.len())
    }
}

/// What a command in the machine answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub output: String,
}

impl Console {
    /// Takes the two ends of a console. `echo` is called with all that is printed.
    pub fn new(
        mut output: impl Read + Send + 'static,
        input: impl Write + Send + 'static,
        echo: impl Fn(&str) + Send + 'static,
    ) -> Console {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut rest = Vec::new();
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                rest.extend_from_slice(buffer.get(..n).unwrap_or_default());
                // A character may be cut by the end of the buffer: at most three bytes wait for the next.
                let whole = match std::str::from_utf8(&rest) {
                    Ok(_) => rest.len(),
                    Err(e) if e.error_len().is_none() => e.valid_up_to(),
                    Err(_) => rest.len(),
                };
                let text = String::from_utf8_lossy(rest.get(..whole).unwrap_or_default()).into_owned();
                rest.drain(..whole);
                echo(&text);
                theirs.lock().text.push_str(&text);
                theirs.more.notify_all();
            }
            theirs.lock().ended = true;
            theirs.more.notify_all();
        });
        Console { shared, input: Box::new(input), seen: 0, commands: 0 }
    }

    /// All that was printed so far.
    pub fn text(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// Waits until `text` is printed after what was waited for before; gives what came before it.
    ///
    /// # Errors
    /// When the limit passes or the console closes first; the text has the end of what was printed.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut printed = self.shared.lock();
        loop {
            let new = printed.text.get(self.seen..).unwrap_or_default();
            if let Some(at) = new.find(text) {
                let before = new.get(..at).unwrap_or_default().to_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                let why = if printed.ended { "the console closed" } else { "time ran out" };
                let tail = tail(&printed.text, 30);
                return Err(format!(
                    "no {text:?} on the console: {why} after {limit:?}; it ends with:\n{tail}"
                )
                .into());
            }
            printed = self.shared.more.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the console closes.
    ///
    /// # Errors
    /// When the limit passes first.
    pub fn closed(&mut self, limit: Duration) -> Result {
        let printed = self.shared.lock();
        let (printed, _) = self
            .shared
            .more
            .wait_timeout_while(printed, limit, |p| !p.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if printed.ended {
            Ok(())
        } else {
            Err(format!(
                "the machine is still running after {limit:?}; its console ends with:\n{}",
                tail(&printed.text, 30)
            )
            .into())
        }
    }

    /// Types text, as it is.
    ///
    /// # Errors
    /// When the console is closed.
    pub fn send(&mut self, text: &str) -> Result {
        self.input.write_all(text.as_bytes())?;
        self.input.flush()?;
        Ok(())
    }

    /// Runs one command (a line without a comment or `&` at its end) in the shell that sits at the console, and gives its answer whatever its code.
    ///
    /// # Errors
    /// When there is no answer within the limit.
    pub fn answer(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        self.commands += 1;
        let number = self.commands;
        // The marks are put together by printf, so that the echo of what is typed is not taken for the answer; and
        // all is one line, so that nothing is typed, and echoed, while the command runs.
        let mark = |what: &str| format!("printf '\\n[%s %s]\\n' run{number} {what}");
        self.send(&format!("{}; {command}; {}\n", mark("begin"), mark("$?")))?;
        self.expect(&format!("[run{number} begin]"), limit)?;
        let output =
            self.expect(&format!("\n[run{number} "), limit).map_err(|e| format!("{command:?}: {e}"))?;
        let code = self.expect("]", limit)?;
        let code = code.trim().parse().map_err(|_| format!("{command:?} answered with the code {code:?}"))?;
        Ok(Answer { code, output: plain(&output) })
    }

    /// As [`Console::answer`], for a command that must succeed; gives its output.
    ///
    /// # Errors
    /// Also when the command exits with other than 0.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        let answer = self.answer(command, limit)?;
        if answer.code == 0 {
            Ok(answer.output)
        } else {
            Err(format!("{command:?} exited with {}:\n{}", answer.code, answer.output).into())
        }
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// A terminal ends lines with CR LF, and shells steer it with escape sequences; neither is the command's.
fn plain(output: &str) -> String {
    let mut plain = String::with_capacity(output.len());
    let mut rest = output;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default();
    }
    plain.push_str(rest);
    plain.replace('\r', "").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn shell() -> (std::process::Child, Console) {
        let mut child = Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let console = Console::new(child.stdout.take().unwrap(), child.stdin.take().unwrap(), |_| {});
        (child, console)
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn commands_answer_with_code_and_output() {
        let (mut child, mut c) = shell();
        assert_eq!(c.run("echo one; echo two", LIMIT).unwrap(), "one\ntwo");
        assert_eq!(c.answer("(exit 7)", LIMIT).unwrap(), Answer { code: 7, output: String::new() });
        assert!(c.run("false", LIMIT).unwrap_err().to_string().contains("exited with 1"));
        c.send("exit\n").unwrap();
        c.closed(LIMIT).unwrap();
        assert!(c.expect("x", LIMIT).unwrap_err().to_string().contains("closed"));
        child.wait().unwrap();
    }

    #[test]
    fn escape_sequences_are_no_output() {
        assert_eq!(plain("\r\n\x1b[?2004l\ro\x1b[31mne\r\ntwo\r\n"), "one\ntwo");
    }

    #[test]
    fn time_runs_out() {
        let (mut child, mut c) = shell();
        let e = c.expect("never", Duration::from_millis(10)).unwrap_err().to_string();
        assert!(e.contains("time ran out"), "{e}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
