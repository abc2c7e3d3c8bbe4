//! The machine as resources see it: paths below a root, the user databases, the store, what is mounted.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;
use nix::sys::stat::FileStat;
use sha2::{Digest as _, Sha256};

use super::accounts::{Accounts, Database};
use super::expected::Expected;
use super::op::Trouble;
use super::place::{Places, is_below};
use crate::mountinfo::Tree;
use crate::proto::{Position, Step};
use crate::store::disk::packed::Stored;
use crate::store::index::{FirstTouches, PARENT};
use crate::store::quick::Names;
use crate::store::{Digest, Store, hex};

/// Two ticks of the coarsest kernel clock (100 Hz), in nanoseconds: two writes within them can share a ctime.
const TWO_TICKS: i128 = 20_000_000;

/// What a file looked like when its content was last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    ctime: (i64, i64),
    /// Digest of what was read.
    pub digest: Digest,
    /// Whether the ctime was old enough to tell a later write apart.
    settled: bool,
}

impl Stamp {
    /// Of a file that was just read.
    pub fn of(stat: &FileStat, digest: Digest) -> Stamp {
        let clock = nix::time::ClockId::CLOCK_REALTIME;
        let now = nix::time::clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
        let age = nanoseconds(now.tv_sec(), now.tv_nsec()) - nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            digest,
            settled: age > TWO_TICKS,
        }
    }

    /// Whether a file that looks like this must still hold the same.
    pub fn proves(&self, stat: &FileStat) -> bool {
        self.settled
            && self.device == stat.st_dev
            && self.inode == stat.st_ino
            && self.size == stat.st_size
            && self.ctime == (stat.st_ctime, stat.st_ctime_nsec)
    }
}

/// A file that this process has written where nobody else comes to, and put in its place since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    device: u64,
    inode: u64,
    size: i64,
    mtime: (i64, i64),
    digest: Digest,
}

impl Written {
    /// As it was when all was written.
    pub fn of(stat: &FileStat, digest: Digest) -> Written {
        Written {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            digest,
        }
    }

    /// Whether what stands there now is that, and unchanged. Who writes into it where it stands changes the mtime to one
    /// that is not before the rename's, which is the ctime: as long as that can be told from when we have written.
    fn is(&self, stat: &FileStat) -> bool {
        let now = Written::of(stat, self.digest);
        let moved = nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
        now == *self && moved - nanoseconds(self.mtime.0, self.mtime.1) > TWO_TICKS
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Where a worker works.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The root of the tree; empty for `/`.
    pub root: PathBuf,
    /// Where sysctls are; empty for `/proc/sys`.
    pub proc_sys: PathBuf,
    /// Where contents of generation 0 lie.
    pub boot_contents: Option<PathBuf>,
    /// The run-time directory.
    pub run: PathBuf,
    /// Directories of Holdfast's own, which no purge touches.
    pub own: Vec<PathBuf>,
}

/// In which variable PID 1 says where the logs are.
pub const LOGS: &str = "HOLDFAST_LOGS";

/// Where the logs are.
pub fn logs() -> PathBuf {
    std::env::var_os(LOGS).map_or_else(|| "/var/log/holdfast".into(), PathBuf::from)
}

/// What the committer says before it waits for a disk.
pub const WAITS: [u8; 1] = *b"w";
/// What it says whenever it works.
const GOES_ON: [u8; 1] = *b".";

/// Whom we tell that the work goes on, so that nobody takes a long batch for a worker that hangs.
#[derive(Debug, Default)]
pub enum Pulse {
    /// Nobody.
    #[default]
    None,
    /// Whoever is at the other end of this packet socket hears these bytes.
    Packet(RawFd, Vec<u8>),
    /// The coordinator hears a byte.
    Pipe(OwnedFd),
}

/// The user databases, which most batches have no need of: read when they are looked at first. What cannot be read
/// looks empty: who says something of an entry, or writes one, asks [`Known::sound`] first.
#[derive(Debug, Default)]
pub struct Known {
    etc: PathBuf,
    read: OnceCell<Accounts>,
    failed: OnceCell<Trouble>,
}

impl Known {
    /// Whether all that is there could be read.
    ///
    /// # Errors
    /// When it could not.
    pub fn sound(&self) -> Result<&Accounts, Trouble> {
        let accounts: &Accounts = self;
        self.failed.get().map_or(Ok(accounts), |trouble| Err(trouble.clone()))
    }
}

impl From<Accounts> for Known {
    fn from(accounts: Accounts) -> Known {
        Known { read: OnceCell::from(accounts), ..Known::default() }
    }
}

impl Deref for Known {
    type Target = Accounts;

    fn deref(&self) -> &Accounts {
        self.read.get_or_init(|| {
            let read = |name: &str| {
                let path = self.etc.join(name);
                let bytes = fs::read(&path).unwrap_or_else(|e| {
                    if e.kind() != io::ErrorKind::NotFound {
                        self.failed.get_or_init(|| Trouble::io("read", &path.to_string_lossy(), &e));
                    }
                    Vec::new()
                });
                Database::parse(bytes)
            };
            Accounts {
                passwd: read("passwd"),
                group: read("group"),
                shadow: read("shadow"),
                gshadow: read("gshadow"),
            }
        })
    }
}

/// Of which units the things stay where a directory is purged, though no entry of it is declared: somebody holds what was
/// declared before.
#[derive(Debug)]
pub enum Spared {
    /// Of all owners but these, which leave now.
    AllBut(BTreeSet<String>),
    /// Of these.
    Only(BTreeSet<String>),
}

impl Default for Spared {
    fn default() -> Spared {
        Spared::AllBut(BTreeSet::new())
    }
}

/// An empty directory in a staging area.
#[derive(Debug)]
pub struct Begun {
    /// The area.
    pub area: OwnedFd,
    /// Its name in there.
    pub name: String,
}

/// The machine.
#[derive(Debug)]
pub struct World {
    /// Who hears of progress.
    pub pulse: Pulse,
    /// Where it stands at which step this is, for when nobody hears anything any more.
    pub position: Option<File>,
    beat: Option<Instant>,
    /// Directories below the root.
    pub places: Places,
    /// On a return: names that were one file in the generation that is returned to, each with the others.
    pub linked: BTreeMap<String, BTreeSet<String>>,
    /// Whether what is done is a repair, which can be tried again: it waits for nobody for long.
    pub repairs: bool,
    /// The user databases; read when a batch asks for them first.
    pub accounts: Known,
    /// Who of them is still to be changed by the batch that is carried out.
    pub expected: Expected,
    /// The store, if there is one yet.
    pub store: Option<Store>,
    /// What files looked like when they were last read.
    pub stamps: Names<Stamp>,
    /// Files that this batch has written.
    pub written: Names<Written>,
    /// Where things are.
    pub setup: Setup,
    /// Descriptors that no process made from this one may have.
    pub private: Vec<RawFd>,
    /// Files that were read to their end since the start, for tests.
    pub reads: u64,
    /// On a return: what was there before all that is undone.
    pub first_touches: FirstTouches,
    /// Directories on the way that were to go with a unit, and were not empty when its turn came.
    pub left: Vec<(String, String)>,
    /// What a purge leaves.
    pub spared: Spared,
    /// Directories that wait in a staging area for the time when they are made, by their places.
    pub begun: BTreeMap<String, Begun>,
    managed: Vec<String>,
    /// Those of them that stand, and are listed under another path: theirs leads there through links.
    through_links: RefCell<BTreeSet<String>>,
    mounted: BTreeSet<String>,
    /// Device and inode of each of [`Setup::own`].
    own: BTreeSet<(u64, u64)>,
    /// That of the directory above [`Setup::run`].
    own_run: Option<(u64, u64)>,
    buffer: Vec<u8>,
}

impl World {
    /// A world below a root.
    ///
    /// # Errors
    /// When the root cannot be opened.
    pub fn new(mut setup: Setup) -> io::Result<World> {
        if setup.root.as_os_str().is_empty() {
            setup.root = PathBuf::from("/");
        }
        if setup.proc_sys.as_os_str().is_empty() {
            setup.proc_sys = PathBuf::from("/proc/sys");
        }
        let root = OwnedFd::from(File::open(&setup.root)?);
        let mut world = World {
            places: Places::new(root),
            repairs: false,
            accounts: Known::default(),
            expected: Expected::default(),
            store: None,
            stamps: Names::default(),
            written: Names::default(),
            first_touches: FirstTouches::default(),
            left: Vec::new(),
            begun: BTreeMap::new(),
            spared: Spared::default(),
            setup,
            pulse: Pulse::None,
            position: None,
            beat: None,
            linked: BTreeMap::new(),
            private: Vec::new(),
            reads: 0,
            managed: Vec::new(),
            through_links: RefCell::default(),
            mounted: BTreeSet::new(),
            own: BTreeSet::new(),
            own_run: None,
            buffer: vec![0; 128 << 10],
        };
        world.read_accounts();
        world.find_own();
        Ok(world)
    }

    /// Begins a batch: whatever may have changed since the last is looked at again. `managed` are the paths of
    /// the mounts that the manifests of the batch declare.
    pub fn begin(&mut self, managed: Vec<String>) {
        self.places.forget();
        self.read_accounts();
        self.find_own();
        self.managed = managed;
        self.mounted.clear();
        self.through_links.borrow_mut().clear();
        if !self.managed.is_empty() {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
            self.mounted = Tree::read(&table).seen().into_keys().collect();
        }
    }

    fn find_own(&mut self) {
        let found = self.setup.own.iter().filter_map(|path| fs::metadata(path).ok());
        self.own = found.map(|m| (m.dev(), m.ino())).collect();
        let run = self.setup.run.parent().and_then(|path| fs::metadata(path).ok());
        self.own_run = run.map(|m| (m.dev(), m.ino()));
    }

    /// Whether this is a directory of Holdfast's own, by whatever name: its store, its logs, what it boots from.
    pub fn is_own(&self, stat: &FileStat) -> bool {
        self.own.contains(&(stat.st_dev, stat.st_ino))
    }

    /// Whether this is where Holdfast's sockets are, beside which there may be anything.
    pub fn is_own_run(&self, stat: &FileStat) -> bool {
        self.own_run == Some((stat.st_dev, stat.st_ino))
    }

    /// Whether a purge by `unit` leaves what lies at a path: it is another unit's that nobody has let go.
    pub fn is_spared(&self, unit: &str, path: &str) -> bool {
        let Some(own) = self.store.as_ref().and_then(|s| s.index().own.get(path)) else { return false };
        let others = own.unit != unit && own.unit != PARENT;
        others
            && match &self.spared {
                Spared::AllBut(leaving) => !leaving.contains(&own.unit),
                Spared::Only(held) => held.contains(&own.unit),
            }
    }

    /// The work goes on; said at most once a second, and never waited for.
    pub fn alive(&mut self) {
        let now = Instant::now();
        if self.beat.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            return;
        }
        self.beat = Some(now);
        match &self.pulse {
            Pulse::None => {}
            Pulse::Packet(socket, bytes) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let _ = nix::sys::socket::send(*socket, bytes, flags);
            }
            Pulse::Pipe(fd) => {
                let _ = nix::unistd::write(fd, &GOES_ON);
            }
        }
    }

    /// Whether a disk is waited for, during which no sign of life can be given: the coordinator gives it then.
    pub fn wait(&mut self, is_waiting: bool) {
        if let Pulse::Pipe(fd) = &self.pulse {
            let _ = nix::unistd::write(fd, if is_waiting { &WAITS } else { &GOES_ON });
        }
    }

    /// From now on it is about this step, or about none.
    pub fn at(&self, step: Option<&Step>) {
        if let Some(position) = &self.position {
            let step = step.map(|s| (s.manifest, s.unit));
            let here = Position { step, pid: std::process::id() };
            let _ = position.write_all_at(&here.to_bytes(), 0);
        }
    }

    /// Forgets what is known of users: they are read when somebody asks for them.
    pub fn read_accounts(&mut self) {
        self.accounts = Known { etc: self.setup.root.join("etc"), ..Known::default() };
    }

    /// A path below the root as the rest of the system names it.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.setup.root.join(path.trim_start_matches('/'))
    }

    /// Whether a path may be looked at: not if it lies below a managed mount that is not there.
    ///
    /// # Errors
    /// [`Trouble::MountAbsent`].
    pub fn mount_present(&self, path: &str) -> Result<(), Trouble> {
        for mount in &self.managed {
            if is_below(path, mount) && !self.is_mounted(mount) {
                return Err(Trouble::MountAbsent(mount.clone()));
            }
        }
        Ok(())
    }

    /// Whether a managed mount is there, under its path or where links lead.
    fn is_mounted(&self, mount: &str) -> bool {
        let lists = |path: &str| self.mounted.contains(&*self.outside(path).to_string_lossy());
        if lists(mount) || self.through_links.borrow().contains(mount) {
            return true;
        }
        let there = self.places.point(mount, lists).is_ok_and(|place| lists(&place));
        if there {
            self.through_links.borrow_mut().insert(mount.to_owned());
        }
        there
    }

    /// Other names of the file at a path, in the generation that is returned to.
    pub fn other_names(&self, path: &str) -> Vec<String> {
        self.linked.get(path).into_iter().flatten().cloned().collect()
    }

    /// Whether a path lies below a managed mount.
    pub fn below_managed(&self, path: &str) -> bool {
        self.managed.iter().any(|m| is_below(path, m))
    }

    /// Whether a path is that of a declared mount.
    pub fn is_managed_mount(&self, path: &str) -> bool {
        self.managed.iter().any(|m| m == path)
    }

    /// Whether a file that looks like this is known to hold just this content, so that nobody has to read it.
    pub fn knows(&mut self, path: &str, digest: &Digest, look: impl FnOnce() -> Option<FileStat>) -> bool {
        let stamp = self.stamps.get(path).filter(|s| s.digest == *digest);
        let written = self.written.get(path).filter(|w| w.digest == *digest);
        if stamp.is_none() && written.is_none() {
            return false;
        }
        let Some(stat) = look() else { return false };
        if stamp.is_some_and(|s| s.proves(&stat)) {
            return true;
        }
        let is = written.is_some_and(|w| w.is(&stat));
        if is {
            self.stamps.insert(path.to_owned(), Stamp::of(&stat, *digest));
        }
        is
    }

    /// Reads a file to its end and hashes it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest(&mut self, file: &mut impl Read) -> io::Result<(Digest, u64)> {
        self.reads += 1;
        let mut hash = Sha256::new();
        let mut size = 0u64;
        loop {
            if size > 0 {
                self.alive();
            }
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok((hash.finalize().into(), size)),
                Ok(count) => {
                    size += count as u64;
                    // Less than asked is not the end: of files in FUSE or procfs one read may give anything.
                    hash.update(self.buffer.get(..count).unwrap_or_default());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A content by its digest: from the store, else from beside `init`.
    pub fn content(&self, digest: &Digest) -> Option<Stored> {
        let stored = self.store.as_ref().and_then(|s| s.content(digest));
        let beside = |dir: &Path| File::open(dir.join(hex(digest))).ok().map(Stored::File);
        stored.or_else(|| self.setup.boot_contents.as_deref().and_then(beside))
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes;
    use super::super::op::Want;
    use super::*;

    #[test]
    fn attributes_without_names_ask_no_database() {
        let stat = nix::sys::stat::stat("/").unwrap();
        let known = Known::default();
        let mut want = Want { mode: Some(stat.st_mode & 0o7777), ..Want::default() };
        let never = || Err(Trouble::NotKept("it was opened".to_owned()));
        let mut wrong = Vec::new();
        attributes::differences(&stat, &never, &want, &known, &mut wrong).unwrap();
        assert!(known.read.get().is_none() && wrong.is_empty());
        want.owner = Some("nobody-of-that-name".to_owned());
        attributes::differences(&stat, &never, &want, &known, &mut wrong).unwrap();
        assert!(known.read.get().is_some() && wrong.len() == 1);
    }

    /// Gives what is asked for in pieces of two bytes, and is interrupted before each.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut buffer[..2]) }
        }
    }

    #[test]
    fn a_file_that_is_given_in_pieces_is_read_to_its_end() {
        let here = tempfile::tempdir().unwrap();
        let mut world = World::new(Setup { root: here.path().to_owned(), ..Setup::default() }).unwrap();
        let whole = b"in seven pieces";
        let want: Digest = Sha256::digest(whole).into();
        assert_eq!(world.digest(&mut Slow(whole, false)).unwrap(), (want, whole.len() as u64));
        assert_eq!(world.digest(&mut whole.as_slice()).unwrap(), (want, whole.len() as u64));
    }

    /// As long as writing and moving can be told apart by their times.
    fn stat_of(size: i64, mtime: i64, ctime: i64) -> FileStat {
        let mut stat = nix::sys::stat::stat("/").unwrap();
        (stat.st_size, stat.st_mtime, stat.st_mtime_nsec) = (size, mtime, 0);
        (stat.st_ctime, stat.st_ctime_nsec) = (ctime, 0);
        stat
    }

    #[test]
    fn what_was_written_is_known_until_it_is_written_again() {
        let here = tempfile::tempdir().unwrap();
        let mut world = World::new(Setup { root: here.path().to_owned(), ..Setup::default() }).unwrap();
        world.written.insert("/a".to_owned(), Written::of(&stat_of(5, 10, 10), [1; 32]));
        let mut knows = |digest, stat| {
            world.stamps.clear();
            world.knows("/a", &[digest; 32], || Some(stat))
        };
        assert!(knows(1, stat_of(5, 10, 11)));
        assert!(!knows(1, stat_of(5, 10, 10)), "too near to tell a later write apart");
        assert!(!knows(1, stat_of(5, 11, 11)));
        assert!(!knows(1, stat_of(6, 10, 11)));
        assert!(!knows(2, stat_of(5, 10, 11)));
        assert!(!world.knows("/b", &[1; 32], || Some(stat_of(5, 10, 11))));
    }
}
