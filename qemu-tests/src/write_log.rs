//! A disk of QEMU's whose every write and flush is written down, and what it would hold had the power gone.
//!
//! QEMU's driver `blklogwrites` writes the log, in the form of the kernel's dm-log-writes: a sector that describes the
//! log, then for each request a sector that describes it and the sectors that it wrote. A disk with a cache promises
//! only what was written before a flush that it has answered; whatever came later may be there or not, in any
//! combination.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Result;

/// First number of a log.
const MAGIC: u64 = 0x6a_736677_736872;
/// A request that only asks for what came before to be durable, or also does.
const FLUSH: u64 = 1;
/// Its own data is durable at once.
const FUA: u64 = 2;
/// The sectors need no longer hold anything.
const DISCARD: u64 = 4;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data lies in the log.
    data: u64,
}

/// A log that was read.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    sector: u64,
    entries: Vec<Entry>,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl WriteLog {
    /// Reads a log to its end, also past what its first sector promises.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(path: &Path) -> Result<WriteLog> {
        let mut file = File::open(path)?;
        let mut head = [0; 28];
        file.read_exact(&mut head)?;
        if number(&head, 0) != MAGIC {
            return Err(format!("{} is no log of writes", path.display()).into());
        }
        let sector = head.get(24..).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let sector = u64::from(sector.max(512));
        let length = file.metadata()?.len();
        let mut entries = Vec::new();
        let mut at = sector;
        // An entry that was never written has no flags and no sectors, as a hole reads.
        while at + sector <= length {
            file.seek(SeekFrom::Start(at))?;
            let mut about = [0; 32];
            file.read_exact(&mut about)?;
            let (start, sectors, flags) = (number(&about, 0), number(&about, 8), number(&about, 16));
            if sectors == 0 && flags == 0 {
                break;
            }
            let data = at + sector;
            let carried = if flags & DISCARD == 0 { sectors } else { 0 };
            entries.push(Entry { sector: start, sectors, flags, data });
            at = data + carried * sector;
        }
        Ok(WriteLog { file, sector, entries })
    }

    /// How many requests it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The moments between `from` and `to` right before and right after each flush: between two of them, only what was
    /// promised to nobody changes.
    pub fn moments(&self, from: usize, to: usize) -> Vec<usize> {
        let flushes = (from..to.min(self.len())).filter(|at| self.is_flush(*at));
        let mut out: Vec<usize> = flushes.flat_map(|at| [at, at + 1]).collect();
        out.dedup();
        out
    }

    /// Whether a loss of power right before request `at` finds something that no flush has made durable.
    pub fn unflushed(&self, at: usize) -> bool {
        let since = (0..at).rev().take_while(|n| !self.is_flush(*n));
        since.filter_map(|n| self.entries.get(n)).any(|e| e.flags & FUA == 0)
    }

    fn is_flush(&self, at: usize) -> bool {
        self.entries.get(at).is_some_and(|e| e.flags & FLUSH != 0)
    }

    /// Makes `disk`, which holds what it held when the log began, hold what it would after a loss of power right
    /// before request `at`: what was flushed, and of the rest what `survives` says of each by its place in the log.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn cut(&self, at: usize, disk: &Path, survives: impl Fn(usize) -> bool) -> Result {
        let disk = File::options().write(true).open(disk)?;
        let durable = (0..at).rev().find(|n| self.is_flush(*n));
        for (n, entry) in self.entries.iter().enumerate().take(at) {
            if durable.is_none_or(|d| n > d) && entry.flags & FUA == 0 && !survives(n) {
                continue;
            }
            let length = usize::try_from(entry.sectors * self.sector)?;
            let mut bytes = vec![0; length];
            if entry.flags & DISCARD == 0 {
                self.file.read_exact_at(&mut bytes, entry.data)?;
            }
            disk.write_all_at(&bytes, entry.sector * self.sector)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of requests: sector, flags, and the byte that fills what is written; none carries no data.
    fn log(requests: &[(u64, u64, Option<u8>)]) -> (tempfile::TempDir, WriteLog) {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[24..28].copy_from_slice(&512u32.to_le_bytes());
        for (sector, flags, fill) in requests {
            let about = [*sector, u64::from(fill.is_some() || flags & DISCARD != 0), *flags];
            let start = bytes.len();
            bytes.extend(about.iter().flat_map(|n| n.to_le_bytes()));
            bytes.resize(start + 512, 0);
            bytes.extend(fill.iter().flat_map(|f| [*f; 512]));
        }
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        let read = WriteLog::read(&path).unwrap();
        (here, read)
    }

    fn after(log: &WriteLog, at: usize, survives: bool) -> Vec<u8> {
        after_with(log, at, |_| survives)
    }

    fn after_with(log: &WriteLog, at: usize, survives: impl Fn(usize) -> bool) -> Vec<u8> {
        let disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(disk.path(), [b'-'; 4 * 512]).unwrap();
        log.cut(at, disk.path(), survives).unwrap();
        std::fs::read(disk.path()).unwrap().into_iter().step_by(512).collect()
    }

    /// What a change of contents writes: those, then the mark that they are whole.
    fn a_change(barrier: bool) -> Vec<(u64, u64, Option<u8>)> {
        let contents = [(1, 0, Some(b'x')), (2, 0, Some(b'y'))];
        let flush = barrier.then_some((0, FLUSH, None));
        contents.into_iter().chain(flush).chain([(0, 0, Some(b'M')), (0, FLUSH, None)]).collect()
    }

    /// Cuts at every moment, with every way in which unflushed writes can be there, that leave the mark without the contents.
    fn broken(requests: &[(u64, u64, Option<u8>)]) -> usize {
        let (_here, log) = log(requests);
        let mut found = 0;
        for at in log.moments(0, log.len()) {
            for there in 0..1u32 << log.len() {
                let disk = after_with(&log, at, |n| there & (1 << n) != 0);
                found += usize::from(disk[0] == b'M' && disk[1..3] != *b"xy");
            }
        }
        found
    }

    /// The scenario that pulls the plug finds what it looks for: a barrier that is missing.
    #[test]
    fn a_missing_barrier_is_found() {
        assert_eq!(broken(&a_change(true)), 0);
        assert!(broken(&a_change(false)) > 0);
    }

    #[test]
    fn only_what_was_flushed_is_there_for_certain() {
        let requests = [
            (0, 0, Some(b'a')),
            (0, FLUSH, None),
            (1, 0, Some(b'b')),
            (2, FUA, Some(b'c')),
            (0, DISCARD, None),
            (0, FLUSH, None),
        ];
        let (here, log) = log(&requests);
        assert_eq!((log.len(), log.moments(0, 9)), (6, vec![1, 2, 5, 6]));
        assert_eq!([0, 1, 2, 3, 5, 6].map(|at| log.unflushed(at)), [false, true, false, true, true, false]);
        assert_eq!(after(&log, 1, false), b"----");
        assert_eq!(after(&log, 1, true), b"a---");
        assert_eq!(after(&log, 2, false), b"a---");
        assert_eq!(after(&log, 5, false), b"a-c-");
        assert_eq!(after(&log, 5, true), b"\0bc-");
        assert_eq!(after(&log, 6, false), b"\0bc-");
        std::fs::write(here.path().join("log"), "no log, though it is long enough for one").unwrap();
        assert!(WriteLog::read(&here.path().join("log")).is_err());
    }
}
