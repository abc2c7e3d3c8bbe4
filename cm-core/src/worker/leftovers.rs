//! What earlier generations made, and nobody declares any more: its removal was put off because its mount was absent,
//! or somebody held it, and whoever was to make up for that went down with the machine. The owners that the store knows
//! tell, and what the unit said the generation that declared it last.

use std::collections::BTreeMap;
use std::path::Path;

use units::kind::directory::Directory;
use units::kind::file::{File, Ownership};
use units::kind::line::Line;
use units::kind::symlink::Symlink;
use units::kind::{Attributes, Spec};
use units::manifest::NewUnit;
use units::{Address, EdgeKind, Kind, Manifest, ManifestBuilder};

use crate::resource::line;
use crate::store::Own;
use crate::store::index::Index;

/// How a unit was declared last.
#[derive(Debug)]
struct Former {
    spec: Spec,
    flags: u8,
    /// What it depended on.
    deps: Vec<(Address, EdgeKind)>,
}

/// What was made and is declared by none of these manifests, as a manifest of its own; nothing when there is none. Only
/// its addresses count, how it is to be taken away, what lies in what, and the mounts that are declared. `load` is asked
/// for the manifests of generations.
pub fn left_over(
    index: &Index,
    declared: &[&Manifest],
    load: impl FnMut(u64) -> Option<Manifest>,
) -> Option<Manifest> {
    let mut left: BTreeMap<Address, &Own> = index
        .own
        .iter()
        .filter(|(_, own)| own.created)
        // A unit may own other things beside the one that it is.
        .filter_map(|(thing, own)| Some((Address::parse(&own.unit)?, thing, own)))
        .filter(|(a, thing, own)| a.name == **thing || own.unit == **thing)
        .filter(|(a, ..)| declared.iter().all(|m| m.find(a.kind, &a.name).is_none()))
        .map(|(a, _, own)| (a, own))
        .collect();
    let mut known = formerly(index, &left, load);
    left.retain(|address, _| match known.get(address) {
        Some(_) => true,
        None => bare(index, address)
            .map(|spec| known.insert(address.clone(), Former { spec, flags: 0, deps: Vec::new() }))
            .is_some(),
    });
    if left.is_empty() {
        return None;
    }
    let mut builder = ManifestBuilder::new();
    // The mounts are among them, so that what lies below is not taken for gone while one is not there.
    let mut mounts: BTreeMap<&str, Spec> = BTreeMap::new();
    for manifest in declared {
        let of = manifest.ids().filter(|id| manifest.kind(*id) == Kind::Mount);
        mounts.extend(of.filter_map(|id| Some((manifest.name(id), manifest.spec(id)?))));
    }
    for (address, former) in &known {
        if let Spec::Line(line) = &former.spec
            && let Some(mount) = nearest(&line.path, |path| mounts.contains_key(path))
        {
            builder.edge(address, &Address::new(Kind::Mount, mount), EdgeKind::Requires, "it lies on it");
        }
        let lies_in = |path: &str| left.contains_key(&Address::new(Kind::Directory, path));
        if let Some(outer) = nearest(&address.name, lies_in) {
            let outer = Address::new(Kind::Directory, outer);
            builder.edge(address, &outer, EdgeKind::Requires, "it lies in it");
        }
        // What they depended on beside that goes after them, if it goes.
        for (on, kind) in former.deps.iter().filter(|(on, _)| left.contains_key(on)) {
            builder.edge(address, on, *kind, "it needed that");
        }
    }
    for (path, spec) in mounts {
        builder.unit(NewUnit::new(Kind::Mount, path, spec));
    }
    for (address, former) in known {
        let unit = NewUnit::new(address.kind, address.name, former.spec);
        builder.unit(NewUnit { flags: former.flags, ..unit });
    }
    Some(builder.finish())
}

/// As the latest generation declared them that did; a line, the one that declared what is put in.
fn formerly(
    index: &Index,
    left: &BTreeMap<Address, &Own>,
    mut load: impl FnMut(u64) -> Option<Manifest>,
) -> BTreeMap<Address, Former> {
    let mut known = BTreeMap::new();
    for generation in index.generations.keys().rev() {
        if known.len() == left.len() {
            break;
        }
        let Some(manifest) = load(*generation) else { continue };
        for (address, own) in left {
            if !known.contains_key(address)
                && let Some(id) = manifest.find(address.kind, &address.name)
                && let Some(mut spec) = manifest.spec(id)
                && !matches!(&spec, Spec::Line(spec) if !line::is_of(own, spec))
            {
                // What was written last tells whether it was changed, and need not be what was declared last.
                if let Spec::File(file) = &mut spec {
                    file.content = None;
                }
                let deps = manifest.deps(id).map(|e| (manifest.address(e.unit), e.kind)).collect();
                known.insert(address.clone(), Former { spec, flags: manifest.flags(id), deps });
            }
        }
    }
    known
}

/// The nearest path above one of which something is so.
fn nearest(path: &str, is_so: impl Fn(&str) -> bool) -> Option<&str> {
    Path::new(path).ancestors().skip(1).filter_map(Path::to_str).find(|above| is_so(above))
}

/// Enough of a unit to take away what it made, where no generation is left that declared it.
fn bare(index: &Index, address: &Address) -> Option<Spec> {
    let (path, attributes) = (address.name.clone(), Attributes::default());
    Some(match address.kind {
        Kind::Directory => Spec::Directory(Directory { path, attributes, purge: false, entries: Vec::new() }),
        Kind::Symlink => Spec::Symlink(Symlink { path, target: String::new(), owner: None, group: None }),
        Kind::File => {
            let ownership = Ownership::Whole;
            Spec::File(File { path, content: None, attributes, ownership, secret: false })
        }
        Kind::Line => {
            let (path, line) = line::put_in(index, &address.to_string())?;
            Spec::Line(Line { path, line, matches: None, present: true, create: false })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Record;
    use crate::store::index::PARENT;
    use units::kind::group::Group;
    use units::manifest::flags;

    fn own(index: &mut Index, thing: &str, unit: &str, created: bool) {
        let own = Own { unit: unit.to_owned(), created, digest: None, fs: 0 };
        index.apply(&Record::Own { thing: thing.to_owned(), own });
    }

    fn generation(index: &mut Index, generation: u64) {
        let (digest, note) = ([0; 32], String::new());
        index.apply(&Record::Prepared { generation, digest, when: 0, note });
    }

    fn mount(path: &str) -> NewUnit {
        let (path, source, fstype) = (path.to_owned(), "x".to_owned(), "ext4".to_owned());
        let mount = units::kind::mount::Mount {
            path,
            source,
            fstype,
            options: vec![],
            ..units::kind::mount::Mount::default()
        };
        NewUnit::new(Kind::Mount, mount.path.clone(), Spec::Mount(mount))
    }

    fn line(text: &str) -> NewUnit {
        let (path, line) = ("/srv/lines".to_owned(), text.to_owned());
        NewUnit::new(
            Kind::Line,
            "x",
            Spec::Line(Line { path, line, matches: None, present: true, create: true }),
        )
    }

    fn names(manifest: &Manifest) -> Vec<String> {
        manifest.ids().map(|id| manifest.address(id).to_string()).collect()
    }

    #[test]
    fn what_was_made_and_is_not_declared_is_left_over() {
        let mut index = Index::default();
        own(&mut index, "/srv/d", "directory:/srv/d", true);
        own(&mut index, "/srv/d/a", "file:/srv/d/a", true);
        own(&mut index, "/srv/adopted", "file:/srv/adopted", false);
        own(&mut index, "/srv/declared", "file:/srv/declared", true);
        own(&mut index, "/srv", PARENT, true);
        own(&mut index, "sysctl:vm.swappiness", "sysctl:vm.swappiness", false);
        own(&mut index, "member:adm:bob", "user:bob", true);
        let address = Address::new(Kind::File, "/srv/declared");
        let mut declared = ManifestBuilder::new();
        declared.unit(NewUnit::new(Kind::File, "/srv/declared", bare(&index, &address).unwrap()));
        declared.unit(mount("/srv"));
        let declared = declared.finish();
        let left = left_over(&index, &[&declared], |_| None).unwrap();
        assert_eq!(
            names(&left),
            ["file:/srv/d/a", "directory:/srv/d", "mount:/srv"],
            "the mount is there to be looked for"
        );
        let file = left.find(Kind::File, "/srv/d/a").unwrap();
        let deps: Vec<&str> = left.deps(file).map(|e| left.name(e.unit)).collect();
        assert_eq!(deps, ["/srv/d"], "what lies in it goes first");
        let both = left_over(&index, &[&declared, &left], |_| None);
        assert!(both.is_none());
    }

    #[test]
    fn whatever_kind_it_is_it_is_left_over_as_it_was_declared_last() {
        let mut index = Index::default();
        own(&mut index, "line:x", "line:x", true);
        own(&mut index, "group:g", "group:g", true);
        own(&mut index, "user:nobody-says-any-more", "user:nobody-says-any-more", true);
        (1..=3).for_each(|n| generation(&mut index, n));
        let group = |flags| NewUnit {
            flags,
            ..NewUnit::new(
                Kind::Group,
                "g",
                Spec::Group(Group { name: "g".to_owned(), gid: None, system: false }),
            )
        };
        let load = |generation| {
            let mut builder = ManifestBuilder::new();
            match generation {
                1 => builder.unit(group(0)).unit(line("old")),
                2 => builder.unit(group(flags::KEEP_ON_REMOVAL)).unit(line("new")),
                _ => &mut builder,
            };
            Some(builder.finish())
        };
        let mut declared = ManifestBuilder::new();
        declared.unit(mount("/srv"));
        let declared = declared.finish();
        let left = left_over(&index, &[&declared], load).unwrap();
        assert_eq!(names(&left), ["line:x", "mount:/srv", "group:g"]);
        let (x, g) = (left.find(Kind::Line, "x").unwrap(), left.find(Kind::Group, "g").unwrap());
        assert!(matches!(left.spec(x), Some(Spec::Line(line)) if line.line == "new"));
        let deps: Vec<&str> = left.deps(x).map(|e| left.name(e.unit)).collect();
        assert_eq!(deps, ["/srv"], "it waits for the mount that it lies on");
        assert_eq!(left.flags(g), flags::KEEP_ON_REMOVAL);
    }

    #[test]
    fn who_depended_on_what_goes_before_that() {
        let mut index = Index::default();
        own(&mut index, "/a", "file:/a", true);
        own(&mut index, "group:g", "group:g", true);
        generation(&mut index, 1);
        let load = |_| {
            let (file, group) = (Address::new(Kind::File, "/a"), Address::new(Kind::Group, "g"));
            let mut builder = ManifestBuilder::new();
            let spec = Spec::Group(Group { name: "g".to_owned(), gid: None, system: false });
            builder.unit(NewUnit::new(Kind::Group, "g", spec));
            builder.unit(NewUnit::new(Kind::File, "/a", bare(&Index::default(), &file).unwrap()));
            builder.edge(&file, &group, EdgeKind::Requires, "owner");
            Some(builder.finish())
        };
        let left = left_over(&index, &[], load).unwrap();
        let file = left.find(Kind::File, "/a").unwrap();
        let deps: Vec<&str> = left.deps(file).map(|e| left.name(e.unit)).collect();
        assert_eq!(deps, ["g"]);
    }
}
