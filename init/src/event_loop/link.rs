//! One worker as PID 1 sees it: a socket with an outgoing queue, and what it has been asked.
//!
//! Nothing here waits: what the socket does not take stays in the queue until it is writable again.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use cm_core::pack::pack;
use cm_core::proto::{self, ManifestRef, Reply, Request};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::sys::message;

/// Why a worker's words are not understood. It is killed then, and another one started.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("cannot talk to the worker: {0}")]
    Io(#[from] io::Error),
    /// A packet that is no reply.
    #[error("cannot understand the worker: {0}")]
    Packet(#[from] postcard::Error),
    /// Another version of the protocol.
    #[error(
        "cannot work with cm-worker: it speaks protocol {theirs}, this init speaks {ours}; install both from one build"
    )]
    Version {
        /// What it speaks.
        theirs: u32,
        /// What we speak.
        ours: u32,
    },
}

/// What the socket had.
#[derive(Debug)]
pub enum Heard {
    /// A reply with the descriptors beside it.
    Reply(Box<Reply>, Vec<OwnedFd>),
    /// Nothing more for now.
    Nothing,
    /// The worker has closed its end.
    End,
}

/// A request that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Task {
    /// A batch.
    Batch(u64),
    /// A store record.
    Store(u64),
    /// A compile.
    Compile(u64),
    /// Marks of a contested unit.
    Mark(u64),
}

impl Task {
    /// What a request asks for, if it has an answer.
    pub fn of(request: &Request) -> Option<Task> {
        match request {
            Request::Batch { batch, .. } => Some(Task::Batch(*batch)),
            Request::Store { token, .. } => Some(Task::Store(*token)),
            Request::Compile { token, .. } => Some(Task::Compile(*token)),
            Request::Mark { token, .. } => Some(Task::Mark(*token)),
            Request::Hello { .. } | Request::Manifest { .. } | Request::Forget { .. } => None,
        }
    }
}

/// In place of a pid: no process has such a number, so that a signal to it reaches nobody.
pub const REAPED: i32 = i32::MAX;

/// A connected worker.
#[derive(Debug)]
pub struct Link {
    /// Its number: no two workers of one PID 1 share it.
    pub number: u64,
    /// Its pid; [`REAPED`] once it has ended.
    pub pid: i32,
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Vec<Rc<OwnedFd>>)>,
    manifests: BTreeSet<ManifestRef>,
    tasks: BTreeSet<Task>,
    /// What was asked since the worker last said something, while it is the first to be asked it.
    unheard: Vec<(Request, Vec<Rc<OwnedFd>>)>,
    /// It was asked what an earlier worker had ended upon.
    second: bool,
    /// What it was asked, knows or has been sent differs from what the live table says.
    changed: bool,
}

/// A fresh socket pair: ours and the worker's. Ours is not close-on-exec, so that the next PID 1 has it; children
/// close what is not theirs. Both may block: each of our calls says by itself that it must not.
///
/// # Errors
/// What socketpair(2) said.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?)
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link {
    /// It has been reaped: its number may be somebody else's from now on.
    pub fn reaped(&mut self) {
        self.pid = REAPED;
        self.changed = true;
    }

    /// A worker that was just started with the other end of `socket`.
    pub fn new(number: u64, pid: i32, socket: OwnedFd) -> Link {
        let (queue, manifests, tasks) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        Link {
            number,
            pid,
            socket,
            queue,
            manifests,
            tasks,
            unheard: Vec::new(),
            second: false,
            changed: true,
        }
    }

    /// A worker that an earlier PID 1 started.
    pub fn adopted(
        number: u64,
        pid: i32,
        socket: OwnedFd,
        manifests: BTreeSet<ManifestRef>,
        tasks: BTreeSet<Task>,
    ) -> Link {
        Link {
            number,
            pid,
            socket,
            queue: VecDeque::new(),
            manifests,
            tasks,
            unheard: Vec::new(),
            second: true,
            changed: true,
        }
    }

    /// Whether the live table has to be told of anything since the last time.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Queues a request; [`Link::flush`] sends it.
    pub fn ask(&mut self, request: &Request, fds: Vec<Rc<OwnedFd>>) {
        self.changed = true;
        self.tasks.extend(Task::of(request));
        match request {
            Request::Manifest { manifest, .. } => {
                self.manifests.insert(*manifest);
            }
            Request::Forget { manifest } => {
                self.manifests.remove(manifest);
            }
            Request::Hello { .. }
            | Request::Batch { .. }
            | Request::Store { .. }
            | Request::Compile { .. }
            | Request::Mark { .. } => {}
        }
        if let Ok(bytes) = pack(request) {
            if !self.second && !matches!(request, Request::Hello { .. }) {
                self.unheard.push((request.clone(), fds.clone()));
            }
            self.queue.push_back((bytes, fds));
        }
    }

    /// What a worker that has ended was asked and never said a word about: it may have ended, as it does when it
    /// has nothing to do, at the very moment at which it was asked. Nothing when another one was asked it before.
    pub fn take_unheard(&mut self) -> Vec<(Request, Vec<Rc<OwnedFd>>)> {
        std::mem::take(&mut self.unheard)
    }

    /// Asks once more what an earlier worker ended upon. That one knew `manifests`, with their generations and memory:
    /// the questions rest upon them, and this one has never heard of them.
    pub fn succeed(
        &mut self,
        manifests: impl IntoIterator<Item = (ManifestRef, u64, Rc<OwnedFd>)>,
        unheard: Vec<(Request, Vec<Rc<OwnedFd>>)>,
    ) {
        self.second = true;
        for (manifest, generation, fd) in manifests {
            self.ask(&Request::Manifest { manifest, generation }, vec![fd]);
        }
        for (request, fds) in unheard {
            self.ask(&request, fds);
        }
    }

    /// Whether the worker has been told what this number names.
    pub fn knows(&self, manifest: ManifestRef) -> bool {
        self.manifests.contains(&manifest)
    }

    /// Manifests that the worker knows.
    pub fn manifests(&self) -> &BTreeSet<ManifestRef> {
        &self.manifests
    }

    /// What it has been asked and has not answered.
    pub fn tasks(&self) -> &BTreeSet<Task> {
        &self.tasks
    }

    /// Whether everything asked has been handed to the kernel: only then a re-exec loses nothing.
    pub fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while let Some((bytes, fds)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|f| f.as_fd()).collect();
            if !message::send(self.socket.as_fd(), bytes, &borrowed)? {
                return Ok(());
            }
            drop(borrowed);
            self.queue.pop_front();
            self.changed |= self.queue.is_empty();
        }
        Ok(())
    }

    /// The next reply.
    ///
    /// # Errors
    /// When the socket fails, or what came is no reply of this version.
    pub fn hear(&mut self) -> Result<Heard, LinkError> {
        let mut buffer = vec![0; proto::MAX_FRAME];
        let packet = match message::receive(self.socket.as_fd(), &mut buffer) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(Heard::Nothing),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::End),
            Err(e) => return Err(e.into()),
        };
        if packet.length == 0 {
            return Ok(Heard::End);
        }
        let reply: Reply = postcard::from_bytes(buffer.get(..packet.length).unwrap_or_default())?;
        if !matches!(reply, Reply::Hello { .. }) {
            self.unheard.clear();
            self.second = self.second && !self.tasks.is_empty();
        }
        match &reply {
            Reply::Hello { version } if *version != proto::VERSION => {
                return Err(LinkError::Version { theirs: *version, ours: proto::VERSION });
            }
            Reply::BatchDone { batch } => self.changed |= self.tasks.remove(&Task::Batch(*batch)),
            Reply::Stored { token, .. } => self.changed |= self.tasks.remove(&Task::Store(*token)),
            Reply::Compiled { token, .. } => self.changed |= self.tasks.remove(&Task::Compile(*token)),
            Reply::Marked { token, .. } => self.changed |= self.tasks.remove(&Task::Mark(*token)),
            _ => {}
        }
        Ok(Heard::Reply(Box::new(reply), packet.descriptors))
    }
}

/// Splits a batch into packets.
pub fn batch_packets(
    batch: u64,
    generation: u64,
    intent: proto::Intent,
    steps: &[proto::Step],
) -> impl Iterator<Item = Request> {
    let count = steps.len().div_ceil(proto::STEPS_A_PACKET).max(1);
    (0..count).map(move |i| {
        let from = i * proto::STEPS_A_PACKET;
        let to = (from + proto::STEPS_A_PACKET).min(steps.len());
        let steps = steps.get(from..to).unwrap_or_default().to_vec();
        Request::Batch { batch, generation, intent, steps, last: i + 1 == count }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cm_core::proto::{Action, Intent, Step};
    use units::UnitId;

    #[test]
    fn batches_are_split_and_fit_the_frame() {
        let step =
            Step { manifest: ManifestRef(u32::MAX), unit: UnitId(u32::MAX), action: Action::Guard(u64::MAX) };
        let steps = vec![step; proto::STEPS_A_PACKET + 1];
        let packets: Vec<_> = batch_packets(9, 3, Intent::Apply, &steps).collect();
        assert_eq!(packets.len(), 2);
        for packet in &packets {
            assert!(postcard::to_allocvec(packet).unwrap().len() <= proto::MAX_FRAME);
        }
        let last = |p: &Request| matches!(p, Request::Batch { last: true, .. });
        assert_eq!(packets.iter().map(last).collect::<Vec<_>>(), [false, true]);
        assert!(last(&batch_packets(1, 1, Intent::Apply, &[]).next().unwrap()));
    }

    #[test]
    fn a_full_socket_keeps_the_order_and_loses_nothing() {
        let (ours, theirs) = pair().unwrap();
        let mut link = Link::new(1, 1, ours);
        for token in 0..5000 {
            link.ask(&Request::Store { token, op: proto::StoreOp::Open }, Vec::new());
        }
        link.flush().unwrap();
        assert!(!link.is_flushed());
        let mut buffer = vec![0; proto::MAX_FRAME];
        let mut seen = 0;
        while seen < 5000 {
            match message::receive(theirs.as_fd(), &mut buffer).unwrap() {
                Some(p) => {
                    let request: Request = postcard::from_bytes(&buffer[..p.length]).unwrap();
                    assert!(matches!(request, Request::Store { token, .. } if token == seen));
                    seen += 1;
                }
                None => link.flush().unwrap(),
            }
        }
        assert_eq!(link.tasks().len(), 5000);
        let answer = Reply::Stored { token: 3, result: Ok(proto::StoreReply::Recorded) };
        message::send(theirs.as_fd(), &postcard::to_allocvec(&answer).unwrap(), &[]).unwrap();
        assert!(matches!(link.hear().unwrap(), Heard::Reply(..)));
        assert_eq!(link.tasks().len(), 4999);
        drop(theirs);
        assert!(matches!(link.hear().unwrap(), Heard::End));
    }

    /// The batch names its units by a manifest that only the worker before had been told of.
    #[test]
    fn who_takes_over_is_told_the_manifests_first() {
        let memory =
            || Rc::new(nix::sys::memfd::memfd_create(c"m", nix::sys::memfd::MFdFlags::empty()).unwrap());
        let (ours, theirs) = pair().unwrap();
        let mut first = Link::new(1, 1, ours);
        first.ask(&Request::Manifest { manifest: ManifestRef(7), generation: 3 }, vec![memory()]);
        first.ask(&Request::Store { token: 1, op: proto::StoreOp::Open }, Vec::new());
        first.flush().unwrap();
        let answer = Reply::Stored { token: 1, result: Ok(proto::StoreReply::Recorded) };
        message::send(theirs.as_fd(), &postcard::to_allocvec(&answer).unwrap(), &[]).unwrap();
        assert!(matches!(first.hear().unwrap(), Heard::Reply(..)));
        let step = Step { manifest: ManifestRef(7), unit: UnitId(0), action: Action::Converge };
        for packet in batch_packets(2, 3, Intent::Apply, &[step]) {
            first.ask(&packet, Vec::new());
        }

        let (ours, theirs) = pair().unwrap();
        let mut second = Link::new(2, 2, ours);
        let known: Vec<_> = first.manifests().iter().map(|m| (*m, 3, memory())).collect();
        second.succeed(known, first.take_unheard());
        assert!(second.knows(ManifestRef(7)) && second.tasks().contains(&Task::Batch(2)));
        second.flush().unwrap();
        let mut told = Vec::new();
        let mut buffer = vec![0; proto::MAX_FRAME];
        while let Some(packet) = message::receive(theirs.as_fd(), &mut buffer).unwrap() {
            let request: Request = postcard::from_bytes(&buffer[..packet.length]).unwrap();
            told.push((request, packet.descriptors.len()));
        }
        let [(Request::Manifest { manifest, generation: 3 }, 1), (Request::Batch { batch: 2, steps, .. }, 0)] =
            told.as_slice()
        else {
            panic!("{told:?}")
        };
        assert_eq!((*manifest, steps[0].manifest), (ManifestRef(7), ManifestRef(7)));
        assert!(second.take_unheard().is_empty(), "nobody is asked a third time");
    }
}
