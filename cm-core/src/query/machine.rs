//! Looking at the machine: what every unit is like now, without changing anything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use units::kind::user::User;
use units::kind::{Content, Spec};
use units::{Kind, Manifest, UnitId};

use super::difference::Body;
use super::kernel::Kernel;
use super::live;
use super::wire::Fault;
use super::{Options, live::Units};
use crate::engine;
use crate::mountinfo::Tree;
use crate::plan::{self, Found, Observation};
use crate::proto::Outcome;
use crate::resource::op::Trouble;
use crate::resource::world::logs;
use crate::resource::world::{Setup, Spared, World};
use crate::resource::{self, Context, directory, exec, group, retire, thing, tree};
use crate::store::disk::packed::Stored;
use crate::store::index::PARENT;
use crate::store::pack::Packs;
use crate::store::{Store, StoreError, hex, place};

/// The machine, the store, and what PID 1 says.
#[derive(Debug)]
pub struct Machine {
    /// Paths, accounts and the store.
    pub world: World,
    live: Option<Units>,
    staged: Option<PathBuf>,
    packs: RefCell<Packs>,
    boot_manifest: PathBuf,
    /// Mount points with their file system types.
    mounts: BTreeMap<String, String>,
    kernel: Option<Kernel>,
}

/// What a look at a declared unit found, for plans and for comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// What was found.
    pub seen: Observation,
    /// What differs but is only reported.
    pub reported: Vec<String>,
}

fn unavailable(e: &dyn std::fmt::Display) -> Fault {
    Fault::Unavailable(e.to_string())
}

impl Machine {
    /// Opens what there is. `live` is what PID 1 said; `staged` is where a compilation left its contents.
    ///
    /// # Errors
    /// When the root or the store cannot be read. That there is no store yet is no error.
    pub fn new(options: &Options, live: Option<Units>, staged: Option<&Path>) -> Result<Machine, Fault> {
        let setup = Setup {
            root: options.root.clone(),
            proc_sys: options.proc_sys.clone(),
            boot_contents: Some(options.boot.join("blobs")),
            run: options.run.join("worker"),
            own: vec![options.store.clone(), options.boot.clone(), logs()],
        };
        let mut world =
            World::new(setup).map_err(|e| Fault::Failed(format!("cannot open the root directory: {e}")))?;
        place::is_open(&options.run.join("worker"), &options.store).map_err(|e| unavailable(&e))?;
        world.store = match Store::look(&options.store) {
            Ok(store) => Some(store),
            Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(unavailable(&e)),
        };
        Ok(Machine {
            world,
            live,
            staged: staged.map(Path::to_owned),
            packs: RefCell::new(Packs::of(staged)),
            boot_manifest: options.boot.join("manifest"),
            mounts: mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            kernel: None,
        })
    }

    /// The store.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when there is none.
    pub fn store(&self) -> Result<&Store, Fault> {
        self.world.store.as_ref().ok_or_else(|| Fault::Unavailable("there is no store yet".to_owned()))
    }

    /// The current generation: that of the store, else the one that the machine booted, else an empty one.
    ///
    /// # Errors
    /// When its manifest cannot be read.
    pub fn current(&self) -> Result<(u64, Manifest), Fault> {
        match self.world.store.as_ref().and_then(|s| s.index().current()) {
            Some(number) => Ok((number, self.generation(number)?)),
            None => Ok((0, self.generation(0)?)),
        }
    }

    /// A generation; 0 is the one that the machine booted from its image, which may be empty.
    ///
    /// # Errors
    /// [`Fault::NoSuchGeneration`], or [`Fault::Unavailable`] when its manifest cannot be read.
    pub fn generation(&self, number: u64) -> Result<Manifest, Fault> {
        if number > 0 {
            return match self.store()?.load(Some(number)) {
                Ok((_, manifest)) => Ok(manifest),
                Err(e @ StoreError::NoGeneration(_)) => Err(Fault::NoSuchGeneration(e.to_string())),
                Err(e) => Err(unavailable(&e)),
            };
        }
        let path = &self.boot_manifest;
        let damaged =
            |e: &dyn std::fmt::Display| Fault::Unavailable(format!("cannot read {}: {e}", path.display()));
        match fs::read(path) {
            Ok(bytes) => Manifest::from_vec(bytes).map_err(|e| damaged(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::empty()),
            Err(e) => Err(damaged(&e)),
        }
    }

    /// Says which manifests the following looks are about.
    pub fn begin(&mut self, manifests: &[&Manifest]) {
        let mounts = |m: &&Manifest| -> Vec<String> {
            m.ids().filter(|id| m.kind(*id) == Kind::Mount).map(|id| m.name(id).to_owned()).collect()
        };
        let mut managed: Vec<String> = manifests.iter().flat_map(mounts).collect();
        managed.sort_unstable();
        managed.dedup();
        self.world.begin(managed);
        let held = self.live.iter().flatten().filter(|(_, s)| s.held().is_some());
        self.world.spared = Spared::Only(held.map(|(unit, _)| unit.clone()).collect());
    }

    /// Whether PID 1 answered.
    pub const fn knows_processes(&self) -> bool {
        self.live.is_some()
    }

    /// Looks at a declared unit. `correct`: differences are drift, not those of a new declaration.
    pub fn look(&mut self, manifest: &Manifest, id: UnitId, correct: bool) -> Look {
        let unit = manifest.address(id).to_string();
        let status = self.live.as_ref().and_then(|l| l.get(&unit));
        let mut look = Look::default();
        look.seen.held = status.and_then(live::Status::held);
        look.seen.stopped = status.is_some_and(live::Status::stopped);
        look.seen.started = status.is_some_and(|s| s.started);
        look.seen.stale = status.is_some_and(|s| s.stale);
        look.seen.ready = self.live.as_ref().map(|_| status.is_some_and(|s| s.ready));
        let Some(spec) = manifest.spec(id) else {
            look.seen.found = Found::Trouble("its declaration cannot be read".to_owned());
            return look;
        };
        look.seen.found = match &spec {
            Spec::Service(_) => self.service(&unit),
            Spec::Target(_) => Found::Right,
            Spec::Mount(mount) => {
                let place = self.point(&mount.path);
                match self.mounts.get(&place) {
                    // One that was in use when it had to be mounted anew: PID 1 does not try again by itself.
                    Some(_) if status.is_some_and(|s| s.state == "failed") => {
                        Found::Trouble(status.map(|s| s.cause.clone()).unwrap_or_default())
                    }
                    None => Found::NotUp("not mounted".to_owned()),
                    Some(is) if *is == mount.fstype => Found::Right,
                    Some(is) => Found::Wrong(vec![format!("a file system of type {is} is mounted there")]),
                }
            }
            Spec::Module(module) if self.has_module(&module.name) => Found::Right,
            Spec::Module(_) => Found::Missing,
            Spec::Exec(spec) => {
                let inputs = engine::exec_inputs(manifest, id);
                match exec::guard(&mut self.world, &unit, spec, manifest.unit_digest(id), inputs) {
                    Ok(Some(_)) => Found::Right,
                    Ok(None) if spec.unless.is_some() => {
                        Found::Due("it runs unless its guard `unless` holds".to_owned())
                    }
                    Ok(None) => Found::Due("no guard keeps it from running".to_owned()),
                    Err(e) => trouble(e),
                }
            }
            spec => {
                let owner = thing(spec).unwrap_or_else(|| unit.clone());
                let owned = self.world.store.as_ref().and_then(|s| s.index().own.get(&owner));
                let owned = owned.is_some_and(|o| o.unit == unit);
                let users = directory::users(manifest, spec);
                let context = Context { unit: unit.clone(), correct, owned, users, ..Context::default() };
                match resource::check(&mut self.world, spec, &context) {
                    Ok(finding) => {
                        look.reported = finding.reported;
                        match finding.wrong {
                            wrong if wrong.is_empty() => Found::Right,
                            wrong if wrong.iter().any(|w| w == "missing") => Found::Missing,
                            wrong => Found::Wrong(wrong),
                        }
                    }
                    Err(e) => trouble(e),
                }
            }
        };
        look
    }

    /// Where a mount is listed, if it stands: its path may lead there through links.
    fn point(&self, path: &str) -> String {
        let outside = |path: &str| self.world.outside(path).to_string_lossy().into_owned();
        let place = self.world.places.point(path, |place| self.mounts.contains_key(&outside(place)));
        outside(place.as_deref().unwrap_or(path))
    }

    fn service(&self, unit: &str) -> Found {
        let Some(live) = &self.live else { return Found::Unknown };
        Found::of_service(live.get(unit).map(|s| (s.state.as_str(), s.cause.as_str())))
    }

    /// Looks at a unit that is no longer declared: of `manifest`, and not of `desired`.
    pub fn look_at_leaving(&mut self, manifest: &Manifest, desired: &Manifest, id: UnitId) -> Observation {
        let unit = manifest.address(id).to_string();
        let Some(spec) = manifest.spec(id) else { return Observation::default() };
        let found = match &spec {
            Spec::Service(_) => self.service(&unit),
            Spec::Mount(mount) => {
                let place = self.point(&mount.path);
                let known = self.live.as_ref().is_none_or(|l| l.get(&unit).is_some_and(|s| s.ready));
                match self.mounts.contains_key(&place) {
                    false => Found::Missing,
                    true if known => Found::Right,
                    true => Found::Left(plan::NOT_OURS.to_owned()),
                }
            }
            Spec::Exec(_) | Spec::Module(_) | Spec::Target(_) => Found::Unknown,
            spec if self.is_gone(spec) => Found::Missing,
            spec => match retire::remove(&mut self.world, spec, &unit, manifest.flags(id)) {
                Ok(leaving) if leaving.outcome == Outcome::Left => Found::Left(leaving.detail),
                Ok(leaving) => match (self.stays_for(manifest, desired, spec), spec) {
                    (Some(user), _) => Found::Left(group::stays(&user)),
                    (None, Spec::Directory(d)) if self.holds(manifest, desired, &d.path) => {
                        Found::Left(tree::NOT_EMPTY.to_owned())
                    }
                    (None, _) => Found::Leaves(leaving.detail),
                },
                Err(e) => trouble(e),
            },
        };
        let held = self.live.as_ref().and_then(|l| l.get(&unit)).and_then(live::Status::held);
        Observation { found, held, ..Observation::default() }
    }

    /// Who has a group as his primary group, and neither goes with it nor gets another one.
    fn stays_for(&mut self, running: &Manifest, desired: &Manifest, spec: &Spec) -> Option<String> {
        let Spec::Group(group) = spec else { return None };
        let gid = self.world.accounts.gid(&group.name);
        let users: Vec<String> =
            group::primary_of(&self.world.accounts, &group.name).map(str::to_owned).collect();
        users.into_iter().find(|user| match desired.find(Kind::User, user).and_then(|id| desired.spec(id)) {
            Some(Spec::User(User { group: Some(other), .. })) => self.world.accounts.gid(&other) == gid,
            Some(_) => true,
            None => {
                let Some(id) = running.find(Kind::User, user) else { return true };
                let purge = matches!(running.spec(id), Some(Spec::User(User { purge: true, .. })));
                let seen = self.look_at_leaving(running, desired, id);
                !(purge && seen.held.is_none() && matches!(seen.found, Found::Leaves(_)))
            }
        })
    }

    /// Whether something is in a directory that does not go with it.
    fn holds(&mut self, running: &Manifest, desired: &Manifest, path: &str) -> bool {
        let Ok(dir) = self.world.places.directory(path) else { return false };
        let names = tree::entries(&*dir, path).unwrap_or_default();
        names.into_iter().any(|name| {
            let entry = format!("{path}/{name}");
            let mut units = [Kind::File, Kind::Directory, Kind::Symlink].into_iter();
            let leaving =
                units.find_map(|k| running.find(k, &entry).filter(|_| desired.find(k, &entry).is_none()));
            match leaving {
                Some(id) => !matches!(self.look_at_leaving(running, desired, id).found, Found::Leaves(_)),
                None => {
                    let owner = self.world.store.as_ref().and_then(|s| s.index().own.get(&entry));
                    // What was made on the way to something goes when that does.
                    owner.is_none_or(|o| o.unit != PARENT) || self.holds(running, desired, &entry)
                }
            }
        })
    }

    fn is_gone(&mut self, spec: &Spec) -> bool {
        let path = match spec {
            Spec::File(s) => &s.path,
            Spec::Directory(s) => &s.path,
            Spec::Symlink(s) => &s.path,
            Spec::User(s) => return self.world.accounts.passwd.line(&s.name).is_none(),
            Spec::Group(s) => return self.world.accounts.group.line(&s.name).is_none(),
            _ => return false,
        };
        match self.world.places.entry(path).map(|p| tree::find(&p)) {
            Ok(Ok(found)) => matches!(found, tree::Found::Nothing),
            Ok(Err(_)) => false,
            Err(e) => matches!(e, resource::place::PlaceError::Missing(_)),
        }
    }

    /// Whether anything is at a path; where that cannot be told, it is.
    pub fn is_there(&mut self, path: &str) -> bool {
        match self.world.places.entry(path) {
            Ok(place) => !matches!(place.stat(), Ok(None)),
            Err(e) => !matches!(e, resource::place::PlaceError::Missing(_)),
        }
    }

    /// What a file on the machine holds.
    pub fn theirs(&mut self, path: &str) -> Body {
        match self.world.places.entry(path).map(|p| tree::find(&p)) {
            Ok(Ok(tree::Found::File(mut file, _))) => Body::read(&mut file),
            Ok(Err(e)) => Body::Unreadable(e.to_string()),
            Ok(Ok(_)) | Err(_) => Body::Absent,
        }
    }

    /// What a content of a manifest holds: staged, in the store, or beside `init`.
    pub fn content(&self, content: &Content) -> Body {
        if let Some(mut bytes) = self.packs.borrow_mut().content(&content.digest) {
            return Body::read(&mut bytes);
        }
        let staged = self
            .staged
            .as_ref()
            .and_then(|dir| File::open(dir.join(hex(&content.digest))).ok().map(Stored::File));
        match staged.or_else(|| self.world.content(&content.digest)) {
            Some(mut file) => Body::read(&mut file),
            None => {
                let lack = self.world.store.as_ref().and_then(|s| s.lack(&content.digest));
                Body::Unreadable(format!("the content {} in the store", lack.unwrap_or("is missing")))
            }
        }
    }

    /// What the running kernel has.
    pub fn kernel(&mut self) -> &Kernel {
        self.kernel.get_or_insert_with(|| Kernel::read(&self.world.outside("/")))
    }

    /// Whether a kernel module is there, loaded or built in.
    fn has_module(&mut self, name: &str) -> bool {
        Path::new("/sys/module").join(name).is_dir() || self.kernel().is_built_in(name)
    }
}

fn trouble(trouble: Trouble) -> Found {
    Found::Trouble(trouble.to_string())
}

/// Mount points and types in the text of /proc/self/mountinfo, without what another mount hides.
fn mounts(table: &str) -> BTreeMap<String, String> {
    let fstype = |line: &str| Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned());
    let seen = Tree::read(table).seen();
    seen.into_iter().map(|(point, line)| (point, fstype(line).unwrap_or_default())).collect()
}
