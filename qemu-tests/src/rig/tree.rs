//! What a directory holds, as lines that can be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Result;

/// Everything that can be seen of a tree, a line a thing in the order of their names: kind and mode, owners, extended
/// attributes, content, target, which names are one file, and the time of the last change of files and links.
/// Times of directories are left out, since making and removing something beside a thing changes them.
///
/// # Errors
/// When something cannot be read.
pub fn lines(root: &Path) -> Result<Vec<String>> {
    let mut todo = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        let about = std::fs::symlink_metadata(&path)?;
        if about.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        }
        found.push((path, about));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    // The first name of an inode stands for it.
    let mut first: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut out = Vec::new();
    for (path, about) in found {
        let name = path.strip_prefix(root)?.display().to_string();
        let mut line = format!("{name}: {:o} {}:{}", about.mode(), about.uid(), about.gid());
        if about.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path)?.display());
        } else if about.is_dir() || about.is_file() {
            let file = std::fs::File::open(&path)?;
            for attribute in cm_core::sys::xattr_names(&file)? {
                line += &format!(" {attribute}={:?}", cm_core::sys::xattr(&file, &attribute)?);
            }
        }
        if about.is_file() {
            let digest = Sha256::digest(std::fs::read(&path)?);
            line += " ";
            line.extend(digest.iter().map(|b| format!("{b:02x}")));
            let same = first.entry((about.dev(), about.ino())).or_insert_with(|| name.clone());
            if *same != name {
                line += &format!(" is {same}");
            }
        }
        if !about.is_dir() {
            line += &format!(" at {}.{:09}", about.mtime(), about.mtime_nsec());
        }
        out.push(line);
    }
    Ok(out)
}

/// Lines without the times, for what was made again.
pub fn timeless(lines: &[String]) -> Vec<String> {
    let strip = |l: &String| l.rsplit_once(" at ").map_or(l.as_str(), |(start, _)| start).to_owned();
    lines.iter().map(strip).collect()
}

/// The lines as one hash.
pub fn hash(lines: &[String]) -> String {
    Sha256::digest(lines.join("\n")).iter().map(|b| format!("{b:02x}")).collect()
}

/// What differs between two trees, a line a difference.
pub fn difference(before: &[String], after: &[String]) -> String {
    let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("- {l}"));
    let come = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}
