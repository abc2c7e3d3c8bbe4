//! Commands written as one string, split by the quoting rules of the shell, but without one.
//!
//! Blanks separate words; `'…'` keeps everything; `"…"` keeps everything but `\"` and `\\`; a backslash outside
//! quotes keeps the next character. There are no variables, patterns, pipes or redirections: a command that needs
//! them says `["sh", "-c", "…"]`. So that nobody believes otherwise, an unquoted `|`, `&`, `;`, `<`, `>`, or
//! backquote is an error.

use super::ValueError;

/// Characters that would mean something to a shell.
const SHELL: &[char] = &['|', '&', ';', '<', '>', '`'];

/// Splits a command line into words.
///
/// # Errors
/// For an empty command, an open quote, and unquoted characters that only a shell understands.
pub fn split(text: &str) -> Result<Vec<String>, ValueError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    let open = |quote: char| ValueError::new(format!("the quote {quote} is never closed"));
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_with(String::new);
                loop {
                    match chars.next().ok_or_else(|| open(c))? {
                        end if end == c => break,
                        '\\' if c == '"' => match chars.next().ok_or_else(|| open(c))? {
                            kept @ ('"' | '\\') => word.push(kept),
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            '\\' => {
                let next =
                    chars.next().ok_or_else(|| ValueError::new("a backslash at the end keeps nothing"))?;
                word.get_or_insert_with(String::new).push(next);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c if SHELL.contains(&c) => {
                return Err(ValueError::new(format!(
                    "`{c}` needs a shell, and a command is run without one"
                ))
                .help(format!("quote it, or run a shell: `[\"sh\", \"-c\", {text:?}]`")));
            }
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    check(&words)?;
    Ok(words)
}

/// Checks the words of a command, however they were written.
///
/// # Errors
/// For a command without a program, and a word with a zero byte.
pub fn check(words: &[String]) -> Result<(), ValueError> {
    if words.first().is_none_or(String::is_empty) {
        return Err(ValueError::new("a command needs at least the name of a program"));
    }
    if words.iter().any(|w| w.contains('\0')) {
        return Err(ValueError::new("a command cannot hold a zero byte"));
    }
    Ok(())
}

/// One line that [`split`] reads back.
pub fn join(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = |w: &String| match !w.is_empty() && w.chars().all(plain) {
        true => w.clone(),
        false => format!("'{}'", w.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_as_the_shell_does() {
        let cases: [(&str, &[&str]); 5] = [
            ("nginx -g 'daemon off;'", &["nginx", "-g", "daemon off;"]),
            (r#"a "b \" c" d\ e"#, &["a", "b \" c", "d e"]),
            ("  a\t\n b ", &["a", "b"]),
            ("a '' \"\"", &["a", "", ""]),
            (r#"a"b"'c' $HOME"#, &["abc", "$HOME"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for text in ["", "  ", "''", "a 'b", "a | b", "a > b", "a \\", "a & b"] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(first in "[^\0]{1,8}", rest in proptest::collection::vec("[^\0]{0,8}", 0..4)) {
            let words: Vec<String> = std::iter::once(first).chain(rest).collect();
            prop_assert_eq!(split(&join(&words)).unwrap(), words);
        }
    }
}
