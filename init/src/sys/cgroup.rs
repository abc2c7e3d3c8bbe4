//! The cgroup v2 tree: one cgroup a service below one root of ours.
//!
//! Works with every controller, or with none (the v2 hierarchy beside v1), and says so. Settings that the tree
//! cannot take are errors that name the controller. All of it is cgroupfs, which never waits for a disk.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cm_core::mountinfo::unescape;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::stat::{Mode, mkdirat};

use super::raw;

/// Why something about cgroups failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error("cannot use cgroups: no cgroup2 file system is mounted")]
    NotMounted,
    /// A file of the tree.
    #[error("cannot {verb} \"{path}\": {cause}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// A setting whose controller this tree does not have.
    #[error("cannot set \"{setting}\": this cgroup tree has no \"{controller}\" controller")]
    NoController {
        /// The file name asked for.
        setting: String,
        /// The part before the dot.
        controller: String,
    },
    /// A setting that is none, or that is not for people to write.
    #[error("cannot set \"{0}\": not a cgroup setting")]
    NotASetting(String),
}

impl CgroupError {
    /// What the kernel said, or would have said to what cannot be.
    pub fn errno(&self) -> i32 {
        match self {
            CgroupError::File { cause, .. } => cause.raw_os_error().unwrap_or(libc::EIO),
            CgroupError::NotMounted | CgroupError::NoController { .. } => libc::ENOENT,
            CgroupError::NotASetting(_) => libc::EINVAL,
        }
    }
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |cause| CgroupError::File { verb, path, cause }
}

/// The root's name, and that of the leaf for init itself in a container: no unit's, which has a colon.
const ROOT: &str = "holdfast";
const LEAF: &str = "holdfast.init";

/// The root under which all services' cgroups are.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// The root itself, from which the way to a unit's cgroup is one step.
    directory: OwnedFd,
    controllers: Vec<String>,
    has_kill: bool,
}

/// Where cgroup2 is mounted, and which directory of the hierarchy that mount shows: the last such line of
/// `/proc/self/mountinfo`, as later mounts may hide earlier ones.
pub fn find_mount(mountinfo: &str) -> Option<(PathBuf, String)> {
    let mut found = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        if right.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = left.split(' ').skip(3);
        if let (Some(root), Some(at)) = (fields.next(), fields.next()) {
            found = Some((PathBuf::from(unescape(at)), unescape(root)));
        }
    }
    found
}

/// The directory name of a unit: what the kernel or a path would misread is escaped as `%XX`.
pub fn directory_name(unit: &str) -> String {
    let mut out = String::new();
    for (i, byte) in unit.bytes().enumerate() {
        let plain = byte.is_ascii_graphic() && byte != b'/' && byte != b'%' && (i > 0 || byte != b'.');
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// The unit that [`directory_name`] was made of.
pub fn unit_name(directory: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = directory.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) =
                (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The cgroup of a spawn whose unit's own is still taken.
pub fn spare_name(unit: &str, serial: u64) -> String {
    format!("{unit}.{serial}")
}

impl Tree {
    /// Makes the root: `parent`/holdfast, or below this process's own cgroup when no parent is given.
    ///
    /// # Errors
    /// When there is no cgroup2 mount, or it cannot be written: the caller goes on without cgroups and says so.
    pub fn open(parent: Option<&Path>) -> Result<Tree, CgroupError> {
        let parent = match parent {
            Some(parent) => parent.to_owned(),
            None => own_directory()?,
        };
        let root = parent.join(ROOT);
        make_directory(&root)?;
        // Those of the parent: it hands them on when the first setting asks for one.
        let mut controllers = words(&read(&parent.join("cgroup.controllers")).unwrap_or_default());
        for own in words(&read(&root.join("cgroup.controllers"))?) {
            if !controllers.contains(&own) {
                controllers.push(own);
            }
        }
        let directory = open_directory(&root)?;
        let tree = Tree { has_kill: root.join("cgroup.kill").exists(), controllers, directory, root };
        // Writable is not only a question of the mode: a read-only mount shows only when written to.
        let probe = tree.root.join("cgroup.subtree_control");
        std::fs::OpenOptions::new().write(true).open(&probe).map_err(file_error("open", &probe))?;
        Ok(tree)
    }

    /// The root's path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The controllers that settings can use.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// The path of a unit's cgroup.
    pub fn path(&self, unit: &str) -> PathBuf {
        self.root.join(directory_name(unit))
    }

    /// Moves this process into a leaf of its own, without which no controller can be enabled in a container. The root
    /// of all hands controllers on whoever is in it, and to move would be to wait for every processor.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn enter_own(&self) -> Result<(), CgroupError> {
        // cgroups(7): what the root of all lacks.
        if self.root.parent().is_some_and(|p| !p.join("cgroup.events").exists()) {
            return Ok(());
        }
        let path = self.root.join(LEAF);
        make_directory(&path)?;
        write(&path.join("cgroup.procs"), "0")
    }

    /// Makes a unit's cgroup, which may be there already, and opens its directory for [`super::spawn`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create(&self, unit: &str) -> Result<OwnedFd, CgroupError> {
        let path = self.path(unit);
        make_directory(&path)?;
        open_directory(&path)
    }

    /// Makes a cgroup that nothing was ever killed in, and opens its directory for [`super::spawn`]; answers its name
    /// too, which is another one when an earlier spawn is still in that of the unit (`in_use`, or seen here).
    ///
    /// cgroups(7) does not say so, but Linux since 6.14 tells a child that was born while its cgroup was killed by
    /// a count of kills, and for a child that is cloned *into* a cgroup it compares that of the parent's: whoever
    /// enters a cgroup that was ever killed is killed at birth.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create_fresh(
        &self,
        unit: &str,
        serial: u64,
        in_use: bool,
    ) -> Result<(String, OwnedFd), CgroupError> {
        let name = entry(unit);
        let is_new = || match mkdirat(&self.directory, name.as_c_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => Ok(true),
            Err(nix::Error::EEXIST) => Ok(false),
            Err(e) => Err(file_error("create", &self.path(unit))(e.into())),
        };
        if !in_use && (is_new()? || (self.remove(unit).is_ok() && is_new()?)) {
            let directory = open_below(&self.directory, &name);
            return Ok((unit.to_owned(), directory.map_err(|e| file_error("open", &self.path(unit))(e))?));
        }
        let spare = spare_name(unit, serial);
        let directory = self.create(&spare)?;
        Ok((spare, directory))
    }

    /// Opens the directory of a cgroup that is empty and none was killed in, for [`super::spawn`]. Nothing when there are
    /// others inside it, or it is not there any more.
    pub fn reopen(&self, unit: &str) -> Option<OwnedFd> {
        let directory = open_below(&self.directory, &entry(unit)).ok()?;
        let about = nix::sys::stat::fstat(&directory).ok()?;
        // Its name, its own entry, and one for each directory in it.
        (about.st_nlink == 2).then_some(directory)
    }

    /// Makes a cgroup for a helper (a stop or reload command) inside a unit's.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create_nested(&self, unit: &str, helper: &str) -> Result<OwnedFd, CgroupError> {
        let path = self.path(unit).join(directory_name(helper));
        make_directory(&self.path(unit))?;
        make_directory(&path)?;
        open_directory(&path)
    }

    /// The kernel's number of a unit's cgroup: part of its identity.
    ///
    /// # Errors
    /// When there is none.
    pub fn id(&self, unit: &str) -> Result<u64, CgroupError> {
        let path = self.path(unit);
        std::fs::metadata(&path).map(|m| m.ino()).map_err(file_error("find", &path))
    }

    /// The units that have a cgroup.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn units(&self) -> Result<Vec<String>, CgroupError> {
        Ok(directories(&self.root)?.iter().filter_map(|d| unit_name(d.file_name()?.to_str()?)).collect())
    }

    /// Writes a setting such as `memory.max`, enabling its controller where needed.
    ///
    /// # Errors
    /// When there is no such setting or controller, or the kernel refuses the value.
    pub fn set(&self, unit: &str, setting: &str, value: &str) -> Result<(), CgroupError> {
        let (controller, rest) =
            setting.split_once('.').ok_or_else(|| CgroupError::NotASetting(setting.to_owned()))?;
        let plain =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let known = ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"];
        if !plain(controller) || !plain(rest) || (controller == "cgroup" && !known.contains(&setting)) {
            return Err(CgroupError::NotASetting(setting.to_owned()));
        }
        let path = self.path(unit).join(setting);
        if controller != "cgroup" && !path.exists() {
            self.enable(controller, setting)?;
        }
        if !path.exists() {
            return Err(CgroupError::NotASetting(setting.to_owned()));
        }
        write(&path, value)
    }

    fn enable(&self, controller: &str, setting: &str) -> Result<(), CgroupError> {
        if !self.controllers.iter().any(|c| c == controller) {
            return Err(CgroupError::NoController {
                setting: setting.to_owned(),
                controller: controller.to_owned(),
            });
        }
        let word = format!("+{controller}");
        let own = words(&read(&self.root.join("cgroup.controllers"))?);
        if !own.iter().any(|c| c == controller)
            && let Some(parent) = self.root.parent()
        {
            // cgroups(7): refused (EBUSY) while a process is in that parent, unless it is the root of all: that is
            // what `enter_own` is for.
            write(&parent.join("cgroup.subtree_control"), &word)?;
        }
        write(&self.root.join("cgroup.subtree_control"), &word)
    }

    /// Whether any process is in the unit's cgroup or below; a cgroup that is not there has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn populated(&self, unit: &str) -> Result<bool, CgroupError> {
        let path = self.path(unit).join("cgroup.events");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(event(&text, "populated")),
            Err(e) if is_gone(&e) => Ok(false),
            Err(e) => Err(file_error("read", &path)(e)),
        }
    }

    /// The pids in the unit's cgroup and below; a cgroup that is not there has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn members(&self, unit: &str) -> Result<Vec<i32>, CgroupError> {
        let mut out = Vec::new();
        let mut open = vec![self.path(unit)];
        while let Some(directory) = open.pop() {
            let path = directory.join("cgroup.procs");
            match std::fs::read_to_string(&path) {
                Ok(text) => out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
                Err(e) if is_gone(&e) => continue,
                Err(e) => return Err(file_error("read", &path)(e)),
            }
            open.extend(directories(&directory)?);
        }
        Ok(out)
    }

    /// Kills everything in the unit's cgroup, children born meanwhile included. It is empty when
    /// [`Tree::populated`] says so, not before.
    ///
    /// # Errors
    /// What the kernel said; no cgroup is no error.
    pub fn kill(&self, unit: &str) -> Result<(), CgroupError> {
        if !self.has_kill {
            return self.kill_each(unit);
        }
        let path = self.path(unit).join("cgroup.kill");
        match std::fs::write(&path, "1") {
            Err(e) if !is_gone(&e) => Err(file_error("write", &path)(e)),
            _ => Ok(()),
        }
    }

    /// For kernels before 5.14: frozen first, so that a fork bomb cannot outrun the loop.
    fn kill_each(&self, unit: &str) -> Result<(), CgroupError> {
        self.freeze(unit, true)?;
        for _ in 0..8 {
            let members = self.members(unit)?;
            if members.is_empty() {
                break;
            }
            for pid in members.into_iter().filter(|p| *p > 1) {
                // One that has just gone is what was wanted.
                let _gone = raw::kill(pid, libc::SIGKILL);
            }
        }
        self.freeze(unit, false)
    }

    /// Sends a signal to every process in the unit's cgroup; one born meanwhile may be missed.
    ///
    /// # Errors
    /// When the members cannot be read.
    pub fn signal_all(&self, unit: &str, signal: i32) -> Result<(), CgroupError> {
        for pid in self.members(unit)? {
            let _gone = raw::kill(pid, signal);
        }
        Ok(())
    }

    /// Freezes or thaws the unit's cgroup.
    ///
    /// # Errors
    /// What the kernel said; no cgroup is no error.
    pub fn freeze(&self, unit: &str, frozen: bool) -> Result<(), CgroupError> {
        let path = self.path(unit).join("cgroup.freeze");
        match std::fs::write(&path, if frozen { "1" } else { "0" }) {
            Err(e) if !is_gone(&e) => Err(file_error("write", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes the unit's cgroup and those inside it.
    ///
    /// # Errors
    /// EBUSY while a process is left; no cgroup is no error.
    pub fn remove(&self, unit: &str) -> Result<(), CgroupError> {
        remove_directory(&self.path(unit))
    }

    /// Removes the root, when everything in it is empty.
    ///
    /// # Errors
    /// EBUSY while a process is left.
    pub fn remove_root(&self) -> Result<(), CgroupError> {
        remove_directory(&self.root)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn own_directory() -> Result<PathBuf, CgroupError> {
    let mounts = Path::new("/proc/self/mountinfo");
    let (mount, shown) = find_mount(&read(mounts)?).ok_or(CgroupError::NotMounted)?;
    let own = read(Path::new("/proc/self/cgroup"))?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::")).ok_or(CgroupError::NotMounted)?;
    let below = path.strip_prefix(shown.trim_end_matches('/')).unwrap_or(path);
    // A parent that reads as "/../x" lies outside of the cgroup namespace: only the mount's own root is left.
    let below = if below.contains("..") { "" } else { below };
    let directory = mount.join(below.trim_start_matches('/'));
    Ok(above_leaf(&directory).map(Path::to_owned).unwrap_or(directory))
}

/// After a re-exec this process is in its own leaf below the root that it had made. Any other cgroup below one of that name
/// is somebody else's, as is that of a container on a machine of ours.
fn above_leaf(directory: &Path) -> Option<&Path> {
    let root = directory.parent().filter(|_| directory.file_name() == Some(OsStr::new(LEAF)))?;
    root.parent().filter(|_| root.file_name() == Some(OsStr::new(ROOT)))
}

fn event(text: &str, key: &str) -> bool {
    text.lines().any(|l| l.strip_prefix(key).is_some_and(|v| v.trim() == "1"))
}

/// A removed cgroup answers ENOENT by path and ENODEV by an open file.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(file_error("read", path))
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    // Not `fs::write`, which would create the file and so turn "no such setting" into "permission denied".
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(file_error("open", path))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(file_error("write", path))
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(file_error("create", path)(e)),
        _ => Ok(()),
    }
}

/// A directory to name cgroups by, which nobody reads: clone3(2) takes one for where a child is born.
fn open_below(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(directory, name, how, Mode::empty())?)
}

/// A unit's directory below the root.
fn entry(unit: &str) -> CString {
    // The name has no NUL: it is escaped.
    CString::new(directory_name(unit)).unwrap_or_default()
}

fn open_directory(path: &Path) -> Result<OwnedFd, CgroupError> {
    let file = std::fs::File::open(path).map_err(file_error("open", path))?;
    Ok(file.into())
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(file_error("read", path)(e)),
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}

fn remove_directory(path: &Path) -> Result<(), CgroupError> {
    // Most have nothing inside.
    match std::fs::remove_dir(path) {
        Err(e) if !is_gone(&e) => {}
        _ => return Ok(()),
    }
    // Depth first, by a list: the children of a directory always come after it.
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = all.get(next).cloned() {
        all.extend(directories(&directory)?);
        next += 1;
    }
    for directory in all.iter().rev() {
        match std::fs::remove_dir(directory) {
            Err(e) if !is_gone(&e) => return Err(file_error("remove", directory)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Tells which cgroups may have become empty: one inotify descriptor (nonblocking, close-on-exec) for all.
#[derive(Debug)]
pub struct EmptyWatch {
    inotify: Inotify,
    units: BTreeMap<WatchDescriptor, String>,
}

impl EmptyWatch {
    /// Opens the descriptor.
    ///
    /// # Errors
    /// What inotify_init1(2) said.
    pub fn open() -> io::Result<EmptyWatch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(EmptyWatch { inotify, units: BTreeMap::new() })
    }

    /// Watches a unit's cgroup; it ends by itself when the cgroup is removed.
    ///
    /// # Errors
    /// What inotify_add_watch(2) said.
    pub fn add(&mut self, tree: &Tree, unit: &str) -> io::Result<()> {
        let path = tree.path(unit).join("cgroup.events");
        let watch = self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY)?;
        self.units.insert(watch, unit.to_owned());
        Ok(())
    }

    /// The units whose cgroup changed between empty and populated, to be asked by [`Tree::populated`]. All of
    /// them if the kernel's queue overflowed. Reads until nothing is left.
    ///
    /// # Errors
    /// What read(2) said.
    pub fn changed(&mut self) -> io::Result<Vec<String>> {
        let mut out: Vec<String> = Vec::new();
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    out = self.units.values().cloned().collect();
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.units.remove(&event.wd);
                } else if let Some(unit) = self.units.get(&event.wd)
                    && !out.contains(unit)
                {
                    out.push(unit.clone());
                }
            }
        }
        Ok(out)
    }
}

impl AsFd for EmptyWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for EmptyWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

/// Where there is no cgroup: the processes that still belong to a service started as `leader`, as far as that
/// can be told: its session, its process group, and the descendants of those. A daemon that has left its session
/// and lost its parent is missed.
pub fn session_members(leader: i32) -> Vec<i32> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .as_bytes()
            .first()
            .filter(|b| b.is_ascii_digit())
            .and_then(|_| entry.file_name().to_str()?.parse::<i32>().ok())
        else {
            continue;
        };
        let stat = std::fs::read(entry.path().join("stat")).ok();
        if let Some(stat) = stat.and_then(|s| super::reap::parse_stat(&s)).filter(|s| s.state != b'Z') {
            all.insert(pid, stat);
        }
    }
    let mut members: Vec<i32> = all
        .iter()
        .filter(|(pid, s)| **pid == leader || s.session == leader || s.pgrp == leader)
        .map(|(pid, _)| *pid)
        .collect();
    // Descendants, until a round adds none; each process is added once, so this ends.
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        let children: Vec<i32> = all.iter().filter(|(_, s)| s.ppid == parent).map(|(pid, _)| *pid).collect();
        for child in children {
            if !members.contains(&child) {
                members.push(child);
            }
        }
        next += 1;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_file_system() {
        for name in ["service:nginx", "service:a/b", ".x", "service:ü %", "cgroup.procs:x"] {
            let directory = directory_name(name);
            assert!(!directory.contains('/') && !directory.starts_with('.'), "{directory}");
            assert_eq!(unit_name(&directory).as_deref(), Some(name));
        }
        assert_eq!(unit_name("%g0"), None);
        assert_eq!(unit_name("%4"), None);
    }

    #[test]
    fn only_init_itself_is_in_a_leaf_of_ours() {
        let above = |path: &'static str| above_leaf(Path::new(path)).and_then(Path::to_str);
        assert_eq!(directory_name(LEAF), LEAF);
        assert_eq!(above("/sys/fs/cgroup/holdfast/holdfast.init"), Some("/sys/fs/cgroup"));
        let nested = "/sys/fs/cgroup/holdfast/service:podman/c/holdfast/holdfast.init";
        assert_eq!(above(nested), Some("/sys/fs/cgroup/holdfast/service:podman/c"));
        for other in
            ["/sys/fs/cgroup/holdfast/service:podman/c", "/sys/fs/cgroup/holdfast", "/", "/x/holdfast.init"]
        {
            assert_eq!(above(other), None, "{other}");
        }
    }

    #[test]
    fn finds_the_hierarchy_beside_v1() {
        let text = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    27 25 0:24 /a\\040b /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n";
        let (path, root) = find_mount(text).unwrap();
        assert_eq!((path.to_str(), root.as_str()), (Some("/sys/fs/cgroup/unified"), "/a b"));
        assert_eq!(find_mount("1 2 0:1 / / rw - ext4 /dev/sda rw\n"), None);
    }
}
