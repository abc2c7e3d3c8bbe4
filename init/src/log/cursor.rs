//! Reading logs: a position in one unit's files, and the merge of several by time.
//!
//! A follower needs no copy of what is written: it reads on in the files, so that a slow one costs no memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file;
use super::lines::MAX_LINE;

/// Bytes read at a time. More than the longest line with its stamp.
const BLOCK: usize = MAX_LINE + 1024;

/// A position in the files of one unit.
#[derive(Debug)]
struct Cursor {
    unit: String,
    directory: PathBuf,
    open: Option<(File, u64)>,
    inode: u64,
    buffer: Vec<u8>,
    start: usize,
}

impl Cursor {
    fn new(unit: String, directory: PathBuf) -> Cursor {
        Cursor { unit, directory, open: None, inode: 0, buffer: Vec::new(), start: 0 }
    }

    /// Goes to the start of the last `count` lines, or of all; returns how many lines that leaves to read, if
    /// they were counted.
    fn seek(&mut self, count: Option<u64>) -> io::Result<u64> {
        let files = file::all(&self.directory);
        let Some(count) = count else {
            if let Some(first) = files.first() {
                self.go(first, 0)?;
            }
            return Ok(0);
        };
        let mut missing = count;
        let mut place = None;
        for path in files.iter().rev() {
            if place.is_some() && missing == 0 {
                break;
            }
            let (offset, found) = last_lines(path, missing)?;
            missing -= found;
            place = Some((path, offset));
        }
        if let Some((path, offset)) = place {
            self.go(path, offset)?;
        }
        Ok(count - missing)
    }

    fn go(&mut self, path: &Path, offset: u64) -> io::Result<()> {
        let file = File::open(path)?;
        self.inode = file.metadata()?.ino();
        self.open = Some((file, offset));
        Ok(())
    }

    /// The file after this one: `None` while this is the one being written.
    fn next_file(&self) -> Option<PathBuf> {
        let files = file::all(&self.directory);
        let inode = |p: &PathBuf| std::fs::metadata(p).map(|m| m.ino()).unwrap_or_default();
        match files.iter().position(|p| inode(p) == self.inode) {
            Some(at) => files.get(at + 1).cloned(),
            // Removed while it was read, or none read yet: what is oldest now comes next.
            None => files.first().cloned(),
        }
    }

    /// The next whole line; `None` when there is none for now.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|b| *b == b'\n') {
                let line = rest.get(..at).unwrap_or_default().to_vec();
                self.start += at + 1;
                return Ok(Some(line));
            }
            // Longer than any line of ours: somebody else wrote it. It is given out in parts.
            if rest.len() >= BLOCK {
                let line = rest.to_vec();
                self.start = self.buffer.len();
                return Ok(Some(line));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if !self.read()? {
                match self.next_file() {
                    Some(next) => {
                        self.buffer.clear();
                        self.go(&next, 0)?;
                    }
                    None => return Ok(None),
                }
            }
        }
    }

    fn read(&mut self) -> io::Result<bool> {
        let Some((file, offset)) = &mut self.open else { return Ok(false) };
        let used = self.buffer.len();
        self.buffer.resize(used + BLOCK, 0);
        let count = file.read_at(self.buffer.get_mut(used..).unwrap_or_default(), *offset)?;
        self.buffer.truncate(used + count);
        *offset += u64::try_from(count).unwrap_or_default();
        Ok(count > 0)
    }
}

/// Where the last `count` lines of a file start, and how many there are.
fn last_lines(path: &Path, count: u64) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if count == 0 {
        return Ok((size, 0));
    }
    let (mut end, mut found) = (size, 0);
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(u64::try_from(block.len()).unwrap_or_default());
        let length = usize::try_from(end - start).unwrap_or_default();
        let part = block.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, start)?;
        for (i, _) in part.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = start + u64::try_from(i).unwrap_or_default() + 1;
            // The line feed at the very end closes the last line, it starts none.
            if after == size {
                continue;
            }
            found += 1;
            if found == count {
                return Ok((after, found));
            }
        }
        end = start;
    }
    Ok((0, if size > 0 { found + 1 } else { 0 }))
}

/// A line on its way out; ordered by time, then unit.
type Head = (Vec<u8>, usize);

/// The lines of one or more units, merged by their time stamps.
#[derive(Debug)]
pub struct Reader {
    cursors: Vec<Cursor>,
    heads: BinaryHeap<Reverse<Head>>,
    /// Cursors without a head: at their end for now.
    waiting: Vec<usize>,
    skip: u64,
}

impl Reader {
    /// The last `count` lines (or all) of these units: (unit, directory).
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new(units: Vec<(String, PathBuf)>, count: Option<u64>) -> io::Result<Reader> {
        let mut cursors = Vec::new();
        let mut total = 0_u64;
        for (unit, directory) in units {
            let mut cursor = Cursor::new(unit, directory);
            total += cursor.seek(count)?;
            cursors.push(cursor);
        }
        let waiting = (0..cursors.len()).collect();
        let skip = count.map(|c| total.saturating_sub(c)).unwrap_or_default();
        Ok(Reader { cursors, heads: BinaryHeap::new(), waiting, skip })
    }

    /// Adds a unit that had no logs before.
    pub fn add(&mut self, unit: String, directory: PathBuf) {
        if !self.cursors.iter().any(|c| c.unit == unit) {
            self.waiting.push(self.cursors.len());
            self.cursors.push(Cursor::new(unit, directory));
        }
    }

    /// Whether it reads this unit.
    pub fn has(&self, unit: &str) -> bool {
        self.cursors.iter().any(|c| c.unit == unit)
    }

    /// The next line: its unit and its bytes, stamp included. `None` at the end for now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn line(&mut self) -> io::Result<Option<(&str, Vec<u8>)>> {
        loop {
            let mut still = Vec::new();
            for index in std::mem::take(&mut self.waiting) {
                match self.cursors.get_mut(index).map(Cursor::line).transpose()?.flatten() {
                    Some(line) => self.heads.push(Reverse((line, index))),
                    None => still.push(index),
                }
            }
            self.waiting = still;
            let Some(Reverse((line, index))) = self.heads.pop() else { return Ok(None) };
            self.waiting.push(index);
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            return Ok(self.cursors.get(index).map(|c| (c.unit.as_str(), line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(reader: &mut Reader) -> Vec<String> {
        let mut out = Vec::new();
        while let Some((unit, line)) = reader.line().unwrap() {
            out.push(format!("{unit}:{}", String::from_utf8(line).unwrap()));
        }
        out
    }

    #[test]
    fn reads_through_rotations_and_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u");
        let mut log = file::LogFile::new(path.clone(), None, 3, 9);
        for n in 1..=5 {
            log.room().unwrap();
            log.append(format!("{n}\n").as_bytes()).unwrap();
        }
        let mut reader = Reader::new(vec![("u".into(), path.clone())], None).unwrap();
        assert_eq!(collect(&mut reader), ["u:1", "u:2", "u:3", "u:4", "u:5"]);
        for n in 6..=9 {
            log.room().unwrap();
            log.append(format!("{n}\n").as_bytes()).unwrap();
        }
        assert_eq!(collect(&mut reader), ["u:6", "u:7", "u:8", "u:9"]);
        for (count, want) in [(0, 0), (1, 1), (4, 4), (9, 9), (100, 9)] {
            let mut reader = Reader::new(vec![("u".into(), path.clone())], Some(count)).unwrap();
            let lines = collect(&mut reader);
            assert_eq!(lines.len(), want, "{count}");
            assert!(lines.is_empty() || lines.last().unwrap() == "u:9");
        }
        let mut empty = Reader::new(Vec::new(), Some(3)).unwrap();
        assert_eq!(collect(&mut empty), Vec::<String>::new());
        empty.add("u".into(), path);
        assert_eq!(collect(&mut empty).len(), 9);
    }

    #[test]
    fn merges_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut log_a = file::LogFile::new(a.clone(), None, 0, 1);
        let mut log_b = file::LogFile::new(b.clone(), None, 0, 1);
        log_a.append(b"1 x\n3 x\n5 x\n").unwrap();
        log_b.append(b"2 y\n4 y\n").unwrap();
        let both = vec![("a".to_owned(), a), ("b".to_owned(), b)];
        let mut reader = Reader::new(both.clone(), None).unwrap();
        assert_eq!(collect(&mut reader), ["a:1 x", "b:2 y", "a:3 x", "b:4 y", "a:5 x"]);
        let mut reader = Reader::new(both, Some(2)).unwrap();
        assert_eq!(collect(&mut reader), ["b:4 y", "a:5 x"]);
    }

    #[test]
    fn foreign_lines_without_end_come_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file::CURRENT), vec![b'x'; BLOCK * 2]).unwrap();
        let mut reader = Reader::new(vec![("u".into(), dir.path().to_owned())], None).unwrap();
        assert_eq!(collect(&mut reader).len(), 2);
    }
}
