//! Managed mounts as the kernel lists them: `/proc/self/mountinfo` tells by EPOLLPRI that it has changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;

use cm_core::engine::Node;
use cm_core::engine::effect::Level;
use cm_core::engine::event::Event;
use units::Kind;

use super::Shell;
use super::token::{Token, Turn};
use crate::sys::cgroup::unescape;

/// What was listed last.
#[derive(Debug, Default)]
pub struct Mounts {
    file: Option<File>,
    seen: BTreeMap<Node, bool>,
}

/// The mount points of a mountinfo text: field 5 of each line.
pub fn points(mountinfo: &str) -> impl Iterator<Item = String> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4).map(unescape))
}

impl Shell {
    /// Starts to listen.
    pub(super) fn open_mounts(&mut self) {
        match File::open("/proc/self/mountinfo") {
            Ok(file) => {
                self.register(file.as_raw_fd(), Token::Mounts);
                self.mounts.file = Some(file);
            }
            Err(e) => self.say(Level::Warning, None, &format!("cannot watch mounts: {e}")),
        }
    }

    /// The list has changed, or the units that it is compared with.
    pub(super) fn hear_mounts(&mut self) -> Turn {
        let (desired, _) = self.engine.desired();
        let Some(manifest) = self.engine.manifest(desired) else { return Turn::Drained };
        let units: Vec<(Node, String)> = manifest
            .ids()
            .filter(|id| manifest.kind(*id) == Kind::Mount)
            .filter_map(|id| Some((self.engine.node_in(desired, id)?, manifest.name(id).to_owned())))
            .collect();
        if units.is_empty() {
            self.mounts.seen.clear();
            return Turn::Drained;
        }
        let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { return Turn::Drained };
        let listed: std::collections::BTreeSet<String> = points(&text).collect();
        let mut seen = BTreeMap::new();
        for (node, path) in units {
            let there = listed.contains(&path);
            if self.mounts.seen.get(&node).copied().unwrap_or(false) != there {
                self.queue.push_back(if there { Event::Mounted { node } } else { Event::Unmounted { node } });
            }
            seen.insert(node, there);
        }
        self.mounts.seen = seen;
        Turn::Drained
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn points_are_unescaped() {
        let text =
            "36 35 98:0 / /mnt\\040a rw,noatime master:1 - ext3 /dev/root rw\n1 2 0:1 / / rw - tmpfs x rw\n";
        assert_eq!(super::points(text).collect::<Vec<_>>(), ["/mnt a", "/"]);
    }
}
