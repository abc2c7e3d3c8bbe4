//! Which ends of helpers and commands were visited: what they are for × how they end.

use std::collections::BTreeSet;
use std::fmt;

use cm_core::engine::Engine;
use cm_core::engine::effect::{Effect, Job};
use cm_core::engine::event::{Event, Exit};

use super::cells::Cells;
use super::world::World;

/// Rows.
const JOBS: [&str; 5] = ["mount", "unmount", "module", "unless", "exec, undo"];

/// Columns. Who is given up is there still although it was killed.
const ENDS: [&str; 5] = ["well", "fails", "late: killed", "unwanted: killed", "given up"];

fn row(job: Job) -> Option<usize> {
    Some(match job {
        Job::Mount => 0,
        Job::Unmount => 1,
        Job::Module => 2,
        Job::Unless => 3,
        // Few are undone.
        Job::Exec | Job::Undo => 4,
        Job::Main | Job::Reload | Job::Stop | Job::AwaitPath => return None,
    })
}

/// What is unmounted is never wanted.
fn possible(job: usize, end: usize) -> bool {
    !(JOBS[job] == "unmount" && ENDS[end] == "unwanted: killed")
}

/// Counts of visits.
#[derive(Debug, Clone, Default)]
pub struct Helpers {
    cells: Cells<{ ENDS.len() }, { JOBS.len() }>,
    given_up: BTreeSet<u64>,
}

impl Helpers {
    fn visit(&mut self, job: Job, end: usize) {
        if let Some(row) = row(job) {
            self.cells.visit(row, end);
        }
    }

    /// Before a step: who has ended.
    pub fn before(&mut self, engine: &Engine, event: &Event) {
        if let Event::Exited { serial, exit } = event
            && let Some((_, job)) = engine.job(*serial)
        {
            // 5: the module was loaded already.
            let well = *exit == Exit::Code(0) || (job == Job::Module && *exit == Exit::Code(5));
            self.visit(job, usize::from(!well));
        }
    }

    /// After a step: who is killed, and who is not waited for any more.
    pub fn after(&mut self, engine: &Engine, world: &World, event: &Event, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Kill { serial } = effect
                && let Some((_, job)) = engine.job(*serial)
            {
                self.visit(job, if *event == Event::Tick { 2 } else { 3 });
            }
        }
        let left = world.procs.iter().filter(|(s, p)| p.main && engine.job(**s).is_none());
        let left: Vec<(u64, Job)> = left.map(|(serial, p)| (*serial, p.job)).collect();
        for (serial, job) in left {
            if *event == Event::Tick && self.given_up.insert(serial) {
                self.visit(job, 4);
            }
        }
    }

    /// Adds the visits of another history.
    pub fn add(&mut self, other: &Helpers) {
        self.cells.add(&other.cells);
    }

    /// (visited, possible).
    pub fn counts(&self) -> (usize, usize) {
        self.cells.counts(possible)
    }
}

impl fmt::Display for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells.draw(f, (&JOBS, &ENDS), 18, possible)
    }
}
