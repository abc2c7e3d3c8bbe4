//! `source` of a directory: every entry below it becomes a unit of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::address::{Address, Kind};
use crate::compile::{Layer, in_two_layers};
use crate::declared::Declared;
use crate::diagnostic::Diagnostic;
use crate::kind::file::{File, Ownership};
use crate::kind::line::Line;
use crate::kind::service::{Ready, Reload};
use crate::kind::{Attributes, Spec, directory::Directory, directory::Tree, symlink::Symlink};
use crate::load::EntryKind;
use crate::report::Report;
use crate::value::name;
use crate::value::path::{ancestors, canonical};

/// Units by address, in the order of a manifest.
pub type Units = BTreeMap<(Kind, String), Declared>;

/// Entries that one directory may expand to.
const MAX_ENTRIES: usize = 1_000_000;

/// Expands every directory with a source. Units with a table of their own win.
pub fn expand(units: &mut Units, layers: &[Layer], report: &mut Report<'_>) {
    let roots: Vec<(Declared, Tree)> =
        units.values().filter_map(|u| Some((u.clone(), u.tree.clone()?))).collect();
    for (root, tree) in roots {
        walk(&root, &tree, units, layers, report);
    }
}

fn walk(root: &Declared, tree: &Tree, units: &mut Units, layers: &[Layer], report: &mut Report<'_>) {
    let Spec::Directory(directory) = &root.spec else { return };
    let at = root.at("source");
    let mut pending = vec![(report.path_at(&tree.source, at), directory.path.clone())];
    let mut count = 0usize;
    while let Some((from, to)) = pending.pop() {
        let mut entries = match report.files_at(at).list(&from) {
            Ok(entries) => entries,
            Err(e) => {
                report.unreadable(&from, &e, at);
                continue;
            }
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            count += 1;
            if count > MAX_ENTRIES {
                let text = format!("`{}` has more than {MAX_ENTRIES} entries", tree.source);
                report.add(Diagnostic::error("too-large", at, text));
                return;
            }
            let source = format!("{}/{}", from.trim_end_matches('/'), entry.name);
            let path = format!("{}/{}", to.trim_end_matches('/'), entry.name);
            let attributes = |mode| Attributes {
                mode: Some(mode),
                owner: directory.attributes.owner.clone(),
                group: directory.attributes.group.clone(),
                xattrs: Vec::new(),
            };
            let (kind, spec) = match entry.kind {
                EntryKind::File => {
                    // Digested even where a unit of its own wins, which is rare.
                    let Some(content) = report.source_at(source, at) else { continue };
                    let natural = if entry.mode & 0o111 == 0 { 0o644 } else { 0o755 };
                    let file = File {
                        path: path.clone(),
                        content: Some(content),
                        attributes: attributes(tree.file_mode.unwrap_or(natural)),
                        ownership: Ownership::Whole,
                        secret: false,
                    };
                    (Kind::File, Spec::File(file))
                }
                EntryKind::Directory => {
                    pending.push((source, path.clone()));
                    let attributes = attributes(tree.directory_mode.unwrap_or(0o755));
                    let inner = Directory {
                        path: path.clone(),
                        attributes,
                        purge: directory.purge,
                        entries: Vec::new(),
                    };
                    (Kind::Directory, Spec::Directory(inner))
                }
                EntryKind::Symlink(target) => {
                    let Attributes { owner, group, .. } = attributes(0);
                    (Kind::Symlink, Spec::Symlink(Symlink { path: path.clone(), target, owner, group }))
                }
                EntryKind::Other => {
                    let text = format!("`{source}` is neither file, directory nor link: left out");
                    report.add(Diagnostic::warning("odd-source", at, text));
                    continue;
                }
            };
            if let Err(e) = name::unit(kind, &path) {
                report.add(Diagnostic::error("bad-name", at, format!("in `{}`: {}", tree.source, e.message)));
                continue;
            }
            add(root, Address::new(kind, path), spec, units, layers, report);
        }
    }
}

fn add(
    root: &Declared,
    address: Address,
    spec: Spec,
    units: &mut Units,
    layers: &[Layer],
    report: &mut Report<'_>,
) {
    let own = [Kind::File, Kind::Directory, Kind::Symlink]
        .into_iter()
        .find_map(|kind| units.get(&(kind, address.name.clone())));
    match own {
        // In one layer, a table of its own says more than its directory does.
        Some(other) if other.part_of.is_none() && other.layer == root.layer => return,
        Some(other) if other.layer > root.layer && other.overrides => return,
        Some(other) if other.layer < root.layer && root.overrides => {
            let key = (other.address.kind, other.address.name.clone());
            units.remove(&key);
        }
        Some(other) if other.layer != root.layer => {
            let (later, earlier) = if other.layer > root.layer { (other, root) } else { (root, other) };
            report.add(in_two_layers(layers, &address, later, earlier));
            return;
        }
        Some(other) => {
            let text = format!("{address} comes from two directories");
            let d = Diagnostic::error("duplicate-unit", root.at("source"), text);
            report.add(d.label(other.at("source"), "from this one too"));
            return;
        }
        None => {}
    }
    let unit = Declared {
        address: address.clone(),
        spec,
        flags: root.flags,
        settle: root.settle,
        description: String::new(),
        layer: root.layer,
        overrides: false,
        header: root.header,
        keys: root.keys.iter().filter(|(k, _)| *k == "source").copied().collect(),
        links: Vec::new(),
        tree: None,
        part_of: Some(root.address.clone()),
        lost: root.lost,
    };
    units.insert((address.kind, address.name), unit);
}

/// Fills in the declared entries of directories that purge the others.
pub fn fill_entries(units: &mut Units) {
    let purging = |u: &Declared| matches!(&u.spec, Spec::Directory(d) if d.purge);
    let mut entries: BTreeMap<String, std::collections::BTreeSet<String>> =
        units.values().filter(|u| purging(u)).map(|u| (u.address.name.clone(), Default::default())).collect();
    if entries.is_empty() {
        return;
    }
    for unit in units.values() {
        for path in named(&unit.spec) {
            let mut below: &str = &path;
            for parent in ancestors(&path) {
                if let Some(set) = entries.get_mut(parent) {
                    let name = below.rsplit_once('/').map_or(below, |(_, n)| n);
                    set.insert(name.to_owned());
                }
                below = parent;
            }
        }
    }
    for unit in units.values_mut() {
        if let Spec::Directory(d) = &mut unit.spec
            && let Some(set) = entries.remove(&d.path)
        {
            d.entries = set.into_iter().collect();
        }
    }
}

/// The paths that a declaration names: its own, and what it needs, makes or writes. Programs are named too, those that
/// lie where a shell would look are not.
fn named(spec: &Spec) -> Vec<Cow<'_, str>> {
    let program = |command: &[String]| {
        let name = command.first().filter(|n| n.starts_with('/'))?;
        canonical(name).ok().map(Cow::Owned)
    };
    match spec {
        Spec::File(File { path, .. })
        | Spec::Directory(Directory { path, .. })
        | Spec::Symlink(Symlink { path, .. })
        | Spec::Line(Line { path, .. }) => vec![Cow::Borrowed(path)],
        Spec::Mount(m) => {
            let source = Some(&m.source).filter(|s| s.starts_with('/'));
            [&m.path].into_iter().chain(source).map(|p| Cow::Borrowed(p.as_str())).collect()
        }
        Spec::User(u) => {
            let shell = u.shell.as_deref().map(Cow::Borrowed);
            [u.home_directory()].into_iter().chain(shell).collect()
        }
        Spec::Service(s) => {
            let ready = if let Ready::Path(path) = &s.ready { Some(path) } else { None };
            let reload = if let Some(Reload::Command(command)) = &s.reload { Some(command) } else { None };
            let paths =
                ready.into_iter().chain(&s.pid_file).chain(&s.directory).chain(&s.tty).chain(&s.writes);
            let commands = [Some(&s.exec), s.stop.as_ref(), reload].into_iter().flatten();
            let programs = commands.filter_map(|c| program(c));
            paths.map(|p| Cow::Borrowed(p.as_str())).chain(programs).collect()
        }
        Spec::Exec(e) => {
            let paths = e.creates.iter().chain(&e.directory);
            let commands = [Some(&e.command), e.unless.as_ref(), e.undo.as_ref()].into_iter().flatten();
            let programs = commands.filter_map(|c| program(c));
            paths.map(|p| Cow::Borrowed(p.as_str())).chain(programs).collect()
        }
        Spec::Sysctl(_) | Spec::Module(_) | Spec::Hostname(_) | Spec::Group(_) | Spec::Target(_) => {
            Vec::new()
        }
    }
}
