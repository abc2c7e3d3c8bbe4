//! Two units that are one file: declared by different paths, of which a link makes one. No compiler can know it, since what
//! links there are only the machine tells. Whichever comes last in a batch has its way, and the other is still wrong.

use std::rc::Rc;

use units::kind::Spec;

use super::commit::Running;
use crate::resource::place::{Dir, split};
use crate::resource::world::World;

/// Where a unit is declared.
fn path(spec: &Spec) -> Option<(&str, &str)> {
    match spec {
        Spec::File(s) => split(&s.path),
        Spec::Directory(s) => split(&s.path),
        Spec::Symlink(s) => split(&s.path),
        Spec::Line(s) => split(&s.path),
        _ => None,
    }
}

/// Which other unit of the batch is the same file as what a step was about.
pub(super) fn other<'a>(world: &mut World, steps: &'a [Running], step: &Running) -> Option<&'a str> {
    let (directory, name) = path(&step.work.spec)?;
    let mut open = |path: &str| -> Option<Rc<Dir>> { world.places.directory(path).ok() };
    let here = open(directory)?.identity().ok()?;
    let others = steps.iter().filter_map(|s| Some((s.work.unit.as_str(), path(&s.work.spec)?)));
    let mut others = others.filter(|(_, (d, n))| *n == name && *d != directory);
    let (unit, _) = others.find(|(_, (d, _))| open(d).and_then(|o| o.identity().ok()) == Some(here))?;
    Some(unit)
}
