//! One pipe: from tee(2) to the file, then out of the pipe.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};

use super::file::LogFile;
use super::lines::{self, MAX_LINE};
use super::words::{self, Words};

/// Most bytes of one pipe in one turn: what a pipe of the usual size holds.
const TURN: usize = 64 << 10;
/// Most bytes of one write into a file.
const WRITE: usize = 128 << 10;
/// Room that is kept between two turns.
const ROOM: usize = 4 << 10;
/// First pause after a failed write; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more to do until the pipe says so.
    Idle,
    /// Lines were written, and there may be more.
    Again,
    /// Every writer is gone and everything is written.
    End,
}

/// Room that all streams use in turn.
#[derive(Debug)]
pub struct Scratch {
    reader: OwnedFd,
    writer: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Where last lines are kept.
    pub words: Option<Words>,
}

impl Scratch {
    /// Makes the room.
    ///
    /// # Errors
    /// What pipe2(2) said.
    pub fn new() -> io::Result<Scratch> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // tee(2) copies page references, one a slot: a pipe full of short writes has as many slots as ours.
        let _best_effort = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20));
        Ok(Scratch { reader, writer, input: Vec::new(), output: Vec::new(), words: None })
    }

    /// Copies what is in the pipe without consuming it. `None` when it is empty, `Some(0)` when it has also ended.
    fn copy(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Option<usize>> {
        let copied = loop {
            match tee(pipe, &self.writer, TURN, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(None),
                other => break other?,
            }
        };
        if self.input.len() < copied {
            self.input.resize(copied, 0);
        }
        take(self.reader.as_fd(), &mut self.input, copied)?;
        Ok(Some(copied))
    }

    /// Nothing is to be written for now: a little room is enough for what comes next.
    pub fn rest(&mut self) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.capacity() > ROOM {
                *buffer = Vec::new();
            }
        }
    }

    /// Longest line that this pipe can hold and that can be seen in it. Pipes of a user who has many hold two pages, and
    /// anybody may make one smaller (pipe(7), F_SETPIPE_SZ): whose writer waits for room has to be relieved.
    fn longest(&self, pipe: BorrowedFd<'_>) -> usize {
        let size =
            |fd| fcntl(fd, FcntlArg::F_GETPIPE_SZ).map_or(0, |n| usize::try_from(n).unwrap_or_default());
        // Of the pages of a full pipe every second one may have but a byte: what does not fit behind what is there
        // begins a page. Half of the rest is to spare.
        (size(pipe).min(size(self.reader.as_fd())) / 4).clamp(1024, MAX_LINE)
    }
}

/// What is in a pipe now, which stays there; at most as much as a usual one holds.
pub fn peek(pipe: BorrowedFd<'_>) -> Vec<u8> {
    let Ok(mut scratch) = Scratch::new() else { return Vec::new() };
    match scratch.copy(pipe) {
        Ok(Some(copied)) => scratch.input.get(..copied).unwrap_or_default().to_vec(),
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// Reads exactly `count` bytes, which are there.
fn take(pipe: BorrowedFd<'_>, buffer: &mut [u8], count: usize) -> io::Result<()> {
    let mut done = 0;
    while done < count {
        let room = buffer.get_mut(done..count).ok_or(io::ErrorKind::InvalidInput)?;
        match nix::unistd::read(pipe, room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Where a stream's lines go in this turn.
pub enum Sink<'a> {
    /// Into its files.
    Files,
    /// One call a line.
    Kernel(&'a mut dyn FnMut(&str, &[u8])),
}

/// A log pipe and its files.
#[derive(Debug)]
pub struct Stream {
    /// Whose output it is.
    pub unit: String,
    /// Its files.
    pub file: LogFile,
    /// Every writer is gone.
    pub ended: bool,
    /// What has no line feed is a line now.
    pub flush: bool,
    /// Not before this moment, after a failed write.
    pub retry: Option<Instant>,
    /// The place of its last line in [`Words`], if that is kept.
    pub place: Option<u32>,
    pause: Duration,
    pipe: OwnedFd,
}

impl Stream {
    /// A pipe whose lines go into `file`.
    pub fn new(unit: String, file: LogFile, pipe: OwnedFd) -> Stream {
        Stream { unit, file, ended: false, flush: false, retry: None, place: None, pause: PAUSE, pipe }
    }

    /// Moves what is in the pipe now, at most one turn's worth.
    ///
    /// # Errors
    /// When the file cannot be written; everything not written is still in the pipe.
    pub fn turn(&mut self, scratch: &mut Scratch, sink: &mut Sink<'_>) -> io::Result<Turn> {
        let Some(copied) = scratch.copy(self.pipe.as_fd())? else {
            self.flush = false;
            return Ok(Turn::Idle);
        };
        if copied == 0 {
            return Ok(Turn::End);
        }
        let last = (self.ended || self.flush) && copied < TURN;
        let input = scratch.input.get(..copied).unwrap_or_default();
        let longest =
            if last || input.contains(&b'\n') { MAX_LINE } else { scratch.longest(self.pipe.as_fd()) };
        let consumed = match sink {
            Sink::Files => {
                scratch.output.clear();
                let room = usize::try_from(self.file.room()?).unwrap_or(WRITE).min(WRITE);
                let consumed = lines::stamp(input, &lines::now(), last, longest, room, &mut scratch.output);
                if consumed > 0 {
                    self.file.append(&scratch.output)?;
                }
                consumed
            }
            Sink::Kernel(write) => {
                let mut consumed = 0;
                while let Some((text, length)) =
                    lines::next(input.get(consumed..).unwrap_or_default(), last, longest)
                {
                    write(&self.unit, text);
                    consumed += length;
                }
                consumed
            }
        };
        let written = scratch.input.get(..consumed).unwrap_or_default();
        if let (Some(words), Some(place)) = (&scratch.words, self.place)
            && let Some(line) = words::last_line(written)
        {
            words.put(place, line);
        }
        // ORDER: only now, when it is written: until here a killed daemon leaves everything in the pipe.
        take(self.pipe.as_fd(), &mut scratch.input, consumed)?;
        self.flush &= consumed < copied;
        Ok(if consumed == 0 { Turn::Idle } else { Turn::Again })
    }

    /// Notes a failed write: the next try is after a pause that doubles. `true` when it is the first one.
    pub fn failed(&mut self, now: Instant) -> bool {
        let first = self.retry.is_none();
        self.pause = if first { PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.retry = now.checked_add(self.pause);
        first
    }

    /// Notes a good turn; `true` when the one before had failed.
    pub fn recovered(&mut self) -> bool {
        self.retry.take().is_some()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::log::link::LogPipe;

    /// Writes until the pipe takes no more, then lets the stream have its turns.
    fn filled(size: i32, chunks: &[usize]) -> (usize, String) {
        let dir = tempfile::tempdir().unwrap();
        let LogPipe { reader, writer } = LogPipe::new().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size)).unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut writer = File::from(writer);
        let mut written = 0;
        for chunk in chunks.iter().cycle() {
            match writer.write(&vec![b'x'; *chunk]) {
                Ok(taken) => written += taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        let file = LogFile::new(dir.path().join("service:x"), None, 1 << 20, 1);
        let mut stream = Stream::new("service:x".to_owned(), file, reader);
        let mut scratch = Scratch::new().unwrap();
        while !matches!(stream.turn(&mut scratch, &mut Sink::Files).unwrap(), Turn::Idle) {}
        // There is room now for who waited.
        assert!(writer.write(b"x").is_ok(), "{size} {chunks:?}");
        let text = crate::log::file::all(&dir.path().join("service:x"));
        (written, text.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect())
    }

    #[test]
    fn whatever_a_full_pipe_holds_its_writer_is_relieved() {
        for size in [8192, 16_384, 65_536] {
            for chunks in [&[1, 4096][..], &[7], &[2049], &[100_000]] {
                let (written, text) = filled(size, chunks);
                let arrived = text.matches('x').count();
                assert!(arrived > 0 && arrived <= written, "{size} {chunks:?}: {arrived} of {written}");
                // What is no line yet is less than one could be.
                assert!(written - arrived <= MAX_LINE, "{size} {chunks:?}: {arrived} of {written}");
            }
        }
    }
}
