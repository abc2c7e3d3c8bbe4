//! What people write: state files and image files.

use std::collections::BTreeMap;

use units::load::{Entry, LoadError, Loader};
use units::{Compiled, compile, diagnostic};

use super::{Target, lossy};

/// A state file, with another one that it may include and one source.
pub const STATE: Target = Target {
    name: "state",
    seeds: || vec![EVERYTHING.as_bytes().to_vec(), b"[service.a]\nexec = [\"x\"]\n".to_vec()],
    words: &[
        "[service.a]\n",
        "[file.\"/a/b\"]\n",
        "[vars]\n",
        "include = [\"more.toml\"]\n",
        "requires = [\"service:a\"]\n",
        "${vars.a}",
        "$${",
        "\"\"\"",
        "'''",
        "holdfast = 1\n",
        "source = \"source\"\n",
        "9223372036854775808",
        "1970-01-01T00:00:00Z",
        "\\u0000",
        "../",
        "@",
    ],
    run: state,
};

/// The description of an image.
pub const IMAGE: Target = Target {
    name: "image",
    seeds: || vec![include_str!("../../../examples/web/image.toml").as_bytes().to_vec()],
    words: &[
        "[files.\"/a\"]\n",
        "packages = [\"a\"]\n",
        "[kernel]\n",
        "content = \"\"\n",
        "mode = \"0755\"\n",
    ],
    run: |bytes| {
        let text = lossy(bytes);
        if let Ok(spec) = initramfs::spec::Spec::parse(&text, "image.toml".as_ref()) {
            let _ = spec.request();
        }
        let lock = initramfs::lock::Lock::parse(&text, "image.lock".as_ref());
        if let Ok(lock) = lock {
            let again = initramfs::lock::Lock::parse(&lock.render(), "image.lock".as_ref());
            assert_eq!(again.ok().as_ref(), Some(&lock), "a lock file reads other than it was written");
        }
    },
};

const EVERYTHING: &str = r#"
holdfast = 1
include = ["more.toml"]
[vars]
a = "one"
[service.web]
exec = ["web", "${vars.a}"]
ready = "fd=3"
requires = ["file:/etc/web.conf", "target:base"]
reload-on = ["file:/etc/web.conf"]
user = "www"
restart = "always"
[file."/etc/web.conf"]
source = "source"
mode = "0640"
[directory."/etc/web.d"]
purge = true
[symlink."/etc/link"]
target = "web.conf"
[line."/etc/hosts#a"]
line = "127.0.0.1 a"
matches = "^127"
[mount."/mnt"]
source = "tmpfs"
type = "tmpfs"
[sysctl."net.core.somaxconn"]
value = 4096
[module.loop]
[hostname]
name = "a"
[user.www]
uid = 900
[group.www]
[exec.once]
command = ["true"]
once = "boot"
[target.base]
requires = ["user:www"]
"#;

struct Files<'a>(BTreeMap<&'a str, &'a [u8]>);

impl Loader for Files<'_> {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.0.get(name).map(|b| b.to_vec()).ok_or(LoadError::NotFound)
    }

    fn list(&mut self, _directory: &str) -> Result<Vec<Entry>, LoadError> {
        Err(LoadError::NotFound)
    }
}

/// Compiles bytes as a state file.
pub fn compiled(bytes: &[u8]) -> Compiled {
    let more: &[u8] = b"[vars]\nb = \"two\"\n[service.more]\nexec = [\"${vars.b}\"]\n";
    let mut files =
        Files(BTreeMap::from([("state.toml", bytes), ("more.toml", more), ("source", b"text\n")]));
    compile("/etc/holdfast/state.toml", &mut files)
}

fn state(bytes: &[u8]) {
    let found = compiled(bytes);
    let errors = found.diagnostics.iter().filter(|d| d.is_error()).count();
    assert_eq!(found.manifest.is_none(), errors > 0, "{errors} errors and the manifest disagree");
    for diagnostic in &found.diagnostics {
        let shown = diagnostic::render(diagnostic, &found.sources);
        assert!(shown.contains(&diagnostic.id[..]), "a mistake is shown without its name: {shown}");
        // Terminals obey what is printed to them.
        assert!(
            !shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'),
            "control characters: {shown:?}"
        );
    }
    if let Some(manifest) = found.manifest {
        assert!(manifest.verify_digest(), "a fresh manifest has another digest");
        super::manifest::walk(&manifest);
        let again = compiled(bytes).manifest.map(|m| m.digest());
        assert_eq!(again, Some(manifest.digest()), "the same text compiles to two manifests");
    }
}
