//! What a command has printed, as a part of a reason that is told: only for those who may read its log.
//!
//! A reason has [`MARK`] in front of such a part, up to its end. Whatever leaves init loses the mark, or what follows it.

/// Stands in front of what a command has printed. No such output has it in it: control characters are escaped there.
pub const MARK: char = '\u{1f}';

/// The mark as it stands in JSON.
const ESCAPED: &[u8] = b"\\u001f";

/// A text as those may read it who may read logs.
pub fn whole(text: &str) -> String {
    text.replace(MARK, "")
}

/// A text as everybody may read it.
pub fn without(text: &str) -> &str {
    text.split_once(MARK).map_or(text, |(before, _)| before.trim_end_matches(": "))
}

/// The same with the JSON in `out` from `from` on: for who may read logs, or for everybody.
pub fn settle(out: &mut Vec<u8>, from: usize, privileged: bool) {
    let Some(json) = out.get(from..).filter(|j| j.windows(ESCAPED.len()).any(|w| w == ESCAPED)) else {
        return;
    };
    let mut kept = Vec::with_capacity(json.len());
    let (mut rest, mut hidden) = (json, false);
    while let Some(byte) = rest.first() {
        // An escaped backslash may stand in front of the letters of the mark.
        let length = match byte {
            b'\\' if rest.starts_with(ESCAPED) => ESCAPED.len(),
            b'\\' => 2,
            _ => 1,
        };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        match piece {
            ESCAPED if privileged => {}
            ESCAPED => {
                hidden = true;
                let end = kept.strip_suffix(b": ").map_or(kept.len(), <[u8]>::len);
                kept.truncate(end);
            }
            b"\"" => {
                hidden = false;
                kept.push(b'"');
            }
            _ if hidden => {}
            _ => kept.extend_from_slice(piece),
        }
    }
    out.truncate(from);
    out.append(&mut kept);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(value: &Value, privileged: bool) -> Value {
        let mut out = b"earlier \\u001f\0".to_vec();
        let from = out.len();
        out.extend(value.to_string().bytes());
        settle(&mut out, from, privileged);
        assert!(out.starts_with(b"earlier \\u001f\0"), "what was there before is not touched");
        serde_json::from_slice(&out[from..]).unwrap()
    }

    #[test]
    fn only_who_may_read_logs_sees_output() {
        let value = json!({ "cause": "ended with exit code 3: \u{1f}to\\ken=\"1\"; é", "unit": "exec:a" });
        let open = json!({ "cause": "ended with exit code 3: to\\ken=\"1\"; é", "unit": "exec:a" });
        let closed = json!({ "cause": "ended with exit code 3", "unit": "exec:a" });
        assert_eq!((told(&value, true), told(&value, false)), (open, closed));
        let text = "ended with exit code 3: \u{1f}secret";
        assert_eq!((whole(text).as_str(), without(text)), ("ended with exit code 3: secret", &text[..22]));
        assert_eq!(without("plain: "), "plain: ");
    }

    proptest::proptest! {
        #[test]
        fn what_has_no_mark_stays_as_it_is(text in "[\\\\u01f\": \u{1e}é]*", mark in "[\\\\u01f\": é]*") {
            let value = json!([text, { "a": format!("x{MARK}{mark}") }, "last"]);
            proptest::prop_assert_eq!(told(&value, true), json!([text, { "a": format!("x{mark}") }, "last"]));
            proptest::prop_assert_eq!(told(&value, false), json!([text, { "a": "x" }, "last"]));
        }
    }
}
