//! `history`: what was replaced on the machine, and what it held.

use std::path::Path;

use cm_core::varlink::from_base64;
use serde_json::json;

use super::Run;
use crate::control::{self, STORE_SOCKET};
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

    /// A typed name. Without init nobody knows the units: a path is a file.
    fn saved_name(&self, name: String) -> Result<String, Stop> {
        if self.store.is_some() && Path::new(&name).is_absolute() {
            return Ok(format!("file:{name}"));
        }
        if self.store.is_some() {
            return Ok(name);
        }
        self.address(name)
    }
}
