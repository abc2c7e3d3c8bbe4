//! What all machines share: the kernel, one root with the packages of all inits in it, and the programs of the
//! benchmark, compiled here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use initramfs::apt::Apt;
use initramfs::lock::Lock;
use initramfs::tool::{self, Tool};
use qemu_tests::Result;
use qemu_tests::context::{Context, Image, QEMU};

/// What the inits are, and what they are linked with. Unpacked, not installed: no script of a package runs.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "finit",
    "libacl1",
    "libapparmor1",
    "libaudit1",
    "libblkid1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcrypt1",
    "libcryptsetup12",
    "libeinfo1",
    "libexecline2.9",
    "libfdisk1",
    "libgcc-s1",
    "libgcrypt20",
    "libgpg-error0",
    "libip4tc2",
    "libite5",
    "libkmod2",
    "liblz4-1",
    "liblzma5",
    "libmount1",
    "libp11-kit0",
    "libpam0g",
    "libpcre2-8-0",
    "librc1",
    "libs6-2.11",
    "libseccomp2",
    "libselinux1",
    "libskarnet2.13",
    "libssl3",
    "libsystemd-shared",
    "libsystemd0",
    "libuev3",
    "libzstd1",
    "mount",
    "openrc",
    "runit",
    "s6",
    "systemd",
    "sysvinit-core",
    "sysvinit-utils",
];

/// What the scripts of some inits call; BusyBox has it.
const APPLETS: &[&str] = &[
    "[", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dirname", "echo", "egrep", "env",
    "expr", "false", "find", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mkfifo", "mv",
    "printf", "ps", "readlink", "rm", "rmdir", "sed", "sh", "sleep", "sort", "stat", "stty", "sync", "tail",
    "test", "touch", "tr", "true", "uname", "wc", "xargs",
];

const SPEC: &str = r#"
suite       = "bookworm"
base        = "unpacked"
compression = "none"
programs    = false
remove      = ["/usr/lib/x86_64-linux-gnu/gconv", "/usr/share", "/usr/lib/udev", "/etc/finit.d"]

[kernel]
package = "linux-image-6.*-cloud-amd64"
suites  = ["bookworm-backports", "bookworm-security", "bookworm"]

[file."/etc/passwd"]
content = """
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""

[file."/etc/group"]
content = """
root:x:0:
tty:x:5:
utmp:x:43:
systemd-journal:x:101:
nogroup:x:65534:
"""
"#;

/// The suites of the kernel in [`SPEC`].
const SUITES: [&str; 3] = ["bookworm-backports", "bookworm-security", "bookworm"];

const COMPILER: &[Tool] = &[Tool { program: "cc", package: "gcc libc6-dev" }];

/// A program without a C library, of one page and a few hundred instructions; and one with.
const BARE: &[&str] = &["-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie"];
pub(crate) const WITH_LIBRARY: &[&str] = &[];

/// The programs that run in the machine.
const SOURCES: &[(&str, &str, &[&str])] = &[
    ("first", include_str!("guest/first.c"), BARE),
    ("floor", include_str!("guest/floor.c"), BARE),
    ("off", include_str!("guest/off.c"), BARE),
    ("probe", include_str!("guest/probe.c"), WITH_LIBRARY),
    ("service", include_str!("guest/service.c"), BARE),
];

/// See the module.
pub(crate) struct Root {
    pub(crate) image: Image,
    pub(crate) programs: BTreeMap<&'static str, Vec<u8>>,
    /// Versions of the packages, by name.
    pub(crate) versions: BTreeMap<String, String>,
    /// Bytes of their files, without documentation.
    pub(crate) sizes: BTreeMap<String, u64>,
    /// The kernel's version.
    pub(crate) kernel: String,
    /// What decides the shared root.
    pub(crate) identity: String,
}

impl Root {
    pub(crate) fn build(context: &Context) -> Result<Root> {
        tool::ensure(QEMU)?;
        let here = context.scratch("peers");
        fs::create_dir_all(&here)?;
        let spec = here.join("image.toml");
        let packages: Vec<String> = PACKAGES.iter().map(|p| format!("{p:?}")).collect();
        let mut text = format!("packages = [{}]\n{SPEC}\n[symlinks]\n", packages.join(", "));
        for applet in APPLETS {
            text.push_str(&format!("\"/usr/bin/{applet}\" = \"busybox\"\n"));
        }
        let lock = spec.with_extension("lock");
        if fs::read_to_string(&spec).ok().as_deref() != Some(text.as_str()) {
            let _ = fs::remove_file(&lock);
            fs::write(&spec, text)?;
        }
        let image = context.image_at(&spec, "peers")?;
        let chosen = context.current_lock("peers").unwrap_or(lock);
        let chosen = Lock::read(&chosen)?.ok_or("the image has no lock file")?;
        let identity = format!("{}{}", fs::read_to_string(&spec)?, chosen.render());
        let versions = chosen.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect();
        let apt = Apt::open(&context.cache(), "bookworm", &SUITES.map(str::to_owned))?;
        let mut sizes = BTreeMap::new();
        for package in &chosen.packages {
            let mut tree = initramfs::root::package_tree(&apt.archive(package))?;
            tree.prune("usr/share");
            sizes.insert(package.name.clone(), tree.size());
        }
        let kernel = chosen.kernel.map(|k| k.version).unwrap_or_default();
        Ok(Root { image, programs: compiled(&here.join("guest"))?, versions, sizes, kernel, identity })
    }
}

/// Compiles the programs of the machine: static, so that they are the same beside every init.
fn compiled(here: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    fs::create_dir_all(here)?;
    fs::write(here.join("bare.h"), include_str!("guest/bare.h"))?;
    let mut out = BTreeMap::new();
    for (name, text, options) in SOURCES {
        compile(here, name, text, options)?;
        out.insert(*name, fs::read(here.join(name))?);
    }
    Ok(out)
}

/// Compiles one static program into a directory.
pub(crate) fn compile(here: &Path, name: &str, text: &str, options: &[&str]) -> Result {
    tool::ensure(COMPILER)?;
    let source = here.join(format!("{name}.c"));
    fs::write(&source, text)?;
    let mut command = tool::command("cc");
    command.args(["-static", "-O2", "-s"]).args(options).arg("-o").arg(here.join(name)).arg(&source);
    tool::run("compile a program of the benchmark", &mut command)?;
    Ok(())
}
