//! Readiness: `started` · `notify` · `fd=3` · `forked` · `exited` · `path=/run/x.pid`.

use super::{ValueError, path};
use crate::kind::service::Ready;

/// The forms, as people write them.
pub const FORMS: [&str; 6] = ["started", "notify", "fd=3", "forked", "exited", "path=/run/NAME"];

/// Parses a way to be ready.
///
/// # Errors
/// For an unknown word, a descriptor below 3 or above 1023 (0 and 2 are taken, 1 is the log), and a path that is not
/// absolute.
pub fn parse(text: &str) -> Result<Ready, ValueError> {
    if let Some(number) = text.strip_prefix("fd=") {
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let fd = number.parse().ok().filter(|n| digits && (3..1024).contains(n));
        let wrong =
            || ValueError::new(format!("`{number}` is no descriptor for readiness")).help("use 3 to 1023");
        return fd.map(Ready::Fd).ok_or_else(wrong);
    }
    if let Some(file) = text.strip_prefix("path=") {
        return path::canonical(file).map(Ready::Path);
    }
    match text {
        "started" => Ok(Ready::Started),
        "notify" => Ok(Ready::Notify),
        "forked" => Ok(Ready::Forked),
        "exited" => Ok(Ready::Exited),
        _ => {
            let error = ValueError::new(format!("`{text}` is no way to be ready"));
            match crate::nearest::nearest(text, FORMS) {
                Some(form) => Err(error.help(format!("did you mean `{form}`?"))),
                None => Err(error.help(format!("write one of `{}`", FORMS.join("`, `")))),
            }
        }
    }
}

/// The text that [`parse`] reads back.
pub fn format(ready: &Ready) -> String {
    match ready {
        Ready::Started => "started".to_owned(),
        Ready::Notify => "notify".to_owned(),
        Ready::Fd(n) => format!("fd={n}"),
        Ready::Forked => "forked".to_owned(),
        Ready::Exited => "exited".to_owned(),
        Ready::Path(path) => format!("path={path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("fd=4"), Ok(Ready::Fd(4)));
        assert_eq!(parse("path=/run//x"), Ok(Ready::Path("/run/x".to_owned())));
        for text in ["", "fd=", "fd=1", "fd=+3", "path=", "path=x", "ready", "Notify "] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("notfy").unwrap_err().help.unwrap(), "did you mean `notify`?");
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(which in 0..6, fd in 3u32..1024, name in "(/[a-z]{1,3}){1,3}") {
            let ready = match which {
                0 => Ready::Started,
                1 => Ready::Notify,
                2 => Ready::Fd(fd),
                3 => Ready::Forked,
                4 => Ready::Exited,
                _ => Ready::Path(name),
            };
            prop_assert_eq!(parse(&format(&ready)), Ok(ready));
        }
    }
}
