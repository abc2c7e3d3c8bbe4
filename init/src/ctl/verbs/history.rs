//! `history`: what was replaced on the machine, and what it held.

use std::path::Path;

use cm_core::varlink::from_base64;
use serde_json::json;
use units::Address;

use super::Run;
use crate::control::{self, Failure, STORE_SOCKET};
use crate::ctl::client::ClientError;
use crate::ctl::exit::{Exit, Stop};
use crate::ctl::query::{self, Content, History, Version};
use crate::ctl::render::history;

/// Fewest letters of an id that name a version.
const SHORTEST: usize = 4;

impl Run<'_, '_> {
    /// Saved versions, newest first.
    fn versions(&mut self, unit: Option<String>) -> Result<Vec<Version>, Stop> {
        let frame = query::frame("io.holdfast.Store.History", &query::MaybeUnit { unit }, true);
        let mut versions = Vec::new();
        self.query()?.stream(&frame, None, |reply: History| {
            versions.extend(reply.versions);
            Ok::<_, Stop>(())
        })?;
        Ok(versions)
    }

    pub(super) fn history(&mut self, unit: Option<String>) -> Result<Exit, Stop> {
        let unit = unit.map(|u| self.saved_name(u)).transpose()?;
        let versions = self.versions(unit)?;
        if self.screen.json {
            self.screen.object(json!({ "versions": versions }))?;
        } else {
            let text = history::versions(&versions, &self.environment.clock, self.screen.style);
            self.screen.put(&text)?;
        }
        Ok(Exit::Done)
    }

    pub(super) fn version(&mut self, unit: String, id: &str) -> Result<Exit, Stop> {
        let unit = self.saved_name(unit)?;
        let versions = self.versions(Some(unit.clone()))?;
        let usage =
            |text: String| Stop::Usage(format!("{text}; `initctl history {unit}` lists the versions"));
        if id.len() < SHORTEST {
            return Err(usage(format!("--show {id}: give at least {SHORTEST} letters of the id")));
        }
        let mut found: Vec<&str> =
            versions.iter().map(|v| v.digest.as_str()).filter(|d| d.starts_with(id)).collect();
        found.sort_unstable();
        found.dedup();
        let digest = match found.as_slice() {
            [one] => (*one).to_owned(),
            [] if versions.iter().any(|v| v.secret) => {
                return Err(usage(format!("{unit} is secret: what it held is not shown")));
            }
            [] => return Err(usage(format!("{unit} has no version whose id starts with {id}"))),
            _ => return Err(usage(format!("several versions of {unit} have an id that starts with {id}"))),
        };
        let call = query::OneContent { unit: unit.clone(), digest: digest.clone() };
        let frame = query::frame("io.holdfast.Store.Content", &call, true);
        let mut text = String::new();
        let socket = control::beside(self.socket, STORE_SOCKET).display().to_string();
        let mut client = self.query()?;
        let json = self.screen.json;
        client.stream(&frame, None, |reply: Content| {
            if json {
                text.push_str(&reply.data);
                return Ok(());
            }
            match from_base64(&reply.data) {
                Some(bytes) => self.screen.bytes(&bytes),
                None => {
                    let text = "a content is not base64".to_owned();
                    Err(ClientError::Protocol { socket: socket.clone(), text }.into())
                }
            }
        })?;
        if json {
            self.screen.object(json!({ "content": { "unit": unit, "digest": digest, "data": text } }))?;
        }
        Ok(Exit::Done)
    }

    /// A typed name. What is no longer declared, and without init everything, is known by what was replaced.
    fn saved_name(&mut self, name: String) -> Result<String, Stop> {
        if Address::parse(&name).is_some() {
            return Ok(name);
        }
        let unknown = match self.store.is_none().then(|| self.resolved(&name)).flatten() {
            Some(Ok(unit)) => return Ok(unit),
            Some(Err(stop @ Stop::Client(ClientError::Failure(Failure::NoSuchUnit { .. })))) => Some(stop),
            Some(Err(stop)) => return Err(stop),
            None => None,
        };
        let mut saved: Vec<String> = self.versions(None)?.into_iter().map(|v| v.unit).collect();
        saved.retain(|u| u.split_once(':').is_some_and(|(_, bare)| bare == name));
        saved.sort_unstable();
        saved.dedup();
        match (saved.as_slice(), unknown) {
            ([one], _) => Ok(one.clone()),
            ([], Some(stop)) => Err(stop),
            ([], None) if Path::new(&name).is_absolute() => Ok(format!("file:{name}")),
            ([], None) => Ok(name),
            (several, _) => {
                let list = several.join(", ");
                Err(Stop::Usage(format!("{name} is the name of several units: {list}")))
            }
        }
    }
}
