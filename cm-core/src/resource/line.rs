//! `line`: one line in a file that is otherwise somebody else's. The edits are pure functions of the text.

use std::borrow::Cow;
use std::io::Read;

use regex_lite::Regex;
use sha2::{Digest as _, Sha256};
use units::Address;
use units::kind::Spec;
use units::kind::line::Line;

use super::Context;
use super::op::{Finding, Op, OwnChange, Trouble, What};
use super::place::PlaceError;
use super::tree::{self, Found};
use super::world::World;
use crate::store::index::Index;
use crate::store::record::LineEdit;
use crate::store::{Digest, Own, Prior};

/// Bytes of a file that is edited: it is read whole, and it may be somebody's who makes it as large as he likes.
pub(super) const LARGEST: u64 = 16 << 20;

/// A text as lines, and whether the last one lacks its newline.
fn lines(text: &str) -> (Vec<String>, bool) {
    let open_end = !text.is_empty() && !text.ends_with('\n');
    let body = text.strip_suffix('\n').unwrap_or(text);
    (if text.is_empty() { Vec::new() } else { body.split('\n').map(str::to_owned).collect() }, open_end)
}

fn text(lines: &[String], open_end: bool) -> String {
    let mut out = lines.join("\n");
    if !lines.is_empty() && !open_end {
        out.push('\n');
    }
    out
}

/// Whether what is put in gets the line ending of Windows: all others have it.
fn ends_in_cr(lines: &[String], open_end: bool) -> bool {
    let (last, whole) = match lines.split_last() {
        Some((last, whole)) if open_end => (Some(last), whole),
        _ => (None, lines),
    };
    !whole.is_empty() && whole.iter().all(|l| l.ends_with('\r')) && last.is_none_or(|l| !l.ends_with('\r'))
}

/// The text with the line as declared, and what was done to it; `None` when it is right. A text of `None` is a file
/// that is missing.
///
/// # Errors
/// When the pattern is no regular expression.
pub fn edit(old: Option<&str>, spec: &Line) -> Result<Option<(String, LineEdit)>, Trouble> {
    let pattern = match &spec.matches {
        None => None,
        Some(p) => Some(Regex::new(p).map_err(|e| Trouble::NotKept(format!("matches: {e}")))?),
    };
    let (mut list, open_end) = lines(old.unwrap_or_default());
    // The carriage return before a newline is no part of what is declared.
    let same = |l: &str| l == spec.line || l.strip_suffix('\r') == Some(&spec.line);
    let matches = |l: &str| pattern.as_ref().is_some_and(|p| p.is_match(l.strip_suffix('\r').unwrap_or(l)));
    let hit = |l: &String| same(l) || matches(l);
    let cr = ends_in_cr(&list, open_end) && !spec.line.ends_with('\r');
    let with_cr = |cr: bool| if cr { format!("{}\r", spec.line) } else { spec.line.clone() };
    let hits: Vec<usize> = list.iter().enumerate().filter(|(_, l)| hit(l)).map(|(i, _)| i).collect();
    let number = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
    let mut done = LineEdit {
        path: spec.path.clone(),
        created: old.is_none(),
        line: with_cr(cr),
        open_end,
        ..LineEdit::default()
    };
    // The first that matches stands for the line; without a pattern any equal line is enough.
    let keep = if !spec.present {
        None
    } else if pattern.is_some() {
        hits.first().copied()
    } else {
        hits.iter().copied().find(|i| list.get(*i).is_some_and(|l| same(l)))
    };
    let others = |i: &&usize| Some(**i) != keep && (pattern.is_some() || !spec.present);
    for at in hits.iter().filter(others) {
        done.removed.push((number(*at), list.get(*at).cloned().unwrap_or_default()));
    }
    if let Some(at) = keep
        && let Some(slot) = list.get_mut(at)
        && !same(slot)
    {
        done.line = with_cr(slot.ends_with('\r') && !spec.line.ends_with('\r'));
        done.removed.push((number(at), std::mem::replace(slot, done.line.clone())));
        done.removed.sort_unstable();
        let before = done.removed.iter().filter(|(i, _)| *i < number(at)).count();
        done.inserted = Some(number(at - before));
    }
    if done.removed.is_empty() && (keep.is_some() || !spec.present) {
        return Ok(None);
    }
    let gone: Vec<usize> = hits.iter().filter(others).copied().collect();
    let last = list.len().checked_sub(1).filter(|at| open_end && cr && !gone.contains(at));
    let mut index = 0;
    list.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    let mut open_end = open_end;
    if spec.present && keep.is_none() {
        // It gets a newline, and so what stands before one here; `undo` knows it by what it was.
        if let (Some(at), Some(line)) = (last, list.last_mut()) {
            done.removed.push((number(at), line.clone()));
            line.push('\r');
        }
        done.inserted = Some(number(list.len()));
        list.push(done.line.clone());
        open_end = false;
    }
    // An empty last line is only there with its newline.
    open_end &= list.last().is_some_and(|l| !l.is_empty());
    Ok(Some((text(&list, open_end), done)))
}

/// Turns an edit round, as well as it can be done in a text that others may have changed meanwhile. `None` is a file
/// that should go. Where it has been turned round already, nothing changes.
pub fn undo(current: &str, edit: &LineEdit) -> Option<String> {
    let (mut list, mut open_end) = lines(current);
    let is_back =
        |(at, line): &(u32, String)| usize::try_from(*at).is_ok_and(|at| list.get(at) == Some(line));
    if !edit.removed.is_empty() && edit.removed.iter().all(is_back) {
        return Some(current.to_owned());
    }
    if let Some(at) = edit.inserted {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let found = if list.get(at) == Some(&edit.line) {
            Some(at)
        } else {
            list.iter().position(|l| *l == edit.line)
        };
        match found {
            Some(found) => drop(list.remove(found)),
            // It was never made, has been turned round already, or is somebody else's line by now.
            None => return Some(current.to_owned()),
        }
    }
    let mut removed = edit.removed.clone();
    removed.sort_unstable();
    for (at, line) in removed {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(list.len());
        let is_last = edit.open_end && at + 1 == list.len();
        match list.last_mut() {
            Some(last) if is_last && last.strip_suffix('\r') == Some(&line) => *last = line,
            _ => list.insert(at, line),
        }
    }
    open_end |= edit.open_end;
    if edit.created && edit.inserted.is_some() && list.is_empty() {
        return None;
    }
    Some(text(&list, open_end))
}

/// What turning an edit round makes of a text, and the edits that this amounts to: turned round themselves, the last one
/// first, they give the text as it was.
pub fn turned_round(old: Option<&str>, edit: &LineEdit) -> (Option<String>, Vec<LineEdit>) {
    let Some(old) = old.or(makes_file(edit).then_some("")) else { return (None, Vec::new()) };
    let new = undo(old, edit);
    let ((was, open_end), (is, _)) = (lines(old), lines(new.as_deref().unwrap_or_default()));
    let start = was.iter().zip(&is).take_while(|(a, b)| a == b).count();
    let rest = was.len().min(is.len()) - start;
    let end = was.iter().rev().zip(is.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let part = |list: &[String]| -> Vec<(u32, String)> {
        let part = list.iter().enumerate().take(list.len() - end).skip(start);
        part.map(|(at, line)| (number(at), line.clone())).collect()
    };
    let mut comes = part(&is).into_iter();
    let first = comes.next();
    let base = LineEdit { path: edit.path.clone(), open_end, ..LineEdit::default() };
    let mut edits = vec![LineEdit {
        created: new.is_none(),
        inserted: first.as_ref().map(|(at, _)| *at),
        line: first.map(|(_, line)| line).unwrap_or_default(),
        removed: part(&was),
        ..base.clone()
    }];
    edits.extend(comes.map(|(at, line)| LineEdit { inserted: Some(at), line, ..base.clone() }));
    edits.retain(|e| e.inserted.is_some() || !e.removed.is_empty());
    (new, edits)
}

/// Whether an edit that is turned round makes a file that is missing: that it took away was what the edit did.
pub const fn makes_file(edit: &LineEdit) -> bool {
    edit.created && edit.inserted.is_none()
}

/// The text of a line's file; `None` when it is missing.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn read(world: &mut World, path: &str) -> Result<Option<String>, Trouble> {
    let place = match world.places.entry(path) {
        Ok(place) => place,
        Err(PlaceError::Missing(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match tree::find(&place)? {
        Found::File(mut file, _) => {
            let mut bytes = Vec::new();
            (file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes))
                .map_err(|e| Trouble::io("read", path, &e))?;
            if bytes.len() as u64 > LARGEST {
                let text = format!("{path} has more than {LARGEST} bytes: it is not read for a line");
                return Err(Trouble::NotKept(text));
            }
            String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| Trouble::NotKept(format!("{path} is not UTF-8 text")))
        }
        Found::Nothing => Ok(None),
        Found::Link(_) => Err(Trouble::NotKept(format!("{path} is a symbolic link; name the file itself"))),
        other => Err(tree::in_the_way(path, &other)),
    }
}

/// What the store remembers of a line, so that it is known when its unit says something else.
fn digest(path: &str, line: &str) -> Digest {
    Sha256::new().chain_update(path).chain_update([0]).chain_update(line).finalize().into()
}

/// The same of a declaration; of one that takes the line out, none.
fn digest_of(spec: &Line) -> Digest {
    digest(&spec.path, if spec.present { &spec.line } else { "" })
}

/// Whether it is this line that a unit was last known to have put in.
pub(crate) fn is_of(own: &Own, spec: &Line) -> bool {
    spec.present && own.digest.is_none_or(|noted| noted == digest_of(spec))
}

/// The path and the line that a unit has put in, as the edits tell that may be undone.
pub(crate) fn put_in(index: &Index, unit: &str) -> Option<(String, String)> {
    let noted = index.own.get(unit).filter(|own| own.unit == unit)?.digest;
    let edits = index.undo.get(unit).into_iter().flatten().rev();
    let mut edited = edits.filter_map(|undo| match &undo.prior {
        Prior::Edit(edit) => Some((edit.path.as_str(), edit.line.strip_suffix('\r').unwrap_or(&edit.line))),
        _ => None,
    });
    let (path, line) = edited.find(|(path, line)| noted == Some(digest(path, line)))?;
    Some((path.to_owned(), line.to_owned()))
}

/// The path and the line that a unit has put in under an earlier generation, where it declares others now. The edits
/// that may be undone tell, else the generation that is current.
fn former(world: &World, unit: &str, spec: &Line) -> Option<(String, String)> {
    let store = world.store.as_ref()?;
    let own = store.index().own.get(unit).filter(|own| own.unit == unit)?;
    if own.digest == Some(digest_of(spec)) {
        return None;
    }
    let differs = |(path, line): &(String, String)| (path, line) != (&spec.path, &spec.line);
    if let Some(found) = put_in(store.index(), unit).filter(differs) {
        return Some(found);
    }
    let (_, manifest) = store.load(store.index().current()).ok()?;
    let address = Address::parse(unit)?;
    match manifest.spec(manifest.find(address.kind, &address.name)?)? {
        // An earlier version of this program has not noted which line it was.
        Spec::Line(old) if is_of(own, &old) => Some((old.path, old.line)).filter(differs),
        _ => None,
    }
}

/// A pattern for what a declaration replaces anyway, and for the line that it had before.
fn either(spec: &Line, line: &str) -> String {
    let line = format!("^{}$", regex_lite::escape(line));
    match &spec.matches {
        Some(pattern) => format!("(?:{pattern})|{line}"),
        None => line,
    }
}

/// What is wrong with the line, and what would make it right.
///
/// # Errors
/// When the file cannot be read, or is missing and may not be created.
pub fn check(world: &mut World, spec: &Line, context: &Context) -> Result<Finding, Trouble> {
    world.mount_present(&spec.path)?;
    let old = read(world, &spec.path)?;
    let mut finding = Finding::default();
    // Nothing is put in, as far as is known yet.
    let own = |line: &str| OwnChange::Take { digest: Some(digest(&spec.path, line)) };
    let op = |what, own| Op { thing: context.unit.clone(), what, own };
    // What is drift has had its generation, which has taken it out.
    let former = if context.correct { None } else { former(world, &context.unit, spec) };
    let mut wanted = Cow::Borrowed(spec);
    match former {
        Some((path, line)) if path == spec.path => wanted.to_mut().matches = Some(either(spec, &line)),
        Some((path, line)) => {
            world.mount_present(&path)?;
            let gone = Line { path, line, matches: None, present: false, create: false };
            if edit(read(world, &gone.path)?.as_deref(), &gone)?.is_some() {
                finding.wrong.push(format!("line that it had in {} is still there", gone.path));
                finding.ops.push(op(What::Line(gone), own("")));
            }
        }
        None => {}
    }
    if old.is_none() {
        if !spec.present {
            return Ok(finding);
        }
        if !spec.create {
            return Err(Trouble::NotKept(format!("{} is missing; say create = true to make it", spec.path)));
        }
    }
    let Some((_, done)) = edit(old.as_deref(), &wanted)? else { return Ok(finding) };
    finding.wrong.push(match (done.inserted.is_some(), done.removed.is_empty()) {
        (true, true) => "line is missing".to_owned(),
        (true, false) => "line differs".to_owned(),
        (false, _) => "line should not be there".to_owned(),
    });
    let own = own(if done.inserted.is_some() { &spec.line } else { "" });
    finding.ops.push(op(What::Line(wanted.into_owned()), own));
    Ok(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(line: &str, matches: Option<&str>, present: bool) -> Line {
        Line {
            path: "/f".into(),
            line: line.into(),
            matches: matches.map(str::to_owned),
            present,
            create: true,
        }
    }

    fn edited(old: Option<&str>, spec: &Line) -> Option<String> {
        edit(old, spec).unwrap().map(|(t, _)| t)
    }

    #[test]
    fn a_line_is_added_once() {
        let s = spec("b", None, true);
        assert_eq!(edited(Some("a\n"), &s).as_deref(), Some("a\nb\n"));
        assert_eq!(edited(Some("a"), &s).as_deref(), Some("a\nb\n"));
        assert_eq!(edited(Some("a\nb\nb\n"), &s), None);
        assert_eq!(edited(None, &s).as_deref(), Some("b\n"));
    }

    #[test]
    fn the_first_match_is_replaced_and_the_others_go() {
        let s = spec("port 80", Some("^port "), true);
        assert_eq!(edited(Some("x\nport 1\ny\nport 2\n"), &s).as_deref(), Some("x\nport 80\ny\n"));
        assert_eq!(edited(Some("port 80\n"), &s), None);
    }

    #[test]
    fn an_unwanted_line_goes() {
        let s = spec("b", None, false);
        assert_eq!(edited(Some("a\nb\nc\nb"), &s).as_deref(), Some("a\nc"));
        assert_eq!(edited(Some("a\n"), &s), None);
    }

    #[test]
    fn what_is_put_in_ends_as_the_other_lines_do() {
        let s = spec("port 80", Some("^port [0-9]+$"), true);
        assert_eq!(edited(Some("x\r\nport 1\r\ny\r\n"), &s).as_deref(), Some("x\r\nport 80\r\ny\r\n"));
        assert_eq!(edited(Some("x\r\ny\r\n"), &s).as_deref(), Some("x\r\ny\r\nport 80\r\n"));
        assert_eq!(edited(Some("x\r\ny"), &s).as_deref(), Some("x\r\ny\r\nport 80\r\n"));
        assert_eq!(edited(Some("x\r\nport 80\r\n"), &s), None);
        assert_eq!(edited(Some("x\r\nport 80\r\n"), &spec("port 80", None, true)), None);
        let gone = spec("x", None, false);
        assert_eq!(edited(Some("x\r\ny\r\n"), &gone).as_deref(), Some("y\r\n"));
        // Where both are in use, the line that is replaced keeps its own.
        assert_eq!(edited(Some("x\nport 1\r\n"), &s).as_deref(), Some("x\nport 80\r\n"));
        assert_eq!(edited(Some("x\r\ny\n"), &s).as_deref(), Some("x\r\ny\nport 80\n"));
    }

    proptest! {
        #[test]
        fn every_edit_of_any_line_endings_can_be_turned_round(
            old in "([abp]{0,2}\r?\n){0,5}[abp]{0,2}",
            line in "[abp]{1,2}",
            pattern in proptest::option::of(Just("^p")),
            present: bool,
        ) {
            let s = spec(&line, pattern, present);
            if let Some((new, done)) = edit(Some(&old), &s).unwrap() {
                prop_assert_eq!(undo(&new, &done), Some(old));
                prop_assert_eq!(edit(Some(&new), &s).unwrap(), None);
            }
        }

        #[test]
        fn what_was_turned_round_can_be_turned_round_again(
            old in proptest::option::of("([abp]{0,2}\n){0,5}"),
            line in "[abp]{1,2}",
            pattern in proptest::option::of(Just("^p")),
            present: bool,
        ) {
            let s = spec(&line, pattern, present);
            if let Some((new, done)) = edit(old.as_deref(), &s).unwrap() {
                let (back, edits) = turned_round(Some(&new), &done);
                prop_assert_eq!(&back, &old);
                prop_assert!(edits.iter().all(|e| makes_file(e) == old.is_none()));
                let again = edits.iter().rev().try_fold(back.unwrap_or_default(), |text, e| undo(&text, e));
                prop_assert_eq!(again, Some(new));
            }
        }

        #[test]
        fn every_edit_can_be_turned_round(
            old in proptest::option::of("([abp]{0,2}\n){0,5}[abp]{0,2}"),
            line in "[abp]{1,2}",
            pattern in proptest::option::of(Just("^p")),
            present: bool,
        ) {
            let s = spec(&line, pattern, present);
            if let Some((new, done)) = edit(old.as_deref(), &s).unwrap() {
                prop_assert_eq!(undo(&new, &done), old.clone());
                if let Some(old) = &old {
                    prop_assert_eq!(undo(old, &done), Some(old.clone()), "turned round twice");
                }
                prop_assert_eq!(edit(Some(&new), &s).unwrap(), None);
            }
        }
    }
}
