//! config.json of the OCI runtime specification, with the values that Docker uses.

use std::path::Path;

use serde_json::{Value, json};

use super::PROBE;
use crate::Result;

/// What `docker run` gives a process of root's.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Of what Docker's filter forbids without further capabilities, the calls that an init could want.
const FORBIDDEN: &[&str] = &[
    "mount",
    "umount2",
    "unshare",
    "setns",
    "pivot_root",
    "open_by_handle_at",
    "sethostname",
    "reboot",
    "swapon",
    "init_module",
    "finit_module",
    "bpf",
    "fanotify_init",
    "syslog",
    "quotactl",
    "fsopen",
    "move_mount",
];

/// How a container is to be. The default: root, a writable root, no terminal, no filter.
#[derive(Debug, Clone, Default)]
pub struct Spec<'a> {
    /// Command and arguments.
    pub arguments: &'a [&'a str],
    /// User and group of the first process.
    pub uid: u32,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// Fresh file systems in memory, by mount point.
    pub tmpfs: &'a [&'a str],
    /// Files and directories of the host, mounted read-only.
    pub binds: &'a [(&'a Path, &'a str)],
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether system calls are filtered as by Docker.
    pub filter: bool,
    /// Variables beside `PATH`.
    pub environment: &'a [(&'a str, &'a str)],
}

pub(super) fn render(root: &Path, id: &str, spec: &Spec<'_>) -> Result<Value> {
    let exe = std::env::current_exe()?;
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    ];
    for place in spec.tmpfs {
        // The mode is that of the directory below, whatever is asked for; so the user must be the owner.
        let (uid, gid) = (format!("uid={}", spec.uid), format!("gid={}", spec.uid));
        let options = ["nosuid", "nodev", "size=64m", &uid, &gid];
        mounts.push(json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    let probe = [(exe.as_path(), PROBE)];
    for (from, to) in spec.binds.iter().chain(&probe) {
        mounts.push(
            json!({"destination": to, "type": "bind", "source": from, "options": ["bind", "ro", "nosuid"]}),
        );
    }
    let held: &[&str] = if spec.uid == 0 { CAPABILITIES } else { &[] };
    let mut environment = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "TERM=xterm".to_owned(),
    ];
    environment.extend(spec.environment.iter().map(|(name, value)| format!("{name}={value}")));
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.terminal,
            "user": {"uid": spec.uid, "gid": spec.uid},
            "args": spec.arguments,
            "env": environment,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": held, "permitted": held, "inheritable": [], "ambient": []
            },
            "noNewPrivileges": false
        },
        "root": {"path": root, "readonly": spec.read_only},
        "hostname": "container",
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if spec.filter
        && let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut)
    {
        linux.insert("seccomp".to_owned(), filter());
    }
    Ok(config)
}

/// Docker's answers: EPERM to what a container must not do, ENOSYS to clone3, whose flags a filter cannot read.
fn filter() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": FORBIDDEN, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS},
            // clone with any flag that makes a namespace.
            {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM, "args": [
                {"index": 0, "value": libc::CLONE_NEWUSER, "valueTwo": libc::CLONE_NEWUSER,
                 "op": "SCMP_CMP_MASKED_EQ"}
            ]}
        ]
    })
}
