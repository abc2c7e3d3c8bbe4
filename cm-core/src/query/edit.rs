//! A patch to a state file that declares a unit as it is on the machine. Pure, but for the loader that it reads through.
//!
//! Only the values that differ are replaced, where they stand; everything else of the file stays as its author wrote
//! it. What cannot be said that way is said in the note.

use std::fmt::Write;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};
use units::load::{LoadError, Loader, relative_to};
use units::value::name;
use units::{Address, Kind};

use super::difference::{bare, unified};
use super::shape::Adopted;

/// What a unit is on the machine, as far as its declaration says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Theirs {
    /// It is not there.
    pub gone: bool,
    /// Keys and the values that they would need, as TOML.
    pub values: Vec<(String, String)>,
    /// The content that it would need.
    pub content: Option<Vec<u8>>,
    /// What cannot be expressed.
    pub notes: Vec<String>,
}

impl Theirs {
    /// Whether the declaration is right already.
    pub fn is_empty(&self) -> bool {
        !self.gone && self.values.is_empty() && self.content.is_none()
    }
}

/// Why there is no patch.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The state file or a source.
    #[error("cannot read {path}: {source}")]
    Load {
        /// Which.
        path: String,
        /// Why not.
        source: LoadError,
    },
    /// It is no text.
    #[error("cannot read {0}: it is not UTF-8 text")]
    NotText(String),
    /// It does not parse any more.
    #[error("cannot edit {path}: {text}; initctl check {path} tells more")]
    Syntax {
        /// Which.
        path: String,
        /// What the parser says.
        text: String,
    },
    /// The unit is not declared there any more.
    #[error("cannot adopt {unit}: {path} does not declare it any more")]
    NotDeclared {
        /// The unit.
        unit: Address,
        /// Where it was declared.
        path: String,
    },
}

type Table<'i> = DeTable<'i>;

/// A declaration in a state file.
struct Found<'a, 'i> {
    table: &'a Table<'i>,
    /// Where its header, or its inline table, stands.
    at: Range<usize>,
}

/// The patch, and what it leaves out.
///
/// # Errors
/// When the state file cannot be read, or does not declare the unit any more.
pub fn adopt(
    loader: &mut dyn Loader,
    path: &str,
    unit: &Address,
    theirs: &Theirs,
) -> Result<Adopted, EditError> {
    let text = read_text(loader, path)?;
    let root = DeTable::parse(&text)
        .map_err(|e| EditError::Syntax { path: path.to_owned(), text: e.message().to_owned() })?;
    let mut notes = theirs.notes.clone();
    let patch = match find(root.get_ref(), unit.kind, &unit.name) {
        Some(found) => edit(loader, path, &text, root.get_ref(), &found, theirs, &mut notes)?,
        None => match tree_source(root.get_ref(), path, unit) {
            Some(source) => from_tree(loader, &source, theirs, &mut notes)?,
            None => return Err(EditError::NotDeclared { unit: unit.clone(), path: path.to_owned() }),
        },
    };
    if !patch.is_empty() {
        notes.push("apply it with: patch -d / -p1".to_owned());
    }
    Ok(Adopted { patch, note: notes.join("; ") })
}

fn read_text(loader: &mut dyn Loader, path: &str) -> Result<String, EditError> {
    let bytes = loader.read(path).map_err(|source| EditError::Load { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|_| EditError::NotText(path.to_owned()))
}

fn sub<'a, 'i>(table: &'a Table<'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    table.iter().find(|(k, _)| k.get_ref().as_ref() == key).map(|(_, v)| v)
}

fn find<'a, 'i>(root: &'a Table<'i>, kind: Kind, wanted: &str) -> Option<Found<'a, 'i>> {
    let DeValue::Table(all) = sub(root, kind.word())?.get_ref() else { return None };
    let is =
        |said: &Spanned<DeString<'_>>| name::unit(kind, said.get_ref().as_ref()).is_ok_and(|n| n == wanted);
    all.iter().filter(|(said, _)| is(said)).find_map(|(_, value)| match value.get_ref() {
        DeValue::Table(table) => Some(Found { table, at: value.span() }),
        _ => None,
    })
}

/// The source of a unit that a directory with a `source` declares.
fn tree_source(root: &Table<'_>, file: &str, unit: &Address) -> Option<String> {
    let DeValue::Table(all) = sub(root, Kind::Directory.word())?.get_ref() else { return None };
    let below = all.iter().filter_map(|(said, value)| {
        let directory = name::unit(Kind::Directory, said.get_ref().as_ref()).ok()?;
        let DeValue::Table(table) = value.get_ref() else { return None };
        let DeValue::String(source) = sub(table, "source")?.get_ref() else { return None };
        let rest = unit.name.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/')?;
        Some((directory.len(), format!("{}/{rest}", relative_to(file, source).trim_end_matches('/'))))
    });
    below.max().map(|(_, source)| source)
}

fn from_tree(
    loader: &mut dyn Loader,
    source: &str,
    theirs: &Theirs,
    notes: &mut Vec<String>,
) -> Result<String, EditError> {
    if theirs.gone {
        notes.push(format!("it is not on the machine: delete {source}"));
    }
    for (key, value) in &theirs.values {
        notes.push(format!(
            "{key} = {value} cannot be said of one entry of a directory: declare it by itself"
        ));
    }
    match &theirs.content {
        Some(content) => source_patch(loader, source, content, notes),
        None => Ok(String::new()),
    }
}

/// The difference between a source and what is on the machine.
fn source_patch(
    loader: &mut dyn Loader,
    source: &str,
    content: &[u8],
    notes: &mut Vec<String>,
) -> Result<String, EditError> {
    let old = match loader.read(source) {
        Ok(bytes) => String::from_utf8(bytes).ok(),
        Err(LoadError::NotFound) => Some(String::new()),
        Err(e) => return Err(EditError::Load { path: source.to_owned(), source: e }),
    };
    match (old, std::str::from_utf8(content)) {
        (Some(old), Ok(new)) => Ok(patch(&old, new, source)),
        _ => {
            notes.push(format!("it is not text: copy it over {source}"));
            Ok(String::new())
        }
    }
}

fn labels(path: &str) -> (String, String) {
    let name = path.trim_start_matches('/');
    (format!("a/{name}"), format!("b/{name}"))
}

fn patch(old: &str, new: &str, path: &str) -> String {
    let (before, after) = labels(path);
    unified(old, new, &before, &after)
}

/// A range of the text, and what stands there instead.
type Edit = (Range<usize>, String);

fn edit(
    loader: &mut dyn Loader,
    path: &str,
    text: &str,
    root: &Table<'_>,
    found: &Found<'_, '_>,
    theirs: &Theirs,
    notes: &mut Vec<String>,
) -> Result<String, EditError> {
    let hidden = secrets(root);
    let inline = text.get(found.at.start..).is_some_and(|t| t.starts_with('{'));
    if theirs.gone {
        if inline {
            notes.push("it is not on the machine: take its declaration away by hand".to_owned());
            return Ok(String::new());
        }
        notes.push(
            "it is not on the machine: its declaration goes; what names it has to go by hand".to_owned(),
        );
        let start = line_start(text, found.at.start);
        let end = section_end(text, found);
        if hidden.iter().any(|h| h.start < end && start < h.end) {
            notes.push(
                "it is not on the machine: its declaration holds secrets, take it away by hand".to_owned(),
            );
            return Ok(String::new());
        }
        return Ok(patch(
            text,
            &apply(text, vec![(line_start(text, found.at.start)..end, String::new())]),
            path,
        ));
    }
    let mut edits: Vec<Edit> = Vec::new();
    let mut missing = String::new();
    let mut out = String::new();
    let mut wanted = theirs.values.clone();
    if let Some(content) = &theirs.content {
        match (sub(found.table, "source").map(Spanned::get_ref), std::str::from_utf8(content)) {
            (Some(DeValue::String(source)), _) if source.contains("${") => {
                notes.push(format!("its source {source} depends on variables: change that file by hand"));
            }
            (Some(DeValue::String(source)), _) => {
                out = source_patch(loader, &relative_to(path, source), content, notes)?;
            }
            (_, Ok(text)) => wanted.push(("content".to_owned(), multiline(text))),
            (_, Err(_)) => notes.push("its content is not text: give it a source".to_owned()),
        }
    }
    for (key, value) in wanted {
        match sub(found.table, &key) {
            Some(old) => {
                if matches!(old.get_ref(), DeValue::String(s) if s.contains("${")) {
                    notes.push(format!("the variables in its {key} are replaced by what they stand for"));
                }
                edits.push((old.span(), value));
            }
            None if inline => notes.push(format!("add {key} = {value} by hand")),
            None => {
                // Writing to a String cannot fail.
                let _ = writeln!(missing, "{key} = {value}");
            }
        }
    }
    if !missing.is_empty() {
        let header = line_end(text, found.at.end);
        let before = if text.get(..header).is_some_and(|t| t.ends_with('\n')) { "" } else { "\n" };
        edits.push((header..header, format!("{before}{missing}")));
    }
    Ok(out + &state_patch(text, edits, path, &hidden))
}

/// A patch of the state file. Where its context would show a secret, it has none.
fn state_patch(text: &str, edits: Vec<Edit>, path: &str, hidden: &[Range<usize>]) -> String {
    let shown = patch(text, &apply(text, edits.clone()), path);
    let secret = hidden.iter().filter_map(|h| text.get(line_start(text, h.start)..line_end(text, h.end)));
    let secret: Vec<&str> = secret.flat_map(str::lines).filter(|l| !l.trim().is_empty()).collect();
    if !shown.lines().any(|l| l.strip_prefix(' ').is_some_and(|l| secret.contains(&l))) {
        return shown;
    }
    let (before, after) = labels(path);
    bare(text, &apply(text, edits), &before, &after)
}

/// Where values stand that must not print: those of units that say so, and password hashes.
fn secrets(root: &Table<'_>) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let all = root.values().filter_map(|kind| match kind.get_ref() {
        DeValue::Table(units) => Some(units.values()),
        _ => None,
    });
    for unit in all.flatten() {
        let DeValue::Table(table) = unit.get_ref() else { continue };
        let whole = sub(table, "secret").is_some_and(|v| matches!(v.get_ref(), DeValue::Boolean(true)));
        if whole {
            values(table, &mut |range| out.push(range));
        }
        out.extend(sub(table, "password-hash").map(Spanned::span));
    }
    out
}

fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = text.to_owned();
    for (range, new) in edits.into_iter().rev() {
        if out.get(range.clone()).is_some() {
            out.replace_range(range, &new);
        }
    }
    out
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |n| n.saturating_add(1))
}

/// One past the end of the line that holds the byte before `at`.
fn line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.find('\n').map_or(text.len(), |n| at.saturating_add(n).saturating_add(1))
}

/// One past the last line of a declaration: where the next header begins, or the last of its values ends.
fn section_end(text: &str, found: &Found<'_, '_>) -> usize {
    let mut ends = vec![found.at.end];
    values(found.table, &mut |range| ends.push(range.end));
    let own = ends.into_iter().max().unwrap_or(found.at.end);
    let mut end = line_end(text, own);
    // The empty line between two declarations goes with the one above it.
    let next = text.get(end..).and_then(|t| t.strip_prefix('\n'));
    if next.is_some() {
        end = end.saturating_add(1);
    }
    end
}

/// Where every value of a table stands, inner tables' too.
fn values(table: &Table<'_>, each: &mut dyn FnMut(Range<usize>)) {
    for value in table.values() {
        each(value.span());
        if let DeValue::Table(inner) = value.get_ref() {
            values(inner, each);
        }
    }
}

/// A text as a TOML string on one line, with what would be a variable escaped.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    escaped(text, false, &mut out);
    out.push('"');
    out
}

/// A text as a TOML string: over several lines where it has several.
fn multiline(text: &str) -> String {
    let lines = text.trim_end_matches('\n').contains('\n');
    if !lines {
        return string(text);
    }
    let mut out = String::from("\"\"\"\n");
    escaped(text, true, &mut out);
    out.push_str("\"\"\"");
    out
}

fn escaped(text: &str, lines: bool, out: &mut String) {
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' if lines => out.push('\n'),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::load::MemoryLoader;

    const STATE: &str = "[vars]\nsite = \"example\"\n\n# Who comes in reads this.\n[file.\"/etc//motd\"]\n\
        content = \"hello ${vars.site}\\n\" # greet\nmode = \"0644\"\n\n[file.\"/etc/web.conf\"]\nsource = \"web.conf\"\n\n\
        [directory.\"/srv\"]\nsource = \"tree\"\n\n[sysctl]\n\"vm.swappiness\" = { value = 10 }\n";

    fn patched(unit: &str, theirs: &Theirs) -> Adopted {
        let mut loader = MemoryLoader::new()
            .file("/etc/state.toml", STATE)
            .file("/etc/web.conf", "a\nb\n")
            .file("/etc/tree/x", "old\n");
        adopt(&mut loader, "/etc/state.toml", &Address::parse(unit).unwrap(), theirs).unwrap()
    }

    #[test]
    fn values_are_replaced_where_they_stand() {
        let theirs = Theirs {
            values: vec![("mode".into(), "\"0600\"".into()), ("owner".into(), "\"bob\"".into())],
            content: Some(b"say \"${x}\"\n".to_vec()),
            ..Theirs::default()
        };
        let adopted = patched("file:/etc/motd", &theirs);
        expect_test::expect![[r#"
            --- a/etc/state.toml
            +++ b/etc/state.toml
            @@ -3,8 +3,9 @@
             
             # Who comes in reads this.
             [file."/etc//motd"]
            -content = "hello ${vars.site}\n" # greet
            -mode = "0644"
            +owner = "bob"
            +content = "say \"$${x}\"\n" # greet
            +mode = "0600"
             
             [file."/etc/web.conf"]
             source = "web.conf"
        "#]]
        .assert_eq(&adopted.patch);
        assert!(adopted.note.contains("variables"), "{}", adopted.note);
    }

    #[test]
    fn a_source_is_patched_itself() {
        let theirs = Theirs { content: Some(b"a\nc\n".to_vec()), ..Theirs::default() };
        let patch = "--- a/etc/web.conf\n+++ b/etc/web.conf\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n";
        assert_eq!(patched("file:/etc/web.conf", &theirs).patch, patch);
        let adopted = patched("file:/srv/x", &theirs);
        assert!(adopted.patch.starts_with("--- a/etc/tree/x\n"), "{}", adopted.patch);
    }

    #[test]
    fn what_is_gone_is_taken_away() {
        let adopted = patched("file:/etc/motd", &Theirs { gone: true, ..Theirs::default() });
        expect_test::expect![[r#"
            --- a/etc/state.toml
            +++ b/etc/state.toml
            @@ -2,10 +2,6 @@
             site = "example"
             
             # Who comes in reads this.
            -[file."/etc//motd"]
            -content = "hello ${vars.site}\n" # greet
            -mode = "0644"
            -
             [file."/etc/web.conf"]
             source = "web.conf"
             
        "#]]
        .assert_eq(&adopted.patch);
    }

    #[test]
    fn secrets_of_the_neighbours_do_not_print() {
        let state = "[file.\"/a\"]\nmode = \"0644\"\n[file.\"/key\"]\ncontent = \"hush\"\nsecret = true\n[user.x]\n\
            password-hash = \"$6$x\"\n";
        let mut loader = MemoryLoader::new().file("/s", state);
        let theirs = Theirs { values: vec![("mode".into(), "\"0600\"".into())], ..Theirs::default() };
        let unit = |u: &str| Address::parse(u).unwrap();
        let adopted = adopt(&mut loader, "/s", &unit("file:/a"), &theirs).unwrap();
        assert_eq!(adopted.patch, "--- a/s\n+++ b/s\n@@ -2 +2 @@\n-mode = \"0644\"\n+mode = \"0600\"\n");
        for gone in ["file:/key", "user:x"] {
            let gone =
                adopt(&mut loader, "/s", &unit(gone), &Theirs { gone: true, ..Theirs::default() }).unwrap();
            assert_eq!(gone.patch, "");
        }
    }

    #[test]
    fn an_inline_table_is_edited_too() {
        let theirs = Theirs { values: vec![("value".into(), "60".into())], ..Theirs::default() };
        let adopted = patched("sysctl:vm.swappiness", &theirs);
        assert!(adopted.patch.contains("+\"vm.swappiness\" = { value = 60 }\n"), "{}", adopted.patch);
    }

    #[test]
    fn an_edited_file_says_what_was_wanted() {
        for text in ["plain\n", "two\nlines\n", "q \"x\" \\ ${a} $${b}\n\ttab\u{1}\n", "no end", "\n\n", ""] {
            let theirs = Theirs { content: Some(text.as_bytes().to_vec()), ..Theirs::default() };
            let state = "[file.\"/a\"]\ncontent = \"old\"\n";
            let found_root = DeTable::parse(state).unwrap();
            let found = find(found_root.get_ref(), Kind::File, "/a").unwrap();
            let span = sub(found.table, "content").unwrap().span();
            let new = apply(
                state,
                vec![(span, multiline(std::str::from_utf8(theirs.content.as_ref().unwrap()).unwrap()))],
            );
            let mut loader = MemoryLoader::new().file("s", new.clone());
            let compiled = units::compile("s", &mut loader);
            let manifest = compiled.manifest.unwrap_or_else(|| panic!("{new}"));
            let Some(units::kind::Spec::File(file)) = manifest.spec(units::UnitId(0)) else { panic!() };
            assert_eq!(file.content, Some(units::load::content_of(text.as_bytes())), "{new}");
        }
    }
}
