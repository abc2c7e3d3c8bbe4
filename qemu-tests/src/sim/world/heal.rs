//! The end of a history: nothing fails any more, and what hung goes on, so that all has to end well.

use super::*;

impl World {
    /// From now on everything works, and what hung goes on.
    pub fn heal(&mut self, now: Mono) {
        self.kind = true;
        self.vandals.clear();
        self.free_all(now);
        let waits = |h: &Happening, serial: u64| match *h {
            Happening::Runs(s) | Happening::CannotRun(s, _) => s == serial,
            _ => false,
        };
        let serials: Vec<u64> = self.procs.keys().copied().collect();
        for serial in serials {
            let starts = self.pending.values().any(|h| waits(h, serial));
            let Some(proc) = self.procs.get_mut(&serial) else { continue };
            proc.unkillable = false;
            proc.stubborn = false;
            proc.silent = false;
            let (job, ready, main, by, watchdog) =
                (proc.job, proc.ready, proc.main, proc.by.clone(), proc.watchdog);
            let after = if starts { 5_000 } else { 100 };
            let ends = self.pending.values().any(|h| matches!(h, Happening::Ends(s, _) if *s == serial));
            match (job, by) {
                (Job::Main, Some(Ready::Notify | Ready::Fd(_))) => {
                    // Said again, in case that it is reloading.
                    self.soon(now, after, Happening::SaysReady(serial));
                }
                (Job::Main, Some(Ready::Forked | Ready::Exited)) if !ready && !ends => {
                    self.soon(now, after, Happening::Ends(serial, 0));
                }
                (Job::Main, _) => {}
                (_, _) if !ends && (main || starts) => {
                    let code = match job {
                        Job::Unmount if !self.is_mounted(serial) => 3,
                        Job::Module if self.is_loaded(serial) => 5,
                        _ => 0,
                    };
                    self.soon(now, after, Happening::Ends(serial, code));
                }
                (_, _) => {}
            }
            let pings = self.pending.values().any(|h| *h == Happening::Pings(serial));
            if job == Job::Main && watchdog > 0 && !pings {
                self.soon(now, after, Happening::Pings(serial));
            }
        }
        let working = self.pending.values().any(hanging::is_work);
        if !working && (self.work.is_some() || !self.records.is_empty()) {
            self.forget_worker();
            self.soon(now, 100, Happening::WorkerDies);
        }
    }
}
