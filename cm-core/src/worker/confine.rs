//! What the committer may do (design §2.8): create, write, rename and unlink below the directories of its batch and
//! nowhere else (Landlock), change metadata by descriptor only (seccomp), with the capabilities that this takes.
//!
//! Landlock governs neither chmod, chown, extended attributes nor times; that is why seccomp takes away their forms
//! that name a path. What seccomp leaves each role is a list of what it needs, in [`calls`].

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::calls::{self, Role};
use crate::resource::op::Want;
use crate::resource::place::Dir;
use crate::resource::world::World;
use crate::sys;

/// What a batch may write below. The rules are made as the directories are found, so that none of these has to be kept
/// open until the committer is there: a batch may have more of them than a process may have descriptors.
#[derive(Debug, Default)]
pub struct Domain {
    /// Rules of Landlock; none where the kernel has no use for them, or nothing is confined.
    rules: Option<RulesetCreated>,
    /// Why they could not be made.
    failed: Option<ConfineError>,
    /// Canonical paths of the directories.
    seen: BTreeSet<String>,
    /// Of those in which only directories are made or removed.
    partly: BTreeSet<(String, Partly)>,
    /// Values below /proc/sys that are written, by their paths there.
    pub settings: BTreeSet<String>,
    /// Whether a file capability is given or taken.
    pub file_capabilities: bool,
    /// Whether extended attributes are set that are an administrator's only.
    pub trusted_attributes: bool,
}

/// What is done in a directory whose files are nobody's business: what is allowed below it is allowed in all of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Partly {
    /// Directories are made in it, or moved there.
    Makes,
    /// Empty ones are removed from it.
    Removes,
}

impl Domain {
    /// For a committer that is confined to it. One that is not needs no more than the default.
    pub fn confined() -> Domain {
        let mut domain = Domain::default();
        if landlock_version() >= 2 {
            match writing() {
                Ok(rules) => domain.rules = Some(rules),
                Err(e) => domain.failed = Some(e),
            }
        }
        domain
    }

    /// Lets a directory of the machine be written.
    pub fn allow(&mut self, dir: &Dir) {
        if self.seen.insert(dir.path.clone()) {
            self.beneath(dir);
        }
    }

    /// Lets directories come to a directory of the machine, or go, and nothing else.
    pub fn allow_partly(&mut self, dir: &Dir, what: Partly) {
        if self.partly.insert((dir.path.clone(), what)) {
            let access = match what {
                Partly::Makes => AccessFs::MakeDir | AccessFs::Refer,
                Partly::Removes => AccessFs::RemoveDir.into(),
            };
            self.rule(dir, access);
        }
    }

    /// Whether a directory of the machine may be written.
    pub fn allows(&self, path: &str) -> bool {
        self.seen.contains(path)
    }

    /// Lets whatever is open here be written, and what lies below it: a staging area.
    pub fn beneath(&mut self, open: impl AsFd) {
        self.rule(open, write_access());
    }

    fn rule(&mut self, open: impl AsFd, access: BitFlags<AccessFs>) {
        let Some(rules) = self.rules.take() else { return };
        match rules.add_rule(PathBeneath::new(open, access)) {
            Ok(rules) => self.rules = Some(rules),
            Err(e) => self.failed = Some(ConfineError::Landlock(e.to_string())),
        }
    }

    /// Notes what these attributes take beyond what every file takes.
    pub fn attributes(&mut self, want: &Want) {
        const FILE_CAPABILITY: &str = "security.capability";
        let mut names = want.xattrs.iter().map(|(name, _)| name.as_str());
        self.file_capabilities |= want.exact || names.clone().any(|n| n == FILE_CAPABILITY);
        // xattr(7): trusted ones, and security ones that no security module looks after.
        self.trusted_attributes |=
            names.any(|n| n.starts_with("trusted.") || n.starts_with("security.") && n != FILE_CAPABILITY);
    }

    /// The capabilities that the steps need, a bit a number.
    pub fn capabilities(&self) -> u64 {
        // CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
        let files = if self.seen.is_empty() && self.partly.is_empty() { 0 } else { 0b1_1111 };
        let given = [(self.file_capabilities, SETFCAP), (self.trusted_attributes, SYS_ADMIN)];
        let attributes = given.into_iter().filter(|(needed, _)| *needed).fold(0, |all, (_, one)| all | one);
        self.settings.iter().fold(files | attributes, |all, key| all | setting(key))
    }
}

const SETPCAP: u64 = 1 << 8;
const NET_ADMIN: u64 = 1 << 12;
const SYS_MODULE: u64 = 1 << 16;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const SETFCAP: u64 = 1 << 31;
const MAC_ADMIN: u64 = 1 << 33;

/// What the kernel asks of who writes a value below /proc/sys, beside being root: each of these is checked where the
/// value is taken, in the kernel's own files of that subsystem.
fn setting(key: &str) -> u64 {
    if key.starts_with("net/core/bpf_jit_") {
        NET_ADMIN | SYS_ADMIN
    } else if key.starts_with("net/") {
        NET_ADMIN
    } else if key.starts_with("kernel/yama/") {
        SYS_PTRACE
    } else if key.starts_with("kernel/usermodehelper/") {
        SYS_MODULE | SETPCAP
    } else if key.starts_with("kernel/apparmor") || key == "kernel/unprivileged_userns_apparmor_policy" {
        MAC_ADMIN | SYS_ADMIN
    } else if key == "vm/mmap_min_addr" {
        SYS_RAWIO
    } else {
        SYS_ADMIN | SYS_RESOURCE
    }
}

/// Why a process could not be confined. It must not go on then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock.
    #[error("cannot set up landlock: {0}")]
    Landlock(String),
    /// Seccomp.
    #[error("cannot set up seccomp: {0}")]
    Seccomp(String),
    /// Anything else.
    #[error("cannot drop privileges: {0}")]
    Privileges(#[from] std::io::Error),
}

/// Everything that changes a file system, without what a kernel may not know yet.
fn write_access() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V3)
}

/// What Landlock can do on this kernel, in words for the log; `None` when it can do all that is asked.
pub fn shortcoming() -> Option<&'static str> {
    match landlock_version() {
        0 => Some("this kernel has no landlock: the committer is confined by seccomp and capabilities only"),
        1 => Some("landlock of this kernel cannot let files be renamed between directories: it is not used"),
        2 => Some("landlock of this kernel does not govern truncate(2)"),
        _ => None,
    }
}

fn landlock_version() -> u32 {
    // landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION.
    sys::landlock_version().unwrap_or(0)
}

/// A set of rules under which nothing may be written yet.
fn writing() -> Result<RulesetCreated, ConfineError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write_access())
        .and_then(Ruleset::create)
        .map_err(|e| ConfineError::Landlock(e.to_string()))
}

/// Has this process held to its rules.
fn enforce(rules: RulesetCreated) -> Result<(), ConfineError> {
    let status = rules.restrict_self().map_err(|e| ConfineError::Landlock(e.to_string()))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(ConfineError::Landlock("the kernel did not enforce it".to_owned()));
    }
    Ok(())
}

/// Confines this process to what a batch needs, for good.
///
/// # Errors
/// When the kernel refuses what it should be able to do.
pub fn committer(world: &World, domain: Domain) -> Result<(), ConfineError> {
    // Nobody but the coordinator speaks with PID 1.
    sys::close(&world.private);
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let capabilities = domain.capabilities();
    if let Some(e) = domain.failed {
        return Err(e);
    }
    if let Some(mut rules) = domain.rules {
        let failed = |e: landlock::RulesetError| ConfineError::Landlock(e.to_string());
        if let Some(store) = &world.store {
            let open = std::fs::File::open(store.dir())?;
            rules = rules.add_rule(PathBeneath::new(open, write_access())).map_err(failed)?;
        }
        for key in &domain.settings {
            // One that cannot be opened is not there by now: its step says so.
            let mut named = std::fs::OpenOptions::new();
            named.read(true).custom_flags(libc::O_PATH);
            let Ok(open) = named.open(world.setup.proc_sys.join(key)) else { continue };
            let value = write_access() & AccessFs::from_file(ABI::V3);
            rules = rules.add_rule(PathBeneath::new(open, value)).map_err(failed)?;
        }
        enforce(rules)?;
    }
    sys::keep_capabilities(capabilities)?;
    seccomp(Role::Committer)
}

/// Confines this process, which is nobody already, to writing below one directory.
///
/// # Errors
/// When the kernel refuses what it should be able to do.
pub fn compiler(staging: &std::fs::File) -> Result<(), ConfineError> {
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    if landlock_version() >= 2 {
        let failed = |e: landlock::RulesetError| ConfineError::Landlock(e.to_string());
        // Reading too: descriptors of sources come from the opener.
        let all = AccessFs::from_all(ABI::V3);
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)
            .map_err(failed)?
            .create()
            .map_err(failed)?
            .add_rule(PathBeneath::new(staging, write_access()))
            .map_err(failed)?;
        enforce(rules)?;
    }
    sys::keep_capabilities(0)?;
    seccomp(Role::Compiler)
}

/// Confines this process to looking: it can read what root can, and change nothing.
///
/// # Errors
/// When the kernel refuses what it should be able to do.
pub fn reader() -> Result<(), ConfineError> {
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    if landlock_version() >= 2 {
        enforce(writing()?)?;
    }
    // CAP_DAC_READ_SEARCH.
    sys::keep_capabilities(1 << 2)?;
    seccomp(Role::Reader)
}

/// Refuses every call but those of a role.
fn seccomp(role: Role) -> Result<(), ConfineError> {
    let failed = |e: &dyn std::fmt::Display| ConfineError::Seccomp(e.to_string());
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let arch = std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| failed(&e))?;
    foreign_numbers().map_err(|e| failed(&e))?;
    let rules = calls::allowed(role).map_err(|e| failed(&e))?;
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).map_err(|e| failed(&e))?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| failed(&e))?;
    seccompiler::apply_filter(&program).map_err(|e| failed(&e))
}

/// Refuses the numbers of the x32 calls, which no list of x86-64 numbers names and which do the same.
#[cfg(target_arch = "x86_64")]
fn foreign_numbers() -> Result<(), seccompiler::Error> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap_or(1);
    seccompiler::apply_filter(&[
        // The number is the first word of what a filter looks at.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_SET, 0, 1, 0x4000_0000),
        step(RETURN, 0, 0, refuse),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign_numbers() -> Result<(), seccompiler::Error> {
    Ok(())
}
