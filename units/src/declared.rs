//! Units as they were declared: checked one by one, not yet against each other.

use toml::de::{DeTable, DeValue};

use crate::address::{Address, Kind};
use crate::diagnostic::Diagnostic;
use crate::files::File;
use crate::kind::{self, Spec, directory::Tree, service};
use crate::manifest::{EdgeKind, flags};
use crate::nearest::nearest;
use crate::reader::{Reader, found, span};
use crate::report::Report;
use crate::source::Span;
use crate::unquoted;
use crate::value::{ValueError, name};

/// An edge as it was written.
#[derive(Debug, Clone)]
pub struct Link {
    /// Under which key.
    pub key: LinkKey,
    /// The unit that it names.
    pub to: Address,
    /// Where the name stands.
    pub at: Span,
}

/// The keys that make edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKey {
    /// One that is an edge from the unit that says it.
    To(EdgeKind),
    /// `before`: an `after` from the named unit.
    Before,
}

impl LinkKey {
    /// Every key.
    const ALL: [LinkKey; 7] = [
        LinkKey::To(EdgeKind::Requires),
        LinkKey::To(EdgeKind::Binds),
        LinkKey::To(EdgeKind::Wants),
        LinkKey::To(EdgeKind::After),
        LinkKey::To(EdgeKind::ReloadOn),
        LinkKey::To(EdgeKind::RestartOn),
        LinkKey::Before,
    ];

    /// The key in state files.
    pub const fn word(self) -> &'static str {
        match self {
            LinkKey::To(kind) => kind.word(),
            LinkKey::Before => "before",
        }
    }
}

/// A unit as it was declared.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its address, canonical.
    pub address: Address,
    /// Its checked form.
    pub spec: Spec,
    /// See [`flags`].
    pub flags: u8,
    /// Milliseconds of quiet.
    pub settle: u16,
    /// What a person wrote about it.
    pub description: String,
    /// Number of its layer.
    pub layer: usize,
    /// Whether it may replace one of an earlier layer.
    pub overrides: bool,
    /// Where its table begins.
    pub header: Span,
    /// Where its values stand.
    pub keys: Vec<(&'static str, Span)>,
    /// The edges that it says.
    pub links: Vec<Link>,
    /// What a directory takes its entries from.
    pub tree: Option<Tree>,
    /// The directory whose source it comes from.
    pub part_of: Option<Address>,
    /// Whether its table's header is broken: it gives way to a sound one of its name.
    pub lost: bool,
}

impl Declared {
    /// Where a value stands; the header without it.
    pub fn at(&self, key: &str) -> Span {
        self.keys.iter().find(|(k, _)| *k == key).map_or(self.header, |(_, at)| *at)
    }
}

/// Top-level words that are no kinds.
const RESERVED: [&str; 4] = ["holdfast", "vars", "include", "use"];

/// Reads every unit of a file.
pub fn read(report: &mut Report<'_>, file: &File<'_>, out: &mut Vec<Declared>) {
    for (key, value) in &file.table {
        let (word, at) = (key.get_ref().as_ref(), span(file.number, key));
        if word == "use" {
            let d = Diagnostic::error("reserved", at, "`use` is reserved for later versions of the language");
            report.add(d);
            continue;
        }
        if RESERVED.contains(&word) {
            continue;
        }
        let Some(kind) = Kind::from_word(word) else {
            let d = Diagnostic::error("unknown-kind", at, format!("unknown kind `{word}`"));
            let words = Kind::ALL.map(Kind::word);
            let near = if report.may_suggest(words.len()) {
                nearest(word, words.into_iter().chain(RESERVED))
            } else {
                None
            };
            report.add(match near {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help(format!("the kinds are {}", words.join(", "))),
            });
            continue;
        };
        let DeValue::Table(units) = value.get_ref() else {
            let text = format!("`{word}` is a table of units, but this is {}", found(value.get_ref()));
            let d = Diagnostic::error("wrong-type", span(file.number, value), text);
            report.add(d.help(format!("declare a unit by `{}`", crate::field::table(kind).header)));
            continue;
        };
        for (name, value) in units {
            let (said, at) = (name.get_ref().as_ref(), span(file.number, name));
            let DeValue::Table(table) = value.get_ref() else {
                let found = found(value.get_ref());
                let text = format!("`{word}.{said}` is a unit, and so a table, but this is {found}");
                let d = Diagnostic::error("wrong-type", at, text);
                report.add(d.help(format!("declare a unit by `{}`", unquoted::header(kind, said))));
                continue;
            };
            let mistakes = unquoted::mistakes(kind, said, at, table);
            if !mistakes.is_empty() {
                mistakes.into_iter().for_each(|d| report.add(d));
                continue;
            }
            let header = span(file.number, value);
            out.push(declare(report, kind, (said, Some(at)), (header, table), file.layer));
        }
    }
    for section in &file.lost {
        let Some(kind) = Kind::from_word(&section.word).filter(|_| !section.name.is_empty()) else {
            continue;
        };
        // That its name is wrong has been said with the header.
        let said = (section.name.as_str(), None);
        let unit = declare(report, kind, said, (section.header, &section.table), file.layer);
        out.push(Declared { lost: true, ..unit });
    }
}

/// One unit, by its name and where that stands, and by its table and where that begins. Without a place nothing is said
/// of the name.
fn declare(
    report: &mut Report<'_>,
    kind: Kind,
    (said, at): (&str, Option<Span>),
    (header, table): (Span, &DeTable<'_>),
    layer: usize,
) -> Declared {
    match unit_name(kind, said) {
        Ok(name) => unit(Reader::new(report, Address::new(kind, name), header, table), layer),
        Err(e) => {
            if at.is_some() {
                let mut d = Diagnostic::error("bad-name", at, e.message);
                d.help = e.help;
                report.add(d);
            }
            // No manifest comes of it: what else is wrong with it, and with what it names, is said all the same.
            let reader = Reader::new(report, Address::new(kind, said), header, table);
            Declared { tree: None, ..unit(reader, layer) }
        }
    }
}

/// The name of a table, made canonical.
fn unit_name(kind: Kind, said: &str) -> Result<String, ValueError> {
    // A path could hold it, and would be taken as it stands.
    if said.contains("${") {
        let error = ValueError::new(format!("`{said}` is no name for a {kind}: names take no variables"));
        return Err(error.help("write the name out: `${vars.…}` has a meaning in values only"));
    }
    name::unit(kind, said)
}

/// Reads one unit.
fn unit(mut r: Reader<'_, '_>, layer: usize) -> Declared {
    let mark = r.report.mark();
    r.check_keys();
    let (spec, tree) = spec(&mut r);
    let mut flags = 0;
    let mut set = |flag, on: bool| flags |= if on { flag } else { 0 };
    set(flags::REPORT, r.choice("drift", &[("repair", false), ("report", true)]));
    set(flags::KEEP_ON_REMOVAL, r.choice("on-removal", &[("purge", false), ("keep", true)]));
    match &spec {
        Spec::Service(s) => {
            set(flags::MANUAL, s.start == service::Start::Manual);
            set(flags::ON_DEMAND, s.start == service::Start::OnDemand);
            set(flags::SECRET, s.secret);
        }
        Spec::File(f) => {
            set(flags::SEED, f.ownership == kind::file::Ownership::Seed);
            set(flags::SECRET, f.secret);
        }
        Spec::User(_) => set(flags::SECRET, r.has("password-hash")),
        _ => {}
    }
    let settle = u16::try_from(r.duration("settle")).ok().filter(|ms| *ms <= 60_000);
    if settle.is_none() {
        let at = r.at("settle");
        r.wrong(Diagnostic::error("bad-value", at, "`settle`: longer than 60s"));
    }
    let links = links(&mut r);
    let description = r.line("description").unwrap_or_default();
    let overrides = r.flag("override");
    if flags & flags::SECRET != 0 {
        // Of a user one value is secret; the rest of it stands in files that everybody may read.
        let only = matches!(spec, Spec::User(_)).then(|| r.at("password-hash"));
        r.report.conceal(mark, only);
    }
    Declared {
        spec,
        flags,
        settle: settle.unwrap_or_default(),
        description,
        layer,
        overrides,
        header: r.header,
        keys: r.spans(),
        links,
        tree,
        part_of: None,
        lost: false,
        address: r.address,
    }
}

fn spec(r: &mut Reader<'_, '_>) -> (Spec, Option<Tree>) {
    let spec = match r.address.kind {
        Kind::Service => Spec::Service(Box::new(service::read(r))),
        Kind::File => Spec::File(kind::file::read(r)),
        Kind::Directory => {
            let (directory, tree) = kind::directory::read(r);
            return (Spec::Directory(directory), tree);
        }
        Kind::Symlink => Spec::Symlink(kind::symlink::read(r)),
        Kind::Line => Spec::Line(kind::line::read(r)),
        Kind::Mount => Spec::Mount(kind::mount::read(r)),
        Kind::Sysctl => Spec::Sysctl(kind::sysctl::read(r)),
        Kind::Module => Spec::Module(kind::module::read(r)),
        Kind::Hostname => Spec::Hostname(kind::hostname::read(r)),
        Kind::User => Spec::User(kind::user::read(r)),
        Kind::Group => Spec::Group(kind::group::read(r)),
        Kind::Exec => Spec::Exec(Box::new(kind::exec::read(r))),
        Kind::Target => Spec::Target(kind::target::Target {}),
    };
    (spec, None)
}

/// The written edges, as far as they name something that could be a unit.
fn links(r: &mut Reader<'_, '_>) -> Vec<Link> {
    let mut out = Vec::new();
    for key in LinkKey::ALL {
        let bounces = matches!(key, LinkKey::To(EdgeKind::ReloadOn | EdgeKind::RestartOn));
        let places = r.placed_texts(key.word());
        if bounces && r.has(key.word()) && !matches!(r.address.kind, Kind::Service | Kind::Exec) {
            let text = format!(
                "`{}` means nothing for a {}: only services and execs run",
                key.word(),
                r.address.kind
            );
            r.wrong(Diagnostic::error("useless-key", r.at(key.word()), text));
            continue;
        }
        for (said, at) in places {
            match address(&said) {
                Ok(to) if to == r.address => {
                    let text = format!("{} names itself in `{}`", r.address, key.word());
                    r.wrong(Diagnostic::error("self-edge", at, text));
                }
                Ok(to) => out.push(Link { key, to, at }),
                Err((text, help)) => {
                    let d = Diagnostic::error("bad-address", at, text);
                    r.wrong(d.help(help));
                }
            }
        }
    }
    out
}

/// A written address, with its name made canonical; else what is wrong with it and the way out.
fn address(said: &str) -> Result<Address, (String, String)> {
    let Some((word, rest)) = said.split_once(':') else {
        let kind = if said.starts_with('/') { "file" } else { "service" };
        // As systemd writes it.
        if let Some((name, kind)) = said.rsplit_once('.').and_then(|(n, k)| Some((n, Kind::from_word(k)?)))
            && !name.is_empty()
        {
            let help = format!("here the kind comes first: `{}:{name}`", kind.word());
            return Err((format!("`{said}` is no unit"), help));
        }
        // As its header has it.
        if let Some((word, name)) = said.split_once('.')
            && Kind::from_word(word).is_some()
        {
            let name = name.trim_matches(['"', '\'']);
            return Err((format!("`{said}` is no unit"), format!("write it with a colon: `{word}:{name}`")));
        }
        return Err((format!("`{said}` is no unit"), format!("write the kind too, as in `{kind}:{said}`")));
    };
    let Some(kind) = Kind::from_word(word) else {
        let help = match nearest(word, Kind::ALL.map(Kind::word)) {
            Some(near) => format!("did you mean `{near}:{rest}`?"),
            None => format!("the kinds are {}", Kind::ALL.map(Kind::word).join(", ")),
        };
        return Err((format!("`{said}` is no unit: unknown kind `{word}`"), help));
    };
    match name::unit(kind, rest) {
        Ok(name) => Ok(Address::new(kind, name)),
        Err(e) => Err((format!("`{said}` is no unit: {}", e.message), e.help.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::MemoryLoader;

    #[test]
    fn every_key_of_every_table_is_read() {
        for kind in Kind::ALL {
            let mut loader = MemoryLoader::new();
            let mut report = Report::new(&mut loader);
            let table = toml::de::DeTable::new();
            let name = if matches!(kind, Kind::File | Kind::Directory) { "/x" } else { "x" };
            let header = Span { file: 0, start: 0, end: 0 };
            let mut r = Reader::new(&mut report, Address::new(kind, name), header, &table);
            let asked = std::rc::Rc::clone(r.asked());
            r.check_keys();
            unit(r, 0);
            let mut keys: Vec<&str> = crate::field::table(kind).keys().collect();
            keys.sort_unstable();
            assert_eq!(asked.borrow().iter().copied().collect::<Vec<_>>(), keys, "{kind}");
        }
    }
}
