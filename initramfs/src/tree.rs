//! A file tree in memory: what an image will hold, sorted by path.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Error;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file. Nodes that share one `Arc` through [`Tree::link`] are hard links of each other.
    File(Arc<Vec<u8>>),
    /// A symbolic link and what it points to.
    Symlink(String),
    /// A character device.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Equal in the names of one inode; `None` for a node with one name.
    pub inode: Option<u32>,
}

impl Node {
    /// A node of root's with one name.
    pub fn new(kind: Kind, mode: u32) -> Node {
        Node { kind, mode, uid: 0, gid: 0, inode: None }
    }

    /// A regular file of root's.
    pub fn file(bytes: Vec<u8>, mode: u32) -> Node {
        Node::new(Kind::File(Arc::new(bytes)), mode)
    }
}

/// Longest chain of symbolic links that a path may go through, as in the kernel.
const MAX_LINKS: usize = 40;

/// The tree. Paths have no slash at either end; the root itself is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    inodes: u32,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// All entries, parents before what is in them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(p, n)| (p.as_str(), n))
    }

    /// Bytes of all regular files, hard links counted once.
    pub fn size(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        self.nodes
            .values()
            .filter(|n| n.inode.is_none_or(|i| seen.insert(i)))
            .map(|n| match &n.kind {
                Kind::File(bytes) => bytes.len() as u64,
                _ => 0,
            })
            .sum()
    }

    /// The node at exactly this path (links are not followed).
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path.trim_matches('/'))
    }

    /// The content of a regular file, links followed.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        let mut at = self.resolve(path).ok()?;
        for _ in 0..MAX_LINKS {
            match &self.nodes.get(&at)?.kind {
                Kind::File(bytes) => return Some(bytes),
                Kind::Symlink(target) => at = self.resolve(&joined(parent(&at), target)).ok()?,
                _ => return None,
            }
        }
        None
    }

    /// The path with every symbolic link among its parents followed; the last part is left as it is.
    ///
    /// # Errors
    /// When links go round in a circle.
    pub fn resolve(&self, path: &str) -> Result<String, Error> {
        let mut rest: Vec<String> = parts(path).rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = joined(&at, &part);
            match self.nodes.get(&next).map(|n| &n.kind) {
                Some(Kind::Symlink(target)) if !rest.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::format(format!("path /{path}"), "too many symbolic links"));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(parts(target).rev().map(str::to_owned));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    /// Puts a node at a path, through links among the parents; missing parents are made (root, 0755). A directory
    /// put on a directory only changes its attributes; anything else replaces what was there.
    ///
    /// # Errors
    /// When a parent is not a directory.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), Error> {
        let path = self.resolve(path)?;
        if path.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        while let Some(slash) = path.get(at..).and_then(|r| r.find('/')) {
            let end = at + slash;
            let parent = path.get(..end).unwrap_or_default();
            match self.nodes.get(parent).map(|n| &n.kind) {
                Some(Kind::Directory) => {}
                None => {
                    self.nodes.insert(parent.to_owned(), Node::new(Kind::Directory, 0o755));
                }
                Some(_) => return Err(Error::format(format!("path /{path}"), "a parent is no directory")),
            }
            at = end + 1;
        }
        if !matches!(node.kind, Kind::Directory) {
            self.remove_below(&path);
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Makes `path` another name of the regular file `target`.
    ///
    /// # Errors
    /// When `target` is not there.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        let target = self.resolve(target)?;
        let number = self.inodes;
        let Some(node) = self.nodes.get_mut(&target) else {
            return Err(Error::format(format!("hard link /{path}"), format!("/{target} is not there")));
        };
        if node.inode.is_none() {
            node.inode = Some(number);
            self.inodes += 1;
        }
        let node = node.clone();
        self.insert(path, node)
    }

    /// Removes the entry and all below it.
    pub fn remove(&mut self, path: &str) {
        let path = path.trim_matches('/');
        self.nodes.remove(path);
        self.remove_below(path);
    }

    /// Removes all below a directory and keeps the directory.
    pub fn remove_below(&mut self, path: &str) {
        let prefix = format!("{}/", path.trim_matches('/'));
        let below: Vec<String> = self
            .nodes
            .range(prefix.clone()..)
            .take_while(|(p, _)| p.starts_with(&prefix))
            .map(|(p, _)| p.clone())
            .collect();
        for p in below {
            self.nodes.remove(&p);
        }
    }

    /// Removes what is not a directory below a directory: logs and caches go, places for them stay.
    pub fn remove_files_below(&mut self, path: &str) {
        let prefix = format!("{}/", path.trim_matches('/'));
        self.nodes.retain(|p, n| !p.starts_with(&prefix) || matches!(n.kind, Kind::Directory));
    }

    /// Removes every entry (and all below) whose path matches a pattern of [`matches()`].
    pub fn prune(&mut self, pattern: &str) {
        let pattern = pattern.trim_matches('/');
        let hit: Vec<String> = self.nodes.keys().filter(|p| matches(pattern, p)).cloned().collect();
        for p in hit {
            self.remove(&p);
        }
    }

    /// Adds all of another tree over this one, hard links kept.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn extend(&mut self, other: Tree) -> Result<(), Error> {
        let offset = self.inodes;
        self.inodes += other.inodes;
        for (path, mut node) in other.nodes {
            node.inode = node.inode.map(|i| i + offset);
            self.insert(&path, node)?;
        }
        Ok(())
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|p| !p.is_empty() && *p != ".")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(p, _)| p)
}

fn joined(base: &str, part: &str) -> String {
    if base.is_empty() || part.starts_with('/') {
        part.trim_start_matches('/').to_owned()
    } else {
        format!("{base}/{part}")
    }
}

/// Whether a path matches a pattern: `*` is any text without a slash, `**` any text, all else itself.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    match pattern.split_first() {
        None => path.is_empty(),
        Some((b'*', rest)) => {
            let (rest, slashes) = match rest.split_first() {
                Some((b'*', rest)) => (rest, true),
                _ => (rest, false),
            };
            let stop =
                if slashes { path.len() } else { path.iter().position(|b| *b == b'/').unwrap_or(path.len()) };
            (0..=stop).any(|n| matches_bytes(rest, path.get(n..).unwrap_or_default()))
        }
        Some((c, rest)) => path.split_first().is_some_and(|(d, path)| c == d && matches_bytes(rest, path)),
    }
}

fn matches_bytes(pattern: &[u8], path: &[u8]) -> bool {
    match (std::str::from_utf8(pattern), std::str::from_utf8(path)) {
        (Ok(pattern), Ok(path)) => matches(pattern, path),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_links_among_parents() {
        let mut t = Tree::new();
        t.insert("usr/sbin", Node::new(Kind::Directory, 0o755)).unwrap();
        t.insert("sbin", Node::new(Kind::Symlink("usr/sbin".into()), 0o777)).unwrap();
        t.insert("/sbin/init", Node::file(b"x".to_vec(), 0o755)).unwrap();
        t.insert("/init", Node::new(Kind::Symlink("sbin/init".into()), 0o777)).unwrap();
        assert!(t.get("usr/sbin/init").is_some());
        assert_eq!(t.read("/init"), Some(&b"x"[..]));
        t.insert("loop", Node::new(Kind::Symlink("loop".into()), 0o777)).unwrap();
        assert!(t.insert("loop/x", Node::file(vec![], 0o644)).is_err());
        assert!(t.insert("init2/../usr/sbin/init/x", Node::file(vec![], 0o644)).is_err());
    }

    #[test]
    fn links_are_counted_once_and_survive_a_merge() {
        let mut t = Tree::new();
        t.insert("a", Node::file(vec![0; 10], 0o644)).unwrap();
        t.link("b", "a").unwrap();
        assert_eq!(t.size(), 10);
        let mut u = t.clone();
        t.prune("b");
        t.extend(u.clone()).unwrap();
        assert_eq!(t.get("a").unwrap().inode, t.get("b").unwrap().inode);
        assert!(u.link("c", "nowhere").is_err());
    }

    #[test]
    fn patterns() {
        for (pattern, path, hit) in [
            ("usr/share/doc", "usr/share/doc", true),
            ("etc/*-", "etc/passwd-", true),
            ("etc/*-", "etc/x/passwd-", false),
            ("**/*.pyc", "usr/lib/a/b.pyc", true),
            ("usr/lib/*/gconv", "usr/lib/x86_64-linux-gnu/gconv", true),
        ] {
            assert_eq!(matches(pattern, path), hit, "{pattern} on {path}");
        }
    }
}
