//! What a batch may reach: the directories that its committer may write below, and the staging areas that it needs.
//!
//! A rule of Landlock holds for all of a tree. So there is none for the root where it can be done without: a directory that is
//! to be made there is begun in a staging area, with a rule of its own that it takes along when it is moved to its place,
//! and the root is a place to which directories may come and nothing else.

use std::collections::BTreeSet;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::batch::{Plan, Slot, trouble};
use super::confine::{Domain, Partly};
use crate::resource::op::{Op, Put, Trouble, What};
use crate::resource::place::{Dir, PlaceError, split};
use crate::resource::staging::Areas;
use crate::resource::world::{Begun, World};

/// The directory in which all of a machine lies.
const ROOT: &str = "/";

/// Opens the staging areas that a batch needs, and collects the directories that it may write below.
pub(super) fn prepare(world: &mut World, plan: &mut Plan, areas: &mut Areas, domain: &mut Domain) {
    let exchanged = exchanged(plan);
    for slot in &mut plan.slots {
        let Slot::Todo(work) = slot else { continue };
        world.at(Some(&work.step));
        let mut failed = None;
        for op in &mut work.ops {
            let (path, stages) = match &op.what {
                What::Text { key, .. } => {
                    domain.settings.insert(key.clone());
                    continue;
                }
                what => match place_of(what) {
                    Some(place) => place,
                    None => continue,
                },
            };
            let directory = split(&path).map_or(ROOT, |(d, _)| d).to_owned();
            let near = match world.places.nearest(&directory) {
                Ok(dir) => dir,
                // Something is in the way, perhaps only until an earlier step has removed it.
                Err(_) => match world.places.nearest(outermost(&directory)) {
                    Ok(dir) => dir,
                    Err(e) => {
                        failed = Some(Trouble::from(e));
                        continue;
                    }
                },
            };
            let narrow = near.path == ROOT && !exchanged.contains(outermost(&path));
            if !narrow || !allow_narrowly(world, areas, domain, &near, op, &path) {
                domain.allow(&near);
            }
            if let What::Put { put: Put::File { want, .. } | Put::Directory { want, .. }, .. } = &op.what {
                domain.attributes(want);
            }
            let others = match &op.what {
                What::Put { put: Put::File { others, .. }, .. } => others.clone(),
                What::Unline(edit) => world.other_names(&edit.path),
                _ => Vec::new(),
            };
            // A link may be made from one directory into another only by who may write in both.
            for (directory, _) in others.iter().filter_map(|o| split(o)) {
                if let Ok(dir) = world.places.directory(directory) {
                    domain.allow(&dir);
                }
            }
            if let What::Put { path, put: Put::Directory { .. }, .. } = &op.what
                && let Ok(dir) = world.places.directory(path)
            {
                domain.allow(&dir);
            }
            if stages {
                match areas.for_directory(world, &near) {
                    Ok(area) => {
                        if let What::Put { staged, .. } = &mut op.what {
                            *staged = Some((area, String::new()));
                        }
                    }
                    Err(e) => failed = Some(e),
                }
            }
        }
        if let Some(e) = failed {
            let step = work.step;
            *slot = Slot::Done(trouble(&step, &e));
        }
    }
    world.at(None);
    for area in areas.iter() {
        domain.beneath(&area.fd);
    }
}

/// What an operation writes, and whether that is staged.
fn place_of(what: &What) -> Option<(String, bool)> {
    match what {
        What::Put { path, put, .. } => {
            Some((path.clone(), matches!(put, Put::File { content: Some(_), .. } | Put::Symlink { .. })))
        }
        What::Line(spec) => Some((spec.path.clone(), true)),
        What::Unline(edit) => Some((edit.path.clone(), true)),
        What::Account(_) => Some(("/etc/passwd".to_owned(), true)),
        What::Text { .. } | What::Forget | What::Nothing => None,
    }
}

/// What lies right below the root and is taken away and made, or written into, in the same batch.
fn exchanged(plan: &Plan) -> BTreeSet<String> {
    let (mut goes, mut comes) = (BTreeSet::new(), BTreeSet::new());
    for slot in &plan.slots {
        let Slot::Todo(work) = slot else { continue };
        for op in &work.ops {
            match &op.what {
                What::Put { path, put, .. } if put.is_absent() => {
                    if outermost(path) == path {
                        goes.insert(path.clone());
                    }
                }
                what => comes.extend(place_of(what).map(|(path, _)| outermost(&path).to_owned())),
            }
        }
    }
    goes.intersection(&comes).cloned().collect()
}

/// Allows what an operation takes that comes to the root, unless that is all: then the answer is no.
fn allow_narrowly(
    world: &mut World,
    areas: &mut Areas,
    domain: &mut Domain,
    root: &Dir,
    op: &Op,
    path: &str,
) -> bool {
    let What::Put { put, .. } = &op.what else {
        return begin_missing(world, areas, domain, root, path);
    };
    let is_directory = world.places.entry(path).and_then(|place| {
        let failed = |errno| PlaceError::Open { path: path.to_owned(), errno };
        Ok(place.stat().map_err(failed)?.map(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR))
    });
    match (put, is_directory) {
        (put, Ok(Some(true))) if put.is_absent() => {
            domain.allow_partly(root, Partly::Removes);
            true
        }
        // Its own attributes are changed, by descriptor.
        (Put::Directory { .. }, Ok(Some(true))) => true,
        (Put::Directory { .. }, Ok(None)) => begin(world, areas, domain, root, path).is_ok(),
        (put, Err(PlaceError::Missing(_))) if !put.is_absent() => {
            begin_missing(world, areas, domain, root, path)
        }
        _ => false,
    }
}

fn begin_missing(world: &mut World, areas: &mut Areas, domain: &mut Domain, root: &Dir, path: &str) -> bool {
    let directory = split(path).map_or(ROOT, |(d, _)| d);
    match world.places.directory(directory) {
        Err(PlaceError::Missing(dirs)) => {
            let first = dirs.first().filter(|first| split(first).is_some_and(|(above, _)| above == ROOT));
            first.is_some_and(|first| begin(world, areas, domain, root, first).is_ok())
        }
        _ => false,
    }
}

/// Begins a directory of the root in a staging area.
fn begin(
    world: &mut World,
    areas: &mut Areas,
    domain: &mut Domain,
    root: &Dir,
    path: &str,
) -> Result<(), Trouble> {
    if world.begun.contains_key(path) {
        return Ok(());
    }
    let dir = world.places.directory(ROOT)?;
    let at = areas.for_directory(world, &dir)?;
    let name = areas.name();
    let Some(area) = areas.get(at) else {
        return Err(Trouble::NotKept(format!("no staging directory for {path}")));
    };
    let failed = |e| Trouble::cannot("stage", path, e);
    mkdirat(&area.fd, name.as_str(), Mode::from_bits_truncate(0o700)).map_err(failed)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&area.fd, name.as_str(), flags, Mode::empty()).map_err(failed)?;
    let area = area.fd.try_clone().map_err(|e| Trouble::io("stage", path, &e))?;
    domain.beneath(&fd);
    domain.allow_partly(root, Partly::Makes);
    world.begun.insert(path.to_owned(), Begun { area, name });
    Ok(())
}

/// Takes away what was begun and is not wanted, since its step has failed.
pub(super) fn discard(world: &mut World) {
    for Begun { area, name } in std::mem::take(&mut world.begun).into_values() {
        let _ = unlinkat(&area, name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

fn outermost(path: &str) -> &str {
    let end = path.get(1..).and_then(|rest| rest.find('/')).map_or(path.len(), |at| at + 1);
    path.get(..end).unwrap_or(ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Action, Intent, ManifestRef, Step};
    use crate::resource::world::Setup;
    use crate::worker::batch::{Batch, Manifests, check};
    use crate::worker::confine;
    use std::fs;
    use units::kind::directory::Directory;
    use units::kind::symlink::Symlink;
    use units::kind::{Attributes, Spec};
    use units::{Kind, ManifestBuilder, manifest::NewUnit};

    /// What a batch that has these directories and links made (`->`), and takes others away (`-`), may reach.
    fn reach(world: &mut World, things: &[&str]) -> (Areas, Domain) {
        let mut builder = ManifestBuilder::new();
        for thing in things {
            let path = thing.trim_start_matches(['-', '>']);
            let (kind, spec) = if thing.starts_with("->") {
                let target = "x".into();
                let spec = Symlink { path: path.into(), target, owner: None, group: None };
                (Kind::Symlink, Spec::Symlink(spec))
            } else {
                let attributes = Attributes { mode: Some(0o750), ..Attributes::default() };
                let spec = Directory { path: path.into(), attributes, purge: false, entries: vec![] };
                (Kind::Directory, Spec::Directory(spec))
            };
            builder.unit(NewUnit::new(kind, path, spec));
        }
        let manifest = builder.finish();
        let goes = |path: &str| things.contains(&format!("-{path}").as_str());
        let action = |path: &str| if goes(path) { Action::Remove } else { Action::Converge };
        let steps = manifest.ids().map(|unit| Step {
            manifest: ManifestRef(1),
            unit,
            action: action(manifest.name(unit)),
        });
        let batch = Batch { generation: 0, intent: Intent::Apply, steps: steps.collect() };
        let manifests = Manifests::from([(ManifestRef(1), (0, manifest.clone()))]);
        let mut plan = check(world, &manifests, &batch);
        let (mut areas, mut domain) = (Areas::default(), Domain::confined());
        prepare(world, &mut plan, &mut areas, &mut domain);
        assert!(plan.slots.iter().all(|s| matches!(s, Slot::Todo(_))), "{:?}", plan.slots);
        (areas, domain)
    }

    fn world(here: &tempfile::TempDir) -> World {
        for dir in ["root/etc", "root/old", "run"] {
            fs::create_dir_all(here.path().join(dir)).unwrap();
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(here.path().join("run"), private).unwrap();
        let (root, run) = (here.path().join("root"), here.path().join("run"));
        World::new(Setup { root, run, ..Setup::default() }).unwrap()
    }

    #[test]
    fn the_root_may_be_written_only_by_who_has_something_other_than_a_directory_there() {
        let here = tempfile::tempdir().unwrap();
        for (things, root) in [
            (&["/new"][..], false),
            (&["/new/deep/er"], false),
            (&["->/new/link", "/other"], false),
            (&["/old"], false),
            (&["/etc/conf"], false),
            (&["->/link"], true),
            (&["/new", "->/link"], true),
        ] {
            let mut world = world(&here);
            let (_, domain) = reach(&mut world, things);
            assert_eq!(domain.allows("/"), root, "{things:?}");
            let begun: Vec<&str> = world.begun.keys().map(String::as_str).collect();
            let new = things.iter().any(|t| t.contains("/new"));
            assert_eq!(begun.contains(&"/new"), new, "{things:?}: {begun:?}");
            discard(&mut world);
        }
        let staging = here.path().join("run/staging");
        assert_eq!(fs::read_dir(staging).map_or(0, Iterator::count), 0, "nothing stays");
    }

    /// The kernel's word: a directory that comes to the root takes its rights along, and gives none to what is there.
    #[test]
    fn what_is_begun_is_written_where_it_comes_to_lie_and_nothing_beside_it() {
        let here = tempfile::tempdir().unwrap();
        let mut world = world(&here);
        fs::write(here.path().join("root/etc/passwd"), "root").unwrap();
        let (_areas, domain) = reach(&mut world, &["->/new/deep/link"]);
        let root = here.path().join("root");
        let child = match crate::sys::fork().unwrap() {
            crate::sys::Forked::Child => {
                let tried = confine::committer(&world, domain).is_ok()
                    && fs::write(root.join("etc/passwd"), "x").is_err()
                    && fs::write(root.join("etc/new"), "x").is_err()
                    && fs::remove_file(root.join("etc/passwd")).is_err()
                    && fs::write(root.join("file"), "x").is_err()
                    && std::os::unix::fs::symlink("x", root.join("link")).is_err()
                    && fs::remove_dir(root.join("old")).is_err();
                let mut touched = crate::resource::tree::Touched::default();
                let made = crate::resource::tree::make_parents(&mut world, "/new/deep/link", &mut touched);
                let inside = made.is_ok()
                    && touched.made == ["/new", "/new/deep"]
                    && std::os::unix::fs::symlink("x", root.join("new/deep/link")).is_ok();
                crate::sys::leave(i32::from(!tried) + 2 * i32::from(!inside))
            }
            crate::sys::Forked::Parent(pid) => pid,
        };
        let ended = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
        discard(&mut world);
        assert!(root.join("new/deep/link").is_symlink());
    }
}
