//! Which system calls each of the worker's confined roles may make: lists of what is allowed, found by tracing the
//! whole test suite (`strace -f`, what comes behind the filter), with what the C library may choose instead on
//! another kernel or under other load. Whatever is not in a list is refused.
//!
//! Refused means EPERM, not death: the C library and Rust's probe for calls that a kernel may not have and go on
//! with another one when they are told no; a role that tries what it should not gets no further either way, and the
//! error names what it was about. Filters of roles add up with Landlock, which says *where* (`confine.rs`).

use std::collections::BTreeMap;

use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// A confined role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Parses what people wrote; asks the opener, writes below its staging directory.
    Compiler,
    /// Looks at the machine: the opener, and whoever answers about the store.
    Reader,
    /// Carries out a batch.
    Committer,
}

/// fchmodat2(2): the same number on every architecture.
const FCHMODAT2: i64 = 452;

/// Memory, time, its own signals, and descriptors that it has.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_setitimer,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_uname,
    libc::SYS_getcwd,
    libc::SYS_getrlimit,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat,
    libc::SYS_ppoll,
    // Over sockets that it has; none can be made or connected.
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Looking at what is there.
const LOOKING: &[i64] = &[
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_memfd_create,
    // How std copies from one descriptor to another.
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
];

/// Changing what is there: names where Landlock lets them, metadata by descriptor.
const CHANGING: &[i64] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_umask,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
];

/// What a role may do: calls, each with conditions of which one must hold; none is no condition.
///
/// # Errors
/// When a condition cannot be said.
pub fn allowed(role: Role) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let lists: &[&[i64]] = match role {
        Role::Compiler => &[COMMON, &[libc::SYS_renameat, libc::SYS_renameat2]],
        Role::Reader => &[COMMON, LOOKING],
        Role::Committer => &[COMMON, LOOKING, CHANGING],
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.iter().flat_map(|list| list.iter()).map(|n| (*n, Vec::new())).collect();
    let is = |argument, length, value| SeccompCondition::new(argument, length, SeccompCmpOp::Eq, value);
    let itself = u64::from(std::process::id());
    // A process may end itself with a signal, which is what abort(3) does.
    let own = SeccompRule::new(vec![is(0, SeccompCmpArgLen::Dword, itself)?])?;
    rules.insert(libc::SYS_tgkill, vec![own]);
    // Limits of nobody else, and none is set.
    let own = is(0, SeccompCmpArgLen::Dword, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![own, is(2, SeccompCmpArgLen::Qword, 0)?])?]);
    if role == Role::Committer {
        let bits = u64::try_from(libc::AT_EMPTY_PATH).unwrap_or_default();
        let empty_path = |argument| {
            let set = SeccompCmpOp::MaskedEq(bits);
            SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, set, bits)?])
        };
        rules.insert(libc::SYS_fchownat, vec![empty_path(4)?]);
        rules.insert(FCHMODAT2, vec![empty_path(3)?]);
        // utimensat(2) without a path is futimens(3); with one it must be the empty one.
        let no_path = SeccompRule::new(vec![is(1, SeccompCmpArgLen::Qword, 0)?])?;
        rules.insert(libc::SYS_utimensat, vec![no_path, empty_path(3)?]);
    }
    Ok(rules)
}
