//! The worker as a process, spoken to as PID 1 does.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;

use cm_core::proto::{
    Action, Intent, LayerChange, ManifestRef, Outcome, Reply, Request, Source, Step, StoreOp, StoreReply,
    UnitResult, VERSION, Watch,
};
use cm_core::sys::Mapping;
use cm_core::worker::channel::{self, Channel};
use cm_core::worker::compile::sealed;
use cm_core::worker::watches;
use units::{Kind, Manifest};

fn main_layer() -> LayerChange {
    LayerChange { name: "main".to_owned(), remove: false }
}

struct Init {
    channel: Channel,
    child: Child,
    watches: Vec<Watch>,
    log: Vec<String>,
    inotify: OwnedFd,
}

impl Init {
    /// A worker on the tree `root` of this directory.
    fn start(dir: &Path) -> Init {
        Init::start_dying(dir, 0)
    }

    fn start_dying(dir: &Path, at: u64) -> Init {
        for sub in ["root/etc", "run", "boot"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let (ours, theirs) = channel::pair().unwrap();
        let (own, public) = watches::instances().unwrap();
        let inotify = own.try_clone().unwrap();
        let fds = [theirs.as_raw_fd(), own.as_raw_fd(), public.as_raw_fd()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_cm-worker"));
        command.env("HOLDFAST_ROOT", dir.join("root"));
        if at > 0 {
            command.env("HOLDFAST_WORKER_DIES_AT", at.to_string());
        }
        // SAFETY: only dup3 and close are called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let mut high = [0; 3];
                for (slot, fd) in high.iter_mut().zip(fds) {
                    *slot = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100);
                }
                for (target, fd) in (3..).zip(high) {
                    if libc::dup2(fd, target) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(theirs);
        let mut init = Init { channel: Channel::new(ours), child, watches: vec![], log: vec![], inotify };
        let text = |p: &str| dir.join(p).to_string_lossy().into_owned();
        init.ask(&Request::Hello {
            version: VERSION,
            store: text("store"),
            run: text("run"),
            boot_contents: text("boot"),
        });
        assert!(matches!(init.hear().unwrap().0, Reply::Hello { version: VERSION }));
        init
    }

    /// A worker that has converged a declaration, which is its manifest 1, without a store; with what came of it.
    fn converged(dir: &Path, decl: &common::Decl) -> (Init, Manifest, Vec<UnitResult>) {
        let manifest = decl.builder.finish();
        let fd = OwnedFd::from(sealed("m", manifest.as_bytes()).unwrap());
        let mut init = Init::start(dir);
        for (name, bytes) in &decl.contents {
            fs::write(dir.join("boot").join(name), bytes).unwrap();
        }
        init.manifest(1, 0, &fd);
        let results = init.batch(0, Intent::Correct, all(1, &manifest, Action::Converge)).unwrap();
        (init, manifest, results)
    }

    fn ask(&mut self, request: &Request) {
        self.channel.send(request, &[]).unwrap();
    }

    fn hear(&mut self) -> Option<(Reply, Vec<OwnedFd>)> {
        self.channel.receive().ok().flatten()
    }

    /// Hears until something else than watches and logs comes.
    fn answer(&mut self) -> Option<(Reply, Vec<OwnedFd>)> {
        loop {
            match self.hear()? {
                (Reply::Watches(w), _) => self.watches.extend(w),
                (Reply::Log { text, .. }, _) => self.log.push(text),
                other => return Some(other),
            }
        }
    }

    fn store(&mut self, op: StoreOp) -> Result<(StoreReply, Vec<OwnedFd>), String> {
        self.ask(&Request::Store { token: 9, op });
        match self.answer() {
            Some((Reply::Stored { token: 9, result }, fds)) => result.map(|r| (r, fds)),
            other => Err(format!("{other:?}")),
        }
    }

    fn manifest(&mut self, name: u32, generation: u64, fd: &OwnedFd) {
        let request = Request::Manifest { manifest: ManifestRef(name), generation };
        self.channel.send(&request, &[fd.as_raw_fd()]).unwrap();
    }

    fn batch(&mut self, generation: u64, intent: Intent, steps: Vec<Step>) -> Option<Vec<UnitResult>> {
        self.ask(&Request::Batch { batch: 5, generation, intent, steps, last: true });
        let mut out = Vec::new();
        loop {
            match self.answer()? {
                (Reply::Results { batch: 5, results }, _) => out.extend(results),
                (Reply::BatchDone { batch: 5 }, _) => return Some(out),
                other => panic!("{other:?}"),
            }
        }
    }

    fn compile(&mut self, path: &Path, uid: u32) -> (Result<u32, String>, Option<OwnedFd>) {
        let source = Source::Path(path.to_string_lossy().into_owned());
        self.ask(&Request::Compile {
            token: 77,
            source,
            layer: main_layer(),
            onto: None,
            uid,
            gid: uid,
            pick: None,
        });
        match self.answer() {
            Some((Reply::Compiled { token: 77, result }, fds)) => (result, fds.into_iter().next()),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn map(fd: &OwnedFd) -> Manifest {
    let file = fs::File::from(fd.try_clone().unwrap());
    Manifest::parse(Arc::new(Mapping::sealed(&file).unwrap())).unwrap()
}

fn all(name: u32, manifest: &Manifest, action: Action) -> Vec<Step> {
    manifest.ids().map(|unit| Step { manifest: ManifestRef(name), unit, action }).collect()
}

fn state(dir: &Path, text: &str) -> std::path::PathBuf {
    let path = dir.join("state.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_generation_is_compiled_applied_and_returned() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::start(dir.path());
    let (opened, _) = init.store(StoreOp::Open).unwrap();
    assert_eq!(opened, StoreReply::Opened { current: None, interrupted: None, left: false });
    fs::write(dir.path().join("motd"), "from a source\n").unwrap();
    let path = state(
        dir.path(),
        "[file.\"/etc/motd\"]\nsource = \"motd\"\nmode = \"0640\"\n[file.\"/etc/issue\"]\ncontent = \"hello\\n\"\n",
    );
    let (units, fd) = init.compile(&path, 0);
    assert_eq!(units, Ok(2));
    let fd = fd.unwrap();
    init.manifest(1, 0, &fd);
    let prepare = StoreOp::Prepare { manifest: ManifestRef(1), staged: 77, note: "test".into() };
    assert_eq!(init.store(prepare.clone()).unwrap().0, StoreReply::Generation(1));
    init.store(StoreOp::Switching { generation: 1 }).unwrap();
    let results = init.batch(1, Intent::Apply, all(1, &map(&fd), Action::Converge)).unwrap();
    assert!(results.iter().all(|r| r.outcome == Outcome::Changed), "{results:?}");
    assert_eq!(fs::read_to_string(dir.path().join("root/etc/motd")).unwrap(), "from a source\n");
    init.store(StoreOp::Commit { generation: 1 }).unwrap();
    assert_eq!(init.store(prepare).unwrap().0, StoreReply::Generation(1));
    assert!(init.watches.iter().any(|w| matches!(w, Watch::Entry { name, .. } if name == "motd")));
    let (loaded, fds) = init.store(StoreOp::Load { generation: Some(1) }).unwrap();
    assert_eq!(loaded, StoreReply::Loaded { generation: 1 });
    assert_eq!(map(&fds[0]).digest(), map(&fd).digest());

    // Another worker, after this one has gone: the store tells what is current.
    drop(init);
    let mut init = Init::start(dir.path());
    let (opened, fds) = init.store(StoreOp::Open).unwrap();
    assert_eq!(opened, StoreReply::Opened { current: Some(1), interrupted: None, left: false });
    assert_eq!(map(&fds[0]).find(Kind::File, "/etc/motd"), map(&fd).find(Kind::File, "/etc/motd"));
    init.manifest(4, 1, &fd);
    let results = init.batch(0, Intent::Return, all(4, &map(&fd), Action::Restore)).unwrap();
    assert!(results.iter().all(|r| r.outcome == Outcome::Removed), "{results:?}");
    assert!(fs::read_dir(dir.path().join("root/etc")).unwrap().next().is_none());
}

#[test]
fn a_damaged_manifest_leaves_the_generation_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::start(dir.path());
    init.store(StoreOp::Open).unwrap();
    let mut fds = Vec::new();
    for name in 1..=2 {
        let path = state(dir.path(), &format!("[file.\"/etc/motd\"]\ncontent = \"{name}\"\n"));
        let fd = init.compile(&path, 0).1.unwrap();
        init.manifest(name, 0, &fd);
        let generation = u64::from(name);
        let prepare = StoreOp::Prepare { manifest: ManifestRef(name), staged: 77, note: String::new() };
        assert_eq!(init.store(prepare).unwrap().0, StoreReply::Generation(generation));
        init.store(StoreOp::Switching { generation }).unwrap();
        init.store(StoreOp::Commit { generation }).unwrap();
        fds.push(fd);
    }
    drop(init);
    let manifest = |n: u32| dir.path().join(format!("store/generations/{n}/manifest"));
    let mut bytes = fs::read(manifest(2)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(manifest(2), bytes).unwrap();

    let mut init = Init::start(dir.path());
    let (opened, found) = init.store(StoreOp::Open).unwrap();
    assert_eq!(opened, StoreReply::Opened { current: Some(1), interrupted: None, left: false });
    assert_eq!(map(&found[0]).digest(), map(&fds[0]).digest());
    assert!(init.log.iter().any(|l| l.contains("generation 2")), "{:?}", init.log);
    // The same state again is a new generation, not the damaged one.
    init.manifest(2, 0, &fds[1]);
    let prepare = StoreOp::Prepare { manifest: ManifestRef(2), staged: 0, note: String::new() };
    assert_eq!(init.store(prepare).unwrap().0, StoreReply::Generation(3));
    drop(init);
    for n in [1, 3] {
        fs::write(manifest(n), "damaged").unwrap();
    }
    assert!(Init::start(dir.path()).store(StoreOp::Open).unwrap_err().contains("manifest"));
}

#[test]
fn a_worker_without_work_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::start(dir.path());
    assert!(init.hear().is_none());
    assert!(init.child.wait().unwrap().success());
}

#[test]
fn mistakes_come_back_as_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::start(dir.path());
    let path = state(dir.path(), "[file.\"/etc/x\"]\ncontnt = \"a\"\n");
    let (result, fd) = init.compile(&path, 0);
    assert!(result.unwrap_err().contains("contnt"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut fs::File::from(fd.unwrap()), &mut text).unwrap();
    assert!(text.starts_with('[') && text.contains("unknown-key"), "{text}");
}

#[test]
fn sources_are_opened_with_the_rights_of_the_caller() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut init = Init::start(dir.path());
    let secret = dir.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let path = state(dir.path(), "[file.\"/etc/x\"]\nsource = \"secret\"\n");
    assert_eq!(init.compile(&path, 0).0, Ok(1));
    let error = init.compile(&path, 1234).0.unwrap_err();
    assert!(error.contains("ermission denied"), "{error}");
    assert!(init.log.iter().any(|l| l.contains("secret")));
}

#[test]
fn no_source_lies_in_what_the_kernel_makes_up() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/version", dir.path().join("link")).unwrap();
    let mut init = Init::start(dir.path());
    for source in ["/proc/version", "/sys/kernel/uevent_seqnum", "/dev/null", "link"] {
        let path = state(dir.path(), &format!("[file.\"/etc/x\"]\nsource = \"{source}\"\n"));
        let error = init.compile(&path, 0).0.unwrap_err();
        assert!(error.contains("where no sources are"), "{source}: {error}");
    }
}

#[test]
fn a_hostile_file_costs_one_compile() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(dir.path().join("state.toml")).unwrap();
    let line = b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n";
    for _ in 0..(50 << 20) / line.len() {
        file.write_all(line).unwrap();
    }
    // Not before: a worker stays about a second without work.
    let mut init = Init::start(dir.path());
    let (result, _) = init.compile(&dir.path().join("state.toml"), 0);
    assert!(result.is_err());
    assert_eq!(init.compile(&state(dir.path(), ""), 0).0, Ok(0));
}

#[test]
fn a_memfd_is_compiled_below_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::start(dir.path());
    fs::write(dir.path().join("part"), "text").unwrap();
    let memfd = sealed("state", b"[file.\"/etc/x\"]\nsource = \"part\"\n").unwrap();
    let source = Source::Memfd { directory: dir.path().to_string_lossy().into_owned() };
    let request =
        Request::Compile { token: 3, source, layer: main_layer(), onto: None, uid: 0, gid: 0, pick: None };
    init.channel.send(&request, &[memfd.as_raw_fd()]).unwrap();
    match init.answer() {
        Some((Reply::Compiled { result, .. }, _)) => assert_eq!(result, Ok(1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_before_the_store_is_open_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let decl = common::Decl::new().file("/etc/early", "made at boot");
    let (mut init, manifest, results) = Init::converged(dir.path(), &decl);
    assert_eq!(results[0].outcome, Outcome::Changed);
    assert!(!dir.path().join("store").exists());
    init.store(StoreOp::Open).unwrap();
    let results = init.batch(0, Intent::Apply, all(1, &manifest, Action::Remove)).unwrap();
    assert_eq!(results[0].outcome, Outcome::Removed);
    assert!(!dir.path().join("root/etc/early").exists());
}

#[test]
fn wherever_the_worker_dies_the_next_one_finishes_or_undoes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let one =
        common::Decl::new().file("/etc/a", "old a").file("/etc/b", "old b").directory("/etc/d", Some(0o700));
    let two = common::Decl::new()
        .file("/etc/a", "new a")
        .file_mode("/etc/b", "new b", 0o600)
        .file("/etc/d2/c", "new c")
        .symlink("/etc/l", "a")
        .directory("/etc/d", Some(0o755));
    let (m1, m2) = (one.builder.finish(), two.builder.finish());
    let fd1 = OwnedFd::from(sealed("m", m1.as_bytes()).unwrap());
    let fd2 = OwnedFd::from(sealed("m", m2.as_bytes()).unwrap());
    let strip =
        |v: Vec<String>| v.into_iter().map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    let mut init = Init::start(dir.path());
    for (name, bytes) in one.contents.iter().chain(&two.contents) {
        fs::write(dir.path().join("boot").join(name), bytes).unwrap();
    }
    init.store(StoreOp::Open).unwrap();
    init.manifest(1, 0, &fd1);
    let prepare = |name| StoreOp::Prepare { manifest: ManifestRef(name), staged: 0, note: String::new() };
    assert_eq!(init.store(prepare(1)).unwrap().0, StoreReply::Generation(1));
    init.store(StoreOp::Switching { generation: 1 }).unwrap();
    init.batch(1, Intent::Apply, all(1, &m1, Action::Converge)).unwrap();
    init.store(StoreOp::Commit { generation: 1 }).unwrap();
    init.manifest(2, 0, &fd2);
    let StoreReply::Generation(n2) = init.store(prepare(2)).unwrap().0 else { panic!() };
    let old = strip(common::fingerprint(&root));
    drop(init);

    let mut deaths = 0;
    let mut new = None;
    for at in 1..200 {
        let mut init = Init::start_dying(dir.path(), at);
        init.manifest(2, n2, &fd2);
        init.store(StoreOp::Switching { generation: n2 }).unwrap();
        let done = init.batch(n2, Intent::Apply, all(2, &m2, Action::Converge));
        drop(init);
        if done.is_some() {
            new = Some(strip(common::fingerprint(&root)));
        } else {
            deaths += 1;
        }
        // The next boot: what is not committed is undone by converging the current generation.
        let mut init = Init::start(dir.path());
        let (opened, _) = init.store(StoreOp::Open).unwrap();
        assert_eq!(
            opened,
            StoreReply::Opened { current: Some(1), interrupted: Some(n2), left: false },
            "death {at}"
        );
        init.manifest(1, 1, &fd1);
        init.manifest(2, n2, &fd2);
        let mut steps: Vec<Step> = all(2, &m2, Action::Restore)
            .into_iter()
            .filter(|s| m1.find(m2.kind(s.unit), m2.name(s.unit)).is_none())
            .collect();
        steps.extend(all(1, &m1, Action::Converge));
        let results = init.batch(1, Intent::Return, steps).unwrap();
        assert!(
            results.iter().all(|r| !matches!(r.outcome, Outcome::NotKept | Outcome::Blocked)),
            "death {at}: {results:?}"
        );
        init.store(StoreOp::Returned { generation: n2, to: 1 }).unwrap();
        assert_eq!(strip(common::fingerprint(&root)), old, "death {at}");
        drop(init);
        if done.is_some() {
            break;
        }
    }
    assert!(deaths > 10, "only {deaths} places to die at");
    assert_ne!(new.unwrap(), old);
}

#[test]
fn an_edit_is_an_event_of_a_watched_name() {
    let dir = tempfile::tempdir().unwrap();
    let decl = common::Decl::new().file("/etc/deep/er/f", "x");
    let (init, ..) = Init::converged(dir.path(), &decl);
    let wd = init
        .watches
        .iter()
        .find_map(|w| match w {
            Watch::Entry { wd, name, .. } if name == "f" => Some(*wd),
            _ => None,
        })
        .unwrap();
    let listener = cm_core::sys::inotify(init.inotify.try_clone().unwrap());
    while listener.read_events().is_ok() {}
    fs::write(dir.path().join("root/etc/deep/er/f"), "y").unwrap();
    let events = listener.read_events().unwrap();
    assert!(events.iter().all(|e| e.wd.as_raw() == wd && e.name.as_deref() == Some("f".as_ref())));
    fs::rename(dir.path().join("root/etc/deep"), dir.path().join("root/etc/gone")).unwrap();
    assert!(listener.read_events().unwrap().iter().any(|e| e.name.as_deref() == Some("deep".as_ref())));
}

#[test]
fn a_worker_sweeps_what_a_killed_one_left_in_the_store() {
    use std::os::unix::fs::MetadataExt;
    let here = tempfile::tempdir().unwrap();
    let mut first = Init::start(here.path());
    first.store(StoreOp::Open).unwrap();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let staging = here.path().join("store/staging");
    let (dead, alive) = (first.child.id(), std::process::id());
    for process in [dead, alive] {
        fs::write(staging.join(format!("{namespace}.{process}.s1")), "half of it").unwrap();
    }
    let mut second = Init::start(here.path());
    second.store(StoreOp::Load { generation: None }).unwrap_err();
    let left: Vec<_> = fs::read_dir(&staging).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{namespace}.{alive}.s1").as_str()]);
}

#[test]
fn what_is_written_beside_and_above_what_is_managed_is_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let decl = common::Decl::new().directory("/srv/log/app", Some(0o755)).file("/srv/conf/f", "x");
    let (init, ..) = Init::converged(dir.path(), &decl);
    let srv = dir.path().join("root/srv");
    fs::write(srv.join("log/syslog"), "").unwrap();
    fs::write(srv.join("messages"), "").unwrap();
    let listener = cm_core::sys::inotify(init.inotify.try_clone().unwrap());
    let heard = || -> Vec<String> {
        let events = std::iter::from_fn(|| listener.read_events().ok()).flatten();
        events.filter_map(|e| Some(e.name?.to_string_lossy().into_owned())).collect()
    };
    heard();
    for other in ["log/syslog", "messages"] {
        fs::OpenOptions::new().append(true).open(srv.join(other)).unwrap().write_all(b"line\n").unwrap();
    }
    assert_eq!(heard(), Vec::<String>::new());
    // What is managed is heard of as ever, and so is who takes its place.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(srv.join("log/app"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(heard(), ["app"]);
    fs::OpenOptions::new().append(true).open(srv.join("conf/f")).unwrap().write_all(b"y").unwrap();
    assert_eq!(heard(), ["f", "f"]);
    fs::rename(srv.join("log"), srv.join("old")).unwrap();
    assert_eq!(heard(), ["log", "old"]);
}
