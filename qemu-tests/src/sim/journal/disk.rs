//! What a disk may hold when the power goes: a tree of inodes, what is known to be durable of it, and what is not yet.
//!
//! The model is weaker than any one file system: what no sync was completed for may be there or not, each directory
//! entry and each file on its own, in any order, and a write may be torn or leave zeros. Two promises are made, which
//! ext4, xfs and btrfs keep: a rename is one change, and of two changes of one name the later one wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cm_core::resource::accounts::{Database, FILES};
use cm_core::sys;

use crate::sim::dice::Dice;

/// An inode of the model; 0 is the topmost directory.
pub type Id = u32;
/// An inode of the kernel's: device and number.
pub type Inode = (u64, u64);

/// What is written in any order.
const PAGE: usize = 4096;
/// What is written whole, or not, or to nobody knows what.
const SECTOR: usize = 512;

/// Attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Where somebody has set it.
    pub mtime: Option<(i64, i64)>,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    File(Arc<Vec<u8>>),
    Link(Vec<u8>),
    Directory(BTreeMap<String, Id>),
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub meta: Meta,
    pub body: Body,
}

/// A name in a directory.
pub type Name = (Id, String);

/// One call that changes what a disk holds, or makes it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new inode gets its first name.
    Create { at: Name, id: Id, node: Node },
    /// An inode gets one more name.
    Link { at: Name, id: Id },
    /// A name goes.
    Remove { at: Name },
    /// A name becomes another one.
    Rename { from: Name, to: Name, id: Id },
    /// Bytes of a file.
    Write { id: Id, offset: u64, bytes: Vec<u8> },
    /// Its length.
    Truncate { id: Id, length: u64 },
    /// Attributes are now these.
    Attributes { id: Id, meta: Meta },
    /// fsync(2); with `data` fdatasync(2).
    Sync { id: Id, data: bool },
    /// syncfs(2).
    SyncAll,
}

impl Op {
    /// Whether it makes something durable.
    pub const fn is_sync(&self) -> bool {
        matches!(self, Op::Sync { .. } | Op::SyncAll)
    }

    /// The names that it changes.
    fn names(&self) -> Vec<&Name> {
        match self {
            Op::Create { at, .. } | Op::Link { at, .. } | Op::Remove { at } => vec![at],
            Op::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The file whose bytes it changes.
    const fn file(&self) -> Option<Id> {
        match self {
            Op::Write { id, .. } | Op::Truncate { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// A tree of inodes, some of which may have no name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    pub nodes: HashMap<Id, Node>,
}

impl Tree {
    /// Reads a directory; the second is which inode of the kernel's each one is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn scan(top: &Path) -> io::Result<(Tree, HashMap<Inode, Id>)> {
        let mut tree = Tree::default();
        let mut ids: HashMap<Inode, Id> = HashMap::new();
        let mut todo: Vec<(PathBuf, Option<Name>)> = vec![(top.to_owned(), None)];
        while let Some((path, name)) = todo.pop() {
            let found = fs::symlink_metadata(&path)?;
            let new = ids.len() as Id;
            let id = *ids.entry((found.dev(), found.ino())).or_insert(new);
            if let Some((dir, name)) = name
                && let Some(Node { body: Body::Directory(entries), .. }) = tree.nodes.get_mut(&dir)
            {
                entries.insert(name, id);
            }
            if id != new {
                continue;
            }
            let node = look(&path)?;
            if matches!(node.body, Body::Directory(_)) {
                for entry in fs::read_dir(&path)? {
                    let entry = entry?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    todo.push((entry.path(), Some((id, name))));
                }
            }
            tree.nodes.insert(id, node);
        }
        Ok((tree, ids))
    }

    fn entries(&mut self, id: Id) -> Option<&mut BTreeMap<String, Id>> {
        match &mut self.nodes.get_mut(&id)?.body {
            Body::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    fn bytes(&self, id: Id) -> Option<&Arc<Vec<u8>>> {
        match &self.nodes.get(&id)?.body {
            Body::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn put(&mut self, at: &Name, id: Id) {
        if let Some(entries) = self.entries(at.0) {
            entries.insert(at.1.clone(), id);
        }
    }

    fn take(&mut self, at: &Name) {
        if let Some(entries) = self.entries(at.0) {
            entries.remove(&at.1);
        }
    }

    /// Carries a call out.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { at, id, node } => {
                self.nodes.entry(*id).or_insert_with(|| node.clone());
                self.put(at, *id);
            }
            Op::Link { at, id } => self.put(at, *id),
            Op::Remove { at } => self.take(at),
            Op::Rename { from, to, id } => {
                self.take(from);
                self.put(to, *id);
            }
            Op::Write { id, offset, bytes } => {
                if let Some(Node { body: Body::File(data), .. }) = self.nodes.get_mut(id) {
                    let data = Arc::make_mut(data);
                    let start = *offset as usize;
                    if data.len() < start + bytes.len() {
                        data.resize(start + bytes.len(), 0);
                    }
                    data[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
            Op::Truncate { id, length } => {
                if let Some(Node { body: Body::File(data), .. }) = self.nodes.get_mut(id) {
                    Arc::make_mut(data).resize(*length as usize, 0);
                }
            }
            Op::Attributes { id, meta } => {
                if let Some(node) = self.nodes.get_mut(id) {
                    node.meta = meta.clone();
                }
            }
            Op::Sync { .. } | Op::SyncAll => {}
        }
    }

    /// The inode at a path below the top.
    pub fn find(&self, path: &str) -> Option<Id> {
        path.split('/').filter(|p| !p.is_empty()).try_fold(0, |id, name| match &self.nodes.get(&id)?.body {
            Body::Directory(entries) => entries.get(name).copied(),
            _ => None,
        })
    }

    /// Everything that can be seen of the tree at a path, but times: what stands at each path, on one line. Of the user
    /// databases that is who can be somebody: who was made once stays locked, so that nobody else gets his number.
    pub fn view(&self, path: &str) -> View {
        let mut out = View::new();
        let mut names: BTreeMap<Id, Vec<String>> = BTreeMap::new();
        let mut todo: Vec<(String, Id)> = self.find(path).map(|id| (String::new(), id)).into_iter().collect();
        while let Some((path, id)) = todo.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            let meta = &node.meta;
            let mut line = format!("{:04o} {}:{}", meta.mode, meta.uid, meta.gid);
            for (name, value) in &meta.xattrs {
                line += &format!(" {name}={value:?}");
            }
            match &node.body {
                Body::File(bytes) => {
                    names.entry(id).or_default().push(path.clone());
                    let is = if names_people(&path) { people(bytes) } else { shown(bytes) };
                    line = format!("file {line} {is}");
                }
                Body::Link(target) => line = format!("link -> {}", String::from_utf8_lossy(target)),
                Body::Directory(entries) => {
                    line = format!("directory {line}");
                    todo.extend(entries.iter().map(|(name, id)| (format!("{path}/{name}"), *id)));
                }
            }
            out.insert(path, line);
        }
        for mut names in names.into_values().filter(|n| n.len() > 1) {
            names.sort();
            for name in &names {
                if let Some(line) = out.get_mut(name) {
                    *line += &format!(" = {}", names.join(" = "));
                }
            }
        }
        let file = |name: &str| match &self.nodes.get(&self.find(&format!("{path}/etc/{name}"))?)?.body {
            Body::File(bytes) => Some(Database::parse(&**bytes)),
            _ => None,
        };
        if let (Some(passwd), Some(group)) = (file("passwd"), file("group")) {
            out.insert(TOGETHER.to_owned(), groups_of_people(&passwd, &group));
        }
        out
    }

    /// Makes all of it in an empty directory.
    ///
    /// # Errors
    /// When something cannot be made.
    pub fn lay_out(&self, top: &Path) -> io::Result<()> {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut made: HashMap<Id, PathBuf> = HashMap::new();
        let mut dirs: Vec<(PathBuf, Meta)> = Vec::new();
        let mut todo: Vec<(PathBuf, Id)> = vec![(top.to_owned(), 0)];
        while let Some((path, id)) = todo.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            if let Some(first) = made.get(&id) {
                fs::hard_link(first, &path)?;
                continue;
            }
            match &node.body {
                Body::Directory(entries) => {
                    if id != 0 {
                        fs::DirBuilder::new().mode(0o700).create(&path)?;
                    }
                    todo.extend(entries.iter().map(|(name, id)| (path.join(name), *id)));
                    dirs.push((path, node.meta.clone()));
                }
                Body::Link(target) => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path)?;
                    if (node.meta.uid, node.meta.gid) != own {
                        std::os::unix::fs::lchown(&path, Some(node.meta.uid), Some(node.meta.gid))?;
                    }
                }
                Body::File(bytes) => {
                    let mut file =
                        OpenOptions::new().write(true).create_new(true).mode(node.meta.mode).open(&path)?;
                    file.write_all(bytes)?;
                    dress(&file, &path, &node.meta, own)?;
                    made.insert(id, path);
                }
            }
        }
        for (path, meta) in dirs.iter().rev() {
            dress(&fs::File::open(path)?, path, meta, own)?;
        }
        Ok(())
    }
}

/// What stands at each path.
pub type View = BTreeMap<String, String>;

/// Where two views differ, in words.
pub fn differences(is: &View, should: &View) -> String {
    let paths: BTreeSet<&String> = is.keys().chain(should.keys()).collect();
    let none = "nothing".to_owned();
    let differ = paths.into_iter().filter(|p| is.get(*p) != should.get(*p)).take(4);
    let words = differ
        .map(|p| format!("{p} is {} and not {}", is.get(p).unwrap_or(&none), should.get(p).unwrap_or(&none)));
    words.collect::<Vec<_>>().join("; ")
}

/// What a view says of several files together, which only at rest belong to each other.
pub const TOGETHER: &str = "groups of people";

/// The name of the group of everybody who is not locked, and who is only a group though that was made for a user.
fn groups_of_people(passwd: &Database, group: &Database) -> String {
    let groups: BTreeMap<u32, &str> = group.numbers().map(|(name, gid)| (gid, name)).collect();
    let known = passwd.names().filter(|name| passwd.field(name, 6) != Some(NO_SHELL));
    let words = known.map(|name| {
        let gid = passwd.field(name, 3).and_then(|gid| gid.parse().ok());
        format!("{name} in {}", gid.and_then(|gid| groups.get(&gid)).unwrap_or(&"none"))
    });
    let alone = (group.line("bob").is_some() && passwd.line("bob").is_none()).then(|| "bob alone".to_owned());
    words.chain(alone).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The shell of who is locked.
const NO_SHELL: &str = "/usr/sbin/nologin";

fn names_people(path: &str) -> bool {
    FILES.iter().any(|file| path.strip_prefix("/etc/") == Some(*file))
}

/// The entries of a user database in any order, without those who are locked, their own groups, and the day of a change.
fn people(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let entry = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        let locked = match (fields.len(), fields.get(7), fields.last()) {
            (7, _, Some(shell)) => *shell == NO_SHELL,
            (9, Some(expires), _) => *expires == "1",
            // A group that was made for a user goes only with him.
            (4, ..) => fields[0] == "bob",
            _ => false,
        };
        if fields.len() == 9 {
            fields[2] = "day";
        }
        // Who comes back to a group comes last.
        let mut members: Vec<&str> = fields.last().map(|last| last.split(',').collect()).unwrap_or_default();
        members.sort_unstable();
        let members = members.join(",");
        if let (4, Some(last)) = (fields.len(), fields.last_mut()) {
            *last = &members;
        }
        (!locked).then(|| fields.join(":"))
    };
    let mut entries: Vec<String> = text.lines().filter_map(entry).collect();
    entries.sort();
    format!("{} bytes {}", entries.len(), entries.join(", "))
}

fn shown(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let start: String = String::from_utf8_lossy(bytes).chars().take(12).collect();
    let digest = cm_core::store::hex(&Sha256::digest(bytes));
    format!("{} bytes {start:?} {}", bytes.len(), &digest[..16])
}

fn dress(file: &fs::File, path: &Path, meta: &Meta, own: (u32, u32)) -> io::Result<()> {
    let failed = |e: io::Error| io::Error::other(format!("{}: {e}", path.display()));
    if (meta.uid, meta.gid) != own {
        std::os::unix::fs::fchown(file, Some(meta.uid), Some(meta.gid)).map_err(failed)?;
    }
    if file.metadata()?.mode() & 0o7777 != meta.mode {
        file.set_permissions(fs::Permissions::from_mode(meta.mode)).map_err(failed)?;
    }
    for (name, value) in &meta.xattrs {
        sys::set_xattr(file, name, value).map_err(failed)?;
    }
    if let Some((seconds, nanoseconds)) = meta.mtime {
        sys::set_link_mtime(file, (seconds, nanoseconds)).map_err(failed)?;
    }
    Ok(())
}

/// What stands at a path of a real tree; a directory without its entries.
///
/// # Errors
/// When it cannot be read.
pub fn look(path: &Path) -> io::Result<Node> {
    let found = fs::symlink_metadata(path)?;
    let mut meta =
        Meta { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid(), ..Meta::default() };
    let body = if found.is_symlink() {
        Body::Link(fs::read_link(path)?.into_os_string().into_vec())
    } else {
        let mut file = fs::File::open(path)?;
        for name in sys::xattr_names(&file)? {
            meta.xattrs.extend(sys::xattr(&file, &name)?.map(|value| (name, value)));
        }
        if found.is_dir() {
            Body::Directory(BTreeMap::new())
        } else {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            meta.mtime = Some((found.mtime(), found.mtime_nsec()));
            Body::File(Arc::new(bytes))
        }
    };
    Ok(Node { meta, body })
}

/// A disk under way.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What nobody can take away any more.
    durable: Tree,
    /// What everybody sees.
    pub live: Tree,
    /// What is seen and not durable.
    pending: Vec<Op>,
}

impl Disk {
    /// All of this is durable.
    pub fn of(tree: Tree) -> Disk {
        Disk { durable: tree.clone(), live: tree, pending: Vec::new() }
    }

    /// Carries a call out.
    pub fn step(&mut self, op: &Op) {
        self.live.apply(op);
        match op {
            Op::SyncAll => {
                self.durable = self.live.clone();
                self.pending.clear();
            }
            Op::Sync { id, data } => self.sync(*id, *data),
            op => {
                if let Op::Create { id, node, .. } = op {
                    // Without a name nobody finds it.
                    self.durable.nodes.insert(*id, node.clone());
                }
                self.pending.push(op.clone());
            }
        }
    }

    fn sync(&mut self, id: Id, data: bool) {
        let mut goes = vec![false; self.pending.len()];
        // From the last to the first, since what happened to the same name before goes along.
        let mut names: BTreeSet<&Name> = BTreeSet::new();
        for (at, op) in self.pending.iter().enumerate().rev() {
            let of = op.names();
            goes[at] = of.iter().any(|n| n.0 == id || names.contains(n))
                || op.file() == Some(id)
                || (!data && matches!(op, Op::Attributes { id: of, .. } if *of == id));
            if goes[at] {
                names.extend(of);
            }
        }
        let mut goes = goes.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|op| {
            let stays = !goes.next().unwrap_or_default();
            if !stays {
                durable.apply(op);
            }
            stays
        });
    }

    /// What is there after the power came back.
    pub fn after_loss(&self, dice: &mut Dice) -> Tree {
        let mut tree = self.durable.clone();
        let style = dice.below(7);
        if style == 0 {
            return tree;
        }
        if style == 1 {
            return self.live.clone();
        }
        // A journal of metadata ends somewhere; where there is none, everything is on its own.
        let end = if style <= 3 { dice.below(self.pending.len() as u64 + 1) as usize } else { usize::MAX };
        let odds = [0, 0, 0, 0, 1000, 500, 850][style as usize];
        let mut files: BTreeSet<Id> = BTreeSet::new();
        for (at, op) in self.pending.iter().enumerate() {
            match op.file() {
                Some(id) => drop(files.insert(id)),
                None if style <= 3 && at >= end => {}
                None if style > 3 && !dice.chance(odds) => {}
                None => tree.apply(op),
            }
        }
        for id in files {
            let (Some(old), Some(new)) = (tree.bytes(id), self.live.bytes(id)) else { continue };
            let torn = torn(old, new, dice);
            if let Some(node) = tree.nodes.get_mut(&id) {
                node.body = Body::File(Arc::new(torn));
            }
        }
        tree
    }
}

/// Bytes of a file of which `old` is durable and `new` is not.
fn torn(old: &[u8], new: &[u8], dice: &mut Dice) -> Vec<u8> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let cut = same + dice.below((new.len() - same) as u64 + 1) as usize;
    let mut out = new.to_vec();
    match dice.below(7) {
        0 => return old.to_vec(),
        1 => {}
        2 => out.truncate(cut),
        // Blocks that were allocated and not written.
        3 => out[same..].fill(0),
        4 => out[cut..].fill(0),
        // A sector in which the writing ended.
        5 => {
            let sector = (out.len() - cut).min(SECTOR);
            out[cut..].fill(0);
            out[cut..cut + sector].iter_mut().for_each(|byte| *byte = dice.next() as u8);
        }
        _ => {
            for (page, bytes) in out.chunks_mut(PAGE).enumerate() {
                if dice.chance(500) {
                    let start = same.saturating_sub(page * PAGE).min(bytes.len());
                    bytes[start..].fill(0);
                }
            }
        }
    }
    out
}
