//! Which archives packages come from: derived from the machine's own apt sources, so that no host is written down
//! here and a mirror or a proxy that the machine uses is used for images too.

use crate::Error;

/// One archive: a mirror and a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uris: String,
    suite: String,
    components: String,
    signed_by: Option<String>,
}

/// Gives the sources for a suite in apt's deb822 form, out of the texts of the machine's own source files (name,
/// content): those of the suite, its updates and its security updates, and each extra suite from the mirror of the
/// main one where the machine does not name it itself.
///
/// # Errors
/// When no file names the suite.
pub fn derive(files: &[(String, String)], suite: &str, extra: &[String]) -> Result<String, Error> {
    let mut all = Vec::new();
    for (name, text) in files {
        if name.ends_with(".sources") { deb822(text, &mut all) } else { one_line(text, &mut all) }
    }
    let main = all.iter().find(|s| s.suite == suite).cloned().ok_or_else(|| {
        Error::input(
            "/etc/apt/sources.list.d",
            format!("no source has the suite {suite:?} of the image; add one, or name a suite that is there"),
        )
    })?;
    let wanted = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
    let mut chosen: Vec<Source> = Vec::new();
    for source in all {
        if (wanted.contains(&source.suite) || extra.contains(&source.suite)) && !chosen.contains(&source) {
            chosen.push(source);
        }
    }
    for name in extra {
        if !chosen.iter().any(|s| s.suite == *name) {
            chosen.push(Source { suite: name.clone(), ..main.clone() });
        }
    }
    Ok(chosen.iter().map(render).collect::<Vec<_>>().join("\n"))
}

fn render(s: &Source) -> String {
    let signed = s.signed_by.as_ref().map(|k| format!("Signed-By: {k}\n")).unwrap_or_default();
    format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n{signed}", s.uris, s.suite, s.components)
}

fn deb822(text: &str, out: &mut Vec<Source>) {
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines().filter(|l| !l.starts_with('#')) {
            match line.split_once(':') {
                Some((key, value)) if !line.starts_with([' ', '\t']) => {
                    fields.push((key.to_ascii_lowercase(), value.trim().to_owned()));
                }
                // A continued value, such as a key block; " ." stands for an empty line and must stay so.
                _ => {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push('\n');
                        value.push_str(line);
                    }
                }
            }
        }
        let field = |key: &str| fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let binary = field("types").is_some_and(|t| t.split_whitespace().any(|t| t == "deb"));
        let enabled = field("enabled").is_none_or(|e| !["no", "false", "0"].contains(&e));
        if let (true, true, Some(uris), Some(suites)) = (binary, enabled, field("uris"), field("suites")) {
            for suite in suites.split_whitespace() {
                out.push(Source {
                    uris: uris.to_owned(),
                    suite: suite.to_owned(),
                    components: field("components").unwrap_or("main").to_owned(),
                    signed_by: field("signed-by").map(str::to_owned),
                });
            }
        }
    }
}

fn one_line(text: &str, out: &mut Vec<Source>) {
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest.trim()),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            out.push(Source {
                uris: uri.to_owned(),
                suite: suite.to_owned(),
                components: words.take_while(|w| !w.starts_with('#')).collect::<Vec<_>>().join(" "),
                signed_by: options
                    .split_whitespace()
                    .find_map(|o| o.strip_prefix("signed-by="))
                    .map(str::to_owned),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str, text: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), text.to_owned())]
    }

    #[test]
    fn takes_the_suite_and_derives_the_extra_one() {
        let text = "Types: deb deb-src\n# note\nURIs: http://mirror.example/debian\nSuites: stable stable-updates\n\
                    Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://other.example\nSuites: cloud\n";
        let got = derive(&files("debian.sources", text), "stable", &["stable-backports".to_owned()]).unwrap();
        assert_eq!(got.matches("http://mirror.example/debian").count(), 3);
        assert!(got.contains("Suites: stable-backports\n"));
        assert!(!got.contains("other.example"));
        assert!(derive(&files("debian.sources", text), "oldstable", &[]).is_err());
    }

    #[test]
    fn reads_the_one_line_form() {
        let text = "# deb http://no.example stable main\ndeb [arch=amd64 signed-by=/k.gpg] http://m.example/d stable main # x\n";
        let got = derive(&files("sources.list", text), "stable", &[]).unwrap();
        assert_eq!(
            got,
            "Types: deb\nURIs: http://m.example/d\nSuites: stable\nComponents: main\nSigned-By: /k.gpg\n"
        );
    }
}
