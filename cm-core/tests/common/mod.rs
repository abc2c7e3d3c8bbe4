//! A worker's world in a temporary directory.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cm_core::proto::{Action, Intent, ManifestRef, Outcome, Step, UnitResult};
use cm_core::resource::world::{Setup, World};
use cm_core::store::{Record, Store, hex};
use cm_core::worker::batch::{self, Batch, Confinement, Manifests};
use sha2::{Digest, Sha256};
use units::kind::directory::Directory;
use units::kind::file::{File, Ownership};
use units::kind::mount::Mount;
use units::kind::symlink::Symlink;
use units::kind::user::User;
use units::kind::{Attributes, Content, Spec};
use units::manifest::{ManifestBuilder, NewUnit};
use units::{Address, EdgeKind, Kind, Manifest};

pub struct Bench {
    /// Goes before the directory, since what is mounted in it keeps it.
    _mounts: Mounts,
    pub dir: tempfile::TempDir,
    pub world: World,
    pub manifests: Manifests,
    pub confinement: Confinement,
    next: u32,
}

/// Whatever is mounted below a directory, until it is dropped.
struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(Path::new);
        let mut below: Vec<&Path> = points.filter(|p| p.starts_with(&self.0)).collect();
        below.reverse();
        for point in below {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A manifest under construction.
#[derive(Default, Clone)]
pub struct Decl {
    pub builder: ManifestBuilder,
    pub contents: BTreeMap<String, Vec<u8>>,
}

impl Decl {
    pub fn new() -> Decl {
        Decl::default()
    }

    pub fn unit(mut self, kind: Kind, name: &str, spec: Spec) -> Decl {
        self.builder.unit(NewUnit::new(kind, name, spec));
        self
    }

    pub fn with_flags(mut self, kind: Kind, name: &str, spec: Spec, flags: u8) -> Decl {
        let mut unit = NewUnit::new(kind, name, spec);
        unit.flags = flags;
        self.builder.unit(unit);
        self
    }

    pub fn edge(mut self, from: (Kind, &str), to: (Kind, &str)) -> Decl {
        let (from, to) = (Address::new(from.0, from.1), Address::new(to.0, to.1));
        self.builder.edge(&from, &to, EdgeKind::Requires, "");
        self
    }

    pub fn content(&mut self, bytes: &[u8]) -> Content {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        self.contents.insert(hex(&digest), bytes.to_vec());
        Content { digest, size: bytes.len() as u64 }
    }

    pub fn file_spec(&mut self, path: &str, text: Option<&str>, mode: Option<u32>) -> File {
        File {
            path: path.into(),
            content: text.map(|t| self.content(t.as_bytes())),
            attributes: Attributes { mode, ..Attributes::default() },
            ownership: Ownership::Whole,
            secret: false,
        }
    }

    pub fn file(mut self, path: &str, text: &str) -> Decl {
        let spec = self.file_spec(path, Some(text), None);
        self.unit(Kind::File, path, Spec::File(spec))
    }

    pub fn file_mode(mut self, path: &str, text: &str, mode: u32) -> Decl {
        let spec = self.file_spec(path, Some(text), Some(mode));
        self.unit(Kind::File, path, Spec::File(spec))
    }

    pub fn directory(self, path: &str, mode: Option<u32>) -> Decl {
        let attributes = Attributes { mode, ..Attributes::default() };
        let spec = Directory { path: path.into(), attributes, purge: false, entries: vec![] };
        self.unit(Kind::Directory, path, Spec::Directory(spec))
    }

    pub fn symlink(self, path: &str, target: &str) -> Decl {
        let spec = Symlink { path: path.into(), target: target.into(), owner: None, group: None };
        self.unit(Kind::Symlink, path, Spec::Symlink(spec))
    }
}

/// A file system in memory.
pub fn tmpfs_mount(path: &str) -> Mount {
    Mount { path: path.into(), source: "none".into(), fstype: "tmpfs".into(), ..Mount::default() }
}

/// A user of whom nothing is declared but that he is there.
pub fn user(name: &str) -> User {
    User {
        name: name.into(),
        uid: None,
        group: None,
        groups: vec![],
        home: None,
        shell: None,
        comment: None,
        password_hash: None,
        system: false,
        create_home: false,
        purge: false,
    }
}

impl Bench {
    pub fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for sub in ["root/etc", "proc_sys/kernel", "boot"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).unwrap();
        let mut bench = Bench {
            _mounts: Mounts(dir.path().to_owned()),
            world: World::new(Setup {
                root: dir.path().join("root"),
                proc_sys: dir.path().join("proc_sys"),
                boot_contents: Some(dir.path().join("boot")),
                run: dir.path().join("run"),
                own: ["store", "root/own/logs"].map(|d| dir.path().join(d)).to_vec(),
            })
            .unwrap(),
            dir,
            manifests: Manifests::new(),
            confinement: Confinement::None,
            next: 1,
        };
        bench.reopen();
        bench
    }

    /// With these user databases.
    pub fn with_accounts(passwd: &str, group: &str) -> Bench {
        let bench = Bench::new();
        bench.write("/etc/passwd", passwd);
        bench.write("/etc/group", group);
        bench
    }

    /// As a new worker would: with nothing in memory.
    pub fn reopen(&mut self) {
        self.world.store = None;
        self.world.stamps.clear();
        self.world.store = Some(Store::open(&self.dir.path().join("store")).unwrap());
    }

    pub fn store(&mut self) -> &mut Store {
        self.world.store.as_mut().unwrap()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    pub fn program(&self, path: &str, text: &str, mode: u32) {
        self.write(path, text);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().mode() & 0o7777
    }

    pub fn install(&mut self, decl: &Decl, generation: u64) -> ManifestRef {
        let name = ManifestRef(self.next);
        self.next += 1;
        self.manifests.insert(name, (generation, decl.builder.finish()));
        name
    }

    pub fn manifest(&self, name: ManifestRef) -> &Manifest {
        &self.manifests[&name].1
    }

    /// Contents where the compiler would have staged them.
    pub fn put_contents(&self, decl: &Decl) {
        for (name, bytes) in &decl.contents {
            fs::write(self.dir.path().join("boot").join(name), bytes).unwrap();
        }
    }

    pub fn prepare(&mut self, decl: &Decl) -> u64 {
        self.put_contents(decl);
        let boot = self.dir.path().join("boot");
        let manifest = decl.builder.finish();
        self.store().lock().unwrap();
        let n = self.store().prepare(&manifest, &[boot], "test", false).unwrap();
        self.store().unlock();
        n
    }

    pub fn switching(&mut self, generation: u64) {
        let transition = self.store().index().transitions + 1;
        self.store().record(&[Record::Switching { generation, transition }]).unwrap();
    }

    pub fn commit(&mut self, generation: u64) {
        self.store().record(&[Record::Committed { generation }]).unwrap();
    }

    pub fn run(&mut self, generation: u64, intent: Intent, steps: Vec<Step>) -> Vec<UnitResult> {
        let mut out = Vec::new();
        let batch = Batch { generation, intent, steps };
        batch::run(&mut self.world, &self.manifests, &batch, self.confinement, &mut |r| out.push(r)).unwrap();
        out
    }

    pub fn steps(&self, name: ManifestRef, action: Action) -> Vec<Step> {
        let m = self.manifest(name);
        // Directories, then the rest; and the other way round on the way out.
        let mut ids: Vec<_> = m.ids().collect();
        ids.sort_by_key(|id| {
            let rank = match m.kind(*id) {
                Kind::Group => 0,
                Kind::User => 1,
                Kind::Directory => 2,
                _ => 3,
            };
            (rank, m.name(*id).to_owned())
        });
        if matches!(action, Action::Remove | Action::Restore) {
            ids.reverse();
        }
        ids.into_iter().map(|unit| Step { manifest: name, unit, action }).collect()
    }

    /// Converges all of a manifest.
    pub fn converge(&mut self, decl: &Decl, intent: Intent) -> BTreeMap<String, (Outcome, String)> {
        self.put_contents(decl);
        let name = self.install(decl, 1);
        let steps = self.steps(name, Action::Converge);
        let results = self.run(1, intent, steps);
        self.by_name(results)
    }

    pub fn by_name(&self, results: Vec<UnitResult>) -> BTreeMap<String, (Outcome, String)> {
        results
            .into_iter()
            .map(|r| (self.manifests[&r.manifest].1.address(r.unit).to_string(), (r.outcome, r.detail)))
            .collect()
    }

    /// From the manifest `old` to `new`, as the engine would: what is not declared any more goes first.
    pub fn swap(&mut self, old: Option<(u64, &Decl)>, new: (u64, &Decl), intent: Intent) -> Vec<UnitResult> {
        let new_name = self.install(new.1, new.0);
        let mut steps = Vec::new();
        if let Some((generation, old)) = old {
            let old_name = self.install(old, generation);
            let action = if intent == Intent::Return { Action::Restore } else { Action::Remove };
            let wanted = new.1.builder.finish();
            let gone = self.steps(old_name, action);
            let m = self.manifest(old_name).clone();
            steps.extend(gone.into_iter().filter(|s| wanted.find(m.kind(s.unit), m.name(s.unit)).is_none()));
        }
        steps.extend(self.steps(new_name, Action::Converge));
        self.run(new.0, intent, steps)
    }

    /// Prepares, switches and commits; what was declared before is removed.
    pub fn apply(&mut self, old: Option<(u64, &Decl)>, new: &Decl) -> (u64, Vec<UnitResult>) {
        let n = self.prepare(new);
        self.switching(n);
        let results = self.swap(old, (n, new), Intent::Apply);
        self.commit(n);
        (n, results)
    }
}

/// Everything that can be seen of a tree, but times of directories.
pub fn fingerprint(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut line = format!("{name} {:o} {}:{}", m.mode(), m.uid(), m.gid());
        if m.is_symlink() {
            line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if let Ok(fd) = fs::File::open(&path) {
            for x in cm_core::sys::xattr_names(&fd).unwrap() {
                line += &format!(" {x}={:?}", cm_core::sys::xattr(&fd, &x).unwrap());
            }
        }
        if m.is_file() {
            line += &format!(" {} {}", hex(&Sha256::digest(fs::read(&path).unwrap())), m.mtime());
        }
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        out.push(line);
    }
    out.sort();
    out
}

/// A mount name space of this test's own.
pub fn private_mounts() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}
