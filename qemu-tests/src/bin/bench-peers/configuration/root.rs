//! Where the tools run: a Debian of their own below cargo's directory, in namespaces, so that this machine stays as it
//! is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use initramfs::lock::Lock;
use initramfs::tool;
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::oci;

use crate::root::{WITH_LIBRARY, compile};

const SPEC: &str = r#"
suite       = "bookworm"
base        = "debian"
compression = "none"
programs    = false
packages    = ["ansible-core", "cfengine3", "puppet-agent", "strace"]
remove      = ["/usr/share/fonts", "/usr/lib/x86_64-linux-gnu/gconv"]
"#;

const SOURCES: &[(&str, &str)] =
    &[("loops", include_str!("../guest/loops.c")), ("measure", include_str!("../guest/measure.c"))];

/// Mounts what a program may expect, and becomes the command in the root: `$1` the root, `$2` what is managed, `$3` the
/// policies.
const ENTER: &str = "set -e; root=$1; mount -t proc proc \"$root/proc\"; mount --rbind /dev \"$root/dev\"; \
    mount --rbind /sys \"$root/sys\"; mount --bind \"$2\" \"$root/srv\"; mount --bind \"$3\" \"$root/mnt\"; \
    shift 3; exec chroot \"$root\" \"$@\"";

/// What a command used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    /// Processor time of the command and of all that it started and waited for, in milliseconds.
    pub(crate) processor: f64,
    /// The largest resident size of one of its processes, in KiB.
    pub(crate) resident: f64,
    /// Milliseconds from its start to its end.
    pub(crate) elapsed: f64,
    code: i32,
}

/// See the module.
pub(crate) struct Root {
    root: PathBuf,
    /// What is managed; in memory where the machine has such a directory.
    data: tempfile::TempDir,
    work: tempfile::TempDir,
    pub(crate) versions: BTreeMap<String, String>,
}

impl Root {
    pub(crate) fn build(context: &Context) -> Result<Root> {
        if !tool::is_root() {
            return Err(
                "the other tools run in a root of their own, which only root can enter: run this as root"
                    .into(),
            );
        }
        tool::ensure(oci::TOOLS)?;
        let here = context.scratch("peers-configuration");
        fs::create_dir_all(&here)?;
        let spec = here.join("image.toml");
        if fs::read_to_string(&spec).ok().as_deref() != Some(SPEC) {
            let _ = fs::remove_file(spec.with_extension("lock"));
            fs::write(&spec, SPEC)?;
        }
        let image = context.image_at(&spec, "peers-configuration")?;
        let lock = context.current_lock("peers-configuration").unwrap_or(spec.with_extension("lock"));
        let lock = Lock::read(&lock)?.ok_or("the image has no lock file")?;
        let root = oci::unpacked(&context.scratch("peers-configuration-root"), &image.initramfs)?;
        let memory = Path::new("/dev/shm");
        let named = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("holdfast-peers-");
            builder
        };
        let data = if memory.is_dir() { named().tempdir_in(memory)? } else { named().tempdir()? };
        let work = named().tempdir()?;
        for (name, text) in SOURCES {
            compile(work.path(), name, text, WITH_LIBRARY)?;
        }
        let versions = lock.packages.into_iter().map(|p| (p.name, p.version)).collect();
        let root = Root { root, data, work, versions };
        // CFEngine signs nothing here, and still wants a key.
        if !root.root.join("var/lib/cfengine3/ppkeys/localhost.priv").exists() {
            tool::run("make a key", &mut root.enter(&["/usr/bin/cf-key"]))?;
        }
        Ok(root)
    }

    /// Writes a file for the tools; its path as they see it.
    pub(crate) fn policy(&self, path: &str, text: &str) -> Result {
        let name = path.rsplit('/').next().unwrap_or(path);
        let file = self.work.path().join(name);
        fs::write(&file, text)?;
        // CFEngine believes nobody who could be overruled.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    /// What `/srv` in there is on this machine.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    fn enter(&self, words: &[&str]) -> Command {
        let mut command = tool::command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]);
        command.args([self.root.as_path(), self.data.path(), self.work.path()]).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a command to its end, which must be a good one.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Used> {
        let mut command = self.enter(&[&["/mnt/measure", "/mnt/used"], words].concat());
        let out = tool::run("run a tool", &mut command)?;
        let used = parsed(&fs::read_to_string(self.work.path().join("used"))?)?;
        if used.code != 0 {
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            let end = qemu_tests::console::tail(&said, 20);
            return Err(format!("{words:?} ended with {}:\n{end}", used.code).into());
        }
        Ok(used)
    }

    /// How many system calls a command makes, with all that it starts.
    pub(crate) fn calls(&self, words: &[&str]) -> Result<u64> {
        self.run(&[&["/usr/bin/strace", "-f", "-c", "-o", "/mnt/calls"], words].concat())?;
        total(&fs::read_to_string(self.work.path().join("calls"))?)
    }
}

/// What `guest/measure.c` writes.
fn parsed(text: &str) -> Result<Used> {
    let fields: Vec<f64> = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [user, system, resident, elapsed, _] = fields.as_slice() else {
        return Err(format!("measure wrote {text:?}").into());
    };
    let code = text.split_whitespace().last().unwrap_or_default().parse()?;
    Ok(Used { processor: (user + system) / 1e3, resident: *resident, elapsed: elapsed / 1e3, code })
}

/// The sum of strace's table.
pub(crate) fn total(table: &str) -> Result<u64> {
    let line = table.lines().find(|l| l.trim_end().ends_with(" total")).ok_or("strace wrote no sum")?;
    let calls = line.split_whitespace().nth(3).ok_or("strace's sum has no calls")?;
    Ok(calls.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_used_is_read() {
        let used = parsed("120000 30500 22800 160250 0\n").unwrap();
        assert_eq!((used.processor, used.resident, used.elapsed, used.code), (150.5, 22800.0, 160.25, 0));
        assert_eq!(parsed("1 2 3 4 -1\n").unwrap().code, -1);
        assert!(parsed("1 2 3\n").is_err());
    }

    #[test]
    fn the_sum_of_a_trace_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.000200           2       100         7 read\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.000400           2       410        12 total\n";
        assert_eq!(total(table).unwrap(), 410);
        assert_eq!(total("100.00    0.000400           2       31           total\n").unwrap(), 31);
        assert!(total("").is_err());
    }
}
