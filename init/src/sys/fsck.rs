//! Checking a file system before it is mounted: fsck.TYPE, as systemd and `fsck -A` call it.
//!
//! For the mount helper: a check reads a whole disk.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::stat::{major, minor};

use super::mount::Mounted;

/// What a check came to, where the file system may be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Nothing was wrong.
    Clean,
    /// Errors were repaired; what the program said.
    Repaired(String),
    /// Nothing was checked, and why.
    Not(String),
}

/// Most lines of a check that are told, its last ones.
const LINES: usize = 8;
/// Longest of them.
const LONGEST: usize = 300;

// fsck(8), exit codes: bits.
const CORRECTED: i32 = 1;
const REBOOT: i32 = 2;
const LEFT: i32 = 4;

/// The program that checks a type, in one of these directories.
pub fn program(fstype: &str, directories: &str) -> Option<PathBuf> {
    let plain = !fstype.is_empty() && !fstype.contains('/');
    let found =
        || directories.split(':').map(|d| Path::new(d).join(format!("fsck.{fstype}"))).find(|p| p.exists());
    plain.then(found).flatten()
}

/// Checks the file system of a device, unless it is mounted somewhere: a check would destroy it there. `begins` is told
/// by what.
///
/// # Errors
/// When it must not be mounted: what the program said, and its exit code.
pub fn check(
    device: &Path,
    fstype: &str,
    mounted: &[Mounted],
    directories: &str,
    begins: impl FnOnce(&Path),
) -> Result<Checked, String> {
    let metadata = std::fs::metadata(device).map_err(|e| format!("cannot check it: {e}"))?;
    if !metadata.file_type().is_block_device() {
        return Ok(Checked::Not(format!("\"{}\" is no block device", device.display())));
    }
    let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    if let Some(other) = mounted.iter().find(|m| m.device == number) {
        return Ok(Checked::Not(format!("it is mounted at \"{}\" already", other.path)));
    }
    let Some(program) = program(fstype, directories) else {
        return Ok(Checked::Not(format!("there is no program fsck.{fstype}")));
    };
    begins(&program);
    run(&program, device)
}

/// Runs a checker.
///
/// # Errors
/// As [`check`].
fn run(program: &Path, device: &Path) -> Result<Checked, String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |e: std::io::Error| format!("cannot run {}: {e}", program.display());
    // Both in one pipe, in the order in which they were said.
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("-a").arg(device).stdin(Stdio::null());
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // The command holds the pipe's other end.
    drop(command);
    let said = last_lines(BufReader::new(reader));
    let status = child.wait().map_err(failed)?;
    verdict(&name, status, &said)
}

fn last_lines(mut from: impl BufRead) -> String {
    let mut kept = std::collections::VecDeque::new();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text: String = String::from_utf8_lossy(&line).trim().chars().take(LONGEST).collect();
        line.clear();
        if text.is_empty() {
            continue;
        }
        kept.push_back(text);
        if kept.len() > LINES {
            kept.pop_front();
        }
    }
    kept.into_iter().collect::<Vec<_>>().join("; ")
}

/// What an exit code means for the mount.
fn verdict(name: &str, status: ExitStatus, said: &str) -> Result<Checked, String> {
    let words = if said.is_empty() { "and says nothing" } else { said };
    let Some(code) = status.code() else {
        return Err(format!("{name} was ended ({status}): {words}"));
    };
    match code {
        0 => Ok(Checked::Clean),
        CORRECTED => Ok(Checked::Repaired(said.to_owned())),
        _ if code & !(CORRECTED | REBOOT) == 0 => {
            Err(format!("{name} has repaired it and asks for a reboot (exit code {code}): {words}"))
        }
        _ if code & !(CORRECTED | REBOOT | LEFT) == 0 => {
            Err(format!("{name} leaves errors that a person has to judge (exit code {code}): {words}"))
        }
        _ => Err(format!("{name} could not check it (exit code {code}): {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A checker that says something and exits with a code, and what is made of that.
    fn ran(script: &str) -> Result<Checked, String> {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("fsck.toy");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program("toy", &format!("/nowhere:{}", here.path().display())), Some(path.clone()));
        run(&path, Path::new("/dev/toy"))
    }

    #[test]
    fn its_exit_code_says_whether_it_may_be_mounted() {
        assert_eq!(ran("echo clean; exit 0"), Ok(Checked::Clean));
        let repaired = ran("echo \"$1 $2\"; echo; echo Fixed. >&2; exit 1");
        assert_eq!(repaired, Ok(Checked::Repaired("-a /dev/toy; Fixed.".to_owned())));
        for (code, says) in
            [(2, "reboot"), (3, "reboot"), (4, "errors"), (5, "errors"), (8, "not check"), (128, "not")]
        {
            let error = ran(&format!("echo its words; exit {code}")).unwrap_err();
            let all = [says, "its words", "fsck.toy", &format!("(exit code {code})")];
            assert!(all.iter().all(|w| error.contains(w)), "{code}: {error}");
        }
        let killed = ran("kill -9 $$").unwrap_err();
        assert!(killed.contains("signal: 9"), "{killed}");
        let much = ran("seq 100000; exit 4").unwrap_err();
        assert!(much.ends_with("99999; 100000") && much.len() < 4000, "{}", much.len());
    }

    #[test]
    fn only_a_block_device_that_nobody_has_mounted_is_checked() {
        let none = |device: &str, mounted: &[Mounted]| {
            check(Path::new(device), "toy", mounted, "/nowhere", |_| panic!("it is checked"))
        };
        let file = none("/dev/null", &[]);
        assert!(matches!(&file, Ok(Checked::Not(why)) if why.contains("no block device")), "{file:?}");
        assert!(none("/dev/nowhere-at-all", &[]).is_err());
        assert_eq!((program("", "/bin"), program("../x", "/bin")), (None, None));
    }
}
