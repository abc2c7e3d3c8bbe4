//! The opener: with the rights of who asks, opens what state files name and nothing else, and hands it to the compiler.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::unistd::{getegid, geteuid};
use units::compile::MAX_STATE_FILE;

use super::channel::Channel;
use super::compile::{Answer, Ask, Job, Listed, sealed};
use super::confine;
use super::named::{Admitted, Named};
use crate::resource::accounts::{Database, members};
use crate::sys;

/// Answers until the compiler is gone; gives the code to leave with.
pub(super) fn open_sources(job: &Job, mut channel: Channel, opened: &mut File) -> i32 {
    if let Err(e) = take_rights(job.uid, job.gid) {
        eprintln!("cm-worker: cannot become user {}: {e}", job.uid);
        return 2;
    }
    // Whoever has taken over the compiler can have things read, and nothing else.
    if let Err(e) = confine::reader() {
        eprintln!("cm-worker: {e}");
        return 2;
    }
    let mut named = Named::new(&job.entry);
    loop {
        let Ok(Some((ask, _))) = channel.receive::<Ask>() else { return 0 };
        let (found, path) = match &ask {
            Ask::Text(path) if named.is_state_file(path) => (state_file(job, path, &mut named), path),
            Ask::Text(path) | Ask::File(path) => (admitted(named.source(path), path, open_file), path),
            Ask::List(path) => (admitted(named.directory(path), path, list), path),
        };
        if found.is_ok() {
            let _ = writeln!(opened, "{}", path.escape_debug());
        }
        let sent = match found {
            Ok(file) => channel.send(&Answer::Opened, &[file.as_raw_fd()]),
            Err(e) if e.kind() == io::ErrorKind::NotFound => channel.send(&Answer::NotFound, &[]),
            Err(e) => channel.send(&Answer::Other(e.to_string()), &[]),
        };
        if sent.is_err() {
            return 1;
        }
    }
}

/// The caller's own rights, with the groups that the database gives that user.
fn take_rights(uid: u32, gid: u32) -> io::Result<()> {
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    if (uid, gid) == (0, 0) || (uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
        return Ok(());
    }
    let read = |path: &str| fs::read(path).unwrap_or_default();
    let passwd = Database::parse(read("/etc/passwd"));
    let group = Database::parse(read("/etc/group"));
    let name = passwd.numbers().find(|(_, id)| *id == uid).map(|(n, _)| n.to_owned());
    let listed =
        |g: &str| group.field(g, 3).is_some_and(|f| members(f).iter().any(|m| Some(*m) == name.as_deref()));
    let groups: Vec<u32> = group.numbers().filter(|(g, _)| listed(g)).map(|(_, id)| id).collect();
    sys::become_user(uid, gid, &groups)
}

/// A state file. What it names may be opened from here on: the compiler gets just the bytes that were looked at.
fn state_file(job: &Job, path: &str, named: &mut Named) -> io::Result<File> {
    let file = match &job.input {
        Some(input) if path == job.entry => reopened(input)?,
        _ => open_file(&Looked::at(path)?)?,
    };
    let limit = MAX_STATE_FILE as u64 + 1;
    if file.metadata()?.len() >= limit {
        // The compiler will say that it is too large.
        return Ok(file);
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    named.read(path, &bytes);
    sealed("state", &bytes)
}

/// Opens what state files name. Below a named directory no link leads out of it.
fn admitted(
    admitted: Option<Admitted>,
    path: &str,
    open: impl FnOnce(&Looked) -> io::Result<File>,
) -> io::Result<File> {
    let Some(admitted) = admitted else {
        return Err(io::Error::other("no state file names it; a source is named in one string, as it is"));
    };
    // ORDER: once. What is looked at is what is opened, whatever stands at the path by then.
    let looked = Looked::at(path)?;
    if let Admitted::Below(named) = admitted
        && !looked.real.starts_with(Looked::at(&named)?.real)
    {
        return Err(io::Error::other(format!("it leads out of {named}")));
    }
    open(&looked)
}

/// The input from its start, whatever the caller does with its own descriptor.
fn reopened(fd: &OwnedFd) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).or_else(|_| {
        let mut copy = File::from(fd.try_clone()?);
        copy.seek(SeekFrom::Start(0))?;
        Ok(copy)
    })
}

/// Where nothing lies that belongs to a state, and where reading may have effects.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Something looked at, links followed.
struct Looked {
    handle: File,
    /// The name by which just that is opened.
    name: String,
    /// Where it is.
    real: PathBuf,
}

impl Looked {
    fn at(path: &str) -> io::Result<Looked> {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let handle = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let real = fs::read_link(&name)?;
        match KERNEL.iter().find(|dir| real.starts_with(dir)) {
            Some(dir) => Err(io::Error::other(format!("it lies in {dir}, where no sources are"))),
            None => Ok(Looked { handle, name, real }),
        }
    }
}

fn open_file(looked: &Looked) -> io::Result<File> {
    if !looked.handle.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(&looked.name)
}

/// Names of a directory in a sealed memfd: there may be more than a packet holds.
fn list(looked: &Looked) -> io::Result<File> {
    let mut out = Vec::new();
    for entry in fs::read_dir(&looked.name)? {
        let entry = entry?;
        let metadata = fs::symlink_metadata(entry.path())?;
        let Ok(name) = entry.file_name().into_string() else {
            let path = looked.real.join(entry.file_name());
            return Err(io::Error::other(format!("the name of {} is not UTF-8", path.display())));
        };
        let kind = metadata.file_type();
        let target = if kind.is_symlink() {
            fs::read_link(entry.path())?.to_string_lossy().into_owned()
        } else {
            String::new()
        };
        let kind = match () {
            () if kind.is_file() => 0,
            () if kind.is_dir() => 1,
            () if kind.is_symlink() => 2,
            () => 3,
        };
        out.push(Listed { name, kind, target, mode: metadata.mode() & 0o7777 });
    }
    sealed("list", &postcard::to_allocvec(&out).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_looked_at_is_opened_whatever_comes_in_its_place() {
        let here = tempfile::tempdir().unwrap();
        let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(path("named/tree")).unwrap();
        fs::create_dir(path("other")).unwrap();
        fs::write(path("named/tree/file"), "named").unwrap();
        fs::write(path("other/file"), "other").unwrap();
        fs::write(path("other/more"), "other").unwrap();
        let below = || Some(Admitted::Below(path("named")));
        let exchange = || {
            fs::rename(path("named/tree"), path("named/was")).unwrap();
            symlink(path("other"), path("named/tree")).unwrap();
        };
        let put_back = || {
            fs::remove_file(path("named/tree")).unwrap();
            fs::rename(path("named/was"), path("named/tree")).unwrap();
        };

        let mut text = String::new();
        let opened = admitted(below(), &path("named/tree/file"), |looked| {
            exchange();
            open_file(looked)
        });
        opened.unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "named");
        let refused = admitted(below(), &path("named/tree/file"), open_file).unwrap_err();
        assert!(refused.to_string().starts_with("it leads out of "), "{refused}");

        put_back();
        let listed = admitted(below(), &path("named/tree"), |looked| {
            exchange();
            list(looked)
        });
        let mut bytes = Vec::new();
        let mut listed = listed.unwrap();
        listed.seek(SeekFrom::Start(0)).unwrap();
        listed.read_to_end(&mut bytes).unwrap();
        let names: Vec<Listed> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(names.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["file"]);
    }
}
