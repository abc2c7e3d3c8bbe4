//! What a path leads to, by the text of `/proc/self/mountinfo`: every mount is listed there, and those that another one
//! hides look like the others. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A line of the list: the number of its mount, and all of it.
type Line<'a> = (&'a str, &'a str);

/// The tree of mounts.
#[derive(Debug)]
pub struct Tree<'a> {
    /// By the number of the mount that they lie on, and by where. Nothing that is listed holds the first one.
    children: BTreeMap<Option<&'a str>, BTreeMap<String, Line<'a>>>,
    /// How many there are.
    count: usize,
}

/// Every directory of an absolute path, from `/` to itself.
fn stages(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at);
    let whole = (path != "/").then_some(path);
    std::iter::once("/").chain(slashes.filter_map(|at| path.get(..at))).chain(whole)
}

impl<'a> Tree<'a> {
    /// Reads the list.
    pub fn read(table: &'a str) -> Tree<'a> {
        let read = |line: &'a str| {
            let mut words = line.split(' ');
            let (number, parent) = (words.next()?, words.next()?);
            Some((number, parent, unescape(words.nth(2)?), line))
        };
        let all: Vec<_> = table.lines().filter_map(read).collect();
        let numbers: BTreeSet<&str> = all.iter().map(|(number, ..)| *number).collect();
        let mut tree = Tree { children: BTreeMap::new(), count: all.len() };
        for (number, parent, point, line) in all {
            let parent = Some(parent).filter(|p| *p != number && numbers.contains(p));
            tree.children.entry(parent).or_default().insert(point, (number, line));
        }
        tree
    }

    /// The mount that a path leads to, and whether it is mounted at this very place.
    fn find(&self, path: &str) -> (Option<Line<'a>>, bool) {
        let (mut holder, mut here, mut budget): (Option<Line<'a>>, _, _) = (None, false, self.count);
        for stage in stages(path) {
            here = false;
            let on = |holder: Option<Line<'a>>| self.children.get(&holder.map(|(n, _)| n))?.get(stage);
            // What is mounted at the same place lies on what was there; a text that makes a circle ends all the same.
            while let Some(next) = on(holder).filter(|_| budget > 0) {
                (holder, here) = (Some(*next), true);
                budget -= 1;
            }
        }
        (holder, here)
    }

    /// The line of what is mounted at a place and can be reached there; nothing where a mount further up hides it.
    pub fn at(&self, path: &str) -> Option<&'a str> {
        let (holder, here) = self.find(path);
        holder.filter(|_| here).map(|(_, line)| line)
    }

    /// The line of the mount that a path lies on.
    pub fn holding(&self, path: &str) -> Option<&'a str> {
        self.find(path).0.map(|(_, line)| line)
    }

    /// Whether something is mounted at a place, hidden or not.
    pub fn lists(&self, path: &str) -> bool {
        self.children.values().any(|points| points.contains_key(path))
    }

    /// What can be reached: mount points, each with its line.
    pub fn seen(&self) -> BTreeMap<String, &'a str> {
        let points = self.children.values().flat_map(BTreeMap::keys);
        points.filter_map(|point| Some((point.clone(), self.at(point)?))).collect()
    }
}

/// Octal escapes of proc_pid_mountinfo(5).
pub fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TABLE: &str = "20 1 8:1 / / rw - ext4 /dev/vda rw\n21 20 0:5 / /proc rw - proc proc rw\n\
                         30 20 0:30 / /a rw - tmpfs ours rw\n31 30 0:31 / /a/b\\040c rw - tmpfs below rw\n";

    fn source<'a>(tree: &Tree<'a>, path: &str) -> Option<&'a str> {
        tree.at(path)?.rsplit(' ').nth(1)
    }

    #[test]
    fn what_is_listed_is_there() {
        let tree = Tree::read(TABLE);
        for (path, found) in [
            ("/", Some("/dev/vda")),
            ("/a", Some("ours")),
            ("/a/b c", Some("below")),
            ("/a/b c/d", None),
            ("/ab", None),
        ] {
            assert_eq!(source(&tree, path), found, "{path}");
        }
        assert_eq!(tree.holding("/a/b c/d").unwrap(), tree.at("/a/b c").unwrap());
        assert_eq!(tree.holding("/ab").unwrap(), tree.at("/").unwrap());
        assert_eq!(tree.seen().into_keys().collect::<Vec<_>>(), ["/", "/a", "/a/b c", "/proc"]);
    }

    #[test]
    fn what_a_mount_further_up_hides_is_not() {
        let covered = format!("{TABLE}40 30 0:40 / /a rw - ramfs theirs rw\n");
        let tree = Tree::read(&covered);
        assert_eq!(source(&tree, "/a"), Some("theirs"));
        assert_eq!((source(&tree, "/a/b c"), tree.lists("/a/b c")), (None, true));
        assert_eq!(tree.holding("/a/b c"), tree.at("/a"));
        assert_eq!(tree.seen().into_keys().collect::<Vec<_>>(), ["/", "/a", "/proc"]);
        // What is mounted there now is another one, whatever the order of the list.
        let again = format!("41 40 0:41 / /a/b\\040c rw - tmpfs new rw\n{covered}");
        assert_eq!(source(&Tree::read(&again), "/a/b c"), Some("new"));
        let root = format!("{covered}50 20 0:50 / / rw - tmpfs all rw\n");
        let tree = Tree::read(&root);
        assert_eq!(
            (source(&tree, "/"), source(&tree, "/a"), source(&tree, "/proc")),
            (Some("all"), None, None)
        );
    }

    #[test]
    fn who_sees_a_part_of_the_tree_finds_what_is_in_it() {
        // In a chroot the list begins below mounts that it does not name.
        let tree = Tree::read("31 30 0:31 / /b rw - tmpfs below rw\n32 31 0:32 / /b/c rw - tmpfs deep rw\n");
        assert_eq!((source(&tree, "/b"), source(&tree, "/b/c")), (Some("below"), Some("deep")));
        assert_eq!(tree.holding("/x"), None);
    }

    #[test]
    fn a_circle_ends() {
        let tree = Tree::read("5 99 0:1 / / rw\n6 5 0:1 / / rw\n5 6 0:1 / / rw\n7 7 0:1 / /own rw\n");
        assert!(tree.at("/").is_some());
        assert!(Tree::read("1 1 0:1 / / rw - ext4 x rw\n").at("/").is_some(), "it may be its own parent");
    }

    #[test]
    fn points_are_unescaped() {
        assert_eq!(unescape("a\\040b\\134c\\01\\"), "a b\\c\\01\\");
    }
}
