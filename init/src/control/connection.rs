//! One client: bytes in, calls out, replies in, bytes out. Pure but for the descriptor it may hold.
//!
//! Calls are answered one after the other, as Varlink asks: while one is under way, further ones stay in the
//! input buffer, whose bound is that of one frame.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::output;
use super::request::{Asked, Request};
use super::wire::{self, Frames};

/// While more than this many bytes wait to be read, further events are missed.
pub const MAX_PENDING: usize = 256 << 10;
/// The same for the progress of a change: only who is privileged can ask for one, and it comes in bursts of our
/// own making, one line a unit.
pub const MAX_PENDING_CHANGE: usize = 2 << 20;
/// Who has missed this many messages and has read nothing all the while is dropped.
pub const MAX_MISSED: u32 = 20_000;
/// Most diagnostics in one reply: who has more mistakes than that starts with these.
const MAX_DIAGNOSTICS: usize = 200;

/// What another init has to know of a connection to go on with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConnectionRecord {
    peer: Peer,
    input: Vec<u8>,
    output: Vec<u8>,
    under_way: Option<UnderWay>,
    closing: bool,
    missed: u32,
    unread: u32,
}

/// Who is at the other end, as the kernel says (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its pid in our namespace; 0 when it is outside.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Whether it may change things.
    pub privileged: bool,
}

/// What is to be sent, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Bytes that were not sent yet.
    pub fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// The first `count` of them are sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            // An idle client shall cost nothing.
            *self = Outbox::default();
        } else if self.sent > MAX_PENDING / 4 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Where replies are appended.
    fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    frames: Frames,
    descriptor: Option<OwnedFd>,
    /// What is to be sent.
    pub outbox: Outbox,
    under_way: Option<UnderWay>,
    closing: bool,
    /// Messages that were left out since the last reply that says so.
    missed: u32,
    /// Messages that were left out since the client has read anything.
    unread: u32,
}

/// How the call under way wants to be answered.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct UnderWay {
    more: bool,
    oneway: bool,
}

impl Connection {
    /// A new client.
    pub fn new(peer: Peer) -> Connection {
        Connection {
            peer,
            frames: Frames::default(),
            descriptor: None,
            outbox: Outbox::default(),
            under_way: None,
            closing: false,
            missed: 0,
            unread: 0,
        }
    }

    /// Everything but descriptors.
    pub fn record(&self) -> ConnectionRecord {
        ConnectionRecord {
            peer: self.peer,
            input: self.frames.held().to_vec(),
            output: self.outbox.pending().to_vec(),
            under_way: self.under_way,
            closing: self.closing,
            missed: self.missed,
            unread: self.unread,
        }
    }

    /// A connection that an earlier init had, with the descriptor that had come for a call which is not complete.
    pub fn adopted(record: ConnectionRecord, descriptor: Option<OwnedFd>) -> Connection {
        let ConnectionRecord { peer, input, output, under_way, closing, missed, unread } = record;
        let mut frames = Frames::default();
        // It was no longer than may be held.
        let _ = frames.feed(&input);
        let outbox = Outbox { bytes: output, sent: 0 };
        Connection { peer, frames, descriptor, outbox, under_way, closing, missed, unread }
    }

    /// The descriptor that waits for its call.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Whether a call has begun to come and is not complete, and nothing else is going on.
    pub fn has_half(&self) -> bool {
        self.under_way.is_none() && !self.closing && self.frames.is_half()
    }

    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// How many bytes [`Connection::feed`] takes now. With none the client has sent more than it may while a
    /// call is under way.
    pub fn room(&self) -> usize {
        self.frames.room()
    }

    /// Takes what came from the socket. Of descriptors only the last is kept, until a call takes it.
    pub fn feed(&mut self, bytes: &[u8], descriptor: Option<OwnedFd>) {
        if self.closing {
            return;
        }
        if descriptor.is_some() {
            self.descriptor = descriptor;
        }
        if let Err(e) = self.frames.feed(bytes) {
            self.refuse(&Failure::InvalidFrame { text: e.to_string() });
        }
    }

    /// The next call, unless one is under way. Calls that are wrong or not permitted are answered in here.
    pub fn next_call(&mut self) -> Option<Asked> {
        while self.under_way.is_none() && !self.closing {
            let Some(frame) = self.frames.next_frame() else {
                if self.frames.room() == 0 {
                    let text = wire::TooLong.to_string();
                    self.refuse(&Failure::InvalidFrame { text });
                }
                return None;
            };
            match Request::parse(&frame) {
                Ok(asked) => {
                    self.under_way = Some(UnderWay { more: asked.more, oneway: asked.oneway });
                    match asked.request.changes() {
                        Some(what) if !self.peer.privileged => {
                            self.fail(&Failure::PermissionDenied { what: what.to_owned() });
                        }
                        _ => return Some(asked),
                    }
                }
                Err(failure @ Failure::InvalidFrame { .. }) => self.refuse(&failure),
                Err(failure) => self.put(|out| wire::failure(out, &failure)),
            }
        }
        None
    }

    /// The descriptor that came with the call.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Whether a call is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether the call under way takes more than one reply.
    pub fn takes_more(&self) -> bool {
        self.under_way.is_some_and(|u| u.more)
    }

    /// Whether the socket is to be closed as soon as the outbox is empty.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the client does not read at all.
    pub fn is_stuck(&self) -> bool {
        self.unread > MAX_MISSED
    }

    /// `count` bytes were sent.
    pub fn sent(&mut self, count: usize) {
        self.unread = 0;
        self.outbox.sent(count);
    }

    /// How many messages were left out, once there is room to say so.
    pub fn take_missed(&mut self, room: usize) -> Option<u32> {
        if self.missed == 0 || self.outbox.pending().len() > room {
            return None;
        }
        Some(std::mem::take(&mut self.missed))
    }

    /// One reply of several to the call under way; nothing for a client that takes only one. Left out, and
    /// counted, while more than `limit` bytes wait to be read.
    pub fn stream<P: Serialize>(&mut self, parameters: &P, limit: usize) {
        self.stream_some(parameters, 1, limit);
    }

    /// The same for a reply that has `count` messages in it.
    pub fn stream_some<P: Serialize>(&mut self, parameters: &P, count: u32, limit: usize) {
        if let Some(UnderWay { more: true, oneway: false }) = self.under_way {
            if self.outbox.pending().len() > limit {
                self.missed = self.missed.saturating_add(count);
                self.unread = self.unread.saturating_add(count);
                return;
            }
            self.put(|out| wire::reply(out, parameters, true));
        }
    }

    /// The last reply to the call under way.
    pub fn finish<P: Serialize>(&mut self, parameters: &P) {
        if let Some(UnderWay { oneway: false, .. }) = self.under_way {
            self.put(|out| wire::reply(out, parameters, false));
        }
        self.end();
    }

    /// The call under way could not be done.
    pub fn fail(&mut self, failure: &Failure) {
        if let Some(UnderWay { oneway: false, .. }) = self.under_way {
            match failure {
                Failure::CompileFailed { text, diagnostics } if diagnostics.len() > MAX_DIAGNOSTICS => {
                    let diagnostics = diagnostics.iter().take(MAX_DIAGNOSTICS).cloned().collect();
                    let text = text.clone();
                    self.put(|out| wire::failure(out, &Failure::CompileFailed { text, diagnostics }));
                }
                _ => self.put(|out| wire::failure(out, failure)),
            }
        }
        self.end();
    }

    /// Appends something to what is to be sent, as far as this client may read it.
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let out = self.outbox.end();
        let from = out.len();
        write(out);
        output::settle(out, from, self.peer.privileged);
    }

    fn end(&mut self) {
        self.missed = 0;
        self.under_way = None;
        self.descriptor = None;
    }

    /// Says why, and closes.
    fn refuse(&mut self, failure: &Failure) {
        self.put(|out| wire::failure(out, failure));
        self.closing = true;
        self.frames = Frames::default();
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::request::Empty;
    use proptest::prelude::*;

    fn client(privileged: bool) -> Connection {
        Connection::new(Peer { pid: 1, uid: 1000, gid: 1000, privileged })
    }

    fn said(c: &Connection) -> String {
        String::from_utf8_lossy(c.outbox.pending()).replace('\0', "\n")
    }

    #[test]
    fn calls_are_answered_one_after_the_other() {
        let mut c = client(true);
        let mut bytes = Request::Info(Empty {}).frame(false);
        bytes.extend(Request::Reexec(Empty {}).frame(false));
        c.feed(&bytes, None);
        assert!(matches!(c.next_call().unwrap().request, Request::Info(_)));
        assert!(c.next_call().is_none());
        c.stream(&Empty {}, MAX_PENDING);
        assert_eq!(said(&c), "", "the client takes one reply only");
        c.finish(&Empty {});
        assert!(matches!(c.next_call().unwrap().request, Request::Reexec(_)));
        assert_eq!(said(&c), "{\"parameters\":{}}\n");
    }

    #[test]
    fn who_may_not_change_may_read() {
        let mut c = client(false);
        let mut bytes = Request::Reexec(Empty {}).frame(false);
        bytes.extend(Request::Info(Empty {}).frame(false));
        c.feed(&bytes, None);
        assert!(matches!(c.next_call().unwrap().request, Request::Info(_)));
        expect_test::expect![[r#"
            {"error":"io.holdfast.PermissionDenied","parameters":{"what":"re-execute init"}}
        "#]]
        .assert_eq(&said(&c));
    }

    #[test]
    fn what_a_command_has_printed_is_for_who_may_read_logs() {
        for (privileged, cause) in [(true, "exit code 3: token=1"), (false, "exit code 3")] {
            let mut c = client(privileged);
            c.feed(&Request::Info(Empty {}).frame(false), None);
            assert!(c.next_call().is_some());
            c.finish(&serde_json::json!({ "cause": "exit code 3: \u{1f}token=1" }));
            assert_eq!(said(&c), format!("{{\"parameters\":{{\"cause\":\"{cause}\"}}}}\n"));
        }
    }

    #[test]
    fn a_wrong_call_leaves_the_connection_and_garbage_ends_it() {
        let mut c = client(true);
        c.feed(b"{\"method\":\"io.holdfast.Nothing\"}\0", None);
        assert!(c.next_call().is_none());
        assert!(!c.is_closing());
        c.feed(b"\xff\xfe\0more", None);
        assert!(c.next_call().is_none());
        assert!(c.is_closing());
        c.feed(&[b'x'; 1000], None);
        assert_eq!(c.room(), wire::MAX_FRAME + 1);
        expect_test::expect![[r#"
            {"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.holdfast.Nothing"}}
            {"error":"io.holdfast.InvalidFrame","parameters":{"text":"expected value at line 1 column 1"}}
        "#]]
        .assert_eq(&said(&c));
    }

    #[test]
    fn a_frame_without_an_end_is_refused_at_its_bound() {
        let mut c = client(true);
        let mut fed = 0;
        while !c.is_closing() && fed < 10 * wire::MAX_FRAME {
            c.feed(&[b'x'; 4096], None);
            fed += 4096;
            assert!(c.next_call().is_none());
        }
        assert!(c.is_closing());
        assert!(fed <= wire::MAX_FRAME + 4096);
        assert!(said(&c).contains("longer than 65536 bytes"));
    }

    #[test]
    fn oneway_gets_no_reply() {
        let mut c = client(false);
        c.feed(b"{\"method\":\"io.holdfast.Reexec\",\"oneway\":true}\0", None);
        assert!(c.next_call().is_none());
        assert_eq!(said(&c), "");
    }

    proptest! {
        /// Whatever comes, in whatever pieces: no panic, and the bounds hold.
        #[test]
        fn any_bytes_are_survived(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..50)) {
            let mut c = client(true);
            for chunk in chunks {
                c.feed(&chunk, None);
                while c.next_call().is_some() {
                    c.finish(&Empty {});
                }
                prop_assert!(c.room() <= wire::MAX_FRAME + 1);
            }
        }
    }
}
