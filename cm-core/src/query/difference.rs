//! What is there beside what will be, as a unified diff: bounded in size, in time, and without secrets.

use std::io::Read;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use similar::TextDiff;

use crate::store::{Digest, hex};

/// Longest diff in one reply; longer ones are cut.
const MAX_DIFF: usize = 32 << 10;
/// A larger file is told by its size and digest only.
pub const MAX_TEXT: u64 = 1 << 20;
/// After this the difference is taken more coarsely.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a file holds, as far as it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Absent,
    /// Text.
    Text(String),
    /// Bytes that are no text, or too many.
    Opaque {
        /// What they are.
        what: &'static str,
        /// How many.
        size: u64,
        /// Their SHA-256.
        digest: Digest,
    },
    /// It must not be shown.
    Secret,
    /// It could not be read.
    Unreadable(String),
}

impl Body {
    /// Reads a file to its end.
    pub fn read(source: &mut dyn Read) -> Body {
        let mut bytes = Vec::new();
        let limit = MAX_TEXT.saturating_add(1);
        if let Err(e) = source.take(limit).read_to_end(&mut bytes) {
            return Body::Unreadable(e.to_string());
        }
        if bytes.len() as u64 <= MAX_TEXT {
            return Body::of(bytes);
        }
        let mut hash = Sha256::new();
        hash.update(&bytes);
        let mut size = bytes.len() as u64;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(buffer.get(..count).unwrap_or_default());
                    size = size.saturating_add(count as u64);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Body::Unreadable(e.to_string()),
            }
        }
        Body::Opaque { what: "large", size, digest: hash.finalize().into() }
    }

    /// The digest of a file, whatever it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_digest(source: &mut dyn Read) -> std::io::Result<Digest> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(hash.finalize().into()),
                Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Of bytes that are in memory.
    pub fn of(bytes: Vec<u8>) -> Body {
        if bytes.contains(&0) {
            return Body::binary(&bytes);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Body::Text(text),
            Err(e) => Body::binary(e.as_bytes()),
        }
    }

    fn binary(bytes: &[u8]) -> Body {
        Body::Opaque { what: "binary", size: bytes.len() as u64, digest: Sha256::digest(bytes).into() }
    }

    /// As one line, where it cannot be shown as text.
    fn summary(&self) -> Option<String> {
        match self {
            Body::Absent => None,
            Body::Text(text) => Some(format!("text, {} bytes", text.len())),
            Body::Opaque { what, size, digest } => {
                Some(format!("{what}, {size} bytes, sha-256 {}", hex(digest)))
            }
            Body::Secret => Some("secret: not shown".to_owned()),
            Body::Unreadable(why) => Some(format!("unreadable: {why}")),
        }
    }
}

/// A diff that fits into a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The diff; `None` when there is nothing to show.
    pub text: Option<String>,
    /// Whether it is longer than what is there.
    pub cut: bool,
}

impl Difference {
    /// Of lines that are a diff already; nothing for no line.
    pub fn of(mut text: String) -> Difference {
        if text.is_empty() {
            return Difference::default();
        }
        let cut = text.len() > MAX_DIFF;
        if cut {
            let mut end = MAX_DIFF;
            while !text.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            let line = text.get(..end).and_then(|t| t.rfind('\n')).map_or(end, |n| n.saturating_add(1));
            text.truncate(line);
        }
        Difference { text: Some(text), cut }
    }

    /// This one with another behind it.
    #[must_use]
    pub fn and(self, other: Difference) -> Difference {
        let cut = self.cut || other.cut;
        let text = [self.text, other.text].into_iter().flatten().collect::<String>();
        let both = Difference::of(text);
        Difference { cut: cut || both.cut, ..both }
    }
}

/// The difference between two contents under one name.
pub fn between(old: &Body, new: &Body, name: &str) -> Difference {
    if old == new {
        return Difference::default();
    }
    let label = |body: &Body| if *body == Body::Absent { "/dev/null".to_owned() } else { name.to_owned() };
    let (before, after) = (label(old), label(new));
    let empty = String::new();
    let text = |body| match body {
        Body::Absent => Some(empty.clone()),
        Body::Text(text) => Some(text),
        Body::Opaque { .. } | Body::Secret | Body::Unreadable(_) => None,
    };
    if let (Some(old), Some(new)) = (text(old.clone()), text(new.clone())) {
        return Difference::of(unified(&old, &new, &before, &after));
    }
    let mut out = format!("--- {before}\n+++ {after}\n");
    for (sign, body) in [('-', old), ('+', new)] {
        if let Some(line) = body.summary() {
            out.push_str(&format!("{sign}{line}\n"));
        }
    }
    Difference::of(out)
}

/// A unified diff of two texts, as patch(1) takes it; empty when they are the same.
pub fn unified(old: &str, new: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    diff.unified_diff().context_radius(3).header(before, after).to_string()
}

/// The same without lines around the changes.
pub fn bare(old: &str, new: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    diff.unified_diff().context_radius(0).header(before, after).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: Body, new: Body) -> String {
        between(&old, &new, "/etc/x").text.unwrap_or_default()
    }

    #[test]
    fn texts_are_compared_line_by_line() {
        let text = |t: &str| Body::Text(t.to_owned());
        assert_eq!(
            shown(text("a\nb\nc\n"), text("a\nB\nc\n")),
            "--- /etc/x\n+++ /etc/x\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
        );
        assert_eq!(shown(Body::Absent, text("a\n")), "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+a\n");
        assert_eq!(shown(text("a"), text("a")), "");
    }

    #[test]
    fn what_is_no_text_is_told_by_size_and_digest() {
        let shown = shown(Body::of(vec![0, 1]), Body::of(b"ab\n".to_vec()));
        assert!(shown.contains("-binary, 2 bytes, sha-256 b413f47d"), "{shown}");
        assert!(shown.contains("+text, 3 bytes"), "{shown}");
        let mut large = std::io::repeat(b'x').take(MAX_TEXT + 5);
        assert!(
            matches!(Body::read(&mut large), Body::Opaque { what: "large", size, .. } if size == MAX_TEXT + 5)
        );
    }

    #[test]
    fn secrets_are_not_shown_and_long_diffs_are_cut() {
        assert_eq!(shown(Body::Secret, Body::Secret), "",);
        assert_eq!(shown(Body::Absent, Body::Secret), "--- /dev/null\n+++ /etc/x\n+secret: not shown\n");
        let long: String = (0..20_000).map(|n| format!("ä line {n}\n")).collect();
        let cut = between(&Body::Absent, &Body::Text(long), "/x");
        assert!(cut.cut && cut.text.as_ref().unwrap().len() <= MAX_DIFF && cut.text.unwrap().ends_with('\n'));
    }
}
