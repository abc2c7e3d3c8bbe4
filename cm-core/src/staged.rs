//! Names of files that wait where nobody looks for them, by who has made them: what a killed process left can be told from
//! what another one is about to use.

use std::fs::File;
use std::path::Path;

use nix::unistd::{UnlinkatFlags, unlinkat};

/// What names begin with that nobody else gives: namespace and number of this process.
pub fn mark() -> String {
    format!("{}.{}", namespace(), std::process::id())
}

/// The namespace that numbers of processes are of; 0 where that cannot be told.
fn namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).unwrap_or_default()
}

/// Removes what a worker has left that was killed in its work: files of processes that are no more. What belongs to
/// processes of another namespace, which may share this file system, is theirs.
pub fn sweep(area: &File, path: &Path) {
    let mut here = None;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().split('.');
        let number = |part: Option<&str>| part.and_then(|p| p.parse::<u64>().ok());
        let (Some(namespace), Some(process)) = (number(parts.next()), number(parts.next())) else { continue };
        if namespace != 0
            && namespace == *here.get_or_insert_with(self::namespace)
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            let directory = entry.file_type().is_ok_and(|t| t.is_dir());
            let how = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            let _ = unlinkat(area, name.as_os_str(), how);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_worker_left_is_swept() {
        let here = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (ours, dead) = (namespace(), child.id());
        let own = format!("{}.1", mark());
        let names = [
            own.clone(),
            format!("{ours}.{dead}.1"),
            format!("{ours}.{dead}.s1"),
            format!("{}.{dead}.1", ours + 1),
            "else".to_owned(),
        ];
        for name in &names {
            std::fs::write(here.path().join(name), "").unwrap();
        }
        let directory = here.path().join(format!("{ours}.{dead}.2"));
        std::fs::create_dir(&directory).unwrap();
        sweep(&File::open(here.path()).unwrap(), here.path());
        assert!(!directory.exists());
        let left: Vec<bool> = names.iter().map(|n| here.path().join(n).exists()).collect();
        assert_eq!(left, [true, false, false, true, true]);
    }
}
