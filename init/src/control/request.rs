//! What a client can ask: one variant a method of the interface.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::wire::{self, Call};

/// No parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Make a state file the new generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Apply {
    /// Absolute path of the state file. Without it, the file is the sealed memfd beside the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Absolute path of the directory that relative sources are below, for a memfd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Refused with `Superseded` unless this is the current generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
    /// Lift all holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
    /// Only these units, with what they depend on; the rest stays as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Everything but these units, which stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// The layer that the state becomes; `main` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// That layer goes, and no state is named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

impl Apply {
    /// The layer that is written.
    pub fn layer(&self) -> &str {
        self.layer.as_deref().unwrap_or(units::layer::MAIN)
    }

    /// Why it cannot be meant: the parameter, and what about it.
    fn wrong(&self) -> Option<(&'static str, String)> {
        let is_relative = |p: &Option<String>| p.as_ref().is_some_and(|p| !p.starts_with('/'));
        let named = self.path.is_some() || self.directory.is_some();
        Some(match self {
            a if is_relative(&a.path) => ("path", "not an absolute path".to_owned()),
            a if !named && !a.remove => ("path", "neither a path nor a directory with a memfd".to_owned()),
            a if is_relative(&a.directory) => ("directory", "not an absolute path".to_owned()),
            a if !a.only.is_empty() && !a.except.is_empty() => {
                ("except", "not together with only".to_owned())
            }
            a if a.remove && (named || !a.only.is_empty() || !a.except.is_empty()) => {
                ("remove", "not together with a state or a part of it".to_owned())
            }
            a if a.remove && a.layer() == units::layer::MAIN => {
                ("remove", "not the layer main: apply an empty state in its place".to_owned())
            }
            a => ("layer", units::layer::check(a.layer()).err()?),
        })
    }
}

/// Go back to an earlier generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rollback {
    /// Which. Without: the current one while an apply is under way, which is given up; else the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// What is asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Start; lifts a hold.
    Start,
    /// Stop, and hold it down.
    Stop,
    /// Stop and start.
    Restart,
    /// Load the configuration again.
    Reload,
    /// Freeze its processes, and hold.
    Pause,
    /// Let them run again.
    Resume,
    /// Leave the unit alone: no restart, no repair.
    Hold,
    /// Lift the hold.
    Release,
    /// Signal the main process.
    Kill,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Verb; 9] = [
        Verb::Start,
        Verb::Stop,
        Verb::Restart,
        Verb::Reload,
        Verb::Pause,
        Verb::Resume,
        Verb::Hold,
        Verb::Release,
        Verb::Kill,
    ];

    /// As it is typed and sent.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Reload => "reload",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Hold => "hold",
            Verb::Release => "release",
            Verb::Kill => "kill",
        }
    }
}

/// Ask something of units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Command {
    /// What.
    pub verb: Verb,
    /// Of which units: addresses, or bare names that only one unit has. When the server hands the request on,
    /// they are all addresses.
    pub units: Vec<String>,
    /// The signal's number, for `kill`; SIGTERM without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// How long a hold lasts, in seconds; until boot without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// Why, for the status of a hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Ask for the state of units.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Status {
    /// Which; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Vec<String>>,
}

/// Most units that one call may wait for.
const MAX_WAITED: usize = 256;

/// Wait until something is true.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Wait {
    /// Until the machine is converged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converged: bool,
    /// Until these units are ready (or done).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<String>,
    /// Until the store is open, and the generation that it holds is the one that is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store: bool,
}

/// Why is a unit as it is?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Explain {
    /// Which.
    pub unit: String,
}

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Power off.
    Poweroff,
    /// Reboot.
    Reboot,
    /// Halt.
    Halt,
    /// Leave the process (containers).
    Exit,
}

/// Take the machine down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shutdown {
    /// How.
    pub how: How,
}

/// Everything that can be asked of the interface `io.holdfast`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// See [`Apply`]. Streams progress.
    Apply(Apply),
    /// See [`Rollback`]. Streams progress.
    Rollback(Rollback),
    /// See [`Command`]. Streams progress.
    Command(Command),
    /// See [`Status`]. Streams pages.
    Status(Status),
    /// All units with what they need. Streams pages.
    Tree(Empty),
    /// What happens from now on. Streams until the client goes.
    Events(Empty),
    /// See [`Wait`].
    Wait(Wait),
    /// See [`Explain`].
    Explain(Explain),
    /// The machine in a few numbers.
    Info(Empty),
    /// PID 1 executes itself again; no service notices.
    Reexec(Empty),
    /// See [`Shutdown`].
    Shutdown(Shutdown),
    /// `org.varlink.service.GetInfo`.
    GetInfo(Empty),
    /// `org.varlink.service.GetInterfaceDescription`.
    GetInterfaceDescription(GetInterfaceDescription),
}

/// Ask for the text of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInterfaceDescription {
    /// Its name.
    pub interface: String,
}

/// Every method of `io.holdfast`, in the order of [`Request`].
pub const METHODS: [&str; 11] = [
    "io.holdfast.Apply",
    "io.holdfast.Rollback",
    "io.holdfast.Command",
    "io.holdfast.Status",
    "io.holdfast.Tree",
    "io.holdfast.Events",
    "io.holdfast.Wait",
    "io.holdfast.Explain",
    "io.holdfast.Info",
    "io.holdfast.Reexec",
    "io.holdfast.Shutdown",
];

/// A request with how it wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// The client takes more than one reply.
    pub more: bool,
    /// The client wants no reply.
    pub oneway: bool,
}

impl Request {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Failure::InvalidFrame`] when it is no call at all, [`Failure::MethodNotFound`],
    /// [`Failure::InvalidParameter`].
    pub fn parse(frame: &[u8]) -> Result<Asked, Failure> {
        // Twice over the bytes, so that no parameters are ever held as a tree of values.
        let head: Call<IgnoredAny> =
            serde_json::from_slice(frame).map_err(|e| Failure::InvalidFrame { text: e.to_string() })?;
        if head.upgrade {
            return Err(Failure::InvalidParameter {
                parameter: "upgrade".to_owned(),
                text: "there is no other protocol".to_owned(),
            });
        }
        let request = match head.method.as_str() {
            "io.holdfast.Apply" => Request::Apply(parameters(frame)?),
            "io.holdfast.Rollback" => Request::Rollback(parameters(frame)?),
            "io.holdfast.Command" => Request::Command(parameters(frame)?),
            "io.holdfast.Status" => Request::Status(parameters(frame)?),
            "io.holdfast.Tree" => Request::Tree(parameters(frame)?),
            "io.holdfast.Events" => Request::Events(parameters(frame)?),
            "io.holdfast.Wait" => Request::Wait(parameters(frame)?),
            "io.holdfast.Explain" => Request::Explain(parameters(frame)?),
            "io.holdfast.Info" => Request::Info(parameters(frame)?),
            "io.holdfast.Reexec" => Request::Reexec(parameters(frame)?),
            "io.holdfast.Shutdown" => Request::Shutdown(parameters(frame)?),
            "org.varlink.service.GetInfo" => Request::GetInfo(parameters(frame)?),
            "org.varlink.service.GetInterfaceDescription" => {
                Request::GetInterfaceDescription(parameters(frame)?)
            }
            other => return Err(Failure::MethodNotFound { method: other.to_owned() }),
        };
        request.check()?;
        Ok(Asked { request, more: head.more, oneway: head.oneway })
    }

    /// What the types alone cannot say.
    fn check(&self) -> Result<(), Failure> {
        let wrong = |parameter: &str, text: &str| {
            Err(Failure::InvalidParameter { parameter: parameter.to_owned(), text: text.to_owned() })
        };
        match self {
            Request::Apply(a) => a.wrong().map_or(Ok(()), |(parameter, text)| wrong(parameter, &text)),
            Request::Command(c) if c.units.is_empty() => wrong("units", "no unit"),
            Request::Command(c) if c.signal.is_some() && c.verb != Verb::Kill => {
                wrong("signal", "only for kill")
            }
            Request::Command(c) if c.signal.is_some_and(|s| !(1..=64).contains(&s)) => {
                wrong("signal", "not a signal number")
            }
            Request::Command(c) if c.note.as_ref().is_some_and(|n| n.len() > 1024) => {
                wrong("note", "longer than 1024 bytes")
            }
            Request::Wait(w) if !w.converged && !w.store && w.ready.is_empty() => {
                wrong("ready", "nothing to wait for")
            }
            Request::Wait(w) if w.ready.len() > MAX_WAITED => wrong("ready", "more than 256 units"),
            _ => Ok(()),
        }
    }

    /// Full name of the method.
    pub const fn method(&self) -> &'static str {
        match self {
            Request::Apply(_) => "io.holdfast.Apply",
            Request::Rollback(_) => "io.holdfast.Rollback",
            Request::Command(_) => "io.holdfast.Command",
            Request::Status(_) => "io.holdfast.Status",
            Request::Tree(_) => "io.holdfast.Tree",
            Request::Events(_) => "io.holdfast.Events",
            Request::Wait(_) => "io.holdfast.Wait",
            Request::Explain(_) => "io.holdfast.Explain",
            Request::Info(_) => "io.holdfast.Info",
            Request::Reexec(_) => "io.holdfast.Reexec",
            Request::Shutdown(_) => "io.holdfast.Shutdown",
            Request::GetInfo(_) => "org.varlink.service.GetInfo",
            Request::GetInterfaceDescription(_) => "org.varlink.service.GetInterfaceDescription",
        }
    }

    /// Whether it changes anything, so that it needs root or the socket's owner. In words for the refusal.
    pub fn changes(&self) -> Option<&'static str> {
        match self {
            Request::Apply(_) => Some("apply"),
            Request::Rollback(_) => Some("roll back"),
            Request::Command(c) => Some(c.verb.word()),
            Request::Reexec(_) => Some("re-execute init"),
            Request::Shutdown(_) => Some("shut down"),
            Request::Status(_)
            | Request::Tree(_)
            | Request::Events(_)
            | Request::Wait(_)
            | Request::Explain(_)
            | Request::Info(_)
            | Request::GetInfo(_)
            | Request::GetInterfaceDescription(_) => None,
        }
    }

    /// The call as bytes, with its NUL.
    pub fn frame(&self, more: bool) -> Vec<u8> {
        fn call<P: Serialize>(method: &str, parameters: &P, more: bool) -> Vec<u8> {
            wire::frame(&Call {
                method: method.to_owned(),
                parameters: Some(parameters),
                more,
                oneway: false,
                upgrade: false,
            })
        }
        let method = self.method();
        match self {
            Request::Apply(p) => call(method, p, more),
            Request::Rollback(p) => call(method, p, more),
            Request::Command(p) => call(method, p, more),
            Request::Status(p) => call(method, p, more),
            Request::Wait(p) => call(method, p, more),
            Request::Explain(p) => call(method, p, more),
            Request::Shutdown(p) => call(method, p, more),
            Request::GetInterfaceDescription(p) => call(method, p, more),
            Request::Tree(p)
            | Request::Events(p)
            | Request::Info(p)
            | Request::Reexec(p)
            | Request::GetInfo(p) => call(method, p, more),
        }
    }
}

/// The parameters of a call whose method is known.
fn parameters<P: DeserializeOwned>(frame: &[u8]) -> Result<P, Failure> {
    let read = || -> Result<P, serde_json::Error> {
        let call: Call<P> = serde_json::from_slice(frame)?;
        call.parameters.map_or_else(|| serde_json::from_str("{}"), Ok)
    };
    read().map_err(|e| {
        let text = e.to_string();
        // serde names the field between back quotes: "missing field `unit` at …".
        let parameter = text.split('`').nth(1).unwrap_or_default().to_owned();
        Failure::InvalidParameter { parameter, text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Request> {
        vec![
            Request::Apply(Apply { path: Some("/a".to_owned()), release: true, ..Apply::default() }),
            Request::Rollback(Rollback { generation: Some(3) }),
            Request::Command(Command {
                verb: Verb::Kill,
                units: vec!["service:a".to_owned()],
                signal: Some(9),
                for_seconds: None,
                note: None,
            }),
            Request::Status(Status::default()),
            Request::Tree(Empty {}),
            Request::Events(Empty {}),
            Request::Wait(Wait { converged: true, ready: vec![], store: false }),
            Request::Explain(Explain { unit: "nginx".to_owned() }),
            Request::Info(Empty {}),
            Request::Reexec(Empty {}),
            Request::Shutdown(Shutdown { how: How::Reboot }),
        ]
    }

    #[test]
    fn every_request_survives_the_wire() {
        for (request, method) in all().into_iter().zip(METHODS) {
            assert_eq!(request.method(), method);
            let frame = request.frame(true);
            let asked = Request::parse(&frame[..frame.len() - 1]).unwrap();
            assert_eq!(asked, Asked { request, more: true, oneway: false });
        }
        assert_eq!(all().len(), METHODS.len());
    }

    #[test]
    fn the_interface_text_has_exactly_these_methods() {
        let text: Vec<_> = crate::control::INTERFACE
            .lines()
            .filter_map(|l| l.strip_prefix("method "))
            .map(|l| format!("io.holdfast.{}", l.split('(').next().unwrap().trim()))
            .collect();
        assert_eq!(text, METHODS);
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.word());
            assert!(crate::control::INTERFACE.contains(verb.word()));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let parse = |t: &str| Request::parse(t.as_bytes()).unwrap_err().to_string();
        let got = [
            parse("garbage"),
            parse(r#"{"method":"io.holdfast.Nothing"}"#),
            parse(r#"{"method":"io.holdfast.Explain"}"#),
            parse(r#"{"method":"io.holdfast.Explain","parameters":{"unit":"a","x":1}}"#),
            parse(r#"{"method":"io.holdfast.Apply","parameters":{"path":"relative"}}"#),
            parse(r#"{"method":"io.holdfast.Apply","parameters":{"path":"/a","layer":"web"}}"#),
            parse(
                r#"{"method":"io.holdfast.Apply","parameters":{"path":"/a","layer":"local","remove":true}}"#,
            ),
            parse(r#"{"method":"io.holdfast.Apply","parameters":{"remove":true}}"#),
            parse(r#"{"method":"io.holdfast.Info","upgrade":true}"#),
            parse(&format!(
                r#"{{"method":"io.holdfast.Wait","parameters":{{"ready":["a"{}]}}}}"#,
                r#","a""#.repeat(MAX_WAITED)
            )),
            parse(
                r#"{"method":"io.holdfast.Command","parameters":{"verb":"kill","units":["a"],"signal":99}}"#,
            ),
        ]
        .join("\n");
        expect_test::expect![[r#"
            not a varlink call: expected value at line 1 column 1
            no such method: io.holdfast.Nothing
            parameter unit: missing field `unit` at line 1 column 2
            parameter x: unknown field `x`, expected `unit` at line 1 column 60
            parameter path: not an absolute path
            parameter layer: `web` is no layer: it is main, dropin:NAME, dpkg:PACKAGE or local, and a NAME has letters, digits and . _ - + @ only; did you mean dropin:web?
            parameter remove: not together with a state or a part of it
            parameter remove: not the layer main: apply an empty state in its place
            parameter upgrade: there is no other protocol
            parameter ready: more than 256 units
            parameter signal: not a signal number"#]]
        .assert_eq(&got);
    }
}
