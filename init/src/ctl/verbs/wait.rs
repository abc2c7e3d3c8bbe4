//! `wait`: for the socket first, then for what was asked; across a re-exec, which ends connections.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Run, json_of, units};
use crate::control::answer::{Waited, Waiting};
use crate::control::request::{Request, Wait};
use crate::ctl::arrival::{self, left};
use crate::ctl::client::{Client, ClientError};
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::render::one_line;

/// How often a connection may end before an answer: re-execs, not a server that refuses.
const CONNECTIONS: u32 = 100;
/// How long init may take to say what is missing once the time has run out.
const LAST_WORD: Duration = Duration::from_secs(2);

impl Run<'_, '_> {
    pub(super) fn wait(&mut self, wait: &Wait, timeout: Option<u64>) -> Result<Exit, Stop> {
        let deadline = timeout.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let frame = Request::Wait(wait.clone()).frame(false);
        let mut connections: u32 = 0;
        let waited: Waited = loop {
            let mut client = arrival::connect(self.socket, deadline)?;
            client.set_timeout(left(deadline, "init has not answered")?)?;
            connections = connections.saturating_add(1);
            match client.call(&frame) {
                Ok(waited) => break waited,
                Err(ClientError::Lost { .. }) if connections < CONNECTIONS => {}
                Err(ClientError::TimedOut { .. }) => return Err(Stop::TimedOut(self.missing(wait))),
                Err(e) => return Err(e.into()),
            }
        };
        if self.screen.json {
            self.screen.object(json!({ "waited": json_of(&waited) }))?;
        } else if !waited.fulfilled {
            self.screen.put(&list(&waited.waiting))?;
        }
        Ok(if waited.fulfilled { Exit::Done } else { Exit::NotKept })
    }

    /// What is not ready now, on one line.
    fn missing(&self, wait: &Wait) -> String {
        let ask = || -> Result<Vec<String>, Stop> {
            let mut client = Client::connect(self.socket)?;
            client.set_timeout(Some(LAST_WORD))?;
            let names = (!wait.converged).then(|| wait.ready.clone());
            let all = units(&mut client, names)?;
            let late = all.into_iter().filter(|u| !u.state.is_ready() && u.state.word() != "down");
            Ok(late.map(|u| line(&u.unit, u.state.word(), &u.cause)).collect())
        };
        match ask() {
            Ok(late) if late.is_empty() => "not converged".to_owned(),
            Ok(late) => late.into_iter().take(20).collect::<Vec<_>>().join(", "),
            Err(_) => "init does not answer".to_owned(),
        }
    }
}

fn line(unit: &str, state: &str, cause: &str) -> String {
    let cause = cause.strip_prefix(state).and_then(|c| c.strip_prefix(": ")).unwrap_or(cause);
    if cause.is_empty() {
        format!("{unit} is {state}")
    } else {
        format!("{unit} is {state} ({})", one_line(cause))
    }
}

fn list(waiting: &[Waiting]) -> String {
    waiting.iter().map(|w| format!("{}\n", line(&w.unit, w.state.word(), &w.cause))).collect()
}
