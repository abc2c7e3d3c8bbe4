//! Which paths state files name: what the opener opens, whatever the compiler asks for. Pure.
//!
//! The compiler parses what people wrote, so it may have been taken over by it. The opener, which has the caller's
//! rights, believes nothing it says: it looks at the same text, with its eyes alone. It does not parse TOML. It sees
//! what stands in quotes behind `source =` and `include = [`; only that, joined to the directory of the file that
//! says it, is a name.
//!
//! * a state file: the entry file, or one that a known state file includes, plainly or by a pattern;
//! * a source: what stands behind `source =`, or what lies below it;
//! * a directory: one that holds a pattern's files, or a source.
//!
//! A `${vars.name}` stands for what is behind a `name =` of the same text, never for anything else. Whatever takes over the compiler can so have read
//! what its text could have had read openly, for everybody to see.

use std::collections::{BTreeMap, BTreeSet};

use units::glob;
use units::load::relative_to;

/// Most names that one with variables may become: a variable has one value, unless its name is a key elsewhere too.
const COMBINATIONS: usize = 1000;
/// How often a variable may refer to another one.
const DEPTH: usize = 4;
const QUOTES: [char; 2] = ['"', '\''];

/// What the state files seen so far name.
#[derive(Debug, Default)]
pub struct Named {
    entry: String,
    texts: Vec<(String, String)>,
    /// Sources without variables.
    plain: BTreeSet<String>,
    /// State files that are included, plainly.
    included: BTreeSet<String>,
    /// Patterns of state files, joined to the directory of the file that says them.
    globs: BTreeSet<String>,
    /// Sources with variables, and the file that says them.
    patterns: Vec<(String, String)>,
    /// What these become.
    expanded: BTreeSet<String>,
    /// Whether there may be more of that.
    stale: bool,
}

/// Whether a path may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// It is named itself.
    Itself,
    /// It lies below this, which is named: no link may lead out of it.
    Below(String),
}

/// What stands behind `word =`.
fn behind<'t>(text: &'t str, word: &str) -> impl Iterator<Item = &'t str> {
    text.match_indices(word).filter_map(move |(at, word)| {
        let rest = text.get(at.checked_add(word.len())?..)?.trim_start_matches(QUOTES);
        Some(rest.trim_start().strip_prefix('=')?.trim_start())
    })
}

/// The strings of an array, from behind its bracket to the bracket that ends it.
fn elements(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'', '#', ']']) {
        let (found, behind) = rest.get(at..).unwrap_or_default().split_at(1);
        rest = match found {
            "]" => break,
            "#" => behind.split_once('\n').map_or("", |(_, next)| next),
            quote => match behind.split_once(quote) {
                Some((element, next)) if !element.contains('\n') => {
                    out.push(element);
                    next
                }
                _ => break,
            },
        };
    }
    out
}

/// What an `include` names.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    behind(text, "include").filter_map(|rest| rest.strip_prefix('[')).flat_map(elements)
}

/// The string that a text begins with.
fn string(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| QUOTES.contains(c))?;
    let value = text.trim_start_matches(quote);
    let end = value.find([quote, '\n']).unwrap_or(value.len());
    value.get(..end)
}

/// What stands in quotes behind `source =`.
fn sources(text: &str) -> impl Iterator<Item = &str> {
    behind(text, "source").filter_map(string)
}

/// The string, number or boolean that a text begins with.
fn value(text: &str) -> &str {
    let bare = || text.split(|c: char| c.is_whitespace() || ",}]#".contains(c)).next();
    string(text).or_else(bare).unwrap_or_default()
}

/// The directory that a path lies in.
fn above(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((directory, _)) => directory,
        None => ".",
    }
}

impl Named {
    /// Where only the entry file is known.
    pub fn new(entry: &str) -> Named {
        Named { entry: entry.to_owned(), ..Named::default() }
    }

    /// Takes in what a state file says.
    pub fn read(&mut self, path: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if self.texts.iter().any(|(p, t)| p == path && *t == text) {
            return;
        }
        for source in sources(&text) {
            if source.contains("${") {
                self.patterns.push((path.to_owned(), source.to_owned()));
            } else {
                self.plain.insert(relative_to(path, source));
            }
        }
        for included in includes(&text) {
            let at = relative_to(path, included);
            if glob::is_pattern(included) {
                self.globs.insert(at)
            } else {
                self.included.insert(at)
            };
        }
        self.texts.push((path.to_owned(), text));
        self.stale = true;
    }

    /// Whether this may be read as a state file.
    pub fn is_state_file(&self, path: &str) -> bool {
        path == self.entry
            || self.globs.iter().any(|glob| above(glob) == above(path) && matches(glob, path))
            || self.included.contains(path)
    }

    /// Whether this may be read as a source.
    pub fn source(&mut self, path: &str) -> Option<Admitted> {
        self.expand();
        let mut end = path.len();
        loop {
            let named = path.get(..end)?;
            let rest = path.get(end..)?;
            if self.plain.contains(named) || self.expanded.contains(named) {
                let climbs = rest.split('/').any(|part| part == "..");
                return match rest {
                    "" => Some(Admitted::Itself),
                    _ => (!climbs).then(|| Admitted::Below(named.to_owned())),
                };
            }
            end = named.rfind('/').filter(|at| *at > 0)?;
        }
    }

    /// Whether the names in this directory may be told.
    pub fn directory(&mut self, path: &str) -> Option<Admitted> {
        let source = self.source(path);
        source.or_else(|| self.globs.iter().any(|glob| above(glob) == path).then_some(Admitted::Itself))
    }

    /// Puts the values of variables in, which may be said after they are used.
    fn expand(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut out = BTreeSet::new();
        for (by, said) in &self.patterns {
            let mut budget = COMBINATIONS;
            for source in self.expansions(said, DEPTH, &mut budget, &mut values) {
                out.insert(relative_to(by, &source));
            }
        }
        self.expanded = out;
    }

    /// All that a text can become; at most as many as the budget says.
    fn expansions(
        &self,
        said: &str,
        depth: usize,
        budget: &mut usize,
        values: &mut BTreeMap<String, BTreeSet<String>>,
    ) -> Vec<String> {
        let Some(at) = said.find("${") else {
            *budget = budget.saturating_sub(1);
            return vec![said.to_owned()];
        };
        let (before, from) = said.split_at(at);
        let after = |rest: &str, values: &mut _, budget: &mut _| self.expansions(rest, depth, budget, values);
        // An escaped one stands for itself.
        if let Some(before) = before.strip_suffix('$') {
            let rest = after(from.get(2..).unwrap_or_default(), values, budget);
            return rest.into_iter().map(|r| format!("{before}${{{r}")).collect();
        }
        let reference = from.split_once('}').and_then(|(r, rest)| Some((r.strip_prefix("${vars.")?, rest)));
        let (Some((name, rest)), Some(less)) = (reference, depth.checked_sub(1)) else { return Vec::new() };
        let known = values.entry(name.to_owned()).or_insert_with(|| {
            let said = self.texts.iter().flat_map(|(_, text)| behind(text, name));
            said.map(value).filter(|v| !v.is_empty()).map(str::to_owned).collect()
        });
        let mut out = Vec::new();
        for value in known.clone() {
            if *budget == 0 {
                break;
            }
            for value in self.expansions(&value, less, budget, values) {
                out.extend(after(rest, values, budget).into_iter().map(|r| format!("{before}{value}{r}")));
            }
        }
        out
    }
}

/// Whether the last part of a path matches the last part of a pattern.
fn matches(pattern: &str, path: &str) -> bool {
    let last = |p: &str| p.rsplit_once('/').map_or(p.to_owned(), |(_, name)| name.to_owned());
    glob::matches(&last(pattern), &last(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = r#"
include = ["conf.d/*.toml", 'site.toml', # it's "/etc/passwd"
  "/srv/common/base.toml", "set/[ab].toml"]
[vars]
site = "example.org"
port = 8080
base = "/srv/${vars.site}"
[file."/etc/shadow"]
mode = "0600"
[file."/etc/nginx.conf"]
source = "files/nginx.conf"
[directory."/var/www"]
source = 'site'
[file."/etc/a"]
"source"="/opt/a"
[file."/etc/b"]
source = "files/${vars.site}.conf"
[file."/etc/c"]
source = "${vars.base}/${vars.port}"
"#;

    fn named() -> Named {
        let mut named = Named::new("/home/ann/state.toml");
        named.read("/home/ann/state.toml", STATE.as_bytes());
        named
    }

    #[test]
    fn what_the_text_names_is_opened() {
        let mut named = named();
        for path in [
            "/home/ann/state.toml",
            "/home/ann/conf.d/web.toml",
            "/home/ann/site.toml",
            "/srv/common/base.toml",
            "/home/ann/set/a.toml",
        ] {
            assert!(named.is_state_file(path), "{path}");
        }
        for path in [
            "/home/ann/files/nginx.conf",
            "/opt/a",
            "/home/ann/files/example.org.conf",
            "/srv/example.org/8080",
        ] {
            assert_eq!(named.source(path), Some(Admitted::Itself), "{path}");
        }
        let below = Some(Admitted::Below("/home/ann/site".to_owned()));
        assert_eq!(named.source("/home/ann/site/deep/page"), below);
        assert_eq!(named.directory("/home/ann/site/deep"), below);
        assert_eq!(named.directory("/home/ann/conf.d"), Some(Admitted::Itself));
    }

    #[test]
    fn nothing_else_is() {
        let mut named = named();
        for path in [
            "/etc/shadow",
            "/home/ann/.ssh/id_ed25519",
            "/home/ann/files/other.conf",
            "/home/ann/files",
            "/home/ann/site/../.ssh/id_ed25519",
            "/home/ann/siteother",
            "/srv/other/8080",
            "/",
            "",
        ] {
            assert_eq!(named.source(path), None, "{path}");
            assert_eq!(named.directory(path), None, "{path}");
        }
        for path in [
            "/etc/shadow",
            "/etc/passwd",
            "/home/ann/set/c.toml",
            "/home/ann/conf.d/web.conf",
            "/home/ann/conf.d/x/y.toml",
            "/root/site.toml",
            "/opt/b",
        ] {
            assert!(!named.is_state_file(path), "{path}");
        }
    }

    #[test]
    fn relative_entries_are_as_good() {
        let mut named = Named::new("state.toml");
        named.read("state.toml", b"source = \"a\"\ninclude = [\"conf.d/*.toml\"]\n");
        assert_eq!(named.source("a"), Some(Admitted::Itself));
        assert!(named.is_state_file("conf.d/x.toml") && named.directory("conf.d").is_some());
    }
}
