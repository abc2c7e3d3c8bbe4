//! A batch: check everything, then have what is wrong made right by a process that can do nothing else.
//!
//! ```text
//! coordinator                                   confined child (`commit`)
//! ───────────                                   ─────────────────────────
//! check every step        (reads only)
//! answer what is right
//! open staging areas
//! fork ───────────────────────────────────────► Landlock, seccomp, capabilities
//!                                               stage contents · save what was there · journal · barrier
//!                                               rename, chmod, mkdir … in the order of the steps · barrier
//! read the report ◄──────────────────────────── check again
//! take in what the journal says · answer
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use units::kind::Spec;
use units::kind::line::Line;
use units::manifest::flags;
use units::{EdgeKind, Kind, Manifest};

use super::back::{look_back, own_again, take_back};
use super::commit::{self, Report};
use super::confine::{self, Domain};
use super::reach;
use crate::proto::{Action, Intent, ManifestRef, Outcome, Step, UnitResult};
use crate::resource::op::{Finding, Op, OwnChange, Put, Trouble, What};
use crate::resource::retire::{self, Leaving};
use crate::resource::staging::Areas;
use crate::resource::world::{Pulse, Spared, WAITS, World};
use crate::resource::{self, Context, directory, exec, thing};
use crate::store::index::PARENT;
use crate::store::{Own, Record, Store};
use crate::sys::{self, Forked, fork};

/// Manifests by the name PID 1 gave them, each with its generation.
pub type Manifests = BTreeMap<ManifestRef, (u64, Manifest)>;

/// Steps that belong together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The generation that is being made or returned to, or the current one.
    pub generation: u64,
    /// Why.
    pub intent: Intent,
    /// The steps, each after what it depends on.
    pub steps: Vec<Step>,
}

/// A step that has something to do.
#[derive(Debug)]
pub struct Work {
    /// The step.
    pub step: Step,
    /// The unit's address.
    pub unit: String,
    /// Its declaration.
    pub spec: Spec,
    /// Under which circumstances it was checked, to check it again.
    pub context: Context,
    /// What was wrong.
    pub detail: String,
    /// What is done.
    pub ops: Vec<Op>,
    /// What comes of it, if that works.
    pub outcome: Outcome,
    /// Positions of the steps of this batch that it depends on.
    pub needs: Vec<usize>,
}

/// A step after the check.
#[derive(Debug)]
pub enum Slot {
    /// Nothing is left to do.
    Done(UnitResult),
    /// Something is.
    Todo(Box<Work>),
}

/// Why a batch cannot go on at all. The worker ends; PID 1 tries once more with another.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// No child, or no memory for its report.
    #[error("cannot start the committer: {0}")]
    Start(nix::Error),
    /// The child died.
    #[error("the committer ended with {0:?}")]
    Died(WaitStatus),
    /// The child's report cannot be read.
    #[error("cannot read the committer's report: {0}")]
    Report(String),
    /// The store cannot be locked or read.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// How the committer is kept in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// As a process of its own, which can change nothing else.
    Full,
    /// Inside this process: for tests, and for a tree that is not the running machine's.
    None,
}

/// What the check of a batch found.
#[derive(Debug, Default)]
pub struct Plan {
    /// A slot a step, in their order.
    pub slots: Vec<Slot>,
    /// Things that were found right and have no owner yet.
    pub adopt: Vec<Record>,
    /// What leaving units take away, although another one may want something there.
    pub cleared: BTreeSet<String>,
    /// Lines that leaving units take out: by path and line, how they owned them, and whether another unit wants the line.
    lines: BTreeMap<(String, String), (Own, bool)>,
}

fn result(step: &Step, outcome: Outcome, detail: impl Into<String>) -> UnitResult {
    UnitResult { manifest: step.manifest, unit: step.unit, outcome, detail: detail.into() }
}

pub(super) fn trouble(step: &Step, trouble: &Trouble) -> UnitResult {
    let outcome = match trouble {
        Trouble::MountAbsent(_) => Outcome::MountAbsent,
        Trouble::NotKept(_) => Outcome::NotKept,
    };
    result(step, outcome, trouble.to_string())
}

/// Paths of the mounts that the manifests declare.
pub fn managed_mounts(manifests: &Manifests) -> Vec<String> {
    let mut out: Vec<String> = manifests
        .values()
        .flat_map(|(_, m)| m.ids().filter(|id| m.kind(*id) == Kind::Mount).map(|id| m.name(id).to_owned()))
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// Checks every step of a batch. Nothing is changed, beside what an exec unit has to remember.
pub fn check(world: &mut World, manifests: &Manifests, batch: &Batch) -> Plan {
    world.begin(managed_mounts(manifests));
    look_back(world, batch);
    let leaving = |s: &&Step| matches!(s.action, Action::Remove | Action::Restore);
    let address = |s: &Step| manifests.get(&s.manifest).map(|(_, m)| m.address(s.unit).to_string());
    world.spared = Spared::AllBut(batch.steps.iter().filter(leaving).filter_map(address).collect());
    let mut position: HashMap<(ManifestRef, u32), usize> = HashMap::new();
    let mut plan = Plan { slots: Vec::with_capacity(batch.steps.len()), ..Plan::default() };
    for (at, step) in batch.steps.iter().enumerate() {
        world.alive();
        world.at(Some(step));
        let slot = check_step(world, manifests, batch, step, &position, &mut plan);
        plan.slots.push(slot);
        position.insert((step.manifest, step.unit.0), at);
    }
    world.at(None);
    spare_wanted(&mut plan);
    plan
}

fn check_step(
    world: &mut World,
    manifests: &Manifests,
    batch: &Batch,
    step: &Step,
    position: &HashMap<(ManifestRef, u32), usize>,
    plan: &mut Plan,
) -> Slot {
    let Some((_, manifest)) = manifests.get(&step.manifest) else {
        return Slot::Done(result(step, Outcome::NotKept, "its manifest is not known to the worker"));
    };
    let Some(spec) = manifest.spec(step.unit) else {
        return Slot::Done(result(step, Outcome::NotKept, "its declaration cannot be read"));
    };
    let unit = manifest.address(step.unit).to_string();
    let mut work = Work {
        step: *step,
        context: Context {
            correct: batch.intent == Intent::Correct,
            users: directory::users(manifest, &spec),
            ..Context::default()
        },
        unit,
        spec,
        detail: String::new(),
        ops: Vec::new(),
        outcome: Outcome::Changed,
        needs: Vec::new(),
    };
    let done = match step.action {
        Action::Converge if batch.intent == Intent::Correct && reported(manifest, step) => {
            check_unit(world, &mut work).map(|f| Some(report_only(step, &f)))
        }
        Action::Converge
            if batch.intent == Intent::Return && others_may_write(world, batch, manifest, &work) =>
        {
            work.step.action = Action::Restore;
            retire::restore(world, &work.unit, batch.generation).map(|leaving| {
                let done = leave(&mut work, leaving);
                work.detail = "as it was before".to_owned();
                done
            })
        }
        Action::Converge => converge(world, batch, &mut work, plan),
        Action::Check | Action::Rewatch => check_unit(world, &mut work).map(|f| Some(report_only(step, &f))),
        Action::Remove => {
            let flags = manifest.flags(step.unit);
            retire::remove(world, &work.spec, &work.unit, flags).map(|l| leave(&mut work, l))
        }
        Action::Restore => {
            // To a generation that is not behind us it is a way forward, whatever it is called.
            let back = world.store.as_ref().is_none_or(|s| s.index().is_back(batch.generation));
            let leaving = if back {
                retire::restore(world, &work.unit, batch.generation)
            } else {
                retire::remove(world, &work.spec, &work.unit, manifest.flags(step.unit))
            };
            leaving.map(|l| leave(&mut work, l))
        }
        Action::Guard(inputs) => guard(world, manifest, &work, inputs).map(Some),
        Action::Ran(inputs) => ran(world, manifest, &work, inputs).map(Some),
    };
    match done {
        Err(e) => Slot::Done(trouble(step, &e)),
        Ok(Some(result)) => Slot::Done(result),
        Ok(None) => {
            if matches!(step.action, Action::Remove | Action::Restore) {
                let gone = work.ops.iter().filter(|o| matches!(o.what, What::Put { put: Put::Absent, .. }));
                plan.cleared.extend(gone.map(|o| o.thing.clone()));
                let owner = own(world, &work).cloned();
                plan.lines.extend(work.ops.iter().filter_map(|op| match &op.what {
                    What::Line(line) => Some((key(line), (owner.clone()?, false))),
                    _ => None,
                }));
            } else {
                work.needs = manifest
                    .deps(step.unit)
                    .filter(|e| matches!(e.kind, EdgeKind::Requires | EdgeKind::Binds))
                    .filter_map(|e| position.get(&(step.manifest, e.unit.0)).copied())
                    .collect();
            }
            Slot::Todo(Box::new(work))
        }
    }
}

/// Whether drift of this unit is reported and left.
fn reported(manifest: &Manifest, step: &Step) -> bool {
    manifest.flags(step.unit) & flags::REPORT != 0
}

/// Whether what somebody else wrote there was right before the apply that a return takes back: then it is put back, and not
/// what is declared, which would lose it.
fn others_may_write(world: &World, batch: &Batch, manifest: &Manifest, work: &Work) -> bool {
    let own = thing(&work.spec);
    let of = |s: &Store| s.index().undo_to(&work.unit, batch.generation, &world.first_touches);
    manifest.flags(work.step.unit) & (flags::REPORT | flags::SEED) != 0
        && (world.store.as_ref().map(of).unwrap_or_default().iter())
            .any(|undo| Some(&undo.thing) == own.as_ref() && retire::was_there(undo))
}

fn check_unit(world: &mut World, work: &mut Work) -> Result<Finding, Trouble> {
    work.context.unit.clone_from(&work.unit);
    work.context.owned = own(world, work).is_some_and(|o| o.unit == work.unit);
    resource::check(world, &work.spec, &work.context)
}

fn own<'a>(world: &'a World, work: &Work) -> Option<&'a Own> {
    let name = thing(&work.spec).unwrap_or_else(|| work.unit.clone());
    world.store.as_ref()?.index().own.get(&name)
}

fn report_only(step: &Step, finding: &Finding) -> UnitResult {
    let words: Vec<&str> = finding.wrong.iter().chain(&finding.reported).map(String::as_str).collect();
    if words.is_empty() {
        result(step, Outcome::Kept, "")
    } else {
        result(step, Outcome::Drifted, words.join(", "))
    }
}

fn converge(
    world: &mut World,
    batch: &Batch,
    work: &mut Work,
    plan: &mut Plan,
) -> Result<Option<UnitResult>, Trouble> {
    let mut before: Vec<Op> = Vec::new();
    let mut owned = None;
    if batch.intent == Intent::Return {
        let undo = (world.store.as_ref())
            .map(|s| s.index().undo_to(&work.unit, batch.generation, &world.first_touches));
        let undo = undo.unwrap_or_default();
        owned = own_again(world, work, &undo);
        before = take_back(world, work, undo)?;
    }
    work.context.cleared = thing(&work.spec).is_some_and(|t| plan.cleared.contains(&t));
    let finding = check_unit(world, work);
    // When it is read back, that step has had its way.
    work.context.cleared = false;
    let finding = finding?;
    if finding.wrong.is_empty() && before.is_empty() {
        if let Some(op) = owned.or_else(|| take_over(world, work)).or_else(|| take_line(work, plan)) {
            work.outcome = report_only(&work.step, &finding).outcome;
            work.ops.push(op);
            return Ok(None);
        }
        if batch.intent == Intent::Apply
            && own(world, work).is_none()
            && let Some(thing) = thing(&work.spec)
        {
            let own = Own { unit: work.unit.clone(), created: false, digest: None, fs: 0 };
            plan.adopt.push(Record::Own { thing, own });
        }
        return Ok(Some(report_only(&work.step, &finding)));
    }
    work.detail = finding.wrong.join(", ");
    if !before.is_empty() && finding.ops.is_empty() {
        work.detail = "as it was before".to_owned();
    }
    work.ops = owned.into_iter().chain(before).chain(finding.ops).collect();
    Ok(None)
}

/// A directory that was made on the way to something, or a group that came with a user, becomes the unit's that declares
/// it, so that it does not go with what it was made for.
fn take_over(world: &World, work: &Work) -> Option<Op> {
    let thing = thing(&work.spec)?;
    let own = world.store.as_ref()?.index().own.get(&thing)?;
    let lent = own.unit == PARENT || (matches!(work.spec, Spec::Group(_)) && own.unit != work.unit);
    lent.then_some(Op { thing, what: What::Nothing, own: OwnChange::Take { digest: None } })
}

fn key(line: &Line) -> (String, String) {
    (line.path.clone(), line.line.clone())
}

/// A line that is right, and that another unit is about to take out, becomes the unit's that declares it now.
fn take_line(work: &Work, plan: &mut Plan) -> Option<Op> {
    let Spec::Line(line) = &work.spec else { return None };
    let (own, wanted) = plan.lines.get_mut(&key(line)).filter(|_| line.present)?;
    *wanted = true;
    let own = Own { unit: work.unit.clone(), ..own.clone() };
    Some(Op { thing: work.unit.clone(), what: What::Nothing, own: OwnChange::Back(Some(own)) })
}

/// Directories on the way stay when a unit of the same batch wants to have them, and so do lines.
fn spare_wanted(plan: &mut Plan) {
    let works = || plan.slots.iter().filter_map(|s| if let Slot::Todo(work) = s { Some(work) } else { None });
    let wanted: HashSet<String> = works()
        .filter(|w| w.step.action == Action::Converge && matches!(w.spec, Spec::Directory(_)))
        .filter_map(|w| thing(&w.spec))
        .collect();
    for slot in &mut plan.slots {
        let Slot::Todo(work) = slot else { continue };
        let own = thing(&work.spec);
        if matches!(work.step.action, Action::Remove | Action::Restore) {
            for op in &mut work.ops {
                if let What::Line(line) = &op.what
                    && plan.lines.get(&key(line)).is_some_and(|(_, wanted)| *wanted)
                {
                    op.what = What::Nothing;
                }
            }
            let absent = |o: &Op| matches!(o.what, What::Put { put: Put::Absent, .. });
            work.ops.retain(|o| !absent(o) || own.as_ref() == Some(&o.thing) || !wanted.contains(&o.thing));
        }
    }
}

fn leave(work: &mut Work, leaving: Leaving) -> Option<UnitResult> {
    work.outcome = leaving.outcome;
    work.detail = leaving.detail;
    work.ops = leaving.ops;
    work.ops.is_empty().then(|| result(&work.step, work.outcome, work.detail.clone()))
}

fn exec_spec(work: &Work) -> Result<&units::kind::exec::Exec, Trouble> {
    match &work.spec {
        Spec::Exec(spec) => Ok(spec),
        _ => Err(Trouble::NotKept("only exec units have guards".to_owned())),
    }
}

fn guard(world: &mut World, manifest: &Manifest, work: &Work, inputs: u64) -> Result<UnitResult, Trouble> {
    let digest = manifest.unit_digest(work.step.unit);
    Ok(match exec::guard(world, &work.unit, exec_spec(work)?, digest, inputs)? {
        Some(why) => result(&work.step, Outcome::Kept, why),
        None => result(&work.step, Outcome::Drifted, "it has to run"),
    })
}

fn ran(world: &mut World, manifest: &Manifest, work: &Work, inputs: u64) -> Result<UnitResult, Trouble> {
    let digest = manifest.unit_digest(work.step.unit);
    if let Some(record) = exec::ran(world, &work.unit, exec_spec(work)?, digest, inputs)?
        && let Some(store) = &mut world.store
    {
        store.record(&[record])?;
    }
    Ok(result(&work.step, Outcome::Kept, ""))
}

/// Carries a batch out and hands every result to `answer`: those of units that were right at once, the others when
/// what was changed is durable and read back.
///
/// # Errors
/// When the batch cannot go on at all; steps that fail are results.
pub fn run(
    world: &mut World,
    manifests: &Manifests,
    batch: &Batch,
    confinement: Confinement,
    answer: &mut dyn FnMut(UnitResult),
) -> Result<(), BatchError> {
    if let Some(store) = &mut world.store {
        store.lock()?;
    }
    let outcome = run_locked(world, manifests, batch, confinement, answer);
    if let Some(store) = &mut world.store {
        store.unlock();
    }
    outcome
}

fn run_locked(
    world: &mut World,
    manifests: &Manifests,
    batch: &Batch,
    confinement: Confinement,
    answer: &mut dyn FnMut(UnitResult),
) -> Result<(), BatchError> {
    let plan = check(world, manifests, batch);
    if let Some(store) = &mut world.store
        && let Err(e) = store.record(&plan.adopt)
    {
        answer_all(plan.slots, &e.to_string(), answer);
        return Ok(());
    }
    carry_out(world, batch, plan, confinement, answer)
}

pub(super) fn carry_out(
    world: &mut World,
    batch: &Batch,
    mut plan: Plan,
    confinement: Confinement,
    answer: &mut dyn FnMut(UnitResult),
) -> Result<(), BatchError> {
    let mut areas = Areas::default();
    let works = plan.slots.iter().any(|slot| matches!(slot, Slot::Todo(_)));
    let mut domain =
        if works && confinement == Confinement::Full { Domain::confined() } else { Domain::default() };
    reach::prepare(world, &mut plan, &mut areas, &mut domain);
    let mut todo: Vec<(usize, Box<Work>)> = Vec::new();
    let mut failed: Vec<bool> = vec![false; plan.slots.len()];
    for (at, slot) in plan.slots.into_iter().enumerate() {
        match slot {
            Slot::Done(done) => {
                if let Some(f) = failed.get_mut(at) {
                    *f = matches!(done.outcome, Outcome::NotKept | Outcome::Blocked | Outcome::MountAbsent);
                }
                answer(done);
            }
            Slot::Todo(work) => todo.push((at, work)),
        }
    }
    if todo.is_empty() {
        reach::discard(world);
        areas.close();
        return Ok(());
    }
    let steps: Vec<Step> = todo.iter().map(|(_, w)| w.step).collect();
    let report = match confinement {
        Confinement::None => Ok(commit::run(world, &mut areas, batch, todo, failed)),
        Confinement::Full => in_child(world, &mut areas, batch, todo, failed, domain),
    };
    reach::discard(world);
    let report = report?;
    if let Some(store) = &mut world.store {
        store.refresh()?;
    }
    // The child has made some of it.
    world.places.forget_missing();
    world.stamps.extend(report.stamps);
    world.left.extend(report.left);
    areas.close();
    for (step, (outcome, detail)) in steps.iter().zip(report.results) {
        answer(result(step, outcome, detail));
    }
    Ok(())
}

fn answer_all(slots: Vec<Slot>, why: &str, answer: &mut dyn FnMut(UnitResult)) {
    for slot in slots {
        match slot {
            Slot::Done(done) => answer(done),
            Slot::Todo(work) => answer(result(&work.step, Outcome::NotKept, why)),
        }
    }
}

/// How long the committer may wait for a disk: it has to write what all others have written before too.
const PATIENCE: Duration = Duration::from_secs(300);

/// Passes signs of life on, until the other end is closed; gives them while a disk is waited for.
fn pass_on(world: &mut World, hears: &OwnedFd) {
    let mut buffer = [0; 64];
    let mut waits: Option<Instant> = None;
    loop {
        let is_patient = waits.is_some_and(|since| since.elapsed() < PATIENCE);
        let limit = if is_patient { PollTimeout::from(1_000_u16) } else { PollTimeout::NONE };
        let waited = poll(&mut [PollFd::new(hears.as_fd(), PollFlags::POLLIN)], limit);
        if waited == Ok(0) {
            world.alive();
            continue;
        }
        match waited.and_then(|_| nix::unistd::read(hears, &mut buffer)) {
            Ok(0) => return,
            Ok(count) => {
                let is_waiting = buffer.get(..count).is_some_and(|said| said.ends_with(&WAITS));
                waits = is_waiting.then(Instant::now);
                world.alive();
            }
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
            Err(_) => return,
        }
    }
}

fn in_child(
    world: &mut World,
    areas: &mut Areas,
    batch: &Batch,
    todo: Vec<(usize, Box<Work>)>,
    failed: Vec<bool>,
    domain: Domain,
) -> Result<Report, BatchError> {
    let mut paper = File::from(memfd_create("report", MFdFlags::MFD_CLOEXEC).map_err(BatchError::Start)?);
    let (hears, says) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(BatchError::Start)?;
    let parent = nix::unistd::getpid();
    match fork().map_err(BatchError::Start)? {
        Forked::Child => {
            // Or PID 1 would wait for a worker that it has killed: this copy has its end of the socket.
            if sys::die_with(parent).is_err() {
                sys::leave(2);
            }
            drop(hears);
            world.pulse = Pulse::Pipe(says);
            let code = match confine::committer(world, domain) {
                Ok(()) => {
                    let report = commit::run(world, areas, batch, todo, failed);
                    let bytes = postcard::to_allocvec(&report).unwrap_or_default();
                    i32::from(paper.write_all(&bytes).is_err())
                }
                Err(e) => {
                    eprintln!("cm-worker: {e}");
                    2
                }
            };
            sys::leave(code)
        }
        Forked::Parent(child) => {
            drop(says);
            pass_on(world, &hears);
            let status = loop {
                match waitpid(child, None) {
                    Ok(status) => break status,
                    Err(nix::Error::EINTR) => {}
                    Err(e) => return Err(BatchError::Start(e)),
                }
            };
            if !matches!(status, WaitStatus::Exited(_, 0)) {
                return Err(BatchError::Died(status));
            }
            let mut bytes = Vec::new();
            (paper.seek(SeekFrom::Start(0)))
                .and_then(|_| paper.read_to_end(&mut bytes))
                .map_err(|e| BatchError::Report(e.to_string()))?;
            postcard::from_bytes(&bytes).map_err(|e| BatchError::Report(e.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::world::Setup;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsRawFd;

    #[test]
    fn while_the_committer_waits_for_a_disk_the_coordinator_lives() {
        let here = tempfile::tempdir().unwrap();
        let setup = Setup { root: here.path().to_owned(), ..Setup::default() };
        let mut world = World::new(setup).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        world.pulse = Pulse::Packet(ours.as_raw_fd(), b"alive".to_vec());
        let (hears, says) = nix::unistd::pipe().unwrap();
        let heard = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            nix::unistd::write(&says, b".").unwrap();
            nix::unistd::write(&says, &WAITS).unwrap();
            // It says nothing more, and is heard of all the same.
            let three = (0..3).map(|_| nix::unistd::read(&theirs, &mut buffer).unwrap()).sum::<usize>();
            drop(says);
            three
        });
        pass_on(&mut world, &hears);
        assert_eq!(heard.join().unwrap(), 3 * b"alive".len());
    }
}
