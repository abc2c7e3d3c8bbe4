//! `wait`: for the socket first, then for what was asked; across a re-exec, which ends connections. And the same
//! for verbs that need the store: right after boot the mount that carries it may not be there yet.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Run, json_of, units};
use crate::control::answer::{Progress, Waited, Waiting};
use crate::control::request::{Empty, Request, Wait};
use crate::control::{Failure, Info};
use crate::ctl::arrival::{self, left};
use crate::ctl::client::{Client, ClientError};
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::render::one_line;

/// How often a connection may end before an answer: re-execs, not a server that refuses.
const CONNECTIONS: u32 = 100;
/// How long init may take to say what is missing once the time has run out.
const LAST_WORD: Duration = Duration::from_secs(2);

impl Run<'_, '_> {
    pub(super) fn wait(&mut self, wait: &Wait) -> Result<Exit, Stop> {
        let waited = self.waited(wait, |run| run.missing(wait))?;
        if self.screen.json {
            self.screen.object(json!({ "waited": json_of(&waited) }))?;
        } else if !waited.fulfilled {
            self.screen.put(&list(&waited.waiting))?;
        }
        Ok(if waited.fulfilled { Exit::Done } else { Exit::NotKept })
    }

    /// Asks until there is an answer. `late` says what is missing when time runs out.
    fn waited(&mut self, wait: &Wait, late: impl Fn(&Self) -> String) -> Result<Waited, Stop> {
        let frame = Request::Wait(wait.clone()).frame(false);
        let mut connections: u32 = 0;
        loop {
            let (socket, screen) = (self.socket, &mut *self.screen);
            // Who waits for an init that has ended waits for ever.
            let absent = || {
                let text = format!("initctl: nobody listens at {}: waiting for init\n", socket.display());
                screen.err.write_all(text.as_bytes()).map_err(Stop::Output)
            };
            let mut client = arrival::connect(socket, self.deadline, absent)?;
            left(self.deadline, "init has not answered")?;
            client.set_deadline(self.deadline);
            connections = connections.saturating_add(1);
            match client.call(&frame) {
                Ok(waited) => return Ok(waited),
                Err(ClientError::Lost { .. }) if connections < CONNECTIONS => {}
                Err(ClientError::TimedOut { .. }) => return Err(Stop::TimedOut(late(self))),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until the store is open, and says for what. Where nobody answers, who asks next will say so; where
    /// there will be no store, who needs it.
    pub(super) fn await_store(&mut self) -> Result<(), Stop> {
        let Ok(mut client) = self.client() else { return Ok(()) };
        let info: Info = match client.call::<Info>(&Request::Info(Empty {}).frame(false)) {
            Ok(info) if info.store_open => return Ok(()),
            Ok(info) => info,
            Err(e @ ClientError::TimedOut { .. }) => return Err(e.into()),
            Err(_) => return Ok(()),
        };
        drop(client);
        let missing = match &info.store_waits {
            Some(unit) => format!("{unit} is not ready, which carries it"),
            None => "it is being opened".to_owned(),
        };
        let text = format!("waiting for the store: {missing}");
        if self.screen.json {
            if self.changes {
                let unit = info.store_waits.clone().unwrap_or_default();
                let progress = Progress { unit, state: None, outcome: None, text };
                self.screen.object(json!({ "progress": json_of(&progress) }))?;
            }
        } else {
            // Beside the answer, which may go into a file.
            self.screen.err.write_all(format!("initctl: {text}\n").as_bytes()).map_err(Stop::Output)?;
        }
        let wait = Wait { store: true, ..Wait::default() };
        let late = |_: &Self| format!("the store is not open, nothing was begun: {missing}");
        match self.waited(&wait, late) {
            // An init of before: it knows no such wait.
            Err(Stop::Client(ClientError::Failure(Failure::InvalidParameter { .. }))) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// What is not ready now, on one line.
    fn missing(&self, wait: &Wait) -> String {
        let ask = || -> Result<Vec<String>, Stop> {
            let mut client = Client::connect(self.socket, Instant::now().checked_add(LAST_WORD))?;
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
