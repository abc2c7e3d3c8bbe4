//! Varlink on the wire: JSON objects that each end with a NUL byte. The control socket, the query service and
//! `initctl` all cut and make their messages here. Pure.

use serde::{Deserialize, Serialize};

/// Largest frame that is accepted, without its NUL.
pub const MAX_FRAME: usize = 64 << 10;

/// A call as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<P> {
    /// Interface and method.
    pub method: String,
    /// The parameters; absent is the same as empty.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<P>,
    /// The client takes more than one reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The client wants no reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oneway: bool,
    /// The client wants to speak another protocol afterwards; never granted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
}

/// `Option::default` without asking that `P` has one.
fn none<P>() -> Option<P> {
    None
}

/// A reply as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<P> {
    /// The error's full name, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The parameters.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<P>,
    /// More replies to the same call follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

/// A message as bytes, with its NUL. A value that JSON cannot say (there is none among our types) becomes an
/// empty object.
pub fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).unwrap_or_else(|_| b"{}".to_vec());
    bytes.push(0);
    bytes
}

/// Appends a reply to `out`.
pub fn reply<P: Serialize>(out: &mut Vec<u8>, parameters: &P, continues: bool) {
    out.extend_from_slice(&frame(&Reply { error: None, parameters: Some(parameters), continues }));
}

/// Appends an error reply to `out`; `name` is its full name.
pub fn error<P: Serialize>(out: &mut Vec<u8>, name: &str, parameters: &P) {
    let reply = Reply { error: Some(name.to_owned()), parameters: Some(parameters), continues: false };
    out.extend_from_slice(&frame(&reply));
}

/// More than [`MAX_FRAME`] bytes without a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message is longer than {MAX_FRAME} bytes")]
pub struct TooLong;

/// Cuts a stream of bytes into frames. Holds at most one frame that is not complete, and what was fed behind
/// complete ones.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Where the first frame that was not taken yet starts.
    start: usize,
    /// Up to here there is no NUL after `start`.
    scanned: usize,
}

impl Frames {
    /// Adds what came from the stream.
    ///
    /// # Errors
    /// [`TooLong`] when more than a frame and its NUL would be waiting; the bytes are not taken.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.len().saturating_add(bytes.len()) > MAX_FRAME + 1 {
            return Err(TooLong);
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned = self.scanned.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes that are held.
    pub fn len(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    /// What is held, from the first frame that was not taken.
    pub fn held(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Whether the beginning of a frame is held and nothing else, as far as was looked.
    pub fn is_half(&self) -> bool {
        !self.is_empty() && self.scanned >= self.buffer.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes [`Frames::feed`] takes now.
    pub fn room(&self) -> usize {
        (MAX_FRAME + 1).saturating_sub(self.len())
    }

    /// The next complete frame, without its NUL.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        let from = self.scanned.max(self.start);
        let Some(at) = self.buffer.get(from..)?.iter().position(|b| *b == 0) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = from.saturating_add(at);
        let frame = self.buffer.get(self.start..end)?.to_vec();
        self.start = end.saturating_add(1);
        self.scanned = self.start;
        if self.is_empty() {
            // An idle client shall cost nothing.
            *self = Frames::default();
        }
        Some(frame)
    }
}

/// RFC 4648 with padding: how bytes travel in JSON. Pieces of a multiple of three bytes can be joined.
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or_default());
        let group = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let index = usize::try_from((group >> shift) & 63).unwrap_or_default();
            let letter = LETTERS.get(index).filter(|_| i <= chunk.len()).copied().unwrap_or(b'=');
            out.push(char::from(letter));
        }
    }
    out
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The bytes that [`base64`] says; `None` where a text is not its output.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut ended = false;
    for chunk in text.as_bytes().chunks(4) {
        let padding = chunk.iter().rev().take_while(|b| **b == b'=').count();
        if chunk.len() != 4 || padding > 2 || ended {
            return None;
        }
        ended = padding > 0;
        let mut group: u32 = 0;
        for letter in chunk {
            let value = match letter {
                b'=' => 0,
                other => LETTERS.iter().position(|l| l == other)?,
            };
            group = (group << 6) | u32::try_from(value).ok()?;
        }
        if chunk.iter().take(4 - padding).any(|b| *b == b'=') {
            return None;
        }
        let bytes = group.to_be_bytes();
        out.extend_from_slice(bytes.get(1..4 - padding)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&base64(&all)), Some(all));
        for text in ["Z", "Zg=", "Zg==Zg==", "Z===", "Z=g=", "Zm9\n"] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }

    #[test]
    fn cuts_at_nul_however_the_bytes_arrive() {
        let stream = b"one\0two\0\0three";
        for chunk in 1..stream.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for part in stream.chunks(chunk) {
                frames.feed(part).unwrap();
                while let Some(f) = frames.next_frame() {
                    got.push(f);
                }
            }
            assert_eq!(got, [&b"one"[..], b"two", b""]);
            assert_eq!(frames.len(), 5);
        }
    }

    #[test]
    fn holds_at_most_one_frame() {
        let mut frames = Frames::default();
        frames.feed(&vec![b'x'; MAX_FRAME]).unwrap();
        assert_eq!(frames.next_frame(), None);
        assert_eq!(frames.feed(b"xx"), Err(TooLong));
        frames.feed(b"\0").unwrap();
        assert_eq!(frames.next_frame().map(|f| f.len()), Some(MAX_FRAME));
        assert_eq!(frames.room(), MAX_FRAME + 1);
    }

    #[test]
    fn absent_members_are_their_defaults() {
        let call: Call<serde_json::Value> = serde_json::from_str(r#"{"method":"a.B"}"#).unwrap();
        assert!(!call.more && !call.oneway && call.parameters.is_none());
        let mut out = Vec::new();
        reply(&mut out, &serde_json::json!({"a": 1}), true);
        assert_eq!(out, b"{\"parameters\":{\"a\":1},\"continues\":true}\0");
    }
}
