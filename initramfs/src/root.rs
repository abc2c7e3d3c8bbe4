//! From package files to a file tree: installs them in a fresh root, and takes out what must not be in an image.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::apt::{Apt, hex};
use crate::error::Error;
use crate::lock::Locked;
use crate::tree::{Kind, Node, Tree};
use crate::{tar, tool};

/// The time that packages' scripts see (2023-01-01). Not 0: a password last changed on day 0 must be changed at
/// once, says shadow(5).
const EPOCH: &str = "1672531200";

/// Raised when the way a root is made changes, so that cached ones are made again.
const RECIPE: &str = "1";

/// Makes the links of a merged `/usr` in a root that is still empty.
const MERGED: &str =
    r#"for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"; done"#;

/// What belongs to one machine: it is made at first boot.
const SECRETS: &[&str] = &[
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/hosts",
    "etc/ssh/ssh_host_*",
    "etc/ssl/private/*",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
];

/// What installing leaves behind, and what a machine that nobody reads manuals on does without.
const LITTER: &[&str] = &[
    "boot/*",
    "dev/*",
    "proc/*",
    "sys/*",
    "etc/*-",
    "etc/.pwd.lock",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/*",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "**/__pycache__",
];

/// Directories whose files go and whose subdirectories stay: daemons expect to find those.
const EMPTIED: &[&str] = &["var/log", "var/cache", "run", "tmp", "var/tmp"];

/// Installs the packages with dpkg and their own scripts in a fresh root. The result is kept in the cache under the
/// digests of all of them.
///
/// # Errors
/// When a script fails, or the root cannot be made here (it needs root, or user namespaces).
pub fn debian(apt: &Apt, suite: &str, packages: &[Locked], cache: &Path) -> Result<Tree, Error> {
    let key: String = packages.iter().map(|p| format!("{} {}\n", p.file(), p.sha256)).collect();
    let kept =
        cache.join("roots").join(format!("{}.tar", hex(format!("{RECIPE}\n{EPOCH}\n{key}").as_bytes())));
    if !kept.exists() {
        let roots = cache.join("roots");
        fs::create_dir_all(&roots).map_err(Error::io("create", &roots))?;
        eprintln!("installing {} packages in a fresh root", packages.len());
        let unfinished = roots.join(format!("unfinished-{}.tar", std::process::id()));
        let made = install(apt, suite, packages, &unfinished);
        if let Err(e) = made {
            let _ = fs::remove_file(&unfinished);
            return Err(e);
        }
        fs::rename(&unfinished, &kept).map_err(Error::io("rename", &kept))?;
    }
    let mut file = std::io::BufReader::new(fs::File::open(&kept).map_err(Error::io("open", &kept))?);
    tar::read(&mut file)
}

fn install(apt: &Apt, suite: &str, packages: &[Locked], target: &Path) -> Result<(), Error> {
    // A repository of exactly the locked packages: the installer has nothing to choose.
    let repository = target.with_extension("repository");
    let _ = fs::remove_dir_all(&repository);
    fs::create_dir_all(&repository).map_err(Error::io("create", &repository))?;
    let mut index = String::new();
    for package in packages {
        let file = apt.archive(package);
        let control = tool::text("read a package", tool::command("dpkg-deb").arg("--field").arg(&file))?;
        let size = fs::metadata(&file).map_err(Error::io("read", &file))?.len();
        index.push_str(&format!(
            "{}\nFilename: ./{}\nSize: {size}\nSHA256: {}\n\n",
            control.trim_end(),
            package.file(),
            package.sha256
        ));
        let link = repository.join(package.file());
        let file = fs::canonicalize(&file).map_err(Error::io("read", &file))?;
        std::os::unix::fs::symlink(&file, &link).map_err(Error::io("create", &link))?;
    }
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nSHA256:\n {} {} Packages\n",
        hex(index.as_bytes()),
        index.len()
    );
    for (name, text) in [("Packages", &index), ("Release", &release)] {
        let path = repository.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    let at = fs::canonicalize(&repository).map_err(Error::io("read", &repository))?;
    let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let made = tool::run(
        "install packages in a fresh root",
        tool::command("mmdebstrap")
            .args(["--variant=essential", "--format=tar", "--quiet"])
            .arg(format!("--include={}", names.join(",")))
            .args([
                "--aptopt=APT::Sandbox::User \"root\"",
                "--aptopt=Acquire::AllowInsecureRepositories \"true\"",
            ])
            .arg("--dpkgopt=force-unsafe-io")
            // Merged from the start, so that no script has to move directories.
            .arg(format!("--setup-hook={MERGED}"))
            .arg(suite)
            .arg(target)
            .arg(format!("deb [trusted=yes] copy:{} ./", at.display()))
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env_remove("APT_CONFIG")
            .stdout(Stdio::null()),
    );
    let _ = fs::remove_dir_all(&repository);
    made.map(drop)
}

/// Unpacks packages, one over the other, without dependencies and scripts.
///
/// # Errors
/// When a package is damaged.
pub fn unpacked(apt: &Apt, packages: &[Locked]) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.insert(&format!("usr/{name}"), Node::new(Kind::Directory, 0o755))?;
        tree.insert(name, Node::new(Kind::Symlink(format!("usr/{name}")), 0o777))?;
    }
    for package in packages {
        tree.extend(package_tree(&apt.archive(package))?)?;
    }
    Ok(tree)
}

/// The files of one package. Directories that would hide a link of a merged `/usr` are left out.
///
/// # Errors
/// When it is damaged.
pub fn package_tree(file: &Path) -> Result<Tree, Error> {
    let out = tool::run("unpack a package", tool::command("dpkg-deb").arg("--fsys-tarfile").arg(file))?;
    let mut tree = tar::read(&mut out.stdout.as_slice())?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        let moved: Vec<(String, Node)> = tree
            .iter()
            .filter(|(p, _)| p.strip_prefix(name).is_some_and(|r| r.starts_with('/')))
            .map(|(p, n)| (format!("usr/{p}"), n.clone()))
            .collect();
        tree.remove(name);
        for (path, node) in moved {
            tree.insert(&path, node)?;
        }
    }
    Ok(tree)
}

/// Takes out what is one machine's, what installing left behind, and what `remove` names; and adds what every
/// image has: mount points, and the two devices that the kernel and PID 1 need before /dev is mounted.
///
/// # Errors
/// When a pattern's path goes through a circle of links.
pub fn clean(tree: &mut Tree, remove: &[String]) -> Result<(), Error> {
    // Package databases may have hard links between what goes and what stays; nodes hold their content, so a name
    // that stays keeps it.
    for pattern in SECRETS.iter().chain(LITTER).copied().chain(remove.iter().map(String::as_str)) {
        tree.prune(pattern);
    }
    for directory in EMPTIED {
        tree.remove_files_below(directory);
    }
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("tmp", 0o1777),
        ("root", 0o700),
        ("etc", 0o755),
        ("var/lib", 0o755),
        ("var/log", 0o755),
        ("mnt", 0o755),
    ] {
        if tree.get(path).is_none() {
            tree.insert(path, Node::new(Kind::Directory, mode))?;
        }
    }
    tree.insert("dev/console", Node::new(Kind::Character { major: 5, minor: 1 }, 0o600))?;
    tree.insert("dev/null", Node::new(Kind::Character { major: 1, minor: 3 }, 0o666))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_one_machine_stays() {
        let mut t = Tree::new();
        for path in [
            "etc/machine-id",
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "etc/passwd",
            "etc/passwd-",
            "var/log/nginx/access.log",
            "var/cache/ldconfig/aux-cache",
            "usr/share/doc/a/copyright",
            "opt/extra/x",
        ] {
            t.insert(path, Node::file(b"x".to_vec(), 0o600)).unwrap();
        }
        clean(&mut t, &["/opt/extra".to_owned()]).unwrap();
        let files: Vec<&str> =
            t.iter().filter(|(_, n)| matches!(n.kind, Kind::File(_))).map(|(p, _)| p).collect();
        assert_eq!(files, ["etc/passwd", "etc/ssh/sshd_config"]);
        assert!(t.get("var/log/nginx").is_some() && t.get("dev/console").is_some());
    }
}
