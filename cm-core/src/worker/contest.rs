//! Who keeps changing what is contested: the worker marks the directories in a fanotify group that PID 1 made and
//! will read; looking paths up is not for PID 1.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use units::kind::Spec;

use super::watches::paths;
use crate::resource::world::World;
use crate::sys;

/// What changes an entry; not what opens or only closes it, as a reader may.
const EVENTS: u64 = libc::FAN_MODIFY
    | libc::FAN_ATTRIB
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_EVENT_ON_CHILD
    | libc::FAN_ONDIR;

/// Marks what a unit owns, and answers the names to look for; an empty one stands for all.
///
/// # Errors
/// In words, when the kernel cannot tell who changes it.
pub fn mark(world: &mut World, group: impl AsFd, spec: &Spec) -> Result<Vec<String>, String> {
    let mut names = BTreeSet::new();
    for path in paths(spec) {
        let place = world.places.entry(&path).map_err(|e| e.to_string())?;
        sys::mark_directory(&group, &*place.dir, EVENTS).map_err(|e| words(&e))?;
        names.insert(place.name);
        if let Spec::Directory(directory) = spec
            && directory.purge
            && let Ok(inside) = world.places.directory(&path)
        {
            sys::mark_directory(&group, &*inside, EVENTS).map_err(|e| words(&e))?;
            names.insert(String::new());
        }
    }
    if names.is_empty() {
        return Err("the kernel tells of files only".to_owned());
    }
    Ok(names.into_iter().collect())
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        // fanotify_mark(2): no file handles, no file system number, or several.
        Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV) => "its file system cannot tell".to_owned(),
        Some(libc::ENOSPC) => "fs.fanotify.max_user_marks is used up".to_owned(),
        _ => format!("fanotify_mark: {error}"),
    }
}
