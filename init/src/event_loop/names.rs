//! The names of this machine as the kernel has them. sethostname(2) and setdomainname(2) make no inotify event:
//! `/proc/sys/kernel/hostname` tells by EPOLLPRI that a name was set, in whatever name space.

use std::fs::File;
use std::os::fd::AsRawFd;

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use units::{Kind, Manifest, UnitId};

use super::Shell;
use super::token::{Token, Turn};

/// Both names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    host: Vec<u8>,
    domain: Vec<u8>,
}

/// What tells of them, and what they were last.
#[derive(Debug, Default)]
pub struct Names {
    files: Vec<File>,
    seen: Option<Seen>,
}

fn look() -> Option<Seen> {
    let names = uname().ok()?;
    let bytes = |name: &std::ffi::OsStr| name.as_encoded_bytes().to_vec();
    Some(Seen { host: bytes(names.nodename()), domain: bytes(names.domainname()) })
}

/// Units that say what a name should be, of which these have changed.
fn units_of(manifest: &Manifest, host: bool, domain: bool) -> Vec<UnitId> {
    let is = |id: &UnitId| match (manifest.kind(*id), manifest.name(*id)) {
        (Kind::Hostname, _) | (Kind::Sysctl, "kernel.hostname" | "kernel/hostname") => host,
        (Kind::Sysctl, "kernel.domainname" | "kernel/domainname") => domain,
        _ => false,
    };
    manifest.ids().filter(is).collect()
}

impl Names {
    /// What they were last, so that the next PID 1 sees what changes between the two.
    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// What an earlier PID 1 saw last.
    pub(super) fn adopt(&mut self, seen: Option<Seen>) {
        self.seen = seen;
    }
}

impl Shell {
    /// Starts to listen.
    pub(super) fn open_names(&mut self) {
        for name in ["hostname", "domainname"] {
            match File::open(format!("/proc/sys/kernel/{name}")) {
                Ok(file) => {
                    self.register(file.as_raw_fd(), Token::Names);
                    self.names.files.push(file);
                }
                Err(e) => self.say(Level::Warning, None, &format!("cannot watch the {name}: {e}")),
            }
        }
    }

    /// A name may be another one.
    pub(super) fn hear_names(&mut self) -> Turn {
        let Some(now) = look() else { return Turn::Drained };
        // What was there first is what was looked at first.
        let before = self.names.seen.replace(now.clone()).unwrap_or_else(|| now.clone());
        if before == now {
            return Turn::Drained;
        }
        let (desired, _) = self.engine.desired();
        let Some(manifest) = self.engine.manifest(desired) else { return Turn::Drained };
        let units = units_of(manifest, before.host != now.host, before.domain != now.domain);
        let nodes: Vec<Node> = units.into_iter().filter_map(|id| self.engine.node_in(desired, id)).collect();
        if !nodes.is_empty() {
            self.queue.push_back(Event::Touched { nodes });
        }
        Turn::Drained
    }
}

#[cfg(test)]
mod tests {
    use units::kind::Spec;
    use units::kind::hostname::Hostname;
    use units::kind::sysctl::Sysctl;
    use units::manifest::{ManifestBuilder, NewUnit};

    use super::*;

    #[test]
    fn a_name_touches_the_units_that_say_what_it_should_be() {
        let mut builder = ManifestBuilder::new();
        let host = Spec::Hostname(Hostname { value: "a".to_owned() });
        builder.unit(NewUnit::new(Kind::Hostname, "machine", host));
        for key in ["kernel.domainname", "kernel.hostname", "kernel.panic"] {
            let spec = Spec::Sysctl(Sysctl { key: key.replace('.', "/"), value: "a".to_owned() });
            builder.unit(NewUnit::new(Kind::Sysctl, key, spec));
        }
        let manifest = builder.finish();
        let names = |host, domain| -> Vec<String> {
            units_of(&manifest, host, domain).iter().map(|id| manifest.name(*id).to_owned()).collect()
        };
        let mut hosts = names(true, false);
        hosts.sort();
        assert_eq!(hosts, ["kernel.hostname", "machine"]);
        assert_eq!(names(false, true), ["kernel.domainname"]);
        assert_eq!(names(false, false), [""; 0]);
    }
}
