//! Which kernel modules there are: the index files of depmod(8), read as texts.
//!
//! To load one is a helper's business; a plan only wants to know whether there is one of a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module's name as the kernel writes it: of the file's name, without suffix, with underscores.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// `modules.dep`: a module's name to its file and the files it needs, nearest first.
pub fn dependencies(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let line = |line: &str| {
        let (file, needs) = line.split_once(':')?;
        let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
        Some((name_of(file), (file.to_owned(), needs)))
    };
    text.lines().filter_map(line).collect()
}

/// Whether a name matches a pattern of `modules.alias`: `*`, `?` and `[…]`. No recursion, so that a long name
/// against many stars costs their product and no more.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => one_of(pattern.get(p..).unwrap_or_default(), name.get(n).copied()),
            Some(c) => (Some(c) == name.get(n)).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                p = after;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

/// The length of a `[…]` that has this character; `None` when it has not.
fn one_of(pattern: &[u8], c: Option<u8>) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let set = pattern.get(1..end)?;
    let c = c?;
    let mut rest = set;
    loop {
        match rest {
            [from, b'-', to, tail @ ..] => {
                if (*from..=*to).contains(&c) {
                    return Some(end + 1);
                }
                rest = tail;
            }
            [one, tail @ ..] => {
                if *one == c {
                    return Some(end + 1);
                }
                rest = tail;
            }
            [] => return None,
        }
    }
}

/// `modules.alias`: patterns by what they start with, so that few are tried for a name.
#[derive(Debug, Default)]
pub struct Aliases {
    by_start: BTreeMap<String, Vec<(String, String)>>,
}

/// The part of an alias that has no wildcard, up to the bus: `pci:`, `usb:`, `fs-ext4`.
fn start(alias: &str) -> &str {
    let end = alias.find([':', '*', '?', '[']).unwrap_or(alias.len());
    alias.get(..end).unwrap_or(alias)
}

impl Aliases {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Aliases {
        let mut out = Aliases::default();
        out.add(text);
        out
    }

    /// Adds those of another file.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let list = self.by_start.entry(start(pattern).to_owned()).or_default();
                list.push((pattern.to_owned(), module.replace('-', "_")));
            }
        }
    }

    /// The modules that go by this name.
    pub fn find(&self, name: &str) -> Vec<&str> {
        // A pattern may end before the name's bus does (`of*`, `*`), so that every start of it counts.
        let whole = start(name);
        let starts = (0..=whole.len()).filter_map(|end| whole.get(..end));
        let mut out: Vec<&str> = starts
            .filter_map(|s| self.by_start.get(s))
            .flatten()
            .filter(|(pattern, _)| matches(pattern, name))
            .map(|(_, module)| module.as_str())
            .collect();
        out.dedup();
        out
    }
}

/// Where the modules of this release are, if there are any.
pub fn directory(root: &Path, release: &str) -> Option<PathBuf> {
    let mut directories = ["lib/modules", "usr/lib/modules"].map(|d| root.join(d).join(release)).into_iter();
    directories.find(|d| d.join("modules.dep").exists())
}

/// The running kernel's release.
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_files() {
        let all = dependencies(
            "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\nkernel/lib/crc16.ko.xz:\nkernel/a/snd-hda.ko:\n",
        );
        assert_eq!(all["ext4"].1, ["kernel/fs/jbd2/jbd2.ko.xz", "kernel/lib/crc16.ko.xz"]);
        assert!(all.contains_key("snd_hda") && all["crc16"].1.is_empty());
    }

    #[test]
    fn they_are_there_with_their_index() {
        let root = tempfile::tempdir().unwrap();
        let here = root.path().join("usr/lib/modules/6.1");
        std::fs::create_dir_all(&here).unwrap();
        assert_eq!(directory(root.path(), "6.1"), None, "of a kernel that is gone");
        std::fs::write(here.join("modules.dep"), "").unwrap();
        assert_eq!(directory(root.path(), "6.1"), Some(here));
        assert_eq!(directory(root.path(), "6.2"), None, "another kernel's");
    }

    #[test]
    fn aliases() {
        let all = Aliases::parse(
            "alias pci:v00001AF4d00001000sv*sd*bc*sc*i* virtio_pci\nalias fs-ext4 ext4\nalias cpu:type:x86,ven*fam*mod*:feature:*0080* aesni-intel\nalias usb:v[0-9]p?x x\nalias of:N*T*Cfoo of_foo\n",
        );
        assert_eq!(all.find("pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"), ["virtio_pci"]);
        assert_eq!(all.find("fs-ext4"), ["ext4"]);
        assert_eq!(all.find("cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0080,00A9"), ["aesni_intel"]);
        assert_eq!(all.find("usb:v7pQx"), ["x"]);
        assert!(all.find("usb:vxpQx").is_empty() && all.find("").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn matching_never_panics(pattern in "[a-c*?\\[\\]-]{0,12}", name in "[a-c]{0,12}") {
            let _ = matches(&pattern, &name);
            assert!(matches("*", &name) && matches(&name, &name));
        }
    }
}
