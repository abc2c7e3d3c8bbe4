//! Images: the same input gives the same bytes, a stale lock is named, and the harness drives what it boots.

use std::fs;
use std::path::Path;

use initramfs::lock::Lock;
use initramfs::tool::{self, Tool};

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::demonstration::IMAGE;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "image-same-bytes", group: "image", limit: minutes(5), run: same_bytes },
    Scenario { name: "image-lock-gone", group: "image", limit: minutes(3), run: lock_gone },
    Scenario { name: "harness-drives-machine", group: "qemu", limit: minutes(3), run: drives_machine },
];

/// Two builds of the example, each installing its packages afresh, give the same bytes.
fn same_bytes(context: &Context) -> Result {
    let programs = context.programs()?;
    // The image of the other scenarios tells which versions are to be had: those of the committed lock file, or, once
    // the archive has dropped one of them, those of a lock file beside that image.
    context.image(IMAGE)?;
    let lock = context.current_lock(IMAGE);
    let mut digests = Vec::new();
    for name in ["first", "second"] {
        let out = tempfile::tempdir()?;
        let cache = tempfile::tempdir()?;
        share_downloads(&context.cache(), cache.path())?;
        let built = initramfs::build(&initramfs::Request {
            image: context.workspace().join(IMAGE),
            out: out.path().join(name),
            lock: lock.clone(),
            update_lock: false,
            cache: cache.path().to_path_buf(),
            programs: programs.to_path_buf(),
        })?;
        println!("{name}: {}", built.digest);
        digests.push(built.digest);
    }
    if digests.first() == digests.last() { Ok(()) } else { Err("two builds of one image differ".into()) }
}

/// A cache with the downloads of another one, but not what was made of them.
fn share_downloads(from: &Path, to: &Path) -> Result {
    let apt = Path::new("apt/bookworm/archives");
    fs::create_dir_all(to.join(apt))?;
    for entry in fs::read_dir(from.join(apt)).into_iter().flatten().flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(apt).join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// A lock file with a version that no archive has any more stops the build and names package and way out.
fn lock_gone(context: &Context) -> Result {
    let here = tempfile::tempdir()?;
    let image = here.path().join("image.toml");
    fs::write(&image, TINY)?;
    let request = initramfs::Request {
        image: image.clone(),
        out: here.path().join("out"),
        lock: None,
        update_lock: false,
        cache: context.cache(),
        programs: here.path().to_path_buf(),
    };
    initramfs::build(&request)?;
    let path = image.with_extension("lock");
    let mut lock = Lock::read(&path)?.ok_or("no lock file was written")?;
    for package in &mut lock.packages {
        package.version = "0.1-gone".to_owned();
    }
    fs::write(&path, lock.render())?;
    match initramfs::build(&request) {
        Err(e @ initramfs::Error::Gone { .. }) => {
            let said = e.to_string();
            println!("{said}");
            let complete = ["busybox-static", "0.1-gone", "image.lock", "--update-lock"]
                .iter()
                .all(|w| said.contains(w));
            if complete { Ok(()) } else { Err(format!("the message lacks something: {said}").into()) }
        }
        other => Err(format!("expected the lock to be refused, got {other:?}").into()),
    }
}

const TINY: &str = r#"
suite    = "bookworm"
base     = "unpacked"
programs = false
packages = ["busybox-static"]

[kernel]
package = "linux-image-6.*-cloud-amd64"
suites  = ["bookworm-backports", "bookworm-security", "bookworm"]
modules = ["virtio_net"]

[file."/init"]
mode    = "0755"
content = """
#!/usr/bin/busybox sh
/usr/bin/busybox --install -s /usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "harness machine is up"
setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1' &
exec sh
"""
"#;

/// A machine with BusyBox for an init: consoles, exit codes, a module from the image, power-off.
fn drives_machine(context: &Context) -> Result {
    tool::ensure(&[Tool { program: "cpio", package: "cpio" }])?;
    let here = context.scratch("tiny");
    fs::create_dir_all(&here)?;
    fs::write(here.join("image.toml"), TINY)?;
    let _ = fs::remove_file(here.join("image.lock"));
    let image = context.image_at(&here.join("image.toml"), "tiny")?;
    let mut vm = context.machine(&image)?.memory(256).start()?;
    vm.wait_for("harness machine is up")?;
    println!("up after {:?}", vm.age());
    assert_equal(&vm.run("echo $((6 * 7))")?, "42")?;
    assert_equal(&vm.answer("exit_with() { return $1; }; exit_with 9")?.code.to_string(), "9")?;
    let release = vm.run("uname -r")?;
    vm.run(&format!("test -e /lib/modules/{release}/modules.dep"))?;
    let modules = vm.run("find /lib/modules -name '*.ko*'")?;
    for needed in ["failover", "net_failover", "virtio_net"] {
        if !modules.contains(needed) {
            return Err(format!("the image has no module {needed}:\n{modules}").into());
        }
    }
    let limit = std::time::Duration::from_secs(30);
    assert_equal(&vm.second.run("echo second", limit)?, "second")?;
    vm.type_line("poweroff -f")?;
    vm.wait_for_power_off()
}

fn assert_equal(found: &str, wanted: &str) -> Result {
    if found == wanted { Ok(()) } else { Err(format!("expected {wanted:?}, found {found:?}").into()) }
}
