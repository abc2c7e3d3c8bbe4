//! Where a worker hangs that cannot be killed: nothing is asked there until it has ended. Each one more would be a process
//! more that nobody can kill.

use units::UnitId;

use super::unit::{Lost, Work};
use super::{Engine, Node};
use crate::proto::ManifestRef;

impl Engine {
    /// The batch was not handed out: a worker hangs upon this step, or upon its mount. The others are handed out again.
    pub(crate) fn worker_hangs(&mut self, at: (ManifestRef, UnitId), mount: Option<&str>, pid: i32) {
        let Some(batch) = self.end_batch() else { return };
        let beside = |engine: &Engine, node| mount.is_some_and(|m| engine.lies_below(node, m));
        let back = self.take_back(&batch);
        for (step, node) in back {
            if step == at || beside(self, node) {
                self.with_latch(node, |l| l.lost = Lost::Suspect);
                self.not_kept(
                    node,
                    format!("process {pid} hangs upon what it lies on, and cannot be killed"),
                );
            }
        }
        self.suspects_not_kept(mount);
    }

    /// What is in line on a mount that does not answer.
    pub(crate) fn suspects_not_kept(&mut self, mount: Option<&str>) {
        let Some(mount) = mount else { return };
        let in_line: Vec<Node> = self.runnable.iter().copied().collect();
        for node in in_line {
            if self.is_suspect(node) && self.lies_below(node, mount) {
                self.not_kept(node, "what it lies on does not answer".to_owned());
            }
        }
    }

    /// Perhaps what this lies on answers again: it is tried at once.
    pub(crate) fn freed(&mut self, node: Node) {
        if self.is_suspect(node) && self.latch(node).is_some_and(|l| matches!(l.work, Work::Backoff { .. })) {
            self.latch_timer(node);
        }
    }
}
