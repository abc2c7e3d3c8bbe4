//! From power-on to the first page of a web server: the same Debian root, once with Holdfast as PID 1, once with systemd.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use initramfs::lock::Lock;
use initramfs::tree::{Node, Tree};
use qemu_tests::Result;
use qemu_tests::console::tail;
use qemu_tests::context::{Context, Image, QEMU as EMULATOR};
use qemu_tests::plot::{Chart, Row, number};
use qemu_tests::report::{self, Table, ratio};

use crate::Options;
use crate::figures::median;
use crate::inits::qemu_version;
use crate::machine::{QEMU, boot};
use crate::root::{WITH_LIBRARY, compile};

/// Longest real time of a machine.
const LIMIT: Duration = Duration::from_secs(900);

/// What both have.
const SPEC: &str = r#"
suite       = "bookworm"
base        = "debian"
compression = "none"
packages    = ["iproute2", "kmod", "mount", "nginx-light", "systemd"]
remove      = ["/usr/lib/x86_64-linux-gnu/gconv", "/usr/share/zoneinfo"]

[kernel]
package = "linux-image-6.*-cloud-amd64"
suites  = ["bookworm-backports", "bookworm-security", "bookworm"]

[state]
file = "state.toml"
"#;

/// What systemd does by itself or is told by packages, said to Holdfast.
const STATE: &str = r#"
[hostname.machine]
value = "web"

[exec.loopback]
command = ["ip", "link", "set", "lo", "up"]
once    = "boot"

[file."/etc/motd"]
content = "a web server\n"

[service.nginx]
exec        = ["nginx", "-g", "daemon off;"]
ready       = "path=/run/nginx.pid"
reload      = "HUP"
stop-signal = "QUIT"
requires    = ["exec:loopback"]
"#;

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/bench/page --";

/// An init: its name, its package where it has one, and its path.
struct Init {
    name: &'static str,
    package: Option<&'static str>,
    path: &'static str,
}

const INITS: &[Init] = &[
    Init { name: "Holdfast", package: None, path: "/sbin/init" },
    Init { name: "systemd", package: Some("systemd"), path: "/lib/systemd/systemd" },
];

/// Milliseconds since the kernel's start.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    exec: f64,
    page: f64,
}

/// Names of all that can be measured here.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    INITS.iter().map(|i| i.name)
}

pub(crate) fn run(context: &Context, options: &Options) -> Result {
    let inits: Vec<&Init> = INITS.iter().filter(|i| options.wants(i.name)).collect();
    if inits.is_empty() {
        return Ok(());
    }
    initramfs::tool::ensure(EMULATOR)?;
    let here = context.scratch("peers-page");
    fs::create_dir_all(&here)?;
    let spec = here.join("image.toml");
    if fs::read_to_string(&spec).ok().as_deref() != Some(SPEC) {
        let _ = fs::remove_file(spec.with_extension("lock"));
        fs::write(&spec, SPEC)?;
    }
    fs::write(here.join("state.toml"), STATE)?;
    let image = context.image_at(&spec, "peers-page")?;
    let lock = context.current_lock("peers-page").unwrap_or(spec.with_extension("lock"));
    let lock = Lock::read(&lock)?.ok_or("the image has no lock file")?;
    let versions: BTreeMap<String, String> = lock.packages.into_iter().map(|p| (p.name, p.version)).collect();
    let kernel = lock.kernel.map(|k| k.version).unwrap_or_default();
    let own = archive()?;
    println!("{}\n", report::machine());
    let mut found: BTreeMap<&str, Vec<Times>> = BTreeMap::new();
    for round in 0..options.runs {
        for init in &inits {
            eprintln!("{} of {}: {}", round + 1, options.runs, init.name);
            found.entry(init.name).or_default().push(once(&image, &own, init)?);
        }
    }
    let version = |package: &str| versions.get(package).cloned().unwrap_or_default();
    let (table, chart) = told(&inits, &found, version);
    let out = format!(
        "{}\n{}\n{table}\n![From the exec of PID 1 to the first page](benchmarks/page.svg)\n",
        report::machine(),
        method(options, &kernel, &version("nginx-light"))
    );
    println!("{out}");
    if options.only.is_empty() {
        fs::write(context.workspace().join("docs/benchmarks/page.svg"), chart.svg())?;
        report::write_section(&context.workspace().join("docs/benchmarks.md"), "bench-peers-page", &out)?;
    }
    Ok(())
}

/// What is unpacked over the image, for both.
fn archive() -> Result<Vec<u8>> {
    let here = tempfile::tempdir()?;
    compile(here.path(), "page", include_str!("../guest/page.c"), WITH_LIBRARY)?;
    let mut tree = Tree::new();
    tree.insert("/bench/page", Node::file(fs::read(here.path().join("page"))?, 0o755))?;
    // A machine that has booted before.
    tree.insert("/etc/machine-id", Node::file(b"0123456789abcdef0123456789abcdef\n".to_vec(), 0o444))?;
    let mut archive = Vec::new();
    initramfs::cpio::write(&tree, &mut archive)?;
    Ok(archive)
}

fn once(image: &Image, own: &[u8], init: &Init) -> Result<Times> {
    let here = tempfile::tempdir()?;
    let (console, port) = (here.path().join("console"), here.path().join("port"));
    let ended = boot(image, own, &format!("{COMMAND_LINE} {}", init.path), &console, &port, LIMIT);
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    ended
        .and_then(|()| parsed(&text(&port)))
        .map_err(|e| format!("{}: {e}\nconsole:\n{}", init.name, tail(&text(&console), 30)).into())
}

fn parsed(told: &str) -> Result<Times> {
    let of = |name: &str| -> Result<f64> {
        let at = told
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .ok_or_else(|| format!("no {name} in {told:?}"))?;
        Ok(at.trim().parse::<f64>()? / 1e6)
    };
    Ok(Times { exec: of("exec ")?, page: of("page ")? })
}

fn told(
    inits: &[&Init],
    found: &BTreeMap<&str, Vec<Times>>,
    version: impl Fn(&str) -> String,
) -> (String, Chart) {
    const TITLE: &str = "From power-on to the first page of nginx";
    let mut table = Table::new(
        TITLE,
        &[
            "init",
            "version",
            "kernel's start to PID 1, ms",
            "PID 1 to the page, ms",
            "to Holdfast",
            "both, ms",
        ],
    );
    let of = |name: &str, figure: fn(&Times) -> f64| -> Option<f64> {
        median(&found.get(name)?.iter().map(figure).collect::<Vec<_>>())
    };
    let own = |t: &Times| t.page - t.exec;
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let mut rows = Vec::new();
    for init in inits {
        let figure = of(init.name, own);
        let cells = [
            init.name.to_owned(),
            init.package.map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), &version),
            text(of(init.name, |t| t.exec)),
            text(figure),
            figure.zip(of("Holdfast", own)).map_or_else(|| "–".to_owned(), |(a, b)| ratio(a, b)),
            text(of(init.name, |t| t.page)),
        ];
        table.row(&cells.each_ref().map(String::as_str));
        rows.push(Row { name: init.name.to_owned(), values: vec![figure] });
    }
    let title = "From the exec of PID 1 to the first page".to_owned();
    let chart = Chart { title, unit: "ms".to_owned(), series: vec![String::new()], rows };
    (table.render(), chart)
}

fn method(options: &Options, kernel: &str, nginx: &str) -> String {
    format!(
        "Written by `cargo bench-peers page`: medians of {} runs, in turns. Every run is a machine of its own in {},\n\
         as for the inits: started with `{}`, so that times are counts of\n\
         instructions, of the kernel too. Both boot the same kernel (Debian's {kernel}) and the same initramfs, a\n\
         Debian 12 of the essential packages with iproute2, kmod, mount, nginx-light ({nginx}) and systemd; only the\n\
         path of PID 1 on the kernel's command line differs. systemd starts what the packages have enabled, and is\n\
         spared udev, D-Bus and a network of its own; Holdfast's state has the loopback device, the host name, a file\n\
         and nginx. A process that is there before PID 1 asks for the page each millisecond until it comes whole. The\n\
         firmware's time is in none of the figures. The kernel's time is nearly all for unpacking the root to memory.\n",
        options.runs,
        qemu_version(),
        QEMU.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_compiles() {
        qemu_tests::rig::state::compile_boot(STATE).unwrap();
    }

    #[test]
    fn what_a_machine_tells_is_read() {
        assert_eq!(parsed("exec 1500000\npage 4000000\n").unwrap(), Times { exec: 1.5, page: 4.0 });
        assert!(parsed("exec 1500000\n").is_err() && parsed("exec x\npage 1\n").is_err());
    }

    #[test]
    fn the_time_of_pid_1_is_told_without_the_kernels() {
        let inits: Vec<&Init> = INITS.iter().collect();
        let times = |exec, page| vec![Times { exec, page }];
        let found = BTreeMap::from([("Holdfast", times(10.0, 15.0)), ("systemd", times(10.0, 60.0))]);
        let (table, chart) = told(&inits, &found, |_| "252".to_owned());
        let row = table.lines().find(|l| l.contains("systemd")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2..7], ["252", "10.0", "50.0", "10.00×", "60.0"]);
        assert_eq!(chart.rows[1].values, [Some(50.0)]);
    }
}
