//! What became different: between two services (the switch table), and between two manifests.

use std::cmp::Ordering;

use crate::address::Class;
use crate::kind::service::{Reload, Service, SwitchMethod};
use crate::manifest::{Manifest, UnitId, flags};

/// Keys whose fields differ. Every field must be named: a new one that is forgotten does not compile.
macro_rules! differing {
    ($old:expr, $new:expr, $type:ident { $($field:ident => $key:literal),* $(,)? }) => {{
        let $type { $($field),* } = $old;
        let mut keys: Vec<&'static str> = Vec::new();
        $(if *$field != $new.$field { keys.push($key); })*
        keys
    }};
}
pub(crate) use differing;

/// How the difference between a running service and the desired one is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Switch {
    /// The new values hold from the next time that they are needed.
    Nothing,
    /// Load the configuration again.
    Reload,
    /// Stop and start in one go, at the moment the new one could start.
    Restart,
    /// Stop with the old files still in place, start after the change.
    StopStart,
    /// The old process stays until somebody restarts it.
    Keep,
}

/// What the switch table says, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub switch: Switch,
    /// The keys that decided; with [`Switch::Nothing`] those that differ.
    pub keys: Vec<&'static str>,
}

/// Keys that a running process does not notice: PID 1 reads them when it next needs them.
const QUIET: [&str; 17] = [
    "healthy",
    "log-keep",
    "log-size",
    "reload",
    "reload-timeout",
    "restart",
    "restart-delay",
    "restart-limit",
    "restart-max",
    "secret",
    "start",
    "start-timeout",
    "stop",
    "stop-signal",
    "stop-timeout",
    "success",
    "switch",
];

/// Keys that only the checker reads.
const CHECKED: [&str; 1] = ["writes"];

/// The switch table: the running service, the desired one → what is done.
pub fn switch(old: &Service, new: &Service) -> Decision {
    let keys = old.differing(new);
    let (quiet, loud): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|k| QUIET.contains(k) || CHECKED.contains(k));
    if loud.is_empty() {
        return Decision { switch: Switch::Nothing, keys: quiet };
    }
    let switch = match new.switch {
        // A stop command belongs to the old files: it must run while they are there.
        SwitchMethod::Auto if old.stop.is_some() => Switch::StopStart,
        SwitchMethod::Auto | SwitchMethod::Restart => Switch::Restart,
        SwitchMethod::Reload if matches!(new.reload, Some(Reload::Signal(_) | Reload::Command(_))) => {
            Switch::Reload
        }
        SwitchMethod::Reload => Switch::Restart,
        SwitchMethod::StopStart => Switch::StopStart,
        SwitchMethod::Keep => Switch::Keep,
    };
    Decision { switch, keys: loud }
}

/// What became of a unit between two manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the new one has it.
    Added(UnitId),
    /// Only the old one has it.
    Removed(UnitId),
    /// Both have it, differently.
    Changed {
        /// Its number in the old manifest.
        old: UnitId,
        /// Its number in the new manifest.
        new: UnitId,
        /// The keys that differ, edges included; empty where the old specification cannot be read any more.
        keys: Vec<&'static str>,
        /// Whether more than edges differ.
        spec: bool,
    },
    /// Nothing that matters differs.
    Same {
        /// Its number in the old manifest.
        old: UnitId,
        /// Its number in the new manifest.
        new: UnitId,
    },
}

/// Whether a unit is declared in both as the same: what is only reported, too, though that is no part of what it says.
pub fn is_same((before, old): (&Manifest, UnitId), (after, new): (&Manifest, UnitId)) -> bool {
    let report = |m: &Manifest, id: UnitId| match m.kind(id).class() {
        Class::Committer => m.flags(id) & flags::REPORT,
        Class::Service | Class::Helper | Class::Exec | Class::Mount | Class::Target => 0,
    };
    before.unit_digest(old) == after.unit_digest(new) && report(before, old) == report(after, new)
}

/// Every unit of two manifests, in address order: one walk along both.
pub fn manifests<'m>(old: &'m Manifest, new: &'m Manifest) -> impl Iterator<Item = Change> + 'm {
    let (mut olds, mut news) = (old.ids().peekable(), new.ids().peekable());
    std::iter::from_fn(move || {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(o), Some(n)) => (old.kind(*o), old.name(*o)).cmp(&(new.kind(*n), new.name(*n))),
        };
        match order {
            Ordering::Less => olds.next().map(Change::Removed),
            Ordering::Greater => news.next().map(Change::Added),
            Ordering::Equal => {
                let (o, n) = (olds.next()?, news.next()?);
                Some(compare((old, o), (new, n)))
            }
        }
    })
}

fn compare((old, o): (&Manifest, UnitId), (new, n): (&Manifest, UnitId)) -> Change {
    let mut keys = Vec::new();
    // A specification of another version may not be readable: it differs all the same, without keys to name.
    let differs = old.unit_digest(o) != new.unit_digest(n);
    if differs && let (Some(a), Some(b)) = (old.spec(o), new.spec(n)) {
        keys = a.differing(&b);
    }
    let (a, b) = (old.unit(o), new.unit(n));
    for (bit, key) in [(flags::REPORT, "drift"), (flags::KEEP_ON_REMOVAL, "on-removal")] {
        if a.flags & bit != b.flags & bit {
            keys.push(key);
        }
    }
    if a.settle != b.settle {
        keys.push("settle");
    }
    let spec = differs || !keys.is_empty();
    let edges = |m: &Manifest, id| -> Vec<(String, crate::manifest::EdgeKind)> {
        let mut all: Vec<_> = m.deps(id).map(|e| (m.address(e.unit).to_string(), e.kind)).collect();
        all.sort_unstable();
        all
    };
    let (before, after) = (edges(old, o), edges(new, n));
    let gone = before.iter().filter(|e| after.binary_search(e).is_err());
    let come = after.iter().filter(|e| before.binary_search(e).is_err());
    let mut words: Vec<&'static str> = gone.chain(come).map(|(_, kind)| kind.word()).collect();
    words.sort_unstable();
    words.dedup();
    keys.extend(words);
    if keys.is_empty() {
        Change::Same { old: o, new: n }
    } else {
        Change::Changed { old: o, new: n, keys, spec }
    }
}
