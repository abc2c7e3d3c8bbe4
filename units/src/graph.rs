//! The edges between units: those that were written, and those that go without saying (auto-edges), each with why
//! it exists.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use crate::address::{Address, Kind};
use crate::cycle;
use crate::declared::{Declared, LinkKey};
use crate::diagnostic::Diagnostic;
use crate::kind::Spec;
use crate::kind::service::{DEFAULT_PATH, Ready, Reload};
use crate::manifest::EdgeKind;
use crate::nearest::nearest;
use crate::report::Report;
use crate::source::Span;
use crate::value::path::ancestors;

/// One edge between two declared units, by their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Who depends.
    pub from: u32,
    /// On whom.
    pub to: u32,
    /// What it means.
    pub kind: EdgeKind,
    /// Why, for auto-edges; empty for written ones.
    pub reason: Cow<'static, str>,
    /// Where it was said; for an auto-edge where the depending unit is declared.
    pub at: Span,
}

/// Finds units by their addresses and paths.
pub struct Index<'d> {
    units: &'d [Declared],
    /// Whether there is any of a kind: most states have no mount, of which every file would be asked.
    kinds: BTreeSet<Kind>,
    by_uid: HashMap<u32, u32>,
    by_gid: HashMap<u32, u32>,
    children: HashMap<&'d Address, Vec<u32>>,
}

impl<'d> Index<'d> {
    /// An index of units, which are sorted by address.
    pub fn new(units: &'d [Declared]) -> Index<'d> {
        let mut index = Index {
            units,
            kinds: BTreeSet::new(),
            by_uid: HashMap::new(),
            by_gid: HashMap::new(),
            children: HashMap::new(),
        };
        for (unit, number) in units.iter().zip(0u32..) {
            if index.kinds.last() != Some(&unit.address.kind) {
                index.kinds.insert(unit.address.kind);
            }
            match &unit.spec {
                Spec::User(u) => index.by_uid.extend(u.uid.map(|uid| (uid, number))),
                Spec::Group(g) => index.by_gid.extend(g.gid.map(|gid| (gid, number))),
                _ => {}
            }
            if let Some(parent) = &unit.part_of {
                index.children.entry(parent).or_default().push(number);
            }
        }
        index
    }

    /// The unit with this address.
    pub fn find(&self, kind: Kind, name: &str) -> Option<u32> {
        if !self.kinds.contains(&kind) {
            return None;
        }
        let found = self.units.binary_search_by(|unit| {
            let address = &unit.address;
            address.kind.cmp(&kind).then_with(|| address.name.as_str().cmp(name))
        });
        found.ok().and_then(|at| u32::try_from(at).ok())
    }

    /// The unit at a position.
    pub fn unit(&self, number: u32) -> Option<&'d Declared> {
        self.units.get(number as usize)
    }

    /// The units that come from a directory's source.
    fn children(&self, directory: &Address) -> &[u32] {
        self.children.get(directory).map(Vec::as_slice).unwrap_or_default()
    }

    fn user(&self, said: &str) -> Option<u32> {
        let by_number = || self.by_uid.get(&said.parse().ok()?).copied();
        self.find(Kind::User, said).or_else(by_number)
    }

    fn group(&self, said: &str) -> Option<u32> {
        let by_number = || self.by_gid.get(&said.parse().ok()?).copied();
        self.find(Kind::Group, said).or_else(by_number)
    }

    fn suggest(&self, to: &Address) -> Option<String> {
        // As systemd writes it, and with the kind all the same.
        if let Some((name, word)) = to.name.rsplit_once('.')
            && Kind::from_word(word).is_some_and(|kind| self.find(kind, name).is_some())
        {
            return Some(format!("did you mean `{word}:{name}`?"));
        }
        let same = self.units.iter().filter(|u| u.address.kind == to.kind).map(|u| u.address.name.as_str());
        if let Some(name) = nearest(&to.name, same) {
            return Some(format!("did you mean `{}:{name}`?", to.kind));
        }
        let other = self.units.iter().find(|u| u.address.name == to.name);
        other.map(|u| format!("did you mean `{}`?", u.address))
    }
}

/// Every edge: the written ones first.
pub fn edges(index: &Index<'_>, report: &mut Report<'_>) -> Vec<Edge> {
    let mut out = Vec::new();
    for (unit, from) in index.units.iter().zip(0u32..) {
        written(index, unit, from, report, &mut out);
    }
    for (unit, from) in index.units.iter().zip(0u32..) {
        Auto { index, unit, from, out: &mut out }.all();
    }
    out
}

fn written(index: &Index<'_>, unit: &Declared, from: u32, report: &mut Report<'_>, out: &mut Vec<Edge>) {
    for link in &unit.links {
        let Some(to) = index.find(link.to.kind, &link.to.name) else {
            unknown(index, unit, link, report);
            continue;
        };
        let (kind, bounces) = match link.key {
            LinkKey::To(kind) => (kind, matches!(kind, EdgeKind::ReloadOn | EdgeKind::RestartOn)),
            LinkKey::Before => (EdgeKind::After, false),
        };
        let children = index.children(&link.to).iter().filter(|c| **c != from);
        let all = std::iter::once((to, None)).chain(children.map(|c| (*c, Some(&link.to))));
        for (other, part) in all {
            let reason = part.map_or(Cow::Borrowed(""), |d| Cow::Owned(format!("part of {d}")));
            let (a, b) = if link.key == LinkKey::Before { (other, from) } else { (from, other) };
            out.push(Edge { from: a, to: b, kind, reason, at: link.at });
            if bounces {
                let reason = Cow::Borrowed("its input");
                out.push(Edge { from: a, to: b, kind: EdgeKind::Requires, reason, at: link.at });
            }
        }
    }
}

fn unknown(index: &Index<'_>, unit: &Declared, link: &crate::declared::Link, report: &mut Report<'_>) {
    if report.may_have_lost(&link.to) {
        return;
    }
    let soft =
        matches!(link.key, LinkKey::Before | LinkKey::To(EdgeKind::After) | LinkKey::To(EdgeKind::Wants));
    let text =
        format!("`{}` of {} names {}, which is declared nowhere", link.key.word(), unit.address, link.to);
    let d = match soft {
        true => Diagnostic::warning("unknown-unit", link.at, text),
        false => Diagnostic::error("unknown-unit", link.at, text),
    };
    let near = if report.may_suggest(index.units.len()) { index.suggest(&link.to) } else { None };
    report.add(match near {
        Some(help) => d.help(help),
        None => d,
    });
}

/// The auto-edges of one unit.
struct Auto<'a, 'd> {
    index: &'a Index<'d>,
    unit: &'d Declared,
    from: u32,
    out: &'a mut Vec<Edge>,
}

impl<'d> Auto<'_, 'd> {
    fn edge(&mut self, to: Option<u32>, kind: EdgeKind, reason: impl Into<Cow<'static, str>>) {
        if let Some(to) = to.filter(|to| *to != self.from) {
            self.out.push(Edge { from: self.from, to, kind, reason: reason.into(), at: self.unit.header });
        }
    }

    fn requires(&mut self, to: Option<u32>, reason: &'static str) {
        self.edge(to, EdgeKind::Requires, reason);
    }

    fn all(&mut self) {
        match &self.unit.spec {
            Spec::Service(s) => {
                self.program(&s.exec, &s.environment);
                for command in s.stop.iter().chain(match &s.reload {
                    Some(Reload::Command(c)) => Some(c),
                    _ => None,
                }) {
                    self.program(command, &s.environment);
                }
                let ready = match &s.ready {
                    Ready::Path(p) => Some(p),
                    _ => None,
                };
                for path in [ready, s.pid_file.as_ref(), s.tty.as_ref()].into_iter().flatten() {
                    self.above(path);
                    self.mount(path, true);
                }
                for path in s.directory.iter().chain(&s.writes) {
                    self.at_or_above(path);
                    self.mount(path, true);
                }
                self.accounts(
                    s.user.as_deref(),
                    s.group.as_deref(),
                    "user of the service",
                    "group of the service",
                );
                for group in &s.groups {
                    self.requires(self.index.group(group), "group of the service");
                }
            }
            Spec::Exec(e) => {
                self.program(&e.command, &e.environment);
                for command in e.unless.iter().chain(&e.undo) {
                    self.program(command, &e.environment);
                }
                if let Some(path) = &e.creates {
                    self.above(path);
                    self.mount(path, true);
                }
                if let Some(path) = &e.directory {
                    self.at_or_above(path);
                    self.mount(path, true);
                }
                self.accounts(
                    e.user.as_deref(),
                    e.group.as_deref(),
                    "user of the command",
                    "group of the command",
                );
            }
            Spec::File(f) => {
                self.own_path(&f.path);
                let a = &f.attributes;
                self.accounts(a.owner.as_deref(), a.group.as_deref(), "owner", "group");
            }
            Spec::Directory(d) => {
                self.own_path(&d.path);
                let a = &d.attributes;
                self.accounts(a.owner.as_deref(), a.group.as_deref(), "owner", "group");
            }
            Spec::Symlink(s) => {
                self.own_path(&s.path);
                self.accounts(s.owner.as_deref(), s.group.as_deref(), "owner", "group");
            }
            Spec::Line(l) => {
                self.requires(self.index.find(Kind::File, &l.path), "the file of the line");
                self.requires(self.index.find(Kind::Symlink, &l.path), "the way to the file");
                self.own_path(&l.path);
            }
            Spec::Mount(m) => {
                self.above(&m.path);
                self.mount(&m.path, false);
                self.requires(self.index.find(Kind::Module, &m.fstype), "driver of the file system");
                if m.source.starts_with('/') {
                    self.at_or_above(&m.source);
                    self.requires(self.index.find(Kind::File, &m.source), "what is mounted");
                    self.mount(&m.source, true);
                }
            }
            Spec::Sysctl(s) => self.mount(&format!("/proc/sys/{}", s.key), true),
            Spec::User(u) => {
                let primary = u.group.as_deref().unwrap_or(&u.name);
                self.requires(self.index.group(primary), "primary group of the user");
                for group in &u.groups {
                    self.requires(self.index.group(group), "group of the user");
                }
                if u.create_home {
                    let home = u.home_directory();
                    self.above(&home);
                    self.mount(&home, true);
                }
                if let Some(shell) = &u.shell {
                    self.requires(self.index.find(Kind::File, shell), "shell of the user");
                }
            }
            Spec::Module(_) | Spec::Hostname(_) | Spec::Group(_) | Spec::Target(_) => {}
        }
    }

    /// The path of a unit of a path kind.
    fn own_path(&mut self, path: &str) {
        self.above(path);
        self.mount(path, true);
    }

    /// The nearest managed directory or link above a path.
    fn above(&mut self, path: &str) {
        for parent in ancestors(path) {
            if let Some(found) = self.index.find(Kind::Directory, parent) {
                return self.requires(Some(found), "parent directory");
            }
            if let Some(found) = self.index.find(Kind::Symlink, parent) {
                return self.requires(Some(found), "the way to it");
            }
        }
    }

    /// The managed directory or link that a path is, else the nearest one above it.
    fn at_or_above(&mut self, path: &str) {
        let directory = self.index.find(Kind::Directory, path);
        let here = directory.or_else(|| self.index.find(Kind::Symlink, path));
        match here {
            Some(found) => self.requires(Some(found), "a directory that it uses"),
            None => self.above(path),
        }
    }

    /// The nearest managed mount on the way to a path; at the path itself only with `here`.
    fn mount(&mut self, path: &str, here: bool) {
        let own = here.then_some(path);
        let found = own.into_iter().chain(ancestors(path)).find_map(|p| self.index.find(Kind::Mount, p));
        let live = self.unit.address.kind == Kind::Service;
        let kind = if live { EdgeKind::Binds } else { EdgeKind::Requires };
        self.edge(found, kind, "mount that holds it");
    }

    /// A program, if its file is managed; looked for where it will be.
    fn program(&mut self, command: &[String], environment: &[(String, String)]) {
        let Some(name) = command.first().filter(|n| !n.is_empty()) else { return };
        let file = |i: &Index<'_>, p: &str| i.find(Kind::File, p).or_else(|| i.find(Kind::Symlink, p));
        if name.starts_with('/') {
            let Ok(path) = crate::value::path::canonical(name) else { return };
            match file(self.index, &path) {
                Some(found) => self.requires(Some(found), "program"),
                None => self.above(&path),
            }
            return self.mount(&path, true);
        }
        let path = environment.iter().find(|(n, _)| n == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
        let found = path
            .split(':')
            .map(|d| d.trim_end_matches('/'))
            .find_map(|d| file(self.index, &format!("{d}/{name}")));
        self.requires(found, "program");
    }

    fn accounts(
        &mut self,
        user: Option<&str>,
        group: Option<&str>,
        as_user: &'static str,
        as_group: &'static str,
    ) {
        self.requires(user.and_then(|u| self.index.user(u)), as_user);
        self.requires(group.and_then(|g| self.index.group(g)), as_group);
    }
}

/// Reports every cycle of the edges that order, edge by edge.
pub fn check_cycles(index: &Index<'_>, edges: &[Edge], report: &mut Report<'_>) {
    let orders = |e: &&Edge| !matches!(e.kind, EdgeKind::ReloadOn | EdgeKind::RestartOn);
    let ordering: Vec<&Edge> = edges.iter().filter(orders).collect();
    let pairs: Vec<(u32, u32)> = ordering.iter().map(|e| (e.from, e.to)).collect();
    let name = |number| index.unit(number).map(|u| u.address.to_string()).unwrap_or_default();
    for cycle in cycle::cycles(index.units.len(), &pairs) {
        let way: Vec<&Edge> = cycle.iter().filter_map(|e| ordering.get(*e).copied()).collect();
        let Some(first) = way.first() else { continue };
        let shown = way.iter().take(SHOWN).map(|e| name(e.from));
        let gap = (way.len() > SHOWN).then(|| format!("… {} more …", way.len() - SHOWN));
        let names: Vec<String> = shown.chain(gap).chain([name(first.from)]).collect();
        let text = format!("units wait for each other: {}", names.join(" → "));
        let mut d = Diagnostic::error("cycle", first.at, text);
        for edge in way.iter().take(SHOWN) {
            let why = match edge.reason.as_ref() {
                "" => String::new(),
                reason => format!(" ({reason})"),
            };
            d = d.label(edge.at, format!("{} {} {}{why}", name(edge.from), verb(edge.kind), name(edge.to)));
        }
        report.add(d.help("take one of these edges away"));
    }
}

/// Edges of a cycle that are shown one by one.
const SHOWN: usize = 50;

const fn verb(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Requires => "requires",
        EdgeKind::Binds => "is bound to",
        EdgeKind::Wants => "wants",
        EdgeKind::After => "comes after",
        EdgeKind::ReloadOn => "reloads on",
        EdgeKind::RestartOn => "restarts on",
    }
}
