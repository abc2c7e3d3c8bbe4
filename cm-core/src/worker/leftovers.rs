//! What earlier generations made, and nobody declares any more: its removal was put off because its mount was absent,
//! and whoever was to make up for that went down with the machine. The owners that the store knows tell.

use std::collections::BTreeMap;
use std::path::Path;

use units::kind::directory::Directory;
use units::kind::file::{File, Ownership};
use units::kind::symlink::Symlink;
use units::kind::{Attributes, Spec};
use units::manifest::NewUnit;
use units::{Address, EdgeKind, Kind, Manifest, ManifestBuilder};

use crate::store::index::Index;

/// What was made and is declared by none of these manifests, as a manifest of its own; nothing when there is none. Only
/// its addresses count, what lies in what, and the mounts that are declared.
pub fn left_over(index: &Index, declared: &[&Manifest]) -> Option<Manifest> {
    let mut left: Vec<Address> = index
        .own
        .iter()
        .filter(|(thing, own)| own.created && thing.starts_with('/'))
        .filter_map(|(thing, own)| Address::parse(&own.unit).filter(|a| a.name == *thing))
        .filter(|a| declared.iter().all(|m| m.find(a.kind, &a.name).is_none()))
        .filter(|a| matches!(a.kind, Kind::File | Kind::Directory | Kind::Symlink))
        .collect();
    if left.is_empty() {
        return None;
    }
    left.sort_unstable();
    let mut builder = ManifestBuilder::new();
    // The mounts are among them, so that what lies below is not taken for gone while one is not there.
    let mut mounts: BTreeMap<&str, Spec> = BTreeMap::new();
    for manifest in declared {
        let of = manifest.ids().filter(|id| manifest.kind(*id) == Kind::Mount);
        mounts.extend(of.filter_map(|id| Some((manifest.name(id), manifest.spec(id)?))));
    }
    for (path, spec) in mounts {
        builder.unit(NewUnit::new(Kind::Mount, path, spec));
    }
    for address in &left {
        builder.unit(NewUnit::new(address.kind, address.name.as_str(), bare(address)));
    }
    let directories = left.iter().filter(|a| a.kind == Kind::Directory);
    let by_path: BTreeMap<&str, &Address> = directories.map(|a| (a.name.as_str(), a)).collect();
    for inner in &left {
        let mut above = Path::new(&inner.name).ancestors().skip(1);
        if let Some(outer) = above.find_map(|path| by_path.get(path.to_str()?)) {
            builder.edge(inner, outer, EdgeKind::Requires, "it lies in it");
        }
    }
    Some(builder.finish())
}

fn bare(address: &Address) -> Spec {
    let (path, attributes) = (address.name.clone(), Attributes::default());
    match address.kind {
        Kind::Directory => Spec::Directory(Directory { path, attributes, purge: false, entries: Vec::new() }),
        Kind::Symlink => Spec::Symlink(Symlink { path, target: String::new(), owner: None, group: None }),
        _ => {
            let ownership = Ownership::Whole;
            Spec::File(File { path, content: None, attributes, ownership, secret: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::PARENT;
    use crate::store::{Own, Record};

    #[test]
    fn what_was_made_and_is_not_declared_is_left_over() {
        let mut index = Index::default();
        let mut own = |thing: &str, unit: &str, created| {
            let own = Own { unit: unit.to_owned(), created, digest: None, fs: 0 };
            index.apply(&Record::Own { thing: thing.to_owned(), own });
        };
        own("/srv/d", "directory:/srv/d", true);
        own("/srv/d/a", "file:/srv/d/a", true);
        own("/srv/adopted", "file:/srv/adopted", false);
        own("/srv/declared", "file:/srv/declared", true);
        own("/srv", PARENT, true);
        own("sysctl:vm.swappiness", "sysctl:vm.swappiness", true);
        own("/etc/passwd", "line:x", true);
        let address = Address::new(Kind::File, "/srv/declared");
        let mut declared = ManifestBuilder::new();
        declared.unit(NewUnit::new(Kind::File, "/srv/declared", bare(&address)));
        let mount = units::kind::mount::Mount {
            path: "/srv".into(),
            source: "x".into(),
            fstype: "ext4".into(),
            options: vec![],
            device_timeout: 0,
            check: false,
        };
        declared.unit(NewUnit::new(Kind::Mount, "/srv", Spec::Mount(mount)));
        let declared = declared.finish();
        let left = left_over(&index, &[&declared]).unwrap();
        let names: Vec<&str> = left.ids().map(|id| left.name(id)).collect();
        assert_eq!(names, ["/srv/d/a", "/srv/d", "/srv"], "the mount is there to be looked for");
        let file = left.find(Kind::File, "/srv/d/a").unwrap();
        let deps: Vec<&str> = left.deps(file).map(|e| left.name(e.unit)).collect();
        assert_eq!(deps, ["/srv/d"], "what lies in it goes first");
        let both = left_over(&index, &[&declared, &left]);
        assert!(both.is_none());
    }
}
