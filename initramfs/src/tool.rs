//! Runs other programs, and installs those that are missing.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::Error;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the package.
    pub package: &'static str,
}

/// What building an image needs.
pub const BUILD: &[Tool] = &[
    Tool { program: "mmdebstrap", package: "mmdebstrap" },
    Tool { program: "apt-get", package: "apt" },
    Tool { program: "dpkg-deb", package: "dpkg" },
    Tool { program: "depmod", package: "kmod" },
    Tool { program: "zstd", package: "zstd" },
];

/// Where a program is: in `PATH`, or in the directories of the administrator's programs, which a user's `PATH`
/// may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

/// Installs the packages of the programs that are missing, when this is root and apt is there.
///
/// # Errors
/// When something is missing and cannot be installed: the text has the command that would do it.
pub fn ensure(tools: &[Tool]) -> Result<(), Error> {
    let missing: Vec<&Tool> = tools.iter().filter(|t| find(t.program).is_none()).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let mut packages: Vec<&str> = missing.iter().map(|t| t.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let refusal = || Error::Missing { program: first.program.to_owned(), package: packages.join(" ") };
    if find("apt-get").is_none() || !is_root() {
        return Err(refusal());
    }
    eprintln!("installing {}", packages.join(" "));
    let install = |purpose: &str| {
        let mut c = Command::new("apt-get");
        // Others may be installing: another scenario, or the machine's own updates.
        c.args(["-o", "DPkg::Lock::Timeout=300", "install", "--yes", "--no-install-recommends"])
            .args(&packages);
        run(purpose, c.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    if install("install packages").is_err() {
        run("update package lists", Command::new("apt-get").arg("update"))?;
        install(&format!("install {}", packages.join(" ")))?;
    }
    match missing.iter().find(|t| find(t.program).is_none()) {
        None => Ok(()),
        Some(t) => Err(Error::Missing { program: t.program.to_owned(), package: t.package.to_owned() }),
    }
}

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|s| {
        s.lines().any(|l| l.strip_prefix("Uid:").is_some_and(|u| u.split_whitespace().nth(1) == Some("0")))
    })
}

/// Runs a program to its end with no standard input, and gives its output.
///
/// # Errors
/// When it cannot be started or exits with other than 0; the text has the end of its standard error.
pub fn run(purpose: &str, command: &mut Command) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |cause: String| Error::Tool { purpose: purpose.to_owned(), program: program.clone(), cause };
    let out = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(out);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
    Err(failed(format!("{}\n{tail}", out.status)))
}

/// As [`run`], for its standard output as text.
///
/// # Errors
/// As [`run`], or when the output is not UTF-8.
pub fn text(purpose: &str, command: &mut Command) -> Result<String, Error> {
    let out = run(purpose, command)?;
    String::from_utf8(out.stdout).map_err(|_| Error::format("program output", "not UTF-8"))
}

/// A command by the place where [`find`] finds it.
pub fn command(program: &str) -> Command {
    Command::new(find(program).as_deref().map_or(OsStr::new(program), |p| p.as_os_str()))
}
