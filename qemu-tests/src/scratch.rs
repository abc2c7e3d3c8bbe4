//! The temporary directory of a scenario: whatever is made in it goes with the scenario, also when that is killed, and at the
//! latest with the next run when all of this was killed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::fs::File;

use tempfile::TempDir;

use crate::Result;

/// What their names begin with; what they are for and the number of the process that removes it follow.
const PREFIX: &str = "holdfast-";

/// What they are for: a scenario, a machine in QEMU, an instance in namespaces, histories of the journal.
const PURPOSES: [&str; 4] = ["verify", "guest", "rig", "journal"];

/// The directory of one scenario.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    /// Locked as long as this process lives: others may see our files and not our processes.
    _lock: File,
}

/// A directory of this process for a scenario.
///
/// # Errors
/// When it cannot be made.
pub fn directory() -> Result<Scratch> {
    of("verify", &std::env::temp_dir())
}

/// A directory of this process for the files of one machine in QEMU.
///
/// # Errors
/// When it cannot be made.
pub fn guest() -> Result<Scratch> {
    of("guest", &std::env::temp_dir())
}

/// A directory of this process for the files of one instance in namespaces.
///
/// # Errors
/// When it cannot be made.
pub fn rig() -> Result<Scratch> {
    of("rig", &std::env::temp_dir())
}

/// A directory of this process for histories of the journal: in memory, where there is such a place.
///
/// # Errors
/// When it cannot be made.
pub fn journal() -> Result<Scratch> {
    of("journal", Path::new("/dev/shm")).or_else(|_| of("journal", &std::env::temp_dir()))
}

/// As [`rig`], in memory, where there is such a place.
///
/// # Errors
/// When it cannot be made.
pub fn rig_in_memory() -> Result<Scratch> {
    of("rig", Path::new("/dev/shm")).or_else(|_| rig())
}

fn of(purpose: &str, place: &Path) -> Result<Scratch> {
    sweep(place);
    let prefix = format!("{PREFIX}{purpose}-{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(place)?;
    // Scenarios have users of their own.
    std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755))?;
    let lock = File::open(made.path())?;
    lock.try_lock()?;
    Ok(Scratch { directory: made, _lock: lock })
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what processes have left that are no more.
fn sweep(temporary: &Path) {
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        let owner = owner.filter(|(purpose, _)| PURPOSES.contains(purpose));
        let owner = owner.and_then(|(_, rest)| rest.split('-').next()?.parse::<u32>().ok());
        let gone = owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if gone && File::open(entry.path()).is_ok_and(|d| d.try_lock().is_ok()) {
            let _others = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_have_left_goes_and_nothing_else() {
        let here = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = format!("{PREFIX}guest-{}-abc", child.id());
        let alive = format!("{PREFIX}rig-{}-abc", std::process::id());
        let locked = format!("{dead}-elsewhere");
        for name in [dead.as_str(), &alive, &locked, "holdfast-verify-x", "other"] {
            std::fs::create_dir_all(here.path().join(name).join("deep")).unwrap();
        }
        let lock = File::open(here.path().join(&locked)).unwrap();
        lock.try_lock().unwrap();
        sweep(here.path());
        let left = |name: &str| here.path().join(name).exists();
        assert_eq!(
            [left(&dead), left(&alive), left(&locked), left("holdfast-verify-x"), left("other")],
            [false, true, true, true, true]
        );
        let made = directory().unwrap();
        let path = made.path().to_owned();
        std::fs::write(path.join("file"), "").unwrap();
        drop(made);
        assert!(!path.exists());
    }
}
