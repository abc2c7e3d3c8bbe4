//! Processes of the simulated world: how they start, what they say, and how they end.

use super::*;

impl World {
    pub(super) fn spawn(&mut self, now: Mono, serial: u64, manifest: ManifestRef, unit: UnitId, job: Job) {
        let slot = self.slot(manifest, unit);
        let service = match self.spec(manifest, unit) {
            Some(Spec::Service(s)) => Some(s),
            _ => None,
        };
        let mut dice = self.fate(slot, purpose(job));
        let proc = Proc {
            slot,
            job,
            manifest,
            unit,
            main: false,
            children: false,
            ready: false,
            frozen: false,
            waits: false,
            ends_later: None,
            signal: None,
            says_later: false,
            stubborn: self.can(fault::STUBBORN) && dice.chance(100),
            unkillable: self.can(fault::STUBBORN) && dice.chance(if job == Job::Main { 20 } else { 300 }),
            silent: self.can(fault::WATCHDOG) && dice.chance(300),
            exit_told: false,
            empty_told: false,
            watchdog: service.as_ref().map_or(0, |s| s.watchdog),
            by: service.map(|s| s.ready.clone()),
        };
        self.procs.insert(serial, proc);
        let deed = self.deeds.entry(slot).or_default();
        match job {
            Job::Main => deed.started += 1,
            Job::Reload => deed.reloaded += 1,
            Job::Exec => deed.ran += 1,
            _ => {}
        }
        let start = dice.below(2_000);
        if self.can(fault::SPAWN) && dice.chance(60) {
            let errno = dice.pick(&[2, 13, 11, 12]);
            self.soon(now, start, Happening::CannotRun(serial, errno));
            return;
        }
        self.soon(now, start, Happening::Runs(serial));
        match job {
            Job::Main => self.live(now, serial, start, &mut dice),
            _ => self.help(now, serial, start, job, &mut dice),
        }
    }

    /// The life of a service's main process.
    pub(super) fn live(&mut self, now: Mono, serial: u64, start: u64, dice: &mut Dice) {
        let by = self.procs.get(&serial).and_then(|p| p.by.clone());
        let at = start + 1 + dice.delay();
        let unready = self.can(fault::READY) && dice.chance(80);
        let late = if self.can(fault::READY) && dice.chance(80) { 600_000 } else { 0 };
        match by {
            Some(Ready::Notify | Ready::Fd(_)) if !unready => {
                self.soon(now, at + late, Happening::SaysReady(serial));
                if self.can(fault::READY) && dice.chance(100) {
                    self.soon(now, at + late + dice.delay(), Happening::SaysReady(serial));
                }
            }
            Some(Ready::Forked | Ready::Exited) if !unready => {
                let code = if self.can(fault::CRASH) && dice.chance(150) { 1 } else { 0 };
                self.soon(now, at + late, Happening::Ends(serial, code));
            }
            _ => {}
        }
        if self.can(fault::CRASH) && dice.chance(250) {
            let end = dice.pick(&[-11, -6, 1, 0]);
            let after = match dice.below(3) {
                0 => dice.delay(),
                1 => dice.below(2_000_000),
                _ => dice.below(20_000_000),
            };
            self.soon(now, start + 1 + after, Happening::Ends(serial, end));
            self.soon(now, start + 1 + after, Happening::ChildrenEnd(serial));
        }
        if self.can(fault::RELOAD) && dice.chance(60) && by == Some(Ready::Notify) {
            let after = at + dice.below(2_000_000);
            self.soon(now, after, Happening::SaysReloading(serial));
            if dice.chance(700) {
                self.soon(now, after + 1 + dice.below(2_000_000), Happening::SaysReady(serial));
            }
            if dice.chance(500) {
                self.soon(now, after + 1, Happening::SaysReloading(serial));
            }
        }
        if let Some(every) = self.procs.get(&serial).map(|p| p.watchdog).filter(|w| *w > 0) {
            let first = if self.can(fault::WATCHDOG) { at } else { at.min(start + every * 500) };
            self.soon(now, first, Happening::Pings(serial));
        }
    }

    /// The life of any other process.
    pub(super) fn help(&mut self, now: Mono, serial: u64, start: u64, job: Job, dice: &mut Dice) {
        let at = start + 1 + dice.delay();
        let can = if job == Job::Reload { fault::RELOAD } else { fault::HELPER };
        let fails = self.can(can) && dice.chance(120);
        let hangs = self.can(can) && dice.chance(60);
        let code = match job {
            Job::Unless => i32::from(dice.chance(500)),
            _ if fails => dice.pick(&[1, 32, -9]),
            _ => 0,
        };
        if hangs {
            return;
        }
        // Long enough that something may happen meanwhile.
        let slow = job == Job::Reload && self.can(fault::RELOAD) && dice.chance(500);
        let at = if slow { at + dice.below(2_500_000) } else { at };
        let code = match job {
            Job::Unmount if code == 0 && !self.is_mounted(serial) => 3,
            Job::Module if code == 0 && self.is_loaded(serial) => 5,
            _ => code,
        };
        if job == Job::Mount && self.can(fault::HELPER) && dice.chance(250) {
            let comes = at + 1 + dice.below(60_000_000);
            self.soon(now, at, Happening::Waits(serial, true));
            self.soon(now, comes, Happening::Waits(serial, false));
            return self.soon(now, comes + dice.delay(), Happening::Ends(serial, code));
        }
        self.soon(now, at, Happening::Ends(serial, code));
    }

    pub(super) fn waits(&mut self, serial: u64, late: bool) -> Option<Told> {
        let proc = self.procs.get_mut(&serial).filter(|p| p.main)?;
        proc.waits = late;
        Some(Told::Waits(serial, late))
    }

    pub(super) fn runs(&mut self, now: Mono, serial: u64) -> Option<Told> {
        let proc = self.procs.get_mut(&serial)?;
        if proc.exit_told || proc.main {
            return None;
        }
        proc.main = true;
        proc.ready = proc.by == Some(Ready::Started);
        if let Some(signal) = proc.signal.take().filter(|_| !proc.frozen) {
            self.signal(now, serial, signal);
        }
        Some(Told::Spawned(serial))
    }

    pub(super) fn ends(&mut self, now: Mono, serial: u64, end: i32) {
        let Some(proc) = self.procs.get(&serial) else { return };
        if !proc.main {
            // Killed before it ran: as the kernel has it, the child ends on its way to the program.
            let starting = self.pending.values().any(|h| *h == Happening::Runs(serial));
            if starting && end < 0 {
                self.soon(now, 2_500, Happening::Ends(serial, end));
                self.soon(now, 2_500, Happening::ChildrenEnd(serial));
            }
            return;
        }
        if proc.frozen && end != -9 {
            // What is frozen ends when it thaws.
            if let Some(proc) = self.procs.get_mut(&serial) {
                proc.ends_later = Some(end);
            }
            return;
        }
        let (slot, job) = (proc.slot, proc.job);
        let forked = matches!(proc.by, Some(Ready::Forked)) && end == 0 && job == Job::Main;
        let mut dice = self.fate(slot, 25);
        let leaves = job == Job::Main && self.can(fault::CHILDREN) && dice.chance(150) && end != -9;
        let daemon = forked && (self.kind || !(self.can(fault::CRASH) && dice.chance(100)));
        if let Some(proc) = self.procs.get_mut(&serial) {
            proc.main = false;
            proc.children |= leaves || daemon;
            proc.ready |= end == 0 && matches!(proc.by, Some(Ready::Forked | Ready::Exited));
        }
        match job {
            Job::Mount if end == 0 || (end == -9 && dice.chance(300)) => {
                self.mounts.insert(slot);
                self.soon(now, dice.below(3_000), Happening::Lists(slot, true));
            }
            Job::Unmount if end == 0 || (end == -9 && dice.chance(300)) => {
                if self.mounts.remove(&slot) {
                    self.deeds.entry(slot).or_default().removed += 1;
                }
                self.soon(now, dice.below(3_000), Happening::Lists(slot, false));
            }
            Job::Module if end == 0 && self.modules.insert(slot) => {
                self.deeds.entry(slot).or_default().written += 1;
            }
            Job::Unless if end == 0 => self.deeds.entry(slot).or_default().spared += 1,
            Job::Stop if end == 0 => {
                if let Some(main) = self.main_of(slot) {
                    self.signal(now, main, STOP);
                }
            }
            Job::AwaitPath if end == 0 => {
                // It may be one of an earlier specification whose helper has outlived it.
                if let Some(main) = self.main_of(slot)
                    && let Some(proc) = self.procs.get_mut(&main)
                    && matches!(proc.by, Some(Ready::Path(_)))
                {
                    proc.ready = true;
                }
            }
            _ => {}
        }
        self.soon(now, dice.below(3_000), Happening::EndTold(serial, end));
        if leaves && !daemon && dice.chance(500) {
            self.soon(now, dice.below(3_000_000), Happening::ChildrenEnd(serial));
        }
        self.maybe_empty(now, serial);
    }

    /// The options of a mount are looked at again; somebody may have changed them.
    pub fn compares(&mut self, now: Mono, slot: u8) {
        let mut dice = self.fate(slot, 34);
        let differs = self.can(fault::FOREIGN) && dice.chance(300);
        self.soon(now, dice.below(3_000), Happening::Compares(slot, differs));
    }

    pub(super) fn maybe_empty(&mut self, now: Mono, serial: u64) {
        let Some(proc) = self.procs.get(&serial) else { return };
        if !proc.exists() {
            let slot = proc.slot;
            let after = self.fate(slot, 26).below(3_000);
            self.soon(now, after, Happening::EmptyTold(serial));
        }
    }

    /// Drops a spawn of which nothing exists and everything was told.
    pub(super) fn bury(&mut self, serial: u64) {
        if self.procs.get(&serial).is_some_and(|p| !p.exists() && p.exit_told && p.empty_told) {
            self.procs.remove(&serial);
        }
    }
}
