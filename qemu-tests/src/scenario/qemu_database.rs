//! A database under load, when the machine goes down: it has been asked to end and given its time, so that its next start has
//! nothing to recover.

use std::time::Duration;

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{Guest, demand, left_clean};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] =
    &[Scenario { name: "qemu-database", group: "qemu", limit: minutes(15), run: database }];

/// Debian's PostgreSQL, whose package makes an empty cluster when it is installed.
const IMAGE: &str = r#"
suite       = "bookworm"
base        = "debian"
compression = "none"
packages    = ["kmod", "mount", "postgresql-15"]
remove      = [
    "/usr/lib/x86_64-linux-gnu/gconv", "/usr/lib/x86_64-linux-gnu/libLLVM*", "/usr/lib/x86_64-linux-gnu/libz3*",
    "/usr/lib/llvm-*", "/usr/lib/postgresql/15/lib/bitcode", "/usr/share/zoneinfo/right",
]

[kernel]
package = "linux-image-6.*-cloud-amd64"
suites  = ["bookworm-backports", "bookworm-security", "bookworm"]
modules = ["ext4", "virtio_blk", "virtio_rng"]
"#;

const STATE: &str = r#"
[mount."/srv/db"]
source   = "/dev/vda"
fstype   = "ext4"
requires = ["module:ext4"]

[exec.cluster]
command  = ["sh", "-ec", "cp -a /var/lib/postgresql/15/main /srv/db/new && sync && mv /srv/db/new /srv/db/main"]
creates  = "/srv/db/main"
requires = ["mount:/srv/db"]

[directory."/run/db"]
owner = "postgres"
group = "postgres"

[service.postgres]
exec = [
    "/usr/lib/postgresql/15/bin/postgres", "-D", "/srv/db/main",
    "-c", "config_file=/etc/postgresql/15/main/postgresql.conf", "-c", "data_directory=/srv/db/main",
    "-c", "unix_socket_directories=/run/db", "-c", "ssl=off", "-c", "jit=off", "-c", "listen_addresses=",
]
user         = "postgres"
ready        = "notify"
# To its clients it says goodbye; SIGTERM would have it wait for them.
stop-signal  = "INT"
stop-timeout = "60s"
requires     = ["exec:cluster", "directory:/run/db"]
"#;

/// A command as the database's own user.
fn by_postgres(command: &str) -> String {
    format!("setpriv --reuid postgres --regid postgres --clear-groups env PGHOST=/run/db {command}")
}

/// Switches on and waits for the database; what that said of how it was left.
fn on(context: &Context, guest: &Guest, disk: &std::path::Path) -> Result<(Qemu, String)> {
    let machine = guest.machine(context)?.memory(1536).disk(disk).limit(Duration::from_secs(100));
    let mut vm = machine.start()?;
    vm.wait_for_shell()?;
    vm.ok("initctl wait --ready service:postgres --timeout 200s")?;
    let said = vm.ok("initctl logs service:postgres")?;
    println!("{said}");
    Ok((vm, said))
}

/// Four clients write as fast as they can, and have begun to.
fn load(vm: &mut Qemu) -> Result {
    let bench = by_postgres("pgbench --client=4 --time=900 bench");
    vm.ok(&format!("({bench} > /dev/null 2>&1 &)"))?;
    let count = by_postgres("psql -Atc 'select count(*) > 20 from pgbench_history' bench");
    vm.ok(&format!(
        "timeout 120 sh -c 'until {} | grep -q t; do sleep 0.2; done'",
        count.replace('\'', "'\\''")
    ))
    .map(drop)
}

fn recovered(said: &str) -> bool {
    said.contains("not properly shut down")
        || said.contains("recovery in progress")
        || said.contains("interrupted")
}

fn database(context: &Context) -> Result {
    let here = context.scratch("database");
    std::fs::create_dir_all(&here)?;
    let spec = here.join("image.toml");
    if std::fs::read_to_string(&spec).ok().as_deref() != Some(IMAGE) {
        let _ = std::fs::remove_file(spec.with_extension("lock"));
        std::fs::write(&spec, IMAGE)?;
    }
    let guest = Guest::on(context.image_at(&spec, "database")?, STATE, &[], &[])?;
    let disk = guest.disk("disk", 256)?;
    let (mut vm, _) = on(context, &guest, &disk)?;
    vm.ok(&by_postgres("createdb bench"))?;
    vm.ok(&by_postgres("pgbench --initialize --quiet bench 2>&1"))?;
    load(&mut vm)?;
    vm.power_off()?;
    left_clean(&disk)?;

    let (mut vm, said) = on(context, &guest, &disk)?;
    demand(!recovered(&said), format!("there was something to recover: {said}"))?;
    demand(
        said.contains("database system was shut down at"),
        format!("it does not tell how it was left: {said}"),
    )?;

    // What a recovery looks like, so that it would be seen.
    load(&mut vm)?;
    vm.cut_power()?;
    let (mut vm, said) = on(context, &guest, &disk)?;
    demand(recovered(&said), format!("after a loss of power there was nothing to recover: {said}"))?;
    vm.power_off()?;
    left_clean(&disk)
}
