//! Checks of units against each other: who claims the same thing, who writes where another one owns.

use std::collections::{BTreeMap, HashMap};

use crate::address::Kind;
use crate::declared::Declared;
use crate::diagnostic::Diagnostic;
use crate::graph::{Edge, Index};
use crate::kind::Spec;
use crate::kind::file::{File, Ownership};
use crate::kind::line::Line;
use crate::kind::service::{Ready, Start};
use crate::manifest::EdgeKind;
use crate::report::Report;
use crate::value::path::{ancestors, canonical, is_within};

/// What a unit must not share with another one, as text; empty for nothing.
pub fn claim(spec: &Spec) -> String {
    match spec {
        Spec::File(f) => format!("path:{}", f.path),
        Spec::Directory(d) => format!("path:{}", d.path),
        Spec::Symlink(s) => format!("path:{}", s.path),
        Spec::User(u) => u.uid.map(|n| format!("uid:{n}")).unwrap_or_default(),
        Spec::Group(g) => g.gid.map(|n| format!("gid:{n}")).unwrap_or_default(),
        Spec::Hostname(_) => "hostname".to_owned(),
        Spec::Service(s) if s.ready != Ready::Exited => {
            s.tty.as_ref().map(|t| format!("tty:{t}")).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// Reports everything that units do to each other.
pub fn check(index: &Index<'_>, units: &[Declared], edges: &[Edge], report: &mut Report<'_>) {
    claims(units, report);
    paths(index, units, report);
    writes(units, report);
    purges(units, report);
    lines(units, report);
    aliases(index, units, report);
    user_database(index, units, report);
    by_hand(index, edges, report);
}

fn claims(units: &[Declared], report: &mut Report<'_>) {
    let mut first: HashMap<String, &Declared> = HashMap::with_capacity(units.len());
    for unit in units {
        let claim = claim(&unit.spec);
        if claim.is_empty() {
            continue;
        }
        let Some(other) = first.get(&claim) else {
            first.insert(claim, unit);
            continue;
        };
        // Two services may share a terminal as long as a person decides which of them runs.
        let by_hand = |u: &Declared| matches!(&u.spec, Spec::Service(s) if s.start != Start::Boot);
        if by_hand(unit) || by_hand(other) {
            continue;
        }
        let (what, value) = claim.split_once(':').unwrap_or(("the host name", ""));
        let key = match unit.address.kind {
            Kind::User => "uid",
            Kind::Group => "gid",
            Kind::Service => "tty",
            Kind::Hostname => "value",
            _ => "",
        };
        let text = format!("{} and {} both claim {what} {value}", other.address, unit.address);
        let d = Diagnostic::error("claimed-twice", unit.at(key), text.trim_end());
        report.add(d.label(other.at(key), format!("claimed here by {}", other.address)));
    }
}

/// The file of a unit whose content is owned as a whole.
fn whole(unit: &Declared) -> Option<&File> {
    match &unit.spec {
        Spec::File(f) if f.ownership == Ownership::Whole && f.content.is_some() => Some(f),
        _ => None,
    }
}

/// Files cannot have anything below them, and cannot be owned whole and line by line.
fn paths(index: &Index<'_>, units: &[Declared], report: &mut Report<'_>) {
    // The directory that was looked at last, above which there is no file: neighbours have the same.
    let mut clear = "";
    for unit in units {
        let path = match &unit.spec {
            Spec::File(f) => &f.path,
            Spec::Directory(d) => &d.path,
            Spec::Symlink(s) => &s.path,
            Spec::Mount(m) => &m.path,
            Spec::Line(l) => &l.path,
            _ => continue,
        };
        let file = |p: &str| index.find(Kind::File, p).and_then(|n| index.unit(n));
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let known = !directory.is_empty() && directory == clear;
        let above = if known { None } else { ancestors(path).find_map(file) };
        if above.is_none() {
            clear = directory;
        }
        if let Some(above) = above {
            let text = format!("{} lies below {}, which is a file", unit.address, above.address);
            let d = Diagnostic::error("below-a-file", unit.header, text);
            report.add(d.label(above.header, "declared as a file here"));
        }
        let owner = file(path).filter(|o| unit.address.kind == Kind::Line && whole(o).is_some());
        if let Some(owner) = owner {
            let text =
                format!("{} changes a line of {}, which is owned as a whole", unit.address, owner.address);
            let d = Diagnostic::error("owned-twice", unit.at("path"), text).label(owner.header, "owned here");
            report.add(d.help("put the line into its content, or give it `ownership = \"seed\"`"));
        }
    }
}

/// A file that is owned as a whole must not lie where a service writes (semantics §4).
fn writes(units: &[Declared], report: &mut Report<'_>) {
    let mut owned: BTreeMap<&str, &Declared> = BTreeMap::new();
    for unit in units {
        let Spec::Service(service) = &unit.spec else { continue };
        if owned.is_empty() && !service.writes.is_empty() {
            owned = units.iter().filter_map(|u| whole(u).map(|f| (f.path.as_str(), u))).collect();
        }
        for path in &service.writes {
            let below = if path == "/" { "/".to_owned() } else { format!("{path}/") };
            let inside = owned
                .range(below.as_str()..)
                .take_while(|(p, _)| p.starts_with(&below))
                .chain(owned.get_key_value(path.as_str()));
            for (file, owner) in inside {
                let text = format!(
                    "{} is owned as a whole, but {} writes below {path}",
                    owner.address, unit.address
                );
                let d = Diagnostic::error("owned-twice", owner.header, text);
                let d = d.label(unit.at("writes"), format!("{} says so here", unit.address));
                report.add(d.help(format!(
                    "give {file} `ownership = \"seed\"`, or name the paths that the service writes more narrowly"
                )));
                if report.is_full() {
                    return;
                }
            }
        }
    }
}

/// Two lines of a file must not take each other away: each repair of one would break the other.
fn lines(units: &[Declared], report: &mut Report<'_>) {
    let mut of: BTreeMap<&str, Vec<(&Declared, &Line)>> = BTreeMap::new();
    for unit in units {
        if let Spec::Line(line) = &unit.spec {
            of.entry(&line.path).or_default().push((unit, line));
        }
    }
    for (path, lines) in of.into_iter().filter(|(_, lines)| lines.len() > 1) {
        let hitting = lines.iter().filter(|(_, l)| l.matches.is_some() || !l.present);
        for (unit, line) in hitting {
            let pattern = line.matches.as_ref().and_then(|p| regex_lite::Regex::new(p).ok());
            let takes = |other: &Line| {
                let same = other.line == line.line;
                let hit = same || pattern.as_ref().is_some_and(|p| p.is_match(&other.line));
                other.present && hit && !(same && line.present)
            };
            for (other, _) in lines.iter().filter(|(_, other)| takes(other)) {
                let text = format!("{} takes away the line of {} in {path}", unit.address, other.address);
                let key = if line.matches.is_some() { "matches" } else { "line" };
                let d = Diagnostic::error("owned-twice", unit.at(key), text);
                let d = d.label(other.at("line"), format!("{} says so here", other.address));
                report.add(d.help("give it a `matches` that no line of another unit matches"));
                if report.is_full() {
                    return;
                }
            }
        }
    }
}

/// Behind a declared link a path is another one, which two units must not want otherwise.
fn aliases(index: &Index<'_>, units: &[Declared], report: &mut Report<'_>) {
    if !units.iter().any(|u| u.address.kind == Kind::Symlink) {
        return;
    }
    for unit in units {
        let Some(path) = claim(&unit.spec).strip_prefix("path:").map(str::to_owned) else { continue };
        let (real, link) = behind_links(index, &path);
        // A link that leads round to itself is no way to anything.
        let Some(link) = link.filter(|_| real != path) else { continue };
        let there =
            [Kind::File, Kind::Directory, Kind::Symlink].into_iter().find_map(|k| index.find(k, &real));
        let Some(other) = there.and_then(|n| index.unit(n)) else { continue };
        if says_the_same(&unit.spec, &other.spec) {
            continue;
        }
        let text = format!(
            "{} is {real} behind {}, which {} declares otherwise",
            unit.address, link.address, other.address
        );
        let d = Diagnostic::error("claimed-twice", unit.header, text);
        let d = d.label(other.header, format!("{} is declared here", other.address));
        report.add(d.label(link.header, "the link"));
        if report.is_full() {
            return;
        }
    }
}

/// Whether two units that are one path want the same there.
fn says_the_same(one: &Spec, other: &Spec) -> bool {
    match (one, other) {
        (Spec::File(a), Spec::File(b)) => a.differing(b) == ["path"],
        (Spec::Directory(a), Spec::Directory(b)) => a.differing(b) == ["path"],
        (Spec::Symlink(a), Spec::Symlink(b)) => a.differing(b) == ["path"],
        _ => false,
    }
}

/// Most links on the way to one path.
const LINKS: usize = 40;

/// What a path is when the declared links above it are followed, and the last of these.
fn behind_links<'d>(index: &Index<'d>, path: &str) -> (String, Option<&'d Declared>) {
    let (mut path, mut last) = (path.to_owned(), None);
    for _ in 0..LINKS {
        let link = |above: &str| {
            let unit = index.find(Kind::Symlink, above).and_then(|n| index.unit(n))?;
            if let Spec::Symlink(link) = &unit.spec { Some((unit, link)) } else { None }
        };
        // The outermost first, as the kernel goes.
        let mut above: Vec<&str> = ancestors(&path).collect();
        above.reverse();
        let Some((unit, link)) = above.into_iter().find_map(link) else { break };
        let beside = link.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let target = if link.target.starts_with('/') {
            link.target.clone()
        } else {
            format!("{beside}/{}", link.target)
        };
        let rest = path.strip_prefix(link.path.as_str()).unwrap_or_default();
        let Ok(next) = canonical(&format!("{target}{rest}")) else { break };
        (path, last) = (next, Some(unit));
    }
    (path, last)
}

/// A directory that is purged must not lie where a service writes: what that makes there is declared by nobody.
fn purges(units: &[Declared], report: &mut Report<'_>) {
    // What comes from a directory's source is purged as that is, and said with it.
    let purged = |u: &&Declared| matches!(&u.spec, Spec::Directory(d) if d.purge) && u.part_of.is_none();
    let purged: Vec<&Declared> = units.iter().filter(purged).collect();
    if purged.is_empty() {
        return;
    }
    for unit in units {
        let Spec::Service(service) = &unit.spec else { continue };
        for path in &service.writes {
            for directory in purged.iter().filter(|d| is_within(&d.address.name, path)) {
                let text = format!(
                    "{} is purged of what nobody declared, but {} writes below {path}",
                    directory.address, unit.address
                );
                let d = Diagnostic::error("owned-twice", directory.at("purge"), text);
                let d = d.label(unit.at("writes"), format!("{} says so here", unit.address));
                let help = "leave `purge` out, or name the paths that the service writes more narrowly";
                report.add(d.help(help));
                if report.is_full() {
                    return;
                }
            }
        }
    }
}

/// Of the user database single entries are owned, which a whole file would take away.
fn user_database(index: &Index<'_>, units: &[Declared], report: &mut Report<'_>) {
    let entry = units.iter().find(|u| matches!(u.address.kind, Kind::User | Kind::Group));
    let Some(entry) = entry else { return };
    for path in ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"] {
        let Some(file) = index.find(Kind::File, path).and_then(|n| index.unit(n)) else { continue };
        if whole(file).is_some() {
            let text =
                format!("{} is owned as a whole, but {} is an entry of it", file.address, entry.address);
            let d = Diagnostic::error("owned-twice", file.header, text).label(entry.header, "declared here");
            report.add(d.help("declare users and groups only, or the files only"));
        }
    }
}

/// What waits for a unit that only a person starts, waits for that person.
fn by_hand(index: &Index<'_>, edges: &[Edge], report: &mut Report<'_>) {
    for edge in edges.iter().filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds)) {
        let (Some(from), Some(to)) = (index.unit(edge.from), index.unit(edge.to)) else { continue };
        let manual = |u: &Declared| matches!(&u.spec, Spec::Service(s) if s.start == Start::Manual);
        if manual(to) && !manual(from) && edge.reason.is_empty() {
            let text = format!("{} waits for {}, which is only started by hand", from.address, to.address);
            let d = Diagnostic::warning("waits-for-a-person", edge.at, text);
            report.add(d.help("`start = \"on-demand\"` starts it when something running requires it"));
        }
    }
}
